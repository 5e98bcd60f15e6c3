/* tune_html: the page of `kgen tune --report`. Nothing in it is fetched: style and drawings are inline. */
#include "cli/tune.h"

#include <math.h>
#include <string.h>

static void escaped(struct buf *b, const char *text) {
    for (; *text; text++) {
        if (*text == '<')
            buf_puts(b, "&lt;");
        else if (*text == '>')
            buf_puts(b, "&gt;");
        else if (*text == '&')
            buf_puts(b, "&amp;");
        else
            buf_add(b, text, 1);
    }
}

static const char style[] =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "h2{font-size:1.1em;margin:2em 0 0}p{margin:.2em 0}code{color:#555}svg text{font:12px "
    "system-ui,sans-serif;fill:#222}"
    ".bar{fill:#9db4c8}.best{fill:#2b7a4b}.default{fill:#5b7fa3}.limit{stroke:#b3362b;stroke-width:2}.predicted{stroke:"
    "#d08a1d;stroke-width:2}"
    "@media(prefers-color-scheme:dark){body{background:#181a1b;color:#ddd}svg text{fill:#ddd}code{color:#aaa}}";

enum { WIDTH = 900, LEFT = 150, RIGHT = 170, ROW = 20 };

/* A bar a candidate, as long as its time; a line where the machine's limit is. */
static void landscape(struct buf *b, const struct sweep *s) {
    double longest = s->limit_ms;
    size_t rows = 0;
    for (size_t i = 0; i < s->n; i++) {
        longest = fmax(longest, s->candidates[i].ms);
        rows += strcmp(s->candidates[i].outcome, "untried") != 0;
    }
    double scale = (WIDTH - LEFT - RIGHT) / longest;
    size_t height = rows * ROW + 24;
    buf_printf(b, "<svg viewBox=\"0 0 %d %zu\" width=\"100%%\" role=\"img\" aria-label=\"times of %zu candidates\">\n",
               WIDTH, height, rows);
    size_t row = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct sweep_candidate *c = &s->candidates[i];
        if (strcmp(c->outcome, "untried") == 0) continue;
        size_t y = row++ * ROW;
        struct buf name = {0};
        tune_text(c->tune, &name);
        buf_printf(b, "<text x=\"%d\" y=\"%zu\" text-anchor=\"end\">%s</text>", LEFT - 8, y + 14, name.data);
        const char *kind = i == s->best ? "best" : i == 0 ? "default" : "bar";
        double w = c->ms * scale;
        if (c->ms > 0)
            buf_printf(b, "<rect class=\"%s\" x=\"%d\" y=\"%zu\" width=\"%.1f\" height=\"%d\"/>", kind, LEFT, y + 2, w,
                       ROW - 4);
        buf_printf(b, "<text x=\"%.1f\" y=\"%zu\">", LEFT + w + 6, y + 14);
        if (c->ms > 0)
            buf_printf(b, "%.4g ms, %.0f %%%s%s", c->ms, 100 * s->limit_ms / c->ms, i == 0 ? ", default" : "",
                       i == s->best ? ", best" : "");
        else
            buf_puts(b, c->outcome);
        buf_puts(b, "</text>\n");
        buf_free(&name);
    }
    for (size_t i = 0, at = 0; i < s->n; i++) {
        const struct sweep_candidate *c = &s->candidates[i];
        if (strcmp(c->outcome, "untried") == 0) continue;
        double x = LEFT + fmin(c->predicted_ms, longest) * scale;
        buf_printf(b, "<line class=\"predicted\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%zu\" y2=\"%zu\"/>\n", x, x, at * ROW + 2,
                   at * ROW + ROW - 2);
        at++;
    }
    double x = LEFT + s->limit_ms * scale;
    buf_printf(b, "<line class=\"limit\" x1=\"%.1f\" y1=\"0\" x2=\"%.1f\" y2=\"%zu\"/>", x, x, rows * ROW);
    buf_printf(b, "<text x=\"%.1f\" y=\"%zu\">limit %.4g ms</text>\n</svg>\n", x + 4, rows * ROW + 14, s->limit_ms);
}

bool tune_report(const struct tuner *t, const struct sweep *sweeps, size_t n, const char *path, struct err *e) {
    struct buf b = {0};
    buf_printf(&b,
               "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>kgen tune</title><style>%s</style>\n",
               style);
    buf_printf(
        &b,
        "<h1>kgen tune</h1>\n<p>Target %s on %s, %d threads. Measured here: memory gives %.1f GB/s, int8 dot products "
        "%.0f Gop/s, f32 %.0f Gop/s. The limit of a kernel is the larger of its bytes and its operations at these "
        "rates; times are geometric means over its launches. A short line in a bar is the time that the candidate's "
        "own loads, "
        "operations and chains allow.</p>\n",
        t->target.name, t->target.cpu, pool_threads(t->pool), t->peaks.read_bytes_per_s / 1e9,
        t->peaks.int8_ops_per_s / 1e9, t->peaks.f32_ops_per_s / 1e9);
    for (size_t i = 0; i < n; i++) {
        const struct sweep *s = &sweeps[i];
        if (!s->measured) continue;
        buf_puts(&b, "<h2>");
        escaped(&b, s->name);
        buf_puts(&b, "</h2>\n<p><code>");
        escaped(&b, s->label);
        buf_printf(
            &b, "</code></p>\n<p>%s; %lld launch%s; tokens:", s->use == USE_TOKEN ? "One token at a time" : "A prompt",
            (long long)s->launches, s->launches == 1 ? "" : "es");
        for (size_t r = 0; r < s->n_runs; r++)
            buf_printf(&b, "%s %lld", r ? "," : "", (long long)json_integer_value(json_object_get(s->runs[r], "tok")));
        buf_printf(&b, "; %.2f times the default's speed</p>\n", s->candidates[0].ms / s->candidates[s->best].ms);
        landscape(&b, s);
    }
    buf_puts(&b, "</html>\n");
    bool ok = file_write_atomic(path, b.data, b.len, e);
    buf_free(&b);
    return ok;
}
