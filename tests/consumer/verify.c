/* SPDX-License-Identifier: Apache-2.0 */
/* verify.c - the verification library alone, as a serving stack would call it. */
#include <spc/verify.h>

#include <stdio.h>

int main(void)
{
    const float drafter[2][4] = {{4, 1, 0, 0}, {0, 3, 1, 0}};
    const float verifier[2][4] = {{4, 1, 0, 0}, {0, 0, 0, 9}};
    spc_row_params params = {.sampling = {.top_p = 1.0f}, .nucleus = 1};
    spc_row_stats stats[1];
    spc_verify_args args = {.params = &params,
                            .drafter = drafter[0],
                            .verifier = verifier[0],
                            .drafter_stride = 4,
                            .verifier_stride = 4,
                            .vocab = 4,
                            .drafts = 1,
                            .stats = stats,
                            .bonus = true};
    spc_verdict verdict;
    int32_t draft;

    if (!spc_rule_parse("strict", &params.rule, NULL) || spc_params_check(&params, NULL)) return 1;
    draft = spc_draft_sample(drafter[0], 4, &params, 0, 0, stats);
    args.draft = &draft;
    spc_verify(&args, &verdict);
    printf("%d tokens: %d, %d\n", verdict.count, verdict.token[0], verdict.token[1]);
    return verdict.count == 2 && verdict.token[0] == 0 && verdict.token[1] == 3 ? 0 : 1;
}
