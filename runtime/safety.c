#include "runtime/safety.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double F16_LARGEST = 65504, F16_SMALLEST_NORMAL = 0x1p-14;
enum { LARGEST_NORM = 1 << 16 };

struct gains {
    float *g; /* [n] */
    size_t n;
    double largest, rms;
};

/* The weights of a norm; none (n = 0) where there is no such tensor, or it is none of float32. */
static bool read_gains(const struct gguf *g, const char *name, struct gains *out, struct err *e) {
    const struct gguf_tensor *t = gguf_find_tensor(g, name);
    *out = (struct gains){0};
    if (!t || !t->type || strcmp(t->type->name, "f32") != 0 || t->n_elems == 0 || t->n_elems > LARGEST_NORM)
        return true;
    out->n = (size_t)t->n_elems;
    out->g = mem_new(out->n * sizeof *out->g);
    if (!gguf_pread(g, t, 0, out->g, out->n * sizeof *out->g, e)) {
        mem_free(out->g);
        return false;
    }
    for (size_t i = 0; i < out->n; i++) {
        out->largest = fmax(out->largest, fabs((double)out->g[i]));
        out->rms += (double)out->g[i] * (double)out->g[i] / (double)out->n;
    }
    out->rms = sqrt(out->rms);
    return true;
}

/* Of the products of gains that meet in a score; of norms over different widths, as if they met at random. */
static double product_rms(const struct gains *q, const struct gains *k) {
    double sum = 0;
    if (q->n != k->n) return q->rms * k->rms;
    for (size_t i = 0; i < k->n; i++) sum += pow((double)q->g[i] * (double)k->g[i], 2) / (double)k->n;
    return sqrt(sum);
}

static void judge(const struct gains *q, const struct gains *k, int layer, char why[256]) {
    double most = k->largest * sqrt(2.0 * (double)k->n), error = q->n ? 0x1p-12 * product_rms(q, k) : 0;
    if (most > F16_LARGEST)
        snprintf(why, 256, "layer %d's K-norm has weights up to %.3g: keys could be %.3g, and f16 ends at %g", layer,
                 k->largest, most, F16_LARGEST);
    else if (k->rms < F16_SMALLEST_NORMAL * 16)
        snprintf(why, 256, "layer %d's K-norm has weights of %.3g: most keys lie near f16's smallest numbers, %.2g",
                 layer, k->rms, F16_SMALLEST_NORMAL);
    else if (error > SAFETY_SCORE_ERROR)
        snprintf(why, 256,
                 "layer %d's norms of queries and keys multiply to %.3g: scores of f16 keys would be off by %.2g "
                 "nats",
                 layer, error * 0x1p12, error);
}

bool safety_of_f16_keys(const struct gguf *g, char why[256], struct err *e) {
    why[0] = 0;
    for (size_t i = 0; i < gguf_n_tensors(g) && !why[0]; i++) {
        int layer = 0, end = 0;
        const char *name = gguf_tensor_at(g, i)->name;
        char query[64];
        struct gains q, k;
        if (sscanf(name, "blk.%d.attn_k_norm.weight%n", &layer, &end) != 1 || !end || name[end]) continue;
        snprintf(query, sizeof query, "blk.%d.attn_q_norm.weight", layer);
        if (!read_gains(g, name, &k, e)) return false;
        bool ok = read_gains(g, query, &q, e);
        if (ok && k.n) judge(&q, &k, layer, why);
        if (ok) mem_free(q.g);
        mem_free(k.g);
        if (!ok) return false;
    }
    return true;
}
