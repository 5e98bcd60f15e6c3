/* inspect: the part that needs the families: a file's layer graph. */
#ifndef KGEN_CLI_INSPECT_H
#define KGEN_CLI_INSPECT_H

#include "codegen/base.h"

#include <jansson.h>

/* {"family", "before", "after"}: the nodes that the family builds, and the launches they are fused into, each
 * {"kernel", "nodes", "weights", "layer"}. Errors: a family or tensor that kgen does not know. */
bool inspect_graph(const char *path, const char *act, const char *kv, json_t **out, struct err *e);

/* The same as two lists, in which layers that repeat are shown once. */
void inspect_graph_print(const json_t *graph);

#endif
