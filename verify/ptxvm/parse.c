/* The parser of PTX modules: directives, variables with their initializers, functions. Statements of a body are in
 * parse_body.c. Errors unwind with longjmp inside ptx_parse; everything allocated is in the text's arena. */
#include "verify/ptxvm/parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t ptx_hash(const char *s, size_t n) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h ^ h >> 15;
}

_Noreturn void parse_fail(struct parser *p, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_set(p->e, ERR_INPUT, "line %u: %s", p->x.line, text);
    longjmp(p->out, 1);
}

void parse_next(struct parser *p) {
    ptx_next(&p->x, false);
}
bool parse_is(const struct parser *p, char c) {
    return p->x.kind == TK_PUNCT && p->x.value == (uint64_t)c;
}
bool parse_is_word(const struct parser *p, const char *w) {
    return p->x.kind == TK_ID && strlen(w) == p->x.n && !memcmp(p->x.start, w, p->x.n);
}
bool parse_take(struct parser *p, char c) {
    if (!parse_is(p, c)) return false;
    parse_next(p);
    return true;
}
void parse_expect(struct parser *p, char c) {
    if (!parse_take(p, c))
        parse_fail(p, "expected '%c', found '%.*s'", c, (int)(p->x.n < 40 ? p->x.n : 40), p->x.start);
}
void *parse_new(struct parser *p, size_t bytes) {
    return arena_new(&p->t->arena, bytes);
}
char *parse_text(struct parser *p) {
    return arena_strndup(&p->t->arena, p->x.start, p->x.n);
}

/* Grows an arena array: the old one stays in the arena, which at worst doubles its cost. */
void *parse_grow(struct parser *p, void *old, int n, int *cap, size_t each) {
    if (n < *cap) return old;
    int bigger = *cap ? *cap * 2 : 16;
    if (bigger > 1 << 26) parse_fail(p, "more than %d elements in one list", 1 << 26);
    char *a = parse_new(p, (size_t)bigger * each);
    if (n) memcpy(a, old, (size_t)n * each);
    *cap = bigger;
    return a;
}

char *parse_name(struct parser *p) {
    if (p->x.kind != TK_ID)
        parse_fail(p, "expected a name, found '%.*s'", (int)(p->x.n < 40 ? p->x.n : 40), p->x.start);
    char *s = parse_text(p);
    parse_next(p);
    return s;
}

/* An integer constant expression: unary - ~ ! +, parentheses, binary + - * with the usual two levels. */
static int64_t constant_sum(struct parser *p, int depth);
static int64_t constant_unary(struct parser *p, int depth) {
    if (depth > 50) parse_fail(p, "a constant expression nested more than 50 deep");
    if (parse_take(p, '-')) return (int64_t) - (uint64_t)constant_unary(p, depth + 1);
    if (parse_take(p, '+')) return constant_unary(p, depth + 1);
    if (parse_take(p, '~')) return ~constant_unary(p, depth + 1);
    if (parse_take(p, '!')) return !constant_unary(p, depth + 1);
    if (parse_take(p, '(')) {
        int64_t v = constant_sum(p, depth + 1);
        parse_expect(p, ')');
        return v;
    }
    if (p->x.kind != TK_INT) parse_fail(p, "expected an integer constant");
    int64_t v = (int64_t)p->x.value;
    parse_next(p);
    return v;
}
static int64_t constant_product(struct parser *p, int depth) {
    int64_t v = constant_unary(p, depth);
    while (parse_take(p, '*')) v = (int64_t)((uint64_t)v * (uint64_t)constant_unary(p, depth));
    return v;
}
static int64_t constant_sum(struct parser *p, int depth) {
    int64_t v = constant_product(p, depth);
    for (;;) {
        if (parse_take(p, '+'))
            v = (int64_t)((uint64_t)v + (uint64_t)constant_product(p, depth));
        else if (parse_take(p, '-'))
            v = (int64_t)((uint64_t)v - (uint64_t)constant_product(p, depth));
        else
            return v;
    }
}
int64_t parse_constant(struct parser *p) {
    return constant_sum(p, 0);
}

/* ---- variables ---- */
static void init_room(struct parser *p, struct ptx_var *v, uint64_t need, uint64_t *cap) {
    if (need <= *cap) return;
    uint64_t bigger = *cap ? *cap * 2 : 64;
    while (bigger < need) bigger *= 2;
    unsigned char *a = parse_new(p, bigger);
    if (v->init_bytes) memcpy(a, v->init, v->init_bytes);
    v->init = a;
    *cap = bigger;
}

/* One initializer element at byte offset off of the variable. */
static void init_element(struct parser *p, struct ptx_var *v, uint64_t off, uint64_t *cap) {
    int bytes = ptx_type_bytes(v->type);
    uint64_t bits = 0;
    bool minus = false;
    if (p->x.kind == TK_ID) {
        char *name = parse_name(p);
        if (!strcmp(name, "generic") && parse_take(p, '(')) {
            name = parse_name(p);
            parse_expect(p, ')');
        }
        struct ptx_reloc *r = parse_new(p, sizeof *r);
        *r = (struct ptx_reloc){off, name, 0, bytes, v->relocs};
        if (parse_is(p, '+') || parse_is(p, '-')) r->addend = parse_constant(p);
        v->relocs = r;
    } else {
        if (parse_is(p, '-')) {
            struct ptx_lexer save = p->x;
            parse_next(p);
            if (p->x.kind == TK_F32 || p->x.kind == TK_F64)
                minus = true;
            else
                p->x = save;
        }
        if (p->x.kind == TK_F32 || p->x.kind == TK_F64) {
            bits = p->x.value;
            double d;
            float f;
            uint32_t low = (uint32_t)bits;
            if (p->x.kind == TK_F32) {
                memcpy(&f, &low, 4);
                d = f;
            } else {
                memcpy(&d, &bits, 8);
                f = (float)d;
            }
            if (minus) d = -d, f = -f;
            if (bytes == 4) {
                memcpy(&low, &f, 4);
                bits = low;
            } else if (bytes == 8) {
                memcpy(&bits, &d, 8);
            }
            parse_next(p);
        } else {
            bits = (uint64_t)parse_constant(p);
        }
    }
    init_room(p, v, off + 16, cap);
    memcpy(v->init + off, &bits, bytes < 8 ? (size_t)bytes : 8);
    if (v->init_bytes < off + (uint64_t)bytes) v->init_bytes = off + (uint64_t)bytes;
}

/* Nested braces group rows of inner dimensions; an inner list that is short leaves zeros. */
static void init_list(struct parser *p, struct ptx_var *v, const uint64_t *dims, int n_dims, uint64_t off,
                      uint64_t *cap) {
    uint64_t inner = (uint64_t)ptx_type_bytes(v->type);
    for (int i = 1; i < n_dims; i++) inner *= dims[i];
    parse_expect(p, '{');
    while (!parse_is(p, '}')) {
        if (v->bytes && off >= v->bytes) parse_fail(p, "more initializers than elements in %s", v->name);
        if (parse_is(p, '{')) {
            if (n_dims < 2) parse_fail(p, "an initializer of %s is nested deeper than its dimensions", v->name);
            init_list(p, v, dims + 1, n_dims - 1, off, cap);
            off += inner;
        } else {
            init_element(p, v, off, cap);
            off += (uint64_t)ptx_type_bytes(v->type);
        }
        if (!parse_take(p, ',')) break;
    }
    parse_expect(p, '}');
}

/* After the space directive: .align N, .ptr …, .v2, the type. */
static void var_type(struct parser *p, struct ptx_var *v, int *vec) {
    *vec = 1;
    for (;;) {
        if (p->x.kind != TK_ID || p->x.start[0] != '.') parse_fail(p, "expected a type");
        if (parse_is_word(p, ".align")) {
            parse_next(p);
            int64_t a = parse_constant(p);
            if (a < 1 || a > 65536 || (a & (a - 1))) parse_fail(p, ".align %lld is no power of two", (long long)a);
            v->align = (uint32_t)a;
        } else if (parse_is_word(p, ".v2") || parse_is_word(p, ".v4") || parse_is_word(p, ".v8")) {
            *vec = p->x.start[2] - '0';
            parse_next(p);
        } else if (parse_is_word(p, ".texref") || parse_is_word(p, ".samplerref") || parse_is_word(p, ".surfref")) {
            v->type = PT_B64;
            v->space = SP_TEXREF;
            parse_next(p);
            return;
        } else {
            v->type = ptx_type_named(p->x.start + 1, p->x.n - 1);
            if (v->type == PT_NONE || (v->type == PT_PRED && v->space != SP_REG))
                parse_fail(p, "unknown type '%.*s'", (int)(p->x.n < 40 ? p->x.n : 40), p->x.start);
            parse_next(p);
            return;
        }
    }
}

/* A kernel parameter's ".ptr .global .align 16", after its type; any order. */
static void param_attributes(struct parser *p) {
    while (p->x.kind == TK_ID && p->x.start[0] == '.') {
        bool align = parse_is_word(p, ".align");
        parse_next(p);
        if (align) parse_constant(p);
    }
}

static void var_dims(struct parser *p, struct ptx_var *v, int vec, uint64_t *dims, int *n_dims) {
    uint64_t bytes = (uint64_t)ptx_type_bytes(v->type) * (uint64_t)vec;
    uint32_t natural = (uint32_t)bytes;
    *n_dims = 0;
    bool unsized = false;
    while (parse_take(p, '[')) {
        uint64_t n = 0;
        if (!parse_is(p, ']'))
            n = (uint64_t)parse_constant(p);
        else
            unsized = true;
        parse_expect(p, ']');
        if (*n_dims == 8) parse_fail(p, "%s has more than 8 dimensions", v->name);
        dims[(*n_dims)++] = n;
        if (!size_mul(bytes, n, &bytes) || bytes > 1ull << 40) parse_fail(p, "%s is larger than 2^40 bytes", v->name);
    }
    if (!*n_dims && vec > 1) dims[(*n_dims)++] = (uint64_t)vec;
    v->bytes = unsized ? 0 : bytes;
    if (!v->align) v->align = natural ? natural : 1;
}

struct ptx_var *parse_variable(struct parser *p, enum ptx_space space, bool is_extern) {
    int vec, n_dims;
    uint64_t dims[8] = {0};
    struct ptx_var *v = parse_new(p, sizeof *v);
    v->space = space;
    v->line = p->x.line;
    v->is_extern = is_extern;
    v->reg = -1;
    var_type(p, v, &vec);
    if (space == SP_PARAM) param_attributes(p);
    v->name = parse_name(p);
    var_dims(p, v, vec, dims, &n_dims);
    if (parse_is(p, '=')) {
        parse_next(p);
        uint64_t cap = 0;
        if (space != SP_GLOBAL && space != SP_CONST) parse_fail(p, "%s cannot have an initializer here", v->name);
        if (parse_is(p, '{'))
            init_list(p, v, dims, n_dims ? n_dims : 1, 0, &cap);
        else
            init_element(p, v, 0, &cap);
        if (!v->bytes) v->bytes = v->init_bytes;
        if (v->init_bytes > v->bytes) parse_fail(p, "more initializers than elements in %s", v->name);
    }
    return v;
}

static void module_variable(struct parser *p, enum ptx_space space, bool is_extern) {
    struct ptx_var *v = parse_variable(p, space, is_extern);
    parse_expect(p, ';');
    struct ptx_var *old = ptx_var_find(p->t, v->name);
    if (old && !old->is_extern && !is_extern) parse_fail(p, "%s is defined twice", v->name);
    if (old && (is_extern || old->bytes)) return;
    struct ptx_var **bucket = &p->t->var_hash[ptx_hash(v->name, strlen(v->name)) % PTX_BUCKETS];
    v->next = *bucket;
    *bucket = v;
    p->t->vars = parse_grow(p, p->t->vars, p->t->n_vars, &p->t->cap_vars, sizeof *p->t->vars);
    p->t->vars[p->t->n_vars++] = v;
}

/* ---- functions ---- */
static void formals(struct parser *p, struct ptx_function *f, struct ptx_var ***list, int *n, bool is_return) {
    int cap = 0;
    *list = NULL;
    *n = 0;
    parse_expect(p, '(');
    while (!parse_is(p, ')')) {
        enum ptx_space space = parse_is_word(p, ".reg") ? SP_REG : SP_PARAM;
        if (space == SP_PARAM && !parse_is_word(p, ".param")) parse_fail(p, "expected .param or .reg");
        parse_next(p);
        struct ptx_var *v = parse_variable(p, space, false);
        v->is_formal = true;
        v->is_return = is_return;
        v->owner = f;
        *list = parse_grow(p, *list, *n, &cap, sizeof **list);
        (*list)[(*n)++] = v;
        if (!parse_take(p, ',')) break;
    }
    parse_expect(p, ')');
}

static void up_to_three(struct parser *p, uint32_t out[3]) {
    out[1] = out[2] = 1;
    for (int i = 0; i < 3; i++) {
        int64_t v = parse_constant(p);
        if (v < 1 || v > INT32_MAX) parse_fail(p, "a size of %lld", (long long)v);
        out[i] = (uint32_t)v;
        if (!parse_take(p, ',')) break;
    }
}

static void performance_directives(struct parser *p, struct ptx_function *f) {
    uint32_t one[3];
    while (p->x.kind == TK_ID && p->x.start[0] == '.') {
        bool ntid = parse_is_word(p, ".maxntid"), req = parse_is_word(p, ".reqntid"),
             cluster = parse_is_word(p, ".reqnctapercluster"), min_cta = parse_is_word(p, ".minnctapersm"),
             max_reg = parse_is_word(p, ".maxnreg");
        if (parse_is_word(p, ".noreturn")) f->noreturn = true;
        bool abi = parse_is_word(p, ".abi_preserve") || parse_is_word(p, ".abi_preserve_control") ||
                   parse_is_word(p, ".maxclusterrank") || parse_is_word(p, ".maxnctapersm");
        if (parse_is_word(p, ".pragma")) {
            while (!parse_is(p, ';') && p->x.kind != TK_END) parse_next(p);
            parse_expect(p, ';');
            continue;
        }
        parse_next(p);
        if (ntid)
            up_to_three(p, f->maxntid);
        else if (req)
            up_to_three(p, f->reqntid);
        else if (cluster)
            up_to_three(p, f->cluster);
        else if (min_cta || max_reg || abi) {
            up_to_three(p, one);
            if (min_cta) f->minnctapersm = one[0];
            if (max_reg) f->maxnreg = one[0];
        }
    }
}

static void function(struct parser *p, bool is_entry, bool is_extern) {
    struct ptx_function *f = parse_new(p, sizeof *f);
    f->is_entry = is_entry;
    f->is_extern = is_extern;
    f->line = p->x.line;
    performance_directives(p, f); /* ".func .noreturn name" */
    if (parse_is(p, '(')) formals(p, f, &f->returns, &f->n_returns, true);
    f->name = parse_name(p);
    if (parse_is(p, '(')) formals(p, f, &f->params, &f->n_params, false);
    performance_directives(p, f);
    struct ptx_function *old = ptx_function_find(p->t, f->name);
    if (old && old->has_body && parse_is(p, '{')) parse_fail(p, "function %s is defined twice", f->name);
    if (!old) {
        struct ptx_function **bucket = &p->t->function_hash[ptx_hash(f->name, strlen(f->name)) % PTX_BUCKETS];
        f->next_hash = *bucket;
        *bucket = f;
        if (p->t->last_function)
            p->t->last_function->next = f;
        else
            p->t->functions = f;
        p->t->last_function = f;
    }
    if (parse_is(p, '{')) {
        if (old) { /* the definition of what was declared: the declaration's place in the lists stays */
            struct ptx_function *hash = old->next_hash, *next = old->next;
            bool entry = old->is_entry || is_entry;
            *old = *f;
            old->next_hash = hash;
            old->next = next;
            old->is_entry = entry;
            f = old;
            for (int i = 0; i < f->n_params; i++) f->params[i]->owner = f;
            for (int i = 0; i < f->n_returns; i++) f->returns[i]->owner = f;
        }
        f->has_body = true;
        parse_body(p, f);
    } else {
        parse_expect(p, ';');
    }
}

static void skip_to(struct parser *p, char c) {
    while (p->x.kind != TK_END && !parse_is(p, c)) parse_next(p);
    parse_take(p, c);
}

static void directive(struct parser *p) {
    bool is_extern = false;
    while (parse_is_word(p, ".extern") || parse_is_word(p, ".visible") || parse_is_word(p, ".weak") ||
           parse_is_word(p, ".common") || parse_is_word(p, ".attribute")) {
        if (parse_is_word(p, ".extern")) is_extern = true;
        bool attribute = parse_is_word(p, ".attribute");
        parse_next(p);
        if (attribute) skip_to(p, ')');
    }
    if (parse_is_word(p, ".version")) {
        uint32_t line = p->x.line;
        ptx_next(&p->x, false);
        double v = 0;
        if (p->x.kind == TK_F64)
            memcpy(&v, &p->x.value, 8);
        else if (p->x.kind == TK_INT)
            v = (double)p->x.value;
        if (!(v >= 1 && v < 100)) {
            p->x.line = line;
            parse_fail(p, ".version has no number like 8.7");
        }
        p->t->version = (int)(v * 10 + 0.5);
        parse_next(p);
    } else if (parse_is_word(p, ".target")) {
        parse_next(p);
        do {
            char *s = parse_name(p);
            if (!strncmp(s, "sm_", 3)) p->t->target_sm = atoi(s + 3);
        } while (parse_take(p, ','));
    } else if (parse_is_word(p, ".address_size")) {
        parse_next(p);
        if (parse_constant(p) != 64) parse_fail(p, ".address_size is not 64");
    } else if (parse_is_word(p, ".entry") || parse_is_word(p, ".func")) {
        bool entry = parse_is_word(p, ".entry");
        parse_next(p);
        function(p, entry, is_extern);
    } else if (parse_is_word(p, ".global") || parse_is_word(p, ".const") || parse_is_word(p, ".shared")) {
        enum ptx_space s = p->x.start[1] == 'g' ? SP_GLOBAL : p->x.start[1] == 'c' ? SP_CONST : SP_SHARED;
        parse_next(p);
        while (parse_is_word(p, ".attribute")) skip_to(p, ')');
        module_variable(p, s, is_extern);
    } else if (parse_is_word(p, ".file") || parse_is_word(p, ".loc")) { /* up to the end of the line */
        uint32_t line = p->x.line;
        while (p->x.kind != TK_END && p->x.line == line) parse_next(p);
    } else if (parse_is_word(p, ".section")) {
        skip_to(p, '{');
        for (int depth = 1; depth && p->x.kind != TK_END;) {
            if (parse_is(p, '{')) depth++;
            if (parse_is(p, '}')) depth--;
            parse_next(p);
        }
    } else if (parse_is_word(p, ".pragma") || parse_is_word(p, ".alias")) {
        skip_to(p, ';');
    } else {
        parse_fail(p, "unknown directive '%.*s'", (int)(p->x.n < 40 ? p->x.n : 40), p->x.start);
    }
}

bool ptx_parse(const char *text, size_t len, struct ptx_text *t, struct err *e) {
    *t = (struct ptx_text){0};
    struct parser *p = arena_new(&t->arena, sizeof *p);
    p->t = t;
    p->e = e;
    p->x = (struct ptx_lexer){.at = text, .end = text + len, .line = 1};
    if (setjmp(p->out)) return false;
    parse_next(p);
    while (p->x.kind != TK_END) {
        if (parse_take(p, ';')) continue;
        directive(p);
    }
    if (!t->version) parse_fail(p, "no .version directive: is this PTX text?");
    if (t->version > 90) parse_fail(p, ".version %d.%d is newer than 9.0", t->version / 10, t->version % 10);
    if (t->target_sm < 30) parse_fail(p, "no .target sm_NN directive");
    return true;
}

void ptx_free(struct ptx_text *t) {
    arena_free(&t->arena);
    *t = (struct ptx_text){0};
}

struct ptx_function *ptx_function_find(const struct ptx_text *t, const char *name) {
    struct ptx_function *f = t->function_hash[ptx_hash(name, strlen(name)) % PTX_BUCKETS];
    while (f && strcmp(f->name, name)) f = f->next_hash;
    return f;
}
struct ptx_var *ptx_var_find(const struct ptx_text *t, const char *name) {
    struct ptx_var *v = t->var_hash[ptx_hash(name, strlen(name)) % PTX_BUCKETS];
    while (v && strcmp(v->name, name)) v = v->next;
    return v;
}
struct ptx_label *ptx_label_find(const struct ptx_function *f, const char *name, int scope) {
    for (; scope >= 0; scope = f->scope_parent[scope])
        for (struct ptx_label *l = f->labels[ptx_hash(name, strlen(name)) % PTX_BUCKETS]; l; l = l->next)
            if (l->scope == scope && !strcmp(l->name, name)) return l;
    return NULL;
}
