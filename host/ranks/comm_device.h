/* SPDX-License-Identifier: Apache-2.0 */
/* comm_device.h - ranks that run one model together on GPUs: collectives over device memory.
 *
 * Not host/ranks/comm.h over other memory: there a call returns when its data are there.  Here a
 * call puts work behind what the stream holds and returns; data are there when the stream has come
 * that far, and a launch behind it needs no wait.  So the two have different contracts, and what
 * waits is a verb of its own, with the deadline that every wait has.
 *
 * As there: collectives are called by every rank of a group, in one order, with the same sizes; the
 * first failure ends the group, is kept, and is what every later call returns (SPC_EDEVICE; only
 * close is left).  A rank learns of another's end at its next call or in its next wait.
 *
 * A spc_device_comm belongs to one thread at a time, except for abort, which any thread may call
 * until it is closed.  Its device must be the calling thread's.
 *
 * A device that hangs is told from one that waits for another rank once the group has ended: then
 * nothing waits, and what is still busy hangs. */
#ifndef SPC_HOST_COMM_DEVICE_H
#define SPC_HOST_COMM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <spc/status.h>
#include <spc/verify.h>

typedef struct spc_device_comm spc_device_comm;

/* The data are device memory and must stay until the stream has come behind the call. */
typedef struct {
    const char *name; /* "nccl", "virtual" */
    bool capturable;  /* calls can be recorded in a graph */

    /* data[i] = sum of every rank's data[i], the same bits on every rank; in place.
     *
     * data   [count] */
    spc_status (*all_reduce)(spc_device_comm *comm, float *data, size_t count, spc_stream stream,
                             spc_error *err);
    /* Rank r gives bytes [begin[r], begin[r + 1]) of its data and receives those of the others.
     *
     * data    [begin[world]] bytes
     * begin   [world + 1], rising, the same on every rank, on the host, read during the call */
    spc_status (*all_gather)(spc_device_comm *comm, void *data, const size_t *begin,
                             spc_stream stream, spc_error *err);
    /* data of rank `root` to everyone. */
    spc_status (*broadcast)(spc_device_comm *comm, void *data, size_t bytes, int32_t root,
                            spc_stream stream, spc_error *err);
    /* Between two different ranks; both name the same number of bytes. */
    spc_status (*send)(spc_device_comm *comm, const void *data, size_t bytes, int32_t to,
                       spc_stream stream, spc_error *err);
    spc_status (*recv)(spc_device_comm *comm, void *data, size_t bytes, int32_t from,
                       spc_stream stream, spc_error *err);
    /* Groups of the ranks that give the same colour, in their order here; collective; waits.  The
     * new group fails by itself. */
    spc_status (*split)(spc_device_comm *comm, int32_t colour, spc_device_comm **out,
                        spc_error *err);

    /* Wait until the stream has done everything before, at most for the group's timeout: then, or
     * when another rank ended the group, it ends here too. */
    spc_status (*wait)(spc_device_comm *comm, spc_stream stream, spc_error *err);
    /* End the group for this reason, cut where it is too long; later reasons are dropped. */
    void (*abort)(spc_device_comm *comm, const char *reason);
    /* SPC_OK, or why the group has ended; waits for nobody. */
    spc_status (*async_error)(spc_device_comm *comm, spc_error *err);
    void (*close)(spc_device_comm *comm);
} spc_device_comm_ops;

/* What every implementation begins with. */
struct spc_device_comm {
    const spc_device_comm_ops *ops;
    int32_t rank, world;
    bool hangs; /* the device is busy for ever: whatever waits for it does, and so does its free */
};

/* For implementations: the verb wait, by asking the stream and async_error in turn.
 *
 * late   what ends the group, called once after timeout_ms; what: "waiting for the device" */
typedef spc_status (*spc_device_comm_late)(spc_device_comm *comm, const char *what,
                                           spc_stream stream, spc_error *err);
spc_status spc_device_comm_wait(spc_device_comm *comm, int32_t timeout_ms, spc_stream stream,
                                spc_device_comm_late late, spc_error *err);
/* A short rest before the next question of a wait that began then (spc_awake_ms): none while the
 * answer may come at once. */
void spc_device_comm_rest(int64_t begun_ms);

/* NULL is allowed. */
void spc_device_comm_close(spc_device_comm *comm);

#endif
