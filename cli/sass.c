#include "cli/sass.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Of a multiprocessor, by architecture (CUDA C++ Programming Guide, table "Technical Specifications per Compute
 * Capability"): warps and blocks it holds at once, KiB of shared memory. Registers are 65,536 everywhere. */
static const struct limits {
    unsigned sm, warps, blocks, shared_kib;
} limits[] = {
    {75, 32, 16, 64},   {80, 64, 32, 164},  {86, 48, 16, 100},  {89, 48, 24, 100},  {90, 64, 32, 228},
    {100, 64, 32, 228}, {103, 64, 32, 228}, {120, 48, 24, 100}, {121, 48, 24, 100},
};

enum { REGISTERS = 65536, REGISTER_UNIT = 256, WARP_UNIT = 4, SHARED_UNIT = 128, SHARED_OF_BLOCK = 1024 };

struct usage {
    char name[256];
    unsigned registers, stack, stores, loads, shared, warps; /* warps: of a block */
};

static unsigned round_up(unsigned n, unsigned unit) {
    return (n + unit - 1) / unit * unit;
}

/* Warps that run at once, of those that could: what registers and shared memory leave. */
static unsigned warps_at_once(const struct usage *u, const struct limits *l) {
    unsigned by_registers = l->warps, blocks = l->blocks;
    if (u->registers)
        by_registers = REGISTERS / round_up(u->registers * PTX_LANES, REGISTER_UNIT) / WARP_UNIT * WARP_UNIT;
    if (by_registers / u->warps < blocks) blocks = by_registers / u->warps;
    unsigned shared = round_up(u->shared + (l->sm >= 80 ? SHARED_OF_BLOCK : 0), SHARED_UNIT);
    if (shared && l->shared_kib * 1024 / shared < blocks) blocks = l->shared_kib * 1024 / shared;
    unsigned warps = blocks * u->warps;
    return warps < l->warps ? warps : l->warps;
}

static const struct limits *limits_of(const struct target *t) {
    unsigned sm = 0;
    sscanf(t->name, "sm_%u", &sm);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (limits[i].sm == sm) return &limits[i];
    return NULL;
}

/* ptxas' words: "Compiling entry function 'NAME'", "N bytes stack frame, N bytes spill stores, N bytes spill loads",
 * "Used N registers, …, N bytes smem". */
static void read_line(const char *line, struct usage *u, bool *whole) {
    const char *s = strstr(line, "entry function '");
    unsigned n;
    if (s) {
        *u = (struct usage){0};
        sscanf(s, "entry function '%255[^']'", u->name);
    }
    sscanf(line, " %u bytes stack frame, %u bytes spill stores, %u bytes spill loads", &u->stack, &u->stores,
           &u->loads);
    *whole = (s = strstr(line, "Used ")) && sscanf(s, "Used %u registers", &u->registers) == 1;
    if (*whole && (s = strstr(line, " bytes smem"))) {
        while (s > line && s[-1] >= '0' && s[-1] <= '9') s--;
        if (sscanf(s, "%u", &n) == 1) u->shared = n;
    }
}

/* A block's warps: what the function requires. */
static unsigned warps_of_block(const struct buf *ptx, const char *name) {
    char entry[288];
    unsigned threads = 0;
    snprintf(entry, sizeof entry, ".entry %s(", name);
    const char *at = strstr(ptx->data, entry);
    at = at ? strstr(at, ".reqntid ") : NULL;
    return at && sscanf(at, ".reqntid %u", &threads) == 1 && threads ? (threads + PTX_LANES - 1) / PTX_LANES
                                                                     : PTX_WARPS;
}

static void add_line(const struct usage *u, const struct limits *l, struct buf *out) {
    buf_printf(out, "%-40s %9u %7u %7u %7u", u->name, u->registers, u->stores + u->loads, u->stack, u->shared);
    unsigned warps = l ? warps_at_once(u, l) : 0;
    if (l)
        buf_printf(out, "   %2u of %2u warps, %3u %%\n", warps, l->warps, 100 * warps / l->warps);
    else
        buf_puts(out, "   unknown\n");
}

/* Runs ptxas over the file; what it says into `said`. 127: there is none. */
static int assemble(const char *path, const char *arch, struct buf *said) {
    const char *home = getenv("CUDA_HOME");
    char in_home[4096], flag[64], chunk[4096];
    snprintf(in_home, sizeof in_home, "%s/bin/ptxas", home ? home : "");
    snprintf(flag, sizeof flag, "-arch=%s", arch);
    char *argv[] = {
        home && access(in_home, X_OK) == 0 ? in_home : "ptxas", flag, "-v", (char *)path, "-o", "/dev/null", NULL};
    int ends[2], status = 127 << 8;
    if (pipe2(ends, O_CLOEXEC)) return 127;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    pid_t child;
    int failed = posix_spawnp(&child, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    for (ssize_t n; !failed && (n = read(ends[0], chunk, sizeof chunk)) != 0;) {
        if (n > 0)
            buf_add(said, chunk, (size_t)n);
        else if (errno != EINTR)
            break;
    }
    close(ends[0]);
    while (!failed && waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return failed ? 127 : WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

bool sass_report(const struct buf *ptx, const struct target *t, struct buf *out, struct err *e) {
    char path[] = "/tmp/kgen-ptx-XXXXXX";
    struct buf said = {0};
    int fd = mkstemp(path);
    if (fd < 0 || !fd_write(fd, ptx->data, ptx->len)) {
        err_set(e, ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
            unlink(path);
        }
        return false;
    }
    close(fd);
    int status = assemble(path, t->name, &said);
    unlink(path);
    if (status == 127) {
        buf_free(&said);
        return err_set(e, ERR_UNSUPPORTED,
                       "--stage sass-report needs ptxas, of NVIDIA's CUDA toolkit: put it in PATH, or set CUDA_HOME");
    }
    if (status) {
        err_set(e, ERR_COMPILE, "ptxas -arch=%s refuses the code: %s", t->name, said.data ? said.data : "");
        buf_free(&said);
        return false;
    }
    buf_printf(out, "%-40s %9s %7s %7s %7s   %s\n", "function", "registers", "spilled", "stack", "shared", "at once");
    struct usage u = {0};
    for (char *line = said.data; line && *line;) {
        char *end = strchr(line, '\n');
        bool whole;
        if (end) *end = 0;
        read_line(line, &u, &whole);
        if (whole) u.warps = warps_of_block(ptx, u.name);
        if (whole) add_line(&u, limits_of(t), out);
        line = end ? end + 1 : NULL;
    }
    buf_free(&said);
    return true;
}
