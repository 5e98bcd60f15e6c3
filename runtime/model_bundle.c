/* model_bundle: a model's plan and code into a bundle, and out of it. */
#include "runtime/model_impl.h"

#include <fcntl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What packs a GPU's weights runs on the processor beside it; every one with AVX2. */
#define GPU_HOST "x86-64-v3"

/* ---- out of a bundle ---- */

/* The code must suit this processor: by name, and where the name is "native" by what that meant there. */
static bool check_processor(const struct bundle *b, const struct target *t, const char *features, struct err *e) {
    if (target_runs_here(t) && strcmp(t->cpu_features, features) == 0) return true;
    struct target native;
    if (!target_find("native", &native, e)) return false;
    return err_set(
        e, ERR_UNSUPPORTED, "%s: is for processors of target %s%s%s; this one is %s %s: make one with --target %s",
        bundle_dir(b), t->name, strcmp(t->name, "native") == 0 ? " with " : "",
        strcmp(t->name, "native") == 0 ? features : "", native.class_name, native.cpu_features, native.class_name);
}

static bool open_gpu(struct model *m, const struct model_options *o, const char *name, struct err *e) {
    struct target host;
    if (!cuda_open(o->cuda_index, &m->gpu, e)) return err_prefix(e, "%s: is for %s", bundle_dir(m->bundle), name);
    if (!cuda_runs(m->gpu, name))
        return err_set(e, ERR_UNSUPPORTED, "%s: is for %s, and %s is older or another kind: make one with --target %s",
                       bundle_dir(m->bundle), name, cuda_name(m->gpu), cuda_target(m->gpu));
    m->compiler.host = bundle_text(m->bundle, "host");
    return target_find(m->compiler.host, &host, e) && check_processor(m->bundle, &host, host.cpu_features, e);
}

static bool open_target(struct model *m, const struct model_options *o, struct err *e) {
    const char *name = bundle_text(m->bundle, "target");
    if (!target_find(name, &m->compiler.target, e)) return err_prefix(e, "%s", bundle_dir(m->bundle));
    if (m->compiler.target.ptx) return open_gpu(m, o, name, e);
    if (o->cuda)
        return err_set(e, ERR_USAGE, "%s: is for processors (%s); for --device cuda make one with --target sm_NN",
                       bundle_dir(m->bundle), name);
    return check_processor(m->bundle, &m->compiler.target, bundle_text(m->bundle, "features"), e);
}

static bool same(struct err *e, const struct bundle *b, const char *what, const char *wanted) {
    const char *made = bundle_text(b, what);
    if (!wanted || strcmp(made, wanted) == 0) return true;
    return err_set(e, ERR_USAGE, "%s: was made with --%s %s, not %s: make another, or leave the option out",
                   bundle_dir(b), what, made, wanted);
}

static bool open_model(struct model *m, const struct model_options *o, struct err *e) {
    const json_t *about = bundle_about(m->bundle), *file = json_object_get(about, "model");
    const char *name = json_string_value(json_object_get(file, "file"));
    const char *digest = json_string_value(json_object_get(file, "xxh3"));
    struct buf inside = {0};
    char found[33];
    if (!name || !digest || strchr(name, '/'))
        return err_set(e, ERR_INPUT, "%s: names no model", bundle_dir(m->bundle));
    buf_printf(&inside, "%s/%s", bundle_dir(m->bundle), name);
    bool ok = true;
    if (!o->path && !json_is_true(json_object_get(file, "copied")))
        ok = err_set(e, ERR_USAGE, "%s: holds no model: name %s with -m", bundle_dir(m->bundle), name);
    ok = ok &&
         gguf_open(o->path ? o->path : inside.data, model_use_types(json_object_get(about, "formats")), &m->gguf, e);
    buf_free(&inside);
    uint64_t bytes = (uint64_t)json_integer_value(json_object_get(file, "bytes"));
    if (ok && gguf_file_bytes(m->gguf) != bytes)
        return err_set(e, ERR_INPUT, "%s: is not the model that %s is for: it has %llu bytes, %s had %llu",
                       gguf_path(m->gguf), bundle_dir(m->bundle), (unsigned long long)gguf_file_bytes(m->gguf), name,
                       (unsigned long long)bytes);
    ok = ok && gguf_digest(m->gguf, found, e);
    if (ok && strcmp(found, digest) != 0)
        return err_set(e, ERR_INPUT, "%s: is not the model that %s is for: its XXH3 is %s, that of %s was %.40s",
                       gguf_path(m->gguf), bundle_dir(m->bundle), found, name, digest);
    return ok;
}

bool model_open_bundle(struct model *m, const struct model_options *o, struct err *e) {
    if (o->dump) return err_set(e, ERR_USAGE, "--dump prints what is compiled; a bundle is compiled already");
    if (!dsl_open(&m->dsl, e) || !bundle_open(o->bundle, &m->bundle, e)) return false;
    m->act = bundle_text(m->bundle, "act");
    m->kv = bundle_text(m->bundle, "kv");
    m->plan = json_incref((json_t *)bundle_plan(m->bundle));
    m->compiler.from = m->bundle;
    return same(e, m->bundle, "act", o->act) && same(e, m->bundle, "kv", o->kv) && open_target(m, o, e) &&
           open_model(m, o, e);
}

bool model_bundle_fits(const struct model_options *o, struct err *e) {
    struct model *m = mem_new(sizeof *m);
    bool ok = bundle_open(o->bundle, &m->bundle, e) && open_target(m, o, e);
    model_close(m);
    return ok;
}

bool model_bundle_about(const struct bundle *b, json_t **about, struct err *e) {
    const json_t *file = json_object_get(bundle_about(b), "model");
    *about =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:O*, s:O*, s:O*, s:O*}", "bundle", bundle_dir(b), "target",
                  bundle_text(b, "target"), "features", bundle_text(b, "features"), "compiler",
                  bundle_text(b, "compiler"), "activations", bundle_text(b, "act"), "kv_cache", bundle_text(b, "kv"),
                  "kernels", (json_int_t)bundle_n_kernels(b), "cubins", (json_int_t)bundle_n_cubins(b), "code_bytes", (json_int_t)bundle_bytes(b), "model",
                  json_object_get(file, "file"), "model_bytes", json_object_get(file, "bytes"), "model_xxh3",
                  json_object_get(file, "xxh3"), "model_inside", json_object_get(file, "copied"));
    return *about || err_set(e, ERR_INPUT, "%s: its name is not UTF-8 text", bundle_dir(b));
}

/* ---- into a bundle ---- */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool copy_file(const char *from, const char *dir, struct err *e) {
    struct buf to = {0};
    buf_printf(&to, "%s/%s", dir, base_name(from));
    int in = open(from, O_RDONLY | O_CLOEXEC),
        out = in < 0 ? -1 : open(to.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool ok = in >= 0 && out >= 0;
    char *chunk = mem_new(1 << 20);
    for (ssize_t n; ok && (n = read(in, chunk, 1 << 20)) != 0;)
        ok = n > 0 ? fd_write(out, chunk, (size_t)n) : errno == EINTR;
    if (ok) ok = fsync(out) == 0;
    if (!ok) err_set(e, ERR_IO, "%s: cannot copy it to %s: %s", from, to.data, strerror(errno));
    if (in >= 0) close(in);
    if (out >= 0 && close(out) != 0 && ok) ok = err_set(e, ERR_IO, "%s: cannot write: %s", to.data, strerror(errno));
    if (!ok && out >= 0) unlink(to.data);
    mem_free(chunk);
    buf_free(&to);
    return ok;
}

static bool describe(struct model *m, bool with_model, json_t **about, struct err *e) {
    json_t *formats = NULL;
    char digest[33];
    if (!gguf_digest(m->gguf, digest, e) || !dsl_call(m->dsl, "formats", NULL, &formats, e)) return false;
    const struct target *t = &m->compiler.target;
    *about = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:{s:s, s:I, s:s, s:b}}", "target", t->name, "class",
                       t->class_name, "features", t->cpu_features, "host", t->ptx ? GPU_HOST : "", "compiler",
                       codegen_version(), "act", m->act, "kv", m->kv, "top_k", (json_int_t)m->top_k, "formats", formats, "model", "file",
                       base_name(gguf_path(m->gguf)), "bytes", (json_int_t)gguf_file_bytes(m->gguf), "xxh3", digest,
                       "copied", with_model);
    return *about || err_set(e, ERR_INPUT, "%s: its name is not UTF-8 text", gguf_path(m->gguf));
}

bool model_bundle(const struct model_options *o, const char *dir, bool with_model, model_bundle_extra *extra,
                  struct err *e) {
    struct model *m = mem_new(sizeof *m);
    struct bundle *b = bundle_new();
    json_t *about = NULL;
    m->compiler.into = b;
    m->compiler.host = GPU_HOST;
    bool ok = model_open_file(m, o, e) && target_find(o->target ? o->target : "native", &m->compiler.target, e) &&
              model_compile(m, o, e) && (!extra || extra(b, &m->compiler.target, e)) &&
              describe(m, with_model, &about, e) && bundle_write(b, dir, about, m->plan, e);
    json_decref(about);
    for (uint32_t i = 0; with_model && ok && i < gguf_n_parts(m->gguf); i++)
        ok = copy_file(gguf_part_path(m->gguf, i), dir, e);
    bundle_close(b);
    model_close(m);
    return ok;
}
