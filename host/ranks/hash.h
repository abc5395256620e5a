/* SPDX-License-Identifier: Apache-2.0 */
/* hash.h - FNV-1a, 64 bit: do two ranks hold the same? */
#ifndef SPC_HOST_HASH_H
#define SPC_HOST_HASH_H

#include <stddef.h>
#include <stdint.h>

#define SPC_HASH_BEGIN UINT64_C(0xcbf29ce484222325)

/* Continued from `hash`; begin with SPC_HASH_BEGIN. */
static inline uint64_t spc_hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *at = data;

    for (size_t i = 0; i < bytes; i++) hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static inline uint64_t spc_hash_int(uint64_t hash, int64_t value)
{
    return spc_hash_bytes(hash, &value, sizeof value);
}

#endif
