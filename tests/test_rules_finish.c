/* SPDX-License-Identifier: Apache-2.0 */
/* Where a run of tokens ends. */
#include "rules/finish.h"

#include <criterion/criterion.h>

Test(rules_finish, a_stop_token_comes_before_the_budget_and_the_budget_before_the_context)
{
    cr_expect_eq(spc_end_of(true, 4, 4, 9, 9), SPC_END_STOP);
    cr_expect_eq(spc_end_of(false, 4, 4, 9, 9), SPC_END_BUDGET);
    cr_expect_eq(spc_end_of(false, 3, 4, 9, 9), SPC_END_CONTEXT);
    cr_expect_eq(spc_end_of(false, 3, 4, 8, 9), SPC_END_NONE);
}

Test(rules_finish, a_run_ends_neither_early_nor_late)
{
    for (int32_t budget = 1; budget < 6; budget++) {
        for (int32_t context = 3; context < 9; context++) {
            int32_t emitted = 0, length = 2; /* a prompt of two tokens */

            do {
                emitted++;
                length++;
            } while (spc_end_of(false, emitted, budget, length, context) == SPC_END_NONE);
            cr_expect_eq(emitted, budget < context - 2 ? budget : context - 2);
        }
    }
}

/* A round of g drafts may emit g + 1 tokens: they must fit, and no draft is left out that fits. */
Test(rules_finish, a_round_drafts_as_much_as_can_still_be_used)
{
    for (int32_t gamma = 0; gamma <= 8; gamma++) {
        for (int32_t left = 1; left < 12; left++) {
            for (int32_t room = 1; room < 12; room++) {
                int32_t g = spc_round_gamma(gamma, 5, 5 + left, 20, 20 + room);
                int32_t fits = left < room ? left : room;

                cr_expect(g >= 0 && g <= gamma && g + 1 <= fits);
                cr_expect(g == gamma || g + 1 == fits);
            }
        }
    }
}
