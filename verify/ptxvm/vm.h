/* ptxvm: a machine that executes PTX text, and what a driver API needs of it.
 *
 * The machine owns device memory (one process-wide address space), loaded modules, and the execution of kernels. It
 * knows nothing of streams, contexts or handles: the driver (driver.c, api*.c) builds those on top. Functions that can
 * fail return a CUresult number (0 is success), so that the driver hands them on unchanged.
 *
 * Threads: every function may be called from any thread; launches are executed one after another.
 *
 * Addresses: device memory lives at VM_DEV_BASE + offset, above the 47-bit user half, so that a host dereference of a
 * device pointer always faults. Pinned and managed memory have device addresses equal to their host pointers.
 */
#ifndef KGEN_PTXVM_VM_H
#define KGEN_PTXVM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* CUresult numbers that the machine itself answers with. */
enum vm_result {
    VM_OK = 0,
    VM_INVALID_VALUE = 1,
    VM_OUT_OF_MEMORY = 2,
    VM_INVALID_PTX = 218,
    VM_NOT_FOUND = 500,
    VM_ILLEGAL_ADDRESS = 700,
    VM_OUT_OF_RESOURCES = 701,
    VM_ASSERT = 710,
    VM_STACK_ERROR = 714,
    VM_ILLEGAL_INSTRUCTION = 715,
    VM_MISALIGNED = 716,
    VM_LAUNCH_FAILED = 719,
    VM_COOP_TOO_LARGE = 720,
};

/* ---- settings, from the environment at first use ----
 * KGEN_PTXVM=fast|check|leaks (default check; leaks is check plus what is left at exit), KGEN_PTXVM_SEED=N shuffles the
 * order of warps and blocks, KGEN_PTXVM_REPORT=FILE writes the counters at exit (text to FILE, JSON to FILE.json; JSON
 * to FILE itself when its name ends in .json), KGEN_PTXVM_LAUNCHES=FILE a line of JSON for each launch, KGEN_PTXVM_THREADS=N worker threads (default: processors),
 * KGEN_PTXVM_SM=NN compute capability of the simulated device (default 120). */
struct vm_settings {
    bool check, leaks, count_memory;
    uint64_t seed;
    const char *report;   /* file, or NULL */
    const char *launches; /* the same for a line a launch */
    int threads;
    int sm;                    /* 70 … 121 */
    uint64_t max_instructions; /* per launch, 0: no bound; a launch over it fails with 702 (tests and fuzzing) */
};
struct vm_settings *vm_settings(void); /* tests may write to it */

/* ---- modules ---- */
struct vm_module;
struct vm_function;

/* Parses PTX text (need not end in NUL). file_name appears in findings. False: *log says what and on which line.
 * Globals are allocated and initialized. */
bool vm_module_load(const char *ptx, size_t len, const char *file_name, struct vm_module **out, char *log,
                    size_t log_cap);
void vm_module_free(struct vm_module *m);
const char *vm_module_file(const struct vm_module *m);

/* Number of .entry functions, and the name of the i-th (NULL past the end), in the order of the text. */
size_t vm_module_kernel_count(const struct vm_module *m);
const char *vm_module_kernel_name(const struct vm_module *m, size_t i);

/* Finds an entry and decodes everything it reaches. VM_NOT_FOUND: no such entry; VM_INVALID_PTX: an instruction that
 * the machine does not know is reachable (log: file, line, the instruction). *out belongs to the module. */
int vm_module_function(struct vm_module *m, const char *name, struct vm_function **out, char *log, size_t log_cap);

/* A .global or .const variable. */
int vm_module_global(struct vm_module *m, const char *name, uint64_t *addr, size_t *bytes);

struct vm_param {
    uint32_t off, bytes, align;
};
struct vm_function_info {
    const char *name;
    struct vm_module *module;
    unsigned n_params;
    const struct vm_param *params;
    uint32_t param_bytes;            /* the end of the last parameter */
    uint32_t static_shared;          /* bytes */
    uint32_t local_bytes;            /* per thread, along the deepest known call path */
    uint32_t const_bytes;            /* of the module's user constants */
    uint32_t regs;                   /* estimate from the virtual registers, 16 to 64 */
    uint32_t maxntid[3], reqntid[3]; /* 0: not given */
    uint32_t max_threads;            /* threads per block that a launch may use */
    uint32_t minnctapersm, maxnreg;
    uint32_t cluster[3]; /* .reqnctapercluster, 0: not given */
    int ptx_version;     /* 90 for 9.0 */
    int target_sm;       /* 90 for sm_90a */
};
const struct vm_function_info *vm_function_info(const struct vm_function *f);

/* ---- memory ---- */
#define VM_DEV_BASE 0x800000000000ull
enum vm_mem_kind { VM_MEM_DEVICE, VM_MEM_PINNED, VM_MEM_MANAGED, VM_MEM_REGISTERED, VM_MEM_MODULE };
struct vm_allocation {
    uint64_t addr, bytes;
    enum vm_mem_kind kind;
    const char *origin; /* "cuMemAlloc", or the name of a module's variable; borrowed */
    uint64_t id;        /* counts up */
    void *owner;        /* the driver's, see vm_mem_set_owner */
    bool freed;
};

/* DEVICE: 256-byte aligned, red zones around it, contents uninitialized. PINNED and MANAGED: host memory of the
 * machine, *addr is also the host pointer, contents count as initialized. origin must outlive the process. */
int vm_mem_alloc(uint64_t bytes, enum vm_mem_kind kind, const char *origin, uint64_t *addr);
/* A place: address space without memory, in which allocations come and go at addresses that stay. Aligned to align, a
 * power of two of at least 512; nothing else is put there until vm_place_drop. */
int vm_place_new(uint64_t bytes, uint64_t align, uint64_t *addr);
void vm_place_drop(uint64_t addr);
/* Device memory at [addr, addr + bytes) of a place, where there is none now. contents: what vm_place_take gave, which
 * is used up; NULL: uninitialized. vm_mem_free ends it. Neighbours are one range for copies. */
int vm_place_fill(uint64_t addr, uint64_t bytes, const char *origin, void *contents);
/* The contents of such an allocation, to be freed or given to vm_place_fill; NULL when memory runs out. */
void *vm_place_take(uint64_t addr, uint64_t bytes);
bool vm_mem_within(uint64_t addr, uint64_t bytes); /* all of it live: one allocation, or neighbours of a place */

/* addr is the start of a live allocation of vm_mem_alloc; otherwise VM_INVALID_VALUE. */
int vm_mem_free(uint64_t addr);
int vm_mem_register(void *host, uint64_t bytes); /* somebody else's host memory, until vm_mem_unregister */
int vm_mem_unregister(void *host);
/* The live allocation that contains addr (also pinned and registered). */
bool vm_mem_find(uint64_t addr, struct vm_allocation *out);
bool vm_mem_set_owner(uint64_t addr, void *owner);
void vm_mem_usage(uint64_t *used, uint64_t *total);

/* Copies and fills by the host. Each side of vm_mem_copy may be a device address or a plain host pointer (anything
 * below VM_DEV_BASE). Whole ranges inside a live allocation, else VM_INVALID_VALUE and nothing is written. The
 * initialized state travels with the bytes between device allocations; bytes from the host become initialized. */
int vm_mem_copy(uint64_t dst, uint64_t src, uint64_t bytes);
/* width 1, 2 or 4 bytes, n elements, 2-D: height rows, pitch bytes from row to row (height 1: ignored). */
int vm_mem_set(uint64_t dst, uint32_t value, int width, uint64_t n, uint64_t height, uint64_t pitch);
/* Host pointer to device bytes for the machine's own use (tests), NULL unless all lie in one live allocation. */
void *vm_mem_host(uint64_t addr, uint64_t bytes);
/* Calls f for each live allocation of the kinds cuMemFree and friends should have freed (not MODULE). */
void vm_mem_each(void (*f)(const struct vm_allocation *a, void *arg), void *arg);

/* ---- tensor maps: what cuTensorMapEncodeTiled and …Im2col write into the 128 bytes of a CUtensorMap ---- */
#define VM_TENSOR_MAP_MAGIC 0x4b544d41u
struct vm_tensor_map {
    uint64_t base;
    uint64_t dim[5];                                     /* elements, innermost first */
    uint64_t stride[4];                                  /* bytes, of dimensions 1 … rank-1 */
    uint32_t box[5];                                     /* elements; at most 256. im2col: channels, pixels */
    uint8_t elem_stride[5];                              /* 1 … 8; of dimension 0: ignored */
    uint8_t type;                                        /* CUtensorMapDataType */
    uint8_t rank;                                        /* 1 … 5 */
    uint8_t interleave, swizzle, l2_promotion, nan_fill; /* as in the CUDA headers */
    uint8_t im2col;
    int16_t lower[3], upper[3]; /* im2col: corners of the pixels' box, of dimensions 1 … rank-2 */
    uint32_t magic;
};

/* ---- launching ---- */

/* Grids that were launched one behind the other, for those that may start before their predecessors have ended: what the
 * driver keeps for a stream, all zero where everything before has ended. */
struct vm_chain {
    uint32_t first;       /* the number of the first launch that the next one may run beside, 0: none */
    uint32_t behind_wait; /* those below it may still run when the next one has waited */
};
void vm_depend_watch(void); /* a program has dependent grids: from now on launches are numbered */

struct vm_launch_params {
    uint32_t grid[3], block[3], cluster[3]; /* cluster 0,0,0 or 1,1,1: none */
    uint64_t dynamic_shared;
    const void *params; /* param_bytes, laid out as vm_function_info.params says */
    size_t param_bytes;
    bool cooperative, dependent; /* dependent: it need not wait for the end of the grids before it in its chain */
    struct vm_chain *chain;      /* NULL: it stands alone */
};

enum vm_class {
    VM_C_INT,
    VM_C_FLOAT,
    VM_C_HALF,
    VM_C_DOUBLE,
    VM_C_CONVERT,
    VM_C_SPECIAL,
    VM_C_COMPARE,
    VM_C_MOVE,
    VM_C_LOAD,
    VM_C_STORE,
    VM_C_ATOMIC,
    VM_C_ASYNC,
    VM_C_CONTROL,
    VM_C_WARP,
    VM_C_BARRIER,
    VM_C_MATRIX,
    VM_C_COUNT
};
enum vm_space { VM_S_GENERIC, VM_S_GLOBAL, VM_S_SHARED, VM_S_LOCAL, VM_S_CONST, VM_S_PARAM, VM_S_COUNT };
struct vm_counters {
    uint64_t warp_instructions[VM_C_COUNT], lane_instructions[VM_C_COUNT];
    uint64_t requests[VM_S_COUNT][2], sectors[VM_S_COUNT][2], bytes[VM_S_COUNT][2]; /* [.][0] loads, [1] stores */
    uint64_t ideal_sectors[VM_S_COUNT][2]; /* sectors if each request's bytes were contiguous */
    uint64_t unique_sectors[3];            /* of global memory, each once a launch: that were read, written, either */
    uint64_t bank_conflicts;               /* extra cycles of shared-memory requests */
    uint64_t matrix_ops, matrix_flops;     /* warp-level matrix instructions, multiply and add counted as two */
    uint64_t branches, divergent_branches, barriers;
    uint64_t blocks, warps;
};

/* A finding or an error of a launch; code is what the caller of the driver gets. */
struct vm_fault {
    int code;
    uint32_t line; /* of the PTX text */
    uint32_t block[3], thread[3];
    uint64_t address;
    char kind[40];
    char text[512]; /* the line that went to standard error, without the newline */
};

/* Runs a grid to its end. Errors of the arguments: VM_INVALID_VALUE and the like, fault->code 0. Errors of the program:
 * the code, and *fault. counters (may be NULL) gets this launch's; it is added to the process's too. */
int vm_launch(struct vm_function *f, const struct vm_launch_params *p, struct vm_fault *fault,
              struct vm_counters *counters);

/* ---- the process's report ---- */
enum vm_host_event {
    VM_H_SYNC,
    VM_H_COPY_IN,
    VM_H_COPY_OUT,
    VM_H_COPY_DEVICE,
    VM_H_SET,
    VM_H_ALLOC,
    VM_H_GRAPH_LAUNCH,
    VM_H_HOST_FUNCTION,
    VM_H_COUNT
};
void vm_report_host(enum vm_host_event e, uint64_t bytes);
/* Writes the report if asked for, and with KGEN_PTXVM=leaks one line for each allocation left. The driver calls it at
 * exit; a second call does nothing. */
void vm_at_exit(void);
/* One finding's line on standard error ("ptxvm: …"); the driver uses it for unsupported calls and leaked modules. */
void vm_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* An estimate the occupancy calls use: resident blocks per multiprocessor for this block size. */
int vm_occupancy(const struct vm_function *f, uint32_t block_threads, uint64_t dynamic_shared);

#endif
