/* SPDX-License-Identifier: Apache-2.0 */
/* pulse.c - signs of life between the processes of a group, over a group of their own. */
#include "pulse.h"

#include "host/thread.h"

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Parts of the timeout from one sign to the next, and that one is waited for. */
enum { SIGNS = 4, WAIT = 2 };

struct spc_pulse {
    spc_comm *group, *own;
    int32_t period_ms;
    int leaves; /* eventfd */
    bool beats; /* there is a thread */
    pthread_t thread;
};

static void *beat(void *user)
{
    spc_pulse *p = user;
    size_t begin[SPC_RANKS_MAX + 1];
    char leaves[SPC_RANKS_MAX];
    spc_error error;

    for (int32_t r = 0; r <= p->own->world; r++) begin[r] = (size_t)r;
    for (;;) {
        struct pollfd wanted = {p->leaves, POLLIN, 0};

        leaves[p->own->rank] = poll(&wanted, 1, p->period_ms) > 0;
        if (p->own->ops->all_gather(p->own, leaves, begin, &error) != SPC_OK) {
            p->group->ops->abort(p->group, error.message);
            return NULL;
        }
        for (int32_t r = 0; r < p->own->world; r++) {
            if (leaves[r]) return NULL;
        }
    }
}

static int32_t part_of(int32_t timeout_ms, int32_t parts)
{
    return timeout_ms > parts ? timeout_ms / parts : 1;
}

spc_status spc_pulse_open(spc_comm *group, int32_t timeout_ms, spc_pulse **out, spc_error *err)
{
    spc_pulse *p = calloc(1, sizeof *p);
    spc_status status;

    *out = NULL;
    if (!p) return spc_error_set(err, SPC_ENOMEM, "no memory for signs of life");
    p->group = group;
    p->period_ms = part_of(timeout_ms, SIGNS);
    p->leaves = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    status = group->ops->split(group, 0, part_of(timeout_ms, WAIT), &p->own, err);
    if (status == SPC_OK && p->leaves >= 0) {
        p->beats = spc_thread_start(&p->thread, beat, p);
    }
    if (status == SPC_OK && !p->beats) {
        status = spc_error_set(err, SPC_ENOMEM, "no thread for signs of life");
    }
    if (status != SPC_OK) {
        spc_pulse_close(p);
        return status;
    }
    *out = p;
    return SPC_OK;
}

void spc_pulse_leave(spc_pulse *p)
{
    uint64_t one = 1;

    if (!p || !p->beats) return;
    (void)!write(p->leaves, &one, sizeof one);
    (void)pthread_join(p->thread, NULL);
    p->beats = false;
}

/* Others may hear this before what the group itself was told, so it says the same. */
static void tell_why(spc_pulse *p)
{
    spc_error why;

    if (p->group->ops->async_error(p->group, &why) == SPC_OK) {
        (void)snprintf(why.message, sizeof why.message, "rank %d has closed its engine",
                       (int)p->own->rank);
    }
    p->own->ops->abort(p->own, why.message);
}

void spc_pulse_close(spc_pulse *p)
{
    if (!p) return;
    if (p->beats) tell_why(p);
    spc_pulse_leave(p);
    spc_comm_close(p->own);
    if (p->leaves >= 0) (void)close(p->leaves);
    free(p);
}
