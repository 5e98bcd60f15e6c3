/* llvm_ptx_tile: what a warp or a block does as one: products of tiles, their operands from shared memory, and copies
 * from global into shared memory that run while the threads go on. */
#include "codegen/llvm_ptx.h"

#include <string.h>

/* mma.sync on the words and accumulators that the lanes are made for (docs/ir.md), each as the intrinsic's type. */
LLVMValueRef ptx_mma(struct emitter *em, const struct ir_op *op, LLVMValueRef *a) {
    static const char *const names[IR_N_MMA] = {
        [IR_MMA_M16N8K32_U8S8] = "llvm.nvvm.mma.m16n8k32.row.col.u8.s8",
        [IR_MMA_M16N8K16_U8S8] = "llvm.nvvm.mma.m16n8k16.row.col.u8.s8",
        [IR_MMA_M16N8K16_F16] = "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
        [IR_MMA_M16N8K16_BF16] = "llvm.nvvm.mma.m16n8k16.row.col.bf16",
    };
    unsigned id = LLVMLookupIntrinsicID(names[op->imm], strlen(names[op->imm])), n = 0;
    if (!id) bug("LLVM has no intrinsic %s", names[op->imm]);
    LLVMValueRef f = LLVMGetIntrinsicDeclaration(em->module, id, NULL, 0), args[12], r;
    LLVMTypeRef type = LLVMGlobalGetValueType(f), types[12];
    LLVMGetParamTypes(type, types);
    for (unsigned i = 0; i < 3; i++) {
        LLVMValueRef v = a[(i + 1) % 3]; /* A, B, C */
        bool vector = LLVMGetTypeKind(LLVMTypeOf(v)) == LLVMVectorTypeKind;
        for (unsigned k = 0; k < (vector ? LLVMGetVectorSize(LLVMTypeOf(v)) : 1); k++, n++)
            args[n] = LLVMBuildBitCast(em->b, vector ? ptx_register(em, v, k) : v, types[n], "");
    }
    LLVMValueRef all = LLVMBuildCall2(em->b, type, f, args, n, "");
    /* LLVM's declaration does not say so, and would not join loads on both sides of it. */
    unsigned returns = LLVMGetEnumAttributeKindForName("willreturn", 10);
    LLVMAddCallSiteAttribute(all, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                             LLVMCreateEnumAttribute(em->ctx, returns, 0));
    r = LLVMGetPoison(llvm_type(em, op->type));
    for (unsigned k = 0; k < op->type.lanes / PTX_LANES; k++)
        r = LLVMBuildInsertElement(em->b, r, LLVMBuildExtractValue(em->b, all, k, ""), k32(em, k), "");
    return r;
}

/* A 16-bit half of each; cvt.rn has the pair as one operation from sm_80 on. */
LLVMValueRef ptx_pair(struct emitter *em, const struct ir_op *op, LLVMValueRef *a) {
    if (op->code == IR_PAIR_BF16) {
        if (!(em->target->features & FEAT_MMA)) return NULL;
        LLVMValueRef pair = llvm_call(em, "llvm.nvvm.ff2bf16x2.rn", NULL, 2, (LLVMValueRef[]){a[1], a[0]});
        return LLVMBuildBitCast(em->b, pair, i32_type(em), "");
    }
    LLVMTypeRef half = LLVMHalfTypeInContext(em->ctx);
    LLVMValueRef v = LLVMGetPoison(LLVMVectorType(half, 2));
    for (unsigned i = 0; i < 2; i++)
        v = LLVMBuildInsertElement(em->b, v, LLVMBuildFPTrunc(em->b, a[i], half, ""), k32(em, i), "");
    return LLVMBuildBitCast(em->b, v, i32_type(em), "");
}

/* row: the thread's own row of 16 bytes. */
LLVMValueRef ptx_ldmatrix(struct emitter *em, const struct ir_op *op, LLVMValueRef row) {
    unsigned n = op->type.lanes / PTX_LANES;
    char name[80];
    snprintf(name, sizeof name, "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x%u%s.b16", n,
             op->code == IR_LDMATRIX_T ? ".trans" : "");
    LLVMValueRef all = llvm_call(em, name, LLVMTypeOf(row), 1, &row);
    if (n == 1) return all;
    LLVMValueRef r = LLVMGetPoison(llvm_type(em, op->type));
    for (unsigned k = 0; k < n; k++)
        r = LLVMBuildInsertElement(em->b, r, LLVMBuildExtractValue(em->b, all, k, ""), k32(em, k), "");
    return r;
}

/* The rows' pieces of 16 bytes, spread over the block's threads: thread t copies the pieces t, t + 256, ... The piece
 * of a row that is not there is filled with zeros. */
void ptx_copy(struct emitter *em, const struct ir_op *op) {
    uint32_t per_row = op->align / 16;
    uint64_t pieces = (uint64_t)op->imm * per_row;
    LLVMValueRef to = llvm_byte_offset(em, em->values[op->args[0]], em->values[op->args[1]]);
    LLVMValueRef from = llvm_byte_offset(em, em->values[op->args[2]], em->values[op->args[3]]);
    LLVMValueRef rows = em->values[op->args[4]];
    for (uint64_t first = 0; first < pieces; first += PTX_THREADS) {
        LLVMValueRef piece = LLVMBuildAdd(em->b, em->ptx->tid, k32(em, (uint32_t)first), "");
        LLVMBasicBlockRef done = NULL;
        if (pieces - first < PTX_THREADS) {
            LLVMBasicBlockRef then = llvm_new_block(em);
            done = llvm_new_block(em);
            LLVMValueRef there = LLVMBuildICmp(em->b, LLVMIntULT, piece, k32(em, (uint32_t)pieces), "");
            LLVMBuildCondBr(em->b, there, then, done);
            LLVMPositionBuilderAtEnd(em->b, then);
        }
        LLVMValueRef row = LLVMBuildUDiv(em->b, piece, k32(em, per_row), "");
        row = LLVMBuildZExt(em->b, row, i64_type(em), "");
        LLVMValueRef at = LLVMBuildMul(em->b, LLVMBuildURem(em->b, piece, k32(em, per_row), ""), k32(em, 16), "");
        at = LLVMBuildAdd(em->b, LLVMBuildZExt(em->b, at, i64_type(em), ""),
                          LLVMBuildMul(em->b, row, k64(em, op->stride), ""), "");
        LLVMValueRef target = LLVMBuildMul(em->b, piece, k32(em, 16), "");
        target = llvm_byte_offset(em, to, LLVMBuildZExt(em->b, target, i64_type(em), ""));
        LLVMValueRef exists = LLVMBuildICmp(em->b, LLVMIntSLT, row, rows, "");
        LLVMValueRef bytes = LLVMBuildSelect(em->b, exists, k32(em, 16), k32(em, 0), "");
        llvm_call(em, "llvm.nvvm.cp.async.cg.shared.global.16.s", NULL, 3,
                  (LLVMValueRef[]){target, llvm_byte_offset(em, from, at), bytes});
        if (!done) continue;
        LLVMBuildBr(em->b, done);
        LLVMPositionBuilderAtEnd(em->b, done);
    }
    llvm_call(em, "llvm.nvvm.cp.async.commit.group", NULL, 0, NULL);
}

void ptx_wait(struct emitter *em, const struct ir_op *op) {
    llvm_call(em, "llvm.nvvm.cp.async.wait.group", NULL, 1, (LLVMValueRef[]){k32(em, (uint32_t)op->imm)});
    ptx_block_barrier(em);
}
