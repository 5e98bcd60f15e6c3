/* Fuzzes the GGUF reader: any bytes as a file; what opens is walked to its last byte. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/gguf.h"
#include "verify/gguf_build.h"

static volatile uint64_t sink;

static void walk(const struct gguf *g) {
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_n_keys(g); i++) {
        const struct gguf_key *k = gguf_key_at(g, i);
        if (gguf_find(g, k->name) != &k->value) bug("a key cannot be found by its name");
        if (k->value.type != GGUF_STRING) {
            for (uint64_t j = 0; j < k->value.n; j++) sum += gguf_value_f64(&k->value, j) > 0;
        } else if (k->value.is_array) {
            struct gguf_strings it = gguf_strings_begin(&k->value);
            while (gguf_strings_next(&it))
                for (uint64_t j = 0; j < it.len; j++) sum += (uint8_t)it.data[j];
        } else {
            sum += strlen(k->value.data);
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (gguf_find_tensor(g, t->name) != t) bug("a tensor cannot be found by its name");
        for (uint64_t j = 0; j < t->bytes; j++) sum += t->data[j];
    }
    sink = sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fd = memfd_create("model.gguf", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) bug("no memory file");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct gguf *g;
    struct err e = {0};
    if (gguf_open(path, build_types, &g, &e))
        walk(g);
    else if (!strstr(e.msg, path))
        bug("an error without the file's name: %s", e.msg);
    gguf_close(g);
    close(fd);
    return 0;
}
