/* kgen inspect: what a model file holds and how much memory it needs. */
#include "cli/cli.h"
#include "cli/inspect.h"
#include "runtime/gguf.h"
#include "runtime/model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct inspect_options {
    struct words files;
    int64_t context;
    int kv;
    bool whole, graph;
    struct report_options report;
};

/* Every type ggml has given a number to, so that a file can be looked at whose formats kgen does not compute with.
 * Sizes: ggml's type traits. */
static const struct gguf_type *any_type(uint32_t id) {
    static const struct gguf_type types[] = {
        [0] = {"f32", 1, 4},         [1] = {"f16", 1, 2},         [2] = {"q4_0", 32, 18},
        [3] = {"q4_1", 32, 20},      [6] = {"q5_0", 32, 22},      [7] = {"q5_1", 32, 24},
        [8] = {"q8_0", 32, 34},      [9] = {"q8_1", 32, 36},      [10] = {"q2_k", 256, 84},
        [11] = {"q3_k", 256, 110},   [12] = {"q4_k", 256, 144},   [13] = {"q5_k", 256, 176},
        [14] = {"q6_k", 256, 210},   [15] = {"q8_k", 256, 292},   [16] = {"iq2_xxs", 256, 66},
        [17] = {"iq2_xs", 256, 74},  [18] = {"iq3_xxs", 256, 98}, [19] = {"iq1_s", 256, 50},
        [20] = {"iq4_nl", 32, 18},   [21] = {"iq3_s", 256, 110},  [22] = {"iq2_s", 256, 82},
        [23] = {"iq4_xs", 256, 136}, [24] = {"i8", 1, 1},         [25] = {"i16", 1, 2},
        [26] = {"i32", 1, 4},        [27] = {"i64", 1, 8},        [28] = {"f64", 1, 8},
        [29] = {"iq1_m", 256, 56},   [30] = {"bf16", 1, 2},       [34] = {"tq1_0", 256, 54},
        [35] = {"tq2_0", 256, 66},   [39] = {"mxfp4", 32, 17},
    };
    return id < sizeof types / sizeof *types && types[id].name ? &types[id] : NULL;
}

/* ---- Metadata -----------------------------------------------------------------------------------------------------
 */

static json_t *integer(uint64_t v) {
    return v <= INT64_MAX ? json_integer((json_int_t)v) : json_real((double)v);
}

static json_t *element(const struct gguf_value *v, uint64_t i) {
    switch (v->type) {
    case GGUF_F32:
    case GGUF_F64:
        return json_finite(gguf_value_f64(v, i));
    case GGUF_BOOL:
        return json_boolean(gguf_value_u64(v, i));
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        return json_integer((json_int_t)gguf_value_u64(v, i));
    default:
        return integer(gguf_value_u64(v, i));
    }
}

/* At most `limit` elements; a longer array becomes {"type", "n", "first"}. */
static json_t *value_json(const struct gguf_value *v, uint64_t limit) {
    if (!v->is_array) return v->type == GGUF_STRING ? json_text(v->data, v->bytes) : element(v, 0);
    json_t *list = json_array();
    uint64_t n = v->n < limit ? v->n : limit;
    if (v->type == GGUF_STRING) {
        struct gguf_strings it = gguf_strings_begin(v);
        for (uint64_t i = 0; i < n && gguf_strings_next(&it); i++)
            json_array_append_new(list, json_text(it.data, it.len));
    } else {
        for (uint64_t i = 0; i < n; i++) json_array_append_new(list, element(v, i));
    }
    if (n == v->n) return list;
    return json_pack("{s:s, s:o, s:o}", "type", gguf_value_type_name(v->type), "n", integer(v->n), "first", list);
}

/* ---- Memory -------------------------------------------------------------------------------------------------------
 */

/* What the KV cache takes: keys and values of every layer for `context` tokens. False when the file lacks the widths
 * (no model of a known shape) or they make no sense. */
static bool kv_bytes(const struct gguf *g, int64_t context, int kv, uint64_t *out) {
    static const struct {
        uint64_t elems, bytes;
    } types[] = {[KV_F32] = {1, 4}, [KV_F16] = {1, 2}, [KV_BF16] = {1, 2}, [KV_Q8_0] = {32, 34}};
    struct err e;
    const char *family;
    uint64_t layers, width, heads, key, value, all;
    char name[6][300];
    static const char *const keys[] = {"block_count",          "embedding_length",
                                       "attention.head_count", "attention.head_count_kv",
                                       "attention.key_length", "attention.value_length"};
    if (!gguf_get_str(g, "general.architecture", &family, &e) || strlen(family) > 200) return false;
    for (int i = 0; i < 6; i++) snprintf(name[i], sizeof name[i], "%s.%s", family, keys[i]);

    enum { MAX_LAYERS = 4096 };
    uint64_t kv_heads[MAX_LAYERS], n_heads[MAX_LAYERS];
    if (!gguf_get_u64(g, name[0], &layers, &e) || layers == 0 || layers > MAX_LAYERS ||
        !gguf_get_u64(g, name[1], &width, &e) || !gguf_get_u64s(g, name[2], n_heads, layers, &e) || n_heads[0] == 0)
        return false;
    if (gguf_find(g, name[3])) {
        if (!gguf_get_u64s(g, name[3], kv_heads, layers, &e)) return false;
    } else {
        memcpy(kv_heads, n_heads, layers * sizeof *kv_heads);
    }
    if (!gguf_get_u64_or(g, name[4], width / n_heads[0], &key, &e) ||
        !gguf_get_u64_or(g, name[5], width / n_heads[0], &value, &e))
        return false;

    heads = 0;
    for (uint64_t i = 0; i < layers; i++)
        if (!size_add(heads, kv_heads[i], &heads)) return false;
    uint64_t both;
    if (!size_add(key, value, &both) || !size_mul(heads, both, &all) || !size_mul(all, (uint64_t)context, &all) ||
        !size_mul(all, types[kv].bytes, &all))
        return false;
    *out = all / types[kv].elems;
    return true;
}

static json_t *memory_json(const struct inspect_options *o, uint64_t weights, const struct gguf *g) {
    uint64_t cache;
    json_t *memory = json_pack("{s:o, s:I}", "weights_bytes", integer(weights), "context", (json_int_t)o->context);
    if (kv_bytes(g, o->context, o->kv, &cache)) {
        json_object_set_new(memory, "kv_cache_bytes", integer(cache));
        json_object_set_new(memory, "total_bytes", integer(weights + cache));
    }
    return memory;
}

static uint64_t weight_bytes(const struct gguf *g) {
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) sum += gguf_tensor_at(g, i)->bytes; /* each inside the file */
    return sum;
}

/* ---- Output -------------------------------------------------------------------------------------------------------
 */

static json_t *tensor_json(const struct gguf_tensor *t) {
    json_t *shape = json_array();
    for (uint32_t d = 0; d < t->n_dims; d++) json_array_append_new(shape, integer(t->ne[d]));
    return json_pack("{s:o, s:s, s:o, s:o, s:o, s:I}", "name", json_text(t->name, strlen(t->name)), "type",
                     t->type->name, "shape", shape, "bytes", integer(t->bytes), "offset", integer(t->off), "part",
                     (json_int_t)t->part);
}

static bool print_json(const struct inspect_options *o, const struct gguf *g, json_t *graph, struct err *e) {
    json_t *metadata = json_object(), *tensors = json_array();
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        const struct gguf_key *k = gguf_key_at(g, i);
        json_t *name = json_text(k->name, strlen(k->name));
        json_object_set_new(metadata, json_string_value(name), value_json(&k->value, o->whole ? UINT64_MAX : 64));
        json_decref(name);
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) json_array_append_new(tensors, tensor_json(gguf_tensor_at(g, i)));
    json_t *result =
        json_pack("{s:o, s:I, s:o, s:o, s:I, s:o, s:o, s:o}", "file", json_text(gguf_path(g), strlen(gguf_path(g))),
                  "version", (json_int_t)gguf_version(g), "alignment", integer(gguf_alignment(g)), "size_bytes",
                  integer(gguf_file_bytes(g)), "parts", (json_int_t)gguf_n_parts(g), "metadata", metadata, "tensors",
                  tensors, "memory", memory_json(o, weight_bytes(g), g));
    if (graph) json_object_set(result, "graph", graph);
    return json_print(result, e);
}

static void print_string(const char *text, uint64_t n, bool whole) {
    enum { MAX_SHOWN = 200 };
    uint64_t shown = whole || n < MAX_SHOWN ? n : MAX_SHOWN;
    putchar('"');
    print_safe(stdout, text, shown);
    fputs(shown < n ? "\"…" : "\"", stdout);
}

static void print_scalar(const struct gguf_value *v, uint64_t i) {
    if (v->type == GGUF_F32 || v->type == GGUF_F64)
        printf("%.9g", gguf_value_f64(v, i));
    else if (v->type == GGUF_BOOL)
        fputs(gguf_value_u64(v, i) ? "true" : "false", stdout);
    else if (v->type == GGUF_U64)
        printf("%llu", (unsigned long long)gguf_value_u64(v, i));
    else
        printf("%lld", (long long)gguf_value_u64(v, i));
}

static void print_array(const struct gguf_value *v, bool whole) {
    uint64_t n = whole || v->n < 6 ? v->n : 6;
    struct gguf_strings it = {0};
    if (v->type == GGUF_STRING) it = gguf_strings_begin(v);
    printf("%s[%llu] ", gguf_value_type_name(v->type), (unsigned long long)v->n);
    for (uint64_t i = 0; i < n; i++) {
        if (i) fputs(", ", stdout);
        if (v->type != GGUF_STRING)
            print_scalar(v, i);
        else if (gguf_strings_next(&it))
            print_string(it.data, it.len, whole);
    }
    if (n < v->n) fputs(", …", stdout);
}

static void print_metadata(const struct inspect_options *o, const struct gguf *g) {
    printf("%smetadata%s\n", bold(stdout), plain(stdout));
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        const struct gguf_key *k = gguf_key_at(g, i);
        const struct gguf_value *v = &k->value;
        fputs("  ", stdout);
        print_safe(stdout, k->name, strlen(k->name));
        printf("%*s  ", strlen(k->name) < 40 ? (int)(40 - strlen(k->name)) : 0, "");
        if (v->is_array)
            print_array(v, o->whole);
        else if (v->type == GGUF_STRING)
            print_string(v->data, v->bytes, o->whole);
        else
            print_scalar(v, 0);
        putchar('\n');
    }
}

static void print_tensors(const struct gguf *g) {
    char size[32];
    printf("\n%stensors%s\n", bold(stdout), plain(stdout));
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        struct buf shape = {0};
        for (uint32_t d = 0; d < t->n_dims; d++)
            buf_printf(&shape, "%s%llu", d ? " × " : "", (unsigned long long)t->ne[d]);
        fputs("  ", stdout);
        print_safe(stdout, t->name, strlen(t->name));
        /* Each × is two bytes and one column. */
        printf("%*s  %-8s %-*s %10s\n", strlen(t->name) < 32 ? (int)(32 - strlen(t->name)) : 0, "", t->type->name,
               (int)(24 + t->n_dims - 1), shape.data, format_bytes(t->bytes, size));
        buf_free(&shape);
    }
}

static void print_memory(const struct inspect_options *o, const struct gguf *g) {
    char size[32];
    uint64_t weights = weight_bytes(g), cache;
    printf("\n%smemory%s\n  weights  %s in %zu tensors\n", bold(stdout), plain(stdout), format_bytes(weights, size),
           gguf_n_tensors(g));
    if (!kv_bytes(g, o->context, o->kv, &cache)) return;
    printf("  KV cache %s for %lld tokens\n", format_bytes(cache, size), (long long)o->context);
    printf("  together %s, and what one step works on\n", format_bytes(weights + cache, size));
}

static bool inspect_bundle(const struct inspect_options *o, struct err *e) {
    struct bundle *b = NULL;
    json_t *about = NULL, *value;
    const char *key;
    if (o->graph) return err_set(e, ERR_USAGE, "--graph belongs to a model file, not to a bundle");
    bool ok = bundle_open(o->files.items[0], &b, e) && model_bundle_about(b, &about, e);
    bundle_close(b);
    if (!ok) return false;
    if (o->report.json) return json_print(about, e);
    json_object_foreach(about, key, value) {
        char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY);
        const char *shown = text ? text : json_string_value(value);
        printf("%-14s ", key);
        print_safe(stdout, shown, strlen(shown));
        putchar('\n');
        free(text);
    }
    json_decref(about);
    return true;
}

static bool run(const void *opts, struct err *e) {
    const struct inspect_options *o = opts;
    struct gguf *g = NULL;
    json_t *graph = NULL;
    struct stat st;
    if (stat(o->files.items[0], &st) == 0 && S_ISDIR(st.st_mode)) return inspect_bundle(o, e);
    if (!gguf_open(o->files.items[0], any_type, &g, e)) return false;
    bool ok = !o->graph || inspect_graph(o->files.items[0], "q8", kv_names[o->kv], &graph, e);
    if (ok && o->report.json) {
        ok = print_json(o, g, graph, e);
    } else if (ok) {
        char size[32];
        printf("%s", bold(stdout));
        print_safe(stdout, gguf_path(g), strlen(gguf_path(g)));
        printf("%s: GGUF version %u, %s", plain(stdout), gguf_version(g), format_bytes(gguf_file_bytes(g), size));
        if (gguf_n_parts(g) > 1) printf(" in %u parts", gguf_n_parts(g));
        puts("\n");
        print_metadata(o, g);
        print_tensors(g);
        print_memory(o, g);
        if (graph) inspect_graph_print(graph);
    }
    json_decref(graph);
    gguf_close(g);
    return ok;
}

#define AT(field) .offset = offsetof(struct inspect_options, field)
static const struct option options[] = {
    {"context", 'c', OPTION_INT, "N", "how many tokens to reckon the KV cache for", AT(context), .ints = {1, 1 << 24},
     .unit = "tokens", .fallback = "2048"},
    {"kv", 0, OPTION_ENUM, NULL, "the KV cache's numbers", AT(kv), .choices = kv_names, .fallback = "f16"},
    {"graph", 0, OPTION_FLAG, NULL, "the kernels that it runs, layer by layer, before and after fusion", AT(graph)},
    {"whole", 0, OPTION_FLAG, NULL, "long arrays and texts of the metadata in full", AT(whole)},
    {0},
};
#undef AT

static const struct option_group groups[] = {
    {"what to show", options, 0},
    {"output", report_options, offsetof(struct inspect_options, report)},
    {0},
};

const struct command command_inspect = {
    .name = "inspect",
    .summary = "shows what a model file holds and the memory it needs, or what a bundle is for",
    .usage = "FILE|DIR",
    .details =
        "Metadata, tensors with their formats, shapes (the contiguous dimension first) and sizes, and the memory for "
        "weights and KV cache. Reads formats that kgen cannot compute with, too. Of a bundle's directory: its target, "
        "its model and how it was compiled.",
    .examples = "kgen inspect model.gguf\nkgen inspect --json model.gguf",
    .groups = groups,
    .options_bytes = sizeof(struct inspect_options),
    .words_name = "FILE",
    .words_min = 1,
    .words_max = 1,
    .words_offset = offsetof(struct inspect_options, files),
    .run = run,
};
