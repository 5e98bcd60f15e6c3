/* The lexer of PTX text: identifiers, numbers in all the language's spellings, strings, comments. Bounds come from the
 * text's length; the text need not end in NUL, and a NUL ends it. */
#include "verify/ptxvm/ptx.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static bool id_start(int c) {
    return isalpha(c) || c == '_' || c == '$' || c == '%' || c == '.' || c == '@';
}
static bool id_part(int c) {
    return isalnum(c) || c == '_' || c == '$';
}

static int peek(const struct ptx_lexer *x, size_t i) {
    return (size_t)(x->end - x->at) > i ? (unsigned char)x->at[i] : 0;
}

static void skip_space(struct ptx_lexer *x) {
    for (;;) {
        int c = peek(x, 0);
        if (c == '\n') {
            x->line++;
            x->at++;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
            x->at++;
        } else if (c == '/' && peek(x, 1) == '/') {
            while (x->at < x->end && *x->at != '\n' && *x->at) x->at++;
        } else if (c == '/' && peek(x, 1) == '*') {
            x->at += 2;
            while (x->at < x->end && *x->at && !(peek(x, 0) == '*' && peek(x, 1) == '/')) {
                if (*x->at == '\n') x->line++;
                x->at++;
            }
            if (peek(x, 0) == '*') x->at += 2;
        } else {
            return;
        }
        x->spaced = true;
    }
}

static uint64_t digits(struct ptx_lexer *x, int base) {
    uint64_t v = 0;
    for (;; x->at++) {
        int c = peek(x, 0);
        int d = isdigit(c) ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : 99;
        if (d >= base) return v;
        v = v * (unsigned)base + (unsigned)d;
    }
}

static void decimal_float(struct ptx_lexer *x, const char *from) {
    char text[128];
    size_t n = 0;
    const char *p = from;
    while (p < x->end && n + 1 < sizeof text &&
           (isdigit((unsigned char)*p) || *p == '.' || ((*p == 'e' || *p == 'E')) ||
            ((*p == '+' || *p == '-') && n && (text[n - 1] == 'e' || text[n - 1] == 'E'))))
        text[n++] = *p++;
    text[n] = 0;
    double d = strtod(text, NULL);
    x->at = p;
    x->kind = TK_F64;
    memcpy(&x->value, &d, 8);
}

static void number(struct ptx_lexer *x) {
    const char *from = x->at;
    int c = peek(x, 1);
    x->kind = TK_INT;
    if (*from == '0' && (c == 'f' || c == 'F' || c == 'd' || c == 'D') && isxdigit(peek(x, 2))) {
        x->kind = c == 'f' || c == 'F' ? TK_F32 : TK_F64;
        x->at += 2;
        x->value = digits(x, 16);
    } else if (*from == '0' && (c == 'x' || c == 'X')) {
        x->at += 2;
        x->value = digits(x, 16);
    } else if (*from == '0' && (c == 'b' || c == 'B')) {
        x->at += 2;
        x->value = digits(x, 2);
    } else {
        x->value = digits(x, 10);
        int d = peek(x, 0);
        if ((d == '.' && (isdigit(peek(x, 1)) || !id_part(peek(x, 1)))) || d == 'e' || d == 'E') {
            decimal_float(x, from);
            return;
        }
        if (*from == '0' && x->at - from > 1) {
            x->at = from;
            x->value = digits(x, 8);
            digits(x, 10); /* an 8 or 9 inside an octal number: the rest is dropped with it */
        }
    }
    if (x->kind == TK_INT && peek(x, 0) == 'U') x->at++;
}

void ptx_next(struct ptx_lexer *x, bool opcode) {
    x->spaced = false;
    skip_space(x);
    x->start = x->at;
    x->n = 0;
    int c = peek(x, 0);
    if (!c) {
        x->kind = TK_END;
        return;
    }
    if (isdigit(c)) {
        number(x);
    } else if (c == '"') {
        x->kind = TK_STR;
        x->at++;
        while (peek(x, 0) && peek(x, 0) != '"' && peek(x, 0) != '\n') x->at++;
        if (peek(x, 0) == '"') x->at++;
    } else if (c != '@' && id_start(c) && (c != '.' || id_part(peek(x, 1)))) {
        x->kind = TK_ID;
        x->at++;
        for (;;) {
            int d = peek(x, 0);
            if (id_part(d) || (opcode && d == '.' && id_part(peek(x, 1))))
                x->at++;
            else if (opcode && d == ':' && peek(x, 1) == ':' && id_part(peek(x, 2)))
                x->at += 2;
            else
                break;
        }
    } else {
        x->kind = TK_PUNCT;
        x->value = (uint64_t)c;
        x->at++;
    }
    x->n = (size_t)(x->at - x->start);
}

static const struct {
    const char *name;
    enum ptx_type type;
    int bytes;
    bool is_signed, is_float;
} types[] = {
    {"pred", PT_PRED, 0, 0, 0},       {"u8", PT_U8, 1, 0, 0},         {"u16", PT_U16, 2, 0, 0},
    {"u32", PT_U32, 4, 0, 0},         {"u64", PT_U64, 8, 0, 0},       {"s8", PT_S8, 1, 1, 0},
    {"s16", PT_S16, 2, 1, 0},         {"s32", PT_S32, 4, 1, 0},       {"s64", PT_S64, 8, 1, 0},
    {"b8", PT_B8, 1, 0, 0},           {"b16", PT_B16, 2, 0, 0},       {"b32", PT_B32, 4, 0, 0},
    {"b64", PT_B64, 8, 0, 0},         {"b128", PT_B128, 16, 0, 0},    {"f16", PT_F16, 2, 1, 1},
    {"f16x2", PT_F16X2, 4, 1, 1},     {"bf16", PT_BF16, 2, 1, 1},     {"bf16x2", PT_BF16X2, 4, 1, 1},
    {"f32", PT_F32, 4, 1, 1},         {"f64", PT_F64, 8, 1, 1},       {"tf32", PT_TF32, 4, 1, 1},
    {"u16x2", PT_U16X2, 4, 0, 0},     {"s16x2", PT_S16X2, 4, 1, 0},   {"e4m3", PT_E4M3, 1, 1, 1},
    {"e5m2", PT_E5M2, 1, 1, 1},       {"e4m3x2", PT_E4M3X2, 2, 1, 1}, {"e5m2x2", PT_E5M2X2, 2, 1, 1},
    {"s4", PT_S4, 1, 1, 0},           {"u4", PT_U4, 1, 0, 0},         {"b1", PT_B1, 1, 0, 0},
    {"e2m1x2", PT_E2M1X2, 1, 1, 1},   {"e2m3x2", PT_E2M3X2, 2, 1, 1}, {"e3m2x2", PT_E3M2X2, 2, 1, 1},
    {"ue8m0x2", PT_UE8M0X2, 2, 0, 1}, {"f32x2", PT_F32X2, 8, 1, 1},   {"s2", PT_S2, 1, 1, 0},
    {"u2", PT_U2, 1, 0, 0},           {"e2m1x4", PT_E2M1X4, 2, 1, 1}, {"e2m3x4", PT_E2M3X4, 4, 1, 1},
    {"e3m2x4", PT_E3M2X4, 4, 1, 1},   {"e4m3x4", PT_E4M3X4, 4, 1, 1}, {"e5m2x4", PT_E5M2X4, 4, 1, 1},
};
#define N_TYPES (sizeof types / sizeof *types)

static int row_of(enum ptx_type t) {
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].type == t) return (int)i;
    return -1;
}

int ptx_type_bytes(enum ptx_type t) {
    int r = row_of(t);
    return r < 0 ? 0 : types[r].bytes;
}
bool ptx_type_is_signed(enum ptx_type t) {
    int r = row_of(t);
    return r >= 0 && types[r].is_signed;
}
bool ptx_type_is_float(enum ptx_type t) {
    int r = row_of(t);
    return r >= 0 && types[r].is_float;
}
enum ptx_type ptx_type_named(const char *s, size_t n) {
    for (size_t i = 0; i < N_TYPES; i++)
        if (strlen(types[i].name) == n && !memcmp(types[i].name, s, n)) return types[i].type;
    return PT_NONE;
}
