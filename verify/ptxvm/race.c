/* Accesses as the detector of races sees them (race.h): the cells of shared memory and their conflicts. */
#include "verify/ptxvm/race.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ticket {
    u32 clock, actor, line;
    s32 lane; /* TICKET_OPEN: nobody has waited */
    const char *what;
};

/* Who accesses which memory how. */
struct accessor {
    struct warp *w;
    struct split *s;
    const struct insn *in;
    struct block *home;
    u32 lane, off; /* off: of the first byte */
    int access;
    u64 stamp; /* of a write */
    bool relaxed, proxy;
};

/* ---- memory of a block ---- */
static u32 words(const struct block *b) {
    return b->shared_bytes / 4 + 2;
}

bool vm_race_block(struct block *b, struct launch *l) {
    u32 n_words = l->shared_total / 4 + 2;
    b->n_cells = n_words * 5;
    b->races = calloc(b->n_cells, sizeof *b->races);
    b->reads = malloc((size_t)b->n_warps * b->n_cells * sizeof *b->reads);
    b->views = malloc(((size_t)b->n_warps * 3 + MAX_BARS) * l->view * sizeof *b->views);
    return b->races && b->reads && b->views;
}

void vm_race_block_free(struct block *b) {
    for (u32 i = 0; b->warps && i < b->n_warps; i++) {
        free(b->warps[i].flight);
        free(b->warps[i].tickets);
    }
    for (int i = 0; i < 16; i++) free(b->remote_reads[i]);
    free(b->races);
    free(b->reads);
    free(b->views);
}

void vm_race_reset(struct block *b) {
    u32 view = b->worker->launch->view;
    memset(b->races, 0, words(b) * sizeof *b->races);
    memset(b->views, 0, ((size_t)b->n_warps * 3 + MAX_BARS) * view * sizeof *b->views);
    b->flights = 0;
    u32 *at = b->views;
    for (u32 i = 0; i < b->n_warps; i++, at += 3 * (size_t)view) {
        struct warp *w = &b->warps[i];
        w->actor = b->rank * b->n_warps + i;
        w->clocks = at, w->fence = at + view, w->acquired = at + 2 * (size_t)view;
        w->clocks[w->actor] = w->synced = 1;
    }
    for (u32 i = 0; i < MAX_BARS; i++, at += view) b->bars[i].clocks = at;
}

/* A warp's reads of the cells of home; NULL: no memory, and nothing is noted. */
static u64 *reads_of(struct block *home, u32 actor) {
    u32 rank = actor / home->n_warps, id = actor % home->n_warps;
    if (rank == home->rank) return home->reads + (size_t)id * home->n_cells;
    if (!home->remote_reads[rank])
        home->remote_reads[rank] = malloc((size_t)home->n_warps * home->n_cells * sizeof(u64));
    u64 *all = home->remote_reads[rank];
    return all ? all + (size_t)id * home->n_cells : NULL;
}

/* ---- conflicts ---- */
static const char *who(char *out, size_t cap, const struct block *home, u32 actor, u32 lane) {
    u32 rank = actor / home->n_warps, id = actor % home->n_warps;
    int n = lane < 32 ? snprintf(out, cap, "thread %u", id * 32 + lane) : snprintf(out, cap, "threads of warp %u", id);
    if (rank != home->rank && n > 0 && (size_t)n < cap)
        snprintf(out + n, cap - (size_t)n, " of the cluster's block %u", rank);
    return out;
}

static bool conflict(const struct accessor *q, u32 at, const char *kind, const char *what) {
    vm_fault_at(q->w, q->s, q->in, (int)q->lane, VM_LAUNCH_FAILED, kind, at,
                "it %s%s what %s, nearest allocation shared memory of %u bytes",
                q->access == ACCESS_LOAD ? "reads" : "overwrites", q->proxy ? " through the async proxy" : "", what,
                q->home->shared_bytes);
    return false;
}

static bool conflict_with_write(const struct accessor *q, u32 at, const struct race_word *r) {
    char name[60], what[200];
    u64 t = r->write;
    if (t & (STAMP_ASYNC | STAMP_PENDING))
        snprintf(what, sizeof what, "is copied asynchronously at line %u and not waited for", r->write_line);
    else
        snprintf(what, sizeof what, "%s has written at line %u with no barrier between",
                 who(name, sizeof name, q->home, stamp_actor(t), stamp_lane(t)), r->write_line);
    return conflict(q, at, "shared-memory race", what);
}

static bool conflict_with_read(const struct accessor *q, u32 at, u32 actor, u64 t) {
    char name[60], what[200];
    snprintf(what, sizeof what, "%s has read at line %u with no barrier between",
             who(name, sizeof name, q->home, actor, t & 63), (u32)(t >> 7) & ((1u << RACE_LINE_BITS) - 1));
    return conflict(q, at, "shared-memory race", what);
}

/* The write conflicts with none of the reads since the last write; the ordered ones are forgotten. */
static bool no_reader(const struct accessor *q, u32 at, u32 cell, struct race_word *r) {
    struct block *home = q->home;
    u32 left = 0, base = home->rank * home->n_warps;
    EACH_LANE(id, r->readers) {
        u64 t = home->reads[(size_t)id * home->n_cells + cell];
        if (race_ordered(q->w, q->lane, base + id, (u32)(t >> 32), t & 63)) continue;
        if (!(q->relaxed && t & READ_RELAXED)) return conflict_with_read(q, at, base + id, t);
        left |= 1u << id;
    }
    r->readers = left;
    u16 others = 0;
    EACH_LANE(rank, r->remote)
    for (u32 id = 0; id < home->n_warps; id++) {
        u64 t = home->remote_reads[rank][(size_t)id * home->n_cells + cell];
        u32 actor = rank * home->n_warps + id;
        if (!t || race_ordered(q->w, q->lane, actor, (u32)(t >> 32), t & 63)) continue;
        if (!(q->relaxed && t & READ_RELAXED)) return conflict_with_read(q, at, actor, t);
        others |= (u16)(1u << rank);
    }
    r->remote = others;
    return true;
}

static void note_read(const struct accessor *q, u32 cell, struct race_word *r) {
    struct block *home = q->home;
    const struct warp *w = q->w;
    u64 t = read_stamp(w, q->lane, q->in->line, q->relaxed), *all = reads_of(home, w->actor);
    u32 rank = w->block->rank;
    if (!all) return;
    bool known;
    if (rank == home->rank) {
        known = r->readers >> w->id & 1;
        r->readers |= 1u << w->id;
    } else { /* the first of its block clears what the others of the block have left there long ago */
        if (!(r->remote >> rank & 1))
            for (u32 id = 0; id < home->n_warps; id++) home->remote_reads[rank][(size_t)id * home->n_cells + cell] = 0;
        known = all[cell] != 0;
        r->remote |= (u16)(1u << rank);
    }
    race_note_read(w, &all[cell], known, t);
}

/* Threads that store what is there already, like all that set one flag, disturb nobody. */
static bool same_value(const struct accessor *q, u32 at, u32 bytes) {
    const u8 *value = q->w->storing;
    return value && !memcmp(q->home->shared + at, value + (at - q->off), bytes);
}

/* at, bytes: what a cell stands for */
static bool touch(const struct accessor *q, u32 at, u32 bytes, u32 cell) {
    struct race_word *r = &q->home->races[cell];
    const struct warp *w = q->w;
    if (r->write && !stamp_ordered(w, q->lane, r->write) && !(q->relaxed && r->write & STAMP_RELAXED) &&
        !same_value(q, at, bytes))
        return conflict_with_write(q, at, r);
    if (q->access == ACCESS_LOAD) {
        if (!q->proxy) {
            note_read(q, cell, r);
        } else if (r->write && !(r->write & STAMP_ASYNC)) {
            u32 actor = stamp_actor(r->write);
            if (w->clocks[w->block->worker->launch->n_actors + actor] < r->write >> 32) {
                char name[60], what[200];
                snprintf(what, sizeof what, "%s has written at line %u with no fence.proxy.async between",
                         who(name, sizeof name, q->home, actor, stamp_lane(r->write)), r->write_line);
                return conflict(q, at, "missing proxy fence", what);
            }
        }
        return true;
    }
    if ((r->readers | r->remote) && !no_reader(q, at, cell, r)) return false;
    r->write = q->stamp;
    r->write_line = q->in->line;
    return true;
}

/* The asynchronous reads of the 16 bytes around at have been waited for. */
static bool no_flight(const struct accessor *q, u32 at) {
    struct block *home = q->home;
    EACH_LANE(id, home->flights) {
        struct warp *v = &home->warps[id];
        u32 n = v->flight[at / 16];
        if (!n || v->n_tickets - n >= N_TICKETS) continue;
        const struct ticket *t = &v->tickets[n % N_TICKETS];
        if (t->lane != TICKET_OPEN && race_ordered(q->w, q->lane, t->actor, t->clock, (u32)t->lane)) continue;
        char what[200];
        snprintf(what, sizeof what, "%s of warp %u at line %u may still read: it has not been waited for", t->what, id,
                 t->line);
        return conflict(q, at, "shared-memory race", what);
    }
    return true;
}

static void split(struct block *home, u32 word) {
    struct race_word *r = &home->races[word];
    u32 first = words(home) + 4 * word, per = home->n_cells;
    for (u32 k = 0; k < 4; k++) {
        home->races[first + k] = *r;
        EACH_LANE(id, r->readers) home->reads[(size_t)id * per + first + k] = home->reads[(size_t)id * per + word];
        EACH_LANE(rank, r->remote)
        for (u32 id = 0; id < home->n_warps; id++)
            home->remote_reads[rank][(size_t)id * per + first + k] = home->remote_reads[rank][(size_t)id * per + word];
    }
    *r = (struct race_word){.split = 1};
}

static bool touch_all(const struct accessor *q, u32 off, u32 bytes) {
    struct block *home = q->home;
    u32 first_byte = words(home), unit = UINT32_MAX;
    for (u32 at = off & ~3u; at < off + bytes; at += 4) {
        struct race_word *r = &home->races[at / 4];
        u32 from = at < off ? off - at : 0, to = off + bytes - at < 4 ? off + bytes - at : 4;
        bool whole = to - from == 4;
        if (q->access != ACCESS_LOAD && home->flights && at / 16 != unit) {
            unit = at / 16;
            if (!no_flight(q, at)) return false;
        }
        if (!whole && !r->split) split(home, at / 4);
        if (!r->split) {
            if (!touch(q, at, 4, at / 4)) return false;
            continue;
        }
        bool alone = true;
        for (u32 k = from; k < to; k++) {
            if (!touch(q, at + k, 1, first_byte + at + k)) return false;
            alone &= !home->races[first_byte + at + k].readers && !home->races[first_byte + at + k].remote;
        }
        if (whole && alone && q->access != ACCESS_LOAD) /* all of it is new: one cell again */
            *r = (struct race_word){.write = q->stamp, .write_line = q->in->line};
    }
    return true;
}

bool vm_race_access(struct warp *w, struct split *s, const struct insn *in, u32 lane, struct block *home, u32 off,
                    u32 bytes, int access, bool relaxed) {
    struct accessor q = {w, s, in, home, lane, off, access, stamp(w, lane, relaxed), relaxed, false};
    return touch_all(&q, off, bytes);
}

bool vm_race_async_write(struct warp *w, struct split *s, const struct insn *in, u32 lane, struct block *home, u32 off,
                         u32 bytes, u64 t) {
    struct accessor q = {w, s, in, home, lane, off, ACCESS_STORE, t, false, true};
    return touch_all(&q, off, bytes);
}

bool vm_race_async_read(struct warp *w, struct split *s, const struct insn *in, u32 lane, u32 off, u32 bytes,
                        u32 ticket) {
    struct block *b = w->block;
    struct accessor q = {w, s, in, b, lane, off, ACCESS_LOAD, 0, false, true};
    if (!touch_all(&q, off, bytes)) return false;
    if (!ticket) return true;
    if (!(b->flights >> w->id & 1)) {
        b->flights |= 1u << w->id;
        memset(w->flight, 0, ((size_t)b->shared_bytes / 16 + 2) * sizeof *w->flight);
    }
    for (u32 u = off / 16; u <= (off + bytes - 1) / 16; u++) w->flight[u] = ticket;
    return true;
}

/* ---- cp.async ---- */
void vm_race_pending(struct warp *w, u32 lane, u32 off, u32 bytes, u32 line) {
    for (u32 at = off; at < off + bytes; at += 4) {
        struct race_word *r = &w->block->races[at / 4];
        *r = (struct race_word){.write = stamp(w, lane, false) | STAMP_PENDING, .write_line = line};
    }
}
void vm_race_landed(struct warp *w, u32 off, u32 bytes, u64 onto) {
    for (u32 at = off; at < off + bytes; at += 4) {
        struct race_word *r = &w->block->races[at / 4];
        if (!r->split && r->write & STAMP_PENDING) r->write = onto;
    }
}

/* ---- tickets ---- */
u32 vm_race_ticket(struct warp *w, u32 line, const char *what) {
    if (!w->tickets) w->tickets = calloc(N_TICKETS, sizeof *w->tickets);
    if (!w->flight) w->flight = calloc((size_t)w->block->shared_bytes / 16 + 2, sizeof *w->flight);
    if (!w->tickets || !w->flight) return 0;
    if (!++w->n_tickets) w->n_tickets = 1;
    w->tickets[w->n_tickets % N_TICKETS] = (struct ticket){.line = line, .lane = TICKET_OPEN, .what = what};
    return w->n_tickets;
}
static struct ticket *ticket_at(struct warp *w, u32 n) {
    return n && w->tickets && w->n_tickets - n < N_TICKETS ? &w->tickets[n % N_TICKETS] : NULL;
}
void vm_race_ticket_close(struct warp *w, u32 ticket, u32 lane) {
    vm_race_ticket_to(w, ticket, stamp(w, lane, false));
}
void vm_race_ticket_to(struct warp *w, u32 ticket, u64 t) {
    struct ticket *k = ticket_at(w, ticket);
    if (k) k->actor = stamp_actor(t), k->clock = (u32)(t >> 32), k->lane = (s32)stamp_lane(t);
}
