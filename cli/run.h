/* run: what `kgen run` was asked for, parsed and checked. */
#ifndef KGEN_CLI_RUN_H
#define KGEN_CLI_RUN_H

#include "cli/cli.h"

struct sampling_options {
    double temperature; /* 0: always the likeliest token */
    int64_t top_k;      /* 0: off */
    double top_p, min_p, typical;
    double repeat_penalty, presence_penalty, frequency_penalty;
    int64_t penalty_window; /* the last tokens that penalties look at */
    int64_t seed;           /* -1: another one each time */
};

struct run_options {
    struct engine_options engine;
    struct text_options text;
    struct sampling_options sampling;
    struct words stop; /* texts that end the answer */
    int64_t n_predict; /* 0: until the model ends, or the context is full */
    bool interactive, raw, check;
    struct report_options report;
};

struct model;
struct tokenizer;

/* run_chat.c: `kgen run -i`, until the person leaves. -p or -f, where given, is the first thing said. */
bool converse(const struct run_options *o, struct model *m, const struct tokenizer *t, struct err *e);

#endif
