/* SPDX-License-Identifier: Apache-2.0 */
/* verify_floor.h - the rows of logits that a decision cannot do without. */
#ifndef SPC_BENCH_VERIFY_FLOOR_H
#define SPC_BENCH_VERIFY_FLOOR_H

#include "rules/round.h"

/* What a batch did. */
typedef struct {
    double all_kept; /* share of sequences whose drafts were all kept */
    double deferred; /* share of judged drafts for which the rule turned to the verifier */
} floor_facts;

/* Rows that must cross the memory once, per sequence of `drafts` drafts: the verifier's rows whose
 * normalisers decide, then one more, the drafter's row of the rejected draft or the row of the
 * bonus.
 *
 *   greedy                     G + P      the bonus row only where all drafts are kept
 *   chow, chow-log             f G + 1    decided by the drafter's statistics
 *   opt, opt-log, fuzzy, mentored, token-v1, block verification
 *                              2 G + 1    both rows at every position
 *   all others                 G + 1; with bonus=target, where the target reads the drafter, + P
 *   without statistics         at least 2 G + P: the drafter's normalisers too
 *
 * (G drafts, P share of sequences with all kept, f share of deferred drafts.  token-v1 would need
 * less with a list of the drafter's top tokens, opt with a bound on the distance: neither is made
 * use of.)
 *
 * share   of a row that a drafter's row is: 1, or less where it knows some of the tokens */
static inline double floor_rows(const spc_row_params *params, int32_t drafts, bool statistics,
                                double share, floor_facts facts)
{
    const double g = drafts, kept = facts.all_kept, last = kept + (1 - kept) * share;
    double rows = g + last;
    int32_t path = params->rule.path;
    bool both = params->verify == SPC_VERIFY_BLOCK || path == SPC_RULE_TOKEN_V1 ||
                (spc_rule_facts((spc_rule_kind)path) & (SPC_FACT_TV | SPC_FACT_DIVERGENCE)) != 0 ||
                path == SPC_RULE_MENTORED;

    if (path == SPC_RULE_CHOW || path == SPC_RULE_CHOW_LOG) {
        rows = facts.deferred * g + last;
    } else if (both) {
        rows = g + g * share + last;
    } else if (!(params->sampling.temperature > 0)) {
        rows = g + kept;
    }
    if (params->bonus == SPC_BONUS_TARGET && spc_rule_uses_drafter(&params->rule)) {
        rows += kept * share;
    }
    if (!statistics && rows < g + g * share + kept) rows = g + g * share + kept;
    return rows;
}

#endif
