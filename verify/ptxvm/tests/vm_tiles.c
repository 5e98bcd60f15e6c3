/* Tiles with ragged ends: rows and columns that were never written go through ldmatrix, cp.async, wmma and mma without
 * a finding as long as nobody looks at what comes of them. Where somebody does, the finding is the line that loaded
 * them, marked by //! here. */
#include "verify/ptxvm/tests/vm_test.h"

/* One warp. as: 16 rows of 32 bytes; bs: 8 of 32; ws: 1 KB. x: 512 written bytes and 512 unwritten; y: 1 KB of zeros.
 */
static const char prologue[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 px, .param .u64 py) {\n"
    ".reg .b32 %n, %g, %t, %at, %bt, %row, %r<16>, %a<8>, %b<8>, %d<8>; .reg .f32 %f<8>; .reg .b64 %x, %y, %z<4>;\n"
    ".reg .pred %p<8>;\n"
    ".shared .align 128 .b8 as[512]; .shared .align 128 .b8 bs[256]; .shared .align 128 .b8 ws[1024];\n"
    "ld.param.u64 %x, [px]; ld.param.u64 %y, [py]; mov.u32 %n, %laneid; shr.u32 %g, %n, 2; and.b32 %t, %n, 3;\n"
    "mov.b32 %f4, 0f00000000; mov.b32 %d4, 0;\n"
    "and.b32 %r0, %n, 15; shl.b32 %r1, %r0, 5; shr.u32 %r2, %n, 4; shl.b32 %r3, %r2, 4; add.u32 %at, %r1, %r3;\n"
    "mov.u32 %r0, as; add.u32 %at, %at, %r0;\n"
    "and.b32 %r0, %n, 7; shl.b32 %r1, %r0, 5; shr.u32 %r2, %n, 3; and.b32 %r2, %r2, 1; shl.b32 %r3, %r2, 4;\n"
    "add.u32 %bt, %r1, %r3; mov.u32 %r0, bs; add.u32 %bt, %bt, %r0; shl.b32 %row, %n, 4;\n"
    "shl.b32 %r0, %g, 5; shl.b32 %r1, %t, 3; add.u32 %r0, %r0, %r1; cvt.u64.u32 %z0, %r0; add.u64 %z0, %y, %z0;\n";

/* The first rows of a tile, 16 bytes a lane. */
#define FILL(TILE, ROWS, WORD)                                                                                         \
    "setp.lt.u32 %p0, %n, 2*" #ROWS "; mov.u32 %r0, " TILE "; add.u32 %r0, %r0, %row; mov.b32 %r1, " WORD ";\n"        \
    "@%p0 st.shared.v4.b32 [%r0], {%r1, %r1, %r1, %r1};\n"
#define ONES "0x3c003c00"
#define LOAD_A(MARK)                                                                                                   \
    "bar.warp.sync 0xffffffff;\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [%at]; " MARK "\n"
#define LOAD_B(MARK) "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%b0, %b1}, [%bt]; " MARK "\n"
#define PRODUCT                                                                                                        \
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%a0, %a1, %a2, %a3}, {%b0, %b1}, "       \
    "{%f4, %f4, %f4, %f4};\n"
/* D's rows below 8, those of ROWS - 8 behind; its columns below COLUMNS. */
#define STORE(ROWS, COLUMNS)                                                                                           \
    "shl.b32 %r0, %t, 1; setp.lt.u32 %p1, %r0, " #COLUMNS "; add.u32 %r0, %r0, 1; setp.lt.u32 %p2, %r0, " #COLUMNS     \
    ";\nadd.u32 %r0, %g, 8; setp.lt.u32 %p3, %r0, " #ROWS "; and.pred %p4, %p1, %p3; and.pred %p5, %p2, %p3;\n"        \
    "@%p1 st.global.f32 [%z0], %f0;\n@%p2 st.global.f32 [%z0+4], %f1;\n"                                               \
    "@%p4 st.global.f32 [%z0+256], %f2;\n@%p5 st.global.f32 [%z0+260], %f3;\n"
/* 16 bytes a lane of x into a tile; lanes from WRITTEN on read what was never written. */
#define COPY(TILE, WRITTEN)                                                                                            \
    "setp.lt.u32 %p0, %n, " #WRITTEN "; selp.b32 %r0, 0, 512, %p0; and.b32 %r1, %row, 255; add.u32 %r0, %r0, %r1;\n"   \
    "cvt.u64.u32 %z1, %r0; add.u64 %z1, %x, %z1; mov.u32 %r2, " TILE "; add.u32 %r2, %r2, %row;\n"                     \
    "cp.async.cg.shared.global [%r2], [%z1], 16;\ncp.async.wait_all;\n"
#define BYTES_A "bar.warp.sync 0xffffffff;\nldmatrix.sync.aligned.m8n8.x2.shared.b16 {%a0, %a1}, [%bt];\n"
#define BYTES_B "shl.b32 %r0, %n, 2; mov.u32 %r1, ws; add.u32 %r0, %r0, %r1;\nld.shared.b32 %b0, [%r0]; //!\n"
#define BYTES_PRODUCT(TYPE)                                                                                            \
    "mma.sync.aligned.m8n8k16.row.col.s32." TYPE "." TYPE ".s32 {%d0, %d1}, {%a0}, {%b0}, {%d4, %d4};\n"               \
    "st.global.v2.b32 [%z0], {%d0, %d1};\n"
#define WLOAD_A(MARK)                                                                                                  \
    "bar.warp.sync 0xffffffff;\nwmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%a0, %a1, %a2, %a3, %a4, %a5, "     \
    "%a6, %a7}, "                                                                                                      \
    "[as], 16; " MARK "\n"                                                                                             \
    "mov.b32 %b0, " ONES "; mov.b32 %b1, %b0; mov.b32 %b2, %b0; mov.b32 %b3, %b0; mov.b32 %b4, %b0; mov.b32 %b5, %b0;" \
    " mov.b32 %b6, %b0; mov.b32 %b7, %b0;\n"
#define WPRODUCT                                                                                                       \
    "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, {%a0, %a1, %a2, %a3, "  \
    "%a4, %a5, %a6, %a7}, {%b0, %b1, %b2, %b3, %b4, %b5, %b6, %b7}, {%f4, %f4, %f4, %f4, %f4, %f4, %f4, %f4};\n"
#define WSTORE(TO) "wmma.store.d.sync.aligned.row.m16n16k16" TO ", {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, 16;\n"

static const struct kernel {
    const char *name;
    bool finding;
    float first, last; /* elements 0 and `at` of y, when there is no finding */
    int at;
    const char *text;
} kernels[] = {
    {"whole_tile", false, 16, 16, 127,
     FILL("as", 16, ONES) FILL("bs", 8, ONES) LOAD_A("") LOAD_B("") PRODUCT STORE(16, 8)},
    {"unused_rows", false, 16, 16, 87,
     FILL("as", 11, ONES) FILL("bs", 8, ONES) LOAD_A("") LOAD_B("") PRODUCT STORE(11, 8)},
    {"used_row", true, 0, 0, 0, FILL("as", 11, ONES) FILL("bs", 8, ONES) LOAD_A("//!") LOAD_B("") PRODUCT STORE(12, 8)},
    {"unused_columns", false, 16, 16, 124,
     FILL("as", 16, ONES) FILL("bs", 5, ONES) LOAD_A("") LOAD_B("") PRODUCT STORE(16, 5)},
    {"used_column", true, 0, 0, 0,
     FILL("as", 16, ONES) FILL("bs", 5, ONES) LOAD_A("") LOAD_B("//!") PRODUCT STORE(16, 6)},
    {"used_column_beside_unused_rows", true, 0, 0, 0,
     FILL("as", 11, ONES) FILL("bs", 5, ONES) LOAD_A("") LOAD_B("//!") PRODUCT STORE(11, 6)},
    {"used_row_beside_unused_columns", true, 0, 0, 0,
     FILL("as", 11, ONES) FILL("bs", 5, ONES) LOAD_A("//!") LOAD_B("") PRODUCT STORE(12, 5)},
    {"sum_over_two_products", true, 0, 0, 0,
     FILL("as", 11, ONES) FILL("bs", 8, ONES) LOAD_A("//!") LOAD_B("") PRODUCT
     "mov.b32 %a0, " ONES "; mov.b32 %a1, %a0; mov.b32 %a2, %a0; mov.b32 %a3, %a0;\n"
     "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%a0, %a1, %a2, "
     "%a3}, {%b0, %b1}, {%f0, %f1, %f2, %f3};\n" STORE(16, 8)},
    {"branch_on_a_used_row", true, 0, 0, 0,
     FILL("as", 11, ONES) FILL("bs", 8, ONES) LOAD_A("//!") LOAD_B("") PRODUCT
     "setp.gt.f32 %p6, %f2, %f4;\n@%p6 bra L;\nst.global.f32 [%z0], %f4;\nL:\n"},
    {"written_again", false, 1, 1, 64,
     FILL("as", 11, ONES) FILL("bs", 8, ONES) LOAD_A("") LOAD_B("") PRODUCT
     "mov.b32 %f2, 0f3f800000; mov.b32 %f3, %f2; mov.b32 %f0, %f2; mov.b32 %f1, %f2;\n" STORE(16, 8)},
    {"cp_async_unused_rows", false, 16, 16, 87,
     COPY("as", 22) FILL("bs", 8, ONES) LOAD_A("") LOAD_B("") PRODUCT STORE(11, 8)},
    {"cp_async_used_row", true, 0, 0, 0,
     COPY("as", 22) FILL("bs", 8, ONES) LOAD_A("//!") LOAD_B("") PRODUCT STORE(12, 8)},
    {"cp_async_of_part_of_a_row", true, 0, 0, 0,
     FILL("as", 16, ONES) "add.u64 %z1, %x, 512; mov.u32 %r2, as;\nsetp.eq.u32 %p6, %n, 0;\nbar.warp.sync 0xffffffff;\n"
                          "@%p6 cp.async.ca.shared.global [%r2], [%z1], 16, 4;\ncp.async.wait_all;\n" FILL(
                              "bs", 8, ONES) LOAD_A("//!") LOAD_B("") PRODUCT STORE(16, 8)},
    {"integer_zero_times_unwritten", false, 0, 0, 64,
     FILL("as", 8, "0") BYTES_A "mov.b32 %a0, 0;\n" BYTES_B BYTES_PRODUCT("s8")},
    {"integer_one_times_unwritten", true, 0, 0, 0,
     FILL("as", 8, "0") BYTES_A "mov.b32 %a0, 1;\n" BYTES_B BYTES_PRODUCT("u8")},
    {"float_zero_times_unwritten", true, 0, 0, 0, FILL("as", 16, "0") LOAD_A("") LOAD_B("//!") PRODUCT STORE(16, 8)},
    {"wmma_unused_rows", false, 16, 16, 175,
     FILL("as", 11, ONES) WLOAD_A("")
         WPRODUCT WSTORE(".shared.f32 [ws]") "bar.warp.sync 0xffffffff;\nmov.u32 %r0, ws; shl.b32 %r1, %n, 2; add.u32 "
                                             "%r0, %r0, %r1; cvt.u64.u32 %z1, %r1; "
                                             "add.u64 %z1, %y, %z1;\nmov.u32 %r2, 0;\n"
                                             "L: setp.lt.u32 %p1, %r2, 6; and.b32 %r3, %n, 16; setp.eq.u32 %p2, %r3, "
                                             "0; setp.lt.u32 %p3, %r2, 5; "
                                             "or.pred %p2, %p2, %p3;\n"
                                             "ld.shared.f32 %f0, [%r0];\n@%p2 st.global.f32 [%z1], %f0;\nadd.u32 %r0, "
                                             "%r0, 128; add.u64 %z1, %z1, 128; "
                                             "add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 6;\n@%p1 bra L;\n"},
    {"wmma_used_row_in_shared_memory", true, 0, 0, 0,
     FILL("as", 11, ONES) WLOAD_A("")
         WPRODUCT WSTORE(".shared.f32 [ws]") "bar.warp.sync 0xffffffff;\nld.shared.f32 %f0, [ws+1020]; "
                                             "//!\nst.global.f32 [%y], %f0;\n"},
    {"wmma_used_row", true, 0, 0, 0, FILL("as", 11, ONES) WLOAD_A("//!") WPRODUCT WSTORE(".global.f32 [%y]")},
    {"movmatrix_unused_column", false, 1, 1, 0,
     FILL("as", 4, ONES)
         LOAD_A("") "movmatrix.sync.aligned.m8n8.trans.b16 %r4, %a0;\nsetp.lt.u32 %p1, %t, 2;\n"
                    "mov.b32 %f0, 0f3f800000;\n@%p1 st.global.b32 [%y+512], %r4;\nst.global.f32 [%y], %f0;\n"},
    {"movmatrix_used_column", true, 0, 0, 0,
     FILL("as", 4, ONES) LOAD_A("//!") "movmatrix.sync.aligned.m8n8.trans.b16 %r4, %a0;\nsetp.lt.u32 %p1, %t, 3;\n"
                                       "@%p1 st.global.b32 [%z0], %r4;\n"},
    {"stmatrix_used_row", true, 0, 0, 0,
     FILL("as", 11, ONES)
         LOAD_A("") "mov.u32 %r4, ws; add.u32 %r4, %r4, %row;\n"
                    "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r4], {%a0, %a1, %a2, %a3};\nbar.warp.sync 0xffffffff;\n"
                    "ld.shared.b32 %r5, [ws+240]; //!\nst.global.b32 [%y], %r5;\n"},
    {"stmatrix_unused_row", false, 1, 1, 0,
     FILL("as", 11, ONES)
         LOAD_A("") "mov.u32 %r4, ws; add.u32 %r4, %r4, %row;\n"
                    "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r4], {%a0, %a1, %a2, %a3};\nbar.warp.sync 0xffffffff;\n"
                    "ld.shared.b32 %r5, [ws+160];\nst.global.b32 [%y+8], %r5;\nmov.b32 %f0, 0f3f800000;\nst.global.f32 "
                    "[%y], %f0;\n"},
};

static void run(const struct kernel *k, struct buf *wrong) {
    struct buf t = {0};
    buf_printf(&t, "%s%s\nret;\n}\n", prologue, k->text);
    struct vm_module *m = load_text(t.data, k->name);
    uint16_t ones[256];
    float y[256] = {0};
    for (int i = 0; i < 256; i++) ones[i] = 0x3c00;
    uint64_t args[2] = {device(1024, NULL), device(sizeof y, y)};
    assert_int_equal(vm_mem_copy(args[0], (uint64_t)(uintptr_t)ones, sizeof ones), 0);
    struct vm_fault fault = {0};
    int r = launch_full(m, "k", D1(1), D1(32), 0, false, &fault, NULL, 2, args);
    if (k->finding ? r != VM_LAUNCH_FAILED || strcmp(fault.kind, "uninitialized load") || !marked(t.data, fault.line)
                   : r != 0)
        buf_printf(wrong, "%s: expected %s, found %d %s\n", k->name, k->finding ? "an uninitialized load" : "nothing",
                   r, fault.text);
    if (!k->finding && !r) {
        fetch(y, args[1], sizeof y);
        if (y[0] != k->first || (k->at && y[k->at] != k->last))
            buf_printf(wrong, "%s: %g and %g, expected %g and %g\n", k->name, y[0], y[k->at], k->first, k->last);
    }
    vm_mem_free(args[0]);
    vm_mem_free(args[1]);
    vm_module_free(m);
    buf_free(&t);
}

static void t_tiles(void **unused) {
    (void)unused;
    struct buf wrong = {0};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) run(&kernels[i], &wrong);
    expect_none(&wrong);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int keep = dup(2);
    if (!freopen("/dev/null", "w", stderr)) return 1; /* the findings' own lines */
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_tiles)};
    int failed = cmocka_run_group_tests_name("tiles", tests, NULL, NULL);
    dup2(keep, 2);
    return failed != 0;
}
