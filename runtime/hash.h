/* hash: of the names in files. The seed differs from process to process, so that no file can be made whose names all
 * land in one place of a table. Nothing that is written or printed may depend on these numbers. */
#ifndef KGEN_HASH_H
#define KGEN_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static inline uint64_t hash_bytes(const void *bytes, size_t n) {
    uint64_t seed = 0;
    const void *random = (const void *)getauxval(AT_RANDOM); /* 16 bytes from the kernel, one draw a process */
    if (random) memcpy(&seed, random, sizeof seed);
    return XXH3_64bits_withSeed(bytes, n, seed);
}

#endif
