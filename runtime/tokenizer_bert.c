/* WordPiece, as BERT's tokenizers do it: text is cleaned, split at spaces and punctuation, and every word covered from
 * the left by the longest pieces there are; a word that cannot be covered is one unknown token.
 *
 * In a GGUF file a piece that begins a word starts with U+2581; one that continues a word has no mark. */
#include <string.h>
#include <utf8proc.h>

#include "runtime/tokenizer_impl.h"
#include "runtime/utf8.h"

enum { MAX_WORD_CHARS = 100 }; /* BERT's limit: longer words are unknown */

static bool is_cjk(uint32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) ||
           (c >= 0x2a700 && c <= 0x2b73f) || (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static bool is_white(uint32_t c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return c == '\t' || c == '\n' || c == '\r' || (k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_ZP);
}

/* Control characters are dropped; ASCII symbols count as punctuation, others do not. */
static bool is_dropped(uint32_t c) {
    if (c == 0 || c == 0xfffd) return true;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO ||
           k == UTF8PROC_CATEGORY_CS;
}

static bool is_punctuation(uint32_t c) {
    if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

/* Words as they grow; `word` always begins with the mark of a word's start. */
struct words {
    const struct tokenizer *t;
    struct buf word;
    struct ids *out;
};

/* Covers one word. */
static void cover(const struct tokenizer *t, const struct buf *word, struct ids *out) {
    size_t first = out->n, chars = 0;
    for (size_t i = 3; i < word->len; i++) chars += ((uint8_t)word->data[i] & 0xc0) != 0x80;
    bool covered = chars <= MAX_WORD_CHARS;
    for (size_t at = 0; covered && at < word->len;) {
        size_t len = word->len - at;
        if (len > t->vocab.longest) len = t->vocab.longest;
        int32_t id = -1;
        for (; len; len--) {
            bool inside = at + len < word->len && ((uint8_t)word->data[at + len] & 0xc0) == 0x80;
            if (!inside && (id = vocab_find_text(&t->vocab, word->data + at, len)) >= 0) break;
        }
        covered = id >= 0;
        if (covered) ids_add(out, id);
        at += len;
    }
    if (covered) return;
    out->n = first;
    if (t->unknown >= 0) ids_add(out, t->unknown);
}

static void end_word(struct words *w) {
    if (w->word.len > 3) cover(w->t, &w->word, w->out);
    w->word.len = 0;
    buf_puts(&w->word, SPACE_MARK);
}

static void add_char(struct words *w, uint32_t c) {
    bool alone = is_punctuation(c);
    char b[4];
    if (alone) end_word(w);
    buf_add(&w->word, b, utf8_encode(c, b));
    if (alone) end_word(w);
}

/* Lowercases c and drops it when it is an accent; İ becomes i and a combining dot. */
static void add_lower(struct words *w, uint32_t c) {
    if (w->t->strip_accents && utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_MN) return;
    if (w->t->lowercase && c == 0x130) {
        add_char(w, 'i');
        add_char(w, 0x307);
        return;
    }
    add_char(w, w->t->lowercase ? (uint32_t)utf8proc_tolower((utf8proc_int32_t)c) : c);
}

static void add_normalized(struct words *w, uint32_t c) {
    utf8proc_int32_t parts[32] = {(utf8proc_int32_t)c};
    int bound = 0;
    utf8proc_ssize_t n = 1;
    if (w->t->strip_accents) n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32, UTF8PROC_DECOMPOSE, &bound);
    if (n < 1 || n > 32) { /* not a character utf8proc knows how to take apart */
        n = 1;
        parts[0] = (utf8proc_int32_t)c;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) add_lower(w, (uint32_t)parts[i]);
}

void encode_words(const struct tokenizer *t, const char *text, size_t len, struct ids *out) {
    struct words w = {.t = t, .out = out};
    struct buf clean = {0};
    utf8_repair(text, len, &clean);
    end_word(&w);
    for (size_t at = 0; at < clean.len;) {
        uint32_t c = 0;
        at += utf8_decode((const uint8_t *)clean.data + at, clean.len - at, &c);
        bool cjk = is_cjk(c);
        if (is_white(c) || cjk) end_word(&w);
        if (!is_white(c) && !is_dropped(c)) add_normalized(&w, c);
        if (cjk) end_word(&w);
    }
    end_word(&w);
    buf_free(&clean);
    buf_free(&w.word);
}
