/* Fuzzes the tokenizer: the input is u32 length | GGUF file of that length | text. Both ends are hostile: the
 * vocabulary and the text. Every id that comes out must be in the vocabulary, and decoding must accept it. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t, const char *text, size_t len) {
    for (unsigned flags = 0; flags < 4; flags++) {
        struct ids ids = {0};
        struct err e;
        struct buf back = {0};
        if (tokenizer_encode(t, text, len, flags, &ids, &e)) {
            for (size_t i = 0; i < ids.n; i++) {
                if (ids.id[i] < 0 || ids.id[i] >= tokenizer_n_vocab(t))
                    bug("id %d is not in the vocabulary", ids.id[i]);
                bool control = tokenizer_type(t, ids.id[i]) == TOKEN_CONTROL;
                if (control && !flags && ids.id[i] != tokenizer_unknown(t))
                    bug("text became the control token %d", ids.id[i]);
            }
            tokenizer_decode(t, ids.id, ids.n, flags & 1, &back);
        }
        buf_free(&back);
        ids_free(&ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t len;
    if (size < 4) return 0;
    memcpy(&len, data, 4);
    if (len > size - 4) return 0;
    int fd = memfd_create("vocabulary.gguf", 0);
    if (fd < 0 || write(fd, data + 4, len) != (ssize_t)len) bug("no memory file");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct gguf *g;
    struct tokenizer *t = NULL;
    struct err e;
    if (gguf_open(path, NULL, &g, &e) && tokenizer_open(g, &t, &e))
        use(t, (const char *)data + 4 + len, size - 4 - len);
    tokenizer_close(t);
    gguf_close(g);
    close(fd);
    return 0;
}
