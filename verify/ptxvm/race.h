/* Stamps of the detector of races in shared memory (check.c), and its short way: a load of whole words that conflicts
 * with nothing. */
#ifndef KGEN_PTXVM_RACE_H
#define KGEN_PTXVM_RACE_H

#include "verify/ptxvm/machine.h"

/* A stamp: clock 32 | pending 1 | byte mask 4 | relaxed 1 | lane 6 (63: several) | warp + 1 of 8. 0: none. */
#define STAMP_SEVERAL (63ull << 8)
#define STAMP_ALL_BYTES (15ull << 15)
#define STAMP_PENDING (1ull << 19) /* an asynchronous copy that nobody has waited for */
#define STAMP_WARP_AND_CLOCK (0xffffffffull << 32 | 255)

static inline u64 stamp(const struct warp *w, u32 lane, u32 bytes, bool relaxed) {
    return (u64)w->clocks[w->id] << 32 | (u64)bytes << 15 | (u64)relaxed << 14 | (u64)lane << 8 | (w->id + 1);
}
static inline u32 stamp_warp(u64 t) {
    return (u32)(t & 255) - 1;
}
static inline u32 stamp_lane(u64 t) {
    return t >> 8 & 63;
}
static inline u32 stamp_bytes(u64 t) {
    return t >> 15 & 15;
}
static inline bool stamp_relaxed(u64 t) {
    return t >> 14 & 1;
}

/* The access with stamp t happened before what this lane does now. */
static inline bool stamp_ordered(const struct warp *w, u32 lane, u64 t) {
    u32 other = stamp_warp(t), clock = (u32)(t >> 32);
    if (t & STAMP_PENDING) return false;
    if (other != w->id) return w->clocks[other] >= clock;
    return clock < w->clocks[w->id] || stamp_lane(t) == lane;
}

/* Notes a read with stamp t of lane. */
static inline void race_note_read(struct race_word *r, u64 t, u32 line) {
    u64 old = r->read[0];
    if (old && !((old ^ t) & STAMP_WARP_AND_CLOCK)) {
        if (stamp_lane(old) != stamp_lane(t)) t |= STAMP_SEVERAL;
        t |= old & STAMP_ALL_BYTES;
    } else if (old && stamp_warp(old) != stamp_warp(t)) {
        r->read[1] = old;
        r->read_line[1] = r->read_line[0];
    }
    r->read[0] = t;
    r->read_line[0] = line;
}

/* An ordinary load of n whole words by a lane; own: stamp(w, 0, 15, false). False: a conflict, or nearly: see
 * vm_race_access. */
static inline bool race_load_words(const struct warp *w, struct race_word *r, u32 n, u32 lane, u64 own, u32 line) {
    for (u32 k = 0; k < n; k++, r++) {
        u64 old = r->read[0];
        u32 reader = stamp_lane(old);
        if ((old & ~STAMP_SEVERAL) == own && (reader == 63 || reader == lane)) continue; /* nothing new */
        if (r->write && !stamp_ordered(w, lane, r->write)) return false;
        race_note_read(r, own | (u64)lane << 8, line);
    }
    return true;
}

#endif
