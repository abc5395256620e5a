/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_config.c - config.json: what is read, and every way in which it can be wrong. */
#include "host/plan/plan.h"
#include "weights/config.h"

#include "damage.h"
#include "files.h"

#include <criterion/criterion.h>
#include <string.h>

static const char no_tensors[] = "\x02\0\0\0\0\0\0\0{}";

/* Read a config.json with generation_config.json (NULL: none) of these texts. */
static spc_status read_texts(const char *config, const char *generation, spc_config *out,
                             spc_error *err)
{
    spc_blob files[] = {
        {"model.safetensors", no_tensors, sizeof no_tensors - 1},
        {"config.json", config, strlen(config)},
        {"generation_config.json", generation, generation ? strlen(generation) : 0}};
    spc_bundle *bundle;
    spc_status status;

    cr_assert_eq(spc_bundle_open_memory("m", files, generation ? 3 : 2, &bundle, err), SPC_OK);
    status = spc_config_read(bundle, out, err);
    spc_bundle_close(bundle);
    return status;
}

/* The embedded verifier's config.json with some keys replaced; null removes a key. */
static char *changed(const char *change)
{
    json_t *root = read_json(SPC_SOURCE_DIR "/weights/demo/verifier/config.json");
    json_error_t problem;
    json_t *changes = json_loads(change, 0, &problem), *value;
    const char *key;
    char *text;

    cr_assert_not_null(changes, "%s: %s", change, problem.text);
    json_object_foreach(changes, key, value)
    {
        if (json_is_null(value)) {
            cr_assert_eq(json_object_del(root, key), 0, "%s", key);
        } else {
            cr_assert_eq(json_object_set(root, key, value), 0);
        }
    }
    text = json_dumps(root, 0);
    json_decref(changes);
    json_decref(root);
    return text;
}

static spc_config config_with(const char *change, const char *generation)
{
    char *text = changed(change);
    spc_config c;
    spc_error err = {SPC_OK, "untouched"};

    cr_assert_eq(read_texts(text, generation, &c, &err), SPC_OK, "%s: %s", change, err.message);
    cr_assert_str_eq(err.message, "untouched");
    free(text);
    return c;
}

/* Changes of a config begin like this, to be of another family. */
#define FAMILY(name) "{\"architectures\":[\"" name "\"],"
#define MISTRAL      FAMILY("MistralForCausalLM")
#define MINISTRAL3   FAMILY("Ministral3ForCausalLM")
#define QWEN2        FAMILY("Qwen2ForCausalLM")
#define GRANITE      FAMILY("GraniteForCausalLM")
#define SMOLLM3      FAMILY("SmolLM3ForCausalLM")
#define PHI3         FAMILY("Phi3ForCausalLM")
#define MIXTRAL      FAMILY("MixtralForCausalLM")
#define QWEN3_MOE    FAMILY("Qwen3MoeForCausalLM")
#define GEMMA2       FAMILY("Gemma2ForCausalLM") "\"tie_word_embeddings\":null,\"hidden_act\":null,"
#define GEMMA3       FAMILY("Gemma3ForCausalLM") "\"tie_word_embeddings\":null,\"hidden_act\":null,"

Test(weights_config, the_embedded_verifier)
{
    spc_config c = config_with("{}", NULL);

    cr_assert_str_eq(c.architecture, "LlamaForCausalLM");
    cr_assert_str_eq(c.model_type, "llama");
    cr_assert_eq(c.vocab, 6144);
    cr_assert_eq(c.dim, 320);
    cr_assert_eq(c.layers, 6);
    cr_assert_eq(c.heads, 8);
    cr_assert_eq(c.kv_heads, 4);
    cr_assert_eq(c.head_dim, 64);
    cr_assert_eq(c.ffn, 896);
    cr_assert_eq(c.context, 512);
    cr_assert_eq(c.norm_eps, 1e-5);
    cr_assert_eq(c.rope.kind, SPC_ROPE_PLAIN);
    cr_assert_eq(c.rope.theta, 10000.0);
    cr_assert(!c.buffers_bfloat16);
    cr_assert(c.tied);
    cr_assert_eq(c.bos, 1);
    cr_assert_eq(c.stop_count, 1);
    cr_assert_eq(c.stop[0], 2);
}

Test(weights_config, what_may_be_absent)
{
    spc_config c =
        config_with("{\"num_key_value_heads\":null,\"head_dim\":null,\"rms_norm_eps\":null,"
                    "\"rope_theta\":null,\"tie_word_embeddings\":null,\"bos_token_id\":null,"
                    "\"eos_token_id\":null,\"hidden_act\":null}",
                    NULL);

    cr_assert_eq(c.kv_heads, 8);
    cr_assert_eq(c.head_dim, 40);
    cr_assert_eq(c.norm_eps, 1e-6);
    cr_assert_eq(c.rope.theta, 10000.0);
    cr_assert(!c.tied);
    cr_assert_eq(c.bos, -1);
    cr_assert_eq(c.stop_count, 0);
}

Test(weights_config, rope_in_its_forms)
{
    spc_config old = config_with("{\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\","
                                 "\"factor\":4.0}}",
                                 NULL);
    spc_config new = config_with(
        "{\"rope_theta\":null,\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\","
        "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":8192}}",
        NULL);
    spc_config plain = config_with("{\"rope_scaling\":{\"rope_type\":\"default\"},"
                                   "\"spc_buffers_bfloat16\":true}",
                                   NULL);

    cr_assert_eq(old.rope.kind, SPC_ROPE_LINEAR);
    cr_assert_eq(old.rope.factor, 4.0);
    cr_assert_eq(old.rope.theta, 5e5);
    cr_assert_eq(new.rope.kind, SPC_ROPE_LLAMA3);
    cr_assert_eq(new.rope.theta, 5e5);
    cr_assert_eq(new.rope.factor, 8.0);
    cr_assert_eq(new.rope.low_freq_factor, 1.0);
    cr_assert_eq(new.rope.high_freq_factor, 4.0);
    cr_assert_eq(new.rope.original_context, 8192);
    cr_assert_eq(plain.rope.kind, SPC_ROPE_PLAIN);
    cr_assert(plain.buffers_bfloat16);
}

/* Numbers and sizes at the ends of what is allowed are. */
Test(weights_config, ends_of_ranges_belong_to_them)
{
    spc_config least = config_with("{\"rope_theta\":1,\"rms_norm_eps\":0,"
                                   "\"num_hidden_layers\":1,\"bos_token_id\":0,"
                                   "\"rope_scaling\":{\"type\":\"linear\",\"factor\":1}}",
                                   NULL);
    spc_config most = config_with("{\"rope_theta\":1e12,\"rms_norm_eps\":1,"
                                  "\"rope_scaling\":{\"type\":\"linear\",\"factor\":1e6}}",
                                  NULL);

    cr_expect_eq(least.rope.theta, 1);
    cr_expect_eq(least.norm_eps, 0);
    cr_expect_eq(least.layers, 1);
    cr_expect_eq(least.bos, 0);
    cr_expect_eq(least.rope.factor, 1);
    cr_expect_eq(most.rope.theta, 1e12);
    cr_expect_eq(most.norm_eps, 1);
    cr_expect_eq(most.rope.factor, 1e6);
}

Test(weights_config, yarn_and_its_defaults)
{
    spc_config plain = config_with("{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                                   "\"original_max_position_embeddings\":128}}",
                                   NULL);
    spc_config given =
        config_with("{\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"beta_fast\":16,"
                    "\"beta_slow\":2,\"attention_factor\":0.5,\"truncate\":false}}",
                    NULL);
    spc_config scales =
        config_with("{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":40,\"mscale\":1.0,"
                    "\"mscale_all_dim\":0.5}}",
                    NULL);

    cr_assert_eq(plain.rope.kind, SPC_ROPE_YARN);
    cr_assert_eq(plain.rope.original_context, 128);
    cr_assert(plain.rope.beta_fast == 32 && plain.rope.beta_slow == 1 && plain.rope.truncate);
    cr_assert_float_eq(plain.rope.attention, 1.1386294361119891, 1e-12, "0.1 ln 4 + 1");
    cr_assert_eq(given.rope.original_context, 512, "max_position_embeddings");
    cr_assert(given.rope.beta_fast == 16 && given.rope.beta_slow == 2 && !given.rope.truncate);
    cr_assert_eq(given.rope.attention, 0.5);
    cr_assert_float_eq(scales.rope.attention, 1.3688879454113936 / 1.1844439727056968, 1e-12);
}

static int32_t sliding_layers(const spc_config *c)
{
    int32_t count = 0;

    for (int32_t i = 0; i < c->layers; i++) count += c->sliding[i];
    return count;
}

/* What a family's configuration class puts where the file says nothing. */
Test(weights_config, families_have_their_own_defaults)
{
    spc_config llama = config_with("{\"attention_bias\":true,\"mlp_bias\":true}", NULL);
    spc_config mistral = config_with(MISTRAL "\"sliding_window\":64}", NULL);
    spc_config no_window = config_with(MISTRAL "\"model_type\":\"mistral\"}", NULL);
    spc_config qwen2 = config_with(QWEN2 "\"sliding_window\":64}", NULL);
    spc_config window = config_with(QWEN2 "\"sliding_window\":64,\"use_sliding_window\":true,"
                                          "\"max_window_layers\":4}",
                                    NULL);
    spc_config qwen3 =
        config_with("{\"architectures\":[\"Qwen3ForCausalLM\"],\"attention_bias\":true}", NULL);

    cr_assert(llama.qkv_bias && llama.out_bias && llama.mlp_bias && sliding_layers(&llama) == 0);
    cr_assert(sliding_layers(&mistral) == 6 && mistral.window == 64 && !mistral.qkv_bias);
    cr_assert_eq(sliding_layers(&no_window), 0);
    cr_assert(qwen2.qkv_bias && !qwen2.out_bias && sliding_layers(&qwen2) == 0);
    cr_assert(sliding_layers(&window) == 2 && window.sliding[4] && window.sliding[5]);
    cr_assert(qwen3.qkv_bias && qwen3.out_bias && !qwen3.mlp_bias);
    cr_assert_float_eq(qwen3.attention_scale, 0.125, 1e-15, "head_dim is 64");
}

Test(weights_config, smollm3_has_layers_without_positions)
{
    spc_config usual =
        config_with(SMOLLM3 "\"tie_word_embeddings\":null,\"rope_theta\":null}", NULL);
    spc_config listed = config_with(SMOLLM3 "\"no_rope_layers\":[1,1,0,1,0,1],"
                                            "\"mlp_bias\":true,\"attention_bias\":true}",
                                    NULL);
    spc_config slides = config_with(SMOLLM3 "\"use_sliding_window\":true,\"sliding_window\":8,"
                                            "\"no_rope_layer_interval\":3}",
                                    NULL);
    spc_config idle = config_with(SMOLLM3 "\"sliding_window\":8}", NULL);

    for (int32_t i = 0; i < 6; i++) {
        cr_expect_eq(usual.unturned[i], i == 3, "%d", (int)i);
        cr_expect_eq(listed.unturned[i], i == 2 || i == 4, "%d", (int)i);
        cr_expect_eq(slides.unturned[i], i == 2 || i == 5, "%d", (int)i);
        cr_expect_eq(slides.sliding[i], slides.unturned[i], "%d", (int)i);
    }
    cr_expect(usual.tied && !usual.qkv_bias && !usual.fused);
    cr_expect_eq(usual.rope.theta, 2e6);
    cr_expect(listed.qkv_bias && listed.out_bias && listed.mlp_bias);
    cr_expect_eq(sliding_layers(&idle), 0);
}

/* Released files of Qwen3-MoE have num_experts, those that transformers 5 writes the other name. */
Test(weights_config, experts_and_what_a_token_takes_of_them)
{
    spc_config dense = config_with("{\"num_local_experts\":4,\"num_experts_per_tok\":2}", NULL);
    spc_config mixtral = config_with(MIXTRAL "\"num_local_experts\":4,\"num_experts_per_tok\":2,"
                                             "\"norm_topk_prob\":false,\"sliding_window\":9}",
                                     NULL);
    spc_config qwen = config_with(QWEN3_MOE "\"num_experts\":6,\"num_experts_per_tok\":3,"
                                            "\"moe_intermediate_size\":48,\"mlp_only_layers\":[],"
                                            "\"decoder_sparse_step\":1}",
                                  NULL);
    spc_config again = config_with(QWEN3_MOE "\"num_local_experts\":6,\"num_experts_per_tok\":6,"
                                             "\"moe_intermediate_size\":48,"
                                             "\"norm_topk_prob\":true}",
                                   NULL);

    cr_expect_eq(dense.experts, 0);
    cr_expect(mixtral.experts == 4 && mixtral.chosen == 2 && mixtral.ffn == 896);
    cr_expect(mixtral.shares_add_up, "whatever its file says");
    cr_expect_eq(sliding_layers(&mixtral), 6);
    cr_expect(qwen.experts == 6 && qwen.chosen == 3 && qwen.ffn == 48 && !qwen.shares_add_up);
    cr_expect(again.experts == 6 && again.chosen == 6 && again.shares_add_up);
}

/* What Ministral 3's files say of positions; others' do not say it, and are read without it. */
Test(weights_config, ministral_3_makes_queries_grow)
{
#define GROWTH                                                                          \
    "\"rope_parameters\":{\"rope_type\":\"yarn\",\"type\":\"yarn\",\"rope_theta\":1e6," \
    "\"factor\":16.0,\"original_max_position_embeddings\":128,\"mscale\":1.0,"          \
    "\"mscale_all_dim\":1.0,\"llama_4_scaling_beta\":0.1}}"
    spc_config grows = config_with(MINISTRAL3 "\"attention_bias\":true," GROWTH, NULL);
    spc_config slides = config_with(MINISTRAL3 "\"sliding_window\":47," GROWTH, NULL);
    spc_config other = config_with(MISTRAL GROWTH, NULL);
    spc_config still = config_with(MINISTRAL3 "\"rope_parameters\":{\"rope_type\":\"yarn\","
                                              "\"factor\":16.0}}",
                                   NULL);
    spc_config plain = config_with(MINISTRAL3 "\"rope_parameters\":{\"rope_theta\":1e6,"
                                              "\"llama_4_scaling_beta\":0}}",
                                   NULL);

    cr_expect_eq(grows.rope.kind, SPC_ROPE_YARN);
    cr_expect_eq(grows.rope.query_growth, 0.1);
    cr_expect_eq(grows.rope.original_context, 128);
    cr_expect_eq(grows.rope.attention, 1, "mscale is mscale_all_dim");
    cr_expect(!grows.qkv_bias && !grows.out_bias);
    cr_expect_eq(sliding_layers(&grows), 0);
    cr_expect_eq(sliding_layers(&slides), 6);
    cr_expect_eq(other.rope.query_growth, 0);
    cr_expect_eq(still.rope.query_growth, 0);
    cr_expect_eq(plain.rope.query_growth, 0);
    cr_expect_eq(plain.rope.kind, SPC_ROPE_PLAIN);
}

Test(weights_config, granite_multiplies_by_numbers_of_its_own)
{
    spc_config usual = config_with(GRANITE "\"sliding_window\":8}", NULL);
    spc_config given = config_with(GRANITE "\"attention_multiplier\":0.0078125,"
                                           "\"embedding_multiplier\":12,\"logits_scaling\":16,"
                                           "\"residual_multiplier\":0.22,\"mlp_bias\":true}",
                                   NULL);
    spc_config llama = config_with("{\"residual_multiplier\":0.22,\"logits_scaling\":16}", NULL);

    cr_expect_eq(usual.attention_scale, 1, "not by the length of heads");
    cr_expect_eq(sliding_layers(&usual), 0);
    cr_expect(usual.head_scale == 1 && usual.embedding_scale == 1 && usual.residual_scale == 1);
    cr_expect_eq(given.attention_scale, 0.0078125);
    cr_expect_eq(given.embedding_scale, 12);
    cr_expect_eq(given.residual_scale, 0.22);
    cr_expect_eq(given.head_scale, 0.0625);
    cr_expect(given.mlp_bias);
    cr_expect(llama.head_scale == 1 && llama.residual_scale == 1);
}

/* Phi-3's files: three in one matrix, a part of a head, divisors by the length of the context. */
Test(weights_config, phi3_turns_a_part_of_a_head_by_lists)
{
    spc_config plain = config_with(PHI3 "\"sliding_window\":47,\"attention_bias\":true}", NULL);
    spc_config old = config_with(PHI3 "\"partial_rotary_factor\":0.0625,"
                                      "\"original_max_position_embeddings\":100,"
                                      "\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1,1.5],"
                                      "\"long_factor\":[2,3]}}",
                                 NULL);
    spc_config new = config_with(PHI3 "\"rope_parameters\":{\"rope_type\":\"longrope\","
                                      "\"rope_theta\":500,\"partial_rotary_factor\":0.0625,"
                                      "\"original_max_position_embeddings\":100,"
                                      "\"attention_factor\":1.25,\"short_factor\":[1,1.5],"
                                      "\"long_factor\":[2,3]}}",
                                 NULL);

    cr_expect(plain.fused && !plain.qkv_bias && !plain.out_bias);
    cr_expect_eq(sliding_layers(&plain), 6);
    cr_expect_eq(plain.rope.pairs, 32);
    cr_expect_eq(plain.context, 512);
    for (int i = 0; i < 2; i++) {
        const spc_config *c = i ? &new : &old;

        cr_expect_eq(c->rope.kind, SPC_ROPE_LONG);
        cr_expect_eq(c->rope.pairs, 2);
        cr_expect_eq(c->rope.divisor[1], 1.5f);
        cr_expect_eq(c->rope.long_divisor[0], 2.0f);
        cr_expect_eq(c->rope.original_context, 100);
        cr_expect_eq(c->context, 100, "as long as nobody asks for more");
        cr_expect_eq(c->context_most, 512);
    }
    cr_expect_float_eq(old.rope.attention, 1.1638879, 1e-6, "sqrt(1 + ln 5.12 / ln 100)");
    cr_expect_eq(new.rope.attention, 1.25);
    cr_expect_eq(new.rope.theta, 500);
}

Test(weights_config, gemma_slides_caps_and_scales)
{
    spc_config two = config_with(GEMMA2 "\"sliding_window\":16,\"attn_logit_softcapping\":50,"
                                        "\"final_logit_softcapping\":30,"
                                        "\"query_pre_attn_scalar\":16}",
                                 NULL);
    spc_config three = config_with(GEMMA3 "\"sliding_window\":16,\"rope_theta\":null,"
                                          "\"rope_scaling\":{\"rope_type\":\"linear\","
                                          "\"factor\":8.0}}",
                                   NULL);
    spc_config listed = config_with(
        GEMMA3 "\"sliding_window\":16,\"layer_types\":[\"full_attention\",\"full_attention\","
               "\"full_attention\",\"full_attention\",\"full_attention\",\"sliding_attention\"],"
               "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":5e5},"
               "\"sliding_attention\":{\"rope_theta\":2e4}}}",
        NULL);

    cr_assert(two.sliding[0] && !two.sliding[1] && two.sliding[2] && two.window == 16);
    cr_assert(two.attention_cap == 50 && two.final_cap == 30 && !two.local);
    cr_assert_eq(two.attention_scale, 0.25);
    cr_assert_eq(two.activation, SPC_ACT_GELU_TANH);
    cr_assert(two.tied, "Gemma ties where the file says nothing");
    cr_assert(sliding_layers(&three) == 5 && !three.sliding[5], "every sixth sees all");
    cr_assert(three.local && three.rope.theta == 1e6 && three.local_rope.theta == 1e4);
    cr_assert(three.rope.kind == SPC_ROPE_LINEAR && three.local_rope.kind == SPC_ROPE_PLAIN);
    cr_assert(three.attention_cap == 0 && three.attention_scale == 0.0625, "of 256");
    cr_assert(sliding_layers(&listed) == 1 && listed.sliding[5]);
    cr_assert(listed.rope.theta == 5e5 && listed.local_rope.theta == 2e4);
}

/* As transformers reads it: rope_theta of rope_parameters, else the one beside it. */
Test(weights_config, rope_theta_has_two_places)
{
    spc_config inner =
        config_with("{\"rope_theta\":2e5,\"rope_parameters\":{\"rope_theta\":5e5}}", NULL);
    spc_config outer =
        config_with("{\"rope_theta\":2e5,\"rope_parameters\":{\"rope_type\":\"default\"}}", NULL);

    spc_config both = config_with("{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0},"
                                  "\"rope_scaling\":{\"factor\":2.0,\"rope_type\":\"linear\"}}",
                                  NULL);

    cr_assert_eq(both.rope.kind, SPC_ROPE_LINEAR, "two that are equal are one");
    cr_assert_eq(inner.rope.theta, 5e5);
    cr_assert_eq(outer.rope.theta, 2e5);
}

Test(weights_config, ids_that_end_a_sequence)
{
    spc_config list = config_with("{\"eos_token_id\":[7,8,9]}", NULL);
    spc_config other = config_with("{}", "{\"eos_token_id\":[5,6]}");
    spc_config silent = config_with("{}", "{\"temperature\":0.6}");

    cr_assert_eq(list.stop_count, 3);
    cr_assert_eq(list.stop[2], 9);
    cr_assert_eq(other.stop_count, 2, "generation_config.json comes first");
    cr_assert_eq(other.stop[0], 5);
    cr_assert_eq(silent.stop_count, 1, "and says nothing where it says nothing");
}

Test(weights_config, what_is_wrong_is_named_with_what_was_expected_and_found)
{
    static const struct {
        const char *change, *expected, *found;
    } cases[] = {
        {"{\"architectures\":null}", "architectures", "none"},
        {"{\"architectures\":[]}", "architectures", "another type"},
        {"{\"architectures\":\"LlamaForCausalLM\"}", "architectures", "found 'LlamaForCausalLM'"},
        {"{\"model_type\":5}", "model_type", "found 5"},
        {"{\"vocab_size\":null}", "vocab_size: expected a whole number of 1 to", "none"},
        {"{\"vocab_size\":0}", "vocab_size", "found 0"},
        {"{\"vocab_size\":-5}", "vocab_size", "found -5"},
        {"{\"vocab_size\":4000000000}", "vocab_size", "found 4000000000"},
        {"{\"vocab_size\":6144.5}", "vocab_size", "found 6144.5"},
        {"{\"vocab_size\":\"6144\"}", "vocab_size", "found '6144'"},
        {"{\"hidden_size\":null}", "hidden_size", "none"},
        {"{\"hidden_size\":100000000}", "hidden_size", "found 100000000"},
        {"{\"num_hidden_layers\":0}", "num_hidden_layers", "found 0"},
        {"{\"num_attention_heads\":null}", "num_attention_heads", "none"},
        {"{\"num_hidden_layers\":null}", "num_hidden_layers", "none"},
        {"{\"intermediate_size\":null}", "intermediate_size", "none"},
        {"{\"max_position_embeddings\":null}", "max_position_embeddings", "none"},
        {"{\"num_key_value_heads\":3}", "num_key_value_heads", "found 3"},
        {"{\"num_key_value_heads\":16}", "num_key_value_heads", "found 16"},
        {"{\"head_dim\":33}", "head_dim", "found 33"},
        {"{\"head_dim\":0}", "head_dim", "found 0"},
        {"{\"intermediate_size\":true}", "intermediate_size", "found true"},
        {"{\"max_position_embeddings\":1}", "max_position_embeddings", "found 1"},
        {"{\"rms_norm_eps\":-1}", "rms_norm_eps", "found -1"},
        {"{\"rope_theta\":0}", "rope_theta", "found 0"},
        {"{\"rope_scaling\":{\"rope_type\":\"proportional\",\"factor\":2}}", "yarn, longrope",
         "proportional"},
        {"{\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":2}}",
         "short_factor: expected an array of 32 numbers", "none"},
        {MINISTRAL3 "\"rope_theta\":1e6}", "rope_parameters: expected an object", "none"},
        {MINISTRAL3 "\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,"
                    "\"llama_4_scaling_beta\":0.1}}",
         "llama_4_scaling_beta: expected 0 (the rope_type is not yarn)", "found 0.1"},
        {MINISTRAL3 "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":8,"
                    "\"llama_4_scaling_beta\":-1}}",
         "llama_4_scaling_beta", "found -1"},
        {GRANITE "\"residual_multiplier\":0}", "residual_multiplier", "found 0"},
        {GRANITE "\"logits_scaling\":0}", "logits_scaling", "found 0"},
        {GRANITE "\"attention_multiplier\":\"x\"}", "attention_multiplier", "found 'x'"},
        {GRANITE "\"embedding_multiplier\":-1}", "embedding_multiplier", "found -1"},
        {PHI3 "\"partial_rotary_factor\":0.02}", "partial_rotary_factor: expected so much",
         "found 0.02"},
        {PHI3 "\"partial_rotary_factor\":0.05}", "partial_rotary_factor: expected so much",
         "found 0.05"},
        {PHI3 "\"original_max_position_embeddings\":1}", "original_max_position_embeddings",
         "found 1"},
        {SMOLLM3 "\"no_rope_layers\":[1,1]}", "no_rope_layers: expected 6 times 0 or 1",
         "another type"},
        {SMOLLM3 "\"no_rope_layers\":[1,1,2,1,1,1]}", "no_rope_layers: expected 6 times 0 or 1",
         "another type"},
        {SMOLLM3 "\"no_rope_layer_interval\":0}", "no_rope_layer_interval", "found 0"},
        {MIXTRAL "\"num_experts_per_tok\":2}", "num_local_experts", "none"},
        {MIXTRAL "\"num_local_experts\":4}", "num_experts_per_tok", "none"},
        {MIXTRAL "\"num_local_experts\":4,\"num_experts_per_tok\":5}",
         "num_experts_per_tok: expected a whole number of 1 to 4", "found 5"},
        {MIXTRAL "\"num_local_experts\":100,\"num_experts_per_tok\":65}", "of 1 to 64", "found 65"},
        {MIXTRAL "\"num_local_experts\":65536}", "num_local_experts", "found 65536"},
        {QWEN3_MOE "\"num_experts\":4,\"num_experts_per_tok\":2}", "moe_intermediate_size", "none"},
        {QWEN3_MOE "\"num_experts\":4,\"mlp_only_layers\":[1]}", "mlp_only_layers: expected []",
         "another type"},
        {QWEN3_MOE "\"num_experts\":4,\"decoder_sparse_step\":2}", "decoder_sparse_step",
         "found 2"},
        {"{\"rope_scaling\":{\"rope_type\":\"yarn\"}}", "factor", "none"},
        {"{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":1}}",
         "beta_fast: expected more than beta_slow", "found 1"},
        {"{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"truncate\":0}}", "truncate",
         "found 0"},
        {"{\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", "partial_rotary_factor",
         "found 0.5"},
        {"{\"rope_parameters\":{\"full_attention\":{}}}", "sliding_attention: expected an object",
         "none"},
        {"{\"rope_scaling\":{\"rope_type\":\"linear\"}}", "factor", "none"},
        {"{\"rope_scaling\":{\"rope_type\":5,\"factor\":2}}", "rope_type: expected a name",
         "found 5"},
        {"{\"rope_scaling\":{\"type\":true}}", "type: expected a name", "found true"},
        {"{\"rope_scaling\":\"linear\"}", "rope_scaling: expected an object", "found 'linear'"},
        {"{\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2.0},"
         "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}}",
         "rope_parameters and rope_scaling: expected one of them, or two that are equal",
         "take out the one that does not hold"},
        {"{\"rope_parameters\":[]}", "rope_parameters: expected an object", "another type"},
        {"{\"rope_parameters\":{\"rope_theta\":\"1e4\"}}", "rope_theta", "found '1e4'"},
        {"{\"spc_buffers_bfloat16\":1}", "spc_buffers_bfloat16: expected true or false", "found 1"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}",
         "more than low_freq_factor", "found 4"},
        {"{\"attention_bias\":1}", "attention_bias: expected true or false", "found 1"},
        {"{\"mlp_bias\":\"no\"}", "mlp_bias", "found 'no'"},
        {"{\"hidden_act\":\"gelu\"}", "hidden_act: expected 'silu'", "found 'gelu'"},
        {MISTRAL "\"sliding_window\":0}", "sliding_window", "found 0"},
        {MISTRAL "\"layer_types\":[\"full_attention\"]}", "layer_types: expected 6 times",
         "another type"},
        {QWEN2 "\"use_sliding_window\":true,\"max_window_layers\":-1}", "max_window_layers",
         "found -1"},
        {GEMMA2 "\"hidden_activation\":\"relu\"}", "hidden_activation", "found 'relu'"},
        {GEMMA2 "\"query_pre_attn_scalar\":0}", "query_pre_attn_scalar", "found 0"},
        {GEMMA2 "\"attn_logit_softcapping\":-1}", "attn_logit_softcapping", "found -1"},
        {GEMMA2 "\"model_type\":\"gemma2\"}", "sliding_window", "none"},
        {GEMMA3 "\"sliding_window\":8,\"use_bidirectional_attention\":true}",
         "use_bidirectional_attention", "found true"},
        {"{\"tie_word_embeddings\":1}", "tie_word_embeddings", "found 1"},
        {"{\"bos_token_id\":6144}", "bos_token_id", "found 6144"},
        {"{\"eos_token_id\":6144}", "eos_token_id", "found 6144"},
        {"{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "at most 8", "another type"},
        {"{\"eos_token_id\":[1,-1]}", "eos_token_id", "another type"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = changed(cases[i].change);
        spc_config c;
        spc_error err = {SPC_OK, ""};

        memset(&c, 0x5a, sizeof c);
        cr_assert_eq(read_texts(text, NULL, &c, &err), SPC_EMODEL, "%s", cases[i].change);
        cr_assert_not_null(strstr(err.message, "m/config.json"), "%s", err.message);
        cr_assert_not_null(strstr(err.message, cases[i].expected), "%s: %s", cases[i].change,
                           err.message);
        cr_assert_not_null(strstr(err.message, cases[i].found), "%s: %s", cases[i].change,
                           err.message);
        cr_assert_eq(c.vocab, 0x5a5a5a5a, "%s: out was written", cases[i].change);
        free(text);
    }
}

Test(weights_config, what_is_no_json_object)
{
    static const char *const texts[] = {"", "{", "[]", "{\"a\":1,\"a\":2}"};
    char *good = changed("{}");
    spc_config c;
    spc_error err;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cr_assert_eq(read_texts(texts[i], NULL, &c, &err), SPC_EFORMAT, "%s", texts[i]);
        cr_assert_eq(read_texts(good, texts[i], &c, &err), SPC_EFORMAT, "generation %s", texts[i]);
        cr_assert_not_null(strstr(err.message, "m/generation_config.json"), "%s", err.message);
    }
    free(good);
}

static void expect_quantised(const char *value, spc_status want, const char *said)
{
    char change[256], *text;
    spc_config c;
    spc_error err = {SPC_OK, ""};

    (void)snprintf(change, sizeof change, "{\"quantization_config\": %s}", value);
    text = changed(change);
    cr_assert_eq(read_texts(text, NULL, &c, &err), want, "%s: %s", value, err.message);
    cr_assert_not_null(strstr(err.message, said), "%s: %s", value, err.message);
    if (want == SPC_OK) cr_assert(c.scaled);
    free(text);
}

/* compressed-tensors whose one group has such weights. */
static void expect_integers(const char *weights, spc_status want)
{
    char text[256];

    (void)snprintf(text, sizeof text,
                   "{\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\","
                   " \"config_groups\": {\"group_7\": {\"weights\": %s}}}",
                   weights);
    expect_quantised(text, want, want == SPC_OK ? "" : "'group_7'");
}

Test(weights_config, quantised_checkpoints_are_known_or_refused)
{
    expect_quantised("{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}", SPC_OK, "");
    expect_quantised("{\"quant_method\": \"fbgemm_fp8\"}", SPC_OK, "");
    expect_quantised("{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\"}",
                     SPC_OK, "");
    expect_quantised("{\"quant_method\": \"fp8\", \"weight_block_size\": [64, 128]}", SPC_EMODEL,
                     "[128, 128]");
    expect_quantised("{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\"}",
                     SPC_EMODEL, "pack-quantized");
    expect_quantised("{\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\"}",
                     SPC_EMODEL, "config_groups");
    expect_integers("{\"num_bits\": 8, \"type\": \"int\", \"symmetric\": true,"
                    " \"strategy\": \"channel\"}",
                    SPC_OK);
    expect_integers("{\"num_bits\": 8, \"type\": \"int\", \"strategy\": \"tensor\"}", SPC_OK);
    expect_integers("{\"num_bits\": 4, \"type\": \"int\", \"strategy\": \"channel\"}", SPC_EMODEL);
    expect_integers("{\"num_bits\": 8, \"type\": \"float\", \"strategy\": \"channel\"}",
                    SPC_EMODEL);
    expect_integers("{\"num_bits\": 8, \"type\": \"int\", \"symmetric\": false,"
                    " \"strategy\": \"channel\"}",
                    SPC_EMODEL);
    expect_integers("{\"num_bits\": 8, \"type\": \"int\", \"strategy\": \"group\"}", SPC_EMODEL);
    expect_integers("null", SPC_EMODEL);
    expect_quantised("{\"quant_method\": \"gptq\", \"bits\": 4}", SPC_EMODEL, "'gptq'");
    expect_quantised("{}", SPC_EMODEL, "none named");
    expect_quantised("3", SPC_EMODEL, "quantization_config");
}

/* ---- damaged files ----------------------------------------------------------------------------
 */

/* A plan, or one line that says why there is none. */
static bool makes_a_plan(void *user, const char *text, size_t bytes)
{
    spc_blob files[] = {{"model.safetensors", no_tensors, sizeof no_tensors - 1},
                        {"config.json", text, bytes}};
    spc_error err = {SPC_OK, ""};
    spc_bundle *bundle;
    spc_config config;
    spc_plan *plan = NULL;
    spc_status status;

    (void)user;
    cr_assert_eq(spc_bundle_open_memory("damaged", files, 2, &bundle, &err), SPC_OK);
    status = spc_config_read(bundle, &config, &err);
    if (status == SPC_OK) status = spc_plan_build(&config, "damaged", &plan, &err);
    spc_plan_close(plan);
    spc_bundle_close(bundle);
    if (status == SPC_OK) return true;
    cr_assert(err.message[0] && !strchr(err.message, '\n'), "'%s'", err.message);
    return false;
}

Test(weights_config, every_damaged_byte_is_refused_or_harmless)
{
    static const char *const names[] = {"fp8",
                                        "gemma3",
                                        "gemma3-images",
                                        "granite",
                                        "llama",
                                        "ministral3-images",
                                        "mistral-window",
                                        "phi3-long",
                                        "qwen3",
                                        "qwen3-moe",
                                        "rope-yarn",
                                        "smollm3",
                                        "t5-relu"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        size_t bytes;

        (void)snprintf(path, sizeof path, "%s/fuzz/config/%s.json", SPC_TEST_VECTORS, names[i]);

        char *text = read_file(path, &bytes);

        while (bytes > 0 && text[bytes - 1] != '}') bytes--; /* the end of the line may miss */
        cr_expect(damage_try(makes_a_plan, NULL, text, bytes), "%s", names[i]);
        damage_cut(makes_a_plan, NULL, text, bytes);
        (void)damage_bytes(makes_a_plan, NULL, text, bytes, bytes);
        free(text);
    }
}
