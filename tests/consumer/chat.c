/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - one question to a chat model: chat VERIFIER DRAFTER QUESTION
 *
 * Whatever the question says is text: it cannot end its turn and speak as somebody else. */
#include <spc/spc.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print(void *user, const char *text, size_t bytes)
{
    (void)user;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    spc_engine_options engine_options;
    spc_session_options session_options;
    spc_engine *engine = NULL;
    spc_session *session = NULL;
    spc_error error = {SPC_OK, ""};
    spc_message question = {"user", NULL, 0};
    spc_chat_facts chat;
    int32_t *ids = NULL, count;

    if (argc != 4) {
        fprintf(stderr, "usage: chat VERIFIER DRAFTER QUESTION\n");
        return 2;
    }
    question.content = argv[3];
    question.bytes = strlen(argv[3]);
    spc_engine_options_init(&engine_options);
    engine_options.verifier = argv[1];
    engine_options.drafter = argv[2];
    spc_session_options_init(&session_options);
    session_options.rule = "token-v3:alpha=0.3";
    session_options.temperature = 0.0f;
    session_options.max_tokens = 200;
    session_options.stop_token = &chat.stop_token; /* ends the assistant's turn */
    session_options.stop_token_count = 1;
    session_options.on_text = print;
    if (spc_engine_open(&engine_options, &engine, &error) ||
        spc_engine_chat(engine, NULL, &chat, &error) || /* the verifier's own template */
        spc_engine_encode_chat(engine, NULL, &question, 1, true, &ids, &count, &error) ||
        spc_session_open(engine, &session_options, ids, count, &session, &error) ||
        spc_session_run(session, &error)) {
        fprintf(stderr, "%s\n", error.message);
    } else {
        printf("\n");
    }
    free(ids);
    spc_session_close(session);
    spc_engine_close(engine);
    return error.status == SPC_OK ? 0 : 1;
}
