/* api_graph: building graphs node by node. */
#include "verify/ptxvm/driver.h"
#include "verify/ptxvm/graph_params.h"
#include <stdlib.h>
#include <string.h>

static struct graph *editable(CUgraph handle) {
    struct graph *g = handle_get(KIND_GRAPH, handle);
    return g && !g->is_captured ? g : NULL;
}

CUresult cuGraphCreate(CUgraph *phGraph, unsigned int flags) {
    ENTER;
    if (!phGraph || flags) return CUDA_ERROR_INVALID_VALUE;
    struct graph *g = graph_new();
    if (!g) return CUDA_ERROR_OUT_OF_MEMORY;
    *phGraph = g->handle;
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph hGraph) {
    ENTER;
    struct graph *g = editable(hGraph);
    if (!g || g->is_child) return CUDA_ERROR_INVALID_VALUE;
    graph_release(g);
    return CUDA_SUCCESS;
}

CUresult cuGraphClone(CUgraph *out, CUgraph original) {
    ENTER;
    struct graph *g = editable(original);
    if (!out || !g) return CUDA_ERROR_INVALID_VALUE;
    struct graph *c = graph_clone(g);
    if (!c) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = c->handle;
    return CUDA_SUCCESS;
}

CUresult cuGraphNodeFindInClone(CUgraphNode *out, CUgraphNode original, CUgraph clone) {
    ENTER;
    struct graph *g = handle_get(KIND_GRAPH, clone);
    if (!out || !g || !original) return CUDA_ERROR_INVALID_VALUE;
    struct node *n = graph_find(g, original);
    if (!n) return CUDA_ERROR_INVALID_VALUE;
    *out = n->handle;
    return CUDA_SUCCESS;
}

/* ---- adding ---- */

static CUresult add(CUgraphNode *out, CUgraph hGraph, const CUgraphNode *deps, size_t n_deps, CUgraphNodeParams *p) {
    ENTER_CTX;
    struct graph *g = editable(hGraph);
    if (!out || !g || !p) return CUDA_ERROR_INVALID_VALUE;
    struct op op;
    CUresult r = params_to_op(ctx, p, &op);
    if (r != CUDA_SUCCESS) return r;
    if (op.kind == OP_GRAPH) {
        op.graph->is_child = true;
    }
    struct node *n;
    r = graph_add(g, deps, n_deps, &op, &n);
    if (r == CUDA_SUCCESS) *out = n->handle;
    if (r == CUDA_SUCCESS && n->op.kind == OP_ALLOC) p->alloc.dptr = graph_place_addr(n->op.place);
    return r;
}

CUresult cuGraphAddNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n, CUgraphNodeParams *p) {
    return add(out, g, deps, n, p);
}
CUresult cuGraphAddNode_v2(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, const CUgraphEdgeData *edges, size_t n,
                           CUgraphNodeParams *p) {
    (void)edges;
    return add(out, g, deps, n, p);
}

CUresult cuGraphAddKernelNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                              const CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    memcpy(&q.kernel, p, sizeof *p); /* the later form only adds fields at the end */
    return add(out, g, deps, n, &q);
}
CUresult cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                 const CUDA_KERNEL_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    memcpy(&q.kernel, p, sizeof *p);
    return add(out, g, deps, n, &q);
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n, const CUDA_MEMCPY3D *p,
                              CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    q.memcpy.copyParams = *p;
    q.memcpy.copyCtx = ctx;
    return add(out, g, deps, n, &q);
}

CUresult cuGraphAddMemsetNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                              const CUDA_MEMSET_NODE_PARAMS *p, CUcontext ctx) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEMSET};
    memcpy(&q.memset, p, sizeof *p);
    q.memset.ctx = ctx;
    return add(out, g, deps, n, &q);
}

CUresult cuGraphAddHostNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                            const CUDA_HOST_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_HOST};
    memcpy(&q.host, p, sizeof *p);
    return add(out, g, deps, n, &q);
}

CUresult cuGraphAddChildGraphNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n, CUgraph child) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_GRAPH};
    q.graph.graph = child;
    return add(out, g, deps, n, &q);
}

CUresult cuGraphAddMemAllocNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n,
                                CUDA_MEM_ALLOC_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC};
    memcpy(&q.alloc, p, sizeof *p);
    CUresult r = add(out, g, deps, n, &q);
    if (r == CUDA_SUCCESS) p->dptr = q.alloc.dptr;
    return r;
}

CUresult cuGraphAddMemFreeNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n, CUdeviceptr dptr) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE};
    q.free.dptr = dptr;
    return add(out, g, deps, n, &q);
}

CUresult cuGraphAddEmptyNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n) {
    return add(out, g, deps, n, &(CUgraphNodeParams){.type = CU_GRAPH_NODE_TYPE_EMPTY});
}

CUresult cuGraphAddEventRecordNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n, CUevent event) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};
    q.eventRecord.event = event;
    return add(out, g, deps, n, &q);
}

CUresult cuGraphAddEventWaitNode(CUgraphNode *out, CUgraph g, const CUgraphNode *deps, size_t n, CUevent event) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT};
    q.eventWait.event = event;
    return add(out, g, deps, n, &q);
}

/* A box a node and an arrow a dependency, in the language of graphviz. */
CUresult cuGraphDebugDotPrint(CUgraph hGraph, const char *path, unsigned int flags) {
    ENTER;
    (void)flags;
    struct graph *g = handle_get(KIND_GRAPH, hGraph);
    if (!g || !path) return CUDA_ERROR_INVALID_VALUE;
    static const char *const names[] = {
        "KERNEL",       "MEMCPY",           "MEMSET",         "HOST",      "GRAPH",    "EMPTY",       "WAIT_EVENT",
        "EVENT_RECORD", "EXT_SEMAS_SIGNAL", "EXT_SEMAS_WAIT", "MEM_ALLOC", "MEM_FREE", "BATCH_MEM_OP"};
    FILE *f = fopen(path, "w");
    if (!f) return CUDA_ERROR_OPERATING_SYSTEM;
    fprintf(f, "digraph graph_1 {\n");
    for (size_t i = 0; i < g->n_nodes; i++) g->nodes[i]->mark = i;
    for (size_t i = 0; i < g->n_nodes; i++) {
        const struct node *n = g->nodes[i];
        const struct function *k = n->op.kind == OP_KERNEL ? launch_function(n->op.launch.f) : NULL;
        fprintf(f, "\"node_%zu\" [shape=box, label=\"%zu %s%s%s\"];\n", i, i, names[op_type(&n->op)], k ? " " : "",
                k ? k->name : "");
        for (size_t j = 0; j < n->n_deps; j++)
            fprintf(f, "\"node_%zu\" -> \"node_%zu\";\n", ((struct node *)handle_get(KIND_NODE, n->deps[j]))->mark, i);
    }
    fprintf(f, "}\n");
    return fclose(f) ? CUDA_ERROR_OPERATING_SYSTEM : CUDA_SUCCESS;
}

CUresult cuGraphDestroyNode(CUgraphNode hNode) {
    ENTER;
    struct node *n = handle_get(KIND_NODE, hNode);
    if (!n || n->graph->is_captured) return CUDA_ERROR_INVALID_VALUE;
    node_release(n);
    return CUDA_SUCCESS;
}

/* ---- dependencies ---- */

static CUresult change(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, size_t n, bool adding) {
    ENTER;
    struct graph *g = editable(hGraph);
    if (!g || (n && (!from || !to))) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < n; i++) {
        struct node *a = handle_get(KIND_NODE, from[i]), *b = handle_get(KIND_NODE, to[i]);
        if (!a || !b || a == b || a->graph != g || b->graph != g) return CUDA_ERROR_INVALID_VALUE;
        size_t at = 0;
        while (at < b->n_deps && b->deps[at] != a->handle) at++;
        if ((at < b->n_deps) == adding) return CUDA_ERROR_INVALID_VALUE;
        if (adding) {
            b->deps = mem_grow(b->deps, (b->n_deps + 1) * sizeof *b->deps);
            b->deps[b->n_deps++] = a->handle;
        } else {
            memmove(b->deps + at, b->deps + at + 1, (--b->n_deps - at) * sizeof *b->deps);
        }
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphAddDependencies(CUgraph g, const CUgraphNode *from, const CUgraphNode *to, size_t n) {
    return change(g, from, to, n, true);
}
CUresult cuGraphAddDependencies_v2(CUgraph g, const CUgraphNode *from, const CUgraphNode *to,
                                   const CUgraphEdgeData *edges, size_t n) {
    (void)edges;
    return change(g, from, to, n, true);
}
CUresult cuGraphRemoveDependencies(CUgraph g, const CUgraphNode *from, const CUgraphNode *to, size_t n) {
    return change(g, from, to, n, false);
}
CUresult cuGraphRemoveDependencies_v2(CUgraph g, const CUgraphNode *from, const CUgraphNode *to,
                                      const CUgraphEdgeData *edges, size_t n) {
    (void)edges;
    return change(g, from, to, n, false);
}

/* ---- looking ----
 * The list calls share a convention: without a buffer the count comes back; with one, up to *n entries are written, the
 * rest of the buffer is filled with NULL, and *n becomes the number written. */

struct list {
    CUgraphNode *nodes;
    size_t room, n;
};

static void put(struct list *l, CUgraphNode node) {
    if (l->nodes && l->n < l->room) l->nodes[l->n] = node;
    l->n++;
}

static void finish(struct list *l, size_t *n) {
    if (l->nodes) {
        for (size_t i = l->n; i < l->room; i++) l->nodes[i] = NULL;
        if (l->n > l->room) l->n = l->room;
    }
    *n = l->n;
}

static CUresult list_nodes(CUgraph hGraph, CUgraphNode *nodes, size_t *n, bool roots_only) {
    ENTER;
    struct graph *g = handle_get(KIND_GRAPH, hGraph);
    if (!g || !n) return CUDA_ERROR_INVALID_VALUE;
    struct list l = {nodes, nodes ? *n : 0, 0};
    for (size_t i = 0; i < g->n_nodes; i++)
        if (!roots_only || !g->nodes[i]->n_deps) put(&l, g->nodes[i]->handle);
    finish(&l, n);
    return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph g, CUgraphNode *nodes, size_t *n) {
    return list_nodes(g, nodes, n, false);
}
CUresult cuGraphGetRootNodes(CUgraph g, CUgraphNode *nodes, size_t *n) {
    return list_nodes(g, nodes, n, true);
}

CUresult cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *edges, size_t *n) {
    ENTER;
    struct graph *g = handle_get(KIND_GRAPH, hGraph);
    if (!g || !n || !from != !to) return CUDA_ERROR_INVALID_VALUE;
    struct list f = {from, from ? *n : 0, 0}, t = {to, to ? *n : 0, 0};
    if (edges && from) memset(edges, 0, *n * sizeof *edges);
    for (size_t i = 0; i < g->n_nodes; i++)
        for (size_t j = 0; j < g->nodes[i]->n_deps; j++) {
            put(&f, g->nodes[i]->deps[j]);
            put(&t, g->nodes[i]->handle);
        }
    finish(&t, n);
    finish(&f, n);
    return CUDA_SUCCESS;
}
CUresult cuGraphGetEdges(CUgraph g, CUgraphNode *from, CUgraphNode *to, size_t *n) {
    return cuGraphGetEdges_v2(g, from, to, NULL, n);
}

CUresult cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode *deps, CUgraphEdgeData *edges, size_t *n) {
    ENTER;
    struct node *node = handle_get(KIND_NODE, hNode);
    if (!node || !n) return CUDA_ERROR_INVALID_VALUE;
    struct list l = {deps, deps ? *n : 0, 0};
    if (edges && deps) memset(edges, 0, *n * sizeof *edges);
    for (size_t i = 0; i < node->n_deps; i++) put(&l, node->deps[i]);
    finish(&l, n);
    return CUDA_SUCCESS;
}
CUresult cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode *deps, size_t *n) {
    return cuGraphNodeGetDependencies_v2(node, deps, NULL, n);
}

CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode *out, CUgraphEdgeData *edges, size_t *n) {
    ENTER;
    struct node *node = handle_get(KIND_NODE, hNode);
    if (!node || !n) return CUDA_ERROR_INVALID_VALUE;
    struct list l = {out, out ? *n : 0, 0};
    if (edges && out) memset(edges, 0, *n * sizeof *edges);
    const struct graph *g = node->graph;
    for (size_t i = 0; i < g->n_nodes; i++)
        for (size_t j = 0; j < g->nodes[i]->n_deps; j++)
            if (g->nodes[i]->deps[j] == hNode) put(&l, g->nodes[i]->handle);
    finish(&l, n);
    return CUDA_SUCCESS;
}
CUresult cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode *out, size_t *n) {
    return cuGraphNodeGetDependentNodes_v2(node, out, NULL, n);
}

CUresult cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type) {
    ENTER;
    struct node *n = handle_get(KIND_NODE, hNode);
    if (!n || !type) return CUDA_ERROR_INVALID_VALUE;
    *type = op_type(&n->op);
    return CUDA_SUCCESS;
}

/* ---- parameters of nodes ---- */

/* The node if it is of the wanted type. */
static struct node *typed(CUgraphNode handle, enum op_kind kind) {
    struct node *n = handle_get(KIND_NODE, handle);
    return n && n->op.kind == kind ? n : NULL;
}

static CUresult set(CUgraphNode hNode, const CUgraphNodeParams *p) {
    ENTER_CTX;
    struct node *n = handle_get(KIND_NODE, hNode);
    if (!n || !p || op_type(&n->op) != p->type) return CUDA_ERROR_INVALID_VALUE;
    return node_set(ctx, n, p);
}

CUresult cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *p) {
    return set(hNode, p);
}

static CUresult get_kernel(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *p) {
    ENTER;
    struct node *n = typed(hNode, OP_KERNEL);
    if (!n || !p) return CUDA_ERROR_INVALID_VALUE;
    return node_kernel_params(n, p);
}

CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *p) {
    return get_kernel(hNode, p);
}
CUresult cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS q;
    CUresult r = get_kernel(hNode, &q);
    if (r == CUDA_SUCCESS) memcpy(p, &q, sizeof *p);
    return r;
}

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    memcpy(&q.kernel, p, sizeof *p);
    return set(hNode, &q);
}
CUresult cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
    memcpy(&q.kernel, p, sizeof *p);
    return set(hNode, &q);
}

CUresult cuGraphKernelNodeGetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr, CUkernelNodeAttrValue *value) {
    ENTER;
    struct node *n = typed(hNode, OP_KERNEL);
    if (!n || !value) return CUDA_ERROR_INVALID_VALUE;
    const struct launch *l = &n->op.launch;
    switch (attr) {
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        value->clusterDim.x = l->cluster[0];
        value->clusterDim.y = l->cluster[1];
        value->clusterDim.z = l->cluster[2];
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        value->cooperative = l->cooperative;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
        value->programmaticStreamSerializationAllowed = l->dependent;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        value->priority = 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuGraphKernelNodeSetAttribute(CUgraphNode hNode, CUkernelNodeAttrID attr, const CUkernelNodeAttrValue *value) {
    ENTER;
    struct node *n = typed(hNode, OP_KERNEL);
    if (!n || !value) return CUDA_ERROR_INVALID_VALUE;
    CUlaunchAttribute a = {.id = attr, .value = *value};
    return launch_attribute(&n->op.launch, &a);
}

CUresult cuGraphKernelNodeCopyAttributes(CUgraphNode dst, CUgraphNode src) {
    ENTER;
    struct node *to = typed(dst, OP_KERNEL), *from = typed(src, OP_KERNEL);
    if (!to || !from) return CUDA_ERROR_INVALID_VALUE;
    memcpy(to->op.launch.cluster, from->op.launch.cluster, sizeof to->op.launch.cluster);
    to->op.launch.cooperative = from->op.launch.cooperative;
    to->op.launch.dependent = from->op.launch.dependent;
    return CUDA_SUCCESS;
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *p) {
    ENTER;
    struct node *n = typed(hNode, OP_COPY);
    if (!n || !p) return CUDA_ERROR_INVALID_VALUE;
    *p = n->op.copy.asked;
    return CUDA_SUCCESS;
}

CUresult cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEMCPY};
    q.memcpy.copyParams = *p;
    return set(hNode, &q);
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *p) {
    ENTER;
    struct node *n = typed(hNode, OP_FILL);
    if (!n || !p) return CUDA_ERROR_INVALID_VALUE;
    const struct fill *f = &n->op.fill;
    *p = (CUDA_MEMSET_NODE_PARAMS){.dst = f->dst,
                                   .pitch = f->pitch,
                                   .value = f->value,
                                   .elementSize = f->element,
                                   .width = f->width,
                                   .height = f->height};
    return CUDA_SUCCESS;
}

CUresult cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_MEMSET};
    memcpy(&q.memset, p, sizeof *p);
    return set(hNode, &q);
}

CUresult cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *p) {
    ENTER;
    struct node *n = typed(hNode, OP_HOST);
    if (!n || !p) return CUDA_ERROR_INVALID_VALUE;
    *p = (CUDA_HOST_NODE_PARAMS){.fn = n->op.host.fn, .userData = n->op.host.data};
    return CUDA_SUCCESS;
}

CUresult cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *p) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_HOST};
    memcpy(&q.host, p, sizeof *p);
    return set(hNode, &q);
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph) {
    ENTER;
    struct node *n = typed(hNode, OP_GRAPH);
    if (!n || !phGraph) return CUDA_ERROR_INVALID_VALUE;
    *phGraph = n->op.graph->handle;
    return CUDA_SUCCESS;
}

static CUresult get_event(CUgraphNode hNode, enum op_kind kind, CUevent *out) {
    ENTER;
    struct node *n = typed(hNode, kind);
    if (!n || !out) return CUDA_ERROR_INVALID_VALUE;
    *out = n->op.event;
    return CUDA_SUCCESS;
}

CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode n, CUevent *out) {
    return get_event(n, OP_RECORD, out);
}
CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode n, CUevent *out) {
    return get_event(n, OP_WAIT, out);
}

CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_EVENT_RECORD};
    q.eventRecord.event = event;
    return set(hNode, &q);
}

CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event) {
    CUgraphNodeParams q = {.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT};
    q.eventWait.event = event;
    return set(hNode, &q);
}
