/* sample: from the logits of one position to the next token.
 *
 * The chain, in llama.cpp's default order:
 *     logit bias -> repeat, frequency, presence penalties -> top-k -> typical-p -> top-p -> min-p -> temperature ->
 * draw At temperature 0 the token with the highest logit after bias and penalties is taken, the lowest id on a tie, and
 * the filters in between do not matter.
 *
 * Guarantees: the same logits, parameters, seed and history give the same token on every machine, and on every GPU, which
 * draws with the kernel `draw` (kernels.lua): the exponential is the kernels' own, and weights are whole numbers of 2^-32
 * of the largest, whose sums do not depend on their order; nothing is allocated after sample_open; the vocabulary is never
 * fully sorted. Refuses: a logit that is NaN or +inf is an error naming position and token, never a silent choice. -inf
 * means "never".
 */
#ifndef KGEN_SAMPLE_H
#define KGEN_SAMPLE_H

#include "codegen/base.h"

struct sample_bias {
    int32_t token;
    float add; /* to the token's logit; -INFINITY forbids it */
};

struct sample_params {
    float temp;    /* 0: greedy */
    int32_t top_k; /* keep the k best; 0 or less: all */
    float
        typical_p; /* keep the tokens whose surprise is closest to the expected one until their mass is this; 1: all */
    float top_p;   /* keep the likeliest tokens until their mass is this (at least one); 1: all */
    float min_p;   /* keep tokens at least this times as likely as the likeliest; 0: all */
    float repeat;  /* divides positive logits of recent tokens, multiplies others; 1: off */
    float frequency; /* subtracted from a recent token's logit for each time it occurred; 0: off */
    float presence;  /* subtracted once; 0: off */
    int32_t last_n;  /* how many tokens are recent: 0 none, -1 all */
    uint64_t seed;
    const struct sample_bias *bias; /* [n_bias], copied by sample_open */
    size_t n_bias;
};

/* llama.cpp's defaults: 0.8, top-k 40, typical 1, top-p 0.95, min-p 0.05, no penalties over 64 tokens, seed 0, no bias.
 */
struct sample_params sample_defaults(void);

struct sample_candidate {
    int64_t weight; /* exp(logit - the largest) in units of 2^-32 */
    double rank;   /* what a stage orders by, highest first */
    float logit;
    int32_t token;
};

/* A sampler belongs to one sequence. Its fields are its own. */
struct sampler {
    struct sample_params params;
    size_t n_vocab;
    struct sample_bias *bias;
    float *adjusted;                     /* [n_vocab], only with bias or penalties */
    struct sample_candidate *candidates; /* as many as may be chosen among: see sample_top_k */
    uint32_t *counts;                    /* [n_vocab] times each token is among the recent, only with penalties */
    int32_t *recent;                     /* ring [last_n], where last_n > 0 */
    uint64_t n_accepted, n_drawn;
};

/* Errors: a parameter out of its range, a bias for a token outside the vocabulary, lack of memory. On error *s is
 * closed. */
bool sample_open(struct sampler *s, const struct sample_params *params, size_t n_vocab, struct err *e);
void sample_close(struct sampler *s);

/* Tells the penalties that `token` is now part of the text: prompt tokens too, and every token that was sampled. */
void sample_accept(struct sampler *s, int32_t token);

/* How many of the largest logits decide, when they do alone: what sample_among takes. That is top-k (1 for the likeliest
 * token) and as many more as tokens may be pushed out of it by penalties and bias, where those only lower logits. 0: all
 * logits are needed (top-k is off, penalties over all of the text, something that raises a logit), or nothing is chosen
 * but the likeliest token as it is. sample_most_likely: the same before a sampler is open; it may exceed the vocabulary. */
size_t sample_top_k(const struct sampler *s);
size_t sample_most_likely(const struct sample_params *params);

/* Whether a draw needs nothing but those and what sample_draw tells: no penalties, no bias, no typical-p. */
bool sample_is_plain(const struct sampler *s);

/* What the kernel `draw` is told for the next draw, in its order. */
struct sample_draw {
    float temp, top_p, min_p, where; /* where: in [0, 1), a multiple of 2^-23 */
};
struct sample_draw sample_draw(const struct sampler *s);

/* That draw was made. */
void sample_drawn(struct sampler *s);

/* As sample_next, from the sample_top_k() largest logits and their tokens, in any order. */
bool sample_among(struct sampler *s, const float *logits, const float *tokens, int32_t *token, struct err *e);

/* Chooses the next token from logits[n_vocab] and counts one draw; the history is left alone (sample_accept). */
bool sample_next(struct sampler *s, const float *logits, int32_t *token, struct err *e);

#endif
