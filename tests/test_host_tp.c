/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_tp.c - the embedded pair with its verifier cut over ranks: the tokens of one rank,
 * under every placement of the drafter, and what cannot be is refused. */
#include "spawn.h"

#include "host/ranks/comm.h"

#include <spc/spc.h>

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPTS = 3 };

static const char *const prompts[PROMPTS] = {"<s><2de>The house is small.<sep>",
                                             "<s><2fr>I do not know.<sep>",
                                             "<s><2es>Where is the station?<sep>"};

/* Hash of what an engine makes of the prompts, in one batch. */
static uint64_t decode(const spc_engine_options *options, const char *rule, float temperature)
{
    spc_session *session[PROMPTS];
    spc_session_options o;
    spc_engine *engine;
    spc_error error;
    uint64_t hash = 0;

    cr_assert_eq(spc_engine_open(options, &engine, &error), SPC_OK, "%s", error.message);
    spc_session_options_init(&o);
    o.rule = rule;
    o.temperature = temperature;
    o.max_tokens = 24;
    o.ignore_stop = true;
    for (int32_t i = 0; i < PROMPTS; i++) {
        int32_t *ids, count;

        o.seed = (uint64_t)i;
        cr_assert_eq(
            spc_engine_encode(engine, prompts[i], strlen(prompts[i]), false, &ids, &count, &error),
            SPC_OK);
        cr_assert_eq(spc_session_open(engine, &o, ids, count, &session[i], &error), SPC_OK, "%s",
                     error.message);
        free(ids);
    }
    for (int32_t step = 0; step < 24; step++) {
        cr_assert_eq(spc_engine_step(engine, session, PROMPTS, &error), SPC_OK, "%s",
                     error.message);
    }
    for (int32_t i = 0; i < PROMPTS; i++) {
        spc_stats stats;

        spc_session_stats(session[i], &stats);
        cr_assert_eq(stats.tokens, 24);
        hash = hash * 31 + stats.output_hash;
        spc_session_close(session[i]);
    }
    spc_engine_close(engine);
    return hash;
}

Test(host_tp, tokens_are_those_of_one_rank_wherever_the_drafter_runs)
{
    static const struct {
        int32_t tp, drafter_tp;
    } placements[] = {{2, 1}, {2, 2}, {4, 1}, {4, 4}};
    static const struct {
        const char *rule;
        float temperature;
    } ways[] = {{"strict", 0},
                {"token-v3:alpha=0.5", 0.8f},
                {"verifier-only", 0.8f},
                {"opt:alpha=0.2", 0.8f}};
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.sessions = PROMPTS;
    o.context = 64;
    o.threads = 2;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        o.tp = o.drafter_tp = 0;

        uint64_t expected = decode(&o, ways[w].rule, ways[w].temperature);

        for (size_t p = 0; p < sizeof placements / sizeof *placements; p++) {
            o.tp = placements[p].tp;
            o.drafter_tp = placements[p].drafter_tp;
            cr_expect_eq(decode(&o, ways[w].rule, ways[w].temperature), expected,
                         "%s, tp %d, drafter %d", ways[w].rule, (int)o.tp, (int)o.drafter_tp);
        }
    }
}

/* Each rank rounds the keys of its own heads. */
Test(host_tp, so_they_are_with_keys_and_values_of_16_bits)
{
    static const char *const types[] = {"bf16", "f16"};
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.sessions = PROMPTS;
    o.context = 64;
    o.threads = 2;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        o.kv = types[i];
        o.tp = 1;

        uint64_t expected = decode(&o, "strict", 0);

        o.tp = 2;
        cr_expect_eq(decode(&o, "strict", 0), expected, "%s", types[i]);
    }
}

Test(host_tp, an_engine_tells_its_ranks)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_engine_facts one, two;
    spc_error error;

    spc_engine_options_init(&o);
    o.context = 64;
    o.threads = 2;
    o.isa = "portable";
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK);
    spc_engine_describe(engine, &one);
    spc_engine_close(engine);
    o.tp = 2;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK);
    spc_engine_describe(engine, &two);
    cr_assert_str_eq(two.device, "2 ranks, each cpu, 1 thread, portable");
    cr_assert_gt(two.verifier_memory_bytes, one.verifier_memory_bytes, "scratch of every rank");
    cr_assert_lt(two.verifier_memory_bytes, 2 * one.verifier_memory_bytes,
                 "each holds half of the KV cache");
    spc_engine_close(engine);
}

Test(host_tp, what_cannot_be_is_refused)
{
    static const struct {
        int32_t tp, drafter_tp;
        const char *device;
        spc_status status;
        const char *text;
    } cases[] = {
        {-1, 0, NULL, SPC_EUSAGE, "tp: expected 1 to 64 ranks, found -1"},
        {SPC_RANKS_MAX + 1, 0, NULL, SPC_EUSAGE, "found 65"},
        {3, 0, NULL, SPC_EUSAGE,
         "3 ranks, which must divide its 8 attention heads, its 4 key-value heads"},
        {4, 2, NULL, SPC_EUSAGE, "drafter-tp: expected 1 (the first rank alone) or 4"},
        {0, 2, NULL, SPC_EUSAGE, "drafter-tp: expected 1, as the verifier has one rank"},
        {2, -1, NULL, SPC_EUSAGE, "drafter-tp: expected 1 (the first rank alone) or 2"},
        {2, 0, "gpu", SPC_EUSAGE, "device: expected auto, cpu, cuda"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_engine_options o;
        spc_engine *engine;
        spc_error error;

        spc_engine_options_init(&o);
        o.tp = cases[i].tp;
        o.drafter_tp = cases[i].drafter_tp;
        o.device = cases[i].device;
        cr_expect_eq(spc_engine_open(&o, &engine, &error), cases[i].status);
        cr_expect_null(engine);
        cr_expect(strstr(error.message, cases[i].text), "%s", error.message);
    }
}

Test(host_tp, the_program_takes_ranks)
{
    const char *text = "The house is small.";
    char *one = OUTPUT(NULL, "run", "--quiet", "--temperature", "0", "--to", "de", text);
    char *two = OUTPUT(NULL, "run", "--quiet", "--temperature", "0", "--tp", "2", "--drafter-tp",
                       "2", "--to", "de", text);
    spawn_result r = SPAWN(NULL, "run", "--tp", "3", "--to", "de", text);

    cr_expect_str_eq(one, two);
    cr_expect_gt(strlen(one), 5);
    cr_expect_eq(r.code, 2);
    cr_expect(strstr(r.err, "possible: 1, 2, 4, 8"), "%s", r.err);
    cr_expect_eq(count_lines(r.err), 1);
    free(one);
    free(two);
    spawn_free(&r);
}
