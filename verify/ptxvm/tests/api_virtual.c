/* Memory that comes and goes at fixed addresses: virtual memory management, memory of graphs and of captures; words
 * that streams write and wait for; batches of copies. */
#include "verify/ptxvm/tests/api.h"
#include <unistd.h>

enum { GRAIN = 2 << 20 };

static CUmemAllocationProp device_memory(void) {
    CUmemAllocationProp p = {.type = CU_MEM_ALLOCATION_TYPE_PINNED};
    p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    return p;
}
static const CUmemAccessDesc both = {{.type = CU_MEM_LOCATION_TYPE_DEVICE}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

static void affine(CUdeviceptr p, int k, CUstream s) {
    void *params[] = {&p, &k};
    launch1(kernel("affine"), 1, 32, s, params);
}

/* A buffer that grows in place, as allocators of frameworks do it. */
static void mapped_memory_is_one_range(void) {
    CUmemAllocationProp prop = device_memory();
    size_t grain;
    CUdeviceptr base;
    CUmemGenericAllocationHandle h[2];
    OK(cuMemGetAllocationGranularity(&grain, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK(grain == GRAIN);
    OK(cuMemAddressReserve(&base, 8 * grain, 0, 0, 0));
    CHECK(base % grain == 0);
    int got[32];
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(base, 1, 32)); /* nothing is there yet */
    for (int i = 0; i < 2; i++) {
        OK(cuMemCreate(&h[i], grain, &prop, 0));
        OK(cuMemMap(base + i * grain, grain, 0, h[i], 0));
    }
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(base, 1, 32)); /* no access yet */
    OK(cuMemSetAccess(base, 2 * grain, &both, 1));
    OK(cuMemsetD32(base, 3, 2 * grain / 4)); /* over the seam */
    affine(base + grain - 64, 2, NULL);
    OK(cuMemcpyDtoH(got, base + grain - 64, sizeof got));
    for (int i = 0; i < 32; i++) CHECK(got[i] == 6 + i);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(base + grain, 0, grain + 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree(base));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(base, 8 * grain)); /* still mapped */
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(base, grain / 2));
    OK(cuMemUnmap(base, 2 * grain));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(got, base, 4));
    for (int i = 0; i < 2; i++) OK(cuMemRelease(h[i]));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemRelease(h[0]));
    OK(cuMemAddressFree(base, 8 * grain));
}

static void contents_stay_with_physical_memory(void) {
    CUmemAllocationProp prop = device_memory();
    CUdeviceptr base;
    CUmemGenericAllocationHandle h, again;
    size_t free0, free1, total;
    OK(cuMemGetInfo(&free0, &total));
    OK(cuMemAddressReserve(&base, 4 * GRAIN, 0, 0, 0));
    OK(cuMemCreate(&h, GRAIN, &prop, 0));
    OK(cuMemGetInfo(&free1, &total));
    CHECK(free0 - free1 == GRAIN);
    OK(cuMemMap(base, GRAIN, 0, h, 0));
    OK(cuMemSetAccess(base, GRAIN, &both, 1));
    OK(cuMemsetD32(base, 42, GRAIN / 4));
    OK(cuMemUnmap(base, GRAIN));
    OK(cuMemMap(base + 2 * GRAIN, GRAIN, 0, h, 0));
    OK(cuMemSetAccess(base + 2 * GRAIN, GRAIN, &both, 1));
    int got = 0;
    OK(cuMemcpyDtoH(&got, base + 3 * GRAIN - 4, 4));
    CHECK(got == 42);
    OK(cuMemRelease(h)); /* lives on while it is mapped */
    OK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)(base + 2 * GRAIN + 8)));
    OK(cuMemRelease(again));
    affine(base, 1, NULL); /* unmapped */
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    OK(cuMemUnmap(base + 2 * GRAIN, GRAIN));
    OK(cuMemAddressFree(base, 4 * GRAIN));
}

/* alloc, fill, affine, copy out, free: the same graph by nodes and by capture. */
static CUgraph graph_by_nodes(int *out, CUdeviceptr *p) {
    CUgraph g;
    CUgraphNode alloc, fill, run, copy, end;
    CUDA_MEM_ALLOC_NODE_PARAMS a = {.bytesize = 128};
    a.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    a.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    OK(cuGraphCreate(&g, 0));
    OK(cuGraphAddMemAllocNode(&alloc, g, NULL, 0, &a));
    *p = a.dptr;
    CUDA_MEMSET_NODE_PARAMS set = {.dst = *p, .value = 5, .elementSize = 4, .width = 32, .height = 1};
    OK(cuGraphAddMemsetNode(&fill, g, &alloc, 1, &set, ctx));
    int k = 2;
    void *params[] = {p, &k};
    CUDA_KERNEL_NODE_PARAMS n = {.func = kernel("affine"),
                                 .gridDimX = 1,
                                 .gridDimY = 1,
                                 .gridDimZ = 1,
                                 .blockDimX = 32,
                                 .blockDimY = 1,
                                 .blockDimZ = 1,
                                 .kernelParams = params};
    OK(cuGraphAddKernelNode(&run, g, &fill, 1, &n));
    CUDA_MEMCPY3D c = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                       .srcDevice = *p,
                       .dstMemoryType = CU_MEMORYTYPE_HOST,
                       .dstHost = out,
                       .WidthInBytes = 128,
                       .Height = 1,
                       .Depth = 1};
    OK(cuGraphAddMemcpyNode(&copy, g, &run, 1, &c, ctx));
    OK(cuGraphAddMemFreeNode(&end, g, &copy, 1, *p));
    CUgraphNodeType type;
    OK(cuGraphNodeGetType(alloc, &type));
    CHECK(type == CU_GRAPH_NODE_TYPE_MEM_ALLOC);
    CUdeviceptr freed;
    OK(cuGraphMemFreeNodeGetParams(end, &freed));
    CHECK(freed == *p);
    return g;
}
static CUgraph graph_by_capture(int *out, CUdeviceptr *p, bool frees) {
    CUstream s;
    CUgraph g;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuMemAllocAsync(p, 128, s));
    OK(cuMemsetD32Async(*p, 5, 32, s));
    affine(*p, 2, s);
    OK(cuMemcpyDtoHAsync(out, *p, 128, s));
    if (frees) OK(cuMemFreeAsync(*p, s));
    OK(cuStreamEndCapture(s, &g));
    OK(cuStreamDestroy(s));
    return g;
}

static void graphs_allocate(void) {
    for (int by = 0; by < 2; by++) {
        int out[32];
        CUdeviceptr p;
        CUgraph g = by ? graph_by_capture(out, &p, true) : graph_by_nodes(out, &p);
        CUgraphExec e;
        OK(cuGraphInstantiate(&e, g, 0));
        for (int round = 0; round < 3; round++) {
            memset(out, 0, sizeof out);
            OK(cuGraphLaunch(e, NULL));
            OK(cuCtxSynchronize());
            for (int i = 0; i < 32; i++) CHECK(out[i] == 10 + i);
            EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(out, p, 128)); /* gone with the launch */
        }
        cuuint64_t used = 1;
        OK(cuDeviceGetGraphMemAttribute(0, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &used));
        CHECK(used == 0);
        OK(cuGraphExecDestroy(e));
        OK(cuGraphDestroy(g));
    }
}
static void graph_memory_outlives_the_launch(void) {
    int out[32], got;
    CUdeviceptr p;
    CUgraph g = graph_by_capture(out, &p, false);
    CUgraphExec e, again;
    OK(cuGraphInstantiate(&e, g, 0));
    OK(cuGraphInstantiate(&again, g, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
    OK(cuGraphLaunch(e, NULL));
    OK(cuMemcpyDtoH(&got, p + 4, 4));
    CHECK(got == 11);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(e, NULL)); /* it has not been freed */
    OK(cuGraphLaunch(again, NULL));
    OK(cuGraphLaunch(again, NULL));
    OK(cuGraphExecDestroy(e));
    OK(cuGraphExecDestroy(again));
    OK(cuGraphDestroy(g));
    OK(cuMemcpyDtoH(&got, p + 8, 4));
    CHECK(got == 12);
    OK(cuMemFreeAsync(p, NULL));
    affine(p, 1, NULL);
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
}

static void streams_wait_for_words(void) {
    CUstream a, b;
    int zeros[32] = {0}, got[32];
    CUdeviceptr p = device_ints(zeros, 32), flag = device_ints(zeros, 2);
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuStreamWaitValue32(a, flag, 3, CU_STREAM_WAIT_VALUE_GEQ));
    affine(p, 1, a);
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(a));
    OK(cuStreamWriteValue32(b, flag, 2, 0));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(a));
    OK(cuStreamWriteValue32(b, flag, 3, 0));
    OK(cuStreamSynchronize(a));
    OK(cuMemcpyDtoH(got, p, sizeof got));
    CHECK(got[7] == 7);
    volatile uint64_t *host;
    OK(cuMemAllocHost((void **)&host, 8));
    *host = 1;
    OK(cuStreamWaitValue64(a, (CUdeviceptr)(uintptr_t)host, 6, CU_STREAM_WAIT_VALUE_AND));
    affine(p, 1, a);
    usleep(3000);
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(a));
    *host = 4; /* nobody is told */
    OK(cuStreamSynchronize(a));
    OK(cuMemcpyDtoH(got, p, sizeof got));
    CHECK(got[7] == 14);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32(a, flag + 2, 0, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue64(a, flag + 4, 0, 0));
    CUstreamBatchMemOpParams ops[2] = {{.writeValue = {CU_STREAM_MEM_OP_WRITE_VALUE_32, flag, {9}, 0, 0}},
                                       {.waitValue = {CU_STREAM_MEM_OP_WAIT_VALUE_32, flag, {9}, 1, 0}}};
    OK(cuStreamBatchMemOp(a, 2, ops, 0));
    OK(cuStreamSynchronize(a));
    OK(cuMemcpyDtoH(got, flag, 4));
    CHECK(got[0] == 9);
}

static void copies_in_batches(void) {
    int from[2] = {5, 6}, to[2] = {0};
    CUdeviceptr p = device_ints(NULL, 2);
    CUstream s;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    CUdeviceptr dsts[] = {p, p + 4}, srcs[] = {(uintptr_t)&from[1], (uintptr_t)&from[0]};
    size_t sizes[] = {4, 4}, first = 0;
    CUmemcpyAttributes attr = {.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM};
    OK(cuMemcpyBatchAsync(dsts, srcs, sizes, 2, &attr, &first, 1, s));
    OK(cuStreamSynchronize(s));
    CUDA_MEMCPY3D_PEER c = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                            .srcDevice = p,
                            .srcContext = ctx,
                            .dstMemoryType = CU_MEMORYTYPE_HOST,
                            .dstHost = to,
                            .dstContext = ctx,
                            .WidthInBytes = 8,
                            .Height = 1,
                            .Depth = 1};
    OK(cuMemcpy3DPeer(&c));
    CHECK(to[0] == 6 && to[1] == 5);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyBatchAsync(dsts, srcs, sizes, 2, &attr, &first, 1, NULL));
}

static void graphs_are_drawn(void) {
    int out[32];
    CUdeviceptr p;
    CUgraph g = graph_by_capture(out, &p, true);
    char path[] = "/tmp/ptxvm-dot-XXXXXX", text[2000];
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    OK(cuGraphDebugDotPrint(g, path, 0));
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    unlink(path);
    CHECK(n > 0);
    text[n] = 0;
    CHECK(strstr(text, "MEM_ALLOC") && strstr(text, "KERNEL affine") && strstr(text, "\"node_0\" -> \"node_1\""));
    OK(cuGraphDestroy(g));
}

static const struct test tests[] = {
    {"mapped_memory_is_one_range", mapped_memory_is_one_range},
    {"contents_stay_with_physical_memory", contents_stay_with_physical_memory},
    {"graphs_allocate", graphs_allocate},
    {"graph_memory_outlives_the_launch", graph_memory_outlives_the_launch},
    {"streams_wait_for_words", streams_wait_for_words},
    {"copies_in_batches", copies_in_batches},
    {"graphs_are_drawn", graphs_are_drawn},
};

int main(void) {
    return RUN(tests);
}
