#include "runtime/foresee.h"

#include <stdio.h>
#include <string.h>

#include "runtime/session_impl.h"

/* What the driver rounds and keeps for itself, a part of what is needed and at least some. */
enum { MARGIN_PART = 100, MARGIN_LEAST = 2 << 20 };

struct need {
    uint64_t weights, cache, buffers, code, margin, all;
};

static struct need need_of(const struct model *m, int64_t n_ctx, uint64_t to_load) {
    struct session_need s = session_need(m, n_ctx);
    struct need n = {.weights = to_load, .cache = s.caches, .buffers = s.act + s.head + s.ws + s.tables};
    n.buffers += session_gpu_bytes(m, &s);
    /* Machine code is shorter than its text. */
    for (size_t i = 0; to_load && i < m->first_pack; i++) {
        const struct kernel *k = &m->kernels[i];
        n.code += k->cubin.len ? k->cubin.len : strlen(k->ptx);
    }
    n.all = n.weights + n.cache + n.buffers + n.code;
    n.margin = n.all / MARGIN_PART > MARGIN_LEAST ? n.all / MARGIN_PART : MARGIN_LEAST;
    n.all += n.margin;
    return n;
}

bool foresee(struct model *m, int64_t n_ctx, uint64_t to_load, struct err *e) {
    uint64_t free, total;
    if (!cuda_memory(m->gpu, &free, &total, e)) return false;
    if (n_ctx <= 0 || n_ctx > m->n_ctx_train) n_ctx = session_default_ctx(m); /* session_open refuses */
    struct need n = need_of(m, n_ctx, to_load);
    if (n.all <= free) return true;
    int64_t fits = 0, over = n_ctx;
    while (over - fits > 1) {
        int64_t half = fits + (over - fits) / 2;
        if (need_of(m, half, to_load).all <= free)
            fits = half;
        else
            over = half;
    }
    char what[128] = "the model itself does not fit: try a smaller one, or one of fewer bits a weight";
    if (fits) snprintf(what, sizeof what, "try -c %lld, which fits", (long long)fits);
    return err_set(
        e, ERR_MEMORY,
        "%s: %.1f MiB are needed with a context of %lld (weights %.1f, KV cache %.1f, buffers %.1f, code %.1f, "
        "margin %.1f), and %.1f of %.1f MiB are free; %s",
        cuda_name(m->gpu), (double)n.all / 0x1p20, (long long)n_ctx, (double)n.weights / 0x1p20,
        (double)n.cache / 0x1p20, (double)n.buffers / 0x1p20, (double)n.code / 0x1p20, (double)n.margin / 0x1p20,
        (double)free / 0x1p20, (double)total / 0x1p20, what);
}
