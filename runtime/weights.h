/* weights: a model's tensors brought into memory in the layout its kernels read. */
#ifndef KGEN_WEIGHTS_H
#define KGEN_WEIGHTS_H

#include "runtime/model.h"

/* Sets what weights_load will need: m->weight_bytes, and the bytes of each weight. */
bool weights_size(struct model *m, struct err *e);

/* Takes the weights of m's plan from a packed file (runtime/packfile.h) where m has a cache and that has a valid one.
 * Otherwise packs them, all of the pool's threads on each, reading the model with pread, so that neither its pages stay
 * in this process nor a file that shrinks kills it: into a new packed file, if one of that size is allowed (limit:
 * bytes of all packed files together, 0: none) and can be written, else into memory. */
bool weights_load(struct model *m, uint64_t limit, struct err *e);

/* Moves packed weights to the model's GPU: tensors then hold its addresses. Waits. */
bool weights_upload(struct model *m, struct err *e);
void weights_free(struct model *m);

#endif
