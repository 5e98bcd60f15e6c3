/* Fuzzes the PTX parser, the decoder and short launches: whole modules with tokens, lines and bytes exchanged. vm_fuzz
 * [SECONDS [SEED [FILES…]]] Ends with the number of cases; a crash or a hang is the failure. */
#include "codegen/base.h"
#include "verify/ptxvm/tests/vm_fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t state = 88172645463325252ull;
static uint32_t rnd(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return n ? (uint32_t)(state >> 16) % n : 0;
}

static const char seed_text[] =
    ".version 8.7\n.target sm_90a\n.address_size 64\n"
    ".global .align 4 .u32 table[4] = {1, 2, 3, 0x10};\n.const .align 8 .f64 k = 0d3FF0000000000000;\n.extern .shared "
    ".align 16 .b8 dyn[];\n"
    ".func (.param .b32 r) twice(.param .b32 x)\n{\n.reg .b32 %r<4>;\nld.param.b32 %r1, [x];\nadd.s32 %r2, %r1, "
    "%r1;\nst.param.b32 [r+0], %r2;\nret;\n}\n"
    ".visible .entry one(.param .u64 p, .param .u32 n)\n.maxntid 64, 1, 1\n{\n.reg .pred %p<4>;\n.reg .b16 "
    "%h<4>;\n.reg .b32 %r<20>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<8>;\n.reg .f64 %d<4>;\n"
    ".shared .align 4 .b8 s[256];\n.local .align 8 .b8 l[32];\n"
    "ld.param.u64 %rd1, [p];\ncvta.to.global.u64 %rd2, %rd1;\nmov.u32 %r1, %tid.x;\nmad.lo.s32 %r2, %r1, 3, "
    "7;\nsetp.lt.u32 %p1, %r1, 16;\n@%p1 bra $L1;\nshl.b32 %r3, %r2, 2;\nbra.uni $L2;\n"
    "$L1:\nxor.b32 %r3, %r2, -1;\n$L2:\nmov.u32 %r4, s;\nand.b32 %r5, %r1, 63;\nshl.b32 %r5, %r5, 2;\nadd.s32 %r6, "
    "%r4, %r5;\nst.shared.u32 [%r6], %r3;\nbar.sync 0;\nld.shared.u32 %r7, [%r6];\n"
    "shfl.sync.bfly.b32 %r8|%p2, %r7, 1, 31, -1;\nvote.sync.ballot.b32 %r9, %p1, 0xffffffff;\nprmt.b32 %r10, %r8, %r9, "
    "0x5410;\nlop3.b32 %r11, %r8, %r9, %r10, 0x96;\n"
    "cvt.rn.f32.s32 %f1, %r11;\nfma.rn.f32 %f2, %f1, 0f3F800000, %f1;\nmul.ftz.f32 %f3, %f2, %f1;\nex2.approx.f32 %f4, "
    "%f3;\ncvt.rn.f16.f32 %h1, %f4;\nmov.b32 %r12, {%h1, %h1};\nfma.rn.f16x2 %r13, %r12, %r12, %r12;\n"
    "cvt.f64.f32 %d1, %f4;\nsqrt.rn.f64 %d2, %d1;\nmul.wide.u32 %rd3, %r5, 1;\nadd.s64 %rd4, %rd2, "
    "%rd3;\natom.global.add.u32 %r14, [%rd4], %r13;\nst.global.v2.u32 [%rd2+512], {%r13, %r14};\n"
    "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r14; call.uni (b), twice, (a); ld.param.b32 %r15, [b]; }\n"
    "mov.u64 %rd5, l;\nst.local.u32 [%rd5+4], %r15;\nld.local.u32 %r16, [%rd5+4];\nst.shared.u32 [dyn], %r16;\n"
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f4,%f5,%f6,%f7}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, "
    "{%f4,%f5,%f6,%f7};\n"
    "cp.async.ca.shared.global [dyn], [%rd2], 4;\ncp.async.commit_group;\ncp.async.wait_group 0;\nbrx.idx %r5, "
    "ts;\nts: .branchtargets $L3, $L4;\n$L3:\nred.global.add.f32 [%rd2], %f1;\n$L4:\nret;\n}\n";

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 2, end = now_s() + seconds;
    if (argc > 2) state ^= strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15ull;
    struct buf bank[16] = {0};
    int n_bank = 1;
    buf_puts(&bank[0], seed_text);
    for (int i = 3; i < argc && n_bank < 16; i++) {
        struct err e;
        if (file_read(argv[i], &bank[n_bank], &e)) n_bank++;
    }
    if (!freopen("/dev/null", "w", stderr)) return 1; /* the findings of wrong programs */
    long cases = 0;
    fuzz_one(bank[0].data, bank[0].len);
    for (; now_s() < end; cases++) {
        const struct buf *from = &bank[rnd((uint32_t)n_bank)];
        size_t n = from->len;
        char *text = malloc(2 * n + 4096);
        memcpy(text, from->data, n);
        for (uint32_t k = 1 + rnd(4); k--;) {
            size_t at = rnd((uint32_t)n), other = rnd((uint32_t)n), len = 1 + rnd(24);
            if (at + len > n || other + len > n) continue;
            switch (rnd(7)) {
            case 0:
                text[at] = (char)rnd(256);
                break;
            case 1:
                text[at] = "0123456789.,;{}[]()%$@!|-+_<>:"[rnd(30)];
                break;
            case 2:
                memmove(text + at, text + other, len);
                break;
            case 3:
                memmove(text + at, text + at + len, n - at - len), n -= len;
                break;
            case 4:
                n = rnd(50) ? n : at;
                break;
            case 5: { /* one line in the place of another */
                char *p = memchr(text + at, '\n', n - at), *q = memchr(text + other, '\n', n - other);
                if (!p || !q || p == q) break;
                char *pe = memchr(p + 1, '\n', (size_t)(text + n - p - 1)),
                     *qe = memchr(q + 1, '\n', (size_t)(text + n - q - 1));
                if (!pe || !qe || (size_t)(qe - q) > 400) break;
                char line[400];
                size_t take = (size_t)(qe - q), drop = (size_t)(pe - p);
                memcpy(line, q, take);
                memmove(p + take, p + drop, (size_t)(text + n - p) - drop);
                memcpy(p, line, take);
                n = n - drop + take;
                break;
            }
            default: { /* another number */
                while (at < n && (text[at] < '0' || text[at] > '9')) at++;
                if (at < n) text[at] = (char)('0' + rnd(10));
            }
            }
            if (!n) n = 1;
        }
        fuzz_one(text, n);
        free(text);
    }
    for (int i = 0; i < n_bank; i++) buf_free(&bank[i]);
    printf("ok ptx fuzz: %ld cases\n", cases);
    return 0;
}
