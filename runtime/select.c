#include "runtime/select.h"

/* A round compares every element with its group's: groups of about this many times k make a round cheap and keep little
 * of it. Lanes go across groups, so there are at least as many as a warp has, or one. */
enum { LARGEST_LAST = 1536, SMALLEST_TIMES_K = 4, LANES = 32 };

size_t select_plan(int64_t n, int64_t k, struct select_round *rounds) {
    size_t count = 0;
    if (k < 1 || k > SELECT_MAX_K || k >= n || n > SELECT_MAX_N) return 0;
    while (count < SELECT_ROUNDS) {
        int64_t groups = LANES;
        while (n / (groups * 2) >= SMALLEST_TIMES_K * k && groups < SELECT_PADDING) groups *= 2;
        if (n <= LARGEST_LAST || n / groups < SMALLEST_TIMES_K * k) groups = 1;
        int64_t unit = groups > LANES ? groups : LANES;
        rounds[count++] = (struct select_round){(n + unit - 1) / unit * unit, n, groups};
        if (groups == 1) return count;
        n = groups * k;
    }
    bug("selecting %lld of %lld takes more than %d rounds", (long long)k, (long long)n, SELECT_ROUNDS);
}

void select_specs(const struct select_round *r, int64_t k, json_t *specs[2]) {
    json_int_t n = r->n, valid = r->valid, groups = r->groups;
    specs[0] = json_pack("{s:s, s:{s:I}, s:{s:I, s:I}}", "kernel", "top_rank", "sizes", "n", n, "params", "valid",
                         valid, "groups", groups);
    specs[1] = json_pack("{s:s, s:{s:I, s:I}, s:{s:I, s:I, s:I}}", "kernel", "top_pick", "sizes", "n", n, "kept",
                         groups * k, "params", "valid", valid, "groups", groups, "k", (json_int_t)k);
}
