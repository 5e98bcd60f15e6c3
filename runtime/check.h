/* check: every launch beside its reference: the same kernel without its map (plain loops in the order of its text),
 * compiled for baseline x86-64, on the same inputs. Slow; for `--check`. A GPU's memory is copied here for it.
 */
#ifndef KGEN_CHECK_H
#define KGEN_CHECK_H

#include "runtime/session.h"

struct check;

/* Compiles the references of all launches (this loads LLVM into the process). The session is borrowed. */
bool check_open(struct session *s, struct check **out, struct err *e);
void check_close(struct check *c); /* accepts NULL */

/* Runs launch i's reference: call before the launch itself, with its arguments. Outputs go to memory of the check's own. */
bool check_reference(struct check *c, size_t i, void *const *args, struct err *e);

/* After the launch: false and the first element that differs, where one does. Tolerance: 1e-3 of the largest value of
 * its row with f32 activations (float32 sums in another order); with q8 ones 5e-2, since a value next to a rounding tie
 * may take the next code; of the KV cache's pages for theirs. NaN never agrees. */
bool check_compare(struct check *c, size_t i, void *const *args, struct err *e);

#endif
