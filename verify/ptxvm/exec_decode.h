/* What the parts of the decoder share: emitting instructions, and turning PTX operands into rows.
 *
 * While a function is decoded an operand is a row number << 1, or an offset in the pool of constants | 1; when all is
 * decoded, vm_compact_rows gives every row its place in the frame. */
#ifndef KGEN_PTXVM_DECODE_H
#define KGEN_PTXVM_DECODE_H

#include "verify/ptxvm/machine.h"
#include <setjmp.h>

enum { MAX_PARTS = 40, MAX_TEMPS = 160 };

struct decoder {
    struct vm_module *m;
    struct code *c;
    struct ptx_function *f;
    const struct ptx_statement *st;
    const char *part[MAX_PARTS]; /* the opcode's pieces, between the dots */
    int n_parts, at;
    char text[512];
    struct err *e;
    jmp_buf out;
    u32 *reg_row;   /* PTX register -> row + 1 */
    u32 *row_bytes; /* element size of each row */
    u32 n_rows, cap_rows;
    u32 *guards; /* of each instruction: its predicate's row, NO_ROW for none */
    u32 cap_guards;
    u32 temps[5][MAX_TEMPS]; /* by size; reused from statement to statement */
    int n_temps[5], used_temps[5];
    u32 consts[4096]; /* hash of the pool's rows: offset + 1 */
    u8 cls;
    bool unguarded;
    struct {
        u32 from, to;
        int op;
        u8 size;
    } post[16]; /* widening of results, after the instruction */
    int n_post;
    int *statement_pc;
    u32 args_base; /* .param variables of the function's own; behind them, values that calls pass in registers */
};

_Noreturn void dec_fail(struct decoder *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void dec_unknown(struct decoder *d);
bool dec_take(struct decoder *d, const char *word); /* the next part, when it is this */
bool dec_peek(const struct decoder *d, const char *word);
enum ptx_type dec_type(struct decoder *d);              /* the next part as a type */
enum ptx_type dec_type_if(struct decoder *d);           /* PT_NONE when it is none */
int dec_rounding(struct decoder *d);                    /* takes .rn .rz .rm .rp: 0 3 1 2; -1 when there is none */
void dec_count(struct decoder *d, int least, int most); /* operands */
const struct ptx_operand *dec_operand(struct decoder *d, int i);

u32 dec_temp(struct decoder *d, int bytes);
u32 dec_const(struct decoder *d, int bytes, u64 value);
u32 dec_pred_const(struct decoder *d, bool value);
u32 dec_src(struct decoder *d, const struct ptx_operand *o, enum ptx_type t);
u32 dec_src_bytes(struct decoder *d, const struct ptx_operand *o, int bytes, bool is_signed);
u32 dec_pred(struct decoder *d, const struct ptx_operand *o, bool *negated); /* negated NULL: folded into a temporary */
u32 dec_dst(struct decoder *d, const struct ptx_operand *o, enum ptx_type t);
u32 dec_dst_pred(struct decoder *d, const struct ptx_operand *o);
int dec_reg_bytes(const struct decoder *d, const struct ptx_operand *o);
u32 dec_reg(struct decoder *d, int reg);
bool dec_constant(const struct ptx_operand *o, s64 *v);

struct insn *dec_emit(struct decoder *d, int kind);
struct insn *dec_row(struct decoder *d, int op, int dsize, u32 to, u32 a, u32 b,
                     u32 c); /* guarded like the statement */
struct insn *dec_pure(struct decoder *d, int op, int dsize, u32 to, u32 a, u32 b, u32 c); /* always executed */
struct insn *dec_float(struct decoder *d, int op, int dsize, u32 to, u32 a, u32 b, u32 c, int fp);
struct insn *dec_op(struct decoder *d, op_fn op, struct ext *x);
struct ext *dec_ext(struct decoder *d, int n_ops);
/* Rows of a vector operand or of a single one, as sources or destinations of type t; returns how many. */
int dec_vector(struct decoder *d, const struct ptx_operand *o, enum ptx_type t, bool dst, u32 *ops, u8 *sizes, int cap);
/* The address operand: in->a, in->imm, x->asize and in->flags (MEM_…). */
enum { MEM_DYNAMIC_SHARED = 1, MEM_LOCAL_FRAME = 2 };
/* A value between a row and parameter memory: the function's own, or (of_call) that of its calls. */
void dec_param_move(struct decoder *d, bool load, bool of_call, u32 offset, u32 bytes, u32 r, int row_bytes);
void dec_address(struct decoder *d, const struct ptx_operand *o, struct insn *in, struct ext *x, int space);
struct ptx_var *dec_variable(struct decoder *d,
                             const struct ptx_operand *o);     /* resolves O_VAR and O_NAME; NULL: no variable */
u32 dec_label(struct decoder *d, const struct ptx_operand *o); /* number of the statement */

#define BY_SIZE(NAME, bytes) ((bytes) == 2 ? ROW_##NAME##_16 : (bytes) == 4 ? ROW_##NAME##_32 : ROW_##NAME##_64)
#define BY_TYPE(NAME, bytes, sgn)                                                                                      \
    ((bytes) == 2   ? ((sgn) ? ROW_##NAME##_S16 : ROW_##NAME##_U16)                                                    \
     : (bytes) == 4 ? ((sgn) ? ROW_##NAME##_S32 : ROW_##NAME##_U32)                                                    \
                    : ((sgn) ? ROW_##NAME##_S64 : ROW_##NAME##_U64))
#define BY_HALF(NAME, t)                                                                                               \
    ((t) == PT_F16     ? ROW_##NAME##_F16                                                                              \
     : (t) == PT_F16X2 ? ROW_##NAME##_F16X2                                                                            \
     : (t) == PT_BF16  ? ROW_##NAME##_BF16                                                                             \
                       : ROW_##NAME##_BF16X2)
static inline bool type_is_half(enum ptx_type t) {
    return t == PT_F16 || t == PT_F16X2 || t == PT_BF16 || t == PT_BF16X2;
}

void dec_store_async(struct decoder *d, bool reduce); /* st.async, red.async, after those words */

struct opcode {
    const char *name;
    void (*decode)(struct decoder *d);
    enum vm_class cls;
};
extern const struct opcode dec_alu_opcodes[], dec_convert_opcodes[], dec_memory_opcodes[], dec_warp_opcodes[],
    dec_matrix_opcodes[], dec_async_opcodes[], dec_video_opcodes[];

#endif
