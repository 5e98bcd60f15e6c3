/* engine: the model behind run, bench and perplexity, opened as the common options say. */
#ifndef KGEN_CLI_ENGINE_H
#define KGEN_CLI_ENGINE_H

#include "cli/cli.h"
#include "runtime/model.h"

/* Opens the model for contexts of n_ctx tokens (0: as session_open's), to be sampled from the top_k likeliest tokens (sample_most_likely).
 * Errors: a device that cannot be used; what model_open says. With --gpu a device that is not there, or that the model
 * does not fit or run on, is a warning on standard error and the CPU computes. */
bool engine_open(const struct engine_options *o, int64_t n_ctx, int64_t top_k, struct model **out, struct err *e);

/* The most memory this process has had, in bytes. */
uint64_t engine_peak_bytes(void);

/* {"load_s", "weights_s", "weights_cached", "compile_s", "kernels_compiled", "kernels_cached", "weights_bytes", "peak_bytes", "threads"}: what every
 * report of a model says. */
json_t *engine_json(const struct model *m);

#endif
