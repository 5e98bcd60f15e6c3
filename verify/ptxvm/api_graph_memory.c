/* api_graph_memory: memory that a graph allocates. Its address is a place of the machine, fixed when the node is made;
 * memory is there from the run of the allocating node to the run of what frees it, so that a use outside is found. */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>

struct graph_place {
    uint64_t addr, bytes;
    unsigned refs; /* allocating nodes, copies of them on their way, live memory */
    struct graph_place *next;
};
static struct graph_place *places;
static uint64_t used, used_high;

CUresult graph_place_new(size_t bytes, struct op *out) {
    if (!bytes || bytes > driver.memory) return bytes ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
    struct graph_place *p = mem_try(1, sizeof *p);
    if (!p) return CUDA_ERROR_OUT_OF_MEMORY;
    *p = (struct graph_place){.bytes = bytes, .refs = 1, .next = places};
    CUresult r = (CUresult)vm_place_new(bytes, 512, &p->addr);
    if (r != CUDA_SUCCESS) {
        free(p);
        return r;
    }
    places = p;
    *out = (struct op){.kind = OP_ALLOC, .place = p};
    return CUDA_SUCCESS;
}

void graph_place_ref(struct graph_place *p) {
    p->refs++;
}
void graph_place_unref(struct graph_place *p) {
    if (--p->refs) return;
    for (struct graph_place **at = &places; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    vm_place_drop(p->addr);
    free(p);
}
uint64_t graph_place_addr(const struct graph_place *p) {
    return p->addr;
}
bool graph_place_at(uint64_t addr) {
    for (const struct graph_place *p = places; p; p = p->next)
        if (p->addr == addr) return true;
    return false;
}
bool graph_place_within(uint64_t addr, uint64_t bytes) {
    for (const struct graph_place *p = places; p; p = p->next)
        if (addr >= p->addr && bytes <= p->bytes && addr - p->addr <= p->bytes - bytes) return true;
    return false;
}

CUresult graph_place_alloc(struct context *ctx, struct graph_place *p) {
    struct allocation *a;
    if (memory_find(p->addr)) return CUDA_ERROR_INVALID_VALUE; /* of the last launch, and not freed since */
    CUresult r = memory_alloc_at(ctx, p->addr, p->bytes, "graph", &a);
    if (r != CUDA_SUCCESS) return r;
    a->place = p;
    p->refs++;
    used += p->bytes;
    if (used > used_high) used_high = used;
    return CUDA_SUCCESS;
}
void graph_place_freed(struct allocation *a) {
    used -= a->bytes;
    graph_place_unref(a->place);
}

/* ---- looking ---- */

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS *out) {
    ENTER;
    struct node *n = handle_get(KIND_NODE, hNode);
    if (!n || !out || n->op.kind != OP_ALLOC) return CUDA_ERROR_INVALID_VALUE;
    *out = (CUDA_MEM_ALLOC_NODE_PARAMS){.bytesize = n->op.place->bytes, .dptr = n->op.place->addr};
    out->poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    out->poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    return CUDA_SUCCESS;
}
CUresult cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr *out) {
    ENTER;
    struct node *n = handle_get(KIND_NODE, hNode);
    if (!n || !out || n->op.kind != OP_FREE) return CUDA_ERROR_INVALID_VALUE;
    *out = n->op.addr;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value) {
    ENTER;
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (!value || attr > CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH) return CUDA_ERROR_INVALID_VALUE;
    bool high = attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH || attr == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
    *(cuuint64_t *)value = high ? used_high : used;
    return CUDA_SUCCESS;
}
CUresult cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value) {
    ENTER;
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    bool high = attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH || attr == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH;
    if (!value || !high || *(cuuint64_t *)value) return CUDA_ERROR_INVALID_VALUE; /* reset only */
    used_high = used;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGraphMemTrim(CUdevice device) {
    ENTER;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; /* nothing is kept */
}
