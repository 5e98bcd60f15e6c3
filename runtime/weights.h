/* weights: a model's tensors brought into memory in the layout its kernels read. */
#ifndef KGEN_WEIGHTS_H
#define KGEN_WEIGHTS_H

#include "runtime/model.h"

/* Packs every weight of m's plan (all of the pool's threads work on each), reading the file with pread so that neither
 * its pages stay in this process nor a file that shrinks kills it. */
bool weights_load(struct model *m, struct err *e);

/* Moves packed weights to the model's GPU: tensors then hold its addresses. Waits. */
bool weights_upload(struct model *m, struct err *e);
void weights_free(struct model *m);

#endif
