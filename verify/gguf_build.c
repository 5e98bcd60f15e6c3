#include "verify/gguf_build.h"

#include <string.h>

void build_u32(struct buf *b, uint32_t v) {
    buf_add(b, &v, 4);
}
void build_u64(struct buf *b, uint64_t v) {
    buf_add(b, &v, 8);
}

void build_string(struct buf *b, const char *s) {
    build_u64(b, strlen(s));
    buf_puts(b, s);
}

void build_raw_key(struct gguf_build *g, const char *key, uint32_t type, const void *value, size_t bytes) {
    build_string(&g->keys, key);
    build_u32(&g->keys, type);
    buf_add(&g->keys, value, bytes);
    g->n_keys++;
}

void build_str_key(struct gguf_build *g, const char *key, const char *value) {
    build_raw_key(g, key, GGUF_STRING, NULL, 0);
    build_string(&g->keys, value);
}

void build_u32_key(struct gguf_build *g, const char *key, uint32_t value) {
    build_raw_key(g, key, GGUF_U32, &value, 4);
}
void build_f32_key(struct gguf_build *g, const char *key, float value) {
    build_raw_key(g, key, GGUF_F32, &value, 4);
}

void build_bool_key(struct gguf_build *g, const char *key, bool value) {
    build_raw_key(g, key, GGUF_BOOL, &(uint8_t){value}, 1);
}

static void array_key(struct gguf_build *g, const char *key, uint32_t type, const void *values, size_t n,
                      size_t bytes) {
    build_raw_key(g, key, GGUF_ARRAY, NULL, 0);
    build_u32(&g->keys, type);
    build_u64(&g->keys, n);
    buf_add(&g->keys, values, bytes);
}

void build_strs_key(struct gguf_build *g, const char *key, const char *const *values, size_t n) {
    array_key(g, key, GGUF_STRING, NULL, n, 0);
    for (size_t i = 0; i < n; i++) build_string(&g->keys, values[i]);
}

void build_i32s_key(struct gguf_build *g, const char *key, const int32_t *values, size_t n) {
    array_key(g, key, GGUF_I32, values, n, 4 * n);
}

void build_f32s_key(struct gguf_build *g, const char *key, const float *values, size_t n) {
    array_key(g, key, GGUF_F32, values, n, 4 * n);
}

void build_raw_tensor(struct gguf_build *g, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                      uint64_t off) {
    build_string(&g->tensors, name);
    build_u32(&g->tensors, n_dims);
    for (uint32_t d = 0; d < n_dims; d++) build_u64(&g->tensors, ne[d]);
    build_u32(&g->tensors, type);
    build_u64(&g->tensors, off);
    g->n_tensors++;
}

static void pad(struct buf *b, uint32_t alignment) {
    while (b->len % (alignment ? alignment : 32)) buf_add(b, "", 1);
}

void build_tensor(struct gguf_build *g, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                  const void *data, size_t bytes) {
    pad(&g->data, g->alignment);
    build_raw_tensor(g, name, n_dims, ne, type, g->data.len);
    buf_add(&g->data, data, bytes);
}

void build_file(const struct gguf_build *g, struct buf *out) {
    buf_puts(out, "GGUF");
    build_u32(out, g->version ? g->version : 3);
    build_u64(out, g->n_tensors);
    build_u64(out, g->n_keys);
    buf_add(out, g->keys.data, g->keys.len);
    buf_add(out, g->tensors.data, g->tensors.len);
    if (!g->data.len) return;
    pad(out, g->alignment);
    buf_add(out, g->data.data, g->data.len);
}

void build_free(struct gguf_build *g) {
    buf_free(&g->keys);
    buf_free(&g->tensors);
    buf_free(&g->data);
    *g = (struct gguf_build){0};
}

const struct gguf_type *build_types(uint32_t type_id) {
    static const struct gguf_type types[] = {
        [0] = {"f32", 1, 4},       [1] = {"f16", 1, 2},       [2] = {"q4_0", 32, 18},    [3] = {"q4_1", 32, 20},
        [6] = {"q5_0", 32, 22},    [7] = {"q5_1", 32, 24},    [8] = {"q8_0", 32, 34},    [10] = {"q2_k", 256, 84},
        [11] = {"q3_k", 256, 110}, [12] = {"q4_k", 256, 144}, [13] = {"q5_k", 256, 176}, [14] = {"q6_k", 256, 210},
        [20] = {"iq4_nl", 32, 18}, [30] = {"bf16", 1, 2},
    };
    return type_id < sizeof types / sizeof *types && types[type_id].name ? &types[type_id] : NULL;
}
