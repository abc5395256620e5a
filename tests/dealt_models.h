/* SPDX-License-Identifier: Apache-2.0 */
/* dealt_models.h - models as dice deal them: any architecture in any sizes, fed in any pieces. */
#ifndef SPC_TESTS_DEALT_MODELS_H
#define SPC_TESTS_DEALT_MODELS_H

#include "deals.h"
#include "distance.h"
#include "tiny.h"
#include "toyrows.h"

#include <stdarg.h>
#include <stdio.h>

enum { SLOTS = 3, TOKENS = 40, CONTEXT = 48, SOURCE = 20 };

/* ---- configs ----------------------------------------------------------------------------------
 */

typedef struct {
    char text[1024];
    size_t length;
} json_text;

static inline void put(json_text *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    t->length += (size_t)vsnprintf(t->text + t->length, sizeof t->text - t->length, format, args);
    va_end(args);
    cr_assert_lt(t->length, sizeof t->text);
}

static inline int32_t between(dice *d, int32_t least, int32_t most)
{
    return least + dice_below(d, most - least + 1);
}

static inline const char *yes_or_no(dice *d)
{
    return dice_below(d, 2) ? "true" : "false";
}

static inline void put_rope(json_text *t, dice *d)
{
    static const char *const scaled[] = {
        "\"rope_type\": \"linear\", \"factor\": 4.0", "\"rope_type\": \"dynamic\", \"factor\": 2.0",
        "\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 16",
        "\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
        "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 16"};

    if (dice_below(d, 2)) return;
    put(t, ", \"rope_scaling\": {%s}", scaled[dice_below(d, 4)]);
}

/* Sizes that all decoders have.  Some are those that matrices have no padding for. */
static inline void put_sizes(json_text *t, dice *d)
{
    static const int32_t groups[] = {1, 2, 3, 4, 7};
    int32_t kv_heads = between(d, 1, 3), heads = kv_heads * groups[dice_below(d, 5)];
    int32_t unit = dice_below(d, 3) == 0 ? 32 : 1;

    put(t, "\"vocab_size\": %d, \"hidden_size\": %d, \"intermediate_size\": %d",
        (int)(between(d, 3, 300)), (int)(unit * between(d, unit == 1 ? 2 : 1, 96 / unit)),
        (int)(unit * between(d, 1, 128 / unit)));
    put(t, ", \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d",
        (int)between(d, 1, 3), (int)heads, (int)kv_heads);
    put(t, ", \"head_dim\": %d, \"max_position_embeddings\": 64, \"tie_word_embeddings\": %s",
        (int)(2 * (dice_below(d, 4) ? between(d, 1, 24) : between(d, 32, 68))), yes_or_no(d));
}

static inline void put_llama(json_text *t, dice *d)
{
    put(t, "{\"architectures\": [\"LlamaForCausalLM\"], ");
    put_sizes(t, d);
    put(t, ", \"attention_bias\": %s, \"mlp_bias\": %s", yes_or_no(d), yes_or_no(d));
    put_rope(t, d);
    put(t, "}");
}

static inline void put_mistral(json_text *t, dice *d)
{
    put(t, "{\"architectures\": [\"MistralForCausalLM\"], ");
    put_sizes(t, d);
    put(t, ", \"sliding_window\": %d}", (int)between(d, 1, TOKENS));
}

static inline void put_qwen(json_text *t, dice *d)
{
    put(t, "{\"architectures\": [\"Qwen%dForCausalLM\"], ", (int)between(d, 2, 3));
    put_sizes(t, d);
    put_rope(t, d);
    put(t, "}");
}

static inline void put_gemma(json_text *t, dice *d)
{
    int32_t kind = between(d, 2, 3);

    put(t, "{\"architectures\": [\"Gemma%dForCausalLM\"], ", (int)kind);
    put_sizes(t, d);
    put(t, ", \"sliding_window\": %d, \"query_pre_attn_scalar\": %d", (int)between(d, 1, TOKENS),
        (int)between(d, 1, 200));
    if (kind == 3) put(t, ", \"sliding_window_pattern\": %d", (int)between(d, 1, 3));
    if (kind == 2) {
        put(t, ", \"attn_logit_softcapping\": %d, \"final_logit_softcapping\": %d",
            (int)between(d, 2, 50), (int)between(d, 2, 50));
    }
    put(t, "}");
}

static inline void put_t5(json_text *t, dice *d)
{
    put(t, "{\"architectures\": [\"T5ForConditionalGeneration\"], \"decoder_start_token_id\": 0");
    put(t, ", \"vocab_size\": %d, \"d_model\": %d, \"d_kv\": %d, \"d_ff\": %d",
        (int)between(d, 3, 300), (int)between(d, 2, 96), (int)(2 * between(d, 1, 35)),
        (int)between(d, 1, 128));
    put(t, ", \"num_layers\": %d, \"num_decoder_layers\": %d, \"num_heads\": %d",
        (int)between(d, 1, 2), (int)between(d, 1, 3), (int)between(d, 1, 6));
    put(t, ", \"relative_attention_num_buckets\": %d, \"relative_attention_max_distance\": %d",
        (int)(4 * between(d, 1, 8)), (int)between(d, 20, 128));
    put(t, ", \"feed_forward_proj\": \"%s\", \"tie_word_embeddings\": %s}",
        dice_below(d, 2) ? "relu" : "gated-gelu", yes_or_no(d));
}

static inline json_text deal_config(dice *d)
{
    static void (*const families[])(json_text *, dice *) = {put_llama, put_mistral, put_qwen,
                                                            put_gemma, put_t5};
    json_text t = {.length = 0};

    families[dice_below(d, sizeof families / sizeof *families)](&t, d);
    return t;
}

/* ---- texts ------------------------------------------------------------------------------------
 */

/* One for each slot, in lengths of their own. */
typedef struct {
    int32_t token[SLOTS][TOKENS], count[SLOTS];
    int32_t source[SLOTS][SOURCE], source_count[SLOTS];
} texts;

static inline texts deal_texts(dice *d, int32_t ids)
{
    texts t;

    for (int32_t s = 0; s < SLOTS; s++) {
        t.count[s] = between(d, 1, TOKENS);
        t.source_count[s] = between(d, 1, SOURCE);
        for (int32_t i = 0; i < TOKENS; i++) t.token[s][i] = dice_below(d, ids);
        for (int32_t i = 0; i < SOURCE; i++) t.source[s][i] = dice_below(d, ids);
    }
    return t;
}

typedef struct {
    const spc_backend_ops *ops;
    const tiny_model *model;
    spc_backend *backend;
    spc_runner *runner;
} loaded;

static inline loaded load(const spc_backend_ops *ops, const tiny_model *model, spc_dtype kv)
{
    spc_limits limits = {.slots = SLOTS,
                         .context = CONTEXT,
                         .rows = SLOTS * TOKENS,
                         .outputs = SLOTS * TOKENS,
                         .kv = kv};
    loaded l = {.ops = ops, .model = model};
    spc_error error;

    cr_assert_eq(ops->open(&l.backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    l.runner = tiny_load_on(ops, model, l.backend, &limits);
    return l;
}

static inline void unload(loaded *l)
{
    l->ops->unload(l->runner);
    l->ops->close(l->backend);
}

/* Feed all texts, each step a piece of some of them; logits [slots, TOKENS, ids], malloc'd.
 * pieces NULL: all at once. */
static inline float *feed(const loaded *l, const texts *t, dice *pieces)
{
    size_t ids = (size_t)l->model->plan->ids;
    float *logits = calloc((size_t)(SLOTS * TOKENS) * ids, sizeof *logits);
    int32_t fed[SLOTS] = {0}, left = SLOTS;
    spc_error error;

    for (int32_t s = 0; s < SLOTS; s++) {
        l->ops->rewind(l->runner, s, 0);
        if (l->model->plan->encoder_ops == 0) continue;
        cr_assert_eq(l->ops->encode(l->runner, s, t->source[s], t->source_count[s], &error), SPC_OK,
                     "%s", error.message);
    }
    while (left > 0) {
        int32_t slot[SLOTS * TOKENS], token[SLOTS * TOKENS], position[SLOTS * TOKENS];
        int32_t output[SLOTS * TOKENS], most = pieces ? 1 << dice_below(pieces, 5) : TOKENS;
        spc_rows rows = {0, slot, token, position, output};

        left = 0;
        for (int32_t s = 0; s < SLOTS; s++) {
            int32_t piece = pieces ? dice_below(pieces, most + 1) : TOKENS;

            for (; piece > 0 && fed[s] < t->count[s]; piece--, fed[s]++, rows.count++) {
                slot[rows.count] = s;
                token[rows.count] = t->token[s][fed[s]];
                position[rows.count] = fed[s];
                output[rows.count] = s * TOKENS + fed[s];
            }
            left += fed[s] < t->count[s];
        }
        if (rows.count == 0) continue;
        cr_assert_eq(l->ops->forward(l->runner, &rows, &error), SPC_OK, "%s", error.message);
        for (int32_t i = 0; i < rows.count; i++) {
            memcpy(logits + (size_t)output[i] * ids, l->ops->logits(l->runner, output[i]),
                   ids * sizeof *logits);
        }
    }
    return logits;
}

/* The logits of a place, whatever the pieces. */
static inline float *expect_same_bits(const spc_backend_ops *ops, const tiny_model *model,
                                      spc_dtype kv, const texts *t, dice *d, const char *what)
{
    loaded l = load(ops, model, kv);
    float *whole = feed(&l, t, NULL);
    size_t bytes = (size_t)(SLOTS * TOKENS * model->plan->ids) * sizeof *whole;

    for (int32_t i = 0; i < 2; i++) {
        float *pieces = feed(&l, t, d);

        cr_assert(memcmp(pieces, whole, bytes) == 0, "%s, %s: in pieces", what, ops->name);
        free(pieces);
    }
    unload(&l);
    return whole;
}

#endif
