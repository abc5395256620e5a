/* SPDX-License-Identifier: Apache-2.0 */
/* edit.h - what a session does to single logits before any rule reads them: logit bias and
 * penalties.  One definition for the CPU (host/cpu/cpu_round.c) and for CUDA (cuda/edit.cu). */
#ifndef SPC_RULES_EDIT_H
#define SPC_RULES_EDIT_H

#include "portable.h"

/* A logit to be changed. */
typedef struct {
    int32_t row; /* of logits */
    int32_t token;
    float factor; /* > 0; repetition penalty, 1: none.  A logit above 0 is divided by it, another
                     multiplied: above 1 it makes either less likely (Keskar et al., CTRL,
                     arXiv 1909.05858, in the form of Hugging Face's transformers) */
    float add;    /* then added; -inf: the token is out */
} spc_logit_edit;

/* NaN stays, so that a bad row is still found bad. */
SPC_FN float spc_logit_edited(float logit, float factor, float add)
{
    float scaled = factor == 1.0f ? logit : logit > 0.0f ? logit / factor : logit * factor;

    return scaled + add;
}

#endif
