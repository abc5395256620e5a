/* SPDX-License-Identifier: Apache-2.0 */
/* group_desk.c - commands as bytes: ranks of one group run one program on machines of one kind, so
 * that numbers go as they lie in memory. */
#include "group_desk.h"

#include "host/carve.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A lane without its pointers. */
typedef struct {
    spc_row_params params;
    int64_t position;
    int32_t output, drafts;
    uint32_t salt;
    int32_t bonus;
} wire_lane;

/* What a list of edits begins with; they follow, then masked rows, then masks. */
typedef struct {
    int32_t edits, masks;
} wire_edits;

static size_t most_edits(void)
{
    return sizeof(wire_edits) + SPC_EDITS_MOST * sizeof(spc_logit_edit) +
           SPC_MASKS_MOST * sizeof(int32_t) + SPC_MASK_WORDS_MOST * sizeof(uint32_t);
}

/* The longest payload: rows, a prompt, edits, or lanes with all their drafts. */
static size_t most_payload(const spc_limits *l)
{
    size_t rows = times(4 * sizeof(int32_t), l->rows);
    size_t tokens = times(sizeof(int32_t), l->context);
    size_t lane = sizeof(wire_lane) + SPC_DESK_DRAFTS * (sizeof(int32_t) + sizeof(spc_row_stats));
    size_t lanes = times(lane, l->slots), most = rows > tokens ? rows : tokens;

    if (most < most_edits()) most = most_edits();
    return most > lanes ? most : lanes;
}

static size_t lay_out(spc_desk *d, char *base)
{
    carver to = {base, 0};
    int64_t slots = d->limits.slots;
    size_t rewinds = times(2 * sizeof(spc_command_rewind), slots);

    d->capacity = sizeof(spc_command) + rewinds + most_payload(&d->limits);
    if (d->capacity < SPC_COMMAND_FIRST) d->capacity = SPC_COMMAND_FIRST;
    (void)carve(&to, sizeof *d);
    d->message = carve(&to, d->capacity);
    d->lane = carve(&to, times(sizeof *d->lane, slots));
    d->params = carve(&to, times(sizeof *d->params, slots));
    d->draft = carve(&to, times(SPC_DESK_DRAFTS * sizeof *d->draft, slots));
    d->stats = carve(&to, times(SPC_DESK_DRAFTS * sizeof *d->stats, slots));
    d->verdict = carve(&to, times(sizeof *d->verdict, slots));
    return to.used;
}

size_t spc_desk_bytes(const spc_limits *limits)
{
    spc_desk counted = {.limits = *limits};

    return lay_out(&counted, NULL);
}

spc_desk *spc_desk_open(const spc_limits *limits)
{
    size_t bytes = spc_desk_bytes(limits);
    spc_desk *d = bytes < CARVE_MOST ? aligned_alloc(CARVE_ALIGNMENT, bytes) : NULL;

    if (!d) return NULL;
    memset(d, 0, bytes);
    d->limits = *limits;
    (void)lay_out(d, (char *)d);
    return d;
}

void spc_desk_close(spc_desk *desk)
{
    free(desk);
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static spc_command *command_of(const spc_desk *d)
{
    return (spc_command *)(void *)d->message;
}

static void put(spc_desk *d, const void *data, size_t bytes)
{
    assert(bytes <= d->capacity - d->used);
    if (bytes > 0) memcpy(d->message + d->used, data, bytes);
    d->used += bytes;
    command_of(d)->bytes = d->used - sizeof(spc_command);
}

void spc_desk_begin(spc_desk *d, const spc_command *command)
{
    d->used = sizeof *command;
    *command_of(d) = *command;
    command_of(d)->rewinds = 0;
    command_of(d)->bytes = 0;
}

void spc_desk_put_rewinds(spc_desk *d, const spc_command_rewind *rewind, int32_t count)
{
    put(d, rewind, (size_t)count * sizeof *rewind);
    command_of(d)->rewinds += count;
}

void spc_desk_put_tokens(spc_desk *d, const int32_t *token, int32_t count)
{
    put(d, token, (size_t)count * sizeof *token);
}

void spc_desk_put_rows(spc_desk *d, const spc_rows *rows)
{
    spc_desk_put_tokens(d, rows->slot, rows->count);
    spc_desk_put_tokens(d, rows->token, rows->count);
    spc_desk_put_tokens(d, rows->position, rows->count);
    spc_desk_put_tokens(d, rows->output, rows->count);
}

void spc_desk_put_edits(spc_desk *d, const spc_edit_list *list, int32_t ids)
{
    wire_edits w = {list->edits, list->masks};
    size_t words = (size_t)list->masks * (size_t)spc_mask_words(ids);

    put(d, &w, sizeof w);
    put(d, list->edit, (size_t)list->edits * sizeof *list->edit);
    put(d, list->masked, (size_t)list->masks * sizeof *list->masked);
    put(d, list->allowed, words * sizeof *list->allowed);
}

void spc_desk_put_lanes(spc_desk *d, const spc_lane *lanes, int32_t count, bool drafted)
{
    for (int32_t k = 0; k < count; k++) {
        const spc_lane *l = &lanes[k];
        wire_lane w = {*l->params, l->position, l->output, l->drafts, l->salt, l->bonus};

        put(d, &w, sizeof w);
        if (!drafted) continue;
        put(d, l->draft, (size_t)l->drafts * sizeof *l->draft);
        put(d, l->stats, (size_t)l->drafts * sizeof *l->stats);
    }
}

/* ---- reading ----------------------------------------------------------------------------------
 */

bool spc_desk_fits(const spc_desk *d, const spc_command *c)
{
    size_t rewinds = (size_t)c->rewinds * sizeof(spc_command_rewind);

    return c->rewinds >= 0 && c->rewinds <= 2 * d->limits.slots && c->count >= 0 &&
           c->bytes >= rewinds && c->bytes <= d->capacity - sizeof *c;
}

const spc_command_rewind *spc_desk_rewinds(const spc_desk *d)
{
    return (const spc_command_rewind *)(const void *)(d->message + sizeof(spc_command));
}

static const char *payload(const spc_desk *d)
{
    return (const char *)(spc_desk_rewinds(d) + command_of(d)->rewinds);
}

const int32_t *spc_desk_tokens(const spc_desk *d)
{
    return (const int32_t *)(const void *)payload(d);
}

void spc_desk_rows(const spc_desk *d, spc_rows *out)
{
    const int32_t *at = spc_desk_tokens(d);
    int32_t n = command_of(d)->count;

    *out = (spc_rows){n, at, at + n, at + 2 * n, at + 3 * n};
}

static bool get(const char **at, const char *end, void *out, size_t bytes)
{
    if ((size_t)(end - *at) < bytes) return false;
    if (bytes > 0) memcpy(out, *at, bytes);
    *at += bytes;
    return true;
}

bool spc_desk_lanes(spc_desk *d, bool drafted)
{
    const char *at = payload(d);
    const char *end = d->message + sizeof(spc_command) + command_of(d)->bytes;

    if (command_of(d)->count > d->limits.slots) return false;
    for (int32_t k = 0; k < command_of(d)->count; k++) {
        int32_t *draft = d->draft + (size_t)k * SPC_DESK_DRAFTS;
        spc_row_stats *stats = d->stats + (size_t)k * SPC_DESK_DRAFTS;
        wire_lane w;

        if (!get(&at, end, &w, sizeof w) || w.drafts < 0 || w.drafts > SPC_DESK_DRAFTS) {
            return false;
        }
        d->params[k] = w.params;
        d->lane[k] = (spc_lane){&d->params[k], w.position,   w.output, w.drafts,
                                w.salt,        w.bonus != 0, draft,    stats};
        if (!drafted) continue;
        if (!get(&at, end, draft, (size_t)w.drafts * sizeof *draft)) return false;
        if (!get(&at, end, stats, (size_t)w.drafts * sizeof *stats)) return false;
    }
    return true;
}

static bool in_rows(const spc_desk *d, int32_t row)
{
    return row >= 0 && row < d->limits.outputs;
}

bool spc_desk_edits(const spc_desk *d, int32_t ids, spc_edit_list *out)
{
    const char *at = payload(d);
    size_t left = (size_t)(d->message + sizeof(spc_command) + command_of(d)->bytes - at);
    size_t words;
    wire_edits w;

    if (left < sizeof w) return false;
    memcpy(&w, at, sizeof w);
    if (w.edits < 0 || w.edits > SPC_EDITS_MOST || w.masks < 0 || w.masks > SPC_MASKS_MOST) {
        return false;
    }
    words = (size_t)w.masks * (size_t)spc_mask_words(ids);
    if (left != sizeof w + (size_t)w.edits * sizeof *out->edit +
                    (size_t)w.masks * sizeof *out->masked + words * sizeof *out->allowed) {
        return false;
    }
    out->edits = w.edits;
    out->edit = (const spc_logit_edit *)(const void *)(at + sizeof w);
    out->masks = w.masks;
    out->masked = (const int32_t *)(const void *)(out->edit + w.edits);
    out->allowed = (const uint32_t *)(const void *)(out->masked + w.masks);
    for (int32_t i = 0; i < w.edits; i++) {
        const spc_logit_edit *e = &out->edit[i];

        if (!in_rows(d, e->row) || e->token < 0 || e->token >= ids) return false;
    }
    for (int32_t i = 0; i < w.masks; i++) {
        if (!in_rows(d, out->masked[i])) return false;
    }
    return true;
}
