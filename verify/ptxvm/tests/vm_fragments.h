/* What the tests of matrix instructions share: element types, fragments of one warp, and a kernel that loads them. */
#ifndef KGEN_PTXVM_VM_FRAGMENTS_H
#define KGEN_PTXVM_VM_FRAGMENTS_H

#include "verify/ptxvm/tests/vm_formats.h"

static uint32_t seed = 77;

/* ---- element types ---- */
enum kind {
    K_F16,
    K_BF16,
    K_TF32,
    K_F64,
    K_E4M3,
    K_E5M2,
    K_E2M3,
    K_E3M2,
    K_E2M1,
    K_S8,
    K_U8,
    K_S4,
    K_U4,
    K_B1,
    K_F32,
    K_S32
};
static const struct element {
    const char *name;
    int bits;
    const struct format *format; /* NULL: integers */
    int least, most;
} elements[] = {
    [K_F16] = {"f16", 16, &F16, -4, 4},   [K_BF16] = {"bf16", 16, &BF16, -4, 4},
    [K_TF32] = {"tf32", 32, &F32, -4, 4}, [K_F64] = {"f64", 64, &F64, -9, 9},
    [K_E4M3] = {"e4m3", 8, &E4M3, -4, 4}, [K_E5M2] = {"e5m2", 8, &E5M2, -4, 4},
    [K_E2M3] = {"e2m3", 8, &E2M3, -4, 4}, [K_E3M2] = {"e3m2", 8, &E3M2, -4, 4},
    [K_E2M1] = {"e2m1", 4, &E2M1, -4, 4}, [K_S8] = {"s8", 8, NULL, -128, 127},
    [K_U8] = {"u8", 8, NULL, 0, 255},     [K_S4] = {"s4", 4, NULL, -8, 7},
    [K_U4] = {"u4", 4, NULL, 0, 15},      [K_B1] = {"b1", 1, NULL, 0, 1},
    [K_F32] = {"f32", 32, &F32, -64, 64}, [K_S32] = {"s32", 32, NULL, -9999, 9999},
};
static inline u64 encoded(const struct element *e, s64 v) {
    return e->format ? format_round(e->format, v, 'n', true) : low_bits((u64)v, e->bits);
}
static inline s64 random_value(const struct element *e) {
    return e->least + (s64)(rnd(&seed) % (u32)(e->most - e->least + 1));
}

/* A kernel of one warp: words of A, B and C of each lane come from memory, D goes there. */
enum { WORDS = 64, MAX_K = 256 };
struct fragments {
    u32 in[32][WORDS], out[32][WORDS];
};
static inline void run_warp(const char *target, const char *text, const char *name, struct fragments *f) {
    struct buf t = {0};
    buf_printf(
        &t,
        ".version 8.8\n.target %s\n.address_size 64\n.visible .entry k(.param .u64 pin, .param .u64 pout) {\n"
        ".reg .b64 %%x<8>, %%w<32>; .reg .b32 %%n, %%t, %%r<64>, %%o<64>; .shared .align 128 .b8 sh[8192];\n"
        "mov.u32 %%n, %%laneid; mul.wide.u32 %%x0, %%n, %d; ld.param.u64 %%x1, [pin]; add.u64 %%x1, %%x1, %%x0;\n"
        "ld.param.u64 %%x2, [pout]; add.u64 %%x2, %%x2, %%x0;\n%s\nret;\n}\n",
        target, WORDS * 4, text);
    struct vm_module *m = load_text(t.data, name);
    u64 from = device(sizeof f->in, f->in), to = device(sizeof f->out, NULL);
    assert_int_equal(vm_mem_set(to, 0, 1, sizeof f->out, 1, 0), 0);
    LAUNCH(m, "k", D1(1), D1(32), 0, from, to);
    fetch(f->out, to, sizeof f->out);
    vm_mem_free(from);
    vm_mem_free(to);
    vm_module_free(m);
    buf_free(&t);
}
static inline void put_element(u32 *words, int bits, int i, u64 v) {
    if (bits == 64)
        words[2 * i] = (u32)v, words[2 * i + 1] = (u32)(v >> 32);
    else
        words[i * bits / 32] |= (u32)(low_bits(v, bits) << i * bits % 32);
}
static inline u64 get_element(const u32 *words, int bits, int i) {
    return bits == 64 ? words[2 * i] | (u64)words[2 * i + 1] << 32
                      : low_bits(words[i * bits / 32] >> i * bits % 32, bits);
}
/* n registers of 32 bits (or n / 2 of 64) from word at of the lane: loads, and the operand's text. */
static inline void registers(struct buf *loads, struct buf *list, int at, int n, bool wide, bool result) {
    buf_printf(list, "{");
    for (int i = 0; i < n; i += wide ? 2 : 1) {
        buf_printf(list, "%s%%%s%d", i ? ", " : "", wide ? "w" : result ? "o" : "r", wide ? (at + i) / 2 : at + i);
        if (!result)
            buf_printf(loads, "ld.global.b%d %%%s%d, [%%x1+%d];\n", wide ? 64 : 32, wide ? "w" : "r",
                       wide ? (at + i) / 2 : at + i, 4 * (at + i));
    }
    buf_printf(list, "}");
}

#endif
