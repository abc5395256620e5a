/* SPDX-License-Identifier: Apache-2.0 */
/* spc_verify against the reference in double: statistics, single decisions at known coins, and the
 * exact law of what it emits, by walking through every outcome. */
#include "toyround.h"

#include <criterion/criterion.h>
#include <stdio.h>

/* ---- statistics ---- */

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

/* What goes through toy_rules finds its rules by itself.  (lossy-greedy takes no temperature.) */
Test(host_verify_law, every_one_round_rule_is_a_toy_rule)
{
    bool known[SPC_RULE_COUNT] = {[SPC_RULE_LOSSY_GREEDY] = true};

    for (int32_t r = 0; r < TOY_RULES; r++) known[params_of(toy_rules[r], 1).rule.kind] = true;
    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        const char *name = spc_rule_name((spc_rule_kind)kind);

        if (!spc_rule_is_one_round(kind) || spc_rule_needs_draft((spc_rule_kind)kind)) continue;
        cr_expect(known[kind], "%s: no line in toyround.h", name);
    }
}

Test(host_verify_law, statistics_stay_within_their_bounds)
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

/* ---- decisions ---- */

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

Test(host_verify_law, decisions_are_those_of_the_formulas_at_the_same_coins)
{
    tally t = {0, 0};

    for (size_t k = 0; k < sizeof grid / sizeof *grid; k++) {
        decide_many(grid[k].vocab, grid[k].repeats, SPC_VERIFY_TOKEN, &t);
    }
    decide_many(151936, 4, SPC_VERIFY_TOKEN, &t);
    cr_expect_leq(1000 * t.near, t.rounds, "%d of %d too near", (int)t.near, (int)t.rounds);
}

Test(host_verify_law, block_decisions_are_those_of_the_formulas_at_the_same_coins)
{
    tally t = {0, 0};

    for (size_t k = 0; k < sizeof grid / sizeof *grid; k++) {
        decide_many(grid[k].vocab, grid[k].repeats, SPC_VERIFY_BLOCK, &t);
    }
    cr_expect_leq(1000 * t.near, t.rounds, "%d of %d too near", (int)t.near, (int)t.rounds);
}

/* ---- every outcome once ---- */

enum { VOCAB = 5, CHOICES = 64 };

/* Answers the questions of a run from a script that counts up through all its variations. */
typedef struct {
    int32_t asked, known, choice[CHOICES], choices[CHOICES];
    double probability;
} script;

static int32_t choose(script *s, int32_t choices)
{
    cr_assert_lt(s->asked, CHOICES);
    if (s->asked == s->known) {
        s->choice[s->known] = 0;
        s->choices[s->known++] = choices;
    }
    cr_assert_eq(s->choices[s->asked], choices, "the same script, the same questions");
    return s->choice[s->asked++];
}

static bool script_keep(void *user, float kept, float drafted)
{
    script *s = user;
    double chance = (double)kept / (double)drafted;
    bool keep = choose(s, 2) == 0;

    cr_assert(kept > 0 && kept < drafted, "asked only where both answers are possible");
    s->probability *= keep ? chance : 1 - chance;
    return keep;
}

static int32_t script_pick(void *user, const float *weight, int32_t count)
{
    script *s = user;
    double sum = 0;
    int32_t possible = 0, v = -1;

    for (int32_t i = 0; i < count; i++) {
        sum += (double)weight[i];
        possible += weight[i] > 0;
    }
    for (int32_t left = choose(s, possible); left >= 0; left--) {
        do v++;
        while (!(weight[v] > 0));
    }
    s->probability *= (double)weight[v] / sum;
    return v;
}

static bool script_next(script *s)
{
    while (s->known > 0 && s->choice[s->known - 1] + 1 == s->choices[s->known - 1]) s->known--;
    if (s->known > 0) s->choice[s->known - 1]++;
    return s->known > 0;
}

/* One outcome of a round. */
static spc_verdict play(script *s, const spc_row_params *params, const float *drafter,
                        const float *verifier, int32_t drafts, bool bonus)
{
    spc_chance chance = {s, script_keep, script_pick};
    int32_t draft[4];
    spc_row_stats stats[4];
    spc_verify_args a = args_of(params, drafter, verifier, VOCAB, drafts, draft);
    spc_verdict out;

    s->asked = 0;
    s->probability = 1;
    for (int32_t i = 0; i < drafts; i++) {
        draft[i] = spc_draft_sample_by(drafter + i * VOCAB, VOCAB, params, 10 + i, a.salt,
                                       &stats[i], &chance);
    }
    a.stats = stats;
    a.bonus = bonus;
    spc_verify_by(&a, &chance, &out);
    cr_assert_eq(out.status & ~(uint32_t)SPC_STATUS_ZERO_RESIDUAL, 0);
    return out;
}

/* Laws of the token at each position, given that the round reaches it: [drafts + 1, VOCAB]. */
static void emitted(const spc_row_params *params, const float *drafter, const float *verifier,
                    int32_t drafts, bool bonus, double *law)
{
    script s = {.known = 0};

    memset(law, 0, (size_t)(drafts + 1) * VOCAB * sizeof *law);
    do {
        const spc_verdict out = play(&s, params, drafter, verifier, drafts, bonus);

        for (int32_t i = 0; i < out.count; i++) law[i * VOCAB + out.token[i]] += s.probability;
    } while (script_next(&s));
}

static double distance(const double *got, const double *wanted)
{
    return (ref_over(got, wanted, VOCAB) + ref_over(wanted, got, VOCAB)) / 2;
}

static spc_row_params random_params(dice *d, int32_t rule)
{
    static const float temperatures[] = {0.5f, 1, 1.5f};
    spc_row_params p = params_of(toy_rules[rule], temperatures[dice_below(d, 3)]);
    int truncation = dice_below(d, 5);

    p.nucleus = dice_below(d, 2);
    if (truncation == 1 || truncation == 4) p.sampling.top_k = 3;
    if (truncation == 2 || truncation == 4) p.sampling.top_p = 0.8f;
    if (truncation == 3 || truncation == 4) p.sampling.min_p = 0.1f;
    return p;
}

/* The law of the first token of a round is pi, whatever comes behind it: directly (no drafts),
 * after a draft, and in front of another one, where a block looks ahead. */
static void expect_first_token(spc_verify_mode verify)
{
    dice d = {2 + (uint64_t)verify};
    int32_t skipped = 0, rounds = 0;

    for (int i = 0; i < 60 * TOY_RULES; i++) {
        spc_row_params p = random_params(&d, i % TOY_RULES);
        float drafter[3 * VOCAB], verifier[3 * VOCAB];
        ref_rows r = ref_rows_of(VOCAB);
        ref_options o = options_of(&p);
        double law[3 * VOCAB];
        int32_t drafts = i / TOY_RULES % 3;

        p.verify = (int32_t)verify;
        for (int32_t k = 0; k < 3; k++) {
            dice_rows(&d, (rows_kind)dice_below(&d, ROWS_KINDS), VOCAB, 1.5, drafter + k * VOCAB,
                      verifier + k * VOCAB);
        }
        ref_fill(&r, drafter, verifier, &o);
        ref_law_of(&r, &p.rule);
        rounds++;
        if (r.margin < 4e-6) {
            skipped++;
        } else {
            emitted(&p, drafter, verifier, drafts, true, law);
            cr_expect_lt(distance(law, r.pi), 1e-6, "%s T %g k %d P %g m %g drafts %d: %g",
                         toy_rules[i % TOY_RULES], o.temperature, (int)o.top_k, o.top_p, o.min_p,
                         (int)drafts, distance(law, r.pi));
        }
        ref_rows_free(&r);
    }
    cr_expect_lt(20 * skipped, rounds, "%d of %d skipped", (int)skipped, (int)rounds);
}

Test(host_verify_law, tokenwise_rounds_begin_with_a_token_of_the_target)
{
    expect_first_token(SPC_VERIFY_TOKEN);
}

Test(host_verify_law, blockwise_rounds_begin_with_a_token_of_the_target)
{
    expect_first_token(SPC_VERIFY_BLOCK);
}

/* Law of the first three tokens together, [VOCAB, VOCAB, VOCAB], where a round of two drafts has
 * begun them and what it leaves open is drawn from the targets. */
static void joint_law(const spc_row_params *params, const float *drafter, const float *verifier,
                      const ref_rows *r, double *law)
{
    script s = {.known = 0};

    memset(law, 0, VOCAB * VOCAB * VOCAB * sizeof *law);
    do {
        const spc_verdict out = play(&s, params, drafter, verifier, 2, true);

        for (int32_t k = 0; k < VOCAB * VOCAB * VOCAB; k++) {
            const int32_t token[] = {k / VOCAB / VOCAB, k / VOCAB % VOCAB, k % VOCAB};
            double probability = s.probability;

            for (int32_t i = 0; i < 3; i++) {
                probability *= i < out.count ? out.token[i] == token[i] : r[i].pi[token[i]];
            }
            law[k] += probability;
        }
    } while (script_next(&s));
}

/* How far that is from the product of the targets; 0: a gate is too near. */
static double joint_distance(const spc_row_params *params, const float *drafter,
                             const float *verifier)
{
    double law[VOCAB * VOCAB * VOCAB], sum = 0;
    ref_options o = options_of(params);
    ref_rows r[3];
    bool near = false;

    for (int32_t i = 0; i < 3; i++) {
        r[i] = ref_rows_of(VOCAB);
        ref_fill(&r[i], drafter + i * VOCAB, verifier + i * VOCAB, &o);
        ref_law_of(&r[i], &params->rule);
        near = near || r[i].margin < 4e-6;
    }
    joint_law(params, drafter, verifier, r, law);
    for (int32_t k = 0; k < VOCAB * VOCAB * VOCAB; k++) {
        sum += fabs(law[k] -
                    r[0].pi[k / VOCAB / VOCAB] * r[1].pi[k / VOCAB % VOCAB] * r[2].pi[k % VOCAB]) /
               2;
    }
    for (int32_t i = 0; i < 3; i++) ref_rows_free(&r[i]);
    return near ? 0 : sum;
}

Test(host_verify_law, what_a_round_begins_and_the_targets_end_has_the_law_of_the_targets)
{
    dice d = {7};

    for (int i = 0; i < 16 * TOY_RULES; i++) {
        spc_row_params p = random_params(&d, i % TOY_RULES);
        float drafter[3 * VOCAB], verifier[3 * VOCAB];

        p.verify = i / TOY_RULES % 2;
        for (int32_t k = 0; k < 3; k++) {
            dice_rows(&d, dice_below(&d, 2) ? ROWS_CLOSE : (rows_kind)dice_below(&d, ROWS_KINDS),
                      VOCAB, 1.5, drafter + k * VOCAB, verifier + k * VOCAB);
        }
        cr_expect_lt(joint_distance(&p, drafter, verifier), 2e-6, "%s verify %d: %g",
                     toy_rules[i % TOY_RULES], (int)p.verify,
                     joint_distance(&p, drafter, verifier));
    }
}

/* Token-wise, every position that a round reaches has the law of its own row; the bonus row has pi,
 * or p under bonus=verifier. */
Test(host_verify_law, every_position_of_a_tokenwise_round_has_the_law_of_its_row)
{
    dice d = {4};

    for (int i = 0; i < 20 * TOY_RULES; i++) {
        spc_row_params p = random_params(&d, i % TOY_RULES);
        float drafter[3 * VOCAB], verifier[3 * VOCAB];
        double law[3 * VOCAB];
        ref_options o = options_of(&p);

        p.bonus = i / TOY_RULES % 2 ? SPC_BONUS_VERIFIER : SPC_BONUS_TARGET;
        for (int32_t k = 0; k < 3; k++) {
            dice_rows(&d, ROWS_CLOSE, VOCAB, 1.5, drafter + k * VOCAB, verifier + k * VOCAB);
        }
        emitted(&p, drafter, verifier, 2, true, law);
        for (int32_t k = 0; k < 3; k++) {
            ref_rows r = ref_rows_of(VOCAB);
            double *got = law + k * VOCAB, reached = ref_sum(got, VOCAB);

            ref_fill(&r, drafter + k * VOCAB, verifier + k * VOCAB, &o);
            ref_law_of(&r, &p.rule);
            if (r.margin >= 4e-6 && reached > 1e-3) {
                ref_norm(got, VOCAB);
                bool plain = k == 2 && p.bonus == SPC_BONUS_VERIFIER;
                cr_expect_lt(distance(got, plain ? r.p : r.pi), 1e-6 / reached, "%s position %d",
                             toy_rules[i % TOY_RULES], (int)k);
            }
            ref_rows_free(&r);
        }
    }
}

Test(host_verify_law, greedy_rounds_emit_the_greedy_target)
{
    dice d = {5};

    for (int i = 0; i < 20 * TOY_RULES; i++) {
        spc_row_params p = params_of(toy_rules[i % TOY_RULES], 0);
        float drafter[3 * VOCAB], verifier[3 * VOCAB];
        double law[3 * VOCAB];
        ref_rows r = ref_rows_of(VOCAB);
        ref_options o = options_of(&p);

        p.verify = dice_below(&d, 2);
        for (int32_t k = 0; k < 3; k++) {
            dice_rows(&d, ROWS_RANDOM, VOCAB, 1.5, drafter + k * VOCAB, verifier + k * VOCAB);
        }
        ref_fill(&r, drafter, verifier, &o);
        ref_law_of(&r, &p.rule);
        emitted(&p, drafter, verifier, i % 3, true, law);
        if (r.margin >= 4e-6) {
            cr_expect_lt(distance(law, r.pi), 1e-7, "%s", toy_rules[i % TOY_RULES]);
        }
        ref_rows_free(&r);
    }
}

/* Cactus has no target of a row; what a draft and its judgement leave has a law all the same. */
Test(host_verify_law, drafts_judged_by_cactus_leave_its_law)
{
    static const double deltas[] = {0.01, 0.1, 0.5, 4};
    dice d = {6};

    for (int i = 0; i < 240; i++) {
        spc_row_params p = random_params(&d, 0);
        float drafter[3 * VOCAB], verifier[3 * VOCAB];
        double law[3 * VOCAB];
        ref_options o = options_of(&p);
        int32_t drafts = 1 + i % 2;

        cr_assert(spc_rule_make(SPC_RULE_CACTUS, deltas[i % 4], SPC_GATE_UNSCALED, false, &p.rule));
        p.bonus = SPC_BONUS_STEP;
        cr_assert_eq(spc_params_check(&p, NULL), SPC_OK);
        for (int32_t k = 0; k < 3; k++) {
            dice_rows(&d, (rows_kind)dice_below(&d, ROWS_KINDS), VOCAB, 1.5, drafter + k * VOCAB,
                      verifier + k * VOCAB);
        }
        emitted(&p, drafter, verifier, drafts, false, law);
        for (int32_t k = 0; k < drafts; k++) {
            ref_rows r = ref_rows_of(VOCAB);
            double *got = law + k * VOCAB, reached = ref_sum(got, VOCAB);

            ref_fill(&r, drafter + k * VOCAB, verifier + k * VOCAB, &o);
            ref_law(&r, SPC_RULE_CACTUS, deltas[i % 4], false);
            if (reached > 1e-3) {
                ref_norm(got, VOCAB);
                cr_expect_lt(distance(got, r.pi), 1e-6 / reached, "delta %g position %d: %g",
                             deltas[i % 4], (int)k, distance(got, r.pi));
            }
            ref_rows_free(&r);
        }
    }
}
