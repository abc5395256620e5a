/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - ranges by NVTX, whose functions do nothing where no tool has put its own in their
 * place.  A domain then is NULL: no text is written for nobody. */
#include "trace.h"

#ifdef SPC_HAS_CUDA

#include <nvtx3/nvToolsExt.h>
#include <stdarg.h>
#include <stdio.h>

spc_trace *spc_trace_open(void)
{
    return (spc_trace *)nvtxDomainCreateA("spc");
}

void spc_trace_close(spc_trace *trace)
{
    if (trace) nvtxDomainDestroy((nvtxDomainHandle_t)trace);
}

void spc_trace_begin(spc_trace *trace, const char *format, ...)
{
    nvtxEventAttributes_t range = {.version = NVTX_VERSION, .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE};
    char text[96];
    va_list args;

    if (!trace) return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    range.messageType = NVTX_MESSAGE_TYPE_ASCII;
    range.message.ascii = text;
    (void)nvtxDomainRangePushEx((nvtxDomainHandle_t)trace, &range);
}

void spc_trace_end(spc_trace *trace)
{
    if (trace) (void)nvtxDomainRangePop((nvtxDomainHandle_t)trace);
}

#else

#include <stddef.h>

spc_trace *spc_trace_open(void)
{
    return NULL;
}

void spc_trace_close(spc_trace *trace)
{
    (void)trace;
}

void spc_trace_begin(spc_trace *trace, const char *format, ...)
{
    (void)trace;
    (void)format;
}

void spc_trace_end(spc_trace *trace)
{
    (void)trace;
}

#endif
