/* A session's part for GPUs: what is copied, launched and waited for. */
#include "runtime/session_impl.h"

#include <string.h>

#include "runtime/check.h"

enum {
    MAX_CHOICE_ARGS = 5,
    ONE_BYTES = 8, /* a token and a logit */
    ALIGN = 64,    /* of what kernels read */
};

/* Where kernel k (model.kernels) finds its sizes. */
static uint64_t dims_at(size_t k) {
    return k * N_RUN_DIMS * sizeof(int64_t);
}

/* ---- memory ---- */

/* Of ids and ranks: as long as the first round is. */
static uint64_t round_bytes(const struct model *m) {
    return (uint64_t)m->rounds[0].n * sizeof(float);
}

/* The rounds of a selection: ranks, then values and ids that the rounds keep, by turns in two places. */
static uint64_t kept_bytes(const struct model *m) {
    return m->n_rounds > 1 ? (uint64_t)(m->rounds[0].groups * m->top_k) * sizeof(float) : 0;
}

static uint64_t aligned(uint64_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Of the choices on the device: the k largest logits, their ids, and the one token chosen. */
static uint64_t top_ids_at(const struct model *m) {
    return aligned((uint64_t)m->top_k * sizeof(float));
}

static uint64_t one_at(const struct model *m) {
    return 2 * top_ids_at(m);
}

uint64_t session_gpu_bytes(const struct model *m, const struct session_need *need) {
    uint64_t input = dims_at(m->first_pack) + (uint64_t)need->n_pages * 4 + (uint64_t)need->batch * 4 + sizeof(struct sample_draw) + 3 * ALIGN;
    return input + (m->top_k ? 2 * round_bytes(m) : 0) + 4 * kept_bytes(m) + one_at(m) + ONE_BYTES + ALIGN;
}

static bool open_choice(struct session *s, struct err *e) {
    const struct model *m = s->m;
    struct gpu_choice *c = &s->choice;
    c->host = mem_new(one_at(m) + ONE_BYTES);
    if (!cuda_alloc(m->gpu, one_at(m) + ONE_BYTES, &c->device, e)) return false;
    if (!m->top_k) return true;
    uint64_t n = (uint64_t)m->rounds[0].n;
    float *ids = mem_try(n, sizeof *ids);
    if (!ids) return err_set(e, ERR_MEMORY, "no memory for the ids of %llu tokens", (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++) ids[i] = (float)i;
    bool ok = cuda_alloc(m->gpu, round_bytes(m), &c->ids, e) && cuda_upload(m->gpu, c->ids, ids, n * sizeof *ids, e) &&
              cuda_alloc(m->gpu, round_bytes(m) + 4 * kept_bytes(m), &c->scratch, e) &&
              /* The first round reads past a row of logits. */
              cuda_fill(m->gpu, on_gpu(s->head.data), 0, s->head.bytes, e);
    mem_free(ids);
    return ok;
}

bool session_gpu_open(struct session *s, struct err *e) {
    const struct model *m = s->m;
    struct gpu_input *in = &s->input;
    in->draw_at = aligned(dims_at(m->first_pack));
    in->pages_at = in->draw_at + sizeof(struct sample_draw);
    in->ids_at = aligned(in->pages_at + (uint64_t)s->n_pages * sizeof *s->pages);
    uint64_t bytes = in->ids_at + (uint64_t)s->batch * sizeof *s->ids;
    in->host = mem_new(bytes);
    /* Keys past the last are masked, but multiplied by zero: they must be numbers. */
    return cuda_alloc(m->gpu, bytes, &in->device, e) && open_choice(s, e) &&
           cuda_fill(m->gpu, on_gpu(s->caches.data), 0, s->caches.bytes, e);
}

void session_gpu_close(struct session *s) {
    struct cuda *gpu = s->m->gpu;
    cuda_graph_free(gpu, s->step);
    cuda_free(gpu, s->input.device);
    cuda_free(gpu, s->choice.device);
    cuda_free(gpu, s->choice.scratch);
    cuda_free(gpu, s->choice.ids);
    mem_free(s->input.host);
    mem_free(s->choice.host);
    mem_free(s->logits);
}

/* ---- launches ---- */

static bool launch(struct session *s, size_t k, void *const *args, struct err *e) {
    struct cuda_launch l = {.args = (const cuda_addr *)args,
                            .sizes = s->sizes,
                            .dims = s->input.device + dims_at(k),
                            .ws = on_gpu(s->ws.data)};
    return cuda_launch(s->m->gpu, s->m->loaded[k], &l, e);
}

/* The model's i-th launch. */
static bool launch_nth(struct session *s, size_t i, void *const *args, struct err *e) {
    const struct model *m = s->m;
    return launch(s, (size_t)(launch_kernel(m, &m->launches[i], s->sizes[RUN_TOK]) - m->kernels), args, e);
}

/* Of launches that are checked or timed, one by one. */
static bool launch_alone(struct session *s, size_t i, void *const *args, struct err *e) {
    if (s->check && !check_reference(s->check, i, args, e)) return false;
    double start = now_s();
    if (!launch_nth(s, i, args, e) || !cuda_sync(s->m->gpu, e)) return false;
    if (s->profile) session_profile_add(s, i, start);
    return !s->check || check_compare(s->check, i, args, e);
}

static bool launch_range(struct session *s, size_t from, size_t to, struct err *e) {
    for (size_t i = from; i < to; i++) {
        void *const *args = s->args + s->first_arg[i];
        if (!(s->check || s->profile ? launch_alone : launch_nth)(s, i, args, e)) return false;
    }
    return true;
}

static bool upload_input(struct session *s, struct err *e) {
    const struct model *m = s->m;
    struct gpu_input *in = &s->input;
    uint64_t ids = (uint64_t)(s->sizes[RUN_KEY] - s->sizes[RUN_POS]) * sizeof *s->ids;
    for (size_t k = 0; k < m->first_pack; k++) cuda_dims(&m->kernels[k], s->sizes, (int64_t *)(in->host + dims_at(k)));
    memcpy(in->host + in->draw_at, &s->choice.draw, sizeof s->choice.draw);
    memcpy(in->host + in->pages_at, s->pages, (size_t)s->n_pages * sizeof *s->pages);
    memcpy(in->host + in->ids_at, s->ids, ids);
    return cuda_upload(m->gpu, in->device, in->host, in->ids_at + ids, e);
}

/* ---- the choice ---- */

static bool launch_argmax(struct session *s, struct err *e) {
    cuda_addr to = s->choice.device + one_at(s->m);
    cuda_addr args[] = {on_gpu(session_logits_at(s)), to, to + sizeof s->best};
    return launch(s, s->m->n_plan_kernels, (void *const *)args, e);
}

static bool launch_top_k(struct session *s, struct err *e) {
    const struct model *m = s->m;
    const struct gpu_choice *c = &s->choice;
    uint64_t kept = kept_bytes(m);
    cuda_addr rank = c->scratch, v = on_gpu(session_logits_at(s)), id = c->ids;
    for (size_t r = 0; r < m->n_rounds; r++) {
        cuda_addr half = c->scratch + round_bytes(m) + (r % 2) * 2 * kept;
        bool last = r + 1 == m->n_rounds;
        cuda_addr to_v = last ? c->device : half;
        cuda_addr to_id = last ? c->device + top_ids_at(m) : half + kept;
        cuda_addr args[MAX_CHOICE_ARGS] = {v, id, rank};
        if (!launch(s, m->n_plan_kernels + 1 + 2 * r, (void *const *)args, e)) return false;
        args[3] = to_v;
        args[4] = to_id;
        if (!launch(s, m->n_plan_kernels + 2 + 2 * r, (void *const *)args, e)) return false;
        v = to_v;
        id = to_id;
    }
    return true;
}

static bool launch_draw(struct session *s, struct err *e) {
    const struct model *m = s->m;
    cuda_addr v = s->choice.device, to = v + one_at(m);
    cuda_addr args[] = {v, v + top_ids_at(m), s->input.device + s->input.draw_at, to, to + sizeof(float)};
    return launch(s, m->first_pack - 1, (void *const *)args, e);
}

static bool launch_choice(struct session *s, enum gpu_choice_kind kind, struct err *e) {
    struct gpu_choice *c = &s->choice;
    if (kind == CHOICE_ARGMAX) return launch_argmax(s, e);
    c->selected = c->selected || launch_top_k(s, e);
    return c->selected && (kind == CHOICE_TOP_K || launch_draw(s, e));
}

static bool download_choice(struct session *s, enum gpu_choice_kind kind, struct err *e) {
    struct gpu_choice *c = &s->choice;
    uint64_t at = kind == CHOICE_TOP_K ? 0 : one_at(s->m), end = kind == CHOICE_TOP_K ? one_at(s->m) : at + ONE_BYTES;
    if (!cuda_download(s->m->gpu, c->host + at, c->device + at, end - at, e)) return false;
    c->known = kind;
    return true;
}

/* Other logits than the last. */
static void forget_choice(struct session *s) {
    s->choice.known = CHOICE_NONE;
    s->choice.selected = false;
    s->logits_here = false;
}

bool session_gpu_run(struct session *s, size_t from, size_t to, struct err *e) {
    forget_choice(s);
    return upload_input(s, e) && launch_range(s, from, to, e);
}

/* What will be asked for: what was last time. */
static enum gpu_choice_kind likely_choice(const struct session *s) {
    return !s->m->top_k ? CHOICE_ARGMAX : s->choice.draws ? CHOICE_DRAW : CHOICE_TOP_K;
}

static bool record_step(struct session *s, enum gpu_choice_kind kind, struct err *e) {
    const struct model *m = s->m;
    struct err why;
    struct cuda_graph *g;
    cuda_graph_free(m->gpu, s->step);
    s->step = NULL;
    forget_choice(s);
    if (!cuda_capture_begin(m->gpu, e)) return false;
    bool launched = launch_range(s, m->n_launches, m->n_all_launches, &why) && launch_choice(s, kind, &why);
    if (cuda_capture_end(m->gpu, &g, e) && launched)
        s->step = g;
    else
        cuda_graph_free(m->gpu, g);
    if (!launched) *e = why;
    s->step_choice = kind;
    return s->step != NULL;
}

/* The launches find sizes and addresses where the first token's did: nothing is recorded twice, unless another kind of choice
 * is asked for. */
bool session_gpu_step(struct session *s, struct err *e) {
    enum gpu_choice_kind kind = likely_choice(s);
    s->sizes[RUN_TOK] = 1;
    s->logits_row = 0;
    if (!(s->step && s->step_choice == kind) && !record_step(s, kind, e)) return false;
    forget_choice(s);
    if (!upload_input(s, e) || !cuda_graph_launch(s->m->gpu, s->step, e)) return false;
    s->choice.selected = kind != CHOICE_ARGMAX;
    return download_choice(s, kind, e);
}

/* Of the logits evaluated last. */
static bool choose(struct session *s, enum gpu_choice_kind kind, struct err *e) {
    return s->choice.known == kind || (upload_input(s, e) && launch_choice(s, kind, e) && download_choice(s, kind, e));
}

bool session_gpu_argmax(struct session *s, struct err *e) {
    if (!choose(s, CHOICE_ARGMAX, e)) return false;
    const uint8_t *one = s->choice.host + one_at(s->m);
    memcpy(&s->best, one, sizeof s->best);
    memcpy(&s->best_value, one + sizeof s->best, sizeof s->best_value);
    return true;
}

bool session_gpu_top_k(struct session *s, const float **logits, const float **tokens, struct err *e) {
    *logits = (const float *)(const void *)s->choice.host;
    *tokens = (const float *)(const void *)(s->choice.host + top_ids_at(s->m));
    return choose(s, CHOICE_TOP_K, e);
}

bool session_gpu_draw(struct session *s, const struct sample_draw *how, int32_t *token, float *largest, struct err *e) {
    struct gpu_choice *c = &s->choice;
    float drawn[2];
    if (c->known == CHOICE_DRAW && memcmp(&c->draw, how, sizeof *how) != 0) c->known = CHOICE_NONE;
    c->draw = *how;
    if (!choose(s, CHOICE_DRAW, e)) return false;
    memcpy(drawn, c->host + one_at(s->m), sizeof drawn);
    *token = (int32_t)drawn[0];
    *largest = drawn[1];
    return true;
}

void session_gpu_next_draw(struct session *s, const struct sample_draw *how) {
    s->choice.draw = *how;
    s->choice.known = CHOICE_NONE;
}

bool session_gpu_logits(struct session *s, struct err *e) {
    uint64_t n = (uint64_t)s->n_logits * (uint64_t)s->m->n_vocab;
    int64_t row = s->logits_row;
    if (s->logits_here) return true;
    if (!s->logits) s->logits = mem_try((size_t)s->m->n_vocab, HEAD_BATCH * sizeof *s->logits);
    if (!s->logits) return err_set(e, ERR_MEMORY, "no memory for logits");
    s->logits_row = 0;
    s->logits_here = cuda_download(s->m->gpu, s->logits, on_gpu(session_logits_at(s)), n * sizeof *s->logits, e);
    s->logits_row = row;
    return s->logits_here;
}
