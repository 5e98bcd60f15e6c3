/* llvm_mma: products of matrix tiles where the target has no matrix unit. Each word of k is brought beside the
 * accumulators it belongs to: a shuffle of A, a shuffle of B, and dot4 or two fma. */
#include "codegen/llvm_internal.h"

/* Word w of k of an operand, in the lanes of C. */
static LLVMValueRef beside_c(struct emitter *em, const struct ir_mma_shape *s, LLVMValueRef v, unsigned w, bool of_a) {
    unsigned index[IR_MAX_LANES];
    for (unsigned i = 0; i < s->m; i++)
        for (unsigned j = 0; j < s->n; j++)
            index[ir_mma_lane_c(i, j)] = of_a ? ir_mma_lane_a(s, i, w) : ir_mma_lane_b(j, w);
    return llvm_shuffle(em, v, LLVMGetPoison(LLVMTypeOf(v)), index, s->m * s->n);
}

/* Half e of each word as f32. */
static LLVMValueRef half(struct emitter *em, LLVMValueRef word, unsigned e, bool bf16, unsigned lanes) {
    struct ir_type i32 = ir_type_of(IR_I32, lanes), f32 = ir_type_of(IR_F32, lanes);
    LLVMValueRef by = llvm_const(em, i32, 16);
    if (bf16) {
        word = e ? LLVMBuildAnd(em->b, word, llvm_const(em, i32, 0xffff0000), "") : LLVMBuildShl(em->b, word, by, "");
        return llvm_bitcast(em, word, f32);
    }
    if (e) word = LLVMBuildLShr(em->b, word, by, "");
    return llvm_fpext(em, LLVMBuildTrunc(em->b, word, llvm_type(em, ir_type_of(IR_I16, lanes)), ""), f32);
}

LLVMValueRef llvm_soft_mma(struct emitter *em, const struct ir_op *op, LLVMValueRef *a) {
    const struct ir_mma_shape *s = &ir_mma_shapes[op->imm];
    unsigned lanes = s->m * s->n;
    LLVMValueRef acc = a[0];
    for (unsigned w = 0; w < s->k / s->per; w++) {
        LLVMValueRef x = beside_c(em, s, a[1], w, true), y = beside_c(em, s, a[2], w, false);
        if (s->acc == IR_I32) {
            acc = llvm_dot4(em, (LLVMValueRef[]){acc, x, y}, lanes, 255);
            continue;
        }
        bool bf16 = op->imm == IR_MMA_M16N8K16_BF16;
        for (unsigned e = 0; e < 2; e++)
            acc = llvm_fma(em, (LLVMValueRef[]){half(em, x, e, bf16, lanes), half(em, y, e, bf16, lanes), acc});
    }
    return acc;
}
