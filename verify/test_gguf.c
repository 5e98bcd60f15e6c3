/* The GGUF reader: what it reads of good files, and that damaged ones give an error that names the file and the field,
 * within a second and without allocating more than the file's size and 64 MiB. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/gguf.h"
#include "verify/gguf_build.h"

#define SMOLLM2 "build/models/smollm2-135m-instruct-q4_1.gguf"

static char dir[] = "/tmp/kgen-test-gguf-XXXXXX";
static char path[sizeof dir + 32];

static int make_dir(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return 1;
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    char command[sizeof dir + 16];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void write_to(const char *where, const struct buf *file) {
    FILE *f = fopen(where, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file->data ? file->data : "", 1, file->len, f), file->len);
    assert_int_equal(fclose(f), 0);
}

static bool open_bytes(const struct buf *file, struct gguf **g, struct err *e) {
    write_to(path, file);
    return gguf_open(path, build_types, g, e);
}

/* Opening must fail with a message that holds the path and `part`, within a second. */
static void expect_error(const struct buf *file, const char *part) {
    struct gguf *g = NULL;
    struct err e = {0};
    write_to(path, file);
    double started = cpu_s();
    if (gguf_open(path, build_types, &g, &e)) fail_msg("opened, expected an error with '%s'", part);
    assert_true(cpu_s() - started < 1);
    assert_null(g);
    assert_int_not_equal(e.code, ERR_NONE);
    if (!strstr(e.msg, path) || !strstr(e.msg, part)) fail_msg("'%s' lacks the path or '%s'", e.msg, part);
}

static const float f32_data[6] = {1, -2, 3, 4.5f, -5, 6};
static const uint8_t q4_0_data[36] = {[0] = 7, [35] = 9};

/* A small file with a key of every kind and two tensors. */
static struct gguf_build small_model(void) {
    struct gguf_build b = {0};
    build_str_key(&b, "general.architecture", "llama");
    build_u32_key(&b, "general.alignment", 32);
    build_raw_key(&b, "k.u8", GGUF_U8, "\xfe", 1);
    build_raw_key(&b, "k.i8", GGUF_I8, "\xfe", 1);
    build_raw_key(&b, "k.u16", GGUF_U16, &(uint16_t){65534}, 2);
    build_raw_key(&b, "k.i16", GGUF_I16, &(int16_t){-3}, 2);
    build_raw_key(&b, "k.i32", GGUF_I32, &(int32_t){70000}, 4);
    build_raw_key(&b, "k.u64", GGUF_U64, &(uint64_t){1ull << 63}, 8);
    build_raw_key(&b, "k.i64", GGUF_I64, &(int64_t){-1}, 8);
    build_raw_key(&b, "k.f64", GGUF_F64, &(double){0.25}, 8);
    build_f32_key(&b, "k.f32", 1.5f);
    build_bool_key(&b, "k.bool", true);
    build_strs_key(&b, "k.strings", (const char *const[]){"one", "", "three"}, 3);
    build_i32s_key(&b, "k.heads", (const int32_t[]){4, 8}, 2);
    build_f32s_key(&b, "k.floats", (const float[]){0.5f, -1}, 2);
    build_str_key(&b, "k.empty", "");
    build_str_key(&b, "k.last", "the end");
    build_tensor(&b, "a.weight", 2, (const uint64_t[]){3, 2}, 0, f32_data, sizeof f32_data);
    build_tensor(&b, "b.weight", 1, (const uint64_t[]){64}, 2, q4_0_data, sizeof q4_0_data);
    return b;
}

static struct buf small_file(void) {
    struct gguf_build b = small_model();
    struct buf file = {0};
    build_file(&b, &file);
    build_free(&b);
    return file;
}

static void open_small_model_reads_every_kind(void **state) {
    (void)state;
    struct err e;
    struct gguf *g;
    for (uint32_t version = 2; version <= 3; version++) {
        struct gguf_build b = small_model();
        b.version = version;
        struct buf file = {0};
        build_file(&b, &file);
        assert_true(open_bytes(&file, &g, &e));
        assert_int_equal(gguf_version(g), version);
        assert_int_equal(gguf_alignment(g), 32);
        assert_int_equal(gguf_file_bytes(g), file.len);
        assert_int_equal(gguf_n_parts(g), 1);
        assert_string_equal(gguf_path(g), path);
        assert_int_equal(gguf_n_keys(g), b.n_keys);

        const char *s;
        uint64_t u;
        float f;
        bool flag;
        assert_true(gguf_get_str(g, "general.architecture", &s, &e));
        assert_string_equal(s, "llama");
        assert_true(gguf_get_str(g, "k.empty", &s, &e));
        assert_string_equal(s, "");
        assert_true(gguf_get_str(g, "k.last", &s, &e));
        assert_string_equal(s, "the end");
        assert_true(gguf_get_u64(g, "k.u8", &u, &e) && u == 254);
        assert_true(gguf_get_u64(g, "k.u16", &u, &e) && u == 65534);
        assert_true(gguf_get_u64(g, "k.i32", &u, &e) && u == 70000);
        assert_true(gguf_get_u64(g, "k.u64", &u, &e) && u == 1ull << 63);
        assert_true(gguf_get_f32(g, "k.f32", &f, &e) && f == 1.5f);
        assert_true(gguf_get_f32(g, "k.f64", &f, &e) && f == 0.25f);
        assert_true(gguf_get_bool(g, "k.bool", &flag, &e) && flag);

        const struct gguf_value *v;
        assert_true(gguf_get_array(g, "k.strings", GGUF_STRING, &v, &e));
        struct gguf_strings it = gguf_strings_begin(v);
        assert_true(gguf_strings_next(&it) && it.len == 3 && memcmp(it.data, "one", 3) == 0);
        assert_true(gguf_strings_next(&it) && it.len == 0);
        assert_true(gguf_strings_next(&it) && it.len == 5 && memcmp(it.data, "three", 5) == 0);
        assert_false(gguf_strings_next(&it));
        assert_true(gguf_get_array(g, "k.floats", GGUF_F32, &v, &e) && v->n == 2);
        assert_true(gguf_value_f64(v, 0) == 0.5 && gguf_value_f64(v, 1) == -1);
        assert_true(gguf_value_f64(gguf_find(g, "k.i8"), 0) == -2);
        assert_true(gguf_value_f64(gguf_find(g, "k.u64"), 0) == 0x1p63);

        assert_string_equal(gguf_key_at(g, 0)->name, "general.architecture");
        assert_string_equal(gguf_key_at(g, gguf_n_keys(g) - 1)->name, "k.last");
        gguf_close(g);
        build_free(&b);
        buf_free(&file);
    }
}

static void tensors_have_shape_place_and_data(void **state) {
    (void)state;
    struct err e;
    struct gguf *g;
    struct buf file = small_file();
    assert_true(open_bytes(&file, &g, &e));
    assert_int_equal(gguf_n_tensors(g), 2);
    const struct gguf_tensor *a = gguf_tensor_at(g, 0), *b = gguf_find_tensor(g, "b.weight");
    assert_ptr_equal(a, gguf_find_tensor(g, "a.weight"));
    assert_ptr_equal(b, gguf_tensor_at(g, 1));
    assert_string_equal(a->name, "a.weight");
    assert_int_equal(a->n_dims, 2);
    assert_true(a->ne[0] == 3 && a->ne[1] == 2 && a->ne[2] == 1 && a->ne[3] == 1 && a->n_elems == 6);
    assert_int_equal(a->bytes, 24);
    assert_int_equal(a->off % 32, 0);
    assert_memory_equal(a->data, f32_data, 24);
    assert_string_equal(b->type->name, "q4_0");
    assert_int_equal(b->bytes, 36);
    assert_int_equal(b->off, a->off + 32);
    assert_memory_equal(b->data, q4_0_data, 36);

    float part[2];
    assert_true(gguf_pread(g, a, 12, part, sizeof part, &e));
    assert_memory_equal(part, f32_data + 3, sizeof part);

    const struct gguf_tensor *none;
    assert_null(gguf_find_tensor(g, "c.weight"));
    assert_false(gguf_get_tensor(g, "c.weight", &none, &e));
    assert_non_null(strstr(e.msg, "c.weight"));
    gguf_close(g);

    /* without a type table: names and shapes only */
    assert_true(gguf_open(path, NULL, &g, &e));
    assert_int_equal(gguf_find_tensor(g, "a.weight")->n_elems, 6);
    assert_null(gguf_find_tensor(g, "a.weight")->data);
    gguf_close(g);
    buf_free(&file);
}

static void getters_tell_missing_from_wrong_type(void **state) {
    (void)state;
    struct err e;
    struct gguf *g;
    struct buf file = small_file();
    assert_true(open_bytes(&file, &g, &e));
    const char *s;
    uint64_t u, us[2];
    float f;
    bool flag;
    const struct gguf_value *v;
#define MUST_SAY(call, part)                                                                                           \
    do {                                                                                                               \
        e = (struct err){0};                                                                                           \
        assert_false(call);                                                                                            \
        assert_int_equal(e.code, ERR_INPUT);                                                                           \
        if (!strstr(e.msg, part) || !strstr(e.msg, path)) fail_msg("'%s' lacks '%s' or the path", e.msg, part);        \
    } while (0)
    MUST_SAY(gguf_get_str(g, "no", &s, &e), "'no' is missing");
    MUST_SAY(gguf_get_u64(g, "no", &u, &e), "'no' is missing");
    MUST_SAY(gguf_get_f32(g, "no", &f, &e), "'no' is missing");
    MUST_SAY(gguf_get_bool(g, "no", &flag, &e), "'no' is missing");
    MUST_SAY(gguf_get_u64s(g, "no", us, 2, &e), "'no' is missing");
    MUST_SAY(gguf_get_array(g, "no", GGUF_F32, &v, &e), "'no' is missing");
    MUST_SAY(gguf_get_str(g, "k.u8", &s, &e), "'k.u8' has type u8, expected string");
    MUST_SAY(gguf_get_str(g, "k.strings", &s, &e), "'k.strings' has type array of string, expected string");
    MUST_SAY(gguf_get_u64(g, "k.f32", &u, &e), "'k.f32' has type f32, expected an integer");
    MUST_SAY(gguf_get_u64(g, "k.bool", &u, &e), "'k.bool' has type bool");
    MUST_SAY(gguf_get_u64(g, "k.heads", &u, &e), "'k.heads' has type array of i32");
    MUST_SAY(gguf_get_u64(g, "k.i16", &u, &e), "'k.i16' holds -3");
    MUST_SAY(gguf_get_u64(g, "k.i64", &u, &e), "'k.i64' holds -1");
    MUST_SAY(gguf_get_f32(g, "k.u8", &f, &e), "'k.u8' has type u8, expected f32");
    MUST_SAY(gguf_get_bool(g, "k.u8", &flag, &e), "'k.u8' has type u8, expected bool");
    MUST_SAY(gguf_get_array(g, "k.floats", GGUF_U64, &v, &e), "expected array of integers");
    MUST_SAY(gguf_get_array(g, "k.f32", GGUF_F32, &v, &e), "expected array of f32");
    MUST_SAY(gguf_get_u64s(g, "k.heads", us, 1, &e), "'k.heads' has 2 elements, expected 1");
    MUST_SAY(gguf_get_u64s(g, "k.floats", us, 2, &e), "'k.floats' has type array of f32");

    assert_true(gguf_get_u64s(g, "k.heads", us, 2, &e) && us[0] == 4 && us[1] == 8);
    assert_true(gguf_get_u64s(g, "k.u8", us, 2, &e) && us[0] == 254 && us[1] == 254);
    assert_true(gguf_get_str_or(g, "no", "def", &s, &e) && strcmp(s, "def") == 0);
    assert_true(gguf_get_u64_or(g, "no", 5, &u, &e) && u == 5);
    assert_true(gguf_get_u64_or(g, "k.u8", 5, &u, &e) && u == 254);
    assert_true(gguf_get_f32_or(g, "no", 2, &f, &e) && f == 2);
    assert_true(gguf_get_bool_or(g, "no", true, &flag, &e) && flag);
    MUST_SAY(gguf_get_u64_or(g, "k.f32", 5, &u, &e), "'k.f32' has type f32");
    MUST_SAY(gguf_get_str_or(g, "k.f32", "x", &s, &e), "'k.f32' has type f32");
    MUST_SAY(gguf_get_f32_or(g, "k.bool", 1, &f, &e), "'k.bool' has type bool");
    MUST_SAY(gguf_get_bool_or(g, "k.f32", true, &flag, &e), "'k.f32' has type f32");
    gguf_close(g);
    buf_free(&file);
}

static void open_refuses_what_is_no_model_file(void **state) {
    (void)state;
    struct err e;
    struct gguf *g;
    assert_false(gguf_open(dir, build_types, &g, &e));
    assert_non_null(strstr(e.msg, "directory"));
    assert_false(gguf_open("/nonexistent/model.gguf", build_types, &g, &e));
    assert_int_equal(e.code, ERR_IO);
    char fifo[sizeof path + 8];
    snprintf(fifo, sizeof fifo, "%s.fifo", path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_false(gguf_open(fifo, build_types, &g, &e)); /* and does not wait for a writer */
    assert_non_null(strstr(e.msg, "not a regular file"));

    struct buf file = {0};
    expect_error(&file, "empty");
    buf_add(&file, "GGML\3\0\0\0", 8);
    expect_error(&file, "not a GGUF file");
    buf_free(&file);
}

static void open_refuses_versions(void **state) {
    (void)state;
    static const struct {
        uint32_t version;
        const char *part;
    } cases[] = {{0, "version 0"}, {1, "version 1"}, {4, "version 4"}, {99, "version 99"}, {3u << 24, "big-endian"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf file = small_file();
        memcpy(file.data + 4, &cases[i].version, 4);
        expect_error(&file, cases[i].part);
        buf_free(&file);
    }
}

static void open_refuses_truncation_at_every_byte(void **state) {
    (void)state;
    struct buf file = small_file();
    size_t whole = file.len;
    for (file.len = 0; file.len < whole; file.len++) expect_error(&file, "");
    buf_free(&file);
}

static void open_refuses_counts_that_wrap(void **state) {
    (void)state;
    static const uint64_t counts[] = {UINT64_MAX,      1ull << 63, 1ull << 61, UINT64_MAX / 40 + 1, 1ull << 32,
                                      UINT64_MAX / 33, 1ull << 56, 100000,     UINT64_MAX / 104 + 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t off = 8; off <= 16; off += 8) {
            struct buf file = small_file();
            memcpy(file.data + off, &counts[i], 8);
            expect_error(&file, off == 8 ? "tensors" : "keys");
            buf_free(&file);
        }
}

/* A file of one key and one tensor entry, followed by 256 bytes of data. */
static void expect_tensor_error(uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t off, const char *part) {
    struct gguf_build b = {0};
    build_str_key(&b, "general.architecture", "llama");
    build_raw_tensor(&b, "the.tensor", n_dims, ne, type, off);
    char data[256] = {0};
    buf_add(&b.data, data, sizeof data);
    struct buf file = {0};
    build_file(&b, &file);
    expect_error(&file, part);
    buf_free(&file);
    build_free(&b);
}

static void open_refuses_bad_shapes(void **state) {
    (void)state;
    static const struct {
        uint32_t n_dims;
        uint64_t ne[5];
        uint32_t type;
        const char *part;
    } cases[] = {
        {1, {0}, 0, "'the.tensor': dimension 0 is 0"},
        {2, {4, 0}, 0, "'the.tensor': dimension 1 is 0"},
        {1, {UINT64_MAX}, 0, "dimension 0 is -1"},
        {2, {1ull << 62, 4}, 0, "dimension 1"},
        {4, {1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16}, 0, "dimension 3"},
        {3, {1ull << 31, 1ull << 31, 4}, 2, "dimension 2"},
        {1, {1ull << 62}, 0, "exceeds 64 bits"}, /* 2^62 elements of 4 bytes */
        {1, {0x7fffffffffffffe0}, 0, "exceeds 64 bits"},
        {0, {0}, 0, "0 dimensions"},
        {5, {1, 1, 1, 1, 1}, 0, "5 dimensions"},
        {1, {33}, 2, "not a multiple of q4_0's 32"},
        {1, {128}, 12, "not a multiple of q4_k's 256"},
        {1, {4}, 4, "type id 4"},
        {1, {4}, 9999, "type id 9999"},
        {1, {4}, UINT32_MAX, "type id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_tensor_error(cases[i].n_dims, cases[i].ne, cases[i].type, 0, cases[i].part);
    /* n_dims as a huge number, without that many dimensions */
    struct gguf_build b = {0};
    build_string(&b.tensors, "the.tensor");
    build_u32(&b.tensors, UINT32_MAX);
    for (int i = 0; i < 8; i++) build_u64(&b.tensors, 1);
    b.n_tensors = 1;
    struct buf file = {0};
    build_file(&b, &file);
    expect_error(&file, "'the.tensor' has 4294967295 dimensions");
    buf_free(&file);
    build_free(&b);
}

static void open_refuses_bad_offsets(void **state) {
    (void)state;
    static const struct {
        uint64_t off;
        const char *part;
    } cases[] = {
        {224, NULL}, /* the last place where 8 floats fit */
        {256, "past the end"},
        {1ull << 40, "past the end"},
        {UINT64_MAX - 31, "past the end"}, /* wraps */
        {1ull << 63, "past the end"},
        {4, "not a multiple of the alignment"},
        {31, "not a multiple of the alignment"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].part) {
            expect_tensor_error(1, (const uint64_t[]){8}, 0, cases[i].off, cases[i].part);
            continue;
        }
        struct gguf_build b = {0};
        build_raw_tensor(&b, "t", 1, (const uint64_t[]){8}, 0, cases[i].off);
        buf_add(&b.data, (const char[256]){0}, 256);
        struct buf file = {0};
        struct gguf *g;
        struct err e;
        build_file(&b, &file);
        assert_true(open_bytes(&file, &g, &e));
        gguf_close(g);
        buf_free(&file);
        build_free(&b);
    }
    expect_tensor_error(1, (const uint64_t[]){1ull << 40}, 0, 0, "past the end");
    expect_tensor_error(1, (const uint64_t[]){65}, 0, 0, "past the end");
}

static void open_refuses_overlaps_and_repeats(void **state) {
    (void)state;
    char data[256] = {0};
    struct buf file = {0};
    struct gguf_build b = {0};
    build_raw_tensor(&b, "one", 1, (const uint64_t[]){16}, 0, 64);
    build_raw_tensor(&b, "two", 1, (const uint64_t[]){24}, 0, 0); /* bytes 0 … 95 */
    buf_add(&b.data, data, sizeof data);
    build_file(&b, &file);
    expect_error(&file, "'two' and 'one' overlap");
    buf_free(&file);
    build_free(&b);

    build_raw_tensor(&b, "same", 1, (const uint64_t[]){8}, 0, 0);
    build_raw_tensor(&b, "same", 1, (const uint64_t[]){8}, 0, 32);
    buf_add(&b.data, data, sizeof data);
    build_file(&b, &file);
    expect_error(&file, "the tensor 'same' appears twice");
    buf_free(&file);
    build_free(&b);

    build_u32_key(&b, "same.key", 1);
    build_u32_key(&b, "other.key", 1);
    build_str_key(&b, "same.key", "x");
    build_file(&b, &file);
    expect_error(&file, "the key 'same.key' appears twice");
    buf_free(&file);
    build_free(&b);

    build_u32_key(&b, "", 1);
    build_file(&b, &file);
    expect_error(&file, "empty key's name");
    buf_free(&file);
    build_free(&b);

    build_raw_tensor(&b, "", 1, (const uint64_t[]){8}, 0, 0);
    buf_add(&b.data, data, sizeof data);
    build_file(&b, &file);
    expect_error(&file, "empty tensor's name");
    buf_free(&file);
    build_free(&b);
}

static void open_refuses_long_strings_and_arrays(void **state) {
    (void)state;
    static const uint64_t lengths[] = {1ull << 32, 1ull << 40, 1ull << 60,     (1ull << 61) + 1,
                                       1ull << 63, UINT64_MAX, UINT64_MAX - 8, 100000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct buf file = {0};
        struct gguf_build b = {0};
        /* a key's name */
        build_u64(&b.keys, lengths[i]);
        buf_puts(&b.keys, "name and what follows");
        b.n_keys = 1;
        build_file(&b, &file);
        expect_error(&file, "a key's name");
        buf_free(&file);
        build_free(&b);
        /* a string value */
        build_raw_key(&b, "the.key", GGUF_STRING, &lengths[i], 8);
        build_file(&b, &file);
        expect_error(&file, "'the.key'");
        buf_free(&file);
        build_free(&b);
        /* arrays: of every element type, and a string inside one */
        for (uint32_t type = 0; type < GGUF_N_VALUE_TYPES; type++) {
            build_raw_key(&b, "the.array", GGUF_ARRAY, NULL, 0);
            build_u32(&b.keys, type);
            build_u64(&b.keys, lengths[i]);
            buf_puts(&b.keys, "some elements, not as many as claimed");
            build_file(&b, &file);
            expect_error(&file, "'the.array'");
            buf_free(&file);
            build_free(&b);
        }
        build_raw_key(&b, "the.array", GGUF_ARRAY, NULL, 0);
        build_u32(&b.keys, GGUF_STRING);
        build_u64(&b.keys, 1);
        build_u64(&b.keys, lengths[i]);
        build_file(&b, &file);
        expect_error(&file, "'the.array'");
        buf_free(&file);
        build_free(&b);
        /* a tensor's name */
        build_u64(&b.tensors, lengths[i]);
        buf_puts(&b.tensors, "name and what follows, long enough for an entry");
        b.n_tensors = 1;
        build_file(&b, &file);
        expect_error(&file, "a tensor's name");
        buf_free(&file);
        build_free(&b);
    }
}

static void open_refuses_odd_values(void **state) {
    (void)state;
    struct buf file = {0};
    struct gguf_build b = {0};
    build_raw_key(&b, "the.key", GGUF_N_VALUE_TYPES, "0123456789", 10);
    build_file(&b, &file);
    expect_error(&file, "'the.key' has value type 13");
    buf_free(&file);
    build_free(&b);

    build_raw_key(&b, "the.key", GGUF_BOOL, "\2", 1);
    build_file(&b, &file);
    expect_error(&file, "bool of value 2");
    buf_free(&file);
    build_free(&b);

    /* arrays of arrays, 10^5 deep */
    build_raw_key(&b, "the.key", GGUF_ARRAY, NULL, 0);
    for (int i = 0; i < 100000; i++) {
        build_u32(&b.keys, GGUF_ARRAY);
        build_u64(&b.keys, 1);
    }
    build_file(&b, &file);
    expect_error(&file, "array of arrays");
    buf_free(&file);
    build_free(&b);

    /* a name with a NUL inside would be cut short in every message and lookup */
    build_u64(&b.keys, 3);
    buf_add(&b.keys, "a\0b", 3);
    build_u32(&b.keys, GGUF_U8);
    buf_add(&b.keys, "\1", 1);
    b.n_keys = 1;
    build_file(&b, &file);
    expect_error(&file, "NUL");
    buf_free(&file);
    build_free(&b);
}

static void open_checks_alignment(void **state) {
    (void)state;
    static const uint32_t bad[] = {0, 1, 3, 4, 33, 1u << 31, UINT32_MAX};
    struct buf file = {0};
    struct gguf_build b = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        build_u32_key(&b, "general.alignment", bad[i]);
        build_file(&b, &file);
        expect_error(&file, "general.alignment is");
        buf_free(&file);
        build_free(&b);
    }
    build_str_key(&b, "general.alignment", "32");
    build_file(&b, &file);
    expect_error(&file, "general.alignment has type string");
    buf_free(&file);
    build_free(&b);

    build_i32s_key(&b, "general.alignment", (const int32_t[]){32}, 1);
    build_file(&b, &file);
    expect_error(&file, "general.alignment has type array of i32");
    buf_free(&file);
    build_free(&b);

    b.alignment = 256;
    build_u32_key(&b, "general.alignment", 256);
    build_tensor(&b, "a", 1, (const uint64_t[]){6}, 0, f32_data, sizeof f32_data);
    build_tensor(&b, "b", 1, (const uint64_t[]){6}, 0, f32_data, sizeof f32_data);
    build_file(&b, &file);
    struct gguf *g;
    struct err e;
    assert_true(open_bytes(&file, &g, &e));
    assert_int_equal(gguf_find_tensor(g, "b")->off % 256, 0);
    assert_memory_equal(gguf_find_tensor(g, "b")->data, f32_data, sizeof f32_data);
    gguf_close(g);
    buf_free(&file);
    build_free(&b);
}

static void pread_of_a_file_that_shrank_is_an_error(void **state) {
    (void)state;
    struct err e;
    struct gguf *g;
    struct buf file = small_file();
    assert_true(open_bytes(&file, &g, &e));
    const struct gguf_tensor *t = gguf_find_tensor(g, "b.weight");
    assert_int_equal(truncate(path, (off_t)t->off + 10), 0);
    char got[36];
    assert_true(gguf_pread(g, t, 0, got, 10, &e));
    assert_false(gguf_pread(g, t, 0, got, 36, &e));
    assert_int_equal(e.code, ERR_IO);
    assert_non_null(strstr(e.msg, "b.weight"));
    assert_non_null(strstr(e.msg, path));
    assert_int_equal(truncate(path, 0), 0);
    const char *s; /* metadata lives in memory */
    assert_true(gguf_get_str(g, "k.last", &s, &e));
    assert_string_equal(s, "the end");
    gguf_close(g);
    buf_free(&file);
}

static void drop_keeps_the_data_readable(void **state) {
    (void)state;
    enum { N = 1 << 18 };
    float *values = mem_new(N * sizeof *values);
    for (int i = 0; i < N; i++) values[i] = (float)i;
    struct gguf_build b = {0};
    build_tensor(&b, "first", 1, (const uint64_t[]){6}, 0, f32_data, sizeof f32_data);
    build_tensor(&b, "large", 1, (const uint64_t[]){N}, 0, values, N * sizeof *values);
    build_tensor(&b, "last", 1, (const uint64_t[]){6}, 0, f32_data, sizeof f32_data);
    struct buf file = {0};
    struct gguf *g;
    struct err e;
    build_file(&b, &file);
    assert_true(open_bytes(&file, &g, &e));
    for (size_t i = 0; i < 3; i++) gguf_drop(g, gguf_tensor_at(g, i));
    assert_memory_equal(gguf_find_tensor(g, "first")->data, f32_data, sizeof f32_data);
    assert_memory_equal(gguf_find_tensor(g, "large")->data, values, N * sizeof *values);
    assert_memory_equal(gguf_find_tensor(g, "last")->data, f32_data, sizeof f32_data);
    gguf_close(g);
    buf_free(&file);
    build_free(&b);
    mem_free(values);
}

/* Part `no` of `n` of a split set with one tensor of its own. */
static struct buf split_part(uint16_t no, uint16_t n, const char *tensor, int32_t total) {
    struct gguf_build b = {0};
    if (no == 0) build_str_key(&b, "general.architecture", "llama");
    build_raw_key(&b, "split.no", GGUF_U16, &no, 2);
    build_raw_key(&b, "split.count", GGUF_U16, &n, 2);
    build_raw_key(&b, "split.tensors.count", GGUF_I32, &total, 4);
    build_tensor(&b, tensor, 1, (const uint64_t[]){6}, 0, f32_data, sizeof f32_data);
    struct buf file = {0};
    build_file(&b, &file);
    build_free(&b);
    return file;
}

static void split_sets_open_as_one(void **state) {
    (void)state;
    char parts[3][sizeof path + 16];
    struct buf files[3];
    static const char *const names[] = {"t0", "t1", "t2"};
    struct gguf *g;
    struct err e;
    for (int i = 0; i < 3; i++) {
        snprintf(parts[i], sizeof parts[i], "%s/split-%05d-of-00003.gguf", dir, i + 1);
        files[i] = split_part((uint16_t)i, 3, names[i], 3);
        write_to(parts[i], &files[i]);
    }
    assert_true(gguf_open(parts[0], build_types, &g, &e));
    assert_int_equal(gguf_n_parts(g), 3);
    assert_int_equal(gguf_n_tensors(g), 3);
    assert_int_equal(gguf_file_bytes(g), files[0].len + files[1].len + files[2].len);
    for (uint32_t i = 0; i < 3; i++) {
        const struct gguf_tensor *t = gguf_find_tensor(g, names[i]);
        assert_non_null(t);
        assert_int_equal(t->part, i);
        assert_memory_equal(t->data, f32_data, sizeof f32_data);
        float back[6];
        assert_true(gguf_pread(g, t, 0, back, sizeof back, &e));
        assert_memory_equal(back, f32_data, sizeof back);
    }
    const char *s;
    assert_true(gguf_get_str(g, "general.architecture", &s, &e)); /* the first part's keys */
    gguf_close(g);

#define SPLIT_MUST_SAY(what, part)                                                                                     \
    do {                                                                                                               \
        assert_false(gguf_open(what, build_types, &g, &e));                                                            \
        if (!strstr(e.msg, part)) fail_msg("'%s' lacks '%s'", e.msg, part);                                            \
    } while (0)
    SPLIT_MUST_SAY(parts[1], "open the first part");
    assert_int_equal(unlink(parts[1]), 0);
    SPLIT_MUST_SAY(parts[0], "split-00002-of-00003.gguf"); /* missing */
    write_to(parts[1], &files[2]);
    SPLIT_MUST_SAY(parts[0], "a part is missing or repeated");
    write_to(parts[1], &files[0]);
    SPLIT_MUST_SAY(parts[0], "a part is missing or repeated");
    struct buf same_tensor = split_part(1, 3, "t2", 3), wrong_total = split_part(0, 3, "t0", 7),
               not_split = small_file();
    write_to(parts[1], &same_tensor);
    SPLIT_MUST_SAY(parts[0], "the tensor 't2' appears twice");
    write_to(parts[1], &not_split);
    SPLIT_MUST_SAY(parts[0], "'split.no' is missing");
    write_to(parts[1], &files[1]);
    write_to(parts[0], &wrong_total);
    SPLIT_MUST_SAY(parts[0], "split.tensors.count says 7");
    write_to(path, &files[0]);
    SPLIT_MUST_SAY(path, "must be named");
    for (int i = 0; i < 3; i++) buf_free(&files[i]);
    buf_free(&same_tensor);
    buf_free(&wrong_total);
    buf_free(&not_split);
}

static uint64_t next_random(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

/* Reads everything that an open file offers. */
static uint64_t walk(const struct gguf *g) {
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        const struct gguf_key *k = gguf_key_at(g, i);
        assert_ptr_equal(gguf_find(g, k->name), &k->value);
        if (k->value.type != GGUF_STRING) {
            for (uint64_t j = 0; j < k->value.n; j++) sum += gguf_value_f64(&k->value, j) != 0;
        } else if (k->value.is_array) {
            struct gguf_strings it = gguf_strings_begin(&k->value);
            while (gguf_strings_next(&it))
                for (uint64_t j = 0; j < it.len; j++) sum += (uint8_t)it.data[j];
        } else {
            assert_true(strlen(k->value.data) <= k->value.bytes);
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        assert_ptr_equal(gguf_find_tensor(g, t->name), t);
        for (uint64_t j = 0; j < t->bytes; j++) sum += t->data[j];
    }
    return sum;
}

static void damaged_copies_open_or_fail_cleanly(void **state) {
    (void)state;
    struct buf good = small_file();
    uint64_t seed = 20240817;
    int opened = 0, refused = 0;
    for (int i = 0; i < 300; i++) {
        struct buf bad = {0};
        buf_add(&bad, good.data, good.len);
        for (uint64_t n = 1 + next_random(&seed) % 4; n; n--) {
            size_t at = next_random(&seed) % bad.len;
            switch (next_random(&seed) % 4) {
            case 0:
                bad.data[at] ^= (char)(1 << next_random(&seed) % 8);
                break;
            case 1:
                bad.data[at] = (char)next_random(&seed);
                break;
            case 2:
                bad.data[at] = (char)0xff;
                break;
            default:
                bad.len = at ? at : 1;
            }
        }
        struct gguf *g;
        struct err e = {0};
        double started = cpu_s();
        if (open_bytes(&bad, &g, &e)) {
            (void)walk(g);
            opened++;
            gguf_close(g);
        } else {
            assert_non_null(strstr(e.msg, path));
            refused++;
        }
        assert_true(cpu_s() - started < 1);
        buf_free(&bad);
    }
    assert_true(opened > 20 && refused > 100); /* both sides of the check are exercised */
    buf_free(&good);
}

static void every_failed_allocation_is_an_error(void **state) {
    (void)state;
    struct buf file = small_file();
    write_to(path, &file);
    long n = 1;
    for (;; n++) {
        struct gguf *g;
        struct err e = {0};
        mem_fail_at(n);
        bool ok = gguf_open(path, build_types, &g, &e);
        mem_fail_at(0);
        if (ok) {
            gguf_close(g);
            break;
        }
        assert_int_equal(e.code, ERR_MEMORY);
    }
    assert_true(n > 3);
    buf_free(&file);
}

#ifndef __SANITIZE_ADDRESS__
static uint64_t address_space(void) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%lu", &pages) != 1) exit(9);
    fclose(f);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* In a child whose address space may grow by the file's size and 64 MiB: 0 when the file is refused for what it is. */
static int refuse_within_limit(const struct buf *file) {
    pid_t child = fork();
    if (child == 0) {
        uint64_t limit = address_space() + file->len + (64u << 20);
        setrlimit(RLIMIT_AS, &(struct rlimit){limit, limit});
        struct gguf *g;
        struct err e;
        bool ok = gguf_open(path, build_types, &g, &e);
        _exit(ok ? 1 : e.code == ERR_MEMORY ? 2 : 0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + status;
}
#endif

static void rejection_needs_little_memory(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    print_message("# skip: the address space cannot be limited under AddressSanitizer\n");
    skip();
#else
    /* as many keys as are allowed, then one of an unknown type */
    struct gguf_build b = {0};
    for (int i = 0; i < GGUF_MAX_KEYS - 1; i++) {
        char name[16];
        snprintf(name, sizeof name, "%x", i);
        build_raw_key(&b, name, GGUF_U8, "\1", 1);
    }
    build_raw_key(&b, "last", 99, "", 0);
    struct buf file = {0};
    build_file(&b, &file);
    write_to(path, &file);
    assert_int_equal(refuse_within_limit(&file), 0);
    buf_free(&file);
    build_free(&b);

    /* as many tensors as are allowed, the last one past the end */
    for (uint64_t i = 0; i < GGUF_MAX_TENSORS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%x", (unsigned)i);
        build_raw_tensor(&b, name, 1, (const uint64_t[]){1}, 0, i == GGUF_MAX_TENSORS - 1 ? 1ull << 40 : 32 * i);
    }
    file.len = 0;
    buf_add(&b.data, "", 1);
    build_file(&b, &file);
    write_to(path, &file);
    assert_int_equal(refuse_within_limit(&file), 0);
    buf_free(&file);
    build_free(&b);

    /* an array that claims everything */
    build_raw_key(&b, "the.array", GGUF_ARRAY, NULL, 0);
    build_u32(&b.keys, GGUF_STRING);
    build_u64(&b.keys, 1ull << 33);
    build_file(&b, &file);
    write_to(path, &file);
    assert_int_equal(refuse_within_limit(&file), 0);
    buf_free(&file);
    build_free(&b);
#endif
}

static void real_model_opens(void **state) {
    (void)state;
    if (access(SMOLLM2, R_OK) != 0) {
        print_message("# skip: %s is absent (./setup.sh puts it there)\n", SMOLLM2);
        skip();
    }
    struct gguf *g;
    struct err e;
    double started = cpu_s();
    if (!gguf_open(SMOLLM2, build_types, &g, &e)) fail_msg("%s", e.msg);
    assert_true(cpu_s() - started < 0.5);
    assert_int_equal(gguf_n_tensors(g), 272);
    const struct gguf_tensor *t = gguf_find_tensor(g, "token_embd.weight");
    assert_non_null(t);
    assert_true(t->ne[0] == 576 && t->ne[1] == 49152);
    uint64_t blocks;
    assert_true(gguf_get_u64(g, "llama.block_count", &blocks, &e) && blocks == 30);
    walk(g);
    gguf_close(g);
}

static void walk_of_the_small_model_finds_everything(void **state) {
    (void)state;
    struct buf file = {0};
    struct gguf_build b = {0};
    build_u32_key(&b, "one", 1);
    build_strs_key(&b, "list", (const char *const[]){"a", "b"}, 2);
    build_tensor(&b, "t", 1, (const uint64_t[]){32}, 2, q4_0_data, 18);
    build_file(&b, &file);
    struct gguf *g;
    struct err e;
    assert_true(open_bytes(&file, &g, &e));
    assert_int_equal(walk(g), 1 + 'a' + 'b' + 7);
    gguf_close(g);
    buf_free(&file);
    build_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_small_model_reads_every_kind),
        cmocka_unit_test(tensors_have_shape_place_and_data),
        cmocka_unit_test(walk_of_the_small_model_finds_everything),
        cmocka_unit_test(getters_tell_missing_from_wrong_type),
        cmocka_unit_test(open_refuses_what_is_no_model_file),
        cmocka_unit_test(open_refuses_versions),
        cmocka_unit_test(open_refuses_truncation_at_every_byte),
        cmocka_unit_test(open_refuses_counts_that_wrap),
        cmocka_unit_test(open_refuses_bad_shapes),
        cmocka_unit_test(open_refuses_bad_offsets),
        cmocka_unit_test(open_refuses_overlaps_and_repeats),
        cmocka_unit_test(open_refuses_long_strings_and_arrays),
        cmocka_unit_test(open_refuses_odd_values),
        cmocka_unit_test(open_checks_alignment),
        cmocka_unit_test(pread_of_a_file_that_shrank_is_an_error),
        cmocka_unit_test(drop_keeps_the_data_readable),
        cmocka_unit_test(split_sets_open_as_one),
        cmocka_unit_test(damaged_copies_open_or_fail_cleanly),
        cmocka_unit_test(every_failed_allocation_is_an_error),
        cmocka_unit_test(rejection_needs_little_memory),
        cmocka_unit_test(real_model_opens),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
