/* bench_kernel: the time of one kernel's launches, on random inputs. */
#include "cli/bench.h"
#include "cli/doctor.h"
#include "cli/peaks.h"
#include "runtime/compile.h"
#include "verify/ref.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    MAX_ARRAYS = 64,
    PAD = 4096,             /* kernels may read a vector past the end of an array */
    MAX_COPIES = 32,        /* of all weights, in rotation, so that caches do not serve them */
    MAX_COPIED = 512 << 20, /* bytes they may take */
};
static const double LEAST_S = 0.02; /* one measurement lasts at least this long */

struct bench {
    struct dsl *dsl;
    struct target target;
    struct pool *pool;
    struct ref_rng rng;
};

/* A kernel with the arrays of one launch. */
struct bench_case {
    struct pool *pool;
    struct kernel kernel;
    json_t *made, *costs;
    struct region {
        uint8_t *data;
        size_t bytes; /* a copy */
        size_t copies;
    } arrays[MAX_ARRAYS];
    size_t n_arrays;
    void *args[MAX_COPIES][MAX_ARRAYS]; /* as the kernel wants them */
    size_t n_copies, turn;
    uint8_t *ws;
    size_t ws_bytes;
    int64_t sizes[N_RUN_DIMS];
    int64_t n_launches;
};

static int64_t integer(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_real(v) ? (int64_t)json_real_value(v) : json_integer_value(v);
}

static const char *string(const json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

/* ---- Inputs -------------------------------------------------------------------------------------------------------
 */

static uint8_t *map_memory(size_t bytes, struct err *e) {
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) {
        madvise(p, bytes, MADV_HUGEPAGE);
        return p;
    }
    err_set(e, ERR_MEMORY, "%zu MiB for the kernel's arrays cannot be had; try a smaller --shape", bytes >> 20);
    return NULL;
}

/* Random blocks of the format, through its packing routine. */
static bool fill_weight(struct bench *b, const json_t *a, uint8_t *out, struct err *e) {
    const char *fmt = string(a, "fmt");
    int64_t rows = integer(a, "rows"), n = integer(a, "n");
    struct ref_format ref;
    if (!ref_format_find(fmt, &ref))
        return err_set(e, ERR_UNSUPPORTED, "verify/ref_format.c knows no random %s values to measure with", fmt);
    if (n % ref.block_elems)
        return err_set(e, ERR_USAGE, "%lld elements are not whole blocks of %s", (long long)n, fmt);
    json_t *arg = json_pack("{s:s, s:i, s:I, s:I}", "fmt", fmt, "lanes", (int)b->target.lanes, "rows", (json_int_t)rows,
                            "n", (json_int_t)n);
    json_t *size = NULL;
    bool ok = dsl_call(b->dsl, "packed_size", arg, &size, e);
    json_decref(arg);
    if (!ok) return false;
    struct compiler c = {.dsl = b->dsl, .target = b->target, .n_threads = 1};
    const json_t *no_spec = NULL;
    struct kernel pack;
    ok = compile_kernels(&c, &no_spec, &fmt, 1, &pack, e);
    size_t row_bytes = ref_format_bytes(&ref, (size_t)n);
    uint8_t *blocks = ok ? map_memory(row_bytes * (size_t)rows + PAD, e) : NULL;
    int32_t *rowmap = mem_try((size_t)rows, sizeof *rowmap);
    if (ok && blocks && !rowmap) err_set(e, ERR_MEMORY, "no memory for %lld rows", (long long)rows);
    ok = ok && blocks && rowmap;
    if (ok) {
        ref_random_blocks(&ref, &b->rng, (size_t)(n * rows), 0.02, blocks);
        for (int64_t r = 0; r < rows; r++) rowmap[r] = (int32_t)r;
        int64_t sizes[N_RUN_DIMS] = {[RUN_NB] = n / ref.block_elems,
                                     [RUN_ROWS] = rows,
                                     [RUN_ROW_BYTES] = (int64_t)row_bytes,
                                     [RUN_TILE_BYTES] = integer(size, "tile")};
        int64_t dims[N_RUN_DIMS];
        for (size_t i = 0; i < pack.n_dims; i++) dims[i] = sizes[pack.dims[i]];
        void *args[3] = {blocks, out, rowmap};
        const struct part *part = &pack.phases[0].parts[0];
        part->fn(args, dims, 0, part_tasks(part, sizes), NULL);
    }
    if (blocks) munmap(blocks, row_bytes * (size_t)rows + PAD);
    mem_free(rowmap);
    kernel_free(&pack);
    json_decref(size);
    return ok;
}

static bool fill(struct bench *b, const struct bench_case *c, const json_t *a, uint8_t *out, size_t bytes,
                 struct err *e) {
    const char *role = string(a, "role");
    size_t n = bytes / 4;
    if (strcmp(role, "weight") == 0) return fill_weight(b, a, out, e);
    if (strcmp(role, "pages") == 0)
        for (size_t i = 0; i < n; i++) ((int32_t *)out)[i] = (int32_t)i;
    else if (strcmp(role, "ids") == 0)
        for (size_t i = 0; i < n; i++)
            ((int32_t *)out)[i] = (int32_t)ref_rng_below(&b->rng, (uint64_t)integer(c->costs, "n_ids"));
    else if (strcmp(string(a, "fmt"), "f16") == 0)
        for (size_t i = 0; i < bytes / 2; i++) ((uint16_t *)out)[i] = ref_f16_encode(ref_rng_uniform(&b->rng) * 2 - 1);
    else
        for (size_t i = 0; i < n; i++) ((float *)out)[i] = (float)(ref_rng_uniform(&b->rng) * 2 - 1);
    return true;
}

static size_t copies_for(size_t weight_bytes) {
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t want = (l3 > 0 ? (size_t)l3 : (size_t)32 << 20) * 2;
    if (want > MAX_COPIED) want = MAX_COPIED;
    size_t copies = weight_bytes ? want / weight_bytes + 1 : 1;
    return copies < MAX_COPIES ? copies : MAX_COPIES;
}

static bool make_arrays(struct bench *b, struct bench_case *c, struct err *e) {
    const json_t *arrays = json_object_get(c->costs, "arrays");
    if (json_array_size(arrays) > MAX_ARRAYS) return err_set(e, ERR_UNSUPPORTED, "over %d arrays", MAX_ARRAYS);
    size_t weights = 0;
    for (size_t i = 0; i < json_array_size(arrays); i++)
        if (strcmp(string(json_array_get(arrays, i), "role"), "weight") == 0)
            weights += (size_t)integer(json_array_get(arrays, i), "bytes");
    c->n_copies = copies_for(weights);
    for (size_t i = 0; i < json_array_size(arrays); i++) {
        const json_t *a = json_array_get(arrays, i);
        struct region *r = &c->arrays[c->n_arrays];
        r->copies = strcmp(string(a, "role"), "weight") == 0 ? c->n_copies : 1;
        r->bytes = ((size_t)integer(a, "bytes") + PAD + 63) / 64 * 64;
        r->data = map_memory(r->bytes * r->copies, e);
        if (!r->data) return false;
        c->n_arrays++;
        if (!fill(b, c, a, r->data, (size_t)integer(a, "bytes"), e)) return err_prefix(e, "%s", string(a, "name"));
        for (size_t k = 1; k < r->copies; k++) memcpy(r->data + k * r->bytes, r->data, r->bytes);
    }
    for (size_t k = 0; k < c->n_copies; k++)
        for (size_t i = 0; i < c->kernel.n_args; i++)
            for (size_t j = 0; j < c->n_arrays; j++)
                if (strcmp(c->kernel.args[i], string(json_array_get(arrays, j), "name")) == 0)
                    c->args[k][i] = c->arrays[j].data + (k % c->arrays[j].copies) * c->arrays[j].bytes;
    c->ws_bytes = c->kernel.ws_per_tok * (size_t)c->sizes[RUN_TOK] + PAD;
    c->ws = map_memory(c->ws_bytes, e);
    return c->ws != NULL;
}

/* ---- Launches -----------------------------------------------------------------------------------------------------
 */

static bool case_open(struct bench *b, struct bench_case *c, const char *kernel, const char *shape, int64_t nth,
                      struct err *e) {
    json_t *arg = json_pack("{s:s, s:s*, s:I}", "kernel", kernel, "shape", shape, "nth", (json_int_t)nth);
    json_t *meta = NULL, *ask = NULL;
    if (!arg) return err_set(e, ERR_USAGE, "a kernel's name and shape are UTF-8 text");
    c->pool = b->pool;
    bool ok = dsl_call(b->dsl, "shape", arg, &c->made, e);
    const json_t *spec = json_object_get(c->made, "spec"), *run = json_object_get(c->made, "run");
    if (ok) ask = json_pack("{s:O, s:O, s:i}", "spec", spec, "run", run, "lanes", (int)b->target.lanes);
    ok = ok && dsl_call(b->dsl, "case", ask, &c->costs, e) &&
         compile_lower(b->dsl, spec, &b->target, false, &meta, e) && compile_lowered(meta, &b->target, &c->kernel, e);
    c->sizes[RUN_TOK] = integer(run, "tok");
    c->sizes[RUN_POS] = integer(run, "pos");
    c->sizes[RUN_KEY] = integer(run, "key");
    c->sizes[RUN_CTX] = integer(run, "ctx");
    c->sizes[RUN_NPAGES] = integer(run, "npages");
    json_decref(arg);
    json_decref(ask);
    json_decref(meta);
    return ok && make_arrays(b, c, e);
}

static void case_close(struct bench_case *c) {
    for (size_t i = 0; i < c->n_arrays; i++) munmap(c->arrays[i].data, c->arrays[i].bytes * c->arrays[i].copies);
    if (c->ws) munmap(c->ws, c->ws_bytes);
    kernel_free(&c->kernel);
    json_decref(c->made);
    json_decref(c->costs);
}

static void launch_on_thread(void *ctx, int thread) {
    const struct bench_case *c = ctx;
    int64_t dims[N_RUN_DIMS];
    for (size_t i = 0; i < c->kernel.n_dims; i++) dims[i] = c->sizes[c->kernel.dims[i]];
    for (int64_t n = 0; n < c->n_launches; n++) {
        void *const *args = c->args[(c->turn + (size_t)n) % c->n_copies];
        for (size_t i = 0; i < c->kernel.n_phases; i++) {
            const struct phase *phase = &c->kernel.phases[i];
            for (size_t j = 0; j < phase->n_parts; j++) {
                int64_t begin, end;
                pool_share(c->pool, thread, part_tasks(&phase->parts[j], c->sizes), &begin, &end);
                if (begin < end) phase->parts[j].fn(args, dims, begin, end, c->ws);
            }
            pool_barrier(c->pool);
        }
    }
}

static double seconds_of(struct bench_case *c, int64_t n_launches) {
    c->n_launches = n_launches;
    double start = now_s();
    pool_run(c->pool, launch_on_thread, c);
    c->turn += (size_t)n_launches;
    return now_s() - start;
}

/* Milliseconds a launch, `repeats` times, after a warm-up that also finds how many launches make a measurement. */
static void measure(struct bench_case *c, int64_t repeats, double *ms) {
    int64_t n = 1;
    while (seconds_of(c, n) < LEAST_S && n < 1 << 24) n *= 2;
    for (int64_t i = 0; i < repeats; i++) ms[i] = seconds_of(c, n) * 1e3 / (double)n;
}

static json_t *measure_shape(struct bench *b, const struct bench_options *o, int64_t nth, struct err *e) {
    struct bench_case *c = mem_new(sizeof *c);
    json_t *result = NULL;
    if (case_open(b, c, o->kernel, o->shape, nth, e)) {
        double *ms = mem_new((size_t)o->repeats * sizeof *ms);
        measure(c, o->repeats, ms);
        json_t *list = json_array();
        for (int64_t i = 0; i < o->repeats; i++) json_array_append_new(list, json_real(ms[i]));
        double middle = median(ms, (size_t)o->repeats), bytes = (double)integer(c->costs, "bytes");
        double ops = (double)integer(c->costs, "ops");
        result = json_pack("{s:s, s:o, s:f, s:f, s:f, s:f, s:f}", "shape", string(c->made, "label"), "ms", list,
                           "median_ms", middle, "bytes", bytes, "ops", ops, "bytes_per_s", bytes / middle * 1e3,
                           "ops_per_s", ops / middle * 1e3);
        mem_free(ms);
    }
    case_close(c);
    mem_free(c);
    return result;
}

static int64_t bench_shapes(struct dsl *d, const char *kernel) {
    json_t *kernels = NULL;
    struct err e;
    int64_t n = 0;
    if (!dsl_call(d, "kernels", NULL, &kernels, &e)) return 0;
    for (size_t i = 0; i < json_array_size(kernels); i++)
        if (strcmp(string(json_array_get(kernels, i), "name"), kernel) == 0)
            n = integer(json_array_get(kernels, i), "n_bench");
    json_decref(kernels);
    return n;
}

static bool report(const struct bench_options *o, json_t *results, const struct peaks *peaks, struct err *e) {
    if (o->report.json)
        return json_print(
            json_pack("{s:s, s:O, s:o}", "kernel", o->kernel, "results", results, "peaks", peaks_json(peaks)), e);
    for (size_t i = 0; i < json_array_size(results); i++) {
        const json_t *r = json_array_get(results, i);
        double bytes = json_real_value(json_object_get(r, "bytes_per_s")),
               ops = json_real_value(json_object_get(r, "ops_per_s"));
        printf("%s %s\n  %.4f ms, %.1f GB/s (%.0f %% of what memory gives), %.1f Gop/s (%.0f %% of int8, %.0f %% of "
               "f32)\n",
               o->kernel, string(r, "shape"), json_real_value(json_object_get(r, "median_ms")), bytes / 1e9,
               100 * bytes / peaks->read_bytes_per_s, ops / 1e9, 100 * ops / peaks->int8_ops_per_s,
               100 * ops / peaks->f32_ops_per_s);
    }
    return true;
}

bool bench_kernel(const struct bench_options *o, struct err *e) {
    struct bench b = {.rng = {.seed = 1}};
    struct peaks peaks = {0};
    json_t *results = json_array();
    bool ok = target_find("native", &b.target, e) && dsl_open(&b.dsl, e) &&
              pool_open((int)(o->engine.threads ? o->engine.threads : doctor_cores()), &b.pool, e);
    /* Without --shape, every benchmark shape; one attempt where there is none tells what is missing. */
    int64_t n = ok && !o->shape ? bench_shapes(b.dsl, o->kernel) : 1;
    ok = ok && peaks_measure(b.pool, &b.target, &peaks, e);
    for (int64_t nth = 1; ok && (nth == 1 || nth <= n); nth++) {
        json_t *r = measure_shape(&b, o, nth, e);
        ok = r != NULL;
        if (ok) json_array_append_new(results, r);
    }
    ok = ok && report(o, results, &peaks, e);
    json_decref(results);
    pool_close(b.pool);
    dsl_close(b.dsl);
    return ok;
}
