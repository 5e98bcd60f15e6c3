/* api_pool: stream-ordered allocation and its pools.
 *
 * A pool keeps books only: memory is taken from the machine at cuMemAllocAsync and returned when the stream reaches
 * cuMemFreeAsync, so that a use after that is found. What is reserved therefore equals what is used.
 */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>

static CUmemoryPool default_pool, current_pool;

static CUmemoryPool pool_new(bool is_default, uint64_t max_bytes) {
    struct pool *p = mem_try(1, sizeof *p);
    if (!p) return NULL;
    *p = (struct pool){.reuse = {1, 1, 1}, .max_bytes = max_bytes, .is_default = is_default};
    p->handle = handle_new(KIND_POOL, p);
    if (!p->handle) {
        free(p);
        return NULL;
    }
    return p->handle;
}

static CUmemoryPool the_default(void) {
    if (!default_pool) default_pool = pool_new(true, 0);
    return default_pool;
}

static CUmemoryPool the_current(void) {
    return handle_get(KIND_POOL, current_pool) ? current_pool : the_default();
}

void pool_uncharge(CUmemoryPool pool, uint64_t bytes) {
    struct pool *p = handle_get(KIND_POOL, pool);
    if (p) p->used -= bytes;
}

/* ---- allocation ---- */

static CUresult alloc(CUdeviceptr *dptr, size_t bytes, CUmemoryPool pool, CUstream hStream) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    if (!dptr || !bytes) return CUDA_ERROR_INVALID_VALUE;
    struct pool *p = handle_get(KIND_POOL, pool ? pool : the_current());
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    if (s->capture) {
        struct op op;
        r = graph_place_new(bytes, &op);
        if (r != CUDA_SUCCESS) return r;
        uint64_t addr = graph_place_addr(op.place);
        r = capture_add(s, &op);
        if (r == CUDA_SUCCESS) *dptr = addr;
        return r;
    }
    if (p->max_bytes && (bytes > p->max_bytes || p->used > p->max_bytes - bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    struct allocation *a;
    r = memory_alloc(ctx, bytes, VM_MEM_DEVICE, "cuMemAllocAsync", &a);
    if (r != CUDA_SUCCESS) return r;
    a->pool = p->handle;
    p->used += bytes;
    if (p->used > p->used_high) p->used_high = p->used;
    *dptr = a->base;
    return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream s) {
    return alloc(dptr, bytesize, NULL, s);
}
CUresult cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream s) {
    return pool ? alloc(dptr, bytesize, pool, s) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    if (s->capture && graph_place_at(dptr)) return stream_submit(s, &(struct op){.kind = OP_FREE, .addr = dptr});
    struct allocation *a = memory_find(dptr);
    if (!a || a->base != dptr || a->kind != VM_MEM_DEVICE || a->freeing) return CUDA_ERROR_INVALID_VALUE;
    if (!s->capture) a->freeing = true;
    return stream_submit(s, &(struct op){.kind = OP_FREE, .addr = dptr});
}

/* ---- pools ---- */

CUresult cuMemPoolCreate(CUmemoryPool *out, const CUmemPoolProps *props) {
    ENTER;
    if (!out || !props || props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
    if (props->handleTypes != CU_MEM_HANDLE_TYPE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
    if (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
    if (props->location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
    *out = pool_new(false, props->maxSize);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    ENTER;
    struct pool *p = handle_get(KIND_POOL, pool);
    if (!p || p->is_default) return CUDA_ERROR_INVALID_VALUE;
    handle_drop(pool); /* what was allocated from it stays until it is freed */
    free(p);
    return CUDA_SUCCESS;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t keep) {
    ENTER;
    (void)keep;
    return handle_get(KIND_POOL, pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    ENTER;
    struct pool *p = handle_get(KIND_POOL, pool);
    if (!p || !value) return CUDA_ERROR_INVALID_VALUE;
    switch (attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        p->reuse[attr - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES] = *(int *)value != 0;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        p->threshold = *(cuuint64_t *)value;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        if (*(cuuint64_t *)value != 0) return CUDA_ERROR_INVALID_VALUE;
        p->used_high = p->used;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    ENTER;
    struct pool *p = handle_get(KIND_POOL, pool);
    if (!p || !value) return CUDA_ERROR_INVALID_VALUE;
    switch (attr) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        *(int *)value = p->reuse[attr - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES];
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        *(cuuint64_t *)value = p->threshold;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        *(cuuint64_t *)value = p->used;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        *(cuuint64_t *)value = p->used_high;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
    ENTER;
    if (!handle_get(KIND_POOL, pool) || (count && !map)) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
        if (map[i].location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
        if (map[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE) return CUDA_ERROR_INVALID_DEVICE; /* its own device */
    }
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location) {
    ENTER;
    if (!flags || !location || !handle_get(KIND_POOL, pool)) return CUDA_ERROR_INVALID_VALUE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    if (location->id != 0) return CUDA_ERROR_INVALID_DEVICE;
    *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    return CUDA_SUCCESS;
}

static CUresult give(CUmemoryPool *pool, CUmemoryPool which) {
    if (!which) return CUDA_ERROR_OUT_OF_MEMORY;
    *pool = which;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice dev) {
    ENTER;
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    return dev == 0 ? give(pool, the_default()) : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev) {
    ENTER;
    if (!pool) return CUDA_ERROR_INVALID_VALUE;
    return dev == 0 ? give(pool, the_current()) : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
    ENTER;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (!handle_get(KIND_POOL, pool)) return CUDA_ERROR_INVALID_VALUE;
    current_pool = pool;
    return CUDA_SUCCESS;
}

/* The forms of CUDA 13 name a place instead of a device; only this device's memory has pools here. */
static CUresult here(const CUmemLocation *where, CUmemAllocationType type) {
    if (!where || type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
    if (where->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
    return where->id == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *where, CUmemAllocationType type) {
    CUresult r = here(where, type);
    return r == CUDA_SUCCESS ? cuDeviceGetDefaultMemPool(pool, 0) : r;
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *where, CUmemAllocationType type) {
    CUresult r = here(where, type);
    return r == CUDA_SUCCESS ? cuDeviceGetMemPool(pool, 0) : r;
}

CUresult cuMemSetMemPool(CUmemLocation *where, CUmemAllocationType type, CUmemoryPool pool) {
    CUresult r = here(where, type);
    return r == CUDA_SUCCESS ? cuDeviceSetMemPool(0, pool) : r;
}
