/* What the machine's own tests share: compiling CUDA C with nvcc at test time, launching, comparing. Linked with the
 * machine's objects, below the driver API. */
#ifndef KGEN_PTXVM_VM_TEST_H
#define KGEN_PTXVM_VM_TEST_H

#include "codegen/base.h"
#include "verify/ptxvm/vm.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct dims {
    uint32_t x, y, z;
};
#define D1(n) ((struct dims){(uint32_t)(n), 1, 1})
#define D2(n, m) ((struct dims){(uint32_t)(n), (uint32_t)(m), 1})

/* Where PTXVM_SNIPPETS names a directory, it keeps the text as TARGET-PROGRAM-NUMBER.ptx, so that ptxas can be shown it. */
static inline void keep_text(const char *text) {
    static int number;
    const char *dir = getenv("PTXVM_SNIPPETS"), *target = strstr(text, ".target ");
    char path[500];
    struct err e;
    if (!dir || !*dir) return;
    target = target ? target + strlen(".target ") : "";
    snprintf(path, sizeof path, "%s/%.*s-%s-%d.ptx", dir, (int)strcspn(target, ",; \n"), target,
             program_invocation_short_name, number++);
    if (!file_write_atomic(path, text, strlen(text), &e)) fail_msg("%s", e.msg);
}

static inline struct vm_module *load_text(const char *text, const char *name) {
    struct vm_module *m;
    char log[1200];
    keep_text(text);
    if (!vm_module_load(text, strlen(text), name, &m, log, sizeof log)) {
        print_message("%s\n", log);
        fail();
    }
    return m;
}

/* Compiles a file beside the tests for one architecture; the PTX lies in $TMPDIR while the test runs. */
static inline struct vm_module *compile(const char *cu, const char *arch) {
    char dir[] = "/tmp/ptxvm-test-XXXXXX", command[1500], ptx[300];
    assert_non_null(mkdtemp(dir));
    snprintf(ptx, sizeof ptx, "%s/%s.ptx", dir, arch);
    snprintf(command, sizeof command, "nvcc -O3 -std=c++17 -ptx -arch=%s -o %s verify/ptxvm/tests/%s", arch, ptx, cu);
    if (system(command)) fail_msg("nvcc failed: %s", command);
    struct buf b = {0};
    struct err e;
    if (!file_read(ptx, &b, &e)) fail_msg("%s", e.msg);
    struct vm_module *m = load_text(b.data, cu);
    buf_free(&b);
    unlink(ptx);
    rmdir(dir);
    return m;
}

static inline struct vm_function *function(struct vm_module *m, const char *name) {
    struct vm_function *f;
    char log[1200];
    int r = vm_module_function(m, name, &f, log, sizeof log);
    if (r) fail_msg("%s: %d %s", name, r, log);
    return f;
}

/* Arguments are 8-byte values; each parameter takes its own size of the low bytes. */
static inline int launch_full(struct vm_module *m, const char *name, struct dims g, struct dims b, uint64_t dynamic,
                              bool cooperative, struct vm_fault *fault, struct vm_counters *c, int n,
                              const uint64_t *args) {
    struct vm_function *f = function(m, name);
    const struct vm_function_info *i = vm_function_info(f);
    unsigned char p[4096] = {0};
    assert_int_equal((int)i->n_params, n);
    for (int k = 0; k < n; k++) memcpy(p + i->params[k].off, &args[k], i->params[k].bytes < 8 ? i->params[k].bytes : 8);
    struct vm_launch_params lp = {{g.x, g.y, g.z}, {b.x, b.y, b.z}, {0, 0, 0}, dynamic, p,
                                  sizeof p,        cooperative,     false,     NULL};
    struct vm_fault own;
    return vm_launch(f, &lp, fault ? fault : &own, c);
}
#define LAUNCH(m, name, g, b, dyn, ...)                                                                                \
    do {                                                                                                               \
        uint64_t args_[] = {__VA_ARGS__};                                                                              \
        struct vm_fault fault_;                                                                                        \
        int r_ = launch_full(m, name, g, b, dyn, false, &fault_, NULL, (int)(sizeof args_ / 8), args_);                \
        if (r_) fail_msg("%s: %d %s", name, r_, fault_.text);                                                          \
    } while (0)

static inline uint64_t device(uint64_t bytes, const void *from) {
    uint64_t a;
    assert_int_equal(vm_mem_alloc(bytes, VM_MEM_DEVICE, "test", &a), 0);
    if (from) assert_int_equal(vm_mem_copy(a, (uint64_t)(uintptr_t)from, bytes), 0);
    return a;
}
static inline void fetch(void *to, uint64_t from, uint64_t bytes) {
    assert_int_equal(vm_mem_copy((uint64_t)(uintptr_t)to, from, bytes), 0);
}

/* Does this line of a text, counted from 1, end in the mark of a planted defect? */
static inline bool marked(const char *text, unsigned line) {
    while (--line && (text = strchr(text, '\n'))) text++;
    const char *mark = text ? strstr(text, "//!") : NULL;
    return mark && mark < text + strcspn(text, "\n");
}

/* Fails with all of what was found wrong. */
static inline void expect_none(struct buf *wrong) {
    if (wrong->len) {
        print_message("%s", wrong->data);
        fail();
    }
    buf_free(wrong);
}

static inline uint32_t rnd(uint32_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 17;
    *s ^= *s << 5;
    return *s;
}
static inline float rnd_f(uint32_t *s) {
    return (float)(int32_t)(rnd(s) & 0xffff) / 32768.0f - 1.0f;
}
static inline uint64_t f_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

#endif
