/* llvm_linked: LLVM is part of the program (`make static`): linked instead of llvm_open.c and its jumps. */
#include "codegen/llvm_internal.h"

#include <llvm/Config/llvm-config.h>

bool llvm_open(struct err *e) {
    (void)e;
    return true;
}

const char *llvm_version(void) {
    return LLVM_VERSION_STRING;
}
