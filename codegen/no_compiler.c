/* no_compiler: codegen.h for a program that runs what was compiled elsewhere (kgen-rt): linked instead of codegen.c, so
 * that nothing of LLVM and of the flat IR comes along. */
#include "codegen/codegen.h"

static bool cannot(struct err *e) {
    return err_set(
        e, ERR_UNSUPPORTED,
        "this program compiles nothing: make a bundle with `kgen emit --bundle` and run it with --bundle DIR");
}

bool codegen_emit(const char *ir_text, size_t len, const struct target *t, enum codegen_stage stage, const char *dump,
                  struct buf *out, struct err *e) {
    (void)ir_text, (void)len, (void)t, (void)stage, (void)dump, (void)out;
    return cannot(e);
}

const char *codegen_version(void) {
    return "no compiler";
}

void codegen_key(const char *ir_text, size_t len, const struct target *t, struct buf *key) {
    buf_printf(key, "%s\n%s\n", codegen_version(), t->name);
    buf_add(key, ir_text, len);
}

bool codegen_object(struct cache *cache, const char *ir_text, size_t len, const struct target *t, struct buf *out,
                    struct err *e) {
    (void)cache, (void)ir_text, (void)len, (void)t, (void)out;
    return cannot(e);
}
