/* Blocks: their memory, the turns of their warps, barriers of blocks and clusters. */
#include "verify/ptxvm/race.h"

#include <stdlib.h>
#include <string.h>

static u64 random_next(u64 *s) {
    *s += 0x9e3779b97f4a7c15ull;
    u64 z = *s;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

struct block *vm_cluster_block(struct block *b, u32 rank) {
    return rank < b->cluster->n_blocks ? b->cluster->blocks[rank] : NULL;
}

struct block *vm_block_new(struct gang *g, u64 linear) {
    struct worker *k = g->worker;
    struct launch *l = k->launch;
    struct block *b = k->spare;
    u32 n_threads = l->p.block[0] * l->p.block[1] * l->p.block[2], n_warps = (n_threads + 31) / 32;
    if (b) {
        k->spare = b->next_spare;
    } else {
        b = calloc(1, sizeof *b);
        if (!b) return NULL;
        b->warps = calloc(n_warps, sizeof *b->warps);
        b->shared = aligned_alloc(1024, ((size_t)l->shared_total + 2047) & ~(size_t)1023);
        b->n_warps = n_warps;
        if (l->check) b->shared_shadow = malloc((size_t)l->shared_total + 64);
        if (!b->warps || !b->shared || (l->check && (!b->shared_shadow || !vm_race_block(b, l)))) {
            vm_block_free(b);
            return NULL;
        }
    }
    b->gang = g;
    b->worker = k;
    b->linear = (u32)linear;
    b->gang_check = l->check;
    b->gang_count = l->count_memory;
    b->gang_depend = l->number != 0;
    b->waited = false;
    b->n_threads = n_threads;
    b->n_warps = b->live_warps = n_warps;
    b->shared_bytes = l->shared_total;
    b->done = false;
    u32 cx = l->cluster[0], cy = l->cluster[1], cz = l->cluster[2], per = cx * cy * cz;
    u64 cluster = linear / per;
    u32 r = (u32)(linear % per), gx = l->p.grid[0] / cx, gy = l->p.grid[1] / cy;
    b->rank = r;
    b->cluster_id[0] = (u32)(cluster % gx), b->cluster_id[1] = (u32)(cluster / gx % gy),
    b->cluster_id[2] = (u32)(cluster / gx / gy);
    b->cluster_ctaid[0] = r % cx, b->cluster_ctaid[1] = r / cx % cy, b->cluster_ctaid[2] = r / cx / cy;
    for (int d = 0; d < 3; d++) b->ctaid[d] = b->cluster_id[d] * l->cluster[d] + b->cluster_ctaid[d];
    memset(b->bars, 0, sizeof b->bars);
    memset(b->cluster_arrived, 0, sizeof b->cluster_arrived);
    memset(b->shared, 0xcd, l->shared_total);
    if (l->check) memcpy(b->shared_shadow, l->shadow, l->shared_total);
    for (u32 i = 0; i < n_warps; i++) {
        struct warp *w = &b->warps[i];
        u8 *local = w->local, *shadow = w->local_shadow;
        u32 stride = w->local_stride;
        struct async_copy *copies = w->copies;
        struct origin *origins = w->origins;
        int cap = w->cap_copies;
        u32 *flight = w->flight;
        struct ticket *tickets = w->tickets;
        struct flying *flying = w->flying;
        memset(w, 0, sizeof *w);
        w->local = local, w->local_shadow = shadow, w->local_stride = stride;
        w->copies = copies, w->cap_copies = cap;
        w->origins = origins;
        w->flight = flight, w->tickets = tickets, w->flying = flying;
        vm_flying_reset(w);
        w->block = b;
        w->id = i;
        w->first_thread = 32 * i;
        for (u32 t = 0; t < 32; t++) {
            u32 id = 32 * i + t;
            if (id < n_threads) w->live |= 1u << t;
            w->tid[0][t] = id % l->p.block[0];
            w->tid[1][t] = id / l->p.block[0] % l->p.block[1];
            w->tid[2][t] = id / l->p.block[0] / l->p.block[1];
        }
    }
    if (l->check) vm_race_reset(b);
    u64 rng = l->seed * 0x2545f4914f6cdd1dull + linear;
    for (u32 i = 0; i < n_warps; i++) b->order[i] = (u8)i;
    if (l->seed)
        for (u32 i = n_warps; i > 1; i--) {
            u32 j = (u32)(random_next(&rng) % i);
            u8 t = b->order[i - 1];
            b->order[i - 1] = b->order[j];
            b->order[j] = t;
        }
    for (u32 i = 0; i < n_warps; i++) vm_warp_start(&b->warps[i]);
    k->counters.blocks++;
    k->counters.warps += n_warps;
    return b;
}

void vm_block_free(struct block *b) {
    if (!b) return;
    vm_race_block_free(b);
    for (u32 i = 0; b->warps && i < b->n_warps; i++) {
        free(b->warps[i].local);
        free(b->warps[i].local_shadow);
        free(b->warps[i].copies);
        free(b->warps[i].origins);
        vm_flying_free(&b->warps[i]);
    }
    free(b->warps);
    free(b->shared);
    free(b->shared_shadow);
    free(b);
}

void vm_block_release(struct worker *k) {
    while (k->spare) {
        struct block *b = k->spare;
        k->spare = b->next_spare;
        vm_block_free(b);
    }
    while (k->free_frames) {
        struct frame *f = k->free_frames;
        k->free_frames = f->next_free;
        free(f->undefined);
        free(f);
    }
}

/* ---- barriers ---- */
static bool complete(const struct block *b, const struct barrier *bar) {
    u32 count = 0;
    bool all = true;
    if (!bar->used) return false;
    for (u32 i = 0; i < b->n_warps; i++) {
        const struct warp *w = &b->warps[i];
        u32 here = bar->arrived[i];
        if (!w->live)
            count += here ? 32 : 0;
        else if ((here & w->live) == w->live)
            count += 32;
        else
            count += lanes(here), all = false;
    }
    return bar->expected ? count >= bar->expected : all;
}

/* A barrier of all threads lets its warps go, but some have passed it by. */
static void missed(struct block *b, const struct barrier *bar, u32 id) {
    for (u32 i = 0; i < b->n_warps && !bar->expected; i++)
        for (int k = 0; k < b->warps[i].n_splits; k++) {
            struct split *s = &b->warps[i].splits[k];
            if (s->state != SPLIT_BAR || s->bar != id) continue;
            for (u32 j = 0; j < b->n_warps; j++) {
                const struct warp *w = &b->warps[j];
                u32 away = passed_by(w, s, ~bar->arrived[j]);
                if (!w->live && !bar->arrived[j] && w->barrier_at == kernel_at(s)) away = 1; /* came, but less often */
                if (!away) continue;
                vm_fault_at(&b->warps[i], s, &s->frame->code->insns[s->pc], __builtin_ctz(s->mask), VM_LAUNCH_FAILED,
                            "divergent barrier", 0, "thread %u has ended and did not come to it",
                            j * 32 + (u32)__builtin_ctz(away));
                return;
            }
            return; /* one waiting split speaks for all */
        }
}

bool vm_barriers(struct block *b) {
    bool moved = false;
    for (u32 id = 0; id < MAX_BARS; id++) {
        struct barrier *bar = &b->bars[id];
        if (!complete(b, bar)) continue;
        moved = true;
        if (b->gang_check) missed(b, bar, id), vm_race_barrier(b, bar);
        if (b->waited) /* one thread has waited for the grids before: the barrier hands that on */
            for (u32 i = 0; i < b->n_warps; i++) b->warps[i].waited = ~0u;
        for (u32 i = 0; i < b->n_warps; i++)
            for (int k = 0; k < b->warps[i].n_splits; k++) {
                struct split *s = &b->warps[i].splits[k];
                if (s->state != SPLIT_BAR || s->bar != id) continue;
                s->state = SPLIT_RUN;
                s->ready = 1;
                const struct ext *x = s->frame->code->insns[s->pc].ext;
                s->red = x->mode2 == 1 ? bar->red_pop : x->mode2 == 2 ? !bar->red_and : bar->red_or;
            }
        *bar = (struct barrier){.clocks = bar->clocks};
    }
    return moved;
}

/* bar and barrier. ext: mode 0 sync 1 arrive; mode2 reduction: 0 none 1 popc 2 and 3 or; mode3 aligned. in->a: number,
 * in->b: threads or NO_ROW, in->c: predicate of a reduction (imm 1: negated) */
enum step op_bar(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    struct block *b = w->block;
    if (s->ready) {
        s->ready = 0;
        if (x->mode2 == 1)
            EACH_LANE(i, mask)((u32 *)row(s->frame, in->d))[i] = s->red;
        else if (x->mode2) {
            u32 *p = row(s->frame, in->d);
            *p = (*p & ~mask) | (s->red ? mask : 0);
        }
        return STEP_NEXT;
    }
    u32 first = (u32)__builtin_ctz(mask);
    if (mask != s->mask && x->mode3)
        if (b->gang_check)
            return vm_fault_at(w, s, in, (int)first, VM_LAUNCH_FAILED, "divergent barrier", 0,
                               "only lanes 0x%08x of 0x%08x execute it", mask, s->mask);
    u32 id = ((const u32 *)row(s->frame, in->a))[first],
        threads = in->b == NO_ROW ? 0 : ((const u32 *)row(s->frame, in->b))[first];
    if (id >= MAX_BARS)
        return vm_fault_at(w, s, in, (int)first, VM_LAUNCH_FAILED, "bad barrier", id, "barrier %u of 16", id);
    if (threads % 32)
        return vm_fault_at(w, s, in, (int)first, VM_LAUNCH_FAILED, "bad barrier", id, "%u threads is no multiple of 32",
                           threads);
    struct barrier *bar = &b->bars[id];
    b->worker->counters.barriers++;
    if (!threads) w->barrier_at = kernel_at(s);
    if (bar->arrived[w->id] & mask)
        return vm_fault_at(w, s, in, (int)first, VM_LAUNCH_FAILED, "bad barrier", id,
                           "a thread arrives twice at barrier %u", id);
    if (!bar->used) bar->red_and = bar->red_or = bar->red_pop = 0;
    bar->arrived[w->id] |= mask;
    bar->used = true;
    bar->expected = threads;
    bar->line = in->line;
    if (b->gang_check) vm_race_arrive(w, bar->clocks);
    if (x->mode2) {
        u32 p = *(const u32 *)row(s->frame, in->c) ^ (in->imm ? ~0u : 0);
        bar->red_pop += lanes(p & mask);
        bar->red_or |= p & mask ? 1 : 0;
        bar->red_and |= ~p & mask ? 1 : 0; /* somebody said no */
    }
    if (x->mode == 1) { /* arrive: go on */
        if (b->gang_check) vm_race_tick(w);
        vm_barriers(b);
        return STEP_NEXT;
    }
    if (mask != s->mask) { /* not aligned, guarded: the others pass by */
        u32 masks[2] = {s->mask & ~mask, mask}, pcs[2] = {s->pc + 1, s->pc};
        bar->arrived[w->id] &= ~mask;
        return vm_diverge(w, s, 2, masks, pcs, NO_TARGET);
    }
    s->state = SPLIT_BAR;
    s->bar = (u8)id;
    vm_barriers(b);
    return b->worker->fault ? STEP_FAULT : STEP_WAIT;
}

/* The lanes of a blocked warp that wait at one aligned barrier must be all its lanes. */
static bool divergent_barrier(struct warp *w) {
    for (int k = 0; k < w->n_splits; k++) {
        struct split *s = &w->splits[k];
        if (s->state != SPLIT_BAR) continue;
        const struct insn *in = &s->frame->code->insns[s->pc];
        const struct ext *x = in->ext;
        if (!x->mode3) continue;
        u32 together = 0;
        for (int j = 0; j < w->n_splits; j++)
            if (w->splits[j].state == SPLIT_BAR && w->splits[j].pc == s->pc && w->splits[j].frame == s->frame)
                together |= w->splits[j].mask;
        if (together == w->live) continue;
        vm_fault_at(w, s, in, __builtin_ctz(s->mask), VM_LAUNCH_FAILED, "divergent barrier", 0,
                    "lanes 0x%08x wait at it, lanes 0x%08x of their warp are elsewhere", together, w->live & ~together);
        return true;
    }
    return false;
}

/* ---- cluster barriers: mode 0 arrive, 1 wait; mode3 aligned; order 1: relaxed ---- */
static void cluster_check(struct cluster *c) {
    for (u32 i = 0; i < c->n_blocks; i++) {
        struct block *b = c->blocks[i];
        if (!b || b->done) continue;
        for (u32 k = 0; k < b->n_warps; k++)
            if ((b->cluster_arrived[k] & b->warps[k].live) != b->warps[k].live) return;
    }
    c->phase++;
    for (u32 i = 0; i < c->n_blocks; i++) {
        struct block *b = c->blocks[i];
        if (!b) continue;
        memset(b->cluster_arrived, 0, sizeof b->cluster_arrived);
    }
    if (c->race) vm_race_cluster_phase(c);
}
enum step op_cluster_bar(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    struct cluster *c = w->block->cluster;
    if (x->mode == 0) {
        w->block->worker->counters.barriers++;
        w->block->cluster_arrived[w->id] |= mask;
        w->cluster_phase = c->phase;
        if (c->race && x->order != 1) vm_race_cluster_arrive(w);
        cluster_check(c);
        return STEP_NEXT;
    }
    if (c->phase != w->cluster_phase) {
        if (c->race) vm_race_cluster_wait(w);
        return STEP_NEXT;
    }
    s->state = SPLIT_CLUSTER;
    return STEP_WAIT;
}

/* ---- turns ---- */
enum { WARP_TURN = 1 << 15 };

int vm_block_turn(struct block *b, s64 *steps) {
    bool progress = false;
    for (u32 k = 0; k < b->n_warps; k++) {
        struct warp *w = &b->warps[b->order[k]];
        if (w->done) continue;
        for (int i = 0; i < w->n_splits; i++)
            if (w->splits[i].state == SPLIT_CLUSTER && b->cluster->phase != w->cluster_phase)
                w->splits[i].state = SPLIT_RUN;
        s64 turn = WARP_TURN, before = turn;
        w->polling = false;
        enum run r = vm_warp_run(w, &turn);
        *steps -= before - turn;
        if (turn != before) progress = true;
        if (turn != before && !w->polling) b->cluster->polls = 0;
        if (r == RUN_FAULT) return 2;
        if (r == RUN_DONE || (w->done && r == RUN_BLOCKED)) {
            w->done = true;
            progress = true;
            b->live_warps--;
            vm_barriers(b);
            cluster_check(b->cluster);
            if (b->worker->fault) return 2;
        } else if (r == RUN_BLOCKED && b->gang_check && divergent_barrier(w)) {
            return 2;
        }
    }
    if (!b->live_warps) b->done = true;
    if (!progress && vm_barriers(b)) progress = true;
    return progress;
}
