#include "runtime/synth.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "codegen/f16.h"
#include "runtime/gguf.h"

/* ---- block formats ---- */

enum format_id { F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, N_FORMATS };

enum { NONE = 0xff };

/* A block as far as making one needs it: where its float16 scale and minimum lie, and the values it stands for.
 *   w = d * code                    square = E[code²]: d takes either sign, which also cancels a mean of -1/2
 *   w = d * sc * code - dmin * m    mean = E[code]; with dmin = mean * d, and sc and m alike, w has the mean 0 */
struct format {
    const char *name;
    uint32_t ggml_id;
    uint16_t elems, bytes;
    uint8_t d_at, min_at;   /* NONE: a format without minimums */
    float mean;             /* of the codes, where there are minimums */
    float square;           /* E[w²] at d = 1 */
    enum format_id instead; /* what llama.cpp takes for rows that are not whole blocks */
};

/* A code of b bits, every pattern alike: E[q] = (2^b - 1)/2, E[q²] = (2^b - 1)(2^(b+1) - 1)/6; offset by half its
 * range, E[q²] = (4^b - 1)/12 + 1/4. */
#define MEAN(b) (((1 << (b)) - 1) / 2.0f)
#define SQUARE(b) (((1 << (b)) - 1) * ((2 << (b)) - 1) / 6.0f)
#define CENTERED(b) (((1 << 2 * (b)) - 1) / 12.0f + 0.25f)
/* E[(sc q - E[q] m)²] for sc and m of s bits, q of b bits. */
#define WITH_MINS(s, b)                                                                                                \
    (SQUARE(s) * SQUARE(b) - 2 * MEAN(b) * MEAN(b) * MEAN(s) * MEAN(s) + MEAN(b) * MEAN(b) * SQUARE(s))

static const struct format formats[N_FORMATS] = {
    [F32] = {"f32", 0, 1, 4, NONE, NONE, 0, 0, F32},
    [F16] = {"f16", 1, 1, 2, NONE, NONE, 0, 0, F16},
    [Q4_0] = {"q4_0", 2, 32, 18, 0, NONE, 0, CENTERED(4), F16},
    [Q4_1] = {"q4_1", 3, 32, 20, 0, 2, MEAN(4), SQUARE(4) - MEAN(4) * MEAN(4), F16},
    [Q5_0] = {"q5_0", 6, 32, 22, 0, NONE, 0, CENTERED(5), F16},
    [Q5_1] = {"q5_1", 7, 32, 24, 0, 2, MEAN(5), SQUARE(5) - MEAN(5) * MEAN(5), F16},
    [Q8_0] = {"q8_0", 8, 32, 34, 0, NONE, 0, CENTERED(8), F16},
    [Q2_K] = {"q2_k", 10, 256, 84, 80, 82, MEAN(2), WITH_MINS(4, 2), IQ4_NL},
    [Q3_K] = {"q3_k", 11, 256, 110, 108, NONE, 0, CENTERED(6) * CENTERED(3), IQ4_NL},
    [Q4_K] = {"q4_k", 12, 256, 144, 0, 2, MEAN(4), WITH_MINS(6, 4), Q5_0},
    [Q5_K] = {"q5_k", 13, 256, 176, 0, 2, MEAN(5), WITH_MINS(6, 5), Q5_1},
    [Q6_K] = {"q6_k", 14, 256, 210, 208, NONE, 0, CENTERED(8) * CENTERED(6), Q8_0},
    [IQ4_NL] = {"iq4_nl", 20, 32, 18, 0, NONE, 0, 4548, F16}, /* the mean square of its sixteen values */
};

/* What a model file of a type is made of: `m` mixes take q6_k for some of the tensors. */
struct mix {
    const char *name;
    enum format_id base;
    bool m;
};

static const struct mix mixes[] = {
    {"f16", F16, false},    {"q4_0", Q4_0, false},  {"q4_1", Q4_1, false}, {"q5_0", Q5_0, false},
    {"q5_1", Q5_1, false},  {"q8_0", Q8_0, false},  {"q2_k", Q2_K, false}, {"q3_k", Q3_K, false},
    {"q4_k", Q4_K, false},  {"q5_k", Q5_K, false},  {"q6_k", Q6_K, false}, {"iq4_nl", IQ4_NL, false},
    {"q4_k_m", Q4_K, true}, {"q5_k_m", Q5_K, true},
};
enum { N_MIXES = sizeof mixes / sizeof *mixes };

/* ---- shapes ---- */

struct shape {
    const char *name;
    uint32_t layers, d, ff, heads, kv_heads, vocab;
    float rope_base;
    bool tied; /* the output projection is the embedding */
};

static const struct shape shapes[] = {
    {"tinyllama-1.1b", 22, 2048, 5632, 32, 4, 32000, 1e4f, false},
    {"qwen2-0.5b", 24, 896, 4864, 14, 2, 151936, 1e6f, true},
    {"phi-2-like", 32, 2560, 10240, 32, 32, 51200, 1e4f, false},
    {"llama-7b", 32, 4096, 11008, 32, 32, 32000, 1e4f, false},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, TINY_LAYERS = 2, TINY_VOCAB = 1024 };
static const char tiny[] = "-tiny"; /* the same widths, TINY_LAYERS layers, TINY_VOCAB tokens: for tests */

void synth_describe(struct buf *b) {
    buf_puts(b, "names: ");
    for (size_t i = 0; i < N_SHAPES; i++) buf_printf(b, "%s%s", i ? ", " : "", shapes[i].name);
    buf_printf(b, ", each also with %s; types: ", tiny);
    for (size_t i = 0; i < N_MIXES; i++) buf_printf(b, "%s%s", i ? ", " : "", mixes[i].name);
}

static bool parse(const char *spec, struct shape *shape, const struct mix **mix, struct err *e) {
    const char *colon = strrchr(spec, ':');
    size_t n = colon ? (size_t)(colon - spec) : 0, n_tiny = sizeof tiny - 1;
    bool is_tiny = n > n_tiny && memcmp(spec + n - n_tiny, tiny, n_tiny) == 0;
    if (is_tiny) n -= n_tiny;
    bool found = false;
    for (size_t i = 0; i < N_SHAPES && !found; i++) {
        found = strlen(shapes[i].name) == n && memcmp(shapes[i].name, spec, n) == 0;
        if (found) *shape = shapes[i];
    }
    *mix = NULL;
    for (size_t i = 0; i < N_MIXES && colon; i++)
        if (strcmp(mixes[i].name, colon + 1) == 0) *mix = &mixes[i];
    if (found && *mix) {
        if (is_tiny) {
            shape->layers = TINY_LAYERS;
            shape->vocab = TINY_VOCAB;
        }
        return true;
    }
    struct buf known = {0};
    synth_describe(&known);
    err_set(e, ERR_USAGE, "no synthetic model '%.80s': expected NAME:TYPE; %s", spec, known.data);
    buf_free(&known);
    return false;
}

/* ---- the list of tensors ---- */

struct item {
    char name[48];
    enum format_id format;
    uint32_t rows, cols; /* rows 0: a vector */
    float deviation;     /* wanted, of the weights */
    uint64_t off, bytes; /* in the data section */
};

struct items {
    struct item *list;
    size_t n;
    uint64_t bytes; /* of the data section */
};

static void add(struct items *t, const char *name, enum format_id format, uint32_t rows, uint32_t cols) {
    struct item *i = &t->list[t->n++];
    if (cols % formats[format].elems) format = formats[format].instead;
    *i = (struct item){.format = format, .rows = rows, .cols = cols, .off = t->bytes};
    i->deviation = 1 / sqrtf((float)cols);
    i->bytes = (uint64_t)(rows ? rows : 1) * (cols / formats[format].elems) * formats[format].bytes;
    snprintf(i->name, sizeof i->name, "%s.weight", name);
    t->bytes = (t->bytes + i->bytes + 31) / 32 * 32;
}

/* llama.cpp's rule for its _M mixes: the first and the last eighth of the layers, and every third between. */
static bool more_bits(uint32_t layer, uint32_t n) {
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static void list_tensors(struct items *t, const struct shape *s, const struct mix *mix) {
    enum format_id base = mix->base, head = mix->m ? Q6_K : base;
    uint32_t hd = s->d / s->heads, kv = s->kv_heads * hd;
    t->list = mem_new((9 * (size_t)s->layers + 3) * sizeof *t->list);
    add(t, "token_embd", s->tied ? head : base, s->vocab, s->d);
    /* Embeddings of order one, unless they are the output projection as well. */
    if (!s->tied) t->list[0].deviation = 1;
    for (uint32_t l = 0; l < s->layers; l++) {
        enum format_id more = mix->m && more_bits(l, s->layers) ? Q6_K : base;
        const struct {
            const char *name;
            enum format_id format;
            uint32_t rows, cols;
        } layer[] = {
            {"attn_norm", F32, 0, s->d},     {"attn_q", base, s->d, s->d},      {"attn_k", base, kv, s->d},
            {"attn_v", more, kv, s->d},      {"attn_output", base, s->d, s->d}, {"ffn_norm", F32, 0, s->d},
            {"ffn_gate", base, s->ff, s->d}, {"ffn_up", base, s->ff, s->d},     {"ffn_down", more, s->d, s->ff},
        };
        for (size_t i = 0; i < sizeof layer / sizeof *layer; i++) {
            char name[40];
            snprintf(name, sizeof name, "blk.%u.%s", l, layer[i].name);
            add(t, name, layer[i].format, layer[i].rows, layer[i].cols);
        }
    }
    add(t, "output_norm", F32, 0, s->d);
    if (!s->tied) add(t, "output", head, s->vocab, s->d);
}

/* ---- GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md ---- */

static void put_u32(struct buf *b, uint32_t v) {
    buf_add(b, &v, 4);
}
static void put_u64(struct buf *b, uint64_t v) {
    buf_add(b, &v, 8);
}

static void put_string(struct buf *b, const char *s) {
    put_u64(b, strlen(s));
    buf_puts(b, s);
}

struct keys {
    struct buf text;
    uint64_t n;
};

static void key(struct keys *k, const char *name, enum gguf_value_type type) {
    put_string(&k->text, name);
    put_u32(&k->text, type);
    k->n++;
}

static void key_string(struct keys *k, const char *name, const char *value) {
    key(k, name, GGUF_STRING);
    put_string(&k->text, value);
}

static void key_u32(struct keys *k, const char *name, uint32_t value) {
    key(k, name, GGUF_U32);
    put_u32(&k->text, value);
}

static void key_f32(struct keys *k, const char *name, float value) {
    key(k, name, GGUF_F32);
    put_u32(&k->text, f32_bits(value));
}

static void write_head(struct buf *b, const char *spec, const struct shape *s, const struct items *t) {
    struct keys k = {0};
    key_string(&k, "general.architecture", "llama");
    key_string(&k, "general.name", spec);
    key_u32(&k, "llama.block_count", s->layers);
    key_u32(&k, "llama.context_length", 4096);
    key_u32(&k, "llama.embedding_length", s->d);
    key_u32(&k, "llama.feed_forward_length", s->ff);
    key_u32(&k, "llama.attention.head_count", s->heads);
    key_u32(&k, "llama.attention.head_count_kv", s->kv_heads);
    key_f32(&k, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    key_f32(&k, "llama.rope.freq_base", s->rope_base);
    key_u32(&k, "llama.rope.dimension_count", s->d / s->heads);
    key_u32(&k, "llama.vocab_size", s->vocab);
    key_string(&k, "tokenizer.ggml.model", "no_vocab");

    buf_add(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, t->n);
    put_u64(b, k.n);
    buf_add(b, k.text.data, k.text.len);
    buf_free(&k.text);
    for (size_t i = 0; i < t->n; i++) {
        const struct item *x = &t->list[i];
        put_string(b, x->name);
        put_u32(b, x->rows ? 2 : 1);
        put_u64(b, x->cols);
        if (x->rows) put_u64(b, x->rows);
        put_u32(b, formats[x->format].ggml_id);
        put_u64(b, x->off);
    }
    while (b->len % 32) buf_add(b, "", 1);
}

/* ---- random weights ---- */

/* splitmix64's finalizer, as a generator that can start anywhere (Steele, Lea, Flood: Fast splittable pseudorandom
 * number generators, 2014). */
static uint64_t random_at(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

enum { N_LEVELS = 256, F16_LEVELS = 4096 };

struct filling {
    uint8_t *data;
    const struct items *items;
    uint64_t seed;
    _Atomic size_t next; /* the next tensor that no thread has taken */
};

static void fill_f32(uint8_t *p, uint64_t n, uint64_t seed) {
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits = f32_bits(0.75f + 0.5f * (float)(random_at(seed, i) >> 40) * 0x1p-24f);
        memcpy(p + 4 * i, &bits, 4);
    }
}

/* Uniform over ±sqrt(3) deviations. */
static void fill_f16(uint8_t *p, uint64_t n, uint64_t seed, float deviation) {
    uint16_t level[F16_LEVELS];
    for (int i = 0; i < F16_LEVELS; i++)
        level[i] = f16_from_f32_bits(f32_bits(deviation * sqrtf(3) * ((float)(2 * i + 1) / F16_LEVELS - 1)));
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t r = random_at(seed, i);
        for (uint64_t k = i; k < i + 4 && k < n; k++, r >>= 16) memcpy(p + 2 * k, &level[r % F16_LEVELS], 2);
    }
}

static void fill_blocks(uint8_t *p, uint64_t n_bytes, uint64_t seed, const struct format *f, float deviation) {
    uint64_t i = 0;
    for (; i + 8 <= n_bytes; i += 8) {
        uint64_t r = random_at(seed, i / 8);
        memcpy(p + i, &r, 8);
    }
    uint64_t r = random_at(seed, i / 8);
    memcpy(p + i, &r, n_bytes - i);

    /* d from 0.5 to 1.5 of its middle: a mean square of 13/12. What lies in d's place so far is random: it chooses. */
    uint16_t d[N_LEVELS], min[N_LEVELS];
    float middle = deviation / sqrtf(f->square * 13 / 12);
    float of_min = f->elems == 32 ? -f->mean : f->mean; /* the 32s add their minimum, the 256s subtract it */
    for (int k = 0; k < N_LEVELS; k++) {
        float x = middle * (0.5f + ((float)k + 0.5f) / N_LEVELS);
        d[k] = f16_from_f32_bits(f32_bits(x));
        min[k] = f16_from_f32_bits(f32_bits(x * of_min));
    }
    for (i = 0; i < n_bytes; i += f->bytes) {
        uint16_t was, sign;
        memcpy(&was, p + i + f->d_at, 2);
        sign = f->min_at == NONE ? was & 0x8000 : 0;
        uint16_t now = d[was % N_LEVELS] | sign;
        memcpy(p + i + f->d_at, &now, 2);
        if (f->min_at != NONE) memcpy(p + i + f->min_at, &min[was % N_LEVELS], 2);
    }
}

static void fill_tensor(const struct filling *w, size_t i) {
    enum { CHUNK = 1 << 18 }; /* stays in the cache between the two passes of fill_blocks */
    const struct item *t = &w->items->list[i];
    const struct format *f = &formats[t->format];
    uint64_t step = CHUNK / f->bytes * f->bytes, seed = random_at(w->seed, i);
    for (uint64_t at = 0; at < t->bytes; at += step) {
        uint64_t n = t->bytes - at < step ? t->bytes - at : step, chunk_seed = random_at(seed, at);
        uint8_t *p = w->data + t->off + at;
        if (t->format == F32)
            fill_f32(p, n / 4, chunk_seed);
        else if (t->format == F16)
            fill_f16(p, n / 2, chunk_seed, t->deviation);
        else
            fill_blocks(p, n, chunk_seed, f, t->deviation);
    }
}

static void *fill_thread(void *ctx) {
    struct filling *w = ctx;
    for (size_t i; (i = atomic_fetch_add(&w->next, 1)) < w->items->n;) fill_tensor(w, i);
    return NULL;
}

static void fill(uint8_t *data, const struct items *items, uint64_t seed) {
    struct filling w = {.data = data, .items = items, .seed = seed};
    enum { MAX_HELPERS = 7 };
    pthread_t helpers[MAX_HELPERS];
    long n = sysconf(_SC_NPROCESSORS_ONLN) - 1, started = 0;
    while (started < n && started < MAX_HELPERS && pthread_create(&helpers[started], NULL, fill_thread, &w) == 0)
        started++;
    fill_thread(&w);
    for (long i = 0; i < started; i++) pthread_join(helpers[i], NULL);
}

/* ---- the file ---- */

static bool map(const struct synth *s, int protection, void **out, struct err *e) {
    *out = mmap(NULL, s->bytes, protection, MAP_SHARED, s->fd, 0);
    return *out != MAP_FAILED || err_set(e, ERR_MEMORY, "synthetic model: cannot map %llu MiB: %s",
                                         (unsigned long long)(s->bytes >> 20), strerror(errno));
}

static bool build(struct synth *s, const struct buf *head, const struct items *items, uint64_t seed, struct err *e) {
    s->bytes = head->len + items->bytes;
    s->fd = memfd_create("kgen-synthetic", MFD_CLOEXEC);
    if (s->fd < 0) return err_set(e, ERR_MEMORY, "synthetic model: no memory file: %s", strerror(errno));
    snprintf(s->path, sizeof s->path, "/proc/self/fd/%d", s->fd);
    /* Space first: writing to a memory file that cannot grow would be a signal, not an error. */
    if (fallocate(s->fd, 0, 0, (off_t)s->bytes) != 0)
        return err_set(e, ERR_MEMORY, "synthetic model: %llu MiB of memory cannot be had (%s); use a smaller one",
                       (unsigned long long)(s->bytes >> 20), strerror(errno));
    void *p;
    if (!map(s, PROT_READ | PROT_WRITE, &p, e)) return false;
    memcpy(p, head->data, head->len);
    fill((uint8_t *)p + head->len, items, seed);
    munmap(p, s->bytes);
    return true;
}

bool synth_open(const char *spec, uint64_t seed, struct synth *out, struct err *e) {
    *out = (struct synth){.fd = -1};
    struct shape shape = {0};
    const struct mix *mix;
    if (!parse(spec, &shape, &mix, e)) return false;
    struct items items = {0};
    struct buf head = {0};
    list_tensors(&items, &shape, mix);
    write_head(&head, spec, &shape, &items);
    bool ok = build(out, &head, &items, seed, e);
    buf_free(&head);
    mem_free(items.list);
    if (!ok) synth_close(out);
    return ok;
}

void synth_close(struct synth *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}

bool synth_save(const struct synth *s, const char *path, struct err *e) {
    void *p;
    if (!map(s, PROT_READ, &p, e)) return false;
    bool ok = file_write_atomic(path, p, s->bytes, e);
    munmap(p, s->bytes);
    return ok;
}
