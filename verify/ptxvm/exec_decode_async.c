/* The decoder's table of asynchronous copies. */
#include "verify/ptxvm/exec_decode.h"

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
        if (!all && (!dec_constant(dec_operand(d, 0), &n) || n < 0 || n > 1 << 20)) dec_fail(d, "expected a count of groups");
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
    if (!dec_constant(dec_operand(d, 2), &bytes) || (bytes != 16 && (cg || (bytes != 4 && bytes != 8)))) dec_fail(d, "a copy of 4, 8 or 16 bytes (.cg: 16)");
    x->bytes = (u8)bytes;
    if (d->st->n >= 4) {
        const struct ptx_operand *o = dec_operand(d, 3);
        if (o->kind == O_REG && dec_reg_bytes(d, o) == 0) x->ops[1] = dec_pred(d, o, NULL);
        else if (!(o->kind == O_REG && dec_reg_bytes(d, o) == 8)) x->ops[0] = dec_src_bytes(d, o, 4, false); /* 64 bits: a cache policy */
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

static void dec_cp(struct decoder *d) {
    if (!dec_take(d, "async")) dec_unknown(d);
    dec_cp_async(d);
}

const struct opcode dec_async_opcodes[] = {{"cp", dec_cp, VM_C_ASYNC}, {0}};
