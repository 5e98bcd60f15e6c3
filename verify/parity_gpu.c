/* parity_gpu: a launch of the parity harness on a GPU, or on the PTX machine. Every buffer is copied to device memory and
 * back, with what lies behind it up to the vector that kernels may read past an end: the machine finds every access
 * before it and beyond that. */
#include "verify/parity_gpu.h"

#include <string.h>

enum { SLACK = 4 * PTX_LANES };

struct buffers {
    cuda_addr args[2 * PARITY_MAX_ARGS], ws, dims;
};

static bool to_device(struct cuda *c, const struct guard *g, cuda_addr *out, struct err *e) {
    return cuda_alloc(c, g->bytes + SLACK, out, e) && cuda_upload(c, *out, g->data, g->bytes + SLACK, e);
}

static bool launch(struct cuda *c, const struct cuda_kernel *ck, const struct kernel *k, const struct buffers *b,
                   const int64_t *sizes, enum parity_cut cut, struct err *e) {
    struct cuda_launch l = {.args = b->args, .sizes = sizes, .dims = b->dims, .ws = b->ws};
    if (cut == CUT_WHOLE) return cuda_launch(c, ck, &l, e);
    /* In pieces, phase by phase: a piece of a phase may need all of the one before. */
    int64_t most = 0;
    for (size_t p = 0; p < k->n_phases; p++)
        for (size_t i = 0; i < k->phases[p].n_parts; i++) {
            int64_t tasks = part_tasks(&k->phases[p].parts[i], sizes);
            if (tasks > most) most = tasks;
        }
    int64_t step = cut == CUT_SINGLE ? 1 : (most + 2) / 3;
    for (size_t p = 0; p < k->n_phases; p++)
        for (int64_t end = most; end > 0; end -= step) {
            int64_t range[2] = {end > step ? end - step : 0, end};
            l.range = range;
            l.phase = (int)p + 1;
            if (!cuda_launch(c, ck, &l, e)) return false;
        }
    return true;
}

bool parity_gpu_launch(struct cuda *c, const struct cuda_kernel *ck, const struct kernel *k,
                       const struct guard *const *args, const struct guard *ws, const int64_t *sizes,
                       enum parity_cut cut, struct err *e) {
    struct buffers b = {0};
    int64_t dims[N_RUN_DIMS];
    cuda_dims(k, sizes, dims);
    bool ok = to_device(c, ws, &b.ws, e) && cuda_alloc(c, k->n_dims * sizeof *dims, &b.dims, e) &&
              cuda_upload(c, b.dims, dims, k->n_dims * sizeof *dims, e);
    for (size_t i = 0; i < k->n_args && ok; i++) ok = to_device(c, args[i], &b.args[i], e);
    ok = ok && launch(c, ck, k, &b, sizes, cut, e) && cuda_download(c, ws->data, b.ws, ws->bytes + SLACK, e);
    for (size_t i = 0; i < k->n_args; i++) {
        ok = ok && cuda_download(c, args[i]->data, b.args[i], args[i]->bytes + SLACK, e);
        cuda_free(c, b.args[i]);
    }
    cuda_free(c, b.ws);
    cuda_free(c, b.dims);
    return ok;
}
