/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_utf8.c - characters, and bytes that are none. */
#include "weights/utf8.h"

#include <criterion/criterion.h>
#include <string.h>

/* Every code point but the surrogates, there and back; surrogates and what lies above are none. */
Test(weights_utf8, every_code_point)
{
    for (uint32_t code = 0; code <= 0x110000; code++) {
        char text[4];
        bool whole = false, cut = true, surrogate = code >= 0xd800 && code < 0xe000;
        size_t bytes;

        if (surrogate || code == 0x110000) continue;
        bytes = spc_utf8_encode(code, text);
        cr_assert_eq(bytes, code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4);
        cr_assert_eq(spc_utf8_character(text, bytes, &whole, &cut), bytes);
        cr_assert(whole && !cut, "U+%04X", code);
        cr_assert_eq(spc_utf8_decode(text, bytes), code);
        cr_assert_eq(spc_utf8_invalid(text, bytes), bytes);
    }
}

/* bytes, what becomes of them, offset of the first bad one.  Each maximal part is one U+FFFD, as
 * the Unicode standard recommends and reference tokenizers do. */
Test(weights_utf8, bad_bytes)
{
    static const struct {
        const char *bytes, *clean;
        size_t bad;
    } cases[] = {
        {"abc", "abc", 3},
        {"", "", 0},
        {"a\x80z", "a\xef\xbf\xbdz", 1},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd", 0},                                 /* overlong */
        {"\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 0},                 /* overlong */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 0},                 /* surrogate */
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 0}, /* too large */
        {"\xe2\x82", "\xef\xbf\xbd", 0},                                             /* cut */
        {"x\xf0\x9f\x98", "x\xef\xbf\xbd", 1},                                       /* cut */
        {"\xe2\x82z", "\xef\xbf\xbdz", 0},
        {"\xc3\xa4\xff", "\xc3\xa4\xef\xbf\xbd", 2},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes = strlen(cases[i].bytes);
        char out[64];

        cr_assert_eq(spc_utf8_invalid(cases[i].bytes, bytes), cases[i].bad, "case %zu", i);
        cr_assert_eq(spc_utf8_sanitise(cases[i].bytes, bytes, NULL), strlen(cases[i].clean));
        cr_assert_eq(spc_utf8_sanitise(cases[i].bytes, bytes, out), strlen(cases[i].clean));
        cr_assert_str_eq(out, cases[i].clean, "case %zu", i);
    }
}

Test(weights_utf8, a_character_cut_by_the_end_is_told_from_a_bad_one)
{
    bool whole, cut;

    cr_assert_eq(spc_utf8_character("\xf0\x9f", 2, &whole, &cut), 2);
    cr_assert(!whole && cut);
    cr_assert_eq(spc_utf8_character("\xf0\x28", 2, &whole, &cut), 1);
    cr_assert(!whole && !cut);
    cr_assert_eq(spc_utf8_character("\xff", 1, &whole, NULL), 1);
    cr_assert(!whole);
}
