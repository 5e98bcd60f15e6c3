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
/* What mma.sp and mma with block scaling have more: operands behind d a b c in ext's ops, and how to read them.
 *
 * A sparse A is stored without what is known to be zero: k / 2 columns. Its metadata has 4 bits for each chunk of a row
 * (2 columns of tf32, 8 of four-bit elements, else 4): two indices, of single columns or of pairs of them. With g =
 * lane / 4, the lanes 4 g … 4 g + 3 hold the metadata of rows g and g + 8: chunk c in nibble
 *
 *   META_ONE     c + 4 (row / 8) of lane selector       META_HALVES  c % 4 + 4 (row / 8) of lane 2 selector + c / 4
 *   META_ROWS    c of lane 2 selector + row / 8         META_ALL     c % 8 of lane 2 (c / 8) + row / 8
 *
 * Scales: element (row, chunk) of scale_A is byte `chunk + byte-id` of lane 4 g + 2 thread-id + row / 8, element
 * (chunk, column) of scale_B that byte of lane 4 column + thread-id; k / vec columns make a chunk.
 *
 * PTX ISA, "Sparse matrix storage" and "Block Scaling for mma.sync". Where metadata lies is in its figures only; of
 * META_ROWS there is no other account than those of META_ALL, whose lower columns it is. */
enum metadata_layout { META_NONE, META_ONE, META_HALVES, META_ROWS, META_ALL };
struct mma_extra {
    u8 metadata, selector, chunk; /* metadata_layout; columns of a chunk */
    bool ordered;                 /* the indices ascend */
    u8 vec;                       /* scales along k; 0: none */
    u8 stype;                     /* PT_UE8M0X2, or PT_E4M3 for ue4m3 */
    u8 meta_at, scale_at;         /* in ops: the metadata; data, byte-id and thread-id of A, then of B */
};
/* D = A B + C of sparse and scaled operands: x->a has k / 2 columns when A is sparse. False: a fault, in *out. */
bool vm_multiply_extra(struct matrices *x, struct warp *w, struct split *s, const struct insn *in, enum step *out);
void vm_wrap_integers(struct matrices *x, const struct ext *e); /* or clamps: the accumulators of integer products */
/* Waits until the whole warp is here: its lanes, or 0 with *out set. */
u32 vm_whole_warp(struct warp *w, struct split *s, const struct insn *in, u32 mask, enum step *out);

#endif
