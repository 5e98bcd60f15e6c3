/* One planted defect a kernel: the PTX line that the machine names must hold the instruction that the test expects. */
#include <cuda_pipeline.h>

extern "C" __global__ void load_past_end(const int *x, int *y) { y[threadIdx.x] = x[threadIdx.x + 1] + 17; }
extern "C" __global__ void store_past_end(int *y) { y[threadIdx.x * 2] = 5; }
extern "C" __global__ void store_before(int *y) { y[(int)threadIdx.x - 1] = 5; }
extern "C" __global__ void null_pointer(int *y) { *y = 1; }
extern "C" __global__ void after_free(int *y) { y[threadIdx.x] = 3; }
extern "C" __global__ void misaligned(char *y) { *(int *)(y + threadIdx.x * 4 + 2) = 1; }
extern "C" __global__ void misaligned_vector(float *y) { *(float4 *)(y + 2 + threadIdx.x * 4) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void uninitialized(const int *x, int *y) { y[threadIdx.x] = x[threadIdx.x]; }
extern "C" __global__ void shared_past_end(int *y) {
    __shared__ int s[32];
    s[threadIdx.x + y[0]] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void dynamic_past_end(int *y) {
    extern __shared__ int d[];
    d[threadIdx.x + 1] = 1;
    __syncthreads();
    y[threadIdx.x] = d[threadIdx.x + 1];
}
extern "C" __global__ void shared_uninitialized(int *y) {
    __shared__ int s[64];
    if (threadIdx.x < 31) s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void local_uninitialized(int *y) {
    int a[16];
    for (int i = 0; i < y[0]; i++) a[i * 3 & 15] = i;
    y[threadIdx.x] = a[y[1] & 15];
}
extern "C" __global__ void race_no_barrier(int *y) {
    __shared__ int s[64];
    s[threadIdx.x] = y[0];
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void race_write_after_read(int *y) { /* the barrier at the loop's end is missing */
    __shared__ int s[64];
    int v = 0;
    for (int r = 0; r < 2; r++) {
        s[threadIdx.x] = r;
        __syncthreads();
        v += s[63 - threadIdx.x];
    }
    y[threadIdx.x] = v;
}
extern "C" __global__ void race_two_writers(int *y) {
    __shared__ int s[32];
    s[threadIdx.x / 2] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x / 2];
}
extern "C" __global__ void race_in_warp(int *y) {
    __shared__ int s[32];
    s[threadIdx.x] = y[0];
    __syncthreads();
    s[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = s[31 - threadIdx.x];
}
extern "C" __global__ void divergent_barrier(int *y) {
    if (threadIdx.x % 32 < 16) {
        y[threadIdx.x] = 1;
        asm volatile("bar.sync 0;" ::: "memory");
    } else {
        y[threadIdx.x] = 2;
        asm volatile("bar.sync 0;" ::: "memory");
        y[threadIdx.x] = 3;
    }
}
extern "C" __global__ void lonely_barrier(int *y) {
    if (threadIdx.x < 40) __syncthreads();
    y[threadIdx.x] = 1;
}
extern "C" __global__ void shuffle_inactive(int *y) {
    int v = threadIdx.x, r = 0;
    if (threadIdx.x < 16) r = __shfl_sync(0xffff, v, threadIdx.x + 8);
    y[threadIdx.x] = r;
}
extern "C" __global__ void shuffle_mask(int *y) { y[threadIdx.x] = __shfl_xor_sync(0xffff, threadIdx.x, 1); }
extern "C" __global__ void async_no_wait(const int *x, int *y) {
    __shared__ __align__(16) int s[128];
    __pipeline_memcpy_async(&s[threadIdx.x * 4], x + threadIdx.x * 4, 16);
    __pipeline_commit();
    y[threadIdx.x] = s[threadIdx.x * 4];
}
extern "C" __global__ void async_no_barrier(const int *x, int *y) {
    __shared__ __align__(16) int s[128];
    __pipeline_memcpy_async(&s[threadIdx.x * 4], x + threadIdx.x * 4, 16);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    y[threadIdx.x] = s[(31 - threadIdx.x) * 4];
}
extern "C" __global__ void atomic_past_end(int *y) { atomicAdd(y + 32 + threadIdx.x, 1); }
extern "C" __global__ void trapped(int *y) {
    if (y[0] == 0) __trap();
}
extern "C" __global__ void deadlocked(int *y) { /* only the first warp comes to a barrier for two */
    if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");
    y[threadIdx.x] = 1;
}
extern "C" __global__ void const_pointer(const int *__restrict__ x, int *y) { y[threadIdx.x] = __ldg(x + threadIdx.x + 100); }
extern "C" __global__ void __launch_bounds__(64) tiled_overrun(const float *x, float *y, int n) {
    __shared__ float s[64];
    s[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];
}
