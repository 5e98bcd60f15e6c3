/* wgmma: products of a warp group. Each of the four warps computes its 16 of the 64 rows by itself, at once, reading
 * shared memory through the descriptors:
 *
 *   63-62 swizzle: 0 none, 1 128 bytes, 2 64, 3 32     45-32 stride offset / 16     29-16 leading offset / 16     13-0
 * address / 16
 *
 * With u = 16-byte units and W the units of a swizzle's row (2, 4, 8), element (r, k) of a K-major operand lies in unit
 *   none: r % 8 + (r / 8) S + (k / e) L       swizzled: (r % 8) W + (r / 8) S + k / e
 * and of an MN-major one (16-bit elements, q = r / 8)
 *   none: q S + k % 8 + (k / 8) L             swizzled: q % W + (q / W) L + (k % 8) W + (k / 8) S
 * and the swizzle exchanges address bits: 4-6 ^= 7-9 (as many as the width has). */
#include "verify/ptxvm/mma.h"

#include <string.h>

static bool load_operand(struct warp *w, struct split *s, const struct insn *in, u64 desc, bool mn_major,
                         enum ptx_type t, int rows, int k, int first_row, double out[][MATRIX_MAX],
                         bool transpose_out) {
    int bits = vm_element_bits(t), e = 128 / bits, mode = (int)(desc >> 62);
    u64 start = (desc & 0x3fff) << 4, lead = (desc >> 16 & 0x3fff) << 4, stride = (desc >> 32 & 0x3fff) << 4;
    u32 width = mode == 1 ? 8 : mode == 2 ? 4 : mode == 3 ? 2 : 0, mask = width ? (width - 1) << 4 : 0;
    int outer = mn_major ? k : rows, inner = mn_major ? rows : k;
    for (int o = 0; o < outer; o++)
        for (int c = 0; c < inner; c += e) {
            u64 at;
            if (!mn_major) {
                u64 r = (u64)(o + first_row), u = (u64)(c / e);
                at = width ? (r % 8) * width * 16 + r / 8 * stride + u * 16 : r % 8 * 16 + r / 8 * stride + u * lead;
            } else {
                u64 q = (u64)(c + first_row) / 8, kk = (u64)o;
                at = width ? q % width * 16 + q / width * lead + kk % 8 * width * 16 + kk / 8 * stride
                           : q * stride + kk % 8 * 16 + kk / 8 * lead;
            }
            at += start;
            at ^= at >> 3 & mask;
            u8 *p = vm_range_pointer(w, s, in, 0, SP_SHARED, at, 16, ACCESS_LOAD);
            if (!p) return false;
            if (w->block->gang_check && !vm_race_access(w, s, in, 0, w->block, (u32)at, 16, ACCESS_LOAD, false))
                return false;
            for (int j = 0; j < e && c + j < inner; j++) {
                u64 v = 0;
                memcpy(&v, p + j * bits / 8, bits < 8 ? 1 : (size_t)bits / 8);
                if (bits < 8) v = v >> j * bits % 8 & ((1u << bits) - 1);
                double x = t == PT_B1 ? (double)v : vm_element_value(v, t);
                int r = mn_major ? c + j : o, kk = mn_major ? o : c + j;
                if (transpose_out)
                    out[kk][r] = x;
                else
                    out[r][kk] = x;
            }
        }
    return true;
}

/* ext: m 16 (a warp's rows), nn, k; types as for mma; mode saturate; arg_from[0]: registers of d, [1]: of a (0: a
 * descriptor); ops: d, a (or one 64-bit row), b; in->c predicate scale-d or NO_ROW (imm bit 0: negated; bit 1: constant
 * 0); mode2: 1 negate a, 2 negate b; mode3: 1 a MN-major, 2 b MN-major */
enum step op_wgmma(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    static _Thread_local struct matrices x;
    const struct ext *e = in->ext;
    enum step out;
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    struct frame *f = s->frame;
    int nd = (int)e->arg_from[0], na = (int)e->arg_from[1], at_a = nd, at_b = nd + (na ? na : 1);
    int first_row = 16 * (int)(w->id % 4);
    enum ptx_type at = (enum ptx_type)e->type, bt = (enum ptx_type)e->type2, dt = (enum ptx_type)e->type4;
    int bits = vm_element_bits(at), per = 32 / bits;
    if (na) {
        for (u32 lane = 0; lane < 32; lane++)
            for (int r = 0; r < na; r++)
                for (int j = 0; j < per; j++) {
                    u64 v = ((const u32 *)row(f, e->ops[at_a + r]))[lane] >> (j * bits);
                    if (bits < 32) v &= (1u << bits) - 1;
                    x.a[lane / 4 + 8 * (u32)(r % 2)][r / 2 * 4 * per + (int)(lane % 4) * per + j] =
                        at == PT_B1 ? (double)v : vm_element_value(v, at);
                }
    } else if (!load_operand(w, s, in, ((const u64 *)row(f, e->ops[at_a]))[0], e->mode3 & 1, at, 16, e->k, first_row,
                             x.a, false)) {
        return STEP_FAULT;
    }
    if (!load_operand(w, s, in, ((const u64 *)row(f, e->ops[at_b]))[0], e->mode3 & 2, bt, e->nn, e->k, 0, x.b, true))
        return STEP_FAULT;
    bool keep = !(in->imm & 2);
    if (in->c != NO_ROW) keep = (*(const u32 *)row(f, in->c) & 1) ^ (in->imm & 1);
    int halves = dt == PT_F16 ? 2 : 1;
    for (u32 lane = 0; lane < 32; lane++)
        for (int i = 0; i < nd * halves; i++) {
            int r = (int)lane / 4 + 8 * (i / 2 % 2), c = i / 4 * 8 + (int)(lane % 4) * 2 + i % 2;
            u32 v = ((const u32 *)row(f, e->ops[i / halves]))[lane];
            if (halves == 2) v = i % 2 ? v >> 16 : v & 0xffff;
            x.c[r][c] = keep ? vm_element_value(v, dt) : 0;
        }
    if (e->mode2 && at != PT_B1)
        for (int r = 0; r < 16; r++)
            for (int k = 0; k < e->k; k++) x.a[r][k] = e->mode2 == 3 ? x.a[r][k] : -x.a[r][k];
    vm_multiply(&x, e);
    for (u32 lane = 0; lane < 32; lane++)
        for (int i = 0; i < nd * halves; i++) {
            int r = (int)lane / 4 + 8 * (i / 2 % 2), c = i / 4 * 8 + (int)(lane % 4) * 2 + i % 2;
            u32 *d = (u32 *)row(f, e->ops[i / halves]) + lane, v;
            v = dt == PT_S32 ? (u32)(s32)x.d[r][c] : (u32)vm_accumulator_bits(x.d[r][c], dt);
            if (halves == 2)
                *d = i % 2 ? (*d & 0xffff) | v << 16 : (*d & 0xffff0000) | v;
            else
                *d = v;
        }
    struct vm_counters *n = &w->block->worker->counters;
    n->matrix_ops++;
    n->matrix_flops += 2ull * 16 * (u64)e->nn * (u64)e->k;
    return STEP_NEXT;
}
