/* The verifier: every rule of docs/ir.md, checked on the in-memory form, so that it holds after passes as well as after
 * parsing. It trusts nothing but the pointers: scopes, types, lane counts, alignments and ranges are all checked again.
 */
#include "codegen/ir.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct verifier {
    const struct ir_func *f;
    const struct ir_op *op;
    uint8_t *seen;     /* per value: 0 not yet defined, 1 visible, 2 out of scope */
    ir_value *visible; /* in order of definition */
    uint32_t n_visible;
    int64_t stack_bytes;
    const struct ir_op *split; /* the split for around the current operation */
    struct err *e;
};

static bool fail(struct verifier *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct verifier *v, const char *fmt, ...) {
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_set(v->e, ERR_INPUT, "flat IR, line %" PRIu32 ", func @%s, %s: %s", v->op->line, v->f->name,
                   ir_op_info[v->op->code].name, msg);
}

/* "wants X, found T", T being operand i's type. */
static bool wrong_operand(struct verifier *v, uint32_t i, const char *wanted) {
    struct buf b = {0};
    ir_print_type(v->f->values[v->op->args[i]].type, &b);
    fail(v, "operand %" PRIu32 " must be %s, found %s", i + 1, wanted, b.data);
    buf_free(&b);
    return false;
}

static bool wrong_result(struct verifier *v, const char *wanted) {
    struct buf b = {0};
    ir_print_type(v->op->type, &b);
    fail(v, "the result must be %s, found %s", wanted, b.data);
    buf_free(&b);
    return false;
}

static struct ir_type arg_type(const struct verifier *v, uint32_t i) {
    return v->f->values[v->op->args[i]].type;
}

static bool want_arg(struct verifier *v, uint32_t i, struct ir_type want) {
    if (ir_type_eq(arg_type(v, i), want)) return true;
    struct buf b = {0};
    ir_print_type(want, &b);
    wrong_operand(v, i, b.data);
    buf_free(&b);
    return false;
}

static bool want_all(struct verifier *v, struct ir_type want) {
    for (uint32_t i = 0; i < v->op->n_args; i++)
        if (!want_arg(v, i, want)) return false;
    return true;
}

static const struct ir_type type_i64 = {IR_I64, 1}, type_ptr = {IR_PTR, 1};

/* ---- the rules ---- */

static bool check_convert(struct verifier *v, enum ir_scalar from, enum ir_scalar to) {
    struct ir_type t = v->op->type;
    if (t.scalar != to) return wrong_result(v, to == IR_F16 ? "f16" : to == IR_I32 ? "i32" : "f32");
    return want_arg(v, 0, ir_type_of(from, t.lanes));
}

static bool check_resize(struct verifier *v, bool widen) {
    struct ir_type t = v->op->type, a = arg_type(v, 0);
    if (!ir_is_int(t)) return wrong_result(v, "an integer");
    if (!ir_is_int(a) || a.lanes != t.lanes) return wrong_operand(v, 0, "an integer of the result's lanes");
    if (widen ? a.scalar >= t.scalar : a.scalar <= t.scalar)
        return wrong_operand(v, 0, widen ? "narrower than the result" : "wider than the result");
    return true;
}

static bool check_compare(struct verifier *v, bool is_float) {
    struct ir_type a = arg_type(v, 0);
    if (is_float ? a.scalar != IR_F32 : !ir_is_int(a)) return wrong_operand(v, 0, is_float ? "f32" : "an integer");
    if (!ir_type_eq(v->op->type, ir_type_of(IR_I1, a.lanes))) return wrong_result(v, "i1 of the operands' lanes");
    return want_arg(v, 1, a);
}

static bool check_select(struct verifier *v) {
    struct ir_type t = v->op->type, c = arg_type(v, 0);
    if (c.scalar != IR_I1 || (c.lanes != 1 && c.lanes != t.lanes))
        return wrong_operand(v, 0, "i1, scalar or of the result's lanes");
    return want_arg(v, 1, t) && want_arg(v, 2, t);
}

/* extract and slice: lanes K .. K+N-1 of operand 1 */
static bool check_part(struct verifier *v) {
    struct ir_type t = v->op->type, a = arg_type(v, 0);
    if (a.scalar != t.scalar || a.lanes <= t.lanes)
        return wrong_operand(v, 0, "a longer vector of the result's lane type");
    if (v->op->imm < 0 || v->op->imm + t.lanes > a.lanes)
        return fail(v, "lanes %" PRId64 " to %" PRId64 " are not in a vector of %u", v->op->imm,
                    v->op->imm + t.lanes - 1, a.lanes);
    return true;
}

static bool check_shuffle(struct verifier *v) {
    struct ir_type t = v->op->type, a = arg_type(v, 0);
    if (a.scalar != t.scalar || a.lanes < 2) return wrong_operand(v, 0, "a vector of the result's lane type");
    for (unsigned i = 0; i < t.lanes; i++)
        if (v->op->lanes[i] >= a.lanes)
            return fail(v, "lane number %u is not in a vector of %u", v->op->lanes[i], a.lanes);
    return true;
}

static bool check_concat(struct verifier *v) {
    struct ir_type t = v->op->type;
    if (t.lanes < 2) return wrong_result(v, "a vector");
    return want_all(v, ir_type_of(t.scalar, t.lanes / 2));
}

static bool check_stack(struct verifier *v) {
    v->stack_bytes += v->op->imm;
    if (v->op->imm < 1 || v->stack_bytes > IR_MAX_STACK)
        return fail(v, "the function's stack must be from 1 to %d bytes in all, found %" PRId64, IR_MAX_STACK,
                    v->stack_bytes);
    return true;
}

static bool check_for(struct verifier *v) {
    const struct ir_op *op = v->op;
    if (op->imm < 1) return fail(v, "the step must be positive, found %" PRId64, op->imm);
    if (op->n_args != op->n_results + 2) return fail(v, "%" PRIu32 " carries want as many inits", op->n_results);
    if (op->split > IR_MAX_SPLIT || (op->split & (op->split - 1)))
        return fail(v, "the parts must be a power of two up to %d, found %" PRIu32, IR_MAX_SPLIT, op->split);
    if (op->split && v->split) return fail(v, "a split for stands inside another (line %" PRIu32 ")", v->split->line);
    if (!op->merge != (!op->split || !op->n_results))
        return fail(v, "a split for with carries, and no other, has a merge");
    for (uint32_t i = 0; i < op->n_results; i++)
        if (!want_arg(v, i + 2, v->f->values[op->inner[i + 1]].type)) return false;
    return want_arg(v, 0, type_i64) && want_arg(v, 1, type_i64);
}

static bool check_yield(struct verifier *v) {
    const struct ir_op *loop = v->op->block->owner;
    if (!loop || loop->code != IR_FOR || !loop->n_results || v->op->next)
        return fail(v, "belongs at the end of a for with carries");
    if (v->op->n_args != loop->n_results)
        return fail(v, "expected %" PRIu32 " values, one per carry, found %" PRIu32, loop->n_results, v->op->n_args);
    for (uint32_t i = 0; i < loop->n_results; i++)
        if (!want_arg(v, i, v->f->values[loop->inner[i + 1]].type)) return false;
    return true;
}

static bool check_memory(struct verifier *v, uint32_t base) {
    const struct ir_op *op = v->op;
    struct ir_type t = op->code == IR_LOAD ? op->type : arg_type(v, 0);
    if (t.scalar == IR_I1) return fail(v, "i1 has no form in memory: use select and i8");
    if (op->code == IR_STOREM) {
        if (t.lanes < 2) return wrong_operand(v, 0, "a vector");
        if (!want_arg(v, 1, ir_type_of(IR_I1, t.lanes))) return false;
    }
    if (op->imm < -IR_MAX_OFFSET || op->imm > IR_MAX_OFFSET) return fail(v, "the constant offset is out of range");
    if (op->stride && (t.lanes < 2 || op->stride < ir_scalar_bits(t.scalar) / 8))
        return fail(v, "a stride of %" PRIu32 " needs lanes, and none that overlap", op->stride);
    return want_arg(v, base, type_ptr) && want_arg(v, base + 1, type_i64);
}

/* gather and scatter: base, offset and the lanes' offsets from operand `base` on, for values of type t */
static bool check_lanes_memory(struct verifier *v, struct ir_type t, uint32_t base) {
    if (t.scalar == IR_I1) return fail(v, "i1 has no form in memory: use select and i8");
    if (v->op->imm < -IR_MAX_OFFSET || v->op->imm > IR_MAX_OFFSET)
        return fail(v, "the constant offset is out of range");
    return want_arg(v, base, type_ptr) && want_arg(v, base + 1, type_i64) &&
           want_arg(v, base + 2, ir_type_of(IR_I32, t.lanes));
}

static bool check_scatter(struct verifier *v) {
    struct ir_type t = arg_type(v, 0);
    if (t.lanes < 2) return wrong_operand(v, 0, "a vector");
    return want_arg(v, 1, ir_type_of(IR_I1, t.lanes)) && check_lanes_memory(v, t, 2);
}

/* One, two or four matrices of 8 by 8 halves: 32 words each. */
static bool check_ldmatrix(struct verifier *v) {
    struct ir_type t = v->op->type;
    if (t.scalar != IR_I32 || t.lanes < 32) return wrong_result(v, "i32x32, i32x64 or i32x128");
    if (v->op->imm < -IR_MAX_OFFSET || v->op->imm > IR_MAX_OFFSET)
        return fail(v, "the constant offset is out of range");
    return want_arg(v, 0, type_ptr) && want_arg(v, 1, type_i64) && want_arg(v, 2, ir_type_of(IR_I32, 32));
}

static bool check_copy(struct verifier *v) {
    const struct ir_op *op = v->op;
    if (op->imm < 1 || op->imm > IR_MAX_STACK || op->align < 16 || op->align > IR_MAX_ALIGN ||
        op->align & (op->align - 1) || op->stride % 16)
        return fail(v, "rows are a power of two of bytes from 16 to %d, a multiple of 16 apart", IR_MAX_ALIGN);
    return want_arg(v, 0, type_ptr) && want_arg(v, 1, type_i64) && want_arg(v, 2, type_ptr) &&
           want_arg(v, 3, type_i64) && want_arg(v, 4, type_i64);
}

static bool check_mma(struct verifier *v) {
    if (v->op->imm < 0 || v->op->imm >= IR_N_MMA) return fail(v, "there is no such shape");
    const struct ir_mma_shape *s = &ir_mma_shapes[v->op->imm];
    struct ir_type c = ir_type_of((enum ir_scalar)s->acc, s->m * s->n);
    if (!ir_type_eq(v->op->type, c)) return wrong_result(v, "the shape's accumulators");
    return want_arg(v, 0, c) && want_arg(v, 1, ir_type_of(IR_I32, s->m * s->k / s->per)) &&
           want_arg(v, 2, ir_type_of(IR_I32, s->n * s->k / s->per));
}

static bool check_tile(struct verifier *v) {
    const struct ir_op *op = v->op;
    if (op->imm < 0 || op->imm >= IR_N_TILE) return fail(v, "there is no such shape");
    if (op->stride % 4 || op->stride < ir_tile_shapes[op->imm].k || op->stride > IR_MAX_ROW)
        return fail(v, "the stride must be a multiple of 4 from %u to %d, found %" PRIu32, ir_tile_shapes[op->imm].k,
                    IR_MAX_ROW, op->stride);
    for (uint32_t i = 0; i < 6; i += 2)
        if (!want_arg(v, i, type_ptr) || !want_arg(v, i + 1, type_i64)) return false;
    return true;
}

static bool check_rule(struct verifier *v) {
    const struct ir_op *op = v->op;
    struct ir_type t = op->type;
    bool number = t.scalar >= IR_I8 && t.scalar <= IR_I64;
    switch (ir_op_info[op->code].rule) {
    case RULE_PTR:
        if (!ir_type_eq(t, type_ptr)) return wrong_result(v, "ptr");
        return (op->code != IR_STACK && op->code != IR_SHARED) || check_stack(v);
    case RULE_I64:
        return ir_type_eq(t, type_i64) || wrong_result(v, "i64");
    case RULE_CONST:
        return t.scalar != IR_PTR || wrong_result(v, "anything but ptr");
    case RULE_IOTA:
        return (number && t.lanes > 1) || wrong_result(v, "a vector of i8, i16, i32 or i64");
    case RULE_SPLAT:
        return t.lanes > 1 ? want_arg(v, 0, ir_type_lane(t)) : wrong_result(v, "a vector");
    case RULE_EXTRACT:
        return t.lanes == 1 ? check_part(v) : wrong_result(v, "a scalar");
    case RULE_CONCAT:
        return check_concat(v);
    case RULE_SLICE:
        return t.lanes > 1 ? check_part(v) : wrong_result(v, "a vector (extract gives a scalar)");
    case RULE_SHUFFLE:
        return check_shuffle(v);
    case RULE_INT:
        return number ? want_all(v, t) : wrong_result(v, "i8, i16, i32 or i64");
    case RULE_LOGIC:
        return ir_is_int(t) ? want_all(v, t) : wrong_result(v, "an integer");
    case RULE_ICMP:
        return check_compare(v, false);
    case RULE_FCMP:
        return check_compare(v, true);
    case RULE_SELECT:
        return check_select(v);
    case RULE_FLOAT:
        return t.scalar == IR_F32 ? want_all(v, t) : wrong_result(v, "f32 (f16 is converted, never computed with)");
    case RULE_FPEXT:
        return check_convert(v, IR_F16, IR_F32);
    case RULE_FPTRUNC:
        return check_convert(v, IR_F32, IR_F16);
    case RULE_SITOFP:
        return check_convert(v, IR_I32, IR_F32);
    case RULE_FPTOSI:
        return check_convert(v, IR_F32, IR_I32);
    case RULE_WIDEN:
        return check_resize(v, true);
    case RULE_NARROW:
        return check_resize(v, false);
    case RULE_BITCAST: {
        struct ir_type a = arg_type(v, 0);
        if (t.scalar == IR_PTR || a.scalar == IR_PTR) return fail(v, "ptr cannot be cast");
        if (ir_scalar_bits(t.scalar) * t.lanes != ir_scalar_bits(a.scalar) * a.lanes)
            return wrong_operand(v, 0, "of as many bits as the result");
        return true;
    }
    case RULE_DOT4:
        if (op->imm < 1 || op->imm > 255) return fail(v, "umax must be from 1 to 255, found %" PRId64, op->imm);
        return t.scalar == IR_I32 && t.lanes > 1 ? want_all(v, t) : wrong_result(v, "a vector of i32");
    case RULE_DOT2:
        return t.scalar == IR_I32 ? want_all(v, t) : wrong_result(v, "i32 or a vector of it");
    case RULE_TOBF:
        return check_convert(v, IR_F32, IR_I16);
    case RULE_DOTBF: {
        struct ir_type words = ir_type_of(IR_I32, t.lanes);
        if (t.scalar != IR_F32) return wrong_result(v, "f32 or a vector of it");
        return want_arg(v, 0, t) && want_arg(v, 1, words) && want_arg(v, 2, words);
    }
    case RULE_MMA:
        return check_mma(v);
    case RULE_PAIR:
        return t.scalar == IR_I32 ? want_all(v, ir_type_of(IR_F32, t.lanes)) : wrong_result(v, "i32");
    case RULE_LDMATRIX:
        return check_ldmatrix(v);
    case RULE_COPY:
        return check_copy(v);
    case RULE_WAIT:
        return true;
    case RULE_REDUCE: {
        struct ir_type a = arg_type(v, 0);
        if (t.lanes != 1 || !(number || t.scalar == IR_F32)) return wrong_result(v, "a scalar number");
        return (a.scalar == t.scalar && a.lanes > 1) || wrong_operand(v, 0, "a vector of the result's type");
    }
    case RULE_LOAD:
        return check_memory(v, 0);
    case RULE_PREFETCH:
        return check_memory(v, 0);
    case RULE_STORE:
        return check_memory(v, 1);
    case RULE_STOREM:
        return check_memory(v, 2);
    case RULE_GATHER:
        return t.lanes > 1 ? check_lanes_memory(v, t, 0) : wrong_result(v, "a vector");
    case RULE_SCATTER:
        return check_scatter(v);
    case RULE_TILE:
        return check_tile(v);
    case RULE_FOR:
        return check_for(v);
    case RULE_IF:
        return want_arg(v, 0, ir_type_of(IR_I1, 1));
    case RULE_YIELD:
        return check_yield(v);
    }
    return fail(v, "unknown rule");
}

static bool check_attributes(struct verifier *v) {
    const struct ir_op *op = v->op;
    enum ir_imm imm = ir_op_info[op->code].imm;
    if ((imm == IMM_MEM || imm == IMM_STACK) &&
        (!op->align || op->align > IR_MAX_ALIGN || (op->align & (op->align - 1))))
        return fail(v, "the alignment must be a power of two up to %d, found %" PRIu32, IR_MAX_ALIGN, op->align);
    if (op->inv && ir_op_info[op->code].effect != EFF_READ && op->code != IR_ARG)
        return fail(v, "only an arg, load, gather or ldmatrix can be inv");
    if (imm == IMM_CONST && (uint64_t)op->imm & ~ir_mask(ir_scalar_bits(op->type.scalar)))
        return fail(v, "the constant does not fit its type");
    if (imm == IMM_K && (op->imm < 0 || op->imm > IR_MAX_INDEX)) return fail(v, "the index is out of range");
    return true;
}

static bool define(struct verifier *v, ir_value x) {
    if (!x || x >= v->f->n_values || v->seen[x]) return fail(v, "a result is defined twice");
    v->seen[x] = 1;
    v->visible[v->n_visible++] = x;
    return true;
}

static bool check_operands(struct verifier *v) {
    for (uint32_t i = 0; i < v->op->n_args; i++) {
        ir_value x = v->op->args[i];
        if (!x || x >= v->f->n_values) return fail(v, "operand %" PRIu32 " is no value", i + 1);
        if (v->seen[x] != 1)
            return fail(v, "%%%" PRIu32 " is %s", v->f->values[x].name,
                        v->seen[x] ? "not visible here: its block has ended" : "not defined before its use");
    }
    return true;
}

static bool check_block(struct verifier *v, const struct ir_block *b, int depth);

static bool ends_in_yield(const struct ir_block *b) {
    return b->last && b->last->code == IR_YIELD;
}

static bool check_body(struct verifier *v, int depth) {
    const struct ir_op *op = v->op;
    if (depth >= IR_MAX_DEPTH) return fail(v, "blocks nest deeper than %d", IR_MAX_DEPTH);
    uint32_t start = v->n_visible;
    if (op->code == IR_FOR)
        for (uint32_t i = 0; i <= op->n_results; i++)
            if (!define(v, op->inner[i])) return false;
    const struct ir_op *outer = v->split;
    if (op->split) v->split = op;
    if (!check_block(v, op->body, depth + 1)) return false;
    while (v->n_visible > start) v->seen[v->visible[--v->n_visible]] = 2;
    if (op->merge) {
        v->op = op;
        for (uint32_t i = 0; i < 2 * op->n_results; i++)
            if (!define(v, op->pair[i])) return false;
        if (!check_block(v, op->merge, depth + 1)) return false;
        while (v->n_visible > start) v->seen[v->visible[--v->n_visible]] = 2;
    }
    v->split = outer;
    v->op = op;
    if (op->n_results && (!ends_in_yield(op->body) || (op->merge && !ends_in_yield(op->merge))))
        return fail(v, "a for with carries must end in yield, its merge too");
    return true;
}

static bool check_block(struct verifier *v, const struct ir_block *b, int depth) {
    for (const struct ir_op *op = b->first; op; op = op->next) {
        v->op = op;
        if (op->block != b) return fail(v, "is linked into the wrong block");
        if (!check_operands(v) || !check_attributes(v) || !check_rule(v)) return false;
        if (op->body && !check_body(v, depth)) return false;
        for (uint32_t i = 0; i < op->n_results; i++) {
            if (!define(v, op->results[i])) return false;
            struct ir_type want = op->code == IR_FOR ? v->f->values[op->inner[i + 1]].type : op->type;
            if (!ir_type_eq(v->f->values[op->results[i]].type, want)) return fail(v, "a result has another type");
        }
    }
    return true;
}

bool ir_verify_func(const struct ir_func *f, struct err *e) {
    struct verifier v = {.f = f, .e = e};
    v.seen = mem_new(f->n_values);
    v.visible = mem_new(f->n_values * sizeof *v.visible);
    bool ok = check_block(&v, f->body, 0);
    mem_free(v.seen);
    mem_free(v.visible);
    return ok;
}

static int compare_names(const void *a, const void *b) {
    return strcmp((*(const struct ir_func *const *)a)->name, (*(const struct ir_func *const *)b)->name);
}

static bool check_unique_names(const struct ir_module *m, struct err *e) {
    size_t n = 0;
    for (const struct ir_func *f = m->first; f; f = f->next) n++;
    const struct ir_func **all = mem_new(n * sizeof *all);
    n = 0;
    for (const struct ir_func *f = m->first; f; f = f->next) all[n++] = f;
    qsort(all, n, sizeof *all, compare_names);
    bool ok = true;
    for (size_t i = 1; i < n && ok; i++)
        if (strcmp(all[i - 1]->name, all[i]->name) == 0)
            ok = err_set(e, ERR_INPUT, "flat IR, line %" PRIu32 ": func @%s is defined twice", all[i]->line,
                         all[i]->name);
    mem_free(all);
    return ok;
}

bool ir_verify(const struct ir_module *m, struct err *e) {
    for (const struct ir_func *f = m->first; f; f = f->next)
        if (!ir_verify_func(f, e)) return false;
    return check_unique_names(m, e);
}
