/* test_pool: every item is taken once, whatever the number of threads; runs are no longer than promised; a barrier
 * holds back threads that spin and threads that have gone to sleep; who waits fetches what it was told to, no more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>
#include "runtime/ahead.h"

enum { MOST = 1000, ROUNDS = 50, LONG_ENOUGH_TO_SLEEP_US = 20000 };

struct taking {
    struct pool *pool;
    int64_t n[2]; /* items of two deals */
    _Atomic int times[2][MOST];
    _Atomic int64_t longest;
    _Atomic int bad;
};

static void take_all(void *ctx, int thread) {
    (void)thread;
    struct taking *t = ctx;
    for (int round = 0; round < ROUNDS; round++) {
        for (int which = 0; which < 2; which++) {
            int64_t begin, end, before = INT64_MAX;
            while (pool_take(t->pool, which, t->n[which], which ? 5 : 0, &begin, &end)) {
                if (begin < 0 || begin >= end || end > t->n[which] || end > before) {
                    atomic_fetch_add(&t->bad, 1);
                    return;
                }
                if (which && begin > 0 && end - begin < 5) atomic_fetch_add(&t->bad, 1);
                before = begin;
                for (int64_t i = begin; i < end; i++) atomic_fetch_add(&t->times[which][i], 1);
                if (which == 0 && end - begin > atomic_load(&t->longest)) atomic_store(&t->longest, end - begin);
            }
        }
        pool_barrier(t->pool);
    }
}

static void take_covers_items_once_per_barrier(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    static const int64_t sizes[] = {0, 1, 2, 7, 64, MOST};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
            struct err e;
            static struct taking t;
            t = (struct taking){.n = {sizes[j], sizes[sizeof sizes / sizeof *sizes - 1 - j]}};
            if (!pool_open(threads[i], &t.pool, &e)) fail_msg("%s", e.msg);
            pool_run(t.pool, take_all, &t);
            pool_close(t.pool);
            assert_int_equal(t.bad, 0);
            for (int which = 0; which < 2; which++)
                for (int64_t k = 0; k < MOST; k++)
                    if (t.times[which][k] != (k < t.n[which] ? ROUNDS : 0))
                        fail_msg("%d threads: item %d of %d was taken %d times in %d rounds", threads[i], (int)k,
                                 (int)t.n[which], t.times[which][k], ROUNDS);
            /* The last items, which may be the most work, come in a run of half a thread's share. */
            assert_true(t.longest <= sizes[j] / (2 * threads[i]) + 1);
        }
}

struct sharing {
    struct pool *pool;
    int64_t n;
    _Atomic int times[MOST];
    _Atomic int bad, helped; /* runs that break a promise; runs taken from others */
};

/* Own share first, then all others'; in one round the last comes late, so that the others find all of its. */
static void share_all(void *ctx, int thread) {
    struct sharing *s = ctx;
    int n_threads = pool_threads(s->pool);
    for (int round = 0; round < ROUNDS; round++) {
        if (round == 7 && thread == n_threads - 1) usleep(LONG_ENOUGH_TO_SLEEP_US);
        for (int k = 0; k < n_threads; k++) {
            int owner = (thread + k) % n_threads;
            int64_t share_begin, share_end, begin, end, reached;
            bool more = true;
            pool_share(s->pool, owner, s->n, &share_begin, &share_end);
            reached = share_begin;
            while (more && pool_take_share(s->pool, thread, owner, 3, s->n, &begin, &end, &more)) {
                bool inside = share_begin <= begin && begin < end && end <= share_end;
                if (!inside || (k == 0 && begin != reached)) {
                    atomic_fetch_add(&s->bad, 1);
                    return;
                }
                reached = end;
                if (k) atomic_fetch_add(&s->helped, 1);
                for (int64_t i = begin; i < end; i++) atomic_fetch_add(&s->times[i], 1);
            }
        }
        pool_barrier(s->pool);
    }
}

static void shares_cover_items_once_whoever_takes_them(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    static const int64_t sizes[] = {0, 1, 2, 7, 64, MOST};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
            struct err e;
            static struct sharing s;
            s = (struct sharing){.n = sizes[j]};
            if (!pool_open(threads[i], &s.pool, &e)) fail_msg("%s", e.msg);
            for (int run = 0; run < 2; run++) pool_run(s.pool, share_all, &s);
            pool_close(s.pool);
            assert_int_equal(s.bad, 0);
            for (int64_t k = 0; k < MOST; k++)
                if (s.times[k] != (k < s.n ? 2 * ROUNDS : 0))
                    fail_msg("%d threads: item %d of %d was taken %d times in %d rounds", threads[i], (int)k, (int)s.n,
                             s.times[k], 2 * ROUNDS);
            if (threads[i] > 1 && s.n == MOST) assert_true(s.helped > 0);
        }
}

enum { THREADS = 3, LATE_ROUNDS = 6 };

struct meeting {
    struct pool *pool;
    _Atomic int rounds[THREADS]; /* that a thread has begun */
    _Atomic int bad;
};

/* In each round another thread is late; what the others did is complete when they meet, and none goes ahead. */
static void meet(void *ctx, int thread) {
    struct meeting *m = ctx;
    for (int round = 1; round <= LATE_ROUNDS; round++) {
        if (round % 2 && thread == round / 2 % THREADS) usleep(LONG_ENOUGH_TO_SLEEP_US);
        atomic_store(&m->rounds[thread], round);
        pool_barrier(m->pool);
        for (int k = 0; k < THREADS; k++)
            if (atomic_load(&m->rounds[k]) != round) atomic_fetch_add(&m->bad, 1);
        pool_barrier(m->pool);
    }
}

static void barrier_wakes_who_spins_and_who_sleeps(void **state) {
    (void)state;
    struct err e;
    static struct meeting m;
    if (!pool_open(THREADS, &m.pool, &e)) fail_msg("%s", e.msg);
    for (int run = 0; run < 3; run++) {
        pool_run(m.pool, meet, &m);
        for (int k = 0; k < THREADS; k++) assert_int_equal(m.rounds[k], LATE_ROUNDS);
        usleep(LONG_ENOUGH_TO_SLEEP_US); /* the next run finds them asleep */
    }
    pool_close(m.pool);
    assert_int_equal(m.bad, 0);
}

enum { IDLE_STEPS = 5 };

struct idling {
    struct pool *pool;
    int steps[2]; /* of each thread */
};

static bool idle(void *steps) {
    return ++*(int *)steps < IDLE_STEPS;
}

static void idle_while_waiting(void *ctx, int thread) {
    struct idling *i = ctx;
    if (thread == 1) usleep(LONG_ENOUGH_TO_SLEEP_US);
    pool_barrier_idle(i->pool, idle, &i->steps[thread]);
}

static void who_waits_idles_until_there_is_nothing_to_do(void **state) {
    (void)state;
    struct err e;
    struct idling i = {0};
    if (!pool_open(2, &i.pool, &e)) fail_msg("%s", e.msg);
    pool_run(i.pool, idle_while_waiting, &i);
    pool_close(i.pool);
    assert_int_equal(i.steps[0], IDLE_STEPS);
    assert_int_equal(i.steps[1], 0);
}

/* Two matrices of 10 and 5 tasks; a phase without packed weights; then nothing more. */
static void ahead_fetches_a_threads_share_within_its_room(void **state) {
    (void)state;
    static uint8_t a[10 * 640], b[5 * 1280];
    struct ahead_phase phases[2] = {{{{a, sizeof a, 10}, {b, sizeof b, 5}}, 2}, {.n = 0}};
    static const uint64_t rooms[] = {1 << 20, 3200, 0};
    for (size_t r = 0; r < sizeof rooms / sizeof *rooms; r++) {
        struct ahead x = {.next = phases, .end = phases + 2, .thread = 1, .n_threads = 2, .most = rooms[r]};
        int steps = 1;
        bool more = ahead_step(&x);
        assert_int_equal(more, rooms[r] > 0);
        if (more) {
            /* Tasks 5 to 9 and 2 to 4: 3,200 and 3,840 bytes, of which a step has taken two lines each. */
            uint64_t all = 3200 + 3840, room = rooms[r] < all ? rooms[r] : all;
            assert_ptr_equal(x.left[0].at, a + 5 * 640 + 128);
            assert_ptr_equal(x.left[1].at, b + 2 * 1280 + 128);
            assert_ptr_equal(x.left[0].end, a + 5 * 640 + 3200 * room / all);
            assert_ptr_equal(x.left[1].end, b + 2 * 1280 + 3840 * room / all);
            while (ahead_step(&x)) steps++;
            assert_in_range(steps, room / 64 / 4, room / 64 / 4 + 4);
        }
        for (int i = 0; i < 3; i++) {
            ahead_pass(&x);
            assert_false(ahead_step(&x));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_waits_idles_until_there_is_nothing_to_do),
        cmocka_unit_test(ahead_fetches_a_threads_share_within_its_room),
        cmocka_unit_test(shares_cover_items_once_whoever_takes_them),
        cmocka_unit_test(barrier_wakes_who_spins_and_who_sleeps),
        cmocka_unit_test(take_covers_items_once_per_barrier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
