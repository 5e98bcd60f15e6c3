/* kgen bench: speed of a model or of one kernel, against the peaks of the machine measured in the same run. */
#include "cli/cli.h"

#include <stddef.h>

struct bench_options {
    struct engine_options engine;
    int64_t prompt, generate, repeats, depth; /* tokens, tokens, times, tokens already in the cache */
    const char *kernel, *shape;
    const char *synthetic, *save; /* NAME:TYPE, FILE.gguf */
    struct report_options report;
};

static bool check(const void *opts, struct err *e) {
    const struct bench_options *o = opts;
    int subjects = !!o->engine.model + !!o->kernel + !!o->synthetic;
    if (subjects == 0)
        return err_set(e, ERR_USAGE, "missing what to measure: -m MODEL, --kernel NAME or --synthetic NAME:TYPE");
    if (subjects > 1) return err_set(e, ERR_USAGE, "-m, --kernel and --synthetic exclude each other");
    if (o->shape && !o->kernel) return err_set(e, ERR_USAGE, "--shape belongs to --kernel NAME");
    if (o->save && !o->synthetic) return err_set(e, ERR_USAGE, "--save belongs to --synthetic NAME:TYPE");
    if (!o->kernel && o->prompt == 0 && o->generate == 0)
        return err_set(e, ERR_USAGE, "-p 0 -n 0 leaves nothing to measure");
    return true;
}

#define AT(field) .offset = offsetof(struct bench_options, field)
static const struct option options[] = {
    {"prompt", 'p', OPTION_INT, "N", "tokens of the prompt; 0: leave it out", AT(prompt), .ints = {0, 1 << 24},
     .unit = "tokens", .fallback = "512"},
    {"generate", 'n', OPTION_INT, "N", "tokens to generate; 0: leave it out", AT(generate), .ints = {0, 1 << 24},
     .unit = "tokens", .fallback = "128"},
    {"repeats", 'r', OPTION_INT, "N", "how often to measure each", AT(repeats), .ints = {1, 10000}, .unit = "times",
     .fallback = "5"},
    {"depth", 'd', OPTION_INT, "N", "tokens already in the cache", AT(depth), .ints = {0, 1 << 24}, .unit = "tokens",
     .fallback = "0"},
    {"kernel", 0, OPTION_STRING, "NAME", "measure one kernel instead of a model", AT(kernel)},
    {"shape", 0, OPTION_STRING, "k=v,…", "the kernel's sizes and formats; without it, its benchmark shapes", AT(shape)},
    {"synthetic", 0, OPTION_STRING, "NAME:TYPE", "random weights of a known model's shape, in memory", AT(synthetic)},
    {"save", 0, OPTION_STRING, "FILE", "write the synthetic model to this GGUF file", AT(save)},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"what to measure", options, 0},
    {"model and machine", engine_options, offsetof(struct bench_options, engine)},
    {"output", report_options, offsetof(struct bench_options, report)},
    {0},
};

const struct command command_bench = {
    .name = "bench",
    .summary = "measures the speed of a model or a kernel",
    .usage = "(-m MODEL | --kernel NAME | --synthetic NAME:TYPE) [-p N] [-n N] [-r N]",
    .details = "Tokens per second with their spread; bytes and operations per second beside the peaks of this machine, "
               "measured in the same run.",
    .examples = "kgen bench -m model.gguf\nkgen bench --kernel linear --shape tok=1,n=1536,k=576,f=q4_1 --json",
    .groups = groups,
    .options_bytes = sizeof(struct bench_options),
    .check = check,
};
