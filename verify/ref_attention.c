/* ref_attention: the two kernels that know positions: rotary embedding and attention. */
#include <math.h>
#include "codegen/base.h"
#include "verify/ref.h"

void ref_rope(const struct ref_rope *p, const int64_t *pos, size_t n_tok, size_t n_heads, size_t head_dim, double *x) {
    if (p->rot_dim % 2 || p->rot_dim > head_dim) bug("rot_dim %zu of head_dim %zu", p->rot_dim, head_dim);
    size_t half = p->rot_dim / 2;
    for (size_t t = 0; t < n_tok; t++)
        for (size_t i = 0; i < half; i++) {
            double angle = (double)pos[t] * p->pos_scale * pow(p->base, -2.0 * (double)i / (double)p->rot_dim);
            if (p->factors) angle /= p->factors[i];
            double c = cos(angle), s = sin(angle);
            size_t first = p->style == REF_ROPE_NORM ? 2 * i : i;
            size_t second = p->style == REF_ROPE_NORM ? 2 * i + 1 : i + half;
            for (size_t h = 0; h < n_heads; h++) {
                double *head = x + (t * n_heads + h) * head_dim;
                double a = head[first], b = head[second];
                head[first] = a * c - b * s;
                head[second] = a * s + b * c;
            }
        }
}

double ref_bf16_round(double x) {
    return fabs(x) < 0x1p-126 ? copysign(0, x) : ref_bf16_decode(ref_bf16_encode((float)x));
}

/* The weights of keys begin .. end-1 from their scores, rounded tile by tile; loose: by how much each may round
 * otherwise. */
static void round_weights(const struct ref_attention *p, size_t begin, size_t end, double max, double unsure,
                          double *weights, double *loose) {
    for (size_t first = begin, last; first < end; first = last) {
        last = (first / p->tile + 1) * p->tile < end ? (first / p->tile + 1) * p->tile : end;
        double top = -INFINITY;
        for (size_t j = first; j < last; j++) top = fmax(top, weights[j]);
        for (size_t j = first; j < last; j++) {
            double x = exp(weights[j] - top), scale = exp(top - max);
            weights[j] = ref_bf16_round(x) * scale;
            loose[j] = (ref_bf16_round(x * (1 + unsure)) - ref_bf16_round(x * (1 - unsure))) * scale;
        }
    }
}

/* One query of one head over keys begin .. end-1. k, v point at the key head's first element of key 0; `stride` is the
 * distance of consecutive keys in elements. weights: scratch of 2 * end doubles. at: the query's and head's number. */
static void attend(const struct ref_attention *p, const double *q, const double *k, const double *v, size_t stride,
                   size_t begin, size_t end, size_t at, double *weights, double *out, double *mag) {
    double *loose = weights + end;
    double max = -INFINITY, sum = 0;
    for (size_t j = begin; j < end; j++) {
        double dot = 0;
        for (size_t i = 0; i < p->head_dim; i++) dot += q[i] * k[j * stride + i];
        double score = dot * p->scale;
        if (p->cap > 0) score = p->cap * tanh(score / p->cap);
        weights[j] = score;
        max = fmax(max, score);
    }
    if (p->tile)
        round_weights(p, begin, end, max, p->unsure[at], weights, loose);
    else
        for (size_t j = begin; j < end; j++) weights[j] = exp(weights[j] - max);
    for (size_t j = begin; j < end; j++) sum += weights[j];
    for (size_t i = 0; i < p->head_dim; i++) {
        double acc = 0, acc_abs = 0;
        for (size_t j = begin; j < end; j++) {
            acc += weights[j] / sum * v[j * stride + i];
            acc_abs += weights[j] / sum * fabs(v[j * stride + i]);
        }
        out[i] = acc;
        if (mag) mag[i] = acc_abs;
        if (!p->tile) continue;
        double *slack = &p->slack[at * p->head_dim + i];
        *slack = 0;
        for (size_t j = begin; j < end; j++) *slack += loose[j] / sum * (fabs(v[j * stride + i]) + fabs(acc));
    }
}

void ref_attention(const struct ref_attention *p, const double *q, size_t n_tok, const double *k, const double *v,
                   size_t n_keys, double *out, double *mag) {
    if (!p->n_kv || p->n_heads % p->n_kv) bug("%zu query heads do not divide into %zu key heads", p->n_heads, p->n_kv);
    if (p->start + n_tok > n_keys) bug("queries end at position %zu, keys at %zu", p->start + n_tok, n_keys);
    size_t group = p->n_heads / p->n_kv, stride = p->n_kv * p->head_dim;
    double *weights = mem_new(2 * n_keys * sizeof *weights);
    for (size_t t = 0; t < n_tok; t++) {
        size_t end = p->start + t + 1;
        size_t begin = p->window && end > p->window ? end - p->window : 0;
        for (size_t h = 0; h < p->n_heads; h++) {
            size_t n = t * p->n_heads + h, at = n * p->head_dim, kv = h / group * p->head_dim;
            attend(p, q + at, k + kv, v + kv, stride, begin, end, n, weights, out + at, mag ? mag + at : NULL);
        }
    }
    mem_free(weights);
}

void ref_attention_scores(const struct ref_attention *p, const double *q, size_t n_tok, const double *k, size_t n_keys,
                          double *scores, double *mag) {
    size_t group = p->n_heads / p->n_kv;
    for (size_t at = 0; at < n_tok * p->n_heads * n_keys; at++) {
        size_t j = at % n_keys, h = at / n_keys % p->n_heads, pos = p->start + at / n_keys / p->n_heads;
        const double *qh = q + at / n_keys * p->head_dim, *kj = k + (j * p->n_kv + h / group) * p->head_dim;
        double dot = 0, dot_abs = 0;
        for (size_t i = 0; i < p->head_dim; i++) {
            dot += qh[i] * kj[i];
            dot_abs += fabs(qh[i] * kj[i]);
        }
        bool seen = j <= pos && (!p->window || pos - j < p->window);
        double score = dot * p->scale;
        scores[at] = !seen ? -INFINITY : p->cap > 0 ? p->cap * tanh(score / p->cap) : score;
        if (mag) mag[at] = dot_abs * fabs(p->scale);
    }
}

void ref_softmax(const double *x, size_t n_rows, size_t n, double *out) {
    for (size_t r = 0; r < n_rows; r++) {
        double max = -INFINITY, sum = 0;
        for (size_t j = 0; j < n; j++) max = fmax(max, x[r * n + j]);
        for (size_t j = 0; j < n; j++) sum += out[r * n + j] = exp(x[r * n + j] - max);
        for (size_t j = 0; j < n; j++) out[r * n + j] /= sum;
    }
}

void ref_attention_values(const struct ref_attention *p, const double *weights, size_t n_tok, const double *v,
                          size_t n_keys, double *out, double *mag) {
    size_t group = p->n_heads / p->n_kv;
    for (size_t at = 0; at < n_tok * p->n_heads * p->head_dim; at++) {
        size_t row = at / p->head_dim, first = row % p->n_heads / group * p->head_dim + at % p->head_dim;
        double sum = 0, sum_abs = 0;
        for (size_t j = 0; j < n_keys; j++) {
            double term = weights[row * n_keys + j] * v[j * p->n_kv * p->head_dim + first];
            sum += term;
            sum_abs += fabs(term);
        }
        out[at] = sum;
        if (mag) mag[at] = sum_abs;
    }
}
