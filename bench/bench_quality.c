/* SPDX-License-Identifier: Apache-2.0 */
/* bench_quality.c - how long the metrics take: counting made-up sentences, and the interval of a
 * corpus.  One JSON line per metric; no models, no data.
 *
 *     bench_quality [SENTENCES] */
#include "bench/measure.h"
#include "bench/quality.h"

#include <stdlib.h>
#include <string.h>

enum { WORDS_MOST = 24, WORD_BYTES = 12, TEXT_BYTES = WORDS_MOST * WORD_BYTES, RESAMPLES = 1000 };

typedef char text[TEXT_BYTES];

typedef struct {
    const quality_metric *metric;
    int32_t sentences;
    text *hypothesis, *reference; /* [sentences] */
    double *counts;               /* [sentences, QUALITY_COUNTS] */
} corpus;

static uint32_t draw(uint64_t *state, uint32_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % below;
}

/* A word out of 3,000: syllables, some with an umlaut, a comma now and then. */
static void put_word(uint32_t word, bool comma, char *out)
{
    static const char *const syllable[] = {"ba", "der", "fi", "gen", "\303\274", "lo",
                                           "mu", "na",  "pe", "rei", "sch",      "te"};

    if (*out) (void)strcat(out, " ");
    (void)strcat(out, syllable[word % 12]);
    (void)strcat(out, syllable[word / 12 % 12]);
    if (word >= 1000) (void)strcat(out, syllable[word / 144 % 12]);
    if (comma) (void)strcat(out, ",");
}

/* References of 4 to WORDS_MOST - 1 words; in their hypotheses every fifth is another one. */
static void make(corpus *c)
{
    uint64_t state = 1;

    for (int32_t i = 0; i < c->sentences; i++) {
        uint32_t words = 4 + draw(&state, WORDS_MOST - 4);

        for (uint32_t w = 0; w < words; w++) {
            uint32_t word = draw(&state, 3000);
            bool comma = draw(&state, 10) == 0;

            put_word(word, comma, c->reference[i]);
            put_word(draw(&state, 5) == 0 ? draw(&state, 3000) : word, comma, c->hypothesis[i]);
        }
    }
}

static bool count_all(void *user)
{
    const corpus *c = user;

    for (int32_t i = 0; i < c->sentences; i++) {
        quality_expected expected = {.reference = c->reference[i]};

        if (!c->metric->count(c->hypothesis[i], &expected,
                              c->counts + (size_t)i * (size_t)c->metric->counts)) {
            return false;
        }
    }
    return true;
}

static bool resample(void *user)
{
    const corpus *c = user;
    double low, high;

    quality_bootstrap(c->metric, c->counts, 1, c->sentences, RESAMPLES, 1, &low, &high);
    return low <= high;
}

static bool bench(corpus *c, const char *name)
{
    measure_times count, interval;
    measure_line line;

    c->metric = quality_find(name);
    if (!measure_run(count_all, NULL, c, 3, 0.5, &count) ||
        !measure_run(resample, NULL, c, 3, 0.5, &interval)) {
        return false;
    }
    line = measure_line_begin(stdout);
    measure_line_text(&line, "bench", "quality");
    measure_line_text(&line, "metric", name);
    measure_line_integer(&line, "sentences", c->sentences);
    measure_line_number(&line, "score", quality_score(c->metric, c->counts, c->sentences));
    measure_line_number(&line, "count_ms", count.median);
    measure_line_number(&line, "count_p90_ms", count.p90);
    measure_line_integer(&line, "resamples", RESAMPLES);
    measure_line_number(&line, "interval_ms", interval.median);
    measure_line_number(&line, "interval_p90_ms", interval.p90);
    measure_line_end(&line);
    return true;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"bleu", "chrf", "rouge2", "exact", "f1", "gsm8k"};
    char *end = "";
    long sentences = argc > 1 ? strtol(argv[1], &end, 10) : 4000;
    corpus c = {.metric = NULL};
    bool good;

    if (argc > 2 || *end || sentences < 1 || sentences > 1000000) {
        (void)fprintf(stderr, "bench_quality [SENTENCES]: 1 to 1000000, 4000 when not given\n");
        return 2;
    }
    c.sentences = (int32_t)sentences;
    c.hypothesis = calloc((size_t)sentences, sizeof *c.hypothesis);
    c.reference = calloc((size_t)sentences, sizeof *c.reference);
    c.counts = calloc((size_t)sentences, QUALITY_COUNTS * sizeof *c.counts);
    good = c.hypothesis && c.reference && c.counts;
    if (good) make(&c);
    for (size_t i = 0; i < sizeof names / sizeof *names && good; i++) good = bench(&c, names[i]);
    if (!good) (void)fprintf(stderr, "bench_quality: no memory\n");
    free(c.hypothesis);
    free(c.reference);
    free(c.counts);
    return measure_exit("bench_quality", good ? 0 : 5);
}
