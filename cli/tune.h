/* tune: what `kgen tune` does for one kernel, and what it has to say about it. */
#ifndef KGEN_CLI_TUNE_H
#define KGEN_CLI_TUNE_H

#include "cli/cli.h"
#include "cli/peaks.h"
#include "runtime/compile.h"
#include "runtime/pool.h"

/* What all sweeps of a run share. */
struct tuner {
    struct dsl *dsl;
    struct target target;
    struct pool *pool;
    struct peaks peaks;
    struct cache *cache;
    struct tunedb *db;
    double deadline; /* now_s() after which nothing new is tried */
    bool terminal;   /* progress on standard error */
};

enum { SWEEP_MAX_RUNS = 4 };

/* A kernel and the launches of one use to be fast at. */
struct sweep {
    char *name;                   /* of the kernel */
    char *label;                  /* sizes and formats, for people */
    json_t *spec;                 /* for dsl/main.lua's `lower`, without tunables */
    json_t *runs[SWEEP_MAX_RUNS]; /* {"tok", "pos", "key", "ctx", "npages"} */
    size_t n_runs;
    enum tune_use use;
    int64_t launches; /* of it in a model's step; 1 for a kernel by itself */
    /* What sweep_run found; n is 0 where there is nothing to choose from or time ran out before. */
    struct sweep_candidate {
        json_t *tune;
        double run_slots[SWEEP_MAX_RUNS]; /* dsl/cost.lua */
        double predicted_ms;              /* by those, their bytes and the machine's peaks */
        double run_ms[SWEEP_MAX_RUNS];    /* the least of all measurements; 0: not measured */
        double ms;                        /* their geometric mean; 0: not measured to the end */
        const char *outcome;              /* as in runtime/tunedb.h; "untried" where the sweep ended before */
    } * candidates;                       /* the default first, then as they are expected to rank */
    size_t n, best;
    bool reached, measured; /* measured: reached within the budget, and there was something to tune */
    double run_bytes[SWEEP_MAX_RUNS], run_ops[SWEEP_MAX_RUNS]; /* a launch */
    double limit_ms; /* what the machine allows: the geometric mean over the launches */
};

/* Measures the candidates of a kernel and stores the fastest. A candidate that does not compile, that differs in a bit
 * from the default's result or is slow is noted and passed over. Errors: the default itself does not run; the database
 * cannot be written. */
bool sweep_run(struct tuner *t, struct sweep *s, struct err *e);
void sweep_free(struct sweep *s);

/* Works out limit_ms and predictions from the tuner's peaks, as they are known by now. */
void sweep_limit(const struct tuner *t, struct sweep *s);

/* "heads=2,toks=4", appended. */
void tune_text(const json_t *tune, struct buf *out);

/* One self-contained page: every sweep's landscape against its limit. */
bool tune_report(const struct tuner *t, const struct sweep *sweeps, size_t n, const char *path, struct err *e);

#endif
