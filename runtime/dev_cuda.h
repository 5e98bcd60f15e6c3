/* dev_cuda: NVIDIA GPUs through the CUDA driver API.
 *
 * The driver (libcuda.so.1) is loaded with dlopen: nothing of CUDA is needed to build kgen, and none to start it. The
 * declarations are our own, from the documented interface. verify/ptxvm builds a libcuda.so.1 for machines without a
 * GPU; nothing here knows the difference.
 *
 * A `struct cuda` is a device with one context and one stream: whatever is asked of it happens in that order, and only
 * cuda_sync and cuda_download wait. Any thread may use it; callers who share one take turns between a launch and the
 * sync that ends it, if they care about the order.
 *
 * Errors name the call and CUDA's own name for what went wrong, and say what to try. A fault of a kernel is reported by
 * the call that waits for it; the device is then of no more use until it is closed.
 */
#ifndef KGEN_DEV_CUDA_H
#define KGEN_DEV_CUDA_H

#include "runtime/compile.h"

struct cuda;
typedef uint64_t cuda_addr; /* of device memory */

/* Opens device `index`. ERR_UNSUPPORTED: there is no driver, no such device, or it is older than sm_75. */
bool cuda_open(int index, struct cuda **out, struct err *e);
void cuda_close(struct cuda *c); /* NULL is fine; memory and code not given back before is lost with it */

const char *cuda_name(const struct cuda *c);
const char *cuda_target(const struct cuda *c);    /* the newest target (codegen/target.h) that the device runs */
bool cuda_starts_early(const struct cuda *c); /* kernels start while those before them end (sm_90 and later) */
/* The same of a device sm_NN under a driver of this version (cuDriverGetVersion), with or without cuLaunchKernelEx. */
bool cuda_can_start_early(unsigned sm, int version, bool launch_ex);
bool cuda_runs(const struct cuda *c, const char *target); /* whether it runs PTX for sm_NN */

/* Whether it runs machine code for sm_NN: that of its own generation, up to its own number (CUDA C++ Programming Guide,
 * binary compatibility). The PTX machine takes none. */
bool cuda_takes_cubin(const struct cuda *c, const char *target);
bool cuda_memory(struct cuda *c, uint64_t *free, uint64_t *total, struct err *e);

/* Memory: 256-byte aligned, contents undefined. 0 bytes are one. Errors say how much there is. Where the device has pools,
 * both happen in the stream, and what is given back stays the device's until it is closed: cuda_memory counts it as
 * free. */
bool cuda_alloc(struct cuda *c, uint64_t bytes, cuda_addr *out, struct err *e);
void cuda_free(struct cuda *c, cuda_addr a); /* 0 is fine */

/* Copies and fills, in the stream. The source may be changed when upload returns. */
bool cuda_upload(struct cuda *c, cuda_addr to, const void *from, uint64_t bytes, struct err *e);
bool cuda_fill(struct cuda *c, cuda_addr to, uint8_t byte, uint64_t bytes, struct err *e);
bool cuda_download(struct cuda *c, void *to, cuda_addr from, uint64_t bytes, struct err *e); /* waits */
bool cuda_download_later(struct cuda *c, void *to, cuda_addr from, uint64_t bytes, struct err *e); /* does not */
bool cuda_sync(struct cuda *c, struct err *e);

/* A kernel of a PTX target (compile_lowered), loaded. `k` is borrowed. */
struct cuda_kernel;
bool cuda_kernel_new(struct cuda *c, const struct kernel *k, struct cuda_kernel **out, struct err *e);
void cuda_kernel_free(struct cuda *c, struct cuda_kernel *k); /* NULL is fine; it must not be running */

/* What a launch is given. The grid is made for `sizes`; the code reads them at `dims`, in the kernel's own order
 * (cuda_dims), when it runs: a captured launch sees what is there then. */
struct cuda_launch {
    const cuda_addr *args; /* [k->n_args] */
    const int64_t *sizes;  /* [N_RUN_DIMS] */
    cuda_addr dims, ws;    /* dims: [k->n_dims] of int64 */
    const int64_t *range;  /* NULL, or the tasks [range[0], range[1]) of every part */
    int phase;             /* 0: all; n: the n-th alone */
    bool whole;            /* one warp does the tasks of a part, in order */
};

/* Queues the phases, each behind the one before: what a kernel reads of the results of those before it is there when it
 * reads, even where it starts earlier. */
bool cuda_launch(struct cuda *c, const struct cuda_kernel *k, const struct cuda_launch *l, struct err *e);

/* The sizes in the order of a kernel's dims. */
void cuda_dims(const struct kernel *k, const int64_t *sizes, int64_t *out);

/* Events in the stream, for time. */
struct cuda_event;
bool cuda_event_new(struct cuda *c, struct cuda_event **out, struct err *e);
void cuda_event_free(struct cuda *c, struct cuda_event *v);
bool cuda_event_record(struct cuda *c, struct cuda_event *v, struct err *e);
bool cuda_event_ms(struct cuda *c, struct cuda_event *from, struct cuda_event *to, float *ms, struct err *e); /* waits */

/* Between begin and end, launches and copies are recorded instead of done; the graph does them all with one call. */
struct cuda_graph;
bool cuda_capture_begin(struct cuda *c, struct err *e);
bool cuda_capture_end(struct cuda *c, struct cuda_graph **out, struct err *e);
bool cuda_graph_launch(struct cuda *c, struct cuda_graph *g, struct err *e);
void cuda_graph_free(struct cuda *c, struct cuda_graph *g); /* NULL is fine */

#endif
