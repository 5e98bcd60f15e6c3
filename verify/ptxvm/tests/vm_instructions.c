/* Every arithmetic instruction in a tiny kernel of its own, against a model written from the PTX manual's words: bits
 * one by one, 128-bit integers, double. Operands are edge values in all pairs, then random bits. */
#include "verify/ptxvm/tests/vm_formats.h"

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
static u64 RF(float f) {
    return f != f ? 0x7fffffff : f_bits(f);
}
static u64 RG(double d) {
    u64 u;
    memcpy(&u, &d, 8);
    return d != d ? 0x7ff8000000000000ull : u;
}
static u64 bit(u64 v, int i) {
    return v >> i & 1;
}
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
    for (int i = 0; i < width; i++)
        r |= ((u64)i < len && pos + (u64)i < (u64)width ? bit(v, (int)(pos + (u64)i)) : sign) << i;
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
    for (int k = 0; k < 32; k += 8)
        r += (sa ? (int8_t)(a >> k) : (s64)(a >> k & 255)) * (sb ? (int8_t)(b >> k) : (s64)(b >> k & 255));
    return (u32)r;
}
static u64 differences(u64 a, u64 b, int bits, int sgn, int sum) {
    u64 r = 0;
    for (int k = 0; k < 32; k += bits) {
        s64 x = 0, y = 0;
        for (int i = 0; i < bits; i++) {
            s64 weight = sgn && i == bits - 1 ? -(1 << i) : 1 << i;
            x += (s64)bit(a, k + i) * weight, y += (s64)bit(b, k + i) * weight;
        }
        r += (u64)llabs(x - y) << (sum ? 0 : k);
    }
    return r;
}
static s64 low24(u64 v) {
    s64 r = 0;
    for (int i = 0; i < 24; i++) r += (s64)bit(v, i) * (i == 23 ? -(1 << 23) : 1 << i);
    return r;
}
static u64 nth_set(u64 mask, u64 base, s32 offset) {
    s64 count = llabs((s64)offset);
    if (!offset) return bit(mask, (int)base) ? base : 0xffffffff;
    for (int at = (int)base; at >= 0 && at<32; at += offset> 0 ? 1 : -1)
        if (bit(mask, at) && !--count) return (u64)at;
    return 0xffffffff;
}
static u64 extended(u64 v, u64 n, int clamps, int sgn) {
    u64 r = 0;
    if (n > 31 && clamps) return v;
    n &= 31;
    for (u64 i = 0; i < 32; i++) r |= (i < n ? bit(v, (int)i) : n && sgn ? bit(v, (int)n - 1) : 0) << i;
    return r;
}
static int far_apart(u64 a, u64 b) { /* their sum has more bits than the model's long double */
    return llabs((s64)(a >> 23 & 255) - (s64)(b >> 23 & 255)) > 38;
}
static s64 clamp(double v, double lo, double hi) {
    return v != v ? 0 : v <= lo ? (s64)lo : v >= hi ? (s64)hi : (s64)v;
}
static u64 small_f32(double v) {
    return RF((float)v);
}
static u64 ftz(u64 v) {
    return v & 0x7f800000 ? v & 0xffffffff : v & 0x80000000;
}
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
        if (half_value(mid) <= v)
            lo = mid;
        else
            hi = mid;
    }
    double up = hi == 0x7c00 ? 65536 : half_value(hi), down = half_value(lo);
    return sign | (v - down > up - v || (v - down == up - v && lo & 1) ? hi : lo);
}
static double min_of(double x, double y) {
    return x != x ? y : y != y ? x : x < y ? x : y < x ? y : signbit(x) ? x : y;
}
static double max_of(double x, double y) {
    return x != x ? y : y != y ? x : x > y ? x : y > x ? y : signbit(x) ? y : x;
}

static bool skip; /* the result is not specified for these operands */
static u64 v_skip(void) {
    skip = true;
    return 0;
}
static bool v_tiny(double v) {
    return fabs(v) < 0x1p-125 && fabs(v) > 0x1p-127;
}
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

#define X(NAME, TEXT, D, A, B, C, E)                                                                                   \
    static u64 model_##NAME(u64 a, u64 b, u64 c) {                                                                     \
        (void)a, (void)b, (void)c;                                                                                     \
        return E;                                                                                                      \
    }
#include "verify/ptxvm/tests/vm_instructions.def"
#undef X
static const struct instruction {
    const char *name, *text;
    int bytes[4];
    u64 (*model)(u64, u64, u64);
} list[] = {
#define X(NAME, TEXT, D, A, B, C, E) {#NAME, TEXT, {D, A, B, C}, model_##NAME},
#include "verify/ptxvm/tests/vm_instructions.def"
#undef X
};

static u64 narrowed(u64 v, int bytes) {
    return bytes == 8 ? v : v & ((1ull << 8 * bytes) - 1);
}

static void t_instructions(void **unused) {
    (void)unused;
    enum { N = 4096 };
    static const u64 edges[] = {0,
                                1,
                                2,
                                31,
                                32,
                                33,
                                0x7f,
                                0x80,
                                0xff,
                                0x3c00,
                                0x7c00,
                                0x7e00,
                                0x8000,
                                0xffff,
                                0x3f800000,
                                0x7f800000,
                                0xff800000,
                                0x7fc00000,
                                0x80000000,
                                0x00000001,
                                0x007fffff,
                                0x4f000000,
                                0xcf000000,
                                0x7fffffff,
                                0xffffffff,
                                0x3ff0000000000000,
                                0x7ff0000000000000,
                                0x8000000000000000,
                                0xffffffffffffffff,
                                0x7fffffffffffffff,
                                0xc0000000,
                                0x3f000000};
    enum { E = sizeof edges / sizeof *edges };
    static u64 in[3][N], out[N];
    uint32_t seed = 4711;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < 3; k++) {
            u64 r = (u64)rnd(&seed) << 32 | rnd(&seed);
            in[k][i] = i < E * E        ? (k == 0   ? edges[i % E]
                                           : k == 1 ? edges[i / E]
                                                    : edges[rnd(&seed) % E])
                       : rnd(&seed) % 4 ? r
                                        : r & 63;
        }
    u64 args[4];
    for (int k = 0; k < 3; k++) args[k] = device(sizeof in[k], in[k]);
    args[3] = device(sizeof out, NULL);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        struct buf b = {0};
        static const char *const types[9] = {[2] = "b16", [4] = "b32", [8] = "b64"};
        buf_printf(&b,
                   ".version 8.7\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 pa, .param .u64 pb, "
                   ".param .u64 pc, .param .u64 pd) {\n"
                   ".reg .b64 %%x<8>; .reg .b32 %%i<4>, %%t; .reg .pred %%p, %%q; .reg .%s %%d; .reg .%s %%a; .reg .%s "
                   "%%b; .reg .%s %%c;\n"
                   "mov.u32 %%i0, %%tid.x; mov.u32 %%i1, %%ctaid.x; mad.lo.u32 %%i0, %%i1, 128, %%i0; mul.wide.u32 "
                   "%%x0, %%i0, 8;\n",
                   types[list[i].bytes[0]], types[list[i].bytes[1]], types[list[i].bytes[2]], types[list[i].bytes[3]]);
        for (int k = 0; k < 3; k++)
            buf_printf(&b, "ld.param.u64 %%x1, [p%c]; add.u64 %%x1, %%x1, %%x0; ld.global.%s %%%c, [%%x1];\n", 'a' + k,
                       types[list[i].bytes[k + 1]], 'a' + k);
        buf_printf(&b,
                   "%s\nld.param.u64 %%x1, [pd]; add.u64 %%x1, %%x1, %%x0; mov.u64 %%x2, 0; st.global.u64 [%%x1], "
                   "%%x2; st.global.%s [%%x1], %%d;\nret;\n}\n",
                   list[i].text, types[list[i].bytes[0]]);
        struct vm_module *m = load_text(b.data, list[i].name);
        LAUNCH(m, "k", D1(N / 128), D1(128), 0, args[0], args[1], args[2], args[3]);
        vm_module_free(m);
        buf_free(&b);
        fetch(out, args[3], sizeof out);
        for (int k = 0; k < N; k++) {
            u64 a = narrowed(in[0][k], list[i].bytes[1]), bb = narrowed(in[1][k], list[i].bytes[2]),
                c = narrowed(in[2][k], list[i].bytes[3]);
            skip = false;
            u64 expected = list[i].model(a, bb, c);
            if (!skip && narrowed(expected, list[i].bytes[0]) != out[k])
                fail_msg("%s: a %llx b %llx c %llx: got %llx, expected %llx", list[i].text, (unsigned long long)a,
                         (unsigned long long)bb, (unsigned long long)c, (unsigned long long)out[k],
                         (unsigned long long)expected);
        }
    }
}

static void t_unknown(void **unused) { /* an error with its line, when the function is looked up and not before */
    (void)unused;
    struct vm_module *m = load_text(".version 8.0\n.target sm_80\n.address_size 64\n.entry good() { ret; }\n.entry "
                                    "bad() {\n.reg .b32 %r<2>;\nadd.frob.s32 %r1, %r1, %r1;\nret; }\n",
                                    "x.ptx");
    struct vm_function *f;
    char log[300];
    assert_int_equal(vm_module_function(m, "good", &f, log, sizeof log), 0);
    assert_int_equal(vm_module_function(m, "bad", &f, log, sizeof log), 218);
    assert_non_null(strstr(log, "x.ptx line 7: add.frob.s32"));
    assert_int_equal(vm_module_function(m, "none", &f, log, sizeof log), 500);
    vm_module_free(m);
}

/* What the machine does not know, behind a device function: looking the kernel up fails and names the line. */
static void t_unknown_reached(void **unused) {
    (void)unused;
    static const char *const unknown[] = {
        "tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%x0, {%f0, %f1}];",
        "sust.b.1d.b32.trap [%x0, {%r0}], %r1;",
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r0], 64;",
        "add.u31 %r0, %r1, %r2;",
        "shl.b32.wrap %r0, %r1, %r2;",
    };
    for (size_t k = 0; k < sizeof unknown / sizeof *unknown; k++) {
        char text[1500], log[700];
        snprintf(text, sizeof text,
                 ".version 8.8\n.target sm_100a\n.address_size 64\n.func inner()\n{\n.reg .b32 %%r<8>; .reg .f32 "
                 "%%f<8>; .reg "
                 ".b64 %%x<4>; .reg .b16 %%h<4>;\n%s\nret;\n}\n.func outer()\n{\ncall inner, ();\nret;\n}\n"
                 ".entry clean() { ret; }\n.entry reaches() { call outer, (); ret; }\n",
                 unknown[k]);
        struct vm_module *m = load_text(text, "u.ptx");
        struct vm_function *f;
        assert_int_equal(vm_module_function(m, "clean", &f, log, sizeof log), 0);
        int r = vm_module_function(m, "reaches", &f, log, sizeof log);
        if (!r || !strstr(log, "u.ptx line 7:")) fail_msg("%s: %d %s", unknown[k], r, log);
        vm_module_free(m);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_instructions), cmocka_unit_test(t_unknown),
                                       cmocka_unit_test(t_unknown_reached)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
