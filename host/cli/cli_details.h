/* SPDX-License-Identifier: Apache-2.0 */
/* cli_details.h - spc run --details and --logprobs: why each token of a result came about, and how
 * probable it was. */
#ifndef SPC_HOST_CLI_DETAILS_H
#define SPC_HOST_CLI_DETAILS_H

#include "cli.h"

#include <spc/spc.h>

/* [count] JSON objects; NULL: no memory. */
json_t *spc_cli_details_json(const spc_engine *engine, const int32_t *tokens,
                             const spc_token_detail *detail, int32_t count);

/* Of each token its log-probability and those of `top` others, [count, 1 + top], as an array;
 * NULL: no memory. */
json_t *spc_cli_logprobs_json(const spc_engine *engine, const spc_logprob *logprobs, int32_t count,
                              int32_t top);

/* What spc_cli_details_json has, as a table on stderr. */
void spc_cli_details_print(const spc_engine *engine, const int32_t *tokens,
                           const spc_token_detail *detail, int32_t count);

#endif
