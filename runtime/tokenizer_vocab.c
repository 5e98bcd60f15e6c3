/* The vocabulary: pieces, their types and scores, lookup by spelling, and the special tokens matched in raw text. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/hash.h"
#include "runtime/tokenizer_impl.h"
#include "runtime/utf8.h"

/* GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100, U+0101, … in order. */
static bool stands_for_itself(uint32_t b) {
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xff && b != 0xad);
}

uint32_t byte_to_char(uint8_t byte) {
    if (stands_for_itself(byte)) return byte;
    return byte <= 0x20 ? 0x100u + byte : byte <= 0xa0 ? 0x121u + byte - 0x7f : 0x143u;
}

int char_to_byte(uint32_t cp) {
    if (cp < 0x100) return stands_for_itself(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp <= 0x142) return (int)(cp - 0x121 + 0x7f);
    return cp == 0x143 ? 0xad : -1;
}

const char *vocab_piece(const struct vocab *v, int32_t id, size_t *len) {
    *len = v->start[id + 1] - v->start[id];
    return v->text + v->start[id];
}

static uint32_t *slot_of(const struct vocab *v, const char *piece, size_t len) {
    uint64_t i = hash_bytes(piece, len) & v->mask;
    for (; v->slot[i]; i = (i + 1) & v->mask) {
        size_t n;
        const char *p = vocab_piece(v, (int32_t)v->slot[i] - 1, &n);
        if (n == len && memcmp(p, piece, len) == 0) break;
    }
    return &v->slot[i];
}

int32_t vocab_find(const struct vocab *v, const char *piece, size_t len) {
    return len && len <= v->longest ? (int32_t)*slot_of(v, piece, len) - 1 : -1;
}

int32_t vocab_find_text(const struct vocab *v, const char *piece, size_t len) {
    int32_t id = vocab_find(v, piece, len);
    if (id < 0) return -1;
    uint8_t type = v->type[id];
    return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_BYTE ? -1 : id;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static bool no_memory(const struct gguf *g, struct err *e) {
    return err_set(e, ERR_MEMORY, "%s: no memory for its vocabulary", gguf_path(g));
}

static bool read_pieces(struct vocab *v, const struct gguf *g, struct err *e) {
    const struct gguf_value *tokens;
    if (!gguf_get_array(g, "tokenizer.ggml.tokens", GGUF_STRING, &tokens, e)) return false;
    if (tokens->n < 1 || tokens->n > TOKENIZER_MAX_VOCAB)
        return err_set(e, ERR_UNSUPPORTED, "%s: tokenizer.ggml.tokens has %" PRIu64 " tokens, expected 1 to %d",
                       gguf_path(g), tokens->n, TOKENIZER_MAX_VOCAB);
    v->n = (int32_t)tokens->n;
    uint64_t size = 16;
    while (size < 2 * tokens->n) size *= 2;
    v->mask = size - 1;
    v->start = mem_try(tokens->n + 1, sizeof *v->start);
    v->slot = mem_try(size, sizeof *v->slot);
    v->type = mem_try(tokens->n, 1);
    v->flag = mem_try(tokens->n, 1);
    v->text = mem_try(tokens->bytes - 8 * tokens->n, 1);
    if (!v->start || !v->slot || !v->type || !v->flag || !v->text) return no_memory(g, e);

    struct gguf_strings it = gguf_strings_begin(tokens);
    for (int32_t id = 0; gguf_strings_next(&it); id++) {
        if (it.len > TOKENIZER_MAX_PIECE)
            return err_set(e, ERR_INPUT, "%s: token %" PRId32 " is %" PRIu64 " bytes long, at most %d are expected",
                           gguf_path(g), id, it.len, TOKENIZER_MAX_PIECE);
        memcpy(v->text + v->start[id], it.data, it.len);
        v->start[id + 1] = v->start[id] + it.len;
        v->type[id] = TOKEN_NORMAL;
        if (it.len > v->longest) v->longest = (uint32_t)it.len;
        if (!it.len) continue; /* a hole in the numbering: nothing spells it */
        uint32_t *slot = slot_of(v, it.data, it.len);
        if (*slot)
            return err_set(e, ERR_INPUT, "%s: tokens %" PRIu32 " and %" PRId32 " have the same text '%.*s'",
                           gguf_path(g), *slot - 1, id, (int)(it.len < 64 ? it.len : 64), it.data);
        *slot = (uint32_t)id + 1;
    }
    return true;
}

/* An optional array with an element per token. */
static bool per_token_array(const struct vocab *v, const struct gguf *g, const char *key, enum gguf_value_type type,
                            const struct gguf_value **out, struct err *e) {
    *out = NULL;
    if (!gguf_find(g, key)) return true;
    if (!gguf_get_array(g, key, type, out, e)) return false;
    if ((*out)->n >= (uint64_t)v->n) return true;
    return err_set(e, ERR_INPUT, "%s: %s has %" PRIu64 " elements for %" PRId32 " tokens", gguf_path(g), key, (*out)->n,
                   v->n);
}

static bool read_types(struct vocab *v, const struct gguf *g, struct err *e) {
    const struct gguf_value *types;
    if (!per_token_array(v, g, "tokenizer.ggml.token_type", GGUF_U64, &types, e)) return false;
    for (int32_t id = 0; types && id < v->n; id++) {
        uint64_t type = gguf_value_u64(types, (uint64_t)id);
        if (type > TOKEN_BYTE)
            return err_set(e, ERR_INPUT,
                           "%s: tokenizer.ggml.token_type holds %" PRId64 " for token %" PRId32 ", expected 0 to %d",
                           gguf_path(g), (int64_t)type, id, TOKEN_BYTE);
        v->type[id] = type ? (uint8_t)type : TOKEN_UNUSED;
    }
    return true;
}

static bool read_scores(struct vocab *v, const struct gguf *g, struct err *e) {
    const struct gguf_value *scores;
    if (!gguf_get_array(g, "tokenizer.ggml.scores", GGUF_F32, &scores, e) ||
        !per_token_array(v, g, "tokenizer.ggml.scores", GGUF_F32, &scores, e))
        return false;
    v->score = mem_try((size_t)v->n, sizeof *v->score);
    if (!v->score) return no_memory(g, e);
    for (int32_t id = 0; id < v->n; id++) {
        v->score[id] = (float)gguf_value_f64(scores, (uint64_t)id);
        if (isnan(v->score[id]))
            return err_set(e, ERR_INPUT, "%s: tokenizer.ggml.scores holds NaN for token %" PRId32, gguf_path(g), id);
    }
    return true;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* Byte tokens of the SentencePiece kinds are spelled <0x0A>. */
static bool read_byte_tokens(struct vocab *v, const struct gguf *g, struct err *e) {
    for (int32_t id = 0; id < v->n; id++) {
        if (v->type[id] != TOKEN_BYTE) continue;
        size_t len;
        const char *p = vocab_piece(v, id, &len);
        int high = len == 6 ? hex_digit(p[3]) : -1, low = len == 6 ? hex_digit(p[4]) : -1;
        if (high < 0 || low < 0 || memcmp(p, "<0x", 3) != 0 || p[5] != '>')
            return err_set(e, ERR_INPUT,
                           "%s: token %" PRId32 " is a byte token spelled '%.*s', expected <0x00> to <0xFF>",
                           gguf_path(g), id, (int)(len < 64 ? len : 64), p);
        v->byte[high << 4 | low] = id;
    }
    return true;
}

bool vocab_read(struct vocab *v, const struct gguf *g, enum tokenizer_kind kind, struct err *e) {
    memset(v->byte, -1, sizeof v->byte);
    if (!read_pieces(v, g, e) || !read_types(v, g, e) || !read_byte_tokens(v, g, e)) return false;
    if (kind == KIND_PIECES && !read_scores(v, g, e)) return false;
    for (int b = 0; kind == KIND_BYTE_BPE && b < 256; b++) {
        char spelled[4];
        v->byte[b] = vocab_find_text(v, spelled, utf8_encode(byte_to_char((uint8_t)b), spelled));
    }
    return true;
}

void vocab_free(struct vocab *v) {
    mem_free(v->text);
    mem_free(v->start);
    mem_free(v->type);
    mem_free(v->flag);
    mem_free(v->score);
    mem_free(v->slot);
}

/* --- special tokens ----------------------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b, void *vocab) {
    size_t n, m;
    const char *x = vocab_piece(vocab, *(const int32_t *)a, &n), *y = vocab_piece(vocab, *(const int32_t *)b, &m);
    int order = memcmp(x, y, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

bool specials_build(struct specials *s, const struct vocab *v, struct err *e) {
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        uint32_t n = 0;
        for (int32_t id = 0; id < v->n; id++) {
            bool matched =
                v->type[id] == TOKEN_CONTROL || v->type[id] == TOKEN_UNKNOWN || v->type[id] == TOKEN_USER_DEFINED;
            if (!matched || v->start[id] == v->start[id + 1]) continue;
            if (pass) s->id[n] = id;
            n++;
        }
        if (pass) break;
        s->n = n;
        s->id = mem_try(n, sizeof *s->id);
        if (!s->id) return err_set(e, ERR_MEMORY, "no memory for %" PRIu32 " special tokens", n);
    }
    qsort_r(s->id, s->n, sizeof *s->id, by_bytes, (void *)v);
    for (uint32_t i = 0, b = 0; b <= 256; b++) {
        while (i < s->n && (uint8_t)v->text[v->start[s->id[i]]] < b) i++;
        s->first[b] = i;
    }
    return true;
}

/* The first of id[lo … hi), which share `depth` bytes and are longer, whose next byte is at least b. */
static uint32_t lower_bound(const struct specials *s, const struct vocab *v, uint32_t lo, uint32_t hi, size_t depth,
                            unsigned b) {
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((uint8_t)v->text[v->start[s->id[mid]] + depth] < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int32_t specials_match(const struct specials *s, const struct vocab *v, const char *text, size_t len, bool control) {
    uint32_t lo = s->first[(uint8_t)*text], hi = s->first[(uint8_t)*text + 1];
    int32_t best = -1;
    for (size_t depth = 1; lo < hi; depth++) {
        int32_t id = s->id[lo]; /* of those that share depth bytes the shortest comes first */
        if (v->start[id + 1] - v->start[id] == depth) {
            if (control || v->type[id] == TOKEN_USER_DEFINED) best = id;
            lo++;
        }
        if (depth == len) break;
        lo = lower_bound(s, v, lo, hi, depth, (uint8_t)text[depth]);
        hi = lower_bound(s, v, lo, hi, depth, (uint8_t)text[depth] + 1u);
    }
    return best;
}
