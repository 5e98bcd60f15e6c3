/* tokenizer: text to token ids and back, from the vocabulary inside a GGUF file.
 *
 * A `struct tokenizer` owns a copy of what it needs: the gguf may be closed after tokenizer_open. It is read-only from
 * then on and may be shared by threads. Kinds (tokenizer.ggml.model): `gpt2` (byte-level BPE; tokenizer.ggml.pre names
 * the pattern that cuts text into words), `gemma4` (BPE over characters), `llama` (SentencePiece: best-scoring pair
 * first, bytes as a fallback) and `bert` (WordPiece). A file with a vocabulary and no tensors will do.
 *
 * Guarantees: time and memory grow as n·log n with the text, whatever its bytes are (with a vocabulary made for the
 * purpose, times the length of its longest token). Control tokens are made from text only under
 * TOKENIZER_PARSE_SPECIAL: text that spells one stays text. (User-defined tokens, type 4, are ordinary vocabulary that
 * is matched before anything else, longest first, as Hugging Face's tokenizers do.) Invalid UTF-8 becomes U+FFFD for
 * `gpt2` and `bert` and stays as byte tokens for `llama`. Characters a `gpt2` vocabulary has no byte token for are left
 * out, as its own tokenizer does.
 *
 * Refused at open: special ids outside the vocabulary, scores or types shorter than it, byte tokens that are not
 * <0x00> … <0xFF>, merges of absent tokens, duplicate tokens, tokens over TOKENIZER_MAX_PIECE bytes.
 */
#ifndef KGEN_TOKENIZER_H
#define KGEN_TOKENIZER_H

#include "runtime/gguf.h"

enum { TOKENIZER_MAX_VOCAB = 1 << 20, TOKENIZER_MAX_PIECE = 16384 };

enum tokenizer_flags {
    TOKENIZER_ADD_BOS = 1,       /* put the tokens around the text that the file asks for: BOS, [CLS] … [SEP], EOS */
    TOKENIZER_PARSE_SPECIAL = 2, /* control tokens spelled in the text become those tokens: for chat templates */
};

/* A growing list of token ids; the caller frees it with ids_free. */
struct ids {
    int32_t *id;
    size_t n, cap;
};
void ids_add(struct ids *list, int32_t id);
void ids_free(struct ids *list);

struct tokenizer;

bool tokenizer_open(const struct gguf *g, struct tokenizer **out, struct err *e);
void tokenizer_close(struct tokenizer *t); /* accepts NULL */

/* Appends the ids of text[0 … len) to *out. `flags` is a set of enum tokenizer_flags. Empty text gives only what
 * TOKENIZER_ADD_BOS adds. Fails on text over 1 GiB, or when a word exceeds the pattern matcher's limits. */
bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags, struct ids *out,
                      struct err *e);

/* Appends the bytes that one token stands for; they may be a part of a UTF-8 character. Control and unknown tokens
 * give nothing unless `special`, which gives their names. Ids outside the vocabulary give nothing. */
void tokenizer_decode_piece(const struct tokenizer *t, int32_t id, bool special, struct buf *out);

/* Appends the text of n tokens: their pieces, without the space that encoding put in front of the text. */
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool special, struct buf *out);

/* Whether generation stops at this token: EOS, EOT, and control tokens of such names (<|im_end|>, <end_of_turn>, …). */
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);

/* The file's special ids; -1 where it has none. */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
int32_t tokenizer_eot(const struct tokenizer *t);     /* end of a turn in a conversation */
int32_t tokenizer_unknown(const struct tokenizer *t); /* what stands for text that no token covers */
bool tokenizer_add_bos(const struct tokenizer *t);    /* whether TOKENIZER_ADD_BOS adds a BOS */

int32_t tokenizer_n_vocab(const struct tokenizer *t);

/* A token's text as the vocabulary spells it ("Ġthe", "▁the", "<0x0A>"), not NUL-terminated. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *len);

/* Types as in tokenizer.ggml.token_type. */
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };
enum token_type tokenizer_type(const struct tokenizer *t, int32_t id);

/* The id of the token that the vocabulary spells so, of any type; -1 when there is none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *piece, size_t len);

#endif
