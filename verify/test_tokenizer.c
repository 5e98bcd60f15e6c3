/* The tokenizer: against llama.cpp's and Hugging Face's ids for real vocabularies (verify/data/tokenizer/), against
 * small vocabularies made here, and against vocabularies and texts meant to break it.
 *
 * Real models are read from build/models/, where ./setup.sh puts them; tests that need one are skipped without it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/tokenizer.h"
#include "verify/gguf_build.h"

#define SMOLLM2 "smollm2-135m-instruct-q4_1"
#define GEMMA "gemma-3-270m-q4_k_m"

#ifdef __SANITIZE_ADDRESS__
#define SECONDS 10.0
#else
#define SECONDS 2.0
#endif

static char path[] = "/tmp/kgen-test-tokenizer-XXXXXX";

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 || close(fd);
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static bool open_built(const struct gguf_build *b, struct tokenizer **t, struct err *e) {
    struct buf file = {0};
    build_file(b, &file);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file.data, 1, file.len, f), file.len);
    assert_int_equal(fclose(f), 0);
    buf_free(&file);
    struct gguf *g;
    if (!gguf_open(path, NULL, &g, e)) fail_msg("%s", e->msg);
    bool ok = tokenizer_open(g, t, e);
    gguf_close(g); /* the tokenizer must not need it any more */
    return ok;
}

static struct tokenizer *must_open(struct gguf_build *b) {
    struct tokenizer *t;
    struct err e;
    if (!open_built(b, &t, &e)) fail_msg("%s", e.msg);
    build_free(b);
    return t;
}

static void must_refuse(struct gguf_build *b, const char *part) {
    struct tokenizer *t = NULL;
    struct err e = {0};
    double started = cpu_s();
    if (open_built(b, &t, &e)) fail_msg("opened, expected an error with '%s'", part);
    assert_null(t);
    assert_true(cpu_s() - started < 1);
    if (!strstr(e.msg, part) || !strstr(e.msg, path)) fail_msg("'%s' lacks '%s' or the path", e.msg, part);
    build_free(b);
}

static struct ids encode(const struct tokenizer *t, const char *text, size_t len, unsigned flags) {
    struct ids ids = {0};
    struct err e;
    if (!tokenizer_encode(t, text, len, flags, &ids, &e)) fail_msg("%s", e.msg);
    return ids;
}

/* Compares with a list that ends in -1. */
static void expect_ids(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                       const int32_t *expected) {
    struct ids ids = encode(t, text, len, flags);
    size_t n = 0;
    while (expected[n] >= 0) n++;
    bool same = ids.n == n && (!n || memcmp(ids.id, expected, n * sizeof *expected) == 0);
    if (!same) {
        struct buf got = {0};
        for (size_t i = 0; i < ids.n; i++) buf_printf(&got, " %d", ids.id[i]);
        fail_msg("'%s' with flags %u gives%s", text, flags, got.data ? got.data : " nothing");
    }
    ids_free(&ids);
}
#define EXPECT(t, text, flags, ...)                                                                                    \
    expect_ids(t, text, sizeof text - 1, flags, (const int32_t[]){__VA_ARGS__ __VA_OPT__(, ) - 1})

static void expect_text(const struct tokenizer *t, const int32_t *ids, size_t n, bool special, const char *text,
                        size_t len) {
    struct buf got = {0};
    tokenizer_decode(t, ids, n, special, &got);
    assert_int_equal(got.len, len);
    if (len) assert_memory_equal(got.data, text, len);
    buf_free(&got);
}

/* --- small vocabularies ------------------------------------------------------------------------------------------- */

/* gpt2's alphabet, spelled independently of the code under test: bytes 33…126, 161…172, 174…255 are themselves, the
 * rest take U+0100, U+0101, … in order. Fills spelled[0 … 256). */
static void byte_alphabet(char spelled[256][4]) {
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        unsigned cp = itself ? b : next++;
        snprintf(spelled[b], 4, cp < 0x80 ? "%c" : "%c%c", cp < 0x80 ? (int)cp : (int)(0xc0 | cp >> 6),
                 (int)(0x80 | (cp & 63)));
    }
}

/* Ids 0 … 255 are the bytes; then the given tokens; the merges in the order given. */
struct extra_token {
    const char *text;
    int32_t type;
};

static struct gguf_build byte_vocabulary(const char *pre, const struct extra_token *extra, size_t n_extra,
                                         const char *const *merges, size_t n_merges) {
    static char spelled[256][4];
    byte_alphabet(spelled);
    const char **tokens = mem_new((256 + n_extra) * sizeof *tokens);
    int32_t *types = mem_new((256 + n_extra) * sizeof *types);
    for (int i = 0; i < 256; i++) {
        tokens[i] = spelled[i];
        types[i] = 1;
    }
    for (size_t i = 0; i < n_extra; i++) {
        tokens[256 + i] = extra[i].text;
        types[256 + i] = extra[i].type;
    }
    struct gguf_build b = {0};
    build_str_key(&b, "tokenizer.ggml.model", "gpt2");
    if (pre) build_str_key(&b, "tokenizer.ggml.pre", pre);
    build_strs_key(&b, "tokenizer.ggml.tokens", tokens, 256 + n_extra);
    build_i32s_key(&b, "tokenizer.ggml.token_type", types, 256 + n_extra);
    build_strs_key(&b, "tokenizer.ggml.merges", merges, n_merges);
    mem_free(tokens);
    mem_free(types);
    return b;
}

/* th=256 the=257 Ġthe=258 in=259 he=260 <|im_start|>=261 <|im_end|>=262 [user]=263 <|im=264 */
static const struct extra_token bpe_tokens[] = {{"th", 1},         {"the", 1},    {"\xc4\xa0the", 1},
                                                {"in", 1},         {"he", 1},     {"<|im_start|>", 3},
                                                {"<|im_end|>", 3}, {"[user]", 4}, {"<|im", 3}};
static const char *const bpe_merges[] = {"h e", "t h", "i n", "th e", "\xc4\xa0 the"};

static struct tokenizer *small_bpe(void) {
    struct gguf_build b = byte_vocabulary("gpt-2", bpe_tokens, 9, bpe_merges, 5);
    build_u32_key(&b, "tokenizer.ggml.bos_token_id", 261);
    build_u32_key(&b, "tokenizer.ggml.eos_token_id", 262);
    build_bool_key(&b, "tokenizer.ggml.add_bos_token", true);
    return must_open(&b);
}

static void bpe_merges_by_rank(void **state) {
    (void)state;
    struct tokenizer *t = small_bpe();
    EXPECT(t, "", 0);
    EXPECT(t, "a", 0, 'a');
    EXPECT(t, "the", 0, 't', 260); /* "h e" ranks before "t h" */
    EXPECT(t, "thin", 0, 256, 259);
    EXPECT(t, "hehe", 0, 260, 260);
    EXPECT(t, "t he", 0, 't', ' ', 260);
    EXPECT(t, "in\nin", 0, 259, '\n', 259);
    EXPECT(t, "\xc3\xa9", 0, 0xc3, 0xa9);
    EXPECT(t, "a", TOKENIZER_ADD_BOS, 261, 'a');
    EXPECT(t, "", TOKENIZER_ADD_BOS, 261);
    assert_int_equal(tokenizer_n_vocab(t), 265);
    assert_int_equal(tokenizer_bos(t), 261);
    assert_int_equal(tokenizer_eos(t), 262);
    assert_int_equal(tokenizer_eot(t), 262);
    assert_true(tokenizer_add_bos(t));
    assert_true(tokenizer_is_end(t, 262));
    assert_false(tokenizer_is_end(t, 261));
    assert_false(tokenizer_is_end(t, -1));
    assert_false(tokenizer_is_end(t, 265));
    assert_int_equal(tokenizer_find(t, "<|im_start|>", 12), 261);
    assert_int_equal(tokenizer_find(t, "<|im_start", 10), -1);
    assert_int_equal(tokenizer_type(t, 263), TOKEN_USER_DEFINED);
    size_t len;
    assert_memory_equal(tokenizer_piece(t, 258, &len), "\xc4\xa0the", 5);
    assert_int_equal(len, 5);
    tokenizer_close(t);
}

static void special_tokens_come_from_text_only_when_asked(void **state) {
    (void)state;
    struct tokenizer *t = small_bpe();
    EXPECT(t, "<|im_end|>", 0, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    EXPECT(t, "<|im_end|>", TOKENIZER_PARSE_SPECIAL, 262);
    EXPECT(t, "in<|im_start|>in<|im_end|>", TOKENIZER_PARSE_SPECIAL, 259, 261, 259, 262);
    EXPECT(t, "<|im_star", TOKENIZER_PARSE_SPECIAL, 264, '_', 's', 't', 'a', 'r'); /* the longest that fits */
    EXPECT(t, "<|im_end|", TOKENIZER_PARSE_SPECIAL, 264, '_', 'e', 'n', 'd', '|');
    EXPECT(t, "<|i", TOKENIZER_PARSE_SPECIAL, '<', '|', 'i');
    EXPECT(t, "[user]in", 0, 263, 259); /* ordinary vocabulary */
    EXPECT(t, "[user", 0, '[', 'u', 's', 'e', 'r');
    tokenizer_close(t);
}

static void decoding_returns_the_bytes(void **state) {
    (void)state;
    struct tokenizer *t = small_bpe();
    struct buf piece = {0};
    for (int32_t id = 0; id < 256; id++) {
        piece.len = 0;
        tokenizer_decode_piece(t, id, false, &piece);
        assert_int_equal(piece.len, 1);
        assert_int_equal((uint8_t)piece.data[0], id);
    }
    tokenizer_decode_piece(t, -1, true, &piece);
    tokenizer_decode_piece(t, 265, true, &piece);
    assert_int_equal(piece.len, 1);
    buf_free(&piece);
    const int32_t ids[] = {261, 't', 258, 263, 262};
    expect_text(t, ids, 5, false, "t the[user]", 11);
    expect_text(t, ids, 5, true, "<|im_start|>t the[user]<|im_end|>", 33);
    expect_text(t, ids, 0, true, "", 0);
    tokenizer_close(t);
}

static void bpe_repairs_invalid_utf8(void **state) {
    (void)state;
    struct tokenizer *t = small_bpe();
    for (int b = 0; b < 256; b++) {
        char text[1] = {(char)b};
        if (b < 0x80)
            expect_ids(t, text, 1, 0, (const int32_t[]){b, -1});
        else /* U+FFFD */
            expect_ids(t, text, 1, 0, (const int32_t[]){0xef, 0xbf, 0xbd, -1});
    }
    EXPECT(t, "\xed\xa0\x80", 0, 0xed, 0xa0, 0x80); /* a lone surrogate stays */
    EXPECT(t, "in\xed\xbf\xbfin", 0, 259, 0xed, 0xbf, 0xbf, 259);
    EXPECT(t, "\xe2\x82", 0, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd); /* cut short: one for each byte */
    EXPECT(t, "\xe2\x82in", 0, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd, 259);
    EXPECT(t, "\xc0\x80", 0, 0); /* overlong */
    EXPECT(t, "\xf4\x90\x80\x80", 0, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd);
    EXPECT(t, "\xff\xfe", 0, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd);
    tokenizer_close(t);
}

/* A vocabulary that lacks some bytes leaves them out, as GPT-2-like training does. */
static void bpe_drops_bytes_it_never_met(void **state) {
    (void)state;
    struct gguf_build b = {0};
    build_str_key(&b, "tokenizer.ggml.model", "gpt2");
    build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "ab"}, 3);
    build_strs_key(&b, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
    struct tokenizer *t = must_open(&b);
    EXPECT(t, "abcab", 0, 2, 2);
    assert_int_equal(tokenizer_bos(t), -1);
    assert_int_equal(tokenizer_eos(t), -1);
    EXPECT(t, "a", TOKENIZER_ADD_BOS, 0);
    tokenizer_close(t);
}

/* How each kind of pattern cuts: with no merges there is a token per byte, so words show through merges of their first
 * two characters. Here only that every name of the table compiles and loses no byte. */
static void every_pre_tokenizer_keeps_all_bytes(void **state) {
    (void)state;
    static const char *const names[] = {
        "default",      "gpt-2",          "phi-2",       "jina-es",
        "jina-de",      "gigachat",       "jina-v2-es",  "jina-v2-de",
        "jina-v1-en",   "jina-v2-code",   "roberta-bpe", "a.x-4.0",
        "mellum",       "modern-bert",    "mpt",         "olmo",
        "jais",         "exaone4",        "trillion",    "granite-docling",
        "smollm",       "starcoder",      "refact",      "command-r",
        "codeshell",    "exaone",         "minerva-7b",  "mellum2",
        "llama3",       "llama-v3",       "llama-bpe",   "falcon3",
        "falcon-h1",    "pixtral",        "midm-2.0",    "lfm2",
        "jina-v5-nano", "dbrx",           "smaug-bpe",   "chatglm-bpe",
        "glm4",         "glm5",           "qwen2",       "deepseek-r1-qwen",
        "kormo",        "f2llmv2",        "stablelm2",   "hunyuan",
        "megrez",       "grok-2",         "solar-open",  "qwen35",
        "deepseek-llm", "deepseek-coder", "deepseek-v3", "hunyuan-dense",
        "joyai-llm",    "hy_v4",          "falcon",      "poro-chat",
        "bloom",        "gpt3-finnish",   "viking",      "tekken",
        "gpt-4o",       "llama4",         "kanana2",     "talkie",
        "minimax-m2",   "chameleon",      "bailingmoe",  "bailingmoe2",
        "llada-moe",    "seed-coder",     "ufakzeka",    "minicpm5",
        "laguna",       "jais-2",         "youtu",
    };
    static const char text[] =
        "It's 12345 o'CLOCK,  caf\xc3\xa9\r\n\n\t\xe4\xb8\xad\xe6\x96\x87 \xed\xa0\x80\xe1\xa0\x8e "
        "Foo_bar(x)!=\xd9\xa3 <sentinel:1> IMGIMGAZ   end  ";
    struct gguf_build b;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        b = byte_vocabulary(names[i], NULL, 0, NULL, 0);
        struct tokenizer *t = must_open(&b);
        struct ids ids = encode(t, text, sizeof text - 1, 0);
        expect_text(t, ids.id, ids.n, false, text, sizeof text - 1);
        ids_free(&ids);
        tokenizer_close(t);
    }
    b = byte_vocabulary("no-such-thing", NULL, 0, NULL, 0);
    must_refuse(&b, "tokenizer.ggml.pre is 'no-such-thing'");
    b = byte_vocabulary("gpt-2 phi-2", NULL, 0, NULL, 0); /* the table's own separator */
    must_refuse(&b, "tokenizer.ggml.pre is 'gpt-2 phi-2'");
    b = byte_vocabulary("", NULL, 0, NULL, 0);
    must_refuse(&b, "tokenizer.ggml.pre is ''");
}

/* Words end where merges stop: "xx" merges inside a word and never across two. */
static void patterns_cut_where_they_should(void **state) {
    (void)state;
    static const struct extra_token tokens[] = {{"11", 1},
                                                {"1111", 1},
                                                {"aa", 1},
                                                {"\xc4\xa0"
                                                 "a",
                                                 1},
                                                {"!a", 1},
                                                {"'s", 1},
                                                {"'S", 1},
                                                {"aB", 1}};
    static const char *const merges[] = {"1 1", "11 11", "a a", "\xc4\xa0 a", "! a", "' s", "' S", "a B"};
    enum { ONES2 = 256, ONES4, AA, SP_A, BANG_A, APOS_S, APOS_BIG_S, A_BIG_B };
    static const struct {
        const char *pre, *text;
        int32_t ids[8];
    } cases[] = {
        {"gpt-2", "1111", {ONES4, -1}},
        {"smollm", "1111", {'1', '1', '1', '1', -1}}, /* digits one by one */
        {"llama-bpe", "1111", {ONES2, '1', '1', -1}}, /* in threes */
        {"qwen2", "1111", {'1', '1', '1', '1', -1}},
        {"falcon", "1111", {ONES2, '1', '1', -1}},
        {"default", "1111", {ONES2, '1', '1', -1}},
        {"gpt-2", "!aa", {'!', AA, -1}},
        {"llama-bpe", "!a", {BANG_A, -1}}, /* one other character may lead a word */
        {"gpt-2", "!a", {'!', 'a', -1}},
        {"gpt-2", "aa's", {AA, APOS_S, -1}},
        {"gpt-2", "aa'S", {AA, '\'', 'S', -1}}, /* short forms in lower case only */
        {"qwen2", "aa'S", {AA, APOS_BIG_S, -1}},
        {"gpt-2", "a  a", {'a', ' ', SP_A, -1}},
        {"gpt-2", "aB", {A_BIG_B, -1}},
        {"gpt-4o", "aB", {'a', 'B', -1}}, /* camel case is two words */
        {"tekken", "aB", {'a', 'B', -1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_build b = byte_vocabulary(cases[i].pre, tokens, 8, merges, 8);
        struct tokenizer *t = must_open(&b);
        expect_ids(t, cases[i].text, strlen(cases[i].text), 0, cases[i].ids);
        tokenizer_close(t);
    }
}

/* <unk> <s> </s>, 256 bytes (3 … 258), then pieces with scores. */
enum { P_SPACE = 259, P_A, P_B, P_AB, P_SPACE_A, P_ABAB, P_S, P_LT_SLASH, P_S_GT, P_TWO_SPACES, P_TURN, P_N };

static struct gguf_build pieces_vocabulary(void) {
    static char bytes[256][7];
    static const char *const last[] = {"\xe2\x96\x81",
                                       "a",
                                       "b",
                                       "ab",
                                       "\xe2\x96\x81"
                                       "a",
                                       "abab",
                                       "s",
                                       "</",
                                       "s>",
                                       "  ",
                                       "<end_of_turn>"};
    static const float scores[] = {-9, -9, -9, -1, -2, -3, -9, -1, -1, 0, 0};
    const char *tokens[P_N] = {"<unk>", "<s>", "</s>"};
    int32_t types[P_N] = {2, 3, 3};
    float all_scores[P_N] = {0};
    for (int i = 0; i < 256; i++) {
        snprintf(bytes[i], sizeof bytes[i], "<0x%02X>", i);
        tokens[3 + i] = bytes[i];
        types[3 + i] = 6;
    }
    for (int i = P_SPACE; i < P_N; i++) {
        tokens[i] = last[i - P_SPACE];
        types[i] = i == P_TWO_SPACES ? 4 : i == P_TURN ? 3 : 1;
        all_scores[i] = scores[i - P_SPACE];
    }
    struct gguf_build b = {0};
    build_str_key(&b, "tokenizer.ggml.model", "llama");
    build_strs_key(&b, "tokenizer.ggml.tokens", tokens, P_N);
    build_f32s_key(&b, "tokenizer.ggml.scores", all_scores, P_N);
    build_i32s_key(&b, "tokenizer.ggml.token_type", types, P_N);
    return b;
}

static void pieces_merge_by_score(void **state) {
    (void)state;
    struct gguf_build b = pieces_vocabulary();
    struct tokenizer *t = must_open(&b);
    EXPECT(t, "a", 0, P_SPACE_A); /* a space in front of the text */
    EXPECT(t, "ab", 0, P_SPACE, P_AB);
    EXPECT(t, "abab", 0, P_SPACE, P_ABAB);
    EXPECT(t, "", 0);
    EXPECT(t, "ab", TOKENIZER_ADD_BOS, 1, P_SPACE, P_AB);
    EXPECT(t, "\xc3\xa9", 0, P_SPACE, 3 + 0xc3, 3 + 0xa9); /* no such character: bytes */
    EXPECT(t, "\n", 0, P_SPACE, 3 + '\n');
    EXPECT(t, "\xff", 0, P_SPACE, 3 + 0xff); /* invalid UTF-8 stays as it is */
    EXPECT(t, "\xed\xa0\x80", 0, P_SPACE, 3 + 0xed, 3 + 0xa0, 3 + 0x80);
    EXPECT(t, "a  b", 0, P_SPACE_A, P_TWO_SPACES, P_SPACE, P_B);
    /* "</" and "s>" are pieces whose union spells the control token: text stays text */
    EXPECT(t, "</s>", 0, P_SPACE, P_LT_SLASH, P_S_GT);
    EXPECT(t, "</s>", TOKENIZER_PARSE_SPECIAL, 2);
    EXPECT(t, "a</s>a", TOKENIZER_PARSE_SPECIAL, P_SPACE_A, 2, P_SPACE_A);
    EXPECT(t, "<0x41>", 0, P_SPACE, 3 + '<', 3 + '0', 3 + 'x', 3 + '4', 3 + '1', 3 + '>'); /* not the byte token */
    assert_int_equal(tokenizer_eot(t), P_TURN);
    assert_true(tokenizer_is_end(t, P_TURN) && tokenizer_is_end(t, 2));
    assert_int_equal(tokenizer_unknown(t), 0);

    expect_text(t, (const int32_t[]){1, P_SPACE_A, P_AB, 3 + 0xc3, 3 + 0xa9, P_SPACE_A}, 6, false, "aab\xc3\xa9 a", 7);
    expect_text(t, (const int32_t[]){P_SPACE, P_SPACE_A}, 2, false, " a", 2);
    struct buf piece = {0};
    tokenizer_decode_piece(t, P_SPACE_A, false, &piece); /* a piece alone keeps its space */
    assert_string_equal(piece.data, " a");
    buf_free(&piece);
    tokenizer_close(t);

    b = pieces_vocabulary();
    build_bool_key(&b, "tokenizer.ggml.add_space_prefix", false);
    build_bool_key(&b, "tokenizer.ggml.add_bos_token", false);
    t = must_open(&b);
    EXPECT(t, "ab", TOKENIZER_ADD_BOS, P_AB);
    EXPECT(t, " a", 0, P_SPACE_A);
    expect_text(t, (const int32_t[]){P_SPACE_A}, 1, false, " a", 2);
    tokenizer_close(t);
}

/* Every sequence of bytes survives encoding and decoding where bytes have tokens and no space is put in front. */
static void pieces_round_trip_any_bytes(void **state) {
    (void)state;
    struct gguf_build b = pieces_vocabulary();
    build_bool_key(&b, "tokenizer.ggml.add_space_prefix", false);
    struct tokenizer *t = must_open(&b);
    uint64_t seed = 11;
    for (int i = 0; i < 500; i++) {
        char text[40];
        size_t len = (seed >> 33) % sizeof text;
        for (size_t j = 0; j < len; j++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[j] = seed >> 63 ? (char)(seed >> 40) : "ab s</"[(seed >> 40) % 6];
        }
        struct ids ids = encode(t, text, len, 0);
        /* U+2581 itself reads back as a space, in every SentencePiece model */
        if (!memmem(text, len, "\xe2\x96\x81", 3)) expect_text(t, ids.id, ids.n, false, text, len);
        ids_free(&ids);
        seed = seed * 6364136223846793005u + 1442695040888963407u;
    }
    tokenizer_close(t);
}

static struct tokenizer *small_bert(void) {
    static const char *const tokens[] = {"[PAD]",
                                         "[UNK]",
                                         "[CLS]",
                                         "[SEP]",
                                         "\xe2\x96\x81un",
                                         "\xe2\x96\x81"
                                         "a",
                                         "aff",
                                         "able",
                                         "\xe2\x96\x81.",
                                         "\xe2\x96\x81"
                                         "e",
                                         "\xe2\x96\x81\xe4\xb8\xad",
                                         "affab"};
    static const int32_t types[] = {3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1};
    struct gguf_build b = {0};
    build_str_key(&b, "tokenizer.ggml.model", "bert");
    build_strs_key(&b, "tokenizer.ggml.tokens", tokens, 12);
    build_i32s_key(&b, "tokenizer.ggml.token_type", types, 12);
    build_u32_key(&b, "tokenizer.ggml.unknown_token_id", 1);
    build_u32_key(&b, "tokenizer.ggml.cls_token_id", 2);
    build_u32_key(&b, "tokenizer.ggml.seperator_token_id", 3);
    return must_open(&b);
}

static void words_take_the_longest_pieces(void **state) {
    (void)state;
    struct tokenizer *t = small_bert();
    EXPECT(t, "unaff", 0, 4, 6);
    EXPECT(t, "UnAff  unable", 0, 4, 6, 4, 7);
    EXPECT(t, "unaffable", 0, 1); /* greedy: un·affab, and "le" is no piece */
    EXPECT(t, "a.a", TOKENIZER_ADD_BOS, 2, 5, 8, 5, 3);
    EXPECT(t, "", TOKENIZER_ADD_BOS, 2, 3);
    EXPECT(t, "\xc3\xa9", 0, 9); /* accents go */
    EXPECT(t, "e\xcc\x81", 0, 9);
    EXPECT(t,
           "a\xe4\xb8\xad"
           "a",
           0, 5, 10, 5); /* CJK characters are words */
    EXPECT(t,
           "a\xe2\x80\x8b"
           "ff",
           0, 1); /* a format character vanishes: "aff" begins no word here */
    EXPECT(t,
           "a\xff"
           "a",
           0, 1);
    EXPECT(t, "[SEP]", 0, 1, 1, 1);
    EXPECT(t, "a[SEP]", TOKENIZER_PARSE_SPECIAL, 5, 3);
    expect_text(t, (const int32_t[]){2, 4, 6, 8, 3}, 5, false, "unaff .", 7);
    char x[150];
    memset(x, 'a', sizeof x);
    expect_ids(t, x, sizeof x, 0, (const int32_t[]){1, -1});
    tokenizer_close(t);
}

/* --- hostile vocabularies ----------------------------------------------------------------------------------------- */

static void open_refuses_damaged_vocabularies(void **state) {
    (void)state;
    struct gguf_build b = {0};
    must_refuse(&b, "'tokenizer.ggml.model' is missing");
    build_str_key(&b, "tokenizer.ggml.model", "unheard-of");
    must_refuse(&b, "tokenizer.ggml.model is 'unheard-of'");
    build_str_key(&b, "tokenizer.ggml.model", "gpt2");
    must_refuse(&b, "'tokenizer.ggml.tokens' is missing");
    build_str_key(&b, "tokenizer.ggml.model", "gpt2");
    build_i32s_key(&b, "tokenizer.ggml.tokens", (const int32_t[]){1}, 1);
    must_refuse(&b, "'tokenizer.ggml.tokens' has type array of i32");
    build_str_key(&b, "tokenizer.ggml.model", "gpt2");
    build_strs_key(&b, "tokenizer.ggml.tokens", NULL, 0);
    must_refuse(&b, "has 0 tokens");
    build_str_key(&b, "tokenizer.ggml.model", "gpt2");
    build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "a"}, 3);
    must_refuse(&b, "tokens 0 and 2 have the same text 'a'");

    /* merges */
    static const struct {
        const char *merge, *part;
    } merges[] = {{"a x", "right side"}, {"x a", "left side"}, {"a a", "its result"}, {"ab", "right side"},
                  {"", "left side"},     {" ", "left side"},   {"a ", "right side"},  {"a b c", "right side"}};
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        build_str_key(&b, "tokenizer.ggml.model", "gpt2");
        build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "ab"}, 3);
        build_strs_key(&b, "tokenizer.ggml.merges", (const char *const[]){"a b", merges[i].merge}, 2);
        must_refuse(&b, merges[i].part);
    }
    build_str_key(&b, "tokenizer.ggml.model", "gpt2");
    build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "ab"}, 3);
    must_refuse(&b, "'tokenizer.ggml.merges' is missing");
    build_str_key(&b, "tokenizer.ggml.model", "gpt2"); /* a merge that would make a control token of text */
    build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "ab"}, 3);
    build_i32s_key(&b, "tokenizer.ggml.token_type", (const int32_t[]){1, 1, 3}, 3);
    build_strs_key(&b, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
    must_refuse(&b, "its result");

    /* special ids outside the vocabulary */
    static const char *const ids[] = {"bos", "eos", "eot", "unknown", "padding", "mask"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        for (int huge = 0; huge < 2; huge++) {
            char key[64];
            snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ids[i]);
            b = byte_vocabulary(NULL, NULL, 0, NULL, 0);
            build_u32_key(&b, key, huge ? UINT32_MAX : 256);
            must_refuse(&b, key);
        }
    b = byte_vocabulary(NULL, NULL, 0, NULL, 0);
    build_raw_key(&b, "tokenizer.ggml.bos_token_id", GGUF_I32, &(int32_t){-2}, 4);
    must_refuse(&b, "tokenizer.ggml.bos_token_id");
    b = byte_vocabulary(NULL, NULL, 0, NULL, 0);
    build_str_key(&b, "tokenizer.ggml.add_bos_token", "yes");
    must_refuse(&b, "'tokenizer.ggml.add_bos_token' has type string");

    /* an over-long token */
    char *longest = mem_new(TOKENIZER_MAX_PIECE + 2);
    memset(longest, 'x', TOKENIZER_MAX_PIECE + 1);
    b = byte_vocabulary(NULL, &(const struct extra_token){longest, 1}, 1, NULL, 0);
    must_refuse(&b, "token 256 is 16385 bytes long");
    longest[TOKENIZER_MAX_PIECE] = 0;
    b = byte_vocabulary(NULL, &(const struct extra_token){longest, 3}, 1, NULL, 0);
    struct tokenizer *t = must_open(&b);
    expect_ids(t, longest, TOKENIZER_MAX_PIECE, TOKENIZER_PARSE_SPECIAL, (const int32_t[]){256, -1});
    tokenizer_close(t);
    mem_free(longest);
}

static void open_refuses_damaged_pieces(void **state) {
    (void)state;
    static const char *const bad_bytes[] = {"<0x-1>", "<0xZZ>", "<0x1>", "<0x100>", "<0X10>",
                                            "0x10",   "<0x1 >", "<0x10", ""};
    struct gguf_build b = {0};
    for (size_t i = 0; i < sizeof bad_bytes / sizeof *bad_bytes; i++) {
        build_str_key(&b, "tokenizer.ggml.model", "llama");
        build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"<unk>", bad_bytes[i]}, 2);
        build_i32s_key(&b, "tokenizer.ggml.token_type", (const int32_t[]){2, 6}, 2);
        build_f32s_key(&b, "tokenizer.ggml.scores", (const float[]){0, 0}, 2);
        must_refuse(&b, "token 1 is a byte token");
    }
    static const struct {
        float scores[2];
        size_t n_scores, n_types;
        int32_t types[2];
        const char *part;
    } cases[] = {
        {{0, 0}, 1, 2, {1, 1}, "tokenizer.ggml.scores has 1 elements for 2 tokens"},
        {{0, 0}, 0, 2, {1, 1}, "tokenizer.ggml.scores has 0 elements"},
        {{0, 0}, 2, 1, {1, 1}, "tokenizer.ggml.token_type has 1 elements for 2 tokens"},
        {{0, 0}, 2, 2, {1, 7}, "tokenizer.ggml.token_type holds 7 for token 1"},
        {{0, 0}, 2, 2, {1, -1}, "tokenizer.ggml.token_type holds -1"},
        {{0, NAN}, 2, 2, {1, 1}, "NaN for token 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        build_str_key(&b, "tokenizer.ggml.model", "llama");
        build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b"}, 2);
        build_i32s_key(&b, "tokenizer.ggml.token_type", cases[i].types, cases[i].n_types);
        build_f32s_key(&b, "tokenizer.ggml.scores", cases[i].scores, cases[i].n_scores);
        must_refuse(&b, cases[i].part);
    }
    build_str_key(&b, "tokenizer.ggml.model", "llama");
    build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b"}, 2);
    must_refuse(&b, "'tokenizer.ggml.scores' is missing");
    build_str_key(&b, "tokenizer.ggml.model", "llama");
    build_strs_key(&b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b"}, 2);
    build_strs_key(&b, "tokenizer.ggml.scores", (const char *const[]){"a", "b"}, 2);
    must_refuse(&b, "'tokenizer.ggml.scores' has type array of string");
}

/* Tokens that files type as ordinary although their names say otherwise cannot be spelled either. */
static void names_make_control_tokens(void **state) {
    (void)state;
    static const struct extra_token tokens[] = {
        {"<|im_end|>", 1}, {"<|endoftext|>", 4}, {"</s>", 4}, {"<|fim_prefix|>", 4}};
    struct gguf_build b = byte_vocabulary("gpt-2", tokens, 4, NULL, 0);
    struct tokenizer *t = must_open(&b);
    EXPECT(t, "<|im_end|>", 0, '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    EXPECT(t, "<|im_end|><|endoftext|>", TOKENIZER_PARSE_SPECIAL, 256, 257);
    EXPECT(t, "</s>", 0, 258); /* HTML where the file lists it among ordinary tokens */
    assert_int_equal(tokenizer_type(t, 259), TOKEN_CONTROL);
    assert_int_equal(tokenizer_eot(t), 256);
    assert_true(tokenizer_is_end(t, 256) && tokenizer_is_end(t, 257));
    assert_false(tokenizer_is_end(t, 258) || tokenizer_is_end(t, 259));
    tokenizer_close(t);

    /* the same through a merge */
    b = byte_vocabulary("gpt-2", (const struct extra_token[]){{"<E", 1}, {"<EO", 1}, {"T>", 1}, {"<EOT>", 1}}, 4,
                        (const char *const[]){"< E", "<E O", "T >", "<EO T>"}, 4);
    t = must_open(&b);
    EXPECT(t, "<EOT>", 0, '<', 'E', 'O', 'T', '>'); /* the pattern cuts it apart */
    tokenizer_close(t);
}

static void every_failed_allocation_is_an_error(void **state) {
    (void)state;
    struct gguf_build b = pieces_vocabulary(), c = byte_vocabulary("llama-bpe", bpe_tokens, 9, bpe_merges, 5);
    struct gguf_build *builds[] = {&b, &c};
    for (int k = 0; k < 2; k++) {
        struct tokenizer *t = NULL;
        struct err e = {0};
        assert_true(open_built(builds[k], &t, &e));
        tokenizer_close(t);
        struct gguf *g;
        assert_true(gguf_open(path, NULL, &g, &e));
        long n = 1;
        for (t = NULL; !t; n++) {
            mem_fail_at(n);
            bool ok = tokenizer_open(g, &t, &e);
            mem_fail_at(0);
            if (!ok) assert_int_equal(e.code, ERR_MEMORY);
        }
        assert_true(n > 5);
        gguf_close(g);
        for (n = 1;; n++) {
            struct ids ids = {0};
            mem_fail_at(n);
            bool ok = tokenizer_encode(t, "the\xed\xa0\x80 end ab", 14, 0, &ids, &e);
            mem_fail_at(0);
            ids_free(&ids);
            if (ok) break;
            assert_int_equal(e.code, ERR_MEMORY);
        }
        assert_true(n > 1);
        tokenizer_close(t);
        build_free(builds[k]);
    }
}

/* --- hostile texts ------------------------------------------------------------------------------------------------ */

static char *repeat(const char *unit, size_t unit_len, size_t n, size_t *len) {
    *len = unit_len * n;
    char *text = mem_new(*len + 1);
    for (size_t i = 0; i < n; i++) memcpy(text + i * unit_len, unit, unit_len);
    return text;
}

static const struct hostile_text {
    const char *name, *unit;
    size_t unit_len, n;
} hostile_texts[] = {
    {"131,072 identical letters", "a", 1, 131072},
    {"1 MB of one letter", "a", 1, 1000000},
    {"1 MB of capitals", "A", 1, 1000000},
    {"1 MB of spaces", " ", 1, 1000000},
    {"1 MB of newlines", "\n", 1, 1000000},
    {"1 MB of spaces and newlines", " \n", 2, 500000},
    {"1 MB of digits", "7", 1, 1000000},
    {"1 MB of apostrophes", "'", 1, 1000000},
    {"1 MB of <", "<", 1, 1000000},
    {"1 MB of dashes", "-", 1, 1000000},
    {"10,000 combining marks", "\xcc\x81", 2, 10000},
    {"1 MB of combining marks", "\xcc\x81", 2, 500000},
    {"1 MB of mixed case", "aA", 2, 500000},
    {"1 MB of CJK", "\xe4\xb8\xad", 3, 333333},
    {"1 MB of NUL", "\0", 1, 1000000},
    {"1 MB of 0xff", "\xff", 1, 1000000},
    {"1 MB of surrogates", "\xed\xa0\x80", 3, 333333},
    {"1 MB of cut characters", "\xf0\x9f", 2, 500000},
    {"1 MB of <|im_end|>", "<|im_end|>", 10, 100000},
    {"1 MB of ideographic spaces", "\xe3\x80\x80", 3, 333333},
};

/* Encodes each (an n-th of it), runs of white space also with a letter after them, in time. */
static void must_be_fast(const struct tokenizer *t, const char *what, size_t nth) {
    for (size_t i = 0; i < sizeof hostile_texts / sizeof *hostile_texts; i++) {
        const struct hostile_text *h = &hostile_texts[i];
        bool white = strchr(" \n\xe3", h->unit[0]) != NULL && h->unit[0];
        size_t len;
        char *text = repeat(h->unit, h->unit_len, h->n / nth, &len);
        text[len] = 'x';
        for (size_t extra = 0; extra < 1u + white; extra++) {
            double started = cpu_s();
            struct ids ids = encode(t, text, len + extra, TOKENIZER_PARSE_SPECIAL);
            double took = cpu_s() - started;
            if (took > SECONDS) fail_msg("%s: %s took %.2f s", what, h->name, took);
            for (size_t j = 0; j < ids.n; j++)
                if (ids.id[j] < 0 || ids.id[j] >= tokenizer_n_vocab(t)) fail_msg("%s: id %d", what, ids.id[j]);
            struct buf back = {0};
            tokenizer_decode(t, ids.id, ids.n, true, &back);
            buf_free(&back);
            ids_free(&ids);
        }
        mem_free(text);
    }
    size_t n_noise = 1000000 / nth;
    char *noise = mem_new(n_noise);
    uint64_t seed = 5;
    for (size_t i = 0; i < n_noise; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        noise[i] = (char)(seed >> 56);
    }
    double started = cpu_s();
    struct ids ids = encode(t, noise, n_noise, 0);
    if (cpu_s() - started > SECONDS) fail_msg("%s: random bytes took %.2f s", what, cpu_s() - started);
    ids_free(&ids);
    mem_free(noise);
}

static void hostile_texts_take_linear_time(void **state) {
    (void)state;
    static const char *const pres[] = {
        "gpt-2",  "smollm",  "llama-bpe", "qwen2",  "qwen35", "deepseek-llm", "deepseek-coder", "deepseek-v3",
        "falcon", "default", "tekken",    "gpt-4o", "bloom",  "chameleon",    "bailingmoe",     "laguna"};
    static const struct extra_token tokens[] = {
        {"aa", 1}, {"aaaa", 1}, {"--", 1}, {"----", 1}, {"\xc4\xa0\xc4\xa0", 1}};
    static const char *const merges[] = {"a a", "aa aa", "- -", "-- --", "\xc4\xa0 \xc4\xa0"};
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        struct gguf_build b = byte_vocabulary(pres[i], tokens, 5, merges, 5);
        struct tokenizer *t = must_open(&b);
        must_be_fast(t, pres[i], 16); /* a sixteenth would still take too long if it were quadratic */
        tokenizer_close(t);
    }
    struct gguf_build b = pieces_vocabulary();
    struct tokenizer *t = must_open(&b);
    must_be_fast(t, "llama", 8);
    tokenizer_close(t);
    t = small_bert();
    must_be_fast(t, "bert", 1);
    tokenizer_close(t);
}

/* --- real vocabularies -------------------------------------------------------------------------------------------- */

static struct tokenizer *open_model(const char *name) {
    char file[128];
    snprintf(file, sizeof file, "build/models/%s.gguf", name);
    if (access(file, R_OK) != 0) {
        print_message("# skip: %s is absent (./setup.sh puts it there)\n", file);
        skip();
    }
    struct gguf *g;
    struct tokenizer *t;
    struct err e;
    if (!gguf_open(file, NULL, &g, &e) || !tokenizer_open(g, &t, &e)) fail_msg("%s", e.msg);
    gguf_close(g);
    return t;
}

/* Each case: text, ids by llama.cpp or (the first few) by Hugging Face's tokenizer, whether BOS is added and specials
 * are parsed. */
static void equals_the_reference(const char *name) {
    struct tokenizer *t = open_model(name);
    char file[128];
    snprintf(file, sizeof file, "verify/data/tokenizer/%s.json", name);
    json_error_t why;
    json_t *cases = json_load_file(file, 0, &why);
    if (!cases) fail_msg("%s:%d: %s", file, why.line, why.text);
    assert_true(json_array_size(cases) > 150);
    size_t i;
    json_t *c;
    json_array_foreach(cases, i, c) {
        json_t *text = json_object_get(c, "text"), *expected = json_object_get(c, "ids");
        unsigned flags = (json_is_true(json_object_get(c, "bos")) ? TOKENIZER_ADD_BOS : 0u) |
                         (json_is_true(json_object_get(c, "special")) ? TOKENIZER_PARSE_SPECIAL : 0u);
        struct ids ids = encode(t, json_string_value(text), json_string_length(text), flags);
        bool same = ids.n == json_array_size(expected);
        for (size_t j = 0; same && j < ids.n; j++) same = ids.id[j] == json_integer_value(json_array_get(expected, j));
        if (!same) fail_msg("%s: case %zu '%s' differs", file, i, json_string_value(text));
        ids_free(&ids);
    }
    json_decref(cases);
    tokenizer_close(t);
}

static void smollm2_equals_the_reference(void **state) {
    (void)state;
    equals_the_reference(SMOLLM2);
}

static void gemma_equals_the_reference(void **state) {
    (void)state;
    equals_the_reference(GEMMA);
}

static void smollm2_knows_its_special_tokens(void **state) {
    (void)state;
    struct tokenizer *t = open_model(SMOLLM2);
    assert_int_equal(tokenizer_n_vocab(t), 49152);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_int_equal(tokenizer_eot(t), 2);
    assert_false(tokenizer_add_bos(t));
    assert_true(tokenizer_is_end(t, 0) && tokenizer_is_end(t, 2));
    assert_false(tokenizer_is_end(t, 1));
    EXPECT(t, "<|im_start|>user\n", TOKENIZER_PARSE_SPECIAL, 1, 4093, 198);
    /* no text of a user's makes a control token */
    for (int32_t id = 0; id < 17; id++) {
        size_t len;
        const char *p = tokenizer_piece(t, id, &len);
        struct ids ids = encode(t, p, len, 0);
        assert_true(ids.n > 1);
        for (size_t i = 0; i < ids.n; i++) assert_int_equal(tokenizer_type(t, ids.id[i]), TOKEN_NORMAL);
        ids_free(&ids);
    }
    must_be_fast(t, SMOLLM2, 1);
    tokenizer_close(t);
}

static void gemma_knows_its_special_tokens(void **state) {
    (void)state;
    struct tokenizer *t = open_model(GEMMA);
    assert_int_equal(tokenizer_n_vocab(t), 262144);
    assert_int_equal(tokenizer_bos(t), 2);
    assert_int_equal(tokenizer_eos(t), 1);
    assert_int_equal(tokenizer_eot(t), 106);
    assert_true(tokenizer_add_bos(t));
    assert_true(tokenizer_is_end(t, 1) && tokenizer_is_end(t, 106));
    EXPECT(t, "<start_of_turn>", TOKENIZER_ADD_BOS | TOKENIZER_PARSE_SPECIAL, 2, 105);
    EXPECT(t, "</s>", 0, 212); /* one of Gemma's HTML tokens, and not an end */
    assert_false(tokenizer_is_end(t, 212));
    must_be_fast(t, GEMMA, 1);
    tokenizer_close(t);
}

/* What is encoded without specials reads back as it was, where every byte has a token. */
static void gemma_round_trips_text(void **state) {
    (void)state;
    struct tokenizer *t = open_model(GEMMA);
    static const char *const texts[] = {"Hello, world!",
                                        "  two  spaces ",
                                        "\n\n\t",
                                        "caf\xc3\xa9 \xf0\x9f\xa6\x99",
                                        "\xff\xfe",
                                        "</s> <bos> <h1>",
                                        "\xe4\xb8\xad\xe6\x96\x87 12345"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct ids ids = encode(t, texts[i], strlen(texts[i]), 0);
        expect_text(t, ids.id, ids.n, false, texts[i], strlen(texts[i]));
        ids_free(&ids);
    }
    tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_merges_by_rank),
        cmocka_unit_test(special_tokens_come_from_text_only_when_asked),
        cmocka_unit_test(decoding_returns_the_bytes),
        cmocka_unit_test(bpe_repairs_invalid_utf8),
        cmocka_unit_test(bpe_drops_bytes_it_never_met),
        cmocka_unit_test(every_pre_tokenizer_keeps_all_bytes),
        cmocka_unit_test(patterns_cut_where_they_should),
        cmocka_unit_test(pieces_merge_by_score),
        cmocka_unit_test(pieces_round_trip_any_bytes),
        cmocka_unit_test(words_take_the_longest_pieces),
        cmocka_unit_test(open_refuses_damaged_vocabularies),
        cmocka_unit_test(open_refuses_damaged_pieces),
        cmocka_unit_test(names_make_control_tokens),
        cmocka_unit_test(every_failed_allocation_is_an_error),
        cmocka_unit_test(hostile_texts_take_linear_time),
        cmocka_unit_test(smollm2_equals_the_reference),
        cmocka_unit_test(gemma_equals_the_reference),
        cmocka_unit_test(smollm2_knows_its_special_tokens),
        cmocka_unit_test(gemma_knows_its_special_tokens),
        cmocka_unit_test(gemma_round_trips_text),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
