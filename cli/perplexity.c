/* kgen perplexity: how well a model predicts a text; the likelihoods and logits behind that. */
#include "cli/cli.h"

#include <stddef.h>

struct perplexity_options {
    struct engine_options engine; /* .context is the window with -f; 0: 512 */
    struct text_options text;
    int64_t chunks; /* 0: all */
    const char *ids;
    int64_t top;
    struct report_options report;
};

static bool check(const void *opts, struct err *e) {
    const struct perplexity_options *o = opts;
    if (!engine_check(&o->engine, e)) return false;
    int texts = !!o->text.prompt + !!o->text.file + !!o->ids;
    if (texts == 0) return err_set(e, ERR_USAGE, "missing the text: -f FILE, -p TEXT or --ids 1,2,3");
    if (texts > 1) return err_set(e, ERR_USAGE, "-f, -p and --ids exclude each other");
    if (o->chunks && !o->text.file) return err_set(e, ERR_USAGE, "--chunks belongs to -f FILE");
    if (o->text.file && o->engine.context && o->engine.context < 4)
        return err_set(e, ERR_USAGE, "-c %lld: a window of -f has at least 4 tokens", (long long)o->engine.context);
    return true;
}

#define AT(field) .offset = offsetof(struct perplexity_options, field)
static const struct option options[] = {
    {"chunks", 0, OPTION_INT, "N", "use only the first N windows of the file", AT(chunks), .ints = {1, 1 << 24},
     .unit = "windows"},
    {"ids", 0, OPTION_STRING, "1,2,3", "token ids instead of text", AT(ids)},
    {"top", 0, OPTION_INT, "N", "likeliest tokens after the last one to show, with -p or --ids", AT(top),
     .ints = {0, 1 << 20}, .unit = "tokens", .fallback = "20"},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"text", text_options, offsetof(struct perplexity_options, text)},
    {"what to compute", options, 0},
    {"model and machine", engine_options, offsetof(struct perplexity_options, engine)},
    {"output", report_options, offsetof(struct perplexity_options, report)},
    {0},
};

const struct command command_perplexity = {
    .name = "perplexity",
    .summary = "measures how well a model predicts a text",
    .usage = "-m MODEL (-f FILE [-c 512] [--chunks N] | -p TEXT | --ids 1,2,3)",
    .details =
        "With -f the text is cut into windows of -c tokens (512); a BOS, where the model adds one, replaces each "
        "window's first token, and the second half is scored.\n\n"
        "With -p or --ids: the negative log-likelihood of each next token, in nats, and the likeliest tokens after "
        "the last.",
    .examples =
        "kgen perplexity -m model.gguf -f book.txt --chunks 16\nkgen perplexity -m model.gguf -p \"Once upon\" --json",
    .groups = groups,
    .options_bytes = sizeof(struct perplexity_options),
    .check = check,
};
