/* SPDX-License-Identifier: Apache-2.0 */
/* quality_bleu.c - BLEU and chrF, as sacrebleu counts them. */
#include "bench/quality_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLEU_ORDER = 4, CHRF_ORDER = 6 };

/* ---- bleu ------------------------------------------------------------------------------------ */

/* What mteval-v13a sets apart: ASCII signs but . , - and '. */
static bool is_sign(char c)
{
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
           (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

static bool is_stop(char c)
{
    return c == '.' || c == ',';
}

/* Line ends and entities, one after the other; a blank around everything. */
static quality_text unescape(const char *s)
{
    static const struct {
        const char *from, *to;
    } changes[] = {{"<skipped>", ""}, {"-\n", ""},   {"\n", " "},  {"&quot;", "\""},
                   {"&amp;", "&"},    {"&lt;", "<"}, {"&gt;", ">"}};
    quality_text t = {NULL, 0, 0, false};
    size_t bytes = strlen(s), at = 0, end = 0;

    while (at < bytes) { /* white space at the end goes first */
        if (!quality_is_space(quality_next_code(s, bytes, &at))) end = at;
    }
    quality_put_byte(&t, ' ');
    quality_put(&t, s, end);
    quality_put_byte(&t, ' ');
    for (size_t c = 0; c < sizeof changes / sizeof *changes && !t.failed; c++) {
        size_t from = strlen(changes[c].from), to = strlen(changes[c].to);
        char *write = t.data;

        for (const char *read = t.data; *read;) {
            bool here = strncmp(read, changes[c].from, from) == 0;

            if (here) memcpy(write, changes[c].to, to);
            if (!here) *write = *read;
            write += here ? to : 1;
            read += here ? from : 1;
        }
        *write = '\0';
        t.bytes = (size_t)(write - t.data);
    }
    return t;
}

/* One of the substitutions: `first` and `second` side by side get blanks put around `apart`. */
static quality_text pass(quality_text in, bool (*first)(char), bool (*second)(char),
                         bool blank_first)
{
    quality_text out = {NULL, 0, 0, in.failed};

    for (size_t i = 0; i < in.bytes; i++) {
        if (i + 1 < in.bytes && first(in.data[i]) && second(in.data[i + 1])) {
            if (blank_first) quality_put_byte(&out, ' ');
            quality_put_byte(&out, in.data[i]);
            quality_put_byte(&out, ' ');
            quality_put_byte(&out, in.data[++i]);
            if (!blank_first) quality_put_byte(&out, ' ');
        } else {
            quality_put_byte(&out, in.data[i]);
        }
    }
    free(in.data);
    return out;
}

static bool no_digit(char c)
{
    return !quality_is_digit(c);
}

static bool is_dash(char c)
{
    return c == '-';
}

/* The 13a tokenizer, as text with blanks. */
static quality_text tokens_13a(const char *s)
{
    quality_text in = unescape(s), out = {NULL, 0, 0, false};

    out.failed = in.failed;
    for (size_t i = 0; i < in.bytes; i++) {
        if (is_sign(in.data[i])) quality_put_byte(&out, ' ');
        quality_put_byte(&out, in.data[i]);
        if (is_sign(in.data[i])) quality_put_byte(&out, ' ');
    }
    free(in.data);
    out = pass(out, no_digit, is_stop, false); /* unless behind a digit */
    out = pass(out, is_stop, no_digit, true);  /* unless before a digit */
    return pass(out, quality_is_digit, is_dash, false);
}

/* matches, n-grams of the hypothesis per order; then the lengths. */
static bool bleu_count(const char *text, const quality_expected *expected, double *out)
{
    quality_text h = tokens_13a(text), r = tokens_13a(expected->reference);
    quality_grams g[BLEU_ORDER];
    quality_both b;
    bool split_up = !h.failed && !r.failed && quality_words(h.data, r.data, &b);
    bool good = split_up && quality_count_grams(&b, BLEU_ORDER, g);

    for (int32_t n = 0; good && n < BLEU_ORDER; n++) {
        out[2 * n] = g[n].match;
        out[2 * n + 1] = g[n].hypothesis;
    }
    if (good) {
        out[2 * BLEU_ORDER] = g[0].hypothesis;
        out[2 * BLEU_ORDER + 1] = g[0].reference;
    }
    if (split_up) quality_free_both(&b);
    free(h.data);
    free(r.data);
    return good;
}

static double bleu_score(const double *sum, int32_t examples)
{
    double logs = 0.0, smooth = 1.0, length = sum[2 * BLEU_ORDER], wanted = sum[2 * BLEU_ORDER + 1];
    double any = 0.0;

    (void)examples;
    for (int32_t n = 0; n < BLEU_ORDER; n++) any += sum[2 * n];
    if (!(any > 0.0)) return 0.0;
    for (int32_t n = 0; n < BLEU_ORDER; n++) {
        double match = sum[2 * n], total = sum[2 * n + 1];

        if (!(total > 0.0)) return 0.0; /* a precision of 0 among the factors */
        if (!(match > 0.0)) smooth *= 2.0;
        logs += log(match > 0.0 ? 100.0 * match / total : 100.0 / (smooth * total));
    }
    return (length < wanted ? exp(1.0 - wanted / length) : 1.0) * exp(logs / BLEU_ORDER);
}

const quality_metric quality_bleu = {"bleu", 2 * BLEU_ORDER + 2, false, bleu_count, bleu_score};

/* ---- chrf ------------------------------------------------------------------------------------ */

static bool chrf_count(const char *text, const quality_expected *expected, double *out)
{
    quality_grams g[CHRF_ORDER];
    quality_both b = {{NULL, 0}, {NULL, 0}};
    bool good = quality_characters(text, false, &b.hypothesis) &&
                quality_characters(expected->reference, false, &b.reference) &&
                quality_count_grams(&b, CHRF_ORDER, g);

    for (int32_t n = 0; good && n < CHRF_ORDER; n++) {
        out[3 * n] = g[n].reference > 0.0 ? g[n].hypothesis : 0.0; /* as sacrebleu counts */
        out[3 * n + 1] = g[n].reference;
        out[3 * n + 2] = g[n].match;
    }
    quality_free_both(&b);
    return good;
}

static double chrf_score(const double *sum, int32_t examples)
{
    const double weight = 4.0; /* beta 2, squared */
    double precision = 0.0, recall = 0.0;
    int32_t orders = 0;

    (void)examples;
    for (int32_t n = 0; n < CHRF_ORDER; n++) {
        if (!(sum[3 * n] > 0.0 && sum[3 * n + 1] > 0.0)) continue;
        precision += sum[3 * n + 2] / sum[3 * n];
        recall += sum[3 * n + 2] / sum[3 * n + 1];
        orders++;
    }
    if (orders == 0 || !(precision + recall > 0.0)) return 0.0;
    precision /= orders;
    recall /= orders;
    return 100.0 * (1.0 + weight) * precision * recall / (weight * precision + recall);
}

const quality_metric quality_chrf = {"chrf", 3 * CHRF_ORDER, false, chrf_count, chrf_score};
