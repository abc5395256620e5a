/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_avx512vnni.c - the text of cpu_avx512.c once more, compiled for machines that multiply and
 * add integers in one instruction: the same results, sooner. */
#include "cpu_avx512.c"
