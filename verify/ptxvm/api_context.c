/* api_context: primary and created contexts, the per-thread stack of current ones, flags, limits, synchronization. */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

/* The calling thread's stack of current contexts; handles, since any of them can be destroyed by another thread. */
enum { MAX_STACK = 256 };
static _Thread_local CUcontext stack[MAX_STACK];
static _Thread_local int depth;

static uint64_t next_id = 1;

CUcontext context_top(void) {
    return depth ? stack[depth - 1] : NULL;
}
struct context *context_of(CUcontext handle) {
    return handle_get(KIND_CONTEXT, handle);
}

void context_fault(struct context *ctx, CUresult code) {
    if (ctx->sticky == CUDA_SUCCESS) ctx->sticky = code;
}

CUresult context_current(struct context **out) {
    CUcontext top = context_top();
    *out = NULL;
    if (in_host_function) return CUDA_ERROR_NOT_PERMITTED;
    if (!top) return CUDA_ERROR_INVALID_CONTEXT;
    *out = context_of(top);
    if (!*out) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return (*out)->sticky;
}

static struct context *context_new(unsigned flags, bool primary) {
    struct context *ctx = mem_try(1, sizeof *ctx);
    if (!ctx) return NULL;
    ctx->id = next_id++;
    ctx->primary = primary;
    ctx->flags = flags;
    ctx->api_version = 3020;
    ctx->limits[CU_LIMIT_STACK_SIZE] = 1024;
    ctx->limits[CU_LIMIT_PRINTF_FIFO_SIZE] = 1 << 20;
    ctx->limits[CU_LIMIT_MALLOC_HEAP_SIZE] = 8 << 20;
    ctx->limits[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2;
    ctx->limits[CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048;
    ctx->limits[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64;
    ctx->handle = handle_new(KIND_CONTEXT, ctx);
    struct stream *legacy = ctx->handle ? stream_new(ctx, 0, 0) : NULL;
    if (!legacy) {
        handle_drop(ctx->handle);
        free(ctx);
        return NULL;
    }
    legacy->is_default = legacy->is_legacy = true;
    legacy->id = 1;
    ctx->legacy = legacy->handle;
    return ctx;
}

static void release_stream(void *obj, void *ctx) {
    if (((struct stream *)obj)->ctx == ctx) stream_release(obj);
}
static void release_event(void *obj, void *ctx) {
    if (((struct event *)obj)->ctx == ctx) event_release(obj);
}
static void release_module(void *obj, void *ctx) {
    struct module *m = obj;
    if (m->ctx != ctx) return;
    if (driver.leaks && !m->library) vm_say("leak: module %s was never unloaded", vm_module_file(m->vm));
    module_unload(m);
}
static void release_exec(void *obj, void *ctx) {
    if (((struct graph_exec *)obj)->ctx == ctx) graph_exec_release(obj);
}

/* The handle goes first: while this waits for the context's work, nobody else can find it. */
static void context_release(struct context *ctx) {
    handle_drop(ctx->handle);
    stream_wait_idle(ctx);
    handle_each(KIND_EXEC, release_exec, ctx);
    handle_each(KIND_STREAM, release_stream, ctx);
    handle_each(KIND_EVENT, release_event, ctx);
    handle_each(KIND_MODULE, release_module, ctx);
    memory_release(ctx);
    free(ctx->own);
    free(ctx);
}

/* ---- the primary context ---- */

static struct context *primary(void) {
    if (!driver.primary) driver.primary = context_new(driver.primary_flags, true);
    return driver.primary;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
    ENTER;
    if (!pctx) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    struct context *ctx = primary();
    if (!ctx) return CUDA_ERROR_OUT_OF_MEMORY;
    driver.primary_refs++;
    *pctx = ctx->handle;
    return CUDA_SUCCESS;
}

static void primary_drop(void) {
    struct context *ctx = driver.primary;
    driver.primary = NULL;
    if (ctx) context_release(ctx);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
    ENTER;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (!driver.primary_refs) return CUDA_ERROR_INVALID_CONTEXT;
    if (--driver.primary_refs == 0) primary_drop();
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice dev) {
    return cuDevicePrimaryCtxRelease_v2(dev);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
    ENTER;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    primary_drop();
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxReset(CUdevice dev) {
    return cuDevicePrimaryCtxReset_v2(dev);
}

static bool flags_ok(unsigned flags) {
    if (flags & ~(unsigned)CU_CTX_FLAGS_MASK) return false;
    unsigned sched = flags & CU_CTX_SCHED_MASK;
    return sched == CU_CTX_SCHED_AUTO || sched == CU_CTX_SCHED_SPIN || sched == CU_CTX_SCHED_YIELD ||
           sched == CU_CTX_SCHED_BLOCKING_SYNC;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) {
    ENTER;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (!flags_ok(flags)) return CUDA_ERROR_INVALID_VALUE;
    driver.primary_flags = flags;
    if (driver.primary) driver.primary->flags = flags;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags) {
    return cuDevicePrimaryCtxSetFlags_v2(dev, flags);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active) {
    ENTER;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
    *flags = driver.primary_flags;
    *active = driver.primary != NULL;
    return CUDA_SUCCESS;
}

/* ---- created contexts ---- */

static CUresult create(CUcontext *pctx, unsigned flags, CUdevice dev) {
    if (!pctx || !flags_ok(flags)) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (depth == MAX_STACK) return CUDA_ERROR_OUT_OF_MEMORY;
    struct context *ctx = context_new(flags, false);
    if (!ctx) return CUDA_ERROR_OUT_OF_MEMORY;
    stack[depth++] = *pctx = ctx->handle;
    return CUDA_SUCCESS;
}

CUresult cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev) {
    ENTER;
    return create(pctx, flags, dev);
}
CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev) {
    ENTER;
    return create(pctx, flags, dev);
}
CUresult cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *params, int n, unsigned int flags, CUdevice dev) {
    ENTER;
    if (n < 0 || (n > 0 && !params)) return CUDA_ERROR_INVALID_VALUE;
    if (n > 0) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return create(pctx, flags, dev);
}
CUresult cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *params, unsigned int flags, CUdevice dev) {
    ENTER;
    if (params && params->cigParams) return CUDA_ERROR_NOT_SUPPORTED;
    if (params && params->numExecAffinityParams) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    return create(pctx, flags, dev);
}

CUresult cuCtxDestroy_v2(CUcontext handle) {
    ENTER;
    if (!handle) return CUDA_ERROR_INVALID_VALUE;
    struct context *ctx = context_of(handle);
    if (!ctx || ctx->primary) return CUDA_ERROR_INVALID_CONTEXT;
    if (depth && stack[depth - 1] == handle) depth--;
    context_release(ctx);
    return CUDA_SUCCESS;
}
CUresult cuCtxDestroy(CUcontext handle) {
    return cuCtxDestroy_v2(handle);
}

CUresult cuCtxAttach(CUcontext *pctx, unsigned int flags) {
    ENTER_CTX;
    if (!pctx || flags) return CUDA_ERROR_INVALID_VALUE;
    *pctx = ctx->handle;
    return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext handle) {
    ENTER;
    return context_of(handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

/* ---- the stack ---- */

CUresult cuCtxPushCurrent_v2(CUcontext handle) {
    ENTER;
    if (!handle) return CUDA_ERROR_INVALID_CONTEXT;
    if (!context_of(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    if (depth == MAX_STACK) return CUDA_ERROR_OUT_OF_MEMORY;
    stack[depth++] = handle;
    return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext handle) {
    return cuCtxPushCurrent_v2(handle);
}

CUresult cuCtxPopCurrent_v2(CUcontext *pctx) {
    ENTER;
    if (!depth || !stack[depth - 1]) return CUDA_ERROR_INVALID_CONTEXT;
    depth--;
    if (pctx) *pctx = stack[depth];
    return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext *pctx) {
    return cuCtxPopCurrent_v2(pctx);
}

CUresult cuCtxSetCurrent(CUcontext handle) {
    ENTER;
    if (!handle) {
        if (depth) depth--;
        return CUDA_SUCCESS;
    }
    if (!context_of(handle)) return CUDA_ERROR_INVALID_CONTEXT;
    if (depth)
        stack[depth - 1] = handle;
    else
        stack[depth++] = handle;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *pctx) {
    ENTER;
    if (!pctx) return CUDA_ERROR_INVALID_VALUE;
    *pctx = context_top();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) {
    ENTER_CTX;
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = 0;
    return CUDA_SUCCESS;
}

/* A context named by the caller, or the current one. */
static CUresult named(CUcontext handle, struct context **out) {
    if (!handle) return context_current(out);
    *out = context_of(handle);
    return *out ? (*out)->sticky : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext handle) {
    ENTER;
    struct context *ctx;
    CUresult r = named(handle, &ctx);
    if (r != CUDA_SUCCESS) return r;
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = 0;
    return CUDA_SUCCESS;
}

/* ---- properties ---- */

CUresult cuCtxGetFlags(unsigned int *flags) {
    ENTER_CTX;
    if (!flags) return CUDA_ERROR_INVALID_VALUE;
    *flags = ctx->flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned int flags) {
    ENTER_CTX;
    if (!flags_ok(flags)) return CUDA_ERROR_INVALID_VALUE;
    ctx->flags = flags;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long *ctxId) {
    ENTER;
    struct context *ctx;
    CUresult r = named(handle, &ctx);
    if (r != CUDA_SUCCESS) return r;
    if (!ctxId) return CUDA_ERROR_INVALID_VALUE;
    *ctxId = ctx->id;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned int *version) {
    ENTER;
    struct context *ctx;
    CUresult r = named(handle, &ctx);
    if (r != CUDA_SUCCESS) return r;
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    *version = ctx->api_version;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void) {
    ENTER_CTX;
    return stream_wait(ctx, NULL);
}

CUresult cuCtxSynchronize_v2(CUcontext handle) {
    ENTER;
    struct context *ctx;
    CUresult r = named(handle, &ctx);
    if (r != CUDA_SUCCESS) return r;
    return stream_wait(ctx, NULL);
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    ENTER_CTX;
    switch (limit) {
    case CU_LIMIT_STACK_SIZE:
        if (value > 512 << 10) return CUDA_ERROR_INVALID_VALUE;
        ctx->limits[limit] = value ? (value + 15) / 16 * 16 : 0;
        return CUDA_SUCCESS;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
    case CU_LIMIT_MALLOC_HEAP_SIZE:
        if (value > driver.memory) return CUDA_ERROR_OUT_OF_MEMORY;
        ctx->limits[limit] = value;
        return CUDA_SUCCESS;
    case CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT:
        ctx->limits[limit] = value;
        return CUDA_SUCCESS;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
        if (value > 128) return CUDA_ERROR_INVALID_VALUE;
        ctx->limits[limit] = value;
        return CUDA_SUCCESS;
    case CU_LIMIT_PERSISTING_L2_CACHE_SIZE: {
        int most = 0;
        device_attribute(&most, CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE);
        ctx->limits[limit] = value < (size_t)most ? value : (size_t)most;
        return CUDA_SUCCESS;
    }
    case CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH:
        return CUDA_ERROR_UNSUPPORTED_LIMIT;
    default:
        return (unsigned)limit < CU_LIMIT_MAX ? CUDA_ERROR_UNSUPPORTED_LIMIT : CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuCtxGetLimit(size_t *pvalue, CUlimit limit) {
    ENTER_CTX;
    if (!pvalue) return CUDA_ERROR_INVALID_VALUE;
    if ((unsigned)limit >= CU_LIMIT_MAX) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *pvalue = ctx->limits[limit];
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *pconfig) {
    ENTER_CTX;
    if (!pconfig) return CUDA_ERROR_INVALID_VALUE;
    *pconfig = ctx->cache;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
    ENTER_CTX;
    if ((unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL) return CUDA_ERROR_INVALID_VALUE;
    ctx->cache = config;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *pConfig) {
    ENTER_CTX;
    if (!pConfig) return CUDA_ERROR_INVALID_VALUE;
    *pConfig = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) {
    ENTER_CTX;
    return (unsigned)config <= CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

enum { LOWEST_PRIORITY = 0, HIGHEST_PRIORITY = -5 };

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER_CTX;
    if (least) *least = LOWEST_PRIORITY;
    if (greatest) *greatest = HIGHEST_PRIORITY;
    return CUDA_SUCCESS;
}

CUresult cuCtxResetPersistingL2Cache(void) {
    ENTER_CTX;
    return CUDA_SUCCESS;
}

CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags) {
    ENTER_CTX;
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (!context_of(peer) || peer == ctx->handle) return CUDA_ERROR_INVALID_CONTEXT;
    return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
}

CUresult cuCtxDisablePeerAccess(CUcontext peer) {
    ENTER_CTX;
    if (!context_of(peer) || peer == ctx->handle) return CUDA_ERROR_INVALID_CONTEXT;
    return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}
