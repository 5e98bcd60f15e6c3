/* Pre-tokenization: the patterns that cut text into words before BPE, by the name in tokenizer.ggml.pre.
 *
 * A vocabulary was trained with these patterns; they are facts about the models (each model's tokenizer.json). They run
 * on PCRE2 with Unicode properties. Written so that no pattern looks at a run of characters twice: every one is linear.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/tokenizer_impl.h"
#include "runtime/utf8.h"

#include <pcre2.h>
#include <string.h>

enum { MAX_PATTERNS = 6 };

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define SHORT_FORMS "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LETTERS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define OTHERS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define LLAMA3 SHORT_FORMS "|" LETTERS "|\\p{N}{1,3}|" OTHERS "|" SPACES
#define QWEN2 SHORT_FORMS "|" LETTERS "|\\p{N}|" OTHERS "|" SPACES
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* A capitalized or a shouted word, with `end` after it. */
#define CASED(end) "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" end "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" end
#define SLASHED " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"
#define CJK_KANA "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define CJK_HANGUL "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+"
#define DEEPSEEK3                                                                                                      \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"               \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
#define BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"
/* The cased letters deepseek-llm lists one by one. */
#define DEEPSEEK_LETTERS                                                                                               \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"                    \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}"             \
    "\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"                    \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                  \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"                  \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"          \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"         \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                   \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}"                    \
    "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"                    \
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}"                   \
    "\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}"                  \
    "\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"                \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"        \
    "\\x{1e900}-\\x{1e943}"

static const struct spec {
    const char *names; /* of tokenizer.ggml.pre, a space around each */
    struct pre_defaults defaults;
    const char *pattern[MAX_PATTERNS];
} specs[] = {
    {" default ", {0}, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {" gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe a.x-4.0 mellum"
     " modern-bert mpt olmo jais exaone4 trillion granite-docling ",
     {0},
     {GPT2}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", {0}, {"\\p{N}", GPT2}},
    {" llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ",
     {.add_bos = true, .whole_words = true},
     {LLAMA3}},
    {" dbrx smaug-bpe chatglm-bpe ", {0}, {LLAMA3}},
    {" glm4 glm5 ", {.whole_words = true}, {LLAMA3}},
    {" qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan megrez grok-2 solar-open ", {0}, {QWEN2}},
    {" jais-2 ",
     {0},
     {SHORT_FORMS "|" LETTERS "|\\p{N}{1,3}|" OTHERS "|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|\\s{128}(?!\\S)|"
                  "\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|\\s{1,2}(?!\\S)|\\s"}},
    {" youtu ",
     {.whole_words = true},
     {"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|"
      "[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{2014}\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}"
      "\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|" CJK_KANA,
      CASED(SHORT_FORMS "?") "|\\p{N}|" SLASHED "|" SPACES}},
    {" qwen35 ",
     {0},
     {SHORT_FORMS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES}},
    {" deepseek-llm ",
     {0},
     {"[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+",
      "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3001}\\x{3002}]+",
      "(?<!\\s)\\s++\\z", /* spaces at the end; anchored at the start of their run, or it would be quadratic */
      CJK_HANGUL, "\\p{N}+"}},
    {" deepseek-coder ", {0}, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK_HANGUL, "\\p{N}"}},
    {" deepseek-v3 hunyuan-dense joyai-llm hy_v4 ", {0}, {"\\p{N}{1,3}", CJK_KANA, DEEPSEEK3}},
    {" falcon ", {0}, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {" poro-chat bloom gpt3-finnish ", {0}, {BLOOM}},
    {" viking ", {0}, {BLOOM, "\\p{N}"}},
    {" tekken ", {.add_bos = true, .whole_words = true}, {CASED("") "|\\p{N}|" SLASHED "|" SPACES}},
    {" gpt-4o llama4 kanana2 talkie minimax-m2 ", {0}, {CASED(SHORT_FORMS "?") "|\\p{N}{1,3}|" SLASHED "|" SPACES}},
    {" chameleon ",
     {.add_bos = true},
     {"<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]", GPT2}},
    {" bailingmoe bailingmoe2 llada-moe ",
     {0},
     {"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|" LETTERS "|\\p{N}|" OTHERS "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {" seed-coder ", {0}, {SHORT_FORMS "|" LETTERS "|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES}},
    {" ufakzeka ", {0}, {LETTERS "|\\p{N}|" OTHERS "|" SPACES}},
    {" minicpm5 ", {.whole_words = true}, {"\\p{N}{1,3}", SHORT_FORMS "|" LETTERS "|\\p{N}+|" OTHERS "|" SPACES}},
    {" laguna ", {0}, {"[^\\n]+|\\n+", QWEN2}},
    {" gemma4 ", {.add_bos = true}, {"[^\\n]+|\\n+"}},
};

struct pretokenizer {
    pcre2_code *code[MAX_PATTERNS];
    int n;
};

static const struct spec *spec_of(const char *name) {
    struct buf key = {0};
    buf_printf(&key, " %s ", name);
    const struct spec *found = NULL;
    for (size_t i = 0; i < sizeof specs / sizeof *specs && !found && !strchr(name, ' '); i++)
        if (strstr(specs[i].names, key.data)) found = &specs[i];
    buf_free(&key);
    return found;
}

bool pretokenizer_new(const char *name, const char *path, struct pretokenizer **out, struct pre_defaults *defaults,
                      struct err *e) {
    const struct spec *spec = spec_of(name);
    if (!spec)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: tokenizer.ggml.pre is '%s', a way to cut text into words that is not known", path, name);
    *defaults = spec->defaults;
    struct pretokenizer *p = *out = mem_new(sizeof *p);
    for (; p->n < MAX_PATTERNS && spec->pattern[p->n]; p->n++) {
        int code;
        size_t at;
        p->code[p->n] = pcre2_compile((PCRE2_SPTR)spec->pattern[p->n], PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                      &code, &at, NULL);
        if (!p->code[p->n]) bug("pattern %d of '%s' does not compile: error %d at %zu", p->n, name, code, at);
        pcre2_jit_compile(p->code[p->n], PCRE2_JIT_COMPLETE); /* without JIT support the interpreter runs */
    }
    return true;
}

void pretokenizer_free(struct pretokenizer *p) {
    if (!p) return;
    for (int i = 0; i < p->n; i++) pcre2_code_free(p->code[i]);
    mem_free(p);
}

/* Word ends of one pattern's pass. */
struct cuts {
    uint32_t *end;
    size_t n, cap;
};

static bool cut(struct cuts *c, size_t end, struct err *e) {
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 256;
        uint32_t *grown = mem_try(cap, sizeof *grown);
        if (!grown) return err_set(e, ERR_MEMORY, "no memory to cut the text into %zu words", cap);
        if (c->n) memcpy(grown, c->end, c->n * sizeof *grown);
        mem_free(c->end);
        c->end = grown;
        c->cap = cap;
    }
    c->end[c->n++] = (uint32_t)end;
    return true;
}

/* Cuts text[from … to) at the beginning and end of every match; what is outside does not exist for the pattern. */
static bool split_piece(const pcre2_code *code, pcre2_match_data *md, pcre2_match_context *mc, const char *text,
                        size_t from, size_t to, struct cuts *out, struct err *e) {
    const size_t *span = pcre2_get_ovector_pointer(md);
    size_t len = to - from, pos = 0;
    while (pos < len) {
        int rc = pcre2_match(code, (PCRE2_SPTR)text + from, len, pos, PCRE2_NO_UTF_CHECK, md, mc);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            PCRE2_UCHAR why[128] = "";
            pcre2_get_error_message(rc, why, sizeof why);
            return err_set(e, ERR_INPUT, "the text cannot be cut into words at byte %zu: %s", from + pos, (char *)why);
        }
        if (span[1] <= pos) bug("a pattern matched nothing at byte %zu", from + pos);
        if (span[0] > pos && !cut(out, from + span[0], e)) return false;
        if (!cut(out, from + span[1], e)) return false;
        pos = span[1];
    }
    return pos == len || cut(out, to, e);
}

/* PCRE2 demands valid UTF-8 and takes U+180E for a space, as Unicode no longer does. Both kinds of character become a
 * private-use one of the same length: none of the patterns tells such characters apart. *masked stays NULL where the
 * text has none of them. */
static bool mask_odd_characters(const char *text, size_t len, char **masked, struct err *e) {
    *masked = NULL;
    for (size_t i = 0; i + 2 < len; i++) {
        const uint8_t *p = (const uint8_t *)text + i;
        bool surrogate = p[0] == 0xed && p[1] >= 0xa0, vowel_separator = p[0] == 0xe1 && p[1] == 0xa0 && p[2] == 0x8e;
        if (!surrogate && !vowel_separator) continue;
        if (!*masked) {
            *masked = mem_try(len, 1);
            if (!*masked) return err_set(e, ERR_MEMORY, "no memory for a copy of the text (%zu bytes)", len);
            memcpy(*masked, text, len);
        }
        memcpy(*masked + i, "\xee\x80\x80", 3);
    }
    return true;
}

bool pretokenizer_split(const struct pretokenizer *p, const char *text, size_t len, uint32_t **ends, size_t *n_ends,
                        struct err *e) {
    char *masked;
    if (!mask_odd_characters(text, len, &masked, e)) return false;
    if (masked) text = masked;
    struct cuts cuts = {0};
    bool ok = cut(&cuts, len, e);
    pcre2_match_context *mc = pcre2_match_context_create(NULL);
    pcre2_set_match_limit(mc, 100000000);
    pcre2_set_heap_limit(mc, 1 << 16); /* KiB */
    for (int i = 0; ok && i < p->n; i++) {
        struct cuts finer = {0};
        pcre2_match_data *md = pcre2_match_data_create(1, NULL);
        size_t from = 0;
        for (size_t j = 0; ok && j < cuts.n; j++) {
            ok = split_piece(p->code[i], md, mc, text, from, cuts.end[j], &finer, e);
            from = cuts.end[j];
        }
        pcre2_match_data_free(md);
        mem_free(cuts.end);
        cuts = finer;
    }
    pcre2_match_context_free(mc);
    mem_free(masked);
    if (!ok) {
        mem_free(cuts.end);
        return false;
    }
    *ends = cuts.end;
    *n_ends = cuts.n;
    return true;
}
