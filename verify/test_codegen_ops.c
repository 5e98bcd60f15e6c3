/* Compiled code against the interpreter: every operation, type and lane count, every declared dot4, random programs and
 * masked stores, on every target this machine can run; for the others, that objects are self-contained. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codegen/f16.h"
#include "codegen/interp.h"
#include "codegen/ir.h"
#include "verify/codegen_help.h"
#include "verify/ir_random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- random bits with many edge values ---- */

static uint64_t pick(const uint64_t *from, size_t n) {
    return from[next_random() % n];
}

static uint64_t random_int(unsigned width) {
    uint64_t edges[] = {0, 1, 2, ~0ull, ir_mask(width) >> 1, (ir_mask(width) >> 1) + 1, 0x55, 0x80, 0xff};
    return (next_random() % 3 ? next_random() : pick(edges, sizeof edges / sizeof *edges)) & ir_mask(width);
}

static uint64_t random_f32(void) {
    static const uint64_t edges[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00001,
                                     0xffa00000, 1,          0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff, 0x477ff000,
                                     0x477fefff, 0x33000000, 0x33000001, 0x38800000, 0x387fffff, 0x38001000};
    switch (next_random() % 4) {
    case 0:
        return pick(edges, sizeof edges / sizeof *edges);
    case 1:
        return next_random() & 0xffffffff;
    default: /* of like size, so that sums round */
        return f32_bits(ldexpf((float)(int32_t)next_random(), (int)(next_random() % 24) - 40));
    }
}

static uint64_t random_f16(void) {
    static const uint64_t edges[] = {0, 0x8000, 0x3c00, 0x7c00, 0xfc00, 0x7c01, 0xfe00, 1, 0x3ff, 0x400, 0x7bff};
    return next_random() % 4 ? next_random() & 0xffff : pick(edges, sizeof edges / sizeof *edges);
}

/* ---- one case: one operation with its types ---- */

enum { SLOT = 512, MAX_OPERANDS = 4, ROUNDS = 12, MAX_CASES = 4000 }; /* SLOT: bytes of i64x64 */

struct op_case {
    enum ir_opcode code;
    struct ir_type result, operand[MAX_OPERANDS];
    int n_operands;
    int64_t imm;
    char tail[256]; /* what follows the operands in the text */
};

static struct op_case cases[MAX_CASES];
static size_t n_cases;

static struct op_case *add_case(enum ir_opcode code, struct ir_type result, int n, struct ir_type a, struct ir_type b,
                                struct ir_type c) {
    assert_true(n_cases < MAX_CASES);
    struct op_case *oc = &cases[n_cases++];
    *oc = (struct op_case){.code = code, .result = result, .operand = {a, b, c}, .n_operands = n};
    return oc;
}

static void add_index_case(enum ir_opcode code, struct ir_type result, struct ir_type a, int64_t k) {
    struct op_case *oc = add_case(code, result, 1, a, a, a);
    oc->imm = k;
    snprintf(oc->tail, sizeof oc->tail, ", %lld", (long long)k);
}

static void add_shuffle_case(struct ir_type result, struct ir_type a) {
    struct op_case *oc = add_case(IR_SHUFFLE, result, 1, a, a, a);
    size_t n = 0;
    for (unsigned i = 0; i < result.lanes; i++)
        n += (size_t)snprintf(oc->tail + n, sizeof oc->tail - n, "%s%u", i ? " " : ", ",
                              (unsigned)(next_random() % a.lanes));
}

/* All types a rule allows; T is {s, lanes}. */
static void add_rule_cases(enum ir_opcode code, enum ir_scalar s, unsigned lanes) {
    struct ir_type t = ir_type_of(s, lanes), flag = ir_type_of(IR_I1, lanes), lane = ir_type_of(s, 1);
    bool is_int = ir_is_int(t), number = is_int && s != IR_I1, is_f32 = s == IR_F32;
    switch (ir_op_info[code].rule) {
    case RULE_INT:
        if (number) add_case(code, t, 2, t, t, t);
        break;
    case RULE_LOGIC:
        if (is_int) add_case(code, t, 2, t, t, t);
        break;
    case RULE_ICMP:
        if (is_int) add_case(code, flag, 2, t, t, t);
        break;
    case RULE_FCMP:
        if (is_f32) add_case(code, flag, 2, t, t, t);
        break;
    case RULE_FLOAT:
        if (is_f32) add_case(code, t, ir_op_info[code].n_operands, t, t, t);
        break;
    case RULE_SELECT:
        add_case(code, t, 3, flag, t, t);
        if (lanes > 1) add_case(code, t, 3, ir_type_of(IR_I1, 1), t, t);
        break;
    case RULE_SPLAT:
        if (lanes > 1) add_case(code, t, 1, lane, t, t);
        break;
    case RULE_EXTRACT:
        if (lanes > 1) add_index_case(code, lane, t, (int64_t)(next_random() % lanes));
        break;
    case RULE_SLICE:
        for (unsigned n = 2; n < lanes; n *= 4) {
            add_index_case(code, ir_type_of(s, n), t, (int64_t)(next_random() % (lanes - n + 1)));
            add_index_case(code, ir_type_of(s, n), t, lanes - n);
        }
        break;
    case RULE_CONCAT:
        if (lanes > 1) add_case(code, t, 2, ir_type_of(s, lanes / 2), ir_type_of(s, lanes / 2), t);
        break;
    case RULE_SHUFFLE:
        if (lanes == 1) break;
        add_shuffle_case(t, t);
        add_shuffle_case(t, ir_type_of(s, lanes == 64 ? 16 : 2 * lanes));
        break;
    case RULE_IOTA:
        if (number && lanes > 1) add_case(code, t, 0, t, t, t);
        break;
    case RULE_WIDEN:
    case RULE_NARROW:
        for (enum ir_scalar to = IR_I1; to <= IR_I64; to++)
            if (is_int && (ir_op_info[code].rule == RULE_WIDEN ? to > s : to < s))
                add_case(code, ir_type_of(to, lanes), 1, t, t, t);
        break;
    case RULE_BITCAST:
        for (enum ir_scalar to = IR_I1; to <= IR_F32; to++) {
            unsigned bits = ir_scalar_bits(s) * lanes, n = bits / ir_scalar_bits(to);
            if (to != s && n >= 1 && n <= 64 && n * ir_scalar_bits(to) == bits)
                add_case(code, ir_type_of(to, n), 1, t, t, t);
        }
        break;
    case RULE_FPEXT:
        if (s == IR_F16) add_case(code, ir_type_of(IR_F32, lanes), 1, t, t, t);
        break;
    case RULE_FPTRUNC:
        if (is_f32) add_case(code, ir_type_of(IR_F16, lanes), 1, t, t, t);
        break;
    case RULE_TOBF:
        if (is_f32) add_case(code, ir_type_of(IR_I16, lanes), 1, t, t, t);
        break;
    case RULE_DOTBF:
        if (is_f32) add_case(code, t, 3, t, ir_type_of(IR_I32, lanes), ir_type_of(IR_I32, lanes));
        break;
    case RULE_SITOFP:
        if (s == IR_I32) add_case(code, ir_type_of(IR_F32, lanes), 1, t, t, t);
        break;
    case RULE_FPTOSI:
        if (is_f32) add_case(code, ir_type_of(IR_I32, lanes), 1, t, t, t);
        break;
    case RULE_PAIR:
        if (is_f32) add_case(code, ir_type_of(IR_I32, lanes), 2, t, t, t);
        break;
    case RULE_REDUCE:
        if ((number || is_f32) && lanes > 1) add_case(code, lane, 1, t, t, t);
        break;
    case RULE_DOT2:
        if (s == IR_I32) add_case(code, t, 3, t, t, t);
        break;
    case RULE_DOT4: {
        static const int umax[] = {15, 63, 129, 130, 255};
        for (size_t i = 0; s == IR_I32 && lanes > 1 && i < sizeof umax / sizeof *umax; i++) {
            struct op_case *oc = add_case(code, t, 3, t, t, t);
            oc->imm = umax[i];
            snprintf(oc->tail, sizeof oc->tail, " umax=%d", umax[i]);
        }
        break;
    }
    default:
        break; /* leaves, memory and control have tests of their own below */
    }
}

static void make_cases(void) {
    for (int code = 0; code < IR_N_OPS; code++)
        for (enum ir_scalar s = IR_I1; s <= IR_F32; s++)
            for (unsigned lanes = 1; lanes <= 64; lanes *= 2) {
                bool common = s == IR_I8 || s == IR_I32 || s == IR_F32;
                if (common || lanes == 1 || lanes == 4 || lanes == 16 || lanes == 64)
                    add_rule_cases((enum ir_opcode)code, s, lanes);
            }
}

/* func @c.N: operands from arg 0 (a slot each), the result to arg 1; i1 travels as i8. */
static void print_case(struct buf *b, size_t i) {
    const struct op_case *oc = &cases[i];
    buf_printf(b, "func @c.%zu\n%%1:ptr = arg 0\n%%2:ptr = arg 1\n%%3:i64 = const 0\n", i);
    for (int k = 0; k < oc->n_operands; k++) {
        struct ir_type t = oc->operand[k], m = t.scalar == IR_I1 ? ir_type_of(IR_I8, t.lanes) : t;
        buf_printf(b, "%%%d:", 20 + k);
        ir_print_type(m, b);
        buf_printf(b, " = load %%1, %%3, %d align 1\n", SLOT * k);
        if (t.scalar != IR_I1) continue;
        buf_printf(b, "%%%d:", 30 + k);
        ir_print_type(m, b);
        buf_printf(b, " = const 0\n%%%d:", 40 + k);
        ir_print_type(t, b);
        buf_printf(b, " = ine %%%d, %%%d\n", 20 + k, 30 + k);
    }
    buf_puts(b, "%50:");
    ir_print_type(oc->result, b);
    buf_printf(b, " = %s", ir_op_info[oc->code].name);
    for (int k = 0; k < oc->n_operands; k++)
        buf_printf(b, "%s %%%d", k ? "," : "", (oc->operand[k].scalar == IR_I1 ? 40 : 20) + k);
    buf_printf(b, "%s\n", oc->tail);
    if (oc->result.scalar == IR_I1) {
        buf_puts(b, "%51:");
        ir_print_type(ir_type_of(IR_I8, oc->result.lanes), b);
        buf_puts(b, " = zext %50\n");
    }
    buf_printf(b, "store %%%d, %%2, %%3, 0 align 1\nend\n", oc->result.scalar == IR_I1 ? 51 : 50);
}

/* One lane of operand k that keeps the operation's promises. */
static uint64_t random_lane(const struct op_case *oc, int k) {
    struct ir_type t = oc->operand[k];
    unsigned width = ir_scalar_bits(t.scalar);
    if (t.scalar == IR_I1) return next_random() & 1;
    if (t.scalar == IR_F16) return random_f16();
    if (k == 1 && (oc->code == IR_SHL || oc->code == IR_LSHR || oc->code == IR_ASHR)) return next_random() % width;
    if (k == 1 && (oc->code == IR_UDIV || oc->code == IR_UREM)) {
        uint64_t d = random_int(width);
        return d ? d : 1;
    }
    if (oc->code == IR_FPTOSI)
        return f32_bits((float)(int32_t)(next_random() & ~0x7full) / (float)(1 << next_random() % 30));
    if (oc->code == IR_FRINT) return f32_bits((float)((int32_t)next_random() >> 10) / (float)(1 << next_random() % 23));
    if (t.scalar == IR_F32) return random_f32();
    if (oc->code == IR_DOTBF) return (random_f32() >> 16 << 16) | random_f32() >> 16;
    if (oc->code != IR_DOT4 || k == 0) return random_int(width);
    uint64_t bytes = 0;
    bool extreme = next_random() & 1;
    for (int b = 0; b < 4; b++) {
        uint64_t u = extreme ? (uint64_t)oc->imm : next_random() % (uint64_t)(oc->imm + 1);
        int64_t s = extreme ? (next_random() & 1 ? 127 : -127) : (int64_t)(next_random() % 255) - 127;
        bytes |= (k == 1 ? u : (uint64_t)s & 255) << 8 * b;
    }
    return bytes;
}

static void fill_operands(const struct op_case *oc, uint8_t *in) {
    for (int k = 0; k < oc->n_operands; k++) {
        unsigned bytes = oc->operand[k].scalar == IR_I1 ? 1 : ir_scalar_bits(oc->operand[k].scalar) / 8;
        for (unsigned l = 0; l < oc->operand[k].lanes; l++) {
            uint64_t v = random_lane(oc, k);
            memcpy(in + SLOT * k + l * bytes, &v, bytes);
        }
    }
}

/* A NaN computed by arithmetic may be any NaN; everything else is compared bit for bit. */
static bool nan_is_free(enum ir_opcode c) {
    return c == IR_FADD || c == IR_FSUB || c == IR_FMUL || c == IR_FDIV || c == IR_FMA || c == IR_DOTBF ||
           c == IR_FSQRT || c == IR_HSUM;
}

static bool same_results(const struct op_case *oc, const uint8_t *a, const uint8_t *b) {
    if (memcmp(a, b, SLOT) == 0) return true;
    if (oc->result.scalar != IR_F32 || !nan_is_free(oc->code)) return false;
    for (unsigned i = 0; i < SLOT / 4; i++) {
        float x, y;
        memcpy(&x, a + 4 * i, 4);
        memcpy(&y, b + 4 * i, 4);
        if (memcmp(&x, &y, 4) != 0 && !(isnan(x) && isnan(y))) return false;
    }
    return true;
}

static void run_case(const struct ir_func *f, size_t i, const struct code *code, const struct target *t) {
    char name[32];
    snprintf(name, sizeof name, "c.%zu", i);
    kernel_fn *fn = code_symbol(code, name);
    if (!fn) fail_msg("%s is not in the object", name);
    static uint8_t in[SLOT * MAX_OPERANDS], want[SLOT], got[SLOT];
    for (int round = 0; round < ROUNDS; round++) {
        struct err e;
        fill_operands(&cases[i], in);
        memset(want, 0, SLOT);
        memset(got, 0, SLOT);
        if (!ir_run(f, (void *[]){in, want}, NULL, 0, 0, NULL, t->fma, &e)) fail_msg("%s", e.msg);
        fn((void *[]){in, got}, NULL, 0, 0, NULL);
        if (same_results(&cases[i], want, got)) continue;
        struct buf b = {0};
        ir_print_func(f, &b);
        unsigned at = 0;
        while (want[at] == got[at]) at++;
        fail_msg("%s, byte %u: expected %02x, found %02x\n%s", t->name, at, want[at], got[at], b.data);
    }
}

static void every_operation_on_every_target(void **state) {
    (void)state;
    make_cases();
    assert_true(n_cases > 1000);
    struct buf text = {0};
    buf_puts(&text, "kgen-ir 1\n");
    for (size_t i = 0; i < n_cases; i++) print_case(&text, i);
    struct ir_module *m;
    struct err e;
    if (!ir_parse(text.data, text.len, &m, &e)) fail_msg("%s", e.msg);
    for (size_t k = 0; target_name(k); k++) {
        struct target t = find(target_name(k));
        struct buf object = compile(text.data, text.len, &t, STAGE_OBJ);
        expect_no_undefined_symbols(&object, t.name);
        if (target_runs_here(&t)) {
            struct code *code = load(&object);
            size_t i = 0;
            for (const struct ir_func *f = m->first; f; f = f->next) run_case(f, i++, code, &t);
            code_free(code);
        } else {
            print_message("SKIPPED: %s does not run here; its code is only checked for calls\n", t.name);
        }
        buf_free(&object);
    }
    ir_free(m);
    buf_free(&text);
}

/* ---- dot4: each declared row against its meaning and the operation ---- */

static void dot4_meaning_is_the_operation(void **state) {
    (void)state;
    for (size_t i = 0; target_dot4_row(i); i++) {
        const struct dot4_impl *row = target_dot4_row(i);
        for (int round = 0; round < 20000; round++) {
            struct op_case oc = {.code = IR_DOT4, .imm = row->max_umax};
            for (int k = 0; k < 3; k++) oc.operand[k] = ir_type_of(IR_I32, 4);
            int32_t acc[4], got[4];
            uint32_t u[4], s[4];
            for (int l = 0; l < 4; l++) {
                acc[l] = (int32_t)random_lane(&oc, 0);
                u[l] = (uint32_t)random_lane(&oc, 1);
                s[l] = (uint32_t)random_lane(&oc, 2);
            }
            row->meaning(got, acc, u, s, 4);
            for (int l = 0; l < 4; l++) {
                int64_t want = acc[l];
                for (int b = 0; b < 4; b++) want += (int64_t)(u[l] >> 8 * b & 255) * (int8_t)(s[l] >> 8 * b);
                if (got[l] != (int32_t)want) fail_msg("%s: expected %d, found %d", row->name, (int32_t)want, got[l]);
            }
        }
    }
}

/* The limit is sharp: one more than a saturating row's max_umax gives another sum. */
static void dot4_limits_are_tight(void **state) {
    (void)state;
    for (size_t i = 0; target_dot4_row(i); i++) {
        const struct dot4_impl *row = target_dot4_row(i);
        if (row->max_umax == 255) continue;
        uint32_t u = (row->max_umax + 1) * 0x01010101u, s = 0x7f7f7f7f;
        int32_t got, zero = 0;
        row->meaning(&got, &zero, &u, &s, 1);
        assert_int_not_equal(got, 4 * 127 * (int32_t)(row->max_umax + 1));
    }
}

static void dot4_picks_the_first_legal_row(void **state) {
    (void)state;
    static const struct {
        const char *target;
        unsigned umax;
        const char *name;
        unsigned lanes;
    } want[] = {
        {"x86-64", 15, "pmaddwd (soft)", 4},      {"x86-64-v3", 129, "vpmaddubsw+vpmaddwd", 8},
        {"x86-64-v3", 130, "pmaddwd (soft)", 8},  {"x86-64-v4", 63, "vpmaddubsw+vpmaddwd", 16},
        {"x86-64-v4", 255, "pmaddwd (soft)", 16}, {"x86-64-v4-vnni", 255, "vpdpbusd", 16},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct target t = find(want[i].target);
        unsigned lanes;
        assert_string_equal(target_dot4(&t, want[i].umax, &lanes)->name, want[i].name);
        assert_int_equal(lanes, want[i].lanes);
    }
}

/* ---- programs ---- */

/* Random programs, compiled for every target, against the interpreter on the same text without any pass. */
static void random_programs_match_the_interpreter(void **state) {
    (void)state;
    static _Alignas(64) uint8_t in[IR_RANDOM_BYTES], want[IR_RANDOM_BYTES], got[IR_RANDOM_BYTES];
    for (size_t i = 0; i < sizeof in; i += 4) {
        uint32_t x = 0x3f000000 | (uint32_t)(next_random() & 0x7fffff);
        memcpy(in + i, &x, 4);
    }
    for (uint64_t program = 5001; program <= 5100; program++) {
        struct buf text = {0};
        struct ir_module *m;
        struct err e;
        ir_random(program, &text);
        if (!ir_parse(text.data, text.len, &m, &e)) fail_msg("%s", e.msg);
        struct target t = find(target_name(program % 6));
        struct buf object = compile(text.data, text.len, &t, STAGE_OBJ);
        expect_no_undefined_symbols(&object, t.name);
        if (target_runs_here(&t)) {
            struct code *code = load(&object);
            memcpy(want, in, sizeof in);
            memcpy(got, in, sizeof in);
            if (!ir_run(m->first, (void *[]){in, want}, NULL, 3, 40, NULL, t.fma, &e)) fail_msg("%s", e.msg);
            code_symbol(code, "random")((void *[]){in, got}, NULL, 3, 40, NULL);
            if (memcmp(want, got, sizeof want) != 0) fail_msg("%s, program %d\n%s", t.name, (int)program, text.data);
            code_free(code);
        }
        ir_free(m);
        buf_free(&object);
        buf_free(&text);
    }
}

/* Masked stores of every type and width: only the lanes asked for change. */
static void masked_stores_touch_their_lanes_only(void **state) {
    (void)state;
    static const char *const types[] = {"i8x16",  "i8x64", "i16x8",  "i32x2", "i32x4",
                                        "i32x64", "i64x8", "f16x16", "f32x8", "f32x16"};
    for (size_t k = 0; target_name(k); k++) {
        struct target t = find(target_name(k));
        for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
            struct buf text = {0};
            const char *lanes = strchr(types[i], 'x');
            buf_printf(&text,
                       "kgen-ir 1\nfunc @f\n%%1:ptr = arg 0\n%%2:ptr = arg 1\n%%3:ptr = arg 2\n%%4:i64 = begin\n"
                       "%%5:%s = load %%1, %%4, 0 align 1\n%%6:i8%s = load %%2, %%4, 0 align 1\n%%7:i8%s = const 0\n"
                       "%%8:i1%s = ilt %%6, %%7\nstorem %%5, %%8, %%3, %%4, 3 align 1\nend\n",
                       types[i], lanes, lanes, lanes);
            struct buf object = compile(text.data, text.len, &t, STAGE_OBJ);
            expect_no_undefined_symbols(&object, t.name);
            struct ir_module *m;
            struct err e;
            assert_true(ir_parse(text.data, text.len, &m, &e));
            if (target_runs_here(&t)) {
                struct code *code = load(&object);
                for (int round = 0; round < 20; round++) {
                    uint8_t v[512], mask[64], want[520], got[520];
                    for (int b = 0; b < 512; b++) v[b] = (uint8_t)next_random();
                    for (int b = 0; b < 64; b++) mask[b] = (uint8_t)next_random();
                    memset(want, 0x11, sizeof want);
                    memset(got, 0x11, sizeof got);
                    assert_true(ir_run(m->first, (void *[]){v, mask, want}, NULL, 0, 0, NULL, t.fma, &e));
                    code_symbol(code, "f")((void *[]){v, mask, got}, NULL, 0, 0, NULL);
                    assert_memory_equal(want, got, sizeof want);
                }
                code_free(code);
            }
            ir_free(m);
            buf_free(&object);
            buf_free(&text);
        }
    }
}

/* Every shape's soft form, with its operands gathered and its result scattered, against the interpreter. */
static void matrix_tiles_match_the_interpreter(void **state) {
    (void)state;
    for (size_t k = 0; target_name(k); k++) {
        struct target t = find(target_name(k));
        for (int shape = 0; shape < IR_N_MMA; shape++) {
            struct buf text = {0};
            ir_mma_program(shape, &text);
            struct buf object = compile(text.data, text.len, &t, STAGE_OBJ);
            expect_no_undefined_symbols(&object, t.name);
            struct ir_module *m;
            struct err e;
            if (!ir_parse(text.data, text.len, &m, &e)) fail_msg("%s", e.msg);
            if (target_runs_here(&t)) {
                struct code *code = load(&object);
                for (uint64_t round = 1; round <= 20; round++) {
                    static _Alignas(64) uint8_t in[1280], want[512], got[512];
                    ir_mma_operands(shape, round, in);
                    memset(want, 0x11, sizeof want);
                    memset(got, 0x11, sizeof got);
                    if (!ir_run(m->first, (void *[]){in, want}, NULL, 0, 0, NULL, t.fma, &e)) fail_msg("%s", e.msg);
                    code_symbol(code, "mma")((void *[]){in, got}, NULL, 0, 0, NULL);
                    assert_memory_equal(want, got, sizeof want);
                }
                code_free(code);
            }
            ir_free(m);
            buf_free(&object);
            buf_free(&text);
        }
    }
}

static void check_tile(struct code *code, const struct buf *text, int shape, uint64_t seed) {
    static _Alignas(64) uint8_t in[IR_TILE_BYTES];
    static _Alignas(64) int32_t want[IR_TILE_TRIPS][16][16], got[IR_TILE_TRIPS][16][16];
    struct ir_module *m;
    struct err e;
    if (!ir_parse(text->data, text->len, &m, &e)) fail_msg("%s", e.msg);
    ir_tile_operands(seed, in);
    memset(want, 0x11, sizeof want);
    memset(got, 0x11, sizeof got);
    if (!ir_run(m->first, (void *[]){in, want}, NULL, 0, IR_TILE_TRIPS, NULL, true, &e)) fail_msg("%s", e.msg);
    for (uint32_t i = 0; i < IR_TILE_TRIPS * 256; i++)
        if (want[i / 256][i / 16 % 16][i % 16] != ir_tile_element(in, shape, i / 256, i / 16 % 16, i % 16))
            fail_msg("%s: element %u", ir_tile_shapes[shape].name, i);
    code_symbol(code, "tile")((void *[]){in, got}, NULL, 0, IR_TILE_TRIPS, NULL);
    assert_memory_equal(want, got, sizeof want);
    ir_free(m);
}

/* Every shape of tiledot, its operands on the stack and C read back, against the interpreter and against plain sums. */
static void memory_tiles_match_the_interpreter(void **state) {
    (void)state;
    for (size_t k = 0; target_name(k); k++) {
        struct target t = find(target_name(k));
        for (int shape = 0; shape < IR_N_TILE; shape++) {
            struct buf text = {0};
            ir_tile_program(shape, &text);
            struct buf object = compile(text.data, text.len, &t, STAGE_OBJ);
            expect_no_undefined_symbols(&object, t.name);
            struct code *code = target_runs_here(&t) ? load(&object) : NULL;
            for (uint64_t round = 1; code && round <= 20; round++) check_tile(code, &text, shape, round);
            code_free(code);
            buf_free(&object);
            buf_free(&text);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_on_every_target),
        cmocka_unit_test(dot4_meaning_is_the_operation),
        cmocka_unit_test(dot4_limits_are_tight),
        cmocka_unit_test(dot4_picks_the_first_legal_row),
        cmocka_unit_test(random_programs_match_the_interpreter),
        cmocka_unit_test(masked_stores_touch_their_lanes_only),
        cmocka_unit_test(matrix_tiles_match_the_interpreter),
        cmocka_unit_test(memory_tiles_match_the_interpreter),
    };
    return cmocka_run_group_tests_name("codegen_ops", tests, NULL, NULL);
}
