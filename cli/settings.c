/* settings: what is set outside the command line: the environment (KGEN_THREADS) and the config file (threads = 4).
 *
 * A setting is an option marked so in a command's table, or a row of `variables` below. One file serves all commands,
 * so a key that no command knows is refused and one that this command lacks is passed over.
 */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const struct variable variables[] = {
    {"KGEN_CACHE_DIR", "where compiled kernels, packed weights and tuning results are kept ($XDG_CACHE_HOME/kgen)", true},
    {"KGEN_LUA", "a directory with kernels.lua, dsl/ or models/ to use instead of those built in", false},
    {"KGEN_DEPENDENT_LAUNCH", "0: kernels on a GPU do not start before those before them end, to measure what that is worth", false},
    {"NO_COLOR", "any value: no colour, even on a terminal", false},
    {"KGEN_PTXVM", "the PTX machine (build/ptxvm/libcuda.so.1): fast, check or leaks", false},
    {"KGEN_PTXVM_REPORT", "a file the PTX machine writes its counters to", false},
    {"KGEN_PTXVM_LAUNCHES", "a file the PTX machine writes a line of counters to for each launch", false},
    {"KGEN_PTXVM_ARCH", "the architecture the PTX machine shows, such as 90 (docs/ptxvm.md)", false},
    {"KGEN_PTXVM_MEMORY", "the device memory the PTX machine shows: bytes, or a number with K, M or G", false},
    {0},
};

void setting_variable(const char *name, char out[64]) {
    size_t n = (size_t)snprintf(out, 64, "KGEN_%s", name);
    if (n >= 64) bug("the setting %s has too long a name", name);
    for (char *c = out; *c; c++) *c = (char)(*c == '-' ? '_' : toupper((unsigned char)*c));
}

void setting_key(const char *variable, char out[64]) {
    size_t n = (size_t)snprintf(out, 64, "%s", variable + strlen("KGEN_"));
    if (n >= 64) bug("%s has too long a name", variable);
    for (char *c = out; *c; c++) *c = (char)(*c == '_' ? '-' : tolower((unsigned char)*c));
}

/* Every key the file may hold, in the arena. */
static const char **known_keys(struct arena *a, size_t *n) {
    size_t cap = 0;
    for (int pass = 0;; pass++) {
        const char **keys = pass ? arena_new(a, (cap + 1) * sizeof *keys) : NULL;
        *n = 0;
        for (const struct command *const *c = commands; *c; c++)
            for (const struct option_group *g = (*c)->groups; g->options; g++)
                for (const struct option *o = g->options; o->name; o++)
                    if (o->setting) {
                        if (keys) keys[*n] = o->name;
                        ++*n;
                    }
        for (const struct variable *v = variables; v->name; v++) {
            if (!v->config) continue;
            char key[64];
            setting_key(v->name, key);
            if (keys) keys[*n] = arena_strdup(a, key);
            ++*n;
        }
        if (keys) return keys;
        cap = *n;
    }
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) end--;
    *end = 0;
    return s;
}

static bool read_line(struct settings *s, char *line, int number, const char **keys, size_t n_keys, struct err *e) {
    line = trim(line);
    if (!*line || *line == '#') return true;
    char *equals = strchr(line, '=');
    if (!equals) return err_set(e, ERR_USAGE, "%s:%d: expected `key = value`, found \"%.80s\"", s->path, number, line);
    *equals = 0;
    char *name = trim(line);
    for (char *c = name; *c; c++)
        if (*c == '_') *c = '-';
    bool known = false;
    for (size_t i = 0; i < n_keys; i++) known |= strcmp(keys[i], name) == 0;
    if (!known) {
        const char *meant = nearest(name, keys, n_keys);
        return err_set(e, ERR_USAGE, "%s:%d: unknown key %.80s%s%s%s", s->path, number, name,
                       meant ? ": did you mean " : "", meant ? meant : "", meant ? "?" : "");
    }
    s->items[s->n++] = (struct setting){name, trim(equals + 1), number};
    return true;
}

bool settings_read(struct settings *s, struct err *e) {
    memset(s, 0, sizeof *s);
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    struct buf path = {0}, text = {0};
    /* The base directory specification: a relative XDG path is to be ignored. */
    if (xdg && xdg[0] == '/')
        buf_printf(&path, "%s/kgen/config", xdg);
    else if (home && home[0])
        buf_printf(&path, "%s/.config/kgen/config", home);
    else
        return true;
    s->path = arena_strdup(&s->arena, path.data);
    buf_free(&path);

    struct stat st;
    if (stat(s->path, &st) != 0 && (errno == ENOENT || errno == ENOTDIR || errno == EACCES)) return true;
    if (!file_read(s->path, &text, e)) return false;
    char *at = arena_strndup(&s->arena, text.data ? text.data : "", text.len);
    buf_free(&text);

    size_t lines = 1, n_keys;
    for (const char *c = at; *c; c++) lines += *c == '\n';
    s->items = arena_new(&s->arena, lines * sizeof *s->items);
    const char **keys = known_keys(&s->arena, &n_keys);
    for (int number = 1; at; number++) {
        char *end = strchr(at, '\n');
        if (end) *end = 0;
        if (!read_line(s, at, number, keys, n_keys, e)) return false;
        at = end ? end + 1 : NULL;
    }
    return true;
}

void settings_free(struct settings *s) {
    arena_free(&s->arena);
}

const char *setting_value(const struct settings *s, const char *name, char where[512]) {
    char variable[64];
    setting_variable(name, variable);
    const char *value = getenv(variable);
    if (value && *value) {
        snprintf(where, 512, "%s=%s", variable, value);
        return value;
    }
    for (size_t i = s->n; i-- > 0;) { /* the last line of a key wins */
        if (strcmp(s->items[i].name, name) != 0) continue;
        snprintf(where, 512, "%s:%d: %s = %s", s->path, s->items[i].line, name, s->items[i].value);
        return s->items[i].value;
    }
    return NULL;
}
