/* SPDX-License-Identifier: Apache-2.0 */
/* details.c - why each token of a round came about, and how probable it was to the verifier, for
 * sessions that ask.
 *
 * Wherever a round was decided, the host looks at its rows once more: they come to it from devices
 * and ranks as they do for any reader of logits, so no backend has to know of this. */
#include "logprobs.h"
#include "session.h"

#include <spc/verify.h>

/* Rows output .. output + count - 1, where the host can read them; NULL when count is 0. */
static spc_status read_rows(spc_engine *engine, spc_model *model, int32_t output, int32_t count,
                            const float **rows, spc_error *err)
{
    spc_status status;

    *rows = NULL;
    if (count == 0) return SPC_OK;
    status = spc_feed_read(engine, model, output, count, err);
    if (status != SPC_OK) return status;
    *rows = engine->ops->logits(model->runner, output);
    /* each of them may have to be copied from a device, to behind the one before */
    for (int32_t i = 1; i < count; i++) (void)engine->ops->logits(model->runner, output + i);
    return SPC_OK;
}

/* Rows of the drafter that the verdict was reached by. */
static int32_t drafter_rows(const spc_lane *lane, const spc_verdict *v)
{
    bool bonus = v->count > lane->drafts && spc_lane_bonus_reads(lane);

    return v->count < lane->drafts ? v->count : lane->drafts + bonus;
}

/* Rows of the verifier [v->count] come with it. */
static spc_status note_details(spc_session *s, const spc_lane *lane, const spc_verdict *v,
                               const float *verifier, spc_error *err)
{
    spc_engine *engine = s->engine;
    spc_token_detail *to = s->detail + (s->length - s->prompt);
    int32_t room = s->detail_room - (s->length - s->prompt);
    spc_row_detail row[SPC_GAMMA_MAX + 2];
    spc_verify_args args = {.params = lane->params,
                            .verifier = verifier,
                            .drafter_stride = engine->vocab,
                            .verifier_stride = engine->vocab,
                            .vocab = engine->vocab,
                            .drafts = lane->drafts,
                            .draft = lane->draft,
                            .stats = lane->stats,
                            .position = lane->position,
                            .salt = lane->salt,
                            .bonus = true};
    spc_status status = SPC_OK;

    if (engine->drafter.runner) { /* drafts that were looked up have no rows */
        status = read_rows(engine, &engine->drafter, lane->output, drafter_rows(lane, v),
                           &args.drafter, err);
    }
    if (status != SPC_OK) return status;
    spc_verify_describe(&args, v, row);
    for (int32_t i = 0; i < v->count && i < room; i++) {
        to[i].draft = i < lane->drafts ? lane->draft[i] : -1;
        to[i].row = row[i];
    }
    return SPC_OK;
}

static void note_logprobs(spc_session *s, const spc_verdict *v, const float *verifier)
{
    const int32_t vocab = s->engine->vocab, kept = s->length - s->prompt;

    for (int32_t i = 0; i < v->count && kept + i < s->detail_room; i++) {
        spc_logprobs_of(verifier + (int64_t)i * vocab, vocab, v->token[i], s->top_logprobs,
                        spc_session_logprob_room(s, kept + i));
    }
}

static spc_status note(spc_session *s, const spc_lane *lane, const spc_verdict *v, spc_error *err)
{
    const float *verifier;
    spc_status status =
        read_rows(s->engine, &s->engine->verifier, lane->output, v->count, &verifier, err);

    if (status != SPC_OK || v->count == 0) return status;
    if (s->logprobs) note_logprobs(s, v, verifier);
    return s->detail ? note_details(s, lane, v, verifier, err) : SPC_OK;
}

spc_status spc_details_note(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        if (!sessions[k]->detail && !sessions[k]->logprobs) continue;
        status = note(sessions[k], &engine->scratch.lane[k], &engine->scratch.verdict[k], err);
    }
    return status;
}
