#include "cli/kernel_case.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PAD = 4096,             /* kernels may read a vector past the end of an array */
    MAX_COPIES = 1024,      /* of all that is read from memory, in rotation, so that caches do not serve it */
    MAX_COPIED = 512 << 20, /* bytes they may take */
    PATTERN = 0xA5,         /* in outputs before a launch */
};
static const double LEAST_S = 0.02; /* one measurement lasts at least this long */

static int64_t integer(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_real(v) ? (int64_t)json_real_value(v) : json_integer_value(v);
}

static const char *string(const json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

int64_t case_bench_shapes(struct dsl *d, const char *kernel) {
    json_t *kernels = NULL;
    struct err e;
    int64_t n = 0;
    if (!dsl_call(d, "kernels", NULL, &kernels, &e)) return 0;
    for (size_t i = 0; i < json_array_size(kernels); i++) {
        const json_t *k = json_array_get(kernels, i);
        if (strcmp(string(k, "name"), kernel) == 0) n = integer(k, "n_bench");
    }
    json_decref(kernels);
    return n;
}

/* ---- Inputs -------------------------------------------------------------------------------------------------------
 */

static uint8_t *map_memory(size_t bytes, struct err *e) {
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) {
        madvise(p, bytes, MADV_HUGEPAGE);
        return p;
    }
    err_set(e, ERR_MEMORY, "%zu MiB for the kernel's arrays cannot be had; try a smaller --shape", bytes >> 20);
    return NULL;
}

/* Random blocks of the format, through its packing routine. */
static bool fill_weight(struct kernel_case *c, const json_t *a, uint8_t *out, struct err *e) {
    const char *fmt = string(a, "fmt");
    int64_t rows = integer(a, "rows"), n = integer(a, "n");
    struct ref_format ref;
    if (!ref_format_find(fmt, &ref))
        return err_set(e, ERR_UNSUPPORTED, "verify/ref_format.c knows no random %s values to measure with", fmt);
    if (n % ref.block_elems)
        return err_set(e, ERR_USAGE, "%lld elements are not whole blocks of %s", (long long)n, fmt);
    struct packed_size size;
    if (!compile_packed_size(c->dsl, c->target, fmt, rows, n, &size, e)) return false;
    struct compiler compiler = {.dsl = c->dsl, .target = *c->target, .n_threads = 1};
    const json_t *no_spec = NULL;
    struct kernel pack;
    bool ok = compile_kernels(&compiler, &no_spec, &fmt, 1, &pack, e);
    size_t row_bytes = ref_format_bytes(&ref, (size_t)n);
    uint8_t *blocks = ok ? map_memory(row_bytes * (size_t)rows + PAD, e) : NULL;
    int32_t *rowmap = mem_try((size_t)rows, sizeof *rowmap);
    if (ok && blocks && !rowmap) err_set(e, ERR_MEMORY, "no memory for %lld rows", (long long)rows);
    ok = ok && blocks && rowmap;
    if (ok) {
        ref_random_blocks(&ref, &c->rng, (size_t)(n * rows), 0.02, blocks);
        for (int64_t r = 0; r < rows; r++) rowmap[r] = (int32_t)r;
        int64_t sizes[N_RUN_DIMS] = {[RUN_NB] = n / ref.block_elems,
                                     [RUN_ROWS] = rows,
                                     [RUN_ROW_BYTES] = (int64_t)row_bytes,
                                     [RUN_TILE_BYTES] = size.tile};
        int64_t dims[N_RUN_DIMS];
        for (size_t i = 0; i < pack.n_dims; i++) dims[i] = sizes[pack.dims[i]];
        void *args[3] = {blocks, out, rowmap};
        const struct part *part = &pack.phases[0].parts[0];
        part->fn(args, dims, 0, part_tasks(part, sizes), NULL);
    }
    if (blocks) munmap(blocks, row_bytes * (size_t)rows + PAD);
    mem_free(rowmap);
    kernel_free(&pack);
    return ok;
}

static bool fill(struct kernel_case *c, const json_t *a, uint8_t *out, size_t bytes, struct err *e) {
    const char *role = string(a, "role");
    size_t n = bytes / 4;
    if (strcmp(role, "weight") == 0) return fill_weight(c, a, out, e);
    if (strcmp(role, "pages") == 0)
        for (size_t i = 0; i < n; i++) ((int32_t *)out)[i] = (int32_t)i;
    else if (strcmp(role, "ids") == 0)
        for (size_t i = 0; i < n; i++)
            ((int32_t *)out)[i] = (int32_t)ref_rng_below(&c->rng, (uint64_t)integer(c->costs, "n_ids"));
    else if (strcmp(string(a, "fmt"), "f16") == 0)
        for (size_t i = 0; i < bytes / 2; i++) ((uint16_t *)out)[i] = ref_f16_encode(ref_rng_uniform(&c->rng) * 2 - 1);
    else if (strcmp(string(a, "fmt"), "f32") != 0)
        memset(out, 0x2C, bytes); /* a blocked cache: as a half 0.065, as a byte 44, wherever either lies */
    else
        for (size_t i = 0; i < n; i++) ((float *)out)[i] = (float)(ref_rng_uniform(&c->rng) * 2 - 1);
    return true;
}

static size_t copies_for(size_t read_bytes) {
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t want = (l3 > 0 ? (size_t)l3 : (size_t)32 << 20) * 2;
    if (want > MAX_COPIED) want = MAX_COPIED;
    size_t copies = read_bytes ? want / read_bytes + 1 : 1;
    return copies < MAX_COPIES ? copies : MAX_COPIES;
}

/* What a model has in memory rather than in a cache when a launch begins: its weights and what was said so far. */
static bool comes_from_memory(const json_t *a) {
    return strcmp(string(a, "role"), "weight") == 0 ||
           (strcmp(string(a, "role"), "cache") == 0 && strcmp(string(a, "io"), "in") == 0);
}

static bool make_arrays(struct kernel_case *c, struct err *e) {
    const json_t *arrays = json_object_get(c->costs, "arrays");
    if (json_array_size(arrays) > CASE_MAX_ARRAYS)
        return err_set(e, ERR_UNSUPPORTED, "over %d arrays", CASE_MAX_ARRAYS);
    size_t read = 0;
    for (size_t i = 0; i < json_array_size(arrays); i++)
        if (comes_from_memory(json_array_get(arrays, i))) read += (size_t)integer(json_array_get(arrays, i), "bytes");
    c->n_copies = copies_for(read);
    for (size_t i = 0; i < json_array_size(arrays); i++) {
        const json_t *a = json_array_get(arrays, i);
        struct case_array *r = &c->arrays[c->n_arrays];
        r->content = (size_t)integer(a, "bytes");
        r->out = strcmp(string(a, "io"), "out") == 0;
        r->copies = comes_from_memory(a) ? c->n_copies : 1;
        r->bytes = (r->content + PAD + 63) / 64 * 64;
        r->data = map_memory(r->bytes * r->copies, e);
        if (!r->data) return false;
        c->n_arrays++;
        if (!fill(c, a, r->data, r->content, e)) return err_prefix(e, "%s", string(a, "name"));
        for (size_t k = 1; k < r->copies; k++) memcpy(r->data + k * r->bytes, r->data, r->bytes);
    }
    return true;
}

bool case_open(struct kernel_case *c, struct dsl *d, const struct target *t, const json_t *spec, const json_t *run,
               struct err *e) {
    *c = (struct kernel_case){.dsl = d, .target = t, .rng = {.seed = 1}};
    json_t *ask = json_pack("{s:O, s:O, s:i, s:i}", "spec", (json_t *)spec, "run", (json_t *)run, "lanes",
                            (int)t->pack_lanes, "words", (int)t->pack_words);
    bool ok = dsl_call(d, "case", ask, &c->costs, e);
    json_decref(ask);
    if (!ok) return false;
    static const char *const names[] = {
        [RUN_TOK] = "tok", [RUN_POS] = "pos", [RUN_KEY] = "key", [RUN_CTX] = "ctx", [RUN_NPAGES] = "npages"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) c->sizes[i] = integer(run, names[i]);
    c->ops = (double)integer(c->costs, "ops");
    c->bytes = (double)integer(c->costs, "bytes");
    return make_arrays(c, e);
}

void case_close(struct kernel_case *c) {
    for (size_t i = 0; i < c->n_arrays; i++) {
        munmap(c->arrays[i].data, c->arrays[i].bytes * c->arrays[i].copies);
        mem_free(c->arrays[i].kept);
    }
    if (c->ws) munmap(c->ws, c->ws_bytes);
    mem_free(c->args);
    json_decref(c->costs);
    *c = (struct kernel_case){0};
}

bool case_use(struct kernel_case *c, const struct kernel *k, struct err *e) {
    const json_t *arrays = json_object_get(c->costs, "arrays");
    mem_free(c->args);
    c->args = mem_new((c->n_copies * k->n_args + 1) * sizeof *c->args);
    for (size_t copy = 0; copy < c->n_copies; copy++)
        for (size_t i = 0; i < k->n_args; i++)
            for (size_t j = 0; j < c->n_arrays; j++)
                if (strcmp(k->args[i], string(json_array_get(arrays, j), "name")) == 0)
                    c->args[copy * k->n_args + i] =
                        c->arrays[j].data + (copy % c->arrays[j].copies) * c->arrays[j].bytes;
    size_t need = kernel_ws_bytes(k, c->sizes[RUN_TOK], c->sizes[RUN_NPAGES]) + PAD;
    if (need > c->ws_bytes) {
        if (c->ws) munmap(c->ws, c->ws_bytes);
        c->ws = map_memory(need, e);
        c->ws_bytes = c->ws ? need : 0;
        if (!c->ws) return false;
    }
    c->kernel = k;
    return true;
}

static void launch_on_thread(void *ctx, int thread) {
    const struct kernel_case *c = ctx;
    for (int64_t n = 0; n < c->n_launches; n++)
        kernel_run(c->kernel, c->pool, thread, c->args + (c->turn + (size_t)n) % c->n_copies * c->kernel->n_args,
                   c->sizes, c->ws, NULL);
}

double case_seconds(struct kernel_case *c, struct pool *pool, int64_t n) {
    c->pool = pool;
    c->n_launches = n;
    double start = now_s();
    pool_run(pool, launch_on_thread, c);
    c->turn += (size_t)n;
    return now_s() - start;
}

int64_t case_warm_up(struct kernel_case *c, struct pool *pool) {
    int64_t n = 1;
    while (case_seconds(c, pool, n) < LEAST_S && n < 1 << 24) n *= 2;
    return n;
}

void case_fresh_launch(struct kernel_case *c, struct pool *pool) {
    for (size_t i = 0; i < c->n_arrays; i++)
        if (c->arrays[i].out) memset(c->arrays[i].data, PATTERN, c->arrays[i].content);
    case_seconds(c, pool, 1);
}

bool case_keep(struct kernel_case *c, struct err *e) {
    for (size_t i = 0; i < c->n_arrays; i++) {
        struct case_array *a = &c->arrays[i];
        if (!a->out) continue;
        if (!a->kept) a->kept = mem_try(a->content, 1);
        if (!a->kept)
            return err_set(e, ERR_MEMORY, "no memory for %zu MiB of results to compare with", a->content >> 20);
        memcpy(a->kept, a->data, a->content);
    }
    return true;
}

bool case_same(const struct kernel_case *c) {
    for (size_t i = 0; i < c->n_arrays; i++)
        if (c->arrays[i].out && memcmp(c->arrays[i].data, c->arrays[i].kept, c->arrays[i].content) != 0) return false;
    return true;
}
