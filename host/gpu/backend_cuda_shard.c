/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_shard.c - drawing and verification by a rank that holds a slice of the vocabulary:
 * steps of the device's kernels with an exchange between them (rules/shard.h).
 *
 * All ranks go through the same steps to the same end, provided that they began with the same: so
 * they send a hash of that along, behind their answers, which costs no exchange of its own. */
#include "backend_cuda.h"

#include "cuda/launch.h"

#include <stdio.h>

/* ---- what ranks compare -----------------------------------------------------------------------
 */

static uint64_t hash_word(uint64_t hash, uint64_t word)
{
    for (int32_t byte = 0; byte < 8; byte++) {
        hash = (hash ^ (word >> (8 * byte) & 255u)) * 0x100000001b3u;
    }
    return hash;
}

uint64_t spc_cuda_hash_lanes(const spc_runner *r, const spc_lane *lanes, int32_t count)
{
    uint64_t hash = hash_word(r->slices.past ^ 0xcbf29ce484222325u, (uint64_t)count);

    for (int32_t k = 0; k < count; k++) {
        hash = hash_word(hash, (uint64_t)lanes[k].position);
        hash = hash_word(hash, (uint64_t)lanes[k].drafts << 1 | lanes[k].bonus);
        hash = hash_word(hash, lanes[k].params->seed);
        for (int32_t i = 0; i < lanes[k].drafts; i++) {
            hash = hash_word(hash, (uint32_t)lanes[k].draft[i]);
        }
    }
    return hash;
}

void spc_cuda_note_verdicts(spc_runner *r, const spc_verdict *verdict, int32_t count)
{
    r->slices.rounds++;
    for (int32_t k = 0; k < count; k++) {
        for (int32_t i = 0; i < verdict[k].count; i++) {
            r->slices.past = hash_word(r->slices.past, (uint32_t)verdict[k].token[i]);
        }
    }
}

static spc_status compare(spc_runner *r, spc_error *err)
{
    spc_device_comm *comm = r->backend->comm;
    char text[256];

    for (int32_t k = 1; k < comm->world; k++) {
        if (r->slices.heard[k] == r->slices.heard[0]) continue;
        (void)snprintf(text, sizeof text,
                       "ranks differ: ranks 0 and %d verify other drafts in round %llu, or decided "
                       "differently before: are their GPUs, models and options the same?",
                       (int)k, (unsigned long long)r->slices.rounds + 1);
        comm->ops->abort(comm, text);
        return comm->ops->async_error(comm, err);
    }
    return SPC_OK;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

/* The kernels of a step, of either kind of batch. */
typedef struct {
    cudaError_t (*partial)(const void *batch, const spc_shards *shards, int32_t step,
                           cudaStream_t stream);
    cudaError_t (*combine)(const void *batch, const spc_shards *shards, int32_t step,
                           cudaStream_t stream);
    const char *name;
    const void *batch;
    int32_t sequences;
} steps;

static cudaError_t draw_partial(const void *b, const spc_shards *s, int32_t step, cudaStream_t on)
{
    return spc_launch_draw_partial(b, s, step, on);
}

static cudaError_t draw_combine(const void *b, const spc_shards *s, int32_t step, cudaStream_t on)
{
    return spc_launch_draw_combine(b, s, step, on);
}

static cudaError_t verify_partial(const void *b, const spc_shards *s, int32_t step, cudaStream_t on)
{
    return spc_launch_verify_partial(b, s, step, on);
}

static cudaError_t verify_combine(const void *b, const spc_shards *s, int32_t step, cudaStream_t on)
{
    return spc_launch_verify_combine(b, s, step, on);
}

static spc_status run_step(spc_runner *r, const steps *s, const spc_shards *shards, int32_t step,
                           spc_error *err)
{
    spc_backend *b = r->backend;
    spc_device_comm *comm = b->comm;
    const size_t part = shards->send_bytes;
    char *answers = shards->answers;
    size_t begin[SPC_SHARDS_MAX + 1];
    cudaError_t code = s->partial(s->batch, shards, step, b->stream);
    spc_status status;

    for (int32_t k = 0; k <= comm->world; k++) begin[k] = (size_t)k * part;
    if (code == cudaSuccess) {
        code = cudaMemcpyAsync(answers + begin[comm->rank + 1] - SPC_CUDA_CHECK_BYTES,
                               r->device_lanes.check, sizeof *r->device_lanes.check,
                               cudaMemcpyDeviceToDevice, b->stream);
    }
    status = spc_cuda_check(b, code, s->name, err);
    if (status == SPC_OK) status = comm->ops->all_gather(comm, answers, begin, b->stream, err);
    if (status != SPC_OK) return status;
    return spc_cuda_check(b, s->combine(s->batch, shards, step, b->stream), s->name, err);
}

/* What is left, and what ranks began with. */
static spc_status hear(spc_runner *r, const steps *s, const spc_shards *shards, spc_error *err)
{
    spc_backend *b = r->backend;
    const char *check = (const char *)shards->answers + shards->send_bytes - SPC_CUDA_CHECK_BYTES;
    spc_status status = spc_cuda_copy(b, r->slices.left_heard, shards->left,
                                      2 * sizeof *r->slices.left_heard, true, s->name, err);
    cudaError_t code;

    if (status != SPC_OK) return status;
    code = cudaMemcpy2DAsync(r->slices.heard, sizeof *r->slices.heard, check, shards->send_bytes,
                             sizeof *r->slices.heard, (size_t)b->comm->world,
                             cudaMemcpyDeviceToHost, b->stream);
    status = spc_cuda_check(b, code, s->name, err);
    if (status == SPC_OK) status = spc_cuda_wait(b, s->name, err);
    return status == SPC_OK ? compare(r, err) : status;
}

/* Steps until every sequence is decided, the first of which sends so many bytes.  Hardly one is
 * decided after it: two go together, so that the second sends the most it may need. */
static spc_status run_steps(spc_runner *r, const steps *s, spc_shards *shards, size_t first,
                            spc_error *err)
{
    const spc_shard_bytes most =
        spc_shard_sizes(r->lanes.params, s->sequences, 0, shards->cut, shards->world);
    spc_status status;

    shards->send_bytes = first + SPC_CUDA_CHECK_BYTES;
    status = run_step(r, s, shards, 0, err);
    shards->send_bytes = (size_t)s->sequences * most.later + SPC_CUDA_CHECK_BYTES;
    r->slices.left_heard[0] = 1;
    for (int32_t step = 1; status == SPC_OK && r->slices.left_heard[0] > 0; step++) {
        status = run_step(r, s, shards, step, err);
        if (status == SPC_OK) status = hear(r, s, shards, err);
        shards->send_bytes = (size_t)r->slices.left_heard[1] + SPC_CUDA_CHECK_BYTES;
    }
    return status;
}

static spc_shards shards_of(const spc_runner *r)
{
    const spc_device_comm *comm = r->backend->comm;

    return (spc_shards){.rank = comm->rank,
                        .world = comm->world,
                        .cut = r->plan->config.vocab,
                        .drafter_whole = 1,
                        .state = r->slices.state,
                        .state_bytes = r->slices.most.state,
                        .answers = r->slices.answers,
                        .left = r->slices.left};
}

/* ---- recording --------------------------------------------------------------------------------
 */

enum { NOT_MINE = 1, ANY_HERE = 2 };

/* Every rank's word, where its answers are otherwise. */
static spc_status exchange_word(spc_runner *r, uint64_t mine, spc_error *err)
{
    static const char what[] = "recording";
    spc_backend *b = r->backend;
    spc_device_comm *comm = b->comm;
    uint64_t *heard = r->slices.heard, *words = (void *)r->slices.answers;
    size_t begin[SPC_SHARDS_MAX + 1];
    spc_status status;

    for (int32_t k = 0; k <= comm->world; k++) begin[k] = (size_t)k * sizeof *heard;
    heard[comm->rank] = mine;
    status =
        spc_cuda_copy(b, words + comm->rank, heard + comm->rank, sizeof *heard, false, what, err);
    if (status == SPC_OK) status = comm->ops->all_gather(comm, words, begin, b->stream, err);
    if (status == SPC_OK) {
        status = spc_cuda_copy(b, heard, words, begin[comm->world], true, what, err);
    }
    return status == SPC_OK ? spc_cuda_wait(b, what, err) : status;
}

spc_status spc_cuda_agree(spc_runner *r, bool mine, bool *all, bool *any, spc_error *err)
{
    uint64_t word = (mine ? 0u : NOT_MINE) | (*any ? ANY_HERE : 0u);
    spc_status status = exchange_word(r, word, err);

    for (int32_t k = 0; status == SPC_OK && k < r->backend->comm->world; k++) {
        word |= r->slices.heard[k];
    }
    *all = (word & NOT_MINE) == 0;
    *any = (word & ANY_HERE) != 0;
    return status;
}

/* ---- the verbs --------------------------------------------------------------------------------
 */

spc_status spc_cuda_draw_slices(spc_runner *r, const spc_draw_batch *batch, spc_error *err)
{
    const steps s = {draw_partial, draw_combine, "draw", batch, batch->sequences};
    spc_shards shards = shards_of(r);
    spc_draw_batch here = *batch; /* as the host has it */

    here.params = r->lanes.params;
    here.row = here.position = r->lanes.row;
    here.salt = r->lanes.salt;
    return run_steps(r, &s, &shards, spc_draw_first_bytes(&here, &shards), err);
}

spc_status spc_cuda_verify_slices(const spc_runner *drafter, spc_runner *r,
                                  const spc_verify_batch *batch, spc_error *err)
{
    const steps s = {verify_partial, verify_combine, "verify", batch, batch->sequences};
    spc_shards shards = shards_of(r);
    spc_verify_batch here = *batch; /* as the host has it */

    shards.drafter_whole = drafter && !drafter->part;
    if (drafter && drafter->part) {
        if (!spc_plan_cut_alike(r->plan, drafter->plan, r->backend->comm->world)) {
            return spc_error_set(err, SPC_EUNSUPPORTED,
                                 "drafter-tp: expected models whose vocabularies are cut at the "
                                 "same ids, found %d and %d over %d ranks: leave drafter-tp out",
                                 (int)r->plan->config.vocab, (int)drafter->plan->config.vocab,
                                 (int)r->backend->comm->world);
        }
    }
    here.params = r->lanes.params;
    here.drafts = r->lanes.drafts;
    here.bonus = r->lanes.bonus;
    here.position = here.verifier_row = here.drafter_row = r->lanes.row;
    here.salt = NULL;
    return run_steps(r, &s, &shards, spc_verify_first_bytes(&here, &shards), err);
}

spc_status spc_cuda_gather_row(spc_runner *r, int32_t output, float *to, spc_error *err)
{
    spc_backend *b = r->backend;
    spc_device_comm *comm = b->comm;
    size_t begin[SPC_SHARDS_MAX + 1];
    cudaError_t code = cudaSuccess;
    spc_status status;

    for (int32_t k = 0; k <= comm->world; k++) {
        int32_t first = spc_plan_first_id(r->plan->config.vocab, k, comm->world);

        begin[k] = (size_t)(first < r->plan->ids ? first : r->plan->ids) * sizeof *to;
    }
    if (r->width > 0) {
        code = cudaMemcpyAsync(r->slices.row + r->first, r->logits + (int64_t)output * r->width,
                               (size_t)r->width * sizeof *to, cudaMemcpyDeviceToDevice, b->stream);
    }
    status = spc_cuda_check(b, code, "logits", err);
    if (status == SPC_OK) {
        status = comm->ops->all_gather(comm, r->slices.row, begin, b->stream, err);
    }
    if (status != SPC_OK) return status;
    return spc_cuda_copy(b, to, r->slices.row, (size_t)r->plan->ids * sizeof *to, true, "logits",
                         err);
}
