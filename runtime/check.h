/* check: every launch beside its reference: the same kernel without its map (plain loops in the order of its text),
 * compiled for baseline x86-64, on the same inputs. Slow; for `--check`.
 */
#ifndef KGEN_CHECK_H
#define KGEN_CHECK_H

#include "runtime/model.h"

struct check;

/* Compiles the references of all launches (this loads LLVM into the process). batch: tokens a launch can have;
 * head_batch: those of launches over wanted tokens. */
bool check_open(struct model *m, int64_t batch, int64_t head_batch, struct check **out, struct err *e);
void check_close(struct check *c); /* accepts NULL */

/* Runs launch i's reference: call before the launch itself, with its arguments and sizes. Outputs go to memory of the
 * check's own; what the launch appends to the KV cache is written in place and overwritten by the launch. */
void check_reference(struct check *c, size_t i, void *const *args, const int64_t *sizes);

/* After the launch: false and the first element that differs, where one does. Tolerance: 1e-3 of the largest value of
 * its row with f32 activations (float32 sums in another order); with q8 ones 5e-2, since a value next to a rounding tie
 * may take the next code. NaN never agrees. */
bool check_compare(struct check *c, size_t i, void *const *args, const int64_t *sizes, struct err *e);

#endif
