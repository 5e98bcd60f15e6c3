/* Every kernel and format at a few odd shapes, on every target that runs here, with a seed of today: `kgen verify
 * --quick` as a test; and that the comparison finds what is planted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "verify/parity.h"
#include "verify/parity_case.h"

static void every_kernel_computes_its_algebra(void **state) {
    (void)state;
    struct parity_options o = {.seed = (uint64_t)time(NULL) / 86400, .quick = true};
    struct parity_report r;
    struct err e;
    if (!parity_run(&o, NULL, NULL, &r, &e)) fail_msg("%s", e.msg);
    for (size_t i = 0; i < r.n_failures; i++) printf("# %s\n", r.failures[i]);
    size_t failures = 0, cases = 0;
    for (size_t i = 0; i < r.n_rows; i++) {
        failures += r.rows[i].failures;
        cases += r.rows[i].cases;
        assert_true(r.rows[i].cases > 0 || r.rows[i].failures > 0);
    }
    printf("# %zu cases of %zu combinations\n", cases, r.n_rows);
    parity_free(&r);
    assert_true(cases > 5000);
    if (failures) fail_msg("%zu failed", failures);
}

/* An output of two tokens of three floats, as a kernel would leave it. */
static void one_output(struct parity_case *c, struct parity_out *out, const double *want, const double *tol,
                       const float *got) {
    c->n_tok = 2;
    c->n_args = 1;
    c->args[0] = (struct parity_arg){
        .name = "y", .role = PARITY_OUT, .bytes = 24, .tok_bytes = 12, .width = 3, .want = want, .tol = tol};
    *out = (struct parity_out){0};
    assert_true(guard_new(&out->args[0], 24));
    if (got) memcpy(out->args[0].data, got, 24);
}

static bool compares(const double *want, const float *got, char msg[1024]) {
    static const double tol[6] = {1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6};
    struct parity_case c = {0};
    struct parity_out out;
    struct err e = {0};
    double max_abs = 0, max_of_tol = 0;
    one_output(&c, &out, want, tol, got);
    bool ok = parity_compare(&c, &out, &max_abs, &max_of_tol, &e);
    strcpy(msg, e.msg);
    parity_out_free(&out);
    return ok;
}

static void comparison_finds_error_nan_and_infinity(void **state) {
    (void)state;
    char msg[1024];
    const double want[6] = {1, 2, 3, 4, 5, 6}, with_nan[6] = {1, 2, NAN, 4, 5, 6};
    assert_true(compares(want, (float[]){1, 2, 3, 4, 5, 6}, msg));
    assert_true(compares(want, (float[]){1.0000005f, 2, 3, 4, 5, 6}, msg));
    assert_false(compares(want, (float[]){1, 2, 3, 4, 5.00001f, 6}, msg));
    assert_non_null(strstr(msg, "y[1][1] is 5.00001"));
    assert_false(compares(want, (float[]){1, 2, 3, NAN, 5, 6}, msg));
    assert_false(compares(want, (float[]){1, 2, 3, INFINITY, 5, 6}, msg));
    assert_false(compares(want, NULL, msg)); /* poison: never written */
    assert_false(compares(with_nan, (float[]){1, 2, 3, 4, 5, 6}, msg));
    assert_true(compares(with_nan, (float[]){1, 2, NAN, 4, 5, 6}, msg));
}

static void same_bits_are_asked_for(void **state) {
    (void)state;
    struct parity_case c = {0};
    struct parity_out all, part;
    struct err e = {0};
    const float a[6] = {0.0f, 2, 3, 4, 5, 6}, b[6] = {-0.0f, 2, 3, 4, 5, 6}, second[6] = {4, 5, 6};
    one_output(&c, &all, NULL, NULL, a);
    one_output(&c, &part, NULL, NULL, a);
    assert_true(parity_same(&c, &all, &part, 0, 2, &e));
    memcpy(part.args[0].data, b, 24);
    assert_false(parity_same(&c, &all, &part, 0, 2, &e)); /* zeros of different sign */
    parity_out_free(&part);
    one_output(&c, &part, NULL, NULL, second);
    part.args[0].bytes = 12;
    assert_true(parity_same(&c, &all, &part, 1, 1, &e));
    assert_false(parity_same(&c, &all, &part, 0, 1, &e));
    part.args[0].bytes = 24;
    parity_out_free(&all);
    parity_out_free(&part);
}

static void guards_notice_a_byte_on_either_side(void **state) {
    (void)state;
    struct guard g;
    static const long offsets[] = {-1, -256, 33, 63, 64, 300};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        assert_true(guard_new(&g, 33));
        memset(g.data, 0, 33);
        assert_true(guard_ok(&g));
        g.data[offsets[i]] ^= 1;
        assert_false(guard_ok(&g));
        guard_free(&g);
    }
}

static void unknown_kernels_and_targets_are_named(void **state) {
    (void)state;
    struct parity_report r;
    struct err e;
    assert_false(parity_run(&(struct parity_options){.kernels = (const char *[]){"linaer"}, .n_kernels = 1}, NULL, NULL,
                            &r, &e));
    assert_non_null(strstr(e.msg, "no kernel 'linaer'; there are: embed"));
    parity_free(&r);
    assert_false(parity_run(&(struct parity_options){.target = "x86-65"}, NULL, NULL, &r, &e));
    assert_non_null(strstr(e.msg, "x86-65"));
    parity_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparison_finds_error_nan_and_infinity),
        cmocka_unit_test(same_bits_are_asked_for),
        cmocka_unit_test(guards_notice_a_byte_on_either_side),
        cmocka_unit_test(unknown_kernels_and_targets_are_named),
        cmocka_unit_test(every_kernel_computes_its_algebra),
    };
    return cmocka_run_group_tests_name("parity", tests, NULL, NULL);
}
