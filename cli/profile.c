#include "cli/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void profile_begin(struct profile *p, const struct model *m, struct session *s) {
    p->model = m;
    p->session = s;
    if (!p->times.launches) p->times.launches = mem_new((m->n_all_launches + 1) * sizeof *p->times.launches);
    session_set_profile(s, &p->times);
}

void profile_end(struct profile *p) {
    session_set_profile(p->session, NULL);
}

void profile_free(struct profile *p) {
    mem_free(p->times.launches);
    mem_free(p->kernels);
    *p = (struct profile){0};
}

uint64_t launch_weight_bytes(const struct model *m, const struct launch *l) {
    uint64_t bytes = 0;
    bool looks_up = false;
    for (size_t i = 0; i < l->n_binding; i++) looks_up |= l->binding[i] == m->ids;
    for (size_t i = 0; i < l->n_binding; i++) {
        const struct tensor *t = &m->tensors[l->binding[i]];
        if (t->kind != TENSOR_WEIGHT) continue;
        bytes += looks_up && t->n_dims == 2 && t->dims[0] > 0 ? t->bytes / (uint64_t)t->dims[0] : t->bytes;
    }
    return bytes;
}

/* ---- What launches cost -------------------------------------------------------------------------------------------
 */

static double number(const json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}

bool profile_costs(struct profile *p, int64_t tok, int64_t pos, const struct peaks *peaks, struct err *e) {
    const struct model *m = p->model;
    const json_t *specs = json_object_get(m->plan, "kernels");
    enum { PAGE = 256 }; /* dsl/access.lua */
    p->tok = tok;
    p->pos = pos;
    if (!m->dsl || m->bundle) return true;
    p->kernels = mem_new((m->n_plan_kernels + 1) * sizeof *p->kernels);
    for (size_t k = 0; k < m->n_plan_kernels; k++) {
        json_t *spec = json_array_get(specs, k), *costs = NULL;
        bool head = true; /* what follows the last layer sees the last token alone */
        for (size_t i = 0; i < m->n_all_launches; i++)
            head = head && (m->launches[i].kernel != &m->kernels[k] || m->launches[i].head);
        int64_t key = pos + tok;
        json_t *arg = json_pack("{s:O, s:{s:I, s:I, s:I, s:I, s:I}, s:i, s:i}", "spec", spec, "run", "tok",
                                (json_int_t)(head ? 1 : tok), "pos", (json_int_t)pos, "key", (json_int_t)key, "ctx",
                                (json_int_t)key, "npages", (json_int_t)((key + PAGE - 1) / PAGE), "lanes",
                                (int)m->compiler.target.pack_lanes, "words", (int)m->compiler.target.pack_words);
        bool ok = dsl_call(m->dsl, "case", arg, &costs, e);
        json_decref(arg);
        if (!ok) return false;
        struct profile_kernel *x = &p->kernels[k];
        x->bytes = number(costs, "bytes");
        x->ops = number(costs, "ops");
        x->limit_s = fmax(x->bytes / peaks->read_bytes_per_s, x->ops / peaks_ops_per_s(peaks, spec));
        json_decref(costs);
    }
    return true;
}

/* ---- By kernel, by layer ------------------------------------------------------------------------------------------
 */

/* Numbers are an evaluation's: averages, where evaluations differ in their launches. */
static double seconds_of(const struct profile *p, size_t launch) {
    return p->times.launches[launch].seconds / (double)p->times.n_evals;
}
static double runs_of(const struct profile *p, size_t launch) {
    return (double)p->times.launches[launch].runs / (double)p->times.n_evals;
}

struct row {
    const struct kernel *kernel;
    const struct profile_kernel *cost; /* NULL: not known */
    double seconds, weights, launches;
};

static int by_time(const void *a, const void *b) {
    double x = ((const struct row *)a)->seconds, y = ((const struct row *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The kernels that are launched, by time. *rows: the caller frees them. */
static size_t rows_of(const struct profile *p, struct row **rows, double *total) {
    const struct model *m = p->model;
    size_t used = 0;
    *rows = mem_new((m->n_kernels + 1) * sizeof **rows);
    *total = 0;
    for (size_t i = 0; i < m->n_all_launches; i++) {
        double seconds = seconds_of(p, i), runs = runs_of(p, i);
        if (runs == 0) continue; /* launches for another number of tokens */
        size_t k = (size_t)(m->launches[i].kernel - m->kernels);
        struct row *r = &(*rows)[k];
        r->kernel = m->launches[i].kernel;
        r->cost = p->kernels && k < m->n_plan_kernels ? &p->kernels[k] : NULL;
        r->seconds += seconds;
        r->weights += (double)launch_weight_bytes(m, &m->launches[i]) * runs;
        r->launches += runs;
        *total += seconds;
    }
    qsort(*rows, m->n_kernels, sizeof **rows, by_time);
    while (used < m->n_kernels && (*rows)[used].kernel) used++;
    return used;
}

int tensor_layer(const char *name, bool cache) {
    if (cache && (*name == 'k' || *name == 'v')) return (int)strtol(name + 1, NULL, 10);
    return strncmp(name, "blk.", 4) == 0 ? (int)strtol(name + 4, NULL, 10) : -1;
}

struct layer {
    int number; /* -1: before or after them */
    double seconds, launches, barriers;
};

/* Layers in order of their first launch; what has no tensor of the file, such as adding, belongs to the layer it stands
 * in. *layers: the caller frees them. */
static size_t layers_of(const struct profile *p, struct layer **layers) {
    const struct model *m = p->model;
    size_t n = 0;
    int now = -1;
    *layers = mem_new((m->n_all_launches + 1) * sizeof **layers);
    for (size_t i = 0; i < m->n_all_launches; i++) {
        const struct launch *l = &m->launches[i];
        double runs = runs_of(p, i);
        if (runs == 0) continue;
        for (size_t k = 0; k < l->n_binding; k++) {
            const struct tensor *t = &m->tensors[l->binding[k]];
            if (t->kind == TENSOR_WEIGHT || t->kind == TENSOR_CACHE)
                now = tensor_layer(t->name, t->kind == TENSOR_CACHE);
        }
        size_t at = 0;
        while (at < n && (*layers)[at].number != now) at++;
        struct layer *x = &(*layers)[at];
        if (at == n) *x = (struct layer){.number = now}, n++;
        x->launches += runs;
        x->barriers += runs * (double)launch_kernel(m, l, p->tok)->n_phases;
        x->seconds += seconds_of(p, i);
    }
    return n;
}

static void print_layers(const struct profile *p, FILE *f) {
    struct layer *layers, outside = {0};
    size_t n = layers_of(p, &layers), n_inside = 0;
    double sum = 0, least = INFINITY, most = 0, launches = 0, barriers = 0;
    for (size_t i = 0; i < n; i++) {
        const struct layer *x = &layers[i];
        if (x->number < 0) {
            outside = *x;
            continue;
        }
        n_inside++;
        sum += x->seconds;
        least = fmin(least, x->seconds);
        most = fmax(most, x->seconds);
        launches += x->launches;
        barriers += x->barriers;
    }
    if (n_inside)
        fprintf(f, "  %9.4f ms a layer (%.4f … %.4f in %zu layers), %.3g launches and %.3g barriers in each\n",
                sum / (double)n_inside * 1e3, least * 1e3, most * 1e3, n_inside, launches / (double)n_inside,
                barriers / (double)n_inside);
    if (outside.launches > 0)
        fprintf(f, "  %9.4f ms before and after them, %.4g launches and %.4g barriers\n", outside.seconds * 1e3,
                outside.launches, outside.barriers);
    fprintf(f, "  %.4g launches, %.4g barriers each\n", launches + outside.launches, barriers + outside.barriers);
    mem_free(layers);
}

void profile_print(const struct profile *p, const char *title, FILE *f) {
    const struct model *m = p->model;
    if (!m || p->times.n_evals == 0) return;
    double total;
    struct row *rows;
    size_t n = rows_of(p, &rows, &total);
    fprintf(f, "%s: %.3f ms each, %llu evaluations\n", title, total * 1e3, (unsigned long long)p->times.n_evals);
    fprintf(f, "  %9s %6s %9s %8s %s %s\n", "ms", "share", "launches", "GB/s", p->kernels ? "   Gop/s of limit " : "",
            "kernel");
    for (size_t i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        /* Without costs, the weights alone. */
        double bytes = r->cost ? r->cost->bytes * r->launches : r->weights;
        fprintf(f, "  %9.4f %5.1f%% %9.4g %8.1f ", r->seconds * 1e3, 100 * r->seconds / total, r->launches,
                bytes / r->seconds / 1e9);
        if (r->cost)
            fprintf(f, "%8.1f %6.0f%%  ", r->cost->ops * r->launches / r->seconds / 1e9,
                    100 * r->cost->limit_s * r->launches / r->seconds);
        fprintf(f, " %s\n", r->kernel->name);
    }
    print_layers(p, f);
    mem_free(rows);
}

json_t *profile_json(const struct profile *p, const char *title) {
    double total, barriers = 0;
    struct row *rows;
    struct layer *layers;
    size_t n = rows_of(p, &rows, &total), n_layers = layers_of(p, &layers);
    json_t *kernels = json_array(), *by_layer = json_array();
    for (size_t i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        json_t *x =
            json_pack("{s:s, s:f, s:f}", "kernel", r->kernel->name, "launches", r->launches, "ms", r->seconds * 1e3);
        if (r->cost)
            json_object_update_new(x, json_pack("{s:f, s:f, s:f}", "bytes", r->cost->bytes * r->launches, "ops",
                                                r->cost->ops * r->launches, "limit_ms",
                                                r->cost->limit_s * r->launches * 1e3));
        json_array_append_new(kernels, x);
    }
    for (size_t i = 0; i < n_layers; i++) {
        const struct layer *l = &layers[i];
        json_array_append_new(by_layer, json_pack("{s:i, s:f, s:f, s:f}", "layer", l->number, "launches", l->launches,
                                                  "barriers", l->barriers, "ms", l->seconds * 1e3));
        barriers += l->barriers;
    }
    mem_free(rows);
    mem_free(layers);
    return json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:o, s:o}", "title", title, "tok", (json_int_t)p->tok, "pos",
                     (json_int_t)p->pos, "evaluations", (json_int_t)p->times.n_evals, "ms", total * 1e3, "barriers",
                     barriers, "kernels", kernels, "layers", by_layer);
}
