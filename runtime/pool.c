#include "runtime/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 4000 };

struct worker {
    struct pool *pool;
    pthread_t thread;
    int index;
};

/* What is left of a thread's shares, two lines a thread: the phase it was written in, the first item and the one after
 * the last. Written in another phase, it is the whole share. (That an old one looks like this phase's takes 2^32 phases
 * in which the thread has had no such share.) */
struct shares {
    _Alignas(64) _Atomic uint64_t left[POOL_DEALS];
};
enum { SHARE_RUNS = 8 };

struct pool {
    int n;
    struct shares *shares;  /* [n] */
    struct worker *workers; /* n − 1 of them */
    int n_started;
    void (*fn)(void *, int);
    void *ctx;
    bool stopping;
    _Alignas(64) _Atomic uint32_t epoch; /* goes up when a run starts */
    /* The barrier is one line: whoever arrives has it then, and opens the barrier without waiting for another. */
    _Alignas(64) _Atomic uint32_t phase; /* goes up when the barrier opens */
    _Atomic uint32_t arrived;            /* threads waiting at it */
    _Atomic uint32_t asleep;             /* threads that only a system call wakes */
    _Atomic bool dealt;                  /* items were taken since it opened */
    struct {
        _Alignas(64) _Atomic int64_t taken; /* items since the last barrier */
    } deals[POOL_DEALS];
};

static void relax(void) {
    __builtin_ia32_pause();
}

/* Waits until *word differs from `old`. */
static void wait_change(struct pool *p, _Atomic uint32_t *word, uint32_t old, bool (*idle)(void *), void *ctx) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old) return;
        if (idle && idle(ctx)) continue;
        idle = NULL;
        relax();
    }
    /* Either advance() sees that one is asleep, or the kernel, which looks at *word again, that it has changed. */
    atomic_fetch_add(&p->asleep, 1);
    while (atomic_load_explicit(word, memory_order_acquire) == old)
        syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&p->asleep, 1);
}

/* Lets all go on that wait for *word to change. */
static void advance(struct pool *p, _Atomic uint32_t *word) {
    atomic_fetch_add(word, 1);
    if (atomic_load(&p->asleep))
        syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, POOL_MAX_THREADS, NULL, NULL, 0);
}

static void deal_anew(struct pool *p) {
    if (!atomic_load_explicit(&p->dealt, memory_order_relaxed)) return;
    atomic_store_explicit(&p->dealt, false, memory_order_relaxed);
    for (int i = 0; i < POOL_DEALS; i++) atomic_store_explicit(&p->deals[i].taken, 0, memory_order_relaxed);
}

void pool_barrier_idle(struct pool *p, bool (*idle)(void *), void *ctx) {
    uint32_t phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) + 1 == (uint32_t)p->n) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        deal_anew(p);
        advance(p, &p->phase);
    } else {
        wait_change(p, &p->phase, phase, idle, ctx);
    }
}

void pool_barrier(struct pool *p) {
    pool_barrier_idle(p, NULL, NULL);
}

static void *work(void *arg) {
    struct worker *w = arg;
    struct pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        wait_change(p, &p->epoch, seen, NULL, NULL);
        seen++;
        if (p->stopping) return NULL;
        p->fn(p->ctx, w->index);
        pool_barrier(p);
    }
}

void pool_run(struct pool *p, void (*fn)(void *, int), void *ctx) {
    p->fn = fn;
    p->ctx = ctx;
    if (p->n > 1) advance(p, &p->epoch);
    fn(ctx, 0);
    pool_barrier(p);
}

static void pin(pthread_t t, const cpu_set_t *allowed, int index) {
    for (int cpu = 0, k = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, allowed) || k++ != index) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(t, sizeof one, &one); /* refused in some containers: then the scheduler decides */
        return;
    }
}

bool pool_open(int n_threads, struct pool **out, struct err *e) {
    *out = NULL;
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS)
        return err_set(e, ERR_USAGE, "%d threads: expected 1 to %d", n_threads, POOL_MAX_THREADS);
    struct pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p) return err_set(e, ERR_MEMORY, "out of memory for the thread pool");
    memset(p, 0, sizeof *p);
    p->n = n_threads;
    p->workers = mem_new((size_t)n_threads * sizeof *p->workers);
    p->shares = aligned_alloc(64, (size_t)n_threads * sizeof *p->shares);
    if (!p->shares) {
        pool_close(p);
        return err_set(e, ERR_MEMORY, "out of memory for the thread pool");
    }
    memset(p->shares, 0, (size_t)n_threads * sizeof *p->shares);
    p->phase = 1; /* what is zero was written in no phase */
    cpu_set_t allowed;
    bool pinning = sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) >= n_threads;
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &p->workers[i - 1];
        w->pool = p;
        w->index = i;
        int rc = pthread_create(&w->thread, NULL, work, w);
        if (rc) {
            err_set(e, ERR_MEMORY, "cannot start thread %d of %d: %s", i + 1, n_threads, strerror(rc));
            p->n = i; /* only those that run are waited for */
            pool_close(p);
            return false;
        }
        p->n_started++;
        if (pinning) pin(w->thread, &allowed, i);
    }
    *out = p;
    return true;
}

void pool_close(struct pool *p) {
    if (!p) return;
    p->stopping = true;
    advance(p, &p->epoch);
    for (int i = 0; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    mem_free(p->workers);
    free(p->shares);
    free(p);
}

int pool_threads(const struct pool *p) {
    return p->n;
}

/* A run is 1/(2 · threads) of what is left: where work grows linearly with the item, as causal attention's does, even
 * the first one is no more than a thread's share of all. */
bool pool_take(struct pool *p, int which, int64_t n, int64_t least, int64_t *begin, int64_t *end) {
    _Atomic int64_t *counter = &p->deals[which].taken;
    int64_t taken = atomic_load_explicit(counter, memory_order_relaxed), run;
    do {
        if (taken >= n) return false;
        run = (n - taken) / (2 * p->n);
        if (run < least) run = least;
        if (run < 1) run = 1;
        if (run > n - taken) run = n - taken;
    } while (!atomic_compare_exchange_weak_explicit(counter, &taken, taken + run, memory_order_relaxed,
                                                    memory_order_relaxed));
    if (taken == 0) atomic_store_explicit(&p->dealt, true, memory_order_relaxed);
    *begin = n - taken - run;
    *end = n - taken;
    return true;
}

void pool_share(const struct pool *p, int thread, int64_t n, int64_t *begin, int64_t *end) {
    *begin = n * thread / p->n;
    *end = n * (thread + 1) / p->n;
}

static uint64_t left_of(uint32_t phase, int64_t begin, int64_t end) {
    return (uint64_t)phase << 32 | (uint64_t)begin << 16 | (uint64_t)end;
}

bool pool_take_share(struct pool *p, int thread, int owner, int which, int64_t n, int64_t *begin, int64_t *end,
                     bool *more) {
    _Atomic uint64_t *word = &p->shares[owner].left[which];
    uint32_t phase = atomic_load_explicit(&p->phase, memory_order_relaxed);
    uint64_t old = atomic_load_explicit(word, memory_order_relaxed), left;
    int64_t share_begin, share_end;
    pool_share(p, owner, n, &share_begin, &share_end);
    do {
        int64_t from = old >> 16 & POOL_SHARED, to = old & POOL_SHARED, least = (share_end - share_begin) / SHARE_RUNS;
        if (old >> 32 != phase) from = share_begin, to = share_end;
        if (from >= to) return false;
        int64_t run = (to - from + 1) / 2;
        if (thread == owner) {
            if (to - from - run < least) run = to - from;
            *begin = from;
            *end = from + run;
            left = left_of(phase, *end, to);
        } else {
            *begin = to - run;
            *end = to;
            left = left_of(phase, from, *begin);
        }
        *more = run < to - from;
    } while (!atomic_compare_exchange_weak_explicit(word, &old, left, memory_order_relaxed, memory_order_relaxed));
    return true;
}
