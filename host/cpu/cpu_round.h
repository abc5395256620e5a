/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_round.h - the verbs draw, verify and edit over logits rows in host memory.
 *
 * Shared by the CPU backend and by the toy backend of the tests, so that both run the same code. */
#ifndef SPC_HOST_CPU_ROUND_H
#define SPC_HOST_CPU_ROUND_H

#include "host/backend.h"
#include "host/verify/chance.h"

/* rows: [outputs, vocab] logits of the drafter. */
spc_status spc_cpu_draw(const float *rows, int32_t vocab, const spc_lane *lanes, int32_t count,
                        int32_t i, const spc_chance *chance, spc_error *err);

/* drafter, verifier: [outputs, vocab] logits; drafter may be NULL as in spc_backend_ops.verify. */
spc_status spc_cpu_verify(const float *drafter, const float *verifier, int32_t vocab,
                          const spc_lane *lanes, int32_t count, const spc_chance *chance,
                          spc_verdict *out, spc_error *err);

/* rows: [outputs, vocab] logits. */
void spc_cpu_edit(float *rows, int32_t vocab, const spc_edit_list *list);

#endif
