#include "cli/describe.h"

#include <string.h>

static const char *const device_names[] = {"cpu", "cuda", NULL};

void describe_choices(const struct option *o, const char *separator, struct buf *out) {
    const char *const *choices = o->type == OPTION_DEVICE ? device_names : o->choices;
    for (size_t i = 0; choices[i]; i++) buf_printf(out, "%s%s", i ? separator : "", choices[i]);
}

enum value_kind describe_value(const struct option *o) {
    if (o->type == OPTION_FLAG) return VALUE_NONE;
    if (o->type == OPTION_ENUM || o->type == OPTION_DEVICE) return VALUE_CHOICE;
    if (o->value && (strcmp(o->value, "FILE") == 0 || strcmp(o->value, "MODEL") == 0)) return VALUE_FILE;
    if (o->value && strcmp(o->value, "DIR") == 0) return VALUE_DIRECTORY;
    return VALUE_OTHER;
}

void describe_syntax(const struct option *o, struct buf *out) {
    if (o->letter)
        buf_printf(out, "-%c, ", o->letter);
    else
        buf_puts(out, "    ");
    buf_printf(out, "--%s", o->name);
    if (o->type == OPTION_FLAG) return;
    buf_puts(out, " ");
    if (o->value)
        buf_puts(out, o->value);
    else
        describe_choices(o, "|", out);
}

void describe_limits(const struct option *o, struct buf *out) {
    struct buf text = {0};
    const char *unit = o->unit ? o->unit : "";
    if (o->type == OPTION_INT && o->ints.max < INT64_C(1) << 31)
        buf_printf(&text, "%lld…%lld%s%s", (long long)o->ints.min, (long long)o->ints.max, *unit ? " " : "", unit);
    if (o->type == OPTION_FLOAT) buf_printf(&text, "%g…%g%s%s", o->floats.min, o->floats.max, *unit ? " " : "", unit);
    if (o->fallback) buf_printf(&text, "%sdefault %s", text.len ? "; " : "", o->fallback);
    if (o->setting) {
        char variable[64];
        setting_variable(o->name, variable);
        buf_printf(&text, "%s%s", text.len ? "; " : "", variable);
    }
    if (text.len) buf_printf(out, " (%s)", text.data);
    buf_free(&text);
}

static void add_setting(struct described_setting *list, size_t *n, struct described_setting s) {
    for (size_t i = 0; i < *n; i++)
        if (strcmp(list[i].variable, s.variable) == 0) return;
    list[(*n)++] = s;
}

size_t describe_settings(struct described_setting **out) {
    size_t cap = 0, n = 0;
    for (const struct command *const *c = commands; *c; c++)
        for (const struct option_group *g = (*c)->groups; g->options; g++)
            for (const struct option *o = g->options; o->name; o++) cap++;
    for (const struct variable *v = variables; v->name; v++) cap++;
    *out = mem_new((cap + 1) * sizeof **out);

    for (const struct command *const *c = commands; *c; c++)
        for (const struct option_group *g = (*c)->groups; g->options; g++)
            for (const struct option *o = g->options; o->name; o++) {
                struct described_setting s = {.help = o->help};
                if (!o->setting) continue;
                setting_variable(o->name, s.variable);
                snprintf(s.key, sizeof s.key, "%s", o->name);
                add_setting(*out, &n, s);
            }
    for (const struct variable *v = variables; v->name; v++) {
        struct described_setting s = {.help = v->help};
        snprintf(s.variable, sizeof s.variable, "%s", v->name);
        if (v->config) setting_key(v->name, s.key);
        add_setting(*out, &n, s);
    }
    return n;
}
