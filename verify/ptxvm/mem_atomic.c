/* Atomic operations and reductions, fences, asynchronous copies of a thread (cp.async). */
#include "verify/ptxvm/mem_access.h"

#include <stdlib.h>
#include <string.h>

static pthread_mutex_t atomic_lock = PTHREAD_MUTEX_INITIALIZER;

enum atom_op { A_EXCH, A_ADD, A_INC, A_DEC, A_AND, A_OR, A_XOR, A_MIN, A_MAX, A_CAS };

static u64 half_op(int op, enum ptx_type t, u64 x, u64 y) {
    double a = vm_float_unpack(x & 0xffff, t), b = vm_float_unpack(y & 0xffff, t), r;
    if (op == A_ADD)
        r = a + b;
    else if (a != a)
        r = b;
    else if (b != b)
        r = a;
    else if (op == A_MIN)
        r = a < b || (a == b && __builtin_signbit(a)) ? a : b;
    else
        r = a > b || (a == b && !__builtin_signbit(a)) ? a : b;
    return vm_float_pack(r, t, 'n', false);
}

static u64 combine(int op, enum ptx_type t, u64 x, u64 y, u64 z) {
    int bytes = ptx_type_bytes(t);
    u64 keep = bytes >= 8 ? ~0ull : (1ull << 8 * bytes) - 1;
    switch (op) {
    case A_EXCH:
        return y;
    case A_CAS:
        return x == (y & keep) ? z : x;
    case A_AND:
        return x & y;
    case A_OR:
        return x | y;
    case A_XOR:
        return x ^ y;
    case A_INC:
        return (u32)x >= (u32)y ? 0 : (u32)x + 1;
    case A_DEC:
        return !x || (u32)x > (u32)y ? (u32)y : (u32)x - 1;
    default:
        break;
    }
    switch (t) {
    case PT_F32: {
        float a, b;
        u32 p = (u32)x, q = (u32)y;
        memcpy(&a, &p, 4);
        memcpy(&b, &q, 4);
        float r = op == A_ADD ? a + b : a != a ? b : b != b ? a : op == A_MIN ? (a < b ? a : b) : a > b ? a : b;
        memcpy(&p, &r, 4);
        return r != r ? 0x7fffffff : p;
    }
    case PT_F64: {
        double a, b;
        memcpy(&a, &x, 8);
        memcpy(&b, &y, 8);
        double r = op == A_ADD ? a + b : op == A_MIN ? (a < b ? a : b) : a > b ? a : b;
        u64 u;
        memcpy(&u, &r, 8);
        return u;
    }
    case PT_F16:
    case PT_BF16:
        return half_op(op, t, x, y);
    case PT_F16X2:
    case PT_BF16X2: {
        enum ptx_type e = t == PT_F16X2 ? PT_F16 : PT_BF16;
        return half_op(op, e, x, y) | half_op(op, e, x >> 16, y >> 16) << 16;
    }
    case PT_S32:
        if (op == A_MIN) return (s32)x < (s32)y ? x : y;
        if (op == A_MAX) return (s32)x > (s32)y ? x : y;
        return x + y;
    case PT_S64:
        if (op == A_MIN) return (s64)x < (s64)y ? x : y;
        if (op == A_MAX) return (s64)x > (s64)y ? x : y;
        return x + y;
    default:
        if (op == A_MIN) return (x & keep) < (y & keep) ? x : y;
        if (op == A_MAX) return (x & keep) > (y & keep) ? x : y;
        return x + y;
    }
}

u64 vm_atomic_value(int op, enum ptx_type t, u64 old, u64 value) {
    return combine(op, t, old, value, 0);
}

/* Additions of f32 flush subnormals in global memory, and in shared memory they do not (PTX ISA, atom). */
static u64 flushed(u64 v) {
    return v & 0x7f800000 ? v : v & 0x80000000;
}
static u64 add_f32_global(u64 x, u64 y) {
    return flushed(combine(A_ADD, PT_F32, flushed(x), flushed(y), 0));
}

/* ext: mode operation; type; n elements (vectors), ops: n results (NO_ROW: red), n values, then the second of cas */
enum step op_atom(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    u64 addr[32];
    u8 *p[32];
    u32 n = (u32)x->m, bytes = x->bytes;
    if (!m) return STEP_NEXT;
    u8 space = vm_addresses(w, s, in, x, m, addr);
    if (!vm_pointers(w, s, in, space, addr, m, bytes * n, ACCESS_ATOMIC, p)) return STEP_FAULT;
    bool locked = vm_settings()->threads > 1 && space != SP_SHARED;
    if (w->block->gang_check && x->order) vm_race_order(w, addr, m, x->order);
    if (w->block->gang_check) note_write(w, s, m);
    if (locked) pthread_mutex_lock(&atomic_lock);
    if (bytes == 16) {
        EACH_LANE(i, m) {
            u8 old[16];
            const u8 *y = (const u8 *)row(s->frame, x->ops[1]) + 16 * i;
            memcpy(old, p[i], 16);
            if (x->mode == A_EXCH)
                memcpy(p[i], y, 16);
            else if (!memcmp(old, y, 16))
                memcpy(p[i], (const u8 *)row(s->frame, x->ops[2]) + 16 * i, 16);
            if (x->ops[0] != NO_ROW) memcpy((u8 *)row(s->frame, x->ops[0]) + 16 * i, old, 16);
        }
    } else {
        EACH_LANE(i, m)
        for (u32 e = 0; e < n; e++) {
            u64 old = 0, new;
            memcpy(&old, p[i] + e * bytes, bytes);
            u64 y = row_get(row(s->frame, x->ops[n + e]), i, x->sizes[n + e]),
                z = x->mode == A_CAS ? row_get(row(s->frame, x->ops[2 * n]), i, x->sizes[2 * n]) : 0;
            bool global = space != SP_SHARED && (space != SP_GENERIC || vm_space_of(addr[i]) == SP_GLOBAL);
            if (x->type == PT_F32 && x->mode == A_ADD && global)
                new = add_f32_global(old, y);
            else
                new = combine(x->mode, x->type, old, y, z);
            memcpy(p[i] + e * bytes, &new, bytes);
            if (x->ops[e] != NO_ROW) row_put(row(s->frame, x->ops[e]), i, x->sizes[e], old);
        }
    }
    if (locked) pthread_mutex_unlock(&atomic_lock);
    return x->mode == A_CAS || x->mode == A_EXCH ? STEP_YIELD : STEP_NEXT;
}

/* mode 1: of the async proxy */
enum step op_fence(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    (void)s;
    if (w->block->gang_check) vm_race_fence(w, m, x->mode);
    return STEP_NEXT;
}

/* mapa: the address of the same shared variable in another block of the cluster. mode 0: shared window offsets, 1:
 * generic */
enum step op_mapa(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    const u32 *rank = row(s->frame, in->b);
    (void)w;
    EACH_LANE(i, m) {
        u64 a = row_get(row(s->frame, in->a), i, x->bytes), base = x->mode ? VM_SHARED_WINDOW : 0;
        if (x->mode2 == 0) { /* mapa */
            a = base + ((a - base) & ((1u << VM_RANK_SHIFT) - 1)) + ((u64)(rank[i] + 1) << VM_RANK_SHIFT);
        } else { /* getctarank */
            u32 r = (u32)((a - base) >> VM_RANK_SHIFT);
            a = r ? r - 1 : w->block->rank;
        }
        row_put(row(s->frame, in->d), i, in->dsize, a);
    }
    return STEP_NEXT;
}

/* ---- cp.async ----
 * The bytes arrive at once; with checks on, the destination counts as in flight until the copying thread has waited for
 * its group, so that reading it earlier, or from another thread with no barrier after the wait, is a race. */
bool vm_note_copy(struct warp *w, struct async_copy copy) {
    if (w->n_copies == w->cap_copies) {
        int cap = w->cap_copies ? w->cap_copies * 2 : 256;
        struct async_copy *a = realloc(w->copies, (size_t)cap * sizeof *a);
        if (!a) return false;
        w->copies = a;
        w->cap_copies = cap;
    }
    w->copies[w->n_copies++] = copy;
    return true;
}

/* ext: bytes copied; ops[0] source size row or NO_ROW; ops[1] ignore-src predicate or NO_ROW; the source address is
 * in->b with x->k bytes of element and offset x->m; the destination in->a */
enum step op_cpasync(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    u64 dst[32];
    u8 *p[32];
    if (!m) return STEP_NEXT;
    vm_addresses(w, s, in, x, m, dst);
    if (!vm_pointers(w, s, in, SP_SHARED, dst, m, x->bytes, ACCESS_STORE, p)) return STEP_FAULT;
    u64 from[32];
    u32 reads = 0;
    EACH_LANE(i, m) {
        u64 base = in->b == NO_ROW ? 0 : row_get(row(s->frame, in->b), i, x->k);
        from[i] = base + (u64)(s64)x->m;
        u32 n = x->ops[0] == NO_ROW ? x->bytes : ((const u32 *)row(s->frame, x->ops[0]))[i];
        if (x->ops[1] != NO_ROW && *(const u32 *)row(s->frame, x->ops[1]) >> i & 1) n = 0;
        if (n > x->bytes)
            return vm_fault_at(w, s, in, (int)i, VM_ILLEGAL_INSTRUCTION, "bad cp.async", from[i],
                               "a source size of %u of %u bytes", n, x->bytes);
        memset(p[i], 0, x->bytes);
        if (n == x->bytes) {
            reads |= 1u << i;
        } else if (n) {
            if (from[i] % x->bytes)
                return vm_fault_at(w, s, in, (int)i, VM_MISALIGNED, "misaligned access", from[i],
                                   "cp.async of %u bytes", x->bytes);
            for (u32 k = 0; k < n; k++) {
                w->may_mark = true;
                u8 *q = vm_lane_pointer(w, s, in, i, SP_GLOBAL, from[i] + k, 1, ACCESS_LOAD);
                w->may_mark = false;
                if (!q) return STEP_FAULT;
                p[i][k] = *q;
                if (w->unwritten) vm_undefined_copied(w, i, p[i] + k, q, 1);
            }
        }
    }
    u8 *q[32];
    if (reads) {
        w->may_mark = true;
        bool ok = vm_pointers(w, s, in, SP_GLOBAL, from, reads, x->bytes, ACCESS_LOAD, q);
        w->may_mark = false;
        if (!ok) return STEP_FAULT;
        u32 unwritten = w->unwritten;
        EACH_LANE(i, reads) memcpy(p[i], q[i], x->bytes);
        EACH_LANE(i, reads & unwritten) vm_undefined_copied(w, i, p[i], q[i], x->bytes);
    }
    if (w->block->gang_check) EACH_LANE(i, m) {
            if (vm_note_copy(w, (struct async_copy){i, w->group[i], (u32)dst[i], x->bytes, 0}))
                vm_race_pending(w, i, (u32)dst[i], x->bytes, in->line);
        }
    return STEP_NEXT;
}

void vm_async_land(struct warp *w, u32 m, u32 keep, u64 onto) {
    int k = 0;
    for (int i = 0; i < w->n_copies; i++) {
        struct async_copy *c = &w->copies[i];
        bool done = !c->ticket && (m >> c->lane & 1) && (keep == UINT32_MAX || c->group + keep < w->group[c->lane]);
        if (done)
            vm_race_landed(w, c->off, c->bytes, onto ? onto : stamp(w, c->lane, false));
        else
            w->copies[k++] = *c;
    }
    w->n_copies = k;
}

/* mode 0 commit_group, 1 wait_group imm, 2 wait_all */
enum step op_cpasync_group(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    (void)s;
    if (x->mode == 0)
        EACH_LANE(i, m) w->group[i]++;
    else if (w->block->gang_check)
        vm_async_land(w, m, x->mode == 2 ? UINT32_MAX : (u32)in->imm, 0);
    return STEP_NEXT;
}
