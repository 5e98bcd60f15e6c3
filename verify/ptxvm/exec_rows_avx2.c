/* The per-lane operations with AVX2, FMA and F16C. */
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#define ROW_TABLE vm_rows_avx2
#include "verify/ptxvm/exec_rows.inc"
