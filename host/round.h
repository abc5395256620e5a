/* SPDX-License-Identifier: Apache-2.0 */
/* round.h - between round.c, which composes rounds from the verbs and keeps what they decide, and
 * round_backend.c, which has the backend run them. */
#ifndef SPC_HOST_ROUND_H
#define SPC_HOST_ROUND_H

#include "session.h"

/* Is the last row of a round a draft like the others? */
bool spc_round_steps(const spc_session *session);

/* Longest draft of a round, as it was chosen. */
int32_t spc_round_longest(spc_session *const *sessions, int32_t count);

/* What the drawn token means for the rest of the draft: none behind an end of sequence, none behind
 * a row that gave no token. */
void spc_round_drafted(spc_session *session, spc_lane *lane, int32_t i);

/* Is a token to be drawn after a fully kept draft?  Not where the draft ends the sequence or broke
 * off, and not where the last row was a draft itself (drafts that are looked up may be fewer). */
bool spc_round_wants_bonus(const spc_session *session, const spc_lane *lane);

/* A verdict of the row behind `drafts` kept ones comes behind theirs. */
void spc_round_append(spc_verdict *verdict, int32_t drafts, const spc_verdict *late);

/* Must the host see every draft of it, or every row?  Its rounds, and those of all that are stepped
 * with it, are composed. */
static inline bool spc_round_looked_at(const spc_session *session)
{
    return session->ngram || session->detail || session->logprobs || session->processor;
}

/* Can the backend run the round by itself? */
bool spc_round_backend_can(const spc_engine *engine, spc_session *const *sessions, int32_t count);

/* Is it a session by itself, for which the next round may be drafted while this one is verified?
 * One that is a half of a batch is not: the drafter has the other half's drafts to draw. */
bool spc_round_may_draft_ahead(spc_session *const *sessions, int32_t count);

/* Have it run: drafts, verdicts, late verdicts among them.
 *
 * may_chain   the next round may be sent along
 * rows        receives those the verifier scored */
spc_status spc_round_backend_run(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                 bool may_chain, spc_round_times *times, int32_t *rows,
                                 spc_error *err);

/* Draft steps of such a round as gamma.c learns them: all alike. */
void spc_round_backend_drafted(spc_engine *engine, spc_session *const *sessions, int32_t count,
                               uint64_t ns);

/* ---- two halves of a batch in turns (turns.c) ---- */

/* No round is in flight: are these sessions to go in two halves, one of which drafts while the
 * verifier works on the other? */
bool spc_turns_choose(spc_engine *engine, spc_session *const *sessions, int32_t count);
/* The rounds of all are in flight: may they go on the way they do? */
bool spc_turns_stay(spc_engine *engine, spc_session *const *sessions, int32_t count);
/* A step has been, of so many sessions, the rounds of all of which were in flight, or of none; 0:
 * another one. */
void spc_turns_note(spc_engine *engine, int32_t count);

#endif
