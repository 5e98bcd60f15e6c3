/* Merging neighbours, best first: BPE by rank, SentencePiece by score. One loop for both:
 *
 *   symbols:  [T][h][e][ ][c]…      a doubly linked list over the text
 *   heap:     candidates (left, right) by priority, then from left to right
 *
 * A candidate is stale when either side has been merged since, which the lengths tell: both must be alive and together
 * as long as the result. A text of n symbols makes at most 3n candidates, so this is n·log n. */
#include <inttypes.h>
#include <string.h>

#include "runtime/hash.h"
#include "runtime/tokenizer_impl.h"
#include "runtime/utf8.h"

#define NONE UINT32_MAX

/* --- the merge rules of BPE --------------------------------------------------------------------------------------- */

static struct merge_rule *rule_slot(const struct merges *m, uint32_t left, uint32_t right) {
    uint64_t i = hash_bytes((const uint32_t[]){left, right}, 8) & m->mask;
    while (m->slot[i].left && (m->slot[i].left != left + 1 || m->slot[i].right != right)) i = (i + 1) & m->mask;
    return &m->slot[i];
}

const struct merge_rule *merges_find(const struct merges *m, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return NULL;
    const struct merge_rule *r = rule_slot(m, (uint32_t)left, (uint32_t)right);
    return r->left ? r : NULL;
}

bool merges_read(struct merges *m, const struct gguf *g, const struct vocab *v, struct err *e) {
    const struct gguf_value *list;
    if (!gguf_get_array(g, "tokenizer.ggml.merges", GGUF_STRING, &list, e)) return false;
    if (list->n > TOKENIZER_MAX_VOCAB)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: tokenizer.ggml.merges has %" PRIu64 " entries, at most %d are supported", gguf_path(g),
                       list->n, TOKENIZER_MAX_VOCAB);
    uint64_t size = 16;
    while (size < 2 * list->n) size *= 2;
    m->mask = size - 1;
    m->slot = mem_try(size, sizeof *m->slot);
    if (!m->slot) return err_set(e, ERR_MEMORY, "%s: no memory for %" PRIu64 " merges", gguf_path(g), list->n);
    struct buf joined = {0};
    bool ok = true;
    struct gguf_strings it = gguf_strings_begin(list);
    for (uint32_t rank = 0; ok && gguf_strings_next(&it); rank++) {
        /* "left right"; a left side may itself begin with a space */
        const char *space = it.len > 1 ? memchr(it.data + 1, ' ', it.len - 1) : NULL;
        size_t left_len = space ? (size_t)(space - it.data) : it.len, right_len = space ? it.len - left_len - 1 : 0;
        joined.len = 0;
        buf_add(&joined, it.data, left_len);
        if (space) buf_add(&joined, space + 1, right_len);
        int32_t left = vocab_find_text(v, it.data, left_len),
                right = space ? vocab_find_text(v, space + 1, right_len) : -1;
        int32_t result = vocab_find_text(v, joined.data, joined.len);
        if (left < 0 || right < 0 || result < 0) {
            ok = err_set(e, ERR_INPUT, "%s: merge %" PRIu32 " '%.*s': %s is not in the vocabulary", gguf_path(g), rank,
                         (int)(it.len < 64 ? it.len : 64), it.data,
                         left < 0    ? "its left side"
                         : right < 0 ? "its right side"
                                     : "its result");
            break;
        }
        struct merge_rule *r = rule_slot(m, (uint32_t)left, (uint32_t)right);
        if (!r->left) *r = (struct merge_rule){(uint32_t)left + 1, (uint32_t)right, rank, result};
    }
    buf_free(&joined);
    return ok;
}

/* --- the heap ----------------------------------------------------------------------------------------------------- */

static bool reserve(struct scratch *s, size_t n_symbols, struct err *e) {
    if (n_symbols > s->cap_symbols) {
        size_t cap = n_symbols > 64 ? n_symbols + n_symbols / 2 : 64;
        scratch_free(s);
        s->symbols = mem_try(cap, sizeof *s->symbols);
        s->heap = mem_try(3 * cap, sizeof *s->heap);
        if (!s->symbols || !s->heap)
            return err_set(e, ERR_MEMORY, "no memory to tokenize a stretch of %zu characters", n_symbols);
        s->cap_symbols = cap;
        s->cap_heap = 3 * cap;
    }
    s->n_heap = 0;
    return true;
}

void scratch_free(struct scratch *s) {
    mem_free(s->symbols);
    mem_free(s->heap);
    *s = (struct scratch){0};
}

static void push(struct scratch *s, struct candidate c) {
    if (s->n_heap == s->cap_heap) bug("more than %zu merge candidates", s->cap_heap);
    size_t i = s->n_heap++;
    for (; i && s->heap[(i - 1) / 2].order > c.order; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = c;
}

static struct candidate pop(struct scratch *s) {
    struct candidate top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
        if (child + 1 < s->n_heap && s->heap[child + 1].order < s->heap[child].order) child++;
        if (s->heap[child].order >= last.order) break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    return top;
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

/* Higher scores first: a float's bits, made to sort backwards as an unsigned number. */
static uint32_t score_order(float score) {
    uint32_t bits;
    score += 0.0f; /* -0 and 0 are equal */
    memcpy(&bits, &score, 4);
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

static void consider(const struct tokenizer *t, struct scratch *s, const char *text, uint32_t left, uint32_t right) {
    if (left == NONE || right == NONE) return;
    const struct symbol *a = &s->symbols[left], *b = &s->symbols[right];
    uint32_t priority;
    int32_t result;
    if (t->kind == KIND_PIECES) {
        result = vocab_find_text(&t->vocab, text + a->off, (size_t)a->len + b->len);
        if (result < 0) return;
        priority = score_order(t->vocab.score[result]);
    } else {
        const struct merge_rule *rule = merges_find(&t->merges, a->id, b->id);
        if (!rule || t->vocab.type[rule->result] == TOKEN_CONTROL) return; /* made one by its name, after merges_read */
        result = rule->result;
        priority = rule->rank;
    }
    push(s, (struct candidate){(uint64_t)priority << 32 | left, right, result});
}

/* Merges the n symbols that stand in s. */
static void merge_all(const struct tokenizer *t, struct scratch *s, const char *text, uint32_t n) {
    struct symbol *sym = s->symbols;
    for (uint32_t i = 0; i < n; i++) {
        sym[i].prev = i ? i - 1 : NONE;
        sym[i].next = i + 1 < n ? i + 1 : NONE;
    }
    for (uint32_t i = 1; i < n; i++) consider(t, s, text, i - 1, i);
    while (s->n_heap) {
        struct candidate c = pop(s);
        uint32_t left = (uint32_t)c.order;
        struct symbol *a = &sym[left], *b = &sym[c.right];
        size_t len;
        vocab_piece(&t->vocab, c.result, &len);
        if (!a->len || !b->len || (size_t)a->len + b->len != len) continue;
        a->len += b->len;
        a->id = c.result;
        a->next = b->next;
        b->len = 0;
        if (a->next != NONE) sym[a->next].prev = left;
        consider(t, s, text, a->prev, left);
        consider(t, s, text, left, a->next);
    }
}

/* What is left: tokens, or bytes where a character is none. */
static void emit(const struct tokenizer *t, const struct scratch *s, const char *text, struct ids *out) {
    for (uint32_t i = 0; i != NONE; i = s->symbols[i].next) {
        const struct symbol *a = &s->symbols[i];
        if (a->id >= 0) {
            ids_add(out, a->id);
            continue;
        }
        if (t->kind == KIND_BYTE_BPE) continue; /* a byte the vocabulary never met: its own tokenizer drops it too */
        for (uint32_t j = 0; j < a->len; j++) {
            int32_t byte = t->vocab.byte[(uint8_t)text[a->off + j]];
            if (byte < 0) byte = t->unknown;
            if (byte >= 0) ids_add(out, byte);
        }
    }
}

/* One symbol per character of text[from … to), or per byte where it is none. */
static uint32_t split_characters(const struct tokenizer *t, struct scratch *s, const char *text, size_t from,
                                 size_t to) {
    uint32_t n = 0, cp;
    for (size_t at = from; at < to;) {
        uint32_t len = utf8_decode((const uint8_t *)text + at, to - at, &cp);
        if (!len) len = 1;
        s->symbols[n++] =
            (struct symbol){.off = (uint32_t)at, .len = len, .id = vocab_find_text(&t->vocab, text + at, len)};
        at += len;
    }
    return n;
}

bool encode_pieces(const struct tokenizer *t, struct scratch *s, const char *text, size_t len, struct ids *out,
                   struct err *e) {
    if (!len) return true;
    if (!reserve(s, len, e)) return false;
    merge_all(t, s, text, split_characters(t, s, text, 0, len));
    emit(t, s, text, out);
    return true;
}

/* Both kinds of BPE: `word` merges one word. */
typedef bool (*word_fn)(const struct tokenizer *, struct scratch *, const char *text, size_t from, size_t to,
                        struct ids *, struct err *);

static bool encode_split(const struct tokenizer *t, struct scratch *s, const char *text, size_t len, word_fn word,
                         struct ids *out, struct err *e) {
    if (!len) return true;
    uint32_t *ends;
    size_t n;
    if (!pretokenizer_split(t->pre, text, len, &ends, &n, e)) return false;
    bool ok = true;
    for (size_t i = 0, from = 0; ok && i < n; from = ends[i++]) ok = word(t, s, text, from, ends[i], out, e);
    mem_free(ends);
    return ok;
}

/* The token that spells the word's bytes, or -1. */
static int32_t whole_word(const struct tokenizer *t, const char *word, size_t len) {
    if (len > t->vocab.longest) return -1;
    struct buf spelled = {0};
    for (size_t i = 0; i < len; i++) {
        char c[4];
        buf_add(&spelled, c, utf8_encode(byte_to_char((uint8_t)word[i]), c));
    }
    int32_t id = vocab_find_text(&t->vocab, spelled.data, spelled.len);
    buf_free(&spelled);
    return id;
}

static bool byte_word(const struct tokenizer *t, struct scratch *s, const char *text, size_t from, size_t to,
                      struct ids *out, struct err *e) {
    int32_t id = t->whole_words ? whole_word(t, text + from, to - from) : -1;
    if (id >= 0) {
        ids_add(out, id);
        return true;
    }
    if (!reserve(s, to - from, e)) return false;
    uint32_t n = 0;
    for (size_t at = from; at < to; at++) {
        uint8_t b = (uint8_t)text[at];
        s->symbols[n++] = (struct symbol){.len = byte_to_char(b) < 0x80 ? 1 : 2, .id = t->vocab.byte[b]};
    }
    merge_all(t, s, text, n);
    emit(t, s, text, out);
    return true;
}

static bool char_word(const struct tokenizer *t, struct scratch *s, const char *text, size_t from, size_t to,
                      struct ids *out, struct err *e) {
    /* runs of newlines are tokens that no merges lead to */
    int32_t id = text[from] == '\n' ? vocab_find_text(&t->vocab, text + from, to - from) : -1;
    if (id >= 0) {
        ids_add(out, id);
        return true;
    }
    if (!reserve(s, to - from, e)) return false;
    merge_all(t, s, text, split_characters(t, s, text, from, to));
    emit(t, s, text, out);
    return true;
}

bool encode_byte_bpe(const struct tokenizer *t, struct scratch *s, const char *text, size_t len, struct ids *out,
                     struct err *e) {
    return encode_split(t, s, text, len, byte_word, out, e);
}

bool encode_char_bpe(const struct tokenizer *t, struct scratch *s, const char *text, size_t len, struct ids *out,
                     struct err *e) {
    return encode_split(t, s, text, len, char_word, out, e);
}
