/* SPDX-License-Identifier: Apache-2.0 */
/* pulse.h - a thread of each process of a group that says that it lives, and hears whether the
 * others do.
 *
 * Ranks that wait for their devices wait for each other where no communicator of the host sees it,
 * and a device does not say who is missing.  Four times within the timeout the processes tell each
 * other that they are there; where one does not, the group ends and names it before any wait for a
 * device is over. */
#ifndef SPC_HOST_PULSE_H
#define SPC_HOST_PULSE_H

#include "comm.h"

typedef struct spc_pulse spc_pulse;

/* Begin; collective.
 *
 * group        ended by what a pulse finds out; must stay until the pulse is closed
 * timeout_ms   the group's: a process that is silent for three quarters of it is missing
 *
 * SPC_EDEVICE, SPC_ENOMEM */
spc_status spc_pulse_open(spc_comm *group, int32_t timeout_ms, spc_pulse **out, spc_error *err);

/* In order, and by every rank at about the same time: from here on nobody misses anybody.  NULL is
 * allowed. */
void spc_pulse_leave(spc_pulse *pulse);

/* NULL is allowed.  Unless it left before, the others are told that this rank is no more. */
void spc_pulse_close(spc_pulse *pulse);

#endif
