/* The decoder's tables of moves and conversions. */
#include "verify/ptxvm/exec_decode.h"

#include <string.h>

#define N NO_ROW

/* ---- mov: scalars, addresses, special registers, packing and unpacking ---- */
static void unpack(struct decoder *d, const struct ptx_operand *vec, u32 from, int bytes) {
    int each = bytes / vec->n;
    if (each * vec->n != bytes || each < 2) {
        if (!(bytes == 4 && vec->n == 4) && !(bytes == 2 && vec->n == 2))
            dec_fail(d, "%d elements out of %d bits", vec->n, bytes * 8);
    }
    for (int i = 0; i < vec->n; i++) {
        const struct ptx_operand *e = &vec->elems[i];
        if (e->kind == O_SINK) continue;
        if (each == 1) { /* bytes: registers of 8 bits in rows of 16 */
            u32 half = from;
            if (bytes == 4) {
                half = dec_temp(d, 2);
                dec_pure(d, i & 2 ? ROW_HI_32_16 : ROW_TRUNC_32_16, 2, half, from, N, N);
            }
            u32 byte = dec_temp(d, 2);
            if (i & 1)
                dec_pure(d, ROW_SHR_U16, 2, byte, half, dec_const(d, 4, 8), N);
            else
                dec_pure(d, ROW_ZEXT_8_16, 2, byte, half, N, N);
            dec_row(d, ROW_MOV_16, 2, dec_dst(d, e, PT_B8), byte, N, N);
            continue;
        }
        enum ptx_type t = each == 2 ? PT_B16 : each == 4 ? PT_B32 : PT_B64;
        int op = bytes == 4  ? (i ? ROW_HI_32_16 : ROW_TRUNC_32_16)
                 : each == 4 ? (i ? ROW_HI_64_32 : ROW_TRUNC_64_32)
                 : i == 0    ? ROW_TRUNC_64_16
                 : i == 1    ? ROW_EX1_64_16
                 : i == 2    ? ROW_EX2_64_16
                             : ROW_EX3_64_16;
        dec_row(d, op, each, dec_dst(d, e, t), from, N, N);
    }
}

static void pack(struct decoder *d, const struct ptx_operand *vec, u32 to, int bytes) {
    int each = bytes / vec->n;
    u32 s[8];
    if (vec->n > 8 || each * vec->n != bytes || (vec->n & (vec->n - 1)) || vec->n < 2)
        dec_fail(d, "%d elements into %d bits", vec->n, bytes * 8);
    for (int i = 0; i < vec->n; i++) s[i] = dec_src_bytes(d, &vec->elems[i], each, false);
    int n = vec->n;
    for (int have = each; n > 1; have *= 2, n /= 2) {
        for (int i = 0; i < n / 2; i++) {
            int op = have == 1 ? ROW_PACK_8_16 : have == 2 ? ROW_PACK_16_32 : ROW_PACK_32_64;
            bool last = n == 2;
            u32 r = last ? to : dec_temp(d, have * 2);
            if (last)
                dec_row(d, op, have * 2, r, s[2 * i], s[2 * i + 1], N);
            else
                dec_pure(d, op, have * 2, r, s[2 * i], s[2 * i + 1], N);
            s[i] = r;
        }
    }
}

/* b128: {lo, hi} of 64 bits each way; the rows of 128 bits are two 64-bit rows behind each other, see op_mov128 */
enum step op_mov128(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)w;
    const struct ext *x = in->ext;
    struct frame *f = s->frame;
    EACH_LANE(i, mask) {
        if (x->mode == 0)
            memcpy((u8 *)row(f, in->d) + 16 * i, (u8 *)row(f, in->a) + 16 * i, 16);
        else if (x->mode == 1) {
            memcpy((u8 *)row(f, in->d) + 16 * i, (u64 *)row(f, in->a) + i, 8);
            memcpy((u8 *)row(f, in->d) + 16 * i + 8, (u64 *)row(f, in->b) + i, 8);
        } else {
            u64 part[2];
            memcpy(part, (u8 *)row(f, in->a) + 16 * i, 16);
            for (int k = 0; k < 2; k++)
                if (x->ops[k] != NO_ROW) ((u64 *)row(f, x->ops[k]))[i] = part[k];
        }
    }
    return STEP_NEXT;
}

static void mov128(struct decoder *d) {
    const struct ptx_operand *to = dec_operand(d, 0), *from = dec_operand(d, 1);
    if (to->kind == O_VEC && to->n == 2) {
        struct ext *x = dec_ext(d, 2);
        x->mode = 2;
        for (int k = 0; k < 2; k++) x->ops[k] = to->elems[k].kind == O_SINK ? N : dec_dst(d, &to->elems[k], PT_B64);
        u32 a = dec_src(d, from, PT_B128);
        dec_op(d, op_mov128, x)->a = a;
        return;
    }
    struct ext *x = dec_ext(d, 0);
    u32 a, b = N;
    if (from->kind == O_VEC && from->n == 2) {
        x->mode = 1;
        a = dec_src(d, &from->elems[0], PT_B64);
        b = dec_src(d, &from->elems[1], PT_B64);
    } else {
        a = dec_src(d, from, PT_B128);
    }
    u32 r = dec_dst(d, to, PT_B128);
    struct insn *in = dec_op(d, op_mov128, x);
    in->a = a, in->b = b, in->d = r;
}

static void dec_mov(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    dec_count(d, 2, 2);
    const struct ptx_operand *to = dec_operand(d, 0), *from = dec_operand(d, 1);
    if (t == PT_PRED) {
        bool np;
        u32 p = dec_pred(d, from, &np);
        dec_row(d, ROW_P_MOV, 0, dec_dst_pred(d, to), p, N, N)->imm = np;
        return;
    }
    if (t == PT_B128) {
        mov128(d);
        return;
    }
    int n = ptx_type_bytes(t);
    if (to->kind == O_VEC) {
        u32 s = dec_src_bytes(d, from, n, false);
        unpack(d, to, s, n);
        return;
    }
    if (from->kind == O_VEC) {
        pack(d, from, dec_dst(d, to, t), n);
        return;
    }
    if (n != 2 && n != 4 && n != 8) dec_unknown(d);
    u32 s = dec_src(d, from, t);
    dec_row(d, BY_SIZE(MOV, n), n, dec_dst(d, to, t), s, N, N);
}

static int space_word(struct decoder *d) {
    if (dec_take(d, "global")) return SP_GLOBAL;
    if (dec_take(d, "const")) return SP_CONST;
    if (dec_take(d, "local")) return SP_LOCAL;
    if (dec_take(d, "shared::cta") || dec_take(d, "shared")) return SP_SHARED;
    if (dec_take(d, "shared::cluster")) return SP_SHARED | 0x80;
    if (dec_take(d, "param::entry") || dec_take(d, "param")) return SP_PARAM;
    return -1;
}

static void dec_cvta(struct decoder *d) {
    bool to = dec_take(d, "to");
    int space = space_word(d);
    if (space < 0) dec_unknown(d);
    space &= 0x7f;
    enum ptx_type t = dec_type(d);
    if (t != PT_U64) dec_unknown(d);
    dec_count(d, 2, 2);
    u32 s = dec_src(d, dec_operand(d, 1), t), r = dec_dst(d, dec_operand(d, 0), t);
    u64 base = space == SP_SHARED  ? VM_SHARED_WINDOW
               : space == SP_LOCAL ? VM_LOCAL_WINDOW
               : space == SP_PARAM ? VM_PARAM_WINDOW
                                   : 0;
    if (base)
        dec_row(d, ROW_ADD_64, 8, r, s, dec_const(d, 8, to ? 0 - base : base), N);
    else
        dec_row(d, ROW_MOV_64, 8, r, s, N, N);
}

static void dec_isspacep(struct decoder *d) {
    int space = space_word(d);
    if (space < 0) dec_unknown(d);
    dec_count(d, 2, 2);
    u32 s = dec_src(d, dec_operand(d, 1), PT_U64);
    dec_row(d, ROW_ISSPACEP, 0, dec_dst_pred(d, dec_operand(d, 0)), s, N, N)->imm = space;
}

/* Textures, samplers and surfaces are unknown to the machine, and taking the address of one is an error: nothing points
 * to any. */
static void dec_istypep(struct decoder *d) {
    if (!dec_take(d, "texref") && !dec_take(d, "samplerref") && !dec_take(d, "surfref")) dec_unknown(d);
    dec_count(d, 2, 2);
    dec_src(d, dec_operand(d, 1), PT_U64);
    dec_row(d, ROW_P_MOV, 0, dec_dst_pred(d, dec_operand(d, 0)), dec_pred_const(d, false), N, N);
}

/* ---- cvt ---- */
static bool type_is_int(enum ptx_type t) {
    return t >= PT_U8 && t <= PT_S64;
}
static bool narrow_pair(enum ptx_type t) {
    return t == PT_E4M3X2 || t == PT_E5M2X2 || t == PT_E2M1X2 || t == PT_E2M3X2 || t == PT_E3M2X2 || t == PT_UE8M0X2;
}

static bool is_packed(enum ptx_type t) {
    return t == PT_F16X2 || t == PT_BF16X2 || narrow_pair(t);
}
static bool float_type(enum ptx_type t) {
    return t == PT_F16 || t == PT_BF16 || t == PT_F32 || t == PT_F64;
}

static int row_bytes(enum ptx_type t) {
    int n = ptx_type_bytes(t);
    return n == 1 ? 2 : n;
}

/* Integer to integer without saturation: extend or truncate; the row operation, or -1 for a plain move, -2 for none. */
static void int_to_int(struct decoder *d, enum ptx_type dt, enum ptx_type st) {
    int db = ptx_type_bytes(dt), sb = ptx_type_bytes(st);
    bool sgn = ptx_type_is_signed(st);
    u32 s = dec_src_bytes(d, dec_operand(d, 1), row_bytes(st), sgn);
    if (sb == 1) {
        u32 z = dec_temp(d, 2);
        dec_pure(d, sgn ? ROW_SEXT_8_16 : ROW_ZEXT_8_16, 2, z, s, N, N);
        s = z;
        sb = 2;
    }
    if (db == 1) { /* the value of 8 bits, extended to the register by its own sign */
        u32 h = s;
        if (sb != 2) {
            h = dec_temp(d, 2);
            dec_pure(d, sb == 4 ? ROW_TRUNC_32_16 : ROW_TRUNC_64_16, 2, h, s, N, N);
        }
        dec_row(d, ptx_type_is_signed(dt) ? ROW_SEXT_8_16 : ROW_ZEXT_8_16, 2, dec_dst(d, dec_operand(d, 0), dt), h, N,
                N);
        return;
    }
    u32 r = dec_dst(d, dec_operand(d, 0), dt);
    int op = db == sb  ? BY_SIZE(MOV, db)
             : sb == 2 ? (db == 4 ? (sgn ? ROW_SEXT_16_32 : ROW_ZEXT_16_32)
                          : sgn   ? ROW_SEXT_16_64
                                  : ROW_ZEXT_16_64)
             : sb == 4 ? (db == 2 ? ROW_TRUNC_32_16
                          : sgn   ? ROW_SEXT_32_64
                                  : ROW_ZEXT_32_64)
                       : (db == 2 ? ROW_TRUNC_64_16 : ROW_TRUNC_64_32);
    dec_row(d, op, db, r, s, N, N);
}

static void cvt_general(struct decoder *d, struct cvt v, const struct ptx_operand *to, u32 a, u32 b) {
    struct cvt *keep = arena_new(&d->m->arena, sizeof *keep);
    v.from_bytes = (u8)row_bytes(v.from);
    v.to_bytes = (u8)row_bytes(v.to);
    *keep = v;
    struct insn *in = dec_float(d, ROW_CVT_ANY, v.to_bytes, dec_dst(d, to, v.to), a, b, N, 0);
    in->ext = keep;
}

static void cvt_pack(struct decoder *d) { /* cvt.pack.sat.convertType.s32{.b32} d, a, b{, c} */
    if (!dec_take(d, "sat")) dec_unknown(d);
    enum ptx_type ct = dec_type(d);
    int bits = ct == PT_S16 || ct == PT_U16 ? 16
               : ct == PT_S8 || ct == PT_U8 ? 8
               : ct == PT_S4 || ct == PT_U4 ? 4
               : ct == PT_S2 || ct == PT_U2 ? 2
                                            : 0;
    if (!bits || dec_type(d) != PT_S32) dec_unknown(d);
    bool has_c = bits < 16;
    if (has_c && !dec_take(d, "b32")) dec_unknown(d);
    dec_count(d, has_c ? 4 : 3, has_c ? 4 : 3);
    struct ext *x = dec_ext(d, 3);
    x->nn = bits;
    x->mode = ptx_type_is_signed(ct);
    for (int k = 0; k < 2; k++) x->ops[k] = dec_src(d, dec_operand(d, k + 1), PT_S32);
    x->ops[2] = has_c ? dec_src(d, dec_operand(d, 3), PT_B32) : N;
    u32 r = dec_dst(d, dec_operand(d, 0), PT_B32);
    dec_op(d, op_cvt_pack, x)->d = r;
}

/* cvt.rs of two values and random bits, or of four in a vector */
static void cvt_rs(struct decoder *d, const struct cvt *v) {
    bool four =
        v->to == PT_E2M1X4 || v->to == PT_E2M3X4 || v->to == PT_E3M2X4 || v->to == PT_E4M3X4 || v->to == PT_E5M2X4;
    if (v->from != PT_F32 || v->sat || v->ftz || (!four && v->to != PT_F16X2 && v->to != PT_BF16X2) ||
        (four && !v->satfinite))
        dec_unknown(d);
    dec_count(d, four ? 3 : 4, four ? 3 : 4);
    struct ext *x = dec_ext(d, four ? 5 : 3);
    x->type = (u8)v->to;
    x->mode = (u8)(v->relu | v->satfinite << 1);
    u8 sizes[4];
    if (four && dec_vector(d, dec_operand(d, 1), PT_F32, false, x->ops, sizes, 4) != 4)
        dec_fail(d, "expected 4 values");
    for (int k = 0; !four && k < 2; k++) x->ops[k] = dec_src(d, dec_operand(d, k + 1), PT_F32);
    x->ops[x->n - 1] = dec_src(d, dec_operand(d, four ? 2 : 3), PT_B32);
    int bytes = row_bytes(v->to);
    u32 r = dec_dst(d, dec_operand(d, 0), v->to);
    struct insn *in = dec_op(d, op_cvt_rs, x);
    in->d = r;
    in->dsize = (u8)bytes;
}

/* The modifiers that the packed and narrow formats allow and demand. */
static bool packed_form(const struct cvt *v, bool two) {
    bool pair16 = v->to == PT_F16X2 || v->to == PT_BF16X2;
    if (v->integer || v->sat || v->ftz) return false;
    if (v->to == PT_UE8M0X2)
        return (v->rounding == 'z' || v->rounding == 'p') && !v->relu && (two || v->from == PT_BF16X2);
    if (narrow_pair(v->to))
        return v->rounding == 'n' && v->satfinite && (two || v->from == PT_F16X2 || v->from == PT_BF16X2);
    if (pair16 && two) return v->rounding == 'n' || v->rounding == 'z';
    return pair16 && v->rounding == 'n' && !v->satfinite &&
           (v->from == PT_UE8M0X2 ? v->to == PT_BF16X2 && !v->relu : narrow_pair(v->from) && v->to == PT_F16X2);
}

static void dec_cvt(struct decoder *d) {
    if (dec_take(d, "pack")) {
        cvt_pack(d);
        return;
    }
    struct cvt v = {.rounding = 0};
    for (;;) {
        if (dec_take(d, "rn"))
            v.rounding = 'n';
        else if (dec_take(d, "rz"))
            v.rounding = 'z';
        else if (dec_take(d, "rm"))
            v.rounding = 'm';
        else if (dec_take(d, "rp"))
            v.rounding = 'p';
        else if (dec_take(d, "rna"))
            v.rounding = 'a';
        else if (dec_take(d, "rs"))
            v.rounding = 's';
        else if (dec_take(d, "rni"))
            v.rounding = 'n', v.integer = true;
        else if (dec_take(d, "rzi"))
            v.rounding = 'z', v.integer = true;
        else if (dec_take(d, "rmi"))
            v.rounding = 'm', v.integer = true;
        else if (dec_take(d, "rpi"))
            v.rounding = 'p', v.integer = true;
        else if (dec_take(d, "ftz"))
            v.ftz = true;
        else if (dec_take(d, "sat"))
            v.sat = true;
        else if (dec_take(d, "relu"))
            v.relu = true;
        else if (dec_take(d, "satfinite"))
            v.satfinite = true;
        else
            break;
    }
    v.to = dec_type(d);
    v.from = dec_type(d);
    const struct ptx_operand *to = dec_operand(d, 0);
    d->cls = VM_C_CONVERT;
    if (v.rounding == 's') {
        cvt_rs(d, &v);
        return;
    }
    bool two = d->st->n == 3;
    dec_count(d, 2, 3);
    if ((two || is_packed(v.to) || is_packed(v.from)) && !packed_form(&v, two)) dec_unknown(d);
    bool plain = !v.sat && !v.ftz && !v.relu && !v.satfinite;
    if (two) { /* two f32 (or the halves) into one packed register: the first source is the upper half */
        bool pair16 = v.to == PT_F16X2 || v.to == PT_BF16X2;
        if (v.from != PT_F32) dec_unknown(d);
        u32 a = dec_src(d, dec_operand(d, 1), PT_F32), b = dec_src(d, dec_operand(d, 2), PT_F32);
        if (pair16 && plain && v.rounding == 'n') {
            u32 h[2] = {dec_temp(d, 2), dec_temp(d, 2)};
            int op = v.to == PT_F16X2 ? ROW_CVT_F16_F32 : ROW_CVT_BF16_F32;
            dec_pure(d, op, 2, h[0], b, N, N)->fp = 0;
            dec_pure(d, op, 2, h[1], a, N, N)->fp = 0;
            dec_row(d, ROW_PACK_16_32, 4, dec_dst(d, to, PT_B32), h[0], h[1], N);
            return;
        }
        cvt_general(d, v, to, a, b);
        return;
    }
    if (type_is_int(v.to) && type_is_int(v.from) && !v.sat) {
        int_to_int(d, v.to, v.from);
        return;
    }
    if (v.to >= PT_B8 && v.to <= PT_B128) dec_unknown(d);
    if (v.from >= PT_B8 && v.from <= PT_B128) dec_unknown(d);
    u32 s = dec_src(d, dec_operand(d, 1), v.from);
    int op = -1;
    bool rn = v.rounding == 'n' && !v.integer;
    if (plain) {
        if (v.to == PT_F16 && v.from == PT_F32 && rn) op = ROW_CVT_F16_F32;
        if (v.to == PT_BF16 && v.from == PT_F32 && rn) op = ROW_CVT_BF16_F32;
        if (v.to == PT_F32 && v.from == PT_F16) op = ROW_CVT_F32_F16;
        if (v.to == PT_F32 && v.from == PT_BF16) op = ROW_CVT_F32_BF16;
        if (v.to == PT_F32 && rn)
            op = v.from == PT_S32   ? ROW_CVT_F32_S32
                 : v.from == PT_U32 ? ROW_CVT_F32_U32
                 : v.from == PT_S64 ? ROW_CVT_F32_S64
                 : v.from == PT_F64 ? ROW_CVT_F32_F64
                                    : op;
        if (v.to == PT_F64 && (rn || v.from == PT_F32))
            op = v.from == PT_S32                 ? ROW_CVT_F64_S32
                 : v.from == PT_U32               ? ROW_CVT_F64_U32
                 : v.from == PT_S64               ? ROW_CVT_F64_S64
                 : v.from == PT_F32 && !v.integer ? ROW_CVT_F64_F32
                                                  : op;
        if (v.to == PT_S32 && v.from == PT_F32 && v.integer && v.rounding == 'z') op = ROW_CVT_RZI_S32_F32;
    }
    if (op >= 0) {
        dec_float(d, op, row_bytes(v.to), dec_dst(d, to, v.to), s, N, N, 0);
        return;
    }
    bool scalar =
        (type_is_int(v.to) || float_type(v.to) || v.to == PT_TF32) && (type_is_int(v.from) || float_type(v.from));
    if (!scalar && !is_packed(v.to)) dec_unknown(d);
    if (v.to == PT_TF32 ? v.from != PT_F32 || v.integer || v.sat || v.ftz || !strchr("nza", v.rounding) || !v.rounding
                        : v.rounding == 'a')
        dec_unknown(d);
    if (scalar && (v.relu || v.satfinite) &&
        (v.from != PT_F32 || (v.to != PT_F16 && v.to != PT_BF16 && v.to != PT_TF32)))
        dec_unknown(d);
    if (v.ftz && v.from != PT_F32 && v.to != PT_F32) dec_unknown(d);
    if (ptx_type_is_float(v.from) && type_is_int(v.to) && !v.integer)
        dec_fail(d, "a conversion to an integer needs .rni, .rzi, .rmi or .rpi");
    cvt_general(d, v, to, s, N);
}

const struct opcode dec_convert_opcodes[] = {
    {"mov", dec_mov, VM_C_MOVE},
    {"cvta", dec_cvta, VM_C_MOVE},
    {"isspacep", dec_isspacep, VM_C_COMPARE},
    {"istypep", dec_istypep, VM_C_COMPARE},
    {"cvt", dec_cvt, VM_C_CONVERT},
    {0},
};
