/* parity: walks over kernels, formats and shapes (an "instance" is one of each, compiled once a target), several
 * instances at once, each thread with a language state of its own. */
#include "verify/parity.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/dev_cuda.h"
#include "verify/parity_case.h"

enum { MAX_TARGETS = 16, MAX_FORMATS = 64, MAX_FAILURES_A_ROW = 4, MAX_THREADS = 64 };

struct instance {
    const struct parity_kernel *kernel;
    struct parity_shape shape;
    char formats[96], sizes[96];
    size_t number; /* of the combination of kernel and formats */
};

struct format {
    char name[32];
    unsigned block;
};

struct plan {
    const struct parity_options *o;
    struct target targets[MAX_TARGETS];
    size_t n_targets;
    struct format formats[MAX_FORMATS];
    size_t n_formats;
    struct instance *instances;
    size_t n_instances, cap;
    struct kernel packs[MAX_TARGETS][MAX_FORMATS]; /* for the first target of each class */
    struct cuda *gpu;                              /* where the target is one's */
    /* Shared by the threads. */
    _Atomic size_t next;
    size_t n_done;
    int n_threads;
    pthread_mutex_t lock;
    struct parity_report *report;
    struct err err;
    void (*progress)(void *ctx, double fraction);
    void *ctx;
};

/* What a thread keeps. */
struct worker {
    struct plan *plan;
    struct dsl *dsl;
};

/* ---- Results ---- */

static struct parity_row *row_of(struct plan *p, const struct instance *in, const struct target *t) {
    struct parity_report *r = p->report;
    for (size_t i = 0; i < r->n_rows; i++)
        if (!strcmp(r->rows[i].kernel, in->kernel->name) && !strcmp(r->rows[i].formats, in->formats) &&
            !strcmp(r->rows[i].target, t->name))
            return &r->rows[i];
    bug("no row for %s %s %s", in->kernel->name, in->formats, t->name);
}

static void failed(struct plan *p, const struct instance *in, const struct target *t, const char *where,
                   const struct err *e) {
    pthread_mutex_lock(&p->lock);
    struct parity_row *row = row_of(p, in, t);
    struct parity_report *r = p->report;
    if (row->failures++ < MAX_FAILURES_A_ROW) {
        struct buf b = {0};
        buf_printf(&b, "%s %s%s%s, %s: %s: %s; repeat: kgen verify %s --target %s --seed %" PRIu64 "%s",
                   in->kernel->name, in->formats, in->formats[0] ? " " : "", in->sizes, t->name, where, e->msg,
                   in->kernel->name, t->name, p->o->seed, p->o->quick ? " --quick" : "");
        r->failures = mem_grow(r->failures, (r->n_failures + 1) * sizeof *r->failures);
        r->failures[r->n_failures++] = arena_strdup(&r->arena, b.data);
        buf_free(&b);
    }
    pthread_mutex_unlock(&p->lock);
}

static void record(struct plan *p, const struct instance *in, const struct target *t, size_t cases, double max_abs,
                   double max_of_tol) {
    pthread_mutex_lock(&p->lock);
    struct parity_row *row = row_of(p, in, t);
    row->cases += cases;
    row->max_abs = fmax(row->max_abs, max_abs);
    row->max_of_tol = fmax(row->max_of_tol, max_of_tol);
    pthread_mutex_unlock(&p->lock);
}

/* ---- One instance ---- */

struct subject {
    struct worker *w;
    const struct instance *in;
    struct parity_case *cases;
    size_t n_cases;
    struct parity_out *first;                              /* [n_cases] of the first target of the class at hand */
    struct guard packed[PARITY_MAX_RUNS][PARITY_MAX_ARGS]; /* for the class at hand */
    bool is_packed;
};

static uint64_t hash_text(const char *s) {
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 1099511628211u;
    return h;
}

static struct ref_rng rng_of(const struct plan *p, const struct instance *in, size_t run) {
    char key[256];
    snprintf(key, sizeof key, "%s|%s|%s|%zu", in->kernel->name, in->formats, in->sizes, run);
    return (struct ref_rng){.seed = p->o->seed ^ hash_text(key)};
}

static void where_of(const struct parity_case *c, int64_t t0, int64_t n, char out[96]) {
    snprintf(out, 96, "pos %" PRId64 ", tokens %" PRId64 " to %" PRId64 " of %" PRId64, c->pos, t0, t0 + n - 1,
             c->n_tok);
}

/* The launch of all tokens, in parts and in pieces, against the reference and itself. */
static void check_case(struct subject *s, const struct target *t, const struct parity_exec *x, size_t at, bool lead) {
    static const int parts[][2] = {{0, 1}, {0, 2}, {0, 3}, {0, 5}, {0, 8}, {0, 9}, {0, 13}, {4, 4}, {9, 1}, {3, 7}};
    const struct parity_case *c = &s->cases[at];
    struct parity_out all = {0}, part = {0};
    struct err e = {0};
    char where[96];
    double max_abs = 0, max_of_tol = 0;
    size_t cases = 1;
    where_of(c, 0, c->n_tok, where);
    bool ok = parity_launch(x, c, s->packed[at], 0, c->n_tok, CUT_WHOLE, &all, &e) &&
              parity_compare(c, &all, &max_abs, &max_of_tol, &e);
    if (!ok) failed(s->w->plan, s->in, t, where, &e);
    if (all.args[c->n_args - 1].data && ok) {
        for (int cut = CUT_THREE; cut <= CUT_SINGLE; cut++, cases++) {
            bool same = parity_launch(x, c, s->packed[at], 0, c->n_tok, (enum parity_cut)cut, &part, &e) &&
                        parity_same(c, &all, &part, 0, c->n_tok, &e);
            if (!same) {
                err_prefix(&e, "with its tasks %s", cut == CUT_THREE ? "in three pieces" : "one by one");
                failed(s->w->plan, s->in, t, where, &e);
            }
            parity_out_free(&part);
        }
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            int64_t t0 = parts[i][0], n = parts[i][1];
            if (t0 + n > c->n_tok || n == c->n_tok) continue;
            cases++;
            if (!parity_launch(x, c, s->packed[at], t0, n, CUT_WHOLE, &part, &e) ||
                !parity_same(c, &all, &part, t0, n, &e)) {
                where_of(c, t0, n, where);
                failed(s->w->plan, s->in, t, where, &e);
            }
            parity_out_free(&part);
        }
        if (!lead) {
            cases++;
            if (!parity_same(c, &s->first[at], &all, 0, c->n_tok, &e)) {
                err_prefix(&e, "not what the first target of class %s gives", t->class_name);
                failed(s->w->plan, s->in, t, where, &e);
            }
        }
    }
    record(s->w->plan, s->in, t, cases, max_abs, max_of_tol);
    if (lead) {
        parity_out_free(&s->first[at]);
        s->first[at] = all;
    } else {
        parity_out_free(&all);
    }
}

/* Whether the IR leaves the bits of its results to the machine: how a matrix unit adds products of floats (docs/ir.md).
 */
static bool leaves_order_open(const char *ir) {
    return strstr(ir, " m16n8k16.f16\n") || strstr(ir, " m16n8k16.bf16\n");
}

/* The first case again by the interpreter: the mapped IR gives the bits of compiled code where it says which, the
 * serial one its own. */
static bool check_interpreted(struct subject *s, const struct target *t, const json_t *meta,
                              const struct parity_exec *compiled, bool mapped, struct err *e) {
    const json_t *text = json_object_get(meta, "ir");
    struct ir_module *ir = NULL;
    if (!ir_parse(json_string_value(text), json_string_length(text), &ir, e)) return false;
    const struct parity_case *c = &s->cases[0];
    struct parity_exec run = {.k = compiled->k, .ir = ir, .fused = t->fma};
    struct parity_out by_code = {0}, by_hand = {0};
    double max_abs = 0, max_of_tol = 0;
    int64_t few = strstr(json_string_value(text), "tiledot") ? 17 : 3; /* a tile of tokens and a rest */
    bool open = leaves_order_open(json_string_value(text));
    int64_t n = c->n_tok < few || open ? c->n_tok : few;
    bool ok = ir_verify(ir, e) && parity_launch(&run, c, s->packed[0], 0, n, CUT_WHOLE, &by_hand, e);
    if (open)
        ok = ok && parity_compare(c, &by_hand, &max_abs, &max_of_tol, e);
    else
        ok = ok && parity_launch(compiled, c, s->packed[0], 0, n, CUT_WHOLE, &by_code, e) &&
             parity_same(c, &by_hand, &by_code, 0, n, e);
    parity_out_free(&by_hand);
    parity_out_free(&by_code);
    if (!ok) err_prefix(e, "interpreted flat IR and compiled code");
    if (ok && !mapped) {
        ok = parity_launch(compiled, c, s->packed[0], 0, c->n_tok, CUT_WHOLE, &by_code, e) &&
             parity_compare(c, &by_code, &max_abs, &max_of_tol, e);
        parity_out_free(&by_code);
    }
    ir_free(ir);
    record(s->w->plan, s->in, t, mapped ? 1 : 2, max_abs, max_of_tol);
    return ok;
}

/* A GPU's code goes to the GPU. */
static bool load_kernel(const struct plan *p, struct parity_exec *x, struct cuda_kernel **loaded, struct err *e) {
    *loaded = NULL;
    if (p->gpu && !cuda_kernel_new(p->gpu, x->k, loaded, e)) return false;
    x->gpu = p->gpu;
    x->loaded = *loaded;
    return true;
}

/* An instance's code in another form. */
struct variant {
    json_t *meta;
    struct kernel k;
    struct parity_exec x;
    struct cuda_kernel *loaded;
};

/* Of v->meta, which is lowered. */
static bool variant_load(struct subject *s, const struct target *t, struct variant *v, struct err *e) {
    v->x.k = &v->k;
    return compile_lowered(v->meta, t, &v->k, e) && load_kernel(s->w->plan, &v->x, &v->loaded, e);
}

static void variant_free(struct subject *s, struct variant *v) {
    json_decref(v->meta);
    cuda_kernel_free(s->w->plan->gpu, v->loaded);
    kernel_free(&v->k);
}

static void check_serial(struct subject *s, const struct target *t, const json_t *spec) {
    struct variant v = {0};
    struct err e = {0};
    bool ok = compile_lower(s->w->dsl, spec, t, true, &v.meta, &e) && variant_load(s, t, &v, &e) &&
              check_interpreted(s, t, v.meta, &v.x, false, &e);
    if (!ok) failed(s->w->plan, s->in, t, "without its map", &e);
    variant_free(s, &v);
}

/* Tokens of a case one by one through the code compiled for one token, beside the launch of all of them. */
static bool check_lone_case(struct subject *s, const struct target *t, const struct parity_exec *x, size_t at,
                            struct err *e) {
    const struct parity_case *c = &s->cases[at];
    const struct parity_out *all = &s->first[at];
    const int64_t some[] = {0, 1, c->n_tok / 2, c->n_tok - 1};
    double max_abs = 0, max_of_tol = 0;
    size_t cases = 0;
    bool ok = true;
    for (size_t i = 0; i < sizeof some / sizeof *some && ok; i++) {
        struct parity_out one = {0};
        int64_t tok = some[i];
        bool whole = c->n_tok == 1;
        for (size_t a = 0; a < c->n_args; a++)
            if (c->args[a].role == PARITY_OUT && !c->args[a].tok_bytes && !whole) return true;
        if (tok >= c->n_tok || !all->args[c->n_args - 1].data) continue;
        ok = parity_launch(x, c, s->packed[at], tok, 1, CUT_WHOLE, &one, e);
        for (size_t a = 0; a < c->n_args && ok; a++) {
            if (c->args[a].role != PARITY_OUT) continue;
            uint8_t *of_all = all->args[a].data + (size_t)tok * c->args[a].tok_bytes;
            if (!t->ptx && memcmp(of_all, one.args[a].data, one.args[a].bytes) != 0)
                ok = err_set(e, ERR_INPUT, "'%s' differs from what a launch of all tokens gives", c->args[a].name);
            memcpy(of_all, one.args[a].data, one.args[a].bytes);
        }
        parity_out_free(&one);
        cases += ok;
        ok = ok && parity_compare(c, all, &max_abs, &max_of_tol, e);
        if (!ok) err_prefix(e, "token %" PRId64 " alone", tok);
    }
    record(s->w->plan, s->in, t, cases, max_abs, max_of_tol);
    return ok;
}

/* What is compiled for one token: all that a GPU runs for one, with other sums; and what splits an axis for one
 * (dsl/split_fold.lua), with the same bits. */
static void check_lone(struct subject *s, const struct target *t, const json_t *spec) {
    json_t *lone = compile_of_one(spec);
    struct variant v = {0};
    struct err e = {0};
    bool ok = compile_lower(s->w->dsl, lone, t, false, &v.meta, &e) && variant_load(s, t, &v, &e);
    for (size_t i = 0; i < s->n_cases && ok; i++) ok = check_lone_case(s, t, &v.x, i, &e);
    if (!ok) failed(s->w->plan, s->in, t, "for one token", &e);
    json_decref(lone);
    variant_free(s, &v);
}

/* What a GPU with a matrix unit runs for few tokens has its tasks and its sums cut otherwise; the sums alike for any
 * that are few. */
static void check_few(struct subject *s, const struct target *t, const json_t *spec, const json_t *many, int upto,
                      bool first) {
    json_t *few = json_copy((json_t *)spec);
    struct variant v = {0};
    struct err e = {0};
    json_object_set_new(few, "upto", json_integer(upto));
    bool ok = compile_lower(s->w->dsl, few, t, false, &v.meta, &e);
    if (ok && !json_equal(json_object_get(v.meta, "ir"), json_object_get(many, "ir"))) {
        ok = variant_load(s, t, &v, &e);
        for (size_t i = 0; i < s->n_cases && ok; i++) check_case(s, t, &v.x, i, first);
        ok = ok && (!s->in->shape.small || check_interpreted(s, t, v.meta, &v.x, true, &e));
    }
    if (!ok) failed(s->w->plan, s->in, t, "for few tokens", &e);
    json_decref(few);
    variant_free(s, &v);
}

static void free_packed(struct subject *s) {
    for (size_t i = 0; i < PARITY_MAX_RUNS; i++)
        for (size_t j = 0; j < PARITY_MAX_ARGS; j++) guard_free(&s->packed[i][j]);
}

static bool pack_weights(struct subject *s, size_t t, struct err *e) {
    free_packed(s);
    for (size_t i = 0; i < s->n_cases; i++)
        for (size_t j = 0; j < s->cases[i].n_args; j++) {
            const struct parity_arg *a = &s->cases[i].args[j];
            if (a->role != PARITY_WEIGHT) continue;
            struct plan *p = s->w->plan;
            size_t f = 0;
            while (strcmp(p->formats[f].name, a->fmt->name) != 0) f++;
            struct ref_rng rng = rng_of(p, s->in, 1000 + 100 * i + j);
            if (!parity_pack(s->w->dsl, &p->packs[t][f], &p->targets[t], a, &rng, &s->packed[i][j], e))
                return err_prefix(e, "packing '%s'", a->name);
        }
    return true;
}

static bool leads_class(const struct plan *p, size_t t) {
    return t == 0 || strcmp(p->targets[t].class_name, p->targets[t - 1].class_name) != 0;
}

/* The target on which an instance is checked without its map: the classes take turns. */
static size_t serial_target(const struct plan *p, const struct instance *in) {
    size_t n = 0, turn, t = 0;
    for (size_t i = 0; i < p->n_targets; i++) n += leads_class(p, i);
    turn = in->number % n;
    while (!leads_class(p, t) || turn-- > 0) t++;
    return t;
}

/* Whether lowering for target t gives what it gave for the target before it, which is of the same class. */
static bool lowers_as_before(const struct plan *p, size_t t) {
    json_t *a = compile_target(&p->targets[t - 1], false), *b = compile_target(&p->targets[t], false);
    bool same = json_equal(a, b);
    json_decref(a);
    json_decref(b);
    return same;
}

static void check_target(struct subject *s, size_t t, json_t *spec, json_t **meta) {
    static const int few[] = {8, 256}; /* tokens (dsl/schedules.lua) */
    const struct target *target = &s->w->plan->targets[t];
    bool lead = leads_class(s->w->plan, t), lowered = lead || !lowers_as_before(s->w->plan, t);
    struct kernel k = {0};
    struct err e = {0};
    if (lead) s->is_packed = pack_weights(s, t, &e);
    if (lead && !s->is_packed) failed(s->w->plan, s->in, target, "weights", &e);
    if (lowered) {
        json_decref(*meta);
        *meta = NULL;
        if (!compile_lower(s->w->dsl, spec, target, false, meta, &e)) failed(s->w->plan, s->in, target, "lowering", &e);
    }
    if (!*meta || !s->is_packed) return; /* reported */
    if (!compile_lowered(*meta, target, &k, &e)) {
        failed(s->w->plan, s->in, target, "compiling", &e);
        return;
    }
    struct parity_exec x = {.k = &k};
    struct cuda_kernel *loaded;
    if (!load_kernel(s->w->plan, &x, &loaded, &e)) {
        failed(s->w->plan, s->in, target, "loading", &e);
        kernel_free(&k);
        return;
    }
    for (size_t i = 0; lead && target->features & FEAT_MMA && i < sizeof few / sizeof *few; i++)
        check_few(s, target, spec, *meta, few[i], i == 0);
    for (size_t i = 0; i < s->n_cases; i++) check_case(s, target, &x, i, lead);
    if (lead && (target->ptx || json_is_true(json_object_get(spec, "splits")))) check_lone(s, target, spec);
    if (lowered && s->in->shape.small) {
        if (!check_interpreted(s, target, *meta, &x, true, &e)) failed(s->w->plan, s->in, target, "interpreted", &e);
        /* Where weights are known to be rounded tile by tile (verify/parity_kernels.c), a fold element by element has
         * none. */
        if (lead && serial_target(s->w->plan, s->in) == t && !parity_in_tiles(&s->in->shape))
            check_serial(s, target, spec);
    }
    cuda_kernel_free(s->w->plan->gpu, loaded);
    kernel_free(&k);
}

static void check_instance(struct worker *w, const struct instance *in) {
    struct plan *p = w->plan;
    struct subject s = {.w = w, .in = in, .n_cases = (size_t)in->shape.n_runs};
    s.cases = mem_new(s.n_cases * sizeof *s.cases);
    s.first = mem_new(s.n_cases * sizeof *s.first);
    for (size_t i = 0; i < s.n_cases; i++) {
        struct ref_rng rng = rng_of(p, in, i);
        s.cases[i].n_tok = in->shape.runs[i].tok;
        in->kernel->build(&in->shape, (int)i, &rng, &s.cases[i]);
    }
    json_t *spec = in->kernel->spec(&in->shape), *meta = NULL;
    if (!spec) bug("the specification of %s is no valid data", in->kernel->name);
    for (size_t t = 0; t < p->n_targets; t++) check_target(&s, t, spec, &meta);
    json_decref(meta);
    json_decref(spec);
    free_packed(&s);
    for (size_t i = 0; i < s.n_cases; i++) {
        parity_out_free(&s.first[i]);
        arena_free(&s.cases[i].arena);
    }
    mem_free(s.first);
    mem_free(s.cases);
}

static void *work(void *arg) {
    struct plan *p = arg;
    struct worker *w = mem_new(sizeof *w);
    struct err e = {0};
    w->plan = p;
    if (!dsl_open(&w->dsl, &e)) {
        pthread_mutex_lock(&p->lock);
        p->err = e;
        pthread_mutex_unlock(&p->lock);
    }
    size_t i;
    while (w->dsl && (i = atomic_fetch_add(&p->next, 1)) < p->n_instances) {
        check_instance(w, &p->instances[i]);
        pthread_mutex_lock(&p->lock);
        p->n_done++;
        if (p->progress) p->progress(p->ctx, (double)p->n_done / (double)p->n_instances);
        pthread_mutex_unlock(&p->lock);
    }
    dsl_close(w->dsl);
    mem_free(w);
    return NULL;
}

/* ---- What to check ---- */

static bool find_targets(struct plan *p, struct err *e) {
    struct target t;
    if (p->o->target) {
        if (!target_find(p->o->target, &p->targets[0], e)) return false;
        if (p->targets[0].ptx) {
            if (!cuda_open(0, &p->gpu, e)) return err_prefix(e, "target %s", p->o->target);
        } else if (!target_runs_here(&p->targets[0]))
            return err_set(e, ERR_UNSUPPORTED, "this processor cannot run the code of target %s", p->o->target);
        p->n_targets = 1;
        return true;
    }
    /* Targets of one class stand together. */
    for (size_t i = 0; target_name(i); i++) {
        if (!target_find(target_name(i), &t, e)) return false;
        if (!target_runs_here(&t) || p->n_targets == MAX_TARGETS) continue;
        size_t at = p->n_targets++;
        for (size_t j = 0; j < at; j++)
            if (!strcmp(p->targets[j].class_name, t.class_name)) {
                while (j < at && !strcmp(p->targets[j].class_name, t.class_name)) j++;
                memmove(&p->targets[j + 1], &p->targets[j], (at - j) * sizeof t);
                at = j;
                break;
            }
        p->targets[at] = t;
    }
    return true;
}

static bool find_formats(struct plan *p, struct dsl *d, struct err *e) {
    json_t *list = NULL, *f;
    if (!dsl_call(d, "formats", NULL, &list, e)) return false;
    size_t i;
    bool ok = true;
    json_array_foreach(list, i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        struct ref_format ref;
        if (json_is_true(json_object_get(f, "activation"))) continue;
        if (!ref_format_find(name, &ref) || p->n_formats == MAX_FORMATS) {
            ok = err_set(e, ERR_INPUT, "the format '%s' has no reference decoder; write one in verify/ref_format.c",
                         name);
            break;
        }
        if (ref.block_elems != json_integer_value(json_object_get(f, "block")) ||
            ref.block_bytes != json_integer_value(json_object_get(f, "bytes"))) {
            ok = err_set(e, ERR_INPUT, "the format '%s' has other blocks than its reference", name);
            break;
        }
        struct format *out = &p->formats[p->n_formats++];
        snprintf(out->name, sizeof out->name, "%s", name);
        out->block = ref.block_elems;
    }
    json_decref(list);
    return ok;
}

static bool wanted(const struct parity_options *o, const char *kernel) {
    for (size_t i = 0; i < o->n_kernels; i++)
        if (strcmp(o->kernels[i], kernel) == 0) return true;
    return o->n_kernels == 0;
}

static void describe_sizes(const struct parity_shape *s, char *out, size_t cap) {
    const struct {
        const char *name;
        int v;
    } sizes[] = {{"d", s->d},   {"n", s->n},   {"nq", s->nq},        {"nkv", s->nkv},
                 {"nh", s->nh}, {"hd", s->hd}, {"window", s->window}};
    size_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].v) at += (size_t)snprintf(out + at, cap - at, "%s%s=%d", at ? " " : "", sizes[i].name, sizes[i].v);
}

static void add_instances(struct plan *p, const struct parity_kernel *k, const struct parity_shape *base,
                          unsigned block, size_t number) {
    struct parity_shape list[PARITY_MAX_SHAPES];
    size_t n = k->shapes(base, block, p->o->quick, list);
    for (size_t i = 0; i < n; i++) {
        if (p->n_instances == p->cap) {
            p->cap = 2 * p->cap + 64;
            p->instances = mem_grow(p->instances, p->cap * sizeof *p->instances);
        }
        struct instance *in = &p->instances[p->n_instances++];
        *in = (struct instance){.kernel = k, .shape = list[i], .number = number};
        /* What is slow is checked with some formats of a fusion, with all of its parts. */
        if (k->n_weights > 1 && number % 5 != 0) in->shape.small = false;
        size_t at = 0;
        for (int f = 0; f < PARITY_MAX_FMTS && list[i].fmt[f]; f++)
            at += (size_t)snprintf(in->formats + at, sizeof in->formats - at, "%s%s", f ? "," : "", list[i].fmt[f]);
        if (list[i].act) snprintf(in->formats + at, sizeof in->formats - at, "%sact=%s", at ? " " : "", list[i].act);
        if (list[i].prod) snprintf(in->formats + at, sizeof in->formats - at, " prod=%s", list[i].prod);
        describe_sizes(&list[i], in->sizes, sizeof in->sizes);
    }
}

/* A kernel in every format; where it has several weights, each format stands in each place, beside others. */
static void add_kernel(struct plan *p, const struct parity_kernel *k) {
    static const char *const caches[] = {"f32", "f16", "q8_0", "bf16"}, *const acts[] = {"q8", "f32", "bf16"};
    static const size_t steps[PARITY_MAX_FMTS] = {0, 1, 3};
    size_t n_fmts = k->n_weights ? p->n_formats : k->cache ? 4 : 1;
    for (size_t f = 0; f < n_fmts; f++)
        for (size_t a = 0; a < (k->act ? 3 : 1); a++) {
            if (p->o->quick && k->n_weights > 1 && (f + a) % 2) continue;
            struct parity_shape base = {.act = k->act ? acts[a] : NULL};
            unsigned block = 1;
            if (k->cache) base.fmt[0] = caches[f];
            for (int i = 0; i < k->n_weights; i++) {
                const struct format *fmt = &p->formats[(f + steps[i]) % p->n_formats];
                base.fmt[i] = fmt->name;
                if (fmt->block > block) block = fmt->block;
            }
            add_instances(p, k, &base, block, 2 * f + a);
        }
    if (k->n_weights == 3) {
        struct parity_shape base = {.act = "f32", .fmt = {"f16", "f32", "f16"}};
        add_instances(p, k, &base, 1, 0);
    }
}

static const struct parity_kernel *kernel_of(const char *name) {
    for (const struct parity_kernel *k = parity_kernels; k->name; k++)
        if (strcmp(k->name, name) == 0) return k;
    return NULL;
}

static bool find_instances(struct plan *p, struct dsl *d, struct err *e) {
    json_t *list = NULL, *k;
    if (!dsl_call(d, "kernels", NULL, &list, e)) return false;
    size_t i;
    bool ok = true;
    for (size_t w = 0; w < p->o->n_kernels && ok; w++) {
        struct buf known = {0};
        bool found = false;
        json_array_foreach(list, i, k) {
            const char *name = json_string_value(json_object_get(k, "name"));
            buf_printf(&known, " %s", name);
            found = found || strcmp(name, p->o->kernels[w]) == 0;
        }
        if (!found) ok = err_set(e, ERR_USAGE, "no kernel '%s'; there are:%s", p->o->kernels[w], known.data);
        buf_free(&known);
    }
    json_array_foreach(list, i, k) {
        const char *name = json_string_value(json_object_get(k, "name"));
        const struct parity_kernel *ref = kernel_of(name);
        if (!ok || !wanted(p->o, name)) continue;
        if (ref)
            add_kernel(p, ref);
        else
            ok = err_set(e, ERR_INPUT, "kernel '%s' has no reference; add it to verify/parity_kernels.c", name);
    }
    json_decref(list);
    return ok;
}

/* The packing routines, before there are threads: compilations may fork. */
static bool make_packs(struct plan *p, struct dsl *d, struct err *e) {
    const char *fmts[MAX_FORMATS];
    const json_t *no_specs[MAX_FORMATS] = {0};
    bool any = false;
    for (size_t i = 0; i < p->n_instances; i++) any = any || p->instances[i].kernel->n_weights > 0;
    for (size_t f = 0; f < p->n_formats; f++) fmts[f] = p->formats[f].name;
    for (size_t t = 0; any && t < p->n_targets; t++) {
        struct compiler c = {.dsl = d, .target = p->targets[t], .n_threads = p->n_threads};
        if (leads_class(p, t) && !compile_kernels(&c, no_specs, fmts, p->n_formats, p->packs[t], e)) return false;
    }
    return true;
}

static void make_rows(struct plan *p) {
    struct parity_report *r = p->report;
    for (size_t i = 0; i < p->n_instances; i++) {
        const struct instance *in = &p->instances[i];
        if (i && in->kernel == in[-1].kernel && strcmp(in->formats, in[-1].formats) == 0) continue;
        for (size_t t = 0; t < p->n_targets; t++) {
            r->rows = mem_grow(r->rows, (r->n_rows + 1) * sizeof *r->rows);
            r->rows[r->n_rows++] = (struct parity_row){.kernel = arena_strdup(&r->arena, in->kernel->name),
                                                       .formats = arena_strdup(&r->arena, in->formats),
                                                       .target = arena_strdup(&r->arena, p->targets[t].name)};
        }
    }
}

bool parity_run(const struct parity_options *o, void (*progress)(void *ctx, double fraction), void *ctx,
                struct parity_report *out, struct err *e) {
    struct plan *p = mem_new(sizeof *p);
    p->o = o;
    p->report = out;
    p->progress = progress;
    p->ctx = ctx;
    pthread_mutex_init(&p->lock, NULL);
    struct dsl *d = NULL;
    *out = (struct parity_report){0};
    long here = sysconf(_SC_NPROCESSORS_ONLN);
    p->n_threads = o->threads > 0 ? o->threads : here < 1 ? 1 : here > 8 ? 8 : (int)here;
    if (p->n_threads > MAX_THREADS) p->n_threads = MAX_THREADS;
    bool ok = dsl_open(&d, e) && find_targets(p, e) && find_formats(p, d, e) && find_instances(p, d, e) &&
              make_packs(p, d, e);
    dsl_close(d);
    if (ok) {
        make_rows(p);
        pthread_t threads[MAX_THREADS];
        int started = 0;
        for (int i = 1; i < p->n_threads; i++)
            if (pthread_create(&threads[started], NULL, work, p) == 0) started++;
        work(p);
        for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
        if (p->n_done < p->n_instances) {
            *e = p->err;
            ok = false;
        }
    }
    for (size_t t = 0; t < MAX_TARGETS; t++)
        for (size_t f = 0; f < MAX_FORMATS; f++) kernel_free(&p->packs[t][f]);
    mem_free(p->instances);
    pthread_mutex_destroy(&p->lock);
    cuda_close(p->gpu);
    mem_free(p);
    return ok;
}

void parity_free(struct parity_report *r) {
    mem_free(r->rows);
    mem_free(r->failures);
    arena_free(&r->arena);
    *r = (struct parity_report){0};
}
