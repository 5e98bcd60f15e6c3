/* Memory: allocation, copies in one to three dimensions, fills, pools, pinned and managed memory, pointer questions. */
#include "verify/ptxvm/tests/api.h"

static void rectangles_are_copied(void) {
    enum { W = 48, H = 5, HOST_PITCH = 64 };
    unsigned char host[H + 2][HOST_PITCH], back[H][W];
    CUdeviceptr p;
    size_t pitch;
    for (int y = 0; y < H + 2; y++)
        for (int x = 0; x < HOST_PITCH; x++) host[y][x] = (unsigned char)(y * 37 + x);
    OK(cuMemAllocPitch(&p, &pitch, W, H, 4));
    CHECK(pitch >= W && pitch % 256 == 0);
    CUDA_MEMCPY2D up = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                        .srcHost = host,
                        .srcPitch = HOST_PITCH,
                        .srcXInBytes = 3,
                        .srcY = 1,
                        .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                        .dstDevice = p,
                        .dstPitch = pitch,
                        .WidthInBytes = W,
                        .Height = H};
    OK(cuMemcpy2D(&up));
    CUDA_MEMCPY2D down = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                          .srcDevice = p,
                          .srcPitch = pitch,
                          .dstMemoryType = CU_MEMORYTYPE_HOST,
                          .dstHost = back,
                          .dstPitch = W,
                          .WidthInBytes = W,
                          .Height = H};
    OK(cuMemcpy2DAsync(&down, CU_STREAM_PER_THREAD));
    OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) CHECK(back[y][x] == host[y + 1][x + 3]);
    down.srcPitch = W - 1; /* shorter than a row */
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(&down));
    down.srcPitch = pitch;
    down.Height = 1000; /* past the end of the allocation */
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(&down));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(NULL));
}

static void boxes_are_copied(void) {
    enum { X = 4, Y = 3, Z = 2 };
    int from[Z][Y][X], to[Z][Y][X] = {0};
    for (int i = 0; i < X * Y * Z; i++) (&from[0][0][0])[i] = i;
    CUdeviceptr p = device_ints(&from[0][0][0], (size_t)X * Y * Z);
    CUDA_MEMCPY3D c = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                       .srcDevice = p,
                       .srcPitch = X * 4,
                       .srcHeight = Y,
                       .srcY = 1,
                       .dstMemoryType = CU_MEMORYTYPE_HOST,
                       .dstHost = to,
                       .dstPitch = X * 4,
                       .dstHeight = Y,
                       .WidthInBytes = 8,
                       .Height = 2,
                       .Depth = 2};
    OK(cuMemcpy3D(&c));
    for (int z = 0; z < Z; z++)
        for (int y = 0; y < Y; y++)
            for (int x = 0; x < X; x++) CHECK(to[z][y][x] == (y < 2 && x < 2 ? from[z][y + 1][x] : 0));
    c.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuMemcpy3D(&c));
}

static void fills_of_every_width(void) {
    unsigned char b[64];
    CUdeviceptr p;
    OK(cuMemAlloc(&p, sizeof b));
    OK(cuMemsetD8(p, 0xab, sizeof b));
    OK(cuMemsetD16(p + 8, 0x1234, 4));
    OK(cuMemsetD32Async(p + 32, 0xdeadbeef, 2, NULL));
    OK(cuMemsetD2D8(p + 48, 8, 0x11, 2, 2));
    OK(cuMemcpyDtoH(b, p, sizeof b));
    CHECK(b[0] == 0xab && b[7] == 0xab && b[8] == 0x34 && b[9] == 0x12 && b[15] == 0x12 && b[16] == 0xab);
    CHECK(b[32] == 0xef && b[39] == 0xde && b[40] == 0xab);
    CHECK(b[48] == 0x11 && b[49] == 0x11 && b[50] == 0xab && b[56] == 0x11 && b[57] == 0x11 && b[58] == 0xab);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(p + 2, 0, 1)); /* misaligned */
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(p, 0, sizeof b + 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(0, 0, 1));
    OK(cuMemsetD8(p, 0, 0));
    OK(cuMemFree(p));
}

static void copies_stay_inside(void) {
    char host[64] = "here";
    CUdeviceptr p, q;
    OK(cuMemAlloc(&p, 16));
    OK(cuMemAlloc(&q, 16));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(p, host, 17));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(host, p + 1, 16));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(p, NULL, 16));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD((CUdeviceptr)(uintptr_t)host, host, 16)); /* not device memory */
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoD(q, p, SIZE_MAX));
    OK(cuMemcpyHtoD(p, host, 0));
    OK(cuMemcpyHtoD(p, host, 16));
    OK(cuMemcpyDtoD(q, p, 16));
    OK(cuMemcpy((CUdeviceptr)(uintptr_t)(host + 32), q, 16)); /* unified addresses */
    CHECK(!strcmp(host + 32, "here"));
    OK(cuMemcpyPeer(p, ctx, q, ctx, 8));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemcpyPeer(p, ctx, q, NULL, 8));
}

static void pinned_and_managed_memory(void) {
    int *h, *m;
    CUdeviceptr d, managed;
    unsigned flags;
    OK(cuMemHostAlloc((void **)&h, 128, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE));
    OK(cuMemHostGetDevicePointer(&d, h, 0));
    OK(cuMemHostGetFlags(&flags, h));
    CHECK(flags & CU_MEMHOSTALLOC_PORTABLE);
    for (int i = 0; i < 32; i++) h[i] = i;
    void *params[] = {&d, &(int){5}};
    launch1(kernel("affine"), 1, 32, NULL, params);
    OK(cuCtxSynchronize());
    for (int i = 0; i < 32; i++) CHECK(h[i] == 6 * i); /* the kernel wrote host memory */
    OK(cuMemAllocManaged(&managed, 128, CU_MEM_ATTACH_GLOBAL));
    m = (int *)managed;
    for (int i = 0; i < 32; i++) m[i] = 1;
    params[0] = &managed;
    launch1(kernel("affine"), 1, 32, NULL, params);
    OK(cuCtxSynchronize());
    for (int i = 0; i < 32; i++) CHECK(m[i] == 5 + i);
    static int own[32];
    OK(cuMemHostRegister(own, sizeof own, CU_MEMHOSTREGISTER_DEVICEMAP));
    EXPECT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister(own, sizeof own, 0));
    OK(cuMemHostGetDevicePointer(&d, own, 0));
    params[0] = &d;
    launch1(kernel("affine"), 1, 32, NULL, params);
    OK(cuCtxSynchronize());
    CHECK(own[9] == 9);
    OK(cuMemHostUnregister(own));
    EXPECT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(own));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree((CUdeviceptr)(uintptr_t)h)); /* wrong kind of free */
    OK(cuMemFreeHost(h));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(h));
    OK(cuMemFree(managed));
}

static void advice_is_remembered(void) {
    CUdeviceptr p, d;
    int by[3], mostly, preferred, last;
    CUmemLocation cpu = {.type = CU_MEM_LOCATION_TYPE_HOST}, gpu = {.type = CU_MEM_LOCATION_TYPE_DEVICE};
    OK(cuMemAllocManaged(&p, 4096, CU_MEM_ATTACH_GLOBAL));
    OK(cuMemAdvise(p, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, gpu));
    OK(cuMemAdvise(p, 4096, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, cpu));
    OK(cuMemAdvise(p, 4096, CU_MEM_ADVISE_SET_ACCESSED_BY, cpu));
    OK(cuMemAdvise(p, 4096, CU_MEM_ADVISE_SET_ACCESSED_BY, gpu));
    CUmem_range_attribute names[] = {CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION,
                                     CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION};
    void *data[] = {&mostly, &preferred, by, &last};
    size_t sizes[] = {4, 4, 12, 4};
    OK(cuMemRangeGetAttributes(data, sizes, names, 4, p, 4096));
    CHECK(mostly == 1 && preferred == CU_DEVICE_CPU && last == CU_DEVICE_INVALID);
    CHECK(by[0] == 0 && by[1] == CU_DEVICE_CPU && by[2] == CU_DEVICE_INVALID);
    OK(cuMemPrefetchAsync(p, 4096, gpu, 0, NULL));
    OK(cuMemRangeGetAttribute(&last, 4, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, p, 4096));
    CHECK(last == 0);
    OK(cuMemAlloc(&d, 4096)); /* not managed */
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(d, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, gpu));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(p, 4097, gpu, 0, NULL));
    gpu.id = 1;
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuMemPrefetchAsync(p, 4096, gpu, 0, NULL));
    unsigned flag = 1;
    OK(cuPointerSetAttribute(&flag, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, p));
    flag = 0;
    OK(cuPointerGetAttribute(&flag, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, p));
    CHECK(flag == 1);
    OK(cuMemFree(p));
    OK(cuMemFree(d));
}

static void questions_about_pointers(void) {
    CUdeviceptr p, base, start;
    size_t bytes;
    unsigned type, types[1];
    unsigned char managed = 1;
    CUcontext c;
    OK(cuMemAlloc(&p, 1000));
    OK(cuMemGetAddressRange(&base, &bytes, p + 500));
    CHECK(base == p && bytes == 1000);
    EXPECT(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange(&base, &bytes, 12345));
    OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p + 7));
    CHECK(type == CU_MEMORYTYPE_DEVICE);
    OK(cuPointerGetAttribute(&c, CU_POINTER_ATTRIBUTE_CONTEXT, p));
    CHECK(c == ctx);
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&type));
    CUpointer_attribute names[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                   CU_POINTER_ATTRIBUTE_RANGE_START_ADDR};
    void *data[] = {types, &managed, &start};
    OK(cuPointerGetAttributes(3, names, data, p + 3));
    CHECK(types[0] == CU_MEMORYTYPE_DEVICE && !managed && start == p);
    OK(cuPointerGetAttributes(3, names, data, (CUdeviceptr)(uintptr_t)&type)); /* unknown memory reads as zero */
    CHECK(types[0] == 0 && start == 0);
}

static void running_out_of_memory(void) {
    size_t avail, total, again;
    CUdeviceptr p, q;
    OK(cuMemGetInfo(&avail, &total));
    CHECK(avail <= total);
    EXPECT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&p, total + 1));
    EXPECT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&p, SIZE_MAX));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&p, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(NULL, 4));
    OK(cuMemAlloc(&p, 1 << 20));
    OK(cuMemGetInfo(&again, &total));
    CHECK(avail - again >= 1 << 20);
    OK(cuMemFree(p));
    OK(cuMemGetInfo(&again, &total));
    CHECK(again == avail);
    OK(cuMemFree(0));
    OK(cuMemAlloc(&q, 4)); /* the failures left nothing behind */
    OK(cuMemFree(q));
}

static void stream_ordered_memory(void) {
    CUstream s;
    CUmemoryPool pool, current;
    CUdeviceptr p, q;
    cuuint64_t used;
    int data[32] = {0}, got[32];
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
    OK(cuMemPoolCreate(&pool, &props));
    OK(cuMemAllocFromPoolAsync(&p, sizeof data, pool, s));
    OK(cuMemAllocAsync(&q, 64, s));
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    CHECK(used == sizeof data);
    OK(cuMemcpyHtoDAsync(p, data, sizeof data, s));
    void *params[] = {&p, &(int){1}};
    launch1(kernel("affine"), 1, 32, s, params);
    OK(cuMemcpyDtoHAsync(got, p, sizeof got, s));
    OK(cuMemFreeAsync(p, s));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(p, s));
    OK(cuStreamSynchronize(s));
    CHECK(got[31] == 31);
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
    CHECK(used == 0);
    OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &used));
    CHECK(used == sizeof data);
    used = 1 << 20;
    OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &used));
    OK(cuMemPoolTrimTo(pool, 0));
    OK(cuDeviceSetMemPool(0, pool));
    OK(cuDeviceGetMemPool(&current, 0));
    CHECK(current == pool);
    OK(cuMemPoolDestroy(pool));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemPoolDestroy(pool));
    OK(cuDeviceGetDefaultMemPool(&current, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemPoolDestroy(current));
    OK(cuMemFree(q)); /* the synchronous free takes it too */
}

static void tensor_maps(void) {
    CUtensorMap map;
    CUdeviceptr p;
    OK(cuMemAlloc(&p, 64 * 64 * 2));
    cuuint64_t dim[2] = {64, 64}, stride[1] = {128};
    cuuint32_t box[2] = {64, 8}, step[2] = {1, 1};
#define ENCODE()                                                                                                       \
    cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, (void *)p, dim, stride, box, step,                \
                           CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE, \
                           CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    OK(ENCODE());
    box[0] = 128; /* wider than the swizzle */
    EXPECT(CUDA_ERROR_INVALID_VALUE, ENCODE());
    box[0] = 64;
    stride[0] = 100; /* not a multiple of 16 */
    EXPECT(CUDA_ERROR_INVALID_VALUE, ENCODE());
    stride[0] = 128;
    box[1] = 257;
    EXPECT(CUDA_ERROR_INVALID_VALUE, ENCODE());
    box[1] = 8;
    OK(cuTensorMapReplaceAddress(&map, (void *)(p + 1024)));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTensorMapReplaceAddress(&map, (void *)(p + 4)));
}

static void tensor_maps_of_columns(void) {
    CUtensorMap map;
    CUdeviceptr p;
    OK(cuMemAlloc(&p, 16 * 8 * 8 * 4 * 2));
    cuuint64_t dim[4] = {16, 8, 8, 4}, stride[3] = {32, 256, 2048};
    cuuint32_t step[4] = {1, 1, 1, 1}, rank = 4, channels = 16, pixels = 64;
    int lower[2] = {-1, -1}, upper[2] = {-1, -1};
#define COLUMNS()                                                                                                      \
    cuTensorMapEncodeIm2col(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, rank, (void *)p, dim, stride, lower, upper,         \
                            channels, pixels, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,          \
                            CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    OK(COLUMNS());
    rank = 2; /* no dimension of pixels */
    EXPECT(CUDA_ERROR_INVALID_VALUE, COLUMNS());
    rank = 4, channels = 32; /* wider than the swizzle */
    EXPECT(CUDA_ERROR_INVALID_VALUE, COLUMNS());
    channels = 16, pixels = 1025;
    EXPECT(CUDA_ERROR_INVALID_VALUE, COLUMNS());
    pixels = 64, lower[0] = -129; /* eight bits for each of two corners */
    EXPECT(CUDA_ERROR_INVALID_VALUE, COLUMNS());
    lower[0] = -128;
    OK(COLUMNS());
}

static const struct test tests[] = {
    {"rectangles_are_copied", rectangles_are_copied},         {"boxes_are_copied", boxes_are_copied},
    {"fills_of_every_width", fills_of_every_width},           {"copies_stay_inside", copies_stay_inside},
    {"pinned_and_managed_memory", pinned_and_managed_memory}, {"advice_is_remembered", advice_is_remembered},
    {"questions_about_pointers", questions_about_pointers},   {"running_out_of_memory", running_out_of_memory},
    {"stream_ordered_memory", stream_ordered_memory},         {"tensor_maps", tensor_maps},
    {"tensor_maps_of_columns", tensor_maps_of_columns},
};

int main(void) {
    return RUN(tests);
}
