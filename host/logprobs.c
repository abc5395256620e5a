/* SPDX-License-Identifier: Apache-2.0 */
/* logprobs.c - how probable a row of logits makes a token, and which tokens it makes most so. */
#include "logprobs.h"

#include "host/verify/tiles.h"

#include <math.h>

/* What turns the logits of a row into logarithms of probabilities. */
typedef struct {
    float max, log_sum;
} row_scale;

/* false: a bad row, which says nothing. */
static bool scale_of(const float *row, int32_t vocab, row_scale *out)
{
    const spc_row_needs needs = {.scale = SPC_LOG2_E, .mixing = true};
    row_scale s = {-SPC_INFINITY, 0.0f};
    double sum = 0; /* relative to the largest maximum so far */

    for (int32_t t = 0; t < spc_tile_count(vocab); t++) {
        const spc_partial tile =
            spc_tile_partial(row + t * SPC_TILE, spc_tile_width(vocab, t), t * SPC_TILE, needs);

        if (tile.bad) return false;
        if (tile.max > s.max) {
            sum *= s.max > -SPC_INFINITY ? exp((double)s.max - (double)tile.max) : 0.0;
            s.max = tile.max;
        }
        if (tile.max > -SPC_INFINITY) {
            sum += (double)tile.sum * exp((double)tile.max - (double)s.max);
        }
    }
    s.log_sum = (float)log(sum);
    *out = s;
    return s.max > -SPC_INFINITY;
}

static float log_of(row_scale s, float logit)
{
    return logit - s.max - s.log_sum;
}

/* Put a token where its logit belongs among the `most` highest so far, of which those behind it
 * move on; equal ones stay in the order of their ids. */
static void insert(spc_logprob *top, int32_t most, int32_t token, float logit)
{
    int32_t at = most - 1;

    for (; at > 0 && logit > top[at - 1].value; at--) top[at] = top[at - 1];
    top[at] = (spc_logprob){token, logit};
}

void spc_logprobs_of(const float *row, int32_t vocab, int32_t token, int32_t top, spc_logprob *to)
{
    row_scale s;

    to[0] = (spc_logprob){token, NAN};
    for (int32_t i = 1; i <= top; i++) to[i] = (spc_logprob){-1, -SPC_INFINITY};
    if (!row || !scale_of(row, vocab, &s)) return;
    to[0].value = log_of(s, row[token]);
    for (int32_t v = 0; v < vocab && top > 0; v++) {
        if (row[v] > to[top].value) insert(to + 1, top, v, row[v]);
    }
    for (int32_t i = 1; i <= top && to[i].token >= 0; i++) to[i].value = log_of(s, to[i].value);
}
