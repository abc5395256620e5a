/* SPDX-License-Identifier: Apache-2.0 */
/* nvtx_recorder.c - what a profiler is to the program: a library that NVTX finds by
 * NVTX_INJECTION64_PATH.  It writes down domains and ranges. */
#include "nvtx_recorder.h"

#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

EXPORTED nvtx_record nvtx_recorded;

static char domain_name[32];

static nvtxDomainHandle_t create(const char *name)
{
    (void)snprintf(domain_name, sizeof domain_name, "%s", name);
    nvtx_recorded.domains++;
    return (nvtxDomainHandle_t)domain_name;
}

static void destroy(nvtxDomainHandle_t domain)
{
    (void)domain;
    nvtx_recorded.domains--;
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *range)
{
    nvtx_record *r = &nvtx_recorded;

    if (r->count < NVTX_RECORDS && r->depth < NVTX_DEPTH) {
        nvtx_range *to = &r->range[r->count];

        (void)snprintf(to->text, sizeof to->text, "%s.%s", (const char *)domain,
                       range->message.ascii);
        to->depth = r->depth;
        to->ended = -1;
        r->open[r->depth] = r->count++;
    }
    return r->depth++;
}

static int pop(nvtxDomainHandle_t domain)
{
    nvtx_record *r = &nvtx_recorded;

    (void)domain;
    if (r->depth == 0) {
        r->stray++;
        return -1;
    }
    if (--r->depth < NVTX_DEPTH) r->range[r->open[r->depth]].ended = r->count;
    return r->depth;
}

EXPORTED int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t find)
{
    const NvtxExportTableCallbacks *table =
        (const NvtxExportTableCallbacks *)find(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable core;
    unsigned int size = 0;

    if (!table || !table->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &core, &size)) return 0;
    *core[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create;
    *core[NVTX_CBID_CORE2_DomainDestroy] = (NvtxFunctionPointer)destroy;
    *core[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
    *core[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
    return 1;
}
