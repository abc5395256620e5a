/* SPDX-License-Identifier: Apache-2.0 */
/* normalise.h - what happens to a text before it is cut into words: one step after the other, each
 * as the `tokenizers` library defines it. */
#ifndef SPC_WEIGHTS_NORMALISE_H
#define SPC_WEIGHTS_NORMALISE_H

#include "charsmap.h"
#include "pretoken.h"

/* FORM           a normal form of Unicode
 * PREPEND        `text` before a text that is not empty
 * REPLACE        every match of the pattern by `text`
 * LOWER          lower case, character by character
 * STRIP          white space off the ends
 * STRIP_ACCENTS  without marks (Unicode categories Mn, Mc, Me)
 * NMT            control characters dropped, odd spaces made plain
 * CHARSMAP       by a table (charsmap.h) */
typedef enum {
    SPC_STEP_FORM,
    SPC_STEP_PREPEND,
    SPC_STEP_REPLACE,
    SPC_STEP_LOWER,
    SPC_STEP_STRIP,
    SPC_STEP_STRIP_ACCENTS,
    SPC_STEP_NMT,
    SPC_STEP_CHARSMAP
} spc_step_kind;

typedef struct {
    spc_step_kind kind;
    spc_form form;
    bool left, right;     /* STRIP */
    char *text;           /* owned, terminated: PREPEND, REPLACE */
    spc_pattern *pattern; /* owned: REPLACE */
    spc_charsmap map;     /* owned: CHARSMAP */
} spc_step;

void spc_step_free(spc_step *step);

/* One step on valid UTF-8.
 *
 * out   receives malloc'd text, not terminated by contract; free() it */
spc_status spc_step_run(const spc_step *step, const char *text, size_t bytes, char **out,
                        size_t *out_bytes, spc_error *err);

#endif
