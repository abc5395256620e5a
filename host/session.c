/* SPDX-License-Identifier: Apache-2.0 */
/* session.c - sequences: what is kept of a round and where it ends, counters, text.  Their options
 * are read in session_options.c, and how they step is in session_step.c. */
#include "session.h"

#include "entry.h"

#include "rules/finish.h"
#include "weights/utf8.h"

#include <stdlib.h>
#include <string.h>

const char *spc_finish_name(spc_finish finish)
{
#define SPC_FINISH_NAME(id, text) text,
    static const char *const names[] = {SPC_FINISH_MAP(SPC_FINISH_NAME)};
#undef SPC_FINISH_NAME

    return (unsigned)finish < SPC_FINISH_COUNT ? names[finish] : "unknown";
}

/* ---- open -------------------------------------------------------------------------------------
 */

static spc_status check_stop_tokens(const spc_engine *engine, const spc_session_options *o,
                                    spc_error *err)
{
    if (o->stop_token_count < 0 || o->stop_token_count > SPC_STOP_TOKENS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "stop tokens: expected 0 to %d, found %d",
                             SPC_STOP_TOKENS_MAX, (int)o->stop_token_count);
    }
    if (o->stop_token_count > 0 && !o->stop_token) {
        return spc_error_set(err, SPC_EUSAGE, "stop_token: expected %d ids, found NULL",
                             (int)o->stop_token_count);
    }
    for (int32_t i = 0; i < o->stop_token_count; i++) {
        if (o->stop_token[i] >= 0 && o->stop_token[i] < engine->vocab) continue;
        return spc_error_set(err, SPC_EUSAGE, "stop token: expected an id of 0 to %d, found %d",
                             (int)engine->vocab - 1, (int)o->stop_token[i]);
    }
    return SPC_OK;
}

/* Are they for this engine? */
static spc_status check_engine(const spc_engine *engine, const spc_session_options *o,
                               const spc_row_params *params, spc_error *err)
{
    spc_status status = spc_session_check_models(engine, o, err);

    if (status != SPC_OK) return status;
    if (o->gamma == SPC_GAMMA_AUTO && engine->adopted) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "gamma auto with nccl_comm: every rank would choose by its own times, "
                             "and all must choose alike: use a fixed gamma");
    }
    if (engine->ngram.most > 0) {
        status = spc_ngram_check_rule(&params->rule, params->bonus, o->rule, err);
        if (status != SPC_OK) return status;
    } else if (!engine->drafter.runner && params->rule.kind != SPC_RULE_VERIFIER_ONLY) {
        return spc_error_set(err, SPC_EUSAGE,
                             "rule %s needs a drafter, and the engine was opened without one: give "
                             "a drafter, or use rule verifier-only",
                             o->rule);
    }
    return check_stop_tokens(engine, o, err);
}

static spc_status check_prompt(const spc_engine *engine, const int32_t *prompt, int32_t count,
                               spc_error *err)
{
    if (!prompt || count < 1) {
        return spc_error_set(err, SPC_EINPUT,
                             "empty prompt: expected at least one token (a BOS, say), found none");
    }
    /* before an id is read: a count that is wrong may be beyond the array */
    if (count >= engine->context + (spc_engine_encodes(engine) ? 1 : 0)) {
        return spc_error_set(err, SPC_EFULL,
                             "prompt: its tokens (%d) leave no room in a context of %d: shorten "
                             "it, or open the engine with a larger context",
                             (int)count, (int)engine->context);
    }
    for (int32_t i = 0; i < count; i++) {
        if (prompt[i] >= 0 && prompt[i] < engine->vocab) continue;
        return spc_error_set(err, SPC_EINPUT,
                             "prompt token %d: expected an id of 0 to %d, found %d", (int)i,
                             (int)engine->vocab - 1, (int)prompt[i]);
    }
    return SPC_OK;
}

static const spc_strategy *strategy_of(spc_rule_kind kind)
{
    switch (kind) {
    case SPC_RULE_DRAFTER_ONLY: return &spc_strategy_drafter;
    case SPC_RULE_TOKEN_CHOW: return &spc_strategy_token_chow;
    case SPC_RULE_SEQ_CHOW: return &spc_strategy_seq_chow;
    case SPC_RULE_BILD_DYNAMIC: return &spc_strategy_bild;
    default: return &spc_strategy_round;
    }
}

/* Where the text of what is decoded begins: behind the prompt's, or by itself. */
static spc_text_place text_place(const spc_session *s)
{
    return s->source ? (spc_text_place){0, false} : SPC_TEXT_INSIDE;
}

static void begin_counters(const spc_session *s, spc_stats *counters)
{
    memset(counters, 0, sizeof *counters);
    counters->prompt_tokens = s->source ? s->source_count : s->prompt;
    counters->output_hash = SPC_HASH_NONE;
}

/* The sequence is this prompt, and nothing has been decided on yet. */
static void begin(spc_session *s, const int32_t *prompt, int32_t count)
{
    memcpy(s->source ? s->source : s->token, prompt, (size_t)count * sizeof *prompt);
    s->source_count = s->source ? count : 0;
    if (s->source) s->token[0] = s->engine->verifier.config.start;
    s->prompt = s->length = s->source ? 1 : count;
    s->params.rule = s->rule;
    s->found = 0;
    if (s->ngram) spc_ngram_begin(s->ngram);
    if (s->ngram && s->source) spc_ngram_add(s->ngram, s->source, count);
    if (s->processor) spc_processor_begin(s->processor, s->token, s->prompt);
    s->strategy = strategy_of((spc_rule_kind)s->rule.kind);
    s->finish = SPC_FINISH_RUNNING;
    s->ahead = 0;
    s->asks = s->together = s->follows = false;
    s->log_sum = 0;
    s->round_failed = s->in_flight = false;
    begin_counters(s, &s->counters);
    spc_text_begin(&s->text);
    s->place = text_place(s);
    atomic_store(&s->cancel, false);
}

static void free_arrays(spc_session *s)
{
    spc_ngram_close(s->ngram);
    spc_processor_close(s->processor);
    free(s->source);
    free(s->token);
    free(s->detail);
    free(s->logprobs);
    free(s->page);
}

/* All that a session of a full context may need; false: no memory. */
static bool take_arrays(spc_session *s, const spc_engine *engine, const spc_session_options *o)
{
    size_t context = (size_t)engine->context;
    bool encodes = spc_engine_encodes(engine);

    s->token = malloc(context * sizeof *s->token);
    s->page = malloc((size_t)spc_pages_for(engine->context) * sizeof *s->page);
    s->detail_room = s->budget < engine->context ? s->budget : engine->context;
    if (o->details) s->detail = malloc((size_t)s->detail_room * sizeof *s->detail);
    s->top_logprobs = o->top_logprobs;
    if (o->logprobs) {
        s->logprobs =
            malloc((size_t)s->detail_room * (1 + (size_t)o->top_logprobs) * sizeof *s->logprobs);
    }
    if (encodes) s->source = malloc(context * sizeof *s->source);
    return s->token && s->page && (s->detail || !o->details) && (s->logprobs || !o->logprobs) &&
           (s->source || !encodes);
}

/* Drafts are looked up in what an encoder reads, too. */
static spc_status open_ngram(spc_session *s, spc_error *err)
{
    const spc_engine *engine = s->engine;
    int64_t context = engine->context;

    if (engine->ngram.most == 0 || s->rule.kind == SPC_RULE_VERIFIER_ONLY) return SPC_OK;
    s->ngram = spc_ngram_open(engine->ngram, s->source ? 2 * context : context);
    if (s->ngram) return SPC_OK;
    return spc_error_set(err, SPC_ENOMEM, "no memory to look up n-grams of %d tokens",
                         (int)engine->context);
}

/* Tokens that would end the sequence are the model's and the session's own. */
static spc_status open_processor(spc_session *s, const spc_session_options *o, spc_error *err)
{
    const spc_config *config = &s->engine->verifier.config;
    int32_t stop[SPC_CONFIG_STOPS + SPC_STOP_TOKENS_MAX], count = 0;

    for (int32_t i = 0; !o->ignore_stop && i < config->stop_count; i++) {
        stop[count++] = config->stop[i];
    }
    for (int32_t i = 0; !o->ignore_stop && i < o->stop_token_count; i++) {
        stop[count++] = o->stop_token[i];
    }
    return spc_processor_open(o, s->engine->vocab, stop, count, &s->processor, err);
}

spc_status spc_session_open(spc_engine *engine, const spc_session_options *options,
                            const int32_t *prompt, int32_t count, spc_session **out, spc_error *err)
{
    spc_row_params params;
    spc_session *s = NULL;
    spc_status status = spc_entry_given(out, "out", err);

    if (status != SPC_OK) return status;
    *out = NULL;
    status = spc_entry_given(engine, "engine", err);
    if (status == SPC_OK) status = spc_entry_given(options, "options", err);
    if (status == SPC_OK) status = spc_engine_check_rank(engine, err);
    if (status == SPC_OK) status = spc_session_options_check(options, &params, err);
    if (status == SPC_OK) status = check_engine(engine, options, &params, err);
    if (status == SPC_OK) status = check_prompt(engine, prompt, count, err);
    if (status != SPC_OK) return status;

    s = calloc(1, sizeof *s);
    if (s) s->budget = options->max_tokens > 0 ? options->max_tokens : INT32_MAX;
    if (!s || !take_arrays(s, engine, options)) {
        status = spc_error_set(err, SPC_ENOMEM, "no memory for a session of %d tokens",
                               (int)engine->context);
        goto fail;
    }
    status = spc_text_init(&s->text, options->stop, options->stop_count, engine->longest_token,
                           options->on_text, options->user, err);
    if (status != SPC_OK) goto fail;
    s->engine = engine;
    s->params = params;
    s->rule = params.rule;
    status = open_ngram(s, err);
    if (status == SPC_OK) status = open_processor(s, options, err);
    if (status != SPC_OK) goto fail;
    s->plain = params;
    (void)spc_rule_make(SPC_RULE_STRICT, 0, SPC_GATE_UNSCALED, false, &s->plain.rule);
    s->gamma = options->gamma;
    s->ignore_stop = options->ignore_stop;
    if (options->stop_token_count > 0) {
        memcpy(s->stop_token, options->stop_token,
               (size_t)options->stop_token_count * sizeof *s->stop_token);
    }
    s->stop_token_count = options->stop_token_count;
    s->reads_text = engine->tokenizer && (options->stop_count > 0 || options->on_text);
    s->on_token = options->on_token;
    s->user = options->user;
    atomic_init(&s->cancel, false);
    s->slot = -1;
    s->may_wait = options->wait;
    begin(s, prompt, count);
    status = spc_entry_take(engine, err);
    if (status != SPC_OK) goto fail;
    status = spc_slots_take(s, err);
    if (status == SPC_OK) engine->open_sessions++;
    spc_entry_leave(engine);
    if (status != SPC_OK) goto fail;
    *out = s;
    return SPC_OK;
fail:
    if (s) {
        spc_text_free(&s->text);
        free_arrays(s);
        free(s);
    }
    return status;
}

void spc_session_close(spc_session *session)
{
    spc_engine *engine = session ? session->engine : NULL;
    bool last;

    if (!session || !spc_entry_take_to_close(engine)) return;
    spc_slots_give_back(session);
    last = --engine->open_sessions == 0 && engine->closed;
    spc_entry_leave(engine);
    spc_text_free(&session->text);
    free_arrays(session);
    free(session);
    if (last) spc_engine_end(engine);
}

int32_t spc_session_room(const spc_session *s)
{
    return spc_pages_room(s->page_count, s->engine->context);
}

/* How much of the next prompt the caches of a session's slot hold. */
static int32_t common_tokens(const spc_session *s, const int32_t *prompt, int32_t count)
{
    int32_t common = 0;

    /* The last token of a prompt is pending: its row must run.  So is the last one that was kept,
     * and behind it the caches may hold drafts that were not; of a failed session they may hold
     * what made it fail.  What an encoder reads is read as a whole. */
    while (!s->source && s->slot >= 0 && s->finish != SPC_FINISH_FAILED && common < s->length - 1 &&
           common < count - 1 && s->token[common] == prompt[common]) {
        common++;
    }
    return common;
}

spc_status spc_session_restart(spc_session *s, const int32_t *prompt, int32_t count, spc_error *err)
{
    spc_status status = spc_entry_given(s, "session", err);
    int32_t common;
    int64_t reused = 0;

    if (status == SPC_OK) status = check_prompt(s->engine, prompt, count, err);
    if (status == SPC_OK) status = spc_entry_take(s->engine, err);
    if (status != SPC_OK) return status;
    common = common_tokens(s, prompt, count);
    status = spc_slots_check(s, prompt, count, common, err);
    if (status == SPC_OK && s->slot >= 0) status = spc_slots_keep(s, count, common, &reused, err);
    if (status == SPC_OK) {
        begin(s, prompt, count);
        s->counters.reused_tokens = reused;
        if (s->slot >= 0) {
            spc_gamma_begin(s);
        } else if (s->waits) {
            spc_slots_serve(s->engine);
        } else {
            status = spc_slots_take(s, err);
        }
    }
    spc_entry_leave(s->engine);
    return status;
}

/* ---- drafts that are looked up ----------------------------------------------------------------
 */

int32_t spc_session_look_up(spc_session *s, int32_t most)
{
    uint64_t start = spc_engine_now(s->engine);
    int32_t wanted = most + (s->params.bonus == SPC_BONUS_STEP ? 1 : 0);
    int32_t held = (int32_t)spc_ngram_length(s->ngram) - s->source_count;

    spc_ngram_add(s->ngram, s->token + held, s->length - held);
    s->found = spc_ngram_draft(s->ngram, s->token + s->length, wanted);
    s->counters.draft_ns += spc_engine_now(s->engine) - start;
    return s->found < most ? s->found : most;
}

/* ---- what is kept -----------------------------------------------------------------------------
 */

bool spc_session_is_stop(const spc_session *s, int32_t token)
{
    const spc_config *config = &s->engine->verifier.config;

    for (int32_t i = 0; !s->ignore_stop && i < config->stop_count; i++) {
        if (config->stop[i] == token) return true;
    }
    for (int32_t i = 0; !s->ignore_stop && i < s->stop_token_count; i++) {
        if (s->stop_token[i] == token) return true;
    }
    return false;
}

uint64_t spc_hash_tokens(uint64_t hash, const int32_t *token, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        for (int32_t byte = 0; byte < 4; byte++) {
            hash ^= (uint32_t)token[i] >> (8 * byte) & 255u;
            hash *= 0x100000001b3u;
        }
    }
    return hash;
}

/* Feed the token's bytes to the text; true when they complete a stop string. */
static bool follow_text(spc_session *s, int32_t token)
{
    size_t bytes;
    const char *piece;

    if (!s->reads_text || spc_tokenizer_is_special(s->engine->tokenizer, token)) return false;
    piece = spc_tokenizer_next(s->engine->tokenizer, &s->place, token, &bytes);
    return spc_text_push(&s->text, piece, bytes);
}

static spc_finish finish_of(spc_end end)
{
    switch (end) {
    case SPC_END_STOP: return SPC_FINISH_STOP_TOKEN;
    case SPC_END_BUDGET: return SPC_FINISH_MAX_TOKENS;
    case SPC_END_CONTEXT: return SPC_FINISH_CONTEXT;
    default: return SPC_FINISH_RUNNING;
    }
}

bool spc_session_keep(spc_session *s, int32_t token, spc_token_origin origin, bool deferred)
{
    spc_token_detail *detail = s->detail ? s->detail + s->length - s->prompt : NULL;
    const spc_logprob *logprobs = spc_session_logprob_room(s, s->length - s->prompt);
    spc_token told = {token, s->length, origin, deferred, detail, logprobs};

    if (detail) detail->origin = origin;

    s->token[s->length++] = token;
    if (s->processor) spc_processor_keep(s->processor, token);
    s->counters.tokens++;
    s->counters.output_hash = spc_hash_tokens(s->counters.output_hash, &token, 1);
    s->finish = finish_of(spc_end_of(spc_session_is_stop(s, token), s->length - s->prompt,
                                     s->budget, s->length, s->engine->context));
    bool stopped = follow_text(s, token);

    if (stopped) {
        s->finish = SPC_FINISH_STOP_STRING;
    } else if (s->finish != SPC_FINISH_RUNNING) {
        spc_text_finish(&s->text);
    }
    if (s->on_token && !s->on_token(s->user, &told) && s->finish == SPC_FINISH_RUNNING) {
        s->finish = SPC_FINISH_CANCELLED;
        spc_text_finish(&s->text);
    }
    return s->finish == SPC_FINISH_RUNNING;
}

void spc_session_fail(spc_session *s, const spc_error *error)
{
    s->finish = SPC_FINISH_FAILED;
    s->error = *error;
    spc_text_finish(&s->text);
}

void spc_session_fail_row(spc_session *s, bool drafter, int32_t position)
{
    const char *none =
        s->processor ? spc_processor_leaves_none(s->processor, s->token, position) : NULL;
    spc_error error;

    if (none) {
        (void)spc_error_set(&error, SPC_EINPUT,
                            "%s: no token is allowed at position %d; what was decoded before is "
                            "kept (tokens: %lld): allow one more, or one that ends the sequence",
                            none, (int)position, (long long)s->counters.tokens);
        spc_session_fail(s, &error);
        return;
    }
    (void)spc_error_set(
        &error, SPC_ENUMERIC,
        "%s: logits for position %d hold NaN or infinity; what was decoded before is kept "
        "(tokens: %lld); check the model's weights",
        drafter ? "drafter" : "verifier", (int)position, (long long)s->counters.tokens);
    spc_session_fail(s, &error);
}

/* ---- what a session tells ---------------------------------------------------------------------
 *
 * One that waits may begin while it is asked, in another thread's step: what that writes is not
 * read before it no longer waits. */

spc_finish spc_session_finish(const spc_session *session)
{
    return spc_session_waits(session) ? SPC_FINISH_RUNNING : session->finish;
}

const spc_error *spc_session_error(const spc_session *session)
{
    return spc_session_finish(session) == SPC_FINISH_FAILED ? &session->error : NULL;
}

const int32_t *spc_session_tokens(const spc_session *session, int32_t *count)
{
    *count = session->length - session->prompt;
    return session->token + session->prompt;
}

const spc_token_detail *spc_session_details(const spc_session *session, int32_t *count)
{
    *count = session->detail ? session->length - session->prompt : 0;
    return session->detail;
}

const spc_logprob *spc_session_logprobs(const spc_session *session, int32_t *count)
{
    *count = session->logprobs ? session->length - session->prompt : 0;
    return session->logprobs;
}

void spc_session_stats(const spc_session *session, spc_stats *out)
{
    if (spc_session_waits(session)) {
        begin_counters(session, out);
    } else {
        *out = session->counters;
    }
}

/* Bytes of all kept pieces; out: room for them, or NULL to count. */
static size_t join_pieces(const spc_session *s, char *out)
{
    spc_text_place place = text_place(s);
    size_t total = 0;

    for (int32_t i = s->prompt; i < s->length; i++) {
        const char *piece;
        size_t bytes;

        if (spc_tokenizer_is_special(s->engine->tokenizer, s->token[i])) continue;
        piece = spc_tokenizer_next(s->engine->tokenizer, &place, s->token[i], &bytes);
        if (out && piece) memcpy(out + total, piece, bytes);
        total += bytes;
    }
    return total;
}

spc_status spc_session_text(const spc_session *s, char **text, size_t *bytes, spc_error *err)
{
    spc_status status = spc_entry_given(text, "text", err);

    if (status != SPC_OK) return status;
    *text = NULL;
    if (bytes) *bytes = 0;
    if (!s) return spc_entry_given(s, "session", err);
    if (!s->engine->tokenizer) {
        return spc_error_set(err, SPC_EMODEL,
                             "the model has no tokenizer (tokenizer.json): there is no text");
    }

    size_t length = join_pieces(s, NULL);
    char *raw = malloc(length + 1);

    if (!raw) goto no_memory;
    (void)join_pieces(s, raw);
    if (s->finish == SPC_FINISH_STOP_STRING) length = (size_t)s->text.bytes;
    *text = malloc(spc_utf8_sanitise(raw, length, NULL) + 1);
    if (!*text) goto no_memory;
    length = spc_utf8_sanitise(raw, length, *text);
    if (bytes) *bytes = length;
    free(raw);
    return SPC_OK;
no_memory:
    free(raw);
    return spc_error_set(err, SPC_ENOMEM, "no memory for a text of %zu bytes", length);
}
