/* tunedb: what `kgen tune` found, kept in tune.db beside the compiled code.
 *
 * A choice is the set of tunables that was fastest for a kernel on this kind of machine. Its key is the object cache's
 * for the kernel without tunables (runtime/compile.h, compile_key): the specification, the digest of the language's
 * sources, LLVM's version, the target's class, processor and features; then the number of threads. Beside the key stands
 * the use: one token at a time, or several. A log keeps every candidate, losers too.
 *
 * The file is an SQLite database in WAL mode; each result is one transaction, so a kill loses at most the sweep under
 * way, and writers wait for each other. Reading never fails: what cannot be used costs the untuned default, and a file
 * that is no database is moved aside to tune.db.broken, with one warning a process.
 */
#ifndef KGEN_TUNEDB_H
#define KGEN_TUNEDB_H

#include "codegen/base.h"

#include <jansson.h>

struct tunedb;

/* What a kernel is launched for: launches of these two differ so much that each has choices of its own. */
enum tune_use { USE_PROMPT, USE_TOKEN };
static inline enum tune_use tune_use_of(int64_t n_tokens) { return n_tokens == 1 ? USE_TOKEN : USE_PROMPT; }
extern const char *const tune_use_names[]; /* "prompt", "token" */

/* For reading. dir: the cache's directory, or NULL. NULL: there is no database there, or none that can be used. */
struct tunedb *tunedb_open(const char *dir);

/* For reading and writing: made where it is missing. */
bool tunedb_create(const char *dir, struct tunedb **out, struct err *e);
void tunedb_close(struct tunedb *db); /* accepts NULL */

/* The tunables chosen for a key, {"toks": 4, …}, each a whole number 1 … 64: a new reference. NULL: none are known. db
 * may be NULL. */
json_t *tunedb_find(struct tunedb *db, const char *key, int n_threads, enum tune_use use);

/* One measured candidate. ms: the geometric mean over the launches; 0 where it was not measured to the end. */
struct tune_entry {
    json_t *tune; /* borrowed */
    double ms;
    const char *outcome; /* "default", "measured", "slow", "differs", "failed" */
};

/* What a sweep found. */
struct tune_result {
    const char *key, *kernel, *target;
    int n_threads;
    enum tune_use use;
    const char *tokens; /* of the launches measured: "1" or "128,512" */
    const struct tune_entry *entries; /* [n] */
    size_t n, best, fallback;         /* indices: the choice, and the default it is compared with */
};

/* Stores the choice and the log, all of it or nothing. */
bool tunedb_put(struct tunedb *db, const struct tune_result *r, struct err *e);

#endif
