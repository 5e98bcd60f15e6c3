/* mbarriers, bulk and tensor copies, wgmma and clusters against plain C. */
#include "verify/ptxvm/tests/vm_test.h"

static struct vm_module *m;
static uint32_t seed = 777;

static void t_ring(void **u) {
    (void)u;
    enum { CHUNKS = 9 };
    int x[96 * CHUNKS], y[96];
    for (int i = 0; i < 96 * CHUNKS; i++) x[i] = (int)(rnd(&seed) % 1000);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "ring", D1(1), D1(128), 0, dx, dy, CHUNKS);
    fetch(y, dy, sizeof y);
    for (int i = 0; i < 96; i++) {
        int s = 0;
        for (int c = 0; c < CHUNKS; c++) s += x[c * 96 + 95 - i];
        assert_int_equal(y[i], s);
    }
}

static struct vm_tensor_map map(uint64_t base, int type, int bytes, uint32_t w, uint32_t h, uint32_t bw, uint32_t bh,
                                int swizzle) {
    return (struct vm_tensor_map){.base = base,
                                  .dim = {w, h},
                                  .stride = {(uint64_t)w * (uint64_t)bytes},
                                  .box = {bw, bh},
                                  .elem_stride = {1, 1},
                                  .type = (uint8_t)type,
                                  .rank = 2,
                                  .swizzle = (uint8_t)swizzle,
                                  .magic = VM_TENSOR_MAP_MAGIC};
}

static int run_with_maps(const char *name, struct dims b, const struct vm_tensor_map *p, const struct vm_tensor_map *q,
                         int n, const uint64_t *rest, struct vm_fault *fault) {
    struct vm_function *f = function(m, name);
    const struct vm_function_info *i = vm_function_info(f);
    unsigned char bytes[1024] = {0};
    memcpy(bytes + i->params[0].off, p, sizeof *p);
    memcpy(bytes + i->params[1].off, q, sizeof *q);
    for (int k = 0; k < n; k++) memcpy(bytes + i->params[2 + k].off, &rest[k], i->params[2 + k].bytes);
    struct vm_launch_params lp = {{1, 1, 1}, {b.x, b.y, b.z}, {0, 0, 0}, 0, bytes, sizeof bytes, false, false, NULL};
    return vm_launch(f, &lp, fault, NULL);
}

static void t_tiles(void **u) {
    (void)u;
    enum { W = 40, H = 20 };
    uint32_t x[W * H], raw[4096], back[32 * 16];
    for (int i = 0; i < W * H; i++) x[i] = rnd(&seed);
    uint64_t dx = device(sizeof x, x), dr = device(sizeof raw, NULL), db = device(sizeof back, NULL);
    for (int swizzle = 0; swizzle < 4; swizzle++) {
        uint32_t bw = swizzle == 1 ? 8 : swizzle == 2 ? 16 : 32, bh = 16;
        for (int at = 0; at < 3; at++) {
            int px = at == 0 ? 0 : at == 1 ? 20 : -3, py = at == 0 ? 0 : at == 1 ? 10 : -2;
            struct vm_tensor_map from = map(dx, 2, 4, W, H, bw, bh, swizzle),
                                 to = map(db, 2, 4, bw, bh, bw, bh, swizzle);
            uint64_t rest[] = {dr, bw * bh * 4, (uint32_t)px, (uint32_t)py};
            struct vm_fault f;
            int r = run_with_maps("tile_copy", D1(64), &from, &to, 4, rest, &f);
            if (r) fail_msg("%d %s", r, f.text);
            fetch(raw, dr, bw * bh * 4);
            fetch(back, db, bw * bh * 4);
            for (uint32_t j = 0; j < bh; j++)
                for (uint32_t i = 0; i < bw; i++) {
                    int gx = px + (int)i, gy = py + (int)j;
                    uint32_t v = gx < 0 || gy < 0 || gx >= W || gy >= H ? 0 : x[gy * W + gx];
                    uint32_t byte = (j * bw + i) * 4, unit = byte / 16 % 8,
                             line = byte / 128 % 8; /* the documented patterns, of 16-byte units */
                    uint32_t flip = swizzle == 3 ? line : swizzle == 2 ? line & 3 : swizzle == 1 ? line & 1 : 0;
                    uint32_t place = byte / 128 * 128 + (unit ^ flip) * 16 + byte % 16;
                    assert_int_equal(raw[place / 4], v);
                    assert_int_equal(back[j * bw + i], v);
                }
        }
    }
}

static uint16_t half_of(int v) {
    static const uint16_t bits[9] = {0, 0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600, 0x4700, 0x4800};
    return v < 0 ? bits[-v] | 0x8000 : bits[v];
}
static void t_wgmma(void **u) {
    (void)u;
    enum { K = 192 };
    uint16_t a[64 * K], b[32 * K];
    int ia[64 * K], ib[32 * K];
    float c[64 * 32];
    for (int i = 0; i < 64 * K; i++) a[i] = half_of(ia[i] = (int)(rnd(&seed) % 17) - 8);
    for (int i = 0; i < 32 * K; i++) b[i] = half_of(ib[i] = (int)(rnd(&seed) % 17) - 8);
    uint64_t da = device(sizeof a, a), db = device(sizeof b, b), dc = device(sizeof c, NULL), rest[] = {dc, K};
    struct vm_tensor_map ma = map(da, 6, 2, K, 64, 64, 64, 3), mb = map(db, 6, 2, K, 32, 64, 32, 3);
    struct vm_fault f;
    int r = run_with_maps("gemm_wgmma", D1(128), &ma, &mb, 2, rest, &f);
    if (r) fail_msg("%d %s", r, f.text);
    fetch(c, dc, sizeof c);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 32; j++) {
            int s = 0;
            for (int k = 0; k < K; k++) s += ia[i * K + k] * ib[j * K + k];
            assert_true(c[i * 32 + j] == (float)s);
        }
}

static void t_cluster(void **u) {
    (void)u;
    int x[8 * 96], y[2];
    for (int i = 0; i < 8 * 96; i++) x[i] = (int)(rnd(&seed) % 1000);
    uint64_t dx = device(sizeof x, x), dy = device(sizeof y, NULL);
    LAUNCH(m, "cluster_sum", D1(8), D1(96), 0, dx, dy);
    fetch(y, dy, sizeof y);
    for (int k = 0; k < 2; k++) {
        int s = 0;
        for (int i = 0; i < 4 * 96; i++) s += x[k * 384 + i];
        assert_int_equal(y[k], s);
    }
}

static void t_early_read(void **u) {
    (void)u;
    int x[64] = {0};
    uint64_t dx = device(sizeof x, x), args[] = {dx, device(sizeof x, NULL)};
    struct vm_fault f;
    int r = launch_full(m, "early_read", D1(1), D1(64), 0, false, &f, NULL, 2, args);
    assert_int_equal(r, 719);
    assert_true(!strcmp(f.kind, "shared-memory race") || !strcmp(f.kind, "uninitialized load"));
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_ring), cmocka_unit_test(t_tiles), cmocka_unit_test(t_wgmma),
                                       cmocka_unit_test(t_cluster), cmocka_unit_test(t_early_read)};
    int failed = 0;
    for (uint64_t s = 0; s < 2; s++) {
        vm_settings()->seed = s;
        m = compile("vm_hopper.cu", "sm_90a");
        failed += cmocka_run_group_tests(tests, NULL, NULL);
        vm_module_free(m);
    }
    return failed != 0;
}
