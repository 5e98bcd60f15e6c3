/* parity_gpu: a launch of the parity harness on a GPU. */
#ifndef KGEN_PARITY_GPU_H
#define KGEN_PARITY_GPU_H

#include "runtime/dev_cuda.h"
#include "verify/parity_case.h"

/* Runs a launch with copies of args ([k->n_args], in the kernel's order) and of the workspace in device memory, and
 * copies all of them back: what the kernel wrote to an input shows too. */
bool parity_gpu_launch(struct cuda *c, const struct cuda_kernel *ck, const struct kernel *k,
                       const struct guard *const *args, const struct guard *ws, const int64_t *sizes,
                       enum parity_cut cut, struct err *e);

#endif
