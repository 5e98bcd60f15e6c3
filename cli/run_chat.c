/* run_chat: `kgen run -i`: a conversation on the terminal. The KV cache is kept from turn to turn: each prompt is the
 * whole conversation, of which generate() evaluates what is new. */
#include "cli/generate.h"
#include "runtime/chat.h"
#include "runtime/lineedit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct conversation {
    const struct run_options *options;
    struct generator generator;
    struct chat *chat; /* NULL: no template, or --raw */
    struct ids raw;    /* without a chat: everything said so far */
    bool left;
};

/* ---- Commands -----------------------------------------------------------------------------------------------------
 */

static bool say_help(struct conversation *c, const char *rest, struct err *e);

static bool clear(struct conversation *c, const char *rest, struct err *e) {
    (void)rest, (void)e;
    if (c->chat) chat_shorten(c->chat, 0);
    c->raw.n = 0;
    fputs("the conversation starts anew\n", stderr);
    return true;
}

static bool set_system(struct conversation *c, const char *rest, struct err *e) {
    (void)e;
    if (!c->chat) {
        fputs("without a chat template there is no system message\n", stderr);
        return true;
    }
    chat_shorten(c->chat, 0);
    if (*rest) chat_add(c->chat, "system", rest, strlen(rest));
    fputs("the conversation starts anew\n", stderr);
    return true;
}

static bool undo(struct conversation *c, const char *rest, struct err *e) {
    (void)rest, (void)e;
    size_t n = c->chat ? chat_length(c->chat) : 0;
    if (n < 2)
        fputs("there is nothing to take back\n", stderr);
    else {
        chat_shorten(c->chat, n - 2);
        fputs("took back your last message and its answer\n", stderr);
    }
    return true;
}

static bool show_stats(struct conversation *c, const char *rest, struct err *e) {
    (void)rest, (void)e;
    const struct generator *g = &c->generator;
    fprintf(stderr, "%zu of %lld tokens of context used", g->cached.n, (long long)session_n_ctx(g->session));
    if (g->n_prompt)
        fprintf(stderr, "; last turn: %zu tokens of prompt, %zu of them new, %zu of answer at %.1f tok/s", g->n_prompt,
                g->n_prompt - g->n_reused, g->answer.n, g->steps_s > 0 ? (double)g->n_steps / g->steps_s : 0);
    fputc('\n', stderr);
    return true;
}

static bool leave(struct conversation *c, const char *rest, struct err *e) {
    (void)rest, (void)e;
    c->left = true;
    return true;
}

static const struct chat_command {
    const char *name, *argument, *help;
    bool (*run)(struct conversation *c, const char *rest, struct err *e);
} chat_commands[] = {
    {"help", "", "this list", say_help},
    {"clear", "", "forget the conversation", clear},
    {"system", "TEXT", "start anew under this instruction", set_system},
    {"undo", "", "take back the last message and its answer", undo},
    {"stats", "", "how full the context is, and the speed of the last turn", show_stats},
    {"exit", "", "leave (so does Ctrl-D)", leave},
    {"quit", "", "leave", leave},
};
enum { N_COMMANDS = sizeof chat_commands / sizeof *chat_commands };

static bool say_help(struct conversation *c, const char *rest, struct err *e) {
    (void)c, (void)rest, (void)e;
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "  /%-7s %-5s %s\n", chat_commands[i].name, chat_commands[i].argument, chat_commands[i].help);
    fputs("A line that ends with \\ goes on on the next one. Ctrl-C stops an answer.\n"
          "A message that begins with / is sent when you begin it with // instead.\n",
          stderr);
    return true;
}

static bool command(struct conversation *c, const char *line, struct err *e) {
    const char *names[N_COMMANDS];
    size_t n = strcspn(line, " \t\n");
    const char *rest = line + n + strspn(line + n, " \t\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        names[i] = chat_commands[i].name;
        if (strlen(names[i]) == n && memcmp(names[i], line, n) == 0) return chat_commands[i].run(c, rest, e);
    }
    char word[32];
    snprintf(word, sizeof word, "%.*s", (int)(n < 31 ? n : 31), line);
    const char *meant = nearest(word, names, N_COMMANDS);
    fputs("no command /", stderr);
    print_safe(stderr, line, n);
    if (meant) fprintf(stderr, ": did you mean /%s?", meant);
    fputs(" (/help)\n", stderr);
    return true;
}

/* ---- Turns --------------------------------------------------------------------------------------------------------
 */

/* One message and its answer. What is wrong with this one turn is told, and the conversation goes on without it. */
static void turn(struct conversation *c, const char *text, size_t len) {
    struct generator *g = &c->generator;
    struct ids prompt = {0};
    struct err e;
    size_t before = c->chat ? chat_length(c->chat) : c->raw.n;
    bool ok;
    g->text.len = 0;
    if (c->chat) {
        chat_add(c->chat, "user", text, len);
        ok = chat_encode(c->chat, &prompt, &e);
    } else {
        ok = tokenizer_encode(g->tokenizer, text, len, c->raw.n == 0 ? TOKENIZER_ADD_BOS : 0, &c->raw, &e);
        for (size_t i = 0; i < c->raw.n; i++) ids_add(&prompt, c->raw.id[i]);
    }
    ok = ok && generate(g, &prompt, &e);
    if (g->text.len && g->text.data[g->text.len - 1] != '\n') putchar('\n');
    fflush(stdout);
    if (ok && c->chat) {
        chat_add(c->chat, "assistant", g->text.data ? g->text.data : "", g->text.len);
    } else if (ok) {
        for (size_t i = 0; i < g->answer.n; i++) ids_add(&c->raw, g->answer.id[i]);
    } else {
        fprintf(stderr, "%snot answered:%s ", red(stderr), plain(stderr));
        print_safe(stderr, e.msg, strlen(e.msg));
        fputs(" (/clear starts anew)\n", stderr);
        if (c->chat)
            chat_shorten(c->chat, before);
        else
            c->raw.n = before;
    }
    if (ok && g->ending == ENDED_BY_CONTEXT) fputs("(the context is full: /clear, or a larger -c)\n", stderr);
    if (ok && g->ending == ENDED_BY_INTERRUPT) fputs("(stopped)\n", stderr);
    ids_free(&prompt);
}

/* $XDG_STATE_HOME/kgen/history, its directory made; NULL where there is no home. The caller frees it. */
static char *history_path(void) {
    struct buf path = {0};
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && *state == '/')
        buf_puts(&path, state);
    else if (home && *home == '/')
        buf_printf(&path, "%s/.local/state", home);
    else
        return NULL;
    buf_puts(&path, "/kgen/history");
    for (char *slash = path.data + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        bool made = mkdir(path.data, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (made) continue;
        buf_free(&path);
        return NULL;
    }
    return path.data;
}

static bool read_and_answer(struct conversation *c, struct lineedit *editor, struct err *e) {
    struct buf line = {0};
    enum lineedit_result result;
    bool ok = true;
    while (ok && !c->left && (ok = lineedit_read(editor, "> ", &line, &result, e)) && result != LINEEDIT_END) {
        if (result == LINEEDIT_CANCELLED || line.len == 0) continue;
        if (line.data[0] == '/' && line.data[1] != '/')
            ok = command(c, line.data + 1, e);
        else
            turn(c, line.data + (line.data[0] == '/'), line.len - (line.data[0] == '/'));
    }
    buf_free(&line);
    return ok;
}

bool converse(const struct run_options *o, struct model *m, const struct tokenizer *t, struct err *e) {
    struct conversation c = {.options = o};
    struct lineedit *editor = NULL;
    struct buf first = {0};
    bool given, terminal = isatty(STDIN_FILENO);
    char *history = terminal ? history_path() : NULL;
    bool ok = text_read(&o->text, &first, &given, e) && generator_open(&c.generator, o, m, t, o->engine.context, e) &&
              (o->raw || chat_open(m->dsl, m->gguf, t, &c.chat, e)) &&
              (editor = lineedit_open(stdin, stdout, history, e));
    c.generator.echo = true;
    if (ok && terminal) {
        fprintf(stderr, "%s%s%s, context %lld. /help lists the commands.\n", bold(stderr),
                m->gguf ? gguf_path(m->gguf) : "", plain(stderr), (long long)session_n_ctx(c.generator.session));
        if (!c.chat && !o->raw)
            fputs("The file has no chat template: the model carries on with what you type.\n", stderr);
    }
    if (ok && first.len) turn(&c, first.data, first.len);
    ok = ok && read_and_answer(&c, editor, e);
    struct err ignored; /* a history that cannot be saved is no reason to fail */
    lineedit_close(editor, &ignored);
    if (ok) show_stats(&c, "", e);
    generator_close(&c.generator);
    chat_close(c.chat);
    ids_free(&c.raw);
    buf_free(&first);
    mem_free(history);
    return ok;
}
