/* llvm_compile: the LLVM half of codegen_emit: module, passes, text or object; and the handlers for what LLVM says. */
#include "codegen/llvm_compile.h"

#include "codegen/llvm_emit.h"
#include "codegen/llvm_ptx.h"

#include <llvm-c/Support.h>
#include <llvm-c/Analysis.h>
#include <llvm-c/ErrorHandling.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <inttypes.h>
#include <string.h>

#define TRIPLE "x86_64-unknown-linux-gnu"
#define GPU_TRIPLE "nvptx64-nvidia-cuda"

/* The flat IR comes in with common subexpressions shared and loops rotated; this is all that still pays. */
#define LLVM_PASSES "function(early-cse,loop-simplify,lcssa,loop-mssa(licm),instsimplify)"

/* ---- what LLVM says ---- */

static void on_fatal(const char *reason) {
    fprintf(stderr, "kgen: LLVM gave up: %s\nkgen: this is a bug in kgen's code generator; please report the kernel\n",
            reason);
    abort();
}

static void start_once(void) {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    LLVMInstallFatalErrorHandler(on_fatal);
    /* Instructions stay in the order in which the lowering wrote them: it lets chains interleave and addresses rise. */
    static const char *const options[] = {"kgen", "-enable-misched=false"};
    LLVMParseCommandLineOptions(2, options, NULL);
}

void llvm_start(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_once);
}

bool llvm_fail_message(struct err *e, const char *what, char *message) {
    err_set(e, ERR_COMPILE, "%s: %s", what, message ? message : "no reason given");
    if (message) LLVMDisposeMessage(message);
    return false;
}

bool llvm_fail(struct err *e, const char *what, LLVMErrorRef error) {
    char *message = LLVMGetErrorMessage(error);
    err_set(e, ERR_COMPILE, "%s: %s", what, message);
    LLVMDisposeErrorMessage(message);
    return false;
}

/* Keeps the first error of a context; remarks and warnings are not for users of kernels. */
static void on_diagnostic(LLVMDiagnosticInfoRef info, void *first) {
    struct err *e = first;
    if (LLVMGetDiagInfoSeverity(info) != LLVMDSError || e->code) return;
    llvm_fail_message(e, "LLVM", LLVMGetDiagInfoDescription(info));
}

/* ---- one compilation ---- */

static LLVMTargetMachineRef new_machine(const struct target *t, struct err *e) {
    LLVMTargetRef target;
    char *message = NULL;
    const char *triple = t->ptx ? GPU_TRIPLE : TRIPLE;
    if (LLVMGetTargetFromTriple(triple, &target, &message)) {
        llvm_fail_message(e, t->ptx ? "LLVM has no target " GPU_TRIPLE : "LLVM has no target " TRIPLE, message);
        return NULL;
    }
    LLVMTargetMachineRef tm = LLVMCreateTargetMachine(target, triple, t->cpu, t->cpu_features, LLVMCodeGenLevelDefault,
                                                      LLVMRelocPIC, LLVMCodeModelSmall);
    if (!tm) err_set(e, ERR_COMPILE, "LLVM refuses the cpu %s with features %s", t->cpu, t->cpu_features);
    return tm;
}

static bool run_passes(LLVMModuleRef module, LLVMTargetMachineRef tm, struct err *e) {
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMErrorRef error = LLVMRunPasses(module, LLVM_PASSES, tm, options);
    LLVMDisposePassBuilderOptions(options);
    return !error || llvm_fail(e, "LLVM's passes", error);
}

static bool check_module(LLVMModuleRef module, struct err *e) {
    char *message = NULL;
    if (LLVMVerifyModule(module, LLVMReturnStatusAction, &message))
        return llvm_fail_message(e, "LLVM rejects the module", message);
    LLVMDisposeMessage(message);
    return true;
}

static bool write_code(LLVMModuleRef module, LLVMTargetMachineRef tm, bool object, struct buf *out, struct err *e) {
    char *message = NULL;
    LLVMMemoryBufferRef code = NULL;
    if (LLVMTargetMachineEmitToMemoryBuffer(tm, module, object ? LLVMObjectFile : LLVMAssemblyFile, &message, &code))
        return llvm_fail_message(e, "LLVM cannot emit code", message);
    buf_add(out, LLVMGetBufferStart(code), LLVMGetBufferSize(code));
    LLVMDisposeMemoryBuffer(code);
    return true;
}

static bool compile(LLVMModuleRef module, LLVMTargetMachineRef tm, enum codegen_stage stage, struct buf *out,
                    struct err *e) {
    if (!check_module(module, e) || !run_passes(module, tm, e)) return false;
    if (stage != STAGE_LLVM) return write_code(module, tm, stage == STAGE_OBJ, out, e);
    char *text = LLVMPrintModuleToString(module);
    buf_puts(out, text);
    LLVMDisposeMessage(text);
    return true;
}

/* One processor thread does a task: it has no parts to share a loop among, and its lanes are neighbours in memory. */
static bool check_lone_thread(const struct ir_func *f, const struct ir_block *b, struct err *e) {
    for (const struct ir_op *op = b->first; op; op = op->next) {
        bool staged =
            op->code == IR_COPY || op->code == IR_WAIT || op->code == IR_LDMATRIX || op->code == IR_LDMATRIX_T;
        if (op->split || (op->stride && op->code != IR_TILEDOT) || staged)
            return err_set(e, ERR_UNSUPPORTED, "flat IR line %" PRIu32 ", func @%s: a %s is for GPU targets only",
                           op->line, f->name,
                           op->split ? "split for"
                           : staged  ? ir_op_info[op->code].name
                                     : "stride");
        if (op->body && !check_lone_thread(f, op->body, e)) return false;
    }
    return true;
}

bool llvm_compile(const struct ir_module *m, const struct target *t, enum codegen_stage stage, struct buf *out,
                  struct err *e) {
    if (!llvm_open(e)) return false;
    if (t->ptx) {
        if (!ptx_check(m, t, e)) return false;
        if (stage == STAGE_OBJ) stage = STAGE_ASM; /* what a driver loads is text */
    }
    for (const struct ir_func *f = m->first; f && !t->ptx; f = f->next)
        if (!check_lone_thread(f, f->body, e)) return false;
    llvm_start();
    LLVMTargetMachineRef tm = new_machine(t, e);
    if (!tm) return false;
    LLVMSetTargetMachineAsmVerbosity(tm, stage == STAGE_ASM && !t->ptx);
    struct err said = {0};
    LLVMContextRef ctx = LLVMContextCreate();
    LLVMContextSetDiagnosticHandler(ctx, on_diagnostic, &said);
    LLVMModuleRef module = LLVMModuleCreateWithNameInContext("kgen", ctx);
    LLVMSetTarget(module, t->ptx ? GPU_TRIPLE : TRIPLE);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(tm);
    LLVMSetModuleDataLayout(module, layout);
    LLVMDisposeTargetData(layout);
    llvm_emit_module(ctx, module, m, t);
    bool ok = compile(module, tm, stage, out, e);
    if (ok && said.code) {
        *e = said;
        ok = false;
    }
    LLVMDisposeModule(module);
    LLVMContextDispose(ctx);
    LLVMDisposeTargetMachine(tm);
    return ok;
}
