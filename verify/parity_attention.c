/* parity_attention: the kernels over the KV cache, for parity_kernels.c. */
#include "verify/parity_attention.h"

#include <math.h>
#include <string.h>

#include "verify/parity_data.h"

enum { PAGE = 256, TILE = 64 }; /* of the KV cache: dsl/access.lua */

/* ---- the KV cache ---- */

/* A pool of pages in random order; what no key fills is the bytes 0xff: NaN in every float format. */
struct pool {
    size_t n_pages, nkv, hd, elem;
    bool paired; /* BF16, two elements along the axis of the sums side by side */
    int32_t *pages;
    uint8_t *bytes;
    size_t size;
};

static struct pool pool_new(struct arena *a, const char *fmt, size_t n_keys, size_t nkv, size_t hd) {
    struct pool p = {.n_pages = (n_keys + PAGE - 1) / PAGE, .nkv = nkv, .hd = hd};
    p.paired = strcmp(fmt, "bf16") == 0;
    p.elem = strcmp(fmt, "q8_0") == 0 ? 1 : strcmp(fmt, "f32") == 0 ? 4 : 2;
    p.size = p.n_pages * nkv * PAGE * (p.elem == 1 ? hd + hd / 32 * 2 : hd * p.elem);
    p.bytes = arena_new(a, p.size);
    memset(p.bytes, 0xff, p.size);
    return p;
}

static int32_t *random_pages(struct arena *a, struct ref_rng *rng, size_t n) {
    int32_t *pages = arena_new(a, n * sizeof *pages);
    for (size_t i = 0; i < n; i++) pages[i] = (int32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = ref_rng_below(rng, i);
        int32_t t = pages[i - 1];
        pages[i - 1] = pages[j];
        pages[j] = t;
    }
    return pages;
}

/* Stores a block of 32 elements from i on as Q8_0 and returns the values as stored. In each tile the scales come first:
 * [block][key] and then [i][key] for keys, [key][block] and [key][i] for values. */
static void pool_put_q8(struct pool *p, const int32_t *pages, bool keys, size_t h, size_t key, size_t i, const float *x,
                        double *stored) {
    size_t nb = p->hd / 32, tile_bytes = TILE * (p->hd + nb * 2), in = key % PAGE, t = in % TILE, b = i / 32;
    uint8_t *tile = p->bytes + (((size_t)pages[key / PAGE] * p->nkv + h) * (PAGE / TILE) + in / TILE) * tile_bytes;
    float amax = 0;
    for (int e = 0; e < 32; e++) amax = fmaxf(amax, fabsf(x[e]));
    bool none = amax < 3.8e-37f;
    float inverse = none ? 0 : 127.0f / amax;
    uint16_t d = ref_f16_encode(none ? 0 : (double)(amax / 127.0f));
    memcpy(tile + (keys ? b * TILE + t : t * nb + b) * 2, &d, 2);
    for (size_t e = 0; e < 32; e++) {
        int8_t q = (int8_t)nearbyintf(x[e] * inverse);
        memcpy(tile + TILE * nb * 2 + (keys ? (i + e) * TILE + t : t * p->hd + i + e), &q, 1);
        stored[e] = ref_f16_decode(d) * q;
    }
}

/* Stores one element and returns its value as stored. Within a page, keys lie in tiles [i][key], values as rows; in
 * pairs keys in tiles [i / 2][key][i % 2], values as [key / 2][i][key % 2]. */
static double pool_put(struct pool *p, const int32_t *pages, bool keys, size_t h, size_t key, size_t i, float x) {
    size_t in = key % PAGE, at = ((size_t)pages[key / PAGE] * p->nkv + h) * PAGE * p->hd;
    if (p->paired)
        at += keys ? in / TILE * TILE * p->hd + (i / 2 * TILE + in % TILE) * 2 + i % 2
                   : (in / 2 * p->hd + i) * 2 + in % 2;
    else
        at += keys ? in / TILE * TILE * p->hd + i * TILE + in % TILE : in * p->hd + i;
    if (p->elem == 4) {
        memcpy(p->bytes + at * 4, &x, 4);
        return x;
    }
    uint16_t half = p->paired ? ref_bf16_encode((float)ref_bf16_round(x)) : ref_f16_encode(x);
    memcpy(p->bytes + at * 2, &half, 2);
    return p->paired ? ref_bf16_decode(half) : ref_f16_decode(half);
}

/* A row of one head and key, in whatever the pool holds. stored: hd values as read back. */
static void pool_put_row(struct pool *p, const int32_t *pages, bool keys, size_t h, size_t key, const float *x,
                         double *stored) {
    if (p->elem == 1)
        for (size_t i = 0; i < p->hd; i += 32) pool_put_q8(p, pages, keys, h, key, i, x + i, stored + i);
    else
        for (size_t i = 0; i < p->hd; i++) stored[i] = pool_put(p, pages, keys, h, key, i, x[i]);
}

/* Runs of {position, tokens}. */
static void set_runs(struct parity_shape *s, const int (*runs)[2], int n) {
    for (s->n_runs = 0; s->n_runs < n; s->n_runs++) {
        s->runs[s->n_runs].pos = runs[s->n_runs][0];
        s->runs[s->n_runs].tok = runs[s->n_runs][1];
    }
}

size_t kv_append_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    static const int heads[][2] = {{3, 16}, {1, 64}, {2, 80}, {2, 128}};
    size_t n = 0;
    for (size_t i = 0; i < (quick ? 1 : 4); i++) {
        struct parity_shape s = *base;
        s.nkv = heads[i][0];
        s.hd = heads[i][1];
        static const int runs[][2] = {{0, 1}, {30, 3}, {250, 9}, {256, 1}, {583, 17}};
        set_runs(&s, runs, 5);
        n = add_shape(list, n, s);
    }
    return n;
}

json_t *kv_append_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:s}, s:{s:i, s:i}}", "kernel", "kv_append", "formats", "KV", s->fmt[0], "sizes", "nkv",
                     s->nkv, "hd", s->hd);
}

void kv_append_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, nkv = (size_t)s->nkv, hd = (size_t)s->hd, n = n_tok * nkv * hd;
    c->pos = s->runs[run].pos;
    float *x[2] = {random_floats(&c->arena, rng, n, 3), random_floats(&c->arena, rng, n, 3)};
    x[0][0] = 1e-6f; /* a denormal of float16 */
    struct pool before = pool_new(&c->arena, s->fmt[0], (size_t)c->pos + n_tok, nkv, hd);
    c->n_pages = (int64_t)before.n_pages;
    int32_t *pages = random_pages(&c->arena, rng, before.n_pages);
    put_in(c, "k", x[0], n * 4, nkv * hd * 4);
    put_in(c, "v", x[1], n * 4, nkv * hd * 4);
    put_in(c, "pages", pages, before.n_pages * 4, 0);
    double *stored = arena_new(&c->arena, hd * sizeof *stored);
    for (int which = 0; which < 2; which++) {
        struct pool after = pool_new(&c->arena, s->fmt[0], (size_t)c->pos + n_tok, nkv, hd);
        for (size_t t = 0; t < n_tok; t++)
            for (size_t h = 0; h < nkv; h++)
                pool_put_row(&after, pages, which == 0, h, (size_t)c->pos + t, x[which] + (t * nkv + h) * hd, stored);
        struct parity_arg *o = &c->args[c->n_args++];
        *o = (struct parity_arg){.name = which ? "vc" : "kc",
                                 .role = PARITY_OUT,
                                 .data = before.bytes,
                                 .bytes = before.size,
                                 .width = hd,
                                 .exact = after.bytes,
                                 .elem_bytes = after.elem};
    }
}

/* ---- attention ---- */

/* Factors as they are, and rounded to 16 bits where the cache holds no more. */
size_t attention_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    static const int heads[][4] = {
        {3, 1, 16, 0}, {9, 3, 64, 40}, {2, 2, 32, 300}, {4, 1, 128, 0},
        {4, 2, 80, 0}, {3, 3, 24, 1},  {4, 1, 256, 70}}; /* heads, key heads, width, window */
    static const int runs[][2] = {{0, 1}, {0, 17}, {30, 1}, {29, 5}, {31, 1}, {32, 1}, {250, 9}, {255, 1}, {583, 17}};
    static const char *const prods[] = {NULL, "f16", "bf16"};
    bool f16 = strcmp(base->fmt[0], "f16") == 0, bf16 = strcmp(base->fmt[0], "bf16") == 0;
    size_t n = 0;
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < (quick || (f16 && p == 2) ? 2 : 7) && (p == 0 || f16 || (bf16 && p == 2)); i++) {
            struct parity_shape s = *base;
            s.nh = heads[i][0];
            s.nkv = heads[i][1];
            s.hd = heads[i][2];
            s.window = heads[i][3];
            s.prod = prods[p];
            set_runs(&s, runs, 9);
            n = add_shape(list, n, s);
            if (bf16 && p == 2) list[n - 1].small = i == 0;
        }
    return n;
}

static const char *prod_of(const struct parity_shape *s) {
    return s->prod ? s->prod : "f32";
}

bool parity_in_tiles(const struct parity_shape *s) {
    return s->prod && s->fmt[0] && strcmp(s->fmt[0], "bf16") == 0;
}

static double unit_of(const struct parity_shape *s) {
    return strcmp(prod_of(s), "f32") == 0 ? U : 2 * U;
}

static double rounded(const struct parity_shape *s, double x) {
    const char *prod = prod_of(s);
    if (strcmp(prod, "f16") == 0) return ref_f16_decode(ref_f16_encode(x));
    if (strcmp(prod, "bf16") == 0) return ref_bf16_round(x);
    return x;
}

json_t *attention_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:b, s:{s:s}, s:{s:i, s:i, s:i}, s:{s:f, s:i, s:s}}", "kernel", "attention", "splits", true,
                     "formats", "KV", s->fmt[0], "sizes", "nh", s->nh, "nkv", s->nkv, "hd", s->hd, "params", "scale",
                     1 / sqrt((double)s->hd), "window", s->window, "prod", prod_of(s));
}

/* The largest error of a score of each query and head [n_tok][n_heads]: of a sum of hd products, scaled. */
static void score_errors(const struct ref_attention *p, const double *q, const double *k, size_t n_tok, double unit,
                         double *out) {
    for (size_t t = 0; t < n_tok; t++)
        for (size_t h = 0; h < p->n_heads; h++) {
            size_t end = p->start + t + 1, group = p->n_heads / p->n_kv;
            const double *qh = q + (t * p->n_heads + h) * p->head_dim;
            double worst = 0;
            for (size_t j = 0; j < end; j++) {
                const double *kj = k + (j * p->n_kv + h / group) * p->head_dim;
                double terms = 0;
                for (size_t i = 0; i < p->head_dim; i++) terms += fabs(qh[i] * kj[i]);
                worst = fmax(worst, terms * p->scale);
            }
            out[t * p->n_heads + h] = ((double)p->head_dim + 4) * unit * worst;
        }
}

/* The relative error of an output's weights: twice the largest error of a score, then exp; exp again for each time the
 * running maximum moved: at most once a tile, then once a page. Factors rounded to 16 bits: q and k are so in the
 * reference; a weight, once in a sum of them and once in one of products, and a value err by half a unit each, an f16
 * weight below 2^-14 of its tile's largest by 2^-25 of that; and a matrix unit may cut what it adds where float32 would
 * round. Where the reference rounds weights and values too: by what decides how a weight rounds, and by what is below
 * 2^-126, which dots of BF16 pairs drop. */
static void attention_bounds(const struct parity_shape *s, const struct ref_attention *p, const double *score,
                             const double *v, size_t n_tok, const double *mag, double *err) {
    bool f16 = strcmp(prod_of(s), "f16") == 0, bf16 = strcmp(prod_of(s), "bf16") == 0;
    double half = f16 ? 0x1p-11 : bf16 && !p->tile ? 0x1p-8 : 0, unit = unit_of(s), most = 0;
    for (size_t i = 0; i < (p->start + n_tok) * p->n_kv * p->head_dim; i++) most = fmax(most, fabs(v[i]));
    for (size_t t = 0; t < n_tok; t++)
        for (size_t h = 0; h < p->n_heads; h++) {
            size_t end = p->start + t + 1;
            double merges = PAGE / TILE + (double)(end / PAGE) + 2;
            double rel = 2 * score[t * p->n_heads + h] + merges * 2 * 2e-7 +
                         (double)(2 * TILE + 3 * PAGE / TILE + end / PAGE + 8) * unit;
            for (size_t i = 0; i < p->head_dim; i++) {
                size_t at = (t * p->n_heads + h) * p->head_dim + i;
                err[at] = (rel + 3 * half) * mag[at] + (f16 ? 2 * TILE * 0x1p-25 * most : 0) + TINY;
                if (p->tile) err[at] += p->slack[at] + (double)(end + p->head_dim) * 0x1p-126;
            }
        }
}

/* Random keys and values of n_keys tokens in pages; k, v [n_keys][nkv][hd] as stored. */
struct cache_case {
    struct pool kc, vc;
    int32_t *pages;
    double *k, *v;
};

static struct cache_case random_cache(struct arena *a, const struct parity_shape *s, size_t n_keys,
                                      struct ref_rng *rng) {
    size_t nkv = (size_t)s->nkv, hd = (size_t)s->hd;
    struct cache_case r = {.kc = pool_new(a, s->fmt[0], n_keys, nkv, hd),
                           .vc = pool_new(a, s->fmt[0], n_keys, nkv, hd)};
    r.pages = random_pages(a, rng, r.kc.n_pages);
    float *row = arena_new(a, 2 * hd * sizeof *row);
    r.k = arena_new(a, n_keys * nkv * hd * sizeof *r.k);
    r.v = arena_new(a, n_keys * nkv * hd * sizeof *r.v);
    for (size_t j = 0, at = 0; j < n_keys; j++) {
        double strong = ref_rng_below(rng, 40) ? 1 : 6; /* a key that most weight goes to, so that the maximum moves */
        for (size_t h = 0; h < nkv; h++, at += hd) {
            for (size_t i = 0; i < hd; i++) {
                row[i] = (float)(strong * ref_rng_normal(rng));
                row[hd + i] = (float)ref_rng_normal(rng);
            }
            pool_put_row(&r.kc, r.pages, true, h, j, row, r.k + at);
            pool_put_row(&r.vc, r.pages, false, h, j, row + hd, r.v + at);
        }
    }
    return r;
}

static struct ref_attention reference_of(const struct parity_shape *s, const struct parity_case *c) {
    return (struct ref_attention){.n_heads = (size_t)s->nh,
                                  .n_kv = (size_t)s->nkv,
                                  .head_dim = (size_t)s->hd,
                                  .start = (size_t)c->pos,
                                  .window = (size_t)s->window,
                                  .scale = 1 / sqrt((double)s->hd)};
}

void attention_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, nh = (size_t)s->nh, nkv = (size_t)s->nkv, hd = (size_t)s->hd;
    c->pos = s->runs[run].pos;
    size_t n_keys = (size_t)c->pos + n_tok, n = n_tok * nh * hd;
    struct arena *a = &c->arena;
    float *q = random_floats(a, rng, n, 2);
    struct cache_case cache = random_cache(a, s, n_keys, rng);
    c->n_pages = (int64_t)cache.kc.n_pages;
    struct approx qa = approx_of(a, q, n), y = approx_new(a, n);
    double *mag = arena_new(a, n * sizeof *mag);
    struct ref_attention p = reference_of(s, c);
    double *score = arena_new(a, n_tok * nh * sizeof *score), *unsure = arena_new(a, n_tok * nh * sizeof *unsure);
    for (size_t i = 0; i < n; i++) qa.v[i] = rounded(s, qa.v[i]);
    for (size_t i = 0; i < n_keys * nkv * hd; i++) cache.k[i] = rounded(s, cache.k[i]);
    score_errors(&p, qa.v, cache.k, n_tok, unit_of(s), score);
    for (size_t i = 0; i < n_tok * nh; i++) unsure[i] = 2 * score[i] + 4e-7; /* exp, and its argument */
    if (parity_in_tiles(s)) {
        p.tile = TILE;
        p.unsure = unsure;
        p.slack = arena_new(a, n * sizeof *p.slack);
    }
    ref_attention(&p, qa.v, n_tok, cache.k, cache.v, n_keys, y.v, mag);
    attention_bounds(s, &p, score, cache.v, n_tok, mag, y.err);
    put_in(c, "q", q, n * 4, nh * hd * 4);
    put_in(c, "kc", cache.kc.bytes, cache.kc.size, 0);
    put_in(c, "vc", cache.vc.bytes, cache.vc.size, 0);
    put_in(c, "pages", cache.pages, cache.kc.n_pages * 4, 0);
    put_out(c, "y", &y, n_tok);
}

/* ---- the three kernels of plain attention; scores and weights lie in pages of keys, those of none behind the last
 * ----
 */

static const double UNSEEN = -1e30F; /* the score of a key that a token does not see */

json_t *attention_scores_spec(const struct parity_shape *s) {
    json_t *spec = attention_spec(s);
    json_object_set_new(spec, "kernel", json_string("attention_scores"));
    json_object_del(spec, "splits");
    return spec;
}

void attention_scores_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, nh = (size_t)s->nh, nkv = (size_t)s->nkv, hd = (size_t)s->hd;
    c->pos = s->runs[run].pos;
    size_t n_keys = (size_t)c->pos + n_tok, n = n_tok * nh * hd;
    struct arena *a = &c->arena;
    float *q = random_floats(a, rng, n, 2);
    struct cache_case cache = random_cache(a, s, n_keys, rng);
    c->n_pages = (int64_t)cache.kc.n_pages;
    size_t n_rows = n_tok * nh, width = cache.kc.n_pages * PAGE;
    struct approx qa = approx_of(a, q, n), scores = approx_new(a, n_rows * width);
    for (size_t i = 0; i < n; i++) qa.v[i] = rounded(s, qa.v[i]);
    for (size_t i = 0; i < n_keys * nkv * hd; i++) cache.k[i] = rounded(s, cache.k[i]);
    double *want = arena_new(a, n_rows * n_keys * sizeof *want), *mag = arena_new(a, n_rows * n_keys * sizeof *mag);
    struct ref_attention p = reference_of(s, c);
    ref_attention_scores(&p, qa.v, n_tok, cache.k, n_keys, want, mag);
    for (size_t i = 0; i < n_rows * width; i++) {
        size_t j = i % width, at = i / width * n_keys + j;
        bool seen = j < n_keys && isfinite(want[at]);
        scores.v[i] = seen ? want[at] : UNSEEN;
        /* Dots of BF16 pairs drop what is below 2^-126. */
        scores.err[i] = seen ? (double)(hd + 4) * (unit_of(s) * mag[at] + 0x1p-126) : 0;
    }
    put_in(c, "q", q, n * 4, nh * hd * 4);
    put_in(c, "kc", cache.kc.bytes, cache.kc.size, 0);
    put_in(c, "pages", cache.pages, cache.kc.n_pages * 4, 0);
    put_out(c, "s", &scores, n_tok);
}

size_t softmax_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    static const int heads[] = {3, 1, 9};
    size_t n = 0;
    for (size_t i = 0; i < (quick ? 1 : 3); i++) {
        struct parity_shape s = *base;
        s.nh = heads[i];
        static const int runs[][2] = {{0, 1}, {250, 9}, {583, 17}};
        set_runs(&s, runs, 3);
        n = add_shape(list, n, s);
    }
    return n;
}

json_t *softmax_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}}", "kernel", "softmax", "sizes", "nh", s->nh);
}

/* Each difference from the largest score is rounded once, which moves its exponential by as much relatively as it is
 * large; exp errs by 2e-7, and is 0 for results below 2^-126; of the sum and the quotient the roundings. */
void softmax_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, nh = (size_t)s->nh, n_rows = n_tok * nh;
    c->pos = s->runs[run].pos;
    c->n_pages = (c->pos + (int64_t)n_tok + PAGE - 1) / PAGE;
    size_t width = (size_t)c->n_pages * PAGE, n = n_rows * width;
    float *x = random_floats(&c->arena, rng, n, 1);
    for (size_t i = 0; i < n; i++) {
        size_t row = i / width, seen = (size_t)c->pos + row / nh + 1;
        x[i] *= row % 3 == 2 ? 40 : 3; /* of some rows most exponentials vanish */
        if (i % width >= seen) x[i] = (float)UNSEEN;
    }
    struct approx xa = approx_of(&c->arena, x, n), p = approx_new(&c->arena, n);
    ref_softmax(xa.v, n_rows, width, p.v);
    for (size_t i = 0; i < n; i++) {
        const double *row = xa.v + i / width * width;
        double most = row[0], moved = 0;
        for (size_t j = 1; j < width; j++) most = fmax(most, row[j]);
        for (size_t j = 0; j < width; j++) moved += p.v[i / width * width + j] * (most - row[j]) * U;
        double rel = U * (most - xa.v[i]) + moved + 2 * 2e-7 + (double)(width + 8) * U;
        p.err[i] = p.v[i] > 0 ? p.v[i] * rel + 0x1p-125 : 0;
    }
    put_in(c, "s", x, n * 4, nh * width * 4);
    put_out(c, "p", &p, n_tok);
}

json_t *attention_values_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:s}, s:{s:i, s:i, s:i}, s:{s:s}}", "kernel", "attention_values", "formats", "KV",
                     s->fmt[0], "sizes", "nh", s->nh, "nkv", s->nkv, "hd", s->hd, "params", "prod", prod_of(s));
}

void attention_values_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, nh = (size_t)s->nh, nkv = (size_t)s->nkv, hd = (size_t)s->hd;
    c->pos = s->runs[run].pos;
    size_t n_keys = (size_t)c->pos + n_tok, n_rows = n_tok * nh;
    struct arena *a = &c->arena;
    struct cache_case cache = random_cache(a, s, n_keys, rng);
    c->n_pages = (int64_t)cache.vc.n_pages;
    size_t width = cache.vc.n_pages * PAGE;
    float *p = arena_new(a, n_rows * width * sizeof *p);
    double *weights = arena_new(a, n_rows * n_keys * sizeof *weights);
    for (size_t i = 0; i < n_rows * width; i++) {
        size_t row = i / width, seen = (size_t)c->pos + row / nh + 1;
        if (i % width >= seen) continue;
        p[i] = (float)(ref_rng_uniform(rng) / (double)seen);
        weights[row * n_keys + i % width] = rounded(s, p[i]);
    }
    for (size_t i = 0; i < n_keys * nkv * hd; i++) cache.v[i] = rounded(s, cache.v[i]);
    struct approx y = approx_new(a, n_rows * hd);
    double *mag = arena_new(a, n_rows * hd * sizeof *mag);
    struct ref_attention r = reference_of(s, c);
    ref_attention_values(&r, weights, n_tok, cache.v, n_keys, y.v, mag);
    for (size_t i = 0; i < n_rows * hd; i++) y.err[i] = (double)(n_keys + 4) * (unit_of(s) * mag[i] + 0x1p-126);
    put_in(c, "p", p, n_rows * width * 4, nh * width * 4);
    put_in(c, "vc", cache.vc.bytes, cache.vc.size, 0);
    put_in(c, "pages", cache.pages, cache.vc.n_pages * 4, 0);
    put_out(c, "y", &y, n_tok);
}
