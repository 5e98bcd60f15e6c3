/* Fuzzes the chat templates' interpreter through the closed Lua state: the input is the template. Whatever it is, the
 * call ends within its budgets with a text or an error. */
#include <stdint.h>
#include <string.h>

#include "dsl/host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct dsl *dsl;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err e;
    if (!dsl && !dsl_open(&dsl, &e)) bug("%s", e.msg);
    json_t *text = json_stringn((const char *)data, size);
    if (!text) return 0; /* not UTF-8: refused before it gets here */
    json_t *arg = json_pack("{s:o, s:[{s:s, s:s}, {s:s, s:s}], s:b, s:s, s:s, s:{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}}",
                            "template", text, "messages", "role",
                            "user", "content", "What is it?", "role", "assistant", "content", "It is that.",
                            "add_generation_prompt", 1, "bos_token", "<s>", "eos_token", "</s>", "now", "year", 2026,
                            "month", 11, "day", 21, "hour", 12, "minute", 0, "second", 0, "weekday", 6, "yearday", 325);
    json_t *out = NULL;
    if (dsl_call(dsl, "chat", arg, &out, &e)) {
        if (!json_is_string(out)) bug("a rendered template is not a text");
    } else if (!e.msg[0]) {
        bug("an error without a message");
    }
    json_decref(out);
    json_decref(arg);
    return 0;
}
