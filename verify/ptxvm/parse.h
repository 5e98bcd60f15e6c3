/* What the two halves of the parser share. */
#ifndef KGEN_PTXVM_PARSE_H
#define KGEN_PTXVM_PARSE_H

#include "verify/ptxvm/ptx.h"
#include <setjmp.h>

/* A name declared in a function's body: one register, a range of registers ("%r<83>": n > 0), or a variable. */
struct declared {
    const char *name;
    size_t name_len;
    int scope;
    enum ptx_type type;
    int n;
    int *ids; /* registers: numbers in the function, -1 until first used */
    struct ptx_var *var;
    struct declared *next_hash, *older;
    uint32_t bucket;
};

struct parser {
    struct ptx_lexer x;
    struct ptx_text *t;
    struct err *e;
    jmp_buf out;
    struct ptx_function *f;
    struct declared *names[1024], *newest;
    int scope;
};

_Noreturn void parse_fail(struct parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void parse_next(struct parser *p);
bool parse_is(const struct parser *p, char c);
bool parse_is_word(const struct parser *p, const char *w);
bool parse_take(struct parser *p, char c);
void parse_expect(struct parser *p, char c);
void *parse_new(struct parser *p, size_t bytes);
void *parse_grow(struct parser *p, void *old, int n, int *cap, size_t each);
char *parse_text(struct parser *p);
char *parse_name(struct parser *p);
int64_t parse_constant(struct parser *p);
struct ptx_var *parse_variable(struct parser *p, enum ptx_space space, bool is_extern);
void parse_body(struct parser *p, struct ptx_function *f); /* from '{' to '}' */

#endif
