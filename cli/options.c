/* options: argv, the environment and the config file to a command's struct, by its tables of options.
 *
 * Precedence: flag, then environment, then config file, then the table's fallback. Every value, wherever it comes from,
 * passes the same checks, and an error says where it stood.
 */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One option of a command: the row of its table and the field it fills. */
struct slot {
    const struct option *option;
    void *field;
    bool given; /* on the command line */
};

struct slots {
    struct slot *items;
    size_t n;
};

static struct slots slots_new(const struct command *c, struct parsed *p) {
    struct slots s = {0};
    for (const struct option_group *g = c->groups; g->options; g++)
        for (const struct option *o = g->options; o->name; o++) s.n++;
    s.items = arena_new(&p->arena, (s.n + 1) * sizeof *s.items);
    size_t i = 0;
    for (const struct option_group *g = c->groups; g->options; g++)
        for (const struct option *o = g->options; o->name; o++)
            s.items[i++] = (struct slot){o, (char *)p->options + g->offset + o->offset, false};
    return s;
}

static void words_add(struct words *w, const char *text, struct arena *a) {
    const char **items = arena_new(a, (w->n + 1) * sizeof *items);
    if (w->n) memcpy(items, w->items, w->n * sizeof *items);
    items[w->n++] = text;
    w->items = items;
}

/* ---- Values ----------------------------------------------------------------------------------------------------- */

static bool parse_int(const struct option *o, const char *where, const char *text, int64_t *out, struct err *e) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)*text) || errno || v < o->ints.min || v > o->ints.max)
        return err_set(e, ERR_USAGE, "%s: expected %lld…%lld%s%s", where, (long long)o->ints.min,
                       (long long)o->ints.max, o->unit ? " " : "", o->unit ? o->unit : "");
    *out = v;
    return true;
}

static bool parse_float(const struct option *o, const char *where, const char *text, double *out, struct err *e) {
    char *end;
    double v = strtod(text, &end);
    /* Written so that NaN fails it. */
    bool inside = v >= o->floats.min && v <= o->floats.max;
    if (end == text || *end || isspace((unsigned char)*text) || !inside)
        return err_set(e, ERR_USAGE, "%s: expected %g…%g%s%s", where, o->floats.min, o->floats.max, o->unit ? " " : "",
                       o->unit ? o->unit : "");
    *out = v;
    return true;
}

static bool parse_enum(const struct option *o, const char *where, const char *text, int *out, struct err *e) {
    for (int i = 0; o->choices[i]; i++)
        if (strcmp(o->choices[i], text) == 0) {
            *out = i;
            return true;
        }
    struct buf names = {0};
    for (int i = 0; o->choices[i]; i++) buf_printf(&names, "%s%s", i ? ", " : "", o->choices[i]);
    err_set(e, ERR_USAGE, "%s: expected one of %s", where, names.data);
    buf_free(&names);
    return false;
}

static bool parse_device(const char *where, const char *text, struct device_choice *out, struct err *e) {
    *out = (struct device_choice){DEVICE_CPU, 0};
    if (strcmp(text, "cpu") == 0) return true;
    out->kind = DEVICE_CUDA;
    if (strcmp(text, "cuda") == 0) return true;
    size_t digits = strncmp(text, "cuda:", 5) == 0 ? strspn(text + 5, "0123456789") : 0;
    if (digits == 0 || digits > 3 || text[5 + digits])
        return err_set(e, ERR_USAGE, "%s: expected cpu, cuda or cuda:N (N 0…999)", where);
    out->index = atoi(text + 5);
    return true;
}

static bool slot_fill(struct slot *s, const char *where, const char *text, struct arena *a, struct err *e) {
    switch (s->option->type) {
    case OPTION_FLAG:
        break; /* set by its name alone, so only on the command line */
    case OPTION_STRING:
        *(const char **)s->field = text;
        return true;
    case OPTION_INT:
        return parse_int(s->option, where, text, s->field, e);
    case OPTION_FLOAT:
        return parse_float(s->option, where, text, s->field, e);
    case OPTION_ENUM:
        return parse_enum(s->option, where, text, s->field, e);
    case OPTION_LIST:
        words_add(s->field, text, a);
        return true;
    case OPTION_DEVICE:
        return parse_device(where, text, s->field, e);
    }
    bug("option --%s takes no value, but has a fallback or is a setting", s->option->name);
}

/* ---- Names ------------------------------------------------------------------------------------------------------ */

/* Edits (insert, delete, replace, swap neighbours) from a to b; words over 31 bytes count as far apart. */
static size_t distance(const char *a, const char *b) {
    enum { MAX = 31 };
    size_t na = strlen(a), nb = strlen(b), d[MAX + 1][MAX + 1];
    if (na > MAX || nb > MAX) return MAX;
    for (size_t i = 0; i <= na; i++) {
        for (size_t j = 0; j <= nb; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[na][nb];
}

const char *nearest(const char *word, const char *const *candidates, size_t n) {
    const char *best = NULL;
    size_t best_distance = strlen(word) / 3 + 2; /* as many slips as are still plausible, plus one */
    for (size_t i = 0; i < n; i++) {
        bool begins = strlen(word) >= 3 && strncmp(word, candidates[i], strlen(word)) == 0;
        size_t far = begins ? 1 : distance(word, candidates[i]);
        if (far < best_distance && far < strlen(candidates[i])) best = candidates[i], best_distance = far;
    }
    return best;
}

static struct slot *find_long(const struct slots *s, const char *name, size_t n) {
    for (size_t i = 0; i < s->n; i++)
        if (strlen(s->items[i].option->name) == n && memcmp(s->items[i].option->name, name, n) == 0)
            return &s->items[i];
    return NULL;
}

static struct slot *find_letter(const struct slots *s, char letter) {
    for (size_t i = 0; i < s->n; i++)
        if (s->items[i].option->letter && s->items[i].option->letter == letter) return &s->items[i];
    return NULL;
}

static bool unknown_long(const struct slots *s, const char *arg, size_t n, struct parsed *p, struct err *e) {
    char *name = arena_strndup(&p->arena, arg, n);
    const char **names = arena_new(&p->arena, (s->n + 1) * sizeof *names);
    for (size_t i = 0; i < s->n; i++) names[i] = s->items[i].option->name;
    names[s->n] = "help";
    const char *meant = nearest(name, names, s->n + 1);
    if (meant) return err_set(e, ERR_USAGE, "unknown option --%s: did you mean --%s?", name, meant);
    return err_set(e, ERR_USAGE, "unknown option --%s", name);
}

/* ---- The command line ------------------------------------------------------------------------------------------- */

struct cursor {
    int argc, next;
    char **argv;
};

/* Fills one option from the command line. `shown` is how the user wrote it ("-t", "--threads"). */
static bool take(struct slot *s, const char *shown, const char *value, struct cursor *at, struct parsed *p,
                 struct err *e) {
    s->given = true;
    if (s->option->type == OPTION_FLAG) {
        if (value) return err_set(e, ERR_USAGE, "%s takes no value", shown);
        return *(bool *)s->field = true;
    }
    if (!value) {
        if (at->next == at->argc) return err_set(e, ERR_USAGE, "%s: expected %s", shown, s->option->value);
        value = at->argv[at->next++];
    }
    struct buf where = {0};
    buf_printf(&where, "%s %s", shown, value);
    bool ok = slot_fill(s, where.data, value, &p->arena, e);
    buf_free(&where);
    return ok;
}

static bool take_long(const struct slots *slots, const char *arg, struct cursor *at, struct parsed *p, struct err *e) {
    size_t n = strcspn(arg + 2, "=");
    struct slot *s = find_long(slots, arg + 2, n);
    if (s) return take(s, arena_strndup(&p->arena, arg, n + 2), arg[n + 2] ? arg + n + 3 : NULL, at, p, e);
    if (strcmp(arg, "--help") == 0) return p->help = true;
    return unknown_long(slots, arg + 2, n, p, e);
}

/* "-t4", "-t 4", "-ij" (flags in one word). "-threads" is a slip for "--threads", not "-t hreads". */
static bool take_letters(const struct slots *slots, const char *arg, struct cursor *at, struct parsed *p,
                         struct err *e) {
    size_t n = strcspn(arg + 1, "=");
    if (n > 2 && find_long(slots, arg + 1, n))
        return err_set(e, ERR_USAGE, "unknown option %s: did you mean -%s?", arg, arg);
    for (const char *c = arg + 1; *c && !p->help; c++) {
        char shown[3] = {'-', *c, 0};
        struct slot *s = find_letter(slots, *c);
        if (!s && *c == 'h') return p->help = true;
        if (!s) return err_set(e, ERR_USAGE, "unknown option %s%s%s", shown, arg[2] ? " in " : "", arg[2] ? arg : "");
        bool flag = s->option->type == OPTION_FLAG;
        if (!take(s, shown, flag || !c[1] ? NULL : c + 1, at, p, e)) return false;
        if (!flag) break;
    }
    return true;
}

static bool take_word(const struct command *c, const char *word, struct parsed *p, struct err *e) {
    if (!c->words_name) return err_set(e, ERR_USAGE, "unexpected \"%s\": this command takes only options", word);
    struct words *w = (void *)((char *)p->options + c->words_offset);
    if (w->n == c->words_max)
        return err_set(e, ERR_USAGE, "unexpected \"%s\": expected at most %zu %s", word, c->words_max, c->words_name);
    words_add(w, word, &p->arena);
    return true;
}

static bool from_settings(const struct slots *slots, const struct settings *settings, struct parsed *p, struct err *e) {
    for (size_t i = 0; i < slots->n; i++) {
        struct slot *s = &slots->items[i];
        char where[512];
        if (!s->option->setting || s->given) continue;
        const char *value = setting_value(settings, s->option->name, where);
        if (value && !slot_fill(s, where, value, &p->arena, e)) return false;
    }
    return true;
}

bool options_parse(const struct command *c, int argc, char **argv, const struct settings *settings, struct parsed *p,
                   struct err *e) {
    memset(p, 0, sizeof *p);
    p->options = arena_new(&p->arena, c->options_bytes);
    struct slots slots = slots_new(c, p);
    for (size_t i = 0; i < slots.n; i++) {
        const struct option *o = slots.items[i].option;
        if (o->type == OPTION_ENUM) *(int *)slots.items[i].field = -1;
        if (o->fallback && !slot_fill(&slots.items[i], o->name, o->fallback, &p->arena, e))
            bug("option --%s has a bad fallback: %s", o->name, e->msg);
    }

    struct cursor at = {argc, 0, argv};
    bool only_words = false;
    while (at.next < argc && !p->help) {
        const char *arg = argv[at.next++];
        bool ok;
        if (only_words || arg[0] != '-' || !arg[1])
            ok = take_word(c, arg, p, e);
        else if (strcmp(arg, "--") == 0)
            ok = only_words = true;
        else if (arg[1] == '-')
            ok = take_long(&slots, arg, &at, p, e);
        else
            ok = take_letters(&slots, arg, &at, p, e);
        if (!ok) return false;
    }
    if (p->help) return true;

    if (!from_settings(&slots, settings, p, e)) return false;
    const struct words *w = (void *)((char *)p->options + c->words_offset);
    if (c->words_name && w->n < c->words_min) return err_set(e, ERR_USAGE, "missing %s", c->words_name);
    return !c->check || c->check(p->options, e);
}

void parsed_free(struct parsed *p) {
    arena_free(&p->arena);
}

bool ids_parse(const char *where, const char *text, struct arena *a, int32_t **ids, size_t *n, struct err *e) {
    *ids = arena_new(a, (strlen(text) + 1) * sizeof **ids);
    *n = 0;
    for (const char *at = text;; at++) {
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end == at || !isdigit((unsigned char)*at) || errno || id > INT32_MAX || (*end && *end != ','))
            return err_set(e, ERR_USAGE, "%s %.64s: expected token ids separated by commas: 1,2,3", where, text);
        (*ids)[(*n)++] = (int32_t)id;
        if (!*end) return true;
        at = end;
    }
}
