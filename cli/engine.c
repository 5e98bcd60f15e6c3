#include "cli/engine.h"
#include "cli/doctor.h"

#include <sys/resource.h>

/* Said once: the same model is not opened twice. */
static bool opened(const struct model *m) {
    if (*m->why_f32_keys)
        fprintf(stderr, "%skgen:%s %s; the KV cache is float32 (kgen doctor -m says more)\n", yellow(stderr),
                plain(stderr), m->why_f32_keys);
    return true;
}

bool engine_open(const struct engine_options *o, int64_t n_ctx, int64_t top_k, struct model **out, struct err *e) {
    /* A bundle knows how it was made, and for what device; the usual 8-bit activations are no wish that could
     * contradict it. */
    struct model_options mo = {
        .path = o->model,
        .bundle = o->bundle,
        .act = o->act == ACT_F32 ? "f32"
               : o->bundle       ? NULL
                                 : "q8",
        .kv = o->kv == KV_DEFAULT ? NULL : kv_names[o->kv],
        .n_threads = (int)(o->threads ? o->threads : doctor_cores()),
        .dump = o->dump,
        .packed_bytes = (uint64_t)(o->weights_cache * 0x1p30),
        .cuda = (o->gpu && !o->bundle) || o->device.kind == DEVICE_CUDA,
        .cuda_index = o->device.index,
        .n_ctx = n_ctx,
        .top_k = top_k,
    };
    if (model_open(&mo, out, e)) {
        if (o->gpu && (*out)->gpu) fprintf(stderr, "Backend: CUDA (%s)\n", cuda_name((*out)->gpu));
        return opened(*out);
    }
    /* An error of the file would only come again. */
    if (!mo.cuda || e->code == ERR_INPUT || e->code == ERR_IO || e->code == ERR_USAGE) return false;
    if (o->device.kind == DEVICE_CUDA) return err_prefix(e, "--device cuda:%d", o->device.index);
    fprintf(stderr, "%skgen:%s --gpu: %s; computing on the CPU\n", yellow(stderr), plain(stderr), e->msg);
    mo.cuda = false;
    return model_open(&mo, out, e) && opened(*out);
}

uint64_t engine_peak_bytes(void) {
    struct rusage r;
    return getrusage(RUSAGE_SELF, &r) == 0 ? (uint64_t)r.ru_maxrss * 1024 : 0;
}

json_t *engine_json(const struct model *m) {
    return json_pack("{s:f, s:f, s:b, s:f, s:I, s:I, s:I, s:I, s:i}", "load_s", m->load_s, "weights_s", m->pack_s,
                     "weights_cached", m->weights_cached, "compile_s", m->compiler.seconds, "kernels_compiled",
                     (json_int_t)m->compiler.n_compiled, "kernels_cached", (json_int_t)m->compiler.n_cached,
                     "weights_bytes", (json_int_t)m->weight_bytes, "peak_bytes", (json_int_t)engine_peak_bytes(),
                     "threads", pool_threads(m->pool));
}
