/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_batch.c - the batch calls over host memory: one sequence at a time they are spc_verify
 * and spc_draft_sample over rows that somebody has edited by hand. */
#include "host_memory.h"
#include "toybatch.h"

#include <stdlib.h>
#include <sys/mman.h>

static void run(const spc_verify_batch *v, const char *what)
{
    spc_error err;

    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
}

/* The rows of one, as the batch describes them. */
static void expect_described(const spc_verify_args *args, const spc_verdict *verdict,
                             const spc_row_detail *want, const char *what)
{
    spc_row_detail detail[ROWS];
    spc_verify_args a = *args;

    if (verdict->status & SPC_STATUS_BAD_PARAM) return; /* nothing was decided */
    for (int32_t bonus = a.bonus; bonus < 2; bonus++) { /* what is not there is not described */
        a.bonus = bonus != 0;
        memset(detail, 0xff, sizeof detail);
        spc_verify_describe(&a, verdict, detail);
        for (int32_t i = 0; i <= a.drafts; i++) {
            cr_assert(memcmp(&detail[i], &want[i], sizeof *want) == 0,
                      "%s, row %d: fate %d, want %d", what, (int)i, (int)detail[i].fate,
                      (int)want[i].fate);
        }
    }
}

/* The sequences of a batch over these rows, by spc_verify. */
static void expect_one_by_one(const batch *b, const float *drafter, const float *verifier,
                              bool with_stats, const char *what)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        size_t first = (size_t)b->row[s] * (size_t)b->stride;
        spc_verify_args a = {.params = &b->params[s],
                             .drafter = drafter ? drafter + first : NULL,
                             .verifier = verifier + first,
                             .drafter_stride = b->stride,
                             .verifier_stride = b->stride,
                             .vocab = b->vocab,
                             .drafts = b->drafts[s],
                             .draft = b->draft + s * DRAFTS,
                             .stats = with_stats ? b->stats + s * DRAFTS : NULL,
                             .position = b->position[s],
                             .salt = b->salt[s],
                             .bonus = b->bonus[s] != 0};
        const results *out = b->out;
        spc_verdict want;

        spc_verify(&a, &want);
        cr_assert(memcmp(&out->verdict[s], &want, sizeof want) == 0,
                  "%s, sequence %d: count %d status %x token %d, want %d %x %d", what, s,
                  out->verdict[s].count, out->verdict[s].status, out->verdict[s].token[0],
                  want.count, want.status, want.token[0]);
        cr_assert_eq(out->count[s], want.count);
        cr_assert_eq(out->accepted[s], want.accepted);
        cr_assert_eq(out->status[s], want.status);
        for (int32_t i = 0; i < ROWS; i++) cr_assert_eq(out->token[s * ROWS + i], want.token[i]);
        if (with_stats) expect_described(&a, &want, &out->detail[s * ROWS], what);
    }
}

Test(host_batch, is_verify_for_every_sequence)
{
    dice d = {3};
    batch b = batch_of(300, 304);

    for (int r = 0; r < TOY_RULES; r++) {
        spc_row_params p = params_in_mode(toy_rules[r], r % MODES);
        spc_verify_batch v = verify_batch(&b);

        batch_fill(&b, &d, &p, 3.0, NULL);
        run(&v, toy_rules[r]);
        expect_one_by_one(&b, b.drafter, b.verifier, true, toy_rules[r]);
        v.stats = NULL;
        v.detail = NULL;
        run(&v, toy_rules[r]);
        expect_one_by_one(&b, b.drafter, b.verifier, false, toy_rules[r]);
    }
    batch_free(&b);
}

/* A row as the edits and a width leave it. */
static void edit_by_hand(const batch *b, float *rows, int32_t width)
{
    for (int32_t r = 0; r < SEQUENCES * ROWS; r++) {
        float *row = rows + (size_t)r * (size_t)b->stride;
        const uint32_t *allowed = b->allowed + r * batch_words(b);

        for (int32_t e = b->edit_first[r]; e < b->edit_first[r + 1]; e++) {
            row[b->edit_token[e]] += b->edit_value[e];
        }
        for (int32_t v = 0; v < b->vocab; v++) {
            if (v >= width || !(allowed[v / 32] >> (v % 32) & 1u)) row[v] = -INFINITY;
        }
    }
}

static float *copy_of(const batch *b, const float *rows)
{
    size_t bytes = (size_t)SEQUENCES * ROWS * (size_t)b->stride * sizeof *rows;

    return memcpy(shared(bytes), rows, bytes);
}

Test(host_batch, masks_edits_and_widths_are_what_a_hand_would_write)
{
    static const int32_t vocabs[] = {40, 4096, 9000}, widths[] = {40, 4000, 4097};
    dice d = {5};

    for (int i = 0; i < 3; i++) {
        batch b = batch_of(vocabs[i], vocabs[i] + 1);

        for (int r = i; r < TOY_RULES; r += 5) {
            spc_row_params p = params_in_mode(toy_rules[r], (r + i) % MODES);
            spc_verify_batch v = verify_batch(&b);
            spc_edits edits;

            batch_edits(&b, &d);
            edits = edits_of(&b);
            batch_fill(&b, &d, &p, 3.0, &edits);

            float *drafter = copy_of(&b, b.drafter), *verifier = copy_of(&b, b.verifier);

            edit_by_hand(&b, drafter, widths[i]);
            edit_by_hand(&b, verifier, vocabs[i]);
            v.edits = edits;
            v.drafter.width = widths[i];
            v.stats = NULL;
            run(&v, toy_rules[r]);
            expect_one_by_one(&b, drafter, verifier, false, toy_rules[r]);
            for (int32_t s = 0; s < SEQUENCES; s++) {
                int32_t n = b.out->accepted[s];

                if (b.out->count[s] <= n) continue;
                const uint32_t *allowed = b.allowed + ((int32_t)b.row[s] + n) * batch_words(&b);
                int32_t token = b.out->token[s * ROWS + n];

                cr_assert(allowed[token / 32] >> (token % 32) & 1u, "a token outside the mask");
            }
            free(drafter);
            free(verifier);
        }
        batch_free(&b);
    }
}

/* Drafts that come without a distribution are drafts from rows with one finite logit. */
Test(host_batch, drafts_without_a_distribution)
{
    dice d = {7};
    batch b = batch_of(60, 60);
    int taken = 0;

    for (int r = 0; r < TOY_RULES; r++) {
        for (int m = 0; m < MODES; m++) {
            spc_row_params p = params_in_mode(toy_rules[r], m);
            spc_verify_batch v = verify_batch(&b);
            bool takes = spc_rule_takes_names(p.rule.path);

            p.bonus = SPC_BONUS_VERIFIER;
            batch_fill(&b, &d, &p, 3.0, NULL);
            for (int32_t i = 0; i < SEQUENCES * DRAFTS; i++) b.draft[i] = dice_below(&d, 60);
            for (int32_t i = 0; i < SEQUENCES * ROWS * 60; i++) b.drafter[i] = -INFINITY;
            for (int32_t s = 0; s < SEQUENCES; s++) {
                for (int32_t i = 0; i < DRAFTS; i++) {
                    b.drafter[(s * ROWS + i) * 60 + b.draft[s * DRAFTS + i]] = 5;
                }
            }
            v.drafter.logits.data = NULL;
            v.drafter_row = NULL;
            run(&v, toy_rules[r]);
            if (!takes) {
                cr_assert_eq(b.out->status[1], (uint32_t)SPC_STATUS_BAD_PARAM, "%s", toy_rules[r]);
                cr_assert_eq(b.out->count[1], 0);
                continue;
            }
            taken++;
            b.drafts[0] = b.drafts[5] = 1; /* without a draft there is no row to compare with */
            run(&v, toy_rules[r]);
            expect_one_by_one(&b, b.drafter, b.verifier, false, toy_rules[r]);
        }
    }
    cr_assert_geq(taken, 9 * MODES);
    batch_free(&b);
}

/* Under bonus=step the last row has a draft of its own, and no row lies behind it: nothing is drawn
 * there, whatever `bonus` says.  A round without drafts draws. */
Test(host_batch, no_token_is_drawn_behind_the_drafts_of_a_step)
{
    static const char *const rules[] = {"strict", "opt:alpha=0.1", "cactus:delta=0.2"};
    dice d = {10};
    batch b = batch_of(60, 60);
    spc_verify_batch v = verify_batch(&b);
    int32_t kept = 0;

    v.bonus = NULL;
    for (int i = 0; i < 30; i++) {
        spc_row_params p = params_in_mode(rules[i % 3], 0);

        p.bonus = SPC_BONUS_STEP;
        batch_fill(&b, &d, &p, 1.0, NULL);
        memcpy(b.verifier, b.drafter, SEQUENCES * ROWS * 60 * sizeof *b.verifier);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            float *behind = b.verifier + (s * ROWS + b.drafts[s]) * 60;

            for (int32_t t = 0; t < 60 && b.drafts[s] > 0; t++) behind[t] = NAN;
            b.bonus[s] = 1;
        }
        run(&v, rules[i % 3]);
        expect_one_by_one(&b, b.drafter, b.verifier, true, rules[i % 3]);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            cr_assert_eq(b.out->status[s], 0u, "%s", rules[i % 3]);
            cr_assert_eq(b.out->count[s], b.drafts[s] > 0 ? b.drafts[s] : 1);
            kept += b.out->accepted[s];
        }
    }
    cr_assert_eq(kept, 30 * (0 + 1 + 2 + 3 + 4 + 0), "rows are equal");
    batch_free(&b);
}

/* The others of the batch are decided as ever; statistics alone need no position. */
Test(host_batch, a_position_that_is_none_is_its_sequences_own_affair)
{
    dice d = {12};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
    spc_verify_batch v = verify_batch(&b);
    spc_draw_batch draw = draw_batch(&b);
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];

    batch_fill(&b, &d, &p, 3.0, NULL);
    b.position[1] = -1;
    b.position[2] = SPC_POSITION_MAX + 1;
    run(&v, "positions");
    for (int32_t s = 0; s < SEQUENCES; s++) {
        bool none = s == 1 || s == 2;

        cr_assert_eq(b.out->status[s], none ? (uint32_t)SPC_STATUS_BAD_PARAM : 0u, "%d", (int)s);
        cr_assert(!none || b.out->count[s] == 0);
    }
    draw.token = token;
    draw.stats = stats;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) cr_assert_eq(token[s] < 0, s == 1 || s == 2);
    draw.token = NULL;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) cr_assert_eq(stats[s].bad, 0);
    batch_free(&b);
}

/* Of rows before the first nothing is read, whoever says so: not theirs, not their edits. */
Test(host_batch, a_row_that_there_cannot_be_is_its_sequences_own_affair)
{
    dice d = {14};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
    spc_verify_batch v = verify_batch(&b);
    spc_draw_batch draw = draw_batch(&b);
    int64_t drafter_row[SEQUENCES];
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];

    batch_edits(&b, &d);
    v.edits = draw.edits = edits_of(&b);
    batch_fill(&b, &d, &p, 3.0, &v.edits);
    memcpy(drafter_row, b.row, sizeof drafter_row);
    v.drafter_row = drafter_row;
    b.row[1] = -1;
    b.row[2] = INT64_MIN;
    drafter_row[3] = -1;
    run(&v, "rows");
    for (int32_t s = 0; s < SEQUENCES; s++) {
        bool none = s >= 1 && s <= 3;

        cr_assert_eq(b.out->status[s], none ? (uint32_t)SPC_STATUS_BAD_PARAM : 0u, "%d", (int)s);
        cr_assert(!none || b.out->count[s] == 0);
    }
    v.drafter.logits.data = NULL; /* whose rows nobody asks for then */
    for (int32_t s = 0; s < SEQUENCES; s++) b.params[s].bonus = SPC_BONUS_VERIFIER;
    run(&v, "named drafts");
    cr_assert_eq(b.out->status[3], 0u);
    draw.token = token;
    draw.stats = stats;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        cr_assert_eq(token[s] < 0, s == 1 || s == 2);
        cr_assert_eq(stats[s].bad, s == 1 || s == 2);
    }
    batch_free(&b);
}

/* A row whose edits begin before the first, or end before they begin, is as bad as one of NaN. */
Test(host_batch, edits_that_there_cannot_be_make_a_row_bad)
{
    dice d = {15};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("strict", 0);
    spc_verify_batch v = verify_batch(&b);
    spc_draw_batch draw = draw_batch(&b);
    int32_t token[SEQUENCES];

    batch_edits(&b, &d);
    v.edits = draw.edits = edits_of(&b);
    batch_fill(&b, &d, &p, 3.0, &v.edits);
    memcpy(b.verifier, b.drafter, (size_t)SEQUENCES * ROWS * 60 * sizeof *b.verifier);
    b.edit_first[1 * ROWS + 1] = -7;                         /* ends the first row of sequence 1 */
    b.edit_first[3 * ROWS + 2] = INT32_MIN;                  /* the second of sequence 3 */
    b.edit_first[5 * ROWS] = b.edit_first[5 * ROWS - 1] - 1; /* the last of sequence 4 */
    run(&v, "edits");
    for (int32_t s = 0; s < SEQUENCES; s++) {
        const uint32_t want[SEQUENCES] = {
            0, SPC_STATUS_BAD_DRAFTER, 0, SPC_STATUS_BAD_DRAFTER, SPC_STATUS_BAD_VERIFIER, 0};

        cr_assert_eq(b.out->status[s], want[s], "%d: %x", (int)s, b.out->status[s]);
        cr_assert(!want[s] || b.out->count[s] == (s == 1   ? 0
                                                  : s == 3 ? 1
                                                           : 4),
                  "%d: %d", (int)s, (int)b.out->count[s]);
    }
    v.drafter.logits.data = NULL;
    run(&v, "named drafts");
    cr_assert_eq(b.out->status[1], (uint32_t)SPC_STATUS_BAD_VERIFIER);
    draw.token = token;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) cr_assert_eq(token[s] < 0, s == 1);
    batch_free(&b);
}

Test(host_batch, named_drafts_at_their_edges)
{
    dice d = {9};
    batch b = batch_of(60, 60);
    spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
    spc_verify_batch v = verify_batch(&b);

    batch_fill(&b, &d, &p, 3.0, NULL);
    batch_edits(&b, &d);
    v.drafter.logits.data = NULL;
    run(&v, "bonus from a target that nobody can know");
    cr_assert_eq(b.out->status[1], (uint32_t)SPC_STATUS_BAD_PARAM);
    cr_assert_eq(b.out->status[0], (uint32_t)SPC_STATUS_BAD_PARAM, "nor where nothing was named");
    cr_assert_eq(b.out->count[0], 0);

    for (int32_t s = 0; s < SEQUENCES; s++) b.params[s].bonus = SPC_BONUS_VERIFIER;
    run(&v, "the verifier's own rows");
    cr_assert_eq(b.out->status[0], 0u);
    cr_assert_eq(b.out->count[0], 1);
    memset(b.allowed, 0xff, (size_t)(SEQUENCES * ROWS * batch_words(&b)) * sizeof *b.allowed);
    for (int32_t s = 1; s < SEQUENCES; s++) { /* the first draft is not allowed */
        b.allowed[b.row[s] * batch_words(&b) + b.draft[s * DRAFTS] / 32] &=
            ~(1u << (b.draft[s * DRAFTS] % 32));
    }
    v.edits.allowed = b.allowed;
    v.edits.allowed_stride = batch_words(&b);
    run(&v, "masked");
    for (int32_t s = 1; s < SEQUENCES; s++) {
        if (b.drafts[s] == 0) continue;
        cr_assert_eq(b.out->accepted[s], 0, "a draft that is not allowed is rejected");
        cr_assert_eq(b.out->count[s], 1);
        cr_assert_eq(b.out->status[s], 0u);
        cr_assert_neq(b.out->token[s * ROWS], b.draft[s * DRAFTS]);
    }

    for (int32_t s = 1; s < SEQUENCES; s++) b.draft[s * DRAFTS] = s % 2 ? -1 : 60;
    v.edits.allowed = NULL;
    run(&v, "no tokens");
    for (int32_t s = 1; s < SEQUENCES; s++) {
        if (b.drafts[s] == 0) continue;
        cr_assert_eq(b.out->count[s], 0);
        cr_assert(b.out->status[s] & SPC_STATUS_BAD_DRAFT);
        cr_assert(b.out->status[s] & SPC_STATUS_BAD_DRAFTER);
    }
    batch_free(&b);
}

Test(host_batch, half_precision_rows_are_their_float_values)
{
    dice d = {13};
    batch b = batch_of(5000, 5000);
    size_t entries = (size_t)SEQUENCES * ROWS * 5000;
    uint16_t *half = shared(2 * entries * sizeof *half);

    for (int round = 0; round < 2 * MODES; round++) {
        int type = round % 2 ? SPC_LOGITS_F16 : SPC_LOGITS_BF16;
        spc_row_params p = params_in_mode("token-v3:alpha=0.5", round / 2);
        spc_verify_batch v = verify_batch(&b);

        batch_fill(&b, &d, &p, 2.0, NULL);
        for (size_t i = 0; i < 2 * entries; i++) {
            float *to = i < entries ? &b.drafter[i] : &b.verifier[i - entries];

            half[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400) + 0x8000 * dice_below(&d, 2));
            *to = spc_logit((spc_logits){half, type}, (int64_t)i);
        }
        v.drafter.logits = (spc_logits){half, type};
        v.verifier.logits = (spc_logits){half + entries, type};
        v.stats = NULL;
        run(&v, "half");
        expect_one_by_one(&b, b.drafter, b.verifier, false, "half");
    }
    free(half);
    batch_free(&b);
}

/* ---- detail -----------------------------------------------------------------------------------
 */

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

Test(host_batch, detail_says_what_the_reference_says)
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
Test(host_batch, detail_of_the_worked_row)
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

/* ---- draws ------------------------------------------------------------------------------------
 */

Test(host_batch, draws_are_spc_draft_sample)
{
    dice d = {17};
    batch b = batch_of(500, 501);
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES], want;
    float log_probability[SEQUENCES];

    for (int m = 0; m < MODES; m++) {
        spc_row_params p = params_in_mode("opt:alpha=0.1", m);
        spc_draw_batch a = draw_batch(&b);

        a.logits.logits.data = b.verifier;
        a.plain = m == 0;
        a.token = token;
        a.stats = stats;
        a.log_probability = log_probability;
        batch_fill(&b, &d, &p, 2.0, NULL);
        b.params[2].sampling.temperature = -1;
        b.verifier[b.row[3] * 501 + 7] = NAN;
        cr_assert_eq(spc_cpu_draw_batch(&a, NULL, NULL), SPC_OK);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            const float *row = b.verifier + b.row[s] * 501;
            int32_t wanted = -1;

            if (s == 2) {
                cr_assert(stats[s].bad);
            } else {
                wanted = a.plain ? spc_plain_sample(row, 500, &b.params[s], b.position[s], &want)
                                 : spc_draft_sample(row, 500, &b.params[s], b.position[s],
                                                    b.salt[s], &want);
                cr_assert(memcmp(&stats[s], &want, sizeof want) == 0);
            }
            cr_assert_eq(token[s], wanted);
            if (wanted < 0) {
                cr_assert_eq(log_probability[s], -INFINITY);
                continue;
            }
            double q = p.sampling.temperature > 0 ? exp(((double)row[wanted] - (double)want.max) /
                                                        (double)p.sampling.temperature) /
                                                        (double)want.sum
                                                  : 1;

            cr_assert_float_eq(log_probability[s], log(q), 1e-5);
        }
    }
    batch_free(&b);
}

/* Step by step into the columns of what verification reads. */
Test(host_batch, draws_are_written_where_rounds_read_them)
{
    enum { STRIDE = 3, ALL = SEQUENCES * STRIDE };
    dice d = {18};
    batch b = batch_of(40, 40);
    spc_row_params p = params_in_mode("opt:alpha=0.1", 1);
    spc_draw_batch a = draw_batch(&b);
    int32_t token[ALL], packed[SEQUENCES];
    spc_row_stats stats[ALL], packed_stats[SEQUENCES];
    float log_probability[ALL], packed_log[SEQUENCES];

    batch_fill(&b, &d, &p, 2.0, NULL);
    a.token = packed;
    a.stats = packed_stats;
    a.log_probability = packed_log;
    cr_assert_eq(spc_cpu_draw_batch(&a, NULL, NULL), SPC_OK);
    memset(token, 0x5a, sizeof token);
    a.token = token + 1;
    a.stats = stats + 1;
    a.log_probability = log_probability + 1;
    a.out_stride = STRIDE;
    cr_assert_eq(spc_cpu_draw_batch(&a, NULL, NULL), SPC_OK);
    for (int32_t i = 0; i < ALL; i++) {
        const int32_t s = i / STRIDE;

        if (i % STRIDE != 1) {
            cr_assert_eq(token[i], 0x5a5a5a5a, "between sequences");
            continue;
        }
        cr_assert_eq(token[i], packed[s]);
        cr_assert(memcmp(&stats[i], &packed_stats[s], sizeof *stats) == 0);
        cr_assert(memcmp(&log_probability[i], &packed_log[s], sizeof *log_probability) == 0);
    }
    batch_free(&b);
}

Test(host_batch, only_the_living_are_touched)
{
    dice d = {19};
    batch b = batch_of(40, 40);
    spc_row_params p = params_in_mode("strict", 0);
    spc_verify_batch v = verify_batch(&b);

    batch_fill(&b, &d, &p, 2.0, NULL);
    v.live = b.live;
    for (int32_t live = -1; live <= SEQUENCES + 1; live++) {
        *b.live = live;
        memset(b.out, 0x5a, sizeof *b.out);
        run(&v, "live");
        for (int32_t s = 0; s < SEQUENCES; s++) {
            cr_assert_eq(b.out->count[s] == 0x5a5a5a5a, s >= live, "%d live, sequence %d", live, s);
        }
    }
    batch_free(&b);
}

/* ---- edges ------------------------------------------------------------------------------------
 */

/* Where a block begins is known to the round, and to nobody who draws a draft. */
Test(host_batch, salts_of_blocks_are_found_or_refused)
{
    dice d = {17};
    batch b = batch_of(60, 60);
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];

    for (int round = 0; round < 40; round++) {
        spc_row_params p = params_in_mode(toy_rules[round % TOY_RULES], 0);
        spc_verify_batch v = verify_batch(&b);
        spc_draw_batch draw = draw_batch(&b);

        p.seed = (uint64_t)round * 100;
        p.verify = round % 2 ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
        batch_fill(&b, &d, &p, 2.0, NULL);
        b.position[3] = (int64_t)1 << 32 | 0xffffffff; /* salt 0 */
        b.salt[3] = 0;
        v.salt = NULL;
        run(&v, toy_rules[round % TOY_RULES]);
        expect_one_by_one(&b, b.drafter, b.verifier, true, toy_rules[round % TOY_RULES]);

        draw.salt = NULL;
        draw.token = token;
        draw.stats = stats;
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
        cr_assert_eq(token[2] < 0 && stats[2].bad, p.verify == SPC_VERIFY_BLOCK);
        draw.plain = 1;
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
        cr_assert_eq(token[2], spc_plain_sample(b.drafter + b.row[2] * b.stride, b.vocab,
                                                &b.params[2], b.position[2], &stats[0]));
        draw.plain = 0;
        draw.token = NULL;
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
        cr_assert_eq(stats[2].bad, 0, "statistics need no salt");
    }
    batch_free(&b);
}

/* Rows further from each other than 32 bits of elements count. */
Test(host_batch, rows_may_lie_beyond_the_reach_of_32_bits)
{
    enum { VOCAB = 300 };
    const int64_t stride = ((int64_t)1 << 32) + 8;
    const size_t bytes = (size_t)(2 * stride) * sizeof(uint16_t);
    uint16_t *rows = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint16_t near[VOCAB];
    spc_row_params p = params_of("strict", 1);
    const int64_t row = 1, first = 0, position = 5;
    int32_t far_token, near_token;
    spc_row_stats far_stats, near_stats;
    dice d = {31};

    if (rows == MAP_FAILED) cr_skip_test("no address space for 17 GB");
    for (int32_t v = 0; v < VOCAB; v++) {
        near[v] = (uint16_t)(0x3c00 + dice_below(&d, 0x400));
        rows[stride + v] = near[v];
    }

    spc_draw_batch b = {
        .sequences = 1,
        .vocab = VOCAB,
        .params = &p,
        .logits = {.logits = {rows, SPC_LOGITS_BF16}, .stride = stride, .width = VOCAB},
        .row = &row,
        .position = &position,
        .token = &far_token,
        .stats = &far_stats};

    cr_assert_eq(spc_cpu_draw_batch(&b, NULL, NULL), SPC_OK);
    b.logits = (spc_logit_rows){.logits = {near, SPC_LOGITS_BF16}, .stride = VOCAB, .width = VOCAB};
    b.row = &first;
    b.token = &near_token;
    b.stats = &near_stats;
    cr_assert_eq(spc_cpu_draw_batch(&b, NULL, NULL), SPC_OK);
    cr_assert(far_token == near_token && memcmp(&far_stats, &near_stats, sizeof far_stats) == 0);
    cr_assert_eq(munmap(rows, bytes), 0);
}

/* At most 1 MiB, and 64 bytes for every tile of the rows of both models and the bonus. */
Test(host_batch, workspaces_are_small_for_every_shape)
{
    static const int32_t sequences[] = {1, 2, 16, 64, 128, 193, 256, 1000, 4096};
    static const int32_t vocabs[] = {1,      4096,   4097,   32000,        50257,
                                     128256, 151936, 262144, SPC_VOCAB_MAX};

    for (size_t n = 0; n < sizeof sequences / sizeof *sequences; n++) {
        for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
            for (int32_t drafts = 0; drafts <= SPC_GAMMA_MAX + 1; drafts++) {
                size_t rows = (size_t)sequences[n] * (2 * (size_t)drafts + 1);
                size_t bytes = spc_workspace_bytes(sequences[n], drafts, vocabs[i]);

                cr_assert_leq(bytes,
                              ((size_t)1 << 20) + 64 * rows * (size_t)spc_tile_count(vocabs[i]),
                              "%d sequences of %d drafts, %d tokens: %zu", (int)sequences[n],
                              (int)drafts, (int)vocabs[i], bytes);
                cr_assert_geq(bytes, rows * (size_t)spc_tile_count(vocabs[i]) * 16);
            }
        }
    }
}
