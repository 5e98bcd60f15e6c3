/* driver: the state behind the CUDA driver API, shared by driver.c, stream.c, graph.c and the api_*.c files.
 *
 * One device, any number of contexts on it. A context owns its streams, events, modules, memory pools and allocations
 * and takes them along when it is destroyed. Handles that programs hold are never pointers: they name a slot of one
 * table together with its kind and generation, so that a freed, foreign or invented handle is told from a live one.
 *
 * Work runs in submission order, at submission unless something before it is still running (see stream.c). One lock
 * guards everything here; kernels and host functions run without it, so that other threads can go on.
 *
 * A fault makes its context sticky: the faulting call has already returned CUDA_SUCCESS, every later one returns the
 * code.
 */
#ifndef PTXVM_DRIVER_H
#define PTXVM_DRIVER_H

#ifndef __CUDA_API_VERSION_INTERNAL
#define __CUDA_API_VERSION_INTERNAL /* every versioned symbol under its own name */
#endif
#define __CUDA_API_PUSH_VISIBILITY_DEFAULT
#include <cuda.h>
#pragma GCC visibility push(default)
#include <cudaProfiler.h>
#pragma GCC visibility pop

#include "codegen/base.h"
#include "verify/ptxvm/vm.h"
#include <pthread.h>
#include <stdio.h>

/* ---- handles ---- */

enum kind {
    KIND_FREE,
    KIND_CONTEXT,
    KIND_STREAM,
    KIND_EVENT,
    KIND_MODULE,
    KIND_FUNCTION,
    KIND_LIBRARY,
    KIND_KERNEL,
    KIND_GRAPH,
    KIND_NODE,
    KIND_EXEC,
    KIND_POOL,
    KIND_LINK,
    KIND_USER_OBJECT,
    KIND_PHYSICAL,
};

void *handle_new(enum kind kind, void *obj);          /* NULL when 2^24 handles are live */
void *handle_get(enum kind kind, const void *handle); /* the object, NULL unless live and of this kind */
void handle_drop(const void *handle);

/* Calls visit for every live object of a kind, in order of creation slot; the callback may drop the one it is given. */
void handle_each(enum kind kind, void (*visit)(void *obj, void *arg), void *arg);

/* ---- lock and entry ---- */

void driver_lock(void);
void driver_unlock(void);
void driver_wait(void);         /* lets go of the lock until driver_notify, like a condition variable */
void driver_wait_briefly(void); /* or a millisecond: for what nobody announces */
void driver_notify(void);
static inline void driver_unlock_scope(const int *unused) {
    (void)unused;
    driver_unlock();
}
#define LOCKED                                                                                                         \
    driver_lock();                                                                                                     \
    __attribute__((cleanup(driver_unlock_scope), unused)) const int locked_scope = 0

/* Opens an entry point that needs cuInit only. */
#define ENTER                                                                                                          \
    LOCKED;                                                                                                            \
    if (!driver.initialized) return CUDA_ERROR_NOT_INITIALIZED

/* Opens an entry point that needs a current, healthy context; declares `ctx`. */
#define ENTER_CTX                                                                                                      \
    ENTER;                                                                                                             \
    struct context *ctx;                                                                                               \
    {                                                                                                                  \
        CUresult r_ = context_current(&ctx);                                                                           \
        if (r_ != CUDA_SUCCESS) return r_;                                                                             \
    }

/* ---- objects ---- */

enum { N_LIMITS = CU_LIMIT_MAX, TENSOR_MAP_BYTES = 128 };

struct context {
    CUcontext handle;
    uint64_t id;
    bool primary;
    unsigned flags;
    CUresult sticky; /* CUDA_SUCCESS or the code of the first fault */
    size_t limits[N_LIMITS];
    CUfunc_cache cache;
    unsigned api_version;
    CUstream legacy; /* the object behind the default stream */
    struct own_stream {
        uint64_t thread;
        CUstream stream;
    } * own; /* [n_own] behind CU_STREAM_PER_THREAD */
    size_t n_own, cap_own;
};

struct driver {
    bool initialized;
    int arch;         /* 90 for sm_90 */
    bool arch_chosen; /* by KGEN_PTXVM_ARCH: PTX for a newer one is then refused, as hardware does */
    size_t memory;    /* bytes of device memory */
    size_t memory_used;
    size_t pinned_used;   /* bounded by `memory` too, so that no program asks the host for more than it can give */
    bool leaks, blocking; /* KGEN_PTXVM=leaks, CUDA_LAUNCH_BLOCKING=1 */
    struct context *primary;
    unsigned primary_refs, primary_flags;
};
extern struct driver driver;

/* True on the thread that runs a host function: CUDA calls from there are refused, since they could wait for
 * themselves. */
extern _Thread_local bool in_host_function;

CUresult context_current(struct context **out);
struct context *context_of(CUcontext handle);           /* NULL unless live */
CUcontext context_top(void);                            /* the calling thread's current handle, may be stale */
void context_fault(struct context *ctx, CUresult code); /* makes the context sticky, the first code wins */

struct library; /* api_library.c */

/* A loaded module: a parsed PTX text and the functions looked up so far. */
struct module {
    CUmodule handle;
    struct context *ctx;
    struct vm_module *vm;
    struct function *functions; /* list */
    struct library *library;    /* owner or NULL */
    struct module *next;        /* of the same library */
};

struct function {
    CUfunction handle;
    struct module *module;
    struct vm_function *vm;
    char *name;
    int max_dynamic_shared, carveout;
    int cluster[3]; /* set by attribute, 0: not */
    int cluster_policy, nonportable_cluster;
    struct function *next;
};

/* Appends the PTX text of an image: text, or a fatbinary. bytes 0: as much as the image itself says. Messages go to
 * log, or to standard error when it is NULL. */
CUresult image_text(const void *image, size_t bytes, struct buf *log, struct buf *out);
CUresult module_load(struct context *ctx, const void *image, size_t bytes, const char *file, struct buf *log,
                     struct module **out);
CUresult module_from_text(struct context *ctx, const char *text, size_t len, const char *file, struct buf *log,
                          struct module **out);
void module_unload(struct module *m);
CUresult module_function(struct module *m, const char *name, struct function **out);
CUresult function_attribute(const struct function *f, CUfunction_attribute attrib, int *value);
CUresult function_set_attribute(struct function *f, CUfunction_attribute attrib, int value);
CUresult function_param(const struct function *f, size_t i, size_t *offset, size_t *bytes);

/* Resident blocks per multiprocessor. */
int function_resident(const struct function *f, int threads, size_t dynamic);

void library_forget(struct module *m); /* a module is going away */

/* The function behind a kernel handle in the current context. */
CUresult kernel_function(CUkernel handle, struct function **out);

/* What cuModuleLoadDataEx and its kin were told and must answer. */
struct jit {
    char *info, *error;
    size_t info_bytes, error_bytes;
    int info_at, error_at, time_at; /* positions of the options that get an answer, -1: not given */
};
CUresult jit_options(unsigned n, const CUjit_option *options, void *const *values, struct jit *jit);
void jit_answer(const struct jit *jit, const struct buf *log, bool failed, double seconds, void **values);

/* ---- work ---- */

/* A kernel launch with its own copy of the parameter block. */
struct launch {
    CUfunction f; /* or a kernel's handle */
    unsigned grid[3], block[3], cluster[3], shared;
    bool cooperative, dependent; /* dependent: programmatic stream serialization was asked for */
    unsigned char *params;       /* [n_params] bytes in the layout of the .param space */
    size_t n_params;
};

enum { COPY_ANY = 0, COPY_DST_DEVICE = 1, COPY_SRC_DEVICE = 2 };

/* A copy of height x depth rows; pitches in bytes. Sources and targets are addresses, host or device. */
struct copy {
    uint64_t dst, src;
    size_t width, height, depth;
    size_t dst_pitch, dst_slice, src_pitch, src_slice;
    int device_sides;    /* COPY_DST_DEVICE | COPY_SRC_DEVICE: sides that the call names device memory */
    CUDA_MEMCPY3D asked; /* what a graph node reports back */
};

struct fill {
    uint64_t dst;
    unsigned value, element;     /* element: 1, 2 or 4 bytes */
    size_t width, height, pitch; /* width in elements */
};

/* A word that a stream writes or waits for; how: CU_STREAM_WAIT_VALUE_… */
struct value {
    uint64_t addr, value;
    unsigned bytes, how;
};
bool value_holds(const struct value *v); /* api_memops.c */
CUresult value_write(const struct value *v);

struct graph_place; /* api_graph_memory.c: where a graph's memory is while it is there */

enum op_kind {
    OP_EMPTY,
    OP_KERNEL,
    OP_COPY,
    OP_FILL,
    OP_HOST,
    OP_RECORD,
    OP_WAIT,
    OP_GRAPH,
    OP_ALLOC,
    OP_FREE,
    OP_WRITE_VALUE,
    OP_WAIT_VALUE
};

/* One piece of work: a stream runs it, a graph node keeps it. */
struct op {
    enum op_kind kind;
    union {
        struct launch launch;
        struct copy copy;
        struct fill fill;
        struct {
            CUhostFn fn;
            CUstreamCallback callback; /* cuStreamAddCallback's form, or NULL */
            CUstream stream;
            void *data;
        } host;
        CUevent event;             /* OP_RECORD, OP_WAIT */
        struct graph *graph;       /* OP_GRAPH: owned child */
        uint64_t addr;             /* OP_FREE: memory to release in stream order */
        struct graph_place *place; /* OP_ALLOC */
        struct value value;        /* OP_WRITE_VALUE, OP_WAIT_VALUE */
    };
};

bool op_copy(struct op *to, const struct op *from); /* deep; false when memory runs out */
void op_free(struct op *op);

/* What an operation can be refused for when it is submitted. */
CUresult op_check(struct context *ctx, const struct op *op);
CUresult launch_check(struct context *ctx, const struct launch *l);
CUresult copy_check(const struct copy *c);
CUresult fill_check(const struct fill *f);

/* Run without the lock held by the caller's scope: launch_run drops it around the kernel itself. */
struct stream;
CUresult launch_run(struct stream *s, const struct launch *l);
CUresult copy_run(const struct copy *c);
CUresult fill_run(const struct fill *f);

CUresult copy_from_3d(const CUDA_MEMCPY3D *p, struct copy *out);
CUresult launch_pack(struct function *f, void **params, void **extra, struct launch *out);
CUresult launch_attribute(struct launch *l, const CUlaunchAttribute *a);
struct function *launch_function(CUfunction handle); /* of a function or kernel handle, NULL unless live */

/* ---- streams and events (stream.c) ---- */

struct event {
    CUevent handle;
    struct context *ctx;
    unsigned flags;
    bool recorded;
    double at_s;             /* when the last record completed */
    uint64_t pending;        /* the work that records it, 0 when complete */
    struct capture *capture; /* last recorded in this capture, or NULL */
    CUgraphNode *nodes;      /* [n_nodes] what the capturing stream depended on then */
    size_t n_nodes;
};

struct stream {
    CUstream handle;
    struct context *ctx;
    uint64_t id;
    unsigned flags;
    int priority;
    bool is_default, is_legacy; /* default: legacy or per-thread, cannot be destroyed */
    struct capture *capture;
    CUgraphNode *nodes; /* [n_nodes] the next captured node's dependencies */
    size_t n_nodes;
    CUaccessPolicyWindow window;
    CUsynchronizationPolicy sync_policy;
    int mem_sync_domain;
    struct vm_chain chain; /* of the kernels at its end */
};

struct capture {
    uint64_t id;
    struct graph *graph;   /* NULL once the capture has ended */
    struct stream *origin; /* NULL once that stream is gone */
    CUstreamCaptureMode mode;
    pthread_t thread;
    bool invalid, caller_graph;
    int refs; /* streams and events that name it */
};

/* Resolves NULL, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD too. */
CUresult stream_get(struct context *ctx, CUstream handle, struct stream **out);
struct stream *stream_new(struct context *ctx, unsigned flags, int priority); /* NULL when memory runs out */
struct stream *stream_per_thread(struct context *ctx);
static inline CUstream per_thread(CUstream s) {
    return s ? s : CU_STREAM_PER_THREAD;
}

/* Hands work to a stream: captured, run now, or queued behind what still runs. Consumes *op in every case. */
CUresult stream_submit(struct stream *s, struct op *op);

/* submit, then wait for the stream; counts as a host synchronization. What the synchronous calls do. */
CUresult stream_submit_wait(struct stream *s, struct op *op);

/* Waits until everything of a stream (NULL: of the context) is done; the context's fault, if it has one, comes back. */
CUresult stream_wait(struct context *ctx, struct stream *s);
bool host_later(CUhostFn fn, void *data); /* on the worker thread, without the lock */
bool context_busy(const struct context *ctx);
void stream_wait_idle(struct context *ctx); /* the same, whatever state the context is in */
bool stream_busy(const struct stream *s);
CUresult event_wait(struct event *e);
void stream_release(struct stream *s);
void event_release(struct event *e);

/* ---- capture (api_capture.c) ---- */

CUresult capture_add(struct stream *s, struct op *op);      /* consumes *op */
CUresult capture_record(struct stream *s, struct event *e); /* of a capturing stream */
CUresult capture_wait(struct stream *s, struct event *e);   /* where the stream or the event captures */
void capture_unref(struct capture *c);
void capture_leave(struct stream *s);
void event_forget_capture(struct event *e);

/* The refusal for a call that a capture in progress forbids: a synchronizing or otherwise unsafe call (the capture
 * becomes invalid), else success. */
CUresult capture_forbids(struct context *ctx);

/* The refusal for work on the legacy stream while a blocking stream of the context captures, else success. */
CUresult capture_forbids_legacy(struct context *ctx);

/* ---- graphs (graph.c) ---- */

struct node {
    CUgraphNode handle;
    struct graph *graph;
    struct op op;
    CUgraphNode *deps; /* [n_deps] */
    size_t n_deps;
    CUgraphNode origin; /* in a clone: the node it was made from */
    bool disabled;
    size_t mark;           /* scratch of whoever walks the graph */
    void **param_pointers; /* what cuGraphKernelNodeGetParams handed out */
};

struct graph {
    CUgraph handle;
    struct node **nodes; /* [n_nodes] in order of creation */
    size_t n_nodes, cap_nodes;
    struct held {
        CUuserObject object;
        uint64_t refs;
    } * held; /* [n_held] */
    size_t n_held;
    bool is_child, is_captured; /* owned by a node; still being captured: the program cannot destroy it */
};

struct graph_exec {
    CUgraphExec handle;
    struct context *ctx;
    struct graph *graph; /* a private clone, in topological order */
    unsigned long long flags;
};

/* User objects that a graph keeps alive (api_user_object.c). */
void objects_release(struct graph *g);
bool objects_copy(struct graph *to, const struct graph *from); /* false when memory runs out */

struct graph *graph_new(void);
void graph_release(struct graph *g);
void graph_exec_release(struct graph_exec *e);
struct graph *graph_clone(const struct graph *g); /* NULL when memory runs out */

/* Adds a node and consumes *op; every dependency is a node of g, named once. */
CUresult graph_add(struct graph *g, const CUgraphNode *deps, size_t n_deps, struct op *op, struct node **out);
void node_release(struct node *n); /* also removes it from the dependencies of others */
bool graph_order(struct graph *g); /* sorts the nodes topologically; false on a cycle */
CUresult graph_submit(struct stream *s, const struct graph *g);
struct node *graph_find(const struct graph *g, CUgraphNode origin); /* the clone of a node */

/* ---- memory (api_memory.c, api_pool.c) ---- */

struct pool {
    CUmemoryPool handle;
    uint64_t used, used_high, threshold;
    int reuse[3]; /* the three reuse attributes: kept, without effect */
    uint64_t max_bytes;
    bool is_default;
};

/* What a program said about a managed allocation: kept to be answered, without effect on anything. Places are device
 * numbers, CU_DEVICE_CPU, or CU_DEVICE_INVALID for nowhere. */
struct advice {
    bool read_mostly, by_cpu, by_device; /* accessed by */
    CUdevice preferred, prefetched;
};

/* Device, pinned, managed or registered memory that a context owns. */
struct allocation {
    uint64_t base, bytes;
    enum vm_mem_kind kind;
    unsigned flags; /* of cuMemHostAlloc and cuMemHostRegister */
    struct context *ctx;
    CUmemoryPool pool;
    struct graph_place *place; /* of a graph's node, or NULL */
    uint64_t id;
    bool freeing;     /* cuMemFreeAsync was called */
    bool sync_memops; /* kept for cuPointerGetAttribute: copies always behave so here */
    struct advice advice;
    struct allocation *prev, *next;
};

CUresult memory_alloc(struct context *ctx, size_t bytes, enum vm_mem_kind kind, const char *origin,
                      struct allocation **out);
/* Device memory at a place of the machine. */
CUresult memory_alloc_at(struct context *ctx, uint64_t place, size_t bytes, const char *origin,
                         struct allocation **out);
/* Graph memory (api_graph_memory.c). A new place has one reference, the op's. */
CUresult graph_place_new(size_t bytes, struct op *out);
void graph_place_ref(struct graph_place *p);
void graph_place_unref(struct graph_place *p);
uint64_t graph_place_addr(const struct graph_place *p);
bool graph_place_at(uint64_t addr);
bool graph_place_within(uint64_t addr, uint64_t bytes);
CUresult graph_place_alloc(struct context *ctx, struct graph_place *p);
void graph_place_freed(struct allocation *a);
void memory_free_at(uint64_t base);                /* nothing when there is no such allocation any more */
struct allocation *memory_find(uint64_t addr);     /* the allocation that contains addr, or NULL */
/* All of it inside one live allocation (or module variable), or where a graph's memory will be: whether it is there is
 * known when the work runs. */
bool memory_within(uint64_t addr, uint64_t bytes);
void memory_release(struct context *ctx);          /* a context's allocations */
void pool_uncharge(CUmemoryPool pool, uint64_t bytes);

/* ---- device ---- */

CUresult device_attribute(int *value, CUdevice_attribute attrib);
int device_shared_optin(void); /* most dynamic + static shared memory of a block */
const char *error_name(CUresult r);

/* Says once per symbol that it is not supported. */
int ptxvm_unsupported(const char *name, int *said);

#endif
