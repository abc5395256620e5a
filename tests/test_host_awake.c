/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_awake.c - the clock that stands still while a process is stopped. */
#include "host/ranks/awake.h"
#include "stopped.h"

#include <criterion/criterion.h>

Test(host_awake, a_gap_between_two_looks_is_no_time_and_a_nap_is)
{
    spc_awake_clock clock = {0, 0};

    cr_expect_eq(spc_awake_look(&clock, 1000), 1000);
    cr_expect_eq(spc_awake_look(&clock, 1250), 1250, "a nap");
    cr_expect_eq(spc_awake_look(&clock, 1750), 1750, "a nap, and a machine that is busy");
    cr_expect_eq(spc_awake_look(&clock, 5750), 2000, "a nap at most was slept");
    cr_expect_eq(spc_awake_look(&clock, 5751), 2001);
    cr_expect_eq(spc_awake_look(&clock, 5751), 2001);
    cr_expect_eq(spc_awake_look(&clock, 100000), 2251);
}

Test(host_awake, naps_are_short_and_end_with_the_deadline)
{
    int64_t now = spc_awake_ms();

    cr_expect_eq(spc_awake_nap_ms(now - 1000), 0);
    cr_expect_leq(spc_awake_nap_ms(now), 1);
    cr_expect_eq(spc_awake_left_ms(now - 1000), 0);
    cr_expect_eq(spc_awake_nap_ms(now + 1000000), 250);
    cr_expect_eq(spc_awake_left_ms(INT64_MAX / 2), INT32_MAX);
    cr_expect_gt(spc_awake_left_ms(now + 1000000), 900000);
}

/* Moments are cut to whole milliseconds. */
Test(host_awake, no_wait_is_shorter_than_it_should_be)
{
    for (int i = 0; i < 30; i++) {
        struct timespec begun, ended;
        int64_t until;

        (void)nanosleep(&(struct timespec){0, 170000}, NULL);
        (void)clock_gettime(CLOCK_MONOTONIC, &begun);
        until = spc_awake_ms() + 3;
        while (spc_awake_left_ms(until) > 0) {
        }
        (void)clock_gettime(CLOCK_MONOTONIC, &ended);
        cr_expect_geq((ended.tv_sec - begun.tv_sec) * 1000000000 + ended.tv_nsec - begun.tv_nsec,
                      3000000);
    }
}

/* waits: whether it says that it was in a call that waits by itself. */
static int look_again(void *waits)
{
    int64_t until = spc_awake_ms() + 600;

    (void)raise(SIGSTOP);
    if (waits) spc_awake_waited();
    return spc_awake_left_ms(until) > 0;
}

Test(host_awake, a_process_that_was_stopped_has_not_waited)
{
    int stops, yes = 1;

    cr_expect_eq(stopped_run(1500, look_again, NULL, &stops), 1);
    cr_expect_eq(stopped_run(1500, look_again, &yes, &stops), 0);
    cr_expect_eq(stops, 1);
}
