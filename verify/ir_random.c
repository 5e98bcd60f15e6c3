#include "verify/ir_random.h"

#include "codegen/f16.h"
#include "codegen/ir.h"

#include <stdio.h>
#include <string.h>

enum kind { INT, VEC, FLT, BIT, MASK, N_KINDS };
static const char *const kind_type[N_KINDS] = {"i64", "i32x8", "f32x8", "i1", "i1x8"};

enum { POOL = 64 };

/* The visible values of each kind; a block's are forgotten at its end by restoring n. */
struct maker {
    struct buf *out;
    uint64_t seed;
    int next_name, depth, budget;
    int pool[N_KINDS][POOL], n[N_KINDS];
};

static unsigned roll(struct maker *m, unsigned n) {
    m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(m->seed >> 33) % n;
}

static int any(struct maker *m, enum kind k) {
    return m->pool[k][roll(m, (unsigned)m->n[k])];
}

static void keep(struct maker *m, enum kind k, int name) {
    if (m->n[k] < POOL)
        m->pool[k][m->n[k]++] = name;
    else
        m->pool[k][POOL / 2 + roll(m, POOL / 2)] = name;
}

static int define(struct maker *m, enum kind k, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int define(struct maker *m, enum kind k, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    int name = m->next_name++;
    buf_printf(m->out, "%%%d:%s = %s\n", name, kind_type[k], text);
    return name;
}

static int constant(struct maker *m, enum kind k) {
    static const int some[] = {0, 1, -1, 2, 3, 5, 16, 255, -128};
    return define(m, k, "const %d", some[roll(m, sizeof some / sizeof *some)]);
}

/* An offset that is a multiple of 4 and in bounds with 64 bytes to spare: ((x + c) & 255) * 4 + d. */
static int offset(struct maker *m) {
    int c = define(m, INT, "const %u", roll(m, 100)), sum = define(m, INT, "add %%%d, %%%d", any(m, INT), c);
    int mask = define(m, INT, "const 255"), low = define(m, INT, "and %%%d, %%%d", sum, mask);
    int more = define(m, INT, "const %u", roll(m, 50)), late = define(m, INT, "add %%%d, %%%d", more, low);
    int four = define(m, INT, "const %u", roll(m, 2) ? 4 : 8);
    int scaled = define(m, INT, "mul %%%d, %%%d", late, four), d = define(m, INT, "const %u", 4 * roll(m, 100));
    return define(m, INT, "add %%%d, %%%d", scaled, d);
}

static void integer_op(struct maker *m, enum kind k) {
    static const char *const ops[] = {"add", "sub", "mul", "and", "or", "xor", "smin", "smax"};
    static const char *const shifts[] = {"shl", "lshr", "ashr"};
    static const char *const divisions[] = {"udiv", "urem"};
    int b = any(m, k);
    unsigned what = roll(m, 10);
    if (what == 0) {
        b = define(m, k, "const %u", roll(m, 31));
        keep(m, k, define(m, k, "%s %%%d, %%%d", shifts[roll(m, 3)], any(m, k), b));
        return;
    }
    if (what == 1) {
        b = define(m, k, "const %u", 1 + roll(m, 9));
        keep(m, k, define(m, k, "%s %%%d, %%%d", divisions[roll(m, 2)], any(m, k), b));
        return;
    }
    if (what < 5) b = constant(m, k);
    int a = any(m, k);
    keep(m, k, define(m, k, "%s %%%d, %%%d", ops[roll(m, 8)], what == 4 ? b : a, what == 4 ? a : b));
}

static void float_op(struct maker *m) {
    int half = define(m, FLT, "const 0x1p-1");
    switch (roll(m, 7)) {
    case 5: {
        /* bit 14 of each half is cleared: no NaN, nothing above 2 */
        int words = define(m, VEC, "bitcast %%%d", any(m, FLT)), below_two = define(m, VEC, "const -1073758209");
        int a = define(m, VEC, "and %%%d, %%%d", words, below_two);
        int b = define(m, VEC, "and %%%d, %%%d", any(m, VEC), below_two);
        keep(m, FLT, define(m, FLT, "dotbf %%%d, %%%d, %%%d", any(m, FLT), a, b));
        break;
    }
    case 6:
        buf_printf(m->out, "%%%d:i16x8 = tobf %%%d\n", m->next_name, any(m, FLT));
        m->next_name++;
        keep(m, VEC, define(m, VEC, "sext %%%d", m->next_name - 1));
        break;
    case 0:
        keep(m, FLT, define(m, FLT, "fadd %%%d, %%%d", any(m, FLT), any(m, FLT)));
        break;
    case 1:
        keep(m, FLT, define(m, FLT, "fma %%%d, %%%d, %%%d", any(m, FLT), half, any(m, FLT)));
        break;
    case 2:
        keep(m, FLT, define(m, FLT, "fmin %%%d, %%%d", any(m, FLT), any(m, FLT)));
        break;
    case 3:
        keep(m, FLT, define(m, FLT, "select %%%d, %%%d, %%%d", any(m, MASK), any(m, FLT), any(m, FLT)));
        break;
    default:
        keep(m, FLT, define(m, FLT, "fmul %%%d, %%%d", half, any(m, FLT)));
    }
}

static void mixed_op(struct maker *m) {
    switch (roll(m, 7)) {
    case 0:
        keep(m, BIT, define(m, BIT, "ilt %%%d, %%%d", any(m, INT), any(m, INT)));
        break;
    case 1:
        keep(m, MASK, define(m, MASK, "ile %%%d, %%%d", any(m, VEC), any(m, VEC)));
        break;
    case 2:
        keep(m, INT, define(m, INT, "select %%%d, %%%d, %%%d", any(m, BIT), any(m, INT), any(m, INT)));
        break;
    case 3:
        keep(m, VEC,
             define(m, VEC, "shuffle %%%d, %u %u 2 3 7 6 5 %u", any(m, VEC), roll(m, 8), roll(m, 8), roll(m, 8)));
        break;
    case 4:
        keep(m, VEC, define(m, VEC, "load %%1, %%%d, 32 align 4 inv", offset(m)));
        break;
    case 5:
        keep(m, FLT, define(m, FLT, "load %%1, %%%d, 0 align 4 inv", offset(m)));
        break;
    default:
        keep(m, VEC, define(m, VEC, "load %%2, %%%d, 8 align 4", offset(m)));
    }
}

static void store(struct maker *m) {
    int off = offset(m);
    switch (roll(m, 3)) {
    case 0:
        buf_printf(m->out, "store %%%d, %%2, %%%d, 16 align 4\n", any(m, INT), off);
        break;
    case 1:
        buf_printf(m->out, "storem %%%d, %%%d, %%2, %%%d, 0 align 4\n", any(m, VEC), any(m, MASK), off);
        break;
    default:
        buf_printf(m->out, "store %%%d, %%2, %%%d, 0 align 4\n", any(m, FLT), off);
    }
}

static void statements(struct maker *m, int n);

static void conditional(struct maker *m) {
    int saved[N_KINDS];
    memcpy(saved, m->n, sizeof saved);
    buf_printf(m->out, "if %%%d\n", any(m, BIT));
    m->depth++;
    statements(m, 4);
    m->depth--;
    buf_puts(m->out, "end\n");
    memcpy(m->n, saved, sizeof saved);
}

static void loop(struct maker *m) {
    int lo = define(m, INT, "const %u", roll(m, 3)), hi = define(m, INT, "const %u", roll(m, 7));
    int init[3] = {any(m, INT), any(m, VEC), any(m, FLT)}, n_carries = (int)roll(m, 4);
    int saved[N_KINDS], index = m->next_name++, carry = m->next_name;
    memcpy(saved, m->n, sizeof saved);
    m->next_name += n_carries;
    buf_printf(m->out, "for %%%d = %%%d to %%%d step %u", index, lo, hi, 1 + roll(m, 3));
    keep(m, INT, index);
    for (int i = 0; i < n_carries; i++) {
        buf_printf(m->out, "%s%%%d:%s = %%%d", i ? ", " : " carry ", carry + i, kind_type[i], init[i]);
        keep(m, (enum kind)i, carry + i);
    }
    buf_puts(m->out, "\n");
    m->depth++;
    statements(m, 6);
    m->depth--;
    for (int i = 0; i < n_carries; i++) buf_printf(m->out, "%s%%%d", i ? ", " : "yield ", any(m, (enum kind)i));
    buf_puts(m->out, n_carries ? "\nend -> " : "end");
    memcpy(m->n, saved, sizeof saved);
    for (int i = 0; i < n_carries; i++) {
        buf_printf(m->out, "%s%%%d", i ? ", " : "", m->next_name);
        keep(m, (enum kind)i, m->next_name++);
    }
    buf_puts(m->out, "\n");
}

static void statements(struct maker *m, int n) {
    for (int i = 0; i < n && m->budget-- > 0; i++) {
        unsigned what = roll(m, 20);
        if (what < 2 && m->depth < 4)
            loop(m);
        else if (what == 2 && m->depth < 4)
            conditional(m);
        else if (what < 6)
            store(m);
        else if (what < 10)
            mixed_op(m);
        else if (what < 13)
            float_op(m);
        else
            integer_op(m, what < 17 ? INT : VEC);
    }
}

void ir_random(uint64_t seed, struct buf *out) {
    struct maker m = {.out = out, .seed = seed * 2654435761u + 99, .next_name = 3, .budget = 200};
    buf_puts(out, "kgen-ir 1\nfunc @random\n%1:ptr = arg 0\n%2:ptr = arg 1\n");
    keep(&m, INT, define(&m, INT, "begin"));
    keep(&m, INT, define(&m, INT, "end"));
    keep(&m, VEC, define(&m, VEC, "iota"));
    keep(&m, FLT, define(&m, FLT, "const 0x1.8p-1"));
    keep(&m, BIT, define(&m, BIT, "ilt %%%d, %%%d", m.pool[INT][0], m.pool[INT][1]));
    keep(&m, MASK, define(&m, MASK, "ile %%%d, %%%d", m.pool[VEC][0], m.pool[VEC][0]));
    while (m.budget > 0) statements(&m, 20);
    buf_puts(out, "end\n");
}

/* ---- products of tiles ---- */

/* Lanes as registers of 32, gathered with the index %index and joined; returns the name of the whole. */
static int gathered(struct buf *out, int *next, const char *type, unsigned lanes, unsigned at, int index) {
    int part[4];
    unsigned n = lanes / 32;
    for (unsigned i = 0; i < n; i++) {
        part[i] = (*next)++;
        buf_printf(out, "%%%d:%sx32 = gather %%1, %%3, %%%d, %u align 4 inv\n", part[i], type, index, at + 128 * i);
    }
    for (unsigned have = 32; n > 1; n /= 2, have *= 2)
        for (unsigned i = 0; i < n / 2; i++) {
            buf_printf(out, "%%%d:%sx%u = concat %%%d, %%%d\n", *next, type, 2 * have, part[2 * i], part[2 * i + 1]);
            part[i] = (*next)++;
        }
    return part[0];
}

void ir_mma_program(int shape, struct buf *out) {
    const struct ir_mma_shape *s = &ir_mma_shapes[shape];
    const char *acc = s->acc == IR_F32 ? "f32" : "i32";
    unsigned n_c = s->m * s->n, n_a = s->m * s->k / s->per, n_b = s->n * s->k / s->per;
    int next = 20;
    buf_puts(out, "kgen-ir 1\nfunc @mma\n%1:ptr = arg 0\n%2:ptr = arg 1\n%3:i64 = const 0\n%4:i32x32 = iota\n"
                  "%5:i32x32 = const 4\n%6:i32x32 = mul %4, %5\n%7:i32x32 = const 124\n%8:i32x32 = sub %7, %6\n"
                  "%9:i32x32 = const 5\n%10:i1x32 = ine %4, %9\n%11:i1x32 = const 1\n");
    int c = gathered(out, &next, acc, n_c, 0, 6), a = gathered(out, &next, "i32", n_a, 512, 8);
    int b = gathered(out, &next, "i32", n_b, 1024, 6), r = next++;
    buf_printf(out, "%%%d:%sx%u = mma %%%d, %%%d, %%%d %s\n", r, acc, n_c, c, a, b, s->name);
    for (unsigned i = 0; i < n_c / 32; i++, next++)
        buf_printf(out, "%%%d:%sx32 = slice %%%d, %u\nscatter %%%d, %%%d, %%2, %%3, %%8, %u align 4\n", next, acc, r,
                   32 * i, next, i ? 11 : 10, 128 * i);
    buf_puts(out, "end\n");
}

void ir_mma_operands(int shape, uint64_t seed, uint8_t *in) {
    const struct ir_mma_shape *s = &ir_mma_shapes[shape];
    struct maker m = {.seed = seed};
    for (unsigned i = 0; i < 1280; i++) {
        in[i] = (uint8_t)(roll(&m, 4) ? roll(&m, 256) : roll(&m, 2) ? 255 : 127);
        if (i >= 1024 && in[i] == 128) in[i] = 129;
    }
    for (unsigned i = 0; s->acc == IR_F32 && i < 1280; i += i < 512 ? 4 : 2) {
        uint32_t bits = f32_bits((float)((int)roll(&m, 65) - 32) / 4);
        if (i < 512)
            memcpy(in + i, &bits, 4);
        else {
            uint16_t h = shape == IR_MMA_M16N8K16_BF16 ? (uint16_t)(bits >> 16) : f16_from_f32_bits(bits);
            memcpy(in + i, &h, 2);
        }
    }
}

void ir_tile_program(int shape, struct buf *out) {
    const struct ir_tile_shape *s = &ir_tile_shapes[shape];
    buf_printf(out,
               "kgen-ir 1\nfunc @tile\n%%1:ptr = arg 0\n%%2:ptr = arg 1\n%%3:ptr = stack 1024 align 64\n"
               "%%4:ptr = stack 1024 align 64\n%%5:i64 = begin\n%%6:i64 = end\n%%7:i64 = const 0\n"
               "%%8:i64 = const %u\n%%9:i64 = const 4\n%%10:i64 = const 64\n%%11:i64 = const 1024\n"
               "for %%12 = %%5 to %%6 step 1\n%%13:i32 = trunc %%12\n%%14:i32x16 = splat %%13\n",
               IR_TILE_AT_B);
    /* B's bytes are turned by the trip's number and C's rows taken from it: nothing may move past the op. */
    buf_printf(out, "%%15:i64 = const %u\nfor %%19 = %%7 to %%15 step 64\n%%20:i64 = add %%8, %%19\n", s->k * 16);
    buf_puts(out, "%21:i32x16 = load %1, %20, 0 align 64 inv\n%22:i32x16 = xor %21, %14\n"
                  "store %22, %4, %19, 0 align 64\nend\n%23:i64 = mul %12, %9\n");
    buf_printf(out, "tiledot %%3, %%7, %%1, %%23, %%4, %%7 %s stride %u\n", s->name, IR_TILE_STRIDE);
    buf_puts(out, "%24:i64 = mul %12, %11\nfor %25 = %7 to %11 step 64\n%26:i32x16 = load %3, %25, 0 align 64\n"
                  "%27:i32x16 = sub %26, %14\n%28:i64 = add %24, %25\nstore %27, %2, %28, 0 align 64\nend\nend\nend\n");
}

void ir_tile_operands(uint64_t seed, uint8_t *in) {
    struct maker m = {.seed = seed};
    for (unsigned i = 0; i < IR_TILE_BYTES; i++) {
        in[i] = (uint8_t)(roll(&m, 4) ? roll(&m, 256) : roll(&m, 2) ? 255 : 127);
        if (i < IR_TILE_AT_B && in[i] == 128) in[i] = 129;
    }
}

int32_t ir_tile_element(const uint8_t *in, int shape, uint32_t trip, unsigned row, unsigned column) {
    uint32_t sum = 0 - trip;
    for (unsigned e = 0; e < ir_tile_shapes[shape].k; e++) {
        int8_t a = (int8_t)in[4 * trip + row * IR_TILE_STRIDE + e];
        uint8_t b = in[IR_TILE_AT_B + e / 4 * 64 + column * 4 + e % 4] ^ (uint8_t)(trip >> 8 * (e % 4));
        sum += (uint32_t)(a * (ir_tile_shapes[shape].b_signed ? (int8_t)b : b));
    }
    return (int32_t)sum;
}
