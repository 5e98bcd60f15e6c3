/* cache: compiled objects kept on disk by content.
 *
 * A cache is a directory of the user's own with one file an entry, named after the XXH3-128 of the key string. The
 * whole key stands in the entry and is compared, so that two keys of one hash cannot be taken for each other. The key
 * must name everything the code depends on: the IR's text, codegen_version(), the target's class, cpu and features.
 *
 * Nothing here fails: a cache that cannot be used (no home, not writable, somebody else's, disk full) and an entry that
 * is damaged cost a compilation, and one warning a process on standard error. Entries are written to a temporary name,
 * synced and renamed: a reader, another writer or a kill in the middle sees the old entry or the new one, whole.
 * Functions may be called from several threads and processes at once.
 */
#ifndef KGEN_CACHE_H
#define KGEN_CACHE_H

#include "codegen/base.h"

struct cache;

/* dir NULL: $KGEN_CACHE_DIR, else $XDG_CACHE_HOME/kgen, else $HOME/.cache/kgen (variables that are empty or, for the
 * latter two, relative are passed over). Makes the directory, removes temporary files a killed writer left there over
 * an hour ago. Never NULL. */
struct cache *cache_open(const char *dir);
void cache_close(struct cache *c); /* NULL is fine */

/* The directory in use; NULL when there is none. */
const char *cache_dir(const struct cache *c);

/* Appends the entry's payload to *out; false when there is no valid entry (out is as it was). */
bool cache_get(struct cache *c, const char *key, size_t key_len, struct buf *out);
void cache_put(struct cache *c, const char *key, size_t key_len, const void *payload, size_t n);

#endif
