/* kgen verify: every kernel, format and odd shape against the double-precision references. */
#include "cli/cli.h"
#include "verify/parity.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

struct verify_options {
    struct words kernels; /* none: all */
    const char *target;
    int64_t seed, threads;
    bool quick;
    struct report_options report;
};

#define AT(field) .offset = offsetof(struct verify_options, field)
static const struct option options[] = {
    {"target", 0, OPTION_STRING, "NAME", "the target whose code to run; without it, all that run here", AT(target)},
    {"seed", 0, OPTION_INT, "N", "of the random inputs", AT(seed), .ints = {0, INT64_MAX}, .fallback = "1"},
    {"threads", 't', OPTION_INT, "N", "threads; without it, one for each physical core", AT(threads), .ints = {1, 1024},
     .unit = "threads", .setting = true},
    {"quick", 0, OPTION_FLAG, NULL, "fewer shapes", AT(quick)},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"what to verify", options, 0},
    {"output", report_options, offsetof(struct verify_options, report)},
    {0},
};

static json_t *as_json(const struct parity_report *r, uint64_t seed) {
    json_t *rows = json_array(), *failures = json_array();
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct parity_row *x = &r->rows[i];
        json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:I, s:o, s:o, s:I}", "kernel", x->kernel, "formats",
                                              x->formats, "target", x->target, "cases", (json_int_t)x->cases,
                                              "max_abs_error", json_finite(x->max_abs), "max_error_of_tolerance",
                                              json_finite(x->max_of_tol), "failures", (json_int_t)x->failures));
    }
    for (size_t i = 0; i < r->n_failures; i++)
        json_array_append_new(failures, json_text(r->failures[i], strlen(r->failures[i])));
    return json_pack("{s:I, s:o, s:o}", "seed", (json_int_t)seed, "rows", rows, "failures", failures);
}

static void print_table(const struct parity_report *r) {
    printf("%-12s %-22s %-16s %6s %13s %13s\n", "kernel", "formats", "target", "cases", "max abs error",
           "of tolerance");
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct parity_row *x = &r->rows[i];
        printf("%-12s %-22s %-16s %6zu %13.3g %13.3g", x->kernel, x->formats, x->target, x->cases, x->max_abs,
               x->max_of_tol);
        if (x->failures) printf("  %s%zu FAILED%s", red(stdout), x->failures, plain(stdout));
        putchar('\n');
    }
    for (size_t i = 0; i < r->n_failures; i++) printf("%sFAILED%s %s\n", red(stdout), plain(stdout), r->failures[i]);
}

static void show_progress(void *ctx, double fraction) {
    progress_update(ctx, fraction);
}

static bool run(const void *opts, struct err *e) {
    const struct verify_options *o = opts;
    struct parity_options p = {.kernels = o->kernels.items,
                               .n_kernels = o->kernels.n,
                               .target = o->target,
                               .seed = (uint64_t)o->seed,
                               .threads = (int)o->threads,
                               .quick = o->quick};
    struct parity_report r = {0};
    struct progress bar;
    progress_begin(&bar, "verifying");
    bool ok = parity_run(&p, show_progress, &bar, &r, e);
    progress_end(&bar);
    if (ok) {
        size_t cases = 0, failures = 0;
        for (size_t i = 0; i < r.n_rows; i++) cases += r.rows[i].cases, failures += r.rows[i].failures;
        if (o->report.json)
            ok = json_print(as_json(&r, p.seed), e);
        else {
            print_table(&r);
            printf("%zu cases, %zu failed, seed %" PRIu64 "\n", cases, failures, p.seed);
        }
        if (ok && failures)
            ok = err_set(e, ERR_COMPILE,
                         "%zu of %zu cases failed; each line above ends with the command that repeats it", failures,
                         cases);
    }
    parity_free(&r);
    return ok;
}

const struct command command_verify = {
    .name = "verify",
    .summary = "checks kernels against the reference implementations",
    .usage = "[KERNEL…] [--target NAME] [--seed N]",
    .details = "A table of the largest absolute error of every kernel and format on every target that runs here, and "
               "how much of "
               "the tolerance the largest error takes. Exit status 1 where one is over.",
    .examples = "kgen verify\nkgen verify attention linear --seed 7",
    .groups = groups,
    .options_bytes = sizeof(struct verify_options),
    .words_name = "KERNEL",
    .words_max = SIZE_MAX,
    .words_offset = offsetof(struct verify_options, kernels),
    .run = run,
};
