/* tune_sweep: finds the fastest tunables of one kernel for one use.
 *
 * First the default, then each candidate in the order that the machine's limits predict (dsl/cost.lua): compiled in a
 * process of its own, compared with the default bit by bit, measured shortly, dropped over three times the best. The
 * sweep ends early once several in a row were no better than the best so far: what follows is expected to be worse.
 * Then the finalists and the default in alternation, since machines change speed while one measures; only what is then
 * faster than the default by its least time, and in most rounds, replaces it.
 */
#include "cli/kernel_case.h"
#include "cli/tune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 8, SHORT_REPEATS = 2, FINALISTS = 3, ROUNDS = 20, PART = 4, PATIENCE = 10 };
static const double SLOW = 3;      /* times the best of a launch: not measured further */
static const double CLEARLY = .98; /* of the default's time: noise is of this order */

/* A sweep at work. */
struct work {
    struct tuner *t;
    struct sweep *s;
    struct kernel_case cases[SWEEP_MAX_RUNS];
    struct kernel *kernels;          /* by candidate; zeroed where there is no code */
    int64_t repeats[SWEEP_MAX_RUNS]; /* launches in one measurement */
    size_t n_tried, n_since_best;
};

void tune_text(const json_t *tune, struct buf *out) {
    /* Sorted, as JSON_SORT_KEYS does. */
    char *text = json_dumps(tune, JSON_COMPACT | JSON_SORT_KEYS);
    bool first = true;
    for (const char *p = text; p && *p; p++) {
        if (strchr("{}\"", *p)) continue;
        char c = *p == ':' ? '=' : *p;
        buf_add(out, &c, 1);
        first = false;
    }
    if (first) buf_puts(out, "none");
    free(text);
}

void sweep_free(struct sweep *s) {
    for (size_t i = 0; i < s->n; i++) json_decref(s->candidates[i].tune);
    for (size_t i = 0; i < s->n_runs; i++) json_decref(s->runs[i]);
    mem_free(s->candidates);
    json_decref(s->spec);
    mem_free(s->name);
    mem_free(s->label);
    *s = (struct sweep){0};
}

static bool list_candidates(struct tuner *t, struct sweep *s, struct err *e) {
    json_t *runs = json_array(), *list = NULL;
    for (size_t r = 0; r < s->n_runs; r++) json_array_append(runs, s->runs[r]);
    json_t *arg = json_pack("{s:O, s:o, s:o, s:f}", "spec", s->spec, "target", compile_target(&t->target, false),
                            "runs", runs, "dots", t->peaks.int8_ops_per_s / (4 * t->peaks.f32_ops_per_s));
    bool ok = dsl_call(t->dsl, "candidates", arg, &list, e);
    json_decref(arg);
    size_t n = json_array_size(list);
    if (ok && n > 1) {
        s->candidates = mem_new(n * sizeof *s->candidates);
        s->n = n;
        for (size_t i = 0; i < n; i++) {
            const json_t *from = json_array_get(list, i), *slots = json_object_get(from, "slots");
            struct sweep_candidate *x = &s->candidates[i];
            x->tune = json_incref(json_object_get(from, "tune"));
            x->outcome = "untried";
            for (size_t r = 0; r < s->n_runs; r++) x->run_slots[r] = json_number_value(json_array_get(slots, r));
        }
    }
    json_decref(list);
    return ok;
}

/* Code for candidates [from, from + n). Together first; one by one where that failed, so that each fails for itself. */
static bool compile_batch(struct work *w, size_t from, size_t n, struct err *e) {
    struct compiler c = {.dsl = w->t->dsl, .target = w->t->target, .n_threads = pool_threads(w->t->pool)};
    json_t *specs[MAX_BATCH];
    for (size_t i = 0; i < n; i++) {
        specs[i] = json_copy(w->s->spec);
        json_object_set(specs[i], "tune", w->s->candidates[from + i].tune);
    }
    bool ok = compile_kernels(&c, (const json_t *const *)specs, NULL, n, w->kernels + from, e);
    for (size_t i = 0; i < n && !ok; i++) {
        const json_t *one = specs[i];
        if (!compile_kernels(&c, &one, NULL, 1, w->kernels + from + i, e))
            w->s->candidates[from + i].outcome = "failed";
    }
    for (size_t i = 0; i < n; i++) json_decref(specs[i]);
    /* Without the default there is nothing to compare with. */
    return ok || from > 0 || w->kernels[0].n_phases > 0;
}

static double geometric_mean(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += log(x[i]);
    return exp(sum / (double)n);
}

static double best_ms(const struct sweep *s, size_t run) {
    double best = INFINITY;
    for (size_t i = 0; i < s->n; i++)
        if (s->candidates[i].run_ms[run] > 0) best = fmin(best, s->candidates[i].run_ms[run]);
    return best;
}

/* The best so far, for the progress display. */
static void choose(struct sweep *s) {
    s->best = 0;
    for (size_t i = 1; i < s->n; i++) {
        const struct sweep_candidate *x = &s->candidates[i];
        if (x->ms > 0 && x->ms < CLEARLY * s->candidates[0].ms && x->ms < s->candidates[s->best].ms) s->best = i;
    }
}

static void show(const struct work *w) {
    const struct sweep *s = w->s;
    if (!w->t->terminal || !(s->candidates[0].ms > 0)) return;
    struct buf line = {0};
    const struct sweep_candidate *b = &s->candidates[s->best];
    buf_printf(&line, "%s, %s: %zu of %zu tried, best ", s->name, tune_use_names[s->use], w->n_tried, s->n);
    tune_text(b->tune, &line);
    buf_printf(&line, " %.4g ms, %.2f times the default's speed, %.0f %% of the limit", b->ms,
               s->candidates[0].ms / b->ms, 100 * s->limit_ms / b->ms);
    fprintf(stderr, "\r\033[K%.110s", line.data);
    fflush(stderr);
    buf_free(&line);
}

/* The time of a launch in ms goes to *ms, and into the candidate where it is its least. */
static bool measure_once(struct work *w, size_t i, size_t run, int64_t n, double *ms, struct err *e) {
    struct kernel_case *c = &w->cases[run];
    double *least = &w->s->candidates[i].run_ms[run];
    if (!case_use(c, &w->kernels[i], e)) return false;
    *ms = case_seconds(c, w->t->pool, n) * 1e3 / (double)n;
    if (*least == 0 || *ms < *least) *least = *ms;
    return true;
}

/* Tries candidate i on every launch. */
static bool try_candidate(struct work *w, size_t i, struct err *e) {
    struct sweep *s = w->s;
    struct sweep_candidate *x = &s->candidates[i];
    for (size_t r = 0; r < s->n_runs; r++) {
        struct kernel_case *c = &w->cases[r];
        if (!case_use(c, &w->kernels[i], e)) return false;
        case_fresh_launch(c, w->t->pool);
        if (i == 0) {
            if (!case_keep(c, e)) return false;
            w->repeats[r] = case_warm_up(c, w->t->pool);
        } else if (!case_same(c)) {
            x->outcome = "differs";
            return true;
        }
        for (int k = 0; k < SHORT_REPEATS; k++) {
            /* The first is shorter: a candidate of a hundredth of the speed shall not take a hundred times as long. */
            int64_t n = k == 0 ? w->repeats[r] / PART + 1 : w->repeats[r];
            double ms;
            if (!measure_once(w, i, r, n, &ms, e)) return false;
            if (x->run_ms[r] > SLOW * best_ms(s, r)) {
                x->outcome = "slow";
                return true;
            }
        }
    }
    x->ms = geometric_mean(x->run_ms, s->n_runs);
    x->outcome = i == 0 ? "default" : "measured";
    return true;
}

/* The default and those that look best, again and in alternation: many short measurements, since on a busy machine only
 * some of them are undisturbed. */
static bool final_rounds(struct work *w, struct err *e) {
    struct sweep *s = w->s;
    size_t finalists[1 + FINALISTS] = {0}, n = 1;
    while (n <= FINALISTS) {
        size_t next = 0;
        for (size_t i = 1; i < s->n; i++) {
            bool taken = false;
            for (size_t k = 0; k < n; k++) taken = taken || finalists[k] == i;
            if (!taken && s->candidates[i].ms > 0 && (next == 0 || s->candidates[i].ms < s->candidates[next].ms))
                next = i;
        }
        if (next == 0) break;
        finalists[n++] = next;
    }
    size_t wins[1 + FINALISTS] = {0};
    for (int round = 0; round < ROUNDS && n > 1; round++) {
        double mean[1 + FINALISTS];
        for (size_t k = 0; k < n; k++) {
            double ms[SWEEP_MAX_RUNS];
            for (size_t r = 0; r < s->n_runs; r++)
                if (!measure_once(w, finalists[k], r, w->repeats[r] / PART + 1, &ms[r], e)) return false;
            mean[k] = geometric_mean(ms, s->n_runs);
            wins[k] += k > 0 && mean[k] < mean[0];
        }
    }
    s->best = 0;
    for (size_t k = 0; k < n; k++) {
        struct sweep_candidate *x = &s->candidates[finalists[k]];
        x->ms = geometric_mean(x->run_ms, s->n_runs);
        bool clear = 2 * wins[k] > ROUNDS && x->ms < CLEARLY * s->candidates[0].ms;
        if (clear && x->ms < s->candidates[s->best].ms) s->best = finalists[k];
    }
    return true;
}

/* No launch can be faster than its bytes come from memory or its operations are done. */
void sweep_limit(const struct tuner *t, struct sweep *s) {
    double peak = peaks_ops_per_s(&t->peaks, s->spec);
    double limits[SWEEP_MAX_RUNS];
    for (size_t r = 0; r < s->n_runs; r++)
        limits[r] = fmax(s->run_bytes[r] / t->peaks.read_bytes_per_s, s->run_ops[r] / peak) * 1e3;
    s->limit_ms = geometric_mean(limits, s->n_runs);
    double slots_per_s = t->peaks.f32_ops_per_s / (2 * t->target.lanes);
    for (size_t i = 0; i < s->n; i++) {
        for (size_t r = 0; r < s->n_runs; r++)
            limits[r] =
                fmax(s->run_bytes[r] / t->peaks.read_bytes_per_s, s->candidates[i].run_slots[r] / slots_per_s) * 1e3;
        s->candidates[i].predicted_ms = geometric_mean(limits, s->n_runs);
    }
}

static bool store(struct work *w, struct err *e) {
    struct sweep *s = w->s;
    struct compiler c = {.dsl = w->t->dsl, .target = w->t->target, .cache = w->t->cache, .n_threads = 1};
    struct buf tokens = {0};
    for (size_t r = 0; r < s->n_runs; r++)
        buf_printf(&tokens, "%s%lld", r ? "," : "", (long long)json_integer_value(json_object_get(s->runs[r], "tok")));
    char *key = compile_key(&c, s->spec);
    struct tune_entry *entries = mem_new(s->n * sizeof *entries);
    size_t n = 0, best = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct sweep_candidate *x = &s->candidates[i];
        if (strcmp(x->outcome, "untried") == 0) continue;
        if (i == s->best) best = n;
        entries[n++] = (struct tune_entry){.tune = x->tune, .ms = x->ms, .outcome = x->outcome};
    }
    struct tune_result result = {.key = key,
                                 .kernel = s->name,
                                 .target = w->t->target.name,
                                 .n_threads = pool_threads(w->t->pool),
                                 .use = s->use,
                                 .tokens = tokens.data,
                                 .entries = entries,
                                 .n = n,
                                 .best = best,
                                 .fallback = 0};
    bool ok = tunedb_put(w->t->db, &result, e);
    /* The chosen code goes into the cache too, under the name a model will ask for. */
    if (ok) {
        json_t *spec = json_copy(s->spec);
        const json_t *one = spec;
        struct kernel k;
        json_object_set(spec, "tune", s->candidates[s->best].tune);
        ok = compile_kernels(&c, &one, NULL, 1, &k, e);
        kernel_free(&k);
        json_decref(spec);
    }
    mem_free(entries);
    mem_free(key);
    buf_free(&tokens);
    return ok;
}

static bool sweep(struct work *w, struct err *e) {
    struct sweep *s = w->s;
    for (size_t r = 0; r < s->n_runs; r++) {
        if (!case_open(&w->cases[r], w->t->dsl, &w->t->target, s->spec, s->runs[r], e)) return false;
        s->run_bytes[r] = w->cases[r].bytes;
        s->run_ops[r] = w->cases[r].ops;
    }
    sweep_limit(w->t, s);
    size_t batch = (size_t)pool_threads(w->t->pool);
    if (batch > MAX_BATCH) batch = MAX_BATCH;
    for (size_t from = 0; from < s->n && (from == 0 || (now_s() < w->t->deadline && w->n_since_best < PATIENCE));
         from += batch) {
        size_t n = s->n - from < batch ? s->n - from : batch;
        if (!compile_batch(w, from, n, e)) return false;
        for (size_t i = from; i < from + n; i++) {
            if (w->kernels[i].n_phases > 0 && !try_candidate(w, i, e)) return false;
            w->n_tried++;
            size_t best = s->best;
            choose(s);
            w->n_since_best = s->best == best ? w->n_since_best + 1 : 0;
            show(w);
        }
    }
    if (!final_rounds(w, e)) return false;
    show(w);
    s->measured = true;
    return store(w, e);
}

bool sweep_run(struct tuner *t, struct sweep *s, struct err *e) {
    s->reached = now_s() < t->deadline;
    if (!s->reached) return true;
    if (!list_candidates(t, s, e)) return false;
    if (s->n == 0) return true;
    struct work *w = mem_new(sizeof *w);
    w->t = t;
    w->s = s;
    w->kernels = mem_new(s->n * sizeof *w->kernels);
    bool ok = sweep(w, e) || err_prefix(e, "%s", s->name);
    for (size_t i = 0; i < s->n; i++) kernel_free(&w->kernels[i]);
    for (size_t r = 0; r < s->n_runs; r++) case_close(&w->cases[r]);
    mem_free(w->kernels);
    mem_free(w);
    if (t->terminal) fputs("\r\033[K", stderr);
    return ok;
}
