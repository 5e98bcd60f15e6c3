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

/* One measured thing: a prompt of n tokens, or generation n tokens at a time. */
struct series {
    int64_t n;
    double *speeds; /* tokens a second, [repeats] */
};

struct bench {
    const struct bench_options *options;
    struct profile profiles[N_PROFILES];
    char titles[N_PROFILES][64];
    struct model *model;
    struct session *session;
    struct ref_rng rng;
    int32_t *ids; /* [the longest of all] */
    struct series *prompts, *batches;
    size_t n_prompts, n_batches;
};

/* Appends n random tokens, `step` at a time (0: all at once, with the logits of the last alone), and chooses the token
 * after them. */
static bool append(struct bench *b, int64_t n, int64_t step, struct err *e) {
    int32_t next;
    for (int64_t i = 0; i < n; i++) b->ids[i] = (int32_t)ref_rng_below(&b->rng, (uint64_t)b->model->n_vocab);
    bool ok = step > 0 || session_eval(b->session, b->ids, (size_t)n, 1, NULL, NULL, e);
    for (int64_t i = 0; step > 0 && i < n && ok; i += step) {
        size_t count = (size_t)(n - i < step ? n - i : step);
        ok = session_eval(b->session, b->ids + i, count, count, NULL, NULL, e);
    }
    return ok && session_argmax(b->session, &next, e);
}

/* Tokens a second of n tokens after -d others. */
static bool timed(struct bench *b, int64_t n, int64_t step, double *speed, struct err *e) {
    session_rewind(b->session, 0);
    if (b->options->depth && !append(b, b->options->depth, 0, e)) return false;
    double start = now_s();
    if (!append(b, n, step, e)) return false;
    *speed = (double)n / (now_s() - start);
    return true;
}

static bool measure(struct bench *b, int64_t n, int64_t step, double *speeds, struct progress *progress,
                    struct err *e) {
    double warm_up;
    if (n == 0) return true;
    if (!timed(b, step > 0 && step < n ? step : n, step, &warm_up, e)) return false;
    for (int64_t i = 0; i < b->options->repeats; i++) {
        if (!timed(b, n, step, &speeds[i], e)) return false;
        progress_update(progress, (double)(i + 1) / (double)b->options->repeats);
    }
    return true;
}

/* As many steps of a batch as -n says and the context holds. */
static int64_t batch_tokens(const struct bench *b, int64_t step) {
    int64_t room = session_n_ctx(b->session) - b->options->depth,
            steps = b->options->generate ? b->options->generate : 32;
    return steps * step <= room ? steps * step : room / step * step;
}

static bool measure_series(struct bench *b, struct progress *progress, struct err *e) {
    for (size_t i = 0; i < b->n_prompts; i++)
        if (!measure(b, b->prompts[i].n, 0, b->prompts[i].speeds, progress, e)) return false;
    for (size_t i = 0; i < b->n_batches; i++) {
        struct series *s = &b->batches[i];
        if (!measure(b, batch_tokens(b, s->n), s->n, s->speeds, progress, e)) return false;
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

/* "128,512" to series; *longest grows to the longest. */
static bool read_series(const char *option, const char *text, int64_t repeats, struct arena *a, struct series **out,
                        size_t *n, int64_t *longest, struct err *e) {
    int32_t *list = NULL;
    if (!text) return true;
    if (!ids_parse(option, text, a, &list, n, e)) return false;
    *out = arena_new(a, *n * sizeof **out);
    for (size_t i = 0; i < *n; i++) {
        if (list[i] == 0) return err_set(e, ERR_USAGE, "%s %s: 0 tokens are nothing to measure", option, text);
        (*out)[i] = (struct series){list[i], arena_new(a, (size_t)repeats * sizeof(double))};
        if (list[i] > *longest) *longest = list[i];
    }
    return true;
}

static json_t *list_json(const double *x, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_real(x[i]));
    return list;
}

/* [{"tokens", "tok_s", "ms"}]: of prompts the time to the first token, of batches the time of a step. */
static json_t *series_json(const struct series *s, size_t n, int64_t repeats) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *speeds = list_json(s[i].speeds, repeats);
        double middle = median(s[i].speeds, (size_t)repeats);
        json_array_append_new(list, json_pack("{s:I, s:o, s:f}", "tokens", (json_int_t)s[i].n, "tok_s", speeds, "ms",
                                              (double)s[i].n / middle * 1e3));
    }
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
        if (b->n_prompts) json_object_set_new(result, "prompts", series_json(b->prompts, b->n_prompts, o->repeats));
        if (b->n_batches) json_object_set_new(result, "batches", series_json(b->batches, b->n_batches, o->repeats));
        if (m->gpu) json_object_set_new(result, "device", json_string(cuda_name(m->gpu)));
        return json_print(result, e);
    }
    const char *kind;
    char unit[32];
    double peak = peaks_products(peaks, q8, &kind);
    snprintf(unit, sizeof unit, "%s Gop/s", kind);
    if (n_pp) print_line("pp", o->prompt, pp, n_pp, unit, ops, peak, 1e9);
    for (size_t i = 0; i < b->n_prompts; i++)
        print_line("pp", b->prompts[i].n, b->prompts[i].speeds, o->repeats, unit, ops, peak, 1e9);
    if (n_tg) print_line("tg", o->generate, tg, n_tg, "GB/s", (double)bytes, peaks->read_bytes_per_s, 1e9);
    for (size_t i = 0; i < b->n_batches; i++)
        print_line("b", b->batches[i].n, b->batches[i].speeds, o->repeats, "GB/s",
                   (double)bytes / (double)b->batches[i].n, peaks->read_bytes_per_s, 1e9);
    return true;
}

/* Times each launch of n tokens. The costs of single tokens are those of the middle one. */
static bool profiled(struct bench *b, int which, int64_t n, const struct peaks *peaks, struct err *e) {
    struct profile *p = &b->profiles[which];
    int64_t step = which == PROFILE_TOKENS;
    if (n == 0) return true;
    snprintf(b->titles[which], sizeof b->titles[which], step ? "one token (%lld of them)" : "a prompt of %lld tokens",
             (long long)n);
    session_rewind(b->session, 0);
    if (b->options->depth && !append(b, b->options->depth, 0, e)) return false;
    profile_begin(p, b->model, b->session);
    bool ok = append(b, n, step, e);
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

static bool measure_peaks(const struct bench *b, struct peaks *p, struct err *e) {
    const struct model *m = b->model;
    return m->gpu ? peaks_cuda(m->gpu, p, e) : peaks_measure(m->pool, &m->compiler.target, m->bundle, p, e);
}

static bool measure_model(const struct bench_options *o, struct err *e) {
    struct arena arena = {0};
    struct bench b = {.options = o, .rng = {.seed = 1}};
    struct peaks peaks = {0};
    int64_t longest = o->prompt > o->generate ? o->prompt : o->generate;
    bool ok = read_series("--prompts", o->prompts, o->repeats, &arena, &b.prompts, &b.n_prompts, &longest, e) &&
              read_series("--batches", o->batches, o->repeats, &arena, &b.batches, &b.n_batches, &longest, e);
    int64_t context = o->engine.context ? o->engine.context : o->depth + longest;
    int64_t most = longest > context ? longest : context; /* tokens in ids: a batch's steps go on while there is room */
    double *speeds = mem_new((size_t)o->repeats * 2 * sizeof *speeds), *pp = speeds, *tg = speeds + o->repeats;
    b.ids = mem_new((size_t)most * sizeof *b.ids);
    struct progress progress = {0};
    ok = ok && engine_open(&o->engine, context, 0, &b.model, e) && session_open(b.model, context, &b.session, e);
    progress_begin(&progress, "bench");
    ok = ok && measure_peaks(&b, &peaks, e) && measure(&b, o->prompt, 0, pp, &progress, e) &&
         measure(&b, o->generate, 1, tg, &progress, e) && measure_series(&b, &progress, e) &&
         measure_peaks(&b, &peaks, e);
    progress_end(&progress);
    if (o->engine.profile || o->svg) ok = ok && profile_all(&b, &peaks, e);
    ok = ok && report(&b, pp, tg, &peaks, e);
    for (int i = 0; i < N_PROFILES; i++) profile_free(&b.profiles[i]);
    arena_free(&arena);
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
    if (ok && (o->prompt || o->generate || o->prompts || o->batches)) ok = measure_model(&with, e);
    synth_close(&synth);
    return ok;
}
