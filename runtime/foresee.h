/* foresee: whether a model and its context fit a GPU's memory, said before anything is loaded. */
#ifndef KGEN_FORESEE_H
#define KGEN_FORESEE_H

#include "runtime/model.h"

/* A context of n_ctx tokens (0: the default) on m's GPU; to_load: bytes of weights that are not there yet. The error says
 * what is needed and for what, what is free, and the largest context that fits, or that none does. */
bool foresee(struct model *m, int64_t n_ctx, uint64_t to_load, struct err *e);

#endif
