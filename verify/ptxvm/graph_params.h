/* graph_params: between the parameter structs of graph nodes and ops. */
#ifndef PTXVM_GRAPH_PARAMS_H
#define PTXVM_GRAPH_PARAMS_H

#include "verify/ptxvm/driver.h"

/* Checks and packs; *out is the caller's to hand on or op_free. A child graph is cloned. */
CUresult params_to_op(struct context *ctx, const CUgraphNodeParams *p, struct op *out);

CUgraphNodeType op_type(const struct op *op);

/* Replaces a node's op by one of the same type; launch attributes stay. */
CUresult node_set(struct context *ctx, struct node *n, const CUgraphNodeParams *p);

/* The pointers in *p stay valid until the node changes. */
CUresult node_kernel_params(struct node *n, CUDA_KERNEL_NODE_PARAMS *p);

#endif
