/* llvm_bf16: tobf and dotbf, as instructions of AVX512-BF16 where the target has them, else as the steps that
 * docs/ir.md gives them: every target of a class computes the same bits. */
#include "codegen/llvm_internal.h"

static LLVMValueRef masked(struct emitter *em, LLVMValueRef v, struct ir_type t, uint32_t mask) {
    return LLVMBuildAnd(em->b, v, llvm_const(em, t, mask), "");
}

/* x as i32, with zero of its sign for what is below 2^-126. */
static LLVMValueRef flush(struct emitter *em, LLVMValueRef x, struct ir_type t) {
    LLVMValueRef none = llvm_const(em, t, 0), exponent = masked(em, x, t, 0x7f800000);
    LLVMValueRef small = LLVMBuildICmp(em->b, LLVMIntEQ, exponent, none, "");
    return LLVMBuildSelect(em->b, small, masked(em, x, t, 0x80000000), x, "");
}

static LLVMValueRef soft_tobf(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    struct ir_type words = ir_type_of(IR_I32, t.lanes);
    LLVMValueRef sixteen = llvm_const(em, words, 16), bits = llvm_bitcast(em, v, words);
    LLVMValueRef x = flush(em, bits, words);
    LLVMValueRef odd = masked(em, LLVMBuildLShr(em->b, x, sixteen, ""), words, 1);
    LLVMValueRef sum = LLVMBuildAdd(em->b, LLVMBuildAdd(em->b, x, llvm_const(em, words, 0x7fff), ""), odd, "");
    LLVMValueRef quiet = LLVMBuildOr(em->b, bits, llvm_const(em, words, 0x400000), "");
    LLVMValueRef nan =
        LLVMBuildICmp(em->b, LLVMIntSGT, masked(em, bits, words, 0x7fffffff), llvm_const(em, words, 0x7f800000), "");
    LLVMValueRef r = LLVMBuildSelect(em->b, nan, quiet, sum, "");
    return LLVMBuildTrunc(em->b, LLVMBuildLShr(em->b, r, sixteen, ""), llvm_type(em, t), "");
}

/* acc + the upper elements' product, or the lower ones'. All i32; so is the result. */
static LLVMValueRef soft_step(struct emitter *em, LLVMValueRef acc, LLVMValueRef a, LLVMValueRef b, struct ir_type t,
                              bool upper) {
    struct ir_type words = ir_type_of(IR_I32, t.lanes);
    LLVMValueRef v[3] = {a, b, acc};
    for (int k = 0; k < 2; k++)
        v[k] = upper ? masked(em, v[k], words, 0xffff0000) : LLVMBuildShl(em->b, v[k], llvm_const(em, words, 16), "");
    for (int k = 0; k < 3; k++) v[k] = llvm_bitcast(em, flush(em, v[k], words), t);
    return llvm_bitcast(em, llvm_fma(em, v), words);
}

static LLVMValueRef soft_dotbf(struct emitter *em, const LLVMValueRef *a, struct ir_type t) {
    struct ir_type words = ir_type_of(IR_I32, t.lanes);
    LLVMValueRef r = llvm_bitcast(em, a[0], words);
    r = soft_step(em, r, a[1], a[2], t, true);
    r = soft_step(em, r, a[1], a[2], t, false);
    return llvm_bitcast(em, flush(em, r, words), t);
}

static LLVMValueRef as_bf16(struct emitter *em, LLVMValueRef v, unsigned n) {
    return LLVMBuildBitCast(em->b, v, LLVMVectorType(LLVMBFloatTypeInContext(em->ctx), n), "");
}

/* vdpbf16ps of one register. */
static LLVMValueRef hard_dotbf(struct emitter *em, const LLVMValueRef *a, unsigned n, const void *ctx) {
    (void)ctx;
    const char *name = n == 16  ? "llvm.x86.avx512bf16.dpbf16ps.512"
                       : n == 8 ? "llvm.x86.avx512bf16.dpbf16ps.256"
                                : "llvm.x86.avx512bf16.dpbf16ps.128";
    return llvm_call(em, name, NULL, 3, (LLVMValueRef[]){a[0], as_bf16(em, a[1], 2 * n), as_bf16(em, a[2], 2 * n)});
}

/* vcvtneps2bf16 of one register. */
static LLVMValueRef hard_tobf(struct emitter *em, const LLVMValueRef *a, unsigned n, const void *ctx) {
    (void)ctx;
    const char *name = n == 16 ? "llvm.x86.avx512bf16.cvtneps2bf16.512" : "llvm.x86.avx512bf16.cvtneps2bf16.256";
    return llvm_bitcast(em, llvm_call(em, name, NULL, 1, (LLVMValueRef *)a), ir_type_of(IR_I16, n));
}

LLVMValueRef llvm_tobf(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    if (!(em->target->features & FEAT_BF16)) return soft_tobf(em, v, t);
    if (t.lanes == 1) { /* in lane 0 of a register */
        LLVMValueRef first = llvm_const(em, ir_type_of(IR_I32, 1), 0);
        v = LLVMBuildInsertElement(em->b, llvm_const(em, ir_type_of(IR_F32, 8), 0), v, first, "");
        return LLVMBuildExtractElement(em->b, hard_tobf(em, &v, 8, NULL), first, "");
    }
    return llvm_in_registers(em, &v, 1, t.lanes, 8, em->target->lanes, hard_tobf, NULL);
}

LLVMValueRef llvm_dotbf(struct emitter *em, const LLVMValueRef *a, struct ir_type t) {
    if (!(em->target->features & FEAT_BF16) || t.lanes == 1) return soft_dotbf(em, a, t);
    return llvm_in_registers(em, a, 3, t.lanes, 4, em->target->lanes, hard_dotbf, NULL);
}
