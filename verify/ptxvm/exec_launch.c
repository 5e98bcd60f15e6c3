/* Launches: the arguments, the gangs of blocks and the threads that run them, the first fault. */
#include "verify/ptxvm/race.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t launching = PTHREAD_MUTEX_INITIALIZER;

struct vm_settings *vm_settings(void) {
    static struct vm_settings s;
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    static bool ready;
    pthread_mutex_lock(&once);
    if (!ready) {
        const char *mode = getenv("KGEN_PTXVM"), *seed = getenv("KGEN_PTXVM_SEED"), *sm = getenv("KGEN_PTXVM_SM"),
                   *threads = getenv("KGEN_PTXVM_THREADS");
        s.check = !(mode && !strcmp(mode, "fast"));
        s.leaks = mode && !strcmp(mode, "leaks");
        s.seed = seed ? strtoull(seed, NULL, 0) : 0;
        s.report = getenv("KGEN_PTXVM_REPORT");
        if (s.report && !*s.report) s.report = NULL;
        s.launches = getenv("KGEN_PTXVM_LAUNCHES");
        if (s.launches && !*s.launches) s.launches = NULL;
        s.count_memory = s.report || s.launches;
        s.sm = sm ? atoi(sm) : 120;
        if (s.sm < 70 || s.sm > 121) s.sm = 120;
        long n = threads ? atol(threads) : sysconf(_SC_NPROCESSORS_ONLN);
        s.threads = n < 1 ? 1 : n > 64 ? 64 : (int)n;
        ready = true;
    }
    pthread_mutex_unlock(&once);
    return &s;
}

static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

/* Puts a frame and its callers on the free list; live says whether one is there already. */
static void frames_free(struct worker *k, struct frame *f) {
    for (; f; f = f->caller) {
        if (!f->live) continue;
        f->live = 0;
        f->next_free = k->free_frames;
        k->free_frames = f;
    }
}

static void gang_free(struct gang *g) {
    if (!g) return;
    for (u32 i = 0; g->blocks && i < g->n_blocks; i++) {
        struct block *b = g->blocks[i];
        if (!b) continue;
        for (u32 k = 0; k < b->n_warps; k++) { /* frames of warps that a fault ended */
            struct warp *w = &b->warps[k];
            for (int s = 0; s < w->n_splits; s++) frames_free(g->worker, w->splits[s].frame);
            for (int j = 0; j < w->n_joins; j++)
                if (w->joins[j].used) frames_free(g->worker, w->joins[j].frame);
        }
        b->next_spare = g->worker->spare;
        g->worker->spare = b;
    }
    for (u32 i = 0; g->clusters && i < g->n_clusters; i++) vm_race_cluster_free(&g->clusters[i]);
    free(g->blocks);
    free(g->clusters);
    free(g);
}

static struct gang *gang_new(struct worker *k, u64 number) {
    struct launch *l = k->launch;
    u32 n = (u32)l->blocks_per_gang, per = l->cluster[0] * l->cluster[1] * l->cluster[2];
    struct gang *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->worker = k;
    g->n_blocks = g->left = n;
    g->n_clusters = n / per;
    g->first_block = number * n;
    g->blocks = calloc(n, sizeof *g->blocks);
    g->clusters = calloc(g->n_clusters, sizeof *g->clusters);
    bool ok = g->blocks && g->clusters;
    for (u32 i = 0; ok && i < n; i++) {
        g->blocks[i] = vm_block_new(g, g->first_block + i);
        if (!g->blocks[i])
            ok = false;
        else
            g->blocks[i]->cluster = &g->clusters[i / per];
    }
    for (u32 c = 0; ok && c < g->n_clusters; c++) {
        g->clusters[c] = (struct cluster){.blocks = g->blocks + (size_t)c * per, .n_blocks = per};
        if (l->check && !vm_race_cluster_new(&g->clusters[c], l)) ok = false;
    }
    if (!ok) {
        gang_free(g);
        return NULL;
    }
    return g;
}

static void stuck(struct gang *g) {
    for (u32 i = 0; i < g->n_blocks; i++) {
        struct block *b = g->blocks[i];
        if (b->done) continue;
        for (u32 k = 0; k < b->n_warps; k++) {
            struct warp *w = &b->warps[k];
            if (w->done || !w->n_splits) continue;
            struct split *s = &w->splits[0];
            vm_fault_at(w, s, &s->frame->code->insns[s->pc], __builtin_ctz(s->mask), VM_LAUNCH_FAILED, "deadlock", 0,
                        "every warp of the block waits: lanes 0x%08x here for ever", s->mask);
            return;
        }
    }
}

/* Runs a gang for about so many instructions. 0: it wants more, 1: it has ended, 2: a fault. */
static int gang_run(struct gang *g, s64 slice) {
    struct launch *l = g->worker->launch;
    while (g->left) {
        bool progress = false;
        s64 before = slice;
        for (u32 i = 0; i < g->n_blocks; i++) {
            struct block *b = g->blocks[i];
            if (b->done) continue;
            int r = vm_block_turn(b, &slice);
            if (r == 2) return 2;
            if (r) progress = true;
            if (b->done) g->left--;
        }
        if (vm_settings()->max_instructions && atomic_fetch_sub(&l->steps_left, before - slice) < before - slice) {
            pthread_mutex_lock(&l->lock);
            if (!l->fault.code) {
                l->fault.code = 702;
                snprintf(l->fault.kind, sizeof l->fault.kind, "timeout");
                atomic_store(&l->fault_block, 0);
            }
            pthread_mutex_unlock(&l->lock);
            return 2;
        }
        if (!progress && g->left) {
            stuck(g);
            return 2;
        }
        if (slice <= 0) return g->left ? 0 : 1;
    }
    return 1;
}

enum { SLICE = 1 << 22, MAX_ACTIVE = 64 };

static void *work(void *arg) {
    struct worker *k = arg;
    struct launch *l = k->launch;
    struct gang *active[MAX_ACTIVE];
    int n = 0;
    bool more = true;
    k->fp = -1;
    while (more || n) {
        if (more && n < MAX_ACTIVE) { /* another gang starts when none is left, or those that run are slow: they may
                                         wait for it */
            u64 number = atomic_fetch_add(&l->next_gang, 1);
            if (number >= l->n_gangs || number * l->blocks_per_gang > atomic_load(&l->fault_block))
                more = false;
            else if ((active[n] = gang_new(k, number)))
                n++;
            else {
                pthread_mutex_lock(&l->lock);
                if (!l->fault.code) l->fault.code = VM_OUT_OF_MEMORY;
                atomic_store(&l->fault_block, 0);
                pthread_mutex_unlock(&l->lock);
                more = false;
            }
        }
        for (int i = 0; i < n;) {
            struct gang *g = active[i];
            int r = g->first_block > atomic_load(&l->fault_block) ? 1 : gang_run(g, SLICE);
            if (!r) {
                i++;
                continue;
            }
            gang_free(g);
            for (int j = i; j + 1 < n; j++) active[j] = active[j + 1];
            n--;
        }
    }
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(0x1f80);
#endif
    return NULL;
}

static int bad_arguments(struct vm_function *f, const struct vm_launch_params *p) {
    u64 threads = 1;
    for (int i = 0; i < 3; i++) {
        if (!p->grid[i] || !p->block[i]) return VM_INVALID_VALUE;
        if (p->block[i] > 1024) return VM_INVALID_VALUE;
        threads *= p->block[i];
    }
    if (p->grid[0] > INT32_MAX || p->grid[1] > 65535 || p->grid[2] > 65535 || p->block[2] > 64) return VM_INVALID_VALUE;
    if (threads > 1024 || threads > f->info.max_threads) return VM_INVALID_VALUE;
    if (f->info.reqntid[0] && memcmp(f->info.reqntid, p->block, sizeof p->block)) return VM_INVALID_VALUE;
    if (f->shared_layout + p->dynamic_shared > 256u << 10) return VM_INVALID_VALUE;
    if (p->param_bytes < f->info.param_bytes) return VM_INVALID_VALUE;
    return VM_OK;
}

int vm_launch(struct vm_function *f, const struct vm_launch_params *p, struct vm_fault *fault,
              struct vm_counters *counters) {
    static const u32 one[3] = {1, 1, 1};
    *fault = (struct vm_fault){0};
    if (counters) *counters = (struct vm_counters){0};
    int bad = bad_arguments(f, p);
    if (bad) return bad;
    if (!vm_memory_init()) return VM_OUT_OF_MEMORY;
    struct launch *l = calloc(1, sizeof *l);
    if (!l) return VM_OUT_OF_MEMORY;
    l->f = f;
    l->code = f->code;
    l->p = *p;
    const u32 *c = p->cluster[0] ? p->cluster : f->info.cluster[0] ? f->info.cluster : one;
    u64 per = 1;
    int result = VM_OK;
    for (int i = 0; i < 3; i++) {
        l->cluster[i] = c[i] ? c[i] : 1;
        if (p->grid[i] % l->cluster[i]) result = VM_INVALID_VALUE;
        per *= l->cluster[i];
    }
    if (per > 16 || (f->info.cluster[0] && p->cluster[0] && memcmp(f->info.cluster, p->cluster, sizeof p->cluster)))
        result = VM_INVALID_VALUE;
    l->n_blocks = (u64)p->grid[0] * p->grid[1] * p->grid[2];
    l->blocks_per_gang = p->cooperative ? l->n_blocks : per;
    if (p->cooperative && l->n_blocks > 4096) result = VM_COOP_TOO_LARGE;
    l->shared_static = f->shared_layout;
    l->shared_reserved = (u32)(f->shared_layout + p->dynamic_shared + 31) & ~15u;
    l->shared_total =
        f->reserved_shared ? l->shared_reserved + RESERVED_SHARED : (u32)(f->shared_layout + p->dynamic_shared);
    l->check = vm_settings()->check;
    l->count_memory = vm_settings()->count_memory || counters;
    if (l->count_memory && !vm_count_begin(l)) result = VM_OUT_OF_MEMORY;
    l->seed = vm_settings()->seed;
    vm_depend_begin(l);
    u32 n_warps = (p->block[0] * p->block[1] * p->block[2] + 31) / 32, n_async = f->module->async ? ASYNC_ACTORS : 0;
    l->n_actors = (u32)per * (n_warps + n_async);
    l->view = n_async ? 2 * l->n_actors : l->n_actors;
    l->start_ns = now_ns();
    l->params = calloc(1, (size_t)f->code->formal_bytes + f->info.param_bytes + 64);
    l->shadow = calloc(1, l->shared_total + 1);
    if (!l->params || !l->shadow) result = VM_OUT_OF_MEMORY;
    if (p->cooperative && result == VM_OK) { /* what grid.sync() of the CUDA headers keeps its counter in */
        result = vm_mem_alloc(64, VM_MEM_MODULE, "cooperative launch", &l->workspace);
        if (result == VM_OK) result = vm_mem_set(l->workspace, 0, 1, 64, 1, 0);
    }
    if (result == VM_OK) {
        l->n_gangs = l->n_blocks / l->blocks_per_gang;
        memcpy(l->params, p->params, f->info.param_bytes);
        for (u32 i = 0; i < f->n_shared; i++)
            memset(l->shadow + f->shared[i]->addr, SHADOW_ADDRESSABLE, f->shared[i]->bytes);
        memset(l->shadow + f->shared_layout, SHADOW_ADDRESSABLE, p->dynamic_shared);
        if (f->reserved_shared) memset(l->shadow + l->shared_reserved, SHADOW_OK, RESERVED_SHARED);
        atomic_store(&l->fault_block, UINT64_MAX);
        atomic_store(&l->steps_left, (long long)vm_settings()->max_instructions);
        pthread_mutex_init(&l->lock, NULL);
        pthread_mutex_lock(&launching);
        int n = vm_settings()->threads;
        if (f->serial || p->cooperative || l->n_gangs < 4) n = 1;
        if ((u64)n > l->n_gangs) n = (int)l->n_gangs;
        struct worker *k = aligned_alloc(64, (sizeof *k * (size_t)n + 63) & ~(size_t)63);
        if (!k) {
            result = VM_OUT_OF_MEMORY;
        } else {
            memset(k, 0, sizeof *k * (size_t)n);
            for (int i = 0; i < n; i++) k[i].launch = l;
            int started = 1;
            while (started < n && !pthread_create(&k[started].thread, NULL, work, &k[started])) started++;
            work(&k[0]);
            for (int i = 1; i < started; i++) pthread_join(k[i].thread, NULL);
            struct vm_counters sum = {0};
            for (int i = 0; i < n; i++) {
                vm_counters_add(&sum, &k[i].counters);
                vm_block_release(&k[i]);
            }
            free(k);
            vm_report_launch(f->info.name, &sum);
            if (counters) *counters = sum;
            *fault = l->fault;
            result = l->fault.code;
            if (result && l->check && fault->text[0]) vm_say("%s", fault->text);
        }
        pthread_mutex_unlock(&launching);
        pthread_mutex_destroy(&l->lock);
    }
    if (l->workspace) vm_mem_free(l->workspace);
    vm_count_end(l);
    vm_depend_end(l);
    free(l->params);
    free(l->shadow);
    free(l);
    return result;
}

int vm_occupancy(const struct vm_function *f, uint32_t block_threads, uint64_t dynamic_shared) {
    if (!block_threads || block_threads > 1024) return 0;
    int sm = vm_settings()->sm;
    u32 max_threads = sm == 75                            ? 1024
                      : sm == 86 || sm == 89 || sm >= 120 ? 1536
                                                          : 2048,
        max_blocks = sm >= 120              ? 24
                     : sm == 86 || sm == 75 ? 16
                     : sm == 89             ? 24
                                            : 32;
    u64 shared_sm = sm == 80 || sm == 87   ? 164 << 10
                    : sm >= 90 && sm < 120 ? 228 << 10
                    : sm == 70             ? 96 << 10
                    : sm == 75             ? 64 << 10
                                           : 100 << 10;
    u32 warps = (block_threads + 31) / 32, regs = (f->info.regs + 7) & ~7u;
    u32 n = max_threads / (warps * 32);
    u32 by_regs = 65536 / (regs * 32 * warps);
    u64 shared = f->info.static_shared + dynamic_shared + 1024;
    if (by_regs < n) n = by_regs;
    if (shared_sm / shared < n) n = (u32)(shared_sm / shared);
    if (max_blocks < n) n = max_blocks;
    return (int)n;
}
