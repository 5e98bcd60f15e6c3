/* roofline: a drawing of `kgen bench --svg`. Left to right operations a byte, upwards operations a second, both in
 * powers of ten. A kernel is a disc, its area its share of the time; it cannot be above the sloping line, memory's
 * speed, nor above the level one of its arithmetic. */
#include "cli/profile.h"

#include <math.h>
#include <stdlib.h>

enum { WIDTH = 900, HEIGHT = 560, LEFT = 70, RIGHT = 20, TOP = 40, BOTTOM = 60, LARGEST_R = 26, LINE = 17 };

/* What the axes span, as exponents of ten. */
struct axes {
    double x0, x1, y0, y1;
};

static double x_of(const struct axes *a, double ops_per_byte) {
    return LEFT + (log10(ops_per_byte) - a->x0) / (a->x1 - a->x0) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct axes *a, double ops_per_s) {
    return HEIGHT - BOTTOM - (log10(ops_per_s) - a->y0) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM);
}

/* A kernel on the drawing. */
struct disc {
    const char *name;
    double ops_per_byte, ops_per_s, share, ms, of_limit;
};

static int by_share(const void *a, const void *b) {
    double x = ((const struct disc *)a)->share, y = ((const struct disc *)b)->share;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* False: it computes nothing, or nothing is known of it. */
static bool disc_of(const struct profile *p, size_t k, struct disc *d) {
    const struct model *m = p->model;
    double seconds = 0, total = 0, n = 0;
    for (size_t i = 0; i < m->n_all_launches; i++) {
        const struct launch_times *t = &p->times.launches[i];
        total += t->seconds;
        if (m->launches[i].kernel != &m->kernels[k]) continue;
        seconds += t->seconds;
        n += (double)t->runs;
    }
    const struct profile_kernel *x = &p->kernels[k];
    if (!(seconds > 0 && x->ops > 0 && x->bytes > 0)) return false;
    *d = (struct disc){.name = m->kernels[k].name,
                       .ops_per_byte = x->ops / x->bytes,
                       .ops_per_s = x->ops * n / seconds,
                       .share = seconds / total,
                       .ms = seconds / (double)p->times.n_evals * 1e3,
                       .of_limit = x->limit_s * n / seconds};
    return true;
}

/* A profile's kernels, those that take longest first. *discs: the caller frees them. */
static size_t discs_of(const struct profile *p, struct disc **discs) {
    size_t n = 0;
    *discs = p->kernels ? mem_new((p->model->n_plan_kernels + 1) * sizeof **discs) : NULL;
    for (size_t k = 0; p->kernels && k < p->model->n_plan_kernels; k++) n += disc_of(p, k, &(*discs)[n]);
    if (n) qsort(*discs, n, sizeof **discs, by_share);
    return n;
}

static void extend(double *low, double *high, double value) {
    *low = fmin(*low, floor(log10(value)));
    *high = fmax(*high, ceil(log10(value)));
}

static double highest(const struct peaks *p) {
    return fmax(fmax(p->int8_ops_per_s, p->dp4a_ops_per_s), fmax(p->f32_ops_per_s, p->bf16_ops_per_s));
}

static struct axes axes_for(const struct profile *profiles, size_t n, const struct peaks *peaks) {
    struct axes a = {0, 2, 9, 10};
    extend(&a.y0, &a.y1, highest(peaks));
    for (size_t i = 0; i < n; i++) {
        struct disc *discs;
        size_t n_discs = discs_of(&profiles[i], &discs);
        for (size_t k = 0; k < n_discs; k++) {
            extend(&a.x0, &a.x1, discs[k].ops_per_byte);
            extend(&a.y0, &a.y1, discs[k].ops_per_s);
        }
        mem_free(discs);
    }
    return a;
}

static void grid(struct buf *b, const struct axes *a) {
    for (int e = (int)a->x0; e <= (int)a->x1; e++) {
        double x = x_of(a, pow(10, e));
        buf_printf(b, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x, x, TOP, HEIGHT - BOTTOM);
        buf_printf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", x, HEIGHT - BOTTOM + 18,
                   pow(10, e));
    }
    for (int e = (int)a->y0; e <= (int)a->y1; e++) {
        double y = y_of(a, pow(10, e));
        buf_printf(b, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDTH - RIGHT, y, y);
        buf_printf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT - 6, y + 4, pow(10, e - 9));
    }
    buf_printf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">operations a byte</text>", WIDTH - RIGHT,
               HEIGHT - BOTTOM + 36);
    buf_printf(b, "<text x=\"%d\" y=\"%d\">Gop/s</text>\n", 8, TOP - 14);
}

/* A level line from where memory's slope meets it. */
static void roof(struct buf *b, const struct axes *a, const char *name, double peak, double bytes_per_s) {
    if (!(peak > 0)) return;
    double y = y_of(a, peak), x = fmax(x_of(a, peak / bytes_per_s), LEFT);
    buf_printf(b, "<line class=\"roof\" x1=\"%.1f\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", x, WIDTH - RIGHT, y, y);
    buf_printf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s %.0f Gop/s</text>\n", WIDTH - RIGHT - 4, y - 5,
               name, peak / 1e9);
}

static void slope(struct buf *b, const struct axes *a, const struct peaks *peaks) {
    double top = highest(peaks);
    double from = fmax(pow(10, a->x0), pow(10, a->y0) / peaks->read_bytes_per_s), to = top / peaks->read_bytes_per_s;
    double x = x_of(a, from), y = y_of(a, from * peaks->read_bytes_per_s);
    buf_printf(b, "<line class=\"roof\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>", x, y, x_of(a, to),
               y_of(a, top));
    buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\">memory %.1f GB/s</text>\n", x + 8, y - 14,
               peaks->read_bytes_per_s / 1e9);
}

/* A profile's discs, numbered from `first` on, and the list of their names below the drawing in column `column`. */
static void draw(struct buf *b, const struct axes *a, const struct profile *p, const struct disc *discs, size_t n,
                 size_t first, int column) {
    const char *use = p->tok == 1 ? "token" : "prompt";
    for (size_t k = 0; k < n; k++) {
        const struct disc *d = &discs[k];
        double x = x_of(a, d->ops_per_byte), y = y_of(a, d->ops_per_s), r = 4 + LARGEST_R * sqrt(d->share);
        buf_printf(b, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"><title>%s: %.4f ms</title></circle>",
                   use, x, y, r, d->name, d->ms);
        /* Beside a small one; discs that lie on each other take turns. */
        double beside = r < 9 ? (k % 2 ? -r - 8 : r + 8) : 0;
        buf_printf(b, "<text class=\"number\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%zu</text>\n", x + beside,
                   y + 4, first + k);
        buf_printf(b, "<text x=\"%d\" y=\"%zu\">%zu  %s: %.0f %% of the time, %.0f %% of the limit</text>\n",
                   LEFT + column * (WIDTH - LEFT) / 2, HEIGHT + k * LINE, first + k, d->name, 100 * d->share,
                   100 * d->of_limit);
    }
}

bool roofline_write(const struct profile *profiles, size_t n, const struct peaks *peaks, const char *path,
                    struct err *e) {
    static const char style[] =
        "text{font:12px system-ui,sans-serif;fill:#222;white-space:pre}.grid{stroke:#ddd}.roof{stroke:#b3362b;"
        "stroke-width:2}.prompt{fill:#2b7a4b;fill-opacity:.5}.token{fill:#3568a8;fill-opacity:.5}.number{font-size:"
        "11px}";
    struct axes a = axes_for(profiles, n, peaks);
    struct buf b = {0}, body = {0};
    size_t drawn = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        struct disc *discs;
        size_t n_discs = discs_of(&profiles[i], &discs);
        draw(&body, &a, &profiles[i], discs, n_discs, drawn + 1, (int)i);
        drawn += n_discs;
        longest = n_discs > longest ? n_discs : longest;
        mem_free(discs);
    }
    size_t height = HEIGHT + longest * LINE + 10;
    buf_printf(
        &b,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %zu\" role=\"img\" aria-label=\"roofline\">\n"
        "<style>%s</style>\n<rect width=\"%d\" height=\"%zu\" fill=\"#fff\"/>\n",
        WIDTH, height, style, WIDTH, height);
    grid(&b, &a);
    slope(&b, &a, peaks);
    roof(&b, &a, "int8", peaks->int8_ops_per_s, peaks->read_bytes_per_s);
    roof(&b, &a, "dp4a", peaks->dp4a_ops_per_s, peaks->read_bytes_per_s);
    roof(&b, &a, "bf16", peaks->bf16_ops_per_s, peaks->read_bytes_per_s);
    roof(&b, &a, "f32", peaks->f32_ops_per_s, peaks->read_bytes_per_s);
    if (drawn) buf_add(&b, body.data, body.len);
    buf_printf(&b,
               "<circle class=\"prompt\" cx=\"%d\" cy=\"18\" r=\"7\"/><text x=\"%d\" y=\"22\">a prompt</text>"
               "<circle class=\"token\" cx=\"%d\" cy=\"18\" r=\"7\"/><text x=\"%d\" y=\"22\">one token</text>"
               "<text x=\"%d\" y=\"22\">area: share of the time</text>\n</svg>\n",
               LEFT + 10, LEFT + 22, LEFT + 100, LEFT + 112, LEFT + 190);
    bool ok = drawn ? file_write_atomic(path, b.data, b.len, e)
                    : err_set(e, ERR_UNSUPPORTED,
                              "--svg: what the kernels compute is not known of a bundle; use the model file");
    buf_free(&body);
    buf_free(&b);
    return ok;
}
