/* main: finds the command, parses its options, runs it; the one place that prints errors and chooses the exit status.
 */
#include "cli/cli.h"
#include "codegen/codegen.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_DONE, EXIT_FAILED, EXIT_USAGE };

const struct command *command_find(const char *name, struct err *e) {
    enum { MAX_COMMANDS = 64 };
    const char *names[MAX_COMMANDS];
    size_t n = 0;
    for (; commands[n]; n++) {
        if (n == MAX_COMMANDS) bug("over %d commands", MAX_COMMANDS);
        if (strcmp(commands[n]->name, name) == 0) return commands[n];
        names[n] = commands[n]->name;
    }
    const char *meant = nearest(name, names, n);
    if (meant)
        err_set(e, ERR_USAGE, "no command \"%.64s\": did you mean %s?", name, meant);
    else
        err_set(e, ERR_USAGE, "no command \"%.64s\"", name);
    return NULL;
}

/* A caller may have closed standard streams; a file opened later would then take their number and be written into.
 * Opened the wrong way round, so that using them is an error instead. */
static void occupy_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            _exit(EXIT_FAILED);
}

static int report(const char *command, const struct err *e) {
    fflush(stdout);
    fprintf(stderr, "%skgen%s%s:%s ", red(stderr), command ? " " : "", command ? command : "", plain(stderr));
    print_safe(stderr, e->msg, strlen(e->msg));
    if (e->code == ERR_USAGE) fprintf(stderr, " (kgen help%s%s)", command ? " " : "", command ? command : "");
    fputc('\n', stderr);
    return e->code == ERR_USAGE ? EXIT_USAGE : EXIT_FAILED;
}

/* What was printed counts only when it has arrived. */
static bool flush_results(struct err *e) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return true;
    return err_set(e, ERR_IO, "standard output could not be written: %s", strerror(errno ? errno : EIO));
}

/* The config file may set what the libraries read from the environment alone. */
static void export_variables(const struct settings *s) {
    for (const struct variable *v = variables; v->name; v++) {
        char key[64], where[512];
        if (!v->config) continue;
        setting_key(v->name, key);
        const char *value = setting_value(s, key, where);
        if (value) setenv(v->name, value, 0);
    }
}

static int run_command(const struct command *c, int argc, char **argv) {
    struct settings settings;
    struct parsed parsed = {0};
    struct err e = {0};
    bool ok = settings_read(&settings, &e);
    if (ok) export_variables(&settings);
    ok = ok && options_parse(c, argc, argv, &settings, &parsed, &e);
    if (ok && parsed.help)
        help_command(c, stdout);
    else if (ok)
        ok = c->run(parsed.options, &e);
    /* A command that failed keeps its own message. */
    if (ok) ok = flush_results(&e);
    parsed_free(&parsed);
    settings_free(&settings);
    return ok ? EXIT_DONE : report(c->name, &e);
}

int main(int argc, char **argv) {
    occupy_standard_streams();
    /* A reader that has seen enough (`kgen run … | head`) ends kgen, even where the caller ignores the signal. */
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error of the write */
    if (argc < 2) {
        help_overview(stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    struct err e;
    if (strcmp(name, "--version") == 0)
        printf("kgen %s, %s\n", KGEN_VERSION, codegen_version());
    else if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        help_overview(stdout);
    else {
        const struct command *c = command_find(name, &e);
        return c ? run_command(c, argc - 2, argv + 2) : report(NULL, &e);
    }
    return flush_results(&e) ? EXIT_DONE : report(NULL, &e);
}
