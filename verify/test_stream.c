/* test_stream: what the filter lets through, for every way of cutting the input. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "runtime/stream.h"
#include "verify/ref_rng.h"

static void collect(void *context, const char *bytes, size_t n) {
    buf_add(context, bytes, n);
}

enum { MAX_STOPS = 4 };

static void open_with(struct stream *s, const char *const *stops, struct buf *out) {
    struct stream_string strings[MAX_STOPS];
    size_t n = 0;
    for (; stops && stops[n]; n++) strings[n] = (struct stream_string){stops[n], strlen(stops[n])};
    struct err e;
    if (!stream_open(s, strings, n, collect, out, &e)) fail_msg("%s", e.msg);
}

static void expect_out(const struct buf *out, const char *want, const char *when) {
    if (out->len != strlen(want) || (out->len && memcmp(out->data, want, out->len)))
        fail_msg("%s: expected \"%s\", found \"%.*s\"", when, want, (int)out->len, out->len ? out->data : "");
}

/* What a text becomes in the end, however it is cut. stop: -1 or the index of the stop string found. */
static const struct {
    const char *text, *out;
    int stop;
    const char *stops[MAX_STOPS];
} cases[] = {
    {"", "", -1, {"x"}},
    {"plain", "plain", -1, {0}},
    {"one<end>two", "one", 0, {"<end>"}},
    {"one<end", "one<end", -1, {"<end>"}},
    {"<end>", "", 0, {"<end>"}},
    {"a<<end>b", "a<", 0, {"<end>"}},
    {"aabaabaaabx", "aab", 0, {"aabaaab"}}, /* the partial match must fall back, not start again */
    {"aaaaab", "aa", 0, {"aaab"}},
    {"one\nUser: hi", "one", 1, {"Assistant:", "\nUser:"}},
    {"xabcd", "x", 1, {"d", "abcd"}},    /* both end here: the longest counts */
    {"xabcde", "x", 0, {"abc", "bcde"}}, /* the first to be complete counts */
    {"xabd", "xa", 1, {"abc", "bd"}},
    {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", -1, {"z"}},
    {"a\xe2\x82\254b", "a", 0, {"\xe2\x82\xac"}},
    {"a\xe2\x82\255b", "a\xe2\x82\255b", -1, {"\xe2\x82\xac"}}, /* the same first two bytes */
    {"a\xe2\x82", "a\xe2\x82", -1, {0}},                        /* half a character at the end comes out unchanged */
    {"\x80\xff\xc0\xaf\xed\xa0\x80", "\x80\xff\xc0\xaf\xed\xa0\x80", -1, {"q"}},
    {"a\xe2\x82\nb", "a\xe2\x82", 0, {"\n"}},
    {"a\xe2\x82\nb", "a\xe2\x82\nb", -1, {"\nc"}},
};

static void text_comes_out_the_same_however_cut(void **state) {
    (void)state;
    struct ref_rng rng = {5, 0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len = strlen(cases[i].text);
        for (int cut = 0; cut < 200; cut++) { /* 0: whole, 1: byte by byte, then at random */
            struct buf out = {0};
            struct stream s;
            open_with(&s, cases[i].stops, &out);
            bool going = true;
            for (size_t at = 0, n; at < len; at += n) {
                n = cut == 0 ? len : cut == 1 ? 1 : ref_rng_below(&rng, len - at + 1);
                going = stream_push(&s, cases[i].text + at, n);
            }
            assert_int_equal(s.stopped, cases[i].stop >= 0);
            assert_int_equal(going, !s.stopped);
            if (s.stopped) assert_int_equal(s.stopped_by, cases[i].stop);
            stream_flush(&s);
            expect_out(&out, cases[i].out, cases[i].text);
            stream_close(&s);
            buf_free(&out);
        }
    }
}

/* Each line: after this push, exactly this much has come out. */
static void bytes_come_out_as_soon_as_they_are_safe(void **state) {
    (void)state;
    static const struct {
        const char *push, *out;
    } steps[] = {
        {"ab", "ab"},
        {"\xf0\x9f", "ab"}, /* half an emoji */
        {"\x98", "ab"},
        {"\x80", "ab\xf0\x9f\x98\x80"},
        {"<", "ab\xf0\x9f\x98\x80"}, /* may begin "<end>" */
        {"en", "ab\xf0\x9f\x98\x80"},
        {"<", "ab\xf0\x9f\x98\x80<en"}, /* it did not, but may again */
        {" \xe2", "ab\xf0\x9f\x98\x80<en< "},
        {"A", "ab\xf0\x9f\x98\x80<en< \342A"},                     /* no character any more: as it is */
        {"\xed\xa0", "ab\xf0\x9f\x98\x80<en< \342A\xed\xa0"},      /* a surrogate is none from its second byte on */
        {"\xc1", "ab\xf0\x9f\x98\x80<en< \342A\xed\xa0\xc1"},      /* nor an overlong form, from its first */
        {"\xc3<", "ab\xf0\x9f\x98\x80<en< \342A\xed\xa0\xc1\xc3"}, /* held for "<end>", which ends the half character */
    };
    struct buf out = {0};
    struct stream s;
    open_with(&s, (const char *[]){"<end>", NULL}, &out);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_true(stream_push(&s, steps[i].push, strlen(steps[i].push)));
        expect_out(&out, steps[i].out, steps[i].push);
    }
    stream_close(&s);
    buf_free(&out);
}

static void push_after_stop_is_dropped_and_flush_starts_anew(void **state) {
    (void)state;
    struct buf out = {0};
    struct stream s;
    open_with(&s, (const char *[]){"##", NULL}, &out);
    assert_false(stream_push(&s, "a##b", 4));
    assert_false(stream_push(&s, "c", 1));
    stream_flush(&s);
    expect_out(&out, "a", "stopped");
    assert_true(stream_push(&s, "#", 1)); /* a matching half begun before the flush would stop here */
    stream_flush(&s);
    assert_true(stream_push(&s, "#d", 2));
    stream_flush(&s);
    expect_out(&out, "a##d", "new texts");
    stream_close(&s);
    buf_free(&out);
}

/* NUL bytes are text like any other, in the text and in a stop string. */
static void nul_bytes_are_bytes(void **state) {
    (void)state;
    struct buf out = {0};
    struct stream s;
    struct err e;
    assert_true(stream_open(&s, &(struct stream_string){"\0b", 2}, 1, collect, &out, &e));
    assert_false(stream_push(&s, "a\0c\0bd", 6));
    assert_int_equal(out.len, 3);
    assert_memory_equal(out.data, "a\0c", 3);
    stream_close(&s);
    buf_free(&out);
}

/* Random texts and stop strings over two letters, where partial matches are frequent, against a search of the whole. */
static void random_texts_stop_where_a_search_finds(void **state) {
    (void)state;
    struct ref_rng rng = {9, 0};
    int n_stopped = 0;
    for (int round = 0; round < 3000; round++) {
        char text[41], stop[2][8] = {"", ""}, want[41];
        size_t len = ref_rng_below(&rng, 40);
        for (size_t i = 0; i < len; i++) text[i] = (char)('a' + ref_rng_below(&rng, 2));
        text[len] = 0;
        for (int k = 0; k < 2; k++) {
            size_t n = 1 + ref_rng_below(&rng, 7);
            for (size_t i = 0; i < n; i++) stop[k][i] = (char)('a' + ref_rng_below(&rng, 2));
            stop[k][n] = 0;
        }
        const char *begin = NULL, *end = text + len + 1;
        for (int k = 0; k < 2; k++) {
            const char *at = strstr(text, stop[k]);
            if (!at) continue;
            const char *stop_end = at + strlen(stop[k]);
            if (stop_end < end || (stop_end == end && at < begin)) begin = at, end = stop_end;
        }
        strcpy(want, text);
        if (begin) want[begin - text] = 0;
        n_stopped += begin != NULL;
        struct buf out = {0};
        struct stream s;
        open_with(&s, (const char *[]){stop[0], stop[1], NULL}, &out);
        for (size_t at = 0, n; at < len; at += n) {
            n = 1 + ref_rng_below(&rng, 5);
            if (n > len - at) n = len - at;
            stream_push(&s, text + at, n);
        }
        assert_int_equal(s.stopped, begin != NULL);
        stream_flush(&s);
        expect_out(&out, want, text);
        stream_close(&s);
        buf_free(&out);
    }
    assert_true(n_stopped > 1000 && n_stopped < 2900);
}

static void open_errors_name_the_stop_string(void **state) {
    (void)state;
    static const struct {
        struct stream_string stop;
        const char *want;
    } bad[] = {{{"", 0}, "stop string 2 is empty"},
               {{"a\xff", 2}, "stop string 2 is not valid UTF-8"},
               {{"\xc3", 1}, "stop string 2 is not valid UTF-8"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct stream s;
        struct err e;
        assert_false(stream_open(&s, (struct stream_string[]){{"ok", 2}, bad[i].stop}, 2, collect, NULL, &e));
        assert_string_equal(e.msg, bad[i].want);
        assert_int_equal(e.code, ERR_USAGE);
        assert_null(s.stops);
    }
}

static void open_survives_every_failed_allocation(void **state) {
    (void)state;
    int n_failed = 0;
    for (bool ok = false; !ok; n_failed++) {
        struct stream s;
        struct err e = {0};
        mem_fail_at(n_failed + 1);
        ok = stream_open(&s, (struct stream_string[]){{"ab", 2}, {"c", 1}}, 2, collect, NULL, &e);
        mem_fail_at(0);
        if (!ok) assert_int_equal(e.code, ERR_MEMORY);
        stream_close(&s);
    }
    assert_int_equal(n_failed - 1, 5); /* the table, and bytes and fallback of each */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_comes_out_the_same_however_cut),
        cmocka_unit_test(bytes_come_out_as_soon_as_they_are_safe),
        cmocka_unit_test(push_after_stop_is_dropped_and_flush_starts_anew),
        cmocka_unit_test(nul_bytes_are_bytes),
        cmocka_unit_test(random_texts_stop_where_a_search_finds),
        cmocka_unit_test(open_errors_name_the_stop_string),
        cmocka_unit_test(open_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
