/* parity_launch: guarded memory, one launch, and the comparisons of its outputs. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codegen/interp.h"
#include "verify/parity_case.h"
#include "verify/parity_gpu.h"

/* Kernels may read up to a vector past the end of an array, never write. */
enum { FRONT = 256, BACK = 512 };

static size_t round64(size_t n) {
    return (n + 63) / 64 * 64;
}

/* NaN to whoever reads it as float32, and different from word to word. */
static uint32_t pattern(size_t word) {
    return 0xffc00000u | ((uint32_t)word * 2654435761u >> 12);
}

static uint8_t pattern_byte(size_t i) {
    return (uint8_t)(pattern(i / 4) >> 8 * (i % 4));
}

bool guard_new(struct guard *g, size_t bytes) {
    size_t all = FRONT + round64(bytes) + BACK;
    void *p;
    if (posix_memalign(&p, 64, all)) return false;
    for (size_t w = 0; w < all / 4; w++) ((uint32_t *)p)[w] = pattern(w);
    *g = (struct guard){.data = (uint8_t *)p + FRONT, .bytes = bytes};
    return true;
}

bool guard_ok(const struct guard *g) {
    const uint8_t *p = g->data - FRONT;
    for (size_t i = 0; i < FRONT; i++)
        if (p[i] != pattern_byte(i)) return false;
    for (size_t i = FRONT + g->bytes; i < FRONT + round64(g->bytes) + BACK; i++)
        if (p[i] != pattern_byte(i)) return false;
    return true;
}

void guard_free(struct guard *g) {
    if (g->data) free(g->data - FRONT);
    *g = (struct guard){0};
}

void parity_out_free(struct parity_out *o) {
    for (size_t i = 0; i < PARITY_MAX_ARGS; i++) guard_free(&o->args[i]);
}

/* ---- a launch ---- */

static bool run_range(const struct parity_exec *x, const struct part *p, void *const *args, const int64_t *dims,
                      int64_t begin, int64_t end, void *ws, struct err *e) {
    if (!x->ir) {
        p->fn(args, dims, begin, end, ws);
        return true;
    }
    for (const struct ir_func *f = x->ir->first; f; f = f->next)
        if (strcmp(f->name, p->name) == 0) return ir_run(f, args, dims, begin, end, ws, x->fused, e);
    return err_set(e, ERR_INPUT, "the flat IR has no function '%s'", p->name);
}

static bool run_part(const struct parity_exec *x, const struct part *p, void *const *args, const int64_t *dims,
                     int64_t tasks, enum parity_cut cut, void *ws, struct err *e) {
    if (cut == CUT_WHOLE) return run_range(x, p, args, dims, 0, tasks, ws, e);
    int64_t step = cut == CUT_SINGLE ? 1 : (tasks + 2) / 3;
    for (int64_t end = tasks; end > 0; end -= step)
        if (!run_range(x, p, args, dims, end > step ? end - step : 0, end, ws, e)) return false;
    return true;
}

static bool run_kernel(const struct parity_exec *x, void *const *args, const int64_t *sizes, enum parity_cut cut,
                       void *ws, struct err *e) {
    int64_t dims[N_RUN_DIMS];
    for (size_t i = 0; i < x->k->n_dims; i++) dims[i] = sizes[x->k->dims[i]];
    for (size_t i = 0; i < x->k->n_phases; i++)
        for (size_t j = 0; j < x->k->phases[i].n_parts; j++) {
            const struct part *p = &x->k->phases[i].parts[j];
            if (!run_part(x, p, args, dims, part_tasks(p, sizes), cut, ws, e)) return false;
        }
    return true;
}

/* The bytes of an argument that belong to tokens t0 … t0 + n − 1. */
static const void *slice_of(const struct parity_arg *a, int64_t t0, int64_t n, size_t *bytes) {
    *bytes = a->tok_bytes ? (size_t)n * a->tok_bytes : a->bytes;
    return a->data ? (const uint8_t *)a->data + (size_t)t0 * a->tok_bytes : NULL;
}

/* Everything a launch works on. */
struct workplace {
    struct guard in[PARITY_MAX_ARGS]; /* by argument of the case */
    struct guard ws;
};

static bool prepare(const struct kernel *k, const struct parity_case *c, int64_t t0, int64_t n, struct workplace *w,
                    struct parity_out *out) {
    for (size_t i = 0; i < c->n_args; i++) {
        const struct parity_arg *a = &c->args[i];
        if (a->role == PARITY_WEIGHT) continue;
        size_t bytes;
        const void *data = slice_of(a, t0, n, &bytes);
        struct guard *g = a->role == PARITY_OUT ? &out->args[i] : &w->in[i];
        if (!guard_new(g, bytes)) return false;
        if (data) memcpy(g->data, data, bytes);
    }
    return guard_new(&w->ws, (size_t)kernel_ws_bytes(k, n, c->n_pages));
}

static bool untouched(const struct parity_case *c, const struct guard *packed, int64_t t0, int64_t n,
                      const struct workplace *w, const struct parity_out *out, struct err *e) {
    for (size_t i = 0; i < c->n_args; i++) {
        const struct parity_arg *a = &c->args[i];
        const struct guard *g = a->role == PARITY_OUT ? &out->args[i] : a->role == PARITY_IN ? &w->in[i] : &packed[i];
        if (!guard_ok(g)) return err_set(e, ERR_INPUT, "memory before or behind '%s' was written", a->name);
        size_t bytes;
        const void *data = slice_of(a, t0, n, &bytes);
        if (a->role == PARITY_IN && memcmp(g->data, data, bytes) != 0)
            return err_set(e, ERR_INPUT, "the input '%s' was written", a->name);
    }
    if (!guard_ok(&w->ws)) return err_set(e, ERR_INPUT, "memory before or behind the workspace was written");
    return true;
}

/* The argument array, in the kernel's order. */
static bool bind(const struct kernel *k, const struct parity_case *c, const struct guard *packed,
                 const struct workplace *w, const struct parity_out *out, const struct guard **args, struct err *e) {
    for (size_t i = 0; i < k->n_args; i++) {
        args[i] = NULL;
        for (size_t j = 0; j < c->n_args; j++) {
            if (strcmp(c->args[j].name, k->args[i]) != 0) continue;
            const struct guard *g = c->args[j].role == PARITY_OUT  ? &out->args[j]
                                    : c->args[j].role == PARITY_IN ? &w->in[j]
                                                                   : &packed[j];
            args[i] = g;
        }
        /* A signature may name what this body does not use: the pages of a rope, for example. */
        if (!args[i]) return err_set(e, ERR_INPUT, "the reference has no argument '%s'", k->args[i]);
    }
    return true;
}

bool parity_launch(const struct parity_exec *x, const struct parity_case *c, const struct guard *packed, int64_t t0,
                   int64_t n, enum parity_cut cut, struct parity_out *out, struct err *e) {
    struct workplace w = {0};
    const struct guard *guards[2 * PARITY_MAX_ARGS];
    void *args[2 * PARITY_MAX_ARGS];
    int64_t sizes[N_RUN_DIMS] = {[RUN_TOK] = n,
                                 [RUN_POS] = c->pos + t0,
                                 [RUN_KEY] = c->pos + t0 + n,
                                 [RUN_CTX] = c->ctx,
                                 [RUN_NPAGES] = c->n_pages};
    *out = (struct parity_out){0};
    bool ok = x->k->n_args <= 2 * PARITY_MAX_ARGS;
    if (!ok) err_set(e, ERR_INPUT, "%zu arguments", x->k->n_args);
    if (ok && !prepare(x->k, c, t0, n, &w, out)) ok = err_set(e, ERR_MEMORY, "no memory for a launch");
    ok = ok && bind(x->k, c, packed, &w, out, guards, e);
    for (size_t i = 0; i < x->k->n_args && ok; i++) args[i] = guards[i]->data;
    if (x->gpu)
        ok = ok && parity_gpu_launch(x->gpu, x->loaded, x->k, guards, &w.ws, sizes, cut, e);
    else
        ok = ok && run_kernel(x, args, sizes, cut, w.ws.data, e);
    ok = ok && untouched(c, packed, t0, n, &w, out, e);
    for (size_t i = 0; i < PARITY_MAX_ARGS; i++) guard_free(&w.in[i]);
    guard_free(&w.ws);
    return ok;
}

/* ---- comparisons ---- */

static void name_element(const struct parity_arg *a, size_t i, int64_t t0, char out[64]) {
    if (a->width > 1)
        snprintf(out, 64, "%s[%zu][%zu]", a->name, (size_t)t0 + i / a->width, i % a->width);
    else
        snprintf(out, 64, "%s[%zu]", a->name, (size_t)t0 + i);
}

static float float_at(const uint8_t *p, size_t i) {
    float f;
    memcpy(&f, p + 4 * i, 4);
    return f;
}

/* How far a value is from the one wanted, in tolerances. */
static double distance(double got, double want, double tol, double *abs_err) {
    *abs_err = 0;
    if (isnan(want) && isnan(got)) return 0;
    if (got == want) return 0;
    *abs_err = fabs(got - want);
    if (!isfinite(got) || !isfinite(want)) return *abs_err = INFINITY;
    return *abs_err / tol;
}

static bool compare_floats(const struct parity_arg *a, const struct guard *g, double *max_abs, double *max_of_tol,
                           struct err *e) {
    double worst = 1;
    size_t at = 0;
    bool over = false;
    for (size_t i = 0; i < a->bytes / 4; i++) {
        double abs_err, d = distance(float_at(g->data, i), a->want[i], a->tol[i], &abs_err);
        if (abs_err > *max_abs) *max_abs = abs_err;
        if (d > *max_of_tol) *max_of_tol = d;
        if (d > worst) {
            worst = d;
            at = i;
            over = true;
        }
    }
    if (!over) return true;
    char name[64];
    name_element(a, at, 0, name);
    return err_set(e, ERR_INPUT, "%s is %.9g, expected %.9g within %.3g", name, float_at(g->data, at), a->want[at],
                   a->tol[at]);
}

static bool compare_bytes(const struct parity_arg *a, const uint8_t *got, const uint8_t *want, size_t bytes,
                          size_t elem, int64_t t0, const char *what, struct err *e) {
    for (size_t i = 0; i < bytes; i += elem) {
        if (memcmp(got + i, want + i, elem) == 0) continue;
        char name[64];
        name_element(a, i / elem, t0, name);
        uint32_t g = 0, w = 0;
        memcpy(&g, got + i, elem);
        memcpy(&w, want + i, elem);
        return err_set(e, ERR_INPUT, "%s: %s is 0x%" PRIx32 ", expected 0x%" PRIx32, what, name, g, w);
    }
    return true;
}

bool parity_compare(const struct parity_case *c, const struct parity_out *out, double *max_abs, double *max_of_tol,
                    struct err *e) {
    bool ok = true;
    for (size_t i = 0; i < c->n_args; i++) {
        const struct parity_arg *a = &c->args[i];
        if (a->role != PARITY_OUT) continue;
        struct err mine = {0};
        bool same =
            a->exact ? compare_bytes(a, out->args[i].data, a->exact, a->bytes, a->elem_bytes, 0, "exact value", &mine)
                     : compare_floats(a, &out->args[i], max_abs, max_of_tol, &mine);
        if (!same && a->exact) *max_of_tol = INFINITY;
        if (!same && ok) *e = mine;
        ok = ok && same;
    }
    return ok;
}

/* Equal bits, or NaN both: a NaN's sign and payload are not specified. */
static bool same_float(const uint8_t *a, const uint8_t *b, size_t i) {
    return memcmp(a + 4 * i, b + 4 * i, 4) == 0 || (isnan(float_at(a, i)) && isnan(float_at(b, i)));
}

bool parity_same(const struct parity_case *c, const struct parity_out *all, const struct parity_out *part, int64_t t0,
                 int64_t n, struct err *e) {
    for (size_t i = 0; i < c->n_args; i++) {
        const struct parity_arg *a = &c->args[i];
        if (a->role != PARITY_OUT || (!a->tok_bytes && n != c->n_tok)) continue;
        const uint8_t *want = all->args[i].data + (size_t)t0 * a->tok_bytes, *got = part->args[i].data;
        size_t bytes = part->args[i].bytes;
        if (a->exact) {
            if (!compare_bytes(a, got, want, bytes, a->elem_bytes, t0, "bits", e)) return false;
            continue;
        }
        for (size_t k = 0; k < bytes / 4; k++) {
            if (same_float(got, want, k)) continue;
            char name[64];
            name_element(a, k, t0, name);
            return err_set(e, ERR_INPUT, "%s is %.9g, not the same bits as %.9g", name, float_at(got, k),
                           float_at(want, k));
        }
    }
    return true;
}

/* ---- weights ---- */

bool parity_pack(struct dsl *d, const struct kernel *pack, const struct target *t, const struct parity_arg *a,
                 struct ref_rng *rng, struct guard *out, struct err *e) {
    struct packed_size size;
    if (!compile_packed_size(d, t, a->fmt->name, (int64_t)a->rows, (int64_t)a->width, &size, e)) return false;
    /* The file has the rows in another order; the row map undoes it. */
    size_t row_bytes = a->bytes / a->rows;
    struct guard src = {0}, map = {0};
    if (!guard_new(&src, a->bytes) || !guard_new(&map, a->rows * 4) || !guard_new(out, (size_t)size.bytes)) {
        guard_free(&src);
        guard_free(&map);
        return err_set(e, ERR_MEMORY, "no memory for a packed weight");
    }
    int32_t *rows = (int32_t *)(void *)map.data;
    for (size_t i = 0; i < a->rows; i++) rows[i] = (int32_t)i;
    for (size_t i = a->rows; i > 1; i--) {
        size_t j = ref_rng_below(rng, i);
        int32_t x = rows[i - 1];
        rows[i - 1] = rows[j];
        rows[j] = x;
    }
    for (size_t i = 0; i < a->rows; i++)
        memcpy(src.data + (size_t)rows[i] * row_bytes, (const uint8_t *)a->data + i * row_bytes, row_bytes);
    int64_t sizes[N_RUN_DIMS] = {[RUN_NB] = (int64_t)(a->width / a->fmt->block_elems),
                                 [RUN_ROWS] = (int64_t)a->rows,
                                 [RUN_ROW_BYTES] = (int64_t)row_bytes,
                                 [RUN_TILE_BYTES] = size.tile};
    void *args[3] = {src.data, out->data, map.data};
    struct parity_exec x = {.k = pack};
    bool ok = run_kernel(&x, args, sizes, CUT_THREE, NULL, e);
    if (ok && !(guard_ok(&src) && guard_ok(&map) && guard_ok(out)))
        ok = err_set(e, ERR_INPUT, "packing '%s' (%s) wrote outside its output", a->name, a->fmt->name);
    guard_free(&src);
    guard_free(&map);
    return ok;
}
