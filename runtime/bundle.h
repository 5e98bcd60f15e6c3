/* bundle: all that running one model on one target needs and only a compiler can make, as a directory of files.
 *
 *   manifest.json   what the bundle is for, and each file with its size and hash
 *   plan.json       the model's graph, fused into launches, and its memory plan (dsl/graph.lua)
 *   kernels/…       one file a kernel: an object (.o), or a GPU's PTX (.ptx) and, where ptxas was at hand, beside it the
 *                   machine code that it made of that for the target itself (.cubin)
 *   *.gguf          the model itself, where it was asked for; else it is known by its content's hash
 *
 * A `struct bundle` is either filled by the compiler (runtime/compile.h, `into`) and written, or opened and asked
 * (`from`). Opening checks everything: each file's size and hash, the manifest's own, and that it was made by a kgen of
 * the same sources, since plan, code and runtime agree on layouts that have no version of their own. A bundle holds
 * code: whoever opens one trusts its author as with a program.
 */
#ifndef KGEN_BUNDLE_H
#define KGEN_BUNDLE_H

#include "codegen/base.h"

#include <jansson.h>

/* A digest of the sources of codegen/, dsl/, models/ and runtime/ (build/gen/build_id.c). */
extern const char kgen_build[];

struct bundle;

struct bundle *bundle_new(void);
void bundle_close(struct bundle *b); /* accepts NULL */

/* Adds code under a key, which bundle_find takes. description: what goes with it, any JSON; its "name" names the file.
 * cubin: of PTX; empty where there is none. A key that is there already stays as it is. */
void bundle_add(struct bundle *b, const char *key, const json_t *description, bool ptx, const struct buf *code,
                const struct buf *cubin);

/* Writes it all to `dir`, which is made, or is empty; the manifest last, so that what was interrupted has none. about:
 * an object whose fields bundle_about gives back. */
bool bundle_write(struct bundle *b, const char *dir, const json_t *about, const json_t *plan, struct err *e);

/* Errors name the file and what is wrong with it: not there, cut short, changed, of another version. */
bool bundle_open(const char *dir, struct bundle **out, struct err *e);
const char *bundle_dir(const struct bundle *b);
const json_t *bundle_about(const struct bundle *b);
const json_t *bundle_plan(const struct bundle *b);

/* A field of bundle_about; "" where it is none or no text. */
const char *bundle_text(const struct bundle *b, const char *field);

/* The code kept under a key, and its cubin or nothing in it; valid while b is open. False without a message: there is
 * none. */
bool bundle_find(const struct bundle *b, const char *key, const json_t **description, const struct buf **code,
                 const struct buf **cubin);

size_t bundle_n_kernels(const struct bundle *b);
size_t bundle_n_cubins(const struct bundle *b);
uint64_t bundle_bytes(const struct bundle *b); /* of code, cubins included */

#endif
