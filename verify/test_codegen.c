/* Compiled code against the interpreter, for every operation, type and lane count, on every target this machine can
 * run; and properties of the code for every target: self-contained objects, broadcasts folded into memory operands. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "codegen/codegen.h"
#include "codegen/f16.h"
#include "codegen/interp.h"
#include "codegen/ir.h"
#include "verify/ir_random.h"

#include <elf.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- random bits with many edge values ---- */

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t next_random(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1du;
}

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
    case RULE_SITOFP:
        if (s == IR_I32) add_case(code, ir_type_of(IR_F32, lanes), 1, t, t, t);
        break;
    case RULE_FPTOSI:
        if (is_f32) add_case(code, ir_type_of(IR_I32, lanes), 1, t, t, t);
        break;
    case RULE_REDUCE:
        if ((number || is_f32) && lanes > 1) add_case(code, lane, 1, t, t, t);
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
    return c == IR_FADD || c == IR_FSUB || c == IR_FMUL || c == IR_FDIV || c == IR_FMA || c == IR_FSQRT || c == IR_HSUM;
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

static struct buf compile(const char *text, size_t len, const struct target *t, enum codegen_stage stage) {
    struct buf out = {0};
    struct err e;
    if (!codegen_emit(text, len, t, stage, NULL, &out, &e)) fail_msg("%s: %s", t->name, e.msg);
    return out;
}

static struct code *load(const struct buf *object) {
    struct code *c;
    struct err e;
    if (!code_load(object->data, object->len, &c, &e)) fail_msg("%s", e.msg);
    return c;
}

static struct target find(const char *name) {
    struct target t;
    struct err e;
    if (!target_find(name, &t, &e)) fail_msg("%s", e.msg);
    return t;
}

/* Every undefined symbol would be a call into something kernels cannot rely on. */
static void expect_no_undefined_symbols(const struct buf *object, const char *target) {
    const Elf64_Ehdr *h = (const Elf64_Ehdr *)object->data;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(object->data + h->e_shoff);
    size_t seen = 0;
    for (int i = 0; i < h->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *sym = (const Elf64_Sym *)(object->data + sections[i].sh_offset);
        const char *names = object->data + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 1; k < sections[i].sh_size / sizeof *sym; k++, seen++)
            if (sym[k].st_shndx == SHN_UNDEF) fail_msg("%s: undefined symbol %s", target, names + sym[k].st_name);
    }
    assert_true(seen > 0);
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

/* ---- memory and control ---- */

/* A masked tail, a stack buffer, nested loops with carries, an if, dims, ws and a second argument: what kernels are
 * made of. out[i] = sum over k of x[i + k] * k, i below n, 16 at a time; ws[0] counts the tiles. */
static const char mixed[] =
    "kgen-ir 1\nfunc @mixed.0\n"
    "%1:ptr = arg 0\n%2:ptr = arg 1\n%3:i64 = dim 0\n%4:i64 = dim 2\n%5:i64 = begin\n%6:i64 = end\n"
    "%7:ptr = ws\n%8:ptr = stack 128 align 64\n%9:i64 = const 0\n%10:i64 = const 4\n"
    "%11:f32x16 = const 0x0p+0\n%12:i32x16 = iota\n"
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

static char *mixed_text(void) { /* %24, the zero the count starts from, is defined at the top */
    struct buf b = {0};
    const char *at = strstr(mixed, "for %20");
    buf_add(&b, mixed, (size_t)(at - mixed));
    buf_puts(&b, "%24:i32 = const 0\n");
    buf_puts(&b, at);
    return b.data;
}

static void kernel_with_everything_matches_the_interpreter(void **state) {
    (void)state;
    char *text = mixed_text();
    struct ir_module *m;
    struct err e;
    if (!ir_parse(text, strlen(text), &m, &e) || !ir_verify(m, &e)) fail_msg("%s", e.msg);
    float x[128];
    for (int i = 0; i < 128; i++) x[i] = f32_from_bits((uint32_t)(random_f32() & 0xbfffffff));
    for (size_t k = 0; target_name(k); k++) {
        struct target t = find(target_name(k));
        struct buf object = compile(text, strlen(text), &t, STAGE_OBJ);
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
    free(text);
}

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
        struct target t = find(target_name(program % 5));
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
    char *mixed_ir = mixed_text(), *code = compile(mixed_ir, strlen(mixed_ir), &t, STAGE_LLVM).data;
    expect_in(code, "define void @mixed.0");
    expect_in(code, "!invariant.load");
    expect_in(code, "@llvm.fma.v16f32");
    expect_not_in(code, " fast ");
    expect_not_in(code, "contract");
    expect_not_in(code, "reassoc");
    free(code);
    free(mixed_ir);
}

static void baseline_uses_nothing_newer(void **state) {
    (void)state;
    char *text = mixed_text();
    char *a = assembly(gemv_tile, "x86-64"), *b = assembly(text, "x86-64");
    expect_in(a, "pmaddwd");
    for (char *code = a; code; code = code == a ? b : NULL) {
        expect_not_in(code, "%ymm");
        expect_not_in(code, "vmov");
        expect_not_in(code, "pmaddubsw");
        expect_not_in(code, "call");
    }
    free(a);
    free(b);
    free(text);
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
    assert_string_equal(
        e.msg, "unknown target `pentium`: expected one of x86-64, x86-64-v3, x86-64-v4, x86-64-v4-vnni, native");
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
        cmocka_unit_test(every_operation_on_every_target),
        cmocka_unit_test(dot4_meaning_is_the_operation),
        cmocka_unit_test(dot4_limits_are_tight),
        cmocka_unit_test(dot4_picks_the_first_legal_row),
        cmocka_unit_test(kernel_with_everything_matches_the_interpreter),
        cmocka_unit_test(random_programs_match_the_interpreter),
        cmocka_unit_test(masked_stores_touch_their_lanes_only),
        cmocka_unit_test(vnni_takes_the_broadcast_from_memory),
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
