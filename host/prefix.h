/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.h - which slot holds the caches of how much of a prompt.
 *
 * Texts are cut into pages of 16 tokens.  A page is known by a hash over all tokens up to its end;
 * a table leads from there to a slot, whose tokens are then compared one by one.  Entries are never
 * removed: a slot that holds another text by now fails the comparison, and new entries take their
 * place.  Both models' caches go by the same index; what one of them lacks is run.  All functions:
 * the engine's lock is held. */
#ifndef SPC_HOST_PREFIX_H
#define SPC_HOST_PREFIX_H

#include <spc/spc.h>

enum { SPC_PAGE_TOKENS = 16 };

typedef struct {
    uint64_t hash;  /* of all tokens up to the end of a page; 0: unused */
    int32_t slot;   /* that held them */
    int32_t tokens; /* how many they are */
} spc_prefix_entry;

/* Of an engine. */
typedef struct {
    spc_prefix_entry *entry; /* [mask + 1] */
    uint64_t mask;
    int32_t *text;  /* [sessions, context] tokens whose pages were noted */
    int32_t *noted; /* [sessions] of them, whole pages */
    uint64_t *hash; /* [sessions] over them */
    uint64_t *page; /* [context / 16] hashes of the prompt that is looked for */
    bool off;       /* spc_engine_options.no_prefix_reuse, or an encoder */
} spc_prefix;

spc_status spc_prefix_reserve(spc_engine *engine);
void spc_prefix_release(spc_engine *engine);

/* Note what a session's slot holds by now. */
void spc_prefix_note(spc_session *session);
/* Of what was noted of a slot only the first `length` tokens are still there. */
void spc_prefix_cut(spc_engine *engine, int32_t slot, int32_t length);

/* The slot that holds most of a prompt [count], in whole pages, and how many tokens that is, fewer
 * than count: a prompt's last row must run.  -1: none. */
int32_t spc_prefix_find(const spc_engine *engine, const int32_t *prompt, int32_t count,
                        int32_t *tokens);

#endif
