/* passes: rewriting the flat IR before LLVM sees it. */
#ifndef KGEN_PASSES_H
#define KGEN_PASSES_H

#include "codegen/ir.h"

/* Runs every pass over f, which must verify. dump is NULL, a pass's name or "all": f is printed to `to` after it. */
void passes_run(struct ir_func *f, const char *dump, FILE *to);

/* Whether dump names a pass (or is NULL or "all"); else *e lists the names. */
bool passes_check_dump(const char *dump, struct err *e);

#endif
