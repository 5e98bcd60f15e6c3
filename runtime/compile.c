#include "runtime/compile.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

static const char *const run_dim_names[N_RUN_DIMS] = {"tok", "pos",  "key",       "ctx",       "npages",
                                                      "nb",  "rows", "row_bytes", "tile_bytes"};

static bool find_dim(const char *name, enum run_dim *out) {
    for (int i = 0; i < N_RUN_DIMS; i++)
        if (strcmp(run_dim_names[i], name) == 0) {
            *out = (enum run_dim)i;
            return true;
        }
    return false;
}

int64_t part_tasks(const struct part *p, const int64_t *sizes) {
    if (p->per == 0) return p->times;
    return p->times * ((sizes[p->dim] + p->per - 1) / p->per);
}

void kernel_free(struct kernel *k) {
    for (size_t i = 0; i < k->n_phases; i++) {
        for (size_t j = 0; j < k->phases[i].n_parts; j++) mem_free(k->phases[i].parts[j].name);
        mem_free(k->phases[i].parts);
    }
    for (size_t i = 0; i < k->n_args; i++) mem_free(k->args[i]);
    mem_free(k->phases);
    mem_free(k->args);
    mem_free(k->dims);
    mem_free(k->name);
    code_free(k->code);
    *k = (struct kernel){0};
}

static char *copy(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(mem_new(n), s, n);
}

/* Fills k from a launch's description (dsl/main.lua, lower) and its loaded code. */
static bool describe(struct kernel *k, const json_t *meta, struct err *e) {
    const char *name = json_string_value(json_object_get(meta, "name"));
    if (!name) return err_set(e, ERR_INPUT, "a compiled kernel has no name");
    k->name = copy(name);
    k->ws_per_tok = (uint64_t)json_integer_value(json_object_get(meta, "ws"));
    const json_t *phases = json_object_get(meta, "phases");
    k->phases = mem_new(json_array_size(phases) * sizeof *k->phases);
    for (size_t i = 0; i < json_array_size(phases); i++) {
        const json_t *parts = json_array_get(phases, i);
        struct phase *ph = &k->phases[k->n_phases++];
        ph->parts = mem_new(json_array_size(parts) * sizeof *ph->parts);
        for (size_t j = 0; j < json_array_size(parts); j++) {
            const json_t *p = json_array_get(parts, j);
            const char *fn = json_string_value(json_object_get(p, "fn"));
            const char *dim = json_string_value(json_object_get(p, "dim"));
            struct part *part = &ph->parts[ph->n_parts++];
            part->times = json_integer_value(json_object_get(p, "times"));
            part->per = json_integer_value(json_object_get(p, "per"));
            if (!fn || (part->per && (!dim || !find_dim(dim, &part->dim))))
                return err_set(e, ERR_INPUT, "kernel '%s': a part without a function or task axis", name);
            part->name = copy(fn);
            part->fn = code_symbol(k->code, fn);
            if (!part->fn) return err_set(e, ERR_COMPILE, "kernel '%s': no function '%s' in its object", name, fn);
        }
    }
    const json_t *args = json_object_get(meta, "args"), *dims = json_object_get(meta, "dims");
    k->args = mem_new(json_array_size(args) * sizeof *k->args);
    for (size_t i = 0; i < json_array_size(args); i++)
        k->args[k->n_args++] = copy(json_string_value(json_array_get(args, i)));
    k->dims = mem_new(json_array_size(dims) * sizeof *k->dims);
    for (size_t i = 0; i < json_array_size(dims); i++) {
        const char *d = json_string_value(json_array_get(dims, i));
        if (!find_dim(d, &k->dims[k->n_dims++]))
            return err_set(e, ERR_INPUT, "kernel '%s': the run-time size '%s' is not known to the runtime", name, d);
    }
    return true;
}

static json_t *target_json(const struct target *t, bool serial) {
    return json_pack("{s:s, s:i, s:i, s:i, s:b}", "class", t->class_name, "lanes", (int)t->lanes, "pack_lanes",
                     (int)t->lanes, "vregs", (int)t->n_vregs, "serial", serial);
}

bool compile_lower(struct dsl *d, const json_t *spec, const struct target *t, bool serial, json_t **meta,
                   struct err *e) {
    json_t *arg = json_pack("{s:O, s:o}", "spec", (json_t *)spec, "target", target_json(t, serial));
    if (!arg) return err_set(e, ERR_INPUT, "a kernel specification is not valid data");
    bool ok = dsl_call(d, "lower", arg, meta, e);
    json_decref(arg);
    return ok;
}

bool compile_lowered(const json_t *meta, const struct target *t, struct kernel *out, struct err *e) {
    struct buf obj = {0};
    const json_t *ir = json_object_get(meta, "ir");
    bool ok = codegen_emit(json_string_value(ir), json_string_length(ir), t, STAGE_OBJ, NULL, &obj, e) &&
              code_load(obj.data, obj.len, &out->code, e) && describe(out, meta, e);
    buf_free(&obj);
    if (!ok) {
        kernel_free(out);
        err_prefix(e, "%s", json_string_value(json_object_get(meta, "name")));
    }
    return ok;
}

/* One kernel on its way through the cache. */
struct job {
    char *key;
    json_t *meta;   /* with "ir" until compiled */
    struct buf obj;
    bool cached;
    struct err err;
};

struct work {
    struct compiler *c;
    struct job *jobs;
    size_t n;
    _Atomic size_t next;
};

static void *compile_jobs(void *arg) {
    struct work *w = arg;
    for (;;) {
        size_t i = atomic_fetch_add(&w->next, 1);
        if (i >= w->n) return NULL;
        struct job *j = &w->jobs[i];
        if (j->cached) continue;
        const json_t *ir = json_object_get(j->meta, "ir");
        codegen_emit(json_string_value(ir), json_string_length(ir), &w->c->target, STAGE_OBJ, w->c->dump, &j->obj, &j->err);
    }
}

/* A cache payload: the description's length as 8 bytes, the description (JSON), the object. */
static bool unpack(struct job *j, const struct buf *payload) {
    uint64_t n;
    if (payload->len < sizeof n) return false;
    memcpy(&n, payload->data, sizeof n);
    if (n > payload->len - sizeof n) return false;
    j->meta = json_loadb(payload->data + sizeof n, n, 0, NULL);
    if (!j->meta) return false;
    buf_add(&j->obj, payload->data + sizeof n + n, payload->len - sizeof n - n);
    return true;
}

static void store(struct compiler *c, struct job *j) {
    json_object_del(j->meta, "ir");
    char *text = json_dumps(j->meta, JSON_COMPACT | JSON_SORT_KEYS);
    uint64_t n = strlen(text);
    struct buf payload = {0};
    buf_add(&payload, &n, sizeof n);
    buf_add(&payload, text, n);
    buf_add(&payload, j->obj.data, j->obj.len);
    cache_put(c->cache, j->key, strlen(j->key), payload.data, payload.len);
    buf_free(&payload);
    free(text);
}

static bool lower_job(struct compiler *c, const json_t *spec, const char *pack_fmt, struct job *j, struct err *e) {
    if (!pack_fmt) return compile_lower(c->dsl, spec, &c->target, false, &j->meta, e);
    json_t *arg = json_pack("{s:s, s:i}", "fmt", pack_fmt, "lanes", (int)c->target.lanes);
    json_t *r = NULL;
    bool ok = dsl_call(c->dsl, "pack", arg, &r, e);
    json_decref(arg);
    if (!ok) return false;
    j->meta = json_pack("{s:O, s:O, s:i, s:[[{s:O, s:i, s:i, s:s}]], s:[s, s, s], s:O}", "name",
                        json_object_get(r, "name"), "ir", json_object_get(r, "ir"), "ws", 0, "phases", "fn",
                        json_object_get(r, "fn"), "times", 1, "per", 1, "dim", "rows", "args", "src", "dst", "rowmap",
                        "dims", json_object_get(r, "dims"));
    json_object_set_new(json_array_get(json_array_get(json_object_get(j->meta, "phases"), 0), 0), "per",
                        json_integer((json_int_t)c->target.lanes));
    json_decref(r);
    return true;
}

static char *key_of(const struct compiler *c, const json_t *spec, const char *pack_fmt) {
    struct buf b = {0};
    char *text = spec ? json_dumps(spec, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    codegen_key("", 0, &c->target, &b);
    buf_printf(&b, "%s|%s", dsl_digest(c->dsl), pack_fmt ? pack_fmt : text);
    free(text);
    return b.data;
}

bool compile_kernels(struct compiler *c, const json_t *const *specs, const char *const *pack_fmts, size_t n,
                     struct kernel *out, struct err *e) {
    double start = now_s();
    memset(out, 0, n * sizeof *out);
    struct job *jobs = mem_new(n * sizeof *jobs);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        struct job *j = &jobs[i];
        const char *fmt = pack_fmts ? pack_fmts[i] : NULL;
        j->key = key_of(c, specs[i], fmt);
        struct buf payload = {0};
        if (c->cache && cache_get(c->cache, j->key, strlen(j->key), &payload)) j->cached = unpack(j, &payload);
        buf_free(&payload);
        if (!j->cached) ok = lower_job(c, specs[i], fmt, j, e);
    }
    if (ok) {
        struct work w = {.c = c, .jobs = jobs, .n = n};
        size_t misses = 0;
        for (size_t i = 0; i < n; i++) misses += !jobs[i].cached;
        pthread_t threads[64];
        int started = 0;
        for (int t = 1; t < (c->dump ? 1 : c->n_threads) && t < 64 && (size_t)t < misses; t++)
            if (pthread_create(&threads[started], NULL, compile_jobs, &w) == 0) started++;
        compile_jobs(&w);
        for (int t = 0; t < started; t++) pthread_join(threads[t], NULL);
    }
    for (size_t i = 0; i < n && ok; i++) {
        struct job *j = &jobs[i];
        if (j->err.code) {
            *e = j->err;
            ok = err_prefix(e, "%s", json_string_value(json_object_get(j->meta, "name")));
            break;
        }
        if (!j->cached && c->cache) store(c, j);
        c->n_cached += j->cached;
        c->n_compiled += !j->cached;
        ok = code_load(j->obj.data, j->obj.len, &out[i].code, e) && describe(&out[i], j->meta, e);
    }
    for (size_t i = 0; i < n; i++) {
        mem_free(jobs[i].key);
        json_decref(jobs[i].meta);
        buf_free(&jobs[i].obj);
        if (!ok) kernel_free(&out[i]);
    }
    mem_free(jobs);
    c->seconds += now_s() - start;
    return ok;
}
