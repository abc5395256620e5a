/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - between what the toolkit's headers describe and what those of tests/fibers do, which
 * have the same names: neither is included here. */
#ifndef SPC_TESTS_PTX_LAUNCH_H
#define SPC_TESTS_PTX_LAUNCH_H

#include <stddef.h>
#include <stdint.h>

#include "ptx.h"

namespace ptx
{

/* A kernel that the host's code has announced. */
struct kernel {
    module *of;
    const char *name;
};

/* What was announced for this function of the host; NULL: nothing. */
const kernel *kernel_of(const void *host);
/* By the number of one that was launched. */
const kernel &kernel_at(size_t number);
size_t number_of(const kernel *k);

/* Send it to a stream: an error of the runtime's, 0 is none. */
int submit(const void *host, const kernel *k, unsigned blocks, unsigned threads,
           const void *const *arguments, bool early, void *stream);

/* runtime.cpp: what a device says of itself. */
void describe(int device, char *name, size_t bytes, char uuid[16], int *major);

} // namespace ptx

#endif
