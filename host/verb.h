/* SPDX-License-Identifier: Apache-2.0 */
/* verb.h - a verb of a backend with its arguments, as backends of several ranks hand it to each. */
#ifndef SPC_HOST_VERB_H
#define SPC_HOST_VERB_H

#include "backend.h"

typedef enum {
    SPC_VERB_NONE,
    SPC_VERB_FORWARD,
    SPC_VERB_ENCODE,
    SPC_VERB_MAP,
    SPC_VERB_DRAW,
    SPC_VERB_VERIFY,
    SPC_VERB_GATHER,
    SPC_VERB_VERIFY_ROWS,
    SPC_VERB_EDIT,
    SPC_VERB_KINDS
} spc_verb_kind;

typedef struct {
    spc_verb_kind kind;
    spc_runner *runner;         /* VERIFY, VERIFY_ROWS: the verifier's */
    spc_runner *drafter;        /* VERIFY; NULL: none */
    const spc_rows *rows;       /* FORWARD */
    int32_t slot;               /* ENCODE, MAP */
    const int32_t *token;       /* ENCODE, and of MAP the pages: [count] */
    const spc_lane *lanes;      /* DRAW, VERIFY, VERIFY_ROWS: [count] */
    const spc_edit_list *edits; /* EDIT */
    const float *drafter_rows;  /* VERIFY_ROWS: [outputs, ids]; NULL: none is read */
    int32_t count;
    int32_t draft;    /* DRAW which, GATHER first row, MAP length */
    spc_verdict *out; /* VERIFY, VERIFY_ROWS: [count] */
} spc_verb;

/* Run it as one rank does, on that rank's runners. */
static inline spc_status spc_verb_run(const spc_verb *v, const spc_backend_ops *ops,
                                      spc_runner *runner, spc_runner *drafter, spc_error *err)
{
    switch (v->kind) {
    case SPC_VERB_FORWARD: return ops->forward(runner, v->rows, err);
    case SPC_VERB_ENCODE: return ops->encode(runner, v->slot, v->token, v->count, err);
    case SPC_VERB_MAP: return ops->map(runner, v->slot, v->token, v->count, v->draft, err);
    case SPC_VERB_DRAW: return ops->draw(runner, v->lanes, v->count, v->draft, err);
    case SPC_VERB_VERIFY: return ops->verify(drafter, runner, v->lanes, v->count, v->out, err);
    case SPC_VERB_GATHER: return ops->gather(runner, v->draft, v->count, err);
    case SPC_VERB_VERIFY_ROWS:
        return ops->verify_rows(v->drafter_rows, runner, v->lanes, v->count, v->out, err);
    case SPC_VERB_EDIT: return ops->edit(runner, v->edits, err);
    case SPC_VERB_NONE:
    case SPC_VERB_KINDS: break;
    }
    return SPC_OK;
}

#endif
