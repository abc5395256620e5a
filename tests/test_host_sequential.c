/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_sequential.c - token-chow and seq-chow: their exact laws by enumeration, their ends,
 * what they tell and what they cost; and what all strategies that run one model at a time share
 * with bild-dynamic (test_host_seq_bild.c): limits, bad rows, company. */
#include "decode.h"
#include "toy.h"

#include <math.h>
#include <stdio.h>

enum { LENGTH = 3, VOCAB = 3, SEQUENCES = 27 };

static const prompt start = {{1, 0}, 2};

/* ---- exact laws -------------------------------------------------------------------------------
 */

static int32_t index_of(const int32_t *token)
{
    return (token[0] * VOCAB + token[1]) * VOCAB + token[2];
}

/* The law of the first LENGTH tokens, by every outcome of a session's random questions. */
static void enumerate(const char *rule, toy_pair pair, double law[SEQUENCES])
{
    toy_script script;
    spc_engine *engine;

    toy_script_begin(&script);
    pair.chance = &script.chance;
    engine = toy_engine(&pair);
    memset(law, 0, SEQUENCES * sizeof *law);
    do {
        spc_session_options o = options_of(rule, 2, 1);
        decoded d;

        o.max_tokens = LENGTH;
        o.ignore_stop = true;
        toy_script_run(&script);
        d = decode(engine, &o, &start);
        cr_assert_eq(d.count, LENGTH, "%s: %s", rule, d.error.message);
        law[index_of(d.token)] += script.probability;
    } while (toy_script_next(&script));
    spc_engine_close(engine);
}

/* The product of the rows' targets under a one-round rule. */
static double product(const toy_pair *pair, const char *rule, const int32_t *token)
{
    toy_law law = {rule, 1, true};
    int32_t prefix[8] = {1, 0};
    double pi[TOY_VOCAB], probability = 1;

    for (int32_t i = 0; i < LENGTH; i++) {
        toy_target(pair, &law, prefix, 2 + i, pi);
        probability *= pi[token[i]];
        prefix[2 + i] = token[i];
    }
    return probability;
}

static void sequence_of(int32_t index, int32_t token[LENGTH])
{
    token[0] = index / 9;
    token[1] = index / 3 % 3;
    token[2] = index % 3;
}

Test(host_sequential, token_chow_has_the_law_of_chow)
{
    static const char *const pairs[][2] = {
        {"token-chow:alpha=0.3", "chow:alpha=0.3"},
        {"token-chow:alpha=0.5", "chow:alpha=0.5"},
        {"token-chow:alpha=0.6,gate=processed", "chow:alpha=0.6,gate=processed"}};

    for (uint64_t seed = 1; seed <= 6; seed++) {
        toy_pair pair = {
            .seed = seed, .vocab = VOCAB, .context = 16, .sessions = 1, .spread = 1.5f};

        for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
            double law[SEQUENCES], distance = 0;

            enumerate(pairs[k][0], pair, law);
            for (int32_t i = 0; i < SEQUENCES; i++) {
                int32_t token[LENGTH];

                sequence_of(i, token);
                distance += fabs(law[i] - product(&pair, pairs[k][1], token));
            }
            cr_expect_lt(distance, 1e-6, "%s, pair %d: %g", pairs[k][0], (int)seed, distance);
        }
    }
}

/* seq-chow: the drafter's sequence where it is sure of it, otherwise a new one of the verifier's.
 */
Test(host_sequential, seq_chow_keeps_sure_sequences_and_lets_the_verifier_write_the_others)
{
    static const double alphas[] = {0.4, 0.5, 0.6};
    int32_t decisive = 0;

    for (uint64_t seed = 1; seed <= 4; seed++) {
        toy_pair pair = {.seed = seed, .vocab = VOCAB, .context = 16, .sessions = 1, .spread = 4};

        for (size_t k = 0; k < sizeof alphas / sizeof *alphas; k++) {
            double law[SEQUENCES], dropped = 0, distance = 0, kept[SEQUENCES];
            char rule[64];

            (void)snprintf(rule, sizeof rule, "seq-chow:alpha=%g", alphas[k]);
            enumerate(rule, pair, law);
            for (int32_t i = 0; i < SEQUENCES; i++) {
                int32_t token[LENGTH];
                double q;

                sequence_of(i, token);
                q = product(&pair, "drafter-only", token); /* T = 1: the gate's row as well */
                kept[i] = exp(log(q) / LENGTH) >= 1 - alphas[k] ? q : 0;
                dropped += q - kept[i];
            }
            decisive += dropped > 0.01 && dropped < 0.99;
            for (int32_t i = 0; i < SEQUENCES; i++) {
                int32_t token[LENGTH];

                sequence_of(i, token);
                distance +=
                    fabs(law[i] - kept[i] - dropped * product(&pair, "verifier-only", token));
            }
            cr_expect_lt(distance, 1e-6, "%s, pair %d: %g", rule, (int)seed, distance);
        }
    }
    cr_expect_gt(decisive, 5, "some sequences are kept and some are not");
}

/* ---- ends -------------------------------------------------------------------------------------
 */

static void expect_same(const char *rule, const char *other, float temperature)
{
    static const char *const texts[] = {"<s><2de>Where is my coat?<sep>",
                                        "<s><2fr>The children are playing in the garden.<sep>",
                                        "<s><2es>He opened the letter and began to read.<sep>"};
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 1);

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        prompt p = prompt_of(engine, texts[i]);
        spc_session_options o = options_of(rule, 3, temperature);
        decoded a, b;

        o.max_tokens = 40;
        o.seed = 5 + i;
        a = decode(engine, &o, &p);
        o.rule = other;
        b = decode(engine, &o, &p);
        cr_expect(same_tokens(&a, &b), "%s and %s at %g: text %d", rule, other, (double)temperature,
                  (int)i);
        cr_expect_eq(a.stats.output_hash, b.stats.output_hash);
    }
    spc_engine_close(engine);
}

Test(host_sequential, the_ends_of_alpha_are_one_model_alone)
{
    for (int t = 0; t < 2; t++) {
        expect_same("token-chow:alpha=1", "drafter-only", (float)t);
        expect_same("seq-chow:alpha=1", "drafter-only", (float)t);
        expect_same("token-chow:alpha=0", "verifier-only", (float)t);
        expect_same("seq-chow:alpha=0", "verifier-only", (float)t);
    }
}

Test(host_sequential, greedy_token_chow_writes_what_chow_writes)
{
    expect_same("token-chow:alpha=0.3", "chow:alpha=0.3", 0);
    expect_same("token-chow:alpha=0.7", "chow:alpha=0.7", 0);
    expect_same("token-chow:alpha=0.7,gate=processed", "chow:alpha=0.7,gate=processed", 0);
}

/* Greedy, the target is one token: drafts and their number do not matter. */
Test(host_sequential, greedy_token_chow_writes_what_chow_writes_with_any_gamma)
{
    int32_t mixed = 0;

    for (int32_t c = 0; c < 6 * 9 * 4; c++) {
        toy_pair pair = {
            .seed = 1 + (uint64_t)c % 6, .vocab = 8, .context = 48, .sessions = 1, .spread = 4};
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_of(NULL, c / 54, 0);
        char rule[64];
        decoded chow, token;

        (void)snprintf(rule, sizeof rule, "token-chow:alpha=0.%d", 1 + c / 6 % 9);
        o.rule = rule;
        token = decode(engine, &o, &start);
        o.rule = rule + strlen("token-");
        chow = decode(engine, &o, &start);
        cr_assert(same_tokens(&token, &chow), "%s, gamma %d", rule, (int)o.gamma);
        mixed += token.stats.verifier_calls > 0 && token.stats.verifier_calls < token.count;
        spc_engine_close(engine);
    }
    cr_expect_gt(mixed, 50, "both models write");
}

/* exp(mean ln q(y)) of a sequence behind the start, from the tables. */
static double confidence(const toy_pair *pair, const decoded *d, double temperature)
{
    int32_t x[64] = {1, 0};
    double sum = 0;

    for (int32_t i = 0; i < d->count; i++) {
        float z[TOY_VOCAB];
        double all = 0;

        toy_logits(pair, true, x, start.count + i, z);
        for (int32_t v = 0; v < pair->vocab; v++) all += exp((double)z[v] / temperature);
        x[start.count + i] = d->token[i];
        sum += (double)z[d->token[i]] / temperature - log(all);
    }
    return exp(sum / d->count);
}

/* The gate's rows are unscaled unless the rule says otherwise; the stop token counts. */
Test(host_sequential, seq_chow_turns_where_the_confidence_crosses_its_threshold)
{
    int32_t stopped = 0;

    for (int32_t c = 0; c < 40 * 3; c++) {
        toy_pair pair = {
            .seed = 1 + (uint64_t)c / 3, .vocab = 8, .context = 40, .sessions = 1, .spread = 5};
        float temperature = (float[]){1, 0.6f, 0}[c % 3];
        bool processed = c % 3 == 1 && c % 2;
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_of("drafter-only", 2, temperature);
        decoded drafter, verifier;

        o.seed = (uint64_t)c;
        o.max_tokens = 9;
        toy_stop_at(engine, c % 8);
        drafter = decode(engine, &o, &start);
        o.rule = "verifier-only";
        verifier = decode(engine, &o, &start);
        stopped += drafter.finish == SPC_FINISH_STOP_TOKEN;
        for (int side = -1; side <= 1; side += 2) {
            double sure = confidence(&pair, &drafter, processed ? (double)temperature : 1);
            char rule[64];
            decoded d;

            (void)snprintf(rule, sizeof rule, "seq-chow:alpha=%.6f%s", 1 - sure + side * 1e-4,
                           processed ? ",gate=processed" : "");
            o.rule = rule;
            d = decode(engine, &o, &start);
            cr_expect(same_tokens(&d, side > 0 ? &drafter : &verifier), "%s: %g", rule, sure);
            cr_expect_eq(d.stats.discarded, side > 0 ? 0 : drafter.count);
            cr_expect_eq(d.stats.drafter_calls, drafter.count);
        }
        spc_engine_close(engine);
    }
    cr_expect(stopped > 20 && stopped < 120);
}

/* ---- what is told, what it costs --------------------------------------------------------------
 */

Test(host_sequential, only_kept_tokens_are_told_and_calls_are_those_that_were_made)
{
    static const char *const rules[] = {"token-chow:alpha=0.5", "seq-chow:alpha=0.87",
                                        "seq-chow:alpha=0", "token-chow:alpha=0"};
    toy_pair pair = {.seed = 3, .vocab = 8, .context = 40, .sessions = 1, .spread = 2};
    spc_engine *engine = toy_engine(&pair);
    int32_t kept = 0, dropped = 0;

    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        for (uint64_t seed = 0; seed < 20; seed++) {
            spc_session_options o = options_of(rules[r], 3, 1);
            token_log l = {0};
            decoded d;

            o.max_tokens = 12;
            o.seed = seed;
            o.on_token = log_token;
            o.user = &l;
            d = decode(engine, &o, &start);
            cr_assert_eq(l.told, d.count);
            cr_assert(memcmp(l.token, d.token, (size_t)d.count * sizeof *d.token) == 0);
            if (rules[r][0] == 't') {
                cr_expect_eq(d.stats.verifier_calls, l.deferred);
                cr_expect_eq(l.origin[SPC_TOKEN_BONUS], l.deferred);
                cr_expect_eq(l.origin[SPC_TOKEN_ACCEPTED], d.count - l.deferred);
                cr_expect_eq(d.stats.drafter_calls, d.count);
                cr_expect_eq(d.stats.accepted[0] + d.stats.deferred[0], d.count);
            } else if (d.stats.discarded > 0) {
                dropped++;
                cr_expect_eq(d.stats.verifier_calls, d.count);
            } else {
                cr_expect_eq(d.stats.verifier_calls, 0);
                kept++;
            }
        }
    }
    cr_expect(kept > 5 && dropped > 25, "%d kept, %d dropped", (int)kept, (int)dropped);
    spc_engine_close(engine);
}

/* After any number of steps the caches hold at most what is decided and not pending. */
Test(host_sequential, the_caches_lag_and_never_lead)
{
    toy_pair pair = {.seed = 9, .vocab = 8, .context = 40, .sessions = 1, .spread = 2};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("token-chow:alpha=0.7", 3, 1);
    spc_session *s = open_session(engine, &o, &start);
    int32_t behind = 0;

    while (spc_session_finish(s) == SPC_FINISH_RUNNING) {
        int32_t verifier, deferred = (int32_t)s->counters.deferred[0];

        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        verifier = engine->ops->length(engine->verifier.runner, s->slot);
        cr_expect_eq(engine->ops->length(engine->drafter.runner, s->slot), s->length - 1);
        cr_expect_leq(verifier, s->length - 1);
        if (s->counters.deferred[0] > deferred) cr_expect_eq(verifier, s->length - 1);
        behind += verifier < s->length - 1;
    }
    cr_expect_gt(behind, 3, "the verifier is not called for every token");
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_sequential, a_verifier_that_is_not_needed_is_not_run)
{
    toy_pair pair = {.seed = 9, .vocab = 8, .context = 40, .sessions = 1, .spread = 2};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("token-chow:alpha=1", 3, 1);

    cr_expect_eq(decode(engine, &o, &start).count, 38);
    o.rule = "seq-chow:alpha=1";
    cr_expect_eq(decode(engine, &o, &start).count, 38);
    cr_expect_eq(toy_rows(engine->verifier.runner), 0);
    spc_engine_close(engine);
}

/* seq-chow has not told anything while it drafts; a kept sequence is cut where it is unwanted. */
Test(host_sequential, a_drafted_sequence_can_be_cancelled_and_cut)
{
    toy_pair pair = {.seed = 9, .vocab = 8, .context = 40, .sessions = 1, .spread = 2};
    spc_engine *engine = toy_engine(&pair);
    token_log l = {.most = 3};
    spc_session_options o = options_of("seq-chow:alpha=1", 3, 1);
    spc_session *s;
    decoded d;

    o.max_tokens = 10;
    o.on_token = log_token;
    o.user = &l;
    s = open_session(engine, &o, &start);
    for (int i = 0; i < 9; i++) cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    cr_expect_eq(l.told, 0, "nothing is decided");
    d = decoded_of(s);
    cr_expect_eq(d.count, 0);
    spc_session_cancel(s);
    cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
    cr_expect(spc_session_finish(s) == SPC_FINISH_CANCELLED && l.told == 0);
    spc_session_close(s);

    d = decode(engine, &o, &start);
    cr_expect(d.finish == SPC_FINISH_CANCELLED && d.count == 3 && l.told == 3);
    cr_expect(d.stats.discarded == 7 && d.stats.verified[0] == 3 && d.stats.accepted[0] == 3);
    spc_engine_close(engine);
}

Test(host_sequential, a_stop_string_cuts_the_drafters_sequence)
{
    static const char *const stop[] = {"n"};
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 1);
    prompt p = prompt_of(engine, "<s><2de>The children are playing in the garden.<sep>");
    spc_session_options o = options_of("drafter-only", 3, 0);
    decoded whole, plain, d;
    token_log l = {0};

    whole = decode(engine, &o, &p);
    o.stop = stop;
    o.stop_count = 1;
    plain = decode(engine, &o, &p);
    o.rule = "seq-chow:alpha=1";
    o.on_token = log_token;
    o.user = &l;
    d = decode(engine, &o, &p);
    cr_expect_eq(d.finish, SPC_FINISH_STOP_STRING);
    cr_expect(same_tokens(&d, &plain) && d.count < whole.count && l.told == d.count);
    cr_expect_eq(d.stats.discarded, whole.count - d.count);
    cr_expect_eq(d.stats.accepted[0], d.count);
    spc_engine_close(engine);
}

Test(host_sequential, a_stop_token_and_the_budget_end_the_drafters_sequence)
{
    toy_pair pair = {.seed = 4, .vocab = 8, .context = 20, .sessions = 1, .spread = 2};
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("seq-chow:alpha=1", 3, 0);
    decoded free_run, stopped;

    free_run = decode(engine, &o, &start);
    cr_expect_eq(free_run.finish, SPC_FINISH_CONTEXT);
    cr_expect_eq(free_run.count, 18);
    o.max_tokens = 5;
    stopped = decode(engine, &o, &start);
    cr_expect_eq(stopped.finish, SPC_FINISH_MAX_TOKENS);
    cr_expect(stopped.count == 5 && begins_with(&stopped, &free_run, 5));
    toy_stop_at(engine, free_run.token[3]);
    o.max_tokens = 0;
    stopped = decode(engine, &o, &start);
    cr_expect_eq(stopped.finish, SPC_FINISH_STOP_TOKEN);
    cr_expect_leq(stopped.count, 4);
    spc_engine_close(engine);
}

Test(host_sequential, a_bad_row_names_its_model)
{
    static const struct {
        const char *rule;
        int32_t drafter, verifier;
        const char *word;
    } cases[] = {{"token-chow:alpha=0.5", 5, 0, "drafter"},
                 {"token-chow:alpha=0", 0, 5, "verifier"},
                 {"seq-chow:alpha=0.5", 5, 0, "drafter"},
                 {"seq-chow:alpha=0", 0, 5, "verifier"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        toy_pair pair = {.seed = 2,
                         .vocab = 8,
                         .context = 20,
                         .sessions = 1,
                         .spread = 2,
                         .bad_drafter = cases[i].drafter,
                         .bad_verifier = cases[i].verifier};
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_of(cases[i].rule, 3, 1);
        decoded d = decode(engine, &o, &start);

        cr_expect_eq(d.status, SPC_ENUMERIC, "%s", cases[i].rule);
        cr_expect_not_null(strstr(d.error.message, cases[i].word), "%s", d.error.message);
        cr_expect_leq(d.count, 3);
        spc_engine_close(engine);
    }
}

/* A bad row that is read ends the sequence in front of its token; one that is not changes nothing.
 * bild-dynamic: the drafts before it are seen first, and one behind a rollback is not read. */
Test(host_sequential, tokens_before_a_bad_row_are_kept)
{
    static const char *const rules[] = {
        "token-chow:alpha=0.7", "token-chow:alpha=0", "token-chow:alpha=1",
        "bild-dynamic:fallback=0.3,rollback=1.5,window=4", "bild-dynamic:fallback=0,rollback=50"};
    int32_t failed[5] = {0}, harmless = 0;

    for (int32_t c = 0; c < 5 * 2 * 12 * 6; c++) {
        bool drafter = c / 5 % 2;
        int32_t at = start.count + c / 10 % 12;
        toy_pair pair = {
            .seed = 1 + (uint64_t)c / 120, .vocab = 8, .context = 40, .sessions = 1, .spread = 3};
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_of(rules[c % 5], 0, c % 5 < 3 ? 1 : 0);
        char word[64];
        decoded clean, d;

        o.max_tokens = 30;
        clean = decode(engine, &o, &start);
        *(drafter ? &pair.bad_drafter : &pair.bad_verifier) = at; /* read at every row */
        d = decode(engine, &o, &start);
        (void)snprintf(word, sizeof word, "%s: logits for position %d hold",
                       drafter ? "drafter" : "verifier", (int)at);
        if (d.status == SPC_OK) {
            cr_expect(same_tokens(&d, &clean), "%s", o.rule);
            harmless++;
        } else {
            cr_expect_eq(strncmp(d.error.message, word, strlen(word)), 0, "%s", d.error.message);
            cr_expect_eq(d.count, at - start.count, "%s: %s", o.rule, d.error.message);
            cr_expect(begins_with(&d, &clean, d.count), "%s", o.rule);
            failed[c % 5]++;
        }
        spc_engine_close(engine);
    }
    for (int i = 0; i < 5; i++) cr_expect_gt(failed[i], 20, "%s", rules[i]);
    cr_expect_gt(harmless, 50);
}

/* ---- company ----------------------------------------------------------------------------------
 */

static const char *const party[] = {"token-chow:alpha=0.85",
                                    "strict",
                                    "seq-chow:alpha=0.9",
                                    "drafter-only",
                                    "bild-dynamic:fallback=0.15,rollback=3",
                                    "seq-chow:alpha=0.9",
                                    "token-chow:alpha=0.8",
                                    "verifier-only",
                                    "bild-dynamic:fallback=0.2,rollback=1,window=3",
                                    "seq-chow:alpha=0.9,gate=processed"};
enum { PARTY = sizeof party / sizeof *party };

static spc_session_options member(int32_t i, uint64_t seed)
{
    spc_session_options o = options_of(party[i], 3, party[i][0] == 'b' ? 0 : 1);

    o.seed = 70u + (uint64_t)i + 100u * seed;
    o.max_tokens = 15;
    return o;
}

/* All in one step each time, until the last has ended. */
static void run_together(spc_engine *engine, spc_session **sessions)
{
    bool running = true;

    while (running) {
        running = false;
        cr_assert_eq(spc_engine_step(engine, sessions, PARTY, NULL), SPC_OK);
        for (int32_t i = 0; i < PARTY; i++) {
            running = running || spc_session_finish(sessions[i]) == SPC_FINISH_RUNNING;
        }
    }
}

Test(host_sequential, tokens_do_not_depend_on_company)
{
    toy_pair pair = {.seed = 8, .vocab = 12, .context = 40, .sessions = PARTY, .spread = 2};
    spc_engine *engine = toy_engine(&pair);
    int32_t dropped = 0;

    for (uint64_t seed = 0; seed < 20; seed++) {
        spc_session *sessions[PARTY];
        decoded alone[PARTY];

        for (int32_t i = 0; i < PARTY; i++) {
            spc_session_options o = member(i, seed);

            alone[i] = decode(engine, &o, &start);
            dropped += i == 5 && alone[i].stats.discarded > 0;
        }
        for (int32_t i = 0; i < PARTY; i++) {
            spc_session_options o = member(i, seed);

            sessions[i] = open_session(engine, &o, &start);
        }
        run_together(engine, sessions);
        for (int32_t i = 0; i < PARTY; i++) {
            decoded d = decoded_of(sessions[i]);

            cr_expect(same_tokens(&d, &alone[i]), "%s", party[i]);
            cr_expect_eq(d.stats.discarded, alone[i].stats.discarded, "%s", party[i]);
            cr_expect_eq(d.stats.verifier_calls, alone[i].stats.verifier_calls, "%s", party[i]);
            spc_session_close(sessions[i]);
        }
    }
    cr_expect(dropped > 3 && dropped < 17, "%d of 20 dropped", (int)dropped);
    spc_engine_close(engine);
}
