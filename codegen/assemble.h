/* assemble: PTX made into machine code by NVIDIA's ptxas where it is installed, so that the driver has nothing to compile.
 *
 * The image holds the machine code and the PTX (a fat binary, which the toolkit's fatbinary writes): a driver takes the
 * code if it is for its device, and else compiles the PTX, as it does without an image. Nothing needs the image.
 */
#ifndef KGEN_ASSEMBLE_H
#define KGEN_ASSEMBLE_H

#include "codegen/target.h"

struct assembler {
    char ptxas[4096], fatbinary[4096];
    char version[128]; /* what the image depends on beside PTX and target: ptxas' size and time of change */
};

/* Looks for both programs side by side in $PATH, $CUDA_HOME/bin and the toolkit's usual place. */
bool assembler_find(struct assembler *out);

/* Appends the image of a PTX text for a target. Its working files lie in $TMPDIR while it works. */
bool assembler_run(const struct assembler *a, const struct target *t, const struct buf *ptx, struct buf *image,
                   struct err *e);

#endif
