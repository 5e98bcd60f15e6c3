/* mbarriers and bulk copies, tensor copies (TMA) among them.
 *
 * An mbarrier is the program's 64 bits in shared memory; its inside is ours:
 *
 *   63     phase in progress (its parity)
 *   61-40  bytes still expected, signed
 *   39-20  arrivals a phase takes
 *   19-0   arrivals the phase still waits for
 *
 * A bulk copy happens at once and then completes its bytes on the mbarrier: a program that waits as it must sees no
 * difference. */
#include "verify/ptxvm/mem_access.h"

#include <string.h>

enum { FIELD = (1 << 20) - 1 };
struct state {
    u32 pending, expected, phase;
    s32 tx;
};
static struct state unpack(u64 v) {
    return (struct state){(u32)v & FIELD, (u32)(v >> 20) & FIELD, (u32)(v >> 63),
                          (s32)((u32)(v >> 40 & 0x3fffff) << 10) >> 10};
}
static u64 pack(struct state b) {
    return (u64)(b.pending & FIELD) | (u64)(b.expected & FIELD) << 20 | (u64)((u32)b.tx & 0x3fffff) << 40 |
           (u64)b.phase << 63;
}
static void settle(struct state *b) {
    if (b->pending || b->tx) return;
    b->phase ^= 1;
    b->pending = b->expected;
}

static u8 *barrier_at(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 space, u64 address,
                      int access) {
    u8 *p = vm_lane_pointer(w, s, in, lane, space, address, 8, access);
    if (!p) return NULL;
    return p;
}

/* The key of an mbarrier for the race detector: its offset in the block's own shared memory. */
static u64 sync_key(u64 address) {
    return (address & ((1u << VM_RANK_SHIFT) - 1)) | 1ull << 62;
}

static bool transfer(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 space, u64 mbar, s32 bytes) {
    u8 *p = barrier_at(w, s, in, lane, space, mbar, ACCESS_ATOMIC);
    if (!p) return false;
    u64 v;
    memcpy(&v, p, 8);
    struct state b = unpack(v);
    b.tx += bytes;
    settle(&b);
    v = pack(b);
    memcpy(p, &v, 8);
    if (w->block->gang_check && bytes < 0) vm_race_atomic(w, sync_key(mbar), 4);
    return true;
}

enum { MB_INIT, MB_INVAL, MB_ARRIVE, MB_DROP, MB_EXPECT, MB_COMPLETE, MB_WAIT, MB_PENDING, MB_ASYNC };

/* ext: mode; mode2: arrive: 1 expect_tx first, wait: 1 parity; async: 1 noinc; order. in->a address row (64 bits);
 * in->b count, bytes, token or parity; in->c bytes of arrive.expect_tx; in->d token, or predicate of a wait */
enum step op_mbarrier(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    const u64 *addr = row(s->frame, in->a);
    bool check = w->block->gang_check, waiting = false;
    if (x->mode == MB_PENDING) {
        EACH_LANE(i, m)((u32 *)row(s->frame, in->d))[i] = (u32)(addr[i] & FIELD);
        return STEP_NEXT;
    }
    EACH_LANE(i, m) {
        u8 *p = barrier_at(w, s, in, i, in->space, addr[i], x->mode == MB_INIT ? ACCESS_STORE : ACCESS_ATOMIC);
        if (!p) return STEP_FAULT;
        u64 v, key = sync_key(addr[i]);
        memcpy(&v, p, 8);
        struct state b = unpack(v);
        u32 n = in->b == NO_ROW ? 1 : (u32)row_get(row(s->frame, in->b), i, x->mode == MB_WAIT && !x->mode2 ? 8 : 4);
        switch (x->mode) {
        case MB_INIT:
            if (!n || n > FIELD)
                return vm_fault_at(w, s, in, (int)i, VM_ILLEGAL_INSTRUCTION, "bad mbarrier", addr[i], "a count of %u",
                                   n);
            b = (struct state){n, n, 0, 0};
            break;
        case MB_INVAL:
            b = (struct state){0};
            break;
        case MB_EXPECT:
            b.tx += (s32)n;
            break;
        case MB_COMPLETE:
            b.tx -= (s32)n;
            settle(&b);
            break;
        case MB_ARRIVE:
        case MB_DROP:
            if (x->mode2 == 1) b.tx += (s32)((const u32 *)row(s->frame, in->c))[i];
            if (n > b.pending)
                return vm_fault_at(w, s, in, (int)i, VM_LAUNCH_FAILED, "bad mbarrier", addr[i],
                                   "%u arrivals where %u of %u are missing", n, b.pending, b.expected);
            if (in->d != NO_ROW) ((u64 *)row(s->frame, in->d))[i] = v;
            if (check && x->order != 1) vm_race_atomic(w, key, 4);
            if (x->mode == MB_DROP) b.expected -= n;
            b.pending -= n;
            settle(&b);
            break;
        case MB_ASYNC:
            if (check) {
                vm_async_land(w, 1u << i, UINT32_MAX);
                vm_race_atomic(w, key, 4);
            }
            if (x->mode2) {
                if (!b.pending)
                    return vm_fault_at(w, s, in, (int)i, VM_LAUNCH_FAILED, "bad mbarrier", addr[i],
                                       "an arrival where none is missing");
                b.pending--;
                settle(&b);
            }
            break;
        default: {
            u32 parity = x->mode2 ? n & 1 : (u32)(row_get(row(s->frame, in->b), i, 8) >> 63);
            bool done = b.phase != parity;
            row_put(row(s->frame, in->d), i, 0, done);
            if (done && check && x->order != 1) vm_race_atomic(w, key, 2);
            waiting |= !done;
        }
        }
        if (x->mode != MB_WAIT) {
            v = pack(b);
            memcpy(p, &v, 8);
        }
    }
    return waiting ? STEP_YIELD : STEP_NEXT;
}

/* ---- bulk copies ---- */
static const u8 element_bytes[13] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};

/* Shared memory of one target: notes its bytes as written, checked against earlier accesses when it is the block's own.
 */
static u8 *shared_bytes(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 off, u32 bytes,
                        int access) {
    u8 *p = vm_range_pointer(w, s, in, lane, SP_SHARED, off, bytes, access);
    if (p && w->block->gang_check && !(off >> VM_RANK_SHIFT) &&
        !vm_race_access(w, s, in, lane, w->block, (u32)off, bytes, access, false))
        return NULL;
    return p;
}

static bool reduce_into(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 space, u64 to,
                        const u8 *from, u32 bytes, const struct ext *x) {
    u8 *p = vm_range_pointer(w, s, in, lane, space, to, bytes, ACCESS_ATOMIC);
    u32 n = (u32)ptx_type_bytes((enum ptx_type)x->type);
    if (!p) return false;
    for (u32 k = 0; k + n <= bytes; k += n) {
        u64 old = 0, v = 0;
        memcpy(&old, p + k, n);
        memcpy(&v, from + k, n);
        old = vm_atomic_value(x->mode3 - 1, (enum ptx_type)x->type, old, v);
        memcpy(p + k, &old, n);
    }
    return true;
}

/* One lane's tensor copy between a box of global memory and shared memory at off, or into it with a reduction. */
static bool tensor(struct warp *w, struct split *s, const struct insn *in, u32 lane, const struct vm_tensor_map *t,
                   const s32 *at, u64 off, bool store, u64 *moved) {
    const struct ext *x = in->ext;
    if (t->magic != VM_TENSOR_MAP_MAGIC || t->rank != x->k || t->type >= 13) {
        vm_fault_at(w, s, in, (int)lane, VM_ILLEGAL_INSTRUCTION, "bad tensor map", 0,
                    "it is no tensor map of %d dimensions", x->k);
        return false;
    }
    if (t->interleave || t->swizzle > 3) {
        vm_fault_at(w, s, in, (int)lane, VM_ILLEGAL_INSTRUCTION, "bad tensor map", 0,
                    "the machine does not know its interleaving or swizzle");
        return false;
    }
    u32 size = element_bytes[t->type], count[5] = {1, 1, 1, 1, 1}, i[5] = {0};
    u64 rows = 1;
    for (int d = 0; d < t->rank; d++) {
        u32 step = t->elem_stride[d] ? t->elem_stride[d] : 1;
        count[d] = (t->box[d] + step - 1) / step;
        if (d) rows *= count[d];
    }
    u32 row_bytes = count[0] * size, swizzle = t->swizzle == 1   ? 0x10
                                               : t->swizzle == 2 ? 0x30
                                               : t->swizzle == 3 ? 0x70
                                                                 : 0;
    if ((off & (swizzle ? 127 : 15)) && (off & 15)) {
        vm_fault_at(w, s, in, (int)lane, VM_MISALIGNED, "misaligned access", off,
                    "a tensor copy needs 128-byte aligned shared memory");
        return false;
    }
    u8 line[256 * 8];
    if (row_bytes > sizeof line) row_bytes = sizeof line;
    u64 place = off;
    for (u64 r = 0; r < rows; r++, place += row_bytes) {
        bool inside = true;
        u64 base = t->base;
        for (int d = 1; d < t->rank; d++) {
            s64 c = (s64)at[d] + (s64)i[d] * (t->elem_stride[d] ? t->elem_stride[d] : 1);
            if (c < 0 || (u64)c >= t->dim[d])
                inside = false;
            else
                base += (u64)c * t->stride[d - 1];
        }
        u32 unit = swizzle ? 16 : row_bytes;
        if (store) /* gather the row out of shared memory */
            for (u32 k = 0; k < row_bytes; k += unit) {
                u64 a = place + k;
                a ^= a >> 3 & swizzle;
                u8 *p = shared_bytes(w, s, in, lane, a, row_bytes - k < unit ? row_bytes - k : unit, ACCESS_LOAD);
                if (!p) return false;
                memcpy(line + k, p, row_bytes - k < unit ? row_bytes - k : unit);
            }
        else
            memset(line, 0, row_bytes);
        u32 step = t->elem_stride[0] ? t->elem_stride[0] : 1;
        for (u32 e = 0; e < count[0];) { /* runs of elements that lie in the tensor */
            s64 c = (s64)at[0] + (s64)e * step;
            u32 run = 1;
            if (!inside || c < 0 || (u64)c >= t->dim[0]) {
                if (!store && t->nan_fill) {
                    u32 nan = t->type == 9 ? 0x7fff7fff : size == 2 ? 0x7fff7fff : 0x7fffffff;
                    memcpy(line + e * size, &nan, size < 4 ? size : 4);
                }
                e++;
                continue;
            }
            while (step == 1 && e + run < count[0] && (u64)c + run < t->dim[0]) run++;
            u64 address = base + (u64)c * size;
            if (store && x->mode3) {
                if (!reduce_into(w, s, in, lane, SP_GLOBAL, address, line + e * size, run * size, x)) return false;
            } else {
                u8 *p = vm_range_pointer(w, s, in, lane, SP_GLOBAL, address, run * size,
                                         store ? ACCESS_STORE : ACCESS_LOAD);
                if (!p) return false;
                if (store)
                    memcpy(p, line + e * size, run * size);
                else
                    memcpy(line + e * size, p, run * size);
            }
            e += run;
        }
        if (!store)
            for (u32 k = 0; k < row_bytes; k += unit) {
                u64 a = place + k;
                a ^= a >> 3 & swizzle;
                u8 *p = shared_bytes(w, s, in, lane, a, row_bytes - k < unit ? row_bytes - k : unit, ACCESS_STORE);
                if (!p) return false;
                memcpy(p, line + k, row_bytes - k < unit ? row_bytes - k : unit);
            }
        for (int d = 1; d < t->rank && ++i[d] == count[d]; d++) i[d] = 0;
    }
    *moved = rows * row_bytes;
    return true;
}

/* ext: mode 0 global to shared, 1 shared to shared, 2 shared to global; k dimensions of a tensor, 0: plain; mode2
 * multicast; mode3 reduction + 1. ops, all of 64 bits but the coordinates: 0 destination (plain or shared side), 1
 * source or tensor map, 2 bytes, 3 mbarrier, 4 mask, 5 … coordinates */
/* Addresses of shared memory may also come as generic ones. */
static u64 shared_offset(u64 a) {
    return a - VM_SHARED_WINDOW < VM_WINDOW_BYTES ? a - VM_SHARED_WINDOW : a;
}

enum step op_bulk(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    struct frame *f = s->frame;
#define ROW64(k) ((const u64 *)row(f, x->ops[k]))
    EACH_LANE(i, m) {
        u64 dst = ROW64(0)[i], src = ROW64(1)[i], moved = 0, mbar = x->ops[3] == NO_ROW ? 0 : ROW64(3)[i];
        if (x->mode != 2) dst = shared_offset(dst);
        if (x->mode != 0) src = x->k ? src : shared_offset(src);
        if (x->mode == 2 && x->k) dst = shared_offset(dst); /* the shared side of a tensor */
        mbar = shared_offset(mbar);
        u32 targets = x->mode2 ? ((const u32 *)row(f, x->ops[4]))[i] & 0xffff : 1,
            bytes = x->k ? 0 : ((const u32 *)row(f, x->ops[2]))[i];
        if (!x->k && ((bytes & 15) || (dst & 15) || (src & 15)))
            return vm_fault_at(w, s, in, (int)i, VM_MISALIGNED, "misaligned access", dst,
                               "a bulk copy of %u bytes from 0x%llx: all multiples of 16", bytes,
                               (unsigned long long)src);
        for (u32 rank = 0; rank < 16; rank++) {
            if (!(targets >> rank & 1)) continue;
            u64 to = dst, bar = mbar;
            if (x->mode2) {
                u64 keep = (1u << VM_RANK_SHIFT) - 1,
                    tag = rank == w->block->rank ? 0 : (u64)(rank + 1) << VM_RANK_SHIFT;
                to = (dst & keep) | tag;
                bar = (mbar & keep) | tag;
            }
            if (x->k) {
                struct vm_tensor_map map;
                s32 at[5];
                u8 *p = vm_range_pointer(w, s, in, i, SP_GENERIC, src, sizeof map, ACCESS_LOAD);
                if (!p) return STEP_FAULT;
                memcpy(&map, p, sizeof map);
                for (int d = 0; d < x->k; d++) at[d] = ((const s32 *)row(f, x->ops[5 + d]))[i];
                if (!tensor(w, s, in, i, &map, at, to, x->mode == 2, &moved)) return STEP_FAULT;
            } else {
                moved = bytes;
                if (!bytes) continue;
                u8 *from = x->mode == 0 ? vm_range_pointer(w, s, in, i, SP_GLOBAL, src, bytes, ACCESS_LOAD)
                                        : shared_bytes(w, s, in, i, src, bytes, ACCESS_LOAD);
                if (!from) return STEP_FAULT;
                if (x->mode3) {
                    if (!reduce_into(w, s, in, i, x->mode == 2 ? SP_GLOBAL : SP_SHARED, to, from, bytes, x))
                        return STEP_FAULT;
                } else {
                    u8 *p = x->mode == 2 ? vm_range_pointer(w, s, in, i, SP_GLOBAL, to, bytes, ACCESS_STORE)
                                         : shared_bytes(w, s, in, i, to, bytes, ACCESS_STORE);
                    if (!p) return STEP_FAULT;
                    memmove(p, from, bytes);
                }
            }
            if (x->ops[3] != NO_ROW && !transfer(w, s, in, i, SP_SHARED, bar, -(s32)moved)) return STEP_FAULT;
        }
    }
    return STEP_NEXT;
}

/* st.async and red.async: mode3 reduction + 1; ops: 0 address, 1 mbarrier, 2 … values */
enum step op_store_async(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    u32 n = (u32)x->m, bytes = x->bytes;
    EACH_LANE(i, m) {
        u64 to = ((const u64 *)row(s->frame, x->ops[0]))[i], bar = ((const u64 *)row(s->frame, x->ops[1]))[i];
        u8 *p = vm_lane_pointer(w, s, in, i, SP_SHARED, to, bytes * n, x->mode3 ? ACCESS_ATOMIC : ACCESS_STORE);
        if (!p) return STEP_FAULT;
        for (u32 e = 0; e < n; e++) {
            u64 v = row_get(row(s->frame, x->ops[2 + e]), i, x->sizes[2 + e]), old = 0;
            if (x->mode3) {
                memcpy(&old, p + e * bytes, bytes);
                v = vm_atomic_value(x->mode3 - 1, (enum ptx_type)x->type, old, v);
            }
            memcpy(p + e * bytes, &v, bytes);
        }
        if (!transfer(w, s, in, i, SP_SHARED, bar, -(s32)(bytes * n))) return STEP_FAULT;
    }
    return STEP_NEXT;
}
