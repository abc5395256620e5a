/* SPDX-License-Identifier: Apache-2.0 */
/* cli_info.c - spc info, spc logits, spc tokenize: one model looked at. */
#include "cli.h"
#include "cpu_threads.h"
#include "engine.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- info ------------------------------------------------------------------------------------ */

typedef struct {
    int32_t context, sessions;
    bool plan, json;
} info_args;

static const spc_cli_option info_options[] = {
    {"context", "N", "tokens per session to plan memory for; 0: what the model allows", SPC_CLI_INT,
     offsetof(info_args, context), 0, INT32_MAX},
    {"sessions", "N", "sessions to plan memory for", SPC_CLI_INT, offsetof(info_args, sessions), 1,
     SPC_SESSIONS_MAX},
    {"plan", NULL, "print the ops that a row goes through", SPC_CLI_FLAG, offsetof(info_args, plan),
     0, 0},
    {"json", NULL, "the same as one JSON object", SPC_CLI_FLAG, offsetof(info_args, json), 0, 0},
};

static void info_init(void *args)
{
    ((info_args *)args)->sessions = 1;
}

typedef struct {
    spc_bundle *bundle;
    spc_plan *plan;
    spc_config config;
    char dtypes[128];      /* "BF16" or "BF16, F32" */
    int32_t context;       /* planned for */
    uint64_t weight_bytes; /* of all tensors */
    uint64_t row_bytes;    /* read by one row */
    uint64_t kv_bytes;     /* of all sessions */
    uint64_t other_bytes;  /* scratch and logits */
} model_info;

/* Names of the element types in use, each once. */
static void list_dtypes(const spc_bundle *bundle, char *out, size_t bytes)
{
    bool seen[SPC_DTYPE_COUNT] = {false};
    size_t used = 0;

    out[0] = '\0';
    for (int32_t i = 0; i < spc_bundle_count(bundle); i++) {
        spc_dtype dtype = spc_bundle_tensor(bundle, i)->dtype;

        if (seen[dtype] || used >= bytes) continue;
        seen[dtype] = true;
        used += (size_t)snprintf(out + used, bytes - used, "%s%s", used > 0 ? ", " : "",
                                 spc_dtype_name(dtype));
    }
}

static spc_status plan_memory(const info_args *a, model_info *m, spc_error *err)
{
    const spc_backend_ops *ops = &spc_backend_cpu;
    spc_backend *backend;
    spc_status status = SPC_OK;

    m->context = a->context > 0 ? a->context : m->config.context;
    if (m->context < 2 || m->context > m->config.context) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--context: expected 2 to %d (what the model allows), "
                             "found %d",
                             (int)m->config.context, (int)m->context);
    }
    status = ops->open(&backend, 0, NULL, err);
    if (status != SPC_OK) return status;

    spc_limits limits = spc_engine_limits(a->sessions, m->context);

    m->kv_bytes = spc_plan_kv_bytes(m->plan, m->context) * (uint64_t)a->sessions;
    m->other_bytes = ops->memory(backend, m->plan, &limits) - m->kv_bytes;
    ops->close(backend);
    return SPC_OK;
}

static spc_status read_model(const char *name, const info_args *a, model_info *m, spc_error *err)
{
    spc_status status = spc_open_bundle(name, &m->bundle, err);

    if (status == SPC_OK) status = spc_config_read(m->bundle, &m->config, err);
    if (status == SPC_OK) status = spc_plan_build(&m->config, name, &m->plan, err);
    if (status != SPC_OK) return status;
    m->weight_bytes = spc_bundle_bytes(m->bundle);
    m->row_bytes = spc_plan_weight_bytes(m->plan, m->bundle);
    list_dtypes(m->bundle, m->dtypes, sizeof m->dtypes);
    return plan_memory(a, m, err);
}

static void print_size(const char *what, uint64_t bytes)
{
    char size[SPC_CLI_SIZE_BYTES];

    spc_cli_print("%-18s%s (%" PRIu64 " bytes)\n", what, spc_cli_size(bytes, size), bytes);
}

static void print_info(const char *name, const info_args *a, const model_info *m)
{
    const spc_config *c = &m->config;

    spc_cli_print("%-18s%s\n", "model", name);
    spc_cli_print("%-18s%s\n", "architecture", c->architecture);
    spc_cli_print("%-18s%" PRIu64 "\n", "parameters", spc_plan_parameters(m->plan));
    spc_cli_print("%-18s%s\n", "dtype", m->dtypes);
    spc_cli_print("%-18s%d\n", "hidden size", (int)c->dim);
    spc_cli_print("%-18s%d\n", "layers", (int)c->layers);
    spc_cli_print("%-18s%d query, %d key/value, of %d\n", "heads", (int)c->heads, (int)c->kv_heads,
                  (int)c->head_dim);
    spc_cli_print("%-18s%d\n", "feed-forward size", (int)c->ffn);
    spc_cli_print("%-18s%d%s\n", "vocabulary", (int)c->vocab,
                  c->tied ? ", head tied to the embedding" : "");
    spc_cli_print("%-18s%d tokens\n", "longest context", (int)c->context);
    spc_cli_print("%-18s%s\n", "tokenizer",
                  spc_bundle_has_file(m->bundle, "tokenizer.json") ? "tokenizer.json" : "none");
    spc_cli_print("%-18s", "ends a sequence");
    for (int32_t i = 0; i < c->stop_count; i++)
        spc_cli_print("%s%d", i ? ", " : "", (int)c->stop[i]);
    spc_cli_print("%s\n", c->stop_count > 0 ? "" : "no id");
    print_size("weights", m->weight_bytes);
    print_size("read by one row", m->row_bytes);
    spc_cli_print("\nmemory for %d session%s of %d tokens, on the CPU:\n", (int)a->sessions,
                  a->sessions > 1 ? "s" : "", (int)m->context);
    print_size("KV cache", m->kv_bytes);
    print_size("scratch, logits", m->other_bytes);
    print_size("weights", m->weight_bytes);
    spc_cli_print("%-18smapped from the file, not copied\n", "");
}

static json_t *info_json(const char *name, const info_args *a, const model_info *m)
{
    const spc_config *c = &m->config;
    json_t *stop = json_array(), *object;

    for (int32_t i = 0; i < c->stop_count; i++) {
        if (json_array_append_new(stop, json_integer(c->stop[i])) == 0) continue;
        json_decref(stop);
        return NULL;
    }
    object = json_pack(
        "{s:s, s:s, s:I, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:i, s:b, s:o, s:I, s:I}",
        "model", name, "architecture", c->architecture, "parameters",
        (json_int_t)spc_plan_parameters(m->plan), "dtype", m->dtypes, "hidden_size", (int)c->dim,
        "layers", (int)c->layers, "heads", (int)c->heads, "kv_heads", (int)c->kv_heads, "head_dim",
        (int)c->head_dim, "ffn", (int)c->ffn, "vocab", (int)c->vocab, "tied", (int)c->tied,
        "context", (int)c->context, "tokenizer",
        (int)spc_bundle_has_file(m->bundle, "tokenizer.json"), "stop", stop, "weight_bytes",
        (json_int_t)m->weight_bytes, "row_bytes", (json_int_t)m->row_bytes);
    if (!object) return NULL;

    json_t *memory =
        json_pack("{s:i, s:i, s:I, s:I, s:I}", "sessions", (int)a->sessions, "context",
                  (int)m->context, "kv_bytes", (json_int_t)m->kv_bytes, "other_bytes",
                  (json_int_t)m->other_bytes, "weight_bytes", (json_int_t)m->weight_bytes);

    if (json_object_set_new(object, "memory", memory) == 0) return object;
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
            spc_plan_print(m.plan, append_line, plan);
            if (json_array_size(plan) != (size_t)m.plan->op_count ||
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
            spc_plan_print(m.plan, print_line, NULL);
        }
    }
    spc_plan_close(m.plan);
    spc_bundle_close(m.bundle);
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
    const char *model, *ids, *output, *isa;
    int32_t threads;
} logits_args;

static const spc_cli_option logits_options[] = {
    {"model", "MODEL", "whose logits", SPC_CLI_TEXT, offsetof(logits_args, model), 0, 0},
    {"ids", "LIST", "the tokens, as 1,2,3", SPC_CLI_TEXT, offsetof(logits_args, ids), 0, 0},
    {"output", "FILE", "where to write, as safetensors", SPC_CLI_TEXT,
     offsetof(logits_args, output), 0, 0},
    {"threads", "N", "CPU threads; 0: one per core", SPC_CLI_INT, offsetof(logits_args, threads), 0,
     SPC_TEAM_MAX},
    {"isa", "NAME", "vector unit: portable, avx2, avx512; the widest unless given", SPC_CLI_TEXT,
     offsetof(logits_args, isa), 0, 0},
};

static void logits_init(void *args)
{
    (void)args; /* nothing has a default */
}

/* "1,2,3" to ids. */
static spc_status parse_ids(const char *text, int32_t **ids, int32_t *count, spc_error *err)
{
    size_t room = 1;

    *count = 0;
    for (const char *c = text; *c; c++) room += *c == ',';
    *ids = malloc(room * sizeof **ids);
    if (!*ids) return spc_error_set(err, SPC_ENOMEM, "--ids: no memory for %zu ids", room);
    while (true) {
        char digits[16];
        size_t bytes = strcspn(text, ",");
        int64_t id = -1;

        (void)snprintf(digits, sizeof digits, "%.*s", bytes < 15 ? (int)bytes : 15, text);
        if (bytes >= sizeof digits || !spc_cli_read_int(digits, 0, INT32_MAX, &id)) {
            free(*ids);
            *ids = NULL;
            return spc_error_set(err, SPC_EINPUT,
                                 "--ids: id %d: expected a whole number of 0 to "
                                 "2^31 - 1, found '%s'",
                                 (int)*count, digits);
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

static spc_status compute_logits(const logits_args *a, const int32_t *ids, int32_t count,
                                 spc_error *err)
{
    spc_engine_options o;
    spc_engine_facts facts;
    spc_engine *engine;
    float *logits;

    spc_engine_options_init(&o);
    o.verifier = a->model;
    o.drafter = NULL;
    o.threads = a->threads;
    o.isa = a->isa;
    o.progress = spc_cli_loading;

    spc_status status = spc_engine_open(&o, &engine, err);

    if (status != SPC_OK) return status;
    spc_engine_describe(engine, &facts);
    logits = malloc((size_t)count * (size_t)facts.vocab * sizeof *logits);
    if (!logits) {
        status = spc_error_set(err, SPC_ENOMEM, "no memory for logits of %d tokens", (int)count);
    } else {
        status = spc_engine_logits(engine, ids, count, logits, err);
    }
    if (status == SPC_OK) status = write_logits(a->output, logits, count, facts.vocab, err);
    free(logits);
    spc_engine_close(engine);
    return status;
}

static int logits_run(const void *args, const spc_cli_line *line)
{
    const logits_args *a = args;
    spc_error error;
    int32_t *ids, count;

    (void)line;
    if (!a->model || !a->ids || !a->output) {
        return spc_cli_fail_with(SPC_EUSAGE, "spc logits: --%s is missing; see spc logits --help",
                                 !a->model ? "model"
                                 : !a->ids ? "ids"
                                           : "output");
    }

    spc_status status = parse_ids(a->ids, &ids, &count, &error);

    if (status == SPC_OK) status = compute_logits(a, ids, count, &error);
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

/* ---- tokenize -------------------------------------------------------------------------------- */

typedef struct {
    bool special, decode;
} tokenize_args;

static const spc_cli_option tokenize_options[] = {
    {"special", NULL,
     "add what the tokenizer's template adds (a BOS);\nwith --decode: write special "
     "tokens too",
     SPC_CLI_FLAG, offsetof(tokenize_args, special), 0, 0},
    {"decode", NULL, "from a JSON array of ids to text", SPC_CLI_FLAG,
     offsetof(tokenize_args, decode), 0, 0},
};

static void tokenize_init(void *args)
{
    (void)args; /* all flags */
}

static spc_status open_tokenizer(const char *name, spc_tokenizer **out, spc_error *err)
{
    spc_bundle *bundle;
    const char *json;
    size_t bytes;
    spc_status status = spc_open_bundle(name, &bundle, err);

    if (status != SPC_OK) return status;
    status = spc_bundle_file(bundle, "tokenizer.json", &json, &bytes, err);
    if (status == SPC_OK) status = spc_tokenizer_open(name, json, bytes, out, err);
    spc_bundle_close(bundle);
    return status;
}

static spc_status encode(const spc_tokenizer *tokenizer, const tokenize_args *a, const char *text,
                         size_t bytes, spc_error *err)
{
    int32_t *ids, count;
    spc_error inner;
    spc_status status =
        spc_tokenizer_encode(tokenizer, text, bytes, a->special, &ids, &count, &inner);

    if (status != SPC_OK) return spc_error_set(err, status, "stdin: %s", inner.message);
    spc_cli_put_json(spc_cli_json_ids(ids, count));
    free(ids);
    return SPC_OK;
}

static spc_status decode(const spc_tokenizer *tokenizer, const tokenize_args *a, const char *json,
                         size_t bytes, spc_error *err)
{
    json_error_t why;
    json_t *array = json_loadb(json, bytes, 0, &why);
    int32_t *ids = NULL, count = 0;
    char *text = NULL;
    spc_error inner;
    spc_status status;

    if (!array) return spc_error_set(err, SPC_EINPUT, "stdin: not JSON: %s", why.text);
    status = spc_cli_read_ids(array, "stdin", &ids, &count, err);
    json_decref(array);
    if (status != SPC_OK) return status;
    status = spc_tokenizer_decode(tokenizer, ids, count, !a->special, &text, &bytes, &inner);
    free(ids);
    if (status != SPC_OK) return spc_error_set(err, status, "stdin: %s", inner.message);
    spc_cli_put(text, bytes);
    free(text);
    return SPC_OK;
}

static int tokenize_run(const void *args, const spc_cli_line *line)
{
    const tokenize_args *a = args;
    spc_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t bytes;
    spc_error error;
    spc_status status = open_tokenizer(line->words.item[0], &tokenizer, &error);

    if (status == SPC_OK) status = spc_cli_read_all(stdin, "stdin", &text, &bytes, &error);
    if (status == SPC_OK) {
        status = a->decode ? decode(tokenizer, a, text, bytes, &error)
                           : encode(tokenizer, a, text, bytes, &error);
    }
    free(text);
    spc_tokenizer_close(tokenizer);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

const spc_cli_command spc_cli_tokenize = {
    "tokenize",
    "MODEL",
    "text on stdin to a JSON array of ids, and back",
    "",
    1,
    1,
    tokenize_options,
    sizeof tokenize_options / sizeof *tokenize_options,
    sizeof(tokenize_args),
    tokenize_init,
    tokenize_run,
};
