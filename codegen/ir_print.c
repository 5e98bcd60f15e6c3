#include "codegen/ir.h"

#include "codegen/f16.h"

#include <inttypes.h>

static const char *const scalar_names[IR_N_SCALARS] = {"none", "i1", "i8", "i16", "i32", "i64", "f16", "f32", "ptr"};

void ir_print_type(struct ir_type t, struct buf *out) {
    buf_puts(out, scalar_names[t.scalar]);
    if (t.lanes > 1) buf_printf(out, "x%u", t.lanes);
}

/* As C's %a prints the value as a double, but the same in every locale. */
static void print_float(uint32_t bits, struct buf *out) {
    if (bits >> 31) buf_puts(out, "-");
    uint32_t m = bits & 0x7fffff;
    int e = (int)(bits >> 23 & 255);
    if (e == 255) {
        buf_puts(out, m ? "nan" : "inf");
        return;
    }
    if (e == 0 && m == 0) {
        buf_puts(out, "0x0p+0");
        return;
    }
    if (e == 0) {
        e = 1;
        while (!(m & 0x800000)) {
            m <<= 1;
            e--;
        }
        m &= 0x7fffff;
    }
    buf_puts(out, "0x1");
    if (m) {
        int digits = 6;
        for (m <<= 1; !(m & 15); m >>= 4) digits--;
        buf_printf(out, ".%0*" PRIx32, digits, m);
    }
    buf_printf(out, "p%+d", e - 127);
}

/* The text after `const `. */
static void print_const(struct ir_type t, int64_t imm, struct buf *out) {
    if (t.scalar == IR_F32)
        print_float((uint32_t)imm, out);
    else if (t.scalar == IR_F16)
        print_float(f32_bits_from_f16((uint16_t)imm), out);
    else if (t.scalar == IR_I1)
        buf_puts(out, imm & 1 ? "1" : "0");
    else
        buf_printf(out, "%" PRId64, ir_sign_extend(imm, ir_scalar_bits(t.scalar)));
}

static void print_name(const struct ir_func *f, ir_value v, struct buf *out) {
    buf_printf(out, "%%%" PRIu32, f->values[v].name);
}

static void print_def(const struct ir_func *f, ir_value v, struct buf *out) {
    print_name(f, v, out);
    buf_puts(out, ":");
    ir_print_type(f->values[v].type, out);
}

static void print_args(const struct ir_func *f, const struct ir_op *op, struct buf *out) {
    for (uint32_t i = 0; i < op->n_args; i++) {
        buf_puts(out, i ? ", " : " ");
        print_name(f, op->args[i], out);
    }
}

static void print_block(const struct ir_func *f, const struct ir_block *b, int depth, struct buf *out);

static void print_for(const struct ir_func *f, const struct ir_op *op, int depth, struct buf *out) {
    buf_puts(out, "for ");
    print_name(f, op->inner[0], out);
    buf_puts(out, " = ");
    print_name(f, op->args[0], out);
    buf_puts(out, " to ");
    print_name(f, op->args[1], out);
    buf_printf(out, " step %" PRId64, op->imm);
    if (op->split) buf_printf(out, " split %" PRIu32, op->split);
    for (uint32_t i = 0; i < op->n_results; i++) {
        buf_puts(out, i ? ", " : " carry ");
        print_def(f, op->inner[i + 1], out);
        buf_puts(out, " = ");
        print_name(f, op->args[i + 2], out);
    }
    buf_puts(out, "\n");
    print_block(f, op->body, depth + 1, out);
    if (op->merge) {
        buf_printf(out, "%*smerge ", 2 * depth, "");
        for (uint32_t i = 0; i < 2 * op->n_results; i++) {
            if (i) buf_puts(out, ", ");
            print_name(f, op->pair[i], out);
        }
        buf_puts(out, "\n");
        print_block(f, op->merge, depth + 1, out);
    }
    buf_printf(out, "%*send", 2 * depth, "");
    for (uint32_t i = 0; i < op->n_results; i++) {
        buf_puts(out, i ? ", " : " -> ");
        print_name(f, op->results[i], out);
    }
    buf_puts(out, "\n");
}

static void print_op(const struct ir_func *f, const struct ir_op *op, int depth, struct buf *out) {
    buf_printf(out, "%*s", 2 * depth, "");
    if (op->code == IR_FOR) {
        print_for(f, op, depth, out);
        return;
    }
    if (op->n_results) {
        print_def(f, op->results[0], out);
        buf_puts(out, " = ");
    }
    const struct ir_op_info *info = &ir_op_info[op->code];
    buf_puts(out, info->name);
    print_args(f, op, out);
    switch (info->imm) {
    case IMM_NONE:
    case IMM_FOR:
        break;
    case IMM_K:
        buf_printf(out, "%s%" PRId64, op->n_args ? ", " : " ", op->imm);
        if (op->inv) buf_puts(out, " inv");
        break;
    case IMM_LANES:
        for (unsigned i = 0; i < op->type.lanes; i++) buf_printf(out, "%s%u", i ? " " : ", ", op->lanes[i]);
        break;
    case IMM_CONST:
        buf_puts(out, " ");
        print_const(op->type, op->imm, out);
        break;
    case IMM_STACK:
        buf_printf(out, " %" PRId64 " align %" PRIu32, op->imm, op->align);
        break;
    case IMM_UMAX:
        buf_printf(out, " umax=%" PRId64, op->imm);
        break;
    case IMM_MMA:
        buf_printf(out, " %s", ir_mma_shapes[op->imm].name);
        break;
    case IMM_TILE:
        buf_printf(out, " %s stride %" PRIu32, ir_tile_shapes[op->imm].name, op->stride);
        break;
    case IMM_COPY:
        buf_printf(out, ", %" PRId64 " rows %" PRIu32 " stride %" PRIu32, op->imm, op->align, op->stride);
        break;
    case IMM_MEM:
        buf_printf(out, ", %" PRId64 " align %" PRIu32, op->imm, op->align);
        if (op->stride) buf_printf(out, " stride %" PRIu32, op->stride);
        if (op->inv) buf_puts(out, " inv");
        break;
    }
    buf_puts(out, "\n");
    if (op->code == IR_IF) {
        print_block(f, op->body, depth + 1, out);
        buf_printf(out, "%*send\n", 2 * depth, "");
    }
}

static void print_block(const struct ir_func *f, const struct ir_block *b, int depth, struct buf *out) {
    for (const struct ir_op *op = b->first; op; op = op->next) print_op(f, op, depth, out);
}

void ir_print_func(const struct ir_func *f, struct buf *out) {
    buf_printf(out, "func @%s\n", f->name);
    print_block(f, f->body, 1, out);
    buf_puts(out, "end\n");
}

void ir_print(const struct ir_module *m, struct buf *out) {
    buf_puts(out, "kgen-ir 1\n");
    for (const struct ir_func *f = m->first; f; f = f->next) ir_print_func(f, out);
}
