/* Shared by the tokenizer's files; nobody else includes it. */
#ifndef KGEN_TOKENIZER_IMPL_H
#define KGEN_TOKENIZER_IMPL_H

#include "runtime/tokenizer.h"

enum tokenizer_kind {
    KIND_BYTE_BPE, /* gpt2: symbols are bytes, merges by rank */
    KIND_CHAR_BPE, /* gemma4: symbols are characters, merges by rank */
    KIND_PIECES,   /* llama: symbols are characters, merges by the score of the result */
    KIND_WORDS,    /* bert: longest pieces of normalized words */
};

/* The vocabulary. Pieces are spelled as in the file; `text` is one block, piece i at [start[i], start[i + 1]). */
struct vocab {
    int32_t n;
    char *text;
    uint64_t *start;
    uint8_t *type;  /* enum token_type */
    uint8_t *flag;  /* enum token_flag */
    float *score;   /* NULL unless KIND_PIECES */
    uint32_t *slot; /* id + 1 by hash of the piece, 0 = free */
    uint64_t mask;
    uint32_t longest;  /* bytes of the longest piece */
    int32_t byte[256]; /* the token of each byte, -1 = none */
};
enum token_flag { FLAG_END = 1, FLAG_STRIP_RIGHT = 2 };

bool vocab_read(struct vocab *v, const struct gguf *g, enum tokenizer_kind kind, struct err *e);
void vocab_free(struct vocab *v);
const char *vocab_piece(const struct vocab *v, int32_t id, size_t *len);
int32_t vocab_find(const struct vocab *v, const char *piece, size_t len); /* any type; -1 */
/* Tokens that text may become: not control, unknown or byte tokens, whatever the text spells. */
int32_t vocab_find_text(const struct vocab *v, const char *piece, size_t len);

/* gpt2 spells bytes as printable characters: the character of a byte, and back (-1: not such a character). */
uint32_t byte_to_char(uint8_t byte);
int char_to_byte(uint32_t cp);

/* Tokens that are matched in the text before it is cut into words, sorted by their bytes. */
struct specials {
    int32_t *id;
    uint32_t n;
    uint32_t first[257]; /* those whose first byte is b: id[first[b] … first[b + 1]) */
};
bool specials_build(struct specials *s, const struct vocab *v, struct err *e);
/* The longest one at text[0 … len); control and unknown tokens only if `control`. -1 when there is none. */
int32_t specials_match(const struct specials *s, const struct vocab *v, const char *text, size_t len, bool control);

/* The patterns that cut text into words, one after another: each cuts the pieces the one before left. */
struct pretokenizer;
struct pre_defaults {
    bool add_bos;     /* when the file does not say */
    bool whole_words; /* a word that is a token becomes it without merging */
};
bool pretokenizer_new(const char *name, const char *path, struct pretokenizer **out, struct pre_defaults *defaults,
                      struct err *e);
void pretokenizer_free(struct pretokenizer *p);
/* Ends of the words of text[0 … len), which is repaired UTF-8. The caller frees *ends with mem_free. */
bool pretokenizer_split(const struct pretokenizer *p, const char *text, size_t len, uint32_t **ends, size_t *n_ends,
                        struct err *e);

/* Merges of BPE: (left, right) -> (rank, result). */
struct merge_rule {
    uint32_t left, right, rank; /* left + 1; 0 = free slot */
    int32_t result;
};
struct merges {
    struct merge_rule *slot;
    uint64_t mask;
};
bool merges_read(struct merges *m, const struct gguf *g, const struct vocab *v, struct err *e);
const struct merge_rule *merges_find(const struct merges *m, int32_t left, int32_t right);

struct tokenizer {
    enum tokenizer_kind kind;
    struct vocab vocab;
    struct specials specials;
    struct merges merges;
    struct pretokenizer *pre;
    bool whole_words, add_bos, add_eos, space_prefix, lowercase, strip_accents;
    int32_t bos, eos, eot, unknown;
};

/* Working memory of one encode call. */
struct symbol {
    uint32_t off, len; /* in the text; len in the piece's own bytes, 0 = merged away */
    int32_t id;        /* -1: not in the vocabulary */
    uint32_t prev, next;
};
struct candidate {
    uint64_t order; /* smallest first: priority << 32 | left */
    uint32_t right;
    int32_t result;
};
struct scratch {
    struct symbol *symbols;
    size_t cap_symbols;
    struct candidate *heap;
    size_t n_heap, cap_heap;
};
void scratch_free(struct scratch *s);

/* Each appends the ids of one stretch of text. */
bool encode_byte_bpe(const struct tokenizer *t, struct scratch *s, const char *text, size_t len, struct ids *out,
                     struct err *e);
bool encode_char_bpe(const struct tokenizer *t, struct scratch *s, const char *text, size_t len, struct ids *out,
                     struct err *e);
bool encode_pieces(const struct tokenizer *t, struct scratch *s, const char *text, size_t len, struct ids *out,
                   struct err *e);
void encode_words(const struct tokenizer *t, const char *text, size_t len, struct ids *out);

/* Appends text with malformed UTF-8 replaced by U+FFFD, overlong forms shortened, surrogates kept. */
void utf8_repair(const char *text, size_t len, struct buf *out);

#define SPACE_MARK "\xe2\x96\x81" /* U+2581, how pieces spell a space */

#endif
