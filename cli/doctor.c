/* kgen doctor: what this machine has, what kgen will use, what is missing and how to get it. */
#include "cli/doctor.h"
#include "codegen/codegen.h"
#include "codegen/target.h"
#include "runtime/model.h"
#include "runtime/safety.h"

#include <string.h>

struct doctor_options {
    struct engine_options engine;
    struct report_options report;
};

void doctor_advise(json_t *advice, const char *problem, const char *fix) {
    json_array_append_new(advice, json_pack("{s:s, s:s}", "problem", problem, "fix", fix));
}

static json_t *compiler(json_t *advice) {
    json_t *o = json_object(), *list = json_array();
    struct target native;
    struct err e;
    json_object_set_new(o, "version", json_string(codegen_version()));
    if (target_find("native", &native, &e)) {
        json_object_set_new(o, "processor", json_string(native.cpu));
        json_object_set_new(o, "code_class", json_string(native.class_name));
        json_object_set_new(o, "float_lanes", json_integer(native.lanes));
    } else {
        doctor_advise(advice, e.msg, "kgen needs an x86-64 processor");
    }
    for (size_t i = 0; target_name(i); i++) {
        struct target t;
        if (target_find(target_name(i), &t, &e) && target_runs_here(&t))
            json_array_append_new(list, json_string(target_name(i)));
    }
    json_object_set_new(o, "targets_that_run_here", list);
    return o;
}

/* In how many bits keys may be kept (runtime/safety.h): why not in f16; "" where they may, or where the file cannot be
 * run anyway. */
struct keys {
    char why_f32[256];
    bool bf16;
};

/* The settings as they stand after flags, environment and config file. */
static json_t *choices(const struct engine_options *o, const json_t *cuda, const struct keys *keys) {
    const json_t *devices = json_object_get(cuda, "devices");
    bool there = o->device.index < (int)json_array_size(devices);
    bool wants_gpu = o->gpu || o->device.kind == DEVICE_CUDA;
    char device[64] = "cpu";
    if (wants_gpu && there)
        snprintf(device, sizeof device, "cuda:%d", o->device.index);
    else if (o->gpu)
        snprintf(device, sizeof device, "cpu (no CUDA device)");
    else if (wants_gpu)
        snprintf(device, sizeof device, "none: no cuda:%d here", o->device.index);
    const char *act = o->act == ACT_F32 ? "f32" : "q8";
    struct target t;
    struct err e;
    bool here = !(wants_gpu && there) && target_find("native", &t, &e);
    const char *kv = model_default_kv(act, !*keys->why_f32, keys->bf16, here ? &t : NULL);
    return json_pack("{s:s, s:I, s:s, s:s}", "device", device, "threads",
                     (json_int_t)(o->threads ? o->threads : doctor_cores()), "activations", act, "kv_cache",
                     o->kv != KV_DEFAULT ? kv_names[o->kv] : kv);
}

static void look_at_keys(const char *path, struct keys *keys) {
    struct dsl *d = NULL;
    struct gguf *g = NULL;
    struct err e;
    gguf_type_fn types;
    bool ok = dsl_open(&d, &e) && (types = model_types(d, &e)) && gguf_open(path, types, &g, &e) &&
              safety_of_keys(g, keys->why_f32, &keys->bf16, &e);
    if (!ok) *keys = (struct keys){.bf16 = true};
    gguf_close(g);
    dsl_close(d);
}

static bool model(const char *path, const json_t *machine, json_t *advice, json_t **out, struct keys *keys,
                  struct err *e) {
    struct gguf *g;
    const char *architecture, *name;
    if (!gguf_open(path, NULL, &g, e)) return false;
    bool ok = gguf_get_str_or(g, "general.architecture", "", &architecture, e) &&
              gguf_get_str_or(g, "general.name", "", &name, e);
    if (ok) {
        uint64_t bytes = gguf_file_bytes(g);
        *out = json_pack("{s:o, s:o, s:o, s:I, s:I}", "file", json_text(path, strlen(path)), "family",
                         json_text(architecture, strlen(architecture)), "name", json_text(name, strlen(name)),
                         "size_bytes", (json_int_t)bytes, "tensors", (json_int_t)gguf_n_tensors(g));
        json_int_t available = json_integer_value(json_object_get(machine, "available_bytes"));
        if (available && bytes > (uint64_t)available)
            doctor_advise(advice, "the model is larger than the memory that is available",
                          "close other programs, or use a smaller model or one of fewer bits a weight");
        look_at_keys(path, keys);
        if (*keys->why_f32) json_object_set_new(*out, "f32_keys", json_string(keys->why_f32));
    }
    gguf_close(g);
    return ok;
}

/* What is in it, and whether it runs here. */
static bool bundle(const struct engine_options *o, json_t *advice, json_t **out, struct err *e) {
    struct model_options mo = {
        .bundle = o->bundle, .cuda = o->device.kind == DEVICE_CUDA, .cuda_index = o->device.index};
    struct bundle *b = NULL;
    struct err why;
    if (!bundle_open(o->bundle, &b, e) || !model_bundle_about(b, out, e)) {
        bundle_close(b);
        return false;
    }
    bool fits = model_bundle_fits(&mo, &why);
    json_object_set_new(*out, "runs_here", json_boolean(fits));
    if (!fits) doctor_advise(advice, "the bundle does not run here", why.msg);
    bundle_close(b);
    return true;
}

/* ---- As a table ---------------------------------------------------------------------------------------------------
 */

static void print_value(const char *key, const json_t *value) {
    size_t n = strlen(key);
    char size[32];
    if (json_is_string(value))
        print_safe(stdout, json_string_value(value), json_string_length(value));
    else if (json_is_integer(value) && n > 6 && strcmp(key + n - 6, "_bytes") == 0)
        fputs(format_bytes((uint64_t)json_integer_value(value), size), stdout);
    else if (json_is_integer(value))
        printf("%lld", (long long)json_integer_value(value));
    else if (json_is_boolean(value))
        fputs(json_is_true(value) ? "yes" : "no", stdout);
    else if (json_is_real(value))
        printf("%g", json_real_value(value));
    else if (json_is_null(value))
        fputs("none", stdout);
    else if (json_is_array(value)) {
        size_t i;
        json_t *item;
        json_array_foreach(value, i, item) {
            if (i) fputs(", ", stdout);
            print_value("", item);
        }
        if (json_array_size(value) == 0) fputs("none", stdout);
    } else if (json_is_object(value)) {
        const char *inner;
        json_t *item;
        bool first = true;
        json_object_foreach((json_t *)value, inner, item) {
            if (!first) fputc(' ', stdout);
            first = false;
            print_value(inner, item);
        }
    }
}

/* "available_bytes" as "available". */
static const char *label(const char *key, char out[32]) {
    size_t n = strlen(key);
    snprintf(out, 32, "%.*s", (int)(n > 6 && strcmp(key + n - 6, "_bytes") == 0 ? n - 6 : n), key);
    for (char *c = out; *c; c++)
        if (*c == '_') *c = ' ';
    return out;
}

static void print_section(const char *title, const json_t *section) {
    char text[32];
    printf("%s%s%s\n", bold(stdout), label(title, text), plain(stdout));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)section, key, value) {
        printf("  %-22s ", label(key, text));
        print_value(key, value);
        putchar('\n');
    }
}

static void print_report(const json_t *report) {
    const char *title;
    json_t *section;
    json_object_foreach((json_t *)report, title, section) {
        if (json_is_object(section)) print_section(title, section);
    }
    const json_t *advice = json_object_get(report, "advice");
    if (json_array_size(advice) == 0) {
        printf("%snothing is missing%s\n", green(stdout), plain(stdout));
        return;
    }
    printf("%sadvice%s\n", bold(stdout), plain(stdout));
    size_t i;
    json_t *item;
    json_array_foreach(advice, i, item) {
        printf("  %s%s%s\n      ", yellow(stdout), json_string_value(json_object_get(item, "problem")), plain(stdout));
        puts(json_string_value(json_object_get(item, "fix")));
    }
}

static bool run(const void *opts, struct err *e) {
    const struct doctor_options *o = opts;
    struct keys keys = {.bf16 = true};
    json_t *advice = json_array(), *machine = doctor_machine(advice), *cuda = doctor_cuda(advice), *file = NULL,
           *made = NULL;
    if ((o->engine.model && !model(o->engine.model, machine, advice, &file, &keys, e)) ||
        (o->engine.bundle && !bundle(&o->engine, advice, &made, e))) {
        json_decref(file);
        json_decref(advice);
        json_decref(machine);
        json_decref(cuda);
        return false;
    }
    json_t *report = json_object();
    json_object_set_new(report, "machine", machine);
    json_object_set_new(report, "compiler", compiler(advice));
    json_object_set_new(report, "cache", doctor_cache(advice));
    json_object_set_new(report, "will_use", choices(&o->engine, cuda, &keys));
    json_object_set_new(report, "cuda", cuda);
    if (file) json_object_set_new(report, "model", file);
    if (made) json_object_set_new(report, "bundle", made);
    json_object_set_new(report, "advice", advice);
    if (o->report.json) return json_print(report, e);
    print_report(report);
    json_decref(report);
    return true;
}

static const struct option_group groups[] = {
    {"model and machine", engine_options, offsetof(struct doctor_options, engine)},
    {"output", report_options, offsetof(struct doctor_options, report)},
    {0},
};

const struct command command_doctor = {
    .name = "doctor",
    .summary = "says what this machine has, what kgen will use, and what is missing",
    .usage = "[-m MODEL] [--bundle DIR]",
    .details = "Takes the options that `run` takes, and the same settings, and shows what they come to here.",
    .examples = "kgen doctor\nkgen doctor -m model.gguf --device cuda",
    .groups = groups,
    .options_bytes = sizeof(struct doctor_options),
    .run = run,
};
