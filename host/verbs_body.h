/* SPDX-License-Identifier: Apache-2.0 */
/* verbs_body.h - verbs of a backend that passes them on.  The includer has before it
 *
 *   static spc_status pass(const spc_verb *verb, spc_error *err);
 *
 * and puts SPC_VERBS_PASSED into its spc_backend_ops. */

static spc_status pass_forward(spc_runner *r, const spc_rows *rows, spc_error *err)
{
    return pass(&(spc_verb){SPC_VERB_FORWARD, .runner = r, .rows = rows, .count = rows->count},
                err);
}

static spc_status pass_encode(spc_runner *r, int32_t slot, const int32_t *token, int32_t count,
                              spc_error *err)
{
    return pass(
        &(spc_verb){SPC_VERB_ENCODE, .runner = r, .slot = slot, .token = token, .count = count},
        err);
}

static spc_status pass_map(spc_runner *r, int32_t slot, const int32_t *page, int32_t count,
                           int32_t length, spc_error *err)
{
    return pass(&(spc_verb){SPC_VERB_MAP, .runner = r, .slot = slot, .token = page, .count = count,
                            .draft = length},
                err);
}

static spc_status pass_draw(spc_runner *r, const spc_lane *lanes, int32_t count, int32_t i,
                            spc_error *err)
{
    return pass(&(spc_verb){SPC_VERB_DRAW, .runner = r, .lanes = lanes, .count = count, .draft = i},
                err);
}

static spc_status pass_verify(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                              int32_t count, spc_verdict *out, spc_error *err)
{
    return pass(
        &(spc_verb){SPC_VERB_VERIFY, verifier, drafter, .lanes = lanes, .count = count, .out = out},
        err);
}

static spc_status pass_edit(spc_runner *r, const spc_edit_list *list, spc_error *err)
{
    return pass(&(spc_verb){SPC_VERB_EDIT, .runner = r, .edits = list}, err);
}

static inline spc_status pass_gather(spc_runner *r, int32_t first, int32_t count, spc_error *err)
{
    return pass(&(spc_verb){SPC_VERB_GATHER, .runner = r, .count = count, .draft = first}, err);
}

static inline spc_status pass_verify_rows(const float *rows, spc_runner *verifier,
                                          const spc_lane *lanes, int32_t count, spc_verdict *out,
                                          spc_error *err)
{
    return pass(&(spc_verb){SPC_VERB_VERIFY_ROWS, verifier, .drafter_rows = rows, .lanes = lanes,
                            .count = count, .out = out},
                err);
}

/* All but gather and verify_rows, which not every backend needs. */
#define SPC_VERBS_PASSED                                                                \
    .forward = pass_forward, .encode = pass_encode, .map = pass_map, .draw = pass_draw, \
    .verify = pass_verify, .edit = pass_edit
