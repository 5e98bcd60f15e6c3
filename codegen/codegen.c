#include "codegen/codegen.h"

#include "codegen/ir.h"
#include "codegen/llvm_compile.h"
#include "codegen/passes.h"

#include <pthread.h>
#include <stdio.h>

/* Raise by one whenever the code made from the same flat IR changes. */
#define CODEGEN_ABI 10

static bool compile(struct ir_module *m, const struct target *t, enum codegen_stage stage, const char *dump,
                    struct buf *out, struct err *e) {
    if (!ir_verify(m, e)) return false;
    for (struct ir_func *f = m->first; f; f = f->next) passes_run(f, dump, stderr);
    if (stage != STAGE_IR) return llvm_compile(m, t, stage, out, e);
    ir_print(m, out);
    return true;
}

bool codegen_emit(const char *ir_text, size_t len, const struct target *t, enum codegen_stage stage, const char *dump,
                  struct buf *out, struct err *e) {
    struct ir_module *m;
    if (!passes_check_dump(dump, e) || !ir_parse(ir_text, len, &m, e)) return false;
    bool ok = compile(m, t, stage, dump, out, e);
    ir_free(m);
    return ok;
}

static char version[64];

static void write_version(void) {
    snprintf(version, sizeof version, "llvm %s codegen %d", llvm_version(), CODEGEN_ABI);
}

const char *codegen_version(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, write_version);
    return version;
}

void codegen_key(const char *ir_text, size_t len, const struct target *t, struct buf *key) {
    buf_printf(key, "%s\n%s\n%s\n%s\n%s\n", codegen_version(), t->class_name, t->cpu, t->cpu_features,
               t->tune ? t->tune : "");
    buf_add(key, ir_text, len);
}

bool codegen_object(struct cache *cache, const char *ir_text, size_t len, const struct target *t, struct buf *out,
                    struct err *e) {
    if (!cache) return codegen_emit(ir_text, len, t, STAGE_OBJ, NULL, out, e);
    struct buf key = {0};
    codegen_key(ir_text, len, t, &key);
    size_t start = out->len;
    bool ok = cache_get(cache, key.data, key.len, out);
    if (!ok && (ok = codegen_emit(ir_text, len, t, STAGE_OBJ, NULL, out, e)))
        cache_put(cache, key.data, key.len, out->data + start, out->len - start);
    buf_free(&key);
    return ok;
}
