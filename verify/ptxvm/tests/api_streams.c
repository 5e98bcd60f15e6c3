/* Streams, events, host functions: order, waiting, readiness, priorities, threads. */
#include "verify/ptxvm/tests/api.h"
#include <pthread.h>
#include <unistd.h>

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int open, entered;
};

static void gate_wait(void *arg) {
    struct gate *g = arg;
    pthread_mutex_lock(&g->lock);
    g->entered = 1;
    pthread_cond_broadcast(&g->changed);
    while (!g->open) pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(struct gate *g) {
    pthread_mutex_lock(&g->lock);
    g->open = 1;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

#define GATE                                                                                                           \
    { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 }

static void affine(CUdeviceptr p, int k, CUstream s) {
    void *params[] = {&p, &k};
    launch1(kernel("affine"), 1, 32, s, params);
}

/* What follows a host function in its stream waits for it; other streams do not. */
static void work_behind_a_host_function_waits(void) {
    CUstream a, b;
    CUevent done;
    struct gate g = GATE;
    int ones[32], got[32];
    for (int i = 0; i < 32; i++) ones[i] = 1;
    CUdeviceptr p = device_ints(ones, 32), q = device_ints(ones, 32);
    OK(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&done, CU_EVENT_DISABLE_TIMING));
    OK(cuLaunchHostFunc(a, gate_wait, &g));
    affine(p, 10, a);
    OK(cuEventRecord(done, a));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(a));
    EXPECT(CUDA_ERROR_NOT_READY, cuEventQuery(done));
    affine(q, 10, b);
    OK(cuStreamSynchronize(b));
    OK(cuMemcpyDtoHAsync(got, q, sizeof got, b));
    OK(cuStreamSynchronize(b));
    CHECK(got[5] == 15);
    OK(cuStreamWaitEvent(b, done, 0)); /* now b waits for a */
    affine(p, 1, b);
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(b));
    gate_open(&g);
    OK(cuStreamSynchronize(b));
    OK(cuEventQuery(done));
    OK(cuMemcpyDtoH(got, p, sizeof got));
    for (int i = 0; i < 32; i++) CHECK(got[i] == 10 + 2 * i);
    OK(cuStreamDestroy(a));
    OK(cuStreamDestroy(b));
    OK(cuEventDestroy(done));
}

static void legacy_stream_waits_for_blocking_streams(void) {
    CUstream a;
    struct gate g = GATE;
    int ones[32], got[32];
    for (int i = 0; i < 32; i++) ones[i] = 1;
    CUdeviceptr p = device_ints(ones, 32);
    OK(cuStreamCreate(&a, CU_STREAM_DEFAULT));
    OK(cuLaunchHostFunc(a, gate_wait, &g));
    affine(p, 3, NULL); /* the default stream: behind a */
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(NULL));
    gate_open(&g);
    OK(cuStreamSynchronize(NULL));
    OK(cuStreamQuery(a));
    OK(cuMemcpyDtoH(got, p, sizeof got));
    CHECK(got[7] == 10);
    OK(cuStreamDestroy(a));
}

static void events_measure_time(void) {
    CUevent a, b, silent;
    float ms = -1;
    OK(cuEventCreate(&a, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&b, CU_EVENT_DEFAULT));
    OK(cuEventCreate(&silent, CU_EVENT_DISABLE_TIMING));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, a, b)); /* never recorded */
    OK(cuEventQuery(a));
    OK(cuEventRecord(a, NULL));
    usleep(20000);
    OK(cuEventRecord(b, NULL));
    OK(cuEventRecord(silent, NULL));
    OK(cuEventSynchronize(b));
    OK(cuEventElapsedTime(&ms, a, b));
    CHECK(ms >= 19 && ms < 5000);
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, a, silent));
    OK(cuEventDestroy(a));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventDestroy(a));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(a, NULL));
}

struct seen {
    CUstream stream;
    CUresult status;
    int n;
};

static void CUDA_CB callback(CUstream s, CUresult status, void *arg) {
    struct seen *seen = arg;
    seen->stream = s;
    seen->status = status;
    seen->n++;
}

static void callbacks_see_their_stream(void) {
    CUstream s;
    struct seen seen = {NULL, CUDA_ERROR_UNKNOWN, 0};
    OK(cuStreamCreate(&s, 0));
    OK(cuStreamAddCallback(s, callback, &seen, 0));
    OK(cuStreamSynchronize(s));
    CHECK(seen.n == 1 && seen.stream == s && seen.status == CUDA_SUCCESS);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamAddCallback(s, NULL, NULL, 0));
    OK(cuStreamDestroy(s));
}

static void call_back_in(void *arg) {
    *(CUresult *)arg = cuStreamSynchronize(NULL);
}

static void host_functions_may_not_call(void) {
    CUresult r = CUDA_SUCCESS;
    OK(cuLaunchHostFunc(NULL, call_back_in, &r));
    OK(cuCtxSynchronize());
    CHECK(r == CUDA_ERROR_NOT_PERMITTED);
}

static void stream_properties(void) {
    CUstream s;
    int least, greatest, priority;
    unsigned flags;
    unsigned long long id, other;
    CUcontext c;
    OK(cuCtxGetStreamPriorityRange(&least, &greatest));
    CHECK(greatest < least);
    OK(cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, greatest - 100)); /* clamped */
    OK(cuStreamGetPriority(s, &priority));
    CHECK(priority == greatest);
    OK(cuStreamGetFlags(s, &flags));
    CHECK(flags == CU_STREAM_NON_BLOCKING);
    OK(cuStreamGetCtx(s, &c));
    CHECK(c == ctx);
    OK(cuStreamGetId(s, &id));
    OK(cuStreamGetId(NULL, &other));
    CHECK(id != other);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(&s, 0x80));
    OK(cuStreamDestroy(s));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(s));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamDestroy(NULL));
}

enum { THREADS = 4, ROUNDS = 50 };
static CUresult worst[THREADS];
static int wrong[THREADS];

static void *thread_main(void *arg) {
    int t = (int)(intptr_t)arg;
    CUresult r = cuCtxSetCurrent(ctx);
    CUstream s;
    CUfunction f;
    CUdeviceptr p = 0;
    if (r == CUDA_SUCCESS) r = cuModuleGetFunction(&f, kernels, "affine");
    if (r == CUDA_SUCCESS) r = t % 2 ? cuStreamCreate(&s, CU_STREAM_NON_BLOCKING) : CUDA_SUCCESS;
    if (!(t % 2)) s = CU_STREAM_PER_THREAD;
    for (int i = 0; i < ROUNDS && r == CUDA_SUCCESS; i++) {
        int data[32], two = 2;
        for (int j = 0; j < 32; j++) data[j] = i + t;
        void *params[] = {&p, &two};
        r = cuMemAlloc(&p, sizeof data);
        if (r == CUDA_SUCCESS) r = cuMemcpyHtoDAsync(p, data, sizeof data, s);
        if (r == CUDA_SUCCESS) r = cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, params, NULL);
        if (r == CUDA_SUCCESS) r = cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, params, NULL);
        if (r == CUDA_SUCCESS) r = cuMemcpyDtoHAsync(data, p, sizeof data, s);
        if (r == CUDA_SUCCESS) r = cuStreamSynchronize(s);
        for (int j = 0; j < 32; j++) wrong[t] += data[j] != ((i + t) * 2 + j) * 2 + j;
        if (r == CUDA_SUCCESS) r = cuMemFree(p);
    }
    if (t % 2 && r == CUDA_SUCCESS) r = cuStreamDestroy(s);
    worst[t] = r;
    return NULL;
}

static void threads_work_side_by_side(void) {
    pthread_t id[THREADS];
    for (int t = 0; t < THREADS; t++) pthread_create(&id[t], NULL, thread_main, (void *)(intptr_t)t);
    for (int t = 0; t < THREADS; t++) pthread_join(id[t], NULL);
    for (int t = 0; t < THREADS; t++) {
        OK(worst[t]);
        CHECK(wrong[t] == 0);
    }
}

static const struct test tests[] = {
    {"work_behind_a_host_function_waits", work_behind_a_host_function_waits},
    {"legacy_stream_waits_for_blocking_streams", legacy_stream_waits_for_blocking_streams},
    {"events_measure_time", events_measure_time},
    {"callbacks_see_their_stream", callbacks_see_their_stream},
    {"host_functions_may_not_call", host_functions_may_not_call},
    {"stream_properties", stream_properties},
    {"threads_work_side_by_side", threads_work_side_by_side},
};

int main(void) {
    return RUN(tests);
}
