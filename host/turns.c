/* SPDX-License-Identifier: Apache-2.0 */
/* turns.c - a batch in two halves on a GPU: one drafts while the verifier works on the other.
 *
 * Every weight is then read twice as often for a token, so it pays where time follows the number of
 * rows: long contexts, verification bound by arithmetic, drafters that leave most of the device
 * idle.  Which way is faster is measured, as for drafting ahead (overlap.h), by the
 * time from one step to the next; batches of about one size are compared with each other.  A way
 * changes when no round is in flight. */
#include "round.h"

enum { TURNS_BLOCK = 64 }; /* steps that go one way together: the first of a way is slower */

/* Can they?  Rows of the drafter behind kept drafts would have to wait for the other half's. */
static bool fits(const spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    const spc_backend_ops *ops = engine->ops;

    if (count < 2 || !ops->round || ops->round_alone || engine->composed) return false;
    if (engine->turns.mode == SPC_OVERLAP_OFF || engine->chain[0].off) return false;
    for (int32_t k = 0; k < count; k++) {
        const spc_session *s = sessions[k];
        bool late = s->params.bonus == SPC_BONUS_TARGET && spc_rule_uses_drafter(&s->params.rule);

        if (s->params.rule.path == SPC_RULE_VERIFIER_ONLY || late || s->gamma < 1) return false;
        if (spc_round_looked_at(s)) return false; /* its rounds are never in flight */
    }
    return true;
}

/* 2, 3 to 4, 5 to 8, ... sessions. */
static int32_t size_class(int32_t count)
{
    int32_t class = 0;

    while (2 << class < count && class + 1 < SPC_OVERLAP_LENGTHS) class ++;
    return class;
}

bool spc_turns_choose(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    engine->turns.block = TURNS_BLOCK;
    engine->turns_fit = fits(engine, sessions, count);
    if (!engine->turns_fit) return false;
    return spc_overlap_choose(&engine->turns, size_class(count)) > 0;
}

bool spc_turns_stay(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    const spc_overlap *turns = &engine->turns;
    bool fit = fits(engine, sessions, count);
    bool wanted = turns->mode == SPC_OVERLAP_AUTO ? turns->on : turns->mode == SPC_OVERLAP_ON;
    int32_t in_turns = 0, second = 0;

    for (int32_t k = 0; k < count; k++) {
        in_turns += sessions[k]->in_turns;
        second += sessions[k]->half;
    }
    engine->turns_fit =
        fit && (wanted ? in_turns == count && second > 0 && second < count : in_turns == 0);
    if (!fit) return in_turns == 0;
    return engine->turns_fit && turns->gamma == size_class(count) && spc_overlap_stays(turns);
}

void spc_turns_note(spc_engine *engine, int32_t count)
{
    uint64_t now = spc_engine_now(engine);
    bool counts = engine->turns_fit && count > 1 && engine->turns.gamma == size_class(count);

    if (counts && engine->turn_ns > 0) {
        spc_overlap_note(&engine->turns, now - engine->turn_ns, 0, 0, 0);
    }
    engine->turn_ns = counts ? now : 0;
}
