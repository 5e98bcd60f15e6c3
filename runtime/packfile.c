#include "runtime/packfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

/* A packed file, little-endian:
 *
 *   0        8         12         16           24         28         32          40     40+p     …
 *   | magic  | version | head len | image len  | path len | rest len | head sum  | path | layout stamp | sums | 0 … |
 *
 *   and, from `head len` on (a whole number of 64 KiB), the image.
 *
 * sums: XXH3-64 of each PIECE of the image, the last one shorter. head sum: XXH3-64 of the sums. Everything before the
 * sums but the head sum is known to whoever looks for a file, and compared as bytes. */
struct head {
    char magic[8];
    uint32_t version, head_len;
    uint64_t image_len;
    uint32_t path_len, rest_len;
    uint64_t head_sum;
};
#define MAGIC "kgenpack"
#define SUFFIX ".kpack"
enum { VERSION = 1, PIECE = 4 << 20, ALIGN = 1 << 16, LONGEST_PATH = 4096 };

static bool warned;

static char *path_of(const char *dir, const struct pack_id *id) {
    XXH128_hash_t h = XXH3_128bits_withSeed(id->path.data, id->path.len, id->lanes);
    char name[64];
    snprintf(name, sizeof name, "%016" PRIx64 "%016" PRIx64 SUFFIX, (uint64_t)h.high64, (uint64_t)h.low64);
    return path_join(dir, name);
}

static uint64_t n_pieces(uint64_t bytes) {
    return (bytes + PIECE - 1) / PIECE;
}

/* The head of a packed file with room for its sums, of which *sums is the offset. */
static struct buf head_of(const struct pack_id *id, size_t *sums) {
    struct head h = {.version = VERSION,
                     .image_len = id->bytes,
                     .path_len = (uint32_t)id->path.len,
                     .rest_len = (uint32_t)(id->layout.len + id->stamp.len)};
    struct buf b = {0};
    memcpy(h.magic, MAGIC, sizeof h.magic);
    *sums = (sizeof h + id->path.len + id->layout.len + id->stamp.len + 7) / 8 * 8;
    h.head_len = (uint32_t)((*sums + n_pieces(id->bytes) * 8 + ALIGN - 1) / ALIGN * ALIGN);
    buf_add(&b, &h, sizeof h);
    buf_add(&b, id->path.data, id->path.len);
    buf_add(&b, id->layout.data, id->layout.len);
    buf_add(&b, id->stamp.data, id->stamp.len);
    char *zeros = mem_new(h.head_len - b.len);
    buf_add(&b, zeros, h.head_len - b.len);
    mem_free(zeros);
    return b;
}

void pack_id_free(struct pack_id *id) {
    buf_free(&id->path);
    buf_free(&id->layout);
    buf_free(&id->stamp);
}

/* ---- sums, by all threads ---- */

struct summing {
    struct pool *pool;
    const uint8_t *data;
    uint64_t bytes;
    uint64_t *sums;
    _Atomic int error; /* errno of a piece that cannot be read */
};

static void sum_thread(void *ctx, int thread) {
    struct summing *s = ctx;
    int64_t begin, end;
    pool_share(s->pool, thread, (int64_t)n_pieces(s->bytes), &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        uint64_t at = (uint64_t)i * PIECE;
        size_t n = s->bytes - at < PIECE ? (size_t)(s->bytes - at) : PIECE;
        /* A page that the disk cannot give is an error here and a SIGBUS anywhere else. */
        if (madvise((void *)(s->data + at), n, MADV_POPULATE_READ) && errno != EINVAL) {
            s->error = errno;
            return;
        }
        s->sums[i] = XXH3_64bits(s->data + at, n);
    }
}

/* The image's sums into sums[n_pieces]; false: some of it cannot be read. */
static bool sum_image(const uint8_t *data, uint64_t bytes, struct pool *pool, uint64_t *sums) {
    struct summing s = {.pool = pool, .data = data, .bytes = bytes, .sums = sums};
    pool_run(pool, sum_thread, &s);
    errno = s.error;
    return !s.error;
}

/* What is read from the disk through it comes in huge pages, where the file system has them: weights are read a quarter
 * faster from those (bench/SPEED.md). */
static bool map_file(int fd, const struct buf *head, uint64_t bytes, struct packfile *out) {
    struct packfile p = {.map_bytes = head->len + bytes};
    p.map = mmap(NULL, p.map_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (p.map == MAP_FAILED) return false;
    madvise(p.map, p.map_bytes, MADV_HUGEPAGE);
    p.data = (const uint8_t *)p.map + head->len;
    *out = p;
    return true;
}

void packfile_close(struct packfile *p) {
    if (p->map) munmap(p->map, p->map_bytes);
    *p = (struct packfile){0};
}

/* ---- reading ---- */

static bool read_all(int fd, void *to, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (char *)to + done, n - done, (off_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

/* NULL when the open file holds this id's image, whole, which is then mapped; "" when it holds another; else what is
 * wrong with it. */
static const char *fault(int fd, const struct pack_id *id, struct pool *pool, struct packfile *out) {
    size_t at;
    struct stat st;
    struct buf want = head_of(id, &at);
    char *found = mem_new(want.len);
    uint64_t n = n_pieces(id->bytes), *sums = mem_new(n * sizeof *sums), head_sum;
    const char *why = NULL;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
        why = "it is not a file of yours";
    else if (!read_all(fd, found, sizeof(struct head)))
        why = "it is truncated";
    else if (memcmp(found, want.data, offsetof(struct head, head_sum)) != 0)
        why = "";
    else if ((uint64_t)st.st_size != want.len + id->bytes || !read_all(fd, found, want.len))
        why = "it is truncated or too long";
    else if (memcmp(found + sizeof(struct head), want.data + sizeof(struct head), at - sizeof(struct head)) != 0)
        why = "";
    memcpy(&head_sum, found + offsetof(struct head, head_sum), sizeof head_sum);
    if (!why && XXH3_64bits(found + at, n * sizeof *sums) != head_sum) why = "its checksum is wrong";
    if (!why && !map_file(fd, &want, id->bytes, out)) why = "it cannot be mapped";
    if (!why && !sum_image(out->data, id->bytes, pool, sums)) why = "it cannot be read";
    if (!why && memcmp(sums, found + at, n * sizeof *sums) != 0) why = "its checksum is wrong";
    if (why) packfile_close(out);
    mem_free(sums);
    mem_free(found);
    buf_free(&want);
    return why;
}

bool packfile_open(const char *dir, const struct pack_id *id, struct pool *pool, struct packfile *out) {
    *out = (struct packfile){0};
    char *path = path_of(dir, id);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    const char *why = fd < 0 ? "" : fault(fd, id, pool, out);
    if (!why)
        futimens(fd, NULL); /* used last: what packfile_create removes first has not been for long */
    else if (*why) {
        warn_once(&warned, "discarding %s: %s; packing the weights again", path, why);
        unlink(path);
    }
    if (fd >= 0) close(fd);
    mem_free(path);
    return !why;
}

/* ---- the directory ---- */

struct entry {
    char *path;
    uint64_t bytes;
    struct timespec used;
};

struct entries {
    struct entry *items;
    size_t n;
};

static bool ends_with(const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    return n > k && strcmp(name + n - k, suffix) == 0;
}

static struct entries list_entries(const char *dir) {
    struct entries list = {0};
    DIR *d = opendir(dir);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        struct stat st;
        if (!ends_with(entry->d_name, SUFFIX)) continue;
        char *path = path_join(dir, entry->d_name);
        if (lstat(path, &st) || !S_ISREG(st.st_mode)) {
            mem_free(path);
            continue;
        }
        list.items = mem_grow(list.items, (list.n + 1) * sizeof *list.items);
        /* Blocks, not length: what is on the disk. */
        list.items[list.n++] = (struct entry){path, (uint64_t)st.st_blocks * 512, st.st_mtim};
    }
    if (d) closedir(d);
    return list;
}

static void free_entries(struct entries *list) {
    for (size_t i = 0; i < list->n; i++) mem_free(list->items[i].path);
    mem_free(list->items);
}

struct packfile_total packfile_count(const char *dir) {
    struct packfile_total total = {0};
    struct entries list = list_entries(dir);
    for (size_t i = 0; i < list.n; i++) total.bytes += list.items[i].bytes;
    total.files = list.n;
    free_entries(&list);
    return total;
}

/* Whether the model that a packed file was made from is not there any more. */
static bool orphaned(const char *path) {
    char model[LONGEST_PATH + 1] = "";
    struct head h;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool known = fd >= 0 && read_all(fd, &h, sizeof h) && memcmp(h.magic, MAGIC, sizeof h.magic) == 0 &&
                 h.path_len <= LONGEST_PATH && pread(fd, model, h.path_len, sizeof h) == (ssize_t)h.path_len;
    if (fd >= 0) close(fd);
    return known && *model == '/' && stat(model, &st) && errno == ENOENT;
}

static int longest_unused_first(const void *a, const void *b) {
    const struct timespec *x = &((const struct entry *)a)->used, *y = &((const struct entry *)b)->used;
    if (x->tv_sec != y->tv_sec) return x->tv_sec < y->tv_sec ? -1 : 1;
    return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

/* Leaves at most `most` bytes of packed files other than `own`, which is about to be replaced. */
static void evict(const char *dir, const char *own, uint64_t most) {
    struct entries list = list_entries(dir);
    uint64_t total = 0;
    for (size_t i = 0; i < list.n; i++) {
        struct entry *x = &list.items[i];
        if (strcmp(x->path, own) == 0 || (orphaned(x->path) && unlink(x->path) == 0)) x->bytes = 0;
        total += x->bytes;
    }
    qsort(list.items, list.n, sizeof *list.items, longest_unused_first);
    for (size_t i = 0; i < list.n && total > most; i++) {
        struct entry *x = &list.items[i];
        if (x->bytes && unlink(x->path) == 0) total -= x->bytes;
    }
    free_entries(&list);
}

/* ---- writing ---- */

struct packfile_writer {
    char *path, *temporary;
    int fd;
    struct buf head;
    size_t sums; /* their offset in head */
    uint64_t bytes;
    struct packfile map;
    _Atomic bool failed;
};

void packfile_abandon(struct packfile_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->temporary);
    }
    packfile_close(&w->map);
    mem_free(w->path);
    mem_free(w->temporary);
    buf_free(&w->head);
    mem_free(w);
}

/* Space is taken before anything is written: a disk that is full says so now. Where a file system cannot, it says so
 * later. */
static bool reserve(int fd, uint64_t bytes) {
    if (fallocate(fd, 0, 0, (off_t)bytes) == 0) return true;
    return errno == EOPNOTSUPP && ftruncate(fd, (off_t)bytes) == 0;
}

struct packfile_writer *packfile_create(const char *dir, const struct pack_id *id, uint64_t limit) {
    struct statvfs fs;
    struct packfile_writer *w = mem_new(sizeof *w);
    w->fd = -1;
    w->bytes = id->bytes;
    w->head = head_of(id, &w->sums);
    w->path = path_of(dir, id);
    uint64_t need = w->head.len + id->bytes;
    bool fits = need <= limit && id->path.len <= LONGEST_PATH;
    if (fits) {
        evict(dir, w->path, limit - need);
        fits = statvfs(dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize / 2 >= need;
    }
    if (!fits) {
        packfile_abandon(w);
        return NULL;
    }
    struct buf name = {0};
    buf_printf(&name, "%s.tmp.XXXXXX", w->path);
    w->temporary = name.data;
    w->fd = mkstemp(w->temporary);
    if (w->fd >= 0 && fcntl(w->fd, F_SETFD, FD_CLOEXEC) == 0 && reserve(w->fd, need) &&
        map_file(w->fd, &w->head, id->bytes, &w->map))
        return w;
    warn_once(&warned, "packed weights are not kept: %s: %s (--weights-cache 0: do not try)", w->path, strerror(errno));
    packfile_abandon(w);
    return NULL;
}

static bool write_at(int fd, uint64_t off, const void *bytes, size_t n) {
    for (const char *p = bytes; n;) {
        ssize_t put = pwrite(fd, p, n, (off_t)off);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        p += put;
        off += (uint64_t)put;
        n -= (size_t)put;
    }
    return true;
}

bool packfile_write(struct packfile_writer *w, uint64_t off, const void *bytes, size_t n) {
    if (off > w->bytes || n > w->bytes - off) bug("%zu bytes at %" PRIu64 " of a packed file", n, off);
    /* Reading what is still empty makes its pages, huge ones; writing would make pages as small as what is written. */
    uint64_t from = (w->head.len + off) / ALIGN * ALIGN;
    madvise((uint8_t *)w->map.map + from, w->head.len + off + n - from, MADV_POPULATE_READ);
    if (!w->failed && write_at(w->fd, w->head.len + off, bytes, n)) return true;
    w->failed = true;
    warn_once(&warned, "packed weights are not kept: %s: %s (--weights-cache 0: do not try)", w->path, strerror(errno));
    return false;
}

bool packfile_publish(struct packfile_writer *w, struct pool *pool, struct packfile *out) {
    uint64_t n = n_pieces(w->bytes), *sums = (uint64_t *)(void *)(w->head.data + w->sums);
    *out = (struct packfile){0};
    /* Only the owner's processes read it, and only through the mapping. */
    bool ok = !w->failed && fchmod(w->fd, 0400) == 0 && sum_image(w->map.data, w->bytes, pool, sums);
    if (ok) {
        uint64_t head_sum = XXH3_64bits(sums, n * sizeof *sums);
        memcpy(w->head.data + offsetof(struct head, head_sum), &head_sum, sizeof head_sum);
        ok = write_at(w->fd, 0, w->head.data, w->head.len) && rename(w->temporary, w->path) == 0;
    }
    if (ok) {
        close(w->fd);
        w->fd = -1;
        *out = w->map;
        w->map = (struct packfile){0};
    } else {
        warn_once(&warned, "packed weights are not kept: %s: %s (--weights-cache 0: do not try)", w->path,
                  strerror(errno));
    }
    packfile_abandon(w);
    return ok;
}
