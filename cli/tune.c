/* kgen tune: measures the choices that a kernel's map leaves open and keeps the fastest. */
#include "cli/tune.h"
#include "cli/doctor.h"
#include "cli/kernel_case.h"
#include "runtime/model.h"
#include "runtime/safety.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tune_options {
    struct engine_options engine;
    struct words kernels;
    const char *target, *shape, *report_file;
    double budget; /* seconds */
    bool all;
    int64_t prompt; /* tokens of a model's prefill launches */
    struct report_options report;
};

struct sweeps {
    struct sweep *items;
    size_t n;
};

static struct sweep *add_sweep(struct sweeps *list, const char *name) {
    list->items = mem_grow(list->items, (list->n + 1) * sizeof *list->items);
    struct sweep *s = &list->items[list->n++];
    struct buf copy = {0};
    buf_puts(&copy, name);
    *s = (struct sweep){.name = copy.data, .launches = 1};
    return s;
}

/* ---- A kernel at its benchmark shapes -----------------------------------------------------------------------------
 */

/* Shapes of one use that differ in their run-time sizes alone share code, and so a sweep. */
static bool kernel_sweeps(const struct tune_options *o, struct dsl *d, const char *kernel, struct sweeps *list,
                          struct err *e) {
    int64_t n = case_bench_shapes(d, kernel);
    for (int64_t nth = 1; nth == 1 || nth <= n; nth++) {
        json_t *arg = json_pack("{s:s, s:s*, s:I}", "kernel", kernel, "shape", o->shape, "nth", (json_int_t)nth);
        json_t *made = NULL;
        if (!arg) return err_set(e, ERR_USAGE, "a kernel's name and shape are UTF-8 text");
        bool ok = dsl_call(d, "shape", arg, &made, e);
        json_decref(arg);
        if (!ok) return false;
        json_t *spec = json_object_get(made, "spec"), *sizes = json_object_get(made, "run");
        struct sweep *s = NULL;
        enum tune_use use = tune_use_of(json_integer_value(json_object_get(sizes, "tok")));
        for (size_t i = 0; i < list->n && !s; i++) {
            struct sweep *known = &list->items[i];
            if (known->use == use && known->n_runs < SWEEP_MAX_RUNS && json_equal(known->spec, spec)) s = known;
        }
        if (!s) {
            s = add_sweep(list, kernel);
            s->spec = json_incref(spec);
            s->use = use;
            struct buf label = {0};
            buf_puts(&label, json_string_value(json_object_get(made, "label")));
            s->label = label.data;
        }
        bool known = false;
        for (size_t r = 0; r < s->n_runs; r++) known = known || json_equal(s->runs[r], sizes);
        if (!known) s->runs[s->n_runs++] = json_incref(sizes);
        json_decref(made);
    }
    return true;
}

static bool all_sweeps(const struct tune_options *o, struct dsl *d, struct sweeps *list, struct err *e) {
    json_t *kernels = NULL;
    bool ok = dsl_call(d, "kernels", NULL, &kernels, e);
    for (size_t i = 0; ok && i < json_array_size(kernels); i++) {
        const json_t *k = json_array_get(kernels, i);
        if (json_integer_value(json_object_get(k, "n_bench")) > 0)
            ok = kernel_sweeps(o, d, json_string_value(json_object_get(k, "name")), list, e);
    }
    json_decref(kernels);
    return ok;
}

/* ---- All launches of a model --------------------------------------------------------------------------------------
 */

static json_t *run_sizes(int64_t tok, int64_t pos) {
    enum { PAGE = 256 }; /* dsl/access.lua */
    int64_t key = pos + tok;
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "tok", (json_int_t)tok, "pos", (json_int_t)pos, "key",
                     (json_int_t)key, "ctx", (json_int_t)key, "npages", (json_int_t)((key + PAGE - 1) / PAGE));
}

/* "F1=q4_k,d=576" and a composed kernel's signature, which has its sizes. */
static char *label_of(const json_t *spec) {
    static const char *const parts[] = {"formats", "sizes"};
    struct buf b = {0};
    buf_puts(&b, "");
    for (size_t i = 0; i < 2; i++) {
        const char *name;
        json_t *v;
        json_object_foreach(json_object_get(spec, parts[i]), name, v) {
            buf_printf(&b, "%s%s=", b.len ? "," : "", name);
            if (json_is_string(v))
                buf_puts(&b, json_string_value(v));
            else
                buf_printf(&b, "%lld", (long long)json_integer_value(v));
        }
    }
    const char *sig = json_string_value(json_object_get(spec, "sig"));
    if (sig) buf_printf(&b, "%s%s", b.len ? "; " : "", sig);
    return b.data;
}

static int most_launches_first(const void *a, const void *b) {
    const struct sweep *x = a, *y = b;
    return x->launches > y->launches ? -1 : x->launches < y->launches;
}

static bool model_sweeps(const struct tune_options *o, struct dsl *d, const struct target *t, struct sweeps *list,
                         struct err *e) {
    struct gguf *g = NULL;
    json_t *plan = NULL;
    gguf_type_fn types;
    const char *act = o->engine.act == ACT_F32 ? "f32" : "q8";
    char why_f32_keys[256];
    bool bf16;
    bool ok =
        (types = model_types(d, e)) && gguf_open(o->engine.model, types, &g, e) &&
        safety_of_keys(g, why_f32_keys, &bf16, e) &&
        model_plan(d, g, act,
                   o->engine.kv != KV_DEFAULT ? kv_names[o->engine.kv] : model_default_kv(act, !*why_f32_keys, bf16, t),
                   true, t, &plan, e);
    const json_t *kernels = json_object_get(plan, "kernels"), *launches = json_object_get(plan, "launches");
    int64_t ctx = json_integer_value(json_object_get(json_object_get(plan, "hyper"), "ctx"));
    int64_t prompt = ctx > 0 && ctx < o->prompt ? ctx : o->prompt;
    for (size_t i = 0; i < json_array_size(kernels); i++) {
        json_t *spec = json_array_get(kernels, i);
        bool body = false;
        int64_t n_launches = 0;
        for (size_t l = 0; l < json_array_size(launches); l++) {
            const json_t *launch = json_array_get(launches, l);
            if (json_integer_value(json_object_get(launch, "kernel")) != (json_int_t)i) continue;
            n_launches++;
            body = body || !json_is_true(json_object_get(launch, "head"));
        }
        /* What follows the last layer sees the wanted tokens alone. */
        for (enum tune_use use = 0; use <= USE_TOKEN; use++) {
            if (use == USE_PROMPT && (!body || prompt == 1)) continue;
            struct sweep *s = add_sweep(list, json_string_value(json_object_get(spec, "name")));
            json_t *split = use == USE_TOKEN && !t->ptx ? compile_split(spec) : NULL;
            s->spec = split ? split : json_incref(spec);
            s->use = use;
            s->launches = n_launches;
            s->label = label_of(spec);
            s->runs[s->n_runs++] = use == USE_TOKEN ? run_sizes(1, prompt - 1) : run_sizes(prompt, 0);
        }
    }
    if (ok) qsort(list->items, list->n, sizeof *list->items, most_launches_first);
    json_decref(plan);
    gguf_close(g);
    return ok;
}

/* ---- Report -------------------------------------------------------------------------------------------------------
 */

static json_t *sweep_json(const struct sweep *s) {
    json_t *candidates = json_array(), *runs = json_array();
    for (size_t i = 0; i < s->n_runs; i++) json_array_append(runs, s->runs[i]);
    for (size_t i = 0; i < s->n; i++) {
        const struct sweep_candidate *c = &s->candidates[i];
        json_t *ms = json_array();
        for (size_t r = 0; r < s->n_runs; r++)
            json_array_append_new(ms, c->run_ms[r] > 0 ? json_real(c->run_ms[r]) : json_null());
        json_array_append_new(candidates, json_pack("{s:O, s:s, s:f, s:o, s:o}", "tune", c->tune, "outcome", c->outcome,
                                                    "predicted_ms", c->predicted_ms, "ms",
                                                    c->ms > 0 ? json_real(c->ms) : json_null(), "run_ms", ms));
    }
    const struct sweep_candidate *best = &s->candidates[s->best], *fallback = &s->candidates[0];
    return json_pack("{s:s, s:s, s:s, s:I, s:o, s:O, s:O, s:f, s:f, s:f, s:f, s:o}", "kernel", s->name, "shape",
                     s->label, "use", tune_use_names[s->use], "launches", (json_int_t)s->launches, "runs", runs, "best",
                     best->tune, "default", fallback->tune, "best_ms", best->ms, "default_ms", fallback->ms, "speedup",
                     fallback->ms / best->ms, "limit_ms", s->limit_ms, "candidates", candidates);
}

static void count(const struct sweeps *list, size_t *measured, size_t *fixed, size_t *unreached) {
    *measured = *fixed = *unreached = 0;
    for (size_t i = 0; i < list->n; i++) {
        const struct sweep *s = &list->items[i];
        ++*(s->measured ? measured : s->reached ? fixed : unreached);
    }
}

/* How well kernels do that were never tuned: a default counts as good up to this many times the best one's time. */
static const double GOOD = 1.1;

static void print_defaults(const struct sweeps *list, size_t measured) {
    size_t good = 0;
    struct buf rest = {0};
    for (size_t i = 0; i < list->n; i++) {
        const struct sweep *s = &list->items[i];
        if (!s->measured) continue;
        double times = s->candidates[0].ms / s->candidates[s->best].ms;
        good += times <= GOOD;
        if (times <= GOOD) continue;
        buf_printf(&rest, "  %s %s, %s: %.0f %% over, ", s->name, s->label,
                   s->use == USE_TOKEN ? "one token" : "a prompt", 100 * (times - 1));
        tune_text(s->candidates[0].tune, &rest);
        buf_puts(&rest, " instead of ");
        tune_text(s->candidates[s->best].tune, &rest);
        buf_puts(&rest, "\n");
    }
    printf("%zu of %zu defaults take at most %.0f %% longer than the best found\n%s", good, measured, 100 * (GOOD - 1),
           rest.data ? rest.data : "");
    buf_free(&rest);
}

static bool report(const struct tune_options *o, const struct tuner *t, const struct sweeps *list, struct err *e) {
    size_t measured, fixed, unreached;
    count(list, &measured, &fixed, &unreached);
    if (o->report_file && !tune_report(t, list->items, list->n, o->report_file, e)) return false;
    if (o->report.json) {
        json_t *sweeps = json_array();
        for (size_t i = 0; i < list->n; i++)
            if (list->items[i].measured) json_array_append_new(sweeps, sweep_json(&list->items[i]));
        return json_print(json_pack("{s:s, s:i, s:I, s:I, s:o, s:o}", "target", t->target.name, "threads",
                                    pool_threads(t->pool), "without_tunables", (json_int_t)fixed, "not_reached",
                                    (json_int_t)unreached, "peaks", peaks_json(&t->peaks), "sweeps", sweeps),
                          e);
    }
    for (size_t i = 0; i < list->n; i++) {
        const struct sweep *s = &list->items[i];
        if (!s->measured) continue;
        struct buf line = {0};
        const struct sweep_candidate *best = &s->candidates[s->best], *fallback = &s->candidates[0];
        tune_text(best->tune, &line);
        if (s->best == 0) buf_puts(&line, " (the default)");
        printf("%s %s, %s\n  %s: %.4f ms, %.2f times the default's speed, %.0f %% of the limit\n", s->name, s->label,
               s->use == USE_TOKEN ? "one token" : "a prompt", line.data, best->ms, fallback->ms / best->ms,
               100 * s->limit_ms / best->ms);
        buf_free(&line);
    }
    printf("%zu of %zu kernels and uses tuned", measured, list->n);
    if (fixed) printf(", %zu have nothing to tune", fixed);
    if (unreached) printf(", %zu not reached within --budget %g", unreached, o->budget);
    putchar('\n');
    if (measured) print_defaults(list, measured);
    return true;
}

/* ---- Command ------------------------------------------------------------------------------------------------------
 */

/* What has no choice yet comes first: a sweep that was cut short goes on where it was. */
static void unknown_first(const struct tuner *t, struct sweeps *list) {
    struct compiler c = {.dsl = t->dsl, .target = t->target};
    struct sweep *known = mem_new((list->n + 1) * sizeof *known);
    size_t n_known = 0, n = 0;
    for (size_t i = 0; i < list->n; i++) {
        struct sweep *s = &list->items[i];
        char *key = compile_key(&c, s->spec);
        json_t *choice = tunedb_find(t->db, key, pool_threads(t->pool), s->use);
        if (choice)
            known[n_known++] = *s;
        else
            list->items[n++] = *s;
        json_decref(choice);
        mem_free(key);
    }
    for (size_t i = 0; i < n_known; i++) list->items[n + i] = known[i];
    mem_free(known);
}

static bool check(const void *opts, struct err *e) {
    const struct tune_options *o = opts;
    if ((o->engine.model != NULL) + (o->kernels.n > 0) + o->all != 1)
        return err_set(e, ERR_USAGE, "expected a KERNEL, --all or -m MODEL");
    if (!o->kernels.n && o->shape) return err_set(e, ERR_USAGE, "--shape belongs to a KERNEL");
    if (o->engine.gpu || o->engine.device.kind == DEVICE_CUDA)
        return err_set(e, ERR_USAGE, "kgen tune measures on the processor; leave --device and --gpu away");
    return true;
}

static bool find_target(const char *name, struct target *out, struct err *e) {
    if (!target_find(name, out, e)) return false;
    return (!out->ptx && target_runs_here(out)) ||
           err_set(e, ERR_UNSUPPORTED, "--target %s: this processor cannot run its code, and so not measure it", name);
}

static bool run(const void *opts, struct err *e) {
    const struct tune_options *o = opts;
    struct tuner t = {.terminal = isatty(STDERR_FILENO)};
    struct sweeps list = {0};
    bool ok = find_target(o->target, &t.target, e) && dsl_open(&t.dsl, e) &&
              (o->engine.model ? model_sweeps(o, t.dsl, &t.target, &list, e)
               : o->all        ? all_sweeps(o, t.dsl, &list, e)
                               : kernel_sweeps(o, t.dsl, o->kernels.items[0], &list, e));
    if (ok) t.cache = cache_open(NULL);
    ok = ok && tunedb_create(cache_dir(t.cache), &t.db, e) &&
         pool_open((int)(o->engine.threads ? o->engine.threads : doctor_cores()), &t.pool, e) &&
         peaks_measure_once(t.pool, &t.target, &t.peaks, e);
    if (ok) unknown_first(&t, &list);
    t.deadline = now_s() + o->budget;
    for (size_t i = 0; i < list.n && ok; i++) ok = sweep_run(&t, &list.items[i], e);
    /* A busy machine shows its peaks only now and then: limits are by the best that was seen. */
    ok = ok && peaks_measure_once(t.pool, &t.target, &t.peaks, e);
    for (size_t i = 0; i < list.n && ok; i++)
        if (list.items[i].measured) sweep_limit(&t, &list.items[i]);
    ok = ok && report(o, &t, &list, e);
    for (size_t i = 0; i < list.n; i++) sweep_free(&list.items[i]);
    mem_free(list.items);
    pool_close(t.pool);
    tunedb_close(t.db);
    cache_close(t.cache);
    dsl_close(t.dsl);
    return ok;
}

#define AT(field) .offset = offsetof(struct tune_options, field)
static const struct option options[] = {
    {"budget", 0, OPTION_FLOAT, "SECONDS", "begin nothing new after this time of measuring", AT(budget),
     .floats = {0, 1e6}, .unit = "seconds", .fallback = "120"},
    {"target", 0, OPTION_STRING, "NAME",
     "the code to tune: native, x86-64, x86-64-v3, x86-64-v4, x86-64-v4-vnni, x86-64-v4-bf16 or x86-64-v4-amx",
     AT(target), .fallback = "native"},
    {"all", 0, OPTION_FLAG, NULL, "every kernel of kernels.lua, at its benchmark shapes", AT(all)},
    {"shape", 0, OPTION_STRING, "k=v,…", "the kernel's sizes and formats; without it, its benchmark shapes", AT(shape)},
    {"prompt", 'p', OPTION_INT, "N", "tokens of a model's prompt to be fast at, and in its cache when it generates",
     AT(prompt), .ints = {1, 1 << 24}, .unit = "tokens", .fallback = "512"},
    {"report", 0, OPTION_STRING, "FILE.html", "write a page with every sweep's times against what the machine allows",
     AT(report_file)},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"what to tune", options, 0},
    {"model and machine", engine_options, offsetof(struct tune_options, engine)},
    {"output", report_options, offsetof(struct tune_options, report)},
    {0},
};

const struct command command_tune = {
    .name = "tune",
    .summary = "finds the fastest variant of each kernel on this machine",
    .usage = "(KERNEL | --all | -m MODEL) [--target NAME] [--budget SECONDS] [--report FILE.html]",
    .details =
        "Tries the choices that a kernel's map leaves open, such as how many tokens share a load of the "
        "weights: of one "
        "kernel, of all, or of those that a model launches, for one token and for a prompt. Weights and cache are read "
        "from memory, "
        "not from the processor's caches. A candidate whose result differs in any bit from the default's is "
        "refused.\n\n"
        "At the end it says which defaults take over 10 % longer than the best found. With a small --budget and "
        "again and again, it goes on with what has no choice yet.\n\n"
        "What is found is kept in tune.db in the cache directory, with the code, and used from then on. It "
        "holds for this "
        "version of kgen and LLVM and this kind of processor; removing the file restores the defaults.",
    .examples = "kgen tune -m model.gguf\nkgen tune linear --shape W=q4_1,d=576,n=1536 --report linear.html",
    .groups = groups,
    .options_bytes = sizeof(struct tune_options),
    .words_name = "KERNEL",
    .words_max = 1,
    .words_offset = offsetof(struct tune_options, kernels),
    .check = check,
    .run = run,
};
