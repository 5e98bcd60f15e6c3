/* api_device: one device of a chosen architecture (KGEN_PTXVM_ARCH, 90 by default).
 *
 * Limits are those the programming guide lists per compute capability; clocks and sizes are those of a typical card of
 * the architecture and matter only to programs that print or divide by them. What the machine does not have (textures,
 * IPC, virtual memory, stream memory operations) is reported as absent.
 */
#include "verify/ptxvm/driver.h"
#include <string.h>

struct card {
    int arch, sms, threads_per_sm, blocks_per_sm;
    int shared_per_sm, shared_optin; /* bytes; the driver itself keeps 1 KiB of each block's */
    int clock_khz, memory_khz, bus_bits, l2_bytes;
    size_t memory;
    const char *name;
};

#define KIB(n) ((n)*1024)
#define MIB(n) ((n)*1024 * 1024)
#define GIB(n) ((size_t)(n) << 30)

static const struct card cards[] = {
    {70, 80, 2048, 32, KIB(96), KIB(96), 1530000, 877000, 4096, MIB(6), GIB(16), "sm_70"},
    {75, 72, 1024, 16, KIB(64), KIB(64), 1770000, 7001000, 384, MIB(6), GIB(16), "sm_75"},
    {80, 108, 2048, 32, KIB(164), KIB(163), 1410000, 1593000, 5120, MIB(40), GIB(16), "sm_80"},
    {86, 82, 1536, 16, KIB(100), KIB(99), 1695000, 9751000, 384, MIB(6), GIB(16), "sm_86"},
    {87, 16, 1536, 16, KIB(164), KIB(163), 1300000, 3199000, 256, MIB(4), GIB(16), "sm_87"},
    {89, 128, 1536, 24, KIB(100), KIB(99), 2520000, 10501000, 384, MIB(72), GIB(16), "sm_89"},
    {90, 132, 2048, 32, KIB(228), KIB(227), 1980000, 2619000, 5120, MIB(50), GIB(16), "sm_90"},
    {100, 148, 2048, 32, KIB(228), KIB(227), 1965000, 3996000, 8192, MIB(126), GIB(16), "sm_100"},
    {103, 148, 2048, 32, KIB(228), KIB(227), 1965000, 3996000, 8192, MIB(126), GIB(16), "sm_103"},
    {110, 20, 2048, 32, KIB(228), KIB(227), 1575000, 4266000, 256, MIB(32), GIB(16), "sm_110"},
    {120, 170, 1536, 32, KIB(100), KIB(99), 2407000, 14001000, 512, MIB(96), GIB(16), "sm_120"},
    {121, 48, 1536, 32, KIB(100), KIB(99), 2418000, 4266000, 256, MIB(24), GIB(16), "sm_121"},
};

static const struct card *card(void) {
    const struct card *best = &cards[0];
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        if (cards[i].arch <= driver.arch) best = &cards[i];
    return best;
}

bool device_arch_known(int arch) {
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        if (cards[i].arch == arch) return true;
    return false;
}

size_t device_memory_default(void) {
    return card()->memory;
}
int device_shared_optin(void) {
    return card()->shared_optin;
}

CUresult device_attribute(int *value, CUdevice_attribute attrib) {
    const struct card *c = card();
    int v = 0;
    switch (attrib) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
        v = 1024;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
        v = 64;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
        v = 2147483647;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
        v = 65535;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
        v = KIB(48);
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        v = c->shared_optin;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        v = c->shared_per_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
        v = c->arch >= 80 ? 1024 : 0;
        break;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
        v = KIB(64);
        break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        v = 32;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
        v = 2147483647;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
        v = 65536;
        break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        v = c->clock_khz;
        break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        v = c->memory_khz;
        break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        v = c->bus_bits;
        break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        v = c->l2_bytes;
        break;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
    case CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT:
        v = 512;
        break;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT:
        v = 32;
        break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        v = c->sms;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        v = c->threads_per_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
        v = c->blocks_per_sm;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        v = driver.arch / 10;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        v = driver.arch % 10;
        break;
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS:
        v = 1;
        break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        v = 3;
        break;
    case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
        v = CU_MEM_HANDLE_TYPE_NONE;
        break;
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED:
        v = c->arch >= 90;
        break;
    case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO:
        v = c->arch % 10 == 0 && c->arch < 110 ? 2 : 64;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
        v = CU_COMPUTEMODE_DEFAULT;
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        v = 1;
        break;
    case CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID:
        v = 0;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE:
        v = c->arch >= 80 ? c->l2_bytes / 16 * 11 : 0;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE:
        v = c->arch >= 80 ? MIB(128) : 0;
        break;
    case CU_DEVICE_ATTRIBUTE_NUMA_ID:
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
        v = -1;
        break;
    default: /* features the machine lacks read 0; what cuda.h does not define is refused */
        if ((int)attrib <= 0 || attrib >= CU_DEVICE_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
        break;
    }
    *value = v;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER;
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    ENTER;
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int len, CUdevice dev) {
    ENTER;
    if (!name || len <= 0) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    char text[64];
    snprintf(text, sizeof text, "PTX machine %s", card()->name);
    snprintf(name, (size_t)len, "%s", text);
    return CUDA_SUCCESS;
}

static CUresult uuid(CUuuid *out, CUdevice dev) {
    if (!out) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    memcpy(out->bytes, "ptx-machine-0000", 16);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *out, CUdevice dev) {
    ENTER;
    return uuid(out, dev);
}

CUresult cuDeviceGetUuid_v2(CUuuid *out, CUdevice dev) {
    ENTER;
    return uuid(out, dev);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
    ENTER;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = driver.memory;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev) {
    ENTER;
    if (!pi) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    return device_attribute(pi, attrib);
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice dev) {
    ENTER;
    if (!major || !minor) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    *major = driver.arch / 10;
    *minor = driver.arch % 10;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetProperties(CUdevprop *prop, CUdevice dev) {
    ENTER;
    if (!prop) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    *prop = (CUdevprop){.maxThreadsPerBlock = 1024,
                        .maxThreadsDim = {1024, 1024, 64},
                        .maxGridSize = {2147483647, 65535, 65535},
                        .sharedMemPerBlock = KIB(48),
                        .totalConstantMemory = KIB(64),
                        .SIMDWidth = 32,
                        .memPitch = 2147483647,
                        .regsPerBlock = 65536,
                        .clockRate = card()->clock_khz,
                        .textureAlign = 512};
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetExecAffinitySupport(int *pi, CUexecAffinityType type, CUdevice dev) {
    ENTER;
    if (!pi || (unsigned)type >= CU_EXEC_AFFINITY_TYPE_MAX) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    *pi = 0;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *id, int len, CUdevice dev) {
    ENTER;
    if (!id || len <= 0) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0) return CUDA_ERROR_INVALID_DEVICE;
    if (len < 13) return CUDA_ERROR_INVALID_VALUE;
    snprintf(id, (size_t)len, "0000:01:00.0");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetByPCIBusId(CUdevice *dev, const char *id) {
    ENTER;
    if (!dev || !id) return CUDA_ERROR_INVALID_VALUE;
    unsigned domain = 0, bus, slot, function = 0;
    bool parsed = sscanf(id, "%x:%x:%x.%x", &domain, &bus, &slot, &function) >= 3;
    if (!parsed) {
        domain = function = 0;
        parsed = sscanf(id, "%x:%x.%x", &bus, &slot, &function) >= 2;
    }
    if (!parsed) return CUDA_ERROR_INVALID_VALUE;
    if (domain || bus != 1 || slot || function) return CUDA_ERROR_INVALID_DEVICE;
    *dev = 0;
    return CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice dev, CUdevice peer) {
    ENTER;
    if (!can) return CUDA_ERROR_INVALID_VALUE;
    if (dev != 0 || peer != 0) return CUDA_ERROR_INVALID_DEVICE;
    *can = 0;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attrib, CUdevice src, CUdevice dst) {
    ENTER;
    (void)attrib;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    if (src != 0 || dst != 0 || src == dst) return CUDA_ERROR_INVALID_DEVICE;
    return CUDA_ERROR_INVALID_VALUE;
}
