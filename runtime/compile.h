/* compile: from kernel specifications to callable code, through the object cache.
 *
 * A `struct kernel` is one launch: phases separated by barriers, each a set of parts that may run at the same time.
 */
#ifndef KGEN_COMPILE_H
#define KGEN_COMPILE_H

#include "codegen/assemble.h"
#include "codegen/cache.h"
#include "codegen/codegen.h"
#include "dsl/host.h"
#include "runtime/bundle.h"
#include "runtime/pool.h"
#include "runtime/tunedb.h"

/* Sizes known at run time, in the order of run_dim_names. */
enum run_dim { RUN_TOK, RUN_POS, RUN_KEY, RUN_CTX, RUN_NPAGES, RUN_NB, RUN_ROWS, RUN_ROW_BYTES, RUN_TILE_BYTES, N_RUN_DIMS };

/* One function over tasks: `times` of them, or times · ceil(dims[dim] / per) where per > 0. */
struct part {
    kernel_fn *fn;
    char *name;
    int64_t times, per;
    enum run_dim dim;
    bool uneven; /* tasks differ much in work, and the first are the least */
    bool team; /* of a GPU: a block does a task, not a warp */
    size_t *constants; /* arguments that it reads and no launch writes, weights among them */
    size_t n_constants;
};

struct phase {
    struct part *parts;
    size_t n_parts;
    bool rows; /* some part's tasks are rows of its constants */
};

struct kernel {
    char *name;
    struct phase *phases;
    size_t n_phases;
    char **args; /* parameter names, in the order of the argument array */
    size_t n_args;
    enum run_dim *dims; /* what the code finds in its dims array */
    size_t n_dims;
    uint64_t ws_per_tok, ws_per_page; /* bytes of workspace a token, and a page of keys */
    struct code *code;
    char *ptx; /* of a GPU target: what runtime/dev_cuda.h loads instead; parts have no fn then */
    struct buf cubin; /* its machine code, for a driver that takes it; or empty */
    bool dependent; /* its code waits for the kernels before it: it may be launched while they run */
};

struct compiler {
    struct dsl *dsl;
    struct target target;
    struct cache *cache; /* NULL: none */
    int n_threads;       /* compilations at once, each in a process of its own */
    const char *dump;    /* a flat IR pass after which kernels are printed, on standard error; NULL: none */
    struct tunedb *tune; /* whose choices are used; NULL: every kernel has its defaults */
    const struct bundle *from; /* nothing is compiled, all code is in here; NULL */
    struct bundle *into;       /* all code is put in here too; NULL */
    const struct assembler *assembler; /* of a GPU's code: makes cubins (codegen/assemble.h) in the same processes; NULL */
    bool take_cubins;                  /* that `from` has, beside the PTX */
    const char *host;          /* target of what runs on the processor beside a GPU; NULL: native */
    int tune_threads;    /* that will run the code, and what for */
    enum tune_use tune_use;
    size_t n_compiled, n_cached, n_tuned;
    double seconds; /* spent here, wall clock */
};

/* Compiles n specifications (arguments of dsl/main.lua's `lower`, without the target) and, where pack_fmt[i] is set
 * instead of specs[i], the packing routine of that format. out: n kernels, zeroed by this function; on failure those
 * built are freed. */
bool compile_kernels(struct compiler *c, const json_t *const *specs, const char *const *pack_fmts, size_t n,
                     struct kernel *out, struct err *e);
void kernel_free(struct kernel *k); /* accepts a zeroed one */

/* A specification made for one token; and that where an axis is split for one (dsl/split_fold.lua), else NULL. New
 * references. */
json_t *compile_of_one(const json_t *spec);
json_t *compile_split(const json_t *spec);

/* What a processor runs for one token at a time, a specification: with other tunables, by the tune database, or made for
 * one token because an axis is split for it. A new reference; NULL: what it runs for any number. */
json_t *compile_for_one(const struct compiler *c, const json_t *spec);

/* Bytes of a launch's workspace. */
uint64_t kernel_ws_bytes(const struct kernel *k, int64_t tok, int64_t n_pages);

/* What a specification's code is kept under, in the cache and, for its tunables, in the tune database: the caller
 * mem_free()s it. */
char *compile_key(const struct compiler *c, const json_t *spec);

/* {"class", "lanes", …}: a target as dsl/main.lua takes it. New reference. */
json_t *compile_target(const struct target *t, bool serial);

/* How many tasks a part has for these sizes (indexed by enum run_dim). */
int64_t part_tasks(const struct part *p, const int64_t *sizes);

/* Whether the tasks of a part are rows of the constants it reads. */
bool part_has_rows(const struct part *p);

/* Inside pool_run, on every thread: the phases of a launch, a barrier after each. args: one pointer for each of k->args;
 * sizes indexed by enum run_dim; ws: kernel_ws_bytes() of it. ahead: what the thread fetches while it waits
 * (runtime/ahead.h), where it passes each phase with rows; or NULL. */
struct ahead;
void kernel_run(const struct kernel *k, struct pool *pool, int thread, void *const *args, const int64_t *sizes,
                uint8_t *ws, struct ahead *ahead);

/* What a matrix of n elements a row takes when it is packed for a target. */
struct packed_size {
    int64_t tile, bytes; /* of a tile of t->pack_lanes rows, and in all */
};
bool compile_packed_size(struct dsl *d, const struct target *t, const char *fmt, int64_t rows, int64_t n,
                         struct packed_size *out, struct err *e);

/* Lowers one specification to flat IR text for a target, for emit and verify. *meta gets the launch's description. */
bool compile_lower(struct dsl *d, const json_t *spec, const struct target *t, bool serial, json_t **meta, struct err *e);

/* Compiles what compile_lower returned. */
bool compile_lowered(const json_t *meta, const struct target *t, struct kernel *out, struct err *e);

#endif
