/* Programs that must fail: verify/fails/NAME.lua. The first line of each, after "-- ", is a part of the message; a
 * second line "-- spec: {…}" replaces parts of the specification of kernel "k" that it is lowered with. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "runtime/compile.h"

#define DIR_NAME "verify/fails"

/* Of the processor's time: a kernel is refused within a second on a machine that does nothing else, where what is
 * shared with other work may take it twice as long, and the sanitizers many times. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LIMIT_S = 60 };
#else
enum { LIMIT_S = 3 };
#endif

/* Line n of text, without `prefix`; NULL where it does not begin so. */
static char *line_after(const char *text, int n, const char *prefix) {
    for (int i = 1; i < n && text; i++) {
        text = strchr(text, '\n');
        if (text) text++;
    }
    if (!text || strncmp(text, prefix, strlen(prefix)) != 0) return NULL;
    text += strlen(prefix);
    return strndup(text, strcspn(text, "\n"));
}

static json_t *spec_of(const char *text) {
    json_t *spec = json_pack("{s:s, s:{s:s}, s:{s:i, s:i}, s:{s:s}}", "kernel", "k", "formats", "W", "q4_1", "sizes",
                             "d", 64, "n", 8, "params", "act", "q8");
    char *given = line_after(text, 2, "-- spec: ");
    if (given) {
        json_t *j = json_loads(given, 0, NULL);
        assert_non_null(j);
        json_object_update(spec, j);
        json_decref(j);
    }
    free(given);
    return spec;
}

static void must_fail(void **state) {
    const char *name = *state;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", DIR_NAME, name);
    struct buf text = {0};
    struct err e = {0};
    struct dsl *d = NULL;
    struct target t;
    if (!file_read(path, &text, &e) || !dsl_open(&d, &e) || !target_find("x86-64-v3", &t, &e)) fail_msg("%s", e.msg);
    char *expected = line_after(text.data, 1, "-- ");
    assert_non_null(expected);
    json_t *arg = json_pack("{s:s, s:s}", "name", name, "text", text.data), *spec = spec_of(text.data), *meta = NULL;
    double start = cpu_s();
    bool ok = dsl_call(d, "load_kernels", arg, NULL, &e) && compile_lower(d, spec, &t, false, &meta, &e);
    double took = cpu_s() - start;
    json_decref(meta);
    json_decref(spec);
    json_decref(arg);
    dsl_close(d);
    buf_free(&text);
    if (ok) fail_msg("it did not fail; expected: %s", expected);
    if (!strstr(e.msg, expected)) fail_msg("\n  expected: %s\n  found:    %s", expected, e.msg);
    free(expected);
    if (took > LIMIT_S) fail_msg("took %.1f s to be refused", took);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name);
}

int main(void) {
    enum { MAX = 512 };
    static struct CMUnitTest tests[MAX];
    size_t n = 0;
    DIR *dir = opendir(DIR_NAME);
    if (!dir) return perror(DIR_NAME), 1;
    for (struct dirent *f; (f = readdir(dir)) && n < MAX;) {
        size_t len = strlen(f->d_name);
        if (len < 4 || strcmp(f->d_name + len - 4, ".lua") != 0) continue;
        char *name = strdup(f->d_name);
        tests[n++] = (struct CMUnitTest){.name = name, .test_func = must_fail, .initial_state = name};
    }
    closedir(dir);
    qsort(tests, n, sizeof *tests, by_name);
    int failed = _cmocka_run_group_tests("fails", tests, n, NULL, NULL);
    for (size_t i = 0; i < n; i++) free((void *)tests[i].name);
    return failed;
}
