/* SPDX-License-Identifier: Apache-2.0 */
/* fit.c - what the devices have, against what the models' loads claim of them. */
#include "fit.h"

#include "kv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Where caches are made as large as memory allows, a part of that is left: graphs take some when
 * they are recorded and libraries when they are first called, and no backend can count that. */
enum { LEFT = 16 };

/* ---- what is claimed --------------------------------------------------------------------------
 */

static spc_status claim(const spc_fit *f, const spc_model *model, const spc_limits *limits,
                        spc_claims *claims, spc_error *err)
{
    if (!model || !model->plan) return SPC_OK;
    return f->ops->claim(f->backend, model->plan, model->bundle, limits, claims, err);
}

/* By both models, with so many pages. */
static spc_status claim_both(const spc_fit *f, const spc_limits *limits, int32_t pages,
                             spc_claims *claims, spc_error *err)
{
    spc_limits with = *limits;
    spc_status status;

    with.pages = pages;
    claims->count = 0;
    status = claim(f, f->verifier, &with, claims, err);
    return status == SPC_OK ? claim(f, f->drafter, &with, claims, err) : status;
}

static uint64_t needed(const spc_claim *c)
{
    return c->weights + c->memory;
}

static bool fits(const spc_claim *c)
{
    return needed(c) <= c->room;
}

/* What caches that are made as large as they can be may fill, with all else there is. */
static uint64_t budget(const spc_claim *c)
{
    return c->room - c->room / LEFT;
}

/* Do all contexts fit, with what is to be left? */
static bool all_fit(const spc_claims *claims)
{
    for (int32_t i = 0; i < claims->count; i++) {
        if (needed(&claims->item[i]) > budget(&claims->item[i])) return false;
    }
    return true;
}

/* ---- how many pages ---------------------------------------------------------------------------
 */

/* Pages that a device holds, `least` or more.
 *
 * one, two   what is claimed there with `least` of them, and with twice as many */
static int64_t held(const spc_claim *one, const spc_claim *two, int32_t least)
{
    uint64_t some = (uint64_t)least, page = (two->memory - one->memory + some - 1) / some;
    uint64_t most = budget(one);

    if (page == 0 || needed(one) >= most) return least; /* 0: sizes beyond counting */
    return least + (int64_t)((most - needed(one)) / page);
}

spc_status spc_fit_pages(const spc_fit *f, const spc_limits *limits, int32_t *pages, spc_error *err)
{
    int32_t least = spc_pages_for(limits->context);
    int64_t most = spc_limits_pages(limits);
    spc_claims all, one, two;
    spc_status status;

    *pages = 0;
    if (!f->ops->claim || limits->slots == 1) return SPC_OK;
    status = claim_both(f, limits, 0, &all, err);
    if (status != SPC_OK || all_fit(&all)) return status;
    status = claim_both(f, limits, least, &one, err);
    if (status == SPC_OK) status = claim_both(f, limits, 2 * least, &two, err);
    if (status != SPC_OK) return status;
    if (most > INT32_MAX / SPC_PAGE_TOKENS) most = INT32_MAX / SPC_PAGE_TOKENS; /* pages.c's */
    for (int32_t i = 0; i < one.count; i++) {
        int64_t here = held(&one.item[i], &two.item[i], least);

        if (here < most) most = here;
    }
    *pages = (int32_t)most;
    return SPC_OK;
}

/* ---- what is said -----------------------------------------------------------------------------
 */

/* Bytes of both KV caches. */
static uint64_t kv_bytes(const spc_fit *f, const spc_limits *limits)
{
    uint64_t bytes = spc_kv_bytes(f->verifier->plan, limits);

    if (f->drafter && f->drafter->plan) bytes += spc_kv_bytes(f->drafter->plan, limits);
    return bytes;
}

/* "cuda:0, NVIDIA H100 80GB HBM3" where that is the only device; NULL: it is one of several. */
static const char *one_device(const spc_fit *f)
{
    const char *device = f->ops->device(f->backend);

    return strncmp(device, "cuda:", 5) == 0 ? device : NULL;
}

/* verifier, drafter: bytes of each on this device.  all: on all of them. */
static spc_status too_small(const spc_fit *f, const spc_limits *limits, const spc_claim *c,
                            uint64_t verifier, uint64_t drafter, uint64_t all, spc_error *err)
{
    const char *device = one_device(f);
    char number[16], tokens[40] = "";

    (void)snprintf(number, sizeof number, "cuda:%d", (int)c->device);
    if (limits->pages > 0) {
        (void)snprintf(tokens, sizeof tokens, ", kv-tokens %" PRId64,
                       (int64_t)limits->pages * SPC_PAGE_TOKENS);
    }
    return spc_error_set(
        err, SPC_ENOMEM,
        "%s: expected room for %" PRIu64 " MiB (verifier %" PRIu64 ", drafter %" PRIu64
        ", each: sessions %d, context %d%s), found %" PRIu64
        " MiB free; lower sessions, context or kv-tokens, %stake a smaller model, or use device "
        "cpu",
        device ? device : number, (verifier + drafter) >> 20, verifier >> 20, drafter >> 20,
        (int)limits->slots, (int)limits->context, tokens, c->room >> 20,
        spc_kv_advice(limits, kv_bytes(f, limits), all));
}

spc_status spc_fit_check(const spc_fit *f, const spc_limits *limits, spc_error *err)
{
    spc_claims verifier = {.count = 0}, both;
    uint64_t all = 0;
    spc_status status;

    if (!f->ops->claim) return SPC_OK;
    status = claim(f, f->verifier, limits, &verifier, err);
    both = verifier;
    if (status == SPC_OK) status = claim(f, f->drafter, limits, &both, err);
    for (int32_t i = 0; i < both.count; i++) all += needed(&both.item[i]);
    for (int32_t i = 0; i < both.count && status == SPC_OK; i++) {
        const spc_claim *c = &both.item[i];
        uint64_t own = i < verifier.count ? needed(&verifier.item[i]) : 0;

        if (!fits(c)) return too_small(f, limits, c, own, needed(c) - own, all, err);
    }
    return status;
}

void spc_fit_describe(const spc_fit *f, const spc_limits *limits, char *line, size_t bytes)
{
    const char *device = one_device(f);
    int64_t held = spc_limits_pages(limits) * SPC_PAGE_TOKENS;
    int64_t all = spc_kv_own_pages(limits) * SPC_PAGE_TOKENS;

    (void)snprintf(
        line, bytes,
        "kv cache: %" PRId64 " tokens fit in %s%s for %d sessions of %d (all at once need %" PRId64
        "): some may wait for others, or be refused; to have room for all lower sessions "
        "or context, %sor take a smaller model",
        held, device ? "the memory of " : "memory", device ? device : "", (int)limits->slots,
        (int)limits->context, all, spc_kv_advice(limits, 1, 1));
}
