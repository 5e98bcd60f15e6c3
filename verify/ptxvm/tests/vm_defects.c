/* Every planted defect is found, with the code of the hardware, the kind, and a PTX line that holds the faulty
 * instruction. */
#include "verify/ptxvm/tests/vm_test.h"

static char *text; /* of the PTX under test */

static void line_text(unsigned n, char *out, size_t cap) {
    const char *p = text;
    while (--n && (p = strchr(p, '\n'))) p++;
    size_t k = p ? strcspn(p, "\n") : 0;
    if (k >= cap) k = cap - 1;
    if (p) memcpy(out, p, k);
    out[p ? k : 0] = 0;
}

static const struct defect {
    const char *kernel, *kind, *instruction;
    int code, threads, blocks,
        args;               /* args: 1 y; 2 x and y; 3 freed; 4 null; 5 uninitialized x; 6 x, y and n; 7 the FIELD */
    unsigned thread, block; /* the first that may be named; UINT_MAX any */
} defects[] = {
    {"load_past_end", "out-of-bounds load", "ld.global", 700, 32, 1, 2, 31, 0},
    {"store_past_end", "out-of-bounds store", "st.global", 700, 32, 1, 1, 16, 0},
    {"store_before", "out-of-bounds store", "st.global", 700, 32, 1, 1, 0, 0},
    {"null_pointer", "out-of-bounds store", "st.global", 700, 1, 1, 4, 0, 0},
    {"after_free", "use after free", "st.global", 700, 32, 1, 3, 0, 0},
    {"misaligned", "misaligned access", "st.global", 716, 31, 1, 1, 0, 0},
    {"misaligned_vector", "misaligned access", "st.global.v4", 716, 4, 1, 1, 0, 0},
    {"uninitialized", "uninitialized load", "ld.global", 719, 32, 1, 5, 0, 0},
    {"shared_past_end", "out-of-bounds store", "st.shared", 700, 32, 1, 1, 31, 0},
    {"dynamic_past_end", "out-of-bounds store", "st.shared", 700, 32, 1, 1, 31, 0},
    {"shared_uninitialized", "uninitialized load", "ld.shared", 719, 32, 1, 1, 31, 0},
    {"local_uninitialized", "uninitialized load", "ld.local", 719, 32, 1, 1, 0, 0},
    {"race_no_barrier", "shared-memory race", ".shared", 719, 64, 1, 1, UINT32_MAX, 0},
    {"race_write_after_read", "shared-memory race", ".shared", 719, 64, 1, 1, UINT32_MAX, 0},
    {"race_two_writers", "shared-memory race", ".shared", 719, 32, 1, 1, 1, 0},
    {"race_in_warp", "shared-memory race", ".shared", 719, 32, 1, 1, 0, 0},
    {"divergent_barrier", "divergent barrier", "bar.sync", 719, 64, 1, 1, UINT32_MAX, 0},
    {"lonely_barrier", "divergent barrier", "bar", 719, 64, 1, 1, 32, 0},
    {"shuffle_inactive", "out-of-range shuffle", "shfl.sync.idx", 719, 32, 1, 1, 8, 0},
    {"shuffle_mask", "bad member mask", "shfl.sync.bfly", 719, 32, 1, 1, 16, 0},
    {"async_no_wait", "shared-memory race", "ld.shared", 719, 32, 1, 2, 0, 0},
    {"async_no_barrier", "shared-memory race", "ld.shared", 719, 32, 1, 2, 0, 0},
    {"atomic_past_end", "out-of-bounds store", "atom.global", 700, 32, 1, 1, 0, 0},
    {"trapped", "trap", "trap", 719, 32, 1, 1, 0, 0},
    {"deadlocked", "deadlock", "bar.sync", 719, 64, 1, 1, UINT32_MAX, 0},
    {"const_pointer", "out-of-bounds load", "ld.global.nc", 700, 32, 1, 2, 28, 0},
    {"tiled_overrun", "out-of-bounds load", "ld.global", 700, 64, 4, 6, 0, 2},
    {"index_before", "out-of-bounds load", "ld.global", 700, 32, 1, 7, 0, 0},
    {"loop_to_n", "out-of-bounds store", "st.global", 700, 32, 1, 7, 0, 0},
    {"shared_before", "out-of-bounds load", "ld.shared", 700, 64, 1, 7, 0, 0},
    {"shared_neighbour", "out-of-bounds load", "ld.shared", 700, 64, 1, 7, 63, 0},
    {"local_past_end", "out-of-bounds store", "st.local", 700, 32, 1, 7, 0, 0},
    {"constant_past_end", "out-of-bounds load", "ld.const", 700, 32, 1, 7, 16, 0},
    {"misaligned_atomic", "misaligned access", ".global", 716, 32, 1, 7, 0, 0},
    {"sum_too_far", "uninitialized load", "ld.global", 719, 32, 1, 7, 0, 0},
    {"hole_in_shared", "uninitialized load", "ld.shared", 719, 64, 1, 7, UINT32_MAX, 0},
    {"unwritten_condition", "uninitialized load", "ld.shared", 719, 64, 1, 7, 60, 0},
    {"unwritten_index", "uninitialized load", "ld.global", 719, 32, 1, 7, 0, 0},
    {"unwritten_shuffle", "uninitialized load", "ld.shared", 719, 32, 1, 7, 0, 0},
    {"reduce_no_barrier", "shared-memory race", ".shared", 719, 128, 1, 7, UINT32_MAX, 0},
    {"scan_no_barrier", "shared-memory race", ".shared", 719, 128, 1, 7, UINT32_MAX, 0},
    {"transpose_no_barrier", "shared-memory race", ".shared", 719, 128, 1, 7, UINT32_MAX, 0},
    {"reduce_no_syncwarp", "shared-memory race", ".shared", 719, 32, 1, 7, UINT32_MAX, 0},
    {"last_writer", "shared-memory race", "st.shared", 719, 64, 1, 7, UINT32_MAX, 0},
    {"histogram_not_atomic", "shared-memory race", ".shared", 719, 128, 1, 7, UINT32_MAX, 0},
    {"histogram_not_cleared", "shared-memory race", ".shared", 719, 128, 1, 7, UINT32_MAX, 0},
    {"barrier_for_some", "divergent barrier", "bar", 719, 64, 1, 7, 3, 0},
    {"barrier_for_a_warp", "divergent barrier", "bar", 719, 64, 1, 7, 0, 0},
    {"barrier_too_often", "divergent barrier", "bar", 719, 64, 1, 7, 32, 0},
    {"barriers_mixed_up", "deadlock", "bar.sync", 719, 64, 1, 7, UINT32_MAX, 0},
    {"mask_of_all", "bad member mask", "shfl", 719, 32, 1, 7, 0, 0},
    {"vote_of_half", "bad member mask", "vote", 719, 32, 1, 7, 16, 0},
    {"async_wrong_stage", "shared-memory race", "ld.shared", 719, 64, 1, 7, UINT32_MAX, 0},
    {"async_past_end", "out-of-bounds load", "cp.async", 700, 32, 1, 7, 1, 0},
    {"asserted", "assertion", "call", 710, 32, 1, 7, 7, 0},
    {"heap_past_end", "out-of-bounds store", "st", 700, 1, 1, 7, 0, 0},
    {"heap_after_free", "use after free", "ld", 700, 1, 1, 7, 0, 0},
    {"heap_free_twice", "bad free", "call", 700, 1, 1, 7, 0, 0},
    {"recursion_without_end", "stack overflow", "call", 714, 32, 1, 7, 0, 0},
    {"right_flag_by_all", "", "", 0, 128, 1, 7, 0, 0},
    {"right_early_return", "", "", 0, 128, 1, 7, 0, 0},
    {"right_unused_load", "", "", 0, 128, 1, 7, 0, 0},
    {"right_tile_masks", "", "", 0, 128, 1, 7, 0, 0},
    {"right_named_barriers", "", "", 0, 128, 1, 7, 0, 0},
    {"right_flag_by_fence", "", "", 0, 128, 1, 7, 0, 0},
    {"right_jobs", "", "", 0, 64, 4, 7, 0, 0},
    {"right_shares_memory", "", "", 0, 128, 1, 7, 0, 0},
};

static struct vm_module *module;

static void t_defects(void **u) {
    (void)u;
    for (size_t i = 0; i < sizeof defects / sizeof *defects; i++) {
        const struct defect *d = &defects[i];
        int values[128] = {0}, wide[128];
        for (int k = 0; k < 128; k++) wide[k] = k + 1;
        uint64_t y = device(d->args == 1 && !strcmp(d->kernel, "misaligned_vector") ? 96
                            : d->args == 6 || d->threads == 64                      ? 4096
                                                                                    : 128,
                            NULL);
        uint64_t x = device(!strcmp(d->kernel, "load_past_end") ? 128 : 512, d->args == 5 ? NULL : wide);
        if (d->args == 1)
            vm_mem_copy(y, (uint64_t)(uintptr_t)values, !strcmp(d->kernel, "misaligned_vector") ? 96 : 128);
        if (!strcmp(d->kernel, "shared_past_end")) {
            values[0] = 1;
            vm_mem_copy(y, (uint64_t)(uintptr_t)values, 128);
        }
        if (d->args == 3) vm_mem_free(y);
        uint64_t args[3] = {d->args == 4 ? 0 : y};
        int n = 1;
        if (d->args == 7) {
            vm_mem_free(x), vm_mem_free(y);
            x = device(544, NULL), y = device(2048, NULL);
            vm_mem_copy(x, (uint64_t)(uintptr_t)wide, 512);
            vm_mem_set(y, 0, 1, 2048, 1, 0);
            args[0] = x, args[1] = y, args[2] = 128, n = 3;
        }
        if (d->args == 2 || d->args == 5 || d->args == 6)
            args[0] = x, args[1] = y, args[2] = 128, n = d->args == 6 ? 3 : 2;
        struct vm_fault f;
        int r = launch_full(module, d->kernel, D1(d->blocks), D1(d->threads),
                            !strcmp(d->kernel, "dynamic_past_end") ? 128 : 0, false, &f, NULL, n, args);
        if (!d->code) {
            if (r) fail_msg("%s is right: %d %s", d->kernel, r, f.text);
            vm_mem_free(x), vm_mem_free(y);
            continue;
        }
        char line[400];
        line_text(f.line ? f.line : 1, line, sizeof line);
        if (r != d->code || strcmp(f.kind, d->kind) || !strstr(line, d->instruction))
            fail_msg("%s: %d %s at '%s' (%s)", d->kernel, r, f.kind, line, f.text);
        if (d->thread != UINT32_MAX && f.thread[0] != d->thread)
            fail_msg("%s: thread %u, expected %u (%s)", d->kernel, f.thread[0], d->thread, f.text);
        assert_int_equal(f.block[0], d->block);
        char prefix[200];
        snprintf(prefix, sizeof prefix,
                 "%s: kernel %s, vm_defects.cu line %u, block (%u,0,0), thread (%u,0,0), address ", d->kind, d->kernel,
                 f.line, d->block, f.thread[0]);
        if (strncmp(f.text, prefix, strlen(prefix))) fail_msg("'%s' does not begin with '%s'", f.text, prefix);
        if (d->args != 3) vm_mem_free(y);
        vm_mem_free(x);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    static const char *const archs[] = {"sm_80", "sm_90a", "sm_120"};
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_defects)};
    int failed = 0, keep = dup(2);
    for (int a = 0; a < 3; a++)
        for (uint64_t s = 0; s < 2; s++) {
            vm_settings()->seed = s;
            char command[300], path[] = "/tmp/ptxvm-defects-XXXXXX";
            int fd = mkstemp(path);
            if (fd < 0) return 1;
            close(fd);
            snprintf(command, sizeof command,
                     "nvcc -O3 -std=c++17 -ptx -arch=%s -o %s verify/ptxvm/tests/vm_defects.cu", archs[a], path);
            if (system(command)) return 1;
            struct buf b = {0};
            struct err e;
            if (!file_read(path, &b, &e)) return 1;
            unlink(path);
            text = b.data;
            module = load_text(text, "vm_defects.cu");
            fflush(stderr);
            if (!freopen("/dev/null", "w", stderr)) return 1; /* the findings' own lines */
            int r = cmocka_run_group_tests_name(archs[a], tests, NULL, NULL);
            dup2(keep, 2);
            failed += r;
            if (r) return 1;
            vm_module_free(module);
            buf_free(&b);
        }
    return failed != 0;
}
