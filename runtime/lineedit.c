/* Owns: the editor's keys, pasted text, the terminal's state around a read, the history file. libedit owns the line. */
#include "runtime/lineedit.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

enum { MAX_TEXT = 16 << 20, MAX_PASTE = 1 << 20, HISTORY_ENTRIES = 1000 };

struct lineedit {
    FILE *in, *out;
    bool resize_later; /* the terminal changed its size while a text was edited */
    bool is_terminal;
    char *history_path;
    const char *prompt; /* borrowed during a read */
    locale_t utf8;      /* libedit converts with the thread's locale, which need not be the user's */
    EditLine *el;
    History *history;
    sigset_t outer_mask; /* signals are delivered only while a byte is awaited, so that none is missed */
    bool cancelled, failed;
};

/* The terminal -------------------------------------------------------------------------------------------------- */

static const char PASTE_ON[] = "\033[?2004h", PASTE_OFF[] = "\033[?2004l";

/* What a signal handler needs to put the terminal back. */
static struct {
    int in_fd, out_fd;
    struct termios cooked;
} terminal;
static volatile sig_atomic_t resized;

static const int FATAL[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGABRT, SIGSEGV, SIGBUS};
static const int AWAITED[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH};
enum { N_FATAL = sizeof FATAL / sizeof FATAL[0], N_AWAITED = sizeof AWAITED / sizeof AWAITED[0] };

static void write_all(int fd, const char *s, size_t n) {
    while (n > 0) {
        ssize_t k = write(fd, s, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return; /* a terminal that is gone: there is nobody to tell */
        s += k;
        n -= (size_t)k;
    }
}

static void on_fatal(int sig) {
    write_all(terminal.out_fd, PASTE_OFF, sizeof PASTE_OFF - 1);
    tcsetattr(terminal.in_fd, TCSADRAIN, &terminal.cooked);
    signal(sig, SIG_DFL);
    raise(sig); /* delivered when this handler returns */
}

static void on_resize(int sig) {
    (void)sig;
    resized = 1;
}

/* Signals that nobody handles put the terminal back before they kill; what they were is kept in `old`. */
static void signals_begin(struct lineedit *le, struct sigaction old[N_FATAL + 1]) {
    sigset_t awaited;
    sigemptyset(&awaited);
    for (int i = 0; i < N_AWAITED; i++) sigaddset(&awaited, AWAITED[i]);
    pthread_sigmask(SIG_BLOCK, &awaited, &le->outer_mask);
    struct sigaction fatal = {.sa_handler = on_fatal}, resize = {.sa_handler = on_resize};
    sigemptyset(&fatal.sa_mask);
    sigemptyset(&resize.sa_mask);
    for (int i = 0; i < N_FATAL; i++) {
        sigaction(FATAL[i], NULL, &old[i]);
        if (old[i].sa_handler == SIG_DFL) sigaction(FATAL[i], &fatal, NULL);
    }
    sigaction(SIGWINCH, &resize, &old[N_FATAL]);
}

static void signals_end(struct lineedit *le, const struct sigaction old[N_FATAL + 1]) {
    pthread_sigmask(SIG_SETMASK, &le->outer_mask, NULL);
    for (int i = 0; i < N_FATAL; i++) sigaction(FATAL[i], &old[i], NULL);
    sigaction(SIGWINCH, &old[N_FATAL], NULL);
}

/* Characters ---------------------------------------------------------------------------------------------------- */

static struct lineedit *owner(EditLine *el) {
    struct lineedit *le = NULL;
    el_get(el, EL_CLIENTDATA, &le);
    return le;
}

/* One byte from the terminal: 1, 0 at its end, -1 for an error or a signal that the caller handles. */
static int read_byte(EditLine *el, unsigned char *byte) {
    struct lineedit *le = owner(el);
    for (;;) {
        struct pollfd p = {.fd = fileno(le->in), .events = POLLIN};
        ssize_t n = ppoll(&p, 1, NULL, &le->outer_mask) < 0 ? -1 : read(p.fd, byte, 1);
        if (n >= 0) return (int)n;
        if (errno != EINTR) {
            le->failed = errno != EIO; /* EIO: the terminal hung up, which ends the input */
            return le->failed ? -1 : 0;
        }
        if (!resized) {
            le->cancelled = true;
            return 0;
        }
        /* libedit (3.1 of Debian 12) damages its memory when the size changes under a text that is being edited. */
        resized = 0;
        le->resize_later = true;
    }
}

/* One character for libedit. Bytes that are no UTF-8 become U+FFFD: what is typed is text. */
static int read_char(EditLine *el, wchar_t *c) {
    unsigned char byte;
    int n = read_byte(el, &byte);
    if (n <= 0) return n;
    if (byte < 0x80) {
        *c = byte;
        return 1;
    }
    int more = byte >= 0xC2 && byte < 0xE0 ? 1 : byte >= 0xE0 && byte < 0xF0 ? 2 : byte >= 0xF0 && byte < 0xF5 ? 3 : 0;
    uint32_t code = more == 1 ? byte & 0x1F : more == 2 ? byte & 0x0F : byte & 0x07;
    uint32_t least = more == 1 ? 0x80 : more == 2 ? 0x800 : 0x10000;
    bool valid = more > 0;
    for (; more > 0 && valid; more--) {
        n = read_byte(el, &byte);
        if (n <= 0) return n;
        valid = (byte & 0xC0) == 0x80;
        code = code << 6 | (byte & 0x3F);
    }
    if (valid) valid = code >= least && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    *c = valid ? (wchar_t)code : 0xFFFD;
    return 1;
}

/* Keys ---------------------------------------------------------------------------------------------------------- */

static unsigned char key_cancel(EditLine *el, int c) {
    (void)c;
    struct lineedit *le = owner(el);
    const LineInfoW *line = el_wline(el);
    el_cursor(el, (int)(line->lastchar - line->cursor));
    el_set(el, EL_REFRESH);
    fputs("^C", le->out);
    le->cancelled = true;
    return CC_EOF;
}

/* Ctrl-Z stops the job as the terminal would, with the terminal put back meanwhile. */
static unsigned char key_suspend(EditLine *el, int c) {
    (void)c;
    struct lineedit *le = owner(el);
    write_all(fileno(le->out), PASTE_OFF, sizeof PASTE_OFF - 1);
    el_set(el, EL_PREP_TERM, 0);
    kill(0, SIGTSTP);
    el_set(el, EL_PREP_TERM, 1);
    write_all(fileno(le->out), PASTE_ON, sizeof PASTE_ON - 1);
    return CC_REDISPLAY;
}

/* The sequence that libedit's own "accept the line" is bound to; no key sends it. */
#define ACCEPT "\033\033\001"

/* Enter: a backslash at the end becomes a line break in the text, anything else accepts it. */
static unsigned char key_enter(EditLine *el, int c) {
    (void)c;
    const LineInfoW *line = el_wline(el);
    if (line->lastchar == line->buffer || line->lastchar[-1] != L'\\') {
        el_push(el, ACCEPT);
        return CC_NORM;
    }
    el_cursor(el, (int)(line->lastchar - line->cursor));
    el_wdeletestr(el, 1);
    el_winsertstr(el, L"\n");
    return CC_REFRESH;
}

/* Text being pasted. */
struct paste {
    wchar_t *text;
    size_t n, cap;
};

/* Control characters other than tab and line break are dropped; so is what is over MAX_PASTE characters. */
static void paste_add(struct paste *p, wchar_t ch) {
    if ((ch < 32 && ch != L'\n' && ch != L'\t') || ch == 127 || p->n + 1 >= MAX_PASTE) return;
    if (p->n + 1 >= p->cap) p->text = mem_grow(p->text, (p->cap = p->cap ? 2 * p->cap : 256) * sizeof *p->text);
    p->text[p->n++] = ch;
    p->text[p->n] = 0;
}

/* After ESC [ 200 ~: takes everything up to ESC [ 201 ~ as text, its line breaks (CR, LF, CR LF) as line breaks. */
static unsigned char key_paste(EditLine *el, int c) {
    (void)c;
    static const wchar_t END[] = L"\033[201~";
    struct paste p = {0};
    size_t matched = 0;
    bool after_return = false;
    unsigned char outcome = CC_REFRESH;
    while (END[matched]) {
        wchar_t ch;
        if (read_char(el, &ch) <= 0) {
            outcome = CC_EOF;
            break;
        }
        if (ch == END[matched]) {
            matched++;
            continue;
        }
        for (size_t i = 0; i < matched; i++) paste_add(&p, END[i]);
        matched = ch == END[0] ? 1 : 0;
        if (matched == 0 && !(ch == L'\n' && after_return)) paste_add(&p, ch == L'\r' ? L'\n' : ch);
        after_return = ch == L'\r';
    }
    if (p.n > 0 && outcome == CC_REFRESH) el_winsertstr(el, p.text);
    mem_free(p.text);
    return outcome;
}

static char *prompt_of(EditLine *el) {
    return (char *)(uintptr_t)owner(el)->prompt; /* libedit's type lacks the const; it only reads */
}

static const struct {
    const char *key, *command;
} KEYS[] = {
    {"^A", "ed-move-to-beg"},     {"^E", "ed-move-to-end"},      {"^K", "ed-kill-line"},
    {"^U", "vi-kill-line-prev"},  {"^W", "ed-delete-prev-word"}, {"^L", "ed-clear-screen"},
    {"^P", "ed-prev-history"},    {"^N", "ed-next-history"},     {"^R", "em-inc-search-prev"},
    {"\\e[A", "ed-prev-history"}, {"\\e[B", "ed-next-history"},  {"\\e[C", "ed-next-char"},
    {"\\e[D", "ed-prev-char"},    {"\\eOA", "ed-prev-history"},  {"\\eOB", "ed-next-history"},
    {"\\eOC", "ed-next-char"},    {"\\eOD", "ed-prev-char"},     {"\\e[H", "ed-move-to-beg"},
    {"\\e[F", "ed-move-to-end"},  {"\\eOH", "ed-move-to-beg"},   {"\\eOF", "ed-move-to-end"},
    {"\\e[1~", "ed-move-to-beg"}, {"\\e[4~", "ed-move-to-end"},  {"\\e[3~", "ed-delete-next-char"},
    {"\\e[1;5C", "em-next-word"}, {"\\e[1;5D", "ed-prev-word"},  {"^C", "kgen-cancel"},
    {"^Z", "kgen-suspend"},       {"^M", "kgen-enter"},          {"^J", "kgen-enter"},
    {"\\e[200~", "kgen-paste"},   {ACCEPT, "ed-newline"},
};

static void bind_keys(EditLine *el) {
    el_set(el, EL_EDITOR, "emacs");
    el_set(el, EL_ADDFN, "kgen-cancel", "drop the text", key_cancel);
    el_set(el, EL_ADDFN, "kgen-suspend", "stop the job", key_suspend);
    el_set(el, EL_ADDFN, "kgen-enter", "accept the text, or go on after a backslash", key_enter);
    el_set(el, EL_ADDFN, "kgen-paste", "insert pasted text", key_paste);
    for (size_t i = 0; i < sizeof KEYS / sizeof KEYS[0]; i++) {
        el_set(el, EL_BIND, KEYS[i].key, KEYS[i].command, NULL);
    }
    /* While editing, Ctrl-C, Ctrl-Z and Ctrl-\ arrive as keys, and a pasted CR LF as these two. */
    el_set(el, EL_SETTY, "-d", "-isig", "-icrnl", "-inlcr", NULL);
}

/* Reading ------------------------------------------------------------------------------------------------------- */

/* Plain lines; a backslash before the line break takes the next line too. */
static bool read_plain(struct lineedit *le, struct buf *text, enum lineedit_result *result, struct err *e) {
    bool any = false;
    errno = 0;
    for (;;) {
        int c = getc(le->in);
        if (c == EOF) break;
        any = true;
        if (c == '\n' && (text->len == 0 || text->data[text->len - 1] != '\\')) {
            *result = LINEEDIT_TEXT;
            return true;
        }
        if (c == '\n') text->len--;
        if (text->len >= MAX_TEXT) {
            return err_set(e, ERR_INPUT,
                           "input: a text of more than %d bytes, expected a line break before; give long texts with -f",
                           MAX_TEXT);
        }
        char byte = (char)c;
        buf_add(text, &byte, 1);
    }
    if (ferror(le->in) && errno == EINTR) {
        clearerr(le->in);
        text->len = 0;
        *result = LINEEDIT_CANCELLED;
        return true;
    }
    if (ferror(le->in)) return err_set(e, ERR_IO, "input: reading failed: %s", strerror(errno));
    *result = any ? LINEEDIT_TEXT : LINEEDIT_END;
    return true;
}

static bool read_edited(struct lineedit *le, struct buf *text, enum lineedit_result *result, struct err *e) {
    int in_fd = fileno(le->in), out_fd = fileno(le->out);
    fflush(le->out);
    terminal.in_fd = in_fd;
    terminal.out_fd = out_fd;
    if (tcgetattr(in_fd, &terminal.cooked) != 0) {
        return err_set(e, ERR_IO, "terminal: its settings cannot be read: %s", strerror(errno));
    }
    struct sigaction old[N_FATAL + 1];
    signals_begin(le, old);
    locale_t outer = uselocale(le->utf8);
    if (le->resize_later) el_resize(le->el);
    le->resize_later = false;
    el_set(le->el, EL_PREP_TERM, 1); /* libedit would do it after the prompt: what is typed early would be echoed */
    write_all(out_fd, PASTE_ON, sizeof PASTE_ON - 1);
    le->cancelled = le->failed = false;
    int n = 0;
    const char *line = el_gets(le->el, &n);
    if (line && n > 0 && !le->cancelled) {
        *result = LINEEDIT_TEXT;
        buf_add(text, line, (size_t)n);
        if (text->len > 0 && text->data[text->len - 1] == '\n') text->data[--text->len] = '\0';
        HistEvent event;
        if (strspn(text->data, " \t\n") < text->len) history(le->history, &event, H_ENTER, text->data);
    } else {
        *result = le->cancelled ? LINEEDIT_CANCELLED : LINEEDIT_END;
        fputc('\n', le->out);
    }
    fflush(le->out);
    write_all(out_fd, PASTE_OFF, sizeof PASTE_OFF - 1);
    tcsetattr(in_fd, TCSADRAIN, &terminal.cooked);
    uselocale(outer);
    signals_end(le, old);
    if (le->failed) return err_set(e, ERR_IO, "terminal: reading failed");
    return true;
}

bool lineedit_read(struct lineedit *le, const char *prompt, struct buf *text, enum lineedit_result *result,
                   struct err *e) {
    text->len = 0;
    buf_puts(text, "");
    *result = LINEEDIT_END;
    le->prompt = prompt;
    bool ok = le->is_terminal ? read_edited(le, text, result, e) : read_plain(le, text, result, e);
    if (text->data) text->data[text->len] = '\0';
    return ok;
}

/* Opening and closing ------------------------------------------------------------------------------------------- */

static bool open_editor(struct lineedit *le, struct err *e) {
    le->utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!le->utf8) return err_set(e, ERR_UNSUPPORTED, "terminal: the system has no locale C.UTF-8, which glibc brings");
    locale_t outer = uselocale(le->utf8);
    le->history = history_init();
    le->el = el_init("kgen", le->in, le->out, stderr);
    if (le->history && le->el) {
        HistEvent event;
        history(le->history, &event, H_SETSIZE, HISTORY_ENTRIES);
        history(le->history, &event, H_SETUNIQUE, 1);
        struct stat st;
        bool is_file = le->history_path && stat(le->history_path, &st) == 0 && S_ISREG(st.st_mode);
        if (is_file && st.st_size <= MAX_TEXT) history(le->history, &event, H_LOAD, le->history_path);
        el_set(le->el, EL_CLIENTDATA, le);
        el_set(le->el, EL_PROMPT, prompt_of);
        el_set(le->el, EL_HIST, history, le->history);
        el_set(le->el, EL_GETCFN, read_char);
        bind_keys(le->el);
    }
    uselocale(outer);
    if (!le->history || !le->el) return err_set(e, ERR_MEMORY, "terminal: the line editor cannot start");
    return true;
}

struct lineedit *lineedit_open(FILE *in, FILE *out, const char *history_path, struct err *e) {
    struct lineedit *le = mem_new(sizeof *le);
    le->in = in;
    le->out = out;
    le->prompt = "";
    le->is_terminal = isatty(fileno(in)) && isatty(fileno(out));
    if (!le->is_terminal) return le;
    if (history_path) {
        size_t n = strlen(history_path) + 1;
        le->history_path = memcpy(mem_new(n), history_path, n);
    }
    if (open_editor(le, e)) return le;
    mem_free(le->history_path);
    le->history_path = NULL; /* nothing was read, so nothing is written */
    struct err ignored;
    lineedit_close(le, &ignored);
    return NULL;
}

/* Through a temporary file that replaces the old one when it is whole; mkstemp makes it readable by its owner only.
 * (libedit writes to a FILE with a descriptor, which rules out file_write_atomic.) */
static bool save_history(struct lineedit *le, struct err *e) {
    struct buf name = {0};
    buf_printf(&name, "%s.XXXXXX", le->history_path);
    int fd = mkstemp(name.data);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    HistEvent event;
    bool ok = f && history(le->history, &event, H_SAVE_FP, f) >= 0;
    if (f && fclose(f) != 0) ok = false;
    ok = ok && rename(name.data, le->history_path) == 0;
    if (!ok) {
        err_set(e, ERR_IO, "%s: the history cannot be written: %s", le->history_path, strerror(errno));
        if (fd >= 0) unlink(name.data);
    }
    buf_free(&name);
    return ok;
}

bool lineedit_close(struct lineedit *le, struct err *e) {
    if (!le) return true;
    bool ok = true;
    if (le->is_terminal) {
        locale_t outer = le->utf8 ? uselocale(le->utf8) : (locale_t)0;
        if (le->history && le->history_path) ok = save_history(le, e);
        if (le->el) el_end(le->el);
        if (le->history) history_end(le->history);
        if (le->utf8) {
            uselocale(outer);
            freelocale(le->utf8);
        }
    }
    mem_free(le->history_path);
    mem_free(le);
    return ok;
}
