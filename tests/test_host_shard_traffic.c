/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_shard_traffic.c - what ranks send in a round, in bytes: the sums of rules/shard.h, for
 * vocabularies of published models. */
#include "toyround.h"

#include <spc/verify.h>

#include <criterion/criterion.h>
#include <stdlib.h>

enum { DRAFTS = 5, ROWS = DRAFTS + 1, WORLD_MOST = 8, SENT_MOST = 1 << 14 };

static const int32_t vocabs[] = {32000, 128256, 152064};

/* A round of one sequence that keeps all of its drafts, none of which is likely, and draws a bonus:
 * as much as a round may be asked. */
typedef struct {
    int32_t vocab, drafts;
    spc_row_params params;
    float *logits; /* [ROWS, vocab] of both models */
    int64_t row, position;
    int32_t draft[DRAFTS];
    spc_row_stats stats[DRAFTS];
} game;

static game game_of(int32_t vocab)
{
    game g = {.vocab = vocab, .drafts = DRAFTS, .position = 11};
    dice d = {7};

    g.logits = malloc((size_t)ROWS * (size_t)vocab * sizeof *g.logits);
    cr_assert_not_null(g.logits);
    for (int32_t i = 0; i < ROWS; i++) {
        float *row = g.logits + (size_t)i * (size_t)vocab;

        for (int32_t v = 0; v < vocab; v++) row[v] = (float)dice_below(&d, 1024) / 1024.0f;
        row[dice_below(&d, vocab)] = 3.0f;
    }
    for (int32_t i = 0; i < DRAFTS; i++) g.draft[i] = i * (vocab / DRAFTS) + 7;
    return g;
}

static void set_rule(game *g, const char *rule, spc_verify_mode verify)
{
    spc_draw_batch draw = {.sequences = 1,
                           .vocab = g->vocab,
                           .params = &g->params,
                           .logits = {{NULL, SPC_LOGITS_F32}, g->vocab, g->vocab},
                           .row = &g->row,
                           .position = &g->position};
    spc_error err;

    g->params = params_of(rule, 0.7f);
    g->params.verify = verify;
    g->params.seed = 5;
    for (int32_t i = 0; i < DRAFTS; i++) {
        draw.logits.logits.data = g->logits + (size_t)i * (size_t)g->vocab;
        draw.stats = &g->stats[i];
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, &err), SPC_OK, "%s", err.message);
    }
}

/* What each rank sends in the round, and how many steps it takes. */
static size_t sent(const game *g, int32_t world, bool statistics, int32_t *steps)
{
    spc_verdict verdict[WORLD_MOST], whole;
    spc_verify_batch rank[WORLD_MOST];
    spc_shards shards[WORLD_MOST];
    int32_t token[ROWS], count, bonus = 1;
    int64_t left[WORLD_MOST][2];
    uint32_t status;
    const spc_shard_bytes most = spc_shard_sizes(&g->params, 1, DRAFTS, g->vocab, world);
    void *answers = aligned_alloc(16, (size_t)world * SENT_MOST);
    size_t bytes = 0, now;
    spc_error err;

    for (int32_t k = 0; k < world; k++) {
        shards[k] = (spc_shards){.rank = k,
                                 .world = world,
                                 .drafter_whole = 1,
                                 .state = aligned_alloc(16, most.state),
                                 .state_bytes = most.state,
                                 .answers = answers,
                                 .left = left[k]};
        rank[k] = (spc_verify_batch){
            .sequences = 1,
            .vocab = g->vocab,
            .max_drafts = DRAFTS,
            .params = &g->params,
            .drafter = {{g->logits, SPC_LOGITS_F32}, g->vocab, g->vocab},
            .drafter_row = &g->row,
            .verifier = {{g->logits + spc_shard_first(g->vocab, k, world), SPC_LOGITS_F32},
                         g->vocab,
                         g->vocab},
            .verifier_row = &g->row,
            .drafts = &g->drafts,
            .draft = g->draft,
            .stats = statistics ? g->stats : NULL,
            .position = &g->position,
            .bonus = &bonus,
            .token = token,
            .count = &count,
            .status = &status,
            .verdict = &verdict[k]};
    }
    now = spc_verify_first_bytes(&rank[0], &shards[0]);
    cr_assert_leq(now, most.first);
    for (*steps = 0; *steps == 0 || left[0][0] > 0; ++*steps) {
        cr_assert_leq(now, (size_t)SENT_MOST);
        bytes += now;
        for (int32_t k = 0; k < world; k++) {
            shards[k].send_bytes = now;
            cr_assert_eq(spc_cpu_verify_partial(&rank[k], &shards[k], *steps, NULL, &err), SPC_OK,
                         "%s", err.message);
        }
        for (int32_t k = 0; k < world; k++) {
            cr_assert_eq(spc_cpu_verify_combine(&rank[k], &shards[k], *steps, NULL, &err), SPC_OK,
                         "%s", err.message);
        }
        now = (size_t)left[0][1];
        cr_assert_leq(now, most.later);
    }
    rank[0].verifier.logits.data = g->logits;
    rank[0].verdict = &whole;
    cr_assert_eq(spc_cpu_verify_batch(&rank[0], NULL, &err), SPC_OK, "%s", err.message);
    for (int32_t k = 0; k < world; k++) {
        cr_assert(memcmp(&verdict[k], &whole, sizeof whole) == 0, "rank %d of %d", (int)k,
                  (int)world);
        cr_assert_eq(verdict[k].status, 0u);
        cr_assert_eq(verdict[k].accepted, g->drafts);
        cr_assert_eq(verdict[k].count, g->drafts + 1);
        free(shards[k].state);
    }
    free(answers);
    return bytes;
}

Test(host_shard_traffic, bytes_are_those_of_the_formulas)
{
    static const struct {
        const char *rule;
        spc_verify_mode verify;
        int32_t steps;
        size_t bytes[3][3];
    } table[] = {
        /* over 2, 4 and 8 ranks; of 32000, 128256 and 152064 tokens */
        {"strict", SPC_VERIFY_TOKEN, 2, {{280, 184, 136}, {856, 472, 280}, {1000, 568, 328}}},
        {"lossy:alpha=0.3",
         SPC_VERIFY_TOKEN,
         4,
         {{360, 232, 176}, {1128, 616, 360}, {1328, 744, 432}}},
        {"diff:alpha=0.1",
         SPC_VERIFY_TOKEN,
         2,
         {{440, 272, 184}, {1448, 776, 440}, {1696, 944, 520}}},
        {"token-v3:alpha=0.5",
         SPC_VERIFY_TOKEN,
         8,
         {{424, 264, 208}, {1384, 744, 424}, {1648, 904, 528}}},
        {"opt:alpha=0.1",
         SPC_VERIFY_TOKEN,
         8,
         {{536, 320, 232}, {1832, 968, 536}, {2176, 1184, 664}}},
        {"strict", SPC_VERIFY_BLOCK, 6, {{344, 216, 168}, {1112, 600, 344}, {1320, 728, 424}}},
    };

    for (int v = 0; v < 3; v++) {
        game g = game_of(vocabs[v]);

        for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
            set_rule(&g, table[i].rule, table[i].verify);
            for (int w = 0; w < 3; w++) {
                int32_t steps;
                const size_t bytes = sent(&g, 2 << w, true, &steps);

                cr_expect_eq(bytes, table[i].bytes[v][w], "%s: %d tokens, %d ranks: %zu",
                             table[i].rule, (int)vocabs[v], 2 << w, bytes);
                cr_expect_eq(steps, table[i].steps, "%s: %d steps", table[i].rule, (int)steps);
            }
        }
        free(g.logits);
    }
}

/* The project's promise. */
Test(host_shard_traffic, a_strict_round_stays_under_a_kibibyte)
{
    game g = game_of(128256);
    int32_t steps;

    set_rule(&g, "strict", SPC_VERIFY_TOKEN);
    cr_assert_lt(sent(&g, 4, true, &steps), 1024u);
    cr_assert_lt(sent(&g, 4, false, &steps), 1024u, "without statistics");
    free(g.logits);
}

/* Which rows are too long for that. */
Test(host_shard_traffic, limits_are_where_the_header_says)
{
    static const struct {
        const char *rule;
        spc_verify_mode verify;
        int32_t tiles;
    } most[] = {{"strict", SPC_VERIFY_TOKEN, 19},
                {"strict", SPC_VERIFY_BLOCK, 14},
                {"lossy:alpha=0.3", SPC_VERIFY_TOKEN, 14},
                {"token-v3:alpha=0.5", SPC_VERIFY_TOKEN, 11},
                {"chow:alpha=1", SPC_VERIFY_TOKEN, 10},
                {"diff:alpha=0.1", SPC_VERIFY_TOKEN, 10},
                {"opt:alpha=0.1", SPC_VERIFY_TOKEN, 8},
                {"token-v1:alpha=0.000001", SPC_VERIFY_TOKEN, 8},
                {"token-v2:alpha=0.000001", SPC_VERIFY_TOKEN, 8}};

    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        for (int32_t more = 0; more < 2; more++) {
            game g = game_of(2 * SPC_TILE * (most[i].tiles + more));
            int32_t steps;

            set_rule(&g, most[i].rule, most[i].verify);
            cr_expect_eq(sent(&g, 2, true, &steps) < 1024, more == 0, "%s: %d tiles", most[i].rule,
                         (int)(most[i].tiles + more));
            free(g.logits);
        }
    }
}

/* Sequences send what they have: no rows that do not exist, nothing once they are decided. */
Test(host_shard_traffic, ragged_batches_send_only_rows_that_exist)
{
    static const int32_t drafts[] = {5, 0, 2, 9}, bonus[] = {1, 1, 0, 1};
    const size_t row = 4 * (3 + 8 * 2);
    spc_row_params params[4];
    int64_t rows[4] = {0};
    game g = game_of(32000);
    float logits = 0;
    spc_verify_batch b = {.sequences = 4,
                          .vocab = 128256,
                          .max_drafts = DRAFTS,
                          .params = params,
                          .verifier = {{&logits, SPC_LOGITS_F32}, 128256, 128256},
                          .verifier_row = rows,
                          .drafts = drafts,
                          .bonus = bonus,
                          .position = rows};
    const spc_shards shards = {.world = 4};

    set_rule(&g, "strict", SPC_VERIFY_TOKEN);
    for (int i = 0; i < 4; i++) params[i] = g.params;
    b.drafter = b.verifier, b.drafter_row = rows, b.stats = g.stats;
    /* nine are not allowed; 1 row takes 76 bytes, with the next multiple of 8 */
    cr_assert_eq(spc_verify_first_bytes(&b, &shards), 6 * row + (row + 4) + 2 * row);
    params[0].sampling.temperature = 0;
    cr_assert_eq(spc_verify_first_bytes(&b, &shards), 6 * 4 * (3 + 8) + (row + 4) + 2 * row,
                 "greedy rows need no sums");
    b.stats = NULL;
    cr_assert_eq(spc_verify_first_bytes(&b, &shards), 11 * 4 * (3 + 8) + 4 + (row + 4) + 4 * row,
                 "the drafter's rows too");
    free(g.logits);
}
