/* man: manual pages (man(7) macros) from the commands' tables. */
#include "cli/describe.h"

#include <ctype.h>
#include <string.h>

/* Text as roff: backslashes and hyphens are special everywhere, dots and quotes at the start of a line. */
static void roff(const char *text, FILE *f) {
    if (*text == '.' || *text == '\'') fputs("\\&", f);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", f);
        else if (*text == '-')
            fputs("\\-", f);
        else
            fputc(*text, f);
        if (*text == '\n' && (text[1] == '.' || text[1] == '\'')) fputs("\\&", f);
    }
    fputc('\n', f);
}

static void man_options(const struct command *c, FILE *f) {
    for (const struct option_group *g = c->groups; g->options; g++) {
        fprintf(f, ".SS \"%s\"\n", g->title);
        for (const struct option *o = g->options; o->name; o++) {
            struct buf text = {0};
            describe_syntax(o, &text);
            fputs(".TP\n.B ", f);
            roff(text.data + strspn(text.data, " "), f);
            text.len = 0;
            buf_puts(&text, o->help);
            describe_limits(o, &text);
            roff(text.data, f);
            buf_free(&text);
        }
    }
}

static void man_examples(const char *examples, FILE *f) {
    fputs(".SH EXAMPLES\n.EX\n", f);
    roff(examples, f);
    fputs(".EE\n", f);
}

static void man_command(const struct command *c, FILE *f) {
    fprintf(f, ".SH NAME\nkgen\\-%s \\- ", c->name);
    roff(c->summary, f);
    fprintf(f, ".SH SYNOPSIS\n.B kgen %s\n", c->name);
    roff(c->usage, f);
    if (c->details) {
        fputs(".SH DESCRIPTION\n", f);
        for (const char *at = c->details; at;) {
            const char *end = strstr(at, "\n\n");
            struct buf paragraph = {0};
            buf_add(&paragraph, at, end ? (size_t)(end - at) : strlen(at));
            fputs(".PP\n", f);
            roff(paragraph.data, f);
            buf_free(&paragraph);
            at = end ? end + 2 : NULL;
        }
    }
    if (c->groups->options) {
        fputs(".SH OPTIONS\n", f);
        man_options(c, f);
    }
    if (c->examples) man_examples(c->examples, f);
}

static void man_kgen(FILE *f) {
    fputs(".SH NAME\nkgen \\- runs language models on kernels it compiles itself\n"
          ".SH SYNOPSIS\n.B kgen\n.I COMMAND\n[OPTION...]\n.SH COMMANDS\n",
          f);
    for (const struct command *const *c = commands; *c; c++) {
        fprintf(f, ".TP\n.BR kgen\\-%s (1)\n", (*c)->name);
        roff((*c)->summary, f);
    }
    fputs(".SH ENVIRONMENT\n"
          "A flag wins over the environment, and that over the config file.\n",
          f);
    struct described_setting *settings;
    size_t n = describe_settings(&settings);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, ".TP\n.B %s\n", settings[i].variable);
        roff(settings[i].help, f);
    }
    mem_free(settings);
    fputs(".SH FILES\n.TP\n.I $XDG_CONFIG_HOME/kgen/config\n"
          "Settings, one a line: key = value; # begins a comment.\n"
          ".SH EXIT STATUS\n0: done. 1: failed; one line says what, where, and what to try. 2: usage.\n",
          f);
}

void man_page(const struct command *c, FILE *f) {
    fputs(".TH KGEN", f);
    if (c) {
        fputs("\\-", f);
        for (const char *at = c->name; *at; at++) fputc(toupper((unsigned char)*at), f);
    }
    fprintf(f, " 1 \"\" \"kgen %s\" \"kgen manual\"\n", KGEN_VERSION);
    if (c)
        man_command(c, f);
    else
        man_kgen(f);
}
