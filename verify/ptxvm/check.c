/* The checker's findings, and the detector of races in shared memory.
 *
 * Races are found by happens-before: each warp has a clock for every warp of its block (what it has seen of them). An
 * access is stamped with the warp, its own clock and the lane; a later conflicting access by another warp must have
 * seen that clock, through a barrier, a fence with atomics, or an mbarrier. Within a warp, lanes are ordered by any
 * .sync instruction. One record holds a 32-bit word: its last write and its last two reads from different warps. */
#include "verify/ptxvm/mem_access.h"
#include "verify/ptxvm/race.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void vm_say(const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++)
        if (*p == '\n' || *p == '\r') *p = ' ';
    fprintf(stderr, "ptxvm: %s\n", text);
}

enum step vm_fault_at(struct warp *w, const struct split *s, const struct insn *in, int lane, int code,
                      const char *kind, u64 address, const char *fmt, ...) {
    struct launch *l = w->block->worker->launch;
    char detail[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    u32 *t[3] = {w->tid[0], w->tid[1], w->tid[2]};
    lane &= 31;
    pthread_mutex_lock(&l->lock);
    if (!l->fault.code || w->block->linear < atomic_load(&l->fault_block)) {
        struct vm_fault *f = &l->fault;
        f->code = code;
        f->line = in->line;
        f->address = address;
        for (int i = 0; i < 3; i++) f->block[i] = w->block->ctaid[i], f->thread[i] = t[i][lane];
        snprintf(f->kind, sizeof f->kind, "%s", kind);
        snprintf(f->text, sizeof f->text,
                 "%s: kernel %s, %s line %u, block (%u,%u,%u), thread (%u,%u,%u), address 0x%llx, %s", kind,
                 l->f->info.name, s->frame->code->module->file, in->line, f->block[0], f->block[1], f->block[2],
                 f->thread[0], f->thread[1], f->thread[2], (unsigned long long)address, detail);
        atomic_store(&l->fault_block, w->block->linear);
    }
    pthread_mutex_unlock(&l->lock);
    w->block->worker->fault = code;
    return STEP_FAULT;
}

/* ---- races ---- */
void vm_race_reset(struct block *b) {
    memset(b->races, 0, ((size_t)b->shared_bytes / 4 + 2) * sizeof *b->races);
    b->n_sync_clocks = 0;
}

/* Threads that store what is there already, like all that set one flag, disturb nobody. */
static bool same_value(const struct warp *w, const struct block *home, u32 off, u32 bytes) {
    return w->storing && !memcmp(home->shared + off, w->storing, bytes);
}

bool vm_race_access(struct warp *w, struct split *s, const struct insn *in, u32 lane, struct block *home, u32 off,
                    u32 bytes, int access, bool relaxed) {
    for (u32 at = off & ~3u; at < off + bytes; at += 4) {
        struct race_word *r = &home->races[at / 4];
        u32 from = at < off ? off - at : 0, to = off + bytes - at < 4 ? off + bytes - at : 4,
            m = ((1u << to) - 1) & ~((1u << from) - 1);
        u64 found = 0;
        u32 line = 0;
        const char *with = NULL;
        if (r->write && (stamp_bytes(r->write) & m) && !stamp_ordered(w, lane, r->write) &&
            !(relaxed && stamp_relaxed(r->write)) && !same_value(w, home, off, bytes)) {
            found = r->write, line = r->write_line;
            with = found & STAMP_PENDING ? "copied asynchronously and not waited for" : "written";
        }
        for (int k = 0; k < 2 && !found && access != ACCESS_LOAD; k++)
            if (r->read[k] && (stamp_bytes(r->read[k]) & m) && !stamp_ordered(w, lane, r->read[k]) &&
                !(relaxed && stamp_relaxed(r->read[k])))
                found = r->read[k], line = r->read_line[k], with = "read";
        if (found) {
            u32 other = stamp_warp(found), ol = stamp_lane(found);
            char who[40];
            if (ol < 32)
                snprintf(who, sizeof who, "thread %u", other * 32 + ol);
            else
                snprintf(who, sizeof who, "threads of warp %u", other);
            vm_fault_at(
                w, s, in, (int)lane, VM_LAUNCH_FAILED, "shared-memory race", at + from,
                "it %s what %s has %s at line %u with no barrier between, nearest allocation shared memory of %u bytes",
                access == ACCESS_LOAD ? "reads" : "overwrites", who, with, line, home->shared_bytes);
            return false;
        }
        u64 t = stamp(w, lane, m, relaxed);
        if (access != ACCESS_LOAD) {
            r->write = t;
            r->write_line = in->line;
        } else {
            race_note_read(r, t, in->line);
        }
    }
    return true;
}

static void join_clocks(u32 *to, const u32 *from) {
    for (u32 i = 0; i < MAX_WARPS; i++) to[i] = to[i] > from[i] ? to[i] : from[i];
}

void vm_race_barrier(struct block *b, struct barrier *bar) {
    u32 id = (u32)(bar - b->bars);
    for (u32 i = 0; i < b->n_warps; i++) {
        struct warp *w = &b->warps[i];
        bool waits = false;
        for (int k = 0; k < w->n_splits; k++) waits |= w->splits[k].state == SPLIT_BAR && w->splits[k].bar == id;
        if (!waits) continue;
        join_clocks(w->clocks, bar->clocks);
        w->clocks[i]++;
    }
}
void vm_race_warp_sync(struct warp *w) {
    w->clocks[w->id]++;
}

void vm_race_cluster(struct block *b) {
    u32 all[MAX_WARPS] = {0};
    for (u32 i = 0; i < b->n_warps; i++) join_clocks(all, b->warps[i].clocks);
    for (u32 i = 0; i < b->n_warps; i++) {
        join_clocks(b->warps[i].clocks, all);
        b->warps[i].clocks[i]++;
    }
}

/* Fences and atomics, as in the C++ memory model: a fence makes later relaxed writes release, and earlier relaxed reads
 * acquire. */
void vm_race_fence(struct warp *w) {
    join_clocks(w->clocks, w->acquired);
    memcpy(w->fence, w->clocks, sizeof w->fence);
    w->clocks[w->id]++;
}

struct sync_clock {
    u64 address;
    u32 clocks[MAX_WARPS];
};
static struct sync_clock *sync_at(struct block *b, u64 address) {
    for (u32 i = 0; i < b->n_sync_clocks; i++)
        if (b->sync_clocks[i].address == address) return &b->sync_clocks[i];
    if (b->n_sync_clocks == b->cap_sync_clocks) {
        if (b->cap_sync_clocks >= 256) { /* many addresses: an old one is forgotten, its order kept by all the rest */
            struct sync_clock *victim = &b->sync_clocks[address / 4 % 256];
            victim->address = address;
            return victim;
        }
        u32 cap = b->cap_sync_clocks ? b->cap_sync_clocks * 2 : 16;
        struct sync_clock *a = realloc(b->sync_clocks, cap * sizeof *a);
        if (!a) return NULL;
        b->sync_clocks = a;
        b->cap_sync_clocks = cap;
    }
    struct sync_clock *c = &b->sync_clocks[b->n_sync_clocks++];
    memset(c, 0, sizeof *c);
    c->address = address;
    return c;
}

/* order: 1 relaxed, 2 acquire, 4 release, 6 both */
void vm_race_atomic(struct warp *w, u64 address, int order) {
    struct sync_clock *c = sync_at(w->block, address);
    if (!c) return;
    if (order & 4) {
        join_clocks(c->clocks, w->clocks);
        w->clocks[w->id]++;
    } else {
        join_clocks(c->clocks, w->fence);
    }
    if (order & 2)
        join_clocks(w->clocks, c->clocks);
    else
        join_clocks(w->acquired, c->clocks);
}
void vm_race_order(struct warp *w, const u64 *addr, u32 m, int order) {
    u64 last = ~0ull; /* no address: 0 is one of shared memory */
    if (!w->block->gang_check) return;
    EACH_LANE(i, m) {
        if (addr[i] == last) continue;
        vm_race_atomic(w, last = addr[i], order);
    }
}

void vm_race_async(struct warp *w, u32 lane, u32 off, u32 bytes, u32 line) {
    for (u32 at = off & ~3u; at < off + bytes; at += 4) {
        w->block->races[at / 4].write = stamp(w, lane, 15, false) | STAMP_PENDING;
        w->block->races[at / 4].write_line = line;
    }
}
void vm_race_landed(struct warp *w, u32 lane, u32 off, u32 bytes) {
    for (u32 at = off & ~3u; at < off + bytes; at += 4) w->block->races[at / 4].write = stamp(w, lane, 15, false);
}
