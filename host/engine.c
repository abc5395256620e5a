/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - opening and closing: both models, their tokenizer, the device.  Sizes, and the scratch
 * of a step, are in engine_size.c. */
#include "engine.h"

#include "carve.h"
#include "device.h"
#include "entry.h"
#include "fit.h"
#include "host/apart/backend_apart.h"
#include "host/ranks/backend_group.h"
#include "host/ranks/backend_ranks.h"
#include "host/ranks/comm_boot.h"
#include "kv.h"
#include "narrow.h"
#include "pair.h"
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of prompts beside running sequences, by default: some four rounds' rows, on a GPU in hardly
 * more than the time of one. */
enum { ROWS_BESIDE = 64 };

/* ---- models -----------------------------------------------------------------------------------
 */

static spc_status load_model(spc_engine *engine, spc_model *model, const spc_limits *limits,
                             spc_error *err)
{
    spc_limits metered = *limits;
    spc_status status;

    metered.meter = model->meter;
    status = engine->ops->load(engine->backend, model->plan, model->bundle, &metered,
                               &model->runner, err);
    if (status != SPC_OK) return status;
    model->memory_bytes = engine->ops->memory(engine->backend, model->plan, limits);
    if (model->memory_bytes >= CARVE_MOST) { /* what could be loaded can be counted, with memory */
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory to count what it takes",
                             spc_bundle_where(model->bundle));
    }
    model->weight_bytes = spc_plan_weight_bytes(model->plan, model->bundle);
    return SPC_OK;
}

static void unload_model(const spc_engine *engine, spc_model *model)
{
    const spc_backend_ops *ops = engine->ops;
    bool stays = ops && ops->given_up && model->runner && ops->given_up(model->runner);

    if (ops) ops->unload(model->runner);
    if (stays) return; /* what hangs may still read it */
    spc_close_model(model);
}

/* The verifier's model, and the drafter's where it is one. */
static spc_status open_pair(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    const char *name = spc_ngram_is(o->drafter) ? NULL : o->drafter;
    spc_model *const model[] = {&engine->verifier, name ? &engine->drafter : NULL};
    spc_pair_side drafter = {model[1], NULL}, verifier = {model[0], NULL};
    spc_tokenizer *tokenizer[2];
    spc_status status = spc_open_model(o->verifier, model[0], err);

    if (status == SPC_OK && name) status = spc_open_model(name, model[1], err);
    if (status == SPC_OK) status = spc_open_tokenizers(model, tokenizer, err);
    if (status != SPC_OK) return status;
    engine->vocab = model[0]->config.vocab;
    verifier.tokenizer = engine->tokenizer = tokenizer[0];
    drafter.tokenizer = tokenizer[1];
    spc_pair_warn_words(&verifier, o->log, o->user);
    if (!name) return SPC_OK;
    status = spc_pair_check(&drafter, &verifier, &engine->vocab, err);
    if (status == SPC_OK) {
        model[1]->plan->ids = model[0]->plan->ids = engine->vocab;
        spc_pair_warn(&drafter, &verifier, o->log, o->user);
        status = spc_narrow_head(model[1], o->drafter_vocab, engine->vocab, o->log, o->user, err);
    }
    if (tokenizer[1] != tokenizer[0]) spc_tokenizer_close(tokenizer[1]);
    return status;
}

/* ---- an engine without models ----------------------------------------------------------------
 */

static uint64_t machine_now(void *user)
{
    (void)user;
    return spc_now_ns();
}

uint64_t spc_engine_now(const spc_engine *engine)
{
    return engine->clock.now_ns(engine->clock.user);
}

static spc_status new_engine(spc_engine **out, spc_error *err)
{
    spc_engine *engine = calloc(1, sizeof *engine);

    *out = NULL;
    if (!engine || pthread_mutex_init(&engine->line.lock, NULL) != 0) {
        free(engine);
        return spc_error_set(err, SPC_ENOMEM, "no memory for an engine");
    }
    spc_entry_begin(engine);
    engine->clock.now_ns = machine_now;
    engine->prefill_rows = ROWS_BESIDE;
    engine->trace = spc_trace_open();
    *out = engine;
    return SPC_OK;
}

/* ---- open and close ---------------------------------------------------------------------------
 */

/* Does this process run the drafter? */
static bool has_drafter(const spc_engine *engine, const spc_engine_options *o)
{
    return engine->drafter.plan && !(o->drafter_device && engine->rank > 0);
}

/* Of both models, as they lie in their files. */
static void begin_progress(spc_engine *engine, const spc_engine_options *o)
{
    spc_model *models[] = {&engine->verifier, &engine->drafter};
    uint64_t total = 0;

    for (int i = 0; i < 2; i++) {
        if (!models[i]->bundle) continue;
        models[i]->meter = &engine->meter;
        models[i]->file_bytes = spc_bundle_bytes(models[i]->bundle);
        total += models[i]->file_bytes;
    }
    spc_meter_open(&engine->meter, engine->rank == 0 ? o->progress : NULL, o->user, total);
}

/* A model is converted, if at all, or loaded. */
static void begin_part(spc_model *model, const spc_engine_options *o, bool loads)
{
    uint64_t half = o->weights ? model->file_bytes / 2 : 0, size = 0;

    for (int32_t i = 0; i < model->plan->weight_count; i++) {
        const spc_weight *w = &model->plan->weight[i];
        const spc_tensor *t = spc_bundle_find(model->bundle, w->name);

        if (t && (loads || (w->cols > 0 && w->relative == SPC_RELATIVE_NONE))) size += t->bytes;
    }
    spc_meter_part(model->meter, loads ? model->file_bytes - half : half, size);
}

static spc_status change_weights(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    spc_model *models[] = {&engine->verifier, &engine->drafter};
    spc_status status = SPC_OK;

    for (int i = 0; i < 2 && status == SPC_OK; i++) {
        if (i == 1 && !has_drafter(engine, o)) break;
        begin_part(models[i], o, false);
        status = spc_change_weights(models[i], o->weights, o->threads, o->log, o->user, err);
    }
    return status;
}

/* What all processes of a group must have been started with. */
static void describe_options(const spc_engine_options *o, char *text, size_t bytes)
{
    const char *drafter = spc_ngram_is(o->drafter) ? o->drafter : o->drafter ? "a" : "no";
    char tokens[32] = "";

    if (o->kv_tokens > 0) {
        (void)snprintf(tokens, sizeof tokens, ", kv-tokens %d", (int)o->kv_tokens);
    }
    (void)snprintf(text, bytes,
                   "%d sessions, context %d%s, %s weights, %s kv, %s%s%s, drafter-tp %d "
                   "and %.12s drafter%s%.16s",
                   (int)o->sessions, (int)o->context, tokens, o->weights ? o->weights : "unchanged",
                   o->kv ? o->kv : "f32", spc_device_is_cuda(o->device) ? "a GPU" : "the CPU",
                   o->fast_prefill ? ", fast-prefill" : "",
                   o->plain_launches ? ", plain-launches" : "",
                   (int)(o->drafter_tp > 1 ? o->drafter_tp : 1), drafter,
                   o->drafter_device ? " on " : "", o->drafter_device ? o->drafter_device : "");
}

/* This process's place among the others, perhaps beside a drafter. */
static spc_status open_group(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    spc_comm *comm = engine->joined;
    char options[192];

    describe_options(o, options, sizeof options);
    engine->joined = NULL;
    if (o->drafter_device) {
        engine->ops = &spc_backend_apart;
        return spc_apart_open(o, comm, options, &engine->backend, err);
    }
    engine->ops = &spc_backend_group;
    return spc_group_open(comm, o->place->timeout_ms, o->device, o->threads, o->isa, options, NULL,
                          &engine->backend, err);
}

/* The group's backend, where this is one of several processes; else NULL. */
static spc_backend *group_of(const spc_engine *engine)
{
    const spc_backend_ops *ops = engine->ops;
    spc_backend *backend = engine->backend;

    if (backend && ops == &spc_backend_apart) ops = spc_apart_device(backend, false, &backend);
    return ops == &spc_backend_group ? backend : NULL;
}

/* The device, or two, or as many ranks as were asked for, or one of an application's. */
static spc_status open_device(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    if (spc_options_grouped(o)) return open_group(engine, o, err);
    if (o->drafter_device) {
        engine->ops = &spc_backend_apart;
        return spc_apart_open(o, NULL, NULL, &engine->backend, err);
    }
    if (o->nccl_comm) {
        engine->adopted = true;
        return spc_device_open_adopted(o->device, o->nccl_comm, o->tp > 1 ? o->tp : 0, &engine->ops,
                                       &engine->backend, err);
    }
    if (spc_options_ranks(o) <= 1) {
        return spc_device_open(o->device, o->threads, o->isa, o->log, o->user, &engine->ops,
                               &engine->backend, err);
    }
    return spc_device_open_ranks(o->device, spc_options_ranks(o), o->threads, o->isa, &engine->ops,
                                 &engine->backend, err);
}

static bool has_gpu(const spc_engine *engine, const spc_engine_options *o)
{
    if (spc_device_is_cuda(o->device)) return true; /* perhaps of a rank of several */
    if (engine->ops == &spc_backend_apart) return spc_apart_has_gpu(engine->backend);
    return strncmp(engine->ops->name, "cuda", 4) == 0;
}

/* What only some devices can do is refused by others. */
static spc_status check_device_options(const spc_engine *engine, const spc_engine_options *o,
                                       spc_error *err)
{
    const char *device = engine->ops->device(engine->backend);
    bool overlap = o->overlap == SPC_OVERLAP_ON;

    if (overlap && !engine->ops->round) {
        return spc_error_set(err, SPC_EUSAGE,
                             "overlap: expected one GPU or a drafter-device, found %s: leave it "
                             "out, or use device cuda",
                             device);
    }
    if (has_gpu(engine, o) || !(o->fast_prefill || o->plain_launches)) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "%s: expected a GPU, found %s: leave it out, or use device cuda",
                         o->fast_prefill ? "fast-prefill" : "plain-launches", device);
}

/* The device, and what it is to go by. */
static spc_status use_device(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    spc_status status = open_device(engine, o, err);

    if (status == SPC_OK) status = check_device_options(engine, o, err);
    if (status != SPC_OK) return status;
    return spc_use_kernels(engine->ops, engine->backend, o->kernels, &engine->kernels, err);
}

/* How large KV caches that nobody gave a size for can be.  Processes take the size that all of them
 * have memory for: their sessions must find the same pages. */
static spc_status fit_caches(const spc_engine *engine, const spc_fit *fit, int32_t *pages,
                             spc_error *err)
{
    spc_backend *group = group_of(engine);
    spc_status status = spc_fit_pages(fit, &engine->limits, pages, err);

    if (status != SPC_OK || !group) return status;
    if (*pages == 0) *pages = INT32_MAX; /* all of them */
    status = spc_group_least(group, pages, err);
    if (*pages == INT32_MAX) *pages = 0;
    return status;
}

/* Do both models fit, with the KV caches asked for, or with smaller ones if nobody asked?  Ranks of
 * an application's communicator could agree on these on their devices alone, where nothing is
 * loaded yet: they have none smaller. */
static spc_status check_room(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    spc_fit fit = {engine->ops, engine->backend, &engine->verifier, &engine->drafter};
    spc_limits *limits = &engine->limits;
    spc_status status = SPC_OK;
    char line[SPC_ERROR_BYTES];

    limits->pages = o->kv_tokens / SPC_PAGE_TOKENS;
    if (o->kv_tokens == 0 && !engine->adopted) {
        status = fit_caches(engine, &fit, &limits->pages, err);
    }
    if (status == SPC_OK) status = spc_fit_check(&fit, limits, err);
    if (status != SPC_OK || o->kv_tokens > 0 || limits->pages == 0 || !o->log) return status;
    spc_fit_describe(&fit, limits, line, sizeof line);
    o->log(o->user, line);
    return SPC_OK;
}

/* Where each model is to run, and, where ranks run it together, whether it can be cut. */
static spc_status place_models(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    int32_t world = spc_options_grouped(o) ? o->place->world : spc_options_ranks(o);
    spc_plan *verifier = engine->verifier.plan, *drafter = engine->drafter.plan;
    spc_status status =
        spc_plan_check_cut(verifier, world, spc_bundle_where(engine->verifier.bundle), err);

    if (status != SPC_OK || !drafter) return status;
    if (o->drafter_device) {
        spc_apart_drafter(engine->backend, drafter);
        world = spc_device_ranks(o->drafter_device);
    } else {
        drafter->alone = o->drafter_tp <= 1 && (world > 1 || o->nccl_comm);
    }
    if (drafter->alone) return SPC_OK;
    return spc_plan_check_cut(drafter, world, spc_bundle_where(engine->drafter.bundle), err);
}

/* This rank's engine could not be opened: the other processes need not wait for it. */
static void end_others(spc_engine *engine, const char *reason)
{
    char text[SPC_ERROR_BYTES];

    if (engine->joined) {
        (void)snprintf(text, sizeof text, "rank %d: %.480s", (int)engine->rank, reason);
        engine->joined->ops->abort(engine->joined, text);
    } else if (group_of(engine)) {
        spc_group_abort(group_of(engine), reason);
    }
}

static spc_status lead(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    return spc_options_grouped(o) && engine->rank == 0 ? spc_group_lead(group_of(engine), err)
                                                       : SPC_OK;
}

/* What all ranks load together, then, while the others know that rank 0 lives, a drafter of its
 * own. */
static spc_status load_models(spc_engine *engine, const spc_engine_options *o, spc_error *err)
{
    spc_status status;

    begin_part(&engine->verifier, o, true);
    status = load_model(engine, &engine->verifier, &engine->limits, err);
    if (status == SPC_OK && o->drafter_device) status = lead(engine, o, err);
    if (status == SPC_OK && engine->drafter.plan) {
        begin_part(&engine->drafter, o, true);
        status = load_model(engine, &engine->drafter, &engine->limits, err);
    }
    return status == SPC_OK && !o->drafter_device ? lead(engine, o, err) : status;
}

static void tell_ngram(const spc_engine *engine)
{
    char line[96];

    (void)snprintf(line, sizeof line,
                   "drafter: n-grams of %d to %d tokens, looked up in prompt and output",
                   (int)engine->ngram.least, (int)engine->ngram.most);
    engine->log(engine->user, line);
}

spc_status spc_engine_open(const spc_engine_options *options, spc_engine **out, spc_error *err)
{
    return spc_engine_open_checked(options, NULL, out, err);
}

spc_status spc_engine_open_checked(const spc_engine_options *options, const spc_engine_check *check,
                                   spc_engine **out, spc_error *err)
{
    spc_engine *engine = NULL;
    spc_status status = spc_entry_given(out, "out", err);

    if (status != SPC_OK) return status;
    *out = NULL;
    status = spc_entry_given(options, "options", err);
    if (status == SPC_OK) status = spc_engine_options_check(options, err);
    if (status == SPC_OK) status = new_engine(&engine, err);
    if (status != SPC_OK) return status;
    engine->sessions = options->sessions;
    if (options->prefill_rows > 0) engine->prefill_rows = options->prefill_rows;
    if (spc_options_grouped(options)) { /* first: then what fails here is known to all at once */
        engine->rank = options->place->rank;
        status = spc_comm_tcp_open(options->place, &engine->joined, err);
        if (status != SPC_OK) goto fail;
    }
    /* A device that is not there, or cannot do what it is asked for, is told of before any model is
     * looked for.  Of several processes the models come first: a rank without them then fails
     * before the others, who wait for it at their devices, have read a weight. */
    if (!spc_options_grouped(options)) status = use_device(engine, options, err);
    if (status == SPC_OK) status = open_pair(engine, options, err);
    if (status == SPC_OK) status = spc_engine_find_chat(engine, err);
    if (status == SPC_OK) status = spc_engine_choose_context(engine, options->context, err);
    if (status == SPC_OK && spc_ngram_is(options->drafter)) {
        status = spc_ngram_parse(options->drafter, &engine->ngram, err);
    }
    if (status == SPC_OK && check) status = check->look(engine, check->user, err);
    if (status == SPC_OK && spc_options_grouped(options)) status = use_device(engine, options, err);
    if (status == SPC_OK) status = place_models(engine, options, err);
    if (status != SPC_OK) goto fail;

    engine->limits = spc_engine_limits(engine->sessions, engine->context);
    spc_engine_widen(&engine->limits, engine->ops, engine->backend);
    engine->limits.library = options->fast_prefill;
    engine->limits.plain = engine->composed = options->plain_launches;
    (void)spc_kv_type(options->kv, &engine->limits.kv, err); /* checked */
    engine->overlap.mode = engine->turns.mode = options->overlap;
    begin_progress(engine, options);
    status = change_weights(engine, options, err);
    if (status == SPC_OK) status = check_room(engine, options, err);
    if (status != SPC_OK) goto fail;
    status = load_models(engine, options, err);
    if (status == SPC_OK) status = spc_engine_reserve(engine, err);
    if (status != SPC_OK) goto fail;
    spc_meter_close(&engine->meter);
    engine->prefix_off = options->no_prefix_reuse || spc_engine_encodes(engine);
    engine->log = options->log;
    engine->user = options->user;
    if (options->log) options->log(options->user, engine->ops->device(engine->backend));
    if (options->log && engine->ngram.most > 0) tell_ngram(engine);
    *out = engine;
    return SPC_OK;
fail:
    end_others(engine, err ? err->message : "a rank could not open its engine");
    spc_engine_close(engine);
    return status;
}

spc_status spc_engine_follow(spc_engine *engine, spc_error *err)
{
    spc_status status = spc_entry_given(engine, "engine", err);

    if (status != SPC_OK) return status;
    if (engine->rank > 0 && group_of(engine)) return spc_group_follow(group_of(engine), err);

    return spc_error_set(err, SPC_EUSAGE, "rank 0 leads and cannot follow: open sessions instead");
}

spc_status spc_engine_check_rank(const spc_engine *engine, spc_error *err)
{
    if (engine->rank == 0) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "rank %d follows rank 0 (spc_engine_follow), which "
                         "decodes",
                         (int)engine->rank);
}

spc_status spc_engine_assemble(const spc_backend_ops *ops, spc_backend *backend,
                               spc_runner *drafter, spc_runner *verifier, int32_t vocab,
                               int32_t context, int32_t sessions, spc_engine **out, spc_error *err)
{
    spc_engine *engine;
    spc_status status = new_engine(&engine, err);

    *out = NULL;
    if (status != SPC_OK) {
        ops->unload(drafter);
        ops->unload(verifier);
        ops->close(backend);
        return status;
    }
    engine->ops = ops;
    engine->backend = backend;
    engine->drafter.runner = drafter;
    engine->verifier.runner = verifier;
    engine->vocab = vocab;
    engine->context = context;
    engine->sessions = sessions;
    engine->limits = spc_engine_limits(sessions, context);
    engine->prefix_off = true;
    status = spc_engine_reserve(engine, err);
    if (status != SPC_OK) {
        spc_engine_close(engine);
        return status;
    }
    *out = engine;
    return SPC_OK;
}

/* A callback belongs to a session, which is open: the engine ends with it. */
void spc_engine_close(spc_engine *engine)
{
    bool ends;

    if (!engine || spc_entry_forked(engine)) return; /* the threads are the other process's */
    if (spc_entry_inside(engine)) {
        engine->closed = true;
        return;
    }
    if (!spc_entry_take_to_close(engine)) return;
    engine->closed = true;
    ends = engine->open_sessions == 0;
    spc_entry_leave(engine);
    if (ends) spc_engine_end(engine);
}

void spc_engine_end(spc_engine *engine)
{
    spc_engine_release(engine);
    unload_model(engine, &engine->drafter);
    unload_model(engine, &engine->verifier);
    if (engine->ops) engine->ops->close(engine->backend);
    spc_kernels_clear(&engine->kernels);
    spc_comm_close(engine->joined);
    spc_tokenizer_close(engine->tokenizer);
    spc_trace_close(engine->trace);
    (void)pthread_mutex_destroy(&engine->line.lock);
    free(engine);
}
