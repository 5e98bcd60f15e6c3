/* mbarriers, form by form: one thread goes through a script and notes what it sees; and who is who in a cluster. */
#include "verify/ptxvm/tests/vm_test.h"

static void script(const char *name, const char *text, int n, const uint32_t *expected) {
    struct buf t = {0};
    uint32_t y[64] = {0};
    buf_printf(&t,
               ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 py) {\n"
               ".reg .b64 %%x<8>, %%s<8>; .reg .b32 %%r<32>; .reg .pred %%p<8>; .shared .align 8 .b64 b[4];\n"
               "ld.param.u64 %%x0, [py]; mov.u32 %%r31, b; mapa.shared::cluster.u32 %%r30, %%r31, 0;\n"
               "mov.u64 %%x1, b; cvta.shared.u64 %%x1, %%x1;\n%s\nret;\n}\n",
               text);
    struct vm_module *m = load_text(t.data, name);
    uint64_t d = device(sizeof y, y);
    LAUNCH(m, "k", D1(1), D1(1), 0, d);
    fetch(y, d, sizeof y);
    for (int i = 0; i < n; i++)
        if (y[i] != expected[i]) fail_msg("%s: word %d is %u, expected %u", name, i, y[i], expected[i]);
    vm_mem_free(d);
    vm_module_free(m);
    buf_free(&t);
}
#define NOTE_PENDING(i, state) "mbarrier.pending_count.b64 %r1, " state "; st.global.u32 [%x0+" #i "*4], %r1;\n"
#define NOTE_TEST(i, test) test " selp.u32 %r1, 1, 0, %p1; st.global.u32 [%x0+" #i "*4], %r1;\n"

static void t_mbarriers(void **unused) {
    (void)unused;
    script(
        "arrivals",
        "mbarrier.init.shared::cta.b64 [b], 3;\n"
        "mbarrier.arrive.shared.b64 %s0, [b];\n" NOTE_PENDING(0, "%s0") /* before the arrival */
        NOTE_TEST(
            1,
            "mbarrier.test_wait.shared.b64 %p1, [b], %s0;") "mbarrier.arrive.release.cta.shared::cta.b64 %s1, [b], "
                                                            "2;\n" NOTE_PENDING(2, "%s1")
                                                                NOTE_TEST(3, "mbarrier.test_wait.acquire.cta.shared::"
                                                                             "cta.b64 %p1, [b], %s0;")
                                                                    NOTE_TEST(4, "mbarrier.try_wait.parity.shared.b64 "
                                                                                 "%p1, [b], 0;")
                                                                        NOTE_TEST(5, "mbarrier.test_wait.parity."
                                                                                     "relaxed.cluster.shared.b64 %p1, "
                                                                                     "[b], 1;") "mbarrier.arrive.b64 "
                                                                                                "%s2, "
                                                                                                "[%x1];\n" NOTE_PENDING(
                                                                                                    6,
                                                                                                    "%s2") /* a generic
                                                                                                              address;
                                                                                                              the second
                                                                                                              phase has
                                                                                                              3 again */
        "mbarrier.inval.shared.b64 [b];\n",
        7, (uint32_t[]){3, 0, 2, 1, 1, 0, 3});
    script(
        "drops", /* the next phase takes fewer */
        "mbarrier.init.b64 [%x1], 4;\n"
        "mbarrier.arrive_drop.shared.b64 %s0, [b];\n" NOTE_PENDING(0, "%s0") "mbarrier.arrive_drop.release.cluster."
                                                                             "shared::cta.b64 %s0, [b], "
                                                                             "2;\n" NOTE_PENDING(
                                                                                 1,
                                                                                 "%s0") "mbarrier.arrive.shared.b64 _, "
                                                                                        "[b];\n" NOTE_TEST(2,
                                                                                                           "mbarrier."
                                                                                                           "test_wait."
                                                                                                           "shared.b64 "
                                                                                                           "%p1, [b], "
                                                                                                           "%s0;") "mba"
                                                                                                                   "rri"
                                                                                                                   "er."
                                                                                                                   "arr"
                                                                                                                   "ive"
                                                                                                                   ".sh"
                                                                                                                   "are"
                                                                                                                   "d."
                                                                                                                   "b64"
                                                                                                                   " %"
                                                                                                                   "s1,"
                                                                                                                   " ["
                                                                                                                   "b];"
                                                                                                                   "\n" NOTE_PENDING(3,
                                                                                                                                     "%s1"),
        4, (uint32_t[]){4, 3, 1, 1});
    script(
        "no_complete",
        "mbarrier.init.shared.b64 [b], 3; mbarrier.init.shared.b64 [b+8], 4;\n"
        "mbarrier.arrive.noComplete.release.cta.shared::cta.b64 %s0, [b], 2;\n" NOTE_PENDING(0, "%s0") NOTE_TEST(
            1,
            "mbarrier.test_wait.shared.b64 %p1, [b], %s0;") "mbarrier.arrive.shared.b64 %s1, [b];\n" NOTE_PENDING(2,
                                                                                                                  "%s1")
            NOTE_TEST(3, "mbarrier.test_wait.shared.b64 %p1, [b], %s0;") "mbarrier.arrive_drop.noComplete.b64 %s2, "
                                                                         "[%x1+8], 2;\n" NOTE_PENDING(
                                                                             4,
                                                                             "%s2") "mbarrier.arrive.shared.b64 _, "
                                                                                    "[b+8], 2; "
                                                                                    "mbarrier.arrive.shared.b64 %s3, "
                                                                                    "[b+8];\n" NOTE_PENDING(5, "%s3"),
        6, (uint32_t[]){3, 0, 1, 1, 4, 2});
    script("bytes", /* arrivals are not enough while bytes are missing, and bytes may come before they are expected */
           "mbarrier.init.shared.b64 [b], 1; mbarrier.init.shared.b64 [b+8], 1;\n"
           "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [b], 96; mbarrier.arrive.expect_tx.shared.b64 %s0, [b], "
           "32;\n" NOTE_PENDING(0, "%s0")
               NOTE_TEST(1, "mbarrier.test_wait.shared.b64 %p1, [b], %s0;") "mbarrier.complete_tx.relaxed.cta.shared::"
                                                                            "cta.b64 [b], 100;\n" NOTE_TEST(2, "mbarrie"
                                                                                                               "r.try_"
                                                                                                               "wait."
                                                                                                               "shared."
                                                                                                               "b64 "
                                                                                                               "%p1, "
                                                                                                               "[b], "
                                                                                                               "%s0;") "mbarrier.complete_tx.relaxed.cluster.shared::cta.b64 [b], 28;\n" NOTE_TEST(3, "mbarrier.try_wait.acquire.cta.shared.b64 %p1, [b], %s0, 100;") "mbarrier.complete_tx.relaxed.cta.shared.b64 [b+8], 16;\n" NOTE_TEST(
                                                                                4,
                                                                                "mbarrier.test_wait.parity.shared.b64 "
                                                                                "%p1, [b+8], 0;") "mbarrier.arrive_"
                                                                                                  "drop.expect_tx."
                                                                                                  "release.cta.shared."
                                                                                                  "b64 _, [b+8], "
                                                                                                  "16;\n" NOTE_TEST(5,
                                                                                                                    "mb"
                                                                                                                    "ar"
                                                                                                                    "ri"
                                                                                                                    "er"
                                                                                                                    ".t"
                                                                                                                    "ry"
                                                                                                                    "_w"
                                                                                                                    "ai"
                                                                                                                    "t."
                                                                                                                    "pa"
                                                                                                                    "ri"
                                                                                                                    "ty"
                                                                                                                    ".a"
                                                                                                                    "cq"
                                                                                                                    "ui"
                                                                                                                    "re"
                                                                                                                    ".c"
                                                                                                                    "lu"
                                                                                                                    "st"
                                                                                                                    "er"
                                                                                                                    ".s"
                                                                                                                    "ha"
                                                                                                                    "re"
                                                                                                                    "d:"
                                                                                                                    ":c"
                                                                                                                    "ta"
                                                                                                                    ".b"
                                                                                                                    "64"
                                                                                                                    " %"
                                                                                                                    "p1"
                                                                                                                    ", "
                                                                                                                    "[b"
                                                                                                                    "+8"
                                                                                                                    "],"
                                                                                                                    " 0"
                                                                                                                    ", "
                                                                                                                    "10"
                                                                                                                    "0"
                                                                                                                    ";"),
           6, (uint32_t[]){1, 0, 0, 1, 0, 1});
    script(
        "remote", /* addresses of the cluster: no token */
        "mbarrier.init.shared.b64 [b], 4;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r30];\n"
        "mbarrier.arrive.expect_tx.relaxed.cluster.shared::cluster.b64 _, [%r30], 8;\n"
        "mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r30], 8;\n"
        "mbarrier.arrive_drop.release.cluster.shared::cluster.b64 _, [%r30];\n"
        "mbarrier.arrive_drop.expect_tx.relaxed.cluster.shared::cluster.b64 _, [%r30], 4;\n" NOTE_TEST(
            0,
            "mbarrier.test_wait.parity.shared.b64 %p1, [b], 0;") "mbarrier.complete_tx.relaxed.cluster.shared::cluster."
                                                                 "b64 [%r30], 20;\n" NOTE_TEST(1,
                                                                                               "mbarrier.test_wait."
                                                                                               "parity.shared.b64 %p1, "
                                                                                               "[b], 0;") "mbarrier."
                                                                                                          "arrive."
                                                                                                          "shared.b64 "
                                                                                                          "%s0, "
                                                                                                          "[b];"
                                                                                                          "\n" NOTE_PENDING(2,
                                                                                                                            "%s0"),
        3, (uint32_t[]){0, 1, 2});
}

static void t_forms(void **unused) {
    (void)unused;
    static const char *const bad[] = {"mbarrier.init.shared::cluster.b64 [b], 1;",
                                      "mbarrier.test_wait.shared::cluster.b64 %p1, [%r30], %s0;",
                                      "mbarrier.test_wait.shared.b64 %p1, [b], %s0, 10;",
                                      "mbarrier.test_wait.release.cta.shared.b64 %p1, [b], %s0;",
                                      "mbarrier.arrive.acquire.cta.shared.b64 %s0, [b];",
                                      "mbarrier.arrive.release.shared.b64 %s0, [b];",
                                      "mbarrier.arrive.noComplete.shared.b64 %s0, [b];",
                                      "mbarrier.arrive.expect_tx.shared.b64 %s0, [b];",
                                      "mbarrier.arrive.shared.b32 %s0, [b];",
                                      "mbarrier.expect_tx.shared.b64 [b];"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct buf t = {0};
        char log[1000];
        buf_printf(&t,
                   ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k() {\n"
                   ".reg .b64 %%s0; .reg .b32 %%r30; .reg .pred %%p1; .shared .b64 b;\n%s\nret;\n}\n",
                   bad[i]);
        struct vm_module *m = load_text(t.data, "form");
        struct vm_function *f;
        if (vm_module_function(m, "k", &f, log, sizeof log) != VM_INVALID_PTX) fail_msg("known: %s", bad[i]);
        vm_module_free(m);
        buf_free(&t);
    }
}

/* ---- clusters: every block of a grid writes who it is; its neighbour's shared memory says the same ---- */
static void t_clusters(void **unused) {
    (void)unused;
    static const char text[] =
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 py) {\n"
        ".reg .b64 %x<8>; .reg .b32 %r<40>; .reg .pred %p<4>; .shared .align 16 .b32 me;\n"
        "mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ctaid.y; mov.u32 %r2, %ctaid.z; mov.u32 %r3, %nctaid.x; mov.u32 %r4, "
        "%nctaid.y;\n"
        "mad.lo.u32 %r5, %r2, %r4, %r1; mad.lo.u32 %r5, %r5, %r3, %r0; st.shared.u32 [me], %r5; mul.wide.u32 %x1, %r5, "
        "64;\n"
        "ld.param.u64 %x0, [py]; add.u64 %x0, %x0, %x1;\n"
        "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;\n"
        "mov.u32 %r10, %clusterid.x; mov.u32 %r11, %clusterid.y; mov.u32 %r12, %clusterid.z;\n"
        "mov.u32 %r13, %cluster_ctaid.x; mov.u32 %r14, %cluster_ctaid.y; mov.u32 %r15, %cluster_ctaid.z;\n"
        "mov.u32 %r16, %cluster_ctarank; mov.u32 %r17, %cluster_nctarank; mov.u32 %r18, %nclusterid.x; mov.u32 %r19, "
        "%cluster_nctaid.y;\n"
        "mov.pred %p1, %is_explicit_cluster; selp.u32 %r20, 1, 0, %p1;\n"
        "add.u32 %r21, %r16, 1; rem.u32 %r21, %r21, %r17; mov.u64 %x2, me; cvta.shared.u64 %x3, %x2; mapa.u64 %x4, "
        "%x3, "
        "%r21;\n"
        "ld.u32 %r22, [%x4]; getctarank.u64 %r23, %x4; cvt.u32.u64 %r24, %x2; mapa.shared::cluster.u32 %r25, %r24, "
        "%r21;\n"
        "ld.shared::cluster.u32 %r26, [%r25]; getctarank.shared::cluster.u32 %r27, %r25;\n"
        "st.global.v4.u32 [%x0], {%r10, %r11, %r12, %r13}; st.global.v4.u32 [%x0+16], {%r14, %r15, %r16, %r17};\n"
        "st.global.v4.u32 [%x0+32], {%r18, %r19, %r20, %r22}; st.global.v4.u32 [%x0+48], {%r23, %r26, %r27, 0};\n"
        "barrier.cluster.arrive; barrier.cluster.wait; ret;\n}\n";
    struct vm_module *m = load_text(text, "cluster.ptx");
    struct vm_function *f = function(m, "k");
    uint32_t grid[3] = {4, 6, 2}, y[48][16];
    static const uint32_t shapes[][3] = {{2, 1, 1}, {2, 2, 1}, {4, 2, 2}, {1, 3, 2}, {1, 1, 1}};
    uint64_t d = device(sizeof y, NULL);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const uint32_t *c = shapes[k];
        struct vm_launch_params p = {{4, 6, 2}, {1, 1, 1}, {c[0], c[1], c[2]}, 0, &d, sizeof d, false, false, NULL};
        struct vm_fault fault;
        if (vm_launch(f, &p, &fault, NULL)) fail_msg("%s", fault.text);
        fetch(y, d, sizeof y);
        for (uint32_t i = 0; i < 48; i++) {
            uint32_t at[3] = {i % 4, i / 4 % 6, i / 24}, own[3], n = c[0] * c[1] * c[2], next[3];
            for (int j = 0; j < 3; j++) own[j] = at[j] % c[j];
            uint32_t rank = own[0] + c[0] * (own[1] + c[1] * own[2]), r = (rank + 1) % n;
            next[0] = r % c[0], next[1] = r / c[0] % c[1], next[2] = r / c[0] / c[1];
            for (int j = 0; j < 3; j++) next[j] += at[j] / c[j] * c[j];
            uint32_t neighbour = (next[2] * grid[1] + next[1]) * grid[0] + next[0];
            uint32_t e[15] = {at[0] / c[0], at[1] / c[1], at[2] / c[2], own[0],    own[1], own[2],    rank, n,
                              4 / c[0],     c[1],         n > 1,        neighbour, r,      neighbour, r};
            for (int j = 0; j < 15; j++)
                if (y[i][j] != e[j])
                    fail_msg("shape %d block %u word %d: %u, expected %u", (int)k, i, j, y[i][j], e[j]);
        }
    }
    struct vm_launch_params p = {{4, 6, 2}, {1, 1, 1}, {3, 1, 1}, 0,
                                 &d,        sizeof d, false, false, NULL}; /* does not divide the grid */
    struct vm_fault fault;
    assert_int_equal(vm_launch(f, &p, &fault, NULL), VM_INVALID_VALUE);
    vm_module_free(m);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_mbarriers), cmocka_unit_test(t_forms),
                                       cmocka_unit_test(t_clusters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
