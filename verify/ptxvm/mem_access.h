/* What the operations on memory share. */
#ifndef KGEN_PTXVM_MEM_ACCESS_H
#define KGEN_PTXVM_MEM_ACCESS_H

#include "verify/ptxvm/machine.h"

enum { MEM_SHARED_DYNAMIC = 1, MEM_FRAME_LOCAL = 2 }; /* insn.flags, as the decoder sets them */

u8 vm_addresses(struct warp *w, struct split *s, const struct insn *in, const struct ext *x, u32 m, u64 *out);
bool vm_pointers(struct warp *w, struct split *s, const struct insn *in, u8 space, const u64 *addr, u32 m, u32 bytes,
                 int access, u8 **out);
struct block *vm_shared_home(struct warp *w,
                             u64 *off); /* of a shared address with a rank: its block; the rank is removed */
struct block *vm_cluster_block(struct block *b, u32 rank);
/* Like vm_lane_pointer for any number of bytes, without a check of alignment. */
u8 *vm_range_pointer(struct warp *w, struct split *s, const struct insn *in, u32 lane, u8 space, u64 address, u32 bytes,
                     int access);
void vm_async_land(struct warp *w, u32 m,
                   u32 keep); /* copies of cp.async but the newest `keep` groups (UINT32_MAX: all) have arrived */
bool vm_memory_range(u64 address, u64 *lo, u64 *hi);
void vm_race_order(struct warp *w, const u64 *addr, u32 m, int order);
static inline bool check_volatile(const struct warp *w, const struct ext *x) {
    return w->block->gang_check && (x->is_volatile || x->order == 1);
}

#endif
