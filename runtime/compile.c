#include "runtime/compile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/ahead.h"

static const char *const run_dim_names[N_RUN_DIMS] = {"tok", "pos",  "key",       "ctx",       "npages",
                                                      "nb",  "rows", "row_bytes", "tile_bytes"};

static bool find_dim(const char *name, enum run_dim *out) {
    for (int i = 0; i < N_RUN_DIMS; i++)
        if (strcmp(run_dim_names[i], name) == 0) {
            *out = (enum run_dim)i;
            return true;
        }
    return false;
}

int64_t part_tasks(const struct part *p, const int64_t *sizes) {
    if (p->per == 0) return p->times;
    return p->times * ((sizes[p->dim] + p->per - 1) / p->per);
}

uint64_t kernel_ws_bytes(const struct kernel *k, int64_t tok, int64_t n_pages) {
    return k->ws_per_tok * (uint64_t)tok + k->ws_per_page * (uint64_t)n_pages;
}

bool part_has_rows(const struct part *p) {
    return p->per == 0 && p->times > 1 && p->n_constants > 0;
}

/* With so many tokens, tasks differ in work (causal attention), and all threads take runs of them from one deal. With
 * fewer a thread has its share, which starts where the last phase's would; who is done early helps its neighbours, if
 * their shares are long enough for that to pay, or one of them may have all the work. */
enum { DEALT_TOKENS = 16, HELPED_TASKS = 8, NEIGHBOURS = 4 };

/* The shortest runs are this part of a thread's share: as short as can be, but neighbouring tokens write to the same
 * lines of the KV cache, for which two threads should not compete. */
enum { RUNS_OF_ROWS = 32, RUNS_OF_TOKENS = 8 };

void kernel_run(const struct kernel *k, struct pool *pool, int thread, void *const *args, const int64_t *sizes,
                uint8_t *ws, struct ahead *ahead) {
    int64_t dims[N_RUN_DIMS], begin, end;
    int n_threads = pool_threads(pool), helped = n_threads - 1 < NEIGHBOURS ? n_threads - 1 : NEIGHBOURS;
    for (size_t i = 0; i < k->n_dims; i++) dims[i] = sizes[k->dims[i]];
    for (size_t i = 0; i < k->n_phases; i++) {
        for (int round = 0; round <= helped; round++) {
            int owner = (thread + round) % n_threads;
            for (size_t j = 0; j < k->phases[i].n_parts; j++) {
                const struct part *p = &k->phases[i].parts[j];
                int64_t n = part_tasks(p, sizes);
                bool dealt = sizes[RUN_TOK] >= DEALT_TOKENS && j < POOL_DEALS;
                if (!dealt && n >= (p->uneven ? 2 : HELPED_TASKS * n_threads) && n <= POOL_SHARED && j < POOL_DEALS) {
                    bool more = true;
                    while (more && pool_take_share(pool, thread, owner, (int)j, n, &begin, &end, &more))
                        p->fn(args, dims, begin, end, ws);
                } else if (round > 0) {
                    continue;
                } else if (dealt) {
                    int64_t least = n / (n_threads * (p->per ? RUNS_OF_TOKENS : RUNS_OF_ROWS));
                    while (pool_take(pool, (int)j, n, least, &begin, &end)) p->fn(args, dims, begin, end, ws);
                } else {
                    pool_share(pool, thread, n, &begin, &end);
                    if (begin < end) p->fn(args, dims, begin, end, ws);
                }
            }
        }
        if (ahead && k->phases[i].rows) ahead_pass(ahead);
        pool_barrier_idle(pool, ahead ? ahead_step : NULL, ahead);
    }
}

void kernel_free(struct kernel *k) {
    for (size_t i = 0; i < k->n_phases; i++) {
        for (size_t j = 0; j < k->phases[i].n_parts; j++) {
            mem_free(k->phases[i].parts[j].name);
            mem_free(k->phases[i].parts[j].constants);
        }
        mem_free(k->phases[i].parts);
    }
    for (size_t i = 0; i < k->n_args; i++) mem_free(k->args[i]);
    mem_free(k->phases);
    mem_free(k->args);
    mem_free(k->dims);
    mem_free(k->name);
    mem_free(k->ptx);
    buf_free(&k->cubin);
    code_free(k->code);
    *k = (struct kernel){0};
}

static char *copy(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(mem_new(n), s, n);
}

/* Takes compiled code: an object, or a GPU's text. */
static bool load_code(struct kernel *k, const struct target *t, const struct buf *obj, struct err *e) {
    if (!t->ptx) return code_load(obj->data, obj->len, &k->code, e);
    k->ptx = mem_new(obj->len + 1);
    k->dependent = (t->features & FEAT_DEPENDENT) != 0;
    memcpy(k->ptx, obj->data, obj->len);
    return true;
}

/* Fills k from a launch's description (dsl/main.lua, lower) and its loaded code. */
static bool describe(struct kernel *k, const json_t *meta, struct err *e) {
    const char *name = json_string_value(json_object_get(meta, "name"));
    if (!name) return err_set(e, ERR_INPUT, "a compiled kernel has no name");
    k->name = copy(name);
    k->ws_per_tok = (uint64_t)json_integer_value(json_object_get(meta, "ws"));
    k->ws_per_page = (uint64_t)json_integer_value(json_object_get(meta, "ws_page"));
    const json_t *phases = json_object_get(meta, "phases");
    k->phases = mem_new(json_array_size(phases) * sizeof *k->phases);
    for (size_t i = 0; i < json_array_size(phases); i++) {
        const json_t *parts = json_array_get(phases, i);
        struct phase *ph = &k->phases[k->n_phases++];
        ph->parts = mem_new(json_array_size(parts) * sizeof *ph->parts);
        for (size_t j = 0; j < json_array_size(parts); j++) {
            const json_t *p = json_array_get(parts, j);
            const char *fn = json_string_value(json_object_get(p, "fn"));
            const char *dim = json_string_value(json_object_get(p, "dim"));
            struct part *part = &ph->parts[ph->n_parts++];
            part->times = json_integer_value(json_object_get(p, "times"));
            part->per = json_integer_value(json_object_get(p, "per"));
            part->uneven = json_is_true(json_object_get(p, "uneven"));
            part->team = json_is_true(json_object_get(p, "team"));
            const json_t *constants = json_object_get(p, "constants");
            part->constants = mem_new((json_array_size(constants) + 1) * sizeof *part->constants);
            for (size_t c = 0; c < json_array_size(constants); c++)
                part->constants[part->n_constants++] = (size_t)json_integer_value(json_array_get(constants, c));
            ph->rows |= part_has_rows(part);
            for (size_t c = 0; c < part->n_constants; c++)
                if (part->constants[c] >= json_array_size(json_object_get(meta, "args")))
                    return err_set(e, ERR_INPUT, "kernel '%s': a part reads an argument that there is not", name);
            if (!fn || (part->per && (!dim || !find_dim(dim, &part->dim))))
                return err_set(e, ERR_INPUT, "kernel '%s': a part without a function or task axis", name);
            part->name = copy(fn);
            part->fn = k->ptx ? NULL : code_symbol(k->code, fn);
            if (!part->fn && !k->ptx)
                return err_set(e, ERR_COMPILE, "kernel '%s': no function '%s' in its object", name, fn);
        }
    }
    const json_t *args = json_object_get(meta, "args"), *dims = json_object_get(meta, "dims");
    k->args = mem_new(json_array_size(args) * sizeof *k->args);
    for (size_t i = 0; i < json_array_size(args); i++)
        k->args[k->n_args++] = copy(json_string_value(json_array_get(args, i)));
    k->dims = mem_new(json_array_size(dims) * sizeof *k->dims);
    for (size_t i = 0; i < json_array_size(dims); i++) {
        const char *d = json_string_value(json_array_get(dims, i));
        if (!find_dim(d, &k->dims[k->n_dims++]))
            return err_set(e, ERR_INPUT, "kernel '%s': the run-time size '%s' is not known to the runtime", name, d);
    }
    return true;
}

json_t *compile_target(const struct target *t, bool serial) {
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:b, s:i, s:b, s:b}", "class", t->class_name, "lanes", (int)t->lanes,
                     "pack_lanes", (int)t->pack_lanes, "pack_words", (int)t->pack_words, "vregs", (int)t->n_vregs,
                     "serial", serial, "team", t->ptx ? (int)PTX_THREADS : 0, "tiles", (t->features & FEAT_MMA) != 0,
                     "tiledot", (t->features & FEAT_AMX) != 0);
}

bool compile_packed_size(struct dsl *d, const struct target *t, const char *fmt, int64_t rows, int64_t n,
                         struct packed_size *out, struct err *e) {
    json_t *arg = json_pack("{s:s, s:i, s:i, s:I, s:I}", "fmt", fmt, "lanes", (int)t->pack_lanes, "words",
                            (int)t->pack_words, "rows", (json_int_t)rows, "n", (json_int_t)n);
    json_t *r = NULL;
    bool ok = dsl_call(d, "packed_size", arg, &r, e);
    json_decref(arg);
    if (!ok) return false;
    out->tile = json_integer_value(json_object_get(r, "tile"));
    out->bytes = json_integer_value(json_object_get(r, "bytes"));
    json_decref(r);
    return true;
}

bool compile_lower(struct dsl *d, const json_t *spec, const struct target *t, bool serial, json_t **meta,
                   struct err *e) {
    json_t *arg = json_pack("{s:O, s:o}", "spec", (json_t *)spec, "target", compile_target(t, serial));
    if (!arg) return err_set(e, ERR_INPUT, "a kernel specification is not valid data");
    bool ok = dsl_call(d, "lower", arg, meta, e);
    json_decref(arg);
    return ok;
}

bool compile_lowered(const json_t *meta, const struct target *t, struct kernel *out, struct err *e) {
    struct buf obj = {0};
    const json_t *ir = json_object_get(meta, "ir");
    bool ok = codegen_emit(json_string_value(ir), json_string_length(ir), t, STAGE_OBJ, NULL, &obj, e) &&
              load_code(out, t, &obj, e) && describe(out, meta, e);
    buf_free(&obj);
    if (!ok) {
        kernel_free(out);
        err_prefix(e, "%s", json_string_value(json_object_get(meta, "name")));
    }
    return ok;
}

/* One kernel on its way through the cache. */
struct job {
    char *key;
    json_t *meta; /* with "ir" until compiled */
    struct buf obj;
    struct buf cubin; /* of a GPU's, where there is an assembler, or a bundle has it */
    struct target target;
    bool cached, has_cubin, done;
    struct err err;
};

/* What a child has to do for a job: make its code, or the cubin of code that is there. */
static bool wants_cubin(const struct compiler *c, const struct job *j) {
    return c->assembler && j->target.ptx && !j->has_cubin;
}
static bool is_open(const struct compiler *c, const struct job *j) {
    return !j->cached || wants_cubin(c, j);
}

/* ---- compiling in child processes: LLVM's memory goes with them, and one that dies takes nothing along ---- */

/* What a child sends for a job: this, then `bytes` of object, or a struct err where ok is 0, and its cubin. */
struct reply {
    uint64_t job, ok, bytes, cubin_bytes;
};

/* Code without a cubin is as good. */
static void make_cubin(struct compiler *c, struct job *j) {
    static bool warned;
    struct err e;
    if (assembler_run(c->assembler, &j->target, &j->obj, &j->cubin, &e)) return;
    warn_once(&warned, "%s; the driver compiles the code itself", e.msg);
    buf_free(&j->cubin);
}

/* The child's part: jobs first, first + step, … of those that are open. */
static void compile_share(struct compiler *c, struct job *jobs, size_t n, size_t first, size_t step, int fd) {
    size_t miss = 0;
    for (size_t i = 0; i < n; i++) {
        struct job *j = &jobs[i];
        if (!is_open(c, j) || miss++ % step != first) continue;
        const json_t *ir = json_object_get(j->meta, "ir");
        bool ok = j->cached || codegen_emit(json_string_value(ir), json_string_length(ir), &j->target, STAGE_OBJ,
                                            c->dump, &j->obj, &j->err);
        if (ok && wants_cubin(c, j)) make_cubin(c, j);
        struct reply r = {i, ok, ok ? j->obj.len : sizeof j->err, j->cubin.len};
        if (!fd_write(fd, &r, sizeof r) || !fd_write(fd, ok ? (void *)j->obj.data : (void *)&j->err, r.bytes) ||
            !fd_write(fd, j->cubin.data, r.cubin_bytes))
            return;
        buf_free(&j->obj);
        buf_free(&j->cubin);
    }
}

struct child {
    pid_t pid;
    int fd;
    struct buf in;
};

static void take_replies(struct child *ch, struct job *jobs, size_t n) {
    struct reply r;
    while (ch->in.len >= sizeof r) {
        memcpy(&r, ch->in.data, sizeof r);
        uint64_t have = ch->in.len - sizeof r;
        if (r.job >= n || r.bytes > have || r.cubin_bytes > have - r.bytes) return;
        struct job *j = &jobs[r.job];
        const char *body = ch->in.data + sizeof r;
        j->done = true;
        if (!r.ok)
            memcpy(&j->err, body, sizeof j->err);
        else if (!j->cached)
            buf_add(&j->obj, body, r.bytes);
        buf_add(&j->cubin, body + r.bytes, r.cubin_bytes);
        uint64_t taken = sizeof r + r.bytes + r.cubin_bytes;
        memmove(ch->in.data, ch->in.data + taken, ch->in.len - taken);
        ch->in.len -= taken;
    }
}

static bool start_child(struct compiler *c, struct job *jobs, size_t n, size_t first, size_t step, struct child *ch,
                        struct err *e) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC)) return err_set(e, ERR_IO, "no pipe to a compiler process: %s", strerror(errno));
    ch->pid = fork();
    if (ch->pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        compile_share(c, jobs, n, first, step, fds[1]);
        _exit(0);
    }
    close(fds[1]);
    ch->fd = fds[0];
    if (ch->pid < 0) {
        close(fds[0]);
        ch->fd = -1;
        return err_set(e, ERR_IO, "no compiler process: %s", strerror(errno));
    }
    return true;
}

enum { MAX_CHILDREN = 64 };

static bool compile_misses(struct compiler *c, struct job *jobs, size_t n, struct err *e) {
    size_t misses = 0;
    for (size_t i = 0; i < n; i++) misses += is_open(c, &jobs[i]);
    size_t want = c->dump ? 1 : (size_t)c->n_threads, started = 0;
    if (want > misses) want = misses;
    if (want > MAX_CHILDREN) want = MAX_CHILDREN;
    struct child children[MAX_CHILDREN] = {0};
    struct pollfd polls[MAX_CHILDREN];
    bool ok = true;
    while (started < want && ok)
        if ((ok = start_child(c, jobs, n, started, want, &children[started], e))) started++;
    for (size_t open = started; open;) {
        for (size_t i = 0; i < started; i++) polls[i] = (struct pollfd){.fd = children[i].fd, .events = POLLIN};
        if (poll(polls, started, -1) < 0 && errno != EINTR) break;
        for (size_t i = 0; i < started; i++) {
            if (children[i].fd < 0 || !polls[i].revents) continue;
            char chunk[1 << 16];
            ssize_t got = read(children[i].fd, chunk, sizeof chunk);
            if (got > 0) {
                buf_add(&children[i].in, chunk, (size_t)got);
                take_replies(&children[i], jobs, n);
            } else if (got == 0 || errno != EINTR) {
                close(children[i].fd);
                children[i].fd = -1;
                open--;
            }
        }
    }
    int status = 0, worst = 0;
    for (size_t i = 0; i < started; i++) {
        while (waitpid(children[i].pid, &status, 0) < 0 && errno == EINTR) {
        }
        if (status) worst = status;
        buf_free(&children[i].in);
    }
    for (size_t i = 0; i < n && ok; i++)
        if (is_open(c, &jobs[i]) && !jobs[i].done)
            ok = err_set(e, ERR_COMPILE, "kernel '%s': the compiler process %s %d; please report the kernel",
                         json_string_value(json_object_get(jobs[i].meta, "name")),
                         WIFSIGNALED(worst) ? "died of signal" : "ended with status",
                         WIFSIGNALED(worst) ? WTERMSIG(worst) : WEXITSTATUS(worst));
    return ok;
}

/* A cache payload: the description's length as 8 bytes, the description (JSON), the object. */
static bool unpack(struct job *j, const struct buf *payload) {
    uint64_t n;
    if (payload->len < sizeof n) return false;
    memcpy(&n, payload->data, sizeof n);
    if (n > payload->len - sizeof n) return false;
    j->meta = json_loadb(payload->data + sizeof n, n, 0, NULL);
    if (!j->meta) return false;
    buf_add(&j->obj, payload->data + sizeof n + n, payload->len - sizeof n - n);
    return true;
}

static void store(struct compiler *c, struct job *j) {
    json_object_del(j->meta, "ir");
    char *text = json_dumps(j->meta, JSON_COMPACT | JSON_SORT_KEYS);
    uint64_t n = strlen(text);
    struct buf payload = {0};
    buf_add(&payload, &n, sizeof n);
    buf_add(&payload, text, n);
    buf_add(&payload, j->obj.data, j->obj.len);
    cache_put(c->cache, j->key, strlen(j->key), payload.data, payload.len);
    buf_free(&payload);
    free(text);
}

/* A cubin's key: its code's, and what made it. The caller mem_free()s it. */
static char *cubin_key(const struct compiler *c, const struct job *j) {
    struct buf b = {0};
    buf_printf(&b, "cubin|%s|%s", c->assembler->version, j->key);
    return b.data;
}

static void find_cubin(struct compiler *c, struct job *j) {
    if (!wants_cubin(c, j) || !c->cache) return;
    char *key = cubin_key(c, j);
    j->has_cubin = cache_get(c->cache, key, strlen(key), &j->cubin);
    mem_free(key);
}

static void store_cubin(struct compiler *c, struct job *j) {
    if (!wants_cubin(c, j) || !c->cache || !j->cubin.len) return;
    char *key = cubin_key(c, j);
    cache_put(c->cache, key, strlen(key), j->cubin.data, j->cubin.len);
    mem_free(key);
}

static bool lower_job(struct compiler *c, const json_t *spec, const char *pack_fmt, struct job *j, struct err *e) {
    if (!pack_fmt) return compile_lower(c->dsl, spec, &c->target, false, &j->meta, e);
    json_t *arg = json_pack("{s:s, s:i, s:i}", "fmt", pack_fmt, "lanes", (int)j->target.pack_lanes, "words",
                            (int)j->target.pack_words);
    json_t *r = NULL;
    bool ok = dsl_call(c->dsl, "pack", arg, &r, e);
    json_decref(arg);
    if (!ok) return false;
    j->meta =
        json_pack("{s:O, s:O, s:i, s:[[{s:O, s:i, s:i, s:s}]], s:[s, s, s], s:O}", "name", json_object_get(r, "name"),
                  "ir", json_object_get(r, "ir"), "ws", 0, "phases", "fn", json_object_get(r, "fn"), "times", 1, "per",
                  1, "dim", "rows", "args", "src", "dst", "rowmap", "dims", json_object_get(r, "dims"));
    json_object_set_new(json_array_get(json_array_get(json_object_get(j->meta, "phases"), 0), 0), "per",
                        json_integer((json_int_t)j->target.pack_lanes));
    json_decref(r);
    return true;
}

/* The host packs a GPU's weights, for the GPU's lanes. */
static bool find_target(const struct compiler *c, const char *pack_fmt, struct target *out, struct err *e) {
    *out = c->target;
    if (!pack_fmt || !out->ptx) return true;
    if (!target_find(c->host ? c->host : "native", out, e)) return false;
    out->pack_lanes = c->target.pack_lanes;
    out->pack_words = c->target.pack_words;
    return true;
}

static char *key_of(const struct compiler *c, const struct target *t, const json_t *spec, const char *pack_fmt) {
    struct buf b = {0};
    char *text = spec ? json_dumps(spec, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    codegen_key("", 0, t, &b);
    buf_printf(&b, "%u|%u|%u|%s|%s", t->lanes, t->pack_lanes, t->pack_words, dsl_digest(c->dsl),
               pack_fmt ? pack_fmt : text);
    free(text);
    return b.data;
}

/* Of a launch that is made for one token the tunables are those of any number of tokens. */
char *compile_key(const struct compiler *c, const json_t *spec) {
    json_t *any = json_copy((json_t *)spec), *sizes = json_object_get(spec, "sizes");
    if (json_object_get(sizes, "tok")) {
        json_object_set_new(any, "sizes", json_copy(sizes));
        json_object_del(json_object_get(any, "sizes"), "tok");
    }
    char *key = key_of(c, &c->target, any, NULL);
    json_decref(any);
    return key;
}

/* The tunables that were found for a specification that has none; NULL: none were. A new reference. */
static json_t *choice_for(const struct compiler *c, const json_t *spec, enum tune_use use) {
    if (!c->tune || !spec || json_object_get(spec, "tune")) return NULL;
    char *key = compile_key(c, spec);
    json_t *tune = tunedb_find(c->tune, key, c->tune_threads, use);
    mem_free(key);
    return tune;
}

json_t *compile_of_one(const json_t *spec) {
    json_t *one = json_copy((json_t *)spec), *sizes = json_object_get(spec, "sizes");
    json_object_set_new(one, "sizes", sizes ? json_copy(sizes) : json_object());
    json_object_set_new(json_object_get(one, "sizes"), "tok", json_integer(1));
    return one;
}

json_t *compile_split(const json_t *spec) {
    return json_is_true(json_object_get(spec, "splits")) ? compile_of_one(spec) : NULL;
}

json_t *compile_for_one(const struct compiler *c, const json_t *spec) {
    json_t *token = choice_for(c, spec, USE_TOKEN), *prompt = choice_for(c, spec, USE_PROMPT), *one = compile_split(spec);
    if (!one && token != prompt && !json_equal(token, prompt)) one = json_copy((json_t *)spec);
    if (one && token) json_object_set(one, "tune", token);
    json_decref(token);
    json_decref(prompt);
    return one;
}

/* The specification with the tunables that were found for it; NULL: none were. A new reference. */
static json_t *tuned(const struct compiler *c, const json_t *spec) {
    json_t *tune = choice_for(c, spec, c->tune_use);
    if (!tune) return NULL;
    json_t *with = json_copy((json_t *)spec);
    json_object_set_new(with, "tune", tune);
    return with;
}

/* Finds a job's code in the cache, or lowers it. */
static bool prepare(struct compiler *c, const json_t *spec, const char *fmt, struct job *j, struct err *e) {
    mem_free(j->key);
    j->key = key_of(c, &j->target, spec, fmt);
    struct buf payload = {0};
    if (c->cache && cache_get(c->cache, j->key, strlen(j->key), &payload)) j->cached = unpack(j, &payload);
    buf_free(&payload);
    return j->cached || lower_job(c, spec, fmt, j, e);
}

/* What a bundle keeps a kernel's code under. */
static char *bundle_key(const json_t *spec, const char *fmt) {
    struct buf b = {0};
    char *text = fmt ? NULL : json_dumps(spec, JSON_COMPACT | JSON_SORT_KEYS);
    buf_printf(&b, "%s%s", fmt ? "pack " : "", fmt ? fmt : text);
    free(text);
    return b.data;
}

static bool take_from_bundle(struct compiler *c, const json_t *spec, const char *fmt, struct job *j, struct err *e) {
    const json_t *meta;
    const struct buf *code, *cubin;
    char *key = bundle_key(spec, fmt);
    j->cached = bundle_find(c->from, key, &meta, &code, &cubin);
    if (!j->cached)
        err_set(e, ERR_INPUT, "%s: the bundle holds no code for %s; make it again with `kgen emit --bundle`",
                bundle_dir(c->from), key);
    mem_free(key);
    if (!j->cached) return false;
    j->meta = json_incref((json_t *)meta);
    buf_add(&j->obj, code->data, code->len);
    if (c->take_cubins) buf_add(&j->cubin, cubin->data, cubin->len);
    return true;
}

static void put_into_bundle(struct compiler *c, const json_t *spec, const char *fmt, struct job *j) {
    char *key = bundle_key(spec, fmt);
    json_object_del(j->meta, "ir");
    bundle_add(c->into, key, j->meta, j->target.ptx, &j->obj, &j->cubin);
    mem_free(key);
}

bool compile_kernels(struct compiler *c, const json_t *const *specs, const char *const *pack_fmts, size_t n,
                     struct kernel *out, struct err *e) {
    double start = now_s();
    memset(out, 0, n * sizeof *out);
    struct job *jobs = mem_new(n * sizeof *jobs);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        struct job *j = &jobs[i];
        const char *fmt = pack_fmts ? pack_fmts[i] : NULL;
        if (!(ok = find_target(c, fmt, &j->target, e))) break;
        if (c->from) {
            ok = take_from_bundle(c, specs[i], fmt, j, e);
            continue;
        }
        json_t *choice = fmt ? NULL : tuned(c, specs[i]);
        /* A choice that cannot be lowered (a database edited by hand) is no choice. */
        bool use = choice && prepare(c, choice, fmt, j, e);
        c->n_tuned += use;
        ok = use || prepare(c, specs[i], fmt, j, e);
        json_decref(choice);
        if (ok) find_cubin(c, j);
    }
    ok = ok && compile_misses(c, jobs, n, e);
    for (size_t i = 0; i < n && ok; i++) {
        struct job *j = &jobs[i];
        if (j->err.code) {
            *e = j->err;
            ok = err_prefix(e, "%s", json_string_value(json_object_get(j->meta, "name")));
            break;
        }
        if (!j->cached && c->cache) store(c, j);
        store_cubin(c, j);
        if (c->into) put_into_bundle(c, specs[i], pack_fmts ? pack_fmts[i] : NULL, j);
        c->n_cached += j->cached;
        c->n_compiled += !j->cached;
        ok = load_code(&out[i], &j->target, &j->obj, e) && describe(&out[i], j->meta, e);
        if (ok) buf_add(&out[i].cubin, j->cubin.data, j->cubin.len);
    }
    for (size_t i = 0; i < n; i++) {
        mem_free(jobs[i].key);
        json_decref(jobs[i].meta);
        buf_free(&jobs[i].obj);
        buf_free(&jobs[i].cubin);
        if (!ok) kernel_free(&out[i]);
    }
    mem_free(jobs);
    c->seconds += now_s() - start;
    return ok;
}
