/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_comm_tcp.c - ranks that talk over TCP: the cases of comm_cases.h between threads, sums
 * beyond one exchange with the bits of a local group, and what only processes can do to each other:
 * die, hang, and leave. */
#include "comm_cases.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = COMM_CASES_RANKS, LONG_MS = 20000, SHORT_MS = 300 };

/* ---- threads ----------------------------------------------------------------------------------
 */

typedef struct {
    spc_place place;
    spc_comm *comm;
    spc_status status;
    spc_error error;
} opening;

static void *open_one(void *user)
{
    opening *o = user;

    o->status = spc_comm_tcp_open(&o->place, &o->comm, &o->error);
    return NULL;
}

/* A path to meet by that no other test has. */
static void meeting(char path[64])
{
    static int count;

    (void)snprintf(path, 64, "/tmp/spc-test-tcp-%ld-%d", (long)getpid(), count++);
}

static spc_status open_threads(int32_t world, int32_t timeout_ms, spc_comm **out, spc_error *err)
{
    opening o[RANKS];
    pthread_t thread[RANKS];
    char path[64];

    meeting(path);
    for (int32_t r = 0; r < world; r++) {
        o[r] = (opening){.place = {r, world, path, timeout_ms}};
        cr_assert_eq(pthread_create(&thread[r], NULL, open_one, &o[r]), 0);
    }
    for (int32_t r = 0; r < world; r++) (void)pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < world; r++) {
        out[r] = o[r].comm;
        if (o[r].status != SPC_OK) {
            *err = o[r].error;
            return o[r].status;
        }
    }
    return SPC_OK;
}

COMM_CASES(host_comm_tcp, open_threads)

/* Sums that take several exchanges, against those of a local group. */

enum { MANY = 300001 };

typedef struct {
    spc_comm *comm;
    float *data; /* [MANY] */
    size_t count;
    spc_status status;
} summing;

static void *sum_one(void *user)
{
    summing *s = user;

    for (size_t i = 0; i < s->count; i++) {
        s->data[i] = (float)((i * 37 + (size_t)s->comm->rank * 11) % 101) *
                     (s->comm->rank % 2 ? -3e4f : 1.7e-3f);
    }
    s->status = s->comm->ops->all_reduce(s->comm, s->data, s->count, NULL);
    return NULL;
}

static void sum_all(comm_open open, int32_t world, size_t count, summing *s)
{
    spc_comm *comm[RANKS];
    pthread_t thread[RANKS];
    spc_error error;

    cr_assert_eq(open(world, LONG_MS, comm, &error), SPC_OK, "%s", error.message);
    for (int32_t r = 0; r < world; r++) {
        s[r] = (summing){.comm = comm[r], .data = malloc(MANY * sizeof(float)), .count = count};
        cr_assert_not_null(s[r].data);
        cr_assert_eq(pthread_create(&thread[r], NULL, sum_one, &s[r]), 0);
    }
    for (int32_t r = 0; r < world; r++) (void)pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < world; r++) {
        cr_assert_eq(s[r].status, SPC_OK);
        spc_comm_close(comm[r]);
    }
}

Test(host_comm_tcp, large_sums_have_the_bits_of_a_local_group)
{
    static const size_t counts[] = {4096, 4097, 4099, MANY};

    for (int32_t world = 2; world <= RANKS; world++) {
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            summing local[RANKS], tcp[RANKS];

            sum_all(spc_comm_local_open, world, counts[c], local);
            sum_all(open_threads, world, counts[c], tcp);
            for (int32_t r = 0; r < world; r++) {
                cr_expect_arr_eq(tcp[r].data, local[0].data, counts[c] * sizeof(float),
                                 "world %d, %zu floats, rank %d", (int)world, counts[c], (int)r);
                free(tcp[r].data);
            }
            for (int32_t r = 0; r < world; r++) free(local[r].data);
        }
    }
}

/* ---- processes --------------------------------------------------------------------------------
 */

/* One rank's part, in a process of its own; its exit code is 0, or that of a failed claim. */
typedef int (*part_fn)(spc_comm *comm);

typedef struct {
    char path[64];
    pid_t pid[RANKS];
    int told[RANKS]; /* where each writes its error */
} group;

static group start(int32_t world, int32_t timeout_ms, part_fn part)
{
    group g;

    meeting(g.path);
    (void)fflush(NULL);
    for (int32_t r = 0; r < world; r++) {
        int ends[2];

        cr_assert_eq(pipe(ends), 0);
        g.told[r] = ends[0];
        g.pid[r] = fork();
        cr_assert_geq(g.pid[r], 0);
        if (g.pid[r] == 0) {
            spc_place place = {r, world, g.path, LONG_MS};
            spc_error error = {SPC_OK, ""};
            spc_comm *comm;
            int code = 99;

            place.timeout_ms = timeout_ms;
            if (spc_comm_tcp_open(&place, &comm, &error) == SPC_OK) {
                code = part(comm);
                (void)comm->ops->async_error(comm, &error);
                spc_comm_close(comm);
            }
            (void)!write(ends[1], error.message, strlen(error.message));
            _exit(code);
        }
        (void)close(ends[1]);
    }
    return g;
}

/* The exit code, -signal of one that was killed; text: what it told. */
static int finish(const group *g, int32_t r, char text[SPC_ERROR_BYTES])
{
    int status;
    ssize_t n = read(g->told[r], text, SPC_ERROR_BYTES - 1);

    text[n > 0 ? n : 0] = '\0';
    (void)close(g->told[r]);
    cr_assert_eq(waitpid(g->pid[r], &status, 0), g->pid[r]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Sums until the group ends: how a decoding rank spends its life. */
static int sum_on(spc_comm *comm)
{
    float data[64] = {0};

    while (comm->ops->all_reduce(comm, data, 64, NULL) == SPC_OK) {
        data[0] = 1;
        if (comm->rank == 0) (void)nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return 4;
}

static int64_t now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Let them get going, do this to one, and see all others name it. */
static void harm(int32_t victim, int signal, const char *text, int64_t least_ms, int64_t most_ms)
{
    group g = start(RANKS, least_ms > 0 ? SHORT_MS : LONG_MS, sum_on);
    int64_t begun;

    (void)nanosleep(&(struct timespec){0, 200000000}, NULL);
    begun = now_ms();
    cr_assert_eq(kill(g.pid[victim], signal), 0);
    for (int32_t r = 0; r < RANKS; r++) {
        char told[SPC_ERROR_BYTES];

        if (r == victim) continue;
        cr_expect_eq(finish(&g, r, told), 4, "rank %d: %s", (int)r, told);
        cr_expect(strstr(told, text), "rank %d: %s", (int)r, told);
    }
    cr_expect_geq(now_ms() - begun, least_ms);
    cr_expect_lt(now_ms() - begun, most_ms);
    (void)kill(g.pid[victim], SIGKILL);
    (void)waitpid(g.pid[victim], NULL, 0);
}

Test(host_comm_tcp, a_rank_that_is_killed_is_named_at_once)
{
    harm(2, SIGKILL, "rank 2 is gone", 0, LONG_MS / 2);
    harm(0, SIGKILL, "rank 0 is gone", 0, LONG_MS / 2);
}

Test(host_comm_tcp, a_rank_that_hangs_is_named_by_the_timeout)
{
    harm(1, SIGSTOP,
         "all_reduce: expected all 4 ranks within 300 ms, and these did not come: rank 1",
         SHORT_MS - 50, 10 * SHORT_MS);
}

/* Rank 0 is stopped while the others wait for it, and takes a moment more; the sum takes two
 * exchanges. */
static int stopped_on_the_way(spc_comm *comm)
{
    float data[8192] = {1};

    if (comm->ops->barrier(comm, NULL) != SPC_OK) return 1;
    if (comm->rank == 0) {
        (void)nanosleep(&(struct timespec){0, 50000000}, NULL);
        (void)raise(SIGSTOP);
        (void)nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
    return comm->ops->all_reduce(comm, data, 8192, NULL) == SPC_OK ? 0 : 4;
}

/* As Ctrl-Z stops all: nobody has kept the others waiting. */
Test(host_comm_tcp, processes_that_are_all_stopped_keep_nobody_waiting)
{
    group g = start(RANKS, 1000, stopped_on_the_way);
    int status;

    cr_assert_eq(waitpid(g.pid[0], &status, WUNTRACED), g.pid[0]);
    cr_assert(WIFSTOPPED(status));
    for (int32_t r = 1; r < RANKS; r++) cr_assert_eq(kill(g.pid[r], SIGSTOP), 0);
    (void)nanosleep(&(struct timespec){2, 0}, NULL);
    for (int32_t r = RANKS - 1; r >= 0; r--) cr_assert_eq(kill(g.pid[r], SIGCONT), 0);
    for (int32_t r = 0; r < RANKS; r++) {
        char told[SPC_ERROR_BYTES];

        cr_expect_eq(finish(&g, r, told), 0, "rank %d: %s", (int)r, told);
    }
}

/* Rank 1 goes when it has done its work; the others meet without it, then need it. */
static int one_leaves(spc_comm *comm)
{
    char byte = 0;
    spc_error error;

    if (comm->ops->barrier(comm, NULL) != SPC_OK) return 1;
    if (comm->rank == 1) return 0;
    (void)nanosleep(&(struct timespec){0, 50000000}, NULL);
    if (comm->ops->async_error(comm, &error) != SPC_OK) return 2; /* nothing is wrong so far */
    if (comm->rank == 0 && comm->ops->send(comm, &byte, 1, 2, NULL) != SPC_OK) return 3;
    if (comm->rank == 2 && comm->ops->recv(comm, &byte, 1, 0, NULL) != SPC_OK) return 3;
    return comm->ops->barrier(comm, NULL) == SPC_EDEVICE ? 0 : 4;
}

Test(host_comm_tcp, a_rank_that_leaves_is_missed_when_it_is_needed)
{
    group g = start(3, LONG_MS, one_leaves);

    for (int32_t r = 0; r < 3; r++) {
        char told[SPC_ERROR_BYTES];

        cr_expect_eq(finish(&g, r, told), 0, "rank %d: %s", (int)r, told);
        if (r != 1) cr_expect_str_eq(told, "rank 1 has left the group");
    }
}

/* Bytes that no rank sends, into a link: the group ends, nobody waits. */
static int large_and_unequal(spc_comm *comm)
{
    size_t count = comm->rank == 1 ? 2000000 : 2000001;
    float *data = calloc(count, sizeof *data);
    spc_status status = comm->ops->all_reduce(comm, data, count, NULL);

    free(data);
    return status == SPC_EDEVICE ? 0 : 1;
}

Test(host_comm_tcp, ranks_that_differ_do_not_wait_for_data_that_nobody_reads)
{
    group g = start(3, LONG_MS, large_and_unequal);
    int64_t begun = now_ms();

    for (int32_t r = 0; r < 3; r++) {
        char told[SPC_ERROR_BYTES];

        cr_expect_eq(finish(&g, r, told), 0, "rank %d: %s", (int)r, told);
        cr_expect(strstr(told, "rank 0 calls all_reduce (size 8000004, root 0), rank 1"), "%s",
                  told);
    }
    cr_expect_lt(now_ms() - begun, LONG_MS / 2);
}
