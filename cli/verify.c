/* kgen verify: every kernel, format and odd shape against the double-precision references. */
#include "cli/cli.h"

#include <stddef.h>

struct verify_options {
    struct words kernels; /* none: all */
    const char *target, *dump;
    int64_t seed, threads;
    struct report_options report;
};

#define AT(field) .offset = offsetof(struct verify_options, field)
static const struct option options[] = {
    {"target", 0, OPTION_STRING, "NAME", "the target whose code to run; without it, all that run here", AT(target)},
    {"seed", 0, OPTION_INT, "N", "of the random inputs", AT(seed), .ints = {0, INT64_MAX}, .fallback = "1"},
    {"threads", 't', OPTION_INT, "N", "threads; without it, one for each physical core", AT(threads), .ints = {1, 1024},
     .unit = "threads", .setting = true},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"what to verify", options, 0},
    {"output", report_options, offsetof(struct verify_options, report)},
    {0},
};

const struct command command_verify = {
    .name = "verify",
    .summary = "checks kernels against the reference implementations",
    .usage = "[KERNEL…] [--target NAME] [--seed N]",
    .details =
        "A table of the largest absolute and relative error and the tolerance of every kernel, format and shape. Exit "
        "status 1 where one is over.",
    .examples = "kgen verify\nkgen verify attention linear --seed 7",
    .groups = groups,
    .options_bytes = sizeof(struct verify_options),
    .words_name = "KERNEL",
    .words_max = SIZE_MAX,
    .words_offset = offsetof(struct verify_options, kernels),
};
