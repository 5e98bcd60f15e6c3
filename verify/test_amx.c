/* The emulator of AMX (verify/amx), instruction by instruction, against plain sums; and tiledot, kernels and models for
 * x86-64-v4-amx, whose results are the bits of its class. On a machine with AMX all of it runs on the hardware. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "codegen/ir.h"
#include "codegen/target.h"
#include "runtime/session.h"
#include "verify/amx/emulator.h"
#include "verify/codegen_help.h"
#include "verify/ir_random.h"
#include "verify/parity.h"
#include "verify/parity_case.h"

#define AMX __attribute__((target("amx-tile,amx-int8")))

/* ---- the instructions ---- */

struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t columns[8], more[8];
    uint8_t rows[8], last[8];
};

static uint32_t matrix[3][16][16]; /* C, A, B as they lie in memory: rows of 64 bytes */

static void fill(void) {
    for (unsigned i = 0; i < 3 * 256; i++) matrix[i / 256][i / 16 % 16][i % 16] = (uint32_t)next_random();
}

static uint32_t byte_of(const uint32_t *row, unsigned e, bool is_signed) {
    uint8_t b = ((const uint8_t *)row)[e];
    return is_signed ? (uint32_t)(int8_t)b : b;
}

/* C + A . B of m rows, n columns and k words, zero beyond. */
static void model(uint32_t out[16][16], unsigned m, unsigned n, unsigned k, bool a_signed, bool b_signed) {
    memset(out, 0, 1024);
    for (unsigned i = 0; i < m; i++)
        for (unsigned j = 0; j < n; j++) {
            out[i][j] = matrix[0][i][j];
            for (unsigned e = 0; e < 4 * k; e++)
                out[i][j] += byte_of(matrix[1][i], e, a_signed) * byte_of(matrix[2][e / 4], 4 * j + e % 4, b_signed);
        }
}

AMX static void product(unsigned which, const struct config *c, uint32_t out[16][16]) {
    _tile_loadconfig(c);
    _tile_loadd(0, matrix[0], 64);
    _tile_loadd(3, matrix[1], 64);
    _tile_stream_loadd(7, matrix[2], 64);
    if (which == 0) _tile_dpbssd(0, 3, 7);
    if (which == 1) _tile_dpbsud(0, 3, 7);
    if (which == 2) _tile_dpbusd(0, 3, 7);
    if (which == 3) _tile_dpbuud(0, 3, 7);
    _tile_stored(0, out, 64);
    _tile_release();
}

static void products_are_exact_at_every_shape(void **state) {
    (void)state;
    amx_emulate(); /* cmocka handles SIGILL while a test runs */
    for (unsigned round = 0; round < 400; round++) {
        unsigned m = 1 + next_random() % 16, n = 1 + next_random() % 16, k = 1 + next_random() % 16, which = round % 4;
        struct config c = {.palette = 1};
        c.rows[0] = c.rows[3] = (uint8_t)m;
        c.rows[7] = (uint8_t)k;
        c.columns[0] = c.columns[7] = (uint16_t)(4 * n);
        c.columns[3] = (uint16_t)(4 * k);
        uint32_t want[16][16], got[16][16] = {{0}};
        fill();
        model(want, m, n, k, which < 2, which == 0 || which == 2);
        product(which, &c, got);
        if (memcmp(want, got, sizeof want)) fail_msg("m %u n %u k %u, form %u", m, n, k, which);
    }
}

/* Loads and stores through every form of address: base, index, scale, small and large displacements. */
AMX static void tiles_move_through_every_address(void **state) {
    (void)state;
    amx_emulate(); /* cmocka handles SIGILL while a test runs */
    struct config c = {.palette = 1};
    struct config back;
    c.rows[2] = 5;
    c.columns[2] = 20;
    static uint8_t from[4096], to[4096], want[4096];
    for (unsigned i = 0; i < sizeof from; i++) from[i] = (uint8_t)next_random();
    _tile_loadconfig(&c);
    _tile_storeconfig(&back);
    assert_memory_equal(&c, &back, sizeof c);
    uint8_t *base = from + 1000;
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm2\n\ttilestored %%tmm2, (%2,%1,2)" ::"r"(from), "r"(64l), "r"(to)
                     : "memory");
    for (unsigned i = 0; i < 5; i++) memcpy(want + 128 * i, from + 64 * i, 20);
    __asm__ volatile("tileloadd 7(%0,%1,4), %%tmm2\n\ttilestored %%tmm2, 1000(%2,%1,4)" ::"r"(base), "r"(32l), "r"(to)
                     : "memory");
    for (unsigned i = 0; i < 5; i++) memcpy(want + 1000 + 128 * i, base + 7 + 128 * i, 20);
    register uint8_t *r13 __asm__("r13") = base;
    register long r12 __asm__("r12") = -100;
    __asm__ volatile("tileloadd -3(%0,%1,1), %%tmm2\n\ttilestored %%tmm2, -128(%0,%1,2)" ::"r"(r13), "r"(r12)
                     : "memory");
    for (long i = 0; i < 5; i++) assert_memory_equal(base - 128 - 200 * i, base - 3 - 100 * i, 20);
    assert_memory_equal(to, want, sizeof to);
    _tile_zero(2);
    _tile_stored(2, to, 64);
    for (unsigned i = 0; i < 5 * 64; i++) assert_true(i % 64 >= 20 || to[i] == 0);
    _tile_release();
    _tile_storeconfig(&back);
    static const struct config none;
    assert_memory_equal(&none, &back, sizeof none);
}

/* ---- what faults ---- */

AMX static void unconfigured(void) {
    _tile_zero(0);
}
AMX static void mismatched(void) {
    struct config c = {.palette = 1};
    c.rows[0] = c.rows[1] = c.rows[2] = 16;
    c.columns[0] = c.columns[1] = 64;
    c.columns[2] = 32;
    _tile_loadconfig(&c);
    _tile_dpbusd(0, 1, 2);
}
AMX static void twice_the_same(void) {
    struct config c = {.palette = 1};
    c.rows[0] = c.rows[1] = 16;
    c.columns[0] = c.columns[1] = 64;
    _tile_loadconfig(&c);
    __asm__ volatile(".byte 0xc4, 0xe2, 0x71, 0x5e, 0xc1"); /* tdpbusd tmm0, tmm1, tmm1, which no assembler takes */
}
AMX static void reserved(void) {
    struct config c = {.palette = 1, .reserved = {1}};
    _tile_loadconfig(&c);
}
AMX static void too_wide(void) {
    struct config c = {.palette = 1};
    c.rows[0] = 1;
    c.columns[0] = 65;
    _tile_loadconfig(&c);
}

static void mistakes_end_the_process(void **state) {
    (void)state;
    amx_emulate(); /* cmocka handles SIGILL while a test runs */
    static void (*const mistakes[])(void) = {unconfigured, mismatched, twice_the_same, reserved, too_wide};
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        pid_t child = fork();
        if (!child) {
            close(STDERR_FILENO);
            mistakes[i]();
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) fail_msg("mistake %zu passed", i);
    }
}

/* ---- tiledot ---- */

static void compiled_products_are_exact(void **state) {
    (void)state;
    amx_emulate(); /* cmocka handles SIGILL while a test runs */
    struct target t = find("x86-64-v4-amx");
    for (int shape = 0; shape < IR_N_TILE; shape++) {
        struct buf text = {0};
        ir_tile_program(shape, &text);
        struct buf object = compile(text.data, text.len, &t, STAGE_OBJ);
        expect_no_undefined_symbols(&object, t.name);
        struct code *code = load(&object);
        for (uint64_t round = 1; round <= 20; round++) {
            static _Alignas(64) uint8_t in[IR_TILE_BYTES];
            static _Alignas(64) int32_t got[IR_TILE_TRIPS][16][16];
            ir_tile_operands(round, in);
            enum amx_kind kind = ir_tile_shapes[shape].b_signed ? AMX_TDPBSSD : AMX_TDPBSUD;
            uint64_t before = amx_emulated(kind);
            code_symbol(code, "tile")((void *[]){in, got}, NULL, 0, IR_TILE_TRIPS, NULL);
            uint64_t emulated = amx_emulated(kind) - before;
            assert_true(emulated == 0 || emulated == IR_TILE_TRIPS); /* 0: by the hardware */
            for (uint32_t i = 0; i < IR_TILE_TRIPS * 256; i++)
                if (got[i / 256][i / 16 % 16][i % 16] != ir_tile_element(in, shape, i / 256, i / 16 % 16, i % 16))
                    fail_msg("%s, round %d: element %u", ir_tile_shapes[shape].name, (int)round, i);
        }
        code_free(code);
        buf_free(&object);
        buf_free(&text);
    }
}

/* What is found is what an emulator or the processor brings. */
static void native_code_uses_tiles(void **state) {
    (void)state;
    struct target t = find("native");
    assert_true(t.features & FEAT_AMX);
    assert_non_null(strstr(t.cpu_features, "+amx-int8"));
}

/* Registers are configured once a function, where it has products, and given up at its end. */
static void functions_without_products_have_no_tiles(void **state) {
    (void)state;
    struct target t = find("x86-64-v4-amx");
    struct buf with = {0}, plain = {0};
    ir_tile_program(1, &with);
    ir_random(1, &plain);
    struct buf a = compile(with.data, with.len, &t, STAGE_ASM), b = compile(plain.data, plain.len, &t, STAGE_ASM);
    static const char *const words[] = {"ldtilecfg", "tdpbsud", "tilerelease"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const char *first = strstr(a.data, words[i]);
        assert_non_null(first);
        assert_null(strstr(first + 1, words[i]));
        assert_null(strstr(b.data, words[i]));
    }
    buf_free(&a);
    buf_free(&b);
    buf_free(&with);
    buf_free(&plain);
}

/* ---- kernels and models ---- */

/* Every integer format at odd shapes: against the reference; and since a launch of few tokens goes by dot4, the parts
 * of a launch against the whole, bit by bit. */
static void kernels_compute_their_algebra(void **state) {
    (void)state;
    amx_emulate();
    static const char *const kernels[] = {"linear", "norm_qkv", "swiglu_ffn"};
    struct parity_options o = {.target = "x86-64-v4-amx", .kernels = kernels, .n_kernels = 3, .seed = 5, .quick = true};
    struct parity_report r;
    struct err e;
    if (!parity_run(&o, NULL, NULL, &r, &e)) fail_msg("%s", e.msg);
    for (size_t i = 0; i < r.n_failures; i++) printf("# %s\n", r.failures[i]);
    assert_int_equal(r.n_failures, 0);
    size_t cases = 0;
    for (size_t i = 0; i < r.n_rows; i++) cases += r.rows[i].cases;
    assert_true(cases > 500);
    parity_free(&r);
}

static uint64_t products(void) {
    return amx_emulated(AMX_TDPBSUD) + amx_emulated(AMX_TDPBSSD);
}

/* The product of a case on a target, of all its tokens at once. */
static void launch(struct dsl *d, const struct parity_kernel *kernel, const char *target,
                   const struct parity_shape *shape, const struct parity_case *c, struct parity_out *out) {
    struct compiler of = {.dsl = d, .target = find(target), .n_threads = 2};
    struct kernel k[2] = {{0}};
    struct guard packed[PARITY_MAX_ARGS] = {{0}};
    struct ref_rng rng = {.seed = 3};
    struct err e;
    json_t *spec = kernel->spec(shape);
    const json_t *specs[2] = {spec, NULL};
    if (!compile_kernels(&of, specs, (const char *[]){NULL, shape->fmt[0]}, 2, k, &e)) fail_msg("%s", e.msg);
    for (size_t i = 0; i < c->n_args; i++)
        if (c->args[i].role == PARITY_WEIGHT && !parity_pack(d, &k[1], &of.target, &c->args[i], &rng, &packed[i], &e))
            fail_msg("%s", e.msg);
    if (!parity_launch(&(struct parity_exec){.k = k}, c, packed, 0, c->n_tok, CUT_WHOLE, out, &e))
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < c->n_args; i++) guard_free(&packed[i]);
    kernel_free(&k[0]);
    kernel_free(&k[1]);
    json_decref(spec);
}

/* Records so wide that the codes of 32 fill the cache (dsl/panel.lua): tokens go by in two runs and a rest. */
static void wide_records_go_by_in_runs(void **state) {
    (void)state;
    amx_emulate();
    const struct parity_kernel *linear = parity_kernels;
    while (strcmp(linear->name, "linear") != 0) linear++;
    struct parity_shape shape = {.d = 24576, .n = 16, .fmt = {"q4_0"}, .act = "q8", .n_runs = 1};
    shape.runs[0].tok = 67;
    struct parity_case c = {.n_tok = 67};
    struct parity_out want = {0}, got = {0};
    struct ref_rng rng = {.seed = 2};
    struct dsl *d;
    struct err e;
    if (!dsl_open(&d, &e)) fail_msg("%s", e.msg);
    linear->build(&shape, 0, &rng, &c);
    launch(d, linear, "x86-64-v4-vnni", &shape, &c, &want);
    uint64_t before = products();
    launch(d, linear, "x86-64-v4-amx", &shape, &c, &got);
    if (before) assert_int_equal(products() - before, 4 * 24576 / 32); /* else the hardware did them */
    double max_abs = 0, max_of_tol = 0;
    if (!parity_compare(&c, &want, &max_abs, &max_of_tol, &e)) fail_msg("%s", e.msg);
    if (!parity_same(&c, &want, &got, 0, c.n_tok, &e)) fail_msg("%s", e.msg);
    parity_out_free(&want);
    parity_out_free(&got);
    arena_free(&c.arena);
    dsl_close(d);
}

enum { N_TOKENS = 41, N_OUT = 9 }; /* two tiles of tokens and a rest */

struct logits {
    float *rows;
    int64_t n_vocab, n;
};

static bool keep(void *ctx, int64_t pos, const float *row, struct err *e) {
    (void)pos, (void)e;
    struct logits *l = ctx;
    memcpy(l->rows + l->n_vocab * l->n++, row, (size_t)l->n_vocab * sizeof *row);
    return true;
}

/* The last N_OUT logits of a prompt, then those of three tokens of the answer. */
static struct logits logits_of(const char *path, const char *target) {
    struct model_options o = {.path = path, .act = "q8", .target = target, .n_threads = 2, .no_cache = true};
    struct model *m;
    struct session *s;
    struct err e;
    if (!model_open(&o, &m, &e) || !session_open(m, 0, &s, &e)) fail_msg("%s", e.msg);
    struct logits l = {.rows = mem_new((N_OUT + 3) * (size_t)m->n_vocab * sizeof(float)), .n_vocab = m->n_vocab};
    int32_t ids[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) ids[i] = (int32_t)((i * 37 + 5) % m->n_vocab);
    if (!session_eval(s, ids, N_TOKENS, N_OUT, keep, &l, &e)) fail_msg("%s", e.msg);
    for (int i = 0; i < 3; i++)
        if (!session_argmax(s, ids, &e) || !session_eval(s, ids, 1, 1, keep, &l, &e)) fail_msg("%s", e.msg);
    assert_int_equal(l.n, N_OUT + 3);
    session_close(s);
    model_close(m);
    return l;
}

static void models_give_the_bits_of_their_class(void **state) {
    (void)state;
    amx_emulate();
    static const char *const models[] = {"llama-mixed", "qwen2", "gemma3-hd256"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[128];
        snprintf(path, sizeof path, "verify/data/families/%s.gguf", models[i]);
        struct logits want = logits_of(path, "x86-64-v4-vnni");
        uint64_t before = products();
        struct logits got = logits_of(path, "x86-64-v4-amx");
        if (getenv("AMX_REPORT")) printf("# %s: %d products\n", models[i], (int)(products() - before));
        if (before) assert_true(products() > before); /* else the hardware did them */
        assert_int_equal(want.n_vocab, got.n_vocab);
        assert_memory_equal(want.rows, got.rows, (size_t)(want.n * want.n_vocab) * sizeof *want.rows);
        mem_free(want.rows);
        mem_free(got.rows);
    }
}

int main(void) {
    struct target t = find("x86-64-v4-amx");
    if (!target_runs_here(&t)) {
        printf("1..0 # SKIP the emulator runs on processors with AVX512-VNNI\n");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_exact_at_every_shape),
        cmocka_unit_test(tiles_move_through_every_address),
        cmocka_unit_test(mistakes_end_the_process),
        cmocka_unit_test(compiled_products_are_exact),
        cmocka_unit_test(native_code_uses_tiles),
        cmocka_unit_test(functions_without_products_have_no_tiles),
        cmocka_unit_test(kernels_compute_their_algebra),
        cmocka_unit_test(wide_records_go_by_in_runs),
        cmocka_unit_test(models_give_the_bits_of_their_class),
    };
    return cmocka_run_group_tests_name("amx", tests, NULL, NULL);
}
