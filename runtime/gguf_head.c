/* The head of a GGUF file, read into memory and checked byte by byte. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/gguf_impl.h"

/* The file's layout (all integers little-endian):
 *
 *   "GGUF" | u32 version | u64 n_tensors | u64 n_keys
 *   n_keys    × { string name | u32 type | value }            string: u64 length | bytes
 *   n_tensors × { string name | u32 n_dims | n_dims × u64 ne | u32 type | u64 offset }
 *   padding to the alignment | tensor data, offsets relative to here
 *
 * An array value: u32 element type | u64 count | elements. */
#define MAX_METADATA (512ull << 20)
#define MAX_KEY_NAME 65535u
#define MIN_KEY_BYTES (8 + 1 + 4 + 1)            /* the shortest key the format allows */
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8) /* and the shortest tensor entry */

/* Reading position in the head of one part. `buf` holds the first `have` bytes of the file and grows on demand. */
struct reader {
    struct gguf *g;
    const struct gguf_part *part;
    uint32_t index;
    uint8_t *buf;
    uint64_t have, cap, pos;
    struct err *e;
};

static const uint8_t value_bytes[GGUF_N_VALUE_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

bool part_read(const struct gguf_part *p, uint64_t off, void *dst, size_t n, struct err *e) {
    uint8_t *d = dst;
    while (n) {
        ssize_t got = pread(p->fd, d, n, (off_t)off);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return err_set(e, ERR_IO, "%s: cannot read at byte %" PRIu64 ": %s", p->path, off, strerror(errno));
        if (got == 0)
            return err_set(e, ERR_IO,
                           "%s: the file ends at byte %" PRIu64 ", it had %" PRIu64 " bytes when it was opened",
                           p->path, off, p->bytes);
        d += got;
        off += (uint64_t)got;
        n -= (size_t)got;
    }
    return true;
}

/* Makes the next n bytes available at r->buf + r->pos; `what` names them in the error. */
static bool need(struct reader *r, uint64_t n, const char *what) {
    uint64_t end;
    if (!size_add(r->pos, n, &end) || end > r->part->bytes)
        return err_set(r->e, ERR_INPUT,
                       "%s: truncated or damaged: %s needs %" PRIu64 " bytes at byte %" PRIu64
                       ", but the file has %" PRIu64,
                       r->part->path, what, n, r->pos, r->part->bytes);
    if (end <= r->have) return true;
    if (end > MAX_METADATA)
        return err_set(r->e, ERR_UNSUPPORTED,
                       "%s: %s ends at byte %" PRIu64 ": metadata over %llu bytes is not supported", r->part->path,
                       what, end, MAX_METADATA);
    uint64_t cap = r->cap ? r->cap : 1 << 16;
    while (cap < end) cap += cap / 2;
    if (cap > r->part->bytes) cap = r->part->bytes;
    if (cap > r->cap) {
        uint8_t *b = realloc(r->buf, cap + 1); /* the byte past the end takes the last name's NUL */
        if (!b) return err_set(r->e, ERR_MEMORY, "%s: no memory for %" PRIu64 " bytes of metadata", r->part->path, cap);
        r->buf = b;
        r->cap = cap;
    }
    if (!part_read(r->part, r->have, r->buf + r->have, r->cap - r->have, r->e)) return false;
    r->have = r->cap;
    return true;
}

static uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint64_t load_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static bool read_u32(struct reader *r, uint32_t *v, const char *what) {
    if (!need(r, 4, what)) return false;
    *v = load_u32(r->buf + r->pos);
    r->pos += 4;
    return true;
}

static bool read_u64(struct reader *r, uint64_t *v, const char *what) {
    if (!need(r, 8, what)) return false;
    *v = load_u64(r->buf + r->pos);
    r->pos += 8;
    return true;
}

/* A string of at most `max` bytes: its offset and length (the buffer may still move). */
static bool read_string(struct reader *r, uint64_t max, uint64_t *off, uint64_t *len, const char *what) {
    if (!read_u64(r, len, what)) return false;
    if (*len > max && *len <= r->part->bytes)
        return err_set(r->e, ERR_INPUT,
                       "%s: %s at byte %" PRIu64 " is %" PRIu64 " bytes long, at most %" PRIu64 " are expected",
                       r->part->path, what, r->pos - 8, *len, max);
    if (!need(r, *len, what)) return false;
    *off = r->pos;
    r->pos += *len;
    return true;
}

/* Names and scalar strings are NUL-terminated in place once their part is parsed: the byte after one belongs to a
 * length or type field that has been read by then. Until then pointers into the buffer are kept as offsets. */
static const char *at_offset(uint64_t off) {
    return (const char *)(uintptr_t)off;
}
static uint64_t offset_of(const void *p) {
    return (uint64_t)(uintptr_t)p;
}

static bool check_bools(struct reader *r, uint64_t off, uint64_t n, const char *what) {
    for (uint64_t i = 0; i < n; i++)
        if (r->buf[off + i] > 1)
            return err_set(r->e, ERR_INPUT, "%s: %s holds a bool of value %u, expected 0 or 1", r->part->path, what,
                           r->buf[off + i]);
    return true;
}

/* Reads one value of type `type`; v->data is an offset. */
static bool read_value(struct reader *r, uint32_t type, struct gguf_value *v, const char *what) {
    *v = (struct gguf_value){.n = 1};
    if (type == GGUF_ARRAY) {
        v->is_array = true;
        if (!read_u32(r, &type, what) || !read_u64(r, &v->n, what)) return false;
        if (type == GGUF_ARRAY)
            return err_set(r->e, ERR_UNSUPPORTED, "%s: %s is an array of arrays, which is not supported", r->part->path,
                           what);
    }
    if (type >= GGUF_N_VALUE_TYPES)
        return err_set(r->e, ERR_INPUT, "%s: %s has value type %" PRIu32 ", expected 0 to %d", r->part->path, what,
                       type, GGUF_N_VALUE_TYPES - 1);
    v->type = type;
    if (type == GGUF_STRING && !v->is_array) {
        uint64_t off, len;
        if (!read_string(r, UINT64_MAX, &off, &len, what)) return false;
        v->data = at_offset(off);
        v->bytes = len;
        return true;
    }
    uint64_t start = r->pos;
    if (type == GGUF_STRING) {
        uint64_t least, off, len;
        if (!size_mul(v->n, 8, &least)) least = UINT64_MAX;
        if (least > r->part->bytes - r->pos)
            return err_set(r->e, ERR_INPUT, "%s: %s claims %" PRIu64 " strings, more than the file can hold",
                           r->part->path, what, v->n);
        for (uint64_t i = 0; i < v->n; i++)
            if (!read_string(r, UINT64_MAX, &off, &len, what)) return false;
    } else {
        uint64_t bytes;
        if (!size_mul(v->n, value_bytes[type], &bytes)) bytes = UINT64_MAX;
        if (!need(r, bytes, what)) return false;
        r->pos += bytes;
    }
    v->data = at_offset(start);
    v->bytes = r->pos - start;
    return type != GGUF_BOOL || check_bools(r, start, v->n, what);
}

/* A key's or tensor's name for messages: printable ASCII, shortened. */
static const char *shown(const struct reader *r, uint64_t off, uint64_t len, char out[80]) {
    size_t n = len < 70 ? len : 70;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = r->buf[off + i];
        out[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    snprintf(out + n, 80 - n, "%s", len > n ? "..." : "");
    return out;
}

static bool check_name(struct reader *r, uint64_t off, uint64_t len, const char *what) {
    if (!len) return err_set(r->e, ERR_INPUT, "%s: an empty %s at byte %" PRIu64, r->part->path, what, off - 8);
    char s[80];
    if (memchr(r->buf + off, 0, len))
        return err_set(r->e, ERR_INPUT, "%s: the %s '%s' contains a NUL byte", r->part->path, what,
                       shown(r, off, len, s));
    return true;
}

static bool read_key(struct reader *r, struct gguf_key *k) {
    uint64_t off, len;
    uint32_t type;
    char s[80], what[100];
    if (!read_string(r, MAX_KEY_NAME, &off, &len, "a key's name") || !check_name(r, off, len, "key's name"))
        return false;
    snprintf(what, sizeof what, "key '%s'", shown(r, off, len, s));
    if (!read_u32(r, &type, what) || !read_value(r, type, &k->value, what)) return false;
    k->name = at_offset(off);
    return true;
}

/* Reads a tensor's entry: t->name and t->off are relative offsets still. */
static bool read_tensor(struct reader *r, struct gguf_tensor *t) {
    uint64_t off, len;
    char s[80];
    if (!read_string(r, GGUF_MAX_NAME, &off, &len, "a tensor's name") || !check_name(r, off, len, "tensor's name"))
        return false;
    const char *path = r->part->path, *name = shown(r, off, len, s);
    char what[100];
    snprintf(what, sizeof what, "tensor '%s'", name);
    *t = (struct gguf_tensor){.name = at_offset(off), .part = r->index, .n_elems = 1, .ne = {1, 1, 1, 1}};
    if (!read_u32(r, &t->n_dims, what)) return false;
    if (t->n_dims < 1 || t->n_dims > 4)
        return err_set(r->e, ERR_INPUT, "%s: tensor '%s' has %" PRIu32 " dimensions, expected 1 to 4", path, name,
                       t->n_dims);
    for (uint32_t d = 0; d < t->n_dims; d++) {
        if (!read_u64(r, &t->ne[d], what)) return false;
        if (!t->ne[d] || t->ne[d] > INT64_MAX || !size_mul(t->n_elems, t->ne[d], &t->n_elems))
            return err_set(r->e, ERR_INPUT,
                           "%s: tensor '%s': dimension %" PRIu32 " is %" PRId64
                           ": expected a positive size with a product under 2^64",
                           path, name, d, (int64_t)t->ne[d]);
    }
    if (!read_u32(r, &t->type_id, what) || !read_u64(r, &t->off, what)) return false;
    if (!r->g->types) return true;

    t->type = r->g->types(t->type_id);
    if (!t->type)
        return err_set(r->e, ERR_UNSUPPORTED, "%s: tensor '%s' has type id %" PRIu32 ", which is not known", path, name,
                       t->type_id);
    if (t->ne[0] % t->type->block_elems)
        return err_set(r->e, ERR_INPUT,
                       "%s: tensor '%s' has rows of %" PRIu64 " elements, not a multiple of %s's %" PRIu32, path, name,
                       t->ne[0], t->type->name, t->type->block_elems);
    if (!size_mul(t->n_elems / t->type->block_elems, t->type->block_bytes, &t->bytes))
        return err_set(r->e, ERR_INPUT, "%s: tensor '%s': its size in bytes exceeds 64 bits", path, name);
    return true;
}

static bool read_header(struct reader *r, uint64_t *n_tensors, uint64_t *n_keys) {
    const char *path = r->part->path;
    uint32_t magic, version;
    if (!r->part->bytes) return err_set(r->e, ERR_INPUT, "%s: the file is empty, expected a GGUF model", path);
    if (r->part->bytes >= 4) {
        if (!read_u32(r, &magic, "the magic number")) return false;
        if (memcmp(r->buf, "GGUF", 4) != 0)
            return err_set(r->e, ERR_INPUT, "%s: not a GGUF file: it starts with %02x %02x %02x %02x, expected 'GGUF'",
                           path, r->buf[0], r->buf[1], r->buf[2], r->buf[3]);
    }
    if (!read_u32(r, &version, "the header")) return false;
    if (version != 2 && version != 3 && !(version & 0xffff) && version)
        return err_set(r->e, ERR_UNSUPPORTED, "%s: a big-endian GGUF file; convert it to little-endian", path);
    if (version != 2 && version != 3)
        return err_set(r->e, ERR_UNSUPPORTED, "%s: GGUF version %" PRIu32 ", expected 2 or 3", path, version);
    r->g->version = version;
    if (!read_u64(r, n_tensors, "the header") || !read_u64(r, n_keys, "the header")) return false;
    uint64_t rest = r->part->bytes - r->pos;
    if (*n_keys > rest / MIN_KEY_BYTES)
        return err_set(r->e, ERR_INPUT, "%s: the header claims %" PRIu64 " keys, more than %" PRIu64 " bytes can hold",
                       path, *n_keys, r->part->bytes);
    if (*n_tensors > rest / MIN_TENSOR_BYTES)
        return err_set(r->e, ERR_INPUT,
                       "%s: the header claims %" PRIu64 " tensors, more than %" PRIu64 " bytes can hold", path,
                       *n_tensors, r->part->bytes);
    if (*n_keys > GGUF_MAX_KEYS)
        return err_set(r->e, ERR_UNSUPPORTED, "%s: %" PRIu64 " keys, at most %d are supported", path, *n_keys,
                       GGUF_MAX_KEYS);
    if (*n_tensors > GGUF_MAX_TENSORS - r->g->n_tensors)
        return err_set(r->e, ERR_UNSUPPORTED, "%s: %" PRIu64 " tensors, at most %d are supported", path, *n_tensors,
                       GGUF_MAX_TENSORS);
    return true;
}

/* Replaces offsets by pointers and terminates strings. A name is followed by a type or count, a string value by the
 * length of the next name: so all names come first. */
static const char *resolve_name(uint8_t *buf, const char *offset) {
    char *name = (char *)buf + offset_of(offset);
    name[load_u64((uint8_t *)name - 8)] = 0;
    return name;
}

static void resolve(struct gguf *g, uint8_t *buf, size_t first_tensor) {
    for (size_t i = 0; i < g->n_keys; i++) {
        g->keys[i].name = resolve_name(buf, g->keys[i].name);
        g->keys[i].value.data = buf + offset_of(g->keys[i].value.data);
    }
    for (size_t i = first_tensor; i < g->n_tensors; i++) g->tensors[i].name = resolve_name(buf, g->tensors[i].name);
    for (size_t i = 0; i < g->n_keys; i++) {
        const struct gguf_value *v = &g->keys[i].value;
        if (v->type == GGUF_STRING && !v->is_array) ((char *)v->data)[v->bytes] = 0;
    }
}

/* Room for n more tensors. */
static bool grow_tensors(struct gguf *g, uint64_t n, struct err *e) {
    if (g->n_tensors + n <= g->cap_tensors) return true;
    size_t cap = g->n_tensors + n;
    struct gguf_tensor *t = mem_try(cap, sizeof *t);
    if (!t) return err_set(e, ERR_MEMORY, "%s: no memory for %zu tensors", g->path, cap);
    if (g->n_tensors) memcpy(t, g->tensors, g->n_tensors * sizeof *t);
    mem_free(g->tensors);
    g->tensors = t;
    g->cap_tensors = cap;
    return true;
}

bool head_read(struct gguf *g, uint32_t index, uint64_t *end, struct err *e) {
    const struct gguf_part *p = &g->parts[index];
    struct reader r = {.g = g, .part = p, .index = index, .e = e};
    uint64_t n_tensors = 0, n_keys = 0;
    size_t first = g->n_tensors;
    bool ok = read_header(&r, &n_tensors, &n_keys);
    if (ok) {
        mem_free(g->keys);
        g->n_keys = 0;
        g->keys = mem_try(n_keys, sizeof *g->keys);
        ok = g->keys ? grow_tensors(g, n_tensors, e) : err_set(e, ERR_MEMORY, "%s: no memory for its keys", p->path);
    }
    for (uint64_t i = 0; ok && i < n_keys; i++) {
        ok = read_key(&r, &g->keys[i]);
        if (ok) g->n_keys++;
    }
    for (uint64_t i = 0; ok && i < n_tensors; i++) {
        ok = read_tensor(&r, &g->tensors[first + i]);
        if (ok) g->n_tensors++;
    }
    g->meta[index] = r.buf; /* from here on gguf_close frees it */
    if (!ok) {
        g->n_keys = 0;
        g->n_tensors = first;
        return false;
    }
    resolve(g, r.buf, first);
    *end = r.pos;
    return true;
}
