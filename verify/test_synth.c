/* test_synth: synthetic models against the reference decoders: every format's weights have the mean and the variance
 * that were promised, the bytes depend on the seed alone, and what is opened is what is saved. */
#include <setjmp.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "runtime/gguf.h"
#include "runtime/synth.h"
#include "verify/ref.h"

/* The reference's formats as a type table: nothing of what is tested here says how large a block is. */
static const struct gguf_type *ref_types(uint32_t type_id) {
    static struct gguf_type types[64];
    static struct ref_format formats[64];
    struct ref_format f;
    for (size_t i = 0; ref_format_at(i, &f); i++)
        if (f.ggml_id == type_id && type_id < 64) {
            formats[type_id] = f;
            types[type_id] = (struct gguf_type){formats[type_id].name, f.block_elems, f.block_bytes};
            return &types[type_id];
        }
    return NULL;
}

static struct gguf *open_spec(const char *spec, uint64_t seed, struct synth *s) {
    struct err e = {0};
    struct gguf *g = NULL;
    if (!synth_open(spec, seed, s, &e) || !gguf_open(s->path, ref_types, &g, &e)) fail_msg("%s: %s", spec, e.msg);
    return g;
}

static const char *type_of(const struct gguf *g, const char *name) {
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    if (!t) fail_msg("no tensor %s", name);
    return t->type->name;
}

/* Rows of a tensor, decoded by the reference: mean and deviation in units of 1/sqrt(columns). */
static void check_weights(const struct gguf *g, const char *name, double want) {
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    assert_non_null(t);
    struct ref_format f;
    assert_true(ref_format_find(t->type->name, &f));
    size_t n = t->ne[0] * 64;
    double *x = malloc(n * sizeof *x), sum = 0, square = 0;
    ref_decode(&f, t->data, n, x);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) fail_msg("%s: element %zu is not finite", name, i);
        sum += x[i];
        square += x[i] * x[i];
    }
    free(x);
    double mean = sum / (double)n / want, deviation = sqrt(square / (double)n) / want;
    if (fabs(mean) > 0.05 || fabs(deviation - 1) > 0.06)
        fail_msg("%s in %s: expected mean 0 and deviation 1, found %.3f and %.3f", name, f.name, mean, deviation);
}

static void weights_have_unit_scale(void **state) {
    (void)state;
    static const char *const types[] = {"f16",  "q4_0", "q4_1", "q5_0", "q5_1", "q8_0",
                                        "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char spec[64];
        struct synth s;
        snprintf(spec, sizeof spec, "tinyllama-1.1b-tiny:%s", types[i]);
        struct gguf *g = open_spec(spec, 1, &s);
        assert_string_equal(type_of(g, "blk.1.ffn_down.weight"), types[i]);
        check_weights(g, "blk.0.attn_q.weight", 1 / sqrt(2048));
        check_weights(g, "blk.1.ffn_down.weight", 1 / sqrt(5632));
        check_weights(g, "token_embd.weight", 1);
        gguf_close(g);
        synth_close(&s);
    }
}

/* What llama.cpp's quantizer chooses, layer by layer; rows of 896 are not whole blocks of 256. */
static void mixes_are_those_of_llama_cpp(void **state) {
    (void)state;
    struct synth s;
    struct gguf *g = open_spec("tinyllama-1.1b:q4_k_m", 1, &s);
    static const int more[] = {0, 1, 4, 7, 10, 13, 16, 19, 20, 21};
    for (int l = 0; l < 22; l++) {
        char name[64];
        const char *want = "q4_k";
        for (size_t i = 0; i < sizeof more / sizeof *more; i++)
            if (more[i] == l) want = "q6_k";
        snprintf(name, sizeof name, "blk.%d.attn_v.weight", l);
        assert_string_equal(type_of(g, name), want);
        snprintf(name, sizeof name, "blk.%d.ffn_down.weight", l);
        assert_string_equal(type_of(g, name), want);
        snprintf(name, sizeof name, "blk.%d.ffn_up.weight", l);
        assert_string_equal(type_of(g, name), "q4_k");
    }
    assert_string_equal(type_of(g, "output.weight"), "q6_k");
    assert_string_equal(type_of(g, "token_embd.weight"), "q4_k");
    gguf_close(g);
    synth_close(&s);

    g = open_spec("qwen2-0.5b-tiny:q4_k_m", 1, &s);
    assert_string_equal(type_of(g, "blk.0.attn_q.weight"), "q5_0");
    assert_string_equal(type_of(g, "blk.1.attn_v.weight"), "q8_0");
    assert_string_equal(type_of(g, "blk.0.ffn_down.weight"), "q4_k");
    assert_string_equal(type_of(g, "token_embd.weight"), "q8_0");
    assert_null(gguf_find_tensor(g, "output.weight"));
    gguf_close(g);
    synth_close(&s);
}

static void bytes_depend_on_the_seed_alone(void **state) {
    (void)state;
    struct synth a, b, c;
    struct err e;
    struct buf x = {0}, y = {0}, z = {0};
    assert_true(synth_open("qwen2-0.5b-tiny:q5_k_m", 7, &a, &e));
    assert_true(synth_open("qwen2-0.5b-tiny:q5_k_m", 7, &b, &e));
    assert_true(synth_open("qwen2-0.5b-tiny:q5_k_m", 8, &c, &e));
    char path[] = "/tmp/kgen_synth_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(synth_save(&a, path, &e));
    assert_true(file_read(path, &x, &e));
    assert_true(synth_save(&b, path, &e));
    assert_true(file_read(path, &y, &e));
    assert_true(synth_save(&c, path, &e));
    assert_true(file_read(path, &z, &e));
    unlink(path);
    assert_int_equal(x.len, a.bytes);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    assert_int_equal(x.len, z.len);
    assert_true(memcmp(x.data, z.data, x.len) != 0);
    buf_free(&x);
    buf_free(&y);
    buf_free(&z);
    synth_close(&a);
    synth_close(&b);
    synth_close(&c);
}

static void unknown_specifications_are_refused(void **state) {
    (void)state;
    static const char *const specs[] = {"",
                                        ":",
                                        "tinyllama-1.1b",
                                        "tinyllama-1.1b:",
                                        ":q4_0",
                                        "tinyllama:q4_0",
                                        "tinyllama-1.1b:q9",
                                        "-tiny:q4_0",
                                        "llama-7b-tiny-tiny:q4_0"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct synth s;
        struct err e = {0};
        if (synth_open(specs[i], 1, &s, &e)) fail_msg("'%s' was taken", specs[i]);
        assert_int_equal(e.code, ERR_USAGE);
        assert_non_null(strstr(e.msg, "tinyllama-1.1b"));
        assert_non_null(strstr(e.msg, "q4_k_m"));
        synth_close(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_have_unit_scale),
        cmocka_unit_test(mixes_are_those_of_llama_cpp),
        cmocka_unit_test(bytes_depend_on_the_seed_alone),
        cmocka_unit_test(unknown_specifications_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
