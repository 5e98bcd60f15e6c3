/* Values that were never written.
 *
 * Loading one is no mistake yet: sorts read one element behind their tile and throw it away, structures are copied with
 * their padding. It is one when the value matters: it decides a branch, a guard, an address, a warp-wide operation, or
 * goes to global memory. So a load marks the lanes of its result, every operation hands the marks on, and the finding
 * names the load.
 *
 * A mark stands for a whole register. A loaded element with some bytes written counts as written, and bytes are copied
 * to global memory without a finding, with their marks: that is how compilers copy padding. Arguments of calls, what
 * wgmma reads from registers, and a word in which a bit field has been set count as written. Tiles have ragged ends
 * too: how marks go through a matrix product is in mma.c. */
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

/* Of a frame: for each row, by its place in words, the marked lanes, and for each of those where its mark came from:
 * 1 + 32 * origin + the lane that loaded. */
struct undefined {
    u32 *lanes;
    u16 *from;
};

static u32 marks(const struct frame *f, u32 op) {
    return op == NO_ROW || op & 1 ? 0 : f->undefined->lanes[op / 4];
}
/* [32]: a row has at least two bytes a lane and so its place here, a predicate has one behind them. */
static u16 *sources(const struct frame *f, u32 op) {
    const struct code *c = f->code;
    return f->undefined->from + (op < c->pred_bytes ? c->frame_bytes / 2 + op * 8 : op / 2);
}
static void clear(struct frame *f, u32 op, u32 m) {
    f->undefined->lanes[op / 4] &= ~m;
}
static void mark(struct frame *f, u32 op, u32 lane, u16 from) {
    f->undefined->lanes[op / 4] |= 1u << lane;
    sources(f, op)[lane] = from;
}

static bool frame_marks(struct frame *f) {
    if (f->undefined) return true;
    size_t words = f->code->frame_bytes / 4, places = words * 2 + (size_t)f->code->pred_bytes * 8;
    struct undefined *u = calloc(1, sizeof *u + words * sizeof *u->lanes + places * sizeof *u->from);
    if (!u) return false;
    u->lanes = (u32 *)(u + 1);
    u->from = (u16 *)(u->lanes + words);
    f->undefined = u;
    return true;
}

/* Row op of the lowest of these lanes is the finding. */
static bool report(struct warp *w, const struct split *s, const struct insn *in, u32 op, u32 lanes, const char *how) {
    u32 lane = (u32)__builtin_ctz(lanes), from = sources(s->frame, op)[lane] - 1u;
    const struct origin *o = &w->origins[from / 32];
    struct insn load = *in;
    load.line = o->line;
    vm_fault_at(w, s, &load, (int)lane, VM_LAUNCH_FAILED, "uninitialized load", o->address[from % 32],
                "%u bytes that were never written, and line %u %s, %s", o->bytes, in->line, how, o->near);
    return false;
}

/* The operand must be written in lanes m. */
static bool needed(struct warp *w, const struct split *s, const struct insn *in, u32 op, u32 m, const char *how) {
    u32 bad = marks(s->frame, op) & m;
    return !bad || report(w, s, in, op, bad, how);
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
    u32 of[3] = {a & m & all, b & m & all, c & m & all}, rows_of[4] = {in->a, in->b, in->c, in->e};
    u16 from[32]; /* d may be one of them */
    EACH_LANE(i, m & all) {
        int k = 0;
        while (k < 3 && !(of[k] >> i & 1)) k++;
        from[i] = sources(f, rows_of[k])[i];
    }
    clear(f, in->d, m);
    EACH_LANE(i, m & all) mark(f, in->d, i, from[i]);
}

bool vm_undefined_step(struct warp *w, const struct split *s, const struct insn *in, u32 mask) {
    struct frame *f = s->frame;
    if (!f->undefined || in->kind == K_JOIN) return true;
    u32 m = mask;
    if (in->guard != NO_GUARD) {
        u32 at = (in->guard & 0x7fff) * 4, g = ((const u32 *)f->regs)[at / 4], bad = marks(f, at) & mask;
        m &= in->guard & GUARD_NOT ? ~g : g;
        if (bad && (in->kind == K_BRA || in->kind == K_OP)) return report(w, s, in, at, bad, "goes where they say");
        EACH_LANE(i, bad) mark(f, in->d, i, sources(f, at)[i]); /* written or not, nobody knows */
        m &= ~bad;
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
            if (x->ops[e] != NO_ROW) clear(f, x->ops[e], m);
        return true;
    }
    if (in->op == op_stmatrix || in->op == op_wmma_store)
        return needed(w, s, in, in->a, m, "uses them as an address") && needed(w, s, in, in->b, m, "uses them");
    if (in->op == op_mma || in->op == op_movmatrix) return true;                  /* the rest is theirs */
    if (in->op == op_shfl) return needed(w, s, in, in->b, m, "shuffles by them"); /* the rest is op_shfl's */
    if (in->op == op_stparam) return true;
    if (in->op != op_ldparam && in->op != op_sreg && in->op != op_local)
        for (int k = 0; k < 3; k++)
            if (!needed(w, s, in, k == 0 ? in->a : k == 1 ? in->b : in->c, m, "uses them")) return false;
    if (in->d != NO_ROW && !(in->d & 1)) clear(f, in->d, m);
    for (int e = 0; x && x->ops && e < x->n; e++)
        if (x->ops[e] != NO_ROW && !(x->ops[e] & 1)) clear(f, x->ops[e], m);
    return true;
}

u32 vm_undefined_lanes(const struct frame *f, u32 op) {
    return f->undefined ? marks(f, op) : 0;
}
u16 vm_undefined_from(const struct frame *f, u32 op, u32 lane) {
    return vm_undefined_lanes(f, op) >> lane & 1 ? sources(f, op)[lane] : 0;
}
void vm_undefined_put(struct frame *f, u32 op, u32 m, const u16 from[32]) {
    u32 any = 0;
    EACH_LANE(i, m) any |= from[i];
    if (!f->undefined && (!any || !frame_marks(f))) return;
    clear(f, op, m);
    EACH_LANE(i, m) if (from[i]) mark(f, op, i, from[i]);
}

void vm_undefined_shuffle(struct frame *to, u32 d, const struct frame *from, u32 a, const u32 *lane_from, u32 m) {
    u16 marks_of[32];
    EACH_LANE(i, m) marks_of[i] = vm_undefined_from(from, a, lane_from[i] & 31);
    vm_undefined_put(to, d, m, marks_of);
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

bool vm_undefined_bytes(struct warp *w, u32 lane, const u8 *p, u32 bytes) {
    const u8 *shadow = shadow_at(w, lane, p);
    bool some = !shadow;
    for (u32 k = 0; shadow && k < bytes; k++) some |= shadow[k] & SHADOW_INIT;
    return !some;
}

void vm_undefined_copied(struct warp *w, u32 lane, u8 *to, const u8 *from, u32 bytes) {
    const u8 *shadow = shadow_at(w, lane, from);
    u8 *its = shadow_at(w, lane, to);
    w->unwritten = 0;
    for (u32 k = 0; shadow && its && k < bytes; k++)
        if (!(shadow[k] & SHADOW_INIT)) its[k] = SHADOW_ADDRESSABLE;
}

/* Its place among those of the warp: a new one, or, of a warp with so many, its last of the same line. */
static u32 new_origin(struct warp *w, u32 line) {
    if (w->n_origins < MAX_ORIGINS) return w->n_origins++;
    u32 at = MAX_ORIGINS;
    while (at && w->origins[at - 1].line != line) at--;
    return at ? at - 1 : 0;
}

u16 vm_undefined_origin(struct warp *w, struct split *s, const struct insn *in, u32 m, u32 bytes, const u64 *addr,
                        u8 **p) {
    if (!frame_marks(s->frame)) return 0;
    if (!w->origins && !(w->origins = malloc(MAX_ORIGINS * sizeof *w->origins))) return 0;
    u32 at = new_origin(w, in->line), first = (u32)__builtin_ctz(m);
    struct origin *o = &w->origins[at];
    *o = (struct origin){.line = in->line, .bytes = bytes};
    EACH_LANE(i, m) o->address[i] = addr[i];
    if (p[first] >= vm_arena && p[first] < vm_arena + vm_arena_bytes)
        vm_memory_nearest(addr[first], o->near, sizeof o->near);
    else if (p[first] >= w->block->shared && p[first] < w->block->shared + w->block->shared_bytes)
        __builtin_snprintf(o->near, sizeof o->near, "nearest allocation shared memory of %u bytes",
                           w->block->shared_bytes);
    else
        __builtin_snprintf(o->near, sizeof o->near, "nearest allocation local memory of %u bytes", w->local_stride);
    w->undefined = true;
    return (u16)(1 + 32 * at);
}

void vm_undefined_loaded(struct warp *w, struct split *s, const struct insn *in, u32 m, const u64 *addr, u8 **p) {
    const struct ext *x = in->ext;
    u32 bytes = x->bytes;
    m &= w->unwritten;
    w->unwritten = 0;
    u16 from = 0;
    for (int e = 0; e < x->n; e++) {
        if (x->ops[e] == NO_ROW) continue;
        EACH_LANE(i, m) {
            if (!vm_undefined_bytes(w, i, p[i] + (u32)e * bytes, bytes)) continue;
            if (!from && !(from = vm_undefined_origin(w, s, in, m, bytes, addr, p))) return;
            mark(s->frame, x->ops[e], i, (u16)(from + i));
        }
    }
}

bool vm_undefined_store(struct warp *w, struct split *s, const struct insn *in, u32 op, u32 lane, u8 *to, u32 bytes) {
    if (!(marks(s->frame, op) >> lane & 1)) return true;
    u8 *shadow = shadow_at(w, lane, to);
    if (to >= vm_arena && to < vm_arena + vm_arena_bytes && bytes > 1)
        return report(w, s, in, op, 1u << lane, "stores what comes of them");
    if (shadow) memset(shadow, SHADOW_ADDRESSABLE, bytes);
    return true;
}

bool vm_undefined_stored(struct warp *w, struct split *s, const struct insn *in, u32 m, u8 space, u8 **p) {
    const struct ext *x = in->ext;
    struct frame *f = s->frame;
    if (!f->undefined) return true;
    for (int e = 0; e < x->n; e++) {
        u32 bad = marks(f, x->ops[e]) & m;
        EACH_LANE(i, bad) {
            if (space == SP_GLOBAL && x->bytes > 1)
                return report(w, s, in, x->ops[e], 1u << i, "stores what comes of them");
            if (!vm_undefined_store(w, s, in, x->ops[e], i, p[i] + (u32)e * x->bytes, x->bytes)) return false;
        }
    }
    return true;
}
