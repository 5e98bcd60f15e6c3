/* generate: from a prompt's ids to streamed text: what a single run and each turn of a conversation do.
 *
 * A `struct generator` owns a session, the list of tokens whose keys and values that session holds, and the text of the
 * latest answer. It borrows the model and the tokenizer.
 */
#ifndef KGEN_CLI_GENERATE_H
#define KGEN_CLI_GENERATE_H

#include "cli/run.h"
#include "runtime/sample.h"
#include "runtime/session.h"
#include "runtime/stream.h"
#include "runtime/tokenizer.h"

enum ending {
    ENDED_BY_MODEL,     /* a token that ends a text or a turn */
    ENDED_BY_LENGTH,    /* -n */
    ENDED_BY_STOP,      /* a stop string */
    ENDED_BY_CONTEXT,   /* no room for another token */
    ENDED_BY_INTERRUPT, /* Ctrl-C */
};
extern const char *const ending_names[]; /* "model", "length", … */

struct generator {
    const struct run_options *options;
    struct model *model;
    const struct tokenizer *tokenizer;
    struct session *session;
    struct sampler sampler;
    bool samples; /* false: the likeliest token, found by the argmax kernel */
    uint64_t seed;
    struct stream stream;
    bool echo;         /* the text also goes to standard output as it is made */
    struct ids cached; /* the tokens in the session */
    struct ids answer; /* the latest answer's ids, without the token that ended it */
    struct buf text;   /* the latest answer, without what ended it */
    enum ending ending;
    /* Of the latest answer. */
    size_t n_prompt, n_reused, n_steps;       /* tokens of the prompt; of these, in the cache; tokens evaluated after */
    double prompt_s, steps_s, first_token_at; /* the last by now_s() */
};

/* What the options ask of a sampler; without a seed. */
struct sample_params sampling_params(const struct sampling_options *s);

/* n_ctx: 0 or as session_open. */
bool generator_open(struct generator *g, const struct run_options *o, struct model *m, const struct tokenizer *t,
                    int64_t n_ctx, struct err *e);
void generator_close(struct generator *g);

/* Generates an answer to the prompt, of which only what differs from the session's tokens is evaluated. Errors: a
 * prompt of no tokens or more than the context holds; logits that are not finite. */
bool generate(struct generator *g, const struct ids *prompt, struct err *e);

#endif
