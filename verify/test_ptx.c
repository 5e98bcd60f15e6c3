/* test_ptx: the PTX of every kernel, as text and through ptxas. What it computes is test_cuda.c's.
 *
 * The budget (verify/data/ptx/budget.txt) holds what ptxas gives each kernel: registers of the largest function, bytes
 * spilled, bytes of shared memory. UPDATE=1 rewrites it; read the diff. KGEN_ARCHS names other architectures than the
 * two of every run, spaces between ("all": every one). Without ptxas those tests are skipped and say so.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "codegen/f16.h"
#include "codegen/interp.h"
#include "runtime/compile.h"
#include "verify/codegen_help.h"
#include "verify/ir_random.h"

#define BUDGET "verify/data/ptx/budget.txt"

static struct dsl *dsl;

static int open_dsl(void **state) {
    (void)state;
    struct err e;
    if (!dsl_open(&dsl, &e)) fail_msg("%s", e.msg);
    return 0;
}

static int close_dsl(void **state) {
    (void)state;
    dsl_close(dsl);
    return 0;
}

/* ---- kernels as PTX ---- */

/* A kernel at its first benchmark shape, which is one token, every weight in `format` (NULL: none). */
static struct buf ptx_of(const char *kernel, const char *format, const char *shape, const struct target *t) {
    json_t *arg = json_pack("{s:s, s:s*, s:s*, s:b}", "kernel", kernel, "shape", shape, "format", format, "team", true);
    json_t *made = NULL, *meta = NULL;
    struct err e;
    struct buf out = {0};
    if (!dsl_call(dsl, "shape", arg, &made, &e) ||
        !compile_lower(dsl, json_object_get(made, "spec"), t, false, &meta, &e))
        fail_msg("%s %s: %s", kernel, format ? format : "", e.msg);
    const json_t *ir = json_object_get(meta, "ir");
    if (!codegen_emit(json_string_value(ir), json_string_length(ir), t, STAGE_ASM, NULL, &out, &e))
        fail_msg("%s %s: %s", kernel, format ? format : "", e.msg);
    json_decref(meta);
    json_decref(made);
    json_decref(arg);
    return out;
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

static void expect(const struct buf *ptx, const char *kernel, const char *format, const char *what, bool there) {
    if ((count(ptx->data, what) > 0) != there)
        fail_msg("%s %s: PTX %s `%s`:\n%s", kernel, format ? format : "", there ? "without" : "with", what, ptx->data);
}

/* What holds for every kernel: nothing in local memory, nothing called, nothing ptxas may contract by itself. */
static void check_text(const struct buf *ptx, const char *kernel, const char *format) {
    static const char *const never[] = {".local",     "call",     "\tmul.f32",   "\tadd.f32",  "\tsub.f32",
                                        "div.approx", "div.full", "sqrt.approx", "ex2.approx", ".ftz"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) expect(ptx, kernel, format, never[i], false);
    expect(ptx, kernel, format, ".reqntid 256", true);
}

static void quantized_products_use_integer_units_and_the_read_only_path(void **state) {
    (void)state;
    struct target t = find("sm_80");
    static const char *const formats[] = {"q4_0", "q4_1", "q4_k", "q5_k", "q6_k", "q8_0"};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct buf ptx = ptx_of("linear", formats[i], "act=q8", &t);
        expect(&ptx, "linear", formats[i], "dp4a.u32.s32", true);
        expect(&ptx, "linear", formats[i], "ld.global.nc.v4.b32", true); /* 16 bytes of codes */
        expect(&ptx, "linear", formats[i], "ld.shared.v", true);         /* of the activation, several */
        buf_free(&ptx);
        ptx = ptx_of("linear", formats[i], "act=f32", &t);
        expect(&ptx, "linear", formats[i], "dp4a", false);
        expect(&ptx, "linear", formats[i], "mma", false);
        expect(&ptx, "linear", formats[i], "fma.rn.f32", true);
        buf_free(&ptx);
    }
}

/* What a warp multiplies for a tile of 64 keys and 16 rows is 2 · 64 · 16 · width products, and ones for the sums of
 * weights; it looks at other rows' lanes for the largest score only; and what it reads of a key or a value are 16 bytes
 * a lane. */
static void attention_over_a_prompt_uses_the_matrix_unit(void **state) {
    (void)state;
    static const char product[] = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32";
    struct target t = find("sm_80"), old = find("sm_75");
    const char *shapes[] = {"tok=512,prod=f16,hd=64", "tok=512,prod=f16,hd=128", "tok=512,prod=f16,hd=80,nh=6,nkv=2"};
    const unsigned widths[] = {64, 128, 80}, keys[] = {64, 16, 32}; /* of a tile: what registers are left for */
    for (size_t i = 0; i < 3; i++) {
        struct buf ptx = ptx_of("attention", "f16", shapes[i], &t);
        /* Loops over tiles that need no mask, and over those that do. */
        assert_int_equal(count(ptx.data, product), 2 * (2 * keys[i] * 16 * widths[i] / (16 * 8 * 16) + keys[i] / 16));
        assert_int_equal(count(ptx.data, "shfl.sync"), 2 * 2 * 2);
        expect(&ptx, "attention", "f16", "ld.global.nc.b16", false);
        buf_free(&ptx);
        ptx = ptx_of("attention", "f16", shapes[i], &old);
        expect(&ptx, "attention", "f16", "mma", false);
        buf_free(&ptx);
    }
    /* Factors as they are, keys of 32 or 8 bits, heads that are no whole tiles, and one token go another way. */
    const char *const others[][2] = {{"f16", "tok=512"},
                                     {"f32", "tok=512"},
                                     {"q8_0", "tok=512"},
                                     {"f16", "tok=512,prod=f16,hd=24"},
                                     {"f16", "tok=1,prod=f16"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct buf ptx = ptx_of("attention", others[i][0], others[i][1], &t);
        expect(&ptx, "attention", others[i][0], "mma", false);
        buf_free(&ptx);
    }
}

/* For many tokens, whatever the weights' format: halves into the matrix unit, activations staged while it works and
 * read 16 bytes a thread. */
static void products_of_halves_use_the_matrix_unit(void **state) {
    (void)state;
    struct target t = find("sm_80"), old = find("sm_75");
    static const char *const formats[] = {"q2_k", "q3_k", "q4_0", "q4_1",   "q4_k", "q5_0", "q5_1",
                                          "q5_k", "q6_k", "q8_0", "iq4_nl", "f16",  "bf16", "f32"};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct buf ptx = ptx_of("linear", formats[i], "act=bf16,tok=512", &t);
        expect(&ptx, "linear", formats[i], "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", true);
        expect(&ptx, "linear", formats[i], "cvt.rn.bf16x2.f32", true);
        expect(&ptx, "linear", formats[i], "cp.async.cg.shared.global", true);
        expect(&ptx, "linear", formats[i], "cp.async.wait_group", true);
        expect(&ptx, "linear", formats[i], "ld.shared.v4", true);
        expect(&ptx, "linear", formats[i], "dp4a", false);
        buf_free(&ptx);
    }
    struct buf ptx = ptx_of("linear", "q4_k", "act=bf16,tok=512", &old);
    expect(&ptx, "linear", "q4_k", "mma", false);
    buf_free(&ptx);
}

static size_t count_of(const struct buf *text, const char *what) {
    size_t n = 0;
    for (const char *s = text->data; (s = strstr(s, what)); s++) n++;
    return n;
}

/* Few tokens: a tile's products of 8 or 32 tokens for 32 elements of k, nothing staged; the parts of the sums go through shared
 * memory once, two numbers at a time, between two meetings of the block. */
static void products_of_few_tokens_split_their_sums(void **state) {
    (void)state;
    struct target t = find("sm_90");
    static const struct {
        const char *shape;
        size_t products, stores;
    } cases[] = {{"act=bf16,tok=2,d=2048,n=8192", 4, 2}, {"act=bf16,tok=32,d=2048,n=2048", 16, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf ptx = ptx_of("linear", "q4_k", cases[i].shape, &t);
        expect(&ptx, "linear", "q4_k", "cp.async", false);
        expect(&ptx, "linear", "q4_k", "ld.shared.b32", false);
        assert_int_equal(count_of(&ptx, "mma.sync"), cases[i].products);
        assert_int_equal(count_of(&ptx, "st.shared.v2.b32"), cases[i].stores);
        assert_int_equal(count_of(&ptx, "ld.shared.v2.b32"), PTX_WARPS);
        assert_int_equal(count_of(&ptx, "bar.sync"), 2);
        buf_free(&ptx);
    }
    /* q, k and v are one function. */
    struct buf ptx = ptx_of("norm_qkv", NULL, "act=bf16,tok=2", &t);
    assert_int_equal(count_of(&ptx, ".visible .entry"), 2);
    buf_free(&ptx);
}

/* Lanes 8 bytes apart: what lies in their gaps is another thread's only where it reaches a lane, and they reach beyond 32 times their
 * own bytes. */
static void strided_rows_meet_where_their_lanes_do(void **state) {
    (void)state;
    static const char *const then[] = {"store %4, %2, %3, 4 align 4 stride 8\n", "%5:f32x32 = load %2, %3, 4 align 4 stride 8\n",
                                       "%5:f32x32 = load %2, %3, 128 align 4\n", "%5:f32x32 = load %2, %3, 252 align 4\n"};
    static const size_t barriers[] = {0, 0, 1, 0};
    struct target t = find("sm_90");
    for (size_t i = 0; i < sizeof then / sizeof *then; i++) {
        struct buf ir = {0};
        buf_printf(&ir, "kgen-ir 1\nfunc @f\n%%1:ptr = arg 0\n%%2:ptr = stack 512 align 64\n%%3:i64 = const 0\n"
                        "%%4:f32x32 = load %%1, %%3, 0 align 4 inv\nstore %%4, %%2, %%3, 0 align 8 stride 8\n%s"
                        "store %s, %%1, %%3, 0 align 4\nend\n",
                   then[i], i ? "%5" : "%4");
        struct buf ptx = compile(ir.data, ir.len, &t, STAGE_ASM);
        assert_int_equal(count_of(&ptx, "bar.warp.sync"), barriers[i]);
        buf_free(&ptx);
        buf_free(&ir);
    }
}

/* Attention by weights that need no largest score, its mean kept normed: a monoid whose sums are products as well. %s
 * is what rounds a factor. */
static const char of_user[] =
    "local function factor(x) return %s end\n"
    "local weighted = monoid {\n"
    "  zero = function() return { l = 0, o = 0 } end,\n"
    "  merge = function(a, b)\n"
    "    local s = max(a.l + b.l, 1e-30)\n"
    "    return { l = a.l + b.l, o = a.o * (a.l / s) + b.o * (b.l / s) }\n"
    "  end,\n"
    "  many = function(tile)\n"
    "    local l = sum('j', tile.n, function(j) return factor(tile.l[j]) end)\n"
    "    return { l = l, o = vec('i', tile.o.n, function(i)\n"
    "      return sum('j', tile.n, function(j) return factor(tile.l[j]) * factor(tile.o[j][i]) end) / max(l, 1e-30)\n"
    "    end) }\n"
    "  end,\n"
    "}\n"
    "kernel 'weighted_%s' {\n"
    "  sig = 'q: f32[tok?,nh,hd], kc: KV@keys[nkv,key?,hd], vc: KV@rows[nkv,key?,hd], pages: i32[npages?], pos: dim'\n"
    "     .. ' -> y: f32[tok?,nh,hd]',\n"
    "  body = function(a)\n"
    "    for t in each('tok', a.tok) do for h in each('head', a.nh) do\n"
    "      local g = h // (a.nh // a.nkv)\n"
    "      local s = fold('key', a.pos + t + 1, weighted, function(j)\n"
    "        local qk = sum('e', a.hd, function(e) return factor(a.q[t][h][e]) * factor(a.kc[g][j][e]) end)\n"
    "        return { l = 1 / (1 + exp(-qk)), o = vec('i', a.hd, function(i) return a.vc[g][j][i] end) }\n"
    "      end, { from = max(0, a.pos + t + 1 - 70) })\n"
    "      for i in each('i', a.hd) do a.y[t][h][i] = s.o[i] end\n"
    "    end end\n"
    "  end,\n"
    "  map = schedules.attend, tune = { heads = 1, toks = 1 },\n"
    "  bench = { { tok = 1, nh = 4, nkv = 2, hd = 32, KV = 'f16' } },\n"
    "}\n";

static void define(const char *factor, const char *name) {
    struct buf text = {0};
    json_t *none = NULL;
    struct err e;
    buf_printf(&text, of_user, factor, name);
    json_t *arg = json_pack("{s:s, s:s}", "name", name, "text", text.data);
    if (!dsl_call(dsl, "load_kernels", arg, &none, &e)) fail_msg("%s", e.msg);
    json_decref(none);
    json_decref(arg);
    buf_free(&text);
}

/* A number from -2 to 2. */
static float sample(uint32_t *seed) {
    *seed = *seed * 1664525 + 1013904223;
    return (float)((int)(*seed >> 24) - 128) / 64;
}

enum { W_TOK = 21, W_POS = 50, W_NH = 4, W_NKV = 2, W_HD = 32, W_PAGE = 256 };

/* What the interpreter makes of the lowering for a target. */
static void interpret(const char *kernel, const struct target *t, bool serial, void *const *arrays, float *y) {
    json_t *spec = json_pack("{s:s, s:{s:s}, s:{s:i, s:i, s:i}, s:{}}", "kernel", kernel, "formats", "KV", "f16",
                             "sizes", "nh", W_NH, "nkv", W_NKV, "hd", W_HD, "params");
    json_t *meta = NULL, *part;
    struct ir_module *m;
    struct err e;
    if (!compile_lower(dsl, spec, t, serial, &meta, &e)) fail_msg("%s", e.msg);
    const json_t *ir = json_object_get(meta, "ir"), *names = json_object_get(meta, "dims");
    int64_t dims[4] = {0};
    for (size_t i = 0; i < json_array_size(names); i++)
        dims[i] = strcmp(json_string_value(json_array_get(names, i)), "pos") == 0 ? W_POS : W_TOK;
    part = json_array_get(json_array_get(json_object_get(meta, "phases"), 0), 0);
    int64_t per = json_integer_value(json_object_get(part, "per"));
    int64_t tasks = json_integer_value(json_object_get(part, "times")) * (per ? (W_TOK + per - 1) / per : 1);
    void *args[] = {arrays[0], arrays[1], arrays[2], arrays[3], y};
    if (!ir_parse(json_string_value(ir), json_string_length(ir), &m, &e) || !ir_verify(m, &e) ||
        !ir_run(m->first, args, dims, 0, tasks, NULL, t->fma, &e))
        fail_msg("%s", e.msg);
    ir_free(m);
    json_decref(meta);
    json_decref(spec);
}

/* A fold of the user's goes the same way: its numbers are those of the fold element by element but for what rounding to
 * f16 leaves, 2^-11 of a weight or a value, each in a sum and once in its divisor. What is not rounded alike does not.
 */
static void folds_of_users_are_tiles_where_they_fit(void **state) {
    (void)state;
    struct target t = find("sm_90"), base = find("x86-64");
    struct dsl *shared = dsl; /* the other tests see kernels.lua's kernels only */
    open_dsl(NULL);
    define("rounded('f16', x)", "half");
    define("x", "plain");
    define("rounded('f16', x) * 2", "scaled");
    struct buf ptx = ptx_of("weighted_half", "f16", "tok=64", &t);
    expect(&ptx, "weighted_half", "f16", "mma.sync", true);
    buf_free(&ptx);
    static const char *const others[] = {"weighted_plain", "weighted_scaled"};
    for (size_t i = 0; i < 2; i++) {
        ptx = ptx_of(others[i], "f16", "tok=64", &t);
        expect(&ptx, others[i], "f16", "mma", false);
        buf_free(&ptx);
    }
    enum { N = W_TOK * W_NH * W_HD, POOL = W_NKV * W_PAGE * W_HD, SLACK = 128 };
    static _Alignas(64) float q[N + SLACK], tiled[N + SLACK], serial[N + SLACK];
    static _Alignas(64) uint16_t kc[POOL + SLACK], vc[POOL + SLACK];
    _Alignas(64) int32_t pages[SLACK] = {0};
    uint32_t seed = 1;
    for (int i = 0; i < N; i++) q[i] = sample(&seed);
    for (int i = 0; i < POOL; i++) {
        kc[i] = f16_from_f32_bits(f32_bits(sample(&seed) / 4));
        vc[i] = f16_from_f32_bits(f32_bits(sample(&seed) * 2));
    }
    void *arrays[] = {q, kc, vc, pages};
    interpret("weighted_half", &t, false, arrays, tiled);
    interpret("weighted_half", &base, true, arrays, serial);
    for (int i = 0; i < N; i++)
        if (!(fabsf(tiled[i] - serial[i]) <= 4 * 0x1p-11F * 4))
            fail_msg("element %d: in tiles %g, element by element %g", i, tiled[i], serial[i]);
    close_dsl(NULL);
    dsl = shared;
}

static void sums_across_a_team_are_five_exchanges_and_two_barriers(void **state) {
    (void)state;
    struct target t = find("sm_90");
    struct buf ptx = ptx_of("rmsnorm", NULL, NULL, &t);
    assert_int_equal(count(ptx.data, "shfl.sync.bfly.b32"), 5);
    assert_int_equal(count(ptx.data, "bar.sync"), 2);
    expect(&ptx, "rmsnorm", NULL, "sqrt.rn.f32", true);
    buf_free(&ptx);
}

/* With float32 activations and a float32 cache nothing is computed in fewer bits; formats may hold their scales in f16.
 */
static void float32_uses_no_small_products(void **state) {
    (void)state;
    struct target t = find("sm_90");
    static const char *const products[] = {"mma", "dp4a", "fma.rn.f16", "mul.rn.f16", "add.rn.f16", ".bf16"};
    static const struct {
        const char *kernel, *format, *shape;
    } rows[] = {{"linear", "q4_k", "act=f32"},
                {"linear", "q4_k", "act=f32,tok=512"},
                {"norm_qkv", "q4_k", "act=f32"},
                {"swiglu_ffn", "q8_0", "act=f32"},
                {"attention", "f32", NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf ptx = ptx_of(rows[i].kernel, rows[i].format, rows[i].shape, &t);
        for (size_t k = 0; k < sizeof products / sizeof *products; k++)
            expect(&ptx, rows[i].kernel, rows[i].format, products[k], false);
        if (!rows[i].shape) expect(&ptx, rows[i].kernel, rows[i].format, "f16", false);
        buf_free(&ptx);
    }
}

/* From sm_90 on: once in each function successors may start, then what no launch writes is asked for, then it is
 * waited; before that nothing is stored, and nothing loaded but run-time sizes. What others write is never read as a
 * constant. */
static void kernels_wait_for_what_others_write(void **state) {
    (void)state;
    static const struct {
        const char *kernel, *format, *shape;
        bool ahead; /* it has weights to ask for */
    } rows[] = {{"linear", "q4_k", "act=q8", true},     {"linear", "q4_k", "act=q8,tok=512", true},
                {"linear", "q8_0", "act=f32", true},    {"norm_qkv", "q4_k", "act=q8", true},
                {"swiglu_ffn", "q8_0", "act=q8", true}, {"attention", "f32", NULL, false},
                {"rmsnorm", NULL, NULL, false},         {"kv_append", "f32", NULL, false},
                {"argmax", NULL, NULL, false}};
    static const char let[] = "griddepcontrol.launch_dependents;", wait[] = "griddepcontrol.wait;";
    static const char *const targets[] = {"sm_90", "sm_120a"};
    struct target old = find("sm_89");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *kernel = rows[i].kernel, *format = rows[i].format;
        struct buf ptx = ptx_of(kernel, format, rows[i].shape, &old);
        expect(&ptx, kernel, format, "griddepcontrol", false);
        expect(&ptx, kernel, format, "prefetch", false);
        buf_free(&ptx);
        for (size_t k = 0; k < sizeof targets / sizeof *targets; k++) {
            struct target t = find(targets[k]);
            ptx = ptx_of(kernel, format, rows[i].shape, &t);
            size_t n = count(ptx.data, ".entry");
            assert_int_equal(count(ptx.data, let), n);
            assert_int_equal(count(ptx.data, wait), n);
            expect(&ptx, kernel, format, "prefetch.global.L2", rows[i].ahead);
            if (!rows[i].ahead) assert_int_equal(count(ptx.data, "ld.global.nc"), count(ptx.data, "ld.global.nc.b64"));
            char *at = ptx.data;
            while ((at = strstr(at, ".entry"))) {
                char *end = strstr(at, wait);
                assert_true(strstr(at, let) < end);
                *end = 0;
                assert_int_equal(count(at, "ld.global"), count(at, "ld.global.nc.b64"));
                assert_int_equal(count(at, "\tst."), 0);
                assert_int_equal(count(at, "atom"), 0);
                at = end + 1;
                char *next = strstr(at, ".entry");
                assert_true(!strstr(at, "prefetch") || (next && strstr(at, "prefetch") > next));
            }
            buf_free(&ptx);
        }
    }
}

/* ---- ptxas ---- */

static bool have_ptxas(void) {
    static int known = -1;
    if (known < 0) known = system("ptxas --version >/dev/null 2>&1") == 0;
    if (!known) print_message("[  SKIPPED ] no ptxas in PATH: PTX was not assembled\n");
    return known;
}

struct usage {
    unsigned registers, spilled, shared;
};

static struct usage assemble(const struct buf *ptx, const char *arch, const char *what) {
    char path[] = "/tmp/kgen-ptx-XXXXXX", line[1024];
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, ptx->data, ptx->len) == (ssize_t)ptx->len);
    close(fd);
    snprintf(line, sizeof line, "ptxas -arch=%s -v %s -o /dev/null 2>&1", arch, path);
    FILE *p = popen(line, "r");
    struct usage u = {0};
    struct buf said = {0};
    while (fgets(line, sizeof line, p)) {
        unsigned a, b, c;
        const char *s;
        buf_puts(&said, line);
        if (sscanf(line, " %u bytes stack frame, %u bytes spill stores, %u", &a, &b, &c) == 3) u.spilled += b + c;
        if ((s = strstr(line, "Used ")) && sscanf(s, "Used %u registers", &a) == 1 && a > u.registers) u.registers = a;
        if ((s = strstr(line, " bytes smem"))) {
            while (s > line && s[-1] != ' ') s--;
            if (sscanf(s, "%u", &a) == 1 && a > u.shared) u.shared = a;
        }
    }
    int status = pclose(p);
    unlink(path);
    if (status) fail_msg("%s: ptxas -arch=%s refuses it: %s", what, arch, said.data);
    buf_free(&said);
    return u;
}

/* Vectors of every width, control flow, shared memory and every kind of exchange: what each architecture must take. */
static const char everything[] =
    "kgen-ir 1\nfunc @every-thing.0\n%1:ptr = arg 0\n%2:ptr = arg 1\n%3:i64 = begin\n%4:i64 = end\n%5:i64 = const 4\n"
    "%6:ptr = stack 256 align 64\n%7:i64 = const 0\n"
    "for %8 = %3 to %4 step 1\n"
    "%9:i64 = mul %8, %5\n%10:f32x32 = load %1, %9, 0 align 4 inv\n%11:f32 = hsum %10\n%12:f32 = hmax %10\n"
    "%13:f32x16 = slice %10, 8\n%14:f32x8 = shuffle %13, 3 1 0 2 15 14 13 12\n%15:f32x16 = concat %14, %14\n"
    "%16:f32 = extract %15, 5\n%17:f32 = fdiv %11, %12\n%18:f32 = fsqrt %17\n%19:f32 = frint %18\n"
    "%20:f16x16 = fptrunc %15\n%21:i16x16 = bitcast %20\n%22:i8x32 = bitcast %21\n%23:i32x8 = bitcast %22\n"
    "%24:i32x8 = dot4 %23, %23, %23 umax=255\n%25:i32 = hmax %24\n%26:f32 = sitofp %25\n"
    "store %13, %6, %7, 0 align 64\n%27:f32x16 = load %6, %7, 16 align 16\n%28:i1x16 = flt %27, %13\n"
    "storem %27, %28, %2, %9, 0 align 4\n%29:f32 = fma %16, %19, %26\nstore %29, %2, %9, 64 align 4\nend\nend\n";

static void every_architecture_assembles(void **state) {
    (void)state;
    size_t n = 0;
    for (; target_gpu_name(n); n++) {
        struct target t = find(target_gpu_name(n));
        assert_true(t.ptx && !target_runs_here(&t) && t.lanes == PTX_LANES);
        assert_string_equal(t.class_name, "ptx");
        struct buf ptx = compile(everything, sizeof everything - 1, &t, STAGE_ASM);
        char want[64];
        snprintf(want, sizeof want, ".target %s\n", t.name);
        expect(&ptx, "everything", NULL, want, true);
        expect(&ptx, "everything", NULL, ".entry every$mthing$_0(", true);
        check_text(&ptx, "everything", NULL);
        if (have_ptxas()) {
            struct usage u = assemble(&ptx, t.name, "everything");
            assert_int_equal(u.spilled, 0);
            assert_int_equal(u.shared, 256 * PTX_WARPS);
        }
        buf_free(&ptx);
    }
    assert_int_equal(n, 14);
}

/* Long vectors exist around mma only, and mma where there is a matrix unit only. */
static void what_a_warp_cannot_do_is_refused(void **state) {
    (void)state;
    struct buf mma = {0}, out = {0};
    struct err e;
    ir_mma_program(0, &mma);
    struct target old = find("sm_75"), t = find("sm_80");
    assert_false(codegen_emit(mma.data, mma.len, &old, STAGE_ASM, NULL, &out, &e));
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "sm_75 has no mma m16n8k32.u8s8"));
    struct buf ptx = compile(mma.data, mma.len, &t, STAGE_ASM);
    expect(&ptx, "mma", NULL, "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32", true);
    check_text(&ptx, "mma", NULL);
    static const char wide[] = "kgen-ir 1\nfunc @f\n%1:i32x64 = iota\n%3:i32x32 = slice %1, 0\n"
                               "%4:ptr = arg 0\n%5:i64 = const 0\nstore %3, %4, %5, 0 align 4\nend\n";
    assert_false(codegen_emit(wide, sizeof wide - 1, &t, STAGE_ASM, NULL, &out, &e));
    assert_non_null(strstr(e.msg, "iota: a vector of 64 lanes; a warp has 32"));
    struct buf tile = {0};
    ir_tile_program(0, &tile);
    assert_false(codegen_emit(tile.data, tile.len, &t, STAGE_ASM, NULL, &out, &e));
    assert_non_null(strstr(e.msg, "tiledot is for processors only"));
    buf_free(&tile);
    static const char *const staged[] = {
        "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:ptr = shared 1024 align 16\n%3:i64 = const 0\n%4:i64 = const 8\n",
        "copy %2, %3, %1, %3, %4, 8 rows 128 stride 256\nwait 0\nend\n",
        "for %5 = %3 to %4 step 1 split 16\nwait 0\nend\nend\n",
        "copy %1, %3, %1, %3, %4, 8 rows 128 stride 256\nwait 0\nend\n",
        "copy %2, %3, %2, %3, %4, 8 rows 128 stride 256\nwait 0\nend\n",
    };
    static const char *const said[] = {NULL, "cp.async.cg.shared.global", "into 16 parts, not 8",
                                       "copy is of a block's shared memory", "copy's source is an argument or ws"};
    for (size_t i = 1; i < 5; i++) {
        struct buf text = {0};
        buf_printf(&text, "%s%s", staged[0], staged[i]);
        bool ok = codegen_emit(text.data, text.len, &t, STAGE_ASM, NULL, &out, &e);
        assert_int_equal(ok, i == 1);
        if (i == 1) {
            expect(&out, "copy", NULL, said[i], true);
            expect(&out, "copy", NULL, "cp.async.wait_group", true);
        } else if (!strstr(e.msg, said[i])) {
            fail_msg("expected: %s\n  found: %s", said[i], e.msg);
        }
        if (i == 1) assert_false(codegen_emit(text.data, text.len, &old, STAGE_ASM, NULL, &out, &e));
        buf_free(&text);
    }
    buf_free(&ptx);
    buf_free(&mma);
    buf_free(&out);
}

/* ---- the budget: a line of "KERNEL.FORMAT[.many|.few8|.few256|.tilesWIDTH|.windowWIDTH|.headsWIDTH] ARCH
 * registers spilled shared" for sm_80 and sm_90. Other architectures assemble and spill no more than sm_90. */

/* ptxas may take a few registers more from one release to the next; spills and shared memory may not grow. */
static void hold_to(const char *budget, const char *name, const struct usage *u, bool other, struct buf *over) {
    const char *line = budget;
    for (; line && strncmp(line, name, strlen(name)) != 0; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
    }
    struct usage b = {0};
    if (!line || sscanf(line + strlen(name), " %u %u %u", &b.registers, &b.spilled, &b.shared) != 3)
        buf_printf(over, "%s: not in " BUDGET "\n", name);
    else if ((!other && u->registers > b.registers + 8) || u->spilled > b.spilled || (!other && u->shared > b.shared))
        buf_printf(over, "%s: %u registers, %u bytes spilled, %u shared; the budget is %u, %u, %u\n", name,
                   u->registers, u->spilled, u->shared, b.registers, b.spilled, b.shared);
}

static bool in_budget(const char *arch) {
    return strcmp(arch, "sm_80") == 0 || strcmp(arch, "sm_90") == 0;
}

/* For several tokens a model asks for activations in halves; what has none is the same for few of them. */
static const struct {
    const char *label, *shape, *halves;
} widths[] = {{"", NULL, NULL}, {".many", "tok=512", "tok=512,act=bf16"}, {".few8", NULL, "tok=8,act=bf16"}, {".few256", NULL, "tok=256,act=bf16"}};

static bool takes_halves(const json_t *kernel) {
    size_t i;
    const json_t *p;
    json_array_foreach(json_object_get(kernel, "params"), i, p)
        if (strcmp(json_string_value(json_object_get(p, "name")), "act") == 0) return true;
    return false;
}

static void measure(const char *kernel, const char *format, const char *shape, const char *label, const char *arch,
                    const char *budget, struct buf *now, struct buf *over) {
    struct target t = find(arch);
    struct buf ptx = ptx_of(kernel, format, shape, &t);
    char name[96];
    snprintf(name, sizeof name, "%s%s%s%s %s ", kernel, format ? "." : "", format ? format : "", label, arch);
    check_text(&ptx, kernel, format);
    struct usage u = assemble(&ptx, arch, name);
    buf_printf(now, "%s%u %u %u\n", name, u.registers, u.spilled, u.shared);
    bool other = !in_budget(arch);
    if (other) strcpy(strstr(name, " sm_"), " sm_90 ");
    hold_to(budget, name, &u, other, over);
    buf_free(&ptx);
}

static bool chosen(const char *arch) {
    const char *asked = getenv("KGEN_ARCHS");
    if (!asked || getenv("UPDATE")) return in_budget(arch);
    if (strcmp(asked, "all") == 0) return true;
    size_t n = strlen(arch);
    for (const char *p = asked; (p = strstr(p, arch)); p += n)
        if ((p == asked || p[-1] == ' ') && (p[n] == 0 || p[n] == ' ')) return true;
    return false;
}

static void kernels_stay_within_their_budget(void **state) {
    (void)state;
    static const char *const tiles[][2] = {{"tok=512,prod=f16,hd=64", ".tiles64"},
                                           {"tok=512,prod=f16,hd=128", ".tiles128"},
                                           {"tok=512,prod=f16,hd=256", ".tiles256"},
                                           {"tok=512,prod=f16,hd=32,window=9", ".window32"},
                                           {"tok=512,prod=f16,hd=48,window=9", ".window48"},
                                           {"tok=512,prod=f16,hd=64,window=100", ".window64"},
                                           {"tok=512,prod=f16,hd=80,window=100", ".window80"},
                                           {"tok=512,prod=f16,hd=128,window=512", ".window128"},
                                           {"tok=512,prod=f16,hd=256,window=512,nh=4,nkv=1", ".window256"},
                                           {"tok=512,prod=f32,hd=16", ".heads16"},
                                           {"tok=512,prod=f32,hd=24", ".heads24"},
                                           {"tok=512,prod=f32,hd=32", ".heads32"}};
    if (!have_ptxas()) return;
    json_t *kernels = NULL, *k, *f;
    struct err e;
    struct buf now = {0}, then = {0}, over = {0};
    size_t i, j;
    bool update = getenv("UPDATE") != NULL;
    if (!update && !file_read(BUDGET, &then, &e)) fail_msg("%s", e.msg);
    if (!dsl_call(dsl, "kernels", NULL, &kernels, &e)) fail_msg("%s", e.msg);
    for (size_t a = 0; target_gpu_name(a); a++) {
        const char *arch = target_gpu_name(a);
        if (!chosen(arch)) continue;
        json_array_foreach(kernels, i, k) {
            const char *name = json_string_value(json_object_get(k, "name"));
            const json_t *formats = json_object_get(k, "formats");
            for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
                const char *shape = takes_halves(k) ? widths[w].halves : widths[w].shape, *label = widths[w].label;
                if (w && !shape) continue;
                if (!json_array_size(formats)) measure(name, NULL, shape, label, arch, then.data, &now, &over);
                json_array_foreach(formats, j, f)
                    measure(name, json_string_value(f), shape, label, arch, then.data, &now, &over);
            }
        }
        for (size_t s = 0; s < sizeof tiles / sizeof *tiles; s++)
            measure("attention", "f16", tiles[s][0], tiles[s][1], arch, then.data, &now, &over);
    }
    json_decref(kernels);
    if (update && !file_write_atomic(BUDGET, now.data, now.len, &e)) fail_msg("%s", e.msg);
    if (!update && over.len) fail_msg("%sUPDATE=1 rewrites the budget", over.data);
    buf_free(&now);
    buf_free(&then);
    buf_free(&over);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture_assembles),
        cmocka_unit_test(quantized_products_use_integer_units_and_the_read_only_path),
        cmocka_unit_test(attention_over_a_prompt_uses_the_matrix_unit),
        cmocka_unit_test(products_of_halves_use_the_matrix_unit),
        cmocka_unit_test(products_of_few_tokens_split_their_sums),
        cmocka_unit_test(strided_rows_meet_where_their_lanes_do),
        cmocka_unit_test(folds_of_users_are_tiles_where_they_fit),
        cmocka_unit_test(sums_across_a_team_are_five_exchanges_and_two_barriers),
        cmocka_unit_test(float32_uses_no_small_products),
        cmocka_unit_test(kernels_wait_for_what_others_write),
        cmocka_unit_test(what_a_warp_cannot_do_is_refused),
        cmocka_unit_test(kernels_stay_within_their_budget),
    };
    return cmocka_run_group_tests(tests, open_dsl, close_dsl);
}
