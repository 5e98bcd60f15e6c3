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

/* ---- cvt ---- */
static bool type_is_int(enum ptx_type t) {
    return t >= PT_U8 && t <= PT_S64;
}
static bool narrow_pair(enum ptx_type t) {
    return t == PT_E4M3X2 || t == PT_E5M2X2 || t == PT_E2M1X2 || t == PT_E2M3X2 || t == PT_E3M2X2 || t == PT_UE8M0X2;
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

static void dec_cvt(struct decoder *d) {
    if (dec_take(d, "pack")) { /* cvt.pack.sat.convertType.abType{.cType} */
        if (!dec_take(d, "sat")) dec_unknown(d);
        enum ptx_type ct = dec_type(d), at = dec_type(d);
        if (at != PT_S32) dec_unknown(d);
        bool has_c = dec_take(d, "b32");
        struct cvt v = {.from = PT_S32, .to = ct, .from_bytes = 4, .rounding = 'n', .sat = true};
        u32 a = dec_src(d, dec_operand(d, 1), PT_S32), b = dec_src(d, dec_operand(d, 2), PT_S32), part[2];
        int bytes = ptx_type_bytes(ct);
        if (bytes > 2 || (bytes == 2 && has_c)) dec_unknown(d);
        for (int k = 0; k < 2; k++) {
            struct cvt *keep = arena_new(&d->m->arena, sizeof *keep);
            *keep = v;
            keep->to_bytes = 2;
            part[k] = dec_temp(d, 2);
            dec_pure(d, ROW_CVT_ANY, 2, part[k], k ? a : b, N, N)->ext = keep;
        }
        u32 r = dec_dst(d, dec_operand(d, 0), PT_B32);
        if (bytes == 2) {
            dec_row(d, ROW_PACK_16_32, 4, r, part[0], part[1], N);
            return;
        }
        u32 low = dec_temp(d, 2), c16 = dec_temp(d, 2);
        dec_pure(d, ROW_PACK_8_16, 2, low, part[0], part[1], N);
        if (has_c)
            dec_pure(d, ROW_TRUNC_32_16, 2, c16, dec_src(d, dec_operand(d, 3), PT_B32), N, N);
        else
            c16 = dec_const(d, 2, 0);
        dec_row(d, ROW_PACK_16_32, 4, r, low, c16, N);
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
    bool two = d->st->n == 3;
    dec_count(d, 2, 3);
    d->cls = VM_C_CONVERT;
    bool plain = !v.sat && !v.ftz && !v.relu && !v.satfinite;
    if (two) { /* two f32 (or the halves) into one packed register: the first source is the upper half */
        bool pair16 = v.to == PT_F16X2 || v.to == PT_BF16X2;
        if (v.from != PT_F32 || (!pair16 && !narrow_pair(v.to))) dec_unknown(d);
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
    bool known = (type_is_int(v.to) || v.to == PT_F16 || v.to == PT_BF16 || v.to == PT_F32 || v.to == PT_F64 ||
                  v.to == PT_TF32 || narrow_pair(v.to) || v.to == PT_F16X2 || v.to == PT_BF16X2) &&
                 (type_is_int(v.from) || v.from == PT_F16 || v.from == PT_BF16 || v.from == PT_F32 ||
                  v.from == PT_F64 || v.from == PT_F16X2 || v.from == PT_BF16X2 || narrow_pair(v.from));
    if (!known || (narrow_pair(v.from) && v.to != PT_F16X2 && v.to != PT_BF16X2) ||
        (narrow_pair(v.to) && v.from != PT_F16X2 && v.from != PT_BF16X2))
        dec_unknown(d);
    if (ptx_type_is_float(v.from) && type_is_int(v.to) && !v.integer)
        dec_fail(d, "a conversion to an integer needs .rni, .rzi, .rmi or .rpi");
    cvt_general(d, v, to, s, N);
}

const struct opcode dec_convert_opcodes[] = {
    {"mov", dec_mov, VM_C_MOVE},
    {"cvta", dec_cvta, VM_C_MOVE},
    {"isspacep", dec_isspacep, VM_C_COMPARE},
    {"cvt", dec_cvt, VM_C_CONVERT},
    {0},
};
