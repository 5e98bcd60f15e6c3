/* Kernels of the kinds people write, compiled by nvcc -O3 when the tests run; vm_kernels.c checks them against plain C. */
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <mma.h>
#include <stdint.h>
#include <stdio.h>
namespace cg = cooperative_groups;
using namespace nvcuda;

extern "C" __global__ void saxpy(float a, const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}

extern "C" __global__ void reduce(const float *x, float *out, int n) {
    __shared__ float warps[32];
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    for (int d = 16; d; d /= 2) v += __shfl_down_sync(~0u, v, d);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0;
        for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
        if (threadIdx.x == 0) out[blockIdx.x] = v;
    }
}

extern "C" __global__ void scan(const int *x, int *y, int n) { /* one block, inclusive */
    extern __shared__ int s[];
    int t = threadIdx.x;
    s[t] = t < n ? x[t] : 0;
    __syncthreads();
    for (int d = 1; d < blockDim.x; d *= 2) {
        int v = t >= d ? s[t - d] : 0;
        __syncthreads();
        s[t] += v;
        __syncthreads();
    }
    if (t < n) y[t] = s[t];
}

extern "C" __global__ void transpose(const float *x, float *y, int n) {
    __shared__ float tile[32][33];
    int i = blockIdx.x * 32 + threadIdx.x, j = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8)
        if (i < n && j + k < n) tile[threadIdx.y + k][threadIdx.x] = x[(j + k) * n + i];
    __syncthreads();
    i = blockIdx.y * 32 + threadIdx.x, j = blockIdx.x * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8)
        if (i < n && j + k < n) y[(j + k) * n + i] = tile[threadIdx.x][threadIdx.y + k];
}

extern "C" __global__ void histogram(const unsigned char *x, unsigned *bins, int n) {
    __shared__ unsigned local[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i]], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&bins[i], local[i]);
}

extern "C" __global__ void __launch_bounds__(256) gemm_tiled(const float *a, const float *b, float *c, int n) {
    __shared__ float as[16][16], bs[16][16];
    int tx = threadIdx.x, ty = threadIdx.y, r = blockIdx.y * 16 + ty, col = blockIdx.x * 16 + tx;
    float acc = 0;
    for (int k = 0; k < n; k += 16) {
        as[ty][tx] = a[r * n + k + tx];
        bs[ty][tx] = b[(k + ty) * n + col];
        __syncthreads();
        for (int i = 0; i < 16; i++) acc = fmaf(as[ty][i], bs[i][tx], acc);
        __syncthreads();
    }
    c[r * n + col] = acc;
}

extern "C" __global__ void gemm_wmma(const half *a, const half *b, float *c, int n) { /* a warp a tile */
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
    wmma::fill_fragment(fc, 0.0f);
    int row = blockIdx.y * 16, col = blockIdx.x * 16;
    for (int k = 0; k < n; k += 16) {
        wmma::load_matrix_sync(fa, a + row * n + k, n);
        wmma::load_matrix_sync(fb, b + col * n + k, n);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    for (int i = 0; i < fc.num_elements; i++) fc.x[i] *= 2.0f;
    wmma::store_matrix_sync(c + row * n + col, fc, n, wmma::mem_row_major);
}

/* 64x64 a block of 4 warps: cp.async in two stages, ldmatrix, mma m16n8k16. a row-major, b column-major (n by k), bf16 */
extern "C" __global__ void __launch_bounds__(128) gemm_mma(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int n) {
    __shared__ __align__(16) __nv_bfloat16 as[2][64][40], bs[2][64][40];
    int t = threadIdx.x, warp = t / 32, lane = t % 32, row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
    float acc[8][4] = {};
    auto copy = [&](int stage, int k) {
        for (int i = t; i < 64 * 4; i += 128) {
            int r = i / 4, p = i % 4 * 8;
            __pipeline_memcpy_async(&as[stage][r][p], a + (row0 + r) * n + k + p, 16);
            __pipeline_memcpy_async(&bs[stage][r][p], b + (col0 + r) * n + k + p, 16);
        }
        __pipeline_commit();
    };
    copy(0, 0);
    for (int k = 0, stage = 0; k < n; k += 32, stage ^= 1) {
        if (k + 32 < n) copy(stage ^ 1, k + 32);
        else __pipeline_commit();
        __pipeline_wait_prior(1);
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            uint32_t fa[4];
            uint32_t pa = (uint32_t)__cvta_generic_to_shared(&as[stage][warp * 16 + lane % 16][kk + lane / 16 * 8]);
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(pa));
            for (int j = 0; j < 8; j++) {
                uint32_t fb[2];
                uint32_t pb = (uint32_t)__cvta_generic_to_shared(&bs[stage][j * 8 + lane % 8][kk + lane / 8 % 2 * 8]);
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(fb[0]), "=r"(fb[1]) : "r"(pb));
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                             : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]), "+f"(acc[j][3])
                             : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) c[(row0 + warp * 16 + lane / 4 + i / 2 * 8) * n + col0 + j * 8 + lane % 4 * 2 + i % 2] = acc[j][i];
}

extern "C" __global__ void collatz(const unsigned *x, int *steps, int n) { /* a divergent loop, an early exit */
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long v = x[i];
    int k = 0;
    while (v != 1) {
        if (v & 1) v = 3 * v + 1;
        else v /= 2;
        if (++k > 500) break;
    }
    steps[i] = k;
}

__device__ __noinline__ int ackermann(int m, int n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}
extern "C" __global__ void recursion(int *out) { out[threadIdx.x] = ackermann(threadIdx.x % 3, threadIdx.x % 5); }

typedef float (*unary)(float);
__device__ float twice(float x) { return x + x; }
__device__ float square(float x) { return x * x; }
__device__ float inverse(float x) { return 1.0f / x; }
__device__ unary table[3] = {twice, square, inverse};
extern "C" __global__ void pointers(const float *x, float *y, const int *which) {
    int i = threadIdx.x;
    y[i] = table[which[i]](x[i]);
}

__device__ __noinline__ int choose(int k, int v) {
    switch (k) {
    case 0: return v + 1;
    case 1: return v * 7;
    case 2: return v ^ 0x55;
    case 3: return v - 100;
    case 4: return v << 2;
    case 5: return __popc(v);
    case 6: return -v;
    default: return 42;
    }
}
extern "C" __global__ void switches(const int *x, int *y) { y[threadIdx.x] = choose(x[threadIdx.x] & 7, x[threadIdx.x]); }

extern "C" __global__ void spin_lock(int *lock, int *counter, int rounds) { /* every thread takes the lock */
    for (int r = 0; r < rounds; r++) {
        bool done = false;
        while (!done) {
            if (atomicCAS(lock, 0, 1) == 0) {
                __threadfence();
                *(volatile int *)counter = *(volatile int *)counter + 1;
                __threadfence();
                atomicExch(lock, 0);
                done = true;
            }
        }
    }
}

extern "C" __global__ void spin_straight(int *lock, int *counter) { /* needs lanes to progress on their own */
    while (atomicCAS(lock, 0, 1) != 0);
    *(volatile int *)counter = *(volatile int *)counter + 1;
    __threadfence();
    atomicExch(lock, 0);
}

extern "C" __global__ void last_block(const float *x, float *partial, unsigned *tickets, float *out) {
    __shared__ bool last;
    float v = x[blockIdx.x * blockDim.x + threadIdx.x];
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    v = cg::reduce(warp, v, cg::plus<float>());
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = v;
        __threadfence();
        last = atomicAdd(tickets, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float s = 0;
        for (int i = 0; i < gridDim.x; i++) s += ((volatile float *)partial)[i];
        *out = s;
    }
}

extern "C" __global__ void grid_sync(int *x, int *y) { /* cooperative */
    auto g = cg::this_grid();
    int i = (int)g.thread_rank(), n = (int)g.size();
    for (int r = 0; r < 4; r++) {
        y[(i + 1) % n] = x[i] + 1;
        g.sync();
        x[i] = y[i];
        g.sync();
    }
}

extern "C" __global__ void warp_tricks(const int *x, unsigned *out) {
    int v = x[threadIdx.x];
    out[threadIdx.x * 8 + 0] = __ballot_sync(~0u, v & 1);
    out[threadIdx.x * 8 + 1] = __match_any_sync(~0u, v % 4);
    int all;
    out[threadIdx.x * 8 + 2] = __match_all_sync(~0u, v / 1000, &all) + all;
    out[threadIdx.x * 8 + 3] = __reduce_add_sync(~0u, v);
    out[threadIdx.x * 8 + 4] = __reduce_max_sync(~0u, v);
    out[threadIdx.x * 8 + 5] = __any_sync(~0u, v == 3) + 2 * __all_sync(~0u, v < 1000);
    unsigned m = 0;
    if (v & 1) m = __activemask();
    out[threadIdx.x * 8 + 6] = m;
    if (threadIdx.x % 32 < 16) m = __shfl_sync(0xffff, v, 3, 8);
    else m = __shfl_up_sync(0xffff0000, v, 2, 16);
    out[threadIdx.x * 8 + 7] = m;
}

extern "C" __global__ void halves(const half2 *x, half2 *y, const __nv_bfloat162 *p, __nv_bfloat162 *q) {
    int i = threadIdx.x;
    half2 v = x[i];
    y[i] = __hfma2(v, v, __hmax2(v, __floats2half2_rn(0.5f, -0.5f)));
    q[i] = __hadd2(__hmul2(p[i], p[i]), p[i]);
}

extern "C" __global__ void doubles(const double *x, double *y) {
    int i = threadIdx.x;
    y[i] = sin(x[i]) / sqrt(fabs(x[i]) + 1) + exp(x[i] * 0.1);
}

extern "C" __global__ void math_f32(const float *x, float *y) {
    int i = threadIdx.x;
    y[i] = sinf(x[i] * 1000.0f) + expf(x[i]) + logf(fabsf(x[i]) + 1) + powf(fabsf(x[i]) + 0.1f, 1.7f) + x[i] / 3.0f + rsqrtf(fabsf(x[i]) + 1);
}

extern "C" __global__ void integers(const long long *x, const int *d, long long *y) {
    int i = threadIdx.x;
    y[i * 4] = x[i] / d[i];
    y[i * 4 + 1] = x[i] % d[i];
    y[i * 4 + 2] = (long long)__umul64hi((unsigned long long)x[i], 0x9e3779b97f4a7c15ull);
    y[i * 4 + 3] = (unsigned)x[i] / (unsigned)d[i] + (int)x[i] % d[i] + __dp4a((int)x[i], d[i], 5) + __funnelshift_l((unsigned)x[i], (unsigned)d[i], 9) + __brev((unsigned)d[i]) + __byte_perm((unsigned)x[i], (unsigned)d[i], 0x5140);
}

extern "C" __global__ void local_array(const int *x, int *y, int n) {
    int a[32];
    for (int i = 0; i < 32; i++) a[i] = x[(i + threadIdx.x) % 32];
    for (int i = 0; i < n; i++) { /* insertion sort, by addresses that are not constants */
        int v = a[i], j = i - 1;
        while (j >= 0 && a[j] > v) a[j + 1] = a[j], j--;
        a[j + 1] = v;
    }
    for (int i = 0; i < 32; i++) y[threadIdx.x * 32 + i] = a[i];
}

extern "C" __global__ void says(int n) {
    if (threadIdx.x < n) printf("thread %d of %s: %5.2f %lld %c%%\n", threadIdx.x, "says", threadIdx.x * 0.5, 1ll << 40, 'x');
}

__constant__ float coefficients[4] = {1, -2, 3, 0.5f};
struct parameters {
    int index[5];
    float scale;
};
extern "C" __global__ void by_value(const __grid_constant__ parameters p, parameters q, float *y) {
    int i = threadIdx.x;
    const parameters *r = i & 1 ? &p : &q;
    y[i] = coefficients[p.index[i % 5] & 3] * r->scale + q.index[(i + 1) % 5];
}

extern "C" __global__ void named_barriers(int *out) { /* two warps produce, two consume */
    __shared__ int s[64];
    int t = threadIdx.x;
    for (int r = 0; r < 4; r++) {
        if (t < 64) {
            if (r) asm volatile("bar.sync 2, 128;" ::: "memory");
            s[t] = r * 1000 + t;
            asm volatile("bar.arrive 1, 128;" ::: "memory");
        } else {
            asm volatile("bar.sync 1, 128;" ::: "memory");
            out[r * 64 + t - 64] = s[63 - (t - 64)];
            if (r < 3) asm volatile("bar.arrive 2, 128;" ::: "memory");
        }
    }
}

extern "C" __global__ void votes_of_block(const int *x, int *out) {
    int t = threadIdx.x;
    out[t] = __syncthreads_count(x[t] > 10) + 1000 * __syncthreads_and(x[t] > -1) + 2000 * __syncthreads_or(x[t] == 77);
}

/* The heap: a list of its own for each thread, through malloc and free. */
extern "C" __global__ void heap(int *out, int n) {
    int *p = (int *)malloc(n * sizeof *p);
    for (int i = 0; i < n; i++) p[i] = i * (int)(blockIdx.x * blockDim.x + threadIdx.x);
    int *q = (int *)malloc(n * sizeof *q), sum = 0;
    for (int i = 0; i < n; i++) q[i] = p[n - 1 - i] + 1;
    free(p);
    for (int i = 0; i < n; i++) sum += q[i] * (i + 1);
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
    free(q);
    free(NULL);
}

extern "C" __global__ void heap_misuse(int *out, int what) {
    volatile int *p = (volatile int *)malloc(64);
    for (int i = 0; i < 16; i++) p[i] = i;
    if (what == 2) out[0] = p[16];
    free((void *)p);
    if (what == 0) free((void *)p);
    if (what == 1) out[0] = p[3];
}
