/* ref_format: decoders of GGUF's block formats, one function a format, from the format's definition. Each opens with a
 * drawing of its block: field[bytes] in order, then the value of element i. d, m, dmin are float16, little-endian; a
 * value is computed in double, where it is exact. Source of the layouts: the GGUF format as defined by gguf-py's
 * quants.py (ggml-org), against which verify/test_ref.c holds these decoders bit for bit. */
#include <math.h>
#include <string.h>
#include "codegen/base.h"
#include "verify/ref.h"

static uint16_t load16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
static uint32_t load32(const uint8_t *p) {
    return load16(p) | (uint32_t)load16(p + 2) << 16;
}
static double half_at(const uint8_t *p) {
    return ref_f16_decode(load16(p));
}

double ref_f16_decode(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 ? -magnitude : magnitude;
}

uint16_t ref_f16_encode(double x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double a = fabs(x);
    if (isnan(a)) return 0x7e00;
    if (a >= 65520) return sign | 0x7c00; /* halfway between the largest finite value and the next step */
    int exponent;
    frexp(a, &exponent); /* a in [2^(exponent-1), 2^exponent) */
    if (a == 0 || exponent < -13)
        exponent = -13; /* zero and subnormals share the spacing of the smallest normal binade */
    /* In units of the last place; a carry out of the fraction lands in the exponent field, as it should. */
    uint32_t ulps = (uint32_t)nearbyint(ldexp(a, 11 - exponent));
    return (uint16_t)(sign | (ulps + ((uint32_t)(exponent + 13) << 10)));
}

double ref_bf16_decode(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
}

uint16_t ref_bf16_encode(float x) {
    uint32_t wide;
    memcpy(&wide, &x, 4);
    if (isnan(x)) return (uint16_t)(wide >> 16 | 0x40);
    return (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

static void decode_f32(const uint8_t *block, double *out) {
    uint32_t bits = load32(block);
    float x;
    memcpy(&x, &bits, 4);
    *out = x;
}

static void decode_f16(const uint8_t *block, double *out) {
    *out = half_at(block);
}

static void decode_bf16(const uint8_t *block, double *out) {
    *out = ref_bf16_decode(load16(block));
}

/* Element i of 32 in 4-bit codes stored as halves: byte i % 16, low nibble for the first sixteen. */
static int nibble_of_32(const uint8_t *qs, int i) {
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

/* d[2] qs[16]: d * (q - 8) */
static void decode_q4_0(const uint8_t *block, double *out) {
    double d = half_at(block);
    for (int i = 0; i < 32; i++) out[i] = d * (nibble_of_32(block + 2, i) - 8);
}

/* d[2] m[2] qs[16]: d * q + m */
static void decode_q4_1(const uint8_t *block, double *out) {
    double d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 32; i++) out[i] = d * nibble_of_32(block + 4, i) + m;
}

/* d[2] qh[4] qs[16]: d * (q - 16); bit i of qh is the fifth bit of code i */
static void decode_q5_0(const uint8_t *block, double *out) {
    double d = half_at(block);
    uint32_t high = load32(block + 2);
    for (int i = 0; i < 32; i++) out[i] = d * ((nibble_of_32(block + 6, i) | (int)(high >> i & 1) << 4) - 16);
}

/* d[2] m[2] qh[4] qs[16]: d * q + m */
static void decode_q5_1(const uint8_t *block, double *out) {
    double d = half_at(block), m = half_at(block + 2);
    uint32_t high = load32(block + 4);
    for (int i = 0; i < 32; i++) out[i] = d * (nibble_of_32(block + 8, i) | (int)(high >> i & 1) << 4) + m;
}

/* d[2] qs[32]: d * q, q signed */
static void decode_q8_0(const uint8_t *block, double *out) {
    double d = half_at(block);
    for (int i = 0; i < 32; i++) out[i] = d * (int8_t)block[2 + i];
}

/* Element i of 256 in 2-bit codes: halves of 128 take 32 bytes each, and within a half the four runs of 32 elements
 * take the four bit pairs of the same 32 bytes. */
static int pair_of_256(const uint8_t *qs, int i) {
    return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

/* scales[16] qs[64] d[2] dmin[2]: d * (s & 15) * q - dmin * (s >> 4), s = scales[i / 16] */
static void decode_q2_k(const uint8_t *block, double *out) {
    double d = half_at(block + 80), dmin = half_at(block + 82);
    for (int i = 0; i < 256; i++) {
        int s = block[i / 16];
        out[i] = d * (s & 15) * pair_of_256(block + 16, i) - dmin * (s >> 4);
    }
}

/* hmask[32] qs[64] scales[12] d[2]: d * (s - 32) * (q - (h ? 0 : 4)), h bit i/32 of hmask[i % 32].
 * The sixteen 6-bit scales: the low four bits of scale j are nibble j / 8 of byte j % 8, the high two are bit pair j /
 * 4 of byte 8 + j % 4. */
static void decode_q3_k(const uint8_t *block, double *out) {
    const uint8_t *hmask = block, *qs = block + 32, *scales = block + 96;
    double d = half_at(block + 108);
    for (int i = 0; i < 256; i++) {
        int j = i / 16;
        int s = (scales[j % 8] >> j / 8 * 4 & 15) | (scales[8 + j % 4] >> j / 4 * 2 & 3) << 4;
        int h = hmask[i % 32] >> i / 32 & 1;
        out[i] = d * (s - 32) * (pair_of_256(qs, i) - (h ? 0 : 4));
    }
}

/* Eight 6-bit scales and eight 6-bit mins in 12 bytes (Q4_K and Q5_K). For j < 4, scale j is the low six bits of byte j
 * and min j those of byte 4 + j; the others have their low four bits in byte 4 + j (scale below, min above), and their
 * high two in the top bits of bytes j - 4 (scale) and j (min). */
static void k_scale_min(const uint8_t *scales, int j, int *scale, int *min) {
    if (j < 4) {
        *scale = scales[j] & 63;
        *min = scales[4 + j] & 63;
    } else {
        *scale = (scales[4 + j] & 15) | scales[j - 4] >> 6 << 4;
        *min = scales[4 + j] >> 4 | scales[j] >> 6 << 4;
    }
}

/* Element i of 256 in 4-bit codes: runs of 64 take 32 bytes each, low nibbles for the run's first 32 elements. */
static int nibble_of_256(const uint8_t *qs, int i) {
    return qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}

/* d[2] dmin[2] scales[12] qs[128]: d * scale_j * q - dmin * min_j, j = i / 32 */
static void decode_q4_k(const uint8_t *block, double *out) {
    double d = half_at(block), dmin = half_at(block + 2);
    for (int i = 0; i < 256; i++) {
        int scale, min;
        k_scale_min(block + 4, i / 32, &scale, &min);
        out[i] = d * scale * nibble_of_256(block + 16, i) - dmin * min;
    }
}

/* d[2] dmin[2] scales[12] qh[32] qs[128]: as Q4_K with a fifth bit of code i, bit i / 32 of qh[i % 32] */
static void decode_q5_k(const uint8_t *block, double *out) {
    double d = half_at(block), dmin = half_at(block + 2);
    const uint8_t *qh = block + 16, *qs = block + 48;
    for (int i = 0; i < 256; i++) {
        int scale, min, q = nibble_of_256(qs, i) | (qh[i % 32] >> i / 32 & 1) << 4;
        k_scale_min(block + 4, i / 32, &scale, &min);
        out[i] = d * scale * q - dmin * min;
    }
}

/* ql[128] qh[64] scales[16] d[2]: d * scales[i / 16] * (q - 32), scales signed. Per half of 128 elements, ql holds 64
 * bytes (low nibbles: elements 0..63, high nibbles: 64..127) and qh 32 bytes as pair_of_256 reads them. */
static void decode_q6_k(const uint8_t *block, double *out) {
    const uint8_t *ql = block, *qh = block + 128, *scales = block + 192;
    double d = half_at(block + 208);
    for (int i = 0; i < 256; i++) {
        int low = ql[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        out[i] = d * (int8_t)scales[i / 16] * ((low | pair_of_256(qh, i) << 4) - 32);
    }
}

/* d[2] qs[16]: d * table[q] */
static void decode_iq4_nl(const uint8_t *block, double *out) {
    static const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    double d = half_at(block);
    for (int i = 0; i < 32; i++) out[i] = d * table[nibble_of_32(block + 2, i)];
}

/* `per` of a scale is about what it is multiplied by in a typical element: (middling sub-scale) * (middling code). */
static const struct ref_format formats[] = {
    {"f32", 0, 1, 4, decode_f32, {{0, 0}}},
    {"f16", 1, 1, 2, decode_f16, {{0, 0}}},
    {"q4_0", 2, 32, 18, decode_q4_0, {{0, 4}}},
    {"q4_1", 3, 32, 20, decode_q4_1, {{0, 8}, {2, 1}}},
    {"q5_0", 6, 32, 22, decode_q5_0, {{0, 8}}},
    {"q5_1", 7, 32, 24, decode_q5_1, {{0, 16}, {2, 1}}},
    {"q8_0", 8, 32, 34, decode_q8_0, {{0, 64}}},
    {"q2_k", 10, 256, 84, decode_q2_k, {{80, 12}, {82, 8}}},
    {"q3_k", 11, 256, 110, decode_q3_k, {{108, 32}}},
    {"q4_k", 12, 256, 144, decode_q4_k, {{0, 256}, {2, 32}}},
    {"q5_k", 13, 256, 176, decode_q5_k, {{0, 512}, {2, 32}}},
    {"q6_k", 14, 256, 210, decode_q6_k, {{208, 1024}}},
    {"iq4_nl", 20, 32, 18, decode_iq4_nl, {{0, 64}}},
    {"bf16", 30, 1, 2, decode_bf16, {{0, 0}}},
};

bool ref_format_at(size_t i, struct ref_format *out) {
    memset(out, 0, sizeof *out);
    if (i >= sizeof formats / sizeof *formats) return false;
    *out = formats[i];
    return true;
}

bool ref_format_find(const char *name, struct ref_format *out) {
    for (size_t i = 0; ref_format_at(i, out); i++)
        if (!strcmp(out->name, name)) return true;
    return false;
}

size_t ref_format_bytes(const struct ref_format *f, size_t n_elems) {
    if (n_elems % f->block_elems)
        bug("%zu elements are no whole number of %s blocks of %u", n_elems, f->name, f->block_elems);
    uint64_t bytes;
    if (!size_mul(n_elems / f->block_elems, f->block_bytes, &bytes))
        bug("%zu elements of %s overflow", n_elems, f->name);
    return bytes;
}

void ref_decode(const struct ref_format *f, const void *blocks, size_t n_elems, double *out) {
    size_t n_blocks = ref_format_bytes(f, n_elems) / f->block_bytes;
    for (size_t b = 0; b < n_blocks; b++)
        f->decode_block((const uint8_t *)blocks + b * f->block_bytes, out + b * f->block_elems);
}

/* One value of a float format: normal, now and then exactly zero of either sign. */
static void random_float(const struct ref_format *f, struct ref_rng *rng, double scale, uint8_t *out) {
    uint64_t corner = ref_rng_below(rng, 64);
    float x = (float)(ref_rng_normal(rng) * scale);
    if (corner == 0) x = 0.0f;
    if (corner == 1) x = -0.0f;
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (f->block_bytes == 2)
        bits = f->decode_block == decode_bf16 ? ref_bf16_encode(x) : ref_f16_encode(fmin(fmax(x, -65504), 65504));
    for (uint32_t i = 0; i < f->block_bytes; i++) out[i] = (uint8_t)(bits >> 8 * i);
}

void ref_random_blocks(const struct ref_format *f, struct ref_rng *rng, size_t n_elems, double scale, void *out) {
    size_t n_blocks = ref_format_bytes(f, n_elems) / f->block_bytes;
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = (uint8_t *)out + b * f->block_bytes;
        if (f->block_elems == 1) {
            random_float(f, rng, scale, block);
            continue;
        }
        enum { ALL_CLEAR, ALL_SET, ZERO_SCALES } corner = (int)ref_rng_below(rng, 16);
        for (uint32_t i = 0; i < f->block_bytes; i++) {
            uint8_t bits = (uint8_t)ref_rng_u64(rng);
            block[i] = corner == ALL_CLEAR ? 0 : corner == ALL_SET ? 0xff : bits;
        }
        for (int s = 0; s < 3 && f->scales[s].per; s++) {
            double d = scale / f->scales[s].per * (0.5 + ref_rng_uniform(rng));
            if (ref_rng_u64(rng) & 1) d = -d;
            if (corner == ZERO_SCALES) d = 0;
            uint16_t bits = ref_f16_encode(fmin(fmax(d, -65504), 65504));
            block[f->scales[s].off] = (uint8_t)bits;
            block[f->scales[s].off + 1] = (uint8_t)(bits >> 8);
        }
    }
}
