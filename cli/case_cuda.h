/* case_cuda: a kernel_case on a GPU: its arrays there, in rotation, and how long launches take. */
#ifndef KGEN_CLI_CASE_CUDA_H
#define KGEN_CLI_CASE_CUDA_H

#include "cli/kernel_case.h"
#include "runtime/dev_cuda.h"

struct case_cuda {
    struct cuda *gpu;
    struct cuda_kernel *loaded;
    const struct kernel *kernel;
    const int64_t *sizes;
    cuda_addr memory[CASE_MAX_ARRAYS]; /* of array i, its copies one after another */
    cuda_addr ws, dims;
    cuda_addr *args; /* [n_copies][n_args] */
    size_t n_copies;
};

/* Uploads the arrays of c, which must outlive the case, for kernel k, compiled for this GPU. What is read lies there
 * several times, together larger than any cache. */
bool case_cuda_open(struct case_cuda *g, struct cuda *gpu, const struct kernel_case *c, const struct kernel *k,
                    struct err *e);
void case_cuda_close(struct case_cuda *g); /* accepts a zeroed or half-open one */

/* Milliseconds a launch, `repeats` times: launches in one graph, between two events. */
bool case_cuda_measure(struct case_cuda *g, int64_t repeats, double *ms, struct err *e);

#endif
