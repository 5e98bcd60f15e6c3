/* Video instructions with random types, selectors, masks and modifiers, against the manual's pseudocode in arrays of
 * parts. */
#include "verify/ptxvm/tests/vm_formats.h"

enum { N = 256, ROUNDS = 40 };
typedef __int128 big;
static u64 in[N][3], out[N][2];
static uint32_t seed = 2024;

static bool coin(void) {
    return rnd(&seed) >> 7 & 1;
}
static u32 any(u32 n) {
    return rnd(&seed) / 16 % n;
}

/* The parts of a word of so many bits, as numbers. */
static void split(u32 word, int bits, bool sgn, big *to) {
    for (int i = 0; i < 32 / bits; i++) {
        to[i] = 0;
        for (int k = 0; k < bits; k++)
            if (word >> (i * bits + k) & 1) to[i] += sgn && k == bits - 1 ? -((big)1 << k) : (big)1 << k;
    }
}
static big limit(big v, int bits, bool sgn) {
    big one = 1, low = sgn ? -(one << (bits - 1)) : 0, high = (one << (bits - (sgn ? 1 : 0))) - 1;
    if (v > high) return high;
    return v < low ? low : v;
}
static u32 low32(big v) {
    return (u32)(unsigned __int128)v;
}
static big wrapped33(big v) {
    big r = v % ((big)1 << 33);
    if (r >= (big)1 << 32) r -= (big)1 << 33;
    if (r < -((big)1 << 32)) r += (big)1 << 33;
    return r;
}

enum { ADD, SUB, ABSDIFF, MIN, MAX, AVRG, SHL, SHR, SET, MAD };
static const char *const names[][3] = {{"vadd", "vadd2", "vadd4"},
                                       {"vsub", "vsub2", "vsub4"},
                                       {"vabsdiff", "vabsdiff2", "vabsdiff4"},
                                       {"vmin", "vmin2", "vmin4"},
                                       {"vmax", "vmax2", "vmax4"},
                                       {NULL, "vavrg2", "vavrg4"},
                                       {"vshl"},
                                       {"vshr"},
                                       {"vset", "vset2", "vset4"},
                                       {"vmad"}},
                         *const compares[] = {"eq", "ne", "lt", "le", "gt", "ge"};
struct form {
    int op, parts; /* parts 0: scalar */
    bool sd, sa, sb, sat, wrap, po, minus_a, minus_b, minus_c;
    int second; /* 0 none, 1 add, 2 min, 3 max */
    int compare, scale;
    int bits_d, at_d, bits_a, at_a, bits_b, at_b; /* scalar selectors; 32: none */
    int mask, from_a[4], from_b[4];
};

static big primary(const struct form *f, big a, big b) {
    switch (f->op) {
    case ADD:
        return a + b;
    case SUB:
        return a - b;
    case ABSDIFF:
        return a - b < 0 ? b - a : a - b;
    case MIN:
        return a < b ? a : b;
    case MAX:
        return a > b ? a : b;
    case AVRG:
        return a + b >= 0 ? (a + b + 1) / 2 : (a + b) >> 1;
    case SET: {
        bool r[] = {a == b, a != b, a<b, a <= b, a> b, a >= b};
        return r[f->compare];
    }
    default:
        break;
    }
    int n = f->wrap ? (int)(b % 32) : b > 32 ? 32 : (int)b;
    big power = (big)1 << n;
    if (f->op == SHL) return a * power;
    return a >= 0 ? a / power : -((-a + power - 1) / power); /* towards minus infinity */
}

static u32 model(const struct form *f, u32 a, u32 b, u32 c) {
    big pa[4], pb[4], pc[4];
    if (f->parts) {
        int bits = 32 / f->parts;
        u32 d = f->second ? c : 0;
        for (int i = 0; i < f->parts; i++) {
            split(f->from_a[i] < f->parts ? a : b, bits, f->sa, pa);
            split(f->from_b[i] < f->parts ? a : b, bits, f->sb, pb);
            split(c, bits, false, pc);
            big t = primary(f, pa[f->from_a[i] % f->parts], pb[f->from_b[i] % f->parts]);
            if (f->sat) t = limit(t, bits, f->sd);
            if (f->second)
                d += f->mask >> i & 1 ? low32(t) : 0;
            else
                d |= (low32(f->mask >> i & 1 ? t : pc[i]) & (bits == 16 ? 0xffff : 0xff)) << i * bits;
        }
        return d;
    }
    split(a, f->bits_a, f->sa, pa);
    split(b, f->bits_b, f->sb, pb);
    big x = pa[f->at_a / f->bits_a], y = pb[f->at_b / f->bits_b];
    if (f->op == MAD) {
        bool sgn = f->sa || f->sb || f->minus_a != f->minus_b || f->minus_c;
        big t = x * y, lsb = 0;
        u32 addend = c;
        if (f->po)
            lsb = 1;
        else if (f->minus_a != f->minus_b)
            t = ~t, lsb = 1;
        else if (f->minus_c)
            addend = ~addend, lsb = 1;
        split(addend, 32, sgn, pc);
        t += pc[0] + lsb;
        if (f->scale) {
            t >>= f->scale;
            big half = (big)1 << 63;
            t &= half * 2 - 1; /* 64 bits, signed where the result is */
            if (sgn && t >= half) t -= half * 2;
        }
        return low32(f->sat ? limit(t, 32, sgn) : t);
    }
    big t = primary(f, x, y);
    if (f->sat) t = limit(t, f->bits_d, f->sd);
    t = wrapped33(t);
    split(c, 32, f->sd, pc);
    if (f->second)
        return low32(f->second == 1 ? t + pc[0] : f->second == 2 ? (t < pc[0] ? t : pc[0]) : t > pc[0] ? t : pc[0]);
    if (f->bits_d == 32) return low32(t);
    u32 r = 0;
    for (int k = 0; k < 32; k++) {
        bool here = k >= f->at_d && k < f->at_d + f->bits_d;
        r |= (here ? low32(t) >> (k - f->at_d) & 1 : c >> k & 1) << k;
    }
    return r;
}

static void selector(struct buf *t, int bits, int at) {
    if (bits < 32) buf_printf(t, ".%c%d", bits == 8 ? 'b' : 'h', at / bits);
}
static void part(int *bits, int *at) {
    *bits = 8 << any(3);
    *at = *bits == 32 ? 0 : (int)any((u32)(32 / *bits)) * *bits;
}

/* One form: its text from its fields, and all threads' results. */
static void check(const struct form *f) {
    struct buf t = {0};
    buf_printf(&t, "%s", names[f->op][f->parts / 2]);
    if (f->op != SET) buf_printf(&t, ".%c32", f->sd ? 's' : 'u');
    buf_printf(&t, ".%c32.%c32", f->sa ? 's' : 'u', f->sb ? 's' : 'u');
    if (f->op == SET) buf_printf(&t, ".%s", compares[f->compare]);
    if (f->po) buf_printf(&t, ".po");
    if (f->sat) buf_printf(&t, ".sat");
    if (f->op == SHL || f->op == SHR) buf_printf(&t, f->wrap ? ".wrap" : ".clamp");
    if (f->scale) buf_printf(&t, ".shr%d", f->scale);
    static const char *const seconds[] = {"", ".add", ".min", ".max"};
    buf_printf(&t, "%s %%d", seconds[f->second]);
    bool three = true;
    if (f->parts) {
        char letter = f->parts == 2 ? 'h' : 'b';
        if (f->mask != (1 << f->parts) - 1) {
            buf_printf(&t, ".%c", letter);
            for (int i = f->parts - 1; i >= 0; i--)
                if (f->mask >> i & 1) buf_printf(&t, "%d", i);
        }
        for (int side = 0; side < 2; side++) {
            const int *from = side ? f->from_b : f->from_a;
            bool plain = true;
            for (int i = 0; i < f->parts; i++) plain &= from[i] == side * f->parts + i;
            buf_printf(&t, ", %%%c", 'a' + side);
            if (plain) continue;
            buf_printf(&t, ".%c", letter);
            for (int i = f->parts - 1; i >= 0; i--) buf_printf(&t, "%d", from[i]);
        }
        buf_printf(&t, ", %%c;");
    } else {
        three = f->second || f->op == MAD || f->bits_d < 32;
        selector(&t, f->bits_d, f->at_d);
        buf_printf(&t, ", %s%%a", f->minus_a ? "-" : "");
        selector(&t, f->bits_a, f->at_a);
        buf_printf(&t, ", %s%%b", f->minus_b ? "-" : "");
        selector(&t, f->bits_b, f->at_b);
        if (three) buf_printf(&t, ", %s%%c", f->minus_c ? "-" : "");
        buf_printf(&t, ";");
    }
    buf_printf(&t, " mov.u32 %%e, 0;");
    static const u32 edges[] = {0,          1,          31,         32,         33,         0x7f,
                                0x80,       0xff,       0x7fff,     0x8000,     0xffff,     0x7fffffff,
                                0x80000000, 0xffffffff, 0x80808080, 0x7f7f7f7f, 0x80008000, 0x00ff00ff};
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 3; j++)
            in[i][j] = coin() ? edges[any(sizeof edges / sizeof *edges)] : coin() ? rnd(&seed) : any(64);
    run_snippet(&(struct snippet){"sm_75", t.data, 4, 4, 4, 4, 4}, N, in, out);
    for (int i = 0; i < N; i++) {
        u32 e = model(f, (u32)in[i][0], (u32)in[i][1], (u32)in[i][2]);
        if (out[i][0] != e)
            fail_msg("%s a %llx b %llx c %llx: got %llx, expected %x", t.data, (unsigned long long)in[i][0],
                     (unsigned long long)in[i][1], (unsigned long long)in[i][2], (unsigned long long)out[i][0], e);
    }
    buf_free(&t);
}

static void t_scalar(void **unused) {
    (void)unused;
    static const int ops[] = {ADD, SUB, ABSDIFF, MIN, MAX, SHL, SHR, SET};
    for (int round = 0; round < ROUNDS; round++)
        for (size_t k = 0; k < sizeof ops / sizeof *ops; k++) {
            struct form f = {
                .op = ops[k], .sd = coin(), .sa = coin(), .sb = coin(), .sat = coin(), .wrap = coin(), .bits_d = 32};
            if (f.op == SET) f.sat = f.sd = false, f.compare = (int)any(6);
            if (f.op == SHL || f.op == SHR) f.sb = false;
            part(&f.bits_a, &f.at_a);
            part(&f.bits_b, &f.at_b);
            if (coin())
                part(&f.bits_d, &f.at_d);
            else
                f.second = (int)any(4);
            check(&f);
        }
}

static void t_mad(void **unused) {
    (void)unused;
    static const int scales[] = {0, 7, 15};
    for (int round = 0; round < 4 * ROUNDS; round++) {
        struct form f = {.op = MAD, .sa = coin(), .sb = coin(), .sat = coin(), .scale = scales[any(3)], .bits_d = 32};
        if (any(4) == 0)
            f.po = true;
        else if (coin())
            f.minus_a = coin(), f.minus_b = coin();
        if (!f.po && f.minus_a == f.minus_b) f.minus_c = coin();
        f.sd = f.sa || f.sb || f.minus_a != f.minus_b || f.minus_c; /* the type of the result */
        part(&f.bits_a, &f.at_a);
        part(&f.bits_b, &f.at_b);
        check(&f);
    }
}

static void t_simd(void **unused) {
    (void)unused;
    static const int ops[] = {ADD, SUB, ABSDIFF, MIN, MAX, AVRG, SET};
    for (int round = 0; round < 2 * ROUNDS; round++)
        for (size_t k = 0; k < sizeof ops / sizeof *ops; k++) {
            int parts = round & 1 ? 4 : 2;
            struct form f = {.op = ops[k], .parts = parts, .sd = coin(), .sa = coin(), .sb = coin()};
            f.mask = coin() ? (1 << parts) - 1 : 1 + (int)any((1u << parts) - 1);
            f.second = coin();
            if (f.op == SET)
                f.sd = false, f.compare = (int)any(6);
            else
                f.sat = !f.second && coin();
            bool pick_a = coin(), pick_b = coin();
            for (int i = 0; i < parts; i++) {
                f.from_a[i] = pick_a ? (int)any(2 * (u32)parts) : i;
                f.from_b[i] = pick_b ? (int)any(2 * (u32)parts) : parts + i;
            }
            check(&f);
        }
}

static void t_wrong_forms(void **unused) {
    (void)unused;
    static const char *const wrong[] = {
        "vadd.u16.u32.u32 %r0, %r1, %r2;",
        "vadd.u32.u32.u32 %r0, %r1.b4, %r2;",
        "vadd.u32.u32.u32 %r0, %r1.h2, %r2;",
        "vadd.u32.u32.u32 %r0, %r1.h10, %r2;",
        "vadd.u32.u32.u32 %r0.b0, %r1, %r2;",
        "vadd.u32.u32.u32.add %r0.b0, %r1, %r2, %r3;",
        "vadd.u32.u32.u32.mul %r0, %r1, %r2, %r3;",
        "vadd.u32.u32.u32 %r0, -%r1, %r2;",
        "vshl.u32.u32.s32.clamp %r0, %r1, %r2;",
        "vshl.u32.u32.u32 %r0, %r1, %r2;",
        "vset.u32.u32 %r0, %r1, %r2;",
        "vset.u32.u32.lo %r0, %r1, %r2;",
        "vmad.s32.s32.s32.po %r0, %r1, %r2, -%r3;",
        "vmad.s32.s32.s32 %r0, -%r1, %r2, -%r3;",
        "vmad.s32.s32.s32.shr8 %r0, %r1, %r2, %r3;",
        "vmad.s32.s32.s32 %r0, %r1, %r2;",
        "vavrg.s32.s32.s32 %r0, %r1, %r2;",
        "vadd2.u32.u32.u32 %r0, %r1, %r2;",
        "vadd2.u32.u32.u32.sat.add %r0, %r1, %r2, %r3;",
        "vadd2.u32.u32.u32 %r0.h01, %r1, %r2, %r3;",
        "vadd2.u32.u32.u32 %r0, %r1.h4, %r2, %r3;",
        "vadd2.u32.u32.u32 %r0, %r1.h41, %r2, %r3;",
        "vadd4.u32.u32.u32 %r0, %r1.h10, %r2, %r3;",
        "vadd4.u32.u32.u32.min %r0, %r1, %r2, %r3;",
        "vshl2.u32.u32.u32 %r0, %r1, %r2, %r3;",
        "add.u32 %r0, %r1.b0, %r2;",
        "add.u32 %r0.h0, %r1, %r2;",
        "add.u32 %r0, -%r1, %r2;",
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        char text[600], log[700];
        snprintf(
            text, sizeof text,
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {\n.reg .b32 %%r<4>;\n%s\nret;\n}\n",
            wrong[k]);
        struct vm_module *m = load_text(text, "v.ptx");
        struct vm_function *f;
        int r = vm_module_function(m, "k", &f, log, sizeof log);
        if (r != VM_INVALID_PTX || !strstr(log, "v.ptx line 6:")) fail_msg("%s: %d %s", wrong[k], r, log);
        vm_module_free(m);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_scalar), cmocka_unit_test(t_mad), cmocka_unit_test(t_simd),
                                       cmocka_unit_test(t_wrong_forms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
