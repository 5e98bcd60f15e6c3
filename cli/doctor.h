/* doctor: what each probe finds, as a JSON object that is printed as it is (--json) or as a table. Keys ending in
 * _bytes are sizes. Whatever is missing or amiss also goes to `advice`, an array of {"problem", "fix"}.
 */
#ifndef KGEN_DOCTOR_H
#define KGEN_DOCTOR_H

#include "cli/cli.h"

void doctor_advise(json_t *advice, const char *problem, const char *fix);

json_t *doctor_machine(json_t *advice); /* processor, cores, memory, huge pages */
json_t *doctor_cuda(json_t *advice);    /* driver and devices, through dlopen */
json_t *doctor_cache(json_t *advice);   /* the directory of compiled kernels */

/* Physical cores this process may run on; at least 1. */
int64_t doctor_cores(void);

#endif
