/* race: the detector of races in shared memory, by happens-before.
 *
 * Actors are the warps of a cluster and, behind them, its mbarriers that count bytes. Each warp has a view: a clock for
 * every actor, how much of it the warp has seen, and, where a module uses the async proxy, a second half: how much of
 * that a proxy fence has made visible to it. Barriers, mbarriers, fences with atomics and cluster barriers join views
 * (race_order.c).
 *
 * A cell stands for a 32-bit word: its last write and every warp's last read since. A word that is accessed in parts
 * is split into four cells of a byte. A write is stamped with its actor and that actor's clock; who conflicts with it
 * must have seen that clock. Within a warp, lanes are ordered by any .sync instruction (`synced`: accesses before that
 * clock), or by what one has released and another acquired (`seen`).
 *
 * What runs asynchronously counts from its issue to the moment that somebody has waited for it:
 *   cp.async             its writes are pending until the copying thread's wait stamps them as written by that thread
 *   copies to shared memory that complete on an mbarrier: their writes are the mbarrier's, in the phase it is in
 *   reads of shared memory (bulk stores, wgmma's operands): a ticket for each 16 bytes, closed by the wait */
#ifndef KGEN_PTXVM_RACE_H
#define KGEN_PTXVM_RACE_H

#include "verify/ptxvm/machine.h"

enum { ASYNC_ACTORS = 64, RACE_LINE_BITS = 25, N_TICKETS = 1024, LANE_SEVERAL = 63, TICKET_OPEN = -1 };

struct race_word {
    u64 write; /* a stamp */
    u32 write_line;
    u32 readers; /* warps of the block that have read since */
    u16 remote;  /* ranks of other blocks whose warps have */
    u8 split;
};

/* A write's stamp: clock 32 | - 11 | async 1 | pending 1 | relaxed 1 | lane 6 | actor + 1 of 12. 0: none.
 * A read's:        clock 32 | line 25 | relaxed 1 | lane 6. */
#define STAMP_ASYNC (1ull << 20)   /* made by the async proxy */
#define STAMP_PENDING (1ull << 19) /* a cp.async that its thread has not waited for */
#define STAMP_RELAXED (1ull << 18)
#define READ_RELAXED (1ull << 6)
#define READ_KEY (0xffffffffull << 32 | READ_RELAXED)

static inline u64 stamp_of(u32 actor, u32 clock, u32 lane) {
    return (u64)clock << 32 | (u64)lane << 12 | (actor + 1);
}
static inline u64 stamp(const struct warp *w, u32 lane, bool relaxed) {
    return stamp_of(w->actor, w->clocks[w->actor], lane) | (relaxed ? STAMP_RELAXED : 0);
}
static inline u32 stamp_actor(u64 t) {
    return (u32)(t & 4095) - 1;
}
static inline u32 stamp_lane(u64 t) {
    return t >> 12 & 63;
}
static inline u64 read_stamp(const struct warp *w, u32 lane, u32 line, bool relaxed) {
    u32 last = (1u << RACE_LINE_BITS) - 1;
    return (u64)w->clocks[w->actor] << 32 | (u64)(line < last ? line : last) << 7 | (relaxed ? READ_RELAXED : 0) | lane;
}

/* What an actor did at a clock, in a lane of its, happened before what this lane of w does now. */
static inline bool race_ordered(const struct warp *w, u32 lane, u32 actor, u32 clock, u32 its_lane) {
    if (actor != w->actor) return w->clocks[actor] >= clock;
    return clock < w->synced || its_lane == lane || clock <= w->seen[lane & 31];
}
static inline bool stamp_ordered(const struct warp *w, u32 lane, u64 t) {
    return !(t & STAMP_PENDING) && race_ordered(w, lane, stamp_actor(t), (u32)(t >> 32), stamp_lane(t));
}

/* Notes a read of w's; mark: its bit in *readers, which says whether *last holds anything. */
static inline void race_note_read(const struct warp *w, u64 *last, bool known, u64 t) {
    if (known && *last >> 32 >= w->synced) {
        if ((*last ^ t) & 63) t |= LANE_SEVERAL;
        if (!(*last & READ_RELAXED)) t &= ~READ_RELAXED;
    }
    *last = t;
}

/* An ordinary load of n whole words of its own block by a lane; own: read_stamp(w, 0, line, false), last: the warp's
 * reads of these cells. False: a conflict, or nearly: see vm_race_access. */
static inline bool race_load_words(const struct warp *w, struct race_word *r, u64 *last, u32 n, u32 lane, u64 own) {
    u32 mark = 1u << w->id;
    u64 mine = own | lane;
    for (u32 k = 0; k < n; k++, r++, last++) {
        u64 old = *last, differ = old ^ mine;
        if (r->readers & mark && !(differ & READ_KEY)) { /* nothing new, but perhaps another lane */
            if (!(differ & 63) || (old & 63) == LANE_SEVERAL) continue;
            if (r->write >> 32 < w->synced || stamp_actor(r->write) != w->actor) {
                *last = old | LANE_SEVERAL;
                continue;
            }
        }
        if (r->split || (r->write && !stamp_ordered(w, lane, r->write))) return false;
        race_note_read(w, last, r->readers & mark, mine);
        r->readers |= mark;
    }
    return true;
}

/* ---- accesses (race.c). All are called with checks on only; false: a finding was recorded ---- */
bool vm_race_block(struct block *b, struct launch *l); /* memory for a new block; false: there is none */
void vm_race_block_free(struct block *b);
void vm_race_reset(struct block *b); /* a block starts: its warps' numbers must be set */
bool vm_race_access(struct warp *w, struct split *s, const struct insn *in, u32 lane, struct block *home, u32 off,
                    u32 bytes, int access, bool relaxed);
/* cp.async: pending from issue to landed; onto: the write it becomes, see vm_race_bytes, or stamp(). */
void vm_race_pending(struct warp *w, u32 lane, u32 off, u32 bytes, u32 line);
void vm_race_landed(struct warp *w, u32 off, u32 bytes, u64 onto);
/* A write of the async proxy, with a stamp of vm_race_bytes. */
bool vm_race_async_write(struct warp *w, struct split *s, const struct insn *in, u32 lane, struct block *home, u32 off,
                         u32 bytes, u64 t);
/* A read of the async proxy in the block's own memory: 16-byte units, under a ticket. */
bool vm_race_async_read(struct warp *w, struct split *s, const struct insn *in, u32 lane, u32 off, u32 bytes,
                        u32 ticket);
u32 vm_race_ticket(struct warp *w, u32 line, const char *what);  /* a new one, open; 0: no memory */
void vm_race_ticket_close(struct warp *w, u32 ticket, u32 lane); /* this lane has waited (LANE_SEVERAL: all) */
void vm_race_ticket_to(struct warp *w, u32 ticket, u64 t);       /* who has seen this stamp's clock has waited */

/* ---- order (race_order.c) ---- */
bool vm_race_cluster_new(struct cluster *c, const struct launch *l);
void vm_race_cluster_free(struct cluster *c);
void vm_race_arrive(struct warp *w, u32 *at); /* of a barrier: joins w's view into it */
void vm_race_barrier(struct block *b, struct barrier *bar);
void vm_race_warp_sync(struct warp *w); /* its lanes have met */
void vm_race_tick(struct warp *w);      /* what it does from now on is later than what others have seen of it */
void vm_race_fence(struct warp *w, u32 m, bool proxy);
void vm_race_order(struct warp *w, const u64 *addr, u32 m,
                   int order); /* atomics: 1 relaxed 2 acquire 4 release 6 both */
void vm_race_cluster_arrive(struct warp *w);
void vm_race_cluster_phase(struct cluster *c); /* a phase has ended */
void vm_race_cluster_wait(struct warp *w);
/* mbarriers: home and the offset in its shared memory */
void vm_race_mbarrier_init(struct warp *w, struct block *home, u32 off);
void vm_race_mbarrier_arrive(struct warp *w, struct block *home, u32 off, bool relaxed);
void vm_race_mbarrier_phase(struct warp *w, struct block *home, u32 off); /* a phase has ended */
u64 vm_race_bytes(struct warp *w, struct block *home, u32 off);           /* the stamp of what completes on it now */
/* Copies may be slow: a warp that looks for the first time since bytes have ended a phase, and has not heard of it
 * otherwise, may still find that phase in progress. */
bool vm_race_mbarrier_late(struct warp *w, struct block *home, u32 off);
/* A lane's wait has found its phase ended. */
void vm_race_mbarrier_wait(struct warp *w, u32 lane, struct block *home, u32 off, bool relaxed);

#endif
