/* wgmma: products of a warp group. Each of the four warps computes its 16 of the 64 rows by itself, at once, reading
 * shared memory through the descriptors:
 *
 *   63-62 swizzle: 0 none, 1 128 bytes, 2 64, 3 32     45-32 stride offset / 16     29-16 leading offset / 16     13-0
 * address / 16
 *
 * With u = 16-byte units and W the units of a swizzle's row (2, 4, 8), element (r, k) of a K-major operand lies in unit
 *   none: r % 8 + (r / 8) S + (k / e) L       swizzled: (r % 8) W + (r / 8) S + k / e
 * and of an MN-major one (16-bit elements, q = r / 8)
 *   none: q S + k % 8 + (k / 8) L             swizzled: q % W + (q / W) L + (k % 8) W + (k / 8) S
 * and the swizzle exchanges address bits: 4-6 ^= 7-9 (as many as the width has). */
#include "verify/ptxvm/mma.h"

#include <stdlib.h>
#include <string.h>

/* The products that a warp has not waited for, with checks on: groups count up from 1. */
struct flying {
    const struct frame *frame; /* whose registers are watched */
    u64 *rows;                 /* for each 64 bytes of it: the group that writes them and its line; 0 none */
    u32 n_rows, cap_rows;
    u32 group, done; /* the group that the next product is in; all up to done are waited for */
    u32 ticket;      /* of this group's reads of shared memory */
    u32 n_tickets, cap_tickets;
    struct {
        u32 group, ticket;
    } * tickets; /* of committed groups */
    bool fenced;
};

void vm_flying_free(struct warp *w) {
    if (!w->flying) return;
    free(w->flying->rows);
    free(w->flying->tickets);
    free(w->flying);
}
void vm_flying_reset(struct warp *w) {
    struct flying *f = w->flying;
    if (!f) return;
    f->frame = NULL;
    f->group = 1, f->done = f->ticket = f->n_tickets = 0;
    f->fenced = false;
}
static struct flying *flying_of(struct warp *w) {
    if (!w->flying && (w->flying = calloc(1, sizeof *w->flying))) w->flying->group = 1;
    return w->flying;
}

static bool no_memory(struct warp *w, struct split *s, const struct insn *in) {
    vm_fault_at(w, s, in, 0, VM_OUT_OF_MEMORY, "out of memory", 0, "the checker has none left");
    return false;
}

/* A product is about to start: its group's ticket, and its frame's registers are watched. */
static bool flying_begin(struct warp *w, struct split *s, const struct insn *in) {
    struct flying *f = flying_of(w);
    if (!f) return no_memory(w, s, in);
    if (!f->fenced) {
        vm_fault_at(w, s, in, 0, VM_LAUNCH_FAILED, "missing wgmma fence", 0,
                    "the warp has executed no wgmma.fence before its first product");
        return false;
    }
    if (!f->ticket) f->ticket = vm_race_ticket(w, in->line, "a product");
    if (f->frame == s->frame) return true;
    u32 n = s->frame->code->frame_bytes / 64 + 1;
    if (n > f->cap_rows) {
        free(f->rows);
        f->rows = malloc(n * sizeof *f->rows);
        f->cap_rows = f->rows ? n : 0;
    }
    if (!f->rows) return no_memory(w, s, in);
    memset(f->rows, 0, n * sizeof *f->rows);
    f->frame = s->frame;
    f->n_rows = n;
    return true;
}

/* The record of a row of the watched frame; NULL: it is a constant, a predicate, or none. */
static u64 *watched(struct warp *w, u32 op) {
    struct flying *f = w->flying;
    return op & 1 || op < f->frame->code->pred_bytes || op / 64 >= f->n_rows ? NULL : &f->rows[op / 64];
}

static bool in_flight(const struct warp *w, const u64 *r) {
    return r && *r >> 32 > w->flying->done;
}
static bool untouched(struct warp *w, struct split *s, const struct insn *in, u32 op) {
    const u64 *r = watched(w, op);
    if (!in_flight(w, r)) return true;
    vm_fault_at(w, s, in, __builtin_ctz(s->mask), VM_LAUNCH_FAILED, "missing wgmma wait", 0,
                "it reads a register that the product at line %u has not been waited for to write", (u32)*r);
    return false;
}

bool vm_flying_check(struct warp *w, struct split *s, const struct insn *in) {
    struct flying *f = w->flying;
    if (s->frame != f->frame || in->kind == K_BRA || in->kind == K_JOIN) return true;
    const struct ext *x = in->kind == K_OP ? in->ext : NULL;
    u64 *to = watched(w, in->d);
    if (in->kind != K_OP && in->row == vm_rows()[ROW_MOV_32]) { /* compilers copy registers that are in flight */
        const u64 *from = watched(w, in->a);
        if (to) *to = from ? *from : 0;
        return true;
    }
    if (in->kind == K_OP && in->op == op_wgmma) { /* registers of A; those of D may follow one another */
        int nd = (int)x->arg_from[0], na = (int)x->arg_from[1];
        for (int i = 0; i < na; i++)
            if (!untouched(w, s, in, x->ops[nd + i])) return false;
        return true;
    }
    if (!untouched(w, s, in, in->a) || !untouched(w, s, in, in->b) || !untouched(w, s, in, in->c)) return false;
    if (in->kind != K_ROW && !untouched(w, s, in, in->e)) return false;
    if (to) *to = 0;
    bool writes = in->kind == K_OP && (in->op == op_ld || in->op == op_ldmatrix || in->op == op_ldparam);
    for (int i = 0; x && i < x->n; i++) {
        u64 *r = watched(w, x->ops[i]);
        if (!r) continue;
        if (!writes && !untouched(w, s, in, x->ops[i])) return false;
        if (writes) *r = 0;
    }
    return true;
}

/* wgmma.fence, .commit_group and .wait_group: mode 0, 1, 2; imm: groups that may be under way */
enum step op_wgmma_group(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    enum step out;
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    if (!w->block->gang_check) return STEP_NEXT;
    struct flying *f = flying_of(w);
    if (!f) return no_memory(w, s, in) ? STEP_NEXT : STEP_FAULT;
    if (x->mode == 0) {
        f->fenced = true;
        return STEP_NEXT;
    }
    if (x->mode == 1) {
        if (f->ticket) {
            if (f->n_tickets == f->cap_tickets) {
                u32 cap = f->cap_tickets ? 2 * f->cap_tickets : 16;
                void *a = realloc(f->tickets, cap * sizeof *f->tickets);
                if (!a) return no_memory(w, s, in) ? STEP_NEXT : STEP_FAULT;
                f->tickets = a, f->cap_tickets = cap;
            }
            f->tickets[f->n_tickets].group = f->group;
            f->tickets[f->n_tickets++].ticket = f->ticket;
        }
        f->ticket = 0;
        f->group++;
        return STEP_NEXT;
    }
    u32 left = 0;
    s64 done = (s64)f->group - 1 - in->imm;
    if (done > f->done) f->done = (u32)done;
    for (u32 i = 0; i < f->n_tickets; i++)
        if (f->tickets[i].group <= f->done)
            vm_race_ticket_close(w, f->tickets[i].ticket, LANE_SEVERAL);
        else
            f->tickets[left++] = f->tickets[i];
    f->n_tickets = left;
    vm_race_warp_sync(w);
    if (!w->careful || left || f->ticket) return STEP_NEXT;
    w->careful = false;
    return STEP_YIELD;
}

static bool load_operand(struct warp *w, struct split *s, const struct insn *in, u64 desc, bool mn_major,
                         enum ptx_type t, int rows, int k, int first_row, double out[][MATRIX_MAX],
                         bool transpose_out) {
    int bits = vm_element_bits(t), e = 128 / bits, mode = (int)(desc >> 62);
    u64 start = (desc & 0x3fff) << 4, lead = (desc >> 16 & 0x3fff) << 4, stride = (desc >> 32 & 0x3fff) << 4;
    u32 width = mode == 1 ? 8 : mode == 2 ? 4 : mode == 3 ? 2 : 0, mask = width ? (width - 1) << 4 : 0;
    int outer = mn_major ? k : rows, inner = mn_major ? rows : k;
    for (int o = 0; o < outer; o++)
        for (int c = 0; c < inner; c += e) {
            u64 at;
            if (!mn_major) {
                u64 r = (u64)(o + first_row), u = (u64)(c / e);
                at = width ? (r % 8) * width * 16 + r / 8 * stride + u * 16 : r % 8 * 16 + r / 8 * stride + u * lead;
            } else {
                u64 q = (u64)(c + first_row) / 8, kk = (u64)o;
                at = width ? q % width * 16 + q / width * lead + kk % 8 * width * 16 + kk / 8 * stride
                           : q * stride + kk % 8 * 16 + kk / 8 * lead;
            }
            at += start;
            at ^= at >> 3 & mask;
            u8 *p = vm_range_pointer(w, s, in, 0, SP_SHARED, at, 16, ACCESS_LOAD);
            if (!p) return false;
            if (w->block->gang_check && !vm_race_async_read(w, s, in, 0, (u32)at, 16, w->flying->ticket)) return false;
            for (int j = 0; j < e && c + j < inner; j++) {
                u64 v = 0;
                memcpy(&v, p + j * bits / 8, bits < 8 ? 1 : (size_t)bits / 8);
                if (bits < 8) v = v >> j * bits % 8 & ((1u << bits) - 1);
                double x = t == PT_B1 ? (double)v : vm_element_value(v, t);
                int r = mn_major ? c + j : o, kk = mn_major ? o : c + j;
                if (transpose_out)
                    out[kk][r] = x;
                else
                    out[r][kk] = x;
            }
        }
    return true;
}

/* ext: m 16 (a warp's rows), nn, k; types as for mma; mode saturate; arg_from[0]: registers of d, [1]: of a (0: a
 * descriptor); ops: d, a (or one 64-bit row), b; in->c predicate scale-d or NO_ROW (imm bit 0: negated; bit 1: constant
 * 0); mode2: 1 negate a, 2 negate b; mode3: 1 a MN-major, 2 b MN-major */
enum step op_wgmma(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    static _Thread_local struct matrices x;
    const struct ext *e = in->ext;
    enum step out;
    if (!vm_whole_warp(w, s, in, mask, &out)) return out;
    struct frame *f = s->frame;
    if (w->block->gang_check && !flying_begin(w, s, in)) return STEP_FAULT;
    int nd = (int)e->arg_from[0], na = (int)e->arg_from[1], at_a = nd, at_b = nd + (na ? na : 1);
    int first_row = 16 * (int)(w->id % 4);
    enum ptx_type at = (enum ptx_type)e->type, bt = (enum ptx_type)e->type2, dt = (enum ptx_type)e->type4;
    int bits = vm_element_bits(at), per = 32 / bits;
    if (na) {
        for (u32 lane = 0; lane < 32; lane++)
            for (int r = 0; r < na; r++)
                for (int j = 0; j < per; j++) {
                    u64 v = ((const u32 *)row(f, e->ops[at_a + r]))[lane] >> (j * bits);
                    if (bits < 32) v &= (1u << bits) - 1;
                    x.a[lane / 4 + 8 * (u32)(r % 2)][r / 2 * 4 * per + (int)(lane % 4) * per + j] =
                        at == PT_B1 ? (double)v : vm_element_value(v, at);
                }
    } else if (!load_operand(w, s, in, ((const u64 *)row(f, e->ops[at_a]))[0], e->mode3 & 1, at, 16, e->k, first_row,
                             x.a, false)) {
        return STEP_FAULT;
    }
    if (!load_operand(w, s, in, ((const u64 *)row(f, e->ops[at_b]))[0], e->mode3 & 2, bt, e->nn, e->k, 0, x.b, true))
        return STEP_FAULT;
    bool keep = !(in->imm & 2);
    if (in->c != NO_ROW) keep = (*(const u32 *)row(f, in->c) & 1) ^ (in->imm & 1);
    int halves = dt == PT_F16 ? 2 : 1;
    for (u32 lane = 0; lane < 32; lane++)
        for (int i = 0; i < nd * halves; i++) {
            int r = (int)lane / 4 + 8 * (i / 2 % 2), c = i / 4 * 8 + (int)(lane % 4) * 2 + i % 2;
            u32 v = ((const u32 *)row(f, e->ops[i / halves]))[lane];
            if (halves == 2) v = i % 2 ? v >> 16 : v & 0xffff;
            x.c[r][c] = keep ? vm_element_value(v, dt) : 0;
        }
    if (e->mode2 && at != PT_B1)
        for (int r = 0; r < 16; r++)
            for (int k = 0; k < e->k; k++) x.a[r][k] = e->mode2 == 3 ? x.a[r][k] : -x.a[r][k];
    vm_multiply(&x, e);
    for (u32 lane = 0; lane < 32; lane++)
        for (int i = 0; i < nd * halves; i++) {
            int r = (int)lane / 4 + 8 * (i / 2 % 2), c = i / 4 * 8 + (int)(lane % 4) * 2 + i % 2;
            u32 *d = (u32 *)row(f, e->ops[i / halves]) + lane, v;
            v = dt == PT_S32 ? (u32)(s32)x.d[r][c] : (u32)vm_accumulator_bits(x.d[r][c], dt);
            if (halves == 2)
                *d = i % 2 ? (*d & 0xffff) | v << 16 : (*d & 0xffff0000) | v;
            else
                *d = v;
        }
    struct vm_counters *n = &w->block->worker->counters;
    n->matrix_ops++;
    n->matrix_flops += 2ull * 16 * (u64)e->nn * (u64)e->k;
    if (!w->block->gang_check) return STEP_NEXT;
    for (int i = 0; i < nd; i++) *watched(w, e->ops[i]) = (u64)w->flying->group << 32 | in->line;
    bool careful = w->careful; /* from here on another loop runs the warp (exec_warp.c) */
    w->careful = true;
    return careful ? STEP_NEXT : STEP_YIELD;
}
