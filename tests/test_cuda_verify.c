/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_verify.c - the device's batch calls against the CPU's, which define them: every
 * verdict, token and statistic to the bit.
 *
 * Built twice: against the device, and against tests/fibers, which runs the same kernels without
 * one.  A device has an exp2 of its own unless the build says SPC_CUDA_EXACT: then its two forms
 * are compared with each other to the bit, and with the CPU but for a few close decisions. */
#include "cuda/launch.h"

#define MEMORY_BYTE 0xa5 /* toybatch.h */
#include "deals.h"
#include "device_memory.h"
#include "toydevice.h"

/* With the drafter's statistics given, or taken here. */
static void expect_same_in(batch *b, bool given, const char *what)
{
    spc_verify_batch v = verify_batch(b);

    if (!given) {
        v.stats = NULL;
        v.detail = NULL;
    }
    expect_same(b, &v, what);
}

/* In forms that take their time, each rule and each mode in a third of their pairs: what is run and
 * who touches what depends on the one and on the other. */
static bool left_out(int rule, int mode)
{
    return SPC_TAKES_TIME && (rule + mode) % 3 != 0;
}

Test(cuda_verify, every_rule_in_every_mode)
{
    dice d = {3};
    batch b = batch_of(300, 304);

    for (int r = 0; r < TOY_RULES + 1; r++) {
        const char *rule = r < TOY_RULES ? toy_rules[r] : "cactus:delta=0.2";

        for (int m = 0; m < MODES; m++) {
            spc_row_params p = params_in_mode(rule, m);
            char what[128];

            if (left_out(r, m)) continue;
            (void)snprintf(what, sizeof what, "%s, %s", rule, modes[m].name);
            batch_fill(&b, &d, &p, 3.0, NULL);
            expect_same_in(&b, (r + m) % 2 == 0, what);
        }
    }
    batch_free(&b);
}

/* Every sequence with a rule and a way to sample of its own. */
Test(cuda_verify, mixed_batch)
{
    dice d = {4};
    batch b = batch_of(300, 300);

    for (int round = 0; round < 8; round++) {
        spc_row_params p = params_in_mode("strict", 0);
        char what[64];

        batch_fill(&b, &d, &p, 3.0, NULL);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            b.params[s] =
                params_in_mode(toy_rules[(round * SEQUENCES + s) % TOY_RULES], (round + s) % MODES);
        }
        *b.live = round % SEQUENCES + 1;
        (void)snprintf(what, sizeof what, "mixed %d", round);

        spc_verify_batch v = verify_batch(&b);

        v.live = b.live;
        v.stats = NULL; /* another rule, other statistics */
        expect_same_again(&b, &v, 3, what);
    }
    batch_free(&b);
}

Test(cuda_verify, masks_and_edits)
{
    dice d = {6};
    batch b = batch_of(5000, 5002);

    for (int r = 0; r < TOY_RULES; r += 3) {
        spc_row_params p = params_in_mode(toy_rules[r], r % MODES);
        spc_edits edits;
        spc_verify_batch v = verify_batch(&b);

        if (left_out(r / 3, 0)) continue;
        batch_edits(&b, &d);
        edits = edits_of(&b);
        batch_fill(&b, &d, &p, 3.0, &edits);
        v.edits = edits;
        expect_same(&b, &v, toy_rules[r]);
        v.edits.allowed = NULL;
        expect_same(&b, &v, "edits alone");
        b.edit_first[2 * ROWS + 1] = -5;
        expect_same(&b, &v, "edits that there cannot be");
        cr_assert(b.out->status[2] & (SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER));
        v.edits = edits;
        v.edits.edit_first = NULL;
        v.drafter.width = 4100;
        expect_same(&b, &v, "a narrow drafter under a mask");
    }
    batch_free(&b);
}

/* Models that know some of the tokens, in every type; of some rows a number is added to logits. */
Test(cuda_verify, models_that_know_some_tokens)
{
    dice d = {9};
    batch b = batch_of(8500, 8503);
    const size_t entries = (size_t)SEQUENCES * ROWS * 8503;
    uint16_t *narrow = shared(entries * sizeof *narrow);

    for (int n = 0; 2 * n + n % 2 < TOY_RULES; n++) {
        const int type = n % 3, r = 2 * n + n % 2;
        spc_row_params p = params_in_mode(toy_rules[r], n % MODES);
        spc_verify_batch v = verify_batch(&b);
        spc_subset *drafter, *verifier;

        if (left_out(n, 0)) continue;
        batch_fill(&b, &d, &p, 3.0, NULL);
        for (size_t i = 0; i < entries && type != SPC_LOGITS_F32; i++) {
            narrow[i] = type == SPC_LOGITS_BF16 ? spc_float_bf16(b.drafter[i])
                                                : spc_float_half(b.drafter[i]);
        }
        if (type != SPC_LOGITS_F32) v.drafter.logits = (spc_logits){narrow, type};
        drafter = subset_of(&d, b.vocab, 0.3, 8499, &v.drafter);
        verifier = subset_of(&d, b.vocab, 0.9, 5, &v.verifier);
        if (n % 2) {
            v.verifier.subset = NULL;
            v.verifier.width = b.vocab;
        }
        v.stats = NULL; /* those of other rows */
        if (n % 4 == 3) {
            batch_edits(&b, &d);
            v.edits = edits_of(&b);
        }
        expect_same(&b, &v, toy_rules[r]);
        unshare(drafter);
        unshare(verifier);
    }
    unshare(narrow);
    batch_free(&b);
}

/* Both models' rows lie in one memory, of which the drafter knows less, or takes it for other
 * tokens: its rows are not those of the verifier, though they begin there. */
Test(cuda_verify, rows_that_begin_at_one_place)
{
    dice d = {10};
    batch b = batch_of(5000, 5002);

    for (int n = 0; n < 6; n++) {
        spc_row_params p = params_in_mode(n < 3 ? "strict" : "token-v2:alpha=0.2", 0);
        spc_verify_batch v = verify_batch(&b);
        spc_subset *subset = NULL;

        batch_fill(&b, &d, &p, 3.0, NULL);
        v.stats = NULL;
        v.drafter.logits = v.verifier.logits;
        v.drafter.width = n < 3 ? 4100 : 4000; /* of the second tile some, none */
        if (n % 3) subset = subset_of(&d, b.vocab, 0.9, 7, &v.drafter);
        if (n % 3) v.verifier.width = v.drafter.width;
        if (n % 3 == 2) v.drafter.width -= 100;
        expect_same(&b, &v, n % 3 ? "other tokens" : "fewer tokens");
        if (subset) unshare(subset);
    }
    batch_free(&b);
}

Test(cuda_verify, drafts_without_a_distribution)
{
    dice d = {8};
    batch b = batch_of(300, 300);

    for (int r = 0; r < TOY_RULES; r++) {
        for (int m = 0; m < MODES; m++) {
            spc_row_params p = params_in_mode(toy_rules[r], m);
            spc_verify_batch v = verify_batch(&b);
            char what[128];

            if (left_out(r, m)) continue;
            (void)snprintf(what, sizeof what, "%s, %s, named", toy_rules[r], modes[m].name);
            batch_fill(&b, &d, &p, 3.0, NULL);
            b.draft[5 * DRAFTS] = 300; /* nothing that could be drafted */
            b.draft[3 * DRAFTS + 1] = -1;
            v.drafter.logits.data = NULL;
            expect_same(&b, &v, what);
        }
    }
    batch_free(&b);
}

/* Widths around lanes and tiles. */
Test(cuda_verify, vocabularies)
{
    static const int32_t vocabs[] = {1, 2, 7, 255, 256, 257, 4095, 4096, 4097, 9000};
    dice d = {5};

    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
        batch b = batch_of(vocabs[i], vocabs[i] + 3);
        spc_row_params p = params_in_mode("token-v2:alpha=0.2", i % 2 ? 3 : 0);
        char what[64];

        (void)snprintf(what, sizeof what, "vocabulary of %d", (int)vocabs[i]);
        batch_fill(&b, &d, &p, 2.0, NULL);
        expect_same_in(&b, true, what);
        expect_same_in(&b, false, what);
        batch_free(&b);
    }
}

/* Rows that hold what no row should, drafts and parameters that cannot be. */
Test(cuda_verify, bad_rows_and_drafts)
{
    static const float poison[] = {NAN, INFINITY, -INFINITY};
    dice d = {7};
    batch b = batch_of(300, 300);
    spc_verify_batch v = verify_batch(&b);

    v.stats = NULL;
    for (int32_t where = 0; where < ROWS * 2; where++) {
        spc_row_params p = params_in_mode("opt:alpha=0.2", where % 3);
        char what[64];

        batch_fill(&b, &d, &p, 2.0, NULL);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            float *rows = where % 2 ? b.drafter : b.verifier;
            float *row = rows + ((size_t)s * ROWS + (size_t)where / 2) * 300;

            for (int32_t k = 0; k < (s % 3 == 2 ? 300 : 1); k++) row[k] = poison[s % 3];
            if (s == 3) b.draft[s * DRAFTS] = where % 2 ? -1 : 300;
        }
        (void)spc_rule_parse(where % 2 ? "token-chow:alpha=0.2" : "drafter-only", &b.params[5].rule,
                             NULL);
        if (where % 8 == 0) b.params[4].sampling.temperature = NAN;
        if (where % 8 == 1) b.drafts[4] = DRAFTS + 1;
        if (where % 8 == 2) b.params[4].rule.path = SPC_RULE_COUNT;
        if (where % 8 == 3) b.drafts[4] = -1;
        if (where % 8 == 4) b.position[4] = -1;
        if (where % 8 == 5) b.position[4] = INT64_MAX;
        if (where % 8 == 6) b.row[4] = -1;
        if (where % 8 == 7) b.row[4] = INT64_MIN;
        (void)snprintf(what, sizeof what, "poison in place %d", (int)where);
        expect_same(&b, &v, what);
        cr_assert_eq(b.out->status[4], (uint32_t)SPC_STATUS_BAD_PARAM);
        cr_assert_eq(b.out->count[4], 0);
        cr_assert_eq(b.out->status[5], (uint32_t)SPC_STATUS_BAD_PARAM);
        cr_assert_eq(b.out->count[5], 0);
    }
    batch_free(&b);
}

/* A block's salt is found where it is not given; a sequence without drafts needs its drafter. */
Test(cuda_verify, blocks_without_salt_and_rounds_without_a_drafter)
{
    dice d = {9};
    batch b = batch_of(300, 300);
    spc_row_params p = params_in_mode("token-v3:alpha=0.5", 0);
    spc_verify_batch v = verify_batch(&b);
    spc_draw_batch draw = draw_batch(&b);
    int32_t *token = shared(SEQUENCES * sizeof *token);

    p.verify = SPC_VERIFY_BLOCK;
    batch_fill(&b, &d, &p, 2.0, NULL);
    expect_same(&b, &v, "with salt");
    results *want = malloc(sizeof *want);
    *want = *b.out;
    v.salt = NULL;
    expect_same(&b, &v, "without");
    expect_as_on_cpu(b.out, want, "without, as with");
    free(want);

    draw.salt = NULL;
    draw.token = token;
    cr_assert_eq(spc_cuda_draw_batch(&draw, NULL, NULL), SPC_OK);
    ok(cudaDeviceSynchronize(), "draw");
    for (int32_t s = 0; s < SEQUENCES; s++) cr_assert_eq(token[s], -1);

    v.drafter.logits.data = NULL;
    expect_same(&b, &v, "no drafter");
    cr_assert_eq(b.out->status[0], (uint32_t)SPC_STATUS_BAD_PARAM, "no draft, and no q");
    unshare(token);
    batch_free(&b);
}

/* The drafts' statistics as the device takes them.  A rule compares them with the verifier's, and
 * on equal rows both are the same to the bit only if the same machine took them. */
static void take_stats(batch *b)
{
    spc_draw_batch draw = draw_batch(b);
    spc_row_stats *stats = shared(SEQUENCES * sizeof *stats);
    int32_t *token = shared(SEQUENCES * sizeof *token);
    int64_t *row = shared(SEQUENCES * sizeof *row);
    spc_error err;

    draw.row = row;
    draw.token = token;
    draw.stats = stats;
    for (int32_t r = 0; r < DRAFTS; r++) {
        for (int32_t s = 0; s < SEQUENCES; s++) row[s] = b->row[s] + r;
        cr_assert_eq(spc_cuda_draw_batch(&draw, NULL, &err), SPC_OK, "%s", err.message);
        ok(cudaDeviceSynchronize(), "draw");
        for (int32_t s = 0; s < SEQUENCES; s++) b->stats[s * DRAFTS + r] = stats[s];
    }
    unshare(stats);
    unshare(token);
    unshare(row);
}

/* Has the device room for so many blocks of a launch at a time, as where other kernels hold the
 * rest?  0: for all. */
static void has_room_for(int blocks)
{
#ifdef SPC_TESTS_FIBER_RUNTIME_H
    fiber_gpu.room = blocks;
#else
    (void)blocks;
#endif
}

/* The queue alone against the CPU: what takes the reference long. */
static void expect_queued(batch *b, const spc_verify_batch *v, const char *what)
{
    static results want;
    spc_verify_batch queued = *v;
    spc_error err;

    memset(b->out, 0x5a, sizeof *b->out);
    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_OK, "%s: %s", what, err.message);
    want = *b->out;
    if (v->stats) take_stats(b);
    queued.workspace_bytes = spc_workspace_bytes(SEQUENCES, DRAFTS, v->vocab);
    queued.workspace = workspace_of(queued.workspace_bytes);
    run(b, &queued, what);
    expect_as_on_cpu(b->out, &want, what);
    expect_idle(queued.workspace, what);
    unshare(queued.workspace);
}

/* Ways to cut a row: what each stage of a search meets. */
static const spc_sampling cuts[] = {
    {0.7f, 0, 0.9f, 0},        {1, 0, 0x1.fffffep-1f, 0}, {1, 7, 1, 0},
    {0.8f, 3000, 0.5f, 0.01f}, {2, 8000, 0.999f, 0},      {1, 0, 1e-6f, 0},
    {1.5f, 1, 0.3f, 0.2f},
};
enum { CUTS = sizeof cuts / sizeof *cuts };

/* Rows of three tiles, every sequence with a cut, a rule and a verification of its own; also by
 * blocks of which one, two or three run at a time: they may wait for no other. */
Test(cuda_verify, rows_of_several_tiles_are_cut)
{
    static const char *const rules[] = {"strict",
                                        "opt:alpha=0.1",
                                        "token-v3:alpha=0.5",
                                        "opt-log:alpha=0.1,gate=processed",
                                        "truncate:top-p=0.8",
                                        "lossy:alpha=0.3",
                                        "fuzzy:alpha=0.05"};
    enum { RULES = sizeof rules / sizeof *rules, VOCAB = 8500 };
    dice d = {21};
    batch b = batch_of(VOCAB, VOCAB);
    size_t entries = (size_t)SEQUENCES * ROWS * VOCAB;
    uint16_t *narrow[2] = {shared(entries * sizeof **narrow), shared(entries * sizeof **narrow)};

    for (int round = 0; round < 2 * CUTS; round++) {
        spc_row_params p = params_in_mode("strict", 0);
        spc_verify_batch v = verify_batch(&b);
        char what[64];

        batch_fill(&b, &d, &p, round % 3 == 0 ? 0.3 : 4.0, NULL);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            b.params[s] = params_in_mode(rules[(round + s) % RULES], 0);
            b.params[s].sampling = cuts[(round / 2 + s) % CUTS];
            if (s % 2) b.params[s].verify = SPC_VERIFY_BLOCK;
            b.bonus[s] = s % 3 != 1;
        }
        v.stats = NULL;
        if (round % 2) {
            for (size_t i = 0; i < entries; i++) { /* cut off, as bf16 has it */
                narrow[0][i] = (uint16_t)(spc_float_bits(b.drafter[i]) >> 16);
                narrow[1][i] = (uint16_t)(spc_float_bits(b.verifier[i]) >> 16);
            }
            v.drafter.logits = (spc_logits){narrow[0], SPC_LOGITS_BF16};
            v.verifier.logits = (spc_logits){narrow[1], SPC_LOGITS_BF16};
        }
        if (round > 3) v.detail = NULL;
        (void)snprintf(what, sizeof what, "cut %d", round);
        has_room_for(round % 4);
        expect_queued(&b, &v, what);
    }
    has_room_for(0);
    unshare(narrow[0]);
    unshare(narrow[1]);
    batch_free(&b);
}

/* Of few rows several blocks bring the tiles of one: whoever brings the last finishes it. */
Test(cuda_verify, rows_of_several_tiles_are_finished_by_any_block)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "opt:alpha=0.1"};
    enum { VOCAB = 8500 };
    dice d = {22};
    batch b = batch_of(VOCAB, VOCAB);

    for (int round = 0; round < 6; round++) {
        spc_row_params p = params_in_mode(rules[round % 3], 0);
        spc_verify_batch v = verify_batch(&b);
        char what[64];

        p.sampling = cuts[round % CUTS];
        batch_fill(&b, &d, &p, 4.0, NULL);
        v.sequences = 1 + round / 3;
        for (int32_t s = 0; s < v.sequences; s++) b.drafts[s] = DRAFTS - s;
        v.stats = NULL;
        v.detail = NULL;
        (void)snprintf(what, sizeof what, "few rows, %d", round);
        expect_queued(&b, &v, what);
    }
    batch_free(&b);
}

/* -0 has the key of 0, so no logit has the key below it.  Where the first guess for a cut is 0 and
 * lies above the cut, the search goes on below: what is 0 has been counted by then. */
Test(cuda_verify, zeros_are_counted_once)
{
    enum { VOCAB = 600, ZEROS = 60, KEPT = ZEROS + 40 };
    dice d = {24};
    batch b = batch_of(VOCAB, VOCAB);
    uint16_t *narrow = shared((size_t)SEQUENCES * ROWS * VOCAB * sizeof *narrow);

    for (int round = 0; round < 20; round++) {
        spc_row_params p = params_in_mode("strict", 0);
        spc_verify_batch v = verify_batch(&b);

        p.seed = (uint64_t)round;
        p.sampling.temperature = 100.0f;
        p.sampling.top_k = KEPT;
        batch_fill(&b, &d, &p, 1.0, NULL);
        for (int32_t i = 0; i < SEQUENCES * ROWS * VOCAB; i++) {
            int32_t token = i % VOCAB;
            float logit = token == 0 ? SPC_RANKED_FLOOR : token <= ZEROS ? 0.0f : (float)-token;

            b.drafter[i] = b.verifier[i] = logit;
            narrow[i] = (uint16_t)(spc_float_bits(logit) >> 16);
        }
        v.stats = NULL;
        expect_same(&b, &v, "float32");
        v.drafter.logits = v.verifier.logits = (spc_logits){narrow, SPC_LOGITS_BF16};
        expect_same(&b, &v, "bf16");
    }
    unshare(narrow);
    batch_free(&b);
}

/* What a row may have in one of two tiles that are summed together, and not in the other. */
static void trouble_tile(uint16_t *row, int32_t tile, int kind)
{
    uint16_t *at = row + tile * SPC_TILE;

    if (kind == 1) at[4095] = 0x7fc0; /* NaN ... */
    if (kind == 2) at[256] = 0x7f80;  /* ... inf ... */
    for (int32_t i = 0; i < SPC_TILE; i++) {
        if (kind == 3) at[i] = 0xff80;              /* ... nothing ... */
        if (kind == 4) at[i] &= 0xc000u;            /* ... -2, 0, 2 and -0, again and again ... */
        if (kind == 5) at[i] = i % 3 ? 0x8000u : 0; /* ... 0 alone, of either sign */
    }
}

/* Whole tiles of bf16 come in pairs where one sum is asked for: of five, and some entries more. */
Test(cuda_verify, rows_of_several_tiles_of_bf16_are_summed_in_pairs)
{
    static const char *const rules[] = {"strict", "lossy:alpha=0.3", "diff:alpha=0.1"};
    enum { RULES = sizeof rules / sizeof *rules, VOCAB = 5 * SPC_TILE + 100, STRIDE = 20584 };
    dice d = {23};
    batch b = batch_of(VOCAB, STRIDE);
    size_t entries = (size_t)SEQUENCES * ROWS * STRIDE;
    uint16_t *narrow[2] = {shared(entries * sizeof **narrow), shared(entries * sizeof **narrow)};

    for (int round = 0; round < 12; round++) {
        static const float temperatures[] = {0.7f, 1, 0, 1.6f};
        spc_row_params p = params_in_mode(rules[round % RULES], 0);
        spc_verify_batch v = verify_batch(&b);
        char what[64];

        p.sampling.temperature = temperatures[round % 4];
        batch_fill(&b, &d, &p, 3.0, NULL);
        for (size_t i = 0; i < entries; i++) {
            narrow[0][i] = (uint16_t)(spc_float_bits(b.drafter[i]) >> 16);
            narrow[1][i] = (uint16_t)(spc_float_bits(b.verifier[i]) >> 16);
        }
        for (int32_t row = 0; row < SEQUENCES * ROWS; row++) {
            const int kind = dice_below(&d, 3) ? 3 + dice_below(&d, 3) : dice_below(&d, 6);

            trouble_tile(narrow[row % 2] + (size_t)row * STRIDE, dice_below(&d, 5), kind);
        }
        v.stats = NULL;
        v.drafter.logits = (spc_logits){narrow[0], SPC_LOGITS_BF16};
        v.verifier.logits = (spc_logits){narrow[1], SPC_LOGITS_BF16};
        if (round > 5) v.detail = NULL;
        (void)snprintf(what, sizeof what, "two tiles, %d", round);
        expect_queued(&b, &v, what);
    }
    unshare(narrow[0]);
    unshare(narrow[1]);
    batch_free(&b);
}

/* Sums that are begun for all rows before one is decided: opt, and blocks of every form. */
Test(cuda_verify, rows_of_several_tiles_are_summed_ahead)
{
    static const char *const rules[] = {"strict",
                                        "opt:alpha=0.3",
                                        "opt-log:alpha=-0.2",
                                        "token-v1:alpha=0.3",
                                        "token-v2:alpha=0.2",
                                        "lossy:alpha=0.4",
                                        "lossy:alpha=0.4,beta=solve",
                                        "fuzzy:alpha=0.1,div=kl",
                                        "typical:eps=0.09",
                                        "chow:alpha=0.5",
                                        "head:alpha=0.5",
                                        "truncate-q:alpha=0.6"};
    enum { RULES = sizeof rules / sizeof *rules };
    dice d = {22};
    batch b = batch_of(8500, 8500);

    for (int round = 0; round < RULES; round++) {
        spc_row_params p = params_in_mode(rules[round], round % 2);
        spc_verify_batch v = verify_batch(&b);

        batch_fill(&b, &d, &p, 1.5, NULL);
        for (int32_t s = 0; s < SEQUENCES; s++) b.drafts[s] = DRAFTS;
        if (round % 3 == 0) b.verifier[(2 * ROWS + 2) * 8500] = NAN; /* a row on the way is bad */
        for (int32_t s = 0; s < SEQUENCES; s++) {
            b.params[s].verify = (s + round) % 3 ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
        }
        v.detail = NULL;
        expect_queued(&b, &v, rules[round]);
    }
    batch_free(&b);
}

/* What a batch leaves in a workspace does not disturb a batch of another shape behind it. */
Test(cuda_verify, batches_of_other_shapes_follow_each_other_on_one_workspace)
{
    static const struct {
        int32_t vocab, sequences, drafts;
    } shapes[] = {{9000, 2, 1}, {9000, 6, 4}, {300, 1, 4}, {4097, 6, 2}, {300, 6, 4}, {9000, 3, 3}};
    size_t bytes = spc_workspace_bytes(SEQUENCES, DRAFTS, 9000);
    void *workspace = workspace_of(bytes);
    spc_error err;
    dice d = {23};

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        batch b = batch_of(shapes[i].vocab, shapes[i].vocab);
        spc_row_params p = params_in_mode(i % 2 ? "opt:alpha=0.2" : "strict", 0);
        spc_verify_batch v = verify_batch(&b);
        static results want;

        p.sampling.top_p = 0.9f;
        batch_fill(&b, &d, &p, 2.0, NULL);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            if (b.drafts[s] > shapes[i].drafts) b.drafts[s] = shapes[i].drafts;
            for (int32_t r = 0; r < shapes[i].drafts; r++) {
                b.draft[s * shapes[i].drafts + r] = b.draft[s * DRAFTS + r];
            }
        }
        v.sequences = shapes[i].sequences;
        v.max_drafts = shapes[i].drafts;
        v.stats = NULL;
        v.detail = NULL;
        memset(b.out, 0x5a, sizeof *b.out);
        cr_assert_eq(spc_cpu_verify_batch(&v, NULL, NULL), SPC_OK);
        want = *b.out;
        v.workspace = workspace;
        v.workspace_bytes = bytes;
        run(&b, &v, "a shape");
        for (int32_t s = shapes[i].sequences; s < SEQUENCES; s++) {
            cr_assert_eq((uint32_t)b.out->count[s], 0x5a5a5a5au, "nothing beyond the batch");
        }
        expect_as_on_cpu(b.out, &want, "a shape after others");
        expect_idle(workspace, "a shape after others");
        batch_free(&b);
    }
    cr_assert_eq(spc_cuda_workspace_init((char *)workspace + 8, bytes - 8, NULL, &err), SPC_EUSAGE);
    cr_assert_not_null(strstr(err.message, "a multiple of 16"));
    unshare(workspace);
}

static void expect_draws(batch *b, int32_t plain, const spc_edits *edits, const char *what)
{
    drawn *out = shared(sizeof *out), want;
    spc_draw_batch a = draw_batch(b);

    a.plain = plain;
    a.token = out->token;
    a.stats = out->stats;
    a.log_probability = out->log_probability;
    if (edits) a.edits = *edits;
    b->params[1].sampling.top_p = 0; /* is refused */
    b->row[2] = -1;                  /* there is none */
    cr_assert_eq(spc_cpu_draw_batch(&a, NULL, NULL), SPC_OK);
    want = *out;
    memset(out, 0x5a, sizeof *out);
    cr_assert_eq(spc_cuda_draw_batch(&a, NULL, NULL), SPC_OK);
    ok(cudaDeviceSynchronize(), "run");
    expect_drawn(out, &want, what);
    want = *out;
    for (int s = 1; s < 3; s++) cr_assert(out->token[s] == -1 && out->stats[s].bad, "%s", what);
    a.workspace_bytes = spc_workspace_bytes(SEQUENCES, 0, b->vocab);
    a.workspace = workspace_of(a.workspace_bytes);
    for (int repeat = 0; repeat < 2; repeat++) {
        memset(out, 0x5a, sizeof *out);
        cr_assert_eq(spc_cuda_draw_batch(&a, NULL, NULL), SPC_OK);
        ok(cudaDeviceSynchronize(), "run");
        cr_assert(memcmp(out, &want, sizeof want) == 0, "%s, queued: tokens %d %d, want %d %d",
                  what, out->token[0], out->token[1], want.token[0], want.token[1]);
        expect_idle(a.workspace, what);
    }
    unshare(a.workspace);
    a.workspace = NULL;
    a.token = NULL;
    a.log_probability = NULL;
    memset(out->stats, 0x5a, sizeof out->stats);
    cr_assert_eq(spc_cuda_draw_batch(&a, NULL, NULL), SPC_OK);
    ok(cudaDeviceSynchronize(), "run");
    cr_assert(memcmp(out->stats, want.stats, sizeof want.stats) == 0, "%s: statistics alone", what);
    unshare(out);
}

Test(cuda_verify, draws)
{
    static const char *const rules[] = {"strict", "chow-log:alpha=0.9", "diff:alpha=0.1",
                                        "opt-log:alpha=0.1,gate=processed"};
    dice d = {11};
    batch b = batch_of(5000, 5001);

    for (size_t r = 0; r < sizeof rules / sizeof *rules; r++) {
        for (int m = 0; m < MODES; m++) {
            spc_row_params p = params_in_mode(rules[r], m);
            spc_edits edits;

            batch_edits(&b, &d);
            b.edit_first[4 * ROWS + 1] = -9; /* the row of sequence 4 ends before it begins */
            edits = edits_of(&b);
            batch_fill(&b, &d, &p, 3.0, NULL);
            if (p.verify == SPC_VERIFY_TOKEN) expect_draws(&b, 1, NULL, rules[r]);
            expect_draws(&b, 0, m % 2 ? &edits : NULL, rules[r]);
        }
    }
    batch_free(&b);
}

/* Rows of bf16, of which tiles come in pairs where few sums are asked for, behind draws that asked
 * for more: nothing of those is taken for theirs. */
Test(cuda_verify, rows_of_several_tiles_of_bf16_are_drawn_from_behind_others)
{
    enum { VOCAB = 2 * SPC_TILE + 100, STRIDE = VOCAB + 4 };
    dice d = {14};
    batch b = batch_of(VOCAB, STRIDE);
    size_t entries = (size_t)SEQUENCES * ROWS * STRIDE, bytes;
    uint16_t *narrow = shared(entries * sizeof *narrow);
    drawn *out = shared(sizeof *out), want;
    void *workspace;

    bytes = spc_workspace_bytes(SEQUENCES, 0, VOCAB);
    workspace = workspace_of(bytes);
    for (int r = 0; r < 2 * TOY_RULES; r++) {
        const char *rule = r % 2 ? "strict" : toy_rules[r / 2];
        spc_row_params p = params_in_mode(rule, 0);
        spc_draw_batch a = draw_batch(&b);

        p.sampling.temperature = 0.7f;
        batch_fill(&b, &d, &p, 3.0, NULL);
        for (size_t i = 0; i < entries; i++) {
            narrow[i] = (uint16_t)(spc_float_bits(b.drafter[i]) >> 16);
        }
        a.logits.logits = (spc_logits){narrow, SPC_LOGITS_BF16};
        a.token = out->token;
        a.stats = out->stats;
        a.log_probability = out->log_probability;
        cr_assert_eq(spc_cpu_draw_batch(&a, NULL, NULL), SPC_OK);
        want = *out;
        a.workspace = workspace;
        a.workspace_bytes = bytes;
        memset(out, 0x5a, sizeof *out);
        cr_assert_eq(spc_cuda_draw_batch(&a, NULL, NULL), SPC_OK);
        ok(cudaDeviceSynchronize(), "run");
        expect_drawn(out, &want, rule);
        expect_idle(workspace, rule);
    }
    unshare(workspace);
    unshare(narrow);
    unshare(out);
    batch_free(&b);
}

/* The largest logits are zeros of both signs. */
Test(cuda_verify, draws_of_rows_whose_maximum_is_0)
{
    dice d = {12};

    for (int32_t vocab = 2; vocab < 600; vocab += 149) {
        batch b = batch_of(vocab, vocab);
        spc_row_params p = params_in_mode("strict", 0);

        batch_fill(&b, &d, &p, 3.0, NULL);
        for (int32_t i = 0; i < SEQUENCES * ROWS * vocab; i++) {
            b.drafter[i] = dice_below(&d, 3) ? (dice_below(&d, 2) ? 0.0f : -0.0f) : -3.0f;
        }
        expect_draws(&b, 0, NULL, "zeros");
        batch_free(&b);
    }
}

/* Rows of half precision. */
Test(cuda_verify, half_precision_rows)
{
    dice d = {13};
    batch b = batch_of(500, 500);
    size_t entries = (size_t)SEQUENCES * ROWS * 500;
    uint16_t *drafter = shared(entries * sizeof *drafter);
    uint16_t *verifier = shared(entries * sizeof *verifier);

    for (int round = 0; round < 2 * MODES; round++) {
        int type = round % 2 ? SPC_LOGITS_F16 : SPC_LOGITS_BF16;
        spc_row_params p = params_in_mode("token-v3:alpha=0.5", round / 2);
        spc_verify_batch v = verify_batch(&b);

        batch_fill(&b, &d, &p, 2.0, NULL);
        for (size_t i = 0; i < entries; i++) { /* bits of ordinary numbers */
            drafter[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400) + 0x8000 * dice_below(&d, 2));
            verifier[i] = (uint16_t)(0x3c00 + dice_below(&d, 0x400) + 0x8000 * dice_below(&d, 2));
        }
        v.drafter.logits = (spc_logits){drafter, type};
        v.verifier.logits = (spc_logits){verifier, type};
        v.stats = NULL;
        expect_same(&b, &v, type == SPC_LOGITS_BF16 ? "bf16" : "f16");
    }
    unshare(drafter);
    unshare(verifier);
    batch_free(&b);
}
