/* utf8: reading and writing single characters. Lenient where tokenizers are: overlong forms and surrogates decode to
 * the number they spell; everything else that is malformed is refused. */
#ifndef KGEN_UTF8_H
#define KGEN_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that a character with this first byte claims to have: 1 for stray continuation bytes. */
static inline unsigned utf8_span(uint8_t lead) {
    return lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* Decodes the character at p (n > 0 bytes are there); returns its length, 0 when it is malformed or over U+10FFFF. */
static inline unsigned utf8_decode(const uint8_t *p, size_t n, uint32_t *cp) {
    unsigned len = utf8_span(p[0]);
    if (len == 1) {
        *cp = p[0];
        return p[0] < 0x80;
    }
    if (len > n || p[0] >= 0xf8) return 0;
    *cp = p[0] & (0x7fu >> len);
    for (unsigned i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        *cp = *cp << 6 | (p[i] & 0x3f);
    }
    return *cp <= 0x10ffff ? len : 0;
}

/* Writes cp (at most U+10FFFF) to p, returns its length, at most 4. */
static inline unsigned utf8_encode(uint32_t cp, char *p) {
    if (cp < 0x80) {
        p[0] = (char)cp;
        return 1;
    }
    unsigned len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (unsigned i = len; i-- > 1; cp >>= 6) p[i] = (char)(0x80 | (cp & 0x3f));
    p[0] = (char)((0xf00u >> len) | cp); /* 110xxxxx, 1110xxxx, 11110xxx */
    return len;
}

#endif
