/* stream: how submitted work runs.
 *
 * A piece of work may start when no earlier piece it depends on is still in the list below:
 *   - one of the same stream,
 *   - one of the legacy stream, when its own stream is a blocking one, and the other way round,
 *   - the recording of the event it waits for.
 * Work that may start runs at once on the submitting thread. Host functions, and what waits for something, are left to
 * one worker thread, which takes the first piece that may start. Kernels and host functions run without the lock.
 *
 * A fault makes the context sticky; what is still queued there is dropped unseen, as hardware does (callbacks of
 * cuStreamAddCallback are told the error).
 */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

struct work {
    uint64_t seq;
    struct stream *stream;
    struct op op;
    bool running;
    struct work *next;
};

static struct work *first;
static uint64_t next_seq = 1;
static bool worker_started;
_Thread_local bool in_host_function;

static bool blocking(const struct stream *s) {
    return !(s->flags & CU_STREAM_NON_BLOCKING);
}

static bool ordered(const struct stream *a, const struct stream *b) {
    if (a == b) return true;
    if (a->ctx != b->ctx) return false;
    return (a->is_legacy && blocking(b)) || (b->is_legacy && blocking(a));
}

/* Whether w must wait for a piece of work that stands before it in the list. */
static bool must_wait(const struct work *w) {
    uint64_t recording = 0;
    if (w->op.kind == OP_WAIT) {
        const struct event *e = handle_get(KIND_EVENT, w->op.event);
        recording = e ? e->pending : 0;
    }
    if (w->op.kind == OP_WAIT_VALUE && !value_holds(&w->op.value)) return true;
    for (const struct work *before = first; before && before != w; before = before->next)
        if (ordered(before->stream, w->stream) || (recording && before->seq == recording)) return true;
    return false;
}

static void append(struct work *w) {
    struct work **at = &first;
    while (*at) at = &(*at)->next;
    *at = w;
}

static void remove_work(struct work *w) {
    struct work **at = &first;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    op_free(&w->op);
    free(w);
    driver_notify();
}

static void record_now(CUevent handle, uint64_t seq) {
    struct event *e = handle_get(KIND_EVENT, handle);
    if (!e || (e->pending && e->pending != seq)) return; /* recorded again since: the later record decides */
    e->pending = 0;
    e->at_s = now_s();
}

static void run_host(struct context *ctx, const struct op *op) {
    CUresult state = ctx->sticky;
    if (!op->host.callback && state != CUDA_SUCCESS) return;
    driver_unlock();
    vm_report_host(VM_H_HOST_FUNCTION, 0);
    in_host_function = true;
    if (op->host.callback)
        op->host.callback(op->host.stream, state, op->host.data);
    else
        op->host.fn(op->host.data);
    in_host_function = false;
    driver_lock();
}

/* Runs one piece of work; the refusal of a launch that the machine finds out only now comes back, faults become the
 * context's. */
static CUresult run(struct work *w) {
    struct context *ctx = w->stream->ctx;
    if (w->op.kind != OP_KERNEL) w->stream->chain = (struct vm_chain){0};
    CUresult r = CUDA_SUCCESS;
    if (w->op.kind == OP_HOST) {
        run_host(ctx, &w->op);
    } else if (w->op.kind == OP_RECORD) {
        record_now(w->op.event, w->seq);
    } else if (ctx->sticky == CUDA_SUCCESS) {
        switch (w->op.kind) {
        case OP_KERNEL:
            r = launch_run(w->stream, &w->op.launch);
            break;
        case OP_COPY:
            r = copy_run(&w->op.copy);
            break;
        case OP_FILL:
            r = fill_run(&w->op.fill);
            break;
        case OP_ALLOC:
            r = graph_place_alloc(ctx, w->op.place);
            break;
        case OP_WRITE_VALUE:
            r = value_write(&w->op.value);
            break;
        case OP_FREE:
            memory_free_at(w->op.addr);
            break;
        default:
            break;
        }
    }
    return r;
}

/* Calls of the driver's own, outside every stream. */
static struct later {
    CUhostFn fn;
    void *data;
    struct later *next;
} * later;

static void run_later(struct later *l) {
    later = l->next;
    driver_unlock();
    in_host_function = true;
    l->fn(l->data);
    in_host_function = false;
    free(l);
    driver_lock();
}

static void *worker(void *unused) {
    (void)unused;
    driver_lock();
    for (;;) {
        if (later) {
            run_later(later);
            continue;
        }
        struct work *w = first;
        bool watches = false; /* memory that the host may write */
        while (w && (w->running || must_wait(w))) watches |= w->op.kind == OP_WAIT_VALUE, w = w->next;
        if (!w) {
            if (watches)
                driver_wait_briefly();
            else
                driver_wait();
            continue;
        }
        w->running = true;
        CUresult r = run(w);
        if (r != CUDA_SUCCESS) context_fault(w->stream->ctx, r); /* nobody is left to be told directly */
        remove_work(w);
    }
    return NULL;
}

static bool start_worker(void) {
    if (worker_started) return true;
    pthread_t t;
    if (pthread_create(&t, NULL, worker, NULL) != 0) return false;
    pthread_detach(t);
    return worker_started = true;
}

bool host_later(CUhostFn fn, void *data) {
    struct later *l = mem_try(1, sizeof *l);
    if (!l || !start_worker()) {
        free(l);
        return false;
    }
    *l = (struct later){fn, data, later};
    later = l;
    driver_notify();
    return true;
}

static CUresult submit(struct stream *s, struct op *op) {
    struct work *w = mem_try(1, sizeof *w);
    if (!w) {
        op_free(op);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *w = (struct work){.seq = next_seq++, .stream = s, .op = *op};
    append(w);
    if (op->kind == OP_RECORD) {
        struct event *e = handle_get(KIND_EVENT, op->event);
        if (e) {
            event_forget_capture(e);
            e->recorded = true;
            e->pending = w->seq;
        }
    }
    if (op->kind == OP_HOST || must_wait(w)) {
        if (!start_worker()) {
            remove_work(w);
            return CUDA_ERROR_OPERATING_SYSTEM;
        }
        driver_notify();
        return CUDA_SUCCESS;
    }
    w->running = true;
    CUresult r = run(w);
    remove_work(w);
    return r;
}

CUresult stream_submit(struct stream *s, struct op *op) {
    if (s->capture) return capture_add(s, op);
    if (op->kind == OP_GRAPH) {
        s->chain = (struct vm_chain){0};
        CUresult r = graph_submit(s, op->graph);
        op_free(op);
        return r;
    }
    CUresult r = op_check(s->ctx, op);
    if (r != CUDA_SUCCESS) {
        op_free(op);
        return r;
    }
    if (s->is_legacy && (r = capture_forbids_legacy(s->ctx)) != CUDA_SUCCESS) {
        op_free(op);
        return r;
    }
    return submit(s, op);
}

/* Neither is looked into: they may be gone when a waiter looks again. legacy: s is the context's legacy stream, which
 * is done when all blocking streams are. */
static bool pending(const struct context *ctx, const struct stream *s, bool legacy) {
    for (const struct work *w = first; w; w = w->next)
        if (w->stream->ctx == ctx && (!s || w->stream == s || (legacy && blocking(w->stream)))) return true;
    return false;
}

bool stream_busy(const struct stream *s) {
    return pending(s->ctx, s, s->is_legacy);
}

/* Everything before has ended, for dependent grids too. */
static void settle(void *object, void *ctx) {
    struct stream *s = object;
    if (s->ctx == ctx) s->chain = (struct vm_chain){0};
}

CUresult stream_wait(struct context *ctx, struct stream *s) {
    if (s && s->capture) {
        s->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    CUresult r = capture_forbids(ctx);
    if (r != CUDA_SUCCESS) return r;
    CUcontext handle = ctx->handle;
    bool legacy = s && s->is_legacy;
    while (pending(ctx, s, legacy)) {
        driver_wait();
        if (context_of(handle) != ctx) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    }
    vm_report_host(VM_H_SYNC, 0);
    if (s)
        s->chain = (struct vm_chain){0};
    else
        handle_each(KIND_STREAM, settle, ctx);
    return ctx->sticky;
}

bool context_busy(const struct context *ctx) {
    return pending(ctx, NULL, false);
}

void stream_wait_idle(struct context *ctx) {
    while (context_busy(ctx)) driver_wait();
}

CUresult stream_submit_wait(struct stream *s, struct op *op) {
    CUresult r = capture_forbids(s->ctx);
    if (r != CUDA_SUCCESS) {
        op_free(op);
        return r;
    }
    CUstream handle = s->handle;
    r = stream_submit(s, op);
    if (r != CUDA_SUCCESS || handle_get(KIND_STREAM, handle) != s) return r; /* destroyed by another thread */
    return stream_wait(s->ctx, s);
}

CUresult event_wait(struct event *e) {
    struct context *ctx = e->ctx;
    CUevent handle = e->handle;
    while (e->pending) {
        driver_wait();
        if (handle_get(KIND_EVENT, handle) != e) return CUDA_SUCCESS; /* destroyed meanwhile */
    }
    vm_report_host(VM_H_SYNC, 0);
    return ctx->sticky;
}

/* ---- objects ---- */

CUresult stream_get(struct context *ctx, CUstream handle, struct stream **out) {
    if (!handle || handle == CU_STREAM_LEGACY) {
        *out = handle_get(KIND_STREAM, ctx->legacy);
        return CUDA_SUCCESS;
    }
    if (handle == CU_STREAM_PER_THREAD) {
        *out = stream_per_thread(ctx);
        return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = handle_get(KIND_STREAM, handle);
    if (!*out) return CUDA_ERROR_INVALID_HANDLE;
    return (*out)->ctx->sticky;
}

struct stream *stream_new(struct context *ctx, unsigned flags, int priority) {
    static uint64_t next_id = 16;
    struct stream *s = mem_try(1, sizeof *s);
    if (!s) return NULL;
    *s = (struct stream){
        .ctx = ctx, .flags = flags, .priority = priority, .id = next_id++, .sync_policy = CU_SYNC_POLICY_AUTO};
    s->handle = handle_new(KIND_STREAM, s);
    if (!s->handle) {
        free(s);
        return NULL;
    }
    return s;
}

/* Each thread has its own default stream in each context; threads are told apart by a counter, not by an address that
 * a later thread may get again. */
struct stream *stream_per_thread(struct context *ctx) {
    static uint64_t threads;
    static _Thread_local uint64_t self;
    if (!self) self = ++threads;
    for (size_t i = 0; i < ctx->n_own; i++)
        if (ctx->own[i].thread == self) return handle_get(KIND_STREAM, ctx->own[i].stream);
    if (ctx->n_own == ctx->cap_own) {
        ctx->cap_own = ctx->cap_own ? ctx->cap_own * 2 : 4;
        ctx->own = mem_grow(ctx->own, ctx->cap_own * sizeof *ctx->own);
    }
    struct stream *s = stream_new(ctx, 0, 0);
    if (!s) return NULL;
    s->is_default = true;
    ctx->own[ctx->n_own++] = (struct own_stream){self, s->handle};
    return s;
}

void stream_release(struct stream *s) {
    if (s->capture) capture_leave(s);
    handle_drop(s->handle);
    free(s->nodes);
    free(s);
}

void event_release(struct event *e) {
    event_forget_capture(e);
    handle_drop(e->handle);
    free(e);
}
