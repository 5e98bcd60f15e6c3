/* Model families: small models of random weights, made by verify/data/families/make.py, run exactly as PyTorch does in
 * float32: the likelihood of every next token within 1e-3 nats and the largest logits within 0.01, whatever the batch,
 * fused or not. And files that are wrong: an error that names what is wrong, within a second.
 *
 * test_families DIR checks the models in DIR instead (NAME.gguf beside NAME.json, as ../shared/tools/tiny_models.py
 * writes the latter). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/session.h"

#define NLL_TOLERANCE 1e-3
#define LOGIT_TOLERANCE 0.01
#define FUSION_TOLERANCE 1e-4
/* Activations rounded to 8 bits: the mean of the likelihoods moves by this much at most. Random weights are far more
 * sensitive than trained ones. */
#define Q8_TOLERANCE 0.2

enum { MAX_TOKENS = 640 };

static struct model *open_model(const char *path, const char *act, bool no_fuse) {
    struct model *m;
    struct err e;
    struct model_options o = {.path = path, .act = act, .no_fuse = no_fuse, .n_threads = no_fuse ? 3 : 2};
    if (!model_open(&o, &m, &e)) fail_msg("%s", e.msg);
    return m;
}

/* Where a run's logits go. [tokens][vocab] */
struct logits {
    float *rows;
    int64_t n_vocab, n;
};

static bool keep(void *ctx, int64_t pos, const float *row, struct err *e) {
    (void)e;
    struct logits *l = ctx;
    assert_int_equal(pos, l->n);
    memcpy(l->rows + l->n_vocab * l->n++, row, (size_t)l->n_vocab * sizeof *row);
    return true;
}

/* Evaluates ids in calls of at most `step` tokens. */
static void evaluate(struct session *s, const int32_t *ids, size_t n, size_t step, struct logits *out) {
    struct err e;
    session_rewind(s, 0);
    out->n = 0;
    for (size_t at = 0; at < n; at += step) {
        size_t count = n - at < step ? n - at : step;
        if (!session_eval(s, ids + at, count, count, keep, out, &e)) fail_msg("%s", e.msg);
    }
    assert_int_equal(out->n, n);
}

/* -ln p(id) under a row of logits, in nats. */
static double nll(const float *row, int64_t n, int32_t id) {
    double max = row[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        if (row[i] > max) max = row[i];
    for (int64_t i = 0; i < n; i++) sum += exp(row[i] - max);
    return max + log(sum) - row[id];
}

static void compare_with_golden(const char *what, const json_t *c, const int32_t *ids, const struct logits *l) {
    const json_t *expected = json_object_get(c, "next_token_nll"), *top = json_object_get(c, "last_top20");
    assert_int_equal(json_array_size(expected), l->n - 1);
    for (int64_t i = 0; i + 1 < l->n; i++) {
        double want = json_number_value(json_array_get(expected, (size_t)i));
        double found = nll(l->rows + i * l->n_vocab, l->n_vocab, ids[i + 1]);
        if (!(fabs(found - want) <= NLL_TOLERANCE))
            fail_msg("%s, token %lld of %lld: %.6f nats, expected %.6f", what, (long long)i, (long long)l->n, found, want);
    }
    assert_true(json_array_size(top) > 0);
    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *pair = json_array_get(top, i);
        int64_t id = json_integer_value(json_array_get(pair, 0));
        double want = json_number_value(json_array_get(pair, 1)), found = l->rows[(l->n - 1) * l->n_vocab + id];
        if (!(fabs(found - want) <= LOGIT_TOLERANCE))
            fail_msg("%s, logit of %lld after %lld tokens: %.6f, expected %.6f", what, (long long)id, (long long)l->n, found,
                     want);
    }
}

static double max_difference(const struct logits *a, const struct logits *b) {
    double max = 0;
    for (int64_t i = 0; i < a->n * a->n_vocab; i++) {
        double d = fabs((double)a->rows[i] - b->rows[i]);
        if (!(d <= max)) max = d; /* NaN too */
    }
    return max;
}

static double mean_nll(const struct logits *l, const int32_t *ids) {
    double sum = 0;
    for (int64_t i = 0; i + 1 < l->n; i++) sum += nll(l->rows + i * l->n_vocab, l->n_vocab, ids[i + 1]);
    return sum / (double)(l->n - 1);
}

static struct logits logits_new(const struct model *m) {
    return (struct logits){.rows = mem_new(MAX_TOKENS * (size_t)m->n_vocab * sizeof(float)), .n_vocab = m->n_vocab};
}

static struct session *open_session(struct model *m) {
    struct session *s;
    struct err e;
    if (!session_open(m, 0, &s, &e)) fail_msg("%s", e.msg);
    return s;
}

static void runs_exactly(void **state) {
    const char *golden = *state;
    char path[512];
    int stem = (int)(strlen(golden) - strlen(".json"));
    snprintf(path, sizeof path, "%.*s.gguf", stem, golden);
    if (access(path, F_OK) != 0) snprintf(path, sizeof path, "%.*s-00001-of-00002.gguf", stem, golden);
    json_error_t je;
    json_t *root = json_load_file(golden, 0, &je);
    if (!root) fail_msg("%s: %s", golden, je.text);
    struct model *fused = open_model(path, "f32", false), *plain = open_model(path, "f32", true);
    struct model *rounded = open_model(path, "q8", false);
    assert_true(fused->n_launches < plain->n_launches);
    struct session *s = open_session(fused), *s_plain = open_session(plain), *s_rounded = open_session(rounded);
    struct logits a = logits_new(fused), b = logits_new(fused);

    const json_t *cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) > 0);
    for (size_t k = 0; k < json_array_size(cases); k++) {
        const json_t *c = json_array_get(cases, k), *list = json_object_get(c, "ids");
        int32_t ids[MAX_TOKENS];
        size_t n = json_array_size(list);
        assert_in_range(n, 1, MAX_TOKENS);
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
        evaluate(s, ids, n, n, &a);
        compare_with_golden(path, c, ids, &a);
        /* However the tokens are cut into calls, the bits are the same. */
        static const size_t steps[] = {1, 5, 37};
        for (size_t i = 0; i < 3; i++) {
            if (steps[i] < n) evaluate(s, ids, n, steps[i], &b);
            if (steps[i] < n) assert_memory_equal(a.rows, b.rows, (size_t)(a.n * a.n_vocab) * sizeof *a.rows);
        }
        evaluate(s_plain, ids, n, n, &b);
        double apart = max_difference(&a, &b);
        if (!(apart <= FUSION_TOLERANCE)) fail_msg("%s: without fusion the logits differ by %g", path, apart);
        if (n < 2) continue;
        evaluate(s_rounded, ids, n, n, &b);
        apart = fabs(mean_nll(&a, ids) - mean_nll(&b, ids));
        if (!(apart <= Q8_TOLERANCE)) fail_msg("%s: with 8-bit activations the likelihood moves by %g nats", path, apart);
        if (getenv("FAMILIES_VERBOSE")) printf("# %s: %zu tokens, q8 moves the mean by %.4f\n", path, n, apart);
    }
    mem_free(a.rows);
    mem_free(b.rows);
    session_close(s);
    session_close(s_plain);
    session_close(s_rounded);
    model_close(fused);
    model_close(plain);
    model_close(rounded);
    json_decref(root);
}

int main(int argc, char **argv) {
    char pattern[512];
    snprintf(pattern, sizeof pattern, "%s/*.json", argc > 1 ? argv[1] : "verify/data/families");
    glob_t files;
    if (glob(pattern, 0, NULL, &files) != 0) {
        fprintf(stderr, "no file matches %s\n", pattern);
        return 1;
    }
    struct CMUnitTest tests[64] = {0};
    size_t n = 0;
    for (size_t i = 0; i < files.gl_pathc && n < 64; i++)
        tests[n++] = (struct CMUnitTest){.name = files.gl_pathv[i], .test_func = runs_exactly, .initial_state = files.gl_pathv[i]};
    int failed = _cmocka_run_group_tests("families", tests, n, NULL, NULL);
    globfree(&files);
    return failed;
}
