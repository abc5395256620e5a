/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_pretoken.c - normal forms, classes of characters, splitting at a pattern. */
#include "weights/pretoken.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Test(weights_pretoken, normal_forms)
{
    /* e-acute composed; decomposed; the ligature fi; Hangul GAG */
    static const char composed[] = "\xc3\xa9", apart[] = "e\xcc\x81", ligature[] = "\xef\xac\x81";
    static const struct {
        spc_form form;
        const char *text, *want;
    } cases[] = {
        {SPC_FORM_NFC, apart, composed},
        {SPC_FORM_NFD, composed, apart},
        {SPC_FORM_NFKC, ligature, "fi"},
        {SPC_FORM_NFKD, ligature, "fi"},
        {SPC_FORM_NFC, ligature, ligature},
        {SPC_FORM_NONE, apart, apart},
        {SPC_FORM_NFC, "", ""},
        {SPC_FORM_NFD, "\xea\xb0\x81", "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out;
        size_t bytes;
        spc_error err;

        cr_assert_eq(
            spc_normalise(cases[i].form, cases[i].text, strlen(cases[i].text), &out, &bytes, &err),
            SPC_OK);
        cr_assert_eq(bytes, strlen(cases[i].want), "case %zu", i);
        cr_assert(memcmp(out, cases[i].want, bytes) == 0, "case %zu", i);
        free(out);
    }
}

Test(weights_pretoken, spaces_and_words)
{
    static const uint32_t spaces[] = {' ', '\t', '\n', 0xa0, 0x2003, 0x3000};
    static const uint32_t words[] = {'a', 'Z', '7', '_', 0xe9, 0x4e2d, 0x301, 0x661};
    static const uint32_t neither[] = {'.', '-', '!', 0x2014, 0x1f600};

    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) {
        cr_assert(spc_is_space(spaces[i]) && !spc_is_word(spaces[i]), "U+%04X", spaces[i]);
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        cr_assert(spc_is_word(words[i]) && !spc_is_space(words[i]), "U+%04X", words[i]);
    }
    for (size_t i = 0; i < sizeof neither / sizeof *neither; i++) {
        cr_assert(!spc_is_word(neither[i]) && !spc_is_space(neither[i]), "U+%04X", neither[i]);
    }
}

/* The pieces of a text, in brackets. */
static void expect_split(const char *pattern, const char *text, bool matches, bool between,
                         const char *want)
{
    spc_pattern *p;
    spc_spans spans = {NULL, 0, 0};
    spc_error err;
    char got[256] = "";

    cr_assert_eq(spc_pattern_open("t", pattern, &p, &err), SPC_OK, "%s", err.message);
    cr_assert_eq(
        spc_pattern_split(p, text, (spc_span){0, strlen(text)}, matches, between, &spans, &err),
        SPC_OK);
    for (size_t i = 0; i < spans.count; i++) {
        size_t used = strlen(got);

        (void)snprintf(got + used, sizeof got - used, "[%.*s]", (int)spans.span[i].bytes,
                       text + spans.span[i].at);
    }
    cr_assert_str_eq(got, want, "%s on '%s'", pattern, text);
    spc_spans_free(&spans);
    spc_pattern_close(p);
}

Test(weights_pretoken, splits)
{
    expect_split("\\p{L}+", "ab 12 \xc3\xa9z", true, false, "[ab][\xc3\xa9z]");
    expect_split("\\p{L}+", "ab 12 \xc3\xa9z", true, true, "[ab][ 12 ][\xc3\xa9z]");
    expect_split("\\p{L}+", "ab 12 \xc3\xa9z", false, true, "[ 12 ]");
    expect_split("x*", "axxb", true, true, "[a][xx][b]"); /* empty matches make no pieces */
    expect_split(" ?\\p{N}{1,3}", "12345 67", true, false, "[123][45][ 67]");
    expect_split("\\s+(?!\\S)", "a   b ", true, true, "[a][  ][ b][ ]");
    expect_split("x", "", true, true, "");
}

Test(weights_pretoken, a_split_stays_within_its_part)
{
    spc_pattern *p;
    spc_spans spans = {NULL, 0, 0};
    spc_error err;

    cr_assert_eq(spc_pattern_open("t", "b+", &p, &err), SPC_OK);
    cr_assert_eq(spc_pattern_split(p, "bbabb", (spc_span){1, 3}, true, false, &spans, &err),
                 SPC_OK);
    cr_assert_eq(spans.count, 2);
    cr_assert(spans.span[0].at == 1 && spans.span[0].bytes == 1);
    cr_assert(spans.span[1].at == 3 && spans.span[1].bytes == 1);
    spc_spans_free(&spans);
    spc_pattern_close(p);
}

Test(weights_pretoken, bad_patterns_and_endless_ones)
{
    spc_pattern *p;
    spc_spans spans = {NULL, 0, 0};
    spc_error err;
    char text[64];

    cr_assert_neq(spc_pattern_open("t.json", "(", &p, &err), SPC_OK);
    cr_assert_null(p);
    cr_assert_str_eq(err.message,
                     "t.json: pattern '(': missing closing parenthesis at character 1");
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '!';
    cr_assert_eq(spc_pattern_open("t", "(a+)+$", &p, &err), SPC_OK);
    cr_assert_eq(spc_pattern_split(p, text, (spc_span){0, sizeof text}, true, true, &spans, &err),
                 SPC_EINPUT, "2^62 ways to match: the work is bounded");
    cr_assert_str_eq(err.message,
                     "the tokenizer's pattern gives up on this text: match limit exceeded");
    spc_spans_free(&spans);
    spc_pattern_close(p);
}

/* A lookbehind that moves the beginning of a match back (by a call, which PCRE2 lets pass) would
 * find the same match for ever, and pieces of a negative length. */
Test(weights_pretoken, a_match_that_begins_inside_the_last_one_is_refused)
{
    static const char *const patterns[] = {
        "(?(DEFINE)(?<x>\\Kab))(?<=(?&x))",
        "(?(DEFINE)(?<x>\\Kab))(?:ab|(?<=(?&x))c)",
    };

    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        spc_pattern *p;
        spc_spans spans = {NULL, 0, 0};
        spc_error err;
        spc_status status = spc_pattern_open("t", patterns[i], &p, &err);

        if (status == SPC_OK) {
            status = spc_pattern_split(p, "abcd", (spc_span){0, 4}, true, true, &spans, &err);
            cr_assert_eq(status, SPC_EINPUT, "%s", patterns[i]);
            for (size_t k = 0; k < spans.count; k++) {
                cr_assert_leq(spans.span[k].bytes, 4, "%s", patterns[i]);
            }
        } else { /* a PCRE2 that sees it at once */
            cr_assert_eq(status, SPC_EMODEL, "%s", patterns[i]);
        }
        spc_spans_free(&spans);
        spc_pattern_close(p);
    }
}

/* \C is one byte, and what lies between its matches would not be UTF-8. */
Test(weights_pretoken, a_pattern_that_cuts_characters_is_refused)
{
    spc_pattern *p;
    spc_error err;

    cr_assert_eq(spc_pattern_open("t.json", "\\C", &p, &err), SPC_EMODEL);
    cr_assert_null(p);
    cr_assert_not_null(strstr(err.message, "t.json"), "%s", err.message);
}
