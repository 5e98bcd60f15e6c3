/* Atomics and reductions of every operation, type and space, and the instructions of a whole warp, against models of
 * one thread after the other. */
#include "verify/ptxvm/tests/vm_formats.h"

enum { N = 256 };
static u64 in[N][3], out[N][2];
static uint32_t seed = 31;

static u64 random64(void) {
    return (u64)rnd(&seed) << 32 | rnd(&seed);
}
static s64 extended(u64 v, int bytes) {
    return bytes == 8 ? (s64)v
                      : (s64)(low_bits(v, 8 * bytes) ^ 1ull << (8 * bytes - 1)) - (s64)(1ull << (8 * bytes - 1));
}

/* What is in memory afterwards: x was there, y and z are the operands. */
static u64 add_int(u64 x, u64 y, u64 z, int bytes) {
    (void)z;
    return low_bits(x + y, 8 * bytes);
}
static u64 exchanged(u64 x, u64 y, u64 z, int bytes) {
    (void)x, (void)z, (void)bytes;
    return y;
}
static u64 compared(u64 x, u64 y, u64 z, int bytes) {
    (void)bytes;
    return x == y ? z : x;
}
static u64 anded(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return x & y;
}
static u64 ored(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return x | y;
}
static u64 xored(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return x ^ y;
}
static u64 increased(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return x >= y ? 0 : x + 1;
}
static u64 decreased(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return x == 0 || x > y ? y : x - 1;
}
static u64 min_unsigned(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return x < y ? x : y;
}
static u64 max_unsigned(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return x > y ? x : y;
}
static u64 min_signed(u64 x, u64 y, u64 z, int bytes) {
    (void)z;
    return extended(x, bytes) < extended(y, bytes) ? x : y;
}
static u64 max_signed(u64 x, u64 y, u64 z, int bytes) {
    (void)z;
    return extended(x, bytes) > extended(y, bytes) ? x : y;
}
static u64 add_format(const struct format *f, u64 x, u64 y) {
    return format_round(f, format_value(f, x) + format_value(f, y), 'n', false);
}
static u64 add_f32(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return add_format(&F32, x, y);
}
static u64 add_f64(u64 x, u64 y, u64 z, int bytes) {
    double a, b;
    (void)z, (void)bytes;
    memcpy(&a, &x, 8), memcpy(&b, &y, 8);
    a += b;
    memcpy(&x, &a, 8);
    return x;
}
static u64 add_f16(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return add_format(&F16, x, y);
}
static u64 add_bf16(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return add_format(&BF16, x, y);
}
static u64 add_f16x2(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return add_format(&F16, x & 0xffff, y & 0xffff) | add_format(&F16, x >> 16, y >> 16) << 16;
}
static u64 add_bf16x2(u64 x, u64 y, u64 z, int bytes) {
    (void)z, (void)bytes;
    return add_format(&BF16, x & 0xffff, y & 0xffff) | add_format(&BF16, x >> 16, y >> 16) << 16;
}

static const struct atomic {
    const char *op, *type;
    int bytes;
    u64 (*model)(u64, u64, u64, int);
    int kind; /* operands: 0 bits, 1 near each other, 2 floats */
    bool red; /* the form without a result exists */
} atomics[] = {
    {"exch", "b32", 4, exchanged, 0, false},
    {"exch", "b64", 8, exchanged, 0, false},
    {"cas", "b16", 2, compared, 1, false},
    {"cas", "b32", 4, compared, 1, false},
    {"cas", "b64", 8, compared, 1, false},
    {"and", "b32", 4, anded, 0, true},
    {"and", "b64", 8, anded, 0, true},
    {"or", "b32", 4, ored, 0, true},
    {"or", "b64", 8, ored, 0, true},
    {"xor", "b32", 4, xored, 0, true},
    {"xor", "b64", 8, xored, 0, true},
    {"add", "u32", 4, add_int, 0, true},
    {"add", "s32", 4, add_int, 0, true},
    {"add", "u64", 8, add_int, 0, true},
    {"inc", "u32", 4, increased, 1, true},
    {"dec", "u32", 4, decreased, 1, true},
    {"min", "u32", 4, min_unsigned, 0, true},
    {"min", "s32", 4, min_signed, 0, true},
    {"min", "u64", 8, min_unsigned, 0, true},
    {"min", "s64", 8, min_signed, 0, true},
    {"max", "u32", 4, max_unsigned, 0, true},
    {"max", "s32", 4, max_signed, 0, true},
    {"max", "u64", 8, max_unsigned, 0, true},
    {"max", "s64", 8, max_signed, 0, true},
    {"add", "f32", 4, add_f32, 2, true},
    {"add", "f64", 8, add_f64, 2, true},
    {"add.noftz", "f16", 2, add_f16, 2, true},
    {"add.noftz", "f16x2", 4, add_f16x2, 2, true},
    {"add.noftz", "bf16", 2, add_bf16, 2, true},
    {"add.noftz", "bf16x2", 4, add_bf16x2, 2, true},
};

/* Each thread on a location of its own: the old value comes back and the new one is there. */
static void t_atomics(void **unused) {
    (void)unused;
    static const char *const spaces[] = {".global", ".shared", "", ""}, *const orders[] = {"", ".relaxed.gpu",
                                                                                           ".acq_rel.cta",
                                                                                           ".release.sys"};
    for (size_t k = 0; k < sizeof atomics / sizeof *atomics; k++)
        for (int form = 0; form < 8; form++) {
            const struct atomic *a = &atomics[k];
            bool red = form & 1, shared = form / 2 & 1;
            if (red && !a->red) continue;
            for (int i = 0; i < N; i++)
                for (int j = 0; j < 3; j++) {
                    u64 v = random64();
                    if (a->kind == 1) v = (u64)(i + j) % 3 ? v % 3 : v;
                    if (a->kind == 2) { /* numbers of similar size: no NaN, whose payload is not specified */
                        if (!strcmp(a->type, "f64")) v = (v & 0x800fffffffffffff) | (1000 + v % 40) << 52;
                        if (!strcmp(a->type, "f32")) v = (v & 0x807fffff) | (110 + v % 40) << 23;
                        if (strstr(a->type, "bf16"))
                            v = (v & 0x807f807f) | (120 + v % 12) << 7 | (120 + v / 16 % 12) << 23;
                        else if (strstr(a->type, "f16"))
                            v = (v & 0x83ff83ff) | (8 + v % 12) << 10 | (8 + v / 16 % 12) << 26;
                    }
                    in[i][j] = low_bits(v, 8 * a->bytes);
                }
            char text[900], address[100], order[60];
            bool half = strstr(a->type, "f16") || a->bytes == 2;
            snprintf(order, sizeof order, "%s", red && form > 3 ? ".relaxed.gpu" : orders[(k + (size_t)form) % 4]);
            if (red && strstr(order, "acq_rel")) snprintf(order, sizeof order, ".release.gpu");
            snprintf(address, sizeof address, "%s",
                     !shared ? "mov.u64 %x3, %l;"
                             : "mov.u64 %x3, sh; cvt.u64.u32 %x4, %n; mad.lo.u64 %x3, %x4, 16, %x3;");
            int space = (form / 2) & 3;
            const char *t = half && a->bytes == 2 ? "b16" : a->bytes == 4 ? "b32" : "b64";
            char *p = text;
            p += sprintf(p, "%s st.%s.%s [%%x3], %%a; mov.%s %%d, %%a;\n", address, shared ? "shared" : "global", t, t);
            if (space >= 2 && shared)
                p += sprintf(p, "cvta.shared.u64 %%x5, %%x3;\n");
            else
                p += sprintf(p, "mov.u64 %%x5, %%x3;\n");
            p += sprintf(p, "%s%s%s.%s.%s %s[%%x5], %%b%s;\n", red ? "red" : "atom", order,
                         space == 0   ? spaces[0]
                         : space == 1 ? spaces[1]
                                      : "",
                         a->op, a->type, red ? "" : "%d, ", strcmp(a->op, "cas") ? "" : ", %c");
            sprintf(p, "ld.%s.%s %%e, [%%x3];", shared ? "shared" : "global", t);
            run_snippet(&(struct snippet){"sm_90", text, a->bytes, a->bytes, a->bytes, a->bytes, a->bytes}, N, in, out);
            for (int i = 0; i < N; i++) {
                u64 e = a->model(in[i][0], in[i][1], in[i][2], a->bytes);
                if (out[i][0] != in[i][0] || out[i][1] != e)
                    fail_msg("%s: x %llx y %llx z %llx: old %llx, new %llx, expected %llx", text,
                             (unsigned long long)in[i][0], (unsigned long long)in[i][1], (unsigned long long)in[i][2],
                             (unsigned long long)out[i][0], (unsigned long long)out[i][1], (unsigned long long)e);
            }
        }
}

/* All threads on one location: the old values are a chain in some order, and the last one is what remains. */
static void t_contended(void **unused) {
    (void)unused;
    for (int i = 0; i < N; i++) in[i][0] = 0, in[i][1] = 1 + rnd(&seed) % 1000, in[i][2] = 0;
    static const char *const spaces[2] = {"global", "shared"};
    for (int k = 0; k < 2; k++) {
        char text[900];
        snprintf(text, sizeof text,
                 "%s setp.eq.u32 %%p, %%n, 0; @%%p st.%s.u32 [%%x3], 0; bar.sync 0; atom.%s.add.u32 %%d, [%%x3], %%b; "
                 "bar.sync 0; ld.%s.u32 %%e, [%%x3]; bar.sync 0;",
                 k ? "mov.u64 %x3, sh;" : "ld.param.u64 %x3, [pout]; add.u64 %x3, %x3, 4;", spaces[k], spaces[k],
                 spaces[k]);
        run_snippet(&(struct snippet){"sm_90", text, 4, 4, 4, 4, 4}, N, in, out);
        u64 at = 0;
        for (int step = 0; step < N; step++) {
            int next = -1;
            for (int i = 0; i < N; i++)
                if (low_bits(out[i][0], 32) == at) {
                    assert_int_equal(next, -1);
                    next = i;
                }
            assert_int_not_equal(next, -1);
            at += in[next][1];
        }
        for (int i = 0; i < N; i++) assert_int_equal(low_bits(out[i][1], 32), at);
    }
    /* a lock of cas, held while a counter is raised by a plain load and store */
    run_snippet(
        &(struct snippet){"sm_90",
                          "setp.eq.u32 %p, %n, 0; @%p st.shared.u32 [sh], 0; @%p st.shared.u32 [sh+4], 0; bar.sync 0;\n"
                          "TRY: atom.acquire.cta.shared.cas.b32 %t, [sh], 0, 1; setp.ne.u32 %q, %t, 0; @%q bra TRY;\n"
                          "ld.volatile.shared.u32 %u, [sh+4]; add.u32 %u, %u, 1; st.volatile.shared.u32 [sh+4], %u;\n"
                          "membar.cta; atom.release.cta.shared.exch.b32 %t, [sh], 0; bar.sync 0;\n"
                          "ld.shared.u32 %d, [sh+4]; mov.u32 %e, %u;",
                          4, 4, 4, 4, 4},
        N, in, out);
    for (int i = 0; i < N; i++) assert_int_equal(out[i][0], N);
}

/* Vectors of atomics (sm_90, global memory) and 128-bit ones. */
static void t_wide_atomics(void **unused) {
    (void)unused;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 3; j++) in[i][j] = f_bits(rnd_f(&seed)) | f_bits(rnd_f(&seed)) << 32;
    run_snippet(
        &(struct snippet){"sm_90",
                          "{.reg .f32 %f<8>; mov.b64 {%f0, %f1}, %a; mov.b64 {%f2, %f3}, %b;\n"
                          "st.global.v2.f32 [%l], {%f0, %f1}; atom.global.add.v2.f32 {%f4, %f5}, [%l], {%f2, %f3};\n"
                          "ld.global.v2.f32 {%f6, %f7}, [%l]; mov.b64 %d, {%f6, %f7}; mov.b64 %e, {%f4, %f5};}",
                          8, 8, 8, 8, 8},
        N, in, out);
    for (int i = 0; i < N; i++) {
        u64 e = add_format(&F32, in[i][0] & 0xffffffff, in[i][1] & 0xffffffff) |
                add_format(&F32, in[i][0] >> 32, in[i][1] >> 32) << 32;
        assert_int_equal(out[i][0], e);
        assert_int_equal(out[i][1], in[i][0]);
    }
    static const char *const ops[] = {"add", "min", "max"};
    for (int k = 0; k < 6; k++) {
        const struct format *f = k & 1 ? &BF16 : &F16;
        char text[500];
        for (int i = 0; i < N; i++)
            for (int j = 0; j < 2; j++) {
                in[i][j] = 0;
                for (int h = 0; h < 4; h++) in[i][j] |= format_round(f, rnd_f(&seed), 'n', true) << 16 * h;
            }
        snprintf(
            text, sizeof text,
            "{.reg .b16 %%h<16>; mov.b64 {%%h0, %%h1, %%h2, %%h3}, %%a; mov.b64 {%%h4, %%h5, %%h6, %%h7}, %%b; "
            "st.global.u64 "
            "[%%l], %%a;\natom.global.%s.noftz.v4.%s {%%h8, %%h9, %%h10, %%h11}, [%%l], {%%h4, %%h5, %%h6, %%h7};\n"
            "ld.global.u64 %%d, [%%l]; mov.b64 %%e, {%%h8, %%h9, %%h10, %%h11};}",
            ops[k / 2], f->name);
        run_snippet(&(struct snippet){"sm_90", text, 8, 8, 8, 8, 8}, N, in, out);
        for (int i = 0; i < N; i++)
            for (int h = 0; h < 64; h += 16) {
                u64 x = in[i][0] >> h & 0xffff, y = in[i][1] >> h & 0xffff, got = out[i][0] >> h & 0xffff;
                long double a = format_value(f, x), b = format_value(f, y);
                u64 e = k < 2 ? add_format(f, x, y) : (k < 4 ? a < b : a > b) ? x : y;
                if (got != e) fail_msg("%s: %llx", text, (unsigned long long)got);
                assert_int_equal(out[i][1] >> h & 0xffff, x);
            }
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 3; j++) in[i][j] = i & 1 ? random64() : (u64)i;
    run_snippet(
        &(struct snippet){
            "sm_90",
            "{.reg .b128 %w<4>; mov.b128 %w0, {%a, %b}; mov.b128 %w1, {%c, %b}; mov.b128 %w2, {%b, %a};\n"
            "and.b64 %x3, %l, -16; st.global.b128 [%x3], %w0; atom.global.cas.b128 %w3, [%x3], %w1, %w2;\n"
            "ld.global.b128 %w3, [%x3]; mov.b128 {%d, %e}, %w3;}",
            8, 8, 8, 8, 8},
        N, in, out);
    for (int i = 0; i < N; i++) { /* equal where a equals c */
        assert_int_equal(out[i][0], in[i][0] == in[i][2] ? in[i][1] : in[i][0]);
        assert_int_equal(out[i][1], in[i][0] == in[i][2] ? in[i][0] : in[i][1]);
    }
}

/* f32 additions in global memory flush subnormals, those in shared memory do not (PTX ISA, atom). */
static void t_atomic_subnormal(void **unused) {
    (void)unused;
    for (int i = 0; i < 32; i++) in[i][0] = 0x00300000, in[i][1] = i & 1 ? 0x80200000 : 0x00000000;
    run_snippet(
        &(struct snippet){"sm_90",
                          "st.global.u32 [%l], %a; red.global.add.f32 [%l], %b; ld.global.u32 %d, [%l]; mul.lo.u32 "
                          "%t, %n, 4; mov.u32 %u, sh; add.u32 %t, %t, %u; st.shared.u32 [%t], %a; red.shared.add.f32 "
                          "[%t], %b; ld.shared.u32 %e, [%t];",
                          4, 4, 4, 4, 4},
        32, in, out);
    for (int i = 0; i < 32; i++) {
        assert_int_equal(out[i][0], 0);
        assert_int_equal(out[i][1], i & 1 ? 0x00100000 : 0x00300000);
    }
}

/* ---- a warp ---- */
static void t_shfl(void **unused) {
    (void)unused;
    static const char *const modes[] = {"up", "down", "bfly", "idx"};
    for (int k = 0; k < 4; k++)
        for (int width = 1; width <= 32; width *= 2)
            for (int clamp_at = 0; clamp_at < 3; clamp_at++) {
                int seg = 32 - width, limit = clamp_at == 2 ? 20 : k == 0 ? 0 : 31;
                if (clamp_at == 1) limit = k == 0 ? 0 : width - 1;
                u64 c = (u64)(seg << 8 | limit);
                for (int i = 0; i < N; i++)
                    in[i][0] = random64(), in[i][1] = rnd(&seed) % (i < 64 ? 4 : i < 128 ? 32 : 64), in[i][2] = c;
                char text[300];
                snprintf(text, sizeof text, "shfl.sync.%s.b32 %%d|%%p, %%a, %%b, %%c, -1; selp.b32 %%e, 1, 0, %%p;",
                         modes[k]);
                run_snippet(&(struct snippet){"sm_80", text, 4, 4, 4, 4, 4}, N, in, out);
                for (int i = 0; i < N; i++) { /* the manual's own pseudocode, in words: bounds of the segment first */
                    int lane = i % 32, b = (int)in[i][1] & 31, j;
                    int least = lane & seg, most = (lane & seg) | (limit & ~seg);
                    bool ok;
                    if (k == 0)
                        j = lane - b, ok = j >= most;
                    else if (k == 1)
                        j = lane + b, ok = j <= most;
                    else if (k == 2)
                        j = lane ^ b, ok = j <= most;
                    else
                        j = least | (b & ~seg & 31), ok = j <= most;
                    if (!ok) j = lane;
                    if (j < 0 || j > 31) fail_msg("the model leaves the warp");
                    u64 e = low_bits(in[i - lane + j][0], 32);
                    if (out[i][0] != e || out[i][1] != (u64)ok)
                        fail_msg("%s width %d limit %d lane %d b %d: got %llx %llx, expected %llx %d", modes[k], width,
                                 limit, lane, b, (unsigned long long)out[i][0], (unsigned long long)out[i][1],
                                 (unsigned long long)e, ok);
                }
            }
}

/* Only the lanes of a mask take part; the others have left the branch. */
static const u32 masks[] = {0xffffffff, 0x0000ffff, 0x80000001, 0x12345678, 0x00000400};

static void t_vote_match(void **unused) {
    (void)unused;
    for (size_t k = 0; k < sizeof masks / sizeof *masks; k++)
        for (int kind = 0; kind < 3; kind++) {
            u32 mask = masks[k];
            char text[1000];
            for (int i = 0; i < N; i++) {
                u64 v = random64();
                in[i][0] = kind == 0 ? v & 1 : kind == 1 ? (u64)(i / 32 & 1) : v % 5;
                in[i][1] = kind == 1 ? 7ull << 40 : (v >> 8) % 3 << 40;
                in[i][2] = mask;
            }
            /* e: votes in bits 0-2, match.all's predicates in 3 and 4, its masks folded into d */
            snprintf(text, sizeof text,
                     "{.reg .pred %%in, %%r; .reg .b32 %%v<8>; mov.u32 %%d, 0; mov.u32 %%e, 0; shl.b32 %%v0, 1, %%n; "
                     "and.b32 %%v1, %%n, 31;\n"
                     "shl.b32 %%v0, 1, %%v1; and.b32 %%v0, %%v0, %uU; setp.eq.u32 %%p, %%v0, 0; @%%p bra OUT;\n"
                     "and.b32 %%v1, %%a, 1; setp.eq.u32 %%in, %%v1, 1;\n"
                     "vote.sync.all.pred %%r, %%in, %uU; selp.b32 %%v1, 1, 0, %%r; vote.sync.any.pred %%r, %%in, %uU; "
                     "selp.b32 %%v2, 2, 0, %%r;\n"
                     "vote.sync.uni.pred %%r, !%%in, %uU; selp.b32 %%v3, 4, 0, %%r; or.b32 %%e, %%v1, %%v2; or.b32 "
                     "%%e, %%e, %%v3;\n"
                     "vote.sync.ballot.b32 %%d, !%%in, %uU; match.all.sync.b32 %%v4|%%r, %%a, %uU; selp.b32 %%v1, 8, "
                     "0, %%r; or.b32 %%e, %%e, %%v1;\n"
                     "shl.b32 %%v4, %%v4, 8; xor.b32 %%e, %%e, %%v4; match.any.sync.b32 %%v5, %%a, %uU; "
                     "match.any.sync.b64 %%v6, %%x6, %uU;\n"
                     "mad.lo.u32 %%d, %%v5, 3, %%d; mad.lo.u32 %%d, %%v6, 5, %%d; activemask.b32 %%v7; mad.lo.u32 %%d, "
                     "%%v7, 7, %%d; OUT:}",
                     mask, mask, mask, mask, mask, mask, mask, mask);
            char full[1200];
            snprintf(full, sizeof full, "ld.global.u64 %%x6, [%%x1+8];%s", text);
            run_snippet(&(struct snippet){"sm_80", full, 4, 4, 4, 4, 4}, N, in, out);
            for (int i = 0; i < N; i++) {
                int lane = i % 32, first = i - lane;
                if (!(mask >> lane & 1)) continue;
                u32 yes = 0, any32 = 0, any64 = 0, count = 0, all = 1;
                for (int j = 0; j < 32; j++) {
                    if (!(mask >> j & 1)) continue;
                    count++;
                    yes |= (u32)(in[first + j][0] & 1) << j;
                    any32 |= (u32)(low_bits(in[first + j][0], 32) == low_bits(in[i][0], 32)) << j;
                    any64 |= (u32)(in[first + j][1] == in[i][1]) << j;
                }
                all = any32 == mask;
                u32 e = (yes == mask) | (yes != 0) << 1 | (u32)(yes == 0 || yes == mask) << 2 | all << 3;
                e ^= (all ? mask : 0) << 8;
                u32 d = (~yes & mask) + 3 * any32 + 5 * any64 + 7 * mask;
                if (low_bits(out[i][0], 32) != d || low_bits(out[i][1], 32) != e)
                    fail_msg("mask %x kind %d thread %d: got %llx %llx, expected %x %x", mask, kind, i,
                             (unsigned long long)out[i][0], (unsigned long long)out[i][1], d, e);
            }
        }
}

static void t_redux_elect(void **unused) {
    (void)unused;
    static const char *const ops[] = {"add.u32", "add.s32",     "min.u32",     "min.s32",        "max.u32",
                                      "max.s32", "and.b32",     "or.b32",      "xor.b32",        "min.f32",
                                      "max.f32", "min.abs.f32", "max.NaN.f32", "max.abs.NaN.f32"};
    for (size_t k = 0; k < sizeof masks / sizeof *masks; k++)
        for (int op = 0; op < 14; op++) {
            u32 mask = masks[k];
            char text[500];
            for (int i = 0; i < N; i++)
                in[i][0] = op < 9 ? random64() : i % 37 == 5 && i > 64 ? 0x7fc00000 : f_bits(rnd_f(&seed));
            snprintf(text, sizeof text,
                     "mov.u32 %%d, 0; mov.u32 %%e, 0; and.b32 %%t, %%n, 31; shl.b32 %%t, 1, %%t; and.b32 %%t, %%t, "
                     "%uU; setp.eq.u32 %%p, "
                     "%%t, 0; @%%p bra OUT; redux.sync.%s %%d, %%a, %uU; elect.sync %%t|%%q, %uU; selp.b32 %%e, 64, 0, "
                     "%%q; or.b32 %%e, "
                     "%%e, %%t; OUT:",
                     mask, ops[op], mask, mask);
            run_snippet(&(struct snippet){"sm_100a", text, 4, 4, 4, 4, 4}, N, in, out);
            for (int i = 0; i < N; i++) {
                int lane = i % 32, first = i - lane, leader = -1;
                if (!(mask >> lane & 1)) continue;
                u64 sum = 0, ones = 0xffffffff, any = 0, odd = 0, umin = 0xffffffff, umax = 0;
                s64 smin = INT32_MAX, smax = INT32_MIN;
                float fmin_ = INFINITY, fmax_ = -INFINITY;
                bool nan = false, number = false;
                for (int j = 0; j < 32; j++) {
                    if (!(mask >> j & 1)) continue;
                    if (leader < 0) leader = j;
                    u32 v = (u32)in[first + j][0];
                    sum += v, ones &= v, any |= v, odd ^= v;
                    umin = v < umin ? v : umin, umax = v > umax ? v : umax;
                    smin = (s32)v < smin ? (s32)v : smin, smax = (s32)v > smax ? (s32)v : smax;
                    if (op == 11 || op == 13) v &= 0x7fffffff;
                    float f;
                    memcpy(&f, &v, 4);
                    if (f != f) {
                        nan = true;
                        continue;
                    }
                    number = true;
                    fmin_ = f < fmin_ ? f : fmin_, fmax_ = f > fmax_ ? f : fmax_;
                }
                u64 ints[] = {sum, sum, umin, (u64)smin, umax, (u64)smax, ones, any, odd}, e;
                if (op < 9)
                    e = low_bits(ints[op], 32);
                else if ((op >= 12 && nan) || !number)
                    e = 0x7fffffff;
                else
                    e = f_bits(op == 9 || op == 11 ? fmin_ : fmax_);
                if (low_bits(out[i][0], 32) != e && !(op >= 9 && !number))
                    fail_msg("redux.%s mask %x thread %d: got %llx, expected %llx", ops[op], mask, i,
                             (unsigned long long)out[i][0], (unsigned long long)e);
                /* any one lane of the mask may be elected, and all must agree */
                int named = (int)(out[i][1] & 63), elected = 0;
                assert_true(mask >> named & 1);
                for (int j = 0; j < 32; j++)
                    if (mask >> j & 1) {
                        elected += out[first + j][1] >> 6 & 1;
                        assert_int_equal(out[first + j][1] & 63, named);
                        assert_int_equal(out[first + j][1] >> 6 & 1, j == named);
                    }
                assert_int_equal(elected, 1);
            }
        }
}

/* Barriers that reduce, named barriers of some of the warps, and arrival without waiting. */
static void t_barriers(void **unused) {
    (void)unused;
    for (int round = 0; round < 3; round++) {
        u32 count = 0;
        for (int i = 0; i < N; i++) in[i][0] = round == 0 ? rnd(&seed) & 1 : (u64)(round == 1), count += (u32)in[i][0];
        run_snippet(
            &(struct snippet){
                "sm_80",
                "{.reg .pred %in, %r; setp.eq.u32 %in, %a, 1; barrier.cta.red.popc.aligned.u32 %d, 0, %in;\n"
                "bar.red.and.pred %r, 1, %in; selp.b32 %e, 1, 0, %r; bar.red.or.pred %r, 0, !%in; selp.b32 %t, 2, 0, "
                "%r;\n"
                "or.b32 %e, %e, %t;}",
                4, 4, 4, 4, 4},
            N, in, out);
        for (int i = 0; i < N; i++) {
            assert_int_equal(out[i][0], count);
            assert_int_equal(out[i][1], (count == N) | (count < N) << 1);
        }
    }
    /* warps 0-3 produce and arrive, warps 4-7 wait and read */
    for (int i = 0; i < N; i++) in[i][0] = random64();
    run_snippet(
        &(struct snippet){
            "sm_80",
            "mov.u32 %d, 0; mov.u32 %e, 0; mov.u32 %u, sh; setp.ge.u32 %p, %n, 128; @%p bra READ;\n"
            "mad.lo.u32 %t, %n, 4, %u; st.shared.u32 [%t], %a; bar.arrive 3, 256; bra DONE;\n"
            "READ: bar.sync 3, 256; sub.u32 %t, 255, %n; mad.lo.u32 %t, %t, 4, %u; ld.shared.u32 %d, [%t]; DONE:",
            4, 4, 4, 4, 4},
        N, in, out);
    for (int i = 128; i < 256; i++) assert_int_equal(out[i][0], low_bits(in[255 - i][0], 32));
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_atomics),      cmocka_unit_test(t_contended),
                                       cmocka_unit_test(t_wide_atomics), cmocka_unit_test(t_atomic_subnormal),
                                       cmocka_unit_test(t_shfl),         cmocka_unit_test(t_vote_match),
                                       cmocka_unit_test(t_redux_elect),  cmocka_unit_test(t_barriers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
