/* SPDX-License-Identifier: Apache-2.0 */
/* rng.h - random numbers without state: Philox4x32-10 addressed by (seed, position, stream, index).
 *
 * A token's randomness depends on the seed and on its position, never on the batch, the grid or the
 * order of calls (rules/README.md, "Randomness").  Philox: Salmon et al., "Parallel Random Numbers:
 * As Easy as 1, 2, 3", SC 2011. */
#ifndef SPC_RULES_RNG_H
#define SPC_RULES_RNG_H

#include "portable.h"

/* One address per purpose: two draws never share a number. */
typedef enum {
    SPC_STREAM_ACCEPT = 0,   /* the coin of a draft */
    SPC_STREAM_RESIDUAL = 1, /* the token drawn after a rejection */
    SPC_STREAM_BONUS = 2,    /* the token drawn after every draft was kept */
    SPC_STREAM_DRAFT = 3,    /* the drafter's own draw */
    SPC_STREAM_USER = 4,     /* never used by the library */
} spc_stream_id;

/* Where randomness for one token lives. */
typedef struct {
    uint64_t seed;     /* of the request */
    uint64_t position; /* of the token in its sequence, prompt included; below 2^60 */
    uint32_t
        salt; /* 0; under block verification (position of the round's first draft + 1) mod 2^32 */
} spc_key;

typedef struct {
    uint32_t word[4];
} spc_words;

/* Ten rounds of Philox on a counter under a key. */
SPC_FN spc_words spc_philox(spc_words counter, uint32_t key0, uint32_t key1)
{
    uint32_t *c = counter.word;

    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0];
        uint64_t b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t c1 = c[1], c3 = c[3];

        c[0] = (uint32_t)(b >> 32) ^ c1 ^ key0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c3 ^ key1;
        c[3] = (uint32_t)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

/* The index-th block of four words at an address. */
SPC_FN spc_words spc_random(spc_key key, spc_stream_id stream, uint32_t index)
{
    spc_words counter;

    counter.word[0] = index;
    counter.word[1] = (uint32_t)key.position;
    counter.word[2] = (uint32_t)(key.position >> 32) | (uint32_t)stream << 28;
    counter.word[3] = key.salt;
    return spc_philox(counter, (uint32_t)key.seed, (uint32_t)(key.seed >> 32));
}

/* Uniform in [0, 1): 24 bits, exact in float. */
SPC_FN float spc_uniform(spc_key key, spc_stream_id stream, uint32_t index)
{
    return (float)(spc_random(key, stream, index).word[0] >> 8) * 5.9604645e-8f;
}

/* Exponential variate with mean 1 from one random word: -ln(1 - u), u = (word + 1/2) 2^-32.
 *
 * The small end decides races and keeps its resolution: where 1 - u rounds, the logarithm is scaled
 * by what was really taken away (ln(w) u / (1 - w) is ln(1 - u) to first order in the rounding). */
SPC_FN float spc_exponential(uint32_t word)
{
    float u = ((float)word + 0.5f) * 2.3283064e-10f;
    float bounded = u < 0.99999994f ? u : 0.99999994f;
    float w = 1.0f - bounded;
    float taken = 1.0f - w;
    float safe = taken > 0.0f ? taken : 1.0f;

    return taken > 0.0f ? -spc_log(w) * (bounded / safe) : bounded;
}

#endif
