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

size_t ref_q8_block(size_t k) {
    for (size_t block = 256; block >= REF_Q8_RUN; block /= 2)
        if (k % block == 0) return block;
    bug("a width of %zu has no 8-bit form", k);
}

static float largest(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        if (!isfinite(a)) bug("activation %zu is not finite", i);
        if (a > most) most = a;
    }
    return most;
}

void ref_quantize_q8(const float *x, size_t n, size_t k, int8_t *codes, float *d, float *tie) {
    size_t block = ref_q8_block(k);
    for (size_t b = 0; b < n * k; b += block) {
        float amax = largest(x + b, block);
        bool empty = amax < 0x1p-107f;
        for (size_t r = b; r < b + block; r += REF_Q8_RUN) {
            float most = largest(x + r, REF_Q8_RUN);
            int e = 0;
            while (e < REF_Q8_HALVINGS && ldexpf(most, e + 1) <= amax) e++;
            d[r / REF_Q8_RUN] = empty ? 0 : ldexpf(amax / (127 << REF_Q8_HALVINGS), REF_Q8_HALVINGS - e);
            for (size_t i = r; i < r + REF_Q8_RUN; i++) {
                float q = empty ? 0 : ldexpf(x[i] * (127 / amax), e);
                codes[i] = (int8_t)rintf(q);
                if (tie) tie[i] = fabsf(fabsf(q) - floorf(fabsf(q)) - 0.5f);
            }
        }
    }
}

void ref_linear_q8(const struct ref_format *f, const void *w, size_t n_rows, size_t k, const int8_t *codes,
                   const float *d, size_t n_tok, const double *bias, double *y, double *mag) {
    double *x = mem_new(n_tok * k * sizeof *x); /* a 24-bit scale times an 8-bit code: exact in double */
    for (size_t i = 0; i < n_tok * k; i++) x[i] = (double)d[i / REF_Q8_RUN] * codes[i];
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
