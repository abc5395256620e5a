/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_gamma_prompt.c - gamma auto behind a prompt: the drafter begins where what is to come
 * pays for its reading it, and learns that from what came. */
#include "toygamma.h"

/* A prompt of 400 tokens takes the drafter as long as 12 tokens take the verifier. */
static const toy_clock long_prompts = {0, 200, 30, 1000, 40};

/* Time of one text behind a prompt of 400 tokens, on an engine that has decoded `before` of them.
 */
static double time_behind_prompt(int32_t gamma, int32_t tokens, int32_t before, decoded *d)
{
    toy_clock clock = long_prompts;
    toy_pair pair = pair_of(6, true, false);
    prompt p = prompt_made(400, pair.vocab, 3), other = prompt_made(40, pair.vocab, 5);

    pair.clock = &clock;
    spc_engine *engine = toy_engine(&pair);
    spc_session_options o = options_of("strict", gamma, 0);

    o.max_tokens = 3;
    *d = decode(engine, &o, &other); /* both models are measured */
    for (int32_t i = 0; i < before; i++) (void)decode(engine, &o, &other);
    o.max_tokens = tokens;

    uint64_t start = clock.now_ns;

    *d = decode(engine, &o, &p);
    spc_engine_close(engine);
    return (double)(clock.now_ns - start);
}

/* Drafts are always kept, and each of the first tokens would come faster, but for the drafter's
 * prompt: with few tokens to come strict is no slower than plain decoding, with many it drafts. */
Test(host_gamma_prompt, a_prompt_is_drafted_behind_where_what_is_to_come_pays_for_it)
{
    for (int32_t tokens = 1; tokens <= 256; tokens *= 2) {
        decoded plain, chosen, fixed;
        double plain_ns = time_behind_prompt(0, tokens, 0, &plain);
        double chosen_ns = time_behind_prompt(SPC_GAMMA_AUTO, tokens, 0, &chosen);
        double fixed_ns = time_behind_prompt(8, tokens, 0, &fixed);

        cr_expect(same_tokens(&plain, &chosen));
        cr_expect_leq(chosen_ns, plain_ns * 1.0001, "%d tokens: %g, plain %g", (int)tokens,
                      chosen_ns, plain_ns);
        cr_expect_leq(chosen_ns, fixed_ns * 1.2, "%d tokens: %g, gamma 8 %g", (int)tokens,
                      chosen_ns, fixed_ns);
        if (tokens <= 4) cr_expect_gt(fixed_ns, plain_ns * 1.02, "there is something to lose");
        if (tokens <= 4) cr_expect_eq(chosen.stats.drafter_calls, 0);
        if (tokens >= 64) cr_expect_lt(chosen_ns, plain_ns * 0.8);
    }
}

/* What may come is many tokens, what has come so far were three: it waits, and begins where the
 * text goes on. */
Test(host_gamma_prompt, how_much_is_to_come_is_learned_from_what_came)
{
    decoded known, unknown;

    (void)time_behind_prompt(SPC_GAMMA_AUTO, 256, 0, &unknown);
    cr_expect_leq(unknown.stats.chosen[0], 2, "nothing says that it is short");
    (void)time_behind_prompt(SPC_GAMMA_AUTO, 256, 200, &known);
    cr_expect_gt(known.stats.chosen[0], unknown.stats.chosen[0] + 2);
    cr_expect_lt(known.stats.chosen[0], 64, "%d", (int)known.stats.chosen[0]);
    cr_expect(same_tokens(&known, &unknown));
}

/* Texts of one noise do not tell each other how long they are: that would lean on it. */
Test(host_gamma_prompt, a_text_does_not_know_how_long_one_of_its_noise_was)
{
    toy_clock clock = long_prompts;
    toy_pair pair = pair_of(6, true, false);
    prompt p = prompt_made(5, pair.vocab, 3);

    pair.clock = &clock;
    spc_engine *engine = toy_engine(&pair);

    for (uint64_t seed = 1; seed <= 2; seed++) {
        spc_session_options o = auto_options("strict", 1, 1);

        o.max_tokens = 3;
        (void)decode(engine, &o, &p);
        o.seed = seed;

        spc_session *s = open_session(engine, &o, &p);

        cr_expect_eq(s->choice.replies.ended > 0, seed == 2);
        cr_expect_eq(s->choice.replies.tokens, 3 * s->choice.replies.ended, "three tokens each");
        spc_session_close(s);
    }
    spc_engine_close(engine);
}

/* A drafter that begins late behind a prompt longer than a step takes reads it in chunks, between
 * which its caller has the word. */
Test(host_gamma_prompt, a_drafter_that_begins_late_reads_the_prompt_in_chunks)
{
    toy_clock clock = long_prompts;
    toy_pair pair = pair_of(6, true, false);
    int32_t long_prompt[1500];
    spc_session_options o = auto_options("strict", 0, 1);
    int64_t rows, most = 0;
    spc_session *s;

    for (int32_t i = 0; i < 1500; i++) long_prompt[i] = i % pair.vocab;
    pair.clock = &clock;
    spc_engine *engine = toy_engine(&pair);

    o.max_tokens = 400;
    cr_assert_eq(spc_session_open(engine, &o, long_prompt, 1500, &s, NULL), SPC_OK);
    while (spc_session_finish(s) == SPC_FINISH_RUNNING) {
        bool begun = stats_of(s).rounds > 0;

        rows = toy_rows(engine->drafter.runner);
        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        rows = toy_rows(engine->drafter.runner) - rows;
        if (begun && rows > most) most = rows;
    }
    cr_expect_eq(most, engine->scratch.rows);
    cr_expect_lt(stats_of(s).chosen[0], 10);
    spc_session_close(s);
    spc_engine_close(engine);
}

/* Of sessions with one prompt the drafter reads it once, also where it begins behind it. */
Test(host_gamma_prompt, a_drafter_that_begins_late_reads_a_shared_prompt_once)
{
    enum { MANY = 8, LENGTH = 400 };
    toy_clock clock = long_prompts;
    toy_pair pair = pair_of(6, true, false);
    prompt p = prompt_made(LENGTH, pair.vocab, 3);
    spc_session_options o = auto_options("strict", 0, 1);
    spc_session *s[MANY];
    int64_t drawn = 0, begun = 0;
    decoded plain, last;

    pair.clock = &clock;
    pair.sessions = MANY;
    spc_engine *engine = toy_engine(&pair);

    engine->prefix_off = false;
    o.max_tokens = 200;
    for (int32_t k = 0; k < MANY; k++) {
        if (k == MANY - 1) o.gamma = 0;
        s[k] = open_session(engine, &o, &p);
    }
    for (int32_t step = 0; step < 1000; step++) {
        cr_assert_eq(spc_engine_step(engine, s, MANY, NULL), SPC_OK);
    }
    for (int32_t k = 0; k < MANY - 1; k++) {
        begun += stats_of(s[k]).drafter_calls > 0;
        /* a round that keeps all its drafts leaves one row */
        drawn += stats_of(s[k]).drafter_calls + stats_of(s[k]).catch_up + stats_of(s[k]).rounds;
    }
    cr_expect_eq(begun, MANY - 1);
    cr_expect_lt(toy_rows(engine->drafter.runner) - drawn, 2 * LENGTH, "%d rows for prompts",
                 (int)(toy_rows(engine->drafter.runner) - drawn));
    plain = decoded_of(s[MANY - 1]);
    cr_expect_eq(plain.count, o.max_tokens);
    for (int32_t k = 0; k < MANY - 1; k++) {
        last = decoded_of(s[k]);
        cr_expect(same_tokens(&plain, &last), "session %d", (int)k);
        cr_expect_eq(sum_of(last.stats.rejected), 0, "its drafter read what stands there");
    }
    for (int32_t k = 0; k < MANY; k++) spc_session_close(s[k]);
    spc_engine_close(engine);
}

/* Time of a batch of texts behind one prompt, `tokens` each, and whether its drafter ran. */
static double time_behind_one_prompt(int32_t gamma, int32_t tokens, bool *drafted)
{
    enum { MANY = 8 };
    toy_clock clock = long_prompts;
    toy_pair pair = pair_of(6, true, false);
    prompt p = prompt_made(400, pair.vocab, 3), other = prompt_made(40, pair.vocab, 5);
    spc_session_options o = options_of("strict", gamma, 0);
    spc_session *s[MANY];
    double time;

    pair.clock = &clock;
    pair.sessions = MANY;
    spc_engine *engine = toy_engine(&pair);

    engine->prefix_off = false;
    o.max_tokens = 3;
    (void)decode(engine, &o, &other); /* both models are measured */
    o.max_tokens = tokens;
    for (int32_t k = 0; k < MANY; k++) s[k] = open_session(engine, &o, &p);
    time = -(double)clock.now_ns;
    for (int32_t step = 0; step < 2 * tokens + 8; step++) {
        cr_assert_eq(spc_engine_step(engine, s, MANY, NULL), SPC_OK);
    }
    time += (double)clock.now_ns;
    *drafted = false;
    for (int32_t k = 0; k < MANY; k++) {
        cr_expect_eq(decoded_of(s[k]).count, tokens);
        *drafted = *drafted || stats_of(s[k]).drafter_calls > 0;
        spc_session_close(s[k]);
    }
    spc_engine_close(engine);
    return time;
}

/* What the drafter reads once for all of them, all of them pay for; and the first to have read its
 * prompt does not begin to draft as if it were alone. */
Test(host_gamma_prompt, a_prompt_that_several_share_is_weighed_once_by_all_of_them)
{
    for (int32_t tokens = 4; tokens <= 64; tokens += 4) {
        bool none, all, drafted;
        double plain = time_behind_one_prompt(0, tokens, &none);
        double fixed = time_behind_one_prompt(4, tokens, &all);
        double chosen = time_behind_one_prompt(SPC_GAMMA_AUTO, tokens, &drafted);

        cr_expect(!none && all);
        cr_expect_leq(chosen, plain * 1.0001, "%d tokens: %g, plain %g", (int)tokens, chosen,
                      plain);
        cr_expect_leq(chosen, fixed * 1.05, "%d tokens: %g, gamma 4 %g", (int)tokens, chosen,
                      fixed);
        if (tokens < 32) cr_expect_gt(fixed, plain * 1.05, "there is something to lose");
        if (tokens < 32) cr_expect_not(drafted);
        if (tokens > 60) cr_expect_lt(fixed, plain * 0.95, "there is something to gain");
    }
}
