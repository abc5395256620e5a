/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_comm_nccl.c - ranks over NCCL.  Built twice: against the library where it is installed,
 * which tells its version without a GPU, and over tests/fibers against a stand-in
 * (stand_in_nccl.c), where ranks are threads, calls are noted, and others let a rank down. */
#include "host/ranks/comm_nccl.h"

#include <criterion/criterion.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <string.h>

#ifndef SPC_TESTS_FIBER_RUNTIME_H

Test(host_comm_nccl, the_library_is_found_with_its_calls_or_said_to_be_missing)
{
    int32_t version = 0;
    spc_error error;
    spc_status status = spc_nccl_version(NULL, &version, &error);

    if (status == SPC_OK) {
        cr_expect_geq(version, 21800);
    } else { /* no header, no library, or an old one */
        cr_expect(strstr(error.message, "nccl"), "%s", error.message);
        cr_expect(strstr(error.message, "2.18") || strstr(error.message, "header"), "%s",
                  error.message);
    }
}

#else

#include "device_ranks.h"
#include "stand_in_nccl.h"
#include "stopped.h"

#include <nccl.h>

enum { LONG_MS = 20000, SHORT_MS = 150 };

/* One rank's part of a test, on its own thread. */
typedef struct {
    int32_t rank, world, timeout_ms;
    const char *id;
    spc_status (*run)(spc_device_comm *comm, spc_error *err);
    spc_status status;
    spc_error error;
    double seconds; /* from before it joined to the end of its run */
} part;

static void *run_part(void *user)
{
    part *p = user;
    spc_device_comm *comm;
    double begun = ranks_now();

    (void)cudaSetDevice(p->rank);
    p->status = spc_nccl_open(SPC_STAND_IN, p->id, p->rank, p->world, p->timeout_ms, NULL, &comm,
                              &p->error);
    if (p->status == SPC_OK) {
        if (p->run) p->status = p->run(comm, &p->error);
        comm->ops->close(comm);
    }
    p->seconds = ranks_now() - begun;
    fiber_stick(false);
    return NULL;
}

/* left   communicators of devices that hang */
static void run_ranks(int32_t world, int32_t timeout_ms, part *parts,
                      spc_status (*run)(spc_device_comm *, spc_error *), int left)
{
    char id[SPC_NCCL_ID_BYTES];
    pthread_t thread[STAND_IN_RANKS];
    spc_error error;

    fiber_gpu.devices = STAND_IN_RANKS;
    cr_assert_eq(spc_nccl_id(SPC_STAND_IN, id, &error), SPC_OK, "%s", error.message);
    for (int32_t r = 0; r < world; r++) {
        parts[r] =
            (part){.rank = r, .world = world, .timeout_ms = timeout_ms, .id = id, .run = run};
        cr_assert_eq(pthread_create(&thread[r], NULL, run_part, &parts[r]), 0);
    }
    for (int32_t r = 0; r < world; r++) (void)pthread_join(thread[r], NULL);
    cr_expect_eq(stand_in.open, left, "a communicator was not freed");
}

Test(host_comm_nccl, calls_leave_what_those_of_threads_leave)
{
    part parts[STAND_IN_RANKS];

    for (int32_t world = 1; world <= 4; world++) {
        run_ranks(world, LONG_MS, parts, ranks_sum_and_move, 0);
        for (int32_t r = 0; r < world; r++) {
            cr_expect_eq(parts[r].status, SPC_OK, "%s", parts[r].error.message);
        }
    }
    cr_expect_eq(stand_in.aborted, 0);
}

static spc_status splits(spc_device_comm *c, spc_error *err)
{
    spc_device_comm *half;
    float one = 1;

    CALL(c->ops->split(c, c->rank % 2, &half, err));
    CLAIM(half->rank == c->rank / 2 && half->world == 2);
    CALL(half->ops->all_reduce(half, &one, 1, NULL, err));
    CLAIM(one == 2);
    half->ops->abort(half, "for a test");
    CLAIM(half->ops->all_reduce(half, &one, 1, NULL, err) == SPC_EDEVICE);
    CLAIM(strcmp(err->message, "for a test") == 0);
    half->ops->close(half);
    CALL(c->ops->async_error(c, err));
    CALL(c->ops->all_reduce(c, &one, 1, NULL, err));
    CLAIM(one == 8);
    return SPC_OK;
}

Test(host_comm_nccl, groups_split_and_end_by_themselves)
{
    part parts[STAND_IN_RANKS];

    run_ranks(4, LONG_MS, parts, splits, 0);
    for (int32_t r = 0; r < 4; r++) {
        cr_expect_eq(parts[r].status, SPC_OK, "%s", parts[r].error.message);
    }
    cr_expect_eq(stand_in.aborted, 4);
}

/* Calls recorded in a graph run as often as it does. */
static spc_status replays(spc_device_comm *c, spc_error *err)
{
    float data = (float)(c->rank + 1);
    cudaGraphExec_t exec;
    cudaGraph_t graph;

    CLAIM(c->ops->capturable);
    CLAIM(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CALL(c->ops->all_reduce(c, &data, 1, NULL, err));
    CLAIM(data == (float)(c->rank + 1));
    CLAIM(cudaStreamEndCapture(NULL, &graph) == cudaSuccess);
    CLAIM(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    (void)cudaGraphDestroy(graph);
    for (int32_t i = 0; i < 2; i++) CLAIM(cudaGraphLaunch(exec, NULL) == cudaSuccess);
    (void)cudaGraphExecDestroy(exec);
    CALL(c->ops->wait(c, NULL, err));
    CLAIM(data == 6);
    return SPC_OK;
}

Test(host_comm_nccl, calls_can_be_recorded)
{
    part parts[STAND_IN_RANKS];

    run_ranks(2, LONG_MS, parts, replays, 0);
    for (int32_t r = 0; r < 2; r++) {
        cr_expect_eq(parts[r].status, SPC_OK, "%s", parts[r].error.message);
        cr_expect(stand_in.call[r][0].recorded && stand_in.call[r][1].recorded);
    }
}

/* ---- ranks that let others down ---------------------------------------------------------------
 */

static spc_status three_sums(spc_device_comm *c, spc_error *err)
{
    float data = 1;

    for (int32_t i = 0; i < 3; i++) CALL(c->ops->all_reduce(c, &data, 1, NULL, err));
    CALL(c->ops->wait(c, NULL, err));
    return data == 8 ? SPC_OK : SPC_EINTERNAL;
}

Test(host_comm_nccl, a_rank_that_cannot_join_says_why_and_the_others_do_not_wait_for_ever)
{
    part parts[STAND_IN_RANKS];

    stand_in.failing_init = 1;
    run_ranks(2, SHORT_MS, parts, three_sums, 0);
    cr_expect_eq(parts[1].status, SPC_EDEVICE);
    cr_expect(strstr(parts[1].error.message, "rank 1 of 2: nccl: joining the group: unhandled"),
              "%s", parts[1].error.message);
    cr_expect_eq(parts[0].status, SPC_EDEVICE);
    cr_expect(strstr(parts[0].error.message, "joining the group: expected all ranks within 150 ms"),
              "%s", parts[0].error.message);
    cr_expect_lt(parts[0].seconds, 10.0);
}

Test(host_comm_nccl, a_rank_that_never_joins_is_not_waited_for)
{
    part parts[STAND_IN_RANKS];

    stand_in.absent_init = 0;
    run_ranks(2, SHORT_MS, parts, three_sums, 0);
    for (int32_t r = 0; r < 2; r++) {
        cr_expect_eq(parts[r].status, SPC_EDEVICE);
        cr_expect(strstr(parts[r].error.message, "expected all ranks within 150 ms"), "%s",
                  parts[r].error.message);
    }
}

Test(host_comm_nccl, a_late_rank_is_waited_for)
{
    part parts[STAND_IN_RANKS];

    stand_in.late = 1;
    stand_in.late_ms = 60;
    run_ranks(2, LONG_MS, parts, three_sums, 0);
    cr_expect_eq(parts[0].status, SPC_OK, "%s", parts[0].error.message);
    cr_expect_geq(parts[0].seconds, 0.18);
}

static void *stop_and_unstick(void *self)
{
    (void)usleep(50000);
    (void)raise(SIGSTOP);
    (void)usleep(100000);
    fiber_unstick(self);
    return NULL;
}

/* All are stopped: while a call waits for another rank, and while a stream does. */
static spc_status stops(spc_device_comm *c, spc_error *err)
{
    float data = 1;
    spc_status status;
    pthread_t thread;

    if (c->rank == 1) (void)raise(SIGSTOP);
    CALL(c->ops->all_reduce(c, &data, 1, NULL, err));
    CALL(c->ops->wait(c, NULL, err));
    if (c->rank == 1) return SPC_OK;
    fiber_stick(true);
    CLAIM(pthread_create(&thread, NULL, stop_and_unstick, fiber_self()) == 0);
    status = c->ops->wait(c, NULL, err);
    (void)pthread_join(thread, NULL);
    return status;
}

/* 0, or 1 + the rank that failed. */
static int run_stopped(void *user)
{
    part parts[STAND_IN_RANKS];

    (void)user;
    stand_in.late = 1;
    stand_in.late_ms = 100;
    run_ranks(2, 1000, parts, stops, 0);
    for (int32_t r = 0; r < 2; r++) {
        if (parts[r].status != SPC_OK) return 1 + r;
    }
    return 0;
}

Test(host_comm_nccl, time_in_which_all_are_stopped_does_not_count)
{
    int count;

    cr_expect_eq(stopped_run(1500, run_stopped, NULL, &count), 0);
    cr_expect_eq(count, 2);
}

Test(host_comm_nccl, a_rank_that_dies_ends_the_others)
{
    part parts[STAND_IN_RANKS];

    stand_in.dead = 1;
    stand_in.from = 1;
    run_ranks(2, LONG_MS, parts, three_sums, 0);
    cr_expect_eq(parts[0].status, SPC_EDEVICE);
    cr_expect(strstr(parts[0].error.message, "rank 0 of 2: nccl: ") &&
                  strstr(parts[0].error.message, "remote process exited"),
              "%s", parts[0].error.message);
    cr_expect(strstr(parts[0].error.message, "the stand-in was told so"), "%s",
              parts[0].error.message);
    cr_expect_lt(parts[0].seconds, 10.0);
}

Test(host_comm_nccl, a_rank_that_hangs_ends_the_others_in_time)
{
    part parts[STAND_IN_RANKS];

    stand_in.mute = 1;
    stand_in.from = 2;
    run_ranks(2, SHORT_MS, parts, three_sums, 0);
    cr_expect_eq(parts[0].status, SPC_EDEVICE);
    cr_expect(strstr(parts[0].error.message, "all_reduce: expected all ranks within 150 ms"), "%s",
              parts[0].error.message);
    cr_expect_geq(parts[0].seconds, 0.15);
    cr_expect_lt(parts[0].seconds, 10.0);
    cr_expect_geq(stand_in.aborted, 1);
}

/* Its graph is there still when the group ends, and goes before the group is closed. */
static spc_status graph_outlives(spc_device_comm *c, spc_error *err)
{
    float data = 1;
    cudaGraphExec_t exec;
    cudaGraph_t graph;
    spc_status status;

    CLAIM(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CALL(c->ops->all_reduce(c, &data, 1, NULL, err));
    CLAIM(cudaStreamEndCapture(NULL, &graph) == cudaSuccess);
    CLAIM(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    (void)cudaGraphDestroy(graph);
    CLAIM(cudaGraphLaunch(exec, NULL) == cudaSuccess);
    status = c->ops->wait(c, NULL, err);
    CLAIM(cudaStreamSynchronize(NULL) == cudaSuccess); /* its kernels were let go of */
    (void)cudaGraphExecDestroy(exec);
    return status;
}

Test(host_comm_nccl, a_group_ends_while_a_graph_holds_its_calls)
{
    part parts[STAND_IN_RANKS];

    stand_in.mute = 1;
    stand_in.in_graph = true;
    stand_in.patience_ms = 50;
    run_ranks(2, SHORT_MS, parts, graph_outlives, 0);
    for (int32_t r = 0; r < 2; r++) {
        cr_expect_eq(parts[r].status, SPC_EDEVICE);
        cr_expect_lt(parts[r].seconds, 10.0);
    }
    cr_expect_eq(stand_in.aborted, 2);
}

/* It is known whose device it is that hangs, and closing waits for nothing. */
Test(host_comm_nccl, a_rank_whose_device_hangs_says_so)
{
    part parts[STAND_IN_RANKS];

    stand_in.hanging = 1;
    stand_in.from = 2;
    run_ranks(2, SHORT_MS, parts, three_sums, 1);
    for (int32_t r = 0; r < 2; r++) {
        cr_expect_eq(parts[r].status, SPC_EDEVICE);
        cr_expect_lt(parts[r].seconds, 10.0);
    }
    cr_expect(strstr(parts[1].error.message, "waiting for the device: expected all ranks within "
                                             "150 ms, and the GPU of rank 1 hangs"),
              "%s", parts[1].error.message);
    cr_expect(
        strstr(parts[0].error.message, "all_reduce: expected all ranks within 150 ms, and some"),
        "%s", parts[0].error.message);
}

/* A kernel on the device waits for the other rank: the stream never ends, and nobody asks it to. */
static spc_status sticks(spc_device_comm *c, spc_error *err)
{
    fiber_stick(true);
    return c->ops->wait(c, NULL, err);
}

Test(host_comm_nccl, a_stream_that_never_ends_is_not_waited_for)
{
    part parts[STAND_IN_RANKS];

    run_ranks(1, SHORT_MS, parts, sticks, 0);
    cr_expect_eq(parts[0].status, SPC_EDEVICE);
    cr_expect(strstr(parts[0].error.message, "waiting for the device: expected all ranks within"),
              "%s", parts[0].error.message);
}

static spc_status is_aborted(spc_device_comm *c, spc_error *err)
{
    float data = 1;

    if (c->rank == 1) { /* another thread's abort: this rank's own calls find it */
        c->ops->abort(c, "rank 0 said so");
        c->ops->abort(c, "a later reason");
    }
    return c->ops->all_reduce(c, &data, 1, NULL, err);
}

Test(host_comm_nccl, an_abort_is_the_answer_of_every_later_call)
{
    part parts[STAND_IN_RANKS];

    run_ranks(2, SHORT_MS, parts, is_aborted, 0);
    cr_expect_str_eq(parts[1].error.message, "rank 0 said so");
    cr_expect_eq(parts[0].status, SPC_EDEVICE);
}

static spc_status differs(spc_device_comm *c, spc_error *err)
{
    float data[2] = {1, 1};

    return c->ops->all_reduce(c, data, c->rank == 0 ? 1 : 2, NULL, err);
}

Test(host_comm_nccl, ranks_that_call_differently_fail)
{
    part parts[STAND_IN_RANKS];

    run_ranks(2, LONG_MS, parts, differs, 0);
    for (int32_t r = 0; r < 2; r++) {
        cr_expect_eq(parts[r].status, SPC_EDEVICE);
        cr_expect(strstr(parts[r].error.message, "invalid usage"), "%s", parts[r].error.message);
    }
}

/* ---- what cannot be ---------------------------------------------------------------------------
 */

Test(host_comm_nccl, an_applications_communicator_is_used_and_left_alone)
{
    char id[SPC_NCCL_ID_BYTES];
    float data = 2;
    ncclUniqueId name;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclComm_t handle;
    spc_device_comm *comm;
    spc_error error;

    cr_assert_eq(spc_nccl_id(SPC_STAND_IN, id, &error), SPC_OK);
    memcpy(&name, id, sizeof name);
    cr_assert_eq(ncclCommInitRankConfig(&handle, 1, name, 0, &config), ncclSuccess);
    cr_assert_eq(spc_nccl_adopt(SPC_STAND_IN, handle, LONG_MS, &comm, &error), SPC_OK, "%s",
                 error.message);
    cr_expect(comm->rank == 0 && comm->world == 1);
    cr_expect_eq(comm->ops->all_reduce(comm, &data, 1, NULL, &error), SPC_OK);
    comm->ops->close(comm);
    cr_assert_eq(spc_nccl_adopt(SPC_STAND_IN, handle, LONG_MS, &comm, &error), SPC_OK);
    comm->ops->abort(comm, "over");
    cr_expect_eq(comm->ops->async_error(comm, &error), SPC_EDEVICE);
    comm->ops->close(comm);
    cr_expect(stand_in.open == 1 && stand_in.aborted == 0, "it is not ours to free");
    fiber_gpu.devices = 2;
    (void)cudaSetDevice(1);
    cr_expect_eq(spc_nccl_adopt(SPC_STAND_IN, handle, LONG_MS, &comm, &error), SPC_EUSAGE);
    cr_expect_null(comm);
    cr_expect(strstr(error.message, "of cuda:1, found one of cuda:0"), "%s", error.message);
    cr_expect_eq(ncclCommDestroy(handle), ncclSuccess);
    cr_expect_eq(spc_nccl_adopt(SPC_STAND_IN, NULL, LONG_MS, &comm, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "found NULL"), "%s", error.message);
}

Test(host_comm_nccl, what_cannot_be_is_one_line)
{
    char id[SPC_NCCL_ID_BYTES] = {0};
    spc_device_comm *comm;
    int32_t version;
    spc_error error;

    cr_expect_eq(spc_nccl_version("libnccl-of-nobody.so.2", &version, &error), SPC_EDEVICE);
    cr_expect(strstr(error.message, "cannot load libnccl-of-nobody.so.2"), "%s", error.message);
    cr_expect_eq(spc_nccl_open("libm.so.6", id, 0, 1, 1, NULL, &comm, &error), SPC_EDEVICE);
    cr_expect_null(comm);
    cr_expect(strstr(error.message, "libm.so.6: expected NCCL 2.18"), "%s", error.message);
    stand_in.version = 21703;
    cr_expect_eq(spc_nccl_id(SPC_STAND_IN, id, &error), SPC_EDEVICE);
    cr_expect(strstr(error.message, "found version 21703"), "%s", error.message);
    stand_in.version = 22809;
    cr_expect_eq(spc_nccl_version(SPC_STAND_IN, &version, &error), SPC_OK);
    cr_expect_eq(version, 22809);
    cr_expect_eq(spc_nccl_open(SPC_STAND_IN, id, 2, 2, 1, NULL, &comm, &error), SPC_EUSAGE);
    cr_expect_eq(spc_nccl_open(SPC_STAND_IN, id, 0, 65, 1, NULL, &comm, &error), SPC_EUSAGE);
    cr_expect_eq(spc_nccl_open(SPC_STAND_IN, id, 0, 1, 0, NULL, &comm, &error), SPC_EUSAGE);
    cr_expect_eq(stand_in.open, 0);
}

#endif
