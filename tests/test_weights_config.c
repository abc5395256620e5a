/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_config.c - config.json: what is read, and every way in which it can be wrong. */
#include "weights/config.h"

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
    cr_assert(!c.rope.bfloat16);
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
                                   "\"spc_rope_bfloat16\":true}",
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
    cr_assert(plain.rope.bfloat16);
}

/* As transformers reads it: rope_theta of rope_parameters, else the one beside it. */
Test(weights_config, rope_theta_has_two_places)
{
    spc_config inner =
        config_with("{\"rope_theta\":2e5,\"rope_parameters\":{\"rope_theta\":5e5}}", NULL);
    spc_config outer =
        config_with("{\"rope_theta\":2e5,\"rope_parameters\":{\"rope_type\":\"default\"}}", NULL);

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
        {"{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", "linear, llama3", "yarn"},
        {"{\"rope_scaling\":{\"rope_type\":\"linear\"}}", "factor", "none"},
        {"{\"rope_scaling\":{\"rope_type\":5,\"factor\":2}}", "rope_type: expected a name",
         "found 5"},
        {"{\"rope_scaling\":{\"type\":true}}", "type: expected a name", "found true"},
        {"{\"rope_scaling\":\"linear\"}", "rope_scaling: expected an object", "found 'linear'"},
        {"{\"rope_parameters\":[]}", "rope_parameters: expected an object", "another type"},
        {"{\"rope_parameters\":{\"rope_theta\":\"1e4\"}}", "rope_theta", "found '1e4'"},
        {"{\"spc_rope_bfloat16\":1}", "spc_rope_bfloat16: expected true or false", "found 1"},
        {"{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}",
         "more than low_freq_factor", "found 4"},
        {"{\"attention_bias\":true}", "attention_bias: expected false", "found true"},
        {"{\"mlp_bias\":true}", "mlp_bias: expected false", "found true"},
        {"{\"hidden_act\":\"gelu\"}", "hidden_act: expected 'silu'", "found 'gelu'"},
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
