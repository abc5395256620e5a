/* SPDX-License-Identifier: Apache-2.0 */
/* comm_boot.h - how the processes of a group find each other, and what they tell each other before
 * they have a communicator: where they listen.
 *
 * Rank 0 listens where all have agreed to meet (spc_place, spc/spc.h); the others come to it, and
 * when all are there the bootstrap is open.  Its calls are made by every rank, in the same order;
 * every wait ends by the place's timeout.  A bootstrap belongs to one thread at a time. */
#ifndef SPC_HOST_COMM_BOOT_H
#define SPC_HOST_COMM_BOOT_H

#include "link.h"

#include <spc/spc.h>

typedef struct spc_boot spc_boot;

/* Can this be a place?  SPC_EUSAGE says what is wrong. */
spc_status spc_place_check(const spc_place *place, spc_error *err);

/* Meet.  Where not all come within the timeout, rank 0 names those that are missing, and those that
 * came are told the same.
 *
 * SPC_EUSAGE     the place cannot be; two processes of one rank, or other numbers of ranks
 * SPC_EDEVICE    not all came, or nobody answers where rank 0 should
 * SPC_EINPUT     the file to meet by cannot be written
 * SPC_ENOMEM     also: no file descriptor is left, for the others or to reach rank 0 */
spc_status spc_boot_open(const spc_place *place, spc_boot **out, spc_error *err);
void spc_boot_close(spc_boot *boot); /* NULL is allowed */

/* In place of spc_boot_open, on rank 0: there will be no group, for this reason.  Those that come
 * within the timeout are told it, with its status, as what rank 0 said; waits until all have come.
 * Does nothing where the place cannot be, or has no others. */
void spc_boot_refuse(const spc_place *place, const spc_error *why);

/* Bytes of rank 0 to everyone.  SPC_EDEVICE: a rank left or was late. */
spc_status spc_boot_broadcast(spc_boot *boot, void *data, size_t bytes, spc_error *err);
/* Every rank's record to everyone.
 *
 * mine   [bytes]
 * all    [world, bytes] by rank */
spc_status spc_boot_gather(spc_boot *boot, const void *mine, void *all, size_t bytes,
                           spc_error *err);

/* Of this group; the same on every rank. */
uint64_t spc_boot_nonce(const spc_boot *boot);
/* Where this rank can be reached by the others: a listening socket at a free port, whose address
 * each rank then gathers by spc_boot_addresses.  SPC_EDEVICE */
spc_status spc_boot_listen(const spc_boot *boot, int *fd, spc_error *err);
/* Where everyone listens, as seen from here.
 *
 * listener   own, of spc_boot_listen
 * address    [world] */
spc_status spc_boot_addresses(spc_boot *boot, int listener, spc_link_address *address,
                              spc_error *err);

#endif
