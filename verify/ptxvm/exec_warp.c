/* The interpreter of one warp: the loop over instructions, masking, splits and joins, calls.
 *
 * Invariants: 1. the masks of a warp's splits and the arrived masks of its joins are disjoint, and together they are
 * the live lanes. 2. A split's innermost join contains its lanes in `expected`. 3. A join whose arrived lanes are all
 * it expects becomes a split. Lanes that exit leave every join. */
#include "verify/ptxvm/machine.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#include <fenv.h>

const row_fn *vm_rows(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return vm_rows_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return vm_rows_avx2;
#endif
    return vm_rows_base;
}

static void set_fp(struct worker *k, int fp) {
    k->fp = fp;
#if defined(__x86_64__)
    _mm_setcsr(0x1f80u | (unsigned)(fp & 3) << 13 | (fp & FP_FTZ ? 0x8040u : 0));
#endif
}

/* ---- frames ---- */
enum { LOCAL_LIMIT = 1 << 20, LOCAL_ZONE = 16 };

/* Room for so many bytes of local memory in every lane; the lanes' stacks move apart. */
static bool reserve_local(struct warp *w, u64 need) {
    if (need <= w->local_stride) return true;
    u32 stride = w->local_stride ? w->local_stride : 1024;
    while (stride < need && stride < LOCAL_LIMIT) stride *= 2;
    u8 *a = need > LOCAL_LIMIT - 64 ? NULL : calloc(32, stride), *b = a ? calloc(32, stride) : NULL;
    if (!b) {
        free(a);
        return false;
    }
    for (u32 i = 0; i < 32 && w->local_stride; i++) {
        memcpy(a + (size_t)i * stride, w->local + (size_t)i * w->local_stride, w->local_stride);
        memcpy(b + (size_t)i * stride, w->local_shadow + (size_t)i * w->local_stride, w->local_stride);
    }
    free(w->local);
    free(w->local_shadow);
    w->local = a, w->local_shadow = b;
    w->local_stride = stride;
    return true;
}

struct frame *vm_frame_new(struct warp *w, struct code *c, struct frame *caller) {
    struct worker *k = w->block->worker;
    u32 formals = c->f->is_entry ? 0 : c->formal_bytes;
    size_t regs = (c->frame_bytes + 63u) & ~63u;
    size_t bytes = ((sizeof(struct frame) + 63) & ~(size_t)63) + regs + (size_t)32 * (formals + c->args_bytes);
    struct frame *f = NULL;
    for (struct frame **p = &k->free_frames; *p; p = &(*p)->next_free) {
        if ((*p)->bytes < bytes || (*p)->bytes > 2 * bytes + 4096) continue;
        f = *p;
        *p = f->next_free;
        bytes = f->bytes;
        break;
    }
    if (f) free(f->undefined);
    if (!f && posix_memalign((void **)&f, 64, (bytes + 63) & ~(size_t)63)) return NULL;
    memset(f, 0, sizeof *f);
    f->bytes = bytes;
    f->code = c;
    f->caller = caller;
    f->depth = caller ? caller->depth + 1 : 0;
    f->local_base = caller ? caller->local_top : LOCAL_ZONE;
    f->local_top = f->local_base + c->local_bytes;
    f->regs = (u8 *)f + ((sizeof(struct frame) + 63) & ~(size_t)63);
    memset(f->regs, 0, regs);
    f->base[0] = f->regs;
    f->base[1] = c->pool;
    f->formals = f->regs + regs;
    f->formal_stride = formals;
    f->args = f->formals + 32 * (size_t)formals;
    f->args_stride = c->args_bytes;
    if (c->f->is_entry) f->formals = w->block->worker->launch->params;
    if (!reserve_local(w, (u64)f->local_top + LOCAL_ZONE)) {
        f->next_free = k->free_frames;
        k->free_frames = f;
        return NULL;
    }
    if (c->local_bytes)
        for (u32 i = 0; i < 32; i++) {
            u8 *shadow = w->local_shadow + (size_t)i * w->local_stride + f->local_base;
            memset(shadow, 0, c->local_bytes);
            for (int v = 0; v < c->f->n_locals; v++)
                if (c->f->locals[v]->space == SP_LOCAL)
                    memset(shadow + c->f->locals[v]->addr, SHADOW_ADDRESSABLE, c->f->locals[v]->bytes);
            for (int v = 0; v < c->f->n_params; v++)
                if (c->f->params[v]->address_taken)
                    memset(shadow + c->f->params[v]->copy, SHADOW_ADDRESSABLE, c->f->params[v]->bytes);
        }
    return f;
}

void vm_frame_drop(struct warp *w, struct frame *f, u32 mask) {
    f->live &= ~mask;
    if (f->live) return;
    f->next_free = w->block->worker->free_frames;
    w->block->worker->free_frames = f;
}

/* ---- splits and joins ---- */
static int new_split(struct warp *w, u32 pc, u32 mask, struct frame *f, int join) {
    struct split *s = &w->splits[w->n_splits];
    *s = (struct split){.pc = pc, .mask = mask, .frame = f, .join = (s16)join};
    return w->n_splits++;
}
static void drop_split(struct warp *w, struct split *s) {
    int i = (int)(s - w->splits);
    w->n_splits--;
    for (int k = i; k < w->n_splits; k++) w->splits[k] = w->splits[k + 1];
    if (w->current >= i && w->current > 0) w->current--;
}

/* Joins that need no waiting any more become splits. */
static void complete_joins(struct warp *w) {
    for (int j = w->n_joins - 1; j >= 0; j--) {
        struct join *J = &w->joins[j];
        if (!J->used) continue;
        if (!J->expected)
            J->used = false;
        else if (J->arrived == J->expected && w->n_splits < 32) {
            J->used = false;
            new_split(w, J->pc, J->arrived, J->frame, J->parent);
        }
    }
    while (w->n_joins && !w->joins[w->n_joins - 1].used) w->n_joins--;
}

/* The lanes of s leave its joins that belong to a frame (NULL: all of them). */
void vm_leave_joins(struct warp *w, struct split *s, const struct frame *of) {
    while (s->join >= 0 && (!of || w->joins[s->join].frame == of)) {
        struct join *J = &w->joins[s->join];
        J->expected &= ~s->mask;
        s->join = J->parent;
    }
    complete_joins(w);
}

void vm_lanes_exit(struct warp *w, struct split *s, u32 mask) {
    for (int j = 0; j < w->n_joins; j++)
        if (w->joins[j].used) w->joins[j].expected &= ~mask;
    w->live &= ~mask;
    for (struct frame *f = s->frame; f;) {
        struct frame *caller = f->caller;
        f->live &= ~mask;
        if (!f->live) {
            f->next_free = w->block->worker->free_frames;
            w->block->worker->free_frames = f;
        }
        f = caller;
    }
    s->mask &= ~mask;
    if (!s->mask) drop_split(w, s);
    complete_joins(w);
    for (int i = 0; i < w->n_splits; i++)
        if (w->splits[i].state == SPLIT_SYNC) w->splits[i].state = SPLIT_RUN; /* fewer lanes to wait for */
}

/* Splits s n ways; pcs equal to rejoin arrive there at once. The first part that runs on keeps the place of s. */
enum step vm_diverge(struct warp *w, struct split *s, u32 n, const u32 *masks, const u32 *pcs, u32 rejoin) {
    int j = s->join;
    u32 at_join = 0;
    struct frame *f = s->frame;
    if (rejoin != NO_TARGET && !(j >= 0 && w->joins[j].pc == rejoin && w->joins[j].frame == f)) {
        int free_slot = 0;
        while (free_slot < w->n_joins && w->joins[free_slot].used) free_slot++;
        if (free_slot < MAX_JOINS) {
            if (free_slot == w->n_joins) w->n_joins++;
            w->joins[free_slot] =
                (struct join){.pc = rejoin, .expected = s->mask, .frame = f, .parent = (s16)j, .used = true};
            j = free_slot;
        } else {
            rejoin = NO_TARGET; /* more nesting than there are lanes to nest: run on apart */
        }
    }
    bool placed = false;
    for (u32 i = 0; i < n; i++) {
        if (!masks[i]) continue;
        if (rejoin != NO_TARGET && pcs[i] == rejoin) {
            at_join |= masks[i];
        } else if (!placed) {
            s->pc = pcs[i], s->mask = masks[i], s->join = (s16)j;
            placed = true;
        } else {
            new_split(w, pcs[i], masks[i], f, j);
        }
    }
    if (at_join) w->joins[j].arrived |= at_join;
    if (!placed) {
        drop_split(w, s);
        complete_joins(w);
    }
    return STEP_SWITCH;
}

/* Nothing runs, but lanes wait at joins for others that cannot come: the innermost such join lets its lanes go. */
static bool release_a_join(struct warp *w) {
    for (int j = w->n_joins - 1; j >= 0; j--) {
        struct join *J = &w->joins[j];
        if (!J->used || !J->arrived || w->n_splits >= 32) continue;
        u32 lanes_out = J->arrived;
        J->arrived = 0;
        J->expected &= ~lanes_out;
        new_split(w, J->pc, lanes_out, J->frame, J->parent);
        complete_joins(w);
        return true;
    }
    return false;
}

/* Chooses a split that can run; false: none. */
static bool pick(struct warp *w, bool rotate) {
    for (int k = rotate ? 1 : 0; k <= w->n_splits; k++) {
        int i = w->n_splits ? (w->current + k) % w->n_splits : 0;
        if (i < w->n_splits && w->splits[i].state == SPLIT_RUN) {
            w->current = i;
            return true;
        }
    }
    return false;
}

static void blend(void *d, const void *t, u32 m, int size) {
    switch (size) {
    case 0:
        *(u32 *)d = (*(u32 *)d & ~m) | (*(const u32 *)t & m);
        break;
    case 2:
        for (int i = 0; i < 32; i++) ((u16 *)d)[i] = m >> i & 1 ? ((const u16 *)t)[i] : ((u16 *)d)[i];
        break;
    case 4:
        for (int i = 0; i < 32; i++) ((u32 *)d)[i] = m >> i & 1 ? ((const u32 *)t)[i] : ((u32 *)d)[i];
        break;
    default:
        for (int i = 0; i < 32; i++) ((u64 *)d)[i] = m >> i & 1 ? ((const u64 *)t)[i] : ((u64 *)d)[i];
        break;
    }
}

void vm_warp_start(struct warp *w) {
    w->n_splits = w->n_joins = w->current = 0;
    w->done = false;
    struct frame *f = vm_frame_new(w, w->block->worker->launch->code, NULL);
    if (!f) {
        w->done = true;
        return;
    }
    f->live = w->live;
    new_split(w, 0, w->live, f, -1);
}

enum { SPLIT_QUANTUM = 4096 };

/* careful: every instruction is shown to the checker of registers first. */
static inline __attribute__((always_inline)) enum run run_warp(struct warp *w, s64 *steps, bool careful) {
    struct worker *k = w->block->worker;
    struct vm_counters *n = &k->counters;
    bool rotate = false;
next_split:
    if (!w->n_splits) {
        if (!release_a_join(w)) {
            w->done = true;
            return RUN_DONE;
        }
    }
    if (!pick(w, rotate)) {
        bool sync = false;
        for (int i = 0; i < w->n_splits; i++) sync |= w->splits[i].state == SPLIT_SYNC;
        if (!sync || !release_a_join(w) || !pick(w, false)) return RUN_BLOCKED;
    }
    if (*steps <= 0) return RUN_BUDGET;
    struct split *s = &w->splits[w->current];
    struct frame *f = s->frame;
    const struct insn *code = f->code->insns;
    const u8 *base[2] = {f->base[0], f->base[1]};
    u32 *preds = (u32 *)f->regs;
    u32 pc = s->pc, mask = s->mask;
    s64 limit = *steps - SPLIT_QUANTUM;
    if (limit < 0) limit = 0;
    s64 left = *steps;
    for (;;) {
        const struct insn *in = &code[pc];
        u32 m = mask;
        left--;
        if (__builtin_expect(w->undefined, 0) && !vm_undefined_step(w, s, in, mask)) return RUN_FAULT;
        if (in->guard != NO_GUARD) {
            u32 g = preds[in->guard & 0x7fff];
            m &= in->guard & GUARD_NOT ? ~g : g;
            if (!m && in->kind != K_BRA) {
                pc++;
                continue;
            }
        }
        n->warp_instructions[in->cls]++;
        n->lane_instructions[in->cls] += lanes(m);
        if (careful && !vm_flying_check(w, s, in)) return RUN_FAULT;
        switch (in->kind) {
        case K_ROW:
        case K_ROW4: {
            if (in->fp != k->fp && in->fp != FP_ANY) set_fp(k, in->fp);
            void *d = (void *)(base[0] + in->d);
            u32 *x = in->kind == K_ROW ? preds : (u32 *)(base[in->e & 1] + (in->e & ~1u));
            const void *a = base[in->a & 1] + (in->a & ~1u), *b = base[in->b & 1] + (in->b & ~1u),
                       *c = base[in->c & 1] + (in->c & ~1u);
            if (m == ~0u) {
                in->row(d, a, b, c, in, x);
            } else {
                u64 tmp[32];
                u32 carry = preds[0];
                in->row(tmp, a, b, c, in, x);
                blend(d, tmp, m, in->dsize);
                preds[0] = (carry & ~m) | (preds[0] & m);
            }
            pc++;
            break;
        }
        case K_BRA: {
            n->branches++;
            u32 other = mask & ~m;
            if (!other)
                pc = in->target;
            else if (!m)
                pc++;
            else {
                n->divergent_branches++;
                u32 masks[2] = {other, m}, pcs[2] = {pc + 1, in->target};
                s->pc = pc;
                *steps = left;
                vm_diverge(w, s, 2, masks, pcs, in->rejoin);
                rotate = false;
                goto next_split;
            }
            if (left <= limit) {
                s->pc = pc;
                *steps = left;
                rotate = true;
                if (left <= 0) return RUN_BUDGET;
                goto next_split;
            }
            break;
        }
        case K_JOIN: {
            n->warp_instructions[in->cls]--; /* it is ours, not the program's */
            n->lane_instructions[in->cls] -= lanes(m);
            struct join *J = s->join >= 0 ? &w->joins[s->join] : NULL;
            if (!J || J->pc != pc || J->frame != f) {
                pc++;
                break;
            }
            J->arrived |= mask;
            if (J->arrived == J->expected) {
                s->mask = mask = J->expected;
                s->join = J->parent;
                J->used = false;
                break; /* the same place may end the join around it too */
            }
            *steps = left;
            drop_split(w, s);
            complete_joins(w);
            rotate = false;
            goto next_split;
        }
        default: {
            s->pc = pc;
            *steps = left;
            if (k->fp) set_fp(k, 0);
            switch (in->op(w, s, in, m)) {
            case STEP_NEXT:
                pc++;
                break;
            case STEP_FAULT:
                return RUN_FAULT;
            case STEP_YIELD:
                s->pc = pc + 1;
                if (w->n_splits == 1 || w->careful != careful) return RUN_BUDGET;
                rotate = true;
                goto next_split;
            default:
                rotate = false;
                goto next_split;
            }
            break;
        }
        }
    }
}

static __attribute__((noinline)) enum run run_carefully(struct warp *w, s64 *steps) {
    return run_warp(w, steps, true);
}
enum run vm_warp_run(struct warp *w, s64 *steps) {
    return w->careful ? run_carefully(w, steps) : run_warp(w, steps, false);
}

/* ---- control flow that is no plain branch ---- */
enum step op_exit(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)in;
    if (mask != s->mask) s->pc++; /* the rest goes on */
    vm_lanes_exit(w, s, mask);
    return STEP_SWITCH;
}

/* What a lane's stack has above `to` is gone. */
static void stack_back(struct warp *w, struct frame *f, u32 lane, u32 to) {
    if (f->stack[lane] <= to) return;
    memset(w->local_shadow + (size_t)lane * w->local_stride + to, 0, f->stack[lane] - to);
    f->stack[lane] = to;
}

enum step op_ret(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    struct frame *f = s->frame;
    if (!f->caller) return op_exit(w, s, in, mask);
    const struct ext *x = f->call->ext;
    EACH_LANE(i, mask)
    for (int k = x->n_in; k < x->n_in + x->n_out; k++)
        memcpy(f->caller->args + (size_t)i * f->caller->args_stride + x->arg_from[k],
               f->formals + (size_t)i * f->formal_stride + x->arg_to[k], x->arg_bytes[k]);
    EACH_LANE(i, mask) stack_back(w, f, i, f->local_base + f->code->local_bytes);
    vm_leave_joins(w, s, f);
    s->frame = f->caller;
    s->pc = f->ret_pc;
    vm_frame_drop(w, f, mask);
    return STEP_SWITCH;
}

/* mode 0 alloca: in->a size, x->m alignment; 1 stacksave; 2 stackrestore: in->a. x->bytes: of addresses and sizes. The
 * stack grows upwards here. */
enum step op_stack(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    struct frame *f = s->frame;
    EACH_LANE(i, mask) {
        u32 start = f->local_base + f->code->local_bytes, top = f->stack[i] ? f->stack[i] : start;
        u64 v = in->a == NO_ROW ? 0 : row_get(row(f, in->a), i, x->bytes);
        if (x->mode == 2) {
            if (v < start || v > top)
                return vm_fault_at(w, s, in, (int)i, VM_LAUNCH_FAILED, "bad stack pointer", v,
                                   "stackrestore to what stacksave did not give: the stack is from %u to %u", start,
                                   top);
            stack_back(w, f, i, (u32)v);
            continue;
        }
        if (x->mode == 0) {
            u64 at = (top + (u64)x->m - 1) & ~(u64)(x->m - 1);
            if (v > LOCAL_LIMIT || !reserve_local(w, at + v + 2 * LOCAL_ZONE))
                return vm_fault_at(w, s, in, (int)i, VM_STACK_ERROR, "stack overflow", v,
                                   "alloca of %llu bytes with %u in use", (unsigned long long)v, top);
            memset(w->local_shadow + (size_t)i * w->local_stride + at, SHADOW_ADDRESSABLE, v);
            f->stack[i] = (u32)(at + v + LOCAL_ZONE);
            if (f->stack[i] > f->local_top) f->local_top = f->stack[i];
            top = (u32)at;
        }
        row_put(row(f, in->d), i, x->bytes, top);
    }
    return STEP_NEXT;
}

static enum step enter(struct warp *w, struct split *s, const struct insn *in, u32 mask, struct code *c, u32 ret_pc) {
    const struct ext *x = in->ext;
    struct frame *caller = s->frame;
    struct frame *f = caller->depth < 20000 ? vm_frame_new(w, c, caller) : NULL;
    if (!f)
        return vm_fault_at(w, s, in, __builtin_ctz(mask), VM_STACK_ERROR, "stack overflow", 0,
                           "the call stack is %u deep", caller->depth);
    f->call = in;
    f->ret_pc = ret_pc;
    f->root_pc = caller->caller ? caller->root_pc : s->pc;
    f->live = mask;
    EACH_LANE(i, mask)
    for (int k = 0; k < x->n_in; k++)
        if (x->arg_to[k] + x->arg_bytes[k] <= f->formal_stride)
            memcpy(f->formals + (size_t)i * f->formal_stride + x->arg_to[k],
                   caller->args + (size_t)i * caller->args_stride + x->arg_from[k], x->arg_bytes[k]);
    s->frame = f;
    s->pc = 0;
    return STEP_SWITCH;
}

enum step op_call(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    if (mask != s->mask) { /* guarded: a branch around the call; the JOIN behind it is at pc + 1 */
        u32 masks[2] = {s->mask & ~mask, mask}, pcs[2] = {s->pc + 1, s->pc};
        return vm_diverge(w, s, 2, masks, pcs, s->pc + 1);
    }
    if (x->callee) return enter(w, s, in, mask, x->callee, s->pc + 1);
    const u64 *to = row(s->frame, in->a);
    u32 first = (u32)__builtin_ctz(mask), same = 0;
    EACH_LANE(i, mask) same |= (u32)(to[i] == to[first]) << i;
    if (same != mask) {
        u32 masks[2] = {mask & ~same, same}, pcs[2] = {s->pc, s->pc};
        return vm_diverge(w, s, 2, masks, pcs, s->pc + 1);
    }
    struct code *c = vm_code_at(to[first]);
    if (!c || !c->decoded)
        return vm_fault_at(w, s, in, (int)first, VM_ILLEGAL_INSTRUCTION, "bad call", to[first],
                           "an indirect call to what is no function");
    return enter(w, s, in, mask, c, s->pc + 1);
}

enum step op_brx(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    const u32 *index = row(s->frame, in->a);
    u32 masks[33], pcs[33], n = 0, left = mask;
    if (mask != s->mask) masks[n] = s->mask & ~mask, pcs[n++] = s->pc + 1;
    while (left) {
        u32 first = (u32)__builtin_ctz(left), at = index[first], same = 0;
        if (at >= (u32)x->n_targets)
            return vm_fault_at(w, s, in, (int)first, VM_ILLEGAL_INSTRUCTION, "bad branch", at,
                               "brx.idx with index %u of %d", at, x->n_targets);
        EACH_LANE(i, left) same |= (u32)(index[i] == at) << i;
        left &= ~same;
        masks[n] = same;
        pcs[n++] = x->targets[at];
    }
    w->block->worker->counters.branches++;
    if (n == 1) {
        s->pc = pcs[0];
        return STEP_SWITCH;
    }
    w->block->worker->counters.divergent_branches++;
    return vm_diverge(w, s, n, masks, pcs, in->rejoin);
}

enum step op_trap(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    return vm_fault_at(w, s, in, __builtin_ctz(mask), VM_LAUNCH_FAILED, "trap", 0, "the program executed a trap");
}
