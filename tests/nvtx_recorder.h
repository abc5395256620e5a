/* SPDX-License-Identifier: Apache-2.0 */
/* nvtx_recorder.h - what nvtx_recorder.c saw. */
#ifndef SPC_TESTS_NVTX_RECORDER_H
#define SPC_TESTS_NVTX_RECORDER_H

#include <stdint.h>

enum { NVTX_RECORDS = 4096, NVTX_DEPTH = 16 };

typedef struct {
    char text[96]; /* "domain.text" */
    int32_t depth; /* 0: outermost */
    int32_t ended; /* how many ranges had begun when it did; -1: it is open */
} nvtx_range;

typedef struct {
    nvtx_range range[NVTX_RECORDS];
    int32_t count;            /* begun */
    int32_t depth;            /* open now */
    int32_t open[NVTX_DEPTH]; /* [depth] */
    int32_t stray;            /* ends without a beginning */
    int32_t domains;          /* made and not destroyed */
} nvtx_record;

#endif
