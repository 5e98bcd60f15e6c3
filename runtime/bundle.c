#include "runtime/bundle.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

/* manifest.json:
 *   {"kgen-bundle": 1, "build": kgen_build, "about": {…}, "plan": FILE,
 *    "kernels": [{"key", "description", …FILE, "cubin": FILE or not there}],
 *    "check": hash of all that as compact text with sorted keys}
 * where FILE is "file": path below the directory, "bytes", "xxh3" (XXH3-128 of the contents, 32 hexadecimal digits). */
enum { FORMAT = 1, HASH_DIGITS = 32, MAX_KERNELS = 1 << 16 };

struct entry {
    json_t *item; /* of the manifest's "kernels" */
    struct buf code, cubin;
    bool ptx;
};

struct bundle {
    char *dir;
    json_t *manifest, *plan;
    struct entry *entries;
    size_t n, cap;
};

struct bundle *bundle_new(void) {
    return mem_new(sizeof(struct bundle));
}

void bundle_close(struct bundle *b) {
    if (!b) return;
    for (size_t i = 0; i < b->n; i++) {
        json_decref(b->entries[i].item);
        buf_free(&b->entries[i].code);
        buf_free(&b->entries[i].cubin);
    }
    mem_free(b->entries);
    mem_free(b->dir);
    json_decref(b->plan);
    json_decref(b->manifest);
    mem_free(b);
}

static struct entry *new_entry(struct bundle *b) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 32;
        b->entries = mem_grow(b->entries, b->cap * sizeof *b->entries);
    }
    b->entries[b->n] = (struct entry){0};
    return &b->entries[b->n++];
}

static const char *text(const json_t *o, const char *field) {
    const char *s = json_string_value(json_object_get(o, field));
    return s ? s : "";
}

static const struct entry *find(const struct bundle *b, const char *key) {
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(text(b->entries[i].item, "key"), key) == 0) return &b->entries[i];
    return NULL;
}

static void hash(const void *bytes, size_t n, char out[HASH_DIGITS + 1]) {
    XXH128_hash_t h = XXH3_128bits(bytes, n);
    snprintf(out, HASH_DIGITS + 1, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
}

/* Of a manifest without its "check". */
static void hash_manifest(const json_t *manifest, char out[HASH_DIGITS + 1]) {
    json_t *rest = json_copy((json_t *)manifest);
    json_object_del(rest, "check");
    char *s = json_dumps(rest, JSON_COMPACT | JSON_SORT_KEYS);
    hash(s ? s : "", s ? strlen(s) : 0, out);
    free(s);
    json_decref(rest);
}

static bool cannot(struct err *e, const char *path, const char *what) {
    return err_set(e, ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* ---- writing ---- */

void bundle_add(struct bundle *b, const char *key, const json_t *description, bool ptx, const struct buf *code,
                const struct buf *cubin) {
    if (find(b, key)) return;
    struct entry *x = new_entry(b);
    x->item = json_pack("{s:s, s:O}", "key", key, "description", (json_t *)description);
    if (!x->item) bug("a kernel's key or description is no JSON");
    x->ptx = ptx;
    buf_add(&x->code, code->data, code->len);
    buf_add(&x->cubin, cubin->data, cubin->len);
}

/* Made, or there and empty: nothing that was there gets mixed with the bundle or lost. */
static bool make_dir(const char *dir, struct err *e) {
    if (mkdir(dir, 0777) == 0) return true;
    if (errno != EEXIST) return cannot(e, dir, "make the directory");
    DIR *d = opendir(dir);
    if (!d) return cannot(e, dir, "open the directory");
    size_t n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n <= 2 || err_set(e, ERR_INPUT, "%s: is not empty; expected a new or an empty directory for a bundle", dir);
}

/* Writes a file and notes in `item` where it is and what it holds. */
static bool write_file(const char *dir, const char *name, const void *bytes, size_t n, json_t *item, struct err *e) {
    char digits[HASH_DIGITS + 1], *path = path_join(dir, name);
    hash(bytes, n, digits);
    json_object_set_new(item, "file", json_string(name));
    json_object_set_new(item, "bytes", json_integer((json_int_t)n));
    json_object_set_new(item, "xxh3", json_string(digits));
    bool ok = file_write_atomic(path, bytes, n, e);
    mem_free(path);
    return ok;
}

/* "kernels/03-norm_qkv.ptx": the number alone makes it unique. */
static void file_name(const struct entry *x, size_t i, const char *kind, char out[128]) {
    const char *name = text(json_object_get(x->item, "description"), "name");
    int n = snprintf(out, 128, "kernels/%02zu-%.80s", i, *name ? name : "kernel");
    for (char *p = out + 8; p < out + n; p++)
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= 'A' && *p <= 'Z') && !(*p >= '0' && *p <= '9') && !strchr("_.-", *p))
            *p = '_';
    snprintf(out + n, 128 - (size_t)n, ".%s", kind);
}

static bool write_kernel(const char *dir, struct entry *x, size_t i, struct err *e) {
    char name[128];
    file_name(x, i, x->ptx ? "ptx" : "o", name);
    if (!write_file(dir, name, x->code.data, x->code.len, x->item, e)) return false;
    if (!x->cubin.len) return true;
    json_t *cubin = json_object();
    json_object_set_new(x->item, "cubin", cubin);
    file_name(x, i, "cubin", name);
    return write_file(dir, name, x->cubin.data, x->cubin.len, cubin, e);
}

static bool write_json(const char *dir, const char *name, const json_t *j, size_t flags, json_t *item, struct err *e) {
    char *s = json_dumps(j, flags | JSON_SORT_KEYS);
    bool ok = s ? write_file(dir, name, s, strlen(s), item, e) : err_set(e, ERR_MEMORY, "no memory for %s", name);
    free(s);
    return ok;
}

bool bundle_write(struct bundle *b, const char *dir, const json_t *about, const json_t *plan, struct err *e) {
    char *kernels = path_join(dir, "kernels"), digits[HASH_DIGITS + 1];
    json_t *list = json_array(), *plan_item = json_object(), *unused = json_object();
    json_t *manifest = json_pack("{s:i, s:s, s:O, s:O, s:O}", "kgen-bundle", FORMAT, "build", kgen_build, "about",
                                 (json_t *)about, "plan", plan_item, "kernels", list);
    bool ok = make_dir(dir, e) && (mkdir(kernels, 0777) == 0 || cannot(e, kernels, "make the directory")) &&
              write_json(dir, "plan.json", plan, JSON_COMPACT, plan_item, e);
    for (size_t i = 0; i < b->n && ok; i++) {
        ok = write_kernel(dir, &b->entries[i], i, e);
        json_array_append(list, b->entries[i].item);
    }
    hash_manifest(manifest, digits);
    json_object_set_new(manifest, "check", json_string(digits));
    ok = ok && write_json(dir, "manifest.json", manifest, JSON_INDENT(1), unused, e);
    json_decref(manifest);
    json_decref(unused);
    json_decref(plan_item);
    json_decref(list);
    mem_free(kernels);
    return ok;
}

/* ---- reading ---- */

/* Names stay below the directory. */
static bool plain_name(const char *name) {
    return *name && *name != '/' && !strstr(name, "..") && strlen(name) < 200;
}

static bool read_file(const struct bundle *b, const json_t *item, struct buf *out, struct err *e) {
    const char *name = text(item, "file");
    char digits[HASH_DIGITS + 1];
    if (!plain_name(name))
        return err_set(e, ERR_INPUT, "%s/manifest.json: `%.100s` is no file of the bundle", b->dir, name);
    char *path = path_join(b->dir, name);
    json_int_t bytes = json_integer_value(json_object_get(item, "bytes"));
    struct stat st;
    bool ok = true;
    if (stat(path, &st))
        ok = err_set(e, ERR_INPUT, "%s: the bundle is incomplete: %s; make it again with `kgen emit --bundle`", path,
                     strerror(errno));
    else if (st.st_size != bytes)
        ok = err_set(e, ERR_INPUT, "%s: has %lld bytes, the manifest says %lld: damaged; copy the bundle again", path,
                     (long long)st.st_size, (long long)bytes);
    ok = ok && file_read(path, out, e);
    if (ok) {
        hash(out->data, out->len, digits);
        if (strcmp(digits, text(item, "xxh3")) != 0)
            ok = err_set(e, ERR_INPUT,
                         "%s: its contents changed (XXH3 %s, the manifest says %.40s); copy the bundle again", path,
                         digits, text(item, "xxh3"));
    }
    mem_free(path);
    return ok;
}

static bool read_manifest(struct bundle *b, struct err *e) {
    struct buf bytes = {0};
    char *path = path_join(b->dir, "manifest.json"), digits[HASH_DIGITS + 1];
    struct stat st;
    bool ok = true;
    if (stat(path, &st))
        ok = err_set(e, ERR_INPUT,
                     "%s: no bundle, or one that was never finished (%s): make it with `kgen emit --bundle`", path,
                     strerror(errno));
    ok = ok && file_read(path, &bytes, e);
    if (ok) {
        json_error_t why;
        b->manifest = json_loadb(bytes.data, bytes.len, JSON_REJECT_DUPLICATES, &why);
        if (!b->manifest) ok = err_set(e, ERR_INPUT, "%s:%d: %s; copy the bundle again", path, why.line, why.text);
    }
    if (ok && json_integer_value(json_object_get(b->manifest, "kgen-bundle")) != FORMAT)
        ok = err_set(e, ERR_INPUT, "%s: is no manifest of a bundle of version %d", path, FORMAT);
    if (ok) {
        hash_manifest(b->manifest, digits);
        if (strcmp(digits, text(b->manifest, "check")) != 0)
            ok = err_set(e, ERR_INPUT, "%s: its contents changed (check %s, it says %.40s); copy the bundle again",
                         path, digits, text(b->manifest, "check"));
    }
    if (ok && strcmp(text(b->manifest, "build"), kgen_build) != 0)
        ok = err_set(e, ERR_UNSUPPORTED,
                     "%s: made by another version of kgen (build %.12s, this is %.12s): make the bundle again", path,
                     text(b->manifest, "build"), kgen_build);
    buf_free(&bytes);
    mem_free(path);
    return ok;
}

static bool read_plan(struct bundle *b, struct err *e) {
    struct buf bytes = {0};
    if (!read_file(b, json_object_get(b->manifest, "plan"), &bytes, e)) {
        buf_free(&bytes);
        return false;
    }
    json_error_t why;
    b->plan = json_loadb(bytes.data, bytes.len, 0, &why);
    buf_free(&bytes);
    return b->plan || err_set(e, ERR_INPUT, "%s/plan.json:%d: %s", b->dir, why.line, why.text);
}

bool bundle_open(const char *dir, struct bundle **out, struct err *e) {
    struct bundle *b = bundle_new();
    *out = NULL;
    b->dir = mem_new(strlen(dir) + 1);
    strcpy(b->dir, dir);
    bool ok = read_manifest(b, e) && read_plan(b, e);
    const json_t *list = ok ? json_object_get(b->manifest, "kernels") : NULL;
    if (ok && json_array_size(list) > MAX_KERNELS)
        ok = err_set(e, ERR_INPUT, "%s/manifest.json: %zu kernels; expected at most %d", dir, json_array_size(list),
                     MAX_KERNELS);
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        struct entry *x = new_entry(b);
        x->item = json_incref(json_array_get(list, i));
        const json_t *cubin = json_object_get(x->item, "cubin");
        ok = read_file(b, x->item, &x->code, e) && (!cubin || read_file(b, cubin, &x->cubin, e));
    }
    if (!ok) {
        bundle_close(b);
        return false;
    }
    *out = b;
    return true;
}

const char *bundle_dir(const struct bundle *b) {
    return b->dir;
}

const json_t *bundle_about(const struct bundle *b) {
    return json_object_get(b->manifest, "about");
}

const json_t *bundle_plan(const struct bundle *b) {
    return b->plan;
}

const char *bundle_text(const struct bundle *b, const char *field) {
    return text(bundle_about(b), field);
}

bool bundle_find(const struct bundle *b, const char *key, const json_t **description, const struct buf **code,
                 const struct buf **cubin) {
    const struct entry *x = find(b, key);
    if (!x) return false;
    *description = json_object_get(x->item, "description");
    *code = &x->code;
    *cubin = &x->cubin;
    return true;
}

size_t bundle_n_kernels(const struct bundle *b) {
    return b->n;
}

size_t bundle_n_cubins(const struct bundle *b) {
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) n += b->entries[i].cubin.len > 0;
    return n;
}

uint64_t bundle_bytes(const struct bundle *b) {
    uint64_t sum = 0;
    for (size_t i = 0; i < b->n; i++) sum += b->entries[i].code.len + b->entries[i].cubin.len;
    return sum;
}
