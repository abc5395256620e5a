/* SPDX-License-Identifier: Apache-2.0 */
/* cli_chat.c - spc chat: a conversation, from a terminal or line by line from a pipe.
 *
 * What the models read is always the chat template's text of the whole conversation; the session
 * runs only what is new of it (spc_session_restart). */
#include "cli_decode.h"
#include "cli_details.h"
#include "cli_lines.h"
#include "cli_said.h"
#include "host/session.h"

#include "weights/chat.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- options --------------------------------------------------------------------------------- */

typedef struct {
    spc_cli_decode decode;
    const char *system, *chat_template, *input;
    bool json, stats, keep_going;
} chat_args;

static const spc_cli_option options[] = {
    {"system", "TEXT", "the system message; unless given, the template's own, if it has one",
     SPC_CLI_TEXT, offsetof(chat_args, system), 0, 0},
    {"chat-template", "NAME",
     "one of chatml, deepseek-r1, deepseek-r1-old, gemma2, gemma3, llama2, llama3,\n"
     "llama3.1, mistral-v1, mistral-v1-old, mistral-v3, mistral-nemo, phi3, phi3.5,\n"
     "phi4, phi4-mini, qwen2, qwen2.5, qwen3, qwen3-no-thinking, smollm2; default:\n"
     "the verifier's own",
     SPC_CLI_TEXT, offsetof(chat_args, chat_template), 0, 0},
    SPC_CLI_DECODE_OPTIONS(chat_args),
    SPC_CLI_DECODE_ROW(chat_args, "seed", "N",
                       "of the conversation; the same replies again take a fixed --gamma, too",
                       SEED, seed, 0, 0),
    {"input", "FILE",
     "what is said as lines of JSON, which know no commands and may hold any text:\n"
     "{\"content\": TEXT} is the user's next message, {\"messages\": [{\"role\":\n"
     "\"user\", \"content\": TEXT}, ...]} begins a new conversation with these, without\n"
     "--system; each with an \"id\" that is repeated with the reply, if wanted, and, for\n"
     "this reply, its own \"max_tokens\", \"seed\", \"temperature\" and so on, as in the lines\n"
     "of spc run; -: stdin",
     SPC_CLI_TEXT, offsetof(chat_args, input), 0, 0},
    {"json", NULL,
     "one line per reply, a JSON object: text, ids, how it ended (\"finish\"), counters",
     SPC_CLI_FLAG, offsetof(chat_args, json), 0, 0},
    SPC_CLI_LOGPROBS_ROW(chat_args),
    {"keep-going", NULL,
     "where a line of --input cannot be read or replied to, say so (with --json as a\n"
     "reply, {\"index\": N, \"id\": ID, \"error\": TEXT}) and go on with the next, as if it\n"
     "had not been there; exit code 6",
     SPC_CLI_FLAG, offsetof(chat_args, keep_going), 0, 0},
    {"stats", NULL, "statistics on stderr after every reply", SPC_CLI_FLAG,
     offsetof(chat_args, stats), 0, 0},
};

static void chat_init(void *args)
{
    spc_cli_decode *decode = &((chat_args *)args)->decode;

    spc_cli_decode_init(decode);
    decode->gamma = SPC_GAMMA_AUTO; /* who talks waits: no reply has to be had twice */
}

typedef struct {
    const chat_args *args;
    spc_cli_way way;
    spc_engine *engine;
    spc_chat_facts facts;
    spc_cli_source source;
    bool terminal; /* somebody is typing */
    spc_cli_said said;
    json_t *id;             /* what a line of JSON calls its message, or NULL */
    const spc_cli_own *own; /* what that line says of its reply, or NULL */
    int64_t turns, refused; /* asked for by --input, and of them those without a reply */
    spc_session *session;   /* NULL before the first reply */
    bool special;           /* the session's options are those of a line */
    uint64_t seed;          /* of the session ... */
    int32_t top_logprobs;   /* ... and if it keeps logprobs, of how many others */
    spc_cli_total total;
} chat_state;

/* For whoever sits at the terminal. */
static void tell(const chat_state *chat, const char *text)
{
    spc_cli_said_tell(chat->terminal, text);
}

/* ---- the conversation ------------------------------------------------------------------------ */

/* The system message, or nothing. */
static spc_status begin_conversation(chat_state *chat, spc_error *err)
{
    const char *system = chat->args->system;
    const spc_message message = {"system", system, system ? strlen(system) : 0};

    spc_cli_said_cut(&chat->said, 0);
    return system ? spc_cli_said_add_copy(&chat->said, &message, err) : SPC_OK;
}

/* What begins a new conversation: lines of JSON know no commands. */
static const char *what_begins_anew(const chat_state *chat)
{
    return chat->args->input ? "\"messages\"" : "/reset";
}

static spc_status conversation_ids(const chat_state *chat, int32_t **ids, int32_t *count,
                                   spc_error *err)
{
    int32_t context = chat->engine->context;
    spc_status status =
        spc_engine_encode_chat(chat->engine, chat->args->chat_template, chat->said.message,
                               chat->said.count, true, ids, count, err);

    if (status != SPC_OK || *count < context) return status;
    free(*ids);
    *ids = NULL;
    return spc_error_set(err, SPC_EFULL,
                         "the conversation has reached %d tokens, and a context holds %d: begin a "
                         "new one (%s), or use a larger --context if the models allow it",
                         (int)*count, (int)context, what_begins_anew(chat));
}

/* ---- a reply --------------------------------------------------------------------------------- */

static bool on_token(void *user, const spc_token *token)
{
    (void)user;
    (void)token;
    return !spc_cli_interrupted;
}

static void on_text(void *user, const char *text, size_t bytes)
{
    (void)user;
    spc_cli_stream(text, bytes);
}

/* The session of a reply.  With other options than the one before it is a new one, which takes over
 * what that one's KV caches hold in whole pages. */
static spc_status begin_reply(chat_state *chat, const int32_t *ids, int32_t count, spc_error *err)
{
    bool special = chat->own && spc_cli_own_any(chat->own);
    spc_session_options o = chat->way.options;
    spc_status status;

    if (chat->session && !special && !chat->special) {
        return spc_session_restart(chat->session, ids, count, err);
    }
    spc_session_close(chat->session);
    chat->session = NULL;
    if (special) spc_cli_own_apply(chat->own, &o);
    chat->special = special;
    chat->seed = o.seed;
    chat->top_logprobs = o.top_logprobs;
    status = spc_session_open(chat->engine, &o, ids, count, &chat->session, err);
    return spc_cli_own_blame(status);
}

/* Decode until the reply ends, by itself or by Ctrl-C. */
static spc_status decode(chat_state *chat, const int32_t *ids, int32_t count, spc_error *err)
{
    spc_status status = begin_reply(chat, ids, count, err);

    while (status == SPC_OK && spc_session_finish(chat->session) == SPC_FINISH_RUNNING) {
        if (spc_cli_interrupted) spc_session_cancel(chat->session);
        status = spc_session_step(chat->session, err);
        if (!chat->args->decode.quiet && !spc_cli_tell_prompts(&chat->session, 1)) {
            spc_cli_progress(NULL);
        }
    }
    return status;
}

static json_t *reply_json(const chat_state *chat, const char *text, size_t bytes)
{
    int32_t count;
    const spc_logprob *logprobs = spc_session_logprobs(chat->session, &count);
    const int32_t *tokens = spc_session_tokens(chat->session, &count);
    spc_stats stats;
    json_t *object = json_object();

    spc_session_stats(chat->session, &stats);

    int64_t index = chat->args->input ? chat->turns - 1 : chat->total.sequences;
    int failed = json_object_set_new(object, "index", json_integer(index));

    if (chat->id) failed |= json_object_set(object, "id", chat->id);
    failed |= json_object_set_new(object, "text", json_stringn(text, bytes));
    failed |= json_object_set_new(object, "ids", spc_cli_json_ids(tokens, count));
    failed |= json_object_set_new(object, "finish",
                                  json_string(spc_finish_name(spc_session_finish(chat->session))));
    failed |= json_object_set_new(object, "rule", json_string(chat->way.rule));
    failed |= json_object_set_new(object, "gamma", spc_cli_json_gamma(chat->way.options.gamma));
    failed |= json_object_set_new(object, "seed", json_integer((json_int_t)chat->seed));
    failed |= json_object_set_new(object, "reused_tokens", json_integer(stats.reused_tokens));
    if (logprobs) {
        failed |= json_object_set_new(
            object, "logprobs",
            spc_cli_logprobs_json(chat->engine, logprobs, count, chat->top_logprobs));
    }
    if (failed == 0 && spc_cli_json_stats(object, &stats, spc_cli_positions(&chat->way, &stats))) {
        return object;
    }
    json_decref(object);
    return NULL;
}

/* How one reply went. */
static void print_reply_stats(const chat_state *chat, const spc_cli_total *reply)
{
    char of[48];

    (void)snprintf(of, sizeof of, "reply %" PRId64 ": ", chat->total.sequences);
    spc_cli_total_print(of, reply, &chat->way, chat->engine);
}

/* Was it stopped before its first token? */
static bool unanswered(const chat_state *chat)
{
    int32_t count;

    (void)spc_session_tokens(chat->session, &count);
    return spc_session_finish(chat->session) == SPC_FINISH_CANCELLED && count == 0;
}

/* Print what the stream has not, count the reply, and make it a message. */
static spc_status take_reply(chat_state *chat, spc_error *err)
{
    spc_finish finish = spc_session_finish(chat->session);
    char *text;
    size_t bytes;
    spc_status status = spc_session_text(chat->session, &text, &bytes, err);

    if (status != SPC_OK) return status;
    if (chat->args->json) {
        spc_cli_put_json(reply_json(chat, text, bytes));
    } else {
        spc_cli_put("\n", 1);
    }
    spc_cli_stream_ends();
    (void)spc_cli_flush();

    spc_stats stats;
    int32_t count;
    const int32_t *tokens = spc_session_tokens(chat->session, &count);
    spc_cli_total reply;

    spc_session_stats(chat->session, &stats);
    spc_cli_total_add(&chat->total, &stats, finish, tokens, count);
    spc_cli_total_init(&reply);
    spc_cli_total_add(&reply, &stats, finish, tokens, count);
    if (chat->args->stats) print_reply_stats(chat, &reply);
    if (unanswered(chat)) {
        tell(chat, "[stopped before the reply began: your message is not kept]\n");
    } else if (finish == SPC_FINISH_CANCELLED) {
        tell(chat, "[stopped]\n");
    }
    if (finish == SPC_FINISH_MAX_TOKENS) tell(chat, "[--max-tokens]\n");
    if (finish == SPC_FINISH_CONTEXT) tell(chat, "[the context is full: /reset]\n");
    return spc_cli_said_add(&chat->said, "assistant", text, bytes, err);
}

/* The reply to the conversation as it stands. */
static spc_status answer(chat_state *chat, spc_error *err)
{
    int32_t *ids = NULL, count;
    spc_status status = conversation_ids(chat, &ids, &count, err);

    if (status == SPC_OK) status = decode(chat, ids, count, err);
    free(ids);
    return status == SPC_OK ? take_reply(chat, err) : status;
}

/* The user's words, which are taken over, and the reply to them.  Nothing is kept of a turn that
 * fails, or that has no reply. */
static spc_status make_turn(chat_state *chat, char *text, size_t bytes, spc_error *err)
{
    int32_t before = chat->said.count;
    spc_status status = spc_cli_said_add(&chat->said, "user", text, bytes, err);

    if (status == SPC_OK) status = answer(chat, err);
    if (status != SPC_OK || unanswered(chat)) spc_cli_said_cut(&chat->said, before);
    return status;
}

/* A conversation in place of the one there is, and the reply to it; if there is none, the old one
 * goes on. */
static spc_status begin_with(chat_state *chat, const json_t *messages, spc_error *err)
{
    spc_cli_said before = chat->said;
    spc_status status = SPC_OK;
    spc_message message;

    chat->said = (spc_cli_said){0};
    for (size_t i = 0; i < json_array_size(messages) && status == SPC_OK; i++) {
        (void)spc_cli_read_message(json_array_get(messages, i), &message);
        status = spc_cli_said_add_copy(&chat->said, &message, err);
    }
    if (status == SPC_OK) status = answer(chat, err);
    if (status != SPC_OK || unanswered(chat)) {
        spc_cli_said_free(&chat->said);
        chat->said = before;
    } else {
        spc_cli_said_free(&before);
    }
    return status;
}

/* ---- what is said -----------------------------------------------------------------------------
 */

/* Do what a command says; *over: it ends the conversation. */
static spc_status obey(chat_state *chat, const char *text, size_t bytes, bool *over, spc_error *err)
{
    spc_cli_command_said command = SPC_CLI_SAID_HELP;
    spc_status status = spc_cli_said_command(text, bytes, &command, err);

    if (status != SPC_OK) return status;
    if (command == SPC_CLI_SAID_HELP) spc_cli_said_help();
    if (command == SPC_CLI_SAID_EXIT) *over = true;
    if (command == SPC_CLI_SAID_RESET) {
        status = begin_conversation(chat, err);
        tell(chat, "(a new conversation)\n");
    }
    return status;
}

static bool terminated(void)
{
    return spc_cli_interrupted == SIGTERM;
}

/* What is wrong with a line of the input, by its number. */
static spc_status in_line(const chat_state *chat, spc_status status, const spc_error *inner,
                          spc_error *err)
{
    return spc_error_set(err, status, "%s: line %" PRId64 ": %s", chat->source.name,
                         chat->source.line, inner->message);
}

/* One line of JSON and the reply to it; *over: there will be no other. */
static spc_status answer_line(chat_state *chat, bool *over, spc_error *err)
{
    spc_cli_prompt line;
    bool got;
    spc_error inner;
    spc_status status = spc_cli_source_next(&chat->source, &line, &got, err);

    *over = !got;
    json_decref(chat->id);
    chat->id = json_incref(line.id);
    chat->turns += got;
    if (got && status == SPC_OK) {
        char *text = line.text;

        chat->own = &line.own;
        status = spc_cli_own_check(&line.own, chat->args->json, &inner);
        if (status == SPC_OK && line.messages) {
            status = begin_with(chat, line.messages, &inner);
        } else if (status == SPC_OK) {
            line.text = NULL;
            status = make_turn(chat, text, line.bytes, &inner);
        }
        chat->own = NULL;
        if (status != SPC_OK) (void)in_line(chat, status, &inner, err);
    }
    spc_cli_prompt_free(&line);
    return status;
}

/* One message as text and what follows from it; *over: there will be no other. */
static spc_status answer_text(chat_state *chat, bool *over, spc_error *err)
{
    char *text;
    size_t bytes;
    bool got;
    spc_error inner;
    spc_status status = spc_cli_said_read(&chat->source, chat->terminal, &text, &bytes, &got, err);

    if (status != SPC_OK) return status;
    if (spc_cli_interrupted) { /* what was being typed is dropped */
        free(text);
        *over = !chat->terminal || terminated();
        if (*over) return SPC_OK;
        tell(chat, "\n(Ctrl-C stops a reply; /exit or Ctrl-D ends)\n");
        return SPC_OK;
    }
    *over = !got;
    if (*over || spc_cli_said_nothing(text, bytes)) {
        free(text);
        return SPC_OK;
    }
    if (text[0] == '/' && !(bytes > 1 && text[1] == '/')) {
        status = obey(chat, text, bytes, over, &inner);
        free(text);
    } else {
        if (text[0] == '/') memmove(text, text + 1, --bytes); /* of two, one is said */
        status = make_turn(chat, text, bytes, &inner);
    }
    return status == SPC_OK ? SPC_OK : in_line(chat, status, &inner, err);
}

static spc_status converse(chat_state *chat, bool *over, spc_error *err)
{
    spc_cli_forget_interrupt();
    if (chat->terminal) {
        spc_cli_catch_interrupts(); /* pressed twice, it must not cost the conversation */
    } else {
        spc_cli_catch_interrupt();
    }
    return chat->args->input ? answer_line(chat, over, err) : answer_text(chat, over, err);
}

/* Tell of a turn that cannot be had where the next may be. */
static void tell_refusal(chat_state *chat, const spc_error *error)
{
    chat->refused++;
    if (chat->args->input && chat->args->json) {
        spc_cli_put_json(spc_cli_refusal(chat->turns - 1, chat->id, error));
    } else {
        (void)spc_cli_fail(error);
    }
}

/* At a terminal, and with --keep-going, a turn that cannot be had is told of, and the next may be;
 * otherwise it is the end. */
static spc_status run_conversation(chat_state *chat, spc_error *err)
{
    bool goes_on = chat->terminal || chat->args->keep_going, over = false;

    while (!over && !terminated()) {
        spc_status status = converse(chat, &over, err);
        bool readable = chat->source.failure == 0 && !(chat->args->input && over);

        if (status != SPC_OK && !(goes_on && readable && spc_cli_of_prompt(status))) return status;
        if (status != SPC_OK) tell_refusal(chat, err);
        if (!spc_cli_flush()) break;
    }
    tell(chat, "\n");
    if (chat->args->input && chat->refused > 0) {
        return spc_error_set(err, SPC_EINPUT, "%" PRId64 " of %" PRId64 " messages have no reply",
                             chat->refused, chat->turns);
    }
    return SPC_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* Does the template take the system message? */
static spc_status check_system(const spc_chat_template *chat, const char *system, spc_error *err)
{
    spc_chat_text text;
    spc_error inner;

    if (!system) return SPC_OK;

    spc_chat_message trial[] = {{SPC_CHAT_SYSTEM, system, strlen(system)}, {SPC_CHAT_USER, ".", 1}};
    spc_status status = spc_chat_render(chat, trial, 2, true, &text, &inner);

    if (status != SPC_OK) return spc_error_set(err, SPC_EUSAGE, "--system: %s", inner.message);
    spc_chat_text_free(&text);
    return SPC_OK;
}

/* What every rank is given. */
static spc_status check_given(const chat_args *a, spc_error *err)
{
    const char *missing = !a->decode.verifier ? "verifier" : !a->decode.drafter ? "drafter" : NULL;

    if (missing) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--%s is missing: give --verifier MODEL and --drafter MODEL "
                             "(or --drafter none), folders of chat models; the pair inside this "
                             "program translates and cannot hold a conversation",
                             missing);
    }
    return SPC_OK;
}

/* What rank 0 can tell before a model is looked for. */
static spc_status check_args(const chat_args *a, spc_error *err)
{
    spc_chat_template chat;
    spc_status status;

    if (a->keep_going && !a->input) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--keep-going is for the lines of --input FILE, and none is given: "
                             "leave it out, or give a file");
    }
    if (a->chat_template && !spc_chat_find(a->chat_template, &chat)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--chat-template: expected one of " SPC_CHAT_NAMES ", found '%.60s'",
                             a->chat_template);
    }
    status = spc_cli_check_logprobs(&a->decode, a->json, "leave them out", err);
    if (status != SPC_OK || !a->chat_template) return status;
    return check_system(&chat, a->system, err);
}

/* The template, found and fit for the tokenizer, and a system message that it takes: before any
 * weights are loaded. */
static spc_status check_models(const spc_engine *engine, void *user, spc_error *err)
{
    chat_state *chat = user;
    const chat_args *a = chat->args;
    spc_status status = spc_engine_chat(engine, a->chat_template, &chat->facts, err);

    if (status == SPC_OK) {
        status = spc_session_check_models(engine, &chat->way.options, err);
    }
    if (status == SPC_OK) {
        status = spc_cli_check_overlap(engine, &a->decode, &chat->way.options, 1, err);
    }
    if (status == SPC_OK && !a->chat_template) {
        status = check_system(&engine->chat, a->system, err);
    }
    if (status != SPC_OK) return status;
    chat->way.options.stop_token = &chat->facts.stop_token;
    chat->way.options.stop_token_count = 1;
    return SPC_OK;
}

static int chat_run(const void *args, const spc_cli_line *line)
{
    chat_state chat = {.args = args};
    const spc_engine_check check = {check_models, &chat};
    const spc_cli_decode *d = &chat.args->decode;
    int interrupted;
    spc_place place;
    spc_error error;

    spc_cli_total_init(&chat.total);

    spc_status status = spc_cli_place(&d->ranks, line, &place, &error);

    if (status == SPC_OK) status = check_given(chat.args, &error);
    if (status != SPC_OK) return spc_cli_fail(&error);
    if (place.rank > 0) return spc_cli_decode_follow(d, &place, 1);
    status = check_args(chat.args, &error);
    if (status == SPC_OK) status = spc_cli_decode_way(d, line, &chat.way, &error);
    if (status == SPC_OK) {
        status = spc_cli_source_open(&chat.source, &line->words, chat.args->input,
                                     spc_cli_read_turn, &error);
    }
    if (status != SPC_OK) return spc_cli_decode_fail(d, &place, 1, &error);
    status = spc_cli_decode_open(d, &place, 1, &check, &chat.engine, &error);
    if (status == SPC_OK) status = begin_conversation(&chat, &error);
    if (status == SPC_OK) {
        chat.terminal = !chat.args->input && isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
        chat.way.options.on_token = on_token;
        if (!chat.args->json) chat.way.options.on_text = on_text;
        spc_cli_catch_term();
        tell(&chat, "A line that ends in \\ goes on in the next; Ctrl-C stops a reply; /help "
                    "lists the commands.\n");
        status = run_conversation(&chat, &error);
    }
    interrupted = (int)spc_cli_interrupted;
    if (!d->quiet && chat.total.sequences > 0)
        spc_cli_total_print("", &chat.total, &chat.way, chat.engine);
    spc_session_close(chat.session);
    spc_engine_close(chat.engine);
    spc_cli_source_close(&chat.source);
    spc_cli_said_free(&chat.said);
    json_decref(chat.id);
    if (status != SPC_OK && !spc_cli_place_ended(&place, status)) return spc_cli_fail(&error);
    return interrupted ? SPC_CLI_SIGNALLED + interrupted : 0;
}

static int chat_wrong(const void *args, const spc_cli_line *line, const spc_error *err)
{
    const chat_args *a = args;

    if (check_given(a, NULL) != SPC_OK) return spc_cli_fail(err); /* more than one thing is */
    return spc_cli_decode_wrong(&a->decode, line, 1, err);
}

const spc_cli_command spc_cli_chat = {
    "chat",
    "",
    "hold a conversation with chat models",
    "Each line of stdin is a message; a line that ends in \\ continues on the next line, and \\\\ "
    "at\n"
    "the end stands for one \\.  Blank lines are ignored.  A message that begins with / is a\n"
    "command: /help lists them, /reset begins a new conversation, /exit (or the end of the input)\n"
    "ends the program; // begins a message with one /.  Replies are streamed to stdout;\n"
    "statistics go to stderr at the end.\n"
    "Ctrl-C during a reply stops it; what there is of it stays in the conversation, and where it\n"
    "has not begun the message does not stay either.  Ctrl-C before a message is complete drops\n"
    "what there is of it, and ends the program (130) only where no terminal is read; there the\n"
    "second Ctrl-C during a reply ends it too.  SIGTERM stops a reply, which is printed as far as\n"
    "it goes, and ends the program (143).\n"
    "A program that drives a conversation gives --input - --json: it writes a line of JSON, and\n"
    "reads a line of JSON, the reply.  A line that has no reply ends the program; with "
    "--keep-going\n"
    "it is answered by an error.",
    0,
    0,
    options,
    sizeof options / sizeof *options,
    sizeof(chat_args),
    chat_init,
    chat_run,
    chat_wrong,
};
