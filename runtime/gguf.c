/* Opening GGUF files, alone or in sets, placing their tensors, and finding things by name. */
#include "runtime/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/gguf_impl.h"
#include "runtime/hash.h"

#define MAX_PARTS 99999u /* five digits in a part's name */

/* --- names ------------------------------------------------------------------------------------------------------- */

/* The slot of `name` or the free one where it belongs. `name_of(g, i)` gives the i-th name. */
static uint32_t *names_slot(const struct gguf_names *t, const struct gguf *g,
                            const char *(*name_of)(const struct gguf *, size_t), const char *name) {
    uint64_t i = hash_bytes(name, strlen(name)) & t->mask;
    while (t->slot[i] && strcmp(name_of(g, t->slot[i] - 1), name) != 0) i = (i + 1) & t->mask;
    return &t->slot[i];
}

static bool names_new(struct gguf_names *t, size_t n) {
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
static bool place_tensors(struct gguf *g, const struct gguf_part *p, uint64_t head_end, size_t first, struct err *e) {
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

const char *gguf_part_path(const struct gguf *g, uint32_t i) {
    return g->parts[i].path;
}

bool gguf_digest(const struct gguf *g, char out[33], struct err *e) {
    enum { CHUNK = 1 << 20 };
    XXH3_state_t *state = XXH3_createState();
    uint8_t *chunk = mem_new(CHUNK);
    bool ok = state != NULL || err_set(e, ERR_MEMORY, "%s: no memory to hash it", g->path);
    if (ok) XXH3_128bits_reset(state);
    for (uint32_t i = 0; i < g->n_parts && ok; i++)
        for (uint64_t off = 0; off < g->parts[i].bytes && ok; off += CHUNK) {
            size_t n = g->parts[i].bytes - off < CHUNK ? (size_t)(g->parts[i].bytes - off) : CHUNK;
            ok = part_read(&g->parts[i], off, chunk, n, e);
            if (ok) XXH3_128bits_update(state, chunk, n);
        }
    if (ok) {
        XXH128_hash_t h = XXH3_128bits_digest(state);
        snprintf(out, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
    }
    mem_free(chunk);
    XXH3_freeState(state);
    return ok;
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

static bool open_file(struct gguf_part *p, struct err *e) {
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

/* Reads and checks part `index`: its keys replace those of g, its tensors are appended. */
static bool read_part(struct gguf *g, uint32_t index, struct err *e) {
    const struct gguf_part *p = &g->parts[index];
    size_t first = g->n_tensors;
    uint64_t end;
    return head_read(g, index, &end, e) && index_keys(g, p->path, e) && read_alignment(g, p->path, e) &&
           (!g->types || place_tensors(g, p, end, first, e));
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
    struct gguf_names key_names = g->key_names;
    uint64_t expected = 0;
    bool ok = gguf_get_u64_or(g, "split.tensors.count", 0, &expected, e);
    for (uint32_t i = 1; ok && i < n; i++) {
        struct gguf_part *p = &g->parts[i];
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
        g->key_names = (struct gguf_names){0};
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
        struct gguf_part *p = &g->parts[i];
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
    g->parts[0] = (struct gguf_part){.path = strdup(g->path), .fd = -1};
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
        struct gguf_part *parts = mem_new(n * sizeof *parts);
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
        struct gguf_part *p = &g->parts[i];
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
    if (part_read(&g->parts[t->part], t->off + off, dst, n, e)) return true;
    return err_prefix(e, "tensor '%s'", t->name);
}

/* Times of change are as coarse as this on some file systems. */
static bool settled(const struct timespec *changed) {
    struct timespec now;
    enum { COARSEST_S = 2 };
    return clock_gettime(CLOCK_REALTIME, &now) == 0 && changed->tv_sec + COARSEST_S < now.tv_sec;
}

static uint64_t metadata_hash(const struct gguf *g) {
    uint64_t h = 0;
    for (size_t i = 0; i < g->n_keys; i++) {
        const struct gguf_key *k = &g->keys[i];
        h = XXH3_64bits_withSeed(k->name, strlen(k->name), h);
        h = XXH3_64bits_withSeed(k->value.data, k->value.bytes, h);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[i];
        uint64_t place[] = {t->type_id, t->part, t->ne[0], t->ne[1], t->ne[2], t->ne[3], t->off};
        h = XXH3_64bits_withSeed(t->name, strlen(t->name), h);
        h = XXH3_64bits_withSeed(place, sizeof place, h);
    }
    return h;
}

bool gguf_stamp(const struct gguf *g, struct buf *path, struct buf *stamp) {
    char *absolute = realpath(g->path, NULL);
    bool ok = absolute != NULL;
    if (ok) buf_add(path, absolute, strlen(absolute) + 1);
    free(absolute);
    for (uint32_t i = 0; i < g->n_parts && ok; i++) {
        struct stat st;
        ok = fstat(g->parts[i].fd, &st) == 0 && st.st_nlink > 0 && settled(&st.st_mtim) && settled(&st.st_ctim);
        if (!ok) break;
        uint64_t facts[] = {(uint64_t)st.st_dev,         (uint64_t)st.st_ino,          (uint64_t)st.st_size,
                            (uint64_t)st.st_mtim.tv_sec, (uint64_t)st.st_mtim.tv_nsec, (uint64_t)st.st_ctim.tv_sec,
                            (uint64_t)st.st_ctim.tv_nsec};
        buf_add(stamp, facts, sizeof facts);
    }
    uint64_t h = metadata_hash(g);
    buf_add(stamp, &h, sizeof h);
    return ok;
}

void gguf_drop(const struct gguf *g, const struct gguf_tensor *t) {
    (void)g;
    if (!t->data) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)t->data + page - 1) & ~(page - 1), to = ((uintptr_t)t->data + t->bytes) & ~(page - 1);
    if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}
