/* cli: the command line. One file per command; each is a `struct command`: a name, what it does, tables of options that
 * are parsed into the command's own plain struct, and a body. Help, man pages, shell completion and the tables of the
 * documentation are all made from those tables.
 *
 * To add a command: write cli/NAME.c with a `const struct command command_NAME`, declare it at the end of this file and
 * add a row to `commands` in cli/commands.c.
 *
 * Results go to standard output; progress, notes and errors to standard error. Only main.c prints errors and chooses
 * the exit status: 0 done, 1 failed, 2 usage (ERR_USAGE).
 */
#ifndef KGEN_CLI_H
#define KGEN_CLI_H

#include "codegen/base.h"

#include <jansson.h>
#include <stdio.h>

#define KGEN_VERSION "0.1.0"

/* ---- Options ---------------------------------------------------------------------------------------------------- */

/* The type of an option names the type of the field it is parsed into. */
enum option_type {
    OPTION_FLAG,   /* bool */
    OPTION_STRING, /* const char *; NULL: not given */
    OPTION_INT,    /* int64_t within ints.min … ints.max */
    OPTION_FLOAT,  /* double within floats.min … floats.max; never NaN */
    OPTION_ENUM,   /* int: the index in choices, or -1: not given and no fallback */
    OPTION_LIST,   /* struct words: every value given, in order */
    OPTION_DEVICE, /* struct device_choice */
};

struct words {
    const char **items; /* [n], borrowed from argv, the environment or the config file */
    size_t n;
};

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

struct device_choice {
    enum device_kind kind;
    int index; /* of a CUDA device */
};

struct option {
    const char *name; /* long form without dashes */
    char letter;      /* short form, or 0 */
    enum option_type type;
    const char *value; /* what help calls the value: "FILE"; NULL for a flag */
    const char *help;  /* one sentence, lower case, no full stop */
    size_t offset;     /* of the field within the group's struct */
    union {
        struct {
            int64_t min, max;
        } ints;
        struct {
            double min, max;
        } floats;
        const char *const *choices; /* OPTION_ENUM: NULL-terminated */
    };
    const char *unit;     /* for errors and help: "threads" */
    const char *fallback; /* the value when none is given, parsed as if it had been; NULL: the field stays zero */
    bool setting;         /* also read from KGEN_NAME and from the config file */
};

/* Options that are parsed into one struct, which lies at `offset` in the command's own. */
struct option_group {
    const char *title;            /* heading in help */
    const struct option *options; /* ends with a NULL name */
    size_t offset;
};

/* ---- Commands --------------------------------------------------------------------------------------------------- */

struct command {
    const char *name;
    const char *summary;  /* one line, lower case */
    const char *usage;    /* what follows `kgen NAME` */
    const char *details;  /* paragraphs, separated by an empty line; NULL: none */
    const char *examples; /* one command a line; NULL: none */

    const struct option_group *groups; /* ends with NULL options */
    size_t options_bytes;              /* of the struct everything is parsed into */

    /* Words that are not options go to the `struct words` at words_offset. */
    const char *words_name; /* "FILE"; NULL: the command takes none */
    size_t words_min, words_max;
    size_t words_offset;

    /* Checks what no single option can (two that exclude each other), reporting ERR_USAGE; NULL: nothing to check. */
    bool (*check)(const void *options, struct err *e);
    bool (*run)(const void *options, struct err *e);
};

extern const struct command *const commands[]; /* NULL-terminated, in the order help shows them */

/* NULL and ERR_USAGE, with the nearest name, when there is none of that name. */
const struct command *command_find(const char *name, struct err *e);

/* ---- options.c: argv to struct ---------------------------------------------------------------------------------- */

/* What parsing leaves behind; owned by main, freed after the command ran. */
struct parsed {
    void *options; /* the command's struct */
    bool help;     /* --help was given: nothing else was checked */
    struct arena arena;
};

struct settings;

/* Parses argv[0 … argc) (what follows the command's name) over the settings over the fallbacks. Any problem is
 * ERR_USAGE and names the option, its value, where it was set and what was expected. */
bool options_parse(const struct command *c, int argc, char **argv, const struct settings *s, struct parsed *p,
                   struct err *e);
void parsed_free(struct parsed *p);

/* "1,2,3" to ids in the arena; each 0 … 2^31-1. `where` names the option in errors. */
bool ids_parse(const char *where, const char *text, struct arena *a, int32_t **ids, size_t *n, struct err *e);

/* The candidate nearest to `word`, or NULL when none is near enough to be meant. */
const char *nearest(const char *word, const char *const *candidates, size_t n);

/* ---- settings.c: environment and config file -------------------------------------------------------------------- */

/* A variable of the environment that is no command's option. */
struct variable {
    const char *name, *help;
    bool config; /* may stand in the config file; main then puts it in the environment */
};
extern const struct variable variables[]; /* ends with a NULL name */

struct setting {
    const char *name; /* as in the file, with '-' */
    const char *value;
    int line;
};

struct settings {
    char *path; /* of the config file, whether it exists or not; NULL: neither XDG_CONFIG_HOME nor HOME is set */
    struct setting *items;
    size_t n;
    struct arena arena;
};

/* Reads $XDG_CONFIG_HOME/kgen/config (else ~/.config/kgen/config): lines of `key = value`, '#' comments. A file that is
 * not there is empty; an unknown key is ERR_USAGE. */
bool settings_read(struct settings *s, struct err *e);
void settings_free(struct settings *s);

/* "threads" to "KGEN_THREADS" and back, in out. */
void setting_variable(const char *name, char out[64]);
void setting_key(const char *variable, char out[64]);

/* The value of an option that is a setting: from the environment, else from the file, else NULL. where[] gets how to
 * name it in an error: "KGEN_THREADS=x" or "PATH:3: threads = x". */
const char *setting_value(const struct settings *s, const char *name, char where[512]);

/* ---- help_text.c, man.c: text made from the tables -------------------------------------------------------------- */

void help_overview(FILE *f);
void help_command(const struct command *c, FILE *f);
void help_markdown(FILE *f);                     /* docs/commands.md */
void man_page(const struct command *c, FILE *f); /* NULL: kgen itself */

/* ---- output.c --------------------------------------------------------------------------------------------------- */

/* Is this stream a terminal that wants colour (NO_COLOR unset or empty, TERM not "dumb")? */
bool wants_colour(FILE *f);

/* ANSI codes, or "" where the stream wants none. */
const char *bold(FILE *f), *red(FILE *f), *green(FILE *f), *yellow(FILE *f), *plain(FILE *f);

/* Prints one JSON object as one line, reals as %.9g, and releases it. */
bool json_print(json_t *object, struct err *e);

/* A real, or null where JSON has no number for it (NaN, infinity). */
json_t *json_finite(double x);

/* Bytes as a JSON string: text that is not UTF-8 has each offending byte replaced by U+FFFD, so that it always prints.
 */
json_t *json_text(const char *bytes, size_t n);

/* "1.5 GiB"; "98362432 B" below 1 KiB. In out. */
const char *format_bytes(uint64_t bytes, char out[32]);

/* Prints text to a terminal or log without letting its bytes act: control characters as \xNN. */
void print_safe(FILE *f, const char *bytes, size_t n);

/* A bar on standard error while a command works; silent when that is no terminal. */
struct progress {
    const char *what;
    double shown_s;
    bool on;
};
void progress_begin(struct progress *p, const char *what);
void progress_update(struct progress *p, double fraction); /* 0 … 1; drawn at most ten times a second */
void progress_end(struct progress *p);                     /* wipes the bar */

/* ---- Options that several commands share ------------------------------------------------------------------------- */

enum activation { ACT_Q8, ACT_F32 };
enum kv_type { KV_DEFAULT = -1, KV_F32, KV_F16, KV_BF16, KV_Q8_0 };

extern const char *const kv_names[]; /* by enum kv_type, NULL-terminated */

/* Which model on which machine, and how exactly. */
struct engine_options {
    const char *model, *bundle; /* bundle: a directory that `kgen emit --bundle` made */
    int64_t context; /* tokens; 0: the model's, or what the command needs */
    int64_t threads; /* 0: one per physical core allowed to this process */
    struct device_choice device;
    bool gpu; /* like --device cuda, but falls back to the CPU with a warning */
    int act;  /* enum activation */
    int kv;   /* enum kv_type; KV_DEFAULT: model_default_kv */
    double weights_cache; /* GiB of packed weights to keep on disk */
    bool profile;
    const char *dump; /* print each kernel after this pass */
};
extern const struct option engine_options[];

struct report_options {
    bool json;
};
extern const struct option report_options[];

/* Where text comes from: -p TEXT, -f FILE, or neither. */
struct text_options {
    const char *prompt, *file;
};
extern const struct option text_options[];

/* Refuses -p together with -f. */
bool text_check(const struct text_options *t, struct err *e);

/* The text as bytes, unchanged; "-" reads standard input. Where neither was given, *given is false. */
bool text_read(const struct text_options *t, struct buf *out, bool *given, struct err *e);

/* Refuses a missing -m, unless a bundle was named, which may hold the model. */
bool engine_check(const struct engine_options *o, struct err *e);

extern const struct command command_bench, command_completion, command_doctor, command_emit, command_help,
    command_inspect, command_perplexity, command_run, command_tokenize, command_tune, command_verify;

#endif
