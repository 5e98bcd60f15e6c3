/* test_safety: norms whose weights make f16 keys unsafe (runtime/safety.h). A model whose K-norm is 2^n times larger and
 * its Q-norm 2^n times smaller is the same function, in float32 to the last bit: that is the reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/safety.h"
#include "runtime/session.h"
#include "verify/cuda_help.h"

#define MODEL "verify/data/families/qwen3.gguf"
#define WITH_BIASES "verify/data/families/qwen2.gguf"

/* A copy of a model, attn_k… and attn_q… of one layer scaled. The caller unlinks it. */
static void scaled_of(const char *model, const char *what, char path[64], int layer, float k, float q) {
    struct buf file = {0};
    struct dsl *d;
    struct gguf *g;
    gguf_type_fn types;
    OK(file_read(model, &file, e) && dsl_open(&d, e) && (types = model_types(d, e)) && gguf_open(model, types, &g, e));
    const float by[] = {k, q};
    const char *const which[] = {"k", "q"};
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_%s%s", layer, which[i], what);
        const struct gguf_tensor *t = gguf_find_tensor(g, name);
        if (!t) fail_msg("no %s", name);
        assert_string_equal(t->type->name, "f32");
        for (uint64_t n = 0; n < t->n_elems; n++) {
            float x;
            memcpy(&x, file.data + t->off + 4 * n, 4);
            x *= by[i];
            memcpy(file.data + t->off + 4 * n, &x, 4);
        }
    }
    gguf_close(g);
    dsl_close(d);
    strcpy(path, "/tmp/kgen-safety-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && fd_write(fd, file.data, file.len));
    close(fd);
    buf_free(&file);
}

static void scaled(char path[64], int layer, float k, float q) {
    scaled_of(MODEL, "_norm.weight", path, layer, k, q);
}

enum { N_TOKENS = 12 };

struct result {
    float *rows; /* [N_TOKENS][n_vocab] */
    int64_t n_vocab;
    char kv[8], why[256];
};

static bool keep(void *ctx, int64_t pos, const float *row, struct err *e) {
    (void)e;
    struct result *r = ctx;
    memcpy(r->rows + pos * r->n_vocab, row, (size_t)r->n_vocab * sizeof *row);
    return true;
}

static struct result evaluate(const char *path, const char *act, const char *kv, bool cuda) {
    static const int32_t ids[N_TOKENS] = {1, 17, 5, 9, 33, 2, 8, 21, 40, 3, 11, 6};
    struct model_options o = {.path = path, .act = act, .kv = kv, .cuda = cuda, .n_threads = 1};
    struct model *m;
    struct session *s;
    OK(model_open(&o, &m, e) && session_open(m, 32, &s, e));
    struct result r = {.rows = mem_new(N_TOKENS * (size_t)m->n_vocab * sizeof(float)), .n_vocab = m->n_vocab};
    OK(session_eval(s, ids, N_TOKENS, N_TOKENS, keep, &r, e));
    snprintf(r.kv, sizeof r.kv, "%s", m->kv);
    strcpy(r.why, m->why_f32_keys);
    session_close(s);
    model_close(m);
    return r;
}

static size_t n_bytes(const struct result *r) { return N_TOKENS * (size_t)r->n_vocab * sizeof *r->rows; }

static bool all_finite(const struct result *r) {
    for (int64_t i = 0; i < N_TOKENS * r->n_vocab; i++)
        if (!isfinite(r->rows[i])) return false;
    return true;
}

/* What ordinary keys are kept in on this machine. */
static const char *usual(void) {
    struct target t;
    OK(target_find("native", &t, e));
    return t.features & FEAT_BF16 ? "bf16" : "f16";
}

static void ordinary_norms_keep_16_bits(void **state) {
    (void)state;
    struct result r = evaluate(MODEL, "q8", NULL, false);
    assert_string_equal(r.kv, usual());
    assert_string_equal(r.why, "");
    mem_free(r.rows);
}

/* Too large, too small: by itself the cache is float32, and nothing of the result changes. With f16, asked for, it does:
 * too large is no number at all. */
static void extreme_norms_fall_back(bool cuda) {
    struct result want = evaluate(MODEL, "q8", "f32", cuda);
    for (int i = 0; i < 2; i++) {
        char path[64];
        scaled(path, 0, i ? 0x1p-18F : 0x1p14F, i ? 0x1p18F : 0x1p-14F);
        struct result got = evaluate(path, "q8", NULL, cuda), obeyed = evaluate(path, "q8", "f16", cuda);
        assert_string_equal(got.kv, "f32");
        assert_non_null(strstr(got.why, i ? "layer 0's K-norm has weights of" : "layer 0's K-norm has weights up to"));
        assert_memory_equal(got.rows, want.rows, n_bytes(&want));
        assert_string_equal(obeyed.kv, "f16");
        assert_string_equal(obeyed.why, "");
        assert_true(i ? memcmp(obeyed.rows, want.rows, n_bytes(&want)) != 0 : !all_finite(&obeyed));
        unlink(path);
        mem_free(got.rows);
        mem_free(obeyed.rows);
    }
    mem_free(want.rows);
}

static void extreme_norms_fall_back_here(void **state) {
    (void)state;
    extreme_norms_fall_back(false);
}

static void extreme_norms_fall_back_on_a_gpu(void **state) {
    (void)state;
    NEED_GPU();
    extreme_norms_fall_back(true);
}

/* Both norms large: scores of hundreds, whose rounding in f16 moves likelihoods. */
static void large_scores_fall_back(void **state) {
    (void)state;
    char path[64];
    scaled(path, 0, 16, 16);
    struct result exact = evaluate(path, "f32", NULL, false), got = evaluate(path, "q8", NULL, false);
    assert_string_equal(exact.kv, "f32");
    assert_string_equal(exact.why, ""); /* nothing fell back: float32 was asked for */
    assert_string_equal(got.kv, "f32");
    assert_non_null(strstr(got.why, "norms of queries and keys multiply to"));
    unlink(path);
    mem_free(exact.rows);
    mem_free(got.rows);
}

/* Scores and biases whose rounding in BF16 would move likelihoods, and in f16 does not: f16 on any machine. */
static void larger_scores_and_biases_keep_f16(void **state) {
    (void)state;
    for (int biases = 0; biases < 2; biases++) {
        char path[64];
        if (biases)
            scaled_of(WITH_BIASES, ".bias", path, 0, 16, 16);
        else
            scaled(path, 0, 4, 4);
        struct result got = evaluate(path, "q8", NULL, false);
        assert_string_equal(got.kv, "f16");
        assert_string_equal(got.why, "");
        unlink(path);
        mem_free(got.rows);
    }
    struct result ordinary = evaluate(WITH_BIASES, "q8", NULL, false);
    assert_string_equal(ordinary.kv, usual());
    mem_free(ordinary.rows);
}

/* With float32 activations products are float32's whatever the cache holds. */
static void exact_activations_have_exact_products(void **state) {
    (void)state;
    struct dsl *d;
    struct gguf *g;
    struct target t;
    gguf_type_fn types;
    static const struct {
        const char *act, *kv, *target, *prod;
    } cases[] = {{"q8", "bf16", "x86-64-v4-bf16", "\"bf16\""},
                 {"f32", "bf16", "x86-64-v4-bf16", "\"f32\""},
                 {"q8", "f16", "x86-64-v4-bf16", "\"f32\""},
                 {"q8", "f32", "x86-64-v4-bf16", "\"f32\""},
                 {"q8", "bf16", "x86-64-v4", "\"f32\""}};
    OK(dsl_open(&d, e) && (types = model_types(d, e)) && gguf_open(MODEL, types, &g, e));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *plan;
        OK(target_find(cases[i].target, &t, e) && model_plan(d, g, cases[i].act, cases[i].kv, true, &t, &plan, e));
        char *text = json_dumps(plan, JSON_COMPACT), want[32];
        snprintf(want, sizeof want, "\"prod\":%s", cases[i].prod);
        const char *found = strstr(text, "\"prod\":");
        assert_non_null(found);
        assert_int_equal(strncmp(found, want, strlen(want)), 0);
        free(text);
        json_decref(plan);
    }
    gguf_close(g);
    dsl_close(d);
}

int main(int argc, char **argv) {
    (void)argc;
    use_the_machine(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ordinary_norms_keep_16_bits),           cmocka_unit_test(larger_scores_and_biases_keep_f16),
        cmocka_unit_test(exact_activations_have_exact_products), cmocka_unit_test(extreme_norms_fall_back_here),
        cmocka_unit_test(extreme_norms_fall_back_on_a_gpu),      cmocka_unit_test(large_scores_fall_back),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
