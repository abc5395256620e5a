/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_batch_draws.c - drafts drawn for a batch are those of spc_draft_sample, and lie where
 * rounds read them. */
#include "host_batches.h"

Test(host_batch_draws, draws_are_spc_draft_sample)
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
Test(host_batch_draws, draws_are_written_where_rounds_read_them)
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
