/* llvm_emit: verified flat IR to LLVM IR. Included by llvm_*.c only. */
#ifndef KGEN_LLVM_EMIT_H
#define KGEN_LLVM_EMIT_H

#include "codegen/llvm_internal.h"

/* Adds every function of m to module, which already has its triple and data layout. */
void llvm_emit_module(LLVMContextRef ctx, LLVMModuleRef module, const struct ir_module *m, const struct target *t);

#endif
