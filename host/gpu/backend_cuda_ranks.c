/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_ranks.c - several GPU ranks in one process behind one backend. */
#include "backend_cuda_ranks.h"

#include "backend_cuda_rank.h"
#include "host/carve.h"
#include "host/ranks/comm_nccl.h"
#include "host/ranks/comm_virtual.h"
#include "host/ranks/drivers.h"
#include "host/verb.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far beyond any op: ranks of one process come, unless there is a bug or a device hangs. */
enum { TIMEOUT_MS = 120000 };

static const spc_backend_ops *const cuda = &spc_backend_cuda_rank;

/* What all ranks do at once. */
typedef struct {
    enum { OPEN, CLOSE, LOAD, UNLOAD, VERB } kind;
    spc_backend *group;
    spc_runner *runner;        /* load, unload */
    const spc_plan *plan;      /* load */
    const spc_bundle *weights; /* load */
    const spc_limits *limits;  /* load */
    const spc_verb *verb;
} job;

struct spc_backend {
    int32_t world;
    bool shared; /* all ranks on one device */
    int32_t timeout_ms;
    const char *library; /* NCCL's; while it opens */
    char id[SPC_NCCL_ID_BYTES];
    char which[SPC_RANKS_MAX][16];         /* [world] numbers of devices */
    spc_device_comm *place[SPC_RANKS_MAX]; /* [world] of a shared device, until its rank has it */
    spc_comm *beside[SPC_RANKS_MAX];       /* [world] of devices that differ: who says what fails */
    spc_backend *rank[SPC_RANKS_MAX];      /* [world] CUDA backends */
    spc_drivers *drivers;
    spc_status status[SPC_RANKS_MAX]; /* [world] of the present job */
    spc_error error[SPC_RANKS_MAX];
    _Atomic int32_t failed; /* the rank whose error came first, which the others' follow from; -1 */
    char device[160];
};

/* A model: a runner on each rank. */
struct spc_runner {
    spc_backend *group;
    const spc_plan *plan;
    spc_runner *rank[SPC_RANKS_MAX]; /* [world] */
    int32_t slots;
    /* what ranks other than the first write */
    spc_lane *lane;       /* [world, slots] */
    int32_t *draft;       /* [world, slots, SPC_GAMMA_MAX + 1] */
    spc_row_stats *stats; /* the same */
    spc_verdict *verdict; /* [world, slots] */
};

/* ---- all ranks at once ------------------------------------------------------------------------
 */

/* A rank's place in the group. */
typedef struct {
    spc_backend *group;
    int32_t rank;
} seat;

static spc_status join(void *user, spc_device_comm **out, spc_error *err)
{
    const seat *s = user;
    spc_backend *b = s->group;

    if (!b->shared) {
        return spc_nccl_open(b->library, b->id, s->rank, b->world, b->timeout_ms,
                             b->beside[s->rank], out, err);
    }
    *out = b->place[s->rank];
    b->place[s->rank] = NULL;
    return SPC_OK;
}

/* Drafts of a rank other than the first go where nobody looks. */
static const spc_lane *own_lanes(const spc_verb *v, int32_t rank)
{
    const spc_runner *r = v->runner;
    size_t first = (size_t)rank * (size_t)r->slots;

    for (int32_t k = 0; k < v->count; k++) {
        size_t at = (first + (size_t)k) * (SPC_GAMMA_MAX + 1);

        r->lane[first + (size_t)k] = v->lanes[k];
        r->lane[first + (size_t)k].draft = r->draft + at;
        r->lane[first + (size_t)k].stats = r->stats + at;
    }
    return r->lane + first;
}

static bool verifies(const spc_verb *v)
{
    return v->kind == SPC_VERB_VERIFY || v->kind == SPC_VERB_VERIFY_ROWS;
}

static spc_status run_verb(const spc_verb *v, int32_t rank, spc_error *err)
{
    const spc_runner *r = v->runner;
    spc_verb own = *v;

    if (rank > 0 && v->kind == SPC_VERB_DRAW) own.lanes = own_lanes(v, rank);
    if (rank > 0 && verifies(v)) {
        own.out = r->verdict + (size_t)rank * (size_t)r->slots;
    }
    return spc_verb_run(&own, cuda, r->rank[rank], v->drafter ? v->drafter->rank[rank] : NULL, err);
}

static spc_status run_job(job *j, int32_t rank, spc_error *err)
{
    spc_backend *b = j->group;
    seat s = {b, rank};
    spc_limits limits;

    switch (j->kind) {
    case OPEN: return spc_cuda_open_rank(b->which[rank], join, &s, &b->rank[rank], err);
    case CLOSE: cuda->close(b->rank[rank]); return SPC_OK;
    case LOAD:
        limits = *j->limits;
        if (rank > 0) limits.meter = NULL; /* they load alike, at the same time */
        return cuda->load(b->rank[rank], j->plan, j->weights, &limits, &j->runner->rank[rank], err);
    case UNLOAD: cuda->unload(j->runner->rank[rank]); return SPC_OK;
    case VERB: break;
    }
    return run_verb(j->verb, rank, err);
}

static void run_rank(void *user, int32_t rank)
{
    job *j = user;
    spc_backend *b = j->group;
    int32_t nobody = -1;

    b->status[rank] = run_job(j, rank, &b->error[rank]);
    if (b->status[rank] == SPC_OK) return;
    (void)atomic_compare_exchange_strong(&b->failed, &nobody, rank);
    if (j->kind == OPEN && b->beside[rank]) { /* the others wait for this one to join them */
        b->beside[rank]->ops->abort(b->beside[rank], b->error[rank].message);
    }
    if (j->kind == OPEN || j->kind == LOAD) return;
    for (int32_t k = 0; k < b->world; k++) {
        spc_cuda_abort_rank(b->rank[k], b->error[rank].message);
    }
}

static spc_status run_all(job j, spc_error *err)
{
    spc_backend *b = j.group;
    int32_t failed;

    b->failed = -1;
    spc_drivers_run(b->drivers, run_rank, &j);
    failed = b->failed;
    if (failed < 0) return SPC_OK;
    if (err) *err = b->error[failed];
    return b->status[failed];
}

/* ---- open -------------------------------------------------------------------------------------
 */

static spc_status refuse_devices(const spc_cuda_ranks_options *o, spc_error *err)
{
    return spc_error_set(
        err, SPC_EUSAGE,
        "device %.60s: expected cuda, or %d of the kind cuda:N with commas between "
        "them (for %d ranks), all different or all the same",
        o->devices, (int)o->world, (int)o->world);
}

/* Numbers of devices, one for each rank. */
static spc_status read_devices(spc_backend *b, const spc_cuda_ranks_options *o, spc_error *err)
{
    const char *at = o->devices;
    int32_t count = 0, same = 0;

    if (strcmp(at, "cuda") == 0) {
        for (int32_t k = 0; k < o->world; k++) {
            (void)snprintf(b->which[k], sizeof b->which[k], "%d", (int)k);
        }
        return SPC_OK;
    }
    for (;; at++) {
        size_t digits = strncmp(at, "cuda:", 5) == 0 ? strspn(at + 5, "0123456789") : 0;

        if (digits < 1 || digits > 9 || count == o->world) return refuse_devices(o, err);
        (void)snprintf(b->which[count], sizeof b->which[count], "%.*s", (int)digits, at + 5);
        for (int32_t k = 0; k < count; k++) same += strcmp(b->which[k], b->which[count]) == 0;
        count++;
        at += 5 + digits;
        if (*at != ',') break;
    }
    b->shared = count > 1 && same == count * (count - 1) / 2;
    if (*at || count != o->world || (same > 0 && !b->shared)) return refuse_devices(o, err);
    return SPC_OK;
}

static void ranks_close(spc_backend *b)
{
    if (!b) return;
    if (b->drivers) (void)run_all((job){.kind = CLOSE, .group = b}, NULL);
    spc_drivers_close(b->drivers);
    for (int32_t k = 0; k < b->world; k++) {
        if (b->place[k]) b->place[k]->ops->close(b->place[k]);
        spc_comm_close(b->beside[k]);
    }
    free(b);
}

/* Where the ranks meet: made beforehand, or named. */
static spc_status prepare(spc_backend *b, const spc_cuda_ranks_options *o, spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < o->world && status == SPC_OK; k++) { /* are they there? */
        spc_backend *alone;

        status = cuda->open(&alone, 0, b->which[k], err);
        cuda->close(alone);
    }
    if (status != SPC_OK) return status;
    if (b->shared) return spc_virtual_open(o->world, b->timeout_ms, b->place, err);
    status = spc_nccl_id(o->library, b->id, err);
    if (status != SPC_OK) return status;
    return spc_comm_local_open(o->world, b->timeout_ms, b->beside, err);
}

spc_status spc_cuda_ranks_open(const spc_cuda_ranks_options *o, spc_backend **out, spc_error *err)
{
    spc_backend *b = calloc(1, sizeof *b);
    spc_status status;

    *out = NULL;
    if (!b) return spc_error_set(err, SPC_ENOMEM, "no memory for %d ranks", (int)o->world);
    if (o->world < 1 || o->world > SPC_RANKS_MAX) {
        free(b);
        return spc_error_set(err, SPC_EUSAGE, "ranks: expected 1 to %d, found %d", SPC_RANKS_MAX,
                             (int)o->world);
    }
    b->world = o->world;
    b->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : TIMEOUT_MS;
    b->library = o->library;
    status = read_devices(b, o, err);
    if (status == SPC_OK) status = prepare(b, o, err);
    if (status == SPC_OK) status = spc_drivers_open(o->world, &b->drivers, err);
    if (status == SPC_OK) status = run_all((job){.kind = OPEN, .group = b}, err);
    if (status != SPC_OK) {
        ranks_close(b);
        return status;
    }
    (void)snprintf(b->device, sizeof b->device, "%d ranks%s, the first %s", (int)b->world,
                   b->shared ? " on one GPU" : "", cuda->device(b->rank[0]));
    *out = b;
    return SPC_OK;
}

typedef struct {
    void *comm;
    int32_t world; /* 0: any */
} adoption;

static spc_status adopt(void *user, spc_device_comm **out, spc_error *err)
{
    const adoption *a = user;
    spc_status status = spc_nccl_adopt(NULL, a->comm, TIMEOUT_MS, out, err);

    if (status != SPC_OK || a->world == 0 || (*out)->world == a->world) return status;
    return spc_error_set(err, SPC_EUSAGE,
                         "tp: expected %d, the ranks of the communicator (or 0), found %d",
                         (int)(*out)->world, (int)a->world);
}

spc_status spc_cuda_open_adopted(const char *which, void *comm, int32_t world, spc_backend **out,
                                 spc_error *err)
{
    adoption a = {comm, world};

    return spc_cuda_open_rank(which, adopt, &a, out, err);
}

static const char *ranks_device(const spc_backend *b)
{
    return b->device;
}

static const char *ranks_notice(spc_backend *b)
{
    const char *notice = NULL;

    for (int32_t k = 0; k < (b->shared ? 1 : b->world) && !notice; k++) {
        notice = cuda->notice(b->rank[k]);
    }
    return notice;
}

/* ---- load -------------------------------------------------------------------------------------
 */

static size_t lay_out(spc_runner *r, int32_t world, char *base)
{
    carver to = {base, 0};
    int64_t lanes = (int64_t)world * r->slots;

    r->lane = carve(&to, times(sizeof *r->lane, lanes));
    r->draft = carve(&to, times(sizeof *r->draft, lanes * (SPC_GAMMA_MAX + 1)));
    r->stats = carve(&to, times(sizeof *r->stats, lanes * (SPC_GAMMA_MAX + 1)));
    r->verdict = carve(&to, times(sizeof *r->verdict, lanes));
    return to.used;
}

static size_t ranks_memory(const spc_backend *b, const spc_plan *plan, const spc_limits *limits)
{
    size_t total = 0;

    for (int32_t k = 0; k < b->world; k++) {
        size_t bytes = cuda->memory(b->rank[k], plan, limits);

        total = bytes < CARVE_MOST - total ? total + bytes : CARVE_MOST;
    }
    return total;
}

static spc_status ranks_claim(const spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                              const spc_limits *limits, spc_claims *claims, spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t k = 0; k < b->world && status == SPC_OK; k++) {
        status = cuda->claim(b->rank[k], plan, weights, limits, claims, err);
    }
    return status;
}

static void ranks_unload(spc_runner *r)
{
    if (!r) return;
    (void)run_all((job){.kind = UNLOAD, .group = r->group, .runner = r}, NULL);
    free(r->lane);
    free(r);
}

static spc_status ranks_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                             const spc_limits *limits, spc_runner **out, spc_error *err)
{
    spc_runner *r = calloc(1, sizeof *r);
    char *memory = NULL;
    spc_status status;

    *out = NULL;
    if (r) {
        r->slots = limits->slots;

        size_t bytes = lay_out(r, b->world, NULL);

        if (bytes < CARVE_MOST) memory = calloc(1, bytes);
    }
    if (!memory) {
        free(r);
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory on the host for the sessions (%d)",
                             spc_bundle_where(weights), (int)limits->slots);
    }
    (void)lay_out(r, b->world, memory);
    r->group = b;
    r->plan = plan;
    status = run_all((job){.kind = LOAD,
                           .group = b,
                           .runner = r,
                           .plan = plan,
                           .weights = weights,
                           .limits = limits},
                     err);
    if (status != SPC_OK) {
        ranks_unload(r);
        return status;
    }
    *out = r;
    return SPC_OK;
}

/* ---- the other verbs --------------------------------------------------------------------------
 */

static const float *ranks_logits(const spc_runner *r, int32_t output)
{
    return cuda->logits(r->rank[0], output);
}

static int32_t ranks_length(const spc_runner *r, int32_t slot)
{
    return cuda->length(r->rank[0], slot);
}

static void ranks_rewind(spc_runner *r, int32_t slot, int32_t length)
{
    for (int32_t k = 0; k < r->group->world; k++) cuda->rewind(r->rank[k], slot, length);
}

static bool same_verdict(const spc_verdict *a, const spc_verdict *b)
{
    return a->count == b->count && a->accepted == b->accepted && a->status == b->status &&
           a->deferred == b->deferred &&
           memcmp(a->token, b->token, (size_t)a->count * sizeof *a->token) == 0;
}

static spc_status compare_verdicts(const spc_verb *v, spc_error *err)
{
    const spc_runner *r = v->runner;

    for (int32_t k = 1; k < r->group->world; k++) {
        for (int32_t s = 0; s < v->count; s++) {
            if (same_verdict(&v->out[s], &r->verdict[k * r->slots + s])) continue;
            spc_cuda_abort_rank(r->group->rank[0], "ranks differ in a verdict");
            return spc_error_set(err, SPC_EDEVICE,
                                 "ranks differ: ranks 0 and %d decide differently about one "
                                 "round: are their GPUs the same?",
                                 (int)k);
        }
    }
    return SPC_OK;
}

static spc_status pass(const spc_verb *v, spc_error *err)
{
    const spc_runner *r = v->runner;
    spc_status status;

    /* from whole rows the first rank draws for all */
    if (r->plan->alone && v->kind == SPC_VERB_DRAW) return run_verb(v, 0, err);
    if (r->plan->alone && v->kind == SPC_VERB_GATHER) return SPC_OK;
    status = run_all((job){.kind = VERB, .group = r->group, .verb = v}, err);
    return status == SPC_OK && verifies(v) ? compare_verdicts(v, err) : status;
}

static int32_t ranks_chunk_rows(const spc_backend *b)
{
    (void)b;
    return SPC_CHUNK_ROWS_GPU;
}

#include "host/verbs_body.h"

const spc_backend_ops spc_backend_cuda_ranks = {
    .name = "cuda-ranks",
    .close = ranks_close,
    .device = ranks_device,
    .chunk_rows = ranks_chunk_rows,
    .notice = ranks_notice,
    .memory = ranks_memory,
    .claim = ranks_claim,
    .load = ranks_load,
    .unload = ranks_unload,
    SPC_VERBS_PASSED,
    .verify_rows = pass_verify_rows,
    .gather = pass_gather,
    .logits = ranks_logits,
    .length = ranks_length,
    .rewind = ranks_rewind,
};
