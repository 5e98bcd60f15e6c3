/* What a whole function shows: where the ways of a branch meet again (immediate post-dominators), and which rows may
 * share a place in the frame. */
#include "verify/ptxvm/machine.h"

#include <stdlib.h>
#include <string.h>

/* ---- blocks ---- */
struct flow {
    u32 n;         /* blocks; number n is the virtual exit */
    u32 *start;    /* n + 1 */
    u32 *block_of; /* instruction -> block */
    u32 *succ_at, *succ, *pred_at, *pred;
};

static bool is_guarded(const struct insn *in) {
    return in->guard != NO_GUARD;
}
static bool ends_block(const struct insn *in) {
    return in->kind == K_BRA ||
           (in->kind == K_OP && (in->op == op_exit || in->op == op_ret || in->op == op_brx || in->op == op_trap));
}

static u32 successors(const struct code *c, const struct flow *g, u32 b, u32 *out) {
    u32 last = g->start[b + 1] - 1, n = 0;
    const struct insn *in = &c->insns[last];
    u32 next = b + 1 < g->n ? b + 1 : g->n;
    if (!ends_block(in)) {
        out[n++] = next;
    } else if (in->kind == K_BRA) {
        out[n++] = g->block_of[in->target];
        if (is_guarded(in) && next != out[0]) out[n++] = next;
    } else if (in->op == op_brx) {
        const struct ext *x = in->ext;
        for (int k = 0; k < x->n_targets; k++) out[n++] = g->block_of[x->targets[k]];
        if (is_guarded(in)) out[n++] = next;
    } else if (is_guarded(in)) {
        out[n++] = next; /* those that leave never meet the others again */
    } else if (in->op != op_trap && !(in->op == op_exit && !c->f->is_entry)) {
        out[n++] = g->n;
    }
    return n;
}

static bool flow_build(struct code *c, struct flow *g) {
    *g = (struct flow){0};
    g->block_of = calloc(c->n + 1, sizeof(u32));
    g->start = calloc(c->n + 2, sizeof(u32));
    if (!g->block_of || !g->start) return false;
    bool leader = true;
    for (u32 i = 0; i < c->n; i++) {
        if (leader || c->insns[i].kind == K_JOIN) g->start[g->n++] = i;
        g->block_of[i] = g->n - 1;
        leader = ends_block(&c->insns[i]);
    }
    g->start[g->n] = c->n;
    u64 edges = 0, widest = 2;
    for (u32 b = 0; b < g->n; b++) {
        const struct insn *in = &c->insns[g->start[b + 1] - 1];
        u64 k = in->kind == K_OP && in->op == op_brx ? (u64)((struct ext *)in->ext)->n_targets + 1 : 2;
        edges += k;
        if (k > widest) widest = k;
    }
    g->succ_at = calloc(g->n + 2, sizeof(u32));
    g->pred_at = calloc(g->n + 3, sizeof(u32));
    g->succ = calloc(edges + 1, sizeof(u32));
    g->pred = calloc(edges + 1, sizeof(u32));
    u32 *tmp = calloc(widest + 2, sizeof(u32));
    if (!g->succ_at || !g->pred_at || !g->succ || !g->pred || !tmp) {
        free(tmp);
        return false;
    }
    u32 at = 0;
    for (u32 b = 0; b < g->n; b++) {
        g->succ_at[b] = at;
        u32 k = successors(c, g, b, tmp);
        for (u32 i = 0; i < k; i++) {
            g->succ[at++] = tmp[i];
            g->pred_at[tmp[i] + 1]++;
        }
    }
    g->succ_at[g->n] = at;
    g->succ_at[g->n + 1] = at;
    for (u32 b = 0; b <= g->n; b++) g->pred_at[b + 1] += g->pred_at[b];
    u32 *fill = calloc(g->n + 1, sizeof(u32));
    if (!fill) {
        free(tmp);
        return false;
    }
    memcpy(fill, g->pred_at, (g->n + 1) * sizeof(u32));
    for (u32 b = 0; b < g->n; b++)
        for (u32 i = g->succ_at[b]; i < g->succ_at[b + 1]; i++) g->pred[fill[g->succ[i]]++] = b;
    free(fill);
    free(tmp);
    return true;
}
static void flow_free(struct flow *g) {
    free(g->block_of);
    free(g->start);
    free(g->succ_at);
    free(g->succ);
    free(g->pred_at);
    free(g->pred);
}

/* Cooper, Harvey and Kennedy's dominator algorithm on the reversed graph. */
void vm_find_joins(struct code *c) {
    struct flow g;
    u32 *order = NULL, *number = NULL, *idom = NULL, *stack = NULL, *edge = NULL;
    if (!flow_build(c, &g)) goto out;
    u32 n = g.n + 1, found = 0, top = 0;
    order = calloc(n, sizeof(u32));
    number = calloc(n, sizeof(u32)); /* post-order number + 1; 0: the exit is not reachable from there */
    idom = malloc(n * sizeof(u32));
    stack = calloc(n + 1, sizeof(u32));
    edge = calloc(n + 1, sizeof(u32));
    if (!order || !number || !idom || !stack || !edge) goto out;
    u8 *seen = calloc(n, 1);
    if (!seen) goto out;
    stack[top] = g.n;
    edge[top++] = g.pred_at[g.n];
    seen[g.n] = 1;
    while (top) {
        u32 b = stack[top - 1];
        if (edge[top - 1] < g.pred_at[b + 1]) {
            u32 p = g.pred[edge[top - 1]++];
            if (!seen[p]) {
                seen[p] = 1;
                stack[top] = p;
                edge[top++] = g.pred_at[p];
            }
        } else {
            order[found] = b;
            number[b] = ++found;
            top--;
        }
    }
    free(seen);
    memset(idom, 0xff, n * sizeof(u32));
    idom[g.n] = g.n;
    for (bool changed = true; changed;) {
        changed = false;
        for (u32 k = found - 1; k-- > 0;) { /* reverse post-order, without the exit itself */
            u32 b = order[k], new = NO_TARGET;
            for (u32 i = g.succ_at[b]; i < g.succ_at[b + 1]; i++) {
                u32 s = g.succ[i];
                if (idom[s] == NO_TARGET) continue;
                if (new == NO_TARGET) {
                    new = s;
                    continue;
                }
                u32 p = s, q = new;
                while (p != q) {
                    while (number[p] < number[q]) p = idom[p];
                    while (number[q] < number[p]) q = idom[q];
                }
                new = p;
            }
            if (new != idom[b]) {
                idom[b] = new;
                changed = true;
            }
        }
    }
    for (u32 b = 0; b < g.n; b++) {
        struct insn *in = &c->insns[g.start[b + 1] - 1];
        if (in->kind != K_BRA && !(in->kind == K_OP && in->op == op_brx)) continue;
        u32 j = number[b] ? idom[b] : NO_TARGET;
        if (j == NO_TARGET || j >= g.n || c->insns[g.start[j]].kind != K_JOIN) continue;
        u32 first = g.start[j];
        while (first + 1 < c->n && c->insns[first].kind == K_JOIN) first++;
        if (c->insns[first].kind == K_OP && c->insns[first].op == op_exit && !is_guarded(&c->insns[first]))
            continue; /* nothing to meet for */
        in->rejoin = g.start[j];
    }
out:
    free(order);
    free(number);
    free(idom);
    free(stack);
    free(edge);
    flow_free(&g);
}

/* place: in, the element size of each row; out, its offset in the frame. */
void vm_compact_rows(struct code *c, u32 *place, u32 n_rows) {
    u32 preds = 1;
    c->pred_bytes = (c->n_preds * 4 + 63) & ~63u;
    u64 at = c->pred_bytes;
    u32 regs = 0;
    for (u32 r = 0; r < n_rows; r++) {
        u32 bytes = place[r];
        if (!bytes) {
            place[r] = preds++ * 4;
        } else {
            place[r] = (u32)at;
            at += 32 * (u64)bytes;
            regs += bytes <= 4 ? 1 : bytes / 4;
        }
    }
    c->n_rows_32 = regs;
    c->frame_bytes = (u32)at + 256; /* an operand that is absent may read a whole row from the start */
}
