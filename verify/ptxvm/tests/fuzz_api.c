/* fuzz_api SECONDS [SEED [FIRST]]: random sequences of driver API calls, with live, stale, foreign and invented handles
 * and with arguments at the edges. Nothing may crash or hang; what the calls answer is not judged here.
 *
 * Host pointers are NULL or point at buffers that are large enough, as in any program: a host address is the caller's
 * responsibility. On a crash the seed of the sequence is printed; give it as the second argument to repeat it. With a
 * seed of 0, FIRST is the number of the first sequence: where an earlier run has ended.
 */
#include <cuda.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KERNELS "verify/ptxvm/tests/api_kernels.ptx"

static uint64_t state, seed;

static uint32_t rnd(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state * 0x2545f4914f6cdd1dull) >> 32) % n;
}

static void crashed(int sig) {
    char text[64];
    int n = snprintf(text, sizeof text, "FAIL fuzz_api: signal %d, seed %llu\n", sig, (unsigned long long)seed);
    if (write(1, text, (size_t)n) != n) _exit(3);
    _exit(2);
}

/* ---- arguments ---- */

enum { SLOTS = 64, BUFFER = 1 << 16 };
static uint64_t handles[SLOTS]; /* of every kind: a random one is usually of a wrong kind or stale */
static unsigned char buffer[BUFFER];
static char ptx[1 << 16];

static uint64_t made[256]; /* all of a sequence's, to destroy at its end */
static int n_made;

static void keep(const void *h) {
    handles[rnd(SLOTS)] = (uintptr_t)h;
    if (n_made < 256) made[n_made++] = (uintptr_t)h;
}

static void *any(void) {
    switch (rnd(12)) {
    case 0:
        return NULL;
    case 1:
        return (void *)(uintptr_t)rnd(4);
    case 2:
        return (void *)((uintptr_t)rnd(0xffffffff) << 32 | rnd(0xffffffff));
    case 3:
        return (void *)(uintptr_t)(handles[rnd(SLOTS)] ^ (uint64_t)1 << rnd(64));
    default:
        return (void *)(uintptr_t)handles[rnd(SLOTS)];
    }
}

static CUdeviceptr address(void) {
    uint64_t a = (uintptr_t)any();
    return rnd(3) ? a : a + rnd(300);
}

static size_t size(void) {
    switch (rnd(8)) {
    case 0:
        return 0;
    case 1:
        return SIZE_MAX - rnd(1000);
    case 2:
        return (size_t)rnd(0xffffffff) << rnd(32);
    default:
        return rnd(4096);
    }
}

/* A size that stays inside the host buffer. */
static size_t host_size(void) {
    return rnd(BUFFER / 2);
}
static void *host(void) {
    return rnd(10) ? buffer + rnd(BUFFER / 2) : NULL;
}
static unsigned small(void) {
    return rnd(5) ? rnd(4) : rnd(0xffffffff);
}
static unsigned dim(void) {
    return rnd(10) ? 1 + rnd(64) : rnd(0xffffffff);
}
static void ignore(void *arg) {
    (void)arg;
}

/* ---- calls ---- */

static void call_context(void) {
    CUcontext c = NULL;
    size_t n;
    unsigned flags;
    int i;
    switch (rnd(12)) {
    case 0:
        if (cuCtxCreate(&c, NULL, small(), (int)rnd(2)) == CUDA_SUCCESS) keep(c);
        break;
    case 1:
        cuCtxDestroy(any());
        break;
    case 2:
        cuCtxPushCurrent(any());
        break;
    case 3:
        cuCtxPopCurrent(rnd(2) ? &c : NULL);
        break;
    case 4:
    case 5:
        if (cuDevicePrimaryCtxRetain(&c, 0) == CUDA_SUCCESS) cuCtxSetCurrent(c), keep(c);
        break;
    case 6:
        cuDevicePrimaryCtxRelease((int)rnd(2));
        break;
    case 7:
        if (!rnd(8)) cuDevicePrimaryCtxReset(0);
        break;
    case 8:
        cuCtxSetLimit((CUlimit)rnd(12), size());
        cuCtxGetLimit(rnd(9) ? &n : NULL, (CUlimit)small());
        break;
    case 9:
        cuCtxSynchronize();
        break;
    case 10:
        cuDeviceGetAttribute(rnd(9) ? &i : NULL, (CUdevice_attribute)small(), (int)rnd(2));
        break;
    default:
        cuCtxGetFlags(rnd(9) ? &flags : NULL);
    }
}

static void call_memory(void) {
    CUdeviceptr p;
    void *h;
    size_t n;
    CUmemoryPool pool;
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    switch (rnd(18)) {
    case 0:
    case 1:
    case 2:
        if (cuMemAlloc(rnd(20) ? &p : NULL, size()) == CUDA_SUCCESS) handles[rnd(SLOTS)] = p;
        break;
    case 3:
        cuMemFree(address());
        break;
    case 4:
        if (cuMemAllocAsync(&p, size(), any()) == CUDA_SUCCESS) handles[rnd(SLOTS)] = p;
        break;
    case 5:
        cuMemFreeAsync(address(), any());
        break;
    case 6:
        if (cuMemHostAlloc(&h, size(), small()) == CUDA_SUCCESS) keep(h);
        break;
    case 7:
        cuMemFreeHost(any());
        break;
    case 8:
        if (cuMemAllocManaged(&p, size(), 1 + rnd(3)) == CUDA_SUCCESS) handles[rnd(SLOTS)] = p;
        break;
    case 9:
        cuMemHostRegister(host(), host_size(), small());
        break;
    case 10:
        cuMemHostUnregister(host());
        break;
    case 11:
        cuMemGetAddressRange(rnd(5) ? &p : NULL, rnd(5) ? &n : NULL, address());
        break;
    case 12: {
        uint64_t out[4];
        cuPointerGetAttribute(rnd(9) ? out : NULL, (CUpointer_attribute)rnd(25), address());
        break;
    }
    case 13:
        if (cuMemPoolCreate(&pool, rnd(9) ? &props : NULL) == CUDA_SUCCESS) keep(pool);
        break;
    case 14:
        cuMemPoolDestroy(any());
        break;
    case 15:
        if (cuMemAllocFromPoolAsync(&p, size(), any(), any()) == CUDA_SUCCESS) handles[rnd(SLOTS)] = p;
        break;
    case 16:
        cuMemGetInfo(&n, rnd(9) ? &n : NULL);
        break;
    default:
        cuMemAllocPitch(&p, &n, size(), size(), 1u << rnd(6));
    }
}

static void call_copy(void) {
    switch (rnd(9)) {
    case 0:
        cuMemcpyHtoD(address(), host(), host_size());
        break;
    case 1:
        cuMemcpyDtoH(host(), address(), host_size());
        break;
    case 2:
        cuMemcpyDtoDAsync(address(), address(), size(), any());
        break;
    case 3:
        cuMemcpyHtoDAsync(address(), host(), host_size(), any());
        break;
    case 4:
        cuMemsetD8Async(address(), (unsigned char)rnd(256), size(), any());
        break;
    case 5:
        cuMemsetD32(address(), rnd(256), size());
        break;
    case 6:
        cuMemsetD2D16(address(), size(), 7, size(), size());
        break;
    default: {
        CUDA_MEMCPY3D c = {.srcXInBytes = rnd(3) ? 0 : size(),
                           .srcY = rnd(3) ? 0 : size(),
                           .srcZ = rnd(4) ? 0 : size(),
                           .srcMemoryType = (CUmemorytype)rnd(6),
                           .srcHost = buffer,
                           .srcDevice = address(),
                           .srcPitch = size(),
                           .srcHeight = size(),
                           .dstXInBytes = rnd(3) ? 0 : size(),
                           .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                           .dstDevice = address(),
                           .dstPitch = size(),
                           .dstHeight = size(),
                           .WidthInBytes = size(),
                           .Height = size(),
                           .Depth = rnd(3) ? 1 : size()};
        if (c.srcMemoryType == CU_MEMORYTYPE_HOST) { /* the caller's duty: the box lies in the buffer */
            c.srcXInBytes = c.srcY = c.srcZ = 0;
            c.srcPitch = c.WidthInBytes = rnd(128), c.srcHeight = c.Height = rnd(16), c.Depth = rnd(8);
        }
        cuMemcpy3DAsync(rnd(20) ? &c : NULL, any());
    }
    }
}

static void call_stream(void) {
    CUstream s;
    CUevent e;
    float ms;
    switch (rnd(12)) {
    case 0:
        if (cuStreamCreateWithPriority(&s, rnd(3), (int)small()) == CUDA_SUCCESS) keep(s);
        break;
    case 1:
        cuStreamDestroy(any());
        break;
    case 2:
        cuStreamSynchronize(any());
        break;
    case 3:
        cuStreamQuery(any());
        break;
    case 4:
        if (cuEventCreate(&e, rnd(8)) == CUDA_SUCCESS) keep(e);
        break;
    case 5:
        cuEventDestroy(any());
        break;
    case 6:
    case 7:
        cuEventRecord(any(), any());
        break;
    case 8:
        cuStreamWaitEvent(any(), any(), small());
        break;
    case 9:
        cuEventElapsedTime(rnd(9) ? &ms : NULL, any(), any());
        break;
    case 10:
        cuLaunchHostFunc(any(), rnd(9) ? ignore : NULL, NULL);
        break;
    default:
        cuEventSynchronize(any());
    }
}

static const char *const names[] = {"vadd",    "affine", "poke",  "count", "reverse",
                                    "bounded", "mixed",  "total", "",      "no"};

static const char *name(void) {
    return rnd(20) ? names[rnd(10)] : NULL;
}

static void call_module(void) {
    CUmodule m;
    CUfunction f;
    CUlibrary l;
    CUkernel k;
    CUdeviceptr p;
    size_t n;
    int i;
    switch (rnd(11)) {
    case 0:
        if (cuModuleLoadData(&m, rnd(9) ? ptx : NULL) == CUDA_SUCCESS) keep(m);
        break;
    case 1:
        cuModuleUnload(any());
        break;
    case 2:
    case 3:
        if (cuModuleGetFunction(&f, any(), name()) == CUDA_SUCCESS) keep(f);
        break;
    case 4:
        if (cuModuleGetGlobal(&p, &n, any(), name()) == CUDA_SUCCESS) handles[rnd(SLOTS)] = p;
        break;
    case 5:
        if (cuLibraryLoadData(&l, ptx, NULL, NULL, 0, NULL, NULL, 0) == CUDA_SUCCESS) keep(l);
        break;
    case 6:
        cuLibraryUnload(any());
        break;
    case 7:
        if (cuLibraryGetKernel(&k, any(), name()) == CUDA_SUCCESS) keep(k);
        break;
    case 8:
        cuFuncSetAttribute(any(), (CUfunction_attribute)rnd(20), (int)small());
        break;
    case 9:
        cuFuncGetAttribute(rnd(9) ? &i : NULL, (CUfunction_attribute)small(), any());
        break;
    default:
        cuOccupancyMaxPotentialBlockSize(&i, &i, any(), NULL, size(), (int)small());
    }
}

static void call_launch(void) {
    uint64_t words[4];
    void *params[4];
    for (int i = 0; i < 4; i++) {
        words[i] = rnd(3) ? address() : size();
        params[i] = &words[i];
    }
    CUfunction f = any();
    CUlaunchAttribute attrs[3];
    memset(attrs, 0, sizeof attrs);
    for (int i = 0; i < 3; i++) {
        attrs[i].id = (CUlaunchAttributeID)rnd(18);
        attrs[i].value.clusterDim.x = small();
        attrs[i].value.clusterDim.y = attrs[i].value.clusterDim.z = 1;
    }
    CUlaunchConfig config = {dim(), 1, 1, dim(), 1, 1, rnd(1 << 18), any(), attrs, rnd(4)};
    switch (rnd(4)) {
    case 0:
        cuLaunchKernelEx(&config, f, params, NULL);
        break;
    case 1:
        if (config.gridDimX > 4096) break; /* a big grid is slow, not wrong */
        cuLaunchCooperativeKernel(f, config.gridDimX, 1, 1, dim(), 1, 1, 0, any(), params);
        break;
    default:
        cuLaunchKernel(f, rnd(64), dim() % 70000 > 64 ? 70000 : 1, rnd(3), rnd(70), rnd(4), rnd(3), rnd(1 << 17), any(),
                       rnd(9) ? params : NULL, NULL);
    }
}

static void call_graph(void) {
    CUgraph g;
    CUgraphNode n, list[8], deps[2] = {any(), any()};
    CUgraphExec e;
    CUgraphExecUpdateResultInfo info;
    CUstreamCaptureStatus status;
    size_t count = rnd(9), n_deps = rnd(3);
    CUDA_KERNEL_NODE_PARAMS kp = {0};
    uint64_t words[4] = {address(), address(), address(), rnd(100)};
    void *params[] = {&words[0], &words[1], &words[2], &words[3]};
    switch (rnd(20)) {
    case 0:
        if (cuGraphCreate(&g, 0) == CUDA_SUCCESS) keep(g);
        break;
    case 1:
        cuGraphDestroy(any());
        break;
    case 2:
        if (cuGraphAddEmptyNode(&n, any(), deps, n_deps) == CUDA_SUCCESS) keep(n);
        break;
    case 3:
        kp = (CUDA_KERNEL_NODE_PARAMS){.func = any(),
                                       .gridDimX = rnd(4),
                                       .gridDimY = 1,
                                       .gridDimZ = 1,
                                       .blockDimX = rnd(64),
                                       .blockDimY = 1,
                                       .blockDimZ = 1,
                                       .kernelParams = params};
        if (cuGraphAddKernelNode(&n, any(), deps, n_deps, &kp) == CUDA_SUCCESS) keep(n);
        break;
    case 4:
        if (rnd(2) && cuGraphAddChildGraphNode(&n, any(), deps, n_deps, any()) == CUDA_SUCCESS) keep(n);
        break;
    case 5: {
        CUDA_MEMSET_NODE_PARAMS mp = {address(), size(), 1, rnd(5), size(), rnd(4)};
        if (cuGraphAddMemsetNode(&n, any(), deps, n_deps, &mp, any()) == CUDA_SUCCESS) keep(n);
        break;
    }
    case 6:
        cuGraphDestroyNode(any());
        break;
    case 7:
        cuGraphAddDependencies(any(), &deps[0], &deps[1], NULL, 1);
        break;
    case 8:
        cuGraphRemoveDependencies(any(), &deps[0], &deps[1], NULL, 1);
        break;
    case 9:
        if (cuGraphInstantiate(&e, any(), rnd(9)) == CUDA_SUCCESS) keep(e);
        break;
    case 10:
    case 11:
        cuGraphLaunch(any(), any());
        break;
    case 12:
        cuGraphExecDestroy(any());
        break;
    case 13:
        cuGraphExecUpdate(any(), any(), &info);
        break;
    case 14:
        if (cuGraphClone(&g, any()) == CUDA_SUCCESS) keep(g);
        break;
    case 15:
        cuGraphKernelNodeGetParams(any(), &kp);
        break;
    case 16:
        cuGraphGetNodes(any(), rnd(2) ? list : NULL, count < 9 ? &count : NULL);
        break;
    case 17:
        cuStreamBeginCapture(any(), (CUstreamCaptureMode)rnd(4));
        break;
    case 18:
        if (cuStreamEndCapture(any(), &g) == CUDA_SUCCESS) keep(g);
        break;
    default:
        cuStreamIsCapturing(any(), &status);
    }
}

/* A fatbinary around the kernels with a few bytes changed, loaded from a file so that its size is known. */
static void call_fatbin(void) {
    static int fd = -1;
    if (fd < 0) fd = memfd_create("fatbin", 0);
    size_t text = strlen(ptx), n = 16 + 80 + text;
    static unsigned char image[1 << 17];
    memset(image, 0, 96);
    memcpy(image, "\x50\xed\x55\xba\1\0\x10\0", 8);
    memcpy(image + 8, &(uint64_t){80 + text}, 8);
    memcpy(image + 16, "\1\0\1\1\x50\0\0\0", 8);
    memcpy(image + 24, &(uint64_t){text}, 8);
    image[16 + 28] = 80;
    memcpy(image + 96, ptx, text);
    for (unsigned i = rnd(6); i > 0; i--)
        image[rnd(4) ? rnd(96) : rnd((uint32_t)n)] = (unsigned char)(rnd(2) ? rnd(256) : 0xff);
    if (!rnd(4)) n = rnd((uint32_t)n);
    char path[64];
    CUmodule m;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (ftruncate(fd, 0) || pwrite(fd, image, n, 0) != (ssize_t)n) return;
    if (cuModuleLoad(&m, path) == CUDA_SUCCESS) keep(m);
}

enum { GRAIN = 2 << 20 };
static CUdeviceptr range(void) {
    CUdeviceptr a = (uintptr_t)any();
    return rnd(4) ? a + (uint64_t)rnd(4) * GRAIN : a + rnd(300);
}

static void call_virtual(void) {
    CUdeviceptr p = 0, other = 0;
    CUmemGenericAllocationHandle h;
    CUgraphNode node = any();
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc desc = {.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}, .flags = (CUmemAccess_flags)small()};
    CUDA_MEM_ALLOC_NODE_PARAMS a = {.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                                  .location = {CU_MEM_LOCATION_TYPE_DEVICE, (int)!rnd(20)}},
                                    .bytesize = size()};
    CUmemcpyAttributes attr = {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};
    CUstream s = any();
    size_t bytes = rnd(8) ? (size_t)GRAIN << rnd(3) : size(), first = 0;
    switch (rnd(16)) {
    case 0:
        if (cuMemAddressReserve(rnd(20) ? &p : NULL, bytes, rnd(4) ? 0 : size(), 0, 0) == CUDA_SUCCESS)
            keep((void *)(uintptr_t)p);
        break;
    case 1:
        cuMemAddressFree(range(), bytes);
        break;
    case 2:
        if (cuMemCreate(rnd(20) ? &h : NULL, bytes, &prop, 0) == CUDA_SUCCESS) keep((void *)(uintptr_t)h);
        break;
    case 3:
        cuMemRelease((uintptr_t)any());
        break;
    case 4:
    case 5:
        if (cuMemMap(range(), bytes, 0, (uintptr_t)any(), 0) == CUDA_SUCCESS && rnd(2))
            cuMemSetAccess(range(), bytes, &desc, 1);
        break;
    case 6:
        cuMemSetAccess(range(), bytes, rnd(20) ? &desc : NULL, small());
        break;
    case 7:
        cuMemUnmap(range(), bytes);
        break;
    case 8:
        if (cuMemRetainAllocationHandle(&h, (void *)(uintptr_t)range()) == CUDA_SUCCESS) keep((void *)(uintptr_t)h);
        break;
    case 9: /* whole, in use */
        if (cuMemAddressReserve(&p, 2 * GRAIN, 0, 0, 0) != CUDA_SUCCESS ||
            cuMemCreate(&h, GRAIN, &prop, 0) != CUDA_SUCCESS)
            break;
        keep((void *)(uintptr_t)p), keep((void *)(uintptr_t)h);
        desc.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        if (cuMemMap(p, GRAIN, 0, h, 0) == CUDA_SUCCESS) cuMemSetAccess(p, GRAIN, &desc, 1);
        cuMemsetD8(p + rnd(GRAIN), 1, size());
        break;
    case 10:
        if (cuGraphAddMemAllocNode(&node, any(), &node, rnd(2), &a) == CUDA_SUCCESS) {
            keep(node);
            handles[rnd(SLOTS)] = a.dptr;
        }
        break;
    case 11:
        if (cuGraphAddMemFreeNode(&node, any(), &node, rnd(2), address()) == CUDA_SUCCESS) keep(node);
        break;
    case 12:
        cuGraphMemAllocNodeGetParams(any(), &a);
        cuGraphMemFreeNodeGetParams(any(), &p);
        break;
    case 13: /* the word is of its own: what is never written would be waited for for ever */
        if (cuMemAlloc(&p, 8) != CUDA_SUCCESS) break;
        if (cuStreamWriteValue32(s, p, 5, 0) == CUDA_SUCCESS) cuStreamWaitValue32(s, p, 5, CU_STREAM_WAIT_VALUE_EQ);
        handles[rnd(SLOTS)] = p;
        break;
    case 14:
        cuStreamWriteValue64(s, address(), 7, small());
        break;
    default:
        p = address(), other = (uintptr_t)host(), bytes = host_size();
        cuMemcpyBatchAsync(&p, &other, &bytes, 1, &attr, &first, small(), s);
    }
}

static void sequence(void) {
    CUcontext c;
    memset(handles, 0, sizeof handles);
    if (cuDevicePrimaryCtxRetain(&c, 0) == CUDA_SUCCESS) cuCtxSetCurrent(c);
    int calls = rnd(8) ? 20 + (int)rnd(31) : 200;
    for (int i = 0; i < calls; i++) {
        switch (rnd(18)) {
        case 0:
            call_context();
            break;
        case 1:
        case 2:
        case 3:
            call_memory();
            break;
        case 4:
        case 5:
            call_copy();
            break;
        case 6:
        case 7:
            call_stream();
            break;
        case 8:
        case 9:
            call_module();
            break;
        case 10:
        case 11:
            call_launch();
            break;
        case 12:
            if (!rnd(8)) call_fatbin();
            break;
        case 13:
        case 14:
            call_virtual();
            break;
        default:
            call_graph();
        }
        if (i % 50 == 49 && cuCtxSynchronize() >= CUDA_ERROR_ILLEGAL_ADDRESS) cuDevicePrimaryCtxReset(0);
    }
    CUcontext top;
    while (cuCtxGetCurrent(&top) == CUDA_SUCCESS && top) cuCtxPopCurrent(&top);
    while (n_made) {
        void *h = (void *)(uintptr_t)made[--n_made];
        for (int part = 0; part < 8; part++)
            for (int width = 4; width; width /= 2)
                cuMemUnmap((uintptr_t)h + (uint64_t)part * GRAIN, (size_t)width * GRAIN);
        for (int width = 4; width; width /= 2) cuMemAddressFree((uintptr_t)h, (size_t)width * GRAIN);
        while (cuMemRelease((uintptr_t)h) == CUDA_SUCCESS) {
        }
        cuGraphDestroy(h);
        cuGraphExecDestroy(h);
        cuLibraryUnload(h);
        cuMemPoolDestroy(h);
        cuCtxDestroy(h);
    }
    cuDevicePrimaryCtxReset(0);
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    uint64_t only = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    uint64_t first = argc > 3 ? strtoull(argv[3], NULL, 10) : 0, n = first;
    FILE *f = fopen(KERNELS, "r");
    if (!f || fread(ptx, 1, sizeof ptx - 1, f) == 0) {
        printf("FAIL fuzz_api: cannot read %s\n", KERNELS);
        return 1;
    }
    fclose(f);
    signal(SIGSEGV, crashed);
    signal(SIGBUS, crashed);
    signal(SIGABRT, crashed);
    signal(SIGFPE, crashed);
    if (!freopen("/dev/null", "w", stderr)) return 1; /* findings are expected here */
    setenv("KGEN_PTXVM_MEMORY", "16M", 0);            /* sequences ask for all they can get */
    if (cuInit(0) != CUDA_SUCCESS) {
        printf("FAIL fuzz_api: cuInit\n");
        return 1;
    }
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        seed = only ? only : ++n * 0x9e3779b97f4a7c15ull;
        state = seed | 1;
        sequence();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (!only && (double)(now.tv_sec - start.tv_sec) + 1e-9 * (double)(now.tv_nsec - start.tv_nsec) < seconds);
    printf("ok fuzz_api (%llu sequences of 20 to 200 calls)\n", (unsigned long long)(n - first));
    return 0;
}
