/* pool: a fixed set of pinned threads that run one function together, with a barrier for use inside it.
 *
 * The caller is thread 0. Waiting spins for some microseconds (launches follow each other closely) and then sleeps, so
 * that an idle pool costs nothing and an oversubscribed machine makes progress.
 */
#ifndef KGEN_POOL_H
#define KGEN_POOL_H

#include "codegen/base.h"

enum { POOL_MAX_THREADS = 1024 };

struct pool;

/* n_threads: 1 … POOL_MAX_THREADS. Threads are pinned to the processors this process may use, one each, as long as there
 * are enough of them. */
bool pool_open(int n_threads, struct pool **out, struct err *e);
void pool_close(struct pool *p); /* accepts NULL */

int pool_threads(const struct pool *p);

/* Runs fn(ctx, thread) on every thread, 0 being the caller; returns when all are done. */
void pool_run(struct pool *p, void (*fn)(void *ctx, int thread), void *ctx);

/* Inside pool_run: returns once every thread of the pool has called it. */
void pool_barrier(struct pool *p);

/* The same; while it waits it calls idle(ctx), which should take no longer than a memory access, until that returns
 * false. idle NULL: nothing. */
void pool_barrier_idle(struct pool *p, bool (*idle)(void *ctx), void *ctx);

/* Inside pool_run: the next run [*begin, *end) of n items that no thread has taken since the last barrier; false when
 * there is none left. Runs go from the last item to the first and get shorter, down to `least` items, so that threads that
 * are interrupted, or whose items are more work, take fewer. `which`: 0 … POOL_DEALS − 1 are independent; n and least must
 * be the same on all threads. */
enum { POOL_DEALS = 16 };
bool pool_take(struct pool *p, int which, int64_t n, int64_t least, int64_t *begin, int64_t *end);

/* The part [*begin, *end) of n items that belongs to a thread: contiguous, sizes differing by at most one. */
void pool_share(const struct pool *p, int thread, int64_t n, int64_t *begin, int64_t *end);

/* Inside pool_run: takes a run [*begin, *end) of what is left since the last barrier of owner's share of n ≤ POOL_SHARED
 * items: the thread itself from the front, half of the rest and no less than an eighth of the share at a time, so that it
 * reads on where it was; another, which has nothing left to do, half of the rest from the back. False: there is none
 * left. *more: there is after this; where not, asking again would only disturb the owner. `which` and n as in pool_take,
 * but deals of their own. */
enum { POOL_SHARED = 65535 };
bool pool_take_share(struct pool *p, int thread, int owner, int which, int64_t n, int64_t *begin, int64_t *end, bool *more);

#endif
