/* SPDX-License-Identifier: Apache-2.0 */
/* comm_cases.c - what a communicator promises: every call against what it must leave, in groups of
 * 1 to 4, and every way in which a rank can let the others down. */
#include "comm_cases.h"
#include "stopped.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { RANKS = COMM_CASES_RANKS, LONG_MS = 20000, SHORT_MS = 100, ELEMENTS = 1000 };

/* One rank's part of a test, on its own thread. */
typedef struct {
    spc_comm *comm;
    void (*run)(spc_comm *comm, spc_status *status, spc_error *err);
    spc_status status;
    spc_error error;
} part;

static void *run_part(void *user)
{
    part *p = user;

    p->error.message[0] = '\0';
    p->run(p->comm, &p->status, &p->error);
    return NULL;
}

static void run_ranks(comm_open open, int32_t world, int32_t timeout_ms, part *parts,
                      void (*run)(spc_comm *, spc_status *, spc_error *))
{
    spc_comm *comm[RANKS];
    pthread_t thread[RANKS];
    spc_error error;

    cr_assert_eq(open(world, timeout_ms, comm, &error), SPC_OK, "%s", error.message);
    for (int32_t r = 0; r < world; r++) {
        parts[r] = (part){.comm = comm[r], .run = run};
        cr_assert_eq(comm[r]->rank, r);
        cr_assert_eq(comm[r]->world, world);
        cr_assert_eq(pthread_create(&thread[r], NULL, run_part, &parts[r]), 0);
    }
    for (int32_t r = 0; r < world; r++) (void)pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < world; r++) spc_comm_close(comm[r]);
}

static void sleep_ms(long ms)
{
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000L};

    (void)nanosleep(&wait, NULL);
}

/* A claim inside a thread: what fails is the rank's result. */
#define CLAIM(condition)                                                                          \
    do {                                                                                          \
        if (condition) break;                                                                     \
        *status = spc_error_set(err, SPC_EINTERNAL, "rank %d: not " #condition, (int)comm->rank); \
        return;                                                                                   \
    } while (0)
#define CALL(call)           \
    do {                     \
        *status = (call);    \
        if (*status) return; \
    } while (0)

/* ---- what the calls leave ---------------------------------------------------------------------
 */

/* Values whose sum depends on the order of addition. */
static float value_of(int32_t rank, int32_t i)
{
    static const float scale[RANKS] = {1e-3f, 3e4f, -1.7f, -3e4f};

    return scale[rank] * (1.0f + (float)((i * 37 + rank * 11) % 101) / 7.0f);
}

static void sums(spc_comm *comm, spc_status *status, spc_error *err)
{
    float data[ELEMENTS];

    for (int32_t count = 0; count <= ELEMENTS; count = count < 5 ? count + 1 : count * 5) {
        for (int32_t i = 0; i < count; i++) data[i] = value_of(comm->rank, i);
        sleep_ms((comm->rank * 7 + count) % 3); /* whoever comes last */
        CALL(comm->ops->all_reduce(comm, data, (size_t)count, err));
        for (int32_t i = 0; i < count; i++) {
            float sum = value_of(0, i);

            for (int32_t r = 1; r < comm->world; r++) sum += value_of(r, i);
            CLAIM(memcmp(&sum, &data[i], sizeof sum) == 0);
        }
    }
}

static void moves(spc_comm *comm, spc_status *status, spc_error *err)
{
    char data[64], expected[64];
    size_t begin[RANKS + 1] = {0};

    for (int32_t root = 0; root < comm->world; root++) {
        memset(data, 'a' + comm->rank, sizeof data);
        CALL(comm->ops->broadcast(comm, data, 40, root, err));
        memset(expected, 'a' + root, 40);
        memset(expected + 40, 'a' + comm->rank, 24);
        CLAIM(memcmp(data, expected, sizeof data) == 0);
    }
    for (int32_t r = 0; r < comm->world; r++) { /* parts of 0, 5, 10 and 15 bytes */
        memset(expected + begin[r], 'A' + r, (size_t)r * 5);
        begin[r + 1] = begin[r] + (size_t)r * 5;
    }
    memset(data, 'A' + comm->rank, sizeof data);
    CALL(comm->ops->all_gather(comm, data, begin, err));
    CLAIM(memcmp(data, expected, begin[comm->world]) == 0);
    CLAIM(data[begin[comm->world]] == 'A' + comm->rank);
}

/* A ring, even ranks sending first; with one rank there is nobody to send to. */
static void letters(spc_comm *comm, spc_status *status, spc_error *err)
{
    int32_t next = (comm->rank + 1) % comm->world;
    int32_t last = (comm->rank + comm->world - 1) % comm->world, got = -1;

    for (int32_t round = 0; round < 50 && comm->world > 1; round++) {
        int32_t mine = comm->rank * 1000 + round;

        if (comm->rank > 0) CALL(comm->ops->recv(comm, &got, sizeof got, last, err));
        CALL(comm->ops->send(comm, &mine, sizeof mine, next, err));
        if (comm->rank == 0) CALL(comm->ops->recv(comm, &got, sizeof got, last, err));
        CLAIM(got == last * 1000 + round);
    }
    CALL(comm->ops->barrier(comm, err));
}

/* Odd and even ranks apart; a sum in the new group, then one in the old. */
static void parts_of_two(spc_comm *comm, spc_status *status, spc_error *err)
{
    spc_comm *half;
    float sum = (float)comm->rank, expected = 0;
    int32_t members = 0;

    CALL(comm->ops->split(comm, comm->rank % 2, 0, &half, err));
    for (int32_t r = comm->rank % 2; r < comm->world; r += 2) {
        expected += (float)r;
        members++;
    }
    CLAIM(half->rank == comm->rank / 2 && half->world == members);
    CALL(half->ops->all_reduce(half, &sum, 1, err));
    CLAIM(sum == expected);
    half->ops->abort(half, "only this half");
    CLAIM(half->ops->async_error(half, NULL) == SPC_EDEVICE);
    CALL(comm->ops->barrier(comm, err));
    spc_comm_close(half);
    CALL(comm->ops->async_error(comm, err));
}

void comm_case_calls_leave_the_same_on_every_rank(comm_open open)
{
    void (*const runs[])(spc_comm *, spc_status *, spc_error *) = {sums, moves, letters,
                                                                   parts_of_two};

    for (int32_t world = 1; world <= RANKS; world++) {
        for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
            part parts[RANKS];

            run_ranks(open, world, LONG_MS, parts, runs[k]);
            for (int32_t r = 0; r < world; r++) {
                cr_expect_eq(parts[r].status, SPC_OK, "world %d, run %zu: %s", (int)world, k,
                             parts[r].error.message);
            }
        }
    }
}

/* ---- ranks that let the others down -----------------------------------------------------------
 */

/* Every rank ends with the same line, which holds `text`. */
static void expect_end(const part *parts, int32_t world, const char *text)
{
    for (int32_t r = 0; r < world; r++) {
        cr_expect_eq(parts[r].status, SPC_EDEVICE, "rank %d", (int)r);
        cr_expect(strstr(parts[r].error.message, text), "rank %d: %s", (int)r,
                  parts[r].error.message);
        cr_expect_str_eq(parts[r].error.message, parts[0].error.message);
    }
}

static void late_rank(spc_comm *comm, spc_status *status, spc_error *err)
{
    float data[8] = {0};

    CALL(comm->ops->all_reduce(comm, data, 8, err));
    if (comm->rank == 2) sleep_ms(4 * SHORT_MS);
    *status = comm->ops->all_reduce(comm, data, 8, err);
}

/* In a group of their own ranks wait as long as it says, not as long as the one it comes from. */
static void late_in_own_group(spc_comm *comm, spc_status *status, spc_error *err)
{
    spc_comm *own;

    CALL(comm->ops->split(comm, 0, SHORT_MS, &own, err));
    if (comm->rank == 1) sleep_ms(4 * SHORT_MS);
    *status = own->ops->barrier(own, err);
    spc_comm_close(own);
    CLAIM(comm->ops->barrier(comm, NULL) == SPC_OK);
}

void comm_case_a_rank_that_does_not_come_is_named(comm_open open)
{
    part parts[RANKS];

    run_ranks(open, 4, SHORT_MS, parts, late_rank);
    expect_end(parts, 4,
               "all_reduce: expected all 4 ranks within 100 ms, and these did not come: "
               "rank 2");
    run_ranks(open, 2, LONG_MS, parts, late_in_own_group);
    expect_end(parts, 2,
               "barrier: expected all 2 ranks within 100 ms, and these did not come: rank 1");
}

static void unequal_sizes(spc_comm *comm, spc_status *status, spc_error *err)
{
    float data[8] = {0};

    *status = comm->ops->all_reduce(comm, data, comm->rank == 1 ? 7 : 8, err);
}

static void unequal_calls(spc_comm *comm, spc_status *status, spc_error *err)
{
    float data[8] = {0};

    *status =
        comm->rank == 1 ? comm->ops->barrier(comm, err) : comm->ops->all_reduce(comm, data, 8, err);
}

static void unequal_roots(spc_comm *comm, spc_status *status, spc_error *err)
{
    float data[8] = {0};

    *status = comm->ops->broadcast(comm, data, sizeof data, comm->rank == 2 ? 1 : 0, err);
}

static void unequal_parts(spc_comm *comm, spc_status *status, spc_error *err)
{
    char data[8] = {0};
    size_t begin[] = {0, comm->rank == 2 ? 3 : 2, 4, 8};

    *status = comm->ops->all_gather(comm, data, begin, err);
}

void comm_case_ranks_that_differ_are_told_and_not_waited_for(comm_open open)
{
    part parts[RANKS];

    run_ranks(open, 3, LONG_MS, parts, unequal_sizes);
    expect_end(parts, 3, "rank 0 calls all_reduce (size 32, root 0), rank 1 all_reduce (size 28");
    run_ranks(open, 3, LONG_MS, parts, unequal_calls);
    expect_end(parts, 3, "rank 1 barrier");
    run_ranks(open, 3, LONG_MS, parts, unequal_roots);
    expect_end(parts, 3, "rank 2 broadcast (size 32, root 1)");
    run_ranks(open, 3, LONG_MS, parts, unequal_parts);
    expect_end(parts, 3, "rank 2 all_gather");
}

static void unequal_letters(spc_comm *comm, spc_status *status, spc_error *err)
{
    char data[8] = {0};

    *status = comm->rank == 0 ? comm->ops->send(comm, data, 8, 1, err)
                              : comm->ops->recv(comm, data, 7, 0, err);
}

static void lonely_letter(spc_comm *comm, spc_status *status, spc_error *err)
{
    char data[8] = {0};

    if (comm->rank == 1) sleep_ms(4 * SHORT_MS);
    *status = comm->rank == 0 ? comm->ops->send(comm, data, 8, 1, err)
                              : comm->ops->recv(comm, data, 8, 0, err);
}

void comm_case_letters_have_a_size_and_a_deadline(comm_open open)
{
    part parts[RANKS];

    run_ranks(open, 2, LONG_MS, parts, unequal_letters);
    expect_end(parts, 2, "rank 0 sends 8 bytes, rank 1 expects 7");
    run_ranks(open, 2, SHORT_MS, parts, lonely_letter);
    expect_end(parts, 2, "send: rank 0 expected rank 1 within 100 ms");
}

/* Rank 0 stops the process while rank 1 waits for it, and takes a moment more. */
static void stop_all(const spc_comm *comm)
{
    if (comm->rank > 0) return;
    sleep_ms(50);
    (void)raise(SIGSTOP);
    sleep_ms(100);
}

static void stopped_on_the_way(spc_comm *comm, spc_status *status, spc_error *err)
{
    char byte = 0;

    stop_all(comm);
    CALL(comm->ops->barrier(comm, err));
    stop_all(comm);
    CALL(comm->rank == 0 ? comm->ops->send(comm, &byte, 1, 1, err)
                         : comm->ops->recv(comm, &byte, 1, 0, err));
    stop_all(comm);
    CALL(comm->rank == 0 ? comm->ops->recv(comm, &byte, 1, 1, err)
                         : comm->ops->send(comm, &byte, 1, 0, err));
}

/* 0, or 1 + the rank that failed. */
static int stop_two(void *user)
{
    part parts[RANKS];

    run_ranks(*(comm_open *)user, 2, 1000, parts, stopped_on_the_way);
    for (int32_t r = 0; r < 2; r++) {
        if (parts[r].status != SPC_OK) return 1 + r;
    }
    return 0;
}

void comm_case_time_in_which_all_are_stopped_does_not_count(comm_open open)
{
    int stops;

    cr_expect_eq(stopped_run(1500, stop_two, &open, &stops), 0);
    cr_expect_eq(stops, 3);
}

static void one_aborts(spc_comm *comm, spc_status *status, spc_error *err)
{
    char byte = 0;

    if (comm->rank == 0) {
        sleep_ms(20); /* the others wait by now */
        comm->ops->abort(comm, "rank 0 has had enough");
        comm->ops->abort(comm, "and says so twice");
        *status = comm->ops->async_error(comm, err);
    } else if (comm->rank == 1) {
        *status = comm->ops->recv(comm, &byte, 1, 0, err);
    } else {
        *status = comm->ops->barrier(comm, err);
    }
}

void comm_case_abort_wakes_every_waiter_and_the_first_reason_stays(comm_open open)
{
    part parts[RANKS];
    struct timespec start, end;

    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    run_ranks(open, 4, LONG_MS, parts, one_aborts);
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    expect_end(parts, 4, "rank 0 has had enough");
    cr_assert_lt(end.tv_sec - start.tv_sec, LONG_MS / 2000, "nobody waited for a deadline");
}
