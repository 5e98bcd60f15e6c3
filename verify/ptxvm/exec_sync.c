/* Instructions of a whole warp: shuffles, votes, matches, reductions, election; and what needs no memory of its own:
 * special registers, waiting, printf. */
#include "verify/ptxvm/mem_access.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

u32 vm_member_mask(const struct split *s, const struct insn *in, u32 op, u32 mask) {
    (void)in;
    return ((const u32 *)row(s->frame, op))[__builtin_ctz(mask)];
}

int vm_converge(struct warp *w, struct split *s, const struct insn *in, u32 mask, u32 member, struct part parts[32]) {
    u32 need = member & w->live & ~(s->mask & ~mask); /* lanes of ours that a guard keeps out do not come */
    int n = 1;
    parts[0] = (struct part){s->frame, in, mask};
    if (!(need & ~mask)) return 1;
    u32 have = mask;
    for (int k = 0; k < w->n_splits; k++) {
        struct split *o = &w->splits[k];
        if (o == s || o->state != SPLIT_SYNC || o->sync_mask != member) continue;
        const struct insn *other = &o->frame->code->insns[o->pc];
        if (other->op != in->op) continue;
        parts[n++] = (struct part){o->frame, other, o->red};
        have |= o->red;
    }
    if (need & ~have) {
        s->state = SPLIT_SYNC;
        s->sync_mask = member;
        s->red = mask;
        return 0;
    }
    for (int k = 0; k < w->n_splits; k++) {
        struct split *o = &w->splits[k];
        if (o == s || o->state != SPLIT_SYNC || o->sync_mask != member || o->frame->code->insns[o->pc].op != in->op)
            continue;
        o->state = SPLIT_RUN;
        o->pc++;
    }
    return n;
}

/* The parts of a .sync instruction with its member mask in in->e; 0: wait, fault or apart (in *out). Lanes that give
 * different masks (the tiles of cooperative groups do) are so many groups: they go on apart and meet behind it. */
static int together(struct warp *w, struct split *s, const struct insn *in, u32 mask, struct part *parts,
                    enum step *out) {
    const u32 *given = row(s->frame, in->e);
    u32 member = given[__builtin_ctz(mask)], same = 0;
    EACH_LANE(i, mask) same |= (u32)(given[i] == member) << i;
    if (same != mask) {
        u32 masks[3] = {s->mask & ~mask, mask & ~same, same}, pcs[3] = {s->pc + 1, s->pc, s->pc};
        *out = vm_diverge(w, s, 3, masks, pcs, s->pc + 1);
        return 0;
    }
    if (w->block->gang_check && (mask & ~member)) {
        *out = vm_fault_at(w, s, in, __builtin_ctz(mask & ~member), VM_LAUNCH_FAILED, "bad member mask", member,
                           "the lane is not in the mask 0x%08x that it gives", member);
        return 0;
    }
    int n = vm_converge(w, s, in, mask, member, parts);
    *out = STEP_WAIT;
    u32 away = n && w->block->gang_check ? passed_by(w, s, member) : 0;
    if (away) {
        *out = vm_fault_at(w, s, in, __builtin_ctz(mask), VM_LAUNCH_FAILED, "bad member mask", member,
                           "lanes 0x%08x of the mask 0x%08x have ended and never came here", away, member);
        return 0;
    }
    if (n && w->block->gang_check) vm_race_warp_sync(w);
    return n;
}

enum step op_warpsync(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    struct part parts[32];
    enum step out;
    return together(w, s, in, mask, parts, &out) ? STEP_NEXT : out;
}

enum step op_shfl(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    struct part parts[32];
    enum step out;
    int n = together(w, s, in, mask, parts, &out);
    if (!n) return out;
    u32 src[32] = {0}, active = 0;
    for (int k = 0; k < n; k++) {
        const u32 *a = row(parts[k].frame, parts[k].in->a);
        EACH_LANE(i, parts[k].mask) src[i] = a[i];
        active |= parts[k].mask;
    }
    for (int k = 0; k < n; k++) {
        const struct insn *p = parts[k].in;
        const struct ext *x = p->ext;
        const u32 *bb = row(parts[k].frame, p->b), *cc = row(parts[k].frame, p->c);
        u32 *d = row(parts[k].frame, p->d), *pred = x->ops[0] == NO_ROW ? NULL : row(parts[k].frame, x->ops[0]);
        u32 inside = 0, result[32], lane_from[32];
        EACH_LANE(i, parts[k].mask) {
            u32 b = bb[i] & 31, clamp = cc[i] & 31, seg = cc[i] >> 8 & 31, lo = i & seg, hi = lo | (clamp & ~seg), j;
            bool ok;
            switch (x->mode) {
            case 0:
                j = i - b, ok = (s32)j >= (s32)hi;
                break;
            case 1:
                j = i + b, ok = j <= hi;
                break;
            case 2:
                j = i ^ b, ok = j <= hi;
                break;
            default:
                j = lo | (b & ~seg), ok = j <= hi;
                break;
            }
            if (!ok) j = i;
            inside |= (u32)ok << i;
            if (!(active >> (j & 31) & 1) && w->block->gang_check)
                return vm_fault_at(w, s, p, (int)i, VM_LAUNCH_FAILED, "out-of-range shuffle", j,
                                   "it reads lane %u, which does not take part (lanes 0x%08x do)", j, active);
            result[i] = src[j & 31];
            lane_from[i] = j & 31;
        }
        if (w->undefined) vm_undefined_shuffle(parts[k].frame, p->d, s->frame, in->a, lane_from, parts[k].mask);
        EACH_LANE(i, parts[k].mask) d[i] = result[i];
        if (pred) *pred = (*pred & ~parts[k].mask) | (inside & parts[k].mask);
    }
    return STEP_NEXT;
}

/* mode 0 all 1 any 2 uni 3 ballot; in->a predicate, imm 1: negated */
enum step op_vote(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    struct part parts[32];
    enum step out;
    int n = together(w, s, in, mask, parts, &out);
    if (!n) return out;
    u32 yes = 0, active = 0;
    for (int k = 0; k < n; k++) {
        yes |= (*(const u32 *)row(parts[k].frame, parts[k].in->a) ^ (parts[k].in->imm ? ~0u : 0)) & parts[k].mask;
        active |= parts[k].mask;
    }
    for (int k = 0; k < n; k++) {
        const struct ext *x = parts[k].in->ext;
        u32 *d = row(parts[k].frame, parts[k].in->d), m = parts[k].mask;
        if (x->mode == 3) {
            EACH_LANE(i, m) d[i] = yes;
        } else {
            bool r = x->mode == 0 ? yes == active : x->mode == 1 ? yes != 0 : yes == active || !yes;
            *d = (*d & ~m) | (r ? m : 0);
        }
    }
    return STEP_NEXT;
}

/* mode 0 any 1 all; in->dsize 4; x->bytes 4 or 8; ops[0]: predicate of match.all */
enum step op_match(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    struct part parts[32];
    enum step out;
    int n = together(w, s, in, mask, parts, &out);
    if (!n) return out;
    u64 v[32];
    u32 active = 0;
    for (int k = 0; k < n; k++) {
        const struct ext *x = parts[k].in->ext;
        EACH_LANE(i, parts[k].mask) v[i] = row_get(row(parts[k].frame, parts[k].in->a), i, x->bytes);
        active |= parts[k].mask;
    }
    for (int k = 0; k < n; k++) {
        const struct ext *x = parts[k].in->ext;
        u32 *d = row(parts[k].frame, parts[k].in->d), m = parts[k].mask, all = 0;
        EACH_LANE(i, m) {
            u32 same = 0;
            EACH_LANE(j, active) same |= (u32)(v[j] == v[i]) << j;
            if (x->mode == 0)
                d[i] = same;
            else
                d[i] = same == active ? active : 0, all |= (u32)(same == active) << i;
        }
        if (x->mode == 1 && x->ops[0] != NO_ROW) {
            u32 *p = row(parts[k].frame, x->ops[0]);
            *p = (*p & ~m) | (all & m);
        }
    }
    return STEP_NEXT;
}

/* mode 0 add 1 min 2 max 3 and 4 or 5 xor; mode2 1: signed, 2: f32; mode3 1: abs, 2: NaN */
enum step op_redux(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    struct part parts[32];
    enum step out;
    int n = together(w, s, in, mask, parts, &out);
    if (!n) return out;
    const struct ext *x = in->ext;
    u32 acc = 0;
    bool first = true;
    for (int k = 0; k < n; k++) EACH_LANE(i, parts[k].mask) {
            u32 v = ((const u32 *)row(parts[k].frame, parts[k].in->a))[i];
            if (x->mode2 == 2) {
                if (x->mode3 & 1) v &= 0x7fffffff;
                float f, g;
                memcpy(&f, &v, 4);
                memcpy(&g, &acc, 4);
                bool nan_wins = x->mode3 & 2;
                if (first)
                    acc = v;
                else if (f != f)
                    acc = nan_wins ? 0x7fffffff : acc;
                else if (g != g)
                    acc = nan_wins ? 0x7fffffff : v;
                else if (x->mode == 1 ? f < g || (f == g && v >> 31) : f > g || (f == g && !(v >> 31)))
                    acc = v;
            } else if (first) {
                acc = v;
            } else {
                switch (x->mode) {
                case 0:
                    acc += v;
                    break;
                case 1:
                    acc = x->mode2 ? ((s32)v < (s32)acc ? v : acc) : v < acc ? v : acc;
                    break;
                case 2:
                    acc = x->mode2 ? ((s32)v > (s32)acc ? v : acc) : v > acc ? v : acc;
                    break;
                case 3:
                    acc &= v;
                    break;
                case 4:
                    acc |= v;
                    break;
                default:
                    acc ^= v;
                    break;
                }
            }
            first = false;
        }
    for (int k = 0; k < n; k++) {
        u32 *d = row(parts[k].frame, parts[k].in->d);
        EACH_LANE(i, parts[k].mask) d[i] = acc;
    }
    return STEP_NEXT;
}

enum step op_elect(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    struct part parts[32];
    enum step out;
    int n = together(w, s, in, mask, parts, &out);
    if (!n) return out;
    u32 active = 0;
    for (int k = 0; k < n; k++) active |= parts[k].mask;
    u32 leader = (u32)__builtin_ctz(active);
    for (int k = 0; k < n; k++) {
        const struct ext *x = parts[k].in->ext;
        if (parts[k].in->d != NO_ROW)
            EACH_LANE(i, parts[k].mask)((u32 *)row(parts[k].frame, parts[k].in->d))[i] = leader;
        u32 *p = row(parts[k].frame, x->ops[0]);
        *p = (*p & ~parts[k].mask) | (1u << leader & parts[k].mask);
    }
    return STEP_NEXT;
}

enum step op_activemask(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)w;
    EACH_LANE(i, mask)((u32 *)row(s->frame, in->d))[i] = mask;
    return STEP_NEXT;
}

enum step op_nop(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)w, (void)s, (void)in, (void)mask;
    return STEP_NEXT;
}
enum step op_nanosleep(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)w, (void)s, (void)in, (void)mask;
    return STEP_YIELD;
}

static u64 clock_now(bool wall) {
    struct timespec t;
    clock_gettime(wall ? CLOCK_REALTIME : CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec;
}

enum step op_sreg(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct block *b = w->block;
    const struct launch *l = b->worker->launch;
    void *d = row(s->frame, in->d);
    int k = (int)in->imm;
    if (k < 3) {
        EACH_LANE(i, mask)((u32 *)d)[i] = w->tid[k][i];
        return STEP_NEXT;
    }
    u64 v = 0;
    u32 grid[3], cl[3];
    for (int i = 0; i < 3; i++) grid[i] = l->p.grid[i], cl[i] = l->cluster[i];
    switch (k) {
    case 3:
    case 4:
    case 5:
        v = l->p.block[k - 3];
        break;
    case 6:
    case 7:
    case 8:
        v = b->ctaid[k - 6];
        break;
    case 9:
    case 10:
    case 11:
        v = grid[k - 9];
        break;
    case 12:
        EACH_LANE(i, mask)((u32 *)d)[i] = i;
        return STEP_NEXT;
    case 13:
        v = w->id;
        break;
    case 14:
        v = b->n_warps;
        break;
    case 15:
        v = b->linear % 16;
        break;
    case 16:
        v = 16;
        break;
    case 17:
        v = 1;
        break;
    case 18:
        v = (u32)clock_now(false);
        break;
    case 19:
        v = clock_now(false) >> 32;
        break;
    case 20:
        v = clock_now(false);
        break;
    case 21:
        v = clock_now(true);
        break;
    case 22:
        v = (u32)clock_now(true);
        break;
    case 23:
        v = clock_now(true) >> 32;
        break;
    case 24:
        EACH_LANE(i, mask)((u32 *)d)[i] = 1u << i;
        return STEP_NEXT;
    case 25:
        EACH_LANE(i, mask)((u32 *)d)[i] = (2u << i) - 1;
        return STEP_NEXT;
    case 26:
        EACH_LANE(i, mask)((u32 *)d)[i] = (1u << i) - 1;
        return STEP_NEXT;
    case 27:
        EACH_LANE(i, mask)((u32 *)d)[i] = ~((1u << i) - 1);
        return STEP_NEXT;
    case 28:
        EACH_LANE(i, mask)((u32 *)d)[i] = ~((2u << i) - 1);
        return STEP_NEXT;
    case 29:
    case 30:
    case 31:
        v = b->cluster_id[k - 29];
        break;
    case 32:
    case 33:
    case 34:
        v = grid[k - 32] / cl[k - 32];
        break;
    case 35:
    case 36:
    case 37:
        v = b->cluster_ctaid[k - 35];
        break;
    case 38:
    case 39:
    case 40:
        v = cl[k - 38];
        break;
    case 41:
        v = b->rank;
        break;
    case 42:
        v = (u64)cl[0] * cl[1] * cl[2];
        break;
    case 43:
        EACH_LANE(i, mask) row_put(d, i, in->dsize, cl[0] * cl[1] * cl[2] > 1);
        return STEP_NEXT;
    case 44:
        v = l->p.dynamic_shared;
        break;
    case 45:
        v = l->shared_total;
        break;
    case 46:
        v = l->shared_total;
        break;
    case 47:
        v = 32;
        break;
    case 50: /* the shared memory of the system, in which cooperative groups keep the state of their tiles */
    case 53:
    case 54:
        v = l->shared_reserved;
        break;
    case 51:
        v = l->shared_reserved + RESERVED_SHARED;
        break;
    case 52:
        v = RESERVED_SHARED;
        break;
    case SREG_ENV + 1:
        v = l->workspace >> 32;
        break;
    case SREG_ENV + 2:
        v = (u32)l->workspace;
        break;
    default:
        v = 0;
        break;
    }
    EACH_LANE(i, mask) row_put(d, i, in->dsize, v);
    return STEP_NEXT;
}

/* ---- printf and assert ---- */
static bool text_at(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, char *out,
                    size_t cap) {
    size_t n = 0;
    for (;; n++) {
        u8 *p = vm_lane_pointer(w, s, in, lane, SP_GENERIC, address + n, 1, ACCESS_LOAD);
        if (!p) return false;
        if (n + 1 < cap) out[n] = (char)*p;
        if (!*p || n > 1 << 16) break;
    }
    out[n < cap ? n : cap - 1] = 0;
    return true;
}

static u64 arg_of(const struct split *s, const struct ext *x, int k, u32 lane) {
    u64 v = 0;
    memcpy(&v, s->frame->args + (size_t)lane * s->frame->args_stride + x->arg_from[k],
           x->arg_bytes[k] < 8 ? x->arg_bytes[k] : 8);
    return v;
}

/* One conversion of a format, with its flags, fetched from the argument buffer at *at. Returns the length consumed. */
static bool one_conversion(struct warp *w, struct split *s, const struct insn *in, u32 lane, const char **f, u64 *at,
                           FILE *out) {
    char spec[64];
    size_t n = 0;
    const char *p = *f;
    spec[n++] = *p++;
    bool is_long = false;
    while (*p && strchr("-+ #0123456789.*hlzjt", *p)) {
        if (*p == '*') {
            *at = (*at + 3) & ~3ull;
            u8 *q = vm_lane_pointer(w, s, in, lane, SP_GENERIC, *at, 4, ACCESS_LOAD);
            if (!q) return false;
            if (n + 12 < sizeof spec) n += (size_t)snprintf(spec + n, 12, "%d", *(s32 *)q % 1000);
            *at += 4;
        } else if (strchr("hlzjt", *p)) {
            if (*p != 'h') is_long = true;
        } else if (n + 8 < sizeof spec) {
            spec[n++] = *p;
        }
        p++;
    }
    char c = *p ? *p++ : 0;
    *f = p;
    if (c == '%') {
        fputc('%', out);
        return true;
    }
    int bytes = strchr("eEfFgGaAsp", c) || is_long ? 8 : 4;
    if (!c || !strchr("diouxXceEfFgGaAsp", c)) {
        return true;
    }
    *at = (*at + (u64)bytes - 1) & ~(u64)(bytes - 1);
    u8 *q = vm_lane_pointer(w, s, in, lane, SP_GENERIC, *at, (u32)bytes, ACCESS_LOAD);
    if (!q) return false;
    u64 v = 0;
    memcpy(&v, q, (size_t)bytes);
    *at += (u64)bytes;
    if (c == 's') {
        char text[4096];
        if (!text_at(w, s, in, lane, v, text, sizeof text)) return false;
        spec[n++] = 's', spec[n] = 0;
        fprintf(out, spec, text);
    } else if (strchr("eEfFgGaA", c)) {
        double d;
        memcpy(&d, &v, 8);
        spec[n++] = c, spec[n] = 0;
        fprintf(out, spec, d);
    } else if (c == 'p') {
        fprintf(out, "0x%llx", (unsigned long long)v);
    } else if (c == 'c') {
        spec[n++] = c, spec[n] = 0;
        fprintf(out, spec, (int)v);
    } else {
        if (bytes == 4 && strchr("di", c)) v = (u64)(s64)(s32)v;
        spec[n++] = 'l', spec[n++] = 'l', spec[n++] = c, spec[n] = 0;
        fprintf(out, spec, (long long)v);
    }
    return true;
}

/* malloc (mode 0) and free (1) of the program: allocations of the machine like any other, so their bounds, contents and
 * life are checked. Freed by nobody, they live on, as on hardware. */
enum step op_heap(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    EACH_LANE(i, mask) {
        u64 v = arg_of(s, x, 0, i);
        if (x->mode == 0) {
            u64 address = 0;
            if (!v || vm_mem_alloc(v, VM_MEM_DEVICE, "malloc", &address)) address = 0;
            memcpy(s->frame->args + (size_t)i * s->frame->args_stride + x->arg_from[1], &address,
                   x->arg_bytes[1] < 8 ? x->arg_bytes[1] : 8);
            continue;
        }
        struct vm_allocation a;
        if (!v) continue;
        if (!vm_mem_find(v, &a) || strcmp(a.origin, "malloc") || vm_mem_free(v)) {
            char near[300];
            vm_memory_nearest(v, near, sizeof near);
            return vm_fault_at(w, s, in, (int)i, VM_ILLEGAL_ADDRESS, "bad free", v, "no result of malloc, %s", near);
        }
        struct gang *g = w->block->gang; /* what warps remember of their last allocation may be that one */
        for (u32 b = 0; b < g->n_blocks; b++)
            for (u32 k = 0; g->blocks[b] && k < g->blocks[b]->n_warps; k++)
                g->blocks[b]->warps[k].range_lo = g->blocks[b]->warps[k].range_hi = 0;
    }
    return STEP_NEXT;
}

/* mode 0: vprintf(format, arguments); 1: __assertfail(message, file, line, function, size) */
enum step op_vprintf(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    const struct ext *x = in->ext;
    if (x->mode == 1) {
        u32 lane = (u32)__builtin_ctz(mask);
        char message[200], file[200], function[200];
        if (!text_at(w, s, in, lane, arg_of(s, x, 0, lane), message, sizeof message) ||
            !text_at(w, s, in, lane, arg_of(s, x, 1, lane), file, sizeof file) ||
            !text_at(w, s, in, lane, arg_of(s, x, 3, lane), function, sizeof function))
            return STEP_FAULT;
        return vm_fault_at(w, s, in, (int)lane, VM_ASSERT, "assertion", 0, "%s:%u: %s: `%s' failed", file,
                           (u32)arg_of(s, x, 2, lane), function, message);
    }
    EACH_LANE(i, mask) {
        char format[4096];
        char *text = NULL;
        size_t size = 0;
        if (!text_at(w, s, in, i, arg_of(s, x, 0, i), format, sizeof format)) return STEP_FAULT;
        FILE *out = open_memstream(&text, &size);
        if (!out) return STEP_NEXT;
        u64 at = arg_of(s, x, 1, i);
        bool ok = true;
        for (const char *f = format; *f && ok;) {
            if (*f != '%')
                fputc(*f++, out);
            else
                ok = one_conversion(w, s, in, i, &f, &at, out);
        }
        fclose(out);
        if (ok) fwrite(text, 1, size, stdout);
        free(text);
        if (!ok) return STEP_FAULT;
        if (x->n_out) {
            u32 zero = 0;
            memcpy(s->frame->args + (size_t)i * s->frame->args_stride + x->arg_from[x->n_in], &zero, 4);
        }
    }
    fflush(stdout);
    return STEP_NEXT;
}
