/* f16: IEEE binary16 <-> binary32 on bit patterns, round to nearest even, as vcvtps2ph and vcvtph2ps do it (NaNs keep
 * sign and top payload bits and become quiet). Shared by the parser and the interpreter; target_x86.c emits the same
 * steps as vector code where the hardware has no conversion. And binary32 -> BF16. */
#ifndef KGEN_F16_H
#define KGEN_F16_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint16_t f16_from_f32_bits(uint32_t x) {
    uint32_t sign = x >> 16 & 0x8000, a = x & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (a < 0x38800000) {                                  /* below 2^-14: a multiple of 2^-24 */
        if (a < 0x33000000) return (uint16_t)sign;         /* below 2^-25 */
        uint32_t shift = 126 - (a >> 23), m = (a & 0x7fffff) | 0x800000;
        uint32_t q = m >> shift, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
        return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1)))));
    }
    return (uint16_t)(sign | ((a + 0xfff + (a >> 13 & 1) - 0x38000000) >> 13));
}

/* bfloat16: the upper half, rounded to nearest even; a NaN becomes cvt.rn.bf16's. */
static inline uint16_t bf16_from_f32_bits(uint32_t x) {
    if ((x & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (uint16_t)((x + 0x7fff + (x >> 16 & 1)) >> 16);
}

static inline uint32_t f32_bits_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
    if (e == 31) return sign | 0x7f800000 | m << 13 | (m ? 0x400000 : 0);
    if (e) return sign | ((e + 112) << 23) | m << 13;
    return sign | f32_bits((float)m * 0x1p-24f);
}

/* As vcvtneps2bf16 and vdpbf16ps have it: what is below 2^-126 is zero with its sign, and a NaN keeps what it can. */
static inline uint32_t f32_flush_bits(uint32_t x) {
    return x & 0x7f800000 ? x : x & 0x80000000;
}

static inline uint16_t bf16_flushed_from_f32_bits(uint32_t x) {
    if ((x & 0x7fffffff) > 0x7f800000) return (uint16_t)(x >> 16 | 0x40);
    return bf16_from_f32_bits(f32_flush_bits(x));
}

#endif
