/* Dependent grids: what one may touch ahead of its griddepcontrol.wait, and what the checker says where it does more.
 */
#include "verify/ptxvm/tests/vm_test.h"

/* Each: (x, y, z). x is written by nobody, `produce` writes y, `others` z. */
#define KERNEL(NAME, BODY)                                                                                             \
    ".visible .entry " NAME "(.param .u64 px, .param .u64 py, .param .u64 pz) {\n"                                     \
    ".reg .b64 %x, %y, %z, %o; .reg .b32 %t, %v; .reg .pred %p;\n"                                                     \
    "ld.param.u64 %x, [px]; ld.param.u64 %y, [py]; ld.param.u64 %z, [pz];\n"                                           \
    "mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 4;\n"                                                                    \
    "add.u64 %x, %x, %o; add.u64 %y, %y, %o; add.u64 %z, %z, %o;\n" BODY "ret;\n}\n"

static const char text[] = ".version 7.8\n.target sm_90\n.address_size 64\n" KERNEL(
    "produce", "griddepcontrol.launch_dependents;\ngriddepcontrol.wait;\nst.global.b32 [%y], %t;\n")
    KERNEL("early", "ld.global.b32 %v, [%y];\ngriddepcontrol.wait;\nst.global.b32 [%z], %v;\n")
        KERNEL("late", "griddepcontrol.wait;\nld.global.b32 %v, [%y];\nst.global.b32 [%z], %v;\n")
            KERNEL("constant", "griddepcontrol.wait;\nld.global.nc.b32 %v, [%y];\nst.global.b32 [%z], %v;\n")
                KERNEL("weights", "ld.global.nc.b32 %v, [%x];\ngriddepcontrol.wait;\nst.global.b32 [%z], %v;\n")
                    KERNEL("early_store", "st.global.b32 [%y], %t;\ngriddepcontrol.wait;\n")
                        KERNEL("early_atomic", "atom.global.add.u32 %v, [%y], 1;\ngriddepcontrol.wait;\n")
                            KERNEL("never_waits", "ld.global.b32 %v, [%x];\nst.global.b32 [%z], %v;\n") KERNEL(
                                "one_waits",
                                "setp.ne.u32 %p, %t, 0;\n@%p bra JOIN;\ngriddepcontrol.wait;\nJOIN:\nbar.sync 0;\n"
                                "ld.global.b32 %v, [%y];\nst.global.b32 [%z], %v;\n")
                                KERNEL("one_waits_alone",
                                       "setp.ne.u32 %p, %t, 0;\n@%p bra JOIN;\ngriddepcontrol.wait;\nJOIN:\n"
                                       "ld.global.b32 %v, [%y];\nst.global.b32 [%z], %v;\n");

#define MISSING "missing griddepcontrol.wait"
#define CONSTANT "read-only load of what changes"
static const struct {
    const char *grids[4]; /* each behind the one before; with + it depends on it */
    const char *kind;     /* of the last one's finding */
    const char *line;
} chains[] = {
    {{"produce", "+late"}, "", ""},
    {{"produce", "+weights"}, "", ""},
    {{"produce", "+one_waits"}, "", ""},
    {{"produce", "early"}, "", ""},
    {{"produce", "constant"}, "", ""},
    {{"produce", "late", "+early"}, "", ""}, /* late has begun behind produce's end */
    {{"produce", "+early"}, MISSING, "ld.global.b32"},
    {{"produce", "+early_store"}, MISSING, "st.global.b32"},
    {{"produce", "+early_atomic"}, MISSING, "atom.global"},
    {{"produce", "+constant"}, CONSTANT, "ld.global.nc"},
    {{"produce", "+one_waits_alone"}, MISSING, "ld.global.b32"},
    /* Two grids back: the one between may not have waited yet. */
    {{"produce", "+weights", "+early"}, MISSING, "ld.global.b32"},
    {{"produce", "+weights", "+late"}, "", ""},
    {{"produce", "+never_waits", "+late"}, MISSING, "ld.global.b32"},
    {{"produce", "never_waits", "+late"}, "", ""},
};

static void chains_of_grids(void **u) {
    (void)u;
    struct vm_module *m = load_text(text, "depend.ptx");
    int32_t zeros[64] = {0};
    for (size_t i = 0; i < sizeof chains / sizeof *chains; i++) {
        uint64_t args[3];
        for (int k = 0; k < 3; k++) args[k] = device(sizeof zeros, zeros);
        struct vm_chain chain = {0};
        struct vm_fault f = {0};
        int r = 0;
        for (int k = 0; k < 4 && chains[i].grids[k]; k++) {
            const char *name = chains[i].grids[k];
            bool dependent = *name == '+', last = k == 3 || !chains[i].grids[k + 1];
            struct vm_launch_params p = {.grid = {1, 1, 1},
                                         .block = {64, 1, 1},
                                         .params = args,
                                         .param_bytes = sizeof args,
                                         .dependent = dependent,
                                         .chain = &chain};
            r = vm_launch(function(m, name + dependent), &p, &f, NULL);
            if (r && !last) fail_msg("chain %d, %s: %s", (int)i, name, f.text);
        }
        if (strcmp(f.kind, chains[i].kind) != 0 || r != (*chains[i].kind ? 719 : 0))
            fail_msg("chain %d: %d '%s', expected '%s': %s", (int)i, r, f.kind, chains[i].kind, f.text);
        const char *at = text;
        for (uint32_t line = 1; r && line < f.line; line++) at = strchr(at, '\n') + 1;
        if (strncmp(at, chains[i].line, strlen(chains[i].line)) != 0 && *chains[i].line)
            fail_msg("chain %d: line %u is not its %s", (int)i, f.line, chains[i].line);
        for (int k = 0; k < 3; k++) vm_mem_free(args[k]);
    }
    vm_module_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(chains_of_grids)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
