/* test_sample: distributions against exact probabilities on fixed seeds (so the tests are deterministic), the set of
 * tokens each filter keeps against a plain sort in double precision, and the edges. */
#include <setjmp.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "runtime/sample.h"
#include "verify/ref_rng.h"

/* No filter, no penalty: plain softmax sampling at temperature 1. */
static struct sample_params plain(void) {
    struct sample_params p = sample_defaults();
    p.temp = 1, p.top_k = 0, p.top_p = 1, p.min_p = 0;
    return p;
}

static void open_ok(struct sampler *s, const struct sample_params *p, size_t n_vocab) {
    struct err e;
    if (!sample_open(s, p, n_vocab, &e)) fail_msg("%s", e.msg);
}

static int32_t next_ok(struct sampler *s, const float *logits) {
    struct err e;
    int32_t token = -1;
    if (!sample_next(s, logits, &token, &e)) fail_msg("%s", e.msg);
    assert_true(token >= 0 && (size_t)token < s->n_vocab);
    return token;
}

/* One choice with parameters p and a history. */
static int32_t choose(const struct sample_params *p, const float *logits, size_t n_vocab, const int32_t *history,
                      size_t n) {
    struct sampler s;
    open_ok(&s, p, n_vocab);
    for (size_t i = 0; i < n; i++) sample_accept(&s, history[i]);
    int32_t token = next_ok(&s, logits);
    sample_close(&s);
    return token;
}

/* Pearson's statistic of n_draws draws against probabilities; a token of probability 0 must not occur at all. With k -
 * 1 degrees of freedom it is k - 1 on average with variance 2 (k - 1): five deviations never happen by chance. */
static void expect_distribution(const struct sample_params *p, const float *logits, const double *probability,
                                size_t n_vocab, const char *what) {
    enum { DRAWS = 40000, MOST = 64 };
    size_t seen[MOST] = {0}, n_possible = 0;
    struct sampler s;
    open_ok(&s, p, n_vocab);
    for (int i = 0; i < DRAWS; i++) seen[next_ok(&s, logits)]++;
    sample_close(&s);
    double statistic = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        double expected = probability[i] * DRAWS;
        if (expected == 0 && seen[i]) fail_msg("%s: token %zu was drawn %zu times, expected never", what, i, seen[i]);
        if (expected > 0) statistic += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
        n_possible += expected > 0;
    }
    double degrees = (double)n_possible - 1;
    if (statistic > degrees + 5 * sqrt(2 * degrees) + 1) fail_msg("%s: chi-square %g for %g", what, statistic, degrees);
}

static void draws_follow_softmax_of_temperature(void **state) {
    (void)state;
    float logits[] = {0.5f, -1, 2, 2, -INFINITY, 0, -3.25f, 1.75f};
    double temps[] = {0.3, 0.8, 1, 1.7, 50};
    for (size_t t = 0; t < sizeof temps / sizeof *temps; t++) {
        struct sample_params p = plain();
        p.temp = (float)temps[t];
        p.seed = 100 + t;
        double probability[8], total = 0;
        for (int i = 0; i < 8; i++) total += probability[i] = exp(logits[i] / temps[t]);
        for (int i = 0; i < 8; i++) probability[i] /= total;
        expect_distribution(&p, logits, probability, 8, "softmax");
    }
}

/* The filters act on the probabilities at temperature 1, whatever the temperature: the order of the chain. */
static void filters_come_before_temperature(void **state) {
    (void)state;
    float logits[] = {logf(0.4f), logf(0.3f), logf(0.2f), logf(0.1f)};
    struct sample_params p = plain();
    p.temp = 2;
    p.top_p = 0.65f; /* 0.4 + 0.3 reach it; at temperature 2 the mass of two would not */
    double a = sqrt(0.4), b = sqrt(0.3);
    expect_distribution(&p, logits, (double[]){a / (a + b), b / (a + b), 0, 0}, 4, "top-p, then temperature");
    p.top_p = 1, p.min_p = 0.3f; /* of 0.4: 0.12 */
    double c = sqrt(0.2), sum = a + b + c;
    expect_distribution(&p, logits, (double[]){a / sum, b / sum, c / sum, 0}, 4, "min-p, then temperature");
    p.temp = 1, p.top_k = 3, p.min_p = 0, p.top_p = 0.75f; /* of 0.9 after top-k: 0.4 + 0.3 are 0.78 of it */
    expect_distribution(&p, logits, (double[]){4 / 7.0, 3 / 7.0, 0, 0}, 4, "top-k, then top-p");
}

/* ---- which tokens remain, against a plain sort ---- */

struct ranked {
    double rank, p, logit;
    int token;
};

static int by_rank(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->rank != y->rank) return x->rank > y->rank ? -1 : 1;
    return x->token - y->token;
}

static void normalize(struct ranked *r, size_t n) {
    double total = 0;
    for (size_t i = 0; i < n; i++) total += exp(r[i].logit);
    for (size_t i = 0; i < n; i++) r[i].p = exp(r[i].logit) / total;
}

/* How many of the sorted r[n] reach the mass; *margin: how close a comparison was. */
static size_t reach(const struct ranked *r, size_t n, double mass, double *margin) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += r[i].p;
        *margin = fmin(*margin, fabs(sum - mass));
        if (sum >= mass) return i + 1;
    }
    return n;
}

/* The tokens that the chain leaves, as a bit set. */
static uint64_t expected_set(const struct sample_params *p, const float *logits, size_t n, double *margin) {
    struct ranked r[64];
    *margin = 1;
    for (size_t i = 0; i < n; i++) r[i] = (struct ranked){logits[i], 0, logits[i], (int)i};
    qsort(r, n, sizeof *r, by_rank);
    if (p->top_k > 0 && (size_t)p->top_k < n) n = (size_t)p->top_k;
    if (p->typical_p < 1) {
        double entropy = 0;
        normalize(r, n);
        for (size_t i = 0; i < n; i++) entropy -= r[i].p * log(r[i].p);
        for (size_t i = 0; i < n; i++) r[i].rank = -fabs(-log(r[i].p) - entropy);
        qsort(r, n, sizeof *r, by_rank);
        for (size_t i = 0; i + 1 < n; i++) *margin = fmin(*margin, r[i].rank - r[i + 1].rank);
        n = reach(r, n, p->typical_p, margin);
        for (size_t i = 0; i < n; i++) r[i].rank = r[i].logit;
        qsort(r, n, sizeof *r, by_rank);
    }
    if (p->top_p < 1) {
        normalize(r, n);
        n = reach(r, n, p->top_p, margin);
    }
    size_t kept = n;
    for (size_t i = 0; i < n && p->min_p > 0; i++) {
        double ratio = exp(r[i].logit - r[0].logit);
        if (i) *margin = fmin(*margin, fabs(ratio - p->min_p));
        if (ratio < p->min_p && kept == n) kept = i;
    }
    uint64_t set = 0;
    for (size_t i = 0; i < kept; i++) set |= UINT64_C(1) << r[i].token;
    return set;
}

/* The tokens that occur: at an enormous temperature all that remain are equally likely, and 24 draws each miss one of
 * 20 with probability 1e-9. */
static uint64_t drawn_set(struct sample_params p, const float *logits, size_t n) {
    p.temp = 1e30f;
    struct sampler s;
    open_ok(&s, &p, n);
    uint64_t set = 0;
    for (size_t i = 0; i < 24 * n; i++) set |= UINT64_C(1) << next_ok(&s, logits);
    sample_close(&s);
    return set;
}

static void filters_keep_what_a_full_sort_keeps(void **state) {
    (void)state;
    struct ref_rng rng = {21, 0};
    int n_checked = 0;
    for (int round = 0; round < 3000; round++) {
        float logits[20];
        size_t n = 1 + ref_rng_below(&rng, 20);
        double spread = 0.2 + 4 * ref_rng_uniform(&rng);
        for (size_t i = 0; i < n; i++) logits[i] = (float)(ref_rng_normal(&rng) * spread);
        struct sample_params p = plain();
        uint64_t which = ref_rng_u64(&rng);
        if (which & 1) p.top_k = 1 + (int32_t)ref_rng_below(&rng, n + 2);
        if (which & 2) p.typical_p = (float)ref_rng_uniform(&rng);
        if (which & 4) p.top_p = (float)ref_rng_uniform(&rng);
        if (which & 8) p.min_p = (float)(ref_rng_uniform(&rng) * ref_rng_uniform(&rng));
        p.seed = which;
        double margin;
        uint64_t want = expected_set(&p, logits, n, &margin), got = drawn_set(p, logits, n);
        if (margin < 1e-6) continue; /* decided by rounding: weights are float32 */
        n_checked++;
        if (got != want)
            fail_msg("round %d: top-k %d typical %g top-p %g min-p %g: expected %llx, found %llx", round, p.top_k,
                     p.typical_p, p.top_p, p.min_p, (unsigned long long)want, (unsigned long long)got);
    }
    assert_true(n_checked > 2900);
}

/* Whether token 1 survives min-p tells exp(logit) >= p exactly, which pins the sampler's own exponential to libm's: within
 * 3e-7, what float32 steps of its result and of its polynomial come to, and a step of the logit. */
static void exponential_equals_libm(void **state) {
    (void)state;
    struct sample_params p = plain();
    for (float min_p = 0.999f; min_p > 1e-30f; min_p *= 0.73f) {
        p.min_p = min_p;
        float threshold = (float)log(min_p), off = 3e-7f - threshold * 1.2e-7f;
        float above[] = {0, threshold + off}, below[] = {0, threshold - off};
        assert_int_equal(drawn_set(p, above, 2), 3);
        assert_int_equal(drawn_set(p, below, 2), 1);
    }
}

static void top_k_keeps_lowest_ids_of_ties(void **state) {
    (void)state;
    float logits[60];
    struct sample_params p = plain();
    p.top_k = 7;
    for (int i = 0; i < 60; i++) logits[i] = i % 10 == 9 ? 2 : 1;
    /* six twos, and one of the ones */
    uint64_t want = 1;
    for (int i = 9; i < 60; i += 10) want |= UINT64_C(1) << i;
    assert_int_equal(drawn_set(p, logits, 60), want);
    for (int i = 0; i < 60; i++) logits[i] = 3;
    assert_int_equal(drawn_set(p, logits, 60), 0x7f);
    p.top_k = 0, p.top_p = 0.045f; /* three sixtieths reach it */
    assert_int_equal(drawn_set(p, logits, 60), 7);
}

/* A vocabulary large enough that the heaps are deep, in the orders that stress them. */
static void top_k_of_a_large_vocabulary(void **state) {
    (void)state;
    enum { N = 30000, K = 50 };
    float *logits = mem_new(N * sizeof *logits);
    struct ref_rng rng = {31, 0};
    for (int order = 0; order < 3; order++) {
        for (int i = 0; i < N; i++) {
            int rank = order == 0 ? i : order == 1 ? N - 1 - i : (int)((int64_t)i * 7919 % N); /* 7919 is prime */
            logits[i] = (float)rank / 1000;
        }
        bool seen[N] = {0};
        struct sample_params p = plain();
        p.top_k = K, p.temp = 1e30f, p.seed = ref_rng_u64(&rng);
        struct sampler s;
        open_ok(&s, &p, N);
        for (int i = 0; i < 24 * K; i++) seen[next_ok(&s, logits)] = true;
        for (int i = 0; i < N; i++) assert_int_equal(seen[i], logits[i] >= (float)(N - K) / 1000);
        sample_close(&s);
    }
    mem_free(logits);
}

/* ---- penalties and bias ---- */

/* Greedy with a rival token: whether it wins shows on which side of `want` the penalized logit of token 0 lies. */
static void expect_penalized(struct sample_params p, float logit, const int32_t *history, size_t n, float want) {
    p.temp = 0;
    float lower[] = {logit, want - 1e-4f, -100}, higher[] = {logit, want + 1e-4f, -100};
    assert_int_equal(choose(&p, lower, 3, history, n), 0);
    assert_int_equal(choose(&p, higher, 3, history, n), 1);
}

static void penalties_by_hand(void **state) {
    (void)state;
    int32_t history[] = {0, 2, 0, 2, 0, 2};
    struct sample_params p = plain();
    expect_penalized(p, 4, history, 6, 4);
    p.repeat = 2;
    expect_penalized(p, 4, history, 6, 2);
    expect_penalized(p, -4, history, 6, -8);
    expect_penalized(p, 4, NULL, 0, 4);
    p.frequency = 0.25f;
    expect_penalized(p, 4, history, 6, 1.25f);
    p.presence = 0.5f;
    expect_penalized(p, 4, history, 6, 0.75f);
    p.repeat = 1;
    expect_penalized(p, 4, history, 6, 2.75f);
    p.last_n = 4; /* 0 2 0 2: twice */
    expect_penalized(p, 4, history, 6, 3);
    p.last_n = 1; /* the last one is token 2 */
    expect_penalized(p, 4, history, 6, 4);
    p.last_n = 0;
    expect_penalized(p, 4, history, 6, 4);
    p.last_n = -1;
    expect_penalized(p, 4, history, 6, 2.75f);
}

static void penalty_window_counts_like_a_recount(void **state) {
    (void)state;
    struct sample_params p = plain();
    p.frequency = 1, p.last_n = 5;
    struct sampler s;
    open_ok(&s, &p, 4);
    struct ref_rng rng = {41, 0};
    int32_t history[200];
    for (size_t n = 0; n < 200; n++) {
        sample_accept(&s, history[n] = (int32_t)ref_rng_below(&rng, 4));
        uint32_t want[4] = {0};
        for (size_t i = n < 4 ? 0 : n - 4; i <= n; i++) want[history[i]]++;
        assert_memory_equal(s.counts, want, sizeof want);
    }
    sample_close(&s);
}

static void bias_moves_and_forbids(void **state) {
    (void)state;
    struct sample_bias bias[] = {{0, -INFINITY}, {2, 1}, {2, 0.5f}};
    struct sample_params p = plain();
    p.bias = bias, p.n_bias = 3;
    float logits[] = {50, 1, 0};
    double a = exp(1), b = exp(1.5);
    expect_distribution(&p, logits, (double[]){0, a / (a + b), b / (a + b)}, 3, "bias");
    p.temp = 0;
    assert_int_equal(choose(&p, logits, 3, NULL, 0), 2);
    assert_true(logits[0] == 50); /* the caller's logits are left alone */
    /* Bias comes first: a logit raised to 4 is then halved. */
    bias[0] = (struct sample_bias){0, 4}, p.n_bias = 1, p.repeat = 2;
    expect_penalized(p, 0, (int32_t[]){0}, 1, 2);
}

/* ---- edges ---- */

static void greedy_takes_the_lowest_id_of_a_tie(void **state) {
    (void)state;
    struct sample_params p = sample_defaults();
    p.temp = 0, p.typical_p = 0.1f, p.top_p = 0.1f;
    assert_int_equal(choose(&p, (float[]){-1, 3, 2, 3, 3}, 5, NULL, 0), 1);
    assert_int_equal(choose(&p, (float[]){-INFINITY, -INFINITY, -FLT_MAX}, 3, NULL, 0), 2);
}

static void tiny_and_huge_temperatures(void **state) {
    (void)state;
    struct sample_params p = plain();
    p.temp = 1e-42f;
    float logits[] = {1, 5, 4.9999f, 5, -FLT_MAX};
    expect_distribution(&p, logits, (double[]){0, 0.5, 0, 0.5, 0}, 5, "tiny temperature");
    p.temp = FLT_MAX;
    double x = 1 / (4 + exp(-1));
    expect_distribution(&p, logits, (double[]){x, x, x, x, x * exp(-1)}, 5, "huge temperature");
}

static void one_possible_token_is_chosen_by_every_filter(void **state) {
    (void)state;
    float logits[] = {-INFINITY, -INFINITY, -7, -INFINITY};
    for (int i = 0; i < 32; i++) {
        struct sample_params p = plain();
        p.temp = i & 1 ? 1e-30f : 1;
        if (i & 2) p.top_k = 3;
        if (i & 4) p.typical_p = 0;
        if (i & 8) p.top_p = 0;
        if (i & 16) p.min_p = 1;
        assert_int_equal(drawn_set(p, logits, 4), 4);
    }
    assert_int_equal(drawn_set(plain(), (float[]){-3}, 1), 1);
}

static void top_p_zero_and_min_p_one_keep_the_best(void **state) {
    (void)state;
    float logits[] = {0, 1, 3, 2};
    struct sample_params p = plain();
    p.top_p = 0;
    assert_int_equal(drawn_set(p, logits, 4), 4);
    p.top_p = 1, p.min_p = 1;
    assert_int_equal(drawn_set(p, logits, 4), 4);
    p.min_p = 0, p.top_p = 0.5f; /* reached exactly by one of two, and by two of four */
    assert_int_equal(drawn_set(p, (float[]){1, 1}, 2), 1);
    assert_int_equal(drawn_set(p, (float[]){1, 1, 1, 1}, 4), 3);
    p.top_p = 1;
    p.min_p = 0, p.top_k = 1;
    assert_int_equal(drawn_set(p, logits, 4), 4);
}

static void unusable_logits_are_errors_naming_the_place(void **state) {
    (void)state;
    static const struct {
        float logits[4];
        const char *want;
    } bad[] = {
        {{0, 1, NAN, NAN}, "sampling after 2 tokens: the logit of token 2 is NaN"},
        {{0, INFINITY, 1, 2}, "sampling after 2 tokens: the logit of token 1 is +inf"},
        {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, "sampling after 2 tokens: every one of 4 logits is -inf"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int greedy = 0; greedy < 2; greedy++) {
            struct sample_params p = sample_defaults();
            if (greedy) p.temp = 0;
            struct sampler s;
            struct err e;
            open_ok(&s, &p, 4);
            sample_accept(&s, 3);
            sample_accept(&s, 3);
            int32_t token = -5;
            assert_false(sample_next(&s, bad[i].logits, &token, &e));
            if (strncmp(e.msg, bad[i].want, strlen(bad[i].want)))
                fail_msg("expected \"%s…\", found \"%s\"", bad[i].want, e.msg);
            assert_int_equal(s.n_drawn, 0);
            sample_close(&s);
        }
    /* A negative penalty, which rewards repetition, can overflow; that is found after the adjustment. */
    struct sample_params p = plain();
    p.presence = -FLT_MAX;
    struct sampler s;
    struct err e;
    int32_t token;
    open_ok(&s, &p, 2);
    sample_accept(&s, 1);
    assert_false(sample_next(&s, (float[]){0, FLT_MAX}, &token, &e));
    assert_non_null(strstr(e.msg, "after bias and penalties"));
    sample_close(&s);
}

static void parameters_out_of_range_are_errors(void **state) {
    (void)state;
    static const struct sample_bias beyond = {5, 1}, before_zero = {-1, 1}, not_a_number = {0, NAN};
    struct sample_params ok = sample_defaults(), bad[14];
    for (int i = 0; i < 14; i++) bad[i] = ok;
    bad[0].temp = -0.1f, bad[1].temp = NAN, bad[2].temp = INFINITY;
    bad[3].top_p = 1.01f, bad[4].top_p = -0.5f, bad[5].min_p = NAN, bad[6].typical_p = 2;
    bad[7].repeat = 0, bad[8].frequency = INFINITY, bad[9].presence = NAN, bad[10].last_n = -2;
    const struct sample_bias *biases[] = {&beyond, &before_zero, &not_a_number};
    for (int i = 0; i < 3; i++) bad[11 + i].bias = biases[i], bad[11 + i].n_bias = 1;
    for (int i = 0; i < 14; i++) {
        struct sampler s;
        struct err e;
        if (sample_open(&s, &bad[i], 5, &e)) fail_msg("bad parameters %d were accepted", i);
        assert_int_equal(e.code, ERR_USAGE);
    }
    struct sampler s;
    struct err e;
    assert_false(sample_open(&s, &ok, 0, &e));
}

static void open_survives_every_failed_allocation(void **state) {
    (void)state;
    struct sample_params p = sample_defaults();
    p.repeat = 1.1f;
    p.bias = &(struct sample_bias){0, 1}, p.n_bias = 1;
    int n_failed = 0;
    for (bool ok = false; !ok; n_failed++) {
        struct sampler s;
        struct err e = {0};
        mem_fail_at(n_failed + 1);
        ok = sample_open(&s, &p, 10, &e);
        mem_fail_at(0);
        if (!ok) assert_int_equal(e.code, ERR_MEMORY);
        sample_close(&s);
    }
    assert_int_equal(n_failed - 1, 5); /* bias, adjusted, candidates, counts, recent */
}

/* ---- reproducibility ---- */

/* The draws are counted: the generator is the references' own, written twice. */
/* The largest logits as they are, and nothing else, give the token that all of them give, whatever lowers some: with equal
 * logits, ones that are pushed out of the k largest, forbidden ones. */
static void the_largest_logits_decide_alone(void **state) {
    (void)state;
    enum { N = 200 };
    struct ref_rng rng = {77, 0};
    size_t pushed_out = 0;
    for (int round = 0; round < 400; round++) {
        struct sample_bias bias[2] = {{(int32_t)(ref_rng_u64(&rng) % N), -INFINITY}, {(int32_t)(ref_rng_u64(&rng) % N), -2}};
        struct sample_params p = {.temp = round % 3 ? 0.9F : 0,
                                  .top_k = 1 + round % 9,
                                  .typical_p = round % 4 ? 1 : 0.8F,
                                  .top_p = round % 5 ? 0.9F : 1,
                                  .repeat = 1 + (float)(round % 4) / 2,
                                  .frequency = (float)(round % 3),
                                  .presence = (float)(round % 2),
                                  .last_n = round % 20,
                                  .seed = (uint64_t)round,
                                  .bias = bias,
                                  .n_bias = (size_t)round % 3};
        struct sampler all, few;
        float logits[N], top[N], ids[N];
        struct err e;
        for (int i = 0; i < N; i++) logits[i] = (float)(int)(ref_rng_u64(&rng) % 31) - 10; /* many equal ones */
        open_ok(&all, &p, N);
        open_ok(&few, &p, N);
        size_t k = sample_top_k(&few);
        bool penalties = p.last_n && (p.repeat != 1 || p.frequency != 0 || p.presence != 0);
        size_t lowered = p.n_bias + (penalties ? (size_t)p.last_n : 0);
        assert_int_equal(k, p.temp == 0 && !lowered ? 0 : (p.temp == 0 ? 1 : (size_t)p.top_k) + lowered);
        for (int draw = 0; k && draw < 30; draw++) {
            bool taken[N] = {false};
            for (size_t i = 0; i < k; i++) { /* the next of the order: largest first, then the lowest id */
                int best = -1;
                for (int t = 0; t < N; t++)
                    if (!taken[t] && (best < 0 || logits[t] > logits[best])) best = t;
                taken[best] = true;
                top[i] = logits[best];
                ids[i] = (float)best;
            }
            int32_t want = next_ok(&all, logits), got = -1;
            if (!sample_among(&few, top, ids, &got, &e)) fail_msg("%s", e.msg);
            assert_int_equal(got, want);
            pushed_out += logits[want] < top[p.temp == 0 ? 0 : p.top_k - 1];
            sample_accept(&all, want);
            sample_accept(&few, want);
        }
        sample_close(&all);
        sample_close(&few);
    }
    assert_true(pushed_out > 100);
    /* What raises a logit, or lowers any number of them, needs all. */
    struct sample_bias up = {3, 0.5F};
    struct sample_params needs_all[] = {{.temp = 1, .top_k = 5, .repeat = 0.9F, .last_n = 4},
                                        {.temp = 1, .top_k = 5, .repeat = 1, .presence = -1, .last_n = 4},
                                        {.temp = 1, .top_k = 5, .repeat = 1, .frequency = -1, .last_n = 4},
                                        {.temp = 1, .top_k = 5, .repeat = 1.1F, .last_n = -1},
                                        {.temp = 1, .top_k = 5, .repeat = 1, .bias = &up, .n_bias = 1},
                                        {.temp = 1, .top_k = 0, .repeat = 1.1F, .last_n = 4},
                                        {.temp = 0, .repeat = 1}};
    for (size_t i = 0; i < sizeof needs_all / sizeof *needs_all; i++)
        assert_int_equal(sample_most_likely(&needs_all[i]), 0);
}

static void draws_are_those_of_the_counter_based_generator(void **state) {
    (void)state;
    struct sample_params p = plain();
    float even[16] = {0};
    for (uint64_t seed = 0; seed < 50; seed++) {
        p.seed = seed * 0x123456789abcdef1u;
        struct sampler s;
        open_ok(&s, &p, 16);
        struct ref_rng rng = {p.seed, 0};
        for (int i = 0; i < 50; i++) assert_int_equal(next_ok(&s, even), (int)(ref_rng_uniform(&rng) * 16));
        sample_close(&s);
    }
}

/* A long chain with everything on, whose history feeds back into the penalties: one token that differs changes the
 * hash. The constant was computed once; it must come out on every machine, compiler and optimization level. */
static void everything_on_gives_the_same_tokens_everywhere(void **state) {
    (void)state;
    enum { N = 500 };
    struct sample_params p = {.temp = 1.3f,
                              .top_k = 200,
                              .typical_p = 0.97f,
                              .top_p = 0.98f,
                              .min_p = 0.001f,
                              .repeat = 1.1f,
                              .frequency = 0.05f,
                              .presence = 0.1f,
                              .last_n = 64,
                              .seed = 2024};
    struct ref_rng rng = {77, 0};
    struct sampler s;
    open_ok(&s, &p, N);
    uint64_t hash = 0;
    for (int step = 0; step < 400; step++) {
        float logits[N];
        for (int i = 0; i < N; i++) logits[i] = (float)(ref_rng_normal(&rng) * 3);
        int32_t token = next_ok(&s, logits);
        sample_accept(&s, token);
        hash = ref_rng_mix(hash ^ (uint64_t)token);
    }
    sample_close(&s);
    if (hash != UINT64_C(0xd59fda45e0729bca)) fail_msg("the tokens' hash is %#llx", (unsigned long long)hash);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_softmax_of_temperature),
        cmocka_unit_test(filters_come_before_temperature),
        cmocka_unit_test(filters_keep_what_a_full_sort_keeps),
        cmocka_unit_test(exponential_equals_libm),
        cmocka_unit_test(top_k_keeps_lowest_ids_of_ties),
        cmocka_unit_test(top_k_of_a_large_vocabulary),
        cmocka_unit_test(penalties_by_hand),
        cmocka_unit_test(penalty_window_counts_like_a_recount),
        cmocka_unit_test(bias_moves_and_forbids),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_a_tie),
        cmocka_unit_test(tiny_and_huge_temperatures),
        cmocka_unit_test(one_possible_token_is_chosen_by_every_filter),
        cmocka_unit_test(top_p_zero_and_min_p_one_keep_the_best),
        cmocka_unit_test(unusable_logits_are_errors_naming_the_place),
        cmocka_unit_test(parameters_out_of_range_are_errors),
        cmocka_unit_test(open_survives_every_failed_allocation),
        cmocka_unit_test(the_largest_logits_decide_alone),
        cmocka_unit_test(draws_are_those_of_the_counter_based_generator),
        cmocka_unit_test(everything_on_gives_the_same_tokens_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
