/* session_impl: what session.c and its part for GPUs, session_gpu.c, share. */
#ifndef KGEN_SESSION_IMPL_H
#define KGEN_SESSION_IMPL_H

#include "runtime/ahead.h"
#include "runtime/session.h"

enum {
    BATCH = 512,     /* tokens evaluated together */
    HEAD_BATCH = 16, /* tokens whose logits are computed together */
    PAGE = 256,      /* keys a page of the KV cache: dsl/access.lua */
};

/* Where the model computes: on a GPU, `data` is an address of its memory. */
struct region {
    uint8_t *data;
    uint64_t bytes;
};

/* What a GPU is told for an evaluation, in one copy: the sizes of every kernel (in the order it wants them), how the next
 * token is drawn, pages, and last the token ids, of which only those in use are copied. */
struct gpu_input {
    uint8_t *host;
    cuda_addr device;
    uint64_t draw_at, pages_at, ids_at;
};

/* The choice of the next token, and what is copied back of it in one piece: the likeliest token and its logit; the logits
 * and ids (as float32) of the k likeliest; or of those the one drawn (its id as float32) and the largest logit. */
enum gpu_choice_kind { CHOICE_NONE, CHOICE_ARGMAX, CHOICE_TOP_K, CHOICE_DRAW };
struct gpu_choice {
    cuda_addr device; /* the k likeliest, then the one chosen */
    cuda_addr scratch; /* of the rounds (runtime/select.h): ranks, and the values and ids kept by every second one */
    cuda_addr ids;     /* 0, 1, 2, … as float32 [n_vocab] */
    uint8_t *host;
    enum gpu_choice_kind known; /* what host holds of the last logits */
    bool selected;              /* the k likeliest of them lie on the device */
    bool draws;                 /* the last token was drawn, as the next one will be: */
    struct sample_draw draw;
};

struct session {
    struct model *m;
    int64_t n_ctx, pos, n_pages;
    int64_t batch;
    struct region act, head, ws, caches, tables;
    void **cache_of;   /* [n_tensors] pool of a cache tensor */
    int32_t *pages;    /* [n_pages] the physical page of each run of PAGE keys */
    int32_t *free_pages;
    int64_t n_free, n_used;
    bool huge_pages; /* caches lies in them */
    int32_t *ids;      /* [batch] */
    void **args;       /* argument arrays of all launches, one after another */
    size_t *first_arg; /* [model.n_all_launches] */
    int64_t bound_first; /* the row of the batch that those of the head begin with */
    struct ahead_phase *phases; /* those with weights of one token's launches, in order; NULL on a GPU */
    size_t *first_phase;        /* [model.n_launches + 1] of each launch */
    uint64_t ahead_most;
    int64_t sizes[N_RUN_DIMS];
    size_t from, to; /* launches to run */
    struct session_profile *profile;
    struct check *check; /* NULL: launches are not compared with their references */
    int32_t best;
    float best_value;
    int64_t logits_row, n_logits; /* of the last rows evaluated, the one that is meant; their number */
    bool lone;                    /* they are of the launches of one token */
    /* On a GPU: */
    struct gpu_input input;
    struct gpu_choice choice;
    float *logits;           /* the host's copy [HEAD_BATCH][n_vocab], made when first needed */
    bool logits_here;        /* it is that of the last evaluation */
    struct cuda_graph *step; /* all launches for one token and the choice of the next, recorded at the first */
    enum gpu_choice_kind step_choice;
};

/* Launch i ran since `start`. */
static inline void session_profile_add(struct session *s, size_t i, double start) {
    s->profile->launches[i].seconds += now_s() - start;
    s->profile->launches[i].runs++;
}

/* Bytes that a context needs, by purpose; what session_open reserves. */
struct session_need {
    int64_t batch, n_pages;
    uint64_t act, head, ws, caches, tables;
};
struct session_need session_need(const struct model *m, int64_t n_ctx);
int64_t session_default_ctx(const struct model *m);

/* Of a cache tensor. */
uint64_t session_page_bytes(const struct tensor *t);

/* The logits where the model computes. */
const float *session_logits_at(const struct session *s);

/* ---- session_gpu.c ---- */

static inline cuda_addr on_gpu(const void *data) { return (cuda_addr)(uintptr_t)data; }

/* Bytes of the device's memory beside those of session_need. */
uint64_t session_gpu_bytes(const struct model *m, const struct session_need *need);

bool session_gpu_open(struct session *s, struct err *e);
void session_gpu_close(struct session *s);

/* Launches from … to, for sizes[RUN_TOK] tokens: one copy in, and no wait unless they are checked or timed. */
bool session_gpu_run(struct session *s, size_t from, size_t to, struct err *e);

/* All launches for one token and the choice of the next: one copy in, one graph, one copy out, one wait. */
bool session_gpu_step(struct session *s, struct err *e);

/* The results, computed and copied where that has not been done: best and best_value, the k largest logits and their
 * ids, the token drawn as `how` says and the largest logit, all logits. */
bool session_gpu_argmax(struct session *s, struct err *e);
bool session_gpu_draw(struct session *s, const struct sample_draw *how, int32_t *token, float *largest, struct err *e);
bool session_gpu_top_k(struct session *s, const float **logits, const float **tokens, struct err *e);
bool session_gpu_logits(struct session *s, struct err *e);

/* How the token after the next evaluation will be drawn. */
void session_gpu_next_draw(struct session *s, const struct sample_draw *how);

#endif
