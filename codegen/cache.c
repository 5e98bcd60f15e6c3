#include "codegen/cache.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

/* An entry, little-endian:
 *
 *   0        8         12        16             24            32        32+k         32+k+n
 *   | magic  | version | key len | payload len  | checksum    | key ... | payload ... |
 *
 * checksum: XXH3-64 of everything but itself. */
struct header {
    char magic[8];
    uint32_t version, key_len;
    uint64_t payload_len, checksum;
};
#define MAGIC "kgenobj\n"
enum { VERSION = 1, MAX_ENTRY = 256 << 20, STALE_SECONDS = 3600 };

struct cache {
    char *dir;            /* NULL: not in use */
    _Atomic bool no_puts; /* after the first that failed */
};

/* One warning a process: what follows from the first, and a cache is never worth more of anyone's attention. */
static bool warned;
#define warn(...) warn_once(&warned, __VA_ARGS__)

/* ---- the directory ---- */

static bool set(const char *value) {
    return value && *value;
}

static char *default_dir(void) {
    const char *own = getenv("KGEN_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    struct buf b = {0};
    if (set(own))
        buf_puts(&b, own);
    else if (set(xdg) && *xdg == '/')
        buf_printf(&b, "%s/kgen", xdg);
    else if (set(home) && *home == '/')
        buf_printf(&b, "%s/.cache/kgen", home);
    return b.data;
}

static bool make_dirs(char *path) {
    for (char *p = path + 1; *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        bool ok = mkdir(path, 0700) == 0 || errno == EEXIST;
        *p = '/';
        if (!ok) return false;
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

/* Code from a directory others can write to would be theirs, running as us. */
static bool usable_dir(char *path) {
    struct stat st;
    if (!make_dirs(path) || stat(path, &st))
        warn("no cache of compiled kernels: cannot make %s: %s (set KGEN_CACHE_DIR)", path, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        warn("no cache of compiled kernels: %s is not a directory (set KGEN_CACHE_DIR)", path);
    else if (st.st_uid != geteuid())
        warn("no cache of compiled kernels: %s belongs to user %ju, not to you (set KGEN_CACHE_DIR)", path,
             (uintmax_t)st.st_uid);
    else if (st.st_mode & (S_IWGRP | S_IWOTH))
        warn("no cache of compiled kernels: others can write to %s (chmod go-w it, or set KGEN_CACHE_DIR)", path);
    else
        return true;
    return false;
}

/* What a killed writer leaves: temporary names of entries and of packed weights (runtime/packfile.h), too old for a
 * writer to be at work. */
static void remove_stale(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return;
    time_t now = time(NULL);
    for (struct dirent *entry; (entry = readdir(d));) {
        if (!strstr(entry->d_name, ".kobj.tmp.") && !strstr(entry->d_name, ".kpack.tmp.")) continue;
        char *path = path_join(dir, entry->d_name);
        struct stat st;
        if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) && now - st.st_mtime > STALE_SECONDS) unlink(path);
        mem_free(path);
    }
    closedir(d);
}

struct cache *cache_open(const char *dir) {
    struct cache *c = mem_new(sizeof *c);
    struct buf given = {0};
    if (dir) buf_puts(&given, dir);
    c->dir = dir ? given.data : default_dir();
    if (!set(c->dir))
        warn("no cache of compiled kernels: HOME is not set (set KGEN_CACHE_DIR)");
    else if (usable_dir(c->dir)) {
        remove_stale(c->dir);
        return c;
    }
    mem_free(c->dir);
    c->dir = NULL;
    return c;
}

void cache_close(struct cache *c) {
    if (!c) return;
    mem_free(c->dir);
    mem_free(c);
}

const char *cache_dir(const struct cache *c) {
    return c->dir;
}

/* ---- entries ---- */

static char *entry_path(const struct cache *c, const char *key, size_t key_len) {
    XXH128_hash_t h = XXH3_128bits(key, key_len);
    char name[64];
    snprintf(name, sizeof name, "%016" PRIx64 "%016" PRIx64 ".kobj", (uint64_t)h.high64, (uint64_t)h.low64);
    return path_join(c->dir, name);
}

static uint64_t checksum(const char *entry, size_t n) {
    XXH3_state_t *s = XXH3_createState();
    if (!s) bug("out of memory");
    XXH3_64bits_reset(s);
    XXH3_64bits_update(s, entry, offsetof(struct header, checksum));
    XXH3_64bits_update(s, entry + sizeof(struct header), n - sizeof(struct header));
    uint64_t sum = XXH3_64bits_digest(s);
    XXH3_freeState(s);
    return sum;
}

/* NULL when the entry is whole and of this key; else what is wrong with it. */
static const char *fault(const struct buf *entry, const char *key, size_t key_len, struct header *h) {
    if (entry->len < sizeof *h) return "it is truncated";
    memcpy(h, entry->data, sizeof *h);
    if (memcmp(h->magic, MAGIC, sizeof h->magic) != 0) return "it is not a cache entry";
    if (h->version != VERSION) return "it is of another version";
    uint64_t body = entry->len - sizeof *h;
    if (h->key_len > body || h->payload_len != body - h->key_len) return "it is truncated or too long";
    if (checksum(entry->data, entry->len) != h->checksum) return "its checksum is wrong";
    if (h->key_len != key_len || memcmp(entry->data + sizeof *h, key, key_len) != 0) return "it belongs to another key";
    return NULL;
}

/* Reads what may be an entry; false without a complaint when there is nothing. */
static bool read_entry(const char *path, struct buf *entry, const char **why) {
    struct stat st;
    struct err e;
    *why = NULL;
    if (lstat(path, &st)) return false;
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
        *why = "it is not a file of yours";
    else if (st.st_size > MAX_ENTRY)
        *why = "it is too long";
    else if (!file_read(path, entry, &e))
        *why = "it cannot be read";
    return !*why;
}

bool cache_get(struct cache *c, const char *key, size_t key_len, struct buf *out) {
    if (!c->dir) return false;
    char *path = entry_path(c, key, key_len);
    struct buf entry = {0};
    struct header h;
    const char *why;
    bool ok = read_entry(path, &entry, &why) && !(why = fault(&entry, key, key_len, &h));
    if (ok)
        buf_add(out, entry.data + sizeof h + h.key_len, h.payload_len);
    else if (why) {
        warn("discarding %s: %s; compiling again", path, why);
        unlink(path);
    }
    buf_free(&entry);
    mem_free(path);
    return ok;
}

void cache_put(struct cache *c, const char *key, size_t key_len, const void *payload, size_t n) {
    if (!c->dir || atomic_load(&c->no_puts) || key_len > MAX_ENTRY / 2 || n > MAX_ENTRY / 2) return;
    struct header h = {.version = VERSION, .key_len = (uint32_t)key_len, .payload_len = n};
    memcpy(h.magic, MAGIC, sizeof h.magic);
    struct buf entry = {0};
    buf_add(&entry, &h, sizeof h);
    buf_add(&entry, key, key_len);
    buf_add(&entry, payload, n);
    h.checksum = checksum(entry.data, entry.len);
    memcpy(entry.data, &h, sizeof h);
    char *path = entry_path(c, key, key_len);
    struct err e;
    if (!file_write_atomic(path, entry.data, entry.len, &e)) {
        warn("compiled kernels are not cached: %s", e.msg);
        atomic_store(&c->no_puts, true);
    }
    mem_free(path);
    buf_free(&entry);
}
