/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_shard.c - drawing and verification over slices of the vocabulary are, to the bit, what
 * they are over whole rows, for any number of ranks. */
#include "host_memory.h"
#include "toybatch.h"

#include <stdlib.h>

#include "toyshard.h"

static const toy_shard_calls cpu = {spc_cpu_verify_partial, spc_cpu_verify_combine,
                                    spc_cpu_draw_partial, spc_cpu_draw_combine};

/* v writes to out. */
static results verify_whole(const spc_verify_batch *v, results *out, const char *what)
{
    spc_error err;

    memset(out, 0xa5, sizeof *out);
    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    return *out;
}

Test(host_shard, every_rule_and_mode_for_any_number_of_ranks)
{
    static const int32_t vocabs[] = {9000, 4096 * 5, 40};
    dice d = {11};

    for (int i = 0; i < 3; i++) {
        batch b = batch_of(vocabs[i], vocabs[i] + 3);

        for (int r = 0; r < TOY_RULES; r++) {
            for (int m = (r + i) % 2; m < MODES; m += 2) {
                spc_row_params p = params_in_mode(toy_rules[r], m);
                spc_verify_batch v = verify_batch(&b);
                results want;

                batch_fill(&b, &d, &p, 3.0, NULL);
                if ((r + m) % 3 == 0) v.stats = NULL;
                want = verify_whole(&v, b.out, toy_rules[r]);
                for (int32_t world = 1; world <= 4; world += r % 2 == 0 ? 1 : 2) {
                    verify_sliced(&cpu, &v, &want, world, (r + world) % 2 == 0, toy_rules[r]);
                }
            }
        }
        batch_free(&b);
    }
}

Test(host_shard, masks_edits_and_narrow_drafters)
{
    dice d = {12};
    batch b = batch_of(13000, 13000);

    for (int r = 0; r < TOY_RULES; r += 2) {
        spc_row_params p = params_in_mode(toy_rules[r], r % MODES);
        spc_verify_batch v = verify_batch(&b);
        results want;

        batch_edits(&b, &d);
        v.edits = edits_of(&b);
        batch_fill(&b, &d, &p, 3.0, &v.edits);
        v.drafter.width = 4096 + r % 3 * 2000; /* nothing for some ranks */
        v.stats = NULL;
        want = verify_whole(&v, b.out, toy_rules[r]);
        verify_sliced(&cpu, &v, &want, 3, false, toy_rules[r]);
        verify_sliced(&cpu, &v, &want, 8, true, toy_rules[r]); /* ranks without a tile */
    }
    batch_free(&b);
}

Test(host_shard, drafts_without_a_distribution)
{
    dice d = {14};
    batch b = batch_of(9000, 9000);

    for (int r = 0; r < TOY_RULES; r++) {
        spc_row_params p = params_in_mode(toy_rules[r], r % MODES);
        spc_verify_batch v = verify_batch(&b);
        results want;

        p.bonus = SPC_BONUS_VERIFIER;
        batch_fill(&b, &d, &p, 3.0, NULL);
        v.drafter.logits.data = NULL;
        v.drafter_row = NULL;
        v.stats = NULL;
        want = verify_whole(&v, b.out, toy_rules[r]);
        verify_sliced(&cpu, &v, &want, 2, true, toy_rules[r]);
    }
    batch_free(&b);
}

Test(host_shard, rows_of_half_precision)
{
    dice d = {16};
    batch b = batch_of(9000, 9000);
    size_t entries = (size_t)SEQUENCES * ROWS * 9000;
    uint16_t *half = shared(2 * entries * sizeof *half);

    for (int round = 0; round < 2 * MODES; round++) {
        int type = round % 2 ? SPC_LOGITS_F16 : SPC_LOGITS_BF16;
        spc_row_params p = params_in_mode("token-v3:alpha=0.5", round / 2);
        spc_verify_batch v = verify_batch(&b);
        results want;

        batch_fill(&b, &d, &p, 2.0, NULL);
        for (size_t i = 0; i < 2 * entries; i++) {
            half[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400) + 0x8000 * dice_below(&d, 2));
        }
        v.drafter.logits = (spc_logits){half, type};
        v.verifier.logits = (spc_logits){half + entries, type};
        v.stats = NULL;
        want = verify_whole(&v, b.out, "half");
        verify_sliced(&cpu, &v, &want, 3, round % 3 == 0, "half");
    }
    unshare(half);
    batch_free(&b);
}

/* NaN, infinities, empty rows and drafts that are none, also where the round over whole rows never
 * looks. */
Test(host_shard, bad_rows_and_drafts)
{
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    dice d = {18};
    batch b = batch_of(9000, 9000);
    uint32_t seen = 0;

    for (int round = 0; round < 60; round++) {
        spc_row_params p = params_in_mode(toy_rules[round % TOY_RULES], round % MODES);
        spc_verify_batch v = verify_batch(&b);
        results want;

        batch_fill(&b, &d, &p, 3.0, NULL);
        v.stats = NULL;
        for (int32_t r = 0; r < SEQUENCES * ROWS; r++) {
            float *row = (dice_below(&d, 2) ? b.drafter : b.verifier) + (size_t)r * 9000;
            int kind = dice_below(&d, 8);

            if (kind < 2) row[dice_below(&d, 9000)] = poison[kind];
            for (int32_t i = 0; i < 9000 && kind == 2; i++) row[i] = poison[2];
        }
        for (int32_t i = 0; i < SEQUENCES * DRAFTS; i++) {
            if (dice_below(&d, 9) == 0) b.draft[i] = i % 2 ? -1 : 9000;
        }
        if (round % 7 == 0) b.drafts[2] = DRAFTS + 1;
        if (round % 7 == 1) b.params[4].sampling.top_p = 0;
        if (round % 7 == 2) b.row[3] = -1;
        want = verify_whole(&v, b.out, "bad");
        for (int32_t s = 0; s < SEQUENCES; s++) seen |= want.status[s];
        verify_sliced(&cpu, &v, &want, 1 + round % 3, round % 2 == 0, toy_rules[round % TOY_RULES]);
    }
    cr_assert_eq(seen & (SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER | SPC_STATUS_BAD_DRAFT |
                         SPC_STATUS_BAD_PARAM),
                 SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER | SPC_STATUS_BAD_DRAFT |
                     SPC_STATUS_BAD_PARAM);
    batch_free(&b);
}

Test(host_shard, draws)
{
    static const char *const rules[] = {"strict", "diff:alpha=0.1", "chow-log:alpha=1",
                                        "diff-log:alpha=0.1,gate=processed"};
    spc_rule sequential;
    dice d = {20};
    batch b = batch_of(17000, 17001);
    draws *want = shared(sizeof *want);
    spc_error err;

    for (int round = 0; round < 4 * MODES; round++) {
        spc_row_params p = params_in_mode(rules[round % 4], round / 4);
        spc_draw_batch draw = draw_batch(&b);

        draw.plain = round % 2;
        draw.token = want->token;
        batch_fill(&b, &d, &p, 3.0, NULL);
        b.drafter[(size_t)b.row[3] * (size_t)b.stride + 5000] = NAN;
        b.params[4].sampling.min_p = round % 3 == 0 ? 2.0f : 0.0f;
        cr_assert(spc_rule_parse("token-chow:alpha=0.3", &sequential, NULL));
        b.params[5].rule = sequential; /* decides nothing, and can be drawn under */
        if (round % 7 == 3) draw.salt = NULL;
        if (round % 5 == 4) draw.token = NULL;
        draw = draw_to(&draw, want);
        memset(want, 0xa5, sizeof *want);
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, &err), SPC_OK, "%s", err.message);
        for (int32_t world = 1; world <= 5; world += 2) {
            draw_sliced(&cpu, &draw, want, world, rules[round % 4]);
        }
    }
    unshare(want);
    batch_free(&b);
}

Test(host_shard, steps)
{
    static const struct {
        const char *rule;
        int32_t steps;
    } most[] = {{"strict", 2},
                {"lossy:alpha=0.3", 2},
                {"diff:alpha=0.1", 2},
                {"chow:alpha=0.5", 2},
                {"token-v3:alpha=0.5", 3}};
    dice d = {22};
    batch b = batch_of(9000, 9000);

    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        spc_row_params p = params_in_mode(most[i].rule, 0);
        spc_verify_batch v = verify_batch(&b);
        results want;

        p.bonus = SPC_BONUS_VERIFIER;
        batch_fill(&b, &d, &p, 3.0, NULL);
        v.detail = NULL;
        for (int32_t s = 0; s < SEQUENCES; s++) b.drafts[s] += b.drafts[s] == 0;
        want = verify_whole(&v, b.out, most[i].rule);
        cr_assert_leq(verify_sliced(&cpu, &v, &want, 2, true, most[i].rule), most[i].steps, "%s",
                      most[i].rule);
    }
    batch_free(&b);
}

Test(host_shard, more_steps_change_nothing_and_little_room_is_told)
{
    dice d = {24};
    batch b = batch_of(9000, 9000);
    spc_row_params p = params_in_mode("strict", 3);
    spc_verify_batch v = verify_batch(&b);
    results want;
    spc_error err;

    batch_fill(&b, &d, &p, 3.0, NULL);
    want = verify_whole(&v, b.out, "strict");

    toy_ranks ranks = ranks_of(v.params, DRAFTS, v.vocab, 1, true);
    spc_shard_bytes most = spc_shard_sizes(v.params, SEQUENCES, DRAFTS, v.vocab, 1);

    memset(b.out, 0xa5, sizeof *b.out);
    send(&ranks, SEQUENCES * (most.first > most.later ? most.first : most.later));
    for (int32_t step = 0; step < 100; step++) {
        cr_assert_eq(spc_cpu_verify_partial(&v, ranks.rank, step, NULL, &err), SPC_OK);
        cr_assert_eq(spc_cpu_verify_combine(&v, ranks.rank, step, NULL, &err), SPC_OK);
    }
    cr_assert_eq(*ranks.rank[0].left, 0);
    expect_same_results(b.out, &want, "100 steps");

    send(&ranks, 8); /* not a row */
    for (int32_t step = 0; step < 100; step++) {
        cr_assert_eq(spc_cpu_verify_partial(&v, ranks.rank, step, NULL, &err), SPC_OK);
        cr_assert_eq(spc_cpu_verify_combine(&v, ranks.rank, step, NULL, &err), SPC_OK);
    }
    cr_assert_eq(*ranks.rank[0].left, 0);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        if (b.drafts[s] == 0 && !b.bonus[s]) continue; /* asks nothing */
        cr_assert_eq(b.out->status[s], (uint32_t)SPC_STATUS_BAD_PARAM);
        cr_assert_eq(b.out->count[s], 0);
    }
    ranks_free(&ranks);
    batch_free(&b);
}

static void expect_refused(const spc_verify_batch *v, spc_shards shards, int32_t step,
                           const char *field)
{
    spc_error err;

    cr_assert_eq(spc_cpu_verify_partial(v, &shards, step, NULL, &err), SPC_EUSAGE);
    cr_assert_not_null(strstr(err.message, field), "%s: %s", field, err.message);
    cr_assert_eq(spc_cpu_verify_combine(v, &shards, step, NULL, &err), SPC_EUSAGE);
}

Test(host_shard, misuse_is_named)
{
    dice d = {26};
    batch b = batch_of(9000, 9000);
    spc_row_params p = params_in_mode("strict", 0);
    spc_verify_batch v = verify_batch(&b);
    static const spc_subset subset[1];
    toy_ranks ranks;
    spc_shards s;

    batch_fill(&b, &d, &p, 3.0, NULL);
    ranks = ranks_of(v.params, DRAFTS, v.vocab, 1, true);
    s = ranks.rank[0];
    s.world = 0, expect_refused(&v, s, 0, "shards.world"), s.world = 1;
    s.rank = 1, expect_refused(&v, s, 0, "shards.rank"), s.rank = 0;
    expect_refused(&v, s, -1, "step");
    s.left = NULL, expect_refused(&v, s, 0, "shards.left"), s.left = ranks.rank[0].left;
    s.state = NULL, expect_refused(&v, s, 0, "shards.state"), s.state = ranks.rank[0].state;
    s.state = (char *)s.state + 8, expect_refused(&v, s, 0, "shards.state");
    s = ranks.rank[0];
    s.answers = (char *)s.answers + 8, expect_refused(&v, s, 0, "shards.answers");
    s = ranks.rank[0];
    s.state_bytes = 64, expect_refused(&v, s, 0, "state_bytes");
    s.state_bytes = SIZE_MAX / 16 * 16, expect_refused(&v, s, 0, "state_bytes");
    s = ranks.rank[0];
    s.send_bytes = (size_t)-1024, expect_refused(&v, s, 0, "send_bytes");
    s.send_bytes = (size_t)1 << 40, expect_refused(&v, s, 0, "send_bytes");
    s.send_bytes = (size_t)(SEQUENCES + 1) << 20;
    s.answers = aligned_alloc(16, s.send_bytes);
    cr_assert_eq(spc_verify_shards_check(&v, &s, 0, NULL), SPC_OK, "more than is needed");
    free(s.answers);
    s = ranks.rank[0];
    s.left = (int64_t *)((char *)s.state + SEQUENCES * s.state_bytes) - 1;
    expect_refused(&v, s, 0, "where shards.left is too");
    s.left = ranks.rank[0].left, s.state = s.answers;
    expect_refused(&v, s, 0, "shards.state: expected memory of its own");
    s = ranks.rank[0];
    cr_assert_eq(spc_verify_shards_check(&v, NULL, 0, NULL), SPC_EUSAGE);
    cr_assert_eq(spc_verify_shards_check(NULL, &s, 0, NULL), SPC_EUSAGE);
    cr_assert_eq(spc_draw_shards_check(NULL, &s, 0, NULL), SPC_EUSAGE);
    s.drafter_whole = 0;
    v.drafter.subset = subset;
    expect_refused(&v, s, 0, "drafter.subset: expected NULL for slices");
    v.drafter.subset = NULL;
    v.verifier.subset = subset;
    expect_refused(&v, s, 0, "verifier.subset: expected NULL for slices");
    v.verifier.subset = NULL;
    s = ranks.rank[0];
    v.verifier.stride = 8999;
    expect_refused(&v, s, 0, "verifier.stride");
    s.world = 3; /* each has a tile: 4096 elements are enough */
    spc_error err;

    cr_assert_eq(spc_verify_shards_check(&v, &s, 0, &err), SPC_OK, "%s", err.message);
    v.verifier.stride = 3000; /* a third of the vocabulary */
    expect_refused(&v, s, 0, "the slice of spc_shard_first, 4096, found 3000");
    ranks_free(&ranks);
    batch_free(&b);
}

/* An output layer that is padded to whole tiles for every rank is cut into equal parts: what the
 * header promises to stacks that cut theirs so. */
Test(host_shard, padded_to_whole_tiles_for_every_rank_parts_are_equal)
{
    for (int32_t world = 1; world <= SPC_SHARDS_MAX; world++) {
        for (int32_t tiles = 1; tiles <= 4; tiles++) {
            const int32_t part = tiles * SPC_TILE;

            if (part > SPC_VOCAB_MAX / world) continue;
            for (int32_t r = 0; r <= world; r++) {
                cr_assert_eq(spc_shard_first(world * part, r, world), r * part);
            }
        }
    }
    for (int32_t world = 1; world <= 32; world *= 2) {
        cr_assert_eq(spc_shard_first(131072, 1, world), 131072 / world);
    }
    cr_assert_eq(spc_shard_first(131072, -1, 4), -1);
    cr_assert_eq(spc_shard_first(131072, 5, 4), -1);
    cr_assert_eq(spc_shard_first(131072, 0, 0), -1);
    cr_assert_eq(spc_shard_first(131072, 0, SPC_SHARDS_MAX + 1), -1);
    cr_assert_eq(spc_shard_first(0, 0, 1), -1);
    cr_assert_eq(spc_shard_first(SPC_VOCAB_MAX + 1, 0, 1), -1);
}

/* What any round may send stays below what check_shards lets pass, and sizes out of range are none.
 */
Test(host_shard, sizes_are_bounded)
{
    spc_row_params p = params_of("opt-log:alpha=0.1", 1);
    const struct {
        int32_t count, max_drafts, vocab, world;
    } none[] = {{0, 4, 9000, 2},  {-1, 4, 9000, 2},   {1, -1, 9000, 2}, {1, 18, 9000, 2},
                {1, 4, 0, 2},     {1, 4, 1 << 21, 2}, {1, 4, 9000, 0},  {1, 4, 9000, -1},
                {1, 4, 9000, 65}, {1, 31, 9000, 2}};
    spc_shard_bytes most = spc_shard_sizes(&p, 1, SPC_GAMMA_MAX + 1, SPC_VOCAB_MAX, 1);

    cr_expect_lt(most.first, (size_t)1 << 20);
    cr_expect_lt(most.later, (size_t)1 << 20);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        most = spc_shard_sizes(&p, none[i].count, none[i].max_drafts, none[i].vocab, none[i].world);
        cr_expect(most.state == 0 && most.first == 0 && most.later == 0, "case %zu", i);
    }
}
