#define _GNU_SOURCE
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void elide(char *dst, size_t cap, const char *src) {
    size_t n = strlen(src);
    if (n < cap) {
        memcpy(dst, src, n + 1);
        return;
    }
    size_t head = (cap - 4) / 2, tail = cap - 4 - head;
    memcpy(dst, src, head);
    memcpy(dst + head, "...", 3);
    memcpy(dst + head + 3, src + n - tail, tail + 1);
}

static char *format(const char *fmt, va_list ap) {
    char *s = NULL;
    if (vasprintf(&s, fmt, ap) < 0) return NULL;
    return s;
}

bool err_set(struct err *e, enum err_code code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *s = format(fmt, ap);
    va_end(ap);
    e->code = code;
    elide(e->msg, sizeof e->msg, s ? s : "out of memory while reporting an error");
    free(s);
    return false;
}

bool err_prefix(struct err *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *head = format(fmt, ap);
    va_end(ap);
    char *s = NULL;
    if (head && asprintf(&s, "%s: %s", head, e->msg) >= 0) {
        elide(e->msg, sizeof e->msg, s);
        free(s);
    }
    free(head);
    return false;
}

void bug_at(const char *file, int line, const char *fmt, ...) {
    fprintf(stderr, "kgen: internal error at %s:%d: ", file, line);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    abort();
}

static _Atomic long fail_countdown;

void mem_fail_at(long n) {
    atomic_store(&fail_countdown, n);
}
bool mem_fail_pending(void) {
    return atomic_load(&fail_countdown) > 0;
}

void warn_once(bool *said, const char *fmt, ...) {
    if (__atomic_exchange_n(said, true, __ATOMIC_RELAXED)) return;
    va_list ap;
    va_start(ap, fmt);
    char *msg = format(fmt, ap);
    va_end(ap);
    fprintf(stderr, "kgen: warning: %s\n", msg ? msg : "out of memory");
    free(msg);
}

void *mem_new(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) bug("out of memory: %zu bytes", bytes);
    return p;
}

void *mem_grow(void *p, size_t bytes) {
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) bug("out of memory: %zu bytes", bytes);
    return q;
}

void *mem_try(size_t n, size_t bytes_each) {
    if (atomic_load(&fail_countdown) > 0 && atomic_fetch_sub(&fail_countdown, 1) == 1) return NULL;
    return calloc(n ? n : 1, bytes_each ? bytes_each : 1);
}

void mem_free(void *p) {
    free(p);
}

void buf_add(struct buf *b, const void *bytes, size_t n) {
    if (b->len + n + 1 > b->cap) {
        b->cap = b->cap * 2 > b->len + n + 64 ? b->cap * 2 : b->len + n + 64;
        b->data = mem_grow(b->data, b->cap);
    }
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_puts(struct buf *b, const char *s) {
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *s = format(fmt, ap);
    va_end(ap);
    if (!s) bug("out of memory");
    buf_puts(b, s);
    free(s);
}

void buf_free(struct buf *b) {
    mem_free(b->data);
    *b = (struct buf){0};
}

struct arena_block {
    struct arena_block *next;
    size_t used, cap;
    _Alignas(max_align_t) char data[];
};

void *arena_new(struct arena *a, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    struct arena_block *b = a->head;
    if (!b || b->cap - b->used < bytes) {
        size_t cap = bytes > 65536 ? bytes : 65536;
        b = mem_new(sizeof *b + cap);
        b->cap = cap;
        b->next = a->head;
        a->head = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t n) {
    char *p = arena_new(a, n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *arena_strdup(struct arena *a, const char *s) {
    return arena_strndup(a, s, strlen(s));
}

void arena_free(struct arena *a) {
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    a->head = NULL;
}

char *path_join(const char *dir, const char *name) {
    struct buf b = {0};
    buf_printf(&b, "%s/%s", dir, name);
    return b.data;
}

bool file_read(const char *path, struct buf *out, struct err *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, ERR_IO, "%s: not a regular file", path);
    }
    char chunk[65536];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            err_set(e, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
            close(fd);
            return false;
        }
        if (n == 0) break;
        buf_add(out, chunk, (size_t)n);
    }
    if (!out->data) buf_add(out, "", 0);
    close(fd);
    return true;
}

bool fd_write(int fd, const void *data, size_t n) {
    for (const char *p = data; n;) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return false;
        p += w;
        n -= (size_t)w;
    }
    return true;
}

bool file_write_atomic(const char *path, const void *bytes, size_t n, struct err *e) {
    char *tmp = NULL;
    if (asprintf(&tmp, "%s.tmp.XXXXXX", path) < 0) return err_set(e, ERR_MEMORY, "%s: out of memory", path);
    int fd = mkstemp(tmp);
    bool ok = fd >= 0 && fchmod(fd, 0644) == 0 && fd_write(fd, bytes, n) && fsync(fd) == 0;
    if (fd >= 0 && close(fd) != 0) ok = false;
    if (ok && rename(tmp, path) != 0) ok = false;
    if (!ok) {
        err_set(e, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        if (fd >= 0) unlink(tmp);
    }
    free(tmp);
    return ok;
}

double now_s(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

double cpu_s(void) {
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}
