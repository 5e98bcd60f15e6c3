/* The flat IR: text round trips, what the parser and the verifier reject and how they say it, what operations mean
 * (against values worked out by hand or by the compiler's own arithmetic), and that passes change no result. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codegen/f16.h"
#include "codegen/interp.h"
#include "codegen/ir.h"
#include "codegen/passes.h"
#include "verify/ir_random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct ir_module *parse_ok(const char *text) {
    struct ir_module *m;
    struct err e;
    if (!ir_parse(text, strlen(text), &m, &e)) fail_msg("%s", e.msg);
    if (!ir_verify(m, &e)) fail_msg("%s", e.msg);
    return m;
}

/* ---- round trip ---- */

/* Every piece of syntax once; also the fuzzer's seed. */
static struct buf everything(void) {
    struct buf text = {0};
    struct err e;
    if (!file_read("verify/data/fuzz_ir/everything.ir", &text, &e)) fail_msg("%s", e.msg);
    return text;
}

static void round_trip_is_identity(void **state) {
    (void)state;
    struct buf text = everything(), out = {0};
    struct ir_module *m = parse_ok(text.data);
    ir_print(m, &out);
    assert_string_equal(out.data, text.data);
    buf_free(&text);
    buf_free(&out);
    ir_free(m);
}

/* Comments, blank lines, tabs and missing indentation change nothing. */
static void layout_is_free(void **state) {
    (void)state;
    struct ir_module *m = parse_ok("# first\n\n kgen-ir 1 # header\r\n\tfunc @f\n%1:ptr = arg 0 #x\n\nend");
    struct buf out = {0};
    ir_print(m, &out);
    assert_string_equal(out.data, "kgen-ir 1\nfunc @f\n  %1:ptr = arg 0\nend\n");
    buf_free(&out);
    ir_free(m);
}

struct const_case {
    const char *type, *text, *printed;
};

static void constants_print_canonically(void **state) {
    (void)state;
    static const struct const_case cases[] = {
        {"i8", "255", "-1"},
        {"i8x4", "-128", "-128"},
        {"i1", "1", "1"},
        {"i64", "18446744073709551615", "-1"},
        {"f32", "0x0p+0", "0x0p+0"},
        {"f32", "-0x0p+0", "-0x0p+0"},
        {"f32", "0x10p0", "0x1p+4"},
        {"f32", "0x.8p+1", "0x1p+0"},
        {"f32", "0x1p-149", "0x1p-149"},
        {"f32", "0x1p-150", "0x0p+0"}, /* a tie, to even */
        {"f32", "0x1.8p-150", "0x1p-149"},
        {"f32", "0x1.000001p+0", "0x1p+0"},
        {"f32", "0x1.0000011p+0", "0x1.000002p+0"},
        {"f32", "0x1.000003p+0", "0x1.000004p+0"},
        {"f32", "0x1.fffffep+127", "0x1.fffffep+127"},
        {"f32", "0x1.00000000000000000000000000001p+0", "0x1p+0"},
        {"f32", "0x1.00000100000000000000000000001p+0", "0x1.000002p+0"},
        {"f32", "-inf", "-inf"},
        {"f32", "nan", "nan"},
        {"f32", "-nan", "-nan"},
        {"f16", "0x1.ffcp+15", "0x1.ffcp+15"},
        {"f16", "0x1p-24", "0x1p-24"},
        {"f16", "0x1.002p+0", "0x1p+0"},
        {"f16", "0x1.006p+0", "0x1.008p+0"},
        {"f16", "inf", "inf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char in[256], want[256];
        snprintf(in, sizeof in, "kgen-ir 1\nfunc @f\n  %%1:%s = const %s\nend\n", cases[i].type, cases[i].text);
        snprintf(want, sizeof want, "kgen-ir 1\nfunc @f\n  %%1:%s = const %s\nend\n", cases[i].type, cases[i].printed);
        struct ir_module *m = parse_ok(in);
        struct buf out = {0};
        ir_print(m, &out);
        assert_string_equal(out.data, want);
        buf_free(&out);
        ir_free(m);
    }
}

/* The constant's reader against C's. */
static void float_constants_round_as_strtof(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        char digits[64], text[160];
        int e = (int)(seed >> 40) % 290 - 160;
        snprintf(digits, sizeof digits, "0x1.%013llxp%+d", (unsigned long long)(seed >> 12), e);
        float want = strtof(digits, NULL);
        if (isinf(want)) continue;
        snprintf(text, sizeof text, "kgen-ir 1\nfunc @f\n%%1:f32 = const %s\nend", digits);
        struct ir_module *m = parse_ok(text);
        if ((uint32_t)m->first->body->first->imm != f32_bits(want)) fail_msg("%s", digits);
        ir_free(m);
    }
}

/* ---- rejections ---- */

struct bad_case {
    const char *body;     /* of func @f, after the common definitions */
    const char *expected; /* a part of the message */
};

/* Line 3 on: %1 ptr, %2 i64, %3 i32x4, %4 f32x4, %5 i1x4, %6 f16x4, %7 i1, %8 f32; the body starts on line 11. */
static const char common[] = "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:i64 = begin\n%3:i32x4 = const 1\n"
                             "%4:f32x4 = const 0x1p+0\n%5:i1x4 = const 1\n%6:f16x4 = const 0x1p+0\n%7:i1 = const 0\n"
                             "%8:f32 = const 0x1p+0\n";

static const struct bad_case bad[] = {
    /* syntax */
    {"%9:i32x4 = frobnicate %3", "line 11: expected an operation, found `frobnicate %3`"},
    {"%9:i32x4 = add %3, %3 %3", "expected the end of the line, found `%3`"},
    {"%9:i32x4 = add %3", "expected `,`, found the end of the line"},
    {"%9:i32x3 = add %3, %3", "expected a type"},
    {"%9:i32x256 = add %3, %3", "expected a type"},
    {"%9:i32x1 = add %3, %3", "expected a type"},
    {"%9:ptrx2 = add %3, %3", "expected a type"},
    {"%9:i33 = add %3, %3", "expected a type"},
    {"%0:i64 = begin", "from 1 to"},
    {"%99999999999999999999999:i64 = begin", "from 1 to"},
    {"%9x:i64 = begin", "expected the number of a value name"},
    {"add %3, %3", "`add` needs a result"},
    {"%9:i32x4 = store %3, %1, %2, 0 align 4", "`store` has no result"},
    {"%9:i32x4 = for %3", "`for` has no result"},
    {"%9:i8 = const 256", "from -128 to 255, found 256"},
    {"%9:i8 = const -129", "found -129"},
    {"%9:i1 = const 2", "from -1 to 1"},
    {"%9:i64 = const 18446744073709551616", "found 18446744073709551616"},
    {"%9:i32 = const 0x10", "expected an integer constant"},
    {"%9:i32 = const", "found the end of the line"},
    {"%9:f32 = const 1.5", "expected a hexadecimal float"},
    {"%9:f32 = const 0x1.8", "expected a hexadecimal float"},
    {"%9:f32 = const 0xp+1", "expected a hexadecimal float"},
    {"%9:f32 = const 0x1p+128", "does not fit its type"},
    {"%9:f32 = const 0x1.ffffffp+127", "does not fit its type"},
    {"%9:f16 = const 0x1p+16", "does not fit its type"},
    {"%9:f32 = const 0x1p+999999999", "exponent"},
    {"%9:ptr = const 0", "const cannot be a ptr"},
    {"%9:ptr = arg 1024", "from 0 to 1023"},
    {"%9:ptr = arg -1", "from 0 to 1023"},
    {"%9:f32x4 = load %1, %2, 0 align 3", "power of two, found 3"},
    {"%9:f32x4 = load %1, %2, 0 align 0", "from 1 to 4096"},
    {"%9:f32x4 = load %1, %2, 0 align 8192", "from 1 to 4096"},
    {"%9:f32x4 = load %1, %2, 0", "expected `align`"},
    {"%9:f32x4 = load %1, %2, 999999999999999 align 4", "the constant offset"},
    {"%9:f32x4 = load %1, %2, 0 align 4 invariant", "expected the end of the line, found `invariant`"},
    {"store %4, %1, %2, 0 align 4 inv", "expected the end of the line, found `inv`"},
    {"%9:ptr = stack 0 align 16", "from 1 to 1048576"},
    {"%9:i32x4 = dot4 %3, %3, %3 umax=256", "from 1 to 255"},
    {"%9:i32x4 = dot4 %3, %3, %3 umax=0", "from 1 to 255"},
    {"%9:i32x4 = dot4 %3, %3, %3", "expected `umax`"},
    {"%9:i32x4 = mma %3, %3, %3 m8n8k4.f64", "expected a shape such as m16n8k32.u8s8, found `m8n8k4.f64`"},
    {"tiledot %1, %2, %1, %2, %1, %2 m16n16k8.s8u8 stride 64",
     "expected a shape such as m16n16k32.s8u8, found `m16n16k8"},
    {"tiledot %1, %2, %1, %2, %1, %2 m16n16k32.s8u8", "expected `stride`"},
    {"tiledot %1, %2, %1, %2, %1, %2 m16n16k32.s8u8 stride 0", "the stride of the rows must be from 1 to 16777216"},
    {"%9:i32 = tiledot %1, %2, %1, %2, %1, %2 m16n16k32.s8u8 stride 64", "`tiledot` has no result"},
    {"%9:i32x4 = shuffle %3, 0 1 2", "expected a lane number"},
    {"%9:i32x4 = shuffle %3, 0 1 2 128", "from 0 to 127"},
    {"%9:i32 = shuffle %3, 0", "must be a vector"},
    {"for %9 = %2 to %2 step 0\nend", "the step must be from 1"},
    {"for %9 = %2 to %2 step -1\nend", "the step must be from 1"},
    {"for %9 = %2 to %2\nend", "expected `step`"},
    {"for %9 = %2 to %2 step 1 carry\nend", "expected a value name"},
    {"for %9 = %2 to %2 step 1", "line 11: expected `end`, found the end of the text"},
    {"yield %2", "yield belongs at the end of a for with carries"},
    {"for %9 = %2 to %2 step 1\nyield %2\nend", "yield belongs"},
    {"for %9 = %2 to %2 step 1 carry %10:i64 = %2\nend -> %11", "must end in yield"},
    {"for %9 = %2 to %2 step 1 carry %10:i64 = %2\nyield %2\nend", "line 13: expected `-`"},
    {"for %9 = %2 to %2 step 1 carry %10:i64 = %2\nyield %2\nend -> %11, %12", "expected the end of the line"},
    {"for %9 = %2 to %2 step 1 carry %10:i64 = %2\nyield %2, %2\nend -> %11", "expected the end of the line"},
    {"for %9 = %2 to %2 step 1 carry %10:i64 = %2\nyield %2\n%11:i64 = begin\nend", "expected `end` after yield"},
    {"for %9 = %2 to %2 step 1\nend -> %10", "expected the end of the line"},
    {"if %7\nyield %2\nend", "yield belongs"},
    /* names and scopes */
    {"%3:i64 = begin", "%3 is defined twice"},
    {"%9:i32x4 = add %3, %10", "%10 is not defined before its use"},
    {"%9:i32x4 = add %3, %9", "%9 is not defined before its use"},
    {"if %7\n%9:i64 = begin\nend\n%10:i64 = add %9, %9", "line 14: %9 is not visible here: its block has ended"},
    {"for %9 = %2 to %2 step 1\nend\n%10:i64 = add %9, %9", "%9 is not visible here"},
    {"for %9 = %2 to %2 step 1\nend\nfor %9 = %2 to %2 step 1\nend", "%9 is defined twice"},
    {"for %9 = %2 to %9 step 1\nend", "%9 is not defined before its use"},
    {"for %9 = %2 to %2 step 1 carry %10:i64 = %9\nyield %9\nend -> %11", "%9 is not defined before its use"},
    /* types */
    {"%9:i64 = arg 0", "line 11, func @f, arg: the result must be ptr, found i64"},
    {"%9:i32 = dim 0", "the result must be i64, found i32"},
    {"%9:f32x4 = iota", "the result must be a vector of i8"},
    {"%9:i32 = iota", "the result must be a vector"},
    {"%9:i32x4 = splat %8", "operand 1 must be i32, found f32"},
    {"%9:f32 = splat %8", "the result must be a vector"},
    {"%9:f32 = extract %4, 4", "lanes 4 to 4 are not in a vector of 4"},
    {"%9:f32 = extract %3, 0", "operand 1 must be a longer vector"},
    {"%9:f32x2 = extract %4, 0", "the result must be a scalar"},
    {"%9:f32x2 = slice %4, 3", "lanes 3 to 4 are not in a vector of 4"},
    {"%9:f32x4 = slice %4, 0", "operand 1 must be a longer vector"},
    {"%9:f32x4 = concat %4, %4", "operand 1 must be f32x2, found f32x4"},
    {"%9:f32x8 = concat %4, %3", "operand 2 must be f32x4, found i32x4"},
    {"%9:i32x2 = shuffle %3, 0 4", "lane number 4 is not in a vector of 4"},
    {"%9:f32x2 = shuffle %3, 0 1", "operand 1 must be a vector of the result's lane type"},
    {"%9:f32x4 = add %4, %4", "the result must be i8, i16, i32 or i64"},
    {"%9:i1x4 = add %5, %5", "the result must be i8, i16, i32 or i64"},
    {"%9:f32x4 = and %4, %4", "the result must be an integer"},
    {"%9:i32x4 = add %3, %4", "operand 2 must be i32x4, found f32x4"},
    {"%9:i32x4 = ieq %3, %3", "the result must be i1 of the operands' lanes"},
    {"%9:i1 = ieq %3, %3", "the result must be i1 of the operands' lanes"},
    {"%9:i1x4 = ieq %4, %4", "operand 1 must be an integer"},
    {"%9:i1x4 = feq %3, %3", "operand 1 must be f32"},
    {"%9:i1 = ieq %1, %1", "operand 1 must be an integer"},
    {"%9:i32x4 = select %3, %3, %3", "operand 1 must be i1"},
    {"%9:f32 = select %5, %8, %8", "operand 1 must be i1"},
    {"%9:i32x4 = select %5, %3, %4", "operand 3 must be i32x4"},
    {"%9:f16x4 = fadd %6, %6", "the result must be f32 (f16 is converted, never computed with)"},
    {"%9:i32x4 = fadd %3, %3", "the result must be f32"},
    {"%9:f32x4 = fma %4, %4, %8", "operand 3 must be f32x4, found f32"},
    {"%9:f32x4 = fpext %4", "operand 1 must be f16x4"},
    {"%9:f16x4 = fpext %6", "the result must be f32"},
    {"%9:f16x4 = fptrunc %3", "operand 1 must be f32x4"},
    {"%9:f32x4 = sitofp %2", "operand 1 must be i32x4"},
    {"%9:i64 = fptosi %8", "the result must be i32"},
    {"%9:i16x4 = zext %3", "operand 1 must be narrower"},
    {"%9:i32x4 = sext %3", "operand 1 must be narrower"},
    {"%9:i64x4 = trunc %3", "operand 1 must be wider"},
    {"%9:i64 = zext %3", "operand 1 must be an integer of the result's lanes"},
    {"%9:i64 = bitcast %1", "ptr cannot be cast"},
    {"%9:i64 = bitcast %3", "of as many bits"},
    {"%9:i32 = dot4 %3, %3, %3 umax=1", "the result must be a vector of i32"},
    {"%9:f32x4 = dot4 %4, %4, %4 umax=1", "the result must be a vector of i32"},
    {"%9:f32x4 = hsum %4", "the result must be a scalar number"},
    {"%9:i1 = hmax %5", "the result must be a scalar number"},
    {"%9:f32 = hsum %8", "operand 1 must be a vector"},
    {"%9:f32x4 = load %2, %2, 0 align 4", "operand 1 must be ptr, found i64"},
    {"%9:f32x4 = load %1, %3, 0 align 4", "operand 2 must be i64, found i32x4"},
    {"%9:i1x4 = load %1, %2, 0 align 4", "i1 has no form in memory"},
    {"store %5, %1, %2, 0 align 4", "i1 has no form in memory"},
    {"%9:i32x4 = mma %3, %3, %3 m16n8k32.u8s8", "the result must be the shape's accumulators, found i32x4"},
    {"%9:f32x128 = const 0x0p+0\n%10:f32x128 = mma %9, %3, %3 m16n8k16.f16", "operand 2 must be i32x128, found i32x4"},
    {"%9:i32x128 = const 0\n%10:i32x128 = mma %9, %9, %9 m16n8k16.u8s8", "operand 2 must be i32x64, found i32x128"},
    {"tiledot %1, %2, %1, %2, %2, %2 m16n16k32.s8u8 stride 64", "operand 5 must be ptr, found i64"},
    {"tiledot %1, %2, %1, %7, %1, %2 m16n16k32.s8u8 stride 64", "operand 4 must be i64, found i1"},
    {"tiledot %1, %2, %1, %2, %1, %2 m16n16k32.s8u8 stride 28", "a multiple of 4 from 32 to 16777216, found 28"},
    {"tiledot %1, %2, %1, %2, %1, %2 m16n16k32.s8u8 stride 34", "a multiple of 4 from 32 to 16777216, found 34"},
    {"%9:i32x4 = pair_f16 %4, %3", "operand 2 must be f32x4, found i32x4"},
    {"%9:f32x4 = pair_bf16 %4, %4", "the result must be i32"},
    {"%9:i32x4 = ldmatrix %1, %2, %3, 0 align 16", "the result must be i32x32, i32x64 or i32x128, found i32x4"},
    {"%9:i32x64 = ldmatrix_t %1, %2, %3, 0 align 16", "operand 3 must be i32x32, found i32x4"},
    {"copy %1, %2, %1, %2, %8, 4 rows 64 stride 64", "operand 5 must be i64, found f32"},
    {"copy %1, %2, %1, %2, %2, 4 rows 48 stride 64", "rows are a power of two of bytes from 16 to 4096"},
    {"copy %1, %2, %1, %2, %2, 4 rows 64 stride 24", "a multiple of 16 apart"},
    {"copy %1, %2, %1, %2, %2, 4 rows 8 stride 64", "the bytes of a row"},
    {"%9:i64 = wait 0", "`wait` has no result"},
    {"%9:i64 = prefetch %1, %2, 0 align 1", "`prefetch` has no result"},
    {"prefetch %2, %2, 0 align 1", "operand 1 must be ptr, found i64"},
    {"prefetch %1, %8, 0 align 1", "operand 2 must be i64, found f32"},
    {"%9:f32x4 = gather %1, %2, %4, 0 align 4", "operand 3 must be i32x4, found f32x4"},
    {"%9:f32 = gather %1, %2, %3, 0 align 4", "the result must be a vector, found f32"},
    {"%9:i1x4 = gather %1, %2, %3, 0 align 4", "i1 has no form in memory"},
    {"scatter %4, %3, %1, %2, %3, 0 align 4", "operand 2 must be i1x4"},
    {"scatter %4, %5, %1, %2, %4, 0 align 4", "operand 5 must be i32x4"},
    {"scatter %8, %5, %1, %2, %3, 0 align 4", "operand 1 must be a vector"},
    {"storem %8, %7, %1, %2, 0 align 4", "operand 1 must be a vector"},
    {"storem %4, %3, %1, %2, 0 align 4", "operand 2 must be i1x4"},
    {"for %9 = %8 to %2 step 1\nend", "operand 1 must be i64"},
    {"for %9 = %2 to %2 step 1 carry %10:f32 = %2\nyield %8\nend -> %11", "operand 3 must be f32, found i64"},
    {"for %9 = %2 to %2 step 1 carry %10:f32 = %8\nyield %2\nend -> %11", "yield: operand 1 must be f32, found i64"},
    {"if %2\nend", "operand 1 must be i1, found i64"},
    {"%9:ptr = stack 1048576 align 64\n%10:ptr = stack 1 align 1", "from 1 to 1048576 bytes in all"},
    {"for %9 = %2 to %2 step 1 split 3\nend", "the parts must be a power of two up to 1024, found 3"},
    {"for %9 = %2 to %2 step 1 split 2048\nend", "the number of parts"},
    {"for %9 = %2 to %2 step 1 split 2\nfor %10 = %2 to %2 step 1 split 2\nend\nend",
     "stands inside another (line 11)"},
    {"for %9 = %2 to %2 step 1 split 2 carry %10:f32 = %8\nyield %10\nend -> %11",
     "a split for with carries needs a merge"},
    {"for %9 = %2 to %2 step 1 split 2 carry %10:f32 = %8\nyield %10\nmerge %11, %12\nend -> %13", "must end in yield"},
    {"for %9 = %2 to %2 step 1 split 2 carry %10:f32 = %8\nyield %10\nmerge %11, %12\nyield %10\nend -> %13",
     "%10 is not visible here"},
    {"for %9 = %2 to %2 step 1 split 2 carry %10:f32 = %8\nyield %10\nmerge %11, %12\nyield %2\nend -> %13",
     "operand 1 must be f32, found i64"},
    {"for %9 = %2 to %2 step 1 carry %10:f32 = %8\nyield %10\nmerge %11, %12\nyield %11\nend -> %13",
     "merge follows the yield of a split for with carries"},
    {"merge %9, %10", "merge follows the yield"},
    {"%9:i32x4 = load %1, %2, 0 align 4 stride 2", "a stride of 2 needs lanes, and none that overlap"},
    {"%9:i32 = load %1, %2, 0 align 4 stride 8", "a stride of 8 needs lanes"},
    {"%9:ptr = stack 1048576 align 64\n%10:ptr = shared 1 align 1", "from 1 to 1048576 bytes in all"},
    {"end\nfunc @f", "func @f is defined twice"},
    {"end\nfunc f", "expected `@`"},
    {"end\nfunc @", "expected a function name"},
    {"end\nfunc @1a", "expected a function name"},
    {"end\nend", "line 12: expected `func`"},
};

static void bad_programs_are_rejected(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf text = {0};
        buf_printf(&text, "%s%s\nend\n", common, bad[i].body);
        if (strstr(bad[i].expected, "end of the text")) text.len -= 4;
        struct ir_module *m;
        struct err e = {0};
        bool ok = ir_parse(text.data, text.len, &m, &e) && ir_verify(m, &e);
        ir_free(m);
        if (ok) fail_msg("accepted: %s", bad[i].body);
        if (!strstr(e.msg, bad[i].expected))
            fail_msg("%s\n  expected: %s\n  found: %s", bad[i].body, bad[i].expected, e.msg);
        buf_free(&text);
    }
}

static void expect_parse_error(const char *text, size_t len, const char *expected) {
    struct ir_module *m;
    struct err e = {0};
    assert_false(ir_parse(text, len, &m, &e));
    assert_null(m);
    if (!strstr(e.msg, expected)) fail_msg("expected: %s\n  found: %s", expected, e.msg);
}

static void header_is_required(void **state) {
    (void)state;
    expect_parse_error("", 0, "found an empty text");
    expect_parse_error("kgen-ir 2\n", 10, "expected `kgen-ir 1`, found `2`");
    expect_parse_error("\0\0\0", 3, "expected `kgen-ir 1`");
    expect_parse_error("func @f\nend\n", 12, "expected `kgen-ir 1`");
}

static void sizes_are_bounded(void **state) {
    (void)state;
    struct buf b = {0};
    buf_puts(&b, "kgen-ir 1\nfunc @f\n%1:i1 = const 1\n");
    for (int i = 0; i < IR_MAX_DEPTH + 1; i++) buf_puts(&b, "if %1\n");
    expect_parse_error(b.data, b.len, "blocks nest deeper than 64");
    b.len = 0;
    buf_puts(&b, "kgen-ir 1\nfunc @f\n%1:i1 = const 1\n");
    for (int i = 0; i < IR_MAX_OPS / 2; i++) buf_puts(&b, "if %1\nend\n");
    buf_puts(&b, "end\nfunc @g\n%1:i1 = const 1\n");
    for (int i = 0; i < IR_MAX_OPS / 2; i++) buf_puts(&b, "if %1\nend\n");
    expect_parse_error(b.data, b.len, "more than 262144 operations");
    b.len = 0;
    buf_puts(&b, "kgen-ir 1\nfunc @f\n%1:i64 = begin\nfor %2 = %1 to %1 step 1 carry ");
    for (int i = 0; i < IR_MAX_CARRIES + 1; i++) buf_printf(&b, "%s%%%d:i64 = %%1", i ? ", " : "", i + 3);
    expect_parse_error(b.data, b.len, "more than 512 carries");
    b.len = 0;
    buf_puts(&b, "kgen-ir 1\n");
    for (int i = 0; i <= IR_MAX_FUNCS; i++) buf_printf(&b, "func @f%d\nend\n", i);
    expect_parse_error(b.data, b.len, "more than 4096 functions");
    b.len = 0;
    buf_puts(&b, "kgen-ir 1\nfunc @");
    for (int i = 0; i < 201; i++) buf_puts(&b, "a");
    expect_parse_error(b.data, b.len, "expected a function name");
    buf_free(&b);
}

/* Every prefix, and every byte replaced: no crash, and what parses prints and parses to the same bytes. */
static void mangled_text_is_harmless(void **state) {
    (void)state;
    static const char bytes[] = {0, '%', '9', ' ', ',', 'x', '\n', (char)0xff};
    struct buf text = everything();
    size_t n = text.len;
    char *copy = mem_new(n);
    for (size_t i = 0; i < n * (sizeof bytes + 1); i++) {
        size_t at = i / (sizeof bytes + 1), how = i % (sizeof bytes + 1), len = how == sizeof bytes ? at : n;
        memcpy(copy, text.data, n);
        if (how < sizeof bytes) copy[at] = bytes[how];
        struct ir_module *m;
        struct err e = {0};
        if (ir_parse(copy, len, &m, &e)) {
            struct buf once = {0}, twice = {0};
            ir_print(m, &once);
            ir_verify(m, &e);
            ir_free(m);
            assert_true(ir_parse(once.data, once.len, &m, &e));
            ir_print(m, &twice);
            assert_string_equal(once.data, twice.data);
            ir_free(m);
            buf_free(&once);
            buf_free(&twice);
        } else {
            assert_int_equal(e.code, ERR_INPUT);
        }
    }
    mem_free(copy);
    buf_free(&text);
}

/* ---- meaning ---- */

struct meaning_case {
    const char *body; /* ends in a definition of %9 */
    const char *type; /* of %9, a scalar */
    uint64_t expected;
};

static const struct meaning_case meanings[] = {
    {"%1:i8 = const 200\n%2:i8 = const 100\n%9:i8 = add %1, %2", "i8", 44},
    {"%1:i8 = const 16\n%9:i8 = mul %1, %1", "i8", 0},
    {"%1:i16 = const -8\n%2:i16 = const 1\n%9:i16 = ashr %1, %2", "i16", 0xfffc},
    {"%1:i16 = const -8\n%2:i16 = const 1\n%9:i16 = lshr %1, %2", "i16", 0x7ffc},
    {"%1:i32 = const -1\n%2:i32 = const 10\n%9:i32 = udiv %1, %2", "i32", 429496729},
    {"%1:i32 = const -1\n%2:i32 = const 10\n%9:i32 = urem %1, %2", "i32", 5},
    {"%1:i32 = const -1\n%2:i32 = const 10\n%9:i32 = smin %1, %2", "i32", 0xffffffff},
    {"%1:i32 = const -1\n%2:i32 = const 10\n%9:i32 = smax %1, %2", "i32", 10},
    {"%1:f32 = const nan\n%2:f32 = const 0x1p+0\n%9:f32 = fmin %1, %2", "f32", 0x3f800000},
    {"%1:f32 = const nan\n%2:f32 = const 0x1p+0\n%9:f32 = fmax %2, %1", "f32", 0x7fc00000},
    {"%1:f32 = const 0x0p+0\n%2:f32 = const -0x0p+0\n%9:f32 = fmax %1, %2", "f32", 0x80000000},
    {"%1:f32 = const 0x1.4p+1\n%9:f32 = frint %1", "f32", 0x40000000}, /* 2.5 -> 2 */
    {"%1:f32 = const -0x1p-2\n%9:f32 = frint %1", "f32", 0x80000000},
    {"%1:f32 = const -0x1.8p+0\n%9:i32 = fptosi %1", "i32", 0xffffffff},
    {"%1:i32x8 = iota\n%9:i32 = hsum %1", "i32", 28},
    {"%1:i8x8 = iota\n%9:i8 = hmax %1", "i8", 7},
    {"%1:i32x8 = iota\n%2:i32x4 = slice %1, 3\n%9:i32 = extract %2, 2", "i32", 5},
    {"%1:i32x4 = iota\n%2:i32x8 = concat %1, %1\n%9:i32 = extract %2, 6", "i32", 2},
    {"%1:i32x4 = iota\n%2:i32x2 = shuffle %1, 3 1\n%9:i32 = extract %2, 0", "i32", 3},
    {"%1:i8x4 = iota\n%9:i32 = bitcast %1", "i32", 0x03020100},
    {"%1:i8x8 = iota\n%2:i8x8 = const 4\n%3:i1x8 = ilt %1, %2\n%9:i8 = bitcast %3", "i8", 0x0f},
    {"%1:i1 = const 1\n%9:i32 = sext %1", "i32", 0xffffffff},
    {"%1:i32 = const 258\n%9:i8 = trunc %1", "i8", 2},
    {"%1:f32 = const 0x1.ffep+15\n%9:f16 = fptrunc %1", "f16", 0x7c00}, /* 65520 is a tie with infinity */
    {"%1:f16 = const 0x1p-24\n%9:f32 = fpext %1", "f32", 0x33800000},
    /* 1*1 + 2*(-1) + 3*2 + 255*(-127) + 10 */
    {"%1:i32x2 = const 10\n%2:i32x2 = const -16580095\n%3:i32x2 = const -2130510079\n"
     "%4:i32x2 = dot4 %1, %2, %3 umax=255\n%9:i32 = extract %4, 1",
     "i32", (uint32_t)(10 + 1 - 2 + 6 - 255 * 127)},
    /* 0 … 9 in four parts: 0+4+8, 1+5+9, 2+6, 3+7; neighbours merged as 100 l + r, then those */
    {"%1:i64 = const 0\n%2:i64 = const 10\n%3:i64 = const 100\nfor %4 = %1 to %2 step 1 split 4 carry %5:i64 = %1\n"
     "%6:i64 = add %5, %4\nyield %6\nmerge %7, %8\n%10:i64 = mul %7, %3\n%11:i64 = add %10, %8\nyield %11\nend -> %9",
     "i64", 121500 + 810},
    {"%1:ptr = shared 32 align 4\n%2:i64 = const 0\n%3:i64 = const 4\n%4:i32x4 = iota\n"
     "for %5 = %2 to %3 step 1 split 8\n%6:i64 = mul %5, %3\n%7:i32 = trunc %5\nstore %7, %1, %6, 0 align 4\nend\n"
     "%8:i32x2 = load %1, %2, 4 align 4 stride 8\n%9:i32 = hsum %8",
     "i32", 4},
    /* A's words are their lanes' numbers, B's are 1: row 9, column 5 of C is lane 102; row 9 of A is the lanes 36 to 39
     * and 100 to 103. */
    {"%1:i32x128 = iota\n%5:i32x64 = const 1\n"
     "%6:i32x128 = const 100\n%7:i32x128 = mma %6, %1, %5 m16n8k32.u8s8\n%9:i32 = extract %7, 102",
     "i32", 100 + 36 + 37 + 38 + 39 + 100 + 101 + 102 + 103},
    /* A's words are (-1, 0, 0, 0), B's are 5 + their lane's number: column 3 of C is 4 times -8. */
    {"%1:ptr = stack 1024 align 64\n%2:ptr = stack 256 align 64\n%3:ptr = stack 256 align 64\n%4:i64 = const 0\n"
     "%5:i64 = const 256\n%10:i64 = const 64\n%6:i32x16 = const 255\n%7:i32x16 = iota\n%8:i32x16 = const 5\n"
     "%11:i32x16 = add %7, %8\nfor %12 = %4 to %5 step 64\nstore %6, %2, %12, 0 align 64\n"
     "store %11, %3, %12, 0 align 64\nend\ntiledot %1, %4, %2, %4, %3, %4 m16n16k16.s8u8 stride 16\n"
     "%9:i32 = load %1, %10, 844 align 4",
     "i32", (uint32_t)-32},
    /* the same with B's bytes 255: -1 where they are signed */
    {"%1:ptr = stack 1024 align 64\n%2:ptr = stack 256 align 64\n%4:i64 = const 0\n%5:i64 = const 256\n"
     "%10:i64 = const 64\n%6:i32x16 = const -1\nfor %12 = %4 to %5 step 64\nstore %6, %2, %12, 0 align 64\nend\n"
     "tiledot %1, %4, %2, %4, %2, %4 m16n16k16.s8s8 stride 16\n%7:i32 = load %1, %10, 844 align 4\n"
     "tiledot %1, %4, %2, %4, %2, %4 m16n16k16.s8u8 stride 16\n%8:i32 = load %1, %10, 844 align 4\n%9:i32 = sub %7, %8",
     "i32", 16 + 16 * 255},
};

static uint64_t run_meaning(const struct meaning_case *c, bool optimized) {
    struct buf text = {0};
    buf_printf(&text,
               "kgen-ir 1\nfunc @f\n%s\n%%90:ptr = arg 0\n%%91:i64 = const 0\nstore %%9, %%90, %%91, 0 align 1\nend\n",
               c->body);
    struct ir_module *m = parse_ok(text.data);
    if (optimized) passes_run(m->first, NULL, NULL);
    uint64_t out = 0;
    struct err e;
    if (!ir_run(m->first, (void *[]){&out}, NULL, 0, 0, NULL, true, &e)) fail_msg("%s", e.msg);
    ir_free(m);
    buf_free(&text);
    return out;
}

static void operations_mean_what_the_page_says(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++)
        for (int optimized = 0; optimized < 2; optimized++) {
            uint64_t found = run_meaning(&meanings[i], optimized);
            if (found != meanings[i].expected)
                fail_msg("%s\n  expected %llx, found %llx", meanings[i].body, (unsigned long long)meanings[i].expected,
                         (unsigned long long)found);
        }
}

static void fma_rounds_once_or_twice(void **state) {
    (void)state;
    /* (1 + 2^-12)^2 - 1 - 2^-11 is 2^-24 when fused and 0 when the product is rounded first. */
    struct ir_module *m = parse_ok("kgen-ir 1\nfunc @f\n%1:f32 = const 0x1.001p+0\n%2:f32 = const -0x1.002p+0\n"
                                   "%3:f32 = fma %1, %1, %2\n%4:ptr = arg 0\n%5:i64 = const 0\n"
                                   "store %3, %4, %5, 0 align 4\nend\n");
    float out;
    struct err e;
    assert_true(ir_run(m->first, (void *[]){&out}, NULL, 0, 0, NULL, true, &e));
    assert_true(out == 0x1p-24f);
    assert_true(ir_run(m->first, (void *[]){&out}, NULL, 0, 0, NULL, false, &e));
    assert_true(out == 0);
    ir_free(m);
}

static void loops_carry_swap_and_skip(void **state) {
    (void)state;
    /* Fibonacci by swapping carries; a loop without a trip gives its inits; an if that is not taken stores nothing. */
    struct ir_module *m =
        parse_ok("kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:i64 = const 0\n%3:i64 = const 1\n%4:i64 = dim 0\n"
                 "for %5 = %2 to %4 step 2 carry %6:i64 = %2, %7:i64 = %3\n"
                 "%8:i64 = add %6, %7\nyield %7, %8\nend -> %9, %10\n"
                 "store %9, %1, %2, 0 align 8\nstore %10, %1, %2, 8 align 8\n"
                 "%11:i64 = begin\n%12:i64 = end\n%13:i1 = ilt %11, %12\nif %13\n"
                 "store %11, %1, %2, 16 align 8\nend\nend\n");
    int64_t out[3] = {-1, -1, -1}, n = 19;
    struct err e;
    assert_true(ir_run(m->first, (void *[]){out}, &n, 5, 5, NULL, true, &e));
    assert_int_equal(out[0], 55);
    assert_int_equal(out[1], 89);
    assert_int_equal(out[2], -1);
    n = 0;
    assert_true(ir_run(m->first, (void *[]){out}, &n, 5, 6, NULL, true, &e));
    assert_int_equal(out[0], 0);
    assert_int_equal(out[1], 1);
    assert_int_equal(out[2], 5);
    ir_free(m);
}

static void broken_promises_are_named(void **state) {
    (void)state;
    static const struct bad_case cases[] = {
        {"%9:i32 = const 32\n%10:i32 = shl %9, %9", "line 4, func @f, shl: shift by 32 of 32 bits"},
        {"%9:i32 = const 0\n%10:i32 = udiv %9, %9", "the divisor is zero"},
        {"%9:i32x4 = const 2\n%10:i32x4 = dot4 %9, %9, %9 umax=1", "a byte of u is 2, umax is 1"},
        {"%9:i32x4 = const 128\n%10:i32x4 = dot4 %9, %9, %9 umax=255", "a byte of s is -128"},
        {"%9:f32 = const 0x1p+31\n%10:i32 = fptosi %9", "2.14748e+09 is not an i32"},
        {"%9:f32 = const nan\n%10:f32 = frint %9", "is not below 2^22"},
        {"%9:i32x128 = const 128\n%10:i32x64 = const 128\n%11:i32x128 = mma %9, %9, %10 m16n8k32.u8s8",
         "a byte of b is -128"},
        {"%9:ptr = stack 1024 align 64\n%10:i64 = const 0\n%11:i32x4 = const 128\n%12:ptr = arg 0\n"
         "store %11, %12, %10, 0 align 16\ntiledot %9, %10, %12, %10, %9, %10 m16n16k16.s8u8 stride 16",
         "a byte of A is -128"},
        {"%9:ptr = arg 0\n%10:i64 = const 0\n%11:i64 = const 32\n"
         "tiledot %9, %10, %9, %10, %9, %11 m16n16k16.s8u8 stride 16",
         "0 is not aligned to 64"},
        {"%9:ptr = arg 0\n%10:i64 = const 0\n%11:i32x4 = iota\n%12:i8x4 = gather %9, %10, %11, 0 align 2",
         "lane 1's address"},
        {"%9:ptr = arg 0\n%10:i64 = const 0\n%11:ptr = stack 64 align 16\n"
         "copy %11, %10, %9, %10, %10, 1 rows 16 stride 16\ncopy %11, %10, %9, %10, %10, 2 rows 16 stride 16\nwait 1",
         "line 7, func @f, copy: nothing waits for it"},
        {"%9:ptr = arg 0\n%10:i64 = const 8\n%11:ptr = stack 64 align 16\n"
         "copy %11, %10, %9, %10, %10, 1 rows 16 stride 16",
         "copy: an address is not aligned to 16"},
        {"%9:ptr = arg 0\n%10:i64 = const 1\n%11:i32 = load %9, %10, 0 align 4", "not aligned to 4"},
    };
    _Alignas(64) char memory[64] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf text = {0};
        buf_printf(&text, "kgen-ir 1\nfunc @f\n%s\nend\n", cases[i].body);
        struct ir_module *m = parse_ok(text.data);
        struct err e = {0};
        assert_false(ir_run(m->first, (void *[]){memory}, NULL, 0, 0, NULL, true, &e));
        if (!strstr(e.msg, cases[i].expected)) fail_msg("expected: %s\n  found: %s", cases[i].expected, e.msg);
        ir_free(m);
        buf_free(&text);
    }
}

/* Against the compiler's _Float16: every f16, and f32 around every f16 and every tie between two. */
static void f16_conversions_are_exact(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t bits = (uint16_t)h;
        _Float16 x;
        memcpy(&x, &bits, 2);
        uint32_t got = f32_bits_from_f16(bits);
        float want = (float)x;
        if (isnan(want))
            assert_true(isnan(f32_from_bits(got)));
        else
            assert_int_equal(got, f32_bits(want));
        if (isnan(want)) continue;
        for (int tie = 0; tie < 2; tie++)
            for (int d = -1; d <= 1; d++) {
                uint32_t near = got + (tie ? 0x1000 : 0) + (uint32_t)d;
                float f = f32_from_bits(near);
                if (isnan(f)) continue;
                _Float16 r = (_Float16)f;
                uint16_t expected;
                memcpy(&expected, &r, 2);
                if (f16_from_f32_bits(near) != expected) fail_msg("%08x: expected %04x", near, expected);
            }
    }
    for (uint32_t i = 0; i < 2000000; i++) {
        uint32_t x = i * 2654435761u;
        if (isnan(f32_from_bits(x))) continue;
        _Float16 r = (_Float16)f32_from_bits(x);
        uint16_t expected;
        memcpy(&expected, &r, 2);
        assert_int_equal(f16_from_f32_bits(x), expected);
    }
}

/* ---- passes ---- */

static void expect_optimized(const char *body, const char *expected) {
    struct buf text = {0}, want = {0}, out = {0};
    buf_printf(&text, "kgen-ir 1\nfunc @f\n%send\n", body);
    buf_printf(&want, "func @f\n%send\n", expected);
    struct ir_module *m = parse_ok(text.data);
    passes_run(m->first, NULL, NULL);
    ir_print_func(m->first, &out);
    assert_string_equal(out.data, want.data);
    ir_free(m);
    buf_free(&text);
    buf_free(&want);
    buf_free(&out);
}

static void address_constants_end_in_the_offset(void **state) {
    (void)state;
    /* base + ((i + 3) * 16 + 5) + 7  ->  i * 16, 60 */
    expect_optimized("%1:ptr = arg 0\n%2:i64 = begin\n%3:i64 = const 3\n%4:i64 = add %3, %2\n%5:i64 = const 16\n"
                     "%6:i64 = mul %4, %5\n%7:i64 = const 5\n%8:i64 = add %6, %7\n%9:f32 = load %1, %8, 7 align 4\n"
                     "store %9, %1, %7, -5 align 4\n",
                     "  %1:ptr = arg 0\n  %2:i64 = begin\n  %5:i64 = const 16\n  %11:i64 = mul %2, %5\n"
                     "  %9:f32 = load %1, %11, 60 align 4\n  %14:i64 = const 0\n  store %9, %1, %14, 0 align 4\n");
}

static void equal_operations_merge_within_scopes_only(void **state) {
    (void)state;
    expect_optimized(
        "%1:ptr = arg 0\n%2:i64 = begin\n%3:i64 = end\n%4:i1 = ilt %2, %3\n"
        "if %4\n%5:i64 = mul %2, %3\n%6:i64 = mul %3, %2\n%7:i64 = xor %5, %6\nstore %7, %1, %2, 0 align 8\nend\n"
        "%8:i64 = mul %2, %3\nstore %8, %1, %2, 8 align 8\n",
        "  %1:ptr = arg 0\n  %2:i64 = begin\n  %3:i64 = end\n  %4:i1 = ilt %2, %3\n"
        "  if %4\n    %5:i64 = mul %2, %3\n    %7:i64 = xor %5, %5\n    store %7, %1, %2, 0 align 8\n  end\n"
        "  %8:i64 = mul %2, %3\n  store %8, %1, %2, 8 align 8\n");
}

static void only_invariant_loads_merge(void **state) {
    (void)state;
    expect_optimized("%1:ptr = arg 0\n%2:i64 = begin\n%3:i32 = load %1, %2, 0 align 4 inv\n"
                     "%4:i32 = load %1, %2, 0 align 4 inv\n%5:i32 = load %1, %2, 4 align 4\n"
                     "store %5, %1, %2, 8 align 4\n%6:i32 = load %1, %2, 4 align 4\n"
                     "%7:i32 = sub %3, %4\n%8:i32 = sub %5, %6\n%9:i32 = sub %7, %8\nstore %9, %1, %2, 8 align 4\n",
                     "  %1:ptr = arg 0\n  %2:i64 = begin\n  %3:i32 = load %1, %2, 0 align 4 inv\n"
                     "  %5:i32 = load %1, %2, 4 align 4\n  store %5, %1, %2, 8 align 4\n"
                     "  %6:i32 = load %1, %2, 4 align 4\n  %7:i32 = sub %3, %3\n  %8:i32 = sub %5, %6\n"
                     "  %9:i32 = sub %7, %8\n  store %9, %1, %2, 8 align 4\n");
}

static void invariants_leave_loops_but_not_ifs(void **state) {
    (void)state;
    expect_optimized(
        "%1:ptr = arg 0\n%2:i64 = begin\n%3:i64 = end\n%4:i1 = ilt %2, %3\n"
        "for %5 = %2 to %3 step 1\nif %4\nfor %6 = %2 to %3 step 1\n%7:i64 = xor %5, %3\n"
        "%8:i64 = xor %2, %3\n%9:i64 = urem %2, %3\n%10:i64 = xor %7, %8\n%11:i64 = xor %9, %10\n"
        "store %11, %1, %6, 0 align 1\nend\nend\nend\n",
        "  %1:ptr = arg 0\n  %2:i64 = begin\n  %3:i64 = end\n  %4:i1 = ilt %2, %3\n"
        "  for %5 = %2 to %3 step 1\n    if %4\n      %7:i64 = xor %3, %5\n      %8:i64 = xor %2, %3\n"
        "      %10:i64 = xor %7, %8\n      for %6 = %2 to %3 step 1\n        %9:i64 = urem %2, %3\n"
        "        %11:i64 = xor %9, %10\n        store %11, %1, %6, 0 align 1\n      end\n    end\n  end\n");
}

static void dead_code_goes_with_its_loops(void **state) {
    (void)state;
    expect_optimized("%1:ptr = arg 0\n%2:i64 = begin\n%3:i64 = end\n"
                     "for %4 = %2 to %3 step 1 carry %5:i64 = %2\n%6:i64 = add %5, %4\nyield %6\nend -> %7\n"
                     "%8:i1 = ilt %2, %3\nif %8\n%9:i64 = load %1, %2, 0 align 8\nend\n%10:ptr = stack 64 align 64\n",
                     "");
}

/* Of what stands before a loop with a product of tiles, what the loop needs (%7) or an operation that stays (%8) stays. */
static void what_only_follows_a_product_of_tiles_moves_behind_it(void **state) {
    (void)state;
#define HEAD                                                                                                           \
    "  %1:ptr = arg 0\n  %2:i64 = begin\n  %3:i64 = end\n  %4:f32x128 = const 0x0p+0\n  %5:i32x128 = const 0\n"         \
    "  %6:i32x64 = const 0\n  %7:i64 = add %2, %3\n"
#define MOVED "  %9:i64 = mul %2, %3\n  %10:i64 = mul %7, %9\n"
#define KEPT "  %8:i64 = mul %2, %2\n  store %8, %1, %2, 0 align 8\n"
#define LOOP                                                                                                           \
    "  for %11 = %7 to %3 step 1 carry %12:f32x128 = %4\n    %13:f32x128 = mma %12, %5, %6 m16n8k16.f16\n"              \
    "    yield %13\n  end -> %14\n"
#define TAIL "  %15:f32x32 = slice %14, 0\n  store %15, %1, %10, 0 align 4\n"
    expect_optimized(HEAD MOVED KEPT LOOP TAIL, HEAD KEPT LOOP MOVED TAIL);
}

static void pass_names_are_checked(void **state) {
    (void)state;
    struct err e;
    assert_true(passes_check_dump(NULL, &e) && passes_check_dump("all", &e) && passes_check_dump("cse", &e));
    assert_false(passes_check_dump("magic", &e));
    assert_non_null(strstr(e.msg, "fold, hoist, cse, dce, sink, all"));
}

static void dump_prints_after_the_pass(void **state) {
    (void)state;
    struct ir_module *m = parse_ok("kgen-ir 1\nfunc @f\n%1:i64 = const 2\n%2:i64 = add %1, %1\nend\n");
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    passes_run(m->first, "fold", to);
    fclose(to);
    assert_string_equal(text, "# after fold\nfunc @f\n  %1:i64 = const 2\n  %2:i64 = const 4\nend\n");
    free(text);
    ir_free(m);
}

/* Random programs compute the same memory before and after the passes, and after being printed and parsed. */
static void passes_change_no_result(void **state) {
    (void)state;
    static _Alignas(64) uint8_t in[IR_RANDOM_BYTES], want[IR_RANDOM_BYTES], got[IR_RANDOM_BYTES];
    for (size_t i = 0; i < sizeof in; i += 4) {
        uint32_t x = 0x3f000000 | (uint32_t)(i * 2654435761u >> 9);
        memcpy(in + i, &x, 4);
    }
    for (uint64_t seed = 1; seed <= 1500; seed++) {
        struct buf text = {0}, printed = {0};
        struct err e;
        ir_random(seed, &text);
        struct ir_module *m = parse_ok(text.data);
        memcpy(want, in, sizeof in);
        memcpy(got, in, sizeof in);
        if (!ir_run(m->first, (void *[]){in, want}, NULL, 3, 40, NULL, true, &e)) fail_msg("%s\n%s", e.msg, text.data);
        passes_run(m->first, NULL, NULL);
        ir_print(m, &printed);
        struct ir_module *again = parse_ok(printed.data);
        if (!ir_run(again->first, (void *[]){in, got}, NULL, 3, 40, NULL, true, &e))
            fail_msg("%s\n%s", e.msg, text.data);
        if (memcmp(want, got, sizeof want) != 0)
            fail_msg("seed %d\n%s\nafter passes:\n%s", (int)seed, text.data, printed.data);
        ir_free(m);
        ir_free(again);
        buf_free(&text);
        buf_free(&printed);
    }
}

/* A kernel of 20,000 operations with deep sharing: near-linear passes take milliseconds. */
static void passes_are_fast(void **state) {
    (void)state;
    struct buf b = {0};
    buf_puts(&b, "kgen-ir 1\nfunc @f\n%1:ptr = arg 0\n%2:i64 = begin\n%3:i64 = end\nfor %4 = %2 to %3 step 1\n%5:i64 = "
                 "const 3\n");
    for (int i = 6; i < 20000; i += 4)
        buf_printf(&b,
                   "%%%d:i64 = add %%%d, %%5\n%%%d:i64 = mul %%%d, %%4\n%%%d:i64 = xor %%2, %%%d\nstore %%%d, %%1, "
                   "%%%d, 0 align 1\n",
                   i, i - 1, i + 1, i, i + 3, i + 1, i + 3, i + 1);
    buf_puts(&b, "end\nend\n");
    struct ir_module *m = parse_ok(b.data);
    double start = now_s();
    passes_run(m->first, NULL, NULL);
    assert_true(now_s() - start < 1.0);
    ir_free(m);
    buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_is_identity),
        cmocka_unit_test(layout_is_free),
        cmocka_unit_test(constants_print_canonically),
        cmocka_unit_test(float_constants_round_as_strtof),
        cmocka_unit_test(bad_programs_are_rejected),
        cmocka_unit_test(header_is_required),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(mangled_text_is_harmless),
        cmocka_unit_test(operations_mean_what_the_page_says),
        cmocka_unit_test(fma_rounds_once_or_twice),
        cmocka_unit_test(loops_carry_swap_and_skip),
        cmocka_unit_test(broken_promises_are_named),
        cmocka_unit_test(f16_conversions_are_exact),
        cmocka_unit_test(address_constants_end_in_the_offset),
        cmocka_unit_test(equal_operations_merge_within_scopes_only),
        cmocka_unit_test(only_invariant_loads_merge),
        cmocka_unit_test(invariants_leave_loops_but_not_ifs),
        cmocka_unit_test(dead_code_goes_with_its_loops),
        cmocka_unit_test(what_only_follows_a_product_of_tiles_moves_behind_it),
        cmocka_unit_test(pass_names_are_checked),
        cmocka_unit_test(dump_prints_after_the_pass),
        cmocka_unit_test(passes_change_no_result),
        cmocka_unit_test(passes_are_fast),
    };
    return cmocka_run_group_tests_name("ir", tests, NULL, NULL);
}
