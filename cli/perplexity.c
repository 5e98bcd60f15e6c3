/* kgen perplexity: how well a model predicts a text; the likelihoods and logits behind that. */
#include "cli/engine.h"
#include "cli/profile.h"
#include "runtime/session.h"
#include "runtime/tokenizer.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_WINDOW = 512 };

struct perplexity_options {
    struct engine_options engine; /* .context is the window with -f; 0: DEFAULT_WINDOW */
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

/* ---- Likelihoods --------------------------------------------------------------------------------------------------
 */

/* What the sink needs to score one position: the ids, of which the first is at position `from` of the session. */
struct scoring {
    struct pool *pool;
    const int32_t *ids; /* [n] */
    size_t n;
    int64_t n_vocab;
    double *nll; /* [n - 1] of the token after each position */
    float *last; /* [n_vocab] logits after the last token, or NULL */
    const float *logits;
    double *partial; /* [n_parts] */
    float largest;
};

/* The sum over the vocabulary is cut in parts of a fixed size, so that it does not depend on the threads. */
enum { PART = 8192 };
static size_t n_parts(int64_t n_vocab) {
    return (size_t)((n_vocab + PART - 1) / PART);
}

static void sum_thread(void *ctx, int thread) {
    struct scoring *s = ctx;
    int64_t begin, end;
    pool_share(s->pool, thread, (int64_t)n_parts(s->n_vocab), &begin, &end);
    for (int64_t part = begin; part < end; part++) {
        double sum = 0;
        int64_t to = (part + 1) * PART < s->n_vocab ? (part + 1) * PART : s->n_vocab;
        for (int64_t i = part * PART; i < to; i++) sum += exp((double)s->logits[i] - (double)s->largest);
        s->partial[part] = sum;
    }
}

/* -ln p(id) of a softmax over the logits, in double. */
static double likelihood(struct scoring *s, const float *logits, int32_t id) {
    s->logits = logits;
    s->largest = logits[0];
    for (int64_t i = 1; i < s->n_vocab; i++)
        if (logits[i] > s->largest) s->largest = logits[i];
    pool_run(s->pool, sum_thread, s);
    double sum = 0;
    for (size_t part = 0; part < n_parts(s->n_vocab); part++) sum += s->partial[part];
    return log(sum) + (double)s->largest - (double)logits[id];
}

static bool score(void *ctx, int64_t pos, const float *logits, struct err *e) {
    struct scoring *s = ctx;
    size_t at = (size_t)pos;
    if (at + 1 == s->n) {
        for (int64_t i = 0; i < s->n_vocab; i++)
            if (!isfinite(logits[i]))
                return err_set(e, ERR_INPUT, "the logits after token %zu are not finite; the weights may be damaged",
                               at);
        if (s->last) memcpy(s->last, logits, (size_t)s->n_vocab * sizeof *logits);
        return true;
    }
    s->nll[at] = likelihood(s, logits, s->ids[at + 1]);
    if (isfinite(s->nll[at])) return true;
    return err_set(e, ERR_INPUT, "the logits after token %zu are not finite; the weights may be damaged", at);
}

/* ---- Windows of a file --------------------------------------------------------------------------------------------
 */

static bool windows(const struct perplexity_options *o, struct model *m, const struct tokenizer *t, struct ids *ids,
                    struct err *e) {
    size_t window = o->engine.context ? (size_t)o->engine.context : DEFAULT_WINDOW;
    size_t half = window / 2, n = ids->n / window;
    if (n == 0)
        return err_set(e, ERR_INPUT, "%s: %zu tokens do not fill one window of %zu; try a smaller -c", o->text.file,
                       ids->n, window);
    if (o->chunks && (size_t)o->chunks < n) n = (size_t)o->chunks;
    struct session *session = NULL;
    struct scoring s = {.pool = m->pool, .n = window, .n_vocab = m->n_vocab};
    s.nll = mem_new(window * sizeof *s.nll);
    s.partial = mem_new(n_parts(m->n_vocab) * sizeof *s.partial);
    json_t *means = json_array();
    double total = 0;
    struct progress progress;
    progress_begin(&progress, "windows");
    struct profile profile = {0};
    bool ok = session_open(m, (int64_t)window, &session, e);
    if (ok && o->engine.profile) profile_begin(&profile, m, session);
    for (size_t w = 0; ok && w < n; w++) {
        int32_t *first = ids->id + w * window;
        if (tokenizer_add_bos(t)) first[0] = tokenizer_bos(t);
        s.ids = first;
        session_rewind(session, 0);
        /* Nothing comes after the window's last token, so it is left out. */
        ok =
            session_eval(session, first, window - 1, window - 1 - half, score, &s, e) || err_prefix(e, "window %zu", w);
        double sum = 0;
        for (size_t i = half; i + 1 < window; i++) sum += s.nll[i];
        total += sum;
        json_array_append_new(means, json_real(sum / (double)(window - 1 - half)));
        progress_update(&progress, (double)(w + 1) / (double)n);
    }
    progress_end(&progress);
    if (ok) profile_print(&profile, "windows", stderr);
    profile_free(&profile);
    size_t n_scored = n * (window - 1 - half);
    double perplexity = exp(total / (double)n_scored);
    if (ok && o->report.json) {
        ok = json_print(json_pack("{s:o, s:O, s:I}", "perplexity", json_finite(perplexity), "mean_nll", means,
                                  "n_scored", (json_int_t)n_scored),
                        e);
    } else if (ok) {
        for (size_t w = 0; w < n; w++)
            printf("window %zu: mean nll %.6f\n", w, json_real_value(json_array_get(means, w)));
        printf("perplexity %.5f over %zu tokens\n", perplexity, n_scored);
    }
    json_decref(means);
    mem_free(s.nll);
    mem_free(s.partial);
    session_close(session);
    return ok;
}

/* ---- One short text -----------------------------------------------------------------------------------------------
 */

static int by_logit(const void *a, const void *b, void *logits) {
    int32_t i = *(const int32_t *)a, k = *(const int32_t *)b;
    float x = ((const float *)logits)[i], y = ((const float *)logits)[k];
    return x > y ? -1 : x < y ? 1 : i - k;
}

/* The k largest logits as [id, logit], largest first, the lowest id on ties. */
static json_t *top_json(float *logits, int64_t n, int64_t k) {
    int32_t *order = mem_new((size_t)n * sizeof *order);
    for (int32_t i = 0; i < n; i++) order[i] = i;
    qsort_r(order, (size_t)n, sizeof *order, by_logit, logits);
    json_t *list = json_array();
    for (int64_t i = 0; i < k && i < n; i++)
        json_array_append_new(list, json_pack("[i, f]", (int)order[i], (double)logits[order[i]]));
    mem_free(order);
    return list;
}

/* Nothing without a vocabulary. */
static void print_piece(const struct tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *piece = t ? tokenizer_piece(t, id, &n) : "";
    print_safe(stdout, piece, n);
    putchar('\n');
}

static void print_text(const struct tokenizer *t, const struct ids *ids, const double *nll, const json_t *top) {
    puts("nll of each next token:");
    for (size_t i = 0; i + 1 < ids->n; i++) {
        printf("%10.5f  %7d  ", nll[i], ids->id[i + 1]);
        print_piece(t, ids->id[i + 1]);
    }
    puts("likeliest after the last:");
    for (size_t i = 0; i < json_array_size(top); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(json_array_get(top, i), 0));
        printf("%10.5f  %7d  ", json_real_value(json_array_get(json_array_get(top, i), 1)), id);
        print_piece(t, id);
    }
}

static bool short_text(const struct perplexity_options *o, struct model *m, const struct tokenizer *t,
                       const struct ids *ids, struct err *e) {
    struct session *session = NULL;
    if (ids->n == 0) return err_set(e, ERR_INPUT, "the text has no tokens");
    int64_t context = o->engine.context ? o->engine.context : (int64_t)ids->n;
    struct scoring s = {.pool = m->pool, .ids = ids->id, .n = ids->n, .n_vocab = m->n_vocab};
    s.nll = mem_new(ids->n * sizeof *s.nll);
    s.partial = mem_new(n_parts(m->n_vocab) * sizeof *s.partial);
    s.last = mem_new((size_t)m->n_vocab * sizeof *s.last);
    struct profile profile = {0};
    bool ok = session_open(m, context, &session, e);
    if (ok && o->engine.profile) profile_begin(&profile, m, session);
    ok = ok && session_eval(session, ids->id, ids->n, ids->n, score, &s, e);
    if (ok) profile_print(&profile, "the text", stderr);
    profile_free(&profile);
    if (ok) {
        json_t *top = top_json(s.last, m->n_vocab, o->top);
        if (o->report.json) {
            json_t *list = json_array(), *nll = json_array();
            for (size_t i = 0; i < ids->n; i++) json_array_append_new(list, json_integer(ids->id[i]));
            for (size_t i = 0; i + 1 < ids->n; i++) json_array_append_new(nll, json_real(s.nll[i]));
            ok = json_print(json_pack("{s:o, s:o, s:O}", "ids", list, "next_token_nll", nll, "top", top), e);
        } else {
            print_text(t, ids, s.nll, top);
        }
        json_decref(top);
    }
    mem_free(s.nll);
    mem_free(s.partial);
    mem_free(s.last);
    session_close(session);
    return ok;
}

/* ---- Command ------------------------------------------------------------------------------------------------------
 */

static bool read_ids(const struct perplexity_options *o, const struct model *m, const struct tokenizer *t,
                     struct ids *ids, struct err *e) {
    bool ok = true, given;
    if (o->ids) {
        struct arena arena = {0};
        int32_t *list;
        size_t n;
        ok = ids_parse("--ids", o->ids, &arena, &list, &n, e);
        for (size_t i = 0; ok && i < n; i++) {
            if (list[i] >= m->n_vocab)
                ok = err_set(e, ERR_INPUT, "--ids %d: expected token ids 0…%lld", list[i], (long long)m->n_vocab - 1);
            else
                ids_add(ids, list[i]);
        }
        arena_free(&arena);
        return ok;
    }
    struct buf text = {0};
    ok = text_read(&o->text, &text, &given, e);
    /* Windows get their BOS one by one. */
    if (ok && text.len) ok = tokenizer_encode(t, text.data, text.len, o->text.file ? 0 : TOKENIZER_ADD_BOS, ids, e);
    buf_free(&text);
    return ok;
}

static bool run(const void *opts, struct err *e) {
    const struct perplexity_options *o = opts;
    struct model *m = NULL;
    struct tokenizer *t = NULL;
    struct ids ids = {0};
    /* The least that is known before the text is read. */
    int64_t context = o->engine.context ? o->engine.context : o->text.file ? DEFAULT_WINDOW : 1;
    /* Ids can do without the file's vocabulary. */
    bool ok = engine_open(&o->engine, context, 0, &m, e) && (tokenizer_open(m->gguf, &t, e) || o->ids) &&
              read_ids(o, m, t, &ids, e) &&
              (o->text.file ? windows(o, m, t, &ids, e) : short_text(o, m, t, &ids, e));
    ids_free(&ids);
    tokenizer_close(t);
    model_close(m);
    return ok;
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
    .run = run,
};
