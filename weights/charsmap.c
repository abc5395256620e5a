/* SPDX-License-Identifier: Apache-2.0 */
/* charsmap.c - replacing by SentencePiece's table, as the `tokenizers` library does it. */
#include "charsmap.h"

#include "pretoken.h"
#include "utf8.h"

enum { GRAPHEME_BYTES = 6 };

/* ---- base64 ----------------------------------------------------------------------------------
 */

static int32_t digit_of(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* [3 * length / 4] bytes; false: not base64. */
static bool decode_base64(const char *text, size_t length, unsigned char *out, size_t *bytes)
{
    uint32_t bits = 0;
    int32_t held = 0;

    while (length > 0 && text[length - 1] == '=') length--;
    *bytes = 0;
    for (size_t i = 0; i < length; i++) {
        int32_t digit = digit_of(text[i]);

        if (digit < 0) return false;
        bits = bits << 6 | (uint32_t)digit;
        held += 6;
        if (held < 8) continue;
        held -= 8;
        out[(*bytes)++] = (unsigned char)(bits >> held);
    }
    return true;
}

/* ---- the table -------------------------------------------------------------------------------
 */

static uint32_t little_endian(const unsigned char *b)
{
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Bytes of the trie, its units, then the texts. */
static bool split_table(const unsigned char *raw, size_t bytes, spc_charsmap *out,
                        const char **what)
{
    size_t trie;

    *what = "precompiled_charsmap: the length of its trie does not fit";
    if (bytes < 4) return false;
    trie = little_endian(raw);
    if (trie > bytes - 4 || trie % 4 != 0 || trie == 0) return false;
    *what = "";
    out->units = trie / 4;
    out->text_bytes = bytes - 4 - trie;
    out->unit = malloc(trie);
    out->text = malloc(out->text_bytes + 1);
    if (!out->unit || !out->text) return false;
    for (size_t i = 0; i < out->units; i++) out->unit[i] = little_endian(raw + 4 + 4 * i);
    memcpy(out->text, raw + 4 + trie, out->text_bytes);
    out->text[out->text_bytes] = '\0';
    *what = "precompiled_charsmap: its texts are not UTF-8";
    return spc_utf8_invalid(out->text, out->text_bytes) == out->text_bytes;
}

bool spc_charsmap_open(const char *base64, spc_charsmap *out, const char **what)
{
    size_t length = strlen(base64), bytes;
    unsigned char *raw = malloc(length + 1);
    bool good = false;

    memset(out, 0, sizeof *out);
    *what = "";
    if (!raw) return false;
    if (!decode_base64(base64, length, raw, &bytes)) {
        *what = "precompiled_charsmap: expected base64";
    } else {
        good = split_table(raw, bytes, out, what);
    }
    free(raw);
    if (!good) spc_charsmap_free(out);
    return good;
}

void spc_charsmap_free(spc_charsmap *map)
{
    free(map->unit);
    free(map->text);
    memset(map, 0, sizeof *map);
}

/* Units of a darts-clone trie. */
static size_t offset_of(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The text for the shortest key that a chunk begins with, or NULL. */
static const char *find(const spc_charsmap *map, const char *chunk, size_t bytes)
{
    size_t at = offset_of(map->unit[0]);

    for (size_t i = 0; i < bytes && chunk[i] != '\0'; i++) {
        unsigned char label = (unsigned char)chunk[i];
        uint32_t unit, value;

        at ^= label;
        if (at >= map->units) return NULL;
        unit = map->unit[at];
        if ((unit & (1u << 31 | 0xffu)) != label) return NULL;
        at ^= offset_of(unit);
        if (at >= map->units) return NULL;
        if ((unit >> 8 & 1u) == 0) continue;
        value = map->unit[at] & 0x7fffffffu;
        return value <= map->text_bytes ? map->text + value : NULL;
    }
    return NULL;
}

bool spc_charsmap_run(const spc_charsmap *map, const char *text, size_t bytes,
                      spc_buffer_bytes *out)
{
    bool good = true, whole;

    for (size_t i = 0, grapheme; i < bytes && good; i += grapheme) {
        const char *found;

        grapheme = spc_grapheme(text + i, bytes - i);
        found = grapheme < GRAPHEME_BYTES ? find(map, text + i, grapheme) : NULL;
        if (found) {
            good = spc_bytes_put(out, found, strlen(found));
            continue;
        }
        for (size_t k = 0, n; k < grapheme && good; k += n) {
            n = spc_utf8_character(text + i + k, grapheme - k, &whole, NULL);
            found = find(map, text + i + k, n);
            good = found ? spc_bytes_put(out, found, strlen(found))
                         : spc_bytes_put(out, text + i + k, n);
        }
    }
    return good;
}
