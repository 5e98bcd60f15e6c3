#include "runtime/dev_cuda.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the driver: the part of its interface used here (CUDA Driver API reference; sizes and numbers from there) ----
 */

typedef struct cu_context *cu_context;
typedef struct cu_module *cu_module;
typedef struct cu_function *cu_function;
typedef struct cu_stream *cu_stream;
typedef struct cu_event *cu_event;
typedef struct cu_graph *cu_graph;
typedef struct cu_graph_exec *cu_graph_exec;
typedef struct cu_pool *cu_pool;

enum {
    CU_OUT_OF_MEMORY = 2,
    CU_STUB_LIBRARY = 34,
    CU_NO_DEVICE = 100,
    CU_INVALID_DEVICE = 101,
    CU_NO_BINARY = 209,
    CU_UNSUPPORTED_PTX = 222,
    CU_SYSTEM_DRIVER_MISMATCH = 803,
};
enum { ATTRIBUTE_MULTIPROCESSORS = 16, ATTRIBUTE_MAJOR = 75, ATTRIBUTE_MINOR = 76, ATTRIBUTE_POOLS = 115 };
enum { JIT_ERROR_LOG = 5, JIT_ERROR_LOG_BYTES = 6 };
enum { STREAM_NON_BLOCKING = 1, CAPTURE_THREAD_LOCAL = 1 };

enum { POOL_RELEASE_THRESHOLD = 4, POOL_RESERVED = 5, POOL_USED = 7 };
enum { POOL_PINNED = 1, POOL_ON_DEVICE = 1 };
struct cu_pool_properties {
    int type, handles, location, device;
    void *security;
    size_t most; /* 0: as much as there is */
    unsigned char more[56];
};

enum { LAUNCH_PROGRAMMATIC_SERIALIZATION = 6 };
struct cu_attribute {
    int id;
    uint64_t value[8]; /* a union; of this attribute, an int */
};
struct cu_launch_config {
    unsigned grid[3], block[3], shared;
    cu_stream stream;
    const struct cu_attribute *attributes;
    unsigned n_attributes;
};

/* X(field, symbol, parameters) */
#define DRIVER(X)                                                                                                      \
    X(init, "cuInit", (unsigned flags))                                                                                \
    X(error_name, "cuGetErrorName", (int code, const char **name))                                                     \
    X(error_string, "cuGetErrorString", (int code, const char **text))                                                 \
    X(version, "cuDriverGetVersion", (int *version))                                                                   \
    X(device_count, "cuDeviceGetCount", (int *n))                                                                      \
    X(device_get, "cuDeviceGet", (int *device, int ordinal))                                                           \
    X(device_name, "cuDeviceGetName", (char *name, int bytes, int device))                                             \
    X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, int device))                               \
    X(context_retain, "cuDevicePrimaryCtxRetain", (cu_context * out, int device))                                      \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (int device))                                                   \
    X(context_set, "cuCtxSetCurrent", (cu_context c))                                                                  \
    X(mem_info, "cuMemGetInfo_v2", (size_t * free, size_t * total))                                                    \
    X(mem_alloc, "cuMemAlloc_v2", (cuda_addr * out, size_t bytes))                                                     \
    X(mem_free, "cuMemFree_v2", (cuda_addr a))                                                                         \
    X(copy_in, "cuMemcpyHtoDAsync_v2", (cuda_addr to, const void *from, size_t bytes, cu_stream s))                    \
    X(copy_out, "cuMemcpyDtoHAsync_v2", (void *to, cuda_addr from, size_t bytes, cu_stream s))                         \
    X(fill, "cuMemsetD8Async", (cuda_addr to, unsigned char byte, size_t n, cu_stream s))                              \
    X(stream_new, "cuStreamCreate", (cu_stream * out, unsigned flags))                                                 \
    X(stream_free, "cuStreamDestroy_v2", (cu_stream s))                                                                \
    X(stream_sync, "cuStreamSynchronize", (cu_stream s))                                                               \
    X(capture_begin, "cuStreamBeginCapture_v2", (cu_stream s, int mode))                                               \
    X(capture_end, "cuStreamEndCapture", (cu_stream s, cu_graph * out))                                                \
    X(event_new, "cuEventCreate", (cu_event * out, unsigned flags))                                                    \
    X(event_free, "cuEventDestroy_v2", (cu_event v))                                                                   \
    X(event_record, "cuEventRecord", (cu_event v, cu_stream s))                                                        \
    X(event_sync, "cuEventSynchronize", (cu_event v))                                                                  \
    X(event_ms, "cuEventElapsedTime", (float *ms, cu_event from, cu_event to))                                         \
    X(module_load, "cuModuleLoadDataEx",                                                                               \
      (cu_module * out, const void *image, unsigned n_options, int *options, void **values))                           \
    X(module_free, "cuModuleUnload", (cu_module m))                                                                    \
    X(function, "cuModuleGetFunction", (cu_function * out, cu_module m, const char *name))                             \
    X(launch, "cuLaunchKernel",                                                                                        \
      (cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,   \
       cu_stream s, void **params, void **extra))                                                                      \
    X(graph_instantiate, "cuGraphInstantiateWithFlags", (cu_graph_exec * out, cu_graph g, unsigned long long flags))   \
    X(graph_launch, "cuGraphLaunch", (cu_graph_exec x, cu_stream s))                                                   \
    X(graph_free, "cuGraphDestroy", (cu_graph g))                                                                      \
    X(graph_exec_free, "cuGraphExecDestroy", (cu_graph_exec x))

/* What older drivers lack: NULL then. */
#define OPTIONAL(X)                                                                                                    \
    X(launch_ex, "cuLaunchKernelEx",                                                                                   \
      (const struct cu_launch_config *c, cu_function f, void **params, void **extra))                                  \
    X(pool_new, "cuMemPoolCreate", (cu_pool * out, const struct cu_pool_properties *p))                                \
    X(pool_free, "cuMemPoolDestroy", (cu_pool p))                                                                      \
    X(pool_set, "cuMemPoolSetAttribute", (cu_pool p, int attribute, const void *value))                                \
    X(pool_get, "cuMemPoolGetAttribute", (cu_pool p, int attribute, void *value))                                      \
    X(pool_trim, "cuMemPoolTrimTo", (cu_pool p, size_t keep))                                                          \
    X(pool_alloc, "cuMemAllocFromPoolAsync", (cuda_addr * out, size_t bytes, cu_pool p, cu_stream s))                  \
    X(pool_give_back, "cuMemFreeAsync", (cuda_addr a, cu_stream s))

struct driver {
#define X(FIELD, SYMBOL, PARAMS) int(*FIELD) PARAMS;
    DRIVER(X)
    OPTIONAL(X)
#undef X
};

/* The same fields, with their symbols. */
static const struct {
#define X(FIELD, SYMBOL, PARAMS) const char *FIELD;
    DRIVER(X)
    OPTIONAL(X)
#undef X
} symbol_of = {
#define X(FIELD, SYMBOL, PARAMS) .FIELD = SYMBOL,
    DRIVER(X)
    OPTIONAL(X)
#undef X
};

static pthread_once_t load_once = PTHREAD_ONCE_INIT;
static struct driver driver;
static struct err load_error;

/* The library stays loaded for the rest of the process: drivers do not expect to be unloaded. */
static void load(void) {
    static const struct {
        const char *name;
        size_t at;
        bool optional;
    } symbols[] = {
#define X(FIELD, SYMBOL, PARAMS) {SYMBOL, offsetof(struct driver, FIELD), false},
        DRIVER(X)
#undef X
#define X(FIELD, SYMBOL, PARAMS) {SYMBOL, offsetof(struct driver, FIELD), true},
        OPTIONAL(X)
#undef X
    };
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        err_set(&load_error, ERR_UNSUPPORTED,
                "there is no CUDA driver (%s): install NVIDIA's driver, or run on the processor with --device cpu",
                dlerror());
        return;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *s = dlsym(library, symbols[i].name);
        if (!s && !symbols[i].optional) {
            err_set(&load_error, ERR_UNSUPPORTED, "libcuda.so.1 has no %s: the driver is too old; CUDA 12 is needed",
                    symbols[i].name);
            return;
        }
        /* POSIX lets a data pointer from dlsym stand for a function; copied, since C has no such cast. */
        memcpy((char *)&driver + symbols[i].at, &s, sizeof s);
    }
}

static const char *what_to_try(int code) {
    switch (code) {
    case CU_OUT_OF_MEMORY:
        return "; try a smaller context (-c) or a smaller model";
    case CU_NO_DEVICE:
        return "; is CUDA_VISIBLE_DEVICES empty? Try --device cpu";
    case CU_INVALID_DEVICE:
        return "; see `kgen doctor` for the devices there are";
    case CU_STUB_LIBRARY:
        return ": this libcuda.so.1 is the toolkit's stub; install the driver";
    case CU_NO_BINARY:
    case CU_UNSUPPORTED_PTX:
        return "; the driver is older than this code: update it, or compile for an older architecture (--target)";
    case CU_SYSTEM_DRIVER_MISMATCH:
        return "; the driver's library and kernel module differ: reboot after an update";
    default:
        return code >= 700 && code < 800 ? "; a kernel failed: the PTX machine (docs/ptxvm.md) says where"
                                         : "; see `kgen doctor` for the driver and its devices, or try --device cpu";
    }
}

/* call: the driver's function that gave the code. */
static bool failed(struct err *e, int code, const char *what, const char *call) {
    const char *name = NULL, *text = NULL;
    driver.error_name(code, &name);
    driver.error_string(code, &text);
    return err_set(e, code == CU_OUT_OF_MEMORY ? ERR_MEMORY : ERR_UNSUPPORTED, "CUDA, %s: %s gives %s (%s)%s", what,
                   call, name ? name : "an unknown error", text ? text : "no description", what_to_try(code));
}

/* ---- devices ---- */

struct cuda {
    int device;
    cu_context context;
    cu_stream stream;
    char name[128];
    unsigned sm;
    int multiprocessors;
    const char *target;
    bool dependent; /* kernels may start before those before them end */
    cu_pool pool;   /* NULL: memory is the driver's own */
};

static bool enter(struct cuda *c, struct err *e) {
    int code = driver.context_set(c->context);
    return !code || failed(e, code, "making the device current", symbol_of.context_set);
}

#define CALL(what, function, ...)                                                                                      \
    do {                                                                                                               \
        int code_ = driver.function(__VA_ARGS__);                                                                      \
        if (code_) return failed(e, code_, what, symbol_of.function);                                                  \
    } while (0)

/* sm_90a runs on compute capability 9.0 only, and code for sm_90 on everything from there on. */
static const char *newest_target(unsigned sm) {
    const char *best = NULL;
    unsigned best_sm = 0;
    for (size_t i = 0; target_gpu_name(i); i++) {
        unsigned n = 0;
        char suffix = 0;
        sscanf(target_gpu_name(i), "sm_%u%c", &n, &suffix);
        if (!suffix && n <= sm && n >= best_sm) {
            best = target_gpu_name(i);
            best_sm = n;
        }
    }
    return best;
}

bool cuda_runs(const struct cuda *c, const char *target) {
    unsigned n = 0;
    char suffix = 0;
    if (sscanf(target, "sm_%u%c", &n, &suffix) < 1) return false;
    return suffix ? n == c->sm : n <= c->sm;
}

/* Memory in the order of the stream: giving it back and getting some waits for nothing, and what one session gives back is
 * the next one's. The pool keeps what it has until the device is closed. */
static bool open_pool(struct cuda *c, struct err *e) {
    int pools = 0;
    uint64_t keep = UINT64_MAX;
    bool able = driver.pool_new && driver.pool_free && driver.pool_set && driver.pool_get && driver.pool_trim &&
                driver.pool_alloc && driver.pool_give_back;
    if (!able) return true;
    CALL("asking for pools of memory", device_attribute, &pools, ATTRIBUTE_POOLS, c->device);
    if (!pools) return true;
    struct cu_pool_properties p = {.type = POOL_PINNED, .location = POOL_ON_DEVICE, .device = c->device};
    CALL("making a pool of memory", pool_new, &c->pool, &p);
    CALL("making a pool of memory", pool_set, c->pool, POOL_RELEASE_THRESHOLD, &keep);
    return true;
}

/* From CUDA 12.3 on the order of dependent launches is recorded in graphs too (edge data). */
bool cuda_can_start_early(unsigned sm, int version, bool launch_ex) {
    return sm >= 90 && version >= 12030 && launch_ex;
}

static bool open_device(struct cuda *c, int index, struct err *e) {
    int n = 0, major = 0, minor = 0, version = 0;
    CALL("starting the driver", init, 0);
    CALL("asking for the driver's version", version, &version);
    CALL("counting devices", device_count, &n);
    if (n == 0) return failed(e, CU_NO_DEVICE, "counting devices", symbol_of.device_count);
    if (index < 0 || index >= n)
        return err_set(e, ERR_UNSUPPORTED, "there is no CUDA device %d: expected 0 to %d; see `kgen doctor`", index,
                       n - 1);
    CALL("finding the device", device_get, &c->device, index);
    CALL("naming the device", device_name, c->name, sizeof c->name, c->device);
    CALL("asking for its architecture", device_attribute, &major, ATTRIBUTE_MAJOR, c->device);
    CALL("asking for its architecture", device_attribute, &minor, ATTRIBUTE_MINOR, c->device);
    CALL("counting its multiprocessors", device_attribute, &c->multiprocessors, ATTRIBUTE_MULTIPROCESSORS, c->device);
    c->sm = (unsigned)(major * 10 + minor);
    c->target = newest_target(c->sm);
    if (!c->target)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s has architecture sm_%u; kgen needs sm_75 (Turing) or newer: try --device cpu", c->name,
                       c->sm);
    /* A switch for measurements (bench/gpu.sh). */
    const char *wish = getenv("KGEN_DEPENDENT_LAUNCH");
    c->dependent = cuda_can_start_early(c->sm, version, driver.launch_ex) && !(wish && strcmp(wish, "0") == 0);
    CALL("opening the device", context_retain, &c->context, c->device);
    if (!enter(c, e)) return false;
    CALL("making a stream", stream_new, &c->stream, STREAM_NON_BLOCKING);
    return open_pool(c, e);
}

bool cuda_open(int index, struct cuda **out, struct err *e) {
    *out = NULL;
    pthread_once(&load_once, load);
    if (load_error.code) {
        *e = load_error;
        return false;
    }
    struct cuda *c = mem_new(sizeof *c);
    if (!open_device(c, index, e)) {
        cuda_close(c);
        return false;
    }
    *out = c;
    return true;
}

void cuda_close(struct cuda *c) {
    struct err ignored;
    if (!c) return;
    if (c->context && enter(c, &ignored)) {
        if (c->pool) driver.pool_free(c->pool);
        if (c->stream) driver.stream_free(c->stream);
    }
    if (c->context) driver.context_release(c->device);
    mem_free(c);
}

const char *cuda_name(const struct cuda *c) {
    return c->name;
}
const char *cuda_target(const struct cuda *c) {
    return c->target;
}
bool cuda_takes_cubin(const struct cuda *c, const char *target) {
    unsigned n = 0;
    sscanf(target, "sm_%u", &n);
    return cuda_runs(c, target) && n / 10 == c->sm / 10 && strncmp(c->name, "PTX machine", strlen("PTX machine")) != 0;
}
bool cuda_starts_early(const struct cuda *c) {
    return c->dependent;
}

/* ---- memory ---- */

bool cuda_memory(struct cuda *c, uint64_t *free, uint64_t *total, struct err *e) {
    size_t f, t;
    if (!enter(c, e)) return false;
    CALL("asking for free memory", mem_info, &f, &t);
    *free = f;
    *total = t;
    if (c->pool) { /* what it keeps for the next who asks */
        uint64_t reserved = 0, used = 0;
        CALL("asking for free memory", pool_get, c->pool, POOL_RESERVED, &reserved);
        CALL("asking for free memory", pool_get, c->pool, POOL_USED, &used);
        if (reserved > used) *free += reserved - used;
    }
    return true;
}

static int allocate(struct cuda *c, uint64_t bytes, cuda_addr *out) {
    if (!c->pool) return driver.mem_alloc(out, bytes);
    int code = driver.pool_alloc(out, bytes, c->pool, c->stream);
    if (code != CU_OUT_OF_MEMORY) return code;
    /* What the pool keeps may be in pieces. */
    driver.stream_sync(c->stream);
    driver.pool_trim(c->pool, 0);
    return driver.pool_alloc(out, bytes, c->pool, c->stream);
}

bool cuda_alloc(struct cuda *c, uint64_t bytes, cuda_addr *out, struct err *e) {
    *out = 0;
    if (!enter(c, e)) return false;
    int code = allocate(c, bytes ? bytes : 1, out);
    if (code == CU_OUT_OF_MEMORY) {
        size_t f = 0, t = 0;
        driver.mem_info(&f, &t);
        return err_set(e, ERR_MEMORY, "CUDA: %.1f MiB do not fit: %.1f of %.1f MiB of %s are free%s",
                       (double)bytes / 0x1p20, (double)f / 0x1p20, (double)t / 0x1p20, c->name, what_to_try(code));
    }
    return !code || failed(e, code, "allocating memory", c->pool ? symbol_of.pool_alloc : symbol_of.mem_alloc);
}

void cuda_free(struct cuda *c, cuda_addr a) {
    struct err ignored;
    if (!a || !enter(c, &ignored)) return;
    if (c->pool)
        driver.pool_give_back(a, c->stream);
    else
        driver.mem_free(a);
}

bool cuda_upload(struct cuda *c, cuda_addr to, const void *from, uint64_t bytes, struct err *e) {
    if (!bytes) return true;
    if (!enter(c, e)) return false;
    CALL("copying to the device", copy_in, to, from, bytes, c->stream);
    return true;
}

bool cuda_fill(struct cuda *c, cuda_addr to, uint8_t byte, uint64_t bytes, struct err *e) {
    if (!bytes) return true;
    if (!enter(c, e)) return false;
    CALL("filling memory", fill, to, byte, bytes, c->stream);
    return true;
}

bool cuda_download_later(struct cuda *c, void *to, cuda_addr from, uint64_t bytes, struct err *e) {
    if (!bytes) return true;
    if (!enter(c, e)) return false;
    CALL("copying from the device", copy_out, to, from, bytes, c->stream);
    return true;
}

bool cuda_download(struct cuda *c, void *to, cuda_addr from, uint64_t bytes, struct err *e) {
    return cuda_download_later(c, to, from, bytes, e) && cuda_sync(c, e);
}

bool cuda_sync(struct cuda *c, struct err *e) {
    if (!enter(c, e)) return false;
    CALL("waiting for the device", stream_sync, c->stream);
    return true;
}

/* ---- kernels ---- */

struct cuda_kernel {
    const struct kernel *k;
    cu_module module;
    cu_function *functions; /* of all parts, phase by phase */
};

static bool load_module(struct cuda *c, const struct kernel *k, cu_module *out, struct err *e) {
    char log[512] = "";
    int options[] = {JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES};
    void *values[] = {log, (void *)(uintptr_t)sizeof log};
    if (!enter(c, e)) return false;
    int code = k->cubin.len ? driver.module_load(out, k->cubin.data, 2, options, values) : 0;
    if (k->cubin.len && !code) return true;
    if (code) {
        static bool warned;
        const char *name = NULL;
        driver.error_name(code, &name);
        warn_once(&warned, "the driver refuses assembled code (%s); it compiles the kernels itself", name ? name : "?");
        *log = 0;
    }
    code = driver.module_load(out, k->ptx, 2, options, values);
    if (!code) return true;
    failed(e, code, "loading code", symbol_of.module_load);
    log[sizeof log - 1] = 0;
    return err_prefix(e, "kernel '%s'%s%s", k->name, *log ? ": " : "", log);
}

static bool find_functions(struct cuda_kernel *ck, struct err *e) {
    const struct kernel *k = ck->k;
    size_t n = 0;
    for (size_t i = 0; i < k->n_phases; i++) n += k->phases[i].n_parts;
    ck->functions = mem_new(n * sizeof *ck->functions);
    n = 0;
    for (size_t i = 0; i < k->n_phases; i++)
        for (size_t j = 0; j < k->phases[i].n_parts; j++) {
            struct buf symbol = {0};
            target_ptx_symbol(k->phases[i].parts[j].name, &symbol);
            int code = driver.function(&ck->functions[n++], ck->module, symbol.data);
            buf_free(&symbol);
            if (code) {
                failed(e, code, "looking up a function", symbol_of.function);
                return err_prefix(e, "kernel '%s', function '%s'", k->name, k->phases[i].parts[j].name);
            }
        }
    return true;
}

bool cuda_kernel_new(struct cuda *c, const struct kernel *k, struct cuda_kernel **out, struct err *e) {
    *out = NULL;
    if (!k->ptx) return err_set(e, ERR_USAGE, "kernel '%s' was not compiled for a GPU", k->name);
    struct cuda_kernel *ck = mem_new(sizeof *ck);
    ck->k = k;
    if (!load_module(c, k, &ck->module, e) || !find_functions(ck, e)) {
        cuda_kernel_free(c, ck);
        return false;
    }
    *out = ck;
    return true;
}

void cuda_kernel_free(struct cuda *c, struct cuda_kernel *k) {
    struct err ignored;
    if (!k) return;
    if (k->module && enter(c, &ignored)) driver.module_free(k->module);
    mem_free(k->functions);
    mem_free(k);
}

void cuda_dims(const struct kernel *k, const int64_t *sizes, int64_t *out) {
    for (size_t i = 0; i < k->n_dims; i++) out[i] = sizes[k->dims[i]];
}

enum { MAX_BLOCKS = 1 << 20, TEAMS = 8 /* a multiprocessor */, MAX_ARGS = 256 };

/* A warp a task, or a block (a team); where that is more than a grid should have, several tasks each. */
static bool launch_part(struct cuda *c, cu_function f, const struct kernel *k, bool team, const struct cuda_launch *l,
                        int64_t begin, int64_t end, struct err *e) {
    uint64_t block[PTX_PARAM_ARGS + MAX_ARGS];
    /* What a team computes for itself before its tasks pays off over several. */
    int64_t of_block = team ? 1 : PTX_WARPS, n = end - begin;
    int64_t most = team ? (int64_t)TEAMS * c->multiprocessors : (int64_t)MAX_BLOCKS * of_block, per = (n + most - 1) / most;
    if (n <= 0) return true;
    if (l->whole) per = n;
    int64_t workers = (n + per - 1) / per;
    block[PTX_PARAM_DIMS] = l->dims;
    block[PTX_PARAM_BEGIN] = (uint64_t)begin;
    block[PTX_PARAM_END] = (uint64_t)end;
    block[PTX_PARAM_WS] = l->ws;
    block[PTX_PARAM_PER] = (uint64_t)per;
    for (size_t i = 0; i < k->n_args; i++) block[PTX_PARAM_ARGS + i] = l->args[i];
    void *params[] = {block};
    unsigned n_blocks = (unsigned)((workers + of_block - 1) / of_block);
    if (c->dependent && k->dependent) {
        struct cu_attribute early = {LAUNCH_PROGRAMMATIC_SERIALIZATION, {1}};
        struct cu_launch_config config = {.grid = {n_blocks, 1, 1},
                                          .block = {PTX_THREADS, 1, 1},
                                          .stream = c->stream,
                                          .attributes = &early,
                                          .n_attributes = 1};
        CALL("launching a kernel", launch_ex, &config, f, params, NULL);
        return true;
    }
    CALL("launching a kernel", launch, f, n_blocks, 1, 1, PTX_THREADS, 1, 1, 0, c->stream, params, NULL);
    return true;
}

bool cuda_launch(struct cuda *c, const struct cuda_kernel *ck, const struct cuda_launch *l, struct err *e) {
    const struct kernel *k = ck->k;
    size_t n = 0;
    if (k->n_args > MAX_ARGS)
        return err_set(e, ERR_UNSUPPORTED, "kernel '%s' has %zu arguments; at most %d fit a launch", k->name, k->n_args,
                       MAX_ARGS);
    if (!enter(c, e)) return false;
    for (size_t i = 0; i < k->n_phases; i++)
        for (size_t j = 0; j < k->phases[i].n_parts; j++) {
            int64_t begin = 0, end = part_tasks(&k->phases[i].parts[j], l->sizes);
            if (l->range) {
                begin = l->range[0] < end ? l->range[0] : end;
                end = l->range[1] < end ? l->range[1] : end;
            }
            cu_function f = ck->functions[n++];
            if (l->phase && (size_t)l->phase != i + 1) continue;
            if (!launch_part(c, f, k, k->phases[i].parts[j].team, l, begin, end, e))
                return err_prefix(e, "kernel '%s', %s", k->name, k->phases[i].parts[j].name);
        }
    return true;
}

/* ---- events ---- */

/* The driver's own handles, under names of ours. */
bool cuda_event_new(struct cuda *c, struct cuda_event **out, struct err *e) {
    cu_event v;
    *out = NULL;
    if (!enter(c, e)) return false;
    CALL("making an event", event_new, &v, 0);
    *out = (struct cuda_event *)v;
    return true;
}

void cuda_event_free(struct cuda *c, struct cuda_event *v) {
    struct err ignored;
    if (v && enter(c, &ignored)) driver.event_free((cu_event)v);
}

bool cuda_event_record(struct cuda *c, struct cuda_event *v, struct err *e) {
    if (!enter(c, e)) return false;
    CALL("recording an event", event_record, (cu_event)v, c->stream);
    return true;
}

bool cuda_event_ms(struct cuda *c, struct cuda_event *from, struct cuda_event *to, float *ms, struct err *e) {
    if (!enter(c, e)) return false;
    CALL("waiting for an event", event_sync, (cu_event)to);
    CALL("reading events", event_ms, ms, (cu_event)from, (cu_event)to);
    return true;
}

/* ---- graphs ---- */

struct cuda_graph {
    cu_graph graph;
    cu_graph_exec exec;
};

bool cuda_capture_begin(struct cuda *c, struct err *e) {
    if (!enter(c, e)) return false;
    CALL("starting to record", capture_begin, c->stream, CAPTURE_THREAD_LOCAL);
    return true;
}

bool cuda_capture_end(struct cuda *c, struct cuda_graph **out, struct err *e) {
    *out = NULL;
    if (!enter(c, e)) return false;
    struct cuda_graph *g = mem_new(sizeof *g);
    int code = driver.capture_end(c->stream, &g->graph);
    if (code) { /* should it still be recording, nothing could be given back */
        g->graph = NULL;
        driver.capture_end(c->stream, &g->graph);
    }
    const char *call = symbol_of.capture_end;
    if (!code) {
        code = driver.graph_instantiate(&g->exec, g->graph, 0);
        call = symbol_of.graph_instantiate;
    }
    if (code) {
        cuda_graph_free(c, g);
        return failed(e, code, "recording launches", call);
    }
    *out = g;
    return true;
}

bool cuda_graph_launch(struct cuda *c, struct cuda_graph *g, struct err *e) {
    if (!enter(c, e)) return false;
    CALL("launching a graph", graph_launch, g->exec, c->stream);
    return true;
}

void cuda_graph_free(struct cuda *c, struct cuda_graph *g) {
    struct err ignored;
    if (!g) return;
    if (enter(c, &ignored)) {
        if (g->exec) driver.graph_exec_free(g->exec);
        if (g->graph) driver.graph_free(g->graph);
    }
    mem_free(g);
}
