/* target_x86: the x86-64 targets, their declared dot4 instructions, and sequences for what SSE2 lacks. */
#include "codegen/llvm_internal.h"

#include "codegen/f16.h"

#include <cpuid.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- the targets ---- */

#define LEVEL3 (FEAT_SSE2 | FEAT_AVX2)
#define LEVEL4 (LEVEL3 | FEAT_AVX512)

/* x86-64-v4's own tuning prefers 256-bit vectors, which would halve the widths chosen by the lowering. */
static const struct target targets[] = {
    {"x86-64", "x86-64", 4, 4, 1, 16, FEAT_SSE2, false, "x86-64", "", NULL, false},
    {"x86-64-v3", "x86-64-v3", 8, 8, 1, 16, LEVEL3, true, "x86-64-v3", "", NULL, false},
    {"x86-64-v4", "x86-64-v4", 16, 16, 1, 32, LEVEL4, true, "x86-64-v4", "-prefer-256-bit", NULL, false},
    {"x86-64-v4-vnni", "x86-64-v4", 16, 16, 1, 32, LEVEL4 | FEAT_VNNI, true, "x86-64-v4", "+avx512vnni,-prefer-256-bit",
     NULL, false},
    {"x86-64-v4-bf16", "x86-64-v4", 16, 16, 1, 32, LEVEL4 | FEAT_VNNI | FEAT_BF16, true, "x86-64-v4",
     "+avx512vnni,+avx512bf16,-prefer-256-bit", NULL, false},
    {"x86-64-v4-amx", "x86-64-v4", 16, 16, 1, 32, LEVEL4 | FEAT_VNNI | FEAT_AMX, true, "x86-64-v4",
     "+avx512vnni,+amx-tile,+amx-int8,-prefer-256-bit", NULL, false},
};
enum { N_TARGETS = sizeof targets / sizeof *targets };

static pthread_once_t host_once = PTHREAD_ONCE_INIT;
static struct {
    const char *tune;
    char features[128]; /* beyond the level */
    unsigned flags;
} host;

/* Processors whose scheduling LLVM knows, by vendor, family and range of models (AMD: processor programming references;
 * Intel: Software Developer's Manual volume 4, table 2-1). */
static const char *tuning(void) {
    static const struct {
        char vendor;
        unsigned family, first, last;
        const char *name;
    } known[] = {
        {'A', 0x17, 0x30, 0xff, "znver2"},         {'A', 0x17, 0x00, 0x2f, "znver1"},
        {'A', 0x19, 0x10, 0x1f, "znver4"},         {'A', 0x19, 0x60, 0xaf, "znver4"},
        {'A', 0x19, 0x00, 0x5f, "znver3"},         {'A', 0x1a, 0x00, 0xff, "znver5"},
        {'G', 0x06, 0x8f, 0x8f, "sapphirerapids"}, {'G', 0x06, 0xcf, 0xcf, "emeraldrapids"},
        {'G', 0x06, 0xad, 0xae, "graniterapids"},  {'G', 0x06, 0x6a, 0x6c, "icelake-server"},
        {'G', 0x06, 0x55, 0x55, "cascadelake"},    {'G', 0x06, 0x97, 0x9a, "alderlake"},
    };
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return NULL;
    char vendor = b == 0x68747541 ? 'A' : b == 0x756e6547 ? 'G' : 0;
    __get_cpuid(1, &a, &b, &c, &d);
    unsigned family = (a >> 8 & 15) == 15 ? 15 + (a >> 20 & 255) : a >> 8 & 15;
    unsigned model = (a >> 4 & 15) | (a >> 12 & 0xf0);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (vendor == known[i].vendor && family == known[i].family && model >= known[i].first && model <= known[i].last)
            return known[i].name;
    return NULL;
}

/* AMX is there if the processor has it (CPUID 7:0, EDX bits 24 and 25), the system saves its registers (XCR0 bits 17
 * and 18) and lets this process use the data of tiles, which it must ask for first (Documentation/arch/x86/xstate.rst).
 */
static bool tiles_granted(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, BITS = 3 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & BITS) != BITS) return false;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0)); /* the level x86-64-v3 has it */
    return (a >> 17 & BITS) == BITS && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static void detect_host(void) {
    __builtin_cpu_init();
    host.flags = FEAT_SSE2;
    if (__builtin_cpu_supports("x86-64-v3")) host.flags |= FEAT_AVX2;
    if (__builtin_cpu_supports("x86-64-v4")) host.flags |= LEVEL4;
    if ((host.flags & FEAT_AVX512) && __builtin_cpu_supports("avx512vnni")) host.flags |= FEAT_VNNI;
    unsigned a, b, c, d;
    if ((host.flags & FEAT_AVX2) && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 4)) host.flags |= FEAT_AVXVNNI;
    if ((host.flags & FEAT_AVX512) && __builtin_cpu_supports("avx512bf16")) host.flags |= FEAT_BF16;
    /* An emulator of instructions (verify/amx) says which it brings. */
    const unsigned *emulated = dlsym(RTLD_DEFAULT, "kgen_emulated_features");
    if ((host.flags & FEAT_VNNI) && (tiles_granted() || (emulated && (*emulated & FEAT_AMX)))) host.flags |= FEAT_AMX;
    snprintf(host.features, sizeof host.features, "%s%s%s%s%s", host.flags & FEAT_VNNI ? "+avx512vnni," : "",
             host.flags & FEAT_AVXVNNI ? "+avxvnni," : "", host.flags & FEAT_BF16 ? "+avx512bf16," : "",
             host.flags & FEAT_AMX ? "+amx-tile,+amx-int8," : "", host.flags & FEAT_AVX512 ? "-prefer-256-bit" : "");
    size_t n = strlen(host.features);
    if (n && host.features[n - 1] == ',') host.features[n - 1] = 0;
    host.tune = tuning();
}

static struct target native(void) {
    pthread_once(&host_once, detect_host);
    size_t best = 0;
    for (size_t i = 0; i < N_TARGETS; i++)
        if ((targets[i].features & ~host.flags) == 0) best = i;
    struct target t = targets[best];
    t.name = "native";
    t.features = host.flags;
    t.cpu_features = host.features;
    t.tune = host.tune ? host.tune : t.cpu;
    return t;
}

const char *target_name(size_t i) {
    return i < N_TARGETS ? targets[i].name : i == N_TARGETS ? "native" : NULL;
}

bool target_find(const char *name, struct target *out, struct err *e) {
    if (strcmp(name, "native") == 0) {
        *out = native();
        return true;
    }
    for (size_t i = 0; i < N_TARGETS; i++)
        if (strcmp(name, targets[i].name) == 0) {
            *out = targets[i];
            return true;
        }
    if (target_gpu_find(name, out)) return true;
    struct buf known = {0};
    for (size_t i = 0; target_name(i); i++) buf_printf(&known, "%s%s", i ? ", " : "", target_name(i));
    for (size_t i = 0; target_gpu_name(i); i++) buf_printf(&known, ", %s", target_gpu_name(i));
    err_set(e, ERR_USAGE, "unknown target `%s`: expected one of %s", name, known.data);
    buf_free(&known);
    return false;
}

bool target_runs_here(const struct target *t) {
    pthread_once(&host_once, detect_host);
    return !t->ptx && (t->features & ~host.flags) == 0;
}

/* ---- dot4 ---- */

static int32_t u8_of(uint32_t x, int b) {
    return (int32_t)(x >> 8 * b & 255);
}
static int32_t s8_of(uint32_t x, int b) {
    return (int8_t)(x >> 8 * b);
}
static int32_t sat16(int32_t x) {
    return x > 32767 ? 32767 : x < -32768 ? -32768 : x;
}

/* vpdpbusd: four products summed at full width, added without saturation. */
static void vnni_meaning(int32_t *out, const int32_t *acc, const uint32_t *u, const uint32_t *s, unsigned lanes) {
    for (unsigned l = 0; l < lanes; l++) {
        int32_t sum = 0;
        for (int b = 0; b < 4; b++) sum += u8_of(u[l], b) * s8_of(s[l], b);
        out[l] = (int32_t)((uint32_t)acc[l] + (uint32_t)sum);
    }
}

/* vpmaddubsw: two products summed and saturated to 16 bits; vpmaddwd with ones: two of those summed to 32. */
static void maddubs_meaning(int32_t *out, const int32_t *acc, const uint32_t *u, const uint32_t *s, unsigned lanes) {
    for (unsigned l = 0; l < lanes; l++) {
        int32_t pair[2];
        for (int p = 0; p < 2; p++)
            pair[p] = sat16(u8_of(u[l], 2 * p) * s8_of(s[l], 2 * p) + u8_of(u[l], 2 * p + 1) * s8_of(s[l], 2 * p + 1));
        out[l] = (int32_t)((uint32_t)acc[l] + (uint32_t)(pair[0] * 1 + pair[1] * 1));
    }
}

/* pmaddwd on the even bytes and on the odd bytes, each widened to 16 bits. */
static void soft_meaning(int32_t *out, const int32_t *acc, const uint32_t *u, const uint32_t *s, unsigned lanes) {
    for (unsigned l = 0; l < lanes; l++) {
        int32_t even = u8_of(u[l], 0) * s8_of(s[l], 0) + u8_of(u[l], 2) * s8_of(s[l], 2);
        int32_t odd = u8_of(u[l], 1) * s8_of(s[l], 1) + u8_of(u[l], 3) * s8_of(s[l], 3);
        out[l] = (int32_t)((uint32_t)acc[l] + (uint32_t)(even + odd));
    }
}

static LLVMValueRef vnni_emit(struct emitter *em, LLVMValueRef acc, LLVMValueRef u, LLVMValueRef s, unsigned lanes) {
    const char *name = lanes == 16  ? "llvm.x86.avx512.vpdpbusd.512"
                       : lanes == 8 ? "llvm.x86.avx512.vpdpbusd.256"
                                    : "llvm.x86.avx512.vpdpbusd.128";
    struct ir_type bytes = ir_type_of(IR_I8, lanes * 4);
    return llvm_call(em, name, NULL, 3, (LLVMValueRef[]){acc, llvm_bitcast(em, u, bytes), llvm_bitcast(em, s, bytes)});
}

static LLVMValueRef pmaddwd(struct emitter *em, LLVMValueRef a, LLVMValueRef b, unsigned lanes) {
    const char *name = lanes == 16  ? "llvm.x86.avx512.pmaddw.d.512"
                       : lanes == 8 ? "llvm.x86.avx2.pmadd.wd"
                                    : "llvm.x86.sse2.pmadd.wd";
    return llvm_call(em, name, NULL, 2, (LLVMValueRef[]){a, b});
}

static LLVMValueRef maddubs_emit(struct emitter *em, LLVMValueRef acc, LLVMValueRef u, LLVMValueRef s, unsigned lanes) {
    const char *name = lanes == 16  ? "llvm.x86.avx512.pmaddubs.w.512"
                       : lanes == 8 ? "llvm.x86.avx2.pmadd.ub.sw"
                                    : "llvm.x86.ssse3.pmadd.ub.sw.128";
    struct ir_type bytes = ir_type_of(IR_I8, lanes * 4);
    LLVMValueRef pairs =
        llvm_call(em, name, NULL, 2, (LLVMValueRef[]){llvm_bitcast(em, u, bytes), llvm_bitcast(em, s, bytes)});
    LLVMValueRef ones = llvm_const(em, ir_type_of(IR_I16, lanes * 2), 1);
    return LLVMBuildAdd(em->b, acc, pmaddwd(em, pairs, ones, lanes), "");
}

static LLVMValueRef soft_emit(struct emitter *em, LLVMValueRef acc, LLVMValueRef u, LLVMValueRef s, unsigned lanes) {
    struct ir_type words = ir_type_of(IR_I16, lanes * 2);
    LLVMValueRef eight = llvm_const(em, words, 8), low = llvm_const(em, words, 255);
    u = llvm_bitcast(em, u, words);
    s = llvm_bitcast(em, s, words);
    LLVMValueRef u_even = LLVMBuildAnd(em->b, u, low, ""), u_odd = LLVMBuildLShr(em->b, u, eight, "");
    LLVMValueRef s_even = LLVMBuildAShr(em->b, LLVMBuildShl(em->b, s, eight, ""), eight, "");
    LLVMValueRef s_odd = LLVMBuildAShr(em->b, s, eight, "");
    LLVMValueRef sum = LLVMBuildAdd(em->b, pmaddwd(em, u_even, s_even, lanes), pmaddwd(em, u_odd, s_odd, lanes), "");
    return LLVMBuildAdd(em->b, acc, sum, "");
}

/* dot2 of one register: vpdpwssd, or pmaddwd and an addition. */
LLVMValueRef x86_dot2(struct emitter *em, LLVMValueRef acc, LLVMValueRef a, LLVMValueRef b, unsigned lanes) {
    struct ir_type words = ir_type_of(IR_I16, lanes * 2);
    a = llvm_bitcast(em, a, words);
    b = llvm_bitcast(em, b, words);
    if (!(em->target->features & FEAT_VNNI)) return LLVMBuildAdd(em->b, acc, pmaddwd(em, a, b, lanes), "");
    const char *name = lanes == 16  ? "llvm.x86.avx512.vpdpwssd.512"
                       : lanes == 8 ? "llvm.x86.avx512.vpdpwssd.256"
                                    : "llvm.x86.avx512.vpdpwssd.128";
    return llvm_call(em, name, NULL, 3, (LLVMValueRef[]){acc, a, b});
}

/* 129 * 127 * 2 <= 32767: the largest umax for which vpmaddubsw cannot saturate when s >= -127. */
#define MADDUBS_UMAX (32767 / (2 * 127))

static const struct dot4_impl dot4_table[] = {
    {"vpdpbusd", FEAT_VNNI, 16, 255, vnni_meaning, vnni_emit},
    {"vpdpbusd (vex)", FEAT_AVXVNNI, 8, 255, vnni_meaning, vnni_emit},
    {"vpmaddubsw+vpmaddwd", FEAT_AVX2, 16, MADDUBS_UMAX, maddubs_meaning, maddubs_emit},
    {"pmaddwd (soft)", FEAT_SSE2, 16, 255, soft_meaning, soft_emit},
};

const struct dot4_impl *target_dot4_row(size_t i) {
    return i < sizeof dot4_table / sizeof *dot4_table ? &dot4_table[i] : NULL;
}

const struct dot4_impl *target_dot4(const struct target *t, unsigned umax, unsigned *lanes) {
    const struct dot4_impl *row;
    for (size_t i = 0; (row = t->ptx ? target_gpu_dot4_row(i) : target_dot4_row(i)); i++) {
        if ((row->requires & ~t->features) || umax > row->max_umax) continue;
        *lanes = row->max_lanes < t->lanes ? row->max_lanes : t->lanes;
        return row;
    }
    bug("no dot4 for target %s, umax %u", t->name, umax);
}

/* ---- shifts ---- */

/* By a count a lane (vpsllv) even where all lanes have the same: the shift by one count (vpslld) takes the multipliers'
 * pipes on Zen 4 (16 vpdpbusd and 8 of them: 24 cycles, 8 vpsllvd: 16) and two operations on Intel's. */
LLVMValueRef x86_shl(struct emitter *em, LLVMValueRef v, LLVMValueRef count, struct ir_type t) {
    unsigned most = em->target->features & FEAT_AVX512 ? 16 : em->target->features & FEAT_AVX2 ? 8 : 0;
    bool by_lane = t.scalar == IR_I32 && t.lanes >= 4 && t.lanes <= most;
    if (!by_lane || LLVMIsConstant(count)) return LLVMBuildShl(em->b, v, count, "");
    const char *name = t.lanes == 16  ? "llvm.x86.avx512.psllv.d.512"
                       : t.lanes == 8 ? "llvm.x86.avx2.psllv.d.256"
                                      : "llvm.x86.avx2.psllv.d";
    return llvm_call(em, name, NULL, 2, (LLVMValueRef[]){v, count});
}

/* ---- what SSE2 lacks ---- */

struct soft {
    struct emitter *em;
    struct ir_type i32, f32;
};

static LLVMValueRef k(struct soft s, uint32_t bits) {
    return llvm_const(s.em, s.i32, bits);
}
static LLVMValueRef and_(struct soft s, LLVMValueRef a, uint32_t b) {
    return LLVMBuildAnd(s.em->b, a, k(s, b), "");
}
static LLVMValueRef or_(struct soft s, LLVMValueRef a, LLVMValueRef b) {
    return LLVMBuildOr(s.em->b, a, b, "");
}
static LLVMValueRef add(struct soft s, LLVMValueRef a, uint32_t b) {
    return LLVMBuildAdd(s.em->b, a, k(s, b), "");
}
static LLVMValueRef shl(struct soft s, LLVMValueRef a, uint32_t n) {
    return LLVMBuildShl(s.em->b, a, k(s, n), "");
}
static LLVMValueRef shr(struct soft s, LLVMValueRef a, uint32_t n) {
    return LLVMBuildLShr(s.em->b, a, k(s, n), "");
}
static LLVMValueRef below(struct soft s, LLVMValueRef a, uint32_t limit, LLVMValueRef yes, LLVMValueRef no) {
    LLVMValueRef c = LLVMBuildICmp(s.em->b, LLVMIntSLT, a, k(s, limit), "");
    return LLVMBuildSelect(s.em->b, c, yes, no, "");
}

LLVMValueRef x86_soft_fpext(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    struct soft s = {em, ir_type_of(IR_I32, t.lanes), t};
    LLVMValueRef h = LLVMBuildZExt(em->b, v, llvm_type(em, s.i32), "");
    LLVMValueRef a = and_(s, h, 0x7fff), m = shl(s, a, 13);
    LLVMValueRef normal = add(s, m, 112u << 23), infinite = add(s, m, 224u << 23);
    LLVMValueRef nan = or_(s, infinite, k(s, 0x400000));
    LLVMValueRef tiny = LLVMBuildFMul(em->b, LLVMBuildSIToFP(em->b, a, llvm_type(em, t), ""),
                                      llvm_const(em, t, f32_bits(0x1p-24f)), "");
    LLVMValueRef r = below(s, a, 0x7c01, infinite, nan);
    r = below(s, a, 0x7c00, normal, r);
    r = below(s, a, 0x400, llvm_bitcast(em, tiny, s.i32), r);
    r = or_(s, r, shl(s, and_(s, h, 0x8000), 16));
    return llvm_bitcast(em, r, t);
}

LLVMValueRef x86_soft_fptrunc(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    struct soft s = {em, ir_type_of(IR_I32, t.lanes), ir_type_of(IR_F32, t.lanes)};
    LLVMValueRef x = llvm_bitcast(em, v, s.i32), a = and_(s, x, 0x7fffffff);
    LLVMValueRef odd = and_(s, shr(s, a, 13), 1);
    LLVMValueRef normal = shr(s, LLVMBuildAdd(em->b, add(s, a, 0xfff - 0x38000000), odd, ""), 13);
    LLVMValueRef nan = or_(s, and_(s, shr(s, a, 13), 0x3ff), k(s, 0x7e00));
    /* Adding 0.5 makes the adder round to a multiple of 2^-24, f16's least step. */
    LLVMValueRef half = llvm_const(em, s.f32, f32_bits(0.5f));
    LLVMValueRef sum = LLVMBuildFAdd(em->b, llvm_bitcast(em, a, s.f32), half, "");
    LLVMValueRef tiny = LLVMBuildSub(em->b, llvm_bitcast(em, sum, s.i32), k(s, f32_bits(0.5f)), "");
    LLVMValueRef r = below(s, a, 0x7f800001, k(s, 0x7c00), nan);
    r = below(s, a, 0x477ff000, normal, r);
    r = below(s, a, 0x38800000, tiny, r);
    r = or_(s, r, shr(s, and_(s, x, 0x80000000), 16));
    return LLVMBuildTrunc(em->b, r, llvm_type(em, t), "");
}

/* Adding and taking away 1.5 * 2^23 leaves |x| < 2^22 rounded to an integer; the sign is put back for results of -0. */
LLVMValueRef x86_soft_frint(struct emitter *em, LLVMValueRef v, struct ir_type t) {
    struct soft s = {em, ir_type_of(IR_I32, t.lanes), t};
    LLVMValueRef magic = llvm_const(em, t, f32_bits(0x1.8p+23f));
    LLVMValueRef r = LLVMBuildFSub(em->b, LLVMBuildFAdd(em->b, v, magic, ""), magic, "");
    LLVMValueRef sign = and_(s, llvm_bitcast(em, v, s.i32), 0x80000000);
    return llvm_bitcast(em, or_(s, llvm_bitcast(em, r, s.i32), sign), t);
}
