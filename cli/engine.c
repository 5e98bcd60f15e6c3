#include "cli/engine.h"
#include "cli/doctor.h"

#include <sys/resource.h>

bool engine_open(const struct engine_options *o, struct model **out, struct err *e) {
    bool cuda = o->device.kind == DEVICE_CUDA;
    struct cuda *gpu = NULL;
    if (cuda && !cuda_open(o->device.index, &gpu, e)) return err_prefix(e, "--device cuda:%d", o->device.index);
    if (!cuda && o->gpu && !o->bundle) {
        struct err why;
        cuda = cuda_open(o->device.index, &gpu, &why);
        if (!cuda)
            fprintf(stderr, "%skgen:%s --gpu: %s; computing on the CPU\n", yellow(stderr), plain(stderr), why.msg);
    }
    if (cuda && o->gpu) fprintf(stderr, "Backend: CUDA (%s)\n", cuda_name(gpu));
    cuda_close(gpu);
    /* A bundle knows how it was made; the usual 8-bit activations are no wish that could contradict it. */
    struct model_options mo = {
        .path = o->model,
        .bundle = o->bundle,
        .act = o->act == ACT_F32 ? "f32" : o->bundle ? NULL : "q8",
        .kv = o->kv == KV_DEFAULT ? NULL : kv_names[o->kv],
        .n_threads = (int)(o->threads ? o->threads : doctor_cores()),
        .dump = o->dump,
        .packed_bytes = (uint64_t)(o->weights_cache * 0x1p30),
        .cuda = cuda,
        .cuda_index = o->device.index,
    };
    return model_open(&mo, out, e);
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
