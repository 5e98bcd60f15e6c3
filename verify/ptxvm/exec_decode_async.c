/* The decoder's table of asynchronous copies. */
#include "verify/ptxvm/exec_decode.h"

#include <stdio.h>
#include <string.h>

#define N NO_ROW

static void hints(struct decoder *d) {
    while (d->at < d->n_parts && (!strncmp(d->part[d->at], "L2::", 4) || !strncmp(d->part[d->at], "L1::", 4))) d->at++;
}

static void dec_cp_async(struct decoder *d) {
    struct ext *x = dec_ext(d, 2);
    x->ops[0] = x->ops[1] = N;
    if (dec_take(d, "commit_group")) {
        dec_op(d, op_cpasync_group, x);
        return;
    }
    if (dec_take(d, "wait_all") || dec_take(d, "wait_group")) {
        bool all = d->part[d->at - 1][5] == 'a';
        s64 n = 0;
        if (!all && (!dec_constant(dec_operand(d, 0), &n) || n < 0 || n > 1 << 20))
            dec_fail(d, "expected a count of groups");
        x->mode = all ? 2 : 1;
        dec_op(d, op_cpasync_group, x)->imm = n;
        return;
    }
    bool cg = dec_take(d, "cg");
    if (!cg && !dec_take(d, "ca")) dec_unknown(d);
    if ((!dec_take(d, "shared") && !dec_take(d, "shared::cta")) || !dec_take(d, "global")) dec_unknown(d);
    hints(d);
    dec_count(d, 3, 5);
    s64 bytes;
    if (!dec_constant(dec_operand(d, 2), &bytes) || (bytes != 16 && (cg || (bytes != 4 && bytes != 8))))
        dec_fail(d, "a copy of 4, 8 or 16 bytes (.cg: 16)");
    x->bytes = (u8)bytes;
    if (d->st->n >= 4) {
        const struct ptx_operand *o = dec_operand(d, 3);
        if (o->kind == O_REG && dec_reg_bytes(d, o) == 0)
            x->ops[1] = dec_pred(d, o, NULL);
        else if (!(o->kind == O_REG && dec_reg_bytes(d, o) == 8))
            x->ops[0] = dec_src_bytes(d, o, 4, false); /* 64 bits: a cache policy */
    }
    const struct ptx_operand *from = dec_operand(d, 1);
    if (from->kind != O_MEM) dec_fail(d, "expected an address in brackets");
    struct ptx_operand base = from->elems[0];
    s64 off = base.value;
    x->k = 8;
    u32 src;
    if (base.kind == O_REG) {
        if (dec_reg_bytes(d, &base) != 8) dec_fail(d, "a global address of %d bits", dec_reg_bytes(d, &base) * 8);
        src = dec_reg(d, base.reg);
        if (off > INT32_MAX || off < INT32_MIN) dec_fail(d, "the offset is too large");
    } else {
        src = dec_src(d, &base, PT_U64);
        off = 0;
    }
    x->m = (int)off;
    struct insn *in = dec_op(d, op_cpasync, x);
    dec_address(d, dec_operand(d, 0), in, x, SP_SHARED);
    in->b = src;
}

/* An address operand as a row of 64 bits; shared addresses may come in 32. */
static u32 address_row(struct decoder *d, const struct ptx_operand *o) {
    if (o->kind != O_MEM) dec_fail(d, "expected an address in brackets");
    struct ptx_operand base = o->elems[0];
    s64 off = base.kind == O_REG || base.kind == O_INT ? base.value : 0;
    if (base.kind == O_REG) base.value = 0;
    if (base.kind == O_INT) return dec_const(d, 8, (u64)off);
    u32 r = dec_src_bytes(d, &base, 8, false);
    if (!off) return r;
    u32 sum = dec_temp(d, 8);
    dec_pure(d, ROW_ADD_64, 8, sum, r, dec_const(d, 8, (u64)off), N);
    return sum;
}

static const char *const reductions[] = {"exch", "add", "inc", "dec", "and", "or", "xor", "min", "max"};
static int reduction(struct decoder *d) { /* number + 1 as op_bulk takes it */
    for (int k = 1; k < 9; k++)
        if (dec_take(d, reductions[k])) return k + 1;
    dec_unknown(d);
}

/* [map, {coordinates}] */
static void tensor_operand(struct decoder *d, const struct ptx_operand *o, struct ext *x) {
    if (o->kind != O_MEM || o->n != 2 || o->elems[1].kind != O_VEC || o->elems[1].n != x->k)
        dec_fail(d, "expected [map, {%d coordinates}]", x->k);
    struct ptx_operand map = *o;
    map.n = 1;
    x->ops[1] = address_row(d, &map);
    struct ptx_var *v = dec_variable(d, &o->elems[0]);
    if (v && v->space == SP_PARAM) { /* a kernel parameter by name: its generic address */
        u32 t = dec_temp(d, 8);
        dec_pure(d, ROW_ADD_64, 8, t, x->ops[1], dec_const(d, 8, VM_PARAM_WINDOW), N);
        x->ops[1] = t;
    }
    for (int i = 0; i < x->k; i++) x->ops[5 + i] = dec_src_bytes(d, &o->elems[1].elems[i], 4, true);
}

/* {offsets} of im2col, one for each dimension of pixels */
static void im2col_offsets(struct decoder *d, const struct ptx_operand *o, struct ext *x) {
    int n = o->kind == O_VEC ? o->n : 1;
    if (n != x->k - 2) dec_fail(d, "expected {%d offsets of im2col}", x->k - 2);
    for (int i = 0; i < n; i++) x->ops[10 + i] = dec_src_bytes(d, o->kind == O_VEC ? &o->elems[i] : o, 2, false);
}

/* .1d … .5d */
static int dimensions(struct decoder *d) {
    if (d->at >= d->n_parts || d->part[d->at][0] < '1' || d->part[d->at][0] > '5' || strcmp(d->part[d->at] + 1, "d"))
        dec_unknown(d);
    return d->part[d->at++][0] - '0';
}
/* .tile, .im2col (of stores .im2col_no_offs), or nothing */
static void load_mode(struct decoder *d, struct ext *x, bool store) {
    if (!x->k || dec_take(d, "tile")) return;
    if (!dec_take(d, store ? "im2col_no_offs" : "im2col")) return;
    if (x->k < 3) dec_fail(d, "im2col has 3 to 5 dimensions");
    x->order = 1;
}
/* What is left may be a cache policy and nothing else: it changes no result. */
static void cache_policy(struct decoder *d, int at, bool hint) {
    dec_count(d, at + hint, at + hint);
    if (hint) dec_src_bytes(d, dec_operand(d, at), 8, false);
}

static void bulk_prefetch(struct decoder *d) { /* nothing to do, but the form is read */
    struct ext *x = dec_ext(d, 13);
    int at = 1;
    for (int i = 0; i < 13; i++) x->ops[i] = N;
    if (dec_take(d, "tensor")) x->k = dimensions(d);
    if (!dec_take(d, "L2") || !dec_take(d, "global")) dec_unknown(d);
    load_mode(d, x, false);
    bool hint = dec_take(d, "L2::cache_hint");
    if (x->k) {
        tensor_operand(d, dec_operand(d, 0), x);
        if (x->order) im2col_offsets(d, dec_operand(d, at++), x);
    } else {
        address_row(d, dec_operand(d, 0));
        dec_src_bytes(d, dec_operand(d, at++), 4, false);
    }
    cache_policy(d, at, hint);
    dec_op(d, op_nop, NULL);
}

static void bulk_group(struct decoder *d, bool wait) {
    struct ext *x = dec_ext(d, 0);
    s64 n = 0;
    x->mode = wait;
    if (wait) {
        dec_take(d, "read");
        dec_count(d, 1, 1);
        if (!dec_constant(dec_operand(d, 0), &n) || n < 0 || n > 1 << 20) dec_fail(d, "expected a count of groups");
    }
    dec_op(d, op_bulk_group, x)->imm = n;
}

/* cp.async.bulk, cp.async.bulk.tensor, and with .reduce; after those words:
 *   {.tensor.Nd}.dst.src{.op}{.mode}.completion{.multicast}{.hint}{.op.type}; the operation stands before the mode of a
 *   tensor, whose map has the type, and after the completion of plain memory */
static void bulk(struct decoder *d, bool reduce) {
    if (!reduce && dec_take(d, "commit_group")) {
        bulk_group(d, false);
        return;
    }
    if (!reduce && dec_take(d, "wait_group")) {
        bulk_group(d, true);
        return;
    }
    if (!reduce && dec_take(d, "prefetch")) {
        bulk_prefetch(d);
        return;
    }
    struct ext *x = dec_ext(d, 13);
    for (int i = 0; i < 13; i++) x->ops[i] = N;
    if (dec_take(d, "tensor")) x->k = dimensions(d);
    bool cluster = dec_take(d, "shared::cluster"), to_shared = cluster || dec_take(d, "shared::cta");
    if (!to_shared && !dec_take(d, "global")) dec_unknown(d);
    bool from_global = to_shared && dec_take(d, "global");
    if (!from_global && !dec_take(d, "shared::cta")) dec_unknown(d);
    if (reduce ? from_global || (x->k && to_shared) : to_shared && !from_global && (x->k || !cluster)) dec_unknown(d);
    x->mode = !to_shared ? 2 : from_global ? 0 : 1;
    if (reduce && x->k) x->mode3 = (u8)reduction(d);
    load_mode(d, x, !to_shared);
    if (!dec_take(d, to_shared ? "mbarrier::complete_tx::bytes" : "bulk_group")) dec_unknown(d);
    if (cluster && from_global) x->mode2 = dec_take(d, "multicast::cluster");
    bool hint = dec_take(d, "L2::cache_hint");
    if (reduce && !x->k) {
        x->mode3 = (u8)reduction(d);
        bool noftz = dec_take(d, "noftz");
        enum ptx_type t = dec_type(d);
        int op = x->mode3 - 1;
        bool small = t == PT_F16 || t == PT_BF16, real = small || t == PT_F32 || t == PT_F64;
        bool bits = op >= 4 && op <= 6;
        if (ptx_type_bytes(t) < 2 || (ptx_type_bytes(t) < 4 && !small)) dec_unknown(d);
        if (real && (to_shared || bits || op == 2 || op == 3 || (op > 3 && !small) || noftz != (small && op == 1)))
            dec_unknown(d);
        if (!real && (noftz || bits != (t == PT_B32 || t == PT_B64) || ((op == 2 || op == 3) && t != PT_U32)))
            dec_unknown(d);
        x->type = (u8)t;
    }
    int at = 0;
    if (x->k && !to_shared) {
        tensor_operand(d, dec_operand(d, at++), x);
        x->ops[0] = address_row(d, dec_operand(d, at++));
    } else {
        x->ops[0] = address_row(d, dec_operand(d, at++));
        if (x->k) {
            tensor_operand(d, dec_operand(d, at++), x);
        } else {
            x->ops[1] = address_row(d, dec_operand(d, at++));
            x->ops[2] = dec_src_bytes(d, dec_operand(d, at++), 4, false);
        }
        if (to_shared) x->ops[3] = address_row(d, dec_operand(d, at++));
        if (x->order) im2col_offsets(d, dec_operand(d, at++), x);
        if (x->mode2) x->ops[4] = dec_src_bytes(d, dec_operand(d, at++), 4, false);
    }
    cache_policy(d, at, hint);
    d->m->async = true;
    dec_op(d, op_bulk, x);
}

/* {.relaxed|.release|.acquire}{.cta|.cluster}: order 1 for relaxed */
static void semantics(struct decoder *d, struct ext *x, const char *word) {
    if (dec_take(d, "relaxed"))
        x->order = 1;
    else if (!word || !dec_take(d, word))
        return;
    if (!dec_take(d, "cta") && !dec_take(d, "cluster")) dec_unknown(d);
}
/* Only what may name another block's mbarrier is told so. */
static int mbarrier_space(struct decoder *d, bool remote) {
    if (dec_take(d, "shared") || dec_take(d, "shared::cta")) return SP_SHARED;
    return remote && dec_take(d, "shared::cluster") ? SP_SHARED : SP_GENERIC;
}

static void dec_cp(struct decoder *d) {
    bool reduce = dec_take(d, "reduce");
    if (!dec_take(d, "async")) dec_unknown(d);
    if (dec_take(d, "bulk")) {
        bulk(d, reduce);
        return;
    }
    if (reduce) dec_unknown(d);
    if (dec_take(d, "mbarrier")) { /* cp.async.mbarrier.arrive{.noinc}{.shared}.b64 [addr] */
        if (!dec_take(d, "arrive")) dec_unknown(d);
        struct ext *x = dec_ext(d, 0);
        x->mode = MBARRIER_ASYNC;
        x->mode2 = dec_take(d, "noinc");
        int space = mbarrier_space(d, false);
        if (!dec_take(d, "b64")) dec_unknown(d);
        dec_count(d, 1, 1);
        u32 a = address_row(d, dec_operand(d, 0));
        d->m->async = true;
        struct insn *in = dec_op(d, op_mbarrier, x);
        in->a = a;
        in->space = (u8)space;
        return;
    }
    dec_cp_async(d);
}

static void dec_mbarrier(struct decoder *d) {
    static const char *const names[] = {"init",        "inval",     "arrive",        "arrive_drop", "expect_tx",
                                        "complete_tx", "test_wait", "pending_count", "try_wait"};
    int mode = 0, space = SP_GENERIC, at = 0;
    while (mode < 9 && !dec_take(d, names[mode])) mode++;
    bool may_suspend = mode == 8;
    if (mode == 9) dec_unknown(d);
    if (may_suspend) mode = MBARRIER_WAIT;
    struct ext *x = dec_ext(d, 0);
    x->mode = (u8)mode;
    u32 a = N, b = N, c = N, to = N;
    switch (mode) {
    case MBARRIER_INIT:
        space = mbarrier_space(d, false);
        dec_count(d, 2, 2);
        a = address_row(d, dec_operand(d, 0));
        b = dec_src_bytes(d, dec_operand(d, 1), 4, false);
        break;
    case MBARRIER_INVAL:
        space = mbarrier_space(d, false);
        dec_count(d, 1, 1);
        a = address_row(d, dec_operand(d, 0));
        break;
    case MBARRIER_EXPECT:
    case MBARRIER_COMPLETE:
        semantics(d, x, NULL);
        space = mbarrier_space(d, true);
        dec_count(d, 2, 2);
        a = address_row(d, dec_operand(d, 0));
        b = dec_src_bytes(d, dec_operand(d, 1), 4, false);
        break;
    case MBARRIER_ARRIVE:
    case MBARRIER_DROP: { /* the token is left out for another block's barrier */
        x->mode2 = dec_take(d, "expect_tx");
        if (!x->mode2) x->mode3 = dec_take(d, "noComplete");
        semantics(d, x, "release");
        space = mbarrier_space(d, !x->mode3);
        at = dec_operand(d, 0)->kind == O_MEM ? 0 : 1;
        dec_count(d, at + 1 + x->mode2 + x->mode3, at + 2);
        a = address_row(d, dec_operand(d, at));
        if (d->st->n > at + 1) {
            u32 *count = x->mode2 ? &c : &b;
            *count = dec_src_bytes(d, dec_operand(d, at + 1), 4, false);
        }
        if (at && dec_operand(d, 0)->kind != O_SINK) to = dec_dst(d, dec_operand(d, 0), PT_B64);
        break;
    }
    case MBARRIER_WAIT:
        x->mode2 = dec_take(d, "parity");
        semantics(d, x, "acquire");
        space = mbarrier_space(d, false);
        dec_count(d, 3, 3 + may_suspend);
        a = address_row(d, dec_operand(d, 1));
        b = dec_src_bytes(d, dec_operand(d, 2), x->mode2 ? 4 : 8, false);
        if (d->st->n == 4) dec_src_bytes(d, dec_operand(d, 3), 4, false); /* a hint of time */
        to = dec_dst_pred(d, dec_operand(d, 0));
        break;
    default:
        dec_count(d, 2, 2);
        a = dec_src_bytes(d, dec_operand(d, 1), 8, false);
        to = dec_dst(d, dec_operand(d, 0), PT_U32);
        break;
    }
    if (!dec_take(d, "b64")) dec_unknown(d);
    d->m->async = true;
    struct insn *in = dec_op(d, op_mbarrier, x);
    in->a = a, in->b = b, in->c = c, in->d = to;
    in->space = (u8)space;
}

/* tensormap.replace.tile.field{.space}.b1024.type [a], {dimension,} value; tensormap.cp_fenceproxy… [a], [b], 128 */
static void dec_tensormap(struct decoder *d) {
    static const char *const fields[] = {
        "global_address", "rank",     "box_dim",           "global_dim",   "global_stride",
        "element_stride", "elemtype", "interleave_layout", "swizzle_mode", "swizzle_atomicity",
        "fill_mode"};
    struct ext *x = dec_ext(d, 0);
    if (dec_take(d, "cp_fenceproxy")) {
        static const char *const words[] = {"global", "shared::cta", "tensormap::generic", "release"};
        for (int k = 0; k < 4; k++)
            if (!dec_take(d, words[k])) dec_unknown(d);
        if (!dec_take(d, "cta") && !dec_take(d, "cluster") && !dec_take(d, "gpu")) dec_take(d, "sys");
        s64 n;
        dec_count(d, 3, 3);
        if (!dec_take(d, "sync") || !dec_take(d, "aligned")) dec_unknown(d);
        if (!dec_constant(dec_operand(d, 2), &n) || n != 128) dec_fail(d, "a tensor map has 128 bytes");
        u32 to = address_row(d, dec_operand(d, 0)), from = address_row(d, dec_operand(d, 1));
        struct insn *in = dec_op(d, op_tensormap_copy, x);
        in->a = to, in->b = from;
        return;
    }
    if (!dec_take(d, "replace") || !dec_take(d, "tile")) dec_unknown(d);
    int field = 0;
    while (field < 11 && !dec_take(d, fields[field])) field++;
    if (field == 11) dec_unknown(d);
    int space = dec_take(d, "global") ? SP_GLOBAL : dec_take(d, "shared::cta") ? SP_SHARED : SP_GENERIC;
    if (!dec_take(d, "b1024")) dec_unknown(d);
    x->mode = (u8)field;
    x->bytes = field == TENSORMAP_ADDRESS || field == TENSORMAP_STRIDE ? 8 : 4;
    if (dec_type(d) != (x->bytes == 8 ? PT_B64 : PT_B32)) dec_unknown(d);
    bool indexed = field >= TENSORMAP_BOX && field <= TENSORMAP_ELEMENT_STRIDE;
    s64 n = 0;
    dec_count(d, 2 + indexed, 2 + indexed);
    if (indexed && (!dec_constant(dec_operand(d, 1), &n) || n < 0 || n > 4)) dec_fail(d, "a dimension from 0 to 4");
    s64 value;
    if (field >= TENSORMAP_TYPE && !dec_constant(dec_operand(d, 1), &value)) dec_fail(d, "expected a constant");
    u32 a = address_row(d, dec_operand(d, 0)), v = dec_src_bytes(d, dec_operand(d, 1 + indexed), x->bytes, false);
    struct insn *in = dec_op(d, op_tensormap_replace, x);
    in->a = a, in->b = v;
    in->imm = n;
    in->space = (u8)space;
}

static void dec_wgmma(struct decoder *d) {
    static const char *const groups[] = {"fence", "commit_group", "wait_group"};
    d->m->async = true;
    for (int mode = 0; mode < 3; mode++) {
        if (!dec_take(d, groups[mode])) continue;
        struct ext *x = dec_ext(d, 0);
        s64 n = 0;
        x->mode = (u8)mode;
        if (!dec_take(d, "sync") || !dec_take(d, "aligned")) dec_unknown(d);
        dec_count(d, mode == 2, mode == 2);
        if (mode == 2 && (!dec_constant(dec_operand(d, 0), &n) || n < 0 || n > 1 << 20))
            dec_fail(d, "expected a count of groups");
        dec_op(d, op_wgmma_group, x)->imm = n;
        return;
    }
    int m, n, k, used = 0;
    if (!dec_take(d, "mma_async") || !dec_take(d, "sync") || !dec_take(d, "aligned") || d->at >= d->n_parts ||
        sscanf(d->part[d->at], "m%dn%dk%d%n", &m, &n, &k, &used) != 3 || d->part[d->at][used] || m != 64 || n < 8 ||
        n > 256 || n % 8)
        dec_unknown(d);
    d->at++;
    bool sat = dec_take(d, "satfinite");
    enum ptx_type dt = dec_type(d), at = dec_type(d), bt = dec_type(d);
    if (at == PT_B1 && (!dec_take(d, "and") || !dec_take(d, "popc"))) dec_unknown(d);
    if (dec_take(d, "satfinite")) sat = true;
    bool f8 = (at == PT_E4M3 || at == PT_E5M2) && (bt == PT_E4M3 || bt == PT_E5M2),
         i8 = (at == PT_S8 || at == PT_U8) && (bt == PT_S8 || bt == PT_U8);
    bool f16 = (at == PT_F16 || at == PT_BF16) && at == bt;
    int bits = f16 ? 16 : at == PT_TF32 && bt == at ? 32 : f8 || i8 ? 8 : at == PT_B1 && bt == at ? 1 : 0;
    if (!bits || k != 256 / bits) dec_unknown(d);
    bool integer = i8 || bits == 1;
    if (integer ? dt != PT_S32 : dt != PT_F32 && !(dt == PT_F16 && (at == PT_F16 || f8))) dec_unknown(d);
    if (sat && !i8) dec_unknown(d);
    int nd = n / 2 / (dt == PT_F16 ? 2 : 1);
    const struct ptx_operand *D = dec_operand(d, 0), *A = dec_operand(d, 1);
    int na = A->kind == O_VEC ? 4 : 0;
    if (D->kind != O_VEC || D->n != nd || (na && A->n != 4)) dec_fail(d, "expected %d registers of D", nd);
    struct ext *x = dec_ext(d, nd + (na ? na : 1) + 1);
    for (int i = 0; i < nd; i++) {
        if (D->elems[i].kind != O_REG || dec_reg_bytes(d, &D->elems[i]) != 4)
            dec_fail(d, "D is made of 32-bit registers");
        x->ops[i] = dec_reg(d, D->elems[i].reg);
        x->sizes[i] = 4;
    }
    if (na)
        dec_vector(d, A, PT_B32, false, x->ops + nd, x->sizes + nd, 4);
    else
        x->ops[nd] = dec_src_bytes(d, A, 8, false);
    x->ops[nd + (na ? na : 1)] = dec_src_bytes(d, dec_operand(d, 2), 8, false);
    s64 imm[4] = {1, 1, 0, 0};
    int extra = integer ? 0 : f16 ? (na ? 3 : 4) : 2;
    dec_count(d, 4, 4 + extra);
    for (int i = 4; i < d->st->n; i++) {
        int slot = i - 4 >= 2 && na ? i - 3 : i - 4; /* with A in registers only B's layout is given */
        if (slot > 3 || !dec_constant(dec_operand(d, i), &imm[slot])) dec_fail(d, "expected a constant");
    }
    if ((imm[0] != 1 && imm[0] != -1) || (imm[1] != 1 && imm[1] != -1) || (imm[2] & ~1) || (imm[3] & ~1))
        dec_fail(d, "scales are 1 or -1, layouts 0 or 1");
    x->arg_from = arena_new(&d->m->arena, 2 * sizeof(u32));
    x->arg_from[0] = (u32)nd;
    x->arg_from[1] = (u32)na;
    x->m = 16, x->nn = n, x->k = k;
    x->type = (u8)at, x->type2 = (u8)bt, x->type3 = x->type4 = (u8)dt;
    x->mode = sat;
    x->mode2 = (u8)((imm[0] < 0) | (imm[1] < 0) << 1);
    if (bits == 1) x->mode2 = 1; /* vm_multiply: and.popc */
    x->mode3 = (u8)(imm[2] | imm[3] << 1);
    const struct ptx_operand *scale = dec_operand(d, 3);
    bool negated = false;
    u32 p = N;
    s64 constant = 1;
    if (scale->kind == O_INT)
        constant = scale->value;
    else
        p = dec_pred(d, scale, &negated);
    struct insn *in = dec_op(d, op_wgmma, x);
    in->c = p;
    in->imm = negated | (constant == 0) << 1;
}

/* {st,red}.async{.weak}{.relaxed.cluster}.shared::cluster.mbarrier::complete_tx::bytes{.op}{.v}.type [a], b, [mbar] */
void dec_store_async(struct decoder *d, bool reduce) {
    struct ext *x = dec_ext(d, 6);
    int vec = 1;
    bool cluster = false, bytes = false;
    for (;;) {
        if (dec_take(d, "weak") || dec_take(d, "relaxed") || dec_take(d, "cluster")) continue;
        if (dec_take(d, "shared::cluster"))
            cluster = true;
        else if (dec_take(d, "mbarrier::complete_tx::bytes"))
            bytes = true;
        else if (dec_take(d, "v2"))
            vec = 2;
        else if (dec_take(d, "v4"))
            vec = 4;
        else
            break;
    }
    if (reduce) x->mode3 = (u8)reduction(d);
    enum ptx_type t = dec_type(d);
    if (!cluster || !bytes || ptx_type_bytes(t) < 4) dec_unknown(d);
    dec_count(d, 3, 3);
    x->ops[0] = address_row(d, dec_operand(d, 0));
    x->ops[1] = address_row(d, dec_operand(d, 2));
    if (dec_vector(d, dec_operand(d, 1), t, false, x->ops + 2, x->sizes + 2, vec) != vec)
        dec_fail(d, "expected %d values", vec);
    x->n = 2 + vec;
    x->m = vec;
    x->bytes = (u8)ptx_type_bytes(t);
    x->type = (u8)t;
    d->c->serial = d->m->async = true;
    dec_op(d, op_store_async, x);
}

const struct opcode dec_async_opcodes[] = {
    {"cp", dec_cp, VM_C_ASYNC},
    {"mbarrier", dec_mbarrier, VM_C_BARRIER},
    {"wgmma", dec_wgmma, VM_C_MATRIX},
    {"tensormap", dec_tensormap, VM_C_ASYNC},
    {0},
};
