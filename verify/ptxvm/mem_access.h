/* What the operations on memory share. */
#ifndef KGEN_PTXVM_MEM_ACCESS_H
#define KGEN_PTXVM_MEM_ACCESS_H

#include "verify/ptxvm/race.h"

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
/* Copies of cp.async by the lanes of m, but those of the newest `keep` groups (UINT32_MAX: all, committed or not), are
 * waited for by their thread (onto 0), or by who waits for the mbarrier whose stamp onto is. */
void vm_async_land(struct warp *w, u32 m, u32 keep, u64 onto);
/* An asynchronous write of so many bytes completes on the mbarrier at a shared address; what its bytes are stamped
 * with, to be asked before. */
bool vm_mbarrier_bytes(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, u32 bytes);
bool vm_mbarrier_stamp(struct warp *w, struct split *s, const struct insn *in, u32 lane, u64 address, u64 *t);
bool vm_note_copy(struct warp *w, struct async_copy copy); /* it is in flight; false: no memory, it is not noted */
bool vm_memory_range(u64 address, u64 *lo, u64 *hi);
static inline bool check_volatile(const struct warp *w, const struct ext *x) {
    return w->block->gang_check && (x->is_volatile || x->order == 1);
}

#endif
