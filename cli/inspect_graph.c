/* inspect_graph: which kernels a model runs, layer by layer, before and after fusion. */
#include "cli/cli.h"
#include "cli/inspect.h"
#include "cli/profile.h"
#include "runtime/model.h"

#include <stdlib.h>
#include <string.h>

static const char *string(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* "attn_q q4_1[576,576]" */
static void describe_weight(const json_t *tensor, struct buf *out) {
    const char *name = string(tensor, "name");
    if (strncmp(name, "blk.", 4) == 0) {
        const char *dot = strchr(name + 4, '.');
        if (dot) name = dot + 1;
    }
    size_t n = strlen(name);
    if (n > 7 && strcmp(name + n - 7, ".weight") == 0) n -= 7;
    buf_add(out, name, n);
    buf_printf(out, " %s[", string(tensor, "fmt"));
    const json_t *dims = json_object_get(tensor, "dims");
    for (size_t i = 0; i < json_array_size(dims); i++)
        buf_printf(out, "%s%lld", i ? "," : "", (long long)json_integer_value(json_array_get(dims, i)));
    buf_puts(out, "]");
}

static json_t *launches_json(const json_t *plan) {
    const json_t *launches = json_object_get(plan, "launches"), *tensors = json_object_get(plan, "tensors");
    const json_t *kernels = json_object_get(plan, "kernels");
    json_t *list = json_array();
    int layer = -1;
    for (size_t i = 0; i < json_array_size(launches); i++) {
        const json_t *l = json_array_get(launches, i), *ids = json_object_get(l, "tensors");
        json_t *weights = json_array();
        int own = -2; /* no tensor says */
        for (size_t k = 0; k < json_array_size(ids); k++) {
            const json_t *t = json_array_get(tensors, (size_t)json_integer_value(json_array_get(ids, k)));
            const char *kind = string(t, "kind");
            bool weight = strcmp(kind, "weight") == 0, cache = strcmp(kind, "cache") == 0;
            if (weight || cache) own = tensor_layer(string(t, "name"), cache);
            if (!weight) continue;
            struct buf text = {0};
            describe_weight(t, &text);
            json_array_append_new(weights, json_text(text.data, text.len));
            buf_free(&text);
        }
        /* What has no tensor of the file, such as adding, belongs to the layer it stands in. */
        if (own != -2) layer = own;
        json_array_append_new(
            list,
            json_pack("{s:s, s:O, s:o, s:i}", "kernel",
                      string(json_array_get(kernels, (size_t)json_integer_value(json_object_get(l, "kernel"))), "name"),
                      "nodes", json_object_get(l, "nodes"), "weights", weights, "layer", layer));
    }
    return list;
}

bool inspect_graph(const char *path, const char *act, const char *kv, json_t **out, struct err *e) {
    struct dsl *d = NULL;
    struct gguf *g = NULL;
    gguf_type_fn types;
    json_t *before = NULL, *after = NULL;
    const char *family;
    bool ok = dsl_open(&d, e) && (types = model_types(d, e)) && gguf_open(path, types, &g, e) &&
              gguf_get_str(g, "general.architecture", &family, e) &&
              model_plan(d, g, act, kv, false, NULL, &before, e) && model_plan(d, g, act, kv, true, NULL, &after, e);
    if (ok)
        *out = json_pack("{s:s, s:o, s:o}", "family", family, "before", launches_json(before), "after",
                         launches_json(after));
    json_decref(before);
    json_decref(after);
    gguf_close(g);
    dsl_close(d);
    return ok;
}

/* What one layer, or what stands before or after them all, runs. */
struct section {
    int64_t layer; /* -1: none */
    struct buf lines;
    bool printed;
};

static size_t read_sections(const json_t *list, struct section *out) {
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *l = json_array_get(list, i), *weights = json_object_get(l, "weights");
        int64_t layer = json_integer_value(json_object_get(l, "layer"));
        if (n == 0 || out[n - 1].layer != layer) out[n++] = (struct section){.layer = layer};
        struct buf *lines = &out[n - 1].lines;
        buf_printf(lines, json_array_size(weights) ? "    %-32s" : "    %s", string(l, "kernel"));
        for (size_t k = 0; k < json_array_size(weights); k++)
            buf_printf(lines, "%s%s", k ? ", " : " ", json_string_value(json_array_get(weights, k)));
        buf_puts(lines, "\n");
    }
    return n;
}

/* "layers 0 … 2, 4" of all that are like s[0], which are marked as printed. */
static void print_title(struct section *s, size_t n) {
    const char *separator = "  layer ";
    for (size_t i = 0; i < n; i++) {
        size_t last = i;
        while (last < n && s[last].lines.len == s->lines.len &&
               memcmp(s[last].lines.data, s->lines.data, s->lines.len) == 0)
            s[last++].printed = true;
        if (last == i) continue;
        printf("%s%lld", separator, (long long)s[i].layer);
        if (last > i + 1) printf(" … %lld", (long long)s[last - 1].layer);
        separator = ", ";
        i = last;
    }
    putchar('\n');
}

static void print_layers(const json_t *list) {
    struct section *s = mem_new((json_array_size(list) + 1) * sizeof *s);
    size_t n = read_sections(list, s);
    for (size_t i = 0; i < n; i++) {
        if (s[i].printed) continue;
        if (s[i].layer < 0)
            puts("  outside the layers");
        else
            print_title(&s[i], n - i);
        for (char *line = s[i].lines.data, *end; (end = strchr(line, '\n')); line = end + 1) {
            print_safe(stdout, line, (size_t)(end - line));
            putchar('\n');
        }
    }
    for (size_t i = 0; i < n; i++) buf_free(&s[i].lines);
    mem_free(s);
}

void inspect_graph_print(const json_t *graph) {
    const json_t *before = json_object_get(graph, "before"), *after = json_object_get(graph, "after");
    printf("\n%sgraph%s of the family %s: %zu kernels\n", bold(stdout), plain(stdout), string(graph, "family"),
           json_array_size(before));
    print_layers(before);
    printf("\n%sfused%s into %zu launches\n", bold(stdout), plain(stdout), json_array_size(after));
    print_layers(after);
}
