/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_verify_known.c - verification of rows whose answer is known: they agree, they have
 * nothing in common, a residual has one entry, a temperature leaves no choice, two rules are one.
 */
#include "toyverify.h"

#include <math.h>

Test(host_verify_known, one_hot_rows_that_agree_keep_every_draft)
{
    for (int i = 0; i < 2 * TOY_RULES; i++) {
        spc_row_params p = params_of(toy_rules[i / 2], 1);
        int32_t draft[ROWS];
        spc_verdict out;

        p.verify = i % 2;
        for (int32_t k = 0; k < ROWS * V; k++) {
            drafter[k] = verifier[k] = k % V == (3 * (k / V) + 1) % V ? 5.0f : -INFINITY;
        }
        for (int32_t k = 0; k < ROWS; k++) draft[k] = (3 * k + 1) % V;
        spc_verify_args a = args_of(&p, drafter, verifier, V, 4, draft);
        a.bonus = true;
        spc_verify(&a, &out);
        cr_expect_eq(out.accepted, 4, "%s", toy_rules[i / 2]);
        cr_expect_eq(out.token[4], 13 % V, "%s", toy_rules[i / 2]);
        cr_expect_eq(out.status, 0);
    }
}

Test(host_verify_known, disjoint_rows_reject_at_once_and_draw_from_the_verifier)
{
    static const char *const rules[] = {
        "strict",          "lossy:alpha=0.9", "lossy:alpha=0.9,beta=solve",
        "diff:alpha=-1",   "bild:alpha=3",    "token-v3:alpha=0.5",
        "token-v2:alpha=1"};
    dice d = {3};

    for (int i = 0; i < 700; i++) {
        spc_row_params p = params_of(rules[i % 7], 1);
        int32_t draft[ROWS];
        spc_row_stats stats[ROWS];
        spc_verdict out;

        p.seed = dice_word(&d);
        p.verify = dice_below(&d, 2);
        fill(&d, ROWS_DISJOINT);
        spc_verify_args a = args_of(&p, drafter, verifier, V, 3, draft);
        draft_all(&p, &a, draft, stats);
        spc_verify(&a, &out);
        cr_expect_eq(out.accepted, 0, "%s", rules[i % 7]);
        cr_expect_eq(out.count, 1);
        cr_expect_eq(out.token[0] % 2, 1, "odd tokens are the verifier's");
    }
}

Test(host_verify_known, a_residual_with_one_entry_determines_the_token)
{
    static const float q[] = {2, 0, 1, 0}, p1[] = {0, 0, 1, 3};
    spc_row_params p = params_of("strict", 1);
    int32_t draft[1] = {0}, rejected = 0;
    float low[4], high[4];
    double sq = 0, sp = 0;

    for (int v = 0; v < 4; v++) {
        sq += exp((double)q[v]);
        sp += exp((double)p1[v]);
    }
    for (int v = 0; v < 4; v++) { /* p exceeds q at token 3 alone */
        low[v] = (float)((double)q[v] - log(sq));
        high[v] = (float)((double)p1[v] - log(sp));
    }
    for (p.seed = 0; p.seed < 500; p.seed++) {
        spc_verify_args a = args_of(&p, low, high, 4, 1, draft);
        spc_verdict out;

        spc_verify(&a, &out);
        if (out.accepted) continue;
        rejected++;
        cr_assert_eq(out.token[0], 3);
    }
    cr_expect_gt(rejected, 300);
}

/* The only residual entry weighs 1e-38, so that its arrival time overflows for one seed in some
 * hundred: never a token without weight. */
Test(host_verify_known, a_vanishing_residual_still_gives_a_token_of_the_row)
{
    static const float q[] = {-INFINITY, -INFINITY, 0}, p1[] = {-INFINITY, -87, 0};
    spc_row_params p = params_of("strict", 1);
    int32_t draft[1] = {-1};

    for (p.seed = 0; p.seed < 5000; p.seed++) {
        spc_verify_args a = args_of(&p, q, p1, 3, 1, draft);
        spc_verdict out;

        spc_verify(&a, &out);
        cr_assert(out.token[0] == 1 || out.token[0] == 2, "seed %d: token %d", (int)p.seed,
                  (int)out.token[0]);
    }
}

Test(host_verify_known, equal_rows_keep_everything_and_a_rejection_of_them_draws_the_target)
{
    dice d = {4};

    for (int i = 0; i < 400; i++) {
        spc_row_params p = params_of(toy_rules[i % TOY_RULES], 1);
        int32_t draft[ROWS], none[ROWS] = {-1, 0, 0, 0, 0};
        spc_row_stats stats[ROWS];
        spc_verdict out;

        if (strncmp(toy_rules[i % TOY_RULES], "t", 1) == 0) continue; /* sets: pi is not q there */
        p.seed = dice_word(&d);
        fill(&d, ROWS_EQUAL);
        spc_verify_args a = args_of(&p, drafter, verifier, V, 4, draft);
        draft_all(&p, &a, draft, stats);
        spc_verify(&a, &out);
        cr_expect_eq(out.accepted, 4, "%s", toy_rules[i % TOY_RULES]);
        a.draft = none;
        spc_verify(&a, &out);
        cr_expect_eq(out.count, 1);
        cr_expect_eq(out.status, SPC_STATUS_ZERO_RESIDUAL | SPC_STATUS_BAD_DRAFT);
        expect_form(&a, &out, toy_rules[i % TOY_RULES]);
    }
}

/* rules/README.md, "Worth knowing". */
Test(host_verify_known, instances_that_always_pick_the_verifier_give_the_tokens_of_strict)
{
    static const char *const rules[] = {"lossy:alpha=0", "lossy:alpha=0,beta=solve",
                                        "diff:alpha=-1", "token-v2:alpha=-0.5",
                                        "token-v3:alpha=-0.5"};
    dice d = {5};

    for (int i = 0; i < 2000; i++) {
        static const float temperatures[] = {0, 0.5f, 1, 1.5f};
        const char *rule = rules[i % 5];
        float temperature = temperatures[i % 4];
        spc_row_params strict = params_of("strict", temperature);
        spc_row_params other = params_of(rule, temperature);
        int32_t draft[ROWS], same[ROWS];
        spc_row_stats stats[ROWS];
        spc_verdict a_out, b_out;

        fill(&d, (rows_kind)(i % ROWS_KINDS));
        strict.seed = other.seed = dice_word(&d);
        strict.verify = other.verify = dice_below(&d, 2);
        strict.sampling.top_k = other.sampling.top_k = dice_below(&d, 2) * 3;
        spc_verify_args a = args_of(&strict, drafter, verifier, V, 4, draft), b = a;
        draft_all(&strict, &a, draft, stats);
        b.params = &other;
        draft_all(&other, &b, same, stats);
        cr_expect_eq(memcmp(draft, same, 4 * sizeof *draft), 0);
        a.bonus = b.bonus = true;
        spc_verify(&a, &a_out);
        spc_verify(&b, &b_out);
        cr_expect(same_tokens(&a_out, &b_out), "%s", rule);
    }
}

Test(host_verify_known, temperature_0_is_the_first_maximum_and_needs_no_randomness)
{
    dice d = {6};

    for (int i = 0; i < 1000; i++) {
        spc_row_params p = params_of(i % 2 ? "lossy-greedy:alpha=0.4" : "token-v3:alpha=0.4", 0);
        ref_rows r = ref_rows_of(V);
        ref_options o = options_of(&p);
        int32_t draft[1];
        spc_row_stats stats;
        spc_verdict out, other;

        fill(&d, ROWS_TIED);
        ref_fill(&r, drafter, verifier, &o);
        ref_law(&r, SPC_RULE_TOKEN_V3, 0.4, false);
        draft[0] = spc_draft_sample(drafter, V, &p, 10, 0, &stats);
        cr_expect_eq(draft[0], ref_top(r.q1, V));
        spc_verify_args a = args_of(&p, drafter, verifier, V, 1, draft);
        spc_verify(&a, &out);
        cr_expect_eq(out.token[0], ref_top(r.pi, V));
        p.seed = dice_word(&d);
        spc_verify(&a, &other);
        cr_expect(same_tokens(&out, &other));
        ref_rows_free(&r);
    }
}

/* Do the two largest logits of every row differ by more than a tiny temperature blurs? */
static bool maxima_stand_out(const float *rows)
{
    for (int32_t i = 0; i < ROWS; i++) {
        const float *row = rows + i * V;
        float first = -INFINITY, second = -INFINITY;

        for (int32_t v = 0; v < V; v++) {
            if (row[v] > first) {
                second = first;
                first = row[v];
            } else if (row[v] > second) {
                second = row[v];
            }
        }
        if (first - second < 0.01f) return false;
    }
    return true;
}

Test(host_verify_known, a_tiny_temperature_is_greedy)
{
    static const char *const rules[] = {"strict",
                                        "lossy:alpha=0.3",
                                        "diff:alpha=0.1",
                                        "token-v1:alpha=0.2",
                                        "token-v2:alpha=0.2",
                                        "token-v3:alpha=0.5"};
    enum { RULES = sizeof rules / sizeof *rules };
    dice d = {61};
    int compared = 0;

    for (int i = 0; i < 600; i++) {
        spc_row_params greedy = params_of(rules[i % RULES], 0);
        spc_row_params tiny = params_of(rules[i % RULES], SPC_TEMPERATURE_MIN);
        int32_t draft[ROWS], same[ROWS];
        spc_row_stats stats[ROWS];
        spc_verdict a_out, b_out;

        fill(&d, ROWS_CLOSE);
        if (!maxima_stand_out(drafter) || !maxima_stand_out(verifier)) continue;
        tiny.seed = dice_word(&d);
        spc_verify_args a = args_of(&greedy, drafter, verifier, V, 4, draft), b = a;
        draft_all(&greedy, &a, draft, stats);
        b.params = &tiny;
        b.draft = same;
        draft_all(&tiny, &b, same, stats);
        cr_assert_eq(memcmp(draft, same, 4 * sizeof *draft), 0);
        a.bonus = b.bonus = true;
        spc_verify(&a, &a_out);
        spc_verify(&b, &b_out);
        cr_assert(same_tokens(&a_out, &b_out), "%s, %d", rules[i % RULES], i);
        compared++;
    }
    cr_assert_gt(compared, 300);
}

/* The set holds the draft; a nucleus of the verifier's best token alone does not.  Temperature 0
 * has no nucleus: there alone a token rule follows the drafter none the less. */
Test(host_verify_known, near_temperature_0_only_truncation_takes_a_draft_out_of_the_set)
{
    static const float q[] = {0, 3, 0}, p[] = {1, 0.7f, 0}; /* p(1) is e^-3000 at 1e-4 */
    static const struct {
        float temperature, top_p;
        int32_t nucleus, accepted;
    } cases[] = {{0, 0.9f, 1, 1},
                 {SPC_TEMPERATURE_MIN, 1, 1, 1},
                 {SPC_TEMPERATURE_MIN, 0.9f, 1, 0},
                 {SPC_TEMPERATURE_MIN, 0.9f, 0, 1},
                 {1, 0.9f, 1, 1}};
    const int32_t draft[] = {1};

    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        spc_row_params params = params_of("token-v3:alpha=0.5", cases[k].temperature);
        spc_verdict out;

        params.sampling.top_p = cases[k].top_p;
        params.nucleus = cases[k].nucleus;
        spc_verify_args a = args_of(&params, q, p, 3, 1, draft);
        spc_verify(&a, &out);
        cr_expect_eq(out.accepted, cases[k].accepted, "case %zu", k);
        cr_expect_eq(out.token[0], cases[k].accepted, "case %zu", k);
    }
}

/* What a round makes of a draft in one row of each model. */
static spc_row_detail detail_of(const spc_row_params *p, const float *q, const float *p1, int32_t n,
                                int32_t draft, spc_verdict *out)
{
    spc_verify_args a = args_of(p, q, p1, n, 1, &draft);
    spc_row_detail detail[2];

    spc_verify(&a, out);
    spc_verify_describe(&a, out, detail);
    return detail[0];
}

/* A rule's number is any finite double, a row's float: an infinite surprise or divergence exceeds
 * it all the same, and however far cactus raises a probability, it does not raise 0. */
Test(host_verify_known, numbers_beyond_all_floats_are_numbers)
{
    static const char *const rules[] = {"bild:alpha=1e39", "bild:alpha=1e39,gate=processed",
                                        "fuzzy:alpha=1e300,div=kl", "mentored:kl=1e39"};
    static const float low[] = {0, 1, -INFINITY, -INFINITY}, high[] = {-INFINITY, -INFINITY, 0, 0};
    spc_row_params p;
    spc_verdict out;

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        p = params_of(rules[i], 1);
        (void)detail_of(&p, low, high, 4, 1, &out);
        cr_expect_eq(out.accepted, 0, "%s", rules[i]);
        cr_expect_geq(out.token[0], 2, "%s", rules[i]);
    }
    p = params_of("cactus:delta=1e39", 1);
    (void)detail_of(&p, low, high, 4, 1, &out);
    cr_expect_eq(out.accepted, 0, "p(1) is 0");
    (void)detail_of(&p, low, low, 4, 0, &out);
    cr_expect_eq(out.accepted, 1, "p(0) is 1 now");
}

/* KL is 84 here: nearly all of p on a token that has e^-84 of q. */
Test(host_verify_known, a_divergence_is_as_large_as_floats_can_tell)
{
    static const float q[] = {0, -84, -90}, p1[] = {-90, 0, -90};
    spc_row_params p = params_of("fuzzy:alpha=83.9,div=kl", 1);
    spc_verdict out;

    cr_expect_eq(detail_of(&p, q, p1, 3, 0, &out).deferred, 1u);
    p = params_of("fuzzy:alpha=84.1,div=kl", 1);
    cr_expect_eq(detail_of(&p, q, p1, 3, 0, &out).deferred, 0u);
}

/* token-v1 at -1 keeps the drafter nowhere: whatever q adds up to in float, its target is p. */
Test(host_verify_known, an_empty_set_leaves_the_verifiers_row_to_the_bit)
{
    enum { WIDE = 300 };
    spc_row_params p = params_of("token-v1:alpha=-1", 1);
    float q[WIDE], p1[WIDE];
    dice d = {31};

    for (int i = 0; i < 50; i++) {
        spc_verdict out;
        spc_row_detail detail;

        dice_rows(&d, ROWS_RANDOM, WIDE, 2, q, p1);
        p.seed = dice_word(&d);
        detail = detail_of(&p, q, p1, WIDE, dice_below(&d, WIDE), &out);
        cr_expect_eq(detail.inside, 0);
        cr_expect_eq(detail.target, detail.verifier);
    }
}

/* At eps 1 the threshold of a uniform row is its maximum, e^-H: no token is below it. */
Test(host_verify_known, the_verifiers_best_token_is_typical_despite_rounding)
{
    enum { MOST = 400 };
    static const float equal[MOST];
    spc_row_params p = params_of("typical:eps=1", 1);
    spc_verdict out;

    for (int32_t n = 1; n <= MOST; n++) {
        cr_expect_eq(detail_of(&p, equal, equal, n, 0, &out).inside, n, "%d", (int)n);
    }
}

/* The nucleus of a row that is one-hot is its token; what token-v3 keeps is cut on logits. */
Test(host_verify_known, at_temperature_0_a_tie_is_in_the_set_of_logits_and_not_in_the_nucleus)
{
    static const float q[] = {1, 0, 0}, p1[] = {0, 4, 4};
    spc_row_params p = params_of("truncate:top-p=0.9", 0);
    spc_verdict out;

    cr_expect_eq(detail_of(&p, q, p1, 3, 0, &out).inside, 1);
    cr_expect_eq(out.token[0], 1);
    p = params_of("truncate:alpha=0.9", 0);
    cr_expect_eq(detail_of(&p, q, p1, 3, 0, &out).inside, 2);
    cr_expect_eq(out.token[0], 1);
}
