/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_quota.h - how much CPU time a container leaves to this process. */
#ifndef SPC_HOST_CPU_QUOTA_H
#define SPC_HOST_CPU_QUOTA_H

#include <stdint.h>

/* Cores' worth of time, rounded up, that Linux's control groups (of either version) allow; 0: as
 * much as there is, or nobody knows.
 *
 * root   "", or where else proc and sys lie (tests) */
int32_t spc_cpu_quota(const char *root);

#endif
