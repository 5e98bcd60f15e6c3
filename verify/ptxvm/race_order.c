/* What orders accesses for the detector of races (race.h): barriers, fences with atomics, cluster barriers, mbarriers.
 */
#include "verify/ptxvm/race.h"

#include <stdlib.h>
#include <string.h>

enum { N_ADDRESSES = 256 };

/* An mbarrier. Arrivals of the phase in progress are kept apart: who waits for the last phase has not seen them. */
struct mbarrier {
    u64 key;
    u32 actor;            /* 0: it has never counted bytes */
    u32 phase_with_bytes; /* the actor's clock when bytes last took part in a phase */
    bool bytes;           /* they do in this one */
    u32 *arrived, *done;  /* views */
    u32 *refused;         /* by warp of the cluster: the clock for which it has been told to come again */
    struct mbarrier *next;
};

struct race {
    u32 n_warps, n_actors, view, n_async; /* warps of the cluster; actors; of a view; async actors in use */
    u32 *async_clocks;
    u32 *cluster_views; /* two phases' */
    struct mbarrier *mbarriers;
    u64 *addresses; /* of atomics, and their views: a table by hash that forgets */
    u32 *address_views;
};

bool vm_race_cluster_new(struct cluster *c, const struct launch *l) {
    struct race *r = c->race = calloc(1, sizeof *r);
    if (!r) return false;
    u32 threads = l->p.block[0] * l->p.block[1] * l->p.block[2];
    r->n_warps = c->n_blocks * ((threads + 31) / 32);
    r->n_actors = l->n_actors;
    r->view = l->view;
    r->cluster_views = calloc(2 * (size_t)r->view + r->n_actors - r->n_warps, sizeof(u32));
    r->async_clocks = r->cluster_views + 2 * (size_t)r->view;
    return r->cluster_views;
}

void vm_race_cluster_free(struct cluster *c) {
    struct race *r = c->race;
    if (!r) return;
    while (r->mbarriers) {
        struct mbarrier *m = r->mbarriers;
        r->mbarriers = m->next;
        free(m->arrived);
        free(m);
    }
    free(r->cluster_views);
    free(r->addresses);
    free(r->address_views);
    free(r);
}

static void join(u32 *to, const u32 *from, u32 n) {
    for (u32 i = 0; i < n; i++) to[i] = to[i] > from[i] ? to[i] : from[i];
}
static u32 view_of(const struct warp *w) {
    return w->block->cluster->race->view;
}
static void tick(struct warp *w) {
    w->clocks[w->actor]++;
}
static void sync_lanes(struct warp *w) {
    w->synced = ++w->clocks[w->actor];
}
/* A lane of w acquires a view. */
static void acquire(struct warp *w, u32 lane, const u32 *view, u32 n) {
    if (view[w->actor] > w->seen[lane]) w->seen[lane] = view[w->actor];
    join(w->clocks, view, n);
}

/* ---- barriers of a block and of a warp ---- */
void vm_race_arrive(struct warp *w, u32 *at) {
    join(at, w->clocks, view_of(w));
}
void vm_race_barrier(struct block *b, struct barrier *bar) {
    u32 id = (u32)(bar - b->bars), view = b->cluster->race->view;
    for (u32 i = 0; i < b->n_warps; i++) {
        struct warp *w = &b->warps[i];
        bool waits = false;
        for (int k = 0; k < w->n_splits; k++) waits |= w->splits[k].state == SPLIT_BAR && w->splits[k].bar == id;
        if (!waits) continue;
        join(w->clocks, bar->clocks, view);
        sync_lanes(w);
    }
    memset(bar->clocks, 0, view * sizeof *bar->clocks);
}
void vm_race_tick(struct warp *w) {
    tick(w);
}
void vm_race_warp_sync(struct warp *w) {
    sync_lanes(w);
}

/* ---- fences and atomics, as in the C++ memory model: a fence makes later relaxed writes release, and earlier relaxed
 * reads acquire ---- */
void vm_race_fence(struct warp *w, u32 m, bool proxy) {
    u32 view = view_of(w), n = w->block->cluster->race->n_actors;
    EACH_LANE(i, m) acquire(w, i, w->acquired, view);
    if (proxy && view > n) memcpy(w->clocks + n, w->clocks, n * sizeof *w->clocks);
    memcpy(w->fence, w->clocks, view * sizeof *w->fence);
    tick(w);
}

static u32 *address_view(struct race *r, u64 address) {
    if (!r->addresses) {
        r->addresses = calloc(N_ADDRESSES, sizeof *r->addresses);
        r->address_views = calloc((size_t)N_ADDRESSES * r->view, sizeof *r->address_views);
        if (!r->addresses || !r->address_views) return NULL;
    }
    u32 at = (u32)((address * 0x9e3779b97f4a7c15ull) >> 56);
    for (u32 k = 0; k < N_ADDRESSES; k++) {
        u32 i = (at + k) % N_ADDRESSES;
        if (r->addresses[i] == address || !r->addresses[i]) {
            r->addresses[i] = address;
            return r->address_views + (size_t)i * r->view;
        }
    }
    r->addresses[at] = address; /* many addresses: an old one is forgotten, its order kept with the new one's */
    return r->address_views + (size_t)at * r->view;
}

static void atomic(struct warp *w, u32 lane, u64 address, int order) {
    struct race *r = w->block->cluster->race;
    u32 *at = address_view(r, address);
    if (!at) return;
    if (order & 4) {
        join(at, w->clocks, r->view);
        tick(w);
    } else {
        join(at, w->fence, r->view);
    }
    if (order & 2)
        acquire(w, lane, at, r->view);
    else
        join(w->acquired, at, r->view);
}
void vm_race_order(struct warp *w, const u64 *addr, u32 m, int order) {
    u64 last = 0;
    u32 before = 0;
    if (!w->block->gang_check) return;
    EACH_LANE(i, m) {
        u64 a = addr[i];
        if (a - VM_SHARED_WINDOW < VM_WINDOW_BYTES) a -= VM_SHARED_WINDOW;
        if (a < 1u << VM_RANK_SHIFT)
            a |= (u64)(w->block->rank + 1) << VM_RANK_SHIFT; /* the same for the whole cluster */
        if (a != last)
            atomic(w, i, a, order);
        else if (order & 2) /* as the lane before it */
            w->seen[i] = w->seen[before];
        last = a, before = i;
    }
}

/* ---- cluster barriers: a warp that waits for a phase has ended it before it arrives at the one after the next ---- */
void vm_race_cluster_arrive(struct warp *w) {
    const struct cluster *c = w->block->cluster;
    join(c->race->cluster_views + (size_t)(c->phase & 1) * c->race->view, w->clocks, c->race->view);
    tick(w);
}
void vm_race_cluster_phase(struct cluster *c) { /* c->phase is the new one */
    memset(c->race->cluster_views + (size_t)(c->phase & 1) * c->race->view, 0, c->race->view * sizeof(u32));
}
void vm_race_cluster_wait(struct warp *w) {
    const struct cluster *c = w->block->cluster;
    join(w->clocks, c->race->cluster_views + (size_t)(w->cluster_phase & 1) * c->race->view, c->race->view);
    sync_lanes(w);
}

/* ---- mbarriers ---- */
static struct mbarrier *mbarrier_at(struct race *r, const struct block *home, u32 off) {
    u64 key = (u64)home->rank << 32 | off;
    for (struct mbarrier *m = r->mbarriers; m; m = m->next)
        if (m->key == key) return m;
    struct mbarrier *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->key = key;
    m->arrived = calloc(2 * (size_t)r->view + r->n_warps, sizeof(u32));
    if (!m->arrived) {
        free(m);
        return NULL;
    }
    m->done = m->arrived + r->view;
    m->refused = m->done + r->view;
    m->next = r->mbarriers;
    return r->mbarriers = m;
}
static u32 *clock_of(struct race *r, const struct mbarrier *m) {
    return &r->async_clocks[m->actor - r->n_warps];
}

void vm_race_mbarrier_init(struct warp *w, struct block *home, u32 off) {
    struct race *r = w->block->cluster->race;
    struct mbarrier *m = mbarrier_at(r, home, off);
    if (!m) return;
    memset(m->arrived, 0, (2 * (size_t)r->view + r->n_warps) * sizeof(u32));
    m->bytes = false, m->phase_with_bytes = 0;
}

void vm_race_mbarrier_arrive(struct warp *w, struct block *home, u32 off, bool relaxed) {
    struct mbarrier *m = relaxed ? NULL : mbarrier_at(w->block->cluster->race, home, off);
    if (!m) return;
    join(m->arrived, w->clocks, view_of(w));
    tick(w);
}

u64 vm_race_bytes(struct warp *w, struct block *home, u32 off) {
    struct race *r = w->block->cluster->race;
    struct mbarrier *m = mbarrier_at(r, home, off);
    if (!m || r->n_actors == r->n_warps) return STAMP_ASYNC | stamp(w, LANE_SEVERAL, false);
    if (!m->actor) { /* more mbarriers than actors share them: a wait for one may then count for another */
        m->actor = r->n_warps + r->n_async % (r->n_actors - r->n_warps);
        r->n_async++;
    }
    m->bytes = true;
    return STAMP_ASYNC | stamp_of(m->actor, *clock_of(r, m) + 1, LANE_SEVERAL);
}

void vm_race_mbarrier_phase(struct warp *w, struct block *home, u32 off) {
    struct race *r = w->block->cluster->race;
    struct mbarrier *m = mbarrier_at(r, home, off);
    if (!m) return;
    join(m->done, m->arrived, r->view);
    memset(m->arrived, 0, r->view * sizeof *m->arrived);
    if (m->actor) {
        m->done[m->actor] = ++*clock_of(r, m);
        if (m->bytes) m->phase_with_bytes = m->done[m->actor];
    }
    m->bytes = false;
}

bool vm_race_mbarrier_late(struct warp *w, struct block *home, u32 off) {
    struct mbarrier *m = mbarrier_at(w->block->cluster->race, home, off);
    if (!m || !m->actor || m->phase_with_bytes != m->done[m->actor] || w->clocks[m->actor] >= m->phase_with_bytes ||
        m->refused[w->actor] == m->phase_with_bytes)
        return false;
    m->refused[w->actor] = m->phase_with_bytes;
    return true;
}

void vm_race_mbarrier_wait(struct warp *w, u32 lane, struct block *home, u32 off, bool relaxed) {
    struct mbarrier *m = relaxed ? NULL : mbarrier_at(w->block->cluster->race, home, off);
    if (m) acquire(w, lane, m->done, view_of(w));
}
