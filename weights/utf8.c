/* SPDX-License-Identifier: Apache-2.0 */
/* utf8.c - well-formed byte sequences of Unicode 15, table 3-7. */
#include "utf8.h"

#include <string.h>

/* Length of a character that starts with this byte, 0 when none does; low and high bound its second
 * byte. */
static size_t lead_length(unsigned char lead, unsigned char *low, unsigned char *high)
{
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) return 3;
    if (lead >= 0xF0 && lead <= 0xF4) return 4;
    return 0;
}

size_t spc_utf8_character(const char *text, size_t count, bool *whole, bool *cut)
{
    const unsigned char *c = (const unsigned char *)text;
    unsigned char low, high;
    size_t length = lead_length(c[0], &low, &high), n = 1;

    while (n < length && n < count && c[n] >= low && c[n] <= high) {
        low = 0x80;
        high = 0xBF;
        n++;
    }
    *whole = length > 0 && n == length;
    if (cut) *cut = length > 0 && n < length && n == count;
    return n;
}

size_t spc_utf8_invalid(const char *text, size_t count)
{
    bool whole;

    for (size_t i = 0; i < count;) {
        size_t n = spc_utf8_character(text + i, count - i, &whole, NULL);

        if (!whole) return i;
        i += n;
    }
    return count;
}

size_t spc_utf8_sanitise(const char *text, size_t count, char *out)
{
    size_t length = 0;

    for (size_t i = 0; i < count;) {
        bool whole;
        size_t n = spc_utf8_character(text + i, count - i, &whole, NULL);

        if (out) memcpy(out + length, whole ? text + i : "\xEF\xBF\xBD", whole ? n : 3);
        length += whole ? n : 3;
        i += n;
    }
    if (out) out[length] = '\0';
    return length;
}

uint32_t spc_utf8_decode(const char *text, size_t n)
{
    static const unsigned char lead_bits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t code = (unsigned char)text[0] & lead_bits[n];

    for (size_t i = 1; i < n; i++) code = code << 6 | ((unsigned char)text[i] & 0x3F);
    return code;
}

size_t spc_utf8_encode(uint32_t code, char *out)
{
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};

    for (size_t i = n; i-- > 1;) {
        out[i] = (char)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    out[0] = (char)(lead[n] | code);
    return n;
}
