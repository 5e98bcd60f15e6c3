/* parity_case: what the parity harness's parts share. parity_kernels.c turns a shape into the inputs and the expected
 * outputs of a launch; parity_launch.c runs it and compares; parity.c walks over kernels, formats and targets.
 */
#ifndef KGEN_PARITY_CASE_H
#define KGEN_PARITY_CASE_H

#include <jansson.h>

#include "codegen/ir.h"
#include "runtime/compile.h"
#include "verify/ref.h"

enum { PARITY_MAX_ARGS = 12, PARITY_MAX_RUNS = 12, PARITY_MAX_FMTS = 3 };

/* One instance of a kernel: what it is compiled for, and the launches to check. Sizes a kernel does not have are 0. */
struct parity_shape {
    int d, n;     /* width and rows; embed: width and vocabulary; swiglu_ffn: width and hidden width */
    int nq, nkv;  /* norm_qkv: rows; attention, kv_append: nkv key heads */
    int nh, hd;   /* heads, their width */
    int window;   /* attention: keys a token sees; 0: all */
    double scale; /* where the kernel has one */
    const char *fmt[PARITY_MAX_FMTS]; /* of weights, or fmt[0] of the KV cache */
    const char *act;                  /* NULL, "q8", "f32" or "bf16" */
    const char *prod;                 /* attention: what factors are rounded to; NULL: f32 */
    struct {
        int pos, tok;
    } runs[PARITY_MAX_RUNS];
    int n_runs;
    bool small; /* also through the interpreter, and without the map */
};

enum parity_role { PARITY_IN, PARITY_WEIGHT, PARITY_OUT };

/* One argument of a launch. Memory belongs to the case's arena. */
struct parity_arg {
    const char *name;
    enum parity_role role;
    const void *data; /* inputs: contents; outputs: contents before the launch (NULL: poison) */
    size_t bytes;
    size_t tok_bytes; /* of one token, where the outermost axis is the tokens; else 0 */
    size_t width;     /* elements of the innermost axes, to name an element in a message; weights: of a row */
    /* weights */
    const struct ref_format *fmt;
    size_t rows;
    /* outputs: either want and tol, for float32, or the exact bytes. A NaN that is wanted must be there. */
    const double *want, *tol; /* [bytes / 4] */
    const void *exact;        /* [bytes] */
    size_t elem_bytes;        /* of `exact` */
};

struct parity_case {
    struct arena arena;
    struct parity_arg args[PARITY_MAX_ARGS];
    size_t n_args;
    int64_t n_tok, pos, ctx, n_pages;
};

/* A kernel's shapes and its reference. */
struct parity_kernel {
    const char *name;
    /* Formats it has: 'w' weights (how many), 'c' a cache; whether it takes an activation format. */
    int n_weights;
    bool cache, act;
    /* Appends shapes for formats with blocks of `block` elements (1: floats or none) to list; returns how many. */
    size_t (*shapes)(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list);
    /* The specification for dsl/main.lua's `lower`; the caller releases it. */
    json_t *(*spec)(const struct parity_shape *s);
    /* Fills a zeroed case for run `run` of the shape. */
    void (*build)(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c);
};
extern const struct parity_kernel parity_kernels[]; /* ends with a NULL name */
enum { PARITY_MAX_SHAPES = 16 };

/* list[n] = s, with a launch of some tokens where it has none; returns the new number. Shapes that cannot be are passed
 * over. */
size_t add_shape(struct parity_shape *list, size_t n, struct parity_shape s);

/* Attention with rounded products whose weights the reference rounds as the kernel does, tile by tile: where the cache
 * is BF16 and so no other than dots of pairs are at hand. */
bool parity_in_tiles(const struct parity_shape *s);

/* How a launch is run. */
enum parity_cut { CUT_WHOLE, CUT_THREE, CUT_SINGLE }; /* the last two backwards */
struct parity_exec {
    const struct kernel *k;
    const struct ir_module *ir; /* not NULL: by the interpreter, with these functions of the same names */
    bool fused;
    struct cuda *gpu; /* not NULL: on a GPU, with the loaded kernel */
    const struct cuda_kernel *loaded;
};

/* The outputs of a launch, in guarded memory. */
struct guard {
    uint8_t *data; /* [bytes], 64-byte aligned, pattern before and behind */
    size_t bytes;
};
bool guard_new(struct guard *g, size_t bytes); /* filled with the pattern; false: no memory */
bool guard_ok(const struct guard *g);          /* is the pattern before and behind intact? */
void guard_free(struct guard *g);

struct parity_out {
    struct guard args[PARITY_MAX_ARGS]; /* by argument of the case; data NULL where it is no output */
};
void parity_out_free(struct parity_out *o);

/* Runs tokens t0 … t0 + n - 1 of a case. packed[i]: the packed weights of argument i. ERR_INPUT says which buffer was
 * written that must not be. */
bool parity_launch(const struct parity_exec *x, const struct parity_case *c, const struct guard *packed, int64_t t0,
                   int64_t n, enum parity_cut cut, struct parity_out *out, struct err *e);

/* Compares all outputs of a launch of all tokens with the reference. max_abs and max_of_tol are raised; *e names the
 * worst element where one is over. */
bool parity_compare(const struct parity_case *c, const struct parity_out *out, double *max_abs, double *max_of_tol,
                    struct err *e);

/* Are the outputs of tokens t0 … t0 + n - 1 the same bits as those in all? Outputs without a token axis are compared
 * when the launch was of all tokens. */
bool parity_same(const struct parity_case *c, const struct parity_out *all, const struct parity_out *part, int64_t t0,
                 int64_t n, struct err *e);

/* Packs a weight with the format's generated routine. row_bytes … as the runtime does (runtime/weights.c). */
bool parity_pack(struct dsl *d, const struct kernel *pack, const struct target *t, const struct parity_arg *a,
                 struct ref_rng *rng, struct guard *out, struct err *e);

#endif
