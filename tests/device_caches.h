/* SPDX-License-Identifier: Apache-2.0 */
/* device_caches.h - caches of every type, for tests of kernels that read or write them. */
#ifndef SPC_TESTS_DEVICE_CACHES_H
#define SPC_TESTS_DEVICE_CACHES_H

#include "cuda/ops.h"
#include "host/kv.h"

/* Types of caches, and what the CPU's are called. */
static const spc_weight_type cache_types[] = {SPC_WEIGHT_F32, SPC_WEIGHT_BF16, SPC_WEIGHT_F16};
static const spc_kv host_types[] = {
    {.type = SPC_DTYPE_F32}, {.type = SPC_DTYPE_BF16}, {.type = SPC_DTYPE_F16}};
enum { CACHE_TYPES = sizeof cache_types / sizeof *cache_types };

static inline const spc_kv *host_type(const spc_cuda_pages *cache)
{
    return &host_types[cache->type];
}

#endif
