/* SPDX-License-Identifier: Apache-2.0 */
/* layout.c - sizes and offsets of the structs of spc/verify.h, for test_python.py. */
#include <spc/verify.h>

#include <stdio.h>

#define SIZE(type)         printf(#type " %zu\n", sizeof(type))
#define FIELD(type, field) printf(#type "." #field " %zu\n", offsetof(type, field))

int main(void)
{
    SIZE(spc_rule);
    FIELD(spc_rule, window);
    FIELD(spc_rule, inverse);
    SIZE(spc_row_params);
    FIELD(spc_row_params, sampling);
    FIELD(spc_row_params, seed);
    FIELD(spc_row_params, nucleus);
    SIZE(spc_row_stats);
    FIELD(spc_row_stats, bad);
    SIZE(spc_logit_rows);
    FIELD(spc_logit_rows, stride);
    FIELD(spc_logit_rows, width);
    SIZE(spc_edits);
    FIELD(spc_edits, edit_value);
    SIZE(spc_draw_batch);
    FIELD(spc_draw_batch, params);
    FIELD(spc_draw_batch, logits);
    FIELD(spc_draw_batch, edits);
    FIELD(spc_draw_batch, plain);
    FIELD(spc_draw_batch, token);
    FIELD(spc_draw_batch, log_probability);
    FIELD(spc_draw_batch, workspace_bytes);
    SIZE(spc_verify_batch);
    FIELD(spc_verify_batch, max_drafts);
    FIELD(spc_verify_batch, params);
    FIELD(spc_verify_batch, drafter);
    FIELD(spc_verify_batch, verifier);
    FIELD(spc_verify_batch, edits);
    FIELD(spc_verify_batch, draft);
    FIELD(spc_verify_batch, bonus);
    FIELD(spc_verify_batch, token);
    FIELD(spc_verify_batch, status);
    FIELD(spc_verify_batch, detail);
    FIELD(spc_verify_batch, workspace);
    FIELD(spc_verify_batch, workspace_bytes);
    SIZE(spc_error);
    FIELD(spc_error, message);
    return 0;
}
