#include "runtime/chat.h"

#include <string.h>
#include <time.h>

#include "runtime/utf8.h"

/* Breaks up the spelling of a control token in a message while the template runs. A noncharacter (Unicode 23.7), which
 * no text that is interchanged holds; in a message it becomes U+FFFD. */
static const char BREAK[] = "\xEF\xB7\x90";
static const char REPLACEMENT[] = "\xEF\xBF\xBD";

enum { MAX_LENGTHS = 64 };

struct chat {
    struct dsl *dsl;
    const struct tokenizer *tokenizer;
    json_t *template, *bos, *eos;
    json_t *messages;
    /* The lengths that control tokens have, longest first, by first byte. */
    struct lengths {
        uint16_t n, len[MAX_LENGTHS];
    } lengths[256];
};

static void add_length(struct lengths *l, size_t len) {
    size_t at = 0;
    while (at < l->n && l->len[at] > len) at++;
    if ((at < l->n && l->len[at] == len) || l->n == MAX_LENGTHS) return;
    memmove(l->len + at + 1, l->len + at, (l->n - at) * sizeof *l->len);
    l->len[at] = (uint16_t)len;
    l->n++;
}

/* The longest control token that text[0 … n) begins with, or -1. */
static int32_t control_token(const struct chat *c, const char *text, size_t n, size_t *len) {
    const struct lengths *l = &c->lengths[(uint8_t)text[0]];
    for (size_t i = 0; i < l->n; i++) {
        if (l->len[i] > n) continue;
        int32_t id = tokenizer_find(c->tokenizer, text, l->len[i]);
        if (id < 0 || tokenizer_type(c->tokenizer, id) != TOKEN_CONTROL) continue;
        *len = l->len[i];
        return id;
    }
    return -1;
}

static json_t *piece_json(const struct tokenizer *t, int32_t id) {
    size_t n = 0;
    const char *piece = id >= 0 ? tokenizer_piece(t, id, &n) : "";
    json_t *j = json_stringn(piece, n);
    return j ? j : json_string("");
}

bool chat_open(struct dsl *d, const struct gguf *g, const struct tokenizer *t, struct chat **out, struct err *e) {
    *out = NULL;
    const char *text;
    if (!gguf_get_str_or(g, "tokenizer.chat_template", "", &text, e)) return false;
    if (!*text) return true;
    json_t *template = json_string(text);
    if (!template) return err_set(e, ERR_INPUT, "%s: tokenizer.chat_template is not UTF-8 text", gguf_path(g));
    struct chat *c = mem_new(sizeof *c);
    c->dsl = d;
    c->tokenizer = t;
    c->template = template;
    c->messages = json_array();
    c->bos = piece_json(t, tokenizer_bos(t));
    c->eos = piece_json(t, tokenizer_eos(t));
    for (int32_t id = 0; id < tokenizer_n_vocab(t); id++) {
        size_t n;
        const char *piece = tokenizer_piece(t, id, &n);
        if (n > 0 && tokenizer_type(t, id) == TOKEN_CONTROL) add_length(&c->lengths[(uint8_t)piece[0]], n);
    }
    *out = c;
    return true;
}

void chat_close(struct chat *c) {
    if (!c) return;
    json_decref(c->template);
    json_decref(c->bos);
    json_decref(c->eos);
    json_decref(c->messages);
    mem_free(c);
}

/* The length of the well-formed character at p, or 0: strictly, unlike utf8_decode, since JSON holds nothing else. */
static unsigned character(const char *p, size_t n) {
    uint32_t cp;
    char again[4];
    unsigned len = utf8_decode((const uint8_t *)p, n, &cp);
    return len && utf8_encode(cp, again) == len && (cp < 0xD800 || cp > 0xDFFF) ? len : 0;
}

void chat_add(struct chat *c, const char *role, const char *text, size_t len) {
    struct buf safe = {0};
    for (size_t at = 0; at < len;) {
        size_t n;
        unsigned one = character(text + at, len - at);
        if (one == 0 || (one == 3 && memcmp(text + at, BREAK, 3) == 0)) {
            buf_puts(&safe, REPLACEMENT);
        } else {
            buf_add(&safe, text + at, one);
            if (control_token(c, text + at, len - at, &n) >= 0 && n > one) buf_puts(&safe, BREAK);
        }
        at += one ? one : 1;
    }
    json_array_append_new(c->messages, json_pack("{s:s, s:o}", "role", role, "content",
                                                 json_stringn(safe.data ? safe.data : "", safe.len)));
    buf_free(&safe);
}

size_t chat_length(const struct chat *c) {
    return json_array_size(c->messages);
}

void chat_shorten(struct chat *c, size_t n) {
    while (json_array_size(c->messages) > n) json_array_remove(c->messages, json_array_size(c->messages) - 1);
}

static json_t *now_json(void) {
    time_t seconds = time(NULL);
    struct tm t = {0};
    localtime_r(&seconds, &t);
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "year", t.tm_year + 1900, "month", t.tm_mon + 1, "day",
                     t.tm_mday, "hour", t.tm_hour, "minute", t.tm_min, "second", t.tm_sec, "weekday", t.tm_wday,
                     "yearday", t.tm_yday + 1);
}

/* A stretch between control tokens, without its breaks. */
static bool encode_stretch(const struct chat *c, const char *text, size_t n, struct ids *out, struct err *e) {
    struct buf whole = {0};
    for (size_t at = 0; at < n;) {
        const char *cut = memmem(text + at, n - at, BREAK, 3);
        size_t end = cut ? (size_t)(cut - text) : n;
        buf_add(&whole, text + at, end - at);
        at = cut ? end + 3 : n;
    }
    bool ok = whole.len == 0 || tokenizer_encode(c->tokenizer, whole.data, whole.len, 0, out, e);
    buf_free(&whole);
    return ok;
}

/* Text in which a message spelled a control token: the template's own are found while the breaks are in place. */
static bool encode_broken(const struct chat *c, const char *text, size_t n, struct ids *out, struct err *e) {
    bool ok = true;
    size_t from = 0;
    for (size_t at = 0; ok && at <= n;) {
        size_t len = 0;
        int32_t id = at < n ? control_token(c, text + at, n - at, &len) : -1;
        if (id < 0 && at < n) {
            at++;
            continue;
        }
        ok = encode_stretch(c, text + from, at - from, out, e);
        if (at == n) break;
        ids_add(out, id);
        from = at += len;
    }
    return ok;
}

bool chat_encode(const struct chat *c, struct ids *out, struct err *e) {
    json_t *arg = json_pack("{s:O, s:O, s:b, s:O, s:O, s:o}", "template", c->template, "messages", c->messages,
                            "add_generation_prompt", 1, "bos_token", c->bos, "eos_token", c->eos, "now", now_json());
    json_t *result = NULL;
    bool ok = dsl_call(c->dsl, "chat", arg, &result, e) || err_prefix(e, "tokenizer.chat_template");
    json_decref(arg);
    if (!ok) return false;
    const char *text = json_string_value(result);
    size_t n = json_string_length(result), before = out->n;
    struct ids ids = {0};
    if (memmem(text, n, BREAK, 3))
        ok = encode_broken(c, text, n, &ids, e);
    else
        ok = tokenizer_encode(c->tokenizer, text, n, TOKENIZER_PARSE_SPECIAL, &ids, e);
    json_decref(result);
    int32_t bos = tokenizer_bos(c->tokenizer);
    /* Most templates write the BOS themselves. */
    if (ok && tokenizer_add_bos(c->tokenizer) && (ids.n == 0 || ids.id[0] != bos)) ids_add(out, bos);
    for (size_t i = 0; ok && i < ids.n; i++) ids_add(out, ids.id[i]);
    ids_free(&ids);
    if (ok && out->n == before) ok = err_set(e, ERR_INPUT, "tokenizer.chat_template makes an empty prompt; try --raw");
    return ok;
}
