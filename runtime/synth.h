/* synth: models of a known shape with random weights, made in memory: for measuring speed where no file is at hand.
 *
 * A `struct synth` owns a GGUF file in an anonymous memory file. Its `path` opens like any file while the object lives
 * and this process runs, so nothing else has to know about it. Weights are random blocks, every one of them valid:
 * codes and sub-scales take all bit patterns, and the scales are such that a row of n weights has a variance of 1/n,
 * which keeps activations of order one. The bytes depend on the specification and the seed only.
 */
#ifndef KGEN_SYNTH_H
#define KGEN_SYNTH_H

#include "codegen/base.h"

struct synth {
    int fd;        /* -1: none */
    char path[32]; /* what gguf_open takes */
    uint64_t bytes;
};

/* spec: "NAME:TYPE", as in synth_describe. Errors: a name or type that is not known; memory that cannot be had. */
bool synth_open(const char *spec, uint64_t seed, struct synth *out, struct err *e);
void synth_close(struct synth *s); /* accepts one that failed to open */

/* Writes the file to `path`, atomically. The vocabulary is "no_vocab": llama.cpp loads it and takes token ids. */
bool synth_save(const struct synth *s, const char *path, struct err *e);

/* Appends "names: a, b, …; types: f16, …". */
void synth_describe(struct buf *b);

#endif
