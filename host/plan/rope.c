/* SPDX-License-Identifier: Apache-2.0 */
/* rope.c - the angles of rotary positions and what stretches them. */
#include "rope.h"

#include <math.h>

#define TWO_PI 6.28318530717958647693

/* yarn: the pair (not a whole one) that makes so many turns in the original context. */
static double yarn_pair(const spc_rope *rope, int32_t head_dim, double turns)
{
    return head_dim * log(rope->original_context / (turns * TWO_PI)) / (2 * log(rope->theta));
}

/* Pairs up to `low` keep their frequency, those from `high` on are stretched. */
static double yarn_frequency(const spc_rope *rope, int32_t head_dim, int32_t i, double frequency)
{
    double low = yarn_pair(rope, head_dim, rope->beta_fast);
    double high = yarn_pair(rope, head_dim, rope->beta_slow), ramp;

    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_dim - 1);
    if (low == high) high += 0.001;
    ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return frequency / rope->factor * ramp + frequency * (1 - ramp);
}

/* Turns per token of rotary pair i.  Scalings as transformers' modeling_rope_utils has them. */
static double rope_frequency(const spc_rope *rope, int32_t context, int32_t i)
{
    const int32_t head_dim = 2 * rope->pairs; /* what turns of it */
    double frequency = pow(rope->theta, -2.0 * i / head_dim);
    double turns = rope->original_context * frequency / TWO_PI;

    if (rope->kind == SPC_ROPE_LINEAR) return frequency / rope->factor;
    if (rope->kind == SPC_ROPE_DIVISORS) return frequency / (double)rope->divisor[i];
    if (rope->kind == SPC_ROPE_LONG) {
        bool beyond = context > rope->original_context;

        return frequency / (double)(beyond ? rope->long_divisor : rope->divisor)[i];
    }
    if (rope->kind == SPC_ROPE_YARN) return yarn_frequency(rope, head_dim, i, frequency);
    if (rope->kind != SPC_ROPE_LLAMA3 || turns > rope->high_freq_factor) return frequency;
    if (turns < rope->low_freq_factor) return frequency / rope->factor;

    double smooth =
        (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);

    return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

int32_t spc_rope_kinds(const spc_config *config)
{
    if (config->buckets > 0) return 0;
    return config->local ? 2 : 1;
}

void spc_rope_angles(const spc_config *config, int32_t kind, int32_t context, float *cosine,
                     float *sine)
{
    const spc_rope *rope = kind == 0 ? &config->rope : &config->local_rope;
    int32_t pairs = rope->pairs;

    for (int32_t i = 0; i < pairs; i++) {
        double frequency = spc_config_buffer(config, rope_frequency(rope, context, i));

        for (int32_t position = 0; position < context; position++) {
            int64_t at = (int64_t)position * pairs + i;

            cosine[at] = (float)(cos(position * frequency) * rope->attention);
            sine[at] = (float)(sin(position * frequency) * rope->attention);
        }
    }
}

bool spc_rope_scales_queries(const spc_config *config)
{
    return config->rope.query_growth > 0;
}

void spc_rope_query_scales(const spc_config *config, int32_t context, float *scale)
{
    const spc_rope *rope = &config->rope;

    for (int32_t position = 0; position < context; position++) {
        int32_t before = position / rope->original_context;

        scale[position] = (float)(1 + rope->query_growth * log1p(before));
    }
}
