/* The decoder's table of control flow, barriers and warp-wide instructions. */
#include "verify/ptxvm/exec_decode.h"

#include <string.h>

#define N NO_ROW

static void dec_bra(struct decoder *d) {
    dec_take(d, "uni");
    dec_count(d, 1, 1);
    u32 target = dec_label(d, dec_operand(d, 0));
    struct insn *in = dec_emit(d, K_BRA);
    in->target = target;
}

static void dec_brx(struct decoder *d) {
    if (!dec_take(d, "idx")) dec_unknown(d);
    dec_take(d, "uni");
    dec_count(d, 2, 2);
    const struct ptx_operand *list = dec_operand(d, 1);
    struct ptx_label *l = list->kind == O_NAME ? ptx_label_find(d->f, list->name, list->scope) : NULL;
    if (!l || !l->n_targets) dec_fail(d, "expected the name of a .branchtargets list");
    u32 index = dec_src(d, dec_operand(d, 0), PT_U32);
    struct ext *x = dec_ext(d, 0);
    x->n_targets = l->n_targets;
    x->targets = arena_new(&d->m->arena, (size_t)l->n_targets * sizeof *x->targets);
    for (int i = 0; i < l->n_targets; i++) x->targets[i] = dec_label(d, &l->targets[i]);
    dec_op(d, op_brx, x)->a = index;
}

static void dec_ret(struct decoder *d) {
    dec_take(d, "uni");
    dec_count(d, 0, 0);
    if (d->f->is_entry) {
        dec_op(d, op_exit, NULL);
    } else { /* all returns go through the function's last instruction, where the lanes meet */
        struct insn *in = dec_emit(d, K_BRA);
        in->target = (u32)d->f->n_code;
    }
}
static void dec_exit(struct decoder *d) {
    dec_count(d, 0, 0);
    dec_op(d, op_exit, NULL);
}
static void dec_trap(struct decoder *d) {
    dec_count(d, 0, 0);
    dec_op(d, op_trap, NULL);
}
static void dec_brkpt(struct decoder *d) { /* no debugger is attached: nothing stops */
    dec_count(d, 0, 0);
    dec_op(d, op_nop, NULL);
}

/* Lanes that the last instruction sent different ways are one split again from here on. */
static void meet(struct decoder *d) {
    bool old = d->unguarded;
    d->unguarded = true;
    dec_emit(d, K_JOIN);
    d->unguarded = old;
}

/* The member mask of a .sync instruction. A register may hold another one in every lane. */
static void member(struct decoder *d, struct insn *in, u32 mask) {
    in->e = mask;
    if (!(mask & 1)) meet(d);
}

static void note_call(struct decoder *d, struct code *callee) {
    struct code *c = d->c;
    if (c->n_calls == c->cap_calls) {
        int cap = c->cap_calls ? c->cap_calls * 2 : 8;
        struct code **a = arena_new(&d->m->arena, (size_t)cap * sizeof *a);
        if (c->n_calls) memcpy(a, c->calls, (size_t)c->n_calls * sizeof *a);
        c->calls = a;
        c->cap_calls = cap;
    }
    c->calls[c->n_calls++] = callee;
}

/* A call's argument or result: a .param variable, or a register or constant with a place behind those variables. */
struct passed {
    u32 at, bytes, align;
    u32 r;         /* the row; N: a variable */
    int row_bytes; /* of the row */
};
static struct passed passed(struct decoder *d, const struct ptx_operand *o, const struct ptx_var *formal, bool result,
                            u32 *next) {
    if (o->kind == O_VAR && o->var->space == SP_PARAM && !o->var->is_formal)
        return (struct passed){(u32)o->var->addr, (u32)o->var->bytes, o->var->align ? o->var->align : 1, N, 0};
    struct passed p = {.at = *next, .r = N};
    *next += 16;
    p.row_bytes = o->kind == O_REG ? dec_reg_bytes(d, o) : formal ? ptx_type_bytes(formal->type) : 0;
    if (p.row_bytes == 1) p.row_bytes = 2;
    p.bytes = formal ? (u32)formal->bytes : (u32)p.row_bytes;
    p.align = p.bytes;
    if (!p.row_bytes || (p.bytes == 1 ? 2 : p.bytes) != (u32)p.row_bytes ||
        (formal && formal->bytes != (u64)ptx_type_bytes(formal->type)))
        dec_fail(d, "an argument that is no .param variable and no register or constant of its parameter's size");
    if (result && o->kind == O_SINK) return p;
    if (result && o->kind != O_REG) dec_fail(d, "a result that is no register");
    p.r = result ? dec_reg(d, o->reg) : dec_src_bytes(d, o, p.row_bytes, false);
    return p;
}

static void dec_call(struct decoder *d) {
    dec_take(d, "uni");
    int at = 0;
    const struct ptx_operand *returns = NULL, *args = NULL;
    if (dec_operand(d, 0)->kind == O_LIST) returns = dec_operand(d, at++);
    const struct ptx_operand *target = dec_operand(d, at++);
    if (at < d->st->n && d->st->operands[at].kind == O_LIST) args = dec_operand(d, at++);
    int n_in = args ? args->n : 0, n_out = returns ? returns->n : 0, n = n_in + n_out;
    struct ptx_function *f = target->kind == O_NAME ? ptx_function_find(&d->m->text, target->name) : NULL;
    if (f && f->has_body && (f->n_params != n_in || f->n_returns != n_out))
        dec_fail(d, "%s has %d parameters and %d results", f->name, f->n_params, f->n_returns);
    struct ext *x = dec_ext(d, 0);
    x->n_in = n_in, x->n_out = n_out;
    x->arg_from = arena_new(&d->m->arena, (size_t)(n + 1) * sizeof(u32));
    x->arg_to = arena_new(&d->m->arena, (size_t)(n + 1) * sizeof(u32));
    x->arg_bytes = arena_new(&d->m->arena, (size_t)(n + 1) * sizeof(u32));
    struct passed *list = arena_new(&d->m->arena, (size_t)(n + 1) * sizeof *list);
    u32 next = d->args_base,
        off = 0; /* off: where the callee finds them, arguments, then results, each at its alignment */
    for (int i = 0; i < n; i++) {
        const struct ptx_var *formal = !f || (i < n_in ? i >= f->n_params : i - n_in >= f->n_returns) ? NULL
                                       : i < n_in                                                     ? f->params[i]
                                                  : f->returns[i - n_in];
        struct passed p = passed(d, i < n_in ? &args->elems[i] : &returns->elems[i - n_in], formal, i >= n_in, &next);
        u32 align = formal ? (formal->align ? formal->align : 1) : p.align,
            bytes = formal ? (u32)formal->bytes : p.bytes;
        off = (off + align - 1) & ~(align - 1);
        x->arg_from[i] = p.at;
        x->arg_to[i] = off;
        x->arg_bytes[i] = bytes < p.bytes ? bytes : p.bytes;
        off += bytes;
        list[i] = p;
        if (i < n_in && p.r != N) dec_param_move(d, false, true, p.at, p.bytes, p.r, p.row_bytes);
    }
    if (next > 1u << 20) dec_fail(d, "more than 1 MiB of parameters");
    if (next > d->c->args_bytes) d->c->args_bytes = next;
    bool is_printf = f && !f->has_body && !strcmp(f->name, "vprintf"),
         is_assert = f && !f->has_body && (!strcmp(f->name, "__assertfail") || !strcmp(f->name, "__assert_fail")),
         is_malloc = f && !f->has_body && !strcmp(f->name, "malloc") && n_in == 1 && n_out == 1,
         is_free = f && !f->has_body && !strcmp(f->name, "free") && n_in == 1 && !n_out;
    if (is_printf || is_assert) {
        if (n_in < (is_printf ? 2 : 4)) dec_fail(d, "too few arguments");
        x->mode = is_assert;
        d->c->serial |= is_printf;
        dec_op(d, op_vprintf, x);
    } else if (is_malloc || is_free) {
        x->mode = is_free;
        d->c->serial = true; /* addresses are the same in every run */
        dec_op(d, op_heap, x);
    } else {
        u32 to = N;
        if (f) {
            if (!f->has_body) dec_fail(d, "%s is declared but not defined in this module", f->name);
            x->callee = vm_code_of(d->m, f);
            note_call(d, x->callee);
        } else {
            if (target->kind != O_REG || dec_reg_bytes(d, target) != 8)
                dec_fail(d, "the target is no function and no 64-bit register");
            to = dec_reg(d, target->reg);
            d->c->indirect = true;
        }
        dec_op(d, op_call, x)->a = to;
        meet(d); /* those that called different functions, or none */
    }
    for (int i = n_in; i < n; i++)
        if (list[i].r != N) dec_param_move(d, true, true, list[i].at, list[i].bytes, list[i].r, list[i].row_bytes);
}

/* ---- barriers ---- */
static void dec_bar(struct decoder *d) {
    bool aligned = !strcmp(d->part[0], "bar");
    if (dec_take(d, "warp")) {
        if (!dec_take(d, "sync")) dec_unknown(d);
        dec_count(d, 1, 1);
        u32 m = dec_src(d, dec_operand(d, 0), PT_U32);
        member(d, dec_op(d, op_warpsync, dec_ext(d, 0)), m);
        return;
    }
    if (dec_take(d, "cluster")) {
        bool wait = dec_take(d, "wait");
        if (!wait && !dec_take(d, "arrive")) dec_unknown(d);
        struct ext *x = dec_ext(d, 0);
        x->mode = wait;
        if (!wait && dec_take(d, "relaxed"))
            x->order = 1;
        else
            dec_take(d, wait ? "acquire" : "release");
        dec_take(d, "aligned");
        d->c->serial = true;
        dec_op(d, op_cluster_bar, x);
        return;
    }
    dec_take(d, "cta");
    struct ext *x = dec_ext(d, 0);
    bool sync = dec_take(d, "sync"), arrive = !sync && dec_take(d, "arrive"),
         red = !sync && !arrive && dec_take(d, "red");
    if (!sync && !arrive && !red) dec_unknown(d);
    if (red) x->mode2 = dec_take(d, "popc") ? 1 : dec_take(d, "and") ? 2 : dec_take(d, "or") ? 3 : 0;
    if (red && !x->mode2) dec_unknown(d);
    if (dec_take(d, "aligned")) aligned = true;
    if (red && dec_type(d) != (x->mode2 == 1 ? PT_U32 : PT_PRED)) dec_unknown(d);
    x->mode = arrive;
    x->mode3 = aligned;
    int at = red ? 1 : 0, last = d->st->n - (red ? 1 : 0);
    dec_count(d, at + 1 + arrive + red, at + 2 + red);
    u32 id = dec_src(d, dec_operand(d, at), PT_U32),
        threads = at + 1 < last ? dec_src(d, dec_operand(d, at + 1), PT_U32) : N, p = N, to = N;
    bool np = false;
    if (red) {
        p = dec_pred(d, dec_operand(d, last), &np);
        to = x->mode2 == 1 ? dec_dst(d, dec_operand(d, 0), PT_U32) : dec_dst_pred(d, dec_operand(d, 0));
    }
    struct insn *in = dec_op(d, op_bar, x);
    in->a = id, in->b = threads, in->c = p, in->d = to;
    in->imm = np;
}

/* ---- warp-wide ---- */
static const struct ptx_operand *result_pair(struct decoder *d, const struct ptx_operand **second) {
    const struct ptx_operand *o = dec_operand(d, 0);
    *second = NULL;
    if (o->kind != O_PAIR) return o;
    *second = &o->elems[1];
    return &o->elems[0];
}

static void dec_shfl(struct decoder *d) {
    if (!dec_take(d, "sync")) dec_unknown(d);
    struct ext *x = dec_ext(d, 1);
    if (dec_take(d, "up"))
        x->mode = 0;
    else if (dec_take(d, "down"))
        x->mode = 1;
    else if (dec_take(d, "bfly"))
        x->mode = 2;
    else if (dec_take(d, "idx"))
        x->mode = 3;
    else
        dec_unknown(d);
    if (dec_type(d) != PT_B32) dec_unknown(d);
    dec_count(d, 5, 5);
    const struct ptx_operand *p, *to = result_pair(d, &p);
    u32 a = dec_src(d, dec_operand(d, 1), PT_B32), b = dec_src(d, dec_operand(d, 2), PT_B32),
        c = dec_src(d, dec_operand(d, 3), PT_B32), m = dec_src(d, dec_operand(d, 4), PT_B32);
    x->ops[0] = p && p->kind != O_SINK ? dec_dst_pred(d, p) : N;
    u32 r = dec_dst(d, to, PT_B32);
    struct insn *in = dec_op(d, op_shfl, x);
    in->a = a, in->b = b, in->c = c, in->d = r;
    member(d, in, m);
}

static void dec_vote(struct decoder *d) {
    if (!dec_take(d, "sync")) dec_unknown(d);
    struct ext *x = dec_ext(d, 0);
    x->mode = dec_take(d, "all") ? 0 : dec_take(d, "any") ? 1 : dec_take(d, "uni") ? 2 : dec_take(d, "ballot") ? 3 : 9;
    if (x->mode == 9 || dec_type(d) != (x->mode == 3 ? PT_B32 : PT_PRED)) dec_unknown(d);
    dec_count(d, 3, 3);
    bool np;
    u32 p = dec_pred(d, dec_operand(d, 1), &np), m = dec_src(d, dec_operand(d, 2), PT_B32);
    u32 r = x->mode == 3 ? dec_dst(d, dec_operand(d, 0), PT_B32) : dec_dst_pred(d, dec_operand(d, 0));
    struct insn *in = dec_op(d, op_vote, x);
    in->a = p, in->d = r;
    in->imm = np;
    member(d, in, m);
}

static void dec_match(struct decoder *d) {
    struct ext *x = dec_ext(d, 1);
    x->mode = dec_take(d, "any") ? 0 : dec_take(d, "all") ? 1 : 9;
    if (x->mode == 9 || !dec_take(d, "sync")) dec_unknown(d);
    enum ptx_type t = dec_type(d);
    if (t != PT_B32 && t != PT_B64) dec_unknown(d);
    dec_count(d, 3, 3);
    x->bytes = (u8)ptx_type_bytes(t);
    const struct ptx_operand *p, *to = result_pair(d, &p);
    u32 a = dec_src(d, dec_operand(d, 1), t), m = dec_src(d, dec_operand(d, 2), PT_B32);
    x->ops[0] = p && p->kind != O_SINK ? dec_dst_pred(d, p) : N;
    u32 r = dec_dst(d, to, PT_B32);
    struct insn *in = dec_op(d, op_match, x);
    in->a = a, in->d = r;
    member(d, in, m);
}

static void dec_redux(struct decoder *d) {
    if (!dec_take(d, "sync")) dec_unknown(d);
    struct ext *x = dec_ext(d, 0);
    static const char *const names[] = {"add", "min", "max", "and", "or", "xor"};
    int k = 0;
    while (k < 6 && !dec_take(d, names[k])) k++;
    if (k == 6) dec_unknown(d);
    x->mode = (u8)k;
    if (dec_take(d, "abs")) x->mode3 |= 1;
    if (dec_take(d, "NaN")) x->mode3 |= 2;
    enum ptx_type t = dec_type(d);
    if (k >= 3 ? t != PT_B32 : t != PT_U32 && t != PT_S32 && !(t == PT_F32 && k)) dec_unknown(d);
    if (x->mode3 && t != PT_F32) dec_unknown(d);
    x->mode2 = t == PT_F32 ? 2 : t == PT_S32;
    dec_count(d, 3, 3);
    u32 a = dec_src(d, dec_operand(d, 1), PT_B32), m = dec_src(d, dec_operand(d, 2), PT_B32),
        r = dec_dst(d, dec_operand(d, 0), PT_B32);
    struct insn *in = dec_op(d, op_redux, x);
    in->a = a, in->d = r;
    member(d, in, m);
}

static void dec_elect(struct decoder *d) {
    if (!dec_take(d, "sync")) dec_unknown(d);
    dec_count(d, 2, 2);
    const struct ptx_operand *p, *to = result_pair(d, &p);
    if (!p) dec_fail(d, "elect.sync has a register and a predicate as results");
    struct ext *x = dec_ext(d, 1);
    u32 m = dec_src(d, dec_operand(d, 1), PT_B32);
    x->ops[0] = dec_dst_pred(d, p);
    u32 r = to->kind == O_SINK ? N : dec_dst(d, to, PT_B32);
    struct insn *in = dec_op(d, op_elect, x);
    in->d = r;
    member(d, in, m);
}

static void dec_activemask(struct decoder *d) {
    if (dec_type(d) != PT_B32) dec_unknown(d);
    dec_count(d, 1, 1);
    u32 r = dec_dst(d, dec_operand(d, 0), PT_B32);
    dec_op(d, op_activemask, dec_ext(d, 0))->d = r;
}
static void dec_nanosleep(struct decoder *d) {
    if (dec_type(d) != PT_U32) dec_unknown(d);
    dec_count(d, 1, 1);
    dec_src(d, dec_operand(d, 0), PT_U32);
    dec_op(d, op_nanosleep, NULL);
}
static void dec_griddepcontrol(struct decoder *d) {
    bool wait = dec_take(d, "wait");
    if (!wait && !dec_take(d, "launch_dependents")) dec_unknown(d);
    dec_count(d, 0, 0);
    struct ext *x = dec_ext(d, 0);
    x->mode = wait;
    dec_op(d, op_griddepcontrol, x);
    vm_depend_watch();
}
static void dec_setmaxnreg(struct decoder *d) {
    if ((!dec_take(d, "inc") && !dec_take(d, "dec")) || !dec_take(d, "sync") || !dec_take(d, "aligned") ||
        dec_type(d) != PT_U32)
        dec_unknown(d);
    dec_count(d, 1, 1);
    s64 n;
    if (!dec_constant(dec_operand(d, 0), &n) || n < 24 || n > 256 || n % 8)
        dec_fail(d, "a count of registers from 24 to 256, a multiple of 8");
    dec_op(d, op_nop, NULL);
}
static void dec_pmevent(struct decoder *d) { /* nothing counts the events */
    bool mask = dec_take(d, "mask");
    dec_count(d, 1, 1);
    s64 n;
    if (!dec_constant(dec_operand(d, 0), &n) || n < 0 || n > (mask ? 65535 : 15))
        dec_fail(d, "expected %s", mask ? "a mask of 16 bits" : "an event from 0 to 15");
    dec_op(d, op_nop, NULL);
}

const struct opcode dec_warp_opcodes[] = {
    {"bra", dec_bra, VM_C_CONTROL},
    {"brx", dec_brx, VM_C_CONTROL},
    {"call", dec_call, VM_C_CONTROL},
    {"ret", dec_ret, VM_C_CONTROL},
    {"exit", dec_exit, VM_C_CONTROL},
    {"trap", dec_trap, VM_C_CONTROL},
    {"brkpt", dec_brkpt, VM_C_CONTROL},
    {"bar", dec_bar, VM_C_BARRIER},
    {"barrier", dec_bar, VM_C_BARRIER},
    {"shfl", dec_shfl, VM_C_WARP},
    {"vote", dec_vote, VM_C_WARP},
    {"match", dec_match, VM_C_WARP},
    {"redux", dec_redux, VM_C_WARP},
    {"elect", dec_elect, VM_C_WARP},
    {"activemask", dec_activemask, VM_C_WARP},
    {"nanosleep", dec_nanosleep, VM_C_CONTROL},
    {"griddepcontrol", dec_griddepcontrol, VM_C_CONTROL},
    {"setmaxnreg", dec_setmaxnreg, VM_C_CONTROL},
    {"pmevent", dec_pmevent, VM_C_CONTROL},
    {0},
};
