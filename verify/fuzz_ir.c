/* Fuzz target: any bytes through the flat IR's parser and verifier; what is accepted must print and parse to itself. */
#include "codegen/ir.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ir_module *m, *again;
    struct err e = {0};
    if (!ir_parse((const char *)data, size, &m, &e)) return 0;
    struct buf once = {0}, twice = {0};
    ir_print(m, &once);
    if (!ir_parse(once.data, once.len, &again, &e)) bug("printed IR does not parse: %s", e.msg);
    ir_print(again, &twice);
    if (strcmp(once.data, twice.data) != 0) bug("printing is not stable");
    if (ir_verify(m, &e) != ir_verify(again, &e)) bug("printing changed what verifies");
    ir_free(m);
    ir_free(again);
    buf_free(&once);
    buf_free(&twice);
    return 0;
}
