/* The parser of the flat IR's text. It owns names and scopes: every name is resolved to a value here, so that later
 * stages never see text. Work is linear in the text, recursion is none (blocks are an explicit stack), and the limits
 * of ir.h hold before anything is allocated for them. */
#include "codegen/ir.h"

#include "codegen/f16.h"

#include <inttypes.h>
#include <string.h>

struct parser {
    const char *p, *end;      /* the rest of the current line, comment cut off */
    const char *text, *limit; /* the rest of the text after the current line */
    uint32_t line;
    struct ir_module *m;
    struct ir_func *f;
    struct ir_block *block;
    int depth;
    uint32_t n_ops, n_funcs;
    /* name -> value, open addressing, of the current function */
    struct slot {
        uint32_t name, value;
    } * slots;
    uint32_t n_slots, n_used;
    uint8_t *visible; /* per value */
    uint32_t cap_visible;
    uint32_t *scope; /* the visible values in order of definition */
    uint32_t n_scope, cap_scope;
    uint32_t scope_start[IR_MAX_DEPTH + 1];
    struct err *e;
};

static bool fail(struct parser *ps, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(struct parser *ps, const char *fmt, ...) {
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_set(ps->e, ERR_INPUT, "flat IR, line %" PRIu32 ": %s", ps->line, msg);
}

/* ---- the line cursor ---- */

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}
static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_word(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '$' ||
           c == '-';
}

static void skip_space(struct parser *ps) {
    while (ps->p < ps->end && is_space(*ps->p)) ps->p++;
}

/* Moves to the next line that is not blank; false at the end of the text. */
static bool next_line(struct parser *ps) {
    while (ps->text < ps->limit) {
        const char *nl = memchr(ps->text, '\n', (size_t)(ps->limit - ps->text));
        ps->p = ps->text;
        ps->end = nl ? nl : ps->limit;
        ps->text = nl ? nl + 1 : ps->limit;
        ps->line++;
        const char *hash = memchr(ps->p, '#', (size_t)(ps->end - ps->p));
        if (hash) ps->end = hash;
        skip_space(ps);
        if (ps->p < ps->end) return true;
    }
    ps->p = ps->end = ps->limit;
    return false;
}

static bool expected(struct parser *ps, const char *what) {
    skip_space(ps);
    int n = (int)(ps->end - ps->p);
    while (n && is_space(ps->p[n - 1])) n--;
    if (!n) return fail(ps, "expected %s, found the end of the line", what);
    char shown[41];
    if (n > 40) n = 40;
    for (int i = 0; i < n; i++) shown[i] = ps->p[i] < ' ' || ps->p[i] > '~' ? '?' : ps->p[i];
    shown[n] = 0;
    return fail(ps, "expected %s, found `%s`", what, shown);
}

static bool accept_char(struct parser *ps, char c) {
    skip_space(ps);
    if (ps->p >= ps->end || *ps->p != c) return false;
    ps->p++;
    return true;
}

static bool accept_word(struct parser *ps, const char *word) {
    skip_space(ps);
    size_t n = strlen(word);
    if ((size_t)(ps->end - ps->p) < n || memcmp(ps->p, word, n) != 0) return false;
    if (ps->p + n < ps->end && is_word(ps->p[n])) return false;
    ps->p += n;
    return true;
}

static bool expect_char(struct parser *ps, char c) {
    char what[4] = {'`', c, '`', 0};
    return accept_char(ps, c) || expected(ps, what);
}

static bool expect_word(struct parser *ps, const char *word) {
    char what[32];
    snprintf(what, sizeof what, "`%s`", word);
    return accept_word(ps, word) || expected(ps, what);
}

static bool expect_eol(struct parser *ps) {
    skip_space(ps);
    return ps->p == ps->end || expected(ps, "the end of the line");
}

/* A decimal integer in [lo, hi]; the bits of values above INT64_MAX are kept. */
static bool expect_int(struct parser *ps, const char *what, __int128 lo, __int128 hi, int64_t *out) {
    skip_space(ps);
    const char *start = ps->p, *p = ps->p;
    bool neg = p < ps->end && *p == '-';
    if (neg) p++;
    if (p >= ps->end || !is_digit(*p)) return expected(ps, what);
    __int128 v = 0;
    for (; p < ps->end && is_digit(*p); p++)
        if (v < (__int128)1 << 70) v = v * 10 + (*p - '0');
    if (p < ps->end && is_word(*p)) return expected(ps, what);
    if (neg) v = -v;
    if (v < lo || v > hi) {
        int n = (int)(p - start);
        return fail(ps, "%s must be from %" PRId64 " to %" PRIu64 ", found %.*s", what, (int64_t)lo, (uint64_t)hi,
                    n > 40 ? 40 : n, start);
    }
    ps->p = p;
    *out = (int64_t)(uint64_t)v;
    return true;
}

/* ---- names and scopes ---- */

static uint32_t hash_name(uint32_t name) {
    return name * 2654435761u;
}

static struct slot *find_slot(const struct parser *ps, uint32_t name) {
    uint32_t i = hash_name(name) & (ps->n_slots - 1);
    while (ps->slots[i].name && ps->slots[i].name != name) i = (i + 1) & (ps->n_slots - 1);
    return &ps->slots[i];
}

static void grow_slots(struct parser *ps) {
    struct slot *old = ps->slots;
    uint32_t n_old = ps->n_slots;
    ps->n_slots = n_old ? n_old * 2 : 1024;
    ps->slots = mem_new(ps->n_slots * sizeof *ps->slots);
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].name) *find_slot(ps, old[i].name) = old[i];
    mem_free(old);
}

/* Starts a function with small tables: clearing one function's large ones for each of thousands would be quadratic. */
static void forget_names(struct parser *ps) {
    mem_free(ps->slots);
    mem_free(ps->visible);
    ps->slots = NULL;
    ps->visible = NULL;
    ps->n_slots = ps->n_used = ps->cap_visible = ps->n_scope = 0;
}

static bool expect_name(struct parser *ps, uint32_t *name) {
    skip_space(ps);
    if (ps->p >= ps->end || *ps->p != '%') return expected(ps, "a value name such as %1");
    ps->p++;
    int64_t n;
    if (!expect_int(ps, "the number of a value name", 1, IR_MAX_VALUE, &n)) return false;
    *name = (uint32_t)n;
    return true;
}

/* Makes a value that is not visible yet (a for's results are named at its end, its inits are not in its own scope). */
static bool define(struct parser *ps, uint32_t name, struct ir_type t, struct ir_op *def, ir_value *out) {
    if ((ps->n_used + 1) * 2 > ps->n_slots) grow_slots(ps);
    struct slot *s = find_slot(ps, name);
    if (s->name) return fail(ps, "%%%" PRIu32 " is defined twice", name);
    *out = ir_value_new(ps->f, t, name, def);
    *s = (struct slot){name, *out};
    ps->n_used++;
    if (*out >= ps->cap_visible) {
        uint32_t cap = ps->cap_visible ? ps->cap_visible * 2 : 1024;
        ps->visible = mem_grow(ps->visible, cap);
        memset(ps->visible + ps->cap_visible, 0, cap - ps->cap_visible);
        ps->cap_visible = cap;
    }
    return true;
}

static void show(struct parser *ps, ir_value v) {
    if (ps->n_scope == ps->cap_scope) {
        ps->cap_scope = ps->cap_scope ? ps->cap_scope * 2 : 1024;
        ps->scope = mem_grow(ps->scope, ps->cap_scope * sizeof *ps->scope);
    }
    ps->scope[ps->n_scope++] = v;
    ps->visible[v] = 1;
}

static bool expect_value(struct parser *ps, ir_value *out) {
    uint32_t name;
    if (!expect_name(ps, &name)) return false;
    if (!ps->n_slots) return fail(ps, "%%%" PRIu32 " is not defined before its use", name);
    struct slot *s = find_slot(ps, name);
    if (!s->name) return fail(ps, "%%%" PRIu32 " is not defined before its use", name);
    if (!ps->visible[s->value]) return fail(ps, "%%%" PRIu32 " is not visible here: its block has ended", name);
    *out = s->value;
    return true;
}

static bool enter_block(struct parser *ps, struct ir_op *owner, struct ir_block **out) {
    if (ps->depth >= IR_MAX_DEPTH) return fail(ps, "blocks nest deeper than %d", IR_MAX_DEPTH);
    *out = ps->block = ir_block_new(ps->f, owner);
    ps->scope_start[++ps->depth] = ps->n_scope;
    return true;
}

static void leave_block(struct parser *ps) {
    while (ps->n_scope > ps->scope_start[ps->depth]) ps->visible[ps->scope[--ps->n_scope]] = 0;
    ps->depth--;
    ps->block = ps->block->owner->block;
}

/* ---- types and constants ---- */

static bool expect_type(struct parser *ps, struct ir_type *t) {
    static const struct {
        char text[4];
        enum ir_scalar s;
    } names[] = {{"i16", IR_I16}, {"i1", IR_I1},   {"i8", IR_I8},   {"i32", IR_I32},
                 {"i64", IR_I64}, {"f16", IR_F16}, {"f32", IR_F32}, {"ptr", IR_PTR}};
    skip_space(ps);
    const char *start = ps->p;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i].text);
        if ((size_t)(ps->end - start) < n || memcmp(start, names[i].text, n) != 0) continue;
        unsigned lanes = 1;
        const char *p = start + n;
        if (p < ps->end && *p == 'x') {
            lanes = 0;
            for (p++; p < ps->end && is_digit(*p) && lanes < 1000; p++) lanes = lanes * 10 + (unsigned)(*p - '0');
            if (lanes < 2 || lanes > IR_MAX_LANES || (lanes & (lanes - 1)) || names[i].s == IR_PTR) break;
        }
        if (p < ps->end && is_word(*p)) break;
        ps->p = p;
        *t = ir_type_of(names[i].s, lanes);
        return true;
    }
    return expected(ps, "a type (i1 i8 i16 i32 i64 f16 f32 ptr, but for ptr with xN, N a power of two from 2 to 128)");
}

/* Rounds m * 2^e (m != 0, sticky: plus something below) to the nearest float of `mbits` stored mantissa bits and least
 * exponent emin, ties to even; the bits without sign. May return a number above infinity's pattern. */
static uint64_t round_float(uint64_t m, int e, bool sticky, int mbits, int emin) {
    int lead = __builtin_clzll(m);
    m <<= lead;
    e -= lead;
    int top = e + 63, base = top < emin ? emin : top, shift = base - mbits - e;
    if (shift > 64) return 0;
    uint64_t q = shift == 64 ? 0 : m >> shift, rest = shift == 64 ? m : m & ((1ull << shift) - 1);
    uint64_t half = 1ull << (shift - 1);
    if (rest > half || (rest == half && (sticky || (q & 1)))) q++;
    return ((uint64_t)(base - emin) << mbits) + q;
}

static int hex_digit(char c) {
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool expect_float(struct parser *ps, struct ir_type t, int64_t *out) {
    const char *what = "a hexadecimal float such as 0x1.8p+1, inf or nan";
    int mbits = t.scalar == IR_F32 ? 23 : 10, emin = t.scalar == IR_F32 ? -126 : -14;
    uint64_t inf = (uint64_t)(t.scalar == IR_F32 ? 255 : 31) << mbits;
    skip_space(ps);
    const char *start = ps->p;
    bool neg = accept_char(ps, '-');
    uint64_t sign = neg ? 1ull << ir_scalar_bits(t.scalar) >> 1 : 0;
    if (accept_word(ps, "inf")) {
        *out = (int64_t)(sign | inf);
        return true;
    }
    if (accept_word(ps, "nan")) {
        *out = (int64_t)(sign | inf | 1ull << (mbits - 1));
        return true;
    }
    const char *p = ps->p;
    ps->p = start;
    if (ps->end - p < 2 || p[0] != '0' || (p[1] | 32) != 'x') return expected(ps, what);
    p += 2;
    uint64_t m = 0;
    int64_t e = 0;
    bool sticky = false, digits = false, point = false;
    for (; p < ps->end; p++) {
        if (*p == '.' && !point) {
            point = true;
            continue;
        }
        int d = hex_digit(*p);
        if (d < 0) break;
        digits = true;
        if (m >> 60) {
            sticky |= d != 0;
            e += point ? 0 : 4;
        } else {
            m = m << 4 | (unsigned)d;
            e -= point ? 4 : 0;
        }
    }
    if (!digits || p >= ps->end || (*p | 32) != 'p') return expected(ps, what);
    p++;
    if (p < ps->end && *p == '+') p++;
    ps->p = p;
    int64_t power;
    if (!expect_int(ps, "the exponent of a hexadecimal float", -100000, 100000, &power)) return false;
    e += power;
    if (m == 0) {
        *out = (int64_t)sign;
        return true;
    }
    uint64_t bits = e > 4000 ? inf : e < -4000 ? 0 : round_float(m, (int)e, sticky, mbits, emin);
    if (bits >= inf) return fail(ps, "the constant does not fit its type: try inf");
    *out = (int64_t)(sign | bits);
    return true;
}

static bool expect_const(struct parser *ps, struct ir_type t, int64_t *out) {
    if (t.scalar == IR_F16 || t.scalar == IR_F32) return expect_float(ps, t, out);
    if (t.scalar == IR_PTR) return fail(ps, "const cannot be a ptr");
    unsigned width = ir_scalar_bits(t.scalar);
    if (!expect_int(ps, "an integer constant", -((__int128)1 << (width - 1)), ((__int128)1 << width) - 1, out))
        return false;
    *out &= (int64_t)ir_mask(width);
    return true;
}

/* ---- operations ---- */

static bool expect_align(struct parser *ps, uint32_t *out) {
    int64_t a;
    if (!expect_word(ps, "align") || !expect_int(ps, "the alignment", 1, IR_MAX_ALIGN, &a)) return false;
    if (a & (a - 1)) return fail(ps, "the alignment must be a power of two, found %" PRId64, a);
    *out = (uint32_t)a;
    return true;
}

static bool parse_lanes(struct parser *ps, struct ir_op *op) {
    if (op->type.lanes < 2) return fail(ps, "the result of shuffle must be a vector");
    if (!expect_char(ps, ',')) return false;
    op->lanes = arena_new(ps->f->arena, op->type.lanes);
    for (unsigned i = 0; i < op->type.lanes; i++) {
        int64_t k;
        if (!expect_int(ps, "a lane number of the shuffle", 0, IR_MAX_LANES - 1, &k)) return false;
        op->lanes[i] = (uint8_t)k;
    }
    return true;
}

static bool expect_shape(struct parser *ps, int64_t *out) {
    for (int i = 0; i < IR_N_MMA; i++)
        if (accept_word(ps, ir_mma_shapes[i].name)) {
            *out = i;
            return true;
        }
    return expected(ps, "a shape such as m16n8k32.u8s8");
}

static bool parse_tile(struct parser *ps, struct ir_op *op) {
    int64_t stride;
    op->imm = -1;
    for (int i = 0; i < IR_N_TILE && op->imm < 0; i++)
        if (accept_word(ps, ir_tile_shapes[i].name)) op->imm = i;
    if (op->imm < 0) return expected(ps, "a shape such as m16n16k32.s8u8");
    if (!expect_word(ps, "stride") || !expect_int(ps, "the stride of the rows", 1, IR_MAX_ROW, &stride)) return false;
    op->stride = (uint32_t)stride;
    return true;
}

/* Lanes that are neighbours or a stride apart, not at offsets of their own. */
static bool has_stride(enum ir_opcode code) {
    return code == IR_LOAD || code == IR_STORE || code == IR_STOREM;
}

static bool parse_copy(struct parser *ps, struct ir_op *op) {
    int64_t bytes, stride;
    if (!expect_char(ps, ',') || !expect_int(ps, "the number of rows", 1, IR_MAX_STACK, &op->imm) ||
        !expect_word(ps, "rows") || !expect_int(ps, "the bytes of a row", 16, IR_MAX_ALIGN, &bytes) ||
        !expect_word(ps, "stride") || !expect_int(ps, "the stride of the rows", 16, INT32_MAX, &stride))
        return false;
    op->align = (uint32_t)bytes;
    op->stride = (uint32_t)stride;
    return true;
}

static bool parse_immediate(struct parser *ps, struct ir_op *op) {
    switch (ir_op_info[op->code].imm) {
    case IMM_NONE:
    case IMM_FOR:
        return true;
    case IMM_K:
        if ((op->n_args && !expect_char(ps, ',')) || !expect_int(ps, "the index", 0, IR_MAX_INDEX, &op->imm))
            return false;
        op->inv = op->code == IR_ARG && accept_word(ps, "inv");
        return true;
    case IMM_LANES:
        return parse_lanes(ps, op);
    case IMM_CONST:
        return expect_const(ps, op->type, &op->imm);
    case IMM_STACK:
        return expect_int(ps, "the number of bytes", 1, IR_MAX_STACK, &op->imm) && expect_align(ps, &op->align);
    case IMM_UMAX:
        return expect_word(ps, "umax") && expect_char(ps, '=') && expect_int(ps, "umax", 1, 255, &op->imm);
    case IMM_MMA:
        return expect_shape(ps, &op->imm);
    case IMM_TILE:
        return parse_tile(ps, op);
    case IMM_COPY:
        return parse_copy(ps, op);
    case IMM_MEM:
        if (!expect_char(ps, ',') ||
            !expect_int(ps, "the constant offset", -(__int128)IR_MAX_OFFSET, IR_MAX_OFFSET, &op->imm) ||
            !expect_align(ps, &op->align))
            return false;
        if (has_stride(op->code) && accept_word(ps, "stride")) {
            int64_t stride;
            if (!expect_int(ps, "the stride of the lanes", 1, IR_MAX_ALIGN, &stride)) return false;
            op->stride = (uint32_t)stride;
        }
        op->inv = ir_op_info[op->code].effect == EFF_READ && accept_word(ps, "inv");
        return true;
    }
    return false;
}

static bool count_op(struct parser *ps) {
    return ++ps->n_ops <= IR_MAX_OPS || fail(ps, "more than %d operations in one module", IR_MAX_OPS);
}

static bool parse_operands(struct parser *ps, ir_value *args, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if ((i && !expect_char(ps, ',')) || !expect_value(ps, &args[i])) return false;
    return true;
}

/* The operation's word is read by the caller; a defining line has its result's name and type already. */
static bool parse_plain(struct parser *ps, enum ir_opcode code, uint32_t name, struct ir_type t) {
    if (!count_op(ps)) return false;
    struct ir_op *op = ir_op_new(ps->f, code, (uint32_t)ir_op_info[code].n_operands);
    op->line = ps->line;
    op->type = t;
    if (!parse_operands(ps, op->args, op->n_args) || !parse_immediate(ps, op) || !expect_eol(ps)) return false;
    if (name) {
        op->n_results = 1;
        op->results = arena_new(ps->f->arena, sizeof *op->results);
        if (!define(ps, name, t, op, op->results)) return false;
        show(ps, op->results[0]);
    }
    ir_append(ps->block, op);
    return true;
}

static bool find_op(const char *p, size_t n, enum ir_opcode *code) {
    for (int i = 0; i < IR_N_OPS; i++)
        if (strlen(ir_op_info[i].name) == n && memcmp(ir_op_info[i].name, p, n) == 0) {
            *code = (enum ir_opcode)i;
            return true;
        }
    return false;
}

static bool expect_op(struct parser *ps, bool has_result, enum ir_opcode *code) {
    skip_space(ps);
    const char *p = ps->p;
    while (p < ps->end && is_word(*p)) p++;
    if (!find_op(ps->p, (size_t)(p - ps->p), code)) return expected(ps, "an operation");
    enum ir_effect effect = ir_op_info[*code].effect;
    if ((effect != EFF_WRITE && effect != EFF_CTRL) != has_result)
        return fail(ps, has_result ? "`%s` has no result" : "`%s` needs a result: `%%N:type = ...`",
                    ir_op_info[*code].name);
    ps->p = p;
    return true;
}

static bool parse_definition(struct parser *ps) {
    uint32_t name;
    struct ir_type t;
    enum ir_opcode code;
    return expect_name(ps, &name) && expect_char(ps, ':') && expect_type(ps, &t) && expect_char(ps, '=') &&
           expect_op(ps, true, &code) && parse_plain(ps, code, name, t);
}

static bool parse_for(struct parser *ps) {
    struct {
        uint32_t name;
        struct ir_type type;
        ir_value init;
    } carry[IR_MAX_CARRIES];
    uint32_t index, n = 0;
    ir_value lo, hi;
    int64_t step, split = 0;
    if (!count_op(ps) || !expect_name(ps, &index) || !expect_char(ps, '=') || !expect_value(ps, &lo) ||
        !expect_word(ps, "to") || !expect_value(ps, &hi) || !expect_word(ps, "step") ||
        !expect_int(ps, "the step", 1, INT64_MAX, &step))
        return false;
    if (accept_word(ps, "split") && !expect_int(ps, "the number of parts", 1, IR_MAX_SPLIT, &split)) return false;
    if (accept_word(ps, "carry")) {
        do {
            if (n == IR_MAX_CARRIES) return fail(ps, "more than %d carries", IR_MAX_CARRIES);
            if (!expect_name(ps, &carry[n].name) || !expect_char(ps, ':') || !expect_type(ps, &carry[n].type) ||
                !expect_char(ps, '=') || !expect_value(ps, &carry[n].init))
                return false;
            n++;
        } while (accept_char(ps, ','));
    }
    if (!expect_eol(ps)) return false;
    struct ir_op *op = ir_op_new(ps->f, IR_FOR, n + 2);
    op->line = ps->line;
    op->imm = step;
    op->split = (uint32_t)split;
    op->args[0] = lo;
    op->args[1] = hi;
    op->n_results = n;
    op->inner = arena_new(ps->f->arena, (n + 1) * sizeof *op->inner);
    op->results = arena_new(ps->f->arena, (n + 1) * sizeof *op->results);
    ir_append(ps->block, op);
    if (!enter_block(ps, op, &op->body) || !define(ps, index, ir_type_of(IR_I64, 1), op, &op->inner[0])) return false;
    show(ps, op->inner[0]);
    for (uint32_t i = 0; i < n; i++) {
        op->args[i + 2] = carry[i].init;
        if (!define(ps, carry[i].name, carry[i].type, op, &op->inner[i + 1])) return false;
        show(ps, op->inner[i + 1]);
    }
    return true;
}

static bool parse_if(struct parser *ps) {
    struct ir_op *op = ir_op_new(ps->f, IR_IF, 1);
    op->line = ps->line;
    if (!count_op(ps) || !expect_value(ps, &op->args[0]) || !expect_eol(ps)) return false;
    ir_append(ps->block, op);
    return enter_block(ps, op, &op->body);
}

static bool parse_yield(struct parser *ps) {
    struct ir_op *owner = ps->block->owner;
    if (!owner || owner->code != IR_FOR || !owner->n_results)
        return fail(ps, "yield belongs at the end of a for with carries");
    if (!count_op(ps)) return false;
    struct ir_op *op = ir_op_new(ps->f, IR_YIELD, owner->n_results);
    op->line = ps->line;
    if (!parse_operands(ps, op->args, op->n_args) || !expect_eol(ps)) return false;
    ir_append(ps->block, op);
    return true;
}

static bool ends_in_yield(const struct parser *ps) {
    return ps->block->last && ps->block->last->code == IR_YIELD;
}

/* `merge` behind the body of a split for with carries. */
static bool parse_merge(struct parser *ps) {
    struct ir_op *op = ps->block->owner;
    if (!op || !op->split || !op->n_results || op->merge || !ends_in_yield(ps))
        return fail(ps, "merge follows the yield of a split for with carries");
    leave_block(ps);
    op->pair = arena_new(ps->f->arena, 2 * op->n_results * sizeof *op->pair);
    if (!count_op(ps) || !enter_block(ps, op, &op->merge)) return false;
    for (uint32_t i = 0; i < 2 * op->n_results; i++) {
        uint32_t name;
        struct ir_type t = ps->f->values[op->inner[1 + i % op->n_results]].type;
        if ((i && !expect_char(ps, ',')) || !expect_name(ps, &name) || !define(ps, name, t, op, &op->pair[i]))
            return false;
    }
    for (uint32_t i = 0; i < 2 * op->n_results; i++) show(ps, op->pair[i]);
    return expect_eol(ps);
}

/* `end` of a for or an if. */
static bool parse_end(struct parser *ps) {
    struct ir_op *op = ps->block->owner;
    if (op->n_results && !ends_in_yield(ps)) return fail(ps, "a for with carries must end in yield");
    if (op->n_results && op->split && !op->merge) return fail(ps, "a split for with carries needs a merge");
    leave_block(ps);
    if (op->n_results) {
        if (!expect_char(ps, '-') || !expect_char(ps, '>')) return false;
        for (uint32_t i = 0; i < op->n_results; i++) {
            uint32_t name;
            if ((i && !expect_char(ps, ',')) || !expect_name(ps, &name) ||
                !define(ps, name, ps->f->values[op->inner[i + 1]].type, op, &op->results[i]))
                return false;
        }
        for (uint32_t i = 0; i < op->n_results; i++) show(ps, op->results[i]);
    }
    return expect_eol(ps);
}

static bool parse_line(struct parser *ps) {
    if (accept_word(ps, "merge")) return parse_merge(ps);
    if (ends_in_yield(ps)) return expected(ps, "`end` after yield");
    if (*ps->p == '%') return parse_definition(ps);
    if (accept_word(ps, "for")) return parse_for(ps);
    if (accept_word(ps, "if")) return parse_if(ps);
    if (accept_word(ps, "yield")) return parse_yield(ps);
    enum ir_opcode code;
    return expect_op(ps, false, &code) && parse_plain(ps, code, 0, (struct ir_type){0});
}

static bool expect_func_name(struct parser *ps) {
    if (!expect_char(ps, '@')) return false;
    const char *p = ps->p;
    while (p < ps->end && is_word(*p)) p++;
    size_t n = (size_t)(p - ps->p);
    if (n == 0 || n > IR_MAX_NAME || *ps->p == '-' || is_digit(*ps->p))
        return expected(ps, "a function name of letters, digits, _ . $ - (1 to 200 bytes, no digit or - first)");
    ps->f = ir_func_new(ps->m, ps->p, n);
    ps->f->line = ps->line;
    ps->p = p;
    return true;
}

static bool parse_func(struct parser *ps) {
    if (++ps->n_funcs > IR_MAX_FUNCS) return fail(ps, "more than %d functions in one module", IR_MAX_FUNCS);
    if (!expect_word(ps, "func") || !expect_func_name(ps) || !expect_eol(ps)) return false;
    forget_names(ps);
    ps->depth = 0;
    ps->block = ps->f->body;
    for (;;) {
        if (!next_line(ps)) return fail(ps, "expected `end`, found the end of the text (func @%s)", ps->f->name);
        bool at_end = accept_word(ps, "end");
        if (at_end && ps->depth == 0) return expect_eol(ps);
        if (!(at_end ? parse_end(ps) : parse_line(ps))) return false;
    }
}

static bool parse_module(struct parser *ps) {
    if (!next_line(ps)) return fail(ps, "expected `kgen-ir 1`, found an empty text");
    if (!accept_word(ps, "kgen-ir") || !accept_word(ps, "1") || !expect_eol(ps)) return expected(ps, "`kgen-ir 1`");
    while (next_line(ps))
        if (!parse_func(ps)) return false;
    return true;
}

bool ir_parse(const char *text, size_t len, struct ir_module **out, struct err *e) {
    struct parser ps = {.text = text, .limit = text + len, .e = e};
    ps.m = mem_new(sizeof *ps.m);
    bool ok = parse_module(&ps);
    forget_names(&ps);
    mem_free(ps.scope);
    if (!ok) {
        ir_free(ps.m);
        ps.m = NULL;
    }
    *out = ps.m;
    return ok;
}
