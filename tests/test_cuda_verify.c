/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_verify.c - the kernels of cuda/verify.cu against host/verify.c, which defines them:
 * every verdict, token and statistic to the bit.
 *
 * Built twice: against the device, and against tests/fibers, which runs the same kernels without
 * one. */
#include "cuda/launch.h"

#include "toyround.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DRAFTS = 4, ROWS = DRAFTS + 1, SEQUENCES = 6 };

static void ok(cudaError_t code, const char *what)
{
    cr_assert_eq(code, cudaSuccess, "%s: %s", what, cudaGetErrorString(code));
}

/* Memory that both sides can read. */
static void *shared(size_t bytes)
{
    void *memory = NULL;

    ok(cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal), "allocate");
    memset(memory, 0xa5, bytes);
    return memory;
}

/* A batch with rows of its own for every sequence. */
typedef struct {
    int32_t vocab, stride, sequences;
    spc_row_params *params; /* [sequences] */
    float *drafter;         /* [sequences, ROWS, stride] */
    float *verifier;
    int64_t *row; /* [sequences] */
    int64_t *position;
    uint32_t *salt;
    int32_t *drafts;
    int32_t *bonus;
    int32_t *draft; /* [sequences, DRAFTS] */
    spc_row_stats *stats;
    spc_verdict *verdict; /* [sequences] */
    int32_t *token;       /* [sequences] of spc_cuda_draw */
    spc_row_stats *drawn;
} batch;

static batch batch_of(int32_t vocab, int32_t stride, int32_t sequences)
{
    size_t n = (size_t)sequences, rows = n * ROWS * (size_t)stride;
    batch b = {vocab,
               stride,
               sequences,
               shared(n * sizeof *b.params),
               shared(rows * sizeof *b.drafter),
               shared(rows * sizeof *b.verifier),
               shared(n * sizeof *b.row),
               shared(n * sizeof *b.position),
               shared(n * sizeof *b.salt),
               shared(n * sizeof *b.drafts),
               shared(n * sizeof *b.bonus),
               shared(n * DRAFTS * sizeof *b.draft),
               shared(n * DRAFTS * sizeof *b.stats),
               shared(n * sizeof *b.verdict),
               shared(n * sizeof *b.token),
               shared(n * sizeof *b.drawn)};

    for (size_t i = 0; i < rows; i++)
        b.drafter[i] = b.verifier[i] = NAN; /* padding is never read */
    return b;
}

static void batch_free(batch *b)
{
    void *all[] = {b->params, b->drafter, b->verifier, b->row,     b->position, b->salt, b->drafts,
                   b->bonus,  b->draft,   b->stats,    b->verdict, b->token,    b->drawn};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) (void)cudaFree(all[i]);
}

/* Rows, and drafts drawn from them on the CPU. */
static void fill(batch *b, dice *d, const spc_row_params *params, double spread)
{
    for (int32_t s = 0; s < b->sequences; s++) {
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
            if (r >= DRAFTS) continue;
            b->draft[s * DRAFTS + r] =
                spc_draft_sample(b->drafter + at, b->vocab, p, b->position[s] + r, b->salt[s],
                                 &b->stats[s * DRAFTS + r]);
        }
    }
}

static void verify_on_cpu(const batch *b, int32_t s, bool with_stats, spc_verdict *out)
{
    size_t first = (size_t)b->row[s] * (size_t)b->stride;
    spc_verify_args a = {.params = &b->params[s],
                         .drafter = b->drafter + first,
                         .verifier = b->verifier + first,
                         .drafter_stride = b->stride,
                         .verifier_stride = b->stride,
                         .vocab = b->vocab,
                         .drafts = b->drafts[s],
                         .draft = b->draft + s * DRAFTS,
                         .stats = with_stats ? b->stats + s * DRAFTS : NULL,
                         .position = b->position[s],
                         .salt = b->salt[s],
                         .bonus = b->bonus[s] != 0};

    spc_verify(&a, out);
}

static spc_round_args round_args(const batch *b, bool with_stats)
{
    spc_round_args a = {.params = b->params,
                        .drafter = {b->drafter, SPC_LOGITS_F32},
                        .verifier = {b->verifier, SPC_LOGITS_F32},
                        .drafter_stride = b->stride,
                        .verifier_stride = b->stride,
                        .drafter_row = b->row,
                        .verifier_row = b->row,
                        .drafts = b->drafts,
                        .draft = b->draft,
                        .stats = with_stats ? b->stats : NULL,
                        .position = b->position,
                        .salt = b->salt,
                        .bonus = b->bonus,
                        .draft_stride = DRAFTS,
                        .vocab = b->vocab,
                        .sequences = b->sequences,
                        .verdict = b->verdict};

    return a;
}

static void expect_verdict(const spc_verdict *got, const spc_verdict *want, const char *what)
{
    cr_assert_eq(got->count, want->count, "%s: count %d, want %d", what, got->count, want->count);
    for (int32_t i = 0; i < SPC_GAMMA_MAX + 2; i++) {
        cr_assert_eq(got->token[i], want->token[i], "%s: token %d is %d, want %d", what, i,
                     got->token[i], want->token[i]);
    }
    cr_assert(memcmp(got, want, sizeof *got) == 0,
              "%s: accepted %d verified %d drawn %d deferred %x status %x, want %d %d %d %x %x",
              what, got->accepted, got->verified, got->drawn, got->deferred, got->status,
              want->accepted, want->verified, want->drawn, want->deferred, want->status);
}

static void expect_same(batch *b, bool with_stats, const char *what)
{
    spc_round_args a = round_args(b, with_stats);

    ok(spc_cuda_verify(&a, NULL), "launch");
    ok(cudaDeviceSynchronize(), "run");
    for (int32_t s = 0; s < b->sequences; s++) {
        spc_verdict want;
        char name[160];

        verify_on_cpu(b, s, with_stats, &want);
        (void)snprintf(name, sizeof name, "%s, sequence %d of %d drafts", what, (int)s,
                       (int)b->drafts[s]);
        expect_verdict(&b->verdict[s], &want, name);
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
             {"T 1 min-p 0.05 step", 1, 0, 1, 0.05f, SPC_VERIFY_TOKEN, SPC_BONUS_STEP}};
enum { MODES = sizeof modes / sizeof *modes };

static spc_row_params params_in_mode(const char *rule, int m)
{
    spc_row_params p = params_of(rule, modes[m].temperature);

    p.sampling.top_k = modes[m].top_k;
    p.sampling.top_p = modes[m].top_p;
    p.sampling.min_p = modes[m].min_p;
    p.verify = modes[m].verify;
    p.bonus = modes[m].bonus;
    return p;
}

Test(cuda_verify, every_rule_in_every_mode)
{
    dice d = {3};
    batch b = batch_of(300, 304, SEQUENCES);

    for (int r = 0; r < TOY_RULES; r++) {
        for (int m = 0; m < MODES; m++) {
            spc_row_params p = params_in_mode(toy_rules[r], m);
            char what[128];

            (void)snprintf(what, sizeof what, "%s, %s", toy_rules[r], modes[m].name);
            fill(&b, &d, &p, 3.0);
            expect_same(&b, true, what);
            expect_same(&b, false, what);
        }
    }
    batch_free(&b);
}

/* It takes one kind of bonus and of verification only. */
Test(cuda_verify, cactus)
{
    dice d = {4};
    batch b = batch_of(300, 304, SEQUENCES);

    for (int m = 0; m < MODES; m++) {
        spc_row_params p = params_in_mode("cactus:delta=0.2", m);

        p.verify = SPC_VERIFY_TOKEN;
        p.bonus = SPC_BONUS_STEP;
        fill(&b, &d, &p, 3.0);
        expect_same(&b, true, modes[m].name);
        expect_same(&b, false, modes[m].name);
    }
    batch_free(&b);
}

/* Widths around lanes and tiles. */
Test(cuda_verify, vocabularies)
{
    static const int32_t vocabs[] = {1, 2, 7, 255, 256, 257, 4095, 4096, 4097, 9000};
    dice d = {5};

    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
        batch b = batch_of(vocabs[i], vocabs[i] + 3, SEQUENCES);
        spc_row_params p = params_in_mode("token-v2:alpha=0.2", i % 2 ? 3 : 0);
        char what[64];

        (void)snprintf(what, sizeof what, "vocabulary of %d", (int)vocabs[i]);
        fill(&b, &d, &p, 2.0);
        expect_same(&b, true, what);
        batch_free(&b);
    }
}

/* Rows that hold what no row should. */
Test(cuda_verify, bad_rows_and_drafts)
{
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    dice d = {7};
    batch b = batch_of(300, 300, SEQUENCES);

    for (int32_t where = 0; where < ROWS * 2; where++) {
        spc_row_params p = params_in_mode("opt:alpha=0.2", where % 3);
        char what[64];

        fill(&b, &d, &p, 2.0);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            float *rows = where % 2 ? b.drafter : b.verifier;
            float *row = rows + ((size_t)s * ROWS + (size_t)where / 2) * 300;

            for (int32_t v = 0; v < (s % 3 == 2 ? 300 : 1); v++) row[v] = poison[s % 3];
            if (s == 3) b.draft[s * DRAFTS] = where % 2 ? -1 : 300;
        }
        (void)snprintf(what, sizeof what, "poison in place %d", (int)where);
        expect_same(&b, false, what);
    }
    batch_free(&b);
}

static void expect_draws(batch *b, int32_t plain, const char *what)
{
    spc_draw_args a = {.params = b->params,
                       .logits = {b->drafter, SPC_LOGITS_F32},
                       .stride = b->stride,
                       .row = b->row,
                       .position = b->position,
                       .salt = b->salt,
                       .plain = plain,
                       .vocab = b->vocab,
                       .sequences = b->sequences,
                       .token = b->token,
                       .stats = b->drawn};

    ok(spc_cuda_draw(&a, NULL), "launch");
    ok(cudaDeviceSynchronize(), "run");
    for (int32_t s = 0; s < b->sequences; s++) {
        const float *row = b->drafter + (size_t)b->row[s] * (size_t)b->stride;
        spc_row_stats stats;
        int32_t want = plain
                           ? spc_plain_sample(row, b->vocab, &b->params[s], b->position[s], &stats)
                           : spc_draft_sample(row, b->vocab, &b->params[s], b->position[s],
                                              b->salt[s], &stats);

        cr_assert_eq(b->token[s], want, "%s: token %d, want %d", what, b->token[s], want);
        cr_assert(memcmp(&b->drawn[s], &stats, sizeof stats) == 0, "%s: statistics differ", what);
    }
}

Test(cuda_verify, draws)
{
    static const char *const rules[] = {"strict", "chow-log:alpha=0.9", "diff:alpha=0.1",
                                        "opt-log:alpha=0.1,gate=processed"};
    dice d = {11};
    batch b = batch_of(5000, 5001, SEQUENCES);

    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        for (int m = 0; m < MODES; m++) {
            spc_row_params p = params_in_mode(rules[r], m);

            fill(&b, &d, &p, 3.0);
            if (p.verify == SPC_VERIFY_TOKEN) expect_draws(&b, 1, rules[r]);
            expect_draws(&b, 0, rules[r]);
        }
    }
    batch_free(&b);
}

/* Rows of half precision give what their float values give. */
Test(cuda_verify, half_precision_rows)
{
    dice d = {13};
    batch b = batch_of(500, 500, SEQUENCES);
    size_t entries = (size_t)SEQUENCES * ROWS * 500;
    uint16_t *drafter = shared(entries * sizeof *drafter);
    uint16_t *verifier = shared(entries * sizeof *verifier);

    for (int type = SPC_LOGITS_BF16; type <= SPC_LOGITS_F16; type++) {
        spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
        spc_logits q = {drafter, type}, v = {verifier, type};

        fill(&b, &d, &p, 2.0);
        for (size_t i = 0; i < entries; i++) { /* bits of ordinary numbers, by their own reader */
            drafter[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400));
            verifier[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400));
            b.drafter[i] = spc_logit(q, (int64_t)i);
            b.verifier[i] = spc_logit(v, (int64_t)i);
        }

        spc_round_args a = round_args(&b, false);

        a.drafter = q;
        a.verifier = v;
        ok(spc_cuda_verify(&a, NULL), "launch");
        ok(cudaDeviceSynchronize(), "run");
        for (int32_t s = 0; s < SEQUENCES; s++) {
            spc_verdict want;

            verify_on_cpu(&b, s, false, &want);
            expect_verdict(&b.verdict[s], &want, type == SPC_LOGITS_BF16 ? "bf16" : "f16");
        }
    }
    (void)cudaFree(drafter);
    (void)cudaFree(verifier);
    batch_free(&b);
}

Test(cuda_verify, launchers_refuse)
{
    batch b = batch_of(8, 8, 1);
    spc_round_args a = round_args(&b, false), bad[6];

    for (int i = 0; i < 6; i++) bad[i] = a;
    bad[0].sequences = 0;
    bad[1].vocab = 0;
    bad[2].verifier_stride = 7;
    bad[3].verifier.data = NULL;
    bad[4].verdict = NULL;
    bad[5].drafter.type = 9;
    for (int i = 0; i < 6; i++) {
        cr_assert_eq(spc_cuda_verify(&bad[i], NULL), cudaErrorInvalidValue, "case %d", i);
    }
    batch_free(&b);
}
