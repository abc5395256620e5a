/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_backend.c - the CUDA backend against recorded references and against the CPU backend,
 * verb by verb.  (Sessions: test_cuda_backend_engines.c; errors: test_cuda_backend_refusals.c.)
 *
 * Built twice: against the device, and against tests/fibers, which runs backend and kernels without
 * one; faults of the device are tested there.
 *
 * Tolerances.  Kernels take float32 sums in another order than the CPU does.  Logits of the tiny
 * models are within 1e-4 of the references of transformers, as the CPU's are; those of the embedded
 * pair within 2e-4 of the CPU's, whose largest are about 20; within 5e-3 where cuBLASLt multiplies
 * activations of 16 bits. */
#include "host/gpu/backend_cuda.h"

#include "distance.h"
#include "golden.h"
#include "tiny.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <pthread.h>

static bool same_bits(const golden *g, const float *a, const float *b)
{
    return memcmp(a, b, (size_t)g->count * (size_t)g->vocab * sizeof *a) == 0;
}

/* ---- verbs ----------------------------------------------------------------------------------- */

Test(cuda_backend, logits_are_those_of_the_reference_in_chunks_of_any_size)
{
    static const int32_t chunks[] = {1, 2, 5, 6, 13}; /* two of them for each model */

    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
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
    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
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
    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
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

    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);

        for (int32_t pages = 0; pages < 3; pages++) shared += golden_shares(&g, pages);
        golden_close(&g);
    }
    cr_expect_gt(shared, 20);
}

/* A row of slot 0 at this position, and one of slot 1 at the one before. */
static void feed_two(const golden *g, int32_t position)
{
    int32_t slot[] = {0, 1}, positions[] = {position, position - 1}, output[] = {0, 1};
    int32_t token[] = {g->ids[position], g->ids[position - 1]};
    spc_rows rows = {2, slot, token, positions, output};
    spc_error error;

    cr_assert_eq(g->ops->forward(g->runner, &rows, &error), SPC_OK, "%s", error.message);
}

/* Sequences share pages whose entries one of the models still lacks.  Attention writes the entries
 * of its rows by itself, in one launch, unless one of them lies in such a page. */
Test(cuda_backend, a_page_is_not_written_in_the_launch_in_which_another_slot_reads_it)
{
    enum { PAGES = GOLDEN_CONTEXT / SPC_PAGE_TOKENS, OWN = 2 * PAGES };
    static const struct {
        int32_t shared; /* pages of slot 0 that slot 1 has, too */
        int32_t position;
        int32_t torn;
    } at[] = {
        {0, 5, 0},
        {1, 5, 1},
        {1, SPC_PAGE_TOKENS, 1}, /* a chained round might begin lower */
        {1, SPC_PAGE_TOKENS + CUDA_LANE_DRAFTS + 1, 0},
        {0, SPC_PAGE_TOKENS, 0},
    };
    golden g = golden_open(&spc_backend_cuda, golden_models[0]);
    int32_t table[PAGES];
    float *whole = golden_run(&g, 0, g.count);

    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        int32_t position = at[i].position;

        cr_assert_lt(position, g.count);
        for (int32_t k = 0; k < PAGES; k++) table[k] = k < at[i].shared ? k : OWN - 1 - k;
        cr_assert_eq(g.ops->map(g.runner, 1, table, PAGES, 0, NULL), SPC_OK);
        for (int32_t slot = 0; slot < 2; slot++) {
            g.ops->rewind(g.runner, slot, 0);
            golden_feed(&g, slot, g.ids, position - slot, 0);
        }
        feed_two(&g, position);
        cr_expect_eq(g.runner->shape.torn, at[i].torn, "case %zu", i);
        for (int32_t k = 0; k < 2; k++) {
            cr_expect(memcmp(g.ops->logits(g.runner, k), whole + (int64_t)(position - k) * g.vocab,
                             (size_t)g.vocab * sizeof *whole) == 0,
                      "case %zu, slot %d", i, (int)k);
        }
    }
    free(whole);
    golden_close(&g);
}

/* Slots of different lengths in one forward, some rows wanted, others not. */
Test(cuda_backend, a_row_has_the_same_bits_beside_other_slots)
{
    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
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

/* cuBLASLt takes rows beyond 16: prompts, and rounds of many sessions. */
Test(cuda_backend, logits_by_the_library_are_those_of_the_reference)
{
    static const spc_limits limits = {.slots = 1,
                                      .context = GOLDEN_CONTEXT,
                                      .rows = GOLDEN_ROWS,
                                      .outputs = GOLDEN_ROWS,
                                      .library = true};

    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
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
    runner = tiny_load_on(ops, model, backend, &limits);
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

/* Another thread's model comes and goes. */
static void *load_another(void *user)
{
    golden g = golden_open(&spc_backend_cuda, golden_models[0]);

    golden_feed(&g, 0, g.ids, 3, 0);
    cr_expect(isfinite(g.ops->logits(g.runner, 2)[0]));
    golden_close(&g);
    return user;
}

/* A wait for the whole device, say, would break what is recorded. */
Test(cuda_backend, a_model_is_loaded_while_another_thread_records)
{
    cudaStream_t stream;
    cudaGraph_t graph = NULL;
    pthread_t thread;

    cr_assert_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    cr_assert_eq(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    cr_assert_eq(pthread_create(&thread, NULL, load_another, NULL), 0);
    (void)pthread_join(thread, NULL);
    cr_expect_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    if (graph) (void)cudaGraphDestroy(graph);
    (void)cudaStreamDestroy(stream);
}

#ifdef SPC_TESTS_FIBER_RUNTIME_H
/* Nothing is staged where the device reads the host's memory by itself (HMM, ATS): rows of the next
 * forward take the place of those of the last in time. */
Test(cuda_backend, rows_stay_until_a_device_that_reads_the_host_has_read_them)
{
    golden g;
    float *rows;

    fiber_gpu.late = fiber_gpu.reads_host = true;
    g = golden_open(&spc_backend_cuda, golden_models[0]);
    fiber_gpu.most_left = 0;
    for (int32_t i = 0; i < g.count; i++) golden_feed(&g, 0, &g.ids[i], 1, 0);
    cr_expect_gt(fiber_gpu.most_left, 1, "forwards are sent ahead of the device");
    rows = malloc((size_t)g.vocab * sizeof *rows);
    memcpy(rows, g.ops->logits(g.runner, 0), (size_t)g.vocab * sizeof *rows);
    cr_expect_leq(
        distance(rows, g.logits + (size_t)(g.count - 1) * (size_t)g.vocab, (size_t)g.vocab), 1e-4f);
    free(rows);
    golden_close(&g);
    cr_expect_eq(fiber_gpu.pinned, 0);
    fiber_gpu.late = fiber_gpu.reads_host = false;
}

/* Rows 3 and 4 of slot 0 behind those in front of them, plainly; the last one's logits, malloc'd.
 */
static float *plain_row(golden *g)
{
    size_t bytes = (size_t)g->vocab * sizeof(float);
    float *plain = malloc(bytes);

    cr_assert_not_null(plain);
    golden_feed(g, 0, g->ids, 3, 0);
    golden_feed(g, 0, g->ids + 3, 2, 0);
    memcpy(plain, g->ops->logits(g->runner, 1), bytes);
    return plain;
}

/* The same again and again in a slot that holds what is in front of them, or more. */
static void expect_again(golden *g, int32_t slot, int32_t times, const float *plain,
                         const char *what)
{
    for (int32_t i = 0; i < times; i++) {
        g->ops->rewind(g->runner, slot, 3);
        golden_feed(g, slot, g->ids + 3, 2, 0);
        cr_expect(memcmp(plain, g->ops->logits(g->runner, 1), (size_t)g->vocab * sizeof *plain) ==
                      0,
                  "%s: %d", what, (int)i);
    }
}

/* The same rows at the same place, plainly, recorded, sent again, and where nothing can be
 * recorded.
 */
Test(cuda_backend, a_recorded_forward_has_the_bits_of_a_plain_one)
{
    for (int32_t m = 0; m < GOLDEN_GPU_MODELS; m++) {
        golden g = golden_open(&spc_backend_cuda, golden_models[m]);
        float *plain = plain_row(&g);
        int32_t replays = fiber_gpu.replays;

        expect_again(&g, 0, 3, plain, golden_models[m]);
        cr_expect_eq(fiber_gpu.replays, replays + 3);
        fiber_gpu.no_capture = true;
        golden_feed(&g, 1, g.ids, 4, 0);
        expect_again(&g, 1, 3, plain, "not recorded");
        fiber_gpu.no_capture = false;
        free(plain);
        golden_close(&g);
        cr_expect_eq(fiber_gpu.graphs, 0);
    }
}

/* It is sent to the device when it is recorded, while there is something else to do. */
Test(cuda_backend, a_forward_whose_graph_finds_no_memory_is_launched_plainly)
{
    golden g = golden_open(&spc_backend_cuda, "llama");
    float *plain = plain_row(&g);
    int32_t replays = fiber_gpu.replays;

    fiber_gpu.no_upload = true;
    expect_again(&g, 0, 3, plain, "no memory");
    cr_expect_eq(fiber_gpu.replays, replays);
    cr_expect_eq(fiber_gpu.graphs, 0);
    cr_expect_eq(cudaGetLastError(), cudaSuccess, "an application would find it");
    fiber_gpu.no_upload = false;
    free(plain);
    golden_close(&g);
}

/* Of a graph's kernels some blocks run as far as they may before the kernel in front: logits are
 * those of plain launches.  Where a device cannot, its graphs cannot, or its driver compiled code
 * of before there was such a thing, none do. */
Test(cuda_backend, kernels_begin_early_and_results_stay)
{
    enum { CAN, OLD, OLD_CODE, REFUSES, ASKED, KINDS };

    for (int32_t m = 0; m < GOLDEN_GPU_MODELS * 2; m++) { /* of those that cannot, one a model */
        const int kind = m % 2 == 0 ? CAN : 1 + m / 2 % (KINDS - 1);
        const char *said;
        char what[64];
        golden g;
        float *plain;
        int32_t before = fiber_gpu.early, replays;

        fiber_gpu.major = kind == OLD ? 8 : 9;
        fiber_gpu.code = kind == OLD_CODE ? 80 : 90;
        fiber_gpu.no_early = kind == REFUSES;
        g = golden_open(&spc_backend_cuda, golden_models[m / 2]);
        g.runner->limits.no_early = kind == ASKED;
        (void)snprintf(what, sizeof what, "%s, kind %d", golden_models[m / 2], kind);
        plain = plain_row(&g);
        replays = fiber_gpu.replays;
        expect_again(&g, 0, 6, plain, what);
        cr_expect_eq(fiber_gpu.replays, replays + 6);
        if (kind == CAN) {
            cr_expect_gt(fiber_gpu.early, before + 6);
        } else {
            cr_expect_eq(fiber_gpu.early, before);
        }
        said = g.ops->notice(g.backend);
        cr_expect_eq(said != NULL, kind == OLD_CODE || kind == REFUSES, "%s: %s", what, said);
        cr_expect_eq(said && strstr(said, "code for older GPUs"), kind == OLD_CODE, "%s", what);
        free(plain);
        golden_close(&g);
    }
    fiber_gpu.major = 9;
    fiber_gpu.code = 90;
    fiber_gpu.no_early = false;
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
#endif
