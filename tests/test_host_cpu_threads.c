/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cpu_threads.c - every element once, whatever the number of threads, and on a crowded
 * machine too. */
#define _POSIX_C_SOURCE 200809L /* nanosleep */
#include "host/cpu/cpu_threads.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { ELEMENTS = 5000 };

typedef struct {
    _Atomic int32_t seen[ELEMENTS];
    _Atomic int32_t calls;
    _Atomic int32_t busy[256]; /* by thread number: scratch indexed by it is not shared */
    int32_t grain, count, threads;
    _Atomic bool stranger; /* a thread number out of range, or held by two at once */
    _Atomic bool ragged;   /* a piece did not begin at, or was not, a multiple of the grain */
} tally;

static void touch(void *task, int32_t thread, int32_t begin, int32_t end)
{
    tally *t = task;

    atomic_fetch_add(&t->calls, 1);
    if (thread < 0 || thread >= t->threads) t->stranger = true;
    if (atomic_fetch_add(&t->busy[thread & 255], 1) != 0) t->stranger = true;
    if (begin % t->grain != 0 || (end != t->count && end % t->grain != 0)) t->ragged = true;
    for (int32_t i = begin; i < end; i++) atomic_fetch_add(&t->seen[i], 1);
    atomic_fetch_sub(&t->busy[thread & 255], 1);
}

static spc_team *open_team(int32_t count)
{
    spc_team *team;
    spc_error error;

    cr_assert_eq(spc_team_open(count, &team, &error), SPC_OK);
    return team;
}

static void expect_each_once(spc_team *team, int32_t count, int32_t grain)
{
    static tally t;

    memset(&t, 0, sizeof t);
    t.grain = grain;
    t.count = count;
    t.threads = spc_team_count(team);
    spc_team_run(team, count, grain, touch, &t);
    for (int32_t i = 0; i < ELEMENTS; i++) cr_assert_eq(t.seen[i], i < count ? 1 : 0);
    cr_assert_not(t.ragged);
    cr_assert_not(t.stranger);
    cr_assert_leq(t.calls, (count + grain - 1) / grain, "no part is shorter than the grain");
}

Test(host_cpu_threads, each_element_is_visited_once)
{
    static const int32_t teams[] = {1, 2, 3, 8}, counts[] = {0, 1, 2, 15, 16, 17, 333, ELEMENTS};

    for (size_t p = 0; p < 4; p++) {
        spc_team *team = open_team(teams[p]);

        cr_assert_eq(spc_team_count(team), teams[p]);
        for (size_t c = 0; c < 8; c++) {
            expect_each_once(team, counts[c], 1);
            expect_each_once(team, counts[c], 4);
            expect_each_once(team, counts[c], 100);
        }
        spc_team_close(team);
    }
}

typedef struct {
    int64_t sum[64]; /* by element: no two pieces share one */
    const int32_t *input;
} sums;

static void add_input(void *task, int32_t thread, int32_t begin, int32_t end)
{
    sums *s = task;

    (void)thread;
    for (int32_t i = begin; i < end; i++) s->sum[i] += *s->input + i;
}

/* A late thread that takes part in the next loop with the function or the sizes of the last one
 * shows here: loops of different sizes follow each other as fast as they can. */
Test(host_cpu_threads, loops_that_follow_at_once_do_not_mix)
{
    static sums a, b;
    spc_team *team = open_team(6);
    int32_t input = 0;
    int64_t expected = 0;

    a.input = b.input = &input;
    for (input = 0; input < 3000; input++) {
        spc_team_run(team, 64, 1, add_input, &a);
        spc_team_run(team, 7, 1, add_input, &b);
        expected += input;
    }
    for (int32_t i = 0; i < 64; i++) {
        cr_assert_eq(a.sum[i], expected + 3000 * i);
        cr_assert_eq(b.sum[i], i < 7 ? expected + 3000 * i : 0);
    }
    spc_team_close(team);
}

Test(host_cpu_threads, a_team_that_slept_wakes_up)
{
    spc_team *team = open_team(4);

    for (int i = 0; i < 20; i++) {
        struct timespec rest = {0, 2000000}; /* far longer than any spin */

        expect_each_once(team, 1000, 1);
        (void)nanosleep(&rest, NULL);
    }
    spc_team_close(team);
}

Test(host_cpu_threads, two_teams_work_side_by_side)
{
    spc_team *a = open_team(3), *b = open_team(3);

    for (int i = 0; i < 50; i++) {
        expect_each_once(a, 300, 2);
        expect_each_once(b, 299, 2);
    }
    spc_team_close(a);
    spc_team_close(b);
    spc_team_close(NULL);
}

Test(host_cpu_threads, a_count_out_of_range_is_named)
{
    spc_team *team = open_team(1);
    spc_error error;

    spc_team_close(team);
    cr_assert_eq(spc_team_open(-1, &team, &error), SPC_EUSAGE);
    cr_assert_null(team);
    cr_assert(strstr(error.message, "found -1"));
    cr_assert_eq(spc_team_open(SPC_TEAM_MAX + 1, &team, &error), SPC_EUSAGE);
    cr_assert_null(team);
}

Test(host_cpu_threads, zero_asks_for_one_per_core)
{
    spc_team *team = open_team(0);

    cr_assert_geq(spc_team_count(team), 1);
    expect_each_once(team, 100, 1);
    spc_team_close(team);
}

/* Sanitizers reserve address space of their own and do not run under a limit. */
#if defined(__has_feature)
#define UNDER_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#else
#define UNDER_SANITIZER 0
#endif

#if !UNDER_SANITIZER
Test(host_cpu_threads, threads_the_system_refuses_are_an_error)
{
    struct rlimit limit;
    spc_team *team;
    spc_error error;

    cr_assert_eq(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = (rlim_t)1 << 30; /* no room for so many stacks */
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
    cr_assert_eq(spc_team_open(SPC_TEAM_MAX, &team, &error), SPC_ENOMEM);
    cr_assert_null(team);
    cr_assert(strstr(error.message, "of 256"), "%s", error.message);
    cr_assert_eq(spc_team_open(2, &team, &error), SPC_OK, "a smaller team still starts");
    expect_each_once(team, 100, 1);
    spc_team_close(team);
}
#endif
