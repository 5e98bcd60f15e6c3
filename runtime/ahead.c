#include "runtime/ahead.h"

#include <unistd.h>

enum { LINE = 64, LINES = 4 /* a step, which delays a thread that could go on by some 10 ns */ };

uint64_t ahead_most(void) {
    long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return l2 > 0 ? (uint64_t)l2 / 2 : 0;
}

/* The thread's shares of all streams, or the same part of each of them that there is room for. */
static void aim(struct ahead *a) {
    uint64_t all = 0;
    a->aimed = true;
    a->n = a->next < a->end && a->most ? a->next->n : 0;
    for (size_t i = 0; i < a->n; i++) {
        const struct ahead_stream *s = &a->next->streams[i];
        uint64_t task = s->bytes / (uint64_t)s->n_tasks;
        a->left[i].at = s->data + task * (uint64_t)(s->n_tasks * a->thread / a->n_threads);
        a->left[i].end = s->data + task * (uint64_t)(s->n_tasks * (a->thread + 1) / a->n_threads);
        all += (uint64_t)(a->left[i].end - a->left[i].at);
    }
    for (size_t i = 0; i < a->n && all > a->most; i++) {
        uint64_t bytes = (uint64_t)(a->left[i].end - a->left[i].at);
        a->left[i].end = a->left[i].at + (uint64_t)((double)bytes * (double)a->most / (double)all);
    }
}

bool ahead_step(void *ctx) {
    struct ahead *a = ctx;
    if (!a->aimed) aim(a);
    for (size_t k = 0; k < LINES && a->n; k++) {
        size_t i = k % a->n;
        if (a->left[i].at < a->left[i].end) {
            __builtin_prefetch(a->left[i].at, 0, 2);
            a->left[i].at += LINE;
        } else {
            a->left[i] = a->left[--a->n];
        }
    }
    return a->n > 0;
}

void ahead_pass(struct ahead *a) {
    a->next++;
    a->aimed = false;
}
