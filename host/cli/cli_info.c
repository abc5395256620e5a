/* SPDX-License-Identifier: Apache-2.0 */
/* cli_info.c - spc info: one model described, and the memory that it takes, perhaps beside a
 * drafter. */
#include "cli_memory.h"
#include "host/device.h"
#include "host/kv.h"
#include "host/narrow.h"
#include "host/pair.h"

#include "weights/chat.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

typedef struct {
    const char *device, *drafter, *drafter_device, *drafter_vocab, *weights, *kv;
    int32_t context, batch, kv_tokens;
    bool plan, json;
} info_args;

static const spc_cli_option info_options[] = {
    {"context", "N", "tokens per sequence to plan memory for; 0: what the model allows",
     SPC_CLI_INT, offsetof(info_args, context), 0, INT32_MAX},
    {"batch", "N", "sequences decoded together to plan memory for", SPC_CLI_INT,
     offsetof(info_args, batch), 1, SPC_SESSIONS_MAX},
    {"kv-tokens", "N",
     "tokens that their KV caches hold together; 0: the context for each, or as much\n"
     "of that as fits in the memory of a GPU",
     SPC_CLI_INT, offsetof(info_args, kv_tokens), 0, INT32_MAX},
    {"device", "NAME",
     "device to plan memory for: cpu, cuda or cuda:N; default: the CPU, and the first GPU\n"
     "if there is one",
     SPC_CLI_TEXT, offsetof(info_args, device), 0, 0},
    {"drafter", "MODEL",
     "a small model, to plan memory for beside it; 'ngram' (as of spc run) takes none",
     SPC_CLI_TEXT, offsetof(info_args, drafter), 0, 0},
    {"drafter-device", "NAME", "where the small one is to run, if elsewhere: cpu, cuda or cuda:N",
     SPC_CLI_TEXT, offsetof(info_args, drafter_device), 0, 0},
    {"drafter-vocab", "N|FILE", SPC_CLI_DRAFTER_VOCAB, SPC_CLI_TEXT,
     offsetof(info_args, drafter_vocab), 0, 0},
    {"weights", "KIND", SPC_CLI_WEIGHTS, SPC_CLI_TEXT, offsetof(info_args, weights), 0, 0},
    {"kv", "TYPE", SPC_CLI_KV, SPC_CLI_TEXT, offsetof(info_args, kv), 0, 0},
    {"plan", NULL, "print the ops that a row goes through", SPC_CLI_FLAG, offsetof(info_args, plan),
     0, 0},
    {"json", NULL, "the same as one JSON object", SPC_CLI_FLAG, offsetof(info_args, json), 0, 0},
};

static void info_init(void *args)
{
    ((info_args *)args)->batch = 1;
}

/* The tensors of one element type. */
typedef struct {
    int64_t tensors;
    uint64_t elements, bytes;
} dtype_use;

typedef struct {
    spc_model model;
    spc_tokenizer *tokenizer;    /* NULL: none, or none that can be used */
    spc_error tokenizer_trouble; /* why it cannot be used; "" */
    int32_t special;             /* special tokens of the tokenizer */
    const char *chat;            /* the chat template's name; NULL: none that is known */
    dtype_use dtype[SPC_DTYPE_COUNT];
    uint64_t weight_bytes;  /* of all tensors */
    uint64_t row_bytes;     /* read by one row */
    spc_model drafter;      /* zeros: none */
    spc_error pair_trouble; /* why they cannot decode together; "" */
    const char *ngram;      /* what drafts instead; NULL: nothing does */
    spc_cli_memory_for memory_for;
    spc_cli_memories memory;
} model_info;

static void count_dtypes(const spc_bundle *bundle, dtype_use *use)
{
    for (int32_t i = 0; i < spc_bundle_count(bundle); i++) {
        const spc_tensor *t = spc_bundle_tensor(bundle, i);
        uint64_t elements = 1;

        for (int32_t k = 0; k < t->rank; k++) elements *= (uint64_t)t->shape[k];
        use[t->dtype].tensors++;
        use[t->dtype].elements += elements;
        use[t->dtype].bytes += t->bytes;
    }
}

static spc_status plan_memory(const info_args *a, model_info *m, spc_error *err)
{
    const spc_config *c = &m->model.config, *d = &m->drafter.config;
    int32_t context = c->context, most = c->context_most;

    if (a->drafter && d->context < context) context = d->context;
    if (a->drafter && d->context_most < most) most = d->context_most;
    if (a->context > 0) context = a->context;
    if (context < 2 || context > most) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--context: expected 2 to %d (what the model%s), found %d", (int)most,
                             a->drafter ? "s allow" : " allows", (int)context);
    }
    spc_dtype kv;

    (void)spc_kv_type(a->kv, &kv, err); /* checked */
    m->memory_for = (spc_cli_memory_for){.device = a->device,
                                         .drafter_device = a->drafter_device,
                                         .model = &m->model,
                                         .drafter = a->drafter ? &m->drafter : NULL,
                                         .drafter_name = a->drafter,
                                         .tokenizer = m->tokenizer,
                                         .batch = a->batch,
                                         .kv_tokens = a->kv_tokens,
                                         .kv = kv,
                                         .context = context};
    return spc_cli_plan_memory(&m->memory_for, &m->memory, err);
}

/* What an engine's log would be told. */
static void on_log(void *user, const char *line)
{
    (void)user;
    (void)fprintf(stderr, "spc: %s\n", line);
}

/* Do they speak of the same tokens?  As far as tokenizers can be used, of which run says more. */
static spc_status check_pair(model_info *m, spc_error *err)
{
    spc_tokenizer *own = NULL;
    spc_status status;
    int32_t unused;

    if (m->tokenizer_trouble.message[0]) return SPC_OK;
    status = spc_open_tokenizer(&m->drafter, &own, &m->pair_trouble);
    if (status == SPC_OK) {
        const spc_pair_side drafter = {&m->drafter, own}, verifier = {&m->model, m->tokenizer};

        status = spc_pair_check(&drafter, &verifier, &unused, &m->pair_trouble);
        if (status == SPC_OK) spc_pair_warn(&drafter, &verifier, on_log, NULL);
    }
    spc_tokenizer_close(own);
    if (status == SPC_OK) m->pair_trouble.message[0] = '\0';
    if (status == SPC_OK || status == SPC_EMODEL || status == SPC_EFORMAT) return SPC_OK;
    return spc_error_set(err, status, "%s", m->pair_trouble.message);
}

/* The other model of a pair, for which there is but a memory plan. */
static spc_status read_drafter(const info_args *a, model_info *m, spc_error *err)
{
    spc_status status = spc_open_model(a->drafter, &m->drafter, err);
    int32_t ids = m->model.plan->ids;

    if (status == SPC_OK) status = check_pair(m, err);
    if (status != SPC_OK) return status;
    if (m->drafter.plan->ids < ids) ids = m->drafter.plan->ids;
    m->drafter.plan->ids = m->model.plan->ids = ids; /* those that both have */
    status = spc_narrow_head(&m->drafter, a->drafter_vocab, ids, NULL, NULL, err);
    if (status != SPC_OK) return status;
    return spc_change_weights(&m->drafter, a->weights, 0, on_log, NULL, err);
}

/* What there is to tell of text.  A tokenizer or a template that cannot be used is told of: the
 * model decodes ids without. */
static spc_status read_text(model_info *m, spc_error *err)
{
    spc_chat_template chat;
    spc_error *trouble = &m->tokenizer_trouble;
    spc_status status = spc_open_tokenizer(&m->model, &m->tokenizer, trouble);

    if (status == SPC_EMODEL || status == SPC_EFORMAT) status = SPC_OK;
    if (status != SPC_OK) return spc_error_set(err, status, "%s", trouble->message);
    spc_pair_warn_words(&(const spc_pair_side){&m->model, m->tokenizer}, on_log, NULL);
    for (int32_t id = 0; m->tokenizer && id < spc_tokenizer_size(m->tokenizer); id++) {
        m->special += spc_tokenizer_is_special(m->tokenizer, id);
    }
    status = spc_chat_detect(m->model.bundle, &chat, err);
    if (status == SPC_OK) m->chat = spc_chat_name(&chat);
    return status == SPC_EMODEL ? SPC_OK : status;
}

static spc_status read_model(const char *name, const info_args *a, model_info *m, spc_error *err)
{
    spc_status status = spc_open_model(name, &m->model, err);

    if (status == SPC_OK) status = spc_change_weights(&m->model, a->weights, 0, on_log, NULL, err);
    if (status == SPC_OK) status = read_text(m, err);
    if (status != SPC_OK) return status;
    m->weight_bytes = spc_bundle_bytes(m->model.bundle);
    m->row_bytes = spc_plan_weight_bytes(m->model.plan, m->model.bundle);
    count_dtypes(m->model.bundle, m->dtype);
    if (a->drafter) status = read_drafter(a, m, err);
    return status == SPC_OK ? plan_memory(a, m, err) : status;
}

static void print_dtypes(const model_info *m)
{
    const char *name = "dtype";

    for (int32_t i = 0; i < SPC_DTYPE_COUNT; i++) {
        const dtype_use *use = &m->dtype[i];
        char size[SPC_CLI_SIZE_BYTES];

        if (use->tensors == 0) continue;
        spc_cli_print("%-18s%s: %" PRId64 " tensor%s, %" PRIu64 " values, %s\n", name,
                      spc_dtype_name((spc_dtype)i), use->tensors, spc_cli_plural(use->tensors),
                      use->elements, spc_cli_size(use->bytes, size));
        name = "";
    }
}

static void print_text(const model_info *m)
{
    if (m->tokenizer) {
        spc_cli_print("%-18s%s, %d ids, %d of them special\n", "tokenizer",
                      spc_tokenizer_kind(m->tokenizer), (int)spc_tokenizer_size(m->tokenizer),
                      (int)m->special);
    } else if (m->tokenizer_trouble.message[0]) {
        spc_cli_print("%-18scannot be used: %s\n", "tokenizer", m->tokenizer_trouble.message);
    } else {
        spc_cli_print("%-18snone\n", "tokenizer");
    }
    spc_cli_print("%-18s%s%s\n", "chat template", m->chat ? m->chat : "none that is known",
                  m->chat ? ", for spc chat and \"messages\" of spc run --input" : "");
}

/* The numbers of ranks that the model can be cut for; returns how many. */
static int32_t worlds_of(const model_info *m, int32_t worlds[SPC_RANKS_MAX])
{
    int32_t count = 0;

    for (int32_t n = 1; n <= SPC_RANKS_MAX; n++) {
        if (spc_plan_divides(m->model.plan, n)) worlds[count++] = n;
    }
    return count;
}

static void print_worlds(const model_info *m)
{
    int32_t worlds[SPC_RANKS_MAX], count = worlds_of(m, worlds);

    spc_cli_print("%-18s", "can be cut for");
    for (int32_t i = 0; i < count; i++) spc_cli_print("%s%d", i ? ", " : "", (int)worlds[i]);
    spc_cli_print(" rank%s\n", count > 1 ? "s" : "");
}

static void print_info(const char *name, const model_info *m)
{
    const spc_config *c = &m->model.config;

    spc_cli_print("%-18s%s\n", "model", name);
    spc_cli_print("%-18s%s%s\n", "architecture", c->architecture,
                  c->contained ? ", of a model of text and images" : "");
    spc_cli_print("%-18s%" PRIu64 "\n", "parameters", spc_plan_parameters(m->model.plan));
    print_dtypes(m);
    spc_cli_print("%-18s%d\n", "hidden size", (int)c->dim);
    if (c->encoder_layers > 0) {
        spc_cli_print("%-18s%d, encoder %d\n", "layers", (int)c->layers, (int)c->encoder_layers);
    } else {
        spc_cli_print("%-18s%d\n", "layers", (int)c->layers);
    }
    spc_cli_print("%-18s%d query, %d key/value, of %d\n", "heads", (int)c->heads, (int)c->kv_heads,
                  (int)c->head_dim);
    spc_cli_print("%-18s%d\n", "feed-forward size", (int)c->ffn);
    if (c->experts > 0) {
        spc_cli_print("%-18s%d, of which a token takes %d\n", "experts", (int)c->experts,
                      (int)c->chosen);
    }
    spc_cli_print("%-18s%d%s\n", "vocabulary", (int)c->vocab,
                  c->tied ? ", head tied to the embedding" : "");
    spc_cli_print("%-18s%d tokens", "longest context", (int)c->context);
    if (c->rope.kind == SPC_ROPE_LONG && c->context_most > c->context) {
        spc_cli_print(", with other frequencies %d (--context)", (int)c->context_most);
    }
    spc_cli_print("\n");
    print_worlds(m);
    print_text(m);
    spc_cli_print("%-18s", "ends a sequence");
    for (int32_t i = 0; i < c->stop_count; i++)
        spc_cli_print("%s%d", i ? ", " : "", (int)c->stop[i]);
    spc_cli_print("%s\n", c->stop_count > 0 ? "" : "no id");
    if (m->ngram) spc_cli_print("%-18s%s, looked up: no model\n", "drafter", m->ngram);
    spc_cli_print_size("read by one row", m->row_bytes);
    spc_cli_print_memory(&m->memory_for, &m->memory);
}

/* Put a value that may be NULL for want of memory; false when it was, or there is none for it. */
static bool put(json_t *object, const char *name, json_t *value)
{
    return json_object_set_new(object, name, value) == 0;
}

static json_t *tokenizer_json(const model_info *m)
{
    if (m->tokenizer) {
        return json_pack("{s:s, s:i, s:i}", "kind", spc_tokenizer_kind(m->tokenizer), "size",
                         (int)spc_tokenizer_size(m->tokenizer), "special", (int)m->special);
    }
    if (!m->tokenizer_trouble.message[0]) return json_null();
    return json_pack("{s:o}", "error", spc_cli_json_text(m->tokenizer_trouble.message));
}

static json_t *dtypes_json(const model_info *m)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < SPC_DTYPE_COUNT; i++) {
        const dtype_use *use = &m->dtype[i];

        if (use->tensors == 0) continue;
        if (json_array_append_new(
                array, json_pack("{s:s, s:I, s:I, s:I}", "dtype", spc_dtype_name((spc_dtype)i),
                                 "tensors", (json_int_t)use->tensors, "values",
                                 (json_int_t)use->elements, "bytes", (json_int_t)use->bytes)) == 0)
            continue;
        json_decref(array);
        return NULL;
    }
    return array;
}

static json_t *info_json(const char *name, const model_info *m)
{
    const spc_config *c = &m->model.config;
    int32_t worlds[SPC_RANKS_MAX], world_count = worlds_of(m, worlds);
    json_t *object = json_pack(
        "{s:o, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:i, s:s?, s:I, "
        "s:I}",
        "model", spc_cli_json_text(name), "architecture", c->architecture, "parameters",
        (json_int_t)spc_plan_parameters(m->model.plan), "hidden_size", (int)c->dim,
        "encoder_layers", (int)c->encoder_layers, "layers", (int)c->layers, "heads", (int)c->heads,
        "kv_heads", (int)c->kv_heads, "head_dim", (int)c->head_dim, "ffn", (int)c->ffn, "experts",
        (int)c->experts, "experts_per_token", (int)c->chosen, "vocab", (int)c->vocab, "tied",
        (int)c->tied, "context", (int)c->context, "chat_template", m->chat, "weight_bytes",
        (json_int_t)m->weight_bytes, "row_bytes", (json_int_t)m->row_bytes);

    if (put(object, "dtypes", dtypes_json(m)) && put(object, "tokenizer", tokenizer_json(m)) &&
        put(object, "stop", spc_cli_json_ids(c->stop, c->stop_count)) &&
        put(object, "ranks", spc_cli_json_ids(worlds, world_count)) &&
        put(object, "memory", spc_cli_memory_json(&m->memory_for, &m->memory))) {
        return object;
    }
    json_decref(object);
    return NULL;
}

static void print_line(void *user, const char *text)
{
    (void)user;
    spc_cli_print("%s\n", text);
}

static void append_line(void *user, const char *text)
{
    (void)json_array_append_new(user, json_string(text));
}

/* What can be told before a model is looked for: what an engine would say of these options. */
static spc_status check_info(const char *name, const info_args *a, spc_error *err)
{
    spc_engine_options o;

    if (a->drafter_device && !a->drafter) {
        return spc_error_set(err, SPC_EUSAGE, "--drafter-device needs --drafter MODEL");
    }
    if (a->drafter_vocab && !a->drafter) {
        return spc_error_set(err, SPC_EUSAGE, "--drafter-vocab needs --drafter MODEL");
    }
    if (a->drafter_device && spc_device_ranks(a->device) > 1) {
        return spc_error_set(err, SPC_EUSAGE,
                             "device %.60s: the plan is of one verifier that is not cut: expected "
                             "cuda or cuda:N",
                             a->device);
    }
    if (spc_device_ranks(a->drafter_device) > 1) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter-device %.60s: the plan is of one drafter that is not cut: "
                             "expected cpu, cuda or cuda:N",
                             a->drafter_device);
    }
    spc_engine_options_init(&o);
    o.verifier = name;
    o.drafter = a->drafter;
    o.sessions = a->batch;
    o.context = a->context;
    o.kv_tokens = a->kv_tokens;
    o.device = a->device;
    o.drafter_device = a->drafter_device;
    o.drafter_vocab = a->drafter_vocab;
    o.weights = a->weights;
    o.kv = a->kv;
    return spc_engine_options_check(&o, err);
}

/* Has the checkpoint what the model is made of?  Told behind the rest: who asks what a file is may
 * ask because it cannot be loaded. */
static spc_status check_tensors(const spc_model *model, spc_error *err)
{
    spc_status status = SPC_OK;

    for (int32_t i = 0; model->plan && i < model->plan->weight_count && status == SPC_OK; i++) {
        const spc_tensor *unused;

        status = spc_plan_tensor(&model->plan->weight[i], model->bundle, &unused, err);
    }
    return status;
}

static int info_run(const void *args, const spc_cli_line *line)
{
    info_args without = *(const info_args *)args;
    const info_args *a = &without;
    const char *name = line->words.item[0];
    model_info m;
    spc_error error;

    memset(&m, 0, sizeof m);

    spc_status status = check_info(name, a, &error);

    if (spc_ngram_is(without.drafter)) { /* there is no model to read */
        m.ngram = without.drafter;
        without.drafter = NULL;
    }
    if (status == SPC_OK) status = read_model(name, a, &m, &error);

    if (status == SPC_OK && a->json) {
        json_t *object = info_json(name, &m), *plan = json_array();

        if (a->plan) {
            spc_plan_print(m.model.plan, append_line, plan);
            if (json_array_size(plan) != (size_t)m.model.plan->op_count ||
                json_object_set(object, "plan", plan) != 0) {
                json_decref(object);
                object = NULL;
            }
        }
        json_decref(plan);
        spc_cli_put_json(object);
    } else if (status == SPC_OK) {
        print_info(name, &m);
        if (a->plan) {
            spc_cli_print("\nplan of a row:\n");
            spc_plan_print(m.model.plan, print_line, NULL);
        }
    }
    if (status == SPC_OK) status = check_tensors(&m.model, &error);
    if (status == SPC_OK) status = check_tensors(&m.drafter, &error);
    if (status == SPC_OK && m.pair_trouble.message[0]) {
        status = spc_error_set(&error, SPC_EMODEL, "%s", m.pair_trouble.message);
    }
    spc_tokenizer_close(m.tokenizer);
    spc_close_model(&m.drafter);
    spc_close_model(&m.model);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

const spc_cli_command spc_cli_info = {
    "info",
    "MODEL",
    "describe a model: architecture, sizes, memory",
    "",
    1,
    1,
    info_options,
    sizeof info_options / sizeof *info_options,
    sizeof(info_args),
    info_init,
    info_run,
    NULL,
};
