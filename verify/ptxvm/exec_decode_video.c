/* Video instructions: decoding, and one lane at a time. Parts of 32-bit registers are chosen by selectors, widened,
 * worked on exactly, clamped, and merged or accumulated (PTX ISA, "Scalar Video Instructions", "SIMD Video
 * Instructions"). */
#include "verify/ptxvm/exec_decode.h"

#include <string.h>

typedef __int128 wide;

enum video_op { V_ADD, V_SUB, V_ABSDIFF, V_MIN, V_MAX, V_AVRG, V_SHL, V_SHR, V_SET, V_MAD };
enum compare { C_EQ, C_NE, C_LT, C_LE, C_GT, C_GE };
enum secondary { S_NONE, S_ADD, S_MIN, S_MAX };
struct part_of { /* of a register: so many bits from there */
    u8 bits, at;
};
struct video {
    enum video_op op;
    bool d_signed, a_signed, b_signed, sat;
    enum secondary second;
    enum compare compare;
    bool wrap;              /* shift amounts */
    struct part_of a, b, d; /* scalar; d.bits 32: no merge */
    bool minus_product, minus_c, plus_one;
    u8 scale;
    u8 parts, mask;        /* SIMD: 2 or 4, and which of them are computed */
    u8 sel_a[4], sel_b[4]; /* SIMD: parts of b:a */
};

static s64 widened(u64 v, int bits, bool sgn) {
    v &= (1ull << bits) - 1;
    return sgn && v >> (bits - 1) & 1 ? (s64)v - (1ll << bits) : (s64)v;
}
static wide clamped(wide v, int bits, bool sgn) {
    wide most = ((wide)1 << (bits - sgn)) - 1, least = sgn ? -most - 1 : 0;
    return v < least ? least : v > most ? most : v;
}
static bool compares(enum compare c, s64 a, s64 b) {
    return c == C_EQ   ? a == b
           : c == C_NE ? a != b
           : c == C_LT ? a < b
           : c == C_LE ? a <= b
           : c == C_GT ? a > b
                       : a >= b;
}
static wide operate(const struct video *v, s64 a, s64 b) {
    switch (v->op) {
    case V_ADD:
        return (wide)a + b;
    case V_SUB:
        return (wide)a - b;
    case V_ABSDIFF:
        return a > b ? a - b : b - a;
    case V_MIN:
        return a < b ? a : b;
    case V_MAX:
        return a > b ? a : b;
    case V_AVRG:
        return a + b >= 0 ? (a + b + 1) >> 1 : (a + b) >> 1;
    case V_SET:
        return compares(v->compare, a, b);
    default:
        break;
    }
    u32 n = v->wrap ? (u32)b & 31 : (u32)b > 32 ? 32 : (u32)b;
    return v->op == V_SHL ? (wide)((unsigned __int128)(wide)a << n) : a >> n;
}

static u32 simd(const struct video *v, u32 a, u32 b, u32 c) {
    int bits = 32 / v->parts;
    u64 both = (u64)b << 32 | a;
    u32 d = v->second == S_ADD ? c : 0, ones = (u32)((1ull << bits) - 1);
    for (int i = 0; i < v->parts; i++) {
        bool on = v->mask >> i & 1;
        wide t = operate(v, widened(both >> v->sel_a[i] * bits, bits, v->a_signed),
                         widened(both >> v->sel_b[i] * bits, bits, v->b_signed));
        if (v->sat) t = clamped(t, bits, v->d_signed);
        if (v->second == S_ADD)
            d += on ? (u32)t : 0;
        else
            d |= ((on ? (u32)t : c >> i * bits) & ones) << i * bits;
    }
    return d;
}

static u32 multiply_add(const struct video *v, s64 a, s64 b, u32 c) {
    bool sgn = v->a_signed || v->b_signed || v->minus_product || v->minus_c;
    wide t = (wide)a * b, addend = widened(c, 32, sgn);
    if (v->minus_c) addend = widened(~c, 32, true);
    t = (v->minus_product ? -t : t) + addend + (v->plus_one || v->minus_c);
    t >>= v->scale;
    if (v->scale) t = sgn ? (wide)(s64)t : (wide)(u64)t;
    if (v->sat) t = clamped(t, 32, sgn);
    return (u32)t;
}

static u32 scalar(const struct video *v, u32 a, u32 b, u32 c) {
    s64 x = widened(a >> v->a.at, v->a.bits, v->a_signed), y = widened(b >> v->b.at, v->b.bits, v->b_signed);
    if (v->op == V_MAD) return multiply_add(v, x, y, c);
    wide t = operate(v, x, y);
    if (v->sat) t = clamped(t, v->d.bits, v->d_signed);
    s64 r = (s64)((u64)t << 31) >> 31, z = widened(c, 32, v->d_signed); /* intermediate results have 33 bits */
    switch (v->second) {
    case S_ADD:
        return (u32)(r + z);
    case S_MIN:
        return (u32)(r < z ? r : z);
    case S_MAX:
        return (u32)(r > z ? r : z);
    default:
        break;
    }
    if (v->d.bits == 32) return (u32)r;
    u32 ones = (1u << v->d.bits) - 1;
    return (c & ~(ones << v->d.at)) | ((u32)r & ones) << v->d.at;
}

static enum step op_video(struct warp *w, struct split *s, const struct insn *in, u32 mask) {
    (void)w;
    const struct video *v = ((const struct ext *)in->ext)->video;
    const u32 *a = row(s->frame, in->a), *b = row(s->frame, in->b), *c = row(s->frame, in->c);
    u32 *d = row(s->frame, in->d);
    EACH_LANE(i, mask) d[i] = v->parts ? simd(v, a[i], b[i], c[i]) : scalar(v, a[i], b[i], c[i]);
    return STEP_NEXT;
}

/* ---- decoding ---- */
static u32 register_row(struct decoder *d, const struct ptx_operand *o) {
    if (o->kind != O_SELECT) return dec_src(d, o, PT_B32);
    if (dec_reg_bytes(d, o) != 4) dec_fail(d, "a selector of a register of %d bits", dec_reg_bytes(d, o) * 8);
    return dec_reg(d, o->reg);
}
static const char *selector(const struct ptx_operand *o) {
    return o->kind == O_SELECT ? o->name : "";
}
static struct part_of scalar_part(struct decoder *d, const struct ptx_operand *o) {
    const char *s = selector(o);
    if (!*s) return (struct part_of){32, 0};
    int bits = *s == 'b' ? 8 : *s == 'h' ? 16 : 0, n = s[1] - '0';
    if (!bits || n < 0 || n >= 32 / bits || s[2]) dec_fail(d, "unknown selector .%s", s);
    return (struct part_of){(u8)bits, (u8)(n * bits)};
}
/* ".h10", ".b7654": the last letter is the lowest part. */
static void simd_parts(struct decoder *d, const struct ptx_operand *o, int parts, int first, u8 out[4]) {
    const char *s = selector(o);
    for (int i = 0; i < 4; i++) out[i] = (u8)(first + i);
    if (!*s) return;
    if (*s != (parts == 2 ? 'h' : 'b') || strlen(s) != (size_t)parts + 1) dec_fail(d, "unknown selector .%s", s);
    for (int i = 0; i < parts && i < 4; i++) {
        int n = s[parts - i] - '0';
        if (n < 0 || n >= 2 * parts) dec_fail(d, "unknown selector .%s", s);
        out[i] = (u8)n;
    }
}
static u8 simd_mask(struct decoder *d, const struct ptx_operand *o, int parts) {
    const char *s = selector(o);
    if (!*s) return (u8)((1 << parts) - 1);
    u8 mask = 0;
    int before = parts;
    if (*s != (parts == 2 ? 'h' : 'b') || !s[1]) dec_fail(d, "unknown mask .%s", s);
    for (int i = 1; s[i]; i++) {
        int n = s[i] - '0';
        if (n < 0 || n >= before) dec_fail(d, "unknown mask .%s", s);
        before = n;
        mask |= (u8)(1 << n);
    }
    return mask;
}
static bool type32(struct decoder *d) { /* .u32 or .s32: signed? */
    enum ptx_type t = dec_type(d);
    if (t != PT_U32 && t != PT_S32) dec_unknown(d);
    return t == PT_S32;
}

static void dec_video(struct decoder *d) {
    static const struct {
        const char *name;
        enum video_op op;
    } ops[] = {{"vadd", V_ADD},   {"vsub", V_SUB}, {"vabsdiff", V_ABSDIFF}, {"vmin", V_MIN}, {"vmax", V_MAX},
               {"vavrg", V_AVRG}, {"vshl", V_SHL}, {"vshr", V_SHR},         {"vset", V_SET}, {"vmad", V_MAD}};
    static const char *const compares[] = {"eq", "ne", "lt", "le", "gt", "ge"};
    struct video *v = arena_new(&d->m->arena, sizeof *v);
    const char *name = d->part[0];
    size_t n = strlen(name);
    v->parts = name[n - 1] == '2' ? 2 : name[n - 1] == '4' ? 4 : 0;
    n -= v->parts != 0;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (strlen(ops[i].name) == n && !memcmp(ops[i].name, name, n)) v->op = ops[i].op;
    bool shift = v->op == V_SHL || v->op == V_SHR;
    if (v->op != V_SET) v->d_signed = type32(d);
    v->a_signed = type32(d);
    v->b_signed = type32(d);
    if (shift && v->b_signed) dec_unknown(d);
    if (v->op == V_SET) {
        int k = 0;
        while (k < 6 && !dec_take(d, compares[k])) k++;
        if (k == 6) dec_unknown(d);
        v->compare = (enum compare)k;
    } else {
        if (v->op == V_MAD) v->plus_one = dec_take(d, "po");
        v->sat = dec_take(d, "sat");
    }
    if (shift) {
        v->wrap = dec_take(d, "wrap");
        if (!v->wrap && !dec_take(d, "clamp")) dec_unknown(d);
    }
    if (v->op == V_MAD)
        v->scale = dec_take(d, "shr7") ? 7 : dec_take(d, "shr15") ? 15 : 0;
    else
        v->second = dec_take(d, "add")                ? S_ADD
                    : !v->parts && dec_take(d, "min") ? S_MIN
                    : !v->parts && dec_take(d, "max") ? S_MAX
                                                      : S_NONE;
    if (v->parts && v->sat && v->second) dec_unknown(d);
    const struct ptx_operand *to = dec_operand(d, 0), *a = dec_operand(d, 1), *b = dec_operand(d, 2);
    if (v->parts) {
        v->mask = simd_mask(d, to, v->parts);
        simd_parts(d, a, v->parts, 0, v->sel_a);
        simd_parts(d, b, v->parts, v->parts, v->sel_b);
    } else {
        v->d = scalar_part(d, to), v->a = scalar_part(d, a), v->b = scalar_part(d, b);
    }
    bool merges = v->d.bits < 32, three = v->parts || v->second || v->op == V_MAD || (merges && !v->parts);
    if (!v->parts && merges && (v->second || v->op == V_MAD)) dec_unknown(d);
    dec_count(d, three ? 4 : 3, three ? 4 : 3);
    const struct ptx_operand *c = three ? dec_operand(d, 3) : NULL;
    if (to->negated || (c && *selector(c))) dec_fail(d, "a selector where none can be");
    bool minus_a = a->negated, minus_b = b->negated;
    v->minus_product = minus_a != minus_b;
    v->minus_c = c && c->negated;
    if ((minus_a || minus_b || v->minus_c) && (v->op != V_MAD || v->plus_one || (v->minus_product && v->minus_c)))
        dec_fail(d, "a minus where none can be");
    u32 ra = register_row(d, a), rb = register_row(d, b), rc = c ? register_row(d, c) : dec_const(d, 4, 0);
    u32 r = to->kind == O_SELECT ? register_row(d, to) : dec_dst(d, to, PT_U32);
    struct ext *x = dec_ext(d, 0);
    x->video = v;
    struct insn *in = dec_op(d, op_video, x);
    in->a = ra, in->b = rb, in->c = rc, in->d = r;
}

const struct opcode dec_video_opcodes[] = {
    {"vadd", dec_video, VM_C_INT},      {"vsub", dec_video, VM_C_INT},      {"vabsdiff", dec_video, VM_C_INT},
    {"vmin", dec_video, VM_C_INT},      {"vmax", dec_video, VM_C_INT},      {"vshl", dec_video, VM_C_INT},
    {"vshr", dec_video, VM_C_INT},      {"vmad", dec_video, VM_C_INT},      {"vset", dec_video, VM_C_INT},
    {"vadd2", dec_video, VM_C_INT},     {"vsub2", dec_video, VM_C_INT},     {"vavrg2", dec_video, VM_C_INT},
    {"vabsdiff2", dec_video, VM_C_INT}, {"vmin2", dec_video, VM_C_INT},     {"vmax2", dec_video, VM_C_INT},
    {"vset2", dec_video, VM_C_INT},     {"vadd4", dec_video, VM_C_INT},     {"vsub4", dec_video, VM_C_INT},
    {"vavrg4", dec_video, VM_C_INT},    {"vabsdiff4", dec_video, VM_C_INT}, {"vmin4", dec_video, VM_C_INT},
    {"vmax4", dec_video, VM_C_INT},     {"vset4", dec_video, VM_C_INT},     {0},
};
