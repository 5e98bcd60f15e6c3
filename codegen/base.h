/* base: what every layer shares: the error type, checked sizes, a growing byte buffer, an arena.
 *
 * Errors: a fallible function returns bool and takes `struct err *` last; false means *err is filled in (what, where,
 * expected, found, what to try). Only a command's main prints and exits. bug() is for broken invariants of ours and is
 * unreachable from anything a user can supply.
 */
#ifndef KGEN_BASE_H
#define KGEN_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum err_code { ERR_NONE, ERR_INPUT, ERR_IO, ERR_MEMORY, ERR_UNSUPPORTED, ERR_COMPILE, ERR_USAGE };

struct err {
    enum err_code code;
    char msg[1024];
};

/* Fills *e and returns false, so that a caller can `return err_set(...)`. A message over the buffer keeps its head and
 * tail and elides the middle. */
bool err_set(struct err *e, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "text: " in front of the message already in *e; returns false. */
bool err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A broken invariant of kgen's own: prints file, line and message, then aborts. */
_Noreturn void bug_at(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define bug(...) bug_at(__FILE__, __LINE__, __VA_ARGS__)

/* Checked sizes: false when the exact result does not fit in 64 bits. */
static inline bool size_mul(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool size_add(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Allocation that never returns NULL for lack of memory: it reports through bug() only where the size is ours; sizes
 * that come from input go through mem_try, which returns NULL. Both count down the failure injector (see mem_fail_at). */
void *mem_new(size_t bytes);                 /* zeroed */
void *mem_grow(void *p, size_t bytes);       /* realloc */
void *mem_try(size_t n, size_t bytes_each);  /* zeroed, NULL on overflow or lack of memory */
void mem_free(void *p);

/* Tests only: the n-th mem_try from now fails (0: never). */
void mem_fail_at(long n);
bool mem_fail_pending(void); /* whether that one is still to come */

/* A growing byte buffer; data is always NUL-terminated one past len. */
struct buf {
    char *data;
    size_t len, cap;
};
void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_free(struct buf *b);

/* An arena: allocations live until arena_free. Memory is zeroed. */
struct arena {
    struct arena_block *head;
};
void *arena_new(struct arena *a, size_t bytes);
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);
void arena_free(struct arena *a);

/* "dir/name", which the caller frees with mem_free. */
char *path_join(const char *dir, const char *name);

/* Reads a whole regular file into *out (a buf the caller frees). */
bool file_read(const char *path, struct buf *out, struct err *e);

/* Writes all n bytes, through interruptions and short writes; false with errno set. */
bool fd_write(int fd, const void *data, size_t n);

/* Writes bytes to path through a temporary name in the same directory: fsync, then rename, so that a reader sees the
 * old file or the new one, whole. */
bool file_write_atomic(const char *path, const void *bytes, size_t n, struct err *e);

/* "kgen: warning: …" on standard error the first time *said is false; sets it. For what costs time only, once a process. */
void warn_once(bool *said, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

double now_s(void); /* monotonic seconds */
double cpu_s(void); /* processor seconds of this process: for time limits that a busy machine must not fail */

#endif
