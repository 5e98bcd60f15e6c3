/* Bulk copies and reductions (cp.async.bulk, cp.reduce.async.bulk), and stores that complete on an mbarrier.
 *
 * A copy takes effect at once and then completes its bytes on the mbarrier: a program that waits as it must sees no
 * difference. For the detector of races it runs until somebody has waited for it (race.h). */
#include "verify/ptxvm/bulk.h"

#include <string.h>

/* Addresses of shared memory may also come as generic ones. */
static u64 shared_offset(u64 a) {
    return a - VM_SHARED_WINDOW < VM_WINDOW_BYTES ? a - VM_SHARED_WINDOW : a;
}

u8 *vm_bulk_read(const struct bulk *c, u64 off, u32 bytes) {
    u8 *p = vm_range_pointer(c->w, c->s, c->in, c->lane, SP_SHARED, off, bytes, ACCESS_LOAD);
    if (p && c->w->block->gang_check &&
        (off >> VM_RANK_SHIFT || !vm_race_async_read(c->w, c->s, c->in, c->lane, (u32)off, bytes, c->ticket)))
        return NULL;
    return p;
}

u8 *vm_bulk_write(const struct bulk *c, u64 off, u32 bytes) {
    int access = c->reduce ? ACCESS_ATOMIC : ACCESS_STORE;
    u8 *p = vm_range_pointer(c->w, c->s, c->in, c->lane, SP_SHARED, off, bytes, access);
    if (!p || !c->w->block->gang_check) return p;
    struct block *home = vm_shared_home(c->w, &off);
    u64 t = c->stamp | (c->reduce ? STAMP_RELAXED : 0);
    return vm_race_async_write(c->w, c->s, c->in, c->lane, home, (u32)off, bytes, t) ? p : NULL;
}

void vm_bulk_reduce(const struct bulk *c, u8 *to, const u8 *from, u32 bytes) {
    u32 n = (u32)ptx_type_bytes(c->type);
    for (u32 k = 0; k + n <= bytes; k += n) {
        u64 old = 0, v = 0;
        memcpy(&old, to + k, n);
        memcpy(&v, from + k, n);
        old = vm_atomic_value(c->reduce - 1, c->type, old, v);
        memcpy(to + k, &old, n);
    }
}

static bool plain(struct bulk *c, int mode, u64 to, u64 from, u32 bytes) {
    if (!bytes) return true;
    u8 *q = mode == 0 ? vm_range_pointer(c->w, c->s, c->in, c->lane, SP_GLOBAL, from, bytes, ACCESS_LOAD)
                      : vm_bulk_read(c, from, bytes);
    if (!q) return false;
    u8 *p = mode == 2 ? vm_range_pointer(c->w, c->s, c->in, c->lane, SP_GLOBAL, to, bytes,
                                         c->reduce ? ACCESS_ATOMIC : ACCESS_STORE)
                      : vm_bulk_write(c, to, bytes);
    if (!p) return false;
    if (c->reduce)
        vm_bulk_reduce(c, p, q, bytes);
    else
        memmove(p, q, bytes);
    return true;
}

/* ext: mode 0 global to shared, 1 shared to shared, 2 shared to global; k dimensions of a tensor, 0: plain; order 1:
 * im2col; mode2 multicast; mode3 reduction + 1, type its elements'. ops, addresses of 64 bits: 0 destination (a
 * tensor's shared side), 1 source or tensor map, 2 bytes, 3 mbarrier, 4 mask, 5 … coordinates, 10 … offsets of im2col
 */
enum step op_bulk(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    struct frame *f = s->frame;
    bool check = w->block->gang_check;
#define ROW64(k) ((const u64 *)row(f, x->ops[k]))
    EACH_LANE(i, m) {
        u64 dst = ROW64(0)[i], src = ROW64(1)[i], bar = x->ops[3] == NO_ROW ? 0 : shared_offset(ROW64(3)[i]);
        if (x->mode != 2 || x->k) dst = shared_offset(dst);
        if (x->mode != 0 && !x->k) src = shared_offset(src);
        u32 targets = x->mode2 ? ((const u32 *)row(f, x->ops[4]))[i] & 0xffff : 1,
            bytes = x->k ? 0 : ((const u32 *)row(f, x->ops[2]))[i], moved = bytes;
        if (!x->k && ((bytes & 15) || (dst & 15) || (src & 15)))
            return vm_fault_at(w, s, in, (int)i, VM_MISALIGNED, "misaligned access", dst,
                               "a bulk copy of %u bytes from 0x%llx: all multiples of 16", bytes,
                               (unsigned long long)src);
        struct bulk c = {w, s, in, i, x->mode3, (enum ptx_type)x->type, 0, 0};
        if (check && x->mode != 0) c.ticket = vm_race_ticket(w, in->line, "a bulk copy");
        for (u32 rank = 0; rank < 16; rank++) {
            if (!(targets >> rank & 1)) continue;
            u64 to = dst, its_bar = bar;
            if (x->mode2) {
                u64 keep = (1u << VM_RANK_SHIFT) - 1,
                    tag = rank == w->block->rank ? 0 : (u64)(rank + 1) << VM_RANK_SHIFT;
                to = (dst & keep) | tag;
                its_bar = (bar & keep) | tag;
            }
            if (x->ops[3] != NO_ROW && !vm_mbarrier_stamp(w, s, in, i, its_bar, &c.stamp)) return STEP_FAULT;
            if (!(x->k ? vm_tensor_copy(&c, src, to, &moved) : plain(&c, x->mode, to, src, bytes))) return STEP_FAULT;
            if (x->ops[3] != NO_ROW && !vm_mbarrier_bytes(w, s, in, i, its_bar, moved)) return STEP_FAULT;
        }
        if (c.ticket && x->mode == 1) vm_race_ticket_to(w, c.ticket, c.stamp);
        if (c.ticket && x->mode == 2)
            vm_note_copy(w, (struct async_copy){.lane = i, .group = w->bulk_group[i], .ticket = c.ticket});
    }
    return STEP_NEXT;
}

/* cp.async.bulk: mode 0 commit_group, 1 wait_group imm: of the newest groups of each lane, all but so many have read
 * what they copy (what they write is global memory, which nobody watches) */
enum step op_bulk_group(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    (void)s;
    if (x->mode == 0) {
        EACH_LANE(i, m) w->bulk_group[i]++;
        return STEP_NEXT;
    }
    int k = 0;
    for (int i = 0; i < w->n_copies; i++) {
        struct async_copy *c = &w->copies[i];
        if (c->ticket && m >> c->lane & 1 && c->group + in->imm < w->bulk_group[c->lane])
            vm_race_ticket_close(w, c->ticket, c->lane);
        else
            w->copies[k++] = *c;
    }
    w->n_copies = k;
    return STEP_NEXT;
}

/* st.async and red.async: mode3 reduction + 1; ops: 0 address, 1 mbarrier, 2 … values */
enum step op_store_async(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    u32 n = (u32)x->m, bytes = x->bytes;
    EACH_LANE(i, m) {
        u64 to = shared_offset(((const u64 *)row(s->frame, x->ops[0]))[i]),
            bar = shared_offset(((const u64 *)row(s->frame, x->ops[1]))[i]);
        struct bulk c = {w, s, in, i, x->mode3, (enum ptx_type)x->type, 0, 0};
        if (to & (bytes * n - 1))
            return vm_fault_at(w, s, in, (int)i, VM_MISALIGNED, "misaligned access", to, "%u bytes", bytes * n);
        if (!vm_mbarrier_stamp(w, s, in, i, bar, &c.stamp)) return STEP_FAULT;
        u8 *p = vm_bulk_write(&c, to, bytes * n);
        if (!p) return STEP_FAULT;
        for (u32 e = 0; e < n; e++) {
            u64 v = row_get(row(s->frame, x->ops[2 + e]), i, x->sizes[2 + e]);
            if (x->mode3)
                vm_bulk_reduce(&c, p + e * bytes, (const u8 *)&v, bytes);
            else
                memcpy(p + e * bytes, &v, bytes);
        }
        if (!vm_mbarrier_bytes(w, s, in, i, bar, bytes * n)) return STEP_FAULT;
    }
    return STEP_NEXT;
}
