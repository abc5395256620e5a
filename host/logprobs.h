/* SPDX-License-Identifier: Apache-2.0 */
/* logprobs.h - how probable a row of logits makes a token, and which tokens it makes most so. */
#ifndef SPC_HOST_LOGPROBS_H
#define SPC_HOST_LOGPROBS_H

#include <spc/spc.h>

/* A token of a row [vocab] at temperature 1, and behind it the `top` most probable ones
 * (spc_session_logprobs): to [1 + top].  Without a row nothing is known of any. */
void spc_logprobs_of(const float *row, int32_t vocab, int32_t token, int32_t top, spc_logprob *to);

#endif
