/* SPDX-License-Identifier: Apache-2.0 */
/* chain.c - when rounds are sent one behind the other. */
#include "chain.h"

bool spc_chain_may(const spc_chain *c, bool asked)
{
    return !c->off && c->wait == 0 && (asked || c->in_flight == 0);
}

/* A round was run for nobody. */
static void wasted(spc_chain *c)
{
    c->patience = c->patience == 0 ? SPC_CHAIN_FIRST : 2 * c->patience;
    if (c->patience > SPC_CHAIN_MOST) c->patience = SPC_CHAIN_MOST;
    c->wait = c->patience;
    c->calm = 0;
}

void spc_chain_note(spc_chain *c, bool was_in_flight, int32_t in_flight)
{
    if (was_in_flight) {
        if (++c->calm >= SPC_CHAIN_CALM) c->patience = 0;
    } else if (c->in_flight > 0) {
        wasted(c);
    } else if (c->wait > 0) {
        c->wait--;
    }
    c->in_flight = in_flight;
}
