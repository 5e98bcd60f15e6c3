/* Every arithmetic instruction in a tiny kernel of its own, against a model written from the PTX manual's words: bits one by one,
 * 128-bit integers, double. Operands are edge values in all pairs, then random bits. */
#include "verify/ptxvm/tests/vm_test.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef int64_t s64;
typedef int32_t s32;
typedef int16_t s16;
typedef uint16_t u16;

static float F(u64 a) {
    u32 u = (u32)a;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static double G(u64 a) {
    double d;
    memcpy(&d, &a, 8);
    return d;
}
static u64 RF(float f) { return f != f ? 0x7fffffff : f_bits(f); }
static u64 RG(double d) {
    u64 u;
    memcpy(&u, &d, 8);
    return d != d ? 0x7ff8000000000000ull : u;
}
static u64 bit(u64 v, int i) { return v >> i & 1; }
static u64 reversed(u64 v, int n) {
    u64 r = 0;
    for (int i = 0; i < n; i++) r |= bit(v, i) << (n - 1 - i);
    return r;
}
static int highest(u64 v) {
    int h = -1;
    for (int i = 0; i < 64; i++)
        if (bit(v, i)) h = i;
    return h;
}
static u64 ones(u64 v) {
    u64 n = 0;
    for (int i = 0; i < 64; i++) n += bit(v, i);
    return n;
}
static u64 field(u64 v, u64 pos, u64 len, int width, int sgn) {
    u64 r = 0, top;
    pos &= 255, len &= 255;
    top = pos + len < (u64)width ? pos + len : (u64)width;
    u64 sign = sgn && len ? bit(v, (int)top - 1) : 0;
    for (int i = 0; i < width; i++) r |= ((u64)i < len && pos + (u64)i < (u64)width ? bit(v, (int)(pos + (u64)i)) : sign) << i;
    return r;
}
static u64 inserted(u64 a, u64 b, u64 pos, u64 len, int width) {
    pos &= 255, len &= 255;
    for (u64 i = 0; i < len && pos + i < (u64)width; i++) b = (b & ~(1ull << (pos + i))) | bit(a, (int)i) << (pos + i);
    return b;
}
static u64 table3(u64 a, u64 b, u64 c, int lut) {
    u64 r = 0;
    for (int i = 0; i < 32; i++) r |= (u64)(lut >> (bit(a, i) << 2 | bit(b, i) << 1 | bit(c, i)) & 1) << i;
    return r;
}
static u64 permuted(u64 a, u64 b, u64 sel) {
    u64 r = 0;
    for (int k = 0; k < 4; k++) {
        int s = (int)(sel >> 4 * k & 15);
        u64 byte = (s & 7) < 4 ? a >> 8 * (s & 3) & 255 : b >> 8 * (s & 3) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << 8 * k;
    }
    return r;
}
static u64 dot4(u64 a, u64 b, u64 c, int sa, int sb) {
    s64 r = (s64)c;
    for (int k = 0; k < 32; k += 8) r += (sa ? (int8_t)(a >> k) : (s64)(a >> k & 255)) * (sb ? (int8_t)(b >> k) : (s64)(b >> k & 255));
    return (u32)r;
}
static s64 clamp(double v, double lo, double hi) { return v != v ? 0 : v <= lo ? (s64)lo : v >= hi ? (s64)hi : (s64)v; }
static u64 small_f32(double v) { return RF((float)v); }
static u64 ftz(u64 v) { return v & 0x7f800000 ? v & 0xffffffff : v & 0x80000000; }
static double half_value(u64 h) {
    int e = (int)(h >> 10 & 31), f = (int)(h & 1023);
    double v = e == 31 ? (f ? NAN : INFINITY) : e ? ldexp(f + 1024, e - 25) : ldexp(f, -24);
    return h & 0x8000 ? -v : v;
}
/* The nearest half by search between two neighbours in order of value. */
static u64 half_bits(double v) {
    if (v != v) return 0x7fff;
    u64 sign = signbit(v) ? 0x8000 : 0, lo = 0, hi = 0x7c00;
    v = fabs(v);
    if (v >= 65520) return sign | 0x7c00;
    while (hi - lo > 1) {
        u64 mid = (lo + hi) / 2;
        if (half_value(mid) <= v) lo = mid;
        else hi = mid;
    }
    double up = hi == 0x7c00 ? 65536 : half_value(hi), down = half_value(lo);
    return sign | (v - down > up - v || (v - down == up - v && lo & 1) ? hi : lo);
}
static double min_of(double x, double y) { return x != x ? y : y != y ? x : x < y ? x : y < x ? y : signbit(x) ? x : y; }
static double max_of(double x, double y) { return x != x ? y : y != y ? x : x > y ? x : y > x ? y : signbit(x) ? y : x; }

/* name, instructions, bytes of d a b c, the result */
#define LIST(X) \
    X(add_u32, "add.u32 %d, %a, %b;", 4, 4, 4, 4, (u32)(a + b)) X(add_s64, "add.s64 %d, %a, %b;", 8, 8, 8, 8, a + b) X(sub_u16, "sub.u16 %d, %a, %b;", 2, 2, 2, 2, (u16)(a - b)) \
    X(add_sat, "add.sat.s32 %d, %a, %b;", 4, 4, 4, 4, (u32)clamp((double)(s32)a + (s32)b, INT32_MIN, INT32_MAX)) \
    X(sub_sat, "sub.sat.s32 %d, %a, %b;", 4, 4, 4, 4, (u32)clamp((double)(s32)a - (s32)b, INT32_MIN, INT32_MAX)) \
    X(carry, "add.cc.u32 %t, %a, %b; addc.u32 %d, %c, 0;", 4, 4, 4, 4, (u32)(c + ((a + b) >> 32))) \
    X(borrow, "sub.cc.u32 %t, %a, %b; subc.u32 %d, %c, 0;", 4, 4, 4, 4, (u32)(c - (a < b))) \
    X(madc, "mad.lo.cc.u32 %t, %a, %b, %c; madc.hi.u32 %d, %a, %b, 0;", 4, 4, 4, 4, (a * b + c) >> 32) \
    X(mul_hi_s32, "mul.hi.s32 %d, %a, %b;", 4, 4, 4, 4, (u32)((s64)(s32)a * (s32)b >> 32)) X(mul_wide_s16, "mul.wide.s16 %d, %a, %b;", 4, 2, 2, 4, (u32)((s32)(s16)a * (s16)b)) \
    X(mul_hi_u64, "mul.hi.u64 %d, %a, %b;", 8, 8, 8, 8, (u64)((unsigned __int128)a * b >> 64)) X(mul_hi_s64, "mul.hi.s64 %d, %a, %b;", 8, 8, 8, 8, (u64)((__int128)(s64)a * (s64)b >> 64)) \
    X(mad_wide_s32, "mad.wide.s32 %d, %a, %b, %c;", 8, 4, 4, 8, (u64)((s64)(s32)a * (s32)b) + c) X(mad_lo_s32, "mad.lo.s32 %d, %a, %b, %c;", 4, 4, 4, 4, (u32)(a * b + c)) \
    X(mul24_u32, "mul24.lo.u32 %d, %a, %b;", 4, 4, 4, 4, (u32)((a & 0xffffff) * (b & 0xffffff))) \
    X(sad_s32, "sad.s32 %d, %a, %b, %c;", 4, 4, 4, 4, (u32)(c + (u64)llabs((s64)(s32)a - (s32)b))) \
    X(div_u32, "div.u32 %d, %a, %b;", 4, 4, 4, 4, (u32)b ? (u32)a / (u32)b : (u32)v_skip()) X(rem_s64, "rem.s64 %d, %a, %b;", 8, 8, 8, 8, b && b != ~0ull ? (u64)((s64)a % (s64)b) : v_skip()) \
    X(div_s32, "div.s32 %d, %a, %b;", 4, 4, 4, 4, (u32)b && (u32)b != ~0u ? (u32)((s32)a / (s32)b) : v_skip()) \
    X(abs_s32, "abs.s32 %d, %a;", 4, 4, 4, 4, (s32)a < 0 ? (u32)-a : a) X(min_s16, "min.s16 %d, %a, %b;", 2, 2, 2, 2, (u16)((s16)a < (s16)b ? a : b)) \
    X(max_u64, "max.u64 %d, %a, %b;", 8, 8, 8, 8, a > b ? a : b) X(max_relu, "max.relu.s32 %d, %a, %b;", 4, 4, 4, 4, (u32)((s32)a > (s32)b ? ((s32)a > 0 ? a : 0) : (s32)b > 0 ? b : 0)) \
    X(shl_b32, "shl.b32 %d, %a, %b;", 4, 4, 4, 4, b > 31 ? 0 : (u32)(a << b)) X(shr_s32, "shr.s32 %d, %a, %b;", 4, 4, 4, 4, (u32)((s64)(s32)a >> (b > 31 ? 31 : b))) \
    X(shr_u64, "shr.u64 %d, %a, %b;", 8, 8, 4, 4, b > 63 ? 0 : a >> b) X(shl_b16, "shl.b16 %d, %a, %b;", 2, 2, 4, 4, b > 15 ? 0 : (u16)(a << b)) \
    X(shf_l_wrap, "shf.l.wrap.b32 %d, %a, %b, %c;", 4, 4, 4, 4, (u32)(((b << 32 | a) << (c & 31)) >> 32)) \
    X(shf_r_clamp, "shf.r.clamp.b32 %d, %a, %b, %c;", 4, 4, 4, 4, (u32)((b << 32 | a) >> (c > 32 ? 32 : c))) X(shf_l_clamp, "shf.l.clamp.b32 %d, %a, %b, %c;", 4, 4, 4, 4, c > 31 ? a : (u32)(((b << 32 | a) << c) >> 32)) \
    X(popc_b64, "popc.b64 %d, %a;", 4, 8, 4, 4, ones(a)) X(clz_b32, "clz.b32 %d, %a;", 4, 4, 4, 4, (u64)(31 - highest(a))) X(clz_b64, "clz.b64 %d, %a;", 4, 8, 4, 4, (u64)(63 - highest(a))) \
    X(brev_b32, "brev.b32 %d, %a;", 4, 4, 4, 4, reversed(a, 32)) X(brev_b64, "brev.b64 %d, %a;", 8, 8, 4, 4, reversed(a, 64)) \
    X(bfind_s32, "bfind.s32 %d, %a;", 4, 4, 4, 4, (u32)highest((s32)a < 0 ? (u32)~a : a)) X(bfind_sh, "bfind.shiftamt.u32 %d, %a;", 4, 4, 4, 4, a ? (u32)(31 - highest(a)) : ~0u) \
    X(bfe_u32, "bfe.u32 %d, %a, %b, %c;", 4, 4, 4, 4, field(a, b, c, 32, 0)) X(bfe_s32, "bfe.s32 %d, %a, %b, %c;", 4, 4, 4, 4, field(a, b, c, 32, 1)) \
    X(bfe_s64, "bfe.s64 %d, %a, %b, %c;", 8, 8, 4, 4, field(a, b, c, 64, 1)) X(bfi_b32, "bfi.b32 %d, %a, %b, %c, 7;", 4, 4, 4, 4, inserted(a, b, c, 7, 32)) \
    X(bfi_b64, "bfi.b64 %d, %a, %b, %c, 40;", 8, 8, 8, 4, inserted(a, b, c, 40, 64)) X(lop3_96, "lop3.b32 %d, %a, %b, %c, 0x96;", 4, 4, 4, 4, table3(a, b, c, 0x96)) \
    X(lop3_e2, "lop3.b32 %d, %a, %b, %c, 0xe2;", 4, 4, 4, 4, table3(a, b, c, 0xe2)) X(prmt, "prmt.b32 %d, %a, %b, %c;", 4, 4, 4, 4, permuted(a, b, c)) \
    X(prmt_f4e, "prmt.b32.f4e %d, %a, %b, %c;", 4, 4, 4, 4, (u32)((b << 32 | a) >> 8 * (c & 3))) X(prmt_rc8, "prmt.b32.rc8 %d, %a, %b, %c;", 4, 4, 4, 4, (a >> 8 * (c & 3) & 255) * 0x01010101u) \
    X(dp4a_us, "dp4a.u32.s32 %d, %a, %b, %c;", 4, 4, 4, 4, dot4(a, b, c, 0, 1)) X(dp4a_ss, "dp4a.s32.s32 %d, %a, %b, %c;", 4, 4, 4, 4, dot4(a, b, c, 1, 1)) \
    X(dp2a_lo, "dp2a.lo.s32.u32 %d, %a, %b, %c;", 4, 4, 4, 4, (u32)(c + (u64)((s64)(s16)a * (s64)(b & 255)) + (u64)((s64)(s16)(a >> 16) * (s64)(b >> 8 & 255)))) \
    X(cnot, "cnot.b32 %d, %a;", 4, 4, 4, 4, a == 0) X(slct, "slct.b32.s32 %d, %a, %b, %c;", 4, 4, 4, 4, (s32)c >= 0 ? a : b) \
    X(setp_lo, "setp.lo.u32 %p, %a, %b; selp.b32 %d, 7, 9, %p;", 4, 4, 4, 4, a < b ? 7 : 9) X(setp_gtu, "setp.gtu.f32 %p, %a, %b; selp.b32 %d, 1, 0, %p;", 4, 4, 4, 4, !(F(a) <= F(b))) \
    X(setp_and, "setp.ge.s32 %p, %c, 0; setp.lt.and.s32 %p|%q, %a, %b, %p; selp.b32 %t, 2, 0, %q; selp.b32 %d, 1, %t, %p;", 4, 4, 4, 4, (s32)c < 0 ? 0 : (s32)a < (s32)b ? 1 : 2) \
    X(setp_ne, "setp.ne.f32 %p, %a, %b; selp.b32 %d, 1, 0, %p;", 4, 4, 4, 4, F(a) < F(b) || F(a) > F(b)) X(set_f32, "set.lt.f32.s32 %d, %a, %b;", 4, 4, 4, 4, (s32)a < (s32)b ? 0x3f800000 : 0) \
    X(testp, "testp.subnormal.f32 %p, %a; selp.b32 %d, 1, 0, %p;", 4, 4, 4, 4, fpclassify(F(a)) == FP_SUBNORMAL) \
    X(add_f32, "add.rn.f32 %d, %a, %b;", 4, 4, 4, 4, RF(F(a) + F(b))) X(mul_f32_ftz, "mul.rn.ftz.f32 %d, %a, %b;", 4, 4, 4, 4, v_tiny(F(ftz(a)) * (double)F(ftz(b))) ? v_skip() : ftz(RF(F(ftz(a)) * F(ftz(b))))) \
    X(fma_f32, "fma.rn.f32 %d, %a, %b, %c;", 4, 4, 4, 4, RF(fmaf(F(a), F(b), F(c)))) X(add_sat_f32, "add.sat.f32 %d, %a, %b;", 4, 4, 4, 4, RF(!(F(a) + F(b) > 0) ? 0.0f : F(a) + F(b) > 1 ? 1.0f : F(a) + F(b))) \
    X(div_f32, "div.rn.f32 %d, %a, %b;", 4, 4, 4, 4, RF(F(a) / F(b))) X(sqrt_f32, "sqrt.rn.f32 %d, %a;", 4, 4, 4, 4, RF(sqrtf(F(a)))) \
    X(mul_rz, "mul.rz.f32 %d, %a, %b;", 4, 4, 4, 4, v_toward_zero((double)F(a) * F(b))) X(min_f32, "min.f32 %d, %a, %b;", 4, 4, 4, 4, small_f32(min_of(F(a), F(b)))) \
    X(max_nan, "max.NaN.f32 %d, %a, %b;", 4, 4, 4, 4, F(a) != F(a) || F(b) != F(b) ? 0x7fffffff : small_f32(max_of(F(a), F(b)))) X(neg_f32, "neg.f32 %d, %a;", 4, 4, 4, 4, a ^ 0x80000000) \
    X(copysign, "copysign.f32 %d, %a, %b;", 4, 4, 4, 4, (a & 0x80000000) | (b & 0x7fffffff)) X(add_f64, "add.f64 %d, %a, %b;", 8, 8, 8, 8, v_nan64(G(a) + G(b))) \
    X(fma_f64, "fma.rn.f64 %d, %a, %b, %c;", 8, 8, 8, 8, v_nan64(fma(G(a), G(b), G(c)))) X(min_f64, "min.f64 %d, %a, %b;", 8, 8, 8, 8, v_nan64(min_of(G(a), G(b)))) \
    X(mul_f16, "mul.rn.f16 %d, %a, %b;", 2, 2, 2, 2, half_bits(half_value(a) * half_value(b))) X(fma_f16, "fma.rn.f16 %d, %a, %b, %c;", 2, 2, 2, 2, half_bits(half_value(a) * half_value(b) + half_value(c))) \
    X(add_f16x2, "add.f16x2 %d, %a, %b;", 4, 4, 4, 4, half_bits(half_value(a & 0xffff) + half_value(b & 0xffff)) | half_bits(half_value(a >> 16) + half_value(b >> 16)) << 16) \
    X(cvt_rni, "cvt.rni.s32.f32 %d, %a;", 4, 4, 4, 4, (u32)clamp(nearbyint(F(a)), INT32_MIN, INT32_MAX)) X(cvt_rzi_u32, "cvt.rzi.u32.f32 %d, %a;", 4, 4, 4, 4, (u32)clamp(trunc(F(a)), 0, UINT32_MAX)) \
    X(cvt_rmi, "cvt.rmi.s32.f32 %d, %a;", 4, 4, 4, 4, (u32)clamp(floor(F(a)), INT32_MIN, INT32_MAX)) X(cvt_sat_u8, "cvt.sat.u8.s32 %d, %a;", 4, 4, 4, 4, (s32)a < 0 ? 0 : (s32)a > 255 ? 255 : a) \
    X(cvt_s8, "cvt.s32.s8 %d, %a;", 4, 4, 4, 4, (u32)(s32)(int8_t)a) X(cvt_u16, "cvt.u64.u16 %d, %a;", 8, 4, 4, 4, a & 0xffff) X(cvt_f32_s32, "cvt.rn.f32.s32 %d, %a;", 4, 4, 4, 4, RF((float)(s32)a)) \
    X(cvt_f32_u64, "cvt.rn.f32.u64 %d, %a;", 4, 8, 4, 4, RF((float)a)) X(cvt_rz, "cvt.rz.f32.f64 %d, %a;", 4, 8, 4, 4, v_toward_zero(G(a))) X(cvt_f16, "cvt.rn.f16.f32 %d, %a;", 2, 4, 4, 4, half_bits(F(a))) \
    X(cvt_from_f16, "cvt.f32.f16 %d, %a;", 4, 2, 4, 4, small_f32(half_value(a))) X(cvt_f64, "cvt.f64.f32 %d, %a;", 8, 4, 4, 4, v_nan64((double)F(a))) X(cvt_int, "cvt.rpi.f32.f32 %d, %a;", 4, 4, 4, 4, RF(ceilf(F(a)))) \
    X(pack, "mov.b64 %d, {%a, %b};", 8, 4, 4, 4, b << 32 | a) X(unpack, "mov.b64 {%t, %d}, %a;", 4, 8, 4, 4, a >> 32) X(bmsk, "bmsk.clamp.b32 %d, %a, %b;", 4, 4, 4, 4, v_mask(a, b)) \
    X(guarded, "setp.lt.u32 %p, %a, %b; mov.u32 %d, 5; @%p mov.u32 %d, 6; @!%p add.u32 %d, %d, 10;", 4, 4, 4, 4, a < b ? 6 : 15)

static bool skip; /* the result is not specified for these operands */
static u64 v_skip(void) {
    skip = true;
    return 0;
}
static bool v_tiny(double v) { return fabs(v) < 0x1p-125 && fabs(v) > 0x1p-127; }
static u64 v_nan64(double d) {
    if (d != d) skip = true; /* the payload is not specified */
    return RG(d);
}
static u64 v_toward_zero(double v) {
    float f = (float)v;
    if (v != v) return 0x7fffffff;
    if (isinf(v)) return RF(f);
    if (fabs(f) > fabs(v)) f = nextafterf(f, 0);
    return RF(f);
}
static u64 v_mask(u64 from, u64 n) {
    u64 r = 0;
    for (u64 i = 0; i < 32; i++) r |= (u64)(i >= from && i - from < n) << i;
    return r;
}

#define X(NAME, TEXT, D, A, B, C, E) \
    static u64 model_##NAME(u64 a, u64 b, u64 c) { \
        (void)a, (void)b, (void)c; \
        return E; \
    }
LIST(X)
#undef X
static const struct instruction {
    const char *name, *text;
    int bytes[4];
    u64 (*model)(u64, u64, u64);
} list[] = {
#define X(NAME, TEXT, D, A, B, C, E) {#NAME, TEXT, {D, A, B, C}, model_##NAME},
    LIST(X)
#undef X
};

static u64 narrowed(u64 v, int bytes) { return bytes == 8 ? v : v & ((1ull << 8 * bytes) - 1); }

static void t_instructions(void **unused) {
    (void)unused;
    enum { N = 4096 };
    static const u64 edges[] = {0, 1, 2, 31, 32, 33, 0x7f, 0x80, 0xff, 0x3c00, 0x7c00, 0x7e00, 0x8000, 0xffff, 0x3f800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x80000000, 0x00000001, 0x007fffff, 0x4f000000, 0xcf000000,
                                0x7fffffff, 0xffffffff, 0x3ff0000000000000, 0x7ff0000000000000, 0x8000000000000000, 0xffffffffffffffff, 0x7fffffffffffffff, 0xc0000000, 0x3f000000};
    enum { E = sizeof edges / sizeof *edges };
    static u64 in[3][N], out[N];
    uint32_t seed = 4711;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 3; k++) {
            u64 r = (u64)rnd(&seed) << 32 | rnd(&seed);
            in[k][i] = i < E * E ? (k == 0 ? edges[i % E] : k == 1 ? edges[i / E] : edges[rnd(&seed) % E]) : rnd(&seed) % 4 ? r : r & 63;
        }
    u64 args[4];
    for (int k = 0; k < 3; k++) args[k] = device(sizeof in[k], in[k]);
    args[3] = device(sizeof out, NULL);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct buf b = {0};
        static const char *const types[9] = {[2] = "b16", [4] = "b32", [8] = "b64"};
        buf_printf(&b, ".version 8.7\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd) {\n"
                       ".reg .b64 %%x<8>; .reg .b32 %%i<4>, %%t; .reg .pred %%p, %%q; .reg .%s %%d; .reg .%s %%a; .reg .%s %%b; .reg .%s %%c;\n"
                       "mov.u32 %%i0, %%tid.x; mov.u32 %%i1, %%ctaid.x; mad.lo.u32 %%i0, %%i1, 128, %%i0; mul.wide.u32 %%x0, %%i0, 8;\n",
                   types[list[i].bytes[0]], types[list[i].bytes[1]], types[list[i].bytes[2]], types[list[i].bytes[3]]);
        for (int k = 0; k < 3; k++)
            buf_printf(&b, "ld.param.u64 %%x1, [p%c]; add.u64 %%x1, %%x1, %%x0; ld.global.%s %%%c, [%%x1];\n", 'a' + k, types[list[i].bytes[k + 1]], 'a' + k);
        buf_printf(&b, "%s\nld.param.u64 %%x1, [pd]; add.u64 %%x1, %%x1, %%x0; mov.u64 %%x2, 0; st.global.u64 [%%x1], %%x2; st.global.%s [%%x1], %%d;\nret;\n}\n", list[i].text, types[list[i].bytes[0]]);
        struct vm_module *m = load_text(b.data, list[i].name);
        LAUNCH(m, "k", D1(N / 128), D1(128), 0, args[0], args[1], args[2], args[3]);
        vm_module_free(m);
        buf_free(&b);
        fetch(out, args[3], sizeof out);
        for (int k = 0; k < N; k++) {
            u64 a = narrowed(in[0][k], list[i].bytes[1]), bb = narrowed(in[1][k], list[i].bytes[2]), c = narrowed(in[2][k], list[i].bytes[3]);
            skip = false;
            u64 expected = list[i].model(a, bb, c);
            if (!skip && narrowed(expected, list[i].bytes[0]) != out[k])
                fail_msg("%s: a %llx b %llx c %llx: got %llx, expected %llx", list[i].text, (unsigned long long)a, (unsigned long long)bb, (unsigned long long)c, (unsigned long long)out[k], (unsigned long long)expected);
        }
    }
}

static void t_unknown(void **unused) { /* an error with its line, when the function is looked up and not before */
    (void)unused;
    struct vm_module *m = load_text(".version 8.0\n.target sm_80\n.address_size 64\n.entry good() { ret; }\n.entry bad() {\n.reg .b32 %r<2>;\nadd.frob.s32 %r1, %r1, %r1;\nret; }\n", "x.ptx");
    struct vm_function *f;
    char log[300];
    assert_int_equal(vm_module_function(m, "good", &f, log, sizeof log), 0);
    assert_int_equal(vm_module_function(m, "bad", &f, log, sizeof log), 218);
    assert_non_null(strstr(log, "x.ptx line 7: add.frob.s32"));
    assert_int_equal(vm_module_function(m, "none", &f, log, sizeof log), 500);
    vm_module_free(m);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_instructions), cmocka_unit_test(t_unknown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
