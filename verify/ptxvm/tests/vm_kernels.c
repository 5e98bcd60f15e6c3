/* The machine against plain C, with kernels that nvcc -O3 compiles for three architectures at test time. */
#include "verify/ptxvm/tests/vm_test.h"

#include <time.h>

static struct vm_module *m;
static uint32_t seed = 12345;

static void t_saxpy(void **u) {
    (void)u;
    enum { N = 1000 };
    float x[N], y[N], z[N];
    for (int i = 0; i < N; i++) x[i] = rnd_f(&seed), y[i] = rnd_f(&seed);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, y);
    LAUNCH(m, "saxpy", D1(8), D1(128), 0, f_bits(2.5f), dx, dy, N);
    fetch(z, dy, sizeof z);
    for (int i = 0; i < N; i++) assert_true(z[i] == fmaf(2.5f, x[i], y[i]));
}

static void t_reduce(void **u) {
    (void)u;
    enum { N = 5000 };
    float x[N], out[4], sum = 0;
    for (int i = 0; i < N; i++) x[i] = (float)(rnd(&seed) % 100);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof out, NULL);
    LAUNCH(m, "reduce", D1(4), D1(256), 0, dx, dy, N);
    fetch(out, dy, sizeof out);
    for (int i = 0; i < N; i++) sum += x[i];
    assert_true(out[0] + out[1] + out[2] + out[3] == sum);
}

static void t_scan(void **u) {
    (void)u;
    int x[1000], y[1000], s = 0;
    for (int i = 0; i < 1000; i++) x[i] = (int)(rnd(&seed) % 1000) - 500;
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "scan", D1(1), D1(1024), 4096, dx, dy, 1000);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 1000; i++) assert_int_equal(y[i], s += x[i]);
}

static void t_transpose(void **u) {
    (void)u;
    enum { N = 75 };
    static float x[N * N], y[N * N];
    for (int i = 0; i < N * N; i++) x[i] = rnd_f(&seed);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "transpose", D2(3, 3), D2(32, 8), 0, dx, dy, N);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) assert_true(y[j * N + i] == x[i * N + j]);
}

static void t_histogram(void **u) {
    (void)u;
    static unsigned char x[20000];
    unsigned bins[256] = {0}, ref[256] = {0};
    for (int i = 0; i < 20000; i++) x[i] = (unsigned char)(rnd(&seed) % 7 * rnd(&seed)), ref[x[i]]++;
    uint64_t dx = device(sizeof x, x), db = device(sizeof bins, bins);
    LAUNCH(m, "histogram", D1(6), D1(96), 0, dx, db, 20000);
    fetch(bins, db, sizeof bins);
    assert_memory_equal(bins, ref, sizeof ref);
}

static void t_gemm_tiled(void **u) {
    (void)u;
    enum { N = 64 };
    static float a[N * N], b[N * N], c[N * N];
    for (int i = 0; i < N * N; i++) a[i] = rnd_f(&seed), b[i] = rnd_f(&seed);
    uint64_t da = device(sizeof a, a), db = device(sizeof b, b), dc = device(sizeof c, NULL);
    LAUNCH(m, "gemm_tiled", D2(4, 4), D2(16, 16), 0, da, db, dc, N);
    fetch(c, dc, sizeof c);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            float s = 0;
            for (int k = 0; k < N; k++) s = fmaf(a[i * N + k], b[k * N + j], s);
            assert_true(c[i * N + j] == s);
        }
}

/* The size the checker must keep up with: under 5 s of this process, checks on (a count of work, not of the machine's
 * other load). */
static void t_gemm_512(void **u) {
    (void)u;
    enum { N = 512 };
    static float a[N * N], b[N * N], c[N * N];
    for (int i = 0; i < N * N; i++) a[i] = rnd_f(&seed), b[i] = rnd_f(&seed);
    uint64_t da = device(sizeof a, a), db = device(sizeof b, b), dc = device(sizeof c, NULL);
    clock_t start = clock();
    LAUNCH(m, "gemm_tiled", D2(N / 16, N / 16), D2(16, 16), 0, da, db, dc, N);
    double s = (double)(clock() - start) / CLOCKS_PER_SEC;
    fetch(c, dc, sizeof c);
    vm_mem_free(da), vm_mem_free(db), vm_mem_free(dc);
    print_message("512x512x512 with checks: %.2f s of processor time\n", s);
    assert_true(s < 5);
    for (int i = 0; i < N; i += 37)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < N; k++) sum = fmaf(a[i * N + k], b[k * N + j], sum);
            assert_true(c[i * N + j] == sum);
        }
}

static void t_heap(void **u) {
    (void)u;
    int out[64];
    uint64_t d = device(sizeof out, NULL);
    LAUNCH(m, "heap", D1(2), D1(32), 0, d, 10);
    fetch(out, d, sizeof out);
    for (int t = 0; t < 64; t++) {
        int sum = 0;
        for (int i = 0; i < 10; i++) sum += ((9 - i) * t + 1) * (i + 1);
        assert_int_equal(out[t], sum);
    }
}

static void t_heap_misuse(void **u) {
    (void)u;
    static const char *const kinds[] = {"bad free", "use after free", "out-of-bounds load"};
    uint64_t d = device(64, NULL);
    for (uint64_t what = 0; what < 3; what++) {
        struct vm_fault fault = {0};
        int r = launch_full(m, "heap_misuse", D1(1), D1(1), 0, false, &fault, NULL, 2, (uint64_t[]){d, what});
        assert_int_equal(r, VM_ILLEGAL_ADDRESS);
        assert_string_equal(fault.kind, kinds[what]);
    }
}

static uint16_t small_half(int v) { /* -8 … 8 in halves: exact */
    static const uint16_t bits[9] = {0, 0x3800, 0x3c00, 0x3e00, 0x4000, 0x4100, 0x4200, 0x4300, 0x4400};
    return v < 0 ? bits[-v] | 0x8000 : bits[v];
}
static uint16_t small_bf16(int v) {
    float f = (float)v * 0.5f;
    uint32_t x;
    memcpy(&x, &f, 4);
    return (uint16_t)(x >> 16);
}

static void gemm(const char *name, uint16_t (*encode)(int), struct dims g, struct dims b, int n, float scale) {
    uint16_t *a = malloc((size_t)(n * n) * 2), *bt = malloc((size_t)(n * n) * 2);
    int *ia = malloc((size_t)(n * n) * sizeof(int)), *ib = malloc((size_t)(n * n) * sizeof(int));
    float *c = malloc((size_t)(n * n) * 4);
    for (int i = 0; i < n * n; i++) {
        ia[i] = (int)(rnd(&seed) % 17) - 8, ib[i] = (int)(rnd(&seed) % 17) - 8;
        a[i] = encode(ia[i]), bt[i] = encode(ib[i]);
    }
    uint64_t da = device((uint64_t)(n * n * 2), a), db = device((uint64_t)(n * n * 2), bt),
             dc = device((uint64_t)(n * n * 4), NULL);
    LAUNCH(m, name, g, b, 0, da, db, dc, (uint64_t)n);
    fetch(c, dc, (uint64_t)(n * n * 4));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            int s = 0;
            for (int k = 0; k < n; k++) s += ia[i * n + k] * ib[j * n + k];
            assert_true(c[i * n + j] == (float)s * 0.25f * scale);
        }
    free(a), free(bt), free(ia), free(ib), free(c);
}
static void t_gemm_wmma(void **u) {
    (void)u;
    gemm("gemm_wmma", small_half, D2(3, 3), D1(32), 48, 2);
}
static void t_gemm_mma(void **u) {
    (void)u;
    gemm("gemm_mma", small_bf16, D2(2, 2), D1(128), 128, 1);
}

static void t_collatz(void **u) {
    (void)u;
    unsigned x[200];
    int y[200];
    for (int i = 0; i < 200; i++) x[i] = rnd(&seed) % 100000 + 1;
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "collatz", D1(4), D1(64), 0, dx, dy, 200);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 200; i++) {
        unsigned long long v = x[i];
        int k = 0;
        for (; v != 1 && k <= 500; k++) v = v & 1 ? 3 * v + 1 : v / 2;
        assert_int_equal(y[i], k);
    }
}

static int ackermann(int a, int b) {
    return a == 0 ? b + 1 : b == 0 ? ackermann(a - 1, 1) : ackermann(a - 1, ackermann(a, b - 1));
}
static void t_recursion(void **u) {
    (void)u;
    int y[64];
    uint64_t dy = device(sizeof y, NULL);
    LAUNCH(m, "recursion", D1(1), D1(64), 0, dy);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 64; i++) assert_int_equal(y[i], ackermann(i % 3, i % 5));
}

static void t_pointers(void **u) {
    (void)u;
    float x[96], y[96];
    int which[96];
    for (int i = 0; i < 96; i++) x[i] = rnd_f(&seed) + 2, which[i] = (int)(rnd(&seed) % 3);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL), dw = device(sizeof which, which);
    LAUNCH(m, "pointers", D1(1), D1(96), 0, dx, dy, dw);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 96; i++)
        assert_true(y[i] == (which[i] == 0 ? x[i] + x[i] : which[i] == 1 ? x[i] * x[i] : 1.0f / x[i]));
}

static void t_switches(void **u) {
    (void)u;
    int x[64], y[64];
    for (int i = 0; i < 64; i++) x[i] = (int)rnd(&seed);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "switches", D1(1), D1(64), 0, dx, dy);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 64; i++) {
        int v = x[i], r[8] = {v + 1,
                              (int)((unsigned)v * 7u),
                              v ^ 0x55,
                              (int)((unsigned)v - 100u),
                              (int)((unsigned)v << 2),
                              __builtin_popcount((unsigned)v),
                              (int)-(unsigned)v,
                              42};
        assert_int_equal(y[i], r[v & 7]);
    }
}

static void t_spin(void **u) {
    (void)u;
    int zero[2] = {0, 0}, out[2];
    uint64_t d = device(8, zero);
    LAUNCH(m, "spin_lock", D1(3), D1(40), 0, d, d + 4, 2);
    fetch(out, d, 8);
    assert_int_equal(out[1], 240);
    LAUNCH(m, "spin_straight", D1(2), D1(33), 0, d, d + 4);
    fetch(out, d, 8);
    assert_int_equal(out[1], 306);
}

static void t_last_block(void **u) {
    (void)u;
    float x[320], sum = 0, out;
    unsigned zero = 0;
    for (int i = 0; i < 320; i++) sum += x[i] = (float)(rnd(&seed) % 50);
    uint64_t dx = device(sizeof x, x), dp = device(40, NULL), dt = device(4, &zero), dout = device(4, NULL);
    LAUNCH(m, "last_block", D1(10), D1(32), 0, dx, dp, dt, dout);
    fetch(&out, dout, 4);
    assert_true(out == sum);
}

static void t_grid_sync(void **u) {
    (void)u;
    int x[256], y[256];
    for (int i = 0; i < 256; i++) x[i] = i * 10, y[i] = 0;
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, y), args[] = {dx, dy};
    struct vm_fault f;
    int r = launch_full(m, "grid_sync", D1(4), D1(64), 0, true, &f, NULL, 2, args);
    if (r) fail_msg("%d %s", r, f.text);
    fetch(x, dx, sizeof x);
    for (int i = 0; i < 256; i++) assert_int_equal(x[i], (i + 252) % 256 * 10 + 4);
}

static void t_warp_tricks(void **u) {
    (void)u;
    int x[64];
    unsigned y[512];
    for (int i = 0; i < 64; i++) x[i] = (int)(rnd(&seed) % 900);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "warp_tricks", D1(1), D1(64), 0, dx, dy);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 64; i++) {
        int w = i / 32 * 32, l = i % 32;
        unsigned odd = 0, same = 0, sum = 0, max = 0, three = 0;
        for (int j = 0; j < 32; j++) {
            odd |= (unsigned)(x[w + j] & 1) << j;
            same |= (unsigned)(x[w + j] % 4 == x[i] % 4) << j;
            sum += (unsigned)x[w + j];
            if ((unsigned)x[w + j] > max) max = (unsigned)x[w + j];
            three |= x[w + j] == 3;
        }
        assert_int_equal(y[i * 8], odd);
        assert_int_equal(y[i * 8 + 1], same);
        assert_int_equal(y[i * 8 + 2], 0xffffffffu + 1u);
        assert_int_equal(y[i * 8 + 3], sum);
        assert_int_equal(y[i * 8 + 4], max);
        assert_int_equal(y[i * 8 + 5], three + 2);
        assert_int_equal(y[i * 8 + 6], x[i] & 1 ? odd : 0);
        int from = l < 16 ? l / 8 * 8 + 3 : l % 16 < 2 ? l : l - 2;
        assert_int_equal(y[i * 8 + 7], x[w + from]);
    }
}

static float half_value(uint16_t h) {
    int e = h >> 10 & 31, f = h & 1023;
    float v = e ? ldexpf((float)(f | 1024), e - 25) : ldexpf((float)f, -24);
    return h & 0x8000 ? -v : v;
}
static uint16_t to_half(double v) { /* nearest, ties to even; in range */
    uint16_t best = 0;
    for (int h = 0; h < 0x7c00; h++)
        if (fabs(half_value((uint16_t)h) - fabs(v)) < fabs(half_value(best) - fabs(v)) ||
            (fabs(half_value((uint16_t)h) - fabs(v)) == fabs(half_value(best) - fabs(v)) && !(h & 1)))
            best = (uint16_t)h;
    return v < 0 ? best | 0x8000 : best;
}
static void t_halves(void **u) {
    (void)u;
    uint16_t x[64], y[64], p[64], q[64];
    for (int i = 0; i < 64; i++) {
        x[i] = (uint16_t)(rnd(&seed) % 0x4000 | (rnd(&seed) & 0x8000));
        float f = rnd_f(&seed) * 4;
        p[i] = (uint16_t)(f_bits(f) >> 16);
    }
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL), dp = device(sizeof p, p),
             dq = device(sizeof q, NULL);
    LAUNCH(m, "halves", D1(1), D1(32), 0, dx, dy, dp, dq);
    fetch(y, dy, sizeof y);
    fetch(q, dq, sizeof q);
    for (int i = 0; i < 64; i++) {
        double v = half_value(x[i]), c = i & 1 ? -0.5 : 0.5;
        assert_int_equal(y[i], to_half(v * v + (v > c ? v : c)));
        uint32_t b = (uint32_t)p[i] << 16;
        float f, r;
        memcpy(&f, &b, 4);
        for (int step = 0; step < 2; step++) { /* f * f, then + f, each rounded to 8 bits */
            r = step ? r + f : f * f;
            memcpy(&b, &r, 4);
            b = (b + 0x7fff + (b >> 16 & 1)) & 0xffff0000;
            memcpy(&r, &b, 4);
        }
        uint32_t fused;
        float g = f * f + f; /* nvcc may contract: one rounding is also right */
        memcpy(&fused, &g, 4);
        fused = (fused + 0x7fff + (fused >> 16 & 1)) >> 16;
        assert_true(q[i] == b >> 16 || q[i] == fused);
    }
}

static void t_math(void **u) {
    (void)u;
    double x[32], y[32];
    float f[32], g[32];
    for (int i = 0; i < 32; i++) x[i] = rnd_f(&seed) * 20, f[i] = rnd_f(&seed) * 5;
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL), df = device(sizeof f, f),
             dg = device(sizeof g, NULL);
    LAUNCH(m, "doubles", D1(1), D1(32), 0, dx, dy);
    LAUNCH(m, "math_f32", D1(1), D1(32), 0, df, dg);
    fetch(y, dy, sizeof y);
    fetch(g, dg, sizeof g);
    for (int i = 0; i < 32; i++) {
        assert_true(fabs(y[i] - (sin(x[i]) / sqrt(fabs(x[i]) + 1) + exp(x[i] * 0.1))) < 1e-14 * 20);
        double v = f[i], r = sin((double)(f[i] * 1000.0f)) + exp(v) + log(fabs(v) + 1) + pow(fabs(v) + 0.1f, 1.7f) +
                             v / 3 + 1 / sqrt(fabs(v) + 1);
        assert_true(fabs(g[i] - r) < 2e-6 * (fabs(r) + exp(v) + 10));
    }
}

static void t_integers(void **u) {
    (void)u;
    long long x[64], y[256];
    int d[64];
    for (int i = 0; i < 64; i++) {
        x[i] = (long long)((unsigned long long)rnd(&seed) << 32 | rnd(&seed)) >> rnd(&seed) % 40;
        d[i] = (int)(rnd(&seed) >> rnd(&seed) % 30) | 1;
    }
    uint64_t dx = device(sizeof x, x), dd = device(sizeof d, d), dy = device(sizeof y, NULL);
    LAUNCH(m, "integers", D1(1), D1(64), 0, dx, dd, dy);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 64; i++) {
        if (d[i] == -1) continue;
        assert_true(y[i * 4] == x[i] / d[i]);
        assert_true(y[i * 4 + 1] == x[i] % d[i]);
        assert_true(y[i * 4 + 2] ==
                    (long long)((unsigned __int128)(unsigned long long)x[i] * 0x9e3779b97f4a7c15ull >> 64));
        unsigned a = (unsigned)x[i], b = (unsigned)d[i], dot = 5, rev = 0;
        for (int k = 0; k < 32; k += 8) dot += (unsigned)((signed char)(a >> k) * (signed char)(b >> k));
        for (int k = 0; k < 32; k++) rev |= (b >> k & 1) << (31 - k);
        unsigned long long pair = (unsigned long long)b << 32 | a;
        unsigned perm = 0, sel[4] = {0, 4, 1, 5};
        for (int k = 0; k < 4; k++) perm |= (unsigned)(pair >> 8 * sel[k] & 255) << 8 * k;
        unsigned r = a / b + (unsigned)((int)x[i] % d[i]) + dot + (b << 9 | a >> 23) + rev + perm;
        assert_int_equal((unsigned)y[i * 4 + 3], r);
    }
}

static int ascending(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}
static void t_local_array(void **u) {
    (void)u;
    int x[32], y[32 * 32];
    for (int i = 0; i < 32; i++) x[i] = (int)(rnd(&seed) % 10000);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "local_array", D1(1), D1(32), 0, dx, dy, 32);
    fetch(y, dy, sizeof y);
    qsort(x, 32, sizeof *x, ascending);
    for (int i = 0; i < 32; i++) assert_memory_equal(y + 32 * i, x, sizeof x);
}

static void t_printf(void **u) {
    (void)u;
    fflush(stdout);
    FILE *f = tmpfile();
    int out = dup(1);
    dup2(fileno(f), 1);
    LAUNCH(m, "says", D1(1), D1(32), 0, 2);
    fflush(stdout);
    dup2(out, 1);
    close(out);
    char text[300] = {0};
    rewind(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_string_equal(text, "thread 0 of says:  0.00 1099511627776 x%\nthread 1 of says:  0.50 1099511627776 x%\n");
}

static void t_by_value(void **u) {
    (void)u;
    struct {
        int index[5];
        float scale;
    } p = {{3, 1, 2, 0, 1}, 2}, q = {{5, 6, 7, 8, 9}, -1};
    float c[4] = {1, -2, 3, 0.5f}, y[32];
    struct vm_function *f = function(m, "by_value");
    const struct vm_function_info *info = vm_function_info(f);
    uint64_t dy = device(sizeof y, NULL);
    unsigned char bytes[200] = {0};
    assert_int_equal(info->params[0].bytes, sizeof p);
    memcpy(bytes + info->params[0].off, &p, sizeof p);
    memcpy(bytes + info->params[1].off, &q, sizeof q);
    memcpy(bytes + info->params[2].off, &dy, 8);
    struct vm_launch_params lp = {{1, 1, 1}, {32, 1, 1}, {0, 0, 0}, 0, bytes, sizeof bytes, false, false, NULL};
    struct vm_fault fault;
    assert_int_equal(vm_launch(f, &lp, &fault, NULL), 0);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 32; i++)
        assert_true(y[i] == c[p.index[i % 5] & 3] * (i & 1 ? p.scale : q.scale) + (float)q.index[(i + 1) % 5]);
}

static void t_barriers(void **u) {
    (void)u;
    int y[256], x[128], z[128], count = 0;
    uint64_t dy = device(sizeof y, NULL);
    LAUNCH(m, "named_barriers", D1(1), D1(128), 0, dy);
    fetch(y, dy, sizeof y);
    for (int r = 0; r < 4; r++)
        for (int i = 0; i < 64; i++) assert_int_equal(y[r * 64 + i], r * 1000 + 63 - i);
    for (int i = 0; i < 128; i++) x[i] = i == 100 ? 77 : (int)(rnd(&seed) % 20), count += x[i] > 10;
    uint64_t dx = device(sizeof x, x), dz = device(sizeof z, NULL);
    LAUNCH(m, "votes_of_block", D1(1), D1(128), 0, dx, dz);
    fetch(z, dz, sizeof z);
    for (int i = 0; i < 128; i++) assert_int_equal(z[i], count + 3000);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_saxpy),       cmocka_unit_test(t_reduce),      cmocka_unit_test(t_scan),
        cmocka_unit_test(t_transpose),   cmocka_unit_test(t_histogram),   cmocka_unit_test(t_gemm_tiled),
        cmocka_unit_test(t_gemm_512),    cmocka_unit_test(t_heap),        cmocka_unit_test(t_heap_misuse),
        cmocka_unit_test(t_gemm_wmma),   cmocka_unit_test(t_gemm_mma),    cmocka_unit_test(t_collatz),
        cmocka_unit_test(t_recursion),   cmocka_unit_test(t_pointers),    cmocka_unit_test(t_switches),
        cmocka_unit_test(t_spin),        cmocka_unit_test(t_last_block),  cmocka_unit_test(t_grid_sync),
        cmocka_unit_test(t_warp_tricks), cmocka_unit_test(t_halves),      cmocka_unit_test(t_math),
        cmocka_unit_test(t_integers),    cmocka_unit_test(t_local_array), cmocka_unit_test(t_printf),
        cmocka_unit_test(t_by_value),    cmocka_unit_test(t_barriers),
    };
    static const char *const archs[] = {"sm_80", "sm_90a", "sm_120"};
    int failed = 0;
    for (int a = 0; a < 3; a++)
        for (uint64_t s = 0; s < 3; s += 2) { /* in order, and with the warps shuffled */
            vm_settings()->seed = s;
            m = compile("vm_kernels.cu", archs[a]);
            failed += cmocka_run_group_tests_name(archs[a], tests, NULL, NULL);
            vm_module_free(m);
        }
    return failed != 0;
}
