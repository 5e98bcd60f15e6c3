/* session: a context over a model: its KV cache, activations and position.
 *
 * session_eval appends tokens and computes the logits of the last of them. Results do not depend on how a sequence was
 * cut into calls, nor on the number of threads.
 */
#ifndef KGEN_SESSION_H
#define KGEN_SESSION_H

#include "runtime/model.h"
#include "runtime/sample.h"

struct session;

/* n_ctx: tokens it can hold, at most what the model was made for (0: that, up to 4096). Memory is reserved here and used
 * as the context fills. */
bool session_open(struct model *m, int64_t n_ctx, struct session **out, struct err *e);
void session_close(struct session *s); /* accepts NULL */

int64_t session_n_ctx(const struct session *s);
int64_t session_pos(const struct session *s); /* tokens so far */

/* Forgets all tokens from position `keep` on. */
void session_rewind(struct session *s, int64_t keep);

/* Appends n > 0 tokens. For each of the last n_out (at most n) of them calls sink(ctx, its position, logits[n_vocab])
 * in order; logits are valid during the call. Errors: a full context, an id outside the vocabulary (nothing is appended
 * then). */
typedef bool session_sink(void *ctx, int64_t pos, const float *logits, struct err *e);
bool session_eval(struct session *s, const int32_t *ids, size_t n, size_t n_out, session_sink *sink, void *ctx,
                  struct err *e);

/* The likeliest next token after the last session_eval that had n_out > 0, the lowest id on ties; computed by the
 * argmax kernel. NaN logits are an error. */
bool session_argmax(struct session *s, int32_t *id, struct err *e);

/* The token that sample_next would choose from the same logits. Where the model was opened on a GPU for as many as decide
 * (sample_top_k, model_options), the largest logits are found there; the token is drawn there too, from the second on as a part
 * of its evaluation, unless a penalty, a bias or typical-p comes before that: then those logits are copied. */
bool session_sample(struct session *s, struct sampler *sampler, int32_t *id, struct err *e);

/* The logits behind either, [n_vocab]; on a GPU they are copied when first asked for. */
bool session_logits(struct session *s, const float **out, struct err *e);

/* Bytes reserved for the cache, activations and workspace. */
uint64_t session_bytes(const struct session *s);

/* From now on every launch is compared with its reference kernel (runtime/check.h); session_eval fails at the first
 * element that differs. Slow. */
bool session_check(struct session *s, struct err *e);

/* Times of launches (profile != NULL while evaluating): on thread 0, including the wait. */
struct session_profile {
    struct launch_times {
        double seconds;
        uint64_t runs; /* an evaluation may run a launch not at all, or, for many tokens' logits, several times */
    } * launches;      /* [model.n_all_launches] */
    uint64_t n_evals;
};
void session_set_profile(struct session *s, struct session_profile *p);

#endif
