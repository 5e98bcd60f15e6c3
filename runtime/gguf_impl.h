/* Shared by gguf.c and gguf_head.c; nobody else includes it. */
#ifndef KGEN_GGUF_IMPL_H
#define KGEN_GGUF_IMPL_H

#include "runtime/gguf.h"

/* One file of the set. */
struct gguf_part {
    char *path;
    int fd;
    uint64_t bytes;
    uint8_t *map; /* the whole file, or NULL */
};

/* Names to indices: open addressing, at most half full. */
struct gguf_names {
    uint32_t *slot; /* index + 1, 0 = free */
    uint64_t mask;
};

struct gguf {
    char *path;
    gguf_type_fn types;
    uint32_t version, n_parts;
    uint64_t alignment;
    struct gguf_part *parts;
    uint8_t **meta; /* per part: the head of its file, kept because keys and names point into it */
    size_t n_keys, n_tensors, cap_tensors;
    struct gguf_key *keys;
    struct gguf_tensor *tensors;
    struct gguf_names key_names, tensor_names;
};

/* Reads n bytes at `off`; a file that has become shorter is an error. */
bool part_read(const struct gguf_part *p, uint64_t off, void *dst, size_t n, struct err *e);

/* Parses the head of part `index`: header, keys (they replace those in g) and tensor table (appended to g->tensors).
 * All of it lies in the file then; tensor offsets are still relative to the data, which begins after *end. */
bool head_read(struct gguf *g, uint32_t index, uint64_t *end, struct err *e);

#endif
