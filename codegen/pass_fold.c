/* pass_fold: integer constants, and the constants of address arithmetic.
 *
 * The rules, which a new rule must obey: (1) integers only: a float constant is never computed here, so that no
 * rounding happens at compile time; (2) every rule holds for wrapping arithmetic on every input; (3) a rule looks at
 * its operands' definitions only, which are folded already, and adds at most two operations: the pass stays linear; (4)
 * an i64 sum keeps its constant outermost on the right, `add (add x, y), c`, which is what lets rule (5) find it; (5)
 * `load` and `store` take that constant into their offset.
 */
#include "codegen/passes_internal.h"

struct fold {
    struct ir_func *f;
    ir_value *same; /* per value: what replaces it */
    uint32_t cap_same;
};

static const struct ir_op *def_of(const struct fold *fo, ir_value v) {
    return fo->f->values[v].def;
}

/* The constant in every lane of v, as bits. */
static bool is_const(const struct fold *fo, ir_value v, uint64_t *bits) {
    const struct ir_op *d = def_of(fo, v);
    if (d->code != IR_CONST) return false;
    *bits = (uint64_t)d->imm;
    return true;
}

static ir_value insert_op(struct fold *fo, struct ir_op *before, enum ir_opcode code, struct ir_type t, ir_value a,
                          ir_value b) {
    struct ir_op *op = ir_op_new(fo->f, code, a ? 2 : 0);
    op->type = t;
    op->line = before->line;
    if (a) {
        op->args[0] = a;
        op->args[1] = b;
    }
    op->n_results = 1;
    op->results = arena_new(fo->f->arena, sizeof *op->results);
    op->results[0] = ir_value_new(fo->f, t, 0, op);
    ir_insert_before(before, op);
    return op->results[0];
}

static ir_value insert_const(struct fold *fo, struct ir_op *before, struct ir_type t, uint64_t bits) {
    ir_value v = insert_op(fo, before, IR_CONST, t, 0, 0);
    fo->f->values[v].def->imm = (int64_t)(bits & ir_mask(ir_scalar_bits(t.scalar)));
    return v;
}

static ir_value become_const(struct ir_op *op, uint64_t bits) {
    op->code = IR_CONST;
    op->imm = (int64_t)(bits & ir_mask(ir_scalar_bits(op->type.scalar)));
    op->n_args = 0;
    op->lanes = NULL;
    return 0;
}

static void become_binary(struct ir_op *op, enum ir_opcode code, ir_value a, ir_value b) {
    op->code = code;
    op->args[0] = a;
    op->args[1] = b;
}

/* ---- constants ---- */

static bool fold_binary(enum ir_opcode code, unsigned width, uint64_t a, uint64_t b, uint64_t *r) {
    int64_t sa = ir_sign_extend((int64_t)a, width), sb = ir_sign_extend((int64_t)b, width);
    switch (code) {
    case IR_ADD:
        *r = a + b;
        return true;
    case IR_SUB:
        *r = a - b;
        return true;
    case IR_MUL:
        *r = a * b;
        return true;
    case IR_AND:
        *r = a & b;
        return true;
    case IR_OR:
        *r = a | b;
        return true;
    case IR_XOR:
        *r = a ^ b;
        return true;
    case IR_SHL:
        *r = b < width ? a << b : 0;
        return b < width;
    case IR_LSHR:
        *r = b < width ? a >> b : 0;
        return b < width;
    case IR_ASHR:
        *r = b < width ? (uint64_t)(sa >> b) : 0;
        return b < width;
    case IR_UDIV:
        *r = b ? a / b : 0;
        return b != 0;
    case IR_UREM:
        *r = b ? a % b : 0;
        return b != 0;
    case IR_SMIN:
        *r = sa < sb ? a : b;
        return true;
    case IR_SMAX:
        *r = sa > sb ? a : b;
        return true;
    case IR_IEQ:
        *r = a == b;
        return true;
    case IR_INE:
        *r = a != b;
        return true;
    case IR_ILT:
        *r = sa < sb;
        return true;
    case IR_ILE:
        *r = sa <= sb;
        return true;
    default:
        return false;
    }
}

/* x op c for a c that makes the result x, or a constant. */
static bool fold_identity(struct ir_op *op, unsigned width, uint64_t c, ir_value *same) {
    uint64_t ones = ir_mask(width);
    *same = op->args[0];
    switch (op->code) {
    case IR_ADD:
    case IR_SUB:
    case IR_OR:
    case IR_XOR:
    case IR_SHL:
    case IR_LSHR:
    case IR_ASHR:
        return c == 0;
    case IR_MUL:
        if (c == 0) *same = become_const(op, 0);
        return c == 0 || c == 1;
    case IR_AND:
        if (c == 0) *same = become_const(op, 0);
        return c == 0 || c == ones;
    case IR_UDIV:
        return c == 1;
    case IR_UREM:
        if (c == 1) *same = become_const(op, 0);
        return c == 1;
    default:
        return false;
    }
}

/* ---- i64 sums ---- */

/* v as base + c, base 0 when v is a constant. */
static ir_value split_sum(const struct fold *fo, ir_value v, uint64_t *c) {
    const struct ir_op *d = def_of(fo, v);
    *c = 0;
    if (is_const(fo, v, c)) return 0;
    if (d->code == IR_ADD && is_const(fo, d->args[1], c)) return d->args[0];
    return v;
}

/* op becomes base + c, or is replaced by base. */
static ir_value become_sum(struct fold *fo, struct ir_op *op, ir_value base, uint64_t c) {
    if (c == 0) return base;
    become_binary(op, IR_ADD, base, insert_const(fo, op, op->type, c));
    return 0;
}

static ir_value fold_sum(struct fold *fo, struct ir_op *op) {
    uint64_t ca, cb;
    ir_value a = split_sum(fo, op->args[0], &ca), b = split_sum(fo, op->args[1], &cb);
    if (op->code == IR_SUB) {
        if (b) return 0; /* only x - c is a sum */
        cb = -cb;
    }
    if (!a || !b) return become_sum(fo, op, a ? a : b, ca + cb);
    if (!ca && !cb) return 0;
    return become_sum(fo, op, insert_op(fo, op, IR_ADD, op->type, a, b), ca + cb);
}

/* (x + c) * k = x * k + c * k, also for a shift. */
static ir_value fold_scaled_sum(struct fold *fo, struct ir_op *op, uint64_t k) {
    uint64_t c;
    ir_value x = split_sum(fo, op->args[0], &c);
    if (!x || !c) return 0;
    ir_value product = insert_op(fo, op, op->code, op->type, x, op->args[1]);
    return become_sum(fo, op, product, op->code == IR_SHL ? c << k : c * k);
}

/* ---- operations; each returns the value that replaces op's result, or 0 (op may have changed in place) ---- */

static ir_value fold_integers(struct fold *fo, struct ir_op *op) {
    struct ir_type t = fo->f->values[op->args[0]].type;
    unsigned width = ir_scalar_bits(t.scalar);
    bool swaps =
        op->code == IR_ADD || op->code == IR_MUL || op->code == IR_AND || op->code == IR_OR || op->code == IR_XOR;
    uint64_t a = 0, b = 0, r;
    bool ka = is_const(fo, op->args[0], &a), kb = is_const(fo, op->args[1], &b);
    if (ka && kb && fold_binary(op->code, width, a, b, &r)) return become_const(op, r);
    if (ka && !kb && swaps) {
        ir_value v = op->args[0];
        op->args[0] = op->args[1];
        op->args[1] = v;
        b = a;
        kb = true;
        ka = false;
    }
    ir_value same;
    if (kb && fold_identity(op, width, b, &same)) return same;
    if (!ir_type_eq(op->type, ir_type_of(IR_I64, 1))) return 0;
    if (op->code == IR_ADD || op->code == IR_SUB) return fold_sum(fo, op);
    if (kb && (op->code == IR_MUL || (op->code == IR_SHL && b < 64))) return fold_scaled_sum(fo, op, b);
    return 0;
}

/* zext, sext, trunc, splat, extract, slice, shuffle: of a constant, again a constant. */
static ir_value fold_unary(struct fold *fo, struct ir_op *op) {
    uint64_t a;
    if (!is_const(fo, op->args[0], &a)) return 0;
    if (op->code == IR_SEXT)
        a = (uint64_t)ir_sign_extend((int64_t)a, ir_scalar_bits(fo->f->values[op->args[0]].type.scalar));
    return become_const(op, a);
}

static ir_value fold_select(struct fold *fo, struct ir_op *op) {
    uint64_t c;
    if (op->args[1] == op->args[2]) return op->args[1];
    if (!is_const(fo, op->args[0], &c)) return 0;
    return op->args[c ? 1 : 2];
}

/* load and store: base, offset are args[i], args[i + 1] */
static void fold_address(struct fold *fo, struct ir_op *op, int i) {
    uint64_t c;
    ir_value rest = split_sum(fo, op->args[i + 1], &c);
    int64_t sum;
    if (!c || __builtin_add_overflow(op->imm, (int64_t)c, &sum) || sum < -IR_MAX_OFFSET || sum > IR_MAX_OFFSET) return;
    op->imm = sum;
    op->args[i + 1] = rest ? rest : insert_const(fo, op, ir_type_of(IR_I64, 1), 0);
}

static ir_value fold_op(struct fold *fo, struct ir_op *op) {
    switch (op->code) {
    case IR_ADD:
    case IR_SUB:
    case IR_MUL:
    case IR_AND:
    case IR_OR:
    case IR_XOR:
    case IR_SHL:
    case IR_LSHR:
    case IR_ASHR:
    case IR_UDIV:
    case IR_UREM:
    case IR_SMIN:
    case IR_SMAX:
    case IR_IEQ:
    case IR_INE:
    case IR_ILT:
    case IR_ILE:
        return fold_integers(fo, op);
    case IR_ZEXT:
    case IR_SEXT:
    case IR_TRUNC:
    case IR_SPLAT:
    case IR_EXTRACT:
    case IR_SLICE:
    case IR_SHUFFLE:
        return fold_unary(fo, op);
    case IR_SELECT:
        return fold_select(fo, op);
    case IR_LOAD:
    case IR_PREFETCH:
    case IR_GATHER:
    case IR_LDMATRIX:
    case IR_LDMATRIX_T:
        fold_address(fo, op, 0);
        return 0;
    case IR_STORE:
        fold_address(fo, op, 1);
        return 0;
    case IR_STOREM:
    case IR_SCATTER:
        fold_address(fo, op, 2);
        return 0;
    default:
        return 0;
    }
}

static void fold_block(struct fold *fo, struct ir_block *b) {
    for (struct ir_op *op = b->first; op; op = op->next) {
        for (uint32_t i = 0; i < op->n_args; i++)
            if (op->args[i] < fo->cap_same && fo->same[op->args[i]]) op->args[i] = fo->same[op->args[i]];
        ir_value same = fold_op(fo, op);
        if (same) fo->same[op->results[0]] = same; /* dce drops op */
        if (op->body) fold_block(fo, op->body);
        if (op->merge) fold_block(fo, op->merge);
    }
}

void pass_fold(struct ir_func *f) {
    struct fold fo = {.f = f, .cap_same = f->n_values}; /* values made here are never replaced */
    fo.same = mem_new(f->n_values * sizeof *fo.same);
    fold_block(&fo, f->body);
    mem_free(fo.same);
}
