/* api_virtual: reserved address ranges, physical memory, and mapping the one to the other.
 *
 * A range is a place of the machine. Mapped memory is there from cuMemSetAccess on, until it is unmapped or its access
 * is taken away: before and after, a use is out of bounds. Contents stay with the physical memory. It is in one place
 * at a time: a second mapping of the same memory is refused as not supported. Read-only access is not enforced.
 */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>

enum { GRANULARITY = 2 << 20 };

struct physical {
    CUmemGenericAllocationHandle handle;
    uint64_t bytes;
    unsigned refs;  /* of the program */
    bool mapped;    /* somewhere */
    void *contents; /* while nothing can use it; NULL: never written */
    CUmemAllocationProp prop;
};

static struct range {
    uint64_t addr, bytes;
    struct range *next;
} * ranges;

static struct mapping {
    uint64_t addr, bytes;
    struct physical *physical;
    CUmemAccess_flags access;
    struct mapping *next;
} * mappings;

static struct physical *physical_of(CUmemGenericAllocationHandle h) {
    return handle_get(KIND_PHYSICAL, (const void *)(uintptr_t)h);
}

static bool granular(uint64_t bytes) {
    return bytes && bytes % GRANULARITY == 0;
}

/* ---- ranges ---- */

CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                             unsigned long long flags) {
    ENTER;
    (void)addr; /* a wish */
    if (!ptr || !granular(size) || alignment & (alignment - 1) || flags) return CUDA_ERROR_INVALID_VALUE;
    struct range *r = mem_try(1, sizeof *r);
    if (!r) return CUDA_ERROR_OUT_OF_MEMORY;
    *r = (struct range){.bytes = size, .next = ranges};
    CUresult result = (CUresult)vm_place_new(size, alignment > GRANULARITY ? alignment : GRANULARITY, &r->addr);
    if (result != CUDA_SUCCESS) {
        free(r);
        return result;
    }
    ranges = r;
    *ptr = r->addr;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size) {
    ENTER;
    for (const struct mapping *m = mappings; m; m = m->next)
        if (m->addr < ptr + size && ptr < m->addr + m->bytes) return CUDA_ERROR_INVALID_VALUE;
    for (struct range **at = &ranges; *at; at = &(*at)->next) {
        struct range *r = *at;
        if (r->addr != ptr || r->bytes != size) continue;
        *at = r->next;
        vm_place_drop(r->addr);
        free(r);
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

/* ---- physical memory ---- */

static CUresult prop_check(const CUmemAllocationProp *prop) {
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
    if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
    if (prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) /* kept; exporting is not supported */
        return CUDA_ERROR_NOT_SUPPORTED;
    return prop->location.id == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option) {
    ENTER;
    if (!granularity || option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) return CUDA_ERROR_INVALID_VALUE;
    CUresult r = prop_check(prop);
    if (r == CUDA_SUCCESS) *granularity = GRANULARITY;
    return r;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *out, size_t size, const CUmemAllocationProp *prop,
                     unsigned long long flags) {
    ENTER;
    if (!out || !granular(size) || flags) return CUDA_ERROR_INVALID_VALUE;
    CUresult r = prop_check(prop);
    if (r != CUDA_SUCCESS) return r;
    if (size > driver.memory || driver.memory_used > driver.memory - size) return CUDA_ERROR_OUT_OF_MEMORY;
    struct physical *p = mem_try(1, sizeof *p);
    if (!p) return CUDA_ERROR_OUT_OF_MEMORY;
    *p = (struct physical){.bytes = size, .refs = 1, .prop = *prop};
    p->handle = (uintptr_t)handle_new(KIND_PHYSICAL, p);
    if (!p->handle) {
        free(p);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    driver.memory_used += size;
    *out = p->handle;
    return CUDA_SUCCESS;
}

/* Memory lives as long as the program names it or it is mapped. */
static void physical_settle(struct physical *p) {
    if (p->refs || p->mapped) return;
    driver.memory_used -= p->bytes;
    free(p->contents);
    free(p);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    ENTER;
    struct physical *p = physical_of(handle);
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    if (--p->refs == 0) handle_drop((void *)(uintptr_t)handle);
    physical_settle(p);
    return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle handle) {
    ENTER;
    struct physical *p = physical_of(handle);
    if (!prop || !p) return CUDA_ERROR_INVALID_VALUE;
    *prop = p->prop;
    return CUDA_SUCCESS;
}

/* ---- mappings ---- */

static struct mapping *mapping_at(uint64_t addr) {
    for (struct mapping *m = mappings; m; m = m->next)
        if (addr - m->addr < m->bytes) return m;
    return NULL;
}

/* Whether mappings, whole ones, make up [addr, addr + bytes). */
static bool covered(uint64_t addr, uint64_t bytes) {
    while (bytes) {
        const struct mapping *m = mapping_at(addr);
        if (!m || m->addr != addr || m->bytes > bytes) return false;
        addr += m->bytes, bytes -= m->bytes;
    }
    return true;
}

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) {
    ENTER;
    struct physical *p = physical_of(handle);
    if (!p || !granular(size) || ptr % GRANULARITY || offset || flags || size > p->bytes)
        return CUDA_ERROR_INVALID_VALUE;
    bool inside = false;
    for (const struct range *r = ranges; r; r = r->next)
        inside |= ptr >= r->addr && size <= r->bytes && ptr - r->addr <= r->bytes - size;
    if (!inside) return CUDA_ERROR_INVALID_VALUE;
    for (const struct mapping *m = mappings; m; m = m->next)
        if (m->addr < ptr + size && ptr < m->addr + m->bytes) return CUDA_ERROR_INVALID_VALUE;
    if (p->mapped) {
        static int said;
        return (CUresult)ptxvm_unsupported("cuMemMap of memory that is mapped elsewhere", &said);
    }
    struct mapping *m = mem_try(1, sizeof *m);
    if (!m) return CUDA_ERROR_OUT_OF_MEMORY;
    *m = (struct mapping){.addr = ptr, .bytes = size, .physical = p, .next = mappings};
    mappings = m;
    p->mapped = true;
    return CUDA_SUCCESS;
}

static CUresult set_access(struct mapping *m, CUmemAccess_flags access) {
    bool is = m->access != CU_MEM_ACCESS_FLAGS_PROT_NONE, will = access != CU_MEM_ACCESS_FLAGS_PROT_NONE;
    struct physical *p = m->physical;
    if (is && !will) {
        p->contents = vm_place_take(m->addr, m->bytes);
        if (!p->contents) return CUDA_ERROR_OUT_OF_MEMORY;
        vm_mem_free(m->addr);
    } else if (!is && will) {
        CUresult r = (CUresult)vm_place_fill(m->addr, m->bytes, "cuMemMap", p->contents);
        if (r != CUDA_SUCCESS) return r;
        p->contents = NULL;
    }
    m->access = access;
    return CUDA_SUCCESS;
}

/* What a synchronizing call waits for; memory goes only when no work can use it. */
static void wait_all(void) {
    struct context *ctx;
    if (context_current(&ctx) == CUDA_SUCCESS) stream_wait_idle(ctx);
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) {
    ENTER;
    wait_all();
    if (!size || !covered(ptr, size)) return CUDA_ERROR_INVALID_VALUE;
    for (struct mapping **at = &mappings; *at;) {
        struct mapping *m = *at;
        if (m->addr - ptr >= size) {
            at = &m->next;
            continue;
        }
        struct physical *p = m->physical;
        if (!p->refs && m->access != CU_MEM_ACCESS_FLAGS_PROT_NONE) { /* nobody will see the contents again */
            vm_mem_free(m->addr);
        } else {
            CUresult r = set_access(m, CU_MEM_ACCESS_FLAGS_PROT_NONE);
            if (r != CUDA_SUCCESS) return r;
        }
        *at = m->next;
        p->mapped = false;
        physical_settle(p);
        free(m);
    }
    return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count) {
    ENTER;
    if (!size || !desc || !count || !covered(ptr, size)) return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < count; i++) {
        CUmemAccess_flags f = desc[i].flags;
        if (f != CU_MEM_ACCESS_FLAGS_PROT_NONE && f != CU_MEM_ACCESS_FLAGS_PROT_READ &&
            f != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            return CUDA_ERROR_INVALID_VALUE;
        if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
        if (desc[i].location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
    }
    wait_all();
    if (!covered(ptr, size)) return CUDA_ERROR_INVALID_VALUE;
    for (struct mapping *m = mappings; m; m = m->next)
        if (m->addr - ptr < size) {
            CUresult r = set_access(m, desc[count - 1].flags);
            if (r != CUDA_SUCCESS) return r;
        }
    return CUDA_SUCCESS;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr) {
    ENTER;
    const struct mapping *m = mapping_at(ptr);
    if (!flags || !location || !m) return CUDA_ERROR_INVALID_VALUE;
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
    if (location->id != 0) return CUDA_ERROR_INVALID_DEVICE;
    *flags = m->access;
    return CUDA_SUCCESS;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr) {
    ENTER;
    const struct mapping *m = mapping_at((uintptr_t)addr);
    if (!handle || !m) return CUDA_ERROR_INVALID_VALUE;
    struct physical *p = m->physical;
    if (!p->refs) { /* released while mapped: it gets a name again */
        p->handle = (uintptr_t)handle_new(KIND_PHYSICAL, p);
        if (!p->handle) return CUDA_ERROR_OUT_OF_MEMORY;
    }
    p->refs++;
    *handle = p->handle;
    return CUDA_SUCCESS;
}
