/* api_copy: copies and fills. Host and device addresses live in one space, so every copy is rows from address to
 * address.
 *
 * A host address that no call has pinned is plain process memory: it is used as the program gives it, exactly as memcpy
 * would.
 */
#include "verify/ptxvm/driver.h"
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static bool device_side(uint64_t addr) {
    return addr >= VM_DEV_BASE;
}

/* Whether the ends of a host range are mapped at all: an invented address is an error code, not a crash. */
static bool host_mapped(uint64_t addr, uint64_t bytes) {
    struct vm_allocation known;
    if (vm_mem_find(addr, &known)) return memory_within(addr, bytes);
    char ends[2];
    struct iovec to = {ends, 2}, from[2] = {{(void *)(uintptr_t)addr, 1}, {(void *)(uintptr_t)(addr + bytes - 1), 1}};
    return process_vm_readv(getpid(), &to, 1, from, 2, 0) == 2 || errno != EFAULT;
}

/* bytes from the first to the last touched one */
static bool span(size_t width, size_t height, size_t depth, size_t pitch, size_t slice, uint64_t *out) {
    uint64_t a, b, c;
    return size_mul(slice, depth - 1, &a) && size_mul(pitch, height - 1, &b) && size_add(a, b, &c) &&
           size_add(c, width, out);
}

/* Pinned and managed memory are below VM_DEV_BASE and still device memory. */
static CUresult side_check(uint64_t addr, const struct copy *c, bool device, size_t pitch, size_t slice) {
    uint64_t bytes, end;
    if (!addr || !span(c->width, c->height, c->depth, pitch, slice, &bytes) || !size_add(addr, bytes, &end))
        return CUDA_ERROR_INVALID_VALUE;
    if (device || device_side(addr)) return memory_within(addr, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    return end <= VM_DEV_BASE && host_mapped(addr, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult copy_check(const struct copy *c) {
    if (!c->width || !c->height || !c->depth) return CUDA_SUCCESS;
    CUresult r = side_check(c->dst, c, c->device_sides & COPY_DST_DEVICE, c->dst_pitch, c->dst_slice);
    return r == CUDA_SUCCESS ? side_check(c->src, c, c->device_sides & COPY_SRC_DEVICE, c->src_pitch, c->src_slice) : r;
}

CUresult copy_run(const struct copy *c) {
    if (!c->width || !c->height || !c->depth) return CUDA_SUCCESS;
    bool packed = c->height == 1 || (c->dst_pitch == c->width && c->src_pitch == c->width);
    size_t rows = packed ? 1 : c->height, width = packed ? c->width * c->height : c->width;
    for (size_t z = 0; z < c->depth; z++)
        for (size_t y = 0; y < rows; y++) {
            CUresult r = (CUresult)vm_mem_copy(c->dst + z * c->dst_slice + y * c->dst_pitch,
                                               c->src + z * c->src_slice + y * c->src_pitch, width);
            if (r != CUDA_SUCCESS) return r;
        }
    uint64_t bytes = (uint64_t)c->width * c->height * c->depth;
    vm_report_host(!device_side(c->src)   ? VM_H_COPY_IN
                   : !device_side(c->dst) ? VM_H_COPY_OUT
                                          : VM_H_COPY_DEVICE,
                   bytes);
    return CUDA_SUCCESS;
}

CUresult fill_check(const struct fill *f) {
    if (f->element != 1 && f->element != 2 && f->element != 4) return CUDA_ERROR_INVALID_VALUE;
    if (!f->width || !f->height) return CUDA_SUCCESS;
    uint64_t row, bytes;
    if (!size_mul(f->width, f->element, &row)) return CUDA_ERROR_INVALID_VALUE;
    if (f->height > 1 && (f->pitch < row || f->pitch % f->element)) return CUDA_ERROR_INVALID_VALUE;
    if (f->dst % f->element || !span(row, f->height, 1, f->pitch, 0, &bytes)) return CUDA_ERROR_INVALID_VALUE;
    return memory_within(f->dst, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult fill_run(const struct fill *f) {
    if (!f->width || !f->height) return CUDA_SUCCESS;
    vm_report_host(VM_H_SET, (uint64_t)f->width * f->height * f->element);
    return (CUresult)vm_mem_set(f->dst, f->value, (int)f->element, f->width, f->height, f->pitch);
}

/* ---- putting them on streams ---- */

static CUresult copy(const struct copy *c, CUstream hStream, bool wait) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    struct op op = {.kind = OP_COPY, .copy = *c};
    return wait ? stream_submit_wait(s, &op) : stream_submit(s, &op);
}

/* The form that a captured row copy has as a node. */
static void describe(struct copy *c) {
    CUDA_MEMCPY3D *a = &c->asked;
    *a = (CUDA_MEMCPY3D){.WidthInBytes = c->width,
                         .Height = c->height,
                         .Depth = c->depth,
                         .srcPitch = c->src_pitch,
                         .dstPitch = c->dst_pitch,
                         .srcHeight = c->height,
                         .dstHeight = c->height};
    a->srcMemoryType = a->dstMemoryType = CU_MEMORYTYPE_UNIFIED;
    a->srcDevice = c->src;
    a->dstDevice = c->dst;
}

static CUresult copy_1d(int sides, uint64_t dst, uint64_t src, size_t bytes, CUstream s, bool wait) {
    struct copy c = {.dst = dst,
                     .src = src,
                     .width = bytes,
                     .height = 1,
                     .depth = 1,
                     .dst_pitch = bytes,
                     .src_pitch = bytes,
                     .device_sides = sides};
    describe(&c);
    return copy(&c, s, wait);
}

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t n) {
    return copy_1d(COPY_ANY, dst, src, n, NULL, true);
}
CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s) {
    return copy_1d(COPY_ANY, dst, src, n, s, false);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr dst, const void *src, size_t n) {
    return copy_1d(COPY_DST_DEVICE, dst, (uintptr_t)src, n, NULL, true);
}
CUresult cuMemcpyDtoH_v2(void *dst, CUdeviceptr src, size_t n) {
    return copy_1d(COPY_SRC_DEVICE, (uintptr_t)dst, src, n, NULL, true);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr dst, CUdeviceptr src, size_t n) { /* does not wait */
    return copy_1d(COPY_DST_DEVICE | COPY_SRC_DEVICE, dst, src, n, NULL, false);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void *src, size_t n, CUstream s) {
    return copy_1d(COPY_DST_DEVICE, dst, (uintptr_t)src, n, s, false);
}
CUresult cuMemcpyDtoHAsync_v2(void *dst, CUdeviceptr src, size_t n, CUstream s) {
    return copy_1d(COPY_SRC_DEVICE, (uintptr_t)dst, src, n, s, false);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s) {
    return copy_1d(COPY_DST_DEVICE | COPY_SRC_DEVICE, dst, src, n, s, false);
}

static CUresult peers_ok(CUcontext a, CUcontext b) {
    LOCKED;
    return context_of(a) && context_of(b) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuMemcpyPeer(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx, size_t n) {
    CUresult r = peers_ok(dst_ctx, src_ctx);
    return r == CUDA_SUCCESS ? cuMemcpyDtoD_v2(dst, src, n) : r;
}
CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx, size_t n,
                           CUstream s) {
    CUresult r = peers_ok(dst_ctx, src_ctx);
    return r == CUDA_SUCCESS ? cuMemcpyDtoDAsync_v2(dst, src, n, s) : r;
}

/* ---- 2-D and 3-D ---- */

static CUresult side(CUmemorytype type, const void *host, CUdeviceptr device, size_t x, size_t y, size_t z,
                     size_t pitch, size_t height, const CUDA_MEMCPY3D *p, uint64_t *addr, size_t *out_pitch,
                     size_t *out_slice) {
    if (type == CU_MEMORYTYPE_ARRAY) return CUDA_ERROR_NOT_SUPPORTED;
    if (type != CU_MEMORYTYPE_HOST && type != CU_MEMORYTYPE_DEVICE && type != CU_MEMORYTYPE_UNIFIED)
        return CUDA_ERROR_INVALID_VALUE;
    bool rows = p->Height > 1 || p->Depth > 1 || y || z;
    uint64_t right;
    if (!size_add(x, p->WidthInBytes, &right)) return CUDA_ERROR_INVALID_VALUE;
    if (!pitch && !rows) pitch = right;
    if (!height && p->Depth <= 1 && !z) height = y + p->Height;
    if (pitch < right || (p->Depth > 1 && height < p->Height)) return CUDA_ERROR_INVALID_VALUE;
    uint64_t base = type == CU_MEMORYTYPE_HOST ? (uintptr_t)host : device, slice, a, b, at;
    if (!size_mul(pitch, height, &slice) || !size_mul(slice, z, &a) || !size_mul(pitch, y, &b) ||
        !size_add(a, b, &at) || !size_add(at, x, &at) || !size_add(base, at, addr))
        return CUDA_ERROR_INVALID_VALUE;
    if (!base && p->WidthInBytes && p->Height && p->Depth) return CUDA_ERROR_INVALID_VALUE;
    *out_pitch = pitch;
    *out_slice = slice;
    return CUDA_SUCCESS;
}

CUresult copy_from_3d(const CUDA_MEMCPY3D *p, struct copy *out) {
    *out = (struct copy){.width = p->WidthInBytes, .height = p->Height, .depth = p->Depth, .asked = *p};
    if (p->srcLOD || p->dstLOD) return CUDA_ERROR_INVALID_VALUE;
    CUresult r = side(p->srcMemoryType, p->srcHost, p->srcDevice, p->srcXInBytes, p->srcY, p->srcZ, p->srcPitch,
                      p->srcHeight, p, &out->src, &out->src_pitch, &out->src_slice);
    if (r != CUDA_SUCCESS) return r;
    r = side(p->dstMemoryType, p->dstHost, p->dstDevice, p->dstXInBytes, p->dstY, p->dstZ, p->dstPitch, p->dstHeight, p,
             &out->dst, &out->dst_pitch, &out->dst_slice);
    if (p->dstMemoryType == CU_MEMORYTYPE_DEVICE) out->device_sides |= COPY_DST_DEVICE;
    if (p->srcMemoryType == CU_MEMORYTYPE_DEVICE) out->device_sides |= COPY_SRC_DEVICE;
    uint64_t n;
    if (r == CUDA_SUCCESS && (!size_mul(p->WidthInBytes, p->Height, &n) || !size_mul(n, p->Depth, &n)))
        return CUDA_ERROR_INVALID_VALUE;
    return r;
}

static CUresult copy_3d(const CUDA_MEMCPY3D *p, CUstream s, bool wait) {
    struct copy c;
    CUresult r = p ? copy_from_3d(p, &c) : CUDA_ERROR_INVALID_VALUE;
    return r == CUDA_SUCCESS ? copy(&c, s, wait) : r;
}

static CUresult copy_2d(const CUDA_MEMCPY2D *p, CUstream s, bool wait) {
    if (!p) return CUDA_ERROR_INVALID_VALUE;
    CUDA_MEMCPY3D q = {.srcXInBytes = p->srcXInBytes,
                       .srcY = p->srcY,
                       .srcMemoryType = p->srcMemoryType,
                       .srcHost = p->srcHost,
                       .srcDevice = p->srcDevice,
                       .srcArray = p->srcArray,
                       .srcPitch = p->srcPitch,
                       .dstXInBytes = p->dstXInBytes,
                       .dstY = p->dstY,
                       .dstMemoryType = p->dstMemoryType,
                       .dstHost = p->dstHost,
                       .dstDevice = p->dstDevice,
                       .dstArray = p->dstArray,
                       .dstPitch = p->dstPitch,
                       .WidthInBytes = p->WidthInBytes,
                       .Height = p->Height,
                       .Depth = 1};
    return copy_3d(&q, s, wait);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *p) {
    return copy_2d(p, NULL, true);
}
CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *p) {
    return copy_2d(p, NULL, true);
}
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *p, CUstream s) {
    return copy_2d(p, s, false);
}
CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D *p) {
    return copy_3d(p, NULL, true);
}
CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *p, CUstream s) {
    return copy_3d(p, s, false);
}

/* One device: the contexts are the same memory. */
static CUresult copy_peer(const CUDA_MEMCPY3D_PEER *p, CUstream s, bool wait) {
    if (!p || !context_of(p->srcContext) || !context_of(p->dstContext)) return CUDA_ERROR_INVALID_VALUE;
    CUDA_MEMCPY3D q;
    _Static_assert(sizeof q == sizeof *p, "the contexts stand where the plain form has reserved fields");
    memcpy(&q, p, sizeof q);
    q.reserved0 = q.reserved1 = NULL;
    return copy_3d(&q, s, wait);
}
CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER *p) {
    return copy_peer(p, NULL, true);
}
CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER *p, CUstream s) {
    return copy_peer(p, s, false);
}

/* Copies of a batch have no order among themselves; here they have. Attributes are wishes. */
static CUresult copy_batch(const CUdeviceptr *dsts, const CUdeviceptr *srcs, const size_t *sizes, size_t count,
                           const CUmemcpyAttributes *attrs, const size_t *starts, size_t n_attrs, size_t *failed,
                           CUstream s) {
    if (failed) *failed = SIZE_MAX;
    if (!dsts || !srcs || !sizes || !count || !attrs || !starts || !n_attrs || n_attrs > count || starts[0])
        return CUDA_ERROR_INVALID_VALUE;
    if (!s || s == CU_STREAM_LEGACY) return CUDA_ERROR_INVALID_VALUE; /* not on the legacy stream */
    for (size_t i = 0; i < count; i++) {
        CUresult r = copy_1d(COPY_ANY, dsts[i], srcs[i], sizes[i], s, false);
        if (r != CUDA_SUCCESS) {
            if (failed) *failed = i;
            return r;
        }
    }
    return CUDA_SUCCESS;
}
CUresult cuMemcpyBatchAsync(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                            CUmemcpyAttributes *attrs, size_t *starts, size_t n_attrs, size_t *failed, CUstream s) {
    return copy_batch(dsts, srcs, sizes, count, attrs, starts, n_attrs, failed, s);
}
CUresult cuMemcpyBatchAsync_v2(CUdeviceptr *dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,
                               CUmemcpyAttributes *attrs, size_t *starts, size_t n_attrs, CUstream s) {
    return copy_batch(dsts, srcs, sizes, count, attrs, starts, n_attrs, NULL, s);
}

/* ---- fills ---- */

static CUresult fill(uint64_t dst, unsigned value, unsigned element, size_t width, size_t height, size_t pitch,
                     CUstream hStream) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    struct op op = {
        .kind = OP_FILL,
        .fill = {.dst = dst, .value = value, .element = element, .width = width, .height = height, .pitch = pitch}};
    return stream_submit(s, &op);
}

CUresult cuMemsetD8_v2(CUdeviceptr d, unsigned char v, size_t n) {
    return fill(d, v, 1, n, 1, 0, NULL);
}
CUresult cuMemsetD16_v2(CUdeviceptr d, unsigned short v, size_t n) {
    return fill(d, v, 2, n, 1, 0, NULL);
}
CUresult cuMemsetD32_v2(CUdeviceptr d, unsigned int v, size_t n) {
    return fill(d, v, 4, n, 1, 0, NULL);
}
CUresult cuMemsetD8Async(CUdeviceptr d, unsigned char v, size_t n, CUstream s) {
    return fill(d, v, 1, n, 1, 0, s);
}
CUresult cuMemsetD16Async(CUdeviceptr d, unsigned short v, size_t n, CUstream s) {
    return fill(d, v, 2, n, 1, 0, s);
}
CUresult cuMemsetD32Async(CUdeviceptr d, unsigned int v, size_t n, CUstream s) {
    return fill(d, v, 4, n, 1, 0, s);
}
CUresult cuMemsetD2D8_v2(CUdeviceptr d, size_t pitch, unsigned char v, size_t w, size_t h) {
    return fill(d, v, 1, w, h, pitch, NULL);
}
CUresult cuMemsetD2D16_v2(CUdeviceptr d, size_t pitch, unsigned short v, size_t w, size_t h) {
    return fill(d, v, 2, w, h, pitch, NULL);
}
CUresult cuMemsetD2D32_v2(CUdeviceptr d, size_t pitch, unsigned int v, size_t w, size_t h) {
    return fill(d, v, 4, w, h, pitch, NULL);
}
CUresult cuMemsetD2D8Async(CUdeviceptr d, size_t pitch, unsigned char v, size_t w, size_t h, CUstream s) {
    return fill(d, v, 1, w, h, pitch, s);
}
CUresult cuMemsetD2D16Async(CUdeviceptr d, size_t pitch, unsigned short v, size_t w, size_t h, CUstream s) {
    return fill(d, v, 2, w, h, pitch, s);
}
CUresult cuMemsetD2D32Async(CUdeviceptr d, size_t pitch, unsigned int v, size_t w, size_t h, CUstream s) {
    return fill(d, v, 4, w, h, pitch, s);
}
