/* ahead: a thread that waits for others asks for the weights that it will read next.
 *
 * A token's phases without weights and the barriers leave the memory idle, and each product begins with misses until the
 * hardware's prefetcher has found its streams. While it waits a thread fetches, line by line, the beginning of its own
 * share of the next phase with weights, as much as half of its second-level cache holds. Nothing that is computed depends
 * on it.
 */
#ifndef KGEN_AHEAD_H
#define KGEN_AHEAD_H

#include "runtime/compile.h"

enum { AHEAD_STREAMS = 4 }; /* matrices of a phase; of more the first ones */

/* A matrix that n_tasks tasks of a part read, in their order. */
struct ahead_stream {
    const uint8_t *data;
    uint64_t bytes;
    int64_t n_tasks;
};

/* A phase that reads weights. */
struct ahead_phase {
    struct ahead_stream streams[AHEAD_STREAMS];
    size_t n;
};

/* Where a thread is in a list of them. */
struct ahead {
    const struct ahead_phase *next, *end;
    int thread, n_threads;
    uint64_t most; /* bytes to fetch of a phase; 0: none */
    /* What is left to fetch of *next, once it is `aimed` at. */
    bool aimed;
    size_t n;
    struct {
        const uint8_t *at, *end;
    } left[AHEAD_STREAMS];
};

/* Bytes that may be fetched ahead on this machine; 0: its caches are not known. */
uint64_t ahead_most(void);

/* Fetches a few lines more. ctx: a struct ahead. False: there is nothing to fetch. */
bool ahead_step(void *ctx);

/* The thread has done its part of *next. */
void ahead_pass(struct ahead *a);

#endif
