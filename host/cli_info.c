/* SPDX-License-Identifier: Apache-2.0 */
/* cli_info.c - spc info, spc logits: one model looked at. */
#include "cli.h"
#include "comm.h"
#include "cpu_threads.h"
#include "device.h"
#include "engine.h"

#include "weights/chat.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- info ------------------------------------------------------------------------------------ */

typedef struct {
    const char *device, *weights;
    int32_t context, batch, kv_tokens;
    bool plan, json;
} info_args;

static const spc_cli_option info_options[] = {
    {"context", "N", "tokens per sequence to plan memory for; 0: what the model allows",
     SPC_CLI_INT, offsetof(info_args, context), 0, INT32_MAX},
    {"batch", "N", "sequences decoded together to plan memory for", SPC_CLI_INT,
     offsetof(info_args, batch), 1, SPC_SESSIONS_MAX},
    {"kv-tokens", "N", "tokens that their KV caches hold together; 0: the context for each",
     SPC_CLI_INT, offsetof(info_args, kv_tokens), 0, INT32_MAX},
    {"device", "NAME",
     "to plan memory for: cpu, cuda or cuda:N; the CPU, and the first GPU where there is one,\n"
     "unless given",
     SPC_CLI_TEXT, offsetof(info_args, device), 0, 0},
    {"weights", "KIND", SPC_CLI_WEIGHTS, SPC_CLI_TEXT, offsetof(info_args, weights), 0, 0},
    {"plan", NULL, "print the ops that a row goes through", SPC_CLI_FLAG, offsetof(info_args, plan),
     0, 0},
    {"json", NULL, "the same as one JSON object", SPC_CLI_FLAG, offsetof(info_args, json), 0, 0},
};

static void info_init(void *args)
{
    ((info_args *)args)->batch = 1;
}

/* Devices that memory is planned for, at most. */
enum { DEVICES = 2, DEVICE_NAME = 128 };

/* The tensors of one element type. */
typedef struct {
    int64_t tensors;
    uint64_t elements, bytes;
} dtype_use;

typedef struct {
    char device[DEVICE_NAME];
    uint64_t weights;       /* bytes */
    uint64_t kv, workspace; /* bytes, for the whole batch */
    uint64_t tokenizer;     /* bytes of its tables, on the CPU */
    size_t room;            /* free on the device, where that is known; 0 otherwise */
    spc_error trouble;      /* why weights cannot be loaded there; "" */
} memory_use;

typedef struct {
    spc_model model;
    spc_tokenizer *tokenizer;    /* NULL: none, or none that can be used */
    spc_error tokenizer_trouble; /* why it cannot be used; "" */
    int32_t special;             /* special tokens of the tokenizer */
    const char *chat;            /* the chat template's name; NULL: none that is known */
    dtype_use dtype[SPC_DTYPE_COUNT];
    int32_t context;            /* planned for */
    uint64_t weight_bytes;      /* of all tensors */
    uint64_t row_bytes;         /* read by one row */
    memory_use memory[DEVICES]; /* [devices] */
    int32_t devices;
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

static spc_limits limits_of(const info_args *a, const model_info *m)
{
    spc_limits limits = spc_engine_limits(a->batch, m->context);

    limits.pages = a->kv_tokens / SPC_PAGE_TOKENS;
    return limits;
}

/* The plan for one more device, which is closed. */
static spc_status plan_device(const spc_backend_ops *ops, spc_backend *backend, const info_args *a,
                              model_info *m, spc_error *err)
{
    spc_limits limits = limits_of(a, m);
    memory_use *out = &m->memory[m->devices++];
    size_t all = ops->memory(backend, m->model.plan, &limits);

    (void)snprintf(out->device, sizeof out->device, "%s", ops->device(backend));
    out->weights = m->weight_bytes;
    if (ops->weights) { /* what it will not take is told of: other devices may */
        (void)ops->weights(backend, m->model.plan, m->model.bundle, &out->weights, &out->trouble);
    }
    if (ops == &spc_backend_cpu && m->tokenizer) out->tokenizer = spc_tokenizer_bytes(m->tokenizer);
    if (ops->room) out->room = ops->room(backend);
    ops->close(backend);
    if (all >= SIZE_MAX / 2) { /* where it stops counting */
        return spc_error_set(err, SPC_EUSAGE,
                             "a batch of %d with a context of %d takes more memory than can be "
                             "counted: lower --batch or --context",
                             (int)a->batch, (int)m->context);
    }
    out->kv = spc_engine_kv_bytes(m->model.plan, &limits);
    out->workspace = all - out->kv;
    return SPC_OK;
}

static spc_status plan_devices(const info_args *a, model_info *m, spc_error *err)
{
    const spc_backend_ops *ops;
    spc_backend *backend;
    spc_error none;
    spc_status status = spc_device_open(a->device, 0, NULL, NULL, NULL, &ops, &backend, err);

    if (status == SPC_OK) status = plan_device(ops, backend, a, m, err);
    if (status != SPC_OK || a->device) return status;
    if (spc_device_open("cuda", 0, NULL, NULL, NULL, &ops, &backend, &none) != SPC_OK) {
        return SPC_OK; /* nothing to plan for */
    }
    return plan_device(ops, backend, a, m, err);
}

static spc_status plan_memory(const info_args *a, model_info *m, spc_error *err)
{
    const spc_config *c = &m->model.config;

    m->context = a->context > 0 ? a->context : c->context;
    if (m->context < 2 || m->context > c->context_most) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--context: expected 2 to %d (what the model allows), "
                             "found %d",
                             (int)c->context_most, (int)m->context);
    }
    spc_status status = spc_check_kv_tokens(a->kv_tokens, err);

    return status == SPC_OK ? plan_devices(a, m, err) : status;
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

    if (status == SPC_OK) status = spc_change_weights(&m->model, a->weights, 0, err);
    if (status == SPC_OK) status = read_text(m, err);
    if (status != SPC_OK) return status;
    m->weight_bytes = spc_bundle_bytes(m->model.bundle);
    m->row_bytes = spc_plan_weight_bytes(m->model.plan, m->model.bundle);
    count_dtypes(m->model.bundle, m->dtype);
    return plan_memory(a, m, err);
}

static void print_size(const char *what, uint64_t bytes)
{
    char size[SPC_CLI_SIZE_BYTES];

    spc_cli_print("%-18s%s (%" PRIu64 " bytes)\n", what, spc_cli_size(bytes, size), bytes);
}

static void print_dtypes(const model_info *m)
{
    const char *name = "dtype";

    for (int32_t i = 0; i < SPC_DTYPE_COUNT; i++) {
        const dtype_use *use = &m->dtype[i];
        char size[SPC_CLI_SIZE_BYTES];

        if (use->tensors == 0) continue;
        spc_cli_print("%-18s%s: %" PRId64 " tensor%s, %" PRIu64 " values, %s\n", name,
                      spc_dtype_name((spc_dtype)i), use->tensors, use->tensors > 1 ? "s" : "",
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
    spc_cli_print("%-18s%s\n", "chat template", m->chat ? m->chat : "none that is known");
}

static void print_kv(const info_args *a, const model_info *m, uint64_t bytes)
{
    spc_limits limits = limits_of(a, m);
    char size[SPC_CLI_SIZE_BYTES];

    spc_cli_print("%-18s%s (%" PRIu64 " bytes, %" PRId64 " pages of %d tokens)\n", "KV cache",
                  spc_cli_size(bytes, size), bytes, spc_limits_pages(&limits), SPC_PAGE_TOKENS);
}

static void print_memory(const info_args *a, const model_info *m)
{
    for (int32_t i = 0; i < m->devices; i++) {
        const memory_use *use = &m->memory[i];

        spc_cli_print("\nmemory for %d sequence%s of %d tokens on %s:\n", (int)a->batch,
                      a->batch > 1 ? "s" : "", (int)m->context, use->device);
        if (use->trouble.message[0]) {
            spc_cli_print("%-18scannot be loaded: %s\n", "weights", use->trouble.message);
            continue;
        }
        print_size("weights", use->weights);
        print_kv(a, m, use->kv);
        print_size("workspace", use->workspace);
        if (use->tokenizer > 0) print_size("tokenizer", use->tokenizer);
        print_size("together", use->weights + use->kv + use->workspace + use->tokenizer);
        if (use->room > 0) print_size("free", use->room);
    }
}

static void print_info(const char *name, const info_args *a, const model_info *m)
{
    const spc_config *c = &m->model.config;

    spc_cli_print("%-18s%s\n", "model", name);
    spc_cli_print("%-18s%s\n", "architecture", c->architecture);
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
    spc_cli_print("%-18s%d%s\n", "vocabulary", (int)c->vocab,
                  c->tied ? ", head tied to the embedding" : "");
    spc_cli_print("%-18s%d tokens\n", "longest context", (int)c->context);
    print_text(m);
    spc_cli_print("%-18s", "ends a sequence");
    for (int32_t i = 0; i < c->stop_count; i++)
        spc_cli_print("%s%d", i ? ", " : "", (int)c->stop[i]);
    spc_cli_print("%s\n", c->stop_count > 0 ? "" : "no id");
    print_size("read by one row", m->row_bytes);
    print_memory(a, m);
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
    return json_pack("{s:s}", "error", m->tokenizer_trouble.message);
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

static json_t *memory_json(const info_args *a, const model_info *m)
{
    spc_limits limits = limits_of(a, m);
    json_t *object = json_pack(
        "{s:i, s:i, s:I, s:[]}", "batch", (int)a->batch, "context", (int)m->context, "kv_tokens",
        (json_int_t)(spc_limits_pages(&limits) * SPC_PAGE_TOKENS), "devices");
    json_t *array = json_object_get(object, "devices");

    for (int32_t i = 0; i < m->devices; i++) {
        const memory_use *use = &m->memory[i];
        json_t *item =
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:s*}", "device", use->device, "weight_bytes",
                      (json_int_t)use->weights, "kv_bytes", (json_int_t)use->kv, "workspace_bytes",
                      (json_int_t)use->workspace, "tokenizer_bytes", (json_int_t)use->tokenizer,
                      "error", use->trouble.message[0] ? use->trouble.message : NULL);

        if (json_array_append_new(array, item) == 0) continue;
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *info_json(const char *name, const info_args *a, const model_info *m)
{
    const spc_config *c = &m->model.config;
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:i, s:s?, s:I, s:I}",
        "model", name, "architecture", c->architecture, "parameters",
        (json_int_t)spc_plan_parameters(m->model.plan), "hidden_size", (int)c->dim,
        "encoder_layers", (int)c->encoder_layers, "layers", (int)c->layers, "heads", (int)c->heads,
        "kv_heads", (int)c->kv_heads, "head_dim", (int)c->head_dim, "ffn", (int)c->ffn, "vocab",
        (int)c->vocab, "tied", (int)c->tied, "context", (int)c->context, "chat_template", m->chat,
        "weight_bytes", (json_int_t)m->weight_bytes, "row_bytes", (json_int_t)m->row_bytes);

    if (put(object, "dtypes", dtypes_json(m)) && put(object, "tokenizer", tokenizer_json(m)) &&
        put(object, "stop", spc_cli_json_ids(c->stop, c->stop_count)) &&
        put(object, "memory", memory_json(a, m))) {
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

static int info_run(const void *args, const spc_cli_line *line)
{
    const info_args *a = args;
    const char *name = line->words.item[0];
    model_info m;
    spc_error error;

    memset(&m, 0, sizeof m);

    spc_status status = read_model(name, a, &m, &error);

    if (status == SPC_OK && a->json) {
        json_t *object = info_json(name, a, &m), *plan = json_array();

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
        print_info(name, a, &m);
        if (a->plan) {
            spc_cli_print("\nplan of a row:\n");
            spc_plan_print(m.model.plan, print_line, NULL);
        }
    }
    spc_tokenizer_close(m.tokenizer);
    spc_close_model(&m.model);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

const spc_cli_command spc_cli_info = {
    "info",
    "MODEL",
    "describe a model: architecture, sizes, memory it takes",
    "",
    1,
    1,
    info_options,
    sizeof info_options / sizeof *info_options,
    sizeof(info_args),
    info_init,
    info_run,
};

/* ---- logits ---------------------------------------------------------------------------------- */

typedef struct {
    const char *model, *source, *ids, *output, *device, *isa, *weights;
    int32_t threads;
    spc_cli_ranks ranks;
} logits_args;

static const spc_cli_option logits_options[] = {
    {"model", "MODEL", "whose logits", SPC_CLI_TEXT, offsetof(logits_args, model), 0, 0},
    {"source", "LIST", "what the encoder reads, for models that have one (T5)", SPC_CLI_TEXT,
     offsetof(logits_args, source), 0, 0},
    {"ids", "LIST", "the tokens, as 1,2,3", SPC_CLI_TEXT, offsetof(logits_args, ids), 0, 0},
    {"output", "FILE", "where to write, as safetensors", SPC_CLI_TEXT,
     offsetof(logits_args, output), 0, 0},
    {"device", "NAME", SPC_CLI_DEVICES, SPC_CLI_TEXT, offsetof(logits_args, device), 0, 0},
    {"threads", "N", "CPU threads; 0: one per core", SPC_CLI_INT, offsetof(logits_args, threads), 0,
     SPC_TEAM_MAX},
    {"isa", "NAME", "vector unit: portable, avx2, avx512; the widest unless given", SPC_CLI_TEXT,
     offsetof(logits_args, isa), 0, 0},
    {"weights", "KIND", SPC_CLI_WEIGHTS, SPC_CLI_TEXT, offsetof(logits_args, weights), 0, 0},
    SPC_CLI_RANK_OPTIONS(logits_args, ranks),
};

static void logits_init(void *args)
{
    logits_args *a = args;

    a->device = "auto";
    a->ranks = SPC_CLI_RANKS_NONE;
}

/* "1,2,3" to ids; option: which of them, for messages. */
static spc_status parse_ids(const char *option, const char *text, int32_t **ids, int32_t *count,
                            spc_error *err)
{
    size_t room = 1;

    *count = 0;
    for (const char *c = text; *c; c++) room += *c == ',';
    *ids = malloc(room * sizeof **ids);
    if (!*ids) return spc_error_set(err, SPC_ENOMEM, "--%s: no memory for %zu ids", option, room);
    while (true) {
        char digits[16];
        size_t bytes = strcspn(text, ",");
        int64_t id = -1;

        (void)snprintf(digits, sizeof digits, "%.*s", bytes < 15 ? (int)bytes : 15, text);
        if (bytes >= sizeof digits || !spc_cli_read_int(digits, 0, INT32_MAX, &id)) {
            free(*ids);
            *ids = NULL;
            return spc_error_set(err, SPC_EINPUT,
                                 "--%s: id %d: expected a whole number of 0 to "
                                 "2^31 - 1, found '%s'",
                                 option, (int)*count, digits);
        }
        (*ids)[(*count)++] = (int32_t)id;
        if (!text[bytes]) return SPC_OK;
        text += bytes + 1;
    }
}

/* One float32 tensor "logits" [count, vocab] as a safetensors file: the length of the header, the
 * header, the data.  0, or errno of what failed. */
static int write_tensor(const char *path, const float *logits, int32_t count, int32_t vocab)
{
    uint64_t bytes = (uint64_t)count * (uint64_t)vocab * sizeof *logits;
    char header[160];
    unsigned char length[8];
    int used = snprintf(header, sizeof header,
                        "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%" PRId32 ",%" PRId32
                        "],\"data_offsets\":[0,%" PRIu64 "]}}",
                        count, vocab, bytes);
    FILE *file = fopen(path, "wb");
    int why = 0;

    if (!file) return errno;
    while (used % 8 != 0) header[used++] = ' ';
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)used >> (8 * i));
    if (fwrite(length, 1, 8, file) != 8 || fwrite(header, 1, (size_t)used, file) != (size_t)used ||
        fwrite(logits, 1, bytes, file) != bytes) {
        why = errno;
    }
    if (fclose(file) != 0 && why == 0) why = errno;
    return why;
}

/* Writes beside the file and renames: there is never half a file of that name.  What is no file (a
 * device, a pipe) is written to as it is: a rename would put a file in its place. */
static spc_status write_logits(const char *path, const float *logits, int32_t count, int32_t vocab,
                               spc_error *err)
{
    struct stat there;
    bool direct = stat(path, &there) == 0 && !S_ISREG(there.st_mode);
    char *partial = malloc(strlen(path) + sizeof ".partial");
    int why;

    if (!partial) return spc_error_set(err, SPC_ENOMEM, "no memory for a file name");
    (void)sprintf(partial, "%s.partial", path);
    why = write_tensor(direct ? path : partial, logits, count, vocab);
    if (!direct && why == 0 && rename(partial, path) != 0) why = errno;
    if (!direct && why != 0) (void)unlink(partial);
    free(partial);
    if (why == 0) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "--output %s: cannot be written: %s", path,
                         strerror(why));
}

static spc_status open_logits(const logits_args *a, const spc_place *place, spc_engine **out,
                              spc_error *err)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = a->model;
    o.drafter = NULL;
    o.device = a->device;
    o.threads = a->threads;
    o.isa = a->isa;
    o.weights = a->weights;
    o.place = place;
    o.progress = place->rank == 0 ? spc_cli_loading : NULL;
    return spc_engine_open(&o, out, err);
}

static spc_status compute_logits(const logits_args *a, spc_engine *engine, const int32_t *source,
                                 int32_t source_count, const int32_t *ids, int32_t count,
                                 spc_error *err)
{
    spc_engine_facts facts;
    float *logits;
    spc_status status;

    spc_engine_describe(engine, &facts);
    logits = malloc((size_t)count * (size_t)facts.vocab * sizeof *logits);
    if (!logits) {
        status = spc_error_set(err, SPC_ENOMEM, "no memory for logits of %d tokens", (int)count);
    } else {
        status = spc_engine_logits(engine, source, source_count, ids, count, logits, err);
    }
    if (status == SPC_OK) status = write_logits(a->output, logits, count, facts.vocab, err);
    free(logits);
    return status;
}

static int logits_run(const void *args, const spc_cli_line *line)
{
    const logits_args *a = args;
    spc_error error;
    spc_place place;
    spc_engine *engine = NULL;
    int32_t *ids = NULL, *source = NULL, count = 0, source_count = 0;

    if (!a->model || !a->ids || !a->output) {
        return spc_cli_fail_with(SPC_EUSAGE, "spc logits: --%s is missing; see spc logits --help",
                                 !a->model ? "model"
                                 : !a->ids ? "ids"
                                           : "output");
    }

    spc_status status = spc_cli_place(&a->ranks, line, &place, &error);

    if (status == SPC_OK) status = parse_ids("ids", a->ids, &ids, &count, &error);
    if (status == SPC_OK && a->source) {
        status = parse_ids("source", a->source, &source, &source_count, &error);
    }
    if (status == SPC_OK) status = open_logits(a, &place, &engine, &error);
    if (status == SPC_OK && place.rank > 0) {
        status = spc_engine_follow(engine, &error);
    } else if (status == SPC_OK) {
        status = compute_logits(a, engine, source, source_count, ids, count, &error);
    }
    spc_engine_close(engine);
    free(source);
    free(ids);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

const spc_cli_command spc_cli_logits = {
    "logits",
    "",
    "write a model's logits for given tokens to a file",
    "Teacher forced: row i is what the model expects behind tokens 0 .. i.  The file holds one\n"
    "float32 tensor `logits` [tokens, vocabulary].",
    0,
    0,
    logits_options,
    sizeof logits_options / sizeof *logits_options,
    sizeof(logits_args),
    logits_init,
    logits_run,
};
