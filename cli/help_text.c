/* help_text: the text of `kgen help`, of --help and of docs/commands.md, from the commands' tables. */
#include "cli/cli.h"
#include "cli/describe.h"

#include <string.h>

/* Columns of a text in UTF-8; every character we use is one wide. */
static size_t columns(const char *s, size_t n) {
    size_t w = 0;
    for (size_t i = 0; i < n; i++) w += (s[i] & 0xC0) != 0x80;
    return w;
}

/* Prints text wrapped at 100 columns, continuing at column `indent`; the cursor stands at column `at`. */
static void wrapped(FILE *f, const char *text, size_t at, size_t indent) {
    enum { WIDTH = 100 };
    bool first = true;
    while (*text) {
        size_t n = strcspn(text, " ");
        size_t w = columns(text, n);
        if (!first && at + 1 + w > WIDTH) {
            fprintf(f, "\n%*s", (int)indent, "");
            at = indent;
        } else if (!first) {
            fputc(' ', f);
            at++;
        }
        fwrite(text, 1, n, f);
        at += w;
        first = false;
        text += n + strspn(text + n, " ");
    }
    fputc('\n', f);
}

static void help_option(const struct option *o, FILE *f) {
    enum { COLUMN = 28 };
    struct buf line = {0};
    buf_printf(&line, "  ");
    describe_syntax(o, &line);
    size_t at = columns(line.data, line.len);
    fputs(line.data, f);
    if (at + 2 > COLUMN)
        fprintf(f, "\n%*s", COLUMN, "");
    else
        fprintf(f, "%*s", (int)(COLUMN - at), "");
    line.len = 0;
    buf_puts(&line, o->help);
    describe_limits(o, &line);
    wrapped(f, line.data, COLUMN, COLUMN);
    buf_free(&line);
}

void help_overview(FILE *f) {
    fprintf(f, "%skgen%s runs language models on kernels it compiles itself.\n\n", bold(f), plain(f));
    fprintf(f, "usage: kgen COMMAND [OPTION…]\n\n%scommands%s\n", bold(f), plain(f));
    for (const struct command *const *c = commands; *c; c++) fprintf(f, "  %-12s %s\n", (*c)->name, (*c)->summary);
    fprintf(f, "\n`kgen help COMMAND` describes one; `kgen doctor` says what this machine has and lacks.\n");
}

void help_command(const struct command *c, FILE *f) {
    fprintf(f, "%skgen %s%s: %s\n\n", bold(f), c->name, plain(f), c->summary);
    fprintf(f, "usage: kgen %s %s\n", c->name, c->usage);
    for (const char *at = c->details; at;) {
        const char *end = strstr(at, "\n\n");
        struct buf paragraph = {0};
        buf_add(&paragraph, at, end ? (size_t)(end - at) : strlen(at));
        fputc('\n', f);
        wrapped(f, paragraph.data, 0, 0);
        buf_free(&paragraph);
        at = end ? end + 2 : NULL;
    }
    for (const struct option_group *g = c->groups; g->options; g++) {
        fprintf(f, "\n%s%s%s\n", bold(f), g->title, plain(f));
        for (const struct option *o = g->options; o->name; o++) help_option(o, f);
    }
    if (c->examples) fprintf(f, "\n%sexamples%s\n", bold(f), plain(f));
    for (const char *at = c->examples; at && *at;) {
        size_t n = strcspn(at, "\n");
        fprintf(f, "  %.*s\n", (int)n, at);
        at += n + (at[n] == '\n');
    }
}

static void markdown_cell(const char *text, FILE *f) {
    for (; *text; text++) fprintf(f, *text == '|' ? "\\|" : "%c", *text);
}

static void markdown_options(const struct command *c, FILE *f) {
    fputs("| option | |\n|---|---|\n", f);
    for (const struct option_group *g = c->groups; g->options; g++)
        for (const struct option *o = g->options; o->name; o++) {
            struct buf syntax = {0}, text = {0};
            describe_syntax(o, &syntax);
            buf_puts(&text, o->help);
            describe_limits(o, &text);
            fputs("| `", f);
            markdown_cell(syntax.data + strspn(syntax.data, " "), f);
            fputs("` | ", f);
            markdown_cell(text.data, f);
            fputs(" |\n", f);
            buf_free(&syntax);
            buf_free(&text);
        }
}

void help_markdown(FILE *f) {
    fputs("<!-- Made by `make docs` from the tables in cli/: do not edit. -->\n# Commands\n\n"
          "| command | does |\n|---|---|\n",
          f);
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(f, "| [`kgen %s ", (*c)->name);
        markdown_cell((*c)->usage, f);
        fprintf(f, "`](#kgen-%s) | %s |\n", (*c)->name, (*c)->summary);
    }
    fputs("\nExit status: 0 done, 1 failed (one line says what, where, and what to try), 2 usage.\n", f);
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(f, "\n## kgen %s\n\n", (*c)->name);
        if ((*c)->details) fprintf(f, "%s\n\n", (*c)->details);
        if ((*c)->groups->options) markdown_options(*c, f);
        if ((*c)->examples) fprintf(f, "\n```sh\n%s\n```\n", (*c)->examples);
    }
    fputs("\n# Settings\n\n"
          "A flag wins over the environment, and that over the config file, `$XDG_CONFIG_HOME/kgen/config`\n"
          "(else `~/.config/kgen/config`): lines of `key = value`, with `#` before a comment.\n\n"
          "| variable | config key | |\n|---|---|---|\n",
          f);
    struct described_setting *settings;
    size_t n = describe_settings(&settings);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "| `%s` | ", settings[i].variable);
        fprintf(f, settings[i].key[0] ? "`%s` | " : "%s| ", settings[i].key);
        markdown_cell(settings[i].help, f);
        fputs(" |\n", f);
    }
    mem_free(settings);
}
