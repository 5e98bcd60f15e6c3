/* The decoder's table of matrix instructions. */
#include "verify/ptxvm/exec_decode.h"
#include "verify/ptxvm/mma.h"

#include <stdio.h>
#include <string.h>

#define N NO_ROW

static bool shape_word(struct decoder *d, int *m, int *n, int *k) {
    int used = 0;
    if (d->at >= d->n_parts || sscanf(d->part[d->at], "m%dn%dk%d%n", m, n, k, &used) != 3 || d->part[d->at][used])
        return false;
    d->at++;
    return *m > 0 && *n > 0 && *k > 0 && *m <= 256 && *n <= 256 && *k <= 256;
}

/* Types of matrices: the packed names of the converters do not occur, e2m1 and the like do. */
static enum ptx_type matrix_type(struct decoder *d) {
    if (dec_take(d, "e2m1")) return PT_E2M1X2;
    if (dec_take(d, "e2m3")) return PT_E2M3X2;
    if (dec_take(d, "e3m2")) return PT_E3M2X2;
    return dec_type(d);
}

static bool is_f8(enum ptx_type t) {
    return t == PT_E4M3 || t == PT_E5M2;
}
static bool is_mixed(enum ptx_type t) { /* of the kinds f8f6f4: a byte each */
    return is_f8(t) || t == PT_E2M3X2 || t == PT_E3M2X2 || t == PT_E2M1_BYTE;
}

/* How the words .kind, .block_scale and .scale_vec make variants of mma. */
enum mma_kind { KIND_NONE, KIND_F8F6F4, KIND_MXF8F6F4, KIND_MXF4, KIND_MXF4NVF4 };
struct mma_words {
    enum mma_kind kind;
    bool sparse, ordered, scaled;
    int vec;
};
static void kind_words(struct decoder *d, struct mma_words *w) {
    static const char *const names[] = {"kind::f8f6f4", "kind::mxf8f6f4", "kind::mxf4", "kind::mxf4nvf4"};
    for (int i = 0; i < 4; i++)
        if (!w->kind && dec_take(d, names[i])) w->kind = (enum mma_kind)(i + 1);
    if (!w->scaled && w->kind >= KIND_MXF8F6F4) {
        w->scaled = dec_take(d, "block_scale");
        if (!w->scaled) dec_unknown(d);
        w->vec = dec_take(d, "scale_vec::1X")   ? 1
                 : dec_take(d, "scale_vec::2X") ? 2
                 : dec_take(d, "scale_vec::4X") ? 4
                                                : 0;
    }
}

/* k: the columns of A as stored. */
static bool known_shape(int m, int n, int k, enum ptx_type a, enum ptx_type b, const struct mma_words *w) {
    bool same = a == b;
    bool i8 = (a == PT_S8 || a == PT_U8) && (b == PT_S8 || b == PT_U8),
         i4 = (a == PT_S4 || a == PT_U4) && (b == PT_S4 || b == PT_U4);
    if (n != 8 || (w->sparse && (m != 16 || a == PT_F64 || a == PT_B1))) return false;
    if (w->kind == KIND_F8F6F4 || w->kind == KIND_MXF8F6F4) return is_mixed(a) && is_mixed(b) && m == 16 && k == 32;
    if (w->kind) return a == PT_E2M1X2 && same && m == 16 && k == 64;
    if (a == PT_F16 && same) return (m == 16 && (k == 8 || k == 16)) || (m == 8 && k == 4);
    if (a == PT_BF16 && same) return m == 16 && (k == 8 || k == 16);
    if (a == PT_TF32 && same) return m == 16 && (k == 4 || k == 8);
    if (a == PT_F64 && same) return (m == 8 && k == 4) || (m == 16 && (k == 4 || k == 8 || k == 16));
    if (i8) return (m == 8 && k == 16) || (m == 16 && (k == 16 || k == 32));
    if (i4) return (m == 8 && k == 32) || (m == 16 && (k == 32 || k == 64));
    if (a == PT_B1 && same) return (m == 8 && k == 128) || (m == 16 && (k == 128 || k == 256));
    return is_f8(a) && is_f8(b) && m == 16 && (k == 32 || (k == 16 && !w->sparse));
}

/* The registers of operand i as 32-bit (or 64-bit) rows, appended to ops. */
static int registers(struct decoder *d, int i, int bytes, bool dst, u32 *ops, u8 *sizes, int at, int expected) {
    const struct ptx_operand *o = dec_operand(d, i);
    int n = dec_vector(d, o, bytes == 8 ? PT_B64 : PT_B32, dst, ops + at, sizes + at, 32);
    if (expected && n != expected) dec_fail(d, "operand %d has %d registers, expected %d", i + 1, n, expected);
    return n;
}

static struct ext *matrix_ext(struct decoder *d, const u32 *ops, const u8 *sizes, const int n[4], int more) {
    int total = n[0] + n[1] + n[2] + n[3] + more;
    struct ext *x = dec_ext(d, total);
    memcpy(x->ops, ops, (size_t)total * sizeof *ops);
    memcpy(x->sizes, sizes, (size_t)total);
    x->arg_from = arena_new(&d->m->arena, 4 * sizeof(u32));
    for (int i = 0; i < 4; i++) x->arg_from[i] = (u32)n[i];
    return x;
}

/* The operands that sparse and scaled products have behind d a b c: rows from ops[at]; returns how many. */
static int extra_operands(struct decoder *d, const struct mma_words *w, int k, enum ptx_type a, struct mma_extra *m,
                          u32 *ops, u8 *sizes, int at) {
    int first = at, o = 4;
    if (w->sparse) {
        int bits = vm_element_bits(a);
        m->chunk = (u8)(bits == 32 ? 2 : bits == 4 ? 8 : 4);
        m->ordered = w->ordered;
        int chunks = k / m->chunk;
        m->metadata = (u8)(chunks == 4 ? META_ONE : chunks == 16 ? META_ALL : bits >= 16 ? META_HALVES : META_ROWS);
        m->meta_at = (u8)at;
        sizes[at] = 4;
        ops[at++] = dec_src(d, dec_operand(d, o++), PT_B32);
        s64 f;
        int most = m->metadata == META_ONE ? 3 : m->metadata == META_ALL ? 0 : 1;
        if (!dec_constant(dec_operand(d, o++), &f) || f < 0 || f > most)
            dec_fail(d, "the sparsity selector is no constant from 0 to %d", most);
        m->selector = (u8)f;
    }
    if (w->scaled) {
        m->vec = (u8)w->vec;
        m->scale_at = (u8)at;
        for (int side = 0; side < 2; side++) {
            sizes[at] = 4;
            ops[at++] = dec_src(d, dec_operand(d, o++), PT_B32);
            const struct ptx_operand *pair = dec_operand(d, o++);
            if (pair->kind != O_VEC || pair->n != 2) dec_fail(d, "expected a byte and a thread selector in braces");
            for (int i = 0; i < 2; i++) {
                sizes[at] = 2;
                ops[at++] = dec_src(d, &pair->elems[i], PT_U16);
            }
        }
    }
    return at - first;
}

/* mma{.sp{::ordered_metadata}}.sync.aligned.shape.row.col{.kind{.block_scale{.scale_vec}}}{.satfinite}.d.a.b.c{.stype};
 * the kind may stand before the shape */
static void dec_mma(struct decoder *d) {
    int m, n, k;
    struct mma_words w = {0};
    w.ordered = dec_take(d, "sp::ordered_metadata");
    w.sparse = w.ordered || dec_take(d, "sp");
    if (!dec_take(d, "sync") || !dec_take(d, "aligned")) dec_unknown(d);
    kind_words(d, &w);
    if (!shape_word(d, &m, &n, &k)) dec_unknown(d);
    bool a_col = dec_take(d, "col");
    if (!a_col && !dec_take(d, "row")) dec_unknown(d);
    bool b_row = dec_take(d, "row");
    if (!b_row && !dec_take(d, "col")) dec_unknown(d);
    kind_words(d, &w);
    bool sat = dec_take(d, "satfinite");
    enum ptx_type dt = dec_type(d), at = matrix_type(d), bt = matrix_type(d), ct = dec_type(d);
    bool ue4m3 = w.scaled && dec_take(d, "ue4m3"), ue8m0 = w.scaled && !ue4m3 && dec_take(d, "ue8m0");
    if (w.kind == KIND_F8F6F4 || w.kind == KIND_MXF8F6F4) {
        if (at == PT_E2M1X2) at = PT_E2M1_BYTE;
        if (bt == PT_E2M1X2) bt = PT_E2M1_BYTE;
    }
    if (w.sparse && w.kind && !w.ordered) dec_unknown(d);
    if (w.scaled) {
        if (!w.vec) w.vec = w.kind == KIND_MXF8F6F4 ? 1 : w.kind == KIND_MXF4 ? 2 : 0;
        bool good = w.kind == KIND_MXF8F6F4 ? w.vec == 1 && ue8m0
                    : w.kind == KIND_MXF4   ? w.vec == 2 && ue8m0
                                            : (w.vec == 2 && ue8m0) || (w.vec == 4 && (ue4m3 || ue8m0));
        if (!good || dt != PT_F32) dec_unknown(d);
    }
    int mode2 = 0;
    if (at == PT_B1) {
        mode2 = dec_take(d, "and") ? 1 : dec_take(d, "xor") ? 2 : 0;
        if (!mode2 || !dec_take(d, "popc")) dec_unknown(d);
    }
    if (at == PT_F64) dec_rounding(d);
    int stored = w.sparse ? k / 2 : k;
    if ((w.sparse && k % 2) || !known_shape(m, n, stored, at, bt, &w)) dec_unknown(d);
    bool quad = m == 8 && k == 4 && at == PT_F16;
    if ((a_col || b_row) && !quad) dec_unknown(d);
    bool is_int = at == PT_S8 || at == PT_U8 || at == PT_S4 || at == PT_U4 || at == PT_B1,
         is_float = !is_int && at != PT_F64;
    if (is_int         ? dt != PT_S32 || ct != PT_S32
        : at == PT_F64 ? dt != PT_F64 || ct != PT_F64
                       : (dt != PT_F32 && dt != PT_F16) || (ct != PT_F32 && ct != PT_F16))
        dec_unknown(d);
    if (is_float && (at == PT_BF16 || at == PT_TF32) && (dt != PT_F32 || ct != PT_F32)) dec_unknown(d);
    if (is_float && dt != ct && (!quad || ct == PT_F32)) dec_unknown(d);
    if (is_f8(at) && w.sparse && !w.kind && dt == PT_F16) dec_unknown(d);
    if (sat && (!is_int || at == PT_B1)) dec_unknown(d);
    int operands = 4 + 2 * w.sparse + 4 * w.scaled;
    dec_count(d, operands, operands);
    int bytes = at == PT_F64 ? 8 : 4, nd, na, nb, nc;
    nd = quad ? (dt == PT_F32 ? 8 : 4) : m / 4 / (dt == PT_F16 ? 2 : 1);
    nc = quad ? (ct == PT_F32 ? 8 : 4) : m / 4 / (ct == PT_F16 ? 2 : 1);
    na = quad ? 2 : m * stored * vm_element_bits(at) / 32 / (8 * bytes);
    nb = quad ? 2 : n * k * vm_element_bits(bt) / 32 / (8 * bytes);
    u32 ops[128];
    u8 sizes[128];
    int counts[4] = {nd, na, nb, nc}, total = nd + na + nb + nc;
    registers(d, 1, bytes, false, ops, sizes, nd, na);
    registers(d, 2, bytes, false, ops, sizes, nd + na, nb);
    registers(d, 3, bytes, false, ops, sizes, nd + na + nb, nc);
    struct mma_extra *extra = w.sparse || w.scaled ? arena_new(&d->m->arena, sizeof *extra) : NULL;
    int more = extra ? extra_operands(d, &w, k, at, extra, ops, sizes, total) : 0;
    if (extra) extra->stype = ue4m3 ? PT_E4M3 : PT_UE8M0X2;
    registers(d, 0, bytes, true, ops, sizes, 0, nd);
    struct ext *x = matrix_ext(d, ops, sizes, counts, more);
    x->mma = extra;
    x->m = m, x->nn = n, x->k = k;
    x->type = (u8)at, x->type2 = (u8)bt, x->type3 = (u8)ct, x->type4 = (u8)dt;
    x->mode = sat;
    x->mode2 = (u8)mode2;
    x->mode3 = (u8)(a_col | b_row << 1);
    x->order = quad ? 2 : 0;
    dec_op(d, op_mma, x);
}

static bool wmma_shape(int m, int n, int k, enum ptx_type t) {
    bool big = (m == 16 && n == 16) || (m == 32 && n == 8) || (m == 8 && n == 32);
    if (t == PT_F16 || t == PT_BF16 || t == PT_S8 || t == PT_U8) return big && k == 16;
    if (t == PT_TF32) return m == 16 && n == 16 && k == 8;
    if (t == PT_F64) return m == 8 && n == 8 && k == 4;
    if (t == PT_S4 || t == PT_U4) return m == 8 && n == 8 && k == 32;
    return t == PT_B1 && m == 8 && n == 8 && k == 128;
}

static int space_word(struct decoder *d) {
    if (dec_take(d, "global")) return SP_GLOBAL;
    if (dec_take(d, "shared") || dec_take(d, "shared::cta")) return SP_SHARED;
    return SP_GENERIC;
}

static void dec_wmma_memory(struct decoder *d, bool store) {
    int which = dec_take(d, "a") ? 0 : dec_take(d, "b") ? 1 : dec_take(d, "c") || dec_take(d, "d") ? 2 : 3, m, n, k;
    if (which == 3 || !dec_take(d, "sync") || !dec_take(d, "aligned")) dec_unknown(d);
    bool col = dec_take(d, "col");
    if (!col && !dec_take(d, "row")) dec_unknown(d);
    if (!shape_word(d, &m, &n, &k)) dec_unknown(d);
    int space = space_word(d);
    enum ptx_type t = dec_type(d);
    if (which < 2 ? !wmma_shape(m, n, k, t) : t != PT_F16 && t != PT_F32 && t != PT_S32 && t != PT_F64) dec_unknown(d);
    dec_count(d, 2, 3);
    u32 ops[32];
    u8 sizes[32];
    int bytes = t == PT_F64 ? 8 : 4;
    int n_regs = registers(d, store ? 1 : 0, bytes, !store, ops, sizes, 0, 0);
    struct ext *x = dec_ext(d, n_regs);
    memcpy(x->ops, ops, (size_t)n_regs * sizeof *ops);
    memcpy(x->sizes, sizes, (size_t)n_regs);
    x->m = which == 1 ? k : m;
    x->nn = which == 0 ? k : n;
    x->type = (u8)t;
    x->mode = col;
    if (n_regs * bytes * 8 / vm_element_bits(t) * 32 < x->m * x->nn)
        dec_fail(d, "%d registers do not hold the matrix", n_regs);
    u32 stride = d->st->n == 3 ? dec_src_bytes(d, dec_operand(d, 2), 4, false) : N;
    d->cls = store ? VM_C_STORE : VM_C_LOAD;
    struct insn *in = dec_op(d, store ? op_wmma_store : op_wmma_load, x);
    dec_address(d, dec_operand(d, store ? 0 : 1), in, x, space);
    in->b = stride;
}

static void dec_wmma(struct decoder *d) {
    if (dec_take(d, "load")) {
        dec_wmma_memory(d, false);
        return;
    }
    if (dec_take(d, "store")) {
        dec_wmma_memory(d, true);
        return;
    }
    int m, n, k, mode2 = 0;
    if (!dec_take(d, "mma")) dec_unknown(d);
    if (dec_take(d, "xor"))
        mode2 = 2;
    else if (dec_take(d, "and"))
        mode2 = 1;
    if (mode2 && !dec_take(d, "popc")) dec_unknown(d);
    if (!dec_take(d, "sync") || !dec_take(d, "aligned")) dec_unknown(d);
    for (int i = 0; i < 2; i++)
        if (!dec_take(d, "row") && !dec_take(d, "col")) dec_unknown(d);
    if (!shape_word(d, &m, &n, &k)) dec_unknown(d);
    dec_rounding(d);
    enum ptx_type t[4] = {dec_type(d), 0, 0, 0};
    t[1] = dec_type(d);
    t[2] = dec_type_if(d);
    enum ptx_type dt = t[0], at, bt, ct;
    if (t[2] == PT_NONE)
        at = bt = PT_F16, ct = t[1];
    else
        at = t[1], bt = t[2], ct = dec_type(d);
    bool sat = dec_take(d, "satfinite");
    bool is_int = at == PT_S8 || at == PT_U8 || at == PT_S4 || at == PT_U4 || at == PT_B1;
    if (!wmma_shape(m, n, k, at) || !wmma_shape(m, n, k, bt) || (mode2 != 0) != (at == PT_B1)) dec_unknown(d);
    if (sat && (!is_int || at == PT_B1)) dec_unknown(d); /* of floats it went with PTX 6.5 */
    if (is_int         ? dt != PT_S32 || ct != PT_S32
        : at == PT_F64 ? dt != PT_F64 || ct != PT_F64
                       : (dt != PT_F32 && dt != PT_F16) || (ct != PT_F32 && ct != PT_F16))
        dec_unknown(d);
    dec_count(d, 4, 4);
    u32 ops[128];
    u8 sizes[128];
    int counts[4], total = 0, bytes = at == PT_F64 ? 8 : 4;
    int order[4] = {1, 2, 3, 0};
    const struct ptx_operand *o0 = dec_operand(d, 0);
    counts[0] = o0->kind == O_VEC ? o0->n : 1;
    total = counts[0];
    if (total > 32) dec_fail(d, "too many registers");
    for (int i = 0; i < 3; i++) {
        counts[order[i]] = registers(d, order[i], bytes, false, ops, sizes, total, 0);
        total += counts[order[i]];
    }
    registers(d, 0, bytes, true, ops, sizes, 0, counts[0]);
    struct ext *x = matrix_ext(d, ops, sizes, counts, 0);
    x->m = m, x->nn = n, x->k = k;
    x->type = (u8)at, x->type2 = (u8)bt, x->type3 = (u8)ct, x->type4 = (u8)dt;
    x->mode = sat;
    x->mode2 = (u8)mode2;
    x->order = 1;
    enum ptx_type types[4] = {dt, at, bt, ct};
    int size[4] = {m * n, m * k, k * n, m * n};
    for (int i = 0; i < 4; i++)
        if (counts[i] * bytes * 8 / vm_element_bits(types[i]) * 32 < size[i])
            dec_fail(d, "operand %d has too few registers", i + 1);
    dec_op(d, op_mma, x);
}

/* {ld,st}matrix.sync.aligned.m8n8.num{.trans}{.ss}.b16; with bytes: loads .m16n16.num.trans{.ss}.{b8 | b8x16.packed}
 * and .m8n16.num{.ss}.b8x16.packed, stores .m16n8.num.trans{.ss}.b8 */
static void dec_ldmatrix(struct decoder *d) {
    bool store = d->part[0][0] == 's';
    if (!dec_take(d, "sync") || !dec_take(d, "aligned")) dec_unknown(d);
    bool m8n8 = dec_take(d, "m8n8"), m16n16 = !m8n8 && !store && dec_take(d, "m16n16"),
         m8n16 = !m8n8 && !store && !m16n16 && dec_take(d, "m8n16"), m16n8 = !m8n8 && store && dec_take(d, "m16n8");
    if (!m8n8 && !m16n16 && !m8n16 && !m16n8) dec_unknown(d);
    int n = dec_take(d, "x1") ? 1 : dec_take(d, "x2") ? 2 : dec_take(d, "x4") && !m16n16 ? 4 : 0;
    bool trans = dec_take(d, "trans");
    int space = space_word(d), bytes = 16;
    if (!n || (m8n16 ? trans : !m8n8 && !trans)) dec_unknown(d);
    if (m8n8) {
        if (!dec_take(d, "b16")) dec_unknown(d);
    } else if (!m8n16 && dec_take(d, "b8")) {
    } else if (!store && dec_take(d, "b8x16")) {
        bytes = dec_take(d, "b6x16_p32") ? 12 : dec_take(d, "b4x16_p64") ? 8 : 0;
    } else {
        dec_unknown(d);
    }
    if (!bytes) dec_unknown(d);
    if (m16n16) n *= 2;
    dec_count(d, 2, 2);
    u32 ops[8];
    u8 sizes[8];
    registers(d, store ? 1 : 0, 4, !store, ops, sizes, 0, n);
    struct ext *x = dec_ext(d, n);
    memcpy(x->ops, ops, (size_t)n * sizeof *ops);
    memcpy(x->sizes, sizes, (size_t)n);
    x->mode = trans;
    x->mode2 = m8n8 ? 16 : 8;
    x->bytes = (u8)bytes;
    d->cls = store ? VM_C_STORE : VM_C_LOAD;
    struct insn *in = dec_op(d, store ? op_stmatrix : op_ldmatrix, x);
    dec_address(d, dec_operand(d, store ? 0 : 1), in, x, space);
}

static void dec_movmatrix(struct decoder *d) {
    if (!dec_take(d, "sync") || !dec_take(d, "aligned") || !dec_take(d, "m8n8") || !dec_take(d, "trans") ||
        !dec_take(d, "b16"))
        dec_unknown(d);
    dec_count(d, 2, 2);
    u32 a = dec_src(d, dec_operand(d, 1), PT_B32), r = dec_dst(d, dec_operand(d, 0), PT_B32);
    struct insn *in = dec_op(d, op_movmatrix, dec_ext(d, 0));
    in->a = a, in->d = r;
}

const struct opcode dec_matrix_opcodes[] = {
    {"mma", dec_mma, VM_C_MATRIX},           {"wmma", dec_wmma, VM_C_MATRIX},
    {"ldmatrix", dec_ldmatrix, VM_C_LOAD},   {"stmatrix", dec_ldmatrix, VM_C_STORE},
    {"movmatrix", dec_movmatrix, VM_C_WARP}, {0},
};
