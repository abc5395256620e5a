/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_dealt_ranks.c - models as dice deal them, cut over ranks: logits are those of one rank,
 * with the same bits in any pieces.  What cannot be cut so is refused.  More deals: deals.h. */
#include "host/ranks/backend_ranks.h"

#include "cut_evenly.h"
#include "dealt_models.h"

enum { DEALS = 60 };

static int32_t world_wanted;

static spc_status open_world(spc_backend **out, int32_t threads, const char *which, spc_error *err)
{
    return spc_ranks_open(world_wanted, threads, which, out, err);
}

static void expect_refused(const spc_backend_ops *ops, const tiny_model *model, const char *what)
{
    spc_limits limits = {.slots = 1, .context = CONTEXT, .rows = 1, .outputs = 1};
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(ops->open(&backend, 1, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(ops->load(backend, model->plan, model->bundle, &limits, &runner, &error),
                 SPC_EUSAGE, "%s", what);
    cr_assert(strstr(error.message, "must divide"), "%s", error.message);
    ops->close(backend);
}

Test(host_dealt_ranks, logits_are_those_of_one_rank_in_any_pieces, .timeout = 3000)
{
    int32_t cut = 0, refused = 0;

    for (uint64_t seed = deals_first(); seed <= deals_last(DEALS); seed++) {
        dice d = {seed * 0x9E3779B97F4A7C15u};
        json_text config = deal_config(&d);
        tiny_model model = tiny_open_mixed(config.text, seed);
        texts t = deal_texts(&d, model.plan->ids);
        spc_backend_ops ranks = spc_backend_ranks;
        char what[1200];
        float *one, *all, off;

        world_wanted = between(&d, 2, 4);
        ranks.open = open_world;
        (void)snprintf(what, sizeof what, "SPC_DEALT=%d, %d ranks, %s", (int)seed,
                       (int)world_wanted, config.text);
        if (!is_cut_evenly(&model.config, world_wanted)) {
            expect_refused(&ranks, &model, what);
            tiny_close(&model);
            refused++;
            continue;
        }
        one = expect_same_bits(&spc_backend_cpu, &model, SPC_DTYPE_F32, &t, &d, what);
        all = expect_same_bits(&ranks, &model, SPC_DTYPE_F32, &t, &d, what);
        off = relative_distance(all, one, (size_t)(SLOTS * TOKENS * model.plan->ids));
        cr_assert_leq(off, 3e-4f, "%s: off by %g", what, (double)off);
        free(one);
        free(all);
        tiny_close(&model);
        cut++;
    }
    if (!getenv("SPC_DEALT")) cr_expect(cut > 0 && refused > 0);
}
