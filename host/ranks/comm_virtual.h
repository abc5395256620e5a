/* SPDX-License-Identifier: Apache-2.0 */
/* comm_virtual.h - ranks that are threads of this process and share one GPU, each with a stream of
 * its own: what several GPUs compute, shown on one.  It gains no time.
 *
 * Ranks meet on the host (comm.h), so who is missing and who calls differently is told by name;
 * nothing spins on the device.  Sums run from rank 0 upwards: the bits of spc_comm_local_open.  A
 * meeting cannot be recorded in a graph. */
#ifndef SPC_HOST_COMM_VIRTUAL_H
#define SPC_HOST_COMM_VIRTUAL_H

#include "comm_device.h"

/* A group on the calling thread's device.
 *
 * world        1 .. SPC_RANKS_MAX
 * timeout_ms   of every wait, > 0
 * out          [world] receives the ranks, each to be closed by itself; untouched on failure
 *
 * SPC_EUSAGE, SPC_ENOMEM, SPC_EDEVICE */
spc_status spc_virtual_open(int32_t world, int32_t timeout_ms, spc_device_comm **out,
                            spc_error *err);

#endif
