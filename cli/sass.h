/* sass: what ptxas makes of a kernel's PTX: registers, spills, shared memory, and how much of a multiprocessor its blocks
 * fill. */
#ifndef KGEN_CLI_SASS_H
#define KGEN_CLI_SASS_H

#include "codegen/target.h"

/* Appends a table, a line a function, from `ptxas -v` (in PATH, or CUDA_HOME/bin). Errors: there is no ptxas; it refuses
 * the code, with its words. */
bool sass_report(const struct buf *ptx, const struct target *t, struct buf *out, struct err *e);

#endif
