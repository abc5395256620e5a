/* SPDX-License-Identifier: Apache-2.0 */
/* rope.h - the angles of rotary positions, for backends. */
#ifndef SPC_HOST_ROPE_H
#define SPC_HOST_ROPE_H

#include "plan.h"

/* Kinds of rotation in a plan: rope, or that and local_rope; none where positions are relative. */
int32_t spc_rope_kinds(const spc_config *config);

/* Cosines and sines of the positions 0 .. context - 1, times the scaling's attention factor.
 *
 * kind           0: rope, 1: local_rope
 * context        of a longrope: which divisors count, too
 * cosine, sine   [context, its pairs], receive them */
void spc_rope_angles(const spc_config *config, int32_t kind, int32_t context, float *cosine,
                     float *sine);

/* Are queries multiplied by a factor of their position (Ministral 3)? */
bool spc_rope_scales_queries(const spc_config *config);

/* The factors of the positions 0 .. context - 1.
 *
 * scale   [context], receives them */
void spc_rope_query_scales(const spc_config *config, int32_t context, float *scale);

#endif
