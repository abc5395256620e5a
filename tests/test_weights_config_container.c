/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_config_container.c - config.json of models of text and images: the text model's part
 * of it, and what is not there. */
#include "weights/config.h"

#include <criterion/criterion.h>
#include <string.h>

/* A checkpoint that is empty, or has a head of no elements. */
static const char no_tensors[] = "\x02\0\0\0\0\0\0\0{}";
static const char head[] = "\x52\0\0\0\0\0\0\0"
                           "{\"language_model.lm_head.weight\":"
                           "{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}";

static spc_status read_with(const char *weights, size_t bytes, const char *config, spc_config *out,
                            spc_error *err)
{
    spc_blob files[] = {{"model.safetensors", weights, bytes},
                        {"config.json", config, strlen(config)}};
    spc_bundle *bundle;
    spc_status status;

    cr_assert_eq(spc_bundle_open_memory("m", files, 2, &bundle, err), SPC_OK, "%s", err->message);
    status = spc_config_read(bundle, out, err);
    spc_bundle_close(bundle);
    return status;
}

static spc_config read_config(const char *config)
{
    spc_config c;
    spc_error err;

    cr_assert_eq(read_with(no_tensors, sizeof no_tensors - 1, config, &c, &err), SPC_OK, "%s: %s",
                 config, err.message);
    return c;
}

static void expect_refused(const char *config, const char *words)
{
    spc_config c;
    spc_error err;

    cr_assert_eq(read_with(no_tensors, sizeof no_tensors - 1, config, &c, &err), SPC_EMODEL, "%s",
                 config);
    cr_assert_not_null(strstr(err.message, words), "expected '%s' in: %s", words, err.message);
}

/* Gemma 3 4B says no more than this. */
#define GEMMA3 "{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"model_type\":\"gemma3\","
#define GEMMA3_TEXT                                                      \
    "\"text_config\":{\"hidden_size\":2560,\"intermediate_size\":10240," \
    "\"model_type\":\"gemma3_text\",\"num_hidden_layers\":34,"           \
    "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},\"sliding_window\":1024}"
#define MISTRAL3 "{\"architectures\":[\"Mistral3ForConditionalGeneration\"],"

Test(weights_config_container, gemma_3_leaves_out_what_its_class_has)
{
    spc_config c = read_config(GEMMA3 "\"eos_token_id\":[1,106]," GEMMA3_TEXT "}");

    cr_expect_str_eq(c.architecture, "Gemma3ForCausalLM");
    cr_expect_str_eq(c.model_type, "gemma3_text");
    cr_expect(c.contained);
    cr_expect_eq(c.vocab, 262208);
    cr_expect_eq(c.dim, 2560);
    cr_expect_eq(c.layers, 34);
    cr_expect_eq(c.heads, 8);
    cr_expect_eq(c.kv_heads, 4);
    cr_expect_eq(c.head_dim, 256);
    cr_expect_eq(c.ffn, 10240);
    cr_expect_eq(c.context, 131072);
    cr_expect_eq(c.window, 1024);
    cr_expect_eq(c.rope.kind, SPC_ROPE_LINEAR);
    cr_expect_eq(c.rope.factor, 8);
    cr_expect_eq(c.rope.theta, 1e6);
    cr_expect_eq(c.local_rope.kind, SPC_ROPE_PLAIN);
    cr_expect_eq(c.local_rope.theta, 1e4);
    cr_expect_eq(c.attention_scale, 1.0 / 16);
    cr_expect_eq(c.activation, SPC_ACT_GELU_TANH);
    for (int32_t i = 0; i < c.layers; i++) cr_expect_eq(c.sliding[i], (i + 1) % 6 != 0);
    cr_expect_eq(c.stop_count, 2, "of the whole model");
    cr_expect_eq(c.stop[1], 106);
    cr_expect(c.tied);
}

Test(weights_config_container, the_text_model_is_asked_before_the_whole)
{
    spc_config c =
        read_config(MISTRAL3 "\"eos_token_id\":7,\"bos_token_id\":5,\"hidden_size\":3,"
                             "\"text_config\":{\"model_type\":\"mistral\",\"hidden_size\":64,"
                             "\"num_attention_heads\":4,\"num_key_value_heads\":2,"
                             "\"sliding_window\":null,\"eos_token_id\":2}}");

    cr_expect_str_eq(c.architecture, "MistralForCausalLM");
    cr_expect_eq(c.dim, 64);
    cr_expect_eq(c.layers, 32);
    cr_expect_eq(c.stop[0], 2);
    cr_expect_eq(c.bos, 5);
    cr_expect_eq(c.window, 0);
}

/* The same container, of two years. */
Test(weights_config_container, the_type_of_the_text_model_says_which_it_is)
{
    spc_config c = read_config(MISTRAL3 "\"text_config\":{\"model_type\":\"ministral3\","
                                        "\"hidden_size\":3072,\"tie_word_embeddings\":true,"
                                        "\"rope_parameters\":{\"rope_type\":\"yarn\","
                                        "\"factor\":16,\"rope_theta\":1e6,\"mscale\":1.0,"
                                        "\"original_max_position_embeddings\":16384,"
                                        "\"mscale_all_dim\":1,\"llama_4_scaling_beta\":0.1}}}");

    cr_expect_str_eq(c.architecture, "Ministral3ForCausalLM");
    cr_expect_str_eq(c.model_type, "ministral3");
    cr_expect_eq(c.vocab, 131072);
    cr_expect_eq(c.dim, 3072);
    cr_expect_eq(c.layers, 34);
    cr_expect_eq(c.heads, 32);
    cr_expect_eq(c.kv_heads, 8);
    cr_expect_eq(c.head_dim, 128);
    cr_expect_eq(c.ffn, 14336);
    cr_expect_eq(c.context, 262144);
    cr_expect_eq(c.norm_eps, 1e-5);
    cr_expect_eq(c.window, 0);
    cr_expect_eq(c.rope.query_growth, 0.1);
    cr_expect_eq(c.rope.original_context, 16384);
}

/* Files of different years tie it in different places, and by default. */
Test(weights_config_container, a_head_in_the_checkpoint_is_the_head)
{
    static const char config[] =
        MISTRAL3 "\"tie_word_embeddings\":true,\"text_config\":{\"model_type\":\"mistral\"}}";
    spc_config c;
    spc_error err;

    cr_assert_eq(read_with(head, sizeof head - 1, config, &c, &err), SPC_OK, "%s", err.message);
    cr_expect(!c.tied);
    cr_expect(read_config(config).tied);
}

Test(weights_config_container, what_is_wrong_is_named)
{
    expect_refused(GEMMA3 "\"text_config\":3}", "text_config: expected an object");
    expect_refused(GEMMA3 "\"hidden_size\":2560}",
                   "expected a model_type 'gemma3_text', found none");
    expect_refused(MISTRAL3 "\"text_config\":{\"model_type\":\"mistral4\"}}",
                   "expected a model_type 'mistral' or 'ministral3', found mistral4");
    expect_refused(GEMMA3 "\"text_config\":{\"model_type\":\"gemma4\"}}",
                   "expected a model_type 'gemma3_text', found gemma4");
    expect_refused(GEMMA3 "\"text_config\":{\"model_type\":\"gemma3_text\",\"hidden_size\":\"x\"}}",
                   "m/config.json: text_config: hidden_size: expected");
    expect_refused(GEMMA3 "\"quantization_config\":{\"quant_method\":\"gptq\"}," GEMMA3_TEXT "}",
                   "'gptq'");
}
