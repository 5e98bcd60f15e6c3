/* codegen: from the flat IR's text to code, and from code to callable functions. This header hides LLVM completely.
 *
 * All functions may be called from several threads at once; every compilation has a context of its own.
 */
#ifndef KGEN_CODEGEN_H
#define KGEN_CODEGEN_H

#include "codegen/base.h"
#include "codegen/cache.h"
#include "codegen/target.h"

enum codegen_stage {
    STAGE_IR,   /* the flat IR after its passes, as text */
    STAGE_LLVM, /* LLVM IR after LLVM's passes, as text */
    STAGE_ASM,  /* assembly text */
    STAGE_OBJ,  /* an ELF object without undefined symbols */
};

/* The C signature of every compiled function: args are the argument pointers, dims the run-time sizes, [begin, end) the
 * part of the task axis to do, ws the launch's shared workspace. */
typedef void kernel_fn(void *const *args, const int64_t *dims, int64_t begin, int64_t end, void *ws);

/* Compiles a module of flat IR (docs/ir.md) for t and appends the result to *out. dump is NULL, the name of a flat IR
 * pass or "all": the functions are printed to standard error after it. Errors: ERR_INPUT names the line of the IR,
 * ERR_USAGE an unknown dump, ERR_COMPILE what LLVM said. */
bool codegen_emit(const char *ir_text, size_t len, const struct target *t, enum codegen_stage stage, const char *dump,
                  struct buf *out, struct err *e);

/* LLVM's version and kgen's own number, for cache keys: code made under another version string must not be reused. */
const char *codegen_version(void);

/* Appends the cache key of an object: everything its bytes depend on (codegen_version(), the target, the IR's text). */
void codegen_key(const char *ir_text, size_t len, const struct target *t, struct buf *key);

/* Appends the module's object to *out, from the cache where it is there (cache NULL: never), else compiled and put
 * there. */
bool codegen_object(struct cache *cache, const char *ir_text, size_t len, const struct target *t, struct buf *out,
                    struct err *e);

/* Loaded code. Objects with equal function names may be loaded side by side. */
struct code;
bool code_load(const void *obj, size_t n, struct code **out, struct err *e);
kernel_fn *code_symbol(const struct code *c, const char *name); /* name without the @; NULL: not there */
void code_free(struct code *c);                                 /* NULL is fine; its functions must not be running */

#endif
