/* target_ptx: NVIDIA GPUs by architecture, and the integer dot they declare. */
#include "codegen/llvm_internal.h"

#include <string.h>

/* One class: what results depend on (32 lanes, fused multiply-add) is the same from Turing on. The PTX version is the
 * least that knows the architecture, so that a driver as old as the card loads it. 128 registers a thread: PTX_BLOCKS.
 * Tiles of 8 rows with 4 words of each side by side: 16 bytes a load, 128 for the eight threads of a part. */
#define WITH(NAME, PTX, FEATURES)                                                                                      \
    { NAME, "ptx", PTX_LANES, 8, 4, 128, FEATURES, true, NAME, PTX, NULL, true }
#define AMPERE(NAME, PTX) WITH(NAME, PTX, FEAT_DP4A | FEAT_MMA)
#define GPU(NAME, PTX) WITH(NAME, PTX, FEAT_DP4A | FEAT_MMA | FEAT_DEPENDENT)
static const struct target gpus[] = {
    WITH("sm_75", "+ptx70", FEAT_DP4A),
    AMPERE("sm_80", "+ptx70"), AMPERE("sm_86", "+ptx71"), AMPERE("sm_89", "+ptx78"), GPU("sm_90", "+ptx78"),
    GPU("sm_90a", "+ptx80"), GPU("sm_100", "+ptx86"), GPU("sm_100a", "+ptx86"),
    GPU("sm_103", "+ptx88"), GPU("sm_103a", "+ptx88"), GPU("sm_120", "+ptx87"), GPU("sm_120a", "+ptx87"),
    GPU("sm_121", "+ptx88"), GPU("sm_121a", "+ptx88"),
};
enum { N_GPUS = sizeof gpus / sizeof *gpus };

const char *target_gpu_name(size_t i) {
    return i < N_GPUS ? gpus[i].name : NULL;
}

bool target_gpu_find(const char *name, struct target *out) {
    for (size_t i = 0; i < N_GPUS; i++)
        if (strcmp(name, gpus[i].name) == 0) {
            *out = gpus[i];
            return true;
        }
    return false;
}

/* `$` escapes itself and what PTX has no letter for, so that two names never become one. */
void target_ptx_symbol(const char *name, struct buf *out) {
    for (; *name; name++)
        if (*name == '.')
            buf_puts(out, "$_");
        else if (*name == '-')
            buf_puts(out, "$m");
        else if (*name == '$')
            buf_puts(out, "$$");
        else
            buf_add(out, name, 1);
}

/* dp4a.u32.s32: four products added at full width, wrapping (PTX ISA, "Integer arithmetic: dp4a"). */
static void dp4a_meaning(int32_t *out, const int32_t *acc, const uint32_t *u, const uint32_t *s, unsigned lanes) {
    for (unsigned l = 0; l < lanes; l++) {
        uint32_t sum = (uint32_t)acc[l];
        for (int b = 0; b < 4; b++) sum += (u[l] >> 8 * b & 255) * (uint32_t)(int8_t)(s[l] >> 8 * b);
        out[l] = (int32_t)sum;
    }
}

static LLVMValueRef dp4a_emit(struct emitter *em, LLVMValueRef acc, LLVMValueRef u, LLVMValueRef s, unsigned lanes) {
    (void)lanes;
    return llvm_call(em, "llvm.nvvm.idp4a.u.s", NULL, 3, (LLVMValueRef[]){u, s, acc});
}

static const struct dot4_impl dot4_table[] = {
    {"dp4a.u32.s32", FEAT_DP4A, PTX_LANES, 255, dp4a_meaning, dp4a_emit},
};

const struct dot4_impl *target_gpu_dot4_row(size_t i) {
    return i < sizeof dot4_table / sizeof *dot4_table ? &dot4_table[i] : NULL;
}
