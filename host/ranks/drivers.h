/* SPDX-License-Identifier: Apache-2.0 */
/* drivers.h - one thread for each rank of this process: what all ranks do at once. */
#ifndef SPC_HOST_DRIVERS_H
#define SPC_HOST_DRIVERS_H

#include <stdbool.h>
#include <stdint.h>

#include <spc/status.h>

typedef struct spc_drivers spc_drivers;

/* Threads for ranks 1 .. world - 1; rank 0 is driven by whoever calls.  SPC_ENOMEM */
spc_status spc_drivers_open(int32_t world, spc_drivers **out, spc_error *err);
void spc_drivers_close(spc_drivers *drivers); /* NULL is allowed */

/* run(user, rank) for every rank at once, each always on its own thread; returns when all have. */
void spc_drivers_run(spc_drivers *drivers, void (*run)(void *user, int32_t rank), void *user);

/* The same, but once rank 0 has returned the others are waited for no longer than timeout_ms: then
 * they are given up, false.  They may still run, so that all they use has to stay, the drivers
 * too: these are not to be used any more, nor closed. */
bool spc_drivers_run_within(spc_drivers *drivers, void (*run)(void *user, int32_t rank), void *user,
                            int32_t timeout_ms);

#endif
