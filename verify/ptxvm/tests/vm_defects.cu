/* One planted defect a kernel: the PTX line that the machine names must hold the instruction that the test expects. */
#include <assert.h>
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

/* What programs do wrong in the field: x holds 1 … 128 (and 8 ints that nobody wrote), y 512 zeros, n is 128. */
#define FIELD(name) extern "C" __global__ void name(const int *x, int *y, int n)
__constant__ int table[16];

FIELD(index_before) { y[threadIdx.x] = x[threadIdx.x] - x[(int)threadIdx.x - 1]; }
FIELD(loop_to_n) {
    for (int i = threadIdx.x; i <= 4 * n; i += 32) y[i] = x[i % n];
}
FIELD(shared_before) {
    __shared__ int s[64];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[(int)threadIdx.x - 1];
}
FIELD(shared_neighbour) {
    __shared__ int s[64], t[8];
    if (threadIdx.x < 8) t[threadIdx.x] = x[threadIdx.x];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x + 1] + t[threadIdx.x % 8];
}
FIELD(local_past_end) {
    int a[8];
    for (int k = 0; k < 8; k++) a[k] = x[k] + threadIdx.x;
    a[x[7]] = 3;
    y[threadIdx.x] = a[x[2]];
}
FIELD(constant_past_end) { y[threadIdx.x] = table[threadIdx.x]; }
FIELD(misaligned_atomic) { atomicAdd((unsigned long long *)(y + 1), 1ull); }
FIELD(sum_too_far) {
    int s = 0;
    for (int i = threadIdx.x; i < n + 4; i += 32) s += x[i];
    y[threadIdx.x] = s;
}
FIELD(hole_in_shared) {
    __shared__ int s[64];
    if (threadIdx.x != 5) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int v = 0;
    for (int i = 0; i < 64; i++) v += s[i];
    y[threadIdx.x] = v;
}
FIELD(unwritten_condition) {
    __shared__ int s[64];
    if (threadIdx.x < 60) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (s[threadIdx.x] > 3) atomicAdd(y, 1);
}
FIELD(unwritten_index) { y[x[n + threadIdx.x % 4] & 63] = 1; }
FIELD(unwritten_shuffle) {
    __shared__ int s[32];
    if (threadIdx.x < 31) s[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    int v = s[threadIdx.x];
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    y[threadIdx.x] = v;
}
FIELD(reduce_no_barrier) {
    __shared__ int s[128];
    int t = threadIdx.x;
    s[t] = x[t];
    __syncthreads();
    for (int d = 64; d; d /= 2)
        if (t < d) s[t] += s[t + d];
    if (t == 0) y[0] = s[0];
}
FIELD(scan_no_barrier) {
    __shared__ int s[128];
    int t = threadIdx.x;
    s[t] = x[t];
    __syncthreads();
    for (int d = 1; d < 128; d *= 2) {
        int v = t >= d ? s[t - d] : 0;
        s[t] += v;
        __syncthreads();
    }
    y[t] = s[t];
}
FIELD(transpose_no_barrier) {
    __shared__ int tile[8][17];
    int i = threadIdx.x % 16, j = threadIdx.x / 16;
    tile[j][i] = x[threadIdx.x];
    y[threadIdx.x] = tile[i % 8][j + i / 8];
}
FIELD(reduce_no_syncwarp) {
    __shared__ int s[32];
    int t = threadIdx.x;
    s[t] = x[t];
    __syncwarp();
    for (int d = 16; d; d /= 2)
        if (t < d) s[t] += s[t + d];
    y[t] = s[0];
}
FIELD(last_writer) {
    __shared__ int last;
    last = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = last;
}
FIELD(histogram_not_atomic) {
    __shared__ int h[16];
    if (threadIdx.x < 16) h[threadIdx.x] = 0;
    __syncthreads();
    h[x[threadIdx.x] % 16]++;
    __syncthreads();
    if (threadIdx.x < 16) y[threadIdx.x] = h[threadIdx.x];
}
FIELD(histogram_not_cleared) {
    __shared__ int h[16];
    if (threadIdx.x < 16) h[threadIdx.x] = n;
    __syncthreads();
    if (threadIdx.x < 16) y[threadIdx.x] = h[threadIdx.x], h[threadIdx.x] = 0;
    atomicAdd(&h[x[threadIdx.x] % 16], 1);
    __syncthreads();
    if (threadIdx.x < 16) y[threadIdx.x] = h[threadIdx.x];
}
FIELD(barrier_for_some) { /* lanes of one warp go apart */
    if (x[threadIdx.x] > 3) {
        __syncthreads();
        y[threadIdx.x] = 1;
    } else {
        y[threadIdx.x] = 2;
    }
}
FIELD(barrier_for_a_warp) {
    if (threadIdx.x < 32) __syncthreads();
    y[threadIdx.x] = 1;
}
FIELD(barrier_too_often) {
    for (int i = 0; i <= (int)threadIdx.x / 32; i++) {
        y[threadIdx.x] = i;
        __syncthreads();
    }
}
FIELD(barriers_mixed_up) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, 64;" ::: "memory");
    else
        asm volatile("bar.sync 2, 64;" ::: "memory");
    y[threadIdx.x] = 1;
}
FIELD(mask_of_all) { /* half of them are elsewhere */
    int v = x[threadIdx.x];
    if (threadIdx.x < 16) v = __shfl_xor_sync(~0u, v, 1);
    y[threadIdx.x] = v;
}
FIELD(vote_of_half) { y[threadIdx.x] = __ballot_sync(0x0000ffff, x[threadIdx.x] > 2); }
FIELD(async_wrong_stage) {
    __shared__ __align__(16) int s[2][64];
    int t = threadIdx.x;
    for (int k = 0; k < 2; k++) {
        if (t < 16) __pipeline_memcpy_async(&s[k][t * 4], x + 64 * k + t * 4, 16);
        __pipeline_commit();
    }
    __pipeline_wait_prior(1);
    __syncthreads();
    y[t] = s[0][t] + s[1][63 - t];
}
FIELD(async_past_end) {
    __shared__ __align__(16) int s[128];
    int t = threadIdx.x;
    __pipeline_memcpy_async(&s[t * 4], x + t * 136, 16);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    y[t] = s[t];
}
FIELD(asserted) {
    assert(x[threadIdx.x] != 8);
    y[threadIdx.x] = 1;
}
FIELD(heap_past_end) {
    int *p = (int *)malloc(16);
    p[x[3]] = 2;
    y[0] = p[x[3]];
    free(p);
}
FIELD(heap_after_free) {
    int *p = (int *)malloc(16);
    p[1] = 3;
    free(p);
    y[0] = p[1];
}
FIELD(heap_free_twice) {
    int *p = (int *)malloc(16);
    free(p);
    free(p);
}
__device__ __noinline__ int deeper(int k, const int *x) {
    volatile int frame[64];
    frame[k & 63] = k;
    return x[k & 63] > 1000 ? 0 : deeper(k + 1, x) + frame[k & 63];
}
FIELD(recursion_without_end) { y[threadIdx.x] = deeper(0, x); }

/* Looks wrong and is right: no finding. */
FIELD(right_flag_by_all) {
    __shared__ int found;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    if (x[threadIdx.x] > 20) found = 1;
    __syncthreads();
    y[threadIdx.x] = found;
}
FIELD(right_early_return) {
    __shared__ int s[128];
    if (threadIdx.x >= 100) return;
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[99 - threadIdx.x];
}
FIELD(right_unused_load) {
    __shared__ int s[128];
    if (threadIdx.x < 64) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int v = s[threadIdx.x], k = threadIdx.x < 64 ? v : 5; /* like a merge that looks one key too far */
    bool take = (threadIdx.x < 64) & (v > 3);
    y[threadIdx.x] = take ? k : 0;
}
FIELD(right_tile_masks) {
    int v = x[threadIdx.x];
    unsigned mask = 0xffu << (threadIdx.x % 32 & ~7);
    for (int d = 4; d; d /= 2) v += __shfl_xor_sync(mask, v, d);
    if (threadIdx.x % 32 < 16) v += __ballot_sync(threadIdx.x & 8 ? 0xff00 : 0x00ff, v > 0);
    y[threadIdx.x] = v;
}
FIELD(right_named_barriers) { /* the first warp fills, the other three take */
    __shared__ int s[2][96];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, sum = 0;
    for (int i = 0; i < 4; i++) {
        int full = 1 + i % 2, empty = 3 + i % 2;
        if (warp == 0) {
            if (i >= 2) asm volatile("bar.sync %0, 128;" ::"r"(empty) : "memory");
            for (int k = 0; k < 3; k++) s[i % 2][32 * k + lane] = x[8 * i + lane];
            __threadfence_block();
            asm volatile("bar.arrive %0, 128;" ::"r"(full) : "memory");
        } else {
            asm volatile("bar.sync %0, 128;" ::"r"(full) : "memory");
            sum += s[i % 2][95 - 32 * (warp - 1) - lane];
            if (i < 2) asm volatile("bar.arrive %0, 128;" ::"r"(empty) : "memory");
        }
    }
    y[threadIdx.x] = sum;
}
FIELD(right_flag_by_fence) {
    __shared__ int s[32];
    __shared__ volatile int ready;
    if (threadIdx.x == 0) ready = 0;
    __syncthreads();
    if (threadIdx.x < 32) {
        s[threadIdx.x] = x[threadIdx.x];
        __threadfence_block();
        __syncwarp();
        if (threadIdx.x == 0) ready = 1;
    } else {
        while (!ready)
            ;
        __threadfence_block();
        y[threadIdx.x] = s[threadIdx.x % 32];
    }
}
FIELD(right_jobs) { /* blocks fetch work until there is none */
    __shared__ int job;
    for (;;) {
        if (threadIdx.x == 0) job = atomicAdd(y, 1);
        __syncthreads();
        int j = job;
        __syncthreads();
        if (j >= 9) break;
        y[128 + j] = x[j];
    }
}
FIELD(right_shares_memory) {
    __shared__ union {
        int words[128];
        double wide[64];
    } u;
    u.words[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int v = u.words[127 - threadIdx.x];
    __syncthreads();
    if (threadIdx.x < 64) u.wide[threadIdx.x] = v;
    __syncthreads();
    y[threadIdx.x] = (int)u.wide[threadIdx.x % 64];
}
