/* SPDX-License-Identifier: Apache-2.0 */
/* chat_pair.h - a pair that spc chat can talk with: the demo pair, whose prompt (<s> <2de> sentence
 * <sep>) becomes that of Mistral Nemo (<s> [INST] message [/INST]) by renaming two tokens. */
#ifndef SPC_TESTS_CHAT_PAIR_H
#define SPC_TESTS_CHAT_PAIR_H

#include "folder.h"
#include "results.h"

typedef struct {
    folder verifier, drafter;
} chat_pair;

/* One of the demo models with room for long replies.  Its own end of sequence is <pad>, so that
 * only the template's ends a turn. */
static inline folder open_model(const char *demo)
{
    static const char *const config[] = {"512", "4000", "\"eos_token_id\": 2",
                                         "\"eos_token_id\": 0", NULL};
    static const char *const tokens[] = {"<2de>", "[INST]", "<sep>", "[/INST]", NULL};
    folder f = folder_open();
    char from[FOLDER_PATH];

    (void)snprintf(from, sizeof from, SPC_SOURCE_DIR "/weights/demo/%s/model.safetensors", demo);
    folder_copy(&f, from, "model.safetensors", SIZE_MAX);
    (void)snprintf(from, sizeof from, SPC_SOURCE_DIR "/weights/demo/%s/config.json", demo);
    folder_copy_changed(&f, from, "config.json", config);
    (void)snprintf(from, sizeof from, SPC_SOURCE_DIR "/weights/demo/%s/tokenizer.json", demo);
    folder_copy_changed(&f, from, "tokenizer.json", tokens);
    folder_copy(&f, SPC_TEST_VECTORS "/chat/mistral-nemo.jinja", "chat_template.jinja", SIZE_MAX);
    return f;
}

static inline chat_pair open_pair(void)
{
    return (chat_pair){open_model("verifier"), open_model("drafter")};
}

static inline void close_pair(const chat_pair *p)
{
    folder_close(&p->verifier);
    folder_close(&p->drafter);
}

#define CHAT(p) "chat", "--verifier", (p)->verifier.path, "--drafter", (p)->drafter.path

#endif
