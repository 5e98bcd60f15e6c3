/* profile: where the time of evaluating tokens goes: a table of kernels, for --profile. */
#ifndef KGEN_CLI_PROFILE_H
#define KGEN_CLI_PROFILE_H

#include "runtime/session.h"

#include <jansson.h>
#include <stdio.h>

struct profile {
    const struct model *model;
    struct session *session;
    struct session_profile times;
};

/* From here until profile_end, launches of the session are timed. */
void profile_begin(struct profile *p, const struct model *m, struct session *s);
void profile_end(struct profile *p);

/* Prints kernels by time: milliseconds an evaluation, share, launches, weights read a second; then barriers an
 * evaluation. */
void profile_print(const struct profile *p, const char *title, FILE *f);
void profile_free(struct profile *p); /* accepts a zeroed one */

/* Bytes of weights that a launch reads for one token: of a table that is looked up in, one row. */
uint64_t launch_weight_bytes(const struct model *m, const struct launch *l);

#endif
