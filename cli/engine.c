#include "cli/engine.h"
#include "cli/doctor.h"

#include <sys/resource.h>

bool engine_open(const struct engine_options *o, struct model **out, struct err *e) {
    if (o->device.kind == DEVICE_CUDA)
        return err_set(
            e, ERR_UNSUPPORTED,
            "--device cuda:%d: this build cannot use a CUDA device; leave the option out to compute on the CPU",
            o->device.index);
    if (o->gpu)
        fprintf(stderr, "%skgen:%s --gpu: this build cannot use a CUDA device; computing on the CPU\n", yellow(stderr),
                plain(stderr));
    struct model_options mo = {
        .path = o->model,
        .act = o->act == ACT_F32 ? "f32" : "q8",
        .kv = o->kv == KV_DEFAULT ? NULL : kv_names[o->kv],
        .n_threads = (int)(o->threads ? o->threads : doctor_cores()),
        .dump = o->dump,
    };
    return model_open(&mo, out, e);
}

uint64_t engine_peak_bytes(void) {
    struct rusage r;
    return getrusage(RUSAGE_SELF, &r) == 0 ? (uint64_t)r.ru_maxrss * 1024 : 0;
}

json_t *engine_json(const struct model *m) {
    return json_pack("{s:f, s:f, s:I, s:I, s:I, s:I, s:i}", "load_s", m->load_s, "compile_s", m->compiler.seconds,
                     "kernels_compiled", (json_int_t)m->compiler.n_compiled, "kernels_cached",
                     (json_int_t)m->compiler.n_cached, "weights_bytes", (json_int_t)m->weight_bytes, "peak_bytes",
                     (json_int_t)engine_peak_bytes(), "threads", pool_threads(m->pool));
}
