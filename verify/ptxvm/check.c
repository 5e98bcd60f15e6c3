/* Findings: the line for a user, and the first fault of a launch. */
#include "verify/ptxvm/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void vm_say(const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++)
        if (*p == '\n' || *p == '\r') *p = ' ';
    fprintf(stderr, "ptxvm: %s\n", text);
}

enum step vm_fault_at(struct warp *w, const struct split *s, const struct insn *in, int lane, int code,
                      const char *kind, u64 address, const char *fmt, ...) {
    struct launch *l = w->block->worker->launch;
    char detail[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    u32 *t[3] = {w->tid[0], w->tid[1], w->tid[2]};
    lane &= 31;
    pthread_mutex_lock(&l->lock);
    if (!l->fault.code || w->block->linear < atomic_load(&l->fault_block)) {
        struct vm_fault *f = &l->fault;
        f->code = code;
        f->line = in->line;
        f->address = address;
        for (int i = 0; i < 3; i++) f->block[i] = w->block->ctaid[i], f->thread[i] = t[i][lane];
        snprintf(f->kind, sizeof f->kind, "%s", kind);
        snprintf(f->text, sizeof f->text,
                 "%s: kernel %s, %s line %u, block (%u,%u,%u), thread (%u,%u,%u), address 0x%llx, %s", kind,
                 l->f->info.name, s->frame->code->module->file, in->line, f->block[0], f->block[1], f->block[2],
                 f->thread[0], f->thread[1], f->thread[2], (unsigned long long)address, detail);
        atomic_store(&l->fault_block, w->block->linear);
    }
    pthread_mutex_unlock(&l->lock);
    w->block->worker->fault = code;
    return STEP_FAULT;
}
