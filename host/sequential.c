/* SPDX-License-Identifier: Apache-2.0 */
/* sequential.c - strategies that run one model at a time: here, the drafter alone. */
#include "session.h"

/* One token from the drafter for every session; the verifier is never called. */
static spc_status drafter_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                               spc_error *err)
{
    spc_lane *lane = engine->scratch.lane;
    spc_model *drafter = &engine->drafter;
    uint64_t start = spc_now_ns();
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < count && status == SPC_OK; k++) {
        spc_session *s = sessions[k];

        lane[k] = (spc_lane){&s->params, s->length, k * SPC_LANE_ROWS,    1,
                             0,          false,     s->token + s->length, s->stats};
        status = spc_feed(engine, drafter, s, s->length, s->length - 1, lane[k].output, err);
    }
    if (status == SPC_OK) status = spc_feed_flush(engine, drafter, err);
    if (status == SPC_OK) status = engine->ops->draw(drafter->runner, lane, count, 0, err);
    if (status != SPC_OK) return status;

    uint64_t share = (spc_now_ns() - start) / (uint64_t)count;

    for (int32_t k = 0; k < count; k++) {
        spc_session *s = sessions[k];

        s->counters.rounds++;
        s->counters.drafter_calls++;
        s->counters.draft_ns += share;
        if (lane[k].draft[0] < 0) {
            spc_session_fail_row(s, true, s->length);
        } else {
            (void)spc_session_keep(s, lane[k].draft[0], SPC_TOKEN_ACCEPTED, false);
        }
    }
    return SPC_OK;
}

const spc_strategy spc_strategy_drafter = {"drafter-only", drafter_step};
