/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_drivers.c - a thread for each rank: every job reaches each of them once, always on the
 * same thread, and is over when the call returns, or given up in time. */
#include "host/ranks/drivers.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

enum { MOST = 6, JOBS = 200 };

typedef struct {
    pthread_t thread[MOST];
    int32_t runs[MOST], moved[MOST]; /* moved: runs on another thread than the first */
} seen;

static void look(void *user, int32_t rank)
{
    seen *s = user;

    if (s->runs[rank]++ == 0) s->thread[rank] = pthread_self();
    s->moved[rank] += !pthread_equal(s->thread[rank], pthread_self());
}

Test(host_drivers, every_rank_runs_every_job_on_a_thread_of_its_own)
{
    for (int32_t world = 1; world <= MOST; world++) {
        spc_drivers *drivers;
        spc_error error;
        seen s = {.runs = {0}};

        cr_assert_eq(spc_drivers_open(world, &drivers, &error), SPC_OK);
        for (int32_t job = 1; job <= JOBS; job++) {
            spc_drivers_run(drivers, look, &s);
            for (int32_t r = 0; r < MOST; r++) cr_assert_eq(s.runs[r], r < world ? job : 0);
        }
        cr_expect(pthread_equal(s.thread[0], pthread_self()), "the caller's is the first");
        for (int32_t r = 0; r < world; r++) {
            cr_expect_eq(s.moved[r], 0);
            for (int32_t k = 0; k < r; k++) cr_expect(!pthread_equal(s.thread[r], s.thread[k]));
        }
        spc_drivers_close(drivers);
    }
    spc_drivers_close(NULL);
}

/* Rank 1 comes back when it is let go. */
typedef struct {
    sem_t let_go;
    atomic_int back;
} late;

static void come_late(void *user, int32_t rank)
{
    late *l = user;

    if (rank == 0) return;
    while (sem_wait(&l->let_go) != 0) continue;
    l->back++;
}

Test(host_drivers, those_who_do_not_come_back_are_given_up)
{
    enum { SHORT_MS = 100 };
    static late l; /* which has to stay */
    struct timespec begun, now;
    spc_drivers *drivers;
    spc_error error;
    seen s = {.runs = {0}};

    cr_assert_eq(sem_init(&l.let_go, 0, 0), 0);
    cr_assert_eq(spc_drivers_open(2, &drivers, &error), SPC_OK);
    for (int32_t job = 1; job <= JOBS; job++) {
        cr_assert(spc_drivers_run_within(drivers, look, &s, 60000));
        cr_assert(s.runs[0] == job && s.runs[1] == job);
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &begun);
    cr_expect_not(spc_drivers_run_within(drivers, come_late, &l, SHORT_MS));
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    cr_expect_geq((now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000,
                  SHORT_MS - 1);
    cr_expect_eq(l.back, 0);
    cr_assert_eq(sem_post(&l.let_go), 0);
    while (l.back == 0) (void)sched_yield();
}
