/* SPDX-License-Identifier: Apache-2.0 */
/* processor.h - what a session does to the logits of both models before anything reads them: logit
 * bias, penalties, a least number of tokens, a mask of its caller's (spc_session_options). */
#ifndef SPC_HOST_PROCESSOR_H
#define SPC_HOST_PROCESSOR_H

#include "backend.h"

typedef struct spc_processor spc_processor;

/* What they ask for is in range; ids are not looked at.  SPC_EUSAGE */
spc_status spc_processor_check(const spc_session_options *options, spc_error *err);

/* Is every id one of so many?  SPC_EUSAGE */
spc_status spc_processor_check_ids(const spc_session_options *options, int32_t vocab,
                                   spc_error *err);

/* Of options that the two above have let pass.
 *
 * vocab   ids of both models
 * stop    [stop_count] ids that end the sequence, which min_tokens forbids; copied
 * out     NULL where nothing is asked for
 *
 * SPC_EUSAGE: a token is there twice; SPC_ENOMEM */
spc_status spc_processor_open(const spc_session_options *options, int32_t vocab,
                              const int32_t *stop, int32_t stop_count, spc_processor **out,
                              spc_error *err);
void spc_processor_close(spc_processor *processor); /* NULL is allowed */

/* A sequence begins with this prompt [count]. */
void spc_processor_begin(spc_processor *processor, const int32_t *prompt, int32_t count);
/* A token was kept. */
void spc_processor_keep(spc_processor *processor, int32_t token);

/* Edits of many rows on their way to a model: sent when there is no room for more. */
typedef struct {
    spc_logit_edit *edit; /* [SPC_EDITS_MOST] */
    int32_t *masked;      /* [SPC_MASKS_MOST] */
    uint32_t *allowed;    /* [SPC_MASK_WORDS_MOST] */
    int32_t edits, masks;
} spc_edit_desk;

/* false: no memory.  Close it in any case. */
bool spc_edit_desk_open(spc_edit_desk *desk);
void spc_edit_desk_close(spc_edit_desk *desk); /* zeros are allowed */

/* Add what is to be done to the row behind token[0 .. count), of which the prompt and what was kept
 * are the first. */
spc_status spc_processor_add(spc_processor *processor, const int32_t *token, int32_t count,
                             int32_t row, spc_edit_desk *desk, const spc_backend_ops *ops,
                             spc_runner *runner, spc_error *err);
/* Send what there is. */
spc_status spc_edit_desk_send(spc_edit_desk *desk, const spc_backend_ops *ops, spc_runner *runner,
                              spc_error *err);

/* Which options leave no token behind these?  NULL: some token is left. */
const char *spc_processor_leaves_none(spc_processor *processor, const int32_t *token,
                                      int32_t count);

#endif
