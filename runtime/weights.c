#include "runtime/weights.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

/* Kernels may read up to a vector past the end of an array (lanes whose results are masked). */
enum { SLACK = 256, HUGE_PAGE = 1 << 21, STAGING = 8 << 20 };

/* What packing fills: memory, or a packed file by way of memory for one round. */
struct sink {
    uint8_t *image; /* all of it; NULL: goes to the file */
    struct packfile_writer *writer;
    uint8_t *round; /* [most packed bytes of a round] */
};

/* One round at work: rows [first, end) of a tensor. */
struct packing {
    struct model *m;
    const struct tensor *t;
    const struct gguf_tensor *src;
    const struct sink *sink;
    kernel_fn *fn;
    uint8_t *staging;
    const int32_t *rowmap;
    int64_t dims[4]; /* as the kernel wants them */
    int64_t first, end;
    int64_t row_bytes, tile_bytes;
    uint64_t off; /* of the tensor in the image */
    _Atomic bool failed;
    struct err err; /* code ERR_NONE: the packed file failed, not the model */
};

static void pack_thread(void *ctx, int thread) {
    struct packing *p = ctx;
    const struct sink *to = p->sink;
    struct pool *pool = p->m->pool;
    int64_t begin, end;
    pool_share(pool, thread, p->end - p->first, &begin, &end);
    struct err e = {0};
    if (begin < end &&
        !gguf_pread(p->m->gguf, p->src, (uint64_t)((p->first + begin) * p->row_bytes),
                    p->staging + begin * p->row_bytes, (size_t)((end - begin) * p->row_bytes), &e) &&
        !atomic_exchange(&p->failed, true))
        p->err = e;
    pool_barrier(pool);
    if (atomic_load(&p->failed)) return;
    int64_t lanes = p->m->compiler.target.pack_lanes, first_tile = p->first / lanes;
    pool_share(pool, thread, (p->end + lanes - 1) / lanes - first_tile, &begin, &end);
    if (begin == end) return;
    /* The routine counts rows and tiles from the tensor's first. */
    void *src = (void *)((uintptr_t)p->staging - (uintptr_t)(p->first * p->row_bytes));
    void *dst =
        to->image ? to->image + p->off : (void *)((uintptr_t)to->round - (uintptr_t)(first_tile * p->tile_bytes));
    void *args[3] = {src, dst, (void *)p->rowmap};
    p->fn(args, p->dims, first_tile + begin, first_tile + end, NULL);
    if (!to->image && !packfile_write(to->writer, p->off + (uint64_t)((first_tile + begin) * p->tile_bytes),
                                      to->round + begin * p->tile_bytes, (size_t)((end - begin) * p->tile_bytes)))
        atomic_store(&p->failed, true);
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

/* Where a weight goes, and what packing it takes. */
struct place {
    uint64_t off, bytes, tile; /* in the image; of a tile, of a packed one */
    int64_t row_bytes, rows;   /* of the file's rows, and how many a round */
};

/* The image of all weights. */
struct layout {
    struct place *places; /* by tensor */
    uint64_t bytes;
    uint64_t staging_bytes, round_bytes, max_rows; /* the most that a round reads and packs; of any tensor */
};

static void packed_size(const struct tensor *t, struct place *out) {
    out->tile = (uint64_t)json_integer_value(json_object_get(t->plan, "tile"));
    out->bytes = (uint64_t)json_integer_value(json_object_get(t->plan, "packed_bytes"));
}

/* Rows read and packed at a time: about STAGING bytes, whole tiles, and whole heads where rows are reordered in them.
 */
static int64_t round_rows(const struct model *m, const struct tensor *t, int64_t row_bytes) {
    int64_t unit = m->compiler.target.pack_lanes, halves = json_integer_value(json_object_get(t->plan, "halves"));
    if (halves > 0) unit *= halves;
    int64_t rows = STAGING / (row_bytes > 0 ? row_bytes : 1) / unit * unit;
    return rows > unit ? rows : unit;
}

static bool is_packed(const struct tensor *t) {
    return json_is_true(json_object_get(t->plan, "packed"));
}

static uint64_t max(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static bool lay_out(struct model *m, struct layout *l, struct err *e) {
    l->places = mem_new(m->n_tensors * sizeof *l->places);
    for (size_t i = 0; i < m->n_tensors; i++) {
        struct tensor *t = &m->tensors[i];
        struct place *p = &l->places[i];
        const struct gguf_tensor *src;
        if (t->kind != TENSOR_WEIGHT) continue;
        if (!gguf_get_tensor(m->gguf, t->name, &src, e)) return false;
        p->row_bytes = (int64_t)(src->bytes / (uint64_t)t->dims[0]);
        if (is_packed(t)) {
            if ((uint64_t)t->dims[1] % src->type->block_elems)
                return err_set(e, ERR_INPUT, "tensor '%s': rows of %lld elements are not whole %s blocks of %u",
                               t->name, (long long)t->dims[1], t->fmt, src->type->block_elems);
            packed_size(t, p);
            int64_t rows = round_rows(m, t, p->row_bytes), lanes = m->compiler.target.pack_lanes;
            p->rows = rows < t->dims[0] ? rows : t->dims[0];
            l->staging_bytes = max(l->staging_bytes, (uint64_t)(p->rows * p->row_bytes));
            l->round_bytes = max(l->round_bytes, (uint64_t)((p->rows + lanes - 1) / lanes) * p->tile);
        } else {
            p->bytes = src->bytes;
            l->staging_bytes = max(l->staging_bytes, p->bytes);
            l->round_bytes = max(l->round_bytes, p->bytes);
        }
        l->max_rows = max(l->max_rows, (uint64_t)t->dims[0]);
        p->off = l->bytes;
        t->bytes = p->bytes;
        l->bytes += (p->bytes + SLACK + 63) / 64 * 64;
    }
    l->bytes = (l->bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    return true;
}

/* A vector of float32: its elements move as the rows they belong to (the biases of reordered rows). */
static bool load_vector(struct packing *p, const struct place *at) {
    if (!gguf_pread(p->m->gguf, p->src, 0, p->staging, at->bytes, &p->err)) return false;
    float *to = (float *)(void *)(p->sink->image ? p->sink->image + at->off : p->sink->round);
    const float *from = (const float *)(void *)p->staging;
    for (int64_t i = 0; i < p->t->dims[0]; i++) to[i] = from[p->rowmap[i]];
    return p->sink->image || packfile_write(p->sink->writer, at->off, p->sink->round, at->bytes);
}

static bool load_one(struct packing *p, const struct place *at, const struct kernel *pack) {
    if (!is_packed(p->t)) return load_vector(p, at);
    p->fn = pack->phases[0].parts[0].fn;
    p->row_bytes = at->row_bytes;
    p->tile_bytes = (int64_t)at->tile;
    p->off = at->off;
    int64_t sizes[N_RUN_DIMS] = {[RUN_NB] = p->t->dims[1] / p->src->type->block_elems,
                                 [RUN_ROWS] = p->t->dims[0],
                                 [RUN_ROW_BYTES] = p->row_bytes,
                                 [RUN_TILE_BYTES] = p->tile_bytes};
    for (size_t i = 0; i < pack->n_dims; i++) p->dims[i] = sizes[pack->dims[i]];
    for (p->first = 0; p->first < p->t->dims[0]; p->first = p->end) {
        p->end = p->first + at->rows < p->t->dims[0] ? p->first + at->rows : p->t->dims[0];
        pool_run(p->m->pool, pack_thread, p);
        if (p->failed) return false;
    }
    gguf_drop(p->m->gguf, p->src);
    return true;
}

static void *memory(uint64_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Fills the image. False with *e untouched: the packed file failed. */
static bool fill(struct model *m, const struct layout *l, const struct sink *sink, struct err *e) {
    uint8_t *staging = memory(l->staging_bytes + SLACK);
    int32_t *rowmap = mem_try(l->max_rows ? l->max_rows : 1, sizeof *rowmap);
    bool ok = staging && rowmap;
    if (!ok) err_set(e, ERR_MEMORY, "%s: no memory to pack its weights in", gguf_path(m->gguf));
    for (size_t i = 0; i < m->n_tensors && ok; i++) {
        const struct tensor *t = &m->tensors[i];
        if (t->kind != TENSOR_WEIGHT) continue;
        struct packing p = {.m = m, .t = t, .sink = sink, .staging = staging, .rowmap = rowmap};
        size_t f = 0;
        while (is_packed(t) && strcmp(m->pack_fmts[f], t->fmt) != 0) f++;
        fill_rowmap(rowmap, t->dims[0], json_integer_value(json_object_get(t->plan, "halves")));
        ok = gguf_get_tensor(m->gguf, t->name, &p.src, &p.err) &&
             load_one(&p, &l->places[i], &m->kernels[m->first_pack + f]);
        if (!ok && p.err.code) *e = p.err;
    }
    if (staging) munmap(staging, l->staging_bytes + SLACK);
    mem_free(rowmap);
    return ok;
}

static bool fill_memory(struct model *m, const struct layout *l, struct err *e) {
    struct sink sink = {.image = memory(l->bytes)};
    if (!sink.image)
        return err_set(e, ERR_MEMORY, "%s: %llu MiB for the weights cannot be had; free memory or use a smaller model",
                       gguf_path(m->gguf), (unsigned long long)(l->bytes >> 20));
    madvise(sink.image, l->bytes, MADV_HUGEPAGE);
    m->weights = sink.image;
    return fill(m, l, &sink, e);
}

/* Everything the image's bytes depend on besides the file: the declared layouts, by the sources' digest, and what is
 * where. */
static bool identify(struct model *m, const struct layout *l, struct pack_id *id) {
    id->lanes = m->compiler.target.pack_lanes;
    id->bytes = l->bytes;
    buf_printf(&id->layout, "%s\n%u %u\n", dsl_digest(m->dsl), id->lanes, m->compiler.target.pack_words);
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensors[i];
        if (t->kind != TENSOR_WEIGHT) continue;
        buf_printf(&id->layout, "%s %s %lld %lld %d %lld %llu\n", t->name, t->fmt, (long long)t->dims[0],
                   (long long)t->dims[1], is_packed(t),
                   (long long)json_integer_value(json_object_get(t->plan, "halves")),
                   (unsigned long long)l->places[i].off);
    }
    return gguf_stamp(m->gguf, &id->path, &id->stamp);
}

/* Packs into a file. False: there is none, or the model itself failed (*e says so then). */
static bool fill_file(struct model *m, const struct layout *l, const struct pack_id *id, uint64_t limit,
                      struct err *e) {
    const char *dir = cache_dir(m->cache);
    struct sink sink = {.writer = packfile_create(dir, id, limit)};
    if (!sink.writer) return false;
    sink.round = memory(l->round_bytes);
    struct pack_id after = {0};
    /* A model file that changed meanwhile is not what the stamp says. */
    bool ok = sink.round && fill(m, l, &sink, e) && gguf_stamp(m->gguf, &after.path, &after.stamp) &&
              after.stamp.len == id->stamp.len && memcmp(after.stamp.data, id->stamp.data, id->stamp.len) == 0;
    if (sink.round) munmap(sink.round, l->round_bytes);
    pack_id_free(&after);
    if (ok) return packfile_publish(sink.writer, m->pool, &m->packed);
    packfile_abandon(sink.writer);
    return false;
}

/* The image from disk, or by way of it. */
static bool load_file(struct model *m, const struct layout *l, uint64_t limit, struct err *e) {
    struct pack_id id = {0};
    bool ok = false;
    /* Below this, packing takes less time than a look at the disk. */
    enum { LEAST = 16 << 20 };
    if (limit && m->cache && cache_dir(m->cache) && l->bytes >= LEAST && identify(m, l, &id)) {
        m->weights_cached = packfile_open(cache_dir(m->cache), &id, m->pool, &m->packed);
        ok = m->weights_cached || fill_file(m, l, &id, limit, e);
    }
    pack_id_free(&id);
    if (ok) m->weights = (void *)m->packed.data;
    return ok;
}

bool weights_size(struct model *m, struct err *e) {
    struct layout l = {0};
    bool ok = lay_out(m, &l, e);
    m->weight_bytes = l.bytes;
    mem_free(l.places);
    return ok;
}

bool weights_load(struct model *m, uint64_t limit, struct err *e) {
    double start = now_s();
    struct layout l = {0};
    struct err failed = {0};
    bool ok = lay_out(m, &l, e);
    m->weight_bytes = l.bytes;
    if (ok && !load_file(m, &l, limit, &failed)) {
        if (failed.code) *e = failed;
        ok = !failed.code && fill_memory(m, &l, e);
    }
    for (size_t i = 0; i < m->n_tensors && ok; i++)
        if (m->tensors[i].kind == TENSOR_WEIGHT) m->tensors[i].data = (uint8_t *)m->weights + l.places[i].off;
    mem_free(l.places);
    m->pack_s = now_s() - start;
    return ok;
}

static void unmap(struct model *m) {
    if (m->packed.data)
        packfile_close(&m->packed);
    else if (m->weights)
        munmap(m->weights, m->weight_bytes);
    m->weights = NULL;
}

bool weights_upload(struct model *m, struct err *e) {
    if (!cuda_alloc(m->gpu, m->weight_bytes, &m->gpu_weights, e)) return err_prefix(e, "the weights");
    if (!cuda_upload(m->gpu, m->gpu_weights, m->weights, m->weight_bytes, e) || !cuda_sync(m->gpu, e)) return false;
    for (size_t i = 0; i < m->n_tensors; i++) {
        struct tensor *t = &m->tensors[i];
        if (t->kind == TENSOR_WEIGHT)
            t->data = (void *)(uintptr_t)(m->gpu_weights + (uint64_t)((uint8_t *)t->data - (uint8_t *)m->weights));
    }
    unmap(m);
    return true;
}

void weights_free(struct model *m) {
    if (m->gpu) cuda_free(m->gpu, m->gpu_weights);
    unmap(m);
}
