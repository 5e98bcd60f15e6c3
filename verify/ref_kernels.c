/* ref_kernels: every kernel but the ones over positions (ref_attention.c) as the loop that defines it. */
#include <math.h>
#include "codegen/base.h"
#include "verify/ref.h"

void ref_embed(const struct ref_format *f, const void *table, size_t n_vocab, size_t d, const int32_t *ids,
               size_t n_tok, double scale, double *out) {
    size_t row_bytes = ref_format_bytes(f, d);
    for (size_t t = 0; t < n_tok; t++) {
        if (ids[t] < 0 || (size_t)ids[t] >= n_vocab) bug("token %zu has id %d of %zu", t, ids[t], n_vocab);
        ref_decode(f, (const uint8_t *)table + (size_t)ids[t] * row_bytes, d, out + t * d);
        for (size_t i = 0; i < d; i++) out[t * d + i] *= scale;
    }
}

void ref_rmsnorm(const double *x, const double *g, double eps, size_t n_tok, size_t d, double *out) {
    for (size_t t = 0; t < n_tok; t++, x += d, out += d) {
        double squares = 0;
        for (size_t i = 0; i < d; i++) squares += x[i] * x[i];
        double inv = 1 / sqrt(squares / (double)d + eps);
        for (size_t i = 0; i < d; i++) out[i] = x[i] * inv * (g ? g[i] : 1);
    }
}

void ref_layernorm(const double *x, const double *g, const double *b, double eps, size_t n_tok, size_t d, double *out) {
    for (size_t t = 0; t < n_tok; t++, x += d, out += d) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < d; i++) sum += x[i];
        double mean = sum / (double)d;
        for (size_t i = 0; i < d; i++) squares += (x[i] - mean) * (x[i] - mean);
        double inv = 1 / sqrt(squares / (double)d + eps);
        for (size_t i = 0; i < d; i++) out[i] = (x[i] - mean) * inv * (g ? g[i] : 1) + (b ? b[i] : 0);
    }
}

void ref_linear(const struct ref_format *f, const void *w, size_t n_rows, size_t k, const double *x, size_t n_tok,
                const double *bias, double *y, double *mag) {
    size_t row_bytes = ref_format_bytes(f, k);
    double *row = mem_new(k * sizeof *row);
    for (size_t r = 0; r < n_rows; r++) {
        ref_decode(f, (const uint8_t *)w + r * row_bytes, k, row);
        for (size_t t = 0; t < n_tok; t++) {
            double sum = bias ? bias[r] : 0, sum_abs = fabs(sum);
            for (size_t i = 0; i < k; i++) {
                double term = row[i] * x[t * k + i];
                sum += term;
                sum_abs += fabs(term);
            }
            y[t * n_rows + r] = sum;
            if (mag) mag[t * n_rows + r] = sum_abs;
        }
    }
    mem_free(row);
}

void ref_quantize_q8(const float *x, size_t n, size_t k, int8_t *codes, float *d, float *tie) {
    size_t n_blocks = (k + REF_Q8_BLOCK - 1) / REF_Q8_BLOCK;
    for (size_t row = 0; row < n; row++)
        for (size_t b = 0; b < n_blocks; b++) {
            size_t begin = b * REF_Q8_BLOCK, end = begin + REF_Q8_BLOCK < k ? begin + REF_Q8_BLOCK : k;
            float amax = 0;
            for (size_t i = begin; i < end; i++) {
                float a = fabsf(x[row * k + i]);
                if (!isfinite(a)) bug("activation %zu of row %zu is not finite", i, row);
                if (a > amax) amax = a;
            }
            float id = 127.0f / amax;
            bool empty = !isfinite(id);
            d[row * n_blocks + b] = empty ? 0 : amax / 127.0f;
            for (size_t i = begin; i < end; i++) {
                float q = empty ? 0 : x[row * k + i] * id;
                codes[row * k + i] = (int8_t)rintf(q);
                if (tie) tie[row * k + i] = fabsf(fabsf(q) - floorf(fabsf(q)) - 0.5f);
            }
        }
}

void ref_linear_q8(const struct ref_format *f, const void *w, size_t n_rows, size_t k, const int8_t *codes,
                   const float *d, size_t n_tok, const double *bias, double *y, double *mag) {
    size_t n_blocks = (k + REF_Q8_BLOCK - 1) / REF_Q8_BLOCK;
    double *x = mem_new(n_tok * k * sizeof *x); /* a 24-bit scale times an 8-bit code: exact in double */
    for (size_t t = 0; t < n_tok; t++)
        for (size_t i = 0; i < k; i++) x[t * k + i] = (double)d[t * n_blocks + i / REF_Q8_BLOCK] * codes[t * k + i];
    ref_linear(f, w, n_rows, k, x, n_tok, bias, y, mag);
    mem_free(x);
}

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* sqrt(2/pi) = M_2_SQRTPI * M_SQRT1_2 */
static double gelu_tanh(double x) {
    return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
}

void ref_silu_mul(const double *gate, const double *up, size_t n, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = silu(gate[i]) * up[i];
}

void ref_gelu_tanh_mul(const double *gate, const double *up, size_t n, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = gelu_tanh(gate[i]) * up[i];
}

void ref_gelu_tanh(const double *x, size_t n, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = gelu_tanh(x[i]);
}

/* erfc keeps the digits that 1 + erf loses in the left tail. */
void ref_gelu(const double *x, size_t n, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = 0.5 * x[i] * erfc(-x[i] * M_SQRT1_2);
}

void ref_add(const double *a, const double *b, size_t n, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

bool ref_argmax(const double *x, size_t n, size_t *index) {
    *index = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(x[i])) return *index = i, false;
        if (x[i] > x[*index]) *index = i;
    }
    return true;
}

double ref_nll(const double *logits, size_t n, size_t token) {
    if (token >= n) bug("token %zu of %zu", token, n);
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return NAN;
        max = fmax(max, logits[i]);
    }
    for (size_t i = 0; i < n; i++) sum += exp(logits[i] - max);
    return max + log(sum) - logits[token];
}
