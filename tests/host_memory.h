/* SPDX-License-Identifier: Apache-2.0 */
/* host_memory.h - memory for batches in the host's (toybatch.h). */
#ifndef SPC_TESTS_HOST_MEMORY_H
#define SPC_TESTS_HOST_MEMORY_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static inline void *shared(size_t bytes)
{
    void *memory = aligned_alloc(16, (bytes + 15) / 16 * 16);

    cr_assert_not_null(memory);
    memset(memory, 0xa5, bytes);
    return memory;
}

static inline void *on_device(size_t bytes)
{
    return shared(bytes);
}

static inline void unshare(void *memory)
{
    free(memory);
}

#endif
