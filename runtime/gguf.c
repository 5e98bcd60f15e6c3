#include "runtime/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/hash.h"

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
#define MAX_PARTS 99999u                         /* five digits in a part's name */

/* One file of the set. */
struct part {
    char *path;
    int fd;
    uint64_t bytes;
    uint8_t *map; /* the whole file, or NULL */
};

/* Names to indices: open addressing, at most half full. */
struct names {
    uint32_t *slot; /* index + 1, 0 = free */
    uint64_t mask;
};

struct gguf {
    char *path;
    gguf_type_fn types;
    uint32_t version, n_parts;
    uint64_t alignment;
    struct part *parts;
    uint8_t **meta; /* per part: the head of its file, kept because keys and names point into it */
    size_t n_keys, n_tensors, cap_tensors;
    struct gguf_key *keys;
    struct gguf_tensor *tensors;
    struct names key_names, tensor_names;
};

/* Reading position in the head of one part. `buf` holds the first `have` bytes of the file and grows on demand. */
struct reader {
    struct gguf *g;
    const struct part *part;
    uint32_t index;
    uint8_t *buf;
    uint64_t have, cap, pos;
    struct err *e;
};

static const uint8_t value_bytes[GGUF_N_VALUE_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

const char *gguf_value_type_name(enum gguf_value_type t) {
    static const char *const name[GGUF_N_VALUE_TYPES] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64"};
    return (unsigned)t < GGUF_N_VALUE_TYPES ? name[t] : "unknown";
}

/* --- names ------------------------------------------------------------------------------------------------------- */

/* The slot of `name` or the free one where it belongs. `name_of(g, i)` gives the i-th name. */
static uint32_t *names_slot(const struct names *t, const struct gguf *g,
                            const char *(*name_of)(const struct gguf *, size_t), const char *name) {
    uint64_t i = hash_bytes(name, strlen(name)) & t->mask;
    while (t->slot[i] && strcmp(name_of(g, t->slot[i] - 1), name) != 0) i = (i + 1) & t->mask;
    return &t->slot[i];
}

static bool names_new(struct names *t, size_t n) {
    uint64_t size = 16;
    while (size < 2 * (uint64_t)n) size *= 2;
    mem_free(t->slot);
    t->mask = size - 1;
    t->slot = mem_try(size, sizeof *t->slot);
    return t->slot != NULL;
}

static const char *key_name(const struct gguf *g, size_t i) {
    return g->keys[i].name;
}
static const char *tensor_name(const struct gguf *g, size_t i) {
    return g->tensors[i].name;
}

/* --- reading the head of a file ---------------------------------------------------------------------------------- */

static bool pread_all(const struct part *p, uint64_t off, void *dst, size_t n, struct err *e) {
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
    if (!pread_all(r->part, r->have, r->buf + r->have, r->cap - r->have, r->e)) return false;
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

/* --- checking ----------------------------------------------------------------------------------------------------- */

static bool read_alignment(struct gguf *g, const char *path, struct err *e) {
    g->alignment = 32;
    const struct gguf_value *v = gguf_find(g, "general.alignment");
    if (!v) return true;
    if (v->is_array || v->type != GGUF_U32)
        return err_set(e, ERR_INPUT, "%s: general.alignment has type %s%s, expected u32", path,
                       v->is_array ? "array of " : "", gguf_value_type_name(v->type));
    g->alignment = gguf_value_u64(v, 0);
    if (g->alignment < 8 || g->alignment > 1 << 20 || (g->alignment & (g->alignment - 1)))
        return err_set(e, ERR_INPUT, "%s: general.alignment is %" PRIu64 ", expected a power of two from 8 to %d", path,
                       g->alignment, 1 << 20);
    return true;
}

static int by_offset(const void *a, const void *b) {
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a, *y = *(const struct gguf_tensor *const *)b;
    return x->off < y->off ? -1 : x->off > y->off;
}

/* Makes offsets absolute and checks that the tensors [first, n) of one part lie in its file and do not overlap. */
static bool place_tensors(struct gguf *g, const struct part *p, uint64_t head_end, size_t first, struct err *e) {
    uint64_t start;
    if (!size_add(head_end, g->alignment - 1, &start))
        return err_set(e, ERR_INPUT, "%s: the padding after the tensor table exceeds 64 bits", p->path);
    start &= ~(g->alignment - 1);
    size_t n = g->n_tensors - first;
    struct gguf_tensor **order = mem_try(n, sizeof *order);
    if (!order) return err_set(e, ERR_MEMORY, "%s: no memory to check %zu tensors", p->path, n);
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        struct gguf_tensor *t = order[i] = &g->tensors[first + i];
        uint64_t end;
        if (t->off % g->alignment)
            ok = err_set(e, ERR_INPUT,
                         "%s: tensor '%s' has offset %" PRIu64 ", not a multiple of the alignment %" PRIu64, p->path,
                         t->name, t->off, g->alignment);
        else if (!size_add(start, t->off, &t->off) || !size_add(t->off, t->bytes, &end) || end > p->bytes)
            ok = err_set(e, ERR_INPUT,
                         "%s: tensor '%s' (%" PRIu64 " bytes at byte %" PRIu64
                         ") ends past the end of the file (%" PRIu64 " bytes): truncated download?",
                         p->path, t->name, t->bytes, t->off, p->bytes);
    }
    if (ok) {
        qsort(order, n, sizeof *order, by_offset);
        for (size_t i = 1; ok && i < n; i++)
            if (order[i - 1]->off + order[i - 1]->bytes > order[i]->off)
                ok = err_set(e, ERR_INPUT, "%s: tensors '%s' and '%s' overlap at byte %" PRIu64, p->path,
                             order[i - 1]->name, order[i]->name, order[i]->off);
    }
    mem_free(order);
    return ok;
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

static bool index_keys(struct gguf *g, const char *path, struct err *e) {
    if (!names_new(&g->key_names, g->n_keys)) return err_set(e, ERR_MEMORY, "%s: no memory for its keys", path);
    for (size_t i = 0; i < g->n_keys; i++) {
        uint32_t *slot = names_slot(&g->key_names, g, key_name, g->keys[i].name);
        if (*slot) return err_set(e, ERR_INPUT, "%s: the key '%s' appears twice", path, g->keys[i].name);
        *slot = (uint32_t)i + 1;
    }
    return true;
}

static bool index_tensors(struct gguf *g, struct err *e) {
    if (!names_new(&g->tensor_names, g->n_tensors))
        return err_set(e, ERR_MEMORY, "%s: no memory for its tensors", g->path);
    for (size_t i = 0; i < g->n_tensors; i++) {
        uint32_t *slot = names_slot(&g->tensor_names, g, tensor_name, g->tensors[i].name);
        if (*slot)
            return err_set(e, ERR_INPUT, "%s: the tensor '%s' appears twice", g->parts[g->tensors[i].part].path,
                           g->tensors[i].name);
        *slot = (uint32_t)i + 1;
    }
    return true;
}

/* --- lookup ------------------------------------------------------------------------------------------------------- */

const struct gguf_value *gguf_find(const struct gguf *g, const char *key) {
    uint32_t i = *names_slot(&g->key_names, g, key_name, key);
    return i ? &g->keys[i - 1].value : NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name) {
    uint32_t i = *names_slot(&g->tensor_names, g, tensor_name, name);
    return i ? &g->tensors[i - 1] : NULL;
}

const char *gguf_path(const struct gguf *g) {
    return g->path;
}
uint32_t gguf_version(const struct gguf *g) {
    return g->version;
}
uint64_t gguf_alignment(const struct gguf *g) {
    return g->alignment;
}
uint32_t gguf_n_parts(const struct gguf *g) {
    return g->n_parts;
}
size_t gguf_n_keys(const struct gguf *g) {
    return g->n_keys;
}
size_t gguf_n_tensors(const struct gguf *g) {
    return g->n_tensors;
}
const struct gguf_key *gguf_key_at(const struct gguf *g, size_t i) {
    return &g->keys[i];
}
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i) {
    return &g->tensors[i];
}

uint64_t gguf_file_bytes(const struct gguf *g) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < g->n_parts; i++) sum += g->parts[i].bytes;
    return sum;
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

static bool open_file(struct part *p, struct err *e) {
    p->fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a FIFO must not hang us */
    if (p->fd < 0) return err_set(e, ERR_IO, "%s: cannot open: %s", p->path, strerror(errno));
    struct stat st;
    if (fstat(p->fd, &st)) return err_set(e, ERR_IO, "%s: cannot stat: %s", p->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_IO, "%s: is %s, expected a model file", p->path,
                       S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    p->bytes = (uint64_t)st.st_size;
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

/* Parses the head of part `index` into g: its keys replace those there. */
static bool read_part(struct gguf *g, uint32_t index, struct err *e) {
    struct part *p = &g->parts[index];
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
    return index_keys(g, p->path, e) && read_alignment(g, p->path, e) &&
           (!g->types || place_tensors(g, p, r.pos, first, e));
}

/* The path of part no (from 0) of n, given the first part's; NULL when that is not named as the first of n. */
static char *part_path(const char *first, uint32_t no, uint32_t n) {
    char suffix[64];
    snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", 1u, n);
    size_t len = strlen(first), tail = strlen(suffix);
    if (len < tail || strcmp(first + len - tail, suffix) != 0) return NULL;
    struct buf b = {0};
    buf_add(&b, first, len - tail);
    buf_printf(&b, "-%05u-of-%05u.gguf", no + 1, n);
    return b.data;
}

/* Checks that the part just read says it is number `no` of `n`. */
static bool check_part(const struct gguf *g, uint32_t no, uint32_t n, struct err *e) {
    const char *path = g->parts[no].path;
    uint64_t own_no = 0, own_n = 0;
    if (!gguf_get_u64(g, "split.no", &own_no, e) || !gguf_get_u64(g, "split.count", &own_n, e))
        return err_prefix(e, "part %" PRIu32 " of %" PRIu32, no + 1, n);
    if (own_no != no || own_n != n)
        return err_set(e, ERR_INPUT,
                       "%s: is part %" PRIu64 " of %" PRIu64 ", expected part %" PRIu32 " of %" PRIu32
                       ": a part is missing or repeated",
                       path, own_no + 1, own_n, no + 1, n);
    return true;
}

/* Opens the other parts of a split set; the first one's keys stay. */
static bool open_rest(struct gguf *g, uint32_t n, struct err *e) {
    struct gguf_key *keys = g->keys;
    size_t n_keys = g->n_keys;
    uint64_t alignment = g->alignment;
    struct names key_names = g->key_names;
    uint64_t expected = 0;
    bool ok = gguf_get_u64_or(g, "split.tensors.count", 0, &expected, e);
    for (uint32_t i = 1; ok && i < n; i++) {
        struct part *p = &g->parts[i];
        p->path = part_path(g->path, i, n);
        if (!p->path) {
            ok = err_set(e, ERR_INPUT,
                         "%s: is the first of %" PRIu32 " parts and must be named …-00001-of-%05" PRIu32
                         ".gguf, so that the others can be found",
                         g->path, n, n);
            break;
        }
        g->keys = NULL;
        g->n_keys = 0;
        g->key_names = (struct names){0};
        ok = open_file(p, e);
        if (!ok) err_prefix(e, "part %" PRIu32 " of %" PRIu32, i + 1, n);
        ok = ok && read_part(g, i, e) && check_part(g, i, n, e);
        if (ok && g->alignment != alignment)
            ok = err_set(e, ERR_INPUT, "%s: general.alignment is %" PRIu64 ", the first part has %" PRIu64, p->path,
                         g->alignment, alignment);
        mem_free(g->keys);
        mem_free(g->key_names.slot);
    }
    g->keys = keys;
    g->n_keys = n_keys;
    g->key_names = key_names;
    g->alignment = alignment;
    if (ok && expected && expected != g->n_tensors)
        ok = err_set(e, ERR_INPUT, "%s: the parts hold %zu tensors, split.tensors.count says %" PRIu64, g->path,
                     g->n_tensors, expected);
    return ok;
}

static bool map_parts(struct gguf *g, struct err *e) {
    for (uint32_t i = 0; i < g->n_parts; i++) {
        struct part *p = &g->parts[i];
        void *m = mmap(NULL, p->bytes, PROT_READ, MAP_SHARED, p->fd, 0);
        if (m == MAP_FAILED)
            return err_set(e, ERR_IO, "%s: cannot map %" PRIu64 " bytes: %s", p->path, p->bytes, strerror(errno));
        p->map = m;
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        t->data = g->parts[t->part].map + t->off;
    }
    return true;
}

static bool open_all(struct gguf *g, struct err *e) {
    g->parts = mem_new(sizeof *g->parts);
    g->meta = mem_new(sizeof *g->meta);
    g->n_parts = 1;
    g->parts[0] = (struct part){.path = strdup(g->path), .fd = -1};
    if (!open_file(&g->parts[0], e) || !read_part(g, 0, e)) return false;
    uint64_t n = 1, no = 0;
    if (!gguf_get_u64_or(g, "split.count", 1, &n, e) || !gguf_get_u64_or(g, "split.no", 0, &no, e)) return false;
    if (n == 0) n = 1; /* written by files that are not split */
    if (n > MAX_PARTS)
        return err_set(e, ERR_INPUT, "%s: split.count is %" PRIu64 ", at most %u", g->path, n, MAX_PARTS);
    if (n > 1) {
        if (no != 0)
            return err_set(e, ERR_INPUT, "%s: is part %" PRIu64 " of %" PRIu64 " of a split model; open the first part",
                           g->path, no + 1, n);
        struct part *parts = mem_new(n * sizeof *parts);
        uint8_t **meta = mem_new(n * sizeof *meta);
        for (uint64_t i = 1; i < n; i++) parts[i].fd = -1;
        parts[0] = g->parts[0];
        meta[0] = g->meta[0];
        mem_free(g->parts);
        mem_free(g->meta);
        g->parts = parts;
        g->meta = meta;
        g->n_parts = (uint32_t)n;
        if (!open_rest(g, g->n_parts, e)) return false;
    }
    return index_tensors(g, e) && (!g->types || map_parts(g, e));
}

bool gguf_open(const char *path, gguf_type_fn types, struct gguf **out, struct err *e) {
    *out = NULL;
    struct gguf *g = mem_new(sizeof *g);
    g->path = strdup(path);
    g->types = types;
    if (!open_all(g, e)) {
        gguf_close(g);
        return false;
    }
    *out = g;
    return true;
}

void gguf_close(struct gguf *g) {
    if (!g) return;
    for (uint32_t i = 0; i < g->n_parts; i++) {
        struct part *p = &g->parts[i];
        if (p->map) munmap(p->map, p->bytes);
        if (p->fd >= 0) close(p->fd);
        free(p->path);
        free(g->meta[i]);
    }
    mem_free(g->parts);
    mem_free(g->meta);
    mem_free(g->keys);
    mem_free(g->tensors);
    mem_free(g->key_names.slot);
    mem_free(g->tensor_names.slot);
    free(g->path);
    mem_free(g);
}

bool gguf_pread(const struct gguf *g, const struct gguf_tensor *t, uint64_t off, void *dst, size_t n, struct err *e) {
    if (off > t->bytes || n > t->bytes - off)
        bug("read of %zu bytes at %" PRIu64 " of tensor '%s', which has %" PRIu64, n, off, t->name, t->bytes);
    if (pread_all(&g->parts[t->part], t->off + off, dst, n, e)) return true;
    return err_prefix(e, "tensor '%s'", t->name);
}

void gguf_drop(const struct gguf *g, const struct gguf_tensor *t) {
    (void)g;
    if (!t->data) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)t->data + page - 1) & ~(page - 1), to = ((uintptr_t)t->data + t->bytes) & ~(page - 1);
    if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}
