/* Typed reading of the values that gguf.c has checked. */
#include "runtime/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *gguf_value_type_name(enum gguf_value_type t) {
    static const char *const name[GGUF_N_VALUE_TYPES] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64"};
    return (unsigned)t < GGUF_N_VALUE_TYPES ? name[t] : "unknown";
}

static bool is_integer(enum gguf_value_type t) {
    return t <= GGUF_I32 || t == GGUF_U64 || t == GGUF_I64;
}

static bool missing(const struct gguf *g, const char *key, struct err *e) {
    return err_set(e, ERR_INPUT, "%s: the key '%s' is missing", gguf_path(g), key);
}

static bool wrong_type(const struct gguf *g, const char *key, const struct gguf_value *v, const char *expected,
                       struct err *e) {
    return err_set(e, ERR_INPUT, "%s: the key '%s' has type %s%s, expected %s", gguf_path(g), key,
                   v->is_array ? "array of " : "", gguf_value_type_name(v->type), expected);
}

uint64_t gguf_value_u64(const struct gguf_value *v, uint64_t i) {
    if (i >= v->n) bug("element %" PRIu64 " of a value with %" PRIu64, i, v->n);
    const uint8_t *p = v->data;
    union {
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
    } x;
    switch (v->type) {
    case GGUF_U8:
    case GGUF_BOOL:
        return p[i];
    case GGUF_I8:
        return (uint64_t)(int64_t)(int8_t)p[i];
    case GGUF_U16:
        return memcpy(&x, p + 2 * i, 2), x.u16;
    case GGUF_I16:
        return memcpy(&x, p + 2 * i, 2), (uint64_t)(int64_t)x.i16;
    case GGUF_U32:
        return memcpy(&x, p + 4 * i, 4), x.u32;
    case GGUF_I32:
        return memcpy(&x, p + 4 * i, 4), (uint64_t)(int64_t)x.i32;
    case GGUF_U64:
    case GGUF_I64:
        return memcpy(&x, p + 8 * i, 8), x.u64;
    default:
        bug("a %s read as an integer", gguf_value_type_name(v->type));
    }
}

double gguf_value_f64(const struct gguf_value *v, uint64_t i) {
    float f;
    double d;
    if (v->type == GGUF_U64) return (double)gguf_value_u64(v, i);
    if (v->type != GGUF_F32 && v->type != GGUF_F64) return (double)(int64_t)gguf_value_u64(v, i);
    if (i >= v->n) bug("element %" PRIu64 " of a value with %" PRIu64, i, v->n);
    if (v->type == GGUF_F64) return memcpy(&d, (const uint8_t *)v->data + 8 * i, 8), d;
    return memcpy(&f, (const uint8_t *)v->data + 4 * i, 4), (double)f;
}

struct gguf_strings gguf_strings_begin(const struct gguf_value *v) {
    if (v->type != GGUF_STRING || !v->is_array) bug("a %s read as an array of strings", gguf_value_type_name(v->type));
    return (struct gguf_strings){.next = v->data, .left = v->n};
}

bool gguf_strings_next(struct gguf_strings *it) {
    if (!it->left) return false;
    it->left--;
    memcpy(&it->len, it->next, 8);
    it->data = (const char *)it->next + 8;
    it->next += 8 + it->len;
    return true;
}

bool gguf_get_tensor(const struct gguf *g, const char *name, const struct gguf_tensor **out, struct err *e) {
    *out = gguf_find_tensor(g, name);
    return *out || err_set(e, ERR_INPUT, "%s: the tensor '%s' is missing", gguf_path(g), name);
}

/* Element i of an integer value, refused when negative. */
static bool integer_at(const struct gguf *g, const char *key, const struct gguf_value *v, uint64_t i, uint64_t *out,
                       struct err *e) {
    *out = gguf_value_u64(v, i);
    bool is_signed = v->type == GGUF_I8 || v->type == GGUF_I16 || v->type == GGUF_I32 || v->type == GGUF_I64;
    if (is_signed && (int64_t)*out < 0)
        return err_set(e, ERR_INPUT, "%s: the key '%s' holds %" PRId64 ", expected a value of 0 or more", gguf_path(g),
                       key, (int64_t)*out);
    return true;
}

bool gguf_get_str(const struct gguf *g, const char *key, const char **out, struct err *e) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key, e);
    if (v->is_array || v->type != GGUF_STRING) return wrong_type(g, key, v, "string", e);
    *out = v->data;
    return true;
}

bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *e) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key, e);
    if (v->is_array || !is_integer(v->type)) return wrong_type(g, key, v, "an integer", e);
    return integer_at(g, key, v, 0, out, e);
}

bool gguf_get_f32(const struct gguf *g, const char *key, float *out, struct err *e) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key, e);
    if (v->is_array || (v->type != GGUF_F32 && v->type != GGUF_F64)) return wrong_type(g, key, v, "f32", e);
    *out = (float)gguf_value_f64(v, 0);
    return true;
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *out, struct err *e) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key, e);
    if (v->is_array || v->type != GGUF_BOOL) return wrong_type(g, key, v, "bool", e);
    *out = gguf_value_u64(v, 0) != 0;
    return true;
}

bool gguf_get_str_or(const struct gguf *g, const char *key, const char *def, const char **out, struct err *e) {
    *out = def;
    return !gguf_find(g, key) || gguf_get_str(g, key, out, e);
}

bool gguf_get_u64_or(const struct gguf *g, const char *key, uint64_t def, uint64_t *out, struct err *e) {
    *out = def;
    return !gguf_find(g, key) || gguf_get_u64(g, key, out, e);
}

bool gguf_get_f32_or(const struct gguf *g, const char *key, float def, float *out, struct err *e) {
    *out = def;
    return !gguf_find(g, key) || gguf_get_f32(g, key, out, e);
}

bool gguf_get_bool_or(const struct gguf *g, const char *key, bool def, bool *out, struct err *e) {
    *out = def;
    return !gguf_find(g, key) || gguf_get_bool(g, key, out, e);
}

bool gguf_get_u64s(const struct gguf *g, const char *key, uint64_t *out, size_t n, struct err *e) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key, e);
    if (!is_integer(v->type)) return wrong_type(g, key, v, "an integer or an array of integers", e);
    if (v->is_array && v->n != n)
        return err_set(e, ERR_INPUT, "%s: the key '%s' has %" PRIu64 " elements, expected %zu", gguf_path(g), key, v->n,
                       n);
    for (size_t i = 0; i < n; i++)
        if (!integer_at(g, key, v, v->is_array ? i : 0, &out[i], e)) return false;
    return true;
}

bool gguf_get_array(const struct gguf *g, const char *key, enum gguf_value_type elem, const struct gguf_value **out,
                    struct err *e) {
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return missing(g, key, e);
    if (!v->is_array || (elem == GGUF_U64 ? !is_integer(v->type) : v->type != elem)) {
        char expected[48];
        snprintf(expected, sizeof expected, "array of %s", elem == GGUF_U64 ? "integers" : gguf_value_type_name(elem));
        return wrong_type(g, key, v, expected, e);
    }
    *out = v;
    return true;
}
