/* kgen tokenize: text to token ids and back, with a model file's vocabulary. */
#include "cli/cli.h"
#include "runtime/gguf.h"
#include "runtime/tokenizer.h"

#include <stddef.h>

struct tokenize_options {
    const char *model;
    struct text_options text;
    bool special, no_bos, decode;
    struct report_options report;
    struct words ids;
};

static bool check(const void *opts, struct err *e) {
    const struct tokenize_options *o = opts;
    if (!o->model) return err_set(e, ERR_USAGE, "missing -m MODEL: a GGUF file");
    if (!text_check(&o->text, e)) return false;
    bool has_text = o->text.prompt || o->text.file;
    if (o->decode && has_text) return err_set(e, ERR_USAGE, "--decode takes ids, not -p or -f");
    if (!o->decode && o->ids.n)
        return err_set(e, ERR_USAGE, "unexpected \"%.64s\": text comes from -p or -f, ids need --decode",
                       o->ids.items[0]);
    if (!o->decode && !has_text) return err_set(e, ERR_USAGE, "missing the text: -p TEXT, -f FILE or --decode ID…");
    return true;
}

static bool print_ids(const struct tokenizer *t, const struct ids *ids, bool json, struct err *e) {
    json_t *list = json ? json_array() : NULL;
    for (size_t i = 0; i < ids->n; i++) {
        if (json) {
            json_array_append_new(list, json_integer(ids->id[i]));
            continue;
        }
        size_t n;
        const char *piece = tokenizer_piece(t, ids->id[i], &n);
        printf("%7d  ", ids->id[i]);
        print_safe(stdout, piece, n);
        putchar('\n');
    }
    return !json || json_print(json_pack("{s:o}", "ids", list), e);
}

static bool encode(const struct tokenize_options *o, const struct tokenizer *t, struct err *e) {
    struct buf text = {0};
    struct ids ids = {0};
    bool given;
    bool ok = text_read(&o->text, &text, &given, e);
    unsigned flags = (o->no_bos ? 0 : TOKENIZER_ADD_BOS) | (o->special ? TOKENIZER_PARSE_SPECIAL : 0);
    /* No text, no tokens: a BOS alone would be an answer to a question nobody asked. */
    if (ok && text.len) ok = tokenizer_encode(t, text.data, text.len, flags, &ids, e);
    ok = ok && print_ids(t, &ids, o->report.json, e);
    ids_free(&ids);
    buf_free(&text);
    return ok;
}

/* The ids of all words, each "1" or "1,2,3". */
static bool read_ids(const struct tokenize_options *o, int32_t n_vocab, struct ids *out, struct err *e) {
    struct arena arena = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < o->ids.n; i++) {
        int32_t *ids;
        size_t n;
        ok = ids_parse("--decode", o->ids.items[i], &arena, &ids, &n, e);
        for (size_t k = 0; ok && k < n; k++) {
            if (ids[k] >= n_vocab)
                ok = err_set(e, ERR_INPUT, "--decode %d: expected token ids 0…%d", ids[k], n_vocab - 1);
            else
                ids_add(out, ids[k]);
        }
    }
    arena_free(&arena);
    return ok;
}

static bool decode(const struct tokenize_options *o, const struct tokenizer *t, struct err *e) {
    struct ids ids = {0};
    struct buf text = {0};
    bool ok = read_ids(o, tokenizer_n_vocab(t), &ids, e);
    if (ok) tokenizer_decode(t, ids.id, ids.n, o->special, &text);
    if (ok && o->report.json)
        ok = json_print(json_pack("{s:o}", "text", json_text(text.data ? text.data : "", text.len)), e);
    else if (ok && text.len)
        fwrite(text.data, 1, text.len, stdout);
    ids_free(&ids);
    buf_free(&text);
    return ok;
}

static bool run(const void *opts, struct err *e) {
    const struct tokenize_options *o = opts;
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    bool ok = gguf_open(o->model, NULL, &g, e) && tokenizer_open(g, &t, e);
    gguf_close(g);
    ok = ok && (o->decode ? decode(o, t, e) : encode(o, t, e));
    tokenizer_close(t);
    return ok;
}

#define AT(field) .offset = offsetof(struct tokenize_options, field)
static const struct option options[] = {
    {"model", 'm', OPTION_STRING, "MODEL", "the GGUF file whose vocabulary to use; it needs no tensors", AT(model)},
    {"special", 0, OPTION_FLAG, NULL, "control tokens spelled in the text become those tokens; --decode shows them",
     AT(special)},
    {"no-bos", 0, OPTION_FLAG, NULL, "leave out the BOS (and EOS) that the model puts around a text", AT(no_bos)},
    {"decode", 0, OPTION_FLAG, NULL, "from ids to text: the words of the command line are ids", AT(decode)},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"text", text_options, offsetof(struct tokenize_options, text)},
    {"vocabulary", options, 0},
    {"output", report_options, offsetof(struct tokenize_options, report)},
    {0},
};

const struct command command_tokenize = {
    .name = "tokenize",
    .summary = "turns text into token ids, and back",
    .usage = "-m MODEL (-p TEXT | -f FILE | --decode ID…)",
    .details =
        "Prints an id and its spelling a line, or with --json {\"ids\": […]}. Empty text has no tokens, not even a "
        "BOS.\n\nText that spells a control token stays text unless --special is given.",
    .examples = "kgen tokenize -m model.gguf -p \"Hello world\"\n"
                "kgen tokenize -m model.gguf --json -f book.txt\n"
                "kgen tokenize -m model.gguf --decode 504 3575",
    .groups = groups,
    .options_bytes = sizeof(struct tokenize_options),
    .words_name = "ID",
    .words_max = SIZE_MAX,
    .words_offset = offsetof(struct tokenize_options, ids),
    .check = check,
    .run = run,
};
