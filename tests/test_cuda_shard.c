/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_shard.c - slices of the vocabulary on the device: to the bit what the device decides
 * over whole rows (test_cuda_verify.c compares that with the CPU).  Built twice, as that one is. */
#include "cuda/launch.h"

#define MEMORY_BYTE 0xa5 /* toybatch.h */
#include "device_memory.h"
#include "toybatch.h"

#include "toyshard.h"
#include "toyshard_device.h"

static results verify_whole(const spc_verify_batch *v, results *out, const char *what)
{
    spc_error err;

    memset(out, 0xa5, sizeof *out);
    cr_assert_eq(spc_cuda_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    ok(cudaDeviceSynchronize(), "whole rows");
    return *out;
}

Test(cuda_shard, rules_and_modes)
{
    dice d = {31};
    batch b = batch_of(9000, 9003);

    for (int r = 0; r < TOY_RULES; r++) {
        spc_row_params p = params_in_mode(toy_rules[r], (r + 1) % MODES);
        spc_verify_batch v = verify_batch(&b);
        results want;

        batch_fill(&b, &d, &p, 3.0, NULL);
        if (p.rule.path == SPC_RULE_MENTORED) v.sequences = 2; /* hundreds of steps each */
        if (r % 3 == 0) v.stats = NULL;
        want = verify_whole(&v, b.out, toy_rules[r]);
        verify_sliced(&device_shards, &v, &want, 1 + r % 4, r % 2 == 0, toy_rules[r]);
    }
    batch_free(&b);
}

Test(cuda_shard, masks_edits_half_precision_and_idle_ranks)
{
    dice d = {32};
    batch b = batch_of(13000, 13000);
    size_t entries = (size_t)SEQUENCES * ROWS * 13000;
    uint16_t *half = shared(2 * entries * sizeof *half);

    for (int m = 0; m < MODES; m++) {
        int type = m % 2 ? SPC_LOGITS_F16 : SPC_LOGITS_BF16;
        spc_row_params p = params_in_mode("token-v3:alpha=0.5", m);
        spc_verify_batch v = verify_batch(&b);
        results want;

        batch_edits(&b, &d);
        if (m % 3 == 0) v.edits = edits_of(&b);
        batch_fill(&b, &d, &p, 3.0, NULL);
        for (size_t i = 0; i < 2 * entries; i++) {
            half[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400) + 0x8000 * dice_below(&d, 2));
        }
        v.drafter.logits = (spc_logits){half, type};
        v.verifier.logits = (spc_logits){half + entries, type};
        v.drafter.width = 9000;
        v.stats = NULL;
        want = verify_whole(&v, b.out, "half");
        verify_sliced(&device_shards, &v, &want, m % 2 ? 8 : 3, m % 2 == 0, "half");
    }
    unshare(half);
    batch_free(&b);
}

Test(cuda_shard, bad_rows_and_drafts)
{
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    dice d = {33};
    batch b = batch_of(5000, 5000);

    for (int round = 0; round < 12; round++) {
        spc_row_params p = params_in_mode(toy_rules[round], round % MODES);
        spc_verify_batch v = verify_batch(&b);
        results want;

        batch_fill(&b, &d, &p, 3.0, NULL);
        v.stats = NULL;
        for (int32_t r = 0; r < SEQUENCES * ROWS; r++) {
            float *row = (dice_below(&d, 2) ? b.drafter : b.verifier) + (size_t)r * 5000;
            int kind = dice_below(&d, 8);

            if (kind < 2) row[dice_below(&d, 5000)] = poison[kind];
            for (int32_t i = 0; i < 5000 && kind == 2; i++) row[i] = poison[2];
        }
        b.draft[round] = round % 2 ? -1 : 5000;
        if (round % 4 == 0) b.drafts[2] = DRAFTS + 1;
        if (round % 4 == 1) b.params[4].sampling.top_p = 0;
        want = verify_whole(&v, b.out, "bad");
        verify_sliced(&device_shards, &v, &want, 2, round % 2 == 0, toy_rules[round]);
    }
    batch_free(&b);
}

/* As on the CPU (test_host_shard.c); and nothing is written behind what is sent. */
Test(cuda_shard, little_room_is_told_and_kept_to)
{
    enum { LITTLE = 8 }; /* bytes: not a row, nor any bins */
    dice d = {35};
    batch b = batch_of(9000, 9000);
    spc_row_params p = params_in_mode("strict", 3);
    spc_verify_batch v = verify_batch(&b);
    spc_error err;

    batch_fill(&b, &d, &p, 3.0, NULL);
    for (int32_t full = 0; full < 2; full++) { /* steps that have room: none, or the first */
        toy_ranks ranks = ranks_of(v.params, DRAFTS, v.vocab, 1, true);
        size_t first = spc_verify_first_bytes(&v, &ranks.rank[0]);
        void *answers = ranks.rank[0].answers;
        char *sent = malloc(first);

        memset(b.out, 0xa5, sizeof *b.out);
        for (int32_t step = 0; step < 40; step++) {
            send(&ranks, step < full ? first : LITTLE);
            if (step >= full) ok(cudaMemset(answers, 0x5a, first), "answers");
            cr_assert_eq(spc_cuda_verify_partial(&v, ranks.rank, step, NULL, &err), SPC_OK);
            cr_assert_eq(device_verify_combine(&v, ranks.rank, step, NULL, &err), SPC_OK);
            ok(cudaMemcpy(sent, answers, first, cudaMemcpyDeviceToHost), "answers");
            for (size_t i = LITTLE; i < first && step >= full; i++) {
                cr_assert_eq(sent[i], 0x5a, "step %d, byte %zu", (int)step, i);
            }
        }
        cr_assert_eq(*ranks.rank[0].left, 0);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            if (b.drafts[s] == 0 && !b.bonus[s]) continue; /* asks nothing */
            cr_assert_eq(b.out->status[s], (uint32_t)SPC_STATUS_BAD_PARAM, "%d: %d", (int)full,
                         (int)s);
            cr_assert_eq(b.out->count[s], 0);
        }
        free(sent);
        ranks_free(&ranks);
    }
    batch_free(&b);
}

Test(cuda_shard, draws)
{
    static const char *const rules[] = {"strict", "chow-log:alpha=1"};
    dice d = {34};
    batch b = batch_of(9000, 9001);
    draws *want = shared(sizeof *want);
    spc_error err;

    for (int round = 0; round < 2 * MODES; round++) {
        spc_row_params p = params_in_mode(rules[round % 2], round / 2);
        spc_draw_batch draw = draw_batch(&b);

        draw.plain = round % 2;
        draw.token = want->token;
        batch_fill(&b, &d, &p, 3.0, NULL);
        b.drafter[(size_t)b.row[3] * (size_t)b.stride + 5000] = NAN;
        draw = draw_to(&draw, want);
        memset(want, 0xa5, sizeof *want);
        cr_assert_eq(spc_cuda_draw_batch(&draw, NULL, &err), SPC_OK, "%s", err.message);
        ok(cudaDeviceSynchronize(), "draw");
        draw_sliced(&device_shards, &draw, want, 1 + round % 3, rules[round % 2]);
    }
    unshare(want);
    batch_free(&b);
}
