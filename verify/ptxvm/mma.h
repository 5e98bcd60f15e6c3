/* What the matrix instructions share. */
#ifndef KGEN_PTXVM_MMA_H
#define KGEN_PTXVM_MMA_H

#include "verify/ptxvm/mem_access.h"

enum { MATRIX_ROWS = 256, MATRIX_MAX = 264 }; /* 264: rows that do not all fall into the same cache sets */
struct matrices {
    double a[MATRIX_ROWS][MATRIX_MAX], b[MATRIX_ROWS][MATRIX_MAX], c[MATRIX_ROWS][MATRIX_MAX],
        d[MATRIX_ROWS][MATRIX_MAX];
};
void vm_multiply(struct matrices *x, const struct ext *e);
double vm_element_value(u64 bits, enum ptx_type t);
int vm_element_bits(enum ptx_type t);
u64 vm_accumulator_bits(double v, enum ptx_type t);
float vm_half_value(u16 h);
/* Waits until the whole warp is here: its lanes, or 0 with *out set. */
u32 vm_whole_warp(struct warp *w, struct split *s, const struct insn *in, u32 mask, enum step *out);

#endif
