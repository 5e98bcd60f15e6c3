/* llvm_internal: what the files that speak to LLVM share. Included by llvm_*.c and target_*.c only. */
#ifndef KGEN_LLVM_INTERNAL_H
#define KGEN_LLVM_INTERNAL_H

#include "codegen/codegen.h"
#include "codegen/ir.h"
#include "codegen/target.h"

#include <llvm-c/Core.h>
#include <llvm-c/Error.h>

/* The emission of one function. */
struct emitter {
    const struct target *target;
    const struct ir_func *f;
    LLVMContextRef ctx;
    LLVMModuleRef module;
    LLVMBuilderRef b;
    LLVMValueRef func;
    LLVMBasicBlockRef allocas; /* the entry block: only stack allocations and a branch */
    LLVMValueRef *values;      /* per ir_value */
    unsigned invariant_load;   /* metadata kind */
    unsigned n_tiledots;       /* emitted so far */
    struct ptx *ptx;           /* llvm_ptx.c's, NULL for other targets */
};

/* For PTX, a vector is one lane's value, since a lane is a thread. */
LLVMTypeRef llvm_type(struct emitter *em, struct ir_type t); /* f16 is i16: LLVM never computes with half */
LLVMValueRef llvm_const(struct emitter *em, struct ir_type t, uint64_t bits); /* in every lane */
LLVMValueRef llvm_call(struct emitter *em, const char *name, LLVMTypeRef overload, unsigned n, LLVMValueRef *args);
LLVMValueRef llvm_bitcast(struct emitter *em, LLVMValueRef v, struct ir_type t);

static inline LLVMTypeRef i32_type(const struct emitter *em) {
    return LLVMInt32TypeInContext(em->ctx);
}
static inline LLVMTypeRef i64_type(const struct emitter *em) {
    return LLVMInt64TypeInContext(em->ctx);
}
static inline LLVMValueRef k32(const struct emitter *em, uint32_t k) {
    return LLVMConstInt(i32_type(em), k, 0);
}
static inline LLVMValueRef k64(const struct emitter *em, int64_t k) {
    return LLVMConstInt(i64_type(em), (uint64_t)k, 1);
}

void llvm_mark_invariant(struct emitter *em, LLVMValueRef load);
LLVMValueRef llvm_byte_offset(struct emitter *em, LLVMValueRef base, LLVMValueRef off);
LLVMBasicBlockRef llvm_new_block(struct emitter *em);
void llvm_emit_block(struct emitter *em, const struct ir_block *b);
LLVMValueRef llvm_emit_value(struct emitter *em, const struct ir_op *op); /* of one that has one */

/* The lanes first, first+1, ... of v; lanes outside v are zero. */
LLVMValueRef llvm_lanes(struct emitter *em, LLVMValueRef v, unsigned first, unsigned n);
LLVMValueRef llvm_shuffle(struct emitter *em, LLVMValueRef a, LLVMValueRef b, const unsigned *index, unsigned n);
LLVMValueRef llvm_fpext(struct emitter *em, LLVMValueRef v, struct ir_type t);   /* t: f32 */
LLVMValueRef llvm_fptrunc(struct emitter *em, LLVMValueRef v, struct ir_type t); /* t: f16 */

/* f of n lanes, in registers of `width` lanes: a longer vector in parts, one shorter than `least` padded. f gets n_args
 * <= 3 operands of one register and ctx. */
typedef LLVMValueRef llvm_register_fn(struct emitter *em, const LLVMValueRef *a, unsigned lanes, const void *ctx);
LLVMValueRef llvm_in_registers(struct emitter *em, const LLVMValueRef *a, unsigned n_args, unsigned n, unsigned least,
                               unsigned width, llvm_register_fn *f, const void *ctx);

/* dot4 of n lanes in registers the target's instruction is declared for. */
LLVMValueRef llvm_dot4(struct emitter *em, const LLVMValueRef *a, unsigned n, unsigned umax);
LLVMValueRef llvm_fma(struct emitter *em, LLVMValueRef *a);
LLVMValueRef llvm_tobf(struct emitter *em, LLVMValueRef v, struct ir_type t); /* t: i16 */
LLVMValueRef llvm_dotbf(struct emitter *em, const LLVMValueRef *a, struct ir_type t);

/* mma for targets without a matrix unit: shuffles and dot4, or shuffles and fma in order of k. */
LLVMValueRef llvm_soft_mma(struct emitter *em, const struct ir_op *op, LLVMValueRef *a);
LLVMValueRef llvm_soft_pair(struct emitter *em, const struct ir_op *op, LLVMValueRef *a); /* pair_f16, pair_bf16 */

/* tiledot for targets without tile registers: a loop over the rows of C, a register of them by dot4. */
void llvm_soft_tiledot(struct emitter *em, const struct ir_op *op, LLVMValueRef c, LLVMValueRef a, LLVMValueRef b);

/* tiledot on targets with AMX. begin: shapes the tile registers where the function has a tiledot, and says so; end:
 * gives them up. */
bool amx_begin(struct emitter *em);
void amx_end(struct emitter *em);
void amx_tiledot(struct emitter *em, const struct ir_op *op, LLVMValueRef c, LLVMValueRef a, LLVMValueRef b);

/* Conversions without F16C: the integer steps of codegen/f16.h on vectors or scalars. */
LLVMValueRef x86_dot2(struct emitter *em, LLVMValueRef acc, LLVMValueRef a, LLVMValueRef b, unsigned lanes);
LLVMValueRef x86_shl(struct emitter *em, LLVMValueRef v, LLVMValueRef count, struct ir_type t);
LLVMValueRef x86_soft_fpext(struct emitter *em, LLVMValueRef v, struct ir_type t);
LLVMValueRef x86_soft_fptrunc(struct emitter *em, LLVMValueRef v, struct ir_type t);
LLVMValueRef x86_soft_frint(struct emitter *em, LLVMValueRef v, struct ir_type t);

/* Puts LLVM's message into *e behind `what` and frees it; returns false. The one place an LLVM error is consumed. */
bool llvm_fail(struct err *e, const char *what, LLVMErrorRef error);
bool llvm_fail_message(struct err *e, const char *what, char *message); /* one that LLVMDisposeMessage frees */

/* Loads LLVM's library, once a process; nothing of LLVM may be called before. */
bool llvm_open(struct err *e);

/* Initializes the x86 and PTX targets and installs the fatal error handler, once a process. */
void llvm_start(void);

#endif
