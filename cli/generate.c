#include "cli/generate.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>

/* Between two looks at whether Ctrl-C was pressed. */
enum { PROMPT_BATCH = 512 };

const char *const ending_names[] = {[ENDED_BY_MODEL] = "model",
                                    [ENDED_BY_LENGTH] = "length",
                                    [ENDED_BY_STOP] = "stop",
                                    [ENDED_BY_CONTEXT] = "context",
                                    [ENDED_BY_INTERRUPT] = "interrupt"};

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static void put_text(void *context, const char *bytes, size_t n) {
    struct generator *g = context;
    buf_add(&g->text, bytes, n);
    if (!g->echo) return;
    fwrite(bytes, 1, n, stdout);
    fflush(stdout);
}

struct sample_params sampling_params(const struct sampling_options *s) {
    return (struct sample_params){
        .temp = (float)s->temperature,
        .top_k = (int32_t)s->top_k,
        .typical_p = (float)s->typical,
        .top_p = (float)s->top_p,
        .min_p = (float)s->min_p,
        .repeat = (float)s->repeat_penalty,
        .frequency = (float)s->frequency_penalty,
        .presence = (float)s->presence_penalty,
        .last_n = (int32_t)s->penalty_window,
    };
}

static bool open_sampler(struct generator *g, struct err *e) {
    const struct sampling_options *s = &g->options->sampling;
    g->seed = (uint64_t)s->seed;
    if (s->seed < 0 && getrandom(&g->seed, sizeof g->seed, 0) != sizeof g->seed) g->seed = (uint64_t)(now_s() * 1e9);
    if (s->seed < 0) g->seed &= INT64_MAX; /* so that --seed can repeat it */
    bool penalties = s->repeat_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
    g->samples = s->temperature > 0 || penalties;
    struct sample_params params = sampling_params(s);
    params.seed = g->seed;
    return !g->samples || sample_open(&g->sampler, &params, (size_t)g->model->n_vocab, e);
}

static bool open_stream(struct generator *g, struct err *e) {
    const struct words *stop = &g->options->stop;
    struct stream_string *stops = mem_new((stop->n + 1) * sizeof *stops);
    for (size_t i = 0; i < stop->n; i++) stops[i] = (struct stream_string){stop->items[i], strlen(stop->items[i])};
    bool ok = stream_open(&g->stream, stops, stop->n, put_text, g, e) || err_prefix(e, "--stop");
    mem_free(stops);
    return ok;
}

bool generator_open(struct generator *g, const struct run_options *o, struct model *m, const struct tokenizer *t,
                    int64_t n_ctx, struct err *e) {
    memset(g, 0, sizeof *g);
    g->options = o;
    g->model = m;
    g->tokenizer = t;
    return open_sampler(g, e) && open_stream(g, e) && session_open(m, n_ctx, &g->session, e) &&
           (!o->check || session_check(g->session, e));
}

void generator_close(struct generator *g) {
    session_close(g->session);
    if (g->samples) sample_close(&g->sampler);
    stream_close(&g->stream);
    ids_free(&g->cached);
    ids_free(&g->answer);
    buf_free(&g->text);
}

static bool eval(struct generator *g, const int32_t *ids, size_t n, bool logits, struct err *e) {
    if (!session_eval(g->session, ids, n, logits, NULL, NULL, e)) return false;
    for (size_t i = 0; i < n; i++) ids_add(&g->cached, ids[i]);
    return true;
}

/* Brings the session to the end of the prompt. Stops early, and says so in `interrupted`, on Ctrl-C. */
static bool eval_prompt(struct generator *g, const struct ids *prompt, struct err *e) {
    size_t same = 0;
    while (same < prompt->n && same < g->cached.n && prompt->id[same] == g->cached.id[same]) same++;
    if (same == prompt->n) same--; /* its last token's logits are needed */
    session_rewind(g->session, (int64_t)same);
    g->cached.n = same;
    g->n_prompt = prompt->n;
    g->n_reused = same;
    for (size_t at = same; at < prompt->n && !interrupted;) {
        size_t n = prompt->n - at < PROMPT_BATCH ? prompt->n - at : PROMPT_BATCH;
        if (!eval(g, prompt->id + at, n, at + n == prompt->n, e)) return false;
        at += n;
    }
    for (size_t i = 0; g->samples && i < prompt->n; i++) sample_accept(&g->sampler, prompt->id[i]);
    return true;
}

static bool next_token(struct generator *g, int32_t *id, struct err *e) {
    if (!g->samples) return session_argmax(g->session, id, e);
    if (!session_sample(g->session, &g->sampler, id, e)) return false;
    sample_accept(&g->sampler, *id);
    return true;
}

static bool answer(struct generator *g, struct err *e) {
    size_t limit = g->options->n_predict ? (size_t)g->options->n_predict : SIZE_MAX;
    struct buf piece = {0};
    bool ok = true;
    g->ending = ENDED_BY_INTERRUPT;
    while (ok && !interrupted) {
        int32_t id;
        ok = next_token(g, &id, e);
        if (g->answer.n == 0) g->first_token_at = now_s();
        if (!ok) break;
        if (tokenizer_is_end(g->tokenizer, id)) {
            g->ending = ENDED_BY_MODEL;
            break;
        }
        ids_add(&g->answer, id);
        piece.len = 0;
        tokenizer_decode_piece(g->tokenizer, id, false, &piece);
        if (!stream_push(&g->stream, piece.data ? piece.data : "", piece.len)) {
            g->ending = ENDED_BY_STOP;
            break;
        }
        if (g->answer.n == limit) {
            g->ending = ENDED_BY_LENGTH;
            break;
        }
        if (session_pos(g->session) == session_n_ctx(g->session)) {
            g->ending = ENDED_BY_CONTEXT;
            break;
        }
        ok = eval(g, &id, 1, true, e);
        g->n_steps++;
    }
    stream_flush(&g->stream);
    buf_free(&piece);
    return ok;
}

bool generate(struct generator *g, const struct ids *prompt, struct err *e) {
    int64_t n_ctx = session_n_ctx(g->session);
    if (prompt->n == 0) return err_set(e, ERR_INPUT, "the prompt has no tokens");
    if (prompt->n > (size_t)n_ctx)
        return err_set(e, ERR_INPUT,
                       "the prompt has %zu tokens, the context %lld; shorten the prompt or try a larger -c", prompt->n,
                       (long long)n_ctx);
    g->answer.n = g->text.len = 0;
    g->n_steps = 0;
    g->first_token_at = 0;

    /* The second Ctrl-C ends the process, should something hang. */
    struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND}, before;
    interrupted = 0;
    sigaction(SIGINT, &action, &before);
    double start = now_s();
    bool ok = eval_prompt(g, prompt, e);
    g->prompt_s = now_s() - start;
    ok = ok && answer(g, e);
    g->steps_s = g->first_token_at > 0 ? now_s() - g->first_token_at : 0;
    sigaction(SIGINT, &before, NULL);
    return ok;
}
