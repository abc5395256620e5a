/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_batch_impossible.c - sequences of a batch with positions, rows, edits or drafts that
 * there cannot be: they say so themselves, and the others are decided as ever. */
#include "host_batches.h"

/* The others of the batch are decided as ever; statistics alone need no position. */
Test(host_batch_impossible, a_position_that_is_none_is_its_sequences_own_affair)
{
    dice d = {12};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
    spc_verify_batch v = verify_batch(&b);
    spc_draw_batch draw = draw_batch(&b);
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];

    batch_fill(&b, &d, &p, 3.0, NULL);
    b.position[1] = -1;
    b.position[2] = SPC_POSITION_MAX + 1;
    run(&v, "positions");
    for (int32_t s = 0; s < SEQUENCES; s++) {
        bool none = s == 1 || s == 2;

        cr_assert_eq(b.out->status[s], none ? (uint32_t)SPC_STATUS_BAD_PARAM : 0u, "%d", (int)s);
        cr_assert(!none || b.out->count[s] == 0);
    }
    draw.token = token;
    draw.stats = stats;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) cr_assert_eq(token[s] < 0, s == 1 || s == 2);
    draw.token = NULL;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) cr_assert_eq(stats[s].bad, 0);
    batch_free(&b);
}

/* Of rows before the first nothing is read, whoever says so: not theirs, not their edits. */
Test(host_batch_impossible, a_row_that_there_cannot_be_is_its_sequences_own_affair)
{
    dice d = {14};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
    spc_verify_batch v = verify_batch(&b);
    spc_draw_batch draw = draw_batch(&b);
    int64_t drafter_row[SEQUENCES];
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];

    batch_edits(&b, &d);
    v.edits = draw.edits = edits_of(&b);
    batch_fill(&b, &d, &p, 3.0, &v.edits);
    memcpy(drafter_row, b.row, sizeof drafter_row);
    v.drafter_row = drafter_row;
    b.row[1] = -1;
    b.row[2] = INT64_MIN;
    drafter_row[3] = -1;
    run(&v, "rows");
    for (int32_t s = 0; s < SEQUENCES; s++) {
        bool none = s >= 1 && s <= 3;

        cr_assert_eq(b.out->status[s], none ? (uint32_t)SPC_STATUS_BAD_PARAM : 0u, "%d", (int)s);
        cr_assert(!none || b.out->count[s] == 0);
    }
    v.drafter.logits.data = NULL; /* whose rows nobody asks for then */
    for (int32_t s = 0; s < SEQUENCES; s++) b.params[s].bonus = SPC_BONUS_VERIFIER;
    run(&v, "named drafts");
    cr_assert_eq(b.out->status[3], 0u);
    draw.token = token;
    draw.stats = stats;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        cr_assert_eq(token[s] < 0, s == 1 || s == 2);
        cr_assert_eq(stats[s].bad, s == 1 || s == 2);
    }
    batch_free(&b);
}

/* A row whose edits begin before the first, or end before they begin, is as bad as one of NaN. */
Test(host_batch_impossible, edits_that_there_cannot_be_make_a_row_bad)
{
    dice d = {15};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("strict", 0);
    spc_verify_batch v = verify_batch(&b);
    spc_draw_batch draw = draw_batch(&b);
    int32_t token[SEQUENCES];

    batch_edits(&b, &d);
    v.edits = draw.edits = edits_of(&b);
    batch_fill(&b, &d, &p, 3.0, &v.edits);
    memcpy(b.verifier, b.drafter, (size_t)SEQUENCES * ROWS * 60 * sizeof *b.verifier);
    b.edit_first[1 * ROWS + 1] = -7;                         /* ends the first row of sequence 1 */
    b.edit_first[3 * ROWS + 2] = INT32_MIN;                  /* the second of sequence 3 */
    b.edit_first[5 * ROWS] = b.edit_first[5 * ROWS - 1] - 1; /* the last of sequence 4 */
    run(&v, "edits");
    for (int32_t s = 0; s < SEQUENCES; s++) {
        const uint32_t want[SEQUENCES] = {
            0, SPC_STATUS_BAD_DRAFTER, 0, SPC_STATUS_BAD_DRAFTER, SPC_STATUS_BAD_VERIFIER, 0};

        cr_assert_eq(b.out->status[s], want[s], "%d: %x", (int)s, b.out->status[s]);
        cr_assert(!want[s] || b.out->count[s] == (s == 1   ? 0
                                                  : s == 3 ? 1
                                                           : 4),
                  "%d: %d", (int)s, (int)b.out->count[s]);
    }
    v.drafter.logits.data = NULL;
    run(&v, "named drafts");
    cr_assert_eq(b.out->status[1], (uint32_t)SPC_STATUS_BAD_VERIFIER);
    draw.token = token;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) cr_assert_eq(token[s] < 0, s == 1);
    batch_free(&b);
}

Test(host_batch_impossible, named_drafts_at_their_edges)
{
    dice d = {9};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
    spc_verify_batch v = verify_batch(&b);

    batch_fill(&b, &d, &p, 3.0, NULL);
    batch_edits(&b, &d);
    v.drafter.logits.data = NULL;
    run(&v, "bonus from a target that nobody can know");
    cr_assert_eq(b.out->status[1], (uint32_t)SPC_STATUS_BAD_PARAM);
    cr_assert_eq(b.out->status[0], (uint32_t)SPC_STATUS_BAD_PARAM, "nor where nothing was named");
    cr_assert_eq(b.out->count[0], 0);

    for (int32_t s = 0; s < SEQUENCES; s++) b.params[s].bonus = SPC_BONUS_VERIFIER;
    run(&v, "the verifier's own rows");
    cr_assert_eq(b.out->status[0], 0u);
    cr_assert_eq(b.out->count[0], 1);
    memset(b.allowed, 0xff, (size_t)(SEQUENCES * ROWS * batch_words(&b)) * sizeof *b.allowed);
    for (int32_t s = 1; s < SEQUENCES; s++) { /* the first draft is not allowed */
        b.allowed[b.row[s] * batch_words(&b) + b.draft[s * DRAFTS] / 32] &=
            ~(1u << (b.draft[s * DRAFTS] % 32));
    }
    v.edits.allowed = b.allowed;
    v.edits.allowed_stride = batch_words(&b);
    run(&v, "masked");
    for (int32_t s = 1; s < SEQUENCES; s++) {
        if (b.drafts[s] == 0) continue;
        cr_assert_eq(b.out->accepted[s], 0, "a draft that is not allowed is rejected");
        cr_assert_eq(b.out->count[s], 1);
        cr_assert_eq(b.out->status[s], 0u);
        cr_assert_neq(b.out->token[s * ROWS], b.draft[s * DRAFTS]);
    }

    for (int32_t s = 1; s < SEQUENCES; s++) b.draft[s * DRAFTS] = s % 2 ? -1 : 60;
    v.edits.allowed = NULL;
    run(&v, "no tokens");
    for (int32_t s = 1; s < SEQUENCES; s++) {
        if (b.drafts[s] == 0) continue;
        cr_assert_eq(b.out->count[s], 0);
        cr_assert(b.out->status[s] & SPC_STATUS_BAD_DRAFT);
        cr_assert(b.out->status[s] & SPC_STATUS_BAD_DRAFTER);
    }
    batch_free(&b);
}
