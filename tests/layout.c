/* SPDX-License-Identifier: Apache-2.0 */
/* layout.c - sizes and offsets of the structs of spc/verify.h and spc/spc.h, for test_python.py. */
#include <spc/spc.h>
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
    FIELD(spc_logit_rows, subset);
    SIZE(spc_subset);
    FIELD(spc_subset, before);
    SIZE(spc_edits);
    FIELD(spc_edits, edit_value);
    SIZE(spc_draw_batch);
    FIELD(spc_draw_batch, params);
    FIELD(spc_draw_batch, logits);
    FIELD(spc_draw_batch, edits);
    FIELD(spc_draw_batch, plain);
    FIELD(spc_draw_batch, token);
    FIELD(spc_draw_batch, log_probability);
    FIELD(spc_draw_batch, out_stride);
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
    SIZE(spc_engine_options);
    FIELD(spc_engine_options, verifier);
    FIELD(spc_engine_options, drafter);
    FIELD(spc_engine_options, sessions);
    FIELD(spc_engine_options, context);
    FIELD(spc_engine_options, kv_tokens);
    FIELD(spc_engine_options, prefill_rows);
    FIELD(spc_engine_options, device);
    FIELD(spc_engine_options, drafter_device);
    FIELD(spc_engine_options, drafter_vocab);
    FIELD(spc_engine_options, tp);
    FIELD(spc_engine_options, drafter_tp);
    FIELD(spc_engine_options, nccl_comm);
    FIELD(spc_engine_options, place);
    FIELD(spc_engine_options, threads);
    FIELD(spc_engine_options, isa);
    FIELD(spc_engine_options, kv);
    FIELD(spc_engine_options, weights);
    FIELD(spc_engine_options, fast_prefill);
    FIELD(spc_engine_options, kernels);
    FIELD(spc_engine_options, plain_launches);
    FIELD(spc_engine_options, overlap);
    FIELD(spc_engine_options, no_prefix_reuse);
    FIELD(spc_engine_options, log);
    FIELD(spc_engine_options, progress);
    FIELD(spc_engine_options, user);
    SIZE(spc_session_options);
    FIELD(spc_session_options, rule);
    FIELD(spc_session_options, gamma);
    FIELD(spc_session_options, temperature);
    FIELD(spc_session_options, top_k);
    FIELD(spc_session_options, top_p);
    FIELD(spc_session_options, min_p);
    FIELD(spc_session_options, seed);
    FIELD(spc_session_options, max_tokens);
    FIELD(spc_session_options, verify);
    FIELD(spc_session_options, bonus);
    FIELD(spc_session_options, nucleus);
    FIELD(spc_session_options, wait);
    FIELD(spc_session_options, details);
    FIELD(spc_session_options, logprobs);
    FIELD(spc_session_options, top_logprobs);
    FIELD(spc_session_options, ignore_stop);
    FIELD(spc_session_options, stop);
    FIELD(spc_session_options, stop_count);
    FIELD(spc_session_options, stop_token);
    FIELD(spc_session_options, stop_token_count);
    FIELD(spc_session_options, min_tokens);
    FIELD(spc_session_options, repetition_penalty);
    FIELD(spc_session_options, presence_penalty);
    FIELD(spc_session_options, frequency_penalty);
    FIELD(spc_session_options, logit_bias);
    FIELD(spc_session_options, logit_bias_count);
    FIELD(spc_session_options, on_mask);
    FIELD(spc_session_options, on_token);
    FIELD(spc_session_options, on_text);
    FIELD(spc_session_options, user);
    return 0;
}
