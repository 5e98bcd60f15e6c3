#include "runtime/model.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/foresee.h"
#include "runtime/model_impl.h"
#include "runtime/safety.h"
#include "runtime/weights.h"

enum { MAX_TYPES = 64, TYPE_NAME = 16 };

/* Filled once: a type table must outlive every file opened with it. */
static struct gguf_type type_table[MAX_TYPES];
static char type_names[MAX_TYPES][TYPE_NAME];

static const struct gguf_type *find_type(uint32_t id) {
    return id < MAX_TYPES && type_table[id].name ? &type_table[id] : NULL;
}

gguf_type_fn model_use_types(const json_t *list) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *f = json_array_get(list, i);
        json_int_t id = json_integer_value(json_object_get(f, "ggml"));
        if (id < 0 || id >= MAX_TYPES || type_table[id].name) continue;
        snprintf(type_names[id], TYPE_NAME, "%s", json_string_value(json_object_get(f, "name")));
        type_table[id].block_elems = (uint32_t)json_integer_value(json_object_get(f, "block"));
        type_table[id].block_bytes = (uint32_t)json_integer_value(json_object_get(f, "bytes"));
        type_table[id].name = type_names[id];
    }
    return find_type;
}

gguf_type_fn model_types(struct dsl *d, struct err *e) {
    json_t *list = NULL;
    if (!dsl_call(d, "formats", NULL, &list, e)) return NULL;
    gguf_type_fn types = model_use_types(list);
    json_decref(list);
    return types;
}

/* Scalars and strings of the metadata; arrays of numbers up to a size that per-layer settings have. */
static json_t *keys_json(const struct gguf *g) {
    json_t *keys = json_object();
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        const struct gguf_key *k = gguf_key_at(g, i);
        const struct gguf_value *v = &k->value;
        json_t *j = NULL;
        if (v->type == GGUF_STRING) {
            if (!v->is_array) j = json_stringn(v->data, v->bytes);
        } else if (!v->is_array) {
            if (v->type == GGUF_BOOL)
                j = json_boolean(gguf_value_u64(v, 0) != 0);
            else if (v->type == GGUF_F32 || v->type == GGUF_F64)
                j = json_real(gguf_value_f64(v, 0));
            else
                j = json_integer((json_int_t)gguf_value_u64(v, 0));
        } else if (v->n <= 4096) {
            j = json_array();
            bool real = v->type == GGUF_F32 || v->type == GGUF_F64;
            for (uint64_t n = 0; n < v->n; n++)
                json_array_append_new(j, real ? json_real(gguf_value_f64(v, n))
                                              : json_integer((json_int_t)gguf_value_u64(v, n)));
        }
        if (j) json_object_set_new_nocheck(keys, k->name, j);
    }
    return keys;
}

static bool dots_of_pairs(const struct target *t) {
    return t && t->features & FEAT_BF16;
}

const char *model_default_kv(const char *act, bool f16_keys, bool bf16_keys, const struct target *t) {
    if (strcmp(act, "f32") == 0 || !f16_keys) return "f32";
    return bf16_keys && dots_of_pairs(t) ? "bf16" : "f16";
}

const char *model_prod(const struct target *t, const char *act, const char *kv) {
    if (strcmp(act, "q8") != 0) return "f32";
    if (strcmp(kv, "bf16") == 0 && dots_of_pairs(t)) return "bf16";
    return strcmp(kv, "f16") == 0 && t && t->ptx && t->features & FEAT_MMA ? "f16" : "f32";
}

bool model_plan(struct dsl *d, const struct gguf *g, const char *act, const char *kv, bool fuse, const struct target *t,
                json_t **plan, struct err *e) {
    const char *arch;
    unsigned lone = t && t->ptx ? t->pack_lanes : 0;
    if (!gguf_get_str(g, "general.architecture", &arch, e)) return false;
    json_t *tensors = json_object();
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(g, i);
        json_t *ne = json_array();
        for (uint32_t k = 0; k < x->n_dims; k++) json_array_append_new(ne, json_integer((json_int_t)x->ne[k]));
        json_object_set_new_nocheck(tensors, x->name, json_pack("{s:s, s:o}", "fmt", x->type->name, "ne", ne));
    }
    /* Many tokens' products are the matrix unit's, where there is one. */
    bool halves = t && t->ptx && t->features & FEAT_MMA && strcmp(act, "q8") == 0;
    json_t *arg = json_pack("{s:s, s:o, s:o, s:s, s:s, s:s, s:s, s:b, s:i}", "arch", arch, "keys", keys_json(g),
                            "tensors", tensors, "act", act, "many", halves ? "bf16" : act, "kv", kv, "prod",
                            model_prod(t, act, kv), "fuse", fuse, "lone", (int)lone);
    if (!arg) return err_set(e, ERR_INPUT, "%s: metadata is not valid UTF-8 text", gguf_path(g));
    bool ok = dsl_call(d, "plan", arg, plan, e);
    json_decref(arg);
    return ok || err_prefix(e, "%s", gguf_path(g));
}

/* Notes in the plan what each packed weight takes: {"tile", "packed_bytes"}, bytes of a tile of rows and in all. */
static bool plan_sizes(struct model *m, struct err *e) {
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(m->plan, "tensors"), i, t) {
        if (!json_is_true(json_object_get(t, "packed"))) continue;
        const json_t *dims = json_object_get(t, "dims");
        struct packed_size size;
        if (!compile_packed_size(m->dsl, &m->compiler.target, json_string_value(json_object_get(t, "fmt")),
                                 json_integer_value(json_array_get(dims, 0)),
                                 json_integer_value(json_array_get(dims, 1)), &size, e))
            return false;
        json_object_set_new(t, "tile", json_integer(size.tile));
        json_object_set_new(t, "packed_bytes", json_integer(size.bytes));
    }
    return true;
}

static enum tensor_kind kind_of(const char *s) {
    static const char *const names[] = {"weight", "table", "cache", "act", "input"};
    for (int i = 0; i < 5; i++)
        if (strcmp(s, names[i]) == 0) return (enum tensor_kind)i;
    bug("tensor kind %s", s);
}

static int64_t integer(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}
static bool flag(const json_t *o, const char *key) {
    return json_is_true(json_object_get(o, key));
}

/* The launches for a batch of tokens, and behind them those for one token (on a GPU). */
static void read_launches(struct model *m) {
    const json_t *lists[2] = {json_object_get(m->plan, "launches"), json_object_get(m->plan, "lone")};
    size_t total = 0, n = 0;
    for (int which = 0; which < 2; which++)
        for (size_t i = 0; i < json_array_size(lists[which]); i++, n++)
            total += json_array_size(json_object_get(json_array_get(lists[which], i), "tensors"));
    m->n_launches = json_array_size(lists[0]);
    m->n_all_launches = n;
    m->launches = mem_new(n * sizeof *m->launches);
    m->bindings = mem_new(total * sizeof *m->bindings);
    m->first_head = m->n_launches;
    m->first_lone_head = n;
    int32_t *at = m->bindings;
    struct launch *l = m->launches;
    for (int which = 0; which < 2; which++)
        for (size_t i = 0; i < json_array_size(lists[which]); i++, l++) {
            const json_t *p = json_array_get(lists[which], i), *ts = json_object_get(p, "tensors");
            l->plan = p;
            l->head = flag(p, "head");
            l->lone = which == 1;
            size_t *first = l->lone ? &m->first_lone_head : &m->first_head, at_l = (size_t)(l - m->launches);
            if (l->head && at_l < *first) *first = at_l;
            l->nodes = json_object_get(p, "nodes");
            l->binding = at;
            l->n_binding = json_array_size(ts);
            for (size_t k = 0; k < l->n_binding; k++) *at++ = (int32_t)json_integer_value(json_array_get(ts, k));
        }
}

static void read_plan(struct model *m) {
    const json_t *list = json_object_get(m->plan, "tensors");
    m->n_tensors = json_array_size(list);
    m->tensors = mem_new(m->n_tensors * sizeof *m->tensors);
    for (size_t i = 0; i < m->n_tensors; i++) {
        const json_t *p = json_array_get(list, i);
        struct tensor *t = &m->tensors[i];
        t->plan = p;
        t->kind = kind_of(json_string_value(json_object_get(p, "kind")));
        t->name = json_string_value(json_object_get(p, "name"));
        t->fmt = json_string_value(json_object_get(p, "fmt"));
        const json_t *dims = json_object_get(p, "dims");
        t->n_dims = json_array_size(dims);
        for (size_t k = 0; k < t->n_dims && k < 4; k++) t->dims[k] = json_integer_value(json_array_get(dims, k));
        t->width = integer(p, "width");
        t->off = integer(p, "off");
        t->lone_off = integer(p, "lone_off");
        t->head = flag(p, "head");
    }
    m->ids = (int32_t)integer(m->plan, "ids");
    m->pages = m->ids + 1;
    m->logits = (int32_t)integer(m->plan, "logits");
    m->act_bytes = (uint64_t)integer(m->plan, "act_bytes");
    m->head_bytes = (uint64_t)integer(m->plan, "head_bytes");
    m->lone_bytes = (uint64_t)integer(m->plan, "lone_bytes");
    m->lone_head_bytes = (uint64_t)integer(m->plan, "lone_head_bytes");
    const json_t *hyper = json_object_get(m->plan, "hyper");
    m->n_vocab = integer(hyper, "vocab");
    const json_t *few = json_object_get(m->plan, "few");
    size_t n_few = json_array_size(few), own = !m->compiler.target.ptx; /* a processor has one of its own */
    if (n_few + own > MODEL_FEW) bug("a plan with %zu bounds of tokens", n_few);
    for (size_t i = 0; i < n_few; i++) m->few[m->n_few++] = json_integer_value(json_array_get(few, i));
    if (own) m->few[m->n_few++] = 1;
    m->n_ctx_train = integer(hyper, "ctx");

    read_launches(m);
}

/* The formats of packed weights, each once. */
static void list_formats(struct model *m) {
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct tensor *t = &m->tensors[i];
        if (t->kind != TENSOR_WEIGHT || !flag(t->plan, "packed")) continue;
        size_t f = 0;
        while (f < m->n_pack_fmts && strcmp(m->pack_fmts[f], t->fmt) != 0) f++;
        if (f == m->n_pack_fmts && f < MODEL_MAX_FMTS) m->pack_fmts[m->n_pack_fmts++] = t->fmt;
    }
}

static void count_workspace(struct model *m, const struct kernel *k) {
    if (k->ws_per_tok > m->ws_bytes) m->ws_bytes = k->ws_per_tok;
    if (k->ws_per_page > m->ws_page_bytes) m->ws_page_bytes = k->ws_per_page;
}

/* Kernels for single tokens, where a processor runs others for them. */
static bool compile_ones(struct model *m, struct err *e) {
    const json_t *list = json_object_get(m->plan, "kernels");
    m->ones = mem_new((m->n_plan_kernels + 1) * sizeof *m->ones);
    m->compiler.tune_use = USE_TOKEN;
    bool ok = true;
    for (size_t i = 0; i < m->n_plan_kernels && ok && !m->gpu; i++) {
        json_t *spec = compile_for_one(&m->compiler, json_array_get(list, i));
        if (!spec) continue;
        const json_t *one = spec;
        ok = compile_kernels(&m->compiler, &one, NULL, 1, &m->ones[i], e);
        json_decref(spec);
        count_workspace(m, &m->ones[i]);
    }
    return ok;
}

/* A launch's code by the number of tokens. */
static void list_kernels(const struct model *m, struct launch *l) {
    int64_t k = integer(l->plan, "kernel");
    const json_t *few = json_object_get(l->plan, "few");
    l->kernel = &m->kernels[k];
    for (size_t i = 0; i < m->n_few; i++) {
        const json_t *own = json_array_get(few, i);
        l->few[i] = own ? &m->kernels[json_integer_value(own)] : m->ones[k].code ? &m->ones[k] : l->kernel;
    }
}

static bool compile(struct model *m, int64_t top_k, struct err *e) {
    const json_t *list = json_object_get(m->plan, "kernels");
    size_t n = json_array_size(list);
    list_formats(m);
    m->n_plan_kernels = n;
    /* A bundle has the rounds that it was made with. */
    if (m->bundle && top_k != json_integer_value(json_object_get(bundle_about(m->bundle), "top_k"))) top_k = 0;
    m->n_rounds = m->compiler.target.ptx ? select_plan(m->n_vocab, top_k, m->rounds) : 0;
    m->top_k = m->n_rounds ? top_k : 0;
    m->first_pack = n + 1 + 2 * m->n_rounds + (m->n_rounds > 0);
    m->n_kernels = m->first_pack + m->n_pack_fmts;
    m->kernels = mem_new(m->n_kernels * sizeof *m->kernels);
    const json_t **specs = mem_new(m->n_kernels * sizeof *specs);
    const char **packs = mem_new(m->n_kernels * sizeof *packs);
    for (size_t i = 0; i < n; i++) specs[i] = json_array_get(list, i);
    json_t *own[1 + SELECT_KERNELS + 1];
    own[0] = json_pack("{s:s, s:{s:I}}", "kernel", "argmax", "sizes", "n", (json_int_t)m->n_vocab);
    for (size_t i = 0; i < m->n_rounds; i++) select_specs(&m->rounds[i], top_k, own + 1 + 2 * i);
    if (m->n_rounds)
        own[1 + 2 * m->n_rounds] = json_pack("{s:s, s:{s:I}}", "kernel", "draw", "sizes", "k", (json_int_t)top_k);
    for (size_t i = n; i < m->first_pack; i++) specs[i] = own[i - n];
    for (size_t i = 0; i < m->n_pack_fmts; i++) packs[m->first_pack + i] = m->pack_fmts[i];
    bool ok = compile_kernels(&m->compiler, specs, packs, m->n_kernels, m->kernels, e);
    for (size_t i = n; i < m->first_pack; i++) json_decref(own[i - n]);
    mem_free(specs);
    mem_free(packs);
    if (!ok) return false;
    if (!compile_ones(m, e)) return false;
    for (size_t i = 0; i < m->n_all_launches; i++) list_kernels(m, &m->launches[i]);
    for (size_t i = 0; i < m->n_kernels; i++) count_workspace(m, &m->kernels[i]);
    return true;
}

/* The code to the GPU; and the weights, once they are packed. */
static bool load_kernels(struct model *m, struct err *e) {
    m->loaded = mem_new(m->n_kernels * sizeof(struct cuda_kernel *));
    for (size_t i = 0; i < m->first_pack; i++)
        if (!cuda_kernel_new(m->gpu, &m->kernels[i], &m->loaded[i], e)) return false;
    return true;
}

static bool open_gpu(struct model *m, const struct model_options *o, struct err *e) {
    return cuda_open(o->cuda_index, &m->gpu, e) &&
           target_find(o->target ? o->target : cuda_target(m->gpu), &m->compiler.target, e) &&
           (m->compiler.target.ptx ||
            err_set(e, ERR_USAGE, "the target %s is no GPU's: expected sm_NN", m->compiler.target.name));
}

static bool open_processor(struct model *m, const struct model_options *o, struct err *e) {
    if (!target_find(o->target ? o->target : "native", &m->compiler.target, e)) return false;
    return target_runs_here(&m->compiler.target) ||
           err_set(e, ERR_UNSUPPORTED, "this processor cannot run code for %s", m->compiler.target.name);
}

static int processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    return 1;
}

bool model_open_file(struct model *m, const struct model_options *o, struct err *e) {
    gguf_type_fn types;
    m->act = o->act ? o->act : "q8";
    if (!dsl_open(&m->dsl, e) || !(types = model_types(m->dsl, e)) || !gguf_open(o->path, types, &m->gguf, e))
        return false;
    m->kv = o->kv;
    return o->kv || strcmp(m->act, "f32") == 0 || safety_of_keys(m->gguf, m->why_f32_keys, &m->bf16_keys, e);
}

bool model_compile(struct model *m, const struct model_options *o, struct err *e) {
    if (!o->no_cache && !o->dump && !m->bundle) m->cache = cache_open(NULL);
    m->compiler.dsl = m->dsl;
    m->compiler.dump = o->dump;
    m->compiler.cache = m->cache;
    m->compiler.n_threads = m->compiler.tune_threads = o->n_threads ? o->n_threads : processors();
    if (m->cache) m->compiler.tune = tunedb_open(cache_dir(m->cache));
    const struct target *t = &m->compiler.target;
    bool cubins = m->gpu ? cuda_takes_cubin(m->gpu, t->name) : m->compiler.into && t->ptx;
    m->compiler.take_cubins = cubins;
    if (cubins && !m->bundle && assembler_find(&m->assembler)) m->compiler.assembler = &m->assembler;
    if (!m->kv) m->kv = model_default_kv(m->act, !*m->why_f32_keys, m->bf16_keys, &m->compiler.target);
    bool ok = m->plan || (model_plan(m->dsl, m->gguf, m->act, m->kv, !o->no_fuse, &m->compiler.target, &m->plan, e) &&
                          plan_sizes(m, e));
    if (ok) {
        read_plan(m);
        ok = compile(m, o->top_k, e);
    }
    tunedb_close(m->compiler.tune);
    m->compiler.tune = NULL;
    return ok;
}

bool model_open(const struct model_options *o, struct model **out, struct err *e) {
    double start = now_s();
    struct model *m = mem_new(sizeof *m);
    *out = NULL;
    bool ok = o->bundle ? model_open_bundle(m, o, e)
                        : model_open_file(m, o, e) && (o->cuda ? open_gpu : open_processor)(m, o, e);
    /* Compiling forks: before there are other threads. */
    ok = ok && model_compile(m, o, e) && weights_size(m, e) && (!m->gpu || foresee(m, o->n_ctx, m->weight_bytes, e)) &&
         pool_open(m->compiler.n_threads, &m->pool, e) && weights_load(m, o->packed_bytes, e);
    if (m->gpu) ok = ok && weights_upload(m, e) && load_kernels(m, e);
    if (!ok) {
        model_close(m);
        return false;
    }
    m->load_s = now_s() - start;
    *out = m;
    return true;
}

void model_close(struct model *m) {
    if (!m) return;
    pool_close(m->pool);
    for (size_t i = 0; i < m->n_kernels && m->loaded; i++) cuda_kernel_free(m->gpu, m->loaded[i]);
    mem_free(m->loaded);
    for (size_t i = 0; i < m->n_kernels && m->kernels; i++) kernel_free(&m->kernels[i]);
    for (size_t i = 0; i < m->n_plan_kernels && m->ones; i++) kernel_free(&m->ones[i]);
    mem_free(m->ones);
    weights_free(m);
    cuda_close(m->gpu);
    mem_free(m->kernels);
    mem_free(m->launches);
    mem_free(m->bindings);
    mem_free(m->tensors);
    json_decref(m->plan);
    tunedb_close(m->compiler.tune);
    cache_close(m->cache);
    bundle_close(m->bundle);
    gguf_close(m->gguf);
    dsl_close(m->dsl);
    mem_free(m);
}
