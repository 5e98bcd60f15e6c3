/* Damaged copies of a real model: whatever the damage, an answer or a clear error, never a crash and never a hang.
 * The model lies in a memory file; each round damages it, opens it, evaluates two tokens, and mends it again. The rounds
 * are KGEN_DAMAGED_COPIES (24 unless told; 300 is the long check). */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/session.h"
#include "runtime/tokenizer.h"
#include "verify/ref_rng.h"

#define MODEL "build/models/smollm2-135m-instruct-q4_1.gguf"
enum { N_PATCHES = 8, PATCH = 16, HEAD = 2 << 20 };

static struct {
    struct buf original;
    int fd;
    char path[64];
} file;

static int open_copy(void **state) {
    (void)state;
    struct err e;
    if (access(MODEL, R_OK) != 0) return 0;
    if (!file_read(MODEL, &file.original, &e)) return -1;
    file.fd = memfd_create("damaged.gguf", 0);
    snprintf(file.path, sizeof file.path, "/proc/self/fd/%d", file.fd);
    return write(file.fd, file.original.data, file.original.len) == (ssize_t)file.original.len ? 0 : -1;
}

static int close_copy(void **state) {
    (void)state;
    if (file.fd) close(file.fd);
    buf_free(&file.original);
    return 0;
}

static bool finite_or_not(void *ctx, int64_t pos, const float *logits, struct err *e) {
    (void)pos, (void)logits, (void)e;
    ++*(int *)ctx;
    return true;
}

/* Returns whether the copy answered; an error must say something. */
static bool try_it(void) {
    struct err e = {0};
    struct model *m = NULL;
    struct session *s = NULL;
    struct tokenizer *t = NULL;
    struct model_options o = {.path = file.path, .n_threads = 1};
    static const int32_t ids[] = {504, 3575};
    int answered = 0, best = 0;
    bool ok = model_open(&o, &m, &e) && tokenizer_open(m->gguf, &t, &e) && session_open(m, 64, &s, &e) &&
              session_eval(s, ids, 2, 1, finite_or_not, &answered, &e) && session_argmax(s, &best, &e);
    if (ok) assert_int_equal(answered, 1);
    else assert_true(e.code != ERR_NONE && e.msg[0] != 0);
    session_close(s);
    tokenizer_close(t);
    model_close(m);
    return ok;
}

static void put(size_t off, const void *bytes, size_t n) {
    assert_int_equal(pwrite(file.fd, bytes, n, (off_t)off), (ssize_t)n);
}

static void damaged_copies_answer_or_say_why(void **state) {
    (void)state;
    if (!file.fd) {
        print_message("skipped: %s is not there (./setup.sh test fetches it)\n", MODEL);
        skip();
    }
    const char *env = getenv("KGEN_DAMAGED_COPIES");
    int rounds = env ? atoi(env) : 24, answers = 0;
    struct ref_rng rng = {.seed = 20261121};
    assert_true(try_it());
    for (int r = 0; r < rounds; r++) {
        size_t at[N_PATCHES], n = file.original.len;
        if (r % 8 == 7) { /* cut short */
            n = ref_rng_u64(&rng) % (r % 16 == 7 ? HEAD : file.original.len);
            assert_int_equal(ftruncate(file.fd, (off_t)n), 0);
        } else { /* bytes changed: in the metadata and the tensor table, or anywhere */
            for (int k = 0; k < N_PATCHES; k++) {
                uint8_t noise[PATCH];
                for (int b = 0; b < PATCH; b++) noise[b] = (uint8_t)ref_rng_u64(&rng);
                at[k] = ref_rng_u64(&rng) % ((r % 4 < 3 ? HEAD : n) - PATCH);
                size_t len = 1 + ref_rng_u64(&rng) % PATCH;
                put(at[k], noise, len);
            }
        }
        answers += try_it();
        if (n < file.original.len) put(n, file.original.data + n, file.original.len - n);
        else
            for (int k = 0; k < N_PATCHES; k++) put(at[k], file.original.data + at[k], PATCH);
    }
    assert_true(try_it());
    print_message("# %d of %d damaged copies still answered\n", answers, rounds);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(damaged_copies_answer_or_say_why)};
    return cmocka_run_group_tests_name("damaged", tests, open_copy, close_copy);
}
