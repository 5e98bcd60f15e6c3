/* api_user_object: reference-counted objects of the program that graphs keep alive, until the last graph that uses
 * their memory is gone. The destructor runs on the driver's own thread. */
#include "verify/ptxvm/driver.h"
#include <stdlib.h>
#include <string.h>

struct user_object {
    CUuserObject handle;
    CUhostFn destroy;
    void *data;
    uint64_t refs;
};

static bool drop(struct user_object *o, uint64_t n) {
    if (n > o->refs) return false;
    o->refs -= n;
    if (o->refs) return true;
    handle_drop(o->handle);
    host_later(o->destroy, o->data);
    free(o);
    return true;
}

void objects_release(struct graph *g) {
    for (size_t i = 0; i < g->n_held; i++) {
        struct user_object *o = handle_get(KIND_USER_OBJECT, g->held[i].object);
        if (o) drop(o, g->held[i].refs);
    }
    free(g->held);
    g->held = NULL;
    g->n_held = 0;
}

bool objects_copy(struct graph *to, const struct graph *from) {
    if (!from->n_held) return true;
    to->held = mem_try(from->n_held, sizeof *to->held);
    if (!to->held) return false;
    for (size_t i = 0; i < from->n_held; i++) {
        struct user_object *o = handle_get(KIND_USER_OBJECT, from->held[i].object);
        if (!o) continue;
        o->refs += from->held[i].refs;
        to->held[to->n_held++] = from->held[i];
    }
    return true;
}

CUresult cuUserObjectCreate(CUuserObject *out, void *ptr, CUhostFn destroy, unsigned int refs, unsigned int flags) {
    ENTER;
    if (!out || !destroy || !refs || refs > 0x7fffffff || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
        return CUDA_ERROR_INVALID_VALUE;
    struct user_object *o = mem_try(1, sizeof *o);
    if (!o) return CUDA_ERROR_OUT_OF_MEMORY;
    *o = (struct user_object){.destroy = destroy, .data = ptr, .refs = refs};
    o->handle = handle_new(KIND_USER_OBJECT, o);
    if (!o->handle) {
        free(o);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = o->handle;
    return CUDA_SUCCESS;
}

CUresult cuUserObjectRetain(CUuserObject object, unsigned int n) {
    ENTER;
    struct user_object *o = handle_get(KIND_USER_OBJECT, object);
    if (!o || !n || n > 0x7fffffff) return CUDA_ERROR_INVALID_VALUE;
    o->refs += n;
    return CUDA_SUCCESS;
}

CUresult cuUserObjectRelease(CUuserObject object, unsigned int n) {
    ENTER;
    struct user_object *o = handle_get(KIND_USER_OBJECT, object);
    return o && n && drop(o, n) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphRetainUserObject(CUgraph graph, CUuserObject object, unsigned int n, unsigned int flags) {
    ENTER;
    struct graph *g = handle_get(KIND_GRAPH, graph);
    struct user_object *o = handle_get(KIND_USER_OBJECT, object);
    if (!g || !o || !n || n > 0x7fffffff || flags & ~(unsigned)CU_GRAPH_USER_OBJECT_MOVE)
        return CUDA_ERROR_INVALID_VALUE;
    if (flags & CU_GRAPH_USER_OBJECT_MOVE ? n > o->refs : false) return CUDA_ERROR_INVALID_VALUE;
    size_t i = 0;
    while (i < g->n_held && g->held[i].object != object) i++;
    if (i == g->n_held) {
        struct held *grown = realloc(g->held, (g->n_held + 1) * sizeof *grown);
        if (!grown) return CUDA_ERROR_OUT_OF_MEMORY;
        g->held = grown;
        g->held[g->n_held++] = (struct held){object, 0};
    }
    g->held[i].refs += n;
    if (!(flags & CU_GRAPH_USER_OBJECT_MOVE)) o->refs += n; /* moved ones were counted already */
    return CUDA_SUCCESS;
}

CUresult cuGraphReleaseUserObject(CUgraph graph, CUuserObject object, unsigned int n) {
    ENTER;
    struct graph *g = handle_get(KIND_GRAPH, graph);
    struct user_object *o = handle_get(KIND_USER_OBJECT, object);
    if (!g || !o || !n) return CUDA_ERROR_INVALID_VALUE;
    size_t i = 0;
    while (i < g->n_held && g->held[i].object != object) i++;
    if (i == g->n_held || g->held[i].refs < n) return CUDA_ERROR_INVALID_VALUE;
    g->held[i].refs -= n;
    if (!g->held[i].refs) g->held[i] = g->held[--g->n_held];
    drop(o, n);
    return CUDA_SUCCESS;
}
