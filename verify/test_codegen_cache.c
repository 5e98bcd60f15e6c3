/* The object cache: what is put comes back, and nothing that can happen to its directory does more harm than one
 * warning and a compilation. Each case runs in a child process of its own, because the warning is once a process. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codegen/cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utime.h>

static char dir[64]; /* fresh for every test */

static int fresh_dir(void **state) {
    (void)state;
    strcpy(dir, "/tmp/kgen-test-cache.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

/* Runs f in a child with standard error in a file; the child's exit status must be 0. Returns what it said. */
static char *said(void (*f)(void)) {
    char path[] = "/tmp/kgen-test-stderr.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(fd, 2);
        f();
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    close(fd);
    struct buf text = {0};
    struct err e;
    assert_true(file_read(path, &text, &e));
    unlink(path);
    if (status != 0) fail_msg("the child ended with %d: %s", status, text.data);
    return text.data;
}

static void expect_said(void (*f)(void), const char *part) {
    char *text = said(f);
    int lines = 0;
    for (char *p = text; *p; p++) lines += *p == '\n';
    if (*part ? lines != 1 || !strstr(text, part) : *text != 0)
        fail_msg("expected one line with `%s`, found: %s", part, text);
    mem_free(text);
}

#define REQUIRE(x)                                                                                                     \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "line %d: %s\n", __LINE__, #x);                                                            \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static bool get_is(struct cache *c, const char *key, const char *expected) {
    struct buf out = {0};
    bool got = cache_get(c, key, strlen(key), &out);
    bool ok = expected ? got && out.len == strlen(expected) && memcmp(out.data, expected, out.len) == 0
                       : !got && out.len == 0;
    buf_free(&out);
    return ok;
}

static void put(struct cache *c, const char *key, const char *payload) {
    cache_put(c, key, strlen(key), payload, strlen(payload));
}

static void put_and_get(void) {
    struct cache *c = cache_open(dir);
    REQUIRE(strcmp(cache_dir(c), dir) == 0);
    REQUIRE(get_is(c, "key", NULL));
    put(c, "key", "payload");
    put(c, "other", "");
    put(c, "key", "newer");
    REQUIRE(get_is(c, "key", "newer"));
    REQUIRE(get_is(c, "other", ""));
    cache_close(c);
    c = cache_open(dir);
    REQUIRE(get_is(c, "key", "newer"));
    cache_close(c);
    cache_close(NULL);
}

static void what_is_put_comes_back(void **state) {
    (void)state;
    expect_said(put_and_get, "");
}

/* ---- damaged entries ---- */

static char *only_entry(void) {
    DIR *d = opendir(dir);
    char *path = NULL;
    for (struct dirent *e; (e = readdir(d));) {
        if (*e->d_name == '.') continue;
        REQUIRE(!path);
        struct buf b = {0};
        buf_printf(&b, "%s/%s", dir, e->d_name);
        path = b.data;
    }
    closedir(d);
    return path;
}

static void write_file(const char *path, const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

/* Every truncation and every flipped bit of an entry is noticed, the entry goes, and putting it again works. */
static void damage_every_byte(void) {
    struct cache *c = cache_open(dir);
    put(c, "the key", "the payload");
    char *path = only_entry();
    struct buf good = {0};
    struct err e;
    REQUIRE(file_read(path, &good, &e));
    for (size_t n = 0; n < good.len; n++) {
        write_file(path, good.data, n);
        REQUIRE(get_is(c, "the key", NULL));
        REQUIRE(access(path, F_OK) != 0);
    }
    for (size_t bit = 0; bit < 8 * good.len; bit++) {
        good.data[bit / 8] ^= (char)(1 << bit % 8);
        write_file(path, good.data, good.len);
        REQUIRE(get_is(c, "the key", NULL));
        good.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    buf_puts(&good, "x");
    write_file(path, good.data, good.len);
    REQUIRE(get_is(c, "the key", NULL));
    put(c, "the key", "the payload");
    REQUIRE(get_is(c, "the key", "the payload"));
    cache_close(c);
}

static void damaged_entries_are_rebuilt_with_one_warning(void **state) {
    (void)state;
    expect_said(damage_every_byte, "it is truncated; compiling again");
}

/* A valid entry under another key's name stands for a hash collision. */
static void collide(void) {
    struct cache *c = cache_open(dir);
    put(c, "first", "1");
    char *first = only_entry();
    struct buf entry = {0};
    struct err e;
    REQUIRE(file_read(first, &entry, &e));
    REQUIRE(unlink(first) == 0);
    put(c, "second", "2");
    write_file(only_entry(), entry.data, entry.len);
    REQUIRE(get_is(c, "second", NULL));
}

static void a_collision_is_not_taken_for_a_hit(void **state) {
    (void)state;
    expect_said(collide, "it belongs to another key");
}

static void fifo_entry(void) {
    struct cache *c = cache_open(dir);
    put(c, "k", "1");
    char *path = only_entry();
    REQUIRE(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    alarm(5); /* opening it would wait for a writer for ever */
    REQUIRE(get_is(c, "k", NULL));
}

static void an_entry_that_is_no_file_is_discarded(void **state) {
    (void)state;
    expect_said(fifo_entry, "it is not a file of yours");
}

/* ---- directories that cannot be used ---- */

static const char *open_this;

static void open_and_use(void) {
    struct cache *c = cache_open(open_this);
    REQUIRE(!cache_dir(c));
    put(c, "key", "payload");
    REQUIRE(get_is(c, "key", NULL));
    cache_close(c);
    cache_close(cache_open(open_this)); /* no second warning */
}

static void unusable_directories_cost_one_warning(void **state) {
    (void)state;
    open_this = "/proc/kgen-cache/deep";
    expect_said(open_and_use, "cannot make /proc/kgen-cache/deep");
    char path[128];
    snprintf(path, sizeof path, "%s/file", dir);
    write_file(path, "", 0);
    open_this = path;
    expect_said(open_and_use, "is not a directory");
    snprintf(path, sizeof path, "%s/file/below", dir);
    expect_said(open_and_use, "cannot make");
    open_this = dir;
    assert_int_equal(chmod(dir, 0777), 0);
    expect_said(open_and_use, "others can write to");
    assert_int_equal(chmod(dir, 0700), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(dir, 65534, 65534), 0);
        expect_said(open_and_use, "belongs to user 65534, not to you");
    } else {
        open_this = "/";
        expect_said(open_and_use, "belongs to user 0, not to you");
    }
}

static void no_home(void) {
    unsetenv("KGEN_CACHE_DIR");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    open_this = NULL;
    open_and_use();
}

static void without_a_home_there_is_no_cache(void **state) {
    (void)state;
    expect_said(no_home, "HOME is not set");
}

static void variables(void) {
    char want[128];
    setenv("HOME", dir, 1);
    setenv("XDG_CACHE_HOME", "relative", 1);
    setenv("KGEN_CACHE_DIR", "", 1);
    snprintf(want, sizeof want, "%s/.cache/kgen", dir);
    REQUIRE(strcmp(cache_dir(cache_open(NULL)), want) == 0);
    setenv("XDG_CACHE_HOME", dir, 1);
    snprintf(want, sizeof want, "%s/kgen", dir);
    REQUIRE(strcmp(cache_dir(cache_open(NULL)), want) == 0);
    snprintf(want, sizeof want, "%s/own", dir);
    setenv("KGEN_CACHE_DIR", want, 1);
    REQUIRE(strcmp(cache_dir(cache_open(NULL)), want) == 0);
}

static void the_directory_follows_the_environment(void **state) {
    (void)state;
    expect_said(variables, "");
}

/* ---- writing ---- */

/* A limit on file sizes stands for the full disk; standard error goes through a pipe, which has none. */
static void disk_full(void) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    int file = dup(2);
    REQUIRE(dup2(ends[1], 2) == 2);
    struct cache *c = cache_open(dir);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {16, RLIM_INFINITY};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    put(c, "key", "payload"); /* the header alone is longer */
    put(c, "key2", "payload");
    REQUIRE(get_is(c, "key", NULL));
    REQUIRE(!only_entry()); /* no temporary file stays */
    limit.rlim_cur = RLIM_INFINITY;
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    dup2(file, 2);
    close(ends[1]);
    char text[4096];
    for (ssize_t n; (n = read(ends[0], text, sizeof text)) > 0;) REQUIRE(write(2, text, (size_t)n) == n);
}

static void a_full_disk_leaves_nothing_behind(void **state) {
    (void)state;
    expect_said(disk_full, "compiled kernels are not cached: ");
}

static void stale(void) {
    static const char *const kinds[] = {"kobj", "kpack"}; /* code, packed weights */
    for (int i = 0; i < 2; i++) {
        char old[128], young[128];
        snprintf(old, sizeof old, "%s/0123.%s.tmp.abcdef", dir, kinds[i]);
        snprintf(young, sizeof young, "%s/4567.%s.tmp.abcdef", dir, kinds[i]);
        write_file(old, "half", 4);
        write_file(young, "half", 4);
        struct utimbuf then = {1000000000, 1000000000};
        REQUIRE(utime(old, &then) == 0);
        struct cache *c = cache_open(dir);
        REQUIRE(access(old, F_OK) != 0 && access(young, F_OK) == 0);
        cache_close(c);
    }
}

static void stale_temporaries_are_removed(void **state) {
    (void)state;
    expect_said(stale, "");
}

/* Two processes put and get one key for a while, both are killed at random moments; a reader never sees but whole
 * entries. */
static void writer(char letter) {
    struct cache *c = cache_open(dir);
    char *payload = mem_new(100000);
    memset(payload, letter, 100000);
    for (;;) cache_put(c, "shared", 6, payload, 100000);
}

static void race(void) {
    struct cache *c = cache_open(dir);
    int hits = 0;
    for (int round = 0; round < 20; round++) {
        pid_t w[2];
        for (int i = 0; i < 2; i++)
            if ((w[i] = fork()) == 0) writer(i ? 'b' : 'a');
        for (int k = 0; k < 20; k++) {
            struct buf out = {0};
            usleep(500);
            if (!cache_get(c, "shared", 6, &out)) continue;
            hits++;
            REQUIRE(out.len == 100000);
            for (size_t i = 0; i < out.len; i++) REQUIRE(out.data[i] == out.data[0]);
            buf_free(&out);
        }
        for (int i = 0; i < 2; i++) {
            kill(w[i], SIGKILL);
            waitpid(w[i], NULL, 0);
        }
    }
    REQUIRE(hits > 100);
}

static void two_writers_and_kills_do_no_harm(void **state) {
    (void)state;
    expect_said(race, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_put_comes_back, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(damaged_entries_are_rebuilt_with_one_warning, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_collision_is_not_taken_for_a_hit, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(an_entry_that_is_no_file_is_discarded, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(unusable_directories_cost_one_warning, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(without_a_home_there_is_no_cache, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(the_directory_follows_the_environment, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_full_disk_leaves_nothing_behind, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(stale_temporaries_are_removed, fresh_dir, remove_dir),
        cmocka_unit_test_setup_teardown(two_writers_and_kills_do_no_harm, fresh_dir, remove_dir),
    };
    return cmocka_run_group_tests_name("codegen_cache", tests, NULL, NULL);
}
