/* Properties of compiled code for every target (self-contained objects, broadcasts folded into memory operands, nothing
 * contracted), a kernel with everything kernels have, and the interface of codegen.h. What single operations compute is
 * in test_codegen_ops.c. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codegen/f16.h"
#include "codegen/interp.h"
#include "codegen/ir.h"
#include "verify/codegen_help.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory and control ---- */

/* A masked tail, a stack buffer, nested loops with carries, an if, dims, ws and a second argument: what kernels are
 * made of. out[i] = sum over k of x[i + k] * k, i below n, 16 at a time; ws[0] counts the tiles. */
static const char mixed[] =
    "kgen-ir 1\nfunc @mixed.0\n"
    "%1:ptr = arg 0\n%2:ptr = arg 1\n%3:i64 = dim 0\n%4:i64 = dim 2\n%5:i64 = begin\n%6:i64 = end\n"
    "%7:ptr = ws\n%8:ptr = stack 128 align 64\n%9:i64 = const 0\n%10:i64 = const 4\n"
    "%11:f32x16 = const 0x0p+0\n%12:i32x16 = iota\n%24:i32 = const 0\n"
    "for %20 = %5 to %6 step 16\n"
    "  for %21 = %9 to %4 step 1 carry %22:f32x16 = %11, %23:i32 = %24\n"
    "    %25:i64 = add %20, %21\n    %26:i64 = mul %25, %10\n"
    "    %27:f32x16 = load %1, %26, 0 align 4 inv\n    %28:f32 = sitofp %23\n"
    "    %29:f32x16 = splat %28\n    %30:f32x16 = fma %27, %29, %22\n"
    "    %31:i32 = const 1\n    %32:i32 = add %23, %31\n    yield %30, %32\n"
    "  end -> %33, %34\n"
    "  store %33, %8, %9, 64 align 64\n  %35:f32x16 = load %8, %9, 64 align 64\n"
    "  %36:i64 = sub %3, %20\n  %37:i32 = trunc %36\n  %38:i32x16 = splat %37\n"
    "  %39:i1x16 = ilt %12, %38\n  %40:i64 = mul %20, %10\n"
    "  storem %35, %39, %2, %40, 0 align 4\n"
    "  %41:i1 = ilt %20, %3\n  if %41\n    %42:i32 = load %7, %9, 0 align 4\n"
    "    %43:i32 = add %42, %34\n    store %43, %7, %9, 0 align 4\n  end\n"
    "end\nend\n";

static void kernel_with_everything_matches_the_interpreter(void **state) {
    (void)state;
    struct ir_module *m;
    struct err e;
    if (!ir_parse(mixed, sizeof mixed - 1, &m, &e) || !ir_verify(m, &e)) fail_msg("%s", e.msg);
    float x[128];
    for (int i = 0; i < 128; i++) x[i] = f32_from_bits((uint32_t)next_random() & 0xbf7fffff);
    for (size_t k = 0; target_name(k); k++) {
        struct target t = find(target_name(k));
        struct buf object = compile(mixed, sizeof mixed - 1, &t, STAGE_OBJ);
        expect_no_undefined_symbols(&object, t.name);
        if (target_runs_here(&t)) {
            struct code *code = load(&object);
            for (int64_t n = 0; n < 50; n += 7)
                for (int64_t depth = 0; depth < 4; depth++) {
                    int64_t dims[3] = {n, -1, depth};
                    float want[64], got[64];
                    int32_t ws_want[4] = {0}, ws_got[4] = {0};
                    memset(want, 0xee, sizeof want);
                    memset(got, 0xee, sizeof got);
                    if (!ir_run(m->first, (void *[]){x, want}, dims, 0, n, ws_want, t.fma, &e)) fail_msg("%s", e.msg);
                    code_symbol(code, "mixed.0")((void *[]){x, got}, dims, 0, n, ws_got);
                    assert_memory_equal(want, got, sizeof want);
                    assert_memory_equal(ws_want, ws_got, sizeof ws_want);
                    assert_int_equal(ws_got[0], depth * ((n + 15) / 16));
                }
            code_free(code);
        }
        buf_free(&object);
    }
    ir_free(m);
}

/* ---- properties of the code ---- */

static char *assembly(const char *text, const char *target) {
    struct target t = find(target);
    return compile(text, strlen(text), &t, STAGE_ASM).data;
}

static void expect_in(const char *code, const char *what) {
    if (!strstr(code, what)) fail_msg("expected `%s` in:\n%s", what, code);
}

static void expect_not_in(const char *code, const char *what) {
    if (strstr(code, what)) fail_msg("unexpected `%s` in:\n%s", what, code);
}

static void expect_line_with(const char *code, const char *first, const char *second) {
    for (const char *p = strstr(code, first); p; p = strstr(p + 1, first)) {
        const char *end = strchr(p, '\n'), *hit = strstr(p, second);
        if (hit && hit < end) return;
    }
    fail_msg("expected a line with `%s` and `%s` in:\n%s", first, second, code);
}

/* The inner loop of a quantized matrix-vector product: sixteen rows of codes, one activation word broadcast to them. */
static const char gemv_tile[] =
    "kgen-ir 1\nfunc @gemv.0\n"
    "%1:ptr = arg 0\n%2:ptr = arg 1\n%3:ptr = arg 2\n%4:i64 = begin\n%5:i64 = end\n"
    "%6:i32x16 = const 0\n%7:i64 = const 64\n%8:i64 = const 4\n%9:i32x16 = const 252645135\n"
    "%10:i32x16 = const 4\n"
    "for %11 = %4 to %5 step 1 carry %12:i32x16 = %6\n"
    "  %13:i64 = mul %11, %7\n  %14:i32x16 = load %1, %13, 0 align 64 inv\n"
    "  %15:i64 = mul %11, %8\n  %16:i64 = add %15, %15\n"
    "  %17:i32 = load %2, %16, 0 align 4 inv\n  %18:i32x16 = splat %17\n"
    "  %19:i32 = load %2, %16, 4 align 4 inv\n  %20:i32x16 = splat %19\n"
    "  %21:i32x16 = and %14, %9\n  %22:i32x16 = lshr %14, %10\n  %23:i32x16 = and %22, %9\n"
    "  %24:i32x16 = dot4 %12, %21, %18 umax=15\n"
    "  %25:i32x16 = dot4 %24, %23, %20 umax=15\n  yield %25\n"
    "end -> %26\n"
    "%27:f32x16 = sitofp %26\n%28:i64 = const 0\nstore %27, %3, %28, 0 align 64\nend\n";

static void vnni_takes_the_broadcast_from_memory(void **state) {
    (void)state;
    char *code = assembly(gemv_tile, "x86-64-v4-vnni");
    expect_line_with(code, "vpdpbusd", "{1to16}");
    expect_in(code, "%zmm");
    expect_not_in(code, "call");
    expect_not_in(code, "Spill");
    expect_not_in(code, "%rsp");
    free(code);
}

static void maddubs_serves_avx2_and_avx512_without_vnni(void **state) {
    (void)state;
    char *v3 = assembly(gemv_tile, "x86-64-v3"), *v4 = assembly(gemv_tile, "x86-64-v4");
    expect_line_with(v3, "vpmaddubsw", "%ymm");
    expect_line_with(v4, "vpmaddubsw", "%zmm");
    expect_not_in(v3, "%zmm");
    expect_not_in(v3, "Spill");
    expect_not_in(v4, "vpdpbusd");
    free(v3);
    free(v4);
}

/* Sixteen keys' dots of BF16 pairs with a query's, and sixteen values rounded. */
static const char pair_tile[] =
    "kgen-ir 1\nfunc @pairs.0\n"
    "%1:ptr = arg 0\n%2:ptr = arg 1\n%3:ptr = arg 2\n%4:i64 = begin\n%5:i64 = end\n"
    "%6:f32x16 = const 0x0p+0\n%7:i64 = const 64\n%8:i64 = const 4\n%9:i64 = const 0\n"
    "for %11 = %4 to %5 step 1 carry %12:f32x16 = %6\n"
    "  %13:i64 = mul %11, %7\n  %14:i32x16 = load %1, %13, 0 align 64 inv\n"
    "  %15:i64 = mul %11, %8\n  %16:i32 = load %2, %15, 0 align 4 inv\n  %17:i32x16 = splat %16\n"
    "  %18:f32x16 = dotbf %12, %14, %17\n  yield %18\nend -> %19\n"
    "%20:i16x16 = tobf %19\nstore %20, %3, %9, 0 align 32\nend\n";

static void pairs_are_one_instruction_where_there_is_one(void **state) {
    (void)state;
    char *hard = assembly(pair_tile, "x86-64-v4-bf16"), *soft = assembly(pair_tile, "x86-64-v4-vnni");
    expect_line_with(hard, "vdpbf16ps", "%zmm");
    expect_line_with(hard, "vcvtneps2bf16", "%ymm");
    expect_not_in(hard, "vfmadd");
    expect_not_in(hard, "call");
    expect_not_in(soft, "bf16");
    expect_in(soft, "vfmadd");
    free(hard);
    free(soft);
}

/* AVX-VNNI without AVX-512 is found on hosts only (`native`); its code can be looked at anywhere. */
static void vnni_has_a_form_without_avx512(void **state) {
    (void)state;
    struct target t = find("x86-64-v3");
    t.features |= FEAT_AVXVNNI;
    t.cpu_features = "+avxvnni";
    char *code = compile(gemv_tile, strlen(gemv_tile), &t, STAGE_ASM).data;
    expect_line_with(code, "vpdpbusd", "%ymm");
    expect_not_in(code, "%zmm");
    expect_not_in(code, "vpmaddubsw");
    free(code);
}

/* What reaches LLVM's back end: invariant loads marked, no flag that would let it change rounding. */
static void llvm_text_is_strict(void **state) {
    (void)state;
    struct target t = find("x86-64-v4");
    char *code = compile(mixed, sizeof mixed - 1, &t, STAGE_LLVM).data;
    expect_in(code, "define void @mixed.0");
    expect_in(code, "!invariant.load");
    expect_in(code, "@llvm.fma.v16f32");
    expect_not_in(code, " fast ");
    expect_not_in(code, "contract");
    expect_not_in(code, "reassoc");
    free(code);
}

static void baseline_uses_nothing_newer(void **state) {
    (void)state;
    char *a = assembly(gemv_tile, "x86-64"), *b = assembly(mixed, "x86-64");
    expect_in(a, "pmaddwd");
    for (char *code = a; code; code = code == a ? b : NULL) {
        expect_not_in(code, "%ymm");
        expect_not_in(code, "vmov");
        expect_not_in(code, "pmaddubsw");
        expect_not_in(code, "call");
    }
    free(a);
    free(b);
}

static void fma_takes_the_broadcast_from_memory(void **state) {
    (void)state;
    static const char text[] = "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:ptr = arg 1\n%3:i64 = begin\n%4:i64 = end\n"
                               "%5:f32x16 = const 0x0p+0\nfor %6 = %3 to %4 step 4 carry %7:f32x16 = %5\n"
                               "%8:f32x16 = load %1, %6, 64 align 64\n%9:f32 = load %2, %6, 8 align 4\n"
                               "%10:f32x16 = splat %9\n%11:f32x16 = fma %8, %10, %7\nyield %11\nend -> %12\n"
                               "store %12, %1, %3, 0 align 64\nend\n";
    char *code = assembly(text, "x86-64-v4");
    expect_line_with(code, "vfmadd", "{1to16}");
    expect_not_in(code, "call");
    free(code);
    code = assembly(text, "x86-64"); /* two roundings where the class has no fma */
    expect_in(code, "mulps");
    expect_in(code, "addps");
    free(code);
}

static void nothing_is_contracted(void **state) {
    (void)state;
    static const char text[] =
        "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:i64 = begin\n%3:f32x16 = load %1, %2, 0 align 64\n"
        "%4:f32x16 = fmul %3, %3\n%5:f32x16 = fadd %4, %3\nstore %5, %1, %2, 0 align 64\nend\n";
    for (size_t k = 0; target_name(k); k++) {
        char *code = assembly(text, target_name(k));
        expect_not_in(code, "fmadd");
        free(code);
    }
}

static void half_floats_convert_from_memory(void **state) {
    (void)state;
    static const char text[] =
        "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:i64 = begin\n%3:f16x16 = load %1, %2, 0 align 32\n"
        "%4:f32x16 = fpext %3\nstore %4, %1, %2, 0 align 64\nend\n";
    char *code = assembly(text, "x86-64-v4");
    expect_line_with(code, "vcvtph2ps", "(%r");
    free(code);
}

static void minimum_is_one_instruction(void **state) {
    (void)state;
    static const char text[] =
        "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:i64 = begin\n%3:f32x16 = load %1, %2, 0 align 64\n"
        "%4:f32x16 = load %1, %2, 64 align 64\n%5:f32x16 = fmin %3, %4\n"
        "%7:f32x16 = load %1, %2, 128 align 64\n%6:f32x16 = fmax %5, %7\n"
        "store %6, %1, %2, 0 align 64\nend\n";
    char *code = assembly(text, "x86-64-v4");
    expect_in(code, "vminps");
    expect_in(code, "vmaxps");
    expect_not_in(code, "cmp");
    free(code);
}

/* An invariant load of a loop that may not run leaves it; LLVM text shows no pass undid the explicit vectors. */
static void invariant_loads_leave_loops(void **state) {
    (void)state;
    static const char text[] = "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:ptr = arg 1\n%3:i64 = begin\n%4:i64 = end\n"
                               "for %5 = %3 to %4 step 64\n%6:f32x16 = load %1, %3, 0 align 64 inv\n"
                               "%7:f32x16 = load %2, %5, 0 align 64\n%8:f32x16 = fadd %6, %7\n"
                               "store %8, %2, %5, 0 align 64\nend\nend\n";
    char *code = assembly(text, "x86-64-v4");
    const char *loop = strstr(code, "Inner Loop Header");
    assert_non_null(loop);
    int loads = 0;
    for (const char *p = loop; (p = strstr(p, "(%r")) && p < strstr(loop, "\tj"); p++) loads++;
    assert_int_equal(loads, 2); /* vaddps from memory and the store */
    free(code);
}

/* ---- the interface ---- */

static void targets_are_listed_and_found(void **state) {
    (void)state;
    struct err e;
    struct target t;
    assert_false(target_find("pentium", &t, &e));
    assert_non_null(strstr(e.msg, "unknown target `pentium`: expected one of x86-64, x86-64-v3, x86-64-v4, "
                                  "x86-64-v4-vnni, x86-64-v4-bf16, x86-64-v4-amx, native, sm_75, "));
    struct target base = find("x86-64"), native = find("native");
    assert_true(target_runs_here(&base) && target_runs_here(&native));
    assert_int_equal(base.lanes, 4);
    assert_false(base.fma);
    struct target of_class = find(native.class_name);
    assert_int_equal(of_class.lanes, native.lanes);
    assert_int_equal(of_class.fma, native.fma);
    assert_string_equal(of_class.name, native.class_name);
}

static void emit_reports_what_is_wrong(void **state) {
    (void)state;
    struct target t = find("x86-64");
    struct buf out = {0};
    struct err e;
    assert_false(codegen_emit("kgen-ir 1\nfunc @f\n%1:f32 = begin\nend", 36, &t, STAGE_OBJ, NULL, &out, &e));
    assert_string_equal(e.msg, "flat IR, line 3, func @f, begin: the result must be i64, found f32");
    assert_false(codegen_emit("kgen-ir 1", 9, &t, STAGE_OBJ, "sorcery", &out, &e));
    assert_int_equal(e.code, ERR_USAGE);
    buf_free(&out);
}

static void bad_objects_are_refused(void **state) {
    (void)state;
    struct target t = find("native");
    struct buf object = compile(gemv_tile, strlen(gemv_tile), &t, STAGE_OBJ);
    struct code *c;
    struct err e = {0};
    assert_false(code_load("garbage", 7, &c, &e));
    assert_null(c);
    assert_true(strlen(e.msg) > 10);
    for (size_t n = 0; n < 64; n += 7) assert_false(code_load(object.data, n, &c, &e));
    struct code *whole = load(&object);
    assert_non_null(code_symbol(whole, "gemv.0"));
    assert_null(code_symbol(whole, "gemv.1"));
    assert_null(code_symbol(whole, ""));
    code_free(whole);
    code_free(NULL);
    buf_free(&object);
}

static struct buf constant_kernel(int value) {
    struct buf text = {0};
    buf_printf(&text,
               "kgen-ir 1\nfunc @same.name\n%%1:ptr = arg 0\n%%2:i64 = begin\n%%3:i32 = const %d\n"
               "store %%3, %%1, %%2, 0 align 4\nend\n",
               value);
    struct target t = find("native");
    struct buf object = compile(text.data, text.len, &t, STAGE_OBJ);
    buf_free(&text);
    return object;
}

static int32_t run_constant(struct code *c) {
    int32_t out = 0;
    code_symbol(c, "same.name")((void *[]){&out}, NULL, 0, 0, NULL);
    return out;
}

static void equal_names_live_side_by_side(void **state) {
    (void)state;
    enum { N = 20 };
    struct code *c[N];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            struct buf object = constant_kernel(100 * round + i);
            c[i] = load(&object);
            buf_free(&object); /* code does not refer to the object's bytes */
        }
        for (int i = 0; i < N; i++) assert_int_equal(run_constant(c[i]), 100 * round + i);
        for (int i = 0; i < N; i++) code_free(c[i]);
    }
}

/* The second time the object is the cached one, to the letter; another target or text has a key of its own. */
static void objects_come_from_the_cache(void **state) {
    (void)state;
    char dir[] = "/tmp/kgen-test-objects.XXXXXX", command[64];
    assert_non_null(mkdtemp(dir));
    struct cache *cache = cache_open(dir);
    struct target t = find("x86-64"), other = find("x86-64-v3");
    size_t len = strlen(gemv_tile);
    struct buf first = {0}, again = {0}, key = {0}, plain = compile(gemv_tile, len, &t, STAGE_OBJ);
    struct err e;
    buf_puts(&first, "kept");
    assert_true(codegen_object(cache, gemv_tile, len, &t, &first, &e));
    assert_int_equal(first.len, 4 + plain.len);
    assert_memory_equal(first.data + 4, plain.data, plain.len);
    codegen_key(gemv_tile, len, &t, &key);
    assert_true(cache_get(cache, key.data, key.len, &again));
    assert_memory_equal(again.data, plain.data, plain.len);
    cache_put(cache, key.data, key.len, "marked", 6);
    again.len = 0;
    assert_true(codegen_object(cache, gemv_tile, len, &t, &again, &e));
    assert_string_equal(again.data, "marked");
    again.len = 0;
    assert_true(codegen_object(cache, gemv_tile, len, &other, &again, &e));
    assert_true(again.len > 6);
    again.len = 0;
    assert_true(codegen_object(NULL, gemv_tile, len, &t, &again, &e));
    assert_int_equal(again.len, plain.len);
    assert_false(codegen_object(cache, "kgen-ir 2", 9, &t, &again, &e));
    cache_close(cache);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    buf_free(&first);
    buf_free(&again);
    buf_free(&key);
    buf_free(&plain);
}

struct job {
    struct buf object;
    int value;
};

static void *compile_and_run(void *arg) {
    struct job *j = arg;
    struct target t = find("native");
    struct err e;
    if (!codegen_emit(gemv_tile, strlen(gemv_tile), &t, STAGE_OBJ, NULL, &j->object, &e)) return NULL;
    struct buf object = constant_kernel(j->value);
    struct code *c;
    if (!code_load(object.data, object.len, &c, &e)) return NULL;
    int32_t found = run_constant(c);
    code_free(c);
    buf_free(&object);
    return found == j->value ? j : NULL;
}

static void threads_compile_at_once(void **state) {
    (void)state;
    enum { N = 6 };
    pthread_t threads[N];
    struct job jobs[N];
    for (int i = 0; i < N; i++) {
        jobs[i] = (struct job){.value = 7 * i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, compile_and_run, &jobs[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        void *done;
        pthread_join(threads[i], &done);
        assert_ptr_equal(done, &jobs[i]);
        assert_int_equal(jobs[i].object.len, jobs[0].object.len);
        assert_memory_equal(jobs[i].object.data, jobs[0].object.data, jobs[0].object.len);
    }
    for (int i = 0; i < N; i++) buf_free(&jobs[i].object);
}

static void version_names_both_compilers(void **state) {
    (void)state;
    expect_in(codegen_version(), "llvm 22.");
    expect_in(codegen_version(), "codegen ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernel_with_everything_matches_the_interpreter),
        cmocka_unit_test(vnni_takes_the_broadcast_from_memory),
        cmocka_unit_test(pairs_are_one_instruction_where_there_is_one),
        cmocka_unit_test(maddubs_serves_avx2_and_avx512_without_vnni),
        cmocka_unit_test(vnni_has_a_form_without_avx512),
        cmocka_unit_test(llvm_text_is_strict),
        cmocka_unit_test(baseline_uses_nothing_newer),
        cmocka_unit_test(fma_takes_the_broadcast_from_memory),
        cmocka_unit_test(nothing_is_contracted),
        cmocka_unit_test(half_floats_convert_from_memory),
        cmocka_unit_test(minimum_is_one_instruction),
        cmocka_unit_test(invariant_loads_leave_loops),
        cmocka_unit_test(targets_are_listed_and_found),
        cmocka_unit_test(emit_reports_what_is_wrong),
        cmocka_unit_test(bad_objects_are_refused),
        cmocka_unit_test(equal_names_live_side_by_side),
        cmocka_unit_test(objects_come_from_the_cache),
        cmocka_unit_test(threads_compile_at_once),
        cmocka_unit_test(version_names_both_compilers),
    };
    return cmocka_run_group_tests_name("codegen", tests, NULL, NULL);
}
