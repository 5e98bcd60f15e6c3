#include "runtime/session_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <linux/mman.h>
#include <sys/mman.h>

#include "runtime/check.h"
#include "runtime/foresee.h"
#include "runtime/tables.h"

enum { SLACK = 4096 };

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

uint64_t session_page_bytes(const struct tensor *t) {
    uint64_t hd = (uint64_t)t->dims[2];
    uint64_t key = strcmp(t->fmt, "q8_0") == 0 ? hd + hd / 32 * 2 : strcmp(t->fmt, "f32") == 0 ? hd * 4 : hd * 2;
    return (uint64_t)t->dims[0] * PAGE * key;
}

static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

struct session_need session_need(const struct model *m, int64_t n_ctx) {
    struct session_need n = {.batch = n_ctx < BATCH ? n_ctx : BATCH, .n_pages = (n_ctx + PAGE - 1) / PAGE};
    n.act = most(m->act_bytes * (uint64_t)n.batch, m->lone_bytes);
    n.head = most(m->head_bytes * HEAD_BATCH, m->lone_head_bytes);
    n.ws = m->ws_bytes * (uint64_t)n.batch + m->ws_page_bytes * (uint64_t)n.n_pages;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensors[i];
        if (t->kind == TENSOR_CACHE) n.caches += session_page_bytes(t) * (uint64_t)n.n_pages;
        if (t->kind == TENSOR_TABLE) n.tables += (uint64_t)n_ctx * (uint64_t)t->dims[1] * 4 + 64;
    }
    return n;
}

int64_t session_default_ctx(const struct model *m) { return m->n_ctx_train < 4096 ? m->n_ctx_train : 4096; }

/* Where a tensor lies for a launch; of the `head` part, one whose first token is row `first` of the batch. */
static void *address(const struct session *s, int32_t index, const struct launch *l, int64_t first) {
    const struct tensor *t = &s->m->tensors[index];
    switch (t->kind) {
    case TENSOR_WEIGHT: return t->data;
    case TENSOR_TABLE:
    case TENSOR_CACHE: return s->cache_of[index];
    case TENSOR_INPUT:
        if (s->m->gpu)
            return (void *)(uintptr_t)(s->input.device + (index == s->m->ids ? s->input.ids_at : s->input.pages_at));
        return index == s->m->ids ? (void *)s->ids : (void *)s->pages;
    case TENSOR_ACT:
        if (l->lone) return (t->head ? s->head.data : s->act.data) + t->lone_off;
        if (t->head) return s->head.data + t->off * HEAD_BATCH;
        return s->act.data + t->off * s->batch + (l->head ? first * t->width * 4 : 0);
    }
    bug("tensor kind %d", (int)t->kind);
}

static int32_t tensor_of(const struct session *s, const struct launch *l, size_t arg) {
    const char *name = l->kernel->args[arg];
    return strcmp(name, "pages") == 0 ? s->m->pages : l->binding[strtol(name + 1, NULL, 10) - 1];
}

static void bind(struct session *s, size_t from, size_t to, int64_t first) {
    for (size_t i = from; i < to; i++) {
        const struct launch *l = &s->m->launches[i];
        void **args = s->args + s->first_arg[i];
        for (size_t k = 0; k < l->kernel->n_args; k++) args[k] = address(s, tensor_of(s, l, k), l, first);
    }
}

/* The packed weights whose rows are a part's tasks. */
static void add_streams(const struct session *s, const struct launch *l, const struct part *p, struct ahead_phase *out) {
    for (size_t i = 0; i < p->n_constants && part_has_rows(p); i++) {
        const struct tensor *t = &s->m->tensors[tensor_of(s, l, p->constants[i])];
        if (t->kind == TENSOR_WEIGHT && json_is_true(json_object_get(t->plan, "packed")) && out->n < AHEAD_STREAMS)
            out->streams[out->n++] = (struct ahead_stream){t->data, t->bytes, p->times};
    }
}

static const struct kernel *of_one(const struct model *m, size_t launch) {
    return launch_kernel(m, &m->launches[launch], 1);
}

static void list_phases(struct session *s) {
    const struct model *m = s->m;
    size_t n = 0;
    for (size_t i = 0; i < m->n_launches; i++)
        for (size_t k = 0; k < of_one(m, i)->n_phases; k++) n += of_one(m, i)->phases[k].rows;
    s->phases = mem_new((n + 1) * sizeof *s->phases);
    s->first_phase = mem_new((m->n_launches + 1) * sizeof *s->first_phase);
    struct ahead_phase *at = s->phases;
    for (size_t i = 0; i < m->n_launches; i++) {
        const struct kernel *k = of_one(m, i);
        s->first_phase[i] = (size_t)(at - s->phases);
        for (size_t p = 0; p < k->n_phases; p++) {
            const struct phase *ph = &k->phases[p];
            for (size_t j = 0; j < ph->n_parts; j++) add_streams(s, &m->launches[i], &ph->parts[j], at);
            at += ph->rows;
        }
    }
    s->first_phase[m->n_launches] = n;
    s->ahead_most = ahead_most();
}

bool session_open(struct model *m, int64_t n_ctx, struct session **out, struct err *e) {
    *out = NULL;
    if (n_ctx == 0) n_ctx = session_default_ctx(m);
    if (n_ctx > m->n_ctx_train)
        return err_set(e, ERR_INPUT, "a context of %lld tokens: this model was made for at most %lld", (long long)n_ctx,
                       (long long)m->n_ctx_train);
    if (n_ctx < 1) return err_set(e, ERR_INPUT, "a context of %lld tokens: expected at least 1", (long long)n_ctx);
    struct session *s = mem_new(sizeof *s);
    s->m = m;
    s->n_ctx = n_ctx;
    struct session_need need = session_need(m, n_ctx);
    s->batch = need.batch;
    s->n_pages = need.n_pages;
    s->cache_of = mem_new(m->n_tensors * sizeof *s->cache_of);
    s->pages = mem_new((size_t)s->n_pages * sizeof *s->pages);
    s->free_pages = mem_new((size_t)s->n_pages * sizeof *s->free_pages);
    for (int64_t i = 0; i < s->n_pages; i++) s->free_pages[s->n_free++] = (int32_t)(s->n_pages - 1 - i);
    s->ids = mem_new((size_t)s->batch * sizeof *s->ids + 64);
    s->first_arg = mem_new(m->n_all_launches * sizeof *s->first_arg);
    size_t n_args = 0;
    for (size_t i = 0; i < m->n_all_launches; i++) {
        s->first_arg[i] = n_args;
        n_args += m->launches[i].kernel->n_args;
    }
    s->args = mem_new((n_args + 1) * sizeof *s->args);

    bool ok = (!m->gpu || foresee(m, n_ctx, 0, e)) && reserve(s, &s->act, need.act, e, "activations") &&
              reserve(s, &s->head, need.head, e, "logits") && reserve(s, &s->ws, need.ws, e, "workspace") &&
              reserve(s, &s->caches, need.caches, e, "KV cache") &&
              reserve(s, &s->tables, need.tables, e, "position tables") && (!m->gpu || session_gpu_open(s, e));
    uint64_t cache_at = 0, table_at = 0;
    for (size_t i = 0; i < m->n_tensors && ok; i++) {
        struct tensor *t = &m->tensors[i];
        if (t->kind == TENSOR_CACHE) {
            s->cache_of[i] = s->caches.data + cache_at;
            cache_at += session_page_bytes(t) * (uint64_t)s->n_pages;
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
    bind(s, 0, m->n_all_launches, 0);
    if (!m->gpu) list_phases(s);
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
    if (s->m->gpu) session_gpu_close(s);
    mem_free(s->cache_of);
    mem_free(s->pages);
    mem_free(s->free_pages);
    mem_free(s->ids);
    mem_free(s->first_arg);
    mem_free(s->args);
    mem_free(s->phases);
    mem_free(s->first_phase);
    mem_free(s);
}

int64_t session_n_ctx(const struct session *s) { return s->n_ctx; }
int64_t session_pos(const struct session *s) { return s->pos; }
uint64_t session_bytes(const struct session *s) {
    return s->act.bytes + s->head.bytes + s->ws.bytes + s->caches.bytes + s->tables.bytes;
}
void session_set_profile(struct session *s, struct session_profile *p) { s->profile = p; }
const float *session_logits_at(const struct session *s) {
    const struct tensor *t = &s->m->tensors[s->m->logits];
    return (const float *)(s->head.data + (s->lone ? t->lone_off : t->off * HEAD_BATCH)) + s->logits_row * s->m->n_vocab;
}

bool session_logits(struct session *s, const float **out, struct err *e) {
    if (s->m->gpu && !session_gpu_logits(s, e)) return false;
    *out = s->m->gpu ? s->logits + s->logits_row * s->m->n_vocab : session_logits_at(s);
    return true;
}

void session_rewind(struct session *s, int64_t keep) {
    if (keep < 0) keep = 0;
    if (keep >= s->pos) return;
    s->pos = keep;
    int64_t need = (keep + PAGE - 1) / PAGE;
    while (s->n_used > need) s->free_pages[s->n_free++] = s->pages[--s->n_used];
}

static void run_thread(void *ctx, int thread) {
    struct session *s = ctx;
    struct ahead ahead = {.next = s->phases + s->first_phase[s->from],
                          .end = s->phases + s->first_phase[s->m->n_launches],
                          .thread = thread,
                          .n_threads = pool_threads(s->m->pool),
                          .most = s->ahead_most};
    for (size_t i = s->from; i < s->to; i++) {
        double start = s->profile && thread == 0 ? now_s() : 0;
        const struct launch *l = &s->m->launches[i];
        kernel_run(launch_kernel(s->m, l, s->sizes[RUN_TOK]), s->m->pool, thread, s->args + s->first_arg[i], s->sizes,
                   s->ws.data, s->sizes[RUN_TOK] == 1 ? &ahead : NULL);
        if (s->profile && thread == 0) session_profile_add(s, i, start);
    }
}

static bool run(struct session *s, size_t from, size_t to, int64_t n_tok, struct err *e) {
    s->sizes[RUN_TOK] = n_tok;
    if (s->m->gpu) return session_gpu_run(s, from, to, e);
    for (size_t i = from; i < to; i = s->to) {
        s->from = i;
        s->to = s->check ? i + 1 : to;
        void **args = s->args + s->first_arg[i];
        if (s->check && !check_reference(s->check, i, args, e)) return false;
        pool_run(s->m->pool, run_thread, s);
        if (s->check && !check_compare(s->check, i, args, e)) return false;
    }
    return true;
}

bool session_check(struct session *s, struct err *e) {
    return check_open(s, &s->check, e);
}

/* The KV cache's pages are small ones until a quarter of the context is in use, since of each layer's part only the
 * beginning is; then huge ones, from which attention reads a tenth faster (bench/SPEED.md). */
static void enlarge_pages(struct session *s, int64_t n_tok) {
    if (s->huge_pages || s->m->gpu || n_tok < s->n_ctx / 4) return;
    s->huge_pages = true;
    madvise(s->caches.data, s->caches.bytes, MADV_HUGEPAGE);
    if (s->pos) madvise(s->caches.data, s->caches.bytes, MADV_COLLAPSE);
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
        enlarge_pages(s, s->pos + (int64_t)count);
        s->sizes[RUN_POS] = s->pos;
        s->sizes[RUN_KEY] = s->pos + (int64_t)count;
        s->sizes[RUN_CTX] = s->n_ctx;
        s->sizes[RUN_NPAGES] = s->n_pages;
        /* One token on a GPU has launches of its own; with its logits they are one graph. */
        s->lone = count == 1 && m->n_all_launches > m->n_launches;
        size_t begin = s->lone ? m->n_launches : 0, end = s->lone ? m->n_all_launches : m->n_launches;
        size_t head = s->lone ? m->first_lone_head : m->first_head;
        bool step = s->lone && !s->profile && !s->check && n_out >= n - done;
        if (!step && !run(s, begin, head, (int64_t)count, e)) return false;
        if (s->profile) s->profile->n_evals++;
        /* Of this chunk, the tokens whose logits are wanted. */
        size_t first = n - n_out > done ? n - n_out - done : 0;
        while (first < count) {
            size_t rows = count - first < HEAD_BATCH ? count - first : HEAD_BATCH;
            if (s->bound_first != (int64_t)first) bind(s, m->first_head, m->n_launches, (int64_t)first);
            s->bound_first = (int64_t)first;
            if (!(step ? session_gpu_step(s, e) : run(s, head, end, (int64_t)rows, e))) return false;
            s->n_logits = (int64_t)rows;
            for (size_t r = 0; r < rows; r++) {
                const float *logits = NULL;
                s->logits_row = (int64_t)r;
                if (sink && !(session_logits(s, &logits, e) && sink(ctx, s->pos + (int64_t)(first + r), logits, e))) {
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
    void *args[3] = {(void *)session_logits_at(s), &s->best, &s->best_value};
    kernel_run(k, s->m->pool, thread, args, s->sizes, s->ws.data, NULL);
}

bool session_argmax(struct session *s, int32_t *id, struct err *e) {
    s->sizes[RUN_TOK] = 1;
    if (s->m->gpu) {
        if (!session_gpu_argmax(s, e)) return false;
    } else {
        pool_run(s->m->pool, argmax_thread, s);
    }
    if (!isfinite(s->best_value))
        return err_set(e, ERR_INPUT, "the logits after token %lld are not finite; the model's weights may be damaged",
                       (long long)s->pos);
    *id = s->best;
    return true;
}

static bool draw_on_gpu(struct session *s, struct sampler *sampler, int32_t *id, bool *done, struct err *e) {
    struct sample_draw how = sample_draw(sampler);
    float largest;
    if (!session_gpu_draw(s, &how, id, &largest, e)) return false;
    *done = isfinite(largest);
    if (*done) sample_drawn(sampler);
    how = sample_draw(sampler);
    session_gpu_next_draw(s, &how);
    return true;
}

/* From the k largest logits. *done: they are numbers. */
static bool sample_on_gpu(struct session *s, struct sampler *sampler, int32_t *id, bool *done, struct err *e) {
    const float *logits, *tokens;
    s->choice.draws = sample_is_plain(sampler);
    if (s->choice.draws) return draw_on_gpu(s, sampler, id, done, e);
    if (!session_gpu_top_k(s, &logits, &tokens, e)) return false;
    *done = isfinite(logits[0]) || logits[0] == -INFINITY;
    return !*done || sample_among(sampler, logits, tokens, id, e);
}

bool session_sample(struct session *s, struct sampler *sampler, int32_t *id, struct err *e) {
    const float *logits;
    size_t k = sample_top_k(sampler);
    bool done = false;
    s->sizes[RUN_TOK] = 1;
    /* Only the first row of logits lies where the kernels may read whole vectors. */
    bool there = s->m->gpu && k && k == (size_t)s->m->top_k && s->logits_row == 0;
    if (there && !sample_on_gpu(s, sampler, id, &done, e)) return false;
    /* Logits that are no numbers come first; the whole of them says which. */
    return done || (session_logits(s, &logits, e) && sample_next(sampler, logits, id, e));
}
