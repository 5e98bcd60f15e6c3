/* output: what commands print: JSON, colour, sizes, untrusted text, progress. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool wants_colour(FILE *f) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return !(no && *no) && !(term && strcmp(term, "dumb") == 0) && isatty(fileno(f));
}

const char *bold(FILE *f) {
    return wants_colour(f) ? "\033[1m" : "";
}
const char *red(FILE *f) {
    return wants_colour(f) ? "\033[1;31m" : "";
}
const char *green(FILE *f) {
    return wants_colour(f) ? "\033[32m" : "";
}
const char *yellow(FILE *f) {
    return wants_colour(f) ? "\033[33m" : "";
}
const char *plain(FILE *f) {
    return wants_colour(f) ? "\033[0m" : "";
}

bool json_print(json_t *object, struct err *e) {
    /* Jansson makes NULL of what it cannot hold, and passes the NULL on to here. */
    char *text = object ? json_dumps(object, JSON_REAL_PRECISION(9) | JSON_ENSURE_ASCII) : NULL;
    json_decref(object);
    if (!text) return err_set(e, ERR_MEMORY, "not enough memory for the JSON result");
    fputs(text, stdout);
    fputc('\n', stdout);
    free(text);
    return true;
}

json_t *json_finite(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

/* The length of the UTF-8 sequence at s, or 0 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). */
static size_t utf8_length(const unsigned char *s, size_t n) {
    size_t length = s[0] < 0x80                   ? 1
                    : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
                    : (s[0] & 0xF0) == 0xE0       ? 3
                    : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                                  : 0;
    if (length == 0 || length > n) return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] >= 0xA0) || (s[0] == 0xF0 && s[1] < 0x90) ||
        (s[0] == 0xF4 && s[1] >= 0x90))
        return 0;
    return length;
}

json_t *json_text(const char *bytes, size_t n) {
    struct buf out = {0};
    for (size_t i = 0; i < n;) {
        size_t length = utf8_length((const unsigned char *)bytes + i, n - i);
        if (length)
            buf_add(&out, bytes + i, length);
        else
            buf_puts(&out, "\xEF\xBF\xBD");
        i += length ? length : 1;
    }
    json_t *text = json_stringn(out.data ? out.data : "", out.len);
    buf_free(&out);
    return text;
}

const char *format_bytes(uint64_t bytes, char out[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1024) v /= 1024, u++;
    snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", v, units[u]);
    return out;
}

void print_safe(FILE *f, const char *bytes, size_t n) {
    for (size_t i = 0; i < n;) {
        const unsigned char *at = (const unsigned char *)bytes + i;
        size_t length = utf8_length(at, n - i);
        bool control = at[0] < 0x20 || at[0] == 0x7F || (length == 2 && at[0] == 0xC2 && at[1] < 0xA0);
        if (length && !control)
            fwrite(at, 1, length, f);
        else if (at[0] == '\n')
            fputs("\\n", f);
        else if (at[0] == '\t')
            fputs("\\t", f);
        else
            for (size_t k = 0; k < (length ? length : 1); k++) fprintf(f, "\\x%02X", at[k]);
        i += length ? length : 1;
    }
}

void progress_begin(struct progress *p, const char *what) {
    *p = (struct progress){.what = what, .on = isatty(STDERR_FILENO)};
    progress_update(p, 0);
}

void progress_update(struct progress *p, double fraction) {
    enum { WIDTH = 30 };
    if (!p->on || (p->shown_s != 0 && now_s() - p->shown_s < 0.1)) return;
    p->shown_s = now_s();
    int full = (int)(fmin(fmax(fraction, 0), 1) * WIDTH);
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%", p->what, full, "##############################", WIDTH - full, "",
            fraction * 100);
    fflush(stderr);
}

void progress_end(struct progress *p) {
    if (p->on) fputs("\r\033[K", stderr);
    p->on = false;
}
