/* mma with every pair of types that shares a shape, sparse A, and block scaling: each variant that LLVM's NVPTX backend
 * can emit. Fragments and metadata lie where the PTX manual and its figures say; numbers are exact in every order of
 * summation. */
#include "verify/ptxvm/tests/vm_fragments.h"

enum scale_type { NO_SCALE, UE8M0, UE4M3 };
struct variant {
    const char *target, *words; /* between row.col and the types */
    int k;
    enum kind a, b, c;           /* D is like C */
    bool sparse, ordered, bytes; /* e2m1 in bytes of its own */
    int vec;
    enum scale_type scales;
    bool kind_first;
};

/* ---- fragments of A and B by the number of bits of an element in registers; g = lane / 4, t = lane % 4 ---- */
static void place_a(int bits, int g, int t, int i, int *row, int *col) { /* dense, or the stored columns */
    int per = bits >= 32
                  ? 1
                  : 32 / bits; /* the manual's formulas of all shapes: registers take turns in rows, then columns */
    *row = i / per % 2 ? g + 8 : g;
    *col = i / (2 * per) * 4 * per + t * per + i % per;
}
static void place_b(int bits, int g, int t, int i, int *row, int *col) {
    int per = bits >= 32 ? 1 : 32 / bits;
    *row = i / per * 4 * per + t * per + i % per;
    *col = g;
}
/* The manual's "firstcol" of a stored element of a sparse A, and how many columns from there its register's elements
 * come from. One entry a shape, from its text. */
static int first_column(int bits, int k, int t, int i) {
    switch (bits * 1000 + k) {
    case 16016:
        return t * 4;
    case 16032:
        return i < 4 ? t * 4 : t * 4 + 16;
    case 32008:
        return t * 2;
    case 32016:
        return i < 2 ? t * 2 : t * 2 + 8;
    case 8032:
        return t * 8;
    case 8064:
        return i < 8 ? t * 8 : t * 8 + 32;
    case 4064:
        return t * 16;
    case 4128:
        return i < 16 ? t * 16 : t * 16 + 64;
    default:
        fail_msg("no such shape");
        return 0;
    }
}

/* ---- the metadata of lane 4 g + t: nibble q belongs to this row and chunk; false: the lane is not asked ---- */
static bool metadata_place(int bits, int chunks, int selector, int g, int t, int q, int *row, int *chunk) {
    if (chunks == 4) { /* one lane of four: its lower half row g, the upper one row g + 8 */
        *row = g + 8 * (q / 4), *chunk = q % 4;
        return t == selector;
    }
    if (chunks == 8 && bits >= 16) { /* a pair of lanes: the first four chunks, the others */
        *row = g + 8 * (q / 4), *chunk = t % 2 * 4 + q % 4;
        return t / 2 == selector;
    }
    *row = g + 8 * (t % 2); /* pairs of lanes: row g, row g + 8 */
    *chunk = chunks == 8 ? q : t / 2 * 8 + q;
    return chunks == 16 || t / 2 == selector;
}

static double scale_value(enum scale_type type, u32 code) {
    return type == UE8M0 ? ldexp(1, (int)code - 127) : (double)format_value(&E4M3, code);
}

static u64 in_register(const struct variant *v, enum kind kind, u64 code) {
    return v->bytes && kind == K_E2M1 ? code << 2 : code;
}

static void check(const struct variant *v) {
    static struct fragments f;
    static double a[16][256], b[256][8], c[16][8];
    static int column[16][128]; /* of the stored elements of A */
    const struct element *ea = &elements[v->a], *eb = &elements[v->b], *ec = &elements[v->c];
    enum { m = 16 };
    int bits_a = v->bytes && v->a == K_E2M1 ? 8 : ea->bits, bits_b = v->bytes && v->b == K_E2M1 ? 8 : eb->bits;
    int stored = v->sparse ? v->k / 2 : v->k, chunk = !v->sparse ? 0 : bits_a == 32 ? 2 : bits_a == 4 ? 8 : 4;
    bool sat = strstr(v->words, "sat") != NULL;
    memset(&f, 0, sizeof f);
    memset(a, 0, sizeof a);
    /* which columns are there: two indices a chunk, in either order unless ordered; columns 4 n + 3 are never taken
     * when B has NaN there */
    bool poison = v->sparse && ec->format && bits_a != 4 && bits_a != 32 && (eb->format->top != TOP_NUMBERS);
    static u32 nibble[16][16];
    for (int r = 0; r < m && v->sparse; r++)
        for (int q = 0; q < v->k / chunk; q++) {
            int first = (int)(rnd(&seed) % (poison ? 3 : 4)), second;
            do second = (int)(rnd(&seed) % (poison ? 3 : 4));
            while (second == first);
            if (v->ordered && second < first) {
                int swap = first;
                first = second, second = swap;
            }
            nibble[r][q] = (u32)(first | second << 2);
            if (chunk == 2) {
                int odd = (int)(rnd(&seed) & 1);
                nibble[r][q] = odd ? 0xe : 0x4;
                column[r][q] = 2 * q + odd;
            } else if (chunk == 4) {
                column[r][2 * q] = 4 * q + first, column[r][2 * q + 1] = 4 * q + second;
            } else {
                for (int j = 0; j < 4; j++) column[r][4 * q + j] = 8 * q + 2 * (j < 2 ? first : second) + j % 2;
            }
        }
    for (int r = 0; r < m; r++)
        for (int i = 0; i < stored; i++) a[r][v->sparse ? column[r][i] : i] = (double)random_value(ea);
    for (int i = 0; i < v->k; i++)
        for (int j = 0; j < 8; j++) b[i][j] = poison && i % 4 == 3 ? NAN : (double)random_value(eb);
    for (int r = 0; r < m; r++)
        for (int j = 0; j < 8; j++) {
            c[r][j] = (double)random_value(ec);
            if (sat && (r + j) % 4 == 0) c[r][j] = r & 1 ? INT32_MAX : INT32_MIN;
        }
    u32 scale_a[16][4], scale_b[4][8];
    static const u32 powers[4] = {125, 126, 127, 129}, fractions[4] = {0x30, 0x38, 0x3c, 0x44}; /* 0.5 1 1.5 3 */
    for (int i = 0; i < 64; i++) scale_a[i / 4][i % 4] = (v->scales == UE8M0 ? powers : fractions)[rnd(&seed) % 4];
    for (int i = 0; i < 32; i++) scale_b[i / 8][i % 8] = (v->scales == UE8M0 ? powers : fractions)[rnd(&seed) % 4];
    int per_lane[4] = {m * 8 / 32, m * stored / 32, v->k * 8 / 32, m * 8 / 32},
        bits[4] = {ec->bits, bits_a, bits_b, ec->bits};
    int words[4], at[7], next = 0;
    for (int i = 0; i < 4; i++) words[i] = per_lane[i] * bits[i] / 32, at[i] = next, next += words[i];
    for (int i = 4; i < 7; i++) at[i] = next++; /* metadata, scales of A and B */
    int most = chunk == 0          ? 0
               : v->k / chunk == 4 ? 3
               : v->k / chunk == 8 ? 1
                                   : 0,
        selector = (int)(rnd(&seed) % (u32)(most + 1));
    int byte_a = v->vec == 1   ? (int)(rnd(&seed) % 4)
                 : v->vec == 2 ? (int)(rnd(&seed) % 2) * 2
                               : 0,
        byte_b = v->vec == 1   ? (int)(rnd(&seed) % 4)
                 : v->vec == 2 ? (int)(rnd(&seed) % 2) * 2
                               : 0,
        thread_a = (int)(rnd(&seed) % 2), thread_b = (int)(rnd(&seed) % 4);
    for (int lane = 0; lane < 32; lane++) {
        int g = lane >> 2, t = lane % 4, r, col;
        for (int i = 0; i < per_lane[1]; i++) {
            place_a(bits_a, g, t, i, &r, &col);
            if (v->sparse) { /* the stored column lies in the columns that the manual gives */
                int first = first_column(bits_a, v->k, t, i), width = bits_a == 16   ? 4
                                                                      : bits_a == 32 ? 2
                                                                      : bits_a == 8  ? 8
                                                                                     : 16;
                assert_true(column[r][col] >= first && column[r][col] < first + width);
                col = column[r][col];
            }
            put_element(f.in[lane] + at[1], bits_a, i, in_register(v, v->a, encoded(ea, (s64)a[r][col])));
        }
        for (int i = 0; i < per_lane[2]; i++) {
            place_b(bits_b, g, t, i, &r, &col);
            u64 code = b[r][col] != b[r][col] ? eb->format->nan : encoded(eb, (s64)b[r][col]);
            put_element(f.in[lane] + at[2], bits_b, i, in_register(v, v->b, code));
        }
        for (int i = 0; i < per_lane[3]; i++)
            put_element(f.in[lane] + at[3], ec->bits, i, encoded(ec, (s64)c[i < 2 ? g : g + 8][t * 2 + (i & 1)]));
        for (int i = 4; i < 7; i++) f.in[lane][at[i]] = rnd(&seed); /* lanes and bytes that are not asked */
        bool asked = false;
        u32 word = 0;
        for (int q = 0; q < 8 && v->sparse; q++) {
            int row, which;
            asked = metadata_place(bits_a, v->k / chunk, selector, g, t, q, &row, &which);
            word |= nibble[row][which] << 4 * q;
        }
        if (asked) f.in[lane][at[4]] = word;
        for (int s = 0; s < v->vec; s++) {
            unsigned char *bytes = (unsigned char *)&f.in[lane][at[5]];
            if (t / 2 == thread_a) bytes[byte_a + s] = (unsigned char)scale_a[t % 2 ? g + 8 : g][s];
            bytes = (unsigned char *)&f.in[lane][at[6]];
            if (t == thread_b) bytes[byte_b + s] = (unsigned char)scale_b[s][g];
        }
    }
    struct buf text = {0}, list = {0};
    for (int i = 0; i < 4; i++) {
        if (i) buf_printf(&list, ", ");
        registers(&text, &list, at[i], words[i], false, i == 0);
    }
    for (int i = 4; i < 7; i++) buf_printf(&text, "ld.global.b32 %%r%d, [%%x1+%d];\n", at[i], 4 * at[i]);
    if (v->sparse) buf_printf(&list, ", %%r%d, %d", at[4], selector);
    if (v->vec) {
        buf_printf(&text,
                   "{.reg .u16 %%ba, %%ta, %%bb, %%tb; mov.u16 %%ba, %d; mov.u16 %%ta, %d; mov.u16 %%bb, %d; mov.u16 "
                   "%%tb, %d;\n",
                   byte_a, thread_a, byte_b, thread_b);
        if (rnd(&seed) & 1)
            buf_printf(&list, ", %%r%d, {%%ba, %%ta}, %%r%d, {%%bb, %%tb}", at[5], at[6]);
        else
            buf_printf(&list, ", %%r%d, {%d, %d}, %%r%d, {%d, %d}", at[5], byte_a, thread_a, at[6], byte_b, thread_b);
    }
    char name[300], shape[60];
    snprintf(shape, sizeof shape, ".m16n8k%d.row.col", v->k);
    snprintf(name, sizeof name, "mma%s.sync.aligned%s%s%s.%s.%s.%s.%s%s",
             !v->sparse   ? ""
             : v->ordered ? ".sp::ordered_metadata"
                          : ".sp",
             v->kind_first ? v->words : "", shape, v->kind_first ? "" : v->words, ec->name, ea->name, eb->name,
             ec->name,
             v->scales == UE8M0   ? ".ue8m0"
             : v->scales == UE4M3 ? ".ue4m3"
                                  : "");
    buf_printf(&text, "%s %s;%s\n", name, list.data, v->vec ? "}" : "");
    for (int i = 0; i < words[0]; i++) buf_printf(&text, "st.global.b32 [%%x2+%d], %%o%d;\n", 4 * i, i);
    run_warp(v->target, text.data, name, &f);
    buf_free(&text);
    buf_free(&list);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < per_lane[0]; i++) {
            int r = (lane >> 2) + (i < 2 ? 0 : 8), col = lane % 4 * 2 + (i & 1);
            double sum = c[r][col];
            for (int x = 0; x < v->k; x++) {
                bool there = !v->sparse;
                for (int y = 0; y < stored && !there; y++) there = column[r][y] == x;
                if (!there) continue;
                double factor = 1;
                if (v->vec)
                    factor = scale_value(v->scales, scale_a[r][x * v->vec / v->k]) *
                             scale_value(v->scales, scale_b[x * v->vec / v->k][col]);
                sum += a[r][x] * b[x][col] * factor;
            }
            if (sat) sum = sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum;
            u64 e = ec->format ? format_round(ec->format, sum, 'n', false) : low_bits((u64)(s64)sum, 32),
                got = get_element(f.out[lane], ec->bits, i);
            if (got != e)
                fail_msg("%s: row %d column %d: got %llx, expected %llx", name, r, col, (unsigned long long)got,
                         (unsigned long long)e);
        }
}

static const enum kind mixed[] = {K_E4M3, K_E5M2, K_E3M2, K_E2M3, K_E2M1}, wide_sums[] = {K_F32, K_F16};

/* ---- dense ---- */
static void t_types(void **unused) {
    (void)unused;
    static const enum kind i8[] = {K_S8, K_U8}, i4[] = {K_S4, K_U4};
    for (int form = 0; form < 16; form++) {
        const char *sat = form & 4 ? ".satfinite" : "";
        check(&(struct variant){"sm_80", sat, form & 8 ? 32 : 16, i8[form & 1], i8[form >> 1 & 1], K_S32, .vec = 0});
        check(&(struct variant){"sm_80", sat, form & 8 ? 64 : 32, i4[form & 1], i4[form >> 1 & 1], K_S32, .vec = 0});
        check(&(struct variant){"sm_120a", "", form & 8 ? 32 : 16, mixed[form & 1], mixed[form >> 1 & 1],
                                form & 4 ? K_F16 : K_F32, .vec = 0});
    }
    for (int form = 0; form < 50; form++)
        check(&(struct variant){.target = "sm_120a",
                                .words = ".kind::f8f6f4",
                                .k = 32,
                                .a = mixed[form % 5],
                                .b = mixed[form / 5 % 5],
                                .c = wide_sums[form / 25],
                                .bytes = true,
                                .kind_first = form & 1});
}

static const struct variant fours[] = {
    {.words = ".kind::mxf4.block_scale", .vec = 2, .scales = UE8M0},
    {.words = ".kind::mxf4.block_scale.scale_vec::2X", .vec = 2, .scales = UE8M0},
    {.words = ".kind::mxf4nvf4.block_scale.scale_vec::2X", .vec = 2, .scales = UE8M0},
    {.words = ".kind::mxf4nvf4.block_scale.scale_vec::4X", .vec = 4, .scales = UE4M3},
};
static void scaled(bool sparse) {
    for (int form = 0; form < 50; form++)
        check(&(struct variant){.target = "sm_120a",
                                .words = form < 25 ? ".kind::mxf8f6f4.block_scale.scale_vec::1X"
                                                   : ".kind::mxf8f6f4.block_scale",
                                .k = sparse ? 64 : 32,
                                .a = mixed[form % 5],
                                .b = mixed[form / 5 % 5],
                                .c = K_F32,
                                .bytes = true,
                                .sparse = sparse,
                                .ordered = sparse,
                                .vec = 1,
                                .scales = UE8M0,
                                .kind_first = form & 1});
    for (int form = 0; form < 32; form++) {
        struct variant v = fours[form % 4];
        v.target = "sm_120a";
        v.k = sparse ? 128 : 64;
        v.a = v.b = K_E2M1, v.c = K_F32;
        v.sparse = v.ordered = sparse;
        v.kind_first = form & 4;
        check(&v);
    }
}
static void t_scaled(void **unused) {
    (void)unused;
    scaled(false);
}

/* ---- sparse ---- */
static void t_sparse(void **unused) {
    (void)unused;
    static const enum kind i8[] = {K_S8, K_U8}, i4[] = {K_S4, K_U4};
    for (int form = 0; form < 64; form++) {
        bool ordered = form & 1, longer = form & 2;
        const char *sat = form & 16 ? ".satfinite" : "";
        enum kind sum = wide_sums[form >> 2 & 1];
        check(&(struct variant){"sm_80", "", longer ? 32 : 16, K_F16, K_F16, sum, .sparse = true, .ordered = ordered});
        check(&(struct variant){"sm_80", "", longer ? 32 : 16, K_BF16, K_BF16, K_F32, .sparse = true,
                                .ordered = ordered});
        check(
            &(struct variant){"sm_80", "", longer ? 16 : 8, K_TF32, K_TF32, K_F32, .sparse = true, .ordered = ordered});
        check(&(struct variant){"sm_80", sat, longer ? 64 : 32, i8[form >> 2 & 1], i8[form >> 3 & 1], K_S32,
                                .sparse = true, .ordered = ordered});
        check(&(struct variant){"sm_80", sat, longer ? 128 : 64, i4[form >> 2 & 1], i4[form >> 3 & 1], K_S32,
                                .sparse = true, .ordered = ordered});
        check(&(struct variant){"sm_89", "", 64, mixed[form >> 2 & 1], mixed[form >> 3 & 1], K_F32, .sparse = true,
                                .ordered = ordered});
    }
    for (int form = 0; form < 50; form++)
        check(&(struct variant){.target = "sm_120a",
                                .words = ".kind::f8f6f4",
                                .k = 64,
                                .a = mixed[form % 5],
                                .b = mixed[form / 5 % 5],
                                .c = wide_sums[form / 25],
                                .bytes = true,
                                .sparse = true,
                                .ordered = true,
                                .kind_first = form & 1});
}
static void t_sparse_scaled(void **unused) {
    (void)unused;
    scaled(true);
}

/* Metadata and selectors that PTX leaves undefined are findings; what has no form is an error at lookup. */
static void t_wrong(void **unused) {
    (void)unused;
    static const struct {
        const char *text, *kind;
    } findings[] = {
        {"mov.u32 %r4, 0x44444440; mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 %D, {%r0, %r1}, {%r2, %r3}, "
         "%C, %r4, 0;",
         "bad sparsity metadata"},
        {"mov.u32 %r4, 0x44444441; mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 %D, {%r0, "
         "%r1}, "
         "{%r2, %r3}, %C, %r4, 1;",
         "bad sparsity metadata"},
        {"mov.u32 %r4, 0x4444444d; mma.sp.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 %D, {%r0, %r1}, {%r2, %r3}, "
         "%C, %r4, 3;",
         "bad sparsity metadata"},
        {"mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.f32.e2m1.e2m1.f32.ue8m0 %D, {%r0, %r1, %r2, %r3}, "
         "{%r4, %r5}, "
         "%C, %r0, {1, 0}, %r0, {0, 0};",
         "bad scale selector"},
        {"mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.f32.e2m1.e2m1.f32.ue8m0 %D, {%r0, %r1, %r2, %r3}, "
         "{%r4, %r5}, "
         "%C, %r0, {0, 2}, %r0, {0, 0};",
         "bad scale selector"},
    };
    static const char *const wrong[] = {
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 %D, {%r0, %r1}, {%r2, %r3}, %C, %r4, 4;",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 %D, {%r0, %r1}, {%r2, %r3}, %C, %r4, %r5;",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 %D, {%r0, %r1}, {%r2, %r3}, %C;",
        "mma.sp.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 %D, {%r0}, {%r2}, %C, %r4, 0;",
        "mma.sp.sync.aligned.m16n8k64.row.col.kind::f8f6f4.f32.e4m3.e4m3.f32 %D, {%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, "
        "%r3}, %C, "
        "%r4, 0;",
        "mma.sync.aligned.m16n8k32.row.col.f32.e2m3.e4m3.f32 %D, {%r0, %r1, %r2, %r3}, {%r0, %r1}, %C;",
        "mma.sync.aligned.m16n8k16.row.col.kind::f8f6f4.f32.e4m3.e4m3.f32 %D, {%r0, %r1}, {%r0}, %C;",
        "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.f32.e2m1.e2m1.f32.ue8m0 %D, {%r0, %r1, %r2, "
        "%r3}, {%r4, "
        "%r5}, %C, %r0, {0, 0}, %r0, {0, 0};",
        "mma.sync.aligned.m16n8k64.row.col.kind::mxf4.f32.e2m1.e2m1.f32 %D, {%r0, %r1, %r2, %r3}, {%r4, %r5}, %C;",
        "mma.sync.aligned.m16n8k16.row.col.satfinite.f32.f16.f16.f32 %D, {%r0, %r1, %r2, %r3}, {%r4, %r5}, %C;",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f16 %D, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%r0, %r1};",
        "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32.satfinite {%f0, %f1, %f2, %f3, %f0, %f1, %f2, %f3}, {%r0, "
        "%r1, %r2, %r3, "
        "%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3, %r0, %r1, %r2, %r3}, {%f0, %f1, %f2, %f3, %f0, %f1, %f2, %f3};",
    };
    size_t n = sizeof findings / sizeof *findings;
    for (size_t k = 0; k < n + sizeof wrong / sizeof *wrong; k++) {
        struct buf t = {0};
        buf_printf(
            &t, ".version 8.8\n.target sm_120a\n.address_size 64\n.visible .entry k() {\n.reg .b32 %%r<8>; .reg .f32 "
                "%%f<8>;\nmov.u32 %%r5, 0; mov.u32 %%r4, 0x44444444;\n");
        for (const char *s = k < n ? findings[k].text : wrong[k - n]; *s; s++)
            if (!strncmp(s, "%D", 2) || !strncmp(s, "%C", 2))
                buf_printf(&t, s[1] == 'D' ? "{%%f0, %%f1, %%f2, %%f3}" : "{%%f4, %%f5, %%f6, %%f7}"), s++;
            else
                buf_printf(&t, "%c", *s);
        buf_printf(&t, "\nret;\n}\n");
        struct vm_module *m = load_text(t.data, "m.ptx");
        struct vm_function *f;
        struct vm_fault fault;
        char log[700];
        if (k < n) {
            int r = launch_full(m, "k", D1(1), D1(32), 0, false, &fault, NULL, 0, NULL);
            if (r != VM_LAUNCH_FAILED || strcmp(fault.kind, findings[k].kind))
                fail_msg("%s: %d %s", t.data, r, fault.text);
        } else {
            int r = vm_module_function(m, "k", &f, log, sizeof log);
            if (r != VM_INVALID_PTX || !strstr(log, "m.ptx line 7:")) fail_msg("%s: %d %s", wrong[k - n], r, log);
        }
        vm_module_free(m);
        buf_free(&t);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_types), cmocka_unit_test(t_scaled),
                                       cmocka_unit_test(t_sparse), cmocka_unit_test(t_sparse_scaled),
                                       cmocka_unit_test(t_wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
