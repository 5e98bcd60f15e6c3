/* Opening a tokenizer, cutting special tokens out of text, decoding. */
#include "runtime/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer_impl.h"
#include "runtime/utf8.h"

#define MAX_TEXT (1ull << 30)

void ids_add(struct ids *list, int32_t id) {
    if (list->n == list->cap) {
        list->cap = list->cap ? 2 * list->cap : 64;
        list->id = mem_grow(list->id, list->cap * sizeof *list->id);
    }
    list->id[list->n++] = id;
}

void ids_free(struct ids *list) {
    mem_free(list->id);
    *list = (struct ids){0};
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

static bool read_kind(struct tokenizer *t, const struct gguf *g, struct err *e) {
    static const struct {
        const char *model;
        enum tokenizer_kind kind;
    } kinds[] = {{"gpt2", KIND_BYTE_BPE}, {"gemma4", KIND_CHAR_BPE}, {"llama", KIND_PIECES}, {"bert", KIND_WORDS}};
    const char *model;
    if (!gguf_get_str(g, "tokenizer.ggml.model", &model, e)) return false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(model, kinds[i].model) != 0) continue;
        t->kind = kinds[i].kind;
        return true;
    }
    return err_set(e, ERR_UNSUPPORTED, "%s: tokenizer.ggml.model is '%s', expected gpt2, llama, bert or gemma4",
                   gguf_path(g), model);
}

/* A special id: -1 when the file has no such key. */
static bool read_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t def, int32_t *out,
                    struct err *e) {
    *out = def < t->vocab.n ? def : -1;
    const struct gguf_value *v = gguf_find(g, key);
    if (!v) return true;
    uint64_t id;
    if (!v->is_array && (v->type == GGUF_I32 || v->type == GGUF_I64) && (int64_t)gguf_value_u64(v, 0) == -1)
        return true;
    if (!gguf_get_u64(g, key, &id, e)) return false;
    if (id >= (uint64_t)t->vocab.n)
        return err_set(e, ERR_INPUT, "%s: %s is %" PRIu64 ", but the vocabulary has %" PRId32 " tokens", gguf_path(g),
                       key, id, t->vocab.n);
    *out = (int32_t)id;
    return true;
}

static bool read_specials(struct tokenizer *t, const struct gguf *g, struct pre_defaults defaults, struct err *e) {
    bool pieces = t->kind == KIND_PIECES, words = t->kind == KIND_WORDS;
    int32_t ignored;
    if (!read_id(t, g, "tokenizer.ggml.bos_token_id",
                 pieces  ? 1
                 : words ? 101
                         : -1,
                 &t->bos, e) ||
        !read_id(t, g, "tokenizer.ggml.eos_token_id", pieces ? 2 : -1, &t->eos, e) ||
        !read_id(t, g, "tokenizer.ggml.unknown_token_id",
                 pieces  ? 0
                 : words ? 100
                         : -1,
                 &t->unknown, e) ||
        !read_id(t, g, "tokenizer.ggml.eot_token_id", -1, &t->eot, e) ||
        !read_id(t, g, "tokenizer.ggml.padding_token_id", -1, &ignored, e) ||
        !read_id(t, g, "tokenizer.ggml.mask_token_id", -1, &ignored, e))
        return false;
    if (words) { /* [CLS] and [SEP] enclose a text */
        if (!read_id(t, g, "tokenizer.ggml.cls_token_id", t->bos, &t->bos, e) ||
            !read_id(t, g, "tokenizer.ggml.seperator_token_id", 102, &t->eos, e))
            return false;
    }
    if (!gguf_get_bool_or(g, "tokenizer.ggml.add_bos_token", pieces || words || defaults.add_bos, &t->add_bos, e) ||
        !gguf_get_bool_or(g, "tokenizer.ggml.add_eos_token", words, &t->add_eos, e) ||
        !gguf_get_bool_or(g, "tokenizer.ggml.add_space_prefix", pieces, &t->space_prefix, e))
        return false;
    t->add_bos = t->add_bos && t->bos >= 0;
    t->add_eos = t->add_eos && t->eos >= 0;
    t->space_prefix = t->space_prefix && pieces;
    return true;
}

/* Tokens known by their names: files often give them the wrong type, or no key of their own. All of them become control
 * tokens, so that text cannot spell them. */
enum role { TURN_END, TEXT_END, MARK };
static const struct {
    const char *name;
    enum role role;
} named_tokens[] = {
    /* the likelier end of a turn first */
    {"<|eot_id|>", TURN_END},
    {"<|im_end|>", TURN_END},
    {"<|end|>", TURN_END},
    {"<end_of_turn>", TURN_END},
    {"<turn|>", TURN_END},
    {"<end_of_utterance>", TURN_END},
    {"<|endoftext|>", TURN_END},
    {"<|end_of_text|>", TURN_END},
    {"<EOT>", TURN_END},
    {"_<EOT>", TURN_END},
    {"[EOT]", TURN_END},
    {"<\xef\xbd\x9c"
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
     TURN_END}, /* DeepSeek */
    {"<|eom_id|>", TEXT_END},
    {"<|return|>", TEXT_END},
    {"<|call|>", TEXT_END},
    {"<|calls|>", TEXT_END},
    {"<|flush|>", TEXT_END},
    {"<|tool_response>", TEXT_END},
    {"[EOS]", TEXT_END},
    {"<eos>", TEXT_END},
    {"</s>", TEXT_END},
    {"[e~[", TEXT_END},
    /* filling in the middle: the padding, and the beginning of another file */
    {"<|fim_pad|>", TEXT_END},
    {"<fim-pad>", TEXT_END},
    {"<fim_pad>", TEXT_END},
    {"<|fim_repo|>", TEXT_END},
    {"<|repo_name|>", TEXT_END},
    {"<fim-repo>", TEXT_END},
    {"<reponame>", TEXT_END},
    {"<|file_sep|>", TEXT_END},
    {"<|fim_prefix|>", MARK},
    {"<|fim_suffix|>", MARK},
    {"<|fim_middle|>", MARK},
    {"<fim-prefix>", MARK},
    {"<fim-suffix>", MARK},
    {"<fim-middle>", MARK},
    {"<fim_prefix>", MARK},
    {"<fim_suffix>", MARK},
    {"<fim_middle>", MARK},
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "begin\xef\xbd\x9c>",
     MARK},
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81hole\xef\xbd\x9c>",
     MARK},
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "end\xef\xbd\x9c>",
     MARK},
    {"<|code_prefix|>", MARK},
    {"<|code_suffix|>", MARK},
    {"<|code_middle|>", MARK},
};

static bool has_token(const struct tokenizer *t, const char *name) {
    return tokenizer_find(t, name, strlen(name)) >= 0;
}

/* Names that mean something else in some vocabularies. */
static bool is_other_token(const struct tokenizer *t, const char *name, enum token_type type) {
    if (strcmp(name, "</s>") == 0) return type != TOKEN_CONTROL; /* HTML, in Gemma's vocabulary and others */
    /* Harmony's <|end|> ends a message, after which the assistant goes on; these end its turn. */
    return strcmp(name, "<|end|>") == 0 && has_token(t, "<|call|>") && has_token(t, "<|return|>");
}

static void mark_named_tokens(struct tokenizer *t) {
    struct vocab *v = &t->vocab;
    for (size_t i = 0; i < sizeof named_tokens / sizeof *named_tokens; i++) {
        const char *name = named_tokens[i].name;
        int32_t id = vocab_find(v, name, strlen(name));
        if (id < 0 || is_other_token(t, name, v->type[id])) continue;
        v->type[id] = TOKEN_CONTROL;
        if (named_tokens[i].role == MARK) continue;
        v->flag[id] |= FLAG_END;
        if (named_tokens[i].role == TURN_END && t->eot < 0) t->eot = id;
    }
    if (t->eos >= 0) v->flag[t->eos] |= FLAG_END;
    if (t->eot >= 0) v->flag[t->eot] |= FLAG_END;
}

/* Phi-3's special tokens swallow the white space after them, which its file does not say. */
static bool mark_stripping(struct tokenizer *t, const struct gguf *g, struct err *e) {
    const char *name;
    if (!gguf_get_str_or(g, "general.name", "", &name, e)) return false;
    if (!strcasestr(name, "phi-3") && !strcasestr(name, "phi3")) return true;
    for (uint32_t i = 0; i < t->specials.n; i++) t->vocab.flag[t->specials.id[i]] |= FLAG_STRIP_RIGHT;
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++) {
        int32_t id = vocab_find(&t->vocab, keep[i], strlen(keep[i]));
        if (id >= 0) t->vocab.flag[id] &= (uint8_t)~FLAG_STRIP_RIGHT;
    }
    return true;
}

static bool open_into(struct tokenizer *t, const struct gguf *g, struct err *e) {
    struct pre_defaults defaults = {0};
    if (!read_kind(t, g, e) || !vocab_read(&t->vocab, g, t->kind, e)) return false;
    if (t->kind == KIND_BYTE_BPE || t->kind == KIND_CHAR_BPE) {
        const char *pre;
        if (!gguf_get_str_or(g, "tokenizer.ggml.pre", "default", &pre, e)) return false;
        if (t->kind == KIND_CHAR_BPE) pre = "gemma4";
        if (!merges_read(&t->merges, g, &t->vocab, e) || !pretokenizer_new(pre, gguf_path(g), &t->pre, &defaults, e))
            return false;
        t->whole_words = defaults.whole_words;
    }
    if (t->kind == KIND_WORDS) {
        if (!gguf_get_bool_or(g, "tokenizer.ggml.normalizer.lowercase", true, &t->lowercase, e) ||
            !gguf_get_bool_or(g, "tokenizer.ggml.normalizer.strip_accents", t->lowercase, &t->strip_accents, e))
            return false;
    }
    if (!read_specials(t, g, defaults, e)) return false;
    mark_named_tokens(t);
    return specials_build(&t->specials, &t->vocab, e) && mark_stripping(t, g, e);
}

bool tokenizer_open(const struct gguf *g, struct tokenizer **out, struct err *e) {
    *out = NULL;
    struct tokenizer *t = mem_new(sizeof *t);
    if (!open_into(t, g, e)) {
        tokenizer_close(t);
        return false;
    }
    *out = t;
    return true;
}

void tokenizer_close(struct tokenizer *t) {
    if (!t) return;
    vocab_free(&t->vocab);
    mem_free(t->specials.id);
    mem_free(t->merges.slot);
    pretokenizer_free(t->pre);
    mem_free(t);
}

/* --- encoding ----------------------------------------------------------------------------------------------------- */

void utf8_repair(const char *text, size_t len, struct buf *out) {
    const uint8_t *p = (const uint8_t *)text;
    for (size_t at = 0, from = 0; at <= len;) {
        uint32_t cp = 0;
        unsigned n = at < len ? utf8_decode(p + at, len - at, &cp) : 0;
        char c[4];
        if (at < len && n && utf8_encode(cp, c) == n) { /* as it should be: copied with its neighbours */
            at += n;
            continue;
        }
        buf_add(out, text + from, at - from);
        if (at == len) break;
        buf_add(out, n ? c : "\xef\xbf\xbd", n ? utf8_encode(cp, c) : 3);
        at += n ? n : 1;
        from = at;
    }
}

static void mark_spaces(const char *text, size_t len, struct buf *out) {
    for (size_t at = 0; at < len;) {
        const char *space = memchr(text + at, ' ', len - at);
        size_t end = space ? (size_t)(space - text) : len;
        buf_add(out, text + at, end - at);
        if (space) buf_puts(out, SPACE_MARK);
        at = end + 1;
    }
}

/* A stretch of text without special tokens. `after_special`: it begins the text or follows one. */
static bool encode_stretch(const struct tokenizer *t, struct scratch *s, const char *text, size_t len,
                           bool after_special, struct ids *out, struct err *e) {
    struct buf b = {0};
    bool ok = false;
    switch (t->kind) {
    case KIND_BYTE_BPE:
        utf8_repair(text, len, &b);
        ok = encode_byte_bpe(t, s, b.data, b.len, out, e);
        break;
    case KIND_CHAR_BPE: {
        struct buf repaired = {0};
        utf8_repair(text, len, &repaired);
        mark_spaces(repaired.data, repaired.len, &b);
        buf_free(&repaired);
        ok = encode_char_bpe(t, s, b.data, b.len, out, e);
        break;
    }
    case KIND_PIECES:
        if (t->space_prefix && after_special) buf_puts(&b, SPACE_MARK);
        mark_spaces(text, len, &b);
        ok = encode_pieces(t, s, b.data, b.len, out, e);
        break;
    case KIND_WORDS:
        encode_words(t, text, len, out);
        ok = true;
        break;
    }
    buf_free(&b);
    return ok;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags, struct ids *out,
                      struct err *e) {
    if (len > MAX_TEXT)
        return err_set(e, ERR_UNSUPPORTED, "the text has %zu bytes, at most %llu are supported", len, MAX_TEXT);
    bool control = flags & TOKENIZER_PARSE_SPECIAL, ok = true, after_special = true;
    struct scratch s = {0};
    if ((flags & TOKENIZER_ADD_BOS) && t->add_bos) ids_add(out, t->bos);
    for (size_t at = 0, from = 0; ok && at <= len;) {
        int32_t id = at < len ? specials_match(&t->specials, &t->vocab, text + at, len - at, control) : -1;
        if (id < 0 && at < len) {
            at++;
            continue;
        }
        if (at > from) {
            ok = encode_stretch(t, &s, text + from, at - from, after_special, out, e);
            after_special = false;
        }
        if (at == len) break;
        ids_add(out, id);
        after_special = true;
        size_t n;
        vocab_piece(&t->vocab, id, &n);
        at += n;
        if (t->vocab.flag[id] & FLAG_STRIP_RIGHT)
            while (at < len && is_space(text[at])) at++;
        from = at;
    }
    if (ok && (flags & TOKENIZER_ADD_BOS) && t->add_eos) ids_add(out, t->eos);
    scratch_free(&s);
    return ok;
}

/* --- decoding ----------------------------------------------------------------------------------------------------- */

static void spell_bytes(const char *p, size_t len, struct buf *out) {
    for (size_t at = 0; at < len;) {
        uint32_t cp = 0;
        unsigned n = utf8_decode((const uint8_t *)p + at, len - at, &cp);
        int byte = n ? char_to_byte(cp) : -1;
        if (byte >= 0)
            buf_add(out, &(char){(char)byte}, 1);
        else
            buf_add(out, p + at, n ? n : 1); /* not spelled in the byte alphabet: as it stands */
        at += n ? n : 1;
    }
}

static void unmark_spaces(const char *p, size_t len, struct buf *out) {
    for (size_t at = 0; at < len;) {
        const char *mark = memmem(p + at, len - at, SPACE_MARK, 3);
        size_t end = mark ? (size_t)(mark - p) : len;
        buf_add(out, p + at, end - at);
        if (mark) buf_puts(out, " ");
        at = end + 3;
    }
}

void tokenizer_decode_piece(const struct tokenizer *t, int32_t id, bool special, struct buf *out) {
    if (id < 0 || id >= t->vocab.n) return;
    size_t len;
    const char *p = vocab_piece(&t->vocab, id, &len);
    switch (t->vocab.type[id]) {
    case TOKEN_CONTROL:
    case TOKEN_UNKNOWN:
        if (special) buf_add(out, p, len);
        break;
    case TOKEN_USER_DEFINED:
        buf_add(out, p, len);
        break;
    case TOKEN_BYTE: {
        char hex[3] = {p[3], p[4], 0};
        buf_add(out, &(char){(char)strtol(hex, NULL, 16)}, 1);
        break;
    }
    default:
        if (t->kind == KIND_BYTE_BPE)
            spell_bytes(p, len, out);
        else
            unmark_spaces(p, len, out);
    }
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special, struct buf *out) {
    size_t before = out->len;
    bool drop_space = t->space_prefix || t->kind == KIND_WORDS;
    for (size_t i = 0; i < n; i++) {
        tokenizer_decode_piece(t, ids[i], special, out);
        if (!drop_space || out->len == before) continue;
        drop_space = false;
        if (out->data[before] != ' ' || t->vocab.type[ids[i]] != TOKEN_NORMAL) continue;
        memmove(out->data + before, out->data + before + 1, out->len - before);
        out->len--;
    }
}

/* --- facts -------------------------------------------------------------------------------------------------------- */

bool tokenizer_is_end(const struct tokenizer *t, int32_t id) {
    return id >= 0 && id < t->vocab.n && (t->vocab.flag[id] & FLAG_END);
}

int32_t tokenizer_bos(const struct tokenizer *t) {
    return t->bos;
}
int32_t tokenizer_eos(const struct tokenizer *t) {
    return t->eos;
}
int32_t tokenizer_eot(const struct tokenizer *t) {
    return t->eot;
}
int32_t tokenizer_unknown(const struct tokenizer *t) {
    return t->unknown;
}
bool tokenizer_add_bos(const struct tokenizer *t) {
    return t->add_bos;
}
int32_t tokenizer_n_vocab(const struct tokenizer *t) {
    return t->vocab.n;
}

static void check_id(const struct tokenizer *t, int32_t id) {
    if (id < 0 || id >= t->vocab.n) bug("token id %" PRId32 " of a vocabulary of %" PRId32, id, t->vocab.n);
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *len) {
    check_id(t, id);
    return vocab_piece(&t->vocab, id, len);
}

enum token_type tokenizer_type(const struct tokenizer *t, int32_t id) {
    check_id(t, id);
    return t->vocab.type[id];
}

int32_t tokenizer_find(const struct tokenizer *t, const char *piece, size_t len) {
    return vocab_find(&t->vocab, piece, len);
}
