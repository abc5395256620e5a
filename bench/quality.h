/* SPDX-License-Identifier: Apache-2.0 */
/* quality.h - metrics of a text against what was expected of it, as their reference implementations
 * compute them.
 *
 * A metric first counts an example (n-gram matches and the like), then scores the sum of counts, so
 * that a corpus can be resampled without looking at its texts again.
 *
 * bleu    sacrebleu corpus_bleu: 13a tokens, exponential smoothing
 * chrf    sacrebleu corpus_chrf: characters up to 6, beta 2
 * rouge2  rouge_score ROUGE-2 F1 without stemming, mean
 * exact   SQuAD 1.1 exact match, mean
 * f1      SQuAD 1.1 token F1, mean
 * gsm8k   the number is the reference's: the first behind the last "####" or "The answer is", else
 *         the last of the text; mean
 * pass@1  the text is Python that passes its tests (quality_python.h), mean; its second count is 1
 * for tests that ran out of time, which have failed */
#ifndef SPC_BENCH_QUALITY_H
#define SPC_BENCH_QUALITY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct quality_python quality_python; /* quality_python.h */

/* What is expected of a text.  Texts are UTF-8 and borrowed. */
typedef struct {
    const char *reference; /* all metrics but pass@1 */
    /* pass@1 */
    const char *before; /* Python that the text goes on from; NULL: it is a program */
    const char *tests;  /* Python that runs behind it and ends with an error or not */
    const quality_python *python;
} quality_expected;

enum { QUALITY_COUNTS = 18 };

typedef struct {
    const char *name;
    int32_t counts;  /* numbers per example, at most QUALITY_COUNTS */
    bool runs_tests; /* needs before and tests, not a reference */
    /* Count one example.  false: errno says why. */
    bool (*count)(const char *text, const quality_expected *expected, double *out);
    /* 0 .. 100, from the sums over so many examples. */
    double (*score)(const double *sum, int32_t examples);
} quality_metric;

const quality_metric *quality_find(const char *name); /* NULL: unknown */
const char *quality_names(void);                      /* "bleu, chrf, ..." */

/* Of a corpus; counts: [examples, metric->counts]. */
double quality_score(const quality_metric *metric, const double *counts, int32_t examples);

/* Percentile bootstrap interval (95 %) over examples; the same for the same seed.  An example that
 * was decoded several times (seeds) is drawn with all of its texts.
 *
 * counts   [repeats, examples, metric->counts] */
void quality_bootstrap(const quality_metric *metric, const double *counts, int32_t repeats,
                       int32_t examples, int32_t resamples, uint64_t seed, double *low,
                       double *high);

#endif
