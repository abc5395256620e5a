/* SPDX-License-Identifier: Apache-2.0 */
/* fit.h - do models fit in the memory of their devices, and how large can their KV caches be there?
 * Asked before any weight moves. */
#ifndef SPC_HOST_FIT_H
#define SPC_HOST_FIT_H

#include "engine.h"

/* Models, and where they are to be loaded. */
typedef struct {
    const spc_backend_ops *ops;
    spc_backend *backend;
    const spc_model *verifier, *drafter; /* drafter: NULL, or without a plan: there is none */
} spc_fit;

/* Pages of KV entries for sessions that nobody gave a number of tokens for.
 *
 * limits   their pages are 0
 * pages    receives 0 where the memory that is free holds the full context of all sessions with
 *          some of it left; otherwise as many as it so holds beside weights and scratch, but one
 *          session's full context at least, whether that fits or not.  Of several processes this
 *          one's
 *
 * The errors of the verb claim */
spc_status spc_fit_pages(const spc_fit *fit, const spc_limits *limits, int32_t *pages,
                         spc_error *err);

/* SPC_ENOMEM: on a device of this process there is less memory than needed; says what to lower. */
spc_status spc_fit_check(const spc_fit *fit, const spc_limits *limits, spc_error *err);

/* A line about caches that hold no more than fits. */
void spc_fit_describe(const spc_fit *fit, const spc_limits *limits, char *line, size_t bytes);

#endif
