/* parity_kernels: for each kernel, the shapes it is checked at, and what it must compute. Tolerances are error bounds
 * of a float32 evaluation in any order, built up from the bounds in parity_data.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/sample.h"
#include "verify/parity_attention.h"
#include "verify/parity_data.h"

enum {
    TOK = 17,  /* tokens of a launch that is also run in parts */
    MANY = 67, /* a whole tile of a GPU, or enough to unpack weights for all of them, and a rest */
    LONG = 263 /* more than a pass over k takes at once (dsl/passes.lua) */
};

static const double NORM_EPS = 1e-5;

size_t add_shape(struct parity_shape *list, size_t n, struct parity_shape s) {
    if (n == PARITY_MAX_SHAPES) bug("over %d shapes", PARITY_MAX_SHAPES);
    if (s.hd % 32 && s.fmt[0] && strcmp(s.fmt[0], "q8_0") == 0) return n; /* a cache in blocks of 32 along a head */
    if (!s.n_runs) {
        s.runs[0].tok = TOK;
        s.n_runs = 1;
    }
    s.small = n == 0 || strcmp(list[n - 1].prod ? list[n - 1].prod : "", s.prod ? s.prod : "") != 0;
    list[n] = s;
    return n + 1;
}

static struct parity_shape with(const struct parity_shape *base, int d, int n) {
    struct parity_shape s = *base;
    s.d = d;
    s.n = n;
    return s;
}

/* The smallest width the blocks allow, for both. */
static int unit(const struct parity_shape *s, unsigned block) {
    int activation = s->act && strcmp(s->act, "f32") != 0 ? 32 : 1;
    return (int)block > activation ? (int)block : activation;
}

static struct parity_shape with_tokens(const struct parity_shape *base, int d, int n, int tok) {
    struct parity_shape s = with(base, d, n);
    s.runs[0].tok = tok;
    s.n_runs = 1;
    return s;
}

/* Widths up to 576 and odd numbers of rows. */
static size_t matrix_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    int least = unit(base, block);
    size_t n = 0;
    if (least == 1) {
        n = add_shape(list, n, with(base, 33, 7));
        if (quick) return n;
        n = add_shape(list, n, with(base, 1, 1));
        n = add_shape(list, n, with(base, 100, 33));
        n = add_shape(list, n, with(base, 512, 100));
    } else if (least == 32) {
        n = add_shape(list, n, with(base, 96, 7));
        n = add_shape(list, n, with_tokens(base, 64, 33, MANY));
        if (quick) return n;
        n = add_shape(list, n, with(base, 32, 1));
        n = add_shape(list, n, with(base, 64, 100));
        n = add_shape(list, n, with(base, 576, 33));
    } else {
        n = add_shape(list, n, with(base, 256, 7));
        n = add_shape(list, n, with_tokens(base, 768, 33, MANY));
        if (quick) return n;
        n = add_shape(list, n, with_tokens(base, 512, 280, LONG));
        n = add_shape(list, n, with(base, 512, 33));
        n = add_shape(list, n, with(base, 768, 1));
    }
    return n;
}

static size_t add_widths(const struct parity_shape *base, const int widths[6], bool quick, struct parity_shape *list) {
    size_t n = 0;
    for (size_t i = 0; i < (quick ? 3 : 6); i++) n = add_shape(list, n, with(base, widths[i], 0));
    return n;
}

static size_t width_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    return add_widths(base, (const int[]){33, 1, 7, 32, 100, 576}, quick, list);
}

static json_t *sizes_dn(const struct parity_shape *s) {
    return json_pack("{s:i, s:i}", "d", s->d, "n", s->n);
}

/* ---- embed ---- */

static size_t embed_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    struct parity_shape s = with(base, block > 1 ? (int)block : 33, 33);
    s.scale = 1;
    size_t n = add_shape(list, 0, s);
    s.d = block > 32 ? 512 : block > 1 ? 576 : 100;
    s.n = 100;
    s.scale = 11.3137085;
    return quick ? n : add_shape(list, n, s);
}

static json_t *embed_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:s}, s:{s:i, s:i}, s:{s:f}}", "kernel", "embed", "formats", "W", s->fmt[0], "sizes",
                     "vocab", s->n, "d", s->d, "params", "scale", s->scale);
}

static void embed_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d;
    struct weights w = random_weights(&c->arena, rng, s->fmt[0], (size_t)s->n, d, 1);
    int32_t *ids = arena_new(&c->arena, n_tok * sizeof *ids);
    for (size_t t = 0; t < n_tok; t++) ids[t] = (int32_t)ref_rng_below(rng, (uint64_t)s->n);
    ids[0] = s->n - 1;
    struct approx y = approx_new(&c->arena, n_tok * d);
    ref_embed(w.f, w.blocks, w.rows, d, ids, n_tok, s->scale, y.v);
    /* Two products and a difference to decode (float formats: none), one product with the scale. */
    for (size_t t = 0; t < n_tok; t++)
        for (size_t i = 0; i < d; i++) y.err[t * d + i] = 4 * U * w.mag[(size_t)ids[t] * d + i] * s->scale + TINY;
    put_in(c, "ids", ids, n_tok * 4, 4);
    put_weight(c, "w", &w);
    put_out(c, "y", &y, n_tok);
}

/* ---- rmsnorm, add, silu_mul ---- */

static json_t *rmsnorm_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}, s:{s:f}}", "kernel", "rmsnorm", "sizes", "d", s->d, "params", "eps", NORM_EPS);
}

static void rmsnorm_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, n = n_tok * d;
    float *x = random_activations(&c->arena, rng, n_tok, d), *g = random_floats(&c->arena, rng, d, 2);
    struct approx xa = approx_of(&c->arena, x, n), y = normed(&c->arena, &xa, g, NORM_EPS, n_tok, d);
    put_in(c, "x", x, n * 4, d * 4);
    put_in(c, "g", g, d * 4, 0);
    put_out(c, "y", &y, n_tok);
}

static json_t *add_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}}", "kernel", "add", "sizes", "d", s->d);
}

static void add_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, n = n_tok * d;
    float *a = random_activations(&c->arena, rng, n_tok, d), *b = random_floats(&c->arena, rng, n, 1);
    struct approx aa = approx_of(&c->arena, a, n), ba = approx_of(&c->arena, b, n), y = approx_new(&c->arena, n);
    ref_add(aa.v, ba.v, n, y.v);
    for (size_t i = 0; i < n; i++) y.err[i] = U * fabs(y.v[i]) + TINY;
    put_in(c, "a", a, n * 4, d * 4);
    put_in(c, "b", b, n * 4, d * 4);
    put_out(c, "y", &y, n_tok);
}

static json_t *add_bias_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}}", "kernel", "add_bias", "sizes", "d", s->d);
}

static void add_bias_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, n = n_tok * d;
    float *x = random_activations(&c->arena, rng, n_tok, d), *b = random_floats(&c->arena, rng, d, 1);
    struct approx y = approx_of(&c->arena, x, n);
    for (size_t i = 0; i < n; i++) {
        y.v[i] += b[i % d];
        y.err[i] = U * fabs(y.v[i]) + TINY;
    }
    put_in(c, "x", x, n * 4, d * 4);
    put_in(c, "b", b, d * 4, 0);
    put_out(c, "y", &y, n_tok);
}

static json_t *silu_mul_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}}", "kernel", "silu_mul", "sizes", "d", s->d);
}

static void silu_mul_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, n = n_tok * d;
    float *gate = random_floats(&c->arena, rng, n, 5), *up = random_activations(&c->arena, rng, n_tok, d);
    for (size_t i = 0; i < n; i += 11) gate[i] *= 30; /* over the range of exp, both ways */
    struct approx ga = approx_of(&c->arena, gate, n), ua = approx_of(&c->arena, up, n);
    struct approx y = gated(&c->arena, &ga, &ua);
    put_in(c, "gate", gate, n * 4, d * 4);
    put_in(c, "up", up, n * 4, d * 4);
    put_out(c, "y", &y, n_tok);
}

static json_t *gelu_mul_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}}", "kernel", "gelu_mul", "sizes", "d", s->d);
}

static void gelu_mul_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, n = n_tok * d;
    float *gate = random_floats(&c->arena, rng, n, 3), *up = random_activations(&c->arena, rng, n_tok, d);
    for (size_t i = 0; i < n; i += 11) gate[i] *= 10;
    struct approx ga = approx_of(&c->arena, gate, n), ua = approx_of(&c->arena, up, n), y = approx_new(&c->arena, n);
    ref_gelu_tanh_mul(ga.v, ua.v, n, y.v);
    /* tanh errs by 3e-7 absolutely, of which 1 + tanh may be all that is left; its argument by 5 roundings, which move
     * tanh by at most 0.45 of that, relatively (max |z·tanh'(z)|). */
    for (size_t i = 0; i < n; i++) {
        double g = fabs(ga.v[i] * ua.v[i]);
        y.err[i] = 0.5 * g * (3e-7 + 0.45 * 5 * U) + 4 * U * fabs(y.v[i]) + TINY;
    }
    put_in(c, "gate", gate, n * 4, d * 4);
    put_in(c, "up", up, n * 4, d * 4);
    put_out(c, "y", &y, n_tok);
}

/* ---- linear ---- */

static json_t *linear_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:s}, s:o, s:{s:s}}", "kernel", "linear", "formats", "W", s->fmt[0], "sizes",
                     sizes_dn(s), "params", "act", s->act);
}

static void linear_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, n = n_tok * d;
    float *x = random_activations(&c->arena, rng, n_tok, d);
    struct weights w = random_weights(&c->arena, rng, s->fmt[0], (size_t)s->n, d, 1);
    struct approx xa = approx_of(&c->arena, x, n), xq = activate(&c->arena, s->act, &xa, n_tok, d);
    struct approx y = matvec(&c->arena, &w, s->act, &xq, n_tok);
    put_in(c, "x", x, n * 4, d * 4);
    put_weight(c, "w", &w);
    put_out(c, "y", &y, n_tok);
}

/* ---- norm_qkv, swiglu_ffn ---- */

static size_t norm_qkv_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    int least = unit(base, block);
    struct parity_shape s = *base;
    s.d = least == 1 ? 33 : least == 32 ? 96 : least;
    s.nq = 33;
    s.nkv = 7;
    size_t n = add_shape(list, 0, s);
    if (quick) return n;
    s.d = least == 1 ? 100 : least == 32 ? 576 : 512;
    s.nq = 48;
    s.nkv = 16;
    return add_shape(list, n, s);
}

static json_t *norm_qkv_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:s, s:s, s:s}, s:{s:i, s:i, s:i}, s:{s:f, s:s}}", "kernel", "norm_qkv", "formats", "Q",
                     s->fmt[0], "K", s->fmt[1], "V", s->fmt[2], "sizes", "d", s->d, "nq", s->nq, "nkv", s->nkv,
                     "params", "eps", NORM_EPS, "act", s->act);
}

static void norm_qkv_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    static const char *const w_names[] = {"wq", "wk", "wv"}, *const y_names[] = {"q", "k", "v"};
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, n = n_tok * d;
    float *x = random_floats(&c->arena, rng, n, 3), *g = random_floats(&c->arena, rng, d, 1);
    struct approx xa = approx_of(&c->arena, x, n), h = normed(&c->arena, &xa, g, NORM_EPS, n_tok, d);
    struct approx hq = activate(&c->arena, s->act, &h, n_tok, d);
    put_in(c, "x", x, n * 4, d * 4);
    put_in(c, "g", g, d * 4, 0);
    for (int p = 0; p < 3; p++) {
        size_t rows = (size_t)(p == 0 ? s->nq : s->nkv);
        struct weights w = random_weights(&c->arena, rng, s->fmt[p], rows, d, 1 / sqrt((double)d));
        struct approx y = matvec(&c->arena, &w, s->act, &hq, n_tok);
        put_weight(c, w_names[p], &w);
        put_out(c, y_names[p], &y, n_tok);
    }
}

static size_t swiglu_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    int least = unit(base, block);
    size_t n = add_shape(list, 0, with(base, least == 1 ? 33 : 3 * least, least == 1 ? 7 : least));
    if (least > 32) list[0].d = least;
    if (quick) return n;
    return add_shape(list, n, with(base, least == 1 ? 32 : least > 32 ? 512 : 64, least == 1 ? 100 : 3 * least));
}

static json_t *swiglu_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:s, s:s, s:s}, s:{s:i, s:i}, s:{s:f, s:s}}", "kernel", "swiglu_ffn", "formats", "G",
                     s->fmt[0], "U", s->fmt[1], "D", s->fmt[2], "sizes", "d", s->d, "ff", s->n, "params", "eps",
                     NORM_EPS, "act", s->act);
}

static void swiglu_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, d = (size_t)s->d, ff = (size_t)s->n, n = n_tok * d;
    struct arena *a = &c->arena;
    float *x = random_floats(a, rng, n, 3), *g = random_floats(a, rng, d, 1);
    struct weights gate = random_weights(a, rng, s->fmt[0], ff, d, 1 / sqrt((double)d));
    struct weights up = random_weights(a, rng, s->fmt[1], ff, d, 1 / sqrt((double)d));
    struct weights down = random_weights(a, rng, s->fmt[2], d, ff, 1 / sqrt((double)ff));
    struct approx xa = approx_of(a, x, n), h = normed(a, &xa, g, NORM_EPS, n_tok, d);
    struct approx hq = activate(a, s->act, &h, n_tok, d);
    struct approx yg = matvec(a, &gate, s->act, &hq, n_tok), yu = matvec(a, &up, s->act, &hq, n_tok);
    struct approx m = gated(a, &yg, &yu), mq = activate(a, s->act, &m, n_tok, ff);
    struct approx y = matvec(a, &down, s->act, &mq, n_tok);
    for (size_t i = 0; i < n; i++) {
        y.v[i] += x[i];
        y.err[i] += U * fabs(y.v[i]);
    }
    put_in(c, "x", x, n * 4, d * 4);
    put_in(c, "g", g, d * 4, 0);
    put_weight(c, "w_gate", &gate);
    put_weight(c, "w_up", &up);
    put_weight(c, "w_down", &down);
    put_out(c, "y", &y, n_tok);
}

/* ---- rope ---- */

static size_t rope_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    static const int heads[][2] = {{3, 16}, {1, 64}, {2, 32}, {9, 80}, {4, 128}, {2, 24}};
    size_t n = 0;
    for (size_t i = 0; i < (quick ? 2 : 6); i++) {
        struct parity_shape s = *base;
        s.nh = heads[i][0];
        s.hd = heads[i][1];
        s.n_runs = 2;
        s.runs[0].tok = TOK;
        s.runs[1].pos = 583;
        s.runs[1].tok = 5;
        n = add_shape(list, n, s);
    }
    return n;
}

static json_t *rope_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i, s:i}}", "kernel", "rope", "sizes", "nh", s->nh, "hd", s->hd);
}

static void rope_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, nh = (size_t)s->nh, hd = (size_t)s->hd, n = n_tok * nh * hd;
    c->pos = s->runs[run].pos;
    c->ctx = c->pos + (int64_t)n_tok;
    float *x = random_floats(&c->arena, rng, n, 1);
    float *cosines = arena_new(&c->arena, (size_t)c->ctx * hd * 4),
          *sines = arena_new(&c->arena, (size_t)c->ctx * hd * 4);
    const double base = 10000;
    for (size_t p = 0; p < (size_t)c->ctx; p++)
        for (size_t i = 0; i < hd; i++) {
            double angle = (double)p * pow(base, -2.0 * (double)(i % (hd / 2)) / (double)hd);
            cosines[p * hd + i] = (float)cos(angle);
            sines[p * hd + i] = (float)(i < hd / 2 ? -sin(angle) : sin(angle));
        }
    struct approx y = approx_of(&c->arena, x, n);
    int64_t *pos = arena_new(&c->arena, n_tok * sizeof *pos);
    for (size_t t = 0; t < n_tok; t++) pos[t] = c->pos + (int64_t)t;
    struct ref_rope p = {.style = REF_ROPE_NEOX, .rot_dim = hd, .base = base, .pos_scale = 1};
    ref_rope(&p, pos, n_tok, nh, hd, y.v);
    /* Each table entry is rounded once, each product once, their sum once. */
    for (size_t i = 0; i < n; i++) {
        size_t e = i % hd, other = i - e + (e + hd / 2) % hd, at = (size_t)pos[i / (nh * hd)] * hd + e;
        y.err[i] = 4 * U * (fabs((double)x[i] * cosines[at]) + fabs((double)x[other] * sines[at])) + TINY;
    }
    put_in(c, "x", x, n * 4, nh * hd * 4);
    put_in(c, "cos", cosines, (size_t)c->ctx * hd * 4, 0);
    put_in(c, "sin", sines, (size_t)c->ctx * hd * 4, 0);
    put_out(c, "y", &y, n_tok);
}

/* ---- head_norm ---- */

static json_t *head_norm_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i, s:i}, s:{s:f}}", "kernel", "head_norm", "sizes", "nh", s->nh, "hd", s->hd, "params",
                     "eps", NORM_EPS);
}

static void head_norm_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, nh = (size_t)s->nh, hd = (size_t)s->hd, n = n_tok * nh * hd;
    float *x = random_activations(&c->arena, rng, n_tok, nh * hd), *g = random_floats(&c->arena, rng, hd, 2);
    struct approx xa = approx_of(&c->arena, x, n), y = normed(&c->arena, &xa, g, NORM_EPS, n_tok * nh, hd);
    put_in(c, "x", x, n * 4, nh * hd * 4);
    put_in(c, "g", g, hd * 4, 0);
    put_out(c, "y", &y, n_tok);
}

/* ---- argmax, and its halves ---- */

static size_t argmax_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    static const int widths[] = {33, 1, 600, 7, 100, 512, 1000, 40000};
    size_t n = 0;
    for (size_t i = 0; i < (quick ? 3 : 8); i++) n = add_shape(list, n, with(base, 0, widths[i]));
    return n;
}

static json_t *largest_spec(const struct parity_shape *s, const char *kernel) {
    return json_pack("{s:s, s:{s:i}}", "kernel", kernel, "sizes", "n", s->n);
}
static json_t *argmax_spec(const struct parity_shape *s) {
    return largest_spec(s, "argmax");
}
static json_t *parts_spec(const struct parity_shape *s) {
    return largest_spec(s, "largest_of_parts");
}
static json_t *in_part_spec(const struct parity_shape *s) {
    return largest_spec(s, "largest_in_its_part");
}

static float *put_logits(const struct parity_shape *s, size_t n_tok, struct ref_rng *rng, struct parity_case *c) {
    size_t n = (size_t)s->n;
    float *x = random_floats(&c->arena, rng, n_tok * n, 1);
    for (size_t t = 0; t < n_tok; t++) {
        float *row = x + t * n;
        for (size_t i = 0; i < n; i++) {
            if (t % 6 == 1) row[i] = 1;                                 /* all equal */
            if (t % 6 == 2) row[i] = (float)(int)ref_rng_below(rng, 4); /* many ties */
            if (t % 6 == 3) row[i] = -INFINITY;
            if (t % 6 == 4) row[i] = -fabsf(row[i]) - 1;
        }
        if (t % 6 == 5) row[ref_rng_below(rng, n)] = NAN; /* found: the logits are damaged */
    }
    put_in(c, "x", x, n_tok * n * 4, n * 4);
    return x;
}

/* The index of the largest of n values, a NaN where there is one. */
static size_t largest_of(struct parity_case *c, const float *x, size_t n) {
    double *d = arena_new(&c->arena, n * sizeof *d);
    for (size_t i = 0; i < n; i++) d[i] = x[i];
    size_t at;
    ref_argmax(d, n, &at);
    return at;
}

static void put_largest(struct parity_case *c, const float *x, size_t n_tok, size_t n) {
    struct approx v = approx_new(&c->arena, n_tok);
    int32_t *index = arena_new(&c->arena, n_tok * sizeof *index);
    for (size_t t = 0; t < n_tok; t++) {
        index[t] = (int32_t)largest_of(c, x + t * n, n);
        v.v[t] = x[t * n + (size_t)index[t]];
    }
    struct parity_arg *i = &c->args[c->n_args++];
    *i = (struct parity_arg){.name = "i",
                             .role = PARITY_OUT,
                             .bytes = n_tok * 4,
                             .tok_bytes = 4,
                             .width = 1,
                             .exact = index,
                             .elem_bytes = 4};
    put_out(c, "v", &v, n_tok);
}

/* The largest of each of 128 parts of a row: of equal multiples of 256 elements, those at the end overlapping. */
enum { PARTS = 128, PART_UNIT = 256 };
static float *largest_of_parts(struct parity_case *c, const float *x, size_t n_tok, size_t n) {
    size_t length = (n + PARTS * PART_UNIT - 1) / (PARTS * PART_UNIT) * PART_UNIT;
    if (length > n) length = n;
    float *m = arena_new(&c->arena, n_tok * PARTS * sizeof *m);
    for (size_t i = 0; i < n_tok * PARTS; i++) {
        size_t first = i % PARTS * length;
        const float *part = x + i / PARTS * n + (first < n - length ? first : n - length);
        m[i] = part[largest_of(c, part, length)];
    }
    return m;
}

static void argmax_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, n = (size_t)s->n;
    put_largest(c, put_logits(s, n_tok, rng, c), n_tok, n);
}

static void parts_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, n = (size_t)s->n;
    const float *m = largest_of_parts(c, put_logits(s, n_tok, rng, c), n_tok, n);
    struct approx y = approx_of(&c->arena, m, n_tok * PARTS);
    put_out(c, "m", &y, n_tok);
}

static void in_part_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, n = (size_t)s->n;
    const float *x = put_logits(s, n_tok, rng, c);
    put_in(c, "m", largest_of_parts(c, x, n_tok, n), n_tok * PARTS * 4, PARTS * 4);
    put_largest(c, x, n_tok, n);
}

/* ---- top_rank, top_pick: d elements in n groups, of which hd are kept; all but TOP_PADDING are valid ---- */

enum { TOP_PADDING = 5 };

static size_t top_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    static const int shapes[][3] = {{160, 32, 5}, {33, 1, 33}, {96, 96, 1}, {512, 64, 5}, {1000, 1, 40}, {704, 32, 7}};
    size_t n = 0;
    for (size_t i = 0; i < (quick ? 3 : 6); i++) {
        struct parity_shape s = with(base, shapes[i][0], shapes[i][1]);
        s.hd = shapes[i][2];
        n = add_shape(list, n, s);
    }
    return n;
}

static json_t *top_rank_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}, s:{s:i, s:i}}", "kernel", "top_rank", "sizes", "n", s->d, "params", "groups", s->n,
                     "valid", s->d - TOP_PADDING);
}

static json_t *top_pick_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i, s:i}, s:{s:i, s:i, s:i}}", "kernel", "top_pick", "sizes", "n", s->d, "kept",
                     s->n * s->hd, "params", "groups", s->n, "k", s->hd, "valid", s->d - TOP_PADDING);
}

static void put_exact(struct parity_case *c, const char *name, const float *want, size_t n_tok, size_t width) {
    c->args[c->n_args++] = (struct parity_arg){.name = name,
                                               .role = PARITY_OUT,
                                               .bytes = n_tok * width * 4,
                                               .tok_bytes = width * 4,
                                               .width = width,
                                               .exact = want,
                                               .elem_bytes = 4};
}

/* Values with many ties and some -inf; ids that fall. The padding is handed over as NaN, and returned as -inf. */
static void top_inputs(struct parity_case *c, struct ref_rng *rng, size_t n_tok, size_t n, bool with_nan, float **x,
                       float **id) {
    *x = random_floats(&c->arena, rng, n_tok * n, 1);
    *id = arena_new(&c->arena, n_tok * n * sizeof **id);
    for (size_t i = 0; i < n_tok * n; i++) {
        (*id)[i] = (float)(n - i % n);
        if (i / n % 3 == 1) (*x)[i] = (float)(int)ref_rng_below(rng, 4);
        if (ref_rng_below(rng, 8) == 0) (*x)[i] = -INFINITY;
        if (with_nan && i % n == n / 2) (*x)[i] = NAN; /* rank 0, and before no other */
    }
    float *given = arena_new(&c->arena, n_tok * n * sizeof *given);
    for (size_t i = 0; i < n_tok * n; i++) {
        bool padding = i % n >= n - TOP_PADDING;
        given[i] = padding ? NAN : (*x)[i];
        if (padding) (*x)[i] = -INFINITY;
    }
    put_in(c, "x", given, n_tok * n * 4, n * 4);
    put_in(c, "id", *id, n_tok * n * 4, n * 4);
}

/* By its definition: how many of the group are larger, or equal with a lower id. */
static float *top_ranks(struct parity_case *c, const float *x, const float *id, size_t n_tok, size_t n, size_t groups) {
    float *rank = arena_new(&c->arena, n_tok * n * sizeof *rank);
    for (size_t i = 0; i < n_tok * n; i++)
        for (size_t j = i / n * n + i % n % groups; j < i / n * n + n; j += groups)
            rank[i] += x[j] > x[i] || (x[j] == x[i] && id[j] < id[i]);
    return rank;
}

static void top_rank_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, n = (size_t)s->d;
    float *x, *id;
    top_inputs(c, rng, n_tok, n, true, &x, &id);
    put_exact(c, "rank", top_ranks(c, x, id, n_tok, n, (size_t)s->n), n_tok, n);
}

static void top_pick_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, n = (size_t)s->d, groups = (size_t)s->n, kept = groups * (size_t)s->hd;
    float *x, *id, *v = arena_new(&c->arena, n_tok * kept * 4), *picked = arena_new(&c->arena, n_tok * kept * 4);
    top_inputs(c, rng, n_tok, n, false, &x, &id);
    float *rank = top_ranks(c, x, id, n_tok, n, groups);
    for (size_t i = 0; i < n_tok * n; i++) {
        size_t to = i / n * kept + (size_t)rank[i] * groups + i % n % groups;
        if (rank[i] >= (float)s->hd) continue;
        v[to] = x[i] + 0.0F; /* a sum has no -0 */
        picked[to] = id[i];
    }
    put_in(c, "rank", rank, n_tok * n * 4, n * 4);
    put_exact(c, "v", v, n_tok, kept);
    put_exact(c, "i", picked, n_tok, kept);
}

/* ---- draw: from d logits; what runtime/sample.c chooses from the same ---- */

static int falling(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static size_t draw_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list) {
    (void)block;
    return add_widths(base, (const int[]){40, 1, 7, 64, 256, 33}, quick, list);
}

static json_t *draw_spec(const struct parity_shape *s) {
    return json_pack("{s:s, s:{s:i}}", "kernel", "draw", "sizes", "k", s->d);
}

static void draw_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c) {
    size_t n_tok = (size_t)s->runs[run].tok, k = (size_t)s->d;
    static const float temps[] = {1, 0.8F, 0.1F, 2.5F, 1e-42F, 1e30F}, parts[] = {0.95F, 1, 0.5F, 0, 0.999F}, least[] = {0, 0.05F, 1};
    float *v = random_floats(&c->arena, rng, n_tok * k, 3), *id = arena_new(&c->arena, n_tok * k * sizeof *id);
    float *chosen = arena_new(&c->arena, n_tok * sizeof *chosen), *most = arena_new(&c->arena, n_tok * sizeof *most);
    struct sample_draw *how = arena_new(&c->arena, n_tok * sizeof *how);
    for (size_t t = 0; t < n_tok; t++) {
        float *row = v + t * k, *ids = id + t * k;
        for (size_t i = 0; i < k; i++) ids[i] = (float)(i + 9 * (i + 1) / k); /* of equal logits the lower id comes first */
        for (size_t i = 0; i < k; i++) {
            if (t % 3 == 1) row[i] = (float)(int)ref_rng_below(rng, 4);
            if (i && t % 4 == 2 && ref_rng_below(rng, 3) == 0) row[i] = -INFINITY;
        }
        qsort(row, k, sizeof *row, falling);
        struct sample_params p = {.temp = temps[ref_rng_below(rng, 6)],
                                  .top_k = (int32_t)k,
                                  .typical_p = 1,
                                  .top_p = parts[ref_rng_below(rng, 5)],
                                  .min_p = least[ref_rng_below(rng, 3)],
                                  .repeat = 1,
                                  .seed = ref_rng_u64(rng)};
        struct sampler sampler;
        struct err e;
        int32_t token;
        if (!sample_open(&sampler, &p, k + 9, &e)) bug("%s", e.msg);
        how[t] = sample_draw(&sampler);
        if (!sample_among(&sampler, row, ids, &token, &e)) bug("%s", e.msg);
        sample_close(&sampler);
        chosen[t] = (float)token;
        most[t] = row[0];
    }
    put_in(c, "v", v, n_tok * k * 4, k * 4);
    put_in(c, "id", id, n_tok * k * 4, k * 4);
    put_in(c, "how", how, n_tok * sizeof *how, sizeof *how);
    put_exact(c, "i", chosen, n_tok, 1);
    put_exact(c, "most", most, n_tok, 1);
}

const struct parity_kernel parity_kernels[] = {
    {"embed", 1, false, false, embed_shapes, embed_spec, embed_build},
    {"rmsnorm", 0, false, false, width_shapes, rmsnorm_spec, rmsnorm_build},
    {"linear", 1, false, true, matrix_shapes, linear_spec, linear_build},
    {"add", 0, false, false, width_shapes, add_spec, add_build},
    {"add_bias", 0, false, false, width_shapes, add_bias_spec, add_bias_build},
    {"silu_mul", 0, false, false, width_shapes, silu_mul_spec, silu_mul_build},
    {"gelu_mul", 0, false, false, width_shapes, gelu_mul_spec, gelu_mul_build},
    {"head_norm", 0, false, false, rope_shapes, head_norm_spec, head_norm_build},
    {"rope", 0, false, false, rope_shapes, rope_spec, rope_build},
    {"kv_append", 0, true, false, kv_append_shapes, kv_append_spec, kv_append_build},
    {"attention", 0, true, false, attention_shapes, attention_spec, attention_build},
    {"attention_scores", 0, true, false, attention_shapes, attention_scores_spec, attention_scores_build},
    {"softmax", 0, false, false, softmax_shapes, softmax_spec, softmax_build},
    {"attention_values", 0, true, false, attention_shapes, attention_values_spec, attention_values_build},
    {"argmax", 0, false, false, argmax_shapes, argmax_spec, argmax_build},
    {"largest_of_parts", 0, false, false, argmax_shapes, parts_spec, parts_build},
    {"largest_in_its_part", 0, false, false, argmax_shapes, in_part_spec, in_part_build},
    {"top_rank", 0, false, false, top_shapes, top_rank_spec, top_rank_build},
    {"top_pick", 0, false, false, top_shapes, top_pick_spec, top_pick_build},
    {"draw", 0, false, false, draw_shapes, draw_spec, draw_build},
    {"norm_qkv", 3, false, true, norm_qkv_shapes, norm_qkv_spec, norm_qkv_build},
    {"swiglu_ffn", 3, false, true, swiglu_shapes, swiglu_spec, swiglu_build},
    {0},
};
