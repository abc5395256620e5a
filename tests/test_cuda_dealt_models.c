/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_dealt_models.c - models as dice deal them: logits are those of the CPU, and on both a
 * row has the same bits in whatever pieces and whatever company it is fed.
 *
 * Built as test_cuda_backend.c is.  More deals: deals.h. */
#include "host/gpu/backend_cuda.h"

#include "dealt_models.h"

#ifdef SPC_LOOKED_AT
enum { DEALS = 4 };
#else
enum { DEALS = 14 };
#endif

Test(cuda_dealt_models, logits_are_those_of_the_cpu_in_any_pieces, .timeout = 3000)
{
    for (uint64_t seed = deals_first(); seed <= deals_last(DEALS); seed++) {
        dice d = {seed * 0x9E3779B97F4A7C15u};
        json_text config = deal_config(&d);
        tiny_model model = tiny_open_mixed(config.text, seed);
        texts t = deal_texts(&d, model.plan->ids);
        spc_dtype kv = dice_below(&d, 3) ? SPC_DTYPE_F32 : SPC_DTYPE_BF16;
        size_t count = (size_t)(SLOTS * TOKENS * model.plan->ids);
        char what[1200];
        float *cpu, *gpu, off;

        (void)snprintf(what, sizeof what, "SPC_DEALT=%d %s", (int)seed, config.text);
        cpu = expect_same_bits(&spc_backend_cpu, &model, kv, &t, &d, what);
        gpu = expect_same_bits(&spc_backend_cuda, &model, kv, &t, &d, what);
        off = relative_distance(gpu, cpu, count);
        cr_assert_leq(off, kv == SPC_DTYPE_F32 ? 3e-4f : 3e-2f, "%s: off by %g", what, (double)off);
        free(cpu);
        free(gpu);
        tiny_close(&model);
    }
}
