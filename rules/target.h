/* SPDX-License-Identifier: Apache-2.0 */
/* target.h - the target distribution pi of one row, made of the drafter's q and the verifier's p.
 *
 * Whatever the rule, a step is: draft v from q; keep it with probability min(1, pi(v) / q(v));
 * otherwise draw from max(0, pi - q).  It emits exactly pi (rules.md 2).  This file says what pi
 * is, what the acceptance compares and what the residual weighs, in four forms (rules.md 3.1):
 *
 *   KEEP     pi = q                                 row rule that does not defer
 *   DEFER    pi = p                                 row rule that defers, strict
 *   SELECT   pi = q on a set A, plus eta p          token rules; eta = q outside A
 *   LENIENT  pi = min(q, p/l) plus what is missing  lossy, l = 1 - alpha */
#ifndef SPC_RULES_TARGET_H
#define SPC_RULES_TARGET_H

#include "defer.h"

typedef enum {
    SPC_TARGET_KEEP,
    SPC_TARGET_DEFER,
    SPC_TARGET_SELECT,
    SPC_TARGET_LENIENT
} spc_target_form;

typedef struct {
    spc_target_form form;
    spc_real cut;      /* SELECT: least gap of a token in A */
    bool cuts_drafter; /* SELECT: the gap is the drafter's */
    bool nucleus;      /* SELECT: A keeps to tokens with p(v) > 0 */
    spc_real
        eta; /* SELECT: sum of q outside A; filled in by whoever sums, see spc_target_outside */
    spc_real inverse; /* LENIENT: 1 / l */
    bool solve;       /* LENIENT: beta solved, not 1 */
    spc_real scale;   /* LENIENT: 1 / beta (solve), or R / TV (beta = 1); needed for pi, and with
                         solve   for the residual; filled in by whoever sums */
} spc_target;

/* What a rule makes of a row, but for the sums eta and scale (0 here).  nucleus: rules.md 4.3; it
 * does nothing at temperature 0, where the caller passes false. */
SPC_FN spc_target spc_target_begin(spc_rule rule, spc_row row, bool nucleus)
{
    spc_target t;

    t.form = SPC_TARGET_DEFER;
    t.cut = 0;
    t.cuts_drafter = false;
    t.nucleus = nucleus;
    t.eta = 0;
    t.inverse = (spc_real)rule.inverse;
    t.solve = rule.solve != 0;
    t.scale = 0;
    switch (rule.path) {
    case SPC_RULE_LOSSY: t.form = SPC_TARGET_LENIENT; break;
    case SPC_RULE_TOKEN_V1:
    case SPC_RULE_TOKEN_V2:
    case SPC_RULE_TOKEN_V3:
    case SPC_RULE_LOSSY_GREEDY:
        t.form = SPC_TARGET_SELECT;
        t.cut = spc_token_cut(rule, row);
        t.cuts_drafter = spc_token_cuts_drafter(rule);
        break;
    default: t.form = spc_defers(rule, row) ? SPC_TARGET_DEFER : SPC_TARGET_KEEP; break;
    }
    return t;
}

/* Is the token in A, where a token rule keeps the drafter without a coin? */
SPC_FN bool spc_target_selects(spc_target t, spc_entry e)
{
    spc_real gap = t.cuts_drafter ? e.gap.drafter : e.gap.verifier;

    return gap >= t.cut && e.gap.verifier > -(spc_real)SPC_INFINITY &&
           (!t.nucleus || e.mix.verifier > 0);
}

/* What a token adds to eta. */
SPC_FN spc_real spc_target_outside(spc_target t, spc_entry e)
{
    return spc_target_selects(t, e) ? 0 : e.mix.drafter;
}

/* Was the draft deferred: did the rule turn to the verifier for it?  (Counted, rules.md 5.7.) */
SPC_FN bool spc_target_defers(spc_target t, spc_entry e)
{
    if (t.form == SPC_TARGET_SELECT) return !spc_target_selects(t, e);
    return t.form != SPC_TARGET_KEEP;
}

SPC_FN spc_real spc_positive(spc_real x)
{
    return x > 0 ? x : 0;
}

SPC_FN spc_real spc_least(spc_real a, spc_real b)
{
    return a < b ? a : b;
}

/* What the coin is compared with: keep the draft when coin * q(v) < this.  Equal to pi(v) wherever
 * pi(v) < q(v), at least q(v) elsewhere; unlike pi it needs no scale. */
SPC_FN spc_real spc_target_kept(spc_target t, spc_entry e)
{
    switch (t.form) {
    case SPC_TARGET_KEEP: return e.mix.drafter;
    case SPC_TARGET_SELECT:
        return spc_target_selects(t, e) ? e.mix.drafter : t.eta * e.mix.verifier;
    case SPC_TARGET_LENIENT: return e.mix.verifier * t.inverse;
    default: return e.mix.verifier;
    }
}

/* Weight of the token in the draw after a rejection: max(0, pi - q) up to a common factor. */
SPC_FN spc_real spc_target_residual(spc_target t, spc_entry e)
{
    switch (t.form) {
    case SPC_TARGET_KEEP: return 0;
    case SPC_TARGET_SELECT: /* on A the drafter's part cancels exactly: no subtraction */
        return spc_target_selects(t, e) ? t.eta * e.mix.verifier
                                        : spc_positive(t.eta * e.mix.verifier - e.mix.drafter);
    case SPC_TARGET_LENIENT:
        if (t.solve) return spc_positive(t.scale * e.mix.verifier - e.mix.drafter);
        return spc_positive(e.mix.verifier - e.mix.drafter);
    default: return spc_positive(e.mix.verifier - e.mix.drafter);
    }
}

/* pi(v). */
SPC_FN spc_real spc_target_probability(spc_target t, spc_entry e)
{
    spc_real capped = spc_least(e.mix.drafter, e.mix.verifier * t.inverse);

    switch (t.form) {
    case SPC_TARGET_KEEP: return e.mix.drafter;
    case SPC_TARGET_SELECT:
        return (spc_target_selects(t, e) ? e.mix.drafter : 0) + t.eta * e.mix.verifier;
    case SPC_TARGET_LENIENT:
        if (t.solve) {
            spc_real filled = t.scale * e.mix.verifier;
            return capped > filled ? capped : filled;
        }
        return capped + t.scale * spc_positive(e.mix.verifier - e.mix.drafter);
    default: return e.mix.verifier;
    }
}

/* ---- lossy: the sums behind scale -------------------------------------------------------------
 */

/* What a token adds to R = sum max(0, q - p/l), the probability of a rejection. */
SPC_FN spc_real spc_lossy_rejected(spc_target t, spc_entry e)
{
    return spc_positive(e.mix.drafter - e.mix.verifier * t.inverse);
}

/* beta = 1: R / TV, and 0 when nothing can be rejected. */
SPC_FN spc_real spc_lossy_share(spc_real rejected, spc_real tv)
{
    return rejected > 0 && tv > 0 ? rejected / tv : 0;
}

/* beta solved: s = 1/beta is the root of sum max(0, s p - q) = R in (0, 1] (rules.md 6.7).  Newton
 * from s = 1 on a convex, piecewise linear function: it falls monotonically and ends exactly on a
 * piece. One step needs q and p summed over {s p > q}: spc_lossy_above. */
SPC_FN spc_pair spc_lossy_above(spc_real s, spc_entry e)
{
    spc_pair none;

    none.drafter = none.verifier = 0;
    return s * e.mix.verifier > e.mix.drafter ? e.mix : none;
}

/* The next s; equal to or above the present one when it is the root. */
SPC_FN spc_real spc_lossy_newton(spc_real s, spc_real rejected, spc_pair above)
{
    return above.verifier > 0 ? (rejected + above.drafter) / above.verifier : s;
}

enum { SPC_LOSSY_STEPS = 64 }; /* 4 to 8 are seen; the cap only bounds the loop */

#endif
