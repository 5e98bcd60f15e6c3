#include "cli/case_cuda.h"

#include <string.h>

enum {
    CACHE = 256 << 20, /* more than any second-level cache, twice over */
    MAX_COPIES = 256,
    MAX_LAUNCHES = 1 << 12,
    PAD = 4096,
};
static const double LEAST_MS = 5; /* one measurement lasts at least this long */

/* Several copies where the CPU's case has several: of what comes from memory. */
static size_t copies_of(const struct kernel_case *c) {
    size_t read = 0;
    for (size_t i = 0; i < c->n_arrays; i++)
        if (c->arrays[i].copies == c->n_copies && !c->arrays[i].out) read += c->arrays[i].bytes;
    size_t n = read ? CACHE / read + 1 : 1;
    return n < MAX_COPIES ? n : MAX_COPIES;
}

static bool upload(struct case_cuda *g, const struct kernel_case *c, size_t i, size_t n_copies, struct err *e) {
    const struct case_array *a = &c->arrays[i];
    if (!cuda_alloc(g->gpu, a->bytes * n_copies, &g->memory[i], e)) return false;
    for (size_t k = 0; k < n_copies; k++)
        if (!cuda_upload(g->gpu, g->memory[i] + k * a->bytes, a->data + k % a->copies * a->bytes, a->bytes, e))
            return false;
    return true;
}

bool case_cuda_open(struct case_cuda *g, struct cuda *gpu, const struct kernel_case *c, const struct kernel *k,
                    struct err *e) {
    *g = (struct case_cuda){.gpu = gpu, .kernel = k, .sizes = c->sizes, .n_copies = copies_of(c)};
    const json_t *arrays = json_object_get(c->costs, "arrays");
    size_t n_copies[CASE_MAX_ARRAYS];
    for (size_t i = 0; i < c->n_arrays; i++) {
        n_copies[i] = c->arrays[i].copies == c->n_copies && !c->arrays[i].out ? g->n_copies : 1;
        if (!upload(g, c, i, n_copies[i], e)) return err_prefix(e, "the kernel's arrays");
    }
    g->args = mem_new((g->n_copies * k->n_args + 1) * sizeof *g->args);
    for (size_t copy = 0; copy < g->n_copies; copy++)
        for (size_t i = 0; i < k->n_args; i++)
            for (size_t j = 0; j < c->n_arrays; j++)
                if (strcmp(k->args[i], json_string_value(json_object_get(json_array_get(arrays, j), "name"))) == 0)
                    g->args[copy * k->n_args + i] = g->memory[j] + copy % n_copies[j] * c->arrays[j].bytes;
    int64_t dims[N_RUN_DIMS];
    cuda_dims(k, c->sizes, dims);
    return cuda_alloc(gpu, kernel_ws_bytes(k, c->sizes[RUN_TOK], c->sizes[RUN_NPAGES]) + PAD, &g->ws, e) &&
           cuda_alloc(gpu, sizeof dims, &g->dims, e) && cuda_upload(gpu, g->dims, dims, sizeof dims, e) &&
           cuda_kernel_new(gpu, k, &g->loaded, e);
}

void case_cuda_close(struct case_cuda *g) {
    if (!g->gpu) return;
    cuda_kernel_free(g->gpu, g->loaded);
    for (size_t i = 0; i < CASE_MAX_ARRAYS; i++) cuda_free(g->gpu, g->memory[i]);
    cuda_free(g->gpu, g->ws);
    cuda_free(g->gpu, g->dims);
    mem_free(g->args);
    *g = (struct case_cuda){0};
}

static bool record(struct case_cuda *g, int64_t n, struct cuda_graph **graph, struct err *e) {
    struct err failed;
    struct cuda_launch l = {.sizes = g->sizes, .dims = g->dims, .ws = g->ws};
    bool ok = true;
    if (!cuda_capture_begin(g->gpu, e)) return false;
    for (int64_t i = 0; i < n && ok; i++) {
        l.args = g->args + (size_t)i % g->n_copies * g->kernel->n_args;
        ok = cuda_launch(g->gpu, g->loaded, &l, &failed);
    }
    if (cuda_capture_end(g->gpu, graph, e) && ok) return true;
    if (!ok) *e = failed;
    return false;
}

static bool timed(struct case_cuda *g, struct cuda_graph *graph, struct cuda_event *const *events, double *ms,
                  struct err *e) {
    float between;
    bool ok = cuda_event_record(g->gpu, events[0], e) && cuda_graph_launch(g->gpu, graph, e) &&
              cuda_event_record(g->gpu, events[1], e) && cuda_event_ms(g->gpu, events[0], events[1], &between, e);
    if (ok) *ms = between;
    return ok;
}

bool case_cuda_measure(struct case_cuda *g, int64_t repeats, double *ms, struct err *e) {
    struct cuda_event *events[2] = {0};
    struct cuda_graph *graph = NULL;
    double first = 0;
    int64_t n = 1;
    bool ok = cuda_event_new(g->gpu, &events[0], e) && cuda_event_new(g->gpu, &events[1], e);
    /* The first launch of a graph also brings it to the device. */
    while (ok &&
           (ok = record(g, n, &graph, e) && timed(g, graph, events, &first, e) && timed(g, graph, events, &first, e)) &&
           first < LEAST_MS && n < MAX_LAUNCHES) {
        cuda_graph_free(g->gpu, graph);
        graph = NULL;
        n *= 4;
    }
    for (int64_t i = 0; i < repeats && ok; i++) {
        ok = timed(g, graph, events, &ms[i], e);
        ms[i] /= (double)n;
    }
    cuda_graph_free(g->gpu, graph);
    for (int i = 0; i < 2; i++) cuda_event_free(g->gpu, events[i]);
    return ok;
}
