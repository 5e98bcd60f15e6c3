/* Graphs: captured and explicit, relaunched with other parameters, updated, copied, refused. */
#include "verify/ptxvm/tests/api.h"
#include <unistd.h>

static int start[32], got[32];

static void fresh(CUdeviceptr p) {
    for (int i = 0; i < 32; i++) start[i] = i + 1;
    OK(cuMemcpyHtoD(p, start, sizeof start));
}

static void affine(CUdeviceptr p, int k, CUstream s) {
    void *params[] = {&p, &k};
    launch1(kernel("affine"), 1, 32, s, params);
}

static void expect_scaled(CUdeviceptr p, int factor, int lanes) {
    OK(cuMemcpyDtoH(got, p, sizeof got));
    for (int i = 0; i < 32; i++)
        if (got[i] != start[i] * factor + lanes * i)
            FAIL("word %d is %d, expected %d", i, got[i], start[i] * factor + lanes * i);
}

/* Captures two kernels, launches twice, changes one parameter, launches again. */
static void capture_relaunch_update_params(void) {
    CUstream s;
    CUgraph g;
    CUgraphExec e;
    CUgraphNode nodes[4];
    size_t n = 4;
    CUdeviceptr p = device_ints(NULL, 32);
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    fresh(p);
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CUstreamCaptureStatus status;
    OK(cuStreamIsCapturing(s, &status));
    CHECK(status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    affine(p, 2, s);
    affine(p, 3, s);
    OK(cuStreamEndCapture(s, &g));
    expect_scaled(p, 1, 0); /* nothing ran */
    OK(cuGraphGetNodes(g, nodes, &n));
    CHECK(n == 2 && nodes[2] == NULL);
    OK(cuGraphInstantiate(&e, g, 0));
    OK(cuGraphLaunch(e, s));
    OK(cuStreamSynchronize(s));
    expect_scaled(p, 6, 4);
    fresh(p);
    OK(cuGraphLaunch(e, s));
    OK(cuStreamSynchronize(s));
    expect_scaled(p, 6, 4);
    CUDA_KERNEL_NODE_PARAMS kp;
    OK(cuGraphKernelNodeGetParams(nodes[1], &kp));
    CHECK(kp.blockDimX == 32 && *(int *)kp.kernelParams[1] == 3);
    int ten = 10;
    void *params[] = {&p, &ten};
    kp.kernelParams = params;
    OK(cuGraphExecKernelNodeSetParams(e, nodes[1], &kp));
    fresh(p);
    OK(cuGraphLaunch(e, s));
    OK(cuStreamSynchronize(s));
    expect_scaled(p, 20, 11);
    OK(cuGraphNodeSetEnabled(e, nodes[1], 0));
    fresh(p);
    OK(cuGraphLaunch(e, s));
    OK(cuStreamSynchronize(s));
    expect_scaled(p, 2, 1);
    OK(cuGraphExecDestroy(e));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(e, s));
    OK(cuGraphDestroy(g));
    OK(cuStreamDestroy(s));
}

static void capture_across_streams(void) {
    CUstream a, b;
    CUevent fork, join;
    CUgraph g;
    CUgraphExec e;
    CUdeviceptr p = device_ints(NULL, 32), q = device_ints(NULL, 32);
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    fresh(p);
    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_RELAXED));
    affine(p, 2, a);
    OK(cuEventRecord(fork, a));
    OK(cuStreamWaitEvent(b, fork, 0));
    OK(cuMemcpyDtoDAsync(q, p, sizeof start, b));
    affine(p, 5, a);
    EXPECT(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(fork));
    OK(cuEventRecord(join, b));
    OK(cuStreamWaitEvent(a, join, 0));
    OK(cuMemsetD32Async(p, 42, 1, a));
    OK(cuStreamEndCapture(a, &g));
    CUstreamCaptureStatus status;
    OK(cuStreamIsCapturing(b, &status));
    CHECK(status == CU_STREAM_CAPTURE_STATUS_NONE);
    size_t edges = 0, roots = 0;
    OK(cuGraphGetEdges(g, NULL, NULL, NULL, &edges));
    OK(cuGraphGetRootNodes(g, NULL, &roots));
    CHECK(edges == 4 && roots == 1);
    OK(cuGraphInstantiate(&e, g, 0));
    OK(cuGraphLaunch(e, a));
    OK(cuStreamSynchronize(a));
    expect_scaled(q, 2, 1);
    OK(cuMemcpyDtoH(got, p, sizeof got));
    CHECK(got[0] == 42 && got[3] == start[3] * 10 + 6 * 3);
    OK(cuGraphExecDestroy(e));
    OK(cuGraphDestroy(g));
}

static void capture_refusals(void) {
    CUstream a, b;
    CUevent e;
    CUgraph g;
    CUdeviceptr p = device_ints(NULL, 32), q;
    fresh(p);
    OK(cuStreamCreate(&a, CU_STREAM_DEFAULT));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&e, 0));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL));
    EXPECT(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(a, &g));

    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL)); /* a synchronous call spoils it */
    EXPECT(CUDA_ERROR_ILLEGAL_STATE, cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(a));
    void *params[] = {&p, &(int){2}};
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
           cuLaunchKernel(kernel("affine"), 1, 1, 1, 32, 1, 1, 0, a, params, NULL));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(a, &g));
    CHECK(g == NULL);

    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL)); /* so does an allocation */
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc(&q, 4));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(a, &g));
    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_RELAXED)); /* unless the capture is relaxed */
    OK(cuMemAlloc(&q, 4));
    OK(cuStreamEndCapture(a, &g));
    OK(cuGraphDestroy(g));

    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)); /* the default stream would join it */
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
           cuLaunchKernel(kernel("affine"), 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(a, &g));

    OK(cuEventRecord(e, b)); /* an event from outside */
    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(a, e, 0));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(a, &g));

    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL)); /* b never comes back */
    OK(cuEventRecord(e, a));
    OK(cuStreamWaitEvent(b, e, 0));
    affine(p, 2, b);
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(b, &g));
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(a, &g));
    OK(cuStreamBeginCapture(a, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuEventRecord(e, a));
    OK(cuStreamWaitEvent(b, e, 0));
    affine(p, 2, b);
    EXPECT(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(a, &g));
    affine(p, 2, a); /* both streams work again */
    affine(p, 2, b);
    OK(cuCtxSynchronize());
}

static void bump(void *arg) {
    ++*(int *)arg;
}

static void explicit_graph_of_every_node(void) {
    CUgraph g, child;
    CUgraphNode set, kern, copy, host, empty, inner, sub, record;
    CUgraphExec e;
    CUevent event;
    int calls = 0, out[32];
    CUdeviceptr p = device_ints(NULL, 32);
    OK(cuGraphCreate(&g, 0));
    OK(cuGraphCreate(&child, 0));
    OK(cuEventCreate(&event, 0));
    CUDA_HOST_NODE_PARAMS hp = {.fn = bump, .userData = &calls};
    OK(cuGraphAddHostNode(&inner, child, NULL, 0, &hp));
    CUDA_MEMSET_NODE_PARAMS mp = {.dst = p, .value = 5, .elementSize = 4, .width = 32, .height = 1};
    OK(cuGraphAddMemsetNode(&set, g, NULL, 0, &mp, ctx));
    int three = 3;
    void *params[] = {&p, &three};
    CUDA_KERNEL_NODE_PARAMS kp = {.func = kernel("affine"),
                                  .gridDimX = 1,
                                  .gridDimY = 1,
                                  .gridDimZ = 1,
                                  .blockDimX = 32,
                                  .blockDimY = 1,
                                  .blockDimZ = 1,
                                  .kernelParams = params};
    OK(cuGraphAddKernelNode(&kern, g, &set, 1, &kp));
    CUDA_MEMCPY3D cp = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                        .srcDevice = p,
                        .dstMemoryType = CU_MEMORYTYPE_HOST,
                        .dstHost = out,
                        .WidthInBytes = sizeof out,
                        .Height = 1,
                        .Depth = 1};
    OK(cuGraphAddMemcpyNode(&copy, g, &kern, 1, &cp, ctx));
    OK(cuGraphAddEmptyNode(&empty, g, &copy, 1));
    OK(cuGraphAddHostNode(&host, g, &empty, 1, &hp));
    OK(cuGraphAddChildGraphNode(&sub, g, &host, 1, child));
    OK(cuGraphAddEventRecordNode(&record, g, &sub, 1, event));
    CUgraphNodeType type;
    OK(cuGraphNodeGetType(sub, &type));
    CHECK(type == CU_GRAPH_NODE_TYPE_GRAPH);
    size_t n = 0;
    OK(cuGraphNodeGetDependentNodes(set, NULL, NULL, &n));
    CHECK(n == 1);
    OK(cuGraphInstantiate(&e, g, 0));
    OK(cuGraphLaunch(e, CU_STREAM_PER_THREAD));
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    OK(cuEventSynchronize(event));
    CHECK(calls == 2);
    for (int i = 0; i < 32; i++) CHECK(out[i] == 15 + i);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphAddEmptyNode(&empty, child, &set, 1)); /* a node of another graph */
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphDestroyNode((CUgraphNode)g));
    CUgraphNode to = set, from = record;
    OK(cuGraphAddDependencies(g, &from, &to, NULL, 1)); /* a cycle */
    CUgraphExec f;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiate(&f, g, 0));
    OK(cuGraphRemoveDependencies(g, &from, &to, NULL, 1));
    OK(cuGraphInstantiate(&f, g, 0));
    OK(cuGraphExecDestroy(e));
    OK(cuGraphExecDestroy(f));
    OK(cuGraphDestroy(g));
    OK(cuGraphDestroy(child));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy(child));
}

static CUgraph captured(CUstream s, CUdeviceptr p, int k, int kernels_wanted) {
    CUgraph g;
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    for (int i = 0; i < kernels_wanted; i++) affine(p, k, s);
    OK(cuStreamEndCapture(s, &g));
    return g;
}

static void whole_graph_update(void) {
    CUstream s;
    CUgraphExec e;
    CUgraphExecUpdateResultInfo info;
    CUdeviceptr p = device_ints(NULL, 32);
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    CUgraph a = captured(s, p, 2, 1), b = captured(s, p, 7, 1), c = captured(s, p, 7, 2);
    OK(cuGraphInstantiate(&e, a, 0));
    OK(cuGraphExecUpdate(e, b, &info));
    CHECK(info.result == CU_GRAPH_EXEC_UPDATE_SUCCESS);
    fresh(p);
    OK(cuGraphLaunch(e, s));
    OK(cuStreamSynchronize(s));
    expect_scaled(p, 7, 1);
    EXPECT(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(e, c, &info));
    CHECK(info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    CUgraph copy;
    CUgraphNode node, twin;
    size_t n = 1;
    OK(cuGraphClone(&copy, a));
    OK(cuGraphGetNodes(a, &node, &n));
    OK(cuGraphNodeFindInClone(&twin, node, copy));
    CHECK(twin && twin != node);
    /* a graph launched inside a capture becomes a child node */
    CUgraph outer;
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuGraphLaunch(e, s));
    OK(cuStreamEndCapture(s, &outer));
    n = 1;
    CUgraphNodeType type;
    OK(cuGraphGetNodes(outer, &node, &n));
    OK(cuGraphNodeGetType(node, &type));
    CHECK(n == 1 && type == CU_GRAPH_NODE_TYPE_GRAPH);
}

static void user_objects_live_as_long_as_graphs(void) {
    CUgraph g;
    CUgraphExec e;
    CUgraphNode n;
    CUuserObject o;
    static volatile int gone;
    gone = 0;
    OK(cuGraphCreate(&g, 0));
    OK(cuGraphAddEmptyNode(&n, g, NULL, 0));
    OK(cuUserObjectCreate(&o, (void *)&gone, bump, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    OK(cuGraphRetainUserObject(g, o, 1, CU_GRAPH_USER_OBJECT_MOVE));
    OK(cuGraphInstantiate(&e, g, 0));
    OK(cuGraphDestroy(g));
    usleep(20000);
    CHECK(gone == 0); /* the executable holds it */
    OK(cuGraphExecDestroy(e));
    for (int i = 0; i < 1000 && !gone; i++) usleep(1000);
    CHECK(gone == 1);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuUserObjectRelease(o, 1));
}

static const struct test tests[] = {
    {"capture_relaunch_update_params", capture_relaunch_update_params},
    {"capture_across_streams", capture_across_streams},
    {"capture_refusals", capture_refusals},
    {"explicit_graph_of_every_node", explicit_graph_of_every_node},
    {"whole_graph_update", whole_graph_update},
    {"user_objects_live_as_long_as_graphs", user_objects_live_as_long_as_graphs},
};

int main(void) {
    return RUN(tests);
}
