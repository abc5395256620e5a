/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_batch_refused.c - batches that cannot be, and parameters: each refusal names what is
 * wrong, and devices draw the same line. */
#include "host/refuse.h"
#include "host_memory.h"
#include "toybatch.h"

static void expect_refusal(const spc_verify_batch *v, const char *field)
{
    spc_error err = {SPC_OK, ""};

    cr_assert_eq(spc_cpu_verify_batch(v, NULL, &err), SPC_EUSAGE, "%s", field);
    cr_assert_not_null(strstr(err.message, field), "%s is not in: %s", field, err.message);
}

#define REFUSED(change, field)                 \
    do {                                       \
        spc_verify_batch v = verify_batch(&b); \
        v.change;                              \
        expect_refusal(&v, field);             \
    } while (0)

/* Addresses as they are when arrays of 4 bytes, or of one, are packed in front. */
static void *odd(void *array)
{
    return (char *)array + 4;
}

static void *odder(void *array)
{
    return (char *)array + 1;
}

Test(host_batch_refused, misuse_is_named)
{
    batch b = batch_of(40, 40);

    REFUSED(sequences = 0, "sequences: expected 1 to");
    REFUSED(vocab = 0, "vocab");
    REFUSED(vocab = SPC_VOCAB_MAX + 1, "vocab");
    REFUSED(max_drafts = -1, "max_drafts: expected 0 to 17, found -1");
    REFUSED(max_drafts = SPC_GAMMA_MAX + 2, "max_drafts");
    REFUSED(params = NULL, "params: expected an array, found NULL");
    REFUSED(verifier.logits.data = NULL, "verifier.logits.data");
    REFUSED(verifier.logits.type = 3, "verifier.logits.type");
    REFUSED(verifier.width = 0, "verifier.width");
    REFUSED(verifier.stride = 39, "verifier.stride: expected at least the width, 40, found 39");
    REFUSED(drafter.stride = 39, "drafter.stride");
    REFUSED(verifier.stride = INT64_MAX, "verifier.stride: expected at most 2^40 elements");
    REFUSED(drafter.stride = ((int64_t)1 << 40) + 1, "drafter.stride");
    REFUSED(edits = ((spc_edits){b.allowed, INT64_MAX, NULL, NULL, NULL}), "edits.allowed_stride");
    REFUSED(drafter.logits.type = -1, "drafter.logits.type");
    REFUSED(drafter.logits.data = (const char *)b.drafter + 1, "drafter.logits.data");
    REFUSED(drafter.subset = odd(b.params), "drafter.subset: expected an address that is a");
    REFUSED(verifier.subset = odd(b.params), "verifier.subset");
    REFUSED(drafter_row = NULL, "drafter_row");
    REFUSED(verifier_row = NULL, "verifier_row");
    REFUSED(drafts = NULL, "drafts");
    REFUSED(draft = NULL, "draft");
    REFUSED(position = NULL, "position");
    REFUSED(token = NULL, "token");
    REFUSED(count = NULL, "count");
    REFUSED(status = NULL, "status");
    REFUSED(edits = ((spc_edits){b.allowed, 1, NULL, NULL, NULL}), "edits.allowed_stride");
    REFUSED(edits = ((spc_edits){NULL, 0, b.edit_first, NULL, b.edit_value}), "edits.edit_token");
    REFUSED(edits = ((spc_edits){NULL, 0, b.edit_first, b.edit_token, NULL}), "edits.edit_value");
    REFUSED(params = odd(b.params), "params: expected an address that is a multiple of 8, found");
    REFUSED(verifier_row = odd(b.row), "verifier_row");
    REFUSED(drafter_row = odd(b.row), "drafter_row");
    REFUSED(position = odd(b.position), "position");
    REFUSED(draft = odder(b.draft), "draft: expected an address that is a multiple of 4, found");
    REFUSED(live = odder(b.live), "live");
    REFUSED(salt = odder(b.salt), "salt");
    REFUSED(stats = odder(b.stats), "stats");
    REFUSED(token = odder(b.draft), "token");
    REFUSED(verdict = odder(b.out), "verdict");
    REFUSED(edits = ((spc_edits){odder(b.allowed), 2, NULL, NULL, NULL}), "edits.allowed");
    REFUSED(count = b.out->accepted, "count: expected memory of its own, as it is written, found");
    REFUSED(status = (uint32_t *)b.out->count + SEQUENCES - 1, "where status is too");
    REFUSED(token = b.draft, "token: expected memory of its own");
    REFUSED(token = b.drafts - ROWS * SEQUENCES + 1, "where drafts is too");
    REFUSED(accepted = (int32_t *)b.params, "where params is too");
    REFUSED(detail = (spc_row_detail *)b.drafter, "where drafter.logits.data is too");
    REFUSED(verdict = (spc_verdict *)b.stats, "where stats is too");
    REFUSED(workspace = (char *)b.out + 8, "workspace: expected an address");
    REFUSED(workspace = (void *)(uintptr_t)4096, "workspace_bytes: expected at least");
    cr_assert_geq(spc_workspace_bytes(6, 4, 9000), spc_workspace_bytes(6, 0, 9000));
    expect_refusal(NULL, "batch: expected an address, found NULL");
    batch_free(&b);
}

Test(host_batch_refused, no_workspace_serves_a_batch_that_cannot_be)
{
    cr_expect_gt(spc_workspace_bytes(1, 0, 1), 0);
    cr_expect_gt(spc_workspace_bytes(INT32_MAX, SPC_GAMMA_MAX + 1, SPC_VOCAB_MAX),
                 (size_t)INT32_MAX * SPC_VOCAB_MAX / SPC_TILE);
    cr_expect_eq(spc_workspace_bytes(0, 4, 9000), 0);
    cr_expect_eq(spc_workspace_bytes(6, -1, 9000), 0);
    cr_expect_eq(spc_workspace_bytes(6, INT32_MAX, 9000), 0);
    cr_expect_eq(spc_workspace_bytes(6, 4, 0), 0);
    cr_expect_eq(spc_workspace_bytes(6, 4, INT32_MAX), 0);
}

Test(host_batch_refused, misuse_of_a_draw_is_named)
{
    static const spc_row_params params;
    float row[4] = {0};
    int64_t position = 0;
    int32_t token;
    spc_draw_batch good = {.sequences = 1,
                           .vocab = 4,
                           .params = &params,
                           .logits = {{row, SPC_LOGITS_F32}, 4, 4},
                           .position = &position,
                           .token = &token};
    const char *const fields[] = {"sequences",
                                  "vocab",
                                  "params",
                                  "logits.logits.data",
                                  "position",
                                  "token or stats",
                                  "log_probability",
                                  "logits.stride",
                                  "row: expected an address",
                                  "out_stride",
                                  "token: expected memory of its own"};

    for (int i = 0; i < 11; i++) {
        spc_draw_batch bad = good;
        float out;
        spc_row_stats stats;
        spc_error err = {SPC_OK, ""};

        if (i == 0) bad.sequences = -1;
        if (i == 1) bad.vocab = 0;
        if (i == 2) bad.params = NULL;
        if (i == 3) bad.logits.logits.data = NULL;
        if (i == 4) bad.position = NULL;
        if (i >= 5 && i <= 6) bad.token = NULL;
        if (i == 6) bad.stats = &stats;
        if (i == 6) bad.log_probability = &out;
        if (i == 7) bad.logits.stride = 3;
        if (i == 8) bad.row = odd(&position);
        if (i == 9) bad.out_stride = -1;
        if (i == 10) bad.log_probability = (float *)&token;
        cr_assert_eq(spc_cpu_draw_batch(&bad, NULL, &err), SPC_EUSAGE, "%s", fields[i]);
        cr_assert_not_null(strstr(err.message, fields[i]), "%s: %s", fields[i], err.message);
    }
}

/* Several arrays may be one array of records: what is written for one lies between the others. */
Test(host_batch_refused, records_of_a_draw_are_no_overlap)
{
    enum { WORDS = 2 };
    float row[4] = {0};
    int64_t position[2] = {0, 1}, rows[2] = {0, 0};
    spc_row_params params[2];
    int32_t record[2 * WORDS];
    float *ln = (float *)record + 1;
    spc_draw_batch b = {.sequences = 2,
                        .vocab = 4,
                        .params = params,
                        .logits = {{row, SPC_LOGITS_F32}, 4, 4},
                        .row = rows,
                        .position = position,
                        .token = record,
                        .log_probability = ln,
                        .out_stride = WORDS};

    spc_row_params_init(&params[0]);
    spc_row_params_init(&params[1]);
    cr_assert_eq(spc_cpu_draw_batch(&b, NULL, NULL), SPC_OK);
    for (int s = 0; s < 2; s++) {
        cr_expect(record[s * WORDS] >= 0 && record[s * WORDS] < 4);
        cr_expect_float_eq((double)ln[s * WORDS], -1.386294, 1e-5);
    }
}

/* The predicate of devices and the message of hosts draw one line. */
Test(host_batch_refused, two_checks_of_parameters_agree)
{
    const float numbers[] = {NAN, -1, 0, 1e-5f, 0.5f, 1, 1.5f, INFINITY};
    dice d = {21};
    int good = 0, bad = 0;

    for (int i = 0; i < 20000; i++) {
        spc_row_params p = params_in_mode(toy_rules[dice_below(&d, TOY_RULES)], 0);

        if (dice_below(&d, 4) == 0) (void)spc_rule_parse("cactus:delta=0.1", &p.rule, NULL);
        if (dice_below(&d, 4) == 0) (void)spc_rule_parse("lossy-greedy:alpha=0.1", &p.rule, NULL);
        if (dice_below(&d, 9) == 0) (void)spc_rule_parse("token-chow:alpha=0.1", &p.rule, NULL);
        if (dice_below(&d, 9) == 0) p.rule.path = SPC_RULE_DRAFTER_ONLY;
        if (dice_below(&d, 9) == 0) p.rule.alpha = (double)NAN;
        if (dice_below(&d, 4) == 0) p.sampling.temperature = numbers[dice_below(&d, 8)];
        if (dice_below(&d, 4) == 0) p.sampling.top_p = numbers[dice_below(&d, 8)];
        if (dice_below(&d, 4) == 0) p.sampling.min_p = numbers[dice_below(&d, 8)];
        p.sampling.top_k = dice_below(&d, 6) - 1;
        p.verify = dice_below(&d, 8) == 0 ? dice_below(&d, 4) - 1 : dice_below(&d, 2);
        p.bonus = dice_below(&d, 8) == 0 ? dice_below(&d, 5) - 1 : dice_below(&d, 3);
        if (dice_below(&d, 9) == 0) p.nucleus = dice_below(&d, 4) - 1;
        if (dice_below(&d, 9) == 0) p.rule.gate = dice_below(&d, 4) - 1;
        if (dice_below(&d, 9) == 0) p.rule.solve = dice_below(&d, 4) - 1;
        if (dice_below(&d, 9) == 0) p.rule.kl = dice_below(&d, 4) - 1;
        if (dice_below(&d, 9) == 0) p.rule.kind = dice_below(&d, 2) ? -1 : SPC_RULE_COUNT;
        if (dice_below(&d, 9) == 0) p.rule.path = dice_below(&d, 2) ? -1 : SPC_RULE_COUNT;
        if (p.rule.kind < 0 || p.rule.kind >= SPC_RULE_COUNT) {
            cr_assert_not(spc_params_valid(&p));
            continue;
        }
        cr_assert_eq(spc_params_decide(&p), spc_params_check(&p, NULL) == SPC_OK, "case %d", i);
        cr_assert_eq(spc_params_valid(&p), spc_session_params_check(&p, NULL) == SPC_OK);
        good += spc_params_decide(&p);
        bad += !spc_params_valid(&p);
    }
    cr_assert(good > 1000 && bad > 1000, "%d good, %d bad", good, bad);
}
