/* parity_attention: shapes, specifications and expected outputs (struct parity_kernel) of the kernels over the KV
 * cache.
 */
#ifndef KGEN_PARITY_ATTENTION_H
#define KGEN_PARITY_ATTENTION_H

#include "verify/parity_case.h"

size_t kv_append_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list);
json_t *kv_append_spec(const struct parity_shape *s);
void kv_append_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c);

/* Factors as they are, and rounded to 16 bits where the cache holds no more. */
size_t attention_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list);
json_t *attention_spec(const struct parity_shape *s);
void attention_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c);

/* Plain attention: scores, their softmax, the weighted values. */
json_t *attention_scores_spec(const struct parity_shape *s);
void attention_scores_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c);
size_t softmax_shapes(const struct parity_shape *base, unsigned block, bool quick, struct parity_shape *list);
json_t *softmax_spec(const struct parity_shape *s);
void softmax_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c);
json_t *attention_values_spec(const struct parity_shape *s);
void attention_values_build(const struct parity_shape *s, int run, struct ref_rng *rng, struct parity_case *c);

#endif
