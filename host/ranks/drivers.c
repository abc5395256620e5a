/* SPDX-License-Identifier: Apache-2.0 */
/* drivers.c - one thread for each rank of this process. */
#include "drivers.h"

#include "host/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    spc_drivers *all;
    int32_t rank;
    pthread_t thread;
} driver;

struct spc_drivers {
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t moved;
    uint64_t jobs;   /* given out so far */
    int32_t running; /* drivers at the present one */
    bool quit;
    void (*run)(void *user, int32_t rank); /* the present one */
    void *user;
    int32_t started;
    driver driver[]; /* [started] */
};

static void *drive(void *user)
{
    driver *d = user;
    spc_drivers *all = d->all;
    uint64_t done = 0;

    pthread_mutex_lock(&all->lock);
    for (;;) {
        while (all->jobs == done && !all->quit) (void)pthread_cond_wait(&all->moved, &all->lock);
        if (all->quit) break;
        done = all->jobs;
        pthread_mutex_unlock(&all->lock);
        all->run(all->user, d->rank);
        pthread_mutex_lock(&all->lock);
        if (--all->running == 0) (void)pthread_cond_broadcast(&all->moved);
    }
    pthread_mutex_unlock(&all->lock);
    return NULL;
}

static void begin(spc_drivers *all, void (*run)(void *user, int32_t rank), void *user)
{
    pthread_mutex_lock(&all->lock);
    all->run = run;
    all->user = user;
    all->running = all->started;
    all->jobs++;
    (void)pthread_cond_broadcast(&all->moved);
    pthread_mutex_unlock(&all->lock);
}

void spc_drivers_run(spc_drivers *all, void (*run)(void *user, int32_t rank), void *user)
{
    begin(all, run, user);
    run(user, 0);
    pthread_mutex_lock(&all->lock);
    while (all->running > 0) (void)pthread_cond_wait(&all->moved, &all->lock);
    pthread_mutex_unlock(&all->lock);
}

bool spc_drivers_run_within(spc_drivers *all, void (*run)(void *user, int32_t rank), void *user,
                            int32_t timeout_ms)
{
    struct timespec until;
    bool done;

    begin(all, run, user);
    run(user, 0);
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&all->lock);
    while (all->running > 0) {
        if (pthread_cond_timedwait(&all->moved, &all->lock, &until) == ETIMEDOUT) break;
    }
    done = all->running == 0;
    pthread_mutex_unlock(&all->lock);
    return done;
}

void spc_drivers_close(spc_drivers *all)
{
    if (!all) return;
    pthread_mutex_lock(&all->lock);
    all->quit = true;
    (void)pthread_cond_broadcast(&all->moved);
    pthread_mutex_unlock(&all->lock);
    for (int32_t k = 0; k < all->started; k++) (void)pthread_join(all->driver[k].thread, NULL);
    (void)pthread_cond_destroy(&all->moved);
    (void)pthread_mutex_destroy(&all->lock);
    free(all);
}

spc_status spc_drivers_open(int32_t world, spc_drivers **out, spc_error *err)
{
    spc_drivers *all = calloc(1, sizeof *all + (size_t)world * sizeof *all->driver);
    pthread_condattr_t clock;

    *out = NULL;
    if (!all) return spc_error_set(err, SPC_ENOMEM, "no memory for %d ranks", (int)world);
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&all->lock, NULL); /* neither fails on the systems this runs on */
    (void)pthread_cond_init(&all->moved, &clock);
    (void)pthread_condattr_destroy(&clock);
    for (int32_t k = 1; k < world; k++) {
        driver *d = &all->driver[k - 1];

        *d = (driver){.all = all, .rank = k};
        if (!spc_thread_start(&d->thread, drive, d)) {
            spc_drivers_close(all);
            return spc_error_set(err, SPC_ENOMEM, "no thread for rank %d of %d", (int)k,
                                 (int)world);
        }
        all->started = k;
    }
    *out = all;
    return SPC_OK;
}
