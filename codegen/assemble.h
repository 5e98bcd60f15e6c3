/* assemble: PTX made into machine code (a cubin) by NVIDIA's ptxas where it is installed, so that the driver has nothing to
 * compile. Nothing needs it: a driver that does not get a cubin, or refuses it, compiles the PTX.
 */
#ifndef KGEN_ASSEMBLE_H
#define KGEN_ASSEMBLE_H

#include "codegen/target.h"

struct assembler {
    char ptxas[4096];
    char version[128]; /* what the code depends on beside PTX and target: ptxas' size and time of change */
};

/* Looks for ptxas in $PATH, $CUDA_HOME/bin and the toolkit's usual place. */
bool assembler_find(struct assembler *out);

/* Appends the cubin of a PTX text for a target. Its working files lie in $TMPDIR while it works. */
bool assembler_run(const struct assembler *a, const struct target *t, const struct buf *ptx, struct buf *cubin,
                   struct err *e);

#endif
