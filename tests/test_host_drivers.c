/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_drivers.c - a thread for each rank: every job reaches each of them once, always on the
 * same thread, and is over when the call returns. */
#include "host/drivers.h"

#include <criterion/criterion.h>
#include <pthread.h>

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
