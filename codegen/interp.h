/* interp: runs a function of the flat IR on real memory, lane by lane, with exactly docs/ir.md's arithmetic. It is the
 * meaning that maps and compiled code are checked against. */
#ifndef KGEN_INTERP_H
#define KGEN_INTERP_H

#include "codegen/ir.h"

/* f must verify. `fused`: fma rounds once (a property of the target class). args, dims, begin, end, ws: as compiled
 * code gets them. A promise of the producer that is broken while running is an error that names it and its line: a
 * shift by the width or more, a zero divisor, a dot4 operand out of range, an fptosi or frint out of range, a
 * misaligned address. NaN results have an unspecified sign and payload. */
bool ir_run(const struct ir_func *f, void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *ws,
            bool fused, struct err *e);

#endif
