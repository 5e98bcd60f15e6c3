/* kgen completion: a shell's completion rules for every command and option, from the tables.
 *
 * Install: `kgen completion bash > ~/.local/share/bash-completion/completions/kgen`, zsh: `_kgen` in a directory of
 * fpath, fish: `~/.config/fish/completions/kgen.fish`. `make install` does all three.
 */
#include "cli/describe.h"

#include <stddef.h>
#include <string.h>

/* ---- bash: one case a command; options are offered after '-', values after the options that take them -------------
 */

static void bash_pattern(const struct option *o, FILE *f) {
    if (o->letter) fprintf(f, "-%c|", o->letter);
    fprintf(f, "--%s", o->name);
}

static void bash_command(const struct command *c, FILE *f) {
    struct buf words = {0}, choices = {0};
    fprintf(f, "    %s)\n        case $prev in\n", c->name);
    for (const struct option_group *g = c->groups; g->options; g++)
        for (const struct option *o = g->options; o->name; o++) {
            buf_printf(&words, " --%s", o->name);
            enum value_kind kind = describe_value(o);
            if (kind == VALUE_NONE) continue;
            fputs("        ", f);
            bash_pattern(o, f);
            choices.len = 0;
            if (kind == VALUE_CHOICE) describe_choices(o, " ", &choices);
            if (kind == VALUE_CHOICE)
                fprintf(f, ") COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", choices.data);
            else if (kind == VALUE_FILE)
                fputs(") COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", f);
            else if (kind == VALUE_DIRECTORY)
                fputs(") COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n", f);
            else
                fputs(") return ;;\n", f);
        }
    fprintf(f, "        esac\n        words='%s --help' ;;\n", words.data ? words.data + 1 : "");
    buf_free(&words);
    buf_free(&choices);
}

static void bash_names(FILE *f) {
    for (const struct command *const *c = commands; *c; c++) fprintf(f, "%s%s", c == commands ? "" : " ", (*c)->name);
}

static void bash(FILE *f) {
    fputs("# bash completion for kgen, made by `kgen completion bash`\n"
          "_kgen() {\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=\n"
          "    if [ \"$COMP_CWORD\" = 1 ]; then\n        COMPREPLY=($(compgen -W '",
          f);
    bash_names(f);
    fputs(" --help --version' -- \"$cur\"))\n        return\n    fi\n    case ${COMP_WORDS[1]} in\n", f);
    for (const struct command *const *c = commands; *c; c++) bash_command(*c, f);
    fputs("    esac\n"
          "    case ${COMP_WORDS[1]} in\n    help) words=\"$words ",
          f);
    bash_names(f);
    fputs("\" ;;\n    completion) words=\"$words bash zsh fish\" ;;\n    esac\n"
          "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "    [[ $cur == -* || ${#COMPREPLY[@]} != 0 ]] || COMPREPLY=($(compgen -f -- \"$cur\"))\n"
          "}\ncomplete -o filenames -F _kgen kgen\n",
          f);
}

/* ---- zsh: an _arguments call a command ----------------------------------------------------------------------------
 */

/* Inside single quotes; the specification's own marks are escaped. */
static void zsh_text(const char *text, FILE *f) {
    for (; *text; text++) {
        if (strchr("[]:\\", *text)) fputc('\\', f);
        if (*text == '\'')
            fputs("'\\''", f);
        else
            fputc(*text, f);
    }
}

static void zsh_option(const struct option *o, FILE *f) {
    enum value_kind kind = describe_value(o);
    bool many = o->type == OPTION_LIST, value = kind != VALUE_NONE;
    fputs(" \\\n            ", f);
    if (o->letter && !many) fprintf(f, "'(-%c --%s)'", o->letter, o->name);
    if (o->letter)
        fprintf(f, "{%s-%c%s,%s--%s%s}'[", many ? "\\*" : "", o->letter, value ? "+" : "", many ? "\\*" : "", o->name,
                value ? "=" : "");
    else
        fprintf(f, "'%s--%s%s[", many ? "*" : "", o->name, value ? "=" : "");
    zsh_text(o->help, f);
    fputs("]", f);
    if (value) fputs(":value:", f);
    if (kind == VALUE_FILE) fputs("_files", f);
    if (kind == VALUE_DIRECTORY) fputs("_files -/", f);
    if (kind == VALUE_CHOICE) {
        struct buf choices = {0};
        describe_choices(o, " ", &choices);
        fprintf(f, "(%s)", choices.data);
        buf_free(&choices);
    }
    fputc('\'', f);
}

static void zsh(FILE *f) {
    fputs("#compdef kgen\n# zsh completion for kgen, made by `kgen completion zsh`\n"
          "_kgen() {\n    local -a names\n    names=(\n",
          f);
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(f, "        '%s:", (*c)->name);
        zsh_text((*c)->summary, f);
        fputs("'\n", f);
    }
    fputs("    )\n    if (( CURRENT == 2 )); then\n        _describe command names\n        return\n    fi\n"
          "    local name=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $name in\n",
          f);
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(f, "    %s)\n        _arguments -s", (*c)->name);
        for (const struct option_group *g = (*c)->groups; g->options; g++)
            for (const struct option *o = g->options; o->name; o++) zsh_option(o, f);
        fputs(" \\\n            '--help[describe the command]'", f);
        if (strcmp((*c)->name, "help") == 0)
            fputs(" \\\n            '*::command:{_describe command names}'", f);
        else if (strcmp((*c)->name, "completion") == 0)
            fputs(" \\\n            '*:shell:(bash zsh fish)'", f);
        else if ((*c)->words_name)
            fputs(" \\\n            '*:word:_files'", f);
        fputs(" ;;\n", f);
    }
    fputs("    esac\n}\n_kgen \"$@\"\n", f);
}

/* ---- fish: a `complete` line an option ----------------------------------------------------------------------------
 */

static void fish_text(const char *text, FILE *f) {
    fputc('\'', f);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\') fputc('\\', f);
        fputc(*text, f);
    }
    fputc('\'', f);
}

static void fish_option(const struct command *c, const struct option *o, FILE *f) {
    enum value_kind kind = describe_value(o);
    fprintf(f, "complete -c kgen -n '__fish_seen_subcommand_from %s' -l %s", c->name, o->name);
    if (o->letter) fprintf(f, " -s %c", o->letter);
    if (kind == VALUE_FILE)
        fputs(" -r -F", f);
    else if (kind == VALUE_DIRECTORY)
        fputs(" -x -a '(__fish_complete_directories)'", f);
    else if (kind == VALUE_CHOICE) {
        struct buf choices = {0};
        describe_choices(o, " ", &choices);
        fprintf(f, " -x -a '%s'", choices.data);
        buf_free(&choices);
    } else if (kind == VALUE_OTHER)
        fputs(" -x", f);
    fputs(" -d ", f);
    fish_text(o->help, f);
    fputc('\n', f);
}

static void fish(FILE *f) {
    fputs("# fish completion for kgen, made by `kgen completion fish`\n", f);
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(f, "complete -c kgen -n __fish_use_subcommand -f -a %s -d ", (*c)->name);
        fish_text((*c)->summary, f);
        fputc('\n', f);
        for (const struct option_group *g = (*c)->groups; g->options; g++)
            for (const struct option *o = g->options; o->name; o++) fish_option(*c, o, f);
    }
    fputs("complete -c kgen -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n"
          "complete -c kgen -n '__fish_seen_subcommand_from help' -f -a '",
          f);
    bash_names(f);
    fputs("'\n", f);
}

/* ---- The command --------------------------------------------------------------------------------------------------
 */

struct completion_options {
    struct words shell;
};

static bool run(const void *opts, struct err *e) {
    static const struct {
        const char *name;
        void (*write)(FILE *f);
    } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    const char *name = ((const struct completion_options *)opts)->shell.items[0];
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++) {
        if (strcmp(shells[i].name, name) != 0) continue;
        shells[i].write(stdout);
        return true;
    }
    return err_set(e, ERR_USAGE, "%.64s: expected one of bash, zsh, fish", name);
}

static const struct option_group groups[] = {{0}};

const struct command command_completion = {
    .name = "completion",
    .summary = "prints a shell's completion rules",
    .usage = "bash|zsh|fish",
    .details = "`make install` puts them where the shells look; to try them at once, source the bash rules.",
    .examples = "source <(kgen completion bash)\nkgen completion fish > ~/.config/fish/completions/kgen.fish",
    .groups = groups,
    .options_bytes = sizeof(struct completion_options),
    .words_name = "SHELL",
    .words_min = 1,
    .words_max = 1,
    .words_offset = offsetof(struct completion_options, shell),
    .run = run,
};
