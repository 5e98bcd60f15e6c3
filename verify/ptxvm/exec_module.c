/* Modules: from text to functions that can be launched. Loading allocates and fills the module's variables; looking a
 * function up finds what it can reach, lays out the shared memory it needs and decodes all of it. */
#include "verify/ptxvm/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct code **by_id; /* function pointers; NULL where the module is gone */
static u32 n_ids, cap_ids;

struct code *vm_code_at(u64 address) {
    struct code *c = NULL;
    if (address < VM_CODE_BASE || (address - VM_CODE_BASE) % 16) return NULL;
    u64 id = (address - VM_CODE_BASE) / 16;
    pthread_mutex_lock(&lock);
    if (id && id <= n_ids) c = by_id[id - 1];
    pthread_mutex_unlock(&lock);
    return c;
}

struct code *vm_code_of(struct vm_module *m, struct ptx_function *f) {
    for (struct code *c = m->codes; c; c = c->next)
        if (c->f == f) return c;
    struct code *c = arena_new(&m->arena, sizeof *c);
    c->f = f;
    c->module = m;
    pthread_mutex_lock(&lock);
    if (n_ids == cap_ids) {
        cap_ids = cap_ids ? cap_ids * 2 : 256;
        by_id = mem_grow(by_id, cap_ids * sizeof *by_id);
    }
    by_id[n_ids] = c;
    c->id = ++n_ids;
    pthread_mutex_unlock(&lock);
    c->next = m->codes;
    m->codes = c;
    return c;
}

static bool place_globals(struct vm_module *m, struct err *e) {
    struct ptx_text *t = &m->text;
    for (int i = 0; i < t->n_vars; i++) {
        struct ptx_var *v = t->vars[i];
        if (v->space != SP_GLOBAL && v->space != SP_CONST && v->space != SP_TEXREF) continue;
        if (v->is_extern && !v->bytes)
            return err_set(e, ERR_INPUT, "%s line %u: .extern variable %s is not defined in this module", m->file,
                           v->line, v->name);
        u64 addr, bytes = v->bytes ? v->bytes : 1;
        if (vm_mem_alloc(bytes, VM_MEM_MODULE, v->name, &addr))
            return err_set(e, ERR_MEMORY, "%s line %u: no device memory for %s of %llu bytes", m->file, v->line,
                           v->name, (unsigned long long)bytes);
        v->addr = addr;
        u8 *p = vm_mem_host(addr, bytes);
        if (bytes < 1 << 20) memset(p, 0, bytes);
        memset(vm_arena_shadow + (addr - VM_DEV_BASE), SHADOW_OK, bytes);
        if (v->init_bytes) memcpy(p, v->init, v->init_bytes);
        if (v->space == SP_CONST) m->const_bytes += (u32)bytes;
    }
    m->globals_ready = true;
    for (int i = 0; i < t->n_vars; i++) {
        struct ptx_var *v = t->vars[i];
        for (struct ptx_reloc *r = v->relocs; r; r = r->next) {
            u64 value;
            struct ptx_var *to = ptx_var_find(t, r->symbol);
            struct ptx_function *f = to ? NULL : ptx_function_find(t, r->symbol);
            if (to)
                value = to->addr + (u64)r->addend;
            else if (f)
                value = VM_CODE_BASE + 16ull * vm_code_of(m, f)->id + (u64)r->addend;
            else
                return err_set(e, ERR_INPUT, "%s line %u: unknown name %s in the initializer of %s", m->file, v->line,
                               r->symbol, v->name);
            if (v->space == SP_SHARED || r->off + (u64)r->bytes > v->bytes) continue;
            memcpy((u8 *)vm_mem_host(v->addr, v->bytes) + r->off, &value, (size_t)(r->bytes < 8 ? r->bytes : 8));
        }
    }
    return true;
}

static bool shared_fits(struct vm_module *m, struct err *e);

bool vm_module_load(const char *ptx, size_t len, const char *file_name, struct vm_module **out, char *log,
                    size_t log_cap) {
    *out = NULL;
    struct err e = {0};
    static u32 serial_number;
    struct vm_module *m = mem_new(sizeof *m);
    m->file = arena_strdup(&m->arena, file_name ? file_name : "module.ptx");
    m->serial_number = ++serial_number;
    bool ok = ptx_parse(ptx, len, &m->text, &e);
    if (!ok) err_prefix(&e, "%s", m->file);
    if (ok && !vm_memory_init()) ok = err_set(&e, ERR_MEMORY, "no address space for device memory");
    if (ok) ok = shared_fits(m, &e) && place_globals(m, &e);
    if (!ok) {
        if (log && log_cap) snprintf(log, log_cap, "%s", e.msg);
        vm_module_free(m);
        return false;
    }
    if (log && log_cap) *log = 0;
    *out = m;
    return true;
}

void vm_module_free(struct vm_module *m) {
    if (!m) return;
    for (int i = 0; i < m->text.n_vars; i++) {
        struct ptx_var *v = m->text.vars[i];
        if (v->addr && (v->space == SP_GLOBAL || v->space == SP_CONST || v->space == SP_TEXREF)) vm_mem_free(v->addr);
    }
    for (struct code *c = m->codes; c; c = c->next) {
        pthread_mutex_lock(&lock);
        by_id[c->id - 1] = NULL;
        pthread_mutex_unlock(&lock);
        mem_free(c->insns);
        mem_free(c->pool);
    }
    ptx_free(&m->text);
    arena_free(&m->arena);
    mem_free(m);
}

const char *vm_module_file(const struct vm_module *m) {
    return m->file;
}
size_t vm_module_kernel_count(const struct vm_module *m) {
    size_t n = 0;
    for (struct ptx_function *f = m->text.functions; f; f = f->next) n += f->is_entry && f->has_body;
    return n;
}
const char *vm_module_kernel_name(const struct vm_module *m, size_t i) {
    for (struct ptx_function *f = m->text.functions; f; f = f->next)
        if (f->is_entry && f->has_body && !i--) return f->name;
    return NULL;
}
int vm_module_global(struct vm_module *m, const char *name, uint64_t *addr, size_t *bytes) {
    struct ptx_var *v = ptx_var_find(&m->text, name);
    if (!v || (v->space != SP_GLOBAL && v->space != SP_CONST)) return VM_NOT_FOUND;
    if (addr) *addr = v->addr;
    if (bytes) *bytes = v->bytes;
    return VM_OK;
}

/* ---- what a function reaches ---- */
struct reach {
    struct vm_module *m;
    struct code **codes;
    u32 n, cap;
    struct ptx_var **shared;
    u32 n_shared, cap_shared;
    bool indirect;
};

static void add_code(struct reach *r, struct ptx_function *f) {
    if (!f->has_body) return; /* the decoder complains where it is called */
    struct code *c = vm_code_of(r->m, f);
    if (c->in_walk) return;
    c->in_walk = true;
    if (r->n == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 16;
        r->codes = mem_grow(r->codes, r->cap * sizeof *r->codes);
    }
    r->codes[r->n++] = c;
}
static void add_shared(struct reach *r, struct ptx_var *v) {
    if (v->space != SP_SHARED) return;
    for (u32 i = 0; i < r->n_shared; i++)
        if (r->shared[i] == v) return;
    if (r->n_shared == r->cap_shared) {
        r->cap_shared = r->cap_shared ? r->cap_shared * 2 : 16;
        r->shared = mem_grow(r->shared, r->cap_shared * sizeof *r->shared);
    }
    r->shared[r->n_shared++] = v;
}
static void walk_operand(struct reach *r, const struct ptx_operand *o) {
    if (o->kind == O_VAR) add_shared(r, o->var);
    if (o->kind == O_NAME) {
        struct ptx_var *v = ptx_var_find(&r->m->text, o->name);
        struct ptx_function *f = v ? NULL : ptx_function_find(&r->m->text, o->name);
        if (v) add_shared(r, v);
        if (f) add_code(r, f);
    }
    for (int i = 0; i < o->n; i++) walk_operand(r, &o->elems[i]);
}
static void walk(struct reach *r, struct ptx_function *f) {
    add_code(r, f);
    for (u32 k = 0; k < r->n; k++) {
        struct ptx_function *g = r->codes[k]->f;
        for (int i = 0; i < g->n_code; i++) {
            const struct ptx_statement *st = &g->code[i];
            for (int j = 0; j < st->n; j++) walk_operand(r, &st->operands[j]);
            if (r->indirect || strncmp(st->op, "call", 4)) continue;
            for (int j = 0; j < st->n; j++)
                if (st->operands[j].kind == O_REG) r->indirect = true;
            if (r->indirect) /* it may call every function whose address is in a variable */
                for (int v = 0; v < r->m->text.n_vars; v++)
                    for (struct ptx_reloc *q = r->m->text.vars[v]->relocs; q; q = q->next) {
                        struct ptx_function *t = ptx_function_find(&r->m->text, q->symbol);
                        if (t) add_code(r, t);
                    }
        }
    }
}

enum { SHARED_RED_ZONE = 16, SHARED_PLACED = -2, MAX_STATIC_SHARED = 48 << 10 };

static u64 static_shared(struct ptx_var *const *vars, u32 n) {
    u64 sum = 0;
    for (u32 i = 0; i < n; i++) {
        const struct ptx_var *v = vars[i];
        u64 align = v->align ? v->align : 1;
        if (v->space == SP_SHARED && !v->is_extern) sum = ((sum + align - 1) & ~(align - 1)) + v->bytes;
    }
    return sum;
}

/* Offsets of shared variables. One variable keeps its place for all kernels of the module, so a kernel may see gaps. */
static void layout_shared(struct reach *r, struct vm_function *f) {
    u64 end = 0, dynamic_align = 16;
    for (u32 i = 0; i < r->n_shared; i++) {
        struct ptx_var *v = r->shared[i];
        if (v->is_extern || !v->bytes) {
            if (v->align > dynamic_align) dynamic_align = v->align;
            continue;
        }
        if (v->reg == SHARED_PLACED && v->addr + v->bytes + SHARED_RED_ZONE > end)
            end = v->addr + v->bytes + SHARED_RED_ZONE;
    }
    for (u32 i = 0; i < r->n_shared; i++) {
        struct ptx_var *v = r->shared[i];
        if (v->is_extern || !v->bytes) {
            v->is_extern = true;
            v->addr = 0;
            continue;
        }
        if (v->reg != SHARED_PLACED) { /* not placed yet */
            u64 align = v->align < 16 ? 16 : v->align;
            v->addr = (end + align - 1) & ~(align - 1);
            v->reg = SHARED_PLACED;
        }
        if (v->addr + v->bytes + SHARED_RED_ZONE > end) end = v->addr + v->bytes + SHARED_RED_ZONE;
        f->shared = mem_grow(f->shared, (f->n_shared + 1) * sizeof *f->shared);
        f->shared[f->n_shared++] = v;
    }
    if (end) end = (end + dynamic_align - 1) & ~(dynamic_align - 1);
    f->shared_layout = end > UINT32_MAX ? UINT32_MAX : (u32)end;
    f->info.static_shared = (u32)static_shared(r->shared, r->n_shared);
}

/* ptxas, and so the driver, refuses a module with a kernel of more static shared memory. */
static bool shared_fits(struct vm_module *m, struct err *e) {
    struct ptx_text *t = &m->text;
    u64 all = static_shared(t->vars, (u32)t->n_vars);
    for (struct ptx_function *p = t->functions; p; p = p->next) all += static_shared(p->locals, (u32)p->n_locals);
    for (struct ptx_function *p = all > MAX_STATIC_SHARED ? t->functions : NULL; p; p = p->next) {
        if (!p->is_entry || !p->has_body) continue;
        struct reach r = {.m = m};
        walk(&r, p);
        for (u32 i = 0; i < r.n; i++) r.codes[i]->in_walk = false;
        u64 bytes = static_shared(r.shared, r.n_shared);
        mem_free(r.codes);
        mem_free(r.shared);
        if (bytes > MAX_STATIC_SHARED)
            return err_set(e, ERR_INPUT, "%s line %u: %s uses too much shared data: %llu bytes, at most %d are allowed",
                           m->file, p->line, p->name, (unsigned long long)bytes, MAX_STATIC_SHARED);
    }
    return true;
}

static u32 deepest_local(struct code *c, int depth) {
    u32 most = 0;
    if (depth > 64 || c->in_walk) return 0;
    c->in_walk = true;
    for (int i = 0; i < c->n_calls; i++) {
        u32 n = deepest_local(c->calls[i], depth + 1);
        if (n > most) most = n;
    }
    c->in_walk = false;
    return c->local_bytes + most;
}

static void fill_info(struct vm_module *m, struct ptx_function *p, struct vm_function *f) {
    struct vm_function_info *i = &f->info;
    i->name = p->name;
    i->module = m;
    i->n_params = (unsigned)p->n_params;
    struct vm_param *params = arena_new(&m->arena, ((size_t)p->n_params + 1) * sizeof *params);
    for (int k = 0; k < p->n_params; k++) {
        params[k] = (struct vm_param){(u32)p->params[k]->addr, (u32)p->params[k]->bytes, p->params[k]->align};
        u32 end = params[k].off + params[k].bytes;
        if (end > i->param_bytes) i->param_bytes = end;
    }
    i->params = params;
    i->const_bytes = m->const_bytes;
    memcpy(i->maxntid, p->maxntid, sizeof i->maxntid);
    memcpy(i->reqntid, p->reqntid, sizeof i->reqntid);
    memcpy(i->cluster, p->cluster, sizeof i->cluster);
    const u32 *limit = p->reqntid[0] ? p->reqntid : p->maxntid;
    u64 threads = limit[0] ? (u64)limit[0] * limit[1] * limit[2] : 1024;
    i->max_threads = threads > 1024 || !threads ? 1024 : (u32)threads;
    i->minnctapersm = p->minnctapersm;
    i->maxnreg = p->maxnreg;
    i->ptx_version = m->text.version;
    i->target_sm = m->text.target_sm;
    i->local_bytes = deepest_local(f->code, 0);
    /* nvcc's registers are virtual: about one in four is alive at a time, and 64 is the most that leaves room for the
     * 1024 threads of any block that may come. */
    u32 regs = 16 + f->code->n_rows_32 / 4;
    i->regs = regs > 64 ? 64 : regs;
    if (p->maxnreg && i->regs > p->maxnreg) i->regs = p->maxnreg;
    while (i->regs > 16 && i->regs * i->max_threads > 65536 && limit[0]) i->regs--;
}

int vm_module_function(struct vm_module *m, const char *name, struct vm_function **out, char *log, size_t log_cap) {
    static pthread_mutex_t decoding = PTHREAD_MUTEX_INITIALIZER;
    *out = NULL;
    if (log && log_cap) *log = 0;
    struct ptx_function *p = ptx_function_find(&m->text, name);
    if (!p || !p->is_entry || !p->has_body) return VM_NOT_FOUND;
    pthread_mutex_lock(&decoding);
    for (struct vm_function *f = m->functions; f; f = f->next)
        if (f->info.name && !strcmp(f->info.name, name)) *out = f;
    if (*out) {
        pthread_mutex_unlock(&decoding);
        return VM_OK;
    }
    struct reach r = {.m = m};
    struct vm_function *f = arena_new(&m->arena, sizeof *f);
    walk(&r, p);
    for (u32 i = 0; i < r.n; i++) r.codes[i]->in_walk = false;
    layout_shared(&r, f);
    struct err e = {0};
    bool ok = true;
    for (u32 i = 0; i < r.n && ok; i++) {
        ok = vm_decode(m, r.codes[i], &e);
        f->serial |= r.codes[i]->serial;
        f->reserved_shared |= r.codes[i]->reserved_shared;
    }
    if (ok) {
        f->code = vm_code_of(m, p);
        f->module = m;
        struct ptx_var **own = arena_new(&m->arena, (f->n_shared + 1) * sizeof *own);
        if (f->n_shared) memcpy(own, f->shared, f->n_shared * sizeof *own);
        fill_info(m, p, f);
        mem_free(f->shared);
        f->shared = own;
        f->next = m->functions;
        m->functions = f;
        *out = f;
    } else {
        mem_free(f->shared);
        if (log && log_cap) snprintf(log, log_cap, "%s", e.msg);
    }
    mem_free(r.codes);
    mem_free(r.shared);
    pthread_mutex_unlock(&decoding);
    return ok ? VM_OK : VM_INVALID_PTX;
}

const struct vm_function_info *vm_function_info(const struct vm_function *f) {
    return &f->info;
}
