/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_dealt.c - batches as dice deal them: whatever a caller may combine, in one batch, on
 * the device and over slices of the vocabulary, against the CPU.
 *
 * Built as test_cuda_verify.c is, whose tests have one thing each.  More deals: deals.h. */
#define MEMORY_BYTE 0xa5 /* toybatch.h */
#include "deals.h"
#include "device_memory.h"
#include "toydevice.h"

#include "toyshard.h"
#include "toyshard_device.h"

#ifdef SPC_LOOKED_AT
enum { DEALS = 12 };
#else
enum { DEALS = 40 };
#endif

/* Rows of a type, and where they lie: as far from an aligned place as they may. */
typedef struct {
    void *memory;
    spc_logit_rows rows;
    spc_subset *subset; /* NULL: they are of all tokens */
} dealt_rows;

typedef struct {
    batch b;
    dealt_rows drafter, verifier;
    spc_verify_batch v;
    char what[160];
} deal;

static bool chance(dice *d, double probability)
{
    return dice_uniform(d) < probability;
}

/* ---- parameters -------------------------------------------------------------------------------
 */

/* One of the rules with another number, or with a bound of its range. */
static bool deal_rule(dice *d, spc_rule *rule)
{
    static const double bounds[] = {0, 1, 1e-3, 0.999};
    const char *text = dice_below(d, TOY_RULES + 1) == 0 ? "cactus:delta=0.2"
                                                         : toy_rules[dice_below(d, TOY_RULES)];
    const char *equals = strchr(text, '='), *comma = strchr(text, ',');
    double number = chance(d, 0.2) ? bounds[dice_below(d, 4)] : dice_uniform(d);
    char other[64], message[SPC_RULE_MESSAGE_BYTES];

    if (!equals || chance(d, 0.3)) return spc_rule_parse(text, rule, message);
    (void)snprintf(other, sizeof other, "%.*s%.6f%s", (int)(equals + 1 - text), text, number,
                   comma ? comma : "");
    return spc_rule_parse(other, rule, message);
}

static spc_row_params deal_params(dice *d, int32_t vocab)
{
    spc_row_params p;
    spc_sampling *s = &p.sampling;

    do {
        spc_row_params_init(&p);
        while (!deal_rule(d, &p.rule)) continue;
        s->temperature = chance(d, 0.2) ? 0 : (float)(0.2 + 1.5 * dice_uniform(d));
        if (chance(d, 0.1)) s->temperature = SPC_TEMPERATURE_MIN;
        if (chance(d, 0.3)) s->top_k = dice_below(d, vocab + 2);
        if (chance(d, 0.3)) s->top_p = (float)(1 - dice_uniform(d) * dice_uniform(d));
        if (chance(d, 0.3)) s->min_p = (float)(0.3 * dice_uniform(d) * dice_uniform(d));
        p.seed = dice_word(d) >> 1;
        p.verify = chance(d, 0.3) ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
        p.bonus = dice_below(d, 3);
        p.nucleus = chance(d, 0.8);
    } while (spc_params_check(&p, NULL) != SPC_OK);
    return p;
}

/* ---- rows -------------------------------------------------------------------------------------
 */

/* What rows hold that is not random: padding, masks, what no row should. */
static void deal_oddities(dice *d, float *row, int32_t vocab)
{
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    int32_t from = dice_below(d, vocab);

    if (chance(d, 0.1)) {
        for (int32_t v = from; v < vocab; v++) row[v] = -INFINITY;
    }
    if (chance(d, 0.1)) {
        for (int32_t v = from; v < vocab; v++) row[v] = 0;
    }
    if (chance(d, 0.05)) row[from] = poison[dice_below(d, 3)];
    if (chance(d, 0.1)) row[from] = 80;
    if (chance(d, 0.1)) {
        for (int32_t v = 0; v < vocab; v++) row[v] += 30000;
    }
    if (chance(d, 0.05)) { /* nearly as large as numbers are */
        for (int32_t v = 0; v < vocab; v++)
            row[v] = fmaxf(-3.3e38f, fminf(1e38f * row[v], 3.3e38f));
    }
}

static uint16_t half_of(float x, int type)
{
    uint32_t bits = spc_float_bits(x);
    int32_t exponent = (int32_t)(bits >> 23 & 255) - 112;
    uint32_t sign = bits >> 16 & 0x8000u;

    if (type == SPC_LOGITS_BF16) return (uint16_t)(bits >> 16 | (isnan(x) ? 1u : 0u));
    if (isnan(x)) return (uint16_t)(sign | 0x7e00u);
    if (exponent >= 31) return (uint16_t)(sign | (isinf(x) ? 0x7c00u : 0x7bffu));
    if (exponent <= 0) return (uint16_t)sign;
    return (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ffu));
}

/* All rows as a type, some elements into their memory. */
static dealt_rows deal_type(dice *d, const batch *b, const float *from)
{
    int type = dice_below(d, 3);
    size_t entries = (size_t)SEQUENCES * ROWS * (size_t)b->stride, shift = (size_t)dice_below(d, 9);
    size_t size = type == SPC_LOGITS_F32 ? sizeof(float) : sizeof(uint16_t);
    dealt_rows r = {.memory = shared((entries + shift) * size)};
    char *first = (char *)r.memory + shift * size;

    for (size_t i = 0; i < entries; i++) {
        if (type == SPC_LOGITS_F32) {
            memcpy(first + i * size, &from[i], size);
        } else {
            uint16_t half = half_of(from[i], type);

            memcpy(first + i * size, &half, size);
        }
    }
    r.rows = (spc_logit_rows){.logits = {first, type}, .stride = b->stride, .width = b->vocab};
    return r;
}

static spc_subset *deal_subset(dice *d, int32_t vocab, spc_logit_rows *rows)
{
    return subset_of(d, vocab, dice_uniform(d), dice_below(d, vocab), rows);
}

static void deal_rows(dice *d, deal *t)
{
    batch *b = &t->b;
    double spread = 0.5 + 4 * dice_uniform(d);

    for (int32_t r = 0; r < SEQUENCES * ROWS; r++) {
        size_t at = (size_t)r * (size_t)b->stride;

        dice_rows(d, b->vocab > 1 ? (rows_kind)dice_below(d, ROWS_KINDS) : ROWS_CLOSE, b->vocab,
                  spread, b->drafter + at, b->verifier + at);
        deal_oddities(d, b->drafter + at, b->vocab);
        deal_oddities(d, b->verifier + at, b->vocab);
    }
    t->drafter = deal_type(d, b, b->drafter);
    t->verifier = deal_type(d, b, b->verifier);
    if (chance(d, 0.3)) t->drafter.rows.width = 1 + dice_below(d, b->vocab);
    if (chance(d, 0.2)) t->verifier.rows.width = 1 + dice_below(d, b->vocab);
    if (chance(d, 0.25)) t->drafter.subset = deal_subset(d, b->vocab, &t->drafter.rows);
    if (chance(d, 0.1)) t->verifier.subset = deal_subset(d, b->vocab, &t->verifier.rows);
}

/* ---- drafts -----------------------------------------------------------------------------------
 */

/* Drawn from the drafter's rows; some then become other tokens, or none. */
static void deal_drafts(dice *d, deal *t)
{
    batch *b = &t->b;

    for (int32_t r = 0; r < DRAFTS; r++) {
        int64_t row[SEQUENCES], position[SEQUENCES];
        int32_t token[SEQUENCES];
        spc_row_stats stats[SEQUENCES];
        spc_draw_batch draw = draw_batch(b);
        spc_error err;

        draw.logits = t->drafter.rows;
        draw.edits = t->v.edits;
        draw.row = row;
        draw.position = position;
        draw.token = token;
        draw.stats = stats;
        for (int32_t s = 0; s < SEQUENCES; s++) {
            row[s] = b->row[s] + r;
            position[s] = b->position[s] + r;
        }
        cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, &err), SPC_OK, "%s: %s", t->what, err.message);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            b->stats[s * DRAFTS + r] = stats[s];
            if (chance(d, 0.05)) token[s] = dice_below(d, b->vocab + 2) - 1;
            b->draft[s * DRAFTS + r] = token[s];
        }
    }
}

static void deal_sequences(dice *d, deal *t)
{
    batch *b = &t->b;

    for (int32_t s = 0; s < SEQUENCES; s++) {
        b->params[s] = deal_params(d, b->vocab);
        b->row[s] = (int64_t)s * ROWS;
        b->position[s] = chance(d, 0.1) ? (INT64_C(1) << 32) - 2 : dice_below(d, 5000);
        b->salt[s] = b->params[s].verify == SPC_VERIFY_BLOCK ? (uint32_t)(b->position[s] + 1) : 0;
        b->drafts[s] = dice_below(d, DRAFTS + 1);
        b->bonus[s] = chance(d, 0.7);
    }
    *b->live = chance(d, 0.2) ? dice_below(d, SEQUENCES + 1) : SEQUENCES;
}

static deal deal_of(uint64_t seed)
{
    static const int32_t vocabs[] = {1, 2, 31, 255, 256, 257, 1000, 4096, 4097, 8200, 12289};
    dice dealer = {seed * 0x9E3779B97F4A7C15u}, *d = &dealer;
    int32_t vocab = chance(d, 0.3) ? vocabs[dice_below(d, sizeof vocabs / sizeof *vocabs)]
                                   : 1 + dice_below(d, chance(d, 0.5) ? 600 : 10000);
    deal t = {.b = batch_of(vocab, vocab + dice_below(d, 9))};
    batch *b = &t.b;

    t.v = verify_batch(b);
    batch_edits(b, d);
    if (chance(d, 0.3)) {
        t.v.edits = edits_of(b);
        if (chance(d, 0.3)) t.v.edits.allowed = NULL;
        if (chance(d, 0.3)) t.v.edits.edit_first = NULL;
    }
    deal_sequences(d, &t);
    deal_rows(d, &t);
    (void)snprintf(t.what, sizeof t.what, "SPC_DEALT=%d, vocabulary %d", (int)seed, (int)vocab);
    deal_drafts(d, &t);
    t.v.drafter = t.drafter.rows;
    t.v.verifier = t.verifier.rows;
    if (chance(d, 0.3)) t.v.live = b->live;
    if (chance(d, 0.5)) t.v.stats = NULL;
    if (chance(d, 0.5)) t.v.detail = NULL;
    if (chance(d, 0.3)) t.v.bonus = NULL;
    if (chance(d, 0.3)) t.v.salt = NULL;
    if (chance(d, 0.15)) {
        t.v.drafter.logits.data = NULL;
        t.v.stats = NULL;
    }
    return t;
}

static void deal_free(deal *t)
{
    unshare(t->drafter.memory);
    unshare(t->verifier.memory);
    if (t->drafter.subset) unshare(t->drafter.subset);
    if (t->verifier.subset) unshare(t->verifier.subset);
    batch_free(&t->b);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void each_deal(void (*check)(deal *t, uint64_t seed))
{
    for (uint64_t seed = deals_first(); seed <= deals_last(DEALS); seed++) {
        deal t = deal_of(seed);

        check(&t, seed);
        deal_free(&t);
    }
}

static void expect_whole(deal *t, uint64_t seed)
{
    expect_same_again(&t->b, &t->v, 1 + (int)(seed % 2), t->what);
}

Test(cuda_dealt, a_batch_is_decided_as_on_the_cpu, .timeout = 3000)
{
    each_deal(expect_whole);
}

/* What draws write, in the columns that a stride makes of it. */
enum { OUT_STRIDE = 3 };

typedef struct {
    int32_t token[OUT_STRIDE * SEQUENCES];
    spc_row_stats stats[OUT_STRIDE * SEQUENCES];
    float log_probability[OUT_STRIDE * SEQUENCES];
} columns;

static drawn packed(const columns *c, int32_t stride)
{
    drawn out;

    for (int32_t s = 0; s < SEQUENCES; s++) {
        out.token[s] = c->token[s * stride];
        out.stats[s] = c->stats[s * stride];
        out.log_probability[s] = c->log_probability[s * stride];
    }
    return out;
}

static void run_draws(const spc_draw_batch *draw, columns *out, const drawn *want, const char *what)
{
    spc_error err;
    drawn got;

    memset(out, 0x5a, sizeof *out);
    cr_assert_eq(spc_cuda_draw_batch(draw, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    ok(cudaDeviceSynchronize(), "draw");
    got = packed(out, draw->out_stride > 0 ? draw->out_stride : 1);
    expect_drawn(&got, want, what);
}

/* A row of every sequence, of the drafter as a draft or of the verifier as plain decoding does. */
static void expect_draws(deal *t, uint64_t seed)
{
    columns *out = shared(sizeof *out);
    spc_draw_batch draw = draw_batch(&t->b);
    const int32_t stride = 1 + (int32_t)(seed % OUT_STRIDE);
    drawn want;

    draw.plain = seed % 2 == 0;
    draw.logits = draw.plain ? t->verifier.rows : t->drafter.rows;
    draw.edits = t->v.edits;
    draw.live = t->v.live;
    draw.salt = t->v.salt;
    draw.token = out->token;
    draw.stats = out->stats;
    draw.log_probability = seed % 5 == 0 ? NULL : out->log_probability;
    draw.out_stride = stride > 1 || seed % 2 ? stride : 0;
    memset(out, 0x5a, sizeof *out);
    cr_assert_eq(spc_cpu_draw_batch(&draw, NULL, NULL), SPC_OK, "%s", t->what);
    want = packed(out, stride);
    run_draws(&draw, out, &want, t->what);
    want = packed(out, stride);
    draw.workspace_bytes = spc_workspace_bytes(SEQUENCES, 0, draw.vocab);
    draw.workspace = workspace_of(draw.workspace_bytes);
    for (uint64_t again = 0; again <= seed % 2; again++) {
        run_draws(&draw, out, &want, t->what);
    }
    unshare(draw.workspace);
    unshare(out);
}

Test(cuda_dealt, a_batch_of_draws_is_that_of_the_cpu, .timeout = 3000)
{
    each_deal(expect_draws);
}

/* Rules that solve an equation take hundreds of steps: few of their batches. */
static bool takes_long(const deal *t)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        const spc_rule *rule = &t->b.params[s].rule;

        if (rule->path == SPC_RULE_MENTORED || (rule->path == SPC_RULE_LOSSY && rule->solve)) {
            return true;
        }
    }
    return false;
}

static void expect_slices(deal *t, uint64_t seed)
{
    static results want;

    if (takes_long(t) && seed % 4 > 0) return;
    if (t->verifier.subset) return; /* such rows are not cut */
    memset(t->b.out, MEMORY_BYTE, sizeof *t->b.out);
    cr_assert_eq(spc_cuda_verify_batch(&t->v, NULL, NULL), SPC_OK);
    ok(cudaDeviceSynchronize(), "whole rows");
    want = *t->b.out;
    verify_sliced(&device_shards, &t->v, &want, 1 + (int32_t)(seed % 5),
                  seed % 3 == 0 || t->drafter.subset, t->what);
}

Test(cuda_dealt, slices_are_decided_as_the_whole, .timeout = 3000)
{
    each_deal(expect_slices);
}
