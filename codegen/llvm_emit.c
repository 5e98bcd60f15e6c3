/* llvm_emit: one function of verified flat IR to one LLVM function. Explicit vectors, no fast-math flags, no
 * contraction: what rounds and when is exactly what docs/ir.md says. Nothing emitted here may become a call. */
#include "codegen/llvm_emit.h"

#include "codegen/f16.h"
#include "codegen/llvm_ptx.h"

#include <string.h>

/* ---- types, constants, intrinsics ---- */

LLVMTypeRef llvm_type(struct emitter *em, struct ir_type t) {
    LLVMTypeRef s = NULL;
    switch ((enum ir_scalar)t.scalar) {
    case IR_F32:
        s = LLVMFloatTypeInContext(em->ctx);
        break;
    case IR_PTR:
        s = LLVMPointerTypeInContext(em->ctx, 0);
        break;
    default:
        s = LLVMIntTypeInContext(em->ctx, ir_scalar_bits(t.scalar));
    }
    unsigned n = em->ptx ? (t.lanes + PTX_LANES - 1) / PTX_LANES : t.lanes; /* a warp's thread holds every 32nd lane */
    return n > 1 ? LLVMVectorType(s, n) : s;
}

static LLVMValueRef lane_const(struct emitter *em, struct ir_type t, uint64_t bits) {
    if (t.scalar == IR_F32) return LLVMConstBitCast(k32(em, (uint32_t)bits), llvm_type(em, ir_type_lane(t)));
    return LLVMConstInt(llvm_type(em, ir_type_lane(t)), bits, 0);
}

static LLVMValueRef vector_const(struct emitter *em, struct ir_type t, const uint64_t *bits) {
    LLVMValueRef lanes[IR_MAX_LANES];
    for (unsigned i = 0; i < t.lanes; i++) lanes[i] = lane_const(em, t, bits[i]);
    return LLVMConstVector(lanes, t.lanes);
}

LLVMValueRef llvm_const(struct emitter *em, struct ir_type t, uint64_t bits) {
    if (em->ptx) t.lanes = (uint8_t)((t.lanes + PTX_LANES - 1) / PTX_LANES);
    if (t.lanes == 1) return lane_const(em, t, bits);
    uint64_t all[IR_MAX_LANES];
    for (unsigned i = 0; i < t.lanes; i++) all[i] = bits;
    return vector_const(em, t, all);
}

LLVMValueRef llvm_bitcast(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    return LLVMBuildBitCast(em->b, v, llvm_type(em, t), "");
}

LLVMValueRef llvm_call(struct emitter *em, const char *name, LLVMTypeRef overload, unsigned n, LLVMValueRef *args) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    if (!id) bug("LLVM has no intrinsic %s", name);
    LLVMValueRef f = LLVMGetIntrinsicDeclaration(em->module, id, &overload, overload ? 1 : 0);
    return LLVMBuildCall2(em->b, LLVMGlobalGetValueType(f), f, args, n, "");
}

static LLVMValueRef call_on(struct emitter *em, const char *name, LLVMValueRef a) {
    return llvm_call(em, name, LLVMTypeOf(a), 1, &a);
}

/* ---- lanes ---- */

LLVMValueRef llvm_shuffle(struct emitter *em, LLVMValueRef a, LLVMValueRef b, const unsigned *index, unsigned n) {
    LLVMValueRef mask[IR_MAX_LANES];
    for (unsigned i = 0; i < n; i++) mask[i] = k32(em, index[i]);
    return LLVMBuildShuffleVector(em->b, a, b, LLVMConstVector(mask, n), "");
}

LLVMValueRef llvm_lanes(struct emitter *em, LLVMValueRef v, unsigned first, unsigned n) {
    unsigned have = LLVMGetVectorSize(LLVMTypeOf(v)), index[IR_MAX_LANES];
    for (unsigned i = 0; i < n; i++) index[i] = first + i < have ? first + i : have; /* `have`: a lane of the zeros */
    return llvm_shuffle(em, v, LLVMConstNull(LLVMTypeOf(v)), index, n);
}

static LLVMValueRef concat(struct emitter *em, LLVMValueRef a, LLVMValueRef b, unsigned half) {
    unsigned index[IR_MAX_LANES];
    for (unsigned i = 0; i < 2 * half; i++) index[i] = i;
    return llvm_shuffle(em, a, b, index, 2 * half);
}

static LLVMValueRef insert(struct emitter *em, LLVMValueRef vec, LLVMValueRef lane, unsigned k) {
    return LLVMBuildInsertElement(em->b, vec, lane, k32(em, k), "");
}

static LLVMValueRef splat(struct emitter *em, LLVMValueRef lane, struct ir_type t) {
    LLVMValueRef one = insert(em, LLVMGetPoison(llvm_type(em, t)), lane, 0);
    unsigned index[IR_MAX_LANES] = {0};
    return llvm_shuffle(em, one, LLVMGetPoison(llvm_type(em, t)), index, t.lanes);
}

static LLVMValueRef emit_iota(struct emitter *em, struct ir_type t) {
    uint64_t all[IR_MAX_LANES];
    for (unsigned i = 0; i < t.lanes; i++) all[i] = i;
    return vector_const(em, t, all);
}

static LLVMValueRef emit_concat(struct emitter *em, LLVMValueRef a, LLVMValueRef b, struct ir_type t) {
    if (t.lanes > 2) return concat(em, a, b, t.lanes / 2);
    return insert(em, insert(em, LLVMGetPoison(llvm_type(em, t)), a, 0), b, 1);
}

static LLVMValueRef emit_shuffle(struct emitter *em, LLVMValueRef v, const struct ir_op *op) {
    unsigned index[IR_MAX_LANES];
    for (unsigned i = 0; i < op->type.lanes; i++) index[i] = op->lanes[i];
    return llvm_shuffle(em, v, LLVMGetPoison(LLVMTypeOf(v)), index, op->type.lanes);
}

/* ---- arithmetic ---- */

/* a < b ? a : b and its mirror: what minps and maxps compute, also for NaNs and zeros. */
static LLVMValueRef choose(struct emitter *em, LLVMRealPredicate p, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildSelect(em->b, LLVMBuildFCmp(em->b, p, a, b, ""), a, b, "");
}

static LLVMValueRef choose_int(struct emitter *em, LLVMIntPredicate p, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildSelect(em->b, LLVMBuildICmp(em->b, p, a, b, ""), a, b, "");
}

static LLVMValueRef emit_reduce(struct emitter *em, LLVMValueRef v, struct ir_type from, bool sum) {
    bool is_float = from.scalar == IR_F32;
    for (unsigned n = from.lanes; n > 1; n /= 2) {
        LLVMValueRef a, b;
        if (n > 2) {
            a = llvm_lanes(em, v, 0, n / 2);
            b = llvm_lanes(em, v, n / 2, n / 2);
        } else {
            a = LLVMBuildExtractElement(em->b, v, k32(em, 0), "");
            b = LLVMBuildExtractElement(em->b, v, k32(em, 1), "");
        }
        if (sum)
            v = is_float ? LLVMBuildFAdd(em->b, a, b, "") : LLVMBuildAdd(em->b, a, b, "");
        else
            v = is_float ? choose(em, LLVMRealOGT, a, b) : choose_int(em, LLVMIntSGT, a, b);
    }
    return v;
}

LLVMValueRef llvm_in_registers(struct emitter *em, const LLVMValueRef *a, unsigned n_args, unsigned n, unsigned least,
                               unsigned width, llvm_register_fn *f, const void *ctx) {
    LLVMValueRef part[IR_MAX_LANES], v[3];
    unsigned size = n < least ? least : n < width ? n : width, n_parts = n < size ? 1 : n / size;
    for (unsigned i = 0; i < n_parts; i++) {
        for (unsigned k = 0; k < n_args; k++) v[k] = n == size ? a[k] : llvm_lanes(em, a[k], i * size, size);
        part[i] = f(em, v, size, ctx);
    }
    for (unsigned have = size; n_parts > 1; n_parts /= 2, have *= 2)
        for (unsigned i = 0; i < n_parts / 2; i++) part[i] = concat(em, part[2 * i], part[2 * i + 1], have);
    return n < size ? llvm_lanes(em, part[0], 0, n) : part[0];
}

static LLVMValueRef dot4_register(struct emitter *em, const LLVMValueRef *a, unsigned n, const void *impl) {
    return ((const struct dot4_impl *)impl)->emit(em, a[0], a[1], a[2], n);
}

LLVMValueRef llvm_dot4(struct emitter *em, const LLVMValueRef *a, unsigned n, unsigned umax) {
    unsigned width;
    const struct dot4_impl *impl = target_dot4(em->target, umax, &width);
    return llvm_in_registers(em, a, 3, n, 4, width, dot4_register, impl);
}

/* One half of each pair, with its sign. */
static LLVMValueRef half_of(struct emitter *em, LLVMValueRef v, bool upper, LLVMValueRef sixteen) {
    return LLVMBuildAShr(em->b, upper ? v : LLVMBuildShl(em->b, v, sixteen, ""), sixteen, "");
}

static LLVMValueRef dot2_register(struct emitter *em, const LLVMValueRef *a, unsigned n, const void *ctx) {
    (void)ctx;
    return x86_dot2(em, a[0], a[1], a[2], n);
}

static LLVMValueRef llvm_dot2(struct emitter *em, const LLVMValueRef *a, struct ir_type t) {
    if (!em->ptx && t.lanes > 1) return llvm_in_registers(em, a, 3, t.lanes, 4, em->target->lanes, dot2_register, NULL);
    LLVMValueRef sum = a[0], sixteen = llvm_const(em, t, 16);
    for (int upper = 0; upper < 2; upper++) {
        LLVMValueRef x = half_of(em, a[1], upper, sixteen), y = half_of(em, a[2], upper, sixteen);
        sum = LLVMBuildAdd(em->b, sum, LLVMBuildMul(em->b, x, y, ""), "");
    }
    return sum;
}

LLVMValueRef llvm_fma(struct emitter *em, LLVMValueRef *a) {
    if (em->target->fma) return llvm_call(em, "llvm.fma", LLVMTypeOf(a[0]), 3, a);
    return LLVMBuildFAdd(em->b, LLVMBuildFMul(em->b, a[0], a[1], ""), a[2], "");
}

LLVMValueRef llvm_fpext(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    if (!(em->target->features & FEAT_AVX2)) return x86_soft_fpext(em, v, t);
    LLVMTypeRef half = LLVMHalfTypeInContext(em->ctx);
    v = LLVMBuildBitCast(em->b, v, t.lanes > 1 ? LLVMVectorType(half, t.lanes) : half, "");
    return LLVMBuildFPExt(em->b, v, llvm_type(em, t), "");
}

LLVMValueRef llvm_fptrunc(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    if (!(em->target->features & FEAT_AVX2)) return x86_soft_fptrunc(em, v, t);
    LLVMTypeRef half = LLVMHalfTypeInContext(em->ctx);
    v = LLVMBuildFPTrunc(em->b, v, t.lanes > 1 ? LLVMVectorType(half, t.lanes) : half, "");
    return llvm_bitcast(em, v, t);
}

static LLVMValueRef emit_frint(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    return em->target->features & FEAT_AVX2 ? call_on(em, "llvm.roundeven", v) : x86_soft_frint(em, v, t);
}

/* ---- memory ---- */

void llvm_mark_invariant(struct emitter *em, LLVMValueRef load) {
    LLVMValueRef empty = LLVMMetadataAsValue(em->ctx, LLVMMDNodeInContext2(em->ctx, NULL, 0));
    LLVMSetMetadata(load, em->invariant_load, empty);
}

LLVMValueRef llvm_byte_offset(struct emitter *em, LLVMValueRef base, LLVMValueRef off) {
    return LLVMBuildGEP2(em->b, LLVMInt8TypeInContext(em->ctx), base, &off, 1, "");
}

static LLVMValueRef address(struct emitter *em, ir_value base, ir_value off, int64_t c) {
    LLVMValueRef p = llvm_byte_offset(em, em->values[base], em->values[off]);
    return c ? llvm_byte_offset(em, p, k64(em, c)) : p;
}

static LLVMValueRef emit_load(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef v = LLVMBuildLoad2(em->b, llvm_type(em, op->type), address(em, op->args[0], op->args[1], op->imm), "");
    LLVMSetAlignment(v, op->align);
    if (op->inv) llvm_mark_invariant(em, v);
    return v;
}

static void emit_store(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef s = LLVMBuildStore(em->b, em->values[op->args[0]], address(em, op->args[1], op->args[2], op->imm));
    LLVMSetAlignment(s, op->align);
}

static LLVMValueRef masked_call(struct emitter *em, const char *name, LLVMTypeRef *overload, unsigned n,
                                LLVMValueRef *args, unsigned pointer, uint32_t align) {
    unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
    LLVMValueRef f = LLVMGetIntrinsicDeclaration(em->module, id, overload, 2);
    LLVMValueRef call = LLVMBuildCall2(em->b, LLVMGlobalGetValueType(f), f, args, n, "");
    unsigned kind = LLVMGetEnumAttributeKindForName("align", strlen("align"));
    LLVMAddCallSiteAttribute(call, pointer, LLVMCreateEnumAttribute(em->ctx, kind, align));
    return call;
}

/* Into the second-level cache: what comes ahead of its time must not drive out what the first holds. */
static void emit_prefetch(struct emitter *em, const struct ir_op *op) {
    enum { READ = 0, SECOND_LEVEL = 2, DATA = 1 };
    struct ir_type i32 = ir_type_of(IR_I32, 1);
    LLVMValueRef args[4] = {address(em, op->args[0], op->args[1], op->imm), llvm_const(em, i32, READ),
                            llvm_const(em, i32, SECOND_LEVEL), llvm_const(em, i32, DATA)};
    llvm_call(em, "llvm.prefetch", LLVMTypeOf(args[0]), 4, args);
}

static void emit_masked_store(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef args[3] = {em->values[op->args[0]], address(em, op->args[2], op->args[3], op->imm),
                            em->values[op->args[1]]};
    LLVMTypeRef overload[2] = {LLVMTypeOf(args[0]), LLVMTypeOf(args[1])};
    masked_call(em, "llvm.masked.store", overload, 3, args, 2, op->align);
}

/* A pointer a lane: base, offset and the lanes' offsets stand from operand `base` on. */
static LLVMValueRef lane_addresses(struct emitter *em, const struct ir_op *op, int base) {
    LLVMValueRef at = em->values[op->args[base + 2]];
    LLVMTypeRef wide = LLVMVectorType(i64_type(em), LLVMGetVectorSize(LLVMTypeOf(at)));
    return llvm_byte_offset(em, address(em, op->args[base], op->args[base + 1], op->imm),
                            LLVMBuildSExt(em->b, at, wide, ""));
}

static LLVMValueRef emit_gather(struct emitter *em, const struct ir_op *op) {
    LLVMTypeRef type = llvm_type(em, op->type), flags = llvm_type(em, ir_type_of(IR_I1, op->type.lanes));
    LLVMValueRef args[3] = {lane_addresses(em, op, 0), LLVMConstAllOnes(flags), LLVMGetPoison(type)};
    LLVMTypeRef overload[2] = {type, LLVMTypeOf(args[0])};
    LLVMValueRef v = masked_call(em, "llvm.masked.gather", overload, 3, args, 1, op->align);
    if (op->inv) llvm_mark_invariant(em, v);
    return v;
}

static void emit_scatter(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef args[3] = {em->values[op->args[0]], lane_addresses(em, op, 2), em->values[op->args[1]]};
    LLVMTypeRef overload[2] = {LLVMTypeOf(args[0]), LLVMTypeOf(args[1])};
    masked_call(em, "llvm.masked.scatter", overload, 3, args, 2, op->align);
}

/* args[K] and dims[K]: the arrays do not change while the function runs. */
static LLVMValueRef emit_param_load(struct emitter *em, unsigned param, struct ir_type t, int64_t k) {
    LLVMValueRef off = k64(em, k * 8);
    LLVMValueRef v =
        LLVMBuildLoad2(em->b, llvm_type(em, t), llvm_byte_offset(em, LLVMGetParam(em->func, param), off), "");
    LLVMSetAlignment(v, 8);
    llvm_mark_invariant(em, v);
    return v;
}

static LLVMValueRef emit_stack(struct emitter *em, const struct ir_op *op) {
    LLVMBasicBlockRef here = LLVMGetInsertBlock(em->b);
    LLVMPositionBuilderAtEnd(em->b, em->allocas);
    LLVMTypeRef bytes = LLVMArrayType2(LLVMInt8TypeInContext(em->ctx), (uint64_t)op->imm);
    LLVMValueRef v = LLVMBuildAlloca(em->b, bytes, "");
    LLVMSetAlignment(v, op->align);
    LLVMPositionBuilderAtEnd(em->b, here);
    return v;
}

/* ---- control ---- */

LLVMBasicBlockRef llvm_new_block(struct emitter *em) {
    return LLVMAppendBasicBlockInContext(em->ctx, em->func, "");
}

/* Emitted rotated, test at the end, so that loop-invariant code motion may hoist loads out of the body:
 *   before: if (lo < hi) enter else done;  enter: -> body;  body: ... if (i + step < hi) body else leave;  leave ->
 * done */
static void emit_for(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef lo = em->values[op->args[0]], hi = em->values[op->args[1]];
    LLVMValueRef step = k64(em, op->imm);
    struct ptx_order order = {0};
    if (em->ptx) order = ptx_enter_body(em, op);
    if (op->split) ptx_enter_split(em, op, &lo, &step);
    LLVMBasicBlockRef before = LLVMGetInsertBlock(em->b), enter = llvm_new_block(em), body = llvm_new_block(em);
    LLVMBasicBlockRef leave = llvm_new_block(em), done = llvm_new_block(em);
    LLVMBuildCondBr(em->b, LLVMBuildICmp(em->b, LLVMIntSLT, lo, hi, ""), enter, done);
    LLVMPositionBuilderAtEnd(em->b, enter);
    LLVMBuildBr(em->b, body);
    LLVMPositionBuilderAtEnd(em->b, body);
    for (uint32_t i = 0; i <= op->n_results; i++) {
        LLVMValueRef init = i ? em->values[op->args[i + 1]] : lo;
        LLVMValueRef phi = LLVMBuildPhi(em->b, LLVMTypeOf(init), "");
        LLVMAddIncoming(phi, &init, &enter, 1);
        em->values[op->inner[i]] = phi;
    }
    llvm_emit_block(em, op->body);
    LLVMValueRef next = LLVMBuildNSWAdd(em->b, em->values[op->inner[0]], step, "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(em->b);
    LLVMBuildCondBr(em->b, LLVMBuildICmp(em->b, LLVMIntSLT, next, hi, ""), body, leave);
    LLVMAddIncoming(em->values[op->inner[0]], &next, &latch, 1);
    LLVMPositionBuilderAtEnd(em->b, leave);
    LLVMBuildBr(em->b, done);
    LLVMPositionBuilderAtEnd(em->b, done);
    if (em->ptx) ptx_leave_body(em, op, order);
    for (uint32_t i = 0; i < op->n_results; i++) {
        LLVMValueRef last = em->values[op->body->last->args[i]], init = em->values[op->args[i + 2]];
        LLVMAddIncoming(em->values[op->inner[i + 1]], &last, &latch, 1);
        LLVMValueRef phi = LLVMBuildPhi(em->b, LLVMTypeOf(init), "");
        LLVMAddIncoming(phi, (LLVMValueRef[]){init, last}, (LLVMBasicBlockRef[]){before, leave}, 2);
        em->values[op->results[i]] = phi;
    }
    if (op->split) ptx_leave_split(em, op);
}

static void emit_if(struct emitter *em, const struct ir_op *op) {
    struct ptx_order order = {0};
    if (em->ptx) order = ptx_enter_body(em, op);
    LLVMBasicBlockRef then = llvm_new_block(em), done = llvm_new_block(em);
    LLVMBuildCondBr(em->b, em->values[op->args[0]], then, done);
    LLVMPositionBuilderAtEnd(em->b, then);
    llvm_emit_block(em, op->body);
    LLVMBuildBr(em->b, done);
    LLVMPositionBuilderAtEnd(em->b, done);
    if (em->ptx) ptx_leave_body(em, op, order);
}

LLVMValueRef llvm_emit_value(struct emitter *em, const struct ir_op *op) {
    LLVMBuilderRef b = em->b;
    struct ir_type t = op->type;
    LLVMValueRef a[4] = {0};
    for (uint32_t i = 0; i < op->n_args && i < 4; i++) a[i] = em->values[op->args[i]];
    LLVMValueRef own = em->ptx ? ptx_value(em, op, a) : NULL;
    if (own) return own;
    switch (op->code) {
    case IR_ARG:
        return emit_param_load(em, 0, t, op->imm);
    case IR_DIM:
        return emit_param_load(em, 1, t, op->imm);
    case IR_BEGIN:
        return LLVMGetParam(em->func, 2);
    case IR_END:
        return LLVMGetParam(em->func, 3);
    case IR_WS:
        return LLVMGetParam(em->func, 4);
    case IR_STACK:
    case IR_SHARED:
        return emit_stack(em, op);
    case IR_CONST:
        return llvm_const(em, t, (uint64_t)op->imm);
    case IR_IOTA:
        return emit_iota(em, t);
    case IR_SPLAT:
        return splat(em, a[0], t);
    case IR_EXTRACT:
        return LLVMBuildExtractElement(b, a[0], k32(em, (unsigned)op->imm), "");
    case IR_CONCAT:
        return emit_concat(em, a[0], a[1], t);
    case IR_SLICE:
        return llvm_lanes(em, a[0], (unsigned)op->imm, t.lanes);
    case IR_SHUFFLE:
        return emit_shuffle(em, a[0], op);
    case IR_ADD:
        return LLVMBuildAdd(b, a[0], a[1], "");
    case IR_SUB:
        return LLVMBuildSub(b, a[0], a[1], "");
    case IR_MUL:
        return LLVMBuildMul(b, a[0], a[1], "");
    case IR_AND:
        return LLVMBuildAnd(b, a[0], a[1], "");
    case IR_OR:
        return LLVMBuildOr(b, a[0], a[1], "");
    case IR_XOR:
        return LLVMBuildXor(b, a[0], a[1], "");
    case IR_SHL:
        return em->target->ptx ? LLVMBuildShl(b, a[0], a[1], "") : x86_shl(em, a[0], a[1], t);
    case IR_LSHR:
        return LLVMBuildLShr(b, a[0], a[1], "");
    case IR_ASHR:
        return LLVMBuildAShr(b, a[0], a[1], "");
    case IR_UDIV:
        return LLVMBuildUDiv(b, a[0], a[1], "");
    case IR_UREM:
        return LLVMBuildURem(b, a[0], a[1], "");
    case IR_SMIN:
        return choose_int(em, LLVMIntSLT, a[0], a[1]);
    case IR_SMAX:
        return choose_int(em, LLVMIntSGT, a[0], a[1]);
    case IR_IEQ:
        return LLVMBuildICmp(b, LLVMIntEQ, a[0], a[1], "");
    case IR_INE:
        return LLVMBuildICmp(b, LLVMIntNE, a[0], a[1], "");
    case IR_ILT:
        return LLVMBuildICmp(b, LLVMIntSLT, a[0], a[1], "");
    case IR_ILE:
        return LLVMBuildICmp(b, LLVMIntSLE, a[0], a[1], "");
    case IR_FEQ:
        return LLVMBuildFCmp(b, LLVMRealOEQ, a[0], a[1], "");
    case IR_FLT:
        return LLVMBuildFCmp(b, LLVMRealOLT, a[0], a[1], "");
    case IR_FLE:
        return LLVMBuildFCmp(b, LLVMRealOLE, a[0], a[1], "");
    case IR_SELECT:
        return LLVMBuildSelect(b, a[0], a[1], a[2], "");
    case IR_FADD:
        return LLVMBuildFAdd(b, a[0], a[1], "");
    case IR_FSUB:
        return LLVMBuildFSub(b, a[0], a[1], "");
    case IR_FMUL:
        return LLVMBuildFMul(b, a[0], a[1], "");
    case IR_FDIV:
        return LLVMBuildFDiv(b, a[0], a[1], "");
    case IR_FMIN:
        return choose(em, LLVMRealOLT, a[0], a[1]);
    case IR_FMAX:
        return choose(em, LLVMRealOGT, a[0], a[1]);
    case IR_FMA:
        return llvm_fma(em, a);
    case IR_FNEG:
        return LLVMBuildFNeg(b, a[0], "");
    case IR_FABS:
        return call_on(em, "llvm.fabs", a[0]);
    case IR_FSQRT:
        return call_on(em, "llvm.sqrt", a[0]);
    case IR_FRINT:
        return emit_frint(em, a[0], t);
    case IR_FPEXT:
        return llvm_fpext(em, a[0], t);
    case IR_FPTRUNC:
        return llvm_fptrunc(em, a[0], t);
    case IR_SITOFP:
        return LLVMBuildSIToFP(b, a[0], llvm_type(em, t), "");
    case IR_FPTOSI:
        return LLVMBuildFPToSI(b, a[0], llvm_type(em, t), "");
    case IR_ZEXT:
        return LLVMBuildZExt(b, a[0], llvm_type(em, t), "");
    case IR_SEXT:
        return LLVMBuildSExt(b, a[0], llvm_type(em, t), "");
    case IR_TRUNC:
        return LLVMBuildTrunc(b, a[0], llvm_type(em, t), "");
    case IR_BITCAST:
        return llvm_bitcast(em, a[0], t);
    case IR_DOT2:
        return llvm_dot2(em, a, t);
    case IR_DOT4:
        return llvm_dot4(em, a, t.lanes, (unsigned)op->imm);
    case IR_PAIR_F16:
    case IR_PAIR_BF16:
        return llvm_soft_pair(em, op, a);
    case IR_TOBF:
        return llvm_tobf(em, a[0], t);
    case IR_DOTBF:
        return llvm_dotbf(em, a, t);
    case IR_MMA:
        return llvm_soft_mma(em, op, a);
    case IR_HSUM:
    case IR_HMAX:
        return emit_reduce(em, a[0], em->f->values[op->args[0]].type, op->code == IR_HSUM);
    case IR_LOAD:
        return emit_load(em, op);
    case IR_GATHER:
        return emit_gather(em, op);
    default:
        bug("flat IR operation %d has no value", op->code);
    }
}

/* A processor's form of the op: C, A and B as pointers. */
static void emit_tiledot(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef at[3];
    for (int i = 0; i < 3; i++) at[i] = address(em, op->args[2 * i], op->args[2 * i + 1], 0);
    if (em->target->features & FEAT_AMX)
        amx_tiledot(em, op, at[0], at[1], at[2]);
    else
        llvm_soft_tiledot(em, op, at[0], at[1], at[2]);
}

void llvm_emit_block(struct emitter *em, const struct ir_block *b) {
    for (const struct ir_op *op = b->first; op; op = op->next) {
        switch (op->code) {
        case IR_STORE:
        case IR_STOREM:
        case IR_SCATTER:
            if (em->ptx)
                ptx_store(em, op);
            else if (op->code == IR_STORE)
                emit_store(em, op);
            else if (op->code == IR_STOREM)
                emit_masked_store(em, op);
            else
                emit_scatter(em, op);
            break;
        case IR_PREFETCH:
            if (!em->ptx) emit_prefetch(em, op); /* warps hide what processors ask for ahead */
            break;
        case IR_TILEDOT:
            emit_tiledot(em, op);
            break;
        case IR_COPY:
            ptx_copy(em, op);
            break;
        case IR_WAIT:
            ptx_wait(em, op);
            break;
        case IR_FOR:
            emit_for(em, op);
            break;
        case IR_IF:
            emit_if(em, op);
            break;
        case IR_YIELD: /* emit_for reads it */
            break;
        default:
            em->values[op->results[0]] = llvm_emit_value(em, op);
        }
    }
}

/* ---- functions ---- */

static void set_attribute(struct emitter *em, const char *key, const char *value) {
    LLVMAttributeRef a = LLVMCreateStringAttribute(em->ctx, key, (unsigned)strlen(key), value, (unsigned)strlen(value));
    LLVMAddAttributeAtIndex(em->func, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, a);
}

static void set_flag(struct emitter *em, const char *name) {
    unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
    LLVMAddAttributeAtIndex(em->func, (LLVMAttributeIndex)LLVMAttributeFunctionIndex,
                            LLVMCreateEnumAttribute(em->ctx, kind, 0));
}

static void emit_func(struct emitter *em) {
    LLVMTypeRef ptr = LLVMPointerTypeInContext(em->ctx, 0), i64 = i64_type(em);
    LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(em->ctx), (LLVMTypeRef[]){ptr, ptr, i64, i64, ptr}, 5, 0);
    em->func = LLVMAddFunction(em->module, em->f->name, type);
    set_flag(em, "nounwind");
    set_attribute(em, "target-cpu", em->target->cpu);
    set_attribute(em, "target-features", em->target->cpu_features);
    if (em->target->tune) set_attribute(em, "tune-cpu", em->target->tune);
    if (em->target->lanes == 16) {
        set_attribute(em, "prefer-vector-width", "512");
        set_attribute(em, "min-legal-vector-width", "512");
    }
    em->values = mem_new(em->f->n_values * sizeof *em->values);
    em->allocas = llvm_new_block(em);
    LLVMBasicBlockRef body = llvm_new_block(em);
    LLVMPositionBuilderAtEnd(em->b, body);
    bool tiles = amx_begin(em);
    llvm_emit_block(em, em->f->body);
    if (tiles) amx_end(em);
    LLVMBuildRetVoid(em->b);
    LLVMPositionBuilderAtEnd(em->b, em->allocas);
    LLVMBuildBr(em->b, body);
    mem_free(em->values);
}

void llvm_emit_module(LLVMContextRef ctx, LLVMModuleRef module, const struct ir_module *m, const struct target *t) {
    struct emitter em = {.target = t, .ctx = ctx, .module = module, .b = LLVMCreateBuilderInContext(ctx)};
    em.invariant_load = LLVMGetMDKindIDInContext(ctx, "invariant.load", 14);
    for (em.f = m->first; em.f; em.f = em.f->next)
        if (t->ptx)
            ptx_func(&em);
        else
            emit_func(&em);
    LLVMDisposeBuilder(em.b);
}
