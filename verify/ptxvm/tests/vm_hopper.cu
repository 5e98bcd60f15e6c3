/* Kernels for sm_90a: mbarriers, bulk and tensor copies, warp group products, clusters. Checked by vm_hopper.c. */
#include <cooperative_groups.h>
#include <cuda_fp16.h>
#include <stdint.h>
namespace cg = cooperative_groups;

struct __align__(64) tensor_map {
    char bytes[128];
};

__device__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ void mb_init(uint64_t *b, int n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(n) : "memory"); }
__device__ void mb_expect(uint64_t *b, int n) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(n) : "memory"); }
__device__ void mb_arrive(uint64_t *b) { asm volatile("{ .reg .b64 t; mbarrier.arrive.shared::cta.b64 t, [%0]; }" ::"r"(shared_address(b)) : "memory"); }
__device__ void mb_wait(uint64_t *b, int parity) {
    asm volatile("{ .reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @p bra done; bra again; done: }" ::"r"(shared_address(b)), "r"(parity) : "memory");
}
__device__ void bulk_load(void *to, const void *from, int n, uint64_t *b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(n), "r"(shared_address(b)) : "memory");
}
__device__ void tile_load(void *to, const tensor_map *map, int x, int y, uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)), "l"(map), "r"(x), "r"(y), "r"(shared_address(b)) : "memory");
}

/* A ring of two stages: one warp copies, three add up. */
extern "C" __global__ void ring(const int *x, int *sums, int chunks) {
    __shared__ __align__(128) int data[2][96];
    __shared__ uint64_t full[2], empty[2];
    int t = threadIdx.x, warp = t / 32;
    if (t == 0) {
        for (int i = 0; i < 2; i++) mb_init(&full[i], 1), mb_init(&empty[i], 96);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (warp == 0) {
        if (t == 0)
            for (int c = 0; c < chunks; c++) {
                int s = c & 1;
                mb_wait(&empty[s], (c / 2 & 1) ^ 1);
                mb_expect(&full[s], 384);
                bulk_load(data[s], x + c * 96, 384, &full[s]);
            }
    } else {
        int sum = 0;
        for (int c = 0; c < chunks; c++) {
            int s = c & 1;
            mb_wait(&full[s], c / 2 & 1);
            sum += data[s][95 - (t - 32)];
            mb_arrive(&empty[s]);
        }
        sums[t - 32] = sum;
    }
}

/* A tile through shared memory and back to another place, swizzled as the map says. */
extern "C" __global__ void tile_copy(const __grid_constant__ tensor_map from, const __grid_constant__ tensor_map to, uint32_t *raw, int bytes, int x, int y) {
    __shared__ __align__(1024) uint32_t tile[4096];
    __shared__ uint64_t b;
    if (threadIdx.x == 0) {
        mb_init(&b, 1);
        mb_expect(&b, bytes);
        tile_load(tile, &from, x, y, &b);
    }
    __syncthreads();
    mb_wait(&b, 0);
    for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) raw[i] = tile[i];
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&to), "r"(0), "r"(0), "r"(shared_address(tile)) : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}

__device__ uint64_t descriptor(const void *p, uint64_t lead, uint64_t stride, uint64_t swizzle) {
    return (shared_address(p) >> 4 & 0x3fff) | (lead >> 4 & 0x3fff) << 16 | (stride >> 4 & 0x3fff) << 32 | swizzle << 62;
}
__device__ void product(float (&d)[16], uint64_t a, uint64_t b, int keep) { /* m64n32k16 */
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %18, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, p, 1, 1, 0, 0; }"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
                   "+f"(d[14]), "+f"(d[15])
                 : "l"(a), "l"(b), "r"(keep));
}

/* 64 x 32 = 64 x k times k x 32: tensor copies of 64 halves with the 128-byte swizzle. */
extern "C" __global__ void __launch_bounds__(128) gemm_wgmma(const __grid_constant__ tensor_map ma, const __grid_constant__ tensor_map mb, float *c, int k) {
    __shared__ __align__(1024) half a[64 * 64], b[32 * 64];
    __shared__ uint64_t bar;
    float d[16] = {};
    int t = threadIdx.x;
    if (t == 0) mb_init(&bar, 1);
    __syncthreads();
    for (int k0 = 0; k0 < k; k0 += 64) {
        if (t == 0) {
            mb_expect(&bar, 64 * 64 * 2 + 32 * 64 * 2);
            tile_load(a, &ma, k0, 0, &bar);
            tile_load(b, &mb, k0, 0, &bar);
        }
        mb_wait(&bar, k0 / 64 & 1);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        for (int kk = 0; kk < 64; kk += 16) product(d, descriptor(a + kk, 16, 1024, 1), descriptor(b + kk, 16, 1024, 1), k0 + kk != 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        __syncthreads();
    }
    for (int i = 0; i < 16; i++) c[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * 32 + i / 4 * 8 + t % 4 * 2 + i % 2] = d[i];
}

/* Each block of a cluster sums its part; block 0 reads the others' sums from their shared memory. */
extern "C" __global__ void __cluster_dims__(4, 1, 1) cluster_sum(const int *x, int *out) {
    __shared__ int sum;
    auto cluster = cg::this_cluster();
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, x[blockIdx.x * blockDim.x + threadIdx.x]);
    cluster.sync();
    if (cluster.block_rank() == 0 && threadIdx.x == 0) {
        int all = 0;
        for (unsigned r = 0; r < cluster.num_blocks(); r++) all += *cluster.map_shared_rank(&sum, r);
        out[blockIdx.x / 4] = all;
    }
    cluster.sync();
}

extern "C" __global__ void early_read(const int *x, int *y) { /* a defect: nobody waits for the copy's mbarrier */
    __shared__ __align__(128) int data[64];
    __shared__ uint64_t b;
    if (threadIdx.x == 0) {
        mb_init(&b, 1);
        mb_expect(&b, 256);
        bulk_load(data, x, 256, &b);
    }
    y[threadIdx.x] = data[threadIdx.x];
}
