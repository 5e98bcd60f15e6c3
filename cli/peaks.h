/* peaks: what this machine can do at most, measured with code of our own making, so that speeds can be stated as a part
 * of it.
 */
#ifndef KGEN_CLI_PEAKS_H
#define KGEN_CLI_PEAKS_H

#include "codegen/target.h"
#include "runtime/bundle.h"
#include "runtime/dev_cuda.h"
#include "runtime/pool.h"

#include <jansson.h>

struct peaks {
    double read_bytes_per_s; /* from memory: a buffer larger than the caches */
    double int8_ops_per_s;   /* dot products of bytes, a multiplication and an addition being two operations */
    double f32_ops_per_s;    /* multiply-adds, likewise */
    double bf16_ops_per_s;   /* products of bfloat16, likewise; 0: this processor or GPU has none */
    double dp4a_ops_per_s;   /* of GPUs: bytes without matrix units, whose are int8 (0 where there are none) and bf16 */
};

/* Measures with all threads of the pool. `from`: a bundle that peaks_bundle put the code in; NULL: it is compiled.
 * Holds 256 MiB, or three times the last-level cache. peaks_close accepts NULL. */
struct peaks_meter;
bool peaks_open(struct pool *pool, const struct target *t, const struct bundle *from, struct peaks_meter **out,
                struct err *e);
void peaks_close(struct peaks_meter *m);

/* All of them, about a third of a second; *p keeps the larger of each. */
void peaks_measure(struct peaks_meter *m, struct peaks *p);
bool peaks_measure_once(struct pool *pool, const struct target *t, struct peaks *p, struct err *e);

/* What the machine can do at this moment, some 15 milliseconds each: neighbours on a shared machine take and give back
 * half of the memory's speed within seconds, so a speed is held against what is measured before and behind it. */
double peaks_read_now(struct peaks_meter *m);                /* bytes a second from memory */
double peaks_products_now(struct peaks_meter *m, bool int8); /* int8 or float32 operations a second */

/* Adds the code to measure with to a bundle. */
bool peaks_bundle(struct bundle *b, const struct target *t, struct err *e);

/* The same of a GPU. Tens of milliseconds; on the PTX machine seconds. */
bool peaks_cuda(struct cuda *gpu, struct peaks *p, struct err *e);

/* Of these, what products of quantized weights (int8) or others are held against, and its name: on a GPU the matrix
 * units' bfloat16, since factors every 32 weights keep bytes far from their peak there. */
double peaks_products(const struct peaks *p, bool int8, const char **name);

/* The same of a kernel: int8 where its activations are, or those of a step of it. */
double peaks_ops_per_s(const struct peaks *p, const json_t *spec);

/* {"read_bytes_per_s", "int8_ops_per_s", "f32_ops_per_s", "bf16_ops_per_s"}, of a GPU also "dp4a_ops_per_s" */
json_t *peaks_json(const struct peaks *p);

#endif
