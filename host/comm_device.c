/* SPDX-License-Identifier: Apache-2.0 */
/* comm_device.c - what groups over device memory share: waits that end. */
#include "comm_device.h"

#include <cuda_runtime_api.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

int64_t spc_device_comm_now(void)
{
    struct timespec at;

    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

/* How long an answer is asked for without a sleep: longer than rounds take, for Linux makes 70 to
 * 120 us of the shortest one.  And how long a sleep may be short. */
enum { BRISK_NS = 20000000, PATIENT_NS = 200000000 };

void spc_device_comm_rest(int64_t begun)
{
    int64_t waited = spc_device_comm_now() - begun;
    struct timespec pause = {0, waited > PATIENT_NS ? 500000 : 20000};

    if (waited > BRISK_NS) {
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
    int64_t begun = spc_device_comm_now(), deadline = begun + (int64_t)timeout_ms * 1000000;

    for (;;) {
        cudaError_t code = cudaStreamQuery(stream);
        spc_status status = comm->ops->async_error(comm, err);

        if (status != SPC_OK || code == cudaSuccess) return status;
        if (code == cudaErrorNotReady) (void)cudaGetLastError(); /* no error, but kept as one */
        if (code != cudaErrorNotReady) return end_by(comm, cudaGetErrorString(code), err);
        if (spc_device_comm_now() > deadline) {
            return late(comm, "waiting for the device", stream, err);
        }
        spc_device_comm_rest(begun);
    }
}

void spc_device_comm_close(spc_device_comm *comm)
{
    if (comm) comm->ops->close(comm);
}
