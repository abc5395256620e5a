/* SPDX-License-Identifier: Apache-2.0 */
/* overlap.h - does it pay to draft the next round while this one is verified?
 *
 * Drafting ahead changes no token, only time: it fills what the verifier leaves of the device, and
 * takes from it.  Which of the two is more is measured: rounds come in blocks with and without it,
 * the faster way is kept, the other one is tried again now and then.  No clock is read here. */
#ifndef SPC_HOST_OVERLAP_H
#define SPC_HOST_OVERLAP_H

#include <spc/spc.h>

enum {
    SPC_OVERLAP_BLOCK = 8,  /* rounds measured together */
    SPC_OVERLAP_PROBE = 32, /* blocks from one look at the other way to the next: 3 % of them, so
                               the worse way costs that share of what it is worse by */
};

/* One of the two ways. */
typedef struct {
    double ns, tokens; /* of its blocks, older ones weigh less */
    int32_t blocks;    /* seen, the first of which is not counted: it records graphs */
} spc_overlap_way;

/* Of one engine; begins with zeros. */
typedef struct {
    spc_overlap_mode mode;
    int32_t gamma; /* that it was measured with: another one begins anew */
    bool on;       /* the way of the present block */
    bool best;     /* of those that are measured */
    spc_overlap_way way[2];
    double draft_ns, verify_ns; /* of one draft, of one verification, without overlap */
    double block_ns, block_tokens;
    int32_t rounds, since; /* of the block; blocks since the last probe */
} spc_overlap;

/* How many drafts to draw ahead in the next round: 0, or as many as one verification lasts, at most
 * gamma + 1. */
int32_t spc_overlap_choose(spc_overlap *overlap, int32_t gamma);

/* What the round took.
 *
 * ns          in all, tokens it kept
 * drafts      that were drawn before verification
 * draft_ns    their time; verify_ns from there to the verdict */
void spc_overlap_note(spc_overlap *overlap, uint64_t ns, int32_t tokens, int32_t drafts,
                      uint64_t draft_ns, uint64_t verify_ns);

#endif
