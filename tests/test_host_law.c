/* SPDX-License-Identifier: Apache-2.0 */
/* The exact law of what the engine emits, by walking through every outcome of its own rounds.
 *
 * The law of the first LENGTH tokens must be the product of the target distributions, whatever the
 * draft length, the kind of verification, the kind of bonus and the limits a round runs into; and
 * whoever chooses the draft lengths, as long as the choice looks at finished rounds only. */
#include "toylaw.h"

#include <stdio.h>

static const char *const rules[] = {"strict",
                                    "lossy:alpha=0.3",
                                    "lossy:alpha=0.3,beta=solve",
                                    "lossy:alpha=0.9",
                                    "chow:alpha=0.5",
                                    "diff:alpha=0.05",
                                    "opt:alpha=0.2",
                                    "chow-log:alpha=0.9",
                                    "diff-log:alpha=0",
                                    "opt-log:alpha=0.1",
                                    "truncate:alpha=0.5",
                                    "truncate:top-p=0.6",
                                    "mentored:kl=0.05",
                                    "truncate-q:alpha=0.5",
                                    "head:alpha=0.3",
                                    "typical:eps=0.09",
                                    "ensemble:w=0.4",
                                    "fuzzy:alpha=0.05",
                                    "token-v1:alpha=0.2",
                                    "token-v2:alpha=0.2",
                                    "token-v3:alpha=0",
                                    "token-v3:alpha=0.5",
                                    "token-v3:alpha=1",
                                    "bild:alpha=1",
                                    "opt:alpha=-0.3",
                                    "diff:alpha=0.05,gate=processed"};
enum { RULES = sizeof rules / sizeof *rules };

/* The draft length of the next round, from finished rounds; NULL: the setting's, always.  It may
 * look at what was kept and rejected, never at a discarded draft: a position's noise is used
 * again, and a length that depends on it would bias the token.  The script of outcomes cannot see
 * that: it answers every question afresh. */
typedef int32_t (*chooser)(const spc_session *session);

/* What was chosen in all runs of a test. */
static struct {
    int64_t chosen[SPC_GAMMA_MAX + 1], probes;
} tally;

static void count_choices(const spc_stats *stats)
{
    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) tally.chosen[g] += stats->chosen[g];
    tally.probes += stats->probes;
}

/* law: [SEQUENCES] of the first LENGTH tokens, by enumeration. */
static void emitted_law(const toy_pair *tables, const setting *s, chooser choose, double *law)
{
    static const int32_t prompt[] = {1, 0};
    static const float drafter[] = {250, 250}, verifier[] = {1000, 1100}; /* a quarter */
    toy_script script;
    toy_pair pair = *tables;

    toy_script_begin(&script);
    pair.chance = &script.chance;
    spc_engine *engine = toy_engine(&pair);

    memset(law, 0, SEQUENCES * sizeof *law);
    do {
        forget(&engine->gamma, drafter, verifier);
        engine->gamma.round_ns = 1e9; /* time enough to pay for probes */
        spc_session *session = open_setting(engine, s, prompt, 2);

        if (pair.reversed) { /* no hope at first: it tries all the same */
            for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) session->choice.prior[i] = 0.05f;
            session->choice.probe.idle = SPC_PROBE_FIRST - 1;
        }
        int32_t count = 0;
        const int32_t *token = NULL;

        toy_script_run(&script);
        while (count < LENGTH) {
            if (choose) session->gamma = choose(session);
            cr_assert_eq(spc_session_step(session, NULL), SPC_OK);
            token = spc_session_tokens(session, &count);
        }
        law[sequence_of(token)] += script.probability;
        count_choices(&session->counters);
        spc_session_close(session);
    } while (toy_script_next(&script));
    spc_engine_close(engine);
}

/* The product of the targets. */
static void wanted_law(const toy_pair *pair, const toy_law *rule, double *law)
{
    for (int32_t index = 0; index < SEQUENCES; index++) {
        int32_t token[2 + LENGTH] = {1, 0, index / 9, index / 3 % 3, index % 3};
        double pi[TOY_VOCAB];

        law[index] = 1;
        for (int32_t i = 0; i < LENGTH; i++) {
            toy_target(pair, rule, token, 2 + i, pi);
            law[index] *= pi[token[2 + i]];
        }
    }
}

static void expect_chosen_law(const toy_pair *pair, const setting *s, chooser choose)
{
    double got[SEQUENCES], wanted[SEQUENCES];

    emitted_law(pair, s, choose, got);
    wanted_law(pair, &s->law, wanted);
    cr_expect_lt(distance(got, wanted), 1e-6,
                 "%s gamma %d max %d verify %d bonus %d T %g: %g from the target", s->law.rule,
                 (int)s->gamma, (int)s->max_tokens, (int)s->verify, (int)s->bonus,
                 (double)s->law.temperature, distance(got, wanted));
}

static void expect_law(const toy_pair *pair, const setting *s)
{
    expect_chosen_law(pair, s, NULL);
}

static const toy_pair tables = {
    .seed = 11, .vocab = VOCAB, .context = 32, .sessions = 1, .spread = 4};

Test(host_law, tokenwise_rounds_emit_the_product_of_the_targets)
{
    for (int32_t r = 0; r < RULES; r++) {
        for (int32_t gamma = 0; gamma <= 3; gamma++) {
            setting s = {{rules[r], 1, true}, gamma, LENGTH, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

            expect_law(&tables, &s);
        }
    }
}

Test(host_law, blockwise_rounds_emit_the_same_law)
{
    for (int32_t r = 0; r < RULES; r++) {
        for (int32_t gamma = 1; gamma <= 3; gamma++) {
            setting s = {{rules[r], 1, true}, gamma, LENGTH, SPC_VERIFY_BLOCK, SPC_BONUS_TARGET};

            expect_law(&tables, &s);
        }
    }
}

Test(host_law, a_last_row_that_is_drafted_and_judged_has_the_law_of_a_bonus)
{
    for (int32_t r = 0; r < RULES; r++) {
        for (int32_t gamma = 0; gamma <= 2; gamma++) {
            setting s = {{rules[r], 1, true}, gamma, LENGTH, SPC_VERIFY_TOKEN, SPC_BONUS_STEP};

            expect_law(&tables, &s);
        }
    }
}

Test(host_law, rounds_that_no_budget_cuts_emit_the_same_law)
{
    const toy_pair pair = {.seed = 5, .vocab = VOCAB, .context = 32, .sessions = 1, .spread = 3};
    static const char *const some[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.1",
                                       "lossy:alpha=0.3"};

    for (size_t r = 0; r < sizeof some / sizeof *some; r++) {
        for (int32_t gamma = 1; gamma <= 2; gamma++) {
            setting s = {{some[r], 1, true}, gamma, 12, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

            expect_law(&pair, &s);
            s.verify = SPC_VERIFY_BLOCK;
            expect_law(&pair, &s);
        }
    }
}

/* 2 at first, then none after a rejection and 1 after a round that kept its drafts. */
static int32_t by_rejections(const spc_session *s)
{
    if (s->counters.rounds == 0) return 2;
    return s->counters.rejected[0] + s->counters.rejected[1] > 0 ? 0 : 1;
}

/* By a token, which came out of the accept coin and the residual of the round before. */
static int32_t by_last_token(const spc_session *s)
{
    return s->counters.rounds == 0 ? 1 : s->token[s->length - 1];
}

Test(host_law, a_draft_length_chosen_from_finished_rounds_leaves_the_law)
{
    static const chooser choosers[] = {by_rejections, by_last_token};

    for (int32_t r = 0; r < RULES; r++) {
        for (size_t c = 0; c < sizeof choosers / sizeof *choosers; c++) {
            setting s = {{rules[r], 1, true}, 0, 12, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

            expect_chosen_law(&tables, &s, choosers[c]);
            s.bonus = SPC_BONUS_STEP;
            expect_chosen_law(&tables, &s, choosers[c]);
            s.bonus = SPC_BONUS_TARGET;
            s.verify = SPC_VERIFY_BLOCK;
            expect_chosen_law(&tables, &s, choosers[c]);
        }
    }
}

/* gamma auto with a clock that forwards move: lengths change with every verdict. */
Test(host_law, draft_lengths_that_are_chosen_leave_the_law)
{
    for (int32_t kind = 0; kind < 4; kind++) {
        toy_clock clock = {0, 250, kind > 1 ? 200 : 0, 1000, 100};
        toy_pair pair = tables;

        pair.clock = &clock;
        pair.reversed = kind % 2; /* few drafts are kept: under strict there soon are none */
        for (int32_t r = 0; r < RULES; r++) {
            /* rows that are each other's mirror have one entropy: rounding decides */
            if (pair.reversed && strstr(rules[r], "diff-log")) continue;

            setting s = {
                {rules[r], 1, true}, SPC_GAMMA_AUTO, 5, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

            expect_law(&pair, &s);
            s.bonus = SPC_BONUS_STEP;
            expect_law(&pair, &s);
            s.bonus = SPC_BONUS_TARGET;
            s.verify = SPC_VERIFY_BLOCK;
            expect_law(&pair, &s);
        }
    }
    for (int32_t g = 0; g <= 2; g++) cr_expect_gt(tally.chosen[g], 0, "gamma %d", (int)g);
    cr_expect_gt(tally.probes, 0);
}

Test(host_law, temperature_changes_the_target_and_not_its_gate)
{
    for (int32_t r = 0; r < RULES; r++) {
        if (strstr(rules[r], "gate=processed")) continue; /* toy_target gates on unscaled rows */
        setting s = {{rules[r], 0.6f, true}, 2, LENGTH, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

        expect_law(&tables, &s);
        s.law.temperature = 1.7f;
        expect_law(&tables, &s);
    }
}

Test(host_law, greedy_rounds_emit_one_sequence)
{
    for (int32_t r = 0; r < RULES; r++) {
        if (strstr(rules[r], "gate=processed")) continue;
        setting s = {{rules[r], 0, true}, 3, LENGTH, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

        expect_law(&tables, &s);
    }
    setting s = {
        {"lossy-greedy:alpha=0.5", 0, true}, 2, LENGTH, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};
    expect_law(&tables, &s);
}

/* The negative control.  A bonus drawn from the verifier is another law. */
Test(host_law, a_bonus_from_the_verifier_changes_the_law_of_a_cascade)
{
    setting s = {{"token-v3:alpha=1", 1, true}, 1, LENGTH, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER};
    double got[SEQUENCES], wanted[SEQUENCES];

    emitted_law(&tables, &s, NULL, got);
    wanted_law(&tables, &s.law, wanted);
    cr_expect_gt(distance(got, wanted), 1e-2);

    s.law.rule = "strict"; /* and is the target itself under strict */
    expect_law(&tables, &s);
}

Test(host_law, verifier_only_and_drafter_only_emit_their_own_rows)
{
    setting s = {{"verifier-only", 1, true}, 3, LENGTH, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET};

    expect_law(&tables, &s);
    s.law.rule = "drafter-only";
    expect_law(&tables, &s);
}
