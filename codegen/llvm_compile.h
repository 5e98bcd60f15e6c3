/* llvm_compile: from verified flat IR to text or an object; no LLVM type shows. */
#ifndef KGEN_LLVM_COMPILE_H
#define KGEN_LLVM_COMPILE_H

#include "codegen/codegen.h"
#include "codegen/ir.h"

/* Appends LLVM text, assembly or an object (stage is not STAGE_IR) to *out. */
bool llvm_compile(const struct ir_module *m, const struct target *t, enum codegen_stage stage, struct buf *out,
                  struct err *e);

/* The version of LLVM that kgen was built for: known without loading it. */
const char *llvm_version(void);

#endif
