/* Tensor copies (TMA): boxes of a tensor in global memory, dense and perhaps swizzled in shared memory; and the
 * instructions that change a descriptor.
 *
 * A box is a sequence of rows of its innermost dimension. Tiles count through the other dimensions with the
 * descriptor's element strides. Columns of im2col walk pixels: the dimensions between the channels (0) and the image
 * (last) count from the lower corner to the upper one, and each pixel is read at its place plus the instruction's
 * offsets. */
#include "verify/ptxvm/bulk.h"

#include <string.h>

enum { N_TYPES = 13, TYPE_BF16 = 9 };
static const u8 element_bytes[N_TYPES] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
/* What a reduction takes the elements for, by CUtensorMapDataType. */
static const u8 arithmetic_types[N_TYPES] = {PT_NONE, PT_NONE, PT_U32,  PT_S32, PT_U64, PT_S64, PT_F16,
                                             PT_F32,  PT_F64,  PT_BF16, PT_F32, PT_F32, PT_F32};

static bool bad_map(const struct bulk *c, u64 address, const char *what) {
    vm_fault_at(c->w, c->s, c->in, (int)c->lane, VM_ILLEGAL_INSTRUCTION, "bad tensor map", address, "%s", what);
    return false;
}

struct walk {
    const struct vm_tensor_map *t;
    u64 rows;
    u32 row_elements;
    s64 at[5], first[5], offset[5]; /* at: of the row; the row is read at at + offset */
};

static void walk_begin(struct walk *k, const struct bulk *c, const struct vm_tensor_map *t) {
    const struct ext *x = c->in->ext;
    const struct frame *f = c->s->frame;
    *k = (struct walk){.t = t, .rows = 1, .row_elements = t->box[0]};
    for (int d = 0; d < t->rank; d++) k->at[d] = k->first[d] = ((const s32 *)row(f, x->ops[5 + d]))[c->lane];
    if (t->im2col) {
        k->rows = t->box[1];
        for (int d = 0; d + 2 < t->rank; d++)
            if (x->ops[10 + d] != NO_ROW) k->offset[d + 1] = ((const u16 *)row(f, x->ops[10 + d]))[c->lane];
    } else {
        for (int d = 1; d < t->rank; d++) k->rows *= (t->box[d] + t->elem_stride[d] - 1) / t->elem_stride[d];
    }
}
static void walk_next(struct walk *k) {
    const struct vm_tensor_map *t = k->t;
    int last = t->rank - 1;
    for (int d = 1; d < t->rank; d++) {
        bool pixel = t->im2col && d < last;
        k->at[d] += t->im2col && d == last ? 1 : t->elem_stride[d];
        s64 end = pixel ? (s64)t->dim[d] + t->upper[d - 1] : !t->im2col ? k->first[d] + t->box[d] : INT64_MAX;
        if (k->at[d] < end) break;
        k->at[d] = pixel ? t->lower[d - 1] : k->first[d];
    }
}
/* Where the row begins in global memory; false: outside of the tensor. */
static bool walk_row(const struct walk *k, u64 *address) {
    const struct vm_tensor_map *t = k->t;
    *address = t->base;
    for (int d = 1; d < t->rank; d++) {
        s64 at = k->at[d] + k->offset[d];
        if (at < 0 || (u64)at >= t->dim[d]) return false;
        *address += (u64)at * t->stride[d - 1];
    }
    return true;
}

static void fill(const struct vm_tensor_map *t, u8 *to, u32 bytes) {
    if (!t->nan_fill)
        memset(to, 0, bytes);
    else /* a NaN of all ones but the sign */
        for (u32 k = 0, n = element_bytes[t->type]; k < bytes; k++) to[k] = k % n == n - 1 ? 0x7f : 0xff;
}

/* The part of a row that lies in the tensor: elements from … to of its n. */
static void inside(const struct vm_tensor_map *t, s64 first, u32 n, u32 *from, u32 *to) {
    s64 lo = first < 0 ? -first : 0, hi = (s64)t->dim[0] - first;
    *from = lo > n ? n : (u32)lo;
    *to = hi < (s64)*from ? *from : hi > n ? n : (u32)hi;
}

static bool load_map(struct bulk *c, u64 address, struct vm_tensor_map *t) {
    const struct ext *x = c->in->ext;
    u8 *p = vm_range_pointer(c->w, c->s, c->in, c->lane, SP_GENERIC, address, sizeof *t, ACCESS_LOAD);
    if (!p) return false;
    memcpy(t, p, sizeof *t);
    if (t->magic != VM_TENSOR_MAP_MAGIC || t->rank > 5) return bad_map(c, address, "it is no tensor map");
    if (t->rank != x->k) return bad_map(c, address, "it has another number of dimensions");
    if (t->im2col != (x->order == 1)) return bad_map(c, address, "tiles and columns of im2col have maps of their own");
    if (t->type >= N_TYPES || t->interleave || t->swizzle > 3)
        return bad_map(c, address, "the machine does not know its type, interleaving or swizzle");
    u64 row_bytes = (u64)t->box[0] * element_bytes[t->type];
    for (int d = 0; d < t->rank; d++)
        if (!t->elem_stride[d] || t->elem_stride[d] > 8 || (!t->im2col && (!t->box[d] || t->box[d] > 256)))
            return bad_map(c, address, "a box is 1 to 256 elements, a stride 1 to 8");
    if (row_bytes % 16 || !row_bytes || row_bytes > 2048 || (t->im2col && (!t->box[1] || t->box[1] > 1024)))
        return bad_map(c, address, "the innermost dimension of a box is a multiple of 16 bytes");
    return true;
}

bool vm_tensor_copy(struct bulk *c, u64 map, u64 off, u32 *moved) {
    const struct ext *x = c->in->ext;
    struct vm_tensor_map t;
    struct walk k;
    bool store = x->mode == 2;
    if (!load_map(c, map, &t)) return false;
    u32 size = element_bytes[t.type], swizzle = ((1u << t.swizzle) - 1) << 4;
    walk_begin(&k, c, &t);
    u32 n = k.row_elements, row_bytes = n * size, unit = t.swizzle ? 16 : row_bytes;
    if (off & 127) {
        vm_fault_at(c->w, c->s, c->in, (int)c->lane, VM_MISALIGNED, "misaligned access", off,
                    "a tensor copy needs 128-byte aligned shared memory");
        return false;
    }
    if (c->reduce && (c->type = (enum ptx_type)arithmetic_types[t.type]) == PT_NONE)
        return bad_map(c, map, "there are no reductions of its type");
    *moved = (u32)k.rows * row_bytes;
    u8 line[2048];
    u64 place = off, base;
    for (u64 r = 0; r < k.rows; r++, place += row_bytes, walk_next(&k)) {
        u32 from = 0, to = 0;
        if (walk_row(&k, &base)) inside(&t, k.at[0], n, &from, &to);
        base += (u64)(k.at[0] + from) * size;
        u32 run = (to - from) * size;
        if (!store) {
            fill(&t, line, row_bytes);
            u8 *q = run ? vm_range_pointer(c->w, c->s, c->in, c->lane, SP_GLOBAL, base, run, ACCESS_LOAD) : line;
            if (!q) return false;
            if (run) memcpy(line + from * size, q, run);
        }
        for (u32 b = 0; b < row_bytes; b += unit) {
            u64 a = place + b;
            a ^= a >> 3 & swizzle;
            u8 *p = store ? vm_bulk_read(c, a, unit) : vm_bulk_write(c, a, unit);
            if (!p) return false;
            if (store)
                memcpy(line + b, p, unit);
            else
                memcpy(p, line + b, unit);
        }
        if (store && run) {
            u8 *q = vm_range_pointer(c->w, c->s, c->in, c->lane, SP_GLOBAL, base, run,
                                     c->reduce ? ACCESS_ATOMIC : ACCESS_STORE);
            if (!q) return false;
            if (c->reduce)
                vm_bulk_reduce(c, q, line + from * size, run);
            else
                memcpy(q, line + from * size, run);
        }
    }
    return true;
}

/* tensormap.replace. ext: mode field (TENSORMAP_…); in->a address (64 bits), in->b the value, of x->bytes, in->imm the
 * dimension; in->space */
enum step op_tensormap_replace(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    /* the instruction's numbers of element types, as CUtensorMapDataType has them */
    static const u8 types[N_TYPES] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 8, TYPE_BF16, 11, 12};
    const struct ext *x = in->ext;
    EACH_LANE(i, m) {
        struct bulk c = {.w = w, .s = s, .in = in, .lane = i};
        u64 a = ((const u64 *)row(s->frame, in->a))[i], v = row_get(row(s->frame, in->b), i, x->bytes);
        u8 *p = vm_range_pointer(w, s, in, i, in->space, a, sizeof(struct vm_tensor_map), ACCESS_ATOMIC);
        struct vm_tensor_map t;
        int d = (int)in->imm;
        if (!p) return STEP_FAULT;
        memcpy(&t, p, sizeof t);
        if (t.magic != VM_TENSOR_MAP_MAGIC || t.im2col || (a & 63)) {
            bad_map(&c, a, "it is no tensor map of tiles at a multiple of 64 bytes");
            return STEP_FAULT;
        }
        bool ok = true;
        switch (x->mode) {
        case TENSORMAP_ADDRESS:
            t.base = v;
            ok = !(v & 15);
            break;
        case TENSORMAP_RANK:
            t.rank = (u8)(v + 1);
            ok = v < 5;
            break;
        case TENSORMAP_BOX:
            t.box[d] = (u32)v;
            ok = v && v <= 256;
            break;
        case TENSORMAP_DIM:
            t.dim[d] = v;
            ok = v != 0;
            break;
        case TENSORMAP_STRIDE:
            ok = d < 4 && !(v & 15) && v < 1ull << 40;
            if (ok) t.stride[d] = v;
            break;
        case TENSORMAP_ELEMENT_STRIDE:
            t.elem_stride[d] = (u8)v;
            ok = v && v <= 8;
            break;
        case TENSORMAP_TYPE:
            ok = v < N_TYPES;
            if (ok) t.type = types[v];
            break;
        case TENSORMAP_INTERLEAVE:
            t.interleave = (u8)v;
            ok = v <= 2;
            break;
        case TENSORMAP_SWIZZLE:
            t.swizzle = (u8)v;
            ok = v <= 3;
            break;
        case TENSORMAP_ATOMICITY: /* 16 bytes is what every swizzle here has */
            ok = v == 0;
            break;
        default:
            t.nan_fill = (u8)v;
            ok = v <= 1;
            break;
        }
        if (!ok) {
            bad_map(&c, a, "tensormap.replace with a value that no tensor map holds");
            return STEP_FAULT;
        }
        memcpy(p, &t, sizeof t);
    }
    return STEP_NEXT;
}

/* tensormap.cp_fenceproxy: 128 bytes of shared memory at in->b to global memory at in->a */
enum step op_tensormap_copy(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    EACH_LANE(i, m) {
        u64 to = ((const u64 *)row(s->frame, in->a))[i], from = ((const u64 *)row(s->frame, in->b))[i];
        u8 *q = vm_range_pointer(w, s, in, i, SP_SHARED, from, 128, ACCESS_LOAD);
        u8 *p = q ? vm_range_pointer(w, s, in, i, SP_GLOBAL, to, 128, ACCESS_STORE) : NULL;
        if (!p) return STEP_FAULT;
        memcpy(p, q, 128);
    }
    return STEP_NEXT;
}
