/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_gamma.c - gamma auto: what is chosen follows times and verdicts, costs little where
 * drafts are hopeless, and leaves greedy text as it is. */
#include "toygamma.h"

#include <math.h>

/* A drafter at a fifth of the verifier's time, rows at a hundredth of it. */
static const toy_clock usual = {0, 200, 1, 1000, 10};

/* Steps of one session until it has so many tokens; the clock's time per token. */
static double run_to(spc_session *s, const toy_clock *clock, int32_t tokens)
{
    uint64_t start = clock->now_ns;
    int32_t before, count;

    (void)spc_session_tokens(s, &before);
    count = before;
    while (count < tokens && spc_session_finish(s) == SPC_FINISH_RUNNING) {
        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        (void)spc_session_tokens(s, &count);
    }
    return (double)(clock->now_ns - start) / (count - before);
}

/* A session by itself on an engine that runs by a toy's clock. */
static spc_session *open_timed(toy_pair *pair, toy_clock *clock, const spc_session_options *o)
{
    prompt p = prompt_made(5, pair->vocab, 3);

    pair->clock = clock;
    return open_session(toy_engine(pair), o, &p);
}

/* Whatever was chosen, and why: each round has one length. */
static void close_timed(spc_session *s)
{
    spc_engine *engine = s->engine;
    int64_t chosen = 0;

    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) chosen += s->counters.chosen[g];
    if (s->gamma == SPC_GAMMA_AUTO) cr_expect_eq(chosen, s->counters.rounds);
    spc_session_close(s);
    spc_engine_close(engine);
}

/* Time per token of a session with this gamma on a pair, after so many tokens of warming up. */
static double time_by(toy_clock clock, toy_pair pair, const char *rule, int32_t gamma,
                      spc_bonus_mode bonus, spc_stats *stats)
{
    spc_session_options o = options_of(rule, gamma, 1);
    spc_session *s;
    double time;

    o.bonus = bonus;
    s = open_timed(&pair, &clock, &o);
    (void)run_to(s, &clock, 200);
    time = run_to(s, &clock, 1200);
    *stats = stats_of(s);
    close_timed(s);
    return time;
}

static double time_of(toy_pair pair, const char *rule, int32_t gamma, spc_stats *stats)
{
    return time_by(usual, pair, rule, gamma, SPC_BONUS_TARGET, stats);
}

/* ---- what is chosen ---- */

/* Over every kind of pair, within what a thousand tokens tell: texts differ, and so do their
 * verdicts. */
Test(host_gamma, the_chosen_lengths_are_about_as_fast_as_the_best_fixed_one)
{
    const toy_pair pairs[] = {pair_of(1, false, false), pair_of(3, false, false),
                              pair_of(6, false, false), pair_of(8, false, true),
                              pair_of(6, true, false)};
    static const char *const rules[] = {"strict", "token-v3:alpha=0.6"};

    for (size_t k = 0; k < 2 * sizeof pairs / sizeof *pairs; k++) {
        const toy_pair *pair = &pairs[k / 2];
        const char *rule = rules[k % 2];
        double best = INFINITY, chosen;
        spc_stats stats;

        for (int32_t gamma = 0; gamma <= SPC_GAMMA_MAX; gamma += gamma < 4 ? 1 : 4) {
            best = fmin(best, time_of(*pair, rule, gamma, &stats));
        }
        chosen = time_of(*pair, rule, SPC_GAMMA_AUTO, &stats);
        cr_expect_lt(chosen, best * 1.08, "%s, pair %d: %g ns a token, best fixed %g", rule,
                     (int)(k / 2), chosen, best);
    }
}

Test(host_gamma, hopeless_drafts_cost_strict_one_percent)
{
    const toy_pair pair = pair_of(40, false, true);
    spc_stats stats;
    double plain = time_of(pair, "strict", 0, &stats);
    double chosen = time_of(pair, "strict", SPC_GAMMA_AUTO, &stats);

    cr_expect_lt(chosen, plain * 1.0101, "%g ns a token, plain %g", chosen, plain);
    cr_expect_gt(stats.probes, 0, "it looks now and then whether they are still hopeless");
    cr_expect_gt(stats.chosen[0], stats.rounds - 40, "%d of %d, %d probes", (int)stats.chosen[0],
                 (int)stats.rounds, (int)stats.probes);
    cr_expect_gt(stats.catch_up, 0);
}

Test(host_gamma, drafts_that_are_always_kept_are_as_many_as_pay)
{
    toy_clock clock = usual;
    toy_pair pair = pair_of(6, true, false);
    spc_session_options o = auto_options("strict", 1, 1);
    spc_session *s = open_timed(&pair, &clock, &o);
    spc_engine *engine = s->engine;
    spc_gamma_facts facts;

    cr_expect_not(spc_engine_gamma(engine, &facts));
    cr_expect_eq(facts.draft_ns, 0);
    (void)run_to(s, &clock, 1);
    cr_expect(spc_engine_gamma(engine, &facts));
    cr_expect_float_eq(facts.plain_ns, 1010, 1);
    cr_expect_float_eq(facts.draft_ns, 201, 1);
    cr_expect_float_eq(facts.break_even, 0.21, 0.02);
    cr_expect_float_eq(facts.acceptance, 0.7, 0.1);
    (void)run_to(s, &clock, 1000);
    cr_expect(spc_engine_gamma(engine, &facts));
    cr_expect_float_eq(facts.acceptance, 1, 0.03);
    cr_expect_eq(facts.gamma, SPC_GAMMA_MAX);
    cr_expect_float_eq(facts.factor, 17 * 1010.0 / (16 * 201 + 1170), 0.5);
    cr_expect_gt(stats_of(s).chosen[SPC_GAMMA_MAX] + stats_of(s).chosen[SPC_GAMMA_MAX - 1], 40,
                 "one more is worth less than what a change must promise");
    cr_expect_leq(stats_of(s).probes, 1, "a look at plain decoding in 128 rounds");
    close_timed(s);
}

/* Three verdicts of bad luck at the beginning, where drafting pays from 0.6 on. */
Test(host_gamma, drafting_goes_on_where_little_is_known_yet)
{
    toy_clock clock = {0, 590, 1, 1000, 10};
    toy_pair pair = pair_of(6, true, false);
    spc_session_options o = auto_options("strict", 1, 1);
    spc_session *s = open_timed(&pair, &clock, &o);

    (void)run_to(s, &clock, 1);
    for (int i = 0; i < 3; i++) spc_gamma_judged(s, 1, 0);
    (void)run_to(s, &clock, 60);
    cr_expect_leq(stats_of(s).chosen[0], 2, "%d of %d", (int)stats_of(s).chosen[0],
                  (int)stats_of(s).rounds);
    close_timed(s);
}

/* A text that the drafter knows follows one that it does not: it is found out, wherever the bonus
 * comes from.  `plain`: time of a token without drafts. */
static void expect_found_out(const char *rule, spc_bonus_mode bonus, toy_clock clock, double plain)
{
    toy_pair pair = pair_of(40, false, true);
    spc_session_options o = auto_options(rule, 1, 1);
    spc_session *s;
    double good, again;

    o.bonus = bonus;
    s = open_timed(&pair, &clock, &o);
    (void)run_to(s, &clock, 200);
    cr_expect_lt(run_to(s, &clock, 1000), plain * 1.02, "%s: drafts were hopeless", rule);
    pair.reversed = false;
    pair.equal = true;
    (void)run_to(s, &clock, 2500);
    good = run_to(s, &clock, 3500);
    cr_expect_lt(good, plain * 0.6, "%s: %g ns a token, plain %g", rule, good, plain);
    pair.reversed = true;
    pair.equal = false;
    (void)run_to(s, &clock, 3700);
    again = run_to(s, &clock, 4000);
    cr_expect_eq(stats_of(s).probes > 0, bonus != SPC_BONUS_STEP, "which tells without");
    cr_expect_lt(again, plain * 1.03, "%s: %g ns a token, plain %g", rule, again, plain);
    close_timed(s);
}

Test(host_gamma, drafting_begins_again_where_it_pays_again)
{
    const toy_clock dear_rows = {0, 100, 1, 1000, 300};

    expect_found_out("strict", SPC_BONUS_TARGET, usual, 1010);
    expect_found_out("strict", SPC_BONUS_STEP, usual, 1211);
    expect_found_out("token-v3:alpha=0.6", SPC_BONUS_TARGET, dear_rows, 1401);
    expect_found_out("token-v3:alpha=0.6", SPC_BONUS_STEP, dear_rows, 1401);
}

/* Rounds in flight have the length of the one before; those that tell nothing of drafts count, and
 * no other is sent along where it is time to try. */
static void expect_counted(const char *rule, spc_bonus_mode bonus, toy_clock clock, bool counts)
{
    toy_pair pair = pair_of(40, false, true);
    spc_session_options o = auto_options(rule, 1, 1);
    spc_session *s;
    spc_engine *engine;
    int32_t idle, tries = 0;

    o.bonus = bonus;
    s = open_timed(&pair, &clock, &o);
    engine = s->engine;
    (void)run_to(s, &clock, 1000);
    s->in_flight = true;
    s->round_gamma = 2;
    idle = s->choice.probe.idle;
    cr_assert_eq(spc_gamma_choose(engine, &s, 1, NULL), SPC_OK);
    cr_expect_eq(s->choice.probe.idle, idle);
    s->round_gamma = 0;
    for (int32_t i = 0; i < 3; i++) cr_assert_eq(spc_gamma_choose(engine, &s, 1, NULL), SPC_OK);
    cr_expect_eq(s->choice.probe.idle, idle + (counts ? 3 : 0), "%s, bonus %d", rule, (int)bonus);
    while (counts && tries++ < SPC_PROBE_LAST && spc_gamma_stays(engine, &s, 1)) {
        cr_assert_eq(spc_gamma_choose(engine, &s, 1, NULL), SPC_OK);
    }
    cr_expect(!counts || tries < SPC_PROBE_LAST);
    s->in_flight = false;
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_gamma, rounds_in_flight_count_towards_the_next_try)
{
    const toy_clock dear_rows = {0, 100, 1, 1000, 300};

    expect_counted("strict", SPC_BONUS_TARGET, usual, true);
    expect_counted("strict", SPC_BONUS_STEP, usual, false);
    expect_counted("token-v3:alpha=0.6", SPC_BONUS_TARGET, dear_rows, true);
}

/* A drafter that hardly pays for itself, but whose last row is read whatever is drafted. */
Test(host_gamma, a_row_that_is_read_anyway_speaks_for_drafting)
{
    static const toy_clock dear = {0, 800, 1, 1000, 10};
    const toy_pair pair = pair_of(3, false, false);
    spc_stats stats;

    for (int bonus = SPC_BONUS_TARGET; bonus <= SPC_BONUS_STEP; bonus++) {
        double plain, one, chosen;

        if (bonus == SPC_BONUS_VERIFIER) continue;
        plain = time_by(dear, pair, "chow:alpha=0.3", 0, (spc_bonus_mode)bonus, &stats);
        one = time_by(dear, pair, "chow:alpha=0.3", 1, (spc_bonus_mode)bonus, &stats);
        chosen =
            time_by(dear, pair, "chow:alpha=0.3", SPC_GAMMA_AUTO, (spc_bonus_mode)bonus, &stats);
        cr_expect_lt(one, plain * 0.95);
        cr_expect_lt(chosen, one * 1.02, "bonus %d: %g ns a token, %g with one draft", bonus,
                     chosen, one);
        cr_expect_gt(time_by(dear, pair, "strict", 1, SPC_BONUS_TARGET, &stats), 1010 * 1.05,
                     "where it is not read, none pays");
    }
}

/* A machine that was busy when it was measured: what is not seen in rounds is looked at. */
Test(host_gamma, a_time_that_was_measured_wrong_is_put_right)
{
    toy_clock clock = {0, 800, 1, 1000, 10};
    toy_pair pair = pair_of(3, false, false);
    spc_session_options o = auto_options("strict", 1, 1);
    spc_session *s = open_timed(&pair, &clock, &o);

    (void)run_to(s, &clock, 1);
    s->engine->gamma.times.verifier.time[0] *= 3; /* plain decoding looks slow */
    (void)run_to(s, &clock, 1000);
    cr_expect_lt(run_to(s, &clock, 2000), 1010 * 1.03);
    close_timed(s);
}

/* The same drafts, but a drafter as slow as the verifier. */
Test(host_gamma, an_expensive_drafter_is_not_used)
{
    toy_clock clock = {0, 1000, 10, 1000, 10};
    toy_pair pair = pair_of(6, true, false);
    spc_session_options o = auto_options("strict", 1, 1);
    spc_session *s = open_timed(&pair, &clock, &o);

    cr_expect_lt(run_to(s, &clock, 1000), 1010 * 1.0101 + 40);
    cr_expect_gt(stats_of(s).chosen[0], 900);
    close_timed(s);
}

/* Eight together, one of them with good drafts: nobody is slower than without drafts. */
Test(host_gamma, a_batch_is_no_slower_than_without_drafts)
{
    double time[2];

    for (int plain = 0; plain < 2; plain++) {
        toy_clock clock = usual;
        toy_pair pair = pair_of(4, false, false);
        spc_session *s[8];
        prompt p[8];
        int32_t tokens = 0, count;

        pair.sessions = 8;
        pair.clock = &clock;
        spc_engine *engine = toy_engine(&pair);

        for (int k = 0; k < 8; k++) {
            spc_session_options o =
                auto_options(plain ? "verifier-only" : "strict", 1, (uint64_t)(7 + k));

            p[k] = prompt_made(3 + k, pair.vocab, 3u + (uint32_t)k);
            s[k] = open_session(engine, &o, &p[k]);
        }
        for (int step = 0; step < 400; step++) {
            cr_assert_eq(spc_engine_step(engine, s, 8, NULL), SPC_OK);
        }
        for (int k = 0; k < 8; k++) {
            (void)spc_session_tokens(s[k], &count);
            tokens += count;
            spc_session_close(s[k]);
        }
        time[plain] = (double)clock.now_ns / tokens;
        spc_engine_close(engine);
    }
    cr_expect_lt(time[0], time[1] * 1.01, "%g ns a token, plain %g", time[0], time[1]);
}

/* ---- the same text ---- */

Test(host_gamma, greedy_text_is_that_of_any_fixed_length)
{
    for (int kind = 0; kind < 4; kind++) {
        toy_clock clock = usual;
        toy_pair pair = pair_of(6, kind == 1, kind == 2);
        prompt p = prompt_made(5, pair.vocab, 3);

        pair.clock = kind == 3 ? NULL : &clock; /* the machine's: whatever it makes of the toy */
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = auto_options("strict", 0, 1), fixed = options_of("strict", 5, 0);

        o.max_tokens = fixed.max_tokens = 400;

        decoded a = decode(engine, &o, &p), b = decode(engine, &fixed, &p);

        cr_expect(same_tokens(&a, &b), "pair %d", kind);
        cr_expect_eq(b.stats.chosen[5], 0);
        spc_engine_close(engine);
    }
}

/* Where every token is a function of (prefix, seed, position) lengths do not matter at any
 * temperature. */
Test(host_gamma, with_bonus_step_a_seed_gives_one_text)
{
    toy_clock clock = usual;
    toy_pair pair = pair_of(3, false, false);
    prompt p = prompt_made(5, pair.vocab, 3);

    pair.clock = &clock;
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = auto_options("token-v3:alpha=0.4", 1, 9), fixed;

    o.bonus = SPC_BONUS_STEP;
    o.max_tokens = 300;
    fixed = o;
    fixed.gamma = 4;

    decoded a = decode(engine, &o, &p), b = decode(engine, &fixed, &p);

    cr_expect(same_tokens(&a, &b));
    cr_expect_neq(a.stats.rounds, b.stats.rounds, "the lengths did differ");
    spc_engine_close(engine);
}

/* A round at the end of the budget or the context drafts no more than fits. */
Test(host_gamma, a_chosen_length_fits_budget_and_context)
{
    toy_clock clock = usual;
    toy_pair pair = pair_of(6, true, false);

    pair.clock = &clock;
    for (int32_t left = 1; left < 24; left++) {
        spc_session_options o = auto_options("strict", 1, 1);
        prompt p = prompt_made(40, pair.vocab, 3);
        decoded d;

        o.max_tokens = left % 2 ? left : 0;
        pair.context = left % 2 ? CONTEXT : 40 + left;
        spc_engine *engine = toy_engine(&pair);

        d = decode(engine, &o, &p);
        cr_expect_eq(d.count, left);
        cr_expect_eq(d.finish, left % 2 ? SPC_FINISH_MAX_TOKENS : SPC_FINISH_CONTEXT);
        spc_engine_close(engine);
    }
}

/* ---- what sessions learn from each other ---- */

Test(host_gamma, a_session_begins_with_what_those_of_other_seeds_saw)
{
    toy_clock clock = usual;
    toy_pair pair = pair_of(40, false, true);
    prompt p = prompt_made(5, pair.vocab, 3);

    pair.clock = &clock;
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = auto_options("strict", 1, 1);
    decoded first, same, other, greedy;

    o.max_tokens = 16; /* fewer rounds than before a probe */
    first = decode(engine, &o, &p);
    cr_expect_lt(first.stats.chosen[0], first.stats.rounds);
    same = decode(engine, &o, &p);
    cr_expect(same_tokens(&first, &same), "its own noise tells it nothing");
    cr_expect_eq(same.stats.chosen[0], first.stats.chosen[0]);
    o.seed = 2;
    other = decode(engine, &o, &p);
    cr_expect_gt(other.stats.chosen[0], first.stats.chosen[0]);
    for (o.seed = 3; o.seed < 20; o.seed++) other = decode(engine, &o, &p);
    cr_expect_geq(other.stats.chosen[0] + other.stats.probes, other.stats.rounds,
                  "by now it is known from the start: %d of %d", (int)other.stats.chosen[0],
                  (int)other.stats.rounds);
    o.temperature = 0;
    o.seed = 1;
    greedy = decode(engine, &o, &p);
    cr_expect_geq(greedy.stats.chosen[0] + greedy.stats.probes, greedy.stats.rounds,
                  "nothing is random here");
    spc_engine_close(engine);
}

Test(host_gamma, a_restarted_session_forgets_what_it_saw)
{
    toy_clock clock = usual;
    toy_pair pair = pair_of(40, false, true);
    prompt p = prompt_made(5, pair.vocab, 3);

    pair.clock = &clock;
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = auto_options("strict", 1, 1);

    o.max_tokens = 16; /* fewer rounds than before a probe */

    spc_session *s = open_session(engine, &o, &p);

    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);

    decoded first = decoded_of(s), again;

    cr_assert_eq(spc_session_restart(s, p.id, p.count, NULL), SPC_OK);
    cr_assert_eq(spc_session_run(s, NULL), SPC_OK);
    again = decoded_of(s);
    cr_expect(same_tokens(&first, &again));
    cr_expect_eq(first.stats.rounds, again.stats.rounds);
    spc_session_close(s);
    spc_engine_close(engine);
}

/* ---- refusals ---- */

Test(host_gamma, a_bonus_that_makes_the_law_follow_the_length_is_refused)
{
    toy_pair pair = pair_of(6, false, false);
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = auto_options("token-v3:alpha=0.5", 1, 1);
    prompt p = prompt_made(5, pair.vocab, 3);
    spc_session *s;
    spc_error error;

    o.bonus = SPC_BONUS_VERIFIER;
    cr_expect_eq(spc_session_open(engine, &o, p.id, p.count, &s, &error), SPC_EUNSUPPORTED);
    cr_expect_null(s);
    cr_expect_not_null(strstr(error.message, "gamma auto"), "%s", error.message);
    o.rule = "strict"; /* whose bonus is the target's either way */
    cr_expect_eq(spc_session_open(engine, &o, p.id, p.count, &s, &error), SPC_OK);
    spc_session_close(s);
    o.gamma = -2;
    cr_expect_eq(spc_session_open(engine, &o, p.id, p.count, &s, &error), SPC_EUSAGE);
    cr_expect_not_null(strstr(error.message, "auto"), "%s", error.message);
    spc_engine_close(engine);
}

Test(host_gamma, the_verifier_alone_needs_no_drafter)
{
    spc_engine_options eo;
    spc_session_options o = auto_options("verifier-only", 0, 1);
    prompt p = {{5, 6, 7}, 3};
    spc_engine *engine;
    decoded d;

    spc_engine_options_init(&eo);
    eo.verifier = SPC_TEST_VECTORS "/llama";
    eo.drafter = NULL;
    cr_assert_eq(spc_engine_open(&eo, &engine, NULL), SPC_OK);
    o.max_tokens = 4 * SPC_PROBE_FIRST;
    o.ignore_stop = true;
    d = decode(engine, &o, &p);
    cr_expect_eq(d.count, o.max_tokens);
    cr_expect_eq(d.stats.chosen[0], d.count);
    cr_expect_eq(d.stats.probes, 0);
    spc_engine_close(engine);
}

Test(host_gamma, the_log_tells_what_it_starts_from)
{
    spc_gamma_facts f = {80e3, 900e3, 1200e3, 0.1, 0.7, 1.5, 3};
    char line[SPC_GAMMA_LINE_BYTES];

    spc_gamma_line(&f, line);
    cr_expect_str_eq(line, "gamma auto: drafter 0.080 ms a token, verifier 0.900 ms for 1 row, "
                           "1.200 ms for 4; drafting pays from an acceptance of 0.10; at 0.70, "
                           "gamma 3 is expected to be 1.50 times as fast as plain decoding");
    f.gamma = 0;
    spc_gamma_line(&f, line);
    cr_expect_str_eq(line, "gamma auto: drafter 0.080 ms a token, verifier 0.900 ms for 1 row; "
                           "drafting pays from an acceptance of 0.10; at 0.70 plain decoding is "
                           "expected to be the fastest");
}
