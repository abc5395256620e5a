/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/* The contract of spc_draft_sample and spc_verify: what comes out for good, odd and bad rows.
 *
 * What is asked of verification, and where it is shown.  The last column: test_NAME, or in
 * test_host_NAME for what has no test_ before it.
 *
 *  1 law          chi-squared of pi for every rule    verify_draw: frequencies_are_the_target...
 *  2              a reversed drafter                  verify_draw: positions_of_a_round...
 *  3              10/9 and 11/9 kept                  verify_draw: the_published_example...
 *  4              a heavy head and a far tail         verify_draw: a_far_tail...
 *  5              seeds, positions, streams           test_rules_rng: streams_positions...
 *  6              rates of rows made for them         verify_draw: drafts_are_kept_at_the_rate...
 *  7 exactness    injected coins                      verify_coins: decisions..., block_decisions...
 *  8              one-hot, disjoint, one entry        verify_known
 *  9              form of what comes out, ragged      here; batch: is_verify_for_every_sequence
 * 10              end points of the coin              test_rules_accept
 * 11              greedy, ties, tiny T, all at once   verify_known; test_cuda_verify: mixed_batch
 * 12              identities of rules                 verify_known; test_rules_target, test_rules_defer
 * 13              truncation and its ties             here; test_cuda_verify: ..._are_cut
 * 14              statistics against float64          verify_statistics: statistics_stay...
 * 15              logprobs, what became of each row   batch_details: detail_...
 * 16              masks and edits                     batch: masks_edits_and_widths...
 * 17 invariance   alone, in company, other forms      batch_shapes; test_cuda_shapes
 * 18              sequences without drafts            batch_shapes: ...a_large_ragged_batch...
 * 19              slices of the vocabulary            shard, batch_shapes; test_cuda_shard
 * 20              graphs                              test_cuda_backend: a_recorded_forward...
 * 21              one workspace for many shapes       test_cuda_verify: batches_of_other_shapes...
 * 22 robustness   bad rows, drafts, parameters        here; test_cuda_verify: bad_rows_and_drafts
 * 23              every length, padded, unaligned     batch_shapes, test_cuda_shapes: rows_of_every...
 * 24              2^32 elements and more              batch_shapes, test_cuda_shapes: ...32_bits
 * 25              4096 ragged sequences               batch_shapes, test_cuda_shapes: ...large_ragged...
 * 26              races and stray reads               bench/gpu_run, on a device
 * 27              mutations                           mutants.py */
/* clang-format on */
#include "toyverify.h"

#include <limits.h>
#include <spc/spc.h>

/* ---- parameters ---- */

static void expect_refused(spc_row_params p, spc_status status, const char *name)
{
    spc_error err = {SPC_OK, ""};

    cr_expect_eq(spc_params_check(&p, &err), status, "%s", name);
    cr_expect_eq(err.status, status, "%s", name);
    cr_expect_not_null(strstr(err.message, name), "'%s' does not name %s", err.message, name);
    cr_expect_eq(spc_params_check(&p, NULL), status, "nobody listens");
}

Test(host_verify, parameters_out_of_range_are_refused_by_name)
{
    static const float temperatures[] = {-1, NAN, INFINITY, 1e-5f};
    static const float shares[] = {-0.1f, 1.1f, NAN};
    const spc_row_params good = params_of("strict", 1);
    spc_row_params p = good;

    for (int i = 0; i < 4; i++) {
        p.sampling.temperature = temperatures[i];
        expect_refused(p, SPC_EUSAGE, "temperature");
    }
    for (int i = 0; i < 3; i++) {
        p = good;
        p.sampling.top_p = shares[i];
        expect_refused(p, SPC_EUSAGE, "top-p");
        p = good;
        p.sampling.min_p = shares[i];
        expect_refused(p, SPC_EUSAGE, "min-p");
    }
    p = good;
    p.sampling.top_p = 0;
    expect_refused(p, SPC_EUSAGE, "top-p");
    p = good;
    p.sampling.top_k = -1;
    expect_refused(p, SPC_EUSAGE, "top-k");
    p = good;
    p.verify = 2;
    expect_refused(p, SPC_EUSAGE, "verify");
    p = good;
    p.nucleus = 5;
    expect_refused(p, SPC_EUSAGE, "nucleus");
    p = good;
    p.bonus = -1;
    expect_refused(p, SPC_EUSAGE, "bonus");
    p = good;
    p.rule.kind = p.rule.path = SPC_RULE_COUNT;
    expect_refused(p, SPC_ERULE, "rule");
    p = good;
    p.rule.path = 99;
    expect_refused(p, SPC_ERULE, "rule strict: 99 is no rule");
    p = params_of("opt:alpha=0.2", 1);
    p.rule.alpha = (double)NAN;
    expect_refused(p, SPC_ERULE, "rule opt: its number is NaN");

    spc_error err;

    cr_expect_eq(spc_params_check(NULL, &err), SPC_EUSAGE);
    cr_expect_str_eq(err.message, "params: expected an address, found NULL");
}

Test(host_verify, parameters_begin_as_those_of_a_session)
{
    spc_session_options o;
    spc_row_params p;

    memset(&p, 0x5a, sizeof p);
    spc_row_params_init(&p);
    spc_session_options_init(&o);
    cr_expect_eq(spc_params_check(&p, NULL), SPC_OK);
    cr_expect_str_eq(spc_rule_name((spc_rule_kind)p.rule.kind), o.rule);
    cr_expect(p.sampling.temperature == o.temperature && p.sampling.top_p == o.top_p);
    cr_expect(p.sampling.top_k == o.top_k && p.sampling.min_p == o.min_p && p.seed == o.seed);
    cr_expect(p.verify == (int32_t)o.verify && p.bonus == (int32_t)o.bonus);
    cr_expect_eq(p.nucleus != 0, o.nucleus);
    memset(&p, 0, sizeof p);
    expect_refused(p, SPC_EUSAGE, "top-p");
}

/* No round has their law: whoever forwards a rule's text must hear of it. */
Test(host_verify, sequential_rules_decide_no_round)
{
    static const char *const sequential[] = {"drafter-only", "verifier-only", "seq-chow:alpha=0.5",
                                             "token-chow:alpha=0.5", "bild-dynamic:fallback=0.6"};
    dice d = {3};

    for (int i = 0; i < 10; i++) {
        const char *rule = sequential[i / 2];
        spc_row_params p = params_of("strict", 0);
        spc_verify_args a = args_of(&p, drafter, verifier, V, i % 2 * 2, NULL);
        int32_t draft[ROWS];
        spc_row_stats stats[ROWS];
        spc_verdict out;

        cr_assert(spc_rule_parse(rule, &p.rule, NULL));
        expect_refused(p, SPC_ERULE, spc_rule_name((spc_rule_kind)p.rule.kind));
        p.sampling.temperature = 1; /* bild-dynamic: the rule is named before the temperature */
        expect_refused(p, SPC_ERULE, "spc/spc.h");
        p.sampling.temperature = 0;
        fill(&d, ROWS_RANDOM);
        draft_all(&p, &a, draft, stats);
        if (a.drafts > 0) cr_expect_geq(draft[0], 0, "%s can be drawn under", rule);
        a.draft = draft;
        a.bonus = true;
        spc_verify(&a, &out);
        cr_expect_eq(out.status, SPC_STATUS_BAD_PARAM, "%s", rule);
        cr_expect_eq(out.count, 0, "%s", rule);
    }
}

Test(host_verify, nothing_is_drawn_with_numbers_out_of_range)
{
    static const float temperatures[] = {NAN, -1, 1, 1};
    static const float shares[] = {1, 1, 0, NAN};
    static const float row[V] = {1, 2, 3};

    for (int i = 0; i < 4; i++) {
        spc_row_params p = params_of("strict", 1);
        spc_row_stats stats = {.bad = 0};

        cr_expect_geq(spc_draft_sample(row, V, &p, 3, 0, &stats), 0);
        cr_expect_eq(stats.bad, 0);
        p.sampling.temperature = temperatures[i];
        p.sampling.top_p = shares[i];
        cr_expect_eq(spc_draft_sample(row, V, &p, 3, 0, &stats), -1);
        cr_expect_eq(stats.bad, 1);
        stats.bad = 0;
        cr_expect_eq(spc_plain_sample(row, V, &p, 3, &stats), -1);
        cr_expect_eq(stats.bad, 1);
    }
}

/* Behind the last position random numbers of different streams would be the same. */
Test(host_verify, nothing_is_drawn_or_decided_at_a_position_that_is_none)
{
    static const int64_t none[] = {-1, INT64_MIN, SPC_POSITION_MAX + 1, INT64_MAX};
    dice d = {6};

    fill(&d, ROWS_RANDOM);
    for (int i = 0; i < 4; i++) {
        spc_row_params p = params_of("strict", 1);
        spc_verify_args a = args_of(&p, drafter, verifier, V, 2, NULL);
        int32_t draft[ROWS];
        spc_row_stats stats[ROWS];
        spc_verdict out;

        cr_expect_eq(spc_draft_sample(drafter, V, &p, none[i], 0, stats), -1);
        cr_expect_eq(stats[0].bad, 1);
        cr_expect_eq(spc_plain_sample(verifier, V, &p, none[i], stats), -1);
        cr_expect_geq(spc_plain_sample(verifier, V, &p, SPC_POSITION_MAX, stats), 0);
        draft_all(&p, &a, draft, stats);
        a.draft = draft;
        a.bonus = true;
        a.position = none[i];
        spc_verify(&a, &out);
        cr_expect_eq(out.status, SPC_STATUS_BAD_PARAM);
        cr_expect_eq(out.count, 0);
        a.position = SPC_POSITION_MAX - 1; /* the bonus token would be one beyond */
        spc_verify(&a, &out);
        cr_expect_eq(out.status, SPC_STATUS_BAD_PARAM);
        a.position = SPC_POSITION_MAX - 2;
        spc_verify(&a, &out);
        cr_expect_eq(out.status, 0);
        cr_expect_geq(out.count, 1);
    }
}

Test(host_verify, nothing_is_drawn_or_decided_of_a_shape_that_is_none)
{
    enum { WHOLE, NO_VOCAB, WIDE_VOCAB, NO_DRAFTS, LONG_DRAFTS, VERIFIER, DRAFTER, CASES };
    dice d = {8};

    fill(&d, ROWS_RANDOM);
    for (int i = WHOLE; i < CASES; i++) {
        spc_row_params p = params_of("strict", 1);
        spc_verify_args a = args_of(&p, drafter, verifier, V, 2, NULL);
        int32_t draft[ROWS];
        spc_row_stats stats[ROWS];
        spc_row_detail detail[ROWS], before[ROWS];
        spc_verdict out;

        draft_all(&p, &a, draft, stats);
        a.draft = draft;
        a.bonus = true;
        if (i == NO_VOCAB) a.vocab = 0;
        if (i == WIDE_VOCAB) a.vocab = SPC_VOCAB_MAX + 1;
        if (i == NO_DRAFTS) a.drafts = -1;
        if (i == LONG_DRAFTS) a.drafts = SPC_GAMMA_MAX + 2;
        if (i == VERIFIER) a.verifier_stride = V - 1;
        if (i == DRAFTER) a.drafter_stride = -V;
        spc_verify(&a, &out);
        cr_expect_eq(out.status, i == WHOLE ? 0u : (uint32_t)SPC_STATUS_BAD_PARAM, "%d", i);
        cr_expect(i == WHOLE || out.count == 0, "%d", i);
        memset(detail, 0x5a, sizeof detail);
        memcpy(before, detail, sizeof before);
        spc_verify_describe(&a, &out, detail);
        cr_expect_eq(memcmp(detail, before, sizeof before) != 0, i == WHOLE, "%d", i);
        if (i != NO_VOCAB && i != WIDE_VOCAB) continue;
        cr_expect_eq(spc_draft_sample(drafter, a.vocab, &p, 3, 0, stats), -1);
        cr_expect_eq(stats[0].bad, 1);
        cr_expect_eq(spc_plain_sample(verifier, a.vocab, &p, 3, stats), -1);
    }
}

/* Without the drafter's row a target that contains q cannot be drawn from, drafts before it or
 * none. */
Test(host_verify, a_round_without_drafts_needs_the_rows_that_its_rule_reads)
{
    dice d = {4};

    for (int i = 0; i < TOY_RULES; i++) {
        spc_row_params p = params_of(toy_rules[i], 1);
        spc_verify_args a = args_of(&p, NULL, verifier, V, 0, NULL);
        bool reads = spc_rule_uses_drafter(&p.rule);
        spc_row_stats stats;
        spc_verdict out;

        fill(&d, ROWS_RANDOM);
        a.bonus = true;
        spc_verify(&a, &out);
        cr_expect_eq(out.status, reads ? SPC_STATUS_BAD_PARAM : 0u, "%s", toy_rules[i]);
        cr_expect_eq(out.count, reads ? 0 : 1, "%s", toy_rules[i]);
        p.bonus = SPC_BONUS_VERIFIER; /* said to be the verifier's: it is */
        spc_verify(&a, &out);
        cr_expect_eq(out.status, 0, "%s", toy_rules[i]);
        if (reads) {
            cr_expect_eq(out.token[0], spc_plain_sample(verifier, V, &p, a.position, &stats));
        }
        p.bonus = SPC_BONUS_TARGET;
        a.bonus = false; /* nothing is asked */
        spc_verify(&a, &out);
        cr_expect(out.status == 0 && out.count == 0, "%s", toy_rules[i]);
    }
}

Test(host_verify, parameters_that_do_not_go_together_are_refused)
{
    spc_row_params p = params_of("lossy-greedy:alpha=0.5", 0);

    p.sampling.temperature = 1;
    expect_refused(p, SPC_ERULE, "lossy-greedy");
    p = params_of("strict", 1);
    p.verify = SPC_VERIFY_BLOCK;
    p.bonus = SPC_BONUS_STEP;
    expect_refused(p, SPC_EUNSUPPORTED, "choose bonus target or verifier");
    p = params_of("cactus:delta=0.1", 1);
    p.bonus = SPC_BONUS_TARGET;
    expect_refused(p, SPC_ERULE,
                   "cactus has no target distribution without a draft: it needs bonus "
                   "step and verify token");
    p.bonus = SPC_BONUS_STEP;
    p.verify = SPC_VERIFY_BLOCK;
    expect_refused(p, SPC_ERULE, "cactus");
}

/* ---- form ---- */

Test(host_verify, a_verdict_is_kept_drafts_one_drawn_token_and_a_sentinel)
{
    dice d = {1};

    for (int i = 0; i < 40 * TOY_RULES; i++) {
        spc_row_params p = params_of(toy_rules[i % TOY_RULES], 1);
        int32_t draft[ROWS];
        spc_row_stats stats[ROWS];
        spc_verdict out, again, blind;

        p.seed = dice_word(&d);
        p.verify = dice_below(&d, 2);
        fill(&d, (rows_kind)(i % ROWS_KINDS));
        spc_verify_args a = args_of(&p, drafter, verifier, V, dice_below(&d, 5), draft);
        draft_all(&p, &a, draft, stats);
        a.bonus = dice_below(&d, 2);
        a.stats = stats;
        memset(&out, 0x55, sizeof out);
        spc_verify(&a, &out);
        expect_form(&a, &out, toy_rules[i % TOY_RULES]);
        cr_expect_eq(out.status & ~(uint32_t)SPC_STATUS_ZERO_RESIDUAL, 0);
        cr_expect_eq(out.drawn, out.accepted < a.drafts || a.bonus);
        cr_expect_eq(out.verified, out.accepted < a.drafts ? out.accepted + 1 : a.drafts);
        cr_expect_eq(out.deferred >> (out.verified + (a.bonus && out.accepted == a.drafts)), 0);

        spc_verify(&a, &again);
        cr_expect_eq(memcmp(&out, &again, sizeof out), 0, "asked again, the same");
        a.stats = NULL;
        spc_verify(&a, &blind);
        cr_expect_eq(memcmp(&out, &blind, sizeof out), 0, "statistics are only kept, not needed");
    }
}

Test(host_verify, rows_may_be_padded_and_unaligned)
{
    enum { STRIDE = V + 5 };
    dice d = {2};

    for (int i = 0; i < 200; i++) {
        spc_row_params p = params_of(toy_rules[i % TOY_RULES], 1);
        int32_t draft[ROWS];
        float wide[2][1 + ROWS * STRIDE];
        spc_row_stats stats[ROWS];
        spc_verdict plain, padded;

        p.seed = dice_word(&d);
        fill(&d, ROWS_RANDOM);
        for (int32_t k = 0; k < 1 + ROWS * STRIDE; k++) wide[0][k] = wide[1][k] = NAN;
        for (int32_t k = 0; k < ROWS; k++) {
            memcpy(wide[0] + 1 + k * STRIDE, drafter + k * V, V * sizeof(float));
            memcpy(wide[1] + 1 + k * STRIDE, verifier + k * V, V * sizeof(float));
        }
        spc_verify_args a = args_of(&p, drafter, verifier, V, 4, draft);
        draft_all(&p, &a, draft, stats);
        a.bonus = true;
        spc_verify(&a, &plain);
        a.drafter = wide[0] + 1;
        a.verifier = wide[1] + 1;
        a.drafter_stride = a.verifier_stride = STRIDE;
        spc_verify(&a, &padded);
        cr_expect_eq(memcmp(&plain, &padded, sizeof plain), 0);
    }
}

/* ---- bad rows and bad drafts ---- */

enum { WIDE = 5000 }; /* two tiles */

static void spoil(float *row, int32_t vocab, int how, int32_t at)
{
    if (how < 2) row[at % vocab] = how == 0 ? NAN : INFINITY;
    for (int32_t v = 0; how == 2 && v < vocab; v++) row[v] = -INFINITY;
}

Test(host_verify, a_bad_row_gives_no_draft)
{
    static float row[WIDE];
    static const int32_t vocabs[] = {1, 2, 7, WIDE};
    spc_row_params p = params_of("opt:alpha=0.2", 1);

    for (int i = 0; i < 4; i++) {
        for (int how = 0; how < 3; how++) {
            for (int32_t at = 0; at < WIDE; at += 833) {
                spc_row_stats stats;

                memset(row, 0, sizeof row);
                spoil(row, vocabs[i], how, at);
                cr_expect_eq(spc_draft_sample(row, vocabs[i], &p, 3, 0, &stats), -1);
                cr_expect(stats.bad);
                cr_expect_eq(spc_plain_sample(row, vocabs[i], &p, 3, &stats), -1);
                p.sampling.temperature = 1 - p.sampling.temperature; /* greedy, and back */
            }
        }
    }
}

Test(host_verify, a_needed_row_that_is_bad_ends_the_run_before_it)
{
    dice d = {7};

    for (int i = 0; i < 20 * TOY_RULES; i++) {
        const char *rule = toy_rules[i % TOY_RULES];
        spc_row_params p = params_of(rule, 1);
        int32_t draft[ROWS], bad = dice_below(&d, ROWS);
        bool of_drafter = dice_below(&d, 2);
        spc_verdict out;

        fill(&d, ROWS_EQUAL); /* so that drafts are kept until then */
        p.verify = dice_below(&d, 2);
        for (int32_t k = 0; k < ROWS; k++) draft[k] = dice_below(&d, V);
        spc_verify_args a = args_of(&p, drafter, verifier, V, ROWS - 1, draft);
        a.bonus = true;
        spc_verify(&a, &out);
        if (out.accepted < ROWS - 1) continue; /* a token rule may reject equal rows */
        spoil((of_drafter ? drafter : verifier) + bad * V, V, dice_below(&d, 3), 5);
        spc_verify(&a, &out);
        expect_form(&a, &out, rule);
        if (of_drafter && bad == ROWS - 1 && strcmp(rule, "strict") == 0) {
            cr_expect_eq(out.status, 0, "strict needs no drafter row for a bonus");
        } else if (out.count == ROWS) {
            cr_expect(!of_drafter && strncmp(rule, "chow", 4) == 0, "%s", rule);
            cr_expect(p.verify == SPC_VERIFY_TOKEN || bad == ROWS - 1, "blocks read every row");
        } else if (p.verify == SPC_VERIFY_BLOCK && out.drawn) {
            cr_expect_lt(out.accepted, bad, "%s: a shorter block may stop earlier", rule);
        } else {
            cr_expect_eq(out.count, bad, "%s", rule);
            cr_expect_eq(out.drawn, 0);
            cr_expect_eq(out.status, of_drafter ? SPC_STATUS_BAD_DRAFTER : SPC_STATUS_BAD_VERIFIER,
                         "%s", rule);
        }
    }
}

Test(host_verify, a_bad_row_that_is_not_needed_does_no_harm)
{
    spc_row_params chow = params_of("chow:alpha=1", 1), strict = params_of("strict", 1);
    int32_t draft[ROWS] = {0, 1, 2, 3, 4};
    spc_verdict out;
    dice d = {8};

    fill(&d, ROWS_RANDOM);
    for (int32_t k = 0; k < ROWS; k++) spoil(verifier + k * V, V, k % 3, k);
    spc_verify_args a = args_of(&chow, drafter, verifier, V, ROWS - 1, draft);
    a.bonus = true;
    spc_verify(&a, &out); /* never defers: no verifier row is read */
    cr_expect_eq(out.accepted, ROWS - 1);
    cr_expect_eq(out.count, ROWS);
    cr_expect_eq(out.status, 0);

    fill(&d, ROWS_DISJOINT); /* rejected at 0: rows behind do not matter */
    for (int32_t k = 1; k < ROWS; k++) spoil((k % 2 ? drafter : verifier) + k * V, V, k % 3, k);
    draft[0] = 0;
    a = args_of(&strict, drafter, verifier, V, ROWS - 1, draft);
    a.bonus = true;
    spc_verify(&a, &out);
    cr_expect_eq(out.count, 1);
    cr_expect_eq(out.status, 0);
}

/* Cactus has no target without a draft: in place of a draft that is none, p is drawn from. */
Test(host_verify, cactus_replaces_a_draft_that_is_none_by_a_token_of_the_verifier)
{
    static const int32_t ids[] = {-1, V, 2};
    dice d = {19};

    for (int i = 0; i < 300; i++) {
        spc_row_params p = params_of(i % 2 ? "cactus:delta=0.5" : "cactus:delta=1e9", 1);
        int32_t draft[1] = {ids[i % 3]};
        spc_verdict out;

        p.seed = dice_word(&d);
        fill(&d, ROWS_RANDOM);
        drafter[2] = -INFINITY;
        for (int32_t v = 0; v < V && i % 4 == 0; v++) verifier[v] = v == 2 ? 0 : -INFINITY;
        spc_verify_args a = args_of(&p, drafter, verifier, V, 1, draft);
        spc_verify(&a, &out);
        expect_form(&a, &out, "cactus");
        cr_expect(out.accepted == 0 && out.count == 1 && out.status & SPC_STATUS_BAD_DRAFT);
        cr_expect_gt(verifier[out.token[0]], -INFINITY);
    }
}

/* An id outside the vocabulary, or one that the drafter's row excludes, is rejected; the token in
 * its place is one of the target's. */
Test(host_verify, a_draft_that_is_none_is_rejected_and_replaced)
{
    static const int32_t ids[] = {-1, V, V + 5, INT_MIN, INT_MAX, 2};
    dice d = {9};

    for (int i = 0; i < 60 * TOY_RULES; i++) {
        const char *rule = toy_rules[i % TOY_RULES];
        spc_row_params p = params_of(rule, 1);
        ref_rows r = ref_rows_of(V);
        ref_options o;
        int32_t draft[1] = {ids[i / TOY_RULES % 6]};
        spc_verdict out;

        p.seed = dice_word(&d);
        p.verify = dice_below(&d, 2);
        if (i % 3 == 0) p.sampling.top_k = 4;
        fill(&d, ROWS_RANDOM);
        drafter[2] = -INFINITY;
        o = options_of(&p);
        ref_fill(&r, drafter, verifier, &o);
        ref_law_of(&r, &p.rule);
        spc_verify_args a = args_of(&p, drafter, verifier, V, 1, draft);
        spc_verify(&a, &out);
        expect_form(&a, &out, rule);
        cr_expect_eq(out.accepted, 0, "%s", rule);
        cr_expect_eq(out.count, 1, "%s", rule);
        cr_expect(out.status & SPC_STATUS_BAD_DRAFT, "%s", rule);
        cr_expect_gt(r.pi[out.token[0]], 0, "%s: token %d", rule, (int)out.token[0]);
        ref_rows_free(&r);
    }
}

Test(host_verify, the_last_id_of_the_vocabulary_is_a_draft_like_others)
{
    spc_row_params p = params_of("chow:alpha=1", 1);
    int32_t draft[1] = {V - 1};
    spc_verdict out;
    dice d = {10};

    fill(&d, ROWS_RANDOM);
    spc_verify_args a = args_of(&p, drafter, verifier, V, 1, draft);
    spc_verify(&a, &out);
    cr_expect_eq(out.token[0], V - 1);
    cr_expect_eq(out.status, 0);
}

Test(host_verify, a_vocabulary_of_one_token_has_one_answer)
{
    static const float row[2] = {-3, 4};
    int32_t draft[1] = {0};

    for (int i = 0; i < TOY_RULES; i++) {
        spc_row_params p = params_of(toy_rules[i], 0.7f);
        spc_verify_args a = args_of(&p, row, row, 1, 1, draft);
        spc_verdict out;

        a.bonus = true;
        spc_verify(&a, &out);
        cr_expect(out.count == 2 && out.token[0] == 0 && out.token[1] == 0, "%s", toy_rules[i]);
        cr_expect_eq(out.status, 0);
    }
}

/* ---- truncation ---- */

static int32_t left(const float *z, int32_t n, int32_t top_k, float top_p, float min_p)
{
    spc_row_params p = params_of("strict", 1);
    spc_row_stats stats;
    int32_t count = 0;

    p.sampling.top_k = top_k;
    p.sampling.top_p = top_p;
    p.sampling.min_p = min_p;
    cr_assert_geq(spc_draft_sample(z, n, &p, 0, 0, &stats), 0);
    for (int32_t v = 0; v < n; v++) {
        count += spc_row_probability(spc_softmax_of(stats, 1), z[v], v) > 0;
    }
    return count;
}

/* Ties at a threshold stay, and each filter sees what the one before it left. */
Test(host_verify, truncation_keeps_what_the_worked_examples_keep)
{
    const float a[] = {logf(.4f), logf(.3f), logf(.2f), logf(.1f)}, b[] = {1, 1, 1, 1};
    const float c[] = {logf(.2f), logf(.4f), logf(.2f), logf(.2f)};
    const float e[] = {logf(.5f), logf(.3f), logf(.2f)};

    cr_expect_eq(left(a, 4, 0, 0.7f, 0), 2);
    cr_expect_eq(left(b, 4, 0, 0.5f, 0), 4, "ties stay");
    cr_expect_eq(left(c, 4, 2, 1, 0), 4, "ties at the edge stay");
    cr_expect_eq(left(e, 3, 2, 0.6f, 0), 1, "top-p is measured after top-k");
    cr_expect_eq(left(e, 3, 0, 1, 0.5f), 2);
    cr_expect_eq(left(e, 3, 0, 1e-6f, 0), 1, "never empty");
    cr_expect_eq(left(e, 3, 1, 1, 1), 1);
}

Test(host_verify, truncation_that_is_off_changes_no_bit)
{
    dice d = {11};

    for (int i = 0; i < 300; i++) {
        spc_row_params off = params_of("token-v3:alpha=0.5", 0.8f), on = off;
        spc_row_stats a, b;

        on.sampling.top_k = i % 2 ? V : V + 3;
        fill(&d, (rows_kind)(i % ROWS_KINDS));
        off.seed = on.seed = dice_word(&d);
        cr_expect_eq(spc_draft_sample(drafter, V, &off, 5, 0, &a),
                     spc_draft_sample(drafter, V, &on, 5, 0, &b));
        cr_expect_eq(memcmp(&a, &b, sizeof a), 0);
    }
}

/* Support and mass against a sort in double; bf16 logits are full of ties.  Rows whose nucleus ends
 * within 1e-5 of top-p, where float and double may differ, are left out. */
Test(host_verify, truncation_keeps_what_sorting_keeps)
{
    enum { N = 300 };
    dice d = {12};

    for (int i = 0; i < 600; i++) {
        static const float temperatures[] = {0.3f, 1, 2};
        spc_row_params p = params_of("strict", temperatures[i % 3]);
        float z[N];
        double exact[N], less[N], more[N];
        spc_row_stats stats;

        p.sampling.top_k = dice_below(&d, 3) * 20;
        if (dice_below(&d, 2)) p.sampling.top_p = 0.3f + 0.6f * (float)dice_uniform(&d);
        if (dice_below(&d, 2)) p.sampling.min_p = 0.1f * (float)dice_uniform(&d);
        for (int32_t v = 0; v < N; v++) {
            z[v] = (float)(3 * dice_gauss(&d));
            if (i % 2) z[v] = bf16_of(z[v]);
            if (i % 5 == 0 && v % 3 == 0) z[v] = -INFINITY;
        }
        ref_softmax(z, N, (double)p.sampling.temperature, exact);
        memcpy(less, exact, sizeof less);
        memcpy(more, exact, sizeof more);
        const spc_sampling *s = &p.sampling;
        double slack = s->top_p < 1 ? 1e-5 : 0;
        ref_truncate(exact, N, s->top_k, (double)s->top_p, (double)s->min_p);
        ref_truncate(less, N, s->top_k, (double)s->top_p - slack, (double)s->min_p * (1 + 1e-5));
        ref_truncate(more, N, s->top_k, (double)s->top_p + slack, (double)s->min_p * (1 - 1e-5));
        if (memcmp(less, more, sizeof less) != 0) continue;
        int32_t token = spc_draft_sample(z, N, &p, i, 0, &stats);
        cr_expect_gt(exact[token], 0);
        for (int32_t v = 0; v < N; v++) {
            double got =
                (double)spc_row_probability(spc_softmax_of(stats, p.sampling.temperature), z[v], v);

            cr_assert_eq(got > 0, exact[v] > 0, "row %d token %d", i, (int)v);
            cr_assert_float_eq(got, exact[v], 1e-5 * exact[v]);
        }
    }
}

/* A share of the whole row may be a hair more than integer masses add up to. */
Test(host_verify, a_nucleus_of_nearly_everything_keeps_nearly_everything)
{
    static float row[9000];
    dice d = {77};

    for (int trial = 0; trial < 40; trial++) {
        spc_row_params p = params_of("strict", 0.8f);
        spc_row_stats all, kept;

        for (int32_t v = 0; v < 9000; v++) row[v] = (float)(3 * dice_gauss(&d));
        (void)spc_plain_sample(row, 9000, &p, trial, &all);
        p.sampling.top_p = trial % 2 ? 0x1.fffffep-1f : 0x1.fffff0p-1f;
        (void)spc_plain_sample(row, 9000, &p, trial, &kept);
        cr_assert(kept.cut < all.max && kept.sum > 0.99999f * all.sum, "cut %g, sum %g of %g",
                  (double)kept.cut, (double)kept.sum, (double)all.sum);
    }
}

Test(host_verify, every_emitted_token_is_in_the_truncated_support_of_its_target)
{
    dice d = {13};

    for (int i = 0; i < 200 * TOY_RULES; i++) {
        spc_row_params p = params_of(toy_rules[i % TOY_RULES], 1);
        ref_rows r = ref_rows_of(V);
        int32_t draft[1];
        spc_row_stats stats;
        spc_verdict out;

        p.seed = dice_word(&d);
        p.verify = dice_below(&d, 2);
        p.nucleus = dice_below(&d, 2);
        p.sampling.top_k = 3;
        fill(&d, ROWS_RANDOM);
        ref_options o = options_of(&p);
        ref_fill(&r, drafter, verifier, &o);
        ref_law_of(&r, &p.rule);
        spc_verify_args a = args_of(&p, drafter, verifier, V, 1, draft);
        draft_all(&p, &a, draft, &stats);
        spc_verify(&a, &out);
        cr_expect_gt(r.pi[out.token[0]], 0, "%s", toy_rules[i % TOY_RULES]);
        ref_rows_free(&r);
    }
}
