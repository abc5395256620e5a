/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_round.c - the verbs draw, verify and edit over logits rows in host memory. */
#include "cpu_round.h"

spc_status spc_cpu_draw(const float *rows, int32_t vocab, const spc_lane *lanes, int32_t count,
                        int32_t i, const spc_chance *chance, spc_error *err)
{
    (void)err; /* a bad row is the lane's business, not the call's */
    for (int32_t k = 0; k < count; k++) {
        const spc_lane *lane = &lanes[k];

        if (i >= lane->drafts) continue;
        lane->draft[i] = spc_draft_sample_by(rows + (size_t)(lane->output + i) * (size_t)vocab,
                                             vocab, lane->params, lane->position + i, lane->salt,
                                             &lane->stats[i], chance);
    }
    return SPC_OK;
}

spc_status spc_cpu_verify(const float *drafter, const float *verifier, int32_t vocab,
                          const spc_lane *lanes, int32_t count, const spc_chance *chance,
                          spc_verdict *out, spc_error *err)
{
    (void)err;
    for (int32_t k = 0; k < count; k++) {
        const spc_lane *lane = &lanes[k];
        size_t first = (size_t)lane->output * (size_t)vocab;
        spc_verify_args args = {lane->params,
                                drafter ? drafter + first : NULL,
                                verifier + first,
                                vocab,
                                vocab,
                                vocab,
                                lane->drafts,
                                lane->draft,
                                lane->stats,
                                lane->position,
                                lane->salt,
                                lane->bonus};

        spc_verify_by(&args, chance, &out[k]);
    }
    return SPC_OK;
}

/* The tokens that a mask leaves out of 32 at a time, most of which it mostly does. */
static void mask_row(float *row, int32_t vocab, const uint32_t *allowed)
{
    for (int32_t first = 0; first < vocab; first += 32) {
        uint32_t out = ~allowed[first / 32];

        for (int32_t i = 0; out != 0 && i < 32 && first + i < vocab; i++) {
            if (out >> i & 1u) row[first + i] = -SPC_INFINITY;
        }
    }
}

void spc_cpu_edit(float *rows, int32_t vocab, const spc_edit_list *list)
{
    for (int32_t i = 0; i < list->edits; i++) {
        const spc_logit_edit *e = &list->edit[i];
        float *logit = rows + (size_t)e->row * (size_t)vocab + e->token;

        *logit = spc_logit_edited(*logit, e->factor, e->add);
    }
    for (int32_t i = 0; i < list->masks; i++) {
        mask_row(rows + (size_t)list->masked[i] * (size_t)vocab, vocab,
                 list->allowed + (size_t)i * (size_t)spc_mask_words(vocab));
    }
}
