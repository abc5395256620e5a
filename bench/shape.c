/* SPDX-License-Identifier: Apache-2.0 */
/* shape.c - sizes of published models, filled with numbers. */
#include "bench/shape.h"

#include "bench/measure.h"
#include "bench/shape_weights.h"
#include "bench/verify_place.h"

#include <stdlib.h>
#include <string.h>

enum { READ_BYTES = 256 << 20, READ_CACHES = 16 }; /* on the CPU; on a GPU, times its last cache */

/* Sizes of published models; context as far as it is measured. */
static const struct {
    const char *name, *config;
} shapes[] = {
#define SHAPE(kind, vocab, dim, layers, heads, kv, head, ffn, tied, more)                       \
    "{\"architectures\": [\"" kind "\"], \"vocab_size\": " #vocab ", \"hidden_size\": " #dim    \
    ", \"num_hidden_layers\": " #layers ", \"num_attention_heads\": " #heads                    \
    ", \"num_key_value_heads\": " #kv ", \"head_dim\": " #head ", \"intermediate_size\": " #ffn \
    ", \"tie_word_embeddings\": " #tied ", \"max_position_embeddings\": 40960" more "}"
#define LLAMA "LlamaForCausalLM"
#define QWEN  "Qwen2ForCausalLM"
#define GEMMA "Gemma2ForCausalLM"
#define GEMMA_MORE                                                                               \
    ", \"sliding_window\": 4096, \"query_pre_attn_scalar\": 256, \"attn_logit_softcapping\": 50" \
    ", \"final_logit_softcapping\": 30"
    {"llama-1b", SHAPE(LLAMA, 128256, 2048, 16, 32, 8, 64, 8192, true, "")},
    {"llama-3b", SHAPE(LLAMA, 128256, 3072, 28, 24, 8, 128, 8192, true, "")},
    {"llama-8b", SHAPE(LLAMA, 128256, 4096, 32, 32, 8, 128, 14336, false, "")},
    {"qwen-0.5b", SHAPE(QWEN, 151936, 896, 24, 14, 2, 64, 4864, true, "")},
    {"qwen-1.5b", SHAPE(QWEN, 151936, 1536, 28, 12, 2, 128, 8960, true, "")},
    {"qwen-7b", SHAPE(QWEN, 152064, 3584, 28, 28, 4, 128, 18944, false, "")},
    {"gemma-2b", SHAPE(GEMMA, 256000, 2304, 26, 8, 4, 256, 9216, true, GEMMA_MORE)},
    {"gemma-9b", SHAPE(GEMMA, 256000, 3584, 42, 16, 8, 256, 14336, true, GEMMA_MORE)},
    {"tiny-drafter", SHAPE(LLAMA, 512, 32, 1, 2, 1, 16, 64, true, "")},
    {"tiny", SHAPE(LLAMA, 512, 64, 2, 4, 2, 16, 128, true, "")}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* ---- random weights ---------------------------------------------------------------------------
 */

spc_status shape_open(const char *name, const char *weights, const spc_backend_ops *ops,
                      shape_model *m, spc_error *err)
{
    static const char empty[] = "\x02\0\0\0\0\0\0\0{}";
    spc_blob files[2] = {{"model.safetensors", empty, sizeof empty - 1}, {"config.json", NULL, 0}};
    spc_dtype type = SPC_DTYPE_BF16;
    spc_status status = shape_weights_type(weights ? weights : "bf16", &type, err);
    int32_t i = 0;

    if (status != SPC_OK) return status;
    while (i < SHAPES && strcmp(shapes[i].name, name) != 0) i++;
    if (i == SHAPES) {
        return spc_error_set(err, SPC_EUSAGE, "unknown shape '%.40s'; there are " SHAPE_NAMES,
                             name);
    }
    files[1].data = shapes[i].config;
    files[1].bytes = strlen(shapes[i].config);
    status = spc_bundle_open_memory(name, files, 2, &m->bundle, err);
    if (status == SPC_OK) status = spc_config_read(m->bundle, &m->config, err);
    if (status == SPC_OK) status = spc_plan_build(&m->config, name, &m->plan, err);
    if (status != SPC_OK) return status;
    return shape_weights_put(m->plan, type, ops != &spc_backend_cpu, m->bundle, &m->file, err);
}

spc_status shape_open_model(const char *name, const char *weights, shape_model *m, spc_error *err)
{
    spc_model model = {.plan = NULL};
    spc_status status = spc_open_model(name, &model, err);

    m->bundle = model.bundle;
    m->plan = model.plan;
    m->config = model.config;
    return status == SPC_OK ? spc_change_weights(&model, weights, 0, NULL, NULL, err) : status;
}

void shape_close(shape_model *m)
{
    spc_plan_close(m->plan);
    spc_bundle_close(m->bundle);
    free(m->file);
}

/* ---- the limit --------------------------------------------------------------------------------
 */

typedef struct {
    bench_place place;
    void *memory;
} reader;

static bool read_once(void *user, int32_t set, spc_stream stream)
{
    reader *r = user;

    (void)set;
    return r->place.read(&r->place, r->memory, READ_CACHES * r->place.cache, stream);
}

/* GB/s of the GPU that the backend made this thread's. */
static double device_read_rate(spc_error *err)
{
    static reader r;
    measure_times us;
    bool ok = place_open_cuda(&r.place);
    size_t bytes = READ_CACHES * r.place.cache;

    if (ok) r.memory = r.place.allocate(&r.place, bytes);
    ok = ok && r.memory && r.place.time(&r.place, read_once, &r, 1, 50, PLACE_COLD, &us);
    if (!ok) *err = r.place.error;
    if (r.memory) r.place.release(r.memory);
    if (r.place.close) r.place.close(&r.place);
    return ok ? (double)bytes / us.median * 1e-3 : 0;
}

double shape_read_rate(const spc_backend_ops *ops, const spc_backend *backend, spc_error *err)
{
    const char *device = ops->device(backend);
    double rate;

    if (ops != &spc_backend_cpu) return device_read_rate(err);
    rate = measure_read_rate((int32_t)strtol(strchr(device, ' ') + 1, NULL, 10), READ_BYTES);
    if (!(rate > 0)) (void)spc_error_set(err, SPC_ENOMEM, "no memory to read");
    return rate;
}
