/* cuda_help: what the tests of the GPU path share. Included after cmocka.h.
 *
 * The PTX machine's libcuda.so.1 must be found by the loader: a test starts itself again with LD_LIBRARY_PATH pointing
 * at it (beside the test, else build/ptxvm) when it has been built. Without it and without a driver, what needs a GPU is
 * skipped, and says so. ThreadSanitizer would misread a library that it was not compiled into.
 */
#ifndef KGEN_CUDA_HELP_H
#define KGEN_CUDA_HELP_H

#include "runtime/dev_cuda.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct cuda *gpu;

static inline int open_gpu(void **state) {
    (void)state;
    struct err e;
    if (cuda_open(0, &gpu, &e)) return 0;
    print_message("[  SKIPPED ] %s; `make ptxvm` builds a driver for machines without a GPU\n", e.msg);
    return 0;
}

static inline int close_gpu(void **state) {
    (void)state;
    cuda_close(gpu);
    return 0;
}

#define NEED_GPU()                                                                                                     \
    if (!gpu) skip()

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        struct err e_ = {0};                                                                                           \
        struct err *e = &e_;                                                                                           \
        if (!(call)) fail_msg(#call ": %s", e_.msg);                                                                   \
    } while (0)

static inline void use_the_machine(char **argv) {
    char path[512];
#ifdef __SANITIZE_THREAD__
    return;
#endif
    if (getenv("KGEN_TEST_CUDA")) return;
    setenv("KGEN_TEST_CUDA", "1", 1);
    const char *slash = strrchr(argv[0], '/');
    snprintf(path, sizeof path, "%.*s/ptxvm", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    char library[600];
    snprintf(library, sizeof library, "%s/libcuda.so.1", path);
    if (access(library, R_OK) != 0) snprintf(path, sizeof path, "build/ptxvm");
    snprintf(library, sizeof library, "%s/libcuda.so.1", path);
    if (access(library, R_OK) != 0) return;
    setenv("LD_LIBRARY_PATH", path, 1);
    execv("/proc/self/exe", argv);
}

#endif
