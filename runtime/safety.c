#include "runtime/safety.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double F16_LARGEST = 65504, F16_SMALLEST_NORMAL = 0x1p-14, BF16_ERROR = 0x1p-9 * M_SQRT2;
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

static void judge(const struct gains *q, const struct gains *k, int layer, char why[256], bool *bf16) {
    double product = q->n ? product_rms(q, k) : 0;
    double most = k->largest * sqrt(2.0 * (double)k->n), error = 0x1p-12 * product;
    if (BF16_ERROR * product > SAFETY_SCORE_ERROR) *bf16 = false;
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

/* Of layer's biases: is what they add to scores too large for BF16? The heads of q are in groups that share one of k.
 */
static bool large_biases(const struct gains *q, const struct gains *k, size_t n_kv) {
    size_t hd = n_kv ? k->n / n_kv : 0, heads = hd ? q->n / hd : 0, group = heads / (n_kv ? n_kv : 1);
    for (size_t h = 0; h < heads && group; h++) {
        const float *a = q->g + h * hd, *b = k->g + h / group % n_kv * hd;
        double sum = 0;
        for (size_t i = 0; i < hd; i++) sum += pow((double)a[i] * (double)b[i], 2);
        if (BF16_ERROR * sqrt(sum / (double)hd) > SAFETY_SCORE_ERROR) return true;
    }
    return false;
}

/* What of layer's tensors attn_q.WHAT and attn_k.WHAT say. */
static bool look(const struct gguf *g, int layer, const char *what, size_t n_kv, char why[256], bool *bf16,
                 struct err *e) {
    char name[2][64];
    struct gains of[2];
    for (int i = 0; i < 2; i++) {
        snprintf(name[i], sizeof name[i], "blk.%d.attn_%c%s", layer, "qk"[i], what);
        if (read_gains(g, name[i], &of[i], e)) continue;
        if (i) mem_free(of[0].g);
        return false;
    }
    if (of[1].n && strcmp(what, ".bias") == 0)
        *bf16 = *bf16 && !large_biases(&of[0], &of[1], n_kv);
    else if (of[1].n)
        judge(&of[0], &of[1], layer, why, bf16);
    mem_free(of[0].g);
    mem_free(of[1].g);
    return true;
}

bool safety_of_keys(const struct gguf *g, char why[256], bool *bf16, struct err *e) {
    const char *arch;
    char key[300];
    uint64_t n_kv = 0;
    struct err none;
    if (gguf_get_str(g, "general.architecture", &arch, &none) && strlen(arch) < 200) {
        static const char *const names[] = {"attention.head_count_kv", "attention.head_count"};
        for (int i = 0; i < 2 && !n_kv; i++) {
            snprintf(key, sizeof key, "%s.%s", arch, names[i]);
            if (!gguf_get_u64_or(g, key, 0, &n_kv, &none)) n_kv = 0;
        }
    }
    why[0] = 0;
    *bf16 = true;
    for (size_t i = 0; i < gguf_n_tensors(g) && !why[0]; i++) {
        static const char *const kinds[] = {"_norm.weight", ".bias"};
        const char *name = gguf_tensor_at(g, i)->name;
        for (int k = 0; k < 2 && !why[0]; k++) {
            char pattern[32];
            int layer = 0, end = 0;
            snprintf(pattern, sizeof pattern, "blk.%%d.attn_k%s%%n", kinds[k]);
            if (sscanf(name, pattern, &layer, &end) != 1 || !end || name[end]) continue;
            if (!look(g, layer, kinds[k], (size_t)n_kv, why, bf16, e)) return false;
        }
    }
    if (why[0]) *bf16 = false;
    return true;
}
