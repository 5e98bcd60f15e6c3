/* What the toolkit's own headers become: cooperative groups, CUB, libcu++, curand. Compiled with -O3 and with -G;
 * vm_headers.c checks the results against plain C. One block of 256 threads, x and y hold 1024 ints. */
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/warp/warp_merge_sort.cuh>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/latch>
#include <curand_kernel.h>
namespace cg = cooperative_groups;
#define HEADERS(name) extern "C" __global__ void name(const int *x, int *y)

HEADERS(tiles) { /* lanes of a warp give different masks */
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    int t = threadIdx.x, v = x[t];
    y[4 * t] = cg::reduce(tile, v, cg::plus<int>());
    y[4 * t + 1] = cg::inclusive_scan(tile, v);
    y[4 * t + 2] = tile.shfl_xor(v, 3);
    y[4 * t + 3] = tile.meta_group_rank();
}
HEADERS(labels) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    int t = threadIdx.x;
    auto same = cg::labeled_partition(warp, x[t] & 3);
    y[t] = same.size() * 10000 + cg::reduce(same, x[t], cg::plus<int>());
}
HEADERS(wide_tiles) { /* tiles of two warps keep their state in the system's shared memory */
    __shared__ cg::block_tile_memory<256> memory;
    auto block = cg::this_thread_block(memory);
    auto tile = cg::tiled_partition<64>(block);
    y[threadIdx.x] = cg::reduce(tile, x[threadIdx.x], cg::plus<int>());
}
HEADERS(coalesced) {
    int t = threadIdx.x;
    y[t] = 0;
    if (x[t] % 3 == 1) {
        auto here = cg::coalesced_threads();
        y[t] = here.size() * 100 + here.thread_rank();
    }
}
HEADERS(merge_sort) { /* it looks at one key behind the last */
    typedef cub::BlockMergeSort<int, 256, 4> sort;
    __shared__ typename sort::TempStorage s;
    int k[4];
    for (int j = 0; j < 4; j++) k[j] = x[threadIdx.x * 4 + j];
    sort(s).Sort(k, [](int a, int b) { return a < b; });
    for (int j = 0; j < 4; j++) y[threadIdx.x * 4 + j] = k[j];
}
HEADERS(warp_sort) { /* halves of warps, each by itself */
    typedef cub::WarpMergeSort<int, 4, 16> sort;
    __shared__ typename sort::TempStorage s[16];
    int k[4];
    for (int j = 0; j < 4; j++) k[j] = x[threadIdx.x * 4 + j];
    sort(s[threadIdx.x / 16]).Sort(k, [](int a, int b) { return a < b; });
    for (int j = 0; j < 4; j++) y[threadIdx.x * 4 + j] = k[j];
}
HEADERS(radix_sort) {
    typedef cub::BlockRadixSort<int, 256, 4> sort;
    __shared__ typename sort::TempStorage s;
    int k[4];
    for (int j = 0; j < 4; j++) k[j] = x[threadIdx.x * 4 + j];
    sort(s).Sort(k);
    for (int j = 0; j < 4; j++) y[threadIdx.x * 4 + j] = k[j];
}
HEADERS(block_scan) {
    typedef cub::BlockScan<int, 256, cub::BLOCK_SCAN_RAKING> scan;
    __shared__ typename scan::TempStorage s;
    int k[4];
    for (int j = 0; j < 4; j++) k[j] = x[threadIdx.x * 4 + j];
    scan(s).InclusiveSum(k, k);
    for (int j = 0; j < 4; j++) y[threadIdx.x * 4 + j] = k[j];
}
HEADERS(latch) { /* it lies at shared address 0 */
    __shared__ alignas(8) unsigned char place[sizeof(cuda::latch<cuda::thread_scope_block>)];
    __shared__ int s[256];
    auto *l = (cuda::latch<cuda::thread_scope_block> *)place;
    if (threadIdx.x == 0) new (l) cuda::latch<cuda::thread_scope_block>(256);
    __syncthreads();
    s[threadIdx.x] = x[threadIdx.x];
    l->arrive_and_wait();
    y[threadIdx.x] = s[255 - threadIdx.x];
}
struct record {
    char tag;
    int values[20];
    double weight;
    char name[7];
};
__device__ __noinline__ record made(int i) { /* the name is not set, and there is padding */
    record r;
    r.tag = (char)i;
    for (int k = 0; k < 20; k++) r.values[k] = i * k;
    r.weight = i;
    return r;
}
HEADERS(records) {
    record r = made(threadIdx.x);
    y[threadIdx.x] = r.values[threadIdx.x % 20] + (int)r.weight + r.tag;
}
HEADERS(fields) {
    struct {
        unsigned a : 5, b : 11, c : 16;
    } f;
    f.a = x[threadIdx.x], f.b = x[threadIdx.x] * 7, f.c = x[threadIdx.x] * 31;
    y[threadIdx.x] = f.a * 3 + f.b * 5 + f.c;
}
HEADERS(poisson) { /* curand writes .ftz behind the type */
    curandStatePhilox4_32_10_t s;
    curand_init(1234, threadIdx.x, 0, &s);
    y[2 * threadIdx.x] = curand(&s);
    y[2 * threadIdx.x + 1] = curand_poisson(&s, 100.0 + x[0] * 0);
}
