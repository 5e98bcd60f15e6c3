/* Loads and stores of a warp: address windows, checks, and the fast ways through. */
#include "verify/ptxvm/mem_access.h"
#include "verify/ptxvm/race.h"

#include <string.h>

enum ptx_space vm_space_of(u64 address) {
    if (address - VM_SHARED_WINDOW < VM_WINDOW_BYTES) return SP_SHARED;
    if (address - VM_LOCAL_WINDOW < VM_WINDOW_BYTES) return SP_LOCAL;
    if (address - VM_PARAM_WINDOW < VM_WINDOW_BYTES) return SP_PARAM;
    return SP_GLOBAL;
}
int vm_address_is(u64 address, int space) {
    enum ptx_space at = vm_space_of(address);
    if (space & 0x80) return at == SP_SHARED;
    if (space == SP_CONST) return 0; /* constants are read through their own instruction only */
    if (space == SP_SHARED) return at == SP_SHARED && !((address - VM_SHARED_WINDOW) >> VM_RANK_SHIFT);
    return at == (enum ptx_space)space;
}

u64 vm_lane_address(const struct split *s, const struct insn *in, const struct ext *x, u32 lane) {
    const struct frame *f = s->frame;
    u64 base = in->a == NO_ROW ? 0
               : x->asize == 4 ? ((const u32 *)row(f, in->a))[lane]
                               : ((const u64 *)row(f, in->a))[lane];
    return base + (u64)in->imm;
}

static enum step bad(struct warp *w, struct split *s, const struct insn *in, u32 lane, const char *kind, u64 address,
                     u32 bytes, const char *what) {
    char near[300];
    vm_memory_nearest(address, near, sizeof near);
    return vm_fault_at(w, s, in, (int)lane, VM_ILLEGAL_ADDRESS, kind, address, "%u bytes, %s", bytes,
                       what ? what : near);
}

static u8 *global_slow(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, u32 bytes,
                       int access) {
    bool store = access != ACCESS_LOAD;
    const char *kind = store ? "out-of-bounds store" : "out-of-bounds load";
    u64 off = address - VM_DEV_BASE;
    if (off >= vm_arena_bytes || bytes > vm_arena_bytes - off) {
        u8 *p = address < VM_DEV_BASE ? vm_host_memory(address, bytes) : NULL;
        if (!p) bad(w, s, in, lane, kind, address, bytes, NULL);
        return p;
    }
    if (!w->block->gang_check) return vm_arena + off;
    u64 lo = w->range_lo, hi = w->range_hi;
    if (address < lo || address >= hi || bytes > hi - address) {
        if (!vm_memory_range(address, &lo, &hi) || bytes > hi - address) {
            bad(w, s, in, lane, vm_memory_freed(address) ? "use after free" : kind, address, bytes, NULL);
            return NULL;
        }
        w->range_lo = lo, w->range_hi = hi;
    }
    u8 *shadow = vm_arena_shadow + off;
    if (access != ACCESS_STORE) {
        for (u32 i = 0; i < bytes; i++) {
            if (shadow[i] == SHADOW_OK) continue;
            if (w->may_mark) {
                w->unwritten |= 1u << lane;
                break;
            }
            char near[300];
            vm_memory_nearest(address, near, sizeof near);
            vm_fault_at(w, s, in, (int)lane, VM_LAUNCH_FAILED, "uninitialized load", address,
                        "byte %u of %u was never written, %s", i, bytes, near);
            return NULL;
        }
    } else {
        memset(shadow, SHADOW_OK, bytes);
    }
    return vm_arena + off;
}

/* Shared and local memory: shadow 1 addressable, 3 initialized. */
static u8 *window(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 *mem, u8 *shadow, u64 off,
                  u64 size, u32 bytes, int access, const char *name) {
    bool check = w->block->gang_check;
    bool inside = off < size && bytes <= size - off;
    for (u32 i = 0; inside && check && i < bytes; i++) inside = shadow[off + i] & SHADOW_ADDRESSABLE;
    if (!inside) {
        char what[120];
        __builtin_snprintf(what, sizeof what, "nearest allocation %s memory of %llu bytes", name,
                           (unsigned long long)size);
        bad(w, s, in, lane, access != ACCESS_LOAD ? "out-of-bounds store" : "out-of-bounds load", off, bytes, what);
        return NULL;
    }
    if (check) {
        if (access != ACCESS_STORE) {
            for (u32 i = 0; i < bytes; i++)
                if (!(shadow[off + i] & SHADOW_INIT)) {
                    if (w->may_mark) {
                        w->unwritten |= 1u << lane;
                        break;
                    }
                    vm_fault_at(w, s, in, (int)lane, VM_LAUNCH_FAILED, "uninitialized load", off,
                                "byte %u of %u was never written, nearest allocation %s memory of %llu bytes", i, bytes,
                                name, (unsigned long long)size);
                    return NULL;
                }
        } else {
            memset(shadow + off, SHADOW_OK, bytes);
        }
    }
    return mem + off;
}

struct block *vm_shared_home(struct warp *w, u64 *off) {
    struct block *b = w->block;
    u32 rank = (u32)(*off >> VM_RANK_SHIFT);
    if (!rank) return b;
    *off &= (1u << VM_RANK_SHIFT) - 1;
    return vm_cluster_block(b, rank - 1);
}

u8 *vm_range_pointer(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 space, u64 address, u32 bytes,
                     int access) {
    if (space == SP_GENERIC) {
        space = (u8)vm_space_of(address);
        if (space == SP_SHARED) address -= VM_SHARED_WINDOW;
        if (space == SP_LOCAL) address -= VM_LOCAL_WINDOW;
        if (space == SP_PARAM) address -= VM_PARAM_WINDOW;
    }
    switch (space) {
    case SP_SHARED: {
        u64 asked = address;
        struct block *home = vm_shared_home(w, &address);
        if (!home || home->done) {
            char what[120];
            __builtin_snprintf(what, sizeof what, "nearest allocation shared memory of %u bytes",
                               w->block->shared_bytes);
            bad(w, s, in, lane, access != ACCESS_LOAD ? "out-of-bounds store" : "out-of-bounds load", asked, bytes,
                home                              ? "the block of that shared memory has ended"
                : w->block->cluster->n_blocks > 1 ? "no block of that rank in the cluster"
                                                  : what);
            return NULL;
        }
        return window(w, s, in, lane, home->shared, home->shared_shadow, address, home->shared_bytes, bytes, access,
                      "shared");
    }
    case SP_LOCAL:
        return window(w, s, in, lane, w->local + (size_t)lane * w->local_stride,
                      w->local_shadow + (size_t)lane * w->local_stride, address, w->local_stride, bytes, access,
                      "local");
    case SP_PARAM: {
        struct launch *l = w->block->worker->launch;
        u64 size = l->code->formal_bytes;
        if (address >= size || bytes > size - address || access != ACCESS_LOAD) {
            bad(w, s, in, lane, access != ACCESS_LOAD ? "out-of-bounds store" : "out-of-bounds load", address, bytes,
                "kernel parameters");
            return NULL;
        }
        return l->params + address;
    }
    default: /* what did not come in a request of the warp is counted here: bulk copies and the like */
        if (w->block->gang_count && bytes) vm_count_touched(w, address, bytes, access != ACCESS_LOAD);
        if (w->block->gang_depend && bytes && !vm_depend_access(w, s, in, lane, address, bytes, access)) return NULL;
        return global_slow(w, s, in, lane, address, bytes, access);
    }
}

u8 *vm_lane_pointer(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 space, u64 address, u32 bytes,
                    int access) {
    if (address & (bytes - 1) && !(bytes & (bytes - 1))) {
        char near[300];
        vm_memory_nearest(address, near, sizeof near);
        vm_fault_at(w, s, in, (int)lane, VM_MISALIGNED, "misaligned access", address,
                    "%u bytes need a multiple of %u, %s", bytes, bytes, near);
        return NULL;
    }
    return vm_range_pointer(w, s, in, lane, space, address, bytes, access);
}

/* Addresses of all lanes of m; the space is known afterwards, SP_GENERIC only when the lanes differ. */
u8 vm_addresses(struct warp *w, struct split *s, const struct insn *in, const struct ext *x, u32 m, u64 *out) {
    const struct frame *f = s->frame;
    u64 imm = (u64)in->imm;
    if (in->flags & MEM_FRAME_LOCAL) imm += f->local_base;
    if (in->flags & MEM_SHARED_DYNAMIC) imm += w->block->worker->launch->shared_static;
    if (in->a == NO_ROW) {
        for (int i = 0; i < 32; i++) out[i] = imm;
    } else if (x->asize == 4) {
        const u32 *a = row(f, in->a);
        u64 wrap = in->space == SP_SHARED || in->space == SP_LOCAL ? 0xffffffff : ~0ull;
        for (int i = 0; i < 32; i++) out[i] = (a[i] + imm) & wrap;
    } else {
        const u64 *a = row(f, in->a);
        for (int i = 0; i < 32; i++) out[i] = a[i] + imm;
    }
    if (in->space != SP_GENERIC) return in->space;
    enum ptx_space sp = vm_space_of(out[__builtin_ctz(m)]);
    bool same = true;
    EACH_LANE(i, m) same &= vm_space_of(out[i]) == sp;
    if (!same) return SP_GENERIC;
    u64 base = sp == SP_SHARED  ? VM_SHARED_WINDOW
               : sp == SP_LOCAL ? VM_LOCAL_WINDOW
               : sp == SP_PARAM ? VM_PARAM_WINDOW
                                : 0;
    for (int i = 0; base && i < 32; i++) out[i] -= base;
    return (u8)sp;
}

static inline bool shadow_all_ok(const u8 *s, u32 bytes) {
    switch (bytes) {
    case 1:
        return *s == SHADOW_OK;
    case 2:
        return *(const u16 *)s == 0x0303;
    case 4:
        return *(const u32 *)s == 0x03030303;
    case 8:
        return *(const u64 *)s == 0x0303030303030303ull;
    case 16:
        return ((const u64 *)s)[0] == 0x0303030303030303ull && ((const u64 *)s)[1] == 0x0303030303030303ull;
    default:
        for (u32 i = 0; i < bytes; i += 8)
            if (*(const u64 *)(s + i) != 0x0303030303030303ull) return false;
        return true;
    }
}

/* A lane's address in the shared memory of its cluster, with everything checked; NULL after a fault. */
static u8 *shared_pointer(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 off, u32 bytes,
                          int access) {
    struct block *b = w->block;
    const struct ext *x = in->ext;
    bool relaxed = access == ACCESS_ATOMIC || x->is_volatile || x->order;
    u8 *p = vm_lane_pointer(w, s, in, lane, SP_SHARED, off, bytes, access);
    if (p && b->gang_check) {
        b = vm_shared_home(w, &off);
        if (!vm_race_access(w, s, in, lane, b, (u32)off, bytes, access, relaxed)) return NULL;
    }
    return p;
}

/* Checked loads of whole words from shared memory, what tiled kernels spend their time on: bytes is a constant where
 * this is inlined. */
static inline __attribute__((always_inline)) bool shared_load_pointers(struct warp *w, struct split *s,
                                                                       const struct insn *in, const u64 *addr, u32 m,
                                                                       u32 bytes, u8 **out) {
    struct block *b = w->block;
    u64 limit = b->shared_bytes - bytes, own = read_stamp(w, 0, in->line, false);
    u64 *reads = b->reads + (size_t)w->id * b->n_cells;
    u8 *shared = b->shared, *shadow = b->shared_shadow;
    struct race_word *races = b->races;
    EACH_LANE(i, m) {
        u64 off = addr[i];
        if (off <= limit && !(off & (bytes - 1)) && shadow_all_ok(shadow + off, bytes) &&
            race_load_words(w, &races[off / 4], &reads[off / 4], bytes / 4, i, own))
            out[i] = shared + off;
        else if (!(out[i] = shared_pointer(w, s, in, i, off, bytes, ACCESS_LOAD)))
            return false;
    }
    return true;
}

static bool shared_pointers(struct warp *w, struct split *s, const struct insn *in, const u64 *addr, u32 m, u32 bytes,
                            int access, u8 **out) {
    const struct ext *x = in->ext;
    bool check = w->block->gang_check;
    if (check && access == ACCESS_LOAD && !x->is_volatile && !x->order) {
        if (bytes == 4) return shared_load_pointers(w, s, in, addr, m, 4, out);
        if (bytes == 8) return shared_load_pointers(w, s, in, addr, m, 8, out);
        if (bytes == 16) return shared_load_pointers(w, s, in, addr, m, 16, out);
    }
    u64 limit = w->block->shared_bytes - bytes, low = bytes - 1;
    EACH_LANE(i, m) {
        u64 off = addr[i];
        if (!check && off <= limit && !(off & low))
            out[i] = w->block->shared + off;
        else if (!(out[i] = shared_pointer(w, s, in, i, off, bytes, access)))
            return false;
    }
    return true;
}

/* Host pointers of all lanes of m, checked. */
bool vm_pointers(struct warp *w, struct split *s, const struct insn *in, u8 space, const u64 *addr, u32 m, u32 bytes,
                 int access, u8 **out) {
    bool check = w->block->gang_check;
    u64 low = bytes - 1;
    if (w->block->gang_count) vm_count_access(w, space, addr, m, bytes, access != ACCESS_LOAD);
    if (space == SP_GLOBAL || space == SP_CONST) {
        u64 limit = vm_arena_bytes - bytes;
        bool depend = w->block->gang_depend;
        EACH_LANE(i, m) {
            u64 off = addr[i] - VM_DEV_BASE;
            if (depend && !vm_depend_access(w, s, in, i, addr[i], bytes, access)) return false;
            if (off <= limit && !(addr[i] & low) && (!check || shadow_all_ok(vm_arena_shadow + off, bytes)))
                out[i] = vm_arena + off;
            else if (!(out[i] = vm_lane_pointer(w, s, in, i, SP_GLOBAL, addr[i], bytes, access)))
                return false;
        }
        return true;
    }
    if (space == SP_SHARED && w->block->shared_bytes >= bytes)
        return shared_pointers(w, s, in, addr, m, bytes, access, out);
    EACH_LANE(i, m) { /* generic addresses: lanes may differ in their space */
        bool shared = space == SP_SHARED || (space == SP_GENERIC && vm_space_of(addr[i]) == SP_SHARED);
        out[i] = shared
                     ? shared_pointer(w, s, in, i, addr[i] - (space == SP_SHARED ? 0 : VM_SHARED_WINDOW), bytes, access)
                     : vm_lane_pointer(w, s, in, i, space, addr[i], bytes, access);
        if (!out[i]) return false;
    }
    return true;
}

static inline u64 extend(u64 v, u32 bytes) {
    int shift = 64 - 8 * (int)bytes;
    return (u64)((s64)(v << shift) >> shift);
}

enum step op_ld(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    u64 addr[32];
    u8 *p[32];
    u32 bytes = x->bytes, n = (u32)x->n;
    if (!m) return STEP_NEXT;
    u8 space = vm_addresses(w, s, in, x, m, addr);
    w->may_mark = true;
    bool ok = vm_pointers(w, s, in, space, addr, m, bytes * n, ACCESS_LOAD, p);
    w->may_mark = false;
    if (!ok) return STEP_FAULT;
    if (w->unwritten) vm_undefined_loaded(w, s, in, m, addr, p);
    for (u32 e = 0; e < n; e++) {
        if (x->ops[e] == NO_ROW) continue;
        void *d = row(s->frame, x->ops[e]);
        u32 off = e * bytes;
        if (bytes == 4 && x->sizes[e] == 4) {
            u32 *to = d;
            if (m == ~0u)
                for (int i = 0; i < 32; i++) to[i] = *(const u32 *)(p[i] + off);
            else
                EACH_LANE(i, m) to[i] = *(const u32 *)(p[i] + off);
        } else if (bytes == 8 && x->sizes[e] == 8) {
            u64 *to = d;
            EACH_LANE(i, m) to[i] = *(const u64 *)(p[i] + off);
        } else if (bytes == 16) {
            EACH_LANE(i, m) memcpy((u8 *)d + 16 * i, p[i] + off, 16);
        } else {
            EACH_LANE(i, m) {
                u64 v = 0;
                memcpy(&v, p[i] + off, bytes);
                row_put(d, i, x->sizes[e], x->is_signed ? extend(v, bytes) : v);
            }
        }
    }
    if (x->order >= 2)
        vm_race_order(w, addr, m, x->order);
    else if (check_volatile(w, x))
        vm_race_order(w, addr, m, 1);
    return x->is_volatile || x->order ? STEP_YIELD : STEP_NEXT;
}

/* A checked store to shared memory: lane by lane, so that a later lane sees what an earlier one has put there. */
static bool shared_store(struct warp *w, struct split *s, const struct insn *in, const u64 *addr, u32 m, u32 bytes,
                         u8 **p) {
    const struct ext *x = in->ext;
    u8 value[32];
    if (w->block->gang_count) vm_count_access(w, SP_SHARED, addr, m, bytes, true);
    EACH_LANE(i, m) {
        for (int e = 0; e < x->n; e++) {
            const u8 *v = row(s->frame, x->ops[e]);
            u64 u = x->bytes == 16 ? 0 : row_get(v, i, x->sizes[e]);
            memcpy(value + e * x->bytes, x->bytes == 16 ? v + 16 * i : (const u8 *)&u, x->bytes);
        }
        w->storing = value;
        p[i] = shared_pointer(w, s, in, i, addr[i], bytes, ACCESS_STORE);
        w->storing = NULL;
        if (!p[i]) return false;
        memcpy(p[i], value, bytes);
    }
    return true;
}

enum step op_st(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    u64 addr[32];
    u8 *p[32];
    u32 bytes = x->bytes, n = (u32)x->n;
    if (!m) return STEP_NEXT;
    u8 space = vm_addresses(w, s, in, x, m, addr);
    if (x->order >= 2)
        vm_race_order(w, addr, m, x->order);
    else if (check_volatile(w, x))
        vm_race_order(w, addr, m, 1);
    if (w->block->gang_check) note_write(w, s, m);
    bool stored = space == SP_SHARED && w->block->gang_check && w->block->shared_bytes >= bytes * n;
    if (stored ? !shared_store(w, s, in, addr, m, bytes * n, p)
               : !vm_pointers(w, s, in, space, addr, m, bytes * n, ACCESS_STORE, p))
        return STEP_FAULT;
    for (u32 e = 0; e < n && !stored; e++) {
        const void *v = row(s->frame, x->ops[e]);
        u32 off = e * bytes, size = x->sizes[e];
        if (bytes == 4 && size == 4) {
            EACH_LANE(i, m) * (u32 *)(p[i] + off) = ((const u32 *)v)[i];
        } else if (bytes == 16) {
            EACH_LANE(i, m) memcpy(p[i] + off, (const u8 *)v + 16 * i, 16);
        } else {
            EACH_LANE(i, m) {
                u64 u = row_get(v, i, (int)size);
                memcpy(p[i] + off, &u, bytes);
            }
        }
    }
    return w->undefined && !vm_undefined_stored(w, s, in, m, space, p) ? STEP_FAULT : STEP_NEXT;
}

/* Parameters: a kernel's own are uniform; everything else is per lane. imm: offset; flags 1: the area of arguments for
 * calls */
static u8 *param_at(const struct split *s, const struct insn *in, u32 lane) {
    struct frame *f = s->frame;
    return in->flags & 1 ? f->args + (size_t)lane * f->args_stride + in->imm
                         : f->formals + (size_t)lane * f->formal_stride + in->imm;
}
enum step op_ldparam(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    (void)w;
    const struct ext *x = in->ext;
    for (int e = 0; e < x->n; e++) {
        if (x->ops[e] == NO_ROW) continue;
        void *d = row(s->frame, x->ops[e]);
        EACH_LANE(i, m) {
            const u8 *p = param_at(s, in, i) + e * x->bytes;
            if (x->bytes == 16) {
                memcpy((u8 *)d + 16 * i, p, 16);
                continue;
            }
            u64 v = 0;
            memcpy(&v, p, x->bytes);
            row_put(d, i, x->sizes[e], x->is_signed ? extend(v, x->bytes) : v);
        }
    }
    return STEP_NEXT;
}
enum step op_stparam(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    (void)w;
    const struct ext *x = in->ext;
    for (int e = 0; e < x->n; e++) {
        const void *v = row(s->frame, x->ops[e]);
        EACH_LANE(i, m) {
            u8 *p = param_at(s, in, i) + e * x->bytes;
            if (x->bytes == 16) {
                memcpy(p, (const u8 *)v + 16 * i, 16);
                continue;
            }
            u64 u = row_get(v, i, x->sizes[e]);
            memcpy(p, &u, x->bytes);
        }
    }
    return STEP_NEXT;
}
enum step op_local(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    u64 v =
        (u64)in->imm + (in->flags & MEM_FRAME_LOCAL ? s->frame->local_base : w->block->worker->launch->shared_static);
    void *d = row(s->frame, in->d);
    EACH_LANE(i, m) row_put(d, i, in->dsize, v);
    return STEP_NEXT;
}

/* applypriority (mode 0) and discard (mode 1) of a line of 128 bytes: it must be there, and global. What discard leaves
 * is unspecified: the bytes count as never written again. */
enum step op_line(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    const struct ext *x = in->ext;
    u64 addr[32];
    u8 space = vm_addresses(w, s, in, x, m, addr);
    EACH_LANE(i, m) {
        if (space != SP_GLOBAL) {
            bad(w, s, in, i, "address of no global memory", addr[i], 128, NULL);
            return STEP_FAULT;
        }
        u8 *p = vm_lane_pointer(w, s, in, i, space, addr[i], 128, ACCESS_STORE);
        if (!p) return STEP_FAULT;
        if (x->mode && w->block->gang_check && addr[i] >= VM_DEV_BASE)
            memset(vm_arena_shadow + (addr[i] - VM_DEV_BASE), SHADOW_ADDRESSABLE, 128);
    }
    return STEP_NEXT;
}
