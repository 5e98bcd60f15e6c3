/* test_bundle: a bundle holds what it was given, and is refused where anything about it, the machine or the model is
 * not what it was made for. What programs make of bundles is test_bundle.sh's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "runtime/session.h"

#define MODEL "verify/data/families/llama-mixed.gguf"
#define OTHER "verify/data/families/llama-bias.gguf"

static char root[64]; /* a scratch directory */

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        struct err e_ = {0};                                                                                           \
        struct err *e = &e_;                                                                                           \
        if (!(call)) fail_msg(#call ": %s", e_.msg);                                                                   \
    } while (0)

static void shell(const char *fmt, ...) {
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (system(line) != 0) fail_msg("%s", line);
}

/* A path below the scratch directory; four are valid at a time. */
static const char *at(const char *name) {
    static char paths[4][256];
    static size_t turn;
    char *p = paths[turn++ % 4];
    snprintf(p, 256, "%s/%s", root, name);
    return p;
}

static int make(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/kgen-bundle-XXXXXX");
    assert_non_null(mkdtemp(root));
    struct model_options o = {.path = MODEL, .no_cache = true, .n_threads = 1};
    OK(model_bundle(&o, at("good"), true, NULL, e));
    return 0;
}

static int clean(void **state) {
    (void)state;
    shell("rm -rf %s", root);
    return 0;
}

/* A fresh copy of the good bundle. */
static const char *fresh(void) {
    shell("rm -rf %s/bundle && cp -r %s/good %s/bundle", root, root, root);
    return at("bundle");
}

static void refused_as(const char *dir, const char *path, enum err_code code, const char *text) {
    struct model *m;
    struct err e = {0};
    struct model_options o = {.bundle = dir, .path = path, .n_threads = 1};
    if (model_open(&o, &m, &e)) fail_msg("%s was opened; expected: %s", dir, text);
    if (e.code != code || !strstr(e.msg, text)) fail_msg("code %d, %s; expected %d, %s", e.code, e.msg, code, text);
}

static void refused(const char *dir, const char *text) {
    refused_as(dir, NULL, ERR_INPUT, text);
}

/* ---- what is in it ---- */

static void what_was_added_is_found(void **state) {
    (void)state;
    struct bundle *b = bundle_new();
    json_t *d = json_pack("{s:s}", "name", "a/b c"), *about = json_pack("{s:s}", "target", "none"),
           *plan = json_object();
    struct buf one = {0}, two = {0}, other = {0}, cubin = {0}, none = {0};
    buf_add(&one, "code\0one", 8);
    buf_puts(&two, "text");
    buf_puts(&other, "other");
    buf_puts(&cubin, "machine");
    bundle_add(b, "one", d, false, &one, &none);
    bundle_add(b, "two", d, true, &two, &cubin);
    bundle_add(b, "one", d, false, &other, &none);
    OK(bundle_write(b, at("small"), about, plan, e));
    assert_int_equal(access(at("small/kernels/00-a_b_c.o"), R_OK), 0);
    assert_int_equal(access(at("small/kernels/01-a_b_c.ptx"), R_OK), 0);
    assert_int_equal(access(at("small/kernels/01-a_b_c.cubin"), R_OK), 0);
    bundle_close(b);
    OK(bundle_open(at("small"), &b, e));
    const json_t *found;
    const struct buf *code, *machine;
    assert_true(bundle_find(b, "one", &found, &code, &machine) && machine->len == 0);
    assert_true(json_equal((json_t *)found, d) && code->len == 8 && memcmp(code->data, "code\0one", 8) == 0);
    assert_true(bundle_find(b, "two", &found, &code, &machine) && code->len == 4 && machine->len == 7);
    assert_memory_equal(machine->data, "machine", 7);
    assert_false(bundle_find(b, "three", &found, &code, &machine));
    assert_string_equal(bundle_text(b, "target"), "none");
    assert_string_equal(bundle_text(b, "nothing"), "");
    assert_int_equal(bundle_n_kernels(b), 2);
    assert_int_equal(bundle_n_cubins(b), 1);
    assert_int_equal(bundle_bytes(b), 19);
    bundle_close(b);
    buf_free(&one);
    buf_free(&two);
    buf_free(&other);
    buf_free(&cubin);
    json_decref(plan);
    json_decref(about);
    json_decref(d);
}

static void nothing_is_overwritten(void **state) {
    (void)state;
    struct err e = {0};
    struct bundle *b = bundle_new();
    json_t *empty = json_object();
    assert_false(bundle_write(b, fresh(), empty, empty, &e));
    assert_non_null(strstr(e.msg, "is not empty"));
    assert_int_equal(mkdir(at("ready"), 0700), 0);
    OK(bundle_write(b, at("ready"), empty, empty, e));
    assert_false(bundle_write(b, "/dev/null/x", empty, empty, &e));
    assert_int_equal(e.code, ERR_IO);
    json_decref(empty);
    bundle_close(b);
}

struct logits {
    float *row;
    int64_t n;
};

static bool keep(void *ctx, int64_t pos, const float *row, struct err *e) {
    (void)pos, (void)e;
    struct logits *l = ctx;
    memcpy(l->row, row, (size_t)l->n * sizeof *row);
    return true;
}

static struct logits last_logits(const struct model_options *o, size_t *n_compiled) {
    static const int32_t ids[] = {1, 5, 9, 2, 7};
    struct model *m;
    struct session *s;
    OK(model_open(o, &m, e));
    OK(session_open(m, 32, &s, e));
    struct logits l = {mem_new((size_t)m->n_vocab * sizeof(float)), m->n_vocab};
    OK(session_eval(s, ids, 5, 1, keep, &l, e));
    *n_compiled = m->compiler.n_compiled;
    session_close(s);
    model_close(m);
    return l;
}

static void a_bundle_computes_what_kgen_does(void **state) {
    (void)state;
    static const char *const targets[] = {"native", "x86-64", "x86-64-v4-vnni"};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        struct target t;
        size_t n_direct, n_bundle;
        OK(target_find(targets[i], &t, e));
        shell("rm -rf %s/computes", root);
        struct model_options o = {.path = MODEL, .target = targets[i], .no_cache = true, .n_threads = 1};
        OK(model_bundle(&o, at("computes"), false, NULL, e)); /* for any target, here or not */
        struct model_options from = {.bundle = at("computes"), .path = MODEL, .n_threads = 1};
        if (!target_runs_here(&t)) {
            refused_as(from.bundle, MODEL, ERR_UNSUPPORTED, targets[i]);
            continue;
        }
        struct logits a = last_logits(&o, &n_direct), b = last_logits(&from, &n_bundle);
        assert_true(n_direct > 0 && n_bundle == 0);
        assert_memory_equal(a.row, b.row, (size_t)a.n * sizeof *a.row);
        mem_free(a.row);
        mem_free(b.row);
    }
}

/* ---- what is refused ---- */

/* Every file of a bundle, cut, changed in one bit, and gone. */
static void damage_is_found_and_named(void **state) {
    (void)state;
    char name[256], path[512];
    FILE *list;
    snprintf(path, sizeof path, "cd %s && find . -type f ! -name '*.gguf' | sort", at("good"));
    assert_non_null(list = popen(path, "r"));
    size_t n = 0;
    while (fscanf(list, "./%255s\n", name) == 1) {
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", fresh(), name);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(truncate(path, st.st_size / 2), 0);
        refused(at("bundle"), name);
        snprintf(path, sizeof path, "%s/%s", fresh(), name);
        FILE *f = fopen(path, "r+b");
        long middle = st.st_size / 2;
        fseek(f, middle, SEEK_SET);
        int c = fgetc(f);
        fseek(f, middle, SEEK_SET);
        fputc(c ^ 1, f);
        fclose(f);
        refused(at("bundle"), name);
        snprintf(path, sizeof path, "%s/%s", fresh(), name);
        assert_int_equal(unlink(path), 0);
        refused(at("bundle"), name);
        n++;
    }
    pclose(list);
    assert_true(n > 8);
    refused(at("nowhere"), "manifest.json: no bundle");
    refused(MODEL, "no bundle");
}

/* Rewrites the manifest as somebody who knows its check (see runtime/bundle.c) could. */
static void edit_manifest(const char *dir, void (*edit)(json_t *manifest)) {
    char path[300], digits[33];
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    json_t *m = json_load_file(path, 0, NULL);
    assert_non_null(m);
    edit(m);
    json_object_del(m, "check");
    char *text = json_dumps(m, JSON_COMPACT | JSON_SORT_KEYS);
    XXH128_hash_t h = XXH3_128bits(text, strlen(text));
    snprintf(digits, sizeof digits, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
    json_object_set_new(m, "check", json_string(digits));
    assert_int_equal(json_dump_file(m, path, 0), 0);
    free(text);
    json_decref(m);
}

static void edit_nothing(json_t *m) {
    (void)m;
}
static void edit_build(json_t *m) {
    json_object_set_new(m, "build", json_string("0123456789abcdef"));
}
static void edit_format(json_t *m) {
    json_object_set_new(m, "kgen-bundle", json_integer(2));
}
static void edit_target(json_t *m) {
    json_object_set_new(json_object_get(m, "about"), "target", json_string("sm_10"));
}
static void edit_gpu(json_t *m) {
    json_object_set_new(json_object_get(m, "about"), "target", json_string("sm_90"));
}
static void edit_features(json_t *m) {
    json_object_set_new(json_object_get(m, "about"), "features", json_string("+amx-int8"));
}
static void edit_path(json_t *m) {
    json_object_set_new(json_object_get(m, "plan"), "file", json_string("../good/plan.json"));
}
static void edit_kernels(json_t *m) {
    json_array_remove(json_object_get(m, "kernels"), 0);
}
static void edit_model(json_t *m) {
    json_object_set_new(json_object_get(json_object_get(m, "about"), "model"), "copied", json_false());
}

static void another_version_target_or_model_is_refused(void **state) {
    (void)state;
    struct model *m;
    edit_manifest(fresh(), edit_nothing);
    struct model_options o = {.bundle = at("bundle"), .n_threads = 1};
    OK(model_open(&o, &m, e)); /* so the edits below fail for what they change */
    model_close(m);
    edit_manifest(fresh(), edit_build);
    refused_as(at("bundle"), NULL, ERR_UNSUPPORTED, "another version of kgen (build 0123456789ab");
    edit_manifest(fresh(), edit_format);
    refused(at("bundle"), "no manifest of a bundle of version 1");
    edit_manifest(fresh(), edit_target);
    refused_as(at("bundle"), NULL, ERR_USAGE, "unknown target `sm_10`");
    edit_manifest(fresh(), edit_features);
    refused_as(at("bundle"), NULL, ERR_UNSUPPORTED, "+amx-int8");
    edit_manifest(fresh(), edit_path);
    refused(at("bundle"), "is no file of the bundle");
    edit_manifest(fresh(), edit_kernels);
    refused(at("bundle"), "holds no code for");
    edit_manifest(fresh(), edit_model);
    refused_as(at("bundle"), NULL, ERR_USAGE, "llama-mixed.gguf with -m");
    refused_as(fresh(), OTHER, ERR_INPUT, "is not the model that");
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    edit_manifest(fresh(), edit_gpu);
    refused_as(at("bundle"), NULL, ERR_UNSUPPORTED, "is for sm_90");
    unsetenv("CUDA_VISIBLE_DEVICES");
}

/* As long as the right one, and a bit of a weight different. */
static void a_changed_model_is_refused(void **state) {
    (void)state;
    shell("cp " MODEL " %s/changed.gguf", root);
    FILE *f = fopen(at("changed.gguf"), "r+b");
    fseek(f, -5, SEEK_END);
    int c = fgetc(f);
    fseek(f, -5, SEEK_END);
    fputc(c ^ 4, f);
    fclose(f);
    refused_as(fresh(), at("changed.gguf"), ERR_INPUT, "its XXH3 is");
}

static void options_that_contradict_are_refused(void **state) {
    (void)state;
    struct model *m;
    struct err e = {0};
    struct model_options o = {.bundle = fresh(), .act = "f32", .n_threads = 1};
    assert_false(model_open(&o, &m, &e));
    assert_non_null(strstr(e.msg, "was made with --act q8, not f32"));
    o = (struct model_options){.bundle = at("bundle"), .kv = "f32", .n_threads = 1};
    assert_false(model_open(&o, &m, &e));
    assert_true(strstr(e.msg, "was made with --kv bf16, not f32") || strstr(e.msg, "was made with --kv f16, not f32"));
    o = (struct model_options){.bundle = at("bundle"), .cuda = true, .n_threads = 1};
    assert_false(model_open(&o, &m, &e));
    assert_non_null(strstr(e.msg, "is for processors (native)"));
    o = (struct model_options){.bundle = at("bundle"), .dump = "all", .n_threads = 1};
    assert_false(model_open(&o, &m, &e));
    assert_int_equal(e.code, ERR_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_found),
        cmocka_unit_test(nothing_is_overwritten),
        cmocka_unit_test(a_bundle_computes_what_kgen_does),
        cmocka_unit_test(damage_is_found_and_named),
        cmocka_unit_test(another_version_target_or_model_is_refused),
        cmocka_unit_test(a_changed_model_is_refused),
        cmocka_unit_test(options_that_contradict_are_refused),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
