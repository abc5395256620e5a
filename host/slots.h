/* SPDX-License-Identifier: Apache-2.0 */
/* slots.h - who holds which slot of the KV caches, and who waits for one.
 *
 * A session holds a slot from its beginning to its close, or until it has ended and another waits.
 * Sessions wait in the order they came.  All functions: the engine's lock is held. */
#ifndef SPC_HOST_SLOTS_H
#define SPC_HOST_SLOTS_H

#include <spc/spc.h>

/* Of an engine, beside engine->slot. */
typedef struct {
    spc_session *first, *last; /* who waits, linked by session->behind */
    uint64_t *freed;           /* [sessions] when a slot became free, by `clock`; 0: never used */
    uint64_t clock;
} spc_slots;

spc_status spc_slots_reserve(spc_engine *engine);
void spc_slots_release(spc_engine *engine);

/* Is there a slot for a session, or may it wait for one?  SPC_EFULL: neither. */
spc_status spc_slots_check(const spc_session *session, spc_error *err);

/* Give a session without a slot one, or a place in the line. */
spc_status spc_slots_take(spc_session *session, spc_error *err);

/* Take a session's slot, or its place in the line, away; what becomes free goes to who waits. */
void spc_slots_give_back(spc_session *session);

/* A session has ended: its slot goes to who waits, if anybody does. */
void spc_slots_ended(spc_session *session);

/* A free slot for the moment, the one that was free longest; -1: there is none. */
int32_t spc_slots_spare(const spc_engine *engine);

#endif
