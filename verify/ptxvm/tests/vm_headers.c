/* The toolkit's headers on the machine, optimized and for a debugger: every result as plain C computes it, and no
 * finding. */
#include "verify/ptxvm/tests/vm_test.h"

enum { N = 1024, T = 256 };

static struct vm_module *module;
static int x[N], y[N];

static void run(const char *kernel) {
    uint32_t seed = 7;
    for (int i = 0; i < N; i++) x[i] = (int)(rnd(&seed) % 199) - 99;
    uint64_t a = device(sizeof x, x), b = device(sizeof y, NULL);
    assert_int_equal(vm_mem_set(b, 0, 1, sizeof y, 1, 0), 0);
    LAUNCH(module, kernel, D1(1), D1(T), 0, a, b);
    fetch(y, b, sizeof y);
    vm_mem_free(a);
    vm_mem_free(b);
}

static void t_tiles(void **u) {
    (void)u;
    run("tiles");
    for (int t = 0; t < T; t++) {
        int all = 0, until = 0, first = t & ~7;
        for (int k = first; k < first + 8; k++) all += x[k], until += k <= t ? x[k] : 0;
        assert_int_equal(y[4 * t], all);
        assert_int_equal(y[4 * t + 1], until);
        assert_int_equal(y[4 * t + 2], x[t ^ 3]);
        assert_int_equal(y[4 * t + 3], t / 8);
    }
    run("labels");
    for (int t = 0; t < T; t++) {
        int size = 0, sum = 0;
        for (int k = t & ~31; k < (t & ~31) + 32; k++)
            if ((x[k] & 3) == (x[t] & 3)) size++, sum += x[k];
        assert_int_equal(y[t], size * 10000 + sum);
    }
    run("wide_tiles");
    for (int t = 0; t < T; t++) {
        int all = 0;
        for (int k = t & ~63; k < (t & ~63) + 64; k++) all += x[k];
        assert_int_equal(y[t], all);
    }
    run("coalesced");
    for (int t = 0; t < T; t++) {
        int size = 0, rank = 0;
        for (int k = t & ~31; k < (t & ~31) + 32; k++)
            if (x[k] % 3 == 1) size++, rank += k < t;
        assert_int_equal(y[t], x[t] % 3 == 1 ? size * 100 + rank : 0);
    }
}

static int by_value(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}
static void t_sorts(void **u) {
    (void)u;
    static const char *const kernels[] = {"merge_sort", "radix_sort", "warp_sort"};
    for (int k = 0; k < 3; k++) {
        run(kernels[k]);
        for (int i = 0, part = k < 2 ? N : 64; i < N; i += part) qsort(x + i, (size_t)part, sizeof *x, by_value);
        assert_memory_equal(y, x, sizeof y);
    }
    run("block_scan");
    for (int i = 0, sum = 0; i < N; i++) assert_int_equal(y[i], sum += x[i]);
}
static void t_memory(void **u) {
    (void)u;
    run("latch");
    for (int t = 0; t < T; t++) assert_int_equal(y[t], x[255 - t]);
    run("records");
    for (int t = 0; t < T; t++) assert_int_equal(y[t], t * (t % 20) + t + (signed char)t);
    run("fields");
    for (int t = 0; t < T; t++) assert_int_equal(y[t], (x[t] & 31) * 3 + (x[t] * 7 & 2047) * 5 + (x[t] * 31 & 65535));
}

/* Philox 4x32-10 (Salmon et al. 2011), the counter as curand_init sets it: subsequence in the high half. */
static uint32_t philox(uint32_t seed, uint32_t subsequence) {
    uint32_t c[4] = {0, 0, subsequence, 0}, k[2] = {seed, 0};
    for (int r = 0; r < 10; r++, k[0] += 0x9e3779b9, k[1] += 0xbb67ae85) {
        uint64_t p = (uint64_t)0xd2511f53 * c[0], q = (uint64_t)0xcd9e8d57 * c[2];
        uint32_t n[4] = {(uint32_t)(q >> 32) ^ c[1] ^ k[0], (uint32_t)q, (uint32_t)(p >> 32) ^ c[3] ^ k[1],
                         (uint32_t)p};
        memcpy(c, n, sizeof c);
    }
    return c[0];
}
static void t_random(void **u) {
    (void)u;
    run("poisson");
    double mean = 0, square = 0;
    for (int t = 0; t < T; t++) {
        assert_int_equal((uint32_t)y[2 * t], philox(1234, (uint32_t)t));
        mean += y[2 * t + 1] / 256.0, square += (double)y[2 * t + 1] * y[2 * t + 1] / 256.0;
    }
    assert_true(mean > 97 && mean < 103); /* 5 standard errors of the mean: 3.1 */
    assert_true(square - mean * mean > 60 && square - mean * mean < 150);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    static const char *const options[] = {"-O3 -arch=sm_80", "-G -arch=sm_90a"};
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_tiles), cmocka_unit_test(t_sorts), cmocka_unit_test(t_memory),
                                       cmocka_unit_test(t_random)};
    int failed = 0;
    for (int k = 0; k < 2; k++) {
        char command[300], path[] = "/tmp/ptxvm-headers-XXXXXX";
        int fd = mkstemp(path);
        if (fd < 0) return 1;
        close(fd);
        snprintf(command, sizeof command, "nvcc -std=c++17 -w -ptx %s -o %s verify/ptxvm/tests/vm_headers.cu",
                 options[k], path);
        if (system(command)) return 1;
        struct buf b = {0};
        struct err e;
        if (!file_read(path, &b, &e)) return 1;
        unlink(path);
        module = load_text(b.data, "vm_headers.cu");
        failed += cmocka_run_group_tests_name(options[k], tests, NULL, NULL);
        vm_module_free(module);
        buf_free(&b);
    }
    return failed != 0;
}
