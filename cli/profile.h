/* profile: where the time of evaluating tokens goes: by kernel and by layer, against what the machine allows. */
#ifndef KGEN_CLI_PROFILE_H
#define KGEN_CLI_PROFILE_H

#include "cli/peaks.h"
#include "runtime/session.h"

#include <jansson.h>
#include <stdio.h>

struct profile {
    const struct model *model;
    struct session *session;
    struct session_profile times;
    /* Known after profile_costs, of a bundle the first two. */
    int64_t tok, pos;
    struct profile_kernel {
        double bytes, ops; /* a launch: what it reads, writes and computes at least */
        double limit_s;    /* a launch: what the peaks allow */
    } * kernels;           /* [n_plan_kernels]; NULL: not known */
};

/* From here until profile_end, launches of the session are timed. */
void profile_begin(struct profile *p, const struct model *m, struct session *s);
void profile_end(struct profile *p);
void profile_free(struct profile *p); /* accepts a zeroed one */

/* Works out what each kernel's launches cost (dsl/shapes.lua), each evaluation being of tok tokens behind pos others.
 * A model that came as a bundle knows no expressions, and has no costs. */
bool profile_costs(struct profile *p, int64_t tok, int64_t pos, const struct peaks *peaks, struct err *e);

/* Prints kernels by time: milliseconds an evaluation, share, launches, weights read a second, and, where costs are
 * known, operations a second and the part of what the peaks allow; then layers, then launches and barriers an
 * evaluation. */
void profile_print(const struct profile *p, const char *title, FILE *f);

/* {"title", "tok", "pos", "evaluations", "ms", "barriers", "kernels": [{"kernel", "launches", "ms", "bytes", "ops",
 * "limit_ms"}], "layers": [{"layer", "launches", "barriers", "ms"}]}, all of one evaluation. */
json_t *profile_json(const struct profile *p, const char *title);

/* A drawing of profiles with costs: each kernel's operations a second over its operations a byte, under the peaks. */
bool roofline_write(const struct profile *profiles, size_t n, const struct peaks *peaks, const char *path,
                    struct err *e);

/* Bytes of weights that a launch reads for one token: of a table that is looked up in, one row. */
uint64_t launch_weight_bytes(const struct model *m, const struct launch *l);

/* The layer that a tensor belongs to: "blk.12.attn_q.weight" and the cache "k12" to 12; -1 to none. */
int tensor_layer(const char *name, bool cache);

#endif
