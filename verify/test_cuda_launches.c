/* test_cuda_launches: what each launch of a decode token takes from memory, on the PTX machine: the weights and the keys
 * and values that it multiplies, and nearly nothing beside; whole sectors of 32 bytes; no bank conflicts. And what the
 * products of eight tokens take: each weight once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <jansson.h>

#include "runtime/session_impl.h"
#include "verify/cuda_help.h"

/* MOST: of what a launch has to take, in hundredths. USED: of each sector that a warp asks for, in hundredths. The keys are
 * whole tiles with the token's own; what they hold does not matter here. */
enum { SECTOR = 32, MOST = 105, USED = 95, N_KEYS = 192, FEW = 8 };

static const char *lines_path;

/* The machine's lines so far. */
static json_t *read_lines(void) {
    json_t *all = json_array();
    FILE *f = fopen(lines_path, "r");
    char line[4096];
    while (f && fgets(line, sizeof line, f)) {
        json_t *l = json_loads(line, 0, NULL);
        if (!l) fail_msg("no JSON: %s", line);
        json_array_append_new(all, l);
    }
    if (f) fclose(f);
    return all;
}

static int64_t number(const json_t *line, const char *way, const char *name) {
    return json_integer_value(json_object_get(way ? json_object_get(line, way) : line, name));
}

static bool has_node(const struct launch *l, const char *name) {
    for (size_t i = 0; i < json_array_size(l->nodes); i++)
        if (strcmp(json_string_value(json_array_get(l->nodes, i)), name) == 0) return true;
    return false;
}

struct traffic {
    int64_t matrices, cache; /* read: packed weights, keys and values */
    int64_t all;             /* with activations, vectors, tables and what is written, each in whole sectors */
};

/* What launch l of one token has to take from memory. */
static struct traffic to_take(const struct model *m, const struct launch *l) {
    struct traffic r = {.all = 2 * SECTOR}; /* sizes and pages */
    bool embeds = has_node(l, "embed"), appends = has_node(l, "kv_append");
    int n_caches = 0;
    for (size_t i = 0; i < l->n_binding; i++) {
        const struct tensor *t = &m->tensors[l->binding[i]];
        int64_t n = t->width * (int64_t)sizeof(float), of_key = 0;
        if (t->kind == TENSOR_WEIGHT) n = (int64_t)t->bytes;
        if (t->kind == TENSOR_WEIGHT && embeds) {
            n = 3 * n / t->dims[0]; /* eight rows lie side by side: half a sector of codes each, 2 bytes of a scale's */
        } else if (t->kind == TENSOR_WEIGHT && t->n_dims == 2) {
            r.matrices += n;
        }
        if (t->kind == TENSOR_CACHE) {
            of_key = (int64_t)session_page_bytes(t) / PAGE;
            n = appends ? of_key : of_key * N_KEYS;
            if (!appends) r.cache += n;
            /* Keys lie across the lanes in which attention reads them: a token's numbers a sector each. */
            if (appends && n_caches++ == 0) n = of_key / (strcmp(t->fmt, "f32") == 0 ? 4 : 2) * SECTOR;
        }
        if (t->kind == TENSOR_TABLE) n = t->dims[1] * (int64_t)sizeof(float);
        r.all += (n + SECTOR - 1) / SECTOR * SECTOR;
    }
    return r;
}

static void check_line(const json_t *line) {
    const char *name = json_string_value(json_object_get(line, "name"));
    for (int d = 0; d < 2; d++) {
        const char *way = d ? "stores" : "loads";
        /* Keys are stored across the lanes in which attention reads them: a token's lie a sector each. */
        if (d && strstr(name, "kv_append")) continue;
        int64_t sectors = number(line, way, "sectors"), ideal = number(line, way, "ideal_sectors");
        if (100 * ideal < USED * sectors)
            fail_msg("%s %s: %d sectors where %d would do", name, way, (int)sectors, (int)ideal);
    }
    if (number(line, NULL, "bank_conflicts"))
        fail_msg("%s: %d bank conflicts", name, (int)number(line, NULL, "bank_conflicts"));
}

/* The line of part p, which is the machine's next. */
static const json_t *line_of(const struct part *p, const json_t *all, size_t at) {
    const json_t *line = json_array_get(all, at);
    struct buf symbol = {0};
    target_ptx_symbol(p->name, &symbol);
    assert_non_null(line);
    assert_string_equal(json_string_value(json_object_get(line, "name")), symbol.data);
    buf_free(&symbol);
    return line;
}

/* Launch l of n tokens, whose products take its weights once, its tokens' activations and their records. */
static void check_few(const struct model *m, const struct launch *l, int64_t n, const json_t *all, size_t *at) {
    const struct kernel *k = launch_kernel(m, l, n);
    int64_t taken = 0, weights = 0, rest = 3 * SECTOR * (int64_t)k->n_phases + 2 * n * (int64_t)k->ws_per_tok;
    for (size_t i = 0; i < l->n_binding; i++) {
        const struct tensor *t = &m->tensors[l->binding[i]];
        bool matrix = t->kind == TENSOR_WEIGHT && t->n_dims == 2;
        if (t->kind == TENSOR_CACHE || has_node(l, "embed")) weights = -1; /* attention, and rows that ids choose */
        if (weights >= 0 && matrix) weights += (int64_t)t->bytes;
        if (!matrix) rest += (t->kind == TENSOR_WEIGHT ? 1 : n) * (t->width ? t->width : t->dims[0]) * (int64_t)sizeof(float);
    }
    for (size_t p = 0; p < k->n_phases; p++)
        for (size_t j = 0; j < k->phases[p].n_parts; j++) {
            const json_t *line = line_of(&k->phases[p].parts[j], all, (*at)++);
            if (weights > 0) check_line(line);
            taken += SECTOR * number(line, NULL, "either");
        }
    if (weights > 0 && (taken < weights || 100 * taken > MOST * (weights + rest)))
        fail_msg("%s of %d tokens takes %d bytes; its weights are %d, all else %d", k->name, (int)n, (int)taken, (int)weights,
                 (int)rest);
}

static void few_tokens_of(struct model *m, struct session *s, const char *path) {
    int32_t ids[FEW];
    size_t at, n_products = 0;
    for (int i = 0; i < FEW; i++) ids[i] = 100 + i;
    session_rewind(s, 0);
    json_t *before = read_lines();
    at = json_array_size(before);
    OK(session_eval(s, ids, FEW, 1, NULL, NULL, e));
    json_t *all = read_lines();
    for (size_t i = 0; i < m->n_launches; i++) {
        const struct launch *l = &m->launches[i];
        n_products += launch_kernel(m, l, FEW) != l->kernel;
        check_few(m, l, i < m->first_head ? FEW : 1, all, &at);
    }
    assert_true(n_products > m->n_launches / 3);
    assert_int_equal(at, json_array_size(all));
    print_message("# %s: %zu of %zu launches have code for %d tokens\n", path, n_products, m->n_launches, FEW);
    json_decref(before);
    json_decref(all);
}

static void launches_of(const char *path) {
    NEED_GPU();
    if (access(path, R_OK) != 0 || !getenv("KGEN_PTXVM_LAUNCHES")) {
        print_message("[  SKIPPED ] no %s, or no PTX machine\n", path);
        skip();
    }
    struct model *m;
    struct session *s;
    struct model_options o = {.path = path, .cuda = true, .n_threads = 2, .n_ctx = 256, .packed_bytes = 0};
    OK(model_open(&o, &m, e) && session_open(m, 256, &s, e));
    json_t *before = read_lines();
    s->pos = N_KEYS - 1;
    OK(session_eval(s, &(int32_t){100}, 1, 1, NULL, NULL, e));
    json_t *all = read_lines();
    size_t at = json_array_size(before), n_products = 0;
    double worst = 0;
    for (size_t i = m->n_launches; i < m->n_all_launches; i++) {
        const struct launch *l = &m->launches[i];
        int64_t taken = 0;
        struct traffic t = to_take(m, l);
        for (size_t p = 0; p < l->kernel->n_phases; p++)
            for (size_t j = 0; j < l->kernel->phases[p].n_parts; j++) {
                const json_t *line = line_of(&l->kernel->phases[p].parts[j], all, at++);
                check_line(line);
                taken += SECTOR * number(line, NULL, "either");
            }
        int64_t product = t.matrices + t.cache;
        if (taken < product || 100 * taken > MOST * t.all)
            fail_msg("%s takes %d bytes where %d would do", l->kernel->name, (int)taken, (int)t.all);
        if (!product) continue;
        if (100 * taken > MOST * product)
            fail_msg("%s takes %d bytes; its weights, keys and values are %d", l->kernel->name, (int)taken, (int)product);
        if ((double)taken / (double)product > worst) worst = (double)taken / (double)product;
        n_products++;
    }
    assert_true(n_products > m->n_all_launches / 3);
    for (; at < json_array_size(all); at++) check_line(json_array_get(all, at)); /* the choice of the next token */
    print_message("# %s: a launch takes at most %.3f of its weights, keys and values\n", path, worst);
    json_decref(before);
    json_decref(all);
    few_tokens_of(m, s, path);
    session_close(s);
    model_close(m);
}

static void launches_of_smollm2(void **state) {
    (void)state;
    launches_of("build/models/smollm2-135m-instruct-q4_1.gguf");
}

static void launches_of_gemma3(void **state) {
    (void)state;
    launches_of("build/models/gemma-3-270m-q4_k_m.gguf");
}

int main(int argc, char **argv) {
    (void)argc;
    char path[] = "/tmp/kgen-launches-XXXXXX";
    if (!getenv("KGEN_TEST_CUDA")) {
        int fd = mkstemp(path);
        if (fd < 0) return 1;
        close(fd);
        setenv("KGEN_PTXVM", "fast", 1);
        setenv("KGEN_PTXVM_LAUNCHES", path, 1);
        use_the_machine(argv);
        unsetenv("KGEN_PTXVM_LAUNCHES"); /* there is none */
        unlink(path);
    }
    lines_path = getenv("KGEN_PTXVM_LAUNCHES");
    const struct CMUnitTest tests[] = {cmocka_unit_test(launches_of_smollm2), cmocka_unit_test(launches_of_gemma3)};
    int failed = cmocka_run_group_tests(tests, open_gpu, close_gpu);
    if (lines_path) unlink(lines_path);
    return failed;
}
