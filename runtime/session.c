#include "runtime/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/check.h"
#include "runtime/tables.h"

enum {
    BATCH = 512,     /* tokens evaluated together */
    HEAD_BATCH = 16, /* tokens whose logits are computed together */
    PAGE = 256,      /* keys a page of the KV cache: dsl/access.lua */
    SLACK = 4096
};

/* Where the model computes: on a GPU, `data` is an address of its memory. */
struct region {
    uint8_t *data;
    uint64_t bytes;
};

/* What a GPU is told for an evaluation, in one copy: token ids, pages, and the sizes of every launch (in the order its
 * kernel wants them); of argmax, behind the plan's. */
struct gpu_input {
    uint8_t *host;
    cuda_addr device;
    uint64_t bytes, pages_at, dims_at;
};

struct session {
    struct model *m;
    int64_t n_ctx, pos, n_pages;
    int64_t batch;
    struct region act, head, ws, caches, tables;
    struct gpu_input input; /* on a GPU */
    float *logits;          /* on a GPU: the host's copy [HEAD_BATCH][n_vocab] */
    cuda_addr best_at;      /* on a GPU: argmax's index and value */
    bool best_known;        /* on a GPU: argmax has run already, with the launches */
    struct cuda_graph *step; /* on a GPU: all launches for one token with its logits, recorded at the first */
    void **cache_of;   /* [n_tensors] pool of a cache tensor */
    int32_t *pages;    /* [n_pages] the physical page of each run of PAGE keys */
    int32_t *free_pages;
    int64_t n_free, n_used;
    int32_t *ids;      /* [batch] */
    void **args;       /* argument arrays of all launches, one after another */
    size_t *first_arg; /* [n_launches] */
    int64_t sizes[N_RUN_DIMS];
    size_t from, to; /* launches to run */
    struct session_profile *profile;
    struct check *check; /* NULL: launches are not compared with their references */
    int32_t best;
    float best_value;
    int64_t logits_row;
};

static bool reserve(struct session *s, struct region *r, uint64_t bytes, struct err *e, const char *what) {
    struct cuda *gpu = s->m->gpu;
    r->bytes = (bytes + SLACK + 4095) / 4096 * 4096;
    if (gpu) {
        cuda_addr a;
        bool ok = cuda_alloc(gpu, r->bytes, &a, e);
        r->data = (uint8_t *)(uintptr_t)a;
        return ok || err_prefix(e, "the %s", what);
    }
    r->data = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->data == MAP_FAILED) {
        r->data = NULL;
        return err_set(e, ERR_MEMORY, "%llu MiB for the %s cannot be had; try a smaller context (-c)",
                       (unsigned long long)(r->bytes >> 20), what);
    }
    return true;
}

static void release(struct session *s, struct region *r) {
    if (s->m->gpu) cuda_free(s->m->gpu, (cuda_addr)(uintptr_t)r->data);
    else if (r->data) munmap(r->data, r->bytes);
}

static cuda_addr on_gpu(const void *data) { return (cuda_addr)(uintptr_t)data; }

/* A table of positions; on a GPU by way of host memory. */
static bool fill_table(struct session *s, const struct tensor *t, float *data, struct err *e) {
    if (!s->m->gpu) return table_fill(t->plan, s->m->gguf, s->n_ctx, data, e);
    uint64_t n = (uint64_t)s->n_ctx * (uint64_t)t->dims[1];
    float *host = mem_try(n, sizeof *host);
    if (!host) return err_set(e, ERR_MEMORY, "no memory for position tables; try a smaller context (-c)");
    bool ok = table_fill(t->plan, s->m->gguf, s->n_ctx, host, e) &&
              cuda_upload(s->m->gpu, on_gpu(data), host, n * sizeof *host, e);
    mem_free(host);
    return ok;
}

/* The sizes of launch i; of argmax for i = n_launches. */
static uint64_t dims_at(const struct session *s, size_t i) {
    return s->input.dims_at + i * N_RUN_DIMS * sizeof(int64_t);
}

static bool open_gpu(struct session *s, struct err *e) {
    const struct model *m = s->m;
    struct gpu_input *in = &s->input;
    in->pages_at = ((uint64_t)s->batch * sizeof *s->ids + 63) / 64 * 64;
    in->dims_at = (in->pages_at + (uint64_t)s->n_pages * sizeof *s->pages + 63) / 64 * 64;
    in->bytes = dims_at(s, m->n_launches + 1);
    in->host = mem_new(in->bytes);
    s->logits = mem_try((size_t)m->n_vocab, HEAD_BATCH * sizeof *s->logits);
    if (!s->logits) return err_set(e, ERR_MEMORY, "no memory for logits");
    /* Keys past the last are masked, but multiplied by zero: they must be numbers. */
    return cuda_alloc(m->gpu, in->bytes, &in->device, e) && cuda_alloc(m->gpu, 64, &s->best_at, e) &&
           cuda_fill(m->gpu, on_gpu(s->caches.data), 0, s->caches.bytes, e);
}

static uint64_t page_bytes(const struct tensor *t) {
    uint64_t hd = (uint64_t)t->dims[2];
    uint64_t key = strcmp(t->fmt, "q8_0") == 0 ? hd + hd / 32 * 2 : strcmp(t->fmt, "f16") == 0 ? hd * 2 : hd * 4;
    return (uint64_t)t->dims[0] * PAGE * key;
}

bool session_open(struct model *m, int64_t n_ctx, struct session **out, struct err *e) {
    *out = NULL;
    if (n_ctx == 0) n_ctx = m->n_ctx_train < 4096 ? m->n_ctx_train : 4096;
    if (n_ctx > m->n_ctx_train)
        return err_set(e, ERR_INPUT, "a context of %lld tokens: this model was made for at most %lld", (long long)n_ctx,
                       (long long)m->n_ctx_train);
    if (n_ctx < 1) return err_set(e, ERR_INPUT, "a context of %lld tokens: expected at least 1", (long long)n_ctx);
    struct session *s = mem_new(sizeof *s);
    s->m = m;
    s->n_ctx = n_ctx;
    s->batch = n_ctx < BATCH ? n_ctx : BATCH;
    s->n_pages = (n_ctx + PAGE - 1) / PAGE;
    s->cache_of = mem_new(m->n_tensors * sizeof *s->cache_of);
    s->pages = mem_new((size_t)s->n_pages * sizeof *s->pages);
    s->free_pages = mem_new((size_t)s->n_pages * sizeof *s->free_pages);
    for (int64_t i = 0; i < s->n_pages; i++) s->free_pages[s->n_free++] = (int32_t)(s->n_pages - 1 - i);
    s->ids = mem_new((size_t)s->batch * sizeof *s->ids + 64);
    s->first_arg = mem_new(m->n_launches * sizeof *s->first_arg);
    size_t n_args = 0;
    for (size_t i = 0; i < m->n_launches; i++) {
        s->first_arg[i] = n_args;
        n_args += m->launches[i].kernel->n_args;
    }
    s->args = mem_new((n_args + 1) * sizeof *s->args);

    uint64_t caches = 0, tables = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        if (m->tensors[i].kind == TENSOR_CACHE) caches += page_bytes(&m->tensors[i]) * (uint64_t)s->n_pages;
        if (m->tensors[i].kind == TENSOR_TABLE) tables += (uint64_t)n_ctx * (uint64_t)m->tensors[i].dims[1] * 4 + 64;
    }
    bool ok = reserve(s, &s->act, m->act_bytes * (uint64_t)s->batch, e, "activations") &&
              reserve(s, &s->head, m->head_bytes * HEAD_BATCH, e, "logits") &&
              reserve(s, &s->ws, m->ws_bytes * (uint64_t)s->batch, e, "workspace") &&
              reserve(s, &s->caches, caches, e, "KV cache") &&
              reserve(s, &s->tables, tables, e, "position tables") && (!m->gpu || open_gpu(s, e));
    uint64_t cache_at = 0, table_at = 0;
    for (size_t i = 0; i < m->n_tensors && ok; i++) {
        struct tensor *t = &m->tensors[i];
        if (t->kind == TENSOR_CACHE) {
            s->cache_of[i] = s->caches.data + cache_at;
            cache_at += page_bytes(t) * (uint64_t)s->n_pages;
        } else if (t->kind == TENSOR_TABLE) {
            float *data = (float *)(s->tables.data + table_at);
            s->cache_of[i] = data;
            table_at += (uint64_t)n_ctx * (uint64_t)t->dims[1] * 4 + 64;
            ok = fill_table(s, t, data, e);
        }
    }
    if (!ok) {
        session_close(s);
        return false;
    }
    *out = s;
    return true;
}

void session_close(struct session *s) {
    if (!s) return;
    check_close(s->check);
    release(s, &s->act);
    release(s, &s->head);
    release(s, &s->ws);
    release(s, &s->caches);
    release(s, &s->tables);
    if (s->m->gpu) {
        cuda_graph_free(s->m->gpu, s->step);
        cuda_free(s->m->gpu, s->input.device);
        cuda_free(s->m->gpu, s->best_at);
    }
    mem_free(s->input.host);
    mem_free(s->logits);
    mem_free(s->cache_of);
    mem_free(s->pages);
    mem_free(s->free_pages);
    mem_free(s->ids);
    mem_free(s->first_arg);
    mem_free(s->args);
    mem_free(s);
}

int64_t session_n_ctx(const struct session *s) { return s->n_ctx; }
int64_t session_pos(const struct session *s) { return s->pos; }
uint64_t session_bytes(const struct session *s) {
    return s->act.bytes + s->head.bytes + s->ws.bytes + s->caches.bytes + s->tables.bytes;
}
void session_set_profile(struct session *s, struct session_profile *p) { s->profile = p; }
static const float *logits_at(const struct session *s) {
    return (const float *)(s->head.data + s->m->tensors[s->m->logits].off * HEAD_BATCH) + s->logits_row * s->m->n_vocab;
}
const float *session_logits(const struct session *s) {
    return s->m->gpu ? s->logits + s->logits_row * s->m->n_vocab : logits_at(s);
}

void session_rewind(struct session *s, int64_t keep) {
    if (keep < 0) keep = 0;
    if (keep >= s->pos) return;
    s->pos = keep;
    int64_t need = (keep + PAGE - 1) / PAGE;
    while (s->n_used > need) s->free_pages[s->n_free++] = s->pages[--s->n_used];
}

/* Where a tensor lies for launches over the `head` part whose first token is row `first` of the batch. */
static void *address(const struct session *s, int32_t index, bool head, int64_t first) {
    const struct tensor *t = &s->m->tensors[index];
    switch (t->kind) {
    case TENSOR_WEIGHT: return t->data;
    case TENSOR_TABLE:
    case TENSOR_CACHE: return s->cache_of[index];
    case TENSOR_INPUT:
        if (s->m->gpu) return (void *)(uintptr_t)(s->input.device + (index == s->m->ids ? 0 : s->input.pages_at));
        return index == s->m->ids ? (void *)s->ids : (void *)s->pages;
    case TENSOR_ACT:
        if (t->head) return s->head.data + t->off * HEAD_BATCH;
        return s->act.data + t->off * s->batch + (head ? first * t->width * 4 : 0);
    }
    bug("tensor kind %d", (int)t->kind);
}

static void bind(struct session *s, size_t from, size_t to, int64_t first) {
    for (size_t i = from; i < to; i++) {
        const struct launch *l = &s->m->launches[i];
        void **args = s->args + s->first_arg[i];
        for (size_t k = 0; k < l->kernel->n_args; k++) {
            const char *name = l->kernel->args[k];
            int32_t index = strcmp(name, "pages") == 0 ? s->m->pages : l->binding[strtol(name + 1, NULL, 10) - 1];
            args[k] = address(s, index, l->head, first);
        }
    }
}

static void run_thread(void *ctx, int thread) {
    struct session *s = ctx;
    for (size_t i = s->from; i < s->to; i++) {
        double start = s->profile && thread == 0 ? now_s() : 0;
        kernel_run(s->m->launches[i].kernel, s->m->pool, thread, s->args + s->first_arg[i], s->sizes, s->ws.data);
        if (s->profile && thread == 0) {
            s->profile->seconds[i] += now_s() - start;
            s->profile->n_barriers += s->m->launches[i].kernel->n_phases;
        }
    }
}

static bool launch_gpu(struct session *s, size_t i, const struct cuda_kernel *k, void *const *args, struct err *e) {
    struct cuda_launch l = {.args = (const cuda_addr *)args,
                            .sizes = s->sizes,
                            .dims = s->input.device + dims_at(s, i),
                            .ws = on_gpu(s->ws.data)};
    double start = s->profile ? now_s() : 0;
    if (!cuda_launch(s->m->gpu, k, &l, e)) return false;
    if (!s->profile || i == s->m->n_launches) return true;
    if (!cuda_sync(s->m->gpu, e)) return false; /* to know whose time it was */
    s->profile->seconds[i] += now_s() - start;
    s->profile->n_barriers += s->m->launches[i].kernel->n_phases;
    return true;
}

static bool upload_input(struct session *s, size_t from, size_t to, struct err *e) {
    const struct model *m = s->m;
    struct gpu_input *in = &s->input;
    memcpy(in->host, s->ids, (size_t)s->batch * sizeof *s->ids);
    memcpy(in->host + in->pages_at, s->pages, (size_t)s->n_pages * sizeof *s->pages);
    for (size_t i = from; i < to; i++)
        cuda_dims(m->launches[i].kernel, s->sizes, (int64_t *)(in->host + dims_at(s, i)));
    cuda_dims(&m->kernels[m->n_plan_kernels], s->sizes, (int64_t *)(in->host + dims_at(s, m->n_launches)));
    return cuda_upload(m->gpu, in->device, in->host, in->bytes, e);
}

static bool launch_all(struct session *s, size_t from, size_t to, struct err *e) {
    const struct model *m = s->m;
    for (size_t i = from; i < to; i++)
        if (!launch_gpu(s, i, m->loaded[m->launches[i].kernel - m->kernels], s->args + s->first_arg[i], e)) return false;
    return true;
}

/* Of the last logits; its sizes lie behind the plan's. */
static bool argmax_gpu(struct session *s, struct err *e) {
    const struct model *m = s->m;
    void *args[3] = {(void *)logits_at(s), (void *)(uintptr_t)s->best_at, (void *)(uintptr_t)(s->best_at + 4)};
    return launch_gpu(s, m->n_launches, m->loaded[m->n_plan_kernels], args, e);
}

static bool download_best(struct session *s, struct err *e) {
    return cuda_download_later(s->m->gpu, &s->best, s->best_at, sizeof s->best, e) &&
           cuda_download_later(s->m->gpu, &s->best_value, s->best_at + 4, sizeof s->best_value, e);
}

static bool download_logits(struct session *s, struct err *e) {
    uint64_t n = (uint64_t)s->sizes[RUN_TOK] * (uint64_t)s->m->n_vocab;
    s->logits_row = 0;
    return cuda_download(s->m->gpu, s->logits, on_gpu(logits_at(s)), n * sizeof *s->logits, e);
}

/* One copy in, the launches, and for the head's one copy out: the only wait. */
static bool run_gpu(struct session *s, size_t from, size_t to, struct err *e) {
    s->best_known = false;
    return upload_input(s, from, to, e) && launch_all(s, from, to, e) &&
           (from < s->m->first_head || download_logits(s, e));
}

/* A token, its logits and the likeliest next: as run_gpu, its launches all in one. They find sizes and addresses where the first token's
 * did: nothing is recorded twice. */
static bool step_gpu(struct session *s, struct err *e) {
    const struct model *m = s->m;
    s->sizes[RUN_TOK] = 1;
    s->logits_row = 0;
    if (!s->step) {
        if (!cuda_capture_begin(m->gpu, e)) return false;
        struct err failed;
        bool ok = launch_all(s, 0, m->n_launches, &failed) && argmax_gpu(s, &failed);
        if (!cuda_capture_end(m->gpu, &s->step, e) || !ok) {
            if (!ok) *e = failed;
            return false;
        }
    }
    s->best_known = upload_input(s, 0, m->n_launches, e) && cuda_graph_launch(m->gpu, s->step, e) &&
                    download_best(s, e) && download_logits(s, e);
    return s->best_known;
}

static bool run(struct session *s, size_t from, size_t to, int64_t n_tok, struct err *e) {
    s->sizes[RUN_TOK] = n_tok;
    if (s->m->gpu) return run_gpu(s, from, to, e);
    for (size_t i = from; i < to; i = s->to) {
        s->from = i;
        s->to = s->check ? i + 1 : to;
        void **args = s->args + s->first_arg[i];
        if (s->check) check_reference(s->check, i, args, s->sizes);
        pool_run(s->m->pool, run_thread, s);
        if (s->check && !check_compare(s->check, i, args, s->sizes, e)) return false;
    }
    return true;
}

bool session_check(struct session *s, struct err *e) {
    return check_open(s->m, s->batch, HEAD_BATCH, &s->check, e);
}

bool session_eval(struct session *s, const int32_t *ids, size_t n, size_t n_out, session_sink *sink, void *ctx,
                  struct err *e) {
    const struct model *m = s->m;
    if (n == 0) return err_set(e, ERR_INPUT, "no tokens to evaluate");
    if (n > (size_t)(s->n_ctx - s->pos))
        return err_set(e, ERR_INPUT, "%zu more tokens do not fit: %lld of a context of %lld are used; try a larger -c", n,
                       (long long)s->pos, (long long)s->n_ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= m->n_vocab)
            return err_set(e, ERR_INPUT, "token %zu is %d, outside the vocabulary of %lld", i, ids[i], (long long)m->n_vocab);
    for (size_t done = 0; done < n;) {
        size_t count = n - done < (size_t)s->batch ? n - done : (size_t)s->batch;
        memcpy(s->ids, ids + done, count * sizeof *ids);
        while (s->n_used * PAGE < s->pos + (int64_t)count) s->pages[s->n_used++] = s->free_pages[--s->n_free];
        s->sizes[RUN_POS] = s->pos;
        s->sizes[RUN_KEY] = s->pos + (int64_t)count;
        s->sizes[RUN_CTX] = s->n_ctx;
        s->sizes[RUN_NPAGES] = s->n_pages;
        bind(s, 0, m->first_head, 0);
        bool step = m->gpu && !s->profile && count == 1 && n_out >= n - done;
        if (!step && !run(s, 0, m->first_head, (int64_t)count, e)) return false;
        if (s->profile) s->profile->n_evals++;
        /* Of this chunk, the tokens whose logits are wanted. */
        size_t first = n - n_out > done ? n - n_out - done : 0;
        while (first < count) {
            size_t rows = count - first < HEAD_BATCH ? count - first : HEAD_BATCH;
            bind(s, m->first_head, m->n_launches, (int64_t)first);
            if (!(step ? step_gpu(s, e) : run(s, m->first_head, m->n_launches, (int64_t)rows, e))) return false;
            for (size_t r = 0; r < rows; r++) {
                s->logits_row = (int64_t)r;
                if (sink && !sink(ctx, s->pos + (int64_t)(first + r), session_logits(s), e)) {
                    s->pos += (int64_t)count;
                    return false;
                }
            }
            first += rows;
        }
        s->pos += (int64_t)count;
        done += count;
    }
    return true;
}

static void argmax_thread(void *ctx, int thread) {
    struct session *s = ctx;
    const struct kernel *k = &s->m->kernels[s->m->n_plan_kernels];
    void *args[3] = {(void *)session_logits(s), &s->best, &s->best_value};
    kernel_run(k, s->m->pool, thread, args, s->sizes, s->ws.data);
}

bool session_argmax(struct session *s, int32_t *id, struct err *e) {
    const struct model *m = s->m;
    s->sizes[RUN_TOK] = 1;
    if (m->gpu) {
        bool ok = s->best_known || (upload_input(s, m->n_launches, m->n_launches, e) && argmax_gpu(s, e) &&
                                    download_best(s, e) && cuda_sync(m->gpu, e));
        if (!ok) return false;
    } else {
        pool_run(s->m->pool, argmax_thread, s);
    }
    const float *logits = session_logits(s);
    if (!isfinite(s->best_value) || !isfinite(logits[s->best]))
        return err_set(e, ERR_INPUT, "the logits after token %lld are not finite; the model's weights may be damaged",
                       (long long)s->pos);
    *id = s->best;
    return true;
}
