#include "cli/peaks.h"
#include "codegen/codegen.h"

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    READ_TASK = 1 << 16,  /* bytes */
    READ_STREAMS = 8,     /* loads an iteration, each to an accumulator of its own */
    CHAINS = 12,          /* accumulators of arithmetic: more than latency times throughput on any machine */
    WINDOW = 16,          /* iterations before the arithmetic loops read the same memory again: it stays in L1 */
    ITERATIONS = 1 << 21, /* a thread */
    ATTEMPTS = 5,         /* the best counts: a peak is what nothing disturbed */
    ATTEMPTS_NOW = 2,     /* of what the machine can do at this moment */
    SLOT = 4096,          /* bytes of results a thread */
};

#define KEY "peaks" /* in bundles */

/* ---- The loops, as flat IR (docs/ir.md) ---------------------------------------------------------------------------
 */

/* "%20…, %21…, …" */
static void values(struct buf *b, int first, int n, const char *suffix) {
    for (int k = 0; k < n; k++) buf_printf(b, "%s%%%d%s", k ? ", " : "", first + k, suffix);
}

/* A function that runs `body` for %10 in [lo, hi) with n accumulators %20…, whose next values are %60…, and stores the
 * last ones to ws. `setup` defines %6, where they begin. */
static void write_loop(struct buf *b, const char *name, const char *type, const char *setup, const char *range, int n,
                       int bytes, const struct buf *body) {
    char start[64];
    snprintf(start, sizeof start, ":%s = %%6", type);
    buf_printf(b,
               "func @%s\n  %%1:ptr = arg 0\n  %%2:i64 = begin\n  %%3:i64 = end\n  %%4:i64 = const 0\n  %%5:ptr = ws\n",
               name);
    buf_printf(b, "%s  for %%10 = %s carry ", setup, range);
    values(b, 20, n, start);
    buf_printf(b, "\n%s    yield ", body->data);
    values(b, 60, n, "");
    buf_puts(b, "\n  end -> ");
    values(b, 80, n, "");
    buf_puts(b, "\n");
    for (int k = 0; k < n; k++) buf_printf(b, "  store %%%d, %%5, %%4, %d align %d\n", 80 + k, k * bytes, bytes);
    buf_puts(b, "end\n");
}

/* Tasks of READ_TASK bytes, added up. */
static void write_read(struct buf *b, unsigned lanes) {
    int bytes = (int)lanes * 4;
    char type[16], range[64];
    struct buf setup = {0}, body = {0};
    snprintf(type, sizeof type, "i32x%u", lanes);
    snprintf(range, sizeof range, "%%8 to %%9 step %d", READ_STREAMS * bytes);
    buf_printf(&setup, "  %%6:%s = const 0\n  %%7:i64 = const %d\n  %%8:i64 = mul %%2, %%7\n  %%9:i64 = mul %%3, %%7\n",
               type, READ_TASK);
    for (int k = 0; k < READ_STREAMS; k++)
        buf_printf(&body, "    %%%d:%s = load %%1, %%10, %d align %d\n    %%%d:%s = add %%%d, %%%d\n", 40 + k, type,
                   k * bytes, bytes, 60 + k, type, 20 + k, 40 + k);
    write_loop(b, "read", type, setup.data, range, READ_STREAMS, bytes, &body);
    buf_free(&setup);
    buf_free(&body);
}

/* Iterations in which every other accumulator shares a vector loaded from L1, combined with constants in registers, so
 * that nothing can be moved out of the loop. */
static void write_arithmetic(struct buf *b, const char *name, const char *scalar, bool dot, unsigned lanes) {
    int bytes = (int)lanes * 4;
    char type[16];
    struct buf setup = {0}, body = {0};
    snprintf(type, sizeof type, "%sx%u", scalar, lanes);
    buf_printf(&setup, "  %%6:%s = load %%1, %%4, 0 align %d\n  %%7:%s = load %%1, %%4, %d align %d\n", type, bytes,
               type, bytes, bytes);
    buf_printf(&setup, "  %%8:i64 = const %d\n  %%9:i64 = const %d\n", WINDOW - 1, CHAINS / 2 * bytes);
    buf_puts(&body, "    %11:i64 = and %10, %8\n    %12:i64 = mul %11, %9\n");
    for (int k = 0; k < CHAINS; k++) {
        int loaded = 40 + k / 2, constant = 6 + k % 2;
        if (k % 2 == 0)
            buf_printf(&body, "    %%%d:%s = load %%1, %%12, %d align %d\n", loaded, type, k / 2 * bytes, bytes);
        if (dot)
            buf_printf(&body, "    %%%d:%s = dot4 %%%d, %%%d, %%%d umax=15\n", 60 + k, type, 20 + k, loaded, constant);
        else
            buf_printf(&body, "    %%%d:%s = fma %%%d, %%%d, %%%d\n", 60 + k, type, loaded, constant, 20 + k);
    }
    write_loop(b, name, type, setup.data, "%2 to %3 step 1", CHAINS, bytes, &body);
    buf_free(&setup);
    buf_free(&body);
}

/* ---- Measuring ----------------------------------------------------------------------------------------------------
 */

/* The flat IR has no products of bfloat16: its peak stands beside the others for what a kernel could gain by them. */
__attribute__((target("avx512f,avx512bf16"))) static void bf16_dots(void *const *args, const int64_t *dims,
                                                                    int64_t begin, int64_t end, void *ws) {
    (void)dims;
    __m512 sums[CHAINS];
    __m512bh x = (__m512bh)_mm512_load_si512(args[0]);
#pragma GCC unroll 16 /* all three loops: the sums then lie in registers */
    for (int k = 0; k < CHAINS; k++) sums[k] = _mm512_setzero_ps();
    for (int64_t i = begin; i < end; i++)
#pragma GCC unroll 16
        for (int k = 0; k < CHAINS; k++) {
            sums[k] = _mm512_dpbf16_ps(sums[k], x, x);
            __asm__("" : "+v"(sums[k])); /* each a sum of its own */
        }
#pragma GCC unroll 16
    for (int k = 1; k < CHAINS; k++) sums[0] = _mm512_add_ps(sums[0], sums[k]);
    _mm512_store_ps(ws, sums[0]);
}

enum loop { LOOP_READ, LOOP_DOT, LOOP_FMA, LOOP_BF16, N_LOOPS };

struct peaks_meter {
    struct pool *pool;
    struct code *code;
    kernel_fn *loops[N_LOOPS]; /* NULL: this processor has none */
    double ops[N_LOOPS];       /* a task: bytes of LOOP_READ, else operations */
    uint8_t *data, *results;   /* [bytes], [threads × SLOT] */
    float *floats;             /* [SLOT], behind the results */
    size_t bytes, result_bytes;
    /* Of the loop that runs. */
    kernel_fn *fn;
    void *args[1];
    int64_t n_tasks;
};

/* First touch, by the thread that will read it. */
static void fill(void *ctx, int thread) {
    struct peaks_meter *m = ctx;
    int64_t begin, end;
    pool_share(m->pool, thread, (int64_t)(m->bytes / READ_TASK), &begin, &end);
    memset(m->data + begin * READ_TASK, 1, (size_t)((end - begin) * READ_TASK));
}

static void on_thread(void *ctx, int thread) {
    struct peaks_meter *m = ctx;
    int64_t begin, end;
    pool_share(m->pool, thread, m->n_tasks, &begin, &end);
    m->fn(m->args, NULL, begin, end, m->results + (size_t)thread * SLOT);
}

/* Bytes or operations a second, the best of several attempts; 0 for what this processor has not. */
static double best_rate(struct peaks_meter *m, enum loop loop, int attempts) {
    double best = 0;
    m->fn = m->loops[loop];
    if (!m->fn) return 0;
    m->args[0] = loop == LOOP_READ || loop == LOOP_DOT ? (void *)m->data : m->floats;
    m->n_tasks = loop == LOOP_READ ? (int64_t)(m->bytes / READ_TASK) : (int64_t)ITERATIONS * pool_threads(m->pool);
    for (int i = 0; i < attempts; i++) {
        double start = now_s();
        pool_run(m->pool, on_thread, m);
        double rate = (double)m->n_tasks * m->ops[loop] / (now_s() - start);
        if (rate > best) best = rate;
    }
    return best;
}

static size_t buffer_bytes(void) {
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = (size_t)256 << 20, most = (size_t)1 << 30;
    if (l3 > 0 && (size_t)l3 * 3 > bytes) bytes = (size_t)l3 * 3 < most ? (size_t)l3 * 3 : most;
    return bytes / READ_TASK * READ_TASK;
}

static bool compile(const struct target *t, struct buf *obj, struct err *e) {
    struct buf ir = {0};
    buf_puts(&ir, "kgen-ir 1\n");
    write_read(&ir, t->lanes);
    write_arithmetic(&ir, "dot", "i32", true, t->lanes);
    write_arithmetic(&ir, "fma", "f32", false, t->lanes);
    bool ok = codegen_emit(ir.data, ir.len, t, STAGE_OBJ, NULL, obj, e);
    buf_free(&ir);
    return ok;
}

static bool find_code(const struct target *t, const struct bundle *from, struct buf *obj, struct err *e) {
    const json_t *unused;
    const struct buf *code, *none;
    if (!from) return compile(t, obj, e);
    if (!bundle_find(from, KEY, &unused, &code, &none))
        return err_set(e, ERR_INPUT, "%s: the bundle has no code to measure this machine with", bundle_dir(from));
    buf_add(obj, code->data, code->len);
    return true;
}

bool peaks_bundle(struct bundle *b, const struct target *t, struct err *e) {
    struct buf obj = {0}, none = {0};
    if (t->ptx) return true; /* GPUs are measured with PTX that is there already */
    bool ok = compile(t, &obj, e);
    json_t *description = json_pack("{s:s}", "name", KEY);
    if (ok) bundle_add(b, KEY, description, false, &obj, &none);
    json_decref(description);
    buf_free(&obj);
    return ok;
}

static uint8_t *map(size_t bytes) {
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

bool peaks_open(struct pool *pool, const struct target *t, const struct bundle *from, struct peaks_meter **out,
                struct err *e) {
    struct peaks_meter *m = *out = mem_new(sizeof *m);
    struct buf obj = {0};
    *m = (struct peaks_meter){.pool = pool, .bytes = buffer_bytes()};
    m->result_bytes = (size_t)pool_threads(pool) * SLOT + SLOT * sizeof(float);
    m->data = map(m->bytes);
    m->results = map(m->result_bytes);
    bool ok = (m->data && m->results) ||
              err_set(e, ERR_MEMORY, "%zu MiB to measure the memory's speed with cannot be had", m->bytes >> 20);
    ok = ok && find_code(t, from, &obj, e) && code_load(obj.data, obj.len, &m->code, e);
    buf_free(&obj);
    if (!ok) {
        peaks_close(m);
        *out = NULL;
        return false;
    }
    m->loops[LOOP_READ] = code_symbol(m->code, "read");
    m->loops[LOOP_DOT] = code_symbol(m->code, "dot");
    m->loops[LOOP_FMA] = code_symbol(m->code, "fma");
    m->loops[LOOP_BF16] = __builtin_cpu_supports("avx512bf16") ? bf16_dots : NULL;
    double lanes = 2.0 * CHAINS * t->lanes;
    m->ops[LOOP_READ] = READ_TASK;
    m->ops[LOOP_DOT] = lanes * 4;
    m->ops[LOOP_FMA] = lanes;
    m->ops[LOOP_BF16] = 2.0 * CHAINS * 32;
    madvise(m->data, m->bytes, MADV_HUGEPAGE);
    pool_run(pool, fill, m);
    /* Small numbers: no overflow to infinity, no denormals; the bytes of data are under dot4's umax. */
    m->floats = (float *)(m->results + (size_t)pool_threads(pool) * SLOT);
    for (size_t i = 0; i < SLOT; i++) m->floats[i] = 0x1p-10f;
    return true;
}

void peaks_close(struct peaks_meter *m) {
    if (!m) return;
    if (m->data) munmap(m->data, m->bytes);
    if (m->results) munmap(m->results, m->result_bytes);
    code_free(m->code);
    mem_free(m);
}

double peaks_read_now(struct peaks_meter *m) {
    return best_rate(m, LOOP_READ, ATTEMPTS_NOW);
}

double peaks_products_now(struct peaks_meter *m, bool int8) {
    return best_rate(m, int8 ? LOOP_DOT : LOOP_FMA, ATTEMPTS_NOW);
}

void peaks_measure(struct peaks_meter *m, struct peaks *p) {
    double *peaks[N_LOOPS] = {&p->read_bytes_per_s, &p->int8_ops_per_s, &p->f32_ops_per_s, &p->bf16_ops_per_s};
    for (int loop = 0; loop < N_LOOPS; loop++) {
        double measured = best_rate(m, (enum loop)loop, ATTEMPTS);
        if (measured > *peaks[loop]) *peaks[loop] = measured;
    }
}

bool peaks_measure_once(struct pool *pool, const struct target *t, struct peaks *p, struct err *e) {
    struct peaks_meter *m;
    if (!peaks_open(pool, t, NULL, &m, e)) return false;
    peaks_measure(m, p);
    peaks_close(m);
    return true;
}

double peaks_products(const struct peaks *p, bool int8, const char **name) {
    bool gpu = p->dp4a_ops_per_s > 0, wide = gpu && p->bf16_ops_per_s > 0;
    *name = !int8 ? "f32" : wide ? "bf16" : gpu ? "dp4a" : "int8";
    return !int8 ? p->f32_ops_per_s : wide ? p->bf16_ops_per_s : gpu ? p->dp4a_ops_per_s : p->int8_ops_per_s;
}

double peaks_ops_per_s(const struct peaks *p, const json_t *spec) {
    const char *unused;
    char *text = json_dumps(spec, JSON_COMPACT);
    bool int8 = text && strstr(text, "\"q8\"");
    free(text);
    return peaks_products(p, int8, &unused);
}

json_t *peaks_json(const struct peaks *p) {
    json_t *o = json_pack("{s:f, s:f, s:f, s:f}", "read_bytes_per_s", p->read_bytes_per_s, "int8_ops_per_s",
                          p->int8_ops_per_s, "f32_ops_per_s", p->f32_ops_per_s, "bf16_ops_per_s", p->bf16_ops_per_s);
    if (p->dp4a_ops_per_s > 0) json_object_set_new(o, "dp4a_ops_per_s", json_real(p->dp4a_ops_per_s));
    return o;
}
