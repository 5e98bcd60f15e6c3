/* select: the k largest logits found where they are, on a GPU, so that only those are copied for sampling.
 *
 * Each round keeps the k largest of every group of its elements (kernels top_rank and top_pick); groups become fewer,
 * and the last round has one.
 */
#ifndef KGEN_SELECT_H
#define KGEN_SELECT_H

#include "runtime/compile.h"

/* SELECT_MAX_K: more is not worth it beside copying all logits. SELECT_MAX_N: ids travel as float32.
 * SELECT_PADDING: elements less one that the first round reads past the end. */
enum { SELECT_ROUNDS = 8, SELECT_KERNELS = 2 * SELECT_ROUNDS, SELECT_MAX_K = 256, SELECT_MAX_N = 1 << 24, SELECT_PADDING = 1024 };

struct select_round {
    int64_t n, valid, groups; /* elements, as many of them as are some, and groups they are cut into: kept are k of each */
};

/* The n of the first round is longer than its valid: kernels read there, and do not use what they find.
 *
 * The rounds for the k largest of n, into rounds[SELECT_ROUNDS]; 0 where k or n is out of bounds or k is not below n. */
size_t select_plan(int64_t n, int64_t k, struct select_round *rounds);

/* The specifications of a round's kernels: rank, pick. New references. */
void select_specs(const struct select_round *r, int64_t k, json_t *specs[2]);

#endif
