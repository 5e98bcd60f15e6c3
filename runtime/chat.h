/* chat: a conversation, spelled the way the model was trained to read it: by the Jinja template in its file.
 *
 * A `struct chat` owns its messages and borrows the Lua state and the tokenizer. Control tokens come from the template
 * alone: what a message spells stays text. Bytes of a message that are not UTF-8 become U+FFFD.
 */
#ifndef KGEN_CHAT_H
#define KGEN_CHAT_H

#include "dsl/host.h"
#include "runtime/tokenizer.h"

struct chat;

/* *out is NULL, and all is well, where the file has no template. */
bool chat_open(struct dsl *d, const struct gguf *g, const struct tokenizer *t, struct chat **out, struct err *e);
void chat_close(struct chat *c); /* accepts NULL */

/* Appends a message; role is "system", "user" or "assistant". */
void chat_add(struct chat *c, const char *role, const char *text, size_t len);
size_t chat_length(const struct chat *c);    /* messages */
void chat_shorten(struct chat *c, size_t n); /* forgets all messages from the n-th on */

/* Appends the ids of the whole conversation, up to where the next answer begins. Errors are the template's:
 * "template line N: …". */
bool chat_encode(const struct chat *c, struct ids *out, struct err *e);

#endif
