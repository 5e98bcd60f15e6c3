/* The flat IR of every kernel at one small shape, compared exactly with verify/golden/NAME.CLASS.ir: what a change to
 * the language or its lowering does to kernels is read in the difference. UPDATE=1 rewrites the files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "verify/parity_case.h"

/* x86-64-v4 for all; for products v3, whose registers and instructions differ most, and AMX, whose tokens go by tiles.
 */
static const struct golden {
    const char *kernel, *target, *fmt[3];
    const char *act; /* attention's: prod */
    const char *label;
} goldens[] = {
    {"embed", "x86-64-v4", {"q4_1"}, NULL, "embed.q4_1"},
    {"rmsnorm", "x86-64-v4", {0}, NULL, "rmsnorm"},
    {"linear", "x86-64-v4", {"q4_1"}, "q8", "linear.q4_1.q8"},
    {"linear", "x86-64-v4", {"q8_0"}, "q8", "linear.q8_0.q8"},
    {"linear", "x86-64-v4", {"q4_k"}, "q8", "linear.q4_k.q8"},
    {"linear", "x86-64-v4", {"q6_k"}, "q8", "linear.q6_k.q8"},
    {"linear", "x86-64-v4", {"q4_1"}, "f32", "linear.q4_1.f32"},
    {"linear", "x86-64-v4", {"f16"}, "f32", "linear.f16.f32"},
    {"linear", "x86-64-v3", {"q4_1"}, "q8", "linear.q4_1.q8"},
    {"linear", "x86-64-v4-amx", {"q4_k"}, "q8", "linear.q4_k.q8"},
    {"linear", "x86-64-v4-amx", {"q8_0"}, "q8", "linear.q8_0.q8"},
    {"add", "x86-64-v4", {0}, NULL, "add"},
    {"add_bias", "x86-64-v4", {0}, NULL, "add_bias"},
    {"silu_mul", "x86-64-v4", {0}, NULL, "silu_mul"},
    {"gelu_mul", "x86-64-v4", {0}, NULL, "gelu_mul"},
    {"head_norm", "x86-64-v4", {0}, NULL, "head_norm"},
    {"rope", "x86-64-v4", {0}, NULL, "rope"},
    {"kv_append", "x86-64-v4", {"f16"}, NULL, "kv_append.f16"},
    {"attention", "x86-64-v4", {"f16"}, NULL, "attention.f16"},
    {"attention", "x86-64-v3", {"f32"}, NULL, "attention.f32"},
    {"attention", "x86-64-v4", {"bf16"}, "bf16", "attention.bf16"},
    {"attention_scores", "x86-64-v4", {"bf16"}, "bf16", "attention_scores.bf16"},
    {"softmax", "x86-64-v4", {0}, NULL, "softmax"},
    {"attention_values", "x86-64-v4", {"bf16"}, "bf16", "attention_values.bf16"},
    {"argmax", "x86-64-v4", {0}, NULL, "argmax"},
    {"norm_qkv", "x86-64-v4", {"q4_1", "q4_1", "q8_0"}, "q8", "norm_qkv.q8"},
    {"swiglu_ffn", "x86-64-v4", {"q4_1", "q4_1", "q4_1"}, "q8", "swiglu_ffn.q8"},
};

static const struct parity_kernel *kernel_of(const char *name) {
    const struct parity_kernel *k = parity_kernels;
    while (k->name && strcmp(k->name, name) != 0) k++;
    return k->name ? k : NULL;
}

/* The line at which two texts part. */
static size_t first_difference(const char *a, const char *b, char la[200], char lb[200]) {
    for (size_t line = 1;; line++) {
        size_t na = strcspn(a, "\n"), nb = strcspn(b, "\n");
        if (na != nb || memcmp(a, b, na) != 0 || (!a[na] && !b[nb]) || !a[na] != !b[nb]) {
            snprintf(la, 200, "%.*s", (int)na, a);
            snprintf(lb, 200, "%.*s", (int)nb, b);
            return line;
        }
        a += na + 1;
        b += nb + 1;
    }
}

static void ir_is_as_it_was(void **state) {
    const struct golden *g = *state;
    const struct parity_kernel *k = kernel_of(g->kernel);
    assert_non_null(k);
    struct parity_shape base = {.act = g->act}, list[PARITY_MAX_SHAPES];
    unsigned block = 1;
    for (int i = 0; i < 3 && g->fmt[i]; i++) {
        struct ref_format f;
        base.fmt[i] = g->fmt[i];
        if (ref_format_find(g->fmt[i], &f) && f.block_elems > block) block = f.block_elems;
    }
    const struct parity_shape *shape = list;
    k->shapes(&base, block, true, list);
    while (!k->act && g->act && (!shape->prod || strcmp(shape->prod, g->act) != 0)) shape++;
    struct err e = {0};
    struct dsl *d;
    struct target t;
    json_t *spec = k->spec(shape), *meta = NULL;
    if (!dsl_open(&d, &e) || !target_find(g->target, &t, &e) || !compile_lower(d, spec, &t, false, &meta, &e))
        fail_msg("%s", e.msg);
    const char *text = json_string_value(json_object_get(meta, "ir"));
    char path[256];
    snprintf(path, sizeof path, "verify/golden/%s.%s.ir", g->label, g->target);
    const char *update = getenv("UPDATE");
    struct buf old = {0};
    if (update && strcmp(update, "1") == 0) {
        if (!file_write_atomic(path, text, strlen(text), &e)) fail_msg("%s", e.msg);
    } else if (!file_read(path, &old, &e)) {
        fail_msg("%s; UPDATE=1 writes it", e.msg);
    } else if (strcmp(old.data, text) != 0) {
        char was[200], is[200];
        size_t line = first_difference(old.data, text, was, is);
        fail_msg(
            "%s:%zu\n  was: %s\n  is:  %s\nUPDATE=1 build/test_golden_ir accepts it; then read git diff verify/golden",
            path, line, was, is);
    }
    buf_free(&old);
    json_decref(meta);
    json_decref(spec);
    dsl_close(d);
}

int main(void) {
    enum { N = sizeof goldens / sizeof *goldens };
    static struct CMUnitTest tests[N];
    static char names[N][64];
    for (size_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "%s.%s", goldens[i].label, goldens[i].target);
        tests[i] =
            (struct CMUnitTest){.name = names[i], .test_func = ir_is_as_it_was, .initial_state = (void *)&goldens[i]};
    }
    return _cmocka_run_group_tests("golden IR", tests, N, NULL, NULL);
}
