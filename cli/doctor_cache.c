/* doctor_cache: the state of the directory where compiled kernels are kept. */
#include "cli/doctor.h"
#include "runtime/packfile.h"

#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* nftw has no argument to hand on. */
static _Thread_local struct {
    int64_t files;
    uint64_t bytes;
} found;

static int visit(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)path, (void)at;
    if (type != FTW_F) return 0;
    found.files++;
    found.bytes += (uint64_t)st->st_size;
    return 0;
}

static const char *directory(char out[4096]) {
    const char *own = getenv("KGEN_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (own && *own)
        n = snprintf(out, 4096, "%s", own);
    else if (xdg && xdg[0] == '/')
        n = snprintf(out, 4096, "%s/kgen", xdg);
    else if (home && *home)
        n = snprintf(out, 4096, "%s/.cache/kgen", home);
    return n > 0 && n < 4096 ? out : NULL;
}

json_t *doctor_cache(json_t *advice) {
    static const char fix[] = "set KGEN_CACHE_DIR to a directory of your own that can be written";
    json_t *o = json_object();
    char path[4096];
    struct stat st;
    if (!directory(path)) {
        json_object_set_new(o, "directory", json_null());
        doctor_advise(advice, "nowhere to keep compiled kernels: neither HOME nor XDG_CACHE_HOME is set", fix);
        return o;
    }
    json_object_set_new(o, "directory", json_text(path, strlen(path)));
    const char *state = "ready";
    if (stat(path, &st) != 0)
        state = errno == ENOENT ? "not there yet" : strerror(errno);
    else if (!S_ISDIR(st.st_mode))
        state = "not a directory";
    else if (st.st_uid != geteuid())
        state = "owned by another user";
    else if (access(path, R_OK | W_OK | X_OK) != 0)
        state = "not writable";
    json_object_set_new(o, "state", json_string(state));
    if (strcmp(state, "ready") == 0) {
        found.files = 0, found.bytes = 0;
        nftw(path, visit, 16, FTW_PHYS | FTW_MOUNT);
        json_object_set_new(o, "files", json_integer(found.files));
        json_object_set_new(o, "size_bytes", json_integer((json_int_t)found.bytes));
        struct packfile_total packed = packfile_count(path);
        json_object_set_new(o, "models_packed", json_integer((json_int_t)packed.files));
        json_object_set_new(o, "models_packed_bytes", json_integer((json_int_t)packed.bytes));
    } else if (strcmp(state, "not there yet") != 0) {
        doctor_advise(advice, "the cache directory cannot be used: kernels are compiled anew at every start", fix);
    }
    return o;
}
