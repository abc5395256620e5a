/* SPDX-License-Identifier: Apache-2.0 */
/* group_notices.h - what devices of the other processes turned out not to do
 * (spc_backend_ops.notice), which rank 0 tells: once, however many ranks it is true of. */
#ifndef SPC_HOST_GROUP_NOTICES_H
#define SPC_HOST_GROUP_NOTICES_H

#include <stdint.h>

enum { SPC_NOTICE_BYTES = 160, SPC_NOTICES = 16 };

typedef struct {
    char line[SPC_NOTICES][SPC_NOTICE_BYTES + 16]; /* [heard], "rank 1: cuda:1: ..." */
    int32_t heard, given;
    uint64_t known[SPC_NOTICES]; /* [count] hashes of what was heard or told, without the device */
    int32_t count;
} spc_notices;

/* Rank 0 tells this of its own device. */
void spc_notices_told(spc_notices *n, const char *notice);
/* A rank says this of its device; "": nothing. */
void spc_notices_hear(spc_notices *n, int32_t rank, const char *notice);
/* The next one to tell; NULL: none. */
const char *spc_notices_next(spc_notices *n);

#endif
