/* Errors: bad arguments, freed and foreign handles, sticky faults, contexts, names of codes, entry points by name. */
#include "verify/ptxvm/tests/api.h"
#include <dlfcn.h>

static void sticky_fault(CUdeviceptr p, size_t offset, CUresult code) {
    void *params[] = {&p, &offset};
    CUdeviceptr q;
    int word;
    size_t n;
    OK(cuLaunchKernel(kernel("poke"), 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL)); /* the launch itself is fine */
    EXPECT(code, cuCtxSynchronize());
    EXPECT(code, cuMemAlloc(&q, 4)); /* and everything after it */
    EXPECT(code, cuMemcpyDtoH(&word, p, 4));
    EXPECT(code, cuLaunchKernel(kernels ? (CUfunction)1 : NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(code, cuStreamSynchronize(NULL));
    EXPECT(code, cuMemGetInfo(&n, &n));
    OK(cuDevicePrimaryCtxReset(0)); /* a new context is healthy */
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    OK(cuMemAlloc(&q, 4));
    OK(cuMemFree(q));
}

static void out_of_bounds_is_700(void) {
    sticky_fault(device_ints(NULL, 16), 64, CUDA_ERROR_ILLEGAL_ADDRESS);
}
static void misaligned_is_716(void) {
    sticky_fault(device_ints(NULL, 16), 2, CUDA_ERROR_MISALIGNED_ADDRESS);
}
static void null_store_is_700(void) {
    sticky_fault(0, 0, CUDA_ERROR_ILLEGAL_ADDRESS);
}

static void freed_memory_is_700(void) {
    CUdeviceptr p = device_ints(NULL, 16);
    OK(cuMemFree(p));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree(p));
    sticky_fault(p, 0, CUDA_ERROR_ILLEGAL_ADDRESS);
}

static void a_fault_stays_in_its_context(void) {
    CUcontext mine;
    CUmodule m;
    CUfunction f;
    CUdeviceptr p = 0;
    size_t offset = 0;
    void *params[] = {&p, &offset};
    OK(cuCtxCreate(&mine, NULL, 0, 0));
    OK(cuModuleLoad(&m, KERNELS));
    OK(cuModuleGetFunction(&f, m, "poke"));
    launch1(f, 1, 1, NULL, params);
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    OK(cuCtxSetCurrent(ctx)); /* replaces the faulty one on the stack */
    OK(cuMemAlloc(&p, 4));
    OK(cuMemFree(p));
    OK(cuCtxDestroy(mine));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxPushCurrent(mine));
}

static void context_stack(void) {
    CUcontext a, b, top;
    OK(cuCtxCreate(&a, NULL, CU_CTX_SCHED_SPIN, 0));
    OK(cuCtxCreate(&b, NULL, 0, 0));
    OK(cuCtxGetCurrent(&top));
    CHECK(top == b);
    OK(cuCtxPopCurrent(&top));
    CHECK(top == b);
    OK(cuCtxGetCurrent(&top));
    CHECK(top == a);
    unsigned flags;
    OK(cuCtxGetFlags(&flags));
    CHECK((flags & CU_CTX_SCHED_MASK) == CU_CTX_SCHED_SPIN);
    OK(cuCtxPushCurrent(b));
    OK(cuCtxDestroy(a));
    OK(cuCtxDestroy(b)); /* was current: popped */
    size_t value;
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxGetLimit(&value, CU_LIMIT_STACK_SIZE)); /* a is on top, destroyed */
    OK(cuCtxPopCurrent(&top));
    OK(cuCtxGetCurrent(&top));
    CHECK(top == ctx);
    OK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 5000));
    OK(cuCtxGetLimit(&value, CU_LIMIT_STACK_SIZE));
    CHECK(value >= 5000 && value < 6000);
    EXPECT(CUDA_ERROR_UNSUPPORTED_LIMIT, cuCtxGetLimit(&value, (CUlimit)77));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy(ctx)); /* the primary context is released, not destroyed */
    unsigned state;
    int active;
    OK(cuDevicePrimaryCtxGetState(0, &state, &active));
    CHECK(active == 1);
}

static void no_context_no_service(void) {
    CUcontext top;
    CUdeviceptr p;
    OK(cuCtxPopCurrent(&top));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&p, 4));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent(&top));
    int n;
    OK(cuDeviceGetCount(&n));
    CHECK(n == 1);
}

static void wrong_handles_are_refused(void) {
    CUstream s;
    CUevent e;
    CUfunction f = kernel("vadd");
    OK(cuStreamCreate(&s, 0));
    OK(cuEventCreate(&e, 0));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventRecord((CUevent)s, NULL));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize((CUstream)e));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize((CUstream)&s)); /* a real address */
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamWaitEvent(s, NULL, 0));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel((CUfunction)kernels, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&f, (CUmodule)f, "vadd"));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(NULL));
    OK(cuModuleUnload(kernels));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(kernels));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuInit(1));
    CUdevice d;
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&d, 1));
    EXPECT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&d, -1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(NULL, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&(int){0}, (CUdevice_attribute)99999, 0));
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuTexObjectCreate(NULL, NULL, NULL, NULL));
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuTexObjectCreate(NULL, NULL, NULL, NULL));
}

static void every_code_has_a_name_and_a_text(void) {
    const char *s;
    OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &s));
    CHECK(!strcmp(s, "CUDA_ERROR_ILLEGAL_ADDRESS"));
    OK(cuGetErrorString(CUDA_ERROR_ILLEGAL_ADDRESS, &s));
    CHECK(!strcmp(s, "an illegal memory access was encountered"));
    OK(cuGetErrorString(CUDA_SUCCESS, &s));
    CHECK(!strcmp(s, "no error"));
    int named = 0;
    for (int code = 0; code < 1000; code++) {
        const char *name, *text;
        CUresult a = cuGetErrorName((CUresult)code, &name), b = cuGetErrorString((CUresult)code, &text);
        CHECK(a == b);
        named += a == CUDA_SUCCESS;
        if (a != CUDA_SUCCESS) CHECK(a == CUDA_ERROR_INVALID_VALUE && !name && !text);
    }
    CHECK(named >= 95);
}

static void entry_points_by_name_and_version(void) {
    void *p, *q;
    CUdriverProcAddressQueryResult found;
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    CHECK(lib);
    OK(cuGetProcAddress("cuMemAlloc", &p, 3020, CU_GET_PROC_ADDRESS_DEFAULT, &found));
    CHECK(p && p == dlsym(lib, "cuMemAlloc_v2") && found == CU_GET_PROC_ADDRESS_SUCCESS);
    OK(cuGetProcAddress("cuMemAlloc", &q, 2000, CU_GET_PROC_ADDRESS_DEFAULT, &found));
    CHECK(q && q == dlsym(lib, "cuMemAlloc"));
    OK(cuGetProcAddress("cuCtxCreate", &p, 12000, 0, &found));
    CHECK(p == dlsym(lib, "cuCtxCreate_v3"));
    OK(cuGetProcAddress("cuCtxCreate", &p, 13000, 0, &found));
    CHECK(p == dlsym(lib, "cuCtxCreate_v4"));
    OK(cuGetProcAddress("cuLaunchKernel", &p, 13000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &found));
    CHECK(p == dlsym(lib, "cuLaunchKernel_ptsz"));
    OK(cuGetProcAddress("cuMemAlloc", &p, 13000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &found));
    CHECK(p == dlsym(lib, "cuMemAlloc_v2")); /* has no such flavour */
    OK(cuGetProcAddress("cuLibraryLoadData", &p, 11000, 0, &found));
    CHECK(!p && found == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    OK(cuGetProcAddress("cuNoSuchThing", &p, 13000, 0, &found));
    CHECK(!p && found == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    EXPECT(CUDA_ERROR_NOT_FOUND, cuGetProcAddress("cuNoSuchThing", &p, 13000, 0, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuGetProcAddress(NULL, &p, 13000, 0, &found));
    const void *table;
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuGetExportTable(&table, &(CUuuid){{0}}));
}

static void device_facts(void) {
    int v, major, minor;
    char name[64];
    size_t bytes;
    CUuuid uuid;
    OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    OK(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0));
    const char *want = getenv("KGEN_PTXVM_ARCH");
    CHECK(major * 10 + minor == (want ? atoi(want) : 90));
    OK(cuDeviceGetAttribute(&v, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
    CHECK(v == 32);
    for (int a = 1; a < CU_DEVICE_ATTRIBUTE_MAX; a++) OK(cuDeviceGetAttribute(&v, (CUdevice_attribute)a, 0));
    OK(cuDeviceGetName(name, sizeof name, 0));
    CHECK(strlen(name) > 3);
    OK(cuDeviceGetName(name, 4, 0));
    CHECK(strlen(name) == 3);
    OK(cuDeviceTotalMem(&bytes, 0));
    CHECK(bytes >= (size_t)1 << 30);
    OK(cuDeviceGetUuid(&uuid, 0));
    OK(cuDriverGetVersion(&v));
    CHECK(v == CUDA_VERSION);
    CUdevice d;
    OK(cuDeviceGetPCIBusId(name, sizeof name, 0));
    OK(cuDeviceGetByPCIBusId(&d, name));
    CHECK(d == 0);
}

static const struct test tests[] = {
    {"out_of_bounds_is_700", out_of_bounds_is_700},
    {"misaligned_is_716", misaligned_is_716},
    {"null_store_is_700", null_store_is_700},
    {"freed_memory_is_700", freed_memory_is_700},
    {"a_fault_stays_in_its_context", a_fault_stays_in_its_context},
    {"context_stack", context_stack},
    {"no_context_no_service", no_context_no_service},
    {"wrong_handles_are_refused", wrong_handles_are_refused},
    {"every_code_has_a_name_and_a_text", every_code_has_a_name_and_a_text},
    {"entry_points_by_name_and_version", entry_points_by_name_and_version},
    {"device_facts", device_facts},
};

int main(void) {
    return RUN(tests);
}
