/* ref: what every kernel is measured against: the block formats and the kernels' algebra in plain loops and double
 * precision, written from the definitions and sharing no code with dsl/ or codegen/.
 *
 * Guarantees: no function allocates except where its comment says so, none keeps state, results depend on arguments
 * only. Refuses (through bug(), because only our own tests call these): shapes that the format cannot have, ids and
 * positions out of range, activations that are not finite where they are quantized.
 *
 * Shapes are written [slowest]…[fastest], row-major, without padding.
 */
#ifndef KGEN_REF_H
#define KGEN_REF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "verify/ref_rng.h"

/* ---- block formats: ref_format.c ---- */

/* A weight format: n elements are n / block_elems blocks of block_bytes each, one after the other. */
struct ref_format {
    const char *name; /* "q4_k" */
    uint32_t ggml_id; /* the tensor type number in a GGUF file */
    uint32_t block_elems;
    uint32_t block_bytes;
    void (*decode_block)(const uint8_t *block, double *out); /* block[block_bytes] -> out[block_elems] */
    /* Where the float16 scales lie in a block, and by how much each is multiplied in a typical value; `per` 0 ends the
     * list. ref_random_blocks uses it to reach a wanted magnitude. */
    struct {
        uint16_t off, per;
    } scales[3];
};

/* The format called `name` (lower case). False, and *out is zeroed, when there is none. */
bool ref_format_find(const char *name, struct ref_format *out);

/* The i-th format, in order of ggml_id, for loops over all of them. False at the end. */
bool ref_format_at(size_t i, struct ref_format *out);

/* Bytes of n_elems elements; n_elems must be a multiple of block_elems. */
size_t ref_format_bytes(const struct ref_format *f, size_t n_elems);

/* Decodes n_elems elements exactly: each value of a format is a short polynomial in fields of a few bits, so that
 * double holds it without rounding (infinities and NaN of float formats are passed on). */
void ref_decode(const struct ref_format *f, const void *blocks, size_t n_elems, double *out);

/* Fills `out` (ref_format_bytes) with random blocks of values of the order of `scale` (> 0), all finite. Codes and
 * sub-scales take every bit pattern; scales and mins take both signs. Roughly one block in sixteen each has zero
 * scales, all code bits clear, or all code bits set, because saturation and sign errors hide in those corners. */
void ref_random_blocks(const struct ref_format *f, struct ref_rng *rng, size_t n_elems, double scale, void *out);

/* float16 and bfloat16 (IEEE 754 binary16; the upper half of binary32). Encoding rounds to nearest, ties to even. */
double ref_f16_decode(uint16_t bits);
uint16_t ref_f16_encode(double x);
double ref_bf16_decode(uint16_t bits);
uint16_t ref_bf16_encode(float x);

/* ---- kernels: ref_kernels.c, ref_attention.c ----
 * A `mag` argument, where there is one, may be NULL; otherwise it receives the sum of the absolute values of the terms
 * of each output. A float32 evaluation in any order errs by at most (terms + a few) * 2^-24 * mag, so that a tolerance
 * proportional to mag needs no guess about cancellation. */

/* out[t][:] = scale * table[ids[t]][:]; table is [n_vocab][d] in format f. */
void ref_embed(const struct ref_format *f, const void *table, size_t n_vocab, size_t d, const int32_t *ids,
               size_t n_tok, double scale, double *out);

/* out[t][i] = x[t][i] * g[i] / sqrt(mean_i(x[t][i]^2) + eps); x, out: [n_tok][d], g: [d] or NULL (all ones). A model
 * whose norm multiplies by 1 + weight passes g = 1 + weight. Zhang, Sennrich: Root Mean Square Layer Normalization,
 * 2019. */
void ref_rmsnorm(const double *x, const double *g, double eps, size_t n_tok, size_t d, double *out);

/* out[t][i] = (x[t][i] - mean) / sqrt(variance + eps) * g[i] + b[i], variance without Bessel's correction; b may be
 * NULL. Ba, Kiros, Hinton: Layer Normalization, 2016. */
void ref_layernorm(const double *x, const double *g, const double *b, double eps, size_t n_tok, size_t d, double *out);

/* y[t][r] = sum_k w[r][k] * x[t][k] (+ bias[r] unless NULL). w: [n_rows][k] in format f, x: [n_tok][k], y, mag:
 * [n_tok][n_rows]. Allocates one decoded row. */
void ref_linear(const struct ref_format *f, const void *w, size_t n_rows, size_t k, const double *x, size_t n_tok,
                const double *bias, double *y, double *mag);

/* The 8-bit activation format. Blocks along k: the longest of 256, 128, 64 and 32 that divides k; runs of 32 in them. All in
 * float32:
 *     amax = max |x| of the block,  id = 127 / amax,  e = the largest of 0 … 7 with 2^e · max |x| of the run <= amax,
 *     d = amax / (127 * 128) * 2^(7 - e),  code = rint(x * id * 2^e), ties to even.
 * Where amax is under 2^-107 (zero included) the block is d = 0, codes 0.
 * x: [n][k] finite, k a multiple of 32, codes: [n][k] in -127..127, d: [n][k/32]. tie, [n][k] or NULL: how far
 * |x * id * 2^e| is from the nearest half-integer, in code units; a kernel that evaluates it differently may only disagree
 * where it is tiny. */
enum { REF_Q8_RUN = 32, REF_Q8_HALVINGS = 3 };
size_t ref_q8_block(size_t k);
void ref_quantize_q8(const float *x, size_t n, size_t k, int8_t *codes, float *d, float *tie);

/* y[t][r] = sum over runs b of d[t][b] * sum_{k in b} w[r][k] * codes[t][k]: the product with activations as
 * ref_quantize_q8 left them, otherwise exact. Shapes and allocation as ref_linear; mag: of the terms w * code * d. */
void ref_linear_q8(const struct ref_format *f, const void *w, size_t n_rows, size_t k, const int8_t *codes,
                   const float *d, size_t n_tok, const double *bias, double *y, double *mag);

/* Rotates pair i of the first rot_dim elements of every head by angle = pos * pos_scale * base^(-2i/rot_dim) /
 * factors[i]. REF_ROPE_NORM pairs (2i, 2i+1), as llama; REF_ROPE_NEOX pairs (i, i + rot_dim/2), as qwen and gemma. x:
 * [n_tok][n_heads] [head_dim] in place, pos: [n_tok], factors: [rot_dim/2] or NULL (ones). rot_dim even, at most
 * head_dim; the rest of a head is left as it is. Su et al.: RoFormer, 2021. */
enum ref_rope_style { REF_ROPE_NORM, REF_ROPE_NEOX };
struct ref_rope {
    enum ref_rope_style style;
    size_t rot_dim;
    double base;
    double pos_scale; /* 1 where positions are not compressed; 1/8 for a linear scaling by 8 */
    const double *factors;
};
void ref_rope(const struct ref_rope *p, const int64_t *pos, size_t n_tok, size_t n_heads, size_t head_dim, double *x);

/* Causal attention with grouped queries. Query t stands at position start + t, key j at position j, and key j is
 * visible to position p when j <= p and (window == 0 or p - j < window). Head h uses key head h / (n_heads / n_kv). s =
 * scale * (q . k);  s = cap * tanh(s / cap) where cap > 0;  out = sum_j softmax(s)_j * v_j q, out, mag:
 * [n_tok][n_heads][head_dim]; k, v: [n_keys][n_kv][head_dim]; start + n_tok <= n_keys, so that every query sees at
 * least itself. Allocates the scores of one query.
 *
 * tile > 0: the weights of each tile of so many keys, counted from key 0, are rounded to BF16 as exp(s - the tile's
 * largest s) before they are used. unsure [n_tok][n_heads] is then the relative error another evaluation may have made
 * of one before rounding, and slack [n_tok][n_heads][head_dim] becomes how far out may be off where that decides how a
 * weight rounds. */
struct ref_attention {
    size_t n_heads, n_kv, head_dim;
    size_t start, window;
    double scale, cap;
    size_t tile;
    const double *unsure;
    double *slack;
};
/* x in BF16, zero below 2^-126. */
double ref_bf16_round(double x);
void ref_attention(const struct ref_attention *p, const double *q, size_t n_tok, const double *k, const double *v,
                   size_t n_keys, double *out, double *mag);

/* The same in three steps, without rounding of weights. scores, weights, mag of scores: [n_tok][n_heads][n_keys]; a
 * score is -infinity where the token does not see the key. ref_softmax: over rows of n, -infinity becomes 0. */
void ref_attention_scores(const struct ref_attention *p, const double *q, size_t n_tok, const double *k, size_t n_keys,
                          double *scores, double *mag);
void ref_softmax(const double *x, size_t n_rows, size_t n, double *out);
void ref_attention_values(const struct ref_attention *p, const double *weights, size_t n_tok, const double *v,
                          size_t n_keys, double *out, double *mag);

/* Elementwise over n values; out may be an input. silu(x) = x / (1 + exp(-x)); gelu is x * Phi(x) with the exact normal
 * distribution; gelu_tanh is its approximation x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))). Hendrycks, Gimpel:
 * Gaussian Error Linear Units, 2016; Shazeer: GLU Variants Improve Transformer, 2020. */
void ref_silu_mul(const double *gate, const double *up, size_t n, double *out);
void ref_gelu_tanh_mul(const double *gate, const double *up, size_t n, double *out);
void ref_gelu_tanh(const double *x, size_t n, double *out);
void ref_gelu(const double *x, size_t n, double *out);
void ref_add(const double *a, const double *b, size_t n, double *out);

/* The index of the largest of x[n], n > 0, the lowest one on a tie. False where a value is NaN; *index is then where.
 */
bool ref_argmax(const double *x, size_t n, size_t *index);

/* -log softmax(logits)[token] in nats; logits: [n]. Logits of -inf have no probability; one that is NaN or +inf makes
 * the result NaN. */
double ref_nll(const double *logits, size_t n, size_t token);

#endif
