#include "runtime/sample.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* Everything here relies on the Makefile's -ffp-contract=off: a fused multiply-add rounds once where two operations
 * round twice, and tokens would depend on the machine. */

/* e^x for x <= 0, as the kernels compute it (expand_exp in dsl/lower.lua), so that a GPU's `draw` chooses the same token.
 * libm's differs between machines in the last bit. */
static float exp_same(float x) {
    static const float factors[] = {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 1.0F / 2, 1, 1};
    if (!(x >= -87.33F)) return 0;
    float n = rintf(x * 1.4426950408889634F), r = fmaf(n, -0.693145751953125F, x), p = 1.0F / 5040;
    r = fmaf(n, -1.42860682030941723212e-6F, r);
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) p = fmaf(p, r, factors[i]);
    return ldexpf(p, (int)n);
}

/* A weight of at most 1 as a whole number of 2^-32. Sums of such are exact, so that their order does not matter. */
static int64_t whole(float weight) {
    float high = rintf(weight * 0x1p16F);
    return (int64_t)high * (1 << 16) + (int64_t)rintf((weight * 0x1p16F - high) * 0x1p16F);
}

/* ln 2 in two parts: multiples of the first by an integer under 2^21 are exact (Cody, Waite: Software Manual for the
 * Elementary Functions, 1980). */
static const double LN2_HIGH = 0x1.62e42fee00000p-1, LN2_LOW = 0x1.a39ef35793c76p-33;

/* ln x for finite x > 0: with x = m * 2^e and s = (m-1)/(m+1), ln m = 2 (s + s^3/3 + s^5/5 + ...), |s| <= 0.172. */
static double log_same(double x) {
    int exponent;
    double m = frexp(x, &exponent);
    if (m < M_SQRT1_2) {
        m *= 2;
        exponent--;
    }
    double s = (m - 1) / (m + 1), square = s * s, sum = 0;
    for (int i = 23; i > 0; i -= 2) sum = sum * square + 1.0 / i;
    return exponent * LN2_HIGH + (exponent * LN2_LOW + 2 * s * sum);
}

/* The n-th number of a seed, uniform in [0, 1), a multiple of 2^-23 (so that its product with a sum, rounded to float, stays
 * below that sum): a hash of both (splitmix64's finalizer, Steele, Lea, Flood 2014), so
 * that there is no state to lose. */
static float uniform(uint64_t seed, uint64_t n) {
    uint64_t z = seed;
    for (int round = 0; round < 2; round++) {
        z += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        if (round == 0) z += n * 0x9e3779b97f4a7c15u;
    }
    return (float)(z >> 41) * 0x1p-23F;
}

struct sample_params sample_defaults(void) {
    return (struct sample_params){
        .temp = 0.8f, .top_k = 40, .typical_p = 1, .top_p = 0.95f, .min_p = 0.05f, .repeat = 1, .last_n = 64};
}

static bool has_penalties(const struct sample_params *p) {
    return p->last_n && (p->repeat != 1 || p->frequency != 0 || p->presence != 0);
}

static bool check_params(const struct sample_params *p, size_t n_vocab, struct err *e) {
    const struct {
        const char *name;
        float value, low, high;
    } ranges[] = {
        {"temperature", p->temp, 0, FLT_MAX},
        {"typical-p", p->typical_p, 0, 1},
        {"top-p", p->top_p, 0, 1},
        {"min-p", p->min_p, 0, 1},
        {"repeat penalty", p->repeat, FLT_MIN, FLT_MAX},
        {"frequency penalty", p->frequency, -FLT_MAX, FLT_MAX},
        {"presence penalty", p->presence, -FLT_MAX, FLT_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return err_set(e, ERR_USAGE, "sampling: %s must be a number from %g to %g, found %g", ranges[i].name,
                           ranges[i].low, ranges[i].high, ranges[i].value);
    if (p->last_n < -1)
        return err_set(e, ERR_USAGE, "sampling: the penalties' window must be -1 (all) or more tokens, found %d",
                       p->last_n);
    if (!n_vocab || n_vocab > INT32_MAX) return err_set(e, ERR_INPUT, "sampling: a vocabulary of %zu tokens", n_vocab);
    for (size_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].token < 0 || (size_t)p->bias[i].token >= n_vocab)
            return err_set(e, ERR_USAGE, "sampling: logit bias for token %d; the vocabulary ends at %zu",
                           p->bias[i].token, n_vocab - 1);
        if (!(p->bias[i].add <= FLT_MAX))
            return err_set(e, ERR_USAGE, "sampling: logit bias of token %d must be finite or -inf, found %g",
                           p->bias[i].token, p->bias[i].add);
    }
    return true;
}

bool sample_open(struct sampler *s, const struct sample_params *params, size_t n_vocab, struct err *e) {
    memset(s, 0, sizeof *s);
    if (!check_params(params, n_vocab, e)) return false;
    s->params = *params;
    s->params.bias = NULL; /* the caller's; ours is s->bias */
    s->n_vocab = n_vocab;
    bool penalties = has_penalties(params), greedy = params->temp == 0;
    size_t n_candidates = params->top_k > 0 && (size_t)params->top_k < n_vocab ? (size_t)params->top_k : n_vocab;
    size_t most_likely = sample_most_likely(params);
    if (greedy || most_likely > n_candidates) n_candidates = most_likely < n_vocab ? most_likely : n_vocab;
    bool ok = (!params->n_bias || (s->bias = mem_try(params->n_bias, sizeof *s->bias))) &&
              (!(params->n_bias || penalties) || (s->adjusted = mem_try(n_vocab, sizeof *s->adjusted))) &&
              (s->candidates = mem_try(n_candidates + 1, sizeof *s->candidates)) &&
              (!penalties || (s->counts = mem_try(n_vocab, sizeof *s->counts))) &&
              (!penalties || params->last_n < 0 || (s->recent = mem_try((size_t)params->last_n, sizeof *s->recent)));
    if (!ok) {
        sample_close(s);
        return err_set(e, ERR_MEMORY, "sampling: no memory for %zu candidates and a window of %d tokens", n_candidates,
                       params->last_n);
    }
    if (params->n_bias) memcpy(s->bias, params->bias, params->n_bias * sizeof *s->bias);
    return true;
}

void sample_close(struct sampler *s) {
    mem_free(s->bias);
    mem_free(s->adjusted);
    mem_free(s->candidates);
    mem_free(s->counts);
    mem_free(s->recent);
    memset(s, 0, sizeof *s);
}

void sample_accept(struct sampler *s, int32_t token) {
    if (token < 0 || (size_t)token >= s->n_vocab) bug("token %d of a vocabulary of %zu", token, s->n_vocab);
    if (s->recent) {
        int32_t *slot = &s->recent[s->n_accepted % (uint64_t)s->params.last_n];
        if (s->n_accepted >= (uint64_t)s->params.last_n) s->counts[*slot]--;
        *slot = token;
    }
    if (s->counts) s->counts[token]++;
    s->n_accepted++;
}

/* What no choice should be built on, and the index of the first such logit. */
static bool check_logits(const struct sampler *s, const float *logits, struct err *e) {
    bool bad = false;
    for (size_t i = 0; i < s->n_vocab; i++) bad |= !(logits[i] <= FLT_MAX); /* no early exit: this loop is vectorized */
    if (!bad) return true;
    size_t at = 0;
    while (logits[at] <= FLT_MAX) at++;
    return err_set(
        e, ERR_INPUT,
        "sampling after %llu tokens: the logit of token %zu is %s, expected a number; the model's output is not "
        "usable (kgen verify checks its kernels)",
        (unsigned long long)s->n_accepted, at, isnan(logits[at]) ? "NaN" : "+inf");
}

static float penalized(const struct sampler *s, size_t token, float logit) {
    const struct sample_params *p = &s->params;
    if (!s->counts || !s->counts[token] || logit == -INFINITY) return logit;
    logit = logit > 0 ? logit / p->repeat : logit * p->repeat;
    return logit - ((float)s->counts[token] * p->frequency + p->presence);
}

/* The logits after bias and penalties: the caller's array where there are none. */
static const float *adjust(struct sampler *s, const float *logits) {
    if (!s->adjusted) return logits;
    float *out = memcpy(s->adjusted, logits, s->n_vocab * sizeof *out);
    for (size_t i = 0; i < s->params.n_bias; i++) out[s->bias[i].token] += s->bias[i].add;
    for (size_t i = 0; s->counts && i < s->n_vocab; i++) out[i] = penalized(s, i, out[i]);
    return out;
}

/* The same of one. */
static float adjust_one(const struct sampler *s, size_t token, float logit) {
    for (size_t i = 0; i < s->params.n_bias; i++)
        if ((size_t)s->bias[i].token == token) logit += s->bias[i].add;
    return penalized(s, token, logit);
}

size_t sample_most_likely(const struct sample_params *p) {
    bool penalties = has_penalties(p), lowered = !penalties || (p->repeat >= 1 && p->frequency >= 0 && p->presence >= 0);
    for (size_t i = 0; i < p->n_bias; i++) lowered &= p->bias[i].add <= 0;
    size_t k = p->temp == 0 ? 1 : p->top_k > 0 ? (size_t)p->top_k : 0, n = p->n_bias;
    if (penalties) n += p->last_n < 0 ? 0 : (size_t)p->last_n;
    bool all = !k || !lowered || (penalties && p->last_n < 0), as_it_is = p->temp == 0 && n == 0;
    return all || as_it_is ? 0 : k + n;
}

static bool before(const struct sample_candidate *a, const struct sample_candidate *b) {
    return a->rank > b->rank || (a->rank == b->rank && a->token < b->token);
}

/* Heaps of candidates: with `last` the root is the one that comes last of all in order, otherwise the first. */
static void sift_down(struct sample_candidate *c, size_t n, size_t at, bool last) {
    struct sample_candidate moving = c[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(&c[child + 1], &c[child]) != last) child++;
        if (before(&c[child], &moving) == last) break;
        c[at] = c[child];
    }
    c[at] = moving;
}

static void heapify(struct sample_candidate *c, size_t n, bool last) {
    for (size_t i = n / 2; i-- > 0;) sift_down(c, n, i, last);
}

/* The top-k candidates (every possible one where top_k is off), in no order; their number. One pass: the worst of the k
 * best so far is the root of a heap, and most logits lose against it at once. */
static size_t select_top_k(struct sampler *s, const float *logits) {
    size_t k = s->params.top_k > 0 ? (size_t)s->params.top_k : s->n_vocab, n = 0;
    struct sample_candidate *c = s->candidates;
    for (size_t i = 0; i < s->n_vocab; i++) {
        if (logits[i] == -INFINITY) continue;
        struct sample_candidate next = {0, logits[i], logits[i], (int32_t)i};
        if (n < k) {
            c[n++] = next;
            if (n == k && k < s->n_vocab) heapify(c, n, true);
        } else if (logits[i] > c[0].logit) { /* equal logits: the lower id is there already */
            c[0] = next;
            sift_down(c, n, 0, true);
        }
    }
    return n;
}

static float largest(const struct sample_candidate *c, size_t n) {
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++) max = c[i].logit > max ? c[i].logit : max;
    return max;
}

/* Sets every weight to exp((logit - the largest) / temp); their sum. */
static int64_t weigh(struct sample_candidate *c, size_t n, float temp) {
    float max = largest(c, n);
    int64_t total = 0;
    for (size_t i = 0; i < n; i++) total += c[i].weight = whole(exp_same((c[i].logit - max) / temp));
    return total;
}

/* Keeps the first candidates in rank order whose weights reach `mass`, at least one, and puts them in front in that
 * order; their number. Costs n + kept * log n. */
static size_t keep_mass(struct sample_candidate *c, size_t n, float mass) {
    heapify(c, n, false);
    size_t left = n;
    for (int64_t sum = 0; left > 0 && (left == n || (float)sum < mass);) {
        struct sample_candidate first = c[0];
        c[0] = c[--left];
        sift_down(c, left, 0, false);
        c[left] = first;
        sum += first.weight;
    }
    /* The kept ones are at the end in reverse. Reversing everything brings them to the front in order. */
    for (size_t i = 0, j = n; i + 1 < j; i++) {
        struct sample_candidate swap = c[--j];
        c[j] = c[i];
        c[i] = swap;
    }
    return n - left;
}

/* Meister et al.: Locally Typical Sampling, 2022: order by the distance of -ln p from the entropy. */
static size_t keep_typical(struct sample_candidate *c, size_t n, float p) {
    int64_t total = weigh(c, n, 1);
    double max = largest(c, n), entropy = 0, log_total = log_same((double)total * 0x1p-32);
    for (size_t i = 0; i < n; i++) entropy += (double)c[i].weight / (double)total * (log_total - (c[i].logit - max));
    for (size_t i = 0; i < n; i++) c[i].rank = -fabs(log_total - (c[i].logit - max) - entropy);
    return keep_mass(c, n, p * (float)total);
}

/* Holtzman et al.: The Curious Case of Neural Text Degeneration, 2020. */
static size_t keep_top_p(struct sample_candidate *c, size_t n, float p) {
    int64_t total = weigh(c, n, 1);
    for (size_t i = 0; i < n; i++) c[i].rank = c[i].logit;
    return keep_mass(c, n, p * (float)total);
}

/* Nguyen et al.: Turning Up the Heat: Min-p Sampling, 2024. The likeliest token has weight 1. */
static size_t keep_min_p(struct sample_candidate *c, size_t n, float p) {
    float max = largest(c, n);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (exp_same(c[i].logit - max) >= p) c[kept++] = c[i];
    return kept;
}

static int32_t draw(struct sampler *s, size_t n) {
    const struct sample_candidate *c = s->candidates;
    float drawn = uniform(s->params.seed, s->n_drawn) * (float)weigh(s->candidates, n, s->params.temp);
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += c[i].weight;
        if ((float)sum > drawn) return c[i].token;
    }
    bug("a draw of %g past %zu candidates", (double)drawn, n);
}

static size_t argmax(const float *logits, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static bool nothing_possible(const struct sampler *s, struct err *e) {
    return err_set(e, ERR_INPUT, "sampling after %llu tokens: every one of %zu logits is -inf, so no token is possible",
                   (unsigned long long)s->n_accepted, s->n_vocab);
}

/* From the n candidates that top-k left. They are drawn from in rank order, wherever they came from. */
static bool choose(struct sampler *s, size_t n, int32_t *token, struct err *e) {
    const struct sample_params *p = &s->params;
    if (!n) return nothing_possible(s, e);
    if (p->top_k > 0 && (size_t)p->top_k < s->n_vocab) {
        keep_mass(s->candidates, n, INFINITY);
        if (n > (size_t)p->top_k) n = (size_t)p->top_k;
    }
    if (p->typical_p < 1) n = keep_typical(s->candidates, n, p->typical_p);
    if (p->top_p < 1) n = keep_top_p(s->candidates, n, p->top_p);
    if (p->min_p > 0) n = keep_min_p(s->candidates, n, p->min_p);
    *token = draw(s, n);
    s->n_drawn++;
    return true;
}

size_t sample_top_k(const struct sampler *s) {
    struct sample_params p = s->params;
    p.bias = s->bias;
    size_t k = sample_most_likely(&p);
    return k < s->n_vocab ? k : 0;
}

bool sample_is_plain(const struct sampler *s) {
    const struct sample_params *p = &s->params;
    return p->temp > 0 && p->typical_p == 1 && !s->bias && !s->counts;
}

struct sample_draw sample_draw(const struct sampler *s) {
    const struct sample_params *p = &s->params;
    return (struct sample_draw){p->temp, p->top_p, p->min_p, uniform(p->seed, s->n_drawn)};
}

void sample_drawn(struct sampler *s) { s->n_drawn++; }

bool sample_among(struct sampler *s, const float *logits, const float *tokens, int32_t *token, struct err *e) {
    struct sample_candidate *c = s->candidates;
    size_t n = 0, k = sample_top_k(s), best = 0;
    for (size_t i = 0; i < k; i++) {
        float logit = adjust_one(s, (size_t)tokens[i], logits[i]);
        if (logit > -INFINITY) c[n++] = (struct sample_candidate){0, logit, logit, (int32_t)tokens[i]};
    }
    if (s->params.temp > 0) return choose(s, n, token, e);
    if (!n) return nothing_possible(s, e);
    for (size_t i = 1; i < n; i++)
        if (before(&c[i], &c[best])) best = i;
    *token = c[best].token;
    s->n_drawn++;
    return true;
}

bool sample_next(struct sampler *s, const float *logits, int32_t *token, struct err *e) {
    if (!check_logits(s, logits, e)) return false;
    const float *adjusted = adjust(s, logits);
    if (adjusted != logits && !check_logits(s, adjusted, e)) return err_prefix(e, "after bias and penalties");
    if (s->params.temp > 0) return choose(s, select_top_k(s, adjusted), token, e);
    *token = (int32_t)argmax(adjusted, s->n_vocab);
    if (adjusted[*token] == -INFINITY) return nothing_possible(s, e);
    s->n_drawn++;
    return true;
}
