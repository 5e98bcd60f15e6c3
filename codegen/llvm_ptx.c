#include "codegen/llvm_ptx.h"

#include <inttypes.h>
#include <string.h>

enum { KERNEL_CALL = 71 };     /* LLVM's calling convention ptx_kernel */
#define MAX_SHARED (48 * 1024) /* bytes of a block that need no opt-in */

/* Memories that never overlap: a warp's stacks and the block's `shared`, both in shared memory, and everything else. */
enum { MEM_GLOBAL = 1, MEM_STACK = 2, MEM_SHARED = 4, MEM_ANY = 7 };

/* ---- what a warp cannot do ---- */

static uint64_t shared_bytes(const struct ir_op *op) {
    uint64_t a = op->align < 16 ? 16 : op->align;
    return ((uint64_t)op->imm + a - 1) / a * a * (op->code == IR_STACK ? PTX_WARPS : 1);
}

/* Threads that hold one part of a split for. */
static unsigned part_threads(const struct ir_op *split) {
    return PTX_THREADS / split->split;
}

/* A carry's place in the scratch memory: its lanes, once for each warp. */
static uint64_t carry_bytes(const struct ir_func *f, const struct ir_op *op, uint32_t c) {
    struct ir_type t = f->values[op->results[c]].type;
    return (ir_scalar_bits(t.scalar) / 8 * t.lanes + 15u) / 16 * 16 * PTX_WARPS;
}

static uint64_t scratch_bytes(const struct ir_func *f, const struct ir_block *b) {
    uint64_t most = 0;
    for (const struct ir_op *op = b->first; op; op = op->next) {
        uint64_t n = op->body ? scratch_bytes(f, op->body) : 0;
        for (uint32_t c = 0; op->split && c < op->n_results; c++) n += carry_bytes(f, op, c);
        if (n > most) most = n;
    }
    return most;
}

static bool has_team(const struct ir_block *b) {
    for (const struct ir_op *op = b->first; op; op = op->next)
        if (op->split || op->code == IR_SHARED || (op->body && has_team(op->body))) return true;
    return false;
}

/* Does the operation read another thread's lane, or memory that another thread may have written? */
bool ptx_crosses_threads(const struct ir_func *f, const struct ir_op *op) {
    switch (op->code) {
    case IR_EXTRACT:
    case IR_SLICE:
    case IR_SHUFFLE:
    case IR_HSUM:
    case IR_HMAX:
    case IR_STORE:
    case IR_STOREM:
    case IR_SCATTER:
    case IR_MMA:
    case IR_LDMATRIX:
    case IR_LDMATRIX_T:
    case IR_COPY:
    case IR_WAIT:
        return true;
    case IR_BITCAST:
        return f->values[op->args[0]].type.lanes != op->type.lanes;
    default:
        return false;
    }
}

static bool check_split(const struct ir_func *f, const struct ir_op *op, struct err *e) {
    if (op->split < PTX_WARPS || op->split > PTX_THREADS)
        return err_set(e, ERR_UNSUPPORTED,
                       "flat IR line %" PRIu32 ", func @%s: a for split into %" PRIu32
                       " parts; a block of %d warps has %d to %d",
                       op->line, f->name, op->split, PTX_WARPS, PTX_WARPS, PTX_THREADS);
    for (uint32_t c = 0; c < op->n_results; c++)
        if (f->values[op->results[c]].type.scalar == IR_I1 || f->values[op->results[c]].type.lanes > part_threads(op))
            return err_set(e, ERR_UNSUPPORTED,
                           "flat IR line %" PRIu32 ", func @%s: carry %" PRIu32
                           " of a split for must have numbers in %u lanes or fewer",
                           op->line, f->name, c + 1, part_threads(op));
    return true;
}

static unsigned widest(const struct ir_func *f, const struct ir_op *op) {
    unsigned n = op->type.lanes;
    for (uint32_t i = 0; i < op->n_args; i++)
        if (f->values[op->args[i]].type.lanes > n) n = f->values[op->args[i]].type.lanes;
    return n;
}

static bool is_ldmatrix(const struct ir_op *op) {
    return op->code == IR_LDMATRIX || op->code == IR_LDMATRIX_T;
}

/* Moves whole registers of a long vector, or none. */
static bool whole_registers(const struct ir_op *op) {
    if (op->code == IR_SLICE) return op->imm % PTX_LANES == 0 && op->type.lanes >= PTX_LANES;
    return op->code == IR_CONCAT || op->code == IR_CONST || op->code == IR_MMA || is_ldmatrix(op);
}

/* The threads of a part that is narrower than a warp go their own way: they cannot meet. */
static bool check_in_split(const struct ir_func *f, const struct ir_op *op, const struct ir_op *split, struct err *e) {
    unsigned n = part_threads(split);
    bool fits = op->type.lanes <= n || (n >= PTX_LANES && whole_registers(op));
    if (!fits || (n < PTX_LANES && ptx_crosses_threads(f, op)))
        return err_set(e, ERR_UNSUPPORTED,
                       "flat IR line %" PRIu32 ", func @%s, %s: one part of the split for has %u threads", op->line,
                       f->name, ir_op_info[op->code].name, n);
    return true;
}

/* Copies are the block's: all of its warps must come to them, and to a wait. */
static bool check_staging(const struct ir_func *f, const struct ir_op *op, const struct target *t,
                          const struct ir_op *split, struct err *e) {
    if (op->code != IR_COPY && op->code != IR_WAIT && !is_ldmatrix(op)) return true;
    if (!(t->features & FEAT_MMA))
        return err_set(e, ERR_UNSUPPORTED, "flat IR line %" PRIu32 ", func @%s: %s has no %s", op->line, f->name,
                       t->name, ir_op_info[op->code].name);
    const struct ir_op *to = op->n_args ? f->values[op->args[0]].def : NULL;
    if (to && to->code != IR_SHARED && !(is_ldmatrix(op) && to->code == IR_STACK))
        return err_set(e, ERR_UNSUPPORTED, "flat IR line %" PRIu32 ", func @%s: %s is of a block's shared memory",
                       op->line, f->name, ir_op_info[op->code].name);
    const struct ir_op *from = op->code == IR_COPY ? f->values[op->args[2]].def : NULL;
    if (from && from->code != IR_ARG && from->code != IR_WS)
        return err_set(e, ERR_UNSUPPORTED, "flat IR line %" PRIu32 ", func @%s: copy's source is an argument or ws",
                       op->line, f->name);
    if (!is_ldmatrix(op) && split && split->split != PTX_WARPS)
        return err_set(e, ERR_UNSUPPORTED,
                       "flat IR line %" PRIu32 ", func @%s: %s in a for split into %" PRIu32 " parts, not %d", op->line,
                       f->name, ir_op_info[op->code].name, split->split, PTX_WARPS);
    return true;
}

static bool check_block(const struct ir_func *f, const struct ir_block *b, const struct target *t,
                        const struct ir_op *split, uint64_t *shared, struct err *e) {
    for (const struct ir_op *op = b->first; op; op = op->next) {
        unsigned lanes = widest(f, op);
        if (lanes > PTX_LANES && !whole_registers(op))
            return err_set(e, ERR_UNSUPPORTED,
                           "flat IR line %" PRIu32 ", func @%s, %s: a vector of %u lanes; a warp has %d: lower it for "
                           "32 lanes or fewer",
                           op->line, f->name, ir_op_info[op->code].name, lanes, PTX_LANES);
        if (op->code == IR_MMA && !(t->features & FEAT_MMA))
            return err_set(e, ERR_UNSUPPORTED, "flat IR line %" PRIu32 ", func @%s: %s has no mma %s", op->line,
                           f->name, t->name, ir_mma_shapes[op->imm].name);
        if (op->code == IR_TILEDOT)
            return err_set(e, ERR_UNSUPPORTED, "flat IR line %" PRIu32 ", func @%s: tiledot is for processors only",
                           op->line, f->name);
        if (!check_staging(f, op, t, split, e)) return false;
        if ((op->code == IR_STACK || op->code == IR_SHARED) && (*shared += shared_bytes(op)) > MAX_SHARED)
            return err_set(e, ERR_UNSUPPORTED,
                           "flat IR line %" PRIu32 ", func @%s: %d warps and what they share take %" PRIu64
                           " bytes of shared memory; a block has %d",
                           op->line, f->name, PTX_WARPS, *shared, MAX_SHARED);
        if (split && !check_in_split(f, op, split, e)) return false;
        if (op->split && !check_split(f, op, e)) return false;
        for (uint32_t i = 0; i < op->n_results; i++)
            if (op->code == IR_FOR && f->values[op->results[i]].type.scalar == IR_PTR)
                return err_set(e, ERR_UNSUPPORTED,
                               "flat IR line %" PRIu32 ", func @%s: a loop carries a pointer; carry an offset",
                               op->line, f->name);
        if (op->body && !check_block(f, op->body, t, op->split ? op : split, shared, e)) return false;
    }
    return true;
}

bool ptx_check(const struct ir_module *m, const struct target *t, struct err *e) {
    for (const struct ir_func *f = m->first; f; f = f->next) {
        uint64_t shared = scratch_bytes(f, f->body);
        if (!check_block(f, f->body, t, NULL, &shared, e)) return false;
    }
    return true;
}

/* ---- small things ---- */

static LLVMValueRef special(struct emitter *em, const char *name) {
    return llvm_call(em, name, NULL, 0, NULL);
}
static LLVMTypeRef int_type(struct emitter *em, unsigned bits) {
    return LLVMIntTypeInContext(em->ctx, bits);
}

/* The thread's lane of a vector of n lanes. */
static LLVMValueRef lane_of(struct emitter *em, unsigned n) {
    return n == PTX_LANES ? em->ptx->lane : LLVMBuildAnd(em->b, em->ptx->lane, k32(em, n - 1), "");
}

static LLVMValueRef lane_below(struct emitter *em, unsigned n) {
    return LLVMBuildICmp(em->b, LLVMIntULT, em->ptx->lane, k32(em, n), "");
}

/* ---- between threads ---- */

/* x of another thread: `mode` says how `by` names it (idx: its number, bfly: xor). x has at most 32 bits or 64. */
static LLVMValueRef exchange(struct emitter *em, const char *mode, LLVMValueRef x, LLVMValueRef by) {
    char name[64];
    snprintf(name, sizeof name, "llvm.nvvm.shfl.sync.%s.i32", mode);
    LLVMTypeRef type = LLVMTypeOf(x);
    unsigned bits = LLVMGetTypeKind(type) == LLVMFloatTypeKind ? 32 : LLVMGetIntTypeWidth(type);
    LLVMValueRef v = LLVMBuildBitCast(em->b, x, int_type(em, bits), "");
    LLVMValueRef word[2];
    for (unsigned w = 0; w < (bits > 32 ? 2 : 1); w++) {
        word[w] = v;
        if (bits < 32) word[w] = LLVMBuildZExt(em->b, v, i32_type(em), "");
        if (bits > 32) {
            LLVMValueRef part = LLVMBuildLShr(em->b, v, k64(em, 32 * w), "");
            word[w] = LLVMBuildTrunc(em->b, part, i32_type(em), "");
        }
        word[w] = llvm_call(em, name, NULL, 4, (LLVMValueRef[]){k32(em, ~0u), word[w], by, k32(em, 31)});
    }
    v = word[0];
    if (bits < 32) v = LLVMBuildTrunc(em->b, v, int_type(em, bits), "");
    if (bits > 32) {
        LLVMValueRef low = LLVMBuildZExt(em->b, word[0], i64_type(em), "");
        LLVMValueRef high = LLVMBuildZExt(em->b, word[1], i64_type(em), "");
        v = LLVMBuildOr(em->b, low, LLVMBuildShl(em->b, high, k64(em, 32), ""), "");
    }
    return LLVMBuildBitCast(em->b, v, type, "");
}

/* Halving: at each step a thread adds what its partner half as far away holds. Addition commutes, so partners get the
 * same bits and in the end all threads have the sum. Float maximum does not (zeros, NaNs): there only the lower partner
 * has it right, which is enough for lane 0, whose value is then handed to all. */
static LLVMValueRef reduce(struct emitter *em, LLVMValueRef v, struct ir_type from, bool sum) {
    bool is_float = from.scalar == IR_F32;
    for (unsigned half = from.lanes / 2; half; half /= 2) {
        LLVMValueRef other = exchange(em, "bfly", v, k32(em, half));
        if (sum) {
            v = is_float ? LLVMBuildFAdd(em->b, v, other, "") : LLVMBuildAdd(em->b, v, other, "");
        } else {
            LLVMValueRef more = is_float ? LLVMBuildFCmp(em->b, LLVMRealOGT, v, other, "")
                                         : LLVMBuildICmp(em->b, LLVMIntSGT, v, other, "");
            v = LLVMBuildSelect(em->b, more, v, other, "");
        }
    }
    return is_float && !sum ? exchange(em, "idx", v, k32(em, 0)) : v;
}

/* Whether every lane's source is its own number with the bits of *by changed. */
static bool is_butterfly(const struct ir_op *op, unsigned from_lanes, uint32_t *by) {
    *by = op->lanes[0];
    for (unsigned l = 0; l < op->type.lanes; l++)
        if (op->lanes[l] != (l ^ *by)) return false;
    return op->type.lanes == from_lanes;
}

/* Each bit of the source lanes as a mask over the threads: five instructions a bit, no table in memory. */
static LLVMValueRef shuffle(struct emitter *em, LLVMValueRef v, const struct ir_op *op) {
    LLVMValueRef at = k32(em, 0);
    uint32_t by;
    if (is_butterfly(op, em->f->values[op->args[0]].type.lanes, &by)) return exchange(em, "bfly", v, k32(em, by));
    for (unsigned bit = 0; bit < 5; bit++) {
        uint32_t mask = 0;
        for (unsigned l = 0; l < PTX_LANES; l++) mask |= (uint32_t)(op->lanes[l % op->type.lanes] >> bit & 1) << l;
        LLVMValueRef b = LLVMBuildAnd(em->b, LLVMBuildLShr(em->b, k32(em, mask), em->ptx->lane, ""), k32(em, 1), "");
        at = LLVMBuildOr(em->b, at, LLVMBuildShl(em->b, b, k32(em, bit), ""), "");
    }
    return exchange(em, "idx", v, at);
}

/* Element k of v, a register of a long vector. */
LLVMValueRef ptx_register(struct emitter *em, LLVMValueRef v, unsigned k) {
    return LLVMBuildExtractElement(em->b, v, k32(em, k), "");
}

/* The registers of two operands, one behind the other. */
static LLVMValueRef join(struct emitter *em, LLVMValueRef *a, struct ir_type t) {
    unsigned half = t.lanes / PTX_LANES / 2;
    LLVMValueRef v = LLVMGetPoison(llvm_type(em, t));
    for (unsigned k = 0; k < 2 * half; k++) {
        LLVMValueRef x = half == 1 ? a[k] : ptx_register(em, a[k / half], k % half);
        v = LLVMBuildInsertElement(em->b, v, x, k32(em, k), "");
    }
    return v;
}

static LLVMValueRef registers(struct emitter *em, LLVMValueRef v, const struct ir_op *op) {
    unsigned first = (unsigned)op->imm / PTX_LANES, n = op->type.lanes / PTX_LANES;
    LLVMValueRef r = n > 1 ? LLVMGetPoison(llvm_type(em, op->type)) : NULL;
    for (unsigned k = 0; k < n; k++)
        r = n > 1 ? LLVMBuildInsertElement(em->b, r, ptx_register(em, v, first + k), k32(em, k), "")
                  : ptx_register(em, v, first);
    return r;
}

static LLVMValueRef concat(struct emitter *em, LLVMValueRef *a, struct ir_type t) {
    if (t.lanes > PTX_LANES) return join(em, a, t);
    LLVMValueRef bit = LLVMBuildAnd(em->b, em->ptx->lane, k32(em, t.lanes / 2), "");
    LLVMValueRef low = LLVMBuildICmp(em->b, LLVMIntEQ, bit, k32(em, 0), "");
    return LLVMBuildSelect(em->b, low, a[0], a[1], "");
}

static LLVMValueRef slice(struct emitter *em, LLVMValueRef v, const struct ir_op *op) {
    if (op->type.lanes >= PTX_LANES) return registers(em, v, op);
    LLVMValueRef at = LLVMBuildAdd(em->b, lane_of(em, op->type.lanes), k32(em, (uint32_t)op->imm), "");
    return exchange(em, "idx", v, at);
}

/* To fewer, wider lanes: each collects its parts from their threads. To more, narrower lanes: each cuts its part. */
static LLVMValueRef bitcast(struct emitter *em, LLVMValueRef v, struct ir_type from, struct ir_type to) {
    if (from.lanes == to.lanes) return LLVMBuildBitCast(em->b, v, llvm_type(em, to), "");
    unsigned from_bits = ir_scalar_bits(from.scalar), to_bits = ir_scalar_bits(to.scalar);
    LLVMTypeRef wide = int_type(em, to_bits > from_bits ? to_bits : from_bits);
    v = LLVMBuildBitCast(em->b, v, int_type(em, from_bits), "");
    LLVMValueRef lane = lane_of(em, to.lanes), r;
    if (to_bits > from_bits) {
        unsigned parts = to_bits / from_bits;
        r = LLVMConstInt(wide, 0, 0);
        LLVMValueRef first = LLVMBuildMul(em->b, lane, k32(em, parts), "");
        for (unsigned p = 0; p < parts; p++) {
            LLVMValueRef x = exchange(em, "idx", v, LLVMBuildAdd(em->b, first, k32(em, p), ""));
            x = LLVMBuildShl(em->b, LLVMBuildZExt(em->b, x, wide, ""), LLVMConstInt(wide, p * from_bits, 0), "");
            r = LLVMBuildOr(em->b, r, x, "");
        }
    } else {
        unsigned parts = from_bits / to_bits;
        LLVMValueRef x = exchange(em, "idx", v, LLVMBuildUDiv(em->b, lane, k32(em, parts), ""));
        LLVMValueRef by = LLVMBuildMul(em->b, LLVMBuildURem(em->b, lane, k32(em, parts), ""), k32(em, to_bits), "");
        by = LLVMBuildIntCast2(em->b, by, wide, 0, "");
        r = LLVMBuildTrunc(em->b, LLVMBuildLShr(em->b, x, by, ""), int_type(em, to_bits), "");
    }
    return LLVMBuildBitCast(em->b, r, llvm_type(em, to), "");
}

/* ---- barriers ---- */

static bool reads(const struct ir_op *op) {
    return ir_op_info[op->code].effect == EFF_READ;
}

/* Which operand is the base of the address. */
static uint32_t base_operand(const struct ir_op *op) {
    return reads(op) ? 0 : op->code == IR_STORE ? 1 : 2;
}

static unsigned memory_of(const struct emitter *em, const struct ir_op *op) {
    ir_value base = op->args[base_operand(op)];
    enum ir_opcode made = em->f->values[base].def->code;
    if (made == IR_STACK) return MEM_STACK;
    if (made == IR_SHARED) return MEM_SHARED;
    return em->values[base] && LLVMGetPointerAddressSpace(LLVMTypeOf(em->values[base])) == GLOBAL ? MEM_GLOBAL
                                                                                                  : MEM_ANY;
}

static unsigned lane_stride(const struct ir_op *op, struct ir_type t) {
    return op->stride ? op->stride : ir_scalar_bits(t.scalar) / 8;
}

/* What an access of memory reads and where: base, offset, C, and bytes from the first lane to the last one's end. */
struct place {
    ir_value base, off;
    int64_t c, bytes;
    struct ir_type type;
};

static struct place place_of(const struct emitter *em, const struct ir_op *op) {
    uint32_t first = base_operand(op);
    struct ir_type t = reads(op) ? op->type : em->f->values[op->args[0]].type;
    int64_t bytes = (int64_t)lane_stride(op, t) * (t.lanes - 1) + ir_scalar_bits(t.scalar) / 8;
    return (struct place){op->args[first], op->args[first + 1], op->imm, bytes, t};
}

/* Lanes at offsets of their own: where they go is not known here. */
static bool by_lane(const struct ir_op *op) {
    return op->code == IR_GATHER || op->code == IR_SCATTER || is_ldmatrix(op);
}

static bool same_lanes(const struct ir_op *a, const struct ir_op *b) {
    bool gathers = (a->code == IR_GATHER || a->code == IR_SCATTER) && (b->code == IR_GATHER || b->code == IR_SCATTER);
    const ir_value *x = a->args + base_operand(a), *y = b->args + base_operand(b);
    return gathers && x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

/* Lanes at the same offsets, moved by constants: do they never meet? All of an aligned access's lanes are multiples of
 * its alignment, so where one of those around is aligned further than they are apart, they do not. */
static bool apart(const struct emitter *em, const struct ir_op *a, const struct ir_op *b) {
    if (!same_lanes(a, b)) return false;
    int64_t align = a->align > b->align ? a->align : b->align;
    for (unsigned i = 0; i < em->ptx->n_pending; i++) {
        const struct ir_op *other = em->ptx->pending[i];
        if (same_lanes(a, other) && other->align > align) align = other->align;
    }
    int64_t far = ((b->imm - a->imm) % align + align) % align;
    return far >= ir_scalar_bits(place_of(em, a).type.scalar) / 8 &&
           align - far >= ir_scalar_bits(place_of(em, b).type.scalar) / 8;
}

/* Vectors whose lanes are as far apart, one moved by a constant: does it lie in the gaps of the other? */
static bool between(const struct ir_op *a, struct place x, const struct ir_op *b, struct place y) {
    int64_t stride = a->stride, wide = ir_scalar_bits(x.type.scalar) / 8, also = ir_scalar_bits(y.type.scalar) / 8;
    if (!stride || stride != b->stride) return false;
    int64_t far = ((y.c - x.c) % stride + stride) % stride;
    return far >= wide && stride - far >= also;
}

/* May a thread other than the one that did `a` meet its bytes in `b`? Both lie behind the same definitions of their
 * operands: pending operations are dropped at the edges of loops. */
static bool meets(const struct emitter *em, const struct ir_op *a, const struct ir_op *b) {
    if (reads(a) && reads(b)) return false;
    if (!(memory_of(em, a) & memory_of(em, b))) return false;
    if (by_lane(a) || by_lane(b)) return !apart(em, a, b);
    struct place x = place_of(em, a), y = place_of(em, b);
    if (x.base != y.base || x.off != y.off) return true;
    if (x.c + x.bytes <= y.c || y.c + y.bytes <= x.c || between(a, x, b, y)) return false;
    bool both_stores = !reads(a) && !reads(b);
    /* A team's stores are its first warp's, its loads all warps'. */
    bool same_threads = x.type.lanes == PTX_LANES && (!em->ptx->team || memory_of(em, a) == MEM_STACK);
    return !(x.c == y.c && ir_type_eq(x.type, y.type) && a->stride == b->stride && (both_stores || same_threads));
}

void ptx_block_barrier(struct emitter *em) {
    llvm_call(em, "llvm.nvvm.barrier.cta.sync.aligned.all", NULL, 1, (LLVMValueRef[]){k32(em, 0)});
    em->ptx->n_pending = em->ptx->read = em->ptx->written = 0;
}

/* Of the threads that may meet in these memories: a warp's in its stacks and, where a warp does a task or a part, in
 * all; else the block's. Parts do not meet each other (docs/ir.md). */
static void barrier(struct emitter *em, unsigned memory) {
    struct ptx *p = em->ptx;
    if (p->team && !p->split && memory != MEM_STACK) {
        ptx_block_barrier(em);
        return;
    }
    llvm_call(em, "llvm.nvvm.bar.warp.sync", NULL, 1, (LLVMValueRef[]){k32(em, ~0u)});
    p->n_pending = p->read = p->written = 0;
}

static void forget_pending(struct emitter *em) {
    struct ptx *p = em->ptx;
    for (unsigned i = 0; i < p->n_pending; i++) {
        unsigned memory = memory_of(em, p->pending[i]);
        if (reads(p->pending[i]))
            p->read |= memory;
        else
            p->written |= memory;
    }
    p->n_pending = 0;
}

static void order(struct emitter *em, const struct ir_op *op) {
    struct ptx *p = em->ptx;
    unsigned memory = memory_of(em, op), known = p->written | (reads(op) ? 0 : p->read);
    unsigned wait = known & memory;
    for (unsigned i = 0; i < p->n_pending; i++)
        if (meets(em, p->pending[i], op)) wait |= memory;
    if (wait) barrier(em, wait);
    if (p->n_pending == MAX_PENDING) forget_pending(em);
    p->pending[p->n_pending++] = op;
}

/* Adds what a body may read and write. Pointers defined inside it are not known yet: they may be anything. */
static void note_accesses(struct emitter *em, const struct ir_block *b, unsigned *read, unsigned *written) {
    for (const struct ir_op *op = b->first; op; op = op->next) {
        if (op->body) note_accesses(em, op->body, read, written);
        if (op->code == IR_COPY || op->code == IR_WAIT) continue; /* ordered by the waits */
        bool store = ir_op_info[op->code].effect == EFF_WRITE;
        if (!store && (!reads(op) || op->inv)) continue;
        *(store ? written : read) |= memory_of(em, op);
    }
}

/* What must be ordered before the first trip of a loop is ordered before the loop, not in every trip. */
struct ptx_order ptx_enter_body(struct emitter *em, const struct ir_op *op) {
    struct ptx *p = em->ptx;
    unsigned read = 0, written = 0;
    forget_pending(em);
    if (op->code == IR_FOR) {
        note_accesses(em, op->body, &read, &written);
        unsigned wait = (p->written & (read | written)) | (p->read & written);
        if (wait) barrier(em, wait);
    }
    struct ptx_order before = {p->read, p->written};
    p->read |= read;
    p->written |= written;
    return before;
}

/* Behind it the body may have run or not: a barrier in it says nothing of what was before. */
void ptx_leave_body(struct emitter *em, const struct ir_op *op, struct ptx_order before) {
    forget_pending(em);
    note_accesses(em, op->body, &em->ptx->read, &em->ptx->written);
    em->ptx->read |= before.read;
    em->ptx->written |= before.written;
}

/* ---- memory ---- */

static LLVMValueRef address(struct emitter *em, const struct ir_op *op, ir_value base, ir_value off, int64_t c,
                            struct ir_type t) {
    LLVMValueRef p = llvm_byte_offset(em, em->values[base], em->values[off]);
    if (t.lanes > 1) {
        LLVMValueRef at = LLVMBuildMul(em->b, lane_of(em, t.lanes), k32(em, lane_stride(op, t)), "");
        p = llvm_byte_offset(em, p, LLVMBuildZExt(em->b, at, i64_type(em), ""));
    }
    return c ? llvm_byte_offset(em, p, k64(em, c)) : p;
}

/* gather and scatter: each lane's own offset instead of its place in the row. */
static LLVMValueRef lane_address(struct emitter *em, const struct ir_op *op) {
    uint32_t base = base_operand(op);
    LLVMValueRef p = llvm_byte_offset(em, em->values[op->args[base]], em->values[op->args[base + 1]]);
    p = llvm_byte_offset(em, p, LLVMBuildSExt(em->b, em->values[op->args[base + 2]], i64_type(em), ""));
    return op->imm ? llvm_byte_offset(em, p, k64(em, op->imm)) : p;
}

static unsigned lane_align(const struct ir_op *op, struct ir_type t) {
    unsigned stride = lane_stride(op, t), bytes = stride & -stride;
    return t.lanes > 1 && op->align > bytes ? bytes : op->align;
}

LLVMValueRef ptx_address(struct emitter *em, const struct ir_op *op) {
    return by_lane(op) ? lane_address(em, op) : address(em, op, op->args[0], op->args[1], op->imm, op->type);
}

static LLVMValueRef load(struct emitter *em, const struct ir_op *op) {
    if (!op->inv) order(em, op);
    LLVMValueRef p = ptx_address(em, op);
    LLVMValueRef v = LLVMBuildLoad2(em->b, llvm_type(em, op->type), p, "");
    LLVMSetAlignment(v, by_lane(op) ? op->align : lane_align(op, op->type));
    /* Where a predecessor may still run when this starts, what it writes changes meanwhile. */
    if (op->inv && (ptx_unwritten(em, op) || !(em->target->features & FEAT_DEPENDENT))) llvm_mark_invariant(em, v);
    return v;
}

/* The thread's own lane. */
static void store_lane(struct emitter *em, const struct ir_op *op) {
    struct place at = place_of(em, op);
    LLVMValueRef p = by_lane(op) ? lane_address(em, op) : address(em, op, at.base, at.off, at.c, at.type);
    LLVMSetAlignment(LLVMBuildStore(em->b, em->values[op->args[0]], p),
                     by_lane(op) ? op->align : lane_align(op, at.type));
}

/* Is op the next operation after a masked store, under its mask, with nothing emitted between them? Then their stores
 * stand in one block, where LLVM joins neighbours to one of up to 16 bytes. */
static bool joins_store(const struct emitter *em, const struct ir_op *op) {
    const struct ir_op *last = em->ptx->guarded.op;
    return last && last->next == op && last->code == op->code && last->args[1] == op->args[1] &&
           LLVMGetInsertBlock(em->b) == em->ptx->guarded.done && !LLVMGetLastInstruction(em->ptx->guarded.done);
}

void ptx_store(struct emitter *em, const struct ir_op *op) {
    order(em, op);
    bool masked = op->code != IR_STORE;
    if (masked && joins_store(em, op)) {
        LLVMPositionBuilderBefore(em->b, LLVMGetBasicBlockTerminator(em->ptx->guarded.then));
        store_lane(em, op);
        LLVMPositionBuilderAtEnd(em->b, em->ptx->guarded.done);
        em->ptx->guarded.op = op;
        return;
    }
    struct ir_type type = place_of(em, op).type;
    LLVMValueRef on = masked ? em->values[op->args[1]] : NULL;
    if (on && LLVMIsAConstantInt(on) && LLVMConstIntGetZExtValue(on)) on = NULL;
    LLVMValueRef first = NULL; /* of the copies of a lane, the first stores */
    if (em->ptx->team && !em->ptx->split && memory_of(em, op) != MEM_STACK)
        first = LLVMBuildICmp(em->b, LLVMIntULT, em->ptx->tid, k32(em, type.lanes), "");
    else if (type.lanes < PTX_LANES)
        first = lane_below(em, type.lanes);
    if (first) on = on ? LLVMBuildAnd(em->b, first, on, "") : first;
    if (!on) {
        store_lane(em, op);
        return;
    }
    LLVMBasicBlockRef then = llvm_new_block(em), done = llvm_new_block(em);
    LLVMBuildCondBr(em->b, on, then, done);
    LLVMPositionBuilderAtEnd(em->b, then);
    store_lane(em, op);
    LLVMBuildBr(em->b, done);
    LLVMPositionBuilderAtEnd(em->b, done);
    if (masked) {
        em->ptx->guarded.op = op;
        em->ptx->guarded.then = then;
        em->ptx->guarded.done = done;
    }
}

/* A word of the parameter block. */
static LLVMValueRef param(struct emitter *em, uint64_t k) {
    LLVMValueRef off = k64(em, k * 8);
    LLVMValueRef v = LLVMBuildLoad2(em->b, i64_type(em), llvm_byte_offset(em, em->ptx->params, off), "");
    LLVMSetAlignment(v, 8);
    return v;
}

static LLVMValueRef global_pointer(struct emitter *em, LLVMValueRef bits) {
    return LLVMBuildIntToPtr(em->b, bits, LLVMPointerTypeInContext(em->ctx, GLOBAL), "");
}

static LLVMValueRef dim(struct emitter *em, uint64_t k) {
    LLVMValueRef off = k64(em, k * 8);
    LLVMValueRef p = llvm_byte_offset(em, global_pointer(em, param(em, PTX_PARAM_DIMS)), off);
    LLVMValueRef v = LLVMBuildLoad2(em->b, i64_type(em), p, "");
    LLVMSetAlignment(v, 8);
    llvm_mark_invariant(em, v);
    return v;
}

static LLVMValueRef new_shared(struct emitter *em, const char *name, uint64_t bytes, unsigned align) {
    LLVMTypeRef type = LLVMArrayType2(int_type(em, 8), bytes);
    LLVMValueRef all = LLVMAddGlobalInAddressSpace(em->module, type, name, SHARED);
    LLVMSetLinkage(all, LLVMInternalLinkage);
    LLVMSetInitializer(all, LLVMGetUndef(type));
    LLVMSetAlignment(all, align < 16 ? 16 : align);
    return all;
}

/* The warp's own part of an array in shared memory. */
static LLVMValueRef stack(struct emitter *em, const struct ir_op *op) {
    uint64_t bytes = shared_bytes(op);
    LLVMValueRef all = new_shared(em, "stack", bytes, op->align);
    LLVMValueRef at = LLVMBuildMul(em->b, em->ptx->warp_of_block, k32(em, (uint32_t)(bytes / PTX_WARPS)), "");
    return llvm_byte_offset(em, all, LLVMBuildZExt(em->b, at, i64_type(em), ""));
}

static LLVMValueRef generic(struct emitter *em, LLVMValueRef p) {
    LLVMTypeRef type = LLVMPointerTypeInContext(em->ctx, 0);
    return LLVMTypeOf(p) == type ? p : LLVMBuildAddrSpaceCast(em->b, p, type, "");
}

static LLVMValueRef half(struct emitter *em, LLVMValueRef v) {
    return LLVMBuildBitCast(em->b, v, LLVMHalfTypeInContext(em->ctx), "");
}

/* ---- values ---- */

static LLVMValueRef iota(struct emitter *em, struct ir_type t) {
    return LLVMBuildIntCast2(em->b, lane_of(em, t.lanes), llvm_type(em, t), 0, "");
}

LLVMValueRef ptx_value(struct emitter *em, const struct ir_op *op, LLVMValueRef *a) {
    struct ir_type t = op->type, from = op->n_args ? em->f->values[op->args[0]].type : t;
    unsigned width;
    switch (op->code) {
    case IR_ARG:
        return global_pointer(em, param(em, PTX_PARAM_ARGS + (uint64_t)op->imm));
    case IR_DIM:
        return dim(em, (uint64_t)op->imm);
    case IR_BEGIN:
        return em->ptx->begin;
    case IR_END:
        return em->ptx->end;
    case IR_WS:
        return global_pointer(em, param(em, PTX_PARAM_WS));
    case IR_STACK:
        return stack(em, op);
    case IR_SHARED:
        return new_shared(em, "shared", shared_bytes(op), op->align);
    case IR_IOTA:
        return iota(em, t);
    case IR_SPLAT:
        return a[0];
    case IR_EXTRACT:
        return exchange(em, "idx", a[0], k32(em, (uint32_t)op->imm));
    case IR_CONCAT:
        return concat(em, a, t);
    case IR_SLICE:
        return slice(em, a[0], op);
    case IR_SHUFFLE:
        return shuffle(em, a[0], op);
    case IR_BITCAST:
        return bitcast(em, a[0], from, t);
    case IR_SELECT:
        if (t.scalar != IR_PTR || LLVMTypeOf(a[1]) == LLVMTypeOf(a[2])) return NULL;
        return LLVMBuildSelect(em->b, a[0], generic(em, a[1]), generic(em, a[2]), "");
    case IR_HSUM:
    case IR_HMAX:
        return reduce(em, a[0], from, op->code == IR_HSUM);
    case IR_DOT4:
        return target_dot4(em->target, (unsigned)op->imm, &width)->emit(em, a[0], a[1], a[2], 1);
    case IR_FPEXT:
        return LLVMBuildFPExt(em->b, half(em, a[0]), llvm_type(em, t), "");
    case IR_FPTRUNC:
        return LLVMBuildBitCast(em->b, LLVMBuildFPTrunc(em->b, a[0], LLVMHalfTypeInContext(em->ctx), ""),
                                llvm_type(em, t), "");
    case IR_FRINT:
        return llvm_call(em, "llvm.rint", LLVMTypeOf(a[0]), 1, a);
    case IR_MMA:
        return ptx_mma(em, op, a);
    case IR_PAIR_F16:
    case IR_PAIR_BF16:
        return ptx_pair(em, op, a);
    case IR_LDMATRIX:
    case IR_LDMATRIX_T:
        order(em, op);
        return ptx_ldmatrix(em, op, lane_address(em, op));
    case IR_LOAD:
    case IR_GATHER:
        return load(em, op);
    default:
        return NULL;
    }
}

/* ---- split loops ---- */

/* Part p of a split for is the threads p · n … p · n + n − 1 of the block: each starts p steps in and makes as many
 * steps at once as there are parts. */
void ptx_split_range(struct emitter *em, const struct ir_op *op, LLVMValueRef *lo, LLVMValueRef *step) {
    LLVMValueRef part = LLVMBuildUDiv(em->b, em->ptx->tid, k32(em, part_threads(op)), "");
    part = LLVMBuildZExt(em->b, part, i64_type(em), "");
    *lo = LLVMBuildAdd(em->b, *lo, LLVMBuildMul(em->b, part, *step, ""), "");
    *step = k64(em, op->imm * op->split);
}

void ptx_enter_split(struct emitter *em, const struct ir_op *op, LLVMValueRef *lo, LLVMValueRef *step) {
    ptx_split_range(em, op, lo, step);
    em->ptx->split = op;
}

/* One merge: states a (the lower parts') and b in; the merged one replaces a. */
static void merge(struct emitter *em, const struct ir_op *op, LLVMValueRef *a, LLVMValueRef *b) {
    uint32_t n = op->n_results;
    for (uint32_t c = 0; c < n; c++) {
        em->values[op->pair[c]] = a[c];
        em->values[op->pair[n + c]] = b[c];
    }
    llvm_emit_block(em, op->merge);
    for (uint32_t c = 0; c < n; c++) a[c] = em->values[op->merge->last->args[c]];
}

/* Within a warp: neighbours exchange their states, and both of them merge. */
static void merge_in_warp(struct emitter *em, const struct ir_op *op, LLVMValueRef *state, LLVMValueRef *other) {
    for (unsigned far = part_threads(op); far < PTX_LANES; far *= 2) {
        LLVMValueRef bit = LLVMBuildAnd(em->b, em->ptx->lane, k32(em, far), "");
        LLVMValueRef lower = LLVMBuildICmp(em->b, LLVMIntEQ, bit, k32(em, 0), "");
        for (uint32_t c = 0; c < op->n_results; c++) {
            LLVMValueRef x = exchange(em, "bfly", state[c], k32(em, far)), mine = state[c];
            state[c] = LLVMBuildSelect(em->b, lower, mine, x, "");
            other[c] = LLVMBuildSelect(em->b, lower, x, mine, "");
        }
        merge(em, op, state, other);
    }
}

static LLVMValueRef scratch_at(struct emitter *em, uint64_t at, LLVMValueRef warp, struct ir_type t) {
    unsigned bytes = ir_scalar_bits(t.scalar) / 8;
    LLVMValueRef off = LLVMBuildMul(em->b, warp, k32(em, (bytes * t.lanes + 15) / 16 * 16), "");
    off = LLVMBuildAdd(em->b, off, LLVMBuildMul(em->b, lane_of(em, t.lanes), k32(em, bytes), ""), "");
    off = LLVMBuildAdd(em->b, off, k32(em, (uint32_t)at), "");
    return llvm_byte_offset(em, em->ptx->scratch, LLVMBuildZExt(em->b, off, i64_type(em), ""));
}

/* Between warps: each leaves its state in scratch memory, and all read all of them. */
static void merge_warps(struct emitter *em, const struct ir_op *op, LLVMValueRef *state) {
    LLVMValueRef *all = mem_new(PTX_WARPS * op->n_results * sizeof *all);
    ptx_block_barrier(em); /* the scratch memory may still be read for an earlier loop */
    uint64_t at = 0;
    for (uint32_t c = 0; c < op->n_results; c++) {
        struct ir_type t = em->f->values[op->results[c]].type;
        LLVMBasicBlockRef then = llvm_new_block(em), done = llvm_new_block(em);
        LLVMBuildCondBr(em->b, lane_below(em, t.lanes), then, done);
        LLVMPositionBuilderAtEnd(em->b, then);
        LLVMBuildStore(em->b, state[c], scratch_at(em, at, em->ptx->warp_of_block, t));
        LLVMBuildBr(em->b, done);
        LLVMPositionBuilderAtEnd(em->b, done);
        at += carry_bytes(em->f, op, c);
    }
    ptx_block_barrier(em);
    at = 0;
    for (uint32_t c = 0; c < op->n_results; c++) {
        struct ir_type t = em->f->values[op->results[c]].type;
        for (uint32_t w = 0; w < PTX_WARPS; w++)
            all[w * op->n_results + c] = LLVMBuildLoad2(em->b, llvm_type(em, t), scratch_at(em, at, k32(em, w), t), "");
        at += carry_bytes(em->f, op, c);
    }
    for (uint32_t h = 1; h < PTX_WARPS; h *= 2)
        for (uint32_t w = 0; w < PTX_WARPS; w += 2 * h)
            merge(em, op, all + w * op->n_results, all + (w + h) * op->n_results);
    memcpy(state, all, op->n_results * sizeof *state);
    mem_free(all);
}

void ptx_leave_split(struct emitter *em, const struct ir_op *op) {
    em->ptx->split = NULL;
    if (!op->n_results) return;
    LLVMValueRef *state = mem_new(2 * op->n_results * sizeof *state);
    for (uint32_t c = 0; c < op->n_results; c++) state[c] = em->values[op->results[c]];
    merge_in_warp(em, op, state, state + op->n_results);
    merge_warps(em, op, state);
    for (uint32_t c = 0; c < op->n_results; c++) em->values[op->results[c]] = state[c];
    mem_free(state);
}

/* ---- functions ---- */

static LLVMValueRef new_kernel(struct emitter *em) {
    struct buf name = {0};
    target_ptx_symbol(em->f->name, &name);
    LLVMTypeRef ptr = LLVMPointerTypeInContext(em->ctx, 0), type;
    type = LLVMFunctionType(LLVMVoidTypeInContext(em->ctx), &ptr, 1, 0);
    LLVMValueRef f = LLVMAddFunction(em->module, name.data, type);
    buf_free(&name);
    LLVMSetFunctionCallConv(f, KERNEL_CALL);
    return f;
}

static uint64_t max_arg(const struct ir_block *b) {
    uint64_t n = 0;
    for (const struct ir_op *op = b->first; op; op = op->next) {
        uint64_t k = op->body ? max_arg(op->body) : op->code == IR_ARG ? (uint64_t)op->imm + 1 : 0;
        if (k > n) n = k;
    }
    return n;
}

static unsigned registers_of(const struct ir_func *f, ir_value v) {
    return (f->values[v].type.lanes + PTX_LANES - 1u) / PTX_LANES;
}

static bool is_constant(const struct ir_func *f, ir_value v) {
    const struct ir_op *op = f->values[v].def;
    return op->code == IR_CONST ||
           (op->code == IR_CONCAT && is_constant(f, op->args[0]) && is_constant(f, op->args[1]));
}

/* The most registers that a loop around products of tiles carries and begins anew: sums that nothing was added to. */
static unsigned accumulators(const struct ir_func *f, const struct ir_op *loop, const struct ir_block *b) {
    unsigned most = 0, held = 0;
    bool products = false;
    for (uint32_t c = 0; loop && c < loop->n_results; c++) held += registers_of(f, loop->results[c]);
    for (const struct ir_op *op = b->first; op; op = op->next) {
        unsigned n = op->body ? accumulators(f, op->code == IR_FOR ? op : NULL, op->body) : 0;
        if (n > most) most = n;
        if (op->code != IR_MMA) continue;
        products = true;
        if (is_constant(f, op->args[0])) held += registers_of(f, op->args[0]);
    }
    return products && held > most ? held : most;
}

static void set_attribute(struct emitter *em, const char *key, int value) {
    char text[16];
    int n = snprintf(text, sizeof text, "%d", value);
    LLVMAttributeRef a = LLVMCreateStringAttribute(em->ctx, key, (unsigned)strlen(key), text, (unsigned)n);
    LLVMAddAttributeAtIndex(em->func, (LLVMAttributeIndex)LLVMAttributeFunctionIndex, a);
}

static void set_attributes(struct emitter *em) {
    LLVMTypeRef block = LLVMArrayType2(i64_type(em), PTX_PARAM_ARGS + max_arg(em->f->body));
    unsigned byval = LLVMGetEnumAttributeKindForName("byval", 5), align = LLVMGetEnumAttributeKindForName("align", 5);
    LLVMAddAttributeAtIndex(em->func, 1, LLVMCreateTypeAttribute(em->ctx, byval, block));
    LLVMAddAttributeAtIndex(em->func, 1, LLVMCreateEnumAttribute(em->ctx, align, 8));
    set_attribute(em, "nvvm.reqntid", PTX_THREADS);
    bool tiles = accumulators(em->f, NULL, em->f->body) > PTX_FEW_ACCUMULATORS;
    set_attribute(em, "nvvm.minctasm", tiles ? PTX_TILE_BLOCKS : PTX_BLOCKS);
}

/* Worker w of the grid (a warp; of a team function, a block) does the tasks [begin + w * per, begin + (w + 1) * per)
 * that lie below end. */
static LLVMValueRef share_tasks(struct emitter *em) {
    struct ptx *p = em->ptx;
    p->tid = special(em, "llvm.nvvm.read.ptx.sreg.tid.x");
    p->lane = LLVMBuildAnd(em->b, p->tid, k32(em, PTX_LANES - 1), "");
    p->warp_of_block = LLVMBuildLShr(em->b, p->tid, k32(em, 5), "");
    LLVMValueRef worker = special(em, "llvm.nvvm.read.ptx.sreg.ctaid.x");
    if (!p->team)
        worker = LLVMBuildAdd(em->b, LLVMBuildMul(em->b, worker, k32(em, PTX_WARPS), ""), p->warp_of_block, "");
    LLVMValueRef per = param(em, PTX_PARAM_PER);
    LLVMValueRef first = LLVMBuildMul(em->b, LLVMBuildZExt(em->b, worker, i64_type(em), ""), per, "");
    p->begin = LLVMBuildAdd(em->b, param(em, PTX_PARAM_BEGIN), first, "");
    LLVMValueRef end = param(em, PTX_PARAM_END), own = LLVMBuildAdd(em->b, p->begin, per, "");
    p->end = LLVMBuildSelect(em->b, LLVMBuildICmp(em->b, LLVMIntSLT, own, end, ""), own, end, "");
    return LLVMBuildICmp(em->b, LLVMIntSLT, p->begin, p->end, "");
}

void ptx_func(struct emitter *em) {
    struct ptx state = {.team = has_team(em->f->body)};
    uint64_t scratch = scratch_bytes(em->f, em->f->body);
    em->ptx = &state;
    em->func = new_kernel(em);
    if (scratch) state.scratch = new_shared(em, "scratch", scratch, 16);
    set_attributes(em);
    state.params = LLVMGetParam(em->func, 0);
    em->values = mem_new(em->f->n_values * sizeof *em->values);
    LLVMBasicBlockRef entry = llvm_new_block(em), body = llvm_new_block(em), done = llvm_new_block(em);
    LLVMPositionBuilderAtEnd(em->b, entry);
    ptx_let_successors_start(em);
    LLVMBuildCondBr(em->b, share_tasks(em), body, done);
    LLVMPositionBuilderAtEnd(em->b, body);
    ptx_ahead(em);
    llvm_emit_block(em, em->f->body);
    LLVMBuildBr(em->b, done);
    LLVMPositionBuilderAtEnd(em->b, done);
    LLVMBuildRetVoid(em->b);
    mem_free(em->values);
    em->ptx = NULL;
}
