/* SPDX-License-Identifier: Apache-2.0 */
/* group_run.c - one verb on all processes: rank 0 asks, the others follow, and all compare what
 * they came to. */
#include "group.h"
#include "hash.h"
#include "host/thread.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* Commands from one comparison of what the ranks came to to the next; parts of the timeout between
 * signs of life. */
enum { COMPARED = 32, SIGNS = 3 };

/* ---- what a rank does -------------------------------------------------------------------------
 */

static spc_ranks_rows rows_of(const spc_runner *r)
{
    return (spc_ranks_rows){r->backend->ops->logits(r->own, 0), r->plan->ids};
}

/* Make a row of logits whole on every rank. */
static spc_status gather_row(spc_runner *r, int32_t output, spc_error *err)
{
    spc_comm *comm = r->backend->comm;
    void *row = (void *)(uintptr_t)r->backend->ops->logits(r->own, output);
    size_t begin[SPC_RANKS_MAX + 1];

    for (int32_t k = 0; k <= comm->world; k++) {
        int32_t first = spc_plan_first_id(r->plan->config.vocab, k, comm->world);

        if (first > r->plan->ids) first = r->plan->ids;
        begin[k] = (size_t)first * sizeof(float);
    }
    return comm->ops->all_gather(comm, row, begin, err);
}

static spc_status draw(const spc_verb *j, spc_error *err)
{
    spc_runner *r = j->runner;
    spc_ranks_rows rows;

    if (!r->part) return r->backend->ops->draw(r->own, j->lanes, j->count, j->draft, err);
    rows = rows_of(r);
    return spc_ranks_draw(r->room, r->backend->comm, &rows, j->lanes, j->count, j->draft, true,
                          err);
}

static spc_status verify(const spc_verb *j, spc_error *err)
{
    spc_runner *v = j->runner, *d = j->drafter;
    spc_comm *comm = v->backend->comm;
    spc_ranks_rows rows, drafter;
    spc_status status = SPC_OK;
    bool gathers;

    if (!v->part) {
        return v->backend->ops->verify(d ? d->own : NULL, v->own, j->lanes, j->count, j->out, err);
    }
    gathers = d && d->part && !spc_plan_cut_alike(v->plan, d->plan, comm->world);
    for (int32_t k = 0; gathers && k < j->count; k++) {
        int32_t needed = j->lanes[k].drafts + (j->lanes[k].bonus ? 1 : 0);

        for (int32_t i = 0; i < needed && status == SPC_OK; i++) {
            status = gather_row(d, j->lanes[k].output + i, err);
        }
    }
    if (status != SPC_OK) return status;
    rows = rows_of(v);
    if (d) drafter = rows_of(d);
    return spc_ranks_verify(v->room, comm, d ? &drafter : NULL, &rows, j->lanes, j->count, j->out,
                            err);
}

/* draft: are there rows of the drafter? */
static spc_status verify_rows(const spc_verb *j, spc_error *err)
{
    const spc_runner *v = j->runner;
    spc_comm *comm = v->backend->comm;
    const float *shared = j->drafter_rows;
    spc_ranks_rows rows, drafter;
    spc_status status = SPC_OK;

    if (j->draft) {
        status = spc_group_rows_share(v->shared, comm, &shared, j->lanes, j->count, err);
    }
    if (status != SPC_OK) return status;
    if (!v->part) {
        return v->backend->ops->verify_rows(shared, v->own, j->lanes, j->count, j->out, err);
    }
    rows = rows_of(v);
    drafter = (spc_ranks_rows){shared, v->plan->ids};
    return spc_ranks_verify(v->room, comm, shared ? &drafter : NULL, &rows, j->lanes, j->count,
                            j->out, err);
}

static spc_status gather_rows(const spc_verb *j, spc_error *err)
{
    spc_runner *r = j->runner;
    spc_status status = SPC_OK;

    if (!r->part) return r->backend->ops->gather(r->own, j->draft, j->count, err);
    for (int32_t i = 0; i < j->count && status == SPC_OK; i++) {
        status = gather_row(r, j->draft + i, err);
    }
    return status;
}

static spc_status run_verb(const spc_verb *j, spc_error *err)
{
    switch (j->kind) {
    case SPC_VERB_DRAW: return draw(j, err);
    case SPC_VERB_VERIFY: return verify(j, err);
    case SPC_VERB_GATHER: return gather_rows(j, err);
    case SPC_VERB_VERIFY_ROWS: return verify_rows(j, err);
    default: return spc_verb_run(j, j->runner->backend->ops, j->runner->own, NULL, err);
    }
}

/* ---- do they come to the same? ----------------------------------------------------------------
 */

static bool verifies(int32_t kind)
{
    return kind == SPC_VERB_VERIFY || kind == SPC_VERB_VERIFY_ROWS;
}

static void digest_job(spc_backend *b, const spc_verb *j)
{
    uint64_t h = b->digest;

    for (int32_t i = 0; j->kind == SPC_VERB_FORWARD && i < j->rows->count; i++) {
        h = spc_hash_int(h, b->ops->length(j->runner->own, j->rows->slot[i]));
    }
    for (int32_t k = 0; j->kind == SPC_VERB_DRAW && k < j->count; k++) {
        if (j->draft < j->lanes[k].drafts) h = spc_hash_int(h, j->lanes[k].draft[j->draft]);
    }
    for (int32_t k = 0; verifies((int32_t)j->kind) && k < j->count; k++) {
        h = spc_hash_int(h, j->out[k].count);
        h = spc_hash_bytes(h, j->out[k].token, (size_t)j->out[k].count * sizeof(int32_t));
    }
    b->digest = h;
}

/* What ranks tell each other now and then. */
typedef struct {
    uint64_t digest;
    char notice[SPC_NOTICE_BYTES]; /* of the device; "": nothing new */
} report;

static spc_status compare_reports(spc_backend *b, spc_error *err)
{
    spc_comm *comm = b->comm;
    report of[SPC_RANKS_MAX], *own = &of[comm->rank];
    size_t begin[SPC_RANKS_MAX + 1];
    const char *notice = NULL;
    spc_status status;

    for (int32_t r = 0; r <= comm->world; r++) begin[r] = (size_t)r * sizeof *of;
    memset(own, 0, sizeof *own);
    own->digest = b->digest;
    if (comm->rank > 0 && b->ops->notice) notice = b->ops->notice(b->own);
    if (notice) (void)snprintf(own->notice, sizeof own->notice, "%s", notice);
    status = comm->ops->all_gather(comm, of, begin, err);
    for (int32_t r = 1; r < comm->world && status == SPC_OK; r++) {
        spc_notices_hear(&b->notices, r, of[r].notice);
        if (of[r].digest == of[0].digest) continue;
        return spc_error_set(err, SPC_EDEVICE,
                             "ranks differ: rank %d came to other tokens or lengths than rank 0 in "
                             "the last %d steps: is its model, processor or GPU another one?",
                             (int)r, COMPARED);
    }
    return status;
}

/* A command has been received, or sent, and is run now. */
static spc_status perform(spc_backend *b, const spc_verb *j, spc_error *err)
{
    spc_status status = run_verb(j, err);

    if (status == SPC_OK) digest_job(b, j);
    if (++b->commands % COMPARED == 0 && status == SPC_OK) status = compare_reports(b, err);
    return status;
}

/* What fails on one rank ends all; the reason that is there already stays. */
spc_status spc_group_end(spc_backend *b, spc_status status, const spc_error *error, spc_error *err)
{
    char text[SPC_ERROR_BYTES];
    bool named = status != SPC_OK && strncmp(error->message, "rank", 4) == 0;

    if (status == SPC_OK) return SPC_OK;
    (void)snprintf(text, sizeof text, "rank %d: %.480s", (int)b->comm->rank, error->message);
    b->comm->ops->abort(b->comm, named ? error->message : text);
    if (err) *err = *error;
    return status;
}

/* Say what this rank was doing, unless another has said so of itself. */
static void name_step(const spc_backend *b, spc_verb_kind kind, spc_error *error)
{
    static const char *const names[SPC_VERB_KINDS] = {"idle",   "forward", "encode", "map", "draw",
                                                      "verify", "gather",  "verify", "edit"};
    char text[SPC_ERROR_BYTES];

    if (strstr(error->message, "(step ")) return;
    (void)snprintf(text, sizeof text, "%.470s (step %llu, %s)", error->message,
                   (unsigned long long)b->commands + 1, names[kind]);
    (void)spc_error_set(error, error->status, "%s", text);
}

void spc_group_abort(spc_backend *b, const char *reason)
{
    spc_error error;

    (void)spc_group_end(b, spc_error_set(&error, SPC_EDEVICE, "%s", reason), &error, NULL);
}

/* ---- rank 0 asks ------------------------------------------------------------------------------
 */

/* With the rewinds of either runner that no command has told yet. */
static void begin_command(spc_backend *b, spc_desk *desk, const spc_command *c)
{
    spc_desk_begin(desk, c);
    for (int32_t m = 0; m < b->runners; m++) {
        spc_desk_put_rewinds(desk, b->runner[m]->rewind, b->runner[m]->rewinds);
        b->runner[m]->rewinds = 0;
    }
}

static spc_status send_command(spc_backend *b, const spc_desk *desk, spc_error *err)
{
    const spc_comm_ops *ops = b->comm->ops;
    spc_status status = ops->broadcast(b->comm, desk->message, SPC_COMMAND_FIRST, 0, err);

    if (status != SPC_OK || desk->used <= SPC_COMMAND_FIRST) return status;
    return ops->broadcast(b->comm, desk->message + SPC_COMMAND_FIRST,
                          desk->used - SPC_COMMAND_FIRST, 0, err);
}

static void write_payload(spc_desk *desk, const spc_verb *j)
{
    switch (j->kind) {
    case SPC_VERB_FORWARD: spc_desk_put_rows(desk, j->rows); break;
    case SPC_VERB_ENCODE:
    case SPC_VERB_MAP: spc_desk_put_tokens(desk, j->token, j->count); break;
    case SPC_VERB_EDIT: spc_desk_put_edits(desk, j->edits, j->runner->plan->ids); break;
    case SPC_VERB_DRAW: spc_desk_put_lanes(desk, j->lanes, j->count, false); break;
    case SPC_VERB_VERIFY:
    case SPC_VERB_VERIFY_ROWS: spc_desk_put_lanes(desk, j->lanes, j->count, true); break;
    default: break;
    }
}

/* The lock is held. */
static spc_status ask(spc_backend *b, const spc_verb *j, spc_error *err)
{
    spc_command c = {.kind = (int32_t)j->kind,
                     .runner = j->runner->index,
                     .drafter = j->drafter ? j->drafter->index : -1,
                     .slot = j->slot,
                     .count = j->count,
                     .draft = j->draft};
    spc_desk *desk = j->runner->desk;
    spc_error error;
    spc_status status;

    begin_command(b, desk, &c);
    write_payload(desk, j);
    status = send_command(b, desk, &error);
    if (status == SPC_OK) status = perform(b, j, &error);
    if (status != SPC_OK) name_step(b, j->kind, &error);
    return spc_group_end(b, status, &error, err);
}

spc_status spc_group_run(const spc_verb *j, spc_error *err)
{
    spc_backend *b = j->runner->backend;
    spc_status status;

    (void)pthread_mutex_lock(&b->lock);
    status = ask(b, j, err);
    (void)pthread_mutex_unlock(&b->lock);
    return status;
}

static struct timespec later(int32_t ms)
{
    struct timespec at;

    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000L;
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    return at;
}

static void *keep_alive(void *user)
{
    spc_backend *b = user;
    int32_t wait = b->timeout_ms / SIGNS;

    (void)pthread_mutex_lock(&b->lock);
    while (!b->quit) {
        struct timespec at = later(wait > 0 ? wait : 1);

        (void)pthread_cond_timedwait(&b->wake, &b->lock, &at);
        if (b->quit || b->commands != b->told) { /* a verb has been there */
            b->told = b->commands;
            continue;
        }
        /* what fails here is told by the next verb */
        if (ask(b, &(spc_verb){.kind = SPC_VERB_NONE, .runner = b->runner[0]}, NULL) != SPC_OK)
            break;
        b->told = b->commands;
    }
    (void)pthread_mutex_unlock(&b->lock);
    return NULL;
}

spc_status spc_group_lead(spc_backend *b, spc_error *err)
{
    if (!spc_thread_start(&b->keeper, keep_alive, b)) {
        return spc_error_set(err, SPC_ENOMEM,
                             "no thread to tell the other ranks that this one lives");
    }
    b->leads = true;
    return SPC_OK;
}

/* Let the others go, if they are still there. */
void spc_group_stop(spc_backend *b)
{
    spc_command c = {.kind = SPC_COMMAND_QUIT, .drafter = -1};

    if (!b->leads) return;
    b->leads = false;
    (void)pthread_mutex_lock(&b->lock);
    b->quit = true;
    (void)pthread_cond_signal(&b->wake);
    (void)pthread_mutex_unlock(&b->lock);
    (void)pthread_join(b->keeper, NULL);
    begin_command(b, b->runner[0]->desk, &c);
    if (send_command(b, b->runner[0]->desk, NULL) == SPC_OK) spc_pulse_leave(b->pulse);
}

/* ---- the others follow ------------------------------------------------------------------------
 */

static spc_status strange(spc_error *err)
{
    return spc_error_set(err, SPC_EINTERNAL, "rank 0 asks for what this rank cannot do");
}

/* The next command, whole, on its runner's desk. */
static spc_status receive_command(spc_backend *b, spc_command *c, spc_error *err)
{
    const spc_comm_ops *ops = b->comm->ops;
    spc_status status = ops->broadcast(b->comm, b->first, sizeof b->first, 0, err);
    spc_desk *desk;
    size_t used;

    if (status != SPC_OK) return status;
    memcpy(c, b->first, sizeof *c);
    if (c->runner < 0 || c->runner >= b->runners || c->drafter >= b->runners) return strange(err);
    desk = b->runner[c->runner]->desk;
    if (!spc_desk_fits(desk, c)) return strange(err);
    memcpy(desk->message, b->first, sizeof b->first);
    used = sizeof *c + (size_t)c->bytes;
    if (used <= sizeof b->first) return SPC_OK;
    return ops->broadcast(b->comm, desk->message + sizeof b->first, used - sizeof b->first, 0, err);
}

static spc_status rewind_all(const spc_backend *b, const spc_desk *desk, int32_t count,
                             spc_error *err)
{
    const spc_command_rewind *at = spc_desk_rewinds(desk);

    for (int32_t i = 0; i < count; i++) {
        if (at[i].runner < 0 || at[i].runner >= b->runners) return strange(err);
        if (at[i].slot < 0 || at[i].slot >= desk->limits.slots) return strange(err);
        b->ops->rewind(b->runner[at[i].runner]->own, at[i].slot, at[i].length);
    }
    return SPC_OK;
}

static spc_status follow_command(spc_backend *b, const spc_command *c, spc_error *err)
{
    spc_runner *r = b->runner[c->runner];
    spc_rows rows;
    spc_edit_list edits;
    bool drafted = verifies(c->kind), lanes = drafted || c->kind == SPC_VERB_DRAW;
    spc_verb j = {.kind = (spc_verb_kind)c->kind,
                  .runner = r,
                  .drafter = c->drafter < 0 ? NULL : b->runner[c->drafter],
                  .rows = &rows,
                  .edits = &edits,
                  .slot = c->slot,
                  .token = spc_desk_tokens(r->desk),
                  .lanes = r->desk->lane,
                  .count = c->count,
                  .draft = c->draft,
                  .out = r->desk->verdict};

    spc_desk_rows(r->desk, &rows);
    if (lanes && !spc_desk_lanes(r->desk, drafted)) return strange(err);
    if (c->kind == SPC_VERB_EDIT && !spc_desk_edits(r->desk, r->plan->ids, &edits))
        return strange(err);
    return perform(b, &j, err);
}

spc_status spc_group_follow(spc_backend *b, spc_error *err)
{
    spc_error error;

    for (;;) {
        spc_command c;
        spc_status status = receive_command(b, &c, &error);

        if (status == SPC_OK) {
            status = rewind_all(b, b->runner[c.runner]->desk, c.rewinds, &error);
        }
        if (status == SPC_OK && c.kind == SPC_COMMAND_QUIT) {
            spc_pulse_leave(b->pulse);
            return SPC_OK;
        }
        if (status == SPC_OK) {
            status = follow_command(b, &c, &error);
            if (status != SPC_OK) name_step(b, (spc_verb_kind)c.kind, &error);
        }
        if (status != SPC_OK) return spc_group_end(b, status, &error, err);
    }
}
