/* graph: nodes with dependencies, cloning, topological order and submission.
 *
 * A node holds one op and the handles of the nodes it depends on. An executable graph is a private clone in topological
 * order; launching it submits a copy of each op to the stream, so that a later update does not reach work already
 * queued.
 */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

/* ---- ops ---- */

bool op_copy(struct op *to, const struct op *from) {
    *to = *from;
    if (from->kind == OP_KERNEL) {
        to->launch.params = mem_try(from->launch.n_params + 1, 1);
        if (!to->launch.params) return false;
        memcpy(to->launch.params, from->launch.params, from->launch.n_params);
    }
    if (from->kind == OP_ALLOC) graph_place_ref(to->place);
    if (from->kind == OP_GRAPH) {
        to->graph = graph_clone(from->graph);
        if (!to->graph) return false;
        to->graph->is_child = true;
    }
    return true;
}

void op_free(struct op *op) {
    if (op->kind == OP_KERNEL) free(op->launch.params);
    if (op->kind == OP_GRAPH) graph_release(op->graph);
    if (op->kind == OP_ALLOC) graph_place_unref(op->place);
    op->kind = OP_EMPTY;
}

CUresult op_check(struct context *ctx, const struct op *op) {
    switch (op->kind) {
    case OP_KERNEL:
        return launch_check(ctx, &op->launch);
    case OP_COPY:
        return copy_check(&op->copy);
    case OP_FILL:
        return fill_check(&op->fill);
    default:
        return CUDA_SUCCESS;
    }
}

/* ---- building ---- */

struct graph *graph_new(void) {
    struct graph *g = mem_try(1, sizeof *g);
    if (!g) return NULL;
    g->handle = handle_new(KIND_GRAPH, g);
    if (!g->handle) {
        free(g);
        return NULL;
    }
    return g;
}

/* A child graph is copied with its parent, so that a handful of calls can ask for any number of nodes. */
enum { MAX_NODES = 1 << 20 };
static size_t n_live;

static void free_node(struct node *n) {
    op_free(&n->op);
    handle_drop(n->handle);
    free(n->deps);
    free(n->param_pointers);
    free(n);
    n_live--;
}

void graph_release(struct graph *g) {
    if (!g) return;
    for (size_t i = 0; i < g->n_nodes; i++) free_node(g->nodes[i]);
    objects_release(g);
    handle_drop(g->handle);
    free(g->nodes);
    free(g);
}

void graph_exec_release(struct graph_exec *e) {
    graph_release(e->graph);
    handle_drop(e->handle);
    free(e);
}

void node_release(struct node *n) {
    struct graph *g = n->graph;
    size_t kept = 0;
    for (size_t i = 0; i < g->n_nodes; i++) {
        struct node *m = g->nodes[i];
        if (m == n) continue;
        g->nodes[kept++] = m;
        size_t d = 0;
        for (size_t j = 0; j < m->n_deps; j++)
            if (m->deps[j] != n->handle) m->deps[d++] = m->deps[j];
        m->n_deps = d;
    }
    g->n_nodes = kept;
    free_node(n);
}

static bool append(struct graph *g, struct node *n) {
    if (g->n_nodes == g->cap_nodes) {
        size_t cap = g->cap_nodes ? g->cap_nodes * 2 : 8;
        struct node **grown = realloc(g->nodes, cap * sizeof *grown);
        if (!grown) return false;
        g->nodes = grown;
        g->cap_nodes = cap;
    }
    g->nodes[g->n_nodes++] = n;
    return true;
}

CUresult graph_add(struct graph *g, const CUgraphNode *deps, size_t n_deps, struct op *op, struct node **out) {
    CUresult r = n_deps && !deps ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    for (size_t i = 0; i < n_deps && r == CUDA_SUCCESS; i++) {
        struct node *d = handle_get(KIND_NODE, deps[i]);
        if (!d || d->graph != g) r = CUDA_ERROR_INVALID_VALUE;
        for (size_t j = 0; j < i && n_deps < 4096; j++)
            if (deps[j] == deps[i]) r = CUDA_ERROR_INVALID_VALUE;
    }
    struct node *n = r == CUDA_SUCCESS && n_live < MAX_NODES ? mem_try(1, sizeof *n) : NULL;
    CUgraphNode *copy = n && n_deps ? mem_try(n_deps, sizeof *copy) : NULL;
    if (r == CUDA_SUCCESS && (!n || (n_deps && !copy))) r = CUDA_ERROR_OUT_OF_MEMORY;
    if (r == CUDA_SUCCESS) {
        if (n_deps) memcpy(copy, deps, n_deps * sizeof *copy);
        *n = (struct node){.graph = g, .op = *op, .deps = copy, .n_deps = n_deps};
        n->handle = handle_new(KIND_NODE, n);
        if (n->handle && append(g, n)) {
            n_live++;
            *out = n;
            return CUDA_SUCCESS;
        }
        handle_drop(n->handle);
        r = CUDA_ERROR_OUT_OF_MEMORY;
    }
    free(copy);
    free(n);
    op_free(op);
    return r;
}

struct graph *graph_clone(const struct graph *g) {
    struct graph *c = graph_new();
    if (!c) return NULL;
    if (!objects_copy(c, g)) goto fail;
    for (size_t i = 0; i < g->n_nodes; i++) {
        struct op op;
        struct node *n = g->nodes[i], *made;
        n->mark = i;
        if (!op_copy(&op, &n->op)) goto fail;
        if (graph_add(c, NULL, 0, &op, &made) != CUDA_SUCCESS) goto fail;
        made->origin = n->handle;
        made->disabled = n->disabled;
    }
    for (size_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = g->nodes[i];
        struct node *made = c->nodes[i];
        if (!n->n_deps) continue;
        made->deps = mem_try(n->n_deps, sizeof *made->deps);
        if (!made->deps) goto fail;
        for (size_t j = 0; j < n->n_deps; j++) {
            const struct node *d = handle_get(KIND_NODE, n->deps[j]);
            made->deps[made->n_deps++] = c->nodes[d->mark]->handle;
        }
    }
    return c;
fail:
    graph_release(c);
    return NULL;
}

struct node *graph_find(const struct graph *g, CUgraphNode origin) {
    for (size_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i]->origin == origin) return g->nodes[i];
    return NULL;
}

/* ---- order ---- */

static bool sort(struct graph *g) {
    size_t n = g->n_nodes, n_edges = 0;
    bool sorted = true;
    for (size_t i = 0; i < n; i++) g->nodes[i]->mark = i;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < g->nodes[i]->n_deps; j++, n_edges++)
            if (((struct node *)handle_get(KIND_NODE, g->nodes[i]->deps[j]))->mark >= i) sorted = false;
    if (sorted) return true;
    /* children of node i: child[first[i] .. first[i + 1]) */
    size_t *first = mem_new((n + 2) * sizeof *first), *child = mem_new((n_edges + 1) * sizeof *child);
    size_t *missing = mem_new((n + 1) * sizeof *missing), *ready = mem_new((n + 1) * sizeof *ready);
    struct node **out = mem_new((n + 1) * sizeof *out);
    for (size_t i = 0; i < n; i++) {
        missing[i] = g->nodes[i]->n_deps;
        for (size_t j = 0; j < missing[i]; j++)
            first[((struct node *)handle_get(KIND_NODE, g->nodes[i]->deps[j]))->mark + 2]++;
    }
    for (size_t i = 2; i < n + 2; i++) first[i] += first[i - 1];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < g->nodes[i]->n_deps; j++)
            child[first[((struct node *)handle_get(KIND_NODE, g->nodes[i]->deps[j]))->mark + 1]++] = i;
    size_t head = 0, tail = 0;
    for (size_t i = 0; i < n; i++)
        if (!missing[i]) ready[tail++] = i;
    for (; head < tail; head++) {
        size_t i = ready[head];
        out[head] = g->nodes[i];
        for (size_t k = first[i]; k < first[i + 1]; k++)
            if (--missing[child[k]] == 0) ready[tail++] = child[k];
    }
    bool ok = head == n;
    if (ok) memcpy(g->nodes, out, n * sizeof *out);
    free(first), free(child), free(missing), free(ready), free(out);
    return ok;
}

bool graph_order(struct graph *g) {
    if (!sort(g)) return false;
    for (size_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i]->op.kind == OP_GRAPH && !graph_order(g->nodes[i]->op.graph)) return false;
    return true;
}

/* ---- launching ---- */

CUresult graph_submit(struct stream *s, const struct graph *g) {
    CUstream handle = s->handle;
    const struct node *last = NULL;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = g->nodes[i];
        /* What is behind several nodes, or not behind the last one, waits for nothing that is still unfinished here. */
        if (n->n_deps != 1 || !last || n->deps[0] != last->handle) s->chain = (struct vm_chain){0};
        last = n;
        if (n->disabled || n->op.kind == OP_EMPTY) continue;
        CUresult r;
        if (n->op.kind == OP_GRAPH) {
            r = graph_submit(s, n->op.graph);
        } else {
            struct op op;
            if (!op_copy(&op, &n->op)) return CUDA_ERROR_OUT_OF_MEMORY;
            r = stream_submit(s, &op);
        }
        if (r != CUDA_SUCCESS) return r;
        if (handle_get(KIND_STREAM, handle) != s) return CUDA_ERROR_INVALID_HANDLE; /* destroyed by another thread */
    }
    return CUDA_SUCCESS;
}
