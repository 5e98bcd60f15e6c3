/* Matrix instructions: fragments where the PTX manual's figures put them (one formula a shape, copied from its text),
 * products of numbers that are exact in every order of summation. */
#include "verify/ptxvm/tests/vm_fragments.h"

/* ---- where element i of thread (g = lane / 4, t = lane % 4) lies: the manual's sections "Matrix fragments for
 * mma.m..n..k..", word for word ---- */
struct place {
    int row, col;
};
#define A(NAME, ROW, COL)                                                                                              \
    static struct place NAME(int g, int t, int i) { return (struct place){ROW, COL}; }
A(a_m8n8k4_f64, g, t + 0 * i)
A(a_m16n8k4_f64, i == 0 ? g : g + 8, t)
A(a_m16n8k8_f64, i == 0 || i == 2 ? g : g + 8, i < 2 ? t : t + 4)
A(a_m16n8k16_f64, i % 2 == 0 ? g : g + 8, i % 2 == 0 ? i * 2 + t : i * 2 - 2 + t)
A(a_m16n8k4_tf32, i == 0 ? g : g + 8, t)
A(a_m16n8k8_tf32, i == 0 || i == 2 ? g : g + 8, i < 2 ? t : t + 4)
A(a_m16n8k8_f16, i < 2 ? g : g + 8, t * 2 + (i & 1))
A(a_m16n8k16_f16, i < 2 || (4 <= i && i < 6) ? g : g + 8, i < 4 ? t * 2 + (i & 1) : t * 2 + (i & 1) + 8)
A(a_m8n8k16_8, g, t * 4 + (i & 3))
A(a_m16n8k16_8, i < 4 ? g : g + 8, t * 4 + (i & 3))
A(a_m16n8k32_8, i < 4 || (8 <= i && i < 12) ? g : g + 8, i < 8 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16)
A(a_m8n8k32_4, g, t * 8 + (i & 7))
A(a_m16n8k32_4, i < 8 ? g : g + 8, t * 8 + (i & 7))
A(a_m16n8k64_4, i < 8 || (16 <= i && i < 24) ? g : g + 8, i < 16 ? t * 8 + (i & 7) : t * 8 + (i & 7) + 32)
A(a_m8n8k128_1, g, t * 32 + i)
A(a_m16n8k128_1, i < 32 ? g : g + 8, t * 32 + (i & 31))
A(a_m16n8k256_1, i < 32 || (64 <= i && i < 96) ? g : g + 8, i < 64 ? t * 32 + (i & 31) : t * 32 + (i & 31) + 128)
A(b_k4, t + 0 * i, g)
A(b_k8, i == 0 ? t : t + 4, g)
A(b_k16_f64, t + i * 4, g)
A(b_k8_f16, t * 2 + i, g)
A(b_k16_f16, i < 2 ? t * 2 + (i & 1) : t * 2 + (i & 1) + 8, g)
A(b_k16_8, t * 4 + i, g)
A(b_k32_8, i < 4 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16, g)
A(b_k32_4, t * 8 + i, g)
A(b_k64_4, i < 8 ? t * 8 + (i & 7) : t * 8 + (i & 7) + 32, g)
A(b_k128_1, t * 32 + i, g)
A(b_k256_1, i < 32 ? t * 32 + (i & 31) : t * 32 + (i & 31) + 128, g)
A(c_m8, g, t * 2 + i)
A(c_m16, i < 2 ? g : g + 8, t * 2 + (i & 1))
#undef A

typedef struct place (*place_fn)(int, int, int);
static const struct shape {
    const char *target;
    int m, n, k;
    enum kind a, b, c, d;
    place_fn at_a, at_b, at_c;
    const char *before, *after; /* words of the instruction around its types */
} shapes[] = {
    {"sm_80", 16, 8, 8, K_F16, K_F16, K_F16, K_F16, a_m16n8k8_f16, b_k8_f16, c_m16, "", ""},
    {"sm_80", 16, 8, 8, K_F16, K_F16, K_F32, K_F32, a_m16n8k8_f16, b_k8_f16, c_m16, "", ""},
    {"sm_80", 16, 8, 16, K_F16, K_F16, K_F16, K_F16, a_m16n8k16_f16, b_k16_f16, c_m16, "", ""},
    {"sm_80", 16, 8, 16, K_F16, K_F16, K_F32, K_F32, a_m16n8k16_f16, b_k16_f16, c_m16, "", ""},
    {"sm_80", 16, 8, 8, K_BF16, K_BF16, K_F32, K_F32, a_m16n8k8_f16, b_k8_f16, c_m16, "", ""},
    {"sm_80", 16, 8, 16, K_BF16, K_BF16, K_F32, K_F32, a_m16n8k16_f16, b_k16_f16, c_m16, "", ""},
    {"sm_80", 16, 8, 4, K_TF32, K_TF32, K_F32, K_F32, a_m16n8k4_tf32, b_k4, c_m16, "", ""},
    {"sm_80", 16, 8, 8, K_TF32, K_TF32, K_F32, K_F32, a_m16n8k8_tf32, b_k8, c_m16, "", ""},
    {"sm_80", 8, 8, 4, K_F64, K_F64, K_F64, K_F64, a_m8n8k4_f64, b_k4, c_m8, "", ""},
    {"sm_90", 16, 8, 4, K_F64, K_F64, K_F64, K_F64, a_m16n8k4_f64, b_k4, c_m16, "", ""},
    {"sm_90", 16, 8, 8, K_F64, K_F64, K_F64, K_F64, a_m16n8k8_f64, b_k8, c_m16, "", ""},
    {"sm_90", 16, 8, 16, K_F64, K_F64, K_F64, K_F64, a_m16n8k16_f64, b_k16_f64, c_m16, "", ""},
    {"sm_80", 8, 8, 16, K_S8, K_S8, K_S32, K_S32, a_m8n8k16_8, b_k16_8, c_m8, "", ""},
    {"sm_80", 8, 8, 16, K_U8, K_S8, K_S32, K_S32, a_m8n8k16_8, b_k16_8, c_m8, "", ""},
    {"sm_80", 16, 8, 16, K_S8, K_U8, K_S32, K_S32, a_m16n8k16_8, b_k16_8, c_m16, ".satfinite", ""},
    {"sm_80", 16, 8, 32, K_S8, K_S8, K_S32, K_S32, a_m16n8k32_8, b_k32_8, c_m16, "", ""},
    {"sm_80", 16, 8, 32, K_U8, K_U8, K_S32, K_S32, a_m16n8k32_8, b_k32_8, c_m16, "", ""},
    {"sm_80", 8, 8, 32, K_S4, K_U4, K_S32, K_S32, a_m8n8k32_4, b_k32_4, c_m8, "", ""},
    {"sm_80", 16, 8, 32, K_U4, K_U4, K_S32, K_S32, a_m16n8k32_4, b_k32_4, c_m16, "", ""},
    {"sm_80", 16, 8, 64, K_S4, K_S4, K_S32, K_S32, a_m16n8k64_4, b_k64_4, c_m16, "", ""},
    {"sm_80", 8, 8, 128, K_B1, K_B1, K_S32, K_S32, a_m8n8k128_1, b_k128_1, c_m8, "", ".xor.popc"},
    {"sm_80", 8, 8, 128, K_B1, K_B1, K_S32, K_S32, a_m8n8k128_1, b_k128_1, c_m8, "", ".and.popc"},
    {"sm_80", 16, 8, 128, K_B1, K_B1, K_S32, K_S32, a_m16n8k128_1, b_k128_1, c_m16, "", ".and.popc"},
    {"sm_80", 16, 8, 256, K_B1, K_B1, K_S32, K_S32, a_m16n8k256_1, b_k256_1, c_m16, "", ".xor.popc"},
    {"sm_89", 16, 8, 32, K_E4M3, K_E4M3, K_F32, K_F32, a_m16n8k32_8, b_k32_8, c_m16, "", ""},
    {"sm_89", 16, 8, 32, K_E5M2, K_E4M3, K_F32, K_F32, a_m16n8k32_8, b_k32_8, c_m16, "", ""},
    {"sm_89", 16, 8, 16, K_E4M3, K_E5M2, K_F32, K_F32, a_m16n8k16_8, b_k16_8, c_m16, "", ""},
    {"sm_89", 16, 8, 32, K_E5M2, K_E5M2, K_F16, K_F16, a_m16n8k32_8, b_k32_8, c_m16, "", ""},
    {"sm_120a", 16, 8, 32, K_E2M3, K_E3M2, K_F32, K_F32, a_m16n8k32_8, b_k32_8, c_m16, ".kind::f8f6f4", ""},
};

static void t_mma(void **unused) {
    (void)unused;
    static s64 a[16][MAX_K], b[MAX_K][8], c[16][8];
    static struct fragments f;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const struct shape *s = &shapes[k];
        const struct element *ea = &elements[s->a], *eb = &elements[s->b], *ec = &elements[s->c], *ed = &elements[s->d];
        memset(&f, 0, sizeof f);
        for (int i = 0; i < s->m; i++)
            for (int j = 0; j < s->k; j++) a[i][j] = random_value(ea);
        for (int i = 0; i < s->k; i++)
            for (int j = 0; j < s->n; j++) b[i][j] = random_value(eb);
        for (int i = 0; i < s->m; i++)
            for (int j = 0; j < s->n; j++) {
                c[i][j] = random_value(ec);
                if (strstr(s->before, "sat") && (i + j) % 5 == 0) c[i][j] = i & 1 ? INT32_MAX : INT32_MIN;
                if (ec == &elements[K_F16]) c[i][j] = random_value(ec) * 16;
            }
        int per_lane[4] = {s->m * s->n / 32, s->m * s->k / 32, s->k * s->n / 32, s->m * s->n / 32};
        int bits[4] = {ed->bits, ea->bits, eb->bits, ec->bits}, words[4], at[4];
        for (int i = 0, next = 0; i < 4; i++) words[i] = per_lane[i] * bits[i] / 32, at[i] = next, next += words[i];
        for (int lane = 0; lane < 32; lane++) {
            int g = lane >> 2, t = lane % 4;
            for (int i = 0; i < per_lane[1]; i++) {
                struct place p = s->at_a(g, t, i);
                put_element(f.in[lane] + at[1], bits[1], i, encoded(ea, a[p.row][p.col]));
            }
            for (int i = 0; i < per_lane[2]; i++) {
                struct place p = s->at_b(g, t, i);
                put_element(f.in[lane] + at[2], bits[2], i, encoded(eb, b[p.row][p.col]));
            }
            for (int i = 0; i < per_lane[3]; i++) {
                struct place p = s->at_c(g, t, i);
                put_element(f.in[lane] + at[3], bits[3], i, encoded(ec, c[p.row][p.col]));
            }
        }
        struct buf text = {0}, list = {0};
        for (int i = 0; i < 4; i++) {
            if (i) buf_printf(&list, ", ");
            registers(&text, &list, at[i], words[i], bits[i] == 64, i == 0);
        }
        char name[200];
        snprintf(name, sizeof name, "mma.sync.aligned.m%dn%dk%d.row.col%s.%s.%s.%s.%s%s", s->m, s->n, s->k, s->before,
                 ed->name, ea->name, eb->name, ec->name, s->after);
        buf_printf(&text, "%s %s;\n", name, list.data);
        for (int i = 0; i < words[0]; i += bits[0] == 64 ? 2 : 1)
            buf_printf(&text, "st.global.b%d [%%x2+%d], %%%s%d;\n", bits[0] == 64 ? 64 : 32, 4 * i,
                       bits[0] == 64 ? "w" : "o", bits[0] == 64 ? i / 2 : i);
        run_warp(s->target, text.data, name, &f);
        buf_free(&text);
        buf_free(&list);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < per_lane[0]; i++) {
                struct place p = s->at_c(lane >> 2, lane % 4, i);
                s64 sum = c[p.row][p.col];
                for (int j = 0; j < s->k; j++) {
                    s64 x = a[p.row][j], y = b[j][p.col];
                    sum += ea != &elements[K_B1] ? x * y : s->after[1] == 'x' ? x != y : x & y;
                }
                if (strstr(s->before, "sat")) sum = sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum;
                u64 e = encoded(ed, sum), got = get_element(f.out[lane], bits[0], i);
                if (got != e)
                    fail_msg("%s: row %d column %d: got %llx, expected %llx", name, p.row, p.col,
                             (unsigned long long)got, (unsigned long long)e);
            }
    }
}

/* m8n8k4 of f16: four products at once, each by the four lanes 4p … 4p + 3 and the four that are 16 further. */
static void t_mma_quads(void **unused) {
    (void)unused;
    static struct fragments f;
    for (int form = 0; form < 16; form++) {
        bool a_col = form & 1, b_row = form & 2, c32 = form & 4, d32 = form & 8;
        if (c32 && !d32) continue; /* no such form */
        s64 a[4][8][4], b[4][4][8], c[4][8][8];
        memset(&f, 0, sizeof f);
        for (int p = 0; p < 4; p++) {
            for (int i = 0; i < 32; i++)
                a[p][i / 4][i % 4] = random_value(&elements[K_F16]),
                                b[p][i / 8][i % 8] = random_value(&elements[K_F16]);
            for (int i = 0; i < 64; i++) c[p][i / 8][i % 8] = random_value(&elements[K_F16]) * 10;
        }
        for (int lane = 0; lane < 32; lane++) {
            int p = lane % 16 / 4, hi = lane < 16 ? 0 : 4;
            for (int i = 0; i < 4; i++) {
                int row = a_col ? i + hi : lane % 4 + hi, col = a_col ? lane % 4 : i;
                put_element(f.in[lane], 16, i, encoded(&elements[K_F16], a[p][row][col]));
                row = b_row ? lane % 4 : i, col = b_row ? i + hi : lane % 4 + hi;
                put_element(f.in[lane] + 2, 16, i, encoded(&elements[K_F16], b[p][row][col]));
            }
            for (int i = 0; i < 8; i++) {
                int row = c32 ? (lane & 1) + (i & 2) + hi : lane % 4 + hi,
                    col = c32 ? (i & 4) + (lane & 2) + (i & 1) : i;
                put_element(f.in[lane] + 4, c32 ? 32 : 16, i, encoded(&elements[c32 ? K_F32 : K_F16], c[p][row][col]));
            }
        }
        struct buf text = {0}, list = {0};
        registers(&text, &list, 0, d32 ? 8 : 4, false, true);
        int at[3] = {0, 2, 4}, n[3] = {2, 2, c32 ? 8 : 4};
        for (int i = 0; i < 3; i++) {
            buf_printf(&list, ", ");
            registers(&text, &list, at[i], n[i], false, false);
        }
        char name[200];
        snprintf(name, sizeof name, "mma.sync.aligned.m8n8k4.%s.%s.%s.f16.f16.%s", a_col ? "col" : "row",
                 b_row ? "row" : "col", d32 ? "f32" : "f16", c32 ? "f32" : "f16");
        buf_printf(&text, "%s %s;\n", name, list.data);
        for (int i = 0; i < (d32 ? 8 : 4); i++) buf_printf(&text, "st.global.b32 [%%x2+%d], %%o%d;\n", 4 * i, i);
        run_warp("sm_70", text.data, name, &f);
        buf_free(&text);
        buf_free(&list);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 8; i++) {
                int p = lane % 16 / 4, hi = lane < 16 ? 0 : 4;
                int row = d32 ? (lane & 1) + (i & 2) + hi : lane % 4 + hi,
                    col = d32 ? (i & 4) + (lane & 2) + (i & 1) : i;
                s64 sum = c[p][row][col];
                for (int j = 0; j < 4; j++) sum += a[p][row][j] * b[p][j][col];
                u64 e = encoded(&elements[d32 ? K_F32 : K_F16], sum), got = get_element(f.out[lane], d32 ? 32 : 16, i);
                if (got != e)
                    fail_msg("%s: lane %d element %d: got %llx, expected %llx", name, lane, i, (unsigned long long)got,
                             (unsigned long long)e);
            }
    }
}

/* wmma: the fragments have no documented places, so a whole product is judged: load, multiply, store. */
static const struct wmma {
    const char *target;
    int m, n, k;
    enum kind a, c;
    int regs[3]; /* of a, b and c, as the manual lists them */
} wmmas[] = {
    {"sm_80", 16, 16, 16, K_F16, K_F32, {8, 8, 8}},  {"sm_80", 16, 16, 16, K_F16, K_F16, {8, 8, 4}},
    {"sm_80", 32, 8, 16, K_F16, K_F32, {8, 8, 8}},   {"sm_80", 8, 32, 16, K_F16, K_F16, {8, 8, 4}},
    {"sm_80", 16, 16, 16, K_BF16, K_F32, {4, 4, 8}}, {"sm_80", 32, 8, 16, K_BF16, K_F32, {8, 2, 8}},
    {"sm_80", 8, 32, 16, K_BF16, K_F32, {2, 8, 8}},  {"sm_80", 16, 16, 8, K_TF32, K_F32, {4, 4, 8}},
    {"sm_80", 8, 8, 4, K_F64, K_F64, {1, 1, 2}},     {"sm_80", 16, 16, 16, K_S8, K_S32, {2, 2, 8}},
    {"sm_80", 32, 8, 16, K_U8, K_S32, {4, 1, 8}},    {"sm_80", 8, 32, 16, K_S8, K_S32, {1, 4, 8}},
    {"sm_80", 8, 8, 32, K_S4, K_S32, {1, 1, 2}},     {"sm_80", 8, 8, 32, K_U4, K_S32, {1, 1, 2}},
    {"sm_80", 8, 8, 128, K_B1, K_S32, {1, 1, 2}},
};
static void t_wmma(void **unused) {
    (void)unused;
    for (size_t k = 0; k < sizeof wmmas / sizeof *wmmas; k++)
        for (int form = 0; form < 8; form++) {
            const struct wmma *s = &wmmas[k];
            const struct element *ea = &elements[s->a], *ec = &elements[s->c];
            bool col[3] = {form & 1, form & 2, form & 4};
            if (ea->bits < 8 && (col[0] || !col[1])) continue; /* those are row by column only */
            int rows[3] = {s->m, s->k, s->m}, cols[3] = {s->k, s->n, s->n}, ld[3];
            static s64 value[3][128][128];
            static unsigned char bytes[3][16384], result[16384];
            memset(bytes, 0, sizeof bytes);
            for (int o = 0; o < 3; o++) {
                const struct element *e = o == 2 ? ec : ea;
                ld[o] = (col[o] ? rows[o] : cols[o]) + (o == 2 ? 8 : 256 / (e->bits < 16 ? e->bits : 16));
                for (int i = 0; i < rows[o]; i++)
                    for (int j = 0; j < cols[o]; j++) {
                        s64 v = random_value(e);
                        if (o == 2 && ec->bits == 16) v *= 20;
                        value[o][i][j] = v;
                        int index = col[o] ? j * ld[o] + i : i * ld[o] + j, bit = index * e->bits;
                        u64 code = encoded(e, v), old;
                        memcpy(&old, bytes[o] + bit / 8, 8);
                        old |= code << bit % 8;
                        memcpy(bytes[o] + bit / 8, &old, 8);
                    }
            }
            struct buf text = {0};
            char shape[40], lists[4][200];
            snprintf(shape, sizeof shape, "m%dn%dk%d", s->m, s->n, s->k);
            bool wide = s->a == K_F64;
            for (int o = 0; o < 4; o++) {
                size_t n = 0;
                for (int i = 0; i < s->regs[o < 3 ? o : 2]; i++)
                    n += (size_t)snprintf(lists[o] + n, sizeof lists[o] - n, "%s%%%s%d", i ? ", " : "{",
                                          wide ? "w" : "r", (o * 8) + i);
                snprintf(lists[o] + n, sizeof lists[o] - n, "}");
            }
            static const char letter[] = "abc";
            for (int o = 0; o < 3; o++)
                buf_printf(&text,
                           "ld.param.u64 %%x3, [pin]; add.u64 %%x3, %%x3, %d; "
                           "wmma.load.%c.sync.aligned.%s.%s.global.%s %s, [%%x3], %d;\n",
                           o * 16384, letter[o], col[o] ? "col" : "row", shape, o == 2 ? ec->name : ea->name, lists[o],
                           ld[o]);
            const char *la = col[0] ? "col" : "row", *lb = col[1] ? "col" : "row";
            if (s->a == K_F16)
                buf_printf(&text, "wmma.mma.sync.aligned.%s.%s.%s.%s.%s", la, lb, shape, ec->name, ec->name);
            else
                buf_printf(&text, "wmma.mma%s.sync.aligned.%s.%s.%s%s.%s.%s.%s.%s", s->a == K_B1 ? ".xor.popc" : "", la,
                           lb, shape, wide ? ".rn" : "", ec->name, ea->name, ea->name, ec->name);
            buf_printf(&text, " %s, %s, %s, %s;\n", lists[3], lists[0], lists[1], lists[2]);
            buf_printf(&text, "ld.param.u64 %%x3, [pout]; wmma.store.d.sync.aligned.%s.%s.global.%s [%%x3], %s, %d;\n",
                       col[2] ? "col" : "row", shape, ec->name, lists[3], ld[2]);
            struct buf t = {0};
            buf_printf(
                &t,
                ".version 8.8\n.target %s\n.address_size 64\n.visible .entry k(.param .u64 pin, .param .u64 pout) {\n"
                ".reg .b64 %%x<8>, %%w<32>; .reg .b32 %%r<32>;\n%sret;\n}\n",
                s->target, text.data);
            struct vm_module *m = load_text(t.data, "wmma");
            u64 from = device(sizeof bytes, bytes), to = device(sizeof result, bytes[2]);
            LAUNCH(m, "k", D1(1), D1(32), 0, from, to);
            fetch(result, to, sizeof result);
            vm_mem_free(from), vm_mem_free(to), vm_module_free(m);
            for (int i = 0; i < s->m; i++)
                for (int j = 0; j < s->n; j++) {
                    s64 sum = value[2][i][j];
                    for (int x = 0; x < s->k; x++)
                        sum += s->a == K_B1 ? value[0][i][x] != value[1][x][j] : value[0][i][x] * value[1][x][j];
                    u64 e = encoded(ec, sum), got = 0;
                    memcpy(&got, result + (col[2] ? j * ld[2] + i : i * ld[2] + j) * ec->bits / 8,
                           (size_t)ec->bits / 8);
                    if (got != e)
                        fail_msg("%s row %d column %d: got %llx, expected %llx", t.data, i, j, (unsigned long long)got,
                                 (unsigned long long)e);
                }
            buf_free(&text);
            buf_free(&t);
        }
}

/* ldmatrix, stmatrix: lane i gives row i % 8 of matrix i / 8; lane l holds the elements 2 (l % 4) and the next of row
 * l / 4; .trans: of column l / 4. */
static void t_ldmatrix(void **unused) {
    (void)unused;
    static struct fragments f;
    for (int n = 1; n <= 4; n *= 2)
        for (int trans = 0; trans < 2; trans++)
            for (int store = 0; store < 2; store++) {
                memset(&f, 0, sizeof f);
                for (int i = 0; i < 32; i++)
                    for (int j = 0; j < WORDS; j++) f.in[i][j] = rnd(&seed);
                /* lane i keeps its words 0-3 as row i, at an address that is not simply ascending */
                struct buf t = {0}, list = {0};
                registers(&t, &list, 4, n, false, !store);
                buf_printf(&t, "mov.u32 %%t, sh; xor.b32 %%r40, %%n, 5; mad.lo.u32 %%t, %%r40, 32, %%t;\n");
                for (int j = 0; j < 4; j++)
                    buf_printf(&t, "ld.global.b32 %%r%d, [%%x1+%d]; st.shared.b32 [%%t+%d], %%r%d;\n", 50 + j, 4 * j,
                               4 * j, 50 + j);
                buf_printf(&t, "bar.warp.sync -1; %s.sync.aligned.m8n8.x%d%s.shared.b16 ",
                           store ? "stmatrix" : "ldmatrix", n, trans ? ".trans" : "");
                if (store)
                    buf_printf(&t, "[%%t], %s;\n", list.data);
                else
                    buf_printf(&t, "%s, [%%t];\n", list.data);
                buf_printf(&t, "bar.warp.sync -1;\n");
                for (int j = 0; j < 4; j++)
                    if (store)
                        buf_printf(&t, "ld.shared.b32 %%r50, [%%t+%d]; st.global.b32 [%%x2+%d], %%r50;\n", 4 * j,
                                   4 * j);
                    else if (j < n)
                        buf_printf(&t, "st.global.b32 [%%x2+%d], %%o%d;\n", 4 * j, 4 + j);
                run_warp("sm_90", t.data, "ldmatrix", &f);
                buf_free(&t);
                buf_free(&list);
                for (int k = 0; k < n; k++)
                    for (int l = 0; l < 32; l++)
                        for (int j = 0; j < 2; j++) {
                            int r = trans ? 2 * (l % 4) + j : l / 4, c = trans ? l / 4 : 2 * (l % 4) + j;
                            u32 *rows = store ? f.out[8 * k + r] : f.in[8 * k + r];
                            u32 element = rows[c / 2] >> c % 2 * 16 & 0xffff,
                                held = (store ? f.in[l][4 + k] : f.out[l][k]) >> 16 * j & 0xffff;
                            assert_int_equal(element, held);
                        }
            }
    memset(&f, 0, sizeof f);
    for (int i = 0; i < 32; i++) f.in[i][0] = rnd(&seed);
    run_warp("sm_80",
             "ld.global.b32 %r0, [%x1]; movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r0; st.global.b32 [%x2], %r1;",
             "movmatrix", &f);
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 8; c++)
            assert_int_equal(f.in[r * 4 + c / 2][0] >> c % 2 * 16 & 0xffff,
                             f.out[c * 4 + r / 2][0] >> r % 2 * 16 & 0xffff);
}

/* The forms with bytes. A lane keeps its row, 16 bytes, in shared memory; what a row holds is judged element by
 * element. */
static const struct byte_form {
    const char *text;
    int registers, bits; /* of an element in memory */
    bool transposed, store;
} byte_forms[] = {
    {"ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8", 2, 8, true, false},
    {"ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8", 4, 8, true, false},
    {"ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8x16.b6x16_p32", 2, 6, true, false},
    {"ldmatrix.sync.aligned.m16n16.x2.trans.shared::cta.b8x16.b6x16_p32", 4, 6, true, false},
    {"ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8x16.b4x16_p64", 2, 4, true, false},
    {"ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8x16.b4x16_p64", 4, 4, true, false},
    {"ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b6x16_p32", 1, 6, false, false},
    {"ldmatrix.sync.aligned.m8n16.x2.shared.b8x16.b6x16_p32", 2, 6, false, false},
    {"ldmatrix.sync.aligned.m8n16.x4.shared.b8x16.b6x16_p32", 4, 6, false, false},
    {"ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64", 1, 4, false, false},
    {"ldmatrix.sync.aligned.m8n16.x2.shared.b8x16.b4x16_p64", 2, 4, false, false},
    {"ldmatrix.sync.aligned.m8n16.x4.shared.b8x16.b4x16_p64", 4, 4, false, false},
    {"stmatrix.sync.aligned.m16n8.x1.trans.shared.b8", 1, 8, true, true},
    {"stmatrix.sync.aligned.m16n8.x2.trans.shared.b8", 2, 8, true, true},
    {"stmatrix.sync.aligned.m16n8.x4.trans.shared.b8", 4, 8, true, true},
};
static u32 packed_element(const u32 *row, int bits, int i) { /* bit by bit */
    u32 v = 0;
    for (int k = 0; k < bits; k++) v |= (row[(i * bits + k) / 32] >> (i * bits + k) % 32 & 1) << k;
    return v;
}
static void t_byte_matrices(void **unused) {
    (void)unused;
    static struct fragments f;
    for (size_t k = 0; k < sizeof byte_forms / sizeof *byte_forms; k++) {
        const struct byte_form *b = &byte_forms[k];
        memset(&f, 0, sizeof f);
        for (int i = 0; i < 32; i++)
            for (int j = 0; j < 8; j++) f.in[i][j] = rnd(&seed);
        struct buf t = {0}, list = {0};
        registers(&t, &list, 4, b->registers, false, !b->store);
        buf_printf(&t, "mov.u32 %%t, sh; xor.b32 %%r40, %%n, 9; mad.lo.u32 %%t, %%r40, 48, %%t;\n");
        for (int j = 0; j < b->bits / 2; j++) /* what is behind the elements is never written, and never read */
            buf_printf(&t, "ld.global.b32 %%r%d, [%%x1+%d]; st.shared.b32 [%%t+%d], %%r%d;\n", 50 + j, 4 * j, 4 * j,
                       50 + j);
        buf_printf(&t, "bar.warp.sync -1; %s %s, %s; bar.warp.sync -1;\n", b->text, b->store ? "[%t]" : list.data,
                   b->store ? list.data : "[%t]");
        for (int j = 0; j < 4; j++)
            if (b->store)
                buf_printf(&t, "ld.shared.b32 %%r50, [%%t+%d]; st.global.b32 [%%x2+%d], %%r50;\n", 4 * j, 4 * j);
            else if (j < b->registers)
                buf_printf(&t, "st.global.b32 [%%x2+%d], %%o%d;\n", 4 * j, 4 + j);
        run_warp("sm_100a", t.data, b->text, &f);
        buf_free(&t);
        buf_free(&list);
        for (int lane = 0; lane < 32; lane++)
            for (int r = 0; r < b->registers; r++)
                for (int j = 0; j < 4; j++) {
                    int g = lane >> 2, t4 = lane % 4, row, col;
                    if (b->store) { /* 16 x 8, by columns: rows g and g + 8 of columns 2 t and 2 t + 1 */
                        row = 8 * r + t4 * 2 + (j & 1), col = g + (j >= 2 ? 8 : 0);
                        assert_int_equal(packed_element(f.out[row], 8, col), f.in[lane][4 + r] >> 8 * j & 255);
                        continue;
                    }
                    if (b->transposed) /* 16 x 16, by columns: four consecutive rows of memory, columns g and g + 8 */
                        row = 16 * (r / 2) + 4 * t4 + j, col = g + 8 * (r % 2);
                    else
                        row = 8 * r + g, col = 4 * t4 + j;
                    u32 e = packed_element(f.in[row], b->bits, col), got = f.out[lane][r] >> 8 * j & 255;
                    if (got != e)
                        fail_msg("%s: lane %d register %d byte %d: %x, expected %x", b->text, lane, r, j, got, e);
                }
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_mma), cmocka_unit_test(t_mma_quads), cmocka_unit_test(t_wmma),
                                       cmocka_unit_test(t_ldmatrix), cmocka_unit_test(t_byte_matrices)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
