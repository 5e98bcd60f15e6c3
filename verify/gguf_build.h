/* gguf_build: makes GGUF files in memory for tests, valid ones and, field by field, damaged ones. */
#ifndef KGEN_GGUF_BUILD_H
#define KGEN_GGUF_BUILD_H

#include "runtime/gguf.h"

/* Counts are what was added unless set afterwards. */
struct gguf_build {
    struct buf keys, tensors, data;
    uint64_t n_keys, n_tensors;
    uint32_t version;   /* 0: 3 */
    uint32_t alignment; /* of the data; 0: 32. The key general.alignment is the caller's business. */
};

/* Pieces of the format. */
void build_u32(struct buf *b, uint32_t v);
void build_u64(struct buf *b, uint64_t v);
void build_string(struct buf *b, const char *s);

void build_str_key(struct gguf_build *g, const char *key, const char *value);
void build_u32_key(struct gguf_build *g, const char *key, uint32_t value);
void build_f32_key(struct gguf_build *g, const char *key, float value);
void build_bool_key(struct gguf_build *g, const char *key, bool value);
void build_strs_key(struct gguf_build *g, const char *key, const char *const *values, size_t n);
void build_i32s_key(struct gguf_build *g, const char *key, const int32_t *values, size_t n);
void build_f32s_key(struct gguf_build *g, const char *key, const float *values, size_t n);
/* A key whose type id and value bytes are given as they are. */
void build_raw_key(struct gguf_build *g, const char *key, uint32_t type, const void *value, size_t bytes);

/* A tensor at the end of the data so far, padded to the alignment. */
void build_tensor(struct gguf_build *g, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                  const void *data, size_t bytes);
/* A tensor's entry alone. */
void build_raw_tensor(struct gguf_build *g, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                      uint64_t off);

/* Appends the file to *out. */
void build_file(const struct gguf_build *g, struct buf *out);
void build_free(struct gguf_build *g);

/* ggml's types of which tests make tensors; a gguf_type_fn. */
const struct gguf_type *build_types(uint32_t type_id);

#endif
