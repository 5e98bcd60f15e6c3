/* Parameters in registers, addresses of parameters, and the stack: alloca, stacksave, stackrestore; istypep. */
#include "verify/ptxvm/tests/vm_test.h"

typedef uint64_t u64;
typedef uint32_t u32;
enum { N = 128 };
static u32 in[N], out[N];
static uint32_t seed = 5;

/* Kernel k: %r0 the thread's number, %r1 its value; its result is %r2. Returns the code of the launch. */
static int run(const char *functions, const char *body, struct vm_fault *fault) {
    struct buf t = {0};
    buf_printf(
        &t,
        ".version 8.0\n.target sm_80\n.address_size 64\n%s\n.visible .entry k(.param .u64 pi, .param .u64 po) {\n"
        ".reg .b64 %%x<12>; .reg .b32 %%r<12>; .reg .pred %%p<4>;\n"
        "mov.u32 %%r0, %%tid.x; mul.wide.u32 %%x0, %%r0, 4; ld.param.u64 %%x1, [pi]; add.u64 %%x1, %%x1, %%x0;\n"
        "ld.global.u32 %%r1, [%%x1]; ld.param.u64 %%x2, [po]; add.u64 %%x2, %%x2, %%x0; mov.u32 %%r2, 0;\n"
        "%s\nst.global.u32 [%%x2], %%r2;\nret;\n}\n",
        functions, body);
    for (int i = 0; i < N; i++) in[i] = rnd(&seed);
    struct vm_module *m = load_text(t.data, "c.ptx");
    u64 args[2] = {device(sizeof in, in), device(sizeof out, NULL)};
    assert_int_equal(vm_mem_set(args[1], 0, 4, N, 1, 0), 0);
    struct vm_fault own;
    int r = launch_full(m, "k", D1(1), D1(N), 0, false, fault ? fault : &own, NULL, 2, args);
    if (r && !fault) fail_msg("%s: %d %s", t.data, r, own.text);
    if (!r) fetch(out, args[1], sizeof out);
    vm_mem_free(args[0]), vm_mem_free(args[1]);
    vm_module_free(m);
    buf_free(&t);
    return r;
}
#define EXPECT(e)                                                                                                      \
    for (u32 i = 0; i < N; i++)                                                                                        \
        if (out[i] != (u32)(e)) fail_msg("line %d, thread %u: %u, expected %u", __LINE__, i, out[i], (u32)(e))

/* Formals and results in registers; arguments and results in registers and constants; and both mixed with .param. */
static void t_register_parameters(void **unused) {
    (void)unused;
    run(".func (.reg .u32 %rv) f(.reg .u32 %a, .reg .u32 %b) {\nmad.lo.u32 %rv, %a, 3, %b;\nret;\n}",
        "call (%r2), f, (%r1, %r0);", NULL);
    EXPECT(in[i] * 3 + i);
    run(".func (.reg .u32 %rv) f(.reg .u32 %a, .reg .u32 %b) {\nsub.u32 %rv, %a, %b;\nret;\n}",
        "call (%r2), f, (%r1, 5); call (%r3), f, (9, %r0); add.u32 %r2, %r2, %r3;", NULL);
    EXPECT(in[i] - 5 + 9 - i);
    run(".func (.reg .u32 %rv, .reg .u64 %rw) f(.reg .u64 %a, .param .b32 b) {\n.reg .u32 %t;\nld.param.u32 %t, [b];\n"
        "cvt.u32.u64 %rv, %a; add.u32 %rv, %rv, %t; shr.u64 %rw, %a, 32;\nret;\n}",
        "mul.wide.u32 %x3, %r1, 77777; call (%r2, %x4), f, (%x3, %r0); cvt.u32.u64 %r3, %x4; xor.b32 %r2, %r2, %r3;\n"
        "{.param .b32 q; st.param.b32 [q], %r1; call (_, %x4), f, (%x3, q); cvt.u32.u64 %r3, %x4; add.u32 %r2, %r2, "
        "%r3;}",
        NULL);
    EXPECT((((u32)((u64)in[i] * 77777) + i) ^ (u32)((u64)in[i] * 77777 >> 32)) + (u32)((u64)in[i] * 77777 >> 32));
    run(".func (.param .b32 rv) f(.param .b32 a, .param .b16 b) {\n.reg .u32 %q; .reg .u16 %h; ld.param.u32 %q, [a]; "
        "ld.param.u16 %h, [b]; mad.wide.u16 %q, %h, 2, %q; st.param.b32 [rv], %q;\nret;\n}",
        "{.reg .b16 %h; cvt.u16.u32 %h, %r0; call (%r2), f, (%r1, %h);}", NULL);
    EXPECT(in[i] + 2 * i);
}

/* Calls that only some lanes make, to functions that differ, and that call themselves: each level has its own
 * registers. */
static void t_register_calls(void **unused) {
    (void)unused;
    run(".func (.reg .u32 %rv) f(.reg .u32 %a) {\nadd.u32 %rv, %a, 1000;\nret;\n}",
        "and.b32 %r3, %r0, 1; setp.eq.u32 %p0, %r3, 1; mov.u32 %r2, 7; @%p0 call (%r2), f, (%r0);", NULL);
    EXPECT(i & 1 ? i + 1000 : 7);
    run(".func (.reg .u32 %rv) sum(.reg .u32 %n) {\n.reg .pred %p; .reg .u32 %m; mov.u32 %rv, %n; setp.eq.u32 %p, %n, "
        "0; @%p "
        "ret;\nsub.u32 %m, %n, 1; call (%m), sum, (%m); add.u32 %rv, %m, %n;\nret;\n}",
        "and.b32 %r3, %r0, 15; call (%r2), sum, (%r3);", NULL);
    EXPECT((i & 15) * ((i & 15) + 1) / 2);
    run(".func (.reg .u32 %rv) f(.reg .u32 %a) {\nadd.u32 %rv, %a, 1;\nret;\n}\n"
        ".func (.reg .u32 %rv) g(.reg .u32 %a) {\nmul.lo.u32 %rv, %a, %a;\nret;\n}",
        "P: .callprototype (.reg .u32 _) _ (.reg .u32 _);\nand.b32 %r3, %r0, 3; setp.lt.u32 %p0, %r3, 2;\n"
        "mov.u64 %x3, f; mov.u64 %x4, g; selp.b64 %x3, %x3, %x4, %p0; call (%r2), %x3, (%r1), P;",
        NULL);
    EXPECT((i & 3) < 2 ? in[i] + 1 : in[i] * in[i]);
}

/* The address of a device function's parameter is one of local memory, with a copy of the parameter. */
static void t_parameter_address(void **unused) {
    (void)unused;
    run(".func (.param .b32 rv) f(.param .align 8 .b8 a[24]) {\n.reg .b64 %z<3>; .reg .b32 %q<3>; mov.b64 %z0, a;\n"
        "ld.local.u32 %q0, [%z0+8]; ld.param.u32 %q1, [%z0+16]; add.u32 %q0, %q0, %q1; cvta.local.u64 %z1, %z0;\n"
        "ld.u32 %q1, [%z1+20]; xor.b32 %q0, %q0, %q1; st.local.u32 [%z0+8], %q0; ld.param.u32 %q1, [a+8];\n"
        "add.u32 %q0, %q0, %q1; st.param.b32 [rv], %q0;\nret;\n}",
        "{.param .align 8 .b8 q[24]; .param .b32 rv; mov.u64 %x3, 0; st.param.b64 [q], %x3; st.param.b32 [q+8], %r1;\n"
        "st.param.b32 [q+12], %r0; st.param.b32 [q+16], %r0; st.param.b32 [q+20], %r1; call (rv), f, (q);\n"
        "ld.param.b32 %r2, [rv];}",
        NULL);
    EXPECT(((in[i] + i) ^ in[i]) + in[i]); /* the parameter itself is not the copy */
}

/* Lanes take blocks of their own sizes, in a loop, in functions too; each finds what it wrote. */
static void t_alloca(void **unused) {
    (void)unused;
    /* a list of blocks of 4 (i % 5 + 1) bytes: each holds the address of the one before and a number; then their sum */
    run("",
        "rem.u32 %r3, %r0, 5; add.u32 %r3, %r3, 3; mov.u64 %x3, 0; mov.u32 %r4, 0;\n"
        "MORE: shl.b32 %r5, %r3, 2; add.u32 %r5, %r5, 16; cvt.u64.u32 %x5, %r5; alloca.u64 %x4, %x5, 16;\n"
        "st.local.u64 [%x4], %x3; add.u32 %r6, %r1, %r4; st.local.u32 [%x4+8], %r6; and.b64 %x6, %x4, 15;\n"
        "cvt.u32.u64 %r7, %x6; add.u32 %r2, %r2, %r7; mov.u64 %x3, %x4; add.u32 %r4, %r4, 1; setp.lt.u32 %p0, %r4, "
        "%r3;\n"
        "@%p0 bra MORE;\nSUM: ld.local.u32 %r6, [%x3+8]; add.u32 %r2, %r2, %r6; ld.local.u64 %x3, [%x3];\n"
        "setp.ne.u64 %p0, %x3, 0; @%p0 bra SUM;",
        NULL);
    EXPECT((i % 5 + 3) * in[i] + (i % 5 + 3) * (i % 5 + 2) / 2);
    /* a function's block is its own, above its caller's, and gone when it returns: a thousand calls need no more room
     */
    run(".func (.reg .u32 %rv) f(.reg .u32 %a) {\n.reg .b64 %z<2>; alloca.u64 %z0, 1024; st.local.u32 [%z0], %a;\n"
        "st.local.u32 [%z0+1020], %a; ld.local.u32 %rv, [%z0]; add.u32 %rv, %rv, 1;\nret;\n}",
        "alloca.u64 %x3, 64; st.local.u32 [%x3+60], %r1; mov.u32 %r4, 0;\n"
        "AGAIN: call (%r4), f, (%r4); setp.lt.u32 %p0, %r4, 1000; @%p0 bra AGAIN;\nld.local.u32 %r2, [%x3+60]; add.u32 "
        "%r2, "
        "%r2, %r4;",
        NULL);
    EXPECT(in[i] + 1000);
    /* stackrestore gives back: twenty thousand blocks of 64 bytes are more than a stack; a generic address works too */
    run("",
        "stacksave.u64 %x3; mov.u32 %r4, 0;\nAGAIN: alloca.u64 %x4, 64, 64; st.local.u32 [%x4+60], %r1; cvta.local.u64 "
        "%x5, "
        "%x4;\nld.u32 %r2, [%x5+60]; stackrestore.u64 %x3; add.u32 %r4, %r4, 1; setp.lt.u32 %p0, %r4, 20000; @%p0 bra "
        "AGAIN;",
        NULL);
    EXPECT(in[i]);
}

static void t_stack_findings(void **unused) {
    (void)unused;
    static const struct {
        const char *body, *kind;
        int code;
    } list[] = {
        {"alloca.u64 %x3, 32;\nst.local.u32 [%x3+32], %r1;", "out-of-bounds store", VM_ILLEGAL_ADDRESS},
        {"alloca.u64 %x3, 32;\nld.local.u32 %r2, [%x3];", "uninitialized load", VM_LAUNCH_FAILED},
        {"stacksave.u64 %x4; alloca.u64 %x3, 32; stackrestore.u64 %x4;\nst.local.u32 [%x3], %r1;",
         "out-of-bounds store", VM_ILLEGAL_ADDRESS},
        {"stacksave.u64 %x4; add.u64 %x4, %x4, 8;\nstackrestore.u64 %x4;", "bad stack pointer", VM_LAUNCH_FAILED},
        {"mov.u64 %x4, 0;\nstackrestore.u64 %x4;", "bad stack pointer", VM_LAUNCH_FAILED},
        {"mov.u64 %x4, 0x200000;\nalloca.u64 %x3, %x4;", "stack overflow", VM_STACK_ERROR},
        {"mov.u64 %x4, -1;\nalloca.u64 %x3, %x4;", "stack overflow", VM_STACK_ERROR},
        {"call (%x3), f;\nld.local.u32 %r2, [%x3];", "out-of-bounds load", VM_ILLEGAL_ADDRESS},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        struct vm_fault fault;
        int r = run(".func (.reg .u64 %rv) f() {\nalloca.u64 %rv, 64; st.local.u32 [%rv], 1;\nret;\n}", list[k].body,
                    &fault);
        if (r != list[k].code || strcmp(fault.kind, list[k].kind) || fault.line != 13)
            fail_msg("%s: %d %s", list[k].body, r, fault.text);
    }
}

/* Nothing here points to a texture, and what would make such a pointer is an error at lookup; so are other wrong forms.
 */
static void t_istypep(void **unused) {
    (void)unused;
    run("",
        "istypep.texref %p0, %x1; istypep.samplerref %p1, %x2; istypep.surfref %p2, %x0; or.pred %p0, %p0, %p1; "
        "or.pred %p0, "
        "%p0, %p2; selp.u32 %r2, 1, %r1, %p0;",
        NULL);
    EXPECT(in[i]);
    static const char *const wrong[] = {
        "mov.u64 %x0, t;",
        "istypep.texref %p0, t;",
        "istypep.ptr %p0, %x0;",
        "alloca.u16 %x0, 8;",
        "alloca.u64 %x0, 8, 3;",
        "alloca.u64 %x0, 8, 0x1000000;",
        "stacksave.u64 %r0;",
        "cvta.shared.u32 %r0, %r1;",
        "call (%r0), f, (%r1);",
        "call (%r0), f, (%r1, %x0);",
        "call (%p0), f, (%r1, %r0);",
        "call (%r0, %r1), f, (%r1, %r0);",
        "call (5), f, (%r1, %r0);",
        "call (%r0), p, (%r1);",
        "call (%r0), %x0, (5);",
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        char text[900], log[700];
        snprintf(
            text, sizeof text,
            ".version 8.0\n.target sm_80\n.address_size 64\n.global .texref t; .func (.reg .u32 %%rv) f(.reg .u32 %%a, "
            ".reg .u32 %%b) { ret; } .func (.reg .u32 %%rv) p(.reg .pred %%a) { ret; }\n.visible .entry k() {.reg .b32 "
            "%%r<4>; .reg .b64 %%x<4>; .reg .pred %%p<2>;\n%s\nret;\n}\n",
            wrong[k]);
        struct vm_module *m = load_text(text, "c.ptx");
        struct vm_function *f;
        int r = vm_module_function(m, "k", &f, log, sizeof log);
        if (r != VM_INVALID_PTX || !strstr(log, "c.ptx line 6:")) fail_msg("%s: %d %s", wrong[k], r, log);
        vm_module_free(m);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_register_parameters), cmocka_unit_test(t_register_calls),
                                       cmocka_unit_test(t_parameter_address),   cmocka_unit_test(t_alloca),
                                       cmocka_unit_test(t_stack_findings),      cmocka_unit_test(t_istypep)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
