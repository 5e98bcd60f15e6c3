/* Models that share nothing with the machine: floating-point formats by their bits and rounding by search between the
 * two neighbours; and a kernel around some instructions. */
#ifndef KGEN_PTXVM_VM_FORMATS_H
#define KGEN_PTXVM_VM_FORMATS_H

#include "verify/ptxvm/tests/vm_test.h"

typedef uint64_t u64;
typedef uint32_t u32;
typedef int64_t s64;
typedef int32_t s32;

/* Exponent and significand bits, and what the top exponent means: IEEE infinities and NaN, one NaN of all ones, or
 * numbers like any other. */
struct format {
    const char *name;
    int exp, man;
    enum { TOP_IEEE, TOP_ONE_NAN, TOP_NUMBERS } top;
    u64 nan; /* what a conversion gives for NaN */
};
static const struct format F16 = {"f16", 5, 10, TOP_IEEE, 0x7fff}, BF16 = {"bf16", 8, 7, TOP_IEEE, 0x7fff},
                           TF32 = {"tf32", 8, 10, TOP_IEEE, 0x3ffff}, F32 = {"f32", 8, 23, TOP_IEEE, 0x7fffffff},
                           F64 = {"f64", 11, 52, TOP_IEEE, 0x7ff8000000000000},
                           E4M3 = {"e4m3", 4, 3, TOP_ONE_NAN, 0x7f}, E5M2 = {"e5m2", 5, 2, TOP_IEEE, 0x7f},
                           E2M1 = {"e2m1", 2, 1, TOP_NUMBERS, 7}, E2M3 = {"e2m3", 2, 3, TOP_NUMBERS, 0x1f},
                           E3M2 = {"e3m2", 3, 2, TOP_NUMBERS, 0x1f};

static inline u64 low_bits(u64 v, int n) {
    return n >= 64 ? v : v & ((1ull << n) - 1);
}
static inline u64 format_largest(const struct format *f) {
    u64 all = (1ull << (f->exp + f->man)) - 1;
    return f->top == TOP_IEEE ? all - (1ull << f->man) : f->top == TOP_ONE_NAN ? all - 1 : all;
}
static inline long double format_value(const struct format *f, u64 code) {
    u64 magnitude = low_bits(code, f->exp + f->man);
    long double sign = code >> (f->exp + f->man) & 1 ? -1 : 1;
    int e = (int)(magnitude >> f->man), bias = (1 << (f->exp - 1)) - 1;
    long double m = (long double)low_bits(magnitude, f->man);
    if (magnitude > format_largest(f)) return f->top == TOP_IEEE && m == 0 ? sign * INFINITY : NAN;
    return sign * (e ? ldexpl(m + ldexpl(1, f->man), e - bias - f->man) : ldexpl(m, 1 - bias - f->man));
}

/* mode: n nearest even, a nearest away, z m p directed. finite: numbers too large become the largest. */
static inline u64 format_round(const struct format *f, long double v, char mode, bool finite) {
    if (v != v) return f->nan;
    bool negative = signbit(v);
    u64 sign = negative ? 1ull << (f->exp + f->man) : 0, largest = format_largest(f), lo = 0, hi = largest + 1;
    long double x = fabsl(v);
    u64 infinite = f->top == TOP_IEEE ? sign | (largest + 1) : f->nan;
    if (isinf(x)) return finite || f->top == TOP_NUMBERS ? sign | largest : infinite;
    while (hi - lo > 1) {
        u64 mid = lo + (hi - lo) / 2;
        if (format_value(f, mid) <= x)
            lo = mid;
        else
            hi = mid;
    }
    long double down = format_value(f, lo),
                up = lo == largest ? 2 * down - format_value(f, lo - 1) : format_value(f, lo + 1);
    bool away = mode == 'p' ? !negative : mode == 'm' ? negative : false;
    if (mode == 'n') away = x - down > up - x || (x - down == up - x && lo & 1);
    if (mode == 'a') away = x - down >= up - x;
    u64 r = x > down && away ? lo + 1 : lo;
    if (r > largest) return finite || f->top == TOP_NUMBERS ? sign | largest : infinite;
    return sign | r;
}

/* ---- instructions in a kernel of their own: registers %a %b %c in, %d %e out, each of so many bytes; %p %q
 * predicates, %t %u 32-bit, %l the address of the thread's %d (global), %n its number, `sh` shared memory, 64 bytes a
 * thread ---- */
struct snippet {
    const char *target, *text;
    int d, e, a, b, c;
};
static inline void run_snippet(const struct snippet *s, int threads, u64 (*in)[3], u64 (*out)[2]) {
    static const char *const types[9] = {[2] = "b16", [4] = "b32", [8] = "b64"};
    struct buf t = {0};
    int in_bytes[3] = {s->a, s->b, s->c};
    buf_printf(&t,
               ".version 8.8\n.target %s\n.address_size 64\n.visible .entry k(.param .u64 pin, .param .u64 pout) {\n"
               ".reg .b64 %%x<8>, %%l; .reg .b32 %%n, %%t, %%u; .reg .pred %%p, %%q; .reg .%s %%d; .reg .%s %%e;\n"
               ".reg .%s %%a; .reg .%s %%b; .reg .%s %%c; .shared .align 16 .b8 sh[16384];\n"
               "mov.u32 %%n, %%tid.x; mul.wide.u32 %%x0, %%n, 24; ld.param.u64 %%x1, [pin]; add.u64 %%x1, %%x1, %%x0;\n"
               "mul.wide.u32 %%x0, %%n, 16; ld.param.u64 %%l, [pout]; add.u64 %%l, %%l, %%x0;\n",
               s->target, types[s->d], types[s->e], types[s->a], types[s->b], types[s->c]);
    for (int k = 0; k < 3; k++) buf_printf(&t, "ld.global.%s %%%c, [%%x1+%d];\n", types[in_bytes[k]], 'a' + k, 8 * k);
    buf_printf(&t, "%s\nst.global.%s [%%l], %%d; st.global.%s [%%l+8], %%e;\nret;\n}\n", s->text, types[s->d],
               types[s->e]);
    struct vm_module *m = load_text(t.data, s->text);
    u64 from = device((u64)threads * sizeof *in, in), to = device((u64)threads * sizeof *out, NULL);
    assert_int_equal(vm_mem_set(to, 0, 1, (u64)threads * sizeof *out, 1, 0), 0);
    for (int at = 0; at < threads; at += 1024) {
        int n = threads - at < 1024 ? threads - at : 1024;
        LAUNCH(m, "k", D1(1), D1(n), 0, from + (u64)at * sizeof *in, to + (u64)at * sizeof *out);
    }
    fetch(out, to, (u64)threads * sizeof *out);
    vm_mem_free(from);
    vm_mem_free(to);
    vm_module_free(m);
    buf_free(&t);
}

#endif
