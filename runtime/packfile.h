/* packfile: packed weights kept on disk, beside the compiled code.
 *
 * A packed file is one image of all of a model's weights as the kernels read them. It is mapped, not read: processes
 * share one copy in the system's file cache, which the system may take back without swapping. Its name comes from the
 * model's path and the target's lanes, so that a model that changes under its path replaces its own packed file. Inside
 * stand the layout (formats, sizes, order, the digest of the language's sources) and the model file's stamp
 * (runtime/gguf.h, gguf_stamp); a file of another layout or stamp is not used.
 *
 * Every byte is checked before it is used: XXH3 sums of 4 MiB pieces, by all threads of a pool at once. That also
 * brings the pages in, and finds what an interrupted system or a bad disk left; nothing is synced, so nothing waits for
 * a disk.
 *
 * Nothing here fails: what cannot be opened, made or written (no space, no rights, a limit) costs packing in memory,
 * and one warning a process where something is wrong. Files are written to a temporary name and renamed when they are
 * whole: readers, other writers and a kill see the old one or the new one. Only removing them is allowed to others:
 * whoever cuts a packed file short while it is mapped ends the processes that read it.
 */
#ifndef KGEN_PACKFILE_H
#define KGEN_PACKFILE_H

#include "runtime/pool.h"

/* What identifies a packed file. All bytes count, zeros too. */
struct pack_id {
    struct buf path;   /* of the model: absolute, NUL-terminated; of a split one the first part's */
    struct buf layout; /* everything the image's bytes depend on besides the model file */
    struct buf stamp;  /* of the model file */
    uint32_t lanes;
    uint64_t bytes; /* of the image */
};
void pack_id_free(struct pack_id *id);

/* A packed file in use, read-only. */
struct packfile {
    const uint8_t *data; /* [id.bytes], aligned to 64 KiB; NULL: none */
    void *map;
    size_t map_bytes;
};

/* dir: the cache's directory (codegen/cache.h has checked whose it is). False: there is no valid one. */
bool packfile_open(const char *dir, const struct pack_id *id, struct pool *pool, struct packfile *out);
void packfile_close(struct packfile *p); /* accepts a zeroed one */

/* A packed file being written, by several threads at once. */
struct packfile_writer;

/* Makes room first: packed files of models that are gone are removed, then those not used for longest, until all
 * together have at most `limit` bytes. NULL: over the limit by itself, or without leaving as much of the disk free
 * again, or it cannot be made. */
struct packfile_writer *packfile_create(const char *dir, const struct pack_id *id, uint64_t limit);

/* Bytes at an offset of the image; what is never written is zero. False: the disk is full or failing; the writer is of
 * no further use then. */
bool packfile_write(struct packfile_writer *w, uint64_t off, const void *bytes, size_t n);

/* Names it and opens it. False: it could not be; the image is lost then. Frees the writer either way. */
bool packfile_publish(struct packfile_writer *w, struct pool *pool, struct packfile *out);
void packfile_abandon(struct packfile_writer *w); /* accepts NULL */

/* What all packed files in a directory come to. */
struct packfile_total {
    uint64_t files, bytes;
};
struct packfile_total packfile_count(const char *dir);

#endif
