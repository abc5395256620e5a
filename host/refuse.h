/* SPDX-License-Identifier: Apache-2.0 */
/* refuse.h - what several calls refuse alike. */
#ifndef SPC_HOST_REFUSE_H
#define SPC_HOST_REFUSE_H

#include <spc/verify.h>

/* SPC_EUSAGE: this argument is NULL. */
spc_status spc_refuse_null(const char *argument, spc_error *err);

/* spc_params_check, but for sequential rules too: sessions of the engine may have them. */
spc_status spc_session_params_check(const spc_row_params *params, spc_error *err);

#endif
