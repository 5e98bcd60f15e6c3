/* target: the machines code can be compiled for, by name, and the instructions each declares.
 *
 * A target belongs to a class. The class fixes everything results depend on (lanes, fused or separate multiply-add), so
 * that two targets of one class compute the same bits; cpu and features only let LLVM pick better instructions.
 * LLVM's types appear as incomplete structs: including this header needs no LLVM.
 */
#ifndef KGEN_TARGET_H
#define KGEN_TARGET_H

#include "codegen/base.h"

enum target_feature {
    FEAT_SSE2 = 1 << 0,
    FEAT_AVX2 = 1 << 1,      /* with FMA, F16C, BMI: the level x86-64-v3 */
    FEAT_AVX512 = 1 << 2,    /* F, BW, CD, DQ, VL: the level x86-64-v4 */
    FEAT_VNNI = 1 << 3,      /* AVX512-VNNI */
    FEAT_AVXVNNI = 1 << 4,   /* the VEX form, 128 and 256 bits */
    FEAT_DP4A = 1 << 5,      /* PTX: dp4a */
    FEAT_AMX = 1 << 7,       /* AMX-TILE and AMX-INT8: tile registers, which the system must have granted */
    FEAT_MMA = 1 << 6,       /* PTX: mma.sync of the shapes of ir_mma_shapes (sm_80 and later) */
    FEAT_DEPENDENT = 1 << 8, /* PTX: griddepcontrol: a kernel may start before its predecessors end (sm_90 and later) */
    FEAT_BF16 = 1 << 9,      /* AVX512-BF16: dotbf is one instruction */
};

/* Warps of a thread block of a PTX target, which every launch uses, and how many of its blocks a multiprocessor shall
 * hold at least: 128 registers a thread. (Left alone, ptxas takes 40 or 64 where it likes and spills around divisions.)
 * Functions with more accumulators of mma than a few in a loop may have all 255. */
enum { PTX_WARPS = 8, PTX_LANES = 32, PTX_BLOCKS = 2, PTX_TILE_BLOCKS = 1, PTX_THREADS = PTX_WARPS * PTX_LANES };
enum { PTX_FEW_ACCUMULATORS = 32 };

/* The one parameter of a kernel of a PTX target, an array of 64-bit words: the device address of the run-time sizes, the
 * range of tasks, the workspace, the tasks a warp does, and then the argument pointers. */
enum ptx_param { PTX_PARAM_DIMS, PTX_PARAM_BEGIN, PTX_PARAM_END, PTX_PARAM_WS, PTX_PARAM_PER, PTX_PARAM_ARGS };

struct target {
    const char *name; /* as asked for: x86-64, x86-64-v3, x86-64-v4, x86-64-v4-vnni, x86-64-v4-bf16, x86-64-v4-amx,
                         native, sm_NN */
    const char *class_name; /* x86-64, x86-64-v3, x86-64-v4 or ptx: for tunables and for what results depend on */
    unsigned lanes;         /* f32 lanes of a register */
    unsigned pack_lanes;    /* rows of a tile of packed weights */
    unsigned pack_words;    /* 32-bit words of a row side by side in it: what one load of a lane takes */
    unsigned n_vregs;       /* vector registers */
    unsigned features;      /* enum target_feature */
    bool fma;               /* the op fma rounds once */
    const char *cpu;        /* LLVM's names; class_name, cpu, cpu_features and tune identify the code generated */
    const char *cpu_features;
    const char *tune; /* whose instruction timings LLVM schedules for; NULL: cpu's */
    bool ptx;         /* a GPU: lanes are the threads of a warp; code is PTX text, which runtime/dev_cuda.h loads */
};

/* Finds a target by name; the strings it points to live as long as the process. *e lists the known names. */
bool target_find(const char *name, struct target *out, struct err *e);

/* The names of this kind of processor's targets, in order; NULL past the last. */
const char *target_name(size_t i);

/* The same for GPUs, by architecture: sm_75 … sm_121a. */
const char *target_gpu_name(size_t i);
bool target_gpu_find(const char *name, struct target *out);

/* Appends the PTX name of a function of the flat IR: PTX has no `.` and no `-` in names. */
void target_ptx_symbol(const char *name, struct buf *out);

/* Whether this machine can execute t's code. */
bool target_runs_here(const struct target *t);

/* One way of doing dot4 (docs/ir.md). `meaning` is the instruction sequence's own arithmetic on arrays, with its
 * intermediate widths and saturations; within max_umax it equals the op. `emit` builds it for exactly one register of
 * `lanes` i32 lanes. The table is in order of preference: a lowering takes the first legal row. */
struct emitter;
struct LLVMOpaqueValue;
struct dot4_impl {
    const char *name;
    unsigned requires;  /* all of these features */
    unsigned max_lanes; /* i32 lanes of the widest register it is declared for; 4 is the least */
    unsigned max_umax;
    void (*meaning)(int32_t *out, const int32_t *acc, const uint32_t *u, const uint32_t *s, unsigned lanes);
    struct LLVMOpaqueValue *(*emit)(struct emitter *em, struct LLVMOpaqueValue *acc, struct LLVMOpaqueValue *u,
                                    struct LLVMOpaqueValue *s, unsigned lanes);
};
const struct dot4_impl *target_dot4_row(size_t i); /* NULL past the last */

/* The rows of the GPUs' table; `emit` gets one lane's words, since a lane is a thread. */
const struct dot4_impl *target_gpu_dot4_row(size_t i);

/* The first legal row for t and umax; there always is one. *lanes is the widest register it may use on t. */
const struct dot4_impl *target_dot4(const struct target *t, unsigned umax, unsigned *lanes);

#endif
