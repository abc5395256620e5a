/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_verify_statistics.c - the statistics of rows and pairs of rows, within the bounds that
 * their order of adding has. */
#include "toyround.h"

#include <criterion/criterion.h>
#include <stdio.h>

static float half_of(float x) /* what fp16 leaves of a normal number */
{
    int exponent;
    float m = frexpf(x, &exponent);

    return isinf(x) ? x : ldexpf(rintf(ldexpf(m, 11)), exponent - 11);
}

static void random_row(dice *d, int format, bool masked, int32_t vocab, float *z)
{
    for (int32_t v = 0; v < vocab; v++) {
        z[v] = (float)(3 * dice_gauss(d)) + 7;
        if (format == 1) z[v] = bf16_of(z[v]);
        if (format == 2) z[v] = half_of(z[v]);
        if (masked && v > 0 && dice_uniform(d) < 0.5) z[v] = -INFINITY;
    }
}

/* Sum of values over tiles in the canonical order. */
static double tiles_sum(const float *value, int32_t vocab)
{
    float sum = 0;

    for (int32_t t = 0; t < vocab; t += SPC_TILE) {
        sum += spc_tile_sum(value + t, vocab - t < SPC_TILE ? vocab - t : SPC_TILE);
    }
    return (double)sum;
}

typedef struct {
    int32_t vocab;
    float *z[2], *value;
    ref_rows r;
    spc_row_params params;
    spc_row_stats stats[2];
} stat_case;

static void expect_statistics(const stat_case *c, const char *what)
{
    const double *gate[2] = {c->r.q1, c->r.p1}, *mix[2] = {c->r.q, c->r.p};

    for (int i = 0; i < 2; i++) {
        int32_t top = ref_top(gate[i], c->vocab);
        spc_gate_facts facts = spc_gate_of(c->stats[i], (spc_gate)c->params.rule.gate);

        cr_assert_eq(c->stats[i].top, top, "%s: argmax", what);
        cr_assert_eq(c->stats[i].max, c->z[i][top], "%s: max", what);
        cr_assert_float_eq((double)c->stats[i].sum * mix[i][top], 1, 1e-6, "%s: S", what);
        cr_assert_float_eq((double)facts.top / gate[i][top], 1, 1e-6, "%s: max p", what);
        cr_assert_float_eq((double)facts.entropy, ref_entropy(gate[i], c->vocab), 2e-6,
                           "%s: H is %.9g, not %.9g", what, (double)facts.entropy,
                           ref_entropy(gate[i], c->vocab));
    }
}

/* TV and eta as verify.c sums them: probabilities in float, canonical order. */
static void expect_folds(const stat_case *c, const char *what)
{
    float t = c->params.sampling.temperature;
    spc_softmax q = spc_softmax_of(c->stats[0], t), p = spc_softmax_of(c->stats[1], t);
    double eta = 0;

    for (int32_t v = 0; v < c->vocab; v++) {
        float over = spc_row_probability(p, c->z[1][v], v) - spc_row_probability(q, c->z[0][v], v);

        c->value[v] = over > 0 ? over : 0;
    }
    cr_assert_float_eq(tiles_sum(c->value, c->vocab), ref_over(c->r.p, c->r.q, c->vocab), 2e-6,
                       "%s: TV", what);
    for (int32_t v = 0; v < c->vocab; v++) {
        bool in = c->z[1][v] - c->stats[1].max >= -2.0f;

        c->value[v] = in ? 0 : spc_row_probability(q, c->z[0][v], v);
        eta += in ? 0 : c->r.q[v];
    }
    cr_assert_float_eq(tiles_sum(c->value, c->vocab), eta, 2e-6, "%s: eta", what);
}

Test(host_verify_statistics, statistics_stay_within_their_bounds)
{
    static const int32_t vocabs[] = {2, 7, 127, 1013, 4096, 4097, 32001, 151936};
    static const float temperatures[] = {0.1f, 0.5f, 1, 2};
    static const char *const rules[] = {"opt-log:alpha=0", "opt-log:alpha=0,gate=processed"};
    dice d = {1};

    for (size_t k = 0; k < sizeof vocabs / sizeof *vocabs; k++) {
        stat_case c = {.vocab = vocabs[k], .r = ref_rows_of(vocabs[k])};
        size_t bytes = (size_t)c.vocab * sizeof(float);

        c.z[0] = malloc(bytes);
        c.z[1] = malloc(bytes);
        c.value = malloc(bytes);
        cr_assert(c.z[0] && c.z[1] && c.value);
        for (int i = 0; i < (c.vocab < 10000 ? 48 : 8); i++) {
            char what[80];
            int format = i % 3;
            bool masked = i / 3 % 2;

            c.params = params_of(rules[i / 4 % 2], temperatures[i % 4]);
            ref_options o = options_of(&c.params);
            (void)snprintf(what, sizeof what, "V %d T %g format %d masked %d gate %d", (int)c.vocab,
                           o.temperature, format, masked, (int)c.params.rule.gate);
            for (int side = 0; side < 2; side++) {
                random_row(&d, format, masked, c.vocab, c.z[side]);
                (void)spc_draft_sample(c.z[side], c.vocab, &c.params, i, 0, &c.stats[side]);
            }
            ref_fill(&c.r, c.z[0], c.z[1], &o);
            expect_statistics(&c, what);
            expect_folds(&c, what);
        }
        free(c.z[0]);
        free(c.z[1]);
        free(c.value);
        ref_rows_free(&c.r);
    }
}
