/* wgmma: every pair of types, shapes of n, A in registers and in shared memory, both majors, every swizzle, scales.
 * Operands are put into shared memory where the manual's figures of canonical layouts have
 * them, here element by element; the products are of numbers that are exact in any order. */
#include "verify/ptxvm/tests/vm_formats.h"

enum { THREADS = 128, AT_B = 8 << 10, SHARED = 44 << 10 };
static uint32_t seed = 99;

enum kind { K_F16, K_BF16, K_TF32, K_E4M3, K_E5M2, K_S8, K_U8, K_B1, K_F32, K_S32 };
static const struct element {
    const char *name;
    int bits;
    const struct format *format; /* NULL: integers */
    int least, most;
} elements[] = {
    [K_F16] = {"f16", 16, &F16, -4, 4},   [K_BF16] = {"bf16", 16, &BF16, -4, 4},
    [K_TF32] = {"tf32", 32, &F32, -4, 4}, [K_E4M3] = {"e4m3", 8, &E4M3, -4, 4},
    [K_E5M2] = {"e5m2", 8, &E5M2, -4, 4}, [K_S8] = {"s8", 8, NULL, -128, 127},
    [K_U8] = {"u8", 8, NULL, 0, 255},     [K_B1] = {"b1", 1, NULL, 0, 1},
    [K_F32] = {"f32", 32, &F32, -64, 64}, [K_S32] = {"s32", 32, NULL, -9999, 9999},
};
static u64 encoded(const struct element *e, s64 v) {
    return e->format ? format_round(e->format, v, 'n', true) : low_bits((u64)v, e->bits);
}
static s64 random_value(const struct element *e) {
    return e->least + (s64)(rnd(&seed) % (u32)(e->most - e->least + 1));
}

/* ---- an operand of so many rows (m or n) and k columns in shared memory ----
 * A swizzle of w bytes keeps w bytes of consecutive elements together: along k, or along the rows (mn-major, 16-bit
 * elements only). Blocks of 8 lines of w bytes follow one another; 16-byte units change places within them. Without a
 * swizzle a block is 8 lines of 16 bytes. */
struct layout {
    int swizzle; /* 0 none 1 32 bytes 2 64 3 128 */
    bool mn_major;
    u32 lead, stride; /* bytes, as the descriptor has them */
};
static u32 bit_of(const struct layout *l, int bits, int r, int c) { /* number of the element's first bit */
    int line = l->mn_major ? c : r, along = l->mn_major ? r : c;    /* which line, and where on it */
    int width = l->swizzle ? 128 << l->swizzle : 128;               /* bits of a line */
    int chunk = along * bits / width, in_line = along * bits % width;
    u32 block, at;
    if (l->swizzle) {
        block = (u32)(line / 8) * l->stride + (u32)chunk * l->lead;
        u32 byte = (u32)(line % 8) * (u32)(width / 8) + (u32)in_line / 8;
        /* the pattern: units of 16 bytes, exclusive or with the number of the 128-byte line */
        u32 unit = byte / 16 % 8, row128 = byte / 128 % 8, mask = (1u << l->swizzle) - 1;
        byte = byte / 128 * 128 + (unit ^ (row128 & mask)) * 16 + byte % 16;
        at = byte * 8 + (u32)in_line % 8;
    } else if (l->mn_major) {
        block = (u32)(line / 8) * l->lead + (u32)chunk * l->stride;
        at = (u32)(line % 8) * 128 + (u32)in_line;
    } else {
        block = (u32)(line / 8) * l->stride + (u32)chunk * l->lead;
        at = (u32)(line % 8) * 128 + (u32)in_line;
    }
    return block * 8 + at;
}
static void put_bits(unsigned char *p, u32 bit, int bits, u64 v) {
    for (int i = 0; i < bits; i++)
        p[(bit + (u32)i) / 8] = (unsigned char)((p[(bit + (u32)i) / 8] & ~(1u << ((bit + (u32)i) % 8))) |
                                                (v >> i & 1) << ((bit + (u32)i) % 8));
}
/* Dense blocks, in the one order or the other. */
static struct layout dense(int swizzle, bool mn_major, int rows, int k, int bits) {
    int lines = mn_major ? k : rows, along = (mn_major ? rows : k) * bits, width = 128 << swizzle;
    u32 block = 8 * (u32)width / 8;
    int chunks = (along + width - 1) / width, line_blocks = lines / 8;
    struct layout l = {swizzle, mn_major, 0, 0};
    u32 between_lines = block, between_chunks = block * (u32)line_blocks;
    if (rnd(&seed) % 2) between_chunks = block, between_lines = block * (u32)chunks;
    if (!swizzle && mn_major)
        l.lead = between_lines, l.stride = between_chunks;
    else
        l.stride = between_lines, l.lead = between_chunks;
    return l;
}
static u64 descriptor(const struct layout *l,
                      u32 address) { /* relative to the kernel's shared memory: it adds its own */
    static const u64 modes[] = {0, 3, 2, 1};
    return (u64)(address >> 4) | (u64)(l->lead >> 4 & 0x3fff) << 16 | (u64)(l->stride >> 4 & 0x3fff) << 32 |
           modes[l->swizzle] << 62;
}

static const struct form {
    enum kind a, b, d;
    bool saturates;
} forms[] = {{K_F16, K_F16, K_F32, false},   {K_F16, K_F16, K_F16, false},   {K_BF16, K_BF16, K_F32, false},
             {K_TF32, K_TF32, K_F32, false}, {K_E4M3, K_E4M3, K_F32, false}, {K_E4M3, K_E5M2, K_F16, false},
             {K_E5M2, K_E4M3, K_F32, false}, {K_E5M2, K_E5M2, K_F16, false}, {K_S8, K_S8, K_S32, false},
             {K_S8, K_U8, K_S32, true},      {K_U8, K_S8, K_S32, false},     {K_U8, K_U8, K_S32, true},
             {K_B1, K_B1, K_S32, false}};

static void one_product(const struct form *f, int n, bool a_regs, bool a_mn, bool b_mn, int swizzle, int scale) {
    static s64 a[64][256], b[256][256], c[64][256];
    static unsigned char shared[SHARED];
    static u32 in[THREADS][160], out[THREADS][160];
    const struct element *ea = &elements[f->a], *eb = &elements[f->b], *ed = &elements[f->d];
    int k = 256 / ea->bits, halves = ed->bits == 16 ? 2 : 1, nd = n / 2 / halves;
    int scale_d = scale & 1, neg_a = ea->format && scale & 2 ? -1 : 1, neg_b = ea->format && scale & 4 ? -1 : 1;
    struct layout la = dense(swizzle, a_mn, 64, k, ea->bits), lb = dense(swizzle, b_mn, n, k, eb->bits);
    memset(shared, 0, sizeof shared), memset(in, 0, sizeof in);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < k; j++)
            put_bits(shared, bit_of(&la, ea->bits, i, j), ea->bits, encoded(ea, a[i][j] = random_value(ea)));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++)
            put_bits(shared + AT_B, bit_of(&lb, eb->bits, i, j), eb->bits, encoded(eb, b[j][i] = random_value(eb)));
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < n; j++) {
            c[i][j] = f->saturates && j % 3 == 0 ? INT32_MAX - 5 : random_value(ed->format ? &elements[K_S8] : ed);
            int lane = i % 8 * 4 + j % 8 / 2,
                slot = j / 8 * 4 + i / 8 % 2 * 2 + j % 2; /* of the manual's figure for D */
            put_bits((unsigned char *)in[i / 16 * 32 + lane], (u32)(slot * ed->bits), ed->bits, encoded(ed, c[i][j]));
        }
    for (int i = 0; a_regs && i < 64; i++) /* A in registers: the fragment of mma.m16n8 of the same type */
        for (int j = 0; j < k; j++) {
            int per = 32 / ea->bits, lane = i % 8 * 4 + j / per % 4, reg = i / 8 % 2 + j / per / 4 * 2;
            put_bits((unsigned char *)&in[i / 16 * 32 + lane][150 + reg], (u32)(j % per * ea->bits), ea->bits,
                     encoded(ea, a[i][j]));
        }
    struct buf t = {0};
    char name[300], layouts[60] = "";
    snprintf(name, sizeof name, "wgmma.mma_async.sync.aligned.m64n%dk%d%s.%s.%s.%s%s", n, k, "", ed->name, ea->name,
             eb->name,
             f->a == K_B1   ? ".and.popc"
             : f->saturates ? ".satfinite"
                            : "");
    if (ea->format) snprintf(layouts, sizeof layouts, ", %d, %d", neg_a, neg_b);
    if (ea->bits == 16)
        snprintf(layouts + strlen(layouts), sizeof layouts - strlen(layouts), a_regs ? ", %d" : ", %d, %d",
                 a_regs ? b_mn : a_mn, b_mn);
    buf_printf(
        &t,
        ".version 8.6\n.target sm_90a\n.address_size 64\n"
        ".visible .entry k(.param .u64 pin, .param .u64 pout, .param .u64 pshared) {\n"
        ".reg .b64 %%x<12>; .reg .b32 %%r<8>; .reg .b32 %%d<128>; .reg .b32 %%a<4>; .reg .pred %%p<3>;\n"
        ".shared .align 1024 .b8 sh[%d]; mov.u32 %%r0, %%tid.x; ld.param.u64 %%x0, [pin]; ld.param.u64 %%x1, [pout];\n"
        "mul.wide.u32 %%x2, %%r0, 640; add.u64 %%x0, %%x0, %%x2; add.u64 %%x1, %%x1, %%x2; ld.param.u64 %%x3, "
        "[pshared];\n"
        "shl.b32 %%r1, %%r0, 2; mov.u32 %%r2, sh; add.u32 %%r3, %%r2, %%r1; mul.wide.u32 %%x4, %%r0, 4; add.u64 "
        "%%x3, %%x3, %%x4;\n"
        "L: ld.global.u32 %%r4, [%%x3]; st.shared.u32 [%%r3], %%r4; add.u64 %%x3, %%x3, 512; add.u32 %%r3, %%r3, "
        "512;\n"
        "add.u32 %%r1, %%r1, 512; setp.lt.u32 %%p0, %%r1, %d; @%%p0 bra L; fence.proxy.async; bar.sync 0;\n"
        "shr.u32 %%r5, %%r2, 4; cvt.u64.u32 %%x5, %%r5; add.u64 %%x6, %%x5, %llu; add.u64 %%x7, %%x5, %llu;\n",
        SHARED, SHARED, (unsigned long long)descriptor(&la, 0), (unsigned long long)descriptor(&lb, AT_B));
    for (int i = 0; i < nd; i++) buf_printf(&t, "ld.global.b32 %%d%d, [%%x0+%d];\n", i, 4 * i);
    for (int i = 0; i < 4; i++) buf_printf(&t, "ld.global.b32 %%a%d, [%%x0+%d];\n", i, 600 + 4 * i);
    buf_printf(&t, "setp.eq.u32 %%p1, 0, %d; wgmma.fence.sync.aligned;\n%s {", !scale_d, name);
    for (int i = 0; i < nd; i++) buf_printf(&t, "%s%%d%d", i ? ", " : "", i);
    buf_printf(&t, "}, %s, %%x7, %%p1%s;\nwgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n",
               a_regs ? "{%a0, %a1, %a2, %a3}" : "%x6", layouts);
    for (int i = 0; i < nd; i++) buf_printf(&t, "st.global.b32 [%%x1+%d], %%d%d;\n", 4 * i, i);
    buf_printf(&t, "ret;\n}\n");
    struct vm_module *m = load_text(t.data, name);
    u64 d_in = device(sizeof in, in), d_out = device(sizeof out, NULL), d_shared = device(SHARED, shared);
    LAUNCH(m, "k", D1(1), D1(THREADS), 0, d_in, d_out, d_shared);
    assert_int_equal(vm_mem_copy((uint64_t)(uintptr_t)out, d_out, sizeof out), 0);
    vm_mem_free(d_in), vm_mem_free(d_out), vm_mem_free(d_shared);
    vm_module_free(m);
    buf_free(&t);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < n; j++) {
            s64 sum = scale_d ? c[i][j] : 0;
            for (int x = 0; x < k; x++) sum += f->a == K_B1 ? a[i][x] & b[x][j] : neg_a * a[i][x] * neg_b * b[x][j];
            if (f->saturates) sum = sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum;
            int lane = i % 8 * 4 + j % 8 / 2, slot = j / 8 * 4 + i / 8 % 2 * 2 + j % 2;
            u64 e = encoded(ed, sum), got = 0;
            memcpy(&got, (unsigned char *)out[i / 16 * 32 + lane] + slot * ed->bits / 8, (size_t)ed->bits / 8);
            if (got != e)
                fail_msg("%s swizzle %d majors %d %d registers %d scale %d: row %d column %d: got %llx, expected %llx",
                         name, swizzle, a_mn, b_mn, a_regs, scale, i, j, (unsigned long long)got,
                         (unsigned long long)e);
        }
}

static void t_products(void **unused) {
    (void)unused;
    static const int columns[] = {8, 16, 24, 32, 40, 56, 64, 72, 96, 104, 128, 136, 160, 192, 248, 256};
    for (size_t k = 0; k < sizeof forms / sizeof *forms; k++)
        for (int form = 0; form < 16; form++) {
            const struct form *f = &forms[k];
            bool integer = !elements[f->a].format, b16 = elements[f->a].bits == 16;
            int n = columns[(form * 5 + (int)k * 3) % 16];
            if (integer && n > 16 && n % 16) n = n / 16 * 16 == 0 ? 8 : n / 16 * 16; /* integers: fewer shapes */
            if (n == 40 && integer) n = 32;
            bool a_regs = form & 4, a_mn = b16 && !a_regs && form & 8, b_mn = b16 && form & 1;
            int swizzle = form % 4;
            if (a_mn || b_mn) { /* whole chunks along the rows */
                int chunk = (16 << swizzle) * 8 / 16;
                n = (n + chunk - 1) / chunk * chunk;
                if (n > 256) n = 256;
            }
            one_product(f, n, a_regs, a_mn, b_mn, swizzle, (form + (int)k) % 8 | (form % 3 != 0));
        }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
