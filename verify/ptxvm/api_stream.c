/* api_stream: streams, what is put on them besides kernels and copies, and events. */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

enum { PRIORITY_LOWEST = 0, PRIORITY_HIGHEST = -5 };

static CUresult create(CUstream *out, unsigned flags, int priority) {
    ENTER_CTX;
    if (!out || flags & ~(unsigned)CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    if (priority > PRIORITY_LOWEST) priority = PRIORITY_LOWEST;
    if (priority < PRIORITY_HIGHEST) priority = PRIORITY_HIGHEST;
    struct stream *s = stream_new(ctx, flags, priority);
    if (!s) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = s->handle;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags) {
    return create(phStream, Flags, PRIORITY_LOWEST);
}

CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority) {
    return create(phStream, flags, priority);
}

CUresult cuStreamDestroy_v2(CUstream hStream) {
    ENTER;
    if (!hStream) return CUDA_ERROR_INVALID_VALUE;
    struct stream *s = handle_get(KIND_STREAM, hStream);
    if (!s) return CUDA_ERROR_INVALID_HANDLE;
    if (s->is_default) return CUDA_ERROR_INVALID_HANDLE;
    while (stream_busy(s)) {
        driver_wait();
        if (handle_get(KIND_STREAM, hStream) != s) return CUDA_SUCCESS;
    }
    if (s->capture) s->capture->invalid = true;
    stream_release(s);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream hStream) {
    return cuStreamDestroy_v2(hStream);
}

/* Opens an entry point on a stream; declares `ctx` and `s`. */
#define ENTER_STREAM(handle)                                                                                           \
    ENTER_CTX;                                                                                                         \
    struct stream *s;                                                                                                  \
    {                                                                                                                  \
        CUresult r_ = stream_get(ctx, handle, &s);                                                                     \
        if (r_ != CUDA_SUCCESS) return r_;                                                                             \
    }

CUresult cuStreamGetPriority(CUstream hStream, int *priority) {
    ENTER_STREAM(hStream);
    if (!priority) return CUDA_ERROR_INVALID_VALUE;
    *priority = s->priority;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetFlags(CUstream hStream, unsigned int *flags) {
    ENTER_STREAM(hStream);
    if (!flags) return CUDA_ERROR_INVALID_VALUE;
    *flags = s->flags;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetId(CUstream hStream, unsigned long long *streamId) {
    ENTER_STREAM(hStream);
    if (!streamId) return CUDA_ERROR_INVALID_VALUE;
    *streamId = s->id;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetDevice(CUstream hStream, CUdevice *device) {
    ENTER_STREAM(hStream);
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx(CUstream hStream, CUcontext *pctx) {
    ENTER_STREAM(hStream);
    if (!pctx) return CUDA_ERROR_INVALID_VALUE;
    *pctx = s->ctx->handle;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx) {
    ENTER_STREAM(hStream);
    if (!pCtx || !pGreenCtx) return CUDA_ERROR_INVALID_VALUE;
    *pCtx = s->ctx->handle;
    *pGreenCtx = NULL;
    return CUDA_SUCCESS;
}

CUresult cuStreamQuery(CUstream hStream) {
    ENTER_STREAM(hStream);
    if (s->capture) {
        s->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    CUresult r = s->is_legacy ? capture_forbids_legacy(ctx) : CUDA_SUCCESS;
    if (r != CUDA_SUCCESS) return r;
    return stream_busy(s) ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream hStream) {
    ENTER_STREAM(hStream);
    return stream_wait(s->ctx, s);
}

CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData) {
    ENTER_STREAM(hStream);
    if (!fn) return CUDA_ERROR_INVALID_VALUE;
    return stream_submit(s, &(struct op){.kind = OP_HOST, .host = {.fn = fn, .data = userData}});
}

CUresult cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData, unsigned int flags) {
    ENTER_STREAM(hStream);
    if (!callback || flags) return CUDA_ERROR_INVALID_VALUE;
    if (s->capture) {
        s->capture->invalid = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return stream_submit(
        s, &(struct op){.kind = OP_HOST, .host = {.callback = callback, .stream = hStream, .data = userData}});
}

CUresult cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags) {
    ENTER_STREAM(hStream);
    if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST && flags != CU_MEM_ATTACH_SINGLE)
        return CUDA_ERROR_INVALID_VALUE;
    struct allocation *a = memory_find(dptr);
    if (!a || a->kind != VM_MEM_MANAGED || (length && length != a->bytes)) return CUDA_ERROR_INVALID_VALUE;
    return stream_submit(s, &(struct op){.kind = OP_EMPTY});
}

/* ---- attributes ---- */

CUresult cuStreamGetAttribute(CUstream hStream, CUstreamAttrID attr, CUstreamAttrValue *value) {
    ENTER_STREAM(hStream);
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    switch (attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        value->accessPolicyWindow = s->window;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        value->syncPolicy = s->sync_policy;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        value->priority = s->priority;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        value->memSyncDomain = (CUlaunchMemSyncDomain)s->mem_sync_domain;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuStreamSetAttribute(CUstream hStream, CUstreamAttrID attr, const CUstreamAttrValue *value) {
    ENTER_STREAM(hStream);
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    switch (attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        if (!(value->accessPolicyWindow.hitRatio >= 0 && value->accessPolicyWindow.hitRatio <= 1))
            return CUDA_ERROR_INVALID_VALUE;
        s->window = value->accessPolicyWindow;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        if (value->syncPolicy < CU_SYNC_POLICY_AUTO || value->syncPolicy > CU_SYNC_POLICY_BLOCKING_SYNC)
            return CUDA_ERROR_INVALID_VALUE;
        s->sync_policy = value->syncPolicy;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        if (value->priority < PRIORITY_HIGHEST || value->priority > PRIORITY_LOWEST) return CUDA_ERROR_INVALID_VALUE;
        s->priority = value->priority;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        if ((unsigned)value->memSyncDomain > CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE) return CUDA_ERROR_INVALID_VALUE;
        s->mem_sync_domain = value->memSyncDomain;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuStreamCopyAttributes(CUstream dst, CUstream src) {
    ENTER_STREAM(dst);
    struct stream *from;
    CUresult r = stream_get(ctx, src, &from);
    if (r != CUDA_SUCCESS) return r;
    s->window = from->window;
    s->sync_policy = from->sync_policy;
    s->mem_sync_domain = from->mem_sync_domain;
    return CUDA_SUCCESS;
}

/* ---- events ---- */

CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags) {
    ENTER_CTX;
    unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (!phEvent || Flags & ~known) return CUDA_ERROR_INVALID_VALUE;
    if (Flags & CU_EVENT_INTERPROCESS)
        return Flags & CU_EVENT_DISABLE_TIMING ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE;
    struct event *e = mem_try(1, sizeof *e);
    if (!e) return CUDA_ERROR_OUT_OF_MEMORY;
    *e = (struct event){.ctx = ctx, .flags = Flags};
    e->handle = handle_new(KIND_EVENT, e);
    if (!e->handle) {
        free(e);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *phEvent = e->handle;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent hEvent) {
    ENTER;
    struct event *e = handle_get(KIND_EVENT, hEvent);
    if (!e) return CUDA_ERROR_INVALID_HANDLE;
    event_release(e);
    driver_notify();
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent hEvent) {
    return cuEventDestroy_v2(hEvent);
}

CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags) {
    ENTER_STREAM(hStream);
    struct event *e = handle_get(KIND_EVENT, hEvent);
    if (!e) return CUDA_ERROR_INVALID_HANDLE;
    if (flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL) return CUDA_ERROR_INVALID_VALUE;
    if (e->ctx != s->ctx) return CUDA_ERROR_INVALID_HANDLE;
    if (flags & CU_EVENT_RECORD_EXTERNAL && !s->capture) return CUDA_ERROR_INVALID_VALUE;
    if (s->capture && !(flags & CU_EVENT_RECORD_EXTERNAL)) return capture_record(s, e);
    return stream_submit(s, &(struct op){.kind = OP_RECORD, .event = hEvent});
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream) {
    return cuEventRecordWithFlags(hEvent, hStream, 0);
}

CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags) {
    ENTER_STREAM(hStream);
    struct event *e = handle_get(KIND_EVENT, hEvent);
    if (!e) return CUDA_ERROR_INVALID_HANDLE;
    if (Flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL) return CUDA_ERROR_INVALID_VALUE;
    if (Flags & CU_EVENT_WAIT_EXTERNAL && !s->capture) return CUDA_ERROR_INVALID_VALUE;
    if (!(Flags & CU_EVENT_WAIT_EXTERNAL) && (s->capture || e->capture)) return capture_wait(s, e);
    if (!e->recorded && !s->capture) return CUDA_SUCCESS;
    return stream_submit(s, &(struct op){.kind = OP_WAIT, .event = hEvent});
}

CUresult cuEventQuery(CUevent hEvent) {
    ENTER_CTX;
    struct event *e = handle_get(KIND_EVENT, hEvent);
    if (!e) return CUDA_ERROR_INVALID_HANDLE;
    if (e->capture) return CUDA_ERROR_CAPTURED_EVENT;
    return e->pending ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent hEvent) {
    ENTER_CTX;
    struct event *e = handle_get(KIND_EVENT, hEvent);
    if (!e) return CUDA_ERROR_INVALID_HANDLE;
    if (e->capture) return CUDA_ERROR_CAPTURED_EVENT;
    return event_wait(e);
}

CUresult cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd) {
    ENTER_CTX;
    struct event *a = handle_get(KIND_EVENT, hStart), *b = handle_get(KIND_EVENT, hEnd);
    if (!a || !b) return CUDA_ERROR_INVALID_HANDLE;
    if (!pMilliseconds) return CUDA_ERROR_INVALID_VALUE;
    if (a->capture || b->capture) return CUDA_ERROR_CAPTURED_EVENT;
    if (!a->recorded || !b->recorded || (a->flags | b->flags) & CU_EVENT_DISABLE_TIMING || a->ctx != b->ctx)
        return CUDA_ERROR_INVALID_HANDLE;
    if (a->pending || b->pending) return CUDA_ERROR_NOT_READY;
    *pMilliseconds = (float)((b->at_s - a->at_s) * 1e3);
    return CUDA_SUCCESS;
}
CUresult cuEventElapsedTime(float *ms, CUevent a, CUevent b) {
    return cuEventElapsedTime_v2(ms, a, b);
}

CUresult cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent) {
    ENTER_CTX;
    struct context *on = context_of(hCtx);
    struct event *e = handle_get(KIND_EVENT, hEvent);
    if (!on || on->sticky != CUDA_SUCCESS) return on ? on->sticky : CUDA_ERROR_INVALID_CONTEXT;
    if (!e || e->ctx != on) return CUDA_ERROR_INVALID_HANDLE;
    struct stream *s = handle_get(KIND_STREAM, on->legacy);
    return stream_submit(s, &(struct op){.kind = OP_RECORD, .event = hEvent});
}

CUresult cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent) {
    ENTER_CTX;
    struct context *on = context_of(hCtx);
    struct event *e = handle_get(KIND_EVENT, hEvent);
    if (!on || on->sticky != CUDA_SUCCESS) return on ? on->sticky : CUDA_ERROR_INVALID_CONTEXT;
    if (!e) return CUDA_ERROR_INVALID_HANDLE;
    struct stream *s = handle_get(KIND_STREAM, on->legacy);
    return stream_submit(s, &(struct op){.kind = OP_WAIT, .event = hEvent});
}
