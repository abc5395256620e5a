/* SPDX-License-Identifier: Apache-2.0 */
/* clones.h - functions that are compiled for several vector units, of which the loader picks. */
#ifndef SPC_HOST_CLONES_H
#define SPC_HOST_CLONES_H

/* In front of a loop over single logits: it is compiled for wider vector units too.  The flags of
 * all files forbid contraction, so every clone gives the same bits.  They are static: a clone that
 * is not is exported from shared objects, whatever its visibility.  What they call of the rules is
 * made a part of them. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SPC_CLONES __attribute__((flatten, target_clones("avx512f", "avx2", "default")))
#else
#define SPC_CLONES
#endif

#endif
