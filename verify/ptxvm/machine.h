/* machine: the decoded form of functions and the state of a running grid. Private to the machine.
 *
 * A warp holds each register as a row of 32 elements of the register's width; a predicate is a 32-bit mask. A decoded
 * instruction names rows by their offset in the frame (bit 0 clear) or in the function's pool of constants (bit 0 set).
 * A warp runs as one or more splits: a split is a set of lanes with one program counter. A divergent branch makes a
 * join at the branch's immediate post-dominator (a JOIN instruction); splits wait there for the rest of the join's
 * lanes. */
#ifndef KGEN_PTXVM_MACHINE_H
#define KGEN_PTXVM_MACHINE_H

#include "verify/ptxvm/ptx.h"
#include "verify/ptxvm/vm.h"

#include <pthread.h>
#include <stdatomic.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;

enum row_op {
#define UN(NAME, ...) ROW_##NAME,
#define BIN(NAME, ...) ROW_##NAME,
#define TRI(NAME, ...) ROW_##NAME,
#define CMP(NAME, ...) ROW_##NAME,
#define HUN(NAME, ...) ROW_##NAME,
#define HBIN(NAME, ...) ROW_##NAME,
#define HTRI(NAME, ...) ROW_##NAME,
#define FUN(NAME) ROW_##NAME,
#include "verify/ptxvm/exec_rows.def"
#undef UN
#undef BIN
#undef TRI
#undef CMP
#undef HUN
#undef HBIN
#undef HTRI
#undef FUN
    N_ROWS
};

struct insn;
struct warp;
struct split;
/* d, a, b, c: rows (or predicate words); x: the fourth source of instructions that have one, else the carry flags. */
typedef void (*row_fn)(void *d, const void *a, const void *b, const void *c, const struct insn *in, u32 *x);
extern const row_fn vm_rows_base[N_ROWS], vm_rows_avx2[N_ROWS], vm_rows_avx512[N_ROWS];
const row_fn *vm_rows(void); /* the best of this host */

/* What an operation that is no row function answers. */
enum step {
    STEP_NEXT,   /* go on with the next instruction */
    STEP_WAIT,   /* the split waits (its state says for what); pc stays */
    STEP_SWITCH, /* the split's pc, mask or frame changed, or it is gone */
    STEP_YIELD,  /* done, but let others run: pc has been advanced */
    STEP_FAULT,
};
typedef enum step (*op_fn)(struct warp *w, struct split *s, const struct insn *in, u32 mask);

enum insn_kind { K_ROW, K_ROW4, K_BRA, K_JOIN, K_OP };
enum {
    NO_GUARD = 0xffff,
    GUARD_NOT = 0x8000,
    FP_ANY = 0xff,
    FP_FTZ = 4
}; /* fp: x86 rounding (0 rn 1 rm 2 rp 3 rz) | FTZ */
#define NO_TARGET UINT32_MAX
#define NO_ROW UINT32_MAX

struct insn {
    union {
        row_fn row;
        op_fn op;
    };
    void *ext; /* the operation's own parameters */
    s64 imm;
    u32 d, a, b, c, e;
    u32 line;
    u32 target, rejoin; /* branches: where to, and the JOIN of both ways (NO_TARGET: none) */
    u16 guard;          /* predicate number, GUARD_NOT */
    u8 kind, cls;       /* insn_kind, vm_class */
    u8 dsize;           /* bytes of an element of d; 0: a predicate */
    u8 fp;
    u8 space; /* ptx_space of memory operations */
    u8 flags; /* the operation's */
};

/* Conversions that have no row of their own: vm_convert does one lane. */
struct cvt {
    enum ptx_type from, to;
    u8 from_bytes, to_bytes; /* of the rows */
    u8 rounding;             /* 'n' 'z' 'm' 'p' 'a'(away) */
    bool integer;            /* rounding to an integral value */
    bool sat, ftz, relu, satfinite;
};
u64 vm_convert(const struct cvt *v, u64 x, u64 y);
u16 vm_f32_to_f16(float f);
float vm_f16_to_f32(u16 h);
u64 vm_float_pack(double v, enum ptx_type t, int rounding, bool satfinite); /* one narrow float from an exact value */
double vm_float_unpack(u64 bits, enum ptx_type t);

/* Operands of memory, warp, matrix and call operations. */
struct ext {
    int n; /* rows in ops */
    u32 *ops;
    u8 *sizes; /* bytes of an element of each row; 0: predicate */
    u8 bytes;  /* of one element in memory */
    u8 asize;  /* bytes of an element of the address row */
    u8 is_signed;
    u8 mode, mode2, mode3;
    u8 type, type2, type3, type4;
    u8 is_volatile, order, scope; /* order: 0 weak 1 relaxed 2 acquire 4 release (6 both) */
    int m, nn, k;                 /* shapes */
    struct code *callee;
    struct ptx_operand *list;
    u32 *arg_from, *arg_to, *arg_bytes; /* calls: parameter copies, in, then out */
    int n_in, n_out;
    u32 *targets; /* brx: instruction numbers; indirect calls: none */
    int n_targets;
    const struct mma_extra *mma; /* sparse and scaled products, else NULL */
    const struct video *video;   /* video instructions */
    const char *text;            /* the instruction */
};

/* A decoded function. Frame: n_preds words (word 0: carry flags), then rows. */
struct code {
    struct ptx_function *f;
    struct vm_module *module;
    struct insn *insns;
    u32 n, cap;
    u8 *pool;
    u32 pool_bytes, pool_cap;
    u32 n_preds, pred_bytes, frame_bytes;
    u32 n_rows_32;                /* estimate of registers */
    u32 formal_bytes, args_bytes; /* parameters of its own; .param variables for its calls */
    u32 local_bytes;
    u32 id;               /* 1 …: its address as a function pointer is VM_CODE_BASE + id * 16 */
    bool serial;          /* it talks to other blocks: atomics and the like */
    bool reserved_shared; /* it asks for the shared memory that the system keeps */
    bool decoded, failed, in_walk;
    struct code **calls;
    int n_calls, cap_calls;
    bool indirect;
    struct code *next;
};

#define VM_CODE_BASE 0x100000000000ull /* function addresses */
#define VM_SHARED_WINDOW (VM_DEV_BASE + 0x200000000000ull)
#define VM_LOCAL_WINDOW (VM_DEV_BASE + 0x210000000000ull)
#define VM_PARAM_WINDOW (VM_DEV_BASE + 0x220000000000ull)
#define VM_WINDOW_BYTES 0x20000000ull /* 17 ranks of VM_RANK_SHIFT */
#define VM_RANK_SHIFT 24 /* a shared::cluster address: (rank + 1) << 24 | offset; rank field 0 is the block itself */

struct vm_function {
    struct vm_function_info info;
    struct code *code;
    struct vm_module *module;
    u32 shared_layout; /* bytes of static shared memory with the red zones between variables */
    bool serial, reserved_shared;
    struct ptx_var **shared; /* the static shared variables that it reaches */
    u32 n_shared;
    struct vm_function *next;
};

struct vm_module {
    struct ptx_text text;
    char *file;
    struct arena arena;
    struct code *codes;
    struct vm_function *functions;
    u32 shared_static, shared_padded; /* module-wide shared variables are laid out per module */
    u32 const_bytes;
    bool globals_ready;
    bool async; /* it has instructions of the async proxy or mbarriers */
    struct vm_module *next;
    u32 serial_number;
};
struct code *vm_code_at(u64 address); /* of a function pointer, NULL for none */
bool vm_decode(struct vm_module *m, struct code *c, struct err *e);
struct code *vm_code_of(struct vm_module *m, struct ptx_function *f);
void vm_find_joins(struct code *c); /* immediate post-dominators: fills in rejoin (exec_flow.c) */
void vm_compact_rows(struct code *c, u32 *row_bytes, u32 n_rows); /* exec_flow.c */

/* ---- running ---- */
enum { MAX_WARPS = 32, MAX_BARS = 16, MAX_JOINS = 96, LANES_ALL = 32 };

struct frame {
    struct code *code;
    u8 *regs;          /* preds, then rows */
    const u8 *base[2]; /* regs, pool */
    struct frame *caller;
    const struct insn *call;
    u32 ret_pc, live;
    u32 root_pc;                      /* the call of the kernel itself that led here */
    u32 local_base, local_top, depth; /* a callee's local memory starts at local_top, above what alloca gave */
    u32 stack[32];                    /* of each lane: where alloca goes on; 0: nothing yet */
    u8 *formals, *args;               /* parameter bytes; strides between lanes */
    u32 formal_stride, args_stride;
    struct frame *next_free;
    size_t bytes;
    struct undefined *undefined; /* exec_undefined.c; NULL: every row holds what was written */
};

enum split_state { SPLIT_RUN, SPLIT_BAR, SPLIT_SYNC, SPLIT_CLUSTER };
struct split {
    u32 pc, mask;
    struct frame *frame;
    s16 join; /* innermost, -1 none */
    u8 state, bar;
    u32 sync_mask;
    u32 ready; /* a barrier that has completed for this split */
    u32 red;   /* bar.red: the result */
};
struct join {
    u32 pc, expected, arrived;
    struct frame *frame;
    s16 parent;
    bool used;
};

struct barrier {
    u32 arrived[MAX_WARPS]; /* lanes */
    u32 waiting_warps;
    u32 expected; /* threads, 0: all */
    u32 red_and, red_or, red_pop;
    u32 line;
    bool used;   /* somebody has arrived */
    u32 *clocks; /* race.h: what has arrived; a view */
};

/* Asynchronous copies in flight, of one warp; group numbers count up per lane. cp.async: off and bytes of shared
 * memory; bulk stores: the ticket of their reads. */
struct async_copy {
    u32 lane, group, off, bytes, ticket;
};

struct warp {
    struct block *block;
    u32 id, first_thread, live;
    struct split splits[32];
    int n_splits, current;
    struct join joins[MAX_JOINS];
    int n_joins;
    u32 tid[3][32];
    u8 *local, *local_shadow;
    u32 local_stride;
    u32 group[32], bulk_group[32]; /* of each lane: the group that its next copy is in */
    struct async_copy *copies;
    int n_copies, cap_copies;
    struct origin *origins;   /* [n_origins] of values that were never written (exec_undefined.c) */
    u32 barrier_at;           /* of the kernel itself: the last barrier of all threads, its pc + 1 */
    u32 wrote_at[32];         /* of the kernel itself: where a lane wrote memory last, its pc + 1 (checks only) */
    const u8 *storing;        /* what the store in progress puts there, NULL: no store, or no check */
    u32 n_origins, unwritten; /* unwritten: lanes of the load in progress */
    bool undefined, may_mark; /* some frame has marks; the load in progress can mark its result */
    u32 actor;                /* race.h: its number in the cluster, and its views */
    u32 *clocks, *fence, *acquired;
    u32 synced, seen[32]; /* what all its lanes know of each other's accesses, and what each does */
    u32 *flight;          /* for each 16 bytes of shared memory: the ticket of its last asynchronous read, 0 none */
    struct ticket *tickets;
    u32 n_tickets;
    struct flying *flying;  /* products of its group that it has not waited for (mma_group.c) */
    u32 cluster_phase;      /* of the cluster barrier, when it arrived last */
    u64 range_lo, range_hi; /* the allocation of the last checked access */
    u32 waited;             /* lanes that have waited for the grids before (depend.c) */
    bool done, polling;     /* polling: in this turn it has found an mbarrier not ready */
    bool careful;           /* registers of products in flight are watched */
};

struct race_word;
struct race; /* what the detector of races knows of a cluster (race.h) */
struct cluster {
    struct block **blocks;
    u32 n_blocks, phase;
    u32 polls; /* turns in a row that ended at an mbarrier that is not ready */
    struct race *race;
};
/* Blocks that run together: one, a cluster, or the whole grid of a cooperative launch. */
struct gang {
    struct worker *worker;
    struct block **blocks;
    struct cluster *clusters;
    u32 n_blocks, n_clusters, left;
    u64 first_block;
    struct gang *next;
};
struct block {
    struct gang *gang;
    struct worker *worker;
    struct cluster *cluster;
    u32 ctaid[3], rank, linear, cluster_id[3], cluster_ctaid[3];
    u32 n_threads, n_warps, live_warps;
    struct warp *warps;
    u8 *shared, *shared_shadow;
    u32 shared_bytes, shared_cap;
    struct race_word *races; /* race.h: cells of words, then of their bytes; each warp's reads of them */
    u64 *reads, *remote_reads[16];
    u32 n_cells, flights;
    u32 *views;
    struct barrier bars[MAX_BARS];
    u32 cluster_arrived[MAX_WARPS];
    u8 order[MAX_WARPS]; /* in which warps get their turns */
    struct block *next_spare;
    bool gang_check, gang_count; /* the launch's checks and counters of memory */
    bool gang_depend, waited;    /* accesses are shown to depend.c; some thread has waited */
    bool done;
};

struct launch {
    struct vm_function *f;
    struct code *code;
    struct vm_launch_params p;
    u32 cluster[3];
    u64 n_gangs, blocks_per_gang, n_blocks;
    u8 *params; /* zero-padded copy */
    u8 *shadow; /* of a block's shared memory at its start */
    bool check, count_memory;
    atomic_ullong *touched; /* count.c: of each sector of the arena, whether it was read (1), written (2); or NULL */
    /* depend.c: its number, 0: nothing is noted; the first launch that may run beside it, 0: none; those from there on
     * and below behind_wait may do so even behind its wait */
    u32 number, first_unfinished, behind_wait;
    _Atomic bool has_waited;
    atomic_ullong next_gang;
    atomic_ullong fault_block; /* lowest block with a fault so far */
    atomic_llong steps_left;
    pthread_mutex_t lock;
    struct vm_fault fault;
    u64 seed;
    u32 shared_total, shared_static, shared_reserved; /* reserved: where it begins */
    u32 n_actors, view;                               /* race.h */
    u64 start_ns, workspace;
};

struct worker {
    struct launch *launch;
    struct vm_counters counters;
    struct frame *free_frames;
    struct block *spare;
    int fp;    /* the floating-point mode now in force */
    int fault; /* code, 0 none */
    pthread_t thread;
};

/* fault and check (check.c): records the first finding of the launch and ends the warp. */
enum step vm_fault_at(struct warp *w, const struct split *s, const struct insn *in, int lane, int code,
                      const char *kind, u64 address, const char *fmt, ...) __attribute__((format(printf, 8, 9)));

static inline void *row(const struct frame *f, u32 op) {
    return (void *)(f->base[op & 1] + (op & ~1u));
}
static inline u32 lanes(u32 mask) {
    return mask == ~0u ? 32 : (u32)__builtin_popcount(mask);
}
#define EACH_LANE(i, m) for (u32 m_ = (m), i; m_ && (i = (u32)__builtin_ctz(m_), 1); m_ &= m_ - 1)
/* Where the kernel itself stands: in a function, at the call. + 1: 0 is nowhere. */
static inline u32 kernel_at(const struct split *s) {
    return (s->frame->caller ? s->frame->root_pc : s->pc) + 1;
}
/* Lanes of m that have ended although they wrote memory behind this place: they have passed it by, and did not return
 * early as kernels do for threads without work. */
static inline u32 passed_by(const struct warp *w, const struct split *s, u32 m) {
    u32 found = 0, at = kernel_at(s);
    m &= ~w->live;
    for (u32 i = 0; m >> i && i < 32; i++) found |= (u32)(m >> i & 1 && w->wrote_at[i] > at) << i;
    return found;
}
static inline void note_write(struct warp *w, const struct split *s, u32 m) {
    u32 at = kernel_at(s);
    EACH_LANE(i, m) w->wrote_at[i] = at;
}
static inline u64 row_get(const void *r, u32 lane, int size) {
    return size == 4   ? ((const u32 *)r)[lane]
           : size == 8 ? ((const u64 *)r)[lane]
           : size == 2 ? ((const u16 *)r)[lane]
                       : *(const u32 *)r >> lane & 1;
}
static inline void row_put(void *r, u32 lane, int size, u64 v) {
    if (size == 4)
        ((u32 *)r)[lane] = (u32)v;
    else if (size == 8)
        ((u64 *)r)[lane] = v;
    else if (size == 2)
        ((u16 *)r)[lane] = (u16)v;
    else if (size == 0)
        *(u32 *)r = (*(u32 *)r & ~(1u << lane)) | (u32)(v & 1) << lane;
}

/* exec_warp.c */
enum run { RUN_BLOCKED, RUN_BUDGET, RUN_DONE, RUN_FAULT };
enum run vm_warp_run(struct warp *w, s64 *steps);
void vm_warp_start(struct warp *w);
void vm_lanes_exit(struct warp *w, struct split *s, u32 mask);
enum step vm_diverge(struct warp *w, struct split *s, u32 n, const u32 *masks, const u32 *pcs, u32 rejoin);
struct frame *vm_frame_new(struct warp *w, struct code *c, struct frame *caller);
void vm_frame_drop(struct warp *w, struct frame *f, u32 mask);
void vm_leave_joins(struct warp *w, struct split *s, const struct frame *of);

enum { RESERVED_SHARED = 1024 };
enum {
    SREG_ENV = 100
}; /* %envregN is special register 100 + N; 1 and 2: address of a cooperative launch's workspace */

/* exec_block.c */
bool vm_barriers(struct block *b); /* lets go what is complete; true: something was */
struct block *vm_block_new(struct gang *g, u64 linear);
void vm_block_free(struct block *b);
/* One turn for each warp. 0: nothing could move; 1: progress; 2: a fault. */
int vm_block_turn(struct block *b, s64 *steps);
void vm_block_release(struct worker *k);
/* Gathers the splits that execute a warp-wide instruction together: 0: s waits for others of `member`; else their
 * number, each with its own instruction, lanes and operands; all but s have been advanced past it. */
struct part {
    struct frame *frame;
    const struct insn *in;
    u32 mask;
};
int vm_converge(struct warp *w, struct split *s, const struct insn *in, u32 mask, u32 member, struct part parts[32]);
u32 vm_member_mask(const struct split *s, const struct insn *in, u32 op, u32 mask);

/* Operations, for the decoder. */
enum step op_exit(struct warp *, struct split *, const struct insn *, u32);
enum step op_trap(struct warp *, struct split *, const struct insn *, u32);
enum step op_call(struct warp *, struct split *, const struct insn *, u32);
enum step op_ret(struct warp *, struct split *, const struct insn *, u32);
enum step op_brx(struct warp *, struct split *, const struct insn *, u32);
enum step op_local(struct warp *, struct split *, const struct insn *, u32);
enum step op_stack(struct warp *, struct split *, const struct insn *, u32);
enum step op_sreg(struct warp *, struct split *, const struct insn *, u32);
enum step op_nanosleep(struct warp *, struct split *, const struct insn *, u32);
enum step op_nop(struct warp *, struct split *, const struct insn *, u32);
enum step op_bar(struct warp *, struct split *, const struct insn *, u32);
enum step op_cluster_bar(struct warp *, struct split *, const struct insn *, u32);
enum step op_warpsync(struct warp *, struct split *, const struct insn *, u32);
enum step op_shfl(struct warp *, struct split *, const struct insn *, u32);
enum step op_vote(struct warp *, struct split *, const struct insn *, u32);
enum step op_match(struct warp *, struct split *, const struct insn *, u32);
enum step op_redux(struct warp *, struct split *, const struct insn *, u32);
enum step op_elect(struct warp *, struct split *, const struct insn *, u32);
enum step op_activemask(struct warp *, struct split *, const struct insn *, u32);
enum step op_ld(struct warp *, struct split *, const struct insn *, u32);
enum step op_st(struct warp *, struct split *, const struct insn *, u32);
enum step op_ldparam(struct warp *, struct split *, const struct insn *, u32);
enum step op_stparam(struct warp *, struct split *, const struct insn *, u32);
enum step op_atom(struct warp *, struct split *, const struct insn *, u32);
enum step op_fence(struct warp *, struct split *, const struct insn *, u32);
enum step op_line(struct warp *, struct split *, const struct insn *, u32);
enum step op_cpasync(struct warp *, struct split *, const struct insn *, u32);
enum step op_cpasync_group(struct warp *, struct split *, const struct insn *, u32);
enum step op_cvt_rs(struct warp *, struct split *, const struct insn *, u32);
enum step op_cvt_pack(struct warp *, struct split *, const struct insn *, u32);
enum step op_mma(struct warp *, struct split *, const struct insn *, u32);
enum step op_wmma_load(struct warp *, struct split *, const struct insn *, u32);
enum step op_wmma_store(struct warp *, struct split *, const struct insn *, u32);
enum step op_ldmatrix(struct warp *, struct split *, const struct insn *, u32);
enum step op_stmatrix(struct warp *, struct split *, const struct insn *, u32);
enum step op_movmatrix(struct warp *, struct split *, const struct insn *, u32);
enum step op_vprintf(struct warp *, struct split *, const struct insn *, u32);
enum step op_heap(struct warp *, struct split *, const struct insn *, u32);
enum {
    MBARRIER_INIT,
    MBARRIER_INVAL,
    MBARRIER_ARRIVE,
    MBARRIER_DROP,
    MBARRIER_EXPECT,
    MBARRIER_COMPLETE,
    MBARRIER_WAIT,
    MBARRIER_PENDING_COUNT,
    MBARRIER_ASYNC
};
enum step op_mbarrier(struct warp *, struct split *, const struct insn *, u32);
enum step op_bulk(struct warp *, struct split *, const struct insn *, u32);
enum step op_wgmma(struct warp *, struct split *, const struct insn *, u32);
enum step op_bulk_group(struct warp *, struct split *, const struct insn *, u32);
enum { /* what tensormap.replace changes */
       TENSORMAP_ADDRESS,
       TENSORMAP_RANK,
       TENSORMAP_BOX,
       TENSORMAP_DIM,
       TENSORMAP_STRIDE,
       TENSORMAP_ELEMENT_STRIDE,
       TENSORMAP_TYPE,
       TENSORMAP_INTERLEAVE,
       TENSORMAP_SWIZZLE,
       TENSORMAP_ATOMICITY,
       TENSORMAP_FILL
};
enum step op_tensormap_replace(struct warp *, struct split *, const struct insn *, u32);
enum step op_tensormap_copy(struct warp *, struct split *, const struct insn *, u32);
bool vm_flying_check(struct warp *w, struct split *s, const struct insn *in); /* it reads no register of a product that
                                                                                 nobody has waited for (mma_group.c) */
void vm_flying_reset(struct warp *w);
void vm_flying_free(struct warp *w);
enum step op_wgmma_group(struct warp *, struct split *, const struct insn *, u32);
enum step op_store_async(struct warp *, struct split *, const struct insn *, u32);
u64 vm_atomic_value(int op, enum ptx_type t, u64 old, u64 value); /* one reduction */
enum step op_mapa(struct warp *, struct split *, const struct insn *, u32);

/* ---- memory (mem*.c) ---- */
enum { ACCESS_LOAD = 1, ACCESS_STORE = 2, ACCESS_ATOMIC = 3 };
enum { SHADOW_ADDRESSABLE = 1, SHADOW_INIT = 2, SHADOW_OK = 3, SHADOW_FREED = 4, SHADOW_REDZONE = 8 };
extern u8 *vm_arena, *vm_arena_shadow;
extern u64 vm_arena_bytes;
int vm_address_is(u64 address, int space);
/* Host address of lane's bytes in a space, after all checks; NULL after a fault was recorded. */
u8 *vm_lane_pointer(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 space, u64 address, u32 bytes,
                    int access);
u64 vm_lane_address(const struct split *s, const struct insn *in, const struct ext *x, u32 lane);
/* Memory that is no part of the arena: pinned, managed, registered. NULL: none; *end is the end of the allocation. */
u8 *vm_host_memory(u64 address, u64 bytes);
bool vm_memory_init(void);
void vm_memory_nearest(u64 address, char *out, size_t cap); /* "nearest allocation …" */
bool vm_memory_freed(u64 address);

/* exec_undefined.c: values that were never written. What answers false has recorded a fault. */
bool vm_undefined_step(struct warp *w, const struct split *s, const struct insn *in,
                       u32 mask); /* before each instruction */
void vm_undefined_loaded(struct warp *w, struct split *s, const struct insn *in, u32 m, const u64 *addr, u8 **p);
bool vm_undefined_stored(struct warp *w, struct split *s, const struct insn *in, u32 m, u8 space, u8 **p);
void vm_undefined_shuffle(struct frame *to, u32 d, const struct frame *from, u32 a, const u32 *lane_from, u32 m);
/* For loads and stores of matrices. Where a mark came from is a number, 0: no mark. An origin stands for the load in
 * progress in lanes m; + the lane whose address it was; 0: no memory, nothing is marked. */
u16 vm_undefined_origin(struct warp *w, struct split *s, const struct insn *in, u32 m, u32 bytes, const u64 *addr,
                        u8 **p);
bool vm_undefined_bytes(struct warp *w, u32 lane, const u8 *p, u32 bytes); /* none of them was ever written */
void vm_undefined_copied(struct warp *w, u32 lane, u8 *to, const u8 *from, u32 bytes); /* bytes, with their marks */
u32 vm_undefined_lanes(const struct frame *f, u32 op);
u16 vm_undefined_from(const struct frame *f, u32 op, u32 lane);
void vm_undefined_put(struct frame *f, u32 op, u32 m, const u16 from[32]); /* marks of a row, in place of its own */
bool vm_undefined_store(struct warp *w, struct split *s, const struct insn *in, u32 op, u32 lane, u8 *to,
                        u32 bytes); /* that lane has put its bytes there; the frame has marks */

/* depend.c: dependent grids */
void vm_depend_begin(struct launch *l);
void vm_depend_end(struct launch *l);
bool vm_depend_access(struct warp *w, const struct split *s, const struct insn *in, u32 lane, u64 address, u32 bytes,
                      int access); /* of global memory; false: a fault was recorded */
enum step op_griddepcontrol(struct warp *, struct split *, const struct insn *, u32);

/* count.c */
void vm_count_access(struct warp *w, u8 space, const u64 *addresses, u32 mask, u32 bytes, int store);
bool vm_count_begin(struct launch *l); /* false: no memory */
void vm_count_end(struct launch *l);
void vm_count_touched(struct warp *w, u64 address, u32 bytes, int store); /* of global memory: its sectors */
void vm_counters_add(struct vm_counters *to, const struct vm_counters *from);
void vm_report_launch(const char *kernel, const struct vm_counters *c);
enum ptx_space vm_space_of(u64 address);

#endif
