/* SPDX-License-Identifier: Apache-2.0 */
/* toybatch.h - batches with rows, drafts, masks and edits of their own for every sequence, in
 * memory that the place under test can read. */
#ifndef SPC_TESTS_TOYBATCH_H
#define SPC_TESTS_TOYBATCH_H

#include "rules/shard.h"
#include "toyround.h"

#include <spc/verify.h>
#include <stdio.h>
#include <stdlib.h>

enum { DRAFTS = 4, ROWS = DRAFTS + 1, SEQUENCES = 6, EDITS = 3 };

/* Defined by the includer: memory full of bytes 0xa5, that the test can look at or not
 * (toyshard.h), and its end. */
static void *shared(size_t bytes);
static void unshare(void *memory);

/* What a batch writes. */
typedef struct {
    int32_t token[SEQUENCES * ROWS], count[SEQUENCES], accepted[SEQUENCES];
    uint32_t status[SEQUENCES];
    spc_verdict verdict[SEQUENCES];
    spc_row_detail detail[SEQUENCES * ROWS];
} results;

typedef struct {
    int32_t vocab, stride;
    spc_row_params *params; /* [SEQUENCES] */
    float *drafter;         /* [SEQUENCES, ROWS, stride] */
    float *verifier;
    int64_t *row; /* [SEQUENCES] */
    int64_t *position;
    uint32_t *salt;
    int32_t *drafts;
    int32_t *bonus;
    int32_t *draft; /* [SEQUENCES, DRAFTS] */
    spc_row_stats *stats;
    uint32_t *allowed;   /* [SEQUENCES * ROWS, words] */
    int32_t *edit_first; /* [SEQUENCES * ROWS + 1] */
    int32_t *edit_token;
    float *edit_value;
    int32_t *live;
    results *out;
} batch;

static inline int32_t batch_words(const batch *b)
{
    return (b->vocab + 31) / 32;
}

static inline batch batch_of(int32_t vocab, int32_t stride)
{
    size_t n = SEQUENCES, entries = n * ROWS * (size_t)stride;
    batch b = {vocab,
               stride,
               shared(n * sizeof *b.params),
               shared(entries * sizeof *b.drafter),
               shared(entries * sizeof *b.verifier),
               shared(n * sizeof *b.row),
               shared(n * sizeof *b.position),
               shared(n * sizeof *b.salt),
               shared(n * sizeof *b.drafts),
               shared(n * sizeof *b.bonus),
               shared(n * DRAFTS * sizeof *b.draft),
               shared(n * DRAFTS * sizeof *b.stats),
               shared(n * ROWS * (size_t)((vocab + 31) / 32) * sizeof *b.allowed),
               shared((n * ROWS + 1) * sizeof *b.edit_first),
               shared(n * ROWS * EDITS * sizeof *b.edit_token),
               shared(n * ROWS * EDITS * sizeof *b.edit_value),
               shared(sizeof *b.live),
               shared(sizeof *b.out)};

    for (size_t i = 0; i < entries; i++)
        b.drafter[i] = b.verifier[i] = NAN; /* padding is never read */
    *b.live = SEQUENCES;
    return b;
}

static inline void batch_free(batch *b)
{
    void *all[] = {b->params,     b->drafter, b->verifier,   b->row,       b->position, b->salt,
                   b->drafts,     b->bonus,   b->draft,      b->stats,     b->allowed,  b->live,
                   b->edit_first, b->out,     b->edit_token, b->edit_value};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) unshare(all[i]);
}

/* Three edits in every row, none in the last; every token allowed but some. */
static inline void batch_edits(batch *b, dice *d)
{
    int32_t words = batch_words(b), n = 0;

    for (int32_t r = 0; r < SEQUENCES * ROWS; r++) {
        b->edit_first[r] = n;
        for (int32_t e = 0; e < EDITS && b->vocab >= EDITS && r % ROWS != DRAFTS; e++, n++) {
            b->edit_token[n] = e * (b->vocab / EDITS) + dice_below(d, b->vocab / EDITS);
            b->edit_value[n] = (float)(2 * dice_gauss(d));
        }
        for (int32_t w = 0; w < words; w++) {
            b->allowed[r * words + w] = (uint32_t)dice_word(d) | (uint32_t)dice_word(d) | 1u;
        }
    }
    b->edit_first[SEQUENCES * ROWS] = n;
}

static inline spc_edits edits_of(const batch *b)
{
    return (spc_edits){b->allowed, batch_words(b), b->edit_first, b->edit_token, b->edit_value};
}

static inline spc_logit_rows rows_of(const batch *b, const float *first)
{
    return (spc_logit_rows){
        .logits = {first, SPC_LOGITS_F32}, .stride = b->stride, .width = b->vocab};
}

/* A model that knows each of the tokens with this chance, and the token `sure`.  Its rows' elements
 * are those of the tokens, whatever else lies behind them. */
static inline spc_subset *subset_of(dice *d, int32_t vocab, double known, int32_t sure,
                                    spc_logit_rows *rows)
{
    spc_subset *subset = shared((size_t)((vocab + 31) / 32) * sizeof *subset);
    int32_t *tokens = malloc((size_t)vocab * sizeof *tokens), count = 0;
    spc_error err;

    for (int32_t v = 0; v < vocab; v++) {
        if (v == sure || dice_uniform(d) < known) tokens[count++] = v;
    }
    cr_assert_eq(spc_subset_fill(tokens, count, vocab, subset, &err), SPC_OK, "%s", err.message);
    free(tokens);
    rows->subset = subset;
    rows->width = count;
    return subset;
}

static inline spc_draw_batch draw_batch(const batch *b)
{
    return (spc_draw_batch){.sequences = SEQUENCES,
                            .vocab = b->vocab,
                            .params = b->params,
                            .logits = rows_of(b, b->drafter),
                            .row = b->row,
                            .position = b->position,
                            .salt = b->salt};
}

static inline spc_verify_batch verify_batch(const batch *b)
{
    results *out = b->out;
    spc_verify_batch v = {.sequences = SEQUENCES,
                          .vocab = b->vocab,
                          .max_drafts = DRAFTS,
                          .params = b->params,
                          .drafter = rows_of(b, b->drafter),
                          .drafter_row = b->row,
                          .verifier = rows_of(b, b->verifier),
                          .verifier_row = b->row,
                          .drafts = b->drafts,
                          .draft = b->draft,
                          .stats = b->stats,
                          .position = b->position,
                          .salt = b->salt,
                          .bonus = b->bonus,
                          .token = out->token,
                          .count = out->count,
                          .status = out->status,
                          .accepted = out->accepted,
                          .verdict = out->verdict,
                          .detail = out->detail};

    return v;
}

/* Rows, and drafts drawn from them on the CPU under the edits (or without: NULL). */
static inline void batch_fill(batch *b, dice *d, const spc_row_params *params, double spread,
                              const spc_edits *edits)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        spc_row_params *p = &b->params[s];

        *p = *params;
        p->seed += (uint64_t)s;
        b->row[s] = (int64_t)s * ROWS;
        b->position[s] = 7 + s;
        b->salt[s] = p->verify == SPC_VERIFY_BLOCK ? (uint32_t)b->position[s] + 1 : 0;
        b->drafts[s] = s % (DRAFTS + 1);
        b->bonus[s] = s % 3 != 2;
        for (int32_t r = 0; r < ROWS; r++) {
            size_t at = ((size_t)s * ROWS + (size_t)r) * (size_t)b->stride;

            dice_rows(d, b->vocab > 1 ? (rows_kind)((s + r) % ROWS_KINDS) : ROWS_CLOSE, b->vocab,
                      spread, b->drafter + at, b->verifier + at);
        }
    }
    for (int32_t r = 0; r < DRAFTS; r++) {
        int64_t row[SEQUENCES], position[SEQUENCES];
        int32_t token[SEQUENCES];
        spc_row_stats stats[SEQUENCES];
        spc_draw_batch draw = draw_batch(b);

        draw.row = row;
        draw.position = position;
        draw.token = token;
        draw.stats = stats;
        if (edits) draw.edits = *edits;
        for (int32_t s = 0; s < SEQUENCES; s++) {
            row[s] = b->row[s] + r;
            position[s] = b->position[s] + r;
        }
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            b->draft[s * DRAFTS + r] = token[s];
            b->stats[s * DRAFTS + r] = stats[s];
        }
    }
}

/* Ways to sample that take other paths. */
static const struct {
    const char *name;
    float temperature;
    int32_t top_k;
    float top_p, min_p;
    int32_t verify, bonus;
} modes[] = {{"T 1", 1, 0, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET},
             {"T 0.7 block", 0.7f, 0, 1, 0, SPC_VERIFY_BLOCK, SPC_BONUS_TARGET},
             {"T 0", 0, 0, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER},
             {"T 1.3 top-k 20 top-p 0.9", 1.3f, 20, 0.9f, 0, SPC_VERIFY_TOKEN, SPC_BONUS_VERIFIER},
             {"T 1 min-p 0.05 step", 1, 0, 1, 0.05f, SPC_VERIFY_TOKEN, SPC_BONUS_STEP},
             {"T 1e-4", SPC_TEMPERATURE_MIN, 0, 1, 0, SPC_VERIFY_TOKEN, SPC_BONUS_TARGET}};
enum { MODES = sizeof modes / sizeof *modes };

static inline spc_row_params params_in_mode(const char *rule, int m)
{
    spc_row_params p = params_of(rule, modes[m].temperature);

    p.sampling.top_k = modes[m].top_k;
    p.sampling.top_p = modes[m].top_p;
    p.sampling.min_p = modes[m].min_p;
    p.verify = modes[m].verify;
    p.bonus = modes[m].bonus;
    if (spc_rule_needs_draft((spc_rule_kind)p.rule.kind)) {
        p.verify = SPC_VERIFY_TOKEN;
        p.bonus = SPC_BONUS_STEP;
    }
    return p;
}

static inline void expect_same_results(const results *got, const results *want, const char *what)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        const spc_verdict *g = &got->verdict[s], *w = &want->verdict[s];

        cr_assert(memcmp(g, w, sizeof *g) == 0,
                  "%s, sequence %d: count %d accepted %d verified %d drawn %d deferred %x status "
                  "%x tokens %d %d, want %d %d %d %d %x %x tokens %d %d",
                  what, s, g->count, g->accepted, g->verified, g->drawn, g->deferred, g->status,
                  g->token[0], g->token[1], w->count, w->accepted, w->verified, w->drawn,
                  w->deferred, w->status, w->token[0], w->token[1]);
        for (int32_t r = 0; r < ROWS; r++) {
            const spc_row_detail *a = &got->detail[s * ROWS + r], *b = &want->detail[s * ROWS + r];

            cr_assert(memcmp(a, b, sizeof *a) == 0,
                      "%s, sequence %d, row %d: detail differs: fate %d %d, target %g %g, inside "
                      "%d %d",
                      what, s, r, a->fate, b->fate, (double)a->target, (double)b->target, a->inside,
                      b->inside);
        }
    }
    cr_assert(memcmp(got, want, sizeof *got) == 0, "%s: arrays differ from the verdicts", what);
}

#endif
