/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_cores.h - how many cores this process may run on. */
#ifndef SPC_HOST_CPU_CORES_H
#define SPC_HOST_CPU_CORES_H

#include <stdint.h>

/* Cores, each counted once whatever the number of its hardware threads, of the processors that the
 * process's affinity allows; those of which Linux tells nothing are counted as cores.  At least 1.
 *
 * root   "", or where else sys lies (tests) */
int32_t spc_cpu_cores(const char *root);

#endif
