/* The line editor, as a person at a terminal meets it: a child process edits on a pseudo-terminal, the test types.
 *
 * The child reads until the end and reports each result through a pipe: 'T' + length + bytes, 'C' or 'E', and whether
 * the terminal's settings are what they were. Keys are sent only when the prompt has appeared: before that the terminal
 * is not raw. */
#include "runtime/lineedit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PROMPT "kgen> "

struct session {
    pid_t pid;
    int terminal, results;
    struct buf screen; /* everything the child wrote to the terminal */
    int n_read;        /* results received */
};

struct result {
    char kind; /* T, C, E, or 0 when the child ended without one */
    bool restored;
    char text[1 << 18];
    size_t len;
};

static struct result result; /* the latest */

/* The child -------------------------------------------------------------------------------------------------------- */

static void on_handled(int sig) {
    (void)sig;
}

static void report(int fd, const void *bytes, size_t n) {
    if (write(fd, bytes, n) != (ssize_t)n) _exit(3);
}

static _Noreturn void child(int results, const char *history, bool handles_sigint) {
    struct err e;
    struct termios before, after;
    tcgetattr(0, &before);
    if (handles_sigint) {
        struct sigaction sa = {.sa_handler = on_handled};
        sigaction(SIGINT, &sa, NULL);
    }
    struct lineedit *le = lineedit_open(stdin, stdout, history, &e);
    if (!le) _exit(2);
    struct buf text = {0};
    enum lineedit_result kind = LINEEDIT_TEXT;
    while (kind != LINEEDIT_END) {
        if (!lineedit_read(le, PROMPT, &text, &kind, &e)) _exit(4);
        tcgetattr(0, &after);
        bool restored = before.c_iflag == after.c_iflag && before.c_oflag == after.c_oflag &&
                        before.c_lflag == after.c_lflag && memcmp(before.c_cc, after.c_cc, sizeof before.c_cc) == 0;
        uint32_t head[3] = {kind == LINEEDIT_TEXT  ? 'T'
                            : kind == LINEEDIT_END ? 'E'
                                                   : 'C',
                            restored, (uint32_t)text.len};
        report(results, head, sizeof head);
        if (text.len) report(results, text.data, text.len);
    }
    buf_free(&text);
    _exit(lineedit_close(le, &e) ? 0 : 5);
}

static struct session begin(const char *history, bool handles_sigint) {
    struct session s = {0};
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    s.pid = forkpty(&s.terminal, NULL, NULL, &size);
    if (s.pid < 0) {
        print_message("skipped: no pseudo-terminal: %s\n", strerror(errno));
        skip();
    }
    assert_true(s.pid >= 0);
    if (s.pid == 0) {
        close(fds[0]);
        setenv("TERM", "xterm", 1);
        unsetenv("LC_ALL");
        setenv("LANG", "C", 1); /* UTF-8 must not depend on it */
        child(fds[1], history, handles_sigint);
    }
    close(fds[1]);
    s.results = fds[0];
    return s;
}

/* The test's side -------------------------------------------------------------------------------------------------- */

/* Takes what the child wrote to the terminal within `ms`; false when it hung up or wrote nothing. */
static bool look(struct session *s, int ms) {
    struct pollfd p = {.fd = s->terminal, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0) return false;
    char bytes[4096];
    ssize_t n = read(s->terminal, bytes, sizeof bytes);
    if (n > 0) buf_add(&s->screen, bytes, (size_t)n);
    return n > 0;
}

/* Waits for the prompt of the read that comes after the results received. */
static void await_prompt(struct session *s) {
    double deadline = now_s() + 20;
    for (;;) {
        const char *at = s->screen.data;
        for (int i = 0; at && i <= s->n_read; i++) {
            at = strstr(at, "\033[?2004h");
            if (at) at++;
        }
        if (at && strstr(at, PROMPT)) return;
        if (now_s() > deadline) fail_msg("no prompt; the terminal shows: %s", s->screen.data);
        look(s, 50);
    }
}

static void type(struct session *s, const char *keys, size_t n) {
    while (n > 0) {
        struct pollfd p = {.fd = s->terminal, .events = POLLIN | POLLOUT};
        poll(&p, 1, 1000);
        if (p.revents & POLLIN) look(s, 0);
        if (!(p.revents & POLLOUT)) continue;
        ssize_t k = write(s->terminal, keys, n < 512 ? n : 512);
        assert_true(k > 0);
        keys += k;
        n -= (size_t)k;
    }
}

static bool read_exactly(int fd, void *out, size_t n) {
    for (char *at = out; n > 0;) {
        ssize_t k = read(fd, at, n);
        if (k <= 0) return false;
        at += k;
        n -= (size_t)k;
    }
    return true;
}

static void await_result(struct session *s) {
    double deadline = now_s() + 60;
    struct pollfd p = {.fd = s->results, .events = POLLIN};
    while (poll(&p, 1, 0) == 0) {
        if (now_s() > deadline) fail_msg("no result; the terminal shows: %s", s->screen.data);
        look(s, 20);
    }
    uint32_t head[3];
    memset(&result, 0, sizeof result);
    if (!read_exactly(s->results, head, sizeof head)) return;
    result.kind = (char)head[0];
    result.restored = head[1];
    result.len = head[2];
    assert_true(result.len < sizeof result.text);
    assert_true(read_exactly(s->results, result.text, result.len));
    s->n_read++;
}

/* Types keys at a prompt and takes the result. */
static void enter_bytes(struct session *s, const char *keys, size_t n) {
    await_prompt(s);
    type(s, keys, n);
    await_result(s);
    assert_true(result.restored);
}

static void enter(struct session *s, const char *keys) {
    enter_bytes(s, keys, strlen(keys));
}

static void assert_text(const char *expected) {
    assert_int_equal(result.kind, 'T');
    assert_string_equal(result.text, expected);
    assert_int_equal(result.len, strlen(expected));
}

static int end(struct session *s) {
    int status = 0;
    while (look(s, 20)) {
    }
    close(s->terminal);
    close(s->results);
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    buf_free(&s->screen);
    return status;
}

static void finish(struct session *s) {
    enter(s, "\004");
    assert_int_equal(result.kind, 'E');
    assert_int_equal(end(s), 0);
}

/* Tests ------------------------------------------------------------------------------------------------------------ */

#define LEFT "\033[D"
#define RIGHT "\033[C"
#define UP "\033[A"
#define DOWN "\033[B"

static const struct {
    const char *name, *keys, *expected;
} EDITS[] = {
    {"plain", "hello world\r", "hello world"},
    {"line feed enters too", "hello\n", "hello"},
    {"empty", "\r", ""},
    {"left inserts before", "ac" LEFT "b\r", "abc"},
    {"right comes back", "abd" LEFT LEFT RIGHT "c\r", "abcd"},
    {"application keys",
     "ac\033OD"
     "b\033OC"
     "d\r",
     "abcd"},
    {"home and end", "bc\033[Ha\033[Fd\r", "abcd"},
    {"home and end of other terminals", "bc\033[1~a\033[4~d\r", "abcd"},
    {"ctrl-a and ctrl-e", "bc\001a\005d\r", "abcd"},
    {"ctrl-k cuts to the end", "abcd" LEFT LEFT "\013x\r", "abx"},
    {"ctrl-u cuts to the start", "abcd" LEFT LEFT "\025x\r", "xcd"},
    {"ctrl-w cuts a word", "one two three\027x\r", "one two x"},
    {"ctrl-l keeps the text", "ab\014c\r", "abc"},
    {"ctrl-d deletes under the cursor", "abc" LEFT LEFT "\004\r", "ac"},
    {"delete key", "abc" LEFT LEFT "\033[3~\r", "ac"},
    {"backspace", "abx\177c\r", "abc"},
    {"UTF-8 passes", "Größe 你好 😀\r", "Größe 你好 😀"},
    {"backspace takes a character", "你é😀\177\177x\r", "你x"},
    {"left steps over a character", "你好" LEFT "x\r", "你x好"},
    {"bytes that are no UTF-8", "a\xff\xc3(b\r",
     "a\xef\xbf\xbd\xef\xbf\xbd"
     "b"},
    {"backslash goes on", "one\\\rtwo\\\rthree\r", "one\ntwo\nthree"},
    {"backslash inside does not", "a\\b\r", "a\\b"},
    {"pasted lines", "x\033[200~one\rtwo\nthree\r\nfour\033[201~y\r", "xone\ntwo\nthree\nfoury"},
    {"pasted controls are dropped", "\033[200~a\033[31m\003\004\tb\177\033[201~\r", "a[31m\tb"},
    {"paste in the middle", "ad" LEFT "\033[200~bc\033[201~\r", "abcd"},
    {"editing across lines", "one\\\rtwo\001X\r", "Xone\ntwo"},
};

static void keys_edit_the_line(void **state) {
    (void)state;
    struct session s = begin(NULL, false);
    for (size_t i = 0; i < sizeof EDITS / sizeof EDITS[0]; i++) {
        enter(&s, EDITS[i].keys);
        if (result.kind != 'T' || strcmp(result.text, EDITS[i].expected) != 0) {
            fail_msg("%s: expected '%s', found %c '%s'", EDITS[i].name, EDITS[i].expected, result.kind, result.text);
        }
    }
    finish(&s);
}

static void ctrl_c_cancels_and_ctrl_d_ends(void **state) {
    (void)state;
    struct session s = begin(NULL, false);
    enter(&s, "half a line\003");
    assert_int_equal(result.kind, 'C');
    assert_int_equal(result.len, 0);
    enter(&s, "\003");
    assert_int_equal(result.kind, 'C');
    enter(&s, "one\\\rtwo\003");
    assert_int_equal(result.kind, 'C');
    enter(&s, "whole\r");
    assert_text("whole");
    finish(&s);
}

static void history_goes_up_and_down(void **state) {
    (void)state;
    struct session s = begin(NULL, false);
    enter(&s, "first\r");
    enter(&s, "second\\\rline ü\r");
    enter(&s, "   \r"); /* blanks are no history */
    enter(&s, UP "\r");
    assert_text("second\nline ü");
    enter(&s, UP UP "!\r");
    assert_text("first!");
    enter(&s, "typed" UP UP DOWN DOWN "\r");
    assert_text("typed");
    enter(&s, UP UP UP UP UP UP UP "\r"); /* stops at the oldest */
    assert_text("first");
    finish(&s);
}

static void history_is_kept_in_a_private_file(void **state) {
    (void)state;
    char dir[] = "/tmp/kgen_lineedit_XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/history", dir);
    struct session s = begin(path, false);
    enter(&s, "Zürich \\n 100%\r");
    enter(&s, "two\\\rlines\r");
    finish(&s);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    s = begin(path, false);
    enter(&s, UP "\r");
    assert_text("two\nlines");
    enter(&s, UP UP "\r");
    assert_text("Zürich \\n 100%");
    finish(&s);

    struct err e;
    static const char garbage[] = "no history\n\xff\xfe\0 at all\n";
    assert_true(file_write_atomic(path, garbage, sizeof garbage, &e));
    s = begin(path, false);
    enter(&s, UP "x\r");
    assert_text("x");
    finish(&s);
    unlink(path);
    rmdir(dir);
}

static void history_that_cannot_be_written_is_an_error(void **state) {
    (void)state;
    struct session s = begin("/proc/none/history", false);
    enter(&s, "x\r");
    enter(&s, "\004");
    int status = end(&s);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 5);
}

static void fatal_signal_puts_the_terminal_back(void **state) {
    (void)state;
    static const int SIGNALS[] = {SIGTERM, SIGINT, SIGHUP, SIGABRT};
    for (size_t i = 0; i < sizeof SIGNALS / sizeof SIGNALS[0]; i++) {
        struct session s = begin(NULL, false);
        struct termios raw, after;
        const tcflag_t cooked = ICANON | ECHO | ISIG;
        await_prompt(&s);
        type(&s, "some", 4);
        look(&s, 1000);
        assert_int_equal(tcgetattr(s.terminal, &raw), 0);
        assert_int_equal(raw.c_lflag & cooked, 0);
        /* The line discipline outlives the child while the test holds the other side. */
        kill(s.pid, SIGNALS[i]);
        int status;
        assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGNALS[i]);
        assert_int_equal(tcgetattr(s.terminal, &after), 0);
        assert_int_equal(after.c_lflag & cooked, cooked);
        while (look(&s, 20)) {
        }
        assert_non_null(strstr(s.screen.data, "\033[?2004l"));
        close(s.terminal);
        close(s.results);
        buf_free(&s.screen);
    }
}

static void signal_of_the_caller_cancels(void **state) {
    (void)state;
    struct session s = begin(NULL, true);
    await_prompt(&s);
    type(&s, "some", 4);
    look(&s, 1000);
    kill(s.pid, SIGINT);
    await_result(&s);
    assert_int_equal(result.kind, 'C');
    assert_true(result.restored);
    enter(&s, "after\r");
    assert_text("after");
    finish(&s);
}

static void resizing_keeps_the_text(void **state) {
    (void)state;
    struct session s = begin(NULL, false);
    await_prompt(&s);
    type(&s, "a line that is longer than twenty columns", 41);
    look(&s, 1000);
    struct winsize size = {.ws_row = 5, .ws_col = 20};
    assert_int_equal(ioctl(s.terminal, TIOCSWINSZ, &size), 0);
    look(&s, 200);
    enter(&s, "!\r");
    assert_text("a line that is longer than twenty columns!");
    finish(&s);
}

static void hang_up_ends(void **state) {
    (void)state;
    struct session s = begin(NULL, false);
    await_prompt(&s);
    close(s.terminal);
    int status;
    assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGHUP : WEXITSTATUS(status) == 0);
    close(s.results);
    buf_free(&s.screen);
}

static void long_paste_arrives_whole(void **state) {
    (void)state;
    enum { LINES = 2000 };
    struct buf keys = {0};
    buf_puts(&keys, "\033[200~");
    for (int i = 0; i < LINES; i++) buf_printf(&keys, "line %d äöü\n", i);
    buf_puts(&keys, "\033[201~\r");
    struct session s = begin(NULL, false);
    double start = now_s();
    enter_bytes(&s, keys.data, keys.len);
    assert_true(now_s() - start < 20);
    assert_int_equal(result.kind, 'T');
    assert_int_equal(result.len, keys.len - 13);
    assert_memory_equal(result.text, keys.data + 6, result.len);
    finish(&s);
    buf_free(&keys);
}

/* Without a terminal ----------------------------------------------------------------------------------------------- */

static void without_a_terminal_lines_are_read_plainly(void **state) {
    (void)state;
    static const char input[] = "one\n\ntwo \\\nthree\nbytes \xff\0x\n\\\\\n\nlast";
    static const struct {
        const char *text;
        size_t len;
    } expected[] = {{"one", 3}, {"", 0}, {"two \nthree", 10}, {"bytes \xff\0x", 9}, {"\\\n", 2}, {"last", 4}};
    struct err e;
    FILE *file = tmpfile(), *out = tmpfile();
    assert_true(file && out);
    fwrite(input, 1, sizeof input - 1, file);
    rewind(file);
    struct lineedit *le = lineedit_open(file, out, "/proc/none/history", &e);
    assert_non_null(le);
    struct buf text = {0};
    enum lineedit_result kind;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_true(lineedit_read(le, PROMPT, &text, &kind, &e));
        assert_int_equal(kind, LINEEDIT_TEXT);
        assert_int_equal(text.len, expected[i].len);
        assert_memory_equal(text.data, expected[i].text, text.len);
    }
    assert_true(lineedit_read(le, PROMPT, &text, &kind, &e));
    assert_int_equal(kind, LINEEDIT_END);
    assert_int_equal(text.len, 0);
    assert_true(lineedit_close(le, &e));
    fflush(out);
    assert_int_equal(ftell(out), 0); /* no prompt */
    buf_free(&text);
    fclose(file);
    fclose(out);
}

static void endless_line_is_refused(void **state) {
    (void)state;
    struct err e;
    FILE *zero = fopen("/dev/zero", "r"), *out = tmpfile();
    assert_true(zero && out);
    struct lineedit *le = lineedit_open(zero, out, NULL, &e);
    struct buf text = {0};
    enum lineedit_result kind;
    assert_false(lineedit_read(le, PROMPT, &text, &kind, &e));
    assert_int_equal(e.code, ERR_INPUT);
    assert_non_null(strstr(e.msg, "16777216 bytes"));
    assert_true(lineedit_close(le, &e));
    assert_true(lineedit_close(NULL, &e));
    buf_free(&text);
    fclose(zero);
    fclose(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_edit_the_line),
        cmocka_unit_test(ctrl_c_cancels_and_ctrl_d_ends),
        cmocka_unit_test(history_goes_up_and_down),
        cmocka_unit_test(history_is_kept_in_a_private_file),
        cmocka_unit_test(history_that_cannot_be_written_is_an_error),
        cmocka_unit_test(fatal_signal_puts_the_terminal_back),
        cmocka_unit_test(signal_of_the_caller_cancels),
        cmocka_unit_test(resizing_keeps_the_text),
        cmocka_unit_test(hang_up_ends),
        cmocka_unit_test(long_paste_arrives_whole),
        cmocka_unit_test(without_a_terminal_lines_are_read_plainly),
        cmocka_unit_test(endless_line_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
