#include "codegen/assemble.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* ---- where it is ---- */

static bool in_directory(const char *dir, size_t n, const char *below, struct assembler *a) {
    struct stat st;
    int used = snprintf(a->ptxas, sizeof a->ptxas, "%.*s%s/ptxas", (int)n, dir, below);
    if (n == 0 || used >= (int)sizeof a->ptxas || access(a->ptxas, X_OK) || stat(a->ptxas, &st)) return false;
    snprintf(a->version, sizeof a->version, "ptxas %jd %jd.%09ld", (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec,
             st.st_mtim.tv_nsec);
    return true;
}

bool assembler_find(struct assembler *out) {
    const char *path = getenv("PATH"), *home = getenv("CUDA_HOME");
    while (path && *path) {
        size_t n = strcspn(path, ":");
        if (*path == '/' && in_directory(path, n, "", out)) return true; /* relative ones would be anybody's */
        path += n + (path[n] == ':');
    }
    static const char usual[] = "/usr/local/cuda";
    return (home && in_directory(home, strlen(home), "/bin", out)) ||
           in_directory(usual, strlen(usual), "/bin", out);
}

/* ---- running it ---- */

static bool run(char *const argv[], struct err *e) {
    int status;
    pid_t child;
    posix_spawn_file_actions_t quiet;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int failed = posix_spawn(&child, argv[0], &quiet, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&quiet);
    if (failed) return err_set(e, ERR_COMPILE, "%s does not start: %s", argv[0], strerror(failed));
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return err_set(e, ERR_COMPILE, "%s: %s", argv[0], strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    return err_set(e, ERR_COMPILE, "%s fails: %s %d", argv[0], WIFEXITED(status) ? "exit status" : "signal",
                   WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

enum { PATH_BYTES = 1024 };

/* In a directory that exists and is empty. */
static bool assemble_in(const struct assembler *a, const char *dir, const struct target *t, const struct buf *ptx,
                        struct buf *cubin, struct err *e) {
    char text[PATH_BYTES], code[PATH_BYTES], arch[32];
    snprintf(text, sizeof text, "%s/k.ptx", dir);
    snprintf(code, sizeof code, "%s/k.cubin", dir);
    snprintf(arch, sizeof arch, "-arch=%s", t->name);
    bool ok = file_write_atomic(text, ptx->data, ptx->len, e) &&
              run((char *[]){(char *)a->ptxas, arch, text, "-o", code, NULL}, e) && file_read(code, cubin, e);
    unlink(text);
    unlink(code);
    return ok;
}

bool assembler_run(const struct assembler *a, const struct target *t, const struct buf *ptx, struct buf *cubin,
                   struct err *e) {
    const char *tmp = getenv("TMPDIR");
    char dir[PATH_BYTES - 16];
    int n = snprintf(dir, sizeof dir, "%s/kgen-ptxas-XXXXXX", tmp && *tmp == '/' ? tmp : "/tmp");
    if (n >= (int)sizeof dir || !mkdtemp(dir))
        return err_set(e, ERR_IO, "no directory for ptxas' files in %s: %s", tmp ? tmp : "/tmp", strerror(errno));
    bool ok = assemble_in(a, dir, t, ptx, cubin, e);
    rmdir(dir);
    return ok;
}
