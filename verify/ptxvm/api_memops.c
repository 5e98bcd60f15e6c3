/* api_memops: words of memory that a stream writes or waits for. Waiting work does not run before the condition holds:
 * another stream may make it true, or the host, whose writes to pinned memory nobody announces (see stream.c). */
#include "verify/ptxvm/driver.h"
#include <string.h>

static CUresult value_op(CUstreamBatchMemOpType type, CUdeviceptr addr, uint64_t value, unsigned flags,
                         struct op *out) {
    bool wide = type == CU_STREAM_MEM_OP_WAIT_VALUE_64 || type == CU_STREAM_MEM_OP_WRITE_VALUE_64;
    bool waits = type == CU_STREAM_MEM_OP_WAIT_VALUE_32 || type == CU_STREAM_MEM_OP_WAIT_VALUE_64;
    unsigned bytes = wide ? 8 : 4,
             known = waits ? CU_STREAM_WAIT_VALUE_FLUSH | 3u : CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER;
    if (flags & ~known || addr % bytes || !memory_within(addr, bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (waits && flags & CU_STREAM_WAIT_VALUE_FLUSH)
        return CUDA_ERROR_NOT_SUPPORTED; /* as the device's attribute says */
    *out = (struct op){
        .kind = waits ? OP_WAIT_VALUE : OP_WRITE_VALUE,
        .value = {.addr = addr, .value = wide ? value : (uint32_t)value, .bytes = bytes, .how = flags & 3u}};
    return CUDA_SUCCESS;
}

static CUresult submit(CUstream hStream, const CUstreamBatchMemOpParams *p, unsigned n) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    struct op op;
    for (unsigned pass = 0; pass < 2; pass++) /* all are looked at before the first is submitted */
        for (unsigned i = 0; i < n && r == CUDA_SUCCESS; i++) {
            switch (p[i].operation) {
            case CU_STREAM_MEM_OP_WAIT_VALUE_32:
            case CU_STREAM_MEM_OP_WAIT_VALUE_64:
                r = value_op(p[i].operation, p[i].waitValue.address, p[i].waitValue.value64, p[i].waitValue.flags, &op);
                break;
            case CU_STREAM_MEM_OP_WRITE_VALUE_32:
            case CU_STREAM_MEM_OP_WRITE_VALUE_64:
                r = value_op(p[i].operation, p[i].writeValue.address, p[i].writeValue.value64, p[i].writeValue.flags,
                             &op);
                break;
            case CU_STREAM_MEM_OP_BARRIER:
                continue; /* work of a stream is in order anyhow */
            default:
                return CUDA_ERROR_INVALID_VALUE;
            }
            if (pass == 1 && r == CUDA_SUCCESS) r = stream_submit(s, &op);
        }
    return r;
}

static CUresult one(CUstream s, CUstreamBatchMemOpType type, CUdeviceptr addr, uint64_t value, unsigned flags) {
    CUstreamBatchMemOpParams p = {.operation = type};
    p.waitValue.address = addr; /* the fields of both kinds lie alike */
    p.waitValue.value64 = value;
    p.waitValue.flags = flags;
    return submit(s, &p, 1);
}

CUresult cuStreamWaitValue32(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WAIT_VALUE_32, addr, value, flags);
}
CUresult cuStreamWaitValue32_v2(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WAIT_VALUE_32, addr, value, flags);
}
CUresult cuStreamWaitValue64(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WAIT_VALUE_64, addr, value, flags);
}
CUresult cuStreamWaitValue64_v2(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WAIT_VALUE_64, addr, value, flags);
}
CUresult cuStreamWriteValue32(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WRITE_VALUE_32, addr, value, flags);
}
CUresult cuStreamWriteValue32_v2(CUstream s, CUdeviceptr addr, cuuint32_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WRITE_VALUE_32, addr, value, flags);
}
CUresult cuStreamWriteValue64(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WRITE_VALUE_64, addr, value, flags);
}
CUresult cuStreamWriteValue64_v2(CUstream s, CUdeviceptr addr, cuuint64_t value, unsigned int flags) {
    return one(s, CU_STREAM_MEM_OP_WRITE_VALUE_64, addr, value, flags);
}
CUresult cuStreamBatchMemOp(CUstream s, unsigned int count, CUstreamBatchMemOpParams *p, unsigned int flags) {
    return !p || !count || count > 256 || flags ? CUDA_ERROR_INVALID_VALUE : submit(s, p, count);
}
CUresult cuStreamBatchMemOp_v2(CUstream s, unsigned int count, CUstreamBatchMemOpParams *p, unsigned int flags) {
    return !p || !count || count > 256 || flags ? CUDA_ERROR_INVALID_VALUE : submit(s, p, count);
}

bool value_holds(const struct value *v) {
    const void *at = vm_mem_host(v->addr, v->bytes);
    if (!at) return true; /* freed meanwhile: waiting for it would never end */
    uint64_t now = v->bytes == 8 ? *(const volatile uint64_t *)at : *(const volatile uint32_t *)at;
    uint64_t bits = v->bytes == 8 ? ~0ull : 0xffffffffull, ahead = (now - v->value) & bits;
    switch (v->how) {
    case CU_STREAM_WAIT_VALUE_GEQ: /* cyclic */
        return !(ahead >> (8 * v->bytes - 1));
    case CU_STREAM_WAIT_VALUE_EQ:
        return !ahead;
    case CU_STREAM_WAIT_VALUE_AND:
        return now & v->value;
    default:
        return ~(now | v->value) & bits;
    }
}

CUresult value_write(const struct value *v) {
    return (CUresult)vm_mem_copy(v->addr, (uintptr_t)&v->value, v->bytes); /* the low bytes come first */
}
