/* Matrix instructions of a warp: mma.sync, wmma.
 *
 * One rule gives every mma.sync fragment. A 32-bit register holds e = 32 / bits elements (64-bit: one f64); with
 * g = lane / 4, t = lane % 4, chunk = a run of 4 e columns:
 *
 *   A register r: row g (+ 8 for odd r when m is 16), column chunk * 4e + t * e + j, chunk = r / (m / 8)
 *   B register r: row chunk * 4e + t * e + j with chunk = r, column g
 *   C, D element i: row g (+ 8 for i >= 2), column 2 t + i % 2
 *
 * Products are exact and their sum is rounded once to the accumulator's format; f64 chains fma in ascending k.
 * Fragments of wmma have no documented layout: element e of a lane is number lane * count + e of the row-major matrix.
 *
 * Where operands were never written (exec_undefined.c), the same layouts are gone through twice: a first time with
 * marks in the place of values (struct trace). */
#include "verify/ptxvm/mma.h"

#include <string.h>

float vm_half_value(u16 h) {
    u32 u = (u32)(h & 0x7fff) << 13;
    float f;
    memcpy(&f, &u, 4);
    f *= 0x1p112f; /* rebias; also right for subnormals */
    memcpy(&u, &f, 4);
    if ((h & 0x7c00) == 0x7c00) u |= 0x7f800000;
    u |= (u32)(h & 0x8000) << 16;
    memcpy(&f, &u, 4);
    return f;
}

double vm_element_value(u64 bits, enum ptx_type t) {
    switch (t) {
    case PT_F16:
        return vm_half_value((u16)bits);
    case PT_BF16: {
        u32 u = (u32)bits << 16;
        float f;
        memcpy(&f, &u, 4);
        return f;
    }
    case PT_S8:
        return (s8)bits;
    case PT_U8:
        return (u8)bits;
    case PT_S4:
        return (s8)(bits << 4) >> 4;
    case PT_U4:
        return (double)(bits & 15);
    case PT_E2M1_BYTE:
        return vm_float_unpack(bits >> 2 & 15, PT_E2M1X2);
    case PT_S32:
        return (s32)bits;
    case PT_U32:
        return (u32)bits;
    default:
        return vm_float_unpack(bits, t);
    }
}

int vm_element_bits(enum ptx_type t) {
    return t == PT_S4 || t == PT_U4 || t == PT_E2M1X2              ? 4
           : t == PT_B1                                            ? 1
           : t == PT_E2M3X2 || t == PT_E3M2X2 || t == PT_E2M1_BYTE ? 8
                                                                   : 8 * ptx_type_bytes(t);
}

static bool integer(enum ptx_type t) {
    return t == PT_S8 || t == PT_U8 || t == PT_S4 || t == PT_U4 || t == PT_S32;
}

u64 vm_accumulator_bits(double v, enum ptx_type t) {
    switch (t) {
    case PT_F32: {
        float f = (float)v;
        u32 u;
        memcpy(&u, &f, 4);
        return f != f ? 0x7fffffff : u;
    }
    case PT_F64: {
        u64 u;
        memcpy(&u, &v, 8);
        return u;
    }
    default:
        return vm_float_pack(v, t, 'n', false);
    }
}

/* D = A B + C. a[m][k], b[k][n], c[m][n] with strides 256, 256, 256 */
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void vm_multiply(struct matrices *x, const struct ext *e) {
    if (e->type == PT_B1) {
        for (int i = 0; i < e->m; i++)
            for (int j = 0; j < e->nn; j++) {
                u32 sum = 0;
                for (int k = 0; k < e->k; k++) {
                    bool p = x->a[i][k] != 0, q = x->b[k][j] != 0;
                    sum += e->mode2 == 1 ? p & q : p ^ q;
                }
                x->d[i][j] = (double)(s32)((u32)(s64)x->c[i][j] + sum);
            }
        return;
    }
    if (e->type3 == PT_F64) {
        for (int i = 0; i < e->m; i++)
            for (int j = 0; j < e->nn; j++) {
                double r = x->c[i][j];
                for (int k = 0; k < e->k; k++) r = __builtin_fma(x->a[i][k], x->b[k][j], r);
                x->d[i][j] = r;
            }
        return;
    }
    for (int i = 0; i < e->m; i++) {
        double sum[MATRIX_MAX];
        for (int j = 0; j < e->nn; j++) sum[j] = x->c[i][j];
        for (int k = 0; k < e->k; k++) {
            double v = x->a[i][k];
            const double *b = x->b[k];
            for (int j = 0; j < e->nn; j++) sum[j] += v * b[j];
        }
        for (int j = 0; j < e->nn; j++) x->d[i][j] = sum[j];
    }
    vm_wrap_integers(x, e);
}

void vm_wrap_integers(struct matrices *x, const struct ext *e) {
    if (!integer((enum ptx_type)e->type3)) return;
    for (int i = 0; i < e->m; i++)
        for (int j = 0; j < e->nn; j++) {
            s64 v = (s64)x->d[i][j];
            if (e->mode) v = v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : v;
            x->d[i][j] = (double)(s32)v;
        }
}

static u64 accumulator(double v, enum ptx_type t) {
    return integer(t) ? (u32)(s32)v : vm_accumulator_bits(v, t);
}

u32 vm_whole_warp(struct warp *w, struct split *s, const struct insn *in, u32 mask, enum step *out) {
    struct part parts[32];
    int n = vm_converge(w, s, in, mask, w->live, parts);
    *out = STEP_WAIT;
    if (!n) return 0;
    u32 all = 0;
    for (int k = 0; k < n; k++)
        if (parts[k].in == in && parts[k].frame == s->frame) all |= parts[k].mask;
    if (all != ~0u) {
        *out = vm_fault_at(w, s, in, __builtin_ctz(mask), VM_LAUNCH_FAILED, "divergent matrix instruction", 0,
                           "only lanes 0x%08x of the warp execute it", all);
        return 0;
    }
    if (w->block->gang_check) vm_race_warp_sync(w);
    return all;
}

#define INLINE inline __attribute__((always_inline)) /* of the two ways through a layout, each gets its own code */

/* Marks of a product. Elements are ZERO, SOME or, never written, UNWRITTEN + where the mark came from. A register of D
 * is marked in the lanes where none of its elements is written. */
enum { ZERO, SOME, UNWRITTEN };
struct trace {
    u32 written[32]; /* lanes, of each register of D */
    u16 from[32][32];
};

/* The value of the bits of register k of the operands, a lane's. */
static INLINE double element(const struct frame *f, const struct ext *x, int k, u32 lane, u64 bits, enum ptx_type t,
                             const struct trace *trace) {
    if (!trace) return vm_element_value(bits, t);
    u16 from = vm_undefined_from(f, x->ops[k], lane);
    return from ? UNWRITTEN + from : bits ? SOME : ZERO;
}

/* Element `index` of the operand whose registers begin with number at. */
static INLINE double element_of(const struct frame *f, const struct ext *x, int at, u32 lane, int index,
                                enum ptx_type t, const struct trace *trace) {
    int bits = vm_element_bits(t), size = x->sizes[at], per = size * 8 / bits;
    if (per < 1) per = 1;
    u64 v = row_get(row(f, x->ops[at + index / per]), lane, size);
    if (bits < 64) v = v >> (index % per * bits) & ((1ull << bits) - 1);
    return element(f, x, at + index / per, lane, v, t, trace);
}

/* Element i of D. */
static INLINE void result(const struct frame *f, const struct ext *e, u32 lane, int i, double v, struct trace *trace) {
    enum ptx_type t = (enum ptx_type)e->type4;
    bool half = vm_element_bits(t) == 16;
    int k = half ? i / 2 : i;
    if (trace) {
        if (v > UNWRITTEN)
            trace->from[k][lane] = (u16)(v - UNWRITTEN);
        else
            trace->written[k] |= 1u << lane;
        return;
    }
    u64 bits = accumulator(v, t);
    if (half) {
        u32 *d = row(f, e->ops[k]);
        d[lane] = i % 2 ? (d[lane] & 0xffff) | (u32)bits << 16 : (d[lane] & 0xffff0000) | (u32)bits;
    } else {
        row_put(row(f, e->ops[k]), lane, e->sizes[k], bits);
    }
}

static int count_elements(const struct ext *x, int at, int n_regs, int bits) {
    return n_regs * (x->sizes[at] * 8 / bits);
}

/* An element of D is unwritten if one that goes into it is; an integer product with a zero takes nothing of the other
 * side in. Which elements of a sparse product meet is not looked at: all of a row and of a column. */
static void trace_product(struct matrices *x, const struct ext *e) {
    bool sparse = e->mma && e->mma->metadata, zeros = !sparse && (integer((enum ptx_type)e->type3) && e->mode2 != 2);
    double rows[MATRIX_MAX] = {0}, columns[MATRIX_MAX] = {0};
    for (int i = 0; i < e->m; i++)
        for (int k = 0; k < (sparse ? e->k / 2 : e->k); k++)
            if (x->a[i][k] > UNWRITTEN) rows[i] = x->a[i][k];
    for (int k = 0; k < e->k; k++)
        for (int j = 0; j < e->nn; j++)
            if (x->b[k][j] > UNWRITTEN) columns[j] = x->b[k][j];
    for (int i = 0; i < e->m; i++)
        for (int j = 0; j < e->nn; j++) {
            double d = rows[i] > 0 ? rows[i] : columns[j];
            if (zeros && d > 0) {
                d = 0;
                for (int k = 0; k < e->k; k++) {
                    double a = x->a[i][k], b = x->b[k][j];
                    if (a != ZERO && b != ZERO && (a > UNWRITTEN || b > UNWRITTEN)) d = a > UNWRITTEN ? a : b;
                }
            }
            x->d[i][j] = x->c[i][j] > UNWRITTEN ? x->c[i][j] : d;
        }
}

/* mma.sync. ext: m, nn, k; type A, type2 B, type3 C and D's kind (type4 D); mode saturate; arg_from[0..3]: registers of
 * d a b c in ops, in this order. A sparse A fills k / 2 columns in the same way. */
static INLINE bool mma_sync(struct matrices *x, struct warp *w, struct split *s, const struct insn *in, enum step *out,
                            struct trace *trace) {
    const struct ext *e = in->ext;
    struct frame *f = s->frame;
    int nd = (int)e->arg_from[0], na = (int)e->arg_from[1], nb = (int)e->arg_from[2];
    int at_a = nd, at_b = nd + na, at_c = nd + na + nb;
    enum ptx_type at = (enum ptx_type)e->type, bt = (enum ptx_type)e->type2, ct = (enum ptx_type)e->type3;
    int bits = vm_element_bits(at), bits_b = vm_element_bits(bt);
    int per = bits >= 32 ? 1 : 32 / bits, per_b = bits_b >= 32 ? 1 : 32 / bits_b, halves = e->m / 8;
    for (u32 lane = 0; lane < 32; lane++) {
        int g = (int)lane / 4, t = (int)lane % 4;
        for (int r = 0; r < na; r++) {
            u64 v = row_get(row(f, e->ops[at_a + r]), lane, e->sizes[at_a + r]);
            double *to = &x->a[g + 8 * (r % halves)][r / halves * 4 * per + t * per];
            if (bits >= 32)
                to[0] = element(f, e, at_a + r, lane, v, at, trace);
            else
                for (int j = 0; j < per; j++)
                    to[j] = element(f, e, at_a + r, lane, v >> j * bits & ((1u << bits) - 1), at, trace);
        }
        for (int r = 0; r < nb; r++) {
            u64 v = row_get(row(f, e->ops[at_b + r]), lane, e->sizes[at_b + r]);
            int k = r * 4 * per_b + t * per_b;
            if (bits_b >= 32)
                x->b[k][g] = element(f, e, at_b + r, lane, v, bt, trace);
            else
                for (int j = 0; j < per_b; j++)
                    x->b[k + j][g] = element(f, e, at_b + r, lane, v >> j * bits_b & ((1u << bits_b) - 1), bt, trace);
        }
        for (int i = 0; i < e->m / 4; i++)
            x->c[g + 8 * (i / 2)][2 * t + i % 2] = element_of(f, e, at_c, lane, i, ct, trace);
    }
    if (trace)
        trace_product(x, e);
    else if (!e->mma)
        vm_multiply(x, e);
    else if (!vm_multiply_extra(x, w, s, in, out))
        return false;
    for (u32 lane = 0; lane < 32; lane++) {
        int g = (int)lane / 4, t = (int)lane % 4;
        for (int i = 0; i < e->m / 4; i++) result(f, e, lane, i, x->d[g + 8 * (i / 2)][2 * t + i % 2], trace);
    }
    return true;
}

/* mma.m8n8k4 of f16: four independent products, by quad pairs: threads {0-3, 16-19}, {4-7, 20-23} …. mode3: 1 A by
 * columns, 2 B by rows. A row: element i of a thread is (its number in the pair, i); C and D of f32: see below. */
static INLINE void mma_quad(struct matrices *x, const struct ext *e, struct frame *f, struct trace *trace) {
    int nd = (int)e->arg_from[0], at_a = nd, at_b = nd + 2, at_c = nd + 4;
    for (u32 pair = 0; pair < 4; pair++) {
        for (u32 q = 0; q < 8; q++) {
            u32 lane = pair * 4 + q % 4 + (q >= 4 ? 16 : 0);
            int r = (int)(q % 4) + (q >= 4 ? 4 : 0);
            for (int i = 0; i < 4; i++) {
                double a = element_of(f, e, at_a, lane, i, PT_F16, trace),
                       b = element_of(f, e, at_b, lane, i, PT_F16, trace);
                if (e->mode3 & 1)
                    x->a[(q >= 4 ? 4 : 0) + i][q % 4] = a; /* by columns: the thread is the column */
                else
                    x->a[r][i] = a;
                if (e->mode3 & 2)
                    x->b[q % 4][(q >= 4 ? 4 : 0) + i] = b;
                else
                    x->b[i][r] = b;
            }
            for (int i = 0; i < 8; i++) {
                int row_c, col_c;
                if (e->type3 == PT_F32)
                    row_c = (int)(lane & 1) + (i & 2) + (q >= 4 ? 4 : 0), col_c = (i & 4) + (int)(lane & 2) + (i & 1);
                else
                    row_c = r, col_c = i;
                x->c[row_c][col_c] = element_of(f, e, at_c, lane, i, (enum ptx_type)e->type3, trace);
            }
        }
        if (trace)
            trace_product(x, e);
        else
            vm_multiply(x, e);
        for (u32 q = 0; q < 8; q++) {
            u32 lane = pair * 4 + q % 4 + (q >= 4 ? 16 : 0);
            for (int i = 0; i < 8; i++) {
                int row_d, col_d;
                if (e->type4 == PT_F32)
                    row_d = (int)(lane & 1) + (i & 2) + (q >= 4 ? 4 : 0), col_d = (i & 4) + (int)(lane & 2) + (i & 1);
                else
                    row_d = (int)(q % 4) + (q >= 4 ? 4 : 0), col_d = i;
                result(f, e, lane, i, x->d[row_d][col_d], trace);
            }
        }
    }
}

static INLINE void wmma(struct matrices *x, const struct ext *e, struct frame *f, struct trace *trace) {
    int n_regs[4], at[4] = {0};
    for (int k = 0; k < 4; k++) n_regs[k] = (int)e->arg_from[k], at[k] = k ? at[k - 1] + n_regs[k - 1] : 0;
    enum ptx_type types[4] = {(enum ptx_type)e->type4, (enum ptx_type)e->type, (enum ptx_type)e->type2,
                              (enum ptx_type)e->type3};
    int rows[4] = {e->m, e->m, e->k, e->m}, cols[4] = {e->nn, e->k, e->nn, e->nn};
    for (int k = 1; k < 4; k++) {
        int count = count_elements(e, at[k], n_regs[k], vm_element_bits(types[k]));
        double(*to)[MATRIX_MAX] = k == 1 ? x->a : k == 2 ? x->b : x->c;
        for (u32 lane = 0; lane < 32; lane++)
            for (int i = 0; i < count; i++) {
                int at_i = (int)lane * count + i;
                if (at_i < rows[k] * cols[k])
                    to[at_i / cols[k]][at_i % cols[k]] = element_of(f, e, at[k], lane, i, types[k], trace);
            }
    }
    if (trace)
        trace_product(x, e);
    else
        vm_multiply(x, e);
    int count = count_elements(e, 0, n_regs[0], vm_element_bits(types[0]));
    for (u32 lane = 0; lane < 32; lane++)
        for (int i = 0; i < count; i++) {
            int at_i = (int)lane * count + i;
            if (at_i < rows[0] * cols[0]) result(f, e, lane, i, x->d[at_i / cols[0]][at_i % cols[0]], trace);
        }
}

/* The marks of D, which take the place of its registers' own: before the product, which may write what it reads. */
static void mark_results(struct matrices *x, struct warp *w, struct split *s, const struct insn *in) {
    const struct ext *e = in->ext;
    struct frame *f = s->frame;
    u32 any = 0, nd = e->arg_from[0], n = nd + e->arg_from[1] + e->arg_from[2] + e->arg_from[3];
    for (u32 k = 0; k < n; k++) any |= vm_undefined_lanes(f, e->ops[k]);
    if (!any) return;
    struct trace trace = {0};
    if (e->order == 1)
        wmma(x, e, f, &trace);
    else if (e->order == 2)
        mma_quad(x, e, f, &trace);
    else
        mma_sync(x, w, s, in, NULL, &trace);
    for (u32 k = 0; k < nd; k++) {
        if (e->ops[k] == NO_ROW) continue;
        EACH_LANE(i, trace.written[k]) trace.from[k][i] = 0;
        vm_undefined_put(f, e->ops[k], ~0u, trace.from[k]);
    }
}

enum step op_mma(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    static _Thread_local struct matrices x;
    const struct ext *e = in->ext;
    enum step out;
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    if (w->undefined) mark_results(&x, w, s, in);
    if (e->order == 1)
        wmma(&x, e, s->frame, NULL);
    else if (e->order == 2)
        mma_quad(&x, e, s->frame, NULL);
    else if (!mma_sync(&x, w, s, in, &out, NULL))
        return out;
    struct vm_counters *c = &w->block->worker->counters;
    c->matrix_ops++;
    c->matrix_flops += 2ull * (u64)e->m * (u64)e->nn * (u64)e->k * (e->order == 2 ? 4 : 1);
    return STEP_NEXT;
}
