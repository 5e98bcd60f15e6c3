/* llvm_ptx: what differs when the lanes of the flat IR are the threads of a warp. Included by llvm_*.c only.
 *
 * A function becomes a kernel; docs/ptx.md has the mapping and the parameter block. A vector of N lanes is one value a
 * thread; where N < 32 the vector is repeated 32 / N times across the warp, so that no thread ever holds anything else
 * and a reduction needs no neutral element; where N > 32, thread t holds the lanes t, t + 32, ... (operands of mma
 * only). A scalar is computed by all threads alike; control flow is uniform.
 *
 * Threads of a warp may run apart between instructions that synchronize them, so a thread may see memory before another
 * has written it. The emission keeps the accesses since the last warp barrier and places one where the flat IR's order
 * of two accesses by different threads to memory that may be the same would otherwise be lost.
 */
#ifndef KGEN_LLVM_PTX_H
#define KGEN_LLVM_PTX_H

#include "codegen/llvm_internal.h"

enum { GLOBAL = 1, SHARED = 3 }; /* NVPTX's address spaces; 0 is generic */
enum { MAX_PENDING = 48 };

struct ptx {
    LLVMValueRef params; /* the parameter block (docs/ptx.md) */
    LLVMValueRef tid, lane, warp_of_block, begin, end;
    struct { /* the last store that some threads skip: what stands next to it under the same mask joins it */
        const struct ir_op *op;
        LLVMBasicBlockRef then, done;
    } guarded;
    bool team;                 /* a block does a task, not a warp */
    const struct ir_op *split; /* the split for around the current operation */
    LLVMValueRef scratch;      /* where states of a split for's parts pass from warp to warp */
    /* Accesses since the last warp barrier: those whose operation is known, and the memories that some other access
     * (of an earlier trip of a loop, of a branch) may have read or written. */
    const struct ir_op *pending[MAX_PENDING];
    unsigned n_pending, read, written;
};

/* Refuses what has no form on t's warps: mma without a matrix unit, long vectors outside of mma's surroundings, stacks
 * beyond a block's shared memory. */
bool ptx_check(const struct ir_module *m, const struct target *t, struct err *e);

/* em->f as a kernel. */
void ptx_func(struct emitter *em);

/* The value of an operation that differs from other targets, NULL for one that does not. a: its first operands. */
LLVMValueRef ptx_value(struct emitter *em, const struct ir_op *op, LLVMValueRef *a);

void ptx_store(struct emitter *em, const struct ir_op *op); /* store, storem or scatter */

/* llvm_ptx_tile.c's. */
LLVMValueRef ptx_mma(struct emitter *em, const struct ir_op *op, LLVMValueRef *a);
LLVMValueRef ptx_pair(struct emitter *em, const struct ir_op *op, LLVMValueRef *a); /* NULL: in steps */
LLVMValueRef ptx_ldmatrix(struct emitter *em, const struct ir_op *op, LLVMValueRef row);
void ptx_copy(struct emitter *em, const struct ir_op *op);
void ptx_wait(struct emitter *em, const struct ir_op *op);

LLVMValueRef ptx_register(struct emitter *em, LLVMValueRef v, unsigned k); /* of a long vector */
void ptx_block_barrier(struct emitter *em);

/* Around the bodies of for and if: the memories whose accesses no barrier has ordered yet. */
struct ptx_order {
    unsigned read, written;
};
struct ptx_order ptx_enter_body(struct emitter *em, const struct ir_op *op);
void ptx_leave_body(struct emitter *em, const struct ir_op *op, struct ptx_order before);

/* llvm_ptx_ahead.c, for targets with FEAT_DEPENDENT: at the entry, and behind the share of the tasks, before the
 * function's body. */
void ptx_let_successors_start(struct emitter *em);
void ptx_ahead(struct emitter *em);
bool ptx_unwritten(const struct emitter *em, const struct ir_op *op); /* a load or gather of what no launch writes */
bool ptx_crosses_threads(const struct ir_func *f, const struct ir_op *op);
LLVMValueRef ptx_address(struct emitter *em, const struct ir_op *op); /* of a load or gather, the lane's own */
void ptx_split_range(struct emitter *em, const struct ir_op *op, LLVMValueRef *lo, LLVMValueRef *step);

/* A split for: the part's first index and step instead of the loop's; behind it, its results merged in place. */
void ptx_enter_split(struct emitter *em, const struct ir_op *op, LLVMValueRef *lo, LLVMValueRef *step);
void ptx_leave_split(struct emitter *em, const struct ir_op *op);

#endif
