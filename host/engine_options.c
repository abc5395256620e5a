/* SPDX-License-Identifier: Apache-2.0 */
/* engine_options.c - what an engine is asked for, looked at before anything is opened: whoever has
 * mistyped an option need not wait for a model to be found, let alone loaded. */
#include "engine.h"

#include "device.h"
#include "host/apart/backend_apart.h"
#include "host/ranks/comm_boot.h"
#include "kv.h"
#include "narrow.h"
#include "ngram.h"

#include <string.h>

void spc_engine_options_init(spc_engine_options *options)
{
    memset(options, 0, sizeof *options);
    options->verifier = SPC_EMBEDDED_VERIFIER;
    options->drafter = SPC_EMBEDDED_DRAFTER;
    options->sessions = 1;
}

int32_t spc_options_ranks(const spc_engine_options *o)
{
    return o->tp > 1 ? o->tp : spc_device_ranks(o->device);
}

bool spc_options_grouped(const spc_engine_options *o)
{
    return o->place && o->place->world > 1;
}

static spc_status check_kv_tokens(int32_t tokens, spc_error *err)
{
    if (tokens == 0 || tokens >= SPC_PAGE_TOKENS) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "kv-tokens: expected 0 (the context for every session, or what fits) or "
                         "%d and more, found %d",
                         SPC_PAGE_TOKENS, (int)tokens);
}

static spc_status check_numbers(const spc_engine_options *o, spc_error *err)
{
    spc_dtype kv;

    if (!o->verifier) {
        return spc_error_set(err, SPC_EUSAGE, "verifier: expected a model folder, found none");
    }
    if (o->sessions < 1 || o->sessions > SPC_SESSIONS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "sessions: expected 1 to %d, found %d",
                             SPC_SESSIONS_MAX, (int)o->sessions);
    }
    if (o->prefill_rows < 0) {
        return spc_error_set(err, SPC_EUSAGE, "prefill-rows: expected 0 (chosen) or more, found %d",
                             (int)o->prefill_rows);
    }
    if (o->threads < 0) {
        return spc_error_set(err, SPC_EUSAGE,
                             "threads: expected 0 (one per core) or more, found %d",
                             (int)o->threads);
    }
    if ((unsigned)o->overlap > SPC_OVERLAP_OFF) {
        return spc_error_set(err, SPC_EUSAGE,
                             "overlap: expected auto (0), on (1) or off (2), found %d",
                             (int)o->overlap);
    }
    if (o->context < 0 || o->context == 1) {
        return spc_error_set(err, SPC_EUSAGE,
                             "context: expected 0 (what the models allow) or 2 and more, found %d",
                             (int)o->context);
    }
    if (spc_kv_type(o->kv, &kv, err) != SPC_OK) return SPC_EUSAGE;
    if (spc_check_weights(o->weights, err) != SPC_OK) return SPC_EUSAGE;
    return check_kv_tokens(o->kv_tokens, err);
}

static spc_status check_ranks(const spc_engine_options *o, spc_error *err)
{
    int32_t tp = spc_options_ranks(o);

    if (o->place) {
        spc_status status = spc_place_check(o->place, err);

        if (status != SPC_OK) return status;
    }
    if (spc_options_grouped(o)) {
        if (tp != 1 && tp != o->place->world) {
            return spc_error_set(err, SPC_EUSAGE,
                                 "tp: expected 1 or %d (one rank in each process), found %d",
                                 (int)o->place->world, (int)tp);
        }
        tp = o->place->world;
    }
    if (o->tp < 0 || tp > SPC_RANKS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "tp: expected 1 to %d ranks, found %d", SPC_RANKS_MAX,
                             (int)(o->tp < 0 ? o->tp : tp));
    }
    if (spc_device_ranks(o->drafter_device) > 1) return SPC_OK; /* ranks of its own */
    if (tp == 1 && (o->drafter_tp < 0 || o->drafter_tp > 1)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter-tp: expected 1, as the verifier has one rank (tp), found %d",
                             (int)o->drafter_tp);
    }
    if (o->drafter_tp < 0 || (o->drafter_tp > 1 && o->drafter_tp != tp)) {
        return spc_error_set(
            err, SPC_EUSAGE, "drafter-tp: expected 1 (%s) or %d (tp, all of them), found %d",
            spc_options_grouped(o) ? "whole on every rank" : "the first rank alone", (int)tp,
            (int)o->drafter_tp);
    }
    return SPC_OK;
}

/* Tokens that a drafter is cut to. */
static spc_status check_narrow(const spc_engine_options *o, spc_error *err)
{
    spc_status status = spc_narrow_check(o->drafter_vocab, err);

    if (status != SPC_OK || !o->drafter_vocab) return status;
    if (o->drafter) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "drafter-vocab: there is no drafter: name one, or leave it out");
}

/* What is looked up runs nowhere: nothing to place, to shard or to run meanwhile. */
static spc_status check_ngram(const spc_engine_options *o, spc_error *err)
{
    spc_ngram_span span;
    const char *option = o->drafter_device              ? "drafter-device"
                         : o->drafter_tp > 1            ? "drafter-tp"
                         : o->overlap == SPC_OVERLAP_ON ? "overlap"
                         : o->drafter_vocab             ? "drafter-vocab"
                                                        : NULL;
    spc_status status = spc_ngram_parse(o->drafter, &span, err);

    if (status != SPC_OK || !option) return status;
    return spc_error_set(err, SPC_EUSAGE,
                         "%s: drafts of %.40s are looked up by the host, and no drafter runs: give "
                         "a model as drafter, or leave %s out",
                         option, o->drafter, option);
}

/* Devices that there cannot be, here or anywhere.  Whether there is one of them is found out when
 * it is opened. */
static spc_status check_devices(const spc_engine_options *o, spc_error *err)
{
    const bool apart = o->drafter_device != NULL; /* then one of two may be the CPU */
    spc_error inner;
    spc_status status = apart ? spc_apart_check(o, err) : SPC_OK;

    if (o->overlap == SPC_OVERLAP_ON && o->plain_launches && status == SPC_OK) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "overlap and plain-launches: expected one of them, found both");
    }
    if (status != SPC_OK || o->nccl_comm) return status; /* whose device it is, it is there */
    status = (spc_options_grouped(o) ? spc_device_check_place : spc_device_check)(
        o->device, apart ? 0 : o->threads, apart ? NULL : o->isa, err);
    if (status != SPC_OK || !apart) return status;
    status = spc_device_check(o->drafter_device, 0, NULL, &inner);
    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, status, "drafter-device: %s", inner.message);
}

spc_status spc_engine_options_check(const spc_engine_options *o, spc_error *err)
{
    spc_status status = check_numbers(o, err);

    if (status == SPC_OK) status = check_ranks(o, err);
    if (status == SPC_OK && spc_ngram_is(o->drafter)) status = check_ngram(o, err);
    if (status == SPC_OK) status = check_narrow(o, err);
    return status == SPC_OK ? check_devices(o, err) : status;
}
