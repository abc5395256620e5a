/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_footprint.c - memory that an engine takes, as the kernel counts it, against what
 * `spc info` says it will: with every row of the caches and of the scratch in use, within 5 %.
 *
 * What is said to be needed is weights + KV cache + workspace + tokenizer.  Weights are mapped, and
 * of an embedding that is no head only the rows that were asked for come into memory: what is
 * compared is `row_bytes`, the weights that a row reads.  Real models: where SPC_MODELS names the
 * folder that tests/models/fetch.py filled. */
#include "decode.h"
#include "spawn.h"

#include <stdio.h>

#define TINY SPC_TEST_VECTORS "/gguf/llama-Q8_0.gguf"

enum { CONTEXT_LEFT = SPC_GAMMA_MAX + 8, PATH = 512 };

/* Bytes of process memory that no file backs, of mapped files, and of the most of both at once. */
typedef struct {
    double private, mapped, peak;
} footprint;

static double status_bytes(const char *status, const char *field)
{
    const char *at = strstr(status, field);

    cr_assert_not_null(at, "%s", field);
    return 1024 * atof(at + strlen(field));
}

static footprint footprint_now(void)
{
    char status[4096];
    FILE *file = fopen("/proc/self/status", "r");

    cr_assert_not_null(file);
    status[fread(status, 1, sizeof status - 1, file)] = '\0';
    (void)fclose(file);
    return (footprint){status_bytes(status, "RssAnon:"), status_bytes(status, "RssFile:"),
                       status_bytes(status, "VmHWM:")};
}

/* Bytes that are promised. */
typedef struct {
    double weights, read, kv, workspace, tokenizer;
} promise;

typedef struct {
    const char *verifier, *drafter; /* drafter NULL: none */
    int32_t sessions, context;
    const char *weights, *kv; /* NULL: as they come */
} setup;

static double member(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    cr_assert(json_is_integer(value), "%s", name);
    return (double)json_integer_value(value);
}

/* What `spc info` says of one model. */
static promise promise_of(const setup *s, const char *model)
{
    char context[16], batch[16];
    const char *args[14] = {"info",  "--json",  "--device", "cpu", "--context",
                            context, "--batch", batch,      model};
    int32_t count = 9;
    promise p;

    (void)snprintf(context, sizeof context, "%d", (int)s->context);
    (void)snprintf(batch, sizeof batch, "%d", (int)s->sessions);
    if (s->weights) args[count++] = "--weights";
    if (s->weights) args[count++] = s->weights;
    if (s->kv) args[count++] = "--kv";
    if (s->kv) args[count++] = s->kv;

    json_t *lines = spawn_json(args, NULL);
    const json_t *info = json_array_get(lines, 0), *memory = json_object_get(info, "memory");
    const json_t *device = json_array_get(json_object_get(memory, "devices"), 0);

    p = (promise){member(device, "weight_bytes"), member(info, "row_bytes"),
                  member(device, "kv_bytes"), member(device, "workspace_bytes"),
                  member(device, "tokenizer_bytes")};
    json_decref(lines);
    return p;
}

/* Both models; the drafter's tokenizer is let go when it has been compared. */
static promise promise_of_both(const setup *s)
{
    promise v = promise_of(s, s->verifier), d = {0, 0, 0, 0, 0};

    if (s->drafter) d = promise_of(s, s->drafter);
    return (promise){v.weights + d.weights, v.read + d.read, v.kv + d.kv, v.workspace + d.workspace,
                     v.tokenizer};
}

/* Fill the caches of all sessions and every row of a round. */
static void use_all(spc_engine *engine, const setup *s)
{
    spc_session *session[64];
    spc_session_options o = options_of(s->drafter ? "strict" : "verifier-only", SPC_GAMMA_MAX, 0);
    int32_t count = s->context - CONTEXT_LEFT, running = 1;
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    spc_error error;

    cr_assert(ids && s->sessions <= 64);
    for (int32_t i = 0; i < count; i++) ids[i] = 300 + i % 16; /* their rows lie side by side */
    o.ignore_stop = true;
    if (s->drafter) o.bonus = SPC_BONUS_STEP; /* the most rows */
    for (int32_t i = 0; i < s->sessions; i++) {
        ids[0] = 300 + i;
        cr_assert_eq(spc_session_open(engine, &o, ids, count, &session[i], &error), SPC_OK, "%s",
                     error.message);
    }
    while (running) {
        cr_assert_eq(spc_engine_step(engine, session, s->sessions, &error), SPC_OK, "%s",
                     error.message);
        running = 0;
        for (int32_t i = 0; i < s->sessions; i++) {
            running += spc_session_finish(session[i]) == SPC_FINISH_RUNNING;
        }
    }
    for (int32_t i = 0; i < s->sessions; i++) spc_session_close(session[i]);
    free(ids);
}

static void expect_within(const char *what, double bytes, double least, double most)
{
    cr_expect(bytes >= least && bytes <= most, "%s: %.0f KiB, expected %.0f to %.0f", what,
              bytes / 1024, least / 1024, most / 1024);
}

static void run(const setup *s, footprint *after)
{
    spc_engine_options o;
    spc_engine *engine;
    spc_error error;

    spc_engine_options_init(&o);
    o.verifier = s->verifier;
    o.drafter = s->drafter;
    o.sessions = s->sessions;
    o.context = s->context;
    o.weights = s->weights;
    o.kv = s->kv;
    o.no_prefix_reuse = true;
    o.prefill_rows = 1 << 16; /* as many as a forward has room for */
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    use_all(engine, s);
    *after = footprint_now();
    spc_engine_close(engine);
}

/* Kernels that only the larger of two runs comes to are mapped as well, and what lies around them:
 * more or less of it from run to run. */
#define CODE 1048576.0

static void expect_promise(const setup *s)
{
    static const setup small = {TINY, TINY, 1, 128, NULL, NULL};
    promise p = promise_of_both(s);
    double own = p.kv + p.workspace + p.tokenizer;
    footprint before, after;

    run(&small, &before); /* the program's own code comes into memory */
    before = footprint_now();
    run(s, &after);
    expect_within("private", after.private - before.private, 0.95 * own, 1.05 * (own + p.weights));
    expect_within("mapped", after.mapped - before.mapped, 0, 1.05 * p.weights + CODE);
    expect_within("peak", after.peak - before.private - before.mapped, 0.95 * (own + p.read),
                  1.05 * (own + p.read));
}

Test(host_footprint, the_embedded_pair)
{
    expect_promise(&(const setup){"embedded:verifier", "embedded:drafter", 4, 512, NULL, NULL});
}

/* The pages of what was converted are let go. */
Test(host_footprint, integers_made_at_load)
{
    expect_promise(&(const setup){DEMO_VERIFIER, NULL, 2, 512, "int8", NULL});
}

Test(host_footprint, keys_and_values_of_16_bits)
{
    expect_promise(&(const setup){"embedded:verifier", "embedded:drafter", 8, 512, NULL, "bf16"});
}

Test(host_footprint, a_tiny_model)
{
    expect_promise(&(const setup){TINY, TINY, 64, 128, NULL, NULL});
}

static void expect_real(const char *verifier, const char *drafter)
{
    const char *folder = getenv("SPC_MODELS");
    char path[2][PATH];

    if (!folder) cr_skip_test("SPC_MODELS names no folder that tests/models/fetch.py filled");
    (void)snprintf(path[0], PATH, "%s/%s.gguf", folder, verifier);
    (void)snprintf(path[1], PATH, "%s/%s.gguf", folder, drafter ? drafter : "");
    expect_promise(&(const setup){path[0], drafter ? path[1] : NULL, 1, 256, NULL, NULL});
}

Test(host_footprint, a_real_pair)
{
    expect_real("qwen2.5-coder-1.5b-instruct", "qwen2.5-coder-0.5b-instruct");
}

Test(host_footprint, a_real_model)
{
    expect_real("smollm2-135m-instruct", NULL);
}

Test(host_footprint, a_real_model_of_many_words)
{
    expect_real("gemma-3-270m", "gemma-3-270m"); /* it takes drafts to use every row of logits */
}
