/* SPDX-License-Identifier: Apache-2.0 */
/* chain.h - may the next round be sent before this one has been seen (backend.h,
 * spc_round_request.may_chain)?
 *
 * It costs nothing where the next step asks for it, and that of a round where another step
 * comes: an application may step its sessions in turns.  So what is not asked for makes the next
 * such round wait, each time for longer, until many have been asked for. */
#ifndef SPC_HOST_CHAIN_H
#define SPC_HOST_CHAIN_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SPC_CHAIN_FIRST = 4,   /* rounds to wait after one that was not asked for ... */
    SPC_CHAIN_MOST = 1024, /* ... twice as many after the next, up to this */
    SPC_CHAIN_CALM = 64    /* rounds in a row that were asked for, until it counts as the first */
};

/* Of one engine; begins with zeros. */
typedef struct {
    bool off;          /* never */
    int32_t in_flight; /* sequences whose next round has been sent and that have not ended */
    int32_t wait;      /* rounds that are still to go by themselves */
    int32_t patience;  /* that many, the last time; 0: there was none */
    int32_t calm;      /* rounds in a row that were asked for */
} spc_chain;

/* May the round behind the present one be sent along?
 *
 * asked   the present one has been sent, and is what this step asks for */
bool spc_chain_may(const spc_chain *chain, bool asked);

/* A round has been.
 *
 * was_in_flight  it had been sent behind the one before
 * in_flight      sequences whose next round has been sent behind it */
void spc_chain_note(spc_chain *chain, bool was_in_flight, int32_t in_flight);

#endif
