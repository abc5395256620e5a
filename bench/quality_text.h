/* SPDX-License-Identifier: Apache-2.0 */
/* quality_text.h - inside quality: texts as sequences of symbols, n-grams, the metrics themselves.
 */
#ifndef SPC_BENCH_QUALITY_TEXT_H
#define SPC_BENCH_QUALITY_TEXT_H

#include "bench/quality.h"

#include <stddef.h>

/* ---- texts ---- */

/* One that grows; begins as zeros. */
typedef struct {
    char *data; /* terminated; NULL before the first byte; owned */
    size_t bytes, capacity;
    bool failed; /* no memory: further bytes are dropped */
} quality_text;

void quality_put(quality_text *t, const char *bytes, size_t count);
void quality_put_byte(quality_text *t, char c);

/* What Python's str.split() splits at. */
bool quality_is_space(uint32_t code);

static inline bool quality_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The next code point; *at moves behind it.  Bytes that are no UTF-8 are U+FFFD. */
uint32_t quality_next_code(const char *s, size_t bytes, size_t *at);

/* ---- sequences of symbols ---- */

typedef struct {
    int32_t *symbol; /* [count], and room for one more; owned */
    int32_t count;
} quality_sequence;

/* Hypothesis and reference over one alphabet. */
typedef struct {
    quality_sequence hypothesis, reference;
} quality_both;

void quality_free_both(quality_both *b);

/* Code points, with or without white space.  false: no memory. */
bool quality_characters(const char *s, bool spaces, quality_sequence *out);

/* The code points of Python's str.lower().  false: no memory. */
bool quality_lower(const char *s, quality_sequence *out);

/* Words between white space as numbers: equal words, equal numbers.  false: no memory. */
bool quality_words(const char *hypothesis, const char *reference, quality_both *out);

/* ---- n-grams ---- */

typedef struct {
    double hypothesis, reference, match; /* n-grams of each, and of both at once */
} quality_grams;

enum { QUALITY_ORDERS = 6 };

/* Runs of 1 .. orders symbols; false: no memory.
 *
 * out   [orders], at most QUALITY_ORDERS */
bool quality_count_grams(const quality_both *b, int32_t orders, quality_grams *out);

/* ---- metrics ---- */

/* Score of those whose first count is a share of each example: 100 times the mean. */
double quality_mean(const double *sum, int32_t examples);

extern const quality_metric quality_bleu, quality_chrf; /* _bleu.c */
extern const quality_metric quality_rouge2, quality_exact, quality_f1,
    quality_gsm8k;                         /* _answer.c */
extern const quality_metric quality_pass1; /* _python.c */

#endif
