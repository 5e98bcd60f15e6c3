/* engine: the model behind run, bench and perplexity, opened as the common options say. */
#ifndef KGEN_CLI_ENGINE_H
#define KGEN_CLI_ENGINE_H

#include "cli/cli.h"
#include "runtime/model.h"

/* Opens the model. Errors: a device that this build cannot use; what model_open says. --gpu without a device is a
 * warning on standard error. */
bool engine_open(const struct engine_options *o, struct model **out, struct err *e);

/* The most memory this process has had, in bytes. */
uint64_t engine_peak_bytes(void);

/* {"load_s", "weights_s", "weights_cached", "compile_s", "kernels_compiled", "kernels_cached", "weights_bytes", "peak_bytes", "threads"}: what every
 * report of a model says. */
json_t *engine_json(const struct model *m);

#endif
