/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_comm_local.c - ranks as threads of one process: the cases of comm_cases.h, and sizes
 * that cannot be. */
#include "comm_cases.h"

#include <criterion/criterion.h>

COMM_CASES(host_comm_local, spc_comm_local_open)

Test(host_comm_local, sizes_that_cannot_be_are_refused)
{
    spc_comm *comm[1] = {NULL};
    spc_error error;

    cr_assert_eq(spc_comm_local_open(0, 1, comm, &error), SPC_EUSAGE);
    cr_assert_eq(spc_comm_local_open(SPC_RANKS_MAX + 1, 1, comm, &error), SPC_EUSAGE);
    cr_assert_eq(spc_comm_local_open(1, 0, comm, &error), SPC_EUSAGE);
    cr_assert_null(comm[0]);
    spc_comm_close(NULL);
}
