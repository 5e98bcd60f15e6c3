/* mma.sync with a sparse A, and with block scaling: which columns the stored elements of A belong to, and the scales.
 * What a sparse A leaves out is not multiplied, whatever B has there. */
#include "verify/ptxvm/mma.h"

#include <string.h>

enum { MAX_ROWS = 16, MAX_STORED = 128 };

static u32 operand(const struct split *s, const struct ext *e, int at, u32 lane) {
    return (u32)row_get(row(s->frame, e->ops[at]), lane, e->sizes[at]);
}

/* The four bits of metadata of a chunk, and the lane that has them. */
static u32 metadata(const struct split *s, const struct ext *e, int r, int chunk, u32 *lane) {
    const struct mma_extra *m = e->mma;
    int quad = 4 * (r % 8), nibble;
    switch (m->metadata) {
    case META_ONE:
        *lane = (u32)(quad + m->selector), nibble = chunk + 4 * (r / 8);
        break;
    case META_HALVES:
        *lane = (u32)(quad + 2 * m->selector + chunk / 4), nibble = chunk % 4 + 4 * (r / 8);
        break;
    case META_ROWS:
        *lane = (u32)(quad + 2 * m->selector + r / 8), nibble = chunk;
        break;
    default:
        *lane = (u32)(quad + chunk / 8 * 2 + r / 8), nibble = chunk % 8;
        break;
    }
    return operand(s, e, m->meta_at, *lane) >> 4 * nibble & 15;
}

/* The column of each stored element of A. */
static bool positions(struct warp *w, struct split *s, const struct insn *in, int n, u8 at[MAX_ROWS][MAX_STORED],
                      enum step *out) {
    const struct ext *e = in->ext;
    int chunk = e->mma->chunk, stored = chunk / 2;
    for (int r = 0; r < e->m; r++)
        for (int c = 0; c < n / stored; c++) {
            u32 lane, v = metadata(s, e, r, c, &lane), first = v & 3, second = v >> 2;
            bool good = chunk == 2 ? v == 0xe || v == 4 : e->mma->ordered ? first < second : first != second;
            if (!good && w->block->gang_check) {
                *out = vm_fault_at(w, s, in, (int)lane, VM_LAUNCH_FAILED, "bad sparsity metadata", 0,
                                   "0x%x for row %d, columns %d to %d%s", v, r, c * chunk, c * chunk + chunk - 1,
                                   chunk == 2        ? ": 0x4 and 0xe are known"
                                   : e->mma->ordered ? ": the first index must be below the second"
                                                     : ": the indices are the same");
                return false;
            }
            u8 *to = at[r] + c * stored;
            if (chunk == 2)
                to[0] = (u8)(2 * c + (v == 0xe));
            else if (chunk == 4)
                to[0] = (u8)(4 * c + (int)first), to[1] = (u8)(4 * c + (int)second);
            else
                for (int j = 0; j < 4; j++) to[j] = (u8)(8 * c + 2 * (int)(j < 2 ? first : second) + j % 2);
        }
    return true;
}

static double scale(const struct split *s, const struct ext *e, int at, u32 lane, u32 chunk) {
    u32 byte = operand(s, e, at, lane) >> 8 * ((operand(s, e, at + 1, lane) + chunk) & 3) & 255;
    return e->mma->stype == PT_E4M3 ? vm_float_unpack(byte & 0x7f, PT_E4M3) : vm_float_unpack(byte, PT_UE8M0X2);
}

/* The selectors are the same in all lanes, and among those that the manual lists. */
static bool selectors(struct warp *w, struct split *s, const struct insn *in, enum step *out) {
    const struct ext *e = in->ext;
    for (int side = 0; side < 2; side++) {
        int at = e->mma->scale_at + 3 * side;
        u32 byte = operand(s, e, at + 1, 0), thread = operand(s, e, at + 2, 0);
        bool good = thread < (side ? 4 : 2) && byte < 4 && byte % e->mma->vec == 0;
        for (u32 lane = 1; lane < 32; lane++)
            good &= operand(s, e, at + 1, lane) == byte && operand(s, e, at + 2, lane) == thread;
        if (good) continue;
        *out = vm_fault_at(w, s, in, 0, VM_LAUNCH_FAILED, "bad scale selector", 0,
                           "byte %u and thread %u of scale_%c, with %d scales, or not the same in all lanes", byte,
                           thread, "AB"[side], e -> mma -> vec);
        return false;
    }
    return true;
}

static void apply_scales(struct matrices *x, const struct split *s, const struct ext *e, int n,
                         u8 at[MAX_ROWS][MAX_STORED]) {
    int a = e->mma->scale_at, b = a + 3, width = e->k / e->mma->vec;
    u32 thread_a = operand(s, e, a + 2, 0), thread_b = operand(s, e, b + 2, 0);
    double factor[4];
    for (int r = 0; r < e->m; r++) {
        u32 lane = (u32)(4 * (r % 8) + r / 8) + 2 * (thread_a & 1);
        for (u32 c = 0; c < e->mma->vec; c++) factor[c] = scale(s, e, a, lane, c);
        for (int i = 0; i < n; i++) x->a[r][i] *= factor[at[r][i] / width];
    }
    for (int j = 0; j < e->nn; j++) {
        for (u32 c = 0; c < e->mma->vec; c++) factor[c] = scale(s, e, b, (u32)(4 * j) + (thread_b & 3), c);
        for (int i = 0; i < e->k; i++) x->b[i][j] *= factor[i / width];
    }
}

bool vm_multiply_extra(struct matrices *x, struct warp *w, struct split *s, const struct insn *in, enum step *out) {
    const struct ext *e = in->ext;
    u8 at[MAX_ROWS][MAX_STORED];
    int n = e->mma->metadata ? e->k / 2 : e->k;
    if (e->mma->metadata) {
        if (!positions(w, s, in, n, at, out)) return false;
    } else {
        for (int r = 0; r < e->m; r++)
            for (int i = 0; i < n; i++) at[r][i] = (u8)i;
    }
    if (e->mma->vec) {
        if (!selectors(w, s, in, out)) return false;
        apply_scales(x, s, e, n, at);
    }
    for (int r = 0; r < e->m; r++)
        for (int j = 0; j < e->nn; j++) {
            double sum = x->c[r][j];
            for (int i = 0; i < n; i++) sum += x->a[r][i] * x->b[at[r][i]][j];
            x->d[r][j] = sum;
        }
    vm_wrap_integers(x, e);
    return true;
}
