/* host: the closed Lua state that holds the language, the kernels, the model families and the chat templates.
 *
 * Calls take and return plain data (jansson values), so that nothing outside dsl/ sees Lua. The state has no os, io or
 * package library; a call is bounded in steps and memory. Not thread-safe: one thread at a time uses a state.
 */
#ifndef KGEN_HOST_H
#define KGEN_HOST_H

#include "codegen/base.h"

#include <jansson.h>

/* The Lua sources, embedded at build time (build/gen/lua_sources.c); paths relative to the repository root. */
struct lua_source {
    const char *path;
    const char *text;
    size_t len;
};
extern const struct lua_source lua_sources[];
extern const size_t n_lua_sources;
extern const char lua_entry[]; /* "dsl.main": the module whose functions dsl_call calls */

struct dsl;

/* Opens a state over the embedded sources. Where the environment variable KGEN_LUA names a directory, files found there
 * under the same relative path are used instead (an edited kernels.lua needs no rebuild). */
bool dsl_open(struct dsl **out, struct err *e);
void dsl_close(struct dsl *d); /* accepts NULL */

/* Calls an entry point: of dsl/main.lua, or in the runtime-only program of dsl/chat.lua, which has few. arg is borrowed; *out is a new reference (NULL out: the result is dropped).
 * Lua errors become *e: "kernels.lua:12: kernel 'x': ..." */
bool dsl_call(struct dsl *d, const char *fn, const json_t *arg, json_t **out, struct err *e);

/* A digest of all sources in use: part of every cache key. 32 hexadecimal digits. */
const char *dsl_digest(const struct dsl *d);

#endif
