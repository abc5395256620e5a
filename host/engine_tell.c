/* SPDX-License-Identifier: Apache-2.0 */
/* engine_tell.c - what an engine tells of itself, text to ids and back, logits. */
#include "engine.h"

#include "entry.h"
#include "session.h"

#include <string.h>

void spc_engine_describe(const spc_engine *engine, spc_engine_facts *out)
{
    memset(out, 0, sizeof *out);
    out->device = engine->ops->device(engine->backend);
    out->vocab = engine->vocab;
    out->context = engine->context;
    out->sessions = engine->sessions;
    out->rank = engine->rank;
    out->drafter = engine->drafter.runner != NULL;
    out->ngram_least = engine->ngram.least;
    out->ngram_most = engine->ngram.most;
    out->encoder = spc_engine_encodes(engine);
    out->tokenizer = engine->tokenizer != NULL;
    out->verifier_weight_bytes = engine->verifier.weight_bytes;
    out->drafter_weight_bytes = engine->drafter.weight_bytes;
    out->verifier_memory_bytes = engine->verifier.memory_bytes;
    out->drafter_memory_bytes = engine->drafter.memory_bytes;
}

spc_status spc_engine_usage(spc_engine *engine, spc_engine_load *out, spc_error *err)
{
    spc_status status = spc_entry_given(out, "out", err);

    if (status != SPC_OK) return status;
    memset(out, 0, sizeof *out);
    status = spc_entry_given(engine, "engine", err);
    if (status == SPC_OK) status = spc_entry_take(engine, err);
    if (status != SPC_OK) return status;
    out->slots = engine->sessions;
    for (int32_t i = 0; i < engine->sessions; i++) {
        if (!engine->slot[i]) continue;
        *(engine->slot[i]->finish == SPC_FINISH_RUNNING ? &out->running : &out->ended) += 1;
    }
    for (const spc_session *s = engine->slots.first; s; s = s->behind) out->waiting++;
    out->kv_tokens = (int64_t)engine->pages.count * SPC_PAGE_TOKENS;
    out->kv_free = (int64_t)engine->pages.free * SPC_PAGE_TOKENS;
    spc_entry_leave(engine);
    return SPC_OK;
}

static spc_status need_tokenizer(const spc_engine *engine, spc_error *err)
{
    if (engine->tokenizer) return SPC_OK;
    return spc_error_set(err, SPC_EMODEL,
                         "the model has no tokenizer (tokenizer.json): give prompts as ids");
}

typedef spc_status (*encode_fn)(const spc_tokenizer *tokenizer, const char *text, size_t bytes,
                                bool special, int32_t **ids, int32_t *count, spc_error *err);

static spc_status encode_by(encode_fn encode, const spc_engine *engine, const char *text,
                            size_t bytes, bool special, int32_t **ids, int32_t *count,
                            spc_error *err)
{
    spc_status status = spc_entry_given(ids, "ids", err);

    if (status == SPC_OK) status = spc_entry_given(count, "count", err);
    if (status != SPC_OK) return status;
    *ids = NULL;
    *count = 0;
    status = spc_entry_given(engine, "engine", err);
    if (status == SPC_OK && bytes > 0) status = spc_entry_given(text, "text", err);
    if (status == SPC_OK) status = need_tokenizer(engine, err);
    if (status != SPC_OK) return status;
    return encode(engine->tokenizer, text, bytes, special, ids, count, err);
}

spc_status spc_engine_encode(const spc_engine *engine, const char *text, size_t bytes, bool special,
                             int32_t **ids, int32_t *count, spc_error *err)
{
    return encode_by(spc_tokenizer_encode, engine, text, bytes, special, ids, count, err);
}

spc_status spc_engine_encode_plain(const spc_engine *engine, const char *text, size_t bytes,
                                   bool special, int32_t **ids, int32_t *count, spc_error *err)
{
    return encode_by(spc_tokenizer_encode_plain, engine, text, bytes, special, ids, count, err);
}

spc_status spc_engine_decode(const spc_engine *engine, const int32_t *ids, int32_t count,
                             bool skip_special, char **text, size_t *bytes, spc_error *err)
{
    spc_status status = spc_entry_given(text, "text", err);

    if (status != SPC_OK) return status;
    *text = NULL;
    if (bytes) *bytes = 0;
    status = spc_entry_given(engine, "engine", err);
    if (status == SPC_OK) status = spc_entry_array(ids, count, "ids", "count", err);
    if (status == SPC_OK) status = need_tokenizer(engine, err);
    if (status != SPC_OK) return status;
    return spc_tokenizer_decode_padded(engine->tokenizer, engine->vocab, ids, count, skip_special,
                                       text, bytes, err);
}

/* Rows [from, to) of a teacher-forced text into logits. */
static spc_status logits_chunk(spc_engine *engine, int32_t slot, const int32_t *ids, int32_t from,
                               int32_t to, float *logits, spc_error *err)
{
    spc_scratch *s = &engine->scratch;
    spc_rows rows = {to - from, s->slot, s->token, s->position, s->output};

    for (int32_t i = 0; i < rows.count; i++) {
        s->slot[i] = slot;
        s->token[i] = ids[from + i];
        s->position[i] = from + i;
        s->output[i] = i;
    }

    spc_status status = engine->ops->forward(engine->verifier.runner, &rows, err);

    if (status == SPC_OK) status = spc_feed_read(engine, &engine->verifier, 0, rows.count, err);
    for (int32_t i = 0; i < rows.count && status == SPC_OK; i++) {
        memcpy(logits + (size_t)(from + i) * (size_t)engine->vocab,
               engine->ops->logits(engine->verifier.runner, i),
               (size_t)engine->vocab * sizeof *logits);
    }
    return status;
}

bool spc_engine_encodes(const spc_engine *engine)
{
    return engine->verifier.config.encoder_layers > 0;
}

/* what: "" or "source ", for messages */
static spc_status check_ids(const spc_engine *engine, const char *what, const int32_t *ids,
                            int32_t count, spc_error *err)
{
    if (count < 1 || count > engine->context) {
        return spc_error_set(err, SPC_EINPUT, "expected 1 to %d %sids (the context), found %d",
                             (int)engine->context, what, (int)count);
    }
    if (!ids) {
        return spc_error_set(err, SPC_EUSAGE, "%sids: expected an address, found NULL", what);
    }
    for (int32_t i = 0; i < count; i++) {
        if (ids[i] >= 0 && ids[i] < engine->vocab) continue;
        return spc_error_set(err, SPC_EINPUT, "%sid %d: expected 0 to %d, found %d", what, (int)i,
                             (int)engine->vocab - 1, (int)ids[i]);
    }
    return SPC_OK;
}

/* Is there a source exactly where there is an encoder for it? */
static spc_status check_source(const spc_engine *engine, const int32_t *source, int32_t count,
                               spc_error *err)
{
    if (spc_engine_encodes(engine)) return check_ids(engine, "source ", source, count, err);
    if (count == 0) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT,
                         "the model has no encoder: expected no source ids, found %d", (int)count);
}

spc_status spc_engine_check_logits(const spc_engine *engine, const int32_t *source,
                                   int32_t source_count, const int32_t *ids, int32_t count,
                                   spc_error *err)
{
    spc_status status = check_ids(engine, "", ids, count, err);

    return status == SPC_OK ? check_source(engine, source, source_count, err) : status;
}

spc_status spc_engine_logits(spc_engine *engine, const int32_t *source, int32_t source_count,
                             const int32_t *ids, int32_t count, float *logits, spc_error *err)
{
    spc_status status = spc_entry_given(engine, "engine", err);
    int32_t slot, chunk;

    if (status == SPC_OK) status = spc_entry_given(logits, "logits", err);
    if (status == SPC_OK && count > 0) status = spc_entry_given(ids, "ids", err);
    if (status == SPC_OK && source_count > 0) status = spc_entry_given(source, "source", err);
    if (status == SPC_OK) {
        status = spc_engine_check_logits(engine, source, source_count, ids, count, err);
    }
    if (status == SPC_OK) status = spc_engine_check_rank(engine, err);
    if (status == SPC_OK) status = spc_entry_take(engine, err);
    if (status != SPC_OK) return status;
    chunk = engine->limits.outputs;
    status = spc_slots_lend(engine, count, &slot, err);
    if (status != SPC_OK) {
        spc_entry_leave(engine);
        return status;
    }
    if (source_count > 0) {
        status = engine->ops->encode(engine->verifier.runner, slot, source, source_count, err);
    }
    for (int32_t from = 0; from < count && status == SPC_OK; from += chunk) {
        int32_t to = count - from < chunk ? count : from + chunk;

        status = logits_chunk(engine, slot, ids, from, to, logits, err);
    }
    spc_slots_return(engine, count, slot);
    spc_entry_leave(engine);
    return status;
}
