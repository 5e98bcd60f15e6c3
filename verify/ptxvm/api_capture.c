/* api_capture: stream capture. A capturing stream turns work into nodes of a graph instead of running it.
 *
 * A capture spreads from its origin stream to any stream that waits for an event recorded inside it, and must come back
 * the same way before it ends. Each capturing stream keeps the set of nodes that its next node will depend on.
 */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

static int n_captures;
static uint64_t next_id = 1;
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

static bool set_nodes(CUgraphNode **nodes, size_t *n, const CUgraphNode *from, size_t n_from) {
    CUgraphNode *copy = NULL;
    if (n_from) {
        copy = mem_try(n_from, sizeof *copy);
        if (!copy) return false;
        memcpy(copy, from, n_from * sizeof *copy);
    }
    free(*nodes);
    *nodes = copy;
    *n = n_from;
    return true;
}

/* Adds what is not there yet. */
static bool merge_nodes(struct stream *s, const CUgraphNode *from, size_t n_from) {
    if (!n_from) return true;
    CUgraphNode *all = mem_try(s->n_nodes + n_from, sizeof *all);
    if (!all) return false;
    size_t n = s->n_nodes;
    if (n) memcpy(all, s->nodes, n * sizeof *all);
    for (size_t i = 0; i < n_from; i++) {
        bool seen = false;
        for (size_t j = 0; j < n && !seen; j++) seen = all[j] == from[i];
        if (!seen) all[n++] = from[i];
    }
    free(s->nodes);
    s->nodes = all;
    s->n_nodes = n;
    return true;
}

void capture_unref(struct capture *c) {
    if (--c->refs) return;
    if (c->graph) { /* never ended */
        c->graph->is_captured = false;
        if (!c->caller_graph) graph_release(c->graph);
        n_captures--;
    }
    free(c);
}

void capture_leave(struct stream *s) {
    struct capture *c = s->capture;
    s->capture = NULL;
    set_nodes(&s->nodes, &s->n_nodes, NULL, 0);
    if (c) {
        if (c->origin == s) c->origin = NULL;
        capture_unref(c);
    }
}

void event_forget_capture(struct event *e) {
    struct capture *c = e->capture;
    e->capture = NULL;
    set_nodes(&e->nodes, &e->n_nodes, NULL, 0);
    if (c) capture_unref(c);
}

/* ---- what a capture forbids ---- */

struct search {
    struct context *ctx;
    bool legacy_only;
    struct capture *found;
};

static void look(void *obj, void *arg) {
    struct stream *s = obj;
    struct search *q = arg;
    struct capture *c = s->capture;
    if (!c || c->origin != s) return;
    if (q->legacy_only) {
        if (s->ctx == q->ctx && !(s->flags & CU_STREAM_NON_BLOCKING)) q->found = c;
        return;
    }
    bool mine = pthread_equal(c->thread, pthread_self());
    bool forbids = thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL
                       ? c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL || (mine && c->mode != CU_STREAM_CAPTURE_MODE_RELAXED)
                   : thread_mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
                       ? mine && c->mode != CU_STREAM_CAPTURE_MODE_RELAXED
                       : false;
    if (forbids) q->found = c;
}

static CUresult forbid(struct search q, CUresult code) {
    if (!n_captures) return CUDA_SUCCESS;
    handle_each(KIND_STREAM, look, &q);
    if (!q.found) return CUDA_SUCCESS;
    q.found->invalid = true;
    return code;
}

CUresult capture_forbids(struct context *ctx) {
    return forbid((struct search){.ctx = ctx}, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

CUresult capture_forbids_legacy(struct context *ctx) {
    return forbid((struct search){.ctx = ctx, .legacy_only = true}, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
}

/* ---- capturing ---- */

static CUresult spoil(struct capture *c, CUresult code) {
    c->invalid = true;
    return code;
}

CUresult capture_add(struct stream *s, struct op *op) {
    struct capture *c = s->capture;
    CUresult r = c->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : op_check(s->ctx, op);
    if (r != CUDA_SUCCESS) {
        op_free(op);
        return spoil(c, r);
    }
    if (op->kind == OP_FREE && !graph_place_at(op->addr)) { /* the memory was not allocated by a graph */
        op_free(op);
        static int said;
        return spoil(c, (CUresult)ptxvm_unsupported("cuMemFreeAsync during stream capture", &said));
    }
    struct node *n;
    r = graph_add(c->graph, s->nodes, s->n_nodes, op, &n);
    if (r != CUDA_SUCCESS) return spoil(c, r);
    return set_nodes(&s->nodes, &s->n_nodes, &n->handle, 1) ? CUDA_SUCCESS : spoil(c, CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult capture_record(struct stream *s, struct event *e) {
    struct capture *c = s->capture;
    if (c->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    event_forget_capture(e);
    if (!set_nodes(&e->nodes, &e->n_nodes, s->nodes, s->n_nodes)) return spoil(c, CUDA_ERROR_OUT_OF_MEMORY);
    e->capture = c;
    c->refs++;
    return CUDA_SUCCESS;
}

CUresult capture_wait(struct stream *s, struct event *e) {
    struct capture *c = e->capture;
    if (!c) return spoil(s->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    if (!c->graph) return CUDA_ERROR_CAPTURED_EVENT; /* that capture has ended */
    if (c->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (s->is_legacy) return spoil(c, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    if (s->capture && s->capture != c) {
        s->capture->invalid = true;
        return spoil(c, CUDA_ERROR_STREAM_CAPTURE_MERGE);
    }
    if (!s->capture) {
        s->capture = c;
        c->refs++;
    }
    return merge_nodes(s, e->nodes, e->n_nodes) ? CUDA_SUCCESS : spoil(c, CUDA_ERROR_OUT_OF_MEMORY);
}

static CUresult begin(CUstream handle, struct graph *into, const CUgraphNode *deps, size_t n_deps,
                      CUstreamCaptureMode mode) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, handle, &s);
    if (r != CUDA_SUCCESS) return r;
    if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED || (n_deps && !deps)) return CUDA_ERROR_INVALID_VALUE;
    if (s->is_legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (s->capture) return CUDA_ERROR_ILLEGAL_STATE;
    for (size_t i = 0; i < n_deps; i++) {
        struct node *n = handle_get(KIND_NODE, deps[i]);
        if (!n || n->graph != into) return CUDA_ERROR_INVALID_VALUE;
    }
    struct capture *c = mem_try(1, sizeof *c);
    struct graph *g = into ? into : graph_new();
    if (!c || !g || !set_nodes(&s->nodes, &s->n_nodes, deps, n_deps)) {
        free(c);
        if (g && !into) graph_release(g);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    g->is_captured = true;
    *c = (struct capture){.id = next_id++,
                          .graph = g,
                          .origin = s,
                          .mode = mode,
                          .thread = pthread_self(),
                          .caller_graph = into != NULL,
                          .refs = 1};
    s->capture = c;
    n_captures++;
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
    return begin(hStream, NULL, NULL, 0, mode);
}
CUresult cuStreamBeginCapture(CUstream hStream) {
    return begin(hStream, NULL, NULL, 0, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

static struct graph *find_graph(CUgraph handle) {
    LOCKED;
    struct graph *g = handle_get(KIND_GRAPH, handle);
    return g && !g->is_captured ? g : NULL;
}

CUresult cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *deps,
                                     const CUgraphEdgeData *edges, size_t n_deps, CUstreamCaptureMode mode) {
    (void)edges;
    struct graph *g = find_graph(hGraph);
    return g ? begin(hStream, g, deps, n_deps, mode) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    ENTER;
    if (!mode || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    CUstreamCaptureMode old = thread_mode;
    thread_mode = *mode;
    *mode = old;
    return CUDA_SUCCESS;
}

/* ---- ending ---- */

/* Stamps the nodes that the given ones depend on, and them too. A captured node is younger than its dependencies. */
static void reach(const struct graph *g, const CUgraphNode *from, size_t n_from, size_t stamp) {
    for (size_t i = 0; i < n_from; i++) {
        struct node *n = handle_get(KIND_NODE, from[i]);
        if (n) n->mark = stamp;
    }
    for (size_t i = g->n_nodes; i-- > 0;) {
        if (g->nodes[i]->mark != stamp) continue;
        for (size_t j = 0; j < g->nodes[i]->n_deps; j++) {
            struct node *n = handle_get(KIND_NODE, g->nodes[i]->deps[j]);
            if (n) n->mark = stamp;
        }
    }
}

struct ending {
    struct capture *c;
    bool unjoined;
    size_t stamp;
};

static void check_joined(void *obj, void *arg) {
    struct stream *s = obj;
    struct ending *e = arg;
    if (s->capture != e->c || s == e->c->origin) return;
    for (size_t i = 0; i < s->n_nodes; i++) {
        struct node *n = handle_get(KIND_NODE, s->nodes[i]);
        if (n && n->mark != e->stamp) e->unjoined = true;
    }
}

static void leave(void *obj, void *c) {
    if (((struct stream *)obj)->capture == c) capture_leave(obj);
}

CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    if (!phGraph) return CUDA_ERROR_INVALID_VALUE;
    struct capture *c = s->capture;
    if (!c) return CUDA_ERROR_ILLEGAL_STATE;
    if (c->origin != s) return spoil(c, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    if (c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(c->thread, pthread_self()))
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    struct ending e = {.c = c, .stamp = (size_t) - (intptr_t)c->id};
    reach(c->graph, s->nodes, s->n_nodes, e.stamp);
    handle_each(KIND_STREAM, check_joined, &e);
    struct graph *g = c->graph;
    g->is_captured = false;
    c->graph = NULL;
    n_captures--;
    r = c->invalid   ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        : e.unjoined ? CUDA_ERROR_STREAM_CAPTURE_UNJOINED
                     : CUDA_SUCCESS;
    bool callers = c->caller_graph;
    handle_each(KIND_STREAM, leave, c); /* may be the last reference to c */
    *phGraph = r == CUDA_SUCCESS ? g->handle : NULL;
    if (r != CUDA_SUCCESS && !callers) graph_release(g);
    return r;
}

/* ---- looking at it ---- */

static CUstreamCaptureStatus status(const struct stream *s) {
    return !s->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
           : s->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                 : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    if (!captureStatus) return CUDA_ERROR_INVALID_VALUE;
    if (s->is_legacy && (r = capture_forbids_legacy(ctx)) != CUDA_SUCCESS) return r;
    *captureStatus = status(s);
    return CUDA_SUCCESS;
}

static CUresult info(CUstream handle, CUstreamCaptureStatus *st, cuuint64_t *id, CUgraph *graph,
                     const CUgraphNode **deps, const CUgraphEdgeData **edges, size_t *n_deps) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, handle, &s);
    if (r != CUDA_SUCCESS) return r;
    if (!st) return CUDA_ERROR_INVALID_VALUE;
    if (s->is_legacy && (r = capture_forbids_legacy(ctx)) != CUDA_SUCCESS) return r;
    *st = status(s);
    if (*st != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
    if (id) *id = s->capture->id;
    if (graph) *graph = s->capture->graph->handle;
    if (deps) *deps = s->nodes;
    if (edges) *edges = NULL;
    if (n_deps) *n_deps = s->n_nodes;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCaptureInfo(CUstream s, CUstreamCaptureStatus *st, cuuint64_t *id) {
    return info(s, st, id, NULL, NULL, NULL, NULL);
}
CUresult cuStreamGetCaptureInfo_v2(CUstream s, CUstreamCaptureStatus *st, cuuint64_t *id, CUgraph *graph,
                                   const CUgraphNode **deps, size_t *n_deps) {
    return info(s, st, id, graph, deps, NULL, n_deps);
}
CUresult cuStreamGetCaptureInfo_v3(CUstream s, CUstreamCaptureStatus *st, cuuint64_t *id, CUgraph *graph,
                                   const CUgraphNode **deps, const CUgraphEdgeData **edges, size_t *n_deps) {
    return info(s, st, id, graph, deps, edges, n_deps);
}

CUresult cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode *deps, size_t n_deps, unsigned int flags) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES || (n_deps && !deps)) return CUDA_ERROR_INVALID_VALUE;
    if (!s->capture) return CUDA_ERROR_ILLEGAL_STATE;
    if (s->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    for (size_t i = 0; i < n_deps; i++) {
        struct node *n = handle_get(KIND_NODE, deps[i]);
        if (!n || n->graph != s->capture->graph) return CUDA_ERROR_INVALID_VALUE;
    }
    bool done = flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES ? set_nodes(&s->nodes, &s->n_nodes, deps, n_deps)
                                                            : merge_nodes(s, deps, n_deps);
    return done ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *deps, const CUgraphEdgeData *edges,
                                              size_t n_deps, unsigned int flags) {
    (void)edges;
    return cuStreamUpdateCaptureDependencies(hStream, deps, n_deps, flags);
}
