/* SPDX-License-Identifier: Apache-2.0 */
/* quality.h - text metrics against one reference, as their reference implementations compute them.
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
 *         the last of the text; mean */
#ifndef SPC_BENCH_QUALITY_H
#define SPC_BENCH_QUALITY_H

#include <stdbool.h>
#include <stdint.h>

enum { QUALITY_COUNTS = 18 };

typedef struct {
    const char *name;
    int32_t counts; /* numbers per example, at most QUALITY_COUNTS */
    /* Count one example.  Texts are UTF-8.  false: no memory. */
    bool (*count)(const char *hypothesis, const char *reference, double *out);
    /* 0 .. 100, from the sums over so many examples. */
    double (*score)(const double *sum, int32_t examples);
} quality_metric;

const quality_metric *quality_find(const char *name); /* NULL: unknown */
const char *quality_names(void);                      /* "bleu, chrf, ..." */

/* Of a corpus; counts: [examples, metric->counts]. */
double quality_score(const quality_metric *metric, const double *counts, int32_t examples);

/* Percentile bootstrap interval (95 %) over examples; the same for the same seed. */
void quality_bootstrap(const quality_metric *metric, const double *counts, int32_t examples,
                       int32_t resamples, uint64_t seed, double *low, double *high);

#endif
