/* Programmatic dependent launch: grids that may run beside the ones before them.
 *
 * The machine runs grids one after another, so what a dependent grid reads too early is always there. Here is what
 * hardware would not promise: a word of global memory remembers which launch wrote it last, and a dependent grid that
 * touches what a grid before it has written, ahead of its griddepcontrol.wait, is a finding. So is a read of it through
 * the read-only path (.nc), even behind the wait: PTX wants such memory unchanged from the grid's start on. That a grid
 * is over says that all before it are, if it has waited for them itself; else the next one's wait is not enough.
 *
 * Not found: writes ahead of the wait to what a grid before it only reads. */
#include "verify/ptxvm/machine.h"

#include <string.h>
#include <sys/mman.h>

static _Atomic bool watching; /* some program has dependent grids, or code for them */
static _Atomic u32 last_number;
static _Atomic(atomic_uint *)
    writers; /* a launch's number for each 4 bytes of the arena; pages come as they are touched */
static pthread_mutex_t mapping = PTHREAD_MUTEX_INITIALIZER;

void vm_depend_watch(void) {
    atomic_store(&watching, true);
}

static bool map_writers(void) {
    pthread_mutex_lock(&mapping);
    if (!atomic_load(&writers)) {
        void *p =
            mmap(NULL, vm_arena_bytes + 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED) atomic_store(&writers, p);
    }
    pthread_mutex_unlock(&mapping);
    return atomic_load(&writers) != NULL;
}

void vm_depend_begin(struct launch *l) {
    const struct vm_chain *c = l->p.chain;
    if (!c || !l->check || !atomic_load(&watching) || !map_writers()) return;
    l->number = ++last_number;
    l->first_unfinished = l->p.dependent ? c->first : 0;
    l->behind_wait = l->p.dependent ? c->behind_wait : 0;
}

void vm_depend_end(struct launch *l) {
    struct vm_chain *c = l->p.chain;
    if (!c || !l->number) return;
    if (!l->first_unfinished) {
        *c = (struct vm_chain){.first = l->number};
    } else {
        c->behind_wait = atomic_load(&l->has_waited) ? l->behind_wait : l->number;
    }
}

/* ext mode: 1 wait, 0 launch_dependents, which promises nothing of memory */
enum step op_griddepcontrol(struct warp *w, struct split *s, const struct insn *in, u32 m) {
    (void)s;
    const struct ext *x = in->ext;
    if (!x->mode) return STEP_NEXT;
    w->waited |= m;
    w->block->waited = true;
    atomic_store_explicit(&w->block->worker->launch->has_waited, true, memory_order_relaxed);
    return STEP_NEXT;
}

bool vm_depend_access(struct warp *w, const struct split *s, const struct insn *in, u32 lane, u64 address, u32 bytes,
                      int access) {
    struct launch *l = w->block->worker->launch;
    u64 off = address - VM_DEV_BASE;
    if (off >= vm_arena_bytes || bytes > vm_arena_bytes - off) return true;
    bool waited = w->waited >> lane & 1, constant = false;
    if (access == ACCESS_LOAD && l->first_unfinished) {
        const char *text = ((const struct ext *)in->ext)->text;
        constant = text && strstr(text, ".nc");
    }
    for (u64 word = off / 4; word <= (off + bytes - 1) / 4; word++) {
        atomic_uint *by = &atomic_load_explicit(&writers, memory_order_relaxed)[word];
        u32 writer = atomic_load_explicit(by, memory_order_relaxed);
        if (l->first_unfinished && writer >= l->first_unfinished && writer < l->number) {
            const char *verb = access == ACCESS_LOAD ? "read" : "written";
            if (!waited)
                return vm_fault_at(w, s, in, (int)lane, VM_LAUNCH_FAILED, "missing griddepcontrol.wait", address,
                                   "%s ahead of the wait; launch %u, which may still run, writes it", verb,
                                   writer) != STEP_FAULT;
            if (constant)
                return vm_fault_at(w, s, in, (int)lane, VM_LAUNCH_FAILED, "read-only load of what changes", address,
                                   "launch %u, beside which this one may start, writes it", writer) != STEP_FAULT;
            if (writer < l->behind_wait)
                return vm_fault_at(w, s, in, (int)lane, VM_LAUNCH_FAILED, "missing griddepcontrol.wait", address,
                                   "%s; launch %u writes it, and a launch between has not waited for that", verb,
                                   writer) != STEP_FAULT;
        }
        if (access != ACCESS_LOAD) atomic_store_explicit(by, l->number, memory_order_relaxed);
    }
    return true;
}
