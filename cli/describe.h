/* describe: options and settings in words, for the writers of help, man pages and completion. */
#ifndef KGEN_DESCRIBE_H
#define KGEN_DESCRIBE_H

#include "cli/cli.h"

/* "-t, --threads N", "    --act q8|f32": appended to out. */
void describe_syntax(const struct option *o, struct buf *out);

/* " (1…1024 threads; default 4; KGEN_THREADS)", or nothing: appended to out. */
void describe_limits(const struct option *o, struct buf *out);

/* What a shell should offer for the option's value. */
enum value_kind { VALUE_NONE, VALUE_FILE, VALUE_DIRECTORY, VALUE_CHOICE, VALUE_OTHER };
enum value_kind describe_value(const struct option *o);

/* The choices of an OPTION_ENUM or OPTION_DEVICE with `separator` between them. */
void describe_choices(const struct option *o, const char *separator, struct buf *out);

struct described_setting {
    char variable[64], key[64]; /* key "": not in the config file */
    const char *help;
};

/* Every setting of every command once, then the other variables. Returns how many; *out is the caller's to mem_free. */
size_t describe_settings(struct described_setting **out);

#endif
