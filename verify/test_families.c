/* Model families: small models of random weights, made by verify/data/families/make.py, run exactly as PyTorch does in
 * float32: the likelihood of every next token within 1e-3 nats and the largest logits within 0.01, whatever the batch,
 * fused or not. And files that are wrong: an error that names what is wrong, within a second.
 *
 * test_families DIR checks the models in DIR instead: NAME.gguf beside NAME.json. The results that tiny_models.py
 * writes for models stored as f16 and bf16 are not exact: it rounds the rotations' frequencies and the embedding's
 * scale too (up to 0.06 nats); compute them again from the stored weights. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/session.h"
#include "verify/gguf_build.h"

#define NLL_TOLERANCE 1e-3
#define LOGIT_TOLERANCE 0.01
#define FUSION_TOLERANCE 1e-4
/* Activations rounded to 8 bits: the mean of the likelihoods moves by this much at most. Random weights are far more
 * sensitive than trained ones. */
#define Q8_TOLERANCE 0.2

#ifdef __SANITIZE_ADDRESS__
#define SECONDS 10.0
#else
#define SECONDS 1.0
#endif

enum { MAX_TOKENS = 640 };

static struct model *open_model(const char *path, const char *act, bool no_fuse) {
    struct model *m;
    struct err e;
    struct model_options o = {.path = path, .act = act, .no_fuse = no_fuse, .n_threads = no_fuse ? 3 : 1};
    if (!model_open(&o, &m, &e)) fail_msg("%s", e.msg);
    return m;
}

/* Where a run's logits go. [tokens][vocab] */
struct logits {
    float *rows;
    int64_t n_vocab, n;
};

static bool keep(void *ctx, int64_t pos, const float *row, struct err *e) {
    (void)e;
    struct logits *l = ctx;
    assert_int_equal(pos, l->n);
    memcpy(l->rows + l->n_vocab * l->n++, row, (size_t)l->n_vocab * sizeof *row);
    return true;
}

/* Evaluates ids in calls of at most `step` tokens. */
static void evaluate(struct session *s, const int32_t *ids, size_t n, size_t step, struct logits *out) {
    struct err e;
    session_rewind(s, 0);
    out->n = 0;
    for (size_t at = 0; at < n; at += step) {
        size_t count = n - at < step ? n - at : step;
        if (!session_eval(s, ids + at, count, count, keep, out, &e)) fail_msg("%s", e.msg);
    }
    assert_int_equal(out->n, n);
}

/* -ln p(id) under a row of logits, in nats. */
static double nll(const float *row, int64_t n, int32_t id) {
    double max = row[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        if (row[i] > max) max = row[i];
    for (int64_t i = 0; i < n; i++) sum += exp(row[i] - max);
    return max + log(sum) - row[id];
}

static void compare_with_golden(const char *what, const json_t *c, const int32_t *ids, const struct logits *l) {
    const json_t *expected = json_object_get(c, "next_token_nll"), *top = json_object_get(c, "last_top20");
    assert_int_equal(json_array_size(expected), l->n - 1);
    for (int64_t i = 0; i + 1 < l->n; i++) {
        double want = json_number_value(json_array_get(expected, (size_t)i));
        double found = nll(l->rows + i * l->n_vocab, l->n_vocab, ids[i + 1]);
        if (!(fabs(found - want) <= NLL_TOLERANCE))
            fail_msg("%s, token %lld of %lld: %.6f nats, expected %.6f", what, (long long)i, (long long)l->n, found,
                     want);
    }
    assert_true(json_array_size(top) > 0);
    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *pair = json_array_get(top, i);
        int64_t id = json_integer_value(json_array_get(pair, 0));
        double want = json_number_value(json_array_get(pair, 1)), found = l->rows[(l->n - 1) * l->n_vocab + id];
        if (!(fabs(found - want) <= LOGIT_TOLERANCE))
            fail_msg("%s, logit of %lld after %lld tokens: %.6f, expected %.6f", what, (long long)id, (long long)l->n,
                     found, want);
    }
}

static double max_difference(const struct logits *a, const struct logits *b) {
    double max = 0;
    for (int64_t i = 0; i < a->n * a->n_vocab; i++) {
        double d = fabs((double)a->rows[i] - b->rows[i]);
        if (!(d <= max)) max = d; /* NaN too */
    }
    return max;
}

static double mean_nll(const struct logits *l, const int32_t *ids) {
    double sum = 0;
    for (int64_t i = 0; i + 1 < l->n; i++) sum += nll(l->rows + i * l->n_vocab, l->n_vocab, ids[i + 1]);
    return sum / (double)(l->n - 1);
}

static struct logits logits_new(const struct model *m) {
    return (struct logits){.rows = mem_new(MAX_TOKENS * (size_t)m->n_vocab * sizeof(float)), .n_vocab = m->n_vocab};
}

static struct session *open_session(struct model *m) {
    struct session *s;
    struct err e;
    if (!session_open(m, 0, &s, &e)) fail_msg("%s", e.msg);
    return s;
}

static void runs_exactly(void **state) {
    const char *golden = *state;
    char path[512];
    int stem = (int)(strlen(golden) - strlen(".json"));
    snprintf(path, sizeof path, "%.*s.gguf", stem, golden);
    if (access(path, F_OK) != 0) snprintf(path, sizeof path, "%.*s-00001-of-00002.gguf", stem, golden);
    json_error_t je;
    json_t *root = json_load_file(golden, 0, &je);
    if (!root) fail_msg("%s: %s", golden, je.text);
    struct model *fused = open_model(path, "f32", false), *plain = open_model(path, "f32", true);
    struct model *rounded = open_model(path, "q8", false);
    assert_true(fused->n_launches < plain->n_launches);
    struct session *s = open_session(fused), *s_plain = open_session(plain), *s_rounded = open_session(rounded);
    struct logits a = logits_new(fused), b = logits_new(fused);

    const json_t *cases = json_object_get(root, "cases");
    assert_true(json_array_size(cases) > 0);
    for (size_t k = 0; k < json_array_size(cases); k++) {
        const json_t *c = json_array_get(cases, k), *list = json_object_get(c, "ids");
        int32_t ids[MAX_TOKENS];
        size_t n = json_array_size(list);
        assert_in_range(n, 1, MAX_TOKENS);
        for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
        evaluate(s, ids, n, n, &a);
        compare_with_golden(path, c, ids, &a);
        /* However the tokens are cut into calls, the bits are the same. */
        static const size_t steps[] = {1, 5, 37};
        for (size_t i = 0; i < 3; i++) {
            if (steps[i] < n) evaluate(s, ids, n, steps[i], &b);
            if (steps[i] < n) assert_memory_equal(a.rows, b.rows, (size_t)(a.n * a.n_vocab) * sizeof *a.rows);
        }
        evaluate(s_plain, ids, n, n, &b);
        double apart = max_difference(&a, &b);
        if (!(apart <= FUSION_TOLERANCE)) fail_msg("%s: without fusion the logits differ by %g", path, apart);
        if (n < 2) continue;
        evaluate(s_rounded, ids, n, n, &b);
        apart = fabs(mean_nll(&a, ids) - mean_nll(&b, ids));
        if (!(apart <= Q8_TOLERANCE))
            fail_msg("%s: with 8-bit activations the likelihood moves by %g nats", path, apart);
        if (getenv("FAMILIES_VERBOSE")) printf("# %s: %zu tokens, q8 moves the mean by %.4f\n", path, n, apart);
    }
    mem_free(a.rows);
    mem_free(b.rows);
    session_close(s);
    session_close(s_plain);
    session_close(s_rounded);
    model_close(fused);
    model_close(plain);
    model_close(rounded);
    json_decref(root);
}

/* Damaged files ------------------------------------------------------------------------------------------------------
 * A whole model of one layer, with one thing wrong at a time. */

enum { D = 32, VOCAB = 24, TYPE_F32 = 0, TYPE_Q8_0 = 8, Q8_0_BYTES = 34 };

static char dir[] = "/tmp/kgen-test-families-XXXXXX";

enum wrong {
    NOTHING,
    NO_KEY,    /* `name` is absent */
    WHOLE,     /* the key `name` holds `number`, as u32 */
    REAL,      /* … as f32 */
    TEXT,      /* … `text` */
    LIST,      /* … two numbers */
    NO_TENSOR, /* the tensor `name` is absent */
    MORE,      /* a tensor of that name besides */
    SHAPE,     /* it has a row more */
    SCALE,     /* a block in its last row has this f16 (as bits) for a scale */
};

struct damage {
    enum wrong wrong;
    const char *name;
    double number;
    const char *text;
    const char *expect; /* in the message, besides the file's path */
};

static bool hits(const struct damage *d, enum wrong w, const char *name) {
    return d->wrong == w && strcmp(d->name, name) == 0;
}

/* Writes a key as the damage has it; false: the caller writes it as it should be. */
static bool damaged_key(struct gguf_build *b, const struct damage *d, const char *key) {
    static const int32_t two[2] = {2, 2};
    if (d->wrong < NO_KEY || d->wrong > LIST || strcmp(d->name, key) != 0) return false;
    if (d->wrong == WHOLE) build_u32_key(b, key, (uint32_t)d->number);
    if (d->wrong == REAL) build_f32_key(b, key, (float)d->number);
    if (d->wrong == TEXT) build_str_key(b, key, d->text);
    if (d->wrong == LIST) build_i32s_key(b, key, two, 2);
    return true;
}

static void whole_key(struct gguf_build *b, const struct damage *d, const char *key, uint32_t value) {
    if (!damaged_key(b, d, key)) build_u32_key(b, key, value);
}

/* Key only present when it is what is wrong. */
static void absent_key(struct gguf_build *b, const struct damage *d, const char *key) {
    damaged_key(b, d, key);
}

/* rows × D as q8_0 (rows 0: a vector of D, f32), of small values that differ. */
static void tensor(struct gguf_build *b, const struct damage *d, const char *name, uint64_t rows) {
    if (hits(d, NO_TENSOR, name)) return;
    if (hits(d, SHAPE, name)) rows++;
    uint64_t ne[2] = {D, rows};
    if (rows == 0) {
        float ones[D];
        for (int i = 0; i < D; i++) ones[i] = 1;
        build_tensor(b, name, 1, ne, TYPE_F32, ones, sizeof ones);
        return;
    }
    uint8_t *data = mem_new(rows * Q8_0_BYTES);
    for (uint64_t r = 0; r < rows; r++) {
        uint16_t scale = hits(d, SCALE, name) && r == rows - 1 ? (uint16_t)d->number : 0x2000; /* 2^-7 */
        memcpy(data + r * Q8_0_BYTES, &scale, 2);
        for (uint64_t i = 0; i < D; i++) data[r * Q8_0_BYTES + 2 + i] = (uint8_t)((r * 31 + i * 17) % 41 - 20);
    }
    build_tensor(b, name, 2, ne, TYPE_Q8_0, data, rows * Q8_0_BYTES);
    mem_free(data);
}

static void write_model(const char *path, const struct damage *d) {
    struct gguf_build b = {0};
    if (!damaged_key(&b, d, "general.architecture")) build_str_key(&b, "general.architecture", "llama");
    whole_key(&b, d, "llama.block_count", 1);
    whole_key(&b, d, "llama.context_length", 64);
    whole_key(&b, d, "llama.embedding_length", D);
    whole_key(&b, d, "llama.feed_forward_length", D);
    whole_key(&b, d, "llama.attention.head_count", 2);
    whole_key(&b, d, "llama.attention.head_count_kv", 1);
    if (!damaged_key(&b, d, "llama.attention.layer_norm_rms_epsilon"))
        build_f32_key(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    absent_key(&b, d, "llama.attention.key_length");
    absent_key(&b, d, "llama.attention.value_length");
    absent_key(&b, d, "llama.attention.scale");
    absent_key(&b, d, "llama.attention.sliding_window");
    absent_key(&b, d, "llama.rope.freq_base");
    absent_key(&b, d, "llama.rope.dimension_count");
    if (hits(d, TEXT, "llama.rope.scaling.type") && strcmp(d->text, "linear") == 0)
        build_f32_key(&b, "llama.rope.scaling.factor", 0);
    absent_key(&b, d, "llama.rope.scaling.type");
    tensor(&b, d, "token_embd.weight", VOCAB);
    tensor(&b, d, "blk.0.attn_norm.weight", 0);
    tensor(&b, d, "blk.0.attn_q.weight", D);
    tensor(&b, d, "blk.0.attn_k.weight", D / 2);
    tensor(&b, d, "blk.0.attn_v.weight", D / 2);
    tensor(&b, d, "blk.0.attn_output.weight", D);
    tensor(&b, d, "blk.0.ffn_norm.weight", 0);
    tensor(&b, d, "blk.0.ffn_gate.weight", D);
    tensor(&b, d, "blk.0.ffn_up.weight", D);
    tensor(&b, d, "blk.0.ffn_down.weight", D);
    tensor(&b, d, "output_norm.weight", 0);
    tensor(&b, d, "output.weight", VOCAB);
    if (d->wrong == MORE) tensor(&b, d, d->name, D);
    struct buf file = {0};
    build_file(&b, &file);
    build_free(&b);
    struct err e;
    if (!file_write_atomic(path, file.data, file.len, &e)) fail_msg("%s", e.msg);
    buf_free(&file);
}

static const struct damage refused[] = {
    {TEXT, "general.architecture", 0, "rwkv99", "rwkv99"},
    {TEXT, "general.architecture", 0, "../llama", "../llama"},
    {NO_KEY, "general.architecture", 0, NULL, "general.architecture"},
    {WHOLE, "general.architecture", 3, NULL, "general.architecture"},
    {NO_TENSOR, "blk.0.attn_k.weight", 0, NULL, "blk.0.attn_k.weight"},
    {NO_TENSOR, "token_embd.weight", 0, NULL, "token_embd.weight"},
    {NO_TENSOR, "blk.0.ffn_norm.weight", 0, NULL, "blk.0.ffn_norm.weight"},
    {MORE, "blk.0.mystery.weight", 0, NULL, "blk.0.mystery.weight"},
    {MORE, "blk.1.attn_q.weight", 0, NULL, "blk.1.attn_q.weight"},
    {SHAPE, "blk.0.ffn_down.weight", 0, NULL, "blk.0.ffn_down.weight"},
    {SHAPE, "blk.0.attn_q.weight", 0, NULL, "blk.0.attn_q.weight"},
    {SHAPE, "output.weight", 0, NULL, "output.weight"},
    {SHAPE, "blk.0.attn_norm.weight", 0, NULL, "blk.0.attn_norm.weight"},
    {WHOLE, "llama.attention.head_count", 0, NULL, "llama.attention.head_count"},
    {WHOLE, "llama.attention.head_count", 3, NULL, "llama.attention.head_count"},
    {WHOLE, "llama.attention.head_count", 4294967295.0, NULL, "llama.attention.head_count"},
    {NO_KEY, "llama.attention.head_count", 0, NULL, "llama.attention.head_count"},
    {LIST, "llama.attention.head_count", 0, NULL, "llama.attention.head_count"},
    {REAL, "llama.attention.head_count", 2.5, NULL, "llama.attention.head_count"},
    {TEXT, "llama.attention.head_count", 0, "2", "llama.attention.head_count"},
    {WHOLE, "llama.attention.head_count_kv", 0, NULL, "llama.attention.head_count_kv"},
    {WHOLE, "llama.attention.head_count_kv", 3, NULL, "llama.attention.head_count_kv"},
    {WHOLE, "llama.attention.key_length", 0, NULL, "llama.attention.key_length"},
    {WHOLE, "llama.attention.key_length", 15, NULL, "llama.attention.key_length"},
    {WHOLE, "llama.attention.key_length", 18, NULL, "blk.0.attn_q.weight"},
    {WHOLE, "llama.attention.key_length", 1 << 20, NULL, "llama.attention.key_length"},
    {WHOLE, "llama.attention.value_length", 8, NULL, "llama.attention.value_length"},
    {WHOLE, "llama.block_count", 0, NULL, "llama.block_count"},
    {WHOLE, "llama.block_count", 2, NULL, "blk.1."},
    {WHOLE, "llama.block_count", 1e9, NULL, "blk.1."},
    {WHOLE, "llama.embedding_length", 0, NULL, "llama.embedding_length"},
    {WHOLE, "llama.embedding_length", 64, NULL, "token_embd.weight"},
    {WHOLE, "llama.feed_forward_length", 64, NULL, "blk.0.ffn_"},
    {LIST, "llama.feed_forward_length", 0, NULL, "llama.feed_forward_length"},
    {WHOLE, "llama.context_length", 0, NULL, "llama.context_length"},
    {NO_KEY, "llama.context_length", 0, NULL, "llama.context_length"},
    {NO_KEY, "llama.attention.layer_norm_rms_epsilon", 0, NULL, "llama.attention.layer_norm_rms_epsilon"},
    {REAL, "llama.attention.layer_norm_rms_epsilon", -1, NULL, "llama.attention.layer_norm_rms_epsilon"},
    {REAL, "llama.attention.layer_norm_rms_epsilon", NAN, NULL, "llama.attention.layer_norm_rms_epsilon"},
    {TEXT, "llama.attention.scale", 0, "large", "llama.attention.scale"},
    {REAL, "llama.attention.sliding_window", 4.5, NULL, "llama.attention.sliding_window"},
    {REAL, "llama.rope.freq_base", 0, NULL, "llama.rope.freq_base"},
    {WHOLE, "llama.rope.dimension_count", 8, NULL, "llama.rope.dimension_count"},
    {TEXT, "llama.rope.scaling.type", 0, "yarn", "yarn"},
    {TEXT, "llama.rope.scaling.type", 0, "longrope", "longrope"},
    {TEXT, "llama.rope.scaling.type", 0, "linear", "llama.rope.scaling.factor"},
};

static void damaged_models_are_refused(void **state) {
    (void)state;
    char path[sizeof dir + 32];
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const struct damage *d = &refused[i];
        write_model(path, d);
        struct model *m = NULL;
        struct err e = {0};
        struct model_options o = {.path = path, .act = "f32", .n_threads = 1};
        clock_t start = clock(); /* processor time: the machine may be busy */
        if (model_open(&o, &m, &e)) fail_msg("a model with a damaged '%s' (row %zu) was opened", d->name, i);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        assert_null(m);
        if (!strstr(e.msg, path)) fail_msg("row %zu: '%s' does not name the file", i, e.msg);
        if (!strstr(e.msg, d->expect)) fail_msg("row %zu: '%s' does not say '%s'", i, e.msg, d->expect);
        if (seconds > SECONDS) fail_msg("row %zu: refused after %.1f s", i, seconds);
        if (getenv("FAMILIES_VERBOSE")) printf("# %s\n", e.msg);
    }
}

/* The same model whole, and with scales that are no numbers: it runs, and what comes of it is reported. */
static void numbers_that_are_none_are_reported(void **state) {
    (void)state;
    static const struct damage scales[] = {
        {NOTHING, "", 0, NULL, NULL},
        {SCALE, "blk.0.ffn_down.weight", 0x7e00, NULL, "not finite"}, /* NaN */
        {SCALE, "blk.0.ffn_down.weight", 0x7c00, NULL, "not finite"}, /* infinity */
        {SCALE, "blk.0.attn_q.weight", 0x7e00, NULL, "not finite"},
        {SCALE, "blk.0.attn_k.weight", 0xfc00, NULL, "not finite"},
        {SCALE, "output.weight", 0x7e00, NULL, "not finite"},
        {SCALE, "output.weight", 0x7c00, NULL, "not finite"},
    };
    char path[sizeof dir + 32];
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    for (int act = 0; act < 2; act++)
        for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
            write_model(path, &scales[i]);
            struct model *m = open_model(path, act ? "q8" : "f32", false);
            struct session *s = open_session(m);
            static const int32_t ids[] = {3, 4, 5, 6, 7};
            int32_t next = -1;
            struct err e = {0};
            bool ok = session_eval(s, ids, 5, 1, NULL, NULL, &e) && session_argmax(s, &next, &e);
            if (!scales[i].expect) {
                if (!ok) fail_msg("%s", e.msg);
                assert_in_range(next, 0, VOCAB - 1);
            } else {
                if (ok)
                    fail_msg("%s with scale %x: token %d was sampled", scales[i].name, (unsigned)scales[i].number,
                             next);
                if (!strstr(e.msg, scales[i].expect)) fail_msg("'%s' does not say '%s'", e.msg, scales[i].expect);
            }
            session_close(s);
            model_close(m);
        }
}

static void contexts_out_of_range_are_refused(void **state) {
    (void)state;
    char path[sizeof dir + 32];
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    write_model(path, &(struct damage){.wrong = NOTHING, .name = ""});
    struct model *m = open_model(path, "f32", false);
    static const int64_t wrong[] = {-1, INT64_MIN, 65, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        struct session *s = NULL;
        struct err e = {0};
        assert_false(session_open(m, wrong[i], &s, &e));
        assert_null(s);
        assert_non_null(strstr(e.msg, "context"));
    }
    struct session *s = open_session(m);
    assert_int_equal(session_n_ctx(s), 64);
    struct err e = {0};
    static const int32_t outside[][1] = {{-1}, {VOCAB}, {INT32_MAX}};
    for (int i = 0; i < 3; i++) {
        assert_false(session_eval(s, outside[i], 1, 1, NULL, NULL, &e));
        assert_non_null(strstr(e.msg, "vocabulary"));
        assert_int_equal(session_pos(s), 0);
    }
    int32_t ids[65] = {0};
    assert_false(session_eval(s, ids, 65, 1, NULL, NULL, &e));
    assert_non_null(strstr(e.msg, "do not fit"));
    assert_int_equal(session_pos(s), 0);
    assert_true(session_eval(s, ids, 64, 1, NULL, NULL, &e));
    assert_false(session_eval(s, ids, 1, 1, NULL, NULL, &e));
    assert_int_equal(session_pos(s), 64);
    session_close(s);
    model_close(m);
}

static int make_dir(void **state) {
    (void)state;
    return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state) {
    (void)state;
    char path[sizeof dir + 32];
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    unlink(path);
    return rmdir(dir);
}

int main(int argc, char **argv) {
    char pattern[512];
    snprintf(pattern, sizeof pattern, "%s/*.json", argc > 1 ? argv[1] : "verify/data/families");
    glob_t files;
    if (glob(pattern, 0, NULL, &files) != 0) {
        fprintf(stderr, "no file matches %s\n", pattern);
        return 1;
    }
    struct CMUnitTest tests[64] = {0};
    size_t n = 0;
    if (argc == 1) {
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(damaged_models_are_refused);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(numbers_that_are_none_are_reported);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(contexts_out_of_range_are_refused);
    }
    for (size_t i = 0; i < files.gl_pathc && n < 64; i++)
        tests[n++] = (struct CMUnitTest){
            .name = files.gl_pathv[i], .test_func = runs_exactly, .initial_state = files.gl_pathv[i]};
    int failed = _cmocka_run_group_tests("families", tests, n, make_dir, remove_dir);
    globfree(&files);
    return failed;
}
