/* kgen help: describes a command; writes man pages and the documentation's tables. */
#include "cli/cli.h"

#include <stddef.h>

struct help_options {
    struct words names;
    bool man, markdown, list;
};

static const struct option options[] = {
    {.name = "man", .type = OPTION_FLAG, .help = "write a manual page", .offset = offsetof(struct help_options, man)},
    {.name = "markdown",
     .type = OPTION_FLAG,
     .help = "write the tables of all commands and settings (docs/commands.md)",
     .offset = offsetof(struct help_options, markdown)},
    {.name = "names",
     .type = OPTION_FLAG,
     .help = "list the names of the commands",
     .offset = offsetof(struct help_options, list)},
    {0},
};

static const struct option_group groups[] = {{"output", options, 0}, {0}};

static bool run(const void *opts, struct err *e) {
    const struct help_options *o = opts;
    const struct command *c = o->names.n ? command_find(o->names.items[0], e) : NULL;
    if (o->names.n && !c) return false;
    if (o->markdown)
        help_markdown(stdout);
    else if (o->man)
        man_page(c, stdout);
    else if (o->list)
        for (const struct command *const *at = commands; *at; at++) puts((*at)->name);
    else if (c)
        help_command(c, stdout);
    else
        help_overview(stdout);
    return true;
}

const struct command command_help = {
    .name = "help",
    .summary = "describes a command",
    .usage = "[COMMAND] [--man]",
    .examples = "kgen help tokenize\nkgen help --man tokenize | man -l -",
    .groups = groups,
    .options_bytes = sizeof(struct help_options),
    .words_name = "COMMAND",
    .words_max = 1,
    .words_offset = offsetof(struct help_options, names),
    .run = run,
};
