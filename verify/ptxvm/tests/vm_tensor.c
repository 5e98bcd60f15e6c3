/* Tensor copies: boxes of every rank, type, swizzle, stride and filling, columns of im2col, reductions, multicast and
 * changed descriptors, against models that go element by element. */
#include "verify/ptxvm/tests/vm_formats.h"

enum { BOX_BYTES = 16 << 10, TENSOR_BYTES = 1 << 18 };
static uint32_t seed = 4242;
static unsigned char tensor[TENSOR_BYTES], expected[TENSOR_BYTES], got[TENSOR_BYTES], box[BOX_BYTES],
    box_got[BOX_BYTES];
static uint64_t d_tensor, d_box;

static const struct type {
    int number, bytes; /* CUtensorMapDataType */
    const char *name;
    const struct format *format;
} types[] = {{0, 1, "u8", NULL},  {1, 2, "u16", NULL},   {2, 4, "u32", NULL},  {3, 4, "s32", NULL},
             {4, 8, "u64", NULL}, {5, 8, "s64", NULL},   {6, 2, "f16", &F16},  {7, 4, "f32", &F32},
             {8, 8, "f64", &F64}, {9, 2, "bf16", &BF16}, {10, 4, "f32", &F32}, {11, 4, "f32", &F32}};

static uint32_t below(uint32_t n) {
    return rnd(&seed) % n;
}

/* ---- one copy ---- */
struct copy {
    struct vm_tensor_map map;
    int at[5], offset[3];
    const char *instruction;  /* of thread 0, with the shared memory at sh, the mbarrier at bar */
    const char *before, *all; /* what thread 0 does first, and then all threads, with the map at copy; NULL: nothing */
    uint32_t bytes;           /* of the box in shared memory */
    bool store;
};

static int run_copy(const struct copy *c, const char *name, struct vm_fault *fault) {
    struct buf t = {0};
    buf_printf(&t,
               ".version 8.6\n.target sm_90a\n.address_size 64\n"
               ".visible .entry k(.param .align 64 .b8 map[128], .param .u64 pbox, .param .u64 pin) {\n"
               ".reg .b64 %%x<16>; .reg .b32 %%r<16>; .reg .b32 %%c<5>; .reg .b16 %%o<3>; .reg .pred %%p<4>;\n"
               ".shared .align 1024 .b8 sh[%d]; .shared .align 8 .b64 bar; .shared .align 128 .b8 copy[128];\n"
               "ld.param.u64 %%x1, [pbox]; ld.param.u64 %%x2, [pin]; mov.b64 %%x0, map; cvta.param.u64 %%x0, %%x0;\n",
               BOX_BYTES);
    for (int i = 0; i < 5; i++) buf_printf(&t, "ld.global.u32 %%c%d, [%%x2+%d];\n", i, 4 * i);
    for (int i = 0; i < 3; i++) buf_printf(&t, "ld.global.u16 %%o%d, [%%x2+%d];\n", i, 20 + 4 * i);
    buf_printf(&t,
               "mov.u32 %%r0, %%tid.x; setp.eq.u32 %%p0, %%r0, 0; mov.u32 %%r5, sh; shl.b32 %%r1, %%r0, 2;\n"
               "@%%p0 mbarrier.init.shared.b64 [bar], 1; mul.wide.u32 %%x3, %%r1, 1; add.u64 %%x1, %%x1, %%x3;\n"
               "add.u32 %%r6, %%r5, %%r1; bar.sync 0; @!%%p0 bra B; %s\nB: bar.sync 0; %s\n",
               c->before ? c->before : "", c->all ? c->all : "");
    uint32_t bytes = (c->bytes + 127) & ~127u; /* swizzles fill whole lines */
    for (uint32_t i = 0; i < bytes && !c->store; i += 128) buf_printf(&t, "st.shared.u32 [%%r6+%u], %%r0;\n", i);
    buf_printf(&t, "bar.sync 0;\n");
    const char *loop =
        "L: setp.ge.u32 %%p1, %%r1, %u; @%%p1 bra E; %s add.u32 %%r1, %%r1, 128; add.u32 %%r6, %%r6, 128;\n"
        "add.u64 %%x1, %%x1, 128; bra L; E:\n";
    if (c->store) {
        buf_printf(&t, loop, bytes, "ld.global.u32 %r2, [%x1]; st.shared.u32 [%r6], %r2;");
        buf_printf(&t,
                   "fence.proxy.async.shared::cta; bar.sync 0; @!%%p0 bra F; %s cp.async.bulk.commit_group;\n"
                   "cp.async.bulk.wait_group 0; F:\n",
                   c->instruction);
    } else {
        buf_printf(&t,
                   "@!%%p0 bra W; mbarrier.arrive.expect_tx.shared.b64 _, [bar], %u; %s\n"
                   "W: mbarrier.try_wait.parity.shared.b64 %%p1, [bar], 0; @!%%p1 bra W;\n",
                   c->bytes, c->instruction);
        buf_printf(&t, loop, bytes, "ld.shared.u32 %r2, [%r6]; st.global.u32 [%x1], %r2;");
    }
    buf_printf(&t, "ret;\n}\n");
    struct vm_module *m = load_text(t.data, name);
    struct vm_function *f = function(m, "k");
    int32_t in[64] = {0}; /* coordinates, offsets, and room for a map at 128 */
    for (int i = 0; i < 8; i++) in[i] = i < 5 ? c->at[i] : c->offset[i - 5];
    uint64_t d_in = device(sizeof in, in);
    unsigned char args[144];
    memcpy(args, &c->map, 128);
    memcpy(args + 128, &d_box, 8);
    memcpy(args + 136, &d_in, 8);
    struct vm_launch_params p = {{1, 1, 1}, {32, 1, 1}, {0, 0, 0}, 0, args, sizeof args, false, false, NULL};
    int r = vm_launch(f, &p, fault, NULL);
    vm_mem_free(d_in);
    vm_module_free(m);
    buf_free(&t);
    return r;
}

static void copy_or_fail(const struct copy *c, const char *name) {
    struct vm_fault fault;
    int r = run_copy(c, name, &fault);
    if (r) fail_msg("%s: %s: %d %s", name, c->instruction, r, fault.text);
}

static void fill_memory(void) {
    for (int i = 0; i < TENSOR_BYTES; i++) tensor[i] = (unsigned char)rnd(&seed);
    for (int i = 0; i < BOX_BYTES; i++) box[i] = (unsigned char)rnd(&seed);
    assert_int_equal(vm_mem_copy(d_tensor, (uint64_t)(uintptr_t)tensor, TENSOR_BYTES), 0);
    assert_int_equal(vm_mem_copy(d_box, (uint64_t)(uintptr_t)box, BOX_BYTES), 0);
    memcpy(expected, tensor, sizeof expected);
}

/* Where byte b of a dense box lies under a swizzle: 16-byte units of a 128-byte line change places. */
static uint32_t swizzled(uint32_t b, int swizzle) {
    uint32_t line = b / 128, unit = b / 16 % 8, mask = swizzle == 3 ? 7 : swizzle == 2 ? 3 : swizzle == 1 ? 1 : 0;
    return line * 128 + (unit ^ (line & mask)) * 16 + b % 16;
}

static struct vm_tensor_map random_map(const struct type *t, int rank, int swizzle) {
    struct vm_tensor_map m = {.base = d_tensor,
                              .type = (uint8_t)t->number,
                              .rank = (uint8_t)rank,
                              .swizzle = (uint8_t)swizzle,
                              .magic = VM_TENSOR_MAP_MAGIC};
    uint64_t stride = 0;
    for (int d = 0; d < rank; d++) {
        m.dim[d] = d ? 1 + below(rank > 3 ? 4 : 9) : 1 + below(150 / (uint32_t)t->bytes + 1);
        m.elem_stride[d] = (uint8_t)(1 + below(3));
        m.box[d] = d ? 1 + below(rank > 3 ? 3 : 6) : 0;
        stride = d ? (stride * m.dim[d] + 15) / 16 * 16 : (m.dim[0] * (uint64_t)t->bytes + 15) / 16 * 16;
        if (d < 4) m.stride[d] = stride + 16 * below(3);
        if (d < 4) stride = m.stride[d];
    }
    uint32_t widest = swizzle ? 16u << swizzle : 128, units = widest / 16;
    m.box[0] = 16 * (1 + below(units)) / (uint32_t)t->bytes;
    return m;
}

/* Elements of the box in order, each with its place in the tensor (-1: outside). */
static uint32_t tiles(const struct vm_tensor_map *m, const int *at, int bytes, int64_t *place) {
    uint32_t count[5], n = 1;
    for (int d = 0; d < m->rank; d++) {
        count[d] = d ? (m->box[d] + m->elem_stride[d] - 1u) / m->elem_stride[d] : m->box[0];
        n *= count[d];
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i;
        int64_t where = 0;
        for (int d = 0; d < m->rank; d++) {
            int64_t c = at[d] + (int64_t)(k % count[d]) * (d ? m->elem_stride[d] : 1);
            k /= count[d];
            if (c < 0 || c >= (int64_t)m->dim[d]) where = INT64_MIN;
            if (where >= 0) where += c * (d ? (int64_t)m->stride[d - 1] : bytes);
        }
        place[i] = where < 0 ? -1 : where;
    }
    return n;
}

/* The same for columns: pixels in the order of their numbers in the grid that the corners and strides span. */
static uint32_t columns(const struct vm_tensor_map *m, const int *at, const int *offset, int bytes, int64_t *place) {
    int spatial = m->rank - 2;
    int64_t size[3], number = at[m->rank - 1];
    for (int d = spatial; d >= 1; d--) {
        int64_t lo = m->lower[d - 1], hi = (int64_t)m->dim[d] - 1 + m->upper[d - 1];
        size[d - 1] = (hi - lo) / m->elem_stride[d] + 1;
        number = number * size[d - 1] + (at[d] - lo) / m->elem_stride[d];
    }
    for (uint32_t p = 0; p < m->box[1]; p++, number++) {
        int64_t k = number, where = 0;
        for (int d = 1; d < m->rank; d++) {
            int64_t c = k;
            if (d <= spatial) {
                c = m->lower[d - 1] + k % size[d - 1] * m->elem_stride[d] + (offset ? offset[d - 1] : 0);
                k /= size[d - 1];
            }
            if (c < 0 || c >= (int64_t)m->dim[d]) where = INT64_MIN;
            if (where >= 0) where += c * (int64_t)m->stride[d - 1];
        }
        for (uint32_t e = 0; e < m->box[0]; e++) {
            int64_t c = at[0] + (int64_t)e;
            place[p * m->box[0] + e] = where < 0 || c < 0 || c >= (int64_t)m->dim[0] ? -1 : where + c * bytes;
        }
    }
    return m->box[0] * m->box[1];
}

static const char *const coordinates[] = {"%c0", "%c0, %c1", "%c0, %c1, %c2", "%c0, %c1, %c2, %c3",
                                          "%c0, %c1, %c2, %c3, %c4"};
static const char *const offsets[] = {"%o0", "%o0, %o1", "%o0, %o1, %o2"};

static void check_load(const struct copy *c, const struct type *t, uint32_t n, const int64_t *place, const char *what) {
    fetch(box_got, d_box, BOX_BYTES);
    for (uint32_t i = 0; i < n; i++) {
        unsigned char e[8] = {0};
        if (place[i] >= 0)
            memcpy(e, tensor + place[i], (size_t)t->bytes);
        else if (c->map.nan_fill)
            for (int k = 0; k < t->bytes; k++) e[k] = k == t->bytes - 1 ? 0x7f : 0xff;
        uint32_t at = swizzled(i * (uint32_t)t->bytes, c->map.swizzle);
        if (memcmp(box_got + at, e, (size_t)t->bytes)) fail_msg("%s of %s: element %u of %u", what, t->name, i, n);
    }
}

static void place_box(struct copy *c, const struct type *t, bool im2col) {
    for (int d = 0; d < c->map.rank; d++) c->at[d] = (int)below((uint32_t)c->map.dim[d] + 4) - 3;
    if (!im2col) return;
    c->map.im2col = 1;
    c->map.box[1] = 1 + below(20);
    for (int d = 1; d < c->map.rank; d++) c->map.dim[d] += 3;
    c->map.stride[0] = (c->map.dim[0] * (uint64_t)t->bytes + 15) / 16 * 16;
    for (int d = 1; d + 1 < c->map.rank; d++) c->map.stride[d] = c->map.stride[d - 1] * c->map.dim[d];
    for (int d = 1; d + 1 < c->map.rank; d++) {
        c->map.lower[d - 1] = (int16_t)((int)below(4) - 2);
        c->map.upper[d - 1] = (int16_t)((int)below(3) - 2);
        c->offset[d - 1] = (int)below(3);
        int64_t lo = c->map.lower[d - 1], hi = (int64_t)c->map.dim[d] - 1 + c->map.upper[d - 1];
        int64_t size = (hi - lo) / c->map.elem_stride[d] + 1;
        c->at[d] = (int)(lo + (int64_t)below((uint32_t)size) * c->map.elem_stride[d]);
    }
    c->at[c->map.rank - 1] = (int)below((uint32_t)c->map.dim[c->map.rank - 1]);
}

static void t_loads(void **unused) {
    (void)unused;
    static int64_t place[BOX_BYTES];
    for (int round = 0; round < 240; round++) {
        const struct type *t = &types[below(sizeof types / sizeof *types)];
        int rank = 1 + round % 5, swizzle = round / 5 % 4;
        bool im2col = rank >= 3 && round / 20 % 2;
        struct copy c = {.map = random_map(t, rank, swizzle)};
        char text[300];
        place_box(&c, t, im2col);
        c.map.nan_fill = t->format && below(2);
        fill_memory();
        uint32_t n = im2col ? columns(&c.map, c.at, c.offset, t->bytes, place) : tiles(&c.map, c.at, t->bytes, place);
        c.bytes = n * (uint32_t)t->bytes;
        if (c.bytes > BOX_BYTES) continue;
        snprintf(text, sizeof text,
                 "cp.async.bulk.tensor.%dd.shared::cluster.global%s.mbarrier::complete_tx::bytes [sh], [%%x0, {%s}], "
                 "[bar]%s%s%s;",
                 rank,
                 im2col      ? ".im2col"
                 : round % 2 ? ".tile"
                             : "",
                 coordinates[rank - 1], im2col ? ", {" : "", im2col ? offsets[rank - 3] : "", im2col ? "}" : "");
        c.instruction = text;
        copy_or_fail(&c, im2col ? "im2col" : "tile");
        check_load(&c, t, n, place, text);
    }
}

/* ---- stores and reductions ---- */
static u64 combine(const char *op, const struct type *t, u64 x, u64 y) {
    int bits = 8 * t->bytes;
    if (t->format && t->bytes < 8) {
        long double a = format_value(t->format, x), b = format_value(t->format, y);
        if (!strcmp(op, "add")) return format_round(t->format, a + b, 'n', false);
        return (!strcmp(op, "min") ? a < b : a > b) ? x : y;
    }
    bool sgn = t->name[0] == 's';
    s64 a = (s64)(x << (64 - bits)) >> (64 - bits), b = (s64)(y << (64 - bits)) >> (64 - bits);
    if (!strcmp(op, "add")) return low_bits(x + y, bits);
    if (!strcmp(op, "min")) return (sgn ? a < b : x < y) ? x : y;
    if (!strcmp(op, "max")) return (sgn ? a > b : x > y) ? x : y;
    if (!strcmp(op, "inc")) return x >= y ? 0 : x + 1;
    if (!strcmp(op, "dec")) return !x || x > y ? y : x - 1;
    return !strcmp(op, "and") ? x & y : !strcmp(op, "or") ? x | y : x ^ y;
}
/* Numbers of similar size: every sum is within the format, and none is a NaN. */
static void tame(unsigned char *p, int bytes, const struct type *t, int n) {
    for (int i = 0; t->format && i < n / bytes; i++) {
        u64 v = format_round(t->format, (long double)((int)below(2000) - 1000) / 64, 'n', true);
        memcpy(p + i * bytes, &v, (size_t)bytes);
    }
}

static void t_stores(void **unused) {
    (void)unused;
    static int64_t place[BOX_BYTES];
    static const char *const ops[] = {NULL, "add", "min", "max", "inc", "dec", "and", "or", "xor"};
    for (int round = 0; round < 300; round++) {
        const struct type *t = &types[below(10)];
        const char *op = ops[round % 9];
        bool arithmetic = t->bytes >= 4 || t->format, bits = op && strchr("aox", op[0]) && strcmp(op, "add");
        if (op && (!arithmetic || t->number == 8 || (t->format && (bits || !strcmp(op, "inc") || !strcmp(op, "dec"))) ||
                   (t->number == 7 && strcmp(op, "add")) || ((op[0] == 'i' || op[0] == 'd') && t->number != 2)))
            t = &types[2];
        int rank = 1 + below(5), swizzle = (int)below(4);
        bool im2col = rank >= 3 && below(3) == 0;
        struct copy c = {.map = random_map(t, rank, swizzle), .store = true};
        char text[300];
        place_box(&c, t, im2col);
        fill_memory();
        tame(tensor, t->bytes, t, TENSOR_BYTES);
        tame(box, t->bytes, t, BOX_BYTES);
        assert_int_equal(vm_mem_copy(d_tensor, (uint64_t)(uintptr_t)tensor, TENSOR_BYTES), 0);
        assert_int_equal(vm_mem_copy(d_box, (uint64_t)(uintptr_t)box, BOX_BYTES), 0);
        memcpy(expected, tensor, sizeof expected);
        uint32_t n = im2col ? columns(&c.map, c.at, NULL, t->bytes, place) : tiles(&c.map, c.at, t->bytes, place);
        c.bytes = n * (uint32_t)t->bytes;
        if (c.bytes > BOX_BYTES) continue;
        snprintf(text, sizeof text,
                 "cp%s.async.bulk.tensor.%dd.global.shared::cta%s%s%s.bulk_group [%%x0, {%s}], [sh];",
                 op ? ".reduce" : "", rank, op ? "." : "", op ? op : "", im2col ? ".im2col_no_offs" : "",
                 coordinates[rank - 1]);
        c.instruction = text;
        copy_or_fail(&c, "store");
        for (uint32_t i = 0; i < n; i++) {
            if (place[i] < 0) continue;
            u64 x = 0, y = 0;
            memcpy(&x, expected + place[i], (size_t)t->bytes);
            memcpy(&y, box + swizzled(i * (uint32_t)t->bytes, swizzle), (size_t)t->bytes);
            if (op) y = combine(op, t, x, y);
            memcpy(expected + place[i], &y, (size_t)t->bytes);
        }
        fetch(got, d_tensor, TENSOR_BYTES);
        for (int i = 0; i < TENSOR_BYTES; i++)
            if (got[i] != expected[i]) fail_msg("%s of %s: byte %d of the tensor", text, t->name, i);
    }
}

/* ---- plain reductions: every operation and type ---- */
static void t_plain_reductions(void **unused) {
    (void)unused;
    static const struct {
        const char *op, *types;
    } forms[] = {{"add", "u32 s32 u64 f16 bf16 f32 f64"},
                 {"min", "u32 s32 u64 s64 f16 bf16"},
                 {"max", "u32 s32 u64 s64 f16 bf16"},
                 {"inc", "u32"},
                 {"dec", "u32"},
                 {"and", "b32 b64"},
                 {"or", "b32 b64"},
                 {"xor", "b32 b64"}};
    for (size_t k = 0; k < sizeof forms / sizeof *forms; k++) {
        char list[60], *rest = list;
        snprintf(list, sizeof list, "%s", forms[k].types);
        for (char *name; (name = strsep(&rest, " "));) {
            const struct type *t = NULL;
            for (size_t i = 0; i < sizeof types / sizeof *types && !t; i++)
                if (!strcmp(types[i].name, name[0] == 'b' && name[1] != 'f' ? (name[1] == '3' ? "u32" : "u64") : name))
                    t = &types[i];
            bool noftz = t->format && t->bytes == 2 && !strcmp(forms[k].op, "add");
            char text[200];
            fill_memory();
            tame(tensor, t->bytes, t, BOX_BYTES);
            tame(box, t->bytes, t, BOX_BYTES);
            assert_int_equal(vm_mem_copy(d_tensor, (uint64_t)(uintptr_t)tensor, BOX_BYTES), 0);
            assert_int_equal(vm_mem_copy(d_box, (uint64_t)(uintptr_t)box, BOX_BYTES), 0);
            snprintf(text, sizeof text,
                     "ld.param.u64 %%x5, [map]; cp.reduce.async.bulk.global.shared::cta.bulk_group.%s%s.%s [%%x5], "
                     "[sh], 256;",
                     forms[k].op, noftz ? ".noftz" : "", name);
            struct copy c = {.map = {.base = d_tensor}, .instruction = text, .bytes = 256, .store = true};
            copy_or_fail(&c, "reduce");
            fetch(got, d_tensor, 512);
            for (int i = 0; i < 512; i += t->bytes) {
                u64 x = 0, y = 0, z = 0;
                memcpy(&x, tensor + i, (size_t)t->bytes), memcpy(&y, box + i, (size_t)t->bytes);
                memcpy(&z, got + i, (size_t)t->bytes);
                double a, b;
                memcpy(&a, &x, 8), memcpy(&b, &y, 8);
                a += b;
                u64 e = i >= 256 ? x : combine(forms[k].op, t, x, y);
                if (t->number == 8 && i < 256) memcpy(&e, &a, 8);
                if (z != e)
                    fail_msg("%s: at %d %llx, expected %llx", text, i, (unsigned long long)z, (unsigned long long)e);
            }
        }
    }
}

/* ---- descriptors that a kernel changes: in shared memory, then copied to where the copy reads it ---- */
static void t_replace(void **unused) {
    (void)unused;
    static int64_t place[BOX_BYTES];
    struct copy c = {.map = random_map(&types[0], 2, 0), .at = {7, -1, 3}};
    struct vm_tensor_map now = {.base = d_tensor,
                                .type = 8,
                                .rank = 3,
                                .dim = {20, 9, 5},
                                .stride = {192, 2048},
                                .box = {8, 4, 3},
                                .elem_stride = {1, 2, 1},
                                .swizzle = 2,
                                .nan_fill = 1};
    static const char *const fields[] = {"global_dim", "box_dim", "element_stride"};
    struct buf t = {0};
    fill_memory();
    c.map.base += 4096;
    for (int i = 0; i < 128; i += 8)
        buf_printf(&t, "ld.param.b64 %%x5, [map+%d]; st.shared.b64 [copy+%d], %%x5;\n", i, i);
#define REPLACE(field, bits) "tensormap.replace.tile." field ".shared::cta.b1024.b" #bits " [copy], "
    buf_printf(&t, "ld.param.b64 %%x5, [map]; sub.u64 %%x5, %%x5, 4096;\n" REPLACE("global_address", 64) "%%x5;\n");
    buf_printf(&t, REPLACE("rank", 32) "2;\n"); /* dimensions - 1 */
    for (int d = 0; d < 3; d++) {
        uint32_t values[] = {(uint32_t)now.dim[d], now.box[d], now.elem_stride[d]};
        for (int k = 0; k < 3; k++)
            buf_printf(&t, "mov.u32 %%r9, %u; tensormap.replace.tile.%s.shared::cta.b1024.b32 [copy], %d, %%r9;\n",
                       values[k], fields[k], d);
        if (d < 2)
            buf_printf(&t, "mov.u64 %%x5, %d;\n" REPLACE("global_stride", 64) "%d, %%x5;\n", (int)now.stride[d], d);
    }
    buf_printf(&t, REPLACE("elemtype", 32) "9;\n"); /* f64, by the instruction's own numbers */
    buf_printf(&t, REPLACE("interleave_layout", 32) "0;\n" REPLACE("swizzle_mode", 32) "2;\n");
    buf_printf(&t, REPLACE("fill_mode", 32) "1;\n");
    c.before = t.data;
    c.all = "add.u64 %x6, %x2, 128; tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync."
            "aligned [%x6], [copy], 128; fence.proxy.tensormap::generic.acquire.gpu [%x6], 128;";
    c.instruction =
        "cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%x6, {%c0, %c1, %c2}];\n"
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [sh], [%x6, {%c0, "
        "%c1, %c2}], [bar];";
    uint32_t n = tiles(&now, c.at, 8, place);
    c.bytes = n * 8;
    copy_or_fail(&c, "replace");
    c.map = now;
    check_load(&c, &types[8], n, place, "replaced");
    buf_free(&t);
}

/* ---- what is refused: descriptors at run time, forms at lookup ---- */
static void t_bad_maps(void **unused) {
    (void)unused;
    struct vm_tensor_map good = {.base = d_tensor,
                                 .type = 2,
                                 .rank = 2,
                                 .dim = {64, 64},
                                 .stride = {256},
                                 .box = {16, 4},
                                 .elem_stride = {1, 1},
                                 .magic = VM_TENSOR_MAP_MAGIC};
    struct copy c = {.map = good, .bytes = 256};
    struct vm_fault fault;
#define LOAD2(to)                                                                                                      \
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [" to "], [%x0, {%c0, %c1}], [bar];"
    c.instruction = LOAD2("sh");
    fill_memory();
    assert_int_equal(run_copy(&c, "good", &fault), 0);
    c.instruction = LOAD2("sh+64"); /* not 128-byte aligned */
    assert_int_equal(run_copy(&c, "misaligned", &fault), VM_MISALIGNED);
    c.instruction = LOAD2("sh");
    for (int k = 0; k < 4; k++) {
        c.map = good;
        if (k == 0) c.map.magic = 0;
        if (k == 1) c.map.rank = 3;
        if (k == 2) c.map.im2col = 1;
        if (k == 3) c.map.interleave = 1;
        assert_int_equal(run_copy(&c, "bad", &fault), VM_ILLEGAL_INSTRUCTION);
        assert_string_equal(fault.kind, "bad tensor map");
    }
    c.map = good;
    c.map.dim[1] = 1 << 20; /* the box runs off the allocation */
    c.at[1] = 2000;
    assert_int_equal(run_copy(&c, "outside", &fault), VM_ILLEGAL_ADDRESS);
    c = (struct copy){.map = good, .bytes = 256, .store = true};
    c.map.type = 0, c.map.box[0] = 64;
    c.instruction = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group [%x0, {%c0, %c1}], [sh];";
    assert_int_equal(run_copy(&c, "reduce_bytes", &fault), VM_ILLEGAL_INSTRUCTION);
}

static bool known(const char *line) {
    struct buf t = {0};
    char log[1200];
    buf_printf(&t,
               ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .align 64 .b8 map[128]) {\n"
               ".reg .b64 %%x<4>; .reg .b32 %%r<4>; .reg .b16 %%h<4>; .shared .align 1024 .b8 sh[1024]; .shared .align "
               "8 .b64 bar;\n%s\nret;\n}\n",
               line);
    struct vm_module *m = load_text(t.data, "form");
    struct vm_function *f;
    bool ok = vm_module_function(m, "k", &f, log, sizeof log) == 0;
    vm_module_free(m);
    buf_free(&t);
    return ok;
}
static void t_forms(void **unused) {
    (void)unused;
#define TO_SHARED "cp.async.bulk.tensor.2d.shared::cluster.global"
#define DONE ".mbarrier::complete_tx::bytes"
#define OPS " [sh], [map, {%r0, %r1}], [bar]"
    static const char *const good[] = {
        TO_SHARED DONE OPS ";",
        TO_SHARED ".tile" DONE ".multicast::cluster" OPS ", %h0;",
        TO_SHARED ".tile" DONE ".multicast::cluster.L2::cache_hint" OPS ", %h0, %x0;",
        "cp.async.bulk.tensor.2d.shared::cta.global" DONE ".L2::cache_hint" OPS ", %x0;",
        "cp.async.bulk.shared::cluster.global" DONE
        ".multicast::cluster.L2::cache_hint [sh], [%x1], 16, [bar], %h0, %x0;",
        "cp.async.bulk.shared::cta.global" DONE " [sh], [%x1], 16, [bar];",
        "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%x1], [sh], 16, %x0;",
        "cp.async.bulk.prefetch.L2.global [%x1], 16;",
        "cp.async.bulk.prefetch.L2.global.L2::cache_hint [%x1], 16, %x0;",
        "cp.async.bulk.prefetch.tensor.2d.L2.global [map, {%r0, %r1}];",
        "cp.async.bulk.prefetch.tensor.3d.L2.global.im2col.L2::cache_hint [map, {%r0, %r1, %r2}], {%h0}, %x0;",
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group.L2::cache_hint [map, {%r0, %r1}], [sh], "
        "%x0;",
        "cp.reduce.async.bulk.shared::cluster.shared::cta" DONE ".add.u64 [sh], [sh+512], 16, [bar];"};
    static const char *const bad[] = {
        TO_SHARED DONE ".cta_group::1" OPS ";",
        TO_SHARED ".tile::gather4" DONE OPS ";",
        TO_SHARED ".im2col" DONE OPS ";",
        TO_SHARED ".bulk_group" OPS ";",
        "cp.async.bulk.tensor.2d.shared::cta.global" DONE ".multicast::cluster" OPS ", %h0;",
        "cp.async.bulk.tensor.6d.shared::cta.global" DONE OPS ";",
        "cp.async.bulk.shared::cta.shared::cta" DONE " [sh], [sh+512], 16, [bar];",
        "cp.async.bulk.global.shared::cta" DONE " [%x1], [sh], 16, [bar];",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f16 [%x1], [sh], 16;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.inc.u64 [%x1], [sh], 16;",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.min.f32 [%x1], [sh], 16;",
        "cp.reduce.async.bulk.shared::cluster.shared::cta" DONE ".add.f32 [sh], [sh+512], 16, [bar];",
        "cp.async.bulk.prefetch.global [%x1], 16;",
        "tensormap.replace.tile.rank.shared::cta.b1024.b64 [sh], %x0;",
        "tensormap.replace.tile.box_dim.shared::cta.b1024.b32 [sh], 5, %r0;"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!known(good[i])) fail_msg("not known: %s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (known(bad[i])) fail_msg("known: %s", bad[i]);
}

/* ---- multicast: one block's copy lands in the shared memory of all that its mask names ---- */
static void t_multicast(void **unused) {
    (void)unused;
    uint32_t x[64], y[4 * 64];
    for (int i = 0; i < 64; i++) x[i] = rnd(&seed);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, y);
    assert_int_equal(vm_mem_set(dy, 0, 4, 256, 1, 0), 0);
    struct vm_module *m = load_text(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 px, .param .u64 py) "
        ".reqnctapercluster "
        "4 {\n.reg .b64 %x<4>; .reg .b32 %r<8>; .reg .b16 %h; .reg .pred %p<3>; .shared .align 128 .b8 sh[256]; "
        ".shared "
        ".align 8 .b64 bar;\n"
        "mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p0, %r0, 0; ld.param.u64 %x0, [px];\n"
        "ld.param.u64 %x1, [py]; @%p0 mbarrier.init.shared.b64 [bar], 1; fence.mbarrier_init.release.cluster;\n"
        "@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256; barrier.cluster.arrive.aligned; "
        "barrier.cluster.wait.aligned;\n"
        "setp.eq.and.u32 %p1, %r1, 2, %p0; mov.u16 %h, 11;\n" /* blocks 0, 1 and 3 */
        "@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [sh], [%x0], 256, "
        "[bar], %h;\n"
        "setp.eq.u32 %p1, %r1, 2; @%p1 bra E;\n"
        "W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;\n"
        "mov.u32 %r2, sh; mad.lo.u32 %r2, %r0, 4, %r2; ld.shared.u32 %r3, [%r2]; mad.lo.u32 %r4, %r1, 64, %r0;\n"
        "mul.wide.u32 %x2, %r4, 4; add.u64 %x1, %x1, %x2; st.global.u32 [%x1], %r3;\n"
        "E: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; ret;\n}\n",
        "multicast.ptx");
    LAUNCH(m, "k", D1(4), D1(64), 0, dx, dy);
    fetch(y, dy, sizeof y);
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < 64; i++) assert_int_equal(y[b * 64 + i], b == 2 ? 0 : x[i]);
    vm_module_free(m);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    d_tensor = device(TENSOR_BYTES, tensor);
    d_box = device(BOX_BYTES, box);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_loads),    cmocka_unit_test(t_stores),   cmocka_unit_test(t_plain_reductions),
        cmocka_unit_test(t_replace),  cmocka_unit_test(t_bad_maps), cmocka_unit_test(t_forms),
        cmocka_unit_test(t_multicast)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
