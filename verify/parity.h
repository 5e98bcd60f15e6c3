/* parity: every kernel of kernels.lua, in every format and at odd shapes, against the double-precision references
 * (verify/ref.h), on every target that runs here.
 *
 * One check of a compiled kernel is:
 *   - its outputs, poisoned with NaN before, against the reference, within a tolerance derived from the number of
 *     float32 roundings (parity_kernels.c states each); NaN never passes unless the reference says NaN;
 *   - any run of its tokens alone gives the same bits, and so does any cut of its tasks, in any order;
 *   - nothing outside its outputs and workspace changes (guard bytes around every buffer; inputs are compared);
 *   - targets of one class give the same bits;
 *   - at a small shape, the same flat IR run by the interpreter gives the same bits, and the kernel lowered without its
 *     map (every axis a serial loop) is within the tolerance too.
 * Inputs are random, from the seed and the name of the case alone, so that a case repeats when it is run by itself.
 */
#ifndef KGEN_PARITY_H
#define KGEN_PARITY_H

#include "codegen/base.h"

struct parity_options {
    const char *const *kernels; /* [n_kernels], 0: all */
    size_t n_kernels;
    const char *target; /* NULL: all that run here */
    uint64_t seed;
    int threads; /* instances checked at once; 0: as many as processors, at most 8 */
    bool quick;  /* fewer shapes */
};

/* A kernel in one combination of formats on one target. */
struct parity_row {
    const char *kernel, *formats, *target;
    size_t cases;      /* comparisons made */
    double max_abs;    /* largest |kernel - reference| */
    double max_of_tol; /* largest |kernel - reference| / tolerance; infinite where a tolerance of 0 was missed */
    size_t failures;   /* of any kind */
};

struct parity_report {
    struct parity_row *rows; /* [n_rows], in order of kernel, formats, target */
    size_t n_rows;
    char **failures; /* [n_failures]: what failed, where, both values, and the command that repeats it */
    size_t n_failures;
    struct arena arena; /* owns the texts */
};

/* Runs them all. progress, or NULL, is called now and then with the fraction done, from one thread at a time. Errors:
 * an unknown kernel or target, a target that does not run here, a kernel or format that has no reference. A kernel that
 * does not compile or differs is a failure in the report, not an error. */
bool parity_run(const struct parity_options *o, void (*progress)(void *ctx, double fraction), void *ctx,
                struct parity_report *out, struct err *e);
void parity_free(struct parity_report *r); /* accepts a zeroed one */

#endif
