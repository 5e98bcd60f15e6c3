/* peaks_cuda: what a GPU can do at most, by loops in PTX of our own, since they must run where nothing compiles.
 *
 * Each loop is a kernel with runtime/dev_cuda.h's parameter block: arguments are the data (all ones of its type), a
 * place for results [warps][32 lanes] of 32 bits, and the number of iterations. What it computes is known beforehand
 * and looked at: a peak counts only where the work was done. Fragments and instructions: PTX ISA, "Warp Level Matrix
 * Multiply-Accumulate Instructions".
 */
#include "cli/peaks.h"

#include <string.h>

enum {
    CHAINS = 8,              /* accumulators in turn: more than latency times throughput */
    READS = 8,               /* loads of 16 bytes a lane in flight */
    READ_STEP = READS * 512, /* bytes a warp reads in an iteration */
    WARP_READS = 16,         /* iterations of a warp of the reading loop */
    FIRST_WARPS = 64,
    MAX_WARPS = 1 << 15,
    ATTEMPTS = 5, /* the best counts: a peak is what nothing disturbed */
};
static const double LEAST_MS = 5; /* a measurement lasts at least this long */

/* An arithmetic loop: what an instruction does, and adds to each result. */
struct loop {
    const char *name;
    unsigned sm; /* the first architecture that has it */
    bool real;
    double ops, adds;
    uint32_t one; /* the data: a word of ones */
    size_t field; /* of struct peaks */
};

#define FIELD(f) offsetof(struct peaks, f)
static const struct loop loops[] = {
    {"fma", 75, true, 2 * 32, 1, 0x3f800000, FIELD(f32_ops_per_s)},
    {"dp4a", 75, false, 8 * 32, 4, 0x01010101, FIELD(dp4a_ops_per_s)},
    {"mma_s8", 80, false, 2 * 16 * 8 * 32, 32, 0x01010101, FIELD(int8_ops_per_s)},
    {"mma_bf16", 80, true, 2 * 16 * 8 * 16, 16, 0x3f803f80, FIELD(bf16_ops_per_s)},
};
enum { N_LOOPS = sizeof loops / sizeof *loops };

/* ---- the text ---- */

/* %rd1: data, %rd2: where the thread's result goes, %rd3: iterations, %r1: the warp, %r2: the lane. */
static void write_head(struct buf *b, const char *name, unsigned sm) {
    buf_printf(b,
               ".version 7.0\n.target sm_%u\n.address_size 64\n.visible .entry %s(.param .align 8 .b8 p[%d])\n"
               ".reqntid %d\n{\n.reg .pred %%p1;\n.reg .b32 %%r<80>;\n.reg .f32 %%f<80>;\n.reg .b64 %%rd<10>;\n",
               sm, name, 8 * (PTX_PARAM_ARGS + 3), PTX_THREADS);
    for (int i = 0; i < 3; i++) buf_printf(b, "ld.param.u64 %%rd%d, [p+%d];\n", i + 1, 8 * (PTX_PARAM_ARGS + i));
    buf_puts(b, "mov.u32 %r3, %tid.x;\nand.b32 %r2, %r3, 31;\nmov.u32 %r4, %ctaid.x;\nmov.u32 %r5, %ntid.x;\n"
                "mad.lo.u32 %r6, %r4, %r5, %r3;\nshr.u32 %r1, %r6, 5;\nmul.wide.u32 %rd4, %r6, 4;\n"
                "add.u64 %rd2, %rd2, %rd4;\n");
}

static void write_again(struct buf *b) {
    buf_puts(b, "sub.s64 %rd3, %rd3, 1;\nsetp.gt.s64 %p1, %rd3, 0;\n@%p1 bra again;\n");
}

static void write_result(struct buf *b, const char *value) {
    buf_printf(b, "st.global.b32 [%%rd2], %s;\nret;\n}\n", value);
}

/* All words that a lane reads, added up. */
static void write_read(struct buf *b) {
    write_head(b, "read", 75);
    buf_printf(b, "mul.wide.u32 %%rd4, %%r1, %d;\nmad.wide.u32 %%rd4, %%r2, 16, %%rd4;\nadd.u64 %%rd1, %%rd1, %%rd4;\n",
               READ_STEP * WARP_READS);
    for (int i = 0; i < 4; i++) buf_printf(b, "mov.b32 %%r%d, 0;\n", 70 + i);
    buf_puts(b, "again:\n");
    for (int k = 0; k < READS; k++)
        buf_printf(b, "ld.global.nc.v4.b32 {%%r%d, %%r%d, %%r%d, %%r%d}, [%%rd1+%d];\n", 10 + 4 * k, 11 + 4 * k,
                   12 + 4 * k, 13 + 4 * k, 512 * k);
    for (int k = 0; k < READS; k++)
        for (int i = 0; i < 4; i++) buf_printf(b, "add.u32 %%r%d, %%r%d, %%r%d;\n", 70 + i, 70 + i, 10 + 4 * k + i);
    buf_printf(b, "add.u64 %%rd1, %%rd1, %d;\n", READ_STEP);
    write_again(b);
    for (int i = 1; i < 4; i++) buf_printf(b, "add.u32 %%r70, %%r70, %%r%d;\n", 70 + i);
    write_result(b, "%r70");
}

/* Chain k's registers are 10 + 4k …; six words of operands are in %r50 …, the first two in %f50 and %f51 too. */
static void write_step(struct buf *b, const struct loop *l, int k) {
    char d[64];
    int at = 10 + 4 * k;
    char t = l->real ? 'f' : 'r';
    snprintf(d, sizeof d, "{%%%c%d, %%%c%d, %%%c%d, %%%c%d}", t, at, t, at + 1, t, at + 2, t, at + 3);
    if (strcmp(l->name, "fma") == 0)
        buf_printf(b, "fma.rn.f32 %%f%d, %%f%d, %%f50, %%f51;\n", at, at);
    else if (strcmp(l->name, "dp4a") == 0)
        buf_printf(b, "dp4a.u32.s32 %%r%d, %%r50, %%r51, %%r%d;\n", at, at);
    else
        buf_printf(b, "mma.sync.aligned.%s %s, {%%r50, %%r51, %%r52, %%r53}, {%%r54, %%r55}, %s;\n",
                   l->real ? "m16n8k16.row.col.f32.bf16.bf16.f32" : "m16n8k32.row.col.s32.s8.s8.s32", d, d);
}

static void write_loop(struct buf *b, const struct loop *l) {
    char t = l->real ? 'f' : 'r';
    write_head(b, l->name, l->sm);
    for (int i = 0; i < 6; i++) buf_printf(b, "ld.global.b32 %%r%d, [%%rd1+%d];\n", 50 + i, 4 * i);
    buf_puts(b, "mov.b32 %f50, %r50;\nmov.b32 %f51, %r51;\n");
    for (int i = 0; i < 4 * CHAINS; i++)
        buf_printf(b, "mov.b32 %%%c%d, %s;\n", t, 10 + i, l->real ? "0f00000000" : "0");
    buf_puts(b, "again:\n");
    for (int k = 0; k < CHAINS; k++) write_step(b, l, k);
    write_again(b);
    /* Every chain has the same sum, and all are needed for the result. */
    for (int k = 1; k < CHAINS; k++)
        buf_printf(b, "max.%s %%%c10, %%%c10, %%%c%d;\n", l->real ? "f32" : "s32", t, t, t, 10 + 4 * k);
    write_result(b, l->real ? "%f10" : "%r10");
}

/* ---- measuring ---- */

struct gpu_loop {
    struct cuda *gpu;
    struct kernel kernel;
    struct part part;
    struct phase phase;
    struct cuda_kernel *loaded;
    cuda_addr args[3]; /* data, results, iterations */
    int64_t warps;
};

static bool open_loop(struct gpu_loop *g, struct cuda *gpu, const char *name, struct buf *ptx, struct err *e) {
    g->gpu = gpu;
    g->part = (struct part){.name = (char *)name};
    g->phase = (struct phase){.parts = &g->part, .n_parts = 1};
    g->kernel =
        (struct kernel){.name = (char *)name, .phases = &g->phase, .n_phases = 1, .n_args = 3, .ptx = ptx->data};
    return cuda_kernel_new(gpu, &g->kernel, &g->loaded, e) &&
           cuda_alloc(gpu, (uint64_t)MAX_WARPS * PTX_LANES * 4, &g->args[1], e);
}

static void close_loop(struct gpu_loop *g) {
    cuda_kernel_free(g->gpu, g->loaded);
    cuda_free(g->gpu, g->args[0]);
    cuda_free(g->gpu, g->args[1]);
}

static bool launch(struct gpu_loop *g, int64_t n, float *ms, struct err *e) {
    struct cuda_event *from = NULL, *to = NULL;
    int64_t sizes[N_RUN_DIMS] = {0};
    struct cuda_launch l = {.args = g->args, .sizes = sizes};
    g->part.times = g->warps;
    bool ok = cuda_event_new(g->gpu, &from, e) && cuda_event_new(g->gpu, &to, e) && cuda_event_record(g->gpu, from, e);
    for (int64_t i = 0; i < n && ok; i++) ok = cuda_launch(g->gpu, g->loaded, &l, e);
    ok = ok && cuda_event_record(g->gpu, to, e) && cuda_event_ms(g->gpu, from, to, ms, e);
    cuda_event_free(g->gpu, from);
    cuda_event_free(g->gpu, to);
    return ok;
}

/* The first and the last result must be this. */
static bool check(struct gpu_loop *g, uint32_t want, struct err *e) {
    uint32_t found[2];
    cuda_addr last = g->args[1] + (uint64_t)(g->warps * PTX_LANES - 1) * 4;
    if (!cuda_download(g->gpu, &found[0], g->args[1], 4, e) || !cuda_download(g->gpu, &found[1], last, 4, e))
        return false;
    return (found[0] == want && found[1] == want) ||
           err_set(e, ERR_COMPILE, "%s: the loop `%s` computed %08x and %08x, expected %08x", cuda_name(g->gpu),
                   g->kernel.name, found[0], found[1], want);
}

/* The best of a few, n launches each. Launches a second. */
static bool best(struct gpu_loop *g, int64_t n, double *rate, struct err *e) {
    float ms;
    *rate = 0;
    for (int i = 0; i < ATTEMPTS; i++) {
        if (!launch(g, n, &ms, e)) return false;
        if (ms > 0 && (double)n / ms * 1e3 > *rate) *rate = (double)n / ms * 1e3;
    }
    return true;
}

static void raise(double *peak, double measured) {
    if (measured > *peak) *peak = measured;
}

static bool measure_loop(struct cuda *gpu, const struct loop *l, struct peaks *p, struct err *e) {
    struct gpu_loop g = {0};
    struct buf ptx = {0};
    uint32_t ones[6], want;
    float ms = 0;
    double rate;
    for (int i = 0; i < 6; i++) ones[i] = l->one;
    write_loop(&ptx, l);
    g.args[2] = 4;
    bool ok = open_loop(&g, gpu, l->name, &ptx, e) && cuda_alloc(gpu, sizeof ones, &g.args[0], e) &&
              cuda_upload(gpu, g.args[0], ones, sizeof ones, e);
    for (g.warps = FIRST_WARPS; ok && (ok = launch(&g, 1, &ms, e)) && ms < LEAST_MS;)
        if (g.warps < MAX_WARPS)
            g.warps *= 8;
        else
            g.args[2] *= 4;
    if (l->real) {
        float sum = (float)(l->adds * (double)g.args[2]);
        memcpy(&want, &sum, sizeof want);
    } else {
        want = (uint32_t)(l->adds * (double)g.args[2]);
    }
    ok = ok && check(&g, want, e) && best(&g, 1, &rate, e);
    if (ok) raise((double *)((char *)p + l->field), rate * l->ops * CHAINS * (double)g.args[2] * (double)g.warps);
    close_loop(&g);
    buf_free(&ptx);
    return ok;
}

/* Ever more memory, until a reading takes long enough, or caches hold a small part of it; then ever more readings. */
static bool measure_read(struct cuda *gpu, struct peaks *p, struct err *e) {
    struct gpu_loop g = {.warps = FIRST_WARPS};
    struct buf ptx = {0};
    uint64_t free_bytes, total;
    int64_t n = 1;
    float ms = 0;
    double rate;
    write_read(&ptx);
    g.args[2] = WARP_READS;
    bool ok = open_loop(&g, gpu, "read", &ptx, e) && cuda_memory(gpu, &free_bytes, &total, e);
    while (ok) {
        uint64_t bytes = (uint64_t)g.warps * READ_STEP * WARP_READS;
        if (n == 1) {
            cuda_free(gpu, g.args[0]);
            g.args[0] = 0;
            ok = cuda_alloc(gpu, bytes, &g.args[0], e) && cuda_fill(gpu, g.args[0], 1, bytes, e);
        }
        if (!(ok = ok && launch(&g, n, &ms, e)) || ms >= LEAST_MS) break;
        if (g.warps < MAX_WARPS && bytes * 16 < free_bytes)
            g.warps *= 8;
        else
            n *= 2;
    }
    ok = ok && check(&g, (uint32_t)0x01010101 * 4 * READS * WARP_READS, e) && best(&g, n, &rate, e);
    if (ok) raise(&p->read_bytes_per_s, rate * (double)g.warps * READ_STEP * WARP_READS);
    close_loop(&g);
    buf_free(&ptx);
    return ok;
}

bool peaks_cuda(struct cuda *gpu, struct peaks *p, struct err *e) {
    bool ok = measure_read(gpu, p, e);
    for (size_t i = 0; i < N_LOOPS && ok; i++) {
        char target[16];
        snprintf(target, sizeof target, "sm_%u", loops[i].sm);
        if (cuda_runs(gpu, target)) ok = measure_loop(gpu, &loops[i], p, e);
    }
    return ok || err_prefix(e, "measuring %s", cuda_name(gpu));
}
