#include "runtime/tables.h"

#include <math.h>
#include <string.h>

bool table_fill(const json_t *plan, int64_t n_ctx, float *out, struct err *e) {
    const char *kind = json_string_value(json_object_get(plan, "table"));
    const json_t *params = json_object_get(plan, "params");
    bool sine = kind && strcmp(kind, "rope_sin") == 0;
    if (!kind || (!sine && strcmp(kind, "rope_cos") != 0))
        return err_set(e, ERR_INPUT, "the graph asks for an unknown table '%s'", kind ? kind : "");
    int64_t dim = json_integer_value(json_object_get(params, "dim"));
    double base = json_number_value(json_object_get(params, "base"));
    if (dim < 2 || dim % 2 || !(base > 0))
        return err_set(e, ERR_INPUT, "rotary positions over %lld dimensions with base %g: expected an even width and a "
                                     "positive base", (long long)dim, base);
    for (int64_t i = 0; i < dim / 2; i++) {
        double freq = pow(base, -2.0 * (double)i / (double)dim);
        for (int64_t p = 0; p < n_ctx; p++) {
            double a = (double)p * freq;
            out[p * dim + i] = (float)(sine ? -sin(a) : cos(a));
            out[p * dim + dim / 2 + i] = (float)(sine ? sin(a) : cos(a));
        }
    }
    return true;
}
