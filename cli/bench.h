/* bench: what `kgen bench` was asked for, and its two subjects. */
#ifndef KGEN_CLI_BENCH_H
#define KGEN_CLI_BENCH_H

#include "cli/cli.h"

struct bench_options {
    struct engine_options engine;
    int64_t prompt, generate, repeats, depth; /* tokens, tokens, times, tokens already in the cache */
    const char *kernel, *shape;
    const char *synthetic, *save; /* NAME:TYPE, FILE.gguf */
    const char *svg;               /* FILE.svg: a roofline of the profiles */
    const char *prompts, *batches; /* "128,512": lists of tokens */
    struct report_options report;
};

bool bench_model(const struct bench_options *o, struct err *e);
bool bench_kernel(const struct bench_options *o, struct err *e);

/* The middle one of n > 0 values, which are sorted in place; the mean of the middle two where n is even. */
double median(double *x, size_t n);

#endif
