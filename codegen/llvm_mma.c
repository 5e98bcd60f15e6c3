/* llvm_mma: products of matrix tiles where the target has no matrix unit. mma: each word of k is brought beside the
 * accumulators it belongs to: a shuffle of A, a shuffle of B, and dot4 or two fma. tiledot: row by row of C, each word
 * of A in all lanes by a row of B. And pairs of halves, which such tiles are made of, by the steps of their rounding.
 */
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

static LLVMValueRef load(struct emitter *em, LLVMTypeRef type, LLVMValueRef at, uint64_t off, unsigned align) {
    LLVMValueRef v = LLVMBuildLoad2(em->b, type, llvm_byte_offset(em, at, k64(em, (int64_t)off)), "");
    LLVMSetAlignment(v, align);
    return v;
}

/* One row of C: `a` and `c` point to its rows of A and C. Signed bytes of B are 128 less than dot4's unsigned ones. */
static void tile_row(struct emitter *em, const struct ir_tile_shape *s, LLVMValueRef c, LLVMValueRef a,
                     LLVMValueRef b) {
    struct ir_type row = ir_type_of(IR_I32, IR_TILE_COLUMNS);
    LLVMTypeRef type = llvm_type(em, row);
    LLVMValueRef sum = llvm_const(em, row, 0), less = sum, half = llvm_const(em, row, 0x80808080);
    unsigned every[IR_TILE_COLUMNS] = {0};
    for (unsigned w = 0; w < s->k / 4; w++) {
        LLVMValueRef word =
            LLVMBuildInsertElement(em->b, LLVMGetPoison(type), load(em, i32_type(em), a, 4 * w, 4), k32(em, 0), "");
        word = llvm_shuffle(em, word, LLVMGetPoison(type), every, IR_TILE_COLUMNS);
        LLVMValueRef bytes = load(em, type, b, 64 * w, 64);
        if (s->b_signed) {
            bytes = LLVMBuildXor(em->b, bytes, half, "");
            less = llvm_dot4(em, (LLVMValueRef[]){less, half, word}, IR_TILE_COLUMNS, 128);
        }
        sum = llvm_dot4(em, (LLVMValueRef[]){sum, bytes, word}, IR_TILE_COLUMNS, 255);
    }
    LLVMSetAlignment(LLVMBuildStore(em->b, LLVMBuildSub(em->b, sum, less, ""), c), 64);
}

void llvm_soft_tiledot(struct emitter *em, const struct ir_op *op, LLVMValueRef c, LLVMValueRef a, LLVMValueRef b) {
    LLVMBasicBlockRef before = LLVMGetInsertBlock(em->b), body = llvm_new_block(em), done = llvm_new_block(em);
    LLVMBuildBr(em->b, body);
    LLVMPositionBuilderAtEnd(em->b, body);
    LLVMValueRef i = LLVMBuildPhi(em->b, i64_type(em), "");
    LLVMValueRef row = LLVMBuildMul(em->b, i, k64(em, 4 * IR_TILE_COLUMNS), "");
    LLVMValueRef from = LLVMBuildMul(em->b, i, k64(em, op->stride), "");
    tile_row(em, &ir_tile_shapes[op->imm], llvm_byte_offset(em, c, row), llvm_byte_offset(em, a, from), b);
    LLVMValueRef next = LLVMBuildAdd(em->b, i, k64(em, 1), "");
    LLVMValueRef more = LLVMBuildICmp(em->b, LLVMIntULT, next, k64(em, IR_TILE_ROWS), "");
    LLVMAddIncoming(i, (LLVMValueRef[]){k64(em, 0), next}, (LLVMBasicBlockRef[]){before, body}, 2);
    LLVMBuildCondBr(em->b, more, body, done);
    LLVMPositionBuilderAtEnd(em->b, done);
}

/* The upper half of x rounded to nearest even, in the low bits of an i32; a NaN stays one. */
static LLVMValueRef bf16_bits(struct emitter *em, LLVMValueRef x, unsigned lanes) {
    struct ir_type i32 = ir_type_of(IR_I32, lanes);
    LLVMValueRef bits = llvm_bitcast(em, x, i32), by = llvm_const(em, i32, 16);
    LLVMValueRef odd = LLVMBuildAnd(em->b, LLVMBuildLShr(em->b, bits, by, ""), llvm_const(em, i32, 1), "");
    LLVMValueRef up = LLVMBuildAdd(em->b, LLVMBuildAdd(em->b, bits, odd, ""), llvm_const(em, i32, 0x7fff), "");
    LLVMValueRef nan = LLVMBuildFCmp(em->b, LLVMRealUNO, x, x, "");
    up = LLVMBuildSelect(em->b, nan, llvm_const(em, i32, 0x7fffffff), up, "");
    return LLVMBuildLShr(em->b, up, by, "");
}

static LLVMValueRef f16_bits(struct emitter *em, LLVMValueRef x, unsigned lanes) {
    LLVMValueRef h = llvm_fptrunc(em, x, ir_type_of(IR_F16, lanes));
    h = llvm_bitcast(em, h, ir_type_of(IR_I16, lanes));
    return LLVMBuildZExt(em->b, h, llvm_type(em, ir_type_of(IR_I32, lanes)), "");
}

LLVMValueRef llvm_soft_pair(struct emitter *em, const struct ir_op *op, LLVMValueRef *a) {
    unsigned lanes = op->type.lanes;
    LLVMValueRef h[2];
    for (unsigned i = 0; i < 2; i++)
        h[i] = op->code == IR_PAIR_BF16 ? bf16_bits(em, a[i], lanes) : f16_bits(em, a[i], lanes);
    return LLVMBuildOr(em->b, h[0], LLVMBuildShl(em->b, h[1], llvm_const(em, op->type, 16), ""), "");
}
