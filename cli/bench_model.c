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

/* Between two looks at what the machine can do, while tokens are generated. */
static const double SLICE_S = 0.3;

/* One measured thing. */
struct series {
    int64_t n, step; /* tokens, as many of them at a time; 0: a prompt, all at once */
    double *speeds;  /* tokens a second, [repeats] */
    double *peaks;   /* what that is held against, measured before, during and after each: [repeats] */
};

struct bench {
    const struct bench_options *options;
    struct profile profiles[N_PROFILES];
    char titles[N_PROFILES][64];
    struct model *model;
    struct session *session;
    struct peaks_meter *meter; /* NULL on a GPU, whose peaks stay as they are */
    struct peaks peaks;
    struct ref_rng rng;
    int32_t *ids; /* [the longest of all] */
    struct series prompt, generation, *prompts, *batches;
    size_t n_prompts, n_batches;
};

/* What a series is held against: products of a prompt's tokens, memory where tokens are generated. */
static double peak_of(const struct bench *b, bool products) {
    const char *unused;
    return products ? peaks_products(&b->peaks, b->options->engine.act == ACT_Q8, &unused) : b->peaks.read_bytes_per_s;
}

static double peak_now(const struct bench *b, bool products) {
    if (!b->meter) return peak_of(b, products);
    return products ? peaks_products_now(b->meter, b->options->engine.act == ACT_Q8) : peaks_read_now(b->meter);
}

/* A time that is stopped while the peak is measured, and the peak's mean over that time. */
struct timed {
    const struct bench *bench;
    bool products;
    double start, peak; /* of this slice */
    double seconds, peak_seconds;
};

static void timed_begin(struct timed *t) {
    t->peak = peak_now(t->bench, t->products);
    t->start = now_s();
}

static void timed_slice(struct timed *t, double least) {
    double seconds = now_s() - t->start, before = t->peak;
    if (seconds < least) return;
    timed_begin(t);
    t->seconds += seconds;
    t->peak_seconds += seconds * (before + t->peak) / 2;
}

/* Appends n random tokens, `step` at a time (0: all at once, with the logits of the last alone), and chooses the token
 * after them. t may be NULL. */
static bool append(struct bench *b, int64_t n, int64_t step, struct timed *t, struct err *e) {
    int32_t next;
    for (int64_t i = 0; i < n; i++) b->ids[i] = (int32_t)ref_rng_below(&b->rng, (uint64_t)b->model->n_vocab);
    if (t) timed_begin(t);
    bool ok = step > 0 || session_eval(b->session, b->ids, (size_t)n, 1, NULL, NULL, e);
    for (int64_t i = 0; step > 0 && i < n && ok; i += step) {
        size_t count = (size_t)(n - i < step ? n - i : step);
        ok = session_eval(b->session, b->ids + i, count, count, NULL, NULL, e);
        if (t && i + step < n) timed_slice(t, SLICE_S);
    }
    ok = ok && session_argmax(b->session, &next, e);
    if (t) timed_slice(t, 0);
    return ok;
}

/* n tokens after -d others. */
static bool timed(struct bench *b, int64_t n, int64_t step, double *speed, double *peak, struct err *e) {
    struct timed t = {.bench = b, .products = step == 0};
    session_rewind(b->session, 0);
    if (b->options->depth && !append(b, b->options->depth, 0, NULL, e)) return false;
    if (!append(b, n, step, &t, e)) return false;
    *speed = (double)n / t.seconds;
    *peak = t.peak_seconds / t.seconds;
    return true;
}

static bool measure(struct bench *b, struct series *s, int64_t n, struct progress *progress, struct err *e) {
    double warm_up;
    if (n == 0) return true;
    if (!timed(b, s->step > 0 && s->step < n ? s->step : n, s->step, &warm_up, &warm_up, e)) return false;
    for (int64_t i = 0; i < b->options->repeats; i++) {
        if (!timed(b, n, s->step, &s->speeds[i], &s->peaks[i], e)) return false;
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
    if (!measure(b, &b->prompt, b->prompt.n, progress, e)) return false;
    for (size_t i = 0; i < b->n_prompts; i++)
        if (!measure(b, &b->prompts[i], b->prompts[i].n, progress, e)) return false;
    if (!measure(b, &b->generation, b->generation.n, progress, e)) return false;
    for (size_t i = 0; i < b->n_batches; i++)
        if (!measure(b, &b->batches[i], batch_tokens(b, b->batches[i].step), progress, e)) return false;
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

static struct series series_new(int64_t n, int64_t step, int64_t repeats, struct arena *a) {
    double *numbers = arena_new(a, (size_t)repeats * 2 * sizeof *numbers);
    return (struct series){n, step, numbers, numbers + repeats};
}

/* "128,512" to series; *longest grows to the longest. */
static bool read_series(const char *option, const char *text, bool batches, int64_t repeats, struct arena *a,
                        struct series **out, size_t *n, int64_t *longest, struct err *e) {
    int32_t *list = NULL;
    if (!text) return true;
    if (!ids_parse(option, text, a, &list, n, e)) return false;
    *out = arena_new(a, *n * sizeof **out);
    for (size_t i = 0; i < *n; i++) {
        if (list[i] == 0) return err_set(e, ERR_USAGE, "%s %s: 0 tokens are nothing to measure", option, text);
        (*out)[i] = series_new(list[i], batches ? list[i] : 0, repeats, a);
        if (list[i] > *longest) *longest = list[i];
    }
    return true;
}

static json_t *list_json(const double *x, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_real(x[i]));
    return list;
}

/* [{"tokens", "tok_s", "peak", "ms"}]: of prompts the time to the first token, of batches the time of a step. */
static json_t *series_json(const struct series *s, size_t n, int64_t repeats) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *speeds = list_json(s[i].speeds, repeats), *peaks = list_json(s[i].peaks, repeats);
        double middle = median(s[i].speeds, (size_t)repeats);
        json_array_append_new(list, json_pack("{s:I, s:o, s:o, s:f}", "tokens", (json_int_t)s[i].n, "tok_s", speeds,
                                              "peak", peaks, "ms", (double)s[i].n / middle * 1e3));
    }
    return list;
}

/* `used`: what a token takes of the peak. */
static void print_series(const struct bench *b, const char *name, const struct series *s, const char *what,
                         double used) {
    size_t n = (size_t)b->options->repeats;
    if (s->n == 0) return;
    double low = s->speeds[0], high = s->speeds[0], *parts = mem_new(n * sizeof *parts);
    for (size_t i = 0; i < n; i++) {
        parts[i] = s->speeds[i] * used / s->peaks[i];
        if (s->speeds[i] < low) low = s->speeds[i];
        if (s->speeds[i] > high) high = s->speeds[i];
    }
    double middle = median(s->speeds, n);
    printf("%s%-5lld %9.1f tok/s (%.1f … %.1f)  %8.1f %s, %.0f %% of %.1f\n", name, (long long)s->n, middle, low, high,
           used * middle / 1e9, what, 100 * median(parts, n), median(s->peaks, n) / 1e9);
    mem_free(parts);
}

static bool report(struct bench *b, struct err *e) {
    const struct bench_options *o = b->options;
    const struct model *m = b->model;
    uint64_t bytes;
    double ops;
    token_cost(m, &bytes, &ops);
    bool q8 = o->engine.act == ACT_Q8;
    int64_t n_pp = o->prompt ? o->repeats : 0, n_tg = o->generate ? o->repeats : 0;
    if (o->report.json) {
        json_t *result = json_pack(
            "{s:o, s:o, s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:f, s:o}", "pp", list_json(b->prompt.speeds, n_pp),
            "pp_peak", list_json(b->prompt.peaks, n_pp), "tg", list_json(b->generation.speeds, n_tg), "tg_peak",
            list_json(b->generation.peaks, n_tg), "act", q8 ? "q8" : "f32", "prompt", (json_int_t)o->prompt, "generate",
            (json_int_t)o->generate, "depth", (json_int_t)o->depth, "bytes_per_token", (json_int_t)bytes,
            "ops_per_token", ops, "peaks", peaks_json(&b->peaks));
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
    peaks_products(&b->peaks, q8, &kind);
    snprintf(unit, sizeof unit, "%s Gop/s", kind);
    print_series(b, "pp", &b->prompt, unit, ops);
    for (size_t i = 0; i < b->n_prompts; i++) print_series(b, "pp", &b->prompts[i], unit, ops);
    print_series(b, "tg", &b->generation, "GB/s", (double)bytes);
    for (size_t i = 0; i < b->n_batches; i++)
        print_series(b, "b", &b->batches[i], "GB/s", (double)bytes / (double)b->batches[i].n);
    return true;
}

/* Times each launch of n tokens. The costs of single tokens are those of the middle one. */
static bool profiled(struct bench *b, int which, int64_t n, struct err *e) {
    struct profile *p = &b->profiles[which];
    int64_t step = which == PROFILE_TOKENS;
    if (n == 0) return true;
    snprintf(b->titles[which], sizeof b->titles[which], step ? "one token (%lld of them)" : "a prompt of %lld tokens",
             (long long)n);
    session_rewind(b->session, 0);
    if (b->options->depth && !append(b, b->options->depth, 0, NULL, e)) return false;
    profile_begin(p, b->model, b->session);
    bool ok = append(b, n, step, NULL, e);
    profile_end(p);
    if (!ok) return false;
    int64_t tok = n / (int64_t)p->times.n_evals;
    return profile_costs(p, tok, b->options->depth + (n - tok) / 2, &b->peaks, e);
}

static bool profile_all(struct bench *b, struct err *e) {
    const struct bench_options *o = b->options;
    if (!profiled(b, PROFILE_PROMPT, o->prompt, e) || !profiled(b, PROFILE_TOKENS, o->generate, e)) return false;
    for (int i = 0; i < N_PROFILES && !o->report.json; i++) profile_print(&b->profiles[i], b->titles[i], stderr);
    return !o->svg || roofline_write(b->profiles, N_PROFILES, &b->peaks, o->svg, e);
}

/* A GPU is nobody else's, and its peaks are measured once. */
static bool measure_peaks(struct bench *b, struct err *e) {
    const struct model *m = b->model;
    if (m->gpu) return peaks_cuda(m->gpu, &b->peaks, e);
    if (!b->meter && !peaks_open(m->pool, &m->compiler.target, m->bundle, &b->meter, e)) return false;
    peaks_measure(b->meter, &b->peaks);
    return true;
}

static bool measure_model(const struct bench_options *o, struct err *e) {
    struct arena arena = {0};
    struct bench b = {.options = o, .rng = {.seed = 1}};
    int64_t longest = o->prompt > o->generate ? o->prompt : o->generate;
    b.prompt = series_new(o->prompt, 0, o->repeats, &arena);
    b.generation = series_new(o->generate, 1, o->repeats, &arena);
    bool ok = read_series("--prompts", o->prompts, false, o->repeats, &arena, &b.prompts, &b.n_prompts, &longest, e) &&
              read_series("--batches", o->batches, true, o->repeats, &arena, &b.batches, &b.n_batches, &longest, e);
    int64_t context = o->engine.context ? o->engine.context : o->depth + longest;
    int64_t most = longest > context ? longest : context; /* tokens in ids: a batch's steps go on while there is room */
    b.ids = mem_new((size_t)most * sizeof *b.ids);
    struct progress progress = {0};
    ok = ok && engine_open(&o->engine, context, 0, &b.model, e) && session_open(b.model, context, &b.session, e);
    progress_begin(&progress, "bench");
    ok = ok && measure_peaks(&b, e) && measure_series(&b, &progress, e) && (b.model->gpu || measure_peaks(&b, e));
    progress_end(&progress);
    if (o->engine.profile || o->svg) ok = ok && profile_all(&b, e);
    ok = ok && report(&b, e);
    for (int i = 0; i < N_PROFILES; i++) profile_free(&b.profiles[i]);
    peaks_close(b.meter);
    arena_free(&arena);
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
