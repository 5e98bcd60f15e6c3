/* tables: what a graph asks to have computed when a context is opened: rotary positions. */
#ifndef KGEN_TABLES_H
#define KGEN_TABLES_H

#include "runtime/gguf.h"

#include <jansson.h>

/* Fills out[n_ctx][dim] for a tensor of the plan: {"table": "rope_cos" | "rope_sin", "params": {"base", "dim", …}}.
 * Frequencies are divided by params.scale and, pair by pair, by the tensor params.factors, where given.
 * Angles are computed in double. The sine carries the sign its element takes in the rotation of split halves:
 * out[p][i] = −sin for i < dim/2, +sin above. */
bool table_fill(const json_t *plan, const struct gguf *g, int64_t n_ctx, float *out, struct err *e);

#endif
