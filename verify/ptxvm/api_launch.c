/* api_launch: from the launch calls' arguments to vm_launch. */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

struct function *launch_function(CUfunction handle) {
    struct function *f = handle_get(KIND_FUNCTION, handle);
    if (!f && handle_get(KIND_KERNEL, handle) && kernel_function((CUkernel)handle, &f) != CUDA_SUCCESS) return NULL;
    return f;
}

/* ---- parameters ---- */

static CUresult pack_buffer(void **extra, const struct vm_function_info *info, unsigned char *to) {
    const void *buffer = NULL;
    const size_t *bytes = NULL;
    for (size_t i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (i >= 16) return CUDA_ERROR_INVALID_VALUE;
        if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            buffer = extra[i + 1];
        else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
            bytes = extra[i + 1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (!buffer || !bytes) return info->param_bytes ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    if (*bytes < info->param_bytes) return CUDA_ERROR_INVALID_VALUE;
    memcpy(to, buffer, info->param_bytes);
    return CUDA_SUCCESS;
}

CUresult launch_pack(struct function *f, void **params, void **extra, struct launch *out) {
    const struct vm_function_info *info = vm_function_info(f->vm);
    if (params && extra) return CUDA_ERROR_INVALID_VALUE;
    if (info->n_params && !params && !extra) return CUDA_ERROR_INVALID_VALUE;
    unsigned char *bytes = mem_try(info->param_bytes + 1, 1);
    if (!bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult r = extra ? pack_buffer(extra, info, bytes) : CUDA_SUCCESS;
    for (unsigned i = 0; params && i < info->n_params && r == CUDA_SUCCESS; i++) {
        if (params[i])
            memcpy(bytes + info->params[i].off, params[i], info->params[i].bytes);
        else
            r = CUDA_ERROR_INVALID_VALUE;
    }
    if (r != CUDA_SUCCESS) {
        free(bytes);
        return r;
    }
    out->params = bytes;
    out->n_params = info->param_bytes;
    return CUDA_SUCCESS;
}

/* ---- checks ---- */

/* The cluster of a launch: compiled in, asked for by attribute of launch or function, or none (all zero). */
static void cluster_of(const struct launch *l, const struct function *f, unsigned out[3]) {
    const struct vm_function_info *info = vm_function_info(f->vm);
    for (int i = 0; i < 3; i++) {
        out[i] = info->cluster[0] ? info->cluster[i] : l->cluster[0] ? l->cluster[i] : (unsigned)f->cluster[i];
        if (!out[i] && (info->cluster[0] || l->cluster[0] || f->cluster[0])) out[i] = 1;
    }
}

static CUresult cluster_check(const struct launch *l, const struct function *f) {
    const struct vm_function_info *info = vm_function_info(f->vm);
    unsigned c[3];
    cluster_of(l, f, c);
    if (!c[0]) return CUDA_SUCCESS;
    if (driver.arch_chosen && driver.arch < 90) return CUDA_ERROR_INVALID_VALUE;
    for (int i = 0; i < 3; i++) {
        if (info->cluster[0] && l->cluster[0] && l->cluster[i] != info->cluster[i])
            return CUDA_ERROR_INVALID_CLUSTER_SIZE;
        if (c[i] > l->grid[i] || l->grid[i] % c[i]) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    }
    uint64_t blocks = (uint64_t)c[0] * c[1] * c[2];
    return blocks > (f->nonportable_cluster ? 16u : 8u) ? CUDA_ERROR_INVALID_CLUSTER_SIZE : CUDA_SUCCESS;
}

CUresult launch_check(struct context *ctx, const struct launch *l) {
    struct function *f = launch_function(l->f);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    if (f->module->ctx != ctx) return CUDA_ERROR_INVALID_CONTEXT;
    const struct vm_function_info *info = vm_function_info(f->vm);
    const unsigned *g = l->grid, *b = l->block;
    if (!g[0] || !g[1] || !g[2] || g[0] > 0x7fffffff || g[1] > 65535 || g[2] > 65535) return CUDA_ERROR_INVALID_VALUE;
    if (!b[0] || !b[1] || !b[2] || b[0] > 1024 || b[1] > 1024 || b[2] > 64) return CUDA_ERROR_INVALID_VALUE;
    unsigned threads = b[0] * b[1] * b[2];
    if (threads > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (info->reqntid[0])
        for (int i = 0; i < 3; i++)
            if (b[i] != (info->reqntid[i] ? info->reqntid[i] : 1)) return CUDA_ERROR_INVALID_VALUE;
    if (info->max_threads && threads > info->max_threads) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    if (l->shared > (unsigned)f->max_dynamic_shared) return CUDA_ERROR_INVALID_VALUE;
    if (info->static_shared + (uint64_t)l->shared > (uint64_t)device_shared_optin()) return CUDA_ERROR_INVALID_VALUE;
    if (l->cooperative) {
        int sms = 0;
        device_attribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        uint64_t resident = (uint64_t)sms * (uint64_t)function_resident(f, (int)threads, l->shared);
        if ((uint64_t)g[0] * g[1] * g[2] > resident) return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    }
    return cluster_check(l, f);
}

/* Called with the lock held once, which the kernel itself does not keep. */
CUresult launch_run(struct stream *s, const struct launch *l) {
    struct context *ctx = s->ctx;
    struct function *f = launch_function(l->f);
    if (!f) return CUDA_ERROR_INVALID_HANDLE; /* unloaded while it was queued */
    struct vm_chain chain = s->chain;
    struct vm_launch_params p = {.dynamic_shared = l->shared,
                                 .params = l->params,
                                 .param_bytes = l->n_params,
                                 .cooperative = l->cooperative,
                                 .dependent = l->dependent,
                                 .chain = &chain};
    CUstream stream = s->handle;
    memcpy(p.grid, l->grid, sizeof p.grid);
    memcpy(p.block, l->block, sizeof p.block);
    cluster_of(l, f, p.cluster);
    struct vm_function *vm = f->vm;
    struct vm_fault fault = {0};
    driver_unlock(); /* the module outlives this: unloading waits for the context's work */
    CUresult r = (CUresult)vm_launch(vm, &p, &fault, NULL);
    driver_lock();
    if (handle_get(KIND_STREAM, stream) == s) s->chain = chain;
    if (r == CUDA_SUCCESS || !fault.code) return r;
    context_fault(ctx, r);
    return driver.blocking ? r : CUDA_SUCCESS; /* the launch call has long returned on hardware */
}

/* ---- calls ---- */

CUresult launch_attribute(struct launch *l, const CUlaunchAttribute *a) {
    switch (a->id) {
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        if (!a->value.clusterDim.x || !a->value.clusterDim.y || !a->value.clusterDim.z) return CUDA_ERROR_INVALID_VALUE;
        l->cluster[0] = a->value.clusterDim.x;
        l->cluster[1] = a->value.clusterDim.y;
        l->cluster[2] = a->value.clusterDim.z;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        l->cooperative = a->value.cooperative != 0;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
        l->dependent = a->value.programmaticStreamSerializationAllowed != 0;
        if (l->dependent) vm_depend_watch();
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_IGNORE: /* hints, without effect on what a kernel computes */
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
    case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
    case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT:
    case CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT:
    case CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE: {
        static int said;
        return (CUresult)ptxvm_unsupported("cuLaunchKernelEx with an event or device-updatable attribute", &said);
    }
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult launch(CUstream hStream, struct launch *l, void **params, void **extra, const CUlaunchAttribute *attrs,
                       unsigned n_attrs) {
    ENTER_CTX;
    struct stream *s;
    CUresult r = stream_get(ctx, hStream, &s);
    if (r != CUDA_SUCCESS) return r;
    struct function *f = launch_function(l->f);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    if (n_attrs && !attrs) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < n_attrs; i++)
        if ((r = launch_attribute(l, &attrs[i])) != CUDA_SUCCESS) return r;
    r = launch_pack(f, params, extra, l);
    if (r != CUDA_SUCCESS) return r;
    struct op op = {.kind = OP_KERNEL, .launch = *l};
    r = stream_submit(s, &op);
    return r;
}

CUresult cuLaunchKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                        unsigned int by, unsigned int bz, unsigned int shared, CUstream hStream, void **params,
                        void **extra) {
    struct launch l = {.f = f, .grid = {gx, gy, gz}, .block = {bx, by, bz}, .shared = shared};
    return launch(hStream, &l, params, extra, NULL, 0);
}

CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                                   unsigned int by, unsigned int bz, unsigned int shared, CUstream hStream,
                                   void **params) {
    struct launch l = {.f = f, .grid = {gx, gy, gz}, .block = {bx, by, bz}, .shared = shared, .cooperative = true};
    return launch(hStream, &l, params, NULL, NULL, 0);
}

static CUresult launch_ex(const CUlaunchConfig *c, CUstream hStream, CUfunction f, void **params, void **extra) {
    struct launch l = {.f = f,
                       .grid = {c->gridDimX, c->gridDimY, c->gridDimZ},
                       .block = {c->blockDimX, c->blockDimY, c->blockDimZ},
                       .shared = c->sharedMemBytes};
    return launch(hStream, &l, params, extra, c->attrs, c->numAttrs);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **params, void **extra) {
    return config ? launch_ex(config, config->hStream, f, params, extra) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **params, void **extra) {
    return config ? launch_ex(config, per_thread(config->hStream), f, params, extra) : CUDA_ERROR_INVALID_VALUE;
}
