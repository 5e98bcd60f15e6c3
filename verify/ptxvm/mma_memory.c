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
    u32 unit = bits < 8 ? 1 : (u32)bits / 8, written[32] = {0};
    u16 from[32][32] = {{0}};
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
        int reg = e / per, shift = e % per * bits;
        w->may_mark = true;
        bool ok = vm_pointers(w, s, in, space, addr, m, unit, store ? ACCESS_STORE : ACCESS_LOAD, q);
        w->may_mark = false;
        if (!ok) return STEP_FAULT;
        u32 unwritten = w->unwritten;
        w->unwritten = 0;
        u16 origin = 0;
        EACH_LANE(lane, m) {
            if (!(unwritten >> lane & 1) || !vm_undefined_bytes(w, lane, q[lane], unit))
                written[reg] |= 1u << lane;
            else if (origin || (origin = vm_undefined_origin(w, s, in, unwritten, unit, addr, q)))
                from[reg][lane] = (u16)(origin + lane);
        }
        EACH_LANE(lane, m) {
            void *rw = row(s->frame, x->ops[reg]);
            if (store) {
                u64 v = row_get(rw, lane, size) >> shift;
                memcpy(q[lane], &v, unit);
                if (s->frame->undefined && !vm_undefined_store(w, s, in, x->ops[reg], lane, q[lane], unit))
                    return STEP_FAULT;
            } else {
                u64 v = 0, keep = bits == 64 ? ~0ull : (1ull << bits) - 1;
                memcpy(&v, q[lane], unit);
                if (bits < 8) v >>= (u64)(uintptr_t)p[lane];
                u64 old = shift ? row_get(rw, lane, size) : 0;
                row_put(rw, lane, size, old | (v & keep) << shift);
            }
        }
    }
    for (int reg = 0; reg < x->n && !store; reg++) {
        EACH_LANE(lane, written[reg]) from[reg][lane] = 0;
        vm_undefined_put(s->frame, x->ops[reg], ~0u, from[reg]);
    }
    return STEP_NEXT;
}
enum step op_wmma_load(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    return move_matrix(w, s, in, mask, false);
}
enum step op_wmma_store(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    return move_matrix(w, s, in, mask, true);
}

/* ldmatrix and stmatrix: a lane gives the address of a row of 16 bytes: lane i row i % rows of matrix i / rows. With
 * g = lane / 4 and t = lane % 4, register r of a lane holds
 *
 *   m8n8.b16, m8n16.b8          row g of matrix r, bytes 4 t …
 *   m8n8.trans.b16              rows 2 t and 2 t + 1, element g of 16 bits
 *   m16n16.trans.b8 (loads)     matrix r / 2: rows 4 t …, byte g + 8 (r % 2)
 *   m16n8.trans.b8 (stores)     rows 2 t and 2 t + 1: byte g of both, then byte g + 8 of both
 *
 * ext: n registers, m addresses of a matrix (8, 16), mode 1: transposed, mode2: bits of an element in registers, bytes:
 * of a row in memory, 12 and 8 for 16 elements of 6 and 4 bits that become bytes */
static bool row_pointers(struct warp *w, struct split *s, const struct insn *in, const struct ext *x, int access,
                         u8 rows[32][16], u64 *addr, u8 **p) {
    u32 n = (u32)x->n * 8, m = n >= 32 ? ~0u : (1u << n) - 1;
    u8 *rest[32];
    u8 space = vm_addresses(w, s, in, x, m, addr);
    EACH_LANE(i, m)
    if (addr[i] & 15) {
        vm_fault_at(w, s, in, (int)i, VM_MISALIGNED, "misaligned access", addr[i],
                    "the 16 bytes of a row need a multiple of 16");
        return false;
    }
    u32 first = x->bytes == 16 ? 16 : 8;
    if (!vm_pointers(w, s, in, space, addr, m, first, access, p)) return false;
    EACH_LANE(i, m) memcpy(rows[i], p[i], first);
    if (x->bytes != 12) return true;
    u64 second[32];
    EACH_LANE(i, m) second[i] = addr[i] + 8;
    if (!vm_pointers(w, s, in, space, second, m, 4, access, rest)) return false;
    EACH_LANE(i, m) memcpy(rows[i] + 8, rest[i], 4);
    return true;
}

/* 16 elements of `bits` bits become bytes. */
static void unpack_row(u8 row[16], int bits) {
    u8 packed[16];
    memcpy(packed, row, 16);
    for (int i = 0; i < 16; i++) {
        u32 v;
        int at = i * bits;
        v = packed[at / 8] | (u32)(at / 8 < 15 ? packed[at / 8 + 1] : 0) << 8;
        row[i] = (u8)(v >> at % 8 & ((1u << bits) - 1));
    }
}

/* Byte j of register r of a lane: its row among all, and its place there. */
struct byte_place {
    u32 row, at;
};
static struct byte_place place_of(const struct ext *x, bool store, u32 r, u32 lane, u32 j) {
    u32 g = lane / 4, t = lane % 4;
    if (!x->mode) return (struct byte_place){8 * r + g, 4 * t + j};
    if (x->mode2 == 16) return (struct byte_place){8 * r + 2 * t + j / 2, 2 * g + j % 2};
    if (store) return (struct byte_place){8 * r + 2 * t + j % 2, g + j / 2 * 8};
    return (struct byte_place){r / 2 * 16 + 4 * t + j, g + r % 2 * 8};
}
enum step op_ldmatrix(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    enum step out;
    u64 addr[32];
    u8 *p[32], rows[32][16];
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    w->may_mark = true;
    bool ok = row_pointers(w, s, in, x, ACCESS_LOAD, rows, addr, p);
    w->may_mark = false;
    if (!ok) return STEP_FAULT;
    u32 unwritten = w->unwritten;
    w->unwritten = 0;
    u16 origin = unwritten ? vm_undefined_origin(w, s, in, unwritten, x->bytes, addr, p) : 0;
    for (int i = 0; x->bytes < 16 && i < 8 * x->n; i++) unpack_row(rows[i], x->bytes / 2);
    for (u32 k = 0; k < (u32)x->n; k++) {
        u32 *d = row(s->frame, x->ops[k]);
        u16 from[32];
        for (u32 l = 0; l < 32; l++) {
            bool written = !origin;
            d[l] = 0;
            for (u32 j = 0; j < 4; j++) {
                struct byte_place b = place_of(x, false, k, l, j);
                d[l] |= (u32)rows[b.row][b.at] << 8 * j;
                written = written || !(unwritten >> b.row & 1) ||
                          !vm_undefined_bytes(w, b.row, p[b.row] + b.at * x->bytes / 16, 1);
            }
            from[l] = written ? 0 : (u16)(origin + place_of(x, false, k, l, 0).row);
        }
        vm_undefined_put(s->frame, x->ops[k], ~0u, from);
    }
    return STEP_NEXT;
}
enum step op_stmatrix(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    enum step out;
    u64 addr[32];
    u8 *p[32], rows[32][16];
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    if (!row_pointers(w, s, in, x, ACCESS_STORE, rows, addr, p)) return STEP_FAULT;
    for (u32 k = 0; k < (u32)x->n; k++) {
        const u32 *v = row(s->frame, x->ops[k]);
        for (u32 l = 0; l < 32; l++)
            for (u32 j = 0; j < 4; j++) {
                struct byte_place b = place_of(x, true, k, l, j);
                p[b.row][b.at] = (u8)(v[l] >> 8 * j);
                if (s->frame->undefined && !vm_undefined_store(w, s, in, x->ops[k], l, p[b.row] + b.at, 1))
                    return STEP_FAULT;
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
    u16 from[32];
    for (u32 l = 0; l < 32; l++) {
        u32 first = 2 * (l % 4) * 4 + l / 8, second = first + 4; /* the lanes that had its two elements */
        d[l] = m[2 * (l % 4)][l / 4] | (u32)m[2 * (l % 4) + 1][l / 4] << 16;
        from[l] = vm_undefined_from(s->frame, in->a, second) ? vm_undefined_from(s->frame, in->a, first) : 0;
    }
    vm_undefined_put(s->frame, in->d, ~0u, from);
    return STEP_NEXT;
}
