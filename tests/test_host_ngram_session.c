/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_ngram_session.c - sessions whose drafts are looked up: the tokens and counters of a
 * session alone in any company, the verifier's text where nothing is random, ends inside of drafts,
 * prompts anew, and what is refused. */
#include "decode.h"
#include "tiny.h"
#include "toy.h"

#include <stdio.h>

#define RELU SPC_TEST_VECTORS "/t5-relu"

enum { VOCAB = 6, CONTEXT = 96, SESSIONS = 4 };

static const toy_pair pair = {
    .seed = 23, .vocab = VOCAB, .context = CONTEXT, .sessions = SESSIONS, .spread = 6};

static spc_engine *open_engine(const toy_pair *p, int32_t least, int32_t most)
{
    spc_engine *engine = toy_engine(p);

    toy_look_up(engine, least, most);
    return engine;
}

static const struct {
    const char *rule;
    int32_t gamma;
    spc_verify_mode verify;
    spc_bonus_mode bonus;
} ways[] = {{"strict", 5, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
            {"strict", 3, SPC_VERIFY_BLOCK, SPC_BONUS_VERIFIER},
            {"strict", 2, SPC_VERIFY_TOKEN, SPC_BONUS_STEP},
            {"verifier-only", 4, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
            {"truncate:alpha=0.5", 16, SPC_VERIFY_TOKEN, SPC_BONUS_STEP},
            {"token-v3:alpha=0.5", 4, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER},
            {"lossy:alpha=0.3", 3, SPC_VERIFY_BLOCK, SPC_BONUS_VERIFIER},
            {"strict", 0, SPC_VERIFY_TOKEN, SPC_BONUS_STEP}};
enum { WAYS = sizeof ways / sizeof *ways };

static spc_session_options options_for(int32_t way, float temperature, uint64_t seed)
{
    spc_session_options o = options_of(ways[way].rule, ways[way].gamma, temperature);

    o.verify = ways[way].verify;
    o.bonus = ways[way].bonus;
    o.seed = seed;
    o.max_tokens = 40;
    return o;
}

/* A text that repeats itself, by a number that makes it another. */
static prompt repetitive(int32_t count, int32_t number)
{
    prompt p = {.count = count};

    for (int32_t i = 0; i < count; i++) p.id[i] = (i % (3 + number % 3) + number) % VOCAB;
    return p;
}

static void expect_same(const decoded *a, const decoded *b, const char *what)
{
    cr_expect(same_tokens(a, b), "%s: other tokens", what);
    cr_expect_eq(a->stats.rounds, b->stats.rounds, "%s", what);
    cr_expect_eq(a->stats.verifier_calls, b->stats.verifier_calls, "%s", what);
    cr_expect_eq(sum_of(a->stats.drafted), sum_of(b->stats.drafted), "%s", what);
    cr_expect_eq(sum_of(a->stats.accepted), sum_of(b->stats.accepted), "%s", what);
    cr_expect_eq(sum_of(a->stats.rejected), sum_of(b->stats.rejected), "%s", what);
    cr_expect_eq(a->stats.bonus, b->stats.bonus, "%s", what);
    cr_expect_eq(a->stats.drafter_calls, 0, "%s", what);
}

/* Four together, of different rules, lengths of drafts and ends. */
Test(host_ngram_session, company_does_not_matter)
{
    int64_t accepted = 0, drafted = 0;

    for (int32_t first = 0; first < WAYS; first++) {
        for (int32_t greedy = 0; greedy < 2; greedy++) {
            spc_engine *engine = open_engine(&pair, 2, 4);
            spc_session *session[SESSIONS];
            decoded alone[SESSIONS];
            bool running = true;

            for (int32_t i = 0; i < SESSIONS; i++) {
                spc_session_options o =
                    options_for((first + i) % WAYS, greedy ? 0.0f : 1.0f, (uint64_t)i);
                prompt p = repetitive(7 + 5 * i, i);

                o.max_tokens -= 7 * i;
                alone[i] = decode(engine, &o, &p);
                cr_assert_eq(alone[i].status, SPC_OK, "%s", alone[i].error.message);
                accepted += sum_of(alone[i].stats.accepted);
                drafted += sum_of(alone[i].stats.drafted);
                session[i] = open_session(engine, &o, &p);
            }
            while (running) {
                running = false;
                cr_assert_eq(spc_engine_step(engine, session, SESSIONS, NULL), SPC_OK);
                for (int32_t i = 0; i < SESSIONS; i++) {
                    running = running || spc_session_finish(session[i]) == SPC_FINISH_RUNNING;
                }
            }
            for (int32_t i = 0; i < SESSIONS; i++) {
                decoded together = decoded_of(session[i]);

                expect_same(&together, &alone[i], ways[(first + i) % WAYS].rule);
                spc_session_close(session[i]);
            }
            spc_engine_close(engine);
        }
    }
    cr_expect(accepted > 100 && drafted > accepted + 200, "%d of %d", (int)accepted, (int)drafted);
}

Test(host_ngram_session, greedy_text_is_the_verifiers)
{
    static const spc_ngram_span spans[] = {{1, 1}, {2, 4}, {3, 3}};

    for (size_t k = 0; k < sizeof spans / sizeof *spans; k++) {
        spc_engine *engine = open_engine(&pair, spans[k].least, spans[k].most);

        for (int32_t number = 0; number < 6; number++) {
            prompt p = repetitive(20, number);
            spc_session_options o = options_for(3, 0, 0);
            decoded plain = decode(engine, &o, &p);

            for (int32_t gamma = SPC_GAMMA_AUTO; gamma <= SPC_GAMMA_MAX; gamma += 3) {
                for (int32_t way = 0; way < 3; way++) {
                    o = options_for(way, 0, 0);
                    o.gamma = gamma;

                    decoded d = decode(engine, &o, &p);

                    cr_expect(same_tokens(&d, &plain), "gamma %d, way %d", (int)gamma, (int)way);
                    cr_expect_leq(d.stats.rounds, plain.stats.rounds);
                }
            }
        }
        spc_engine_close(engine);
    }
}

/* The draft of a position does not depend on where its round began. */
Test(host_ngram_session, with_bonus_step_a_seed_gives_one_text_for_all_draft_lengths)
{
    spc_engine *engine = open_engine(&pair, 1, 3);
    int64_t rounds[SPC_GAMMA_MAX + 1] = {0};

    for (uint64_t seed = 0; seed < 20; seed++) {
        prompt p = repetitive(15, (int32_t)seed);
        spc_session_options o = options_for(2, 1, seed);
        decoded first;

        o.gamma = 0;
        first = decode(engine, &o, &p);
        for (int32_t gamma = SPC_GAMMA_AUTO; gamma <= SPC_GAMMA_MAX; gamma++) {
            o.gamma = gamma;

            decoded d = decode(engine, &o, &p);

            cr_expect(same_tokens(&d, &first), "seed %d, gamma %d", (int)seed, (int)gamma);
            if (gamma >= 0) rounds[gamma] += d.stats.rounds;
        }
    }
    cr_expect_lt(rounds[5], rounds[0]);
    spc_engine_close(engine);
}

/* ---- why a token came about -------------------------------------------------------------------
 */

/* All of the drafter's probability lies on a draft; what the rule makes of it is the same as with
 * any drafter. */
Test(host_ngram_session, details_are_those_of_a_drafter_that_is_sure)
{
    int32_t drafted = 0, others = 0;

    for (int32_t way = 0; way < WAYS; way++) {
        spc_engine *engine = open_engine(&pair, 1, 4);
        spc_session_options o = options_for(way, 1, 5);
        prompt p = repetitive(14, 2);
        const spc_token_detail *detail;
        decoded with, without = decode(engine, &o, &p);
        spc_session *s;
        int32_t count;

        o.details = true;
        s = open_session(engine, &o, &p);
        (void)spc_session_run(s, NULL);
        with = decoded_of(s);
        cr_expect(same_tokens(&with, &without), "%s", o.rule);
        detail = spc_session_details(s, &count);
        cr_assert_eq(count, with.count);
        for (int32_t i = 0; i < count; i++) {
            const spc_row_detail *row = &detail[i].row;
            bool strict = strcmp(o.rule, "strict") == 0;

            cr_expect(row->log_target <= 0 && row->log_target > -30, "%s", o.rule);
            if (strict) cr_expect_float_eq(row->log_target, row->log_verifier, 1e-6f);
            cr_expect_eq(row->fate == SPC_FATE_BONUS, detail[i].draft < 0);
            drafted += detail[i].draft >= 0;
            others += detail[i].draft < 0;
            if (detail[i].draft < 0) continue;
            cr_expect_eq(row->drafter, 1);
            if (strict) cr_expect_float_eq(row->target, row->verifier, 1e-6f);
        }
        spc_session_close(s);
        spc_engine_close(engine);
    }
    cr_expect(drafted > 50 && others > 20, "%d and %d", (int)drafted, (int)others);
}

/* ---- where a sequence ends --------------------------------------------------------------------
 */

/* What is looked up is cut to what budget and context leave, and ends with a stop token. */
Test(host_ngram_session, budget_context_and_stop_tokens_end_it_where_they_end_the_verifiers)
{
    for (int32_t way = 0; way < 3; way++) {
        for (int32_t most = 0; most < 30; most++) {
            spc_engine *engine = open_engine(&pair, 1, 4);
            prompt p = repetitive(CONTEXT - 20, most);
            spc_session_options o = options_for(3, 0, 0), drafting = options_for(way, 0, 0);
            static const int32_t stop[] = {4};
            decoded plain, d;

            o.max_tokens = drafting.max_tokens = most; /* 0, and above 20: the context */
            plain = decode(engine, &o, &p);
            d = decode(engine, &drafting, &p);
            cr_expect(same_tokens(&d, &plain), "way %d, at most %d", (int)way, (int)most);
            cr_expect_eq(d.finish,
                         most > 0 && most <= 20 ? SPC_FINISH_MAX_TOKENS : SPC_FINISH_CONTEXT);
            o.stop_token = drafting.stop_token = stop;
            o.stop_token_count = drafting.stop_token_count = 1;
            plain = decode(engine, &o, &p);
            d = decode(engine, &drafting, &p);
            cr_expect(same_tokens(&d, &plain), "way %d, at most %d", (int)way, (int)most);
            o.ignore_stop = drafting.ignore_stop = true;
            d = decode(engine, &drafting, &p);
            plain = decode(engine, &o, &p);
            cr_expect(same_tokens(&d, &plain), "way %d, at most %d", (int)way, (int)most);
            spc_engine_close(engine);
        }
    }
}

Test(host_ngram_session, nothing_is_drafted_behind_a_stop_token)
{
    static const int32_t stop[] = {4};
    spc_engine *engine = open_engine(&pair, 2, 4);
    prompt p = {{0, 1, 4, 2, 3, 0, 1}, 7};
    spc_session_options o = options_for(0, 1, 0);
    spc_session *s;

    for (int32_t heeded = 0; heeded < 2; heeded++) {
        spc_stats stats;

        o.stop_token = stop;
        o.stop_token_count = heeded;
        s = open_session(engine, &o, &p);
        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        spc_session_stats(s, &stats);
        cr_expect_eq(sum_of(stats.drafted), heeded ? 1 : 5);
        spc_session_close(s);
    }
    spc_engine_close(engine);
}

/* ---- a prompt anew ----------------------------------------------------------------------------
 */

Test(host_ngram_session, a_restarted_session_is_a_new_one)
{
    for (int32_t way = 0; way < WAYS; way++) {
        spc_engine *engine = open_engine(&pair, 2, 4);
        spc_session_options o = options_for(way, 1, 7);
        prompt p = repetitive(12, 1);
        spc_session *s;

        o.max_tokens = 15;
        s = open_session(engine, &o, &p);
        (void)spc_session_run(s, NULL);
        for (int32_t turn = 0; turn < 4; turn++) {
            decoded d = decoded_of(s), fresh;

            if (turn % 2 == 0) { /* what was said, and a little more; or something else */
                memcpy(p.id + p.count, d.token, (size_t)d.count * sizeof *d.token);
                p.count += d.count;
                p.id[p.count++] = turn;
            } else {
                p = repetitive(9, turn);
            }
            cr_assert_eq(spc_session_restart(s, p.id, p.count, NULL), SPC_OK);
            (void)spc_session_run(s, NULL);
            d = decoded_of(s);
            fresh = decode(engine, &o, &p);
            expect_same(&d, &fresh, o.rule);
        }
        spc_session_close(s);
        spc_engine_close(engine);
    }
}

/* ---- gamma auto -------------------------------------------------------------------------------
 */

/* Its first step measures the verifier alone. */
Test(host_ngram_session, lengths_are_chosen_from_the_verifiers_times_alone)
{
    toy_clock clock = {0, 1000000, 1000000, 1000, 50};
    toy_pair timed = pair;
    spc_engine *engine;
    prompt p = repetitive(20, 0);
    spc_session_options o = options_for(0, 0, 0);
    spc_gamma_facts facts;
    decoded d;

    timed.clock = &clock;
    engine = open_engine(&timed, 1, 4);
    o.gamma = SPC_GAMMA_AUTO;
    d = decode(engine, &o, &p);
    cr_expect_eq(d.status, SPC_OK);
    cr_assert(spc_engine_gamma(engine, &facts));
    cr_expect_lt(facts.draft_ns, 2);
    cr_expect_float_eq(facts.plain_ns, 1050, 100);
    cr_expect_lt(facts.break_even, 0.2, "drafts take no time, rows hardly any");
    cr_expect_gt(d.stats.chosen[0] + sum_of(d.stats.chosen + 1), 0);
    cr_expect_gt(sum_of(d.stats.drafted), 0);
    spc_engine_close(engine);
}

/* ---- engines ----------------------------------------------------------------------------------
 */

static spc_engine_options demo(const char *drafter)
{
    spc_engine_options o = demo_options();

    o.drafter = drafter;
    o.context = 128;
    return o;
}

static spc_engine *open_or_fail(const spc_engine_options *o)
{
    spc_engine *engine;
    spc_error error;

    cr_assert_eq(spc_engine_open(o, &engine, &error), SPC_OK, "%s", error.message);
    return engine;
}

static void keep_line(void *user, const char *line)
{
    if (strncmp(line, "drafter: ", 9) == 0) (void)snprintf(user, 128, "%s", line);
}

Test(host_ngram_session, an_engine_needs_no_drafter_and_takes_what_one_without_takes)
{
    spc_engine_options with = demo("ngram:1-3"), without = demo(NULL);
    char line[128] = "";
    spc_engine *engine, *alone = open_or_fail(&without);
    spc_engine_facts a, b;

    with.log = keep_line;
    with.user = line;
    engine = open_or_fail(&with);
    cr_expect_str_eq(line, "drafter: n-grams of 1 to 3 tokens, looked up in prompt and output");
    spc_engine_describe(engine, &a);
    spc_engine_describe(alone, &b);
    cr_expect_not(a.drafter);
    cr_expect(a.ngram_least == 1 && a.ngram_most == 3);
    cr_expect(b.ngram_least == 0 && b.ngram_most == 0);
    cr_expect_eq(a.drafter_weight_bytes, 0);
    cr_expect_eq(a.drafter_memory_bytes, 0);
    cr_expect_eq(a.verifier_memory_bytes, b.verifier_memory_bytes);
    cr_expect_eq(a.context, b.context);
    spc_engine_close(engine);
    spc_engine_close(alone);
}

/* In one process; for several see host_cli_ngram. */
Test(host_ngram_session, ranks_decide_alike)
{
    spc_engine_options one = demo("ngram:1-4"), two = one;
    spc_engine *single = open_or_fail(&one), *ranks;
    prompt p = prompt_of(single, "<s><2de>The dog runs. The dog runs.<sep>");

    two.tp = 2;
    two.threads = 2;
    ranks = open_or_fail(&two);
    for (int32_t way = 0; way < WAYS; way++) {
        spc_session_options o = options_for(way, 0.8f, 1);
        decoded a, b;

        o.ignore_stop = true;
        a = decode(single, &o, &p);
        b = decode(ranks, &o, &p);
        cr_assert(a.status == SPC_OK && b.status == SPC_OK, "%s", b.error.message);
        expect_same(&a, &b, o.rule);
    }
    spc_engine_close(single);
    spc_engine_close(ranks);
}

/* What an encoder reads is looked up, too: the first draft of a round comes from there. */
Test(host_ngram_session, an_encoders_prompt_is_looked_up)
{
    spc_engine_options o;
    spc_engine *engine;
    prompt p = {{5, 9, 0, 7, 3, 1}, 6}; /* a decoder begins with token 0 */
    spc_session *session;
    spc_session_options so = options_for(0, 0, 0), plain = options_for(3, 0, 0);
    spc_stats stats;
    decoded a, b;

    spc_engine_options_init(&o);
    o.verifier = RELU;
    o.drafter = "ngram:1";
    o.threads = 1;
    o.context = 32;
    engine = open_or_fail(&o);
    so.ignore_stop = plain.ignore_stop = true;
    session = open_session(engine, &so, &p);
    cr_assert_eq(session->token[0], 0);
    cr_expect_eq(spc_session_look_up(session, 3), 3);
    cr_expect(session->token[1] == 7 && session->token[2] == 3 && session->token[3] == 1);
    cr_assert_eq(spc_session_step(session, NULL), SPC_OK);
    spc_session_stats(session, &stats);
    cr_expect_eq(stats.drafted[0], 1, "0 stood before 7");
    spc_session_close(session);
    a = decode(engine, &so, &p);
    b = decode(engine, &plain, &p);
    cr_expect(a.status == SPC_OK && same_tokens(&a, &b));
    spc_engine_close(engine);
}

Test(host_ngram_session, what_has_nothing_to_place_is_refused)
{
    static const struct {
        const char *drafter, *device;
        int32_t drafter_tp;
        spc_overlap_mode overlap;
        const char *words[2];
    } table[] = {{"ngram", "cpu", 0, SPC_OVERLAP_AUTO, {"drafter-device", "leave"}},
                 {"ngram", NULL, 2, SPC_OVERLAP_AUTO, {"drafter-tp", "leave"}},
                 {"ngram:3", NULL, 0, SPC_OVERLAP_ON, {"overlap", "leave"}},
                 {"ngram:5-2", NULL, 0, SPC_OVERLAP_AUTO, {"ngram:5-2", "ngram:MIN-MAX"}}};

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        spc_engine_options o = demo(table[i].drafter);
        spc_engine *engine;
        spc_error error;

        o.drafter_device = table[i].device;
        o.drafter_tp = table[i].drafter_tp;
        if (o.drafter_tp > 0) o.tp = o.drafter_tp;
        o.overlap = table[i].overlap;
        cr_expect_eq(spc_engine_open(&o, &engine, &error), SPC_EUSAGE);
        cr_expect_null(engine);
        for (int k = 0; k < 2; k++) {
            cr_expect(strstr(error.message, table[i].words[k]), "%s", error.message);
        }
    }
}

Test(host_ngram_session, rules_without_a_meaning_are_refused)
{
    static const struct {
        const char *rule;
        spc_bonus_mode bonus;
        const char *word;
    } table[] = {{"chow:alpha=0.5", SPC_BONUS_VERIFIER, "strict or truncate"},
                 {"opt:alpha=0.2", SPC_BONUS_TARGET, "strict or truncate"},
                 {"cactus:delta=0.5", SPC_BONUS_STEP, "strict or truncate"},
                 {"token-v3:alpha=0.5", SPC_BONUS_TARGET, "use bonus verifier and a fixed gamma"},
                 {"lossy:alpha=0.5", SPC_BONUS_STEP, "use bonus verifier"},
                 {"drafter-only", SPC_BONUS_TARGET, "one model at a time"},
                 {"token-chow:alpha=0.5", SPC_BONUS_TARGET, "one model at a time"},
                 {"seq-chow:alpha=0.5", SPC_BONUS_TARGET, "one model at a time"},
                 {"bild-dynamic:fallback=0.5", SPC_BONUS_TARGET, "one model at a time"}};
    spc_engine *engine = open_engine(&pair, 2, 4);
    prompt p = repetitive(5, 0);

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        bool sequential = strstr(table[i].word, "one model") != NULL;
        spc_session_options o = options_of(table[i].rule, sequential ? 0 : 3, 0);
        spc_session *session;
        spc_error error;

        o.bonus = table[i].bonus;
        cr_expect_eq(spc_session_open(engine, &o, p.id, p.count, &session, &error),
                     SPC_EUNSUPPORTED, "%s", table[i].rule);
        cr_expect_null(session);
        cr_expect(strstr(error.message, table[i].word) && strstr(error.message, "n-gram drafter"),
                  "%s", error.message);
    }
    spc_engine_close(engine);
}
