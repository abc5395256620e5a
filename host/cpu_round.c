/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_round.c - the verbs draw and verify over logits rows in host memory. */
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
