/* SPDX-License-Identifier: Apache-2.0 */
/* failing_malloc.h - an allocator that counts, and that fails where it is told to.
 *
 * failing_malloc.c defines malloc and its relatives for the whole program, shared libraries
 * included, over glibc's own.  Outside of begin and end they are glibc's. */
#ifndef SPC_TESTS_FAILING_MALLOC_H
#define SPC_TESTS_FAILING_MALLOC_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int64_t allocations; /* asked for, refused ones included; realloc is one too */
    int64_t refused;
    int64_t live; /* blocks given out less blocks freed: 0 when nothing was left or taken away */
} heap_count;

enum { HEAP_NEVER = -1 };

/* Watch the calling thread from here on (test frameworks have threads of their own, which allocate
 * at will).  Allocations number first .. last, from 0, return NULL; first = HEAP_NEVER: none does.
 * Not to be nested. */
void heap_begin(int64_t first, int64_t last);
heap_count heap_end(void);

/* An allocation that is never refused and not numbered; freed by free, and live until then.  For
 * libraries that do not survive a refusal: json_set_alloc_funcs(heap_spared, free). */
void *heap_spared(size_t bytes);

#endif
