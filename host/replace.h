/* SPDX-License-Identifier: Apache-2.0 */
/* replace.h - a file written beside its place, and moved there when it is whole: nobody reads half
 * of it, and what was there before stays until then.
 *
 * Where a path leads through symbolic links, the file they end at is replaced, and the links stay.
 * What is no plain file (a device, a pipe) is written to as it is: moving would put a file in its
 * place. */
#ifndef SPC_HOST_REPLACE_H
#define SPC_HOST_REPLACE_H

#include <stdbool.h>
#include <stdio.h>

typedef struct {
    FILE *file;   /* to write to */
    char *path;   /* its place, behind all links */
    char *beside; /* where it is until it is whole; NULL: in its place */
} spc_replace;

/* Begin.  0, or errno of what failed; then there is nothing to end. */
int spc_replace_begin(spc_replace *out, const char *path);

/* Close the file and move it to its place; where it is not whole, remove it.  0, or errno of what
 * failed, an earlier failed write included.
 *
 * whole   false: give up; errno says why */
int spc_replace_end(spc_replace *r, bool whole);

/* Can there be a file?  0, or errno of why not.  What has taken long to compute is then not lost
 * for want of a place: ask before. */
int spc_replace_check(const char *path);

#endif
