/* api_link: cuLink*, for programs that hand their PTX to the linker before they load it.
 *
 * One PTX text (or a fatbinary) goes in and the same text comes out as the "cubin", which cuModuleLoadData takes.
 * Linking several objects is not supported. */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

struct link {
    CUlinkState handle;
    struct buf text;
    struct jit jit;
    void **values; /* the caller's option values, where log sizes are answered */
    int n_inputs;
};

CUresult cuLinkCreate_v2(unsigned int n, CUjit_option *options, void **values, CUlinkState *out) {
    ENTER_CTX;
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    struct jit jit;
    CUresult r = jit_options(n, options, values, &jit);
    if (r != CUDA_SUCCESS) return r;
    struct link *l = mem_try(1, sizeof *l);
    if (!l) return CUDA_ERROR_OUT_OF_MEMORY;
    *l = (struct link){.jit = jit, .values = values};
    l->handle = handle_new(KIND_LINK, l);
    if (!l->handle) {
        free(l);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = l->handle;
    return CUDA_SUCCESS;
}
CUresult cuLinkCreate(unsigned int n, CUjit_option *options, void **values, CUlinkState *out) {
    return cuLinkCreate_v2(n, options, values, out);
}

static CUresult add(CUlinkState state, CUjitInputType type, const void *data, size_t bytes, unsigned n,
                    CUjit_option *options, void **values) {
    ENTER_CTX;
    struct jit ignored;
    struct link *l = handle_get(KIND_LINK, state);
    if (!l) return CUDA_ERROR_INVALID_HANDLE;
    CUresult r = jit_options(n, options, values, &ignored);
    if (r != CUDA_SUCCESS) return r;
    if (!data || !bytes || (unsigned)type >= CU_JIT_NUM_INPUT_TYPES) return CUDA_ERROR_INVALID_VALUE;
    if (l->n_inputs || (type != CU_JIT_INPUT_PTX && type != CU_JIT_INPUT_FATBINARY)) {
        static int said;
        return (CUresult)ptxvm_unsupported(
            l->n_inputs ? "cuLinkAddData of a second input" : "cuLinkAddData of machine code", &said);
    }
    struct buf log = {0};
    r = image_text(data, bytes, l->jit.error ? &log : NULL, &l->text);
    struct module *m;
    if (r == CUDA_SUCCESS) /* the linker is where programs expect to hear of errors */
        r = module_from_text(ctx, l->text.data ? l->text.data : "", l->text.len, NULL, l->jit.error ? &log : NULL, &m);
    if (r == CUDA_SUCCESS) module_unload(m);
    jit_answer(&l->jit, &log, r != CUDA_SUCCESS, 0, l->values);
    buf_free(&log);
    if (r == CUDA_SUCCESS) l->n_inputs++;
    return r;
}

CUresult cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t bytes, const char *name,
                          unsigned int n, CUjit_option *options, void **values) {
    (void)name;
    return add(state, type, data, bytes, n, options, values);
}
CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t bytes, const char *name,
                       unsigned int n, CUjit_option *options, void **values) {
    return cuLinkAddData_v2(state, type, data, bytes, name, n, options, values);
}

CUresult cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path, unsigned int n,
                          CUjit_option *options, void **values) {
    if (!path) return CUDA_ERROR_INVALID_VALUE;
    struct buf bytes = {0};
    struct err e;
    CUresult r = file_read(path, &bytes, &e) ? add(state, type, bytes.data, bytes.len, n, options, values)
                                             : CUDA_ERROR_FILE_NOT_FOUND;
    buf_free(&bytes);
    return r;
}
CUresult cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path, unsigned int n, CUjit_option *options,
                       void **values) {
    return cuLinkAddFile_v2(state, type, path, n, options, values);
}

CUresult cuLinkComplete(CUlinkState state, void **cubin, size_t *bytes) {
    ENTER_CTX;
    struct link *l = handle_get(KIND_LINK, state);
    if (!l) return CUDA_ERROR_INVALID_HANDLE;
    if (!cubin || !l->n_inputs) return CUDA_ERROR_INVALID_VALUE;
    *cubin = l->text.data;
    if (bytes) *bytes = l->text.len + 1; /* with the NUL */
    return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState state) {
    ENTER;
    struct link *l = handle_get(KIND_LINK, state);
    if (!l) return CUDA_ERROR_INVALID_HANDLE;
    handle_drop(state);
    buf_free(&l->text);
    free(l);
    return CUDA_SUCCESS;
}
