/* SPDX-License-Identifier: Apache-2.0 */
/* defer.h - does a rule defer to the verifier?  One function per rule, one switch.
 *
 * Row rules answer for the whole row; token rules answer with the least gap (row.h) a token must
 * have for the drafter to be kept on it.  The drafter is kept on equality.  Formulas:
 * rules/README.md. */
#ifndef SPC_RULES_DEFER_H
#define SPC_RULES_DEFER_H

#include "row.h"

/* Chow's rule: the drafter is unsure of its best token. */
SPC_FN bool spc_defer_chow(spc_row row, spc_rule rule)
{
    return row.drafter.top < (spc_real)rule.keep;
}

/* The verifier's best token beats the drafter's by more than alpha. */
SPC_FN bool spc_defer_diff(spc_row row, spc_rule rule)
{
    return row.drafter.top < row.verifier.top - spc_rule_number(rule);
}

/* The same with alpha as the price of a rejection, whose probability is the distance of the rows.
 */
SPC_FN bool spc_defer_opt(spc_row row, spc_rule rule)
{
    return row.drafter.top < row.verifier.top - spc_rule_number(rule) * row.tv;
}

/* The log forms compare entropies instead of largest probabilities. */
SPC_FN bool spc_defer_chow_log(spc_row row, spc_rule rule)
{
    return row.drafter.entropy > spc_rule_number(rule);
}

SPC_FN bool spc_defer_diff_log(spc_row row, spc_rule rule)
{
    return row.drafter.entropy > row.verifier.entropy + spc_rule_number(rule);
}

SPC_FN bool spc_defer_opt_log(spc_row row, spc_rule rule)
{
    return row.drafter.entropy > row.verifier.entropy + spc_rule_number(rule) * row.tv;
}

/* BiLD* of the paper: the verifier finds the drafter's best token too unlikely. */
SPC_FN bool spc_defer_bild(spc_row row, spc_rule rule)
{
    return row.surprise > spc_rule_number(rule);
}

/* r-fuzzy (arXiv 2502.20704), mentored: the rows are too far from each other. */
SPC_FN bool spc_defer_fuzzy(spc_row row, spc_rule rule)
{
    return row.divergence > spc_rule_number(rule);
}

/* Row rules: true when the target of this row is the verifier's distribution. */
SPC_FN bool spc_defers(spc_rule rule, spc_row row)
{
    switch (rule.path) {
    case SPC_RULE_CHOW: return spc_defer_chow(row, rule);
    case SPC_RULE_DIFF: return spc_defer_diff(row, rule);
    case SPC_RULE_OPT: return spc_defer_opt(row, rule);
    case SPC_RULE_CHOW_LOG: return spc_defer_chow_log(row, rule);
    case SPC_RULE_DIFF_LOG: return spc_defer_diff_log(row, rule);
    case SPC_RULE_OPT_LOG: return spc_defer_opt_log(row, rule);
    case SPC_RULE_BILD: return spc_defer_bild(row, rule);
    case SPC_RULE_FUZZY:
    case SPC_RULE_MENTORED: return spc_defer_fuzzy(row, rule);
    case SPC_RULE_DRAFTER_ONLY: return false;
    default: return true; /* strict, verifier-only */
    }
}

/* Can a rule be decided from the drafter's row alone? */
SPC_FN bool spc_defers_by_drafter(spc_rule rule)
{
    return rule.path == SPC_RULE_CHOW || rule.path == SPC_RULE_CHOW_LOG ||
           rule.path == SPC_RULE_DRAFTER_ONLY;
}

/* Least gap of the tokens on which a token rule keeps the drafter; -inf: every allowed token. */
SPC_FN spc_real spc_token_v1_cut(spc_row row, spc_rule rule)
{
    spc_real least = row.verifier.top - spc_rule_number(rule); /* of the drafter's probability */

    return least > 0 ? spc_real_log(least / row.drafter.top) : -(spc_real)SPC_INFINITY;
}

SPC_FN spc_real spc_token_v2_cut(spc_row row, spc_rule rule)
{
    spc_real least = row.verifier.top - spc_rule_number(rule); /* of the verifier's probability */

    if (rule.alpha == 0) return 0;
    return least > 0 ? spc_real_log(least / row.verifier.top) : -(spc_real)SPC_INFINITY;
}

SPC_FN spc_real spc_token_v3_cut(spc_rule rule)
{
    return rule.alpha < 1 ? (spc_real)rule.log_keep : -(spc_real)SPC_INFINITY;
}

/* typical: p(v) at least min(eps, sqrt(eps) exp(-H(p))), as a gap to the maximum
 * (arXiv 2401.10774, with >=).  The maximum itself is never below, but for rounding. */
SPC_FN spc_real spc_typical_cut(spc_row row, spc_rule rule)
{
    spc_real all = (spc_real)rule.log_keep, half = all / 2 - row.verifier.entropy;
    spc_real cut = (all < half ? all : half) - spc_real_log(row.verifier.top);

    return cut < 0 ? cut : 0;
}

SPC_FN spc_real spc_token_cut(spc_rule rule, spc_row row)
{
    switch (rule.path) {
    case SPC_RULE_TOKEN_V1: return spc_token_v1_cut(row, rule);
    case SPC_RULE_TOKEN_V2: return spc_token_v2_cut(row, rule);
    case SPC_RULE_TYPICAL: return spc_typical_cut(row, rule);
    case SPC_RULE_TRUNCATE_P: return row.nucleus;
    default: return spc_token_v3_cut(rule); /* token-v3, lossy-greedy, truncate, head */
    }
}

/* Is the set of a token rule cut on the drafter's gap (token-v1) or on the verifier's? */
SPC_FN bool spc_token_cuts_drafter(spc_rule rule)
{
    return rule.path == SPC_RULE_TOKEN_V1;
}

#endif
