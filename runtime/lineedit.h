/* lineedit: reads what a person types for `kgen run -i`: editing, history, several lines, on top of libedit.
 *
 * On a terminal: the emacs keys (arrows, Home, End, Ctrl-A E K U W L), UTF-8, history with up and down. A line that
 * ends with a backslash goes on on the next one, and pasted text keeps its line breaks. Ctrl-C drops what was typed,
 * Ctrl-D on an empty line ends. Anywhere else lines are read plainly, without a prompt; the backslash means the same.
 *
 * The terminal is raw only inside lineedit_read, and is put back on every way out of it, fatal signals included (unless
 * the caller handles them himself). One editor at a time: signal handlers are the process's.
 */
#ifndef KGEN_LINEEDIT_H
#define KGEN_LINEEDIT_H

#include "codegen/base.h"
#include <stdio.h>

struct lineedit;

enum lineedit_result {
    LINEEDIT_TEXT,      /* a text was entered, possibly empty */
    LINEEDIT_CANCELLED, /* Ctrl-C, or a signal that the caller handles */
    LINEEDIT_END        /* Ctrl-D on an empty line, or the end of the input */
};

/* An editor from `in` (its descriptor is read without buffering when it is a terminal) to `out`; both are borrowed.
 * `history_path` may be NULL; a file that is absent or is no history is an empty history. NULL and *e for lack of
 * memory or of a UTF-8 locale. */
struct lineedit *lineedit_open(FILE *in, FILE *out, const char *history_path, struct err *e);

/* Reads one text into *text (replaced; no final line break) and *result. False and *e when reading fails or more than
 * 16 MiB arrive. `prompt` is UTF-8 without control characters. A text of more than blanks enters the history. */
bool lineedit_read(struct lineedit *le, const char *prompt, struct buf *text, enum lineedit_result *result,
                   struct err *e);

/* Saves the history, when there is a path for it, and frees; false when saving failed. Accepts NULL. */
bool lineedit_close(struct lineedit *le, struct err *e);

#endif
