/* SPDX-License-Identifier: Apache-2.0 */
/* failing_malloc.c - malloc and its relatives over glibc's, which lets a program replace them and
 * keeps its own under the names __libc_malloc and so on.  Not to be linked with a sanitizer, which
 * replaces them itself. */
#include "failing_malloc.h"

#include <errno.h>
#include <stdbool.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *block, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *block);

static _Thread_local bool watched;
static _Thread_local int64_t first_refused, last_refused;
static _Thread_local heap_count seen;

void heap_begin(int64_t first, int64_t last)
{
    seen = (heap_count){0, 0, 0};
    first_refused = first;
    last_refused = first == HEAP_NEVER ? HEAP_NEVER : last;
    watched = true;
}

heap_count heap_end(void)
{
    watched = false;
    return seen;
}

/* Count an allocation; false when it is to fail. */
static bool allowed(void)
{
    if (!watched) return true;

    int64_t number = seen.allocations++;

    if (number < first_refused || number > last_refused) return true;
    seen.refused++;
    errno = ENOMEM;
    return false;
}

static void *given(void *block)
{
    if (block && watched) seen.live++;
    return block;
}

void *malloc(size_t bytes)
{
    return allowed() ? given(__libc_malloc(bytes)) : NULL;
}

void *heap_spared(size_t bytes)
{
    return given(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes)
{
    return allowed() ? given(__libc_calloc(count, bytes)) : NULL;
}

void free(void *block)
{
    if (block && watched) seen.live--;
    __libc_free(block);
}

void *realloc(void *block, size_t bytes)
{
    if (!block) return malloc(bytes);
    if (bytes == 0) { /* as glibc does */
        free(block);
        return NULL;
    }
    return allowed() ? __libc_realloc(block, bytes) : NULL;
}

void *memalign(size_t alignment, size_t bytes)
{
    return allowed() ? given(__libc_memalign(alignment, bytes)) : NULL;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    void *block = memalign(alignment, bytes);

    if (!block) return ENOMEM;
    *out = block;
    return 0;
}
