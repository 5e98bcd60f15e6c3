#include "codegen/passes.h"

#include "codegen/passes_internal.h"

#include <string.h>

/* The passes, in order. Each keeps what the function computes and leaves IR that verifies (checked after each unless
 * NDEBUG). */
static const struct pass {
    const char *name;
    void (*run)(struct ir_func *f);
} passes[] = {
    /* Folds integer constants; gathers the constants of address arithmetic in the offsets of loads and stores.
     * Requires: nothing. Breaks: leaves dead operations and equal constants behind. */
    {"fold", pass_fold},
    /* Moves pure operations out of loops. Requires: nothing. Keeps: the order of operations with effects.
     * Breaks: brings equal operations of different loops into one scope. */
    {"hoist", pass_hoist},
    /* Merges equal pure operations and invariant loads within scopes. Requires: nothing, but finds most after hoist.
     * Breaks: leaves nothing behind but uses of fewer values. */
    {"cse", pass_cse},
    /* Drops operations without effect or use, and loops and ifs without effect. Requires: nothing. */
    {"dce", pass_dce},
    /* Moves pure operations behind loops around products of tiles, where nothing before needs them. Requires: dce. Keeps:
     * the order of operations with effects. Breaks: some are in loops again, in which a part does one trip. */
    {"sink", pass_sink},
};
enum { N_PASSES = sizeof passes / sizeof *passes };

static void check(const struct ir_func *f, const char *name) {
#ifndef NDEBUG
    struct err e;
    if (!ir_verify_func(f, &e)) bug("after pass %s: %s", name, e.msg);
#else
    (void)f, (void)name;
#endif
}

void passes_run(struct ir_func *f, const char *dump, FILE *to) {
    for (const struct pass *p = passes; p < passes + N_PASSES; p++) {
        p->run(f);
        check(f, p->name);
        if (!dump || (strcmp(dump, "all") != 0 && strcmp(dump, p->name) != 0)) continue;
        struct buf b = {0};
        ir_print_func(f, &b);
        fprintf(to, "# after %s\n%s", p->name, b.data);
        buf_free(&b);
    }
}

bool passes_check_dump(const char *dump, struct err *e) {
    if (!dump || strcmp(dump, "all") == 0) return true;
    for (int i = 0; i < N_PASSES; i++)
        if (strcmp(dump, passes[i].name) == 0) return true;
    struct buf known = {0};
    for (int i = 0; i < N_PASSES; i++) buf_printf(&known, "%s, ", passes[i].name);
    err_set(e, ERR_USAGE, "unknown pass `%s` to dump: expected one of %sall", dump, known.data);
    buf_free(&known);
    return false;
}

/* ---- hoist ----
 * The level of a value is the depth of the block it is defined in. A pure operation can stand in the block of its
 * deepest operand; it stays inside an enclosing if, whose condition may be what makes it worth computing. */

struct hoist {
    struct ir_func *f;
    uint8_t *level;                        /* per value */
    struct ir_op *owner[IR_MAX_DEPTH + 2]; /* [d]: the operation whose body is the current block of depth d */
};

static void hoist_block(struct hoist *h, struct ir_block *b, int depth, int outermost) {
    for (struct ir_op *op = b->first, *next; op; op = next) {
        next = op->next;
        int target = depth;
        if (ir_op_info[op->code].effect == EFF_PURE) {
            target = outermost;
            for (uint32_t i = 0; i < op->n_args; i++)
                if (h->level[op->args[i]] > target) target = h->level[op->args[i]];
        }
        if (target < depth) {
            ir_unlink(op);
            ir_insert_before(h->owner[target + 1], op);
        }
        for (uint32_t i = 0; i < op->n_results; i++) h->level[op->results[i]] = (uint8_t)target;
        if (!op->body) continue;
        if (op->code == IR_FOR)
            for (uint32_t i = 0; i <= op->n_results; i++) h->level[op->inner[i]] = (uint8_t)(depth + 1);
        h->owner[depth + 1] = op;
        hoist_block(h, op->body, depth + 1, op->code == IR_IF ? depth + 1 : outermost);
        if (!op->merge) continue;
        for (uint32_t i = 0; i < 2 * op->n_results; i++) h->level[op->pair[i]] = (uint8_t)(depth + 1);
        hoist_block(h, op->merge, depth + 1, outermost);
    }
}

void pass_hoist(struct ir_func *f) {
    struct hoist h = {.f = f, .level = mem_new(f->n_values)};
    hoist_block(&h, f->body, 0, 0);
    mem_free(h.level);
}

/* ---- cse ---- */

struct cse {
    struct ir_func *f;
    ir_value *same;       /* per value: what replaces it */
    struct ir_op **table; /* open addressing; dead entries are removed in reverse order of insertion */
    uint32_t mask;
    uint32_t *added; /* the slots filled, in order */
    uint32_t n_added;
};

static bool mergeable(const struct ir_op *op) {
    enum ir_effect e = ir_op_info[op->code].effect;
    return e == EFF_PURE || e == EFF_TRAP || (e == EFF_READ && op->inv);
}

static bool commutes(enum ir_opcode c) {
    return c == IR_ADD || c == IR_MUL || c == IR_AND || c == IR_OR || c == IR_XOR || c == IR_IEQ || c == IR_INE;
}

static uint32_t hash_op(const struct ir_op *op) {
    uint64_t h = (uint64_t)op->code << 32 ^ (uint64_t)op->type.scalar << 8 ^ op->type.lanes;
    h = (h ^ (uint64_t)op->imm) * 0x9e3779b97f4a7c15u;
    for (uint32_t i = 0; i < op->n_args; i++) h = (h ^ h >> 29 ^ op->args[i]) * 0xbf58476d1ce4e5b9u;
    for (unsigned i = 0; op->lanes && i < op->type.lanes; i++) h = (h ^ op->lanes[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

static bool equal_ops(const struct ir_op *a, const struct ir_op *b) {
    return a->code == b->code && ir_type_eq(a->type, b->type) && a->imm == b->imm && a->align == b->align &&
           a->stride == b->stride && (!a->n_args || memcmp(a->args, b->args, a->n_args * sizeof *a->args) == 0) &&
           (!a->lanes || memcmp(a->lanes, b->lanes, a->type.lanes) == 0);
}

/* The slot holding an equal operation, or the empty one where op belongs. */
static uint32_t find_equal(const struct cse *c, const struct ir_op *op) {
    uint32_t i = hash_op(op) & c->mask;
    while (c->table[i] && !equal_ops(c->table[i], op)) i = (i + 1) & c->mask;
    return i;
}

static void cse_block(struct cse *c, struct ir_block *b) {
    uint32_t start = c->n_added;
    for (struct ir_op *op = b->first, *next; op; op = next) {
        next = op->next;
        for (uint32_t i = 0; i < op->n_args; i++)
            if (c->same[op->args[i]]) op->args[i] = c->same[op->args[i]];
        if (op->body) cse_block(c, op->body);
        if (op->merge) cse_block(c, op->merge);
        if (!mergeable(op)) continue;
        if (commutes(op->code) && op->args[0] > op->args[1]) {
            ir_value swap = op->args[0];
            op->args[0] = op->args[1];
            op->args[1] = swap;
        }
        uint32_t slot = find_equal(c, op);
        if (c->table[slot]) {
            c->same[op->results[0]] = c->table[slot]->results[0];
            ir_unlink(op);
        } else {
            c->table[slot] = op;
            c->added[c->n_added++] = slot;
        }
    }
    while (c->n_added > start) c->table[c->added[--c->n_added]] = NULL;
}

void pass_cse(struct ir_func *f) {
    struct cse c = {.f = f, .mask = 1023};
    while (c.mask < 2 * f->n_values) c.mask = 2 * c.mask + 1; /* at most one entry a value: never over half full */
    c.same = mem_new(f->n_values * sizeof *c.same);
    c.table = mem_new((c.mask + 1ull) * sizeof *c.table);
    c.added = mem_new(f->n_values * sizeof *c.added);
    cse_block(&c, f->body);
    mem_free(c.same);
    mem_free(c.table);
    mem_free(c.added);
}

/* ---- dce ---- */

static bool writes(const struct ir_block *b) {
    for (const struct ir_op *op = b->first; op; op = op->next)
        if (ir_op_info[op->code].effect == EFF_WRITE || (op->body && writes(op->body))) return true;
    return false;
}

static bool is_live(const struct ir_op *op, const uint8_t *used) {
    if (op->code == IR_YIELD || ir_op_info[op->code].effect == EFF_WRITE) return true;
    for (uint32_t i = 0; i < op->n_results; i++)
        if (used[op->results[i]]) return true;
    return op->body && writes(op->body);
}

/* Backwards, so that all uses of a value are seen before its definition. */
static void dce_block(struct ir_block *b, uint8_t *used) {
    for (struct ir_op *op = b->last, *prev; op; op = prev) {
        prev = op->prev;
        if (!is_live(op, used)) {
            ir_unlink(op);
            continue;
        }
        for (uint32_t i = 0; i < op->n_args; i++) used[op->args[i]] = 1;
        if (op->merge) dce_block(op->merge, used);
        if (op->body) dce_block(op->body, used);
    }
}

void pass_dce(struct ir_func *f) {
    uint8_t *used = mem_new(f->n_values);
    dce_block(f->body, used);
    mem_free(used);
}

/* ---- sink ----
 * The accumulators of a loop around products of tiles take most of a thread's registers; what only the rest of the block
 * uses, such as the addresses of a residual, would take more of them as long as the loop runs. */

static bool has_products(const struct ir_block *b) {
    for (const struct ir_op *op = b->first; op; op = op->next)
        if (op->code == IR_MMA || (op->body && has_products(op->body))) return true;
    return false;
}

static void mark_uses(const struct ir_op *op, uint8_t *used) {
    for (uint32_t i = 0; i < op->n_args; i++) used[op->args[i]] = 1;
    const struct ir_block *inside[] = {op->body, op->merge};
    for (int i = 0; i < 2; i++)
        for (const struct ir_op *in = inside[i] ? inside[i]->first : NULL; in; in = in->next) mark_uses(in, used);
}

/* Moves what stands before `loop` and is not in `used`, nor used by what stays there, to `where`. Backwards, so that what
 * only a moved operation uses moves before it. */
static void move_unused(const struct ir_op *loop, struct ir_op *where, uint8_t *used) {
    for (struct ir_op *op = loop->prev, *prev; op; op = prev) {
        prev = op->prev;
        if (ir_op_info[op->code].effect == EFF_PURE && op->n_args && !used[op->results[0]]) {
            ir_unlink(op);
            ir_insert_before(where, op);
            where = op;
        } else {
            mark_uses(op, used);
        }
    }
}

static bool constant(const struct ir_func *f, ir_value v, int64_t *out) {
    *out = f->values[v].def->imm;
    return f->values[v].def->code == IR_CONST;
}

/* A split loop of which no part does more than one trip. */
static bool runs_once(const struct ir_func *f, const struct ir_op *loop) {
    int64_t lo, hi;
    return loop->split && constant(f, loop->args[0], &lo) && constant(f, loop->args[1], &hi) &&
           hi - lo <= loop->split * loop->imm;
}

static void sink_loop(const struct ir_func *f, struct ir_op *loop) {
    if (runs_once(f, loop)) { /* into it, what is used only there: from its body it may go on */
        uint8_t *used = mem_new(f->n_values);
        for (uint32_t i = 0; i < loop->n_args; i++) used[loop->args[i]] = 1;
        for (const struct ir_op *op = loop->next; op; op = op->next) mark_uses(op, used);
        move_unused(loop, loop->body->first, used);
        mem_free(used);
    } else if (loop->next) {
        uint8_t *used = mem_new(f->n_values);
        mark_uses(loop, used);
        move_unused(loop, loop->next, used);
        mem_free(used);
    }
}

static void sink_block(const struct ir_func *f, struct ir_block *b) {
    for (struct ir_op *op = b->first; op; op = op->next) {
        if (!op->body || !has_products(op->body)) continue;
        if (op->code == IR_FOR) sink_loop(f, op);
        sink_block(f, op->body);
    }
}

void pass_sink(struct ir_func *f) {
    sink_block(f, f->body);
}
