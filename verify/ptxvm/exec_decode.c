/* The decoder: one function's statements into instructions of the machine. Here are the frame of it (opcodes, labels,
 * constants, operands) and control flow; what each opcode means is in exec_decode_*.c. An opcode or a modifier that no
 * table knows is an error with its line, never a guess: every part of the opcode must have been taken. */
#include "verify/ptxvm/exec_decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dec_fail(struct decoder *d, const char *fmt, ...) {
    char text[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_set(d->e, ERR_UNSUPPORTED, "%s line %u: %s: %s", d->m->file, d->st ? d->st->line : d->f->line,
            d->st ? d->st->op : d->f->name, text);
    longjmp(d->out, 1);
}
void dec_unknown(struct decoder *d) {
    dec_fail(d, "the machine does not know this instruction%s%s", d->at < d->n_parts ? ", at ." : "",
             d->at < d->n_parts ? d->part[d->at] : "");
}
bool dec_peek(const struct decoder *d, const char *word) {
    return d->at < d->n_parts && !strcmp(d->part[d->at], word);
}
bool dec_take(struct decoder *d, const char *word) {
    if (!dec_peek(d, word)) return false;
    d->at++;
    return true;
}
enum ptx_type dec_type_if(struct decoder *d) {
    if (d->at >= d->n_parts) return PT_NONE;
    enum ptx_type t = ptx_type_named(d->part[d->at], strlen(d->part[d->at]));
    if (t != PT_NONE) d->at++;
    return t;
}
enum ptx_type dec_type(struct decoder *d) {
    enum ptx_type t = dec_type_if(d);
    if (t == PT_NONE) dec_unknown(d);
    return t;
}
int dec_rounding(struct decoder *d) {
    return dec_take(d, "rn") ? 0 : dec_take(d, "rm") ? 1 : dec_take(d, "rp") ? 2 : dec_take(d, "rz") ? 3 : -1;
}
void dec_count(struct decoder *d, int least, int most) {
    if (d->st->n < least || d->st->n > most) dec_fail(d, "%d operands, expected %d to %d", d->st->n, least, most);
}
const struct ptx_operand *dec_operand(struct decoder *d, int i) {
    if (i >= d->st->n) dec_fail(d, "operand %d is missing", i + 1);
    return &d->st->operands[i];
}

/* ---- rows ---- */
static u32 new_row(struct decoder *d, int bytes) {
    if (d->n_rows == d->cap_rows) {
        d->cap_rows = d->cap_rows ? d->cap_rows * 2 : 256;
        u32 *a = arena_new(&d->m->arena, d->cap_rows * sizeof *a);
        if (d->n_rows) memcpy(a, d->row_bytes, d->n_rows * sizeof *a);
        d->row_bytes = a;
    }
    d->row_bytes[d->n_rows] = (u32)bytes;
    return d->n_rows++;
}
static int size_index(int bytes) {
    return bytes == 0 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : bytes == 8 ? 3 : 4;
}

u32 dec_temp(struct decoder *d, int bytes) {
    int k = size_index(bytes);
    if (d->used_temps[k] == MAX_TEMPS) dec_fail(d, "too many operands");
    if (d->used_temps[k] == d->n_temps[k]) d->temps[k][d->n_temps[k]++] = new_row(d, bytes);
    return d->temps[k][d->used_temps[k]++] << 1;
}

static int type_row_bytes(enum ptx_type t) { /* registers of 8 bits live in rows of 16 */
    int n = ptx_type_bytes(t);
    return n == 1 ? 2 : n;
}

u32 dec_reg(struct decoder *d, int reg) {
    if (!d->reg_row[reg]) d->reg_row[reg] = new_row(d, type_row_bytes(d->f->regs[reg].type)) + 1;
    return (d->reg_row[reg] - 1) << 1;
}
int dec_reg_bytes(const struct decoder *d, const struct ptx_operand *o) {
    return type_row_bytes(d->f->regs[o->reg].type);
}

static u32 pool_add(struct decoder *d, int bytes, u64 value) {
    struct code *c = d->c;
    u32 h = (u32)((value ^ value >> 29) * 0x9e3779b97f4a7c15ull >> 40) + (u32)bytes;
    int elem = bytes ? bytes : 4, n = bytes ? 32 : 1;
    for (u32 k = 0; k < 8; k++) {
        u32 slot = (h + k) & 4095, at = d->consts[slot];
        if (!at) break;
        at--;
        u64 old = 0;
        memcpy(&old, c->pool + (at & ~1u), (size_t)elem);
        if ((at & 1) == (bytes == 0) && old == value &&
            (u32)bytes == c->pool[(at & ~1u) + (bytes ? 32 * (u32)bytes : 4)])
            return (at & ~1u) | 1;
    }
    u32 need = ((u32)(elem * n) + 1 + 63) & ~63u; /* the element size is kept after the row */
    if (c->pool_bytes + need > c->pool_cap) {
        c->pool_cap = c->pool_cap ? c->pool_cap * 2 : 8192;
        if (c->pool_cap > 1u << 30) dec_fail(d, "too many constants");
        c->pool = mem_grow(c->pool, c->pool_cap);
    }
    u32 at = c->pool_bytes;
    for (int i = 0; i < n; i++) memcpy(c->pool + at + (u32)(i * elem), &value, (size_t)elem);
    c->pool[at + (u32)(elem * n)] = (u8)bytes;
    c->pool_bytes += need;
    for (u32 k = 0; k < 8; k++) {
        u32 slot = (h + k) & 4095;
        if (d->consts[slot]) continue;
        d->consts[slot] = (at | (bytes == 0)) + 1;
        break;
    }
    return at | 1;
}
u32 dec_const(struct decoder *d, int bytes, u64 value) {
    if (bytes < 8) value &= (1ull << (8 * bytes)) - 1;
    return pool_add(d, bytes, value);
}
u32 dec_pred_const(struct decoder *d, bool value) {
    return pool_add(d, 0, value ? 0xffffffffu : 0);
}

bool dec_constant(const struct ptx_operand *o, s64 *v) {
    if (o->kind != O_INT) return false;
    *v = o->value;
    return true;
}

/* ---- emitting ---- */
struct insn *dec_emit(struct decoder *d, int kind) {
    struct code *c = d->c;
    if (c->n == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 256;
        if (c->cap > 1u << 24) dec_fail(d, "more than 2^24 instructions in one function");
        c->insns = mem_grow(c->insns, c->cap * sizeof *c->insns);
        d->guards = mem_grow(d->guards, c->cap * sizeof *d->guards);
    }
    struct insn *in = &c->insns[c->n];
    *in = (struct insn){.kind = (u8)kind,
                        .cls = d->cls,
                        .d = NO_ROW,
                        .a = NO_ROW,
                        .b = NO_ROW,
                        .c = NO_ROW,
                        .e = NO_ROW,
                        .target = NO_TARGET,
                        .rejoin = NO_TARGET,
                        .guard = NO_GUARD,
                        .fp = FP_ANY};
    in->line = d->st ? d->st->line : d->f->line;
    d->guards[c->n] = NO_ROW;
    if (d->st && d->st->guard >= 0 && !d->unguarded) {
        d->guards[c->n] = dec_reg(d, d->st->guard);
        in->guard = d->st->guard_negated ? GUARD_NOT : 0;
    }
    c->n++;
    return in;
}
struct insn *dec_row(struct decoder *d, int op, int dsize, u32 to, u32 a, u32 b, u32 c) {
    struct insn *in = dec_emit(d, K_ROW);
    in->row = vm_rows()[op];
    in->dsize = (u8)dsize;
    in->d = to, in->a = a, in->b = b, in->c = c;
    return in;
}
struct insn *dec_pure(struct decoder *d, int op, int dsize, u32 to, u32 a, u32 b, u32 c) {
    bool old = d->unguarded;
    d->unguarded = true;
    struct insn *in = dec_row(d, op, dsize, to, a, b, c);
    d->unguarded = old;
    return in;
}
struct insn *dec_float(struct decoder *d, int op, int dsize, u32 to, u32 a, u32 b, u32 c, int fp) {
    struct insn *in = dec_row(d, op, dsize, to, a, b, c);
    in->fp = (u8)fp;
    return in;
}
struct insn *dec_op(struct decoder *d, op_fn op, struct ext *x) {
    struct insn *in = dec_emit(d, K_OP);
    in->op = op;
    in->ext = x;
    return in;
}
struct ext *dec_ext(struct decoder *d, int n_ops) {
    struct ext *x = arena_new(&d->m->arena, sizeof *x);
    x->n = n_ops;
    x->ops = arena_new(&d->m->arena, (size_t)(n_ops + 1) * sizeof *x->ops);
    x->sizes = arena_new(&d->m->arena, (size_t)n_ops + 1);
    x->text = d->st ? d->st->op : "";
    return x;
}

/* ---- operands ---- */
struct ptx_var *dec_variable(struct decoder *d, const struct ptx_operand *o) {
    if (o->kind == O_VAR) return o->var;
    return o->kind == O_NAME ? ptx_var_find(&d->m->text, o->name) : NULL;
}

static bool copied_parameter(const struct decoder *d, const struct ptx_var *v) {
    return v->space == SP_PARAM && v->is_formal && !d->f->is_entry;
}
static u32 variable_address(struct decoder *d, const struct ptx_operand *o, struct ptx_var *v, int bytes) {
    if (v->space == SP_TEXREF) dec_fail(d, "the machine does not know textures, samplers and surfaces");
    if (v->space == SP_PARAM && !v->is_formal) dec_fail(d, "the address of a call's parameter");
    u64 at = copied_parameter(d, v) ? v->copy : v->addr;
    if ((v->space == SP_SHARED && v->is_extern) || v->space == SP_LOCAL || copied_parameter(d, v)) {
        u32 to = dec_temp(d, bytes);
        bool old = d->unguarded;
        d->unguarded = true;
        struct insn *in = dec_op(d, op_local, NULL);
        d->unguarded = old;
        in->d = to;
        in->dsize = (u8)bytes;
        in->cls = VM_C_MOVE;
        in->imm = (s64)at + o->value;
        in->flags = v->space == SP_SHARED ? MEM_DYNAMIC_SHARED : MEM_LOCAL_FRAME;
        return to;
    }
    return dec_const(d, bytes, at + (u64)o->value);
}

static u32 convert_row(struct decoder *d, u32 from, int have, int want, bool is_signed) {
    if (have == want) return from;
    int op = have == 2   ? (want == 4 ? (is_signed ? ROW_SEXT_16_32 : ROW_ZEXT_16_32)
                                      : (is_signed ? ROW_SEXT_16_64 : ROW_ZEXT_16_64))
             : have == 4 ? (want == 2   ? ROW_TRUNC_32_16
                            : is_signed ? ROW_SEXT_32_64
                                        : ROW_ZEXT_32_64)
                         : (want == 2 ? ROW_TRUNC_64_16 : ROW_TRUNC_64_32);
    if (have == 0 || want == 0 || have == 16 || want == 16)
        dec_fail(d, "an operand of %d bits where %d are expected", have * 8, want * 8);
    u32 to = dec_temp(d, want);
    dec_pure(d, op, want, to, from, NO_ROW, NO_ROW);
    return to;
}

u32 dec_src_bytes(struct decoder *d, const struct ptx_operand *o, int bytes, bool is_signed) {
    if (bytes == 1) bytes = 2;
    if (o->negated) dec_fail(d, "a negated operand");
    switch (o->kind) {
    case O_REG:
        return convert_row(d, dec_reg(d, o->reg), dec_reg_bytes(d, o), bytes, is_signed);
    case O_INT:
        return dec_const(d, bytes, (u64)o->value);
    case O_F32:
        if (bytes == 8) {
            float f;
            double v;
            u32 u = (u32)o->value;
            memcpy(&f, &u, 4);
            v = f;
            u64 bits;
            memcpy(&bits, &v, 8);
            return dec_const(d, 8, bits);
        }
        return dec_const(d, bytes, (u64)o->value);
    case O_F64:
        if (bytes == 4) {
            double v;
            memcpy(&v, &o->value, 8);
            float f = (float)v;
            u32 u;
            memcpy(&u, &f, 4);
            return dec_const(d, 4, u);
        }
        return dec_const(d, bytes, (u64)o->value);
    case O_SREG: {
        bool old = d->unguarded;
        int own = strstr(o->name, "64") || !strcmp(o->name, "%gridid") || !strncmp(o->name, "%globaltimer", 12) ? 8 : 4;
        if (!strcmp(o->name, "%globaltimer_lo") || !strcmp(o->name, "%globaltimer_hi")) own = 4;
        u32 to = dec_temp(d, own);
        d->unguarded = true;
        struct ext *x = dec_ext(d, 0);
        x->text = o->name;
        struct insn *in = dec_op(d, op_sreg, x);
        d->unguarded = old;
        in->cls = VM_C_MOVE;
        in->d = to;
        in->dsize = (u8)own;
        static const char *const names[] = {"%tid.x",
                                            "%tid.y",
                                            "%tid.z",
                                            "%ntid.x",
                                            "%ntid.y",
                                            "%ntid.z",
                                            "%ctaid.x",
                                            "%ctaid.y",
                                            "%ctaid.z",
                                            "%nctaid.x",
                                            "%nctaid.y",
                                            "%nctaid.z",
                                            "%laneid",
                                            "%warpid",
                                            "%nwarpid",
                                            "%smid",
                                            "%nsmid",
                                            "%gridid",
                                            "%clock",
                                            "%clock_hi",
                                            "%clock64",
                                            "%globaltimer",
                                            "%globaltimer_lo",
                                            "%globaltimer_hi",
                                            "%lanemask_eq",
                                            "%lanemask_le",
                                            "%lanemask_lt",
                                            "%lanemask_ge",
                                            "%lanemask_gt",
                                            "%clusterid.x",
                                            "%clusterid.y",
                                            "%clusterid.z",
                                            "%nclusterid.x",
                                            "%nclusterid.y",
                                            "%nclusterid.z",
                                            "%cluster_ctaid.x",
                                            "%cluster_ctaid.y",
                                            "%cluster_ctaid.z",
                                            "%cluster_nctaid.x",
                                            "%cluster_nctaid.y",
                                            "%cluster_nctaid.z",
                                            "%cluster_ctarank",
                                            "%cluster_nctarank",
                                            "%is_explicit_cluster",
                                            "%dynamic_smem_size",
                                            "%total_smem_size",
                                            "%aggr_smem_size",
                                            "WARP_SZ",
                                            "%envreg",
                                            "%current_graph_exec",
                                            "%reserved_smem_offset_begin",
                                            "%reserved_smem_offset_end",
                                            "%reserved_smem_offset_cap",
                                            "%reserved_smem_offset_0",
                                            "%reserved_smem_offset_1"};
        int k = 0, n = (int)(sizeof names / sizeof *names);
        while (k < n && strcmp(names[k], o->name)) k++;
        int env, used = 0;
        if (k == n && sscanf(o->name, "%%envreg%d%n", &env, &used) == 1 && !o->name[used] && env >= 0 && env < 32)
            k = SREG_ENV + env;
        else if (k == n)
            dec_fail(d, "unknown register %s", o->name);
        if (!strncmp(o->name, "%reserved_smem_offset", 21)) d->c->reserved_shared = true;
        in->imm = k;
        return convert_row(d, to, own, bytes, false);
    }
    case O_VAR:
    case O_NAME: {
        struct ptx_var *v = dec_variable(d, o);
        if (v) return variable_address(d, o, v, bytes);
        struct ptx_function *f = ptx_function_find(&d->m->text, o->name);
        if (!f) dec_fail(d, "unknown name %s", o->name);
        struct code *c = vm_code_of(d->m, f);
        return dec_const(d, bytes, VM_CODE_BASE + (u64)c->id * 16);
    }
    default:
        dec_fail(d, "an operand of the wrong kind");
    }
}
u32 dec_src(struct decoder *d, const struct ptx_operand *o, enum ptx_type t) {
    return dec_src_bytes(d, o, type_row_bytes(t), ptx_type_is_signed(t) && !ptx_type_is_float(t));
}

u32 dec_pred(struct decoder *d, const struct ptx_operand *o, bool *negated) {
    if (negated) *negated = false;
    if (o->kind == O_INT) return dec_pred_const(d, o->value != 0);
    if (o->kind == O_SREG) { /* %is_explicit_cluster */
        u32 t = dec_temp(d, 0);
        dec_pure(d, ROW_NE_32, 0, t, dec_src_bytes(d, o, 4, false), dec_const(d, 4, 0), NO_ROW);
        return t;
    }
    if (o->kind != O_REG || dec_reg_bytes(d, o) != 0) dec_fail(d, "expected a predicate");
    u32 p = dec_reg(d, o->reg);
    if (!o->negated) return p;
    if (negated) {
        *negated = true;
        return p;
    }
    u32 t = dec_temp(d, 0);
    dec_pure(d, ROW_P_NOT, 0, t, p, NO_ROW, NO_ROW);
    return t;
}

u32 dec_dst_pred(struct decoder *d, const struct ptx_operand *o) {
    if (o->kind == O_SINK) return dec_temp(d, 0);
    if (o->kind != O_REG || dec_reg_bytes(d, o) != 0) dec_fail(d, "expected a predicate as the result");
    return dec_reg(d, o->reg);
}

u32 dec_dst(struct decoder *d, const struct ptx_operand *o, enum ptx_type t) {
    int want = type_row_bytes(t);
    if (o->kind == O_SINK) return dec_temp(d, want);
    if (o->kind != O_REG) dec_fail(d, "the result is no register");
    int have = dec_reg_bytes(d, o);
    if (have == want) return dec_reg(d, o->reg);
    if (have < want || want == 0 || have == 16)
        dec_fail(d, "a result of %d bits into a register of %d", want * 8, have * 8);
    bool sgn = ptx_type_is_signed(t) && !ptx_type_is_float(t);
    u32 tmp = dec_temp(d, want);
    if (d->n_post == 16) dec_fail(d, "too many results");
    d->post[d->n_post].from = tmp;
    d->post[d->n_post].to = dec_reg(d, o->reg);
    d->post[d->n_post].size = (u8)have;
    d->post[d->n_post++].op =
        want == 2 ? (have == 4 ? (sgn ? ROW_SEXT_16_32 : ROW_ZEXT_16_32) : (sgn ? ROW_SEXT_16_64 : ROW_ZEXT_16_64))
                  : (sgn ? ROW_SEXT_32_64 : ROW_ZEXT_32_64);
    return tmp;
}

int dec_vector(struct decoder *d, const struct ptx_operand *o, enum ptx_type t, bool dst, u32 *ops, u8 *sizes,
               int cap) {
    int n = o->kind == O_VEC ? o->n : 1;
    if (n > cap) dec_fail(d, "%d elements, at most %d are expected", n, cap);
    for (int i = 0; i < n; i++) {
        const struct ptx_operand *e = o->kind == O_VEC ? &o->elems[i] : o;
        ops[i] = dst ? dec_dst(d, e, t) : dec_src(d, e, t);
        sizes[i] = (u8)type_row_bytes(t);
    }
    return n;
}

void dec_address(struct decoder *d, const struct ptx_operand *o, struct insn *in, struct ext *x, int space) {
    if (o->kind != O_MEM) dec_fail(d, "expected an address in brackets");
    const struct ptx_operand *base = &o->elems[0];
    in->space = (u8)space;
    if (base->kind == O_REG) {
        int bytes = dec_reg_bytes(d, base);
        if (bytes != 4 && bytes != 8) dec_fail(d, "an address of %d bits", bytes * 8);
        in->a = dec_reg(d, base->reg);
        x->asize = (u8)bytes;
        in->imm = base->value;
    } else if (base->kind == O_INT) {
        in->imm = base->value;
    } else {
        struct ptx_var *v = dec_variable(d, base);
        if (!v) dec_fail(d, "unknown address %s", base->name ? base->name : "");
        in->imm = (s64)v->addr + base->value;
        if (v->space == SP_SHARED && v->is_extern) in->flags |= MEM_DYNAMIC_SHARED;
        if (v->space == SP_LOCAL) in->flags |= MEM_LOCAL_FRAME;
        if (space == SP_GENERIC) in->space = v->space == SP_CONST ? SP_GLOBAL : (u8)v->space;
    }
}

u32 dec_label(struct decoder *d, const struct ptx_operand *o) {
    if (o->kind != O_NAME) dec_fail(d, "expected a label");
    struct ptx_label *l = ptx_label_find(d->f, o->name, o->scope);
    if (!l) dec_fail(d, "no label %s", o->name);
    return (u32)l->at;
}

/* ---- statements ---- */
static const struct opcode *find_opcode(const char *name) {
    const struct opcode *tables[] = {dec_alu_opcodes,    dec_convert_opcodes, dec_memory_opcodes, dec_warp_opcodes,
                                     dec_matrix_opcodes, dec_async_opcodes,   dec_video_opcodes};
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++)
        for (const struct opcode *o = tables[k]; o->name; o++)
            if (!strcmp(o->name, name)) return o;
    return NULL;
}

static void split_opcode(struct decoder *d) {
    size_t n = strlen(d->st->op);
    if (n >= sizeof d->text) dec_fail(d, "the opcode is too long");
    memcpy(d->text, d->st->op, n + 1);
    d->n_parts = 0;
    for (char *s = d->text; s;) {
        char *dot = strchr(s, '.');
        if (dot) *dot++ = 0;
        if (d->n_parts == MAX_PARTS) dec_fail(d, "the opcode has too many parts");
        d->part[d->n_parts++] = s;
        s = dot;
    }
    d->at = 1;
}

static void statement(struct decoder *d) {
    memset(d->used_temps, 0, sizeof d->used_temps);
    d->n_post = 0;
    d->unguarded = false;
    split_opcode(d);
    const struct opcode *o = find_opcode(d->part[0]);
    if (!o) dec_unknown(d);
    d->cls = (u8)o->cls;
    o->decode(d);
    if (d->at != d->n_parts) dec_unknown(d);
    for (int i = 0; i < d->n_post; i++)
        dec_row(d, d->post[i].op, d->post[i].size, d->post[i].to, d->post[i].from, NO_ROW, NO_ROW);
}

/* Replaces row numbers by places in the frame, and labels by instruction numbers. */
static void finish(struct decoder *d, u32 end) {
    struct code *c = d->c;
    for (u32 i = 0; i < c->n; i++) {
        struct insn *in = &c->insns[i];
        if (in->target != NO_TARGET)
            in->target = in->target >= (u32)d->f->n_code ? end : (u32)d->statement_pc[in->target];
        struct ext *x = in->kind == K_OP ? in->ext : NULL;
        for (int k = 0; x && k < x->n_targets; k++)
            x->targets[k] = x->targets[k] >= (u32)d->f->n_code ? end : (u32)d->statement_pc[x->targets[k]];
    }
    vm_find_joins(c);
    u32 *place = arena_new(&d->m->arena, (d->n_rows + 1) * sizeof *place);
    memcpy(place, d->row_bytes, d->n_rows * sizeof *place);
    c->n_preds = 1;
    for (u32 r = 0; r < d->n_rows; r++)
        if (!d->row_bytes[r]) c->n_preds++;
    if (c->n_preds >= GUARD_NOT) dec_fail(d, "more than 32766 predicates in one function");
    vm_compact_rows(c, place, d->n_rows);
#define PLACE(op)                                                                                                      \
    if ((op) != NO_ROW && !((op)&1)) (op) = place[(op) >> 1]
    for (u32 i = 0; i < c->n; i++) {
        struct insn *in = &c->insns[i];
        PLACE(in->d);
        PLACE(in->a);
        PLACE(in->b);
        PLACE(in->c);
        PLACE(in->e);
        if (in->kind == K_ROW || in->kind == K_ROW4) { /* an operand that is not there points at readable memory */
            if (in->a == NO_ROW) in->a = 0;
            if (in->b == NO_ROW) in->b = 0;
            if (in->c == NO_ROW) in->c = 0;
        }
        if (d->guards[i] != NO_ROW) in->guard |= (u16)(place[d->guards[i] >> 1] / 4);
        struct ext *x = in->kind == K_OP ? in->ext : NULL;
        for (int k = 0; x && k < x->n; k++) PLACE(x->ops[k]);
    }
}

void dec_param_move(struct decoder *d, bool load, bool of_call, u32 offset, u32 bytes, u32 r, int row_bytes) {
    struct ext *x = dec_ext(d, 1);
    x->ops[0] = r;
    x->sizes[0] = (u8)row_bytes;
    x->bytes = (u8)bytes;
    struct insn *in = dec_op(d, load ? op_ldparam : op_stparam, x);
    in->cls = VM_C_MOVE;
    in->imm = offset;
    in->flags = of_call;
}

/* A device function's parameters that live in registers, and those whose address is taken: these are copied into local
 * memory, where PTX puts them. */
static void prologue(struct decoder *d) {
    struct ptx_function *f = d->f;
    d->cls = VM_C_MOVE;
    for (int i = 0; i < f->n_params && !f->is_entry; i++) {
        const struct ptx_var *v = f->params[i];
        if (v->space == SP_REG) {
            struct ptx_operand o = {.kind = O_REG, .reg = v->reg};
            dec_param_move(d, true, false, (u32)v->addr, (u32)v->bytes, dec_reg(d, v->reg), dec_reg_bytes(d, &o));
        }
        if (!v->address_taken) continue;
        u32 step = v->align % 8 == 0 && v->bytes % 8 == 0 ? 8 : v->align % 4 == 0 && v->bytes % 4 == 0 ? 4 : 1;
        for (u32 at = 0; at < v->bytes; at += step) {
            memset(d->used_temps, 0, sizeof d->used_temps);
            int size = step == 1 ? 2 : (int)step;
            u32 t = dec_temp(d, size);
            dec_param_move(d, true, false, (u32)v->addr + at, step, t, size);
            struct ext *x = dec_ext(d, 1);
            x->ops[0] = t;
            x->sizes[0] = (u8)size;
            x->bytes = (u8)step;
            struct insn *in = dec_op(d, op_st, x);
            in->space = SP_LOCAL;
            in->imm = (s64)v->copy + at;
            in->flags = MEM_LOCAL_FRAME;
        }
    }
}
static void epilogue(struct decoder *d) { /* results in registers */
    for (int i = 0; i < d->f->n_returns && !d->f->is_entry; i++) {
        const struct ptx_var *v = d->f->returns[i];
        if (v->space != SP_REG) continue;
        struct ptx_operand o = {.kind = O_REG, .reg = v->reg};
        dec_param_move(d, false, false, (u32)v->addr, (u32)v->bytes, dec_reg(d, v->reg), dec_reg_bytes(d, &o));
    }
}

/* Notes the parameters that a statement uses other than as the name of an address. */
static void note_addresses(struct decoder *d, const struct ptx_operand *o) {
    if (o->kind == O_VAR && o->var->space == SP_PARAM && o->var->is_formal) o->var->address_taken = true;
    for (int i = 0; o->kind == O_VEC && i < o->n; i++) note_addresses(d, &o->elems[i]);
}

/* Parameter areas and local memory: offsets of the function's own variables. */
static u32 place_variable(struct ptx_var *v, u32 *at) {
    u32 align = v->align ? v->align : 1;
    u64 off = ((u64)*at + align - 1) & ~(u64)(align - 1);
    v->addr = off;
    u64 end = off + v->bytes;
    *at = end > 1u << 30 ? 1u << 30 : (u32)end;
    return *at;
}

static void layout(struct decoder *d) {
    struct ptx_function *f = d->f;
    struct code *c = d->c;
    u32 at = 0;
    for (int i = 0; i < f->n_params; i++) place_variable(f->params[i], &at);
    for (int i = 0; i < f->n_returns; i++) place_variable(f->returns[i], &at);
    c->formal_bytes = (at + 15) & ~15u;
    u32 args = 0, local = 0;
    for (int i = 0; i < f->n_locals; i++) {
        struct ptx_var *v = f->locals[i];
        if (v->space == SP_PARAM) place_variable(v, &args);
        if (v->space == SP_LOCAL) {
            place_variable(v, &local);
            local += 16; /* a red zone */
        }
    }
    for (int i = 0; i < f->n_code && !f->is_entry; i++)
        for (int k = 0; k < f->code[i].n; k++) note_addresses(d, &f->code[i].operands[k]);
    for (int i = 0; i < f->n_params; i++) {
        struct ptx_var *v = f->params[i];
        if (v->space == SP_REG && !v->bytes) dec_fail(d, "a parameter that is a predicate");
        if (!v->address_taken) continue;
        u64 offset = v->addr; /* place_variable puts it into the local area */
        v->copy = place_variable(v, &local) - v->bytes;
        v->addr = offset;
        local += 16;
    }
    c->args_bytes = d->args_base = (args + 15) & ~15u;
    c->local_bytes = (local + 15) & ~15u;
    if (c->args_bytes > 1u << 20 || c->formal_bytes > 1u << 20) dec_fail(d, "more than 1 MiB of parameters");
    if (c->local_bytes > 512u << 10) dec_fail(d, "more than 512 KiB of local memory");
}

bool vm_decode(struct vm_module *m, struct code *c, struct err *e) {
    if (c->decoded) return true;
    struct ptx_function *f = c->f;
    struct decoder *d = arena_new(&m->arena, sizeof *d);
    d->m = m, d->c = c, d->f = f, d->e = e;
    c->n = 0;
    if (setjmp(d->out)) {
        mem_free(d->guards);
        mem_free(c->insns);
        mem_free(c->pool);
        c->insns = NULL, c->pool = NULL;
        c->n = c->cap = c->pool_bytes = c->pool_cap = 0;
        c->failed = true;
        return false;
    }
    if (!f->has_body) dec_fail(d, "it is declared but not defined in this module");
    d->reg_row = arena_new(&m->arena, (size_t)(f->n_regs + 1) * sizeof *d->reg_row);
    d->statement_pc = arena_new(&m->arena, (size_t)(f->n_code + 1) * sizeof *d->statement_pc);
    u8 *is_target = arena_new(&m->arena, (size_t)f->n_code + 1);
    for (int b = 0; b < PTX_BUCKETS; b++)
        for (struct ptx_label *l = f->labels[b]; l; l = l->next) is_target[l->at] = 1;
    layout(d);
    prologue(d);
    for (int i = 0; i < f->n_code; i++) {
        d->st = &f->code[i];
        d->statement_pc[i] = (int)c->n;
        if (is_target[i]) { /* a place where splits may meet */
            d->unguarded = true;
            d->cls = VM_C_CONTROL;
            dec_emit(d, K_JOIN);
        }
        statement(d);
    }
    d->st = NULL;
    u32 end = c->n;
    d->cls = VM_C_CONTROL;
    dec_emit(d, K_JOIN);
    epilogue(d);
    dec_op(d, f->is_entry ? op_exit : op_ret, NULL);
    finish(d, end);
    c->decoded = true;
    mem_free(d->guards);
    return true;
}
