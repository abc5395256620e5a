/* SPDX-License-Identifier: Apache-2.0 */
/* gamma.h - draft lengths that are chosen: times of both models, verdicts, probes.
 *
 * The choice itself is rules/gamma.h; here it is fed and carried out.  Times are measured when the
 * first session with gamma auto makes its first step, and corrected by every round. */
#ifndef SPC_HOST_GAMMA_H
#define SPC_HOST_GAMMA_H

#include "rules/gamma.h"

#include <spc/spc.h>

/* Verdicts of sessions by their seed: a session may not lean on its own noise (below). */
enum { SPC_SEED_GROUPS = 8 };

/* Acceptance that is expected where nothing has been seen. */
#define SPC_ACCEPT_PRIOR 0.7f

/* Of an engine. */
typedef struct {
    spc_gamma_times times; /* nanoseconds */
    bool measured;
    spc_session *const *step; /* [step_count] sessions of the step under way */
    int32_t step_count;
    spc_gamma_lane *lane;                 /* [sessions] of those that it runs, and feeds */
    spc_session **whose;                  /* [sessions] to whom each belongs */
    spc_verdicts seen[SPC_SEED_GROUPS];   /* by all sessions whose length is chosen */
    spc_replies replies[SPC_SEED_GROUPS]; /* of all those */
    double round_ns, probe_ns, probe_due; /* all rounds; what probes took; the present one's rest */
    bool probing;                         /* a sequence of this step does */
    int32_t drafting;                     /* rounds since the last without drafts */
    bool learns;                          /* the step has a sequence whose length is chosen */
} spc_gamma;

/* Of a session. */
typedef struct {
    spc_verdicts seen;
    float prior[SPC_GAMMA_MAX];
    float judged;        /* verdicts on first drafts, of others too */
    spc_replies replies; /* of others */
    int32_t before;      /* chosen last; -1: none yet */
    int32_t lags_from;   /* tokens the drafter need not read any more, where it lags */
    spc_probe probe;
} spc_gamma_session;

/* A session begins, or begins anew: forget what it saw, take over what others saw.  The engine's
 * lock is held.
 *
 * Where the drafter need not run it does not read the prompt before it is known to be worth it.
 *
 * Sessions of equal seeds share their noise, position by position.  What one of them has shown is
 * therefore not told to the next: only verdicts of other seeds are (all, where nothing is random).
 */
void spc_gamma_begin(spc_session *session);

/* Choose the draft lengths of a step's sessions into session->round_gamma; sets bounds for all of
 * them.  Measures first where that is still to be done.  Where their round has been sent already
 * (session->in_flight: that of all or none) the lengths are those it was sent with. */
spc_status spc_gamma_choose(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err);

/* Would they be the same in the next round, as far as can be said now?  Not where another is due to
 * be tried. */
bool spc_gamma_stays(spc_engine *engine, spc_session *const *sessions, int32_t count);

/* Measure both models behind the caches of a session, which stay as they are. */
spc_status spc_gamma_measure(spc_engine *engine, const spc_session *session, spc_error *err);

/* A step of the drafter took so long: `rows` were fed, `wanted` of them for their logits. */
void spc_gamma_drafted(spc_engine *engine, int32_t rows, int32_t wanted, uint64_t ns);
/* All behind the drafts took so long, with so many rows of the verifier; 0 rows: they do not count.
 * total_ns: the whole round. */
void spc_gamma_scored(spc_engine *engine, int32_t rows, uint64_t ns, uint64_t total_ns);
/* The verdict of a session's round: drafts that reached one, drafts that were kept. */
void spc_gamma_judged(spc_session *session, int32_t judged, int32_t kept);
/* A session has come to its end. */
void spc_gamma_ended(spc_session *session);

/* Chance of every draft to be kept [SPC_GAMMA_MAX] by what all sessions saw, but for those that
 * share the noise of this one; NULL: all. */
void spc_gamma_accept(const spc_gamma *gamma, const spc_session *but, float *accept);
/* Tell the engine's log what was measured. */
void spc_gamma_tell(const spc_engine *engine);

#endif
