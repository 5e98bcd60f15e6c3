/* passes_internal: one function a pass; the list with what each requires and breaks is in passes.c. */
#ifndef KGEN_PASSES_INTERNAL_H
#define KGEN_PASSES_INTERNAL_H

#include "codegen/ir.h"

void pass_fold(struct ir_func *f);
void pass_hoist(struct ir_func *f);
void pass_cse(struct ir_func *f);
void pass_dce(struct ir_func *f);
void pass_sink(struct ir_func *f);

#endif
