/* SPDX-License-Identifier: Apache-2.0 */
/* cli_details.h - spc run --details: why each token of a result came about. */
#ifndef SPC_HOST_CLI_DETAILS_H
#define SPC_HOST_CLI_DETAILS_H

#include "cli.h"

#include <spc/spc.h>

/* [count] JSON objects; NULL: no memory. */
json_t *spc_cli_details_json(const spc_engine *engine, const int32_t *tokens,
                             const spc_token_detail *detail, int32_t count);

/* The same as a table on stderr. */
void spc_cli_details_print(const spc_engine *engine, const int32_t *tokens,
                           const spc_token_detail *detail, int32_t count);

#endif
