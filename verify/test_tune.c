/* test_tune: what the tune database keeps through kills, other writers and damage; that what it holds is used; and that
 * no candidate changes a bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "runtime/compile.h"
#include "verify/ref_rng.h"

static char dir[64];

static int fresh_dir(void **state) {
    (void)state;
    strcpy(dir, "/tmp/kgen-tune-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static struct tunedb *create(void) {
    struct tunedb *db;
    struct err e;
    if (!tunedb_create(dir, &db, &e)) fail_msg("%s", e.msg);
    return db;
}

/* A sweep of two candidates, toks = 8 the default and `toks` the choice. */
static bool try_put(struct tunedb *db, const char *key, enum tune_use use, int toks, struct err *e) {
    json_t *fallback = json_pack("{s:i}", "toks", 8), *best = json_pack("{s:i}", "toks", toks);
    struct tune_entry entries[] = {{fallback, 2.0, "default"}, {best, 1.0, "measured"}};
    struct tune_result r = {.key = key,
                            .kernel = "k",
                            .target = "native",
                            .n_threads = 1,
                            .use = use,
                            .tokens = "7",
                            .entries = entries,
                            .n = 2,
                            .best = 1,
                            .fallback = 0};
    bool ok = tunedb_put(db, &r, e);
    json_decref(fallback);
    json_decref(best);
    return ok;
}

static void put(struct tunedb *db, const char *key, enum tune_use use, int toks) {
    struct err e;
    if (!try_put(db, key, use, toks, &e)) fail_msg("%s", e.msg);
}

/* The choice for a key; -1: none. */
static int found(struct tunedb *db, const char *key) {
    json_t *tune = tunedb_find(db, key, 1, USE_PROMPT);
    int toks = tune ? (int)json_integer_value(json_object_get(tune, "toks")) : -1;
    json_decref(tune);
    return toks;
}

/* One number by SQLite itself, past tunedb. */
static int64_t ask(const char *query) {
    sqlite3 *sql;
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_open(path_of("tune.db"), &sql), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(sql, query, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(sql);
    return n;
}

static void execute(const char *text) {
    sqlite3 *sql;
    assert_int_equal(sqlite3_open(path_of("tune.db"), &sql), SQLITE_OK);
    assert_int_equal(sqlite3_exec(sql, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(sql);
}

static int64_t intact(void) {
    return ask("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'");
}

static void choice_is_found_again(void **state) {
    (void)state;
    struct tunedb *db = create();
    assert_int_equal(found(db, "a"), -1);
    put(db, "a", USE_PROMPT, 4);
    put(db, "b", USE_PROMPT, 6);
    tunedb_close(db);
    db = tunedb_open(dir);
    assert_non_null(db);
    assert_int_equal(found(db, "a"), 4);
    assert_int_equal(found(db, "b"), 6);
    assert_int_equal(found(db, "c"), -1);
    tunedb_close(db);
    assert_int_equal(ask("SELECT count(*) FROM log WHERE outcome = 'default'"), 2); /* losers too */
}

static void later_sweep_replaces_for_its_use_and_threads(void **state) {
    (void)state;
    struct tunedb *db = create();
    put(db, "a", USE_PROMPT, 2);
    put(db, "a", USE_PROMPT, 3);
    assert_int_equal(found(db, "a"), 3);
    put(db, "a", USE_TOKEN, 4);
    assert_int_equal(found(db, "a"), 3);
    json_t *token = tunedb_find(db, "a", 1, USE_TOKEN);
    assert_int_equal(json_integer_value(json_object_get(token, "toks")), 4);
    json_decref(token);
    assert_null(tunedb_find(db, "a", 2, USE_PROMPT));
    tunedb_close(db);
    assert_int_equal(ask("SELECT count(*) FROM choice"), 2);
    assert_int_equal(ask("SELECT count(*) FROM log"), 6);
}

/* Version 1 had one choice for all uses and any number of threads. */
static void earlier_version_begins_anew(void **state) {
    (void)state;
    execute("CREATE TABLE choice(key TEXT, bucket TEXT, n_runs INTEGER, kernel TEXT, target TEXT, tune TEXT, ms REAL,"
            " default_ms REAL, at INTEGER, PRIMARY KEY(key, bucket)) WITHOUT ROWID;"
            "CREATE TABLE log(key TEXT); PRAGMA user_version=1;"
            "INSERT INTO choice VALUES('a', '1', 1, 'k', 't', '{\"toks\":3}', 1, 1, 1);");
    assert_null(tunedb_open(dir));
    struct tunedb *db = create();
    assert_int_equal(found(db, "a"), -1);
    put(db, "a", USE_PROMPT, 5);
    assert_int_equal(found(db, "a"), 5);
    tunedb_close(db);
}

static void absent_database_is_not_made_by_reading(void **state) {
    (void)state;
    assert_null(tunedb_open(dir));
    assert_null(tunedb_open(NULL));
    assert_null(tunedb_find(NULL, "a", 1, USE_PROMPT));
    assert_int_equal(access(path_of("tune.db"), F_OK), -1);
}

static void what_is_no_tunable_is_no_choice(void **state) {
    (void)state;
    struct tunedb *db = create();
    put(db, "a", USE_PROMPT, 4);
    static const char *const bad[] = {"{\"toks\":0}",
                                      "{\"toks\":65}",
                                      "{\"toks\":-1}",
                                      "{\"toks\":4.0}",
                                      "{\"toks\":\"4\"}",
                                      "[4]",
                                      "4",
                                      "",
                                      "{",
                                      "{\"toks\":4,\"toks\":5}",
                                      "{\"toks\":{\"toks\":4}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[128];
        snprintf(text, sizeof text, "UPDATE choice SET tune = '%s'", bad[i]);
        execute(text);
        assert_int_equal(found(db, "a"), -1);
    }
    execute("UPDATE choice SET tune = '{\"toks\":64}'");
    assert_int_equal(found(db, "a"), 64);
    tunedb_close(db);
}

static void later_version_is_left_alone(void **state) {
    (void)state;
    struct tunedb *db = create();
    put(db, "a", USE_PROMPT, 4);
    tunedb_close(db);
    execute("PRAGMA user_version=3");
    assert_null(tunedb_open(dir));
    struct err e;
    assert_false(tunedb_create(dir, &db, &e));
    assert_non_null(strstr(e.msg, "later kgen"));
    assert_int_equal(ask("SELECT count(*) FROM choice"), 1);
}

static void damaged_file_is_moved_aside(void **state) {
    (void)state;
    FILE *f = fopen(path_of("tune.db"), "wb");
    for (int i = 0; i < 3000; i++) fputs("no database ", f);
    fclose(f);
    assert_null(tunedb_open(dir));
    assert_int_equal(access(path_of("tune.db"), F_OK), -1);
    assert_int_equal(access(path_of("tune.db.broken"), F_OK), 0);
    assert_null(tunedb_open(dir)); /* now there is none */

    f = fopen(path_of("tune.db"), "wb");
    for (int i = 0; i < 3000; i++) fputs("no database ", f);
    fclose(f);
    struct tunedb *db = create(); /* a writer begins anew */
    put(db, "a", USE_PROMPT, 4);
    assert_int_equal(found(db, "a"), 4);
    tunedb_close(db);
    assert_int_equal(intact(), 1);
}

/* Every kind of damage to a page or length: an answer or none, never a wrong one, and a writer can go on. */
static void any_damage_gives_the_choice_or_none(void **state) {
    (void)state;
    struct tunedb *db = create();
    char key[32];
    for (int i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "key%d", i);
        put(db, key, USE_PROMPT, 1 + i);
    }
    tunedb_close(db);
    struct buf whole = {0};
    struct err e;
    assert_true(file_read(path_of("tune.db"), &whole, &e));
    struct ref_rng rng = {9, 0};
    size_t lost = 0;
    for (int round = 0; round < 60; round++) {
        size_t n = round % 3 == 0 ? ref_rng_below(&rng, whole.len) : whole.len;
        char *bytes = mem_new(whole.len);
        memcpy(bytes, whole.data, whole.len);
        /* Whole pages: flipped bits within a value are beyond what a database without checksums can see. */
        if (round % 3) memset(bytes + ref_rng_below(&rng, whole.len / 4096) * 4096, round % 3 == 1 ? 0xFF : 0, 4096);
        assert_true(file_write_atomic(path_of("tune.db"), bytes, n, &e));
        mem_free(bytes);
        db = tunedb_open(dir);
        for (int i = 0; i < 60; i++) {
            snprintf(key, sizeof key, "key%d", i);
            int toks = found(db, key);
            assert_true(toks == -1 || toks == 1 + i);
            lost += toks == -1;
        }
        tunedb_close(db);
    }
    assert_true(lost > 0);
    unlink(path_of("tune.db"));
    db = create();
    put(db, "a", USE_PROMPT, 4);
    tunedb_close(db);
    buf_free(&whole);
}

static void two_writers_lose_nothing(void **state) {
    (void)state;
    enum { WRITERS = 3, EACH = 40 };
    pid_t pids[WRITERS];
    for (int w = 0; w < WRITERS; w++) {
        pids[w] = fork();
        if (pids[w] == 0) { /* they also race to make the file */
            struct tunedb *db;
            struct err e;
            bool ok = tunedb_create(dir, &db, &e);
            for (int i = 0; i < EACH && ok; i++) {
                char key[32];
                snprintf(key, sizeof key, "%d.%d", w, i);
                ok = try_put(db, key, USE_PROMPT, 1 + w, &e);
            }
            tunedb_close(db);
            if (!ok) fprintf(stderr, "%s\n", e.msg);
            _exit(!ok);
        }
    }
    for (int w = 0; w < WRITERS; w++) {
        int status;
        waitpid(pids[w], &status, 0);
        assert_int_equal(status, 0);
    }
    struct tunedb *db = tunedb_open(dir);
    for (int w = 0; w < WRITERS; w++)
        for (int i = 0; i < EACH; i++) {
            char key[32];
            snprintf(key, sizeof key, "%d.%d", w, i);
            assert_int_equal(found(db, key), 1 + w);
        }
    tunedb_close(db);
    assert_int_equal(ask("SELECT count(*) FROM log"), WRITERS * EACH * 2);
    assert_int_equal(intact(), 1);
}

static void killed_writer_leaves_every_result_it_reported(void **state) {
    (void)state;
    _Atomic int *reported = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 8; round++) {
        int before = *reported;
        pid_t pid = fork();
        if (pid == 0) {
            struct tunedb *db;
            struct err e;
            if (!tunedb_create(dir, &db, &e)) _exit(1);
            for (;;) {
                char key[32];
                snprintf(key, sizeof key, "%d", *reported);
                if (!try_put(db, key, USE_PROMPT, 1 + *reported % 64, &e)) _exit(1);
                ++*reported;
            }
        }
        for (int i = 0; i < 5000 && *reported < before + 1 + round; i++) usleep(1000);
        usleep(700 * (unsigned)round); /* somewhere within a transaction */
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        assert_true(*reported > before);
        struct tunedb *db = tunedb_open(dir);
        assert_non_null(db);
        for (int i = 0; i < *reported; i++) {
            char key[32];
            snprintf(key, sizeof key, "%d", i);
            assert_int_equal(found(db, key), 1 + i % 64);
        }
        tunedb_close(db);
        assert_int_equal(intact(), 1);
        /* Whole sweeps only: two log rows a choice. */
        assert_int_equal(ask("SELECT count(*) FROM log"), 2 * ask("SELECT count(*) FROM choice"));
        *reported = (int)ask("SELECT count(*) FROM choice"); /* the one under way may have arrived */
    }
    munmap((void *)reported, 4096);
}

/* ---- Kernels ------------------------------------------------------------------------------------------------------
 */

enum { MAX_ARGS = 16 };

/* Outputs of one launch of all tokens, one after another. */
static struct buf launch(struct dsl *d, const struct target *t, const json_t *made, const struct kernel *k) {
    struct err e;
    json_t *costs = NULL;
    const json_t *run = json_object_get(made, "run");
    json_t *arg = json_pack("{s:O, s:O, s:i, s:i}", "spec", json_object_get(made, "spec"), "run", (json_t *)run,
                            "lanes", (int)t->pack_lanes, "words", (int)t->pack_words);
    if (!dsl_call(d, "case", arg, &costs, &e)) fail_msg("%s", e.msg);
    const json_t *arrays = json_object_get(costs, "arrays");
    struct ref_rng rng = {3, 0};
    int64_t sizes[N_RUN_DIMS] = {0}, dims[N_RUN_DIMS];
    static const char *const names[] = {"tok", "pos", "key", "ctx", "npages"};
    for (int i = 0; i < 5; i++) sizes[i] = json_integer_value(json_object_get(run, names[i]));
    for (size_t i = 0; i < k->n_dims; i++) dims[i] = sizes[k->dims[i]];
    void *args[MAX_ARGS] = {0};
    uint8_t *memory[MAX_ARGS] = {0};
    assert_true(json_array_size(arrays) <= MAX_ARGS);
    for (size_t i = 0; i < json_array_size(arrays); i++) {
        const json_t *a = json_array_get(arrays, i);
        size_t bytes = (size_t)json_number_value(json_object_get(a, "bytes"));
        const char *role = json_string_value(json_object_get(a, "role"));
        memory[i] = aligned_alloc(64, (bytes + 4096 + 63) / 64 * 64);
        bool f32 = strcmp(json_string_value(json_object_get(a, "fmt")), "f32") == 0;
        for (size_t n = 0; n < bytes / 4 && f32; n++) ((float *)memory[i])[n] = (float)(ref_rng_uniform(&rng) * 2 - 1);
        /* As halves, these bytes are small and positive; as codes, anything. */
        for (size_t n = 0; n < bytes && !f32; n++) memory[i][n] = (uint8_t)(0x20 + ref_rng_below(&rng, 16));
        for (size_t n = 0; n < bytes / 4 && strcmp(role, "pages") == 0; n++) ((int32_t *)memory[i])[n] = (int32_t)n;
        for (size_t n = 0; n < k->n_args; n++)
            if (strcmp(k->args[n], json_string_value(json_object_get(a, "name"))) == 0) args[n] = memory[i];
    }
    void *ws = aligned_alloc(64, (k->ws_per_tok * (size_t)sizes[RUN_TOK] + 4096 + 63) / 64 * 64);
    for (size_t i = 0; i < k->n_phases; i++)
        for (size_t j = 0; j < k->phases[i].n_parts; j++) {
            const struct part *p = &k->phases[i].parts[j];
            p->fn(args, dims, 0, part_tasks(p, sizes), ws);
        }
    struct buf out = {0};
    for (size_t i = 0; i < json_array_size(arrays); i++) {
        const json_t *a = json_array_get(arrays, i);
        if (strcmp(json_string_value(json_object_get(a, "io")), "out") == 0)
            buf_add(&out, memory[i], (size_t)json_number_value(json_object_get(a, "bytes")));
        free(memory[i]);
    }
    free(ws);
    json_decref(costs);
    json_decref(arg);
    return out;
}

struct machine {
    struct dsl *dsl;
    struct compiler c;
};

static void open_machine(struct machine *m) {
    struct err e;
    *m = (struct machine){0};
    if (!dsl_open(&m->dsl, &e) || !target_find("native", &m->c.target, &e)) fail_msg("%s", e.msg);
    m->c.dsl = m->dsl;
    m->c.n_threads = m->c.tune_threads = 1;
}

static json_t *make(struct machine *m, const char *kernel, const char *shape) {
    struct err e;
    json_t *arg = json_pack("{s:s, s:s}", "kernel", kernel, "shape", shape), *made = NULL;
    if (!dsl_call(m->dsl, "shape", arg, &made, &e)) fail_msg("%s", e.msg);
    json_decref(arg);
    return made;
}

static struct kernel compile(struct machine *m, const json_t *spec) {
    struct kernel k;
    struct err e;
    if (!compile_kernels(&m->c, &spec, NULL, 1, &k, &e)) fail_msg("%s", e.msg);
    return k;
}

static json_t *with_tune(const json_t *spec, json_t *tune) {
    json_t *with = json_copy((json_t *)spec);
    json_object_set(with, "tune", tune);
    return with;
}

static void tuned_choice_is_compiled_and_gives_the_same_bits(void **state) {
    (void)state;
    struct machine m;
    open_machine(&m);
    json_t *made = make(&m, "linear", "tok=11,n=64,d=128,W=q4_1");
    const json_t *spec = json_object_get(made, "spec");
    struct kernel plain = compile(&m, spec);
    assert_int_equal(m.c.n_tuned, 0);

    struct tunedb *db = create();
    char *key = compile_key(&m.c, spec);
    put(db, key, USE_PROMPT, 3);
    m.c.cache = cache_open(dir);
    m.c.tune = db;
    struct kernel tuned = compile(&m, spec);
    assert_int_equal(m.c.n_tuned, 1);
    assert_int_equal(m.c.n_compiled, 2);
    struct buf a = launch(m.dsl, &m.c.target, made, &plain), b = launch(m.dsl, &m.c.target, made, &tuned);
    assert_int_equal(a.len, 11 * 64 * 4);
    assert_int_equal(b.len, a.len);
    assert_memory_equal(a.data, b.data, a.len);

    /* What was compiled is the code of toks = 3: asked for by name, it comes from the cache. */
    m.c.tune = NULL;
    json_t *three = json_pack("{s:i}", "toks", 3), *same = with_tune(spec, three);
    struct kernel named = compile(&m, same);
    assert_int_equal(m.c.n_cached, 1);
    struct kernel other = compile(&m, spec);
    assert_int_equal(m.c.n_cached, 1);

    /* It is no choice for another target. */
    struct machine v3 = m;
    struct err e;
    assert_true(target_find("x86-64", &v3.c.target, &e));
    char *key_v3 = compile_key(&v3.c, spec);
    assert_string_not_equal(key, key_v3);
    assert_int_equal(found(db, key_v3), -1);

    kernel_free(&plain);
    kernel_free(&tuned);
    kernel_free(&named);
    kernel_free(&other);
    buf_free(&a);
    buf_free(&b);
    mem_free(key);
    mem_free(key_v3);
    json_decref(three);
    json_decref(same);
    json_decref(made);
    cache_close(m.c.cache);
    tunedb_close(db);
    dsl_close(m.dsl);
}

static bool has_one(const struct compiler *c, const json_t *spec, int64_t toks) {
    json_t *one = compile_for_one(c, spec);
    const json_t *tune = json_object_get(one, "tune");
    bool found = one != NULL;
    if (toks) assert_int_equal(json_integer_value(json_object_get(tune, "toks")), toks);
    json_decref(one);
    return found;
}

/* A kernel for single tokens is another one only where that was chosen, */
static void uses_have_kernels_of_their_own(void **state) {
    (void)state;
    struct machine m;
    open_machine(&m);
    json_t *made = make(&m, "linear", "tok=1,n=64,d=128,W=q4_1");
    const json_t *spec = json_object_get(made, "spec");
    struct tunedb *db = create();
    char *key = compile_key(&m.c, spec);
    assert_false(has_one(&m.c, spec, 0));
    m.c.tune = db;
    assert_false(has_one(&m.c, spec, 0));
    put(db, key, USE_PROMPT, 3);
    assert_true(has_one(&m.c, spec, 0));
    put(db, key, USE_TOKEN, 3);
    assert_false(has_one(&m.c, spec, 0));
    put(db, key, USE_TOKEN, 2);
    assert_true(has_one(&m.c, spec, 2));
    m.c.tune_threads = 2;
    assert_false(has_one(&m.c, spec, 0));
    mem_free(key);
    json_decref(made);
    tunedb_close(db);
    dsl_close(m.dsl);
}

/* or where an axis is split for one; its tunables are looked up as those of any number of tokens. */
static void a_split_launch_is_tuned_as_the_whole_one(void **state) {
    (void)state;
    struct machine m;
    open_machine(&m);
    json_t *made = make(&m, "attention", "tok=2,nh=4,nkv=2,hd=64,KV=f16,prod=f32"),
           *spec = json_object_get(made, "spec");
    json_object_set_new(spec, "splits", json_true());
    struct tunedb *db = create();
    char *key = compile_key(&m.c, spec);
    json_t *one = compile_for_one(&m.c, spec);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(one, "sizes"), "tok")), 1);
    assert_null(json_object_get(json_object_get(spec, "sizes"), "tok"));
    char *key_of_one = compile_key(&m.c, one);
    assert_string_equal(key_of_one, key);
    m.c.tune = db;
    put(db, key, USE_PROMPT, 3);
    put(db, key, USE_TOKEN, 2);
    assert_true(has_one(&m.c, spec, 2));
    mem_free(key);
    mem_free(key_of_one);
    json_decref(one);
    json_decref(made);
    tunedb_close(db);
    dsl_close(m.dsl);
}

/* Pages outside a window are nothing to do, so that threads must share the others page by page. */
static void pages_of_a_window_are_uneven_work(void **state) {
    (void)state;
    struct machine m;
    open_machine(&m);
    for (int window = 0; window <= 512; window += 512) {
        char shape[80];
        snprintf(shape, sizeof shape, "tok=1,nh=4,nkv=1,hd=64,KV=f16,prod=f32,window=%d", window);
        json_t *made = make(&m, "attention", shape), *one = compile_of_one(json_object_get(made, "spec"));
        const json_t *spec = one;
        struct kernel k;
        struct err e;
        if (!compile_kernels(&m.c, &spec, NULL, 1, &k, &e)) fail_msg("%s", e.msg);
        assert_int_equal(k.n_phases, 2);
        assert_int_equal(k.phases[0].parts[0].uneven, window > 0);
        assert_false(k.phases[1].parts[0].uneven);
        kernel_free(&k);
        json_decref(one);
        json_decref(made);
    }
    dsl_close(m.dsl);
}

/* Odd numbers of tokens, so that whole tiles and rests are both there. */
static void no_candidate_changes_a_bit(void **state) {
    (void)state;
    static const struct {
        const char *kernel, *shape;
        size_t least; /* candidates */
    } cases[] = {
        {"linear", "tok=13,n=32,d=64,W=q8_0,act=q8", 6},
        {"linear", "tok=13,n=32,d=64,W=f16,act=f32", 6},
        {"attention", "tok=5,pos=300,nh=6,nkv=2,hd=16,KV=f16", 8},
        {"attention", "tok=3,pos=9,nh=4,nkv=1,hd=16,KV=f32,window=4", 8},
        {"swiglu_ffn", "tok=7,d=64,ff=96,G=q4_0,U=q4_0,D=q8_0", 6},
    };
    struct machine m;
    open_machine(&m);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *made = make(&m, cases[i].kernel, cases[i].shape), *list = NULL;
        const json_t *spec = json_object_get(made, "spec");
        json_t *arg = json_pack("{s:O, s:o, s:[O], s:f}", "spec", spec, "target", compile_target(&m.c.target, false),
                                "runs", json_object_get(made, "run"), "dots", 1.0);
        struct err e;
        if (!dsl_call(m.dsl, "candidates", arg, &list, &e)) fail_msg("%s", e.msg);
        assert_true(json_array_size(list) >= cases[i].least && json_array_size(list) <= 50);
        struct kernel k = compile(&m, spec);
        struct buf want = launch(m.dsl, &m.c.target, made, &k);
        kernel_free(&k);
        assert_true(want.len > 0);
        for (size_t n = 0; n < json_array_size(list) && n < 12; n++) {
            json_t *tune = json_object_get(json_array_get(list, n), "tune"), *with = with_tune(spec, tune);
            k = compile(&m, with);
            struct buf got = launch(m.dsl, &m.c.target, made, &k);
            if (got.len != want.len || memcmp(got.data, want.data, want.len) != 0)
                fail_msg("%s %s: %s gives other bits than the default", cases[i].kernel, cases[i].shape,
                         json_dumps(tune, JSON_COMPACT));
            buf_free(&got);
            kernel_free(&k);
            json_decref(with);
        }
        buf_free(&want);
        json_decref(list);
        json_decref(arg);
        json_decref(made);
    }
    dsl_close(m.dsl);
}

static void tunables_out_of_range_are_refused(void **state) {
    (void)state;
    struct machine m;
    open_machine(&m);
    json_t *made = make(&m, "linear", "tok=1,n=32,d=64,W=q8_0");
    const char *const bad[] = {"0", "65", "-3", "2.5", "\"4\"", "[]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *tune = json_object(), *meta = NULL;
        json_object_set_new(tune, "toks", json_loads(bad[i], JSON_DECODE_ANY, NULL));
        json_t *with = with_tune(json_object_get(made, "spec"), tune);
        struct err e;
        assert_false(compile_lower(m.dsl, with, &m.c.target, false, &meta, &e));
        assert_non_null(strstr(e.msg, "the tunable 'toks'"));
        json_decref(with);
        json_decref(tune);
    }
    json_decref(made);
    dsl_close(m.dsl);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, fresh_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        TEST(choice_is_found_again),
        TEST(later_sweep_replaces_for_its_use_and_threads),
        TEST(earlier_version_begins_anew),
        TEST(absent_database_is_not_made_by_reading),
        TEST(what_is_no_tunable_is_no_choice),
        TEST(later_version_is_left_alone),
        TEST(damaged_file_is_moved_aside),
        TEST(any_damage_gives_the_choice_or_none),
        TEST(two_writers_lose_nothing),
        TEST(killed_writer_leaves_every_result_it_reported),
        TEST(tuned_choice_is_compiled_and_gives_the_same_bits),
        TEST(uses_have_kernels_of_their_own),
        TEST(a_split_launch_is_tuned_as_the_whole_one),
        TEST(pages_of_a_window_are_uneven_work),
        TEST(no_candidate_changes_a_bit),
        TEST(tunables_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
