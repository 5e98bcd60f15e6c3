/* What bulk copies of plain memory (mem_bulk.c) and of tensors (mem_tensor.c) share. */
#ifndef KGEN_PTXVM_BULK_H
#define KGEN_PTXVM_BULK_H

#include "verify/ptxvm/mem_access.h"

struct bulk { /* one lane's copy */
    struct warp *w;
    struct split *s;
    const struct insn *in;
    u32 lane;
    int reduce; /* operation + 1, 0 copy; type: of its elements */
    enum ptx_type type;
    u32 ticket; /* of its reads of shared memory; 0 none */
    u64 stamp;  /* of its writes to it */
};

/* Bytes of shared memory, checked as this copy's; NULL after a fault. */
u8 *vm_bulk_read(const struct bulk *c, u64 off, u32 bytes);
u8 *vm_bulk_write(const struct bulk *c, u64 off, u32 bytes);
void vm_bulk_reduce(const struct bulk *c, u8 *to, const u8 *from, u32 bytes);
/* Between the box of the tensor map at a generic address and shared memory at off. *moved: bytes of the box. */
bool vm_tensor_copy(struct bulk *c, u64 map, u64 off, u32 *moved);

#endif
