/* procs: the table behind cuGetProcAddress, generated from cuda.h and cudaTypedefs.h by gen_api.lua. */
#ifndef PTXVM_PROCS_H
#define PTXVM_PROCS_H

enum { PROC_PLAIN, PROC_PER_THREAD };

struct proc {
    const char *name; /* without _v2 and the like */
    int version;      /* first driver version with this signature, as 1000 * major + 10 * minor */
    int flavour;      /* PROC_PER_THREAD: the default stream means the calling thread's own */
    void *fn;
};

extern const struct proc procs[];
extern const int n_procs;

#endif
