/* Control flow that ends or leaves a thread, hints, and addresses of a cluster's shared memory. */
#include "verify/ptxvm/tests/vm_formats.h"

enum { N = 256 };
static u64 in[N][3], out[N][2];
static uint32_t seed = 12;

static void fill(void) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 3; j++) in[i][j] = rnd(&seed);
}

/* bra and bra.uni, forwards and backwards, guarded either way: Collatz steps, lane by lane as many as each needs. */
static void t_bra(void **unused) {
    (void)unused;
    for (int i = 0; i < N; i++) in[i][0] = 1 + (u64)i, in[i][1] = in[i][2] = 0;
    run_snippet(&(struct snippet){"sm_70",
                                  "mov.u32 %d, 0; mov.u32 %e, %a; bra.uni TEST;\n"
                                  "ODD: mad.lo.u32 %e, %e, 3, 1; bra COUNT;\n"
                                  "STEP: and.b32 %t, %e, 1; setp.eq.u32 %q, %t, 1; @%q bra ODD; shr.u32 %e, %e, 1;\n"
                                  "COUNT: add.u32 %d, %d, 1;\n"
                                  "TEST: setp.eq.u32 %p, %e, 1; @!%p bra STEP;",
                                  4, 4, 4, 4, 4},
                N, in, out);
    for (int i = 0; i < N; i++) {
        u64 v = in[i][0], steps = 0;
        for (; v != 1; steps++) v = v % 2 ? 3 * v + 1 : v / 2;
        assert_int_equal(out[i][0], steps);
        assert_int_equal(out[i][1], 1);
    }
}

/* Threads that have left: their stores are done, barriers and votes go on without them, and nothing behind is executed.
 */
static void t_exit(void **unused) {
    (void)unused;
    fill();
    run_snippet(&(struct snippet){"sm_70",
                                  "st.global.u32 [%l+4], %n; and.b32 %t, %a, 3; setp.eq.u32 %p, %t, 0; @%p exit;\n"
                                  "{bar.sync 0; mov.u32 %d, 77; activemask.b32 %e;\n"
                                  "setp.eq.u32 %q, %t, 1; @!%q bra GO; st.global.u32 [%l], 5; exit; GO:}",
                                  4, 4, 4, 4, 4},
                N, in, out);
    for (int i = 0; i < N; i++) {
        u64 t = in[i][0] & 3, mask = 0;
        for (int k = 0; k < 32; k++) mask |= (u64)((in[i / 32 * 32 + k][0] & 3) != 0) << k;
        assert_int_equal(out[i][0] >> 32, i); /* written before the end */
        assert_int_equal((u32)out[i][0], t == 0 ? 0 : t == 1 ? 5 : 77);
        assert_int_equal(out[i][1], t < 2 ? 0 : mask);
    }
}

static int launch_text(const char *body, int threads, u64 pointer, struct vm_fault *fault) {
    struct buf t = {0};
    buf_printf(&t,
               ".version 8.8\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 p) {\n"
               ".reg .b64 %%x<4>; .reg .b32 %%r<4>; .reg .pred %%p<2>; ld.param.u64 %%x0, [p]; mov.u32 %%r0, %%tid.x;\n"
               "%s\nret;\n}\n",
               body);
    struct vm_module *m = load_text(t.data, "c.ptx");
    int r = launch_full(m, "k", D1(1), D1(threads), 0, false, fault, NULL, 1, &pointer);
    vm_module_free(m);
    buf_free(&t);
    return r;
}
static int decode_text(const char *instruction, char log[700]) {
    struct buf t = {0};
    buf_printf(&t,
               ".version 8.8\n.target sm_90a\n.address_size 64\n.visible .entry k() {\n"
               ".reg .b64 %%x<4>; .reg .b32 %%r<4>; .reg .pred %%p<2>; .shared .align 128 .b8 sh[128];\n%s\nret;\n}\n",
               instruction);
    struct vm_module *m = load_text(t.data, "c.ptx");
    struct vm_function *f;
    int r = vm_module_function(m, "k", &f, log, 700);
    vm_module_free(m);
    buf_free(&t);
    return r;
}

/* trap ends the launch with the first thread that comes to it, and names it; a guard that is off lets it pass. */
static void t_trap(void **unused) {
    (void)unused;
    struct vm_fault fault;
    u64 a = device(4, NULL);
    assert_int_equal(launch_text("setp.eq.u32 %p0, %r0, 70;\n@%p0 trap;", 64, a, &fault), 0);
    assert_int_equal(launch_text("setp.eq.u32 %p0, %r0, 70;\n@%p0 trap;", 96, a, &fault), VM_LAUNCH_FAILED);
    assert_int_equal(fault.line, 7);
    assert_int_equal(fault.thread[0], 70);
    assert_string_equal(fault.kind, "trap");
    vm_mem_free(a);
}

/* What tells the hardware something and changes no value: the kernel's result is the same with and without. */
static void t_hints(void **unused) {
    (void)unused;
    static const char *const hints[] = {
        "brkpt;",
        "pmevent 15;",
        "pmevent.mask 0xffff;",
        "griddepcontrol.wait;",
        "griddepcontrol.launch_dependents;",
        "setmaxnreg.dec.sync.aligned.u32 24;",
        "setmaxnreg.inc.sync.aligned.u32 256;",
        "prefetch.global.L1 [%l];",
        "prefetch.local.L2 [%x0];", /* an address of nothing at all */
        "prefetch.L2 [%l];",
        "prefetch.global.L2::evict_last [%l];",
        "prefetch.global.L2::evict_normal [%l];",
        "prefetch.tensormap [%l];",
        "prefetchu.L1 [%l];",
        "prefetchu.L1 [%x0+8];",
        "and.b64 %x0, %l, -128; applypriority.global.L2::evict_normal [%x0], 128;",
        "and.b64 %x0, %l, -128; applypriority.L2::evict_normal [%x0], 128;",
        "createpolicy.fractional.L2::evict_last.b64 %x2, 1.0; st.global.L2::cache_hint.u32 [%l], %a, %x2;",
        "createpolicy.fractional.L2::evict_first.L2::evict_unchanged.b64 %x2;",
        "createpolicy.range.global.L2::evict_last.L2::evict_first.b64 %x2, [%l], 0x1000, 0x2000; "
        "ld.global.L2::cache_hint.u32 %t, [%l], %x2;",
        "mov.u64 %x1, 5; createpolicy.cvt.L2.b64 %x2, %x1;",
    };
    fill();
    for (size_t k = 0; k < sizeof hints / sizeof *hints; k++) {
        char text[500];
        snprintf(text, sizeof text, "st.global.u32 [%%l], %%a; %s xor.b32 %%d, %%a, %%b; add.u32 %%e, %%b, %%c;",
                 hints[k]);
        run_snippet(&(struct snippet){"sm_90a", text, 4, 4, 4, 4, 4}, N, in, out);
        for (int i = 0; i < N; i++)
            if (out[i][0] != (in[i][0] ^ in[i][1]) || out[i][1] != (u32)(in[i][1] + in[i][2]))
                fail_msg("%s: thread %d: %llx %llx", hints[k], i, (unsigned long long)out[i][0],
                         (unsigned long long)out[i][1]);
    }
}

/* Their wrong forms are errors at lookup. */
static void t_wrong_forms(void **unused) {
    (void)unused;
    static const char *const wrong[] = {
        "brkpt 1;",
        "exit 1;",
        "trap.uni;",
        "bra NOWHERE;",
        "pmevent 16;",
        "pmevent.mask 0x10000;",
        "pmevent %r0;",
        "griddepcontrol;",
        "griddepcontrol.stop;",
        "setmaxnreg.inc.sync.aligned.u32 20;",
        "setmaxnreg.inc.sync.aligned.u32 100;",
        "setmaxnreg.inc.sync.aligned.u32 264;",
        "setmaxnreg.inc.u32 64;",
        "prefetch.global.L3 [%x0];",
        "prefetch.shared.L1 [%x0];",
        "prefetch.local.L2::evict_last [%x0];",
        "prefetchu.L2 [%x0];",
        "prefetch.global.L1 %x0;",
        "applypriority.global.L2::evict_last [%x0], 128;",
        "applypriority.global.L2::evict_normal [%x0], 64;",
        "discard.shared.L2 [%x0], 128;",
        "discard.global.L1 [%x0], 128;",
        "discard.global.L2 [%x0], 256;",
        "createpolicy.fractional.b64 %x0;",
        "createpolicy.some.L2::evict_last.b64 %x0;",
        "createpolicy.fractional.L2::evict_last.b32 %r0;",
        "ldu.shared.u32 %r0, [sh];",
        "ldu.volatile.global.u32 %r0, [%x0];",
        "mapa.shared.u32 %r0, %r1, 0;",
        "mapa.u16 %r0, %r1, 0;",
        "getctarank.u32 %r0, %r1, 0;",
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        char log[700];
        int r = decode_text(wrong[k], log);
        if (r != VM_INVALID_PTX || !strstr(log, "c.ptx line 6:")) fail_msg("%s: %d %s", wrong[k], r, log);
    }
}

/* ldu: one address for the whole warp, every type of register. */
static void t_ldu(void **unused) {
    (void)unused;
    fill();
    u64 first = in[0][0] | in[0][1] << 32;
    memcpy(&in[0][0], &first, 8);
    run_snippet(&(struct snippet){"sm_70",
                                  "ld.param.u64 %x3, [pin]; ldu.global.u64 %d, [%x3]; ldu.s8 %e, [%x3+3];\n"
                                  "{.reg .b32 %v<2>; ldu.global.v2.u32 {%v0, %v1}, [%x3]; mov.b64 %x4, {%v1, %v0};\n"
                                  "xor.b64 %d, %d, %x4;}",
                                  8, 4, 8, 4, 4},
                N, in, out);
    for (int i = 0; i < N; i++) {
        assert_int_equal(out[i][0], first ^ (first << 32 | first >> 32));
        assert_int_equal(out[i][1], (u32)(int8_t)(first >> 24));
    }
}

/* discard: the line's bytes are no longer anything; a store makes them something again. Bad lines are found. */
static void t_discard(void **unused) {
    (void)unused;
    struct vm_fault fault;
    u32 words[128] = {0};
    u64 a = device(sizeof words, words);
    assert_int_equal(launch_text("discard.global.L2 [%x0], 128;\nst.global.u32 [%x0+8], %r0;\n"
                                 "ld.global.u32 %r1, [%x0+8];\nld.global.u32 %r1, [%x0+128];",
                                 1, a, &fault),
                     0);
    assert_int_equal(launch_text("ld.global.u32 %r1, [%x0+8];\nadd.u64 %x0, %x0, 128;\ndiscard.L2 [%x0], 128;\n"
                                 "ld.global.u32 %r1, [%x0+124];\nst.global.u32 [%x0], %r1;",
                                 1, a, &fault),
                     VM_LAUNCH_FAILED);
    assert_int_equal(fault.line, 9);
    assert_string_equal(fault.kind, "uninitialized load");
    assert_int_equal(launch_text("discard.global.L2 [%x0+64], 128;", 1, a, &fault), VM_MISALIGNED);
    assert_int_equal(launch_text("discard.global.L2 [%x0+512], 128;", 1, a, &fault), VM_ILLEGAL_ADDRESS);
    assert_int_equal(launch_text("applypriority.global.L2::evict_normal [%x0+4], 128;", 1, a, &fault), VM_MISALIGNED);
    assert_int_equal(launch_text("applypriority.global.L2::evict_normal [%x0+1024], 128;", 1, a, &fault),
                     VM_ILLEGAL_ADDRESS);
    vm_mem_free(a);
}

/* mapa and getctarank in clusters of 4: each thread writes its number into the block `rank ^ 1`'s shared memory through
 * the mapped address, in every form of it. */
static void t_mapa(void **unused) {
    (void)unused;
    static const char *const forms[] = {
        "mov.u32 %r3, sh; add.u32 %r3, %r3, %r4; mapa.shared::cluster.u32 %r5, %r3, %r2;\n"
        "st.shared::cluster.u32 [%r5], %r1; getctarank.shared::cluster.u32 %r6, %r5;\n"
        "getctarank.shared::cluster.u32 %r7, %r3;",
        "mapa.shared::cluster.u32 %r5, sh, %r2; add.u32 %r5, %r5, %r4; st.shared::cluster.u32 [%r5], %r1;\n"
        "getctarank.shared::cluster.u32 %r6, %r5; getctarank.shared::cluster.u32 %r7, sh+4;",
        "cvt.u64.u32 %x3, %r4; mapa.shared::cluster.u64 %x2, sh, %r2; add.u64 %x2, %x2, %x3;\n"
        "st.shared::cluster.u32 [%x2], %r1; getctarank.shared::cluster.u64 %r6, %x2;\n"
        "mov.u64 %x2, sh; getctarank.shared::cluster.u64 %r7, %x2;",
        "cvt.u64.u32 %x3, %r4; cvta.shared.u64 %x2, sh; add.u64 %x2, %x2, %x3; getctarank.u64 %r7, %x2;\n"
        "mapa.u64 %x2, %x2, %r2; st.u32 [%x2], %r1; getctarank.u64 %r6, %x2;",
    };
    enum { BLOCKS = 8, THREADS = 64 };
    for (size_t k = 0; k < sizeof forms / sizeof *forms; k++) {
        struct buf t = {0};
        buf_printf(
            &t,
            ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p) .reqnctapercluster 4 "
            "{\n.reg .b64 %%x<4>; .reg .b32 %%r<12>; .shared .align 4 .b8 sh[256];\n"
            "mov.u32 %%r0, %%tid.x; mov.u32 %%r8, %%ctaid.x; mad.lo.u32 %%r1, %%r8, %d, %%r0;\n"
            "mov.u32 %%r9, %%cluster_ctarank; xor.b32 %%r2, %%r9, 1; mul.lo.u32 %%r4, %%r0, 4;\n%s\n"
            "barrier.cluster.arrive; barrier.cluster.wait;\n"
            "mov.u32 %%r3, sh; add.u32 %%r3, %%r3, %%r4; ld.shared.u32 %%r5, [%%r3];\n"
            "ld.param.u64 %%x0, [p]; mul.wide.u32 %%x1, %%r1, 16; add.u64 %%x0, %%x0, %%x1;\n"
            "st.global.v4.u32 [%%x0], {%%r5, %%r6, %%r7, %%r9};\nret;\n}\n",
            THREADS, forms[k]);
        struct vm_module *m = load_text(t.data, "mapa");
        u32 got[BLOCKS * THREADS][4];
        u64 to = device(sizeof got, NULL);
        LAUNCH(m, "k", D1(BLOCKS), D1(THREADS), 0, to);
        fetch(got, to, sizeof got);
        for (int b = 0; b < BLOCKS; b++)
            for (int i = 0; i < THREADS; i++) {
                const u32 *g = got[b * THREADS + i];
                u32 expected[4] = {(u32)((b ^ 1) * THREADS + i), (u32)(b % 4) ^ 1, (u32)b % 4, (u32)b % 4};
                for (int j = 0; j < 4; j++)
                    if (g[j] != expected[j])
                        fail_msg("%s: block %d thread %d word %d: %u, expected %u", forms[k], b, i, j, g[j],
                                 expected[j]);
            }
        vm_mem_free(to);
        vm_module_free(m);
        buf_free(&t);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_bra),         cmocka_unit_test(t_exit),
                                       cmocka_unit_test(t_trap),        cmocka_unit_test(t_hints),
                                       cmocka_unit_test(t_wrong_forms), cmocka_unit_test(t_ldu),
                                       cmocka_unit_test(t_discard),     cmocka_unit_test(t_mapa)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
