/* ref_rng: a counter-based random number generator for tests: the n-th number of a seed is a hash of (seed, n), so that
 * a failure is named by two integers and reproduces on every machine (integer arithmetic and exact scaling only). */
#ifndef KGEN_REF_RNG_H
#define KGEN_REF_RNG_H

#include <stdint.h>

struct ref_rng {
    uint64_t seed, n; /* n: how many numbers have been drawn */
};

/* 64 uniform bits: the finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
 * 2014), applied twice so that neighbouring seeds give unrelated streams. */
static inline uint64_t ref_rng_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t ref_rng_u64(struct ref_rng *r) {
    uint64_t count = ++r->n;
    return ref_rng_mix(ref_rng_mix(r->seed + 0x9e3779b97f4a7c15u) + count * 0x9e3779b97f4a7c15u);
}

/* Uniform in [0, 1), a multiple of 2^-53. */
static inline double ref_rng_uniform(struct ref_rng *r) {
    return (double)(ref_rng_u64(r) >> 11) * 0x1p-53;
}

/* Uniform in 0 .. n-1; n > 0. The bias of the remainder, n / 2^64, is far below what a test could see. */
static inline uint64_t ref_rng_below(struct ref_rng *r, uint64_t n) {
    return ref_rng_u64(r) % n;
}

/* Nearly normal, mean 0, variance 1, within ±6: a sum of twelve uniforms, because log and cos differ between machines.
 */
static inline double ref_rng_normal(struct ref_rng *r) {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += ref_rng_uniform(r);
    return sum;
}

#endif
