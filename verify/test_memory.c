/* Every allocation of sizes that come from input fails once while a model is opened and run: an error that says so, never
 * a crash, and nothing left behind for the sanitizers to find. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "runtime/session.h"
#include "runtime/tokenizer.h"

#define MODEL "verify/data/families/llama-mixed.gguf"

static bool open_and_run(struct err *e) {
    static const int32_t ids[] = {1, 5, 9};
    struct model *m = NULL;
    struct session *s = NULL;
    struct tokenizer *t = NULL;
    struct model_options o = {.path = MODEL, .n_threads = 1};
    int32_t best;
    bool ok = model_open(&o, &m, e) && session_open(m, 32, &s, e) && session_eval(s, ids, 3, 1, NULL, NULL, e) &&
              session_argmax(s, &best, e);
    struct err ignored;
    if (ok && tokenizer_open(m->gguf, &t, &ignored)) tokenizer_close(t);
    session_close(s);
    model_close(m);
    return ok;
}

static void each_allocation_failed_once(void **state) {
    (void)state;
    struct err e = {0};
    assert_true(open_and_run(&e));
    int failed = 0;
    for (long n = 1; n < 100000; n++) {
        mem_fail_at(n);
        e = (struct err){0};
        bool ok = open_and_run(&e);
        bool reached = !mem_fail_pending();
        mem_fail_at(0);
        if (!ok) {
            failed++;
            assert_true(reached && e.code != ERR_NONE && e.msg[0]);
        }
        if (!reached) break; /* fewer than n allocations: all have had their turn */
    }
    assert_true(failed > 5);
    print_message("# %d allocations failed in turn\n", failed);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_allocation_failed_once)};
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
