/* Every opcode with every type and modifier, as a cross product, on edge values in random company: integers against
 * 128-bit arithmetic, floats against a model that works on their bits (exact sums, products, quotients and roots of
 * integers, with one rounding at the end). */
#include "verify/ptxvm/tests/vm_formats.h"

typedef __int128 big;
typedef unsigned __int128 ubig;
enum { N = 512 };
static u64 in[N][3], out[N][2];
static uint32_t seed = 31337;
static bool skip; /* PTX does not say what these operands give */

static u64 any64(void) {
    return (u64)rnd(&seed) << 32 | rnd(&seed);
}
static void fail_at(const char *text, int i, int k, u64 expected) {
    fail_msg("%s a %llx b %llx c %llx: result %d is %llx, expected %llx", text, (unsigned long long)in[i][0],
             (unsigned long long)in[i][1], (unsigned long long)in[i][2], k, (unsigned long long)out[i][k],
             (unsigned long long)expected);
}

/* ---- integers ---- */
static const struct type {
    const char *name;
    int bits, sgn;
} types[] = {{"u16", 16, 0}, {"s16", 16, 1}, {"u32", 32, 0}, {"s32", 32, 1}, {"u64", 64, 0}, {"s64", 64, 1}};
static big value(u64 v, const struct type *t) {
    v = low_bits(v, t->bits);
    return t->sgn && v >> (t->bits - 1) & 1 ? (big)v - ((big)1 << t->bits) : (big)v;
}
static u64 integer_operand(int bits) {
    static const u64 edges[] = {0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256};
    u64 top = 1ull << (bits - 1), r = any64();
    switch (rnd(&seed) % 6) {
    case 0:
        return edges[rnd(&seed) % (sizeof edges / sizeof *edges)];
    case 1:
        return low_bits(top + r % 5 - 2, bits);
    case 2:
        return low_bits(0 - r % 5, bits);
    case 3:
        return low_bits(r >> rnd(&seed) % 64, bits);
    case 4:
        return low_bits(0 - (r >> rnd(&seed) % 64), bits);
    default:
        return low_bits(r, bits);
    }
}
static void integer_operands(int a, int b, int c) {
    for (int i = 0; i < N; i++) {
        in[i][0] = integer_operand(a), in[i][1] = integer_operand(b), in[i][2] = integer_operand(c);
        if (i % 9 == 0 && a == b) in[i][1] = in[i][0];
    }
}
/* Runs text; d and e are the results' bits, the model gives both. */
static void check(const char *text, const char *target, int d, int e, int a, int b, int c,
                  void (*model)(const void *arg, const u64 *v, u64 *r), const void *arg) {
    run_snippet(&(struct snippet){target, text, d / 8, e / 8, a / 8, b / 8, c / 8}, N, in, out);
    for (int i = 0; i < N; i++) {
        u64 r[2] = {0, 0};
        skip = false;
        model(arg, in[i], r);
        if (skip) continue;
        r[0] = low_bits(r[0], d), r[1] = low_bits(r[1], e);
        for (int k = 0; k < 2; k++)
            if (out[i][k] != r[k]) fail_at(text, i, k, r[k]);
    }
}

enum arithmetic { ADD, SUB, LO, HI, WIDE, MADLO, MADHI, MADWIDE, DIV, REM, MIN, MAX, SAD, ABS, NEG, N_ARITHMETIC };
static const char *const arithmetic_names[] = {"add",    "sub",    "mul.lo",   "mul.hi", "mul.wide",
                                               "mad.lo", "mad.hi", "mad.wide", "div",    "rem",
                                               "min",    "max",    "sad",      "abs",    "neg"};
struct integer_form {
    enum arithmetic op;
    const struct type *t;
};
static void integer_model(const void *arg, const u64 *v, u64 *r) {
    const struct integer_form *f = arg;
    big a = value(v[0], f->t), b = value(v[1], f->t), c = value(v[2], f->t);
    ubig product = f->t->sgn ? (ubig)(a * b) : (ubig)a * (ubig)b;
    u64 wide_c = low_bits(v[2], 2 * f->t->bits);
    bool overflows = f->t->sgn && b == -1 && a == -((big)1 << (f->t->bits - 1));
    switch (f->op) {
    case ADD:
        *r = (u64)(a + b);
        break;
    case SUB:
        *r = (u64)(a - b);
        break;
    case LO:
    case WIDE:
        *r = (u64)product;
        break;
    case HI:
        *r = (u64)(product >> f->t->bits);
        break;
    case MADLO:
        *r = (u64)(product + (ubig)c);
        break;
    case MADHI:
        *r = (u64)((product >> f->t->bits) + (ubig)c);
        break;
    case MADWIDE:
        *r = (u64)product + wide_c;
        break;
    case DIV:
        if (b == 0 || overflows)
            skip = true;
        else
            *r = (u64)(a / b);
        break;
    case REM:
        if (b == 0 || overflows)
            skip = true;
        else
            *r = (u64)(a % b);
        break;
    case MIN:
        *r = (u64)(a < b ? a : b);
        break;
    case MAX:
        *r = (u64)(a > b ? a : b);
        break;
    case SAD:
        *r = (u64)(c + (a > b ? a - b : b - a));
        break;
    case ABS:
        *r = (u64)(a < 0 ? -a : a);
        break;
    default:
        *r = (u64)-a;
        break;
    }
}
static void t_integers(void **unused) {
    (void)unused;
    for (int op = 0; op < N_ARITHMETIC; op++)
        for (int k = 0; k < 6; k++) {
            const struct type *t = &types[k];
            bool wide = op == WIDE || op == MADWIDE, one = op == ABS || op == NEG,
                 three = op == MADLO || op == MADHI || op == MADWIDE || op == SAD;
            if ((wide && t->bits == 64) || (one && !t->sgn)) continue;
            int d = wide ? 2 * t->bits : t->bits;
            char text[200];
            snprintf(text, sizeof text, "%s.%s %%d, %%a%s%s; mov.u32 %%e, 0;", arithmetic_names[op], t->name,
                     one ? "" : ", %b", three ? ", %c" : "");
            integer_operands(t->bits, t->bits, d);
            check(text, "sm_90", d, 32, t->bits, t->bits, d, integer_model,
                  &(struct integer_form){(enum arithmetic)op, t});
        }
}

/* ---- carries: numbers of two and three words ---- */
static void carry_model(const void *arg, const u64 *v,
                        u64 *r) { /* (b:a) + (a:c), or minus; bits in *arg, negative: minus */
    int bits = abs(*(const int *)arg);
    ubig x = (ubig)v[1] << bits | v[0], y = (ubig)v[0] << bits | v[2], s = *(const int *)arg < 0 ? x - y : x + y;
    r[0] = (u64)s, r[1] = (u64)(s >> bits);
}
static void carries_out_model(const void *arg, const u64 *v,
                              u64 *r) { /* a + b and the carry that comes of it and c & 1 */
    int bits = abs(*(const int *)arg);
    big s = *(const int *)arg < 0 ? (big)v[0] - (big)v[1] - (v[2] & 1) : (big)v[0] + (big)v[1] + (v[2] & 1);
    r[0] = (u64)s, r[1] = s < 0 || s >> bits;
}
static void mad_carry_model(const void *arg, const u64 *v, u64 *r) { /* a * b + (c : c), two words */
    int form = *(const int *)arg, bits = form & 1 ? 64 : 32;
    bool sgn = form & 2;
    const struct type t = {"", bits, sgn};
    ubig p = sgn ? (ubig)(value(v[0], &t) * value(v[1], &t)) : (ubig)v[0] * v[1];
    if (bits == 32) p = (u64)p;
    ubig s = p + ((ubig)v[2] << bits | v[2]);
    r[0] = (u64)s, r[1] = (u64)(s >> bits);
}
static void t_carries(void **unused) {
    (void)unused;
    for (int form = 0; form < 8; form++) {
        int bits = form & 1 ? 64 : 32, arg = form & 2 ? -bits : bits;
        const char *op = form & 2 ? "sub" : "add", *type = form & 4 ? "s" : "u";
        char text[500];
        snprintf(text, sizeof text, "%s.cc.%s%d %%d, %%a, %%c; %sc.%s%d %%e, %%b, %%a;", op, type, bits, op, type,
                 bits);
        integer_operands(bits, bits, bits);
        check(text, "sm_90", bits, bits, bits, bits, bits, carry_model, &arg);
        /* the flag is set first: -1 + (c & 1), or 0 - (c & 1) */
        snprintf(text, sizeof text,
                 "{.reg .b%d %%k, %%z; and.b%d %%k, %%c, 1; mov.b%d %%z, %d; %s.cc.u%d %%z, %%z, %%k;\n"
                 "%sc.cc.%s%d %%d, %%a, %%b; addc.u%d %%e, 0, 0;}",
                 bits, bits, bits, form & 2 ? 0 : -1, op, bits, op, type, bits, bits);
        check(text, "sm_90", bits, bits, bits, bits, bits, carries_out_model, &arg);
    }
    for (int form = 0; form < 4; form++) {
        int bits = form & 1 ? 64 : 32;
        const char *type = form & 2 ? "s" : "u";
        char text[300];
        snprintf(text, sizeof text, "mad.lo.cc.%s%d %%d, %%a, %%b, %%c; madc.hi.%s%d %%e, %%a, %%b, %%c;", type, bits,
                 type, bits);
        integer_operands(bits, bits, bits);
        check(text, "sm_90", bits, bits, bits, bits, bits, mad_carry_model, &form);
    }
}

/* ---- bits ---- */
enum bit_op { AND, OR, XOR, NOT, CNOT, SHL, SHR, POPC, CLZ, BREV, BFIND, SHIFTAMT, BFE, BFI, N_BIT_OPS };
static const char *const bit_names[] = {"and",  "or",  "xor",  "not",   "cnot",           "shl", "shr",
                                        "popc", "clz", "brev", "bfind", "bfind.shiftamt", "bfe", "bfi"};
struct bit_form {
    enum bit_op op;
    struct type t;
};
static void bit_model(const void *arg, const u64 *v, u64 *r) {
    const struct bit_form *f = arg;
    int w = f->t.bits, high = -1, from, n;
    u64 a = low_bits(v[0], w), b = low_bits(v[1], w), sign = f->t.sgn ? a >> (w - 1) & 1 : 0;
    for (int i = 0; i < w; i++)
        if ((a >> i & 1) != sign) high = i;
    switch (f->op) {
    case AND:
        *r = a & b;
        break;
    case OR:
        *r = a | b;
        break;
    case XOR:
        *r = a ^ b;
        break;
    case NOT:
        *r = ~a;
        break;
    case CNOT:
        *r = !a;
        break;
    case SHL:
        *r = v[1] >= (u64)w ? 0 : a << v[1];
        break;
    case SHR:
        for (int i = 0; i < w; i++) *r |= (v[1] + (u64)i >= (u64)w ? sign : a >> (v[1] + (u64)i) & 1) << i;
        break;
    case POPC:
        for (int i = 0; i < w; i++) *r += a >> i & 1;
        break;
    case CLZ:
        *r = (u64)(w - 1 - high);
        break;
    case BREV:
        for (int i = 0; i < w; i++) *r |= (a >> i & 1) << (w - 1 - i);
        break;
    case BFIND:
        *r = (u32)high;
        break;
    case SHIFTAMT:
        *r = high < 0 ? 0xffffffff : (u32)(w - 1 - high);
        break;
    case BFE:
        from = (int)(v[1] & 255), n = (int)(v[2] & 255);
        sign = !f->t.sgn || !n ? 0 : a >> (from + n < w ? from + n - 1 : w - 1) & 1;
        for (int i = 0; i < w; i++) *r |= (i < n && from + i < w ? a >> (from + i) & 1 : sign) << i;
        break;
    default: /* bfi: a into b at c, 13 bits */
        from = (int)(v[2] & 255);
        *r = b;
        for (int i = 0; i < 13 && from + i < w; i++) *r = (*r & ~(1ull << (from + i))) | (a >> i & 1) << (from + i);
        break;
    }
}
static void t_bits(void **unused) {
    (void)unused;
    for (int op = 0; op < N_BIT_OPS; op++)
        for (int k = 0; k < 6; k++) {
            struct bit_form f = {(enum bit_op)op, types[k]};
            bool typed = op == SHR || op == BFIND || op == SHIFTAMT || op == BFE, one = op >= POPC && op <= SHIFTAMT,
                 amount = op == SHL || op == SHR || op == BFE;
            if (op == NOT || op == CNOT) one = true;
            if ((!typed && f.t.sgn) || (op >= POPC && f.t.bits == 16)) continue;
            int d = op == POPC || op == CLZ || op == BFIND || op == SHIFTAMT ? 32 : f.t.bits,
                b = amount ? 32 : f.t.bits;
            char text[200], type[8];
            snprintf(type, sizeof type, "%c%d", !typed ? 'b' : f.t.sgn ? 's' : 'u', f.t.bits);
            snprintf(text, sizeof text, "%s.%s %%d, %%a%s%s; mov.u32 %%e, 0;", bit_names[op], type, one ? "" : ", %b",
                     op == BFE   ? ", %c"
                     : op == BFI ? ", %c, 13"
                                 : "");
            integer_operands(f.t.bits, b, 32);
            if (amount)
                for (int i = 0; i < N; i++)
                    if (i % 2) in[i][1] %= 70, in[i][2] %= 70;
            check(text, "sm_90", d, 32, f.t.bits, b, 32, bit_model, &f);
        }
}

/* ---- floats by their bits ---- */
struct number { /* (-1)^negative m 2^e; the last bit of m stands for what is below it, too */
    bool negative, nan, infinite;
    ubig m;
    int e;
};
static int top_bit(ubig m) {
    int n = -1;
    while (m) m >>= 1, n++;
    return n;
}
static struct number unpack(const struct format *f, u64 code) {
    u64 magnitude = low_bits(code, f->exp + f->man);
    int e = (int)(magnitude >> f->man), bias = (1 << (f->exp - 1)) - 1;
    u64 m = low_bits(magnitude, f->man);
    struct number x = {.negative = code >> (f->exp + f->man) & 1};
    x.nan = e == 2 * bias + 1 && m, x.infinite = e == 2 * bias + 1 && !m;
    x.m = e ? m | 1ull << f->man : m;
    x.e = (e ? e : 1) - bias - f->man;
    return x;
}
static ubig shifted_right(ubig m, int n) {
    if (n <= 0) return m;
    if (n > 126) return m != 0;
    return m >> n | ((m & (((ubig)1 << n) - 1)) != 0);
}
static u64 pack(const struct format *f, struct number x, char mode) {
    u64 sign = x.negative ? 1ull << (f->exp + f->man) : 0, infinite = ((1ull << f->exp) - 1) << f->man;
    if (x.nan) return f->nan;
    if (x.infinite) return sign | infinite;
    if (!x.m) return sign;
    int bias = (1 << (f->exp - 1)) - 1, least = 1 - bias - f->man, unit = x.e + top_bit(x.m) - f->man;
    if (unit < least) unit = least;
    ubig m = unit <= x.e ? x.m << (x.e - unit) : x.m;
    int cut = unit - x.e;
    ubig kept = cut > 0 ? cut > 126 ? 0 : m >> cut : m, half = cut > 0 && cut < 127 ? (ubig)1 << (cut - 1) : 0,
         rest = cut > 0 ? cut > 126 ? m : m & (((ubig)1 << cut) - 1) : 0;
    bool up = mode == 'n'   ? half && (rest > half || (rest == half && (kept & 1)))
              : mode == 'p' ? rest && !x.negative
              : mode == 'm' ? rest && x.negative
                            : false;
    u64 k = (u64)kept + up;
    int biased = unit + f->man + bias;
    u64 code = k >> f->man ? ((u64)(biased - 1) << f->man) + k : k;
    if (code >= infinite) {
        bool away = mode == 'n' || (mode == 'p' && !x.negative) || (mode == 'm' && x.negative);
        code = away ? infinite : infinite - 1;
    }
    return sign | code;
}
static struct number plus(struct number x, struct number y, char mode) {
    if (x.nan || y.nan || (x.infinite && y.infinite && x.negative != y.negative)) return (struct number){.nan = true};
    if (x.infinite) return x;
    if (y.infinite) return y;
    if (!x.m && !y.m) {
        x.negative = x.negative == y.negative ? x.negative : mode == 'm';
        return x;
    }
    struct number *both[2] = {&x, &y};
    for (int i = 0; i < 2; i++) { /* the top bits at 120 */
        if (!both[i]->m) continue;
        int n = 120 - top_bit(both[i]->m);
        both[i]->m <<= n, both[i]->e -= n;
    }
    if (!y.m || (x.m && x.e >= y.e)) {
        if (y.m) y.m = shifted_right(y.m, x.e - y.e);
    } else {
        struct number swap = x;
        x = y, y = swap;
        if (y.m) y.m = shifted_right(y.m, x.e - y.e);
    }
    if (x.negative == y.negative) {
        x.m += y.m;
    } else if (x.m >= y.m) {
        x.m -= y.m;
    } else {
        x.m = y.m - x.m;
        x.negative = y.negative;
    }
    if (!x.m) x.negative = mode == 'm';
    return x;
}
static struct number times(struct number x, struct number y) {
    struct number r = {.negative = x.negative != y.negative};
    bool zero = (!x.m && !x.infinite) || (!y.m && !y.infinite);
    r.nan = x.nan || y.nan || ((x.infinite || y.infinite) && zero);
    r.infinite = !r.nan && (x.infinite || y.infinite);
    r.m = x.m * y.m, r.e = x.e + y.e;
    return r;
}
static struct number over(struct number x, struct number y) {
    struct number r = {.negative = x.negative != y.negative};
    r.nan = x.nan || y.nan || (x.infinite && y.infinite) || (!x.m && !y.m && !x.infinite && !y.infinite);
    if (r.nan) return r;
    if (x.infinite || (!y.m && !y.infinite)) {
        r.infinite = true;
        return r;
    }
    if (y.infinite || !x.m) return r;
    int n = 120 - top_bit(x.m);
    ubig m = x.m << n;
    r.m = m / y.m | (m % y.m != 0), r.e = x.e - n - y.e;
    return r;
}
static struct number root(struct number x) {
    if (x.nan || (x.negative && (x.m || x.infinite))) return (struct number){.nan = true};
    if (x.infinite || !x.m) return x;
    int n = 120 - top_bit(x.m);
    if ((x.e - n) & 1) n--;
    ubig m = x.m << n, r = 0;
    for (int i = 62; i >= 0; i--) {
        ubig t = r | (ubig)1 << i;
        if (t * t <= m) r = t;
    }
    return (struct number){.m = r << 1 | (r * r != m), .e = (x.e - n) / 2 - 1};
}

enum float_op { F_ADD, F_SUB, F_MUL, F_FMA, F_DIV, F_RCP, F_SQRT, F_MIN, F_MAX, F_ABS, F_NEG, N_FLOAT_OPS };
static const char *const float_names[] = {"add", "sub", "mul", "fma", "div", "rcp", "sqrt", "min", "max", "abs", "neg"};
struct float_form {
    enum float_op op;
    const struct format *f;
    char mode;
    bool ftz, sat, relu, nan, xorsign, three; /* three operands of min, max */
    int parts;                                /* elements in a register */
};
static u64 flushed(const struct format *f, u64 v) {
    return v >> f->man & ((1ull << f->exp) - 1) ? v : v & 1ull << (f->exp + f->man);
}
static u64 smaller(const struct float_form *f, u64 a, u64 b) {
    int width = 1 + f->f->exp + f->f->man;
    u64 sign = 1ull << (width - 1), xored = (a ^ b) & sign;
    struct number x = unpack(f->f, a), y = unpack(f->f, b);
    if (f->xorsign) a &= ~sign, b &= ~sign, x.negative = y.negative = false;
    if (x.nan || y.nan) {
        if (f->f == &F64 && x.nan && y.nan) skip = true; /* the payload is not specified */
        if (f->nan || (x.nan && y.nan)) return f->f->nan;
        a = x.nan ? b : a;
    } else {
        big p = x.negative ? -(big)(a & ~sign) - 1 : (big)a, q = y.negative ? -(big)(b & ~sign) - 1 : (big)b;
        a = (f->op == F_MIN) == (p < q) ? a : b;
    }
    return f->xorsign ? (a & ~sign) | xored : a;
}
static u64 float_element(const struct float_form *f, u64 a, u64 b, u64 c) {
    u64 sign = 1ull << (f->f->exp + f->f->man), r;
    if (f->ftz) a = flushed(f->f, a), b = flushed(f->f, b), c = flushed(f->f, c);
    struct number x = unpack(f->f, a), y = unpack(f->f, b), z = unpack(f->f, c), v = {.nan = true};
    switch (f->op) {
    case F_ADD:
        v = plus(x, y, f->mode);
        break;
    case F_SUB:
        y.negative = !y.negative, v = plus(x, y, f->mode);
        break;
    case F_MUL:
        v = times(x, y);
        break;
    case F_FMA:
        v = times(x, y), v = v.nan || v.infinite || z.nan ? plus(v, z, f->mode) : plus(v, z, f->mode);
        break;
    case F_DIV:
        v = over(x, y);
        break;
    case F_RCP:
        v = over(unpack(f->f, (u64)((1 << (f->f->exp - 1)) - 1) << f->f->man), x);
        break;
    case F_SQRT:
        v = root(x);
        break;
    case F_ABS:
    case F_NEG:
        if (x.nan) skip = true; /* its sign is not specified */
        return f->op == F_ABS ? a & ~sign : a ^ sign;
    default:
        r = smaller(f, a, b);
        if (f->three) r = smaller(f, r, c);
        if (f->relu && r & sign && !unpack(f->f, r).nan) r = 0;
        return r;
    }
    if (v.nan && f->f == &F64) skip = true; /* the payload is not specified */
    r = pack(f->f, v, f->mode);
    if (f->ftz) {
        if ((r & ~sign) == 1ull << f->f->man && v.m != (ubig)1 << top_bit(v.m))
            skip = true; /* tiny before, or after? */
        r = flushed(f->f, r);
    }
    if (f->sat) {
        u64 one = (u64)((1 << (f->f->exp - 1)) - 1) << f->f->man;
        r = v.nan || r & sign ? 0 : r > one ? one : r;
    }
    if (f->relu && r & sign && !v.nan) r = 0;
    return r;
}
static void float_model(const void *arg, const u64 *v, u64 *r) {
    const struct float_form *f = arg;
    int width = 1 + f->f->exp + f->f->man;
    for (int i = 0; i < f->parts; i++)
        *r |= float_element(f, low_bits(v[0] >> i * width, width), low_bits(v[1] >> i * width, width),
                            low_bits(v[2] >> i * width, width))
              << i * width;
}
static u64 float_operand(const struct format *f) {
    int width = 1 + f->exp + f->man, bias = (1 << (f->exp - 1)) - 1;
    u64 r = any64(), sign = (r >> 63) << (width - 1), man = low_bits(r, f->man);
    u64 e;
    switch (rnd(&seed) % 8) {
    case 0:
        return sign |
               (u64[]){
                   0, 1, format_largest(f), format_largest(f) + 1, f->nan, 1ull << f->man, (1ull << f->man) - 1}[r % 7];
    case 1:
        e = 0;
        break;
    case 2:
        e = 1 + r % 3;
        break;
    case 3:
        e = (u64)(2 * bias) - r % 3;
        break;
    case 4:
        return low_bits(r, width);
    case 5:
        man &= ~0ull << r % (u64)(f->man); /* short: ties */ /* fall through */
    default:
        e = (u64)bias - (u64)f->man + r % (u64)(2 * f->man);
        break;
    }
    if ((int)e < 0 || e > (u64)(2 * bias)) e = (u64)bias;
    return sign | e << f->man | low_bits(man, f->man);
}
static void float_check(const struct float_form *f) {
    int width = (1 + f->f->exp + f->f->man) * f->parts;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < 3; j++) {
            in[i][j] = 0;
            for (int k = 0; k < f->parts; k++) in[i][j] |= float_operand(f->f) << k * (1 + f->f->exp + f->f->man);
        }
        if (i % 7 == 0) in[i][1] = in[i][0];
        if (i % 7 == 1) in[i][1] = in[i][0] ^ 1ull << (width - 1);
    }
    char text[300], rounding[5] = "";
    bool exact = f->op >= F_MIN, one = f->op == F_ABS || f->op == F_NEG || f->op == F_RCP || f->op == F_SQRT,
         halves = f->f == &F16 || f->f == &BF16;
    if (!exact && !(halves && f->op != F_FMA && rnd(&seed) & 1)) snprintf(rounding, sizeof rounding, ".r%c", f->mode);
    char type[20];
    snprintf(type, sizeof type, "%s%s", f->f->name, f->parts == 2 ? "x2" : "");
    snprintf(text, sizeof text, "%s%s%s%s%s%s%s.%s %%d, %%a%s%s; mov.u32 %%e, 0;", float_names[f->op], rounding,
             f->ftz ? ".ftz" : "", f->sat ? ".sat" : "", f->relu && f->op == F_FMA ? ".relu" : "", f->nan ? ".NaN" : "",
             f->xorsign ? ".xorsign.abs" : "", type, one ? "" : ", %b", f->op == F_FMA || f->three ? ", %c" : "");
    check(text, "sm_100a", width, 32, width, width, width, float_model, f);
}
static void t_floats(void **unused) {
    (void)unused;
    static const struct format *const formats[] = {&F16, &BF16, &F32, &F64};
    for (int op = 0; op < N_FLOAT_OPS; op++)
        for (int k = 0; k < 4; k++)
            for (int mods = 0; mods < 128; mods++) {
                struct float_form f = {.op = (enum float_op)op, .f = formats[k], .mode = "nzmp"[mods & 3], .parts = 1};
                bool halves = k < 2, exact = op >= F_MIN;
                f.ftz = mods & 4, f.sat = mods & 8, f.relu = mods & 16, f.nan = mods & 32, f.xorsign = mods & 64;
                if (halves && op >= F_DIV && op <= F_SQRT) continue;
                if (f.mode != 'n' && (exact || halves)) continue;
                if (f.ftz && (k == 3 || k == 1)) continue; /* f32 and f16 only */
                if (f.sat && (exact || (op >= F_DIV && op <= F_SQRT) || k == 3 || k == 1)) continue;
                if (f.relu && (!halves || op != F_FMA || f.sat)) continue;
                if ((f.nan || f.xorsign) && ((op != F_MIN && op != F_MAX) || k == 3)) continue;
                for (f.parts = 1; f.parts <= (k == 3 ? 1 : 2); f.parts++) {
                    if (f.parts == 2 && !halves && (op > F_FMA || f.sat)) continue; /* f32x2: add, sub, mul, fma */
                    float_check(&f);
                }
                f.parts = 1, f.three = true;
                if (k == 2 && (op == F_MIN || op == F_MAX) && !f.xorsign) float_check(&f);
            }
}

/* ---- comparisons: setp with both results and a predicate, set, selp, slct ---- */
static const char *const comparisons[] = {"eq", "ne",  "lt",  "le",  "gt",  "ge",  "lo",  "ls",  "hi",
                                          "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
struct comparison {
    int cmp, combine; /* 0 none, 1 and, 2 or, 3 xor */
    bool negated, ftz;
    const struct type *t;
    const struct format *f;
};
static bool compares(const struct comparison *k, u64 a, u64 b) {
    static const int base[] = {0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5};
    big x, y;
    bool nan = false;
    if (k->t) {
        x = value(a, k->t), y = value(b, k->t);
    } else {
        if (k->ftz) a = flushed(k->f, a), b = flushed(k->f, b);
        struct number p = unpack(k->f, a), q = unpack(k->f, b);
        u64 magnitude = (1ull << (k->f->exp + k->f->man)) - 1;
        nan = p.nan || q.nan;
        x = p.negative ? -(big)(a & magnitude) : (big)(a & magnitude);
        y = q.negative ? -(big)(b & magnitude) : (big)(b & magnitude);
    }
    if (k->cmp >= 16) return (k->cmp == 16) != nan;
    if (nan) return k->cmp >= 10;
    bool r[] = {x == y, x != y, x<y, x <= y, x> y, x >= y};
    return r[base[k->cmp]];
}
static bool combined(const struct comparison *k, bool t, bool c) {
    c ^= k->negated;
    return k->combine == 0 ? t : k->combine == 1 ? t && c : k->combine == 2 ? t || c : t != c;
}
static void setp_model(const void *arg, const u64 *v, u64 *r) {
    const struct comparison *k = arg;
    bool t = compares(k, v[0], v[1]), c = v[2] & 1;
    r[0] = combined(k, t, c);
    if (k->t || k->f == &F32 || k->f == &F64) r[0] |= (u64)combined(k, !t, c) << 1;
    r[1] = combined(k, t, c) ? 0xffffffff : 0;
}
static void t_comparisons(void **unused) {
    (void)unused;
    static const struct format *const formats[] = {&F16, &BF16, &F32, &F64};
    static const char *const combines[] = {"", ".and", ".or", ".xor"};
    for (int cmp = 0; cmp < 18; cmp++)
        for (int k = 0; k < 10; k++)
            for (int combine = 0; combine < 4; combine++) {
                struct comparison q = {.cmp = cmp, .combine = combine, .negated = combine && rnd(&seed) & 8};
                if (k < 6)
                    q.t = &types[k];
                else
                    q.f = formats[k - 6];
                if (q.t ? cmp > 9 || (q.t->sgn && cmp > 5) : cmp > 5 && cmp < 10) continue;
                q.ftz = q.f && (q.f == &F16 || q.f == &F32) && rnd(&seed) & 4;
                int bits = q.t ? q.t->bits : 1 + q.f->exp + q.f->man;
                if (q.t) integer_operands(bits, bits, 32);
                for (int i = 0; i < N; i++) {
                    if (q.f) in[i][0] = float_operand(q.f), in[i][1] = i % 5 ? float_operand(q.f) : in[i][0];
                    in[i][2] = rnd(&seed);
                }
                const char *type = q.t ? q.t->name : q.f->name, *ftz = q.ftz ? ".ftz" : "";
                char text[600], tail[40] = "";
                if (combine) snprintf(tail, sizeof tail, ", %s%%s", q.negated ? "!" : "");
                bool one = bits == 16 && q.f; /* setp of halves has one result */
                snprintf(text, sizeof text,
                         "{.reg .pred %%s; and.b32 %%t, %%c, 1; setp.ne.u32 %%s, %%t, 0; setp.ne.u32 %%q, 0, 0;\n"
                         "setp.%s%s%s.%s %%p%s, %%a, %%b%s; selp.u32 %%t, 1, 0, %%p; selp.u32 %%u, 2, 0, %%q;\n"
                         "or.b32 %%d, %%t, %%u; set.%s%s%s.u32.%s %%e, %%a, %%b%s;}",
                         comparisons[cmp], combines[combine], ftz, type, one ? "" : "|%q", tail, comparisons[cmp],
                         combines[combine], ftz, type, tail);
                check(text, "sm_90", 32, 32, bits, bits, 32, setp_model, &q);
            }
}
struct slct_form {
    int bits;
    bool is_float, ftz;
};
static void slct_model(const void *arg, const u64 *v, u64 *r) {
    const struct slct_form *f = arg;
    struct number c = unpack(&F32, f->ftz ? flushed(&F32, v[2]) : v[2]);
    bool first = f->is_float ? !c.nan && (!c.negative || !(c.m || c.infinite)) : !(v[2] >> 31 & 1);
    r[0] = first ? v[0] : v[1];
    r[1] = v[2] & 1 ? v[1] : v[0];
}
static void t_selection(void **unused) {
    (void)unused;
    for (int k = 0; k < 9; k++) {
        struct slct_form f = {16 << k / 3, k % 3 > 0, k % 3 == 2};
        integer_operands(f.bits, f.bits, 32);
        for (int i = 0; i < N; i++)
            if (f.is_float) in[i][2] = float_operand(&F32);
        char text[300];
        snprintf(text, sizeof text,
                 "and.b32 %%t, %%c, 1; setp.eq.u32 %%p, %%t, 0; selp.b%d %%e, %%a, %%b, %%p; slct%s.b%d.%s %%d, %%a, "
                 "%%b, %%c;",
                 f.bits, f.ftz ? ".ftz" : "", f.bits, f.is_float ? "f32" : "s32");
        check(text, "sm_90", f.bits, f.bits, f.bits, f.bits, 32, slct_model, &f);
    }
}

/* ---- operations of f32 with halves (sm_100) ---- */
struct mixed_form {
    struct float_form f;
    const struct format *half;
};
static void mixed_model(const void *arg, const u64 *v, u64 *r) {
    const struct mixed_form *m = arg;
    u64 w[3];
    for (int i = 0; i < 3; i++) { /* a, and b of fma, are halves: every one of them is an f32 */
        bool half = i == 0 || (i == 1 && m->f.op == F_FMA);
        w[i] = half ? pack(&F32, unpack(m->half, v[i]), 'n') : v[i];
    }
    r[0] = float_element(&m->f, w[0], w[1], w[2]);
}
static void t_mixed(void **unused) {
    (void)unused;
    static const enum float_op ops[] = {F_ADD, F_SUB, F_FMA};
    for (int form = 0; form < 48; form++) {
        struct mixed_form m = {{.op = ops[form % 3], .f = &F32, .mode = "nzmp"[form / 3 % 4], .parts = 1},
                               form / 12 & 1 ? &F16 : &BF16};
        m.f.sat = form / 24;
        bool fma = m.f.op == F_FMA;
        for (int i = 0; i < N; i++)
            in[i][0] = float_operand(m.half), in[i][1] = float_operand(fma ? m.half : &F32),
            in[i][2] = float_operand(&F32);
        char text[200];
        snprintf(text, sizeof text, "%s.r%c%s.f32.%s %%d, %%a, %%b%s; mov.u32 %%e, 0;", float_names[m.f.op], m.f.mode,
                 m.f.sat ? ".sat" : "", m.half->name, fma ? ", %c" : "");
        check(text, "sm_100a", 32, 32, 16, fma ? 16 : 32, 32, mixed_model, &m);
    }
}

/* ---- sums of products of parts, 24-bit products, permutations ---- */
struct small_form {
    int kind, a, b, high; /* signed? */
};
static big piece(u64 v, int at, int bits, int sgn) {
    const struct type t = {"", bits, sgn};
    return value(v >> at, &t);
}
static void small_model(const void *arg, const u64 *v, u64 *r) {
    const struct small_form *f = arg;
    big s = (big)v[2];
    switch (f->kind) {
    case 0: /* dp4a */
        for (int i = 0; i < 32; i += 8) s += piece(v[0], i, 8, f->a) * piece(v[1], i, 8, f->b);
        break;
    case 1: /* dp2a */
        for (int i = 0; i < 2; i++) s += piece(v[0], 16 * i, 16, f->a) * piece(v[1], 16 * f->high + 8 * i, 8, f->b);
        break;
    case 2: /* mul24, mad24 */
    case 3:
        s = (piece(v[0], 0, 24, f->a) * piece(v[1], 0, 24, f->a)) >> (f->high ? 16 : 0);
        if (f->kind == 3) s = (big)(u32)s + (big)v[2];
        break;
    default: /* prmt: byte numbers by mode and the selector's two low bits */
        for (int i = 0, n = (int)(v[2] & 3); i < 4; i++) {
            int from = f->a == 0   ? n + i
                       : f->a == 1 ? (n - i) & 7
                       : f->a == 2 ? n
                       : f->a == 3 ? (i > n ? i : n)
                       : f->a == 4 ? (i < n ? i : n)
                                   : (n & 1) * 2 + (i & 1);
            s = (i ? s : 0) | (big)((from < 4 ? v[0] >> 8 * from : v[1] >> 8 * (from - 4)) & 255) << 8 * i;
        }
        break;
    }
    r[0] = (u64)s;
}
static void t_small(void **unused) {
    (void)unused;
    static const char *const modes[] = {"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"};
    integer_operands(32, 32, 32);
    for (int form = 0; form < 8; form++) {
        struct small_form f = {0, form & 1, form >> 1 & 1, form >> 2};
        char text[200], sa = f.a ? 's' : 'u', sb = f.b ? 's' : 'u';
        snprintf(text, sizeof text, "dp4a.%c32.%c32 %%d, %%a, %%b, %%c; mov.u32 %%e, 0;", sa, sb);
        check(text, "sm_90", 32, 32, 32, 32, 32, small_model, &f);
        f.kind = 1;
        snprintf(text, sizeof text, "dp2a.%s.%c32.%c32 %%d, %%a, %%b, %%c; mov.u32 %%e, 0;", f.high ? "hi" : "lo", sa,
                 sb);
        check(text, "sm_90", 32, 32, 32, 32, 32, small_model, &f);
        f.kind = 2 + f.b;
        snprintf(text, sizeof text, "%s24.%s.%c32 %%d, %%a, %%b%s; mov.u32 %%e, 0;", f.b ? "mad" : "mul",
                 f.high ? "hi" : "lo", sa, f.b ? ", %c" : "");
        check(text, "sm_90", 32, 32, 32, 32, 32, small_model, &f);
        if (form >= 6) continue;
        f.kind = 4, f.a = form;
        snprintf(text, sizeof text, "prmt.b32.%s %%d, %%a, %%b, %%c; mov.u32 %%e, 0;", modes[form]);
        check(text, "sm_90", 32, 32, 32, 32, 32, small_model, &f);
    }
}

/* ---- pairs of 16-bit integers, and .relu and .sat of integers ---- */
struct pair_form {
    int op, sgn; /* 0 add 1 min 2 max; 3 add.sat 4 sub.sat 5 mad.hi.sat of s32; relu of min and max */
    bool relu, whole;
};
static void pair_model(const void *arg, const u64 *v, u64 *r) {
    const struct pair_form *f = arg;
    int bits = f->whole ? 32 : 16;
    for (int at = 0; at < 32; at += bits) {
        big a = piece(v[0], at, bits, f->sgn), b = piece(v[1], at, bits, f->sgn), c = piece(v[2], at, bits, f->sgn);
        big t = f->op == 0   ? a + b
                : f->op == 1 ? (a < b ? a : b)
                : f->op == 2 ? (a > b ? a : b)
                : f->op == 3 ? a + b
                : f->op == 4 ? a - b
                             : (a * b >> 32) + c;
        if (f->op >= 3) t = t > INT32_MAX ? INT32_MAX : t < INT32_MIN ? INT32_MIN : t;
        if (f->relu && t < 0) t = 0;
        r[0] |= low_bits((u64)t, bits) << at;
    }
}
static void t_pairs(void **unused) {
    (void)unused;
    static const char *const names[] = {"add", "min", "max", "add.sat", "sub.sat", "mad.hi.sat"};
    for (int form = 0; form < 24; form++) {
        struct pair_form f = {form % 6, form / 6 & 1, form / 12, form % 6 >= 3};
        if ((f.whole && (!f.sgn || f.relu)) || (f.relu && (!f.sgn || f.op == 0))) continue;
        char text[200];
        snprintf(text, sizeof text, "%s%s.%c%s %%d, %%a, %%b%s; mov.u32 %%e, 0;", names[f.op], f.relu ? ".relu" : "",
                 f.sgn ? 's' : 'u', f.whole ? "32" : "16x2", f.op == 5 ? ", %c" : "");
        integer_operands(32, 32, 32);
        check(text, "sm_90", 32, 32, 32, 32, 32, pair_model, &f);
        if (!f.relu) continue;
        f.whole = true;
        snprintf(text, sizeof text, "%s.relu.s32 %%d, %%a, %%b; mov.u32 %%e, 0;", names[f.op]);
        check(text, "sm_90", 32, 32, 32, 32, 32, pair_model, &f);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_integers), cmocka_unit_test(t_carries),     cmocka_unit_test(t_bits),
        cmocka_unit_test(t_floats),   cmocka_unit_test(t_comparisons), cmocka_unit_test(t_selection),
        cmocka_unit_test(t_mixed),    cmocka_unit_test(t_small),       cmocka_unit_test(t_pairs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
