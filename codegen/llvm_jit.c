/* llvm_jit: objects to callable functions, through one LLJIT the process shares. Every object gets a JITDylib of its
 * own, so that equal names coexist; a freed object's JITDylib is cleared and used again, because LLVM cannot remove
 * one. All symbols are resolved while loading: later look-ups take no lock and cannot fail late. */
#include "codegen/llvm_internal.h"

#include <llvm-c/LLJIT.h>
#include <llvm-c/Object.h>
#include <llvm-c/Orc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct symbol {
    char *name;
    uint64_t address;
};

struct code {
    LLVMOrcJITDylibRef dylib;
    struct symbol *symbols; /* sorted by name */
    size_t n_symbols;
};

static struct {
    pthread_mutex_t lock;
    LLVMOrcLLJITRef jit;
    LLVMOrcExecutionSessionRef session;
    LLVMOrcJITDylibRef *spare;
    size_t n_spare, n_made;
    struct err reported; /* what the session complained about during the load in progress */
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_session_error(void *ctx, LLVMErrorRef error) {
    (void)ctx;
    struct err e;
    llvm_fail(&e, "LLVM's linker", error);
    if (!shared.reported.code) shared.reported = e;
}

static bool start_jit(struct err *e) {
    if (shared.jit) return true;
    llvm_start();
    LLVMErrorRef error = LLVMOrcCreateLLJIT(&shared.jit, NULL);
    if (error) {
        shared.jit = NULL;
        return llvm_fail(e, "LLVM's JIT does not start", error);
    }
    shared.session = LLVMOrcLLJITGetExecutionSession(shared.jit);
    LLVMOrcExecutionSessionSetErrorReporter(shared.session, on_session_error, NULL);
    return true;
}

static LLVMOrcJITDylibRef take_dylib(void) {
    if (shared.n_spare) return shared.spare[--shared.n_spare];
    char name[32];
    snprintf(name, sizeof name, "kgen.%zu", shared.n_made++);
    /* Room for giving back every dylib ever made is kept ready, so that code_free cannot fail. */
    shared.spare = mem_grow(shared.spare, shared.n_made * sizeof *shared.spare);
    return LLVMOrcExecutionSessionCreateBareJITDylib(shared.session, name);
}

static void give_back_dylib(LLVMOrcJITDylibRef dylib) {
    LLVMErrorRef error = LLVMOrcJITDylibClear(dylib);
    if (error) {
        LLVMConsumeError(error); /* its memory is lost and it is not used again; nothing a caller could do */
        return;
    }
    shared.spare[shared.n_spare++] = dylib;
}

/* ---- the object's names ---- */

static void add_symbol(struct code *c, const char *name) {
    if ((c->n_symbols & (c->n_symbols - 1)) == 0)
        c->symbols = mem_grow(c->symbols, (c->n_symbols ? 2 * c->n_symbols : 1) * sizeof *c->symbols);
    size_t n = strlen(name) + 1;
    char *copy = mem_new(n);
    memcpy(copy, name, n);
    c->symbols[c->n_symbols++] = (struct symbol){copy, 0};
}

static bool list_symbols(struct code *c, LLVMMemoryBufferRef object, struct err *e) {
    char *message = NULL;
    LLVMBinaryRef binary = LLVMCreateBinary(object, NULL, &message);
    if (!binary) return llvm_fail_message(e, "not an object file", message);
    LLVMBinaryType type = LLVMBinaryGetType(binary);
    if (type != LLVMBinaryTypeELF64L) {
        LLVMDisposeBinary(binary);
        return err_set(e, ERR_INPUT, "expected a 64-bit ELF object, found something else");
    }
    LLVMSymbolIteratorRef it = LLVMObjectFileCopySymbolIterator(binary);
    for (; !LLVMObjectFileIsSymbolIteratorAtEnd(binary, it); LLVMMoveToNextSymbol(it)) {
        const char *name = LLVMGetSymbolName(it);
        if (name && *name && LLVMGetSymbolSize(it)) add_symbol(c, name);
    }
    LLVMDisposeSymbolIterator(it);
    LLVMDisposeBinary(binary);
    return c->n_symbols || err_set(e, ERR_INPUT, "the object defines no functions");
}

/* ---- looking up ---- */

struct lookup {
    struct code *c;
    struct err *e;
    bool ok;
};

static int compare_symbols(const void *a, const void *b) {
    return strcmp(((const struct symbol *)a)->name, ((const struct symbol *)b)->name);
}

static struct symbol *find(const struct code *c, const char *name) {
    struct symbol key = {.name = (char *)name};
    return c->n_symbols ? bsearch(&key, c->symbols, c->n_symbols, sizeof key, compare_symbols) : NULL;
}

static void on_found(LLVMErrorRef error, LLVMOrcCSymbolMapPairs pairs, size_t n, void *ctx) {
    struct lookup *l = ctx;
    if (error) {
        llvm_fail(l->e, "the object cannot be linked", error);
        return;
    }
    l->ok = true;
    for (size_t i = 0; i < n; i++) {
        struct symbol *s = find(l->c, LLVMOrcSymbolStringPoolEntryStr(pairs[i].Name));
        if (s) s->address = pairs[i].Sym.Address;
    }
}

/* Weak look-ups: an object's local symbols are in its table, but not to be found. */
static bool resolve(struct code *c, struct err *e) {
    LLVMOrcCLookupSet wanted = mem_new(c->n_symbols * sizeof *wanted);
    for (size_t i = 0; i < c->n_symbols; i++)
        wanted[i] = (LLVMOrcCLookupSetElement){LLVMOrcExecutionSessionIntern(shared.session, c->symbols[i].name),
                                               LLVMOrcSymbolLookupFlagsWeaklyReferencedSymbol};
    LLVMOrcCJITDylibSearchOrderElement order = {c->dylib, LLVMOrcJITDylibLookupFlagsMatchExportedSymbolsOnly};
    struct lookup l = {c, e, false};
    LLVMOrcExecutionSessionLookup(shared.session, LLVMOrcLookupKindStatic, &order, 1, wanted, c->n_symbols, on_found,
                                  &l);
    mem_free(wanted);
    return l.ok;
}

/* ---- the interface ---- */

static bool load_locked(struct code *c, const void *obj, size_t n, struct err *e) {
    if (!start_jit(e)) return false;
    LLVMMemoryBufferRef object = LLVMCreateMemoryBufferWithMemoryRangeCopy(obj, n, "kgen");
    if (!list_symbols(c, object, e)) {
        LLVMDisposeMemoryBuffer(object);
        return false;
    }
    qsort(c->symbols, c->n_symbols, sizeof *c->symbols, compare_symbols);
    c->dylib = take_dylib();
    shared.reported.code = ERR_NONE;
    LLVMErrorRef error = LLVMOrcLLJITAddObjectFile(shared.jit, c->dylib, object); /* owns object, also when it fails */
    if (error) return llvm_fail(e, "LLVM's JIT refuses the object", error);
    if (resolve(c, e)) return true;
    if (shared.reported.code) *e = shared.reported; /* the session's report says more than the look-up's failure */
    return false;
}

bool code_load(const void *obj, size_t n, struct code **out, struct err *e) {
    struct code *c = mem_new(sizeof *c);
    pthread_mutex_lock(&shared.lock);
    bool ok = load_locked(c, obj, n, e);
    pthread_mutex_unlock(&shared.lock);
    if (!ok) {
        code_free(c);
        c = NULL;
    }
    *out = c;
    return ok;
}

kernel_fn *code_symbol(const struct code *c, const char *name) {
    struct symbol *s = find(c, name);
    return s ? (kernel_fn *)(uintptr_t)s->address : NULL;
}

void code_free(struct code *c) {
    if (!c) return;
    if (c->dylib) {
        pthread_mutex_lock(&shared.lock);
        give_back_dylib(c->dylib);
        pthread_mutex_unlock(&shared.lock);
    }
    for (size_t i = 0; i < c->n_symbols; i++) mem_free(c->symbols[i].name);
    mem_free(c->symbols);
    mem_free(c);
}
