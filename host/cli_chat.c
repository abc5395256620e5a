/* SPDX-License-Identifier: Apache-2.0 */
/* cli_chat.c - spc chat: a conversation, from a terminal or line by line from a pipe.
 *
 * What the models read is always the chat template's text of the whole conversation; the session
 * runs only what is new of it (spc_session_restart). */
#include "cli_decode.h"
#include "cli_said.h"
#include "session.h"

#include "weights/chat.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- options --------------------------------------------------------------------------------- */

typedef struct {
    spc_cli_decode decode;
    const char *system, *chat_template;
    bool json, stats;
} chat_args;

static const spc_cli_option options[] = {
    {"system", "TEXT", "the system message; unless given, the template's own, if it has one",
     SPC_CLI_TEXT, offsetof(chat_args, system), 0, 0},
    {"chat-template", "NAME",
     "one of chatml, deepseek-r1, deepseek-r1-old, gemma2, gemma3, llama2, llama3,\n"
     "llama3.1, mistral-v1, mistral-v1-old, mistral-v3, mistral-nemo, qwen2, qwen2.5,\n"
     "qwen3, qwen3-no-thinking, smollm2; default: the verifier's own",
     SPC_CLI_TEXT, offsetof(chat_args, chat_template), 0, 0},
    SPC_CLI_DECODE_OPTIONS(chat_args),
    SPC_CLI_DECODE_ROW(chat_args, "seed", "N",
                       "of the conversation; the same replies again take a fixed --gamma, too",
                       SEED, seed, 0, 0),
    {"json", NULL, "one JSON object per reply: text, ids, counters", SPC_CLI_FLAG,
     offsetof(chat_args, json), 0, 0},
    {"stats", NULL, "a line of statistics on stderr after every reply", SPC_CLI_FLAG,
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
    bool terminal;        /* somebody is typing */
    spc_message *message; /* [count], their texts owned */
    int32_t count, capacity;
    spc_session *session; /* NULL before the first reply */
    spc_cli_total total;
} chat_state;

/* For whoever sits at the terminal. */
static void tell(const chat_state *chat, const char *text)
{
    spc_cli_said_tell(chat->terminal, text);
}

/* ---- the conversation ------------------------------------------------------------------------ */

/* Add a message; takes its text over, also when it fails. */
static spc_status add_message(chat_state *chat, const char *role, char *text, size_t bytes,
                              spc_error *err)
{
    if (chat->count == chat->capacity) {
        int32_t capacity = chat->capacity ? chat->capacity * 2 : 16;
        spc_message *grown = chat->capacity <= INT32_MAX / 2
                                 ? realloc(chat->message, (size_t)capacity * sizeof *grown)
                                 : NULL;

        if (!grown) {
            free(text);
            return spc_error_set(err, SPC_ENOMEM, "no memory for message %d", (int)chat->count + 1);
        }
        chat->message = grown;
        chat->capacity = capacity;
    }
    chat->message[chat->count++] = (spc_message){role, text, bytes};
    return SPC_OK;
}

/* Forget all messages behind the first `count`. */
static void cut_messages(chat_state *chat, int32_t count)
{
    while (chat->count > count) {
        chat->count--;
        free((void *)(uintptr_t)chat->message[chat->count].content);
    }
}

/* The system message, or nothing. */
static spc_status begin_conversation(chat_state *chat, spc_error *err)
{
    const char *system = chat->args->system;
    char *copy;

    cut_messages(chat, 0);
    if (!system) return SPC_OK;
    copy = malloc(strlen(system) + 1);
    if (!copy) return spc_error_set(err, SPC_ENOMEM, "no memory for the system message");
    memcpy(copy, system, strlen(system) + 1);
    return add_message(chat, "system", copy, strlen(system), err);
}

static spc_status conversation_ids(const chat_state *chat, int32_t **ids, int32_t *count,
                                   spc_error *err)
{
    int32_t context = chat->engine->context;
    spc_status status = spc_engine_encode_chat(chat->engine, chat->args->chat_template,
                                               chat->message, chat->count, true, ids, count, err);

    if (status != SPC_OK || *count < context) return status;
    free(*ids);
    *ids = NULL;
    return spc_error_set(err, SPC_EFULL,
                         "the conversation has reached %d tokens, and a context holds %d: begin a "
                         "new one (/reset), or use a larger --context if the models allow it",
                         (int)*count, (int)context);
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
    spc_cli_put(text, bytes);
    (void)spc_cli_flush();
}

/* Decode until the reply ends, by itself or by Ctrl-C. */
static spc_status decode(chat_state *chat, const int32_t *ids, int32_t count, spc_error *err)
{
    spc_status status;

    if (chat->session) {
        status = spc_session_restart(chat->session, ids, count, err);
    } else {
        status =
            spc_session_open(chat->engine, &chat->way.options, ids, count, &chat->session, err);
    }
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
    const int32_t *tokens = spc_session_tokens(chat->session, &count);
    spc_stats stats;
    json_t *object = json_object();

    spc_session_stats(chat->session, &stats);

    int failed = json_object_set_new(object, "index", json_integer(chat->total.sequences));

    failed |= json_object_set_new(object, "text", json_stringn(text, bytes));
    failed |= json_object_set_new(object, "ids", spc_cli_json_ids(tokens, count));
    failed |= json_object_set_new(object, "finish",
                                  json_string(spc_finish_name(spc_session_finish(chat->session))));
    failed |= json_object_set_new(object, "rule", json_string(chat->way.rule));
    failed |= json_object_set_new(object, "gamma", spc_cli_json_gamma(chat->way.options.gamma));
    failed |=
        json_object_set_new(object, "seed", json_integer((json_int_t)chat->args->decode.seed));
    failed |= json_object_set_new(object, "reused_tokens", json_integer(stats.reused_tokens));
    if (failed == 0 && spc_cli_json_stats(object, &stats, spc_cli_positions(&chat->way, &stats))) {
        return object;
    }
    json_decref(object);
    return NULL;
}

/* How one reply went. */
static void print_reply_stats(const chat_state *chat, const spc_cli_total *reply)
{
    char of[96];

    (void)snprintf(of, sizeof of,
                   "reply %" PRId64 ", prompt of %" PRId64 " token%s, %" PRId64 " of them reused: ",
                   chat->total.sequences, reply->stats.prompt_tokens,
                   spc_cli_plural(reply->stats.prompt_tokens), reply->stats.reused_tokens);
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
    return add_message(chat, "assistant", text, bytes, err);
}

/* The user's words, and the reply to them.  Nothing is kept of a turn that fails, or that has no
 * reply. */
static spc_status make_turn(chat_state *chat, char *text, size_t bytes, spc_error *err)
{
    int32_t before = chat->count, *ids = NULL, count;
    spc_status status = add_message(chat, "user", text, bytes, err);

    if (status == SPC_OK) status = conversation_ids(chat, &ids, &count, err);
    if (status == SPC_OK) status = decode(chat, ids, count, err);
    free(ids);
    if (status == SPC_OK) status = take_reply(chat, err);
    if (status != SPC_OK || unanswered(chat)) cut_messages(chat, before);
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

/* One message and what follows from it; *over: there will be no other. */
static spc_status converse(chat_state *chat, bool *over, spc_error *err)
{
    char *text;
    size_t bytes;
    bool got;
    spc_error inner;

    spc_cli_forget_interrupt();
    if (chat->terminal) {
        spc_cli_catch_interrupts(); /* pressed twice, it must not cost the conversation */
    } else {
        spc_cli_catch_interrupt();
    }

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
    if (status == SPC_OK) return SPC_OK;
    return spc_error_set(err, status, "%s: line %" PRId64 ": %s", chat->source.name,
                         chat->source.line, inner.message);
}

/* At a terminal a turn that cannot be had is told of, and the next may be; otherwise it is the end.
 */
static spc_status run_conversation(chat_state *chat, spc_error *err)
{
    bool over = false;

    while (!over && !terminated()) {
        spc_status status = converse(chat, &over, err);
        bool input = status == SPC_EINPUT || status == SPC_EFULL;

        if (status != SPC_OK && (!chat->terminal || !input)) return status;
        if (status != SPC_OK) (void)spc_cli_fail(err);
        if (!spc_cli_flush()) break;
    }
    tell(chat, "\n");
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

/* What can be told before a model is looked for. */
static spc_status check_args(const chat_args *a, spc_error *err)
{
    spc_chat_template chat;
    const char *missing = !a->decode.verifier ? "verifier" : !a->decode.drafter ? "drafter" : NULL;

    if (missing) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--%s is missing: give --verifier MODEL and --drafter MODEL "
                             "(or --drafter none), folders of chat models; the pair inside this "
                             "program translates and cannot hold a conversation",
                             missing);
    }
    if (!a->chat_template) return SPC_OK;
    if (!spc_chat_find(a->chat_template, &chat)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--chat-template: expected one of " SPC_CHAT_NAMES ", found '%.60s'",
                             a->chat_template);
    }
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

    spc_status status = check_args(chat.args, &error);

    if (status == SPC_OK) status = spc_cli_place(&d->ranks, line, &place, &error);
    if (status != SPC_OK) return spc_cli_fail(&error);
    if (place.rank > 0) return spc_cli_decode_follow(d, &place, 1);
    status = spc_cli_decode_way(d, line, &chat.way, &error);
    if (status == SPC_OK) status = spc_cli_source_open(&chat.source, &line->words, NULL, &error);
    if (status != SPC_OK) return spc_cli_decode_fail(d, &place, 1, &error);
    status = spc_cli_decode_open(d, &place, 1, &check, &chat.engine, &error);
    if (status == SPC_OK) status = begin_conversation(&chat, &error);
    if (status == SPC_OK) {
        chat.terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
        chat.way.options.on_token = on_token;
        if (!chat.args->json) chat.way.options.on_text = on_text;
        /* of ranks that are processes it is how spc launch ends those whose group has failed */
        if (place.world == 1) spc_cli_catch_term();
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
    cut_messages(&chat, 0);
    free(chat.message);
    if (status != SPC_OK) return spc_cli_fail(&error);
    return interrupted ? SPC_CLI_SIGNALLED + interrupted : 0;
}

const spc_cli_command spc_cli_chat = {
    "chat",
    "",
    "hold a conversation with chat models",
    "Each line of stdin is a message; a line that ends in \\ continues on the next line, and \\\\ "
    "at\n"
    "the end stands for one \\.  Blank lines are ignored.  A message that begins with / is a\n"
    "command: /help lists them, /reset begins a new conversation, /exit (or the end of the input)\n"
    "ends the program; // begins a message with one /.  Replies are streamed to stdout; one line "
    "of\n"
    "statistics goes to stderr at the end.\n"
    "Ctrl-C during a reply stops it; what there is of it stays in the conversation, and where it\n"
    "has not begun the message does not stay either.  Ctrl-C before a message is complete drops\n"
    "what there is of it, and ends the program (130) only where no terminal is read; there the\n"
    "second Ctrl-C during a reply ends it too.  SIGTERM stops a reply, which is printed as far as\n"
    "it goes, and ends the program (143).",
    0,
    0,
    options,
    sizeof options / sizeof *options,
    sizeof(chat_args),
    chat_init,
    chat_run,
};
