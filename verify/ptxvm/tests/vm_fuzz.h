/* One case of the PTX fuzzer: bytes in, no crash out. Shared by the fuzzing program and by whoever links it to a
 * fuzzing engine. */
#ifndef KGEN_PTXVM_VM_FUZZ_H
#define KGEN_PTXVM_VM_FUZZ_H

#include "verify/ptxvm/vm.h"

#include <string.h>

/* Loads the text, looks every kernel up, launches those that decode with small grids and a bounded number of
 * instructions. */
static inline void fuzz_one(const char *text, size_t len) {
    struct vm_module *m;
    char log[600];
    vm_settings()->max_instructions = 20000;
    if (!vm_module_load(text, len, "fuzz.ptx", &m, log, sizeof log)) return;
    for (size_t i = 0; i < 4; i++) {
        const char *name = vm_module_kernel_name(m, i);
        struct vm_function *f;
        if (!name) break;
        if (vm_module_function(m, name, &f, log, sizeof log)) continue;
        static unsigned char params[1 << 16];
        const struct vm_function_info *info = vm_function_info(f);
        if (info->param_bytes > sizeof params) continue;
        uint64_t data;
        if (vm_mem_alloc(4096, VM_MEM_DEVICE, "fuzz", &data)) break;
        vm_mem_set(data, 1, 1, 4096, 1, 0);
        for (unsigned k = 0; k < info->n_params; k++)
            memcpy(params + info->params[k].off, &data, info->params[k].bytes < 8 ? info->params[k].bytes : 8);
        struct vm_launch_params p = {{2, 1, 1}, {40, 1, 1}, {0, 0, 0}, 256, params, sizeof params, false, false, NULL};
        struct vm_fault fault;
        vm_launch(f, &p, &fault, NULL);
        vm_mem_free(data);
    }
    vm_module_free(m);
}

#endif
