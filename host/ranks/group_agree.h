/* SPDX-License-Identifier: Apache-2.0 */
/* group_agree.h - do the processes of a group run the same models in the same way? */
#ifndef SPC_HOST_GROUP_AGREE_H
#define SPC_HOST_GROUP_AGREE_H

#include "host/backend.h"

/* Compare the options that all ranks must share, a line of text; collective.
 *
 * local     receives the place among the ranks of this machine, from 0
 * sharers   receives how many of the ranks run on this machine, the own one included
 *
 * SPC_EDEVICE names the first rank that differs from rank 0, with both texts */
spc_status spc_agree_options(spc_comm *comm, const char *options, int32_t *local, int32_t *sharers,
                             spc_error *err);

/* The least of all ranks' values, in place; collective. */
spc_status spc_agree_least(spc_comm *comm, int32_t *value, spc_error *err);

/* Compare a model: its plan, the sizes and some of the numbers of its weights, what a runner is to
 * hold, and what computes, a vector unit or a kind of GPU; collective.  SPC_EDEVICE names the first
 * rank that differs from rank 0 and in what. */
spc_status spc_agree_model(spc_comm *comm, const spc_plan *plan, const spc_bundle *weights,
                           const spc_limits *limits, const char *unit, spc_error *err);

#endif
