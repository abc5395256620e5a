/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_round.c - what a round leaves behind: cache lengths after every outcome, what equal
 * models keep, bad rows, counters. */
#include "rounds.h"

#include <math.h>
#include <stdio.h>

/* ---- lengths ----------------------------------------------------------------------------------
 */

/* Tokens of a round by how they came to be. */
typedef struct {
    int32_t origin[3], deferred;
} tally;

static bool count_origin(void *user, const spc_token *token)
{
    tally *t = user;

    t->origin[token->origin]++;
    t->deferred += token->deferred;
    return true;
}

static bool needs_row_g(const spc_session_options *o)
{
    return o->bonus == SPC_BONUS_STEP ||
           (o->bonus == SPC_BONUS_TARGET && strcmp(o->rule, "strict") != 0);
}

/* One round of a session, and what its caches hold then.  Marks the outcome. */
static void check_round(spc_session *s, const spc_session_options *o, tally *t, uint32_t *seen)
{
    int32_t before = s->length, kept;
    bool all;

    memset(t, 0, sizeof *t);
    cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    kept = t->origin[SPC_TOKEN_ACCEPTED];
    all = t->origin[SPC_TOKEN_RESIDUAL] == 0;
    *seen |= 1u << (all ? GAMMA + 1 : kept);
    cr_assert_eq(s->length - before, kept + (all && o->bonus == SPC_BONUS_STEP ? 0 : 1));
    cr_assert_eq(s->engine->ops->length(s->engine->verifier.runner, s->slot), s->length - 1);
    cr_assert_eq(s->engine->ops->length(s->engine->drafter.runner, s->slot),
                 s->length - (all && !needs_row_g(o) ? 2 : 1), "%s gamma %d bonus %d: %d kept",
                 o->rule, (int)o->gamma, (int)o->bonus, (int)kept);
}

/* Two rounds, through every outcome.  The second begins with whatever lag the first left. */
static uint32_t check_lengths(const spc_session_options *options)
{
    toy_script script;
    toy_pair pair = {.seed = 7, .vocab = 2, .context = 32, .sessions = 1, .spread = 3};
    spc_session_options o = *options;
    uint32_t seen = 0;
    tally t;

    toy_script_begin(&script);
    pair.chance = &script.chance;
    o.on_token = count_origin;
    o.user = &t;

    spc_engine *engine = toy_engine(&pair);

    do {
        spc_session *s = open_session(engine, &o, &start);

        toy_script_run(&script);
        check_round(s, &o, &t, &seen);
        check_round(s, &o, &t, &seen);
        spc_session_close(s);
    } while (toy_script_next(&script));
    spc_engine_close(engine);
    return seen;
}

/* Outcomes: rejected at 0 .. gamma - 1 (with bonus=step at gamma too), or all kept. */
Test(host_round, both_caches_end_where_the_next_round_begins_after_every_outcome)
{
    static const char *const some[] = {"strict", "token-v3:alpha=0.2", "lossy:alpha=0.1"};

    for (size_t r = 0; r < sizeof some / sizeof *some; r++) {
        for (int32_t gamma = 1; gamma <= GAMMA; gamma++) {
            spc_session_options o = options_for(some[r], gamma, 1, 0);

            do {
                int32_t rows = gamma + (o.bonus == SPC_BONUS_STEP);
                uint32_t wanted = ((1u << rows) - 1) | 1u << (GAMMA + 1);

                cr_expect_eq(check_lengths(&o) & wanted, wanted,
                             "%s gamma %d verify %d bonus %d: not every outcome", some[r],
                             (int)gamma, (int)o.verify, (int)o.bonus);
            } while (next_mode(&o));
        }
    }
}

/* With gamma = 0 a rule that reads no drafter row leaves the drafter behind. */
Test(host_round, without_drafts_the_drafter_runs_only_for_rules_that_read_it)
{
    static const toy_pair pair = {.seed = 7, .vocab = 8, .context = 32, .sessions = 1, .spread = 3};
    static const struct {
        const char *rule;
        bool reads;
    } cases[] = {{"strict", false}, {"verifier-only", false}, {"token-v3:alpha=0.5", true}};

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_for(cases[c].rule, 0, 1, 0);
        spc_session *s = open_session(engine, &o, &start);

        for (int32_t round = 1; round <= 5; round++) {
            cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
            cr_expect_eq(s->length, PROMPT + round);
            cr_expect_eq(engine->ops->length(engine->verifier.runner, 0), s->length - 1);
            cr_expect_eq(engine->ops->length(engine->drafter.runner, 0),
                         cases[c].reads ? s->length - 1 : 0, "%s", cases[c].rule);
        }
        spc_session_close(s);
        spc_engine_close(engine);
    }
}

/* The only token of a round without drafts is the target's, where that of others is the verifier's,
 * too: at the end of a budget, say. */
Test(host_round, without_drafts_a_token_is_the_targets_wherever_bonuses_come_from)
{
    static const toy_pair pair = {.seed = 7, .vocab = 8, .context = 64, .sessions = 1, .spread = 3};
    static const char *const some[] = {"opt:alpha=0.1", "token-v3:alpha=0.5", "chow:alpha=0.3"};
    spc_engine *engine = toy_engine(&pair);

    for (size_t r = 0; r < sizeof some / sizeof *some; r++) {
        spc_session_options o = options_for(some[r], 0, 1, 40);
        decoded target, verifier;

        o.bonus = SPC_BONUS_TARGET;
        target = decode(engine, &o, &start);
        o.bonus = SPC_BONUS_VERIFIER;
        verifier = decode(engine, &o, &start);
        cr_expect(same_tokens(&target, &verifier), "%s", some[r]);
        cr_expect_eq(verifier.stats.drafter_calls, target.stats.drafter_calls);
    }
    spc_engine_close(engine);
}

/* The lag of many rounds without drafts is one longer forward, not a special case. */
Test(host_round, a_drafter_that_fell_behind_catches_up)
{
    static const toy_pair pair = {.seed = 9, .vocab = 8, .context = 64, .sessions = 1, .spread = 3};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("strict", 0, 0, 30);
    decoded wanted = decode(engine, &o, &start), got;
    spc_session *s = open_session(engine, &o, &start);

    for (int32_t round = 0; round < 6; round++) cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    cr_assert_eq(engine->ops->length(engine->drafter.runner, 0), 0);
    s->gamma = 4;
    cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    cr_expect_geq(engine->ops->length(engine->drafter.runner, 0), s->length - 2);
    cr_expect_eq(sum_of(s->counters.drafted), 4);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    got = decoded_of(s);
    cr_expect(same_tokens(&got, &wanted));
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_round, a_round_scores_one_row_more_than_it_drafts)
{
    static const toy_pair pair = {
        .seed = 3, .vocab = 16, .context = 96, .sessions = 1, .spread = 3};

    for (int32_t gamma = 0; gamma <= SPC_GAMMA_MAX; gamma++) {
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_for("strict", gamma, 1, 0);
        spc_session *s = open_session(engine, &o, &start);
        spc_stats stats;

        for (int32_t round = 1; round <= 4; round++)
            cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        spc_session_stats(s, &stats);
        cr_expect_eq(toy_rows(engine->verifier.runner), PROMPT - 1 + 4 * (gamma + 1));
        cr_expect_eq(stats.verifier_calls, 4);
        cr_expect_eq(stats.drafter_calls, 4 * gamma);
        cr_expect_eq(sum_of(stats.drafted), 4 * gamma);
        spc_session_close(s);
        spc_engine_close(engine);
    }
}

Test(host_round, a_long_prompt_is_fed_in_chunks_that_are_counted)
{
    static const toy_pair pair = {
        .seed = 3, .vocab = 16, .context = 256, .sessions = 1, .spread = 3};
    static const int32_t lengths[] = {1, 63, 64, 65, 128, 129, 200};
    spc_engine *engine = toy_engine(&pair);
    int32_t chunk = engine->scratch.rows;

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        prompt p = prompt_made(lengths[i], 16, 5);
        spc_session_options o = options_for("strict", 2, 1, 6), plain = o;

        plain.rule = "verifier-only";
        cr_expect_eq(decode(engine, &o, &p).stats.prefill_calls, 2 * ((p.count - 1) / chunk),
                     "%d tokens, both models", (int)p.count);
        cr_expect_eq(decode(engine, &plain, &p).stats.prefill_calls, (p.count - 1) / chunk,
                     "%d tokens, the verifier alone", (int)p.count);
    }
    spc_engine_close(engine);
}

/* ---- equal models -----------------------------------------------------------------------------
 */

static void expect_all_kept(spc_engine *engine, const prompt *p, const char *what)
{
    for (int32_t r = 0; r < FAITHFUL; r++) {
        for (int32_t t = 0; t <= 1; t++) {
            spc_session_options o = options_for(rules[r], GAMMA, (float)t, 33);

            o.seed = 5;
            do {
                decoded d = decode(engine, &o, p);

                cr_expect_eq(d.status, SPC_OK);
                cr_expect_eq(sum_of(d.stats.rejected), 0, "%s: %s T %d verify %d bonus %d", what,
                             rules[r], (int)t, (int)o.verify, (int)o.bonus);
                cr_expect_eq(sum_of(d.stats.accepted), sum_of(d.stats.verified));
                cr_expect_gt(sum_of(d.stats.accepted), 0);
                cr_expect_eq(d.count, d.stats.tokens);
            } while (next_mode(&o));
        }
    }
}

Test(host_round, equal_models_keep_every_draft)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        toy_pair pair = {.seed = seed,
                         .vocab = 32,
                         .context = 64,
                         .sessions = 1,
                         .spread = (float)seed,
                         .equal = true};
        spc_engine *engine = toy_engine(&pair);

        expect_all_kept(engine, &start, "toy");
        spc_engine_close(engine);
    }
}

/* One row at a time and gamma + 1 rows at once give the same bits. */
Test(host_round, a_demo_model_that_drafts_for_itself_keeps_every_draft)
{
    spc_engine *engine = open_demo(DEMO_VERIFIER, 1, 2);
    prompt p = prompt_of(engine, "<s><2de>The cat sleeps.<sep>");
    spc_session_options o = options_for("strict", GAMMA, 0, 24);

    for (int32_t t = 0; t <= 1; t++) {
        o.temperature = (float)t;
        decoded d = decode(engine, &o, &p);

        cr_expect_eq(sum_of(d.stats.rejected), 0, "T %d", (int)t);
        cr_expect_gt(sum_of(d.stats.accepted), 4);
    }
    spc_engine_close(engine);
}

/* ---- bad rows ---------------------------------------------------------------------------------
 */

/* A row that predicts `position` is bad in one of the models. */
static decoded decode_bad(const spc_session_options *o, bool drafter, int32_t position, float value)
{
    toy_pair pair = {.seed = 4,
                     .vocab = 16,
                     .context = 64,
                     .sessions = 1,
                     .spread = 3,
                     .equal = true,
                     .bad_drafter = drafter ? position : 0,
                     .bad_verifier = drafter ? 0 : position,
                     .bad_value = value};
    spc_engine *engine = toy_engine(&pair);
    decoded d = decode(engine, o, &start);

    spc_engine_close(engine);
    return d;
}

static void expect_failure(const decoded *d, const decoded *clean, bool drafter, int32_t position)
{
    char wanted[64];

    (void)snprintf(wanted, sizeof wanted, "%s: logits for position %d hold",
                   drafter ? "drafter" : "verifier", (int)position);
    cr_expect_eq(d->finish, SPC_FINISH_FAILED);
    cr_expect_eq(d->status, SPC_ENUMERIC);
    cr_expect(strncmp(d->error.message, wanted, strlen(wanted)) == 0, "'%s' is not '%s'",
              d->error.message, wanted);
    cr_expect_eq(d->count, position - PROMPT, "%s, position %d: %d kept",
                 drafter ? "drafter" : "verifier", (int)position, (int)d->count);
    cr_expect(begins_with(d, clean, d->count), "position %d", (int)position);
}

/* Equal models keep every draft, so every position of the first three rounds is a row that is
 * needed, but for the drafter's last one under a rule that does not read it. */
Test(host_round, a_bad_row_ends_the_session_before_its_token)
{
    static const char *const some[] = {"strict", "lossy:alpha=0.3", "opt:alpha=0.1"};
    static const float values[] = {0, INFINITY};
    enum { LONG = 3 };

    for (int32_t c = 0; c < 3 * 2 * 2; c++) {
        bool drafter = c % 2;
        float value = values[c / 2 % 2];
        spc_session_options o = options_for(some[c / 4], LONG, 1, 20);

        do {
            decoded clean = decode_bad(&o, drafter, 0, value);

            cr_assert_eq(clean.status, SPC_OK);
            for (int32_t i = 0; i < 3 * (LONG + 1); i++) {
                decoded d = decode_bad(&o, drafter, PROMPT + i, value);

                if (drafter && i % (LONG + 1) == LONG && !needs_row_g(&o)) {
                    cr_expect(same_tokens(&d, &clean), "%s: nobody reads row %d", o.rule, (int)i);
                } else {
                    expect_failure(&d, &clean, drafter, PROMPT + i);
                    cr_expect_eq(d.stats.rounds, i / (LONG + 1) + 1, "the round that met it");
                }
            }
        } while (next_mode(&o));
    }
}

/* With bonus=step every row of both models is needed, whatever was rejected before it; a row behind
 * a rejection belongs to another text and does not count. */
Test(host_round, a_bad_row_behind_a_rejection_does_not_count)
{
    int32_t rejected = 0;

    for (int32_t c = 0; c < 2 * 30; c++) {
        bool drafter = c % 2;
        int32_t at = PROMPT + c / 2 % 10;
        toy_pair pair = {
            .seed = 40 + (uint64_t)c, .vocab = 8, .context = 64, .sessions = 1, .spread = 5};
        spc_session_options o = options_for("strict", 4, 1, 20);
        decoded clean, d;
        spc_engine *engine = toy_engine(&pair);

        o.bonus = SPC_BONUS_STEP;
        clean = decode(engine, &o, &start);
        *(drafter ? &pair.bad_drafter : &pair.bad_verifier) = at; /* read at every row */
        d = decode(engine, &o, &start);
        expect_failure(&d, &clean, drafter, at);
        rejected += sum_of(d.stats.rejected) > 0;
        spc_engine_close(engine);
    }
    cr_expect_gt(rejected, 20);
}

Test(host_round, a_model_that_is_not_asked_may_be_bad)
{
    for (int32_t position = PROMPT; position < PROMPT + 6; position++) {
        spc_session_options o = options_for("verifier-only", 3, 1, 10);

        cr_expect_eq(decode_bad(&o, true, position, 0).status, SPC_OK);
        o.rule = "drafter-only";
        cr_expect_eq(decode_bad(&o, false, position, 0).status, SPC_OK);
        cr_expect_eq(decode_bad(&o, true, position, 0).status, SPC_ENUMERIC);
    }
}

/* A failed session keeps its error; its neighbour does not notice. */
Test(host_round, a_failure_stays_with_its_session)
{
    toy_pair pair = {.seed = 4, .vocab = 16, .context = 64, .sessions = 2, .spread = 3};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("token-v3:alpha=0.5", 3, 1, 12);
    prompt other = {{5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 2, 3, 4, 5, 6, 7, 8}, 19};
    decoded clean = decode(engine, &o, &other);

    pair.bad_verifier = PROMPT + 1; /* before the other's prompt ends */

    spc_session *both[] = {open_session(engine, &o, &start), open_session(engine, &o, &other)};
    spc_error error = {SPC_OK, ""}, again = {SPC_OK, ""};

    while (both[1]->finish == SPC_FINISH_RUNNING) {
        spc_status status = spc_engine_step(engine, both, 2, &error);

        cr_assert_eq(status, both[0]->finish == SPC_FINISH_FAILED ? SPC_ENUMERIC : SPC_OK);
    }
    cr_expect_eq(error.status, SPC_ENUMERIC);
    cr_expect_eq(spc_session_step(both[0], &again), SPC_ENUMERIC);
    cr_expect_str_eq(again.message, error.message);
    cr_expect_str_eq(spc_session_error(both[0])->message, error.message);
    cr_expect_null(spc_session_error(both[1]));

    decoded d = decoded_of(both[1]);

    cr_expect(same_tokens(&d, &clean));
    for (int32_t i = 0; i < 2; i++) spc_session_close(both[i]);
    spc_engine_close(engine);
}

static int32_t notices_left;

static const char *toy_notice(spc_backend *backend)
{
    (void)backend;
    return notices_left-- > 0 ? "toys are slow" : NULL;
}

static void count_warning(void *user, const char *line)
{
    cr_assert_str_eq(line, "warning: toys are slow");
    ++*(int32_t *)user;
}

/* What a device was found not to do is told after the step; where a session has failed, that may be
 * why, and it is kept. */
Test(host_round, notices_are_told_unless_a_session_has_failed)
{
    toy_pair pair = {.seed = 4, .vocab = 16, .context = 64, .sessions = 2, .spread = 3};
    spc_engine *engine = toy_engine(&pair);
    const spc_backend_ops *toys = engine->ops;
    spc_backend_ops ops = *toys;
    spc_session_options o = options_for("token-v3:alpha=0.5", 3, 1, 12);
    int32_t told = 0;
    spc_error error;

    ops.notice = toy_notice;
    engine->ops = &ops;
    engine->log = count_warning;
    engine->user = &told;

    spc_session *both[] = {open_session(engine, &o, &start), open_session(engine, &o, &start)};

    cr_assert_eq(spc_engine_step(engine, both, 2, &error), SPC_OK);
    cr_expect_eq(told, 0);
    notices_left = 2;
    cr_assert_eq(spc_engine_step(engine, both, 2, &error), SPC_OK);
    cr_expect_eq(told, 2);
    spc_session_fail(both[1], &(spc_error){SPC_ENUMERIC, "by hand"});
    notices_left = 1;
    cr_assert_eq(spc_engine_step(engine, both, 2, &error), SPC_ENUMERIC);
    cr_expect_eq(told, 2);
    cr_assert_eq(spc_engine_step(engine, both, 1, &error), SPC_OK);
    cr_expect_eq(told, 3);
    for (int32_t i = 0; i < 2; i++) spc_session_close(both[i]);
    engine->ops = toys;
    spc_engine_close(engine);
}

/* ---- counters ---------------------------------------------------------------------------------
 */

static uint64_t fnv1a(const int32_t *token, int32_t count)
{
    uint64_t hash = 14695981039346656037u;

    for (int32_t i = 0; i < 4 * count; i++) {
        uint32_t word = (uint32_t)token[i / 4];

        hash = (hash ^ (word >> 8 * (i % 4) & 0xff)) * 1099511628211u;
    }
    return hash;
}

static void expect_counters(const decoded *d, const spc_session_options *o, const tally *t)
{
    const spc_stats *c = &d->stats;
    int64_t accepted = sum_of(c->accepted), rejected = sum_of(c->rejected);

    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) {
        cr_expect_geq(c->drafted[i], c->verified[i]);
        cr_expect_eq(c->verified[i], c->accepted[i] + c->rejected[i]);
        cr_expect_geq(c->verified[i], c->deferred[i]);
        if (i > 0) cr_expect_leq(c->verified[i], c->accepted[i - 1]);
        if (i >= o->gamma) cr_expect_eq(c->drafted[i], 0);
    }
    cr_expect_eq(c->tokens, accepted + rejected + c->bonus, "%s: %d of %d + %d + %d", o->rule,
                 (int)c->tokens, (int)accepted, (int)rejected, (int)c->bonus);
    cr_expect_eq(c->tokens, t->origin[0] + t->origin[1] + t->origin[2]);
    if (o->bonus != SPC_BONUS_STEP) { /* where the last row may be accepted or rejected too */
        cr_expect_eq(accepted, t->origin[SPC_TOKEN_ACCEPTED]);
        cr_expect_eq(rejected, t->origin[SPC_TOKEN_RESIDUAL]);
        cr_expect_eq(c->bonus, t->origin[SPC_TOKEN_BONUS]);
    } else {
        cr_expect_eq(t->origin[SPC_TOKEN_BONUS], 0);
    }
    cr_expect_eq(c->tokens, d->count);
    cr_expect_eq(c->prompt_tokens, PROMPT);
    cr_expect_eq(c->discarded, 0);
    cr_expect_eq(sum_of(c->deferred) + c->bonus_deferred, t->deferred);
    cr_expect_leq(c->bonus_deferred, c->bonus);
    cr_expect_eq(c->rounds, c->verifier_calls);
    cr_expect_eq(c->rounds, rejected + c->bonus, "every round ends in one token not drafted");
    cr_expect_eq(c->output_hash, fnv1a(d->token, d->count));
}

Test(host_round, counters_add_up)
{
    static const toy_pair pair = {
        .seed = 2, .vocab = 16, .context = 64, .sessions = 1, .spread = 4};
    spc_engine *engine = toy_engine(&pair);
    int64_t deferred = 0, kept = 0;

    for (int32_t r = 0; r < RULES; r++) {
        for (int32_t gamma = 0; gamma <= 6; gamma++) {
            spc_session_options o = options_for(rules[r], gamma, 1, 45);

            do {
                tally t = {{0, 0, 0}, 0};

                o.on_token = count_origin;
                o.user = &t;
                decoded d = decode(engine, &o, &start);

                expect_counters(&d, &o, &t);
                deferred += sum_of(d.stats.deferred);
                kept += sum_of(d.stats.accepted);
            } while (next_mode(&o));
        }
    }
    cr_expect(deferred > 0 && kept > 0);
    spc_engine_close(engine);
}

/* strict turns to the verifier for every row; a rule that never defers for none. */
Test(host_round, deferrals_are_those_of_the_rule)
{
    static const struct {
        const char *rule;
        bool defers;
    } cases[] = {{"strict", true}, {"chow:alpha=0", true}, {"chow:alpha=1", false}};
    static const toy_pair pair = {
        .seed = 2, .vocab = 16, .context = 64, .sessions = 1, .spread = 4};
    spc_engine *engine = toy_engine(&pair);

    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        spc_session_options o = options_for(cases[c].rule, 3, 1, 40);
        decoded d = decode(engine, &o, &start);

        cr_expect_eq(sum_of(d.stats.deferred), cases[c].defers ? sum_of(d.stats.verified) : 0, "%s",
                     cases[c].rule);
        cr_expect_gt(sum_of(d.stats.verified), 0);
    }
    spc_engine_close(engine);
}

Test(host_round, the_drafter_alone_counts_its_tokens)
{
    static const toy_pair pair = {
        .seed = 2, .vocab = 16, .context = 64, .sessions = 1, .spread = 4};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_for("drafter-only", 3, 1, 17);
    decoded d = decode(engine, &o, &start);

    cr_expect_eq(d.count, 17);
    cr_expect_eq(d.stats.tokens, 17);
    cr_expect_eq(d.stats.rounds, 17);
    cr_expect_eq(d.stats.drafter_calls, 17);
    cr_expect_eq(d.stats.verifier_calls, 0);
    cr_expect_eq(toy_rows(engine->verifier.runner), 0);
    cr_expect_eq(d.stats.output_hash, fnv1a(d.token, d.count));
    spc_engine_close(engine);
}
