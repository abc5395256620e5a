/* SPDX-License-Identifier: Apache-2.0 */
/* cli_run.c - spc run: prompts in, continuations out, in the order of the prompts. */
#include "cli_decode.h"
#include "cli_details.h"
#include "cli_lines.h"
#include "host/session.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- options --------------------------------------------------------------------------------- */

typedef struct {
    spc_cli_decode decode;
    const char *input, *chat_template;
    int32_t to, batch;
    bool json, stream, keep_going;
} run_args;

#define OPTION(name, value, help, kind, field, low, high)                       \
    {                                                                           \
        name, value, help, SPC_CLI_##kind, offsetof(run_args, field), low, high \
    }

static const spc_cli_option options[] = {
    SPC_CLI_DECODE_OPTIONS(run_args),
    OPTION("seed", "N",
           "seed of the first prompt; each further prompt adds 1, and 0 follows 2^63 - 1", SEED,
           decode.seed, 0, 0),
    OPTION("to", SPC_CLI_LANGUAGES, "prompts are English sentences to translate (embedded pair)",
           CHOICE, to, 0, 0),
    OPTION("input", "FILE",
           "prompts as lines of JSON: {\"prompt\": TEXT}, {\"ids\": [ID, ...]} or a chat,\n"
           "{\"messages\": [{\"role\": \"user\", \"content\": TEXT}, ...]}, each with an \"id\"\n"
           "that is repeated in the result, if wanted, and its own \"max_tokens\",\n"
           "\"min_tokens\", \"seed\", \"temperature\", \"top_k\", \"top_p\", \"min_p\",\n"
           "\"repetition_penalty\", \"presence_penalty\", \"frequency_penalty\",\n"
           "\"logit_bias\" ({\"ID\": X, ...}), \"stop\" (a text or an array of texts) and,\n"
           "with --json, \"logprobs\" (null is as good as no key); a message's content may\n"
           "be an array of {\"type\": \"text\", \"text\": TEXT},\n"
           "whose texts are put together, and a \"name\" is refused; -: stdin",
           TEXT, input, 0, 0),
    OPTION("chat-template", "NAME",
           "template of the \"messages\" of --input, as of spc chat; default: the\n"
           "verifier's own",
           TEXT, chat_template, 0, 0),
    OPTION("batch", "N",
           "prompts decoded together, as many as have been read; results do not depend on it", INT,
           batch, 1, 4096),
    OPTION("kv-tokens", "N",
           "capacity of each model's KV cache in tokens, for all prompts of the batch;\n"
           "prompts that find no room wait; 0: a full context for each, or as much of\n"
           "that as fits in the memory of a GPU",
           INT, decode.kv_tokens, 0, INT32_MAX),
    OPTION("no-prefix-reuse", NULL,
           "run every prompt as a whole; otherwise a prefix that another has\n"
           "processed is not run again",
           FLAG, decode.no_prefix_reuse, 0, 0),
    OPTION("prefill-rows", "N",
           "chunked prefill: rows of a new prompt that one step processes while other\n"
           "prompts are being decoded; 0: 64",
           INT, decode.prefill_rows, 0, INT32_MAX),
    OPTION("json", NULL, "one line per prompt, a JSON object: text, ids, counters", FLAG, json, 0,
           0),
    OPTION("details", NULL,
           "why each token came about: probabilities of the draft, what the rule did with\n"
           "it, log-probability of the token; with --json as \"details\", otherwise a table\n"
           "on stderr.  Not for rules that run one model at a time",
           FLAG, decode.details, 0, 0),
    SPC_CLI_LOGPROBS_ROW(run_args),
    OPTION("keep-going", NULL,
           "where a prompt cannot be read or decoded, say so (with --json as a result,\n"
           "{\"index\": N, \"id\": ID, \"error\": TEXT}) and go on with the next; exit code 6",
           FLAG, keep_going, 0, 0),
    OPTION("stream", NULL, "print text as it is decoded (one prompt at a time)", FLAG, stream, 0,
           0),
};

static void run_init(void *args)
{
    run_args *a = args;

    spc_cli_decode_init(&a->decode);
    a->decode.verifier = SPC_EMBEDDED_VERIFIER;
    a->decode.drafter = SPC_EMBEDDED_DRAFTER;
    a->batch = 1;
    a->to = -1;
}

/* ---- jobs ------------------------------------------------------------------------------------ */

/* One prompt on its way to a result.  Jobs wait in the order of prompts until they are printed. */
typedef struct job {
    struct job *next;
    spc_session *session; /* while it is decoded */
    json_t *id;           /* what the file calls it, or NULL */
    int64_t index;
    char *text; /* [bytes] of the result; NULL: the model has no tokenizer */
    size_t bytes;
    int32_t *tokens;          /* [count] */
    spc_token_detail *detail; /* [count], or NULL: not wanted */
    spc_logprob *logprobs;    /* [count, 1 + top_logprobs], or NULL: not wanted */
    int32_t count, top_logprobs;
    uint64_t seed;
    spc_finish finish;
    spc_stats stats;
    spc_error error; /* why there is no result; status SPC_OK: there is one */
} job;

typedef struct {
    const run_args *args;
    spc_engine *engine;
    spc_cli_way way;
    spc_cli_source source;
    int32_t reply_end;      /* the token that ends a reply to messages */
    job *first, *last;      /* in the order of prompts */
    spc_session **stepping; /* [batch] */
    int32_t running;
    int64_t prompts, refused; /* begun, and of them those without a result */
    bool reading;             /* there may be more prompts */
    bool told_template;       /* that there is one, and it is not applied */
    spc_cli_total total;
    spc_error error; /* the first; status SPC_OK: none */
} run_state;

static void note_error(run_state *run, const spc_error *error)
{
    if (run->error.status == SPC_OK) run->error = *error;
    run->reading = false; /* what was begun is brought to its end, nothing new is begun */
}

static bool stream_token(void *user, const spc_token *token)
{
    (void)user;
    (void)token;
    return !spc_cli_interrupted;
}

static void stream_text(void *user, const char *text, size_t bytes)
{
    (void)user;
    spc_cli_stream(text, bytes);
}

static spc_status prompt_ids(run_state *run, spc_cli_prompt *prompt, spc_error *err)
{
    const run_args *a = run->args;
    spc_error inner;
    spc_status status;

    if (prompt->ids && a->to < 0) return SPC_OK;
    if (!prompt->text && a->to >= 0) {
        status =
            spc_error_set(&inner, SPC_EINPUT, "\"%s\" and --to: expected one of them, found both",
                          prompt->ids ? "ids" : "messages");
    } else if (prompt->messages) {
        status = spc_cli_conversation(run->engine, prompt->messages, a->chat_template, &prompt->ids,
                                      &prompt->count, &run->reply_end, &inner);
    } else if (a->to >= 0) {
        status = spc_cli_translation(run->engine, a->to, prompt->text, prompt->bytes, &prompt->ids,
                                     &prompt->count, &inner);
    } else {
        if (!run->told_template && !a->decode.quiet) spc_cli_tell_template(run->engine);
        run->told_template = true;
        status = spc_engine_encode(run->engine, prompt->text, prompt->bytes, true, &prompt->ids,
                                   &prompt->count, &inner);
    }
    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, status, "%s: %s", prompt->where, inner.message);
}

/* Options of the session that decodes a prompt: the command line's, and the line's own. */
static spc_session_options options_of(const run_state *run, const spc_cli_prompt *prompt)
{
    spc_session_options o = run->way.options;

    /* within what --seed takes, so that a result can be had again by itself */
    o.seed = (run->args->decode.seed + (uint64_t)run->prompts) & (uint64_t)INT64_MAX;
    spc_cli_own_apply(&prompt->own, &o);
    if (prompt->messages) {
        o.stop_token = &run->reply_end;
        o.stop_token_count = 1;
    }
    return o;
}

static spc_status open_job(run_state *run, spc_cli_prompt *prompt, job *j, spc_error *err)
{
    spc_session_options o;
    spc_error inner;
    spc_status status = prompt_ids(run, prompt, err);

    if (status != SPC_OK) return status;
    o = options_of(run, prompt);
    j->seed = o.seed;
    j->top_logprobs = o.top_logprobs;
    status = spc_cli_own_check(&prompt->own, run->args->json, &inner);
    if (status == SPC_OK) {
        status = spc_session_open(run->engine, &o, prompt->ids, prompt->count, &j->session, &inner);
    }
    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, spc_cli_own_blame(status), "%s: %s", prompt->where, inner.message);
}

/* Begin the next prompt, if there is one.  One that is refused has its result at once, where the
 * others go on (--keep-going). */
static spc_status begin_job(run_state *run, spc_error *err)
{
    spc_cli_prompt prompt;
    bool got;
    job *j = NULL;
    spc_status status = spc_cli_source_next(&run->source, &prompt, &got, err);

    if (!got) run->reading = false;
    if (!got) return status;
    j = calloc(1, sizeof *j);
    if (!j) {
        status = spc_error_set(err, SPC_ENOMEM, "%s: no memory", prompt.where);
    } else if (status == SPC_OK) {
        status = open_job(run, &prompt, j, err);
    }
    if (status != SPC_OK && (!run->args->keep_going || !spc_cli_of_prompt(status))) {
        free(j);
        spc_cli_prompt_free(&prompt);
        return status;
    }
    if (status != SPC_OK) j->error = *err;
    j->index = run->prompts++;
    j->id = json_incref(prompt.id);
    *(run->last ? &run->last->next : &run->first) = j;
    run->last = j;
    run->running += j->session != NULL;
    spc_cli_prompt_free(&prompt);
    return SPC_OK;
}

/* A copy, or an error that ends the run with its code; NULL: of nothing. */
static void *keep(run_state *run, const void *from, size_t bytes)
{
    spc_error error;
    void *copy = from ? malloc(bytes + 1) : NULL;

    if (copy) return memcpy(copy, from, bytes);
    if (!from) return NULL;
    (void)spc_error_set(&error, SPC_ENOMEM, "no memory for the details of a result");
    note_error(run, &error);
    return NULL;
}

/* What was asked for of each token. */
static void take_details(run_state *run, job *j)
{
    int32_t count;
    const spc_token_detail *detail = spc_session_details(j->session, &count);
    const spc_logprob *logprobs;

    j->detail = keep(run, detail, (size_t)count * sizeof *detail);
    logprobs = spc_session_logprobs(j->session, &count);
    j->logprobs =
        keep(run, logprobs, (size_t)count * (1 + (size_t)j->top_logprobs) * sizeof *logprobs);
}

/* Take the result out of a session that ended, and give its slot back. */
static void end_job(run_state *run, job *j)
{
    spc_error error;
    const int32_t *tokens = spc_session_tokens(j->session, &j->count);
    spc_engine_facts facts;

    spc_engine_describe(run->engine, &facts);
    j->finish = spc_session_finish(j->session);
    spc_session_stats(j->session, &j->stats);
    j->tokens = malloc(((size_t)j->count + 1) * sizeof *j->tokens);
    if (j->tokens) {
        memcpy(j->tokens, tokens, (size_t)j->count * sizeof *tokens);
    } else {
        j->count = 0;
        (void)spc_error_set(&error, SPC_ENOMEM, "no memory for a result");
        note_error(run, &error);
    }
    if (j->tokens) take_details(run, j);
    if (facts.tokenizer && spc_session_text(j->session, &j->text, &j->bytes, &error) != SPC_OK) {
        note_error(run, &error);
    }
    if (spc_session_error(j->session)) {
        error = *spc_session_error(j->session);
        if (run->args->keep_going && spc_cli_of_prompt(error.status)) {
            j->error = error;
        } else {
            note_error(run, &error);
        }
    }
    spc_session_close(j->session);
    j->session = NULL;
    run->running--;
}

static void free_job(job *j)
{
    spc_session_close(j->session);
    json_decref(j->id);
    free(j->text);
    free(j->tokens);
    free(j->detail);
    free(j->logprobs);
    free(j);
}

/* ---- results --------------------------------------------------------------------------------- */

static json_t *job_json(const run_state *run, const job *j)
{
    const spc_session_options *o = &run->way.options;
    json_t *object = json_object();
    int failed = json_object_set_new(object, "index", json_integer(j->index));

    if (j->id) failed |= json_object_set(object, "id", j->id);
    if (j->text) failed |= json_object_set_new(object, "text", json_stringn(j->text, j->bytes));
    failed |= json_object_set_new(object, "ids", spc_cli_json_ids(j->tokens, j->count));
    failed |= json_object_set_new(object, "finish", json_string(spc_finish_name(j->finish)));
    failed |= json_object_set_new(object, "rule", json_string(run->way.rule));
    failed |= json_object_set_new(object, "gamma", spc_cli_json_gamma(o->gamma));
    failed |= json_object_set_new(object, "seed", json_integer((json_int_t)j->seed));
    if (j->detail) {
        failed |= json_object_set_new(
            object, "details", spc_cli_details_json(run->engine, j->tokens, j->detail, j->count));
    }
    if (j->logprobs) {
        failed |= json_object_set_new(
            object, "logprobs",
            spc_cli_logprobs_json(run->engine, j->logprobs, j->count, j->top_logprobs));
    }
    if (failed == 0 &&
        spc_cli_json_stats(object, &j->stats, spc_cli_positions(&run->way, &j->stats)))
        return object;
    json_decref(object);
    return NULL;
}

/* In place of a result: why there is none. */
static void print_refusal(const run_state *run, const job *j)
{
    if (run->args->json) {
        spc_cli_put_json(spc_cli_refusal(j->index, j->id, &j->error));
    } else {
        (void)spc_cli_fail(&j->error);
    }
}

static void print_job(const run_state *run, const job *j)
{
    if (run->args->json) {
        spc_cli_put_json(job_json(run, j));
        return;
    }
    if (!run->args->stream && j->text) spc_cli_put(j->text, j->bytes);
    for (int32_t i = 0; i < j->count && !j->text; i++) {
        spc_cli_print("%s%" PRId32, i > 0 ? " " : "", j->tokens[i]);
    }
    spc_cli_put("\n", 1);
    spc_cli_stream_ends();
    if (!j->detail) return;
    spc_cli_progress(NULL);
    (void)spc_cli_flush(); /* the table comes behind its text where both go to a terminal */
    spc_cli_details_print(run->engine, j->tokens, j->detail, j->count);
}

/* Print what is at the head of the line and has ended. */
static void print_ready(run_state *run)
{
    while (run->first && !run->first->session) {
        job *j = run->first;

        if (j->error.status == SPC_OK) {
            print_job(run, j);
            spc_cli_total_add(&run->total, &j->stats, j->finish, j->tokens, j->count);
        } else {
            print_refusal(run, j);
            run->refused++;
        }
        run->first = j->next;
        if (!run->first) run->last = NULL;
        free_job(j);
    }
    if (!spc_cli_flush()) run->reading = false;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* What can be told before a model is loaded. */
static spc_status check_args(const run_args *a, const spc_cli_line *line, spc_error *err)
{
    spc_chat_template chat;
    bool embedded = strncmp(a->decode.verifier, "embedded:", 9) == 0;

    if (!embedded && !spc_cli_given(line, "drafter")) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--verifier %.200s: its drafter is missing: give --drafter MODEL, or "
                             "--drafter none to decode with the verifier alone, or --drafter ngram "
                             "to look drafts up in the text",
                             a->decode.verifier);
    }
    if (a->chat_template && !spc_chat_find(a->chat_template, &chat)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--chat-template: expected one of " SPC_CHAT_NAMES ", found '%.60s'",
                             a->chat_template);
    }
    if (a->chat_template && (!a->input || a->to >= 0)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--chat-template is for the \"messages\" of --input FILE%s: leave it "
                             "out, or %s",
                             a->input ? ", which do not go with --to" : ", and none is given",
                             a->input ? "leave --to out" : "give a file");
    }
    if (a->decode.prefill_rows > 0 && a->batch == 1) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--prefill-rows: with one prompt at a time no other is being decoded: "
                             "give --batch N, or leave it out");
    }
    if (a->stream && a->json) {
        return spc_error_set(err, SPC_EUSAGE, "--stream and --json do not go together");
    }
    if (a->stream && a->batch > 1) {
        return spc_error_set(err, SPC_EUSAGE, "--stream takes one prompt at a time: no --batch");
    }
    return spc_cli_check_logprobs(&a->decode, a->json, "choose --details, which have a table", err);
}

/* What can be told of the models before their weights are loaded. */
static spc_status check_models(const spc_engine *engine, void *user, spc_error *err)
{
    const run_state *run = user;
    spc_status status = spc_session_check_models(engine, &run->way.options, err);

    if (status == SPC_OK) {
        status = spc_cli_check_overlap(engine, &run->args->decode, &run->way.options,
                                       run->args->batch, err);
    }
    if (status != SPC_OK || run->args->to < 0) return status;
    return spc_cli_check_language(engine, run->args->to, err);
}

/* Somebody may think that the program works, while it waits for them. */
static void tell_terminal(const run_state *run)
{
    if (run->args->decode.quiet || run->source.in != stdin || !isatty(STDIN_FILENO)) return;
    (void)fputs("spc: prompts are read from the terminal, one a line; Ctrl-D ends\n", stderr);
}

static void tell_progress(const run_state *run)
{
    int32_t count = 0;
    char text[96];

    if (run->args->decode.quiet) return;
    for (const job *j = run->first; j; j = j->next) {
        if (j->session) run->stepping[count++] = j->session;
    }
    if (spc_cli_tell_prompts(run->stepping, count)) return;
    if (run->args->stream || run->prompts < 2) {
        spc_cli_progress(NULL);
        return;
    }
    (void)snprintf(text, sizeof text, "%" PRId64 " prompts, %" PRId64 " tokens", run->prompts,
                   run->total.stats.tokens);
    spc_cli_progress(text);
}

/* One step of everything that runs. */
static void step_jobs(run_state *run)
{
    spc_error error;
    int32_t count = 0;

    for (job *j = run->first; j; j = j->next) {
        if (!j->session) continue;
        if (spc_cli_interrupted) spc_session_cancel(j->session);
        run->stepping[count++] = j->session;
    }
    /* A failed session says so itself (end_job). */
    (void)spc_engine_step(run->engine, run->stepping, count, &error);
    for (job *j = run->first; j; j = j->next) {
        if (j->session && spc_session_finish(j->session) != SPC_FINISH_RUNNING) end_job(run, j);
    }
}

/* Is another prompt to begin?  Those that run do not stand still for one that is yet to be written:
 * a program that writes it may wait for their results. */
static bool may_begin(run_state *run)
{
    if (!run->reading || spc_cli_interrupted || run->running >= run->args->batch) return false;
    return run->running == 0 || !spc_cli_source_waits(&run->source);
}

static void run_jobs(run_state *run)
{
    spc_error error;

    run->reading = true;
    while (run->reading || run->running > 0) {
        while (may_begin(run)) {
            if (begin_job(run, &error) != SPC_OK) note_error(run, &error);
            print_ready(run);
        }
        if (spc_cli_interrupted) run->reading = false;
        if (run->running == 0) continue;
        step_jobs(run);
        print_ready(run);
        tell_progress(run);
    }
    if (run->prompts == 0 && run->error.status == SPC_OK && !spc_cli_interrupted) {
        (void)spc_error_set(&run->error, SPC_EINPUT,
                            "%s holds no prompt: give one as an argument, one per line on stdin, "
                            "or --input FILE",
                            run->source.name);
    }
    if (run->refused > 0 && run->error.status == SPC_OK) {
        (void)spc_error_set(&run->error, SPC_EINPUT,
                            "%" PRId64 " of %" PRId64 " prompts could not be decoded", run->refused,
                            run->prompts);
    }
}

static int run_run(const void *args, const spc_cli_line *line)
{
    const run_args *a = args;
    run_state run;
    const spc_engine_check check = {check_models, &run};
    spc_place place;

    memset(&run, 0, sizeof run);
    run.args = a;
    spc_cli_total_init(&run.total);

    spc_status status = spc_cli_place(&a->decode.ranks, line, &place, &run.error);

    if (status != SPC_OK) return spc_cli_fail(&run.error);
    if (place.rank > 0) return spc_cli_decode_follow(&a->decode, &place, a->batch);
    status = check_args(a, line, &run.error);
    if (status == SPC_OK) status = spc_cli_decode_way(&a->decode, line, &run.way, &run.error);
    run.way.options.on_token = stream_token;
    run.way.options.wait = true; /* for room in the KV caches; of slots there are enough */
    if (a->stream) run.way.options.on_text = stream_text;
    if (status == SPC_OK) {
        status =
            spc_cli_source_open(&run.source, &line->words, a->input, spc_cli_read_line, &run.error);
    }
    if (status != SPC_OK) return spc_cli_decode_fail(&a->decode, &place, a->batch, &run.error);
    status = spc_cli_decode_open(&a->decode, &place, a->batch, &check, &run.engine, &run.error);
    if (status != SPC_OK) goto done;
    run.stepping = calloc((size_t)a->batch, sizeof *run.stepping);
    if (!run.stepping) {
        (void)spc_error_set(&run.error, SPC_ENOMEM, "no memory for a batch of %d", (int)a->batch);
        goto done;
    }
    spc_cli_catch_interrupt();
    spc_cli_catch_term();
    tell_terminal(&run);
    run_jobs(&run);
    if (!a->decode.quiet && run.total.sequences > 0)
        spc_cli_total_print("", &run.total, &run.way, run.engine);
done:
    free(run.stepping);
    spc_engine_close(run.engine);
    spc_cli_source_close(&run.source);
    if (run.error.status != SPC_OK && !spc_cli_place_ended(&place, run.error.status)) {
        return spc_cli_fail(&run.error);
    }
    return spc_cli_interrupted ? SPC_CLI_SIGNALLED + (int)spc_cli_interrupted : 0;
}

static int run_wrong(const void *args, const spc_cli_line *line, const spc_error *err)
{
    const run_args *a = args;

    return spc_cli_decode_wrong(&a->decode, line, a->batch, err);
}

const spc_cli_command spc_cli_run = {
    "run",
    "[PROMPT ...]",
    "decode prompts with a drafter and a verifier under a deferral rule",
    "A prompt is continued as it is, also by a chat model: its replies are to \"messages\" "
    "(--input),\n"
    "or in spc chat.\n"
    "Without prompts on the command line and without --input, every line of stdin is a prompt.\n"
    "Prints every answer and an end of line on stdout, in the order of the prompts; an answer may\n"
    "have several lines (--json: one line per prompt).  Two lines of statistics go to stderr.\n"
    "Special tokens that a prompt spells (\"</s>\") are these tokens; what others wrote belongs "
    "into\n"
    "\"messages\" (--input), where they are text.",
    0,
    INT32_MAX,
    options,
    sizeof options / sizeof *options,
    sizeof(run_args),
    run_init,
    run_run,
    run_wrong,
};
