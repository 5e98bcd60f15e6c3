#include "verify/ptxvm/graph_params.h"
#include <stdlib.h>
#include <string.h>

static CUresult kernel_op(const CUDA_KERNEL_NODE_PARAMS_v3 *k, struct op *out) {
    CUfunction handle = k->func ? k->func : (CUfunction)k->kern;
    struct function *f = launch_function(handle);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    *out = (struct op){.kind = OP_KERNEL,
                       .launch = {.f = handle,
                                  .grid = {k->gridDimX, k->gridDimY, k->gridDimZ},
                                  .block = {k->blockDimX, k->blockDimY, k->blockDimZ},
                                  .shared = k->sharedMemBytes}};
    return launch_pack(f, k->kernelParams, k->extra, &out->launch);
}

CUresult params_to_op(struct context *ctx, const CUgraphNodeParams *p, struct op *out) {
    CUresult r = CUDA_SUCCESS;
    *out = (struct op){.kind = OP_EMPTY};
    switch (p->type) {
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_KERNEL:
        r = kernel_op(&p->kernel, out);
        break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        out->kind = OP_COPY;
        r = copy_from_3d(&p->memcpy.copyParams, &out->copy);
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        out->kind = OP_FILL;
        out->fill = (struct fill){.dst = p->memset.dst,
                                  .value = p->memset.value,
                                  .element = p->memset.elementSize,
                                  .width = p->memset.width,
                                  .height = p->memset.height,
                                  .pitch = p->memset.pitch};
        break;
    case CU_GRAPH_NODE_TYPE_HOST:
        if (!p->host.fn) return CUDA_ERROR_INVALID_VALUE;
        out->kind = OP_HOST;
        out->host.fn = p->host.fn;
        out->host.data = p->host.userData;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_GRAPH: {
        struct graph *child = handle_get(KIND_GRAPH, p->graph.graph);
        if (!child || child->is_captured) return CUDA_ERROR_INVALID_VALUE;
        struct graph *clone = graph_clone(child);
        if (!clone) return CUDA_ERROR_OUT_OF_MEMORY;
        clone->is_child = true;
        out->kind = OP_GRAPH;
        out->graph = clone;
        return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        out->kind = p->type == CU_GRAPH_NODE_TYPE_WAIT_EVENT ? OP_WAIT : OP_RECORD;
        out->event = out->kind == OP_WAIT ? p->eventWait.event : p->eventRecord.event;
        return handle_get(KIND_EVENT, out->event) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        if (p->alloc.poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
        if (p->alloc.poolProps.location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
        return graph_place_new(p->alloc.bytesize, out);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        *out = (struct op){.kind = OP_FREE, .addr = p->free.dptr};
        return graph_place_at(p->free.dptr) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
    case CU_GRAPH_NODE_TYPE_CONDITIONAL: {
        static int said;
        return (CUresult)ptxvm_unsupported("cuGraphAddNode of this node type", &said);
    }
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (r == CUDA_SUCCESS) r = op_check(ctx, out);
    if (r != CUDA_SUCCESS) op_free(out);
    return r;
}

CUgraphNodeType op_type(const struct op *op) {
    switch (op->kind) {
    case OP_KERNEL:
        return CU_GRAPH_NODE_TYPE_KERNEL;
    case OP_COPY:
        return CU_GRAPH_NODE_TYPE_MEMCPY;
    case OP_FILL:
        return CU_GRAPH_NODE_TYPE_MEMSET;
    case OP_HOST:
        return CU_GRAPH_NODE_TYPE_HOST;
    case OP_RECORD:
        return CU_GRAPH_NODE_TYPE_EVENT_RECORD;
    case OP_WAIT:
        return CU_GRAPH_NODE_TYPE_WAIT_EVENT;
    case OP_GRAPH:
        return CU_GRAPH_NODE_TYPE_GRAPH;
    case OP_ALLOC:
        return CU_GRAPH_NODE_TYPE_MEM_ALLOC;
    case OP_FREE:
        return CU_GRAPH_NODE_TYPE_MEM_FREE;
    case OP_WRITE_VALUE:
    case OP_WAIT_VALUE:
        return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    default:
        return CU_GRAPH_NODE_TYPE_EMPTY;
    }
}

CUresult node_set(struct context *ctx, struct node *n, const CUgraphNodeParams *p) {
    struct op op;
    if (n->op.kind == OP_ALLOC || n->op.kind == OP_FREE) return CUDA_ERROR_NOT_SUPPORTED; /* they cannot change */
    CUresult r = params_to_op(ctx, p, &op);
    if (r != CUDA_SUCCESS) return r;
    if (op.kind == OP_KERNEL) {
        struct launch *to = &op.launch;
        const struct launch *old = &n->op.launch;
        memcpy(to->cluster, old->cluster, sizeof to->cluster);
        to->cooperative = old->cooperative;
        to->dependent = old->dependent;
        r = launch_check(ctx, to);
        if (r != CUDA_SUCCESS) {
            op_free(&op);
            return r;
        }
    }
    op_free(&n->op);
    n->op = op;
    return CUDA_SUCCESS;
}

CUresult node_kernel_params(struct node *n, CUDA_KERNEL_NODE_PARAMS *p) {
    const struct launch *l = &n->op.launch;
    struct function *f = launch_function(l->f);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    const struct vm_function_info *info = vm_function_info(f->vm);
    void **pointers = mem_try(info->n_params + 1, sizeof *pointers);
    if (!pointers) return CUDA_ERROR_OUT_OF_MEMORY;
    for (unsigned i = 0; i < info->n_params; i++) pointers[i] = l->params + info->params[i].off;
    free(n->param_pointers);
    n->param_pointers = pointers;
    *p = (CUDA_KERNEL_NODE_PARAMS){.gridDimX = l->grid[0],
                                   .gridDimY = l->grid[1],
                                   .gridDimZ = l->grid[2],
                                   .blockDimX = l->block[0],
                                   .blockDimY = l->block[1],
                                   .blockDimZ = l->block[2],
                                   .sharedMemBytes = l->shared,
                                   .kernelParams = n->param_pointers};
    if (handle_get(KIND_KERNEL, l->f))
        p->kern = (CUkernel)l->f;
    else
        p->func = l->f;
    p->ctx = f->module->ctx->handle;
    return CUDA_SUCCESS;
}
