/* kgen run: generates text from a prompt, or converses. */
#include "cli/run.h"
#include "cli/engine.h"
#include "cli/generate.h"
#include "cli/profile.h"
#include "runtime/chat.h"

#include <stddef.h>

static bool check(const void *opts, struct err *e) {
    const struct run_options *o = opts;
    if (!engine_check(&o->engine, e) || !text_check(&o->text, e)) return false;
    if (o->interactive && o->report.json) return err_set(e, ERR_USAGE, "-i and --json exclude each other");
    if (!o->interactive && !o->text.prompt && !o->text.file)
        return err_set(e, ERR_USAGE, "missing the prompt: -p TEXT, -f FILE, or -i to converse");
    return true;
}

/* What was asked for as ids: through the chat template where the file has one, unless --raw. */
static bool encode_prompt(const struct run_options *o, struct model *m, const struct tokenizer *t, struct ids *ids,
                          struct err *e) {
    struct buf text = {0};
    struct chat *chat = NULL;
    bool given;
    bool ok = text_read(&o->text, &text, &given, e);
    if (ok && text.len == 0) ok = err_set(e, ERR_INPUT, "the prompt is empty");
    if (ok && !o->raw) ok = chat_open(m->dsl, m->gguf, t, &chat, e);
    if (ok && chat) {
        chat_add(chat, "user", text.data, text.len);
        ok = chat_encode(chat, ids, e);
    } else if (ok) {
        ok = tokenizer_encode(t, text.data, text.len, TOKENIZER_ADD_BOS, ids, e);
    }
    chat_close(chat);
    buf_free(&text);
    return ok;
}

/* Without -c, a context that the prompt and the answer fit in, if the model allows for it. */
static int64_t context_for(const struct run_options *o, const struct model *m, size_t n_prompt) {
    enum { USUAL = 4096, ANSWER = 1024 };
    int64_t need = (int64_t)n_prompt + (o->n_predict ? o->n_predict : ANSWER);
    if (o->engine.context) return o->engine.context;
    if (need < USUAL) need = USUAL;
    return need < m->n_ctx_train ? need : m->n_ctx_train;
}

static double rate(size_t n, double seconds) {
    return seconds > 0 ? (double)n / seconds : 0;
}

static bool print_json(const struct generator *g, double start, struct err *e) {
    json_t *ids = json_array(), *report = engine_json(g->model);
    for (size_t i = 0; i < g->answer.n; i++) json_array_append_new(ids, json_integer(g->answer.id[i]));
    json_t *text = json_text(g->text.data ? g->text.data : "", g->text.len);
    json_t *result = json_pack(
        "{s:o, s:o, s:s, s:I, s:I, s:f, s:f, s:f}", "text", text, "ids", ids, "ended_by", ending_names[g->ending],
        "prompt_tokens", (json_int_t)g->n_prompt, "context", (json_int_t)session_n_ctx(g->session), "first_token_s",
        g->first_token_at > 0 ? g->first_token_at - start : 0.0, "prompt_tokens_per_s",
        rate(g->n_prompt - g->n_reused, g->prompt_s), "tokens_per_s", rate(g->n_steps, g->steps_s));
    if (g->samples) json_object_set_new(result, "seed", json_integer((json_int_t)g->seed));
    json_object_update(result, report);
    json_decref(report);
    return json_print(result, e);
}

static void print_summary(const struct generator *g, double start) {
    static const char *const why[] = {[ENDED_BY_MODEL] = "the model ended it",
                                      [ENDED_BY_LENGTH] = "as long as -n allows",
                                      [ENDED_BY_STOP] = "ended at a --stop text",
                                      [ENDED_BY_CONTEXT] = "the context is full; try a larger -c",
                                      [ENDED_BY_INTERRUPT] = "interrupted"};
    const struct model *m = g->model;
    char weights[32], peak[32];
    fprintf(stderr, "%sload%s         %.0f ms, %s of weights%s, %d thread%s\n", bold(stderr), plain(stderr),
            m->load_s * 1e3, format_bytes(m->weight_bytes, weights),
            m->weights_cached ? " from the cache"
            : m->packed.data  ? ", packed and cached"
                              : "",
            pool_threads(m->pool), pool_threads(m->pool) == 1 ? "" : "s");
    fprintf(stderr, "%scompile%s      %.0f ms of these, %zu kernels compiled, %zu from the %s\n", bold(stderr),
            plain(stderr), m->compiler.seconds * 1e3, m->compiler.n_compiled, m->compiler.n_cached,
            m->bundle ? "bundle" : "cache");
    if (g->first_token_at > 0)
        fprintf(stderr, "%sfirst token%s  after %.0f ms\n", bold(stderr), plain(stderr),
                (g->first_token_at - start) * 1e3);
    fprintf(stderr, "%sprompt%s       %zu tokens, %.1f tok/s\n", bold(stderr), plain(stderr), g->n_prompt,
            rate(g->n_prompt - g->n_reused, g->prompt_s));
    fprintf(stderr, "%sgeneration%s   %zu tokens, %.1f tok/s; %s\n", bold(stderr), plain(stderr), g->answer.n,
            rate(g->n_steps, g->steps_s), why[g->ending]);
    if (g->samples)
        fprintf(stderr, "%sseed%s         %llu\n", bold(stderr), plain(stderr), (unsigned long long)g->seed);
    fprintf(stderr, "%smemory%s       %s at most\n", bold(stderr), plain(stderr),
            format_bytes(engine_peak_bytes(), peak));
}

static bool run_once(const struct run_options *o, struct model *m, const struct tokenizer *t, double start,
                     struct err *e) {
    struct generator g = {0};
    struct profile profile = {0};
    struct ids prompt = {0};
    bool ok = encode_prompt(o, m, t, &prompt, e) && generator_open(&g, o, m, t, context_for(o, m, prompt.n), e);
    g.echo = !o->report.json;
    if (ok && o->engine.profile) profile_begin(&profile, m, g.session);
    ok = ok && generate(&g, &prompt, e);
    if (g.echo && g.text.len) {
        /* The summary, or the shell's prompt, begins on a line of its own. */
        if (g.text.data[g.text.len - 1] != '\n') putchar('\n');
        fflush(stdout);
    }
    if (ok && o->report.json) ok = print_json(&g, start, e);
    if (ok && !o->report.json) print_summary(&g, start);
    if (ok) profile_print(&profile, "prompt and answer", stderr);
    profile_free(&profile);
    generator_close(&g);
    ids_free(&prompt);
    return ok;
}

static bool run(const void *opts, struct err *e) {
    const struct run_options *o = opts;
    double start = now_s();
    struct model *m = NULL;
    struct tokenizer *t = NULL;
    struct sample_params params = sampling_params(&o->sampling);
    bool ok = engine_open(&o->engine, o->engine.context, (int64_t)sample_most_likely(&params), &m, e) &&
              tokenizer_open(m->gguf, &t, e) && (o->interactive ? converse(o, m, t, e) : run_once(o, m, t, start, e));
    tokenizer_close(t);
    model_close(m);
    return ok;
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
    .examples = "kgen run -m model.gguf -p \"Why is the sky blue?\" -n 64\n"
                "kgen run -m model.gguf -i --temp 0.7",
    .groups = groups,
    .options_bytes = sizeof(struct run_options),
    .check = check,
    .run = run,
};
