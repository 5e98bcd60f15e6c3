/* The per-lane operations for any x86-64 or other host. */
#define ROW_TABLE vm_rows_base
#include "verify/ptxvm/exec_rows.inc"
