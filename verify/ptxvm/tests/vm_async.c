/* What runs asynchronously, and what orders it: each kernel with a wait, a fence or a barrier left out is a finding
 * that names the faulty line, and the same kernel as it should be is none. */
#include "verify/ptxvm/tests/vm_test.h"

/* A kernel has one dimension of threads; %r0 is its thread, %r1 its warp, %r2 its lane, %x0 the address of x (4 KiB,
 * word i is i), %x1 of its thread's word of y (per block), %r3 its rank in the cluster; sh 32 KiB of shared memory, b
 * four mbarriers. A finding must name a line that ends in "//!". */
static const char prologue[] =
    ".version 8.6\n.target sm_90a\n.address_size 64\n"
    ".visible .entry k(.param .u64 px, .param .u64 py) {\n"
    ".reg .b64 %x<32>; .reg .b32 %r<64>; .reg .b16 %h<8>; .reg .pred %p<8>; .reg .f32 %f<64>;\n"
    ".shared .align 1024 .b8 sh[32768]; .shared .align 8 .b64 b[4];\n"
    "mov.u32 %r0, %tid.x; shr.u32 %r1, %r0, 5; and.b32 %r2, %r0, 31; mov.u32 %r3, %cluster_ctarank;\n"
    "ld.param.u64 %x0, [px]; ld.param.u64 %x1, [py]; mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ntid.x;\n"
    "mad.lo.u32 %r4, %r4, %r5, %r0; mul.wide.u32 %x2, %r4, 4; add.u64 %x1, %x1, %x2;\n"
    "mov.u32 %r6, sh; mad.lo.u32 %r7, %r0, 4, %r6; mad.lo.u32 %r8, %r0, 16, %r6; mul.wide.u32 %x3, %r0, 16;\n"
    "add.u64 %x3, %x3, %x0; setp.eq.u32 %p0, %r0, 0; setp.eq.u32 %p1, %r1, 0; setp.eq.u32 %p2, %r2, 0;\n"
    "mov.u32 %r9, 0; setp.eq.u32 %p3, %r3, 0;\n";

#define INIT(n)                                                                                                        \
    "@%p0 mbarrier.init.shared.b64 [b], 1; @%p0 mbarrier.init.shared.b64 [b+8], " n ";\n"                              \
    "@%p0 fence.mbarrier_init.release.cluster; bar.sync 0;\n"
#define WAIT(b, parity) "{ .reg .pred w; W: mbarrier.try_wait.parity.shared.b64 w, [" b "], " parity "; @!w bra W; }\n"
#define EXPECT(b, n) "@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [" b "], " n ";\n"
#define LOAD(to, b, n)                                                                                                 \
    "@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [" to "], [%x0], " n ", [" b "];\n"
#define STORE(from, n) "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%x1], [" from "], " n ";\n"
#define COMMIT "@%p0 cp.async.bulk.commit_group;\n"
#define WAIT_READ(n) "@%p0 cp.async.bulk.wait_group.read " n ";\n"
#define PROXY "fence.proxy.async.shared::cta;\n"
#define OUT "st.global.u32 [%x1], %r9;\n"
#define RACE "shared-memory race"

/* Two operands of zeros for m64n8k16, written by the threads: a at 0, b at 4096; the descriptors in %x10 and %x11. */
#define OPERANDS                                                                                                       \
    "mov.u32 %r20, 0; st.shared.v4.u32 [%r8], {%r20, %r20, %r20, %r20}; st.shared.u32 [%r7+4096], %r20;\n"             \
    "shr.u32 %r21, %r6, 4; cvt.u64.u32 %x12, %r21; mov.u64 %x13, 0x800010000; or.b64 %x10, %x12, %x13;\n"              \
    "add.u64 %x11, %x10, 256;\n"
#define FENCE "wgmma.fence.sync.aligned;\n"
#define PRODUCT(d) "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {" d "}, %x10, %x11, 0, 1, 1, 0, 0;\n"
#define D0 "%f0, %f1, %f2, %f3"
#define D1_ "%f4, %f5, %f6, %f7"
#define GROUP "wgmma.commit_group.sync.aligned;\n"
#define WAIT_GROUP(n) "wgmma.wait_group.sync.aligned " n ";\n"
#define READ_D0 "add.f32 %f10, %f0, %f1;"

/* The word of block 1 - rank that is like this thread's: its address in %r30. */
#define PEER "xor.b32 %r31, %r3, 1; mapa.shared::cluster.u32 %r30, %r7, %r31;\n"
#define CLUSTER_SYNC "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n"

static const struct kernel {
    const char *name, *kind, *text; /* kind NULL: no finding */
    int threads, cluster;           /* blocks of a cluster, all there are */
} kernels[] = {
    /* ---- cp.async ---- */
    {"copy_without_wait", RACE,
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.commit_group;\n"
     "ld.shared.u32 %r9, [%r8]; //!\n" OUT,
     32, 1},
    {"copy_waited", NULL,
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.commit_group; cp.async.wait_group 0;\n"
     "ld.shared.u32 %r9, [%r8];\n" OUT,
     32, 1},
    {"copy_wait_all", NULL,
     "cp.async.ca.shared.global [%r8], [%x3], 8; cp.async.wait_all; ld.shared.u32 %r9, [%r8];\n" OUT, 32, 1},
    {"copy_not_committed", RACE,
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.wait_group 0;\n"
     "ld.shared.u32 %r9, [%r8]; //!\n" OUT,
     32, 1},
    {"copy_one_group_too_many", RACE,
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.commit_group;\n"
     "cp.async.cg.shared.global [%r8+2048], [%x3], 16; cp.async.commit_group; cp.async.wait_group 1;\n"
     "ld.shared.u32 %r9, [%r8];\n"
     "ld.shared.u32 %r9, [%r8+2048]; //!\n" OUT,
     32, 1},
    {"copy_other_thread_without_barrier", RACE,
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.wait_all; xor.b32 %r10, %r8, 512;\n"
     "ld.shared.u32 %r9, [%r10]; //!\n" OUT,
     64, 1},
    {"copy_barrier_before_wait", RACE,
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.commit_group; bar.sync 0; cp.async.wait_group 0;\n"
     "xor.b32 %r10, %r8, 512; ld.shared.u32 %r9, [%r10]; //!\n" OUT,
     64, 1},
    {"copy_other_thread", NULL,
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.wait_all; xor.b32 %r10, %r8, 512; bar.sync 0;\n"
     "ld.shared.u32 %r9, [%r10];\n" OUT,
     64, 1},
    {"copy_overwritten", RACE,
     "cp.async.cg.shared.global [%r8], [%x3], 16;\n"
     "st.shared.u32 [%r8], %r9; //!\n" OUT,
     32, 1},
    {"copy_stages", NULL, /* two stages, one group in flight */
     "mov.u32 %r10, 0; cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.commit_group;\n"
     "L: xor.b32 %r8, %r8, 4096; cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.commit_group;\n"
     "cp.async.wait_group 1; bar.sync 0; xor.b32 %r11, %r8, 4608; ld.shared.u32 %r12, [%r11]; add.u32 %r9, %r9, %r12;\n"
     "bar.sync 0; add.u32 %r10, %r10, 1; setp.lt.u32 %p4, %r10, 6; @%p4 bra L;\n" OUT,
     64, 1},
    {"copy_on_mbarrier", NULL,
     "@%p0 mbarrier.init.shared.b64 [b], 32; bar.sync 0; @!%p1 bra R;\n"
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.mbarrier.arrive.noinc.shared.b64 [b]; bra E;\n"
     "R: " WAIT("b", "0") "ld.shared.u32 %r9, [%r8+-512]; E:\n" OUT,
     64, 1},
    {"copy_on_mbarrier_without_wait", RACE,
     "@%p0 mbarrier.init.shared.b64 [b], 32; bar.sync 0; @!%p1 bra R;\n"
     "cp.async.cg.shared.global [%r8], [%x3], 16; cp.async.mbarrier.arrive.noinc.shared.b64 [b]; \n"
     "R: bar.sync 0; ld.shared.u32 %r9, [%r6]; //!\n" OUT,
     64, 1},
    /* ---- bulk copies to shared memory ---- */
    {"bulk_without_wait", RACE,
     INIT("1") EXPECT("b", "256") LOAD("sh", "b", "256") "bar.sync 0;\n"
                                                         "ld.shared.u32 %r9, [%r7]; //!\n" OUT,
     64, 1},
    {"bulk_waited", NULL,
     INIT("1") EXPECT("b", "256") LOAD("sh", "b", "256") WAIT("b", "0") "ld.shared.u32 %r9, [%r7];\n" OUT, 64, 1},
    {"bulk_one_waits_for_all", NULL,
     INIT("1") EXPECT("b", "256")
         LOAD("sh", "b", "256") "@!%p1 bra B; " WAIT("b", "0") "B: bar.sync 0; ld.shared.u32 %r9, [%r7];\n" OUT,
     64, 1},
    {"bulk_one_warp_waits_for_itself", RACE,
     INIT("1") EXPECT("b", "256")
         LOAD("sh", "b", "256") "@!%p1 bra B; " WAIT("b", "0") "B:\n"
                                                               "ld.shared.u32 %r9, [%r7]; //!\n" OUT,
     64, 1},
    {"bulk_wrong_mbarrier", RACE,
     INIT("1") EXPECT("b", "256") EXPECT("b+8", "256") LOAD("sh", "b", "256") LOAD("sh+1024", "b+8", "256")
         WAIT("b+8", "0") "ld.shared.u32 %r9, [%r7+1024];\n"
                          "ld.shared.u32 %r9, [%r7]; //!\n" OUT,
     64, 1},
    {"bulk_wrong_parity", RACE, /* the phase before the first counts as ended */
     INIT("1") EXPECT("b", "256")
         LOAD("sh", "b", "256") "bar.sync 0;\n" WAIT("b", "1") "ld.shared.u32 %r9, [%r7]; //!\n" OUT,
     64, 1},
    {"bulk_second_phase_with_first_parity", RACE,
     INIT("1") EXPECT("b", "256") LOAD("sh", "b", "256") WAIT("b", "0") "bar.sync 0;\n" EXPECT("b", "256")
         LOAD("sh+1024", "b", "256") "bar.sync 0; @%p1 bra E; mbarrier.test_wait.parity.shared.b64 %p4, [b], 0;\n"
                                     "ld.shared.u32 %r9, [%r7+1024]; //!\n"
                                     "E:" OUT,
     64, 1},
    {"bulk_never_complete", "deadlock",
     INIT("1") EXPECT("b", "512") LOAD("sh", "b", "256") "{ .reg .pred w;\n"
                                                         "W: mbarrier.try_wait.parity.shared.b64 w, [b], 0; //!\n"
                                                         "@!w bra W; }\n" OUT,
     64, 1},
    {"bulk_tested_once", RACE, /* a test may find it not ready: nobody looks at what it says */
     INIT("1") EXPECT("b", "256") LOAD("sh", "b", "256") "mbarrier.test_wait.parity.shared.b64 %p4, [b], 0;\n"
                                                         "ld.shared.u32 %r9, [%r7]; //!\n" OUT,
     64, 1},
    {"bulk_into_what_is_read", RACE, /* thread 0 does not wait for the other readers */
     INIT("1") EXPECT("b", "256") LOAD("sh", "b", "256") WAIT("b", "0") "ld.shared.u32 %r9, [%r7];\n" EXPECT(
         "b", "256") "@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [sh], [%x0], 256, [b]; "
                     "//!\n" OUT,
     32, 1},
    {"bulk_ring", NULL, /* warp 0 copies, three warps read; two stages */
     "@%p0 mbarrier.init.shared.b64 [b], 1; @%p0 mbarrier.init.shared.b64 [b+8], 1;\n"
     "@%p0 mbarrier.init.shared.b64 [b+16], 96; @%p0 mbarrier.init.shared.b64 [b+24], 96; bar.sync 0;\n"
     "mov.u32 %r10, 0; mov.u32 %r12, b; mov.u32 %r13, b+16; @!%p1 bra C; @!%p0 bra E;\n"
     "P: shr.u32 %r11, %r10, 1; and.b32 %r11, %r11, 1; xor.b32 %r11, %r11, 1; and.b32 %r14, %r10, 1;\n"
     "mad.lo.u32 %r15, %r14, 8, %r12; mad.lo.u32 %r16, %r14, 8, %r13; mad.lo.u32 %r17, %r14, 1024, %r6;\n" WAIT(
         "%r16", "%r11") EXPECT("%r15", "384")
         LOAD("%r17", "%r15",
              "384") "add.u32 %r10, %r10, 1; setp.lt.u32 %p4, %r10, 9; @%p4 bra P; bra E;\n"
                     "C: shr.u32 %r11, %r10, 1; and.b32 %r11, %r11, 1; and.b32 %r14, %r10, 1;\n"
                     "mad.lo.u32 %r15, %r14, 8, %r12; mad.lo.u32 %r16, %r14, 8, %r13; mad.lo.u32 %r17, %r14, 1024, "
                     "%r7;\n" WAIT("%r15", "%r11") "ld.shared.u32 %r18, [%r17+-128]; add.u32 %r9, %r9, %r18;\n"
                                                   "mbarrier.arrive.shared.b64 _, [%r16]; add.u32 %r10, %r10, 1; "
                                                   "setp.lt.u32 %p4, %r10, 9;\n"
                                                   "@%p4 bra C; E:\n" OUT,
     128, 1},
    {"bulk_ring_without_empty", RACE, /* the producer waits for nobody */
     "@%p0 mbarrier.init.shared.b64 [b], 1; @%p0 mbarrier.init.shared.b64 [b+8], 1; bar.sync 0;\n"
     "mov.u32 %r10, 0; mov.u32 %r12, b; @!%p1 bra C; @!%p0 bra E;\n"
     "P: and.b32 %r14, %r10, 1; mad.lo.u32 %r15, %r14, 8, %r12; mad.lo.u32 %r17, %r14, 1024, %r6;\n" EXPECT(
         "%r15",
         "384") "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r17], [%x0], 384, [%r15]; //!\n"
                "add.u32 %r10, %r10, 1; setp.lt.u32 %p4, %r10, 9; @%p4 bra P; bra E;\n"
                "C:" WAIT("b", "0") "ld.shared.u32 %r18, [%r7+-128]; E:\n" OUT,
     128, 1},
    /* ---- bulk copies from shared memory ---- */
    {"bulk_store", NULL,
     "st.shared.u32 [%r7], %r9;\n" PROXY "bar.sync 0;\n" STORE("sh", "256")
         COMMIT WAIT_READ("0") "bar.sync 0; st.shared.u32 [%r7], %r0;\n",
     64, 1},
    {"bulk_store_source_reused", RACE,
     "st.shared.u32 [%r7], %r9;\n" PROXY "bar.sync 0;\n" STORE("sh", "256") COMMIT "bar.sync 0;\n"
                                                                                   "st.shared.u32 [%r7], %r0; //!\n",
     64, 1},
    {"bulk_store_not_committed", RACE,
     "st.shared.u32 [%r7], %r9;\n" PROXY "bar.sync 0;\n" STORE("sh", "256")
         WAIT_READ("0") "bar.sync 0;\n"
                        "st.shared.u32 [%r7], %r0; //!\n",
     64, 1},
    {"bulk_store_one_group_too_many", RACE,
     "st.shared.u32 [%r7], %r9; st.shared.u32 [%r7+1024], %r9;\n" PROXY "bar.sync 0;\n" STORE("sh", "256")
         COMMIT STORE("sh+1024", "256") COMMIT WAIT_READ("1") "bar.sync 0; st.shared.u32 [%r7], %r0;\n"
                                                              "st.shared.u32 [%r7+1024], %r0; //!\n",
     64, 1},
    {"bulk_store_waited_too_late", RACE,
     "st.shared.u32 [%r7], %r9;\n" PROXY "bar.sync 0;\n" STORE("sh", "256") COMMIT
     "bar.sync 0;\n" WAIT_READ("0") "st.shared.u32 [%r7], %r0; //!\n",
     64, 1},
    {"bulk_store_without_proxy_fence", "missing proxy fence",
     "st.shared.u32 [%r7], %r9; bar.sync 0;\n"
     "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%x1], [sh], 256; //!\n" COMMIT WAIT_READ("0"),
     64, 1},
    {"bulk_store_proxy_fence_too_early", "missing proxy fence",
     PROXY "st.shared.u32 [%r7], %r9; bar.sync 0;\n"
           "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%x1], [sh], 256; //!\n" COMMIT WAIT_READ("0"),
     64, 1},
    {"bulk_store_proxy_fence_of_the_issuer", NULL,
     "st.shared.u32 [%r7], %r9; bar.sync 0;\n" PROXY STORE("sh", "256") COMMIT WAIT_READ("0"), 64, 1},
    {"bulk_store_without_barrier", RACE,
     "st.shared.u32 [%r7], %r9;\n" PROXY "@!%p1 bra E; bar.warp.sync -1;\n"
     "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%x1], [sh], 256; //!\n" COMMIT "E:\n",
     64, 1},
    {"bulk_store_of_a_bulk_load", NULL, /* the same proxy: no fence */
     INIT("1") EXPECT("b", "256") LOAD("sh", "b", "256") WAIT("b", "0") STORE("sh", "256") COMMIT WAIT_READ("0"), 64,
     1},
    /* ---- wgmma ---- */
    {"product", NULL,
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) GROUP WAIT_GROUP("0") READ_D0
     "st.global.f32 [%x1], %f10;\n"
     "bar.sync 0; st.shared.u32 [%r7], %r9;\n",
     128, 1},
    {"product_without_wait", "missing wgmma wait",
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) GROUP "add.f32 %f10, %f0, %f1; //!\n"
                                                            "st.global.f32 [%x1], %f10;\n" WAIT_GROUP("0"),
     128, 1},
    {"product_not_committed", "missing wgmma wait",
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) WAIT_GROUP("0") "st.global.f32 [%x1], %f2; //!\n", 128, 1},
    {"product_copied_and_used", "missing wgmma wait", /* compilers may move registers in flight, using them is wrong */
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) GROUP "mov.f32 %f20, %f3;\n"
                                                            "mul.f32 %f21, %f20, %f20; //!\n" WAIT_GROUP("0"),
     128, 1},
    {"product_first_of_two_groups", NULL,
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) GROUP PRODUCT(D1_) GROUP WAIT_GROUP("1") READ_D0
     "st.global.f32 [%x1], %f10;\n" WAIT_GROUP("0"),
     128, 1},
    {"product_second_of_two_groups", "missing wgmma wait",
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) GROUP PRODUCT(D1_)
         GROUP WAIT_GROUP("1") "add.f32 %f10, %f4, %f5; //!\n" WAIT_GROUP("0"),
     128, 1},
    {"product_accumulates_in_flight", NULL,
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) PRODUCT(D0) GROUP WAIT_GROUP("0") READ_D0 "\n", 128, 1},
    {"product_operand_overwritten", RACE,
     OPERANDS PROXY "bar.sync 0;\n" FENCE PRODUCT(D0) GROUP "bar.sync 0;\n"
                                                            "st.shared.u32 [%r7], %r9; //!\n" WAIT_GROUP("0"),
     128, 1},
    {"product_operand_overwritten_by_another_group", RACE, /* which has not synchronised with the wait */
     OPERANDS PROXY "bar.sync 0; setp.ge.u32 %p4, %r0, 128; @%p4 bra B;\n" FENCE PRODUCT(D0) GROUP
     "bar.arrive 1, 256;\n" WAIT_GROUP("0") "bra E; B: bar.sync 1, 256;\n"
                                            "st.shared.u32 [%r7+-512], %r9; //!\n"
                                            "E:\n",
     256, 1},
    {"product_operand_handed_over", NULL,
     OPERANDS PROXY "bar.sync 0; setp.ge.u32 %p4, %r0, 128; @%p4 bra B;\n" FENCE PRODUCT(D0)
         GROUP WAIT_GROUP("0") "bar.arrive 1, 256; bra E; B: bar.sync 1, 256;\n"
                               "st.shared.u32 [%r7+-512], %r9;\n"
                               "E:\n",
     256, 1},
    {"product_without_proxy_fence", "missing proxy fence",
     OPERANDS "bar.sync 0;\n" FENCE "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {" D0
              "}, %x10, %x11, 0, 1, 1, 0, 0; //!\n" GROUP WAIT_GROUP("0"),
     128, 1},
    {"product_without_fence", "missing wgmma fence",
     OPERANDS PROXY "bar.sync 0;\n"
                    "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {" D0
                    "}, %x10, %x11, 0, 1, 1, 0, 0; //!\n" GROUP WAIT_GROUP("0"),
     128, 1},
    /* ---- clusters ---- */
    {"peer_written", NULL,
     PEER CLUSTER_SYNC "st.shared::cluster.u32 [%r30], %r0;\n" CLUSTER_SYNC "ld.shared.u32 %r9, [%r7];\n" OUT, 64, 2},
    {"peer_written_without_barrier", RACE,
     PEER CLUSTER_SYNC
     "@%p3 st.shared::cluster.u32 [%r30], %r0; @%p3 bra E; st.shared.u32 [%r7], %r9; //!\nE:\n" CLUSTER_SYNC,
     64, 2},
    {"peer_read_and_written", RACE,
     PEER "st.shared.u32 [%r7], %r0;\n" CLUSTER_SYNC "ld.shared::cluster.u32 %r9, [%r30]; //!\n"
          "st.shared.u32 [%r7], %r9; //!\n" CLUSTER_SYNC OUT,
     64, 2},
    {"peer_read_then_written", NULL,
     PEER "st.shared.u32 [%r7], %r0;\n" CLUSTER_SYNC "ld.shared::cluster.u32 %r9, [%r30];\n" CLUSTER_SYNC
          "st.shared.u32 [%r7], %r9;\n" OUT,
     64, 2},
    {"peer_relaxed_arrival", RACE,
     PEER CLUSTER_SYNC "@%p3 st.shared::cluster.u32 [%r30], %r0; barrier.cluster.arrive.relaxed.aligned;\n"
                       "barrier.cluster.wait.aligned; @%p3 bra E; ld.shared.u32 %r9, [%r7]; //!\n"
                       "E:\n" CLUSTER_SYNC OUT,
     64, 2},
    {"peer_block_barrier_only", RACE, /* bar.sync orders one block */
     PEER CLUSTER_SYNC "@%p3 st.shared::cluster.u32 [%r30], %r0; bar.sync 0; @%p3 bra E;\n"
                       "st.shared.u32 [%r7], %r9; //!\nE:\n" CLUSTER_SYNC OUT,
     64, 2},
    {"peer_mbarrier", NULL, /* block 0 writes into block 1 and arrives at its mbarrier */
     "@%p0 mbarrier.init.shared.b64 [b], 64;\n" PEER CLUSTER_SYNC
     "@!%p3 bra R; st.shared::cluster.u32 [%r30], %r0; mov.u32 %r32, b; mapa.shared::cluster.u32 %r33, %r32, %r31;\n"
     "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r33]; bra E;\n"
     "R: { .reg .pred w; W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 w, [b], 0; @!w bra W; }\n"
     "ld.shared.u32 %r9, [%r7]; E:\n" CLUSTER_SYNC OUT,
     64, 2},
    {"peer_mbarrier_relaxed", RACE,
     "@%p0 mbarrier.init.shared.b64 [b], 64;\n" PEER CLUSTER_SYNC
     "@!%p3 bra R; st.shared::cluster.u32 [%r30], %r0; mov.u32 %r32, b; mapa.shared::cluster.u32 %r33, %r32, %r31;\n"
     "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r33]; bra E;\n"
     "R: { .reg .pred w; W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 w, [b], 0; @!w bra W; }\n"
     "ld.shared.u32 %r9, [%r7]; //!\nE:\n" CLUSTER_SYNC OUT,
     64, 2},
    {"peer_store_async", NULL,
     "@%p0 mbarrier.init.shared.b64 [b], 1;\n" PEER CLUSTER_SYNC EXPECT(
         "b", "256") "mov.u32 %r32, b; mapa.shared::cluster.u32 %r33, %r32, %r31;\n"
                     "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r30], %r0, [%r33];\n" WAIT(
                         "b", "0") "ld.shared.u32 %r9, [%r7];\n" OUT CLUSTER_SYNC,
     64, 2},
    {"peer_store_async_without_wait", RACE,
     "@%p0 mbarrier.init.shared.b64 [b], 1;\n" PEER CLUSTER_SYNC EXPECT(
         "b", "256") "mov.u32 %r32, b; mapa.shared::cluster.u32 %r33, %r32, %r31;\n"
                     "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r30], %r0, [%r33];\n" CLUSTER_SYNC
                     "ld.shared.u32 %r9, [%r7]; //!\n" OUT CLUSTER_SYNC,
     64, 2},
    {"peer_bulk_copy_source_reused", RACE, /* its end is seen on the other block's mbarrier */
     "@%p0 mbarrier.init.shared.b64 [b], 1; st.shared.u32 [%r7], %r0;\n" PROXY PEER CLUSTER_SYNC EXPECT(
         "b", "256") "mov.u32 %r32, b; mapa.shared::cluster.u32 %r33, %r32, %r31; add.u32 %r34, %r30, 1024;\n"
                     "@%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r34], [sh], 256, "
                     "[%r33];\n"
                     "bar.sync 0; @%p0 st.shared.u32 [sh], %r9; //!\n" WAIT("b", "0") CLUSTER_SYNC,
     64, 2},
    {"peer_bulk_copy", NULL,
     "@%p0 mbarrier.init.shared.b64 [b], 1; st.shared.u32 [%r7], %r0;\n" PROXY PEER CLUSTER_SYNC EXPECT(
         "b", "256") "mov.u32 %r32, b; mapa.shared::cluster.u32 %r33, %r32, %r31; add.u32 %r34, %r30, 1024;\n"
                     "@%p0 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r34], [sh], 256, "
                     "[%r33];\n" WAIT("b", "0") "ld.shared.u32 %r9, [%r7+1024];\n" CLUSTER_SYNC
                                                "st.shared.u32 [%r7], %r9;\n" OUT,
     64, 2},
    /* ---- barriers and readers ---- */
    {"third_reader", RACE, /* warps 1, 2 and 3 read; warp 0 waits for 2 and 3 only */
     "@%p1 st.shared.u32 [%r7], %r0; bar.sync 0; mov.u32 %r10, 64; @%p1 bra A; ld.shared.u32 %r9, [sh]; //!\n"
     "setp.eq.u32 %p4, %r1, 1; @%p4 bra E; bar.arrive 1, 96; bra E;\n"
     "A: bar.sync 1, 96;\n"
     "@%p0 st.shared.u32 [sh], %r9; //!\n"
     "E:\n" OUT,
     128, 1},
    {"all_readers", NULL,
     "@%p1 st.shared.u32 [%r7], %r0; bar.sync 0; @%p1 bra A; ld.shared.u32 %r9, [sh]; bar.arrive 1, 128; bra E;\n"
     "A: bar.sync 1, 128; @%p0 st.shared.u32 [sh], %r9; E:\n" OUT,
     128, 1},
    {"bytes_of_a_word", NULL, /* each warp its own byte of each word */
     "add.u32 %r10, %r6, %r1; mad.lo.u32 %r10, %r2, 4, %r10; st.shared.u8 [%r10], %r0; ld.shared.u8 %r9, [%r10];\n"
     "bar.sync 0; mad.lo.u32 %r10, %r2, 4, %r6; ld.shared.u32 %r9, [%r10];\n" OUT,
     128, 1},
    {"byte_of_a_word_unordered", RACE, /* the first of two halves, though the second was written last */
     "shl.b32 %r10, %r2, 1; add.u32 %r10, %r10, %r6; setp.eq.u32 %p4, %r1, 0;\n"
     "@!%p4 bra R; st.shared.u16 [%r10], %r0; bar.warp.sync -1; bra E;\n"
     "R: ld.shared.u16 %r9, [sh]; //!\n"
     "E:\n" OUT,
     64, 1},
    {"lanes_without_warp_sync", RACE,
     "st.shared.u32 [%r7], %r0; xor.b32 %r10, %r7, 4;\n"
     "ld.shared.u32 %r9, [%r10]; //!\n" OUT,
     32, 1},
    {"lanes_with_warp_sync", NULL,
     "st.shared.u32 [%r7], %r0; xor.b32 %r10, %r7, 4; bar.warp.sync -1; ld.shared.u32 %r9, [%r10];\n" OUT, 32, 1},
    {"mbarrier_hands_over", NULL,
     INIT("32") "@!%p1 bra R; st.shared.u32 [%r7], %r0; mbarrier.arrive.shared.b64 _, [b+8]; bra E;\n"
                "R: " WAIT("b+8", "0") "ld.shared.u32 %r9, [%r7+-128]; E:\n" OUT,
     64, 1},
    {"mbarrier_arrival_before_the_write", RACE,
     INIT("32") "@!%p1 bra R; mbarrier.arrive.shared.b64 _, [b+8]; st.shared.u32 [%r7], %r0; bra E;\n"
                "R: " WAIT("b+8", "0") "ld.shared.u32 %r9, [%r7+-128]; //!\n"
                                       "E:\n" OUT,
     64, 1},
    {"mbarrier_used_before_others_know", RACE, /* no barrier after init */
     "@%p0 mbarrier.init.shared.b64 [b], 64; bar.warp.sync -1; @%p1 bra A; mov.u32 %r10, 0; A:\n"
     "mbarrier.arrive.shared.b64 _, [b]; //!\n",
     64, 1},
    /* ---- misuse of mbarriers ---- */
    {"mbarrier_too_many", "bad mbarrier", INIT("8") "@%p2 mbarrier.arrive.shared.b64 _, [b+8], 9; //!\n", 32, 1},
    {"mbarrier_never_made", "bad mbarrier",
     "@%p0 st.shared.u64 [b+16], %x20; bar.sync 0;\n"
     "@%p0 mbarrier.arrive.shared.b64 _, [b+16]; //!\n",
     32, 1},
    {"mbarrier_invalidated", "bad mbarrier",
     INIT("1") "@%p0 mbarrier.inval.shared.b64 [b+8];\n"
               "@%p0 mbarrier.arrive.shared.b64 _, [b+8]; //!\n",
     32, 1},
    {"mbarrier_no_complete_completes", "bad mbarrier",
     INIT("2") "@%p0 mbarrier.arrive.noComplete.shared.b64 %x20, [b+8], 2; //!\n", 32, 1},
    {"mbarrier_too_many_bytes", "bad mbarrier",
     INIT("2") "@%p0 mbarrier.expect_tx.relaxed.cta.shared.b64 [b+8], 1048576; //!\n", 32, 1},
};

static void run(const struct kernel *k, struct buf *wrong) {
    struct buf t = {0};
    buf_printf(&t, "%s%s\nret;\n}\n", prologue, k->text);
    struct vm_module *m = load_text(t.data, k->name);
    struct vm_function *f = function(m, "k");
    uint32_t x[1024];
    for (uint32_t i = 0; i < 1024; i++) x[i] = i;
    uint64_t args[2] = {device(sizeof x, x), device(sizeof x, x)};
    struct vm_launch_params p = {{(uint32_t)k->cluster, 1, 1},
                                 {(uint32_t)k->threads, 1, 1},
                                 {(uint32_t)k->cluster, 1, 1},
                                 0,
                                 args,
                                 sizeof args,
                                 false,
                                 false,
                                 NULL};
    struct vm_fault fault;
    int r = vm_launch(f, &p, &fault, NULL);
    bool early = k->kind && !strcmp(k->kind, RACE) && !strcmp(fault.kind, "uninitialized load"); /* before the write */
    if (k->kind ? !r || (strcmp(fault.kind, k->kind) && !early) || !marked(t.data, fault.line) : r)
        buf_printf(wrong, "%s: expected %s, found %d %s\n", k->name, k->kind ? k->kind : "nothing", r, fault.text);
    vm_mem_free(args[0]);
    vm_mem_free(args[1]);
    vm_module_free(m);
    buf_free(&t);
}

static void t_waits(void **unused) {
    (void)unused;
    struct buf wrong = {0};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) run(&kernels[i], &wrong);
    expect_none(&wrong);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = 0, keep = dup(2);
    if (!freopen("/dev/null", "w", stderr)) return 1; /* the findings' own lines */
    for (uint64_t s = 0; s < 4; s++) {
        char name[40];
        const struct CMUnitTest tests[] = {cmocka_unit_test(t_waits)};
        snprintf(name, sizeof name, "seed %d", (int)s);
        vm_settings()->seed = s;
        failed += cmocka_run_group_tests_name(name, tests, NULL, NULL);
    }
    dup2(keep, 2);
    return failed != 0;
}
