#include "runtime/tables.h"

#include <math.h>
#include <string.h>

bool table_fill(const json_t *plan, const struct gguf *g, int64_t n_ctx, float *out, struct err *e) {
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
    const json_t *scale = json_object_get(params, "scale");
    const char *factors = json_string_value(json_object_get(params, "factors"));
    float *factor = NULL;
    if (factors) {
        const struct gguf_tensor *t;
        factor = mem_new((size_t)dim / 2 * sizeof *factor);
        if (!gguf_get_tensor(g, factors, &t, e) || t->bytes != (uint64_t)dim / 2 * sizeof *factor ||
            !gguf_pread(g, t, 0, factor, t->bytes, e)) {
            mem_free(factor);
            return err_set(e, ERR_INPUT, "tensor '%s': expected %lld float32 factors", factors, (long long)dim / 2);
        }
    }
    for (int64_t i = 0; i < dim / 2; i++) {
        double freq = pow(base, -2.0 * (double)i / (double)dim);
        if (scale) freq /= json_number_value(scale);
        if (factor) freq /= (double)factor[i];
        for (int64_t p = 0; p < n_ctx; p++) {
            double a = (double)p * freq;
            out[p * dim + i] = (float)(sine ? -sin(a) : cos(a));
            out[p * dim + dim / 2 + i] = (float)(sine ? sin(a) : cos(a));
        }
    }
    mem_free(factor);
    return true;
}
