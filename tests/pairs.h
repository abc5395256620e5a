/* SPDX-License-Identifier: Apache-2.0 */
/* pairs.h - tiny random pairs, whose few tokens make stops, full acceptance and rejections at every
 * position frequent, and what two ways to decode with one must have in common. */
#ifndef SPC_TESTS_PAIRS_H
#define SPC_TESTS_PAIRS_H

#include "decode.h"
#include "tiny.h"

enum { VOCAB = 7, STOP = 2 };

#define SMALL                                                                             \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 7, \"hidden_size\": 16," \
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"  \
    " \"head_dim\": 8, \"intermediate_size\": 24, \"max_position_embeddings\": 64}"

/* Rows of two tiles. */
#define WIDE                                                                                 \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 4110, \"hidden_size\": 32," \
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"     \
    " \"intermediate_size\": 64, \"max_position_embeddings\": 64}"

static const char *const pairs[][2] = {
    {SMALL, "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 7, \"hidden_size\": 24,"
            " \"num_hidden_layers\": 2, \"num_attention_heads\": 3, \"num_key_value_heads\": 3,"
            " \"head_dim\": 8, \"intermediate_size\": 32, \"max_position_embeddings\": 64}"},
    {"{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 7, \"d_model\": 16,"
     " \"d_kv\": 6, \"d_ff\": 24, \"num_layers\": 1, \"num_heads\": 2,"
     " \"relative_attention_num_buckets\": 4, \"relative_attention_max_distance\": 5,"
     " \"decoder_start_token_id\": 0}",
     "{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 7, \"d_model\": 24,"
     " \"d_kv\": 8, \"d_ff\": 32, \"num_layers\": 2, \"num_heads\": 3,"
     " \"relative_attention_num_buckets\": 4, \"relative_attention_max_distance\": 3,"
     " \"feed_forward_proj\": \"gated-gelu\", \"tie_word_embeddings\": false,"
     " \"decoder_start_token_id\": 0}"},
    {SMALL, SMALL},
    {WIDE, WIDE}};
enum {
    PAIRS = 2,
    ALIKE = 2,
    WIDE_PAIR = 3
}; /* the last: a model with itself, which keeps every draft */

static inline tiny_model tiny_drafter(int32_t which)
{
    return tiny_open(pairs[which][0], which >= ALIKE ? 4 : 3, which == WIDE_PAIR ? 1 : 2);
}

static inline tiny_model tiny_verifier(int32_t which)
{
    return tiny_open(pairs[which][1], 4, 2);
}

typedef struct {
    const char *rule;
    int32_t gamma;
    float temperature;
    spc_bonus_mode bonus;
    spc_verify_mode verify;
} way;

static inline spc_session_options way_options(const way *w, uint64_t seed)
{
    spc_session_options o = options_of(w->rule, w->gamma, w->temperature);
    static const int32_t stop[] = {STOP};

    o.bonus = w->bonus;
    o.verify = w->verify;
    o.seed = seed;
    o.max_tokens = 9;
    o.stop_token = stop;
    o.stop_token_count = 1;
    o.ignore_stop = seed % 3 == 2;
    return o;
}

/* Everything but times, and what the device did while the host was busy. */
static inline bool same_counters(const spc_stats *a, const spc_stats *b)
{
    spc_stats x = *a, y = *b;

    x.draft_ns = x.verify_ns = x.other_ns = 0;
    y.draft_ns = y.verify_ns = y.other_ns = 0;
    x.chained = y.chained = 0;
    x.in_turns = y.in_turns = 0;
    return memcmp(&x, &y, sizeof x) == 0;
}

static inline void expect_same(const decoded *a, const decoded *b, const char *rule, uint64_t seed)
{
    cr_expect(same_tokens(a, b), "%s, seed %d", rule, (int)seed);
    cr_expect(same_counters(&a->stats, &b->stats), "%s, seed %d", rule, (int)seed);
    cr_expect_eq(a->status, b->status, "%s, seed %d: %s", rule, (int)seed, b->error.message);
}

#endif
