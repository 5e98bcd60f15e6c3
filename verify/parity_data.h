/* parity_data: random inputs, and numbers that carry a bound of their error, for parity_kernels.c.
 *
 * U is half a unit in the last place of float32 around 1: one rounding errs by at most U·|result|, n roundings one
 * after the other by n·U·Σ|terms| (to first order, in any order of summation).
 */
#ifndef KGEN_PARITY_DATA_H
#define KGEN_PARITY_DATA_H

#include "verify/parity_case.h"

#define U 0x1p-24
/* What products of denormals may lose, a term: 2^-149 many times over. */
#define TINY 1e-41

/* Values with a bound on how far the kernel's own may be from them. */
struct approx {
    double *v, *err; /* [n] */
    size_t n;
};
struct approx approx_new(struct arena *a, size_t n);
struct approx approx_of(struct arena *a, const float *x, size_t n); /* exact */

/* n float32 values, normal with the given deviation, zeros of both signs among them. */
float *random_floats(struct arena *a, struct ref_rng *rng, size_t n, double scale);

/* Activations [n_tok][d] of different magnitudes from token to token; some blocks of 32 are zero, some so small that
 * their 8-bit scale vanishes. */
float *random_activations(struct arena *a, struct ref_rng *rng, size_t n_tok, size_t d);

/* A random matrix in a weight format, decoded. */
struct weights {
    struct ref_format *f;
    size_t rows, width;
    uint8_t *blocks; /* file format */
    double *v;       /* [rows][width] values */
    double *mag;     /* sum of |terms| of each value: scale·code and minimum are separate terms */
};
struct weights random_weights(struct arena *a, struct ref_rng *rng, const char *fmt, size_t rows, size_t width,
                              double scale);

/* x [n_tok][d] as the activation format leaves it. "f32": x with one rounding. "q8": codes of ref_quantize_q8; where
 * the error of x could move a value over a rounding tie, its code may be a step off. "bf16": x rounded to halves, ties
 * alike. */
struct approx activate(struct arena *a, const char *act, const struct approx *x, size_t n_tok, size_t d);

/* y[t][r] = Σ_k w[r][k]·x[t][k] with its bound. n = rows. act tells how many roundings a sum takes; with "bf16" the
 * weights are halves too. */
struct approx matvec(struct arena *a, const struct weights *w, const char *act, const struct approx *x, size_t n_tok);

/* x / rms(x) · g */
struct approx normed(struct arena *a, const struct approx *x, const float *g, double eps, size_t n_tok, size_t d);

/* silu(gate)·up */
struct approx gated(struct arena *a, const struct approx *gate, const struct approx *up);

/* Arguments of a case. */
struct parity_arg *put_in(struct parity_case *c, const char *name, const void *data, size_t bytes, size_t tok_bytes);
void put_weight(struct parity_case *c, const char *name, const struct weights *w);
void put_out(struct parity_case *c, const char *name, const struct approx *y, size_t n_tok); /* float32 */

#endif
