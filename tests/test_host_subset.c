/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_subset.c - rows of a model that knows some of the vocabulary are, to the bit, the rows
 * that somebody spread over the vocabulary by hand. */
#include "host_memory.h"
#include "toybatch.h"
#include "toyshard.h"

/* Rows of some tokens, and the same over all. */
typedef struct {
    batch b;
    spc_subset *subset;
    void *some, *all; /* their elements */
    spc_logit_rows packed, spread;
} pair_of_rows;

static void put(void *rows, int type, int64_t i, float value)
{
    if (type == SPC_LOGITS_F32) {
        ((float *)rows)[i] = value;
    } else {
        ((uint16_t *)rows)[i] =
            type == SPC_LOGITS_BF16 ? spc_float_bf16(value) : spc_float_half(value);
    }
}

/* From the drafter's rows of a batch; what lies behind the tokens that are known is a NaN. */
static pair_of_rows rows_with(dice *d, const batch *b, double known, int type)
{
    const int64_t entries = (int64_t)SEQUENCES * ROWS * b->stride;
    pair_of_rows r = {.b = *b,
                      .some = shared((size_t)entries * sizeof(float)),
                      .all = shared((size_t)entries * sizeof(float))};

    r.packed = r.spread = (spc_logit_rows){.stride = b->stride, .width = b->vocab};
    r.packed.logits = (spc_logits){r.some, type};
    r.spread.logits = (spc_logits){r.all, type};
    r.subset = subset_of(d, b->vocab, known, dice_below(d, b->vocab), &r.packed);
    for (int64_t row = 0; row < SEQUENCES * ROWS; row++) {
        int64_t i = row * b->stride;

        for (int32_t v = 0; v < b->stride; v++) put(r.some, type, row * b->stride + v, NAN);
        for (int32_t v = 0; v < b->vocab; v++) {
            const bool is_known = (r.subset[v / 32].tokens >> (v % 32) & 1u) != 0;
            const float logit = is_known ? b->drafter[i] : -INFINITY;

            put(r.all, type, row * b->stride + v, logit);
            if (is_known) put(r.some, type, i++, logit);
        }
        cr_assert_eq(i - row * b->stride, r.packed.width);
    }
    return r;
}

static void rows_free(pair_of_rows *r)
{
    unshare(r->subset);
    unshare(r->some);
    unshare(r->all);
}

/* One draft of every sequence from both forms of its row; the batch keeps it. */
static void draw_alike(batch *b, const pair_of_rows *r, const spc_edits *edits, int32_t draft,
                       const char *what)
{
    static draws out[2];
    int64_t row[SEQUENCES], position[SEQUENCES];

    for (int32_t s = 0; s < SEQUENCES; s++) {
        row[s] = b->row[s] + draft;
        position[s] = b->position[s] + draft;
    }
    memset(out, 0, sizeof out);
    for (int i = 0; i < 2; i++) {
        spc_draw_batch one = draw_batch(b);
        spc_error err;

        one.token = out[i].token;
        one = draw_to(&one, &out[i]);
        one.logits = i ? r->packed : r->spread;
        one.edits = *edits;
        one.row = row;
        one.position = position;
        cr_assert_eq(spc_cpu_draw_batch(&one, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    }
    cr_assert(memcmp(&out[0], &out[1], sizeof *out) == 0, "%s: draft %d is drawn otherwise", what,
              (int)draft);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        const int32_t token = out[1].token[s];

        cr_assert(token < 0 || (r->subset[token / 32].tokens >> (token % 32) & 1u),
                  "%s: token %d is not known", what, (int)token);
        b->draft[s * DRAFTS + draft] = token;
        b->stats[s * DRAFTS + draft] = out[1].stats[s];
    }
}

static results decided(const spc_verify_batch *v, results *out, const char *what)
{
    spc_error err;

    memset(out, 0xa5, sizeof *out);
    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    return *out;
}

static void expect_alike(batch *b, const pair_of_rows *r, const spc_edits *edits, bool given,
                         const char *what)
{
    spc_verify_batch v = verify_batch(b);
    results want;

    for (int32_t i = 0; i < DRAFTS; i++) draw_alike(b, r, edits, i, what);
    v.edits = *edits;
    if (!given) v.stats = NULL;
    v.drafter = r->spread;
    want = decided(&v, b->out, what);
    v.drafter = r->packed;
    (void)decided(&v, b->out, what);
    expect_same_results(b->out, &want, what);
}

Test(host_subset, rows_of_some_tokens_are_rows_spread_by_hand)
{
    static const int32_t vocabs[] = {40, 4097, 9000};
    static const double known[] = {0.02, 0.3, 1};
    dice d = {41};

    for (int i = 0; i < 3; i++) {
        batch b = batch_of(vocabs[i], vocabs[i] + 3);

        for (int r = 0; r < TOY_RULES; r++) {
            spc_row_params p = params_in_mode(toy_rules[r], (r + i) % MODES);
            pair_of_rows rows;
            spc_edits edits = {0};
            char what[128];

            (void)snprintf(what, sizeof what, "%s, %s, %d tokens", toy_rules[r],
                           modes[(r + i) % MODES].name, (int)vocabs[i]);
            batch_edits(&b, &d);
            batch_fill(&b, &d, &p, 3.0, NULL);
            if (r % 2) edits = edits_of(&b);
            if (r % 4 == 1) edits.allowed = NULL;
            rows = rows_with(&d, &b, known[(r + i) % 3], r % 3);
            expect_alike(&b, &rows, &edits, r % 5 != 0, what);
            rows_free(&rows);
        }
        batch_free(&b);
    }
}

/* A number that is added to a token which a model does not know changes nothing, not even +inf. */
Test(host_subset, edits_of_tokens_that_are_not_known_change_nothing)
{
    enum { VOCAB = 40 };
    const float row[] = {1, 2};
    const int32_t tokens[] = {3, 35}, first[] = {0, 1}, token[] = {7};
    const float value[] = {INFINITY};
    const int64_t position = 0;
    spc_subset subset[2];
    spc_row_params p = params_of("strict", 1);
    spc_row_stats stats;
    spc_draw_batch b = {
        .sequences = 1,
        .vocab = VOCAB,
        .params = &p,
        .logits = {.logits = {row, SPC_LOGITS_F32}, .stride = 2, .width = 2, .subset = subset},
        .edits = {.edit_first = first, .edit_token = token, .edit_value = value},
        .position = &position,
        .stats = &stats};

    cr_assert_eq(spc_subset_fill(tokens, 2, VOCAB, subset, NULL), SPC_OK);
    cr_assert_eq(spc_cpu_draw_batch(&b, NULL, NULL), SPC_OK);
    cr_assert(!stats.bad && stats.top == 35 && stats.max == 2);
}

/* Ranks with slices of the verifier's rows and the whole rows of such a drafter. */
Test(host_subset, whole_drafters_beside_slices)
{
    static const toy_shard_calls cpu = {spc_cpu_verify_partial, spc_cpu_verify_combine,
                                        spc_cpu_draw_partial, spc_cpu_draw_combine};
    dice d = {43};
    batch b = batch_of(13000, 13000);

    for (int r = 0; r < TOY_RULES; r += 2) {
        spc_row_params p = params_in_mode(toy_rules[r], r % MODES);
        const spc_edits none = {0};
        spc_verify_batch v = verify_batch(&b);
        pair_of_rows rows;
        results want;

        batch_fill(&b, &d, &p, 3.0, NULL);
        rows = rows_with(&d, &b, 0.3, r % 3);
        for (int32_t i = 0; i < DRAFTS; i++) draw_alike(&b, &rows, &none, i, toy_rules[r]);
        if (r % 4) v.stats = NULL;
        v.drafter = rows.packed;
        want = decided(&v, b.out, toy_rules[r]);
        verify_sliced(&cpu, &v, &want, 3, true, toy_rules[r]);
        rows_free(&rows);
    }
    batch_free(&b);
}

/* A subset that says more than rows hold: nothing behind them is read. */
Test(host_subset, rows_end_where_their_width_says)
{
    enum { VOCAB = 4096 + 64 };
    dice d = {44};
    batch b = batch_of(VOCAB, VOCAB);
    spc_row_params p = params_of("strict", 1);
    const spc_edits none = {0};
    pair_of_rows rows;
    spc_draw_batch draw = draw_batch(&b);
    draws out = {0};

    batch_fill(&b, &d, &p, 3.0, NULL);
    rows = rows_with(&d, &b, 0.3, SPC_LOGITS_F32);
    for (int32_t i = 0; i < SEQUENCES * ROWS * VOCAB; i++) { /* what would be drawn, were it read */
        if (i % VOCAB >= rows.packed.width) ((float *)rows.some)[i] = 90;
    }
    for (int32_t word = 0; word < VOCAB / 32; word++) rows.subset[word].tokens = ~0u;
    rows.subset[3].before = -5;
    rows.subset[VOCAB / 32 - 3].before = rows.packed.width - 3;
    rows.subset[VOCAB / 32 - 2].before = INT32_MAX;
    rows.subset[VOCAB / 32 - 1].before = INT32_MIN;
    draw.token = out.token;
    draw = draw_to(&draw, &out);
    draw.logits = rows.packed;
    draw.edits = none;
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        cr_assert(!out.stats[s].bad && out.stats[s].max < 90 && out.token[s] >= 0);
    }

    spc_verify_batch v = verify_batch(&b);

    v.drafter = rows.packed;
    v.stats = NULL;
    for (int32_t s = 0; s < SEQUENCES; s++) {
        b.drafts[s] = 1;
        b.draft[s * DRAFTS] = s % 2 ? VOCAB - 1 : VOCAB - 65;
    }
    cr_assert_eq(spc_cpu_verify_batch(&v, NULL, NULL), SPC_OK);
    for (int32_t s = 0; s < SEQUENCES; s++) {
        cr_assert_eq(b.out->status[s] & SPC_STATUS_BAD_DRAFT, SPC_STATUS_BAD_DRAFT);
    }
    rows_free(&rows);
    batch_free(&b);
}

/* Words that contradict each other, or that go on beyond the row: each token has the logit that its
 * own word says, or none, as devices have it. */
Test(host_subset, every_word_is_taken_by_itself)
{
    enum { VOCAB = 2 * 4096 + 64 };
    const spc_edits none = {0};
    dice d = {45};

    for (int lie = 0; lie < 3; lie++) {
        batch b = batch_of(VOCAB, VOCAB);
        spc_row_params p = params_of("strict", 1);
        pair_of_rows rows;

        batch_fill(&b, &d, &p, 3.0, NULL);
        rows = rows_with(&d, &b, 0.3, SPC_LOGITS_F32);
        if (lie == 0) rows.subset[3].before += 5;
        if (lie == 1) rows.subset[128].before = -40;
        for (int32_t word = 0; word < VOCAB / 32 && lie == 2; word++) {
            rows.subset[word] = (spc_subset){~0u, 32 * word};
        }
        for (int64_t row = 0; row < SEQUENCES * ROWS; row++) {
            const spc_view view = spc_view_at(rows.packed, none, row);

            for (int32_t v = 0; v < VOCAB; v++) {
                put(rows.all, SPC_LOGITS_F32, row * VOCAB + v, spc_view_logit(&view, v));
            }
        }
        for (int32_t draft = 0; draft < 3; draft++) draw_alike(&b, &rows, &none, draft, "a lie");
        rows_free(&rows);
        batch_free(&b);
    }
}

Test(host_subset, fill_says_which_tokens_there_are)
{
    static const int32_t tokens[] = {0, 5, 31, 32, 64, 95, 99};
    spc_subset subset[4];

    cr_assert_eq(spc_subset_fill(tokens, 7, 100, subset, NULL), SPC_OK);
    cr_assert(subset[0].tokens == 0x80000021u && subset[0].before == 0);
    cr_assert(subset[1].tokens == 1u && subset[1].before == 3);
    cr_assert(subset[2].tokens == 0x80000001u && subset[2].before == 4);
    cr_assert(subset[3].tokens == 8u && subset[3].before == 6);
}

static void expect_refused(const int32_t *tokens, int32_t count, int32_t vocab, const char *says)
{
    spc_subset subset[4] = {{7, 7}};
    spc_error err;

    cr_assert_eq(spc_subset_fill(tokens, count, vocab, subset, &err), SPC_EUSAGE);
    cr_assert_not_null(strstr(err.message, says), "%s", err.message);
    cr_assert(subset[0].tokens == 7 && subset[0].before == 7, "nothing is written");
}

Test(host_subset, fill_refuses_what_is_no_subset)
{
    spc_error err;

    expect_refused((int32_t[]){1, 5, 5}, 3, 100, "tokens[2]: expected 6 to 99, found 5");
    expect_refused((int32_t[]){1, 5, 4}, 3, 100, "tokens[2]");
    expect_refused((int32_t[]){-1, 5}, 2, 100, "tokens[0]: expected 0 to 99, found -1");
    expect_refused((int32_t[]){1, 100}, 2, 100, "tokens[1]: expected 2 to 99, found 100");
    expect_refused((int32_t[]){1, INT32_MAX, 3}, 3, 100, "tokens[1]");
    expect_refused((int32_t[]){1}, 0, 100, "count: expected 1 to 100, found 0");
    expect_refused((int32_t[]){1}, 101, 100, "count");
    expect_refused((int32_t[]){1}, 1, 0, "vocab");
    expect_refused((int32_t[]){1}, 1, SPC_VOCAB_MAX + 1, "vocab");
    expect_refused(NULL, 1, 100, "tokens: expected an address, found NULL");
    cr_assert_eq(spc_subset_fill((int32_t[]){1}, 1, 100, NULL, &err), SPC_EUSAGE);
    cr_assert_not_null(strstr(err.message, "subset"));
}
