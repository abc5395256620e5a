/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_pulse.c - signs of life between ranks: one that gives none is named in time, those that
 * leave in order are missed by nobody.  (Processes: test_host_cli_launch_gpu.c.) */
#include "host/ranks/pulse.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

enum { RANKS = 3, TIMEOUT_MS = 800 };

typedef struct {
    spc_comm *comm;
    spc_status (*run)(spc_comm *comm, spc_error *err);
    spc_status status;
    spc_error error;
} part;

static void *run_part(void *user)
{
    part *p = user;

    p->status = p->run(p->comm, &p->error);
    return NULL;
}

static void run_ranks(part *parts, spc_status (*run)(spc_comm *, spc_error *))
{
    spc_comm *comm[RANKS];
    pthread_t thread[RANKS];

    cr_assert_eq(spc_comm_local_open(RANKS, TIMEOUT_MS, comm, NULL), SPC_OK);
    for (int32_t r = 0; r < RANKS; r++) {
        parts[r] = (part){.comm = comm[r], .run = run};
        cr_assert_eq(pthread_create(&thread[r], NULL, run_part, &parts[r]), 0);
    }
    for (int32_t r = 0; r < RANKS; r++) (void)pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < RANKS; r++) spc_comm_close(comm[r]);
}

static void sleep_ms(long ms)
{
    (void)nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

static spc_status leaves(spc_comm *comm, spc_error *err)
{
    spc_pulse *pulse;
    spc_status status = spc_pulse_open(comm, TIMEOUT_MS, &pulse, err);

    if (status != SPC_OK) return status;
    sleep_ms(2 * TIMEOUT_MS + comm->rank * 20);
    status = comm->ops->async_error(comm, err);
    spc_pulse_leave(pulse);
    spc_pulse_close(pulse);
    return status == SPC_OK ? comm->ops->barrier(comm, err) : status;
}

Test(host_pulse, ranks_that_live_and_leave_in_order_are_missed_by_nobody)
{
    part parts[RANKS];

    run_ranks(parts, leaves);
    for (int32_t r = 0; r < RANKS; r++) {
        cr_expect_eq(parts[r].status, SPC_OK, "rank %d: %s", (int)r, parts[r].error.message);
    }
}

/* Rank 2 has a place among the signs, and gives none. */
static spc_status is_silent(spc_comm *comm, spc_error *err)
{
    spc_pulse *pulse = NULL;
    spc_comm *own = NULL;
    spc_status status = comm->rank == 2 ? comm->ops->split(comm, 0, TIMEOUT_MS / 2, &own, err)
                                        : spc_pulse_open(comm, TIMEOUT_MS, &pulse, err);

    sleep_ms(TIMEOUT_MS);
    if (status == SPC_OK) status = comm->ops->async_error(comm, err);
    spc_pulse_close(pulse);
    spc_comm_close(own);
    return status;
}

static spc_status closes(spc_comm *comm, spc_error *err)
{
    spc_pulse *pulse;
    spc_status status = spc_pulse_open(comm, TIMEOUT_MS, &pulse, err);

    if (status != SPC_OK) return status;
    sleep_ms(comm->rank == 1 ? 1 : TIMEOUT_MS);
    status = comm->ops->async_error(comm, err);
    spc_pulse_close(pulse);
    return comm->rank == 1 ? SPC_EDEVICE : status;
}

/* Rank 1 says why it ends the group, and closes at once: signs of life stop while nobody else has
 * looked at the group. */
static spc_status fails(spc_comm *comm, spc_error *err)
{
    spc_pulse *pulse;
    spc_status status = spc_pulse_open(comm, TIMEOUT_MS, &pulse, err);

    if (status != SPC_OK) return status;
    sleep_ms(comm->rank == 1 ? 1 : TIMEOUT_MS);
    if (comm->rank == 1) comm->ops->abort(comm, "the GPU of rank 1 hangs");
    status = comm->ops->async_error(comm, err);
    spc_pulse_close(pulse);
    return status;
}

static void expect_end(const part *parts, int32_t but, const char *text)
{
    for (int32_t r = 0; r < RANKS; r++) {
        cr_expect_eq(parts[r].status, SPC_EDEVICE, "rank %d", (int)r);
        if (r != but) cr_expect_str_eq(parts[r].error.message, text);
    }
}

Test(host_pulse, a_rank_without_a_sign_ends_the_group_with_its_name)
{
    part parts[RANKS];

    run_ranks(parts, is_silent);
    expect_end(parts, -1,
               "all_gather: expected all 3 ranks within 400 ms, and these did not come: rank 2");
    run_ranks(parts, closes);
    expect_end(parts, 1, "rank 1 has closed its engine");
}

Test(host_pulse, a_rank_that_fails_is_heard_of_by_its_own_reason)
{
    part parts[RANKS];

    run_ranks(parts, fails);
    expect_end(parts, -1, "the GPU of rank 1 hangs");
}
