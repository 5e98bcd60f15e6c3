#include "verify/ptxvm/exec_decode.h"
const struct opcode dec_matrix_opcodes[] = {{0}};
const struct opcode dec_async_opcodes[] = {{0}};
