/* model: a model file made ready to run: its graph fused into launches, their code, its weights packed.
 *
 * A `struct model` is read-only once open and may serve several sessions. A `struct session` (runtime/session.h) owns a
 * context: KV cache, activations, position.
 */
#ifndef KGEN_MODEL_H
#define KGEN_MODEL_H

#include "runtime/compile.h"
#include "runtime/dev_cuda.h"
#include "runtime/gguf.h"
#include "runtime/packfile.h"
#include "runtime/pool.h"
#include "runtime/select.h"

struct model_options {
    const char *path;   /* NULL: the model in the bundle */
    const char *act;    /* "q8" or "f32" */
    const char *kv;     /* "f16", "bf16", "f32" or "q8_0"; NULL: model_default_kv's */
    const char *target; /* a target's name; NULL: native, or the bundle's */
    const char *bundle; /* a bundle's directory (runtime/bundle.h): its plan and code are used, none made; NULL */
    bool cuda;          /* on CUDA device cuda_index instead of the processor; target NULL: what it runs */
    int cuda_index;
    int64_t n_ctx;      /* with cuda: the context that will be asked for, so that what does not fit is known before it is
                         * loaded; 0: the default */
    int64_t top_k;      /* with cuda: sampling will choose among so many (sample_most_likely); 0: not. Too many for the device are ignored, and
                         * what a bundle was not made for */
    int n_threads;      /* 0: one for each processor this process may use */
    bool no_fuse;       /* every kernel a launch of its own */
    bool no_cache;      /* compile everything anew, store nothing */
    uint64_t packed_bytes; /* of packed weights kept on disk, of all models together; 0: none */
    const char *dump;   /* a flat IR pass, or "all": kernels are compiled anew and printed after it; NULL: none */
};

enum { MODEL_MAX_FMTS = 64, MODEL_FEW = 4 };

enum tensor_kind { TENSOR_WEIGHT, TENSOR_TABLE, TENSOR_CACHE, TENSOR_ACT, TENSOR_INPUT };

struct tensor {
    enum tensor_kind kind;
    const char *name;  /* of a weight, in the file; borrowed from the plan */
    const char *fmt;
    int64_t dims[4];   /* the language's order, rows first; 0: known at run time */
    size_t n_dims;
    int64_t width;     /* elements a token, for activations */
    int64_t off;       /* activations: byte offset a token in its pool */
    int64_t lone_off;  /* the same for the launches of one token */
    bool head;         /* activations: of the wanted tokens only */
    void *data;        /* weights: packed, or plain f32 vectors; on a GPU: an address of its memory */
    uint64_t bytes;    /* of data */
    const json_t *plan;
};

struct launch {
    const struct kernel *kernel; /* for any number of tokens */
    const struct kernel *few[MODEL_FEW]; /* [model.n_few]: for up to model.few[i] */
    const int32_t *binding; /* tensor index per parameter t1, t2, … */
    size_t n_binding;
    bool head;
    bool lone; /* for one token */
    const json_t *nodes; /* names of the graph's nodes computed here */
    const json_t *plan;
};

struct model {
    struct gguf *gguf;
    struct dsl *dsl;
    struct cache *cache;
    struct pool *pool;
    struct compiler compiler;
    struct assembler assembler; /* where the compiler has one */
    struct bundle *bundle; /* NULL: what runs was compiled here */
    json_t *plan;
    struct tensor *tensors;
    size_t n_tensors;
    struct kernel *kernels; /* the plan's, argmax, the rounds of a selection and the draw from it, and from first_pack on the packing
                             * routines of pack_fmts */
    const char *pack_fmts[MODEL_MAX_FMTS];
    size_t n_pack_fmts;
    size_t n_kernels, n_plan_kernels, first_pack;
    struct select_round rounds[SELECT_ROUNDS]; /* on a GPU: how the top_k largest logits are found */
    size_t n_rounds;
    int64_t top_k; /* 0: there are no rounds */
    struct kernel *ones; /* [n_plan_kernels]: on a processor, for one token where it runs other code (compile_for_one); else zeroed */
    int64_t few[MODEL_FEW]; /* ascending: up to so many tokens a launch has other code. On a processor, one token, with
                             * the same results; on a GPU, few enough that products are cut into other tasks */
    size_t n_few;
    struct launch *launches;
    size_t n_launches, first_head;          /* of a batch of tokens */
    size_t n_all_launches, first_lone_head; /* on a GPU, those of one token come behind; else none do */
    int32_t *bindings;
    void *weights; /* one image of all; NULL when they are on a GPU */
    struct packfile packed; /* what it lies in, where it is no memory of this process */
    bool weights_cached;    /* they had been packed before */
    struct cuda *gpu;            /* NULL: the processor */
    cuda_addr gpu_weights;
    struct cuda_kernel **loaded; /* on a GPU: by kernel, NULL for packing routines */
    uint64_t weight_bytes, act_bytes, head_bytes, ws_bytes; /* the latter three a token */
    uint64_t ws_page_bytes;                                 /* a page of keys */
    uint64_t lone_bytes, lone_head_bytes;                   /* activations of the launches of one token */
    int32_t ids, pages, logits; /* tensor indices */
    int64_t n_vocab, n_ctx_train;
    double load_s, pack_s;
    const char *act, *kv;
    char why_f32_keys[256]; /* why the KV cache is not in 16 bits as usual (runtime/safety.h); "": it is, or it was
                               asked for */
    bool bf16_keys;         /* they are safe in BF16 too */
};

/* What a launch runs for so many tokens. */
static inline const struct kernel *launch_kernel(const struct model *m, const struct launch *l, int64_t n_tok) {
    for (size_t i = 0; i < m->n_few; i++)
        if (n_tok <= m->few[i]) return l->few[i];
    return l->kernel;
}

bool model_open(const struct model_options *o, struct model **out, struct err *e);
void model_close(struct model *m); /* accepts NULL */

/* Writes a bundle for o->target, which need not run here, to `dir`: the plan of the model at o->path and all its code.
 * with_model: and a copy of the file. extra: NULL, or a function that adds code of its own for the target. */
typedef bool model_bundle_extra(struct bundle *b, const struct target *t, struct err *e);
bool model_bundle(const struct model_options *o, const char *dir, bool with_model, model_bundle_extra *extra,
                  struct err *e);

/* What a bundle is for, as a flat object (a new reference); and whether o->bundle is whole and runs on this machine: its
 * model is not looked at. */
bool model_bundle_about(const struct bundle *b, json_t **about, struct err *e);
bool model_bundle_fits(const struct model_options *o, struct err *e);

/* GGUF's type table, from the formats declared in Lua. Valid while the process runs. */
gguf_type_fn model_types(struct dsl *d, struct err *e); /* NULL: *e */

/* The KV cache's numbers where none are asked for: f32 with f32 activations, and for keys that are unsafe in 16 bits;
 * bf16 where t has dots of BF16 pairs and keys are safe in it; else f16. */
const char *model_default_kv(const char *act, bool f16_keys, bool bf16_keys, const struct target *t);

/* What the target wants the factors of attention's products rounded to (kernels.lua's `prod`): "f32", or, where activations
 * are 8 bits, what the cache holds and its dots or, for many tokens, its matrix unit multiply. t NULL: any processor. */
const char *model_prod(const struct target *t, const char *act, const char *kv);

/* The plan of a file: tensors, kernels, launches (dsl/graph.lua), for a target (NULL: any processor); for a GPU also
 * the launches of one token, and those of many with activations in halves where it has a matrix unit. New reference. */
bool model_plan(struct dsl *d, const struct gguf *g, const char *act, const char *kv, bool fuse, const struct target *t,
                json_t **plan, struct err *e);

#endif
