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
    return c == '\t' || c == '\n' || c == '\r' || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ZS;
}

/* Control characters are dropped; ASCII symbols count as punctuation, others do not. */
static bool is_dropped(uint32_t c) {
    if (c == 0 || c == 0xfffd) return true;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CN ||
           k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CS;
}

static bool is_punctuation(uint32_t c) {
    if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static void add_char(uint32_t c, struct buf *out) {
    char b[4];
    buf_add(out, b, utf8_encode(c, b));
}

/* Lowercases c; İ becomes i and a combining dot, which goes with the accents. */
static void add_lower(const struct tokenizer *t, uint32_t c, struct buf *out) {
    if (t->strip_accents && utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_MN) return;
    if (t->lowercase && c == 0x130) {
        add_char('i', out);
        if (!t->strip_accents) add_char(0x307, out);
        return;
    }
    add_char(t->lowercase ? (uint32_t)utf8proc_tolower((utf8proc_int32_t)c) : c, out);
}

static void add_normalized(const struct tokenizer *t, uint32_t c, struct buf *out) {
    utf8proc_int32_t parts[32] = {(utf8proc_int32_t)c};
    int bound = 0;
    utf8proc_ssize_t n = 1;
    if (t->strip_accents) n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32, UTF8PROC_DECOMPOSE, &bound);
    if (n < 1 || n > 32) {
        n = 1;
        parts[0] = (utf8proc_int32_t)c;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) add_lower(t, (uint32_t)parts[i], out);
}

/* Covers one word; `word` begins with the mark of a word's start. */
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

static void end_word(const struct tokenizer *t, struct buf *word, struct ids *out) {
    if (word->len > 3) cover(t, word, out);
    word->len = 0;
    buf_puts(word, SPACE_MARK);
}

bool encode_words(const struct tokenizer *t, const char *text, size_t len, struct ids *out, struct err *e) {
    (void)e;
    struct buf clean = {0}, word = {0};
    utf8_repair(text, len, &clean);
    end_word(t, &word, out);
    for (size_t at = 0; at < clean.len;) {
        uint32_t c = 0;
        at += utf8_decode((const uint8_t *)clean.data + at, clean.len - at, &c);
        if (is_white(c)) {
            end_word(t, &word, out);
        } else if (is_dropped(c)) {
            continue;
        } else if (is_punctuation(c) || is_cjk(c)) {
            end_word(t, &word, out);
            add_normalized(t, c, &word);
            end_word(t, &word, out);
        } else {
            add_normalized(t, c, &word);
        }
    }
    end_word(t, &word, out);
    buf_free(&clean);
    buf_free(&word);
    return true;
}
