/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_neondot.c - the text of cpu_neon.c once more, compiled for machines that multiply and add
 * bytes in one instruction: the same results, sooner. */
#include "cpu_neon.c"
