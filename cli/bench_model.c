/* bench_model: tokens per second of a model, as llama-bench measures them. */
#include "cli/bench.h"
#include "cli/engine.h"
#include "cli/peaks.h"
#include "cli/profile.h"
#include "runtime/synth.h"
#include "verify/ref_rng.h"

#include <string.h>

/* What --profile looks at. */
enum { PROFILE_PROMPT, PROFILE_TOKENS, N_PROFILES };

struct bench {
    const struct bench_options *options;
    struct profile profiles[N_PROFILES];
    char titles[N_PROFILES][64];
    struct model *model;
    struct session *session;
    struct ref_rng rng;
    int32_t *ids; /* [the longest batch] */
};

/* Appends n random tokens: in one batch, or one by one. */
static bool append(struct bench *b, int64_t n, bool one_by_one, struct err *e) {
    for (int64_t i = 0; i < n; i++) b->ids[i] = (int32_t)ref_rng_below(&b->rng, (uint64_t)b->model->n_vocab);
    if (!one_by_one) return session_eval(b->session, b->ids, (size_t)n, 1, NULL, NULL, e);
    for (int64_t i = 0; i < n; i++)
        if (!session_eval(b->session, b->ids + i, 1, 1, NULL, NULL, e)) return false;
    return true;
}

/* Tokens a second of n tokens after -d others. */
static bool timed(struct bench *b, int64_t n, bool one_by_one, double *speed, struct err *e) {
    session_rewind(b->session, 0);
    if (b->options->depth && !append(b, b->options->depth, false, e)) return false;
    double start = now_s();
    if (!append(b, n, one_by_one, e)) return false;
    *speed = (double)n / (now_s() - start);
    return true;
}

static bool measure(struct bench *b, int64_t n, bool one_by_one, double *speeds, struct progress *progress,
                    struct err *e) {
    double warm_up;
    if (n == 0) return true;
    if (!timed(b, one_by_one ? 1 : n, one_by_one, &warm_up, e)) return false;
    for (int64_t i = 0; i < b->options->repeats; i++) {
        if (!timed(b, n, one_by_one, &speeds[i], e)) return false;
        progress_update(progress, (double)(i + 1) / (double)b->options->repeats);
    }
    return true;
}

/* What one token reads and computes, attention aside. */
static void token_cost(const struct model *m, uint64_t *bytes, double *ops) {
    *bytes = 0;
    *ops = 0;
    for (size_t i = 0; i < m->n_launches; i++) {
        const struct launch *l = &m->launches[i];
        bool looks_up = false;
        *bytes += launch_weight_bytes(m, l);
        for (size_t k = 0; k < l->n_binding; k++) looks_up |= l->binding[k] == m->ids;
        for (size_t k = 0; k < l->n_binding && !looks_up; k++) {
            const struct tensor *t = &m->tensors[l->binding[k]];
            /* A prompt's logits are wanted of its last token alone. */
            if (t->kind == TENSOR_WEIGHT && t->n_dims == 2 && !l->head)
                *ops += 2.0 * (double)t->dims[0] * (double)t->dims[1];
        }
    }
}

static json_t *list_json(const double *x, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_real(x[i]));
    return list;
}

static void print_line(const char *name, int64_t n, double *speeds, int64_t repeats, const char *what, double used,
                       double peak, double unit) {
    double low = speeds[0], high = speeds[0];
    for (int64_t i = 0; i < repeats; i++) {
        if (speeds[i] < low) low = speeds[i];
        if (speeds[i] > high) high = speeds[i];
    }
    double middle = median(speeds, (size_t)repeats);
    printf("%s%-5lld %9.1f tok/s (%.1f … %.1f)  %8.1f %s, %.0f %% of %.1f\n", name, (long long)n, middle, low, high,
           used * middle / unit, what, 100 * used * middle / peak, peak / unit);
}

static bool report(struct bench *b, double *pp, double *tg, const struct peaks *peaks, struct err *e) {
    const struct bench_options *o = b->options;
    const struct model *m = b->model;
    uint64_t bytes;
    double ops;
    token_cost(m, &bytes, &ops);
    bool q8 = o->engine.act == ACT_Q8;
    int64_t n_pp = o->prompt ? o->repeats : 0, n_tg = o->generate ? o->repeats : 0;
    if (o->report.json) {
        json_t *result =
            json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:f, s:o}", "pp", list_json(pp, n_pp), "tg",
                      list_json(tg, n_tg), "act", q8 ? "q8" : "f32", "prompt", (json_int_t)o->prompt, "generate",
                      (json_int_t)o->generate, "depth", (json_int_t)o->depth, "bytes_per_token", (json_int_t)bytes,
                      "ops_per_token", ops, "peaks", peaks_json(peaks));
        json_t *model = engine_json(m);
        json_object_del(model, "peak_bytes"); /* measuring the memory's speed took most of it */
        json_object_update(result, model);
        json_decref(model);
        json_t *profiles = json_array();
        for (int i = 0; i < N_PROFILES; i++)
            if (b->profiles[i].model) json_array_append_new(profiles, profile_json(&b->profiles[i], b->titles[i]));
        if (json_array_size(profiles)) json_object_set(result, "profile", profiles);
        json_decref(profiles);
        return json_print(result, e);
    }
    if (n_pp)
        print_line("pp", o->prompt, pp, n_pp, q8 ? "int8 Gop/s" : "f32 Gop/s", ops,
                   q8 ? peaks->int8_ops_per_s : peaks->f32_ops_per_s, 1e9);
    if (n_tg) print_line("tg", o->generate, tg, n_tg, "GB/s", (double)bytes, peaks->read_bytes_per_s, 1e9);
    return true;
}

/* Times each launch of n tokens. The costs of single tokens are those of the middle one. */
static bool profiled(struct bench *b, int which, int64_t n, const struct peaks *peaks, struct err *e) {
    struct profile *p = &b->profiles[which];
    bool one_by_one = which == PROFILE_TOKENS;
    if (n == 0) return true;
    snprintf(b->titles[which], sizeof b->titles[which],
             one_by_one ? "one token (%lld of them)" : "a prompt of %lld tokens", (long long)n);
    session_rewind(b->session, 0);
    if (b->options->depth && !append(b, b->options->depth, false, e)) return false;
    profile_begin(p, b->model, b->session);
    bool ok = append(b, n, one_by_one, e);
    profile_end(p);
    if (!ok) return false;
    int64_t tok = n / (int64_t)p->times.n_evals;
    return profile_costs(p, tok, b->options->depth + (n - tok) / 2, peaks, e);
}

static bool profile_all(struct bench *b, const struct peaks *peaks, struct err *e) {
    const struct bench_options *o = b->options;
    if (!profiled(b, PROFILE_PROMPT, o->prompt, peaks, e) || !profiled(b, PROFILE_TOKENS, o->generate, peaks, e))
        return false;
    for (int i = 0; i < N_PROFILES && !o->report.json; i++) profile_print(&b->profiles[i], b->titles[i], stderr);
    return !o->svg || roofline_write(b->profiles, N_PROFILES, peaks, o->svg, e);
}

static bool measure_model(const struct bench_options *o, struct err *e) {
    struct bench b = {.options = o, .rng = {.seed = 1}};
    struct peaks peaks = {0};
    int64_t longest = o->prompt > o->generate ? o->prompt : o->generate;
    int64_t context = o->engine.context ? o->engine.context : o->depth + longest;
    double *speeds = mem_new((size_t)o->repeats * 2 * sizeof *speeds), *pp = speeds, *tg = speeds + o->repeats;
    b.ids = mem_new((size_t)(longest > o->depth ? longest : o->depth) * sizeof *b.ids);
    struct progress progress = {0};
    bool ok = engine_open(&o->engine, context, 0, &b.model, e) && session_open(b.model, context, &b.session, e);
    progress_begin(&progress, "bench");
    ok = ok && peaks_measure(b.model->pool, &b.model->compiler.target, b.model->bundle, &peaks, e) &&
         measure(&b, o->prompt, false, pp, &progress, e) && measure(&b, o->generate, true, tg, &progress, e) &&
         peaks_measure(b.model->pool, &b.model->compiler.target, b.model->bundle, &peaks, e);
    progress_end(&progress);
    if (o->engine.profile || o->svg) ok = ok && profile_all(&b, &peaks, e);
    ok = ok && report(&b, pp, tg, &peaks, e);
    for (int i = 0; i < N_PROFILES; i++) profile_free(&b.profiles[i]);
    mem_free(speeds);
    mem_free(b.ids);
    session_close(b.session);
    model_close(b.model);
    return ok;
}

bool bench_model(const struct bench_options *o, struct err *e) {
    if (!o->synthetic) return measure_model(o, e);
    struct synth synth;
    struct bench_options with = *o;
    bool ok = synth_open(o->synthetic, 1, &synth, e) && (!o->save || synth_save(&synth, o->save, e));
    with.engine.model = synth.path;
    if (ok && (o->prompt || o->generate)) ok = measure_model(&with, e);
    synth_close(&synth);
    return ok;
}
