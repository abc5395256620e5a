/* SPDX-License-Identifier: Apache-2.0 */
/* Which rows a rule defers, and where the set of a token rule is cut; in double. */
#include "check.h"

#include "rules/defer.h"

#include <criterion/criterion.h>

static bool defers(const ref_rows *r, spc_rule_kind kind, double alpha)
{
    return spc_defers(rule_of(kind, alpha, false, false), check_row(r));
}

static const spc_rule_kind row_rules[] = {SPC_RULE_STRICT,  SPC_RULE_CHOW,     SPC_RULE_DIFF,
                                          SPC_RULE_OPT,     SPC_RULE_CHOW_LOG, SPC_RULE_DIFF_LOG,
                                          SPC_RULE_OPT_LOG, SPC_RULE_BILD};
enum { ROW_RULES = sizeof row_rules / sizeof *row_rules };

static double random_alpha(dice *d, spc_rule_kind kind)
{
    double u = dice_uniform(d);

    switch (kind) {
    case SPC_RULE_CHOW: return u;
    case SPC_RULE_CHOW_LOG:
    case SPC_RULE_BILD: return 3 * u;
    default: return 2 * u - 1;
    }
}

/* A row worked out by hand. */
Test(rules_defer, the_worked_row_is_deferred_as_computed_by_hand)
{
    static const double q[] = {0.40, 0.35, 0.20, 0.05}, p[] = {0.10, 0.55, 0.30, 0.05};
    ref_rows r = rows_from(q, p, 4);

    cr_expect(defers(&r, SPC_RULE_STRICT, 0));
    cr_expect(defers(&r, SPC_RULE_CHOW, 0.5) && !defers(&r, SPC_RULE_CHOW, 0.7));
    cr_expect(defers(&r, SPC_RULE_DIFF, 0.1) && !defers(&r, SPC_RULE_DIFF, 0.2));
    cr_expect(defers(&r, SPC_RULE_OPT, 0.3) && !defers(&r, SPC_RULE_OPT, 0.6));
    cr_expect(defers(&r, SPC_RULE_BILD, 2) && !defers(&r, SPC_RULE_BILD, 3));
    cr_expect(defers(&r, SPC_RULE_CHOW_LOG, 1) && !defers(&r, SPC_RULE_CHOW_LOG, 1.3));
    cr_expect(defers(&r, SPC_RULE_DIFF_LOG, 0) && !defers(&r, SPC_RULE_DIFF_LOG, 0.2));
    cr_expect(defers(&r, SPC_RULE_OPT_LOG, 0.4) && !defers(&r, SPC_RULE_OPT_LOG, 0.5));
    cr_expect_float_eq(check_row(&r).drafter.entropy, 1.205628, 1e-6);
    cr_expect_float_eq(check_row(&r).verifier.entropy, 1.070047, 1e-6);
    ref_rows_free(&r);
}

Test(rules_defer, the_drafter_is_kept_on_equality)
{
    static const double q[] = {0.5, 0.25, 0.25}, p[] = {0.25, 0.5, 0.25};
    ref_rows r = rows_from(q, p, 3);

    cr_expect_not(defers(&r, SPC_RULE_CHOW, 0.5));
    cr_expect_not(defers(&r, SPC_RULE_DIFF, 0));
    cr_expect_not(defers(&r, SPC_RULE_OPT, 0));
    cr_expect_not(defers(&r, SPC_RULE_DIFF_LOG, 0));
    cr_expect_not(defers(&r, SPC_RULE_OPT_LOG, 0));
    cr_expect_not(defers(&r, SPC_RULE_CHOW_LOG, check_row(&r).drafter.entropy));
    cr_expect_not(defers(&r, SPC_RULE_BILD, -log(0.25)));
    ref_rows_free(&r);
}

Test(rules_defer, every_row_rule_answers_as_its_formula)
{
    dice d = {1};

    for (int i = 0; i < 4000; i++) {
        ref_rows r = random_rows(&d, (rows_kind)(i % ROWS_KINDS), false);

        for (int k = 0; k < ROW_RULES; k++) {
            double alpha = random_alpha(&d, row_rules[k]);

            ref_law(&r, row_rules[k], alpha, false);
            if (r.margin < 1e-12) continue;
            cr_assert_eq(defers(&r, row_rules[k], alpha), r.defers, "%s %g",
                         spc_rule_name(row_rules[k]), alpha);
        }
        ref_rows_free(&r);
    }
}

Test(rules_defer, ends_of_the_range_choose_one_model)
{
    dice d = {2};

    for (int i = 0; i < 1200; i++) {
        ref_rows r = random_rows(&d, ROWS_RANDOM, true);

        cr_assert_not(defers(&r, SPC_RULE_CHOW, 1));
        cr_assert_not(defers(&r, SPC_RULE_DIFF, 1));
        cr_assert_not(defers(&r, SPC_RULE_OPT, 1.001));
        cr_assert_not(defers(&r, SPC_RULE_BILD, 1e9));
        cr_assert_not(defers(&r, SPC_RULE_CHOW_LOG, log(r.n) + 1e-9));
        cr_assert_not(defers(&r, SPC_RULE_DIFF_LOG, log(r.n) + 1e-9));
        cr_assert(defers(&r, SPC_RULE_DIFF, -1));
        cr_assert(defers(&r, SPC_RULE_OPT, -1.001));
        cr_assert(defers(&r, SPC_RULE_CHOW, 0));
        cr_assert(defers(&r, SPC_RULE_BILD, 0));
        cr_assert(defers(&r, SPC_RULE_CHOW_LOG, 0));
        cr_assert(defers(&r, SPC_RULE_DIFF_LOG, -log(r.n) - 1e-9));
        cr_assert_eq(defers(&r, SPC_RULE_OPT, 0), defers(&r, SPC_RULE_DIFF, 0));
        cr_assert_eq(defers(&r, SPC_RULE_OPT_LOG, 0), defers(&r, SPC_RULE_DIFF_LOG, 0));
        ref_rows_free(&r);
    }
}

/* What opt is made for: it minimises (1 - r)(1 - max q) + r (1 - max p) + alpha r TV. */
Test(rules_defer, opt_chooses_the_cheaper_side_and_maxima_differ_by_tv_at_most)
{
    dice d = {3};

    for (int i = 0; i < 5000; i++) {
        ref_rows r = random_rows(&d, (rows_kind)(i % ROWS_KINDS), true);
        spc_row row = check_row(&r);
        double alpha = 2 * dice_uniform(&d) - 1;
        double keep = 1 - row.drafter.top, defer = 1 - row.verifier.top + alpha * row.tv;

        cr_assert_leq(defers(&r, SPC_RULE_OPT, alpha) ? defer : keep, fmin(keep, defer) + 1e-12);
        cr_assert_leq(fabs(row.drafter.top - row.verifier.top), row.tv + 1e-12);
        ref_rows_free(&r);
    }
}

Test(rules_defer, a_higher_price_defers_no_more)
{
    static const spc_rule_kind falling[] = {SPC_RULE_CHOW,     SPC_RULE_DIFF, SPC_RULE_OPT,
                                            SPC_RULE_CHOW_LOG, SPC_RULE_BILD, SPC_RULE_DIFF_LOG,
                                            SPC_RULE_OPT_LOG};
    dice d = {4};

    for (int i = 0; i < 2000; i++) {
        ref_rows r = random_rows(&d, (rows_kind)(i % ROWS_KINDS), true);

        for (size_t k = 0; k < sizeof falling / sizeof *falling; k++) {
            bool before = true;

            for (double alpha = 0; alpha <= 1; alpha += 0.0625) {
                bool now = defers(&r, falling[k], alpha);

                cr_assert(before || !now);
                before = now;
            }
        }
        ref_rows_free(&r);
    }
}

/* What "by the drafter alone" promises: the verifier's facts change nothing. */
Test(rules_defer, rules_of_the_drafter_do_not_look_at_the_verifier)
{
    dice d = {5};

    for (int kind = 0; kind < SPC_RULE_COUNT; kind++) {
        spc_rule rule = rule_of((spc_rule_kind)kind, 0.5, false, false);

        if (!spc_defers_by_drafter(rule)) continue;
        for (int i = 0; i < 500; i++) {
            ref_rows r = random_rows(&d, ROWS_RANDOM, true);
            spc_row row = check_row(&r), blind = row;

            blind.verifier.top = blind.verifier.entropy = NAN;
            blind.surprise = blind.tv = NAN;
            cr_assert_eq(spc_defers(rule, row), spc_defers(rule, blind));
            ref_rows_free(&r);
        }
    }
    cr_expect(spc_defers_by_drafter(rule_of(SPC_RULE_CHOW, 0.5, false, false)));
    cr_expect_not(spc_defers_by_drafter(rule_of(SPC_RULE_DIFF, 0.5, false, false)));
}

/* Accept sets in logits and in probabilities are the same set. */
Test(rules_defer, a_cut_on_gaps_selects_what_a_cut_on_probabilities_selects)
{
    static const spc_rule_kind kinds[] = {SPC_RULE_TOKEN_V1, SPC_RULE_TOKEN_V2, SPC_RULE_TOKEN_V3};
    dice d = {6};

    for (int i = 0; i < 6000; i++) {
        ref_rows r = random_rows(&d, (rows_kind)(i % ROWS_KINDS), false);

        for (int k = 0; k < 3; k++) {
            double alpha = i % 3 ? dice_uniform(&d) : 0;
            spc_rule rule = rule_of(kinds[k], alpha, false, false);
            spc_real cut = spc_token_cut(rule, check_row(&r));

            ref_law(&r, kinds[k], alpha, false);
            if (r.margin < 1e-12) continue;
            for (int32_t v = 0; v < r.n; v++) {
                spc_entry e = check_entry(&r, v);
                bool allowed = r.p1[v] > 0 && (r.p[v] > 0 || !r.nucleus);
                double gap = spc_token_cuts_drafter(rule) ? e.gap.drafter : e.gap.verifier;

                cr_assert_eq(allowed && gap >= cut, r.selected[v] > 0, "%s %g",
                             spc_rule_name(kinds[k]), alpha);
            }
        }
        ref_rows_free(&r);
    }
}

Test(rules_defer, the_full_range_of_a_token_rule_selects_every_token)
{
    static const spc_rule_kind kinds[] = {SPC_RULE_TOKEN_V1, SPC_RULE_TOKEN_V2, SPC_RULE_TOKEN_V3};
    static const double q[] = {0.5, 0.25, 0.25}, p[] = {0.25, 0.5, 0.25};
    ref_rows r = rows_from(q, p, 3);

    for (int k = 0; k < 3; k++) {
        spc_real cut = spc_token_cut(rule_of(kinds[k], 1, false, false), check_row(&r));

        cr_expect(isinf(cut) && cut < 0);
    }
    ref_rows_free(&r);
}
