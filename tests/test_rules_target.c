/* SPDX-License-Identifier: Apache-2.0 */
/* pi, acceptance and residual of every rule; in double, at 1e-12. */
#include "check.h"

#include <criterion/criterion.h>
#include <stdio.h>

typedef void (*visit_fn)(const ref_rows *r, const check_law *law, const char *what);

/* Every rule and parameter on every kind of row. */
static void visit_all(uint64_t seed, int rounds, visit_fn visit)
{
    dice d = {seed};

    for (int i = 0; i < rounds; i++) {
        ref_rows r = random_rows(&d, (rows_kind)(i % ROWS_KINDS), i % 4 == 0);

        for (int k = 0; k < CHECK_RULES; k++) {
            for (int32_t a = 0; a < check_rules[k].count; a++) {
                double alpha = check_rules[k].alpha[a];
                spc_rule rule = rule_of(check_rules[k].kind, alpha, false, check_rules[k].solve);
                check_law law = check_of(&r, rule);
                char what[64];

                ref_law(&r, check_rules[k].kind, alpha, check_rules[k].solve);
                if (r.margin > 0 && r.margin < 1e-12) continue; /* a tie that rounding decides */
                (void)snprintf(what, sizeof what, "%s %g%s", spc_rule_name(check_rules[k].kind),
                               alpha, check_rules[k].solve ? " solve" : "");
                visit(&r, &law, what);
            }
        }
        ref_rows_free(&r);
    }
}

static void expect_reference(const ref_rows *r, const check_law *law, const char *what)
{
    cr_assert_lt(gap_of(law->pi, r->pi, r->n), law->tolerance, "pi of %s", what);
    cr_assert_lt(gap_of(law->accept, r->accept, r->n), law->tolerance, "acceptance of %s", what);
    cr_assert_lt(gap_of(law->residual, r->residual, r->n), law->tolerance, "residual of %s", what);
}

Test(rules_target, every_rule_is_its_formula)
{
    visit_all(1, 1600, expect_reference);
}

/* A rule that has a name and no law is strict, and no other test would tell. */
Test(rules_target, every_one_round_rule_is_tried)
{
    for (int32_t kind = 0; kind < SPC_RULE_COUNT; kind++) {
        int32_t k = 0;

        if (!spc_rule_is_one_round(kind) || spc_rule_needs_draft((spc_rule_kind)kind)) continue;
        while (k < CHECK_RULES && (int32_t)check_rules[k].kind != kind) k++;
        cr_expect_lt(k, CHECK_RULES, "%s: no line in check.h", spc_rule_name((spc_rule_kind)kind));
    }
}

/* Kept plus rejected times residual is pi. */
static void expect_emitted(const ref_rows *r, const check_law *law, const char *what)
{
    double rejected = 0, mass = ref_sum(law->residual, r->n), emitted[CHECK_MAX];

    for (int32_t v = 0; v < r->n; v++) rejected += r->q[v] * (1 - law->accept[v]);
    for (int32_t v = 0; v < r->n; v++) {
        emitted[v] =
            r->q[v] * law->accept[v] + rejected * (mass > 0 ? law->residual[v] / mass : law->pi[v]);
    }
    cr_assert_lt(gap_of(emitted, law->pi, r->n), 1e-12, "%s", what);
}

Test(rules_target, a_step_emits_exactly_pi)
{
    visit_all(2, 1600, expect_emitted);
}

/* The generic step with this pi. */
static void expect_generic(const ref_rows *r, const check_law *law, const char *what)
{
    double mass = ref_sum(law->residual, r->n), over = ref_over(law->pi, r->q, r->n), rejected = 0;

    for (int32_t v = 0; v < r->n; v++) {
        rejected += r->q[v] * (1 - law->accept[v]);
        if (r->q[v] > 0) {
            cr_assert_float_eq(law->accept[v], fmin(1, law->pi[v] / r->q[v]), 1e-12, "%s", what);
        }
    }
    cr_assert_float_eq(rejected, ref_over(r->q, law->pi, r->n), 1e-12, "%s", what);
    for (int32_t v = 0; v < r->n && mass > 0 && over > 0; v++) {
        double wanted = fmax(0, law->pi[v] - r->q[v]) / over;

        cr_assert_lt(rejected * fabs(law->residual[v] / mass - wanted), 1e-12, "%s", what);
    }
}

Test(rules_target, acceptance_and_residual_are_those_of_the_generic_step)
{
    visit_all(3, 1600, expect_generic);
}

static void expect_distribution(const ref_rows *r, const check_law *law, const char *what)
{
    cr_assert_float_eq(ref_sum(law->pi, r->n), 1, 1e-12, "%s", what);
    for (int32_t v = 0; v < r->n; v++) {
        cr_assert_geq(law->pi[v], 0, "%s", what);
        cr_assert_geq(law->residual[v], 0, "%s", what);
        if (r->q[v] <= 0 && r->p[v] <= 0) cr_assert_eq(law->pi[v], 0, "%s", what);
        if (law->target.nucleus && law->target.form == SPC_TARGET_SELECT && r->p[v] <= 0) {
            cr_assert_eq(law->pi[v], 0, "T16: %s leaves the nucleus", what);
        }
    }
}

Test(rules_target, pi_is_a_distribution_on_the_rows_support)
{
    visit_all(4, 1600, expect_distribution);
}

static void expect_root(const ref_rows *r, const check_law *law, const char *what)
{
    if (law->target.form != SPC_TARGET_LENIENT || !law->target.solve) return;
    cr_assert_leq(law->target.scale, 1, "beta is at least 1: %s", what);
    cr_assert_leq(law->steps, 12, "%s: %d steps", what, (int)law->steps);
    cr_assert_float_eq(ref_sum(law->residual, r->n), r->rejected, law->tolerance, "%s", what);
}

Test(rules_target, newton_finds_the_beta_whose_residual_is_the_rejected_mass)
{
    visit_all(5, 1600, expect_root);
}

static void expect_pi(const ref_rows *r, spc_rule rule, const double *pi, double tolerance)
{
    check_law law = check_of(r, rule);
    char text[SPC_RULE_TEXT_BYTES];

    spc_rule_format(&rule, text);
    cr_expect_lt(gap_of(law.pi, pi, r->n), tolerance, "%s", text);
}

/* Worked out by hand. */
Test(rules_target, the_worked_row_has_the_values_computed_by_hand)
{
    static const double q[] = {0.40, 0.35, 0.20, 0.05}, p[] = {0.10, 0.55, 0.30, 0.05};
    static const struct {
        const char *rule;
        double pi[4], accept[4], residual[4], rejected;
    } rows[] = {{"strict", {.1, .55, .3, .05}, {.25, 1, 1, 1}, {0, .666667, .333333, 0}, .3},
                {"chow:alpha=.5", {.1, .55, .3, .05}, {.25, 1, 1, 1}, {0, .666667, .333333, 0}, .3},
                {"chow:alpha=.7", {.4, .35, .2, .05}, {1, 1, 1, 1}, {0, 0, 0, 0}, 0},
                {"lossy:alpha=.3",
                 {.142857, .521429, .285714, .05},
                 {.357143, 1, 1, 1},
                 {0, .666667, .333333, 0},
                 .257143},
                {"lossy:alpha=.3,beta=solve",
                 {.142857, .522269, .284874, .05},
                 {.357143, 1, 1, 1},
                 {0, .669935, .330065, 0},
                 .257143},
                {"token-v1:alpha=.25",
                 {.425, .4875, .075, .0125},
                 {1, 1, .375, .25},
                 {.153846, .846154, 0, 0},
                 .1625},
                {"token-v2:alpha=.3",
                 {.045, .5975, .335, .0225},
                 {.1125, 1, 1, .45},
                 {0, .647059, .352941, 0},
                 .3825},
                {"token-v3:alpha=.5",
                 {.045, .5975, .335, .0225},
                 {.1125, 1, 1, .45},
                 {0, .647059, .352941, 0},
                 .3825},
                {"token-v3:alpha=.9",
                 {.405, .3775, .215, .0025},
                 {1, 1, 1, .05},
                 {.105263, .578947, .315789, 0},
                 .0475},
                {"token-v3:alpha=0",
                 {.065, .7075, .195, .0325},
                 {.1625, 1, .975, .65},
                 {0, 1, 0, 0},
                 .3575}};
    ref_rows r = rows_from(q, p, 4);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        spc_rule rule;

        cr_assert(spc_rule_parse(rows[i].rule, &rule, NULL));
        check_law law = check_of(&r, rule);
        double mass = ref_sum(law.residual, 4), rejected = 0;

        for (int32_t v = 0; v < 4; v++) {
            rejected += q[v] * (1 - law.accept[v]);
            if (mass > 0) law.residual[v] /= mass;
        }
        cr_expect_lt(gap_of(law.pi, rows[i].pi, 4), 1e-6, "%s", rows[i].rule);
        cr_expect_lt(gap_of(law.accept, rows[i].accept, 4), 1e-6, "%s", rows[i].rule);
        cr_expect_lt(gap_of(law.residual, rows[i].residual, 4), 1e-6, "%s", rows[i].rule);
        cr_expect_float_eq(rejected, rows[i].rejected, 1e-6, "%s", rows[i].rule);
    }
    ref_rows_free(&r);
}

/* The comparators on the same row: pi. */
Test(rules_target, the_worked_row_of_the_comparators)
{
    static const double q[] = {0.40, 0.35, 0.20, 0.05}, p[] = {0.10, 0.55, 0.30, 0.05};
    static const struct {
        const char *rule;
        double pi[4];
    } rows[] = {{"truncate:alpha=.5", {0, .647059, .352941, 0}},
                {"truncate:top-p=.85", {0, .647059, .352941, 0}},
                {"truncate:top-p=.5", {0, 1, 0, 0}},
                {"truncate-q:alpha=.5", {0, .636364, .363636, 0}},
                {"head:alpha=.5", {.1, .55, .3, .05}},
                {"head:alpha=.9", {.4, .35, .2, .05}},
                {"typical:eps=.09", {.4, .4, .2, 0}},
                {"ensemble:w=.25", {.325, .4, .225, .05}},
                {"mentored:kl=.1", {.280764, .433035, .236201, .05}},
                {"mentored:kl=.24", {.4, .35, .2, .05}}, /* KL(p, q) is .231602 */
                {"fuzzy:alpha=.05", {.1, .55, .3, .05}},
                {"fuzzy:alpha=.07", {.4, .35, .2, .05}}, /* JS is .064424 */
                {"fuzzy:alpha=.2,div=kl", {.1, .55, .3, .05}},
                {"fuzzy:alpha=.3,div=kl", {.4, .35, .2, .05}}};
    ref_rows r = rows_from(q, p, 4);

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        spc_rule rule;

        cr_assert(spc_rule_parse(rows[i].rule, &rule, NULL));
        expect_pi(&r, rule, rows[i].pi, 1e-6);
    }
    ref_rows_free(&r);
}

Test(rules_target, a_token_on_the_edge_of_the_set_is_in_it)
{
    static const double q[] = {0.5, 0.25, 0.25}, p[] = {0.25, 0.5, 0.25};
    ref_rows r = rows_from(q, p, 3);

    expect_pi(&r, rule_of(SPC_RULE_TOKEN_V2, 0.25, false, false), q, 1e-15);
    expect_pi(&r, rule_of(SPC_RULE_TOKEN_V3, 0.5, false, false), q, 1e-15);
    expect_pi(&r, rule_of(SPC_RULE_TOKEN_V1, 0.25, false, false), q, 1e-15);
    ref_rows_free(&r);
}

Test(rules_target, ends_of_the_range_give_one_model)
{
    static const struct {
        spc_rule_kind kind;
        double drafter, verifier; /* alpha that gives q, alpha that gives p */
    } ends[] = {{SPC_RULE_CHOW, 1, 0},         {SPC_RULE_DIFF, 1, -1},
                {SPC_RULE_OPT, 1.001, -1.001}, {SPC_RULE_BILD, 1e9, 0},
                {SPC_RULE_TOKEN_V1, 1, -1},    {SPC_RULE_TOKEN_V2, 1, -1e-17},
                {SPC_RULE_TOKEN_V3, 1, -1e-17}};
    dice d = {6};

    for (int i = 0; i < 1200; i++) {
        ref_rows r = random_rows(&d, ROWS_RANDOM, true);

        for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
            expect_pi(&r, rule_of(ends[k].kind, ends[k].drafter, false, false), r.q, 1e-12);
            expect_pi(&r, rule_of(ends[k].kind, ends[k].verifier, false, false), r.p, 1e-12);
        }
        expect_pi(&r, rule_of(SPC_RULE_LOSSY, 0, false, false), r.p, 1e-12);
        expect_pi(&r, rule_of(SPC_RULE_LOSSY, 0, false, true), r.p, 1e-12);
        ref_rows_free(&r);
    }
}

/* Not strict, although the set holds nothing but the verifier's best token. */
Test(rules_target, token_v3_at_0_is_token_v2_at_0_and_not_strict)
{
    dice d = {7};

    for (int i = 0; i < 1200; i++) {
        ref_rows r = random_rows(&d, ROWS_RANDOM, true);
        check_law v2 = check_of(&r, rule_of(SPC_RULE_TOKEN_V2, 0, false, false));
        check_law v3 = check_of(&r, rule_of(SPC_RULE_TOKEN_V3, 0, false, false));
        int32_t top = ref_top(r.p, r.n);

        cr_assert_eq(gap_of(v2.pi, v3.pi, r.n), 0);
        cr_assert_float_eq(ref_over(v3.pi, r.p, r.n), r.q[top] * (1 - r.p[top]), 1e-12);
        ref_rows_free(&r);
    }
}

Test(rules_target, lossy_with_beta_1_has_its_piecewise_law)
{
    dice d = {8};

    for (int i = 0; i < 1200; i++) {
        ref_rows r = random_rows(&d, ROWS_RANDOM, true);
        double alpha = 0.05 + 0.9 * dice_uniform(&d), pi[CHECK_MAX], share, rejected = 0;
        check_law law = check_of(&r, rule_of(SPC_RULE_LOSSY, alpha, false, false));

        for (int32_t v = 0; v < r.n; v++) rejected += fmax(0, r.q[v] - r.p[v] / (1 - alpha));
        share = rejected / ref_over(r.p, r.q, r.n);
        for (int32_t v = 0; v < r.n; v++) {
            pi[v] = r.q[v] <= r.p[v] ? share * r.p[v] + (1 - share) * r.q[v]
                                     : fmin(r.q[v], r.p[v] / (1 - alpha));
        }
        cr_assert_lt(gap_of(law.pi, pi, r.n), 1e-12);
        ref_rows_free(&r);
    }
}

Test(rules_target, a_larger_alpha_grows_the_set_and_lets_lossy_accept_more)
{
    static const spc_rule_kind kinds[] = {SPC_RULE_TOKEN_V1, SPC_RULE_TOKEN_V2, SPC_RULE_TOKEN_V3};
    dice d = {9};

    for (int i = 0; i < 800; i++) {
        ref_rows r = random_rows(&d, (rows_kind)(i % ROWS_KINDS), false);
        check_law before[4];

        for (int step = 0; step < 16; step++) {
            double alpha = step / 16.0;

            for (int k = 0; k < 4; k++) {
                spc_rule_kind kind = k < 3 ? kinds[k] : SPC_RULE_LOSSY;
                check_law law = check_of(&r, rule_of(kind, alpha, false, false));

                if (step > 0 && k < 3) cr_assert_leq(law.target.eta, before[k].target.eta + 1e-15);
                for (int32_t v = 0; step > 0 && v < r.n; v++) {
                    spc_entry e = check_entry(&r, v);

                    if (k < 3) {
                        cr_assert(!spc_target_selects(before[k].target, e) ||
                                  spc_target_selects(law.target, e));
                    } else {
                        cr_assert_geq(law.accept[v], before[k].accept[v] - 1e-15);
                    }
                }
                before[k] = law;
            }
        }
        ref_rows_free(&r);
    }
}

Test(rules_target, at_temperature_0_token_v3_is_lossy_greedy_and_lossy_is_greedy)
{
    dice d = {10};
    ref_options greedy = {0, 0, 1, 0, false, true};

    for (int i = 0; i < 2000; i++) {
        float drafter[CHECK_MAX], verifier[CHECK_MAX];
        ref_rows r = ref_rows_of(2 + dice_below(&d, 9));
        double alpha = dice_uniform(&d);

        dice_rows(&d, (rows_kind)(i % ROWS_KINDS), r.n, 2, drafter, verifier);
        ref_fill(&r, drafter, verifier, &greedy);
        int32_t best = ref_top(r.q1, r.n);
        bool keep = r.p1[best] >= (1 - alpha) * r.p1[ref_top(r.p1, r.n)];

        if (r.p1[best] > 0) {
            expect_pi(&r, rule_of(SPC_RULE_TOKEN_V3, alpha, false, false), keep ? r.q : r.p, 1e-15);
            expect_pi(&r, rule_of(SPC_RULE_LOSSY_GREEDY, alpha, false, false), keep ? r.q : r.p,
                      1e-15);
        }
        expect_pi(&r, rule_of(SPC_RULE_LOSSY, 0.99 * alpha, false, false), r.p, 1e-15);
        expect_pi(&r, rule_of(SPC_RULE_LOSSY, 0.99 * alpha, false, true), r.p, 1e-15);
        ref_rows_free(&r);
    }
}

/* On the gate's scale, temperature only renames alpha of token-v3. */
Test(rules_target, a_scaled_gate_of_token_v3_is_an_unscaled_one_with_another_alpha)
{
    dice d = {11};

    for (int i = 0; i < 1200; i++) {
        static const double temperatures[] = {0.3, 0.7, 1.5}, alphas[] = {0.05, 0.3, 0.7, 0.95};
        double alpha = alphas[dice_below(&d, 4)];
        ref_options o = ref_plain;
        float drafter[CHECK_MAX], verifier[CHECK_MAX];
        ref_rows plain = ref_rows_of(8), scaled = ref_rows_of(8);

        o.temperature = temperatures[i % 3];
        dice_rows(&d, ROWS_RANDOM, 8, 2, drafter, verifier);
        ref_fill(&plain, drafter, verifier, &o);
        o.processed = true;
        ref_fill(&scaled, drafter, verifier, &o);
        check_law a = check_of(&scaled, rule_of(SPC_RULE_TOKEN_V3, alpha, true, false));
        spc_rule renamed =
            rule_of(SPC_RULE_TOKEN_V3, 1 - pow(1 - alpha, o.temperature), false, false);
        check_law b = check_of(&plain, renamed);
        cr_assert_lt(gap_of(a.pi, b.pi, 8), 1e-12);
        ref_rows_free(&plain);
        ref_rows_free(&scaled);
    }
}

/* What must not be relied on does happen. */
Test(rules_target, rejection_and_distance_of_token_v3_are_not_monotone_in_alpha)
{
    static const double alphas[] = {0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99};
    dice d = {12};
    double more_rejected = 0, nearer = 0;

    for (int i = 0; i < 500; i++) {
        ref_rows r = random_rows(&d, ROWS_RANDOM, true);
        double rejected = 2, distance = 0;

        for (int k = 0; k < 7; k++) {
            check_law law = check_of(&r, rule_of(SPC_RULE_TOKEN_V3, alphas[k], false, false));
            double now = ref_over(r.q, law.pi, r.n), far = ref_over(law.pi, r.p, r.n);

            more_rejected = fmax(more_rejected, now - rejected);
            nearer = fmax(nearer, distance - far);
            rejected = now;
            distance = far;
        }
        ref_rows_free(&r);
    }
    cr_expect_gt(more_rejected, 1e-3);
    cr_expect_gt(nearer, 1e-3);
}

/* The paper's literal form, without the nucleus, does leave it. */
Test(rules_target, without_nucleus_a_token_rule_can_leave_the_verifiers_nucleus)
{
    ref_options o = {1, 0, 0.7, 0, false, false};
    dice d = {13};
    double outside = 0;

    for (int i = 0; i < 300; i++) {
        float drafter[CHECK_MAX], verifier[CHECK_MAX];
        ref_rows r = ref_rows_of(8);

        dice_rows(&d, ROWS_RANDOM, 8, 2, drafter, verifier);
        ref_fill(&r, drafter, verifier, &o);
        check_law law = check_of(&r, rule_of(SPC_RULE_TOKEN_V3, 0.9, false, false));
        for (int32_t v = 0; v < 8; v++) {
            if (r.p[v] <= 0) outside = fmax(outside, law.pi[v]);
        }
        ref_rows_free(&r);
    }
    cr_expect_gt(outside, 1e-3);
}

static void expect_deferral(const ref_rows *r, const check_law *law, const char *what)
{
    ref_rows gate = *r;

    if (law->target.form == SPC_TARGET_TYPICAL) { /* its set is cut on the processed row */
        gate.q1 = gate.q;
        gate.p1 = gate.p;
    }
    for (int32_t v = 0; v < r->n; v++) {
        bool deferred = spc_target_defers(law->target, check_entry(&gate, v));

        switch (law->target.form) {
        case SPC_TARGET_CUT_Q:
        case SPC_TARGET_HEAD:
        case SPC_TARGET_TYPICAL:
        case SPC_TARGET_SELECT: cr_assert_eq(deferred, r->selected[v] <= 0, "%s", what); break;
        case SPC_TARGET_KEEP: cr_assert_not(deferred, "%s", what); break;
        default: cr_assert(deferred, "%s", what); break;
        }
    }
}

static void expect_within_budget(const ref_rows *r, const check_law *law, const char *what)
{
    double kl = 0;

    if (law->target.form != SPC_TARGET_LENIENT || law->target.budget <= 0) return;
    for (int32_t v = 0; v < r->n; v++) kl += spc_target_kl(law->target, check_entry(r, v));
    cr_assert_leq(kl, law->target.budget + 1e-9, "%s", what);
}

Test(rules_target, mentored_keeps_the_divergence_within_its_budget)
{
    visit_all(15, 800, expect_within_budget);
}

/* What a step of cactus emits, by its formula (ref_cactus) and through the headers. */
static void expect_cactus(ref_rows *r, double delta)
{
    spc_rule rule = rule_of(SPC_RULE_CACTUS, delta, false, false);
    spc_target begun = spc_target_begin(rule, check_row(r), false);
    double emitted[CHECK_MAX] = {0};

    ref_law(r, SPC_RULE_CACTUS, delta, false);
    for (int32_t x = 0; x < r->n; x++) {
        spc_target t = spc_target_raise(begun, check_entry(r, x));
        double q = r->q[x], weight[CHECK_MAX], mass;
        double accept = q > 0 ? fmin(1, spc_target_kept(t, check_entry(r, x)) / q) : 0;

        for (int32_t v = 0; v < r->n; v++) weight[v] = spc_target_residual(t, check_entry(r, v));
        mass = ref_sum(weight, r->n);
        cr_assert_float_eq(accept, r->accept[x], 1e-12);
        emitted[x] += q * accept;
        for (int32_t v = 0; v < r->n && q * (1 - accept) > 0; v++) {
            emitted[v] += q * (1 - accept) * weight[v] / mass;
        }
    }
    cr_assert_lt(gap_of(emitted, r->pi, r->n), 1e-12, "delta %g", delta);
    cr_assert_float_eq(ref_sum(r->pi, r->n), 1, 1e-12);
}

Test(rules_target, cactus_emits_its_own_law_and_is_strict_at_0)
{
    static const double q[] = {0.40, 0.35, 0.20, 0.05}, p[] = {0.10, 0.55, 0.30, 0.05};
    static const double worked[] = {.234164, .462935, .252901, .05};
    ref_rows r = rows_from(q, p, 4);
    dice d = {16};

    expect_cactus(&r, 0.1);
    cr_expect_lt(gap_of(r.pi, worked, 4), 1e-6);
    ref_rows_free(&r);
    for (int i = 0; i < 1600; i++) {
        r = random_rows(&d, (rows_kind)(i % ROWS_KINDS), i % 4 == 0);
        expect_cactus(&r, 0.01);
        expect_cactus(&r, 2);
        ref_law(&r, SPC_RULE_CACTUS, 0, false);
        cr_expect_lt(gap_of(r.pi, r.p, r.n), 1e-12, "delta 0 is strict");
        cr_expect_eq(rule_of(SPC_RULE_CACTUS, 0, false, false).path, SPC_RULE_STRICT);
        ref_rows_free(&r);
    }
}

Test(rules_target, deferral_is_counted_as_the_rule_decides)
{
    visit_all(14, 400, expect_deferral);
}
