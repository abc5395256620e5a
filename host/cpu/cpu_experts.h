/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_experts.h - the ops of experts on the CPU: which a row takes, and their products. */
#ifndef SPC_HOST_CPU_EXPERTS_H
#define SPC_HOST_CPU_EXPERTS_H

#include "cpu_runner.h"

/* The op ROUTE, EXPERTS or MIX over so many rows. */
void spc_cpu_experts_run(spc_runner *r, const spc_op *op, int32_t rows);

#endif
