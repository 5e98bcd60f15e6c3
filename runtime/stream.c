#include "runtime/stream.h"
#include <string.h>

/* A stop string and where its matching stands (Knuth, Morris, Pratt 1977): `matched` is the length of the longest
 * prefix of the string that the input so far ends with; fallback[m] is the next shorter one when m are matched. */
struct stream_stop {
    unsigned char *bytes;
    size_t len, matched;
    size_t *fallback; /* [len + 1] */
};

/* How many bytes the UTF-8 character starting with `lead` has, and the range its second byte must be in, which excludes
 * overlong forms, surrogates and everything over U+10FFFF (Unicode, table 3-7). 0: no character starts so. */
static size_t char_bytes(unsigned char lead, unsigned char *low, unsigned char *high) {
    *low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
}

/* The length of the character at p[0..n): its bytes when whole, 0 when it is a proper beginning of one, and 1 for a
 * byte that belongs to no character. n > 0. */
static size_t char_at(const unsigned char *p, size_t n) {
    unsigned char low, high;
    size_t bytes = char_bytes(p[0], &low, &high);
    for (size_t i = 1; i < bytes; i++, low = 0x80, high = 0xbf) {
        if (i == n) return 0;
        if (p[i] < low || p[i] > high) return 1;
    }
    return bytes ? bytes : 1;
}

/* How many bytes at the end of p[0..n) are a proper beginning of a character: 0 to 3. */
static size_t unfinished_tail(const unsigned char *p, size_t n) {
    for (size_t tail = 1; tail <= 3 && tail <= n; tail++)
        if (char_at(p + n - tail, tail) == 0) return tail;
    return 0;
}

static bool is_utf8(const unsigned char *p, size_t n) {
    for (size_t at = 0, step; at < n; at += step) {
        step = char_at(p + at, n - at);
        if (step == 0 || (step == 1 && p[at] >= 0x80)) return false;
    }
    return true;
}

/* The length of the longest prefix the input ends with after one more byte; matched < len. */
static size_t advance(const struct stream_stop *stop, size_t matched, unsigned char byte) {
    while (matched > 0 && stop->bytes[matched] != byte) matched = stop->fallback[matched];
    return stop->bytes[matched] == byte ? matched + 1 : 0;
}

static bool stop_open(struct stream_stop *stop, const struct stream_string *string, size_t index, struct err *e) {
    if (!string->len) return err_set(e, ERR_USAGE, "stop string %zu is empty", index + 1);
    if (!is_utf8((const unsigned char *)string->bytes, string->len))
        return err_set(e, ERR_USAGE, "stop string %zu is not valid UTF-8", index + 1);
    stop->bytes = mem_try(string->len, 1);
    stop->fallback = mem_try(string->len + 1, sizeof *stop->fallback);
    if (!stop->bytes || !stop->fallback)
        return err_set(e, ERR_MEMORY, "no memory for stop string %zu of %zu bytes", index + 1, string->len);
    memcpy(stop->bytes, string->bytes, string->len);
    stop->len = string->len;
    for (size_t m = 1; m < stop->len; m++) stop->fallback[m + 1] = advance(stop, stop->fallback[m], stop->bytes[m]);
    return true;
}

bool stream_open(struct stream *s, const struct stream_string *stops, size_t n_stops, stream_put *put, void *context,
                 struct err *e) {
    *s = (struct stream){.put = put, .context = context};
    bool ok = true;
    if (n_stops) {
        s->stops = mem_try(n_stops, sizeof *s->stops);
        ok = s->stops || err_set(e, ERR_MEMORY, "no memory for %zu stop strings", n_stops);
        for (; ok && s->n_stops < n_stops; s->n_stops++)
            ok = stop_open(&s->stops[s->n_stops], &stops[s->n_stops], s->n_stops, e);
    }
    if (!ok) stream_close(s);
    return ok;
}

void stream_close(struct stream *s) {
    for (size_t i = 0; i < s->n_stops; i++) {
        mem_free(s->stops[i].bytes);
        mem_free(s->stops[i].fallback);
    }
    mem_free(s->stops);
    buf_free(&s->held);
    *s = (struct stream){0};
}

/* Passes on the first n held bytes. */
static void release(struct stream *s, size_t n) {
    if (!n) return;
    s->put(s->context, s->held.data, n);
    memmove(s->held.data, s->held.data + n, s->held.len - n);
    s->held.len -= n;
}

/* Takes one byte into every stop string's matching; the length of the longest one now complete, or 0. */
static size_t match(struct stream *s, unsigned char byte) {
    size_t longest = 0;
    for (size_t i = 0; i < s->n_stops; i++) {
        struct stream_stop *stop = &s->stops[i];
        stop->matched = advance(stop, stop->matched, byte);
        if (stop->matched == stop->len && stop->len > longest) {
            longest = stop->len;
            s->stopped_by = i;
        }
    }
    return longest;
}

bool stream_push(struct stream *s, const char *bytes, size_t n) {
    if (s->stopped) return false;
    size_t before = s->held.len;
    buf_add(&s->held, bytes, n);
    for (size_t i = 0; i < n; i++) {
        size_t complete = match(s, (unsigned char)bytes[i]);
        if (complete) {
            release(s, before + i + 1 - complete);
            s->held.len = 0;
            s->stopped = true;
            return false;
        }
    }
    size_t hold = 0;
    for (size_t i = 0; i < s->n_stops; i++) hold = s->stops[i].matched > hold ? s->stops[i].matched : hold;
    /* A stop string begins with a whole character, so where one may have begun the bytes before it are complete. */
    size_t unfinished = hold ? 0 : unfinished_tail((unsigned char *)s->held.data, s->held.len);
    release(s, s->held.len - hold - unfinished);
    return true;
}

void stream_flush(struct stream *s) {
    release(s, s->held.len);
    for (size_t i = 0; i < s->n_stops; i++) s->stops[i].matched = 0;
    s->stopped = false;
}
