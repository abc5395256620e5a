/* SPDX-License-Identifier: Apache-2.0 */
/* comm_device.c - what groups over device memory share: waits that end. */
#include "comm_device.h"

#include "awake.h"

#include <cuda_runtime_api.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

/* How long an answer is asked for without a sleep: longer than rounds take, for Linux makes 70 to
 * 120 us of the shortest one.  And how long a sleep may be short. */
enum { BRISK_MS = 20, PATIENT_MS = 200 };

void spc_device_comm_rest(int64_t begun_ms)
{
    int64_t waited = spc_awake_ms() - begun_ms;
    struct timespec pause = {0, waited > PATIENT_MS ? 500000 : 20000};

    if (waited > BRISK_MS) {
        (void)nanosleep(&pause, NULL);
    } else {
        (void)sched_yield();
    }
}

static spc_status end_by(spc_device_comm *comm, const char *why, spc_error *err)
{
    char text[256];

    (void)snprintf(text, sizeof text, "rank %d of %d: %s: %.150s", (int)comm->rank,
                   (int)comm->world, comm->ops->name, why);
    comm->ops->abort(comm, text);
    return comm->ops->async_error(comm, err);
}

spc_status spc_device_comm_wait(spc_device_comm *comm, int32_t timeout_ms, spc_stream stream,
                                spc_device_comm_late late, spc_error *err)
{
    int64_t begun = spc_awake_ms(), deadline = begun + timeout_ms;

    for (;;) {
        cudaError_t code = cudaStreamQuery(stream);
        spc_status status = comm->ops->async_error(comm, err);

        if (status != SPC_OK || code == cudaSuccess) return status;
        if (code == cudaErrorNotReady) (void)cudaGetLastError(); /* no error, but kept as one */
        if (code != cudaErrorNotReady) return end_by(comm, cudaGetErrorString(code), err);
        if (spc_awake_left_ms(deadline) == 0) {
            return late(comm, "waiting for the device", stream, err);
        }
        spc_device_comm_rest(begun);
    }
}

void spc_device_comm_close(spc_device_comm *comm)
{
    if (comm) comm->ops->close(comm);
}
