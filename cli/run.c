/* kgen run: generates text from a prompt, or converses. */
#include "cli/run.h"

#include <stddef.h>

static bool check(const void *opts, struct err *e) {
    const struct run_options *o = opts;
    if (!engine_check(&o->engine, e) || !text_check(&o->text, e)) return false;
    if (o->interactive && o->report.json) return err_set(e, ERR_USAGE, "-i and --json exclude each other");
    if (!o->interactive && !o->text.prompt && !o->text.file)
        return err_set(e, ERR_USAGE, "missing the prompt: -p TEXT, -f FILE, or -i to converse");
    return true;
}

#define AT(field) .offset = offsetof(struct run_options, field)
static const struct option generation[] = {
    {"predict", 'n', OPTION_INT, "N", "tokens to generate; without it, until the model ends its answer", AT(n_predict),
     .ints = {1, 1 << 24}, .unit = "tokens"},
    {"interactive", 'i', OPTION_FLAG, NULL, "converse: read a line, answer, and so on; /help says more",
     AT(interactive)},
    {"raw", 0, OPTION_FLAG, NULL, "give the model the text as it is, without the chat template", AT(raw)},
    {"stop", 0, OPTION_LIST, "TEXT", "end the answer where this text would begin; may be given again", AT(stop)},
    {"check", 0, OPTION_FLAG, NULL, "run the reference kernels beside every launch and compare (slow)", AT(check)},
    {0},
};
#undef AT

#define AT(field) .offset = offsetof(struct sampling_options, field)
static const struct option sampling[] = {
    {"temp", 0, OPTION_FLOAT, "T", "temperature; 0 always takes the likeliest token", AT(temperature),
     .floats = {0, 100}, .fallback = "0", .setting = true},
    {"top-k", 0, OPTION_INT, "N", "choose among the N likeliest; 0: all", AT(top_k), .ints = {0, 1 << 24},
     .unit = "tokens", .fallback = "40", .setting = true},
    {"top-p", 0, OPTION_FLOAT, "P", "choose among the likeliest that together have probability P", AT(top_p),
     .floats = {0, 1}, .fallback = "0.95", .setting = true},
    {"min-p", 0, OPTION_FLOAT, "P", "leave out tokens less likely than P times the likeliest", AT(min_p),
     .floats = {0, 1}, .fallback = "0.05", .setting = true},
    {"typical", 0, OPTION_FLOAT, "P", "choose among tokens of typical surprise that together have probability P",
     AT(typical), .floats = {0, 1}, .fallback = "1", .setting = true},
    {"repeat-penalty", 0, OPTION_FLOAT, "X", "make recent tokens less likely; 1: off", AT(repeat_penalty),
     .floats = {0.01, 100}, .fallback = "1", .setting = true},
    {"presence-penalty", 0, OPTION_FLOAT, "X", "subtract X from the logit of every recent token", AT(presence_penalty),
     .floats = {-100, 100}, .fallback = "0", .setting = true},
    {"frequency-penalty", 0, OPTION_FLOAT, "X", "subtract X for each recent occurrence", AT(frequency_penalty),
     .floats = {-100, 100}, .fallback = "0", .setting = true},
    {"penalty-window", 0, OPTION_INT, "N", "how many of the last tokens are recent", AT(penalty_window),
     .ints = {0, 1 << 24}, .unit = "tokens", .fallback = "64", .setting = true},
    {"seed", 0, OPTION_INT, "N", "the same seed gives the same text; -1: another each time", AT(seed),
     .ints = {-1, INT64_MAX}, .fallback = "-1", .setting = true},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"prompt", text_options, offsetof(struct run_options, text)},
    {"generation", generation, 0},
    {"sampling", sampling, offsetof(struct run_options, sampling)},
    {"model and machine", engine_options, offsetof(struct run_options, engine)},
    {"output", report_options, offsetof(struct run_options, report)},
    {0},
};

const struct command command_run = {
    .name = "run",
    .summary = "generates text from a prompt, or converses",
    .usage = "-m MODEL (-p TEXT | -f FILE | -i)",
    .details =
        "The text goes to standard output as it is made; a summary of times, speed and memory follows on standard "
        "error. A prompt longer than the context is an error, never cut.",
    .examples = "kgen run -m model.gguf -p \"What is the capital of France?\" -n 64\n"
                "kgen run -m model.gguf -i --temp 0.7",
    .groups = groups,
    .options_bytes = sizeof(struct run_options),
    .check = check,
};
