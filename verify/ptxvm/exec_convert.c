/* Conversions one lane at a time: every pair of types, rounding and saturation. Values pass through long double, whose
 * 64 significant bits hold every s64, u64 and f64 exactly; rounding to the result's precision happens once, here, in
 * integers. */
#include "verify/ptxvm/machine.h"

#include <math.h>
#include <string.h>

/* The narrow formats: significand bits after the point, exponent bits, bias, what the top exponent means. */
struct format {
    int man, exp, bias;
    enum { TOP_INF, TOP_NAN_ONLY, TOP_FINITE } top; /* e4m3: only all ones is NaN; e2m1 and the like: no NaN at all */
};
static struct format format_of(enum ptx_type t) {
    switch (t) {
    case PT_F16:
        return (struct format){10, 5, 15, TOP_INF};
    case PT_BF16:
        return (struct format){7, 8, 127, TOP_INF};
    case PT_TF32:
        return (struct format){10, 8, 127, TOP_INF};
    case PT_F32:
        return (struct format){23, 8, 127, TOP_INF};
    case PT_E4M3:
        return (struct format){3, 4, 7, TOP_NAN_ONLY};
    case PT_E5M2:
        return (struct format){2, 5, 15, TOP_INF};
    case PT_E2M1X2:
        return (struct format){1, 2, 1, TOP_FINITE};
    case PT_E2M3X2:
        return (struct format){3, 2, 1, TOP_FINITE};
    case PT_E3M2X2:
        return (struct format){2, 3, 3, TOP_FINITE};
    default:
        return (struct format){52, 11, 1023, TOP_INF};
    }
}

/* How to round: n z m p, a (nearest, ties away), or s: up where so many random bits and as many of what would be cut
 * off carry. */
struct rounding {
    int mode, bits;
    u32 random;
};
static struct rounding rounding_of(int mode) {
    return (struct rounding){mode ? mode : 'n', 0, 0};
}

/* |v| in units of 2^e, rounded; v >= 0. */
static u64 round_units(long double v, int e, struct rounding r, bool negative) {
    long double x = ldexpl(v, -e), f = floorl(x), rest = x - f;
    u64 n = (u64)f;
    int rounding = r.mode;
    bool up = rounding == 'n'   ? rest > 0.5L || (rest == 0.5L && (n & 1))
              : rounding == 's' ? ((u64)ldexpl(rest, r.bits) + r.random) >> r.bits
              : rounding == 'a' ? rest >= 0.5L
              : rounding == 'p' ? rest > 0 && !negative
              : rounding == 'm' ? rest > 0 && negative
                                : false;
    return n + up;
}

static u64 pack_format(long double v, struct format f, struct rounding r, bool satfinite, bool *is_nan) {
    bool negative = signbit(v);
    int width = 1 + f.exp + f.man;
    u64 sign = negative ? 1ull << (width - 1) : 0, top = (1ull << f.exp) - 1;
    u64 inf = top << f.man, largest = f.top == TOP_INF        ? inf - 1
                                      : f.top == TOP_NAN_ONLY ? (top << f.man | ((1ull << f.man) - 1)) - 1
                                                              : top << f.man | ((1ull << f.man) - 1);
    *is_nan = v != v;
    if (v != v) return 0;
    v = fabsl(v);
    if (v == 0) return sign;
    if (isinf(v)) {
        if (satfinite || f.top == TOP_FINITE) return sign | largest;
        return f.top == TOP_INF ? sign | inf : (*is_nan = true, 0);
    }
    int e;
    frexpl(v, &e);
    e -= 1; /* v = 1.x * 2^e */
    int least = 1 - f.bias;
    int unit = (e < least ? least : e) - f.man;
    if (e > f.bias + 2) unit = f.bias + 2 - f.man, v = ldexpl(1, f.bias + 2);
    u64 n = round_units(v, unit, r, negative);
    u64 bits;
    if (e < least)
        bits = n; /* a carry into the exponent is the smallest normal number: right as it is */
    else
        bits = ((u64)((e > f.bias + 2 ? f.bias + 2 : e) + f.bias) << f.man) + (n - (1ull << f.man));
    if (bits > largest) {
        bool inward = r.mode == 'z' || (r.mode == 'm' && !negative) || (r.mode == 'p' && negative);
        if (satfinite || f.top == TOP_FINITE || inward)
            bits = largest;
        else if (f.top == TOP_INF)
            bits = inf;
        else {
            *is_nan = true;
            return 0;
        }
    }
    return sign | bits;
}

static u64 nan_of(enum ptx_type t) {
    switch (t) {
    case PT_F16:
    case PT_BF16:
    case PT_E4M3:
    case PT_E5M2:
        return ptx_type_bytes(t) == 2 ? 0x7fff : 0x7f;
    case PT_TF32:
    case PT_F32:
        return 0x7fffffff;
    case PT_F64:
        return 0x7ff8000000000000ull;
    default:
        return 0;
    }
}

u64 vm_float_pack(double v, enum ptx_type t, int rounding, bool satfinite) {
    bool is_nan;
    u64 r = pack_format(v, format_of(t), rounding_of(rounding), satfinite, &is_nan);
    if (is_nan) return nan_of(t);
    return t == PT_TF32 ? r << 13 : r;
}

double vm_float_unpack(u64 bits, enum ptx_type t) {
    if (t == PT_F64) {
        double d;
        memcpy(&d, &bits, 8);
        return d;
    }
    if (t == PT_F32 || t == PT_TF32) {
        u32 u = (u32)bits;
        if (t == PT_TF32) u &= 0xffffe000;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
    if (t == PT_UE8M0X2) return (bits & 255) == 255 ? NAN : ldexp(1, (int)(bits & 255) - 127);
    struct format f = format_of(t);
    u64 man = bits & ((1ull << f.man) - 1), e = bits >> f.man & ((1ull << f.exp) - 1);
    bool negative = bits >> (f.man + f.exp) & 1;
    double v;
    if (e == (1ull << f.exp) - 1 && f.top == TOP_INF)
        v = man ? NAN : INFINITY;
    else if (e == (1ull << f.exp) - 1 && f.top == TOP_NAN_ONLY && man == (1ull << f.man) - 1)
        v = NAN;
    else if (!e)
        v = ldexp((double)man, 1 - f.bias - f.man);
    else
        v = ldexp((double)(man | 1ull << f.man), (int)e - f.bias - f.man);
    return negative ? -v : v;
}

u16 vm_f32_to_f16(float f) {
    return (u16)vm_float_pack(f, PT_F16, 'n', false);
}
float vm_f16_to_f32(u16 h) {
    return (float)vm_float_unpack(h, PT_F16);
}

static long double int_value(u64 x, enum ptx_type t) {
    switch (t) {
    case PT_U8:
        return (u8)x;
    case PT_U16:
        return (u16)x;
    case PT_U32:
        return (u32)x;
    case PT_U64:
        return x;
    case PT_S8:
        return (s8)x;
    case PT_S16:
        return (s16)x;
    case PT_S32:
        return (s32)x;
    default:
        return (s64)x;
    }
}
static void int_range(enum ptx_type t, long double *lo, long double *hi) {
    int bits = 8 * ptx_type_bytes(t);
    *lo = ptx_type_is_signed(t) ? -ldexpl(1, bits - 1) : 0;
    *hi = ldexpl(1, ptx_type_is_signed(t) ? bits - 1 : bits) - 1;
}
static u64 int_bits(long double v, enum ptx_type t) {
    u64 r = v < 0 ? (u64)(s64)v : (u64)v;
    if (t == PT_S8) return (u64)(s64)(s8)r;
    if (t == PT_S16) return (u64)(s64)(s16)r;
    int bytes = ptx_type_bytes(t);
    return bytes == 8 ? r : r & ((1ull << 8 * bytes) - 1);
}

static long double rounded_integer(long double v, int rounding) {
    if (v != v || isinf(v)) return v;
    switch (rounding) {
    case 'z':
        return truncl(v);
    case 'm':
        return floorl(v);
    case 'p':
        return ceill(v);
    default: {
        long double f = floorl(v), rest = v - f;
        long double r = rest > 0.5L || (rest == 0.5L && fmodl(f, 2) != 0) ? f + 1 : f;
        return r == 0 ? copysignl(0, v) : r;
    }
    }
}

static bool is_int(enum ptx_type t) {
    return t >= PT_U8 && t <= PT_S64;
}

/* Flushes a subnormal of a float type to zero of its sign. */
static long double flush(long double v, enum ptx_type t) {
    if (t == PT_F32 && fabsl(v) < 0x1p-126L) return copysignl(0, v);
    return v;
}

static u64 pack_value(long double v, enum ptx_type t, struct rounding rounding, bool satfinite) {
    bool is_nan;
    u64 r = pack_format(v, format_of(t), rounding, satfinite, &is_nan);
    if (is_nan) return nan_of(t);
    return t == PT_TF32 ? r << 13 : r;
}

/* Powers of two of |v|, .rz or .rp; NaN is 255, and so is what is too large without .satfinite; no zero: the least is
 * 2^-127. */
static u64 ue8m0(long double v, int rounding, bool satfinite) {
    if (v != v) return 255;
    v = fabsl(v);
    if (isinf(v)) return satfinite ? 254 : 255;
    if (v == 0) return 0;
    int e;
    long double m = frexpl(v, &e);
    e -= 1;
    if (rounding == 'p' && m != 0.5L) e++;
    return e < -127 ? 0 : e > 127 && satfinite ? 254 : e > 127 ? 255 : (u64)(e + 127);
}

static enum ptx_type element_type(enum ptx_type t) {
    switch (t) {
    case PT_F16X2:
        return PT_F16;
    case PT_BF16X2:
        return PT_BF16;
    case PT_E4M3X2:
    case PT_E4M3X4:
        return PT_E4M3;
    case PT_E5M2X2:
    case PT_E5M2X4:
        return PT_E5M2;
    case PT_E2M1X4: /* the names of the pairs stand for their elements */
        return PT_E2M1X2;
    case PT_E2M3X4:
        return PT_E2M3X2;
    case PT_E3M2X4:
        return PT_E3M2X2;
    default:
        return t;
    }
}
static int element_bits(enum ptx_type t) {
    return t == PT_F16X2 || t == PT_BF16X2 ? 16 : t == PT_E2M1X2 || t == PT_E2M1X4 ? 4 : 8;
}
static bool is_pair(enum ptx_type t) {
    return element_type(t) != t || t == PT_E2M1X2 || t == PT_E2M3X2 || t == PT_E3M2X2 || t == PT_UE8M0X2;
}

static u64 one_element(const struct cvt *v, long double x, struct rounding r) {
    enum ptx_type t = element_type(v->to);
    if (v->relu && !(x > 0) && x == x) x = 0;
    if (t == PT_UE8M0X2) return ue8m0(x, v->rounding, v->satfinite);
    if (x != x && (t == PT_E2M1X2 || t == PT_E2M3X2 || t == PT_E3M2X2)) /* no NaN there: the largest positive number */
        x = INFINITY;
    return pack_value(x, t, r, v->satfinite);
}

/* cvt.rs: n values of f32 into one register, the first in the upper element, with 32 random bits. Two f16 take 13 bits
 * and two bf16 16 bits each from their half of them. Of four elements, two share 16 bits (of eight-bit elements a half,
 * of four-bit ones a byte of each half); a B200 is reported to read them backwards for the first of the two, which PTX
 * does not say. */
static u64 convert_random(const struct cvt *v, const u32 *x, int n, u32 random) {
    int bits = element_bits(v->to), count = v->to == PT_F16X2 ? 13 : 16;
    u64 out = 0;
    for (int i = 0; i < n; i++) {
        bool lower = i >= n / 2;
        u32 r = lower ? random & 0xffff : random >> 16;
        if (bits == 4)
            r = lower ? (random & 255) | (random >> 8 & 0xff00) : (random >> 8 & 255) | (random >> 16 & 0xff00);
        if (n == 4 && i % 2 == 0) {
            u32 forwards = r;
            r = 0;
            for (int k = 0; k < 16; k++) r |= (forwards >> k & 1) << (15 - k);
        }
        r &= (1u << count) - 1;
        out = out << bits | one_element(v, vm_float_unpack(x[i], PT_F32), (struct rounding){'s', count, r});
    }
    return out;
}
enum step op_cvt_rs(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)w;
    const struct ext *x = in->ext;
    int n = x->n - 1;
    struct cvt v = {.to = (enum ptx_type)x->type, .relu = x->mode & 1, .satfinite = x->mode >> 1};
    EACH_LANE(i, mask) {
        u32 values[4];
        for (int k = 0; k < n; k++) values[k] = ((const u32 *)row(s->frame, x->ops[k]))[i];
        row_put(row(s->frame, in->d), i, in->dsize,
                convert_random(&v, values, n, ((const u32 *)row(s->frame, x->ops[n]))[i]));
    }
    return STEP_NEXT;
}

/* cvt.pack: s32 clamped to nn bits, signed or not (mode); the second operand is the lowest element, and the third one's
 * low bits, if there is one, go above the two. ops: a, b, c or NO_ROW */
enum step op_cvt_pack(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)w;
    const struct ext *x = in->ext;
    s32 most = (s32)((1u << (x->nn - x->mode)) - 1), least = x->mode ? -most - 1 : 0;
    EACH_LANE(i, mask) {
        u64 r = x->ops[2] == NO_ROW ? 0 : ((const u32 *)row(s->frame, x->ops[2]))[i];
        for (int k = 0; k < 2; k++) {
            s32 a = ((const s32 *)row(s->frame, x->ops[k]))[i];
            a = a < least ? least : a > most ? most : a;
            r = r << x->nn | ((u32)a & ((1u << x->nn) - 1));
        }
        ((u32 *)row(s->frame, in->d))[i] = (u32)r;
    }
    return STEP_NEXT;
}

u64 vm_convert(const struct cvt *v, u64 x, u64 y) {
    if (is_pair(v->to)) {
        int bits = element_bits(v->to);
        u64 lo, hi, mask = (1ull << bits) - 1;
        struct rounding r = rounding_of(v->rounding);
        if (v->from == PT_F32) { /* the first source is the upper element */
            hi = one_element(v, vm_float_unpack(x, PT_F32), r);
            lo = one_element(v, vm_float_unpack(y, PT_F32), r);
        } else {
            enum ptx_type t = element_type(v->from);
            int from = element_bits(v->from);
            lo = one_element(v, vm_float_unpack(x & ((1ull << from) - 1), t), r);
            hi = one_element(v, vm_float_unpack(x >> from & ((1ull << from) - 1), t), r);
        }
        return (lo & mask) | (hi & mask) << bits;
    }
    bool from_int = is_int(v->from), to_int = is_int(v->to);
    long double value = from_int ? int_value(x, v->from) : (long double)vm_float_unpack(x, v->from);
    if (v->ftz && !from_int) value = flush(value, v->from);
    if (to_int) {
        long double lo, hi;
        int_range(v->to, &lo, &hi);
        if (value != value) /* NaN: zero, but the middle of the range where 64 bits are involved */
            return v->from == PT_F64 || ptx_type_bytes(v->to) == 8
                       ? int_bits(ldexpl(1, 8 * ptx_type_bytes(v->to) - 1), PT_U64)
                       : 0;
        if (!from_int) value = rounded_integer(value, v->rounding);
        if (!from_int || v->sat) value = value < lo ? lo : value > hi ? hi : value;
        return int_bits(value, v->to);
    }
    if (v->integer) value = rounded_integer(value, v->rounding);
    if (v->sat) value = value != value ? 0 : value < 0 ? 0 : value > 1 ? 1 : value;
    if (v->sat && value == 0) value = 0.0L;
    if (v->relu && !(value > 0) && value == value) value = 0;
    if (v->from == PT_F64 && v->to == PT_F64 && value != value) return x | 1ull << 51;
    u64 r = pack_value(value, v->to, rounding_of(v->rounding), v->satfinite);
    if (v->ftz && v->to == PT_F32 && !(r & 0x7f800000)) r &= 0x80000000;
    return r;
}
