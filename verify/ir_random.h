/* ir_random: random, well-formed programs of the flat IR for differential tests: nested loops with carries, ifs, shared
 * and constant subexpressions, address arithmetic, loads and stores. Equal seeds give equal programs. */
#ifndef KGEN_IR_RANDOM_H
#define KGEN_IR_RANDOM_H

#include "codegen/base.h"

/* Bytes of the two memories a program uses: arg 0 is read, arg 1 is read and written. arg 0 must hold f32 from 0.5 up
 * to 1 (as integers they do as well as any), so that no NaN arises and results can be compared bit for bit. */
enum { IR_RANDOM_BYTES = 4096 };

/* Appends a module with func @random, which keeps every promise. */
void ir_random(uint64_t seed, struct buf *out);

/* Appends a module with func @mma: one product of tiles of shape `shape` (enum ir_mma), its operands gathered from arg
 * 0 (c at byte 0, a at 512 with its lanes reversed, b at 1024), the result scattered to arg 1, the lanes of each
 * register reversed, without lane 5. */
void ir_mma_program(int shape, struct buf *out);

/* Fills the 1280 bytes of arg 0: any codes, or halves whose sums of products are exact in any order. */
void ir_mma_operands(int shape, uint64_t seed, uint8_t *in);

/* Appends a module with func @tile: for i from begin to end, a product of tiles in memory of shape `shape` (enum
 * ir_tile): A the rows at bytes 4 i of arg 0, B what stands at IR_TILE_AT_B there xor i (every word), brought to the
 * stack; C, less i, to bytes 1024 i of arg 1. */
enum { IR_TILE_STRIDE = 100, IR_TILE_AT_B = 1728, IR_TILE_BYTES = IR_TILE_AT_B + 1024, IR_TILE_TRIPS = 4 };
void ir_tile_program(int shape, struct buf *out);

/* Fills the IR_TILE_BYTES bytes of arg 0. */
void ir_tile_operands(uint64_t seed, uint8_t *in);

/* Element (row, column) of what trip `trip` stores, by its plain sum. */
int32_t ir_tile_element(const uint8_t *in, int shape, uint32_t trip, unsigned row, unsigned column);

#endif
