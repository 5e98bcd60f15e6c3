/* The decoder's tables of arithmetic, logic, comparison and selection. */
#include "verify/ptxvm/exec_decode.h"

#include <string.h>

#define N NO_ROW

static bool type_is_int(enum ptx_type t) {
    return t >= PT_U8 && t <= PT_S64;
}
static int bytes_of(struct decoder *d, enum ptx_type t) {
    int n = ptx_type_bytes(t);
    if (n != 2 && n != 4 && n != 8) dec_unknown(d);
    return n;
}

/* The result of a float operation with .sat, .relu or .ftz of halves: a temporary first, then the fix. */
struct float_mods {
    int rounding;
    bool ftz, sat, relu, nan, xorsign, approx, oob;
};
static struct float_mods float_mods(struct decoder *d) {
    struct float_mods m = {.rounding = -1};
    for (;;) {
        int r = dec_rounding(d);
        if (r >= 0)
            m.rounding = r;
        else if (dec_take(d, "ftz"))
            m.ftz = true;
        else if (dec_take(d, "sat"))
            m.sat = true;
        else if (dec_take(d, "relu"))
            m.relu = true;
        else if (dec_take(d, "NaN"))
            m.nan = true;
        else if (dec_take(d, "approx") || dec_take(d, "full"))
            m.approx = true;
        else
            return m;
    }
}
static int fp_of(const struct float_mods *m) {
    return (m->rounding < 0 ? 0 : m->rounding) | (m->ftz ? FP_FTZ : 0);
}

/* One float operation of any format on rows already made; n sources. */
static void float_op(struct decoder *d, enum ptx_type t, int op, const struct float_mods *m, u32 to, u32 a, u32 b,
                     u32 c) {
    int bytes = ptx_type_bytes(t);
    if (type_is_half(t) && m->ftz) {
        if (t != PT_F16 && t != PT_F16X2) dec_unknown(d);
        int z = t == PT_F16 ? ROW_FTZ_F16 : ROW_FTZ_F16X2;
        u32 *src[3] = {&a, &b, &c};
        for (int i = 0; i < 3; i++) {
            if (*src[i] == N) continue;
            u32 tmp = dec_temp(d, bytes);
            dec_pure(d, z, bytes, tmp, *src[i], N, N);
            *src[i] = tmp;
        }
    }
    int fix[3], n = 0;
    if (type_is_half(t) && m->ftz) fix[n++] = t == PT_F16 ? ROW_FTZ_F16 : ROW_FTZ_F16X2;
    if (m->sat) fix[n++] = t == PT_F32 ? ROW_SAT_F32 : type_is_half(t) ? BY_HALF(SAT, t) : -1;
    if (m->relu) fix[n++] = t == PT_F32 ? ROW_RELU_F32 : type_is_half(t) ? BY_HALF(RELU, t) : -1;
    if (n && fix[n - 1] < 0) dec_unknown(d);
    u32 at = n ? dec_temp(d, bytes) : to;
    int fp = type_is_half(t) ? 0 : fp_of(m);
    if (n)
        dec_pure(d, op, bytes, at, a, b, c)->fp = (u8)fp;
    else
        dec_float(d, op, bytes, at, a, b, c, fp);
    for (int i = 0; i < n; i++) {
        if (i < n - 1)
            dec_pure(d, fix[i], bytes, at, at, N, N)->fp = 0;
        else
            dec_float(d, fix[i], bytes, to, at, N, N, 0);
    }
}

/* f32x2: two f32 operations on the halves of 64-bit rows. */
static void f32x2(struct decoder *d, int op, const struct float_mods *m, int n_src) {
    u32 half[2];
    for (int h = 0; h < 2; h++) {
        u32 s[3] = {N, N, N};
        for (int i = 0; i < n_src; i++) {
            u32 r = dec_src_bytes(d, dec_operand(d, i + 1), 8, false);
            s[i] = dec_temp(d, 4);
            dec_pure(d, h ? ROW_HI_64_32 : ROW_TRUNC_64_32, 4, s[i], r, N, N);
        }
        half[h] = dec_temp(d, 4);
        dec_pure(d, op, 4, half[h], s[0], s[1], s[2])->fp = (u8)fp_of(m);
    }
    dec_row(d, ROW_PACK_32_64, 8, dec_dst(d, dec_operand(d, 0), PT_B64), half[0], half[1], N);
}

static void sources(struct decoder *d, enum ptx_type t, int n, u32 out[3]) {
    out[0] = out[1] = out[2] = N;
    for (int i = 0; i < n; i++) out[i] = dec_src(d, dec_operand(d, i + 1), t);
}

/* add, sub, fma of f32 with operands of f16 or bf16 (the first n): these, widened. False: there is no second type. */
static bool mixed_sources(struct decoder *d, int n, u32 s[3]) {
    enum ptx_type half = dec_type_if(d);
    if (half == PT_NONE) return false;
    if (half != PT_F16 && half != PT_BF16) dec_unknown(d);
    for (int i = 0; i < d->st->n - 1; i++) {
        s[i] = dec_src(d, dec_operand(d, i + 1), i < n ? half : PT_F32);
        if (i >= n) continue;
        u32 wide = dec_temp(d, 4);
        dec_pure(d, half == PT_F16 ? ROW_CVT_F32_F16 : ROW_CVT_F32_BF16, 4, wide, s[i], N, N)->fp = 0;
        s[i] = wide;
    }
    return true;
}

static void add_sub(struct decoder *d, bool sub) {
    dec_count(d, 3, 3);
    u32 s[3];
    if (dec_take(d, "cc")) {
        enum ptx_type t = dec_type(d);
        int n = bytes_of(d, t);
        if (n == 2 || !type_is_int(t)) dec_unknown(d);
        sources(d, t, 2, s);
        dec_row(d,
                sub      ? (n == 4 ? ROW_SUBCC_32 : ROW_SUBCC_64)
                : n == 4 ? ROW_ADDCC_32
                         : ROW_ADDCC_64,
                n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], N)
            ->imm = 1;
        return;
    }
    struct float_mods m = float_mods(d);
    enum ptx_type t = dec_type(d);
    if (t == PT_F32X2) {
        d->cls = VM_C_FLOAT;
        f32x2(d, sub ? ROW_SUB_F32 : ROW_ADD_F32, &m, 2);
        return;
    }
    s[2] = N;
    if (t != PT_F32 || !mixed_sources(d, 1, s)) sources(d, t, 2, s);
    u32 to = dec_dst(d, dec_operand(d, 0), t);
    if (t == PT_F32 || t == PT_F64) {
        d->cls = t == PT_F32 ? VM_C_FLOAT : VM_C_DOUBLE;
        float_op(d, t,
                 t == PT_F32 ? (sub ? ROW_SUB_F32 : ROW_ADD_F32)
                 : sub       ? ROW_SUB_F64
                             : ROW_ADD_F64,
                 &m, to, s[0], s[1], N);
    } else if (type_is_half(t)) {
        d->cls = VM_C_HALF;
        if (m.rounding > 0) dec_unknown(d);
        float_op(d, t, sub ? BY_HALF(SUB, t) : BY_HALF(ADD, t), &m, to, s[0], s[1], N);
    } else if (t == PT_U16X2 || t == PT_S16X2) {
        if (sub || m.sat) dec_unknown(d);
        dec_row(d, ROW_ADD_16X2, 4, to, s[0], s[1], N);
    } else {
        if (!type_is_int(t) || m.rounding >= 0 || m.ftz || (m.sat && t != PT_S32)) dec_unknown(d);
        int n = bytes_of(d, t);
        dec_row(d,
                m.sat ? (sub ? ROW_SUBSAT_S32 : ROW_ADDSAT_S32)
                : sub ? BY_SIZE(SUB, n)
                      : BY_SIZE(ADD, n),
                n, to, s[0], s[1], N);
    }
}
static void dec_add(struct decoder *d) {
    add_sub(d, false);
}
static void dec_sub(struct decoder *d) {
    add_sub(d, true);
}

static void carry(struct decoder *d, bool sub) {
    dec_count(d, 3, 3);
    bool cc = dec_take(d, "cc");
    enum ptx_type t = dec_type(d);
    u32 s[3];
    sources(d, t, 2, s);
    int n = bytes_of(d, t);
    if (n == 2 || !type_is_int(t)) dec_unknown(d);
    dec_row(d,
            sub      ? (n == 4 ? ROW_SUBC_32 : ROW_SUBC_64)
            : n == 4 ? ROW_ADDC_32
                     : ROW_ADDC_64,
            n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], N)
        ->imm = cc;
}
static void dec_addc(struct decoder *d) {
    carry(d, false);
}
static void dec_subc(struct decoder *d) {
    carry(d, true);
}

static enum ptx_type widened(enum ptx_type t) {
    return t == PT_U16 ? PT_U32 : t == PT_S16 ? PT_S32 : t == PT_U32 ? PT_U64 : t == PT_S32 ? PT_S64 : PT_NONE;
}

static void dec_mul(struct decoder *d) {
    dec_count(d, 3, 3);
    u32 s[3];
    bool lo = dec_take(d, "lo"), hi = !lo && dec_take(d, "hi"), wide = !lo && !hi && dec_take(d, "wide");
    if (lo || hi || wide) {
        enum ptx_type t = dec_type(d);
        if (!type_is_int(t)) dec_unknown(d);
        int n = bytes_of(d, t);
        bool sgn = ptx_type_is_signed(t);
        sources(d, t, 2, s);
        if (wide) {
            if (n == 8) dec_unknown(d);
            u32 to = dec_dst(d, dec_operand(d, 0), widened(t));
            dec_row(d,
                    n == 2 ? (sgn ? ROW_MULW_S16 : ROW_MULW_U16)
                    : sgn  ? ROW_MULW_S32
                           : ROW_MULW_U32,
                    2 * n, to, s[0], s[1], N);
        } else {
            dec_row(d, lo ? BY_SIZE(MUL, n) : BY_TYPE(MULHI, n, sgn), n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1],
                    N);
        }
        return;
    }
    struct float_mods m = float_mods(d);
    enum ptx_type t = dec_type(d);
    if (t == PT_F32X2) {
        d->cls = VM_C_FLOAT;
        f32x2(d, ROW_MUL_F32, &m, 2);
        return;
    }
    sources(d, t, 2, s);
    u32 to = dec_dst(d, dec_operand(d, 0), t);
    if (type_is_half(t) && m.rounding > 0) dec_unknown(d);
    if (t != PT_F32 && t != PT_F64 && !type_is_half(t)) dec_unknown(d);
    d->cls = t == PT_F32 ? VM_C_FLOAT : t == PT_F64 ? VM_C_DOUBLE : VM_C_HALF;
    float_op(d, t, t == PT_F32 ? ROW_MUL_F32 : t == PT_F64 ? ROW_MUL_F64 : BY_HALF(MUL, t), &m, to, s[0], s[1], N);
}

static void dec_fma(struct decoder *d) {
    dec_count(d, 4, 4);
    struct float_mods m = float_mods(d);
    enum ptx_type t = dec_type(d);
    if (t == PT_F32X2) {
        f32x2(d, ROW_FMA_F32, &m, 3);
        return;
    }
    u32 s[3];
    if (t != PT_F32 || !mixed_sources(d, 2, s)) sources(d, t, 3, s);
    u32 to = dec_dst(d, dec_operand(d, 0), t);
    if (type_is_half(t) && m.rounding > 0) dec_unknown(d);
    if (t != PT_F32 && t != PT_F64 && !type_is_half(t)) dec_unknown(d);
    d->cls = t == PT_F32 ? VM_C_FLOAT : t == PT_F64 ? VM_C_DOUBLE : VM_C_HALF;
    float_op(d, t, t == PT_F32 ? ROW_FMA_F32 : t == PT_F64 ? ROW_FMA_F64 : BY_HALF(FMA, t), &m, to, s[0], s[1], s[2]);
}

static void mad_carry(struct decoder *d, bool uses) {
    bool hi = dec_take(d, "hi");
    if (!hi && !dec_take(d, "lo")) dec_unknown(d);
    bool sets = dec_take(d, "cc");
    enum ptx_type t = dec_type(d);
    int n = bytes_of(d, t);
    if (n == 2 || !type_is_int(t)) dec_unknown(d);
    u32 s[3];
    sources(d, t, 3, s);
    dec_row(d, ROW_MADCC, n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], s[2])->imm =
        sets | uses << 1 | hi << 2 | ptx_type_is_signed(t) << 3 | (n == 8) << 4;
}

static void dec_mad(struct decoder *d) {
    dec_count(d, 4, 4);
    int back = d->at;
    bool lo = dec_take(d, "lo"), hi = !lo && dec_take(d, "hi"), wide = !lo && !hi && dec_take(d, "wide");
    if (!lo && !hi && !wide) {
        dec_fma(d); /* mad.f32 is fma on every target here */
        return;
    }
    if (dec_peek(d, "cc")) {
        d->at = back;
        mad_carry(d, false);
        return;
    }
    bool sat = dec_take(d, "sat");
    enum ptx_type t = dec_type(d);
    if (!type_is_int(t) || (sat && !(hi && t == PT_S32))) dec_unknown(d);
    int n = bytes_of(d, t);
    bool sgn = ptx_type_is_signed(t);
    u32 s[3];
    sources(d, t, 2, s);
    if (wide) {
        if (n == 8) dec_unknown(d);
        u32 z = dec_src(d, dec_operand(d, 3), widened(t));
        u32 to = dec_dst(d, dec_operand(d, 0), widened(t));
        dec_row(d,
                n == 2 ? (sgn ? ROW_MADW_S16 : ROW_MADW_U16)
                : sgn  ? ROW_MADW_S32
                       : ROW_MADW_U32,
                2 * n, to, s[0], s[1], z);
        return;
    }
    u32 z = dec_src(d, dec_operand(d, 3), t);
    dec_row(d,
            lo    ? BY_SIZE(MAD, n)
            : sat ? ROW_MADHISAT_S32
                  : BY_TYPE(MADHI, n, sgn),
            n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], z);
}
static void dec_madc(struct decoder *d) {
    dec_count(d, 4, 4);
    mad_carry(d, true);
}

static void dec_mul24(struct decoder *d) {
    bool mad = d->part[0][1] == 'a';
    bool hi = dec_take(d, "hi");
    if (!hi && !dec_take(d, "lo")) dec_unknown(d);
    enum ptx_type t = dec_type(d);
    if (t != PT_U32 && t != PT_S32) dec_unknown(d);
    dec_count(d, mad ? 4 : 3, mad ? 4 : 3);
    u32 s[3];
    sources(d, t, mad ? 3 : 2, s);
    u32 to = dec_dst(d, dec_operand(d, 0), t), tmp = mad ? dec_temp(d, 4) : to;
    int op = t == PT_U32 ? (hi ? ROW_MUL24HI_U32 : ROW_MUL24_U32) : hi ? ROW_MUL24HI_S32 : ROW_MUL24_S32;
    if (!mad) {
        dec_row(d, op, 4, to, s[0], s[1], N);
    } else {
        dec_pure(d, op, 4, tmp, s[0], s[1], N);
        dec_row(d, ROW_ADD_32, 4, to, tmp, s[2], N);
    }
}

static void dec_sad(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    if (!type_is_int(t)) dec_unknown(d);
    dec_count(d, 4, 4);
    int n = bytes_of(d, t);
    u32 s[3];
    sources(d, t, 3, s);
    dec_row(d, BY_TYPE(SAD, n, ptx_type_is_signed(t)), n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], s[2]);
}

static void dec_div(struct decoder *d) {
    dec_count(d, 3, 3);
    struct float_mods m = float_mods(d);
    enum ptx_type t = dec_type(d);
    u32 s[3];
    sources(d, t, 2, s);
    u32 to = dec_dst(d, dec_operand(d, 0), t);
    if (t == PT_F32 || t == PT_F64) {
        d->cls = t == PT_F32 ? VM_C_FLOAT : VM_C_DOUBLE;
        if (m.sat || m.relu || (t == PT_F64 && m.approx)) dec_unknown(d);
        float_op(d, t, t == PT_F32 ? ROW_DIV_F32 : ROW_DIV_F64, &m, to, s[0], s[1], N);
    } else {
        if (!type_is_int(t)) dec_unknown(d);
        int n = bytes_of(d, t);
        dec_row(d, BY_TYPE(DIV, n, ptx_type_is_signed(t)), n, to, s[0], s[1], N);
    }
}
static void dec_rem(struct decoder *d) {
    dec_count(d, 3, 3);
    enum ptx_type t = dec_type(d);
    if (!type_is_int(t)) dec_unknown(d);
    int n = bytes_of(d, t);
    u32 s[3];
    sources(d, t, 2, s);
    dec_row(d, BY_TYPE(REM, n, ptx_type_is_signed(t)), n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], N);
}

static void abs_neg(struct decoder *d, bool neg) {
    dec_count(d, 2, 2);
    struct float_mods m = float_mods(d);
    enum ptx_type t = dec_type(d);
    u32 s = dec_src(d, dec_operand(d, 1), t), to = dec_dst(d, dec_operand(d, 0), t);
    int n = ptx_type_bytes(t);
    if (type_is_half(t)) {
        d->cls = VM_C_HALF;
        float_op(d, t,
                 n == 2 ? (neg ? ROW_NEG_F16 : ROW_ABS_F16)
                 : neg  ? ROW_NEG_F16X2
                        : ROW_ABS_F16X2,
                 &m, to, s, N, N);
    } else if (t == PT_F32) {
        d->cls = VM_C_FLOAT;
        u32 tmp = m.ftz ? dec_temp(d, 4) : s;
        if (m.ftz) dec_pure(d, ROW_FTZ_F32, 4, tmp, s, N, N);
        dec_row(d, neg ? ROW_NEG_F32 : ROW_ABS_F32, 4, to, tmp, N, N);
    } else if (t == PT_F64) {
        d->cls = VM_C_DOUBLE;
        dec_row(d, neg ? ROW_NEG_F64 : ROW_ABS_F64, 8, to, s, N, N);
    } else {
        if (!type_is_int(t) || !ptx_type_is_signed(t)) dec_unknown(d);
        dec_row(d, neg ? BY_SIZE(NEG, n) : n == 2 ? ROW_ABS_S16 : n == 4 ? ROW_ABS_S32 : ROW_ABS_S64, n, to, s, N, N);
    }
}
static void dec_abs(struct decoder *d) {
    abs_neg(d, false);
}
static void dec_neg(struct decoder *d) {
    abs_neg(d, true);
}

static void min_max(struct decoder *d, bool max) {
    dec_count(d, 3, 4);
    struct float_mods m = float_mods(d);
    bool xorsign = dec_take(d, "xorsign"), magnitudes = dec_take(d, "abs");
    if (xorsign && !magnitudes) dec_unknown(d);
    if (dec_take(d, "NaN")) m.nan = true;
    enum ptx_type t = dec_type(d);
    if (dec_take(d, "relu")) m.relu = true;
    int n_src = d->st->n - 1;
    u32 s[3];
    if (n_src == 3 ? t != PT_F32 : magnitudes && !xorsign) dec_unknown(d);
    sources(d, t, n_src, s);
    for (int i = 0; i < n_src && n_src == 3 && magnitudes; i++) {
        u32 z = dec_temp(d, 4);
        dec_pure(d, ROW_ABS_F32, 4, z, s[i], N, N);
        s[i] = z;
    }
    u32 to = dec_dst(d, dec_operand(d, 0), t);
    int n = ptx_type_bytes(t);
    if (t == PT_F32 || t == PT_F64 || type_is_half(t)) {
        d->cls = t == PT_F32 ? VM_C_FLOAT : t == PT_F64 ? VM_C_DOUBLE : VM_C_HALF;
        int op = t == PT_F64   ? (max ? ROW_MAX_F64 : ROW_MIN_F64)
                 : t == PT_F32 ? (m.nan ? (max ? ROW_MAXNAN_F32 : ROW_MINNAN_F32)
                                  : max ? ROW_MAX_F32
                                        : ROW_MIN_F32)
                 : m.nan       ? (max ? BY_HALF(MAXNAN, t) : BY_HALF(MINNAN, t))
                 : max         ? BY_HALF(MAX, t)
                               : BY_HALF(MIN, t);
        if (m.sat || m.rounding >= 0 || (t == PT_F64 && m.nan)) dec_unknown(d);
        if (t == PT_F32 && m.ftz) { /* flushing is of the operands here: the larger of two is itself */
            for (int i = 0; i < n_src; i++) {
                u32 z = dec_temp(d, 4);
                dec_pure(d, ROW_FTZ_F32, 4, z, s[i], N, N);
                s[i] = z;
            }
            m.ftz = false;
        }
        if (n_src == 3) {
            u32 two = dec_temp(d, 4);
            dec_pure(d, op, 4, two, s[0], s[1], N)->fp = 0;
            s[0] = two, s[1] = s[2];
        }
        if (xorsign) { /* the smaller or larger magnitude, with the product's sign; NaN stays as it is */
            if (t == PT_F64 || n_src == 3) dec_unknown(d);
            bool half = type_is_half(t);
            u32 x = dec_temp(d, n), y = dec_temp(d, n), sign = dec_temp(d, n), r = dec_temp(d, n);
            int absolute = !half ? ROW_ABS_F32 : n == 2 ? ROW_ABS_F16 : ROW_ABS_F16X2;
            if (half && m.ftz) {
                for (int i = 0; i < 2; i++) {
                    u32 z = dec_temp(d, n);
                    dec_pure(d, n == 2 ? ROW_FTZ_F16 : ROW_FTZ_F16X2, n, z, s[i], N, N);
                    s[i] = z;
                }
            }
            dec_pure(d, BY_SIZE(XOR, n), n, sign, s[0], s[1], N);
            dec_pure(d, absolute, n, x, s[0], N, N);
            dec_pure(d, absolute, n, y, s[1], N, N);
            dec_pure(d, op, n, r, x, y, N)->fp = 0;
            dec_row(d, half ? BY_HALF(SETSIGN, t) : ROW_SETSIGN_F32, n, to, r, sign, N);
            return;
        }
        float_op(d, t, op, &m, to, s[0], s[1], N);
        return;
    }
    bool sgn = ptx_type_is_signed(t);
    int op, fix = -1;
    if (t == PT_U16X2 || t == PT_S16X2)
        op = sgn ? (max ? ROW_MAX_S16X2 : ROW_MIN_S16X2) : max ? ROW_MAX_U16X2 : ROW_MIN_U16X2;
    else if (type_is_int(t))
        op = max ? BY_TYPE(MAX, n, sgn) : BY_TYPE(MIN, n, sgn);
    else
        dec_unknown(d);
    if (m.relu) fix = t == PT_S32 ? ROW_RELU_S32 : t == PT_S16X2 ? ROW_RELU_S16X2 : -2;
    if (fix == -2 || m.ftz || m.nan || m.sat) dec_unknown(d);
    u32 at = fix >= 0 ? dec_temp(d, n) : to;
    if (fix >= 0) {
        dec_pure(d, op, n, at, s[0], s[1], N);
        dec_row(d, fix, n, to, at, N, N);
    } else {
        dec_row(d, op, n, to, s[0], s[1], N);
    }
}
static void dec_min(struct decoder *d) {
    min_max(d, false);
}
static void dec_max(struct decoder *d) {
    min_max(d, true);
}

/* rcp sqrt rsqrt ex2 lg2 sin cos tanh */
static void dec_special(struct decoder *d) {
    const char *name = d->part[0];
    dec_count(d, 2, 2);
    struct float_mods m = float_mods(d);
    enum ptx_type t = dec_type(d);
    if (dec_take(d, "ftz")) m.ftz = true; /* ptxas takes it here too, and curand_poisson.h puts it here */
    int op = -1;
#define IS(s) (!strcmp(name, s))
    if (t == PT_F32)
        op = IS("rcp")     ? ROW_RCP_F32
             : IS("sqrt")  ? ROW_SQRT_F32
             : IS("rsqrt") ? ROW_RSQRT_F32
             : IS("ex2")   ? ROW_EX2_F32
             : IS("lg2")   ? ROW_LG2_F32
             : IS("sin")   ? ROW_SIN_F32
             : IS("cos")   ? ROW_COS_F32
                           : ROW_TANH_F32;
    else if (t == PT_F64)
        op = IS("rcp")     ? (m.approx ? ROW_RCPFTZ_F64 : ROW_RCP_F64)
             : IS("sqrt")  ? ROW_SQRT_F64
             : IS("rsqrt") ? (m.ftz ? ROW_RSQRTFTZ_F64 : ROW_RSQRT_F64)
                           : -1;
    else if (type_is_half(t))
        op = IS("ex2") ? BY_HALF(EX2, t) : IS("tanh") ? BY_HALF(TANH, t) : -1;
    if (op < 0 || m.sat || m.relu) dec_unknown(d);
    if (t == PT_F64) m.ftz = false;
    if (type_is_half(t) && (t == PT_BF16 || t == PT_BF16X2)) m.ftz = false;
    u32 s = dec_src(d, dec_operand(d, 1), t), to = dec_dst(d, dec_operand(d, 0), t);
    float_op(d, t, op, &m, to, s, N, N);
}

static void dec_copysign(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    if (t != PT_F32 && t != PT_F64) dec_unknown(d);
    dec_count(d, 3, 3);
    u32 s[3];
    sources(d, t, 2, s);
    dec_row(d, t == PT_F32 ? ROW_COPYSIGN_F32 : ROW_COPYSIGN_F64, ptx_type_bytes(t), dec_dst(d, dec_operand(d, 0), t),
            s[0], s[1], N);
}

/* ---- logic and bits ---- */
static void dec_logic(struct decoder *d) {
    const char *name = d->part[0];
    bool is_not = IS("not"), is_and = IS("and"), is_or = IS("or");
    enum ptx_type t = dec_type(d);
    dec_count(d, is_not ? 2 : 3, is_not ? 2 : 3);
    if (t == PT_PRED) {
        d->cls = VM_C_COMPARE;
        bool na, nb = false;
        u32 a = dec_pred(d, dec_operand(d, 1), &na), b = is_not ? N : dec_pred(d, dec_operand(d, 2), &nb);
        dec_row(d,
                is_not   ? ROW_P_NOT
                : is_and ? ROW_P_AND
                : is_or  ? ROW_P_OR
                         : ROW_P_XOR,
                0, dec_dst_pred(d, dec_operand(d, 0)), a, b, N)
            ->imm = na | nb << 1;
        return;
    }
    int n = bytes_of(d, t);
    if (t < PT_B8 || t > PT_B64) dec_unknown(d);
    u32 s[3];
    sources(d, t, is_not ? 1 : 2, s);
    int op = is_not ? BY_SIZE(NOT, n) : is_and ? BY_SIZE(AND, n) : is_or ? BY_SIZE(OR, n) : BY_SIZE(XOR, n);
    dec_row(d, op, n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], N);
}
static void dec_cnot(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    int n = bytes_of(d, t);
    dec_count(d, 2, 2);
    u32 s = dec_src(d, dec_operand(d, 1), t);
    dec_row(d, BY_SIZE(CNOT, n), n, dec_dst(d, dec_operand(d, 0), t), s, N, N);
}
static void dec_shift(struct decoder *d) {
    bool left = d->part[0][2] == 'l';
    enum ptx_type t = dec_type(d);
    int n = bytes_of(d, t);
    if (!type_is_int(t) && !(t >= PT_B16 && t <= PT_B64)) dec_unknown(d);
    dec_count(d, 3, 3);
    u32 a = dec_src(d, dec_operand(d, 1), t), b = dec_src_bytes(d, dec_operand(d, 2), 4, false);
    dec_row(d, left ? BY_SIZE(SHL, n) : BY_TYPE(SHR, n, ptx_type_is_signed(t)), n, dec_dst(d, dec_operand(d, 0), t), a,
            b, N);
}
static void dec_shf(struct decoder *d) {
    bool left = dec_take(d, "l");
    if (!left && !dec_take(d, "r")) dec_unknown(d);
    bool wrap = dec_take(d, "wrap");
    if (!wrap && !dec_take(d, "clamp")) dec_unknown(d);
    if (dec_type(d) != PT_B32) dec_unknown(d);
    dec_count(d, 4, 4);
    u32 s[3];
    sources(d, PT_B32, 3, s);
    dec_row(d,
            left   ? (wrap ? ROW_SHFL_WRAP : ROW_SHFL_CLAMP)
            : wrap ? ROW_SHFR_WRAP
                   : ROW_SHFR_CLAMP,
            4, dec_dst(d, dec_operand(d, 0), PT_B32), s[0], s[1], s[2]);
}
static void dec_count_bits(struct decoder *d) {
    const char *name = d->part[0];
    bool shift = IS("bfind") && dec_take(d, "shiftamt");
    enum ptx_type t = dec_type(d);
    int n = ptx_type_bytes(t);
    if (n != 4 && n != 8) dec_unknown(d);
    dec_count(d, 2, 2);
    u32 s = dec_src(d, dec_operand(d, 1), t);
    bool brev = IS("brev"), sgn = ptx_type_is_signed(t);
    int op = IS("popc")  ? (n == 4 ? ROW_POPC_32 : ROW_POPC_64)
             : IS("clz") ? (n == 4 ? ROW_CLZ_32 : ROW_CLZ_64)
             : brev      ? (n == 4 ? ROW_BREV_32 : ROW_BREV_64)
             : shift     ? (n == 4 ? (sgn ? ROW_BFINDSH_S32 : ROW_BFINDSH_U32)
                            : sgn  ? ROW_BFINDSH_S64
                                   : ROW_BFINDSH_U64)
                         : (n == 4 ? (sgn ? ROW_BFIND_S32 : ROW_BFIND_U32)
                            : sgn  ? ROW_BFIND_S64
                                   : ROW_BFIND_U64);
    enum ptx_type rt = brev ? t : PT_U32;
    dec_row(d, op, ptx_type_bytes(rt), dec_dst(d, dec_operand(d, 0), rt), s, N, N);
}
static void dec_bfe(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    int n = ptx_type_bytes(t);
    if ((n != 4 && n != 8) || !type_is_int(t)) dec_unknown(d);
    dec_count(d, 4, 4);
    u32 a = dec_src(d, dec_operand(d, 1), t), b = dec_src_bytes(d, dec_operand(d, 2), 4, false),
        c = dec_src_bytes(d, dec_operand(d, 3), 4, false);
    bool sgn = ptx_type_is_signed(t);
    dec_row(d,
            n == 4 ? (sgn ? ROW_BFE_S32 : ROW_BFE_U32)
            : sgn  ? ROW_BFE_S64
                   : ROW_BFE_U64,
            n, dec_dst(d, dec_operand(d, 0), t), a, b, c);
}
static void dec_bfi(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    int n = ptx_type_bytes(t);
    if (t != PT_B32 && t != PT_B64) dec_unknown(d);
    dec_count(d, 5, 5);
    u32 a = dec_src(d, dec_operand(d, 1), t), b = dec_src(d, dec_operand(d, 2), t);
    u32 c = dec_src_bytes(d, dec_operand(d, 3), 4, false), len = dec_src_bytes(d, dec_operand(d, 4), 4, false);
    struct insn *in = dec_row(d, n == 4 ? ROW_BFI_32 : ROW_BFI_64, n, dec_dst(d, dec_operand(d, 0), t), a, b, c);
    in->kind = K_ROW4;
    in->e = len;
}
static void three32(struct decoder *d, int op) {
    if (dec_type(d) == PT_NONE) dec_unknown(d);
    dec_count(d, 4, 4);
    u32 s[3];
    sources(d, PT_B32, 3, s);
    dec_row(d, op, 4, dec_dst(d, dec_operand(d, 0), PT_B32), s[0], s[1], s[2]);
}
static void dec_fns(struct decoder *d) {
    three32(d, ROW_FNS_32);
}
static void dec_prmt(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    if (t != PT_B32) dec_unknown(d);
    int op = dec_take(d, "f4e")    ? ROW_PRMT_F4E
             : dec_take(d, "b4e")  ? ROW_PRMT_B4E
             : dec_take(d, "rc8")  ? ROW_PRMT_RC8
             : dec_take(d, "ecl")  ? ROW_PRMT_ECL
             : dec_take(d, "ecr")  ? ROW_PRMT_ECR
             : dec_take(d, "rc16") ? ROW_PRMT_RC16
                                   : ROW_PRMT;
    d->at--;
    d->part[d->at] = "b32"; /* three32 takes the type */
    three32(d, op);
}
static void dec_lop3(struct decoder *d) {
    int bool_op = dec_take(d, "or") ? 1 : dec_take(d, "and") ? 2 : 0;
    if (dec_type(d) != PT_B32) dec_unknown(d);
    dec_count(d, bool_op ? 6 : 5, bool_op ? 6 : 5);
    const struct ptx_operand *to = dec_operand(d, 0), *p = NULL;
    if (bool_op) {
        if (to->kind != O_PAIR) dec_fail(d, "lop3 with .or or .and has two results");
        p = &to->elems[1];
        to = &to->elems[0];
    }
    u32 s[3];
    sources(d, PT_B32, 3, s);
    s64 lut;
    if (!dec_constant(dec_operand(d, 4), &lut) || lut < 0 || lut > 255)
        dec_fail(d, "the table is no constant from 0 to 255");
    u32 r = dec_dst(d, to, PT_B32), value = p ? dec_temp(d, 4) : r;
    if (!p) {
        dec_row(d, ROW_LOP3, 4, r, s[0], s[1], s[2])->imm = lut;
        return;
    }
    dec_pure(d, ROW_LOP3, 4, value, s[0], s[1], s[2])->imm = lut;
    bool nq;
    u32 ne = dec_temp(d, 0), q = dec_pred(d, dec_operand(d, 5), &nq);
    dec_pure(d, ROW_NE_32, 0, ne, value, dec_const(d, 4, 0), N);
    dec_row(d, bool_op == 1 ? ROW_P_OR : ROW_P_AND, 0, dec_dst_pred(d, p), ne, q, N)->imm = nq << 1;
    dec_row(d, ROW_MOV_32, 4, r, value, N, N);
}
static void dec_bmsk(struct decoder *d) {
    bool wrap = dec_take(d, "wrap");
    if (!wrap && !dec_take(d, "clamp")) dec_unknown(d);
    if (dec_type(d) != PT_B32) dec_unknown(d);
    u32 s[3];
    sources(d, PT_B32, 2, s);
    dec_row(d, wrap ? ROW_BMSK_WRAP : ROW_BMSK_CLAMP, 4, dec_dst(d, dec_operand(d, 0), PT_B32), s[0], s[1], N);
}
static void dec_szext(struct decoder *d) {
    bool wrap = dec_take(d, "wrap");
    if (!wrap && !dec_take(d, "clamp")) dec_unknown(d);
    enum ptx_type t = dec_type(d);
    if (t != PT_U32 && t != PT_S32) dec_unknown(d);
    u32 s[3];
    sources(d, PT_B32, 2, s);
    int op = t == PT_U32 ? (wrap ? ROW_SZEXT_U_WRAP : ROW_SZEXT_U_CLAMP) : wrap ? ROW_SZEXT_S_WRAP : ROW_SZEXT_S_CLAMP;
    dec_row(d, op, 4, dec_dst(d, dec_operand(d, 0), PT_B32), s[0], s[1], N);
}
static void dec_dp4a(struct decoder *d) {
    enum ptx_type a = dec_type(d), b = dec_type(d);
    dec_count(d, 4, 4);
    if ((a != PT_U32 && a != PT_S32) || (b != PT_U32 && b != PT_S32)) dec_unknown(d);
    u32 s[3];
    sources(d, PT_B32, 3, s);
    int op = a == PT_U32 ? (b == PT_U32 ? ROW_DP4A_UU : ROW_DP4A_US) : b == PT_U32 ? ROW_DP4A_SU : ROW_DP4A_SS;
    dec_row(d, op, 4, dec_dst(d, dec_operand(d, 0), PT_B32), s[0], s[1], s[2]);
}
static void dec_dp2a(struct decoder *d) {
    bool hi = dec_take(d, "hi");
    if (!hi && !dec_take(d, "lo")) dec_unknown(d);
    enum ptx_type a = dec_type(d), b = dec_type(d);
    dec_count(d, 4, 4);
    if ((a != PT_U32 && a != PT_S32) || (b != PT_U32 && b != PT_S32)) dec_unknown(d);
    u32 s[3];
    sources(d, PT_B32, 3, s);
    dec_row(d, ROW_DP2A, 4, dec_dst(d, dec_operand(d, 0), PT_B32), s[0], s[1], s[2])->imm =
        (a == PT_S32) | (b == PT_S32) << 1 | hi << 2;
}

/* ---- comparison and selection ---- */
static int compare_op(struct decoder *d, const char *cmp, enum ptx_type t, int n) {
    static const char *const names[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                        "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
    static const short f32_ops[] = {ROW_EQ_F32,  ROW_NE_F32,  ROW_LT_F32,  ROW_LE_F32,  ROW_GT_F32,
                                    ROW_GE_F32,  ROW_EQU_F32, ROW_NEU_F32, ROW_LTU_F32, ROW_LEU_F32,
                                    ROW_GTU_F32, ROW_GEU_F32, ROW_NUM_F32, ROW_NAN_F32};
    static const short f64_ops[] = {ROW_EQ_F64,  ROW_NE_F64,  ROW_LT_F64,  ROW_LE_F64,  ROW_GT_F64,
                                    ROW_GE_F64,  ROW_EQU_F64, ROW_NEU_F64, ROW_LTU_F64, ROW_LEU_F64,
                                    ROW_GTU_F64, ROW_GEU_F64, ROW_NUM_F64, ROW_NAN_F64};
    if (ptx_type_is_float(t)) {
        for (int i = 0; i < 14; i++)
            if (!strcmp(cmp, names[i])) return t == PT_F64 ? f64_ops[i] : f32_ops[i];
        dec_unknown(d);
    }
    bool sgn = ptx_type_is_signed(t);
    if (!strcmp(cmp, "eq")) return BY_SIZE(EQ, n);
    if (!strcmp(cmp, "ne")) return BY_SIZE(NE, n);
    if (t >= PT_B8 && t <= PT_B64) dec_unknown(d);
    if (!strcmp(cmp, "lt") || (!sgn && !strcmp(cmp, "lo"))) return BY_TYPE(LT, n, sgn);
    if (!strcmp(cmp, "le") || (!sgn && !strcmp(cmp, "ls"))) return BY_TYPE(LE, n, sgn);
    if (!strcmp(cmp, "gt") || (!sgn && !strcmp(cmp, "hi"))) return BY_TYPE(GT, n, sgn);
    if (!strcmp(cmp, "ge") || (!sgn && !strcmp(cmp, "hs"))) return BY_TYPE(GE, n, sgn);
    dec_unknown(d);
}

/* Compares two operands of type t: masks into p[0] and, of packed halves, p[1]. */
static void compare(struct decoder *d, const char *cmp, enum ptx_type t, bool ftz, const struct ptx_operand *a,
                    const struct ptx_operand *b, u32 p[2]) {
    int n = bytes_of(d, t);
    u32 x = dec_src(d, a, t), y = dec_src(d, b, t);
    int op = compare_op(d, cmp, t, n);
    if (!type_is_half(t)) {
        p[0] = dec_temp(d, 0);
        dec_pure(d, op, 0, p[0], x, y, N)->fp = (u8)(t == PT_F32 || t == PT_F64 ? (ftz ? FP_FTZ : 0) : FP_ANY);
        return;
    }
    bool bf = t == PT_BF16 || t == PT_BF16X2;
    for (int h = 0; h < n / 2; h++) {
        u32 in[2] = {x, y};
        for (int k = 0; k < 2; k++) {
            u32 half = in[k];
            if (n == 4) {
                half = dec_temp(d, 2);
                dec_pure(d, h ? ROW_HI_32_16 : ROW_TRUNC_32_16, 2, half, in[k], N, N);
            }
            if (ftz && !bf) {
                u32 z = dec_temp(d, 2);
                dec_pure(d, ROW_FTZ_F16, 2, z, half, N, N);
                half = z;
            }
            in[k] = dec_temp(d, 4);
            dec_pure(d, bf ? ROW_CVT_F32_BF16 : ROW_CVT_F32_F16, 4, in[k], half, N, N)->fp = 0;
        }
        p[h] = dec_temp(d, 0);
        dec_pure(d, op, 0, p[h], in[0], in[1], N)->fp = 0;
    }
}

static int bool_op(struct decoder *d) {
    return dec_take(d, "and") ? ROW_P_AND : dec_take(d, "or") ? ROW_P_OR : dec_take(d, "xor") ? ROW_P_XOR : -1;
}

static void dec_setp(struct decoder *d) {
    if (d->at >= d->n_parts) dec_unknown(d);
    const char *cmp = d->part[d->at++];
    int combine = bool_op(d);
    bool ftz = dec_take(d, "ftz");
    enum ptx_type t = dec_type(d);
    dec_count(d, combine >= 0 ? 4 : 3, combine >= 0 ? 4 : 3);
    const struct ptx_operand *to = dec_operand(d, 0), *second = NULL;
    if (to->kind == O_PAIR) {
        second = &to->elems[1];
        to = &to->elems[0];
    }
    bool packed = t == PT_F16X2 || t == PT_BF16X2;
    if (combine < 0 && !second && !packed && !type_is_half(t)) { /* the common case: straight into the predicate */
        int n = bytes_of(d, t);
        u32 x = dec_src(d, dec_operand(d, 1), t), y = dec_src(d, dec_operand(d, 2), t);
        struct insn *in = dec_row(d, compare_op(d, cmp, t, n), 0, dec_dst_pred(d, to), x, y, N);
        if (t == PT_F32 || t == PT_F64) in->fp = ftz ? FP_FTZ : 0;
        return;
    }
    u32 p[2] = {N, N};
    compare(d, cmp, t, ftz, dec_operand(d, 1), dec_operand(d, 2), p);
    u32 q = N;
    bool nq = false;
    if (combine >= 0) q = dec_pred(d, dec_operand(d, 3), &nq);
    u32 first = dec_dst_pred(d, to);
    u32 r0 = dec_temp(d, 0), r1 = dec_temp(d, 0); /* both before either is written: q may be a result */
    dec_pure(d, combine < 0 ? ROW_P_MOV : combine, 0, r0, p[0], q, N)->imm = nq << 1;
    if (second) {
        if (packed)
            dec_pure(d, combine < 0 ? ROW_P_MOV : combine, 0, r1, p[1], q, N)->imm = nq << 1;
        else
            dec_pure(d, combine < 0 ? ROW_P_MOV : combine, 0, r1, p[0], q, N)->imm = 1 | nq << 1;
        dec_row(d, ROW_P_MOV, 0, dec_dst_pred(d, second), r1, N, N);
    }
    dec_row(d, ROW_P_MOV, 0, first, r0, N, N);
}

static void dec_set(struct decoder *d) {
    if (d->at >= d->n_parts) dec_unknown(d);
    const char *cmp = d->part[d->at++];
    int combine = bool_op(d);
    bool ftz = dec_take(d, "ftz");
    enum ptx_type dt = dec_type(d), t = dec_type_if(d);
    if (t == PT_NONE) t = dt;
    dec_count(d, combine >= 0 ? 4 : 3, combine >= 0 ? 4 : 3);
    u32 p[2] = {N, N};
    compare(d, cmp, t, ftz, dec_operand(d, 1), dec_operand(d, 2), p);
    if (combine >= 0) {
        bool nq;
        u32 q = dec_pred(d, dec_operand(d, 3), &nq);
        for (int h = 0; h < 2; h++)
            if (p[h] != N) dec_pure(d, combine, 0, p[h], p[h], q, N)->imm = nq << 1;
    }
    u32 to = dec_dst(d, dec_operand(d, 0), dt);
    if (t == PT_F16X2 || t == PT_BF16X2) {
        dec_row(d, ROW_MASK2_TO_16X2, 4, to, p[0], p[1], N)->imm = dt == PT_F16X2    ? 0x3c00
                                                                   : dt == PT_BF16X2 ? 0x3f80
                                                                                     : 0xffff;
    } else if (dt == PT_U32 || dt == PT_S32 || dt == PT_B32) {
        dec_row(d, ROW_MASK_TO_32, 4, to, p[0], N, N);
    } else if (dt == PT_F32) {
        dec_row(d, ROW_MASK_TO_F32, 4, to, p[0], N, N)->imm = 0x3f800000;
    } else if (ptx_type_bytes(dt) == 2) {
        dec_row(d, ROW_MASK_TO_16, 2, to, p[0], N, N)->imm = dt == PT_F16 ? 0x3c00 : dt == PT_BF16 ? 0x3f80 : 0xffff;
    } else {
        dec_unknown(d);
    }
}

static void dec_testp(struct decoder *d) {
    static const struct {
        const char *name;
        short f32, f64;
    } kinds[] = {{"finite", ROW_TP_FINITE_F32, ROW_TP_FINITE_F64}, {"infinite", ROW_TP_INF_F32, ROW_TP_INF_F64},
                 {"number", ROW_TP_NUM_F32, ROW_TP_NUM_F64},       {"notanumber", ROW_TP_NAN_F32, ROW_TP_NAN_F64},
                 {"normal", ROW_TP_NORMAL_F32, ROW_TP_NORMAL_F64}, {"subnormal", ROW_TP_SUB_F32, ROW_TP_SUB_F64}};
    for (int i = 0; i < 6; i++) {
        if (!dec_take(d, kinds[i].name)) continue;
        enum ptx_type t = dec_type(d);
        if (t != PT_F32 && t != PT_F64) dec_unknown(d);
        u32 s = dec_src(d, dec_operand(d, 1), t);
        dec_row(d, t == PT_F32 ? kinds[i].f32 : kinds[i].f64, 0, dec_dst_pred(d, dec_operand(d, 0)), s, s, N);
        return;
    }
    dec_unknown(d);
}

static void dec_selp(struct decoder *d) {
    enum ptx_type t = dec_type(d);
    int n = bytes_of(d, t);
    dec_count(d, 4, 4);
    u32 s[3];
    sources(d, t, 2, s);
    bool np;
    u32 p = dec_pred(d, dec_operand(d, 3), &np);
    dec_row(d, BY_SIZE(SELP, n), n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], p)->imm = np;
}
static void dec_slct(struct decoder *d) {
    bool ftz = dec_take(d, "ftz");
    enum ptx_type t = dec_type(d), ct = dec_type(d);
    int n = bytes_of(d, t);
    dec_count(d, 4, 4);
    if (ct != PT_S32 && ct != PT_F32) dec_unknown(d);
    u32 s[3];
    sources(d, t, 2, s);
    u32 c = dec_src(d, dec_operand(d, 3), ct);
    int op = ct == PT_S32 ? (n == 2   ? ROW_SLCT_16_S32
                             : n == 4 ? ROW_SLCT_32_S32
                                      : ROW_SLCT_64_S32)
             : n == 2     ? ROW_SLCT_16_F32
             : n == 4     ? ROW_SLCT_32_F32
                          : ROW_SLCT_64_F32;
    dec_float(d, op, n, dec_dst(d, dec_operand(d, 0), t), s[0], s[1], c, ftz ? FP_FTZ : 0);
}

const struct opcode dec_alu_opcodes[] = {
    {"add", dec_add, VM_C_INT},
    {"sub", dec_sub, VM_C_INT},
    {"mul", dec_mul, VM_C_INT},
    {"mad", dec_mad, VM_C_INT},
    {"fma", dec_fma, VM_C_FLOAT},
    {"addc", dec_addc, VM_C_INT},
    {"subc", dec_subc, VM_C_INT},
    {"madc", dec_madc, VM_C_INT},
    {"mul24", dec_mul24, VM_C_INT},
    {"mad24", dec_mul24, VM_C_INT},
    {"sad", dec_sad, VM_C_INT},
    {"div", dec_div, VM_C_INT},
    {"rem", dec_rem, VM_C_INT},
    {"abs", dec_abs, VM_C_INT},
    {"neg", dec_neg, VM_C_INT},
    {"min", dec_min, VM_C_INT},
    {"max", dec_max, VM_C_INT},
    {"rcp", dec_special, VM_C_SPECIAL},
    {"sqrt", dec_special, VM_C_SPECIAL},
    {"rsqrt", dec_special, VM_C_SPECIAL},
    {"ex2", dec_special, VM_C_SPECIAL},
    {"lg2", dec_special, VM_C_SPECIAL},
    {"sin", dec_special, VM_C_SPECIAL},
    {"cos", dec_special, VM_C_SPECIAL},
    {"tanh", dec_special, VM_C_SPECIAL},
    {"copysign", dec_copysign, VM_C_FLOAT},
    {"and", dec_logic, VM_C_INT},
    {"or", dec_logic, VM_C_INT},
    {"xor", dec_logic, VM_C_INT},
    {"not", dec_logic, VM_C_INT},
    {"cnot", dec_cnot, VM_C_INT},
    {"shl", dec_shift, VM_C_INT},
    {"shr", dec_shift, VM_C_INT},
    {"shf", dec_shf, VM_C_INT},
    {"popc", dec_count_bits, VM_C_INT},
    {"clz", dec_count_bits, VM_C_INT},
    {"brev", dec_count_bits, VM_C_INT},
    {"bfind", dec_count_bits, VM_C_INT},
    {"bfe", dec_bfe, VM_C_INT},
    {"bfi", dec_bfi, VM_C_INT},
    {"fns", dec_fns, VM_C_INT},
    {"prmt", dec_prmt, VM_C_INT},
    {"lop3", dec_lop3, VM_C_INT},
    {"bmsk", dec_bmsk, VM_C_INT},
    {"szext", dec_szext, VM_C_INT},
    {"dp4a", dec_dp4a, VM_C_INT},
    {"dp2a", dec_dp2a, VM_C_INT},
    {"setp", dec_setp, VM_C_COMPARE},
    {"set", dec_set, VM_C_COMPARE},
    {"testp", dec_testp, VM_C_COMPARE},
    {"selp", dec_selp, VM_C_MOVE},
    {"slct", dec_slct, VM_C_MOVE},
    {0},
};
