#include "runtime/session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/tables.h"

enum {
    BATCH = 512,     /* tokens evaluated together */
    HEAD_BATCH = 16, /* tokens whose logits are computed together */
    PAGE = 256,      /* keys a page of the KV cache: dsl/access.lua */
    SLACK = 4096
};

struct region {
    uint8_t *data;
    uint64_t bytes;
};

struct session {
    struct model *m;
    int64_t n_ctx, pos, n_pages;
    int64_t batch;
    struct region act, head, ws, caches, tables;
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
    int32_t best;
    float best_value;
    int64_t logits_row;
};

static bool reserve(struct region *r, uint64_t bytes, struct err *e, const char *what) {
    r->bytes = (bytes + SLACK + 4095) / 4096 * 4096;
    r->data = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->data == MAP_FAILED) {
        r->data = NULL;
        return err_set(e, ERR_MEMORY, "%llu MiB for the %s cannot be had; try a smaller context (-c)",
                       (unsigned long long)(r->bytes >> 20), what);
    }
    return true;
}

static void release(struct region *r) {
    if (r->data) munmap(r->data, r->bytes);
}

static uint64_t page_bytes(const struct tensor *t) {
    return (uint64_t)t->dims[0] * PAGE * (uint64_t)t->dims[2] * (strcmp(t->fmt, "f16") == 0 ? 2 : 4);
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
    bool ok = reserve(&s->act, m->act_bytes * (uint64_t)s->batch, e, "activations") &&
              reserve(&s->head, m->head_bytes * HEAD_BATCH, e, "logits") &&
              reserve(&s->ws, m->ws_bytes * (uint64_t)s->batch, e, "workspace") &&
              reserve(&s->caches, caches, e, "KV cache") && reserve(&s->tables, tables, e, "position tables");
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
            ok = table_fill(t->plan, m->gguf, n_ctx, data, e);
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
    release(&s->act);
    release(&s->head);
    release(&s->ws);
    release(&s->caches);
    release(&s->tables);
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
const float *session_logits(const struct session *s) {
    return (const float *)(s->head.data + s->m->tensors[s->m->logits].off * HEAD_BATCH) + s->logits_row * s->m->n_vocab;
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
    case TENSOR_INPUT: return index == s->m->ids ? (void *)s->ids : (void *)s->pages;
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

static void run_kernel(struct session *s, const struct kernel *k, void *const *args, int thread) {
    struct pool *pool = s->m->pool;
    int64_t dims[N_RUN_DIMS];
    for (size_t i = 0; i < k->n_dims; i++) dims[i] = s->sizes[k->dims[i]];
    for (size_t i = 0; i < k->n_phases; i++) {
        const struct phase *ph = &k->phases[i];
        for (size_t j = 0; j < ph->n_parts; j++) {
            const struct part *p = &ph->parts[j];
            int64_t begin, end;
            pool_share(pool, thread, part_tasks(p, s->sizes), &begin, &end);
            if (begin < end) p->fn(args, dims, begin, end, s->ws.data);
        }
        pool_barrier(pool);
    }
}

static void run_thread(void *ctx, int thread) {
    struct session *s = ctx;
    for (size_t i = s->from; i < s->to; i++) {
        double start = s->profile && thread == 0 ? now_s() : 0;
        run_kernel(s, s->m->launches[i].kernel, s->args + s->first_arg[i], thread);
        if (s->profile && thread == 0) {
            s->profile->seconds[i] += now_s() - start;
            s->profile->n_barriers += s->m->launches[i].kernel->n_phases;
        }
    }
}

static void run(struct session *s, size_t from, size_t to, int64_t n_tok) {
    s->from = from;
    s->to = to;
    s->sizes[RUN_TOK] = n_tok;
    pool_run(s->m->pool, run_thread, s);
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
        run(s, 0, m->first_head, (int64_t)count);
        if (s->profile) s->profile->n_evals++;
        /* Of this chunk, the tokens whose logits are wanted. */
        size_t first = n - n_out > done ? n - n_out - done : 0;
        while (first < count) {
            size_t rows = count - first < HEAD_BATCH ? count - first : HEAD_BATCH;
            bind(s, m->first_head, m->n_launches, (int64_t)first);
            run(s, m->first_head, m->n_launches, (int64_t)rows);
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
    run_kernel(s, k, args, thread);
}

bool session_argmax(struct session *s, int32_t *id, struct err *e) {
    s->sizes[RUN_TOK] = 1;
    pool_run(s->m->pool, argmax_thread, s);
    const float *logits = session_logits(s);
    if (!isfinite(s->best_value) || !isfinite(logits[s->best]))
        return err_set(e, ERR_INPUT, "the logits after token %lld are not finite; the model's weights may be damaged",
                       (long long)s->pos);
    *id = s->best;
    return true;
}
