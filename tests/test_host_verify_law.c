/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_verify_law.c - spc_verify against the reference in double: the exact law of what it
 * emits, by walking through every outcome. */
#include "toyround.h"

#include <criterion/criterion.h>
#include <stdio.h>

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
