/* llvm_amx: tiledot in the tile registers of AMX. A register is 16 rows of up to 64 bytes; how many of each it has is
 * set once a function, for all shapes at once: (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
 * chapter 18; volume 2, LDTILECFG)
 *
 *     tmm0, tmm1   C            16 rows of 64 bytes, taken in turn, so that one product need not wait for another
 *     tmm2, tmm3   A, B, k 16   16 rows of 16 bytes, 4 rows of 64
 *     tmm4, tmm5   A, B, k 32   16 rows of 32 bytes, 8 rows of 64
 *     tmm6, tmm7   A, B, k 64   16 rows of 64 bytes, 16 rows of 64
 *
 * The intrinsics name registers by number, so that LLVM allocates none and adds no configuration of its own. */
#include "codegen/llvm_internal.h"

enum { N_TILES = 8, FIRST_OF_SHAPE = 2, CONFIG_BYTES = 64, CONFIG_COLUMNS = 16, CONFIG_ROWS = 48 };

static LLVMValueRef i8_const(struct emitter *em, unsigned n) {
    return LLVMConstInt(LLVMInt8TypeInContext(em->ctx), n, 0);
}

/* The operand of ldtilecfg: palette 1, then 16-bit bytes a row and 8-bit rows of each register. */
static LLVMValueRef config(struct emitter *em) {
    uint8_t bytes[CONFIG_BYTES] = {1};
    for (unsigned t = 0; t < N_TILES; t++) {
        unsigned k = t < FIRST_OF_SHAPE ? 0 : 16u << (t - FIRST_OF_SHAPE) / 2;
        bool is_a = t >= FIRST_OF_SHAPE && t % 2 == 0, is_b = t >= FIRST_OF_SHAPE && t % 2 == 1;
        bytes[CONFIG_COLUMNS + 2 * t] = (uint8_t)(is_a ? k : 4 * IR_TILE_COLUMNS);
        bytes[CONFIG_ROWS + t] = (uint8_t)(is_b ? k / 4 : IR_TILE_ROWS);
    }
    LLVMValueRef init = LLVMConstStringInContext2(em->ctx, (const char *)bytes, sizeof bytes, 1);
    LLVMValueRef global = LLVMAddGlobal(em->module, LLVMTypeOf(init), "");
    LLVMSetInitializer(global, init);
    LLVMSetGlobalConstant(global, 1);
    LLVMSetLinkage(global, LLVMPrivateLinkage);
    LLVMSetAlignment(global, CONFIG_BYTES);
    return global;
}

static bool has_tiles(const struct ir_block *b) {
    for (const struct ir_op *op = b->first; op; op = op->next)
        if (op->code == IR_TILEDOT || (op->body && has_tiles(op->body))) return true;
    return false;
}

bool amx_begin(struct emitter *em) {
    if (!(em->target->features & FEAT_AMX) || !has_tiles(em->f->body)) return false;
    llvm_call(em, "llvm.x86.ldtilecfg", NULL, 1, (LLVMValueRef[]){config(em)});
    return true;
}

void amx_end(struct emitter *em) {
    llvm_call(em, "llvm.x86.tilerelease", NULL, 0, NULL);
}

static void tile_memory(struct emitter *em, const char *name, unsigned tile, LLVMValueRef at, uint64_t stride) {
    llvm_call(em, name, NULL, 3, (LLVMValueRef[]){i8_const(em, tile), at, k64(em, (int64_t)stride)});
}

void amx_tiledot(struct emitter *em, const struct ir_op *op, LLVMValueRef c, LLVMValueRef a, LLVMValueRef b) {
    const struct ir_tile_shape *shape = &ir_tile_shapes[op->imm];
    unsigned of_a = FIRST_OF_SHAPE + (shape->k == 16 ? 0 : shape->k == 32 ? 2 : 4), of_b = of_a + 1;
    unsigned of_c = em->n_tiledots++ % FIRST_OF_SHAPE;
    llvm_call(em, "llvm.x86.tilezero", NULL, 1, (LLVMValueRef[]){i8_const(em, of_c)});
    tile_memory(em, "llvm.x86.tileloadd64", of_a, a, op->stride);
    tile_memory(em, "llvm.x86.tileloadd64", of_b, b, 4 * IR_TILE_COLUMNS);
    llvm_call(em, shape->b_signed ? "llvm.x86.tdpbssd" : "llvm.x86.tdpbsud", NULL, 3,
              (LLVMValueRef[]){i8_const(em, of_c), i8_const(em, of_a), i8_const(em, of_b)});
    tile_memory(em, "llvm.x86.tilestored64", of_c, c, 4 * IR_TILE_COLUMNS);
}
