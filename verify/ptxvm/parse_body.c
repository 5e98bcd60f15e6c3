/* The parser of function bodies: scopes, register and variable declarations, labels, instructions and their operands.
 */
#include "verify/ptxvm/parse.h"

#include <ctype.h>
#include <string.h>

enum { MAX_REGS = 1 << 20, MAX_SCOPES = 1 << 20 };

/* ---- names ---- */
static struct declared *declare(struct parser *p, const char *name, size_t n) {
    struct declared *d = parse_new(p, sizeof *d);
    d->name = name;
    d->name_len = n;
    d->scope = p->scope;
    d->bucket = ptx_hash(name, n) % 1024;
    d->next_hash = p->names[d->bucket];
    p->names[d->bucket] = d;
    d->older = p->newest;
    p->newest = d;
    return d;
}

static void scope_open(struct parser *p) {
    struct ptx_function *f = p->f;
    if (f->n_scopes >= MAX_SCOPES) parse_fail(p, "more than %d scopes in one function", MAX_SCOPES);
    f->scope_parent = parse_grow(p, f->scope_parent, f->n_scopes, &f->cap_scopes, sizeof *f->scope_parent);
    f->scope_parent[f->n_scopes] = p->scope;
    p->scope = f->n_scopes++;
}

static void scope_close(struct parser *p) {
    while (p->newest && p->newest->scope == p->scope) {
        p->names[p->newest->bucket] = p->newest->next_hash;
        p->newest = p->newest->older;
    }
    p->scope = p->f->scope_parent[p->scope];
}

static struct declared *find(struct parser *p, const char *s, size_t n, bool range) {
    for (struct declared *d = p->names[ptx_hash(s, n) % 1024]; d; d = d->next_hash)
        if (d->name_len == n && (d->n > 0) == range && !memcmp(d->name, s, n)) return d;
    return NULL;
}

static int new_reg(struct parser *p, enum ptx_type type, const char *name) {
    struct ptx_function *f = p->f;
    if (f->n_regs >= MAX_REGS) parse_fail(p, "more than %d registers in one function", MAX_REGS);
    f->regs = parse_grow(p, f->regs, f->n_regs, &f->cap_regs, sizeof *f->regs);
    f->regs[f->n_regs] = (struct ptx_reg){type, name};
    return f->n_regs++;
}

/* The register called s, numbered on its first use; -1 when there is none. */
static int reg_named(struct parser *p, const char *s, size_t n) {
    struct declared *d = find(p, s, n, false);
    if (d && d->ids) {
        if (d->ids[0] < 0) d->ids[0] = new_reg(p, d->type, arena_strndup(&p->t->arena, s, n));
        return d->ids[0];
    }
    size_t stem = n;
    while (stem > 0 && isdigit((unsigned char)s[stem - 1])) stem--;
    for (; stem < n; stem++) { /* "%p1<4>" declares %p10 … %p13: the stem may end in digits */
        d = find(p, s, stem, true);
        uint64_t number = 0;
        for (size_t i = stem; i < n && number < MAX_REGS; i++) number = number * 10 + (uint64_t)(s[i] - '0');
        if (!d || number >= (uint64_t)d->n || (s[stem] == '0' && n - stem > 1)) continue;
        if (d->ids[number] < 0) d->ids[number] = new_reg(p, d->type, arena_strndup(&p->t->arena, s, n));
        return d->ids[number];
    }
    return -1;
}

static void reg_declaration(struct parser *p) {
    parse_next(p);
    if (p->x.kind != TK_ID || p->x.start[0] != '.') parse_fail(p, "expected a type after .reg");
    enum ptx_type type = ptx_type_named(p->x.start + 1, p->x.n - 1);
    if (type == PT_NONE) parse_fail(p, "unknown register type '%.*s'", (int)(p->x.n < 40 ? p->x.n : 40), p->x.start);
    parse_next(p);
    do {
        char *name = parse_name(p);
        int64_t n = 0;
        if (parse_take(p, '<')) {
            n = parse_constant(p);
            parse_expect(p, '>');
            if (n < 1 || n > MAX_REGS) parse_fail(p, "%s<%lld>: 1 to %d registers", name, (long long)n, MAX_REGS);
        }
        struct declared *d = declare(p, name, strlen(name));
        d->type = type;
        d->n = (int)n;
        size_t ids = n ? (size_t)n : 1;
        d->ids = parse_new(p, ids * sizeof *d->ids);
        memset(d->ids, 0xff, ids * sizeof *d->ids);
    } while (parse_take(p, ','));
    parse_expect(p, ';');
}

static void var_declaration(struct parser *p, enum ptx_space space) {
    struct ptx_function *f = p->f;
    parse_next(p);
    struct ptx_var *v = parse_variable(p, space, false);
    parse_expect(p, ';');
    v->owner = f;
    struct declared *d = declare(p, v->name, strlen(v->name));
    d->var = v;
    f->locals = parse_grow(p, f->locals, f->n_locals, &f->cap_locals, sizeof *f->locals);
    f->locals[f->n_locals++] = v;
}

/* ---- operands ---- */
static struct ptx_operand operand(struct parser *p, int depth);

static void elements(struct parser *p, struct ptx_operand *o, char close, int depth) {
    int cap = 0;
    while (!parse_is(p, close)) {
        o->elems = parse_grow(p, o->elems, o->n, &cap, sizeof *o->elems);
        struct ptx_operand e = operand(p, depth + 1);
        o->elems[o->n++] = e;
        if (!parse_take(p, ',')) break;
    }
    parse_expect(p, close);
}

static void named_operand(struct parser *p, struct ptx_operand *o) {
    const char *s = p->x.start;
    size_t n = p->x.n;
    o->name = parse_text(p);
    parse_next(p);
    if (n == 1 && *s == '_') {
        o->kind = O_SINK;
        return;
    }
    o->reg = reg_named(p, s, n);
    if (o->reg >= 0) {
        o->kind = O_REG;
        if (p->x.kind == TK_ID && p->x.start[0] == '.' && !p->x.spaced) {
            o->name = parse_name(p) + 1;
            o->kind = O_SELECT;
        }
        return;
    }
    struct declared *d = find(p, s, n, false);
    if (d && d->var) {
        o->kind = O_VAR;
        o->var = d->var;
        return;
    }
    if (*s == '%' || (n == 7 && !memcmp(s, "WARP_SZ", 7))) {
        o->kind = O_SREG;
        if (p->x.kind == TK_ID && p->x.start[0] == '.' && !p->x.spaced) {
            char *dim = parse_name(p);
            char *full = parse_new(p, n + strlen(dim) + 1);
            memcpy(full, s, n);
            memcpy(full + n, dim, strlen(dim) + 1);
            o->name = full;
        }
        return;
    }
    o->kind = O_NAME;
    o->scope = p->scope;
}

static struct ptx_operand operand(struct parser *p, int depth) {
    struct ptx_operand o = {.kind = O_INT, .reg = -1};
    if (depth > 8) parse_fail(p, "operands nested more than 8 deep");
    if (parse_take(p, '{')) {
        o.kind = O_VEC;
        elements(p, &o, '}', depth);
        if (o.n < 1) parse_fail(p, "an empty list in braces");
    } else if (depth == 0 && parse_take(p, '(')) {
        o.kind = O_LIST;
        elements(p, &o, ')', depth);
    } else if (parse_take(p, '[')) {
        o.kind = O_MEM;
        elements(p, &o, ']', depth);
        if (o.n < 1) parse_fail(p, "an empty address");
    } else if (parse_is(p, '!') || (p->x.kind == TK_ID)) {
        if (parse_take(p, '!')) o.negated = true;
        if (p->x.kind != TK_ID) parse_fail(p, "expected a predicate after '!'");
        bool negated = o.negated;
        named_operand(p, &o);
        o.negated = negated;
    } else if (p->x.kind == TK_F32 || p->x.kind == TK_F64) {
        o.kind = p->x.kind == TK_F32 ? O_F32 : O_F64;
        o.value = (int64_t)p->x.value;
        parse_next(p);
        return o;
    } else if (parse_is(p, '-')) {
        struct ptx_lexer save = p->x;
        parse_next(p);
        if (p->x.kind == TK_F32 || p->x.kind == TK_F64) {
            o.kind = p->x.kind == TK_F32 ? O_F32 : O_F64;
            o.value = (int64_t)(p->x.value ^ (o.kind == O_F32 ? 1ull << 31 : 1ull << 63));
            parse_next(p);
            return o;
        }
        if (p->x.kind == TK_ID) {
            named_operand(p, &o);
            if (o.kind != O_REG && o.kind != O_SELECT) parse_fail(p, "expected a register or a constant after '-'");
            if (o.kind == O_REG) o.name = "";
            o.kind = O_SELECT;
            o.negated = true;
            return o;
        }
        p->x = save;
        o.value = parse_constant(p);
    } else {
        o.value = parse_constant(p);
    }
    if (o.kind == O_REG || o.kind == O_VAR || o.kind == O_NAME) {
        if (parse_is(p, '+') || parse_is(p, '-'))
            o.value = parse_constant(p);
        else if (parse_is(p, '[')) { /* array element syntax: var[4] */
            parse_next(p);
            o.value = parse_constant(p);
            parse_expect(p, ']');
        }
    }
    if (depth < 8 && parse_is(p, '|')) {
        parse_next(p);
        struct ptx_operand *pair = parse_new(p, 2 * sizeof *pair);
        pair[0] = o;
        pair[1] = operand(p, depth + 1);
        o = (struct ptx_operand){.kind = O_PAIR, .reg = -1, .elems = pair, .n = 2};
    }
    return o;
}

/* ---- statements ---- */
static void label(struct parser *p, char *name) {
    struct ptx_function *f = p->f;
    for (struct ptx_label *l = f->labels[ptx_hash(name, strlen(name)) % PTX_BUCKETS]; l; l = l->next)
        if (l->scope == p->scope && !strcmp(l->name, name)) parse_fail(p, "label %s is defined twice", name);
    struct ptx_label *l = parse_new(p, sizeof *l);
    l->name = name;
    l->scope = p->scope;
    l->at = f->n_code;
    struct ptx_label **bucket = &f->labels[ptx_hash(name, strlen(name)) % PTX_BUCKETS];
    l->next = *bucket;
    *bucket = l;
    if (parse_is_word(p, ".branchtargets") || parse_is_word(p, ".calltargets")) {
        parse_next(p);
        int cap = 0;
        do {
            l->targets = parse_grow(p, l->targets, l->n_targets, &cap, sizeof *l->targets);
            struct ptx_operand o = operand(p, 1);
            l->targets[l->n_targets++] = o;
        } while (parse_take(p, ','));
        parse_expect(p, ';');
    } else if (parse_is_word(p, ".callprototype")) {
        while (p->x.kind != TK_END && !parse_is(p, ';')) parse_next(p);
        parse_expect(p, ';');
    }
}

static void instruction(struct parser *p) {
    struct ptx_function *f = p->f;
    f->code = parse_grow(p, f->code, f->n_code, &f->cap_code, sizeof *f->code);
    struct ptx_statement s = {.line = p->x.line, .guard = -1};
    if (parse_take(p, '@')) {
        s.guard_negated = parse_take(p, '!');
        if (p->x.kind != TK_ID) parse_fail(p, "expected a predicate after '@'");
        s.guard = reg_named(p, p->x.start, p->x.n);
        if (s.guard < 0 || f->regs[s.guard].type != PT_PRED)
            parse_fail(p, "'%.*s' is no predicate register", (int)(p->x.n < 40 ? p->x.n : 40), p->x.start);
        ptx_next(&p->x, true);
        s.line = p->x.line;
    }
    if (p->x.kind != TK_ID || !isalpha((unsigned char)p->x.start[0]))
        parse_fail(p, "expected an instruction, found '%.*s'", (int)(p->x.n < 40 ? p->x.n : 40), p->x.start);
    s.op = parse_text(p);
    parse_next(p);
    int cap = 0;
    while (!parse_is(p, ';')) {
        s.operands = parse_grow(p, s.operands, s.n, &cap, sizeof *s.operands);
        struct ptx_operand o = operand(p, 0);
        s.operands[s.n++] = o;
        if (!parse_take(p, ',')) break;
    }
    parse_expect(p, ';');
    f->code[f->n_code++] = s;
}

/* The name of a label when one stands here, else NULL: an identifier followed by a single colon. */
static char *label_here(struct parser *p) {
    const char *q = p->x.start;
    if (p->x.kind != TK_ID) return NULL;
    size_t n = 0;
    while (q + n < p->x.end && (isalnum((unsigned char)q[n]) || q[n] == '_' || q[n] == '$' || q[n] == '%')) n++;
    size_t after = n;
    while (q + after < p->x.end && (q[after] == ' ' || q[after] == '\t')) after++;
    if (!n || q + after >= p->x.end || q[after] != ':' || (q + after + 1 < p->x.end && q[after + 1] == ':'))
        return NULL;
    char *name = arena_strndup(&p->t->arena, q, n);
    p->x.at = q + after + 1;
    parse_next(p);
    return name;
}

static bool body_directive(struct parser *p) {
    if (parse_is_word(p, ".reg")) {
        reg_declaration(p);
    } else if (parse_is_word(p, ".shared") || parse_is_word(p, ".local") || parse_is_word(p, ".param")) {
        var_declaration(p, p->x.start[1] == 's' ? SP_SHARED : p->x.start[1] == 'l' ? SP_LOCAL : SP_PARAM);
    } else if (parse_is_word(p, ".loc") || parse_is_word(p, ".file")) {
        uint32_t line = p->x.line;
        while (p->x.kind != TK_END && p->x.line == line) parse_next(p);
    } else if (parse_is_word(p, ".pragma") || parse_is_word(p, ".callprototype")) {
        while (p->x.kind != TK_END && !parse_is(p, ';')) parse_next(p);
        parse_expect(p, ';');
    } else {
        return false;
    }
    return true;
}

void parse_body(struct parser *p, struct ptx_function *f) {
    p->f = f;
    p->scope = -1;
    memset(p->names, 0, sizeof p->names);
    p->newest = NULL;
    scope_open(p);
    for (int i = 0; i < f->n_params + f->n_returns; i++) {
        struct ptx_var *v = i < f->n_params ? f->params[i] : f->returns[i - f->n_params];
        struct declared *d = declare(p, v->name, strlen(v->name));
        if (v->space == SP_REG) {
            d->type = v->type;
            d->ids = parse_new(p, sizeof *d->ids);
            v->reg = d->ids[0] = new_reg(p, v->type, v->name);
        } else {
            d->var = v;
        }
    }
    parse_expect(p, '{');
    while (p->scope >= 0) {
        if (p->x.kind == TK_END) parse_fail(p, "the text ends inside function %s", f->name);
        if (parse_is(p, '{')) {
            parse_next(p);
            scope_open(p);
        } else if (parse_is(p, '}')) {
            scope_close(p);
            parse_next(p);
        } else if (!parse_take(p, ';')) {
            char *name = label_here(p);
            if (name) {
                label(p, name);
            } else if (!body_directive(p)) {
                if (p->x.kind == TK_ID) { /* read it again as an opcode, dots and all */
                    p->x.at = p->x.start;
                    ptx_next(&p->x, true);
                }
                instruction(p);
            }
        }
    }
    p->f = NULL;
}
