/* api_library: libraries and kernels, which are modules and functions without a context. A library keeps the PTX text
 * and loads it into a context when something of it is first asked for there; with a current context, at once. */
#include "verify/ptxvm/driver.h"
#include "verify/ptxvm/fatbin.h"
#include <stdlib.h>
#include <string.h>

struct library {
    CUlibrary handle;
    struct buf text;
    char *file; /* base name, or NULL */
    struct module *modules;
    struct kernel *kernels;
};

struct kernel {
    CUkernel handle;
    struct library *library;
    char *name;
    struct kernel *next;
};

void library_forget(struct module *m) {
    if (!m->library) return;
    struct module **at = &m->library->modules;
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    m->library = NULL;
}

/* The library's module in a context. */
static CUresult module_in(struct library *l, struct context *ctx, struct buf *log, struct module **out) {
    for (struct module *m = l->modules; m; m = m->next)
        if (m->ctx == ctx) {
            *out = m;
            return CUDA_SUCCESS;
        }
    CUresult r = module_from_text(ctx, l->text.data ? l->text.data : "", l->text.len, l->file, log, out);
    if (r != CUDA_SUCCESS) return r;
    (*out)->library = l;
    (*out)->next = l->modules;
    l->modules = *out;
    return CUDA_SUCCESS;
}

static void release(struct library *l) {
    while (l->modules) module_unload(l->modules);
    while (l->kernels) {
        struct kernel *k = l->kernels;
        l->kernels = k->next;
        handle_drop(k->handle);
        free(k->name);
        free(k);
    }
    handle_drop(l->handle);
    buf_free(&l->text);
    free(l->file);
    free(l);
}

static CUresult load(CUlibrary *out, const void *image, size_t bytes, const char *file, unsigned n_jit,
                     CUjit_option *jit_names, void **jit_values) {
    ENTER;
    struct jit jit;
    CUresult r = jit_options(n_jit, jit_names, jit_values, &jit);
    if (r != CUDA_SUCCESS) return r;
    struct library *l = mem_try(1, sizeof *l);
    if (!l) return CUDA_ERROR_OUT_OF_MEMORY;
    *l = (struct library){.file = file ? strdup(file) : NULL};
    struct buf log = {0}, *listen = jit.error ? &log : NULL;
    double start = now_s();
    r = image_text(image, bytes, listen, &l->text);
    struct context *ctx;
    struct module *m;
    if (r == CUDA_SUCCESS && context_current(&ctx) == CUDA_SUCCESS) r = module_in(l, ctx, listen, &m);
    if (r == CUDA_SUCCESS && !(l->handle = handle_new(KIND_LIBRARY, l))) r = CUDA_ERROR_OUT_OF_MEMORY;
    jit_answer(&jit, &log, r != CUDA_SUCCESS, now_s() - start, jit_values);
    buf_free(&log);
    if (r == CUDA_SUCCESS)
        *out = l->handle;
    else
        release(l);
    return r;
}

static bool options_ok(unsigned n, CUlibraryOption *names, void **values) {
    if (n && (!names || !values)) return false;
    for (unsigned i = 0; i < n; i++)
        if ((unsigned)names[i] >= CU_LIBRARY_NUM_OPTIONS) return false;
    return true;
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit_names, void **jit_values,
                           unsigned int n_jit, CUlibraryOption *names, void **values, unsigned int n) {
    if (!library || !code || !options_ok(n, names, values)) return CUDA_ERROR_INVALID_VALUE;
    return load(library, code, 0, NULL, n_jit, jit_names, jit_values);
}

CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jit_names, void **jit_values,
                               unsigned int n_jit, CUlibraryOption *names, void **values, unsigned int n) {
    if (!library || !fileName || !options_ok(n, names, values)) return CUDA_ERROR_INVALID_VALUE;
    struct buf bytes = {0};
    struct err e;
    if (!file_read(fileName, &bytes, &e)) return CUDA_ERROR_FILE_NOT_FOUND;
    const char *base = strrchr(fileName, '/');
    CUresult r = bytes.len
                     ? load(library, bytes.data, bytes.len, base ? base + 1 : fileName, n_jit, jit_names, jit_values)
                     : CUDA_ERROR_INVALID_IMAGE;
    buf_free(&bytes);
    return r;
}

CUresult cuLibraryUnload(CUlibrary library) {
    ENTER;
    struct library *l = handle_get(KIND_LIBRARY, library);
    if (!l) return CUDA_ERROR_INVALID_HANDLE;
    for (bool waited = true; waited;) { /* waiting lets go of the lock: look again */
        waited = false;
        for (struct module *m = l->modules; m && !waited; m = m->next)
            if (context_busy(m->ctx)) {
                stream_wait_idle(m->ctx);
                waited = true;
            }
        if (handle_get(KIND_LIBRARY, library) != l) return CUDA_SUCCESS;
    }
    release(l);
    return CUDA_SUCCESS;
}

/* ---- kernels ---- */

static CUresult kernel_named(struct library *l, const char *name, struct kernel **out) {
    for (struct kernel *k = l->kernels; k; k = k->next)
        if (!strcmp(k->name, name)) {
            *out = k;
            return CUDA_SUCCESS;
        }
    struct kernel *k = mem_try(1, sizeof *k);
    char *copy = strdup(name);
    if (k) *k = (struct kernel){.library = l, .name = copy, .next = l->kernels};
    if (k) k->handle = handle_new(KIND_KERNEL, k);
    if (!k || !copy || !k->handle) {
        free(copy);
        free(k);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    l->kernels = k;
    *out = k;
    return CUDA_SUCCESS;
}

CUresult kernel_function(CUkernel handle, struct function **out) {
    struct kernel *k = handle_get(KIND_KERNEL, handle);
    if (!k) return CUDA_ERROR_INVALID_HANDLE;
    struct context *ctx;
    struct module *m;
    CUresult r = context_current(&ctx);
    if (r == CUDA_SUCCESS) r = module_in(k->library, ctx, NULL, &m);
    return r == CUDA_SUCCESS ? module_function(m, k->name, out) : r;
}

/* Opens an entry point on a library that needs its module; declares `ctx`, `l` and `m`. */
#define ENTER_LIBRARY(library)                                                                                         \
    ENTER_CTX;                                                                                                         \
    struct library *l = handle_get(KIND_LIBRARY, library);                                                             \
    if (!l) return CUDA_ERROR_INVALID_HANDLE;                                                                          \
    struct module *m;                                                                                                  \
    {                                                                                                                  \
        CUresult r_ = module_in(l, ctx, NULL, &m);                                                                     \
        if (r_ != CUDA_SUCCESS) return r_;                                                                             \
    }

CUresult cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name) {
    ENTER_LIBRARY(library);
    if (!pKernel || !name) return CUDA_ERROR_INVALID_VALUE;
    struct function *f;
    CUresult r = *name ? module_function(m, name, &f) : CUDA_ERROR_NOT_FOUND;
    struct kernel *k;
    if (r == CUDA_SUCCESS) r = kernel_named(l, name, &k);
    if (r == CUDA_SUCCESS) *pKernel = k->handle;
    return r;
}

CUresult cuLibraryGetKernelCount(unsigned int *count, CUlibrary library) {
    ENTER_LIBRARY(library);
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = (unsigned)vm_module_kernel_count(m->vm);
    return CUDA_SUCCESS;
}

CUresult cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int n, CUlibrary library) {
    ENTER_LIBRARY(library);
    if (!kernels && n) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < n && i < vm_module_kernel_count(m->vm); i++) {
        struct kernel *k;
        CUresult r = kernel_named(l, vm_module_kernel_name(m->vm, i), &k);
        if (r != CUDA_SUCCESS) return r;
        kernels[i] = k->handle;
    }
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetModule(CUmodule *pMod, CUlibrary library) {
    ENTER_LIBRARY(library);
    if (!pMod) return CUDA_ERROR_INVALID_VALUE;
    *pMod = m->handle;
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name) {
    ENTER_LIBRARY(library);
    if (!name || (!dptr && !bytes)) return CUDA_ERROR_INVALID_VALUE;
    uint64_t addr;
    size_t n;
    CUresult r = (CUresult)vm_module_global(m->vm, name, &addr, &n);
    if (r != CUDA_SUCCESS) return r;
    if (dptr) *dptr = addr;
    if (bytes) *bytes = n;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel) {
    ENTER_CTX;
    if (!pFunc) return CUDA_ERROR_INVALID_VALUE;
    struct function *f;
    CUresult r = kernel_function(kernel, &f);
    if (r == CUDA_SUCCESS) *pFunc = f->handle;
    return r;
}

CUresult cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel) {
    ENTER;
    struct kernel *k = handle_get(KIND_KERNEL, kernel);
    if (!k) return CUDA_ERROR_INVALID_HANDLE;
    if (!pLib) return CUDA_ERROR_INVALID_VALUE;
    *pLib = k->library->handle;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetName(const char **name, CUkernel kernel) {
    ENTER;
    struct kernel *k = handle_get(KIND_KERNEL, kernel);
    if (!k) return CUDA_ERROR_INVALID_HANDLE;
    if (!name) return CUDA_ERROR_INVALID_VALUE;
    *name = k->name;
    return CUDA_SUCCESS;
}

CUresult cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev) {
    ENTER_CTX;
    struct function *f;
    if (!pi) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    CUresult r = kernel_function(kernel, &f);
    return r == CUDA_SUCCESS ? function_attribute(f, attrib, pi) : r;
}

CUresult cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev) {
    ENTER_CTX;
    struct function *f;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    CUresult r = kernel_function(kernel, &f);
    return r == CUDA_SUCCESS ? function_set_attribute(f, attrib, val) : r;
}

CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev) {
    ENTER;
    if (!handle_get(KIND_KERNEL, kernel)) return CUDA_ERROR_INVALID_HANDLE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    return (unsigned)config <= CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuKernelGetParamInfo(CUkernel kernel, size_t i, size_t *offset, size_t *bytes) {
    ENTER_CTX;
    struct function *f;
    CUresult r = kernel_function(kernel, &f);
    return r == CUDA_SUCCESS ? function_param(f, i, offset, bytes) : r;
}
