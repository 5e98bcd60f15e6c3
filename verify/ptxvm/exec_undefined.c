/* Values that were never written.
 *
 * Loading one is no mistake yet: sorts read one element behind their tile and throw it away, structures are copied with
 * their padding. It is one when the value matters: it decides a branch, a guard, an address, a warp-wide operation, or
 * goes to global memory. So a load marks the lanes of its result, every operation hands the marks on, and the finding
 * names the load.
 *
 * A mark stands for a whole register. A loaded element with some bytes written counts as written, and bytes are copied
 * to global memory without a finding, with their marks: that is how compilers copy padding. Arguments of calls, what
 * instructions on matrices read from registers, and a word in which a bit field has been set count as written. */
#include "verify/ptxvm/mem_access.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ORIGINS = 256 };

/* Where marks came from. */
struct origin {
    u32 line, bytes;
    u64 address[32];
    char near[160];
};

/* Of a frame: for each row, by its place in words, the marked lanes and the origin of the last of them. */
struct undefined {
    u32 *lanes;
    u16 *from;
};

static u32 marks(const struct frame *f, u32 op) {
    return op == NO_ROW || op & 1 ? 0 : f->undefined->lanes[op / 4];
}
static void mark(struct frame *f, u32 op, u32 m, u32 lanes, u16 from) {
    u32 *to = &f->undefined->lanes[op / 4];
    *to = (*to & ~m) | (lanes & m);
    if (lanes & m) f->undefined->from[op / 4] = from;
}

static bool frame_marks(struct frame *f) {
    if (f->undefined) return true;
    size_t words = f->code->frame_bytes / 4;
    struct undefined *u = calloc(1, sizeof *u + words * (sizeof *u->lanes + sizeof *u->from));
    if (!u) return false;
    u->lanes = (u32 *)(u + 1);
    u->from = (u16 *)(u->lanes + words);
    f->undefined = u;
    return true;
}

static bool report(struct warp *w, const struct split *s, const struct insn *in, u32 lanes, u16 from, const char *how) {
    const struct origin *o = &w->origins[from];
    struct insn load = *in;
    load.line = o->line;
    u32 lane = (u32)__builtin_ctz(lanes);
    vm_fault_at(w, s, &load, (int)lane, VM_LAUNCH_FAILED, "uninitialized load", o->address[lane],
                "%u bytes that were never written, and line %u %s, %s", o->bytes, in->line, how, o->near);
    return false;
}

/* The operand must be written in lanes m. */
static bool needed(struct warp *w, const struct split *s, const struct insn *in, u32 op, u32 m, const char *how) {
    u32 bad = marks(s->frame, op) & m;
    return !bad || report(w, s, in, bad, s->frame->undefined->from[op / 4], how);
}

/* An AND with a constant that keeps the top bit: a field of a new structure is being set, the rest is not looked at. */
static bool clears_field(const struct insn *in, const void *constant) {
    const row_fn *rows = vm_rows();
    int size = in->row == rows[ROW_AND_16] ? 2 : in->row == rows[ROW_AND_32] ? 4 : in->row == rows[ROW_AND_64] ? 8 : 0;
    return size && row_get(constant, 0, size) >> (8 * size - 1) & 1;
}

static void hand_on(struct frame *f, const struct insn *in, u32 m) {
    u32 a = marks(f, in->a), b = marks(f, in->b), c = marks(f, in->c), e = in->kind == K_ROW4 ? marks(f, in->e) : 0,
        all = a | b | c | e;
    const row_fn *rows = vm_rows();
    if (all && in->dsize == 0 &&
        (in->row == rows[ROW_P_AND] || in->row == rows[ROW_P_OR] || in->row == rows[ROW_P_ANDN])) {
        u32 flip_x = (in->imm & 1) ^ (in->row == rows[ROW_P_ANDN]), flip = in->row == rows[ROW_P_OR] ? ~0u : 0;
        u32 x = *(const u32 *)row(f, in->a) ^ (flip_x ? ~0u : 0),
            y = *(const u32 *)row(f, in->b) ^ (in->imm & 2 ? ~0u : 0);
        all = (a | b) & (a | (x ^ flip)) & (b | (y ^ flip)); /* the other side alone may decide */
    } else if (all && (in->row == rows[ROW_SELP_16] || in->row == rows[ROW_SELP_32] || in->row == rows[ROW_SELP_64])) {
        u32 p = *(const u32 *)row(f, in->c) ^ (in->imm ? ~0u : 0);
        all = c | (p & a) | (~p & b);
    } else if (a && in->b & 1 && clears_field(in, row(f, in->b))) {
        all = 0;
    }
    u32 from = a & all ? in->a : b & all ? in->b : c & all ? in->c : in->e;
    mark(f, in->d, m, all, all ? f->undefined->from[from / 4] : 0);
}

bool vm_undefined_step(struct warp *w, const struct split *s, const struct insn *in, u32 mask) {
    struct frame *f = s->frame;
    if (!f->undefined || in->kind == K_JOIN) return true;
    u32 m = mask;
    if (in->guard != NO_GUARD) {
        u32 at = (in->guard & 0x7fff) * 4, g = ((const u32 *)f->regs)[at / 4], bad = marks(f, at) & mask;
        m &= in->guard & GUARD_NOT ? ~g : g;
        if (bad && (in->kind == K_BRA || in->kind == K_OP))
            return report(w, s, in, bad, f->undefined->from[at / 4], "goes where they say");
        if (bad) { /* written or not, nobody knows */
            mark(f, in->d, bad, bad, f->undefined->from[at / 4]);
            m &= ~bad;
        }
    }
    if (in->kind == K_ROW || in->kind == K_ROW4) {
        hand_on(f, in, m);
        return true;
    }
    if (in->kind != K_OP) return true;
    const struct ext *x = in->ext;
    if (in->op == op_ld || in->op == op_st) {
        if (!needed(w, s, in, in->a, m, "uses them as an address")) return false;
        for (int e = 0; e < x->n && in->op == op_ld; e++)
            if (x->ops[e] != NO_ROW) mark(f, x->ops[e], m, 0, 0);
        return true;
    }
    if (in->op == op_shfl) return needed(w, s, in, in->b, m, "shuffles by them"); /* the rest is op_shfl's */
    if (in->op == op_stparam) return true;
    if (in->op != op_ldparam && in->op != op_sreg && in->op != op_local)
        for (int k = 0; k < 3; k++)
            if (!needed(w, s, in, k == 0 ? in->a : k == 1 ? in->b : in->c, m, "uses them")) return false;
    if (in->d != NO_ROW && !(in->d & 1)) mark(f, in->d, m, 0, 0);
    for (int e = 0; x && x->ops && e < x->n; e++)
        if (x->ops[e] != NO_ROW && !(x->ops[e] & 1)) mark(f, x->ops[e], m, 0, 0);
    return true;
}

void vm_undefined_shuffle(struct frame *to, u32 d, const struct frame *from, u32 a, const u32 *lane_from, u32 m) {
    if (!from->undefined && !to->undefined) return;
    u32 source = from->undefined ? marks(from, a) : 0, lanes = 0;
    EACH_LANE(i, m) lanes |= (source >> (lane_from[i] & 31) & 1) << i;
    if (to->undefined || (lanes && frame_marks(to))) mark(to, d, m, lanes, lanes ? from->undefined->from[a / 4] : 0);
}

/* The shadow of memory that has one, else NULL. */
static u8 *shadow_at(struct warp *w, u32 lane, const u8 *p) {
    struct block *b = w->block;
    const u8 *local = w->local + (size_t)lane * w->local_stride;
    if (p >= vm_arena && p < vm_arena + vm_arena_bytes) return vm_arena_shadow + (p - vm_arena);
    if (p >= b->shared && p < b->shared + b->shared_bytes) return b->shared_shadow + (p - b->shared);
    if (w->local && p >= local && p < local + w->local_stride)
        return w->local_shadow + (size_t)lane * w->local_stride + (p - local);
    return NULL;
}

bool vm_undefined_loaded(struct warp *w, struct split *s, const struct insn *in, u32 m, const u64 *addr, u8 **p) {
    const struct ext *x = in->ext;
    struct frame *f = s->frame;
    m &= w->unwritten;
    w->unwritten = 0;
    u32 bytes = x->bytes, at = w->n_origins;
    if (!frame_marks(f)) return true;
    if (at == MAX_ORIGINS) at = 0; /* so many: the oldest is forgotten */
    if (!w->origins && !(w->origins = malloc(MAX_ORIGINS * sizeof *w->origins))) return true;
    w->n_origins = at + 1;
    struct origin *o = &w->origins[at];
    o->line = in->line;
    o->bytes = bytes;
    for (int i = 0; i < 32; i++) o->address[i] = addr[i];
    u32 first = (u32)__builtin_ctz(m);
    if (p[first] >= vm_arena && p[first] < vm_arena + vm_arena_bytes)
        vm_memory_nearest(addr[first], o->near, sizeof o->near);
    else if (p[first] >= w->block->shared && p[first] < w->block->shared + w->block->shared_bytes)
        __builtin_snprintf(o->near, sizeof o->near, "nearest allocation shared memory of %u bytes",
                           w->block->shared_bytes);
    else
        __builtin_snprintf(o->near, sizeof o->near, "nearest allocation local memory of %u bytes", w->local_stride);
    for (int e = 0; e < x->n; e++) {
        u32 bad = 0;
        EACH_LANE(i, m) {
            const u8 *shadow = shadow_at(w, i, p[i] + (u32)e * bytes);
            bool some = !shadow;
            for (u32 k = 0; shadow && k < bytes; k++) some |= shadow[k] & SHADOW_INIT;
            bad |= (u32)!some << i;
        }
        if (!bad || x->ops[e] == NO_ROW) continue;
        mark(f, x->ops[e], bad, bad, (u16)at);
        w->undefined = true;
    }
    return true;
}

bool vm_undefined_stored(struct warp *w, struct split *s, const struct insn *in, u32 m, u8 space, u8 **p) {
    const struct ext *x = in->ext;
    struct frame *f = s->frame;
    if (!f->undefined) return true;
    for (int e = 0; e < x->n; e++) {
        u32 bad = marks(f, x->ops[e]) & m;
        if (!bad) continue;
        EACH_LANE(i, bad) {
            u8 *to = p[i] + (u32)e * x->bytes, *shadow = shadow_at(w, i, to);
            bool global = space == SP_GLOBAL || (to >= vm_arena && to < vm_arena + vm_arena_bytes);
            if (global && x->bytes > 1)
                return report(w, s, in, 1u << i, f->undefined->from[x->ops[e] / 4], "stores what comes of them");
            if (shadow) memset(shadow, SHADOW_ADDRESSABLE, x->bytes);
        }
    }
    return true;
}
