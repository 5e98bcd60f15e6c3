/* cvt between every pair of formats with every rounding and saturation, and the approximate functions within their
 * documented bounds. */
#include "verify/ptxvm/tests/vm_formats.h"

enum { N = 2048 };
static u64 in[N][3], out[N][2];
static uint32_t seed = 99;

/* Operands: all kinds of exponents, values near 1 and near the limits of the narrow formats, ties, infinities, NaN. */
static u64 operand(const struct format *f, int i) {
    u64 r = (u64)rnd(&seed) << 32 | rnd(&seed);
    int bias = (1 << (f->exp - 1)) - 1, width = 1 + f->exp + f->man;
    static const float edges[] = {0,      0.5f,    1,   1.5f,  2.5f,    -0.5f,   -1.5f,    127.5f,  -128.5f,  255.5f,
                                  448,    464,     465, 57344, 61440,   65504,   65519.9f, 65520,   6,        7.75f,
                                  0x1p-9, 0x1p-10, 28,  30,    0x1p31f, 0x1p32f, 0x1p63f,  0x1p64f, -0x1p31f, -0x1p63f};
    if (i < (int)(sizeof edges / sizeof *edges) * 2)
        return format_round(f, i & 1 ? -edges[i / 2] : edges[i / 2], 'n', true);
    if (i < 70)
        return (u64[]){0, 1ull << (width - 1), (1ull << f->exp) - 1ull, 1, 2}[i % 5] << (i % 5 == 2 ? f->man : 0);
    if (i < 80)
        return low_bits((((1ull << f->exp) - 1) << f->man) | (u64)(i & 1) << (f->man - 1) | (u64)i << (width - 1),
                        width);
    if (i % 4 == 0) return low_bits(r, width); /* any bits */
    int spread = i % 4 == 1 ? 40 : i % 4 == 2 ? 20 : 4;
    int e = bias + (int)(r >> 40) % spread - spread / 2;
    e = e < 0 ? 0 : e > 2 * bias ? 2 * bias : e;
    u64 man = low_bits(r, f->man);
    if (i % 3 == 0 && f->man > 9) man &= ~0ull << (f->man - 3 - (int)(r >> 60)); /* short significands: ties */
    return (u64)(e) << f->man | low_bits(man, f->man) | (r >> 32 & 1) << (width - 1);
}
static int bytes_of(const struct format *f) {
    return (1 + f->exp + f->man + 7) / 8;
}
static void fail_at(const char *text, int i, u64 got, u64 expected) {
    fail_msg("%s: a %llx b %llx: got %llx, expected %llx", text, (unsigned long long)in[i][0],
             (unsigned long long)in[i][1], (unsigned long long)got, (unsigned long long)expected);
}

/* One element: what a conversion to a floating-point format gives, with its modifiers. */
static u64 element(const struct format *to, long double v, char mode, bool relu, bool finite) {
    if (relu && v <= 0) v = 0;
    u64 r = format_round(to, v, mode, finite);
    return to == &TF32 ? (v != v ? 0x7fffffff : r << 13) : r;
}

/* f32 to f16, bf16, tf32: .rn .rz .rna, .relu, .satfinite */
static void t_narrow(void **unused) {
    (void)unused;
    static const struct format *const to[] = {&F16, &BF16, &TF32};
    for (int i = 0; i < N; i++) in[i][0] = operand(&F32, i), in[i][1] = operand(&F32, i + 13), in[i][2] = 0;
    for (int k = 0; k < 3; k++)
        for (int mods = 0; mods < 12; mods++) {
            char mode = "nza"[mods % 3], text[200];
            bool relu = mods / 3 & 1, finite = mods / 6 & 1;
            if (mode == 'a' && (k < 2 || relu)) continue; /* there is no such form */
            snprintf(text, sizeof text, "cvt.r%s%s%s.%s.f32 %%d, %%a; mov.u32 %%e, 0;",
                     mode == 'a'   ? "na"
                     : mode == 'n' ? "n"
                                   : "z",
                     relu ? ".relu" : "", finite ? ".satfinite" : "", to[k]->name);
            run_snippet(&(struct snippet){"sm_100a", text, k == 2 ? 4 : 2, 4, 4, 4, 4}, N, in, out);
            for (int i = 0; i < N; i++) {
                u64 e = element(to[k], format_value(&F32, in[i][0]), mode, relu, finite);
                if (out[i][0] != e) fail_at(text, i, out[i][0], e);
            }
        }
}

/* Two values into one register: the first source is the upper element. */
static void t_narrow_pairs(void **unused) {
    (void)unused;
    static const struct {
        const struct format *to;
        const char *name, *modes;
    } list[] = {{&F16, "f16x2", "nz"},  {&BF16, "bf16x2", "nz"}, {&E4M3, "e4m3x2", "n"}, {&E5M2, "e5m2x2", "n"},
                {&E2M1, "e2m1x2", "n"}, {&E2M3, "e2m3x2", "n"},  {&E3M2, "e3m2x2", "n"}};
    for (int i = 0; i < N; i++) in[i][0] = operand(&F32, i), in[i][1] = operand(&F32, (i + 301) % N), in[i][2] = 0;
    for (size_t k = 0; k < sizeof list / sizeof *list; k++)
        for (const char *mode = list[k].modes; *mode; mode++)
            for (int mods = 0; mods < 4; mods++) {
                bool relu = mods & 1, finite = mods >> 1, wide = k < 2, nibbles = list[k].to == &E2M1;
                if (!finite && !wide) continue; /* the narrow formats saturate always */
                char text[300];
                snprintf(text, sizeof text, "%scvt.r%c%s%s.%s.f32 %s, %%a, %%b;%s mov.u32 %%e, 0;%s",
                         nibbles ? "{.reg .b8 %h;" : "", *mode, relu ? ".relu" : "", finite ? ".satfinite" : "",
                         list[k].name, nibbles ? "%h" : "%d", nibbles ? " mov.b16 %d, {%h, %h};" : "",
                         nibbles ? "}" : "");
                run_snippet(&(struct snippet){"sm_100a", text, wide ? 4 : 2, 4, 4, 4, 4}, N, in, out);
                int bits = wide ? 16 : nibbles ? 4 : 8;
                for (int i = 0; i < N; i++) {
                    u64 hi = element(list[k].to, format_value(&F32, in[i][0]), *mode, relu, finite),
                        lo = element(list[k].to, format_value(&F32, in[i][1]), *mode, relu, finite);
                    u64 e = hi << bits | lo;
                    if (nibbles) e |= e << 8;
                    if (out[i][0] != e) fail_at(text, i, out[i][0], e);
                }
            }
    /* from pairs of halves (all but e4m3 and e5m2 of f16 in PTX 9.1): the lower half is the lower element */
    static const struct format *const narrow[] = {&E4M3, &E5M2, &E2M1, &E2M3, &E3M2}, *const halves[] = {&F16, &BF16};
    for (int k = 0; k < 20; k++) {
        const struct format *to = narrow[k / 4], *from = halves[k / 2 % 2];
        bool relu = k & 1, nibbles = to == &E2M1;
        for (int i = 0; i < N; i++) in[i][0] = operand(from, i) << 16 | operand(from, i + 77);
        char text[300];
        snprintf(text, sizeof text, "%scvt.rn.satfinite%s.%sx2.%sx2 %s, %%a;%s mov.u32 %%e, 0;",
                 nibbles ? "{.reg .b8 %h;" : "", relu ? ".relu" : "", to->name, from->name, nibbles ? "%h" : "%d",
                 nibbles ? " mov.b16 %d, {%h, %h};}" : "");
        run_snippet(&(struct snippet){"sm_100a", text, 2, 4, 4, 4, 4}, N, in, out);
        for (int i = 0; i < N; i++) {
            int bits = nibbles ? 4 : 8;
            u64 e = element(to, format_value(from, in[i][0] >> 16), 'n', relu, true) << bits |
                    element(to, format_value(from, in[i][0] & 0xffff), 'n', relu, true);
            if (nibbles) e |= e << 8;
            if (out[i][0] != e) fail_at(text, i, out[i][0], e);
        }
    }
}

/* cvt.rs: between its two neighbours, a value goes away from zero when the fraction between them (its first bits, as
 * many as there are random bits) and the random bits make one or more. */
static u64 stochastic(const struct format *f, long double v, u32 random, int bits, bool finite) {
    if (v != v) return f->nan;
    u64 sign = signbit(v) ? 1ull << (f->exp + f->man) : 0, down = format_round(f, fabsl(v), 'z', true);
    long double x = fabsl(v), below = format_value(f, down),
                above = down == format_largest(f) ? 2 * below - format_value(f, down - 1) : format_value(f, down + 1);
    u64 too_large = finite || f->top == TOP_NUMBERS ? sign | format_largest(f) : sign | (format_largest(f) + 1);
    if (isinf(x) || x >= above) return too_large;
    long double fraction = floorl(ldexpl((x - below) / (above - below), bits));
    if (fraction + random < ldexpl(1, bits)) return sign | down;
    return down == format_largest(f) ? too_large : sign | (down + 1);
}
/* The random bits of element k, from the first: the manual's bits; for four elements, the first of two that share reads
 * them from the other end (known of a B200). */
static u32 random_bits(u32 rbits, int k, int n, int width, int *bits) {
    *bits = n == 2 && width == 16 ? 16 : n == 2 ? 13 : 16;
    u32 half = rbits >> (k < n / 2 ? 16 : 0) & 0xffff, r = 0;
    if (n == 2) return half & ((1u << *bits) - 1);
    if (width == 4) {
        u32 byte = k < 2 ? 1 : 0;
        half = (rbits >> 8 * byte & 255) | (rbits >> 8 * (byte + 2) & 255) << 8;
    }
    for (int i = 0; i < 16; i++) r |= (half >> (k % 2 ? i : 15 - i) & 1) << i;
    return r;
}
static void t_stochastic(void **unused) {
    (void)unused;
    static const struct {
        const struct format *to;
        const char *name;
        int n, width;
    } list[] = {{&F16, "f16x2", 2, 13},  {&BF16, "bf16x2", 2, 16}, {&E4M3, "e4m3x4", 4, 8}, {&E5M2, "e5m2x4", 4, 8},
                {&E2M3, "e2m3x4", 4, 8}, {&E3M2, "e3m2x4", 4, 8},  {&E2M1, "e2m1x4", 4, 4}};
    for (size_t k = 0; k < sizeof list / sizeof *list; k++)
        for (int mods = 0; mods < 4; mods++) {
            bool relu = mods & 1, finite = mods & 2;
            const struct format *to = list[k].to;
            if (!finite && list[k].n == 4) continue;
            for (int i = 0; i < N; i++) {
                u32 r = rnd(&seed);
                in[i][0] = operand(&F32, i) | operand(&F32, (i + 31) % N) << 32;
                in[i][1] = operand(&F32, (i + 123) % N) | operand(&F32, (i + 57) % N) << 32;
                in[i][2] = i % 8 == 0 ? 0 : i % 8 == 1 ? 0xffffffff : i % 8 == 2 ? 1u << i / 8 % 32 : r;
                if (i % 5 == 0) /* a fraction that the random bits just fill, or just do not */
                    in[i][0] = f_bits((float)(1 + ldexp(1 - ldexp(in[i][2] & 0x1fff, -13), -to->man))) * 0x100000001;
            }
            char text[400];
            snprintf(text, sizeof text,
                     "{.reg .b32 %%f<4>; mov.b64 {%%f0, %%f1}, %%a; mov.b64 {%%f2, %%f3}, %%b;\n"
                     "cvt.rs%s%s.%s.f32 %%d, %s, %%c; mov.u32 %%e, 0;}",
                     relu ? ".relu" : "", finite ? ".satfinite" : "", list[k].name,
                     list[k].n == 4 ? "{%f0, %f1, %f2, %f3}" : "%f0, %f1");
            run_snippet(&(struct snippet){"sm_100a", text, list[k].width == 4 ? 2 : 4, 4, 8, 8, 4}, N, in, out);
            for (int i = 0; i < N; i++) {
                u64 e = 0;
                for (int j = 0; j < list[k].n; j++) {
                    long double v = format_value(&F32, in[i][j / 2] >> j % 2 * 32 & 0xffffffff);
                    int bits;
                    u32 r = random_bits((u32)in[i][2], j, list[k].n, list[k].width, &bits);
                    if (relu && v <= 0) v = 0;
                    e = e << (list[k].n == 2 ? 16 : list[k].width) | stochastic(to, v, r, bits, finite);
                }
                if (out[i][0] != e) fail_at(text, i, out[i][0], e);
            }
        }
}

/* Every code of the narrow formats, in pairs, to f16x2; exponents to bf16x2; and f32 to exponents. */
static void t_widen(void **unused) {
    (void)unused;
    static const struct format *const from[] = {&E4M3, &E5M2, &E2M1, &E2M3, &E3M2};
    for (int i = 0; i < N; i++)
        in[i][0] = (u64)(i & 255) | (u64)((i * 7 + i / 256) & 255) << 8, in[i][1] = in[i][2] = 0;
    for (int k = 0; k < 5; k++)
        for (int relu = 0; relu < 2; relu++) {
            bool nibbles = from[k] == &E2M1;
            int bits = nibbles ? 4 : 8, used = 1 + from[k]->exp + from[k]->man;
            char text[300];
            snprintf(text, sizeof text, "%scvt.rn%s.f16x2.%sx2 %%d, %s; mov.u32 %%e, 0;%s",
                     nibbles ? "{.reg .b8 %h, %g; mov.b16 {%h, %g}, %a;" : "", relu ? ".relu" : "", from[k]->name,
                     nibbles ? "%h" : "%a", nibbles ? "}" : "");
            if (bits == 8 && used == 6)
                for (int i = 0; i < N; i++) in[i][0] &= 0x3f3f; /* the two upper bits of a byte are not specified */
            run_snippet(&(struct snippet){"sm_100a", text, 4, 4, 2, 4, 4}, N, in, out);
            for (int i = 0; i < N; i++) {
                u64 e = 0;
                for (int h = 0; h < 2; h++)
                    e |= element(&F16, format_value(from[k], low_bits(in[i][0] >> h * bits, used)), 'n', relu, false)
                         << 16 * h;
                if (relu) /* the sign of a zero that was negative is not specified */
                    for (int h = 0; h < 32; h += 16)
                        if ((out[i][0] >> h & 0xffff) == 0x8000) out[i][0] &= ~(0x8000ull << h);
                if (out[i][0] != e) fail_at(text, i, out[i][0], e);
            }
        }
    for (int k = 0; k < 8; k++) { /* powers of two; NaN is 255, and what is too large is too unless clamped */
        bool up = k & 1, finite = k & 2, halves = k & 4;
        char text[200];
        snprintf(text, sizeof text, "cvt.r%c%s.ue8m0x2.%s; mov.u32 %%e, 0;", up ? 'p' : 'z', finite ? ".satfinite" : "",
                 halves ? "bf16x2 %d, %a" : "f32 %d, %a, %b");
        for (int i = 0; i < N; i++)
            in[i][0] = halves ? operand(&BF16, i) << 16 | operand(&BF16, (i + 9) % N) : operand(&F32, i),
            in[i][1] = operand(&F32, (i + 5) % N);
        run_snippet(&(struct snippet){"sm_100a", text, 2, 4, 4, 4, 4}, N, in, out);
        for (int i = 0; i < N; i++) {
            u64 e = 0;
            for (int h = 0; h < 2; h++) {
                long double v =
                    fabsl(halves ? format_value(&BF16, in[i][0] >> 16 * h & 0xffff) : format_value(&F32, in[i][1 - h]));
                u64 code = 0, largest = finite ? 254 : 255;
                if (v != v)
                    code = 255;
                else if (!up)
                    while (code < largest && ldexpl(1, (int)code + 1 - 127) <= v) code++;
                else
                    while (code < largest && ldexpl(1, (int)code - 127) < v) code++;
                e |= code << 8 * h;
            }
            if (out[i][0] != e) fail_at(text, i, out[i][0], e);
        }
    }
    for (int i = 0; i < N; i++) in[i][0] = (u64)(i & 255) | (u64)(255 - (i & 255)) << 8;
    run_snippet(&(struct snippet){"sm_100a", "cvt.rn.bf16x2.ue8m0x2 %d, %a; mov.u32 %e, 0;", 4, 4, 2, 4, 4}, N, in,
                out);
    for (int i = 0; i < N; i++) {
        u64 e = 0;
        for (int h = 0; h < 2; h++) {
            int code = (int)(in[i][0] >> 8 * h & 255);
            e |= element(&BF16, code == 255 ? NAN : ldexpl(1, code - 127), 'n', false, false) << 16 * h;
        }
        if (out[i][0] != e) fail_at("ue8m0x2", i, out[i][0], e);
    }
}

/* Between f16, bf16, f32 and f64; .sat clamps to [0, 1] and turns NaN into 0; .rXi rounds to an integer. */
static void t_floats(void **unused) {
    (void)unused;
    static const struct format *const f[] = {&F16, &BF16, &F32, &F64};
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            for (int mods = 0; mods < 8; mods++) {
                char mode = "nzmp"[mods % 4], rounding[8] = "", text[200];
                bool sat = mods / 4, narrows = f[to]->man < f[from]->man || f[to]->exp < f[from]->exp,
                     same = from == to;
                if ((to == 1 && sat) || (from == 1 && to == 1)) continue; /* no such forms */
                if (from == 1 && (same || sat)) continue;
                if (narrows || same) snprintf(rounding, sizeof rounding, ".r%c%s", mode, same ? "i" : "");
                if (!narrows && !same && mode != 'n') continue;
                if (to < 2 && from < 2 && mode != 'n') continue;
                snprintf(text, sizeof text, "cvt%s%s.%s.%s %%d, %%a; mov.u32 %%e, 0;", rounding, sat ? ".sat" : "",
                         f[to]->name, f[from]->name);
                if (to == 1 && from == 2 && (mode == 'm' || mode == 'p')) continue;
                for (int i = 0; i < N; i++) in[i][0] = operand(f[from], i);
                run_snippet(&(struct snippet){"sm_90", text, bytes_of(f[to]), 4, bytes_of(f[from]), 4, 4}, N, in, out);
                for (int i = 0; i < N; i++) {
                    long double v = format_value(f[from], in[i][0]);
                    if (v != v && !sat && to == 3) continue; /* the payload is not specified */
                    if (same && v == v && !isinf(v)) {
                        long double w = fabsl(v), down = floorl(w), rest = w - down;
                        bool away = mode == 'n'   ? rest > 0.5L || (rest == 0.5L && fmodl(down, 2) == 1)
                                    : mode == 'z' ? false
                                                  : rest > 0 && (mode == 'm') == (bool)signbit(v);
                        v = copysignl(down + away, v);
                    }
                    if (sat) v = v != v || v <= 0 ? 0 : v > 1 ? 1 : v;
                    u64 e = format_round(f[to], v, narrows ? mode : 'n', false);
                    if (out[i][0] != e) fail_at(text, i, out[i][0], e);
                }
            }
}

static const struct integer {
    const char *name;
    int bits, sgn;
} integers[] = {{"u8", 8, 0},   {"s8", 8, 1},   {"u16", 16, 0}, {"s16", 16, 1},
                {"u32", 32, 0}, {"s32", 32, 1}, {"u64", 64, 0}, {"s64", 64, 1}};
static long double int_value(u64 v, const struct integer *t) {
    v = low_bits(v, t->bits);
    return t->sgn && v >> (t->bits - 1) & 1 ? (long double)v - ldexpl(1, t->bits) : (long double)v;
}
static int reg_bytes(const struct integer *t) {
    return t->bits <= 16 ? 2 : t->bits / 8;
}
/* The value as an integer of the type, extended by its sign to its register. */
static u64 int_code(long double v, const struct integer *t) {
    u64 r = v < 0 ? 0 - (u64)-v : (u64)v;
    r = low_bits(r, t->bits);
    if (t->sgn && r >> (t->bits - 1) & 1) r |= ~0ull << (t->bits - 1);
    return low_bits(r, 8 * reg_bytes(t));
}

static void t_integers(void **unused) {
    (void)unused;
    static const struct format *const f[] = {&F16, &BF16, &F32, &F64};
    for (int t = 0; t < 8; t++) {
        const struct integer *to = &integers[t];
        long double least = to->sgn ? -ldexpl(1, to->bits - 1) : 0, most = ldexpl(1, to->bits - to->sgn) - 1;
        for (int from = 0; from < 4; from++) /* a float to an integer clamps always */
            for (int k = 0; k < 4; k++) {
                char mode = "nzmp"[k], text[200];
                if (from == 1 && to->bits == 8) continue; /* no such form */
                snprintf(text, sizeof text, "cvt.r%ci.%s.%s %%d, %%a; mov.u32 %%e, 0;", mode, to->name, f[from]->name);
                for (int i = 0; i < N; i++) in[i][0] = operand(f[from], i);
                run_snippet(&(struct snippet){"sm_90", text, reg_bytes(to), 4, bytes_of(f[from]), 4, 4}, N, in, out);
                for (int i = 0; i < N; i++) {
                    long double v = format_value(f[from], in[i][0]);
                    u64 e;
                    if (v != v) { /* zero, or the lone top bit where 64 bits are involved */
                        if (from == 3 && to->bits < 32) continue; /* extension of that is not specified */
                        e = from == 3 || to->bits == 64 ? 1ull << (to->bits - 1) : 0;
                    } else {
                        long double down = floorl(v), rest = v - down;
                        bool up = mode == 'n'   ? rest > 0.5L || (rest == 0.5L && fmodl(down, 2) != 0)
                                  : mode == 'z' ? rest > 0 && v < 0
                                  : mode == 'p' ? rest > 0
                                                : false;
                        if (!isinf(v)) v = down + up;
                        e = int_code(v < least ? least : v > most ? most : v, to);
                    }
                    if (out[i][0] != e) fail_at(text, i, out[i][0], e);
                }
            }
        for (int from = 0; from < 8; from++) /* an integer to an integer takes the low bits, or clamps */
            for (int sat = 0; sat < 2; sat++) {
                char text[200];
                const struct integer *src = &integers[from];
                if (sat && src->bits - src->sgn <= to->bits - to->sgn && (to->sgn || !src->sgn)) continue; /* it fits */
                snprintf(text, sizeof text, "cvt%s.%s.%s %%d, %%a; mov.u32 %%e, 0;", sat ? ".sat" : "", to->name,
                         src->name);
                for (int i = 0; i < N; i++)
                    in[i][0] = (u64)rnd(&seed) << 32 | rnd(&seed),
                    in[i][0] = i % 3 ? in[i][0] >> i % 64 : 0 - (in[i][0] >> i % 64);
                run_snippet(&(struct snippet){"sm_90", text, reg_bytes(to), 4, reg_bytes(src), 4, 4}, N, in, out);
                for (int i = 0; i < N; i++) {
                    long double v = int_value(in[i][0], src);
                    u64 e = int_code(sat && v < least ? least : sat && v > most ? most : v, to);
                    if (out[i][0] != e) fail_at(text, i, out[i][0], e);
                }
            }
        for (int k = 0; k < 16; k++) { /* an integer to a float, four roundings */
            const struct format *dst = f[k / 4];
            char mode = "nzmp"[k % 4], text[200];
            if (dst == &BF16 && to->bits == 8) continue; /* no such form */
            snprintf(text, sizeof text, "cvt.r%c.%s.%s %%d, %%a; mov.u32 %%e, 0;", mode, dst->name, to->name);
            for (int i = 0; i < N; i++) in[i][0] = ((u64)rnd(&seed) << 32 | rnd(&seed)) >> i % 64;
            run_snippet(&(struct snippet){"sm_90", text, bytes_of(dst), 4, reg_bytes(to), 4, 4}, N, in, out);
            for (int i = 0; i < N; i++) {
                u64 e = format_round(dst, int_value(in[i][0], to), mode, false);
                if (out[i][0] != e) fail_at(text, i, out[i][0], e);
            }
        }
    }
    for (int k = 0; k < 8; k++) { /* two clamped integers, low and high, above or below what %c has */
        static const char *const names[] = {"u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"};
        const struct integer to = {names[k], 16 >> (k / 2), k & 1};
        long double least = to.sgn ? -ldexpl(1, to.bits - 1) : 0, most = ldexpl(1, to.bits - to.sgn) - 1;
        char text[200];
        snprintf(text, sizeof text, "cvt.pack.sat.%s.s32%s %%d, %%a, %%b%s; mov.u32 %%e, 0;", to.name,
                 to.bits < 16 ? ".b32" : "", to.bits < 16 ? ", %c" : "");
        for (int i = 0; i < N; i++)
            for (int j = 0; j < 3; j++) in[i][j] = (u32)((s32)rnd(&seed) >> i % 32);
        run_snippet(&(struct snippet){"sm_90", text, 4, 4, 4, 4, 4}, N, in, out);
        for (int i = 0; i < N; i++) {
            u64 part[2];
            for (int j = 0; j < 2; j++) {
                long double v = (s32)in[i][j];
                part[j] = low_bits(int_code(v < least ? least : v > most ? most : v, &to), to.bits);
            }
            u64 e = low_bits(part[1] | part[0] << to.bits | (to.bits < 16 ? in[i][2] << 2 * to.bits : 0), 32);
            if (out[i][0] != e) fail_at(text, i, out[i][0], e);
        }
    }
}

/* .ftz: subnormal f32 operands and results are zeros of their sign. .sat of a float result from an integer: [0, 1]. */
static void t_flush(void **unused) {
    (void)unused;
    static const struct form {
        const char *text;
        const struct format *to, *from;
        char mode; /* capital: to an integral value */
    } list[] = {
        {"cvt.rn.ftz.f16.f32", &F16, &F32, 'n'},  {"cvt.rz.ftz.f16.f32", &F16, &F32, 'z'},
        {"cvt.rm.ftz.f16.f32", &F16, &F32, 'm'},  {"cvt.rp.ftz.f16.f32", &F16, &F32, 'p'},
        {"cvt.rn.ftz.f32.f64", &F32, &F64, 'n'},  {"cvt.rz.ftz.f32.f64", &F32, &F64, 'z'},
        {"cvt.ftz.f64.f32", &F64, &F32, 'n'},     {"cvt.ftz.f32.f16", &F32, &F16, 'n'},
        {"cvt.ftz.f32.bf16", &F32, &BF16, 'n'},   {"cvt.rni.ftz.f32.f32", &F32, &F32, 'N'},
        {"cvt.rzi.ftz.f32.f32", &F32, &F32, 'Z'}, {"cvt.rmi.ftz.f32.f32", &F32, &F32, 'M'},
        {"cvt.rpi.ftz.f32.f32", &F32, &F32, 'P'}, {"cvt.ftz.sat.f32.f32", &F32, &F32, 's'},
        {"cvt.rpi.ftz.s32.f32", NULL, &F32, 'P'}, {"cvt.rmi.ftz.s32.f32", NULL, &F32, 'M'},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        const struct form *l = &list[k];
        char text[200];
        snprintf(text, sizeof text, "%s %%d, %%a; mov.u32 %%e, 0;", l->text);
        for (int i = 0; i < N; i++) {
            in[i][0] = operand(l->from, i);
            u64 r = (u64)rnd(&seed) << 32 | rnd(&seed);
            if (i % 2 && l->from == &F32) in[i][0] = r & 0x80ffffff; /* around the smallest normal number */
            if (i % 2 && l->from == &BF16) in[i][0] = r & 0x80ff;
            if (i % 2 && l->from == &F64) in[i][0] = (r & 0x800fffffffffffff) | (890 + r % 16) << 52;
        }
        run_snippet(&(struct snippet){"sm_90", text, l->to ? bytes_of(l->to) : 4, 4, bytes_of(l->from), 4, 4}, N, in,
                    out);
        for (int i = 0; i < N; i++) {
            long double v = format_value(l->from, in[i][0]);
            if (v != v && (l->to == &F64 || l->from == &BF16)) continue; /* the payload is not specified */
            if (l->from == &F32 && fabsl(v) < ldexpl(1, -126)) v = copysignl(0, v);
            if (l->from == &F64 && fabsl(v) < ldexpl(1, -126) && fabsl(v) > ldexpl(1 - ldexpl(1, -25), -126)) continue;
            if (l->mode == 's') v = v != v || v <= 0 ? 0 : v > 1 ? 1 : v;
            if (strchr("NZMP", l->mode) && v == v && !isinf(v))
                v = copysignl(l->mode == 'N'   ? nearbyintl(v)
                              : l->mode == 'Z' ? truncl(v)
                              : l->mode == 'M' ? floorl(v)
                                               : ceill(v),
                              v);
            u64 e;
            if (!l->to) {
                v = v != v ? 0 : v < -0x1p31L ? -0x1p31L : v > 0x1p31L - 1 ? 0x1p31L - 1 : v;
                e = (u32)(s64)v;
            } else {
                e = format_round(l->to, v, strchr("nzmp", l->mode) ? l->mode : 'n', false);
                if (l->to == &F32 && !(e & 0x7f800000)) e &= 0x80000000;
            }
            if (out[i][0] != e) fail_at(text, i, out[i][0], e);
        }
    }
    static const struct format *const f[] = {&F16, &F32, &F64};
    for (int k = 0; k < 24; k++) {
        const struct integer *from = &integers[k % 8];
        const struct format *to = f[k / 8];
        char text[200];
        snprintf(text, sizeof text, "cvt.rn.sat.%s.%s %%d, %%a; mov.u32 %%e, 0;", to->name, from->name);
        for (int i = 0; i < N; i++) in[i][0] = (u64)((s64)((u64)rnd(&seed) << 32) >> i % 64);
        run_snippet(&(struct snippet){"sm_90", text, bytes_of(to), 4, reg_bytes(from), 4, 4}, N, in, out);
        for (int i = 0; i < N; i++) {
            u64 e = format_round(to, int_value(in[i][0], from) > 0 ? 1 : 0, 'n', false);
            if (out[i][0] != e) fail_at(text, i, out[i][0], e);
        }
    }
}

/* Forms that do not exist are errors at lookup. */
static void t_wrong_forms(void **unused) {
    (void)unused;
    static const char *const wrong[] = {
        "cvt.rs.f16.f32 %h0, %f0, %r0;",
        "cvt.rs.f16x2.f32 %r0, %f0, %f1;",
        "cvt.rs.f16x2.f16x2 %r0, %r1, %r2, %r3;",
        "cvt.rs.tf32.f32 %r0, %f1, %r2;",
        "cvt.rs.e4m3x4.f32 %r0, {%f0, %f1, %f2, %f3}, %r1;",
        "cvt.rs.satfinite.e4m3x4.f32 %r0, {%f0, %f1}, %r1;",
        "cvt.rs.satfinite.e4m3x2.f32 %h0, %f0, %f1, %r1;",
        "cvt.rn.satfinite.e4m3x4.f32 %r0, {%f0, %f1, %f2, %f3}, %r1;",
        "cvt.rn.e4m3x2.f32 %h0, %f0, %f1;",
        "cvt.rz.satfinite.e5m2x2.f32 %h0, %f0, %f1;",
        "cvt.rn.satfinite.e4m3x2.f16 %h0, %h1;",
        "cvt.rn.f32.e4m3x2 %f0, %h1;",
        "cvt.rn.satfinite.f16x2.e4m3x2 %r0, %h1;",
        "cvt.rn.satfinite.ue8m0x2.f32 %h0, %f0, %f1;",
        "cvt.rz.satfinite.ue8m0x2.f16x2 %h0, %r1;",
        "cvt.rn.f16x2.ue8m0x2 %r0, %h1;",
        "cvt.rm.f16x2.f32 %r0, %f0, %f1;",
        "cvt.rn.sat.f16x2.f32 %r0, %f0, %f1;",
        "cvt.rn.relu.f32.f64 %f0, %x0;",
        "cvt.rna.f16.f32 %h0, %f0;",
        "cvt.rm.tf32.f32 %r0, %f0;",
        "cvt.ftz.f64.f16 %x0, %h0;",
        "cvt.pack.u8.s32.b32 %r0, %r1, %r2, %r3;",
        "cvt.pack.sat.u8.s32 %r0, %r1, %r2;",
        "cvt.pack.sat.u16.s32.b32 %r0, %r1, %r2, %r3;",
        "cvt.pack.sat.u32.s32.b32 %r0, %r1, %r2, %r3;",
        "cvt.pack.sat.u8.u32.b32 %r0, %r1, %r2, %r3;",
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        char text[900], log[700];
        snprintf(text, sizeof text,
                 ".version 8.8\n.target sm_100a\n.address_size 64\n.visible .entry k() {\n.reg .b16 %%h<4>; .reg .b32 "
                 "%%r<4>; .reg .f32 %%f<4>; .reg .b64 %%x<4>;\n%s\nret;\n}\n",
                 wrong[k]);
        struct vm_module *m = load_text(text, "c.ptx");
        struct vm_function *f;
        int r = vm_module_function(m, "k", &f, log, sizeof log);
        if (r != VM_INVALID_PTX || !strstr(log, "c.ptx line 6:")) fail_msg("%s: %d %s", wrong[k], r, log);
        vm_module_free(m);
    }
}

/* ---- approximate functions ---- */
static double f_rcp(double x, double y) {
    (void)y;
    return 1 / x;
}
static double f_sqrt(double x, double y) {
    (void)y;
    return sqrt(x);
}
static double f_rsqrt(double x, double y) {
    (void)y;
    return 1 / sqrt(x);
}
static double f_ex2(double x, double y) {
    (void)y;
    return exp2(x);
}
static double f_lg2(double x, double y) {
    (void)y;
    return log2(x);
}
static double f_sin(double x, double y) {
    (void)y;
    return sin(x);
}
static double f_cos(double x, double y) {
    (void)y;
    return cos(x);
}
static double f_tanh(double x, double y) {
    (void)y;
    return tanh(x);
}
static double f_div(double x, double y) {
    return x / y;
}

/* Bounds as the PTX manual gives them: relative, or absolute where that is said. */
static const struct approximation {
    const char *text;
    const struct format *f;
    double (*exact)(double, double);
    double lo, hi, relative, absolute;
} approximations[] = {
    {"rcp.approx.f32 %d, %a;", &F32, f_rcp, 0x1p-126, 0x1p126, 0x1p-23, 0},
    {"rcp.approx.ftz.f32 %d, %a;", &F32, f_rcp, 0x1p-125, 0x1p125, 0x1p-23, 0},
    {"sqrt.approx.f32 %d, %a;", &F32, f_sqrt, 0, 0x1p127, 0x1p-23, 0},
    {"rsqrt.approx.f32 %d, %a;", &F32, f_rsqrt, 0x1p-149, 0x1p127, 0x1p-22, 0},
    {"sin.approx.f32 %d, %a;", &F32, f_sin, -3.14159265, 3.14159265, 0, 0x1p-20},
    {"cos.approx.ftz.f32 %d, %a;", &F32, f_cos, -3.14159265, 3.14159265, 0, 0x1p-20},
    {"lg2.approx.f32 %d, %a;", &F32, f_lg2, 0.5, 2, 0, 0x1p-22},
    {"lg2.approx.f32 %d, %a;", &F32, f_lg2, 2, 0x1p127, 0x1p-22, 0},
    {"lg2.approx.ftz.f32 %d, %a;", &F32, f_lg2, 0x1p-126, 0.5, 0x1p-22, 0},
    {"ex2.approx.f32 %d, %a;", &F32, f_ex2, -148, 127.9, 0x1p-22, 0x1p-149},
    {"ex2.approx.ftz.f32 %d, %a;", &F32, f_ex2, -125, 127.9, 0x1p-22, 0},
    {"tanh.approx.f32 %d, %a;", &F32, f_tanh, -12, 12, 0x1p-11, 0},
    {"div.approx.f32 %d, %a, %b;", &F32, f_div, 0x1p-60, 0x1p60, 0x1p-22, 0},
    {"div.full.f32 %d, %a, %b;", &F32, f_div, 0x1p-60, 0x1p60, 0x1p-22, 0},
    {"ex2.approx.f16 %d, %a;", &F16, f_ex2, -14, 15.9, 0x1p-9, 0},
    {"ex2.approx.ftz.bf16 %d, %a;", &BF16, f_ex2, -100, 100, 0x1p-7, 0},
    {"tanh.approx.f16 %d, %a;", &F16, f_tanh, -6, 6, 0, 0x1p-10},
    {"tanh.approx.bf16 %d, %a;", &BF16, f_tanh, -6, 6, 0, 0x1p-8},
    {"rcp.approx.ftz.f64 %d, %a;", &F64, f_rcp, 0x1p-500, 0x1p500, 0x1p-20, 0},
    {"rsqrt.approx.ftz.f64 %d, %a;", &F64, f_rsqrt, 0x1p-500, 0x1p500, 0x1p-20, 0},
    {"rsqrt.approx.f64 %d, %a;", &F64, f_rsqrt, 0x1p-1000, 0x1p1000, 0x1p-20, 0},
};

static void t_approximations(void **unused) {
    (void)unused;
    for (size_t k = 0; k < sizeof approximations / sizeof *approximations; k++) {
        const struct approximation *a = &approximations[k];
        bool wide = a->lo > 0 && a->hi / a->lo > 1000; /* spread over exponents */
        for (int i = 0; i < N; i++)
            for (int j = 0; j < 2; j++) {
                double u = (rnd(&seed) + 0.5) / 4294967296.0;
                double v = wide ? exp2(log2(a->lo) + u * (log2(a->hi) - log2(a->lo))) : a->lo + u * (a->hi - a->lo);
                in[i][j] = format_round(a->f, (long double)v, 'z', true);
            }
        char text[200];
        snprintf(text, sizeof text, "%s mov.u32 %%e, 0;", a->text);
        int n = bytes_of(a->f);
        run_snippet(&(struct snippet){"sm_90", text, n, 4, n, n, 4}, N, in, out);
        for (int i = 0; i < N; i++) {
            double x = (double)format_value(a->f, in[i][0]), y = (double)format_value(a->f, in[i][1]),
                   e = a->exact(x, y), got = (double)format_value(a->f, out[i][0]);
            if (!(fabs(got - e) <= a->relative * fabs(e) + a->absolute) && fabs(e) >= (a->f == &F32 ? 0x1p-126 : 0))
                fail_msg("%s: %a: got %a, exactly %a: outside the bound", a->text, x, got, e);
        }
    }
}

/* The documented results at the edges: zeros, infinities, NaN, and subnormals under .ftz. */
static void t_edges(void **unused) {
    (void)unused;
    enum {
        PZ = 0,
        NZ = 0x80000000,
        PI = 0x7f800000,
        NI = 0xff800000,
        NA = 0x7fffffff,
        ONE = 0x3f800000,
        SUB = 0x00400000
    };
    static const struct {
        const char *op;
        u32 from, to;
    } list[] = {{"rcp.approx.f32", PZ, PI},          {"rcp.approx.f32", NZ, NI},
                {"rcp.approx.f32", PI, PZ},          {"rcp.approx.f32", NI, NZ},
                {"rcp.approx.f32", NA, NA},          {"rcp.approx.ftz.f32", SUB, PI},
                {"sqrt.approx.f32", NI, NA},         {"sqrt.approx.f32", NZ, NZ},
                {"sqrt.approx.f32", PI, PI},         {"sqrt.approx.f32", 0xbf800000, NA},
                {"sqrt.approx.ftz.f32", SUB, PZ},    {"rsqrt.approx.f32", PZ, PI},
                {"rsqrt.approx.f32", NZ, NI},        {"rsqrt.approx.f32", PI, PZ},
                {"rsqrt.approx.f32", NI, NA},        {"rsqrt.approx.ftz.f32", SUB, PI},
                {"sin.approx.f32", PZ, PZ},          {"sin.approx.f32", NZ, NZ},
                {"sin.approx.f32", PI, NA},          {"cos.approx.f32", PZ, ONE},
                {"cos.approx.f32", NI, NA},          {"cos.approx.ftz.f32", SUB, ONE},
                {"lg2.approx.f32", PZ, NI},          {"lg2.approx.f32", NZ, NI},
                {"lg2.approx.f32", PI, PI},          {"lg2.approx.f32", NI, NA},
                {"lg2.approx.f32", ONE, PZ},         {"lg2.approx.ftz.f32", SUB, NI},
                {"ex2.approx.f32", PZ, ONE},         {"ex2.approx.f32", NI, PZ},
                {"ex2.approx.f32", PI, PI},          {"ex2.approx.ftz.f32", SUB, ONE},
                {"tanh.approx.f32", NZ, NZ},         {"tanh.approx.f32", PI, ONE},
                {"tanh.approx.f32", NI, 0xbf800000}, {"tanh.approx.f32", NA, NA},
                {"sin.approx.ftz.f32", SUB, PZ},     {"sin.approx.ftz.f32", 0x80400000, NZ}};
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        char text[100];
        snprintf(text, sizeof text, "%s %%d, %%a; mov.u32 %%e, 0;", list[k].op);
        for (int i = 0; i < 32; i++) in[i][0] = list[k].from;
        run_snippet(&(struct snippet){"sm_90", text, 4, 4, 4, 4, 4}, 32, in, out);
        if (out[5][0] != list[k].to) fail_at(text, 5, out[5][0], list[k].to);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_narrow),   cmocka_unit_test(t_narrow_pairs),
                                       cmocka_unit_test(t_widen),    cmocka_unit_test(t_floats),
                                       cmocka_unit_test(t_integers), cmocka_unit_test(t_approximations),
                                       cmocka_unit_test(t_edges),    cmocka_unit_test(t_stochastic),
                                       cmocka_unit_test(t_flush),    cmocka_unit_test(t_wrong_forms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
