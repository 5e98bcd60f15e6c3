#include "codegen/ir.h"

#include <string.h>

const struct ir_op_info ir_op_info[IR_N_OPS] = {
#define X(NAME, text, n, imm, rule, effect) [IR_##NAME] = {text, n, imm, rule, effect},
    IR_OPS(X)
#undef X
};

const struct ir_mma_shape ir_mma_shapes[IR_N_MMA] = {
#define X(NAME, text, m, n, k, per, acc) [IR_MMA_##NAME] = {text, m, n, k, per, acc},
    IR_MMA_SHAPES(X)
#undef X
};

const struct ir_tile_shape ir_tile_shapes[IR_N_TILE] = {
#define X(NAME, text, k, b_signed) [IR_TILE_##NAME] = {text, k, b_signed},
    IR_TILE_SHAPES(X)
#undef X
};

unsigned ir_scalar_bits(enum ir_scalar s) {
    static const uint8_t bits[IR_N_SCALARS] = {[IR_I1] = 1,   [IR_I8] = 8,   [IR_I16] = 16, [IR_I32] = 32,
                                               [IR_I64] = 64, [IR_F16] = 16, [IR_F32] = 32, [IR_PTR] = 64};
    return bits[s];
}

unsigned ir_type_bytes(struct ir_type t) {
    return ir_scalar_bits(t.scalar) / 8 * t.lanes;
}

int64_t ir_sign_extend(int64_t bits, unsigned width) {
    return (int64_t)((uint64_t)bits << (64 - width)) >> (64 - width);
}

struct ir_func *ir_func_new(struct ir_module *m, const char *name, size_t n) {
    struct ir_func *f = arena_new(&m->arena, sizeof *f);
    f->arena = &m->arena;
    f->name = arena_strndup(&m->arena, name, n);
    f->n_values = 1;
    f->body = ir_block_new(f, NULL);
    if (m->last)
        m->last->next = f;
    else
        m->first = f;
    m->last = f;
    return f;
}

ir_value ir_value_new(struct ir_func *f, struct ir_type t, uint32_t name, struct ir_op *def) {
    if (f->n_values >= f->cap_values) {
        f->cap_values = f->cap_values ? f->cap_values * 2 : 256;
        f->values = mem_grow(f->values, f->cap_values * sizeof *f->values);
        f->values[0] = (struct ir_value_info){0};
    }
    if (!name) name = f->max_name + 1;
    if (name > f->max_name) f->max_name = name;
    f->values[f->n_values] = (struct ir_value_info){name, t, def};
    return f->n_values++;
}

struct ir_op *ir_op_new(struct ir_func *f, enum ir_opcode code, uint32_t n_args) {
    struct ir_op *op = arena_new(f->arena, sizeof *op);
    op->code = code;
    op->n_args = n_args;
    if (n_args) op->args = arena_new(f->arena, n_args * sizeof *op->args);
    return op;
}

struct ir_block *ir_block_new(struct ir_func *f, struct ir_op *owner) {
    struct ir_block *b = arena_new(f->arena, sizeof *b);
    b->owner = owner;
    return b;
}

void ir_append(struct ir_block *b, struct ir_op *op) {
    op->block = b;
    op->prev = b->last;
    op->next = NULL;
    if (b->last)
        b->last->next = op;
    else
        b->first = op;
    b->last = op;
}

void ir_insert_before(struct ir_op *where, struct ir_op *op) {
    op->block = where->block;
    op->prev = where->prev;
    op->next = where;
    if (where->prev)
        where->prev->next = op;
    else
        where->block->first = op;
    where->prev = op;
}

void ir_unlink(struct ir_op *op) {
    struct ir_block *b = op->block;
    if (op->prev)
        op->prev->next = op->next;
    else
        b->first = op->next;
    if (op->next)
        op->next->prev = op->prev;
    else
        b->last = op->prev;
    op->prev = op->next = NULL;
    op->block = NULL;
}

void ir_free(struct ir_module *m) {
    if (!m) return;
    for (struct ir_func *f = m->first; f; f = f->next) mem_free(f->values);
    arena_free(&m->arena);
    mem_free(m);
}
