/* SPDX-License-Identifier: Apache-2.0 */
/* cli_logits.c - spc logits: what a model predicts behind every token of a text, as a file. */
#include "cli.h"
#include "host/cpu/cpu_threads.h"
#include "host/engine.h"
#include "host/ranks/comm.h"
#include "host/replace.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *model, *source, *ids, *output, *device, *isa, *weights, *kv;
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
    {"threads", "N", "CPU threads; 0: one per core, within a quota of CPU time", SPC_CLI_INT,
     offsetof(logits_args, threads), 0, SPC_TEAM_MAX},
    {"isa", "NAME", SPC_CLI_ISA, SPC_CLI_TEXT, offsetof(logits_args, isa), 0, 0},
    {"weights", "KIND", SPC_CLI_WEIGHTS, SPC_CLI_TEXT, offsetof(logits_args, weights), 0, 0},
    {"kv", "TYPE", SPC_CLI_KV, SPC_CLI_TEXT, offsetof(logits_args, kv), 0, 0},
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
 * header, the data. */
static bool write_tensor(FILE *file, const float *logits, int32_t count, int32_t vocab)
{
    uint64_t bytes = (uint64_t)count * (uint64_t)vocab * sizeof *logits;
    char header[160];
    unsigned char length[8];
    int used = snprintf(header, sizeof header,
                        "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%" PRId32 ",%" PRId32
                        "],\"data_offsets\":[0,%" PRIu64 "]}}",
                        count, vocab, bytes);

    while (used % 8 != 0) header[used++] = ' ';
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)used >> (8 * i));
    return fwrite(length, 1, 8, file) == 8 &&
           fwrite(header, 1, (size_t)used, file) == (size_t)used &&
           fwrite(logits, 1, bytes, file) == bytes;
}

static spc_status cannot_write(const char *path, int why, spc_error *err)
{
    return spc_error_set(err, SPC_EINPUT, "--output %s: cannot be written: %s", path,
                         strerror(why));
}

static spc_status write_logits(const char *path, const float *logits, int32_t count, int32_t vocab,
                               spc_error *err)
{
    spc_replace out;
    int why = spc_replace_begin(&out, path);

    if (why == 0) why = spc_replace_end(&out, write_tensor(out.file, logits, count, vocab));
    return why == 0 ? SPC_OK : cannot_write(path, why, err);
}

/* What the model is to read. */
typedef struct {
    int32_t *ids, *source; /* [count], [source_count] */
    int32_t count, source_count;
} logits_input;

static spc_status check_model(const spc_engine *engine, void *user, spc_error *err)
{
    const logits_input *in = user;

    return spc_engine_check_logits(engine, in->source, in->source_count, in->ids, in->count, err);
}

static spc_engine_options engine_options(const logits_args *a, const spc_place *place)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = a->model;
    o.drafter = NULL;
    o.device = a->device;
    o.threads = a->threads;
    o.isa = a->isa;
    o.weights = a->weights;
    o.kv = a->kv;
    o.place = place;
    o.progress = place->rank == 0 ? spc_cli_loading : NULL;
    return o;
}

static spc_status compute_logits(const logits_args *a, spc_engine *engine, const logits_input *in,
                                 spc_error *err)
{
    spc_engine_facts facts;
    float *logits;
    spc_status status;

    spc_engine_describe(engine, &facts);
    logits = malloc((size_t)in->count * (size_t)facts.vocab * sizeof *logits);
    if (!logits) {
        status =
            spc_error_set(err, SPC_ENOMEM, "no memory for logits of %d tokens", (int)in->count);
    } else {
        status = spc_engine_logits(engine, in->source, in->source_count, in->ids, in->count, logits,
                                   err);
    }
    if (status == SPC_OK) status = write_logits(a->output, logits, in->count, facts.vocab, err);
    free(logits);
    return status;
}

/* What can be told before there is an engine. */
static spc_status read_args(const logits_args *a, const spc_place *place, logits_input *in,
                            spc_error *err)
{
    spc_status status = spc_cli_check_output(a->output, "for a pipe give /dev/stdout", err);
    int why = place->rank == 0 ? spc_replace_check(a->output) : 0;

    if (status == SPC_OK) status = parse_ids("ids", a->ids, &in->ids, &in->count, err);
    if (status == SPC_OK && a->source) {
        status = parse_ids("source", a->source, &in->source, &in->source_count, err);
    }
    return status == SPC_OK && why != 0 ? cannot_write(a->output, why, err) : status;
}

static int logits_run(const void *args, const spc_cli_line *line)
{
    const logits_args *a = args;
    spc_error error;
    spc_place place;
    spc_engine *engine = NULL;
    logits_input in = {NULL, NULL, 0, 0};
    const spc_engine_check check = {check_model, &in};

    if (!a->model || !a->ids || !a->output) {
        return spc_cli_fail_with(SPC_EUSAGE, "--%s is missing; see spc logits --help",
                                 !a->model ? "model"
                                 : !a->ids ? "ids"
                                           : "output");
    }

    spc_status status = spc_cli_place(&a->ranks, line, &place, &error);

    if (status != SPC_OK) return spc_cli_fail(&error);

    spc_engine_options o = engine_options(a, &place);

    status = read_args(a, &place, &in, &error);
    if (status != SPC_OK) {
        free(in.source);
        free(in.ids);
        return spc_cli_place_fail(&place, &o, &error);
    }
    status = spc_engine_open_checked(&o, place.rank == 0 ? &check : NULL, &engine, &error);
    if (status == SPC_OK && place.rank > 0) {
        status = spc_engine_follow(engine, &error);
    } else if (status == SPC_OK) {
        status = compute_logits(a, engine, &in, &error);
    }
    spc_engine_close(engine);
    free(in.source);
    free(in.ids);
    return status == SPC_OK ? 0 : spc_cli_fail(&error);
}

static int logits_wrong(const void *args, const spc_cli_line *line, const spc_error *err)
{
    const logits_args *a = args;
    spc_place place;
    spc_engine_options o;

    if (!spc_cli_place_left(&a->ranks, line, &place)) return spc_cli_fail(err);
    o = engine_options(a, &place);
    return spc_cli_place_fail(&place, &o, err);
}

const spc_cli_command spc_cli_logits = {
    "logits",
    "",
    "write a model's logits for given tokens to a file",
    "Teacher forced: row i is what the model predicts after tokens 0 .. i.  The file holds one\n"
    "float32 tensor `logits` [tokens, vocabulary].",
    0,
    0,
    logits_options,
    sizeof logits_options / sizeof *logits_options,
    sizeof(logits_args),
    logits_init,
    logits_run,
    logits_wrong,
};
