/* SPDX-License-Identifier: Apache-2.0 */
/* target.h - the target distribution pi of one row, made of the drafter's q and the verifier's p.
 *
 * Whatever the rule, a step is: draft v from q; keep it with probability min(1, pi(v) / q(v));
 * otherwise draw from max(0, pi - q).  It emits exactly pi (rules/README.md).  This file says what
 * pi is, what the acceptance compares and what the residual weighs:
 *
 *   KEEP     pi = q                                 row rule that does not defer
 *   DEFER    pi = p                                 row rule that defers, strict
 *   SELECT   pi = q on a set A, plus eta p          token rules; eta = q outside A
 *   LENIENT  pi = min(q, p/l) plus what is missing  lossy, l = 1 - alpha; mentored, l solved
 *   CUT      pi = p on A, renormalised              truncate, by alpha or top-p
 *   CUT_Q    pi = q on A, renormalised              truncate-q
 *   HEAD     pi = q on A, min(q, p) elsewhere, plus what is missing as in strict
 *   TYPICAL  pi = q on A, the rest on the verifier's best token
 *   BLEND    pi = (1 - w) q + w p                   ensemble
 *   RAISE    no pi: p with the draft's probability raised, for the draft at hand     cactus */
#ifndef SPC_RULES_TARGET_H
#define SPC_RULES_TARGET_H

#include "defer.h"

typedef enum {
    SPC_TARGET_KEEP,
    SPC_TARGET_DEFER,
    SPC_TARGET_SELECT,
    SPC_TARGET_LENIENT,
    SPC_TARGET_CUT,
    SPC_TARGET_CUT_Q,
    SPC_TARGET_HEAD,
    SPC_TARGET_TYPICAL,
    SPC_TARGET_BLEND,
    SPC_TARGET_RAISE
} spc_target_form;

typedef struct {
    spc_target_form form;
    spc_real cut;      /* where there is a set A: least gap of a token in it */
    bool cuts_drafter; /* the gap is the drafter's */
    bool nucleus;      /* A keeps to tokens that truncation leaves in the verifier's row */
    spc_real eta;      /* SELECT, TYPICAL: sum of q outside A; filled in by whoever sums */
    spc_real inverse;  /* LENIENT: 1 / l */
    bool solve;        /* LENIENT: beta solved, not 1 */
    spc_real scale;  /* filled in by whoever sums.  LENIENT: 1 / beta (solve), or R / TV (beta = 1);
                        CUT: 1 / p(A); CUT_Q: 1 / q(A); HEAD: what is missing, over TV.
                        RAISE: what is left to the other tokens, over their p */
    spc_real weight; /* BLEND: w.  RAISE: delta, then the draft's raised probability */
    spc_real
        budget; /* LENIENT: KL(p, pi) that inverse still has to be solved for; 0: it is known */
} spc_target;

/* Has this form a set A? */
SPC_FN bool spc_target_has_set(spc_target_form form)
{
    return form == SPC_TARGET_SELECT || form == SPC_TARGET_CUT || form == SPC_TARGET_CUT_Q ||
           form == SPC_TARGET_HEAD || form == SPC_TARGET_TYPICAL;
}

/* Does the residual, or already the coin, need eta or scale? */
SPC_FN bool spc_target_residual_sums(spc_target t)
{
    return t.form == SPC_TARGET_SELECT || t.form == SPC_TARGET_CUT || t.form == SPC_TARGET_CUT_Q ||
           (t.form == SPC_TARGET_LENIENT && t.solve);
}

SPC_FN bool spc_target_coin_sums(spc_target t, bool deferred)
{
    return t.form == SPC_TARGET_CUT || (t.form == SPC_TARGET_SELECT && deferred) ||
           (t.form == SPC_TARGET_LENIENT && t.budget > 0);
}

/* What a rule makes of a row, but for the sums eta and scale (0 here).  nucleus: rules/README.md;
 * it does nothing at temperature 0, where the caller passes false: a nucleus of one token would
 * make token rules greedy, as top-p does at temperatures just above. */
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
    t.weight = spc_rule_number(rule);
    t.budget = 0;
    switch (rule.path) {
    case SPC_RULE_LOSSY: t.form = SPC_TARGET_LENIENT; break;
    case SPC_RULE_MENTORED:
        t.form = spc_defers(rule, row) ? SPC_TARGET_LENIENT : SPC_TARGET_KEEP;
        t.solve = true;
        t.inverse = 1;
        t.budget = spc_rule_number(rule);
        break;
    case SPC_RULE_CACTUS:
        t.form = SPC_TARGET_RAISE;
        t.scale = 1;
        break;
    case SPC_RULE_TOKEN_V1:
    case SPC_RULE_TOKEN_V2:
    case SPC_RULE_TOKEN_V3:
    case SPC_RULE_LOSSY_GREEDY:
        t.form = SPC_TARGET_SELECT;
        t.cuts_drafter = spc_token_cuts_drafter(rule);
        break;
    case SPC_RULE_TRUNCATE:
    case SPC_RULE_TRUNCATE_P: t.form = SPC_TARGET_CUT; break;
    case SPC_RULE_TRUNCATE_Q: t.form = SPC_TARGET_CUT_Q; break;
    case SPC_RULE_HEAD: t.form = SPC_TARGET_HEAD; break;
    case SPC_RULE_TYPICAL: t.form = SPC_TARGET_TYPICAL; break;
    case SPC_RULE_ENSEMBLE: t.form = SPC_TARGET_BLEND; break;
    default: t.form = spc_defers(rule, row) ? SPC_TARGET_DEFER : SPC_TARGET_KEEP; break;
    }
    if (spc_target_has_set(t.form)) t.cut = spc_token_cut(rule, row);
    return t;
}

/* Is the token in A, where a token rule keeps the drafter without a coin? */
SPC_FN bool spc_target_selects(spc_target t, spc_entry e)
{
    spc_real gap = t.cuts_drafter ? e.gap.drafter : e.gap.verifier;

    return gap >= t.cut && e.gap.verifier > -(spc_real)SPC_INFINITY && (!t.nucleus || e.left);
}

/* What a token adds to eta. */
SPC_FN spc_real spc_target_outside(spc_target t, spc_entry e)
{
    return spc_target_selects(t, e) ? 0 : e.mix.drafter;
}

/* Was the draft deferred: did the rule turn to the verifier for it?  (It is counted.) */
SPC_FN bool spc_target_defers(spc_target t, spc_entry e)
{
    if (t.form == SPC_TARGET_CUT) return true; /* the verifier's own row, cut */
    if (spc_target_has_set(t.form)) return !spc_target_selects(t, e);
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
    case SPC_TARGET_CUT: return spc_target_selects(t, e) ? t.scale * e.mix.verifier : 0;
    case SPC_TARGET_CUT_Q:
    case SPC_TARGET_TYPICAL: return spc_target_selects(t, e) ? e.mix.drafter : 0;
    case SPC_TARGET_HEAD: return spc_target_selects(t, e) ? e.mix.drafter : e.mix.verifier;
    case SPC_TARGET_BLEND: return (1 - t.weight) * e.mix.drafter + t.weight * e.mix.verifier;
    case SPC_TARGET_RAISE: return t.weight;
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
    case SPC_TARGET_CUT:
        return spc_target_selects(t, e) ? spc_positive(t.scale * e.mix.verifier - e.mix.drafter)
                                        : 0;
    case SPC_TARGET_CUT_Q: return spc_target_selects(t, e) ? (t.scale - 1) * e.mix.drafter : 0;
    case SPC_TARGET_TYPICAL: return e.top ? 1 : 0;
    case SPC_TARGET_RAISE: /* a rejected draft has scale p(v) <= p(v) <= raised < q(v): weight 0 */
        return spc_positive(t.scale * e.mix.verifier - e.mix.drafter);
    default: return spc_positive(e.mix.verifier - e.mix.drafter);
    }
}

/* pi(v).  RAISE has none: p, which is what it leaves to the tokens beside the draft. */
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
    case SPC_TARGET_CUT: return spc_target_selects(t, e) ? t.scale * e.mix.verifier : 0;
    case SPC_TARGET_CUT_Q: return spc_target_selects(t, e) ? t.scale * e.mix.drafter : 0;
    case SPC_TARGET_HEAD:
        return (spc_target_selects(t, e) ? e.mix.drafter
                                         : spc_least(e.mix.drafter, e.mix.verifier)) +
               t.scale * spc_positive(e.mix.verifier - e.mix.drafter);
    case SPC_TARGET_TYPICAL:
        return (spc_target_selects(t, e) ? e.mix.drafter : 0) + (e.top ? t.eta : 0);
    case SPC_TARGET_BLEND: return (1 - t.weight) * e.mix.drafter + t.weight * e.mix.verifier;
    default: return e.mix.verifier;
    }
}

/* Cactus (arXiv 2604.04987): the target once the draft v is known raises p(v) to
 * min(1, p(v) + sqrt(2 delta p(v) (1 - p(v)))) and lowers the other tokens alike.  A draft that its
 * own row excludes raises nothing: it is rejected, and p is drawn from. */
SPC_FN spc_target spc_target_raise(spc_target t, spc_entry e)
{
    spc_real p = e.mix.verifier, rest = 1 - p;
    spc_real raised = p + spc_real_sqrt(t.weight * p * spc_positive(rest) * 2);

    if (t.form != SPC_TARGET_RAISE) return t;
    t.weight = 0;
    if (!(e.mix.drafter > 0)) return t;
    t.weight = raised < 1 ? raised : 1;
    t.scale = raised < 1 ? (1 - raised) / rest : 0;
    return t;
}

/* What a token adds to the mass of A under each model, and, for HEAD, to what is missing: the part
 * of the drafter above the verifier outside A. */
SPC_FN spc_pair spc_target_inside(spc_target t, spc_entry e)
{
    spc_pair none;

    none.drafter = none.verifier = 0;
    return spc_target_selects(t, e) ? e.mix : none;
}

SPC_FN spc_real spc_head_missing(spc_target t, spc_entry e)
{
    return spc_target_selects(t, e) ? 0 : spc_positive(e.mix.drafter - e.mix.verifier);
}

/* What a token adds to the divergences of fuzzy; x ln(x / y), 0 where x is 0. */
SPC_FN spc_real spc_divergence_term(spc_real x, spc_real y)
{
    spc_real ratio = y > 0 ? x / y : 1;

    if (!(x > 0)) return 0;
    if (!(y > 0)) return (spc_real)SPC_INFINITY;
    if (!(ratio > (spc_real)1e-30)) return 0; /* x nothing beside y */
    return x * spc_real_log(ratio < SPC_FLOAT_MOST ? ratio : SPC_FLOAT_MOST);
}

SPC_FN spc_real spc_divergence_js(spc_entry e)
{
    spc_real mean = (e.mix.drafter + e.mix.verifier) / 2;

    return (spc_divergence_term(e.mix.verifier, mean) + spc_divergence_term(e.mix.drafter, mean)) /
           2;
}

SPC_FN spc_real spc_divergence_kl(spc_entry e)
{
    return spc_divergence_term(e.mix.verifier, e.mix.drafter);
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

/* beta solved: s = 1/beta is the root of sum max(0, s p - q) = R in (0, 1].  Newton
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

/* What a token adds to KL(p, pi), which falls as l grows: mentored takes the
 * smallest l in [1e-6, 1] that keeps it within the budget, by bisection of log2 l. */
SPC_FN spc_real spc_target_kl(spc_target t, spc_entry e)
{
    return spc_divergence_term(e.mix.verifier, spc_target_probability(t, e));
}

#define SPC_LENIENCE_MIN (-19.931569f) /* log2 1e-6 */
enum { SPC_LENIENCE_STEPS = 24 };

#endif
