/* SPDX-License-Identifier: Apache-2.0 */
/* slots.h - who holds which slot and which pages of the KV caches, and who waits for them.
 *
 * A session that begins gets a slot, and pages for all that it may come to hold: nothing can run
 * out while it is decoded.  It keeps both until its close, or until it has ended and another waits.
 * Sessions wait in the order they came.  All functions: the engine's lock is held. */
#ifndef SPC_HOST_SLOTS_H
#define SPC_HOST_SLOTS_H

#include "pages.h"

#include <spc/spc.h>

/* Of an engine, beside engine->slot and engine->pages. */
typedef struct {
    spc_session *first, *last; /* who waits, linked by session->behind */
    int32_t *lent;             /* [pages of the context] of spc_slots_lend */
} spc_slots;

spc_status spc_slots_reserve(spc_engine *engine);
void spc_slots_release(spc_engine *engine);

/* Is there room for a session with this prompt [count], or may it wait for it?  SPC_EFULL: neither,
 * or there never can be.
 *
 * common   tokens of the prompt that the session's caches hold, if it has a slot */
spc_status spc_slots_check(spc_session *session, const int32_t *prompt, int32_t count,
                           int32_t common, spc_error *err);

/* Give a session without a slot one, and pages, or a place in the line. */
spc_status spc_slots_take(spc_session *session, spc_error *err);

/* A session with a slot, for which spc_slots_check found room, goes on with a prompt of `count`
 * tokens, of which it has the first `common`: its caches are cut to these, or to whole pages of
 * them where others use the last one too.  One that is to wait loses its slot.
 *
 * reused   receives how many of the tokens are there still */
spc_status spc_slots_keep(spc_session *session, int32_t count, int32_t common, int64_t *reused,
                          spc_error *err);

/* Before a session's first round: put pages into its table that by now hold more of its prompt than
 * its own do.  On a device that has failed it ends with that. */
void spc_slots_share(spc_session *session);
/* Tokens of its prompt that the pages in its table hold of the drafter, or of the verifier, whoever
 * ran them. */
int32_t spc_slots_holds(const spc_session *session, bool drafter);
/* In the middle of its text: what others have filled by now of the pages in its table a model that
 * lags has too. */
void spc_slots_catch_up(spc_session *session);

/* Take a session's slot and pages, or its place in the line, away; what becomes free goes to who
 * waits. */
void spc_slots_give_back(spc_session *session);

/* Who waits and finds room begins: one in the line asks for less than before, or what others have
 * run of its prompt by now is shared. */
void spc_slots_serve(spc_engine *engine);

/* A session has ended: its slot goes to who waits, if anybody does. */
void spc_slots_ended(spc_session *session);

/* A slot whose verifier can run so many tokens, until it is returned.  SPC_EFULL */
spc_status spc_slots_lend(spc_engine *engine, int32_t tokens, int32_t *slot, spc_error *err);
void spc_slots_return(spc_engine *engine, int32_t tokens, int32_t slot);

#endif
