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

static bool multicast(struct decoder *d) {
    return dec_take(d, "multicast::cluster");
}

static void tensor_operand(struct decoder *d, const struct ptx_operand *o, struct ext *x, int dims) {
    if (o->kind != O_MEM || o->n != 2 || o->elems[1].kind != O_VEC || o->elems[1].n != dims)
        dec_fail(d, "expected [map, {%d coordinates}]", dims);
    struct ptx_operand map = *o;
    map.n = 1;
    x->ops[1] = address_row(d, &map);
    struct ptx_var *v = dec_variable(d, &o->elems[0]);
    if (v && v->space == SP_PARAM) { /* a kernel parameter by name: its generic address */
        u32 t = dec_temp(d, 8);
        dec_pure(d, ROW_ADD_64, 8, t, x->ops[1], dec_const(d, 8, VM_PARAM_WINDOW), N);
        x->ops[1] = t;
    }
    for (int i = 0; i < dims; i++) x->ops[5 + i] = dec_src_bytes(d, &o->elems[1].elems[i], 4, true);
}

static void bulk(struct decoder *d, bool reduce) {
    if (dec_take(d, "commit_group")) {
        dec_op(d, op_nop, NULL);
        return;
    }
    if (dec_take(d, "wait_group")) {
        dec_take(d, "read");
        s64 n;
        if (!dec_constant(dec_operand(d, 0), &n)) dec_fail(d, "expected a count of groups");
        dec_op(d, op_nop, NULL);
        return;
    }
    if (dec_take(d, "prefetch")) {
        while (d->at < d->n_parts) d->at++;
        dec_op(d, op_nop, NULL);
        return;
    }
    struct ext *x = dec_ext(d, 10);
    for (int i = 0; i < 10; i++) x->ops[i] = N;
    int dims = 0;
    if (dec_take(d, "tensor")) {
        if (d->at < d->n_parts && d->part[d->at][0] >= '1' && d->part[d->at][0] <= '5' &&
            !strcmp(d->part[d->at] + 1, "d"))
            dims = d->part[d->at++][0] - '0';
        else
            dec_unknown(d);
    }
    bool to_shared = dec_take(d, "shared::cluster") || dec_take(d, "shared::cta");
    if (!to_shared && !dec_take(d, "global")) dec_unknown(d);
    bool from_global = dec_take(d, "global");
    if (!from_global && !dec_take(d, "shared::cta")) dec_unknown(d);
    x->mode = !to_shared ? 2 : from_global ? 0 : 1;
    bool has_bar = false;
    for (;;) {
        if (dec_take(d, "mbarrier::complete_tx::bytes"))
            has_bar = true;
        else if (dec_take(d, "bulk_group") || dec_take(d, "tile") || dec_take(d, "cta_group::1"))
            continue;
        else if (multicast(d))
            x->mode2 = 1;
        else if (d->at < d->n_parts && !strncmp(d->part[d->at], "L2::", 4))
            d->at++;
        else
            break;
    }
    if (reduce) {
        x->mode3 = (u8)reduction(d);
        for (;;) {
            if (dec_take(d, "bulk_group") || dec_take(d, "tile") || dec_take(d, "noftz")) continue;
            if (d->at < d->n_parts && !strncmp(d->part[d->at], "L2::", 4))
                d->at++;
            else
                break;
        }
        if (!dims) x->type = (u8)dec_type(d);
        dec_take(d, "bulk_group");
    }
    if (has_bar != to_shared || (x->mode2 && x->mode != 0)) dec_unknown(d);
    int at = 0;
    if (dims && !to_shared) {
        tensor_operand(d, dec_operand(d, at++), x, dims);
        x->ops[0] = address_row(d, dec_operand(d, at++));
    } else {
        x->ops[0] = address_row(d, dec_operand(d, at++));
        if (dims)
            tensor_operand(d, dec_operand(d, at++), x, dims);
        else {
            x->ops[1] = address_row(d, dec_operand(d, at++));
            x->ops[2] = dec_src_bytes(d, dec_operand(d, at++), 4, false);
        }
        if (has_bar) x->ops[3] = address_row(d, dec_operand(d, at++));
        if (x->mode2) x->ops[4] = dec_src_bytes(d, dec_operand(d, at++), 4, false);
    }
    if (dims && reduce) dec_fail(d, "the machine does not know reductions of tensors");
    x->k = dims;
    dec_op(d, op_bulk, x);
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
        x->mode = 8;
        x->mode2 = dec_take(d, "noinc");
        bool shared = dec_take(d, "shared") || dec_take(d, "shared::cta");
        if (!dec_take(d, "b64")) dec_unknown(d);
        u32 a = address_row(d, dec_operand(d, 0));
        struct insn *in = dec_op(d, op_mbarrier, x);
        in->a = a;
        in->space = shared ? SP_SHARED : SP_GENERIC;
        return;
    }
    dec_cp_async(d);
}

static void dec_mbarrier(struct decoder *d) {
    static const char *const names[] = {"init",      "inval",       "arrive",    "arrive_drop",
                                        "expect_tx", "complete_tx", "test_wait", "pending_count"};
    int mode = 0;
    while (mode < 8 && !dec_take(d, names[mode])) mode++;
    if (mode == 8) {
        if (!dec_take(d, "try_wait")) dec_unknown(d);
        mode = 6;
    }
    struct ext *x = dec_ext(d, 0);
    x->mode = (u8)mode;
    if ((mode == 2 || mode == 3) && dec_take(d, "expect_tx")) x->mode2 = 1;
    if (mode == 6 && dec_take(d, "parity")) x->mode2 = 1;
    int space = SP_GENERIC;
    for (;;) {
        if (dec_take(d, "relaxed"))
            x->order = 1;
        else if (dec_take(d, "release") || dec_take(d, "acquire") || dec_take(d, "cta") || dec_take(d, "cluster") ||
                 dec_take(d, "noComplete"))
            continue;
        else if (dec_take(d, "shared") || dec_take(d, "shared::cta") || dec_take(d, "shared::cluster"))
            space = SP_SHARED;
        else if (mode == 6 && dec_take(d, "parity"))
            x->mode2 = 1;
        else if ((mode == 2 || mode == 3) && dec_take(d, "expect_tx"))
            x->mode2 = 1;
        else
            break;
    }
    if (!dec_take(d, "b64")) dec_unknown(d);
    u32 a, b = N, c = N, to = N;
    switch (mode) {
    case 0:
    case 4:
    case 5:
        dec_count(d, 2, 2);
        a = address_row(d, dec_operand(d, 0));
        b = dec_src_bytes(d, dec_operand(d, 1), 4, false);
        break;
    case 1:
        dec_count(d, 1, 1);
        a = address_row(d, dec_operand(d, 0));
        break;
    case 2:
    case 3: { /* the token may be left out for another block's barrier */
        int at = dec_operand(d, 0)->kind == O_MEM ? 0 : 1;
        dec_count(d, at + 1 + x->mode2, at + 2);
        a = address_row(d, dec_operand(d, at));
        if (d->st->n > at + 1) {
            if (x->mode2)
                c = dec_src_bytes(d, dec_operand(d, at + 1), 4, false);
            else
                b = dec_src_bytes(d, dec_operand(d, at + 1), 4, false);
        }
        if (at && dec_operand(d, 0)->kind != O_SINK) to = dec_dst(d, dec_operand(d, 0), PT_B64);
        break;
    }
    case 6:
        dec_count(d, 3, 4);
        a = address_row(d, dec_operand(d, 1));
        b = x->mode2 ? dec_src_bytes(d, dec_operand(d, 2), 4, false) : dec_src_bytes(d, dec_operand(d, 2), 8, false);
        to = dec_dst_pred(d, dec_operand(d, 0));
        break;
    default:
        dec_count(d, 2, 2);
        a = dec_src_bytes(d, dec_operand(d, 1), 8, false);
        to = dec_dst(d, dec_operand(d, 0), PT_U32);
        break;
    }
    struct insn *in = dec_op(d, op_mbarrier, x);
    in->a = a, in->b = b, in->c = c, in->d = to;
    in->space = (u8)space;
}

static void dec_wgmma(struct decoder *d) {
    if (dec_take(d, "fence") || dec_take(d, "commit_group") || dec_take(d, "wait_group")) {
        if (!dec_take(d, "sync") || !dec_take(d, "aligned")) dec_unknown(d);
        dec_op(d, op_nop, NULL);
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
    d->c->serial = true;
    dec_op(d, op_store_async, x);
}

const struct opcode dec_async_opcodes[] = {
    {"cp", dec_cp, VM_C_ASYNC}, {"mbarrier", dec_mbarrier, VM_C_BARRIER}, {"wgmma", dec_wgmma, VM_C_MATRIX}, {0}};
