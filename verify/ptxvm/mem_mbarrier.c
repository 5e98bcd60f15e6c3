/* mbarriers: the program's 64 bits in shared memory; their inside is ours:
 *
 *   63     phase in progress (its parity)
 *   62     1: an mbarrier lies here
 *   61-40  bytes still expected, signed
 *   39-20  arrivals a phase takes
 *   19-0   arrivals the phase still waits for */
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
    return (u64)(b.pending & FIELD) | (u64)(b.expected & FIELD) << 20 | (u64)((u32)b.tx & 0x3fffff) << 40 | 1ull << 62 |
           (u64)b.phase << 63;
}

/* An mbarrier that an instruction names: where it lies, and in whose memory. */
struct place {
    u8 *at;
    struct block *home;
    u32 off;
};
static bool bad(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, const char *what) {
    vm_fault_at(w, s, in, (int)lane, VM_LAUNCH_FAILED, "bad mbarrier", address, "%s", what);
    return false;
}
static bool find(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, bool fresh,
                 struct place *p) {
    if (address - VM_SHARED_WINDOW < VM_WINDOW_BYTES)
        address -= VM_SHARED_WINDOW;
    else if (in->space == SP_GENERIC && address >> 32)
        return bad(w, s, in, lane, address, "it is not in shared memory");
    p->at = vm_lane_pointer(w, s, in, lane, SP_SHARED, address, 8, fresh ? ACCESS_STORE : ACCESS_ATOMIC);
    if (!p->at) return false;
    p->home = vm_shared_home(w, &address);
    p->off = (u32)address;
    if (!fresh && !(p->at[7] >> 6 & 1))
        return bad(w, s, in, lane, address, "no mbarrier.init has made one here, or it has been overwritten");
    return !w->block->gang_check ||
           vm_race_access(w, s, in, lane, p->home, p->off, 8, fresh ? ACCESS_STORE : ACCESS_LOAD, !fresh);
}

/* Writes the state back; a phase that has all it waits for ends. */
static void settle(struct warp *w, const struct place *p, struct state *b) {
    bool ended = !b->pending && !b->tx;
    if (ended) {
        b->phase ^= 1;
        b->pending = b->expected;
        if (w->block->gang_check) vm_race_mbarrier_phase(w, p->home, p->off);
    }
    u64 v = pack(*b);
    memcpy(p->at, &v, 8);
    w->block->cluster->polls = 0;
}

static bool count_bytes(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, struct state *b,
                        s64 bytes) {
    if (b->tx + bytes > FIELD || b->tx + bytes < -FIELD)
        return bad(w, s, in, lane, address, "more than 2^20 - 1 bytes are expected, or have come unexpected");
    b->tx += (s32)bytes;
    return true;
}

bool vm_mbarrier_bytes(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, u32 bytes) {
    struct place p;
    u64 v;
    if (!find(w, s, in, lane, address, false, &p)) return false;
    memcpy(&v, p.at, 8);
    struct state b = unpack(v);
    if (!count_bytes(w, s, in, lane, address, &b, -(s64)bytes)) return false;
    if (w->block->gang_check) vm_race_bytes(w, p.home, p.off);
    settle(w, &p, &b);
    return true;
}

bool vm_mbarrier_stamp(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, u64 *t) {
    struct place p;
    if (!w->block->gang_check) return true;
    if (!find(w, s, in, lane, address, false, &p)) return false;
    *t = vm_race_bytes(w, p.home, p.off);
    return true;
}

enum { DEADLOCK_POLLS = 1 << 16 };

/* ext: mode; mode2: arrive: 1 expect_tx first, wait: 1 parity, async: 1 noinc; mode3 noComplete; order 1 relaxed.
 * in->a address row (64 bits); in->b count, bytes, token or parity; in->c bytes of arrive.expect_tx; in->d token, or
 * predicate of a wait */
enum step op_mbarrier(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    const u64 *addr = row(s->frame, in->a);
    bool check = w->block->gang_check, waiting = false, late = false;
    const u8 *looked_at = NULL;
    if (x->mode == MBARRIER_PENDING_COUNT) {
        EACH_LANE(i, m)((u32 *)row(s->frame, in->d))[i] = (u32)(addr[i] & FIELD);
        return STEP_NEXT;
    }
    EACH_LANE(i, m) {
        struct place p;
        if (!find(w, s, in, i, addr[i], x->mode == MBARRIER_INIT, &p)) return STEP_FAULT;
        u64 v;
        memcpy(&v, p.at, 8);
        struct state b = unpack(v);
        bool token = x->mode == MBARRIER_WAIT && !x->mode2;
        u64 n = in->b == NO_ROW ? 1 : row_get(row(s->frame, in->b), i, token ? 8 : 4);
        switch (x->mode) {
        case MBARRIER_INIT:
            if (!n || n > FIELD)
                return vm_fault_at(w, s, in, (int)i, VM_ILLEGAL_INSTRUCTION, "bad mbarrier", addr[i], "a count of %u",
                                   (u32)n);
            b = (struct state){(u32)n, (u32)n, 0, 0};
            if (check) vm_race_mbarrier_init(w, p.home, p.off);
            break;
        case MBARRIER_INVAL:
            if (check && !vm_race_access(w, s, in, i, p.home, p.off, 8, ACCESS_STORE, false)) return STEP_FAULT;
            memset(p.at, 0, 8);
            continue;
        case MBARRIER_EXPECT:
            if (!count_bytes(w, s, in, i, addr[i], &b, (s64)n)) return STEP_FAULT;
            break;
        case MBARRIER_COMPLETE:
            if (!count_bytes(w, s, in, i, addr[i], &b, -(s64)n)) return STEP_FAULT;
            break;
        case MBARRIER_ARRIVE:
        case MBARRIER_DROP:
            if (x->mode2 && !count_bytes(w, s, in, i, addr[i], &b, ((const u32 *)row(s->frame, in->c))[i]))
                return STEP_FAULT;
            if (!n || n > b.pending)
                return vm_fault_at(w, s, in, (int)i, VM_LAUNCH_FAILED, "bad mbarrier", addr[i],
                                   "%u arrivals where %u of %u are missing", (u32)n, b.pending, b.expected);
            if (in->d != NO_ROW) ((u64 *)row(s->frame, in->d))[i] = v;
            if (check) vm_race_mbarrier_arrive(w, p.home, p.off, x->order == 1);
            if (x->mode == MBARRIER_DROP) b.expected -= (u32)n;
            b.pending -= (u32)n;
            if (x->mode3 && !b.pending && !b.tx) {
                bad(w, s, in, i, addr[i], "an arrival with .noComplete completes the phase");
                return STEP_FAULT;
            }
            break;
        case MBARRIER_ASYNC:
            if (check) {
                vm_async_land(w, 1u << i, UINT32_MAX, vm_race_bytes(w, p.home, p.off));
                vm_race_mbarrier_arrive(w, p.home, p.off, false);
            }
            if (x->mode2) { /* without .noinc the arrival has added itself to those that are missing */
                if (!b.pending) {
                    bad(w, s, in, i, addr[i], "an arrival where none is missing");
                    return STEP_FAULT;
                }
                b.pending--;
            }
            break;
        default: {
            u32 parity = x->mode2 ? (u32)n & 1 : (u32)(n >> 63);
            if (p.home != w->block) {
                bad(w, s, in, i, addr[i], "a wait for an mbarrier of another block");
                return STEP_FAULT;
            }
            if (check && looked_at != p.at) late = vm_race_mbarrier_late(w, p.home, p.off); /* the same for all lanes */
            looked_at = p.at;
            bool done = (b.phase ^ late) != parity;
            if (check && done && !late) vm_race_mbarrier_wait(w, i, p.home, p.off, x->order == 1);
            row_put(row(s->frame, in->d), i, 0, done);
            waiting |= !done;
            if (done) w->block->cluster->polls = 0;
            continue;
        }
        }
        if (x->mode == MBARRIER_EXPECT || x->mode == MBARRIER_INIT || (x->mode == MBARRIER_ASYNC && !x->mode2)) {
            v = pack(b);
            memcpy(p.at, &v, 8);
        } else {
            settle(w, &p, &b);
        }
    }
    if (!waiting) return STEP_NEXT;
    w->polling = true;
    if (++w->block->cluster->polls > DEADLOCK_POLLS)
        return vm_fault_at(w, s, in, __builtin_ctz(m), VM_LAUNCH_FAILED, "deadlock", addr[__builtin_ctz(m)],
                           "every warp waits, lanes 0x%08x here for a phase of an mbarrier that nobody completes", m);
    return STEP_YIELD;
}
