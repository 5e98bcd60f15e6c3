/* ptx: the parsed form of PTX text.
 *
 * The parser resolves declarations (registers, variables, nested scopes) and leaves instructions as text: which
 * instructions exist is the decoder's business (exec_decode*.c), and it looks only at functions that are looked up. All
 * of it lives in one arena, owned by the module.
 */
#ifndef KGEN_PTXVM_PTX_H
#define KGEN_PTXVM_PTX_H

#include "codegen/base.h"

enum ptx_type {
    PT_NONE,
    PT_PRED,
    PT_U8,
    PT_U16,
    PT_U32,
    PT_U64,
    PT_S8,
    PT_S16,
    PT_S32,
    PT_S64,
    PT_B8,
    PT_B16,
    PT_B32,
    PT_B64,
    PT_B128,
    PT_F16,
    PT_F16X2,
    PT_BF16,
    PT_BF16X2,
    PT_F32,
    PT_F64,
    PT_TF32,
    PT_U16X2,
    PT_S16X2,
    PT_E4M3,
    PT_E5M2,
    PT_E4M3X2,
    PT_E5M2X2,
    PT_S4,
    PT_U4,
    PT_B1,
    PT_E2M1X2,
    PT_E2M3X2,
    PT_E3M2X2,
    PT_UE8M0X2,
    PT_F32X2,
    PT_S2,
    PT_U2,
    PT_E2M1X4,
    PT_E2M3X4,
    PT_E3M2X4,
    PT_E4M3X4,
    PT_E5M2X4,
    PT_E2M1_BYTE, /* has no name in PTX: e2m1 in the middle of a byte, as mma's kinds of mixed formats hold it */
    PT_COUNT
};
int ptx_type_bytes(enum ptx_type t); /* 0 for predicates */
bool ptx_type_is_signed(enum ptx_type t);
bool ptx_type_is_float(enum ptx_type t);
enum ptx_type ptx_type_named(const char *s, size_t n); /* PT_NONE when it is no type */

enum ptx_space { SP_REG, SP_GENERIC, SP_GLOBAL, SP_SHARED, SP_LOCAL, SP_CONST, SP_PARAM, SP_TEXREF };

struct ptx_reloc {
    uint64_t off;
    const char *symbol;
    int64_t addend;
    int bytes;
    struct ptx_reloc *next;
};

struct ptx_var {
    const char *name;
    enum ptx_space space;
    enum ptx_type type;
    uint64_t bytes; /* 0: unsized extern array */
    uint32_t align;
    uint32_t line;
    bool is_extern, is_formal, is_return;
    unsigned char *init; /* init_bytes of them, rest zero */
    uint64_t init_bytes;
    struct ptx_reloc *relocs;
    uint64_t addr; /* global, const: device address; others: offset in their space, set by the layout */
    struct ptx_function *owner;
    int reg;            /* a formal in register space: its register, else -1 */
    bool address_taken; /* a device function's parameter: copied to `copy` in local memory */
    uint64_t copy;
    struct ptx_var *next; /* hash chain of module variables */
};

enum ptx_operand_kind {
    O_REG,
    O_INT,
    O_F32,
    O_F64,
    O_VAR,
    O_NAME,
    O_SREG,
    O_VEC,
    O_MEM,
    O_LIST,
    O_PAIR,
    O_SINK,
    O_SELECT /* a register with a selector (%r1.b0) or a minus, of video instructions */
};
struct ptx_operand {
    enum ptx_operand_kind kind;
    bool negated;     /* !p, or -r of O_SELECT */
    int reg;          /* O_REG, O_SELECT */
    int64_t value;    /* O_INT; bits of O_F32 and O_F64; offset of O_VAR and O_MEM */
    const char *name; /* O_NAME, O_SREG; the selector of O_SELECT, "" for none */
    int scope;        /* O_NAME */
    struct ptx_var *var;
    struct ptx_operand *elems; /* O_VEC, O_LIST, O_PAIR; O_MEM: the base, then the coordinates if any */
    int n;
};

struct ptx_statement {
    uint32_t line;
    int guard; /* register, -1 for none */
    bool guard_negated;
    const char *op; /* "mad.lo.s32" */
    struct ptx_operand *operands;
    int n;
};

struct ptx_label {
    const char *name;
    int scope, at;               /* index of a statement */
    struct ptx_operand *targets; /* .branchtargets and .calltargets: a list instead */
    int n_targets;
    struct ptx_label *next;
};

struct ptx_reg {
    enum ptx_type type;
    const char *name;
};

#define PTX_BUCKETS 256
struct ptx_function {
    const char *name;
    bool is_entry, has_body, is_extern, noreturn;
    uint32_t line;
    struct ptx_var **params; /* formals, returns not among them */
    int n_params;
    struct ptx_var **returns;
    int n_returns;
    struct ptx_var **locals; /* .shared, .local and .param variables declared in the body */
    int n_locals, cap_locals;
    struct ptx_reg *regs;
    int n_regs, cap_regs;
    struct ptx_statement *code;
    int n_code, cap_code;
    struct ptx_label *labels[PTX_BUCKETS];
    int *scope_parent;
    int n_scopes, cap_scopes;
    uint32_t maxntid[3], reqntid[3], cluster[3], minnctapersm, maxnreg;
    struct ptx_function *next_hash, *next;
};

struct ptx_text {
    struct arena arena;
    int version, target_sm;
    struct ptx_function *functions, *last_function; /* in the order of the text */
    struct ptx_function *function_hash[PTX_BUCKETS];
    struct ptx_var *var_hash[PTX_BUCKETS];
    struct ptx_var **vars;
    int n_vars, cap_vars;
};

/* Parses; false leaves a message "line N: …" in *e. *t must be freed either way. */
bool ptx_parse(const char *text, size_t len, struct ptx_text *t, struct err *e);
void ptx_free(struct ptx_text *t);

struct ptx_function *ptx_function_find(const struct ptx_text *t, const char *name);
struct ptx_var *ptx_var_find(const struct ptx_text *t, const char *name);
/* The label visible from a scope, or NULL. */
struct ptx_label *ptx_label_find(const struct ptx_function *f, const char *name, int scope);
uint32_t ptx_hash(const char *s, size_t n);

/* ---- the lexer (parse_lex.c) ---- */
enum ptx_token { TK_END, TK_ID, TK_INT, TK_F32, TK_F64, TK_STR, TK_PUNCT };
struct ptx_lexer {
    const char *at, *end;
    uint32_t line;
    enum ptx_token kind;
    const char *start; /* of the token; length n */
    size_t n;
    uint64_t value; /* numbers, bits of floats; the character of TK_PUNCT */
    bool spaced;    /* white space before the token */
};
/* Reads the next token; a dot belongs to an identifier only when it opens one (".reg") and with opcode set also inside
 * ("mad.lo.s32", "shared::cta"). Text that is no token comes back as TK_PUNCT with its first byte. */
void ptx_next(struct ptx_lexer *x, bool opcode);

#endif
