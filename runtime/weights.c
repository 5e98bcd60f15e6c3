#include "runtime/weights.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

/* Kernels may read up to a vector past the end of an array (lanes whose results are masked). */
enum { SLACK = 256, HUGE_PAGE = 1 << 21, STAGING = 8 << 20 };

struct packing {
    struct model *m;
    const struct tensor *t;
    const struct gguf_tensor *src;
    kernel_fn *fn;
    uint8_t *staging;
    const int32_t *rowmap;
    int64_t dims[4]; /* as the kernel wants them */
    int64_t first, end; /* rows in this round, read into staging */
    int64_t row_bytes;
    _Atomic bool failed;
    struct err err;
};

static void pack_thread(void *ctx, int thread) {
    struct packing *p = ctx;
    struct pool *pool = p->m->pool;
    int64_t begin, end;
    pool_share(pool, thread, p->end - p->first, &begin, &end);
    struct err e = {0};
    if (begin < end && !gguf_pread(p->m->gguf, p->src, (uint64_t)((p->first + begin) * p->row_bytes),
                                   p->staging + begin * p->row_bytes, (size_t)((end - begin) * p->row_bytes), &e) &&
        !atomic_exchange(&p->failed, true))
        p->err = e;
    pool_barrier(pool);
    if (atomic_load(&p->failed)) return;
    int64_t lanes = p->m->compiler.target.lanes, first_tile = p->first / lanes;
    pool_share(pool, thread, (p->end + lanes - 1) / lanes - first_tile, &begin, &end);
    /* The routine counts rows from the tensor's first. */
    void *src = (void *)((uintptr_t)p->staging - (uintptr_t)(p->first * p->row_bytes));
    void *args[3] = {src, p->t->data, (void *)p->rowmap};
    if (begin < end) p->fn(args, p->dims, first_tile + begin, first_tile + end, NULL);
}

/* The source row of each packed row. halves > 0: within each run of `halves` rows, the interleaved pairs (2i, 2i + 1)
 * come apart into (i, i + halves/2). */
static void fill_rowmap(int32_t *map, int64_t n, int64_t halves) {
    for (int64_t r = 0; r < n; r++) {
        if (halves == 0) {
            map[r] = (int32_t)r;
            continue;
        }
        int64_t base = r / halves * halves, i = r % halves;
        map[r] = (int32_t)(base + (i < halves / 2 ? 2 * i : 2 * (i - halves / 2) + 1));
    }
}

struct sizes {
    uint64_t tile, bytes;
};

static bool packed_size(struct model *m, const struct tensor *t, struct sizes *out, struct err *e) {
    json_t *arg = json_pack("{s:s, s:i, s:I, s:I}", "fmt", t->fmt, "lanes", (int)m->compiler.target.lanes, "rows",
                            (json_int_t)t->dims[0], "n", (json_int_t)t->dims[1]);
    json_t *r = NULL;
    bool ok = dsl_call(m->dsl, "packed_size", arg, &r, e);
    json_decref(arg);
    if (!ok) return false;
    out->tile = (uint64_t)json_integer_value(json_object_get(r, "tile"));
    out->bytes = (uint64_t)json_integer_value(json_object_get(r, "bytes"));
    json_decref(r);
    return true;
}

/* Rows read and packed at a time: about STAGING bytes, whole tiles, and whole heads where rows are reordered in them. */
static int64_t round_rows(const struct model *m, const struct tensor *t, int64_t row_bytes) {
    int64_t unit = m->compiler.target.lanes, halves = json_integer_value(json_object_get(t->plan, "halves"));
    if (halves > 0) unit *= halves;
    int64_t rows = STAGING / (row_bytes > 0 ? row_bytes : 1) / unit * unit;
    return rows > unit ? rows : unit;
}

static bool is_packed(const struct tensor *t) { return json_is_true(json_object_get(t->plan, "packed")); }

static bool load_one(struct model *m, struct tensor *t, const struct kernel *pack, uint64_t tile_bytes,
                     uint8_t *staging, int32_t *rowmap, struct err *e) {
    const struct gguf_tensor *src;
    if (!gguf_get_tensor(m->gguf, t->name, &src, e)) return false;
    fill_rowmap(rowmap, t->dims[0], json_integer_value(json_object_get(t->plan, "halves")));
    if (!is_packed(t)) {
        /* A vector of float32: its elements move as the rows they belong to (the biases of reordered rows). */
        if (!gguf_pread(m->gguf, src, 0, staging, src->bytes, e)) return false;
        float *to = t->data;
        const float *from = (const float *)staging;
        for (int64_t i = 0; i < t->dims[0]; i++) to[i] = from[rowmap[i]];
        return true;
    }
    struct packing p = {.m = m, .t = t, .src = src, .staging = staging, .rowmap = rowmap};
    p.fn = pack->phases[0].parts[0].fn;
    p.row_bytes = (int64_t)(src->bytes / (uint64_t)t->dims[0]);
    int64_t sizes[N_RUN_DIMS] = {[RUN_NB] = t->dims[1] / src->type->block_elems,
                                 [RUN_ROWS] = t->dims[0],
                                 [RUN_ROW_BYTES] = p.row_bytes,
                                 [RUN_TILE_BYTES] = (int64_t)tile_bytes};
    for (size_t i = 0; i < pack->n_dims; i++) p.dims[i] = sizes[pack->dims[i]];
    int64_t round = round_rows(m, t, p.row_bytes);
    for (p.first = 0; p.first < t->dims[0]; p.first = p.end) {
        p.end = p.first + round < t->dims[0] ? p.first + round : t->dims[0];
        pool_run(m->pool, pack_thread, &p);
        if (p.failed) {
            *e = p.err;
            return false;
        }
    }
    gguf_drop(m->gguf, src);
    return true;
}

bool weights_load(struct model *m, struct err *e) {
    double start = now_s();
    struct sizes *sizes = mem_new(m->n_tensors * sizeof *sizes);
    uint64_t total = 0, staging_bytes = 0, max_rows = 0;
    bool ok = true;
    for (size_t i = 0; i < m->n_tensors && ok; i++) {
        struct tensor *t = &m->tensors[i];
        if (t->kind != TENSOR_WEIGHT) continue;
        const struct gguf_tensor *src;
        if (!gguf_get_tensor(m->gguf, t->name, &src, e)) ok = false;
        if (!ok) break;
        if (is_packed(t)) {
            if ((uint64_t)t->dims[1] % src->type->block_elems)
                ok = err_set(e, ERR_INPUT, "tensor '%s': rows of %lld elements are not whole %s blocks of %u", t->name,
                             (long long)t->dims[1], t->fmt, src->type->block_elems);
            ok = ok && packed_size(m, t, &sizes[i], e);
            int64_t row_bytes = (int64_t)(src->bytes / (uint64_t)t->dims[0]);
            int64_t rows = round_rows(m, t, row_bytes) < t->dims[0] ? round_rows(m, t, row_bytes) : t->dims[0];
            if ((uint64_t)(rows * row_bytes) > staging_bytes) staging_bytes = (uint64_t)(rows * row_bytes);
        } else {
            sizes[i].bytes = src->bytes;
            if (src->bytes > staging_bytes) staging_bytes = src->bytes;
        }
        if ((uint64_t)t->dims[0] > max_rows) max_rows = (uint64_t)t->dims[0];
        t->bytes = sizes[i].bytes;
        total += (sizes[i].bytes + SLACK + 63) / 64 * 64;
    }
    uint8_t *staging = NULL;
    int32_t *rowmap = NULL;
    if (ok) {
        m->weight_bytes = (total + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        m->weights = mmap(NULL, m->weight_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m->weights == MAP_FAILED) m->weights = NULL;
        staging = mmap(NULL, staging_bytes + SLACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (staging == MAP_FAILED) staging = NULL;
        rowmap = mem_try(max_rows ? max_rows : 1, sizeof *rowmap);
        if (!m->weights || !staging || !rowmap)
            ok = err_set(e, ERR_MEMORY, "%s: %llu MiB for the weights cannot be had; free memory or use a smaller model",
                         gguf_path(m->gguf), (unsigned long long)(m->weight_bytes >> 20));
        else madvise(m->weights, m->weight_bytes, MADV_HUGEPAGE);
    }
    uint64_t at = 0;
    for (size_t i = 0; i < m->n_tensors && ok; i++) {
        struct tensor *t = &m->tensors[i];
        if (t->kind != TENSOR_WEIGHT) continue;
        t->data = (uint8_t *)m->weights + at;
        at += (t->bytes + SLACK + 63) / 64 * 64;
        size_t f = 0;
        while (is_packed(t) && strcmp(m->pack_fmts[f], t->fmt) != 0) f++;
        ok = load_one(m, t, &m->kernels[m->n_plan_kernels + 1 + f], sizes[i].tile, staging, rowmap, e);
    }
    if (staging) munmap(staging, staging_bytes + SLACK);
    mem_free(rowmap);
    mem_free(sizes);
    m->pack_s = now_s() - start;
    return ok;
}

bool weights_upload(struct model *m, struct err *e) {
    if (!cuda_alloc(m->gpu, m->weight_bytes, &m->gpu_weights, e)) return err_prefix(e, "the weights");
    if (!cuda_upload(m->gpu, m->gpu_weights, m->weights, m->weight_bytes, e) || !cuda_sync(m->gpu, e)) return false;
    for (size_t i = 0; i < m->n_tensors; i++) {
        struct tensor *t = &m->tensors[i];
        if (t->kind == TENSOR_WEIGHT)
            t->data = (void *)(uintptr_t)(m->gpu_weights + (uint64_t)((uint8_t *)t->data - (uint8_t *)m->weights));
    }
    munmap(m->weights, m->weight_bytes);
    m->weights = NULL;
    return true;
}

void weights_free(struct model *m) {
    if (m->gpu) cuda_free(m->gpu, m->gpu_weights);
    if (m->weights) munmap(m->weights, m->weight_bytes);
}
