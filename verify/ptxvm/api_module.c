/* api_module: modules, their functions and variables, function attributes. */
#include "verify/ptxvm/driver.h"
#include "verify/ptxvm/fatbin.h"
#include <stdlib.h>
#include <string.h>

/* ---- images ---- */

static void note(struct buf *log, const char *text) {
    if (log) buf_printf(log, "%s\n", text);
}

/* The PTX text of an image, appended to *out. Where nobody listens to the log, standard error gets the reason. */
CUresult image_text(const void *image, size_t bytes, struct buf *log, struct buf *out) {
    struct err e = {0};
    CUresult r = CUDA_SUCCESS;
    switch (bytes && bytes < 4 ? IMAGE_TEXT : image_kind(image)) {
    case IMAGE_ELF:
        err_set(&e, ERR_UNSUPPORTED,
                "the image is machine code (a cubin); this machine runs PTX: compile with nvcc -ptx or "
                "-fatbin --no-compress with code=compute_NN");
        r = CUDA_ERROR_NO_BINARY_FOR_GPU;
        break;
    case IMAGE_FATBIN:
    case IMAGE_WRAPPER:
        if (fatbin_ptx(image, bytes, driver.arch_chosen ? driver.arch : 0, out, &e)) return CUDA_SUCCESS;
        r = e.code == ERR_UNSUPPORTED ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_INVALID_IMAGE;
        break;
    case IMAGE_TEXT:
        buf_add(out, image, bytes ? strnlen(image, bytes) : strlen(image));
        return CUDA_SUCCESS;
    }
    if (log)
        note(log, e.msg);
    else
        vm_say("image: %s", e.msg);
    return r;
}

/* The number after a word of the PTX text's head, times 10 with a decimal ("9.0" is 90); 0 when absent. */
static int head_number(const char *text, const char *word) {
    const char *p = strstr(text, word);
    if (!p) return 0;
    p += strlen(word);
    while (*p == ' ' || *p == '\t') p++;
    if (!strncmp(p, "sm_", 3)) return atoi(p + 3);
    int major = 0, minor = 0;
    return sscanf(p, "%3d.%1d", &major, &minor) == 2 ? major * 10 + minor : 0;
}

CUresult module_from_text(struct context *ctx, const char *text, size_t len, const char *file, struct buf *log,
                          struct module **out) {
    static int serial;
    char name[64], why[1024] = "";
    if (!file) {
        snprintf(name, sizeof name, "module%d.ptx", ++serial);
        file = name;
    }
    struct vm_module *vm = NULL;
    CUresult r = CUDA_SUCCESS;
    int target = head_number(text, ".target");
    if (driver.arch_chosen && target > driver.arch) {
        snprintf(why, sizeof why, "%s: .target sm_%d is newer than the device (sm_%d, from KGEN_PTXVM_ARCH)", file,
                 target, driver.arch);
        r = CUDA_ERROR_NO_BINARY_FOR_GPU;
    } else if (!vm_module_load(text, len, file, &vm, why, sizeof why)) {
        int version = head_number(text, ".version");
        r = version > 90 ? CUDA_ERROR_UNSUPPORTED_PTX_VERSION : CUDA_ERROR_INVALID_PTX;
    }
    if (r != CUDA_SUCCESS) {
        if (log)
            note(log, why);
        else
            vm_say("invalid PTX: %s", why);
        return r;
    }
    struct module *m = mem_try(1, sizeof *m);
    if (m) {
        *m = (struct module){.ctx = ctx, .vm = vm};
        m->handle = handle_new(KIND_MODULE, m);
    }
    if (!m || !m->handle) {
        vm_module_free(vm);
        free(m);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = m;
    return CUDA_SUCCESS;
}

CUresult module_load(struct context *ctx, const void *image, size_t bytes, const char *file, struct buf *log,
                     struct module **out) {
    struct buf text = {0};
    CUresult r = image_text(image, bytes, log, &text);
    if (r == CUDA_SUCCESS) r = module_from_text(ctx, text.data ? text.data : "", text.len, file, log, out);
    buf_free(&text);
    return r;
}

void module_unload(struct module *m) {
    library_forget(m);
    while (m->functions) {
        struct function *f = m->functions;
        m->functions = f->next;
        handle_drop(f->handle);
        free(f->name);
        free(f);
    }
    handle_drop(m->handle);
    vm_module_free(m->vm);
    free(m);
}

/* ---- JIT options ---- */

CUresult jit_options(unsigned n, const CUjit_option *options, void *const *values, struct jit *jit) {
    *jit = (struct jit){.info_at = -1, .error_at = -1, .time_at = -1};
    if (n && (!options || !values)) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < n; i++) {
        if ((unsigned)options[i] >= CU_JIT_NUM_OPTIONS) return CUDA_ERROR_INVALID_VALUE;
        uintptr_t v = (uintptr_t)values[i];
        switch (options[i]) {
        case CU_JIT_INFO_LOG_BUFFER:
            jit->info = values[i];
            break;
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
            jit->info_bytes = (unsigned)v;
            jit->info_at = (int)i;
            break;
        case CU_JIT_ERROR_LOG_BUFFER:
            jit->error = values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
            jit->error_bytes = (unsigned)v;
            jit->error_at = (int)i;
            break;
        case CU_JIT_WALL_TIME:
            jit->time_at = (int)i;
            break;
        default: /* optimization levels and the like mean nothing to an interpreter */
            break;
        }
    }
    return CUDA_SUCCESS;
}

static void answer(char *buffer, size_t bytes, int at, const char *text, void **values) {
    size_t n = 0;
    if (buffer && bytes) {
        snprintf(buffer, bytes, "%s", text);
        n = strlen(buffer);
    }
    if (at >= 0) values[at] = (void *)(uintptr_t)n;
}

void jit_answer(const struct jit *jit, const struct buf *log, bool failed, double seconds, void **values) {
    const char *text = log->data ? log->data : "";
    answer(jit->error, jit->error_bytes, jit->error_at, failed ? text : "", values);
    answer(jit->info, jit->info_bytes, jit->info_at, failed ? "" : text, values);
    if (jit->time_at >= 0) {
        float ms = (float)(seconds * 1e3);
        memcpy(&values[jit->time_at], &ms, sizeof ms);
    }
}

/* ---- loading ---- */

static CUresult load(CUmodule *out, const void *image, size_t bytes, const char *file, unsigned n,
                     CUjit_option *options, void **values) {
    ENTER_CTX;
    if (!out || !image) return CUDA_ERROR_INVALID_VALUE;
    struct jit jit;
    CUresult r = jit_options(n, options, values, &jit);
    if (r != CUDA_SUCCESS) return r;
    struct buf log = {0};
    struct module *m;
    double start = now_s();
    r = module_load(ctx, image, bytes, file, jit.error ? &log : NULL, &m);
    jit_answer(&jit, &log, r != CUDA_SUCCESS, now_s() - start, values);
    buf_free(&log);
    if (r == CUDA_SUCCESS) *out = m->handle;
    return r;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    return load(module, image, 0, NULL, 0, NULL, NULL);
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int n, CUjit_option *options, void **values) {
    return load(module, image, 0, NULL, n, options, values);
}

CUresult cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin) {
    if (fatCubin && image_kind(fatCubin) != IMAGE_FATBIN && image_kind(fatCubin) != IMAGE_WRAPPER)
        return CUDA_ERROR_INVALID_IMAGE;
    return load(module, fatCubin, 0, NULL, 0, NULL, NULL);
}

CUresult cuModuleLoad(CUmodule *module, const char *fname) {
    if (!module || !fname) return CUDA_ERROR_INVALID_VALUE;
    struct buf bytes = {0};
    struct err e;
    if (!file_read(fname, &bytes, &e)) return CUDA_ERROR_FILE_NOT_FOUND;
    const char *base = strrchr(fname, '/');
    CUresult r = bytes.len ? load(module, bytes.data, bytes.len, base ? base + 1 : fname, 0, NULL, NULL)
                           : CUDA_ERROR_INVALID_IMAGE;
    buf_free(&bytes);
    return r;
}

CUresult cuModuleUnload(CUmodule hmod) {
    ENTER_CTX;
    struct module *m = handle_get(KIND_MODULE, hmod);
    if (!m || m->library) return CUDA_ERROR_INVALID_HANDLE;
    stream_wait_idle(m->ctx);
    if (handle_get(KIND_MODULE, hmod) == m) module_unload(m);
    return CUDA_SUCCESS;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) {
    ENTER;
    if (!mode) return CUDA_ERROR_INVALID_VALUE;
    *mode = CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

/* ---- functions ---- */

CUresult module_function(struct module *m, const char *name, struct function **out) {
    for (struct function *f = m->functions; f; f = f->next)
        if (!strcmp(f->name, name)) {
            *out = f;
            return CUDA_SUCCESS;
        }
    char why[1024] = "";
    struct vm_function *vm;
    CUresult r = (CUresult)vm_module_function(m->vm, name, &vm, why, sizeof why);
    if (r != CUDA_SUCCESS) {
        if (r != CUDA_ERROR_NOT_FOUND) vm_say("unsupported instruction: %s", why);
        return r;
    }
    struct function *f = mem_try(1, sizeof *f);
    char *copy = strdup(name);
    if (f) *f = (struct function){.module = m, .vm = vm, .name = copy, .carveout = -1, .max_dynamic_shared = 48 << 10};
    if (f) f->handle = handle_new(KIND_FUNCTION, f);
    if (!f || !copy || !f->handle) {
        free(copy);
        free(f);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    int fixed = (int)vm_function_info(vm)->static_shared;
    f->max_dynamic_shared = fixed < f->max_dynamic_shared ? f->max_dynamic_shared - fixed : 0;
    f->next = m->functions;
    m->functions = f;
    *out = f;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name) {
    ENTER_CTX;
    if (!hfunc || !name) return CUDA_ERROR_INVALID_VALUE;
    struct module *m = handle_get(KIND_MODULE, hmod);
    if (!m) return CUDA_ERROR_INVALID_HANDLE;
    struct function *f;
    CUresult r = *name ? module_function(m, name, &f) : CUDA_ERROR_NOT_FOUND;
    if (r == CUDA_SUCCESS) *hfunc = f->handle;
    return r;
}

CUresult cuModuleGetFunctionCount(unsigned int *count, CUmodule hmod) {
    ENTER_CTX;
    struct module *m = handle_get(KIND_MODULE, hmod);
    if (!m) return CUDA_ERROR_INVALID_HANDLE;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = (unsigned)vm_module_kernel_count(m->vm);
    return CUDA_SUCCESS;
}

CUresult cuModuleEnumerateFunctions(CUfunction *functions, unsigned int n, CUmodule hmod) {
    ENTER_CTX;
    struct module *m = handle_get(KIND_MODULE, hmod);
    if (!m) return CUDA_ERROR_INVALID_HANDLE;
    if (!functions && n) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < n && i < vm_module_kernel_count(m->vm); i++) {
        struct function *f;
        CUresult r = module_function(m, vm_module_kernel_name(m->vm, i), &f);
        if (r != CUDA_SUCCESS) return r;
        functions[i] = f->handle;
    }
    return CUDA_SUCCESS;
}

static CUresult global(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name) {
    ENTER_CTX;
    if (!name || (!dptr && !bytes)) return CUDA_ERROR_INVALID_VALUE;
    struct module *m = handle_get(KIND_MODULE, hmod);
    if (!m) return CUDA_ERROR_INVALID_HANDLE;
    uint64_t addr;
    size_t n;
    CUresult r = (CUresult)vm_module_global(m->vm, name, &addr, &n);
    if (r != CUDA_SUCCESS) return r;
    if (dptr) *dptr = addr;
    if (bytes) *bytes = n;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name) {
    return global(dptr, bytes, hmod, name);
}

/* ---- attributes ---- */

CUresult function_attribute(const struct function *f, CUfunction_attribute attrib, int *value) {
    const struct vm_function_info *info = vm_function_info(f->vm);
    bool set = info->cluster[0] != 0;
    switch (attrib) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = (int)info->max_threads;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = (int)info->static_shared;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
        *value = (int)info->const_bytes;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = (int)info->local_bytes;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = (int)info->regs;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        *value = info->target_sm;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = driver.arch;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
        *value = 0;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = f->max_dynamic_shared;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        *value = f->carveout;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
        *value = set;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH: {
        int i = attrib - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH;
        *value = set ? (int)info->cluster[i] : f->cluster[i];
        return CUDA_SUCCESS;
    }
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        *value = f->nonportable_cluster;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        *value = f->cluster_policy;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult function_set_attribute(struct function *f, CUfunction_attribute attrib, int value) {
    const struct vm_function_info *info = vm_function_info(f->vm);
    switch (attrib) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        if (value < 0 || value > device_shared_optin() - (int)info->static_shared) return CUDA_ERROR_INVALID_VALUE;
        f->max_dynamic_shared = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        if (value < -1 || value > 100) return CUDA_ERROR_INVALID_VALUE;
        f->carveout = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        if (value < 0 || info->cluster[0]) return CUDA_ERROR_INVALID_VALUE; /* fixed when it was compiled */
        f->cluster[attrib - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH] = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        if (value != 0 && value != 1) return CUDA_ERROR_INVALID_VALUE;
        f->nonportable_cluster = value;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        if (value < 0 || value > CU_CLUSTER_SCHEDULING_POLICY_LOAD_BALANCING) return CUDA_ERROR_INVALID_VALUE;
        f->cluster_policy = value;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc) {
    ENTER_CTX;
    if (!pi) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = launch_function(hfunc);
    return f ? function_attribute(f, attrib, pi) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) {
    ENTER_CTX;
    struct function *f = launch_function(hfunc);
    return f ? function_set_attribute(f, attrib, value) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config) {
    ENTER_CTX;
    struct function *f = launch_function(hfunc);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    return (unsigned)config <= CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config) {
    ENTER_CTX;
    struct function *f = launch_function(hfunc);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    return (unsigned)config <= CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuFuncGetModule(CUmodule *hmod, CUfunction hfunc) {
    ENTER_CTX;
    if (!hmod) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = handle_get(KIND_FUNCTION, hfunc);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    *hmod = f->module->handle;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char **name, CUfunction hfunc) {
    ENTER_CTX;
    if (!name) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = launch_function(hfunc);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    *name = f->name;
    return CUDA_SUCCESS;
}

CUresult function_param(const struct function *f, size_t i, size_t *offset, size_t *bytes) {
    const struct vm_function_info *info = vm_function_info(f->vm);
    if (!offset || i >= info->n_params) return CUDA_ERROR_INVALID_VALUE;
    *offset = info->params[i].off;
    if (bytes) *bytes = info->params[i].bytes;
    return CUDA_SUCCESS;
}

CUresult cuFuncGetParamInfo(CUfunction hfunc, size_t i, size_t *offset, size_t *bytes) {
    ENTER_CTX;
    struct function *f = launch_function(hfunc);
    return f ? function_param(f, i, offset, bytes) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction hfunc) {
    ENTER_CTX;
    if (!state) return CUDA_ERROR_INVALID_VALUE;
    if (!launch_function(hfunc)) return CUDA_ERROR_INVALID_HANDLE;
    *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction hfunc) {
    ENTER_CTX;
    return launch_function(hfunc) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}
