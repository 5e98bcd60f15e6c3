/* llvm_ptx_ahead: what a kernel does before the kernels before it have ended.
 *
 * From sm_90 on a kernel may be launched while its predecessor still runs (programmatic dependent launch). It lets its
 * own successors start at once; it must not touch what a predecessor writes until griddepcontrol.wait has returned.
 * Ahead of that stand prefetches of what no launch writes (arguments marked `inv`: weights): of the first task, and of
 * the first trips of the loops that read them. To find their addresses, the function is walked once with everything in
 * it computed that depends on such arguments, sizes and constants alone; LLVM removes what no prefetch uses.
 *
 * The wait stands before everything else. Loads behind it are ordinary loads unless no launch writes what they read:
 * the read-only path wants memory that does not change from the kernel's start on (PTX ISA, "ld.global.nc").
 */
#include "codegen/llvm_ptx.h"

#include <string.h>

/* Trips of a loop whose weights are asked for ahead: 4 KiB each of a block's, 32 KiB a multiprocessor with two blocks,
 * about what memory has under way at a time. */
enum { TRIPS_AHEAD = 4, SECTOR = 32, MAX_SEEN = 64 };

bool ptx_unwritten(const struct emitter *em, const struct ir_op *op) {
    if (op->code != IR_LOAD && op->code != IR_GATHER) return false;
    const struct ir_op *base = em->f->values[op->args[0]].def;
    return op->inv && base && base->code == IR_ARG && base->inv;
}

static bool reads_weights(const struct emitter *em, const struct ir_block *b, bool deep) {
    for (const struct ir_op *op = b->first; op; op = op->next) {
        if (ptx_unwritten(em, op)) return true;
        if (deep && op->body && reads_weights(em, op->body, true)) return true;
    }
    return false;
}

static bool known(const struct emitter *em, const struct ir_op *op) {
    for (uint32_t i = 0; i < op->n_args; i++)
        if (!em->values[op->args[i]]) return false;
    return true;
}

/* One prefetch a sector: what lies in the sector of another load of the same base and offset comes with it. */
struct seen {
    const struct ir_op *ops[MAX_SEEN];
    unsigned n;
};

static bool seen_before(struct seen *s, const struct ir_op *op) {
    for (unsigned i = 0; i < s->n; i++) {
        const struct ir_op *o = s->ops[i];
        if (o->code == op->code && o->args[0] == op->args[0] && o->args[1] == op->args[1] &&
            (op->code == IR_LOAD || o->args[2] == op->args[2]) && o->stride == op->stride &&
            o->type.lanes == op->type.lanes && o->imm / SECTOR == op->imm / SECTOR)
            return true;
    }
    if (s->n < MAX_SEEN) s->ops[s->n++] = op;
    return false;
}

/* As text: LLVM has intrinsics for some of it, for newer versions of PTX than the least that a driver must know. */
static void assembly(struct emitter *em, const char *text, const char *constraints, LLVMValueRef address) {
    LLVMTypeRef i64 = i64_type(em), none = LLVMVoidTypeInContext(em->ctx);
    LLVMTypeRef type = LLVMFunctionType(none, &i64, address != NULL, 0);
    LLVMValueRef f = LLVMGetInlineAsm(type, text, strlen(text), constraints, strlen(constraints), 1, 0,
                                      LLVMInlineAsmDialectATT, 0);
    LLVMValueRef arg = address ? LLVMBuildPtrToInt(em->b, address, i64, "") : NULL;
    LLVMBuildCall2(em->b, type, f, &arg, address != NULL, "");
}

static void prefetch(struct emitter *em, const struct ir_op *op) {
    assembly(em, "prefetch.global.L2 [$0];", "l", ptx_address(em, op));
}

static void walk(struct emitter *em, const struct ir_block *b);

/* `body` where `on` holds. */
static void walk_if(struct emitter *em, LLVMValueRef on, const struct ir_block *body) {
    LLVMBasicBlockRef then = llvm_new_block(em), done = llvm_new_block(em);
    LLVMBuildCondBr(em->b, on, then, done);
    LLVMPositionBuilderAtEnd(em->b, then);
    walk(em, body);
    LLVMBuildBr(em->b, done);
    LLVMPositionBuilderAtEnd(em->b, done);
}

/* At most TRIPS_AHEAD; fewer where its bounds say so. */
static unsigned trips_ahead(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef lo = em->values[op->args[0]], hi = em->values[op->args[1]];
    if (!reads_weights(em, op->body, false)) return 1;
    if (!LLVMIsAConstantInt(lo) || !LLVMIsAConstantInt(hi)) return TRIPS_AHEAD;
    int64_t step = op->imm * (op->split ? op->split : 1);
    int64_t trips = (LLVMConstIntGetSExtValue(hi) - LLVMConstIntGetSExtValue(lo) + step - 1) / step;
    return trips < TRIPS_AHEAD ? (unsigned)(trips > 0 ? trips : 0) : TRIPS_AHEAD;
}

static void walk_for(struct emitter *em, const struct ir_op *op) {
    LLVMValueRef at = em->values[op->args[0]], hi = em->values[op->args[1]];
    for (uint32_t i = 0; i < op->n_results; i++) em->values[op->results[i]] = em->values[op->inner[i + 1]] = NULL;
    if (!at || !hi || !reads_weights(em, op->body, true)) return;
    LLVMValueRef step = LLVMConstInt(LLVMTypeOf(at), (uint64_t)op->imm, 0);
    unsigned trips = trips_ahead(em, op);
    if (op->split) ptx_split_range(em, op, &at, &step);
    for (unsigned t = 0; t < trips; t++) {
        em->values[op->inner[0]] = at;
        walk_if(em, LLVMBuildICmp(em->b, LLVMIntSLT, at, hi, ""), op->body);
        at = LLVMBuildAdd(em->b, at, step, "");
    }
}

static void walk(struct emitter *em, const struct ir_block *b) {
    struct seen seen = {.n = 0};
    for (const struct ir_op *op = b->first; op; op = op->next) {
        enum ir_effect effect = ir_op_info[op->code].effect;
        if (op->code == IR_FOR) {
            walk_for(em, op);
        } else if (op->code == IR_IF) {
            LLVMValueRef on = em->values[op->args[0]];
            if (on && reads_weights(em, op->body, true)) walk_if(em, on, op->body);
        } else if (op->n_results && (effect == EFF_PURE || effect == EFF_TRAP) && known(em, op) &&
                   !ptx_crosses_threads(em->f, op)) {
            em->values[op->results[0]] = llvm_emit_value(em, op);
        } else {
            if (op->n_results) em->values[op->results[0]] = NULL;
            if (ptx_unwritten(em, op) && known(em, op) && !seen_before(&seen, op)) prefetch(em, op);
        }
    }
}

void ptx_let_successors_start(struct emitter *em) {
    if (em->target->features & FEAT_DEPENDENT) assembly(em, "griddepcontrol.launch_dependents;", "", NULL);
}

void ptx_ahead(struct emitter *em) {
    if (!(em->target->features & FEAT_DEPENDENT)) return;
    walk(em, em->f->body);
    memset(em->values, 0, em->f->n_values * sizeof *em->values);
    /* LLVM moves no access of memory across it. */
    assembly(em, "griddepcontrol.wait;", "~{memory}", NULL);
}
