/* kgen emit: what a kernel becomes at each stage of the compiler, for any target. */
#include "cli/cli.h"
#include "cli/peaks.h"
#include "cli/sass.h"
#include "runtime/compile.h"
#include "runtime/model.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum emit_stage { EMIT_DSL, EMIT_IR, EMIT_LLVM, EMIT_ASM, EMIT_OBJ, EMIT_PTX, EMIT_SASS };

struct emit_options {
    struct words kernels;
    bool all;
    const char *target, *shape, *output, *dump;
    int stage; /* enum emit_stage */
    bool bundle, with_model;
    const char *model;
    int act, kv;
};

static const char *const stages[] = {
    [EMIT_DSL] = "dsl", [EMIT_IR] = "ir",   [EMIT_LLVM] = "llvm",        [EMIT_ASM] = "asm",
    [EMIT_OBJ] = "obj", [EMIT_PTX] = "ptx", [EMIT_SASS] = "sass-report", NULL};

static bool check(const void *opts, struct err *e) {
    const struct emit_options *o = opts;
    if (!o->bundle && (o->model || o->with_model))
        return err_set(e, ERR_USAGE, "-m and --with-model belong to --bundle");
    if (o->bundle && (o->all || o->kernels.n || o->shape))
        return err_set(e, ERR_USAGE, "--bundle takes -m MODEL alone");
    if (o->bundle && !o->model) return err_set(e, ERR_USAGE, "missing -m MODEL: a GGUF file");
    if (o->bundle) return o->output || err_set(e, ERR_USAGE, "missing -o DIR: where the bundle shall be");
    if (o->all == (o->kernels.n > 0)) return err_set(e, ERR_USAGE, "expected a KERNEL or --all");
    if (o->all && !o->output) return err_set(e, ERR_USAGE, "missing -o DIR: one file a kernel and format");
    if (o->all && o->shape) return err_set(e, ERR_USAGE, "--shape belongs to one KERNEL");
    if (o->stage == EMIT_OBJ && !o->output && isatty(STDOUT_FILENO))
        return err_set(e, ERR_USAGE, "an object is no text for a terminal; write it to a file with -o FILE");
    return true;
}

/* Appends what one kernel becomes. shape and format may be NULL: see dsl/shapes.lua. */
static bool emit_kernel(const struct emit_options *o, struct dsl *d, const struct target *t, const char *kernel,
                        const char *shape, const char *format, struct buf *out, struct err *e) {
    json_t *arg =
        json_pack("{s:s, s:s*, s:s*, s:b}", "kernel", kernel, "shape", shape, "format", format, "team", t->ptx);
    json_t *made = NULL, *meta = NULL, *text = NULL;
    if (!arg) return err_set(e, ERR_USAGE, "a kernel's name and shape are UTF-8 text");
    bool ok = dsl_call(d, "shape", arg, &made, e);
    const json_t *spec = json_object_get(made, "spec");
    if (ok && o->stage == EMIT_DSL) {
        json_t *show = json_pack("{s:O}", "spec", spec);
        ok = dsl_call(d, "show", show, &text, e);
        if (ok) buf_puts(out, json_string_value(text));
        json_decref(show);
    } else if (ok) {
        static const enum codegen_stage as[] = {
            [EMIT_IR] = STAGE_IR,   [EMIT_LLVM] = STAGE_LLVM, [EMIT_ASM] = STAGE_ASM,
            [EMIT_OBJ] = STAGE_OBJ, [EMIT_PTX] = STAGE_ASM,   [EMIT_SASS] = STAGE_ASM};
        struct buf ptx = {0}, *code = o->stage == EMIT_SASS ? &ptx : out;
        ok = compile_lower(d, spec, t, false, &meta, e);
        const json_t *ir = json_object_get(meta, "ir");
        ok = ok && codegen_emit(json_string_value(ir), json_string_length(ir), t, as[o->stage], o->dump, code, e) &&
             (o->stage != EMIT_SASS || sass_report(&ptx, t, out, e));
        buf_free(&ptx);
    }
    json_decref(text);
    json_decref(meta);
    json_decref(made);
    json_decref(arg);
    return ok;
}

static bool emit_one(const struct emit_options *o, struct dsl *d, const struct target *t, struct err *e) {
    struct buf out = {0};
    bool ok = emit_kernel(o, d, t, o->kernels.items[0], o->shape, NULL, &out, e);
    if (ok && o->output)
        ok = file_write_atomic(o->output, out.data, out.len, e);
    else if (ok)
        fwrite(out.data, 1, out.len, stdout);
    buf_free(&out);
    return ok;
}

static bool emit_file(const struct emit_options *o, struct dsl *d, const struct target *t, const char *kernel,
                      const char *format, struct err *e) {
    static const char *const suffixes[] = {
        [EMIT_DSL] = "txt", [EMIT_IR] = "ir",   [EMIT_LLVM] = "ll",      [EMIT_ASM] = "s",
        [EMIT_OBJ] = "o",   [EMIT_PTX] = "ptx", [EMIT_SASS] = "sass.txt"};
    struct buf path = {0}, out = {0};
    buf_printf(&path, "%s/%s%s%s.%s", o->output, kernel, format ? "." : "", format ? format : "", suffixes[o->stage]);
    bool ok = emit_kernel(o, d, t, kernel, NULL, format, &out, e) && file_write_atomic(path.data, out.data, out.len, e);
    buf_free(&out);
    buf_free(&path);
    return ok;
}

static bool emit_all(const struct emit_options *o, struct dsl *d, const struct target *t, struct err *e) {
    if (mkdir(o->output, 0777) != 0 && errno != EEXIST)
        return err_set(e, ERR_IO, "%s: cannot be made: %s", o->output, strerror(errno));
    json_t *kernels = NULL;
    if (!dsl_call(d, "kernels", NULL, &kernels, e)) return false;
    struct progress progress;
    progress_begin(&progress, "kernels");
    bool ok = true;
    size_t n = json_array_size(kernels);
    for (size_t i = 0; ok && i < n; i++) {
        const json_t *k = json_array_get(kernels, i), *formats = json_object_get(k, "formats");
        const char *name = json_string_value(json_object_get(k, "name"));
        size_t n_formats = json_array_size(formats);
        if (json_integer_value(json_object_get(k, "n_bench")) == 0)
            ok = err_set(e, ERR_INPUT, "kernel '%s' has no benchmark shape (`bench` in kernels.lua)", name);
        for (size_t f = 0; ok && f < (n_formats ? n_formats : 1); f++) {
            const char *format = n_formats ? json_string_value(json_array_get(formats, f)) : NULL;
            ok = emit_file(o, d, t, name, format, e);
            if (!ok && format) err_prefix(e, "%s", format);
            progress_update(&progress, ((double)i + (double)f / (double)(n_formats + 1)) / (double)n);
        }
    }
    progress_end(&progress);
    json_decref(kernels);
    return ok;
}

static bool emit_bundle(const struct emit_options *o, struct err *e) {
    struct model_options mo = {.path = o->model,
                               .target = o->target,
                               .act = o->act == ACT_F32 ? "f32" : "q8",
                               .kv = o->kv == KV_DEFAULT ? NULL : kv_names[o->kv],
                               .top_k = 40, /* the usual one: run's --top-k */
                               .dump = o->dump};
    return model_bundle(&mo, o->output, o->with_model, peaks_bundle, e);
}

static bool suits(const struct emit_options *o, const struct target *t, struct err *e) {
    bool of_gpu = o->stage == EMIT_PTX || o->stage == EMIT_SASS;
    if (of_gpu && !t->ptx)
        return err_set(e, ERR_USAGE, "--stage %s is of GPUs: expected --target sm_NN, found %s", stages[o->stage],
                       t->name);
    return !(t->ptx && o->stage == EMIT_OBJ) ||
           err_set(e, ERR_USAGE, "%s has no objects: its code is text, --stage ptx", t->name);
}

static bool run(const void *opts, struct err *e) {
    const struct emit_options *o = opts;
    if (o->bundle) return emit_bundle(o, e);
    struct dsl *d = NULL;
    struct target t;
    bool ok = target_find(o->target, &t, e) && suits(o, &t, e) && dsl_open(&d, e) &&
              (o->all ? emit_all : emit_one)(o, d, &t, e);
    dsl_close(d);
    return ok;
}

static const char *const act_names[] = {[ACT_Q8] = "q8", [ACT_F32] = "f32", NULL};
#define AT(field) .offset = offsetof(struct emit_options, field)
static const struct option options[] = {
    {"target", 0, OPTION_STRING, "NAME",
     "native, x86-64, x86-64-v3, x86-64-v4, x86-64-v4-vnni, x86-64-v4-bf16, x86-64-v4-amx; sm_75, sm_80, sm_86, sm_89, "
     "sm_90, sm_90a, sm_100, "
     "sm_100a, sm_103, sm_103a, sm_120, sm_120a, sm_121 or sm_121a",
     AT(target), .fallback = "native"},
    {"stage", 0, OPTION_ENUM, NULL,
     "how far to compile: traced expressions, flat IR, LLVM's IR, assembly or an object; of GPUs ptx (their asm) and "
     "what ptxas makes of it: registers, spills, shared memory, warps at once",
     AT(stage), .choices = stages, .fallback = "ir"},
    {"shape", 0, OPTION_STRING, "k=v,…", "sizes and formats; what it leaves out is as in the first benchmark shape",
     AT(shape)},
    {"all", 0, OPTION_FLAG, NULL, "every kernel in every format", AT(all)},
    {"output", 'o', OPTION_STRING, "FILE", "where to write; a directory with --all or --bundle", AT(output)},
    {"bundle", 0, OPTION_FLAG, NULL, "all that a machine without LLVM needs to run the model on the target",
     AT(bundle)},
    {"model", 'm', OPTION_STRING, "MODEL", "the bundle's model, a GGUF file", AT(model)},
    {"with-model", 0, OPTION_FLAG, NULL, "copy the model into the bundle, which else knows it by its hash",
     AT(with_model)},
    {"act", 0, OPTION_ENUM, NULL, "a bundle's activations", AT(act), .choices = act_names, .fallback = "q8",
     .setting = true},
    {"kv", 0, OPTION_ENUM, NULL,
     "a bundle's KV cache; without it bf16 where the target multiplies them, else f16, or f32 with --act f32", AT(kv),
     .choices = kv_names, .setting = true},
    {"dump", 0, OPTION_STRING, "PASS", "print the kernel after this pass too, on standard error", AT(dump),
     .setting = true},
    {0},
};
#undef AT

static const struct option_group groups[] = {{"what to emit", options, 0}, {0}};

const struct command command_emit = {
    .name = "emit",
    .summary = "shows what a kernel becomes at each stage",
    .usage = "(KERNEL | --all -o DIR | --bundle -m MODEL -o DIR) [--target NAME] [--stage STAGE]",
    .details =
        "A shape names a kernel's sizes (d=2048), formats (W=q4_k) and parameters (act=q8), as in the `bench` "
        "tables of kernels.lua. KGEN_LUA names a directory with an edited kernels.lua.\n\n"
        "A bundle runs with `kgen run --bundle DIR`, or with kgen-rt where no LLVM is: on the target it was made "
        "for, with the model it was made for, by the version of kgen that made it.",
    .examples = "kgen emit linear --stage dsl\n"
                "kgen emit linear --stage asm --target x86-64-v3 --shape W=q4_1,d=576\n"
                "kgen emit norm_qkv --stage sass-report --target sm_90\n"
                "kgen emit --all --stage ir -o kernels\n"
                "kgen emit --bundle -m model.gguf --target sm_90 -o bundle",
    .groups = groups,
    .options_bytes = sizeof(struct emit_options),
    .words_name = "KERNEL",
    .words_max = 1,
    .words_offset = offsetof(struct emit_options, kernels),
    .check = check,
    .run = run,
};
