/* SPDX-License-Identifier: Apache-2.0 */
/* quality_answer.c - means over examples: ROUGE-2, SQuAD's exact match and F1, GSM8K's number. */
#include "bench/quality_text.h"

#include "weights/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

double quality_mean(const double *sum, int32_t examples)
{
    return examples > 0 ? 100.0 * sum[0] / examples : 0.0;
}

/* 2 m / (a + b) of n-grams, n at most 2; two empty texts have nothing in common. */
static bool f1_of(const char *hypothesis, const char *reference, int32_t n, double *out)
{
    quality_grams g[2];
    quality_both b;

    if (!quality_words(hypothesis, reference, &b)) return false;

    bool good = quality_count_grams(&b, n, g);

    quality_free_both(&b);
    if (!good) return false;
    *out = g[n - 1].match > 0.0 ? 2.0 * g[n - 1].match / (g[n - 1].hypothesis + g[n - 1].reference)
                                : 0.0;
    return true;
}

/* Lower case, everything but a-z and 0-9 to blanks. */
static quality_text rouge_text(const char *s)
{
    quality_text t = {NULL, 0, 0, false};
    quality_sequence codes;

    t.failed = !quality_lower(s, &codes);
    quality_put(&t, "", 0);
    for (int32_t i = 0; i < codes.count; i++) {
        int32_t c = codes.symbol[i];

        quality_put_byte(&t, (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? (char)c : ' ');
    }
    free(codes.symbol);
    return t;
}

static bool rouge2_count(const char *text, const quality_expected *expected, double *out)
{
    quality_text h = rouge_text(text), r = rouge_text(expected->reference);
    bool good = !h.failed && !r.failed && f1_of(h.data, r.data, 2, out);

    free(h.data);
    free(r.data);
    return good;
}

/* Letters, numbers: what Python's \\b sees as a word, marks not among them. */
static bool is_word(int32_t code)
{
    utf8proc_category_t category = utf8proc_category(code);

    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

static bool is_punctuation(int32_t c)
{
    return (c > ' ' && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') ||
           (c > 'z' && c < 0x7f);
}

static bool is_article(const int32_t *code, int32_t count)
{
    return (count == 1 && code[0] == 'a') || (count == 2 && code[0] == 'a' && code[1] == 'n') ||
           (count == 3 && code[0] == 't' && code[1] == 'h' && code[2] == 'e');
}

/* SQuAD's normalize_answer: lower case, no ASCII punctuation, no articles, single blanks. */
static quality_text squad_text(const char *s)
{
    quality_text t = {NULL, 0, 0, false};
    quality_sequence codes;
    int32_t count = 0, end;
    bool blank = false; /* one is due, should more follow */

    t.failed = !quality_lower(s, &codes);
    quality_put(&t, "", 0);
    for (int32_t i = 0; i < codes.count; i++) {
        if (!is_punctuation(codes.symbol[i])) codes.symbol[count++] = codes.symbol[i];
    }
    for (int32_t i = 0; i < count; i = end) {
        char character[4];

        for (end = i; end < count && is_word(codes.symbol[end]);) end++;
        if (end == i) end++; /* no word: on its own */
        if (is_article(codes.symbol + i, end - i) || quality_is_space((uint32_t)codes.symbol[i])) {
            blank = t.bytes > 0;
            continue;
        }
        if (blank) quality_put_byte(&t, ' ');
        blank = false;
        for (int32_t k = i; k < end; k++) {
            quality_put(&t, character, spc_utf8_encode((uint32_t)codes.symbol[k], character));
        }
    }
    free(codes.symbol);
    return t;
}

static bool exact_count(const char *text, const quality_expected *expected, double *out)
{
    quality_text h = squad_text(text), r = squad_text(expected->reference);
    bool good = !h.failed && !r.failed;

    if (good) *out = strcmp(h.data, r.data) == 0;
    free(h.data);
    free(r.data);
    return good;
}

static bool squad_f1_count(const char *text, const quality_expected *expected, double *out)
{
    quality_text h = squad_text(text), r = squad_text(expected->reference);
    bool good = !h.failed && !r.failed && f1_of(h.data, r.data, 1, out);

    free(h.data);
    free(r.data);
    return good;
}

/* Behind the last occurrence of mark; NULL: it does not occur. */
static const char *behind(const char *s, const char *mark)
{
    const char *found = NULL;

    for (const char *at = s; (at = strstr(at, mark));) found = at += strlen(mark);
    return found;
}

/* The number that begins at *at, grouped by commas or not, below zero behind a minus that is not
 * between two words; *at moves behind it. */
static double read_number(const char *s, const char **at)
{
    const char *sign = *at > s && (*at)[-1] == '$' ? *at - 1 : *at; /* -$5 */
    char digits[64];
    size_t used = 0;

    if (sign > s && sign[-1] == '-') {
        char before = sign - 1 > s ? sign[-2] : ' ';
        bool letter = (before >= 'a' && before <= 'z') || (before >= 'A' && before <= 'Z');

        if (!quality_is_digit(before) && !letter) digits[used++] = '-';
    }
    for (; quality_is_digit(**at) || ((**at == '.' || **at == ',') && quality_is_digit((*at)[1]));
         (*at)++) {
        if (**at != ',' && used < sizeof digits - 1) digits[used++] = **at;
    }
    digits[used] = '\0';
    return strtod(digits, NULL);
}

/* The answer a text comes to: the first number behind its last "####" or, without one, behind its
 * last "The answer is"; its last number where neither stands.  false: there is none. */
static bool answer(const char *s, double *out)
{
    const char *mark = behind(s, "####");
    bool found = false;

    if (!mark) mark = behind(s, "The answer is");
    for (const char *at = mark ? mark : s; *at && !(mark && found);) {
        bool begins = quality_is_digit(*at) || (*at == '.' && quality_is_digit(at[1]));

        if (begins) *out = read_number(s, &at);
        if (!begins) at++;
        found = found || begins;
    }
    return found;
}

static bool gsm8k_count(const char *text, const quality_expected *expected, double *out)
{
    double h, r;

    *out = answer(text, &h) && answer(expected->reference, &r) && fabs(h - r) < 1e-9;
    return true;
}

const quality_metric quality_rouge2 = {"rouge2", 1, false, rouge2_count, quality_mean};
const quality_metric quality_exact = {"exact", 1, false, exact_count, quality_mean};
const quality_metric quality_f1 = {"f1", 1, false, squad_f1_count, quality_mean};
const quality_metric quality_gsm8k = {"gsm8k", 1, false, gsm8k_count, quality_mean};
