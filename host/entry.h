/* SPDX-License-Identifier: Apache-2.0 */
/* entry.h - who is inside an engine, and when it ends: calls that must not be made are refused
 * instead of waiting for themselves. */
#ifndef SPC_HOST_ENTRY_H
#define SPC_HOST_ENTRY_H

#include "engine.h"

/* The engine that was opened just now belongs to this process. */
void spc_entry_begin(spc_engine *engine);

/* Is the caller a callback of this engine, or in a process forked since it was opened? */
bool spc_entry_inside(const spc_engine *engine);
bool spc_entry_forked(const spc_engine *engine);

/* Take the engine's lock.  SPC_EUSAGE, and it is not taken: the caller is a callback of this engine
 * or in a forked process, or the engine has been closed. */
spc_status spc_entry_take(spc_engine *engine, spc_error *err);
/* The same to close something, whatever the engine's state; false: it cannot be taken from here. */
bool spc_entry_take_to_close(spc_engine *engine);
void spc_entry_leave(spc_engine *engine);

/* SPC_EUSAGE: a pointer that must not be NULL is, by the name it has in the header. */
spc_status spc_entry_given(const void *pointer, const char *name, spc_error *err);

/* [count] of something: a count below 0, or a NULL array that should hold some. */
spc_status spc_entry_array(const void *pointer, int32_t count, const char *name,
                           const char *count_name, spc_error *err);

#endif
