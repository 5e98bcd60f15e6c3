/* kernel_case: the arrays of one launch of a kernel, random and in rotation, and how long code takes on them. */
#ifndef KGEN_CLI_KERNEL_CASE_H
#define KGEN_CLI_KERNEL_CASE_H

#include "runtime/compile.h"
#include "runtime/pool.h"
#include "verify/ref.h"

enum { CASE_MAX_ARRAYS = 64 };

struct kernel_case {
    struct dsl *dsl;
    const struct target *target;
    struct ref_rng rng;
    json_t *costs; /* {"arrays", "ops", "bytes", …}: dsl/main.lua's `case` */
    struct case_array {
        uint8_t *data;
        size_t bytes; /* a copy, padded */
        size_t copies;
        size_t content; /* bytes of the array itself */
        bool out;
        uint8_t *kept; /* [content] of an output: see case_keep */
    } arrays[CASE_MAX_ARRAYS];
    size_t n_arrays;
    size_t n_copies, turn;
    int64_t sizes[N_RUN_DIMS];
    double ops, bytes; /* a launch */
    /* The kernel in use. */
    const struct kernel *kernel;
    void **args; /* [n_copies][n_args] */
    uint8_t *ws;
    size_t ws_bytes;
    /* While the pool runs. */
    struct pool *pool;
    int64_t n_launches;
};

/* How many benchmark shapes a kernel has; 0 for one that is not there. */
int64_t case_bench_shapes(struct dsl *d, const char *kernel);

/* Makes the arrays of a specification for run-time sizes {"tok", "pos", "key", "ctx", "npages"}. Weights and caches
 * that are read lie there several times, together larger than the last cache, so that a launch finds them in memory.
 * Compiles, and so forks. d and t must outlive the case. */
bool case_open(struct kernel_case *c, struct dsl *d, const struct target *t, const json_t *spec, const json_t *run,
               struct err *e);
void case_close(struct kernel_case *c); /* accepts a zeroed or half-open one */

/* The code to launch from here on; it must outlive its use. */
bool case_use(struct kernel_case *c, const struct kernel *k, struct err *e);

/* Seconds that n launches one after another take. */
double case_seconds(struct kernel_case *c, struct pool *pool, int64_t n);

/* How many launches last at least 20 ms; as many have been done then. */
int64_t case_warm_up(struct kernel_case *c, struct pool *pool);

/* Launches once over outputs filled with a pattern. case_keep remembers them, case_same compares with those kept. */
void case_fresh_launch(struct kernel_case *c, struct pool *pool);
bool case_keep(struct kernel_case *c, struct err *e);
bool case_same(const struct kernel_case *c);

#endif
