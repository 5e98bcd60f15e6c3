/* stream: between the detokenizer's bytes and the terminal. Tokens end anywhere, in the middle of a character or of a
 * stop string; this filter passes on whole characters only and nothing that may turn out to belong to a stop string.
 *
 * Guarantees: what comes out does not depend on how the input was cut; it is the input up to the stop string, unchanged
 * (bytes that are not UTF-8 are passed on as they are, as soon as no continuation can make them so); each call of `put`
 * gets whole characters. Matching costs constant time a byte and stop string, however long and repetitive they are.
 */
#ifndef KGEN_STREAM_H
#define KGEN_STREAM_H

#include "codegen/base.h"

typedef void stream_put(void *context, const char *bytes, size_t n);

struct stream_stop;
struct stream {
    stream_put *put;
    void *context;
    struct buf held; /* received, not yet passed on */
    struct stream_stop *stops;
    size_t n_stops;
    bool stopped;
    size_t stopped_by; /* which stop string, where `stopped` */
};

/* stops[n_stops]: byte strings of len bytes, copied. Errors: one that is empty or not UTF-8; lack of memory. On error
 * *s is closed. */
struct stream_string {
    const char *bytes;
    size_t len;
};
bool stream_open(struct stream *s, const struct stream_string *stops, size_t n_stops, stream_put *put, void *context,
                 struct err *e);
void stream_close(struct stream *s);

/* Takes n bytes. False once a stop string is complete: everything before it has been passed on, it and everything after
 * it is dropped, now and in later calls. The first to be complete counts; of several that end at the same byte, the
 * longest. */
bool stream_push(struct stream *s, const char *bytes, size_t n);

/* The end of the text: passes on what was held back, half a character included. The stream can then take a new text. */
void stream_flush(struct stream *s);

#endif
