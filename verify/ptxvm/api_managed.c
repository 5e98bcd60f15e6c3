/* api_managed: managed memory, which host and device reach by one address, and advice about it. There is only one
 * memory here, so nothing moves: prefetches and advice are checked and remembered for those who ask. */
#include "verify/ptxvm/driver.h"

CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags) {
    ENTER_CTX;
    if (!dptr || !bytesize || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST))
        return CUDA_ERROR_INVALID_VALUE;
    CUresult r = capture_forbids(ctx);
    struct allocation *a;
    if (r == CUDA_SUCCESS) r = memory_alloc(ctx, bytesize, VM_MEM_MANAGED, "cuMemAllocManaged", &a);
    if (r != CUDA_SUCCESS) return r;
    a->advice.preferred = a->advice.prefetched = CU_DEVICE_INVALID;
    *dptr = a->base;
    return CUDA_SUCCESS;
}

/* The allocation of a range that is managed memory throughout, NULL otherwise. Advice is kept per allocation. */
static struct allocation *managed(CUdeviceptr dptr, size_t bytes) {
    struct allocation *a = memory_find(dptr);
    return a && a->kind == VM_MEM_MANAGED && bytes && memory_within(dptr, bytes) ? a : NULL;
}

static bool place_ok(CUdevice place) {
    return place == 0 || place == CU_DEVICE_CPU;
}

/* CU_DEVICE_INVALID when the location is none that exists here. */
static CUdevice place_of(CUmemLocation where) {
    switch (where.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        return where.id == 0 ? 0 : CU_DEVICE_INVALID;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        return CU_DEVICE_CPU;
    default:
        return CU_DEVICE_INVALID;
    }
}

/* ---- prefetch ---- */

CUresult cuMemPrefetchAsync(CUdeviceptr dptr, size_t count, CUdevice place, CUstream hStream) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    if (!place_ok(place)) return CUDA_ERROR_INVALID_DEVICE;
    struct allocation *a = managed(dptr, count);
    if (!a) return CUDA_ERROR_INVALID_VALUE;
    a->advice.prefetched = place;
    return stream_submit(s, &(struct op){.kind = OP_EMPTY});
}

CUresult cuMemPrefetchAsync_v2(CUdeviceptr dptr, size_t count, CUmemLocation where, unsigned int flags, CUstream s) {
    return flags ? CUDA_ERROR_INVALID_VALUE : cuMemPrefetchAsync(dptr, count, place_of(where), s);
}

/* ---- advice ---- */

CUresult cuMemAdvise(CUdeviceptr dptr, size_t count, CUmem_advise advice, CUdevice place) {
    ENTER_CTX;
    struct allocation *a = managed(dptr, count);
    if (!a) return CUDA_ERROR_INVALID_VALUE;
    bool needs_place = advice == CU_MEM_ADVISE_SET_PREFERRED_LOCATION || advice == CU_MEM_ADVISE_SET_ACCESSED_BY ||
                       advice == CU_MEM_ADVISE_UNSET_ACCESSED_BY;
    if (needs_place && !place_ok(place)) return CUDA_ERROR_INVALID_DEVICE;
    struct advice *to = &a->advice;
    switch (advice) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
        to->read_mostly = advice == CU_MEM_ADVISE_SET_READ_MOSTLY;
        return CUDA_SUCCESS;
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
        to->preferred = place;
        return CUDA_SUCCESS;
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
        to->preferred = CU_DEVICE_INVALID;
        return CUDA_SUCCESS;
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
    case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
        *(place == CU_DEVICE_CPU ? &to->by_cpu : &to->by_device) = advice == CU_MEM_ADVISE_SET_ACCESSED_BY;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemAdvise_v2(CUdeviceptr dptr, size_t count, CUmem_advise advice, CUmemLocation where) {
    return cuMemAdvise(dptr, count, advice, place_of(where));
}

static CUmemLocationType place_type(CUdevice place) {
    return place == 0               ? CU_MEM_LOCATION_TYPE_DEVICE
           : place == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST
                                    : CU_MEM_LOCATION_TYPE_INVALID;
}

/* Every answer is one or more 32-bit numbers. */
static CUresult range_attribute(int *data, size_t bytes, CUmem_range_attribute attribute, const struct advice *a) {
    if (!data || bytes < 4 || bytes % 4 || (bytes != 4 && attribute != CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY))
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
        *data = a->read_mostly;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
        *data = a->preferred;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
        *data = a->prefetched;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY: {
        size_t n = 0, room = bytes / 4;
        if (a->by_device) data[n++] = 0;
        if (a->by_cpu && n < room) data[n++] = CU_DEVICE_CPU;
        while (n < room) data[n++] = CU_DEVICE_INVALID;
        return CUDA_SUCCESS;
    }
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
        *data = place_type(a->preferred);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
        *data = place_type(a->prefetched);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
        *data = a->preferred == 0 ? 0 : CU_DEVICE_INVALID;
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
        *data = a->prefetched == 0 ? 0 : CU_DEVICE_INVALID;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuMemRangeGetAttribute(void *data, size_t bytes, CUmem_range_attribute attribute, CUdeviceptr dptr,
                                size_t count) {
    ENTER_CTX;
    struct allocation *a = managed(dptr, count);
    return a ? range_attribute(data, bytes, attribute, &a->advice) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemRangeGetAttributes(void **data, size_t *bytes, CUmem_range_attribute *attributes, size_t n,
                                 CUdeviceptr dptr, size_t count) {
    ENTER_CTX;
    struct allocation *a = managed(dptr, count);
    if (!a || !data || !bytes || !attributes || !n) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < n; i++) {
        CUresult r = range_attribute(data[i], bytes[i], attributes[i], &a->advice);
        if (r != CUDA_SUCCESS) return r;
    }
    return CUDA_SUCCESS;
}
