/* codegen_help: what the tests of codegen/ share: compiling or failing the test, loading, random bits. Included after
 * cmocka.h. */
#ifndef KGEN_CODEGEN_HELP_H
#define KGEN_CODEGEN_HELP_H

#include "codegen/codegen.h"

#include <elf.h>

static inline uint64_t next_random(void) {
    static uint64_t seed = 0x9e3779b97f4a7c15;
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1du;
}

static inline struct buf compile(const char *text, size_t len, const struct target *t, enum codegen_stage stage) {
    struct buf out = {0};
    struct err e;
    if (!codegen_emit(text, len, t, stage, NULL, &out, &e)) fail_msg("%s: %s", t->name, e.msg);
    return out;
}

static inline struct code *load(const struct buf *object) {
    struct code *c;
    struct err e;
    if (!code_load(object->data, object->len, &c, &e)) fail_msg("%s", e.msg);
    return c;
}

static inline struct target find(const char *name) {
    struct target t;
    struct err e;
    if (!target_find(name, &t, &e)) fail_msg("%s", e.msg);
    return t;
}

/* Every undefined symbol would be a call into something kernels cannot rely on. */
static inline void expect_no_undefined_symbols(const struct buf *object, const char *target) {
    const Elf64_Ehdr *h = (const Elf64_Ehdr *)object->data;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(object->data + h->e_shoff);
    size_t seen = 0;
    for (int i = 0; i < h->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const Elf64_Sym *sym = (const Elf64_Sym *)(object->data + sections[i].sh_offset);
        const char *names = object->data + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 1; k < sections[i].sh_size / sizeof *sym; k++, seen++)
            if (sym[k].st_shndx == SHN_UNDEF) fail_msg("%s: undefined symbol %s", target, names + sym[k].st_name);
    }
    assert_true(seen > 0);
}

#endif
