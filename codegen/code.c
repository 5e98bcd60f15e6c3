/* code: compiled objects made callable.
 *
 * An object of ours is an ELF relocatable file without undefined symbols (docs/architecture.md): its sections are
 * copied into one mapping, the few kinds of relocation that x86-64 code has among its own sections are applied, and the
 * mapping is made executable. No LLVM is needed for that, so that a start from the cache does not load it. Everything
 * in the object is checked: a damaged one is an error, not a crash.
 */
#include "codegen/codegen.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct symbol {
    const char *name; /* in names */
    void *address;
};

struct code {
    uint8_t *base;
    size_t bytes;
    char *names;
    struct symbol *symbols;
    size_t n_symbols;
};

/* An object being loaded. */
struct object {
    const uint8_t *data;
    size_t n;
    const Elf64_Ehdr *head;
    const Elf64_Shdr *sections;
    uint64_t *at; /* offset of each section in the mapping; NOT_LOADED for the others */
};
#define NOT_LOADED UINT64_MAX

static bool damaged(struct err *e, const char *what) {
    return err_set(e, ERR_INPUT, "not a usable object file: %s", what);
}

static bool inside(const struct object *o, uint64_t off, uint64_t n) {
    return off <= o->n && n <= o->n - off;
}

static bool read_sections(struct object *o, struct err *e) {
    o->head = (const Elf64_Ehdr *)o->data;
    if (o->n < sizeof *o->head || memcmp(o->head->e_ident, ELFMAG, SELFMAG) != 0 ||
        o->head->e_ident[EI_CLASS] != ELFCLASS64 || o->head->e_type != ET_REL || o->head->e_machine != EM_X86_64)
        return damaged(e, "expected a 64-bit x86 ELF object");
    if (o->head->e_shentsize != sizeof(Elf64_Shdr) || o->head->e_shoff % 8 ||
        !inside(o, o->head->e_shoff, (uint64_t)o->head->e_shnum * sizeof(Elf64_Shdr)))
        return damaged(e, "its section table lies outside of it");
    o->sections = (const Elf64_Shdr *)(o->data + o->head->e_shoff);
    for (unsigned i = 0; i < o->head->e_shnum; i++) {
        const Elf64_Shdr *s = &o->sections[i];
        if (s->sh_type != SHT_NOBITS && s->sh_type != SHT_NULL && !inside(o, s->sh_offset, s->sh_size))
            return damaged(e, "a section lies outside of it");
        if (s->sh_addralign > 4096 || (s->sh_addralign & (s->sh_addralign - 1)))
            return damaged(e, "a section's alignment is not a power of two up to 4096");
    }
    return true;
}

/* Code and constants are loaded; unwinding tables are not, nothing unwinds through kernels. */
static bool is_loaded(const struct object *o, unsigned i) {
    const Elf64_Shdr *s = &o->sections[i];
    return (s->sh_flags & SHF_ALLOC) && s->sh_type == SHT_PROGBITS;
}

static bool place_sections(struct object *o, struct code *c, struct err *e) {
    uint64_t at = 0;
    for (unsigned i = 0; i < o->head->e_shnum; i++) {
        o->at[i] = NOT_LOADED;
        if (!is_loaded(o, i)) continue;
        const Elf64_Shdr *s = &o->sections[i];
        uint64_t align = s->sh_addralign ? s->sh_addralign : 1;
        at = (at + align - 1) & ~(align - 1);
        o->at[i] = at;
        at += s->sh_size;
        if (at > (uint64_t)1 << 30) return damaged(e, "its code is over 1 GiB");
    }
    c->bytes = (at + 4096) & ~(size_t)4095;
    c->base = mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->base == MAP_FAILED) {
        c->base = NULL;
        return err_set(e, ERR_MEMORY, "no memory for %zu bytes of code", c->bytes);
    }
    for (unsigned i = 0; i < o->head->e_shnum; i++)
        if (o->at[i] != NOT_LOADED)
            memcpy(c->base + o->at[i], o->data + o->sections[i].sh_offset, o->sections[i].sh_size);
    return true;
}

static const Elf64_Sym *symbol_table(const struct object *o, unsigned section, size_t *n) {
    if (section >= o->head->e_shnum || o->sections[section].sh_type != SHT_SYMTAB) return NULL;
    *n = o->sections[section].sh_size / sizeof(Elf64_Sym);
    if (o->sections[section].sh_offset % 8) return NULL;
    return (const Elf64_Sym *)(o->data + o->sections[section].sh_offset);
}

static bool relocate(const struct object *o, struct code *c, const Elf64_Shdr *rela, struct err *e) {
    unsigned target = rela->sh_info;
    if (target >= o->head->e_shnum || o->at[target] == NOT_LOADED) return true;
    size_t n_symbols;
    const Elf64_Sym *symbols = symbol_table(o, rela->sh_link, &n_symbols);
    if (!symbols || rela->sh_offset % 8) return damaged(e, "relocations without symbols");
    const Elf64_Rela *r = (const Elf64_Rela *)(o->data + rela->sh_offset);
    for (size_t k = 0; k < rela->sh_size / sizeof *r; k++) {
        uint64_t index = ELF64_R_SYM(r[k].r_info);
        unsigned type = ELF64_R_TYPE(r[k].r_info);
        size_t width = type == R_X86_64_64 ? 8 : 4;
        if (index >= n_symbols || r[k].r_offset > o->sections[target].sh_size ||
            width > o->sections[target].sh_size - r[k].r_offset)
            return damaged(e, "a relocation lies outside its section");
        const Elf64_Sym *s = &symbols[index];
        if (s->st_shndx >= o->head->e_shnum || o->at[s->st_shndx] == NOT_LOADED)
            return damaged(e, "it refers to something it does not contain");
        uint8_t *where = c->base + o->at[target] + r[k].r_offset;
        uint64_t value = (uint64_t)(uintptr_t)(c->base + o->at[s->st_shndx]) + s->st_value + (uint64_t)r[k].r_addend;
        if (type == R_X86_64_64) {
            memcpy(where, &value, 8);
        } else if (type == R_X86_64_PC32 || type == R_X86_64_PLT32) {
            int64_t distance = (int64_t)(value - (uint64_t)(uintptr_t)where);
            int32_t short_distance = (int32_t)distance;
            if (distance != short_distance) return damaged(e, "a relocation out of range");
            memcpy(where, &short_distance, 4);
        } else {
            return err_set(e, ERR_INPUT, "not a usable object file: relocation of unknown type %u", type);
        }
    }
    return true;
}

static int compare_symbols(const void *a, const void *b) {
    return strcmp(((const struct symbol *)a)->name, ((const struct symbol *)b)->name);
}

static bool list_functions(const struct object *o, struct code *c, struct err *e) {
    for (unsigned i = 0; i < o->head->e_shnum; i++) {
        size_t n;
        const Elf64_Sym *symbols = symbol_table(o, i, &n);
        if (!symbols) continue;
        unsigned link = o->sections[i].sh_link;
        if (link >= o->head->e_shnum) return damaged(e, "symbols without names");
        const Elf64_Shdr *strings = &o->sections[link];
        c->names = mem_new(strings->sh_size + 1);
        memcpy(c->names, o->data + strings->sh_offset, strings->sh_size);
        c->symbols = mem_new(n * sizeof *c->symbols);
        for (size_t k = 0; k < n; k++) {
            const Elf64_Sym *s = &symbols[k];
            if (ELF64_ST_TYPE(s->st_info) != STT_FUNC || s->st_shndx >= o->head->e_shnum ||
                o->at[s->st_shndx] == NOT_LOADED)
                continue;
            if (s->st_name >= strings->sh_size || s->st_value >= o->sections[s->st_shndx].sh_size)
                return damaged(e, "a function lies outside its section");
            c->symbols[c->n_symbols++] =
                (struct symbol){c->names + s->st_name, c->base + o->at[s->st_shndx] + s->st_value};
        }
        break;
    }
    if (c->n_symbols == 0) return damaged(e, "it defines no functions");
    qsort(c->symbols, c->n_symbols, sizeof *c->symbols, compare_symbols);
    return true;
}

static bool load(struct object *o, struct code *c, struct err *e) {
    if (!read_sections(o, e)) return false;
    o->at = mem_new((o->head->e_shnum + 1u) * sizeof *o->at);
    bool ok = place_sections(o, c, e);
    for (unsigned i = 0; i < o->head->e_shnum && ok; i++)
        if (o->sections[i].sh_type == SHT_RELA) ok = relocate(o, c, &o->sections[i], e);
    ok = ok && list_functions(o, c, e);
    if (ok && mprotect(c->base, c->bytes, PROT_READ | PROT_EXEC) != 0)
        ok = err_set(e, ERR_UNSUPPORTED, "this system does not let programs make code; compiled kernels cannot run");
    mem_free(o->at);
    return ok;
}

bool code_load(const void *obj, size_t n, struct code **out, struct err *e) {
    *out = NULL;
    /* A copy of its own: aligned for the structures in it. */
    void *data = mem_try(n ? n : 1, 1);
    if (!data) return err_set(e, ERR_MEMORY, "no memory for an object of %zu bytes", n);
    memcpy(data, obj, n);
    struct object o = {.data = data, .n = n};
    struct code *c = mem_new(sizeof *c);
    bool ok = load(&o, c, e);
    mem_free(data);
    if (!ok) {
        code_free(c);
        return false;
    }
    *out = c;
    return true;
}

kernel_fn *code_symbol(const struct code *c, const char *name) {
    struct symbol key = {.name = name};
    struct symbol *s = bsearch(&key, c->symbols, c->n_symbols, sizeof key, compare_symbols);
    return s ? (kernel_fn *)s->address : NULL;
}

void code_free(struct code *c) {
    if (!c) return;
    if (c->base) munmap(c->base, c->bytes);
    mem_free(c->symbols);
    mem_free(c->names);
    mem_free(c);
}
