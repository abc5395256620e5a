/* SPDX-License-Identifier: Apache-2.0 */
/* The exact law of what the engine emits over models that are run, not looked up: tiny random pairs
 * of an encoder-decoder and of a decoder with windows, caps and norms.  Every outcome of the rounds
 * is walked through, as in test_host_law.c. */
#include "tiny.h"
#include "toy.h"

#include "host/cpu/cpu_round.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { LENGTH = 3, VOCAB = 3, SEQUENCES = 27, PREFIXES = 1 + 3 + 9, CONTEXT = 16, SPARE = 1 };

/* Two configs of a family, for the drafter and for the verifier. */
typedef struct {
    const char *name, *drafter, *verifier;
} family;

static const family families[] = {
    {"T5",
     "{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 3, \"d_model\": 16,"
     " \"d_kv\": 6, \"d_ff\": 24, \"num_layers\": 1, \"num_heads\": 2,"
     " \"relative_attention_num_buckets\": 4, \"relative_attention_max_distance\": 5,"
     " \"decoder_start_token_id\": 0}",
     "{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 3, \"d_model\": 24,"
     " \"d_kv\": 8, \"d_ff\": 32, \"num_layers\": 2, \"num_heads\": 3,"
     " \"relative_attention_num_buckets\": 4, \"relative_attention_max_distance\": 3,"
     " \"feed_forward_proj\": \"gated-gelu\", \"tie_word_embeddings\": false,"
     " \"decoder_start_token_id\": 0}"},
    {"Gemma 2",
     "{\"architectures\": [\"Gemma2ForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 16,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
     " \"head_dim\": 6, \"intermediate_size\": 24, \"max_position_embeddings\": 16,"
     " \"sliding_window\": 2, \"query_pre_attn_scalar\": 6, \"attn_logit_softcapping\": 5,"
     " \"final_logit_softcapping\": 3}",
     "{\"architectures\": [\"Gemma2ForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 24,"
     " \"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
     " \"head_dim\": 8, \"intermediate_size\": 32, \"max_position_embeddings\": 16,"
     " \"sliding_window\": 3, \"query_pre_attn_scalar\": 8, \"attn_logit_softcapping\": 5,"
     " \"final_logit_softcapping\": 4}"},
    {"Phi-3, drafted by SmolLM3",
     "{\"architectures\": [\"SmolLM3ForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 16,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
     " \"head_dim\": 6, \"intermediate_size\": 24, \"max_position_embeddings\": 16,"
     " \"no_rope_layer_interval\": 2}",
     "{\"architectures\": [\"Phi3ForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 24,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
     " \"head_dim\": 8, \"intermediate_size\": 32, \"max_position_embeddings\": 16,"
     " \"sliding_window\": 4, \"partial_rotary_factor\": 0.5,"
     " \"original_max_position_embeddings\": 4, \"rope_scaling\": {\"type\": \"longrope\","
     " \"short_factor\": [1, 1.5], \"long_factor\": [2, 9]}}"},
    {"Qwen3-MoE, drafted by Mixtral",
     "{\"architectures\": [\"MixtralForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 16,"
     " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
     " \"head_dim\": 6, \"intermediate_size\": 24, \"max_position_embeddings\": 16,"
     " \"num_local_experts\": 3, \"num_experts_per_tok\": 1}",
     "{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 24,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
     " \"head_dim\": 8, \"intermediate_size\": 32, \"max_position_embeddings\": 16,"
     " \"num_experts\": 5, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 12}"},
    {"Granite, drafted by Ministral 3",
     "{\"architectures\": [\"Ministral3ForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 16,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
     " \"head_dim\": 6, \"intermediate_size\": 24, \"max_position_embeddings\": 16,"
     " \"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 8, \"llama_4_scaling_beta\": 0.5,"
     " \"original_max_position_embeddings\": 2}}",
     "{\"architectures\": [\"GraniteForCausalLM\"], \"vocab_size\": 3, \"hidden_size\": 24,"
     " \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
     " \"head_dim\": 8, \"intermediate_size\": 32, \"max_position_embeddings\": 16,"
     " \"attention_multiplier\": 0.5, \"embedding_multiplier\": 2, \"residual_multiplier\": 0.5,"
     " \"logits_scaling\": 2}"}};
enum { FAMILIES = sizeof families / sizeof *families };

static const char *const rules[] = {"strict",
                                    "lossy:alpha=0.3,beta=solve",
                                    "chow:alpha=0.5",
                                    "diff:alpha=0.05",
                                    "opt:alpha=0.2",
                                    "opt-log:alpha=0.1",
                                    "truncate:alpha=0.5",
                                    "mentored:kl=0.05",
                                    "head:alpha=0.3",
                                    "typical:eps=0.09",
                                    "ensemble:w=0.4",
                                    "token-v1:alpha=0.2",
                                    "token-v2:alpha=0.2",
                                    "token-v3:alpha=0.5",
                                    "bild:alpha=1",
                                    "token-chow:alpha=0.5",
                                    "verifier-only",
                                    "drafter-only"};
enum { RULES = sizeof rules / sizeof *rules };

static const int32_t text[] = {1, 0, 2, 2, 1};
enum { TEXT = sizeof text / sizeof *text };

/* ---- the CPU backend with scripted chance ---- */

static const spc_chance *chance;

static spc_status scripted_draw(spc_runner *drafter, const spc_lane *lanes, int32_t count,
                                int32_t i, spc_error *err)
{
    return spc_cpu_draw(spc_backend_cpu.logits(drafter, 0), VOCAB, lanes, count, i, chance, err);
}

static spc_status scripted_verify(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                                  int32_t count, spc_verdict *out, spc_error *err)
{
    return spc_cpu_verify(drafter ? spc_backend_cpu.logits(drafter, 0) : NULL,
                          spc_backend_cpu.logits(verifier, 0), VOCAB, lanes, count, chance, out,
                          err);
}

/* ---- a pair ---- */

typedef struct {
    const family *family;
    tiny_model drafter, verifier;
    spc_backend_ops ops;
    spc_engine *engine;
    float logits[2][PREFIXES][VOCAB]; /* of drafter and verifier, behind each prefix */
} fixture;

/* Tokens in base 3 behind a leading 1, so that prefixes of every length have numbers 0 .. 12. */
static int32_t number_of(const int32_t *token, int32_t count)
{
    static const int32_t first[] = {0, 1, 4};
    int32_t number = 0;

    for (int32_t i = 0; i < count; i++) number = number * VOCAB + token[i];
    return first[count] + number;
}

/* The row behind text and prefix, in the spare slot: one token at a time, as no session does. */
static void run_prefix(fixture *f, bool drafter, const int32_t *prefix, int32_t count)
{
    spc_runner *runner = drafter ? f->engine->drafter.runner : f->engine->verifier.runner;
    bool encodes = f->verifier.config.encoder_layers > 0;
    int32_t token[TEXT + LENGTH], length = 0;
    spc_error error;

    spc_backend_cpu.rewind(runner, SPARE, 0);
    if (encodes) {
        token[length++] = 0;
        cr_assert_eq(spc_backend_cpu.encode(runner, SPARE, text, TEXT, &error), SPC_OK);
    } else {
        for (; length < TEXT; length++) token[length] = text[length];
    }
    for (int32_t i = 0; i < count; i++) token[length++] = prefix[i];
    for (int32_t i = 0; i < length; i++) {
        spc_rows rows = {1, (int32_t[]){SPARE}, token + i, &i, (int32_t[]){0}};

        cr_assert_eq(spc_backend_cpu.forward(runner, &rows, &error), SPC_OK);
    }
    memcpy(f->logits[drafter][number_of(prefix, count)], spc_backend_cpu.logits(runner, 0),
           sizeof f->logits[0][0]);
}

static void open_fixture(fixture *f, const family *of)
{
    spc_limits limits = spc_engine_limits(2, CONTEXT);
    spc_backend *backend;
    spc_runner *drafter, *verifier;
    spc_error error;

    f->family = of;
    f->drafter = tiny_open(of->drafter, 3, 1);
    f->verifier = tiny_open(of->verifier, 4, 1);
    f->ops = spc_backend_cpu;
    f->ops.draw = scripted_draw;
    f->ops.verify = scripted_verify;
    cr_assert_eq(spc_backend_cpu.open(&backend, 1, NULL, &error), SPC_OK);
    drafter = tiny_load(&f->drafter, backend, &limits);
    verifier = tiny_load(&f->verifier, backend, &limits);
    cr_assert_eq(spc_engine_assemble(&f->ops, backend, drafter, verifier, VOCAB, CONTEXT, 2,
                                     &f->engine, &error),
                 SPC_OK);
    f->engine->drafter.config = f->drafter.config;
    f->engine->verifier.config = f->verifier.config;
    for (int32_t i = 0; i < 9; i++) {
        int32_t prefix[2] = {i / 3, i % 3};

        for (int32_t count = 0; count <= 2; count++) {
            run_prefix(f, true, prefix, count);
            run_prefix(f, false, prefix, count);
        }
    }
}

static void close_fixture(fixture *f)
{
    spc_engine_close(f->engine);
    tiny_close(&f->drafter);
    tiny_close(&f->verifier);
}

/* ---- laws ---- */

static spc_session *open_session(const fixture *f, const char *rule, int32_t gamma,
                                 spc_verify_mode verify)
{
    spc_session_options options;
    spc_session *session;
    spc_error error;

    spc_session_options_init(&options);
    options.rule = rule;
    options.gamma = gamma;
    options.max_tokens = LENGTH;
    options.verify = verify;
    cr_assert_eq(spc_session_open(f->engine, &options, text, TEXT, &session, &error), SPC_OK, "%s",
                 error.message);
    return session;
}

/* law: [SEQUENCES], by enumeration. */
static void emitted_law(const fixture *f, const char *rule, int32_t gamma, spc_verify_mode verify,
                        double *law)
{
    toy_script script;

    toy_script_begin(&script);
    chance = &script.chance;
    memset(law, 0, SEQUENCES * sizeof *law);
    do {
        spc_session *session = open_session(f, rule, gamma, verify);
        int32_t count;

        toy_script_run(&script);
        cr_assert_eq(spc_session_run(session, NULL), SPC_OK);

        const int32_t *token = spc_session_tokens(session, &count);

        cr_assert_eq(count, LENGTH);
        law[token[0] * 9 + token[1] * 3 + token[2]] += script.probability;
        spc_session_close(session);
    } while (toy_script_next(&script));
}

/* The product of the targets of the rows; token-chow is chow's law by other means. */
static void wanted_law(const fixture *f, const char *rule, double *law)
{
    toy_law of = {strncmp(rule, "token-chow", 10) == 0 ? rule + 6 : rule, 1, true};

    for (int32_t index = 0; index < SEQUENCES; index++) {
        int32_t token[LENGTH] = {index / 9, index / 3 % 3, index % 3};

        law[index] = 1;
        for (int32_t i = 0; i < LENGTH; i++) {
            int32_t at = number_of(token, i);
            double pi[TOY_VOCAB];

            toy_target_of(f->logits[1][at], f->logits[0][at], VOCAB, &of, pi);
            law[index] *= pi[token[i]];
        }
    }
}

static double distance(const double *a, const double *b)
{
    double sum = 0;

    for (int32_t i = 0; i < SEQUENCES; i++) sum += fabs(a[i] - b[i]) / 2;
    return sum;
}

Test(host_law_models, every_strategy_emits_the_product_of_its_targets)
{
    for (int32_t k = 0; k < FAMILIES; k++) {
        fixture f;

        open_fixture(&f, &families[k]);
        for (int32_t n = 0; n < RULES * 4; n++) {
            const char *rule = rules[n / 4];
            double got[SEQUENCES], wanted[SEQUENCES];
            bool block = n % 4 == 3 && strncmp(rule, "token-chow", 10) != 0;

            wanted_law(&f, rule, wanted);
            emitted_law(&f, rule, block ? 2 : n % 4, block ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN,
                        got);
            cr_expect_lt(distance(got, wanted), 2e-6, "%s: %s, gamma %d%s: %g from the target",
                         f.family->name, rule, block ? 2 : (int)(n % 4), block ? ", block" : "",
                         distance(got, wanted));
        }
        close_fixture(&f);
    }
}

/* The two models differ and tokens matter, or the test above would show little. */
Test(host_law_models, the_laws_of_drafter_and_verifier_are_far_apart)
{
    for (int32_t k = 0; k < FAMILIES; k++) {
        double drafter[SEQUENCES], verifier[SEQUENCES];
        fixture f;

        open_fixture(&f, &families[k]);
        wanted_law(&f, "drafter-only", drafter);
        wanted_law(&f, "verifier-only", verifier);
        cr_expect_gt(distance(drafter, verifier), 0.1, "%s: %g", f.family->name,
                     distance(drafter, verifier));
        close_fixture(&f);
    }
}
