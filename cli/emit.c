/* kgen emit: what a kernel becomes at each stage of the compiler, for any target. */
#include "cli/cli.h"

#include <stddef.h>

enum emit_stage { EMIT_DSL, EMIT_IR, EMIT_LLVM, EMIT_ASM, EMIT_PTX, EMIT_OBJ };

struct emit_options {
    struct words kernels;
    bool all, bundle;
    const char *model, *target, *shape, *output, *dump;
    int stage; /* enum emit_stage */
};

static bool check(const void *opts, struct err *e) {
    const struct emit_options *o = opts;
    if (o->bundle) {
        if (o->all || o->kernels.n)
            return err_set(e, ERR_USAGE, "--bundle takes all kernels that its model needs: no KERNEL, no --all");
        if (!o->model) return err_set(e, ERR_USAGE, "missing -m MODEL: whose kernels to bundle");
        if (!o->output) return err_set(e, ERR_USAGE, "missing -o DIR: where to put the bundle");
        return true;
    }
    if (o->model) return err_set(e, ERR_USAGE, "-m belongs to --bundle");
    if (o->all == (o->kernels.n > 0)) return err_set(e, ERR_USAGE, "expected a KERNEL or --all");
    if (o->all && !o->output) return err_set(e, ERR_USAGE, "missing -o DIR: one file a kernel and format");
    if (o->all && o->shape) return err_set(e, ERR_USAGE, "--shape belongs to one KERNEL");
    return true;
}

static const char *const stages[] = {[EMIT_DSL] = "dsl",
                                     [EMIT_IR] = "ir",
                                     [EMIT_LLVM] = "llvm",
                                     [EMIT_ASM] = "asm",
                                     [EMIT_PTX] = "ptx",
                                     [EMIT_OBJ] = "obj",
                                     NULL};

#define AT(field) .offset = offsetof(struct emit_options, field)
static const struct option options[] = {
    {"target", 0, OPTION_STRING, "NAME", "native, x86-64, x86-64-v3, x86-64-v4, … or sm_NN", AT(target),
     .fallback = "native"},
    {"stage", 0, OPTION_ENUM, NULL, "how far to compile", AT(stage), .choices = stages, .fallback = "ir"},
    {"shape", 0, OPTION_STRING, "k=v,…", "sizes and formats; without it, the first benchmark shape", AT(shape)},
    {"all", 0, OPTION_FLAG, NULL, "every kernel in every format", AT(all)},
    {"bundle", 0, OPTION_FLAG, NULL, "all that a model needs, to run without a compiler", AT(bundle)},
    {"model", 'm', OPTION_STRING, "MODEL", "the model of a bundle", AT(model)},
    {"output", 'o', OPTION_STRING, "FILE", "where to write; a directory for --all and --bundle", AT(output)},
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
    .examples = "kgen emit linear --stage asm --target x86-64-v3\nkgen emit --all --stage ir -o kernels",
    .groups = groups,
    .options_bytes = sizeof(struct emit_options),
    .words_name = "KERNEL",
    .words_max = 1,
    .words_offset = offsetof(struct emit_options, kernels),
    .check = check,
};
