/* SPDX-License-Identifier: Apache-2.0 */
/* overlap.h - does it pay to draft the next round while this one is verified?
 *
 * Drafting ahead changes no token, only time: it fills what the verifier leaves of the device, and
 * takes from it.  Which of the two is more is measured: rounds come in blocks with and without it,
 * the faster way is kept, the other one is tried again now and then.  Draft lengths may change from
 * round to round (gamma auto): times are kept by length, and ways are compared at equal ones.  No
 * clock is read here. */
#ifndef SPC_HOST_OVERLAP_H
#define SPC_HOST_OVERLAP_H

#include <spc/spc.h>

enum {
    SPC_OVERLAP_BLOCK = 8,  /* rounds that go one way together */
    SPC_OVERLAP_PROBE = 32, /* blocks from one look at the other way to the next: 3 % of them, so
                               the worse way costs that share of what it is worse by */
    SPC_OVERLAP_LENGTHS = SPC_GAMMA_MAX + 1
};

/* Rounds of one draft length, gone one way. */
typedef struct {
    double ns;      /* of a round, on average; later ones weigh more */
    int32_t rounds; /* seen, the first of which are not counted: they record graphs */
} spc_overlap_time;

/* Of one engine; begins with zeros. */
typedef struct {
    spc_overlap_mode mode;
    int32_t block; /* rounds that go one way together; 0: SPC_OVERLAP_BLOCK */
    bool on;       /* the way of the present block */
    bool best;     /* of those that are measured */
    int32_t gamma; /* of the present round */
    spc_overlap_time time[2][SPC_OVERLAP_LENGTHS]; /* by way, draft length */
    double use[SPC_OVERLAP_LENGTHS];               /* rounds of late, by draft length */
    double verify_ns[SPC_OVERLAP_LENGTHS];         /* of a verification, without overlap; 0: not
                                                      known */
    double draft_ns;                               /* of one draft, the same */
    int32_t rounds, since;                         /* of the block; blocks since the last probe */
} spc_overlap;

/* How many drafts to draw ahead in the next round, which drafts gamma itself: 0, or as many as one
 * verification lasts, at most gamma + 1. */
int32_t spc_overlap_choose(spc_overlap *overlap, int32_t gamma);

/* Will nothing be drawn ahead in the round behind the present one? */
bool spc_overlap_stays_off(const spc_overlap *overlap);
/* Will the round behind it go the same way? */
bool spc_overlap_stays(const spc_overlap *overlap);

/* What the round that was chosen for took.
 *
 * ns          in all
 * drafts      that were drawn before verification
 * draft_ns    their time; verify_ns from there to the verdict */
void spc_overlap_note(spc_overlap *overlap, uint64_t ns, int32_t drafts, uint64_t draft_ns,
                      uint64_t verify_ns);

#endif
