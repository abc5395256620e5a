/* SPDX-License-Identifier: Apache-2.0 */
/* quality_text.c - sequences of symbols: words as numbers, or code points; n-grams of them. */
#include "bench/quality_text.h"

#include "weights/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- texts ----------------------------------------------------------------------------------- */

void quality_put(quality_text *t, const char *bytes, size_t count)
{
    if (t->failed) return;
    if (t->bytes + count + 1 > t->capacity) {
        size_t larger = (t->capacity + count + 64) * 2;
        char *grown = realloc(t->data, larger);

        if (!grown) {
            t->failed = true;
            return;
        }
        t->data = grown;
        t->capacity = larger;
    }
    memcpy(t->data + t->bytes, bytes, count);
    t->bytes += count;
    t->data[t->bytes] = '\0';
}

void quality_put_byte(quality_text *t, char c)
{
    quality_put(t, &c, 1);
}

bool quality_is_space(uint32_t c)
{
    return c == ' ' || (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= 0x1f) || c == 0x85 ||
           c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

uint32_t quality_next_code(const char *s, size_t bytes, size_t *at)
{
    bool whole;
    size_t n = spc_utf8_character(s + *at, bytes - *at, &whole, NULL);
    uint32_t code = whole ? spc_utf8_decode(s + *at, n) : 0xfffd;

    *at += n;
    return code;
}

/* ---- sequences of symbols -------------------------------------------------------------------- */

void quality_free_both(quality_both *b)
{
    free(b->hypothesis.symbol);
    free(b->reference.symbol);
}

bool quality_characters(const char *s, bool spaces, quality_sequence *out)
{
    size_t bytes = strlen(s), at = 0;

    out->count = 0;
    out->symbol = malloc((bytes + 1) * sizeof *out->symbol);
    if (!out->symbol) return false;
    while (at < bytes) {
        uint32_t code = quality_next_code(s, bytes, &at);

        if (spaces || !quality_is_space(code)) out->symbol[out->count++] = (int32_t)code;
    }
    return true;
}

/* Is the cased character nearest to [at], in the direction of step, one at all?  Python passes over
 * marks, apostrophes and the like (Unicode: Case_Ignorable). */
static bool cased_beside(const quality_sequence *s, int32_t at, int32_t step)
{
    static const int32_t middle[] = {'\'',   '.',    ':',    '^',    '`',    0xa8,
                                     0xad,   0xaf,   0xb4,   0xb7,   0xb8,   0x387,
                                     0x55f,  0x5f4,  0x2018, 0x2019, 0x2024, 0x2027,
                                     0xfe13, 0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};

    for (int32_t i = at + step; i >= 0 && i < s->count; i += step) {
        utf8proc_category_t category = utf8proc_category(s->symbol[i]);
        bool ignorable = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
                         category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
                         category == UTF8PROC_CATEGORY_SK;

        for (size_t k = 0; !ignorable && k < sizeof middle / sizeof *middle; k++) {
            ignorable = middle[k] == s->symbol[i];
        }
        if (ignorable) continue;
        return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
               category == UTF8PROC_CATEGORY_LT || utf8proc_isupper(s->symbol[i]) ||
               utf8proc_islower(s->symbol[i]);
    }
    return false;
}

/* The code points of Python's str.lower(), which is one to one but for a Greek final sigma and the
 * Turkish dotted I. */
bool quality_lower(const char *s, quality_sequence *out)
{
    quality_sequence in;
    bool good = quality_characters(s, true, &in);

    out->count = 0;
    out->symbol = good ? malloc(((size_t)in.count * 2 + 1) * sizeof(int32_t)) : NULL;
    good = out->symbol != NULL;
    for (int32_t i = 0; good && i < in.count; i++) {
        int32_t code = in.symbol[i];
        bool last = code == 0x3a3 && cased_beside(&in, i, -1) && !cased_beside(&in, i, 1);

        out->symbol[out->count++] = last ? 0x3c2 : code == 0x130 ? 'i' : utf8proc_tolower(code);
        if (code == 0x130) out->symbol[out->count++] = 0x307;
    }
    free(in.symbol);
    return good;
}

typedef struct {
    const char *at;
    size_t bytes;
} word;

/* Words between white space. */
static bool split(const char *s, word **out, int32_t *count)
{
    size_t bytes = strlen(s), at = 0, begin = 0;

    *count = 0;
    *out = malloc((bytes / 2 + 2) * sizeof **out);
    if (!*out) return false;
    while (at < bytes) {
        size_t here = at;

        if (!quality_is_space(quality_next_code(s, bytes, &at))) continue;
        if (here > begin) (*out)[(*count)++] = (word){s + begin, here - begin};
        begin = at;
    }
    if (bytes > begin) (*out)[(*count)++] = (word){s + begin, bytes - begin};
    return true;
}

/* Equal words, equal numbers: a word is numbered by its first occurrence. */
static int32_t number_of(const word *w, const word *all, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (all[i].bytes == w->bytes && memcmp(all[i].at, w->at, w->bytes) == 0) return i;
    }
    return count;
}

bool quality_words(const char *hypothesis, const char *reference, quality_both *out)
{
    word *h = NULL, *r = NULL, *all = NULL;
    int32_t hs = 0, rs = 0;
    bool good = split(hypothesis, &h, &hs) && split(reference, &r, &rs);

    memset(out, 0, sizeof *out);
    if (good) {
        all = malloc(((size_t)hs + (size_t)rs + 1) * sizeof *all);
        out->hypothesis.symbol = malloc(((size_t)hs + 1) * sizeof(int32_t));
        out->reference.symbol = malloc(((size_t)rs + 1) * sizeof(int32_t));
        good = all && out->hypothesis.symbol && out->reference.symbol;
    }
    for (int32_t i = 0; good && i < hs + rs; i++) {
        all[i] = i < hs ? h[i] : r[i - hs];
        *(i < hs ? &out->hypothesis.symbol[i] : &out->reference.symbol[i - hs]) =
            number_of(&all[i], all, i);
    }
    out->hypothesis.count = hs;
    out->reference.count = rs;
    free(h);
    free(r);
    free(all);
    if (!good) quality_free_both(out);
    return good;
}

/* ---- n-grams --------------------------------------------------------------------------------- */

static int compare_grams(const int32_t *a, const int32_t *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}

/* All starts, sorted by the n symbols that follow: shell sort, for texts are short.  A symbol below
 * all others ends the text, so what is shorter than n stands ahead of what it begins. */
static void sort_starts(const quality_sequence *s, int32_t n, int32_t *start)
{
    const int32_t *symbol = s->symbol;

    for (int32_t i = 0; i < s->count; i++) start[i] = i;
    s->symbol[s->count] = INT32_MIN;
    for (int32_t gap = s->count / 2; gap > 0; gap /= 2) {
        for (int32_t i = gap; i < s->count; i++) {
            int32_t moved = start[i], k = i;

            while (k >= gap && compare_grams(symbol + start[k - gap], symbol + moved, n) > 0) {
                start[k] = start[k - gap];
                k -= gap;
            }
            start[k] = moved;
        }
    }
}

/* Runs of n symbols that both have; starts sorted by n symbols or more. */
static double count_matches(const quality_both *b, const int32_t *x, const int32_t *y, int32_t n)
{
    const quality_sequence *h = &b->hypothesis, *r = &b->reference;
    int32_t i = 0, k = 0;
    double match = 0.0;

    while (i < h->count && k < r->count) {
        bool short_x = x[i] + n > h->count, short_y = y[k] + n > r->count;
        int order;

        if (short_x || short_y) {
            i += short_x;
            k += short_y;
            continue;
        }
        order = compare_grams(h->symbol + x[i], r->symbol + y[k], n);
        match += order == 0;
        i += order <= 0;
        k += order >= 0;
    }
    return match;
}

bool quality_count_grams(const quality_both *b, int32_t orders, quality_grams *out)
{
    int32_t xs = b->hypothesis.count, ys = b->reference.count;
    int32_t *start = malloc(((size_t)xs + (size_t)ys + 1) * sizeof *start);

    if (!start) return false;
    sort_starts(&b->hypothesis, orders, start);
    sort_starts(&b->reference, orders, start + xs);
    for (int32_t n = 1; n <= orders; n++) {
        out[n - 1] = (quality_grams){xs >= n ? xs - n + 1 : 0, ys >= n ? ys - n + 1 : 0,
                                     count_matches(b, start, start + xs, n)};
    }
    free(start);
    return true;
}
