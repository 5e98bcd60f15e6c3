#include "cli/profile.h"

#include <stdlib.h>

void profile_begin(struct profile *p, const struct model *m, struct session *s) {
    p->model = m;
    p->session = s;
    if (!p->times.seconds) p->times.seconds = mem_new((m->n_all_launches + 1) * sizeof *p->times.seconds);
    session_set_profile(s, &p->times);
}

void profile_end(struct profile *p) {
    session_set_profile(p->session, NULL);
}

void profile_free(struct profile *p) {
    mem_free(p->times.seconds);
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

struct row {
    const struct kernel *kernel;
    double seconds;
    uint64_t bytes;
    size_t n_launches;
};

static int by_time(const void *a, const void *b) {
    double x = ((const struct row *)a)->seconds, y = ((const struct row *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

void profile_print(const struct profile *p, const char *title, FILE *f) {
    const struct model *m = p->model;
    if (!m || p->times.n_evals == 0) return;
    double n = (double)p->times.n_evals, total = 0;
    struct row *rows = mem_new((m->n_kernels + 1) * sizeof *rows);
    for (size_t i = 0; i < m->n_all_launches; i++) {
        struct row *r = &rows[m->launches[i].kernel - m->kernels];
        r->kernel = m->launches[i].kernel;
        r->seconds += p->times.seconds[i];
        r->bytes += launch_weight_bytes(m, &m->launches[i]);
        r->n_launches++;
        total += p->times.seconds[i];
    }
    qsort(rows, m->n_kernels, sizeof *rows, by_time);
    fprintf(f, "%s: %.3f ms each, %llu evaluations\n", title, total / n * 1e3, (unsigned long long)p->times.n_evals);
    fprintf(f, "  %9s %6s %9s %8s  %s\n", "ms", "share", "launches", "GB/s", "kernel");
    for (size_t i = 0; i < m->n_kernels && rows[i].kernel; i++)
        fprintf(f, "  %9.4f %5.1f%% %9zu %8.1f  %s\n", rows[i].seconds / n * 1e3, 100 * rows[i].seconds / total,
                rows[i].n_launches, (double)rows[i].bytes * n / rows[i].seconds / 1e9, rows[i].kernel->name);
    fprintf(f, "  %zu launches, %.0f barriers each\n", m->n_launches, (double)p->times.n_barriers / n);
    mem_free(rows);
}
