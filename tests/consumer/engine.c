/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - a translation in the fewest calls: the example of the README. */
#include <spc/spc.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    const char *prompt = "<s><2de>The children are playing in the garden.<sep>";
    spc_engine_options engine_options;
    spc_session_options session_options;
    spc_engine *engine = NULL;
    spc_session *session = NULL;
    spc_error error = {SPC_OK, ""};
    int32_t *ids = NULL, count;
    char *text = NULL;

    spc_engine_options_init(&engine_options); /* the embedded translation pair */
    spc_session_options_init(&session_options);
    session_options.rule = "token-v3:alpha=0.3";
    session_options.temperature = 0.0f;
    if (spc_engine_open(&engine_options, &engine, &error) ||
        spc_engine_encode(engine, prompt, strlen(prompt), false, &ids, &count, &error) ||
        spc_session_open(engine, &session_options, ids, count, &session, &error) ||
        spc_session_run(session, &error) || spc_session_text(session, &text, NULL, &error)) {
        fprintf(stderr, "%s\n", error.message);
    } else {
        printf("%s\n", text);
    }
    free(text);
    free(ids);
    spc_session_close(session);
    spc_engine_close(engine);
    return error.status == SPC_OK ? 0 : 1;
}
