/* SPDX-License-Identifier: Apache-2.0 */
/* When rounds are sent before the one in front of them has been seen. */
#include "host/chain.h"

#include <criterion/criterion.h>

/* Steps of one session after another, `turn` of each; returns how many rounds ran for nobody. */
static int32_t by_turns(spc_chain *c, int32_t turn, int32_t steps, int32_t *chained)
{
    int32_t wasted = 0;

    for (int32_t i = 0; i < steps; i++) {
        bool same = i % turn != 0, was_in_flight = same && c->in_flight > 0;

        wasted += !was_in_flight && c->in_flight > 0;
        *chained += was_in_flight;
        spc_chain_note(c, was_in_flight, spc_chain_may(c, was_in_flight) ? 1 : 0);
    }
    return wasted;
}

Test(host_chain, one_session_by_itself_is_sent_ahead_from_the_first_round)
{
    spc_chain c = {0};
    int32_t chained = 0;

    cr_expect_eq(by_turns(&c, 1000, 1000, &chained), 0);
    cr_expect_eq(chained, 999);
}

Test(host_chain, sessions_stepped_in_turns_cost_next_to_nothing)
{
    spc_chain c = {0};
    int32_t chained = 0, wasted = by_turns(&c, 1, 20000, &chained);

    cr_expect_eq(chained, 0);
    cr_expect(wasted > 5 && wasted < 40, "%d", wasted);
}

Test(host_chain, long_turns_are_worth_it)
{
    spc_chain c = {0};
    int32_t chained = 0, wasted = by_turns(&c, 200, 20000, &chained);

    cr_expect(chained > 18000, "%d of 20000", chained);
    cr_expect(wasted <= 100, "%d", wasted);
}

/* Sequences that ended have nothing to ask for. */
Test(host_chain, what_ended_is_not_waited_for)
{
    spc_chain c = {0};

    spc_chain_note(&c, false, 3);
    spc_chain_note(&c, true, 0); /* all ended in it */
    spc_chain_note(&c, false, 1);
    cr_expect(spc_chain_may(&c, true));
    cr_expect_not(spc_chain_may(&c, false), "something else is asked for");
    spc_chain_note(&c, false, 0);
    cr_expect_not(spc_chain_may(&c, false));
}

Test(host_chain, off_is_never)
{
    spc_chain c = {.off = true};

    cr_expect_not(spc_chain_may(&c, false));
}
