#include "verify/parity_data.h"

#include <math.h>
#include <string.h>

struct approx approx_new(struct arena *a, size_t n) {
    return (struct approx){arena_new(a, n * sizeof(double)), arena_new(a, n * sizeof(double)), n};
}

struct approx approx_of(struct arena *a, const float *x, size_t n) {
    struct approx r = approx_new(a, n);
    for (size_t i = 0; i < n; i++) r.v[i] = x[i];
    return r;
}

float *random_floats(struct arena *a, struct ref_rng *rng, size_t n, double scale) {
    float *x = arena_new(a, n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(ref_rng_normal(rng) * scale);
        uint64_t corner = ref_rng_below(rng, 97);
        if (corner < 2) x[i] = corner ? 0.0f : -0.0f;
    }
    return x;
}

float *random_activations(struct arena *a, struct ref_rng *rng, size_t n_tok, size_t d) {
    static const double scales[] = {1, 1, 1e-4, 1, 1e4, 1, 1, 1e-39};
    float *x = arena_new(a, n_tok * d * sizeof *x);
    for (size_t t = 0; t < n_tok; t++) {
        float *row = random_floats(a, rng, d, scales[t % 8]);
        memcpy(x + t * d, row, d * sizeof *x);
        if (t % 4 == 1) memset(x + t * d + ref_rng_below(rng, (d + 31) / 32) * 32, 0, (d < 32 ? d : 32) * sizeof *x);
    }
    return x;
}

/* Σ over the format's scales of |the value with every other scale zero|: a value is linear in its scales. An offset of
 * the codes (q − 8) may be a term of its own, up to 4 times the largest value near it; only sums of float32 activations
 * see it, integer sums are exact. So the bound is kept for those: it is the one that is always true. */
static void magnitudes(const struct ref_format *f, const uint8_t *blocks, size_t n, const double *v, double *mag) {
    for (size_t i = 0; i < n; i++) mag[i] = f->scales[0].per ? 0 : fabs(v[i]);
    double part[256];
    uint8_t copy[512];
    for (size_t b = 0; f->scales[0].per && b < n / f->block_elems; b++)
        for (int s = 0; s < 3 && f->scales[s].per; s++) {
            memcpy(copy, blocks + b * f->block_bytes, f->block_bytes);
            for (int o = 0; o < 3 && f->scales[o].per; o++)
                if (o != s) memset(copy + f->scales[o].off, 0, 2);
            f->decode_block(copy, part);
            for (size_t i = 0; i < f->block_elems; i += 16) {
                double most = 0;
                for (size_t k = i; k < i + 16; k++) most = fmax(most, fabs(part[k]));
                for (size_t k = i; k < i + 16; k++) mag[b * f->block_elems + k] += 4 * most;
            }
        }
}

struct weights random_weights(struct arena *a, struct ref_rng *rng, const char *fmt, size_t rows, size_t width,
                              double scale) {
    struct weights w = {.f = arena_new(a, sizeof *w.f), .rows = rows, .width = width};
    if (!ref_format_find(fmt, w.f)) bug("no reference for the format %s", fmt);
    size_t n = rows * width;
    w.blocks = arena_new(a, ref_format_bytes(w.f, n));
    w.v = arena_new(a, n * sizeof *w.v);
    w.mag = arena_new(a, n * sizeof *w.mag);
    ref_random_blocks(w.f, rng, n, scale, w.blocks);
    ref_decode(w.f, w.blocks, n, w.v);
    magnitudes(w.f, w.blocks, n, w.v, w.mag);
    return w;
}

/* The bfloat16 nearest to v, the even one of two. */
static double halved(double v) {
    int e;
    frexp(v, &e);
    double ulp = ldexp(1, (e < -125 ? -125 : e) - 8);
    return isfinite(v) ? rint(v / ulp) * ulp : v;
}

/* How far the half of a number within err of v may be from v's own. */
static double halves_apart(double v, double err) {
    return err > 0 ? fmax(fabs(halved(v + err) - halved(v)), fabs(halved(v - err) - halved(v))) : 0;
}

/* The largest magnitude among n values from i on, and the largest error of one, 0 where all are exact. */
struct most {
    double v, err;
};
static struct most most_of(const struct approx *x, size_t i, size_t n) {
    struct most m = {0};
    for (size_t end = i + n; i < end; i++) {
        m.v = fmax(m.v, fabs(x->v[i]));
        if (x->err[i] > 0) m.err = fmax(m.err, x->err[i] + U * fabs(x->v[i]));
    }
    return m;
}

struct approx activate(struct arena *a, const char *act, const struct approx *x, size_t n_tok, size_t d) {
    struct approx y = approx_new(a, n_tok * d);
    if (strcmp(act, "bf16") == 0) {
        for (size_t i = 0; i < n_tok * d; i++) {
            y.v[i] = halved(x->v[i]);
            y.err[i] = halves_apart(x->v[i], x->err[i] > 0 ? x->err[i] + U * fabs(x->v[i]) : 0);
        }
        return y;
    }
    if (strcmp(act, "q8") != 0) {
        for (size_t i = 0; i < n_tok * d; i++) {
            y.v[i] = x->v[i];
            y.err[i] = x->err[i];
        }
        return y;
    }
    size_t block = ref_q8_block(d), n = n_tok * d;
    float *xf = arena_new(a, n * sizeof *xf), *tie = arena_new(a, n * sizeof *tie);
    float *scale = arena_new(a, n / REF_Q8_RUN * sizeof *scale);
    int8_t *codes = arena_new(a, n);
    for (size_t i = 0; i < n; i++) xf[i] = (float)x->v[i];
    ref_quantize_q8(xf, n_tok, d, codes, scale, tie);
    for (size_t b = 0; b < n; b += block) {
        struct most whole = most_of(x, b, block);
        /* Relative error of the scale: what the largest has, and the division's rounding where the two differ. */
        double rel = whole.err > 0 && whole.v > 0 ? whole.err / whole.v + 2 * U : 0;
        for (size_t r = b; r < b + block; r += REF_Q8_RUN) {
            struct most run = most_of(x, r, REF_Q8_RUN);
            double s = scale[r / REF_Q8_RUN], other_step = 0; /* of half or twice the size: what each of them may be off */
            for (int h = 1; h <= REF_Q8_HALVINGS; h++)
                if (fabs(ldexp(run.v, h) - whole.v) <= ldexp(run.err, h) + whole.err) other_step = 2;
            for (size_t i = r; i < r + REF_Q8_RUN; i++) {
                y.v[i] = s * codes[i];
                if (whole.err == 0) continue;
                if (s == 0) {
                    y.err[i] = fabs(x->v[i]) + x->err[i];
                    continue;
                }
                double off = (x->err[i] + U * fabs(x->v[i])) / s + 127 * (rel + 2 * U); /* of x / scale, in code steps */
                double steps = other_step + (tie[i] <= off ? 1 + floor(off) : 0);
                y.err[i] = fabs(y.v[i]) * rel + steps * s * (1 + rel);
            }
        }
    }
    return y;
}

/* The weights as a product with halves takes them, and how far they may be off: decoding errs by a few roundings of its
 * terms (32: where codes are taken from a mantissa with 128 in it), which now and then takes a weight over a tie. */
static struct approx halved_weights(struct arena *a, const struct weights *w) {
    struct approx h = approx_new(a, w->rows * w->width);
    for (size_t i = 0; i < h.n; i++) {
        h.v[i] = halved(w->v[i]);
        h.err[i] = halves_apart(w->v[i], w->f->scales[0].per ? 40 * U * w->mag[i] : 0);
    }
    return h;
}

static struct approx matvec_halves(struct arena *a, const struct weights *w, const struct approx *x, size_t n_tok) {
    struct approx y = approx_new(a, n_tok * w->rows), h = halved_weights(a, w);
    size_t n = w->width;
    for (size_t t = 0; t < n_tok; t++)
        for (size_t r = 0; r < w->rows; r++) {
            double sum = 0, mag = 0, err = 0;
            for (size_t k = 0; k < n; k++) {
                double wv = h.v[r * n + k], we = h.err[r * n + k], xv = x->v[t * n + k], xe = x->err[t * n + k];
                sum += wv * xv;
                mag += (fabs(wv) + we) * (fabs(xv) + xe);
                err += fabs(wv) * xe + we * (fabs(xv) + xe);
            }
            y.v[t * w->rows + r] = sum;
            /* Products are exact; a matrix unit may cut what it adds, which is two roundings. */
            y.err[t * w->rows + r] = (2 * (double)n + 8) * U * mag + err + (double)n * TINY;
        }
    return y;
}

struct approx matvec(struct arena *a, const struct weights *w, const char *act, const struct approx *x, size_t n_tok) {
    if (strcmp(act, "bf16") == 0) return matvec_halves(a, w, x, n_tok);
    struct approx y = approx_new(a, n_tok * w->rows);
    size_t n = w->width;
    /* 8-bit activations: dots of 16 or more are exact integers, each multiplied and added once or twice. */
    double roundings = strcmp(act, "q8") == 0 ? (double)n / 8 + 8 : (double)n + 8;
    for (size_t t = 0; t < n_tok; t++)
        for (size_t r = 0; r < w->rows; r++) {
            double sum = 0, mag = 0, err = 0;
            for (size_t k = 0; k < n; k++) {
                double wv = w->v[r * n + k], wm = w->mag[r * n + k], xv = x->v[t * n + k], xe = x->err[t * n + k];
                sum += wv * xv;
                mag += wm * (fabs(xv) + xe);
                err += fabs(wv) * xe;
            }
            y.v[t * w->rows + r] = sum;
            y.err[t * w->rows + r] = roundings * U * mag + err + (double)n * TINY;
        }
    return y;
}

struct approx normed(struct arena *a, const struct approx *x, const float *g, double eps, size_t n_tok, size_t d) {
    struct approx y = approx_new(a, n_tok * d);
    double *gd = arena_new(a, d * sizeof *gd);
    for (size_t i = 0; i < d; i++) gd[i] = g[i];
    ref_rmsnorm(x->v, gd, eps, n_tok, d, y.v);
    /* The sum of d squares has d + 1 roundings, its root half of that; then /d, +eps, sqrt, 1/, ·x, ·g. */
    double rel = ((double)d / 2 + 8) * U;
    for (size_t t = 0; t < n_tok; t++) {
        double most = 0, squares = 0;
        for (size_t i = 0; i < d; i++) {
            most = fmax(most, x->err[t * d + i]);
            squares += x->v[t * d + i] * x->v[t * d + i];
        }
        /* Errors of x, where it has any, pass through its own factor and through the root of the mean square. */
        double inv = 1 / sqrt(squares / (double)d + eps);
        for (size_t i = 0; i < d; i++)
            y.err[t * d + i] = rel * fabs(y.v[t * d + i]) + most * inv * fabs(gd[i]) * 2 + TINY;
    }
    return y;
}

struct approx gated(struct arena *a, const struct approx *gate, const struct approx *up) {
    struct approx y = approx_new(a, gate->n);
    ref_silu_mul(gate->v, up->v, gate->n, y.v);
    for (size_t i = 0; i < gate->n; i++) {
        /* |silu'| <= 1.1; exp errs by 2e-7 of itself, then 1+, /, ·. */
        double s = fabs(gate->v[i] / (1 + exp(-gate->v[i]))) + 1.1 * gate->err[i];
        y.err[i] = 1.1 * gate->err[i] * (fabs(up->v[i]) + up->err[i]) + s * up->err[i];
        y.err[i] += (2e-7 + 4 * U) * s * (fabs(up->v[i]) + up->err[i]) + 1e-35 * (1 + fabs(up->v[i]));
    }
    return y;
}

static struct parity_arg *put(struct parity_case *c, const char *name, enum parity_role role, size_t bytes) {
    if (c->n_args == PARITY_MAX_ARGS) bug("over %d arguments", PARITY_MAX_ARGS);
    struct parity_arg *a = &c->args[c->n_args++];
    *a = (struct parity_arg){.name = name, .role = role, .bytes = bytes, .width = 1};
    return a;
}

struct parity_arg *put_in(struct parity_case *c, const char *name, const void *data, size_t bytes, size_t tok_bytes) {
    struct parity_arg *a = put(c, name, PARITY_IN, bytes);
    a->data = data;
    a->tok_bytes = tok_bytes;
    return a;
}

void put_weight(struct parity_case *c, const char *name, const struct weights *w) {
    struct parity_arg *a = put(c, name, PARITY_WEIGHT, ref_format_bytes(w->f, w->rows * w->width));
    a->data = w->blocks;
    a->fmt = w->f;
    a->rows = w->rows;
    a->width = w->width;
}

void put_out(struct parity_case *c, const char *name, const struct approx *y, size_t n_tok) {
    struct parity_arg *a = put(c, name, PARITY_OUT, y->n * 4);
    a->want = y->v;
    a->tol = y->err;
    a->width = y->n / n_tok;
    a->tok_bytes = a->width * 4;
}
