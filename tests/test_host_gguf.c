/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_gguf.c - a GGUF file computes what the checkpoint that it was made from computes. */
#include "decode.h"
#include "files.h"
#include "folder.h"

#include <math.h>

#define GGUF SPC_TEST_VECTORS "/gguf/"

enum { VOCAB_MAX = 512, IDS_MAX = 64 };

typedef struct {
    float logit[IDS_MAX * VOCAB_MAX];
    int32_t count;
} logits;

static spc_engine *open_alone(const char *model)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    o.verifier = model;
    o.drafter = NULL;
    o.threads = 1;
    o.context = IDS_MAX;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    return engine;
}

static void compute(const char *model, const char *golden, logits *out)
{
    spc_engine *engine = open_alone(model);
    spc_engine_facts facts;
    spc_error error;
    int32_t count;
    json_t *root = read_json(golden);
    int32_t *ids = read_ids(json_object_get(root, "ids"), &count);

    spc_engine_describe(engine, &facts);
    if (count > IDS_MAX) count = IDS_MAX;
    cr_assert_leq(facts.vocab, VOCAB_MAX);
    cr_assert_eq(spc_engine_logits(engine, NULL, 0, ids, count, out->logit, &error), SPC_OK, "%s",
                 error.message);
    out->count = count * facts.vocab;
    json_decref(root);
    free(ids);
    spc_engine_close(engine);
}

/* The checkpoint, without the key that has it round as the golden logits were: no GGUF has it. */
static void compute_checkpoint(const char *name, logits *out)
{
    folder f = folder_open();
    char from[FOLDER_PATH], *config, *plain;
    size_t bytes;

    (void)snprintf(from, sizeof from, "%s/%s/config.json", SPC_TEST_VECTORS, name);
    config = read_file(from, &bytes);
    plain = replaced(config, "\"spc_buffers_bfloat16\": true", "\"spc_buffers_bfloat16\": false");
    folder_write(&f, "config.json", plain, strlen(plain));
    (void)snprintf(from, sizeof from, "%s/%s/model.safetensors", SPC_TEST_VECTORS, name);
    folder_copy(&f, from, "model.safetensors", SIZE_MAX);
    (void)snprintf(from, sizeof from, "%s/%s/golden.json", SPC_TEST_VECTORS, name);
    compute(f.path, from, out);
    free(config);
    free(plain);
    folder_close(&f);
}

/* Root mean square of the difference, relative to that of b. */
static double distance(const logits *a, const logits *b)
{
    double off = 0, all = 0;

    cr_assert_eq(a->count, b->count);
    for (int32_t i = 0; i < a->count; i++) {
        double d = (double)a->logit[i] - (double)b->logit[i];

        off += d * d;
        all += (double)b->logit[i] * (double)b->logit[i];
    }
    return sqrt(off / all);
}

static void expect_distance(const char *file, const char *name, double least, double most)
{
    static logits found, wanted; /* large */
    char golden[FOLDER_PATH], model[FOLDER_PATH];
    double off;

    (void)snprintf(golden, sizeof golden, "%s/%s/golden.json", SPC_TEST_VECTORS, name);
    (void)snprintf(model, sizeof model, GGUF "%s", file);
    compute(model, golden, &found);
    compute_checkpoint(name, &wanted);
    off = distance(&found, &wanted);
    cr_expect(off >= least && off <= most, "%s: off by %g, expected %g to %g", file, off, least,
              most);
}

/* Norms are what 1 was added to and taken off again. */
Test(host_gguf, models_compute_what_their_checkpoints_compute)
{
    expect_distance("qwen2.gguf", "qwen2", 0, 1e-6);
    expect_distance("gemma2.gguf", "gemma2", 0, 1e-6);
    expect_distance("gemma3.gguf", "gemma3", 0, 1e-6);
    expect_distance("smollm3.gguf", "smollm3", 0, 1e-6);
    expect_distance("ministral3.gguf", "ministral3", 0, 1e-6);
    expect_distance("granite.gguf", "granite", 0, 1e-6);
    expect_distance("phi3-short.gguf", "phi3-short", 0, 1e-6);
    expect_distance("phi3-long.gguf", "phi3-long", 0, 1e-6);
    expect_distance("mixtral.gguf", "mixtral", 0, 1e-6);
    expect_distance("qwen3-moe.gguf", "qwen3-moe", 0, 1e-6);
}

Test(host_gguf, a_split_model_is_read_by_its_first_part)
{
    expect_distance("split-00001-of-00002.gguf", "llama", 0, 1e-6);
}

/* Steps of 1/254 and 1/16 of a block's largest: that much is lost, and something is. */
Test(host_gguf, quantised_weights_are_off_by_what_their_steps_allow)
{
    expect_distance("llama-Q8_0.gguf", "llama", 1e-4, 0.02);
    expect_distance("llama-Q4_0.gguf", "llama", 1e-2, 0.25);
    /* (transformers with the quantised weights: 0.028) */
    expect_distance("qwen3-moe-Q8_0.gguf", "qwen3-moe", 1e-4, 0.05);
}

/* Caches of models name their files by a hash, and a file may have lost its name on the way. */
Test(host_gguf, a_file_is_known_by_its_first_bytes)
{
    static const char *const names[] = {"model.bin", "M.GGUF", "sha256-29d0"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        folder f = folder_open();
        char path[FOLDER_PATH];
        spc_bundle *bundle[2];
        spc_error error;

        folder_copy(&f, GGUF "qwen2.gguf", names[i], SIZE_MAX);
        folder_write(&f, "README", "GGU", 3);
        folder_path(&f, names[i], path);
        cr_assert_eq(spc_bundle_open(path, &bundle[0], &error), SPC_OK, "%s", error.message);
        cr_assert_eq(spc_bundle_open(f.path, &bundle[1], &error), SPC_OK, "%s", error.message);
        cr_expect(spc_bundle_has_file(bundle[0], "config.json"));
        cr_expect_gt(spc_bundle_count(bundle[0]), 0);
        cr_expect_eq(spc_bundle_bytes(bundle[0]), spc_bundle_bytes(bundle[1]));
        spc_bundle_close(bundle[0]);
        spc_bundle_close(bundle[1]);
        folder_close(&f);
    }
}

static void expect_no_engine(const char *model, spc_status wanted, const char *word)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    o.verifier = model;
    o.drafter = NULL;
    cr_expect_eq(spc_engine_open(&o, &engine, &error), wanted, "%s", error.message);
    cr_expect(strstr(error.message, word), "'%s' in: %s", word, error.message);
}

Test(host_gguf, a_part_that_is_missing_or_not_the_first_is_named)
{
    folder f = folder_open();
    char path[FOLDER_PATH];

    expect_no_engine(GGUF "split-00002-of-00002.gguf", SPC_EFORMAT, "first");
    folder_copy(&f, GGUF "split-00001-of-00002.gguf", "split-00001-of-00002.gguf", SIZE_MAX);
    folder_path(&f, "split-00001-of-00002.gguf", path);
    expect_no_engine(path, SPC_EIO, "split-00002-of-00002.gguf");
    folder_close(&f);
}

/* A drafter that is quantised and a verifier that is not: a pair like any other. */
Test(host_gguf, a_quantised_drafter_drafts_for_its_checkpoint)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_session_options s = options_of("strict", 4, 0);
    prompt p = prompt_made(8, 389, 1);
    spc_error error;

    spc_engine_options_init(&o);
    o.verifier = GGUF "split-00001-of-00002.gguf";
    o.drafter = GGUF "llama-Q8_0.gguf";
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    s.max_tokens = 24;
    s.ignore_stop = true;

    decoded with = decode(engine, &s, &p);

    s.rule = "verifier-only";

    decoded alone = decode(engine, &s, &p);

    cr_expect(same_tokens(&with, &alone));
    cr_expect_lt(with.stats.rounds, 20); /* it is accepted more often than not */
    spc_engine_close(engine);
}
