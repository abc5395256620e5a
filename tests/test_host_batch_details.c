/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_batch_details.c - what a batch says of each row beside its verdict, against the
 * reference in double. */
#include "host_batches.h"

static void expect_near(double got, double want, const char *what, const char *rule)
{
    cr_assert(fabs(got - want) <= 2e-5 * (1 + fabs(want)), "%s: %s is %g, not %g", rule, what, got,
              want);
}

/* The set and the maxima that a rule looks at, where it has such; drafter: it has read q. */
static void expect_set(const spc_rule *rule, const spc_row_detail *t, const ref_rows *r,
                       bool drafter)
{
    const spc_rule_kind kind = (spc_rule_kind)rule->path;
    const bool set = spc_rule_shape_of(kind) == SPC_SHAPE_TOKEN || kind == SPC_RULE_HEAD ||
                     kind == SPC_RULE_TRUNCATE || kind == SPC_RULE_TRUNCATE_P ||
                     kind == SPC_RULE_TRUNCATE_Q || kind == SPC_RULE_TYPICAL;
    const double *q1 = r->q1, *p1 = r->p1;
    double inside = 0, outside = 0;
    char text[SPC_RULE_TEXT_BYTES];

    spc_rule_format(rule, text);
    for (int32_t v = 0; v < r->n && set; v++) {
        inside += r->selected[v];
        outside += drafter ? (1 - r->selected[v]) * r->q[v] : 0;
    }
    if (!set || r->margin > 4e-6) {
        expect_near((double)t->inside, set ? inside : -1, "the set", text);
        expect_near((double)t->outside, outside, "eta", text);
    }
    if (spc_reads_gate(kind)) {
        expect_near((double)t->top_drafter, q1[ref_top(q1, r->n)], "max q1", text);
        expect_near((double)t->top_verifier, p1[ref_top(p1, r->n)], "max p1", text);
    } else {
        cr_assert(t->top_drafter == 0 && t->top_verifier == 0, "%s", text);
    }
}

/* One described row against the reference in double. */
static void expect_detail(const batch *b, int32_t s, int32_t row, ref_rows *r, const char *rule)
{
    const spc_row_params *p = &b->params[s];
    const spc_row_detail *t = &b->out->detail[s * ROWS + row];
    size_t at = ((size_t)b->row[s] + (size_t)row) * (size_t)b->stride;
    ref_options options = options_of(p);
    int32_t emitted = b->out->token[s * ROWS + row];
    double tv = 0;

    ref_fill(r, b->drafter + at, b->verifier + at, &options);
    ref_law_of(r, &p->rule);
    for (int32_t v = 0; v < b->vocab; v++) tv += fmax(0, r->p[v] - r->q[v]);
    if (row < b->drafts[s]) {
        int32_t draft = b->draft[s * DRAFTS + row];

        expect_near((double)t->drafter, r->q[draft], "q", rule);
        expect_near((double)t->verifier, r->p[draft], "p", rule);
        expect_near((double)t->target, r->pi[draft], "pi", rule);
        cr_assert_eq(t->fate,
                     row < b->out->accepted[s]
                         ? (t->target >= t->drafter ? SPC_FATE_KEPT : SPC_FATE_LUCKY)
                         : SPC_FATE_REJECTED,
                     "%s: fate %d", rule, t->fate);
        if (t->fate == SPC_FATE_LUCKY) cr_assert_lt(t->coin * t->drafter, t->target + 1e-6f);
        if (t->fate == SPC_FATE_REJECTED) cr_assert_geq(t->coin * t->drafter, t->target - 1e-6f);
    } else {
        cr_assert_eq(t->fate, SPC_FATE_BONUS);
        cr_assert_eq(t->drafter + t->verifier + t->target, 0.0f);
    }
    bool read = row < b->drafts[s] || spc_rule_uses_drafter(&p->rule);

    expect_near((double)t->tv, read ? tv : 0, "TV", rule);
    expect_set(&p->rule, t, r, read);
    expect_near(exp((double)t->log_verifier), r->p[emitted], "p of the token", rule);
    expect_near(exp((double)t->log_target), r->pi[emitted], "pi of the token", rule);
    cr_assert_eq(t->deferred, b->out->verdict[s].deferred >> row & 1u);
}

Test(host_batch_details, detail_says_what_the_reference_says)
{
    dice d = {15};
    batch b = batch_of(300, 300);
    ref_rows r = ref_rows_of(300);
    int seen[SPC_FATE_BONUS + 1] = {0};

    for (int round = 0; round < 2 * TOY_RULES; round++) {
        const char *rule = toy_rules[round / 2];
        spc_row_params p = params_in_mode(rule, 0);
        spc_verify_batch v = verify_batch(&b);

        p.seed = (uint64_t)round * 100;
        batch_fill(&b, &d, &p, 2.0, NULL);
        for (int32_t i = 0; i < SEQUENCES * ROWS * 300; i++) { /* close rows, so that all happens */
            b.verifier[i] = b.drafter[i] > -1e30f ? b.drafter[i] + (float)(i % 7) / 7 : -INFINITY;
        }
        run(&v, rule);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            for (int32_t row = 0; row <= b.drafts[s]; row++) {
                const spc_row_detail *t = &b.out->detail[s * ROWS + row];

                seen[t->fate]++;
                if (row < b.out->count[s]) {
                    expect_detail(&b, s, row, &r, rule);
                } else {
                    cr_assert_eq(t->fate, SPC_FATE_NONE);
                }
            }
        }
    }
    for (int f = 0; f <= SPC_FATE_BONUS; f++) cr_expect_gt(seen[f], 10, "fate %d", f);
    ref_rows_free(&r);
    batch_free(&b);
}

/* The set of a token rule by hand: p = (.1, .55, .3, .05), q = (.4, .35, .2, .05). */
Test(host_batch_details, detail_of_the_worked_row)
{
    static const double q[4] = {.40, .35, .20, .05}, p[4] = {.10, .55, .30, .05};
    spc_row_params params = params_of("token-v3:alpha=0.5", 1);
    float drafter[4], verifier[4];
    int64_t row = 0, position = 3;
    int32_t drafts = 1, draft = 3, bonus = 0, token[2], count;
    uint32_t status;
    spc_row_detail detail[2];
    spc_verify_batch v = {.sequences = 1,
                          .vocab = 4,
                          .max_drafts = 1,
                          .params = &params,
                          .drafter = {{drafter, SPC_LOGITS_F32}, 4, 4},
                          .drafter_row = &row,
                          .verifier = {{verifier, SPC_LOGITS_F32}, 4, 4},
                          .verifier_row = &row,
                          .drafts = &drafts,
                          .draft = &draft,
                          .position = &position,
                          .bonus = &bonus,
                          .token = token,
                          .count = &count,
                          .status = &status,
                          .detail = detail};

    for (int i = 0; i < 4; i++) {
        drafter[i] = (float)log(q[i]);
        verifier[i] = (float)log(p[i]);
    }
    run(&v, "worked row");
    cr_expect_eq(detail[0].inside, 2);
    cr_expect_float_eq(detail[0].outside, 0.45f, 1e-6);
    cr_expect_float_eq(detail[0].target, 0.0225f, 1e-6);
    cr_expect_float_eq(detail[0].tv, 0.3f, 1e-6);
    cr_expect_eq(detail[1].fate, SPC_FATE_NONE, "no bonus was asked for");
    params = params_of("opt:alpha=0.3", 1);
    run(&v, "worked row");
    cr_expect_eq(detail[0].inside, -1);
    cr_expect_float_eq(detail[0].top_drafter, 0.4f, 1e-6);
    cr_expect_float_eq(detail[0].top_verifier, 0.55f, 1e-6);
    cr_expect_eq(detail[0].deferred, 1u);
}
