/* SPDX-License-Identifier: Apache-2.0 */
/* group_notices.c - each notice of a group once. */
#include "group_notices.h"

#include "hash.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Is it known by now?  What stands before the first colon and blank is the device's name. */
static bool learn(spc_notices *n, const char *notice)
{
    const char *text = strstr(notice, ": ");
    uint64_t hash =
        spc_hash_bytes(SPC_HASH_BEGIN, text ? text : notice, strlen(text ? text : notice));

    for (int32_t i = 0; i < n->count; i++) {
        if (n->known[i] == hash) return false;
    }
    if (n->count == SPC_NOTICES) return false;
    n->known[n->count++] = hash;
    return true;
}

void spc_notices_told(spc_notices *n, const char *notice)
{
    (void)learn(n, notice);
}

void spc_notices_hear(spc_notices *n, int32_t rank, const char *notice)
{
    if (!notice[0] || !learn(n, notice)) return;
    (void)snprintf(n->line[n->heard++], sizeof n->line[0], "rank %d: %s", (int)rank, notice);
}

const char *spc_notices_next(spc_notices *n)
{
    return n->given < n->heard ? n->line[n->given++] : NULL;
}
