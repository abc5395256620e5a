/* SPDX-License-Identifier: Apache-2.0 */
/* comm.h - ranks that run one model together: what they can say to each other.
 *
 * A *group* is `world` ranks, numbered from 0; a spc_comm is one rank's place in it.  A collective
 * is called by every rank of the group, in the same order, with the same sizes: a rank that calls
 * another one, or with another size, is told of, not waited for.  Every wait has a deadline.
 *
 * Failures end the group: the first one is kept, wakes every rank that waits, and is what every
 * later call of every rank returns (SPC_EDEVICE; only close is left).
 *
 * The group whose ranks are threads of one process (spc_comm_local_open) defines what the calls
 * mean.  Its sums run from rank 0 upwards, so every rank holds the same bits whatever the timing.
 *
 * A spc_comm belongs to one thread at a time, except for abort and async_error, which any thread
 * may call until it is closed. */
#ifndef SPC_HOST_COMM_H
#define SPC_HOST_COMM_H

#include <stddef.h>
#include <stdint.h>

#include <spc/spc.h>

typedef struct spc_comm spc_comm;

enum { SPC_RANKS_MAX = 64 };

typedef struct {
    const char *name; /* "local", "tcp" */

    /* data[i] = sum of every rank's data[i], the same bits on every rank; in place.
     *
     * data   [count] */
    spc_status (*all_reduce)(spc_comm *comm, float *data, size_t count, spc_error *err);
    /* Rank r gives bytes [begin[r], begin[r + 1]) of its data and receives those of the others.
     *
     * data    [begin[world]] bytes
     * begin   [world + 1], rising, the same on every rank */
    spc_status (*all_gather)(spc_comm *comm, void *data, const size_t *begin, spc_error *err);
    /* data of rank `root` to everyone. */
    spc_status (*broadcast)(spc_comm *comm, void *data, size_t bytes, int32_t root, spc_error *err);
    /* Between two different ranks; both wait for each other and name the same number of bytes. */
    spc_status (*send)(spc_comm *comm, const void *data, size_t bytes, int32_t to, spc_error *err);
    spc_status (*recv)(spc_comm *comm, void *data, size_t bytes, int32_t from, spc_error *err);
    spc_status (*barrier)(spc_comm *comm, spc_error *err);
    /* Groups of the ranks that give the same colour, in their order here; collective.  The new
     * group fails by itself: it neither ends this one nor ends with it.
     *
     * timeout_ms   of its waits, the same on every rank; 0: as here */
    spc_status (*split)(spc_comm *comm, int32_t colour, int32_t timeout_ms, spc_comm **out,
                        spc_error *err);

    /* End the group for this reason, cut where it is too long.  A group ends once: later reasons
     * are dropped. */
    void (*abort)(spc_comm *comm, const char *reason);
    /* SPC_OK, or why the group has ended; waits for nobody. */
    spc_status (*async_error)(spc_comm *comm, spc_error *err);
    void (*close)(spc_comm *comm);
} spc_comm_ops;

/* What every implementation begins with. */
struct spc_comm {
    const spc_comm_ops *ops;
    int32_t rank, world;
};

/* A group of threads of this process.  A group of one waits for nobody.
 *
 * world        1 .. SPC_RANKS_MAX
 * timeout_ms   of every wait, > 0
 * out          [world] receives the ranks, each to be closed by itself; untouched on failure
 *
 * SPC_EUSAGE, SPC_ENOMEM */
spc_status spc_comm_local_open(int32_t world, int32_t timeout_ms, spc_comm **out, spc_error *err);

/* A group of processes, which talk over TCP; collective, and what the calls leave has the bits of a
 * local group's.  Every two ranks are connected: a rank that dies ends the group at once, one that
 * hangs by the timeout.  A rank that closes without need of the others leaves, and ends the group
 * when it is called on again.  A call may end the group on one rank after it succeeded on another,
 * whose next one then fails.  Trusts the network.
 *
 * SPC_EUSAGE, SPC_EINPUT, SPC_EDEVICE: as spc_boot_open (comm_boot.h); SPC_ENOMEM */
spc_status spc_comm_tcp_open(const spc_place *place, spc_comm **out, spc_error *err);

/* NULL is allowed. */
void spc_comm_close(spc_comm *comm);

#endif
