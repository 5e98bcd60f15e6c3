/* Shared by model.c and model_bundle.c; nobody else includes it. */
#ifndef KGEN_MODEL_IMPL_H
#define KGEN_MODEL_IMPL_H

#include "runtime/model.h"

/* The steps of model_open, in order, on a zeroed model that model_close takes at any point. The target is set between
 * them. */
bool model_open_file(struct model *m, const struct model_options *o, struct err *e); /* and its format's types */
bool model_compile(struct model *m, const struct model_options *o,
                   struct err *e); /* and the plan, where there is none */

/* Instead of model_open_file and of setting the target: from o->bundle, for this machine and this file. */
bool model_open_bundle(struct model *m, const struct model_options *o, struct err *e);

/* The type table from dsl/main.lua's answer to `formats`. */
gguf_type_fn model_use_types(const json_t *list);

#endif
