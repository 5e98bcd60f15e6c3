/* bench_kernel: the time of one kernel's launches, on random inputs. */
#include "cli/bench.h"
#include "cli/case_cuda.h"
#include "cli/doctor.h"
#include "cli/kernel_case.h"
#include "cli/peaks.h"

#include <string.h>

struct bench {
    struct dsl *dsl;
    struct target target;
    struct pool *pool;
    struct compiler compiler;
    struct cuda *gpu; /* NULL: the processor */
};

static const char *string(const json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

/* Milliseconds a launch, `repeats` times. */
static bool measure(struct bench *b, struct kernel_case *c, const struct kernel *k, int64_t repeats, double *ms,
                    struct err *e) {
    if (b->gpu) {
        struct case_cuda g;
        bool ok = case_cuda_open(&g, b->gpu, c, k, e) && case_cuda_measure(&g, repeats, ms, e);
        case_cuda_close(&g);
        return ok;
    }
    if (!case_use(c, k, e)) return false;
    int64_t n = case_warm_up(c, b->pool);
    for (int64_t i = 0; i < repeats; i++) ms[i] = case_seconds(c, b->pool, n) * 1e3 / (double)n;
    return true;
}

static json_t *measure_shape(struct bench *b, const struct bench_options *o, int64_t nth, struct err *e) {
    json_t *arg = json_pack("{s:s, s:s*, s:I, s:b}", "kernel", o->kernel, "shape", o->shape, "nth", (json_int_t)nth,
                            "team", b->target.ptx);
    if (!arg) return err_set(e, ERR_USAGE, "a kernel's name and shape are UTF-8 text"), NULL;
    struct kernel_case c = {0};
    struct kernel kernel = {0};
    json_t *made = NULL, *result = NULL;
    bool ok = dsl_call(b->dsl, "shape", arg, &made, e);
    const json_t *spec = json_object_get(made, "spec");
    b->compiler.tune_use = tune_use_of(json_integer_value(json_object_get(json_object_get(made, "run"), "tok")));
    ok = ok && compile_kernels(&b->compiler, &spec, NULL, 1, &kernel, e) &&
         case_open(&c, b->dsl, &b->target, spec, json_object_get(made, "run"), e);
    double *ms = mem_new((size_t)o->repeats * sizeof *ms);
    if (ok && measure(b, &c, &kernel, o->repeats, ms, e)) {
        json_t *list = json_array();
        for (int64_t i = 0; i < o->repeats; i++) json_array_append_new(list, json_real(ms[i]));
        double middle = median(ms, (size_t)o->repeats);
        result = json_pack("{s:s, s:o, s:f, s:f, s:f, s:f, s:f}", "shape", string(made, "label"), "ms", list,
                           "median_ms", middle, "bytes", c.bytes, "ops", c.ops, "bytes_per_s", c.bytes / middle * 1e3,
                           "ops_per_s", c.ops / middle * 1e3);
    }
    mem_free(ms);
    case_close(&c);
    kernel_free(&kernel);
    json_decref(made);
    json_decref(arg);
    return result;
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

static bool open_device(struct bench *b, const struct bench_options *o, struct err *e) {
    if (o->engine.device.kind != DEVICE_CUDA) return target_find("native", &b->target, e);
    return cuda_open(o->engine.device.index, &b->gpu, e) && target_find(cuda_target(b->gpu), &b->target, e);
}

bool bench_kernel(const struct bench_options *o, struct err *e) {
    struct bench b = {0};
    struct peaks peaks = {0};
    json_t *results = json_array();
    bool ok = open_device(&b, o, e) && dsl_open(&b.dsl, e) &&
              pool_open((int)(o->engine.threads ? o->engine.threads : doctor_cores()), &b.pool, e);
    /* Without --shape, every benchmark shape; one attempt where there is none tells what is missing. */
    int64_t n = ok && !o->shape ? case_bench_shapes(b.dsl, o->kernel) : 1;
    ok = ok && (b.gpu ? peaks_cuda(b.gpu, &peaks, e) : peaks_measure_once(b.pool, &b.target, &peaks, e));
    struct cache *cache = cache_open(NULL);
    b.compiler =
        (struct compiler){.dsl = b.dsl, .target = b.target, .n_threads = 1, .tune = tunedb_open(cache_dir(cache))};
    b.compiler.tune_threads = ok ? pool_threads(b.pool) : 1;
    for (int64_t nth = 1; ok && (nth == 1 || nth <= n); nth++) {
        json_t *r = measure_shape(&b, o, nth, e);
        ok = r != NULL;
        if (ok) json_array_append_new(results, r);
    }
    ok = ok && report(o, results, &peaks, e);
    json_decref(results);
    tunedb_close(b.compiler.tune);
    cache_close(cache);
    pool_close(b.pool);
    cuda_close(b.gpu);
    dsl_close(b.dsl);
    return ok;
}
