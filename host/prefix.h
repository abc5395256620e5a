/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.h - beginnings of prompts that the pages of the KV caches hold already.
 *
 * Whole pages of what a session has kept are named (pages.h) as soon as one of the models has run
 * them, and remembered with them is which has.  A session whose prompt begins with these tokens
 * takes the pages into its table; what one of the models lacks of them it runs, into the same
 * places: the entries of the same tokens have the same bits, whoever writes them.  All functions:
 * the engine's lock is held. */
#ifndef SPC_HOST_PREFIX_H
#define SPC_HOST_PREFIX_H

#include <spc/spc.h>

/* Note what a session's pages hold by now. */
void spc_prefix_note(spc_session *session);

/* The pages that hold most of a prompt [count], fewer tokens than count: a prompt's last row must
 * run.  Returns how many they are, and writes them to `page` [count / 16]. */
int32_t spc_prefix_find(const spc_engine *engine, const int32_t *prompt, int32_t count,
                        int32_t *page);

/* A session whose table begins with such pages holds them.  Returns how many tokens of them the
 * model holds, 0: the verifier, 1: the drafter. */
void spc_prefix_begin(spc_session *session, int32_t pages);

/* Of what was noted of a session only the first `length` tokens are still there. */
void spc_prefix_cut(spc_session *session, int32_t length);
/* What it wrote is not to be found any more. */
void spc_prefix_forget(spc_session *session);

#endif
