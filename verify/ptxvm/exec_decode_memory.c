/* The decoder's table of memory instructions. */
#include "verify/ptxvm/exec_decode.h"

#include <string.h>

#define N NO_ROW

static int space_word(struct decoder *d) {
    if (dec_take(d, "global")) return SP_GLOBAL;
    if (dec_take(d, "const")) return SP_CONST;
    if (dec_take(d, "local")) return SP_LOCAL;
    if (dec_take(d, "shared") || dec_take(d, "shared::cta") || dec_take(d, "shared::cluster")) return SP_SHARED;
    if (dec_take(d, "param") || dec_take(d, "param::entry") || dec_take(d, "param::func")) return SP_PARAM;
    return SP_GENERIC;
}

/* Scope, cache and eviction modifiers do not change what a correct program computes. */
static bool hint(struct decoder *d) {
    static const char *const words[] = {"ca", "cg",      "cs",   "lu",           "cv",          "wb",        "wt",
                                        "nc", "unified", "mmio", "evict_normal", "evict_first", "evict_last"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (dec_take(d, words[i])) return true;
    if (d->at < d->n_parts && (!strncmp(d->part[d->at], "L1::", 4) || !strncmp(d->part[d->at], "L2::", 4))) {
        d->at++;
        return true;
    }
    return false;
}
static bool scope(struct decoder *d) {
    return dec_take(d, "cta") || dec_take(d, "cluster") || dec_take(d, "gpu") || dec_take(d, "sys");
}

struct access {
    int space, vec, order;
    bool is_volatile;
    enum ptx_type t;
};
static struct access access_words(struct decoder *d) {
    struct access a = {.space = SP_GENERIC, .vec = 1};
    for (;;) {
        int sp;
        if (dec_take(d, "volatile"))
            a.is_volatile = true;
        else if (dec_take(d, "weak"))
            a.order = 0;
        else if (dec_take(d, "relaxed"))
            a.order = 1;
        else if (dec_take(d, "acquire"))
            a.order = 2;
        else if (dec_take(d, "release"))
            a.order = 4;
        else if (scope(d) || hint(d))
            continue;
        else if (dec_take(d, "v2"))
            a.vec = 2;
        else if (dec_take(d, "v4"))
            a.vec = 4;
        else if (dec_take(d, "v8"))
            a.vec = 8;
        else if ((sp = space_word(d)) != SP_GENERIC)
            a.space = sp;
        else
            break;
    }
    a.t = dec_type(d);
    return a;
}

/* A parameter's variable and offset when the address names one; false: an ordinary address. */
static bool param_variable(struct decoder *d, const struct ptx_operand *o, struct insn *in, u32 bytes) {
    if (o->kind != O_MEM) dec_fail(d, "expected an address in brackets");
    const struct ptx_operand *base = &o->elems[0];
    struct ptx_var *v = dec_variable(d, base);
    if (!v || v->space != SP_PARAM) return false;
    if (base->value < 0 || (u64)base->value + bytes > v->bytes)
        dec_fail(d, "bytes %lld to %lld of %s, which has %llu", (long long)base->value, (long long)base->value + bytes,
                 v->name, (unsigned long long)v->bytes);
    in->imm = (s64)v->addr + base->value;
    in->flags = v->is_formal ? 0 : 1;
    return true;
}

static void dec_ld(struct decoder *d) {
    struct access a = access_words(d);
    bool ldu = !strcmp(d->part[0], "ldu");
    if (ldu && ((a.space != SP_GLOBAL && a.space != SP_GENERIC) || a.order || a.is_volatile)) dec_unknown(d);
    dec_count(d, 2, ldu ? 2 : 3);
    int each = ptx_type_bytes(a.t);
    if (!each) dec_unknown(d);
    u32 ops[8];
    u8 sizes[8];
    const struct ptx_operand *to = dec_operand(d, 0);
    int n = 0;
    if (a.vec > 1 && to->kind != O_VEC) dec_fail(d, "expected %d registers in braces", a.vec);
    /* a register wider than the type is filled by the load itself */
    for (; n < a.vec; n++) {
        const struct ptx_operand *e = to->kind == O_VEC ? (n < to->n ? &to->elems[n] : NULL) : to;
        if (!e || (to->kind == O_VEC && to->n != a.vec)) dec_fail(d, "expected %d registers", a.vec);
        if (e->kind == O_SINK) {
            ops[n] = N;
            sizes[n] = 4;
            continue;
        }
        if (e->kind != O_REG) dec_fail(d, "the result is no register");
        int have = dec_reg_bytes(d, e);
        if (have < each || !have) dec_fail(d, "%d bits into a register of %d", each * 8, have * 8);
        ops[n] = dec_reg(d, e->reg);
        sizes[n] = (u8)have;
    }
    struct ext *x = dec_ext(d, n);
    memcpy(x->ops, ops, (size_t)n * sizeof *ops);
    memcpy(x->sizes, sizes, (size_t)n);
    x->bytes = (u8)each;
    x->is_signed = ptx_type_is_signed(a.t) && !ptx_type_is_float(a.t);
    x->is_volatile = a.is_volatile;
    x->order = (u8)a.order;
    if (each * n > 32) dec_unknown(d);
    d->cls = VM_C_LOAD;
    struct insn *in = dec_op(d, op_ld, x);
    if (a.space == SP_PARAM && param_variable(d, dec_operand(d, 1), in, (u32)(each * n))) {
        in->op = op_ldparam;
        return;
    }
    dec_address(d, dec_operand(d, 1), in, x, a.space);
    if (in->space == SP_PARAM && !d->f->is_entry) in->space = SP_LOCAL; /* where the parameter was copied to */
    if (a.order >= 2) d->c->serial = true;
    if (a.is_volatile || a.order == 1) d->c->serial |= a.space != SP_SHARED && a.space != SP_LOCAL;
}

static void dec_st(struct decoder *d) {
    if (dec_take(d, "async")) {
        dec_store_async(d, false);
        return;
    }
    struct access a = access_words(d);
    dec_count(d, 2, 3);
    int each = ptx_type_bytes(a.t);
    if (!each) dec_unknown(d);
    const struct ptx_operand *from = dec_operand(d, 1);
    if (a.vec > 1 && (from->kind != O_VEC || from->n != a.vec)) dec_fail(d, "expected %d registers in braces", a.vec);
    struct ext *x = dec_ext(d, a.vec);
    for (int i = 0; i < a.vec; i++) {
        const struct ptx_operand *e = from->kind == O_VEC ? &from->elems[i] : from;
        if (e->kind == O_REG) {
            int have = dec_reg_bytes(d, e);
            if (have < each || !have) dec_fail(d, "%d bits from a register of %d", each * 8, have * 8);
            x->ops[i] = dec_reg(d, e->reg);
            x->sizes[i] = (u8)have;
        } else {
            x->ops[i] = dec_src(d, e, a.t);
            x->sizes[i] = (u8)(each == 1 ? 2 : each);
        }
    }
    x->bytes = (u8)each;
    x->is_volatile = a.is_volatile;
    x->order = (u8)a.order;
    if (each * a.vec > 32) dec_unknown(d);
    d->cls = VM_C_STORE;
    struct insn *in = dec_op(d, op_st, x);
    if (a.space == SP_PARAM) {
        if (!param_variable(d, dec_operand(d, 0), in, (u32)(each * a.vec))) dec_fail(d, "expected a parameter's name");
        if (d->f->is_entry && !in->flags) dec_fail(d, "a kernel's parameters cannot be written");
        in->op = op_stparam;
        return;
    }
    if (a.space == SP_CONST) dec_unknown(d);
    dec_address(d, dec_operand(d, 0), in, x, a.space);
    if (a.order) d->c->serial |= a.space != SP_SHARED;
}

static const char *const atom_names[] = {"exch", "add", "inc", "dec", "and", "or", "xor", "min", "max", "cas"};

static void atomic(struct decoder *d, bool is_red) {
    int space = SP_GENERIC, order = 1, op = -1, vec = 1;
    for (;;) {
        int sp, k = 0;
        if (dec_take(d, "relaxed"))
            order = 1;
        else if (dec_take(d, "acquire"))
            order = 2;
        else if (dec_take(d, "release"))
            order = 4;
        else if (dec_take(d, "acq_rel"))
            order = 6;
        else if (scope(d) || hint(d) || dec_take(d, "noftz"))
            continue;
        else if (dec_take(d, "v2"))
            vec = 2;
        else if (dec_take(d, "v4"))
            vec = 4;
        else if (dec_take(d, "v8"))
            vec = 8;
        else if ((sp = space_word(d)) != SP_GENERIC)
            space = sp;
        else {
            while (k < 10 && !(d->at < d->n_parts && !strcmp(d->part[d->at], atom_names[k]))) k++;
            if (k == 10 || op >= 0) break;
            op = k;
            d->at++;
        }
    }
    enum ptx_type t = dec_type(d);
    int bytes = ptx_type_bytes(t);
    if (op < 0 || bytes < 2 || (space == SP_CONST) || space == SP_PARAM || space == SP_LOCAL) dec_unknown(d);
    bool bits = t >= PT_B8 && t <= PT_B128, is_float = ptx_type_is_float(t), cas = op == 9;
    if ((op == 0 || cas) ? !bits && is_float : op >= 4 && op <= 6 ? !bits : op == 2 || op == 3 ? t != PT_U32 : bits)
        dec_unknown(d);
    if (bytes == 16 && op != 0 && !cas) dec_unknown(d);
    if ((t == PT_F32 || t == PT_F64) && op != 1 && vec == 1 && op != 0) dec_unknown(d);
    int first = is_red ? 0 : 1;
    dec_count(d, first + (cas ? 3 : 2), first + (cas ? 4 : 3));
    struct ext *x = dec_ext(d, 2 * vec + 1);
    x->m = vec;
    x->bytes = (u8)bytes;
    x->mode = (u8)op;
    x->type = (u8)t;
    x->order = (u8)order;
    u8 row_bytes = (u8)(bytes == 1 ? 2 : bytes);
    for (int i = 0; i < vec; i++) x->ops[i] = N, x->sizes[i] = row_bytes;
    if (dec_vector(d, dec_operand(d, first + 1), t, false, x->ops + vec, x->sizes + vec, vec) != vec)
        dec_fail(d, "expected %d values", vec);
    x->ops[2 * vec] = N;
    if (cas) {
        x->ops[2 * vec] = dec_src(d, dec_operand(d, first + 2), t);
        x->sizes[2 * vec] = row_bytes;
    }
    if (!is_red && dec_operand(d, 0)->kind != O_SINK &&
        dec_vector(d, dec_operand(d, 0), t, true, x->ops, x->sizes, vec) != vec)
        dec_fail(d, "expected %d results", vec);
    struct insn *in = dec_op(d, op_atom, x);
    dec_address(d, dec_operand(d, first), in, x, space);
    if (in->space != SP_SHARED && (!is_red || is_float || order > 1)) d->c->serial = true;
}
static void dec_atom(struct decoder *d) {
    atomic(d, false);
}
static void dec_red(struct decoder *d) {
    if (dec_take(d, "async"))
        dec_store_async(d, true);
    else
        atomic(d, true);
}

static void dec_fence(struct decoder *d) { /* membar, fence: all of them order everything here */
    struct ext *x = dec_ext(d, 0);
    x->mode = d->n_parts > 2 && !strcmp(d->part[1], "proxy") && !strncmp(d->part[2], "async", 5);
    bool ok = false;
    while (d->at < d->n_parts) {
        static const char *const words[] = {"cta",
                                            "gl",
                                            "gpu",
                                            "sys",
                                            "cluster",
                                            "sc",
                                            "acq_rel",
                                            "acquire",
                                            "release",
                                            "proxy",
                                            "alias",
                                            "async",
                                            "async::generic",
                                            "async::global",
                                            "async::shared::cta",
                                            "async::shared::cluster",
                                            "global",
                                            "shared::cta",
                                            "shared::cluster",
                                            "mbarrier_init",
                                            "sync_restrict::shared::cta",
                                            "sync_restrict::shared::cluster",
                                            "tensormap::generic"};
        bool found = false;
        for (size_t i = 0; i < sizeof words / sizeof *words && !found; i++) found = dec_take(d, words[i]);
        if (!found) dec_unknown(d);
        ok = true;
    }
    if (!ok) dec_unknown(d);
    d->c->serial = true;
    if (x->mode) d->m->async = true;
    dec_op(d, op_fence, x);
}

/* An address operand of a hint: decoded, so that it must be one, and never looked at. */
static void hint_address(struct decoder *d, int i, int space) {
    struct insn unused = {0};
    struct ext x;
    dec_address(d, dec_operand(d, i), &unused, &x, space);
}
static void dec_prefetch(struct decoder *d) { /* hints that change nothing, not even for a wrong address */
    bool uniform = d->part[0][8] == 'u';
    int space = uniform ? SP_GENERIC : space_word(d);
    bool l1 = dec_take(d, "L1"), l2 = !l1 && !uniform && dec_take(d, "L2"),
         evict = space == SP_GLOBAL && !uniform && (dec_take(d, "L2::evict_last") || dec_take(d, "L2::evict_normal")),
         map = !uniform && (space == SP_GENERIC || space == SP_CONST || space == SP_PARAM) && dec_take(d, "tensormap");
    if (l1 + l2 + evict + map != 1) dec_unknown(d);
    if (!map && space != SP_GENERIC && space != SP_GLOBAL && space != SP_LOCAL) dec_unknown(d);
    dec_count(d, 1, 1);
    hint_address(d, 0, space);
    d->cls = VM_C_MOVE;
    dec_op(d, op_nop, NULL);
}

static void dec_line(struct decoder *d) { /* applypriority, discard {.global} [a], 128 */
    bool discard = d->part[0][0] == 'd';
    int space = space_word(d);
    if ((space != SP_GENERIC && space != SP_GLOBAL) || !dec_take(d, discard ? "L2" : "L2::evict_normal"))
        dec_unknown(d);
    dec_count(d, 2, 2);
    s64 bytes;
    if (!dec_constant(dec_operand(d, 1), &bytes) || bytes != 128) dec_fail(d, "the size is not 128");
    d->cls = discard ? VM_C_STORE : VM_C_MOVE;
    struct ext *x = dec_ext(d, 0);
    x->mode = discard;
    dec_address(d, dec_operand(d, 0), dec_op(d, op_line, x), x, space);
}

static bool priority(struct decoder *d, const char *const *words, int n) {
    for (int i = 0; i < n; i++)
        if (dec_take(d, words[i])) return true;
    return false;
}
static void dec_createpolicy(struct decoder *d) { /* a policy is opaque and changes nothing: zero */
    static const char *const first[] = {"L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"},
                             *const second[] = {"L2::evict_first", "L2::evict_unchanged"};
    bool range = dec_take(d, "range"), fraction = !range && dec_take(d, "fractional"),
         convert = !range && !fraction && dec_take(d, "cvt");
    if (range) dec_take(d, "global");
    if (convert ? !dec_take(d, "L2") : !priority(d, first, 4)) dec_unknown(d);
    if (!convert) priority(d, second, 2);
    if (!(range || fraction || convert) || dec_type(d) != PT_B64) dec_unknown(d);
    dec_count(d, range ? 4 : convert ? 2 : 1, range ? 4 : 2);
    if (range) hint_address(d, 1, SP_GLOBAL);
    dec_row(d, ROW_MOV_64, 8, dec_dst(d, dec_operand(d, 0), PT_B64), dec_const(d, 8, 0), N, N);
}

static void dec_mapa(struct decoder *d) { /* mapa{.shared::cluster}.type d, a, rank; getctarank */
    bool rank = d->part[0][0] == 'g';
    bool shared = dec_take(d, "shared::cluster");
    enum ptx_type t = dec_type(d);
    if (t != PT_U32 && t != PT_U64) dec_unknown(d);
    dec_count(d, rank ? 2 : 3, rank ? 2 : 3);
    struct ext *x = dec_ext(d, 0);
    x->bytes = (u8)ptx_type_bytes(t);
    x->mode = !shared;
    x->mode2 = rank;
    u32 a = dec_src(d, dec_operand(d, 1), t),
        b = rank ? dec_const(d, 4, 0) : dec_src_bytes(d, dec_operand(d, 2), 4, false);
    u32 r = dec_dst(d, dec_operand(d, 0), rank ? PT_U32 : t);
    struct insn *in = dec_op(d, op_mapa, x);
    in->a = a, in->b = b, in->d = r;
    in->dsize = (u8)(rank ? 4 : x->bytes);
    in->cls = VM_C_MOVE;
}

static void dec_stack(struct decoder *d) { /* alloca.type ptr, size{, align}; stacksave.type d; stackrestore.type a */
    int mode = d->part[0][0] == 'a' ? 0 : d->part[0][5] == 's' ? 1 : 2;
    enum ptx_type t = dec_type(d);
    if (t != PT_U32 && t != PT_U64) dec_unknown(d);
    dec_count(d, mode ? 1 : 2, mode ? 1 : 3);
    struct ext *x = dec_ext(d, 0);
    x->mode = (u8)mode;
    x->bytes = (u8)ptx_type_bytes(t);
    s64 align = 8;
    if (d->st->n == 3 &&
        (!dec_constant(dec_operand(d, 2), &align) || align < 1 || align > 1 << 23 || (align & (align - 1))))
        dec_fail(d, "the alignment is no power of two up to 2^23");
    x->m = align < 8 ? 8 : (int)align;
    u32 a = mode == 1 ? N : dec_src(d, dec_operand(d, mode ? 0 : 1), t),
        r = mode == 2 ? N : dec_dst(d, dec_operand(d, 0), t);
    d->cls = VM_C_MOVE;
    struct insn *in = dec_op(d, op_stack, x);
    in->a = a, in->d = r;
    in->dsize = x->bytes;
}

const struct opcode dec_memory_opcodes[] = {
    {"ld", dec_ld, VM_C_LOAD},
    {"ldu", dec_ld, VM_C_LOAD},
    {"st", dec_st, VM_C_STORE},
    {"atom", dec_atom, VM_C_ATOMIC},
    {"red", dec_red, VM_C_ATOMIC},
    {"membar", dec_fence, VM_C_BARRIER},
    {"fence", dec_fence, VM_C_BARRIER},
    {"prefetch", dec_prefetch, VM_C_MOVE},
    {"prefetchu", dec_prefetch, VM_C_MOVE},
    {"applypriority", dec_line, VM_C_MOVE},
    {"discard", dec_line, VM_C_STORE},
    {"createpolicy", dec_createpolicy, VM_C_MOVE},
    {"mapa", dec_mapa, VM_C_MOVE},
    {"getctarank", dec_mapa, VM_C_MOVE},
    {"alloca", dec_stack, VM_C_MOVE},
    {"stacksave", dec_stack, VM_C_MOVE},
    {"stackrestore", dec_stack, VM_C_MOVE},
    {0},
};
