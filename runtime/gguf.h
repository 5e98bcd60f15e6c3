/* gguf: reads model files in the GGUF format, versions 2 and 3, little-endian.
 *
 * A `struct gguf` owns one open model: its metadata (keys and typed values), the table of its tensors and a read-only
 * mapping of their data, over one file or over all parts of a split set (name-00001-of-0000N.gguf). Everything is
 * checked once, when the file is opened: after gguf_open every pointer and length in this header is inside its file,
 * names are unique and NUL-terminated, tensors do not overlap. Errors name the file and the key or tensor.
 *
 * Metadata is read into memory, so it stays valid when the file later shrinks. Tensor data is mapped: reading
 * `tensor->data` of a file that shrank is a SIGBUS, which is why whoever packs weights uses gguf_pread.
 *
 * Refused: version 1, big-endian files, arrays of arrays, more than GGUF_MAX_KEYS keys or GGUF_MAX_TENSORS tensors,
 * metadata over 512 MiB, tensors of unknown type.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
#ifndef KGEN_GGUF_H
#define KGEN_GGUF_H

#include "codegen/base.h"

enum { GGUF_MAX_KEYS = 1 << 16, GGUF_MAX_TENSORS = 1 << 18, GGUF_MAX_NAME = 255 };

/* Value types as the file stores them. */
enum gguf_value_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_N_VALUE_TYPES
};

/* What a tensor type (ggml's numbering) is made of: blocks of n_elems values in n_bytes bytes along the first
 * dimension. */
struct gguf_type {
    const char *name; /* "q4_1" */
    uint32_t block_elems, block_bytes;
};

/* Maps a ggml type id to its description, NULL for one that is not known. */
typedef const struct gguf_type *(*gguf_type_fn)(uint32_t type_id);

/* A value. Scalars: n = 1. Arrays: `type` is the element's type and `is_array` is set. `data` is unaligned; read it
 * with the functions below. A scalar string's `data` is NUL-terminated text of `bytes` bytes (it may hold further
 * NULs). */
struct gguf_value {
    enum gguf_value_type type;
    bool is_array;
    uint64_t n;
    const void *data;
    uint64_t bytes;
};

struct gguf_key {
    const char *name;
    struct gguf_value value;
};

struct gguf_tensor {
    const char *name;
    uint32_t type_id;             /* ggml's number */
    const struct gguf_type *type; /* NULL when the file was opened without a type table */
    uint32_t n_dims;              /* 1 … 4 */
    uint32_t part;                /* index of the split part that holds it */
    uint64_t ne[4];               /* elements per dimension, ne[0] contiguous; 1 past n_dims */
    uint64_t n_elems;             /* their product */
    uint64_t off;                 /* absolute, in its part */
    uint64_t bytes;               /* 0 without a type table */
    const uint8_t *data;          /* NULL without a type table */
};

struct gguf;

/* Opens path (and, if it is the first part of a split set, the other parts beside it). With `types` NULL only the
 * metadata and the tensors' names and shapes are read: enough for a tokenizer. */
bool gguf_open(const char *path, gguf_type_fn types, struct gguf **out, struct err *e);
void gguf_close(struct gguf *g); /* accepts NULL */

const char *gguf_path(const struct gguf *g); /* as given to gguf_open */
uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_alignment(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g); /* of all parts together */
uint32_t gguf_n_parts(const struct gguf *g);
const char *gguf_part_path(const struct gguf *g, uint32_t i);

/* XXH3-128 of the contents of all parts, one after another, as hexadecimal digits. Reads all of it. */
bool gguf_digest(const struct gguf *g, char out[33], struct err *e);

/* Iteration in file order (of a split set: the first part's keys, all parts' tensors). */
size_t gguf_n_keys(const struct gguf *g);
const struct gguf_key *gguf_key_at(const struct gguf *g, size_t i);
size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);

/* Lookup by name; NULL when absent. */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name);
bool gguf_get_tensor(const struct gguf *g, const char *name, const struct gguf_tensor **out, struct err *e);

/* Typed getters. A missing key and one of another type are different errors. u64 takes every integer type and refuses
 * negative values; f32 takes f32 and f64. */
bool gguf_get_str(const struct gguf *g, const char *key, const char **out, struct err *e);
bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *e);
bool gguf_get_f32(const struct gguf *g, const char *key, float *out, struct err *e);
bool gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e);

/* The same with a default for a missing key; another type is still an error. */
bool gguf_get_str_or(const struct gguf *g, const char *key, const char *def, const char **out, struct err *e);
bool gguf_get_u64_or(const struct gguf *g, const char *key, uint64_t def, uint64_t *out, struct err *e);
bool gguf_get_f32_or(const struct gguf *g, const char *key, float def, float *out, struct err *e);
bool gguf_get_bool_or(const struct gguf *g, const char *key, bool def, bool *out, struct err *e);

/* n numbers from a key that holds either one (used n times) or an array of exactly n, as per-layer widths do. */
bool gguf_get_u64s(const struct gguf *g, const char *key, uint64_t *out, size_t n, struct err *e);

/* An array whose elements have this type (GGUF_U64 stands for any integer type). */
bool gguf_get_array(const struct gguf *g, const char *key, enum gguf_value_type elem, const struct gguf_value **out,
                    struct err *e);

/* Elements of a numeric value, i < v->n: integers (negative ones as two's complement), bools as 0/1, floats. */
uint64_t gguf_value_u64(const struct gguf_value *v, uint64_t i);
double gguf_value_f64(const struct gguf_value *v, uint64_t i);

/* Strings of a string value one after another (not NUL-terminated):
 * `struct gguf_strings it = gguf_strings_begin(v); while (gguf_strings_next(&it)) use(it.data, it.len);` */
struct gguf_strings {
    const char *data;
    uint64_t len;
    const uint8_t *next; /* private */
    uint64_t left;       /* private */
};
struct gguf_strings gguf_strings_begin(const struct gguf_value *v);
bool gguf_strings_next(struct gguf_strings *it);

const char *gguf_value_type_name(enum gguf_value_type t); /* "u32" */

/* Copies n bytes at byte `off` of the tensor, by pread: a file that shrank since is an error, not a signal. */
bool gguf_pread(const struct gguf *g, const struct gguf_tensor *t, uint64_t off, void *dst, size_t n, struct err *e);

/* What tells the files that g was opened from, as they stand now, from all others and from themselves after a change:
 * per part device, inode, size and times of change, then a hash of the metadata. Bytes, appended to *stamp; the first
 * part's absolute path with its NUL goes to *path. False: there is no such thing, since a part has no lasting name (a
 * memory file) or changed within the last two seconds, when another change might leave the same times. */
bool gguf_stamp(const struct gguf *g, struct buf *path, struct buf *stamp);

/* Gives the whole pages inside the tensor back to the system (they are read again on the next access). */
void gguf_drop(const struct gguf *g, const struct gguf_tensor *t);

#endif
