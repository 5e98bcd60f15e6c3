/* The per-lane operations with AVX-512. */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")
#define ROW_TABLE vm_rows_avx512
#include "verify/ptxvm/exec_rows.inc"
