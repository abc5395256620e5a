/* SPDX-License-Identifier: Apache-2.0 */
/* test_bench_quality.c - text metrics against the numbers of their reference implementations:
 * sacrebleu 2.6.0, rouge_score 0.1.2, SQuAD's evaluate-v1.1, all on Python 3.11. */
#include "bench/quality.h"
#include "files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { METRICS = 5 };
static const char *const names[METRICS] = {"bleu", "chrf", "rouge2", "exact", "f1"};

typedef struct {
    const char *hypothesis, *reference;
} pair;

/* Counts of every pair; free() them. */
static double *count_all(const quality_metric *metric, const pair *pairs, int32_t count)
{
    double *counts = calloc((size_t)count * (size_t)metric->counts, sizeof *counts);

    cr_assert(counts);
    for (int32_t i = 0; i < count; i++) {
        cr_assert(metric->count(pairs[i].hypothesis,
                                &(quality_expected){.reference = pairs[i].reference},
                                counts + i * metric->counts));
    }
    return counts;
}

static double score_of(const char *name, const pair *pairs, int32_t count)
{
    const quality_metric *metric = quality_find(name);
    double *counts, score;

    cr_assert(metric);
    counts = count_all(metric, pairs, count);
    score = quality_score(metric, counts, count);
    free(counts);
    return score;
}

static void expect_scores(const pair *pairs, int32_t count, const double *expected)
{
    for (int32_t m = 0; m < METRICS; m++) {
        double score = score_of(names[m], pairs, count);

        cr_expect(fabs(score - expected[m]) < 1e-6, "%s of %d from \"%s\" on: %.8f, expected %.8f",
                  names[m], count, pairs[0].hypothesis, score, expected[m]);
    }
}

/* Three sixes of German, Spanish and French, then English and oddities. */
static const pair sentences[] = {
    {"Der Zug kommt heute um 9.30 Uhr an, nicht um 10 Uhr.",
     "Der Zug kommt heute um 9.30 Uhr an und nicht erst um 10 Uhr."},
    {"Sie hat 1.234,5 Euro für das alte Fahrrad bezahlt!",
     "Sie hat für das alte Fahrrad 1.234,5 Euro bezahlt."},
    {"„Komm bitte herein“, sagte die Frau an der Tür.",
     "„Komm doch bitte herein“, sagte die alte Frau an der Tür."},
    {"Die Größe des Gartens überraschte uns alle.", "Die Größe des Gartens überraschte uns alle."},
    {"Wir treffen uns am 3.-5. Mai in Köln-Deutz.",
     "Wir treffen uns vom 3. bis 5. Mai in Köln-Deutz."},
    {"Ärgerlich: Der Schlüssel liegt noch im Büro.",
     "Wie ärgerlich, der Schlüssel liegt noch im Büro!"},
    {"¿Dónde está la niña que perdió el paraguas?",
     "¿Dónde está la niña que ha perdido su paraguas?"},
    {"¡Qué frío hace esta mañana!", "¡Qué frío hace por la mañana!"},
    {"El 25 % de los 1,234.5 litros se perdió.", "Se perdió el 25% de los 1,234.5 litros."},
    {"Mi hermano & yo vivimos cerca del río.", "Mi hermano &amp; yo vivimos muy cerca del río."},
    {"Compramos pan, queso, tomates... y una sandía.",
     "Compramos pan, queso, tomates y una sandía..."},
    {"Ella dijo: «Mañana será otro día».", "Ella dijo: \"Mañana será otro día\"."},
    {"L'été dernier, nous avons loué une maison à la mer.",
     "L’été dernier, nous avions loué une maison au bord de la mer."},
    {"Est-ce qu'il y a encore du café\342\200\257?", "Est-ce qu'il reste encore du café\302\240?"},
    {"Le chat noir dort sur le vieux canapé du salon.",
     "Le chat noir dort sur le vieux canapé du salon."},
    {"Il a trente-deux ans et n'a jamais vu la neige.",
     "À trente-deux ans, il n'a jamais vu la neige."},
    {"Cafe\314\201 au lait ou thé vert\302\240: choisis\342\200\257!",
     "Café au lait ou thé vert\302\240: à toi de choisir\342\200\257!"},
    {"Où est passé mon cœur brisé", "Où donc est passé mon cœur brisé"},
    {"The recipe (see page 12-14) needs 2.5 cups of flour.",
     "The recipe, see pages 12-14, needs 2.5 cups of flour."},
    {"&quot;Five &lt; six&quot;, said the teacher's parrot.",
     "\"Five < six\", said the teacher's parrot."},
    {"A well-known author wrote to me@example.org on 1/2/2020",
     "An author wrote to me@example.org on 1/2/2020."},
    {"I love this 😀 so much 👩\342\200\215👩\342\200\215👧 !!!",
     "I love this 😀😀 so very much 👩\342\200\215👧!"},
    {"the the the the the the", "the cat is on the mat the end"},
    {"A rainy day: $5,000.00 gone, _just_ like that...",
     "On a rainy day, $5,000.00 are gone - just like that."},
    {"", "Nothing was said."},
    {"Something was said.", ""},
};
enum { SENTENCES = sizeof sentences / sizeof *sentences };

Test(bench_quality, corpora)
{
    static const struct {
        int32_t first, count;
        double expected[METRICS];
    } cases[] = {
        {0, 26, {53.89682011, 74.03627091, 67.23198962, 11.53846154, 73.65139386}},
        {0, 6, {57.55438627, 79.64781953, 80.0724439, 16.66666667, 90.09259259}},
        {6, 6, {51.09292829, 76.73877648, 79.34754086, 16.66666667, 82.91369578}},
        {12, 6, {55.73296687, 76.8217303, 71.31257631, 16.66666667, 81.16496793}},
        {18, 6, {51.98912745, 65.75827344, 60.60606061, 0, 64.98478373}},
        {0, 12, {54.73540318, 78.37275367, 79.70999238, 16.66666667, 86.50314419}},
        {12, 12, {54.092274, 71.29559235, 65.95931846, 8.33333333, 73.07487583}},
        {6, 12, {53.60075579, 76.78349905, 75.33005859, 16.66666667, 82.03933186}},
        {3, 1, {100, 100, 100, 100, 100}},
        {14, 1, {100, 100, 100, 100, 100}},
        {0, 1, {66.46817937, 76.65642389, 76.92307692, 0, 91.66666667}},
        {1, 1, {36.55552229, 77.87802581, 72.72727273, 0, 100}},
        {2, 3, {63.2170513, 82.54533523, 78.88888889, 33.33333333, 85.18518519}},
        {8, 1, {55.55238068, 81.47680379, 88.88888889, 0, 100}},
        {9, 1, {66.90484409, 68.33407774, 62.5, 0, 87.5}},
        {13, 1, {41.11336169, 72.80498408, 66.66666667, 0, 83.33333333}},
        {16, 1, {43.74234369, 59.38834853, 57.14285714, 0, 58.82352941}},
        {19, 1, {100, 70.42974138, 53.33333333, 0, 54.54545455}},
        {21, 1, {18.575058, 56.88145758, 66.66666667, 0, 66.66666667}},
        {22, 1, {7.65411297, 16.98878509, 0, 0, 0}},
        {23, 1, {14.62806365, 55.16824471, 80, 0, 87.5}},
        {24, 1, {0, 0, 0, 0, 0}},
        {25, 1, {0, 0, 0, 0, 0}},
        {24, 2, {0, 0, 0, 0, 0}},
        {10, 8, {54.30254277, 78.82599443, 78.48443223, 25, 81.70705928}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_scores(sentences + cases[i].first, cases[i].count, cases[i].expected);
    }
}

/* Random pairs and random subsets of them; tests/vectors/README.md says how they were made. */
Test(bench_quality, golden_subsets)
{
    json_t *root = read_json(SPC_TEST_VECTORS "/quality/golden.json"), *subset;
    const json_t *all = json_object_get(root, "pairs");
    pair *pairs = calloc(json_array_size(all), sizeof *pairs);
    size_t i;

    cr_assert_not_null(pairs);
    cr_assert_geq(json_array_size(json_object_get(root, "subsets")), 20);
    json_array_foreach(json_object_get(root, "subsets"), i, subset)
    {
        const json_t *rows = json_object_get(subset, "rows");
        int32_t count = (int32_t)json_array_size(rows);
        double expected[METRICS];

        for (int32_t k = 0; k < count; k++) {
            size_t row = (size_t)json_integer_value(json_array_get(rows, (size_t)k));
            const json_t *texts = json_array_get(all, row);

            pairs[k].hypothesis = json_string_value(json_array_get(texts, 0));
            pairs[k].reference = json_string_value(json_array_get(texts, 1));
        }
        for (int32_t m = 0; m < METRICS; m++) {
            expected[m] = json_number_value(json_object_get(subset, names[m]));
        }
        expect_scores(pairs, count, expected);
    }
    free(pairs);
    json_decref(root);
}

/* No text, fewer tokens than the longest n-gram, nothing in common, nothing but punctuation. */
Test(bench_quality, little_text)
{
    static const struct {
        pair texts;
        double expected[METRICS];
    } cases[] = {
        {{"", ""}, {0, 0, 0, 100, 0}},
        {{"   ", "\t"}, {0, 0, 0, 100, 0}},
        {{"cat", "cat"}, {0, 100, 0, 100, 100}},
        {{"red cat", "red cat"}, {0, 100, 100, 100, 100}},
        {{"one red cat", "one red cat"}, {0, 100, 100, 100, 100}},
        {{"one small red cat", "one small red cat"}, {100, 100, 100, 100, 100}},
        {{"cat", "dog"}, {0, 0, 0, 0, 0}},
        {{"green tree", "blue house over there"}, {0, 8.29848065, 0, 0, 0}},
        {{"over", "one small red cat sits over there"}, {0, 11.75449319, 0, 0, 25}},
        {{".", "."}, {0, 100, 0, 100, 0}},
        {{"!?", "!?"}, {0, 100, 0, 100, 0}},
        {{"one, two", "one two"}, {0, 36.89058282, 100, 100, 100}},
        {{"a an the", ""}, {0, 0, 0, 100, 0}},
        {{"The", "an"}, {0, 0, 0, 100, 0}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_scores(&cases[i].texts, 1, cases[i].expected);
    }
}

/* Line ends and entities of 13a, Python's lower case and white space, word boundaries of SQuAD. */
Test(bench_quality, peculiarities)
{
    static const struct {
        pair texts;
        double expected[METRICS];
    } cases[] = {
        {{"a long-\nish line\nhere it is", "a longish line here it is"},
         {100, 83.65552864, 54.54545455, 0, 72.72727273}},
        {{"this line ends with a dash -\n", "this line ends with a dash -"},
         {100, 100, 100, 100, 100}},
        {{"some <skipped> words are left out here", "some words are left out here"},
         {100, 80.86268225, 72.72727273, 0, 92.30769231}},
        {{"&amp;lt;b&amp;gt; is bold &amp;quot;", "<b> is bold &quot;"},
         {51.6973154, 42.62840108, 18.18181818, 0, 50}},
        {{"a..b, .5 5. 1,2 3,x y,4 5-6 -7 a-b", "a. .b , .5 5 . 1,2 3 , x y , 4 5- 6 -7 a-b"},
         {100, 100, 100, 0, 47.61904762}},
        {{"é.é,é 1.é é.1 é-1 1-é", "é . é , é 1 . é é . 1 é-1 1 - é"},
         {100, 100, 100, 0, 13.33333333}},
        {{"{x} [y] `z` |w| ~v \\u ^t @s /r :q ;p <o> =n ?m",
          "{ x } [ y ] ` z ` | w | ~ v \\ u ^ t @ s / r : q ; p < o > = n ? m"},
         {100, 100, 100, 100, 100}},
        {{"İstanbul is big in 2020", "i stanbul is big in 2020"},
         {54.75182535, 93.87323497, 100, 0, 72.72727273}},
        {{"273 \342\204\252elvin is cold", "273 kelvin is cold"},
         {35.35533906, 74.37895438, 100, 100, 100}},
        {{"ΟΔΟΣ ΑΣ. Σ'Σ", "οδος ας σς"}, {0, 0, 0, 100, 100}},
        {{"“the house” —a— the\314\201 an’s", "“house” — — \314\201 ’s"},
         {0, 45.80333866, 0, 0, 72.72727273}},
        {{"theß a² a一 aﬁ an_the", "theß a² a一 aﬁ anthe"},
         {41.11336169, 81.23369716, 66.66666667, 100, 100}},
        {{"thin\342\200\211space wide\343\200\200space zero\342\200\213space",
          "thin space wide space zero space"},
         {54.75182535, 88.53417196, 100, 0, 72.72727273}},
        {{"STRASSE Straße ÑANDÚ ǅ Ａ", "strasse straße ñandú ǆ ａ"},
         {0, 13.45566735, 100, 100, 100}},
        {{"unit\034separator next\302\205line", "unit separator next line"},
         {100, 100, 100, 100, 100}},
        {{"don't stop-me 3.5% now", "dont stopme 35 now"}, {10.68217516, 38.34956765, 0, 100, 100}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_scores(&cases[i].texts, 1, cases[i].expected);
    }
}

/* U+FFFD stands for what is no UTF-8, also where the byte alone would be white space. */
Test(bench_quality, bad_bytes)
{
    pair bad = {"one two\x85three four five \xff",
                "one two\xef\xbf\xbdthree four five \xef\xbf\xbd"};

    cr_expect_float_eq(score_of("chrf", &bad, 1), 100.0, 1e-9);
    cr_expect_float_eq(score_of("exact", &bad, 1), 100.0, 1e-9);
}

Test(bench_quality, gsm8k)
{
    static const struct {
        pair texts;
        bool right;
    } cases[] = {
        {{"She has 3 + 4 = 7 apples.", "3 + 4 = <<3+4=7>>7\n#### 7"}, true},
        {{"She has 3 + 4 = 8 apples.", "#### 7"}, false},
        {{"That makes 1,234.", "#### 1234"}, true},
        {{"#### 1,234,567", "#### 1234567"}, true},
        {{"It costs $18.00.", "#### 18"}, true},
        {{"2.5", "#### 2.50"}, true},
        {{"2.5", "#### 25"}, false},
        {{"The answer is 42.", "#### 42"}, true},
        {{"The answer is 42. Question: how many of 9 are left?", "#### 42"}, true},
        {{"#### 42\n\nQuestion: how many of 9 are left?", "#### 42"}, true},
        {{"The answer is 5? No. The answer is $6.", "#### 6"}, true},
        {{"The balance is -12 euros", "#### -12"}, true},
        {{"The balance is -$12", "#### -12"}, true},
        {{"12", "#### -12"}, false},
        {{"between 10-12", "#### 12"}, true},
        {{"9 of them ####", "#### 9"}, false},
        {{"none", "#### 0"}, false},
        {{"", "#### 0"}, false},
        {{"1", ""}, false},
        {{".5 of it", "#### 0.5"}, true},
        {{"1, 2, 3", "#### 3"}, true},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_float_eq(score_of("gsm8k", &cases[i].texts, 1), cases[i].right ? 100.0 : 0.0,
                           1e-9, "case %zu", i);
    }
}

/* A corpus score is made of sums, whatever the order and however they are put together. */
Test(bench_quality, sums_are_enough)
{
    for (int32_t m = 0; m < METRICS; m++) {
        const quality_metric *metric = quality_find(names[m]);
        double *counts = count_all(metric, sentences, SENTENCES), sum[QUALITY_COUNTS] = {0};

        cr_assert_leq(metric->counts, QUALITY_COUNTS);
        for (int32_t i = SENTENCES - 1; i >= 0; i--) {
            for (int32_t k = 0; k < metric->counts; k++) sum[k] += counts[i * metric->counts + k];
        }
        cr_expect_float_eq(metric->score(sum, SENTENCES), score_of(names[m], sentences, SENTENCES),
                           1e-9, "%s", names[m]);
        free(counts);
    }
}

Test(bench_quality, bootstrap)
{
    for (int32_t m = 0; m < METRICS; m++) {
        const quality_metric *metric = quality_find(names[m]);
        double *counts = count_all(metric, sentences, SENTENCES), low[3], high[3];
        double score = quality_score(metric, counts, SENTENCES);

        quality_bootstrap(metric, counts, 1, SENTENCES, 500, 1, &low[0], &high[0]);
        quality_bootstrap(metric, counts, 1, SENTENCES, 500, 1, &low[1], &high[1]);
        quality_bootstrap(metric, counts, 1, SENTENCES, 500, 2, &low[2], &high[2]);
        cr_expect(low[0] < score && score < high[0], "%s: %f in %f .. %f", names[m], score, low[0],
                  high[0]);
        cr_expect(low[0] >= 0.0 && high[0] <= 100.0 + 1e-9, "%s", names[m]);
        cr_expect(low[0] == low[1] && high[0] == high[1], "%s",
                  names[m]); /* same seed, same bits */
        cr_expect(fabs(low[0] - low[2]) < 10.0 && fabs(high[0] - high[2]) < 10.0, "%s", names[m]);
        free(counts);
    }
}

/* The mean of zeros and ones: its interval is the binomial's. */
Test(bench_quality, bootstrap_has_the_right_width)
{
    enum { EXAMPLES = 400 };
    const quality_metric *metric = quality_find("exact");
    double counts[EXAMPLES], low, high;

    for (int32_t i = 0; i < EXAMPLES; i++) counts[i] = i % 4 == 0;
    quality_bootstrap(metric, counts, 1, EXAMPLES, 4000, 3, &low, &high);
    cr_expect_float_eq(low, 25.0 - 1.96 * 100.0 * sqrt(0.25 * 0.75 / EXAMPLES), 0.5);
    cr_expect_float_eq(high, 25.0 + 1.96 * 100.0 * sqrt(0.25 * 0.75 / EXAMPLES), 0.5);
}

Test(bench_quality, bootstrap_of_equal_examples_is_a_point)
{
    for (int32_t m = 0; m < METRICS; m++) {
        const quality_metric *metric = quality_find(names[m]);
        pair same[16];
        double *counts, low, high;

        for (int32_t i = 0; i < 16; i++) same[i] = sentences[0];
        counts = count_all(metric, same, 16);
        quality_bootstrap(metric, counts, 1, 16, 100, 1, &low, &high);
        cr_expect_float_eq(low, quality_score(metric, counts, 16), 1e-9, "%s", names[m]);
        cr_expect_float_eq(high, quality_score(metric, counts, 16), 1e-9, "%s", names[m]);
        free(counts);
    }
}

Test(bench_quality, names)
{
    char copy[256], *rest = copy;

    cr_assert_lt(strlen(quality_names()), sizeof copy);
    strcpy(copy, quality_names());
    for (char *name; (name = strtok_r(rest, ", ", &rest));) {
        cr_assert(quality_find(name), "%s", name);
        cr_assert_str_eq(quality_find(name)->name, name);
    }
    cr_assert_null(quality_find("blue"));
    cr_assert_null(quality_find(""));
}
