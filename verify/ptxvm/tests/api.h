/* api: what the tests of the driver API share: checks, a table of tests, a context with the kernels loaded.
 *
 * A test is a function; it runs in a fresh primary context, and a failed check ends it. The program prints one line per
 * test ("ok NAME" or "FAIL NAME: why") and exits with the number of failures.
 */
#ifndef PTXVM_TESTS_API_H
#define PTXVM_TESTS_API_H

#include <cuda.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNELS "verify/ptxvm/tests/api_kernels.ptx"

struct test {
    const char *name;
    void (*run)(void);
};

static jmp_buf failed;
static char why[512];

static inline const char *code_name(CUresult r) {
    const char *s = NULL;
    cuGetErrorName(r, &s);
    return s ? s : "?";
}

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        int at_ = snprintf(why, sizeof why, "line %d: ", __LINE__);                                                    \
        snprintf(why + at_, sizeof why - (size_t)at_, __VA_ARGS__);                                                    \
        longjmp(failed, 1);                                                                                            \
    } while (0)

#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) FAIL("%s", #cond);                                                                                \
    } while (0)

/* The call must answer this code. */
#define EXPECT(code, call)                                                                                             \
    do {                                                                                                               \
        CUresult r_ = (call);                                                                                          \
        if (r_ != (code)) FAIL("%s gave %s, expected %s", #call, code_name(r_), code_name(code));                      \
    } while (0)

#define OK(call) EXPECT(CUDA_SUCCESS, call)

static CUcontext ctx;
static CUmodule kernels;

static inline CUfunction kernel(const char *name) {
    CUfunction f;
    OK(cuModuleGetFunction(&f, kernels, name));
    return f;
}

static inline CUdeviceptr device_ints(const int *from, size_t n) {
    CUdeviceptr p;
    OK(cuMemAlloc(&p, n * sizeof(int)));
    if (from) OK(cuMemcpyHtoD(p, from, n * sizeof(int)));
    return p;
}

static inline void launch1(CUfunction f, unsigned blocks, unsigned threads, CUstream s, void **params) {
    OK(cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, 0, s, params, NULL));
}

static int run_tests(const struct test *tests, size_t n) {
    volatile int failures = 0; /* survives the jump of a failed check */
    if (cuInit(0) != CUDA_SUCCESS) {
        printf("FAIL cuInit\n");
        return 1;
    }
    for (size_t i = 0; i < n; i++) {
        if (setjmp(failed) == 0) {
            OK(cuDevicePrimaryCtxRetain(&ctx, 0));
            OK(cuCtxSetCurrent(ctx));
            OK(cuModuleLoad(&kernels, KERNELS));
            tests[i].run();
            printf("ok %s\n", tests[i].name);
        } else {
            printf("FAIL %s: %s\n", tests[i].name, why);
            failures++;
        }
        fflush(stdout);
        CUcontext top;
        while (cuCtxGetCurrent(&top) == CUDA_SUCCESS && top) cuCtxPopCurrent(&top);
        cuDevicePrimaryCtxReset(0);
        while (cuDevicePrimaryCtxRelease(0) == CUDA_SUCCESS) {
        }
    }
    return failures;
}

#define RUN(tests) run_tests(tests, sizeof(tests) / sizeof *(tests))

#endif
