#include "codegen/interp.h"

#include "codegen/f16.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A copy that no wait has made sure of yet. */
struct transfer {
    uint8_t *to;
    const uint8_t *from;
    int64_t rows, valid;
    uint32_t bytes, stride;
    const struct ir_op *op;
};

struct transfers {
    struct transfer *list;
    size_t n, cap;
};

/* A lane is a uint64_t holding the value's bits, zero-extended; a value's lanes are adjacent in one array. */
struct interp {
    const struct ir_func *f;
    uint64_t *lanes;
    uint32_t *first; /* per value: its first lane */
    void *const *args;
    const int64_t *dims;
    int64_t begin, end;
    void *ws;
    bool fused;
    struct transfers *open;
    struct err *e;
};

static bool broken(const struct interp *in, const struct ir_op *op, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static bool broken(const struct interp *in, const struct ir_op *op, const char *fmt, ...) {
    char msg[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_set(in->e, ERR_INPUT, "running flat IR, line %" PRIu32 ", func @%s, %s: %s", op->line, in->f->name,
                   ir_op_info[op->code].name, msg);
}

static uint64_t *lanes_of(const struct interp *in, ir_value v) {
    return in->lanes + in->first[v];
}
static float to_f(uint64_t bits) {
    return f32_from_bits((uint32_t)bits);
}
static uint64_t from_f(float f) {
    return f32_bits(f);
}

/* ---- one lane of arithmetic ---- */

static uint64_t integer_lane(enum ir_opcode code, unsigned width, uint64_t a, uint64_t b) {
    int64_t sa = ir_sign_extend((int64_t)a, width), sb = ir_sign_extend((int64_t)b, width);
    switch (code) {
    case IR_ADD:
        return a + b;
    case IR_SUB:
        return a - b;
    case IR_MUL:
        return a * b;
    case IR_AND:
        return a & b;
    case IR_OR:
        return a | b;
    case IR_XOR:
        return a ^ b;
    case IR_SHL:
        return a << b;
    case IR_LSHR:
        return a >> b;
    case IR_ASHR:
        return (uint64_t)(sa >> b);
    case IR_UDIV:
        return a / b;
    case IR_UREM:
        return a % b;
    case IR_SMIN:
        return sa < sb ? a : b;
    case IR_SMAX:
        return sa > sb ? a : b;
    case IR_IEQ:
        return a == b;
    case IR_INE:
        return a != b;
    case IR_ILT:
        return sa < sb;
    case IR_ILE:
        return sa <= sb;
    default:
        bug("operation %d is not integer arithmetic", code);
    }
}

static uint64_t float_lane(enum ir_opcode code, float a, float b) {
    switch (code) {
    case IR_FADD:
        return from_f(a + b);
    case IR_FSUB:
        return from_f(a - b);
    case IR_FMUL:
        return from_f(a * b);
    case IR_FDIV:
        return from_f(a / b);
    case IR_FMIN:
        return from_f(a < b ? a : b);
    case IR_FMAX:
        return from_f(a > b ? a : b);
    case IR_FEQ:
        return a == b;
    case IR_FLT:
        return a < b;
    case IR_FLE:
        return a <= b;
    default:
        bug("operation %d is not float arithmetic", code);
    }
}

static bool check_integers(const struct interp *in, const struct ir_op *op, unsigned width, uint64_t b) {
    bool shift = op->code == IR_SHL || op->code == IR_LSHR || op->code == IR_ASHR;
    if (shift && b >= width) return broken(in, op, "shift by %" PRIu64 " of %u bits", b, width);
    if ((op->code == IR_UDIV || op->code == IR_UREM) && !b) return broken(in, op, "the divisor is zero");
    return true;
}

static bool run_integers(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *a = lanes_of(in, op->args[0]), *b = lanes_of(in, op->args[1]);
    struct ir_type t = in->f->values[op->args[0]].type;
    unsigned width = ir_scalar_bits(t.scalar);
    uint64_t mask = ir_mask(ir_scalar_bits(op->type.scalar));
    for (unsigned l = 0; l < t.lanes; l++) {
        if (!check_integers(in, op, width, b[l])) return false;
        r[l] = integer_lane(op->code, width, a[l], b[l]) & mask;
    }
    return true;
}

static void run_floats(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *a = lanes_of(in, op->args[0]), *b = lanes_of(in, op->args[1]);
    for (unsigned l = 0; l < op->type.lanes; l++) r[l] = float_lane(op->code, to_f(a[l]), to_f(b[l]));
}

static float fma_lane(const struct interp *in, float x, float y, float z) {
    float product = x * y;
    return in->fused ? fmaf(x, y, z) : product + z;
}

static void run_fma(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *a = lanes_of(in, op->args[0]), *b = lanes_of(in, op->args[1]), *c = lanes_of(in, op->args[2]);
    for (unsigned l = 0; l < op->type.lanes; l++) r[l] = from_f(fma_lane(in, to_f(a[l]), to_f(b[l]), to_f(c[l])));
}

static bool run_unary(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *a = lanes_of(in, op->args[0]);
    unsigned from = ir_scalar_bits(in->f->values[op->args[0]].type.scalar);
    uint64_t mask = ir_mask(ir_scalar_bits(op->type.scalar));
    for (unsigned l = 0; l < op->type.lanes; l++) {
        float x = to_f(a[l]);
        switch (op->code) {
        case IR_FNEG:
            r[l] = a[l] ^ 0x80000000;
            break;
        case IR_FABS:
            r[l] = a[l] & 0x7fffffff;
            break;
        case IR_FSQRT:
            r[l] = from_f(sqrtf(x));
            break;
        case IR_FRINT:
            if (!(fabsf(x) < 0x1p22f)) return broken(in, op, "%g is not below 2^22", x);
            r[l] = from_f(rintf(x));
            break;
        case IR_FPEXT:
            r[l] = f32_bits_from_f16((uint16_t)a[l]);
            break;
        case IR_FPTRUNC:
            r[l] = f16_from_f32_bits((uint32_t)a[l]);
            break;
        case IR_TOBF:
            r[l] = bf16_flushed_from_f32_bits((uint32_t)a[l]);
            break;
        case IR_SITOFP:
            r[l] = from_f((float)(int32_t)a[l]);
            break;
        case IR_FPTOSI:
            if (!(x > -2147483904.0f && x < 2147483648.0f)) return broken(in, op, "%g is not an i32", x);
            r[l] = (uint32_t)(int32_t)x;
            break;
        case IR_SEXT:
            r[l] = (uint64_t)ir_sign_extend((int64_t)a[l], from) & mask;
            break;
        case IR_ZEXT:
        case IR_TRUNC:
            r[l] = a[l] & mask;
            break;
        default:
            bug("operation %d is not unary arithmetic", op->code);
        }
    }
    return true;
}

/* ---- lanes ---- */

static void run_bitcast(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *a = lanes_of(in, op->args[0]);
    struct ir_type from = in->f->values[op->args[0]].type;
    unsigned wide_a = ir_scalar_bits(from.scalar), wide_r = ir_scalar_bits(op->type.scalar);
    memset(r, 0, op->type.lanes * sizeof *r);
    for (unsigned bit = 0; bit < wide_a * from.lanes; bit++) /* bit 0 of lane 0 is the lowest of all */
        r[bit / wide_r] |= (a[bit / wide_a] >> bit % wide_a & 1) << bit % wide_r;
}

static bool run_dot4(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *acc = lanes_of(in, op->args[0]), *u = lanes_of(in, op->args[1]), *s = lanes_of(in, op->args[2]);
    for (unsigned l = 0; l < op->type.lanes; l++) {
        int64_t sum = (int64_t)acc[l];
        for (int b = 0; b < 4; b++) {
            int32_t ub = (int32_t)(u[l] >> 8 * b & 255), sb = (int8_t)(s[l] >> 8 * b);
            if (ub > op->imm) return broken(in, op, "a byte of u is %d, umax is %" PRId64, ub, op->imm);
            if (sb == -128) return broken(in, op, "a byte of s is -128");
            sum += ub * sb;
        }
        r[l] = (uint32_t)sum;
    }
    return true;
}

static void run_dot2(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *acc = lanes_of(in, op->args[0]), *a = lanes_of(in, op->args[1]), *b = lanes_of(in, op->args[2]);
    for (unsigned l = 0; l < op->type.lanes; l++) {
        int64_t sum = (int64_t)acc[l];
        for (int h = 0; h < 32; h += 16) sum += (int64_t)(int16_t)(a[l] >> h) * (int16_t)(b[l] >> h);
        r[l] = (uint32_t)sum;
    }
}

static float flushed(uint64_t bits) {
    return to_f(f32_flush_bits((uint32_t)bits));
}

static void run_dotbf(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *acc = lanes_of(in, op->args[0]), *a = lanes_of(in, op->args[1]), *b = lanes_of(in, op->args[2]);
    for (unsigned l = 0; l < op->type.lanes; l++) {
        float high = fma_lane(in, flushed(a[l] & 0xffff0000), flushed(b[l] & 0xffff0000), flushed(acc[l]));
        float both = fma_lane(in, flushed(a[l] << 16), flushed(b[l] << 16), flushed(from_f(high)));
        r[l] = f32_flush_bits(f32_bits(both));
    }
}

/* f16 or bf16, element e of a word */
static double half_of(uint64_t word, unsigned e, bool bf16) {
    uint32_t h = (uint32_t)(word >> 16 * e) & 0xffff;
    return to_f(bf16 ? h << 16 : f32_bits_from_f16((uint16_t)h));
}

/* The row of A at word a with the row of B at word b: one word's products. */
static bool mma_word(const struct interp *in, const struct ir_op *op, uint64_t a, uint64_t b, int64_t *isum,
                     double *fsum) {
    const struct ir_mma_shape *s = &ir_mma_shapes[op->imm];
    for (unsigned e = 0; e < s->per; e++) {
        if (s->acc == IR_F32) {
            bool bf16 = op->imm == IR_MMA_M16N8K16_BF16;
            *fsum += half_of(a, e, bf16) * half_of(b, e, bf16);
            continue;
        }
        int8_t sb = (int8_t)(b >> 8 * e);
        if (sb == -128) return broken(in, op, "a byte of b is -128");
        *isum += (int64_t)(a >> 8 * e & 255) * sb;
    }
    return true;
}

static void run_pair(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    for (unsigned l = 0; l < op->type.lanes; l++) {
        r[l] = 0;
        for (unsigned h = 0; h < 2; h++) {
            uint32_t x = (uint32_t)lanes_of(in, op->args[h])[l];
            r[l] |= (uint64_t)(op->code == IR_PAIR_BF16 ? bf16_from_f32_bits(x) : f16_from_f32_bits(x)) << 16 * h;
        }
    }
}

static bool run_mma(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *c = lanes_of(in, op->args[0]), *a = lanes_of(in, op->args[1]), *b = lanes_of(in, op->args[2]);
    const struct ir_mma_shape *s = &ir_mma_shapes[op->imm];
    for (unsigned i = 0; i < s->m; i++)
        for (unsigned j = 0; j < s->n; j++) {
            unsigned at = ir_mma_lane_c(i, j);
            int64_t isum = (int64_t)c[at];
            double fsum = s->acc == IR_F32 ? (double)to_f(c[at]) : 0;
            for (unsigned w = 0; w < s->k / s->per; w++)
                if (!mma_word(in, op, a[ir_mma_lane_a(s, i, w)], b[ir_mma_lane_b(j, w)], &isum, &fsum)) return false;
            r[at] = s->acc == IR_F32 ? from_f((float)fsum) : (uint32_t)isum;
        }
    return true;
}

static void run_reduce(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    struct ir_type t = in->f->values[op->args[0]].type;
    unsigned width = ir_scalar_bits(t.scalar);
    bool is_float = t.scalar == IR_F32, sum = op->code == IR_HSUM;
    uint64_t x[IR_MAX_LANES];
    memcpy(x, lanes_of(in, op->args[0]), t.lanes * sizeof *x);
    for (unsigned half = t.lanes / 2; half; half /= 2)
        for (unsigned l = 0; l < half; l++)
            x[l] = is_float ? float_lane(sum ? IR_FADD : IR_FMAX, to_f(x[l]), to_f(x[l + half]))
                            : integer_lane(sum ? IR_ADD : IR_SMAX, width, x[l], x[l + half]) & ir_mask(width);
    *r = x[0];
}

static void run_select(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    const uint64_t *c = lanes_of(in, op->args[0]), *a = lanes_of(in, op->args[1]), *b = lanes_of(in, op->args[2]);
    bool uniform = in->f->values[op->args[0]].type.lanes == 1;
    for (unsigned l = 0; l < op->type.lanes; l++) r[l] = c[uniform ? 0 : l] ? a[l] : b[l];
}

/* ---- memory ---- */

static bool address(const struct interp *in, const struct ir_op *op, int base, uint8_t **out) {
    uint64_t p = *lanes_of(in, op->args[base]) + *lanes_of(in, op->args[base + 1]) + (uint64_t)op->imm;
    if (p % op->align) return broken(in, op, "the address ...%03" PRIx64 " is not aligned to %u", p & 0xfff, op->align);
    *out = (uint8_t *)(uintptr_t)p;
    return true;
}

static bool run_load(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    uint8_t *p;
    if (!address(in, op, 0, &p)) return false;
    unsigned bytes = ir_scalar_bits(op->type.scalar) / 8, stride = op->stride ? op->stride : bytes;
    for (unsigned l = 0; l < op->type.lanes; l++) {
        r[l] = 0;
        memcpy(&r[l], p + (size_t)l * stride, bytes);
    }
    return true;
}

static bool run_store(const struct interp *in, const struct ir_op *op) {
    bool masked = op->code == IR_STOREM;
    const uint64_t *v = lanes_of(in, op->args[0]), *m = masked ? lanes_of(in, op->args[1]) : NULL;
    struct ir_type t = in->f->values[op->args[0]].type;
    uint8_t *p;
    if (!address(in, op, masked ? 2 : 1, &p)) return false;
    unsigned bytes = ir_scalar_bits(t.scalar) / 8, stride = op->stride ? op->stride : bytes;
    for (unsigned l = 0; l < t.lanes; l++)
        if (!m || m[l]) memcpy(p + (size_t)l * stride, &v[l], bytes);
    return true;
}

/* gather, scatter: the address of lane l, `base` being the first operand of the address */
static bool lane_address(const struct interp *in, const struct ir_op *op, int base, unsigned l, uint8_t **out) {
    uint64_t p = *lanes_of(in, op->args[base]) + *lanes_of(in, op->args[base + 1]) + (uint64_t)op->imm;
    p += (uint64_t)(int64_t)(int32_t)lanes_of(in, op->args[base + 2])[l];
    if (p % op->align)
        return broken(in, op, "lane %u's address ...%03" PRIx64 " is not aligned to %u", l, p & 0xfff, op->align);
    *out = (uint8_t *)(uintptr_t)p;
    return true;
}

static bool run_gather(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    for (unsigned l = 0; l < op->type.lanes; l++) {
        uint8_t *p;
        if (!lane_address(in, op, 0, l, &p)) return false;
        r[l] = 0;
        memcpy(&r[l], p, ir_scalar_bits(op->type.scalar) / 8);
    }
    return true;
}

static bool run_scatter(const struct interp *in, const struct ir_op *op) {
    const uint64_t *v = lanes_of(in, op->args[0]), *m = lanes_of(in, op->args[1]);
    struct ir_type t = in->f->values[op->args[0]].type;
    for (unsigned l = 0; l < t.lanes; l++) {
        uint8_t *p;
        if (!m[l]) continue;
        if (!lane_address(in, op, 2, l, &p)) return false;
        memcpy(p, &v[l], ir_scalar_bits(t.scalar) / 8);
    }
    return true;
}

/* One of the three operands of a tiledot; its bytes must be a multiple of `align`. */
static bool tile_address(const struct interp *in, const struct ir_op *op, int base, unsigned align, uint8_t **out) {
    uint64_t p = *lanes_of(in, op->args[base]) + *lanes_of(in, op->args[base + 1]);
    if (p % align)
        return broken(in, op, "operand %d's address ...%03" PRIx64 " is not aligned to %u", base + 1, p & 0xfff, align);
    *out = (uint8_t *)(uintptr_t)p;
    return true;
}

static bool run_tiledot(const struct interp *in, const struct ir_op *op) {
    const struct ir_tile_shape *shape = &ir_tile_shapes[op->imm];
    uint8_t *c, *a, *b;
    if (!tile_address(in, op, 0, 64, &c) || !tile_address(in, op, 2, 4, &a) || !tile_address(in, op, 4, 64, &b))
        return false;
    for (unsigned i = 0; i < IR_TILE_ROWS; i++)
        for (unsigned j = 0; j < IR_TILE_COLUMNS; j++) {
            int32_t sum = 0; /* at most 64 * 127 * 255 */
            for (unsigned e = 0; e < shape->k; e++) {
                int8_t s = (int8_t)a[(size_t)i * op->stride + e];
                if (s == -128) return broken(in, op, "a byte of A is -128");
                uint8_t u = b[(e / 4 * IR_TILE_COLUMNS + j) * 4 + e % 4];
                sum += s * (shape->b_signed ? (int8_t)u : u);
            }
            memcpy(c + (i * IR_TILE_COLUMNS + j) * sizeof sum, &sum, sizeof sum);
        }
    return true;
}

/* Matrix m's row r lies at lane 8m + r's offset. Lane l of its words: the l mod 4th of row l div 4; transposed, the
 * halves 2 (l mod 4) and + 1 of column l div 4. */
static bool run_ldmatrix(const struct interp *in, const struct ir_op *op, uint64_t *r) {
    unsigned n = op->type.lanes / 32;
    uint16_t half[8][8];
    for (unsigned m = 0; m < n; m++) {
        for (unsigned row = 0; row < 8; row++) {
            uint8_t *p;
            if (!lane_address(in, op, 0, 8 * m + row, &p)) return false;
            memcpy(half[row], p, sizeof half[row]);
        }
        for (unsigned l = 0; l < 32; l++) {
            unsigned a = l / 4, b = 2 * (l % 4);
            bool across = op->code == IR_LDMATRIX_T;
            uint32_t low = across ? half[b][a] : half[a][b], high = across ? half[b + 1][a] : half[a][b + 1];
            r[32 * m + l] = low | high << 16;
        }
    }
    return true;
}

/* What a copy writes is unspecified until a wait: filled here, and written then. */
static bool run_copy(const struct interp *in, const struct ir_op *op) {
    struct transfers *open = in->open;
    struct transfer t = {.rows = op->imm, .bytes = op->align, .stride = op->stride, .op = op};
    t.to = (uint8_t *)(uintptr_t)(*lanes_of(in, op->args[0]) + *lanes_of(in, op->args[1]));
    t.from = (const uint8_t *)(uintptr_t)(*lanes_of(in, op->args[2]) + *lanes_of(in, op->args[3]));
    t.valid = (int64_t)*lanes_of(in, op->args[4]);
    if ((uintptr_t)t.to % 16 || (uintptr_t)t.from % 16) return broken(in, op, "an address is not aligned to 16");
    memset(t.to, 0xa5, (size_t)t.rows * t.bytes);
    if (open->n == open->cap) {
        open->cap = open->cap ? 2 * open->cap : 16;
        open->list = mem_grow(open->list, open->cap * sizeof *open->list);
    }
    open->list[open->n++] = t;
    return true;
}

static void run_wait(const struct interp *in, size_t but) {
    struct transfers *open = in->open;
    size_t n = open->n > but ? open->n - but : 0;
    for (size_t i = 0; i < n; i++) {
        const struct transfer *t = &open->list[i];
        for (int64_t row = 0; row < t->rows; row++)
            if (row < t->valid)
                memcpy(t->to + row * t->bytes, t->from + row * t->stride, t->bytes);
            else
                memset(t->to + row * t->bytes, 0, t->bytes);
    }
    open->n -= n;
    memmove(open->list, open->list + n, open->n * sizeof *open->list);
}

/* Behind a part, and a function. */
static bool all_waited(const struct interp *in) {
    return !in->open->n || broken(in, in->open->list[0].op, "nothing waits for it");
}

/* Memory of one run, the same each time the operation is met; filled, so that reading it uninitialized shows. */
static void run_stack(const struct ir_op *op, uint64_t *r) {
    if (*r) return;
    void *p;
    if (posix_memalign(&p, op->align < 16 ? 16 : op->align, (size_t)op->imm)) bug("out of memory");
    memset(p, 0xa5, (size_t)op->imm);
    *r = (uintptr_t)p;
}

static void free_stacks(const struct interp *in) {
    for (uint32_t v = 1; v < in->f->n_values; v++) {
        const struct ir_op *d = in->f->values[v].def;
        if (d->code == IR_STACK || d->code == IR_SHARED) free((void *)(uintptr_t)*lanes_of(in, v));
    }
}

/* ---- control ---- */

static bool run_value(const struct interp *in, const struct ir_op *op) {
    uint64_t *r = lanes_of(in, op->results[0]);
    const uint64_t *a = op->n_args ? lanes_of(in, op->args[0]) : NULL;
    unsigned n = op->type.lanes;
    switch (op->code) {
    case IR_ARG:
        *r = (uintptr_t)in->args[op->imm];
        return true;
    case IR_DIM:
        *r = (uint64_t)in->dims[op->imm];
        return true;
    case IR_BEGIN:
        *r = (uint64_t)in->begin;
        return true;
    case IR_END:
        *r = (uint64_t)in->end;
        return true;
    case IR_WS:
        *r = (uintptr_t)in->ws;
        return true;
    case IR_STACK:
    case IR_SHARED:
        run_stack(op, r);
        return true;
    case IR_CONST:
        for (unsigned l = 0; l < n; l++) r[l] = (uint64_t)op->imm;
        return true;
    case IR_IOTA:
        for (unsigned l = 0; l < n; l++) r[l] = l;
        return true;
    case IR_SPLAT:
        for (unsigned l = 0; l < n; l++) r[l] = *a;
        return true;
    case IR_EXTRACT:
    case IR_SLICE:
        memcpy(r, a + op->imm, n * sizeof *r);
        return true;
    case IR_CONCAT:
        memcpy(r, a, n / 2 * sizeof *r);
        memcpy(r + n / 2, lanes_of(in, op->args[1]), n / 2 * sizeof *r);
        return true;
    case IR_SHUFFLE:
        for (unsigned l = 0; l < n; l++) r[l] = a[op->lanes[l]];
        return true;
    case IR_SELECT:
        run_select(in, op, r);
        return true;
    case IR_FMA:
        run_fma(in, op, r);
        return true;
    case IR_BITCAST:
        run_bitcast(in, op, r);
        return true;
    case IR_DOT2:
        run_dot2(in, op, r);
        return true;
    case IR_DOT4:
        return run_dot4(in, op, r);
    case IR_PAIR_F16:
    case IR_PAIR_BF16:
        run_pair(in, op, r);
        return true;
    case IR_DOTBF:
        run_dotbf(in, op, r);
        return true;
    case IR_MMA:
        return run_mma(in, op, r);
    case IR_HSUM:
    case IR_HMAX:
        run_reduce(in, op, r);
        return true;
    case IR_LOAD:
        return run_load(in, op, r);
    case IR_GATHER:
        return run_gather(in, op, r);
    case IR_LDMATRIX:
    case IR_LDMATRIX_T:
        return run_ldmatrix(in, op, r);
    default:
        break;
    }
    switch (ir_op_info[op->code].rule) {
    case RULE_INT:
    case RULE_LOGIC:
    case RULE_ICMP:
        return run_integers(in, op, r);
    case RULE_FCMP:
        run_floats(in, op, r);
        return true;
    case RULE_FLOAT:
        if (op->n_args == 1) return run_unary(in, op, r);
        run_floats(in, op, r);
        return true;
    default:
        return run_unary(in, op, r);
    }
}

static bool run_block(const struct interp *in, const struct ir_block *b);

static void copy_value(const struct interp *in, ir_value to, const uint64_t *from) {
    memcpy(lanes_of(in, to), from, in->f->values[to].type.lanes * sizeof *from);
}

/* The carries take the yielded values all at once: a yield may name another carry. */
static void take_yield(const struct interp *in, const struct ir_op *loop, const struct ir_op *yield,
                       uint64_t *scratch) {
    for (uint32_t i = 0; i < loop->n_results; i++)
        memcpy(scratch + (size_t)i * IR_MAX_LANES, lanes_of(in, yield->args[i]),
               in->f->values[yield->args[i]].type.lanes * sizeof *scratch);
    for (uint32_t i = 0; i < loop->n_results; i++)
        copy_value(in, loop->inner[i + 1], scratch + (size_t)i * IR_MAX_LANES);
}

static bool run_for(const struct interp *in, const struct ir_op *op) {
    int64_t i = (int64_t)*lanes_of(in, op->args[0]), hi = (int64_t)*lanes_of(in, op->args[1]);
    uint64_t *scratch = mem_new((size_t)op->n_results * IR_MAX_LANES * sizeof *scratch);
    for (uint32_t c = 0; c < op->n_results; c++) copy_value(in, op->inner[c + 1], lanes_of(in, op->args[c + 2]));
    bool ok = true;
    while (ok && i < hi) {
        *lanes_of(in, op->inner[0]) = (uint64_t)i;
        ok = run_block(in, op->body);
        if (ok && op->n_results) take_yield(in, op, op->body->last, scratch);
        if (ok && __builtin_add_overflow(i, op->imm, &i)) ok = broken(in, op, "the index overflows");
    }
    for (uint32_t c = 0; c < op->n_results; c++) copy_value(in, op->results[c], lanes_of(in, op->inner[c + 1]));
    mem_free(scratch);
    return ok;
}

/* The parts one after the other, then merged in pairs of neighbours: part p + h into part p, h = 1, 2, 4, ... */
static bool run_split(const struct interp *in, const struct ir_op *op) {
    int64_t lo = (int64_t)*lanes_of(in, op->args[0]), hi = (int64_t)*lanes_of(in, op->args[1]);
    size_t n = op->n_results, state = n * IR_MAX_LANES;
    uint64_t *parts = mem_new((op->split + 1) * state * sizeof *parts), *scratch = parts + op->split * state;
    bool ok = true;
    for (uint32_t p = 0; p < op->split && ok; p++) {
        for (uint32_t c = 0; c < n; c++) copy_value(in, op->inner[c + 1], lanes_of(in, op->args[c + 2]));
        __int128 i = lo + (__int128)p * op->imm;
        for (; ok && i < hi; i += (__int128)op->split * op->imm) {
            *lanes_of(in, op->inner[0]) = (uint64_t)i;
            ok = run_block(in, op->body);
            if (ok && n) take_yield(in, op, op->body->last, scratch);
        }
        ok = ok && all_waited(in);
        for (uint32_t c = 0; c < n; c++)
            memcpy(parts + p * state + c * IR_MAX_LANES, lanes_of(in, op->inner[c + 1]),
                   in->f->values[op->inner[c + 1]].type.lanes * sizeof *parts);
    }
    for (uint32_t h = 1; h < op->split && n; h *= 2)
        for (uint32_t p = 0; p + h < op->split && ok; p += 2 * h) {
            for (uint32_t c = 0; c < 2 * n; c++)
                copy_value(in, op->pair[c], parts + (c < n ? p : p + h) * state + c % n * IR_MAX_LANES);
            ok = run_block(in, op->merge);
            for (uint32_t c = 0; c < n && ok; c++)
                memcpy(parts + p * state + c * IR_MAX_LANES, lanes_of(in, op->merge->last->args[c]),
                       in->f->values[op->results[c]].type.lanes * sizeof *parts);
        }
    for (uint32_t c = 0; c < n; c++) copy_value(in, op->results[c], parts + c * IR_MAX_LANES);
    mem_free(parts);
    return ok;
}

static bool run_block(const struct interp *in, const struct ir_block *b) {
    for (const struct ir_op *op = b->first; op; op = op->next) {
        bool ok = true;
        switch (op->code) {
        case IR_STORE:
        case IR_STOREM:
            ok = run_store(in, op);
            break;
        case IR_SCATTER:
            ok = run_scatter(in, op);
            break;
        case IR_TILEDOT:
            ok = run_tiledot(in, op);
            break;
        case IR_COPY:
            ok = run_copy(in, op);
            break;
        case IR_PREFETCH: /* changes when something is done, not what */
            break;
        case IR_WAIT:
            run_wait(in, (size_t)op->imm);
            break;
        case IR_FOR:
            ok = op->split ? run_split(in, op) : run_for(in, op);
            break;
        case IR_IF:
            ok = !*lanes_of(in, op->args[0]) || run_block(in, op->body);
            break;
        case IR_YIELD: /* take_yield reads it */
            break;
        default:
            ok = run_value(in, op);
        }
        if (!ok) return false;
    }
    return true;
}

bool ir_run(const struct ir_func *f, void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *ws,
            bool fused, struct err *e) {
    struct transfers open = {0};
    struct interp in = {.f = f,
                        .args = args,
                        .dims = dims,
                        .begin = begin,
                        .end = end,
                        .ws = ws,
                        .fused = fused,
                        .open = &open,
                        .e = e};
    uint32_t n_lanes = 1;
    in.first = mem_new(f->n_values * sizeof *in.first);
    for (uint32_t v = 1; v < f->n_values; v++) {
        in.first[v] = n_lanes;
        n_lanes += f->values[v].type.lanes;
    }
    in.lanes = mem_try(n_lanes, sizeof *in.lanes);
    bool ok = in.lanes ? run_block(&in, f->body) && all_waited(&in)
                       : err_set(e, ERR_MEMORY, "no memory to run func @%s", f->name);
    if (in.lanes) free_stacks(&in);
    mem_free(open.list);
    mem_free(in.lanes);
    mem_free(in.first);
    return ok;
}
