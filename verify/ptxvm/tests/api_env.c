/* What the environment changes: leak lines, the report, the device, its memory, blocking launches. Each test runs this
 * program again as a child with other variables and reads what it wrote. */
#include "verify/ptxvm/tests/api.h"
#include <sys/wait.h>
#include <unistd.h>

/* ---- the child ---- */

static int child(const char *mode) {
    CUmodule m;
    CUfunction f;
    CUdeviceptr p = 0;
    int value;
    CUresult r = cuInit(0);
    printf("init %s\n", code_name(r));
    if (r != CUDA_SUCCESS) return 0;
    if (setjmp(failed)) {
        printf("%s\n", why);
        return 1;
    }
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    if (!strcmp(mode, "device")) {
        size_t avail, total;
        OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
        printf("major %d\n", value);
        OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, 0));
        printf("clusters %d\n", value);
        OK(cuMemGetInfo(&avail, &total));
        printf("memory %zu\n", total);
        printf("half %s\n", code_name(cuMemAlloc(&p, total / 2 + 1)));
        printf("other half %s\n", code_name(cuMemAlloc(&p, total / 2)));
        const char *newer = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k() { ret; }\n";
        printf("newer %s\n", code_name(cuModuleLoadData(&m, newer)));
        return 0;
    }
    OK(cuModuleLoad(&m, KERNELS));
    if (!strcmp(mode, "fault")) {
        size_t offset = 0;
        void *params[] = {&p, &offset};
        OK(cuModuleGetFunction(&f, m, "poke"));
        printf("launch %s\n", code_name(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL)));
        printf("sync %s\n", code_name(cuCtxSynchronize()));
        return 0;
    }
    OK(cuMemAlloc(&p, 4096));
    if (!strcmp(mode, "work")) {
        int two = 2;
        void *params[] = {&p, &two};
        OK(cuMemsetD8(p, 0, 4096));
        OK(cuModuleGetFunction(&f, m, "affine"));
        for (int i = 0; i < 3; i++) launch1(f, 1, 32, NULL, params);
        OK(cuCtxSynchronize());
    }
    if (!strcmp(mode, "leak")) return 0;
    OK(cuMemFree(p));
    OK(cuModuleUnload(m));
    OK(cuDevicePrimaryCtxRelease(0));
    return 0;
}

/* ---- the parent ---- */

static char output[1 << 16];

/* Runs the child with NAME=VALUE settings, NULL at the end; its standard output and error end up in `output`. */
static void run_child(const char *mode, const char *const *settings) {
    int ends[2], status;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        for (; *settings; settings++) putenv((char *)(uintptr_t)*settings);
        execl("/proc/self/exe", "api_env", mode, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < sizeof output - 1 && (got = read(ends[0], output + n, sizeof output - 1 - n)) > 0;)
        n += (size_t)got;
    output[n] = 0;
    close(ends[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) FAIL("child %s: status %d: %.200s", mode, status, output);
}

#define CHILD(mode, ...) run_child(mode, (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void has(const char *text) {
    if (!strstr(output, text)) FAIL("no \"%s\" in: %.300s", text, output);
}

static void has_not(const char *text) {
    if (strstr(output, text)) FAIL("\"%s\" in: %.300s", text, output);
}

static int lines_with(const char *text) {
    int n = 0;
    for (const char *p = output; (p = strstr(p, text)); p++) n++;
    return n;
}

static void leaks_are_named_at_exit(void) {
    CHILD("leak", "KGEN_PTXVM=leaks");
    has("ptxvm: leak: module api_kernels.ptx");
    has("4096 bytes");
    CHECK(lines_with("ptxvm:") == 2);
    CHILD("leak", "KGEN_PTXVM=check");
    has_not("ptxvm:");
    CHILD("clean", "KGEN_PTXVM=leaks");
    has_not("ptxvm:");
}

static void the_device_is_chosen(void) {
    CHILD("device", "KGEN_PTXVM_ARCH=80", "KGEN_PTXVM_MEMORY=64M");
    has("major 8\n");
    has("clusters 0\n");
    has("memory 67108864\n");
    has("half CUDA_SUCCESS");
    has("other half CUDA_ERROR_OUT_OF_MEMORY");
    has("newer CUDA_ERROR_NO_BINARY_FOR_GPU");
    CHILD("device", "KGEN_PTXVM_ARCH=120");
    has("major 12\n");
    has("newer CUDA_SUCCESS");
    CHILD("device", "KGEN_PTXVM_ARCH=91");
    has("ptxvm: configuration: KGEN_PTXVM_ARCH=91");
    has("init CUDA_ERROR_UNKNOWN");
    CHILD("device", "KGEN_PTXVM_MEMORY=lots");
    has("ptxvm: configuration: KGEN_PTXVM_MEMORY=lots");
    CHILD("device", "CUDA_VISIBLE_DEVICES=-1");
    has("init CUDA_ERROR_NO_DEVICE");
}

static void launches_can_block(void) {
    CHILD("fault", "CUDA_LAUNCH_BLOCKING=0");
    has("launch CUDA_SUCCESS\n");
    has("sync CUDA_ERROR_ILLEGAL_ADDRESS\n");
    CHECK(lines_with("ptxvm:") == 1);
    has("api_kernels.ptx line 67"); /* the store in poke */
    CHILD("fault", "CUDA_LAUNCH_BLOCKING=1");
    has("launch CUDA_ERROR_ILLEGAL_ADDRESS\n");
}

static void the_report_is_written(void) {
    char text[1 << 14] = "";
    unlink("build/ptxvm/report.json");
    CHILD("work", "KGEN_PTXVM_REPORT=build/ptxvm/report.json");
    FILE *f = fopen("build/ptxvm/report.json", "r");
    CHECK(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    CHECK(n > 0 && text[0] == '{');
    CHECK(strstr(text, "\"name\": \"affine\", \"launches\": 3"));
    CHECK(strstr(text, "\"fills\": {\"count\": 1, \"bytes\": 4096}"));
    CHECK(strstr(text, "\"allocations\": {\"count\": 1, \"bytes\": 4096}"));
    CHECK(strstr(text, "\"synchronizations\": {\"count\": 1"));
}

static const struct test tests[] = {
    {"leaks_are_named_at_exit", leaks_are_named_at_exit},
    {"the_device_is_chosen", the_device_is_chosen},
    {"launches_can_block", launches_can_block},
    {"the_report_is_written", the_report_is_written},
};

int main(int argc, char **argv) {
    return argc > 1 ? child(argv[1]) : RUN(tests);
}
