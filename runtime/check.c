#include "runtime/check.h"
#include "codegen/f16.h"
#include "runtime/session_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SLACK = 256 };

struct mirror {
    void *data; /* on a GPU: the host's copy of a tensor */
    bool fixed; /* it never changes: copied once */
};

struct check {
    struct session *s;
    struct model *m;
    struct kernel *references; /* of the plan's kernels */
    bool **is_out;             /* per plan kernel and argument */
    struct mirror *mirrors;    /* [n_tensors] on a GPU */
    uint8_t *outputs;          /* shadow of all outputs of a launch */
    void *ws;
    void **args; /* of the reference */
};

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

/* Bytes of a tensor over n_tok tokens. */
static uint64_t tensor_bytes(const struct check *c, const struct tensor *t, int64_t n_tok) {
    const struct session *s = c->s;
    switch (t->kind) {
    case TENSOR_WEIGHT: return t->bytes;
    case TENSOR_TABLE: return (uint64_t)s->n_ctx * (uint64_t)t->dims[1] * 4;
    case TENSOR_CACHE: return session_page_bytes(t) * (uint64_t)s->n_pages;
    case TENSOR_ACT: return (uint64_t)t->width * (uint64_t)n_tok * 4;
    case TENSOR_INPUT: return 0; /* the session has them */
    }
    bug("tensor kind %d", (int)t->kind);
}

static uint64_t shadow_bytes(const struct check *c, const struct tensor *t, int64_t n_tok) {
    bool written = t->kind == TENSOR_ACT || t->kind == TENSOR_CACHE;
    return written ? (tensor_bytes(c, t, n_tok) + 127) / 64 * 64 : 0;
}

bool check_open(struct session *s, struct check **out, struct err *e) {
    struct model *m = s->m;
    struct target base;
    *out = NULL;
    if (!target_find("x86-64", &base, e)) return false;
    /* Baseline code, over weights packed for the model's own target. */
    base.pack_lanes = m->compiler.target.pack_lanes;
    base.pack_words = m->compiler.target.pack_words;
    struct check *c = mem_new(sizeof *c);
    c->s = s;
    c->m = m;
    c->mirrors = mem_new(m->n_tensors * sizeof *c->mirrors);
    c->references = mem_new(m->n_plan_kernels * sizeof *c->references);
    c->is_out = mem_new(m->n_plan_kernels * sizeof *c->is_out);
    const json_t *specs = json_object_get(m->plan, "kernels");
    uint64_t ws = 0;
    bool ok = true;
    for (size_t k = 0; k < m->n_plan_kernels && ok; k++) {
        json_t *meta = NULL;
        const json_t *spec = json_array_get(specs, k);
        if (json_object_get(spec, "upto")) continue; /* the launch's code for any number of tokens has the same meaning */
        ok = compile_lower(m->dsl, spec, &base, true, &meta, e) && compile_lowered(meta, &base, &c->references[k], e);
        json_decref(meta);
        if (!ok) break;
        c->is_out[k] = find_outputs(&c->references[k], spec);
        if (c->references[k].ws_per_tok > ws) ws = c->references[k].ws_per_tok;
    }
    uint64_t bytes = 0, n_args = 1;
    for (size_t i = 0; i < m->n_all_launches && ok; i++) {
        const struct launch *l = &m->launches[i];
        uint64_t sum = 0;
        for (size_t k = 0; k < l->n_binding; k++) sum += shadow_bytes(c, &m->tensors[l->binding[k]], s->batch);
        if (sum > bytes) bytes = sum;
        if (l->kernel->n_args > n_args) n_args = l->kernel->n_args;
    }
    if (ok) {
        c->args = mem_new(n_args * sizeof *c->args);
        c->outputs = mem_try(bytes + 64, 1);
        c->ws = aligned_alloc(64, (ws * (uint64_t)s->batch + 8192) / 64 * 64);
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
    for (size_t i = 0; i < c->m->n_tensors; i++) mem_free(c->mirrors[i].data);
    mem_free(c->mirrors);
    mem_free(c->references);
    mem_free(c->is_out);
    mem_free(c->outputs);
    mem_free(c->args);
    free(c->ws);
    mem_free(c);
}

static size_t index_of(const struct check *c, size_t i) { return (size_t)(c->m->launches[i].kernel - c->m->kernels); }

/* The index of argument a's tensor. */
static int32_t argument(const struct check *c, size_t i, size_t a) {
    const struct launch *l = &c->m->launches[i];
    const char *name = l->kernel->args[a];
    return strcmp(name, "pages") == 0 ? c->m->pages : l->binding[strtol(name + 1, NULL, 10) - 1];
}

/* Where the processor reads what the launch finds at `at`: there, or in a copy of it. */
static bool host_data(struct check *c, int32_t index, void *at, void **out, struct err *e) {
    const struct tensor *t = &c->m->tensors[index];
    struct mirror *mirror = &c->mirrors[index];
    *out = at;
    if (!c->m->gpu) return true;
    if (t->kind == TENSOR_INPUT) {
        *out = index == c->m->ids ? (void *)c->s->ids : (void *)c->s->pages;
        return true;
    }
    /* Reference kernels read whole vectors, as all do. */
    if (!mirror->data) mirror->data = mem_try(tensor_bytes(c, t, c->s->batch) + SLACK, 1);
    if (!mirror->data) return err_set(e, ERR_MEMORY, "no memory for the host's copies of --check");
    *out = mirror->data;
    if (mirror->fixed) return true;
    mirror->fixed = t->kind == TENSOR_WEIGHT || t->kind == TENSOR_TABLE;
    return cuda_download(c->m->gpu, mirror->data, on_gpu(at), tensor_bytes(c, t, c->s->sizes[RUN_TOK]), e);
}

/* The reference's arguments: outputs lie in the check's own memory, the KV cache with what it held. */
static bool shadow(struct check *c, size_t i, void *const *args, struct err *e) {
    const struct kernel *k = c->m->launches[i].kernel;
    uint8_t *at = c->outputs;
    for (size_t a = 0; a < k->n_args; a++) {
        int32_t index = argument(c, i, a);
        const struct tensor *t = &c->m->tensors[index];
        if (!host_data(c, index, args[a], &c->args[a], e)) return false;
        uint64_t bytes = shadow_bytes(c, t, c->s->sizes[RUN_TOK]);
        if (!c->is_out[index_of(c, i)][a] || !bytes) continue;
        if (t->kind == TENSOR_CACHE) memcpy(at, c->args[a], tensor_bytes(c, t, 0));
        c->args[a] = at;
        at += bytes;
    }
    return true;
}

bool check_reference(struct check *c, size_t i, void *const *args, struct err *e) {
    const struct kernel *k = &c->references[index_of(c, i)];
    const int64_t *sizes = c->s->sizes;
    if (!shadow(c, i, args, e)) return false;
    int64_t dims[N_RUN_DIMS];
    for (size_t d = 0; d < k->n_dims; d++) dims[d] = sizes[k->dims[d]];
    for (size_t p = 0; p < k->n_phases; p++)
        for (size_t j = 0; j < k->phases[p].n_parts; j++) {
            const struct part *part = &k->phases[p].parts[j];
            part->fn(c->args, dims, 0, part_tasks(part, sizes), c->ws);
        }
    return true;
}

static bool is_cache_of(const struct tensor *t, const char *fmt) {
    return t->kind == TENSOR_CACHE && strcmp(t->fmt, fmt) == 0;
}

static double element(const struct tensor *t, const void *data, int64_t at) {
    const uint16_t *halves = data;
    if (is_cache_of(t, "f16")) return (double)f32_from_bits(f32_bits_from_f16(halves[at]));
    if (is_cache_of(t, "bf16")) return (double)f32_from_bits((uint32_t)halves[at] << 16);
    return (double)((const float *)data)[at];
}

/* n elements from `from` on, held to the largest of them. */
static bool compare(const struct check *c, size_t i, size_t a, const struct tensor *t, const void *got,
                    const void *want, int64_t row, int64_t n, struct err *e) {
    const struct kernel *k = c->m->launches[i].kernel;
    double share = strcmp(c->m->act, "f32") == 0 && (t->kind != TENSOR_CACHE || is_cache_of(t, "f32")) ? 1e-3 : 5e-2;
    double largest = 0;
    for (int64_t x = row * n; x < (row + 1) * n; x++) largest = fmax(largest, fabs(element(t, want, x)));
    for (int64_t x = row * n; x < (row + 1) * n; x++) {
        double found = element(t, got, x), expected = element(t, want, x);
        if (!(fabs(found - expected) <= share * largest))
            return err_set(e, ERR_COMPILE,
                           "--check: launch %zu (%s), output %s[%lld][%lld] is %.9g; the reference kernel gives %.9g, more "
                           "than %g of the row's largest value apart", i, k->name, k->args[a], (long long)row,
                           (long long)(x - row * n), found, expected, share);
    }
    return true;
}

bool check_compare(struct check *c, size_t i, void *const *args, struct err *e) {
    const struct kernel *k = c->m->launches[i].kernel;
    for (size_t a = 0; a < k->n_args; a++) {
        int32_t index = argument(c, i, a);
        const struct tensor *t = &c->m->tensors[index];
        void *got, *want = c->args[a];
        if (!c->is_out[index_of(c, i)][a] || !shadow_bytes(c, t, 1)) continue;
        if (!host_data(c, index, args[a], &got, e)) return false;
        bool cache = t->kind == TENSOR_CACHE;
        if (is_cache_of(t, "q8_0")) continue;
        int64_t rows = cache ? c->s->n_pages * t->dims[0] : c->s->sizes[RUN_TOK];
        int64_t width = cache ? (int64_t)PAGE * t->dims[2] : t->width;
        for (int64_t r = 0; r < rows; r++)
            if (!compare(c, i, a, t, got, want, r, width, e)) return false;
    }
    return true;
}
