/* The counters of global memory of one launch, against what its addresses give by hand. */
#include "verify/ptxvm/tests/vm_test.h"

/* 4 blocks of 64 threads, %i: 4 bytes for each of the 256: 32 sectors of x and as many of y. */
static const char prologue[] =
    ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 px, .param .u64 py) {\n"
    ".reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %x, %y, %i, %j; .shared .align 16 .b8 s[1024];\n"
    "ld.param.u64 %x, [px]; ld.param.u64 %y, [py]; mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;\n"
    "mad.lo.u32 %r2, %r1, 64, %r0; mul.wide.u32 %i, %r2, 4; add.u64 %x, %x, %i; add.u64 %y, %y, %i;\n";

static const struct {
    const char *name;
    uint64_t sectors[2], unique[3]; /* loads and stores; those and either */
    const char *text;
} kernels[] = {
    {"nothing", {0, 0}, {0, 0, 0}, ""},
    {"coalesced", {32, 32}, {32, 32, 64}, "ld.global.f32 %f0, [%x]; st.global.f32 [%y], %f0;"},
    {"the_same_twice", {64, 0}, {32, 0, 32}, "ld.global.f32 %f0, [%x]; ld.global.f32 %f1, [%x];"},
    {"read_and_written", {32, 32}, {32, 32, 32}, "ld.global.f32 %f0, [%x]; st.global.f32 [%x], %f0;"},
    {"strided", {256, 0}, {256, 0, 256}, "mul.lo.u64 %j, %i, 7; add.u64 %x, %x, %j; ld.global.f32 %f0, [%x];"},
    /* every block reads the first 64 floats, by its own request each */
    {"shared_by_blocks", {32, 0}, {8, 0, 8}, "mul.wide.u32 %j, %r1, 256; sub.u64 %x, %x, %j; ld.global.f32 %f0, [%x];"},
    {"across_a_border", {36 + 4, 0}, {33, 0, 33}, "ld.global.f32 %f0, [%x+4];"},
    {"generic", {32, 0}, {32, 0, 32}, "ld.f32 %f0, [%x];"},
    {"shared_memory_is_none", {0, 0}, {0, 0, 0}, "mov.u32 %r3, s; ld.shared.f32 %f0, [%r3];"},
    {"asynchronous",
     {16, 0},
     {16, 0, 16},
     "mul.wide.u32 %j, %r2, 12; add.u64 %x, %x, %j; mov.u32 %r3, s; shl.b32 %r4, %r0, 4; add.u32 %r3, %r3, %r4;\n"
     "setp.lt.u32 %p0, %r2, 32; @%p0 cp.async.cg.shared.global [%r3], [%x], 16;"},
};

static void t_global_memory(void **unused) {
    (void)unused;
    static float x[4096];
    uint64_t args[2] = {device(sizeof x, x), device(sizeof x, x)};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        for (int threads = 1; threads <= 2; threads++) {
            struct buf t = {0};
            buf_printf(&t, "%s.reg .pred %%p0;\n%s\nret;\n}\n", prologue, kernels[i].text);
            struct vm_module *m = load_text(t.data, kernels[i].name);
            struct vm_counters c;
            struct vm_fault fault;
            vm_settings()->threads = threads;
            int r = launch_full(m, "k", D1(4), D1(64), 0, false, &fault, &c, 2, args);
            if (r) fail_msg("%s: %d %s", kernels[i].name, r, fault.text);
            const uint64_t *s = c.sectors[VM_S_GLOBAL], *u = c.unique_sectors;
            if (memcmp(u, kernels[i].unique, sizeof kernels[i].unique) || s[0] != kernels[i].sectors[0] ||
                s[1] != kernels[i].sectors[1])
                fail_msg("%s: sectors %d %d, unique %d %d %d", kernels[i].name, (int)s[0], (int)s[1], (int)u[0],
                         (int)u[1], (int)u[2]);
            vm_module_free(m);
            buf_free(&t);
        }
    vm_mem_free(args[0]);
    vm_mem_free(args[1]);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_global_memory)};
    return cmocka_run_group_tests_name("count", tests, NULL, NULL) != 0;
}
