/* SPDX-License-Identifier: Apache-2.0 */
/* check.h - the rule headers in double, where their identities hold to 1e-12.
 *
 * Include it before anything else: it decides what spc_real is.  Facts of a row pair come from
 * probability rows (toyrows.h); what is checked is what the headers make of them. */
#ifndef SPC_TESTS_CHECK_H
#define SPC_TESTS_CHECK_H

#define SPC_REAL double

#include "rules/target.h"

#include "toyrows.h"

enum { CHECK_MAX = 16 };

/* A rule by its parts. */
static inline spc_rule rule_of(spc_rule_kind kind, double alpha, bool processed, bool solve)
{
    spc_rule rule;

    cr_assert(spc_rule_make(kind, alpha, processed ? SPC_GATE_PROCESSED : SPC_GATE_UNSCALED, solve,
                            &rule));
    if (kind == SPC_RULE_FUZZY) rule.kl = solve;
    return rule;
}

static inline spc_row check_row(const ref_rows *r)
{
    spc_row row;

    row.drafter.top = r->q1[ref_top(r->q1, r->n)];
    row.drafter.entropy = ref_entropy(r->q1, r->n);
    row.verifier.top = r->p1[ref_top(r->p1, r->n)];
    row.verifier.entropy = ref_entropy(r->p1, r->n);
    row.surprise = -log(r->p1[ref_top(r->q1, r->n)]);
    row.tv = ref_over(r->p, r->q, r->n);
    row.divergence = row.nucleus = 0; /* check_of fills them in for the rule that asks */
    return row;
}

static inline spc_entry check_entry(const ref_rows *r, int32_t v)
{
    spc_entry e;

    e.mix.drafter = r->q[v];
    e.mix.verifier = r->p[v];
    e.gap.drafter = log(r->q1[v] / r->q1[ref_top(r->q1, r->n)]);
    e.gap.verifier = log(r->p1[v] / r->p1[ref_top(r->p1, r->n)]);
    e.top = v == ref_top(r->p1, r->n);
    e.left = r->p[v] > 0; /* nothing underflows at the temperatures of the tests */
    return e;
}

/* Gap of the least likely token in the verifier's nucleus. */
static inline double check_nucleus(const ref_rows *r, double top_p)
{
    double least = ref_nucleus(r->p, r->n, top_p), gap = 0;

    for (int32_t v = 0; v < r->n; v++) {
        if (r->p[v] >= least) gap = fmin(gap, check_entry(r, v).gap.verifier);
    }
    return gap;
}

/* What the headers make of a rule on a row pair. */
typedef struct {
    spc_target target;
    double pi[CHECK_MAX], accept[CHECK_MAX], residual[CHECK_MAX];
    int32_t steps;    /* of Newton's method, lossy */
    double tolerance; /* of pi */
} check_law;

static inline void check_scale(const ref_rows *r, check_law *law)
{
    spc_target *t = &law->target;
    double rejected = 0, s = 1;

    for (int32_t v = 0; v < r->n; v++) rejected += spc_lossy_rejected(*t, check_entry(r, v));
    if (!t->solve) {
        t->scale = spc_lossy_share(rejected, ref_over(r->p, r->q, r->n));
        return;
    }
    while (rejected > 0 && law->steps < SPC_LOSSY_STEPS) {
        spc_pair above = {0, 0};

        for (int32_t v = 0; v < r->n; v++) {
            spc_pair e = spc_lossy_above(s, check_entry(r, v));

            above.drafter += e.drafter;
            above.verifier += e.verifier;
        }
        double next = spc_lossy_newton(s, rejected, above);
        if (next >= s) break;
        s = next;
        law->steps++;
    }
    t->scale = rejected > 0 ? s : 0;
}

/* mentored: bisection on l around all that. */
static inline void check_lenience(const ref_rows *r, check_law *law)
{
    spc_target *t = &law->target;
    double low = 1e-6, high = 1;

    for (int step = 0; step < 60; step++) {
        double l = (low + high) / 2, kl = 0;

        t->inverse = 1 / l;
        law->steps = 0;
        check_scale(r, law);
        for (int32_t v = 0; v < r->n; v++) kl += spc_target_kl(*t, check_entry(r, v));
        *(kl <= t->budget ? &high : &low) = l;
    }
    t->inverse = 1 / high;
    law->steps = 0;
    law->tolerance = 1e-9;
}

/* The sums of the forms that have a set A. */
static inline void check_set(const ref_rows *r, spc_target *t)
{
    double q = 0, p = 0, missing = 0;

    for (int32_t v = 0; v < r->n; v++) {
        spc_entry e = check_entry(r, v);

        t->eta += spc_target_outside(*t, e);
        q += spc_target_inside(*t, e).drafter;
        p += spc_target_inside(*t, e).verifier;
        missing += spc_head_missing(*t, e);
    }
    if (t->form == SPC_TARGET_CUT_Q && q <= 0) t->form = SPC_TARGET_CUT;
    if (t->form == SPC_TARGET_CUT) t->scale = 1 / p;
    if (t->form == SPC_TARGET_CUT_Q) t->scale = q < 1 ? 1 / q : 1;
    if (t->form == SPC_TARGET_HEAD) t->scale = spc_lossy_share(missing, ref_over(r->p, r->q, r->n));
}

static inline check_law check_of(const ref_rows *rows, spc_rule rule)
{
    ref_rows local = *rows, *r = &local;
    check_law law;
    spc_row row;

    if (rule.path == SPC_RULE_TYPICAL) { /* its set is cut on the processed row */
        local.q1 = local.q;
        local.p1 = local.p;
    }
    memset(&law, 0, sizeof law);
    law.tolerance = 1e-12;
    row = check_row(r);
    row.nucleus = check_nucleus(r, rule.alpha);
    for (int32_t v = 0; v < r->n; v++) {
        spc_entry e = check_entry(r, v);

        row.divergence += rule.kl ? spc_divergence_kl(e) : spc_divergence_js(e);
    }
    law.target = spc_target_begin(rule, row, r->nucleus);
    if (spc_target_has_set(law.target.form)) check_set(r, &law.target);
    if (law.target.budget > 0 && law.target.form == SPC_TARGET_LENIENT) check_lenience(r, &law);
    if (law.target.form == SPC_TARGET_LENIENT) check_scale(r, &law);
    for (int32_t v = 0; v < r->n; v++) {
        spc_entry e = check_entry(r, v);
        double kept = spc_target_kept(law.target, e);

        law.pi[v] = spc_target_probability(law.target, e);
        law.accept[v] = e.mix.drafter > 0 ? fmin(1, kept / e.mix.drafter) : 0;
        law.residual[v] = spc_target_residual(law.target, e);
    }
    return law;
}

static inline double gap_of(const double *a, const double *b, int32_t n)
{
    double worst = 0;

    for (int32_t v = 0; v < n; v++) worst = fmax(worst, fabs(a[v] - b[v]));
    return worst;
}

/* Rows given as probabilities, gate and processed alike. */
static inline ref_rows rows_from(const double *drafter, const double *verifier, int32_t n)
{
    ref_rows r = ref_rows_of(n);

    for (int32_t v = 0; v < n; v++) {
        r.q[v] = r.q1[v] = drafter[v];
        r.p[v] = r.p1[v] = verifier[v];
    }
    return r;
}

/* A random row pair of the given kind under random or plain options. */
static inline ref_rows random_rows(dice *d, rows_kind kind, bool plain)
{
    static const double spreads[] = {0.3, 1, 2, 4}, temperatures[] = {0, 0.3, 1, 1.5};
    float drafter[CHECK_MAX], verifier[CHECK_MAX];
    ref_options o = ref_plain;
    ref_rows r = ref_rows_of(2 + dice_below(d, 11));

    dice_rows(d, kind, r.n, spreads[dice_below(d, 4)], drafter, verifier);
    if (!plain) {
        o.temperature = temperatures[dice_below(d, 4)];
        o.top_k = dice_below(d, 2) * 3;
        o.top_p = dice_below(d, 2) ? 0.8 : 1;
        o.min_p = dice_below(d, 2) ? 0.1 : 0;
        o.processed = dice_below(d, 2);
        o.nucleus = dice_below(d, 2);
    }
    ref_fill(&r, drafter, verifier, &o);
    return r;
}

/* One-round rules and the parameters they are tried with. */
static const struct {
    spc_rule_kind kind;
    bool solve;
    int32_t count;
    double alpha[5];
} check_rules[] = {
    {SPC_RULE_STRICT, false, 1, {0}},
    {SPC_RULE_LOSSY, false, 4, {0, 0.1, 0.5, 0.9}},
    {SPC_RULE_LOSSY, true, 4, {0, 0.1, 0.5, 0.9}},
    {SPC_RULE_CHOW, false, 4, {0, 0.1, 0.5, 1}},
    {SPC_RULE_DIFF, false, 5, {-1, -0.2, 0, 0.2, 1}},
    {SPC_RULE_OPT, false, 5, {-1.5, -0.3, 0, 0.3, 1.5}},
    {SPC_RULE_CHOW_LOG, false, 3, {0, 0.5, 2}},
    {SPC_RULE_DIFF_LOG, false, 3, {-1, 0, 1}},
    {SPC_RULE_OPT_LOG, false, 3, {-1, 0, 1}},
    {SPC_RULE_TOKEN_V1, false, 5, {-1, 0, 0.1, 0.5, 1}},
    {SPC_RULE_TOKEN_V2, false, 5, {-1, 0, 0.1, 0.5, 1}},
    {SPC_RULE_TOKEN_V3, false, 5, {-0.5, 0, 0.3, 0.8, 1}},
    {SPC_RULE_BILD, false, 3, {0, 1, 4}},
    {SPC_RULE_LOSSY_GREEDY, false, 4, {0, 0.3, 0.8, 1}},
    {SPC_RULE_TRUNCATE, false, 4, {0, 0.3, 0.8, 1}},
    {SPC_RULE_TRUNCATE_P, false, 4, {0.1, 0.5, 0.9, 1}},
    {SPC_RULE_TRUNCATE_Q, false, 4, {0, 0.3, 0.8, 1}},
    {SPC_RULE_HEAD, false, 5, {-0.5, 0, 0.3, 0.8, 1}},
    {SPC_RULE_TYPICAL, false, 4, {0, 0.09, 0.5, 1}},
    {SPC_RULE_ENSEMBLE, false, 4, {0, 0.25, 0.7, 1}},
    {SPC_RULE_FUZZY, false, 4, {0, 0.05, 0.2, 0.5}},
    {SPC_RULE_FUZZY, true, 4, {0, 0.05, 0.2, 2}},
    {SPC_RULE_MENTORED, false, 4, {0, 0.05, 0.3, 2}},
};
enum { CHECK_RULES = sizeof check_rules / sizeof *check_rules };

#endif
