/* SPDX-License-Identifier: Apache-2.0 */
/* quality_python.h - pass@1: does generated Python pass its tests?
 *
 * A program runs in a process and a session of its own, in a folder of its own that is removed
 * afterwards, with nothing on stdin, its output thrown away, and limits on time, memory, files and
 * processes.  It has passed when its last line was reached and Python ended with 0: leaving early
 * is no way to pass.  The limits keep a slip of a model from harming the measurement; they are no
 * sandbox against an attacker: run untrusted models where nothing is worth stealing.
 *
 * The text of a model is cut (quality_python_cut):
 *   - to its first block of Markdown (```), when no code stands ahead of it;
 *   - else ahead of the first line that goes on with something else: one that begins with print, if
 * or
 *     ```; behind a function to be completed also with class, def, # or @; behind a program also
 * with assert, """ or <|.  */
#ifndef SPC_BENCH_QUALITY_PYTHON_H
#define SPC_BENCH_QUALITY_PYTHON_H

#include "bench/quality.h"

#include <spc/status.h>

enum { QUALITY_PATH_BYTES = 512, QUALITY_PROCESSES = 64 };

/* How tests are run. */
struct quality_python {
    char program[QUALITY_PATH_BYTES]; /* the interpreter */
    int32_t seconds;    /* limit on wall clock and on CPU time of each process, >= 1 */
    int32_t memory_mib; /* limit on the address space of each process */
};

typedef enum { QUALITY_PASSED, QUALITY_FAILED, QUALITY_TIMED_OUT } quality_verdict;

/* Find an interpreter, as a shell would, and see that it runs under these limits.
 * SPC_EUSAGE: it does not. */
spc_status quality_python_open(const char *name, int32_t seconds, int32_t memory_mib,
                               quality_python *out, spc_error *err);

/* Code from the text of a model; malloc'd.  completes: it goes on from the head of a function.
 * NULL: no memory. */
char *quality_python_cut(const char *text, bool completes);

/* Run a program.  The calling process must have no children of its own: all that are left when the
 * program ends are killed.  false: it could not be run, errno says why. */
bool quality_python_run(const quality_python *python, const char *program,
                        quality_verdict *verdict);

#endif
