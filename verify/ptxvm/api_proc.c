/* api_proc: finding entry points by name and driver version. */
#include "verify/ptxvm/driver.h"
#include "verify/ptxvm/procs.h"
#include <string.h>

/* The newest signature of a name that the asked-for version knows. A per-thread flavour that a name does not have is
 * its plain one. *known tells whether the name exists at all. */
static void *find(const char *symbol, int version, int flavour, bool *known) {
    const struct proc *best = NULL;
    *known = false;
    for (int i = 0; i < n_procs; i++) {
        const struct proc *p = &procs[i];
        if (strcmp(p->name, symbol) || (p->flavour == PROC_PER_THREAD && flavour == PROC_PLAIN)) continue;
        *known = true;
        if (p->version > version) continue;
        if (!best || p->flavour > best->flavour || (p->flavour == best->flavour && p->version > best->version))
            best = p;
    }
    return best ? best->fn : NULL;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status) {
    if (status) *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    if (!symbol || !pfn || flags > CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM ||
        flags == (CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM))
        return CUDA_ERROR_INVALID_VALUE;
    *pfn = NULL;
    bool known;
    int flavour = flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM ? PROC_PER_THREAD : PROC_PLAIN;
    /* cuGetProcAddress itself changed its signature at 12.0 */
    *pfn = find(symbol, cudaVersion, flavour, &known);
    if (*pfn) {
        if (status) *status = CU_GET_PROC_ADDRESS_SUCCESS;
        return CUDA_SUCCESS;
    }
    if (known && status) *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    return status ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags) {
    return cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, NULL);
}

CUresult cuGetExportTable(const void **table, const CUuuid *id) {
    static int said;
    if (!table || !id) return CUDA_ERROR_INVALID_VALUE;
    *table = NULL;
    return (CUresult)ptxvm_unsupported("cuGetExportTable", &said);
}
