/* Launching: vector add through each way of passing parameters, attributes, limits, variables, libraries. */
#include "verify/ptxvm/tests/api.h"

enum { N = 1000 };

static void vadd_with(void (*go)(CUfunction, CUdeviceptr, CUdeviceptr, CUdeviceptr, int)) {
    float a[N], b[N], c[N];
    for (int i = 0; i < N; i++) a[i] = (float)i, b[i] = 0.5f * (float)i;
    CUdeviceptr da, db, dc;
    OK(cuMemAlloc(&da, sizeof a));
    OK(cuMemAlloc(&db, sizeof b));
    OK(cuMemAlloc(&dc, sizeof c));
    OK(cuMemcpyHtoD(da, a, sizeof a));
    OK(cuMemcpyHtoD(db, b, sizeof b));
    go(kernel("vadd"), da, db, dc, N);
    OK(cuCtxSynchronize());
    OK(cuMemcpyDtoH(c, dc, sizeof c));
    for (int i = 0; i < N; i++) CHECK(c[i] == 1.5f * (float)i);
    OK(cuMemFree(da));
    OK(cuMemFree(db));
    OK(cuMemFree(dc));
}

static void by_params(CUfunction f, CUdeviceptr a, CUdeviceptr b, CUdeviceptr c, int n) {
    void *params[] = {&a, &b, &c, &n};
    OK(cuLaunchKernel(f, (N + 127) / 128, 1, 1, 128, 1, 1, 0, NULL, params, NULL));
}
static void vector_add_kernel_params(void) {
    vadd_with(by_params);
}

static void by_buffer(CUfunction f, CUdeviceptr a, CUdeviceptr b, CUdeviceptr c, int n) {
    struct {
        CUdeviceptr a, b, c;
        int n;
    } args = {a, b, c, n};
    size_t bytes = sizeof args;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &args, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    OK(cuLaunchKernel(f, (N + 63) / 64, 1, 1, 64, 1, 1, 0, CU_STREAM_PER_THREAD, NULL, extra));
    bytes = 8;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, NULL, NULL, extra));
}
static void vector_add_extra_buffer(void) {
    vadd_with(by_buffer);
}

static void by_config(CUfunction f, CUdeviceptr a, CUdeviceptr b, CUdeviceptr c, int n) {
    void *params[] = {&a, &b, &c, &n};
    CUlaunchAttribute attrs[2] = {{.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION},
                                  {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION}};
    attrs[0].value.programmaticStreamSerializationAllowed = 1;
    attrs[1].value.clusterDim.x = 2;
    attrs[1].value.clusterDim.y = attrs[1].value.clusterDim.z = 1;
    CUlaunchConfig config = {.gridDimX = 32,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = 32,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .attrs = attrs,
                             .numAttrs = 2};
    OK(cuLaunchKernelEx(&config, f, params, NULL));
    config.gridDimX = 33; /* not a multiple of the cluster */
    EXPECT(CUDA_ERROR_INVALID_CLUSTER_SIZE, cuLaunchKernelEx(&config, f, params, NULL));
}
static void vector_add_launch_ex(void) {
    vadd_with(by_config);
}

static void by_cooperative(CUfunction f, CUdeviceptr a, CUdeviceptr b, CUdeviceptr c, int n) {
    void *params[] = {&a, &b, &c, &n};
    OK(cuLaunchCooperativeKernel(f, 8, 1, 1, 128, 1, 1, 0, NULL, params));
    EXPECT(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
           cuLaunchCooperativeKernel(f, 100000, 1, 1, 1024, 1, 1, 0, NULL, params));
}
static void vector_add_cooperative(void) {
    vadd_with(by_cooperative);
}

static void parameters_of_mixed_size(void) {
    CUdeviceptr out = device_ints(NULL, 1);
    unsigned char a = 200;
    unsigned short b = 60000;
    unsigned c = 7;
    int got;
    void *params[] = {&a, &b, &out, &c};
    launch1(kernel("mixed"), 1, 1, NULL, params);
    OK(cuMemcpyDtoH(&got, out, 4));
    CHECK(got == 60207);
    size_t off, bytes;
    size_t want[4][2] = {{0, 1}, {2, 2}, {8, 8}, {16, 4}};
    for (size_t i = 0; i < 4; i++) {
        OK(cuFuncGetParamInfo(kernel("mixed"), i, &off, &bytes));
        CHECK(off == want[i][0] && bytes == want[i][1]);
    }
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuFuncGetParamInfo(kernel("mixed"), 4, &off, &bytes));
}

static void dynamic_shared_memory_is_enforced(void) {
    int data[256], got[256];
    for (int i = 0; i < 256; i++) data[i] = i;
    CUdeviceptr p = device_ints(data, 256);
    void *params[] = {&p};
    CUfunction f = kernel("reverse");
    OK(cuLaunchKernel(f, 1, 1, 1, 256, 1, 1, 1024, NULL, params, NULL));
    OK(cuMemcpyDtoH(got, p, sizeof got));
    for (int i = 0; i < 256; i++) CHECK(got[i] == 255 - i);
    int most;
    OK(cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 256, 1, 1, 64 << 10, NULL, params, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most + 1));
    OK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 64 << 10));
    OK(cuLaunchKernel(f, 1, 1, 1, 256, 1, 1, 64 << 10, NULL, params, NULL));
    int value;
    OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, f));
    CHECK(value == 64 << 10);
    OK(cuCtxSynchronize());
}

/* 48 KiB, as ptxas has it, counting what a kernel reaches and not what its module has. */
static void static_shared_memory_is_bounded(void) {
    static const char *const format =
        ".version 8.0\n.target sm_90\n.address_size 64\n.shared .b8 a[%d];\n.shared .b8 b[%d];\n"
        ".visible .entry one() { .reg .u32 %%r; mov.u32 %%r, a; st.shared.u8 [%%r], 1; ret; }\n"
        ".visible .entry two() { .reg .u32 %%r; mov.u32 %%r, %s; st.shared.u8 [%%r], 1; mov.u32 %%r, b;\n"
        "st.shared.u8 [%%r], 1; ret; }\n";
    char text[1000], log[500] = "";
    CUmodule m;
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)sizeof log};
    snprintf(text, sizeof text, format, 48 << 10, 48 << 10, "b");
    OK(cuModuleLoadData(&m, text));
    OK(cuModuleUnload(m));
    snprintf(text, sizeof text, format, 40 << 10, (8 << 10) + 1, "a");
    EXPECT(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&m, text, 2, options, values));
    CHECK(strstr(log, "two uses too much shared data: 49153 bytes"));
}

static void launch_shapes_are_checked(void) {
    CUfunction f = kernel("bounded");
    launch1(f, 1, 64, NULL, NULL);
    EXPECT(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, cuLaunchKernel(f, 1, 1, 1, 65, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 0, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 65536, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 2048, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 32, 1, 65, 0, NULL, NULL, NULL));
    CUfunction v = kernel("vadd");
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(v, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL));
    int threads;
    OK(cuFuncGetAttribute(&threads, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f));
    CHECK(threads == 64);
    OK(cuCtxSynchronize());
}

static void module_variables(void) {
    CUdeviceptr p;
    size_t bytes;
    unsigned total;
    OK(cuModuleGetGlobal(&p, &bytes, kernels, "total"));
    CHECK(bytes == 4);
    launch1(kernel("count"), 3, 100, NULL, NULL);
    OK(cuMemcpyDtoH(&total, p, 4));
    CHECK(total == 307);
    float factors[4];
    OK(cuModuleGetGlobal(&p, &bytes, kernels, "factor"));
    CHECK(bytes == sizeof factors);
    OK(cuMemcpyDtoH(factors, p, sizeof factors));
    CHECK(factors[0] == 1 && factors[3] == 4);
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetGlobal(&p, &bytes, kernels, "nothing"));
}

static void functions_are_listed(void) {
    unsigned n;
    OK(cuModuleGetFunctionCount(&n, kernels));
    CHECK(n == 7);
    CUfunction all[7];
    OK(cuModuleEnumerateFunctions(all, n, kernels));
    const char *name;
    OK(cuFuncGetName(&name, all[0]));
    CHECK(!strcmp(name, "vadd"));
    CUmodule m;
    OK(cuFuncGetModule(&m, all[0]));
    CHECK(m == kernels);
    CUfunction f;
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&f, kernels, "nothing"));
}

static void libraries_and_kernels(void) {
    CUlibrary lib;
    CUkernel k;
    CUfunction f;
    OK(cuLibraryLoadFromFile(&lib, KERNELS, NULL, NULL, 0, NULL, NULL, 0));
    OK(cuLibraryGetKernel(&k, lib, "affine"));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuLibraryGetKernel(&k, lib, "nothing"));
    int start[32], got[32], three = 3;
    for (int i = 0; i < 32; i++) start[i] = i;
    CUdeviceptr p = device_ints(start, 32);
    void *params[] = {&p, &three};
    OK(cuLibraryGetKernel(&k, lib, "affine"));
    launch1((CUfunction)k, 1, 32, NULL, params); /* a kernel handle launches directly */
    OK(cuKernelGetFunction(&f, k));
    launch1(f, 1, 32, NULL, params);
    OK(cuMemcpyDtoH(got, p, sizeof got));
    for (int i = 0; i < 32; i++) CHECK(got[i] == (3 * i + i) * 3 + i);
    CUlibrary back;
    OK(cuKernelGetLibrary(&back, k));
    CHECK(back == lib);
    unsigned n;
    OK(cuLibraryGetKernelCount(&n, lib));
    CHECK(n == 7);
    CUmodule m;
    OK(cuLibraryGetModule(&m, lib));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(m)); /* it belongs to the library */
    OK(cuLibraryUnload(lib));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuKernelGetFunction(&f, k));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
}

static void jit_log_names_the_error(void) {
    char log[512] = "";
    CUjit_option names[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_WALL_TIME};
    void *values[] = {log, (void *)sizeof log, NULL};
    CUmodule m;
    const char *bad =
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k() {\n  frobnicate.u32 %r1;\n}\n";
    CUresult r = cuModuleLoadDataEx(&m, bad, 3, names, values);
    if (r == CUDA_SUCCESS) { /* an unknown instruction may wait for the function that holds it */
        CUfunction f;
        EXPECT(CUDA_ERROR_INVALID_PTX, cuModuleGetFunction(&f, m, "k"));
    } else {
        CHECK(r == CUDA_ERROR_INVALID_PTX);
        CHECK(strstr(log, "5"));
        CHECK((size_t)values[1] == strlen(log));
    }
    values[1] = (void *)sizeof log;
    EXPECT(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&m, "this is not PTX", 2, names, values));
    CHECK(log[0]);
    EXPECT(CUDA_ERROR_FILE_NOT_FOUND, cuModuleLoad(&m, "build/no-such-file.ptx"));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuModuleLoadData(&m, NULL));
}

static void linker_passes_ptx_through(void) {
    CUlinkState link;
    CUmodule m;
    void *cubin;
    size_t bytes;
    unsigned n;
    OK(cuLinkCreate(0, NULL, NULL, &link));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLinkComplete(link, &cubin, &bytes)); /* nothing added */
    OK(cuLinkAddFile(link, CU_JIT_INPUT_PTX, KERNELS, 0, NULL, NULL));
    OK(cuLinkComplete(link, &cubin, &bytes));
    OK(cuModuleLoadData(&m, cubin));
    OK(cuModuleGetFunctionCount(&n, m));
    CHECK(n == 7);
    OK(cuLinkDestroy(link));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuLinkDestroy(link));
}

static void occupancy(void) {
    CUfunction f = kernel("reverse");
    int blocks, grid, block, threads_per_sm, sms;
    OK(cuDeviceGetAttribute(&threads_per_sm, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0));
    OK(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 1024, 0));
    CHECK(blocks == threads_per_sm / 1024);
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 32, 48 << 10));
    CHECK(blocks == 4); /* 228 KiB over 48 + 1 KiB */
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 32, 1 << 20));
    CHECK(blocks == 0);
    OK(cuOccupancyMaxPotentialBlockSize(&grid, &block, f, NULL, 0, 0));
    CHECK(block == 1024 && grid == sms * (threads_per_sm / 1024));
    OK(cuOccupancyMaxPotentialBlockSize(&grid, &block, f, NULL, 0, 100));
    CHECK(block <= 100 && block >= 32);
    size_t bytes;
    OK(cuOccupancyAvailableDynamicSMemPerBlock(&bytes, f, 2, 128));
    OK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)bytes));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 128, bytes));
    CHECK(blocks == 2);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 0, 0));
}

static const struct test tests[] = {
    {"vector_add_kernel_params", vector_add_kernel_params},
    {"vector_add_extra_buffer", vector_add_extra_buffer},
    {"vector_add_launch_ex", vector_add_launch_ex},
    {"vector_add_cooperative", vector_add_cooperative},
    {"parameters_of_mixed_size", parameters_of_mixed_size},
    {"dynamic_shared_memory_is_enforced", dynamic_shared_memory_is_enforced},
    {"static_shared_memory_is_bounded", static_shared_memory_is_bounded},
    {"launch_shapes_are_checked", launch_shapes_are_checked},
    {"module_variables", module_variables},
    {"functions_are_listed", functions_are_listed},
    {"libraries_and_kernels", libraries_and_kernels},
    {"jit_log_names_the_error", jit_log_names_the_error},
    {"linker_passes_ptx_through", linker_passes_ptx_through},
    {"occupancy", occupancy},
};

int main(void) {
    return RUN(tests);
}
