/* Packed weights on disk: what was written comes back bit by bit or not at all, whatever happened to the file, its
 * model or its directory meanwhile; and the stamp of a model file changes whenever the file does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/gguf.h"
#include "runtime/packfile.h"

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

enum { BYTES = (9 << 20) + 4096, WRITES = 37, MIB = 1 << 20 };
#define PLENTY (UINT64_C(1) << 40)

static char dir[64]; /* fresh for every test */
static struct pool *pool;

static int fresh_dir(void **state) {
    (void)state;
    struct err e;
    strcpy(dir, "/tmp/kgen-test-pack.XXXXXX");
    return mkdtemp(dir) && pool_open(2, &pool, &e) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    pool_close(pool);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

/* A model file of that name in the directory, and the id of its packed weights. */
static struct pack_id id_of(const char *model, const char *layout, const char *stamp) {
    struct pack_id id = {.lanes = 16, .bytes = BYTES};
    struct err e;
    buf_printf(&id.path, "%s/%s", dir, model);
    assert_true(file_write_atomic(id.path.data, "model", 5, &e));
    buf_add(&id.path, "", 1);
    buf_puts(&id.layout, layout);
    buf_puts(&id.stamp, stamp);
    return id;
}

static uint8_t byte_at(uint64_t i, unsigned seed) {
    return (uint8_t)((i * 2654435761u + seed) >> 13);
}

/* Written in pieces that end nowhere in particular; the last 4 KiB are left out. */
static bool write_image(struct packfile_writer *w, unsigned seed) {
    uint64_t n = (BYTES - 4096) / WRITES + 1;
    uint8_t *piece = mem_new(n);
    bool ok = true;
    for (uint64_t at = 0; at < BYTES - 4096 && ok; at += n) {
        uint64_t len = BYTES - 4096 - at < n ? BYTES - 4096 - at : n;
        for (uint64_t i = 0; i < len; i++) piece[i] = byte_at(at + i, seed);
        ok = packfile_write(w, at, piece, len);
    }
    mem_free(piece);
    return ok;
}

static bool holds(const struct packfile *p, unsigned seed) {
    for (uint64_t i = 0; i < BYTES; i++)
        if (p->data[i] != (i < BYTES - 4096 ? byte_at(i, seed) : 0)) return false;
    return true;
}

static void put(const struct pack_id *id, unsigned seed) {
    struct packfile p;
    struct packfile_writer *w = packfile_create(dir, id, PLENTY);
    assert_non_null(w);
    assert_true(write_image(w, seed));
    assert_true(packfile_publish(w, pool, &p));
    assert_true(holds(&p, seed));
    packfile_close(&p);
}

static bool found(const struct pack_id *id, unsigned seed) {
    struct packfile p;
    if (!packfile_open(dir, id, pool, &p)) {
        assert_null(p.data);
        return false;
    }
    assert_int_equal((uintptr_t)p.data % 4096, 0);
    assert_true(holds(&p, seed));
    packfile_close(&p);
    return true;
}

/* Paths of what ends so in the directory. */
static size_t paths(const char *part, char out[8][400]) {
    DIR *d = opendir(dir);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(d));)
        if (strstr(entry->d_name, part) && n < 8) snprintf(out[n++], 400, "%s/%s", dir, entry->d_name);
    closedir(d);
    return n;
}

static void what_is_written_comes_back(void **state) {
    (void)state;
    struct pack_id id = id_of("a.gguf", "layout", "stamp");
    assert_false(found(&id, 1));
    put(&id, 1);
    assert_true(found(&id, 1));
    put(&id, 2);
    assert_true(found(&id, 2));
    char names[8][400];
    assert_int_equal(paths(".kpack", names), 1);
    pack_id_free(&id);
}

static void another_model_layout_or_target_is_not_taken(void **state) {
    (void)state;
    struct pack_id id = id_of("a.gguf", "layout", "stamp"), other;
    put(&id, 1);
    static const char *const others[][3] = {{"b.gguf", "layout", "stamp"},
                                            {"a.gguf", "layouu", "stamp"},
                                            {"a.gguf", "layout", "stamq"},
                                            {"a.gguf", "layout2", "stamp"},
                                            {"a.gguf", "layout", ""}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        other = id_of(others[i][0], others[i][1], others[i][2]);
        assert_false(found(&other, 1));
        pack_id_free(&other);
    }
    id.lanes = 8;
    assert_false(found(&id, 1));
    id.lanes = 16;
    id.bytes -= 4096;
    assert_false(found(&id, 1));
    id.bytes += 4096;
    assert_true(found(&id, 1));
    /* A model that changed has its packed weights replaced, not added to. */
    other = id_of("a.gguf", "layout", "newer");
    put(&other, 3);
    assert_true(found(&other, 3));
    assert_false(found(&id, 1));
    char names[8][400];
    assert_int_equal(paths(".kpack", names), 1);
    pack_id_free(&other);
    pack_id_free(&id);
}

/* Changes one byte, or the length, and restores nothing. */
static void damage(const char *path, int64_t at, int64_t length) {
    int fd;
    assert_int_equal(chmod(path, 0600), 0);
    assert_true((fd = open(path, O_RDWR)) >= 0);
    if (at >= 0) {
        uint8_t b;
        assert_int_equal(pread(fd, &b, 1, at), 1);
        b ^= 0x10;
        assert_int_equal(pwrite(fd, &b, 1, at), 1);
    } else {
        assert_int_equal(ftruncate(fd, length), 0);
    }
    close(fd);
}

static void a_damaged_file_is_never_used(void **state) {
    (void)state;
    struct pack_id id = id_of("a.gguf", "layout", "stamp");
    char names[8][400];
    enum { HEAD = 1 << 16, SUMS = 40 + 16 };
    static const int64_t bytes[] = {0,
                                    8,
                                    12,
                                    16,
                                    24,
                                    28,
                                    32,
                                    39,
                                    40,
                                    SUMS + 20,
                                    HEAD,
                                    HEAD + 1,
                                    HEAD + 4 * MIB - 1,
                                    HEAD + 4 * MIB,
                                    HEAD + 8 * MIB,
                                    HEAD + BYTES - 1};
    static const int64_t lengths[] = {
        0, 1, 39, 40, 100, HEAD - 1, HEAD, HEAD + 5 * MIB, HEAD + BYTES - 1, HEAD + BYTES + 1};
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes + sizeof lengths / sizeof *lengths; i++) {
        put(&id, 1);
        assert_int_equal(paths(".kpack", names), 1);
        if (i < sizeof bytes / sizeof *bytes)
            damage(names[0], bytes[i], 0);
        else
            damage(names[0], -1, lengths[i - sizeof bytes / sizeof *bytes]);
        if (found(&id, 1)) fail_msg("damage %zu was not seen", i);
    }
    /* Where a directory or a link stands in the way, it is left alone. */
    put(&id, 1);
    paths(".kpack", names);
    char real[] = "/tmp/kgen-test-pack-file.XXXXXX";
    int fd = mkstemp(real);
    close(fd);
    assert_int_equal(rename(names[0], real), 0);
    assert_int_equal(symlink(real, names[0]), 0);
    assert_false(found(&id, 1));
    unlink(real);
    pack_id_free(&id);
}

static void a_killed_writer_leaves_nothing_that_is_taken(void **state) {
    (void)state;
    struct pack_id id = id_of("a.gguf", "layout", "stamp");
    pid_t child = fork();
    if (child == 0) {
        struct packfile_writer *w = packfile_create(dir, &id, PLENTY);
        if (w && write_image(w, 1)) raise(SIGKILL);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    char names[8][400];
    assert_int_equal(paths(".kpack.tmp.", names), 1);
    assert_false(found(&id, 1));
    put(&id, 2);
    assert_true(found(&id, 2));
    pack_id_free(&id);
}

static void two_writers_leave_one_whole_file(void **state) {
    (void)state;
    struct pack_id id = id_of("a.gguf", "layout", "stamp");
    struct packfile_writer *one = packfile_create(dir, &id, PLENTY), *two = packfile_create(dir, &id, PLENTY);
    assert_true(one && two);
    assert_true(write_image(one, 1) && write_image(two, 2));
    struct packfile p, q;
    assert_true(packfile_publish(one, pool, &p));
    assert_true(packfile_publish(two, pool, &q));
    assert_true(holds(&p, 1)); /* still mapped, though replaced */
    assert_true(holds(&q, 2));
    packfile_close(&p);
    packfile_close(&q);
    assert_true(found(&id, 2));
    char names[8][400];
    assert_int_equal(paths(".kpack", names), 1);
    pack_id_free(&id);
}

static void a_file_size_limit_is_a_refusal(void **state) {
    (void)state;
    struct pack_id id = id_of("a.gguf", "layout", "stamp");
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){MIB, MIB});
        _exit(packfile_create(dir, &id, PLENTY) == NULL ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    char names[8][400];
    assert_int_equal(paths(".kpack", names), 0);
    assert_null(packfile_create("/nonexistent", &id, PLENTY));
    pack_id_free(&id);
}

static void the_limit_holds_for_all_together(void **state) {
    (void)state;
    struct pack_id a = id_of("a.gguf", "layout", "s"), b = id_of("b.gguf", "layout", "s"),
                   c = id_of("c.gguf", "layout", "s");
    const uint64_t each = BYTES + MIB / 2;
    assert_null(packfile_create(dir, &a, BYTES)); /* its head is more than that */
    assert_null(packfile_create(dir, &a, 0));
    put(&a, 1);
    usleep(20000);
    put(&b, 2);
    usleep(20000);
    assert_true(found(&a, 1)); /* used again: b is what has not been for longest */
    assert_int_equal(packfile_count(dir).files, 2);
    assert_in_range(packfile_count(dir).bytes, 2 * BYTES, 2 * each);
    struct packfile_writer *w = packfile_create(dir, &c, 2 * each + each / 2);
    struct packfile p;
    assert_true(w && write_image(w, 3) && packfile_publish(w, pool, &p));
    packfile_close(&p);
    assert_true(found(&a, 1));
    assert_false(found(&b, 2));
    assert_true(found(&c, 3));
    /* Packed weights of a model that was removed go first, used or not. */
    unlink(c.path.data);
    assert_true(found(&c, 3));
    packfile_abandon(packfile_create(dir, &b, 2 * each + each / 2));
    assert_true(found(&a, 1));
    assert_false(found(&c, 3));
    pack_id_free(&a);
    pack_id_free(&b);
    pack_id_free(&c);
}

/* ---- the stamp of a model file ---- */

static bool stamp_of(const char *path, struct buf *stamp) {
    struct gguf *g;
    struct err e;
    struct buf absolute = {0};
    *stamp = (struct buf){0};
    if (!gguf_open(path, NULL, &g, &e)) fail_msg("%s", e.msg);
    bool ok = gguf_stamp(g, &absolute, stamp);
    if (ok) assert_true(absolute.data[0] == '/' && absolute.data[absolute.len - 1] == 0);
    buf_free(&absolute);
    gguf_close(g);
    return ok;
}

static void a_stamp_changes_with_its_file(void **state) {
    (void)state;
    struct buf model = {0}, before, after;
    struct err e;
    char path[128];
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    assert_true(file_read("verify/data/families/llama-f32.gguf", &model, &e));
    assert_true(file_write_atomic(path, model.data, model.len, &e));
    assert_false(stamp_of(path, &before)); /* just written: another change could leave the same times */
    buf_free(&before);
    /* The last byte changes, and the time of modification is put back. */
    sleep(3);
    assert_true(stamp_of(path, &before));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    int fd = open(path, O_RDWR);
    uint8_t last;
    assert_int_equal(pread(fd, &last, 1, st.st_size - 1), 1);
    last ^= 1;
    assert_int_equal(pwrite(fd, &last, 1, st.st_size - 1), 1);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
    assert_false(stamp_of(path, &after));
    buf_free(&after);
    sleep(3);
    assert_true(stamp_of(path, &after));
    assert_int_equal(before.len, after.len);
    assert_memory_not_equal(before.data, after.data, before.len);
    buf_free(&before);
    buf_free(&after);
    /* Without a name it has none. */
    fd = open(path, O_RDONLY);
    unlink(path);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    assert_false(stamp_of(path, &after));
    buf_free(&after);
    close(fd);
    buf_free(&model);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_comes_back),       TEST(another_model_layout_or_target_is_not_taken),
        TEST(a_damaged_file_is_never_used),     TEST(a_killed_writer_leaves_nothing_that_is_taken),
        TEST(two_writers_leave_one_whole_file), TEST(a_file_size_limit_is_a_refusal),
        TEST(the_limit_holds_for_all_together), TEST(a_stamp_changes_with_its_file),
    };
    return cmocka_run_group_tests_name("packfile", tests, NULL, NULL);
}
