/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_round_same.c - tokens that do not depend on how they were drafted: the verifier's own
 * where a rule is strict and greedy, one text for every gamma where all are drawn one way. */
#include "rounds.h"

static void expect_plain_tokens(spc_engine *engine, const prompt *p, const int32_t *gammas,
                                int32_t count, const char *what)
{
    spc_session_options o = options_for("verifier-only", 0, 0, 28);
    decoded plain = decode(engine, &o, p);

    cr_assert_gt(plain.count, 3, "%s: %d tokens", what, (int)plain.count);
    for (int32_t i = 0; i < count; i++) {
        o = options_for("strict", gammas[i], 0, 28);
        do {
            decoded d = decode(engine, &o, p);

            cr_expect(same_tokens(&d, &plain), "%s: gamma %d verify %d bonus %d", what,
                      (int)gammas[i], (int)o.verify, (int)o.bonus);
            cr_expect_eq(d.stats.output_hash, plain.stats.output_hash);
        } while (next_mode(&o));
    }
}

Test(host_round_same, strict_and_greedy_is_the_verifier_alone)
{
    static const int32_t gammas[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, SPC_GAMMA_MAX};
    int64_t rejected = 0;

    for (uint64_t seed = 1; seed <= 40; seed++) {
        toy_pair pair = {.seed = seed,
                         .vocab = 3 + (int32_t)seed,
                         .context = 64,
                         .sessions = 1,
                         .spread = 4,
                         .reversed = seed % 4 == 0};
        spc_engine *engine = toy_engine(&pair);
        spc_session_options o = options_for("strict", 4, 0, 28);

        expect_plain_tokens(engine, &start, gammas, sizeof gammas / sizeof *gammas, "toy");
        rejected += sum_of(decode(engine, &o, &start).stats.rejected);
        spc_engine_close(engine);
    }
    cr_expect_gt(rejected, 100, "the drafter was wrong often enough to tell");
}

Test(host_round_same, strict_and_greedy_is_the_verifier_alone_on_the_demo_pair)
{
    static const int32_t gammas[] = {1, 3, 5, 8};
    static const char *const prompts[] = {"<s><2de>The house is very old.<sep>",
                                          "<s><2fr>I would like a cup of tea.<sep>",
                                          "<s><2es>Where is the station?<sep>", "a"};
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 2);

    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        prompt p = prompt_of(engine, prompts[i]);

        expect_plain_tokens(engine, &p, gammas, sizeof gammas / sizeof *gammas, prompts[i]);
    }
    spc_engine_close(engine);
}

/* Every token is a function of prefix, seed and position. */
Test(host_round_same, with_bonus_step_one_seed_gives_one_text_for_every_gamma)
{
    static const toy_pair pair = {
        .seed = 21, .vocab = 24, .context = 64, .sessions = 1, .spread = 4};
    spc_engine *engine = toy_engine(&pair);
    decoded last = {.count = 0};
    int32_t different = 0;

    for (int32_t r = 0; r < RULES; r++) {
        for (uint64_t seed = 0; seed < 8; seed++) {
            decoded first = {.count = 0};

            for (int32_t gamma = 0; gamma <= 6; gamma++) {
                spc_session_options o = options_for(rules[r], gamma, seed % 2 ? 1.0f : 0.7f, 40);

                o.bonus = SPC_BONUS_STEP;
                o.seed = seed;
                decoded d = decode(engine, &o, &start);

                if (gamma == 0) first = d;
                cr_expect(same_tokens(&d, &first), "%s: gamma %d seed %d", rules[r], (int)gamma,
                          (int)seed);
            }
            different += !same_tokens(&first, &last);
            last = first;
        }
    }
    cr_expect_eq(different, RULES * 8, "seeds and rules matter");
    spc_engine_close(engine);
}

/* The same where gamma changes from round to round. */
Test(host_round_same, with_bonus_step_a_changing_gamma_gives_the_same_text)
{
    static const toy_pair pair = {
        .seed = 22, .vocab = 24, .context = 64, .sessions = 1, .spread = 4};
    spc_engine *engine = toy_engine(&pair);

    for (int32_t r = 0; r < RULES; r++) {
        spc_session_options o = options_for(rules[r], 3, 1, 40);

        o.bonus = SPC_BONUS_STEP;
        decoded wanted = decode(engine, &o, &start), got;
        spc_session *s = open_session(engine, &o, &start);

        for (int32_t round = 0; s->finish == SPC_FINISH_RUNNING; round++) {
            s->gamma = (round * 5 + r) % 7;
            cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        }
        got = decoded_of(s);
        cr_expect(same_tokens(&got, &wanted), "%s", rules[r]);
        spc_session_close(s);
    }
    spc_engine_close(engine);
}

Test(host_round_same, with_bonus_step_the_demo_pair_gives_one_text_for_every_gamma)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 2);
    prompt p = prompt_of(engine, "<s><2de>We met at the market.<sep>");

    for (int32_t r = 0; r < RULES; r += 2) {
        decoded first = {.count = 0};

        for (int32_t gamma = 0; gamma <= 5; gamma++) {
            spc_session_options o = options_for(rules[r], gamma, 1, 20);

            o.bonus = SPC_BONUS_STEP;
            o.seed = 3;
            decoded d = decode(engine, &o, &p);

            if (gamma == 0) first = d;
            cr_expect(same_tokens(&d, &first), "%s: gamma %d", rules[r], (int)gamma);
        }
        cr_expect_gt(first.count, 1);
    }
    spc_engine_close(engine);
}

/* The origin of every token of a session. */
typedef struct {
    spc_token_origin origin[64];
    int32_t count;
} origins;

static bool note_origin(void *user, const spc_token *token)
{
    origins *o = user;

    o->origin[o->count++] = token->origin;
    return true;
}

/* The first token behind a prefix in a round without drafts. */
static int32_t draw_behind(spc_engine *engine, const spc_session_options *options, const decoded *d,
                           int32_t count)
{
    spc_session_options o = *options;
    prompt p = start;

    memcpy(p.id + p.count, d->token, (size_t)count * sizeof *d->token);
    p.count += count;
    o.gamma = 0;
    o.max_tokens = 1;
    o.on_token = NULL;
    return decode(engine, &o, &p).token[0];
}

/* Its random numbers are those of its own position, whenever it is drawn. */
Test(host_round_same, a_bonus_token_is_the_one_a_round_without_drafts_draws)
{
    static const toy_pair pair = {
        .seed = 23, .vocab = 24, .context = 64, .sessions = 1, .spread = 3};
    spc_engine *engine = toy_engine(&pair);

    for (int32_t r = 0; r < RULES; r++) {
        int32_t compared = 0;

        for (uint64_t seed = 0; seed < 6; seed++) {
            spc_session_options o = options_for(rules[r], 2, 1, 40);
            origins seen = {.count = 0};

            o.seed = seed;
            o.on_token = note_origin;
            o.user = &seen;
            decoded d = decode(engine, &o, &start);

            for (int32_t i = 0; i < d.count; i++) {
                if (seen.origin[i] != SPC_TOKEN_BONUS) continue;
                cr_expect_eq(draw_behind(engine, &o, &d, i), d.token[i], "%s: token %d", rules[r],
                             (int)i);
                compared++;
            }
        }
        cr_expect_gt(compared, 10, "%s", rules[r]);
    }
    spc_engine_close(engine);
}
