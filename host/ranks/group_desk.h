/* SPDX-License-Identifier: Apache-2.0 */
/* group_desk.h - what rank 0 asks of the other processes, written down and read again.
 *
 * A command is one of the verbs of backend.h with its arguments as bytes.  All memory for the
 * longest one is reserved when a model is loaded. */
#ifndef SPC_HOST_GROUP_DESK_H
#define SPC_HOST_GROUP_DESK_H

#include "host/verb.h"

/* Bytes that are sent of every command at once; most are not longer. */
enum { SPC_COMMAND_FIRST = 2048 };

/* What is asked: a verb, none (rank 0 lives), or to end. */
enum { SPC_COMMAND_QUIT = SPC_VERB_KINDS };

/* What a command begins with; `bytes` of payload follow. */
typedef struct {
    int32_t kind;
    int32_t runner;  /* whose: 0 the first that was loaded, 1 the second */
    int32_t drafter; /* VERIFY: the same of the drafter; -1: none */
    int32_t rewinds; /* in front of the payload: of either runner, to be done first */
    int32_t slot;    /* ENCODE, MAP */
    int32_t count; /* FORWARD rows, ENCODE tokens, MAP pages, DRAW and VERIFY lanes, GATHER rows */
    int32_t draft; /* DRAW which, GATHER the first row, MAP the length, VERIFY_ROWS any rows? */
    int32_t unused;
    uint64_t bytes;
} spc_command;

typedef struct {
    int32_t runner, slot, length;
} spc_command_rewind;

/* Room for the commands of one model, and for what followers read out of them. */
typedef struct {
    spc_limits limits;
    char *message; /* [capacity] a command and its payload */
    size_t capacity, used;
    spc_lane *lane;         /* [slots], as followers see them, ... */
    spc_row_params *params; /* [slots] */
    int32_t *draft;         /* [slots, SPC_DESK_DRAFTS] */
    spc_row_stats *stats;   /* [slots, SPC_DESK_DRAFTS] */
    spc_verdict *verdict;   /* [slots] */
} spc_desk;

enum { SPC_DESK_DRAFTS = SPC_GAMMA_MAX + 2 };

/* Bytes of a desk for a runner with these limits. */
size_t spc_desk_bytes(const spc_limits *limits);
/* NULL: no memory. */
spc_desk *spc_desk_open(const spc_limits *limits);
void spc_desk_close(spc_desk *desk); /* NULL is allowed */

/* ---- writing (rank 0) ---- */

/* Begin a command; its rewinds and bytes are counted here.  Rewinds come before all else. */
void spc_desk_begin(spc_desk *desk, const spc_command *command);
void spc_desk_put_rewinds(spc_desk *desk, const spc_command_rewind *rewind, int32_t count);
void spc_desk_put_rows(spc_desk *desk, const spc_rows *rows);
void spc_desk_put_tokens(spc_desk *desk, const int32_t *token, int32_t count);
/* ids: of the rows. */
void spc_desk_put_edits(spc_desk *desk, const spc_edit_list *list, int32_t ids);
/* drafted: with the drafts and their rows' statistics. */
void spc_desk_put_lanes(spc_desk *desk, const spc_lane *lanes, int32_t count, bool drafted);

/* ---- reading (the others); false: it is longer, or holds more, than fits here ---- */

bool spc_desk_fits(const spc_desk *desk, const spc_command *command);
const spc_command_rewind *spc_desk_rewinds(const spc_desk *desk);
void spc_desk_rows(const spc_desk *desk, spc_rows *out);
const int32_t *spc_desk_tokens(const spc_desk *desk);
bool spc_desk_lanes(spc_desk *desk, bool drafted);
bool spc_desk_edits(const spc_desk *desk, int32_t ids, spc_edit_list *out);

#endif
