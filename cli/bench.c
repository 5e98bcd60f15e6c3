/* kgen bench: speed of a model or of one kernel, against the peaks of the machine measured in the same run. */
#include "cli/bench.h"

#include <stddef.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double median(double *x, size_t n) {
    qsort(x, n, sizeof *x, ascending);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static bool check(const void *opts, struct err *e) {
    const struct bench_options *o = opts;
    int subjects = (o->engine.model || o->engine.bundle) + !!o->kernel + !!o->synthetic;
    if (subjects == 0)
        return err_set(e, ERR_USAGE, "missing what to measure: -m MODEL, --synthetic NAME:TYPE or --kernel NAME");
    if (subjects > 1) return err_set(e, ERR_USAGE, "-m or --bundle, --synthetic and --kernel exclude each other");
    if (o->save && !o->synthetic) return err_set(e, ERR_USAGE, "--save belongs to --synthetic NAME:TYPE");
    if (o->svg && o->kernel) return err_set(e, ERR_USAGE, "--svg belongs to a model");
    if (o->shape && !o->kernel) return err_set(e, ERR_USAGE, "--shape belongs to --kernel NAME");
    if (o->kernel && (o->prompts || o->batches))
        return err_set(e, ERR_USAGE, "--prompts and --batches belong to a model");
    if (!o->kernel && !o->save && o->prompt == 0 && o->generate == 0 && !o->prompts && !o->batches)
        return err_set(e, ERR_USAGE, "-p 0 -n 0 leaves nothing to measure");
    return true;
}

static bool run(const void *opts, struct err *e) {
    const struct bench_options *o = opts;
    return o->kernel ? bench_kernel(o, e) : bench_model(o, e);
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
    {"prompts", 0, OPTION_STRING, "N,N,…", "also prompts of these lengths", AT(prompts)},
    {"batches", 0, OPTION_STRING, "N,N,…", "also generation of so many tokens at a time, with the logits of each",
     AT(batches)},
    {"kernel", 0, OPTION_STRING, "NAME", "measure one kernel instead of a model", AT(kernel)},
    {"shape", 0, OPTION_STRING, "k=v,…", "the kernel's sizes and formats; without it, its benchmark shapes", AT(shape)},
    {"synthetic", 0, OPTION_STRING, "NAME:TYPE", "measure random weights of a known model's shape, made in memory",
     AT(synthetic)},
    {"svg", 0, OPTION_STRING, "FILE", "draw what --profile finds as a roofline", AT(svg)},
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
    .usage = "(-m MODEL | --synthetic NAME:TYPE | --kernel NAME) [-p N] [-n N] [-d N] [-r N]",
    .details =
        "Of a model: tokens per second of a prompt evaluated at once and of tokens one by one, each from a cache of -d "
        "tokens and after one run that is not counted. Bytes and operations per second stand beside the peaks of this "
        "machine, measured before and behind each repetition and, while tokens are generated, three times a second with "
        "the clock stopped (of a GPU: once). A prompt's time ends with the choice of the first token. --batches stands "
        "for as many sequences at a time, though the tokens are of one. --profile times each kernel of one prompt and "
        "of single tokens: bytes, operations and the part of what those peaks allow, the layers, and the barriers. "
        "--synthetic takes one of tinyllama-1.1b, qwen2-0.5b, phi-2-like and "
        "llama-7b, "
        "with -tiny for two layers of them, and a type: f16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, "
        "q6_k, "
        "iq4_nl, q4_k_m, q5_k_m.",
    .examples = "kgen bench -m model.gguf\nkgen bench --synthetic tinyllama-1.1b:q4_k_m --save tinyllama.gguf\nkgen "
                "bench --kernel linear --shape tok=1,n=1536,d=576,W=q4_1 --json",
    .groups = groups,
    .options_bytes = sizeof(struct bench_options),
    .check = check,
    .run = run,
};
