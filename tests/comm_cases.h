/* SPDX-License-Identifier: Apache-2.0 */
/* comm_cases.h - what every communicator promises, as cases that each implementation's test runs.
 */
#ifndef SPC_TESTS_COMM_CASES_H
#define SPC_TESTS_COMM_CASES_H

#include "host/ranks/comm.h"

enum { COMM_CASES_RANKS = 4 };

/* Open a group of `world` <= COMM_CASES_RANKS ranks, each of which will be used by a thread of its
 * own.
 *
 * out   [world] */
typedef spc_status (*comm_open)(int32_t world, int32_t timeout_ms, spc_comm **out, spc_error *err);

void comm_case_calls_leave_the_same_on_every_rank(comm_open open);
void comm_case_a_rank_that_does_not_come_is_named(comm_open open);
void comm_case_ranks_that_differ_are_told_and_not_waited_for(comm_open open);
void comm_case_letters_have_a_size_and_a_deadline(comm_open open);
void comm_case_time_in_which_all_are_stopped_does_not_count(comm_open open);
void comm_case_abort_wakes_every_waiter_and_the_first_reason_stays(comm_open open);

/* A test for each of them. */
#define COMM_CASES(suite, open)                                           \
    COMM_CASE(suite, open, calls_leave_the_same_on_every_rank)            \
    COMM_CASE(suite, open, a_rank_that_does_not_come_is_named)            \
    COMM_CASE(suite, open, ranks_that_differ_are_told_and_not_waited_for) \
    COMM_CASE(suite, open, letters_have_a_size_and_a_deadline)            \
    COMM_CASE(suite, open, time_in_which_all_are_stopped_does_not_count)  \
    COMM_CASE(suite, open, abort_wakes_every_waiter_and_the_first_reason_stays)
#define COMM_CASE(suite, open, name) \
    Test(suite, name)                \
    {                                \
        comm_case_##name(open);      \
    }

#endif
