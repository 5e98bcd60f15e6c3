/* api_graph_exec: executable graphs: instantiation, launch, changes of single nodes, update from another graph. */
#include "verify/ptxvm/driver.h"
#include "verify/ptxvm/graph_params.h"
#include <stdlib.h>
#include <string.h>

static CUresult instantiate(CUgraphExec *out, CUgraph hGraph, unsigned long long flags, CUgraphNode *bad) {
    ENTER_CTX;
    if (bad) *bad = NULL;
    struct graph *g = handle_get(KIND_GRAPH, hGraph);
    unsigned long long known = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                               CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH |
                               CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    if (!out || !g || g->is_captured || flags & ~known) return CUDA_ERROR_INVALID_VALUE;
    if (flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) return CUDA_ERROR_NOT_SUPPORTED;
    struct graph_exec *e = mem_try(1, sizeof *e);
    struct graph *clone = e ? graph_clone(g) : NULL;
    if (clone) e->handle = handle_new(KIND_EXEC, e);
    if (!clone || !e->handle || !graph_order(clone)) {
        CUresult r = clone && e->handle ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY; /* a cycle */
        if (e) handle_drop(e->handle);
        graph_release(clone);
        free(e);
        return r;
    }
    e->ctx = ctx;
    e->graph = clone;
    e->flags = flags;
    *out = e->handle;
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph g, unsigned long long flags) {
    return instantiate(out, g, flags, NULL);
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *out, CUgraph g, CUDA_GRAPH_INSTANTIATE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUresult r = instantiate(out, g, p->flags, &p->hErrNode_out);
    p->result_out = r == CUDA_SUCCESS               ? CUDA_GRAPH_INSTANTIATE_SUCCESS
                    : r == CUDA_ERROR_INVALID_VALUE ? CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE
                                                    : CUDA_GRAPH_INSTANTIATE_ERROR;
    return r;
}

static CUresult instantiate_logged(CUgraphExec *out, CUgraph g, CUgraphNode *bad, char *log, size_t bytes) {
    if (log && bytes) log[0] = 0;
    CUresult r = instantiate(out, g, 0, bad);
    if (r != CUDA_SUCCESS && log && bytes) snprintf(log, bytes, "graph cannot be instantiated: %s", error_name(r));
    return r;
}
CUresult cuGraphInstantiate(CUgraphExec *out, CUgraph g, CUgraphNode *bad, char *log, size_t bytes) {
    return instantiate_logged(out, g, bad, log, bytes);
}
CUresult cuGraphInstantiate_v2(CUgraphExec *out, CUgraph g, CUgraphNode *bad, char *log, size_t bytes) {
    return instantiate_logged(out, g, bad, log, bytes);
}

CUresult cuGraphExecGetFlags(CUgraphExec hExec, cuuint64_t *flags) {
    ENTER;
    struct graph_exec *e = handle_get(KIND_EXEC, hExec);
    if (!e || !flags) return CUDA_ERROR_INVALID_VALUE;
    *flags = e->flags;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec hExec) {
    ENTER;
    struct graph_exec *e = handle_get(KIND_EXEC, hExec);
    if (!e) return CUDA_ERROR_INVALID_VALUE;
    graph_exec_release(e);
    return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec hExec, CUstream hStream) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    return handle_get(KIND_EXEC, hExec) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* What an earlier launch has allocated and nobody has freed. */
static CUresult free_left(struct stream *s, const struct graph *g) {
    for (size_t i = 0; i < g->n_nodes; i++) {
        const struct op *op = &g->nodes[i]->op;
        CUresult r = CUDA_SUCCESS;
        if (op->kind == OP_GRAPH) r = free_left(s, op->graph);
        if (op->kind == OP_ALLOC)
            r = stream_submit(s, &(struct op){.kind = OP_FREE, .addr = graph_place_addr(op->place)});
        if (r != CUDA_SUCCESS) return r;
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec hExec, CUstream hStream) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    struct graph_exec *e = handle_get(KIND_EXEC, hExec);
    if (!e) return CUDA_ERROR_INVALID_VALUE;
    vm_report_host(VM_H_GRAPH_LAUNCH, 0);
    /* from a copy: while a kernel runs without the lock, another thread may change or destroy the executable */
    struct op op = {.kind = OP_GRAPH, .graph = graph_clone(e->graph)};
    if (!op.graph) return CUDA_ERROR_OUT_OF_MEMORY;
    op.graph->is_child = true;
    if (e->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH && !s->capture) {
        r = free_left(s, op.graph);
        if (r != CUDA_SUCCESS) {
            op_free(&op);
            return r;
        }
    }
    return stream_submit(s, &op);
}

/* ---- single nodes ---- */

static struct node *exec_node(CUgraphExec hExec, CUgraphNode hNode) {
    struct graph_exec *e = handle_get(KIND_EXEC, hExec);
    return e && hNode ? graph_find(e->graph, hNode) : NULL;
}

static CUresult set(CUgraphExec hExec, CUgraphNode hNode, const CUgraphNodeParams *p) {
    ENTER_CTX;
    if (!handle_get(KIND_EXEC, hExec)) return CUDA_ERROR_INVALID_VALUE;
    struct node *n = exec_node(hExec, hNode);
    if (!n || !p || op_type(&n->op) != p->type) return CUDA_ERROR_INVALID_VALUE;
    if (n->op.kind == OP_GRAPH) { /* the new child must have the old one's shape */
        struct graph *child = handle_get(KIND_GRAPH, p->graph.graph);
        if (!child || child->n_nodes != n->op.graph->n_nodes) return CUDA_ERROR_INVALID_VALUE;
        CUresult r = node_set(ctx, n, p);
        if (r == CUDA_SUCCESS && !graph_order(n->op.graph)) r = CUDA_ERROR_INVALID_VALUE;
        return r;
    }
    return node_set(ctx, n, p);
}

CUresult cuGraphExecNodeSetParams(CUgraphExec e, CUgraphNode n, CUgraphNodeParams *p) {
    return set(e, n, p);
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec e, CUgraphNode n, const CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    memcpy(&q.kernel, p, sizeof *p);
    return set(e, n, &q);
}
CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec e, CUgraphNode n, const CUDA_KERNEL_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    memcpy(&q.kernel, p, sizeof *p);
    return set(e, n, &q);
}

CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec e, CUgraphNode n, const CUDA_MEMCPY3D *p, CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    q.memcpy.copyParams = *p;
    q.memcpy.copyCtx = ctx;
    return set(e, n, &q);
}

CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec e, CUgraphNode n, const CUDA_MEMSET_NODE_PARAMS *p, CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEMSET};
    memcpy(&q.memset, p, sizeof *p);
    q.memset.ctx = ctx;
    return set(e, n, &q);
}

CUresult cuGraphExecHostNodeSetParams(CUgraphExec e, CUgraphNode n, const CUDA_HOST_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_HOST};
    memcpy(&q.host, p, sizeof *p);
    return set(e, n, &q);
}

CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec e, CUgraphNode n, CUgraph child) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_GRAPH};
    q.graph.graph = child;
    return set(e, n, &q);
}

CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec e, CUgraphNode n, CUevent event) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};
    q.eventRecord.event = event;
    return set(e, n, &q);
}

CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec e, CUgraphNode n, CUevent event) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT};
    q.eventWait.event = event;
    return set(e, n, &q);
}

static bool can_disable(const struct node *n) {
    return n->op.kind == OP_KERNEL || n->op.kind == OP_COPY || n->op.kind == OP_FILL;
}

CUresult cuGraphNodeSetEnabled(CUgraphExec hExec, CUgraphNode hNode, unsigned int isEnabled) {
    ENTER;
    struct node *n = exec_node(hExec, hNode);
    if (!n || !can_disable(n)) return CUDA_ERROR_INVALID_VALUE;
    n->disabled = !isEnabled;
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetEnabled(CUgraphExec hExec, CUgraphNode hNode, unsigned int *isEnabled) {
    ENTER;
    struct node *n = exec_node(hExec, hNode);
    if (!n || !isEnabled || !can_disable(n)) return CUDA_ERROR_INVALID_VALUE;
    *isEnabled = !n->disabled;
    return CUDA_SUCCESS;
}

/* ---- update ---- */

/* Compares a sorted clone with the executable's graph; both were made by the same rules from graphs in creation order,
 * so that equal graphs line up node by node. */
static CUgraphExecUpdateResult compare(const struct graph *have, const struct graph *want, CUgraphNode *bad) {
    if (have->n_nodes != want->n_nodes) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (size_t i = 0; i < have->n_nodes; i++) have->nodes[i]->mark = want->nodes[i]->mark = i;
    for (size_t i = 0; i < have->n_nodes; i++) {
        const struct node *a = have->nodes[i], *b = want->nodes[i];
        *bad = b->origin;
        if (a->op.kind != b->op.kind) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
        if (a->n_deps != b->n_deps) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        for (size_t j = 0; j < a->n_deps; j++) {
            const struct node *da = handle_get(KIND_NODE, a->deps[j]), *db = handle_get(KIND_NODE, b->deps[j]);
            if (da->mark != db->mark) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        }
        if (a->op.kind == OP_GRAPH) {
            CUgraphNode inner;
            CUgraphExecUpdateResult r = compare(a->op.graph, b->op.graph, &inner);
            if (r != CU_GRAPH_EXEC_UPDATE_SUCCESS) return r;
        }
    }
    *bad = NULL;
    return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

static CUresult update(CUgraphExec hExec, CUgraph hGraph, CUgraphExecUpdateResult *result, CUgraphNode *bad) {
    ENTER_CTX;
    *result = CU_GRAPH_EXEC_UPDATE_ERROR;
    *bad = NULL;
    struct graph_exec *e = handle_get(KIND_EXEC, hExec);
    struct graph *g = handle_get(KIND_GRAPH, hGraph);
    if (!e || !g || g->is_captured) return CUDA_ERROR_INVALID_VALUE;
    struct graph *want = graph_clone(g);
    if (!want) return CUDA_ERROR_OUT_OF_MEMORY;
    *result = graph_order(want) ? compare(e->graph, want, bad) : CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    if (*result == CU_GRAPH_EXEC_UPDATE_SUCCESS) {
        for (size_t i = 0; i < want->n_nodes; i++) { /* nodes keep the names of the graph first instantiated */
            struct op old = e->graph->nodes[i]->op;
            e->graph->nodes[i]->op = want->nodes[i]->op;
            want->nodes[i]->op = old;
        }
    }
    graph_release(want);
    (void)ctx;
    return *result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec hExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *info) {
    if (!info) return CUDA_ERROR_INVALID_VALUE;
    *info = (CUgraphExecUpdateResultInfo){0};
    return update(hExec, hGraph, &info->result, &info->errorNode);
}

CUresult cuGraphExecUpdate(CUgraphExec hExec, CUgraph hGraph, CUgraphNode *bad, CUgraphExecUpdateResult *result) {
    if (!bad || !result) return CUDA_ERROR_INVALID_VALUE;
    return update(hExec, hGraph, result, bad);
}
