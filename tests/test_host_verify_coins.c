/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_verify_coins.c - what a round decides, against the formulas in double at the same
 * coins. */
#include "toyround.h"

#include <criterion/criterion.h>
#include <stdio.h>

enum { GAMMA = 8 };

typedef struct {
    int32_t vocab, gamma;
    float *drafter, *verifier; /* [gamma, vocab] */
    ref_rows r[GAMMA];
    spc_row_params params;
    int32_t draft[GAMMA];
    spc_row_stats stats[GAMMA];
    bool near; /* some decision is closer than float can tell */
} round_case;

static void make_round(round_case *c, dice *d)
{
    ref_options o = options_of(&c->params);
    uint32_t salt = c->params.verify == SPC_VERIFY_BLOCK ? 11 : 0;

    c->near = false;
    for (int32_t i = 0; i < c->gamma; i++) {
        float *zq = c->drafter + (size_t)i * (size_t)c->vocab;
        float *zp = c->verifier + (size_t)i * (size_t)c->vocab;
        int32_t kept = 0, wanted = 0;

        dice_rows(d, dice_below(d, 4) ? ROWS_CLOSE : ROWS_RANDOM, c->vocab, 2, zq, zp);
        ref_fill(&c->r[i], zq, zp, &o);
        ref_law_of(&c->r[i], &c->params.rule);
        c->draft[i] = spc_draft_sample(zq, c->vocab, &c->params, 10 + i, salt, &c->stats[i]);
        for (int32_t v = 0; v < c->vocab; v++) { /* a nucleus edge that float sees elsewhere */
            kept += zq[v] >= c->stats[i].cut;
            wanted += c->r[i].q[v] > 0;
        }
        c->near = c->near || kept != wanted;
    }
}

/* Is the row's answer within rounding of the other one?  slack: relative, of acceptances. */
static bool row_is_near(const round_case *c, int32_t i, double *slack)
{
    const ref_rows *r = &c->r[i];
    bool token = spc_rule_shape_of((spc_rule_kind)c->params.rule.path) == SPC_SHAPE_TOKEN;

    *slack = 1e-5 + (token && r->eta > 0 ? r->unsure / r->eta : 0);
    /* margin 0: both rows are one-hot, and float sees the same tie */
    return (!token && r->margin > 0 && r->margin <= 2e-6) ||
           (token && r->q[c->draft[i]] <= r->unsure);
}

static double coin_of(const round_case *c, int32_t i)
{
    spc_key key = {c->params.seed, (uint64_t)(10 + i),
                   c->params.verify == SPC_VERIFY_BLOCK ? 11 : 0};

    return (double)spc_uniform(key, SPC_STREAM_ACCEPT, 0);
}

static int32_t kept_by_hand(round_case *c)
{
    double slack;

    for (int32_t i = 0; i < c->gamma; i++) {
        double accept = c->r[i].accept[c->draft[i]], coin = coin_of(c, i);

        c->near = row_is_near(c, i, &slack) || fabs(log(coin / accept)) <= slack || c->near;
        if (!(coin < accept)) return i;
    }
    return c->gamma;
}

static int32_t kept_by_block(round_case *c)
{
    double weight[GAMMA + 1] = {1}, slack;

    for (int32_t i = 0; i < c->gamma; i++) {
        const ref_rows *r = &c->r[i];

        c->near = row_is_near(c, i, &slack) || c->near;
        weight[i + 1] = fmin(1, weight[i] * r->pi[c->draft[i]] / r->q[c->draft[i]]);
    }
    for (int32_t i = c->gamma; i > 0; i--) {
        double h = weight[c->gamma], coin = coin_of(c, i - 1), z = 0;

        for (int32_t v = 0; i < c->gamma && v < c->vocab; v++) {
            z += fmax(0, weight[i] * c->r[i].pi[v] - c->r[i].q[v]);
        }
        if (i < c->gamma) h = z + 1 - weight[i] > 0 ? z / (z + 1 - weight[i]) : 1;
        /* z and 1 - w are sums with an error of 1e-6: where both are small h is a quotient of
         * rounding errors */
        slack = i < c->gamma ? 1e-5 + 4e-6 / (z + 1 - weight[i]) : 1e-5;
        c->near = c->near || fabs(coin - h) <= slack;
        if (coin < h) return i;
    }
    return 0;
}

typedef struct {
    int64_t rounds, near;
} tally;

static void expect_decision(round_case *c, tally *t)
{
    spc_verify_args a = args_of(&c->params, c->drafter, c->verifier, c->vocab, c->gamma, c->draft);
    bool block = c->params.verify == SPC_VERIFY_BLOCK;
    int32_t wanted = block ? kept_by_block(c) : kept_by_hand(c);
    spc_verdict out;
    char rule[SPC_RULE_TEXT_BYTES];

    a.stats = c->stats;
    spc_verify(&a, &out);
    t->rounds++;
    t->near += c->near;
    if (c->near) return;
    spc_rule_format(&c->params.rule, rule);
    cr_assert_eq(out.accepted, wanted, "%s V %d gamma %d block %d: %d kept, not %d", rule,
                 (int)c->vocab, (int)c->gamma, block, (int)out.accepted, (int)wanted);
    cr_assert_eq(out.count, wanted + (wanted < c->gamma));
    for (int32_t i = out.count; i < SPC_GAMMA_MAX + 2; i++) cr_assert_eq(out.token[i], -1);
    if (wanted < c->gamma && !block) {
        cr_assert_gt(c->r[wanted].residual[out.token[wanted]], 0, "%s V %d: residual", rule,
                     (int)c->vocab);
    }
}

/* repeats rounds of random rules and options. */
static void decide_many(int32_t vocab, int32_t repeats, spc_verify_mode verify, tally *t)
{
    static const int32_t gammas[] = {1, 2, 4, 8};
    static const float temperatures[] = {0.5f, 1, 1.5f};
    size_t bytes = (size_t)GAMMA * (size_t)vocab * sizeof(float);
    round_case c = {.vocab = vocab, .drafter = malloc(bytes), .verifier = malloc(bytes)};
    dice d = {(uint64_t)vocab};

    cr_assert(c.drafter && c.verifier);
    for (int32_t i = 0; i < GAMMA; i++) c.r[i] = ref_rows_of(vocab);
    for (int32_t i = 0; i < repeats; i++) {
        c.gamma = gammas[i % 4];
        c.params = params_of(toy_rules[dice_below(&d, TOY_RULES)], temperatures[dice_below(&d, 3)]);
        c.params.seed = dice_word(&d);
        c.params.verify = (int32_t)verify;
        c.params.nucleus = dice_below(&d, 2);
        if (dice_below(&d, 4) == 0) c.params.sampling.top_k = 40;
        if (dice_below(&d, 4) == 0) c.params.sampling.top_p = 0.9f;
        if (dice_below(&d, 4) == 0) c.params.sampling.min_p = 0.02f;
        make_round(&c, &d);
        expect_decision(&c, t);
    }
    for (int32_t i = 0; i < GAMMA; i++) ref_rows_free(&c.r[i]);
    free(c.drafter);
    free(c.verifier);
}

static const struct {
    int32_t vocab, repeats;
} grid[] = {{2, 4000},   {7, 4000},   {127, 3000}, {1013, 600},
            {4096, 120}, {4097, 120}, {9001, 60},  {32001, 16}};

Test(host_verify_coins, decisions_are_those_of_the_formulas_at_the_same_coins)
{
    tally t = {0, 0};

    for (size_t k = 0; k < sizeof grid / sizeof *grid; k++) {
        decide_many(grid[k].vocab, grid[k].repeats, SPC_VERIFY_TOKEN, &t);
    }
    decide_many(151936, 4, SPC_VERIFY_TOKEN, &t);
    cr_expect_leq(1000 * t.near, t.rounds, "%d of %d too near", (int)t.near, (int)t.rounds);
}

Test(host_verify_coins, block_decisions_are_those_of_the_formulas_at_the_same_coins)
{
    tally t = {0, 0};

    for (size_t k = 0; k < sizeof grid / sizeof *grid; k++) {
        decide_many(grid[k].vocab, grid[k].repeats, SPC_VERIFY_BLOCK, &t);
    }
    cr_expect_leq(1000 * t.near, t.rounds, "%d of %d too near", (int)t.near, (int)t.rounds);
}
