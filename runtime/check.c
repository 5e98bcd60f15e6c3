#include "runtime/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct check {
    struct model *m;
    struct kernel *references; /* of the plan's kernels */
    bool **is_out;             /* per plan kernel and argument */
    float *outputs;            /* shadow of all outputs of a launch */
    void *ws;
    void **args;
};

/* Baseline code, over weights packed for the model's own target. */
static bool lower_reference(struct model *m, const json_t *spec, const struct target *base, json_t **meta,
                            struct err *e) {
    json_t *arg = json_pack("{s:O, s:{s:s, s:i, s:i, s:i, s:i, s:b}}", "spec", (json_t *)spec, "target", "class",
                            base->class_name, "lanes", (int)base->lanes, "pack_lanes",
                            (int)m->compiler.target.pack_lanes, "pack_words", (int)m->compiler.target.pack_words, "vregs", (int)base->n_vregs, "serial", 1);
    bool ok = dsl_call(m->dsl, "lower", arg, meta, e);
    json_decref(arg);
    return ok;
}

/* A signature lists its outputs behind the arrow. */
static bool *find_outputs(const struct kernel *k, const json_t *spec) {
    bool *out = mem_new((k->n_args + 1) * sizeof *out);
    const char *arrow = strstr(json_string_value(json_object_get(spec, "sig")), "->");
    for (size_t i = 0; i < k->n_args && arrow; i++) {
        size_t n = strlen(k->args[i]);
        for (const char *p = arrow; (p = strstr(p, k->args[i])); p += n)
            if ((p[-1] == ' ' || p[-1] == '>') && p[n] == ':') out[i] = true;
    }
    return out;
}

bool check_open(struct model *m, int64_t batch, int64_t head_batch, struct check **out, struct err *e) {
    struct target base;
    *out = NULL;
    if (m->gpu) return err_set(e, ERR_UNSUPPORTED, "--check compares on the processor; leave --device out");
    if (!target_find("x86-64", &base, e)) return false;
    struct check *c = mem_new(sizeof *c);
    c->m = m;
    c->references = mem_new(m->n_plan_kernels * sizeof *c->references);
    c->is_out = mem_new(m->n_plan_kernels * sizeof *c->is_out);
    const json_t *specs = json_object_get(m->plan, "kernels");
    uint64_t ws = 0;
    bool ok = true;
    for (size_t k = 0; k < m->n_plan_kernels && ok; k++) {
        json_t *meta = NULL;
        const json_t *spec = json_array_get(specs, k);
        ok = lower_reference(m, spec, &base, &meta, e) && compile_lowered(meta, &base, &c->references[k], e);
        json_decref(meta);
        if (!ok) break;
        c->is_out[k] = find_outputs(&c->references[k], spec);
        if (c->references[k].ws_per_tok > ws) ws = c->references[k].ws_per_tok;
    }
    uint64_t floats = 0, n_args = 1;
    for (size_t i = 0; i < m->n_launches && ok; i++) {
        const struct launch *l = &m->launches[i];
        uint64_t sum = 0;
        for (size_t k = 0; k < l->n_binding; k++)
            if (m->tensors[l->binding[k]].kind == TENSOR_ACT)
                sum += (uint64_t)m->tensors[l->binding[k]].width * (uint64_t)(l->head ? head_batch : batch) + 64;
        if (sum > floats) floats = sum;
        if (l->kernel->n_args > n_args) n_args = l->kernel->n_args;
    }
    if (ok) {
        c->args = mem_new(n_args * sizeof *c->args);
        c->outputs = mem_try(floats + 64, sizeof *c->outputs);
        c->ws = aligned_alloc(64, (ws * (uint64_t)batch + 8192) / 64 * 64);
        if (!c->outputs || !c->ws) ok = err_set(e, ERR_MEMORY, "no memory for the reference kernels of --check");
    }
    if (!ok) {
        check_close(c);
        return false;
    }
    *out = c;
    return true;
}

void check_close(struct check *c) {
    if (!c) return;
    for (size_t k = 0; k < c->m->n_plan_kernels; k++) {
        kernel_free(&c->references[k]);
        mem_free(c->is_out[k]);
    }
    mem_free(c->references);
    mem_free(c->is_out);
    mem_free(c->outputs);
    mem_free(c->args);
    free(c->ws);
    mem_free(c);
}

static size_t index_of(const struct check *c, size_t i) { return (size_t)(c->m->launches[i].kernel - c->m->kernels); }

/* The tensor of argument a, NULL for the page table. */
static const struct tensor *argument(const struct check *c, size_t i, size_t a) {
    const struct launch *l = &c->m->launches[i];
    const char *name = l->kernel->args[a];
    if (strcmp(name, "pages") == 0) return NULL;
    return &c->m->tensors[l->binding[strtol(name + 1, NULL, 10) - 1]];
}

/* Points the outputs that are activations into the check's own memory. */
static void shadow(struct check *c, size_t i, void *const *args, int64_t n_tok) {
    const struct kernel *k = c->m->launches[i].kernel;
    float *at = c->outputs;
    for (size_t a = 0; a < k->n_args; a++) {
        const struct tensor *t = argument(c, i, a);
        c->args[a] = args[a];
        if (!c->is_out[index_of(c, i)][a] || !t || t->kind != TENSOR_ACT) continue;
        c->args[a] = at;
        at += t->width * n_tok;
    }
}

void check_reference(struct check *c, size_t i, void *const *args, const int64_t *sizes) {
    const struct kernel *k = &c->references[index_of(c, i)];
    shadow(c, i, args, sizes[RUN_TOK]);
    int64_t dims[N_RUN_DIMS];
    for (size_t d = 0; d < k->n_dims; d++) dims[d] = sizes[k->dims[d]];
    for (size_t p = 0; p < k->n_phases; p++)
        for (size_t j = 0; j < k->phases[p].n_parts; j++) {
            const struct part *part = &k->phases[p].parts[j];
            part->fn(c->args, dims, 0, part_tasks(part, sizes), c->ws);
        }
}

bool check_compare(struct check *c, size_t i, void *const *args, const int64_t *sizes, struct err *e) {
    const struct kernel *k = c->m->launches[i].kernel;
    double share = strcmp(c->m->act, "f32") == 0 ? 1e-3 : 5e-2;
    shadow(c, i, args, sizes[RUN_TOK]);
    for (size_t a = 0; a < k->n_args; a++) {
        const struct tensor *t = argument(c, i, a);
        if (c->args[a] == args[a] || !t) continue;
        const float *got = args[a], *want = c->args[a];
        for (int64_t r = 0; r < sizes[RUN_TOK]; r++, got += t->width, want += t->width) {
            double largest = 0;
            for (int64_t x = 0; x < t->width; x++) largest = fmax(largest, fabs((double)want[x]));
            for (int64_t x = 0; x < t->width; x++)
                if (!(fabs((double)got[x] - (double)want[x]) <= share * largest))
                    return err_set(e, ERR_COMPILE,
                                   "--check: launch %zu (%s), output %s[%lld][%lld] is %.9g; the reference kernel gives "
                                   "%.9g, more than %g of the row's largest value apart", i, k->name, k->args[a],
                                   (long long)r, (long long)x, (double)got[x], (double)want[x], share);
        }
    }
    return true;
}
