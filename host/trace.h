/* SPDX-License-Identifier: Apache-2.0 */
/* trace.h - named ranges of time for a profiler (NVTX, in builds with CUDA): what the host is at,
 * beside what the device does.  Ranges of a thread nest. */
#ifndef SPC_HOST_TRACE_H
#define SPC_HOST_TRACE_H

typedef struct spc_trace spc_trace;

/* The profiler that is attached; NULL: none, and the calls below return at once. */
spc_trace *spc_trace_open(void);
void spc_trace_close(spc_trace *trace);

/* Open a range; its text as by printf, cut after 95 bytes.  Every begin has an end. */
void spc_trace_begin(spc_trace *trace, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void spc_trace_end(spc_trace *trace);

#endif
