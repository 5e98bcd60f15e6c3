/* shared: the options that several commands have, with what goes with them. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char *const act_names[] = {[ACT_Q8] = "q8", [ACT_F32] = "f32", NULL};
const char *const kv_names[] = {[KV_F32] = "f32", [KV_F16] = "f16", [KV_BF16] = "bf16", [KV_Q8_0] = "q8_0", NULL};

#define AT(field) .offset = offsetof(struct engine_options, field)
const struct option engine_options[] = {
    {"model", 'm', OPTION_STRING, "MODEL", "the model, a GGUF file (the first part of a split one)", AT(model)},
    {"bundle", 0, OPTION_STRING, "DIR", "run what `kgen emit --bundle` made: needs no compiler", AT(bundle)},
    {"context", 'c', OPTION_INT, "N", "tokens that the model can look back on", AT(context), .ints = {1, 1 << 24},
     .unit = "tokens", .setting = true},
    {"threads", 't', OPTION_INT, "N", "threads; without it, one for each physical core", AT(threads), .ints = {1, 1024},
     .unit = "threads", .setting = true},
    {"device", 0, OPTION_DEVICE, "cpu|cuda[:N]", "where to compute; fails without that device", AT(device),
     .fallback = "cpu", .setting = true},
    {"gpu", 0, OPTION_FLAG, NULL, "the first CUDA device, or the CPU with a warning where there is none", AT(gpu)},
    {"act", 0, OPTION_ENUM, NULL, "activations: 8-bit codes in blocks of 256, or exact", AT(act),
     .choices = act_names, .fallback = "q8", .setting = true},
    {"kv", 0, OPTION_ENUM, NULL,
     "the KV cache's numbers; without it bf16 where the processor multiplies them, else f16, or f32 with --act f32",
     AT(kv), .choices = kv_names, .setting = true},
    {"weights-cache", 0, OPTION_FLOAT, "GIB", "disk space for packed weights beside the compiled code; 0: none",
     AT(weights_cache), .floats = {0, 1e6}, .unit = "GiB", .fallback = "32", .setting = true},
    {"profile", 0, OPTION_FLAG, NULL, "time and traffic of each kernel, on standard error", AT(profile)},
    {"dump", 0, OPTION_STRING, "PASS", "print each kernel after this pass, on standard error", AT(dump),
     .setting = true},
    {0},
};
#undef AT

bool engine_check(const struct engine_options *o, struct err *e) {
    if (!o->model && !o->bundle) return err_set(e, ERR_USAGE, "missing -m MODEL: a GGUF file");
    return true;
}

const struct option report_options[] = {
    {"json", 0, OPTION_FLAG, NULL, "print the result as one JSON object",
     .offset = offsetof(struct report_options, json)},
    {0},
};

const struct option text_options[] = {
    {"prompt", 'p', OPTION_STRING, "TEXT", "the text", .offset = offsetof(struct text_options, prompt)},
    {"file", 'f', OPTION_STRING, "FILE", "a file with the text, byte for byte; - is standard input",
     .offset = offsetof(struct text_options, file)},
    {0},
};

bool text_check(const struct text_options *t, struct err *e) {
    if (t->prompt && t->file) return err_set(e, ERR_USAGE, "-p and -f exclude each other");
    return true;
}

static bool read_stdin(struct buf *out, struct err *e) {
    char chunk[1 << 16];
    for (;;) {
        ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
        if (n == 0) return true;
        if (n < 0 && errno != EINTR) return err_set(e, ERR_IO, "standard input could not be read: %s", strerror(errno));
        if (n > 0) buf_add(out, chunk, (size_t)n);
    }
}

bool text_read(const struct text_options *t, struct buf *out, bool *given, struct err *e) {
    *given = t->prompt || t->file;
    if (t->prompt) buf_puts(out, t->prompt);
    if (t->file) return strcmp(t->file, "-") == 0 ? read_stdin(out, e) : file_read(t->file, out, e);
    return true;
}
