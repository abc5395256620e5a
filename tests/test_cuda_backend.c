/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend.c - the CUDA backend against recorded references and against the CPU backend,
 * verb by verb and session by session.
 *
 * Built twice: against the device, and against tests/fibers, which runs backend and kernels without
 * one; faults of the device are tested there.
 *
 * Tolerances.  Kernels take float32 sums in another order than the CPU does.  Logits of the tiny
 * models are within 1e-4 of the references of transformers, as the CPU's are; those of the embedded
 * pair within 2e-4 of the CPU's, whose largest are about 20; within 5e-3 where cuBLAS multiplies
 * activations of 16 bits. */
#include "golden.h"

#include "decode.h"
#include "tiny.h"

#include "host/device.h"

#include <cuda_runtime_api.h>
#include <math.h>

static bool same_bits(const golden *g, const float *a, const float *b)
{
    return memcmp(a, b, (size_t)g->count * (size_t)g->vocab * sizeof *a) == 0;
}

/* Largest distance; NaN stays. */
static float distance(const float *a, const float *b, size_t count)
{
    float worst = 0.0f;

    for (size_t i = 0; i < count; i++) {
        float off = fabsf(a[i] - b[i]);

        worst = off <= worst ? worst : off;
    }
    return worst;
}

/* ---- verbs ----------------------------------------------------------------------------------- */

Test(cuda_backend, logits_are_those_of_the_reference_in_chunks_of_any_size)
{
    static const int32_t chunks[] = {1, 2, 5, 6, 13}; /* two of them for each model */

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        float *whole = golden_run(&g, 0, g.count), off;

        off = distance(whole, g.logits, (size_t)g.count * (size_t)g.vocab);
        cr_expect_leq(off, 1e-4f, "%s: off by %g", golden_models[m], (double)off);
        for (int32_t i = 0; i < 2; i++) {
            int32_t chunk = chunks[(m + 2 * i) % 5];
            float *parts = golden_run(&g, 1 + i, chunk);

            cr_expect(same_bits(&g, whole, parts), "%s: chunks of %d", golden_models[m],
                      (int)chunk);
            free(parts);
        }
        free(whole);
        golden_close(&g);
    }
}

Test(cuda_backend, greedy_continuations_are_those_of_the_reference)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);

        golden_feed(&g, 1, g.prompt, g.prompt_count, 0);
        for (int32_t i = 0, last = g.prompt_count - 1; i < g.greedy_count; i++, last = 0) {
            int32_t next = golden_best(g.ops->logits(g.runner, last), g.vocab);

            cr_expect_eq(next, g.greedy[i], "%s: token %d", golden_models[m], (int)i);
            golden_feed(&g, 1, &g.greedy[i], 1, 0);
        }
        golden_close(&g);
    }
}

Test(cuda_backend, a_rewound_slot_goes_on_as_if_it_had_never_been_further)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        float *whole = golden_run(&g, 0, g.count);
        int32_t half = g.count / 2, wrong[3] = {1, 2, 3};

        g.ops->rewind(g.runner, 0, half);
        golden_feed(&g, 0, wrong, 3, 0);
        g.ops->rewind(g.runner, 0, half);
        cr_assert_eq(g.ops->length(g.runner, 0), half);
        golden_feed(&g, 0, g.ids + half, g.count - half, half);
        for (int32_t i = half; i < g.count; i++) {
            cr_expect(memcmp(g.ops->logits(g.runner, i), whole + (int64_t)i * g.vocab,
                             (size_t)g.vocab * sizeof *whole) == 0,
                      "%s: row %d", golden_models[m], (int)i);
        }
        free(whole);
        golden_close(&g);
    }
}

Test(cuda_backend, a_shared_beginning_has_the_bits_of_one_that_was_run)
{
    int32_t shared = 0;

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);

        for (int32_t pages = 0; pages < 3; pages++) shared += golden_shares(&g, pages);
        golden_close(&g);
    }
    cr_expect_gt(shared, 20);
}

/* Slots of different lengths in one forward, some rows wanted, others not. */
Test(cuda_backend, a_row_has_the_same_bits_beside_other_slots)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        float *whole = golden_run(&g, 0, g.count);
        int32_t slot[GOLDEN_ROWS], token[GOLDEN_ROWS], position[GOLDEN_ROWS], output[GOLDEN_ROWS];
        spc_rows rows = {0, slot, token, position, output};
        spc_error error;

        g.ops->rewind(g.runner, 0, 0);
        for (int32_t s = 0; s < GOLDEN_SLOTS; s++) golden_feed(&g, s, g.ids, 2 + 3 * s, 0);
        for (int32_t s = GOLDEN_SLOTS - 1; s >= 0; s--) {
            for (int32_t i = 0; i < 2; i++, rows.count++) {
                slot[rows.count] = s;
                position[rows.count] = 2 + 3 * s + i;
                token[rows.count] = g.ids[position[rows.count]];
                output[rows.count] = i == 1 ? 10 + s : -1;
            }
        }
        cr_assert_eq(g.ops->forward(g.runner, &rows, &error), SPC_OK, "%s", error.message);
        for (int32_t s = 0; s < GOLDEN_SLOTS; s++) {
            cr_expect(memcmp(g.ops->logits(g.runner, 10 + s),
                             whole + (int64_t)(3 + 3 * s) * g.vocab,
                             (size_t)g.vocab * sizeof *whole) == 0,
                      "%s: slot %d", golden_models[m], (int)s);
        }
        free(whole);
        golden_close(&g);
    }
}

/* cuBLAS takes rows beyond 16: prompts, and rounds of many sessions. */
Test(cuda_backend, logits_by_the_library_are_those_of_the_reference)
{
    static const spc_limits limits = {.slots = 1,
                                      .context = GOLDEN_CONTEXT,
                                      .rows = GOLDEN_ROWS,
                                      .outputs = GOLDEN_ROWS,
                                      .library = true};

    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        spc_error error;
        float *all, off;

        cr_assert(g.count > 16 || g.source_count > 16, "else nothing goes through it");
        g.ops->unload(g.runner);
        cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &limits, &g.runner, &error), SPC_OK,
                     "%s", error.message);
        all = golden_run(&g, 0, g.count);
        off = distance(all, g.logits, (size_t)g.count * (size_t)g.vocab);
        cr_expect_leq(off, 1e-4f, "%s: off by %g", golden_models[m], (double)off);
        free(all);
        golden_close(&g);
    }
}

/* ---- made-up models -------------------------------------------------------------------------- */

/* Sizes that are no multiple of anything: rows of weights are padded on the device. */
static const char *const odd_models[] = {
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 101, \"hidden_size\": 36,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 2,"
    " \"head_dim\": 10, \"intermediate_size\": 51, \"max_position_embeddings\": 64,"
    " \"tie_word_embeddings\": false}",
    "{\"architectures\": [\"Gemma2ForCausalLM\"], \"vocab_size\": 67, \"hidden_size\": 44,"
    " \"num_hidden_layers\": 4, \"num_attention_heads\": 5, \"num_key_value_heads\": 1,"
    " \"head_dim\": 130, \"intermediate_size\": 33, \"max_position_embeddings\": 64,"
    " \"sliding_window\": 7, \"query_pre_attn_scalar\": 130, \"attn_logit_softcapping\": 5,"
    " \"final_logit_softcapping\": 3}",
    "{\"architectures\": [\"T5ForConditionalGeneration\"], \"vocab_size\": 53, \"d_model\": 34,"
    " \"d_kv\": 14, \"d_ff\": 29, \"num_layers\": 2, \"num_heads\": 3,"
    " \"relative_attention_num_buckets\": 8, \"relative_attention_max_distance\": 20,"
    " \"feed_forward_proj\": \"gated-gelu\", \"tie_word_embeddings\": false,"
    " \"decoder_start_token_id\": 0}"};
enum { ODD_MODELS = sizeof odd_models / sizeof *odd_models, ODD_ROWS = 24 };

/* A forward of ODD_ROWS / 2 rows of slot 0, then of slot 1, with chosen tokens in both. */
static float *run_odd(const spc_backend_ops *ops, const tiny_model *model, const int32_t token[2],
                      bool library)
{
    spc_limits limits = {
        .slots = 2, .context = 40, .rows = ODD_ROWS, .outputs = ODD_ROWS, .library = library};
    int32_t slot[ODD_ROWS], id[ODD_ROWS], position[ODD_ROWS], output[ODD_ROWS];
    spc_rows rows = {ODD_ROWS, slot, id, position, output};
    size_t bytes = (size_t)model->plan->ids * sizeof(float);
    char *logits = malloc(ODD_ROWS * bytes);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_assert_eq(ops->load(backend, model->plan, model->bundle, &limits, &runner, &error), SPC_OK,
                 "%s", error.message);
    for (int32_t i = 0; i < ODD_ROWS; i++) {
        slot[i] = i / (ODD_ROWS / 2);
        position[i] = i % (ODD_ROWS / 2);
        id[i] = position[i] == 5 ? token[slot[i]] : 2 + (i * i + 3 * i) % (model->plan->ids - 2);
        output[i] = i;
    }
    for (int32_t s = 0; s < 2 && model->plan->encoder_ops > 0; s++) {
        cr_assert_eq(ops->encode(runner, s, id + 6 * s, 7 + 10 * s, &error), SPC_OK);
    }
    cr_assert_eq(ops->forward(runner, &rows, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < ODD_ROWS; i++) {
        memcpy(logits + (size_t)i * bytes, ops->logits(runner, i), bytes);
    }
    ops->unload(runner);
    ops->close(backend);
    return (float *)(void *)logits;
}

Test(cuda_backend, models_of_odd_sizes_and_mixed_types_have_the_logits_of_the_cpu)
{
    for (int32_t m = 0; m < ODD_MODELS; m++) {
        tiny_model model = tiny_open_mixed(odd_models[m], 5);
        static const int32_t token[] = {7, 9};
        size_t count = (size_t)(ODD_ROWS * model.plan->ids);
        float *cpu = run_odd(&spc_backend_cpu, &model, token, false);

        for (int library = 0; library < 2; library++) {
            float *logits = run_odd(&spc_backend_cuda, &model, token, library == 1);
            float off = distance(logits, cpu, count);

            cr_expect_leq(off, library ? 1e-3f : 5e-5f, "model %d: off by %g", (int)m, (double)off);
            free(logits);
        }
        free(cpu);
        tiny_close(&model);
    }
}

/* The row of one token is NaN: slots that never see it do not either. */
Test(cuda_backend, a_broken_sequence_leaves_the_others_alone)
{
    for (int32_t n = 0; n < 2 * ODD_MODELS; n++) {
        tiny_model model = tiny_open(odd_models[n / 2], 5, 1);
        int32_t token[] = {7, 1}, ids = model.plan->ids, half = ODD_ROWS / 2 * ids;
        const spc_weight *w = &model.plan->weight[model.plan->op[0].weight[0]];
        const spc_tensor *t = spc_bundle_find(model.bundle, w->name);
        float *whole = run_odd(&spc_backend_cuda, &model, token, n % 2 == 1), *broken;

        for (int32_t i = 0; i < w->cols; i++) {
            ((float *)(uintptr_t)t->data)[w->cols + i] = NAN; /* of token 1 */
        }
        broken = run_odd(&spc_backend_cuda, &model, token, n % 2 == 1);
        for (int32_t i = 0; i < ODD_ROWS / 2; i++) {
            const float *row = whole + i * ids, *other = broken + i * ids;
            bool all = model.plan->encoder_ops > 0; /* it stands in that slot's source */

            for (int32_t v = 0; v < ids; v++) { /* where the head is tied, token 1 has no logit */
                cr_expect(row[v] == other[v] || (model.config.tied && v == 1),
                          "model %d, row %d of the other slot", (int)n, (int)i);
            }
            cr_expect_eq(isnan(broken[half + i * ids]) != 0, all || i >= 5, "model %d, row %d",
                         (int)n, (int)i);
        }
        free(whole);
        free(broken);
        tiny_close(&model);
    }
}

/* ---- the embedded pair ----------------------------------------------------------------------- */

static const char *const sentence = "<s><2de>The cat sleeps on the old chair.<sep>";

/* An engine over the pair, by either backend. */
static spc_engine *pair_engine_by(const spc_backend_ops *ops, int32_t sessions, bool library,
                                  spc_model models[2])
{
    static const char *const names[] = {DEMO_DRAFTER, DEMO_VERIFIER};
    spc_limits limits = spc_engine_limits(sessions, 96);
    spc_runner *runner[2];
    spc_backend *backend;
    spc_engine *engine;
    spc_error error;

    limits.library = library;
    cr_assert_eq(ops->open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    for (int i = 0; i < 2; i++) {
        memset(&models[i], 0, sizeof models[i]);
        cr_assert_eq(spc_open_model(names[i], &models[i], &error), SPC_OK, "%s", error.message);
        cr_assert_eq(
            ops->load(backend, models[i].plan, models[i].bundle, &limits, &runner[i], &error),
            SPC_OK, "%s", error.message);
    }
    cr_assert_eq(spc_engine_assemble(ops, backend, runner[0], runner[1], models[0].config.vocab, 96,
                                     sessions, &engine, &error),
                 SPC_OK, "%s", error.message);
    cr_assert_eq(spc_open_tokenizer(&models[1], &engine->tokenizer, &error), SPC_OK);
    return engine;
}

static spc_engine *pair_engine(const spc_backend_ops *ops, int32_t sessions, spc_model models[2])
{
    return pair_engine_by(ops, sessions, false, models);
}

static void close_pair(spc_engine *engine, spc_model models[2])
{
    spc_engine_close(engine);
    for (int i = 0; i < 2; i++) spc_close_model(&models[i]);
}

/* Logits of the verifier for a text of several chunks' worth of strips; malloc'd. */
static float *pair_logits(const spc_backend_ops *ops, bool library, size_t *count)
{
    spc_model models[2];
    spc_engine *engine = pair_engine_by(ops, 4, library, models);
    prompt p = prompt_made(21, engine->vocab, 3);
    float *logits = malloc((size_t)p.count * (size_t)engine->vocab * sizeof *logits);
    spc_error error;

    *count = (size_t)p.count * (size_t)engine->vocab;
    cr_assert_eq(spc_engine_logits(engine, NULL, 0, p.id, p.count, logits, &error), SPC_OK, "%s",
                 error.message);
    close_pair(engine, models);
    return logits;
}

Test(cuda_backend, the_pair_has_the_logits_of_the_cpu)
{
    size_t count;
    float *cpu = pair_logits(&spc_backend_cpu, false, &count);

    for (int library = 0; library < 2; library++) {
        float *logits = pair_logits(&spc_backend_cuda, library == 1, &count);
        float off = distance(logits, cpu, count);

        cr_expect_leq(off, library ? 5e-3f : 2e-4f, "off by %g", (double)off);
        cr_expect_gt(off, 0.0f, "sums in another order never agree everywhere");
        free(logits);
    }
    free(cpu);
}

Test(cuda_backend, greedy_strict_decoding_is_the_cpu_verifiers_text_for_every_gamma, .timeout = 280)
{
    static const int32_t gammas[] = {0, 1, 5};
    spc_model models[2], cpu_models[2];
    spc_engine *cpu = pair_engine(&spc_backend_cpu, 1, cpu_models);
    spc_engine *engine = pair_engine(&spc_backend_cuda, 1, models);
    prompt p = prompt_of(cpu, sentence);
    spc_session_options o = options_of("verifier-only", 0, 0);
    decoded expected;

    o.max_tokens = 7;
    expected = decode(cpu, &o, &p);
    cr_assert_eq(expected.count, 7);
    for (size_t i = 0; i < sizeof gammas / sizeof *gammas; i++) {
        o.rule = "strict";
        o.gamma = gammas[i];
        decoded d = decode(engine, &o, &p);

        cr_expect(same_tokens(&d, &expected), "gamma %d", (int)gammas[i]);
    }
    close_pair(engine, models);
    close_pair(cpu, cpu_models);
}

/* Sampling: the same random numbers over logits that differ in their last bits. */
Test(cuda_backend, sampled_rounds_are_those_of_the_cpu, .timeout = 280)
{
    static const char *const rules[] = {"token-v3:alpha=0.5", "opt:alpha=0.2",
                                        "token-chow:alpha=0.3"};
    spc_model models[2], cpu_models[2];
    spc_engine *cpu = pair_engine(&spc_backend_cpu, 2, cpu_models);
    spc_engine *engine = pair_engine(&spc_backend_cuda, 2, models);
    prompt p = prompt_of(cpu, sentence);

    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        spc_session_options o = options_of(rules[i], 4, 1);

        o.top_p = 0.9f;
        o.seed = 7 + i;
        o.max_tokens = 8;

        decoded a = decode(cpu, &o, &p), b = decode(engine, &o, &p);

        cr_expect_eq(b.status, SPC_OK, "%s", b.error.message);
        cr_expect(same_tokens(&a, &b), "%s", rules[i]);
        cr_expect_eq(a.stats.output_hash, b.stats.output_hash);
        cr_expect_eq(sum_of(a.stats.accepted), sum_of(b.stats.accepted));
    }
    close_pair(engine, models);
    close_pair(cpu, cpu_models);
}

/* ---- engines --------------------------------------------------------------------------------- */

static spc_status open_on(const char *device, spc_engine_options *o, spc_engine **engine,
                          spc_error *error)
{
    o->verifier = DEMO_VERIFIER;
    o->drafter = DEMO_DRAFTER;
    o->device = device;
    if (o->context == 0) o->context = 64;
    return spc_engine_open(o, engine, error);
}

Test(cuda_backend, engines_open_where_they_are_told)
{
    static const struct {
        const char *device;
        int32_t threads;
        const char *begins;
    } cases[] = {{NULL, 0, "cpu, "},     {"cpu", 2, "cpu, "},     {"auto", 0, "cuda:0, "},
                 {"auto", 1, "cpu, 1 "}, {"cuda", 0, "cuda:0, "}, {"cuda:0", 0, "cuda:0, "}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_engine_options o;
        spc_engine_facts facts;
        spc_engine *engine;
        spc_error error;

        spc_engine_options_init(&o);
        o.threads = cases[i].threads;
        cr_assert_eq(open_on(cases[i].device, &o, &engine, &error), SPC_OK, "%s", error.message);
        spc_engine_describe(engine, &facts);
        cr_expect(strncmp(facts.device, cases[i].begins, strlen(cases[i].begins)) == 0, "%s",
                  facts.device);
        spc_engine_close(engine);
    }
}

Test(cuda_backend, options_of_a_gpu_are_taken)
{
    for (int i = 0; i < 2; i++) {
        spc_engine_options o;
        spc_engine *engine;
        spc_error error;

        spc_engine_options_init(&o);
        if (i == 0) o.overlap = SPC_OVERLAP_ON;
        if (i == 1) o.plain_launches = true;
        cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
        cr_expect_str_eq(engine->ops->name, "cuda");
        spc_engine_close(engine);
    }
}

/* Drafts, caches and verdicts up to the last position. */
Test(cuda_backend, a_session_ends_at_its_context_as_on_the_cpu)
{
    static const char *const devices[] = {"cpu", "cuda"};
    decoded d[2];

    for (int i = 0; i < 2; i++) {
        spc_engine_options o;
        spc_engine *engine;
        spc_error error;
        spc_session_options s = options_of("token-v3:alpha=0.3", 3, 1);
        prompt p = prompt_made(10, 6000, 11);

        s.ignore_stop = true;
        s.seed = 5;
        spc_engine_options_init(&o);
        o.context = 19;
        cr_assert_eq(open_on(devices[i], &o, &engine, &error), SPC_OK, "%s", error.message);
        d[i] = decode(engine, &s, &p);
        spc_engine_close(engine);
    }
    cr_expect_eq(d[1].finish, SPC_FINISH_CONTEXT);
    cr_expect_eq(d[1].count, 19 - 10);
    cr_expect(same_tokens(&d[0], &d[1]));
}

/* Five pages for three sessions of three: two have the first page in common, the third waits. */
Test(cuda_backend, sessions_share_pages_and_wait_for_them)
{
    enum { SESSIONS = 3 };
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    spc_session *session[SESSIONS];
    spc_session_options s = options_of("token-v3:alpha=0.3", 2, 1);
    prompt p[SESSIONS];
    decoded alone[SESSIONS], d;

    s.ignore_stop = s.wait = true;
    s.max_tokens = 3;
    for (int32_t i = 0; i < SESSIONS; i++) {
        p[i] = prompt_made(20, 6000, 11);
        p[i].id[18] = 50 + i;
    }
    spc_engine_options_init(&o);
    o.context = 64;
    o.no_prefix_reuse = true;
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < SESSIONS; i++) alone[i] = decode(engine, &s, &p[i]);
    spc_engine_close(engine);

    o.no_prefix_reuse = false;
    o.sessions = SESSIONS;
    o.kv_tokens = 5 * SPC_PAGE_TOKENS;
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    session[0] = open_session(engine, &s, &p[0]);
    cr_assert_eq(spc_session_step(session[0], &error), SPC_OK, "%s", error.message);
    session[1] = open_session(engine, &s, &p[1]);
    session[2] = open_session(engine, &s, &p[2]);
    cr_expect(!spc_session_waits(session[1]) && spc_session_waits(session[2]));
    for (int32_t step = 0; step < 8; step++) {
        cr_assert_eq(spc_engine_step(engine, session, SESSIONS, &error), SPC_OK, "%s",
                     error.message);
    }
    for (int32_t i = 0; i < SESSIONS; i++) {
        d = decoded_of(session[i]);
        cr_expect(same_tokens(&d, &alone[i]), "session %d", (int)i);
        cr_expect_eq(d.stats.reused_tokens, i == 0 ? 0 : SPC_PAGE_TOKENS);
        spc_session_close(session[i]);
    }
    spc_engine_close(engine);
}

/* Sessions of other rules, prompts and lengths, joining and leaving, against each by itself. */
Test(cuda_backend, sessions_say_the_same_in_company_as_alone)
{
    static const char *const rules[] = {"opt:alpha=0.2", "strict", "drafter-only"};
    enum { SESSIONS = sizeof rules / sizeof *rules };
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    spc_session *session[SESSIONS] = {NULL};
    decoded alone[SESSIONS], d;
    prompt p[SESSIONS];
    spc_session_options s[SESSIONS];
    int32_t running = 0;

    spc_engine_options_init(&o);
    o.sessions = SESSIONS;
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    for (int32_t i = 0; i < SESSIONS; i++) {
        p[i] = prompt_made(2 + 5 * i, 6000, 20 + (uint32_t)i);
        s[i] = options_of(rules[i], 1 + i, 1);
        s[i].seed = (uint64_t)i;
        s[i].max_tokens = 4 - i;
        s[i].ignore_stop = true;
        alone[i] = decode(engine, &s[i], &p[i]);
    }
    for (int32_t step = 0; step < SESSIONS || running > 0; step++) {
        spc_session *now[SESSIONS];

        if (step < SESSIONS) session[step] = open_session(engine, &s[step], &p[step]);
        running = 0;
        for (int32_t i = 0; i < SESSIONS; i++) {
            if (session[i]) now[running++] = session[i];
        }
        cr_assert_eq(spc_engine_step(engine, now, running, &error), SPC_OK, "%s", error.message);
        for (int32_t i = 0; i < SESSIONS; i++) {
            if (!session[i] || spc_session_finish(session[i]) == SPC_FINISH_RUNNING) continue;
            d = decoded_of(session[i]);
            cr_expect(same_tokens(&d, &alone[i]), "%s", rules[i]);
            spc_session_close(session[i]);
            session[i] = NULL;
            running--;
        }
    }
    spc_engine_close(engine);
}

Test(cuda_backend, a_thousand_sessions_leave_nothing_behind)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    spc_session_options s = options_of("strict", 1, 0);
    prompt p = {{1, 5, 9}, 3};
    const spc_backend_ops *ops;
    spc_backend *backend;
    size_t before, warm;

    cr_assert_eq(spc_device_open("cuda", 0, NULL, NULL, NULL, &ops, &backend, &error), SPC_OK);
    before = ops->room(backend);
    spc_engine_options_init(&o);
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    cr_expect_lt(ops->room(backend), before);
    s.max_tokens = 1;
    for (int32_t i = 0; i < 2; i++) (void)decode(engine, &s, &p);
    warm = ops->room(backend);
    for (int32_t i = 0; i < 1000; i++) spc_session_close(open_session(engine, &s, &p));
    (void)decode(engine, &s, &p);
    cr_expect_lt(warm - ops->room(backend) + 0x40000, 0x80000, "256 bytes a session");
    spc_engine_close(engine);
    cr_expect_gt(ops->room(backend), warm);
    ops->close(backend);
}

/* ---- errors ---------------------------------------------------------------------------------- */

Test(cuda_backend, a_device_that_is_not_there_is_refused_with_those_there_are)
{
    static const char *const wrong[] = {"97", "x", "0x", "-1", ""};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        spc_backend *backend;
        spc_error error;

        cr_expect_eq(spc_backend_cuda.open(&backend, 0, wrong[i], &error), SPC_EUSAGE);
        cr_expect_null(backend);
        cr_expect(strstr(error.message, "expected a number of 0 to"), "%s", error.message);
    }
}

Test(cuda_backend, weights_that_do_not_match_the_plan_are_named)
{
    static const struct {
        const char *piece, *edited, *word[3];
    } cases[] = {
        {"model.norm.weight", "model.norm.wEight", {"model.norm.weight", "edited", "missing"}},
        {"\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[389,96]",
         "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[96,389]",
         {"lm_head.weight", "[389, 96]", "[96, 389]"}},
        {"\"lm_head.weight\":{\"dtype\":\"F32\"",
         "\"lm_head.weight\":{\"dtype\":\"I32\"",
         {"lm_head.weight", "I32", "supported: F32, BF16, F16"}}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spc_error error;

        cr_expect_eq(golden_load_edited(&spc_backend_cuda, cases[i].piece, cases[i].edited, &error),
                     SPC_ESHAPE);
        for (int k = 0; k < 3; k++) {
            cr_expect(strstr(error.message, cases[i].word[k]), "%s", error.message);
        }
    }
}

Test(cuda_backend, what_has_no_kernel_is_refused_at_load)
{
    tiny_model model = tiny_open(
        "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 9, \"hidden_size\": 8,"
        " \"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"num_key_value_heads\": 1,"
        " \"head_dim\": 258, \"intermediate_size\": 8, \"max_position_embeddings\": 16}",
        1, 1);
    spc_backend *backend;
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK);
    cr_assert_eq(
        spc_backend_cuda.load(backend, model.plan, model.bundle, &golden_limits, &runner, &error),
        SPC_EUNSUPPORTED);
    cr_assert_null(runner);
    cr_assert(strstr(error.message, "up to 256, found 258"), "%s", error.message);
    model.plan->op[3].kind = SPC_OP_COUNT;
    cr_assert_eq(
        spc_backend_cuda.load(backend, model.plan, model.bundle, &golden_limits, &runner, &error),
        SPC_EUNSUPPORTED);
    cr_assert(strstr(error.message, "op 3 of its plan"), "%s", error.message);
    spc_backend_cuda.close(backend);
    tiny_close(&model);
}

Test(cuda_backend, threads_are_refused)
{
    spc_backend *backend;
    spc_error error;

    cr_assert_eq(spc_backend_cuda.open(&backend, 3, NULL, &error), SPC_EUSAGE);
    cr_assert_null(backend);
    spc_backend_cuda.close(NULL);
    spc_backend_cuda.unload(NULL);
}

Test(cuda_backend, a_request_beyond_all_memory_says_what_to_lower)
{
    golden g = golden_open(&spc_backend_cuda, "llama");
    spc_limits huge = {.slots = 4096, .context = 1 << 24, .rows = 64, .outputs = 64};
    spc_runner *runner;
    spc_error error;

    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &huge, &runner, &error), SPC_ENOMEM);
    cr_assert_null(runner);
    cr_assert(strstr(error.message, "MiB are free") && strstr(error.message, "lower"), "%s",
              error.message);
    huge = (spc_limits){
        .slots = INT32_MAX, .context = INT32_MAX, .rows = INT32_MAX, .outputs = INT32_MAX};
    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &huge, &runner, &error), SPC_ENOMEM);
    golden_close(&g);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
/* What becomes of faults that no real device shows on demand. */

static void cannot_open(const char *expected)
{
    spc_backend *backend;
    spc_error error;

    cr_expect_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_EDEVICE);
    cr_expect_null(backend);
    cr_expect(strstr(error.message, expected), "%s", error.message);
    cr_expect(strstr(error.message, "--device cpu"), "%s", error.message);
}

Test(cuda_backend, a_machine_without_a_device_is_said_to_have_none)
{
    fiber_gpu.count_error = cudaErrorNoDevice;
    cannot_open("no device");
    fiber_gpu.count_error = cudaErrorInsufficientDriver;
    fiber_gpu.driver = 0;
    cannot_open("no device"); /* no driver at all */
}

Test(cuda_backend, an_old_driver_is_said_to_be_too_old)
{
    fiber_gpu.count_error = cudaErrorInsufficientDriver;
    fiber_gpu.driver = 12020;
    cannot_open("it knows CUDA 12.2, this build needs 13.0");
}

Test(cuda_backend, a_device_without_code_is_named_with_its_capability)
{
    fiber_gpu.code_error = cudaErrorNoKernelImageForDevice;
    cannot_open("compute capability 8.0");
}

Test(cuda_backend, a_runner_takes_what_memory_said_and_its_weights)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        size_t memory = g.ops->memory(g.backend, g.plan, &golden_limits);
        size_t weights = (size_t)spc_bundle_bytes(g.bundle);

        cr_expect_geq(memory, GOLDEN_SLOTS * spc_plan_kv_bytes(g.plan, GOLDEN_CONTEXT));
        cr_expect_leq(fiber_gpu.used, memory + weights + (size_t)g.plan->weight_count * 256);
        cr_expect_gt(fiber_gpu.used, memory + weights / 10 * 9, "vectors are in memory already");
        golden_close(&g);
        cr_expect_eq(fiber_gpu.allocations, 0);
    }
}

Test(cuda_backend, a_device_too_small_by_any_amount_is_told_before_weights_move)
{
    golden g = golden_open(&spc_backend_cuda, "llama");
    size_t needed = fiber_gpu.used;
    spc_runner *runner;
    spc_error error;

    for (size_t lacking = 1; lacking <= needed; lacking *= 7) {
        fiber_gpu.memory = fiber_gpu.used + needed - lacking;
        cr_expect_eq(g.ops->load(g.backend, g.plan, g.bundle, &golden_limits, &runner, &error),
                     SPC_ENOMEM);
        cr_expect_null(runner);
        cr_expect_eq(fiber_gpu.allocations, 2, "those of the other runner");
    }
    fiber_gpu.memory = fiber_gpu.used + needed;
    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &golden_limits, &runner, &error), SPC_OK);
    g.ops->unload(runner);
    golden_close(&g);
}

Test(cuda_backend, two_models_that_do_not_fit_together_are_told_before_either_is_loaded)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_OK, "%s", error.message);
    fiber_gpu.memory = fiber_gpu.used - 4096 * 100;
    spc_engine_close(engine);
    fiber_gpu.most_used = 0;
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_ENOMEM);
    cr_assert_null(engine);
    cr_expect(strstr(error.message, "MiB free; lower sessions, context or kv-tokens"), "%s",
              error.message);
    cr_expect(strstr(error.message, "cuda:0, fibers"), "%s", error.message);
    cr_expect_eq(fiber_gpu.most_used, 0);
}

static void note_warning(void *user, const char *line)
{
    if (strncmp(line, "warning: ", 9) == 0) (void)snprintf(user, 256, "%s", line);
}

Test(cuda_backend, auto_passes_over_a_device_that_cannot_be_used_and_says_so_but_not_over_none)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;
    char said[256] = "";

    spc_engine_options_init(&o);
    o.log = note_warning;
    o.user = said;
    fiber_gpu.count_error = cudaErrorNoDevice;
    cr_assert_eq(open_on("auto", &o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_close(engine);
    cr_expect_str_empty(said);
    fiber_gpu.count_error = cudaErrorInsufficientDriver;
    fiber_gpu.driver = 12020;
    cr_assert_eq(open_on("auto", &o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_close(engine);
    cr_expect(strstr(said, "12.2") && strstr(said, "the CPU is used"), "%s", said);
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_EDEVICE);
    o.isa = "portable";
    cr_assert_eq(open_on("cuda", &o, &engine, &error), SPC_EUSAGE);
}

Test(cuda_backend, a_device_that_fails_in_any_launch_ends_the_session_and_is_closed)
{
    spc_model models[2];
    spc_engine *engine = pair_engine(&spc_backend_cuda, 1, models);
    spc_session_options o = options_of("token-v3:alpha=0.5", 2, 1);
    prompt p = {{1, 5, 9}, 3};
    int32_t allocations = fiber_gpu.allocations;

    static const int32_t launches[] = {0, 1, 40, 130};

    for (size_t i = 0; i < sizeof launches / sizeof *launches; i++) {
        fiber_gpu.fails_after = fiber_gpu.launches + launches[i];
        decoded d = decode(engine, &o, &p);

        cr_expect_eq(d.finish, SPC_FINISH_FAILED);
        cr_expect_eq(d.status, SPC_EDEVICE, "%s", d.error.message);
        cr_expect(strstr(d.error.message, "cuda:0: "), "%s", d.error.message);
        fiber_gpu.fails_after = -1;
        d = decode(engine, &o, &p);
        cr_expect_eq(d.status, SPC_EDEVICE, "what failed once is not used again");
        cr_expect_eq(fiber_gpu.allocations, allocations);
        close_pair(engine, models);
        engine = pair_engine(&spc_backend_cuda, 1, models);
    }
    close_pair(engine, models);
    cr_expect_eq(fiber_gpu.allocations, 0);
    cr_expect_eq(fiber_gpu.graphs, 0);
}

/* The same rows at the same place, plainly, recorded, sent again, and where nothing can be
 * recorded.
 */
Test(cuda_backend, a_recorded_forward_has_the_bits_of_a_plain_one)
{
    for (int32_t m = 0; m < GOLDEN_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        size_t bytes = (size_t)g.vocab * sizeof(float);
        float *plain = malloc(bytes);
        int32_t replays;

        golden_feed(&g, 0, g.ids, 3, 0);
        golden_feed(&g, 0, g.ids + 3, 2, 0);
        memcpy(plain, g.ops->logits(g.runner, 1), bytes);
        replays = fiber_gpu.replays;
        for (int32_t i = 0; i < 3; i++) {
            g.ops->rewind(g.runner, 0, 3);
            golden_feed(&g, 0, g.ids + 3, 2, 0);
            cr_expect(memcmp(plain, g.ops->logits(g.runner, 1), bytes) == 0, "%s: %d",
                      golden_models[m], (int)i);
        }
        cr_expect_eq(fiber_gpu.replays, replays + 3);
        fiber_gpu.no_capture = true;
        golden_feed(&g, 1, g.ids, 4, 0);
        for (int32_t i = 0; i < 3; i++) {
            g.ops->rewind(g.runner, 1, 3);
            golden_feed(&g, 1, g.ids + 3, 2, 0);
            cr_expect(memcmp(plain, g.ops->logits(g.runner, 1), bytes) == 0);
        }
        fiber_gpu.no_capture = false;
        free(plain);
        golden_close(&g);
        cr_expect_eq(fiber_gpu.graphs, 0);
    }
}

/* Longer than one part of the cache: single rows, whose launches change on the way, against chunks.
 */
Test(cuda_backend, single_rows_across_parts_of_the_cache_have_the_bits_of_chunks)
{
    enum { LONG = 300, FROM = 125, TO = 132 };
    static const spc_limits limits = {
        .slots = 2, .context = LONG, .rows = GOLDEN_ROWS, .outputs = GOLDEN_ROWS};
    golden g = golden_open(&spc_backend_cuda, "mistral-window");
    float *rows = malloc((TO - FROM) * (size_t)g.vocab * sizeof *rows);
    int32_t ids[TO], replays = fiber_gpu.replays;
    spc_error error;

    for (int32_t i = 0; i < TO; i++) ids[i] = g.ids[i * 7 % g.count];
    g.ops->unload(g.runner);
    cr_assert_eq(g.ops->load(g.backend, g.plan, g.bundle, &limits, &g.runner, &error), SPC_OK);
    for (int32_t slot = 0; slot < 2; slot++) {
        for (int32_t at = 0; at < FROM; at += 25) golden_feed(&g, slot, ids + at, 25, 0);
    }
    golden_feed(&g, 0, ids + FROM, TO - FROM, 0);
    for (int32_t i = 0; i < TO - FROM; i++) {
        memcpy(rows + (int64_t)i * g.vocab, g.ops->logits(g.runner, i),
               (size_t)g.vocab * sizeof *rows);
    }
    for (int32_t i = 0; i < TO - FROM; i++) {
        golden_feed(&g, 1, ids + FROM + i, 1, 0);
        cr_expect(memcmp(rows + (int64_t)i * g.vocab, g.ops->logits(g.runner, 0),
                         (size_t)g.vocab * sizeof *rows) == 0,
                  "position %d", (int)(FROM + i));
    }
    cr_expect_gt(fiber_gpu.replays, replays);
    free(rows);
    golden_close(&g);
}

Test(cuda_backend, steps_take_no_memory)
{
    spc_model models[2];
    spc_engine *engine = pair_engine(&spc_backend_cuda, 2, models);
    spc_session_options o = options_of("strict", 2, 1);
    prompt p = {{1, 5, 9}, 3};
    int32_t allocations = fiber_gpu.allocations;
    size_t used = fiber_gpu.used;

    o.max_tokens = 4;
    for (int32_t i = 0; i < 3; i++) (void)decode(engine, &o, &p);
    cr_expect_eq(fiber_gpu.allocations, allocations);
    cr_expect_eq(fiber_gpu.most_used, used);
    close_pair(engine, models);
}

/* Stacks as large as those of kernels that decide at length. */
Test(cuda_backend, steps_find_the_stacks_they_need)
{
    spc_model models[2];
    spc_engine *engine;
    spc_session_options o = options_of("strict", 2, 1);
    prompt p = {{1, 5, 9}, 3};
    size_t used = fiber_gpu.used;

    fiber_gpu.needs = 4096;
    o.max_tokens = 4;
    engine = pair_engine(&spc_backend_cuda, 2, models);
    cr_expect_eq(fiber_gpu.stack, 4096);
    cr_expect_geq(fiber_gpu.used, used + (4096 - 1024) * (size_t)FIBER_RESIDENT);
    (void)decode(engine, &o, &p);
    cr_expect_eq(fiber_gpu.growths, 0);
    close_pair(engine, models);
}

Test(cuda_backend, stacks_are_counted_when_a_device_is_opened_and_larger_ones_are_left)
{
    spc_backend *backend;
    spc_error error;

    fiber_gpu.needs = 800;
    cr_assert_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    cr_expect_eq(spc_backend_cuda.stacks(backend), 800 * (size_t)FIBER_RESIDENT);
    cr_expect_eq(fiber_gpu.stack, 1024);
    cr_expect_eq(fiber_gpu.used, 0);
    spc_backend_cuda.close(backend);
}

Test(cuda_backend, a_device_without_room_for_stacks_is_refused)
{
    spc_backend *backend;
    spc_error error;

    fiber_gpu.needs = 4096;
    fiber_gpu.memory = 1 << 20;
    cr_expect_eq(spc_backend_cuda.open(&backend, 0, NULL, &error), SPC_ENOMEM);
    cr_expect_null(backend);
    cr_expect(strstr(error.message, "stacks, 8 MiB on this device"), "%s", error.message);
}
#endif
