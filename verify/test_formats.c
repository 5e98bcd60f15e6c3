/* Properties of every format of dsl/formats, with numbers on which float32 is exact, so that equality is asked for:
 * gathering rows from the packed copy decodes the file's blocks, and the integer dot is the sum over decoded values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "verify/parity_case.h"

enum { ROWS = 33, TOK = 3, MAX_WIDTH = 256 };

static struct dsl *dsl;
static struct ref_rng rng;

static int open_dsl(void **state) {
    (void)state;
    struct err e;
    rng = (struct ref_rng){.seed = (uint64_t)time(NULL) / 86400};
    return dsl_open(&dsl, &e) ? 0 : -1;
}
static int close_dsl(void **state) {
    (void)state;
    dsl_close(dsl);
    return 0;
}

/* ROWS rows of random codes whose scales are ±1 (float formats: small whole numbers). */
static void exact_blocks(const struct ref_format *f, size_t n, uint8_t *blocks) {
    ref_random_blocks(f, &rng, n, 1, blocks);
    for (size_t b = 0; b < n / f->block_elems; b++) {
        uint8_t *p = blocks + b * f->block_bytes;
        for (int s = 0; s < 3 && f->scales[s].per; s++) {
            uint16_t one = ref_f16_encode(ref_rng_below(&rng, 2) ? 1 : -1);
            memcpy(p + f->scales[s].off, &one, 2);
        }
        if (f->scales[0].per) continue;
        float x = (float)ref_rng_below(&rng, 100) - 50;
        uint16_t half = strcmp(f->name, "bf16") == 0 ? ref_bf16_encode(x) : ref_f16_encode(x);
        if (f->block_bytes == 4)
            memcpy(p, &x, 4);
        else
            memcpy(p, &half, 2);
    }
}

static bool compile(const char *fmt, const json_t *spec, const char *target, struct kernel *k, struct kernel *pack,
                    struct target *t) {
    struct err e = {0};
    struct compiler c = {.dsl = dsl, .n_threads = 1};
    const json_t *none = NULL;
    if (!target_find(target, t, &e)) fail_msg("%s", e.msg);
    if (!target_runs_here(t)) return false;
    c.target = *t;
    if (!compile_kernels(&c, &spec, NULL, 1, k, &e) || !compile_kernels(&c, &none, &fmt, 1, pack, &e))
        fail_msg("%s, %s: %s", fmt, target, e.msg);
    return true;
}

/* A case of weights [ROWS][width] beside one input and the output y, expected exactly. */
static void run_exactly(const char *fmt, const json_t *spec, const struct ref_format *f, size_t width,
                        const uint8_t *blocks, struct parity_arg in, const float *want, size_t y_width, size_t n_tok) {
    static const char *const targets[] = {"x86-64", "x86-64-v3", "x86-64-v4", "native"};
    struct parity_case c = {.n_args = 3, .n_tok = (int64_t)n_tok};
    c.args[0] = in;
    c.args[1] = (struct parity_arg){.name = "w",
                                    .role = PARITY_WEIGHT,
                                    .data = blocks,
                                    .fmt = f,
                                    .rows = ROWS,
                                    .width = width,
                                    .bytes = ref_format_bytes(f, ROWS * width)};
    c.args[2] = (struct parity_arg){.name = "y",
                                    .role = PARITY_OUT,
                                    .exact = want,
                                    .elem_bytes = 4,
                                    .width = y_width,
                                    .tok_bytes = y_width * 4,
                                    .bytes = n_tok * y_width * 4};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        struct kernel k, pack;
        struct target t;
        struct err e = {0};
        if (!compile(fmt, spec, targets[i], &k, &pack, &t)) continue;
        struct guard packed[PARITY_MAX_ARGS] = {0};
        struct parity_out out = {0};
        struct parity_exec x = {.k = &k};
        double max_abs = 0, max_of_tol = 0;
        bool ok = parity_pack(dsl, &pack, &t, &c.args[1], &rng, &packed[1], &e) &&
                  parity_launch(&x, &c, packed, 0, c.n_tok, CUT_WHOLE, &out, &e) &&
                  parity_compare(&c, &out, &max_abs, &max_of_tol, &e);
        parity_out_free(&out);
        guard_free(&packed[1]);
        kernel_free(&k);
        kernel_free(&pack);
        if (!ok) fail_msg("%s, %s: %s", fmt, targets[i], e.msg);
    }
}

typedef void format_property(const char *fmt, const struct ref_format *f, size_t width);

static void for_each_format(format_property *property) {
    json_t *list = NULL, *item;
    struct err e;
    size_t i, n = 0;
    if (!dsl_call(dsl, "formats", NULL, &list, &e)) fail_msg("%s", e.msg);
    json_array_foreach(list, i, item) {
        struct ref_format f;
        const char *name = json_string_value(json_object_get(item, "name"));
        if (json_is_true(json_object_get(item, "activation"))) continue;
        if (!ref_format_find(name, &f)) fail_msg("%s has no reference", name);
        property(name, &f, f.block_elems > 64 ? f.block_elems : 64);
        n++;
    }
    json_decref(list);
    assert_true(n >= 5);
}

static void gathers_exactly(const char *fmt, const struct ref_format *f, size_t width) {
    static uint8_t blocks[ROWS * MAX_WIDTH * 4];
    static double decoded[ROWS * MAX_WIDTH];
    static float want[ROWS * MAX_WIDTH];
    int32_t ids[ROWS];
    exact_blocks(f, ROWS * width, blocks);
    ref_decode(f, blocks, ROWS * width, decoded);
    for (int32_t t = 0; t < ROWS; t++) {
        ids[t] = (t * 7 + 5) % ROWS; /* every row once */
        for (size_t i = 0; i < width; i++) want[(size_t)t * width + i] = (float)decoded[(size_t)ids[t] * width + i];
    }
    json_t *spec = json_pack("{s:s, s:{s:s}, s:{s:i, s:i}, s:{s:i}}", "kernel", "embed", "formats", "W", fmt, "sizes",
                             "vocab", ROWS, "d", (int)width, "params", "scale", 1);
    struct parity_arg in = {.name = "ids", .role = PARITY_IN, .data = ids, .bytes = sizeof ids, .tok_bytes = 4};
    run_exactly(fmt, spec, f, width, blocks, in, want, width, ROWS);
    json_decref(spec);
}

/* Activations that 8-bit codes hold exactly: every block of 32 has a ±127 and else −2 … 2, so the scale is 1. All sums
 * stay below 2^24. */
static void dots_exactly(const char *fmt, const struct ref_format *f, size_t width) {
    static uint8_t blocks[ROWS * MAX_WIDTH * 4];
    static double decoded[ROWS * MAX_WIDTH];
    float x[TOK * MAX_WIDTH], want[TOK * ROWS];
    exact_blocks(f, ROWS * width, blocks);
    ref_decode(f, blocks, ROWS * width, decoded);
    for (size_t i = 0; i < TOK * width; i++) x[i] = (float)ref_rng_below(&rng, 5) - 2;
    for (size_t b = 0; b < TOK * width; b += 32) x[b + ref_rng_below(&rng, 32)] = ref_rng_below(&rng, 2) ? 127 : -127;
    for (size_t t = 0; t < TOK; t++)
        for (size_t r = 0; r < ROWS; r++) {
            double sum = 0;
            for (size_t k = 0; k < width; k++) sum += decoded[r * width + k] * x[t * width + k];
            want[t * ROWS + r] = (float)sum;
            assert_true(want[t * ROWS + r] == sum);
        }
    json_t *spec = json_pack("{s:s, s:{s:s}, s:{s:i, s:i}, s:{s:s}}", "kernel", "linear", "formats", "W", fmt, "sizes",
                             "n", ROWS, "d", (int)width, "params", "act", "q8");
    struct parity_arg in = {
        .name = "x", .role = PARITY_IN, .data = x, .bytes = TOK * width * 4, .tok_bytes = width * 4};
    run_exactly(fmt, spec, f, width, blocks, in, want, ROWS, TOK);
    json_decref(spec);
}

static void rows_of_the_packed_copy_decode_the_file(void **state) {
    (void)state;
    for_each_format(gathers_exactly);
}

static void integer_dot_is_the_sum_over_decoded_values(void **state) {
    (void)state;
    for_each_format(dots_exactly);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_the_packed_copy_decode_the_file),
        cmocka_unit_test(integer_dot_is_the_sum_over_decoded_values),
    };
    return cmocka_run_group_tests_name("formats", tests, open_dsl, close_dsl);
}
