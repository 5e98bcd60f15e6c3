/* A libcuda.so.1 that stands before another one (KGEN_SHIM_DRIVER) and hands every call on, but
 *   KGEN_SHIM_FAIL=NAME:N:CODE,…  the N-th call of NAME is not made; it returns CODE
 *   KGEN_SHIM_DAMAGE=KERNEL:A:B   in code with an entry KERNEL, behind that entry's name, the first A becomes B (as long)
 *   KGEN_SHIM_NAME=NAME           the device's name is NAME: kgen makes machine code for what is not the PTX machine
 *   KGEN_SHIM_VERSION=N           the driver's version is N
 *   KGEN_SHIM_CUBINS=DIR          loading what is in a file DIR/X.cubin loads DIR/X.ptx, if there is one
 *   KGEN_SHIM_COUNT=FILE          at exit, a line "NAME calls" of each function that was called, and "cubin N" where some
 *                                 were so loaded
 * Arguments are words or pointers, twelve at most: they are handed on unseen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int function(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                     uintptr_t, uintptr_t, uintptr_t);

/* As runtime/dev_cuda.c names them: one that is missing here makes every test fail. */
#define FUNCTIONS(X)                                                                                                   \
    X(cuInit) X(cuGetErrorName) X(cuGetErrorString) X(cuDriverGetVersion) X(cuDeviceGetCount) X(cuDeviceGet)           \
    X(cuDeviceGetName) X(cuDeviceGetAttribute) X(cuDeviceTotalMem_v2) X(cuDevicePrimaryCtxRetain)                      \
    X(cuDevicePrimaryCtxRelease_v2) X(cuCtxSetCurrent) X(cuMemGetInfo_v2) X(cuMemAlloc_v2) X(cuMemFree_v2)             \
    X(cuMemcpyHtoDAsync_v2) X(cuMemcpyDtoHAsync_v2) X(cuMemsetD8Async) X(cuStreamCreate) X(cuStreamDestroy_v2)         \
    X(cuStreamSynchronize) X(cuStreamBeginCapture_v2) X(cuStreamEndCapture) X(cuEventCreate) X(cuEventDestroy_v2)      \
    X(cuEventRecord) X(cuEventSynchronize) X(cuEventElapsedTime) X(cuModuleLoadDataEx) X(cuModuleUnload)               \
    X(cuModuleGetFunction) X(cuLaunchKernel) X(cuLaunchKernelEx) X(cuFuncSetAttribute)                                 \
    X(cuMemPoolCreate) X(cuMemPoolDestroy) X(cuMemPoolSetAttribute) X(cuMemPoolGetAttribute) X(cuMemPoolTrimTo)        \
    X(cuMemAllocFromPoolAsync) X(cuMemFreeAsync) X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) X(cuGraphDestroy) X(cuGraphExecDestroy)

enum {
#define X(NAME) AT_##NAME,
    FUNCTIONS(X)
#undef X
        N
};

static const char *const names[N] = {
#define X(NAME) #NAME,
    FUNCTIONS(X)
#undef X
};
static function *real[N];
static long calls[N];
static struct {
    char name[64];
    long at;
    int code;
} fails[4];
static char damage_kernel[128], damage_from[64], damage_to[64];
static long cubins;

__attribute__((constructor)) static void start(void) {
    const char *driver = getenv("KGEN_SHIM_DRIVER"), *fail = getenv("KGEN_SHIM_FAIL"), *damage = getenv("KGEN_SHIM_DAMAGE");
    void *library = dlopen(driver ? driver : "", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "shim: KGEN_SHIM_DRIVER: %s\n", dlerror());
        abort();
    }
    for (int i = 0; i < N; i++) *(void **)&real[i] = dlsym(library, names[i]);
    for (int i = 0; fail; i++) {
        if (i == sizeof fails / sizeof *fails || sscanf(fail, "%63[^:]:%ld:%d", fails[i].name, &fails[i].at, &fails[i].code) != 3) abort();
        fail = strchr(fail, ',');
        fail += fail != NULL;
    }
    if (damage && sscanf(damage, "%127[^:]:%63[^:]:%63[^:]", damage_kernel, damage_from, damage_to) != 3) abort();
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("KGEN_SHIM_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    for (int i = 0; f && i < N; i++)
        if (calls[i]) fprintf(f, "%s %ld\n", names[i], calls[i]);
    if (f && cubins) fprintf(f, "cubin %ld\n", cubins);
    if (f) fclose(f);
}

/* All of a file and a 0; NULL: there is none. */
static char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    char *text = calloc(1, (size_t)ftell(f) + 1);
    *n = (size_t)ftell(f);
    rewind(f);
    if (!text || fread(text, 1, *n, f) != *n) abort();
    fclose(f);
    return text;
}

/* The PTX beside the cubin that is `given`; `given` where there is none. */
static uintptr_t ptx_of(const char *dir, const Elf64_Ehdr *given) {
    char pattern[4096];
    glob_t list;
    snprintf(pattern, sizeof pattern, "%s/*.cubin", dir);
    if (glob(pattern, 0, NULL, &list)) return (uintptr_t)given;
    char *ptx = NULL;
    for (size_t i = 0, n; i < list.gl_pathc && !ptx; i++) {
        char *cubin = read_file(list.gl_pathv[i], &n);
        /* The header says where the tables are, at the file's end: with another length it is another one. */
        if (cubin && n > sizeof *given && !memcmp(cubin, given, sizeof *given) && !memcmp(cubin, given, n)) {
            strcpy(strrchr(list.gl_pathv[i], '.'), ".ptx");
            ptx = read_file(list.gl_pathv[i], &n);
            cubins += ptx != NULL;
        }
        free(cubin);
    }
    globfree(&list);
    return ptx ? (uintptr_t)ptx : (uintptr_t)given;
}

/* The image to load: a copy that is damaged, where it is to be. */
static uintptr_t image(uintptr_t given) {
    char entry[160];
    const char *dir = getenv("KGEN_SHIM_CUBINS");
    if (!memcmp((const void *)given, ELFMAG, SELFMAG)) return dir ? ptx_of(dir, (const Elf64_Ehdr *)given) : given;
    snprintf(entry, sizeof entry, ".entry %s", damage_kernel);
    if (!*damage_kernel || !strstr((const char *)given, entry)) return given;
    char *copy = strdup((const char *)given), *at = strstr(strstr(copy, entry), damage_from);
    if (!at || strlen(damage_from) != strlen(damage_to)) abort();
    memcpy(at, damage_to, strlen(damage_to));
    return (uintptr_t)copy;
}

/* What the call is to return instead of being made; 0: it is made. */
static int failing(int which) {
    calls[which]++;
    for (size_t i = 0; i < sizeof fails / sizeof *fails; i++)
        if (fails[i].at == calls[which] && !strcmp(fails[i].name, names[which])) return fails[i].code;
    return 0;
}

#define X(NAME)                                                                                                        \
    __attribute__((visibility("default"))) int NAME(uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e,   \
                                                    uintptr_t f, uintptr_t g, uintptr_t h, uintptr_t i, uintptr_t j,   \
                                                    uintptr_t k, uintptr_t l) {                                        \
        int code = failing(AT_##NAME);                                                                                 \
        if (code) return code;                                                                                         \
        if (AT_##NAME == AT_cuModuleLoadDataEx) b = image(b);                                                          \
        if (AT_##NAME == AT_cuDeviceGetName && getenv("KGEN_SHIM_NAME"))                                               \
            return snprintf((char *)a, b, "%s", getenv("KGEN_SHIM_NAME")) < 0;                                         \
        if (AT_##NAME == AT_cuDriverGetVersion && getenv("KGEN_SHIM_VERSION"))                                         \
            return *(int *)a = atoi(getenv("KGEN_SHIM_VERSION")), 0;                                                   \
        return real[AT_##NAME](a, b, c, d, e, f, g, h, i, j, k, l);                                                    \
    }
FUNCTIONS(X)
