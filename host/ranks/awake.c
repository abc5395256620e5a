/* SPDX-License-Identifier: Apache-2.0 */
/* awake.c - time in which this process ran. */
#include "awake.h"

#include <pthread.h>
#include <time.h>

/* How long one sleep may last, and how much later the clock may be looked at again: later still,
 * and the process had been stopped. */
enum { NAP_MS = 250 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the clock */
static spc_awake_clock process_clock;

static int64_t now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t spc_awake_look(spc_awake_clock *clock, int64_t now)
{
    int64_t lost = now - clock->seen_ms - NAP_MS;

    if (clock->seen_ms > 0 && lost > NAP_MS) clock->lost_ms += lost;
    clock->seen_ms = now;
    return now - clock->lost_ms;
}

/* The moment is taken under the lock: looks are in the order of their moments. */
int64_t spc_awake_ms(void)
{
    int64_t at;

    (void)pthread_mutex_lock(&lock);
    at = spc_awake_look(&process_clock, now_ms());
    (void)pthread_mutex_unlock(&lock);
    return at;
}

void spc_awake_waited(void)
{
    (void)pthread_mutex_lock(&lock);
    process_clock.seen_ms = now_ms();
    (void)pthread_mutex_unlock(&lock);
}

/* Both moments have lost up to a millisecond: no wait is shorter than it should be. */
int32_t spc_awake_left_ms(int64_t deadline_ms)
{
    int64_t left = deadline_ms - spc_awake_ms() + 1;

    if (left < 0) return 0;
    return left > INT32_MAX ? INT32_MAX : (int32_t)left;
}

int spc_awake_nap_ms(int64_t deadline_ms)
{
    int32_t left = spc_awake_left_ms(deadline_ms);

    return left < NAP_MS ? left : NAP_MS;
}
