/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_config_t5.c - config.json of encoder-decoders: what is read, what stands in for what
 * is not there, and what is refused. */
#include "weights/config.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Read a T5 config of these keys; head: with an lm_head.weight in the checkpoint. */
static spc_status read_keys(const char *keys, bool head, spc_config *out, spc_error *err)
{
    static const char none[] = "\x02\0\0\0\0\0\0\0{}";
    static const char one[] =
        "{\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    char text[1024], file[8 + 72 + 4] = {0};
    spc_blob files[2] = {{"model.safetensors", none, sizeof none - 1}};
    spc_bundle *bundle;
    spc_status status;

    if (head) { /* the header padded to 72 bytes, and one float */
        memset(file + 8, ' ', 72);
        memcpy(file + 8, one, sizeof one - 1);
        file[0] = 72;
        files[0] = (spc_blob){"model.safetensors", file, 8 + 72 + 4};
    }
    (void)snprintf(text, sizeof text,
                   "{\"architectures\":[\"T5ForConditionalGeneration\"],"
                   "\"decoder_start_token_id\":0%s%s}",
                   *keys ? "," : "", keys);
    files[1] = (spc_blob){"config.json", text, strlen(text)};
    cr_assert_eq(spc_bundle_open_memory("m", files, 2, &bundle, err), SPC_OK, "%s", err->message);
    status = spc_config_read(bundle, out, err);
    spc_bundle_close(bundle);
    return status;
}

static spc_config config_of(const char *keys, bool head)
{
    spc_config c;
    spc_error err = {SPC_OK, ""};

    cr_assert_eq(read_keys(keys, head, &c, &err), SPC_OK, "%s: %s", keys, err.message);
    return c;
}

Test(weights_config_t5, what_is_left_out_is_what_the_reference_puts_there)
{
    spc_config c = config_of("", false);

    cr_expect(c.vocab == 32128 && c.dim == 512 && c.head_dim == 64 && c.ffn == 2048);
    cr_expect(c.heads == 8 && c.kv_heads == 8 && c.encoder_layers == 6 && c.layers == 6);
    cr_expect(c.buckets == 32 && c.bucket_distance == 128 && c.context == 512);
    cr_expect(c.activation == SPC_ACT_RELU && !c.gated);
    cr_expect(c.tied && c.start == 0 && c.bos == -1);
    cr_expect_float_eq(c.head_scale, 1 / sqrt(512), 1e-12);
    cr_expect_eq(c.attention_scale, 1);
    cr_expect_eq(c.norm_eps, 1e-6);
    cr_expect_eq(c.context_most, SPC_CONFIG_CONTEXT, "positions are relative");
}

Test(weights_config_t5, every_key_is_read)
{
    spc_config c = config_of(
        "\"vocab_size\":100,\"d_model\":48,\"d_kv\":7,\"d_ff\":96,\"num_layers\":3,"
        "\"num_decoder_layers\":2,\"num_heads\":4,\"relative_attention_num_buckets\":16,"
        "\"relative_attention_max_distance\":24,\"n_positions\":33,\"layer_norm_epsilon\":1e-5,"
        "\"feed_forward_proj\":\"gated-gelu\",\"eos_token_id\":1",
        false);

    cr_expect(c.vocab == 100 && c.dim == 48 && c.head_dim == 7 && c.ffn == 96 && c.heads == 4);
    cr_expect(c.encoder_layers == 3 && c.layers == 2 && c.buckets == 16);
    cr_expect(c.bucket_distance == 24 && c.context == 33 && c.norm_eps == 1e-5);
    cr_expect(c.activation == SPC_ACT_GELU_TANH && c.gated);
    cr_expect(c.stop_count == 1 && c.stop[0] == 1);
    c = config_of("\"feed_forward_proj\":\"gated-silu\"", false);
    cr_expect(c.activation == SPC_ACT_SILU && c.gated);
}

/* Old files say with the tie whether logits are scaled; new ones always "tied". */
Test(weights_config_t5, the_head_is_tied_and_scaled_as_the_checkpoint_was_trained)
{
    static const struct {
        const char *keys;
        bool in_file, tied, scaled;
    } cases[] = {
        {"\"tie_word_embeddings\":true", false, true, true},
        {"\"tie_word_embeddings\":true", true, true, true},
        {"\"tie_word_embeddings\":false", true, false, false},
        {"\"tie_word_embeddings\":false", false, false, false},
        {"\"tie_word_embeddings\":true,\"scale_decoder_outputs\":true", false, true, true},
        {"\"tie_word_embeddings\":true,\"scale_decoder_outputs\":false", false, true, false},
        {"\"tie_word_embeddings\":true,\"scale_decoder_outputs\":false", true, false, false}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_config c = config_of(cases[i].keys, cases[i].in_file);

        cr_expect_eq(c.tied, cases[i].tied, "case %d", (int)i);
        cr_expect_eq(c.head_scale < 1, cases[i].scaled, "case %d", (int)i);
    }
}

Test(weights_config_t5, what_cannot_be_is_refused_by_name)
{
    static const struct {
        const char *keys, *word;
    } cases[] = {{"\"d_model\":0", "d_model"},
                 {"\"d_kv\":131072", "d_kv"},
                 {"\"num_layers\":0", "num_layers"},
                 {"\"num_decoder_layers\":1025", "num_decoder_layers"},
                 {"\"num_heads\":\"8\"", "num_heads"},
                 {"\"relative_attention_num_buckets\":2", "relative_attention_num_buckets"},
                 {"\"relative_attention_num_buckets\":6", "multiple of 4"},
                 {"\"relative_attention_max_distance\":16", "relative_attention_max_distance"},
                 {"\"feed_forward_proj\":\"gelu\"", "feed_forward_proj"},
                 {"\"feed_forward_proj\":\"gated-relu\"", "'gated-relu'"},
                 {"\"layer_norm_epsilon\":2", "layer_norm_epsilon"},
                 {"\"tie_word_embeddings\":1", "tie_word_embeddings"},
                 {"\"scale_decoder_outputs\":\"no\"", "scale_decoder_outputs"},
                 {"\"n_positions\":1", "n_positions"},
                 {"\"vocab_size\":7,\"eos_token_id\":7", "eos_token_id"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_config c;
        spc_error err = {SPC_OK, ""};

        cr_expect_eq(read_keys(cases[i].keys, false, &c, &err), SPC_EMODEL, "%s", cases[i].keys);
        cr_expect(strstr(err.message, cases[i].word) && strstr(err.message, "m/config.json"),
                  "%s: %s", cases[i].keys, err.message);
    }
}

Test(weights_config_t5, a_decoder_must_have_a_token_to_begin_with)
{
    static const char none[] = "\x02\0\0\0\0\0\0\0{}";
    static const char *const texts[] = {
        "{\"architectures\":[\"T5ForConditionalGeneration\"]}",
        "{\"architectures\":[\"T5ForConditionalGeneration\"],\"decoder_start_token_id\":32128}"};

    for (int i = 0; i < 2; i++) {
        spc_blob files[] = {{"model.safetensors", none, sizeof none - 1},
                            {"config.json", texts[i], strlen(texts[i])}};
        spc_bundle *bundle;
        spc_config c;
        spc_error err;

        cr_assert_eq(spc_bundle_open_memory("m", files, 2, &bundle, &err), SPC_OK);
        cr_expect_eq(spc_config_read(bundle, &c, &err), SPC_EMODEL);
        cr_expect(strstr(err.message, "decoder_start_token_id"), "%s", err.message);
        spc_bundle_close(bundle);
    }
}
