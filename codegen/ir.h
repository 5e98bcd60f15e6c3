/* ir: the flat IR in memory: modules, functions, blocks, operations, values. The text form and the meaning of every
 * operation are in docs/ir.md; this header adds only how it is held.
 *
 * Ownership: everything of a module lives in its arena and dies with ir_free. Operations of a block are a doubly linked
 * list, so that passes insert, move and unlink in constant time. A value is an index into func->values; index 0 is no
 * value. Names (%N) are kept, so that printing a parsed module gives the same bytes.
 */
#ifndef KGEN_IR_H
#define KGEN_IR_H

#include "codegen/base.h"

#include <stdio.h>

/* Limits: what the parser accepts and the verifier enforces. They bound time and memory on hostile text. */
enum {
    IR_MAX_LANES = 128,
    IR_MAX_DEPTH = 64,      /* nested for/if */
    IR_MAX_CARRIES = 512,   /* of one for */
    IR_MAX_OPS = 1 << 18,   /* of one module */
    IR_MAX_FUNCS = 4096,    /* of one module */
    IR_MAX_NAME = 200,      /* bytes of a function name */
    IR_MAX_INDEX = 1023,    /* arg and dim */
    IR_MAX_ALIGN = 4096,    /* bytes */
    IR_MAX_STACK = 1 << 20, /* bytes, all `stack` of one function */
    IR_MAX_VALUE = 1 << 30, /* N of %N */
    IR_MAX_SPLIT = 1024,    /* parts of a split for */
    IR_MAX_ROW = 1 << 24,   /* bytes from row to row of a tiledot's A */
};
#define IR_MAX_OFFSET ((int64_t)1 << 47) /* |C| of load and store */

enum ir_scalar { IR_NONE, IR_I1, IR_I8, IR_I16, IR_I32, IR_I64, IR_F16, IR_F32, IR_PTR, IR_N_SCALARS };

/* lanes is 1 for a scalar, a power of two from 2 to 128 for a vector. {IR_NONE, 0} is "no result". */
struct ir_type {
    uint8_t scalar, lanes;
};

/* What stands after the operands in the text, and lives in op->imm (and align, inv, lanes). */
enum ir_imm {
    IMM_NONE,
    IMM_K,     /* a small index */
    IMM_LANES, /* shuffle's lane list */
    IMM_CONST, /* a constant; imm holds the bits, zero-extended */
    IMM_STACK, /* BYTES align A */
    IMM_UMAX,  /* umax=M */
    IMM_MMA,   /* a shape's name; imm is its row in ir_mma_shapes */
    IMM_TILE,  /* a shape's name, imm being its row in ir_tile_shapes, and stride N */
    IMM_MEM,   /* C align A, stride N where lanes are not neighbours, and inv for a load */
    IMM_COPY,  /* ROWS rows BYTES stride S: imm, align and stride */
    IMM_FOR,
};

enum ir_effect {
    EFF_PURE,  /* depends on its operands only and cannot trap: may be merged, moved, dropped */
    EFF_TRAP,  /* as pure, but traps on a bad operand: may be merged and dropped, never moved to where it did not run */
    EFF_ALLOC, /* stack, shared: fresh each time, so never merged */
    EFF_READ,  /* load, gather, ldmatrix: as trap when `inv` */
    EFF_WRITE, /* store, storem, scatter, tiledot, copy, wait, prefetch */
    EFF_CTRL,  /* for, if, yield */
};

/* The type rule, checked by ir_verify.c. T is the result type. */
enum ir_rule {
    RULE_PTR,      /* T = ptr */
    RULE_I64,      /* T = i64 */
    RULE_CONST,    /* T anything but ptr */
    RULE_IOTA,     /* T a vector of i8..i64 */
    RULE_SPLAT,    /* T a vector, operand its scalar */
    RULE_EXTRACT,  /* T a scalar, operand a vector of it, K a lane */
    RULE_CONCAT,   /* operands have half of T's lanes */
    RULE_SLICE,    /* operand a longer vector, K + N within it */
    RULE_SHUFFLE,  /* operand a vector of T's scalar, N lane numbers within it */
    RULE_INT,      /* all T, i8..i64 */
    RULE_LOGIC,    /* all T, i1..i64 */
    RULE_ICMP,     /* T = i1 with the operands' lanes; operands share i1..i64 */
    RULE_FCMP,     /* T = i1 with the operands' lanes; operands share f32 */
    RULE_SELECT,   /* condition i1, scalar or of T's lanes; the rest T */
    RULE_FLOAT,    /* all T, f32 */
    RULE_FPEXT,    /* f16 -> f32, equal lanes */
    RULE_FPTRUNC,  /* f32 -> f16 */
    RULE_SITOFP,   /* i32 -> f32 */
    RULE_FPTOSI,   /* f32 -> i32 */
    RULE_WIDEN,    /* integer to a wider integer, equal lanes */
    RULE_NARROW,   /* integer to a narrower integer */
    RULE_BITCAST,  /* no ptr; equal total bits */
    RULE_DOT4,     /* all T = i32xN, 1 <= umax <= 255 */
    RULE_DOT2,     /* all T = i32, i32xN */
    RULE_PAIR,     /* T = i32, operands f32 of its lanes */
    RULE_TOBF,     /* f32 -> i16, equal lanes */
    RULE_DOTBF,    /* T and acc f32; a and b: i32 of its lanes */
    RULE_MMA,      /* T and c: the shape's accumulators; a and b: its words */
    RULE_REDUCE,   /* T = operand's scalar: i8..i64, f32 */
    RULE_LOAD,     /* T not i1; ptr, i64 */
    RULE_STORE,    /* value not i1; ptr, i64 */
    RULE_STOREM,   /* vector value, i1 mask of its lanes, ptr, i64 */
    RULE_PREFETCH, /* ptr, i64 */
    RULE_GATHER,   /* T a vector, not i1; ptr, i64, i32 of T's lanes */
    RULE_SCATTER,  /* vector value, i1 mask, ptr, i64, i32 of its lanes */
    RULE_LDMATRIX, /* T = i32x32, x64 or x128; ptr, i64, i32x32 */
    RULE_TILE,     /* ptr, i64 three times; the stride a row of A at least */
    RULE_COPY,     /* ptr, i64, ptr, i64, i64; rows of whole 16 bytes */
    RULE_WAIT,     /* nothing */
    RULE_FOR,      /* i64 bounds, carries */
    RULE_IF,       /* scalar i1 */
    RULE_YIELD,    /* the carries' types, last in its block */
};

/* The one table of operations:  X(enumerator, text, operands, immediate, rule, effect).
 * Operands -1: variable (for: lo, hi, inits; yield: one per carry). */
#define IR_OPS(X)                                                                                                      \
    X(ARG, "arg", 0, IMM_K, RULE_PTR, EFF_PURE)                                                                        \
    X(DIM, "dim", 0, IMM_K, RULE_I64, EFF_PURE)                                                                        \
    X(BEGIN, "begin", 0, IMM_NONE, RULE_I64, EFF_PURE)                                                                 \
    X(END, "end", 0, IMM_NONE, RULE_I64, EFF_PURE)                                                                     \
    X(WS, "ws", 0, IMM_NONE, RULE_PTR, EFF_PURE)                                                                       \
    X(STACK, "stack", 0, IMM_STACK, RULE_PTR, EFF_ALLOC)                                                               \
    X(SHARED, "shared", 0, IMM_STACK, RULE_PTR, EFF_ALLOC)                                                             \
    X(CONST, "const", 0, IMM_CONST, RULE_CONST, EFF_PURE)                                                              \
    X(IOTA, "iota", 0, IMM_NONE, RULE_IOTA, EFF_PURE)                                                                  \
    X(SPLAT, "splat", 1, IMM_NONE, RULE_SPLAT, EFF_PURE)                                                               \
    X(EXTRACT, "extract", 1, IMM_K, RULE_EXTRACT, EFF_PURE)                                                            \
    X(CONCAT, "concat", 2, IMM_NONE, RULE_CONCAT, EFF_PURE)                                                            \
    X(SLICE, "slice", 1, IMM_K, RULE_SLICE, EFF_PURE)                                                                  \
    X(SHUFFLE, "shuffle", 1, IMM_LANES, RULE_SHUFFLE, EFF_PURE)                                                        \
    X(ADD, "add", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                     \
    X(SUB, "sub", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                     \
    X(MUL, "mul", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                     \
    X(AND, "and", 2, IMM_NONE, RULE_LOGIC, EFF_PURE)                                                                   \
    X(OR, "or", 2, IMM_NONE, RULE_LOGIC, EFF_PURE)                                                                     \
    X(XOR, "xor", 2, IMM_NONE, RULE_LOGIC, EFF_PURE)                                                                   \
    X(SHL, "shl", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                     \
    X(LSHR, "lshr", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                   \
    X(ASHR, "ashr", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                   \
    X(UDIV, "udiv", 2, IMM_NONE, RULE_INT, EFF_TRAP)                                                                   \
    X(UREM, "urem", 2, IMM_NONE, RULE_INT, EFF_TRAP)                                                                   \
    X(SMIN, "smin", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                   \
    X(SMAX, "smax", 2, IMM_NONE, RULE_INT, EFF_PURE)                                                                   \
    X(IEQ, "ieq", 2, IMM_NONE, RULE_ICMP, EFF_PURE)                                                                    \
    X(INE, "ine", 2, IMM_NONE, RULE_ICMP, EFF_PURE)                                                                    \
    X(ILT, "ilt", 2, IMM_NONE, RULE_ICMP, EFF_PURE)                                                                    \
    X(ILE, "ile", 2, IMM_NONE, RULE_ICMP, EFF_PURE)                                                                    \
    X(FEQ, "feq", 2, IMM_NONE, RULE_FCMP, EFF_PURE)                                                                    \
    X(FLT, "flt", 2, IMM_NONE, RULE_FCMP, EFF_PURE)                                                                    \
    X(FLE, "fle", 2, IMM_NONE, RULE_FCMP, EFF_PURE)                                                                    \
    X(SELECT, "select", 3, IMM_NONE, RULE_SELECT, EFF_PURE)                                                            \
    X(FADD, "fadd", 2, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FSUB, "fsub", 2, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FMUL, "fmul", 2, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FDIV, "fdiv", 2, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FMIN, "fmin", 2, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FMAX, "fmax", 2, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FMA, "fma", 3, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                   \
    X(FNEG, "fneg", 1, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FABS, "fabs", 1, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                                 \
    X(FSQRT, "fsqrt", 1, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                               \
    X(FRINT, "frint", 1, IMM_NONE, RULE_FLOAT, EFF_PURE)                                                               \
    X(FPEXT, "fpext", 1, IMM_NONE, RULE_FPEXT, EFF_PURE)                                                               \
    X(FPTRUNC, "fptrunc", 1, IMM_NONE, RULE_FPTRUNC, EFF_PURE)                                                         \
    X(SITOFP, "sitofp", 1, IMM_NONE, RULE_SITOFP, EFF_PURE)                                                            \
    X(FPTOSI, "fptosi", 1, IMM_NONE, RULE_FPTOSI, EFF_PURE)                                                            \
    X(ZEXT, "zext", 1, IMM_NONE, RULE_WIDEN, EFF_PURE)                                                                 \
    X(SEXT, "sext", 1, IMM_NONE, RULE_WIDEN, EFF_PURE)                                                                 \
    X(TRUNC, "trunc", 1, IMM_NONE, RULE_NARROW, EFF_PURE)                                                              \
    X(BITCAST, "bitcast", 1, IMM_NONE, RULE_BITCAST, EFF_PURE)                                                         \
    X(DOT4, "dot4", 3, IMM_UMAX, RULE_DOT4, EFF_PURE)                                                                  \
    X(DOT2, "dot2", 3, IMM_NONE, RULE_DOT2, EFF_PURE)                                                                  \
    X(PAIR_F16, "pair_f16", 2, IMM_NONE, RULE_PAIR, EFF_PURE)                                                          \
    X(PAIR_BF16, "pair_bf16", 2, IMM_NONE, RULE_PAIR, EFF_PURE)                                                        \
    X(TOBF, "tobf", 1, IMM_NONE, RULE_TOBF, EFF_PURE)                                                                  \
    X(DOTBF, "dotbf", 3, IMM_NONE, RULE_DOTBF, EFF_PURE)                                                               \
    X(MMA, "mma", 3, IMM_MMA, RULE_MMA, EFF_PURE)                                                                      \
    X(HSUM, "hsum", 1, IMM_NONE, RULE_REDUCE, EFF_PURE)                                                                \
    X(HMAX, "hmax", 1, IMM_NONE, RULE_REDUCE, EFF_PURE)                                                                \
    X(LOAD, "load", 2, IMM_MEM, RULE_LOAD, EFF_READ)                                                                   \
    X(GATHER, "gather", 3, IMM_MEM, RULE_GATHER, EFF_READ)                                                             \
    X(LDMATRIX, "ldmatrix", 3, IMM_MEM, RULE_LDMATRIX, EFF_READ)                                                       \
    X(LDMATRIX_T, "ldmatrix_t", 3, IMM_MEM, RULE_LDMATRIX, EFF_READ)                                                   \
    X(STORE, "store", 3, IMM_MEM, RULE_STORE, EFF_WRITE)                                                               \
    X(STOREM, "storem", 4, IMM_MEM, RULE_STOREM, EFF_WRITE)                                                            \
    X(SCATTER, "scatter", 5, IMM_MEM, RULE_SCATTER, EFF_WRITE)                                                         \
    X(PREFETCH, "prefetch", 2, IMM_MEM, RULE_PREFETCH, EFF_WRITE)                                                      \
    X(TILEDOT, "tiledot", 6, IMM_TILE, RULE_TILE, EFF_WRITE)                                                           \
    X(COPY, "copy", 5, IMM_COPY, RULE_COPY, EFF_WRITE)                                                                 \
    X(WAIT, "wait", 0, IMM_K, RULE_WAIT, EFF_WRITE)                                                                    \
    X(FOR, "for", -1, IMM_FOR, RULE_FOR, EFF_CTRL)                                                                     \
    X(IF, "if", 1, IMM_NONE, RULE_IF, EFF_CTRL)                                                                        \
    X(YIELD, "yield", -1, IMM_NONE, RULE_YIELD, EFF_CTRL)

/* Products of matrix tiles (mma): C[m][n] += A[m][k] . B[n][k]. A 32-bit word of A or B holds `per` elements adjacent
 * in k, the first lowest. Which lane holds what (docs/ir.md): rows go in eights, four words or two pairs of columns
 * beside each other, so that 32 lanes are what a warp's threads hold in one register of mma.sync (PTX ISA, "Warp-level
 * matrix instructions"). X(enumerator, text, m, n, k, per, scalar of C) */
#define IR_MMA_SHAPES(X)                                                                                               \
    X(M16N8K32_U8S8, "m16n8k32.u8s8", 16, 8, 32, 4, IR_I32)                                                            \
    X(M16N8K16_U8S8, "m16n8k16.u8s8", 16, 8, 16, 4, IR_I32)                                                            \
    X(M16N8K16_F16, "m16n8k16.f16", 16, 8, 16, 2, IR_F32)                                                              \
    X(M16N8K16_BF16, "m16n8k16.bf16", 16, 8, 16, 2, IR_F32)

enum ir_mma {
#define X(NAME, ...) IR_MMA_##NAME,
    IR_MMA_SHAPES(X)
#undef X
        IR_N_MMA
};

struct ir_mma_shape {
    const char *name;
    uint8_t m, n, k, per, acc; /* acc: enum ir_scalar */
};
extern const struct ir_mma_shape ir_mma_shapes[IR_N_MMA];

/* The lanes that hold C[i][j], and word w (of k / per) of row i of A and of row j of B. */
static inline unsigned ir_mma_lane_c(unsigned i, unsigned j) {
    return 32 * (i / 8 * 2 + j % 2) + 4 * (i % 8) + j / 2;
}
static inline unsigned ir_mma_lane_a(const struct ir_mma_shape *s, unsigned i, unsigned w) {
    return 32 * (i / 8 + w / 4 * (s->m / 8)) + 4 * (i % 8) + w % 4;
}
static inline unsigned ir_mma_lane_b(unsigned j, unsigned w) {
    return 32 * (w / 4) + 4 * j + w % 4;
}

/* Products of tiles in memory (tiledot): C[16][16] = A[16][k] . B[k/4][16][4], 32-bit integers from signed bytes by
 * unsigned or signed ones: what a tile register holds of each (Intel 64 and IA-32 Architectures Software Developer's
 * Manual, volume 1, chapter 18). X(enumerator, text, k, whether B is signed) */
#define IR_TILE_SHAPES(X)                                                                                              \
    X(K16_S8U8, "m16n16k16.s8u8", 16, false)                                                                           \
    X(K32_S8U8, "m16n16k32.s8u8", 32, false)                                                                           \
    X(K64_S8U8, "m16n16k64.s8u8", 64, false)                                                                           \
    X(K16_S8S8, "m16n16k16.s8s8", 16, true)                                                                            \
    X(K32_S8S8, "m16n16k32.s8s8", 32, true)                                                                            \
    X(K64_S8S8, "m16n16k64.s8s8", 64, true)

enum ir_tile {
#define X(NAME, ...) IR_TILE_##NAME,
    IR_TILE_SHAPES(X)
#undef X
        IR_N_TILE
};

struct ir_tile_shape {
    const char *name;
    uint8_t k;
    bool b_signed;
};
extern const struct ir_tile_shape ir_tile_shapes[IR_N_TILE];
enum { IR_TILE_ROWS = 16, IR_TILE_COLUMNS = 16 };

enum ir_opcode {
#define X(NAME, ...) IR_##NAME,
    IR_OPS(X)
#undef X
        IR_N_OPS
};

struct ir_op_info {
    const char *name;
    int n_operands;
    enum ir_imm imm;
    enum ir_rule rule;
    enum ir_effect effect;
};
extern const struct ir_op_info ir_op_info[IR_N_OPS];

typedef uint32_t ir_value; /* index into func->values; 0: none */

struct ir_value_info {
    uint32_t name; /* N of %N */
    struct ir_type type;
    struct ir_op *def; /* a for for its index, carries and results */
};

/* Operands, per opcode:
 *   load: base, offset          store: value, base, offset          storem: value, mask, base, offset
 *   gather: base, offset, lanes' offsets                            scatter: value, mask, base, offset, lanes' offsets
 *   tiledot: base and offset of C, of A, of B
 *   ldmatrix: base, offset, rows' offsets                           copy: destination, offset, source, offset, rows
 *   for: lo, hi, init...        if: condition                       yield: one value per carry
 *   everything else: as written.
 * results: one value, none (store, storem, scatter, tiledot, copy, wait, prefetch, if, yield), or a for's carries' last
 * values.
 * inner (for only): the index, then the carries, as seen by the body.
 * A split for with carries has a second block, merge; pair: the states of two parts as seen by it, the lower one's
 * first. */
struct ir_op {
    enum ir_opcode code;
    struct ir_type type; /* result type; {0,0} when none or for */
    uint32_t line;       /* of the text it came from; 0 when made by a pass */
    uint32_t n_args, n_results;
    uint32_t align;
    uint32_t stride; /* of load, store, storem: bytes from lane to lane, 0: neighbours; of tiledot's A, copy: of rows */
    uint32_t split;  /* of a for: its parts; 0: not split */
    bool inv; /* load, gather: the memory does not change while the function runs; arg: between launches neither */
    int64_t imm; /* see enum ir_imm; a for's step */
    ir_value *args, *results, *inner, *pair;
    uint8_t *lanes; /* shuffle: type.lanes lane numbers */
    struct ir_block *body, *merge, *block;
    struct ir_op *prev, *next;
};

struct ir_block {
    struct ir_op *first, *last;
    struct ir_op *owner; /* the for or if; NULL for a function's body */
};

struct ir_func {
    struct ir_func *next;
    struct arena *arena;
    const char *name; /* without the @ */
    struct ir_block *body;
    struct ir_value_info *values; /* [1 .. n_values-1] */
    uint32_t n_values, cap_values, max_name;
    uint32_t line;
};

struct ir_module {
    struct arena arena;
    struct ir_func *first, *last;
};

/* Parses text[0..len) (need not be NUL-terminated). On success *out is a module the caller frees with ir_free; the text
 * is not referenced. Names are resolved and scopes checked here; types are ir_verify's. On failure *e names the line.
 */
bool ir_parse(const char *text, size_t len, struct ir_module **out, struct err *e);
void ir_free(struct ir_module *m);

void ir_print(const struct ir_module *m, struct buf *out);
void ir_print_func(const struct ir_func *f, struct buf *out);
void ir_print_type(struct ir_type t, struct buf *out);

/* Checks every rule of docs/ir.md. *e names function, line, operation, and what was expected. */
bool ir_verify(const struct ir_module *m, struct err *e);
bool ir_verify_func(const struct ir_func *f, struct err *e);

/* Building and editing (the parser and the passes use these). */
struct ir_func *ir_func_new(struct ir_module *m, const char *name, size_t n);
ir_value ir_value_new(struct ir_func *f, struct ir_type t, uint32_t name, struct ir_op *def); /* name 0: a fresh one */
struct ir_op *ir_op_new(struct ir_func *f, enum ir_opcode code, uint32_t n_args);             /* not yet in a block */
struct ir_block *ir_block_new(struct ir_func *f, struct ir_op *owner);
void ir_append(struct ir_block *b, struct ir_op *op);
void ir_insert_before(struct ir_op *where, struct ir_op *op);
void ir_unlink(struct ir_op *op);

static inline struct ir_type ir_type_of(enum ir_scalar s, unsigned lanes) {
    return (struct ir_type){(uint8_t)s, (uint8_t)lanes};
}
static inline bool ir_type_eq(struct ir_type a, struct ir_type b) {
    return a.scalar == b.scalar && a.lanes == b.lanes;
}
static inline struct ir_type ir_type_lane(struct ir_type t) {
    return ir_type_of(t.scalar, 1);
}
static inline bool ir_is_int(struct ir_type t) {
    return t.scalar >= IR_I1 && t.scalar <= IR_I64;
}
unsigned ir_scalar_bits(enum ir_scalar s);            /* i1 is 1; ptr is 64 */
int64_t ir_sign_extend(int64_t bits, unsigned width); /* the low `width` bits as a signed number */
static inline uint64_t ir_mask(unsigned width) {
    return width == 64 ? ~0ull : (1ull << width) - 1;
}

#endif
