/* llvm_open: LLVM's library, loaded when something is compiled for the first time.
 *
 * Loading it costs 50 MB of memory and tens of milliseconds, which a start from the cache should not pay, and a program
 * that never compiles should run where LLVM is not installed. So nothing links against it: the build lists the LLVM
 * functions that codegen/ uses and makes a jump through a slot for each (build/gen/llvm_stubs.S, by the Makefile);
 * llvm_open fills the slots.
 */
#include "codegen/llvm_internal.h"

#include <dlfcn.h>
#include <llvm/Config/llvm-config.h>
#include <pthread.h>

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define LIBRARY "libLLVM.so." STRING(LLVM_VERSION_MAJOR) "." STRING(LLVM_VERSION_MINOR)

/* From build/gen/llvm_stubs.S. */
extern void *llvm_slots[];
extern const char *const llvm_slot_names[];
extern const uint64_t llvm_n_slots;

static struct err failure;

static void open_once(void) {
    void *lib = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        err_set(&failure, ERR_UNSUPPORTED,
                "compiling needs LLVM: %s; install the package libllvm%d, or run where the kernels are cached",
                dlerror(), LLVM_VERSION_MAJOR);
        return;
    }
    for (uint64_t i = 0; i < llvm_n_slots; i++) {
        llvm_slots[i] = dlsym(lib, llvm_slot_names[i]);
        if (!llvm_slots[i]) {
            err_set(&failure, ERR_UNSUPPORTED, "%s has no function %s; expected LLVM %s", LIBRARY, llvm_slot_names[i],
                    LLVM_VERSION_STRING);
            return;
        }
    }
}

bool llvm_open(struct err *e) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_once);
    if (failure.code) *e = failure;
    return failure.code == ERR_NONE;
}

const char *llvm_version(void) {
    return LLVM_VERSION_STRING;
}
