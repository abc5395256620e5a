/* SPDX-License-Identifier: Apache-2.0 */
/* Stop strings and whole characters in a stream of token bytes. */
#include "host/text.h"

#include "toyrows.h"

#include <criterion/criterion.h>

typedef struct {
    char text[4096];
    size_t bytes;
    int32_t calls;
} sink;

static void take(void *user, const char *text, size_t bytes)
{
    sink *s = user;

    cr_assert_leq(s->bytes + bytes, sizeof s->text);
    memcpy(s->text + s->bytes, text, bytes);
    s->bytes += bytes;
    s->calls++;
}

static void begin(spc_text_stream *stream, sink *s, const char *const *stop, int32_t count,
                  size_t longest)
{
    memset(s, 0, sizeof *s);
    cr_assert_eq(spc_text_init(stream, stop, count, longest, take, s, NULL), SPC_OK);
}

static void expect_text(const sink *s, const char *wanted)
{
    cr_expect(s->bytes == strlen(wanted) && memcmp(s->text, wanted, s->bytes) == 0,
              "'%.*s', not '%s'", (int)s->bytes, s->text, wanted);
}

/* Text that arrives in the given pieces (ends with NULL); returns whether a stop string ended it.
 */
static bool run(const char *const *stop, int32_t count, const char *const *piece, sink *s)
{
    spc_text_stream stream;
    bool stopped = false;

    begin(&stream, s, stop, count, 16);
    for (; *piece && !stopped; piece++) stopped = spc_text_push(&stream, *piece, strlen(*piece));
    if (!stopped) spc_text_finish(&stream);
    spc_text_free(&stream);
    return stopped;
}

Test(host_text, without_stop_strings_text_goes_out_as_it_comes)
{
    spc_text_stream stream;
    sink s;

    begin(&stream, &s, NULL, 0, 16);
    cr_expect_not(spc_text_push(&stream, "abc", 3));
    expect_text(&s, "abc");
    cr_expect_not(spc_text_push(&stream, NULL, 0), "a special token has no bytes");
    cr_expect_not(spc_text_push(&stream, "\0d", 2), "a NUL is a character like others");
    cr_expect_eq(s.bytes, 5);
    cr_expect_eq(stream.bytes, 5);
    spc_text_free(&stream);
}

Test(host_text, text_ends_before_a_stop_string_wherever_tokens_end)
{
    static const char *const stop[] = {"END", "\n\n"};
    static const char *const pieces[][6] = {{"one END two", NULL},
                                            {"one ", "END", NULL},
                                            {"one E", "N", "D", NULL},
                                            {"on", "e ", "E", "ND two", NULL},
                                            {"one ", "\n", "\nEND", NULL}};

    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        sink s;

        cr_expect(run(stop, 2, pieces[i], &s), "case %d", (int)i);
        expect_text(&s, "one ");
    }
}

Test(host_text, the_beginning_of_a_stop_string_is_held_and_let_go_when_it_was_none)
{
    static const char *const stop[] = {"ababc"};
    spc_text_stream stream;
    sink s;

    begin(&stream, &s, stop, 1, 16);
    cr_expect_not(spc_text_push(&stream, "xab", 3));
    expect_text(&s, "x");
    cr_expect_not(spc_text_push(&stream, "ab", 2));
    expect_text(&s, "x");
    cr_expect_not(spc_text_push(&stream, "ab", 2), "abab may still begin at the second ab");
    expect_text(&s, "xab");
    cr_expect(spc_text_push(&stream, "cd", 2));
    expect_text(&s, "xab");
    cr_expect_eq(stream.bytes, 3);
    spc_text_free(&stream);
}

Test(host_text, the_first_complete_stop_string_ends_the_text)
{
    static const char *const stop[] = {"abcd", "bc"};
    static const char *const piece[] = {"ab", "c", "d", NULL};
    sink s;

    cr_expect(run(stop, 2, piece, &s));
    expect_text(&s, "a");
}

Test(host_text, a_finished_text_lets_go_of_what_is_held)
{
    static const char *const stop[] = {"END"};
    static const char *const piece[] = {"one EN", NULL};
    sink s;

    cr_expect_not(run(stop, 1, piece, &s));
    expect_text(&s, "one EN");
}

Test(host_text, characters_come_out_whole)
{
    static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z"; /* 1, 2, 3, 4, 1 bytes */
    spc_text_stream stream;
    sink s;

    begin(&stream, &s, NULL, 0, 16);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        size_t before = s.bytes;

        cr_expect_not(spc_text_push(&stream, text + i, 1));
        if (s.bytes > before) { /* what came out ends where the input has a whole character */
            cr_expect_eq(s.bytes, i + 1);
        }
    }
    cr_expect_eq(s.bytes, sizeof text - 1);
    cr_expect_eq(memcmp(s.text, text, s.bytes), 0);
    spc_text_free(&stream);
}

Test(host_text, bytes_that_are_no_characters_become_replacement_characters)
{
    static const char *const piece[] = {"a\xff", "b\xe2\x82", "c", "\xf0\x9f", NULL};
    sink s;

    cr_expect_not(run(NULL, 0, piece, &s));
    expect_text(&s, "a\xef\xbf\xbd"
                    "b\xef\xbf\xbd"
                    "c\xef\xbf\xbd");
}

Test(host_text, long_pieces_and_stop_strings_fit)
{
    static char text[2000], stop_text[1500];
    const char *stop[] = {stop_text};
    spc_text_stream stream;
    sink s;

    memset(text, '\xff', sizeof text); /* every byte becomes three */
    memset(stop_text, 'x', sizeof stop_text - 1);
    memset(&s, 0, sizeof s);
    cr_assert_eq(spc_text_init(&stream, stop, 1, 1200, take, &s, NULL), SPC_OK);
    cr_expect_not(spc_text_push(&stream, text, 1200));
    cr_expect_eq(s.bytes, 3600);
    s.bytes = 0;
    memset(text, 'x', sizeof text);
    cr_expect_not(spc_text_push(&stream, text, 1200));
    cr_expect_eq(s.bytes, 0, "all of it may begin the stop string");
    cr_expect(spc_text_push(&stream, text, 299), "1499 bytes are the stop string");
    cr_expect_eq(s.bytes, 0);
    cr_expect_eq(stream.bytes, 1200, "bytes count before sanitising");
    spc_text_free(&stream);
}

Test(host_text, nobody_has_to_listen)
{
    static const char *const stop[] = {"b"};
    spc_text_stream stream;

    cr_assert_eq(spc_text_init(&stream, stop, 1, 4, NULL, NULL, NULL), SPC_OK);
    cr_expect_not(spc_text_push(&stream, "aa", 2));
    cr_expect_eq(stream.bytes, 2);
    cr_expect(spc_text_push(&stream, "ab", 2));
    cr_expect_eq(stream.bytes, 3);
    spc_text_free(&stream);
    spc_text_free(&stream); /* once more does no harm */
}

/* Where the first stop string that is complete begins, tokens considered one after another. */
static size_t cut_by_hand(const char *text, size_t bytes, const size_t *end, size_t tokens,
                          const char *const *stop, int32_t count)
{
    for (size_t t = 0; t < tokens; t++) {
        for (size_t at = 0; at < end[t]; at++) {
            for (int32_t k = 0; k < count; k++) {
                size_t n = strlen(stop[k]);

                if (at + n <= end[t] && memcmp(text + at, stop[k], n) == 0) return at;
            }
        }
    }
    return bytes;
}

Test(host_text, random_texts_are_cut_as_a_search_of_the_whole_would)
{
    static const char *const stop[] = {"aab", "ba", "bbbb"};
    dice d = {1};

    for (int round = 0; round < 20000; round++) {
        char text[24];
        size_t end[24], tokens = 0, at = 0;
        spc_text_stream stream;
        sink s;
        bool stopped = false;
        int32_t stops = 1 + dice_below(&d, 3);

        begin(&stream, &s, stop, stops, 4);
        for (size_t i = 0; i < sizeof text; i++) text[i] = "aabc"[dice_below(&d, 4)];
        while (at < sizeof text && !stopped) {
            size_t n = (size_t)dice_below(&d, 5);

            if (n > sizeof text - at) n = sizeof text - at;
            stopped = spc_text_push(&stream, text + at, n);
            at += n;
            end[tokens < 23 ? tokens++ : 23] = at;
        }
        if (!stopped) spc_text_finish(&stream);
        size_t wanted = cut_by_hand(text, at, end, tokens, stop, stops);
        cr_assert_eq(s.bytes, wanted, "round %d", round);
        cr_assert_eq(memcmp(s.text, text, wanted), 0);
        cr_assert_eq(stopped, wanted < at);
        spc_text_free(&stream);
    }
}
