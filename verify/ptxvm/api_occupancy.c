/* api_occupancy: how many blocks fit on a multiprocessor, by threads, registers and shared memory. */
#include "verify/ptxvm/driver.h"

static int limit(CUdevice_attribute a) {
    int v = 0;
    device_attribute(&v, a);
    return v;
}

static int min(int a, int b) {
    return a < b ? a : b;
}

/* Resident blocks of this size; 0 when not even one fits. The rules are those of CUDA's occupancy calculator: warps in
 * whole, registers allotted to a warp in steps of 256, shared memory in steps of 128 bytes plus what the driver keeps.
 */
static int resident(const struct function *f, int threads, size_t dynamic) {
    const struct vm_function_info *info = vm_function_info(f->vm);
    if (threads <= 0 || threads > 1024 || (info->max_threads && threads > (int)info->max_threads)) return 0;
    if (dynamic > (size_t)f->max_dynamic_shared) return 0;
    int warps = (threads + 31) / 32;
    int by_warps = limit(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR) / 32 / warps;
    int warp_regs = ((int)info->regs * 32 + 255) / 256 * 256;
    int by_regs = limit(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR) / warp_regs / warps;
    size_t shared = info->static_shared + dynamic + (size_t)limit(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
    shared = (shared + 127) / 128 * 128;
    size_t have = (size_t)limit(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    int by_shared = shared ? (int)(have / shared) : 1 << 20;
    return min(min(by_warps, by_regs), min(by_shared, limit(CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)));
}

int function_resident(const struct function *f, int threads, size_t dynamic) {
    return resident(f, threads, dynamic);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, CUfunction func, int threads, size_t dynamic,
                                                              unsigned int flags) {
    ENTER_CTX;
    if (!n || threads <= 0 || flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = launch_function(func);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    *n = resident(f, threads, dynamic);
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction func, int threads, size_t dynamic) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n, func, threads, dynamic, 0);
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, CUfunction func,
                                                   CUoccupancyB2DSize dynamic_of, size_t dynamic, int most,
                                                   unsigned int flags) {
    ENTER_CTX;
    if (!grid || !block || most < 0 || flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = launch_function(func);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    int top = min((int)vm_function_info(f->vm)->max_threads, limit(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
    if (most && most < top) top = most;
    int best = 0, best_threads = 0;
    *grid = *block = 0;
    for (int aligned = (top + 31) / 32 * 32; aligned > 0; aligned -= 32) { /* largest first: ties go to bigger blocks */
        int threads = min(aligned, top);
        int blocks = resident(f, threads, dynamic_of ? dynamic_of(threads) : dynamic);
        if (blocks * threads > best_threads) {
            best_threads = blocks * threads;
            best = blocks;
            *block = threads;
        }
    }
    *grid = best * limit(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction func, CUoccupancyB2DSize dynamic_of,
                                          size_t dynamic, int most) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, func, dynamic_of, dynamic, most, 0);
}

CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t *bytes, CUfunction func, int blocks, int threads) {
    ENTER_CTX;
    if (!bytes || blocks <= 0 || threads <= 0) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = launch_function(func);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    if (resident(f, threads, 0) < blocks) return CUDA_ERROR_INVALID_VALUE;
    size_t each = (size_t)limit(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR) / (size_t)blocks / 128 * 128;
    size_t kept =
        vm_function_info(f->vm)->static_shared + (size_t)limit(CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK);
    size_t most = (size_t)device_shared_optin() - vm_function_info(f->vm)->static_shared;
    *bytes = each > kept ? each - kept : 0;
    if (*bytes > most) *bytes = most;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialClusterSize(int *size, CUfunction func, const CUlaunchConfig *config) {
    ENTER_CTX;
    if (!size || !config) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = launch_function(func);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    if (driver.arch < 90) return CUDA_ERROR_NOT_SUPPORTED;
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    if (!threads || threads > 1024 || !resident(f, (int)threads, config->sharedMemBytes))
        return CUDA_ERROR_INVALID_VALUE;
    *size = f->nonportable_cluster ? 16 : 8;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction func, const CUlaunchConfig *config) {
    ENTER_CTX;
    if (!n || !config || (config->numAttrs && !config->attrs)) return CUDA_ERROR_INVALID_VALUE;
    struct function *f = launch_function(func);
    if (!f) return CUDA_ERROR_INVALID_HANDLE;
    if (driver.arch < 90) return CUDA_ERROR_NOT_SUPPORTED;
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ, blocks = 1;
    for (unsigned i = 0; i < config->numAttrs; i++)
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
            const CUlaunchAttributeValue *v = &config->attrs[i].value;
            blocks = (uint64_t)v->clusterDim.x * v->clusterDim.y * v->clusterDim.z;
        }
    if (!threads || threads > 1024 || !blocks) return CUDA_ERROR_INVALID_VALUE;
    if (blocks > (f->nonportable_cluster ? 16u : 8u)) return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    int each = resident(f, (int)threads, config->sharedMemBytes);
    *n = each * limit(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) / (int)blocks;
    return CUDA_SUCCESS;
}
