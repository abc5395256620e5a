/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_comm_virtual.c - ranks as threads that share one GPU: every call against what it must
 * leave, and ranks that let the others down.  Built twice: against the device, and over
 * tests/fibers. */
#include "host/ranks/comm_virtual.h"

#include "device_ranks.h"

#include <criterion/criterion.h>
#include <pthread.h>

enum { LONG_MS = 20000, SHORT_MS = 1000 }; /* the first call of a process wakes the device */

/* One rank's part of a test, on its own thread. */
typedef struct {
    spc_device_comm *comm;
    spc_status (*run)(spc_device_comm *comm, spc_error *err);
    spc_status status;
    spc_error error;
} part;

static void *run_part(void *user)
{
    part *p = user;

    (void)cudaSetDevice(0);
    p->status = p->run(p->comm, &p->error);
    return NULL;
}

static void run_ranks(int32_t world, int32_t timeout_ms, part *parts,
                      spc_status (*run)(spc_device_comm *, spc_error *))
{
    spc_device_comm *comm[RANKS_MOST];
    pthread_t thread[RANKS_MOST];
    spc_error error;

    cr_assert_eq(spc_virtual_open(world, timeout_ms, comm, &error), SPC_OK, "%s", error.message);
    for (int32_t r = 0; r < world; r++) {
        parts[r] = (part){.comm = comm[r], .run = run};
        cr_assert_eq(pthread_create(&thread[r], NULL, run_part, &parts[r]), 0);
    }
    for (int32_t r = 0; r < world; r++) (void)pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < world; r++) comm[r]->ops->close(comm[r]);
}

Test(host_comm_virtual, calls_leave_what_those_of_threads_leave)
{
    part parts[RANKS_MOST];

    for (int32_t world = 1; world <= 5; world++) {
        run_ranks(world, LONG_MS, parts, ranks_sum_and_move);
        for (int32_t r = 0; r < world; r++) {
            cr_expect_eq(parts[r].status, SPC_OK, "%s", parts[r].error.message);
        }
    }
}

static spc_status splits(spc_device_comm *c, spc_error *err)
{
    spc_device_comm *half;
    spc_status status;
    size_t none[5] = {0};

    CALL(c->ops->split(c, c->rank % 2, &half, err));
    CLAIM(half->rank == c->rank / 2 && half->world == 2);
    status = ranks_sum_and_move(half, err);
    CALL(c->ops->all_gather(c, NULL, none, NULL, err)); /* both are done */
    if (status == SPC_OK) {
        half->ops->abort(half, "for a test");
        status = half->ops->all_gather(half, NULL, none, NULL, err);
        status = status == SPC_EDEVICE && strcmp(err->message, "for a test") == 0 ? SPC_OK
                                                                                  : SPC_EINTERNAL;
    }
    half->ops->close(half);
    CALL(status);
    CALL(c->ops->async_error(c, err));
    return ranks_sum_and_move(c, err);
}

Test(host_comm_virtual, groups_split_and_end_by_themselves)
{
    part parts[RANKS_MOST];

    run_ranks(4, LONG_MS, parts, splits);
    for (int32_t r = 0; r < 4; r++) {
        cr_expect_eq(parts[r].status, SPC_OK, "%s", parts[r].error.message);
    }
}

static spc_status comes_not(spc_device_comm *c, spc_error *err)
{
    return c->rank == 2 ? SPC_OK : c->ops->all_reduce(c, NULL, 0, NULL, err);
}

static spc_status differs(spc_device_comm *c, spc_error *err)
{
    return c->rank == 1 ? c->ops->broadcast(c, NULL, 0, 1, NULL, err)
                        : c->ops->all_reduce(c, NULL, 0, NULL, err);
}

static spc_status sends_more(spc_device_comm *c, spc_error *err)
{
    if (c->rank == 0) return c->ops->send(c, NULL, 5, 1, NULL, err);
    return c->ops->recv(c, NULL, 4, 0, NULL, err);
}

Test(host_comm_virtual, ranks_that_let_others_down_are_named)
{
    static const struct {
        int32_t world, timeout_ms;
        spc_status (*run)(spc_device_comm *comm, spc_error *err);
        const char *said;
    } cases[] = {
        {3, SHORT_MS, comes_not, "these did not come: rank 2"},
        {2, LONG_MS, differs, "rank 0 calls all_reduce (size 0, root 0), rank 1 broadcast"},
        {2, LONG_MS, sends_more, "rank 0 sends 5 bytes, rank 1 expects 4"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        part parts[RANKS_MOST];

        run_ranks(cases[i].world, cases[i].timeout_ms, parts, cases[i].run);
        for (int32_t r = 0; r < 2; r++) {
            cr_expect_eq(parts[r].status, SPC_EDEVICE);
            cr_expect(strstr(parts[r].error.message, cases[i].said), "%s", parts[r].error.message);
        }
    }
}

Test(host_comm_virtual, what_cannot_be_is_refused)
{
    spc_device_comm *comm[RANKS_MOST];
    spc_error error;

    cr_expect_eq(spc_virtual_open(0, LONG_MS, comm, &error), SPC_EUSAGE);
    cr_expect_eq(spc_virtual_open(65, LONG_MS, comm, &error), SPC_EUSAGE);
    cr_expect_eq(spc_virtual_open(2, 0, comm, &error), SPC_EUSAGE);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
static spc_status sticks(spc_device_comm *c, spc_error *err)
{
    spc_status status;

    if (c->rank == 0) fiber_stick(true);
    status = c->ops->wait(c, NULL, err);
    /* to be asked too early is no error, nor is it kept as the thread's last one */
    return cudaGetLastError() == cudaSuccess ? status : SPC_EUSAGE;
}

Test(host_comm_virtual, a_stream_that_never_ends_is_not_waited_for)
{
    part parts[RANKS_MOST];

    run_ranks(2, SHORT_MS, parts, sticks);
    cr_expect_eq(parts[0].status, SPC_EDEVICE);
    cr_expect(strstr(parts[0].error.message, "rank 0 of 2: virtual: waiting for the device"), "%s",
              parts[0].error.message);
}

static spc_status sums(spc_device_comm *c, spc_error *err)
{
    float data = 1;

    return c->ops->all_reduce(c, &data, 1, NULL, err);
}

Test(host_comm_virtual, a_launch_that_fails_is_every_ranks_error)
{
    part parts[RANKS_MOST];

    fiber_gpu.fails_after = fiber_gpu.launches;
    run_ranks(2, LONG_MS, parts, sums);
    for (int32_t r = 0; r < 2; r++) {
        cr_expect_eq(parts[r].status, SPC_EDEVICE);
        cr_expect(strstr(parts[r].error.message, "rank 0 of 2: all_reduce: an illegal"), "%s",
                  parts[r].error.message);
    }
}
#endif
