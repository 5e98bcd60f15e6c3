/* Loads and stores of matrices by a warp: wmma.load, wmma.store, ldmatrix, stmatrix, movmatrix. */
#include "verify/ptxvm/mma.h"

#include <string.h>

/* wmma.load and .store. ext: type element, m rows, nn columns, mode 1: column-major; ops registers; in->b stride row or
 * NO_ROW */
static enum step move_matrix(struct warp *w, struct split *s, const struct insn *in, u32 mask, bool store) {
    const struct ext *x = in->ext;
    enum step out;
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    int bits = vm_element_bits((enum ptx_type)x->type), size = x->sizes[0], per = size * 8 / bits, count = x->n * per;
    u64 base[32], addr[32];
    u8 *p[32];
    u8 space = vm_addresses(w, s, in, x, ~0u, base);
    u32 unit = bits < 8 ? 1 : (u32)bits / 8;
    for (int e = 0; e < count; e++) {
        u32 m = 0;
        for (u32 lane = 0; lane < 32; lane++) {
            int at = (int)lane * count + e, total = x->m * x->nn;
            if (at >= total) {
                if (store) continue;
                at %= total;
            }
            u64 r = (u64)(at / x->nn), c = (u64)(at % x->nn);
            u64 ld = in->b == NO_ROW ? (u64)(x->mode ? x->m : x->nn) : ((const u32 *)row(s->frame, in->b))[lane];
            u64 index = x->mode ? c * ld + r : r * ld + c;
            addr[lane] = base[lane] + index * (u64)bits / 8;
            m |= 1u << lane;
            if (bits < 8) p[lane] = (u8 *)(uintptr_t)(index * (u64)bits % 8);
        }
        u8 *q[32];
        if (!vm_pointers(w, s, in, space, addr, m, unit, store ? ACCESS_STORE : ACCESS_LOAD, q)) return STEP_FAULT;
        EACH_LANE(lane, m) {
            int reg = e / per, shift = e % per * bits;
            void *rw = row(s->frame, x->ops[reg]);
            if (store) {
                u64 v = row_get(rw, lane, size) >> shift;
                memcpy(q[lane], &v, unit);
            } else {
                u64 v = 0, keep = bits == 64 ? ~0ull : (1ull << bits) - 1;
                memcpy(&v, q[lane], unit);
                if (bits < 8) v >>= (u64)(uintptr_t)p[lane];
                u64 old = shift ? row_get(rw, lane, size) : 0;
                row_put(rw, lane, size, old | (v & keep) << shift);
            }
        }
    }
    return STEP_NEXT;
}
enum step op_wmma_load(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    return move_matrix(w, s, in, mask, false);
}
enum step op_wmma_store(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    return move_matrix(w, s, in, mask, true);
}

/* ldmatrix and stmatrix of 8x8 b16: lane i gives the address of row i % 8 of matrix i / 8; lane l holds elements 2 (l %
 * 4) and the next of row l / 4 (transposed: of column l / 4). ext: n matrices, mode 1: transposed */
static bool row_pointers(struct warp *w, struct split *s, const struct insn *in, const struct ext *x, int access,
                         u8 **p) {
    u64 addr[32];
    u32 m = x->n >= 4 ? ~0u : (1u << 8 * x->n) - 1;
    u8 space = vm_addresses(w, s, in, x, m, addr);
    return vm_pointers(w, s, in, space, addr, m, 16, access, p);
}
enum step op_ldmatrix(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    enum step out;
    u8 *p[32];
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    if (!row_pointers(w, s, in, x, ACCESS_LOAD, p)) return STEP_FAULT;
    u32 result[4][32];
    for (int k = 0; k < x->n; k++)
        for (u32 l = 0; l < 32; l++) {
            u16 v[2];
            for (u32 j = 0; j < 2; j++) {
                u32 r = x->mode ? 2 * (l % 4) + j : l / 4, c = x->mode ? l / 4 : 2 * (l % 4) + j;
                memcpy(&v[j], p[8 * k + (int)r] + 2 * c, 2);
            }
            result[k][l] = v[0] | (u32)v[1] << 16;
        }
    for (int k = 0; k < x->n; k++) memcpy(row(s->frame, x->ops[k]), result[k], 128);
    return STEP_NEXT;
}
enum step op_stmatrix(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    enum step out;
    u8 *p[32];
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    if (!row_pointers(w, s, in, x, ACCESS_STORE, p)) return STEP_FAULT;
    for (int k = 0; k < x->n; k++) {
        const u32 *v = row(s->frame, x->ops[k]);
        for (u32 l = 0; l < 32; l++)
            for (u32 j = 0; j < 2; j++) {
                u32 r = x->mode ? 2 * (l % 4) + j : l / 4, c = x->mode ? l / 4 : 2 * (l % 4) + j;
                u16 h = (u16)(v[l] >> 16 * j);
                memcpy(p[8 * k + (int)r] + 2 * c, &h, 2);
            }
    }
    return STEP_NEXT;
}
enum step op_movmatrix(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    enum step out;
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    u16 m[8][8];
    const u32 *a = row(s->frame, in->a);
    u32 *d = row(s->frame, in->d);
    for (u32 l = 0; l < 32; l++)
        for (u32 j = 0; j < 2; j++) m[l / 4][2 * (l % 4) + j] = (u16)(a[l] >> 16 * j);
    for (u32 l = 0; l < 32; l++) d[l] = m[2 * (l % 4)][l / 4] | (u32)m[2 * (l % 4) + 1][l / 4] << 16;
    return STEP_NEXT;
}
