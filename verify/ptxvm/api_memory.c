/* api_memory: device, pinned, managed and registered memory, and questions about pointers. */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct allocation *first;

static CUresult alloc_in(struct context *ctx, size_t bytes, enum vm_mem_kind kind, uint64_t place, const char *origin,
                         struct allocation **out) {
    size_t *used = kind == VM_MEM_PINNED ? &driver.pinned_used : &driver.memory_used;
    if (bytes > driver.memory || *used > driver.memory - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    struct allocation *a = mem_try(1, sizeof *a);
    if (!a) return CUDA_ERROR_OUT_OF_MEMORY;
    static uint64_t serial;
    *a = (struct allocation){.bytes = bytes, .kind = kind, .ctx = ctx, .id = ++serial};
    CUresult r = (CUresult)(place ? vm_place_fill(a->base = place, bytes, origin, NULL)
                                  : vm_mem_alloc(bytes, kind, origin, &a->base));
    if (r != CUDA_SUCCESS) {
        free(a);
        return r;
    }
    vm_mem_set_owner(a->base, a);
    a->next = first;
    if (first) first->prev = a;
    first = a;
    vm_report_host(VM_H_ALLOC, bytes);
    *used += bytes;
    *out = a;
    return CUDA_SUCCESS;
}

CUresult memory_alloc(struct context *ctx, size_t bytes, enum vm_mem_kind kind, const char *origin,
                      struct allocation **out) {
    return alloc_in(ctx, bytes, kind, 0, origin, out);
}
CUresult memory_alloc_at(struct context *ctx, uint64_t place, size_t bytes, const char *origin,
                         struct allocation **out) {
    return alloc_in(ctx, bytes, VM_MEM_DEVICE, place, origin, out);
}

static void release(struct allocation *a) {
    if (a->kind == VM_MEM_REGISTERED)
        vm_mem_unregister((void *)(uintptr_t)a->base);
    else
        vm_mem_free(a->base);
    if (a->kind == VM_MEM_PINNED)
        driver.pinned_used -= a->bytes;
    else if (a->kind != VM_MEM_REGISTERED)
        driver.memory_used -= a->bytes;
    if (a->pool) pool_uncharge(a->pool, a->bytes);
    if (a->place) graph_place_freed(a);
    if (a->prev)
        a->prev->next = a->next;
    else
        first = a->next;
    if (a->next) a->next->prev = a->prev;
    free(a);
}

struct allocation *memory_find(uint64_t addr) {
    struct vm_allocation a;
    return vm_mem_find(addr, &a) ? a.owner : NULL;
}

bool memory_within(uint64_t addr, uint64_t bytes) {
    return vm_mem_within(addr, bytes) || graph_place_within(addr, bytes);
}

void memory_free_at(uint64_t base) {
    struct allocation *a = memory_find(base);
    if (a && a->base == base) release(a);
}

void memory_release(struct context *ctx) {
    for (struct allocation *a = first, *next; a; a = next) {
        next = a->next;
        if (a->ctx != ctx) continue;
        if (driver.leaks && a->kind != VM_MEM_REGISTERED)
            vm_say("leak: %llu bytes at 0x%llx were not freed before their context was destroyed",
                   (unsigned long long)a->bytes, (unsigned long long)a->base);
        release(a);
    }
}

/* ---- device memory ---- */

static CUresult alloc(CUdeviceptr *dptr, size_t bytes, const char *origin) {
    ENTER_CTX;
    if (!dptr || !bytes) return CUDA_ERROR_INVALID_VALUE;
    CUresult r = capture_forbids(ctx);
    struct allocation *a;
    if (r == CUDA_SUCCESS) r = memory_alloc(ctx, bytes, VM_MEM_DEVICE, origin, &a);
    if (r == CUDA_SUCCESS) *dptr = a->base;
    return r;
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
    return alloc(dptr, bytesize, "cuMemAlloc");
}

CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t width, size_t height, unsigned int element) {
    if (!pPitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return CUDA_ERROR_INVALID_VALUE;
    if (width > 0x7fffffff) return CUDA_ERROR_INVALID_VALUE;
    size_t pitch = (width + 511) / 512 * 512;
    uint64_t bytes;
    if (!size_mul(pitch, height, &bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = alloc(dptr, bytes, "cuMemAllocPitch");
    if (r == CUDA_SUCCESS) *pPitch = pitch;
    return r;
}

/* Frees what a synchronous call allocated, after the work that may use it. */
static CUresult free_at(uint64_t base, bool host) {
    ENTER_CTX;
    if (!base) return host ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    CUresult r = capture_forbids(ctx);
    if (r != CUDA_SUCCESS) return r;
    struct allocation *a = memory_find(base);
    bool right = a && a->base == base && !a->freeing &&
                 (host ? a->kind == VM_MEM_PINNED : a->kind == VM_MEM_DEVICE || a->kind == VM_MEM_MANAGED);
    if (!right) return CUDA_ERROR_INVALID_VALUE;
    uint64_t id = a->id;
    stream_wait_idle(a->ctx);
    a = memory_find(base);
    if (a && a->id == id) release(a);
    return ctx->sticky;
}

CUresult cuMemFree_v2(CUdeviceptr dptr) {
    return free_at(dptr, false);
}
CUresult cuMemFreeHost(void *p) {
    return free_at((uintptr_t)p, true);
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER_CTX;
    if (!free_bytes || !total) return CUDA_ERROR_INVALID_VALUE;
    *total = driver.memory;
    *free_bytes = driver.memory - driver.memory_used;
    return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr) {
    ENTER_CTX;
    struct vm_allocation a;
    if (!pbase && !psize) return CUDA_ERROR_INVALID_VALUE;
    if (!vm_mem_find(dptr, &a)) return CUDA_ERROR_NOT_FOUND;
    if (pbase) *pbase = a.addr;
    if (psize) *psize = a.bytes;
    return CUDA_SUCCESS;
}

/* ---- pinned memory ---- */

static CUresult host_alloc(void **pp, size_t bytes, unsigned flags, const char *origin) {
    ENTER_CTX;
    unsigned known = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
    if (!pp || !bytes || flags & ~known) return CUDA_ERROR_INVALID_VALUE;
    CUresult r = capture_forbids(ctx);
    struct allocation *a;
    if (r == CUDA_SUCCESS) r = memory_alloc(ctx, bytes, VM_MEM_PINNED, origin, &a);
    if (r != CUDA_SUCCESS) return r;
    a->flags = flags | CU_MEMHOSTALLOC_DEVICEMAP; /* unified addressing maps all of it */
    *pp = (void *)(uintptr_t)a->base;
    return CUDA_SUCCESS;
}

CUresult cuMemAllocHost_v2(void **pp, size_t bytesize) {
    return host_alloc(pp, bytesize, 0, "cuMemAllocHost");
}
CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int flags) {
    return host_alloc(pp, bytesize, flags, "cuMemHostAlloc");
}

static struct allocation *host_range(const void *p) {
    struct allocation *a = memory_find((uintptr_t)p);
    return a && a->kind != VM_MEM_DEVICE ? a : NULL;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int flags) {
    ENTER_CTX;
    if (!pdptr || !p || flags || !host_range(p)) return CUDA_ERROR_INVALID_VALUE;
    *pdptr = (uintptr_t)p;
    return CUDA_SUCCESS;
}

CUresult cuMemHostGetFlags(unsigned int *pFlags, void *p) {
    ENTER_CTX;
    struct allocation *a = host_range(p);
    if (!pFlags || !a || a->kind != VM_MEM_PINNED) return CUDA_ERROR_INVALID_VALUE;
    *pFlags = a->flags;
    return CUDA_SUCCESS;
}

CUresult cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int flags) {
    ENTER_CTX;
    unsigned known = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP | CU_MEMHOSTREGISTER_IOMEMORY |
                     CU_MEMHOSTREGISTER_READ_ONLY;
    uint64_t end;
    if (!p || !bytesize || flags & ~known || !size_add((uintptr_t)p, bytesize, &end) || end > VM_DEV_BASE)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags & CU_MEMHOSTREGISTER_IOMEMORY) return CUDA_ERROR_NOT_SUPPORTED;
    for (const struct allocation *o = first; o; o = o->next)
        if (o->base < end && o->base + o->bytes > (uintptr_t)p) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    struct allocation *a = mem_try(1, sizeof *a);
    if (!a) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = (CUresult)vm_mem_register(p, bytesize);
    if (r != CUDA_SUCCESS) {
        free(a);
        return r;
    }
    *a = (struct allocation){
        .base = (uintptr_t)p, .bytes = bytesize, .kind = VM_MEM_REGISTERED, .flags = flags, .ctx = ctx};
    vm_mem_set_owner(a->base, a);
    a->next = first;
    if (first) first->prev = a;
    first = a;
    return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void *p) {
    ENTER_CTX;
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    struct allocation *a = memory_find((uintptr_t)p);
    if (!a || a->kind != VM_MEM_REGISTERED || a->base != (uintptr_t)p) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    stream_wait_idle(a->ctx);
    memory_free_at((uintptr_t)p);
    return CUDA_SUCCESS;
}

/* ---- questions about pointers ---- */

static CUresult attribute(void *data, CUpointer_attribute attrib, CUdeviceptr ptr) {
    struct vm_allocation v;
    bool known = vm_mem_find(ptr, &v);
    struct allocation *a = known ? v.owner : NULL;
    bool host = known && (v.kind == VM_MEM_PINNED || v.kind == VM_MEM_REGISTERED);
    switch (attrib) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(CUcontext *)data = a ? a->ctx->handle : context_top();
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(unsigned *)data = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(CUdeviceptr *)data = ptr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (!known || v.kind == VM_MEM_DEVICE || v.kind == VM_MEM_MODULE) return CUDA_ERROR_INVALID_VALUE;
        *(void **)data = (void *)(uintptr_t)ptr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(unsigned *)data = a && a->sync_memops;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(unsigned long long *)data = v.id;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned char *)data = known && v.kind == VM_MEM_MANAGED;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(int *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        *(unsigned char *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(CUdeviceptr *)data = v.addr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(size_t *)data = v.bytes;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned char *)data = known;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        if (!known) return CUDA_ERROR_INVALID_VALUE;
        *(unsigned *)data = CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)data = a ? a->pool : NULL;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attrib, CUdeviceptr ptr) {
    ENTER_CTX;
    return data && ptr ? attribute(data, attrib, ptr) : CUDA_ERROR_INVALID_VALUE;
}

/* An attribute that a pointer does not have reads as zero here. */
CUresult cuPointerGetAttributes(unsigned int n, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr) {
    ENTER_CTX;
    if (n && (!attributes || !data)) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < n; i++) {
        if (!data[i] || attributes[i] <= 0 || attributes[i] > CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE)
            return CUDA_ERROR_INVALID_VALUE;
        uint64_t value = 0;
        bool has = attribute(&value, attributes[i], ptr) == CUDA_SUCCESS;
        switch (attributes[i]) {
        case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        case CU_POINTER_ATTRIBUTE_MAPPED:
        case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
            memcpy(data[i], &value, 1);
            break;
        case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
            if (!has && attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) value = (uint64_t)-2;
            memcpy(data[i], &value, 4);
            break;
        default:
            memcpy(data[i], &value, 8);
            break;
        }
    }
    return CUDA_SUCCESS;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attrib, CUdeviceptr ptr) {
    ENTER_CTX;
    struct allocation *a = memory_find(ptr);
    if (!value || attrib != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS || !a) return CUDA_ERROR_INVALID_VALUE;
    a->sync_memops = *(const unsigned char *)value != 0;
    return CUDA_SUCCESS;
}
