/* SPDX-License-Identifier: Apache-2.0 */
/* quality.c - the table of metrics, scores of a corpus and their intervals. */
#include "bench/quality.h"

#include "bench/measure.h"
#include "bench/quality_text.h"

#include <stdlib.h>
#include <string.h>

static const quality_metric *const metrics[] = {&quality_bleu,  &quality_chrf, &quality_rouge2,
                                                &quality_exact, &quality_f1,   &quality_gsm8k,
                                                &quality_pass1};

const quality_metric *quality_find(const char *name)
{
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        if (strcmp(metrics[i]->name, name) == 0) return metrics[i];
    }
    return NULL;
}

const char *quality_names(void)
{
    return "bleu, chrf, rouge2, exact, f1, gsm8k, pass@1";
}

/* Add the counts of one example. */
static void add_counts(const quality_metric *metric, const double *counts, double *sum)
{
    for (int32_t k = 0; k < metric->counts; k++) sum[k] += counts[k];
}

double quality_score(const quality_metric *metric, const double *counts, int32_t examples)
{
    double sum[QUALITY_COUNTS] = {0};

    for (int32_t i = 0; i < examples; i++) add_counts(metric, counts + i * metric->counts, sum);
    return metric->score(sum, examples);
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void quality_bootstrap(const quality_metric *metric, const double *counts, int32_t repeats,
                       int32_t examples, int32_t resamples, uint64_t seed, double *low,
                       double *high)
{
    double *scores = malloc((size_t)resamples * sizeof *scores);

    *low = *high = quality_score(metric, counts, repeats * examples);
    if (!scores || examples < 1) {
        free(scores);
        return;
    }
    for (int32_t r = 0; r < resamples; r++) {
        double sum[QUALITY_COUNTS] = {0};

        for (int32_t i = 0; i < examples; i++) {
            int64_t pick = (int64_t)(next_random(&seed) % (uint64_t)examples);

            for (int32_t k = 0; k < repeats; k++, pick += examples) {
                add_counts(metric, counts + pick * metric->counts, sum);
            }
        }
        scores[r] = metric->score(sum, repeats * examples);
    }
    *low = measure_quantile(scores, resamples, 0.025);
    *high = measure_quantile(scores, resamples, 0.975);
    free(scores);
}
