/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_batch.c - the batch calls over host memory: one sequence at a time they are spc_verify
 * and spc_draft_sample over rows that somebody has edited by hand. */
#include "host_batches.h"

#include <stdlib.h>
#include <sys/mman.h>

Test(host_batch, is_verify_for_every_sequence)
{
    dice d = {3};
    batch b = batch_of(300, 304);

    for (int r = 0; r < TOY_RULES; r++) {
        spc_row_params p = params_in_mode(toy_rules[r], r % MODES);
        spc_verify_batch v = verify_batch(&b);

        batch_fill(&b, &d, &p, 3.0, NULL);
        run(&v, toy_rules[r]);
        expect_one_by_one(&b, b.drafter, b.verifier, true, toy_rules[r]);
        v.stats = NULL;
        v.detail = NULL;
        run(&v, toy_rules[r]);
        expect_one_by_one(&b, b.drafter, b.verifier, false, toy_rules[r]);
    }
    batch_free(&b);
}

/* A row as the edits and a width leave it. */
static void edit_by_hand(const batch *b, float *rows, int32_t width)
{
    for (int32_t r = 0; r < SEQUENCES * ROWS; r++) {
        float *row = rows + (size_t)r * (size_t)b->stride;
        const uint32_t *allowed = b->allowed + r * batch_words(b);

        for (int32_t e = b->edit_first[r]; e < b->edit_first[r + 1]; e++) {
            row[b->edit_token[e]] += b->edit_value[e];
        }
        for (int32_t v = 0; v < b->vocab; v++) {
            if (v >= width || !(allowed[v / 32] >> (v % 32) & 1u)) row[v] = -INFINITY;
        }
    }
}

static float *copy_of(const batch *b, const float *rows)
{
    size_t bytes = (size_t)SEQUENCES * ROWS * (size_t)b->stride * sizeof *rows;

    return memcpy(shared(bytes), rows, bytes);
}

Test(host_batch, masks_edits_and_widths_are_what_a_hand_would_write)
{
    static const int32_t vocabs[] = {40, 4096, 9000}, widths[] = {40, 4000, 4097};
    dice d = {5};

    for (int i = 0; i < 3; i++) {
        batch b = batch_of(vocabs[i], vocabs[i] + 1);

        for (int r = i; r < TOY_RULES; r += 5) {
            spc_row_params p = params_in_mode(toy_rules[r], (r + i) % MODES);
            spc_verify_batch v = verify_batch(&b);
            spc_edits edits;

            batch_edits(&b, &d);
            edits = edits_of(&b);
            batch_fill(&b, &d, &p, 3.0, &edits);

            float *drafter = copy_of(&b, b.drafter), *verifier = copy_of(&b, b.verifier);

            edit_by_hand(&b, drafter, widths[i]);
            edit_by_hand(&b, verifier, vocabs[i]);
            v.edits = edits;
            v.drafter.width = widths[i];
            v.stats = NULL;
            run(&v, toy_rules[r]);
            expect_one_by_one(&b, drafter, verifier, false, toy_rules[r]);
            for (int32_t s = 0; s < SEQUENCES; s++) {
                int32_t n = b.out->accepted[s];

                if (b.out->count[s] <= n) continue;
                const uint32_t *allowed = b.allowed + ((int32_t)b.row[s] + n) * batch_words(&b);
                int32_t token = b.out->token[s * ROWS + n];

                cr_assert(allowed[token / 32] >> (token % 32) & 1u, "a token outside the mask");
            }
            free(drafter);
            free(verifier);
        }
        batch_free(&b);
    }
}

/* Drafts that come without a distribution are drafts from rows with one finite logit. */
Test(host_batch, drafts_without_a_distribution)
{
    dice d = {7};
    batch b = batch_of(60, 60);
    int taken = 0;

    for (int r = 0; r < TOY_RULES; r++) {
        for (int m = 0; m < MODES; m++) {
            spc_row_params p = params_in_mode(toy_rules[r], m);
            spc_verify_batch v = verify_batch(&b);
            bool takes = spc_rule_takes_names(p.rule.path);

            p.bonus = SPC_BONUS_VERIFIER;
            batch_fill(&b, &d, &p, 3.0, NULL);
            for (int32_t i = 0; i < SEQUENCES * DRAFTS; i++) b.draft[i] = dice_below(&d, 60);
            for (int32_t i = 0; i < SEQUENCES * ROWS * 60; i++) b.drafter[i] = -INFINITY;
            for (int32_t s = 0; s < SEQUENCES; s++) {
                for (int32_t i = 0; i < DRAFTS; i++) {
                    b.drafter[(s * ROWS + i) * 60 + b.draft[s * DRAFTS + i]] = 5;
                }
            }
            v.drafter.logits.data = NULL;
            v.drafter_row = NULL;
            run(&v, toy_rules[r]);
            if (!takes) {
                cr_assert_eq(b.out->status[1], (uint32_t)SPC_STATUS_BAD_PARAM, "%s", toy_rules[r]);
                cr_assert_eq(b.out->count[1], 0);
                continue;
            }
            taken++;
            b.drafts[0] = b.drafts[5] = 1; /* without a draft there is no row to compare with */
            run(&v, toy_rules[r]);
            expect_one_by_one(&b, b.drafter, b.verifier, false, toy_rules[r]);
        }
    }
    cr_assert_geq(taken, 9 * MODES);
    batch_free(&b);
}

/* Under bonus=step the last row has a draft of its own, and no row lies behind it: nothing is drawn
 * there, whatever `bonus` says.  A round without drafts draws. */
Test(host_batch, no_token_is_drawn_behind_the_drafts_of_a_step)
{
    static const char *const rules[] = {"strict", "opt:alpha=0.1", "cactus:delta=0.2"};
    dice d = {10};
    batch b = batch_of(60, 60);
    spc_verify_batch v = verify_batch(&b);
    int32_t kept = 0;

    v.bonus = NULL;
    for (int i = 0; i < 30; i++) {
        spc_row_params p = params_in_mode(rules[i % 3], 0);

        p.bonus = SPC_BONUS_STEP;
        batch_fill(&b, &d, &p, 1.0, NULL);
        memcpy(b.verifier, b.drafter, SEQUENCES * ROWS * 60 * sizeof *b.verifier);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            float *behind = b.verifier + (s * ROWS + b.drafts[s]) * 60;

            for (int32_t t = 0; t < 60 && b.drafts[s] > 0; t++) behind[t] = NAN;
            b.bonus[s] = 1;
        }
        run(&v, rules[i % 3]);
        expect_one_by_one(&b, b.drafter, b.verifier, true, rules[i % 3]);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            cr_assert_eq(b.out->status[s], 0u, "%s", rules[i % 3]);
            cr_assert_eq(b.out->count[s], b.drafts[s] > 0 ? b.drafts[s] : 1);
            kept += b.out->accepted[s];
        }
    }
    cr_assert_eq(kept, 30 * (0 + 1 + 2 + 3 + 4 + 0), "rows are equal");
    batch_free(&b);
}

Test(host_batch, half_precision_rows_are_their_float_values)
{
    dice d = {13};
    batch b = batch_of(5000, 5000);
    size_t entries = (size_t)SEQUENCES * ROWS * 5000;
    uint16_t *half = shared(2 * entries * sizeof *half);

    for (int round = 0; round < 2 * MODES; round++) {
        int type = round % 2 ? SPC_LOGITS_F16 : SPC_LOGITS_BF16;
        spc_row_params p = params_in_mode("token-v3:alpha=0.5", round / 2);
        spc_verify_batch v = verify_batch(&b);

        batch_fill(&b, &d, &p, 2.0, NULL);
        for (size_t i = 0; i < 2 * entries; i++) {
            float *to = i < entries ? &b.drafter[i] : &b.verifier[i - entries];

            half[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400) + 0x8000 * dice_below(&d, 2));
            *to = spc_logit((spc_logits){half, type}, (int64_t)i);
        }
        v.drafter.logits = (spc_logits){half, type};
        v.verifier.logits = (spc_logits){half + entries, type};
        v.stats = NULL;
        run(&v, "half");
        expect_one_by_one(&b, b.drafter, b.verifier, false, "half");
    }
    free(half);
    batch_free(&b);
}

Test(host_batch, only_the_living_are_touched)
{
    dice d = {19};
    batch b = batch_of(40, 40);
    spc_row_params p = params_in_mode("strict", 0);
    spc_verify_batch v = verify_batch(&b);

    batch_fill(&b, &d, &p, 2.0, NULL);
    v.live = b.live;
    for (int32_t live = -1; live <= SEQUENCES + 1; live++) {
        *b.live = live;
        memset(b.out, 0x5a, sizeof *b.out);
        run(&v, "live");
        for (int32_t s = 0; s < SEQUENCES; s++) {
            cr_assert_eq(b.out->count[s] == 0x5a5a5a5a, s >= live, "%d live, sequence %d", live, s);
        }
    }
    batch_free(&b);
}

/* Where a block begins is known to the round, and to nobody who draws a draft. */
Test(host_batch, salts_of_blocks_are_found_or_refused)
{
    dice d = {17};
    batch b = batch_of(60, 60);
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];

    for (int round = 0; round < 40; round++) {
        spc_row_params p = params_in_mode(toy_rules[round % TOY_RULES], 0);
        spc_verify_batch v = verify_batch(&b);
        spc_draw_batch draw = draw_batch(&b);

        p.seed = (uint64_t)round * 100;
        p.verify = round % 2 ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
        batch_fill(&b, &d, &p, 2.0, NULL);
        b.position[3] = (int64_t)1 << 32 | 0xffffffff; /* salt 0 */
        b.salt[3] = 0;
        v.salt = NULL;
        run(&v, toy_rules[round % TOY_RULES]);
        expect_one_by_one(&b, b.drafter, b.verifier, true, toy_rules[round % TOY_RULES]);

        draw.salt = NULL;
        draw.token = token;
        draw.stats = stats;
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
        cr_assert_eq(token[2] < 0 && stats[2].bad, p.verify == SPC_VERIFY_BLOCK);
        draw.plain = 1;
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
        cr_assert_eq(token[2], spc_plain_sample(b.drafter + b.row[2] * b.stride, b.vocab,
                                                &b.params[2], b.position[2], &stats[0]));
        draw.plain = 0;
        draw.token = NULL;
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
        cr_assert_eq(stats[2].bad, 0, "statistics need no salt");
    }
    batch_free(&b);
}

/* Rows further from each other than 32 bits of elements count. */
Test(host_batch, rows_may_lie_beyond_the_reach_of_32_bits)
{
    enum { VOCAB = 300 };
    const int64_t stride = ((int64_t)1 << 32) + 8;
    const size_t bytes = (size_t)(2 * stride) * sizeof(uint16_t);
    uint16_t *rows = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint16_t near[VOCAB];
    spc_row_params p = params_of("strict", 1);
    const int64_t row = 1, first = 0, position = 5;
    int32_t far_token, near_token;
    spc_row_stats far_stats, near_stats;
    dice d = {31};

    if (rows == MAP_FAILED) cr_skip_test("no address space for 17 GB");
    for (int32_t v = 0; v < VOCAB; v++) {
        near[v] = (uint16_t)(0x3c00 + dice_below(&d, 0x400));
        rows[stride + v] = near[v];
    }

    spc_draw_batch b = {
        .sequences = 1,
        .vocab = VOCAB,
        .params = &p,
        .logits = {.logits = {rows, SPC_LOGITS_BF16}, .stride = stride, .width = VOCAB},
        .row = &row,
        .position = &position,
        .token = &far_token,
        .stats = &far_stats};

    cr_assert_eq(spc_cpu_draw_batch(&b, NULL, NULL), SPC_OK);
    b.logits = (spc_logit_rows){.logits = {near, SPC_LOGITS_BF16}, .stride = VOCAB, .width = VOCAB};
    b.row = &first;
    b.token = &near_token;
    b.stats = &near_stats;
    cr_assert_eq(spc_cpu_draw_batch(&b, NULL, NULL), SPC_OK);
    cr_assert(far_token == near_token && memcmp(&far_stats, &near_stats, sizeof far_stats) == 0);
    cr_assert_eq(munmap(rows, bytes), 0);
}

/* At most 1 MiB, and 64 bytes for every tile of the rows of both models and the bonus. */
Test(host_batch, workspaces_are_small_for_every_shape)
{
    static const int32_t sequences[] = {1, 2, 16, 64, 128, 193, 256, 1000, 4096};
    static const int32_t vocabs[] = {1,      4096,   4097,   32000,        50257,
                                     128256, 151936, 262144, SPC_VOCAB_MAX};

    for (size_t n = 0; n < sizeof sequences / sizeof *sequences; n++) {
        for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
            for (int32_t drafts = 0; drafts <= SPC_GAMMA_MAX + 1; drafts++) {
                size_t rows = (size_t)sequences[n] * (2 * (size_t)drafts + 1);
                size_t bytes = spc_workspace_bytes(sequences[n], drafts, vocabs[i]);

                cr_assert_leq(bytes,
                              ((size_t)1 << 20) + 64 * rows * (size_t)spc_tile_count(vocabs[i]),
                              "%d sequences of %d drafts, %d tokens: %zu", (int)sequences[n],
                              (int)drafts, (int)vocabs[i], bytes);
                cr_assert_geq(bytes, rows * (size_t)spc_tile_count(vocabs[i]) * 16);
            }
        }
    }
}
