/* test_cuda_model: whole models on a CUDA device, which may be the PTX machine: small ones against PyTorch's results
 * (verify/data/families), the demo's own, where it has been fetched, against the processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "runtime/session_impl.h"
#include "verify/cuda_help.h"

enum { MAX_TOKENS = 24 };

enum { TOP_K = 40 };

static struct model *open_model(const char *path, const char *act, bool cuda) {
    struct model *m;
    struct model_options o = {.path = path, .act = act, .cuda = cuda, .top_k = TOP_K, .n_threads = 1};
    OK(model_open(&o, &m, e));
    return m;
}

struct logits {
    float *rows; /* [MAX_TOKENS][n_vocab] */
    int64_t n_vocab, n;
};

static bool keep(void *ctx, int64_t pos, const float *row, struct err *e) {
    (void)e;
    struct logits *l = ctx;
    assert_int_equal(pos, l->n);
    memcpy(l->rows + l->n_vocab * l->n++, row, (size_t)l->n_vocab * sizeof *row);
    return true;
}

static void sampling_there_is_sampling_here(struct session *s, int64_t n_vocab);

/* All logits of ids, evaluated `step` tokens at a time in a context of its own; and the likeliest next token. */
static struct logits evaluate(struct model *m, const int32_t *ids, size_t n, size_t step, int32_t *best) {
    struct session *s;
    struct logits l = {.rows = mem_new(MAX_TOKENS * (size_t)m->n_vocab * sizeof(float)), .n_vocab = m->n_vocab};
    OK(session_open(m, 64, &s, e));
    for (size_t at = 0; at < n; at += step) {
        size_t count = n - at < step ? n - at : step;
        OK(session_eval(s, ids + at, count, count, keep, &l, e));
    }
    OK(session_argmax(s, best, e));
    if (m->top_k) sampling_there_is_sampling_here(s, m->n_vocab);
    session_close(s);
    return l;
}

static double nll(const struct logits *l, int64_t at, int32_t id) {
    const float *row = l->rows + at * l->n_vocab;
    double max = row[0], sum = 0;
    for (int64_t i = 1; i < l->n_vocab; i++)
        if (row[i] > max) max = row[i];
    for (int64_t i = 0; i < l->n_vocab; i++) sum += exp(row[i] - max);
    return max + log(sum) - row[id];
}

static int32_t likeliest(const struct logits *l) {
    const float *row = l->rows + (l->n - 1) * l->n_vocab;
    int32_t best = 0;
    for (int32_t i = 1; i < l->n_vocab; i++)
        if (row[i] > row[best]) best = i;
    return best;
}

/* ---- sampling ---- */

/* Every stage behind top-k, alone and together: what is drawn on the device, and what is chosen here from the k logits found
 * there, is what sample.c chooses from all of them, draw by draw. */
static void sampling_there_is_sampling_here(struct session *s, int64_t n_vocab) {
    static const struct sample_bias banned = {7, -INFINITY};
    static const struct sample_params params[] = {
        {.temp = 0.8F, .top_k = TOP_K, .typical_p = 1, .top_p = 1, .repeat = 1, .seed = 1},
        {.temp = 1.5F, .top_k = TOP_K, .typical_p = 1, .top_p = 0.9F, .repeat = 1, .seed = 2},
        {.temp = 1, .top_k = TOP_K, .typical_p = 1, .top_p = 1, .min_p = 0.2F, .repeat = 1, .seed = 3},
        {.temp = 2, .top_k = TOP_K, .typical_p = 0.7F, .top_p = 0.8F, .min_p = 0.01F, .repeat = 1, .seed = 4},
        {.temp = 1, .top_k = TOP_K - 10, .typical_p = 1, .top_p = 1, .repeat = 1.5F, .last_n = 10, .seed = 5},
        {.temp = 1, .top_k = TOP_K - 11, .typical_p = 1, .top_p = 0.9F, .repeat = 1.1F, .frequency = 0.5F, .presence = 0.2F,
         .last_n = 10, .bias = &banned, .n_bias = 1, .seed = 6},
        {.temp = 0, .typical_p = 1, .top_p = 1, .repeat = 1.3F, .presence = 1, .last_n = TOP_K - 1},
    };
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        struct sampler here, there;
        const float *logits;
        int32_t want, got;
        OK(sample_open(&here, &params[i], (size_t)n_vocab, e) && sample_open(&there, &params[i], (size_t)n_vocab, e));
        assert_int_equal(sample_top_k(&there), TOP_K);
        s->choice.draws = false;
        OK(session_logits(s, &logits, e));
        for (int draw = 0; draw < 50; draw++) {
            OK(sample_next(&here, logits, &want, e) && session_sample(s, &there, &got, e));
            assert_int_equal(got, want);
            sample_accept(&here, got);
            sample_accept(&there, got);
        }
        bool there_at_all = s->logits_row == 0, plain = sample_is_plain(&there);
        assert_int_equal(plain, i < 3);
        assert_int_equal(s->choice.draws, there_at_all && plain);
        assert_int_equal(s->choice.known == CHOICE_TOP_K, there_at_all && !plain);
        sample_close(&here);
        sample_close(&there);
    }
}

/* The same on logits of our own: equal ones, few possible ones, and then what is no number. */
static void sampling_of_any_logits(void **state) {
    (void)state;
    NEED_GPU();
    struct model *m = open_model("verify/data/families/llama-mixed.gguf", "f32", true);
    struct session *s;
    struct sampler sampler;
    struct sample_params params = {.temp = 1, .top_k = TOP_K, .typical_p = 1, .top_p = 1, .repeat = 1, .seed = 5};
    int32_t ids[] = {1, 2, 3}, got;
    float logits[512];
    struct err e;
    assert_true(m->n_vocab < 512 && m->top_k == TOP_K);
    OK(session_open(m, 8, &s, e) && session_eval(s, ids, 3, 1, NULL, NULL, e));
    OK(sample_open(&sampler, &params, (size_t)m->n_vocab, e));
    for (int kind = 0; kind < 5; kind++) {
        for (int64_t i = 0; i < m->n_vocab; i++) {
            logits[i] = kind == 0 ? 1.5F : (float)(i * 7919 % 13) - 6;
            if (kind == 2 && i % 40) logits[i] = -INFINITY;
        }
        if (kind == 3) logits[100] = NAN;
        if (kind == 4) logits[130] = INFINITY;
        OK(cuda_upload(m->gpu, on_gpu(session_logits_at(s)), logits, (size_t)m->n_vocab * sizeof *logits, e));
        s->choice.known = CHOICE_NONE;
        s->choice.selected = s->logits_here = false;
        if (kind < 3) {
            sampling_there_is_sampling_here(s, m->n_vocab);
            continue;
        }
        assert_false(session_sample(s, &sampler, &got, &e));
        assert_non_null(strstr(e.msg, kind == 3 ? "the logit of token 100 is NaN" : "the logit of token 130 is +inf"));
    }
    sample_close(&sampler);
    session_close(s);
    model_close(m);
}

/* Rounds that are cut into groups keep at least k of each, and end in one. */
static void selections_end_in_one_group(void **state) {
    (void)state;
    static const int64_t sizes[] = {2, 33, 131, 1536, 1537, 5000, 32003, 49152, 128256, 151936, 262144, 1 << 24};
    struct select_round r[SELECT_ROUNDS];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int64_t k = 1; k <= SELECT_MAX_K; k++) {
            size_t n = select_plan(sizes[i], k, r);
            assert_int_equal(n > 0, k < sizes[i]);
            for (size_t j = 0; j < n; j++) {
                assert_int_equal(r[j].valid, j ? r[j - 1].groups * k : sizes[i]);
                assert_true(r[j].n >= r[j].valid && r[j].n - r[j].valid < SELECT_PADDING && r[j].n % r[j].groups == 0);
                assert_true(j == 0 || r[j].n == r[j].valid || r[j].groups == 1);
                assert_int_equal(r[j].groups == 1, j + 1 == n);
                if (j + 1 < n) assert_true(r[j].valid / r[j].groups >= k);
            }
        }
    assert_int_equal(select_plan(1000, 0, r), 0);
    assert_int_equal(select_plan(1000, SELECT_MAX_K + 1, r), 0);
    assert_int_equal(select_plan((1 << 24) + 1, 1, r), 0);
}

/* Row i of a and b: apart by at most 1e-4 of its largest value. */
static void expect_close(const struct logits *a, const struct logits *b, int64_t i, const char *name) {
    const float *x = a->rows + i * a->n_vocab, *y = b->rows + i * b->n_vocab;
    float largest = 0;
    for (int64_t k = 0; k < a->n_vocab; k++) largest = fmaxf(largest, fabsf(x[k]));
    for (int64_t k = 0; k < a->n_vocab; k++)
        if (!(fabsf(x[k] - y[k]) <= 1e-4F * largest))
            fail_msg("%s, row %d: logit %d is %.9g one by one and %.9g batched", name, (int)i, (int)k, (double)y[k],
                     (double)x[k]);
}

/* Batched, and token by token through the recorded graph, whose launches add in another order: each within 1e-3 nats of
 * PyTorch. */
static void small_models_run_exactly(void **state) {
    (void)state;
    NEED_GPU();
    static const char *const names[] = {"llama-mixed", "llama-bias", "gemma3", "gemma3-hd256"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char path[128];
        snprintf(path, sizeof path, "verify/data/families/%s.json", names[k]);
        json_t *root = json_load_file(path, 0, NULL);
        const json_t *cases = json_object_get(root, "cases"), *c, *list = NULL, *want = NULL;
        for (size_t i = 0; (c = json_array_get(cases, i)); i++) /* the longest */
            if (json_array_size(json_object_get(c, "ids")) > json_array_size(list)) {
                list = json_object_get(c, "ids");
                want = json_object_get(c, "next_token_nll");
            }
        int32_t ids[MAX_TOKENS], best, best_by_one;
        size_t n = json_array_size(list) < MAX_TOKENS ? json_array_size(list) : MAX_TOKENS;
        assert_true(n > 2);
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
        snprintf(path, sizeof path, "verify/data/families/%s.gguf", names[k]);
        struct model *m = open_model(path, "f32", true);
        struct logits all = evaluate(m, ids, n, n, &best), one = evaluate(m, ids, n, 1, &best_by_one);
        for (size_t i = 0; i + 1 < n; i++) {
            double expected = json_number_value(json_array_get(want, i));
            double found = nll(&all, (int64_t)i, ids[i + 1]), by_one = nll(&one, (int64_t)i, ids[i + 1]);
            if (!(fabs(found - expected) <= 1e-3 && fabs(by_one - expected) <= 1e-3))
                fail_msg("%s, token %zu: %.6f nats, one by one %.6f, expected %.6f", names[k], i, found, by_one,
                         expected);
        }
        for (int64_t i = 0; i < all.n; i++) expect_close(&all, &one, i, names[k]);
        assert_int_equal(best, likeliest(&all));
        assert_int_equal(best_by_one, best);
        mem_free(all.rows);
        mem_free(one.rows);
        model_close(m);
        json_decref(root);
    }
}

/* In float32, the processor's results (exact: test_golden.c) within 1e-3 nats. */
static void real_models_agree_with_the_processor(void **state) {
    (void)state;
    NEED_GPU();
    static const struct {
        const char *path;
        int32_t ids[5];
    } models[] = {{"build/models/smollm2-135m-instruct-q4_1.gguf", {504, 3575, 282, 4649, 314}},
                  {"build/models/gemma-3-270m-q4_k_m.gguf", {2, 818, 5279, 529, 7001}}};
    for (size_t k = 0; k < 2; k++) {
        if (access(models[k].path, R_OK) != 0) {
            print_message("[  SKIPPED ] there is no %s; `make setup` fetches it\n", models[k].path);
            continue;
        }
        int32_t best, best_on_gpu;
        struct model *cpu = open_model(models[k].path, "f32", false), *m = open_model(models[k].path, "f32", true);
        struct logits want = evaluate(cpu, models[k].ids, 5, 5, &best),
                      got = evaluate(m, models[k].ids, 5, 4, &best_on_gpu);
        for (int64_t i = 0; i + 1 < 5; i++) {
            double a = nll(&want, i, models[k].ids[i + 1]), b = nll(&got, i, models[k].ids[i + 1]);
            if (!(fabs(a - b) <= 1e-3))
                fail_msg("%s, token %d: %.6f nats, expected %.6f", models[k].path, (int)i, b, a);
        }
        assert_int_equal(best, best_on_gpu);
        mem_free(want.rows);
        mem_free(got.rows);
        model_close(m);
        model_close(cpu);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    use_the_machine(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(selections_end_in_one_group), cmocka_unit_test(small_models_run_exactly),
        cmocka_unit_test(sampling_of_any_logits), cmocka_unit_test(real_models_agree_with_the_processor)};
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
